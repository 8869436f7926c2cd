"""Intervals: worked out by hand where possible, checked against scipy and for coverage elsewhere."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from common import stats
from common.errors import ResultsError

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30)


def result_rows(values, items, seeds=None, **columns):
    count = len(values)
    seeds = [0] * count if seeds is None else seeds
    base = {"value": values, "item": items, "seed": seeds, "unit": "s", "basis": "measured"}
    return pd.DataFrame(base | columns)


def test_golden_mean_of_two_units():
    # Two units, 0 and 1: a resample is 00, 01, 10 or 11, so its mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4. What is cut
    # off a tail of nominally 2.5 % is less than a quarter, so both ends are the extremes.
    estimate = stats.mean([0.0, 1.0])
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.0, 1.0)
    assert (estimate.num_rows, estimate.num_units) == (2, 2)
    # A 20 % interval cuts off 40 % nominally. Student's t with one degree of freedom has its 40 % quantile at
    # tan(pi (0.4 - 0.5)) = -0.3249, times sqrt(2 / 1) = -0.4595; the normal distribution has 32.3 % below that: more than a
    # quarter, so both ends are 1/2.
    narrow = stats.mean([0.0, 1.0], confidence=0.2)
    assert (narrow.low, narrow.high) == (0.5, 0.5)
    # A 40 % interval: tan(pi (0.3 - 0.5)) sqrt(2) = -1.0275, 15.2 % below: less than a quarter, the extremes again.
    wide = stats.mean([0.0, 1.0], confidence=0.4)
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_golden_point_estimates():
    of, over = [2.0, 8.0, 30.0], [1.0, 2.0, 10.0]
    assert stats.ratio_of_medians(of, over).value == 8 / 2
    assert stats.median_of_ratios(of, over).value == 3.0  # median of 2, 4, 3
    assert stats.ratio_of_means(of, over).value == 40 / 13
    assert stats.relative_reduction(over, of).value == pytest.approx(1 - 13 / 40)
    assert stats.difference_of_means(of, over).value == 9.0
    assert stats.gap_closed([0.8, 0.7], [0.5, 0.5], [1.0, 0.9]).value == pytest.approx(0.25 / 0.45)
    assert stats.median(of).value == 8.0


def test_pairing_removes_what_items_share():
    """Items differ by a factor of e^2 among each other, methods by exactly 3: the paired ratio is known exactly."""
    rng = np.random.default_rng(0)
    over = rng.lognormal(0, 2, size=50)
    estimate = stats.median_of_ratios(3 * over, over)
    assert estimate.low == pytest.approx(3)
    assert estimate.high == pytest.approx(3)
    unpaired = stats.median_of_ratios(3 * over, rng.permutation(over))
    assert unpaired.high / unpaired.low > 2


def test_rows_of_one_unit_are_not_independent():
    """Repeating each item ten times adds no information: the interval must not shrink."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=20)
    once = stats.mean(values, units=[f"i{n}" for n in range(20)])
    repeated = stats.mean(np.repeat(values, 10), units=[f"i{n}" for n in range(20) for _ in range(10)])
    assert repeated.num_units == once.num_units == 20
    assert repeated.num_rows == 200
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))
    naive = stats.mean(np.repeat(values, 10))
    assert naive.high - naive.low < 0.5 * (once.high - once.low)


def test_units_of_unequal_size():
    # Unit a has three rows of 0, unit b one row of 1. Resamples: aa -> 0, ab and ba -> 1/4, bb -> 1.
    estimate = stats.mean([0.0, 0.0, 0.0, 1.0], units=["a", "a", "a", "b"])
    assert (estimate.value, estimate.low, estimate.high) == (0.25, 0.0, 1.0)
    assert stats.mean([0.0, 0.0, 0.0, 1.0], units=["a", "a", "a", "b"], confidence=0.2).low == 0.25


