"""How a claim's number is computed from stored rows: named evaluators, with arguments from the claims file.

A *side* says which rows one operand is: a method's name, or a mapping of columns to values, in which `knob.NAME` stands for a
knob of the method: `{method: cacheblend, knob.ratio: 0.15}`, `{method: full_reuse, metric: kl}`, `{factor.mask: causal}`.
Operands are paired: same run, item, seed and pooled keys. Rows of one item are resampled together.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import pandas as pd

from common import stats
from common.errors import ConfigError, ResultsError
from common.registry import Registry
from common.results import Results, side_by_side
from common.stats import Estimate

Side = str | Mapping[str, Any]


class Evaluator(Protocol):
    """Computes one number with its interval; registered in `EVALUATORS`, its fields are its arguments."""

    no_effect: ClassVar[float | None]
    """The value that means "no difference", or None where there is no such value."""

    @property
    def sides(self) -> Sequence[Mapping[str, Any]]:
        """The rows that each operand is computed from, as columns and values."""
        ...

    def evaluate(self, samples: Sequence[pd.Series], units: pd.Series) -> Estimate:
        """Estimate from the paired samples of the sides."""
        ...


EVALUATORS: Registry[Any] = Registry("claim evaluator")


class NoRows(ResultsError):
    """The rows that a number is computed from are not among the results."""


def samples_of(
    results: Results, sides: Sequence[Mapping[str, Any]], keys: Sequence[str] = ()
) -> tuple[list[pd.Series], pd.Series, pd.DataFrame]:
    """The paired samples of several sides.

    Args:
        results: whole runs (not merely the newest run of each method), at one scale, of one panel.
        sides: from `Evaluator.sides`.
        keys: columns over which values are pooled; they must agree between the sides.

    Returns:
        One series of values per side, aligned; the resampling unit of each; and the stored rows that went in.

    Raises:
        NoRows: a side has no rows, or no run holds all sides for any item.
        ResultsError: a side's rows differ in something that was neither fixed nor pooled.
    """
    on = ["run_key", "item", "seed", *keys]
    used = []
    for side in sides:
        rows = _rows_of(results, side, keys)
        if rows.empty:
            raise NoRows(f"no rows with {_describe(side)}")
        repeated = rows.duplicated(on)
        if repeated.any():
            first = rows[repeated].iloc[0]
            raise ResultsError(
                f"item {first['item']!r} has several values with {_describe(side)}; fix what they differ in."
            )
        used.append(rows)
    merged = side_by_side(used, keys)
    if merged.empty:
        raise NoRows(f"no run holds all of {'; '.join(_describe(side) for side in sides)}; run them in one command")
    # An item that several runs of the same configuration hold counts once, as the newest of them has it.
    merged = merged.sort_values(["finished_at", "run_key"], kind="stable").drop_duplicates(
        ["item", "seed", *keys], keep="last"
    )
    samples = [merged[f"value_{place}"] for place in range(len(sides))]
    wanted = merged[["run_key", "item", "seed"]].drop_duplicates()
    stored = pd.concat(used).merge(wanted, on=["run_key", "item", "seed"])
    return samples, stats.resampling_units(merged), stored


def _rows_of(results: Results, side: Mapping[str, Any], keys: Sequence[str]) -> pd.DataFrame:
    columns = {name: value for name, value in side.items() if not name.startswith("knob.")}
    frame = results.frame
    for name in columns:
        if name not in frame.columns:
            if name.startswith("factor."):
                return frame.iloc[:0]
            raise ConfigError(
                f"results have no column {name!r} (a factor is written factor.{name}, a knob knob.{name})"
            )
    chosen = results.only(**columns)
    for name, value in side.items():
        if name.startswith("knob."):
            knob = name.removeprefix("knob.")
            has_value = chosen.frame["method_args"].map(lambda text, knob=knob, value=value: _knob(text, knob) == value)
            chosen = Results(chosen.frame[has_value.astype(bool)], chosen.records)
    return chosen.select(keep=[*keys, "base", "origin"]) if len(chosen) else chosen.frame


def _knob(method_args: str, knob: str) -> Any:
    return json.loads(method_args).get(knob)


def _describe(side: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in side.items())


def _side(metric: str, side: Side) -> dict[str, Any]:
    if not isinstance(metric, str) or not metric:
        raise ValueError(f"metric={metric!r} must be the name of a metric")
    if isinstance(side, str):
        return {"metric": metric, "method": side}
    if not isinstance(side, Mapping):
        raise ValueError(f"{side!r} must be a method's name or a mapping of columns to values")
    return {"metric": metric, **side}


@dataclasses.dataclass(frozen=True)
class _One:
    metric: str
    of: Side = ""

    no_effect: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        _ = self.sides  # refuses wrong arguments when the claims file is read

    @property
    def sides(self) -> Sequence[Mapping[str, Any]]:
        return [_side(self.metric, self.of)]


@EVALUATORS.add("mean")
@dataclasses.dataclass(frozen=True)
class Mean(_One):
    """Mean of a metric: a level. `of` may be left out for numbers that belong to no method."""

    def evaluate(self, samples: Sequence[pd.Series], units: pd.Series) -> Estimate:
        return stats.mean(samples[0], units=units)


@EVALUATORS.add("median")
@dataclasses.dataclass(frozen=True)
class Median(_One):
    """Median of a metric: a level. `of` may be left out for numbers that belong to no method."""

    def evaluate(self, samples: Sequence[pd.Series], units: pd.Series) -> Estimate:
        return stats.median(samples[0], units=units)


@dataclasses.dataclass(frozen=True)
class _Ratio:
    metric: str
    of: Side
    over: Side

    no_effect: ClassVar[float | None] = 1.0

    def __post_init__(self) -> None:
        _ = self.sides

    @property
    def sides(self) -> Sequence[Mapping[str, Any]]:
        return [_side(self.metric, self.of), _side(self.metric, self.over)]


@EVALUATORS.add("ratio_of_medians")
@dataclasses.dataclass(frozen=True)
class RatioOfMedians(_Ratio):
    """median(of) / median(over)."""

    def evaluate(self, samples: Sequence[pd.Series], units: pd.Series) -> Estimate:
        return stats.ratio_of_medians(samples[0], samples[1], units=units)


@EVALUATORS.add("median_of_ratios")
@dataclasses.dataclass(frozen=True)
class MedianOfRatios(_Ratio):
    """Median over items of of / over."""

    def evaluate(self, samples: Sequence[pd.Series], units: pd.Series) -> Estimate:
        return stats.median_of_ratios(samples[0], samples[1], units=units)


@EVALUATORS.add("ratio_of_means")
@dataclasses.dataclass(frozen=True)
class RatioOfMeans(_Ratio):
    """mean(of) / mean(over): the ratio of totals."""

    def evaluate(self, samples: Sequence[pd.Series], units: pd.Series) -> Estimate:
        return stats.ratio_of_means(samples[0], samples[1], units=units)


@EVALUATORS.add("relative_reduction")
@dataclasses.dataclass(frozen=True)
class RelativeReduction:
    """1 - mean(of) / mean(below): the share by which `of` is lower."""

    metric: str
    of: Side
    below: Side

    no_effect: ClassVar[float | None] = 0.0

    def __post_init__(self) -> None:
        _ = self.sides

    @property
    def sides(self) -> Sequence[Mapping[str, Any]]:
        return [_side(self.metric, self.of), _side(self.metric, self.below)]

    def evaluate(self, samples: Sequence[pd.Series], units: pd.Series) -> Estimate:
        return stats.relative_reduction(samples[0], samples[1], units=units)


@EVALUATORS.add("difference_of_means")
@dataclasses.dataclass(frozen=True)
class DifferenceOfMeans:
    """mean(of) - mean(minus), paired."""

    metric: str
    of: Side
    minus: Side

    no_effect: ClassVar[float | None] = 0.0

    def __post_init__(self) -> None:
        _ = self.sides

    @property
    def sides(self) -> Sequence[Mapping[str, Any]]:
        return [_side(self.metric, self.of), _side(self.metric, self.minus)]

    def evaluate(self, samples: Sequence[pd.Series], units: pd.Series) -> Estimate:
        return stats.difference_of_means(samples[0], samples[1], units=units)


@EVALUATORS.add("gap_closed")
@dataclasses.dataclass(frozen=True)
class GapClosed:
    """(mean(of) - mean(bottom)) / (mean(top) - mean(bottom)): 0 as good as `bottom`, 1 as good as `top`."""

    metric: str
    of: Side
    bottom: Side
    top: Side

    no_effect: ClassVar[float | None] = 0.0

    def __post_init__(self) -> None:
        _ = self.sides

    @property
    def sides(self) -> Sequence[Mapping[str, Any]]:
        return [_side(self.metric, side) for side in (self.of, self.bottom, self.top)]

    def evaluate(self, samples: Sequence[pd.Series], units: pd.Series) -> Estimate:
        return stats.gap_closed(samples[0], samples[1], samples[2], units=units)
