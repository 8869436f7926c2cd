"""google.cloud.vision_v1.enums, by the drop-in client."""

from chameleonapi_client import Feature, Likelihood

__all__ = ["Feature", "Likelihood"]