@given(NUMBERS)
def test_an_interval_depends_on_the_seed_and_the_rows_alone(values):
    units = [f"item{n}" for n in range(len(values))]
    one = stats.median(values, units=units)
    assert one == stats.median(values, units=units)
    turned = stats.median(values[::-1], units=units[::-1])
    assert (turned.low, turned.high, turned.value) == (one.low, one.high, one.value)


@given(NUMBERS, st.floats(-1e3, 1e3), st.floats(0.125, 8))
def test_an_interval_moves_and_scales_with_its_sample(values, shift, scale):
    array = np.array(values)
    one, other = stats.mean(array), stats.mean(array * scale + shift)
    tolerance = 1e-9 * (1 + np.abs(array).max() * scale + abs(shift))
    for end in ("low", "value", "high"):
        assert getattr(other, end) == pytest.approx(getattr(one, end) * scale + shift, abs=tolerance)


@given(NUMBERS)
def test_an_interval_stays_within_the_sample(values):
    for estimate in (stats.mean(values), stats.median(values)):
        tolerance = 1e-9 * (1 + max(map(abs, values)))
        assert min(values) - tolerance <= estimate.low <= estimate.high <= max(values) + tolerance


def test_agreement_with_scipy():
    """With many units the expansion of the tails is slight, and scipy's percentile interval is the same."""
    rng = np.random.default_rng(3)
    sample = rng.lognormal(size=800)
    for ours, statistic in ((stats.mean, np.mean), (stats.median, np.median)):
        theirs = scipy.stats.bootstrap(
            (sample,), statistic, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        estimate = ours(sample, num_resamples=5000)
        width = theirs.high - theirs.low
        assert estimate.low == pytest.approx(theirs.low, abs=0.06 * width)
        assert estimate.high == pytest.approx(theirs.high, abs=0.06 * width)


def test_blocks_do_not_change_the_interval(monkeypatch):
    sample = np.random.default_rng(0).normal(size=37)
    whole = stats.mean(sample)
    monkeypatch.setattr(stats, "_BLOCK_ELEMENTS", 100)
    assert stats.mean(sample) == whole


@pytest.mark.parametrize(
    ("num_units", "sigma", "at_least"),
    # Skewed samples of few units are where percentile intervals are too narrow; this documents by how much.
    [(5, "normal", 0.86), (10, "normal", 0.91), (60, "normal", 0.92), (20, "lognormal", 0.84), (60, "lognormal", 0.87)],
)
def test_coverage_of_the_mean(num_units, sigma, at_least):
    rng = np.random.default_rng(5)
    draw, truth = (rng.normal, 0.0) if sigma == "normal" else (rng.lognormal, math.exp(0.5))
    estimates = [stats.mean(draw(size=num_units), num_resamples=400, seed=trial) for trial in range(400)]
    coverage = np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])
    assert at_least <= coverage <= 0.99


@pytest.mark.parametrize("statistic", [stats.ratio_of_medians, stats.median_of_ratios, stats.ratio_of_means])
def test_coverage_of_paired_ratios(statistic):
    rng = np.random.default_rng(6)
    hits = []
    for trial in range(300):
        over = rng.lognormal(0, 0.5, size=40)
        noise = rng.lognormal(0, 0.2, size=40) / (math.exp(0.02) if statistic is stats.ratio_of_means else 1)
        estimate = statistic(3 * over * noise, over, num_resamples=400, seed=trial)
        hits.append(estimate.low <= 3 <= estimate.high)
    assert np.mean(hits) >= 0.89


def test_coverage_with_clusters():
    """Four correlated rows per item: resampling items covers, resampling rows does not."""
    rng = np.random.default_rng(7)
    clustered, naive = [], []
    for trial in range(300):
        values = np.repeat(rng.normal(size=40), 4) + 0.2 * rng.normal(size=160)
        by_item = stats.mean(values, units=np.repeat(np.arange(40), 4), num_resamples=400, seed=trial)
        by_row = stats.mean(values, num_resamples=400, seed=trial)
        clustered.append(by_item.low <= 0 <= by_item.high)
        naive.append(by_row.low <= 0 <= by_row.high)
    assert np.mean(clustered) >= 0.89
    assert np.mean(naive) <= 0.80


