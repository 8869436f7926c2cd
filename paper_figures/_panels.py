"""What figures of language-model papers share: panels by workload and model, planes of two metrics, lines over a factor."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.errors import ResultsError
from common.plotting import (
    PAPER_GREY,
    SeriesStyle,
    basis_suffix,
    describe_seeds,
    legend,
    lines,
    log_axis,
    panels,
    sample_size,
    scatter,
    series_styles,
)
from common.results import Results
from common.stats import StatisticName, summarise
from paper_figures._registry import NothingToDraw

PANEL_KEYS = ("workload", "model", "data")
QUALITY = ("f1", "rouge_l", "exact_match")
LABELS = {
    "f1": "F1",
    "rouge_l": "Rouge-L",
    "exact_match": "exact match",
    "kl_to_full": "KL to full prefill [nat]",
    "ttft": "time to first token [s]",
    "recomputed_share": "share of tokens computed",
    "ratio": "recompute ratio r",
    "attention_deviation": "attention deviation\n(full reuse = 1)",
    "rank_correlation": "rank correlation\nwith the next layer",
    "mean_ttft": "mean TTFT [s]",
    "p99_ttft": "99th percentile\nof TTFT [s]",
}
INTERVALS = "Bars and bands are 95 % bootstrap intervals over items."
KL_MEANING = (
    "KL is that of the next-token distribution to the one after a full prefill, averaged over the answer; it is 0 for exact "
    "methods and shows differences that are too small to change an answer. Its axis is logarithmic above the lowest tick "
    "over 0 and linear below."
)

Panel = tuple[str, Results]


def panels_of(results: Results) -> Iterator[Panel]:
    """Split results by workload, model and data, which never share a panel; yields (title, results)."""
    for values, _ in results.frame.groupby(list(PANEL_KEYS), sort=True):
        shown = ", ".join(str(value) for value in values if value not in ("", "none"))
        own = results.only(**dict(zip(PANEL_KEYS, values, strict=True)))
        yield f"{shown}\n{sample_size(own.frame)}", own


def panel_width(columns: Sequence[Panel]) -> float:
    """Inches; a lone panel is wider, so that the legend fits under it."""
    return 4.6 if len(columns) == 1 else 3.3


def sample_per_point(rows: pd.DataFrame, factor: str) -> str:
    """What stands behind each point of a line, for a panel's title: "n = 40 per point, seeds 0-4"."""
    counts = sorted(set(rows.groupby(f"factor.{factor}", dropna=False)["item"].nunique()))
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"n = {shown} per point, {describe_seeds(rows['seed'].unique())}"


def has(results: Results, metric: str) -> bool:
    """Whether there are rows of a metric."""
    return bool((results.frame["metric"] == metric).any())


def need(results: Results, *metrics: str) -> list[str]:
    """Those of `metrics` that are among the results.

    Raises:
        NothingToDraw: none is.
    """
    present = [metric for metric in metrics if has(results, metric)]
    if not present:
        known = ", ".join(sorted(results.frame["metric"].unique()))
        raise NothingToDraw(f"no rows with metric {' or '.join(metrics)}; the runs have {known}")
    return present


def statistic_of(metric: str) -> StatisticName:
    """Times are summarised by their median, since a busy machine delays some of them; everything else by its mean."""
    return "median" if metric == "ttft" else "mean"


def styles_of(results: Results) -> dict[str, SeriesStyle]:
    """Styles of all series of these results."""
    return series_styles(results.frame, results.records_of(results.frame))


def rows_used(results: Results, metrics: Iterable[str]) -> pd.DataFrame:
    """The rows of some metrics."""
    return results.frame[results.frame["metric"].isin(list(metrics))]


def kl_axis(axes: Axes, values: pd.Series) -> None:
    """A scale for KL divergences, which span decades and include 0: logarithmic, linear near 0."""
    positive = values[values > 1e-9]
    if positive.empty:
        return
    threshold = 10.0 ** math.floor(math.log10(positive.min()))
    axes.set_yscale("symlog", linthresh=threshold, linscale=0.5)
    decades = range(round(math.log10(threshold)), math.ceil(math.log10(positive.max())) + 1)
    axes.set_yticks([0.0, *(10.0**decade for decade in decades)])
    axes.set_ylim(bottom=-0.25 * threshold)
    axes.minorticks_off()


def quality_axis(axes: Axes) -> None:
    """The range of scores between 0 and 1."""
    axes.set_ylim(-0.03, 1.03)


def titled_points(points: pd.DataFrame, title: str) -> pd.DataFrame:
    """Plotted points with the panel they are in."""
    return points.assign(panel=title.replace("\n", "; "))


# ---------------------------------------------------------------------------------------------------- quality against time


def plane(results: Results, x_metric: str, y_metric: str) -> pd.DataFrame:
    """One point per series that has both metrics: x, y, each with _low, _high, _n; basis, x_metric, y_metric."""
    sides = []
    for name, metric in (("x", x_metric), ("y", y_metric)):
        side = summarise(results.select(keep=["series"], metric=metric), ["series"], statistic_of(metric))
        renamed = {"value": name, "low": f"{name}_low", "high": f"{name}_high", "num_units": f"{name}_n"}
        sides.append(side.rename(columns=renamed)[["series", *renamed.values(), "basis"]])
    both = sides[0].merge(sides[1], on="series", suffixes=("", "_y"))
    pairs = zip(both["basis"], both["basis_y"], strict=True)
    both["basis"] = ["+".join(sorted({*a.split("+"), *b.split("+")})) for a, b in pairs]
    return both.drop(columns="basis_y").assign(x_metric=x_metric, y_metric=y_metric)


