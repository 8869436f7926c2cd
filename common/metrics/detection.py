"""Object detection: boxes, non-maximum suppression, matching, F1, and average precision as COCO defines it.

    found = Detections(boxes, scores, classes)
    clip_f1(truth_per_frame, found_per_frame)             # mean over frames, IoU above 0.5, as the AccMPEG sheet (section 4)
    average_precision(truth_per_image, found_per_image)   # equal to pycocotools

Boxes are (x0, y0, x1, y1) in pixels, exclusive of nothing: width is x1 - x0.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from common.errors import ConfigError

COCO_IOUS = tuple(0.5 + 0.05 * step for step in range(10))
_RECALLS = np.linspace(0, 1, 101)


@dataclasses.dataclass(frozen=True)
class Detections:
    """Objects in one picture.

    Attributes:
        boxes: (N, 4) float32, x0, y0, x1, y1 in pixels.
        scores: (N,) float32; ones for labels.
        classes: (N,) int64.

    Raises:
        ConfigError: shapes do not go together.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float32).reshape(-1, 4)
        scores = np.asarray(self.scores, np.float32).reshape(-1)
        classes = np.asarray(self.classes, np.int64).reshape(-1)
        if not len(boxes) == len(scores) == len(classes):
            raise ConfigError(
                f"{len(boxes)} boxes, {len(scores)} scores and {len(classes)} classes: give one of each per object."
            )
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "classes", classes)

    @classmethod
    def labels(cls, boxes: np.ndarray, classes: np.ndarray) -> "Detections":
        """Known objects, all with score 1."""
        return cls(boxes, np.ones(len(np.asarray(classes).reshape(-1))), classes)

    def __len__(self) -> int:
        return len(self.scores)

    def where(self, kept: np.ndarray) -> "Detections":
        """Those of an index array or boolean mask."""
        return Detections(self.boxes[kept], self.scores[kept], self.classes[kept])

    def above(self, threshold: float) -> "Detections":
        """Those with a score of at least `threshold`."""
        return self.where(self.scores >= threshold)


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: (N, M) float64 of (N, 4) and (M, 4) boxes; 0 where both are empty."""
    a, b = np.asarray(a, np.float64).reshape(-1, 4), np.asarray(b, np.float64).reshape(-1, 4)
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    inter = sides.clip(min=0).prod(2)
    union = _areas(a)[:, None] + _areas(b)[None] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def non_maximum_suppression(
    boxes: np.ndarray, scores: np.ndarray, iou: float, classes: np.ndarray | None = None
) -> np.ndarray:
    """Greedy suppression: walk down the scores, drop what overlaps a kept box by more than `iou`.

    Args:
        boxes, scores: (N, 4) and (N,).
        iou: in [0, 1].
        classes: (N,); boxes of different classes never suppress each other. None: all count as one class.

    Returns:
        Indices of the kept boxes, highest score first; ties go to the earlier box.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    overlaps = iou_matrix(boxes, boxes) > iou
    if classes is not None:
        labels = np.asarray(classes)
        overlaps &= labels[:, None] == labels[None]
    alive = np.ones(len(order), bool)
    kept = []
    for index in order:
        if alive[index]:
            kept.append(index)
            alive &= ~overlaps[index]
    return np.array(kept, np.int64)


@dataclasses.dataclass(frozen=True)
class Match:
    """Outcome of matching predictions to truth.

    Attributes:
        pairs: (tp, 2) int64 of (index of truth, index of prediction).
        num_truth, num_predicted: how many there were.
    """

    pairs: np.ndarray
    num_truth: int
    num_predicted: int

    @property
    def tp(self) -> int:
        return len(self.pairs)

    @property
    def fp(self) -> int:
        return self.num_predicted - self.tp

    @property
    def fn(self) -> int:
        return self.num_truth - self.tp

    @property
    def f1(self) -> float:
        """2 tp / (2 tp + fp + fn); 1 when there was nothing and nothing was found."""
        total = self.num_truth + self.num_predicted
        return 2 * self.tp / total if total else 1.0


def match(truth: Detections, predicted: Detections, iou: float = 0.5, same_class: bool = True) -> Match:
    """Match one to one: predictions in order of score each take the free truth that they overlap most, if by more than `iou`.

    Each truth is hit at most once and each prediction hits at most one (the artifact of AccMPEG lets one prediction hit two).
    """
    overlaps = iou_matrix(truth.boxes, predicted.boxes)
    if same_class:
        overlaps[truth.classes[:, None] != predicted.classes[None]] = 0
    free = np.ones(len(truth), bool)
    pairs = []
    for index in np.argsort(-predicted.scores, kind="stable"):
        column = np.where(free, overlaps[:, index], -1.0)
        best = int(column.argmax()) if len(column) else -1
        if best >= 0 and column[best] > iou:
            free[best] = False
            pairs.append((best, int(index)))
    return Match(np.array(pairs, np.int64).reshape(-1, 2), len(truth), len(predicted))


def frame_f1(truth: Sequence[Detections], predicted: Sequence[Detections], iou: float = 0.5) -> np.ndarray:
    """F1 of each frame, (N,) float64.

    Raises:
        ConfigError: different numbers of frames.
    """
    _check_lengths(truth, predicted)
    return np.array([match(a, b, iou).f1 for a, b in zip(truth, predicted, strict=True)], np.float64)