def test_one_unit_has_no_interval():
    for estimate in (stats.mean([3.0]), stats.mean([3.0, 5.0], units=["a", "a"])):
        assert (estimate.low, estimate.high) == (-math.inf, math.inf)
        assert not estimate.has_interval
        assert estimate.has_few_units
    assert stats.mean([3.0, 3.0]).has_interval


def test_infinities_are_numbers():
    """A frame that never arrived has delay +inf; medians and intervals must survive it."""
    values = [1.0, 2.0, 3.0, 4.0, math.inf]
    estimate = stats.median(values)
    assert estimate.value == 3.0
    assert estimate.high in (4.0, math.inf)
    assert stats.mean(values).value == math.inf


def test_an_undefined_resample_widens_the_interval():
    # Resamples that draw the zero pair alone are 0/0: the ratio could be anything.
    estimate = stats.ratio_of_means([0.0, 6.0], [0.0, 2.0])
    assert (estimate.value, estimate.low, estimate.high) == (3.0, -math.inf, math.inf)


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (([],), {}, "no rows"),
        (([1.0, math.nan],), {}, "NaN"),
        (([1.0, 2.0], [1.0]), {}, "same length"),
        (([1.0, 2.0],), {"units": ["a"]}, "2 rows but 1 units"),
    ],
)
def test_bad_samples_are_refused(samples, options, message):
    statistic = stats.ratio_of_means if len(samples) == 2 else stats.mean
    with pytest.raises(ResultsError, match=message):
        statistic(*samples, **options)


def test_an_undefined_statistic_is_refused():
    with pytest.raises(ResultsError, match="undefined"):
        stats.ratio_of_means([0.0, 0.0], [0.0, 0.0])
    with pytest.raises(ValueError, match="outside"):
        stats.mean([1.0, 2.0], confidence=95)


def test_the_resampling_unit_is_the_finer_of_item_and_seed():
    many_items = result_rows([0.0] * 6, items=["a", "b", "c"] * 2, seeds=[0, 0, 0, 1, 1, 1])
    assert stats.resampling_units(many_items).tolist() == ["a", "b", "c"] * 2
    many_seeds = result_rows([0.0] * 6, items=["a", "b"] * 3, seeds=[0, 0, 1, 1, 2, 2])
    assert stats.resampling_units(many_seeds).tolist() == ["0", "0", "1", "1", "2", "2"]


def test_summarise_groups_in_order_of_appearance():
    rows = pd.concat(
        [
            result_rows([3.0, 5.0], ["0", "1"], series="b", basis="modelled"),
            result_rows([1.0, 2.0, 9.0], ["0", "1", "2"], series="a"),
        ]
    )
    table = stats.summarise(rows, ["series"], "median")
    assert table["series"].tolist() == ["b", "a"]
    assert table["value"].tolist() == [4.0, 2.0]
    assert table["num_units"].tolist() == [2, 3]
    assert table["basis"].tolist() == ["modelled", "measured"]
    assert table["unit"].tolist() == ["s", "s"]
    whole = stats.summarise(rows, [])
    assert whole["value"].tolist() == [4.0]
    assert whole["basis"].tolist() == ["measured+modelled"]


def test_summarise_of_nothing_and_of_mixed_units():
    rows = result_rows([1.0, 2.0], ["0", "1"])
    assert stats.summarise(rows.iloc[:0], ["item"]).empty
    assert stats.summarise(rows.iloc[:0], []).empty
    rows.loc[1, "unit"] = "ms"
    with pytest.raises(ResultsError, match=r"units \['ms', 's'\]"):
        stats.summarise(rows, [])
