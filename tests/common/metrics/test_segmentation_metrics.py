"""Confusion, IoU and accuracies of label maps, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import ConfigError
from common.metrics.segmentation import (
    confusion_matrix,
    foreground_agreement,
    iou_per_class,
    mean_iou,
    pixel_accuracy,
)

TRUTH = np.array([[0, 0, 1], [1, 2, 2]])
FOUND = np.array([[0, 1, 1], [1, 2, 0]])


def test_by_hand():
    confusion = confusion_matrix(TRUTH, FOUND, 4)
    assert confusion[:3, :3].tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    # Class 0: 1 of (2 + 2 - 1) = 1/3. Class 1: 2 of 3. Class 2: 1 of 2. Class 3 does not occur.
    np.testing.assert_allclose(iou_per_class(confusion), [1 / 3, 2 / 3, 1 / 2, np.nan])
    assert mean_iou(confusion) == pytest.approx(0.5)
    assert pixel_accuracy(confusion) == pytest.approx(4 / 6)
    # Not background in one of the maps: all but the first pixel, 5; equal among them: 3.
    assert foreground_agreement(TRUTH, FOUND) == pytest.approx(3 / 5)
    assert foreground_agreement(np.zeros((2, 2), int), np.zeros((2, 2), int)) == 1


def test_ignored_pixels_do_not_count():
    assert confusion_matrix(np.array([0, 255, -1, 1]), np.array([0, 0, 0, 1]), 2, ignore=255).tolist() == [
        [1, 0],
        [0, 1],
    ]


@given(arrays(np.int64, (4, 5), elements=st.integers(0, 3)), arrays(np.int64, (4, 5), elements=st.integers(0, 3)))
def test_invariants(truth, found):
    confusion = confusion_matrix(truth, found, 4)
    assert confusion.sum() == 20
    np.testing.assert_array_equal(confusion.T, confusion_matrix(found, truth, 4))
    assert mean_iou(confusion) <= 1
    assert mean_iou(confusion_matrix(truth, truth, 4)) == pixel_accuracy(confusion_matrix(truth, truth, 4)) == 1
    assert pixel_accuracy(confusion) == pytest.approx((truth == found).mean())


def test_bad_input():
    with pytest.raises(ConfigError, match="equal shapes"):
        confusion_matrix(TRUTH, FOUND[:1], 3)
    with pytest.raises(ConfigError, match="label 2"):
        confusion_matrix(TRUTH, FOUND, 2)
    with pytest.raises(ConfigError, match="integers"):
        confusion_matrix(TRUTH * 1.0, FOUND, 3)
    with pytest.raises(ConfigError, match="undefined"):
        mean_iou(np.zeros((2, 2)))
