"""The closed forms: macroblock levels, Reducto's features, thresholds by gradient."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneadapt import blocks, filtering
from oneadapt.api import METHODS
from oneadapt.contract import prepared, small_application, small_clip
from oneadapt.session import run_clip


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_two_levels_are_the_best_of_all_maps(seed, count):
    """Against brute force over all 4096 maps of 12 blocks: the least error among those with that many high blocks."""
    rng = np.random.default_rng(seed)
    errors = np.stack([rng.random((3, 4)), 1 + rng.random((3, 4))])
    chosen = blocks.choose_levels(errors, (100, 40), count / 12)
    assert int((chosen == 0).sum()) == count
    flat = errors.reshape(2, 12)
    best = min(
        flat[1].sum() + sum(flat[0, i] - flat[1, i] for i in some) for some in itertools.combinations(range(12), count)
    )
    assert np.take_along_axis(errors, chosen[None], 0).sum() == pytest.approx(best)


@given(st.floats(0.02, 1.0))
def test_share_of_high_blocks(share):
    errors = np.stack([np.zeros((12, 20)), np.random.default_rng(0).random((12, 20)) + 0.1])
    chosen = blocks.choose_levels(errors, (100, 50), share)
    assert abs((chosen == 0).sum() - share * 240) <= 1


def test_blocks_that_gain_nothing_get_nothing():
    errors = np.zeros((2, 2, 2))
    errors[1, 0, 0] = 1.0
    assert blocks.choose_levels(errors, (100, 50), 1.0).tolist() == [[0, 1], [1, 1]]


def test_three_levels_use_the_middle_one():
    # Gains from the top level 1.0; the middle level has nearly all of it for half of the bytes.
    errors = np.stack([np.zeros((1, 4)), np.full((1, 4), 0.05), np.array([[1.0, 1.0, 1.0, 0.01]])])
    chosen = blocks.choose_levels(errors, (100, 50, 20), 0.75)
    assert chosen.tolist() == [[1, 1, 1, 2]]


def test_groups_of_blocks_share_a_level():
    errors = np.random.default_rng(0).random((2, 12, 20))
    sums, expand = blocks.group(errors, 4)
    assert sums.shape == (2, 2, 2)
    assert sums.sum() == pytest.approx(errors.sum())
    spread = expand(np.array([[0, 1], [2, 3]]))
    assert spread.shape == (12, 20)
    assert [int((spread == k).sum()) for k in range(4)] == [60, 60, 60, 60]


def test_region_mask():
    regions = [(np.array([10, 20, 40, 30], np.float32), 0.5), (np.array([0, 0, 200, 200], np.float32), 0.1)]
    mask = blocks.region_mask(regions, (4, 5), 0.3)
    # x 10..40 touches columns 0 to 2, y 20..30 touches row 1
    assert np.argwhere(mask).tolist() == [[1, 0], [1, 1], [1, 2]]
    assert blocks.region_mask(regions, (4, 5), 0.05).all()
    assert blocks.dilate(mask).sum() == 3 * 4


def test_dds_pays_twice_and_sees_high_quality_where_objects_are():
    application = prepared("blocks")
    clip = small_clip(np.random.default_rng(0), 2)
    names = {"dds": METHODS.create("dds", score=0.6), "low": METHODS.create("uniform", qp=40)}
    records = run_clip(application, {name: method.controller(application) for name, method in names.items()}, clip)
    low, dds = records["low"][0].ledger, records["dds"][0].ledger
    assert dds.data_bytes > low.data_bytes
    assert dds.forwards == 2 * low.forwards
    assert dds.search_forwards == low.forwards
    assert isinstance(records["dds"][0].knobs["blocks"], np.ndarray)


def test_eaar_uses_the_interval_before():
    application = prepared("blocks")
    bright = np.zeros((3, 48, 64), np.uint8)
    bright[:, :16, :16] = 255
    dark = np.zeros_like(bright)
    records = run_clip(
        application, {"": METHODS.create("eaar", score=0.6).controller(application)}, [bright, dark, dark]
    )[""]
    assert records[1].knobs["blocks"][0, 0] == 30  # the block that was bright
    assert (records[2].knobs["blocks"] == 40).all()


def test_block_network_learns_where_the_gradient_is():
    from oneadapt.blocks import train_block_network

    application = small_application("blocks")
    clips = [small_clip(np.random.default_rng(seed), 6) for seed in range(2)]
    network = train_block_network(application, clips, np.random.default_rng(0), steps=3)
    application = dataclasses.replace(application, extra={"block_network": network})
    records = run_clip(application, {"": METHODS.create("accmpeg").controller(application)}, clips[0][:2])[""]
    assert records[0].ledger.model_frames == len(clips[0][0])


# ----------------------------------------------------------------------------------------------------------- frame filter


def test_identical_frames_have_no_features_and_are_not_sent():
    frames = np.repeat(np.random.default_rng(0).integers(0, 255, (1, 48, 64)).astype(np.uint8), 5, 0)
    assert not filtering.pair_features(frames).any()
    for bias in (-3.0, 0.0, 3.0, 100.0):
        assert filtering.kept_frames(frames, (bias, bias)) == (0,)
    assert filtering.kept_frames(frames, (-100.0, -100.0)) == (0, 1, 2, 3, 4)


def test_pixel_feature_by_hand():
    frames = np.zeros((2, 10, 10), np.uint8)
    frames[1, :2, :5] = 22  # ten of a hundred pixels change by more than 21
    frames[1, 5, 5] = 21  # and one by exactly 21
    features = filtering.pair_features(frames)
    assert features[0, 1, 0] == pytest.approx(0.1)
    assert (features == features.transpose(1, 0, 2)).all()


def test_biases_from_all_to_one():
    frames = np.concatenate(small_clip(np.random.default_rng(0), 3))
    assert filtering.kept_frames(frames, (-100.0, -100.0)) == tuple(range(9))
    assert filtering.kept_frames(frames, (100.0, 100.0)) == (0,)
    counts = [len(filtering.kept_frames(frames, (bias, bias))) for bias in (-100.0, -1.0, 0.0, 1.0, 100.0)]
    assert counts == sorted(counts, reverse=True)
    assert next(iter(filtering.bias_grid())) == (-100.0, -100.0)


def test_a_feature_that_does_not_vary_is_ignored():
    features = np.zeros((3, 3, 2))
    features[..., 0] = [[0, 1, 4], [1, 0, 2], [4, 2, 0]]
    assert (filtering.z_scores(features)[..., 1] == 0).all()
    # mean 7/3, deviation 1.25: z of (0, 1) is -1.07, of (0, 2) is 1.34
    assert filtering.choose(features, (0.0, 0.0)) == (0, 2)


def test_filter_controller_prefers_few_frames_of_a_still_scene():
    application = prepared("filter")
    still = [np.repeat(small_clip(np.random.default_rng(0), 1)[0][:1], 3, 0)] * 3
    moving = small_clip(np.random.default_rng(0), 3)

    def kept(clip, trade):
        method = METHODS.create("oneadapt_filter", trade=trade)
        return len(run_clip(application, {"": method.controller(application)}, clip)[""][-1].kept)

    assert kept(still, 0.05) == 1
    assert kept(moving, 0.0) == 3
    assert kept(moving, 50.0) == 1


def test_a_filter_whose_scale_is_too_high_is_corrected_and_pays_for_probes():
    application = prepared("filter")
    moving = small_clip(np.random.default_rng(0), 16)

    def run(**knobs):
        method = METHODS.create("oneadapt_filter", trade=0.6, scale=scale, probe_every=3, **knobs)
        return run_clip(application, {"": method.controller(application)}, moving)[""]

    scale = 0.5
    while len(run()[-1].kept) < 3:  # the lowest of these scales at which all frames stay
        scale *= 2
    corrected = run(is_calibrating=True)
    assert sum(len(record.kept) for record in corrected) < 3 * len(moving)
    # All frames were analysed at first: learning is free. Once frames are dropped, every third interval is analysed again.
    first = next(record.t for record in corrected if len(record.kept) < 3)
    assert all(record.ledger.search_forwards == 0 for record in corrected[: first + 1])
    assert {record.ledger.search_forwards for record in corrected[first:]} <= {0, 3}


def test_reducto_with_profiling_pays_for_what_it_did_not_analyse():
    application = prepared("filter")
    clip = small_clip(np.random.default_rng(0), 6)
    method = METHODS.create("reducto_profiled", trade=5.0, every=2)
    records = run_clip(application, {"": method.controller(application)}, clip)[""]
    assert records[1].ledger.search_forwards == 0  # the first interval was analysed whole
    assert len(records[1].kept) == 1
    assert records[3].ledger.search_forwards == 3
