"""Detectors and segmentation networks of transformers, from the Hugging Face hub or its local cache, by name."""

# B images, N candidates (queries), K classes

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from common.data.hub import unreachable
from common.errors import ConfigError, DataUnavailable
from common.models.vision.interface import Detector, Segmenter

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def fetch(auto_class: str, repo: str) -> Any:
    """A model of the hub, frozen.

    Raises:
        DataUnavailable: the hub cannot be reached, or has no such model.
    """
    from huggingface_hub import constants  # heavy; reads the environment, which is its own business

    advice = "Use the bundled model 'street', or set HF_HUB_OFFLINE=1 if it is in the hub cache."
    if not constants.HF_HUB_OFFLINE:
        reason = unreachable(constants.ENDPOINT)
        if reason:
            raise DataUnavailable(f"model {repo!r}: {constants.ENDPOINT} cannot be reached ({reason}). {advice}")
    import transformers

    try:
        model = getattr(transformers, auto_class).from_pretrained(repo)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise DataUnavailable(f"model {repo!r} cannot be fetched from the hub ({first}). {advice}") from error
    return frozen(model)


def frozen(model: Any) -> Any:
    """The model in evaluation mode, without gradients of its parameters."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


class HubDetector(Detector):
    """A detector of transformers with queries: RT-DETR, YOLOS and their kind.

    Args:
        model: called with `pixel_values`, gives `logits` (B, N, K or K + 1) and `pred_boxes` (B, N, 4), relative.
        name, threshold: see `Detector`.
        size: (height, width) to which images are scaled, or None for their own.
        normalise: subtract ImageNet's mean and divide by its deviation.
        has_no_object: the last class means that the query found nothing (softmax); else each class is judged by itself (sigmoid).
    """

    def __init__(
        self,
        model: Any,
        name: str,
        threshold: float,
        size: tuple[int, int] | None,
        normalise: bool,
        has_no_object: bool,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold={threshold} must lie in [0, 1].")
        self.model, self.name, self.threshold = model, name, threshold
        self._size, self._normalise, self._has_no_object = size, normalise, has_no_object
        labels = model.config.id2label
        self.class_names = tuple(str(labels[index]) for index in sorted(labels))

    def candidates(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """See `Detector.candidates`."""
        height, width = images_B3HW.shape[2:]
        out = self.model(pixel_values=_prepared(images_B3HW, self._size, self._normalise))
        centre, half = out.pred_boxes[..., :2], out.pred_boxes[..., 2:] / 2
        boxes = torch.cat([centre - half, centre + half], -1) * out.pred_boxes.new_tensor(
            [width, height, width, height]
        )
        scores = out.logits.softmax(-1)[..., :-1] if self._has_no_object else out.logits.sigmoid()
        return boxes, scores


class HubSegmenter(Segmenter):
    """A segmentation network of transformers, such as Segformer.

    Args:
        model: called with `pixel_values`, gives `logits` (B, K, h, w).
        name: see `Segmenter`.
    """

    background = None

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name
        labels = model.config.id2label
        self.class_names = tuple(str(labels[index]) for index in sorted(labels))

    def logits(self, images_B3HW: Tensor) -> Tensor:
        """See `Segmenter.logits`."""
        coarse = self.model(pixel_values=_prepared(images_B3HW, None, True)).logits
        return functional.interpolate(coarse, size=images_B3HW.shape[2:], mode="bilinear", align_corners=False)


def _prepared(images_B3HW: Tensor, size: tuple[int, int] | None, normalise: bool) -> Tensor:
    if size is not None and tuple(images_B3HW.shape[2:]) != size:
        images_B3HW = functional.interpolate(
            images_B3HW, size=size, mode="bilinear", align_corners=False, antialias=True
        )
    if normalise:
        mean, std = (images_B3HW.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        images_B3HW = (images_B3HW - mean) / std
    return images_B3HW
