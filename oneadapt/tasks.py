"""Analytic tasks: run a network on what arrived, say how its confident results depend on its input, compare results.

    task.infer(x)          one forward per element; results without scores of their own merit
    task.saliency(x_1)     one forward and one backward of one element: utility u and |du/dx| (OneAdapt's DNNGrad)
    task.accuracy(a, b)    how well results a agree with results b of the best setting, 0..1

The utility is the soft count of confident results, u(x) = sum over elements of sigmoid(w * (score - theta)) with w = 20 and
theta = 0.5, less what scores of 0 would give; what an element is differs: a peak of a detector's map, a pixel of an object's
class, a sound (the last two inferred).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from common.metrics.segmentation import foreground_agreement
from oneadapt.api import Saliency
from oneadapt.inputs import FloatArray

SHARPNESS, THRESHOLD = 20.0, 0.5
LEAST_REGION_SCORE = 0.03
NEAR = 0.2
"""Scores within this distance of the threshold count as near it (the dead-zone guard looks at their number)."""

Centres = npt.NDArray[np.float32]
"""Detections by centre, (K, 4): class, row, column, score, best first."""


def soft_count(score: Tensor, w: float = SHARPNESS, theta: float = THRESHOLD) -> Tensor:
    """The utility of scores of any shape: a smooth count of those above theta, 0 if all scores are 0."""
    # DEVIATION oneadapt-6: without what scores of 0 give: at theta = 0.3 the 230,000 empty candidates of a real detector would
    # count as 550 results.
    return torch.sigmoid(w * (score - theta)).sum() - score.numel() / (1 + math.exp(w * theta))


def sum_of_scores(score: Tensor, theta: float = THRESHOLD) -> Tensor:
    """The code's alternative utility: the sum of scores above theta."""
    return (score * (score > theta)).sum()


def peaks(map_CHW: Tensor) -> Tensor:
    """Scores of local maxima (3 x 3) of a map of scores; all other places are 0. Differentiable in the scores."""
    is_peak = map_CHW >= F.max_pool2d(map_CHW[None], 3, 1, 1)[0]
    return map_CHW * is_peak.detach()


def centres(map_CHW: Tensor, threshold: float) -> Centres:
    """Local maxima of at least `threshold`, (K, 4): class, row, column, score, best first; ties in reading order."""
    found = peaks(map_CHW)
    kind, row, column = (found >= threshold).nonzero(as_tuple=True)
    scores = found[kind, row, column]
    order = torch.argsort(scores, descending=True, stable=True)
    rows = torch.stack([kind.float(), row.float(), column.float(), scores.float()], 1)[order]
    return rows.detach().cpu().numpy().astype(np.float32)


def centre_f1(found: Centres, truth: Centres, reach: tuple[float, float] = (3.0, 3.0)) -> float:
    """F1 of centres: each found one may match one true one of its class within `reach` rows and columns, best score first.

    1 if both are empty.
    """
    if not len(found) and not len(truth):
        return 1.0
    is_free = np.ones(len(truth), bool)
    hits = 0
    for kind, row, column, _ in found:
        distance = np.hypot((truth[:, 1] - row) / reach[0], (truth[:, 2] - column) / reach[1])
        distance = np.where(is_free & (truth[:, 0] == kind), distance, np.inf)
        if len(distance) and distance.min() <= 1.0:
            is_free[int(distance.argmin())] = False
            hits += 1
    return 2 * hits / (len(found) + len(truth))


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkTask:
    """What the tasks on our own networks share.

    Attributes:
        network: a torch module in inference mode, (B, C, H, W) to logits.
        sha256: of its weights.
        block: rows and columns over which the gradient is averaged (the paper's 16 x 16 macroblocks).
        utility: "soft_count" or "sum" (the code's alternative).
        sharpness: w of the soft count.
    """

    network: Any
    sha256: str
    block: tuple[int, int] = (16, 16)
    utility: str = "soft_count"
    sharpness: float = SHARPNESS

    def scores(self, logits: Tensor) -> Tensor:
        """Scores of the elements of one input, any shape, differentiable."""
        raise TypeError(f"{type(self).__name__} does not say what its scores are")

    def result(self, logits: Tensor) -> Any:
        """The result of one input."""
        raise TypeError(f"{type(self).__name__} does not say what its results are")

    def infer(self, x_NHWC: FloatArray) -> list[Any]:
        """Results of every element."""
        with torch.inference_mode():
            return [self.result(logits) for logits in self.network(_tensor(x_NHWC))]

    def differentiable_utility(self, x_1CHW: Tensor) -> Tensor:
        """See `oneadapt.api.Task.differentiable_utility`."""
        return self._utility(self.scores(self.network(x_1CHW)[0]))

    def _utility(self, score: Tensor) -> Tensor:
        return soft_count(score, self.sharpness) if self.utility == "soft_count" else sum_of_scores(score)

    def saliency(self, x_HWC: FloatArray) -> Saliency:
        """See `oneadapt.api.Task.saliency`."""
        x = _tensor(x_HWC[None]).requires_grad_(True)
        score = self.scores(self.network(x)[0])
        u = self._utility(score)
        (gradient,) = torch.autograd.grad(u, x)
        near = int(((score.detach() - THRESHOLD).abs() <= NEAR).sum())
        return Saliency(float(u.detach()), near, gradient[0].abs().sum(0).numpy())


