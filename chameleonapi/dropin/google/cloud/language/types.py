"""google.cloud.language.types, by the drop-in client."""

from chameleonapi_client import Document, EncodingType

__all__ = ["Document", "EncodingType"]
