"""google.cloud.language.enums, by the drop-in client."""

from chameleonapi_client import Document, EncodingType

__all__ = ["Document", "EncodingType"]
