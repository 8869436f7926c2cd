"""What every detector and segmentation network offers, whatever it is made of.

Both are frozen: parameters take no gradients, batch statistics stay as trained. Gradients reach the images.
"""

# B images, N candidates, K classes, H rows, W columns

import abc
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from common.errors import ConfigError
from common.metrics.detection import Detections, non_maximum_suppression

_BATCH = 8
_MOST_CANDIDATES = 400


def images_from(frames: np.ndarray) -> Tensor:
    """(N, 3, H, W) float32 in [0, 1] from (N, H, W, 3) uint8.

    Raises:
        ConfigError: another shape or type.
    """
    if not isinstance(frames, np.ndarray) or frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        shape = getattr(frames, "shape", type(frames).__name__)
        raise ConfigError(f"frames of {shape}: give (N, H, W, 3) uint8 RGB.")
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


class Detector(abc.ABC):
    """Finds objects.

    Attributes:
        name: of the detector, as in `load_detector`.
        class_names: K names; class k of all outputs is `class_names[k]`.
        threshold: score from which a candidate counts, if the caller names no other.
        suppression_iou: overlap above which the weaker of two candidates of one class is dropped.
    """

    name: str
    class_names: tuple[str, ...]
    threshold: float
    suppression_iou: float = 0.5

    @abc.abstractmethod
    def candidates(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """All places where an object might be, before any selection. Differentiable with respect to the images.

        Returns:
            Boxes (B, N, 4) as x0, y0, x1, y1 in pixels of the images, and scores (B, N, K) in [0, 1].
        """

    def select(self, scores_BNK: Tensor, images_B3HW: Tensor) -> Tensor:
        """Which candidates may count at all, (B, N, K) bool; all, unless a detector has a rule of its own."""
        return torch.ones_like(scores_BNK, dtype=torch.bool)

    def detect(self, frames: np.ndarray, threshold: float | None = None) -> list[Detections]:
        """Objects in each frame, highest score first, after non-maximum suppression within classes.

        Args:
            frames: (N, H, W, 3) uint8 RGB.
            threshold: least score, in [0, 1]; None: the detector's own.

        Raises:
            ConfigError: frames of another shape or type, or a threshold outside [0, 1].
        """
        least = self.threshold if threshold is None else threshold
        if not 0 <= least <= 1:
            raise ConfigError(f"threshold={threshold} must lie in [0, 1].")
        images_from(frames[:0] if isinstance(frames, np.ndarray) and frames.ndim else frames)  # checks
        found: list[Detections] = []
        with torch.no_grad():
            for start in range(0, len(frames), _BATCH):
                images = images_from(frames[start : start + _BATCH])
                boxes_BN4, scores_BNK = self.candidates(images)
                scores_BNK = scores_BNK.masked_fill(~self.select(scores_BNK, images), 0.0)
                size = images.shape[2:]
                found += [self._one(b, s, least, size) for b, s in zip(boxes_BN4, scores_BNK, strict=True)]
        return found

    def _one(self, boxes_N4: Tensor, scores_NK: Tensor, least: float, size: Sequence[int]) -> Detections:
        place, label = (scores_NK >= max(least, 1e-6)).nonzero(as_tuple=True)
        score = scores_NK[place, label]
        order = score.argsort(descending=True, stable=True)[:_MOST_CANDIDATES]
        place, label, score = place[order], label[order], score[order]
        boxes = boxes_N4[place].numpy().copy()
        boxes[:, 0::2] = boxes[:, 0::2].clip(0, size[1])
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, size[0])
        kept = non_maximum_suppression(boxes, score.numpy(), self.suppression_iou, label.numpy())
        return Detections(boxes[kept], score.numpy()[kept], label.numpy()[kept])


class Segmenter(abc.ABC):
    """Gives each pixel a class.

    Attributes:
        name: of the network, as in `load_segmenter`.
        class_names: K names.
        background: the class that is none of the others, or None if there is no such class.
    """

    name: str
    class_names: tuple[str, ...]
    background: int | None = 0

    @abc.abstractmethod
    def logits(self, images_B3HW: Tensor) -> Tensor:
        """(B, K, H, W) unnormalised log-probabilities, differentiable with respect to the images."""

    def segment(self, frames: np.ndarray) -> np.ndarray:
        """The most likely class of each pixel, (N, H, W) uint8.

        Raises:
            ConfigError: frames of another shape or type.
        """
        images_from(frames[:0] if isinstance(frames, np.ndarray) and frames.ndim else frames)  # checks
        maps = [np.zeros((0, *frames.shape[1:3]), np.uint8)]
        with torch.no_grad():
            for start in range(0, len(frames), _BATCH):
                maps.append(self.logits(images_from(frames[start : start + _BATCH])).argmax(1).to(torch.uint8).numpy())
        return np.concatenate(maps)


def pad_to_multiple(images_B3HW: Tensor, multiple: int) -> Tensor:
    """Replicate the last row and column until both sides are multiples; what was there keeps its place."""
    height, width = images_B3HW.shape[2:]
    down, right = -height % multiple, -width % multiple
    if not down and not right:
        return images_B3HW
    return torch.nn.functional.pad(images_B3HW, (0, right, 0, down), mode="replicate")
