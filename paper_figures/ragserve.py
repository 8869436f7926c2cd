"""The figures of RAGServe, from stored rows. What each metric and factor means: ragserve/README.md."""

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.plotting import (
    Drawing,
    SeriesStyle,
    grouped_bars,
    legend,
    lines,
    log_axis,
    panels,
    paper_band,
    plain_styles,
)
from common.results import Results
from common.stats import summarise
from paper_figures._panels import INTERVALS, has, need, quality_axis, rows_used, styles_of, titled_points
from paper_figures._registry import NothingToDraw, figure

FAMILY_NAMES = {
    "squad_like": "Squad-like",
    "musique_like": "Musique-like",
    "finsec_like": "FinSec-like",
    "qmsum_like": "QMSum-like",
}
SERVER_NAMES = {
    "this_machine": "small model on this machine",
    "a40_7b": "7B on an A40",
    "a40x2_70b": "70B on two A40s",
}
BEST = "best quality"
DELAY_MEANING = (
    "Delays are virtual time: of the calibrated simulator (simulated) or of an A40 that is a table and assumptions "
    "(modelled). F1 is that "
    "of text which the bundled small model really generated for the query and its configuration."
)
LOAD_MEANING = (
    "Load is the arrival rate over the capacity of the fixed configuration of best quality with an ample KV pool; a "
    "cross marks streams "
    "whose work exceeds the time they have (utilisation above 1): their delay grows with the length of the run."
)


def family(name: str) -> str:
    """A workload's name in panels."""
    return FAMILY_NAMES.get(name, name)


def server_name(name: str) -> str:
    """A server's name in panels."""
    return SERVER_NAMES.get(name, name)


def _of(results: Results, **factors: Any) -> Results:
    return results.only(**{f"factor.{name}": value for name, value in factors.items()})


def _values(results: Results, factor: str) -> list[Any]:
    """Values of a factor in order of appearance; empty if there is no such factor."""
    column = f"factor.{factor}"
    if column not in results.frame.columns:
        return []
    return list(dict.fromkeys(results.frame[column].dropna()))


def _point(rows_x: pd.DataFrame, rows_y: pd.DataFrame, by: Sequence[str], *, is_median: bool = False) -> pd.DataFrame:
    """One point per group: x, y with intervals."""
    x = summarise(rows_x, by, "median" if is_median else "mean")
    y = summarise(rows_y, by)
    both = x[[*by, "value", "low", "high", "basis"]].merge(
        y[[*by, "value", "low", "high", "basis"]], on=list(by), suffixes=("_x", "_y")
    )
    both["basis"] = [
        "+".join(sorted({*a.split("+"), *b.split("+")})) for a, b in zip(both["basis_x"], both["basis_y"], strict=True)
    ]
    renamed = {
        f"{name}_{axis}": f"{axis}{end}"
        for axis in "xy"
        for name, end in (("value", ""), ("low", "_low"), ("high", "_high"))
    }
    return both.rename(columns=renamed).drop(columns=["basis_x", "basis_y"])


def _cross(axes: Axes, point: Any, style: SeriesStyle, label: str = "", size: float = 6.0) -> None:
    """A point with its intervals in both directions; hollow, since delays are simulated or modelled."""
    axes.errorbar(
        [point["x"]],
        [point["y"]],
        xerr=[[point["x"] - point["x_low"]], [point["x_high"] - point["x"]]],
        yerr=[[point["y"] - point["y_low"]], [point["y_high"] - point["y"]]],
        fmt=style.marker,
        color=style.color,
        markerfacecolor="white",
        markersize=size,
        capsize=2,
        elinewidth=1.0,
        label=label or style.label,
        zorder=3,
    )


def _plane(axes: Axes, own: Results, styles: dict[str, SeriesStyle]) -> pd.DataFrame:
    """Delay against F1: a marker per method, fixed configurations as small markers joined to a front."""
    keep = ["series", "method", "factor.setting"]
    by = ["series", "method", "factor.setting"]
    points = _point(own.select(keep=keep, metric="delay"), own.select(keep=keep, metric="f1"), by)
    unstable = own.frame[own.frame["metric"] == "is_unstable"]
    bad = set()
    if len(unstable):
        share = unstable.groupby(["method", "factor.setting"])["value"].mean()
        bad = {key for key, value in share.items() if value > 0.5}
    points = points[~points["factor.setting"].isin(["similar delay", "similar quality"])].copy()
    points["is_unstable"] = [(m, s) in bad for m, s in zip(points["method"], points["factor.setting"], strict=True)]
    for name, group in points.groupby("series", sort=False):
        style = styles[str(name)]
        small = group[(group["method"].isin(["fixed", "parrot"])) & (group["factor.setting"] != BEST)]
        if len(small):
            small = small.sort_values("x")
            axes.plot(
                small["x"],
                small["y"],
                style.marker,
                color=style.color,
                markersize=3.5,
                linestyle=(0, (1, 2)),
                linewidth=0.8,
                markerfacecolor="white",
                label=f"{style.label}: others of the grid's front",
                zorder=2,
            )
        rest = group.drop(small.index)
        for _, point in rest.iterrows():
            _cross(
                axes,
                point,
                style,
                label=style.label + (", best quality" if point["method"] in ("fixed", "parrot") else ""),
                size=7,
            )
    for _, point in points[points["is_unstable"]].iterrows():
        axes.plot([point["x"]], [point["y"]], "x", color="#333333", markersize=9, zorder=4, label="unstable queue")
    return points


