"""Tasks on colour video with the networks of `common.models.vision`: detection, tracking, segmentation."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.metrics.detection import Detections, clip_f1, iou_matrix
from common.metrics.segmentation import foreground_agreement
from oneadapt.api import Saliency
from oneadapt.inputs import FloatArray
from oneadapt.tasks import NEAR, SHARPNESS, THRESHOLD, soft_count

LEAST_REGION_SCORE = 0.03
"""Candidates from this score on are proposals of regions (DDS, EAAR)."""


def _frames(x_NHWC: FloatArray) -> npt.NDArray[np.uint8]:
    return np.rint(x_NHWC * 255).clip(0, 255).astype(np.uint8)


def _images(x_NHWC: FloatArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x_NHWC.transpose(0, 3, 1, 2)))


def _saliency(score: Tensor, images: Tensor, sharpness: float, theta: float) -> Saliency:
    u = soft_count(score, sharpness, theta)
    (gradient,) = torch.autograd.grad(u, images)
    near = int(((score.detach() - theta).abs() <= NEAR).sum())
    return Saliency(float(u.detach()), near, gradient[0].abs().sum(0).numpy())


@dataclasses.dataclass(frozen=True, eq=False)
class BoxDetection:
    """Objects by their boxes; the accuracy is F1 at IoU 0.5, mean over frames.

    Attributes:
        detector: a `common.models.vision.interface.Detector`; its own threshold is the theta of the utility.
        sha256: of its weights, or another name of what they are.
        block: see `oneadapt.api.Task`.
        sharpness: w of the soft count.
    """

    detector: Any
    sha256: str
    block: tuple[int, int] = (16, 16)
    sharpness: float = SHARPNESS

    def infer(self, x_NHWC: FloatArray) -> list[Detections]:
        """Objects of every frame."""
        found: list[Detections] = self.detector.detect(_frames(x_NHWC))
        return found

    def scores(self, images_B3HW: Tensor) -> Tensor:
        """Scores of all candidates that may count, differentiable."""
        _, scores_BNK = self.detector.candidates(images_B3HW)
        allowed = self.detector.select(scores_BNK.detach(), images_B3HW)
        return scores_BNK * allowed

    def differentiable_utility(self, x_1CHW: Tensor) -> Tensor:
        """See `oneadapt.api.Task.differentiable_utility`."""
        return soft_count(self.scores(x_1CHW), self.sharpness, float(self.detector.threshold))

    def saliency(self, x_HWC: FloatArray) -> Saliency:
        """See `oneadapt.api.Task.saliency`."""
        images = _images(x_HWC[None]).requires_grad_(True)
        return _saliency(self.scores(images), images, self.sharpness, float(self.detector.threshold))

    def regions(self, x_NHWC: FloatArray) -> list[list[tuple[npt.NDArray[np.float32], float]]]:
        """Proposals of every frame: (box as x0, y0, x1, y1 in pixels, score), also weak ones."""
        found = self.detector.detect(_frames(x_NHWC), LEAST_REGION_SCORE)
        return [list(zip(frame.boxes, map(float, frame.scores), strict=True)) for frame in found]

    def accuracy(self, results: Sequence[Detections], truth: Sequence[Detections]) -> float:
        """Mean F1 over frames."""
        return clip_f1(truth, results)


@dataclasses.dataclass(frozen=True, eq=False)
class BoxTracking(BoxDetection):
    """The same objects followed from frame to frame; the accuracy is F1 of links between neighbouring frames."""

    least_elements: ClassVar[int] = 2

    def accuracy(self, results: Sequence[Detections], truth: Sequence[Detections]) -> float:
        """F1 of links over the interval: a link is right if both its ends lie on the ends of a true link."""
        hits = num_found = num_true = 0
        for t in range(len(truth) - 1):
            found, true = links(results[t], results[t + 1]), links(truth[t], truth[t + 1])
            start, end = pairs(results[t], truth[t]), pairs(results[t + 1], truth[t + 1])
            known = set(true)
            hits += sum((start.get(a, -1), end.get(b, -1)) in known for a, b in found)
            num_found += len(found)
            num_true += len(true)
        return 2 * hits / (num_found + num_true) if num_found + num_true else 1.0


def pairs(a: Detections, b: Detections, least_iou: float = 0.5) -> dict[int, int]:
    """One-to-one pairs of overlapping objects of the same class, largest overlap first: index in a -> index in b."""
    if not len(a) or not len(b):
        return {}
    overlap = np.where(a.classes[:, None] == b.classes[None, :], iou_matrix(a.boxes, b.boxes), 0.0)
    found: dict[int, int] = {}
    taken: set[int] = set()
    for place in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = (int(index) for index in np.unravel_index(place, overlap.shape))
        if overlap[i, j] < least_iou:
            break
        if i not in found and j not in taken:
            found[i] = j
            taken.add(j)
    return found


def links(a: Detections, b: Detections) -> list[tuple[int, int]]:
    """Which object of one frame is which of the next one: a tracker by overlap (IoU at least 0.3)."""
    return sorted(pairs(a, b, 0.3).items())


@dataclasses.dataclass(frozen=True, eq=False)
class VideoSegmentation:
    """The class of every pixel; accuracy over pixels that are not background in both results.

    Attributes:
        segmenter: a `common.models.vision.interface.Segmenter`.
        sha256, block, sharpness: as `BoxDetection`.
    """

    segmenter: Any
    sha256: str
    block: tuple[int, int] = (16, 16)
    sharpness: float = SHARPNESS

    def infer(self, x_NHWC: FloatArray) -> list[npt.NDArray[np.uint8]]:
        """A map of classes for every frame."""
        return list(self.segmenter.segment(_frames(x_NHWC)))

    def scores(self, images_13HW: Tensor) -> Tensor:
        """A pixel's score, differentiable: its highest probability of a class that is not background."""
        probability = self.segmenter.logits(images_13HW).softmax(1)[0]
        background = self.segmenter.background
        classes = [k for k in range(len(probability)) if k != background]
        highest: Tensor = probability[classes].amax(0)
        return highest

    def differentiable_utility(self, x_1CHW: Tensor) -> Tensor:
        """See `oneadapt.api.Task.differentiable_utility`."""
        return soft_count(self.scores(x_1CHW), self.sharpness, THRESHOLD)

    def saliency(self, x_HWC: FloatArray) -> Saliency:
        """See `oneadapt.api.Task.saliency`."""
        images = _images(x_HWC[None]).requires_grad_(True)
        return _saliency(self.scores(images), images, self.sharpness, THRESHOLD)

    def accuracy(self, results: Sequence[Any], truth: Sequence[Any]) -> float:
        """Mean agreement over frames."""
        background = self.segmenter.background
        return float(
            np.mean([foreground_agreement(b, a, background or 0) for a, b in zip(results, truth, strict=True)])
        )
