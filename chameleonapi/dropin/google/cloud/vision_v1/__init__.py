"""google.cloud.vision, by the drop-in client: see chameleonapi_client.py."""

import types as _types

from chameleonapi_client import (
    AnnotateImageRequest,
    Feature,
    Image,
    ImageAnnotatorClient,
    ImageContext,
    ImageSource,
    Likelihood,
    Message,
)

BatchAnnotateImagesRequest = AnnotateImageResponse = EntityAnnotation = Message
types = _types.SimpleNamespace(
    Image=Image,
    Feature=Feature,
    ImageSource=ImageSource,
    ImageContext=ImageContext,
    AnnotateImageRequest=AnnotateImageRequest,
    BatchAnnotateImagesRequest=Message,
)
enums = _types.SimpleNamespace(Feature=Feature, Likelihood=Likelihood)

__all__ = [
    "AnnotateImageRequest",
    "AnnotateImageResponse",
    "BatchAnnotateImagesRequest",
    "EntityAnnotation",
    "Feature",
    "Image",
    "ImageAnnotatorClient",
    "ImageContext",
    "ImageSource",
    "Likelihood",
    "enums",
    "types",
]