def _delay_planes(results: Results, conditions: Sequence[tuple[str, dict[str, Any]]]) -> tuple[Figure, pd.DataFrame]:
    """A row of panels per condition, a column per workload."""
    styles = styles_of(results)
    workloads = [name for name in dict.fromkeys(results.frame["workload"]) if name]
    fig, grid = panels(len(conditions), len(workloads), width_in=3.2 if len(workloads) > 1 else 5.0, height_in=2.5)
    plotted = []
    for row, (title, factors) in zip(grid, conditions, strict=True):
        for axes, workload in zip(row, workloads, strict=True):
            own = _of(results.only(workload=workload), **factors)
            if own.frame.empty:
                axes.set_axis_off()
                continue
            points = _plane(axes, own, styles)
            log_axis(axes, "x")
            axes.set_title(f"{family(workload)}\n" + title.replace(", ", "\n", 1))
            axes.set_ylabel("F1")
            plotted.append(titled_points(points, f"{workload}; {title}"))
    for axes in grid[-1]:
        axes.set_xlabel("mean delay [s]")
    legend(fig, max_columns=4)
    return fig, pd.concat(plotted, ignore_index=True)


def _conditions(results: Results) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for server in _values(results, "server"):
        own = _of(results, server=server)
        for pool in _values(own, "pool"):
            for load in sorted(_values(_of(own, pool=pool), "load")):
                found.append(
                    (
                        f"{server_name(server)}, {pool} pool, load {load:g}",
                        {"server": server, "pool": pool, "load": load},
                    )
                )
    return found


# ------------------------------------------------------------------------------------------------------------ main results


@figure("ragserve", "delay_vs_f1", experiment="delay_vs_f1", paper_ref="Figs. 1 and 10")
def delay_vs_f1(results: Results) -> Drawing:
    """Mean delay against F1 for every method, four families, by server and KV pool."""
    need(results, "delay")
    fig, points = _delay_planes(results, _conditions(results))
    text = f"Better is to the left and up; delays are logarithmic. {LOAD_MEANING} {DELAY_MEANING} {INTERVALS}"
    return Drawing(fig, points, rows_used(results, ["delay", "f1"]), "Delay against F1", text)


@figure("ragserve", "bigger_model", experiment="bigger_model", paper_ref="Fig. 15")
def bigger_model(results: Results) -> Drawing:
    """Mean delay against F1 where the server is a 70B model on two A40s."""
    fig, points = _delay_planes(results, _conditions(results))
    text = f"F1 stays that of the small model: only the server's times are those of a 70B model. {DELAY_MEANING} {INTERVALS}"
    return Drawing(fig, points, rows_used(results, ["delay", "f1"]), "A larger serving model", text)


@figure("ragserve", "low_load", experiment="low_load", paper_ref="Fig. 19")
def low_load(results: Results) -> Drawing:
    """Mean delay against F1 when queries come one after another."""
    conditions = [(server_name(name), {"server": name}) for name in _values(results, "server")]
    fig, points = _delay_planes(results, conditions)
    text = (
        f"Each query arrives when the one before has been answered; the KV pool is ample. {DELAY_MEANING} {INTERVALS}"
    )
    return Drawing(fig, points, rows_used(results, ["delay", "f1"]), "Sequential queries", text)


_STEPS = {
    "fixed": "fixed,\nbest quality",
    "median": "+ profiler\n(median)",
    "median_batched": "+ batching",
    "ragserve": "+ best fit\n(RAGServe)",
}


