"""The server's DNN as AccMPEG sees it: outputs, accuracy against its own output, differentiable stand-ins for accuracy.

    frames -> run -> outputs -> accuracy(outputs, truth)             what is reported
    images -> differentiable scores -> accuracy_gradient             what AccModel learns and the oracle uses

Truth is the DNN's own output on the video at high quality (`Reference`), as in the paper, not human labels.

Shapes: B images, N candidates of a detector, K classes, T truths, H and W pixels, R and C macroblocks.
"""

import abc
import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from accmpeg import accgrad
from accmpeg.accgrad import Score, Target
from accmpeg.api import Frames
from accmpeg.assignment import Mask, boxes_to_mask
from accmpeg.loop import encode_chunk
from common.codecs.maps import MACROBLOCK
from common.errors import ConfigError
from common.metrics.detection import Detections, iou_matrix, match, non_maximum_suppression
from common.metrics.segmentation import foreground_agreement

Boxes = npt.NDArray[np.floating]

REFERENCE_QP = 30
MATCH_IOU = 0.5
_SUPPRESSED_IOU = 0.45
_STEEPNESS = 20.0  # of the sigmoid that stands for "score above threshold"
_BATCH = 8


def images_of(frames: Frames) -> Tensor:
    """Frames (N, H, W, 3), uint8, as images (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def decoded_at(frames: Frames, qp: int, fps: float = 30.0) -> Frames:
    """The frames as they come out of the decoder when all of them are coded at one quantiser, as one GOP."""
    from common.codecs import decode

    return decode(encode_chunk(frames, qp, fps=fps))


class Dnn(abc.ABC):
    """A server DNN.

    Attributes:
        name: identifies it in results and in names of weights.
        task: "detection" or "segmentation".
        reference_qp: quantiser of the video whose output is the truth.
        weights_sha256: of its weights, where known; "" otherwise.
    """

    name: str
    task: str
    weights_sha256: str = ""
    reference_qp: int = REFERENCE_QP

    @abc.abstractmethod
    def run(self, frames: Frames) -> list[Any]:
        """Outputs, one per frame."""

    @abc.abstractmethod
    def accuracy(self, output: Any, truth: Any) -> float:
        """Accuracy of an output against the output on high-quality video, in [0, 1]."""

    @abc.abstractmethod
    def soft_accuracy(self, images_B3HW: Tensor, high_B3HW: Tensor) -> Score:
        """A differentiable stand-in for the accuracy of images against the DNN's output on the same frames at high quality.

        Args:
            images_B3HW: where the gradient will be taken (some stand-ins fix which outputs count from it).
            high_B3HW: the frames whose output is the truth.
        """

    @abc.abstractmethod
    def confidence(self, images_B3HW: Tensor) -> Score:
        """The official code's score: how confident the DNN is in what it finds in these images."""

    @abc.abstractmethod
    def object_mask(self, output: Any, grid: tuple[int, int]) -> Mask:
        """Macroblocks that hold an object, (R, C)."""

    @abc.abstractmethod
    def proposals(self, frames: Frames, objectness: float) -> list[tuple[Boxes, Boxes]]:
        """Per frame: boxes that may be objects (score above `objectness`), and those of confident detections."""

    def high_quality(self, frames: Frames) -> Frames:
        """The frames as the reference has them: coded at `reference_qp`."""
        return decoded_at(frames, self.reference_qp)

    def accuracy_gradient(self, frames: Frames, target: Target, qp_hi: int, qp_lo: int) -> npt.NDArray[np.float32]:
        """AccGrad of each macroblock, (N, R, C), from encodes of the frames at both qualities; see `accmpeg.accgrad`."""
        accgrad.check_target(target)
        # Each frame on its own, so that its quality does not depend on where in a GOP it stands.
        high = np.concatenate([decoded_at(frame[None], qp_hi) for frame in frames])
        low = None
        if target == "paper":
            low = np.concatenate([decoded_at(frame[None], qp_lo) for frame in frames])
        found = []
        for start in range(0, len(frames), _BATCH):
            sharp = images_of(high[start : start + _BATCH])
            if low is None:
                found.append(accgrad.score_gradient(self.confidence(sharp), sharp))
            else:
                blurred = images_of(low[start : start + _BATCH])
                found.append(accgrad.accuracy_gradient(self.soft_accuracy(blurred, sharp), blurred, sharp))
        return np.asarray(torch.cat(found).numpy())


