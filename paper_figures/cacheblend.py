"""The figures of CacheBlend, from stored rows. What each metric and factor means: cacheblend/README.md."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from common.errors import ResultsError
from common.plotting import Drawing, legend, panels, sample_size, scatter, series_styles
from common.results import Results
from common.stats import StatisticName, summarise
from paper_figures._registry import figure

PANEL_KEYS = ("workload", "model", "data")
QUALITY_METRICS = ("f1", "rouge_l", "exact_match")
METRIC_LABELS = {
    "f1": "F1",
    "rouge_l": "Rouge-L",
    "exact_match": "exact match",
    "kl_to_full": "KL to full prefill [nat]",
    "ttft": "time to first token [s]",
}
INTERVALS = "Points are means (of TTFT: medians); bars and bands are 95 % bootstrap intervals over items."


def panels_of(results: Results) -> Iterator[tuple[str, Results]]:
    """Split results by workload, model and data: numbers of two of them never share a panel. Yields (title, results)."""
    keys = list(PANEL_KEYS)
    for values, _ in results.frame.groupby(keys, sort=True):
        shown = [str(value) for value in values if value not in ("", "none")]
        own = results.only(**dict(zip(keys, values, strict=True)))
        yield f"{', '.join(shown)}\n{sample_size(own.frame)}", own


def need(results: Results, *metrics: str) -> list[str]:
    """Those of `metrics` that are among the results.

    Raises:
        ResultsError: none is.
    """
    present = [metric for metric in metrics if (results.frame["metric"] == metric).any()]
    if not present:
        known = ", ".join(sorted(results.frame["metric"].unique()))
        raise ResultsError(f"no rows with metric {' or '.join(metrics)}; the runs have {known}")
    return present


def plane(results: Results, x_metric: str, y_metric: str, by: Sequence[str] = ("series",)) -> pd.DataFrame:
    """Points of a plane: median of one metric against mean of another, for series that have both."""
    sides = []
    for name, metric, statistic in (("x", x_metric, "median"), ("y", y_metric, "mean")):
        rows = results.select(keep=["series", *by], metric=metric)
        statistic_name: StatisticName = "median" if statistic == "median" else "mean"
        side = summarise(rows, list(by), statistic_name)
        renamed = {"value": name, "low": f"{name}_low", "high": f"{name}_high", "num_units": f"{name}_n"}
        sides.append(side.rename(columns=renamed)[[*by, *renamed.values(), "basis"]])
    both = sides[0].merge(sides[1], on=list(by), suffixes=("", "_y"))
    both["basis"] = [
        "+".join(sorted({*a.split("+"), *b.split("+")})) for a, b in zip(both.basis, both.basis_y, strict=True)
    ]
    return both.drop(columns="basis_y").assign(x_metric=x_metric, y_metric=y_metric)


def styles_of(results: Results) -> dict[str, Any]:
    """Styles of all series of these results."""
    return series_styles(results.frame, results.records_of(results.frame))


@figure("cacheblend", "ttft_vs_quality", experiment="ttft_vs_quality", paper_ref="Fig. 12")
def ttft_vs_quality(results: Results) -> Drawing:
    """Quality and KL to full prefill against time to first token, one point per method."""
    styles = styles_of(results)
    columns = list(panels_of(results))
    quality = need(results, *QUALITY_METRICS, "kl_to_full")
    lines = [[metric for metric in quality if metric != "kl_to_full"], ["kl_to_full"]]
    lines = [[metric for metric in line if metric in quality] for line in lines]
    lines = [line for line in lines if line]
    fig, grid = panels(len(lines), len(columns), height_in=2.5)
    plotted = []
    for column, (title, own) in enumerate(columns):
        for row, metrics in enumerate(lines):
            axes = grid[row, column]
            metric = next((metric for metric in metrics if (own.frame["metric"] == metric).any()), None)
            if metric is None:
                axes.set_axis_off()
                continue
            points = plane(own, "ttft", metric)
            scatter(axes, points, styles)
            axes.set_ylabel(METRIC_LABELS[metric])
            axes.set_xlim(left=0)
            if metric != "kl_to_full":
                axes.set_ylim(-0.03, 1.03)
            if row == 0:
                axes.set_title(title)
            if row == len(lines) - 1:
                axes.set_xlabel(METRIC_LABELS["ttft"])
            plotted.append(points.assign(panel=title.replace("\n", "; ")))
    legend(fig)
    used = results.frame[results.frame["metric"].isin(["ttft", *quality])]
    return Drawing(
        fig,
        pd.concat(plotted, ignore_index=True),
        used,
        "Time to first token against answer quality",
        f"Better is up (quality), down (KL) and left. {INTERVALS} KL is that of the first answer token's distribution to the "
        "one after a full prefill; it is 0 for exact methods and shows differences that are too small to change an answer.",
    )