@figure("ragserve", "breakdown", experiment="breakdown", paper_ref="Fig. 12")
def breakdown(results: Results) -> Drawing:
    """Mean delay, and below it F1, as the parts of the system are added one by one."""
    need(results, "delay")
    workloads = list(dict.fromkeys(results.only(metric="delay").frame["workload"]))
    conditions = _conditions(results)
    fig, grid = panels(2, len(conditions), width_in=6.4, height_in=2.4)
    styles = plain_styles([family(name) for name in workloads])
    plotted = []
    for column, (title, factors) in enumerate(conditions):
        own = _of(results, **factors)
        for axes, metric, label in ((grid[0, column], "delay", "mean delay [s]"), (grid[1, column], "f1", "F1")):
            rows = own.select(keep=["series", "method", "workload", "factor.setting"], metric=metric)
            points = summarise(rows.assign(family=rows["workload"].map(family)), ["family", "method"])
            points["step"] = points["method"].map(_STEPS)
            points = points[points["step"].notna()].sort_values(
                "method", key=lambda c: c.map(list(_STEPS).index), kind="stable"
            )
            grouped_bars(axes, points, styles, "step", by="family")
            axes.set_ylabel(label)
            if metric == "delay":
                axes.set_title(title)
            plotted.append(titled_points(points.assign(metric=metric), title))
    legend(fig)
    text = (
        "From left to right: the fixed configuration of highest F1 for every query; the profiler with the median of "
        "the pruned space; "
        f"calls of a query admitted together; best fit. {LOAD_MEANING} {DELAY_MEANING} {INTERVALS}"
    )
    return Drawing(
        fig, pd.concat(plotted, ignore_index=True), rows_used(results, ["delay", "f1"]), "What each part adds", text
    )


@figure("ragserve", "throughput", experiment="throughput", paper_ref="Fig. 11")
def throughput(results: Results) -> Drawing:
    """Highest arrival rate at which the mean delay stays within three times the idle delay of the best fixed configuration."""
    need(results, "throughput")
    rows = results.select(
        keep=["series", "method", "factor.setting", "factor.pool", "factor.server"], metric="throughput"
    )
    styles = styles_of(results)
    pools = list(dict.fromkeys(rows["factor.pool"]))
    fig, grid = panels(1, len(pools), width_in=5.2, height_in=3.0)
    plotted, chosen = [], {}
    for axes, pool in zip(grid[0], pools, strict=True):
        own = rows[rows["factor.pool"] == pool]
        labels = [
            styles[s].label + (f", {setting}" if setting else "")
            for s, setting in zip(own["series"], own["factor.setting"], strict=True)
        ]
        own = own.assign(bar=labels, family=own["item"].map(family))
        for series, setting, label in zip(own["series"], own["factor.setting"], own["bar"], strict=True):
            base = styles[series]
            chosen[label] = SeriesStyle(label, base.color + ("" if setting != "closest quality" else "99"), base.marker)
        points = summarise(own, ["bar", "family"])
        grouped_bars(axes, points, chosen, "family", by="bar")
        axes.set_title(f"{pool} pool")
        axes.set_ylabel("queries per second")
        plotted.append(titled_points(points, f"{pool} pool"))
    legend(fig, max_columns=3)
    text = (
        "Found by bisection, every rate with the same arrival pattern. Closest quality: the fixed configuration whose "
        "F1 is nearest to "
        f"RAGServe's. {DELAY_MEANING}"
    )
    return Drawing(
        fig,
        pd.concat(plotted, ignore_index=True),
        rows_used(results, ["throughput"]),
        "Throughput at a bounded delay",
        text,
    )


