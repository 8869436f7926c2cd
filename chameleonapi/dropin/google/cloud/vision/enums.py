"""google.cloud.vision.enums, by the drop-in client."""

from chameleonapi_client import Feature, Likelihood

__all__ = ["Feature", "Likelihood"]
