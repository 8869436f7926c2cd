"""Scales, distributions, and the coder of a packet's elements."""

import math

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grace import entropy
from grace.entropy import MAX_MAGNITUDE, NUM_SCALES, Plane

PLANE = Plane(6, 5, 4, ((0, 1), (2, 3, 4, 5)))


def coded(plane, elements, values, scales):
    coder = constriction.stream.queue.RangeEncoder()
    entropy.encode_plane(coder, plane, elements, values, scales)
    return coder.get_compressed()


def latents_of(seed: int, spread: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(np.rint(rng.laplace(size=(6, 5, 4)) * spread), -MAX_MAGNITUDE, MAX_MAGNITUDE).astype(np.int16)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), spread=st.sampled_from([0.0, 0.05, 0.5, 3.0, 60.0, 4000.0]), share=st.floats(0.01, 1)
)
def test_round_trip_and_length(seed, spread, share):
    latents = latents_of(seed, spread)
    usual = entropy.pack_usual(np.full(6, 12), np.full(6, 0.5))
    scales = entropy.sent_scales(latents, usual)
    elements = np.flatnonzero(np.random.default_rng(seed).random(latents.size) < share)
    values = latents.reshape(-1)[elements].astype(np.int64)
    words = coded(PLANE, elements, values, scales)
    found = entropy.decode_plane(constriction.stream.queue.RangeDecoder(words), PLANE, elements, scales)
    assert np.array_equal(found, values)
    assert 32 * len(words) <= entropy.ideal_bits(PLANE, elements, values, scales) + 72


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, NUM_SCALES - 1), min_size=6, max_size=6), st.integers(1, NUM_SCALES - 1))
def test_sent_scales_stay_close_and_survive(wanted, usual_scale):
    means = entropy.mean_magnitudes()[wanted]
    # One channel of 1/mean elements with a single one in it, or a constant, has about the wanted mean magnitude.
    latents = np.zeros((6, 40, 40), np.int16)
    for channel, mean in enumerate(means):
        count = round(mean * 1600)
        latents[channel].reshape(-1)[: min(count, 1600)] = max(1, round(mean))
    usual = entropy.pack_usual(np.full(6, usual_scale), np.full(6, 0.2))
    nearest, sent = entropy.scales_of(latents), entropy.sent_scales(latents, usual)
    assert (np.abs(nearest - sent) <= 1).all()
    assert ((sent == 0) == (nearest == 0)).all()
    coder = constriction.stream.queue.RangeEncoder()
    entropy.encode_scales(coder, sent, usual)
    decoder = constriction.stream.queue.RangeDecoder(coder.get_compressed())
    assert np.array_equal(entropy.decode_scales(decoder, usual), sent)


def test_tables_are_distributions_with_the_means_they_claim():
    table, means = entropy.frequencies(), entropy.mean_magnitudes()
    assert (table >= 1).all()
    assert (table.sum(axis=1) == 1 << 20).all()
    magnitudes = np.abs(np.arange(-entropy.LIMIT, entropy.LIMIT + 1))
    for scale in range(3, 36):
        mean = (table[scale, :-1] * magnitudes).sum() / (1 << 20)
        assert mean == pytest.approx(means[scale], rel=0.02, abs=4e-3)  # symbols that never occur keep one of 2^20


def test_a_laplace_by_hand():
    # P(0) = 1 - t^r and P(+-1) = t^r (1 - t) / 2 with r = 0.55; t = 1/2 has the mean magnitude t^r / (1 - t) = 1.3660.
    t = 0.5
    counts = entropy._quantised_laplace(t**0.55 / (1 - t))
    assert counts[entropy.LIMIT] / 2**20 == pytest.approx(1 - 0.5**0.55, abs=1e-4)  # 0.3170
    assert counts[entropy.LIMIT + 1] / 2**20 == pytest.approx(0.5**0.55 * 0.25, abs=1e-4)  # 0.1708
    assert counts[entropy.LIMIT - 1] == counts[entropy.LIMIT + 1]


def test_zero_channels_cost_nothing():
    latents = np.zeros((6, 5, 4), np.int16)
    scales = entropy.scales_of(latents)
    assert (scales == 0).all()
    assert len(coded(PLANE, np.arange(120), np.zeros(120, np.int64), scales)) == 0


def test_activity_lowers_the_cost_of_clustered_latents():
    rng = np.random.default_rng(1)
    plane = Plane(16, 16, 16, (tuple(range(4)), tuple(range(4, 16))))
    latents = np.zeros((16, 16, 16), np.int16)
    latents[:, :6, :6] = np.rint(rng.laplace(size=(16, 6, 6)) * 2)
    scattered = rng.permutation(latents.reshape(-1)).reshape(latents.shape)
    bits = [
        entropy.ideal_bits(plane, np.arange(latents.size), x.reshape(-1).astype(np.int64), entropy.scales_of(x))
        for x in (latents, scattered)
    ]
    assert bits[0] < 0.75 * bits[1]


def test_shift_borders_are_half_steps():
    borders = entropy._shift_borders()
    assert len(borders) == 2 * 14
    assert borders[13] * borders[14] == pytest.approx(1.0)
    assert math.log(borders[14], 1.25) == pytest.approx(0.5)
