"""google.cloud.vision.types, by the drop-in client."""

from chameleonapi_client import AnnotateImageRequest, Feature, Image, ImageContext, ImageSource

__all__ = ["AnnotateImageRequest", "Feature", "Image", "ImageContext", "ImageSource"]