def _tensor(x_NHWC: FloatArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x_NHWC.transpose(0, 3, 1, 2)))


@dataclasses.dataclass(frozen=True, eq=False)
class CentreDetection(NetworkTask):
    """Objects by their centres, from a map of class scores."""

    def scores(self, logits: Tensor) -> Tensor:
        """Scores of the local maxima."""
        return peaks(logits.sigmoid())

    def result(self, logits: Tensor) -> Centres:
        """Centres above the threshold."""
        return centres(logits.sigmoid(), THRESHOLD)

    def regions(self, x_NHWC: FloatArray) -> list[list[tuple[npt.NDArray[np.float32], float]]]:
        """Proposals of every element: (box as x0, y0, x1, y1 in pixels, score), also weak ones; boxes of a fixed size."""
        with torch.inference_mode():
            maps = [logits.sigmoid() for logits in self.network(_tensor(x_NHWC))]
        found = []
        for map_CHW in maps:
            near = centres(map_CHW, LEAST_REGION_SCORE)
            # The map has half the input's resolution; 12 pixels each way is a middling object.
            corners = [(2 * np.array([c - 6, r - 6, c + 6, r + 6], np.float32), float(s)) for _, r, c, s in near]
            found.append(corners)
        return found

    def accuracy(self, results: Sequence[Centres], truth: Sequence[Centres]) -> float:
        """Mean F1 over the elements."""
        return float(np.mean([centre_f1(a, b) for a, b in zip(results, truth, strict=True)]))


@dataclasses.dataclass(frozen=True, eq=False)
class PixelClasses(NetworkTask):
    """The class of every second pixel; 0 is background."""

    def scores(self, logits: Tensor) -> Tensor:
        """The highest probability of a class that is not background, per pixel."""
        return logits.softmax(0)[1:].amax(0)

    def result(self, logits: Tensor) -> npt.NDArray[np.int8]:
        """Class per pixel."""
        return logits.argmax(0).numpy().astype(np.int8)

    def accuracy(self, results: Sequence[Any], truth: Sequence[Any]) -> float:
        """Over pixels where either map is not background: the share with equal class; mean over the elements."""
        return float(np.mean([foreground_agreement(b, a) for a, b in zip(results, truth, strict=True)]))


@dataclasses.dataclass(frozen=True, eq=False)
class SoundRecognition(NetworkTask):
    """Which sound each half second holds; the last class is silence."""

    def scores(self, logits: Tensor) -> Tensor:
        """The highest probability of a sound that is not silence."""
        return logits.softmax(0)[:-1].amax(0, keepdim=True)

    def result(self, logits: Tensor) -> int:
        """Index of the sound."""
        return int(logits.argmax())

    def accuracy(self, results: Sequence[int], truth: Sequence[int]) -> float:
        """Share of equal results."""
        return float(np.mean([a == b for a, b in zip(results, truth, strict=True)]))
