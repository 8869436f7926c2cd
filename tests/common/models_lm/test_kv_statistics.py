"""The statistics on series whose values are known."""

import numpy as np
import pytest

from common.models.kv_statistics import channel_spread, locality, rank_agreement, top_share


def test_locality_of_uncorrelated_and_of_slow_channels():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((1, 20000, 3))
    # var(x_t - x_{t-1}) = 2 var(x) for independent tokens.
    assert locality(noise)[0] == pytest.approx(0.5, abs=0.02)
    # AR(1) with rho: var / var(change) = 1 / (2 (1 - rho)) = 2.5 at rho 0.8.
    slow = np.zeros((1, 60000, 1))
    for t in range(1, slow.shape[1]):
        slow[0, t] = 0.8 * slow[0, t - 1] + rng.standard_normal()
    assert locality(slow)[0] == pytest.approx(2.5, rel=0.1)


def test_locality_leaves_constant_channels_out():
    values = np.random.default_rng(1).standard_normal((1, 50, 2))
    alone = locality(values[:, :, :1])
    values[:, :, 1] = 3.0
    assert locality(values) == pytest.approx(alone)


def test_channel_spread():
    values = np.array([[[0.0, 0.0, 0.0], [2.0, 4.0, 20.0]]])  # standard deviations 1, 2, 10
    assert channel_spread(values)[0] == pytest.approx(5.0)


def test_top_share():
    deviation = np.array([[1.0] * 90 + [10.0] * 10, [1.0] * 100, [0.0] * 100])
    # 15 of 100 tokens: ten of 10 and five of 1 = 105 of 190.
    assert top_share(deviation, 0.15) == pytest.approx([105 / 190, 0.15, 0.0])


def test_rank_agreement():
    a = np.arange(50.0)
    assert rank_agreement(np.stack([a, np.exp(a / 10), -a, np.ones(50)])) == pytest.approx([1.0, -1.0, 0.0])
