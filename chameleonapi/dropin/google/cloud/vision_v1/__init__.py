"""google.cloud.vision_v1, by the drop-in client: the same names as google.cloud.vision."""

from google.cloud.vision import *  # noqa: F403
from google.cloud.vision import __all__ as __all__
