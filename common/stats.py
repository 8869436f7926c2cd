"""Interval estimates: bootstrap confidence intervals of means, medians, paired ratios and paired differences.

The bootstrap resamples *units*, not rows. Rows of one unit (an item answered under several seeds, or timed several times)
are not independent, so they are drawn together; resampling them one by one would make intervals too narrow. All samples
of a paired statistic are resampled with the same units, so what a unit has in common cancels, as it should.

Intervals are percentile intervals, rounded outwards, taken a little further into the tails than their nominal level says, as far
as Student's t is wider than the normal distribution at this number of units (the "expanded percentile" interval of Hesterberg,
The American Statistician 2015). We chose them over BCa because they are defined for medians (whose jackknife, which BCa needs,
is not) and for samples that contain infinities. Below five units they are too narrow all the same, since no resample lies
beyond the data: `Estimate.has_few_units`. tests/common/test_stats.py measures what they cover.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from common.errors import ResultsError, UndefinedStatistic
from common.rng import for_component

FloatArray = npt.NDArray[np.float64]
Samples = Sequence[float] | npt.NDArray[Any] | pd.Series
StatisticName = Literal["mean", "median"]

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
FEW_UNITS = 5
"""With fewer units than this an interval is narrower than it claims."""
_BLOCK_ELEMENTS = 4_000_000  # rows held at once while resampling: 32 MB per sample


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its confidence interval.

    Attributes:
        value: the statistic of all rows.
        low, high: the interval. With fewer than two units nothing is known about the spread, and it is (-inf, +inf).
        num_rows: how many numbers (pairs of numbers, for a paired statistic) went in.
        num_units: how many independent units these came from; this is the n of the interval.
        confidence: nominal coverage, in (0, 1).
    """

    value: float
    low: float
    high: float
    num_rows: int
    num_units: int
    confidence: float = CONFIDENCE

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def has_few_units(self) -> bool:
        """Whether so few units went in that the interval, if there is one, is too narrow."""
        return self.num_units < FEW_UNITS


def bootstrap(
    statistic: Callable[..., Any],
    *samples: Samples,
    units: Sequence[Hashable] | npt.NDArray[Any] | pd.Series | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Percentile bootstrap interval of `statistic(*samples)`, resampling whole units.

    Args:
        statistic: reduces the last axis of each of its arguments: arrays (..., N) to (...).
        samples: one or more sequences of the same length N; number i of each belongs together and is drawn together.
        units: the unit that row i came from, (N,); rows of one unit are drawn together. Every row is its own unit if None.
        seed: the same seed and rows give the same interval, whatever the order of the units.
        num_resamples: number of bootstrap resamples.
        confidence: nominal coverage, in (0, 1).

    Raises:
        ResultsError: no rows, different lengths, a NaN among them, or a statistic that is undefined for these rows (0/0).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is outside (0, 1).")
    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples]
    num_rows = len(arrays[0])
    if any(array.shape != (num_rows,) for array in arrays):
        raise ResultsError(f"paired samples must be lists of the same length, got {[array.shape for array in arrays]}.")
    if num_rows == 0:
        raise ResultsError("there are no rows to estimate from.")
    if any(np.isnan(array).any() for array in arrays):
        raise ResultsError("NaN among the rows to estimate from; a failed measurement must not be stored as a number.")
    if units is not None and len(units) != num_rows:
        raise ResultsError(f"{num_rows} rows but {len(units)} units.")

    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(*arrays))
        if math.isnan(value):
            raise UndefinedStatistic("the statistic of these rows is undefined (0/0).")
        rows_of = _rows_by_unit(units, num_rows)
        num_units = len(rows_of)
        if num_units < 2:
            return Estimate(value, -math.inf, math.inf, num_rows, num_units, confidence)
        resampled = _resample(statistic, arrays, rows_of, seed, num_resamples)
        # An undefined resample could have been anything: let it widen both ends.
        undefined = np.isnan(resampled)
        tail = _tail((1 - confidence) / 2, num_units)
        low = np.quantile(np.where(undefined, -np.inf, resampled), tail, method="lower")
        high = np.quantile(np.where(undefined, np.inf, resampled), 1 - tail, method="higher")
    return Estimate(value, float(low), float(high), num_rows, num_units, confidence)


def _tail(nominal: float, num_units: int) -> float:
    """The tail of the bootstrap distribution to cut off, so that about `nominal` is cut off in truth."""
    expansion = math.sqrt(num_units / (num_units - 1))
    return float(special.ndtr(expansion * special.stdtrit(num_units - 1, nominal)))