class DetectionDnn(Dnn):
    """A detector.

    Args:
        detector: of `common.models.vision`.
        name: of it.
        threshold: score above which a detection counts.
        counted: class numbers that count; None for all.
    """

    # DEVIATION accmpeg-6: low-score detections stand for region proposals, which detectors of one stage do not have.

    task = "detection"

    def __init__(self, detector: Any, name: str, threshold: float, counted: tuple[int, ...] | None = None) -> None:
        if not 0 < threshold < 1:
            raise ConfigError(f"threshold={threshold} of detector {name!r} must be between 0 and 1.")
        self.detector, self.name, self.threshold, self.counted = detector, name, threshold, counted

    def _detect(self, frames: Frames, threshold: float) -> list[Detections]:
        found = []
        for start in range(0, len(frames), _BATCH):
            for one in self.detector.detect(frames[start : start + _BATCH], threshold):
                found.append(one if self.counted is None else one.where(np.isin(one.classes, self.counted)))
        return found

    def run(self, frames: Frames) -> list[Any]:
        """See `Dnn.run`: `Detections` above the threshold."""
        return list(self._detect(frames, self.threshold))

    def accuracy(self, output: Any, truth: Any) -> float:
        """F1 at IoU 0.5 within classes, one to one; 1 if both are empty."""
        return match(truth, output, MATCH_IOU).f1

    def proposals(self, frames: Frames, objectness: float) -> list[tuple[Boxes, Boxes]]:
        """See `Dnn.proposals`."""
        found = self._detect(frames, min(objectness, self.threshold))
        return [(one.boxes[one.scores > objectness], one.boxes[one.scores > self.threshold]) for one in found]

    def object_mask(self, output: Any, grid: tuple[int, int]) -> Mask:
        """See `Dnn.object_mask`."""
        return boxes_to_mask(output.boxes, grid)

    def _scores(self, images_B3HW: Tensor) -> Tensor:
        """Scores of all candidates for the counted classes, (B, N, K), differentiable."""
        scores_BNK: Tensor = self.detector.candidates(images_B3HW)[1]
        return scores_BNK if self.counted is None else scores_BNK[:, :, list(self.counted)]

    def _candidates(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4), and scores that are 0 where the detector itself rules a candidate out (no peak, say)."""
        boxes_BN4, scores_BNK = self.detector.candidates(images_B3HW)
        scores_BNK = scores_BNK.masked_fill(~self.detector.select(scores_BNK, images_B3HW), 0.0)
        return boxes_BN4, scores_BNK if self.counted is None else scores_BNK[:, :, list(self.counted)]

    def confidence(self, images_B3HW: Tensor) -> Score:
        """Sum of the scores of the detections in these images that exceed the threshold."""
        with torch.no_grad():
            boxes_BN4, scores_BNK = self._candidates(images_B3HW)
        kept = [_peaks(boxes, scores, self.threshold) for boxes, scores in zip(boxes_BN4, scores_BNK, strict=True)]

        def score(images: Tensor) -> Tensor:
            now_BNK = self._scores(images)
            return torch.stack([now[n, k].sum() for now, (n, k) in zip(now_BNK, kept, strict=True)])

        return score

    def soft_accuracy(self, images_B3HW: Tensor, high_B3HW: Tensor) -> Score:
        """Soft F1: each count of the F1 score becomes a sum of sigmoid(20 (score - threshold)).

        tp sums over the truths the best score of a candidate of the same class with IoU above 0.5; fp sums over detections
        that match no truth, down to 0.2 below the threshold; fn is the rest of the truths.
        """
        with torch.no_grad():
            truth_boxes, truth_scores = self._candidates(high_B3HW)
            boxes_BN4, scores_BNK = self._candidates(images_B3HW)
        plans = [self._plan(*pair) for pair in zip(truth_boxes, truth_scores, boxes_BN4, scores_BNK, strict=True)]

        def score(images: Tensor) -> Tensor:
            now_BNK = self._scores(images)
            return torch.stack([plan.f1(now, self.threshold) for now, plan in zip(now_BNK, plans, strict=True)])

        return score

    def _plan(self, truth_boxes_N4: Tensor, truth_scores_NK: Tensor, boxes_N4: Tensor, scores_NK: Tensor) -> "_SoftF1":
        truth_n, truth_k = _peaks(truth_boxes_N4, truth_scores_NK, self.threshold)
        near_TN = torch.from_numpy(iou_matrix(truth_boxes_N4[truth_n].numpy(), boxes_N4.numpy()) > MATCH_IOU).reshape(
            len(truth_n), len(boxes_N4)
        )
        near_TN[torch.arange(len(truth_n)), truth_n] = (
            True  # the place itself, should its box be off in the blurred frame
        )
        found_n, found_k = _peaks(boxes_N4, scores_NK, self.threshold - 0.2)
        is_hit = (near_TN[:, found_n] & (truth_k[:, None] == found_k[None])).any(0)
        return _SoftF1(near_TN, truth_k, found_n[~is_hit], found_k[~is_hit])


@dataclasses.dataclass(frozen=True)
class _SoftF1:
    """Which candidates count as what, in one frame."""

    near_TN: Tensor
    truth_k: Tensor
    false_n: Tensor
    false_k: Tensor

    def f1(self, scores_NK: Tensor, threshold: float) -> Tensor:
        def above(scores: Tensor) -> Tensor:
            return torch.sigmoid(_STEEPNESS * (scores - threshold)).sum()

        best_T = scores_NK.T[self.truth_k].masked_fill(~self.near_TN, -1.0).amax(1)
        tp, fp = above(best_T), above(scores_NK[self.false_n, self.false_k])
        # 2 tp + fp + fn with fn = T - tp; the ones define the score of a frame without truths, which false alarms lower.
        return (2 * tp + 1) / (tp + fp + len(self.truth_k) + 1)


def _peaks(boxes_N4: Tensor, scores_NK: Tensor, threshold: float, most: int = 200) -> tuple[Tensor, Tensor]:
    """Candidate and class numbers of detections after non-maximum suppression within classes: two (M,) tensors."""
    candidate, kind = (scores_NK > threshold).nonzero(as_tuple=True)
    value = scores_NK[candidate, kind]
    order = value.argsort(descending=True)[:most]
    candidate, kind = candidate[order], kind[order]
    kept = torch.from_numpy(
        non_maximum_suppression(boxes_N4[candidate].numpy(), value[order].numpy(), _SUPPRESSED_IOU, kind.numpy())
    )
    return candidate[kept], kind[kept]


class SegmentationDnn(Dnn):
    """A segmentation network.

    Args:
        network: a segmentation network of `common.models.vision`.
        name: of it.
        background: class number that is not of interest; None: all are.
    """

    task = "segmentation"
    threshold = 0.5

    def __init__(self, network: Any, name: str, background: int | None = 0) -> None:
        self.network, self.name = network, name
        self.background = -1 if background is None else background  # no class has a number below 0

    def _logits(self, images_B3HW: Tensor) -> Tensor:
        logits: Tensor = self.network.logits(images_B3HW)
        return logits

    def run(self, frames: Frames) -> list[Any]:
        """See `Dnn.run`: class maps, (H, W) uint8."""
        return list(self.network.segment(frames))

    def accuracy(self, output: Any, truth: Any) -> float:
        """Share of the pixels that are not background in either map whose class is the same; 1 if there are none."""
        return foreground_agreement(truth, output, self.background)

    def _agreement(self, labels_BHW: Tensor) -> Score:
        def score(images: Tensor) -> Tensor:
            loss_BHW = functional.cross_entropy(self._logits(images), labels_BHW, reduction="none")
            # Focal, gamma 2, as the official code: pixels that are sure either way weigh little.
            return -(loss_BHW * (1 - torch.exp(-loss_BHW)) ** 2).mean((1, 2))

        return score

    def soft_accuracy(self, images_B3HW: Tensor, high_B3HW: Tensor) -> Score:
        """Minus the focal cross-entropy to the classes that the DNN gives the high-quality frame."""
        with torch.no_grad():
            return self._agreement(self._logits(high_B3HW).argmax(1))

    def confidence(self, images_B3HW: Tensor) -> Score:
        """The same against the classes of these images themselves."""
        with torch.no_grad():
            return self._agreement(self._logits(images_B3HW).argmax(1))

    def object_mask(self, output: Any, grid: tuple[int, int]) -> Mask:
        """See `Dnn.object_mask`."""
        rows, columns = grid
        padded = np.full((rows * MACROBLOCK, columns * MACROBLOCK), self.background, np.int16)
        padded[: output.shape[0], : output.shape[1]] = output
        blocks = padded.reshape(rows, MACROBLOCK, columns, MACROBLOCK)
        return np.asarray((blocks != self.background).any((1, 3)))

    def proposals(self, frames: Frames, objectness: float) -> list[tuple[Boxes, Boxes]]:
        """Boxes around the connected regions of each class other than background.

        Proposals are regions where such a class has a probability above `objectness`; confident ones, where it is the largest.
        """
        import cv2

        found = []
        with torch.inference_mode():
            for frame in frames:
                probability_KHW = self._logits(images_of(frame[None]))[0].softmax(0)
                top = probability_KHW.argmax(0).numpy()
                others = 1 - probability_KHW[self.background].numpy() if self.background >= 0 else np.ones_like(top)
                pair = []
                for mask in (others > objectness, top != self.background):
                    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
                    left, upper, wide, tall = stats[1:, :4].T.astype(float)
                    pair.append(np.stack([left, upper, left + wide, upper + tall], 1))
                found.append((pair[0], pair[1]))
        return found