@figure("ragserve", "regime_map", experiment="regime_map")
def regime_map(results: Results) -> Drawing:
    """Mean delay over arrival rate, one panel per KV pool: where best fit helps, and where it queues."""
    need(results, "delay")
    styles = styles_of(results)
    pools = sorted(_values(results, "pool"), key=lambda name: int(name) if str(name).isdecimal() else 0)
    fig, grid = panels(2, len(pools), width_in=2.9, height_in=2.4)
    plotted = []
    for column, pool in enumerate(pools):
        own = _of(results, pool=pool)
        for axes, metric, label in ((grid[0, column], "delay", "mean delay [s]"), (grid[1, column], "f1", "F1")):
            keep = ["series", "factor.load", "factor.setting"]
            points = summarise(own.select(keep=keep, metric=metric), ["series", "factor.load"])
            points = points.rename(columns={"factor.load": "load"})
            lines(axes, points, styles, "load")
            axes.set_ylabel(label if column == 0 else "")
            if metric == "delay":
                log_axis(axes, "y")
                axes.set_title(
                    f"pool of {16 * int(pool) // 1000} K tokens" if str(pool).isdecimal() else f"{pool} pool"
                )
            else:
                quality_axis(axes)
            axes.axvline(1.0, color="#999999", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
            plotted.append(titled_points(points.assign(metric=metric), f"pool {pool}"))
        grid[1, column].set_xlabel("load")
    legend(fig)
    text = (
        "Pools are in tokens of the A40, on which each of our prompt tokens stands for sixteen. Best fit helps where "
        "memory binds before "
        f"computing does; with ample memory it takes the largest configuration, like AdaptiveRAG*. {LOAD_MEANING} "
        f"{DELAY_MEANING}"
    )
    return Drawing(
        fig,
        pd.concat(plotted, ignore_index=True),
        rows_used(results, ["delay", "f1"]),
        "Regimes: KV pool and load",
        text,
    )


@figure("ragserve", "rules", experiment="rules")
def rules(results: Results) -> Drawing:
    """The open readings of best fit, and other choices from the pruned space."""
    need(results, "delay")
    keep = ["series", "method", "workload", "factor.setting", "factor.pool", "factor.load", "factor.server", "metric"]
    rows = pd.concat([results.select(keep=keep, metric=metric) for metric in ("delay", "f1")], ignore_index=True)
    styles = styles_of(results)
    labels = [
        f"RAGServe: {setting}" if method == "ragserve" else styles[series].label
        for series, method, setting in zip(rows["series"], rows["method"], rows["factor.setting"], strict=True)
    ]
    rows = rows.assign(rule=labels)
    conditions = list(dict.fromkeys(zip(rows["factor.pool"], rows["factor.load"], strict=True)))
    names = list(dict.fromkeys(rows["rule"]))
    fig, grid = panels(1, len(conditions), width_in=3.2, height_in=2.9)
    plotted = []
    for axes, (pool, load) in zip(grid[0], conditions, strict=True):
        own = rows[(rows["factor.pool"] == pool) & (rows["factor.load"] == load)]
        delay, f1 = own[own["metric"] == "delay"], own[own["metric"] == "f1"]
        points = _point(delay, f1, ["rule"])
        chosen = plain_styles(names)
        for _, point in points.iterrows():
            style = chosen[point["rule"]]
            _cross(axes, point, style)
        log_axis(axes, "x")
        axes.set_title(f"{pool} pool, load {load:g}")
        axes.set_xlabel("mean delay [s]")
        axes.set_ylabel("F1")
        plotted.append(titled_points(points, f"{pool} pool, load {load:g}"))
    legend(fig, max_columns=3)
    text = f"Mean over the workloads. {LOAD_MEANING} {DELAY_MEANING} {INTERVALS}"
    return Drawing(
        fig, pd.concat(plotted, ignore_index=True), rows_used(results, ["delay", "f1"]), "Readings of best fit", text
    )


@figure("ragserve", "feedback", experiment="feedback", paper_ref="Fig. 14")
def feedback(results: Results) -> Drawing:
    """F1 along the stream of queries, with and without feedback."""
    need(results, "f1")
    styles = styles_of(results)
    workloads = list(dict.fromkeys(results.only(metric="f1").frame["workload"]))
    fig, grid = panels(1, len(workloads), width_in=4.2, height_in=2.7)
    plotted = []
    for axes, workload in zip(grid[0], workloads, strict=True):
        rows = results.select(keep=["series", "factor.position"], metric="f1", workload=workload)
        points = summarise(rows, ["series", "factor.position"]).rename(columns={"factor.position": "position"})
        lines(axes, points, styles, "position")
        axes.set_title(family(workload))
        axes.set_xlabel("queries before")
        axes.set_ylabel("F1 of the next queries")
        plotted.append(titled_points(points, workload))
    legend(fig)
    text = (
        "The golden configuration runs for every 30th query; the profiler keeps the last four examples. The profiler "
        "was trained on very "
        f"few questions here, so that there is something to learn. {INTERVALS}"
    )
    return Drawing(fig, pd.concat(plotted, ignore_index=True), rows_used(results, ["f1"]), "Feedback", text)


@figure("ragserve", "profiler_quality", experiment="profiler_quality", paper_ref="Fig. 17")
def profiler_quality(results: Results) -> Drawing:
    """Delay and F1 as the profiler errs more."""
    need(results, "delay")
    styles = styles_of(results)
    workloads = list(dict.fromkeys(results.only(metric="delay").frame["workload"]))
    fig, grid = panels(2, len(workloads), width_in=3.8, height_in=2.3)
    plotted = []
    for column, workload in enumerate(workloads):
        own = results.only(workload=workload)
        for axes, metric, label in ((grid[0, column], "delay", "mean delay [s]"), (grid[1, column], "f1", "F1")):
            rows = own.select(keep=["series", "factor.error_rate", "factor.setting"], metric=metric)
            points = summarise(rows, ["series", "factor.error_rate"]).rename(
                columns={"factor.error_rate": "error_rate"}
            )
            swept = points[points["error_rate"].notna()]
            lines(axes, swept, styles, "error_rate")
            for _, point in points[points["error_rate"].isna()].iterrows():
                style = styles[point["series"]]
                axes.axhline(
                    point["value"],
                    color=style.color,
                    linestyle=(0, (6, 2)),
                    linewidth=1.2,
                    label=f"{style.label}, best quality",
                )
            axes.set_ylabel(label)
            plotted.append(titled_points(points.assign(metric=metric), workload))
        grid[0, column].set_title(family(workload))
        grid[1, column].set_xlabel("error rate of each profile field")
    legend(fig)
    text = f"Half of the errors show in the profile's confidence. {DELAY_MEANING} {INTERVALS}"
    return Drawing(
        fig, pd.concat(plotted, ignore_index=True), rows_used(results, ["delay", "f1"]), "Profilers that err", text
    )


@figure("ragserve", "profiler_share", experiment="profiler_share", paper_ref="Fig. 18")
def profiler_share(results: Results) -> Drawing:
    """Share of the delay that profiling takes."""
    rows = results.select(keep=["series", "workload"], metric="profiler_share")
    points = summarise(rows.assign(family=rows["workload"].map(family)), ["series", "family"])
    fig, grid = panels(1, 1, width_in=4.6, height_in=2.6)
    axes = grid[0, 0]
    grouped_bars(axes, points, styles_of(results), "family")
    axes.set_ylabel("share of the delay")
    paper_band(axes, 0.03, 0.06, "mean 0.03 to 0.06")
    legend(fig)
    text = (
        "The profiler's latency is an assumption, 6 % of the idle delay of stuff with 6 chunks: here it is an API "
        "call in the paper, and a "
        "classifier of under a millisecond in this repository."
    )
    return Drawing(fig, points, rows_used(results, ["profiler_share"]), "What profiling costs", text)


@figure("ragserve", "knob_by_knob", experiment="knob_by_knob", paper_ref="Fig. 16")
def knob_by_knob(results: Results) -> Drawing:
    """Delay against F1 as knobs are adapted one by one."""
    need(results, "delay")
    styles = styles_of(results)
    workloads = list(dict.fromkeys(results.only(metric="delay").frame["workload"]))
    fig, grid = panels(1, len(workloads), width_in=4.2, height_in=2.9)
    plotted = []
    for axes, workload in zip(grid[0], workloads, strict=True):
        own = results.only(workload=workload)
        keep = ["series", "method", "factor.setting"]
        points = _point(own.select(keep=keep, metric="delay"), own.select(keep=keep, metric="f1"), keep)
        names = {"k": "k", "k+method": "k, method", "k+method+s": "k, method, s"}
        points["step"] = [
            names.get(setting, "all, and scheduling (RAGServe)" if method == "ragserve" else styles[series].label)
            for series, method, setting in zip(
                points["series"], points["method"], points["factor.setting"], strict=True
            )
        ]
        order = plain_styles(list(points["step"]))
        for _, point in points.iterrows():
            style = order[point["step"]]
            _cross(axes, point, style)
        axes.set_title(family(workload))
        axes.set_xlabel("mean delay [s]")
        axes.set_ylabel("F1")
        plotted.append(titled_points(points, workload))
    legend(fig, max_columns=3)
    text = f"Knobs that do not adapt stay at stuff, or at summaries of 24 tokens. {DELAY_MEANING} {INTERVALS}"
    return Drawing(
        fig, pd.concat(plotted, ignore_index=True), rows_used(results, ["delay", "f1"]), "Knob by knob", text
    )


@figure("ragserve", "cost", experiment="cost", paper_ref="Fig. 13")
def cost(results: Results) -> Drawing:
    """Dollars per 1,000 queries, on the 7B and on the 70B server."""
    rows = results.select(keep=["series", "factor.server", "factor.setting"], metric="dollars")
    labels = [
        f"{styles.label}, {server_name(server)}"
        for styles, server in zip((styles_of(results)[s] for s in rows["series"]), rows["factor.server"], strict=True)
    ]
    rows = rows.assign(bar=labels, family=rows["item"].map(family), value=1000 * rows["value"])
    points = summarise(rows, ["bar", "family"])
    fig, grid = panels(1, 1, width_in=5.6, height_in=2.8)
    grouped_bars(grid[0, 0], points, plain_styles(list(dict.fromkeys(labels))), "family", by="bar")
    grid[0, 0].set_ylabel("USD per 1,000 queries")
    legend(fig, max_columns=2)
    text = (
        "Prices are assumptions of November 2026: 0.40 USD per hour and A40, 0.0025 USD per 1,000 profiler tokens. No "
        "larger model answers "
        "here, so that the quality that a 70B model would buy is not shown."
    )
    ours = _of(results, server="a40_7b").only(method="ragserve")
    if has(ours, "profiler_dollars"):
        keep = ["factor.setting"]
        paid, profiling = (
            ours.select(keep=keep, metric=name)["value"].sum() for name in ("dollars", "profiler_dollars")
        )
        text += f" On one A40 the profiler's tokens are {profiling / paid:.0%} of what RAGServe costs."
    return Drawing(fig, points, rows_used(results, ["dollars"]), "Cost per query", text)


# ----------------------------------------------------------------------------------------- configurations, profiles, retrieval


@figure("ragserve", "knobs", experiment="knobs", paper_ref="Fig. 4")
def knobs(results: Results) -> Drawing:
    """F1 and idle delay as one knob varies, by class of query."""
    need(results, "f1")
    shown = {"synthesis": "synthesis", "num_chunks": "num_chunks", "summary_tokens": "summary_tokens"}
    methods = plain_styles(["stuff", "map_rerank", "map_reduce"])
    classes = [name for name in ("simple", "joint", "complex", "unknown") if name in _values(results, "query_class")]
    fig, grid = panels(2, len(classes), width_in=3.4, height_in=2.3)
    plotted = []
    for column, name in enumerate(classes):
        own = _of(results, query_class=name, varied=shown["num_chunks"])
        for axes, metric, label in ((grid[0, column], "f1", "F1"), (grid[1, column], "delay", "idle delay [s]")):
            keep = ["factor.synthesis", "factor.num_chunks", "factor.summary_tokens", "workload"]
            rows = own.select(keep=keep, metric=metric)
            points = summarise(rows, ["factor.synthesis", "factor.num_chunks"]).rename(
                columns={"factor.num_chunks": "num_chunks"}
            )
            lines(axes, points, methods, "num_chunks", by="factor.synthesis")
            axes.set_ylabel(label)
            plotted.append(titled_points(points.assign(metric=metric), f"{name} queries"))
        num = own.frame["item"].nunique()
        grid[0, column].set_title(f"{name} queries (n = {num})")
        grid[1, column].set_xlabel("chunks retrieved (k)")
    legend(fig)
    text = (
        "Simple: one fact; joint: several facts that are listed; complex: facts that must be followed or compared. "
        "Summaries of 24 "
        f"tokens. Varying s alone is in the CSV of the run. {DELAY_MEANING} {INTERVALS}"
    )
    return Drawing(
        fig, pd.concat(plotted, ignore_index=True), rows_used(results, ["f1", "delay"]), "One knob at a time", text
    )


@figure("ragserve", "summary_length", experiment="knobs", paper_ref="Fig. 4c")
def summary_length(results: Results) -> Drawing:
    """F1 and idle delay of map_reduce as the summaries' length varies, by class of query."""
    own = _of(results, varied="summary_tokens")
    if own.frame.empty:
        raise NothingToDraw("no rows vary summary_tokens")
    classes = [name for name in ("simple", "joint", "complex", "unknown") if name in _values(own, "query_class")]
    styles = plain_styles(classes)
    fig, grid = panels(1, 2, width_in=3.6, height_in=2.5)
    plotted = []
    for axes, metric, label in zip(grid[0], ("f1", "delay"), ("F1", "idle delay [s]"), strict=True):
        rows = own.select(
            keep=["factor.query_class", "factor.summary_tokens", "factor.synthesis", "factor.num_chunks", "workload"],
            metric=metric,
        )
        points = summarise(rows, ["factor.query_class", "factor.summary_tokens"])
        points = points.rename(columns={"factor.summary_tokens": "summary_tokens"})
        lines(axes, points, styles, "summary_tokens", by="factor.query_class")
        axes.set_ylabel(label)
        axes.set_xlabel("most tokens of a summary (s)")
        plotted.append(points.assign(metric=metric))
    legend(fig)
    text = f"map_reduce with 4 chunks. {DELAY_MEANING} {INTERVALS}"
    return Drawing(
        fig, pd.concat(plotted, ignore_index=True), rows_used(own, ["f1", "delay"]), "Length of summaries", text
    )


@figure("ragserve", "per_query_vs_fixed", experiment="per_query_vs_fixed", paper_ref="Fig. 5")
def per_query_vs_fixed(results: Results) -> Drawing:
    """Idle delay against F1: every fixed configuration, and the best one for each query in hindsight."""
    need(results, "f1")
    styles = styles_of(results)
    workloads = list(dict.fromkeys(results.frame["workload"]))
    fig, grid = panels(1, len(workloads), width_in=3.1, height_in=2.7)
    plotted = []
    for axes, workload in zip(grid[0], workloads, strict=True):
        own = results.only(workload=workload)
        keep = ["series", "method", "factor.setting", "factor.is_front"]
        points = _point(own.select(keep=keep, metric="delay"), own.select(keep=keep, metric="f1"), keep)
        fixed = points[(points["method"] == "fixed") & (points["factor.setting"] != BEST)]
        style = styles[str(fixed["series"].iloc[0])]
        axes.plot(fixed["x"], fixed["y"], ".", color="#BBBBBB", label="every fixed configuration", zorder=1)
        ahead = fixed[fixed["factor.is_front"] == 1].sort_values("x")
        axes.plot(
            ahead["x"],
            ahead["y"],
            style.marker,
            linestyle="--",
            linewidth=1,
            color=style.color,
            markersize=5,
            markerfacecolor="white",
            label="front of the fixed ones",
            zorder=2,
        )
        (oracle,) = [row for _, row in points[points["method"] == "oracle_config"].iterrows()]
        own_style = styles[oracle["series"]]
        _cross(axes, oracle, own_style, label="best per query, in hindsight", size=8)
        axes.set_title(f"{family(workload)}\nn = {own.frame['item'].nunique()}")
        axes.set_xlabel("mean idle delay [s]")
        axes.set_ylabel("F1")
        plotted.append(titled_points(points, workload))
    legend(fig)
    text = f"Best per query: the fastest configuration within 0.02 of the query's best F1. No policy can know it. {DELAY_MEANING}"
    return Drawing(
        fig, pd.concat(plotted, ignore_index=True), rows_used(results, ["f1", "delay"]), "Per query against fixed", text
    )


@figure("ragserve", "profiles", experiment="profiles", paper_ref="Fig. 9")
def profiles(results: Results) -> Drawing:
    """Share of profiles above the confidence threshold; share of good and of right ones among them and among the others."""
    need(results, "confident")
    frame = results.frame
    fig, grid = panels(1, 2, width_in=4.4, height_in=2.7)
    rows = results.select(keep=["workload", "factor.is_vague", "factor.is_confident"], metric="confident")
    share = summarise(
        rows.assign(family=rows["workload"].map(family), bar="confidence at least 0.9"), ["bar", "family"]
    )
    grouped_bars(grid[0, 0], share, plain_styles(["confidence at least 0.9"]), "family", by="bar")
    paper_band(grid[0, 0], 0.93, 0.93, "more than 0.93")
    grid[0, 0].set_ylabel("share of queries")
    parts = []
    for metric, label in (("good", "good"), ("right", "all fields right")):
        if metric not in set(frame["metric"]):
            continue
        rows = results.select(keep=["workload", "factor.is_vague", "factor.is_confident"], metric=metric)
        sides = rows["factor.is_confident"].map({1: "confident", 0: "not confident"})
        parts.append(rows.assign(side=sides, bar=label))
    both = summarise(pd.concat(parts), ["bar", "side"])
    grouped_bars(grid[0, 1], both, plain_styles(list(dict.fromkeys(both["bar"]))), "side", by="bar")
    paper_band(grid[0, 1], 0.96, 0.96, "more than 0.96 of the confident ones good")
    grid[0, 1].set_ylabel("share of profiles")
    legend(fig)
    text = (
        "Good: the median configuration of the profile's space gives 10 % more F1 than the fixed configuration of "
        "best quality, or takes "
        f"at most 1 / 1.5 of its idle delay without losing more than 0.02 F1. {INTERVALS}"
    )
    points = pd.concat(
        [share.assign(side="", panel="confidence"), both.assign(family="", panel="goodness")], ignore_index=True
    )
    return Drawing(fig, points, rows_used(results, ["confident", "good", "right"]), "Confidence of profiles", text)


@figure("ragserve", "lengths", experiment="lengths", paper_ref="Table 1")
def lengths(results: Results) -> Drawing:
    """Tokens in and out per query."""
    need(results, "input_tokens")
    fig, grid = panels(1, 2, width_in=4.0, height_in=2.5)
    plotted = []
    for axes, metric, label in zip(
        grid[0], ("input_tokens", "output_tokens"), ("tokens in", "tokens out"), strict=True
    ):
        rows = results.select(keep=["workload"], metric=metric)
        data = {family(str(name)): own["value"].to_numpy() for name, own in rows.groupby("workload", sort=False)}
        axes.boxplot(list(data.values()), whis=(5, 95), showfliers=False, medianprops={"color": "#0072B2"})
        axes.set_xticks(range(1, len(data) + 1), list(data), rotation=15)
        axes.set_ylabel(label)
        quantiles = [
            {
                "family": name,
                "metric": metric,
                "p5": np.quantile(v, 0.05),
                "median": np.median(v),
                "p95": np.quantile(v, 0.95),
            }
            for name, v in data.items()
        ]
        plotted.append(pd.DataFrame(quantiles))
    text = "Boxes are quartiles, whiskers the 5th and 95th percentile: about a tenth of the lengths of the paper's datasets."
    return Drawing(
        fig,
        pd.concat(plotted, ignore_index=True),
        rows_used(results, ["input_tokens", "output_tokens"]),
        "Lengths",
        text,
    )


@figure("ragserve", "embedders", experiment="embedders", paper_ref="App. A.2")
def embedders(results: Results) -> Drawing:
    """Recall of the gold evidence over k, and F1, by embedder."""
    need(results, "recall")
    names = _values(results, "embedder")
    styles = plain_styles(names)
    workloads = list(dict.fromkeys(results.frame["workload"]))
    fig, grid = panels(1, len(workloads) + 1, width_in=2.8, height_in=2.6)
    plotted = []
    for axes, workload in zip(grid[0], workloads, strict=False):
        rows = results.select(keep=["factor.embedder", "factor.num_chunks"], metric="recall", workload=workload)
        points = summarise(rows, ["factor.embedder", "factor.num_chunks"]).rename(
            columns={"factor.num_chunks": "num_chunks"}
        )
        lines(axes, points, styles, "num_chunks", by="factor.embedder")
        axes.set_title(family(workload))
        axes.set_xlabel("chunks retrieved (k)")
        axes.set_ylabel("recall of the evidence")
        axes.set_ylim(0.3, 1.02)
        plotted.append(titled_points(points.assign(metric="recall"), workload))
    rows = results.select(keep=["factor.embedder", "workload"], metric="f1")
    points = summarise(rows.assign(family=rows["workload"].map(family)), ["factor.embedder", "family"])
    grouped_bars(grid[0, -1], points, styles, "family", by="factor.embedder")
    grid[0, -1].set_ylabel("F1 of stuff, k = 3")
    grid[0, -1].tick_params(axis="x", rotation=20)
    plotted.append(titled_points(points.assign(metric="f1"), "F1"))
    legend(fig)
    text = (
        f"Recall is below 1 where k is the number of pieces needed: that is what the range [n, 3n] is for. {INTERVALS}"
    )
    return Drawing(fig, pd.concat(plotted, ignore_index=True), rows_used(results, ["recall", "f1"]), "Embedders", text)


@figure("ragserve", "scheduling_example", experiment="scheduling_example", paper_ref="Fig. 8")
def scheduling_example(results: Results) -> Drawing:
    """A query that meets a nearly full pool: until its first call starts, and until it is answered, by method of synthesis."""
    need(results, "delay")
    names = {"wait": "first call starts", "delay": "answered"}
    styles = plain_styles(["stuff", "map_reduce"])
    fig, grid = panels(1, 2, width_in=3.6, height_in=2.6)
    plotted = []
    for axes, (metric, title) in zip(grid[0], names.items(), strict=True):
        rows = results.select(keep=["series", "factor.setting", "factor.held_s", "workload"], metric=metric)
        points = summarise(rows, ["factor.setting", "factor.held_s"]).rename(columns={"factor.held_s": "held_s"})
        lines(axes, points, styles, "held_s", by="factor.setting")
        axes.set_title(title)
        axes.set_xlabel("memory stays held for [s]")
        axes.set_ylabel("seconds after arrival")
        plotted.append(titled_points(points.assign(metric=metric), title))
    legend(fig)
    text = (
        "A running call holds three quarters of the pool and is decoding when the query comes. A stuff prompt waits until all of "
        "it fits, the mappers of map_reduce enter one by one as in the paper's example; they compute more and decode twice, so "
        f"that they end earlier only where the memory stays held for long. {DELAY_MEANING} {INTERVALS}"
    )
    return Drawing(
        fig,
        pd.concat(plotted, ignore_index=True),
        rows_used(results, ["wait", "delay"]),
        "A query that meets a nearly full pool",
        text,
    )


@figure("ragserve", "decision_latency", experiment="decision_latency")
def decision_latency(results: Results) -> Drawing:
    """Time of one decision over the size of the pruned space."""
    rows = results.select(keep=["series", "factor.space_size"], metric="decision_time")
    points = summarise(rows, ["series", "factor.space_size"], "median").rename(
        columns={"factor.space_size": "space_size"}
    )
    fig, grid = panels(1, 1, width_in=4.4, height_in=2.6)
    axes = grid[0, 0]
    lines(axes, points, styles_of(results), "space_size")
    log_axis(axes, "x", "y")
    axes.axhline(1e-3, color="#999999", linewidth=0.8, linestyle=(0, (1, 2)))
    axes.set_xlabel("configurations in the space")
    axes.set_ylabel("time of one decision [s]")
    legend(fig)
    return Drawing(
        fig, points, rows_used(results, ["decision_time"]), "Decision latency", "The dotted line is one millisecond."
    )


# Figures about the engines live in a module of their own.
if importlib.util.find_spec("paper_figures._ragserve_engine") is not None:
    importlib.import_module("paper_figures._ragserve_engine")