def _rows_by_unit(
    units: Sequence[Hashable] | npt.NDArray[Any] | pd.Series | None, num_rows: int
) -> list[npt.NDArray[np.intp]]:
    if units is None:
        return [np.array([row]) for row in range(num_rows)]
    _, codes = np.unique(np.asarray([str(unit) for unit in units]), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _resample(
    statistic: Callable[..., Any],
    arrays: list[FloatArray],
    rows_of: list[npt.NDArray[np.intp]],
    seed: int,
    num_resamples: int,
) -> FloatArray:
    num_units = len(rows_of)
    picks = for_component(seed, "bootstrap").integers(num_units, size=(num_resamples, num_units))
    if len({len(rows) for rows in rows_of}) > 1:  # resamples differ in length, so they cannot share an array
        drawn = (np.concatenate([rows_of[unit] for unit in pick]) for pick in picks)
        return np.array([float(statistic(*(array[rows] for array in arrays))) for rows in drawn])
    table = np.stack(rows_of)
    block = max(1, _BLOCK_ELEMENTS // table.size)
    parts = []
    for start in range(0, num_resamples, block):
        rows = table[picks[start : start + block]].reshape(-1, table.size)
        parts.append(np.asarray(statistic(*(array[rows] for array in arrays)), dtype=np.float64))
    return np.concatenate(parts)


# ------------------------------------------------------------------------------------------------------------- statistics


def _mean(sample: FloatArray) -> Any:
    return np.mean(sample, axis=-1)


def _median(sample: FloatArray) -> Any:
    return np.median(sample, axis=-1)


STATISTICS: dict[str, Callable[[FloatArray], Any]] = {"mean": _mean, "median": _median}


def mean(sample: Samples, **options: Any) -> Estimate:
    """Mean, with its interval. `options`: as for `bootstrap`."""
    return bootstrap(_mean, sample, **options)


def median(sample: Samples, **options: Any) -> Estimate:
    """Median, with its interval. `options`: as for `bootstrap`."""
    return bootstrap(_median, sample, **options)


def ratio_of_medians(of: Samples, over: Samples, **options: Any) -> Estimate:
    """median(of) / median(over) of paired samples: the speed-up of a typical request. `options`: as for `bootstrap`."""
    return bootstrap(lambda a, b: _median(a) / _median(b), of, over, **options)


def median_of_ratios(of: Samples, over: Samples, **options: Any) -> Estimate:
    """Median of of[i] / over[i]: the typical speed-up of a request. `options`: as for `bootstrap`."""
    return bootstrap(lambda a, b: _median(a / b), of, over, **options)


def ratio_of_means(of: Samples, over: Samples, **options: Any) -> Estimate:
    """mean(of) / mean(over) of paired samples: the ratio of totals (bytes, busy time). `options`: as for `bootstrap`."""
    return bootstrap(lambda a, b: _mean(a) / _mean(b), of, over, **options)


def relative_reduction(of: Samples, below: Samples, **options: Any) -> Estimate:
    """1 - mean(of) / mean(below): 0.71 where `of` is 71 % lower; negative where it is higher. `options`: as for `bootstrap`."""
    return bootstrap(lambda a, b: 1 - _mean(a) / _mean(b), of, below, **options)


def difference_of_means(of: Samples, minus: Samples, **options: Any) -> Estimate:
    """mean(of - minus) of paired samples. `options`: as for `bootstrap`."""
    return bootstrap(lambda a, b: _mean(a - b), of, minus, **options)


def gap_closed(of: Samples, bottom: Samples, top: Samples, **options: Any) -> Estimate:
    """(mean(of) - mean(bottom)) / (mean(top) - mean(bottom)): the share of the gap between two baselines that is closed.

    1 means as good as `top`, 0 as good as `bottom`. Where the baselines hardly differ the interval is wide, as it should be.
    `options`: as for `bootstrap`.
    """
    return bootstrap(lambda a, b, c: (_mean(a) - _mean(b)) / (_mean(c) - _mean(b)), of, bottom, top, **options)


# ------------------------------------------------------------------------------------------------------------ result rows


def resampling_units(rows: pd.DataFrame) -> pd.Series:
    """The unit of each result row: its item, or its seed where there are more seeds than items.

    Items that all seeds share are the population that a claim is about, and several seeds say little more about one item,
    so items are resampled. An experiment with a few fixed items and many seeds (one trace, fifty loss patterns) draws its
    randomness from the seeds instead. Where each seed draws items of its own both are valid, and the finer one is used.

    Args:
        rows: a frame with columns `item` and `seed`.
    """
    by_seed = rows["seed"].nunique() > rows["item"].nunique()
    return rows["seed"].astype(str) if by_seed else rows["item"].astype(str)


def summarise(
    rows: pd.DataFrame, by: Sequence[str], statistic: StatisticName = "mean", *, seed: int = 0
) -> pd.DataFrame:
    """Point estimate and interval of `value` for each group of result rows.

    Args:
        rows: result rows, as `Results.select` gives them.
        by: columns to group by, in the order wanted; groups keep their order of appearance. May be empty: one group.
        statistic: "mean" or "median".

    Returns:
        One row per group: the `by` columns, value, low, high, num_rows, num_units, unit and basis (several are joined
        with "+"). Empty if `rows` is.

    Raises:
        ResultsError: a group holds several units of measurement.
    """
    columns = [*by, "value", "low", "high", "num_rows", "num_units", "unit", "basis"]
    groups = rows.groupby(list(by), sort=False, dropna=False) if by else [((), rows)] if len(rows) else []
    found: list[tuple[Any, ...]] = []
    for key, group in groups:
        if group["unit"].nunique() > 1:
            raise ResultsError(f"rows with units {sorted(group['unit'].unique())} cannot be summarised as one number.")
        estimate = bootstrap(STATISTICS[statistic], group["value"], units=resampling_units(group), seed=seed)
        basis = "+".join(sorted(group["basis"].unique()))
        numbers = (estimate.value, estimate.low, estimate.high, estimate.num_rows, estimate.num_units)
        found.append((*key, *numbers, group["unit"].iloc[0], basis))
    return pd.DataFrame(found, columns=columns)