def draw_planes(results: Results, *, log_time: bool = False) -> tuple[Figure, pd.DataFrame, pd.DataFrame]:
    """Quality, and below it KL, against TTFT: one column of panels per workload, model and data."""
    styles, columns = styles_of(results), list(panels_of(results))
    need(results, *QUALITY, "kl_to_full")
    rows = [[m for m in group if has(results, m)] for group in (QUALITY, ("kl_to_full",))]
    rows = [group for group in rows if group]
    fig, grid = panels(len(rows), len(columns), width_in=panel_width(columns), height_in=2.3)
    plotted = []
    for column, (title, own) in enumerate(columns):
        grid[0, column].set_title(title)
        for axes, group in zip(grid[:, column], rows, strict=True):
            metric = next((m for m in group if has(own, m)), None)
            if metric is None:
                axes.text(0.5, 0.5, "no answers to score", ha="center", transform=axes.transAxes, color=PAPER_GREY)
                axes.set_axis_off()
                continue
            points = plane(own, "ttft", metric)
            scatter(axes, points, styles)
            axes.set_ylabel(LABELS[metric])
            if log_time:
                log_axis(axes, "x")
            else:
                axes.set_xlim(
                    0, 1.08 * float(np.max(points["x"].where(~np.isfinite(points["x_high"]), points["x_high"])))
                )
            if metric == "kl_to_full":
                kl_axis(axes, points["y"])
            else:
                quality_axis(axes)
            plotted.append(titled_points(points, title))
        grid[-1, column].set_xlabel(LABELS["ttft"])
    legend(fig)
    used = rows_used(results, ["ttft", *(m for group in rows for m in group)])
    return fig, pd.concat(plotted, ignore_index=True), used


def level_line(axes: Axes, point: "pd.Series[Any]", style: SeriesStyle) -> None:
    """A level line, with its interval, for a number that does not depend on the x axis."""
    value, low, high = (float(point[name]) for name in ("value", "low", "high"))
    label = style.label + basis_suffix(str(point["basis"]))
    axes.axhline(value, color=style.color, linewidth=1.2, linestyle=(0, (6, 2)), label=label, zorder=2)
    if math.isfinite(low) and math.isfinite(high):
        axes.axhspan(low, high, color=style.color, alpha=0.08, linewidth=0, zorder=1)


def draw_lines(
    results: Results,
    factor: str,
    groups: Sequence[Sequence[str]],
    *,
    xlabel: str,
    by: str = "series",
    styles: Mapping[str, SeriesStyle] | None = None,
    adjust: Callable[[Axes, str], None] | None = None,
    varying: Sequence[str] = (),
) -> tuple[Figure, pd.DataFrame, pd.DataFrame]:
    """Lines over a factor: a row of panels for each group of metrics (the first that a panel has), a column per panel.

    Series without the factor (baselines that it does not concern) are drawn as level lines across.

    Args:
        results: of one experiment.
        factor: the swept variable, without "factor.".
        groups: alternatives for each row of panels, e.g. [("f1", "rouge_l"), ("kl_to_full",)].
        xlabel: of the factor.
        by: what a line is: "series", or another factor with `styles` by its values.
        adjust: called with each axes and its metric.
        varying: further columns that may differ among the rows of a point.
    """
    column_name = f"factor.{factor}"
    if column_name not in results.frame.columns:
        raise ResultsError(f"the rows of this experiment have no factor {factor!r}")
    present = [[m for m in group if has(results, m)] for group in groups]
    present = [group for group in present if group]
    if not present:
        need(results, *(m for group in groups for m in group))
    chosen = styles_of(results) if styles is None else dict(styles)
    columns = list(panels_of(results))
    fig, grid = panels(len(present), len(columns), width_in=panel_width(columns), height_in=2.3)
    plotted = []
    keep = ["series", column_name, *varying, *([] if by == "series" else [by])]
    for column, (title, own) in enumerate(columns):
        for axes, group in zip(grid[:, column], present, strict=True):
            metric = next((m for m in group if has(own, m)), None)
            if metric is None:
                axes.set_axis_off()
                continue
            rows = own.select(keep=keep, metric=metric)
            grid[0, column].set_title(f"{title.partition(chr(10))[0]}\n{sample_per_point(rows, factor)}")
            rows = rows.assign(**{by: rows[by].astype(str)})
            points = summarise(rows, [by, column_name], statistic_of(metric)).rename(columns={column_name: factor})
            swept, level = points[points[factor].notna()], points[points[factor].isna()]
            lines(axes, swept, chosen, factor, by=by)
            for _, point in level.iterrows():
                level_line(axes, point, chosen[point[by]])
            axes.set_ylabel(LABELS.get(metric, metric.replace("_", " ")))
            if metric == "kl_to_full":
                kl_axis(axes, points["value"])
            elif metric in QUALITY:
                quality_axis(axes)
            if adjust is not None:
                adjust(axes, metric)
            plotted.append(titled_points(points.assign(metric=metric), title))
        grid[-1, column].set_xlabel(xlabel)
    legend(fig)
    used = rows_used(results, [m for group in present for m in group])
    return fig, pd.concat(plotted, ignore_index=True), used
