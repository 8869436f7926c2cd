"""Semantic segmentation: confusion matrix, intersection over union, pixel accuracy.

Label maps are integer arrays of any equal shape; values below 0, and `ignore`, are left out.
"""

import numpy as np

from common.errors import ConfigError


def confusion_matrix(
    truth: np.ndarray, predicted: np.ndarray, num_classes: int, ignore: int | None = None
) -> np.ndarray:
    """(num_classes, num_classes) int64: entry [t, p] counts pixels of class t that were called p.

    Raises:
        ConfigError: shapes differ, labels are no integers, or a label is not below `num_classes`.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise ConfigError(f"label maps of shape {truth.shape} and {predicted.shape}: give equal shapes.")
    if truth.dtype.kind not in "iu" or predicted.dtype.kind not in "iu":
        raise ConfigError(f"label maps of type {truth.dtype} and {predicted.dtype}: give integers.")
    truth, predicted = truth.ravel().astype(np.int64), predicted.ravel().astype(np.int64)
    counted = (truth >= 0) & (predicted >= 0)
    if ignore is not None:
        counted &= truth != ignore
    truth, predicted = truth[counted], predicted[counted]
    highest = max(truth.max(initial=0), predicted.max(initial=0))
    if highest >= num_classes:
        raise ConfigError(f"label {highest} in a map of num_classes={num_classes}; classes are 0 to {num_classes - 1}.")
    return np.bincount(truth * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou_per_class(confusion: np.ndarray) -> np.ndarray:
    """(num_classes,) float64: intersection over union; NaN for a class that occurs in neither map."""
    confusion = np.asarray(confusion, np.float64)
    inter = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - inter
    return np.divide(inter, union, out=np.full(len(inter), np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean over the classes that occur.

    Raises:
        ConfigError: no pixel was counted.
    """
    values = iou_per_class(confusion)
    if np.isnan(values).all():
        raise ConfigError("no pixel was counted: mean IoU is undefined.")
    return float(np.nanmean(values))


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of the counted pixels with the right class.

    Raises:
        ConfigError: no pixel was counted.
    """
    total = int(np.sum(confusion))
    if not total:
        raise ConfigError("no pixel was counted: pixel accuracy is undefined.")
    return float(np.trace(confusion) / total)


def foreground_agreement(truth: np.ndarray, predicted: np.ndarray, background: int = 0) -> float:
    """Share of equal labels among the pixels that are not background in at least one of the maps; 1 if there are none.

    Source: AccMPEG sheet, section 4 (accuracy of segmentation).
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise ConfigError(f"label maps of shape {truth.shape} and {predicted.shape}: give equal shapes.")
    either = (truth != background) | (predicted != background)
    return float((truth[either] == predicted[either]).mean()) if either.any() else 1.0
