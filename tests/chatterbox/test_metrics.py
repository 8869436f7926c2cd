import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatterbox.metrics import UNITS, net_stall_ratio, score, stall_ratio, whole_gap_stall_ratio

R = [0.0, 0.1, 0.6, 0.7]


def test_ratios_by_hand():
    # gaps 0.1, 0.5, 0.1; T = 0.7; excess over 0.2 s: 0.3
    assert stall_ratio(R, 0.2) == pytest.approx(0.3 / 0.7)
    assert whole_gap_stall_ratio(R, 0.2) == pytest.approx(0.5 / 0.7)
    # the server itself paused 0.3 s before token 2, so 0.2 s of that gap are the network's
    assert net_stall_ratio([0.0, 0.1, 0.4, 0.5], R) == pytest.approx(0.2 / 0.7)


def test_all_metrics_by_hand():
    found = score([0.0, 0.1, 0.2, 0.3], [0.05, 0.15, 0.65, 0.75], 60.0)
    assert found.stall_s_per_1000_tokens == pytest.approx(0.3 * 1000 / 4)
    assert found.gap_max_s == pytest.approx(0.5)
    assert found.first_token_s == pytest.approx(0.05)
    assert found.delay_mean_s == pytest.approx((0.05 + 0.05 + 0.45 + 0.45) / 4)
    assert found.completion_lag_s == pytest.approx(0.45)
    assert found.incomplete == 0
    assert set(UNITS) == set(vars(found))


def test_an_unfinished_answer_is_one_long_stall_not_a_good_one():
    found = score([0.0, 0.1, 0.2], [0.05, 0.15, np.inf], 60.0)
    assert found.incomplete == 1
    assert found.stall_ratio == pytest.approx((60.2 - 0.15 - 0.2) / (60.2 - 0.05))
    nothing = score([0.0, 0.1], [np.inf, np.inf], 60.0)
    assert (nothing.incomplete, nothing.first_token_s) == (1, pytest.approx(60.1))


@given(st.lists(st.floats(0, 5), min_size=2, max_size=50), st.floats(0.01, 2))
def test_ratios_stay_in_range_and_in_order(gaps, threshold):
    times = np.cumsum(gaps)
    low, high = stall_ratio(times, threshold), whole_gap_stall_ratio(times, threshold)
    assert 0 <= low <= high <= 1 + 1e-9


def test_one_token_and_none():
    assert score([0.0], [0.1], 60.0).stall_ratio == 0
    with pytest.raises(ValueError, match="N >= 1"):
        score([], [], 60.0)
    with pytest.raises(ValueError, match="shape"):
        score([0.0], [0.1, 0.2], 60.0)
