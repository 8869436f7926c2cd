"""google.cloud.language_v2.enums, by the drop-in client."""

from chameleonapi_client import Document, EncodingType

__all__ = ["Document", "EncodingType"]
