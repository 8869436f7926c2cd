"""The controller against examples worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheblend.controller import (
    LayerwiseTime,
    ProportionalTime,
    kv_bytes_per_token,
    load_s,
    pick_device,
    pick_ratio,
)
from common.errors import ConfigError
from common.hardware import DeviceProfile

GB = 1e9


def device(name: str, gb_per_s: float, usd: float = 1.0) -> DeviceProfile:
    return DeviceProfile(name, gb_per_s * GB, 0.001, usd)


def test_ratio_by_hand():
    # Prefill 1 s, KV 2 GB. 4 GB/s: T_load 0.5 s, hidden by r = 0.5. 40 GB/s: 0.05 s would hide r = 0.05, but r* = 0.15.
    recompute = ProportionalTime(1.0)
    assert load_s(2 * GB, device("ssd", 4)) == pytest.approx(0.5)
    assert pick_ratio(recompute, 0.5) == pytest.approx(0.5)
    assert pick_ratio(recompute, load_s(2 * GB, device("ram", 40))) == 0.15
    # 1 GB/s: loading takes as long as two prefills; more than everything cannot be recomputed.
    assert pick_ratio(recompute, 2.0) == 1.0


def test_layerwise_time_by_hand():
    # L = 4, q = 0: T(0) = 1/4, T(1) = 1, T(0.2) = (1 + 3 * 0.2) / 4 = 0.4 of the prefill.
    recompute = LayerwiseTime(10.0, 4)
    assert [recompute.seconds(r) for r in (0, 0.2, 1)] == pytest.approx([2.5, 4.0, 10.0])
    assert recompute.ratio(4.0) == pytest.approx(0.2)
    assert recompute.ratio(1.0) == 0.0
    # With a fifth of the prompt in the question: per layer 0.5 * 0.8 + 0.2 = 0.6, so (1 + 3 * 0.6) / 4 = 0.7.
    assert LayerwiseTime(10.0, 4, 0.2).seconds(0.5) == pytest.approx(7.0)
    # The paper's form takes recomputing for cheaper than it is and therefore allows a larger ratio.
    assert pick_ratio(ProportionalTime(10.0), 4.0) == pytest.approx(0.4)
    assert pick_ratio(recompute, 4.0) == pytest.approx(0.2)


def test_fit_finds_scale_and_offset():
    truth = LayerwiseTime(10.0, 8, 0.05, scale=1.3, offset_s=0.7)
    ratios = (0.0, 0.15, 0.5, 1.0)
    fitted = LayerwiseTime(10.0, 8, 0.05).fit(ratios, [truth.seconds(r) for r in ratios])
    assert (fitted.scale, fitted.offset_s) == pytest.approx((1.3, 0.7))
    single = LayerwiseTime(10.0, 8).fit([0.15], [6.0])
    assert single.seconds(0.15) == pytest.approx(6.0)
    assert single.offset_s == 0
    falling = LayerwiseTime(10.0, 8).fit([0.0, 1.0], [6.0, 3.0])  # noise: time cannot fall as work grows
    assert falling.seconds(1.0) > falling.seconds(0.0) > 0
    with pytest.raises(ConfigError, match="1 ratios and 2 times"):
        fitted.fit([0.1], [1.0, 2.0])


def test_sizes_of_the_papers_models():
    # Llama-7B 512 KiB, Mistral-7B 128 KiB, Yi-34B 240 KiB, Llama-70B 320 KiB per token in fp16.
    kib = [kv_bytes_per_token(*shape) / 1024 for shape in ((32, 32, 128), (32, 8, 128), (60, 8, 128), (80, 8, 128))]
    assert kib == [512, 128, 240, 320]
    # One layer of Llama-7B at 4096 tokens from a 4.8 GB/s SSD: 64 MiB in 14 ms (the paper says about 16).
    assert load_s(4096 * kv_bytes_per_token(1, 32, 128), device("ssd", 4.8)) == pytest.approx(0.014, rel=0.01)


def test_device_is_the_cheapest_whose_loading_is_hidden():
    # Prefill 2 s: T_recompute(0.15) = 0.3 s. KV 1 GB: 20, 5, 2 GB/s take 0.05, 0.2, 0.5 s.
    ram, fast, slow = device("ram", 20, 3.0), device("fast", 5, 0.1), device("slow", 2, 0.05)
    choice = pick_device(ProportionalTime(2.0), 1 * GB, [ram, slow, fast])
    assert choice.device is fast
    assert (choice.loading_s, choice.recompute_s, choice.cost_usd) == pytest.approx((0.2, 0.3, 0.1))
    assert choice.is_hidden
    # A large model recomputes for longer, so that a slower and cheaper device will do (the paper's 70B example).
    assert pick_device(ProportionalTime(4.0), 1 * GB, [ram, slow, fast]).device is slow
    # None is fast enough: the fastest, and it says so.
    choice = pick_device(ProportionalTime(0.1), 1 * GB, [slow, ram, fast])
    assert choice.device is ram
    assert not choice.is_hidden
    assert pick_device(ProportionalTime(2.0), 1 * GB, [fast], duration_s=15 * 86400).cost_usd == pytest.approx(0.05)
    with pytest.raises(ConfigError, match="no device"):
        pick_device(ProportionalTime(2.0), 1, [])


TIMES = st.one_of(
    st.builds(ProportionalTime, st.floats(0.01, 100)),
    st.builds(
        LayerwiseTime, st.floats(0.01, 100), st.integers(2, 80), st.floats(0, 0.5), st.floats(0.1, 3), st.floats(0, 5)
    ),
)


@given(recompute=TIMES, loading=st.floats(0, 200), min_ratio=st.floats(0, 1))
def test_the_picked_ratio_is_hidden_unless_the_minimum_forbids_it(recompute, loading, min_ratio):
    ratio = pick_ratio(recompute, loading, min_ratio)
    assert min_ratio <= ratio <= 1
    if ratio > min_ratio:
        assert recompute.seconds(ratio) <= loading * (1 + 1e-9) + 1e-9
        if ratio < 1:
            assert recompute.seconds(min(1, ratio + 1e-3)) > loading


@given(recompute=TIMES, ratio=st.floats(0, 1))
def test_ratio_inverts_seconds(recompute, ratio):
    assert recompute.ratio(recompute.seconds(ratio)) == pytest.approx(ratio, abs=1e-6)
