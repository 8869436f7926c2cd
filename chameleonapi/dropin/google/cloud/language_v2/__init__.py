"""google.cloud.language, by the drop-in client: see chameleonapi_client.py."""

import types as _types

from chameleonapi_client import Document, EncodingType, LanguageServiceClient, Message

ClassifyTextRequest = AnalyzeSentimentRequest = AnalyzeEntitiesRequest = Message
types = _types.SimpleNamespace(Document=Document, ClassifyTextRequest=Message, EncodingType=EncodingType)
enums = _types.SimpleNamespace(Document=Document, EncodingType=EncodingType)

__all__ = [
    "AnalyzeEntitiesRequest",
    "AnalyzeSentimentRequest",
    "ClassifyTextRequest",
    "Document",
    "EncodingType",
    "LanguageServiceClient",
    "enums",
    "types",
]
