"""From probabilities to quantiser maps."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from accmpeg import assignment
from common.errors import ConfigError

# A busy machine is no failure.
STEADY = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9))
scores = arrays(float, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.floats(0, 1))


def mask_of(text: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in line] for line in text.split()])


def test_opening_drops_one_block_and_keeps_nine():
    assert not assignment.clean(mask_of("..... ..#.. .....")).any()
    block = mask_of("..... .###. .###. .###. .....")
    assert (assignment.clean(block) == block).all()


def test_closing_fills_a_hole():
    holed = mask_of("......... .#######. .#######. .#######. .###.###. .#######. .#######. .#######. .........")
    assert assignment.clean(holed).sum() == 49


def test_a_block_on_the_border_survives_replicate_padding_only():
    border = mask_of("##... ##... ##... .....")
    assert assignment.clean(border).sum() == 6
    assert not assignment.clean(border, "zero").any()


@STEADY
@given(masks)
def test_dilation_grows_and_erosion_shrinks(mask):
    assert (assignment.dilate(mask, 3) >= mask).all()
    assert (assignment.erode(mask, 3) <= mask).all()
    assert (assignment.dilate(mask, 1) == mask).all()
    assert (assignment.erode(mask, 3) == ~assignment.dilate(~mask, 3)).all()


@STEADY
@given(masks)
def test_morphology_equals_opencv(mask):
    import cv2

    box = np.ones((3, 3), np.uint8)
    padded = np.pad(mask.astype(np.uint8), 1, mode="edge")
    assert (assignment.dilate(mask, 3) == cv2.dilate(padded, box)[1:-1, 1:-1].astype(bool)).all()
    assert (assignment.erode(mask, 3) == cv2.erode(padded, box)[1:-1, 1:-1].astype(bool)).all()


@STEADY
@given(scores, st.floats(0, 1))
def test_top_share_takes_the_largest(score, share):
    chosen = assignment.top_share(score, share)
    assert chosen.sum() == int(share * score.size + 0.5)
    if chosen.any() and not chosen.all():
        assert score[chosen].min() >= score[~chosen].max()


def test_greedy_choice_is_the_best_of_all_subsets():
    gains = np.random.default_rng(4).random((3, 4))
    chosen = assignment.top_share(gains, 5 / 12)
    best = max(sum(subset) for subset in itertools.combinations(gains.ravel(), 5))
    assert gains[chosen].sum() == pytest.approx(best)


@STEADY
@given(scores)
def test_levels_with_two_quantisers_are_the_binary_map(p):
    binary = assignment.two_levels(assignment.select(p, 0.4), 30, 40)
    assert (assignment.levels(p, [0.4], [30, 40]) == binary).all()


@STEADY
@given(scores)
def test_more_probable_blocks_never_get_less_quality(p):
    qp_map = assignment.levels(p, (0.6, 0.3, 0.1), (30, 34, 38, 44)).ravel()
    order = np.argsort(p.ravel())
    assert (np.diff(qp_map[order].astype(int)) <= 0).all()


def test_levels_by_hand():
    p = np.array([[0.05, 0.1, 0.2, 0.35, 0.9]])
    assert assignment.levels(p, (0.6, 0.3, 0.1), (30, 34, 38, 44)).tolist() == [[44, 44, 38, 34, 30]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: assignment.two_levels(np.ones((1, 1), bool), 40, 30), "40, 30"),
        (lambda: assignment.two_levels(np.ones((1, 1), bool), 30, 31), "at least 2 apart"),
        (lambda: assignment.levels(np.ones((1, 1)), (0.1, 0.3), (30, 34, 40)), "must fall"),
        (lambda: assignment.dilate(np.ones((1, 1), bool), 2), "odd"),
        (lambda: assignment.top_share(np.ones((1, 1)), 1.5), "share=1.5"),
        (lambda: assignment.sampled_frames(3, "last"), "'last'"),
        (lambda: assignment.sampled_frames(0, "first"), "without frames"),
    ],
)
def test_bad_values_are_refused(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


def test_sampling():
    assert assignment.sampled_frames(10, "first") == [0]
    assert assignment.sampled_frames(10, "ends") == [0, 9]
    assert assignment.sampled_frames(1, "ends") == [0]
    assert assignment.sampled_frames(3, "all") == [0, 1, 2]


def test_boxes_to_blocks():
    # x 10..20 touches columns 0 and 1; y 16..32 is row 1 alone. The second box lies outside on the right and below.
    mask = assignment.boxes_to_mask(np.array([[10, 16, 20, 32], [40, 40, 500, 500]]), (3, 4))
    assert (mask == mask_of(".... ##.. ..##")).all()
    assert not assignment.boxes_to_mask(np.zeros((0, 4)), (3, 4)).any()
