"""google.cloud.language_v1, by the drop-in client: the same names as google.cloud.language."""

from google.cloud.language import *  # noqa: F403
from google.cloud.language import __all__ as __all__