def clip_f1(truth: Sequence[Detections], predicted: Sequence[Detections], iou: float = 0.5) -> float:
    """Mean over frames of each frame's F1. Raises as `frame_f1`, and for a clip without frames."""
    if not truth:
        raise ConfigError("a clip without frames has no F1.")
    return float(frame_f1(truth, predicted, iou).mean())


def pooled_f1(truth: Sequence[Detections], predicted: Sequence[Detections], iou: float = 0.5) -> float:
    """F1 of the hits and misses of all frames together. Raises as `frame_f1`."""
    _check_lengths(truth, predicted)
    matches = [match(a, b, iou) for a, b in zip(truth, predicted, strict=True)]
    total = sum(m.num_truth + m.num_predicted for m in matches)
    return 2 * sum(m.tp for m in matches) / total if total else 1.0


def average_precision(
    truth: Sequence[Detections],
    predicted: Sequence[Detections],
    ious: Sequence[float] = COCO_IOUS,
    area_range: tuple[float, float] = (0.0, 1e10),
    max_detections: int = 100,
) -> dict[int, float]:
    """COCO's average precision of each class that occurs in the truth, averaged over the IoU thresholds.

    101-point interpolation, at most `max_detections` per picture and class, matches at IoU >= threshold. Truth whose area lies
    outside `area_range` is ignored, as are unmatched predictions outside it.

    Returns:
        {class: AP}; classes without truth in the area range are absent.

    Raises:
        ConfigError: different numbers of pictures.
    """
    _check_lengths(truth, predicted)
    classes = sorted({int(c) for labels in truth for c in labels.classes})
    found = {}
    for label in classes:
        per_image = [
            _match_image(a.where(a.classes == label), b.where(b.classes == label), ious, area_range, max_detections)
            for a, b in zip(truth, predicted, strict=True)
        ]
        total = sum(count for _, _, _, count in per_image)
        if total:
            found[label] = _interpolated(per_image, total, len(ious))
    return found


def mean_average_precision(
    truth: Sequence[Detections],
    predicted: Sequence[Detections],
    ious: Sequence[float] = COCO_IOUS,
    area_range: tuple[float, float] = (0.0, 1e10),
    max_detections: int = 100,
) -> float:
    """Mean over classes of `average_precision`.

    Raises:
        ConfigError: no truth at all (nothing to average), or different numbers of pictures.
    """
    per_class = average_precision(truth, predicted, ious, area_range, max_detections)
    if not per_class:
        raise ConfigError("no labelled object of any class: average precision is undefined.")
    return float(np.mean(list(per_class.values())))


def _match_image(
    truth: Detections,
    predicted: Detections,
    ious: Sequence[float],
    area_range: tuple[float, float],
    max_detections: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Scores (D,), hits (T, D), ignored (T, D) of one picture and class, and its number of truths that count."""
    order = np.argsort(-predicted.scores, kind="stable")[:max_detections]
    predicted = predicted.where(order)
    out_of_range = _outside(truth.boxes, area_range)
    truth_order = np.argsort(out_of_range, kind="stable")  # those that count come first
    boxes, ignored = truth.boxes[truth_order], out_of_range[truth_order]
    overlaps = iou_matrix(predicted.boxes, boxes)
    hits = np.zeros((len(ious), len(predicted)), bool)
    unscored = np.zeros((len(ious), len(predicted)), bool)
    for row, threshold in enumerate(ious):
        taken = np.zeros(len(boxes), bool)
        for index in range(len(predicted)):
            best, best_iou = -1, min(threshold, 1 - 1e-10)
            for candidate in range(len(boxes)):
                if taken[candidate]:
                    continue
                if best >= 0 and not ignored[best] and ignored[candidate]:
                    break  # a truth that counts was found; the ignored ones come after
                if overlaps[index, candidate] >= best_iou:
                    best, best_iou = candidate, overlaps[index, candidate]
            if best >= 0:
                taken[best] = True
                hits[row, index], unscored[row, index] = True, ignored[best]
    unscored |= ~hits & _outside(predicted.boxes, area_range)[None]
    return predicted.scores, hits, unscored, int((~out_of_range).sum())


def _interpolated(per_image: list[tuple[np.ndarray, np.ndarray, np.ndarray, int]], total: int, num_ious: int) -> float:
    scores = np.concatenate([scores for scores, _, _, _ in per_image])
    order = np.argsort(-scores, kind="mergesort")
    hits = np.concatenate([hits for _, hits, _, _ in per_image], axis=1)[:, order]
    unscored = np.concatenate([skip for _, _, skip, _ in per_image], axis=1)[:, order]
    precisions = []
    for row in range(num_ious):
        tp = np.cumsum(hits[row] & ~unscored[row]).astype(np.float64)
        fp = np.cumsum(~hits[row] & ~unscored[row]).astype(np.float64)
        recall = tp / total
        precision = tp / (tp + fp + np.spacing(1))
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(recall, _RECALLS, side="left")
        precisions.append(
            np.where(at < len(envelope), envelope[np.minimum(at, len(envelope) - 1)] if len(envelope) else 0, 0)
        )
    return float(np.mean(precisions))


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(1)


def _outside(boxes: np.ndarray, area_range: tuple[float, float]) -> np.ndarray:
    areas = _areas(boxes.astype(np.float64))
    return (areas < area_range[0]) | (areas > area_range[1])


def _check_lengths(truth: Sequence[Detections], predicted: Sequence[Detections]) -> None:
    if len(truth) != len(predicted):
        raise ConfigError(
            f"{len(truth)} frames of truth and {len(predicted)} of predictions; give one of each per frame."
        )
