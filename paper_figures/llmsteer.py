"""The figures of LLMSteer, from stored rows. What each metric and factor means: llmsteer/README.md."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from common.plotting import (
    Drawing,
    grouped_bars,
    legend,
    lines,
    log_axis,
    panels,
    plain_styles,
    sample_size,
    scatter,
    series_styles,
)
from common.results import Results
from common.stats import StatisticName, summarise
from paper_figures._registry import NothingToDraw, figure

INTERVALS = "Bars and bands are 95 % bootstrap intervals over contexts; the queries of one context are drawn together."
QUALITY = "f1"
TASKS = {
    "single_fact": "single facts\n(for SQuAD)",
    "quarterly_figures": "many like figures\n(for TriviaQA)",
    "arithmetic": "arithmetic\n(for GSM8K)",
}


def _styles(results: Results) -> dict[str, Any]:
    return series_styles(results.frame, results.records_of(results.frame))


def _need(results: Results, metric: str) -> None:
    if not (results.frame["metric"] == metric).any():
        raise NothingToDraw(f"no rows with metric {metric}; run with a workload whose queries have answers")


def _used(results: Results, *metrics: str) -> pd.DataFrame:
    return results.frame[results.frame["metric"].isin(metrics)]


def _families(results: Results) -> Iterator[tuple[str, Results]]:
    known = list(dict.fromkeys(results.frame["factor.family"].dropna()))
    for family in [*(name for name in TASKS if name in known), *sorted(name for name in known if name not in TASKS)]:
        yield str(family), results.only(**{"factor.family": family})


def _points(
    results: Results, metric: str, by: Sequence[str], pool: Sequence[str] = (), statistic: StatisticName = "mean"
) -> pd.DataFrame:
    """Means by `by`, over the queries of each context and whatever is in `pool`."""
    present = [name for name in ("factor.query", *pool) if name in results.frame]
    rows = results.select(keep=[*by, *present], metric=metric)
    return summarise(rows, list(by), statistic)


@figure("llmsteer", "quality_vs_delay", experiment="quality_vs_delay", paper_ref="Fig. 2")
def quality_vs_delay(results: Results) -> Drawing:
    """F1 against request delay, one panel per kind of task, one point per method."""
    _need(results, QUALITY)
    _need(results, "request_delay")
    styles = _styles(results)
    families = list(_families(results))
    fig, grid = panels(1, len(families), width_in=3.2)
    plotted = []
    for axes, (family, own) in zip(grid[0], families, strict=True):
        sides = []
        for name, metric in (("x", "request_delay"), ("y", QUALITY)):
            side = _points(own, metric, ["series"], statistic="median" if name == "x" else "mean")
            renamed = {"value": name, "low": f"{name}_low", "high": f"{name}_high", "num_units": f"{name}_n"}
            sides.append(side.rename(columns=renamed)[["series", *renamed.values(), "basis"]])
        points = sides[0].merge(sides[1].drop(columns="basis"), on="series")
        scatter(axes, points, styles)
        axes.set_title(f"{TASKS.get(family, family)}\n{sample_size(own.frame)}")
        axes.set_xlabel("request delay [s]")
        log_axis(axes, "x")
        plotted.append(points.assign(family=family))
    grid[0, 0].set_ylabel("F1")
    legend(fig)
    text = (
        "Better is to the left and up. The delay is the wall time from the arrival of a query to its last token, with what may "
        f"be cached in memory already; medians. F1 is a mean over all queries. {INTERVALS}"
    )
    points = pd.concat(plotted, ignore_index=True)
    return Drawing(fig, points, _used(results, QUALITY, "request_delay"), "Quality against request delay", text)


def _bars(results: Results, by: str, styles: dict[str, Any], title: str, text: str) -> Drawing:
    """F1 by kind of task, one bar per value of `by`."""
    _need(results, QUALITY)
    points = _points(results, QUALITY, [by, "factor.family"] if by != "series" else ["series", "factor.family"])
    points = points.rename(columns={"factor.family": "family", by: "series"})
    fig, grid = panels(width_in=7.5)
    grouped_bars(grid[0, 0], points, styles, "family")
    grid[0, 0].set_ylabel("F1")
    grid[0, 0].set_ylim(0, 1.03)
    grid[0, 0].set_title(sample_size(results.frame))
    legend(fig)
    return Drawing(fig, points, _used(results, QUALITY), title, f"{text} {INTERVALS}")


@figure("llmsteer", "query_dependence", experiment="query_dependence", paper_ref="query-independent vs query-dependent")
def query_dependence(results: Results) -> Drawing:
    """F1 with and without the query in the prompts under which tokens are selected."""
    text = (
        "The query-dependent variant runs the same pipeline with the query inside both prompts, anew for every query."
    )
    return _bars(results, "series", _styles(results), "Query-independent against query-dependent steering", text)


@figure("llmsteer", "ablation", experiment="ablation")
def ablation(results: Results) -> Drawing:
    """F1 of LLMSteer beside its parts and controls."""
    text = (
        "Random tokens, TF-IDF tokens and a plain temperature need no reading of the context; gold evidence and PASTA know which "
        "sentences matter, which no system does."
    )
    return _bars(results, "series", _styles(results), "What the parts of the method contribute", text)


@figure("llmsteer", "open_choices", experiment="open_choices")
def open_choices(results: Results) -> Drawing:
    """F1 with each open choice of the paper turned the other way."""
    styles = plain_styles(sorted(results.frame["factor.choice"].dropna().unique()))
    _need(results, QUALITY)
    present = ["factor.query", "series", "factor.family", "factor.choice"]
    rows = results.select(keep=present, metric=QUALITY)
    points = summarise(rows, ["factor.choice", "factor.family"])
    points = points.rename(columns={"factor.choice": "series", "factor.family": "family"})
    fig, grid = panels(width_in=7.5)
    grouped_bars(grid[0, 0], points, styles, "family")
    grid[0, 0].set(ylabel="F1", ylim=(0, 1.03), title=sample_size(results.frame))
    legend(fig)
    text = f"One choice differs from the default at a time; none means no steering at all. {INTERVALS}"
    return Drawing(fig, points, _used(results, QUALITY), "Choices that the paper leaves open", text)


@figure("llmsteer", "sweeps", experiment="sweeps")
def sweeps(results: Results) -> Drawing:
    """F1 against alpha and against k."""
    _need(results, QUALITY)
    fig, grid = panels(1, 2)
    plotted = []
    families = list(_families(results))
    styles = plain_styles([family for family, _ in families])
    for axes, (panel, label) in zip(
        grid[0], (("alpha", "scaling factor alpha"), ("k", "tokens per reading k")), strict=True
    ):
        own = results.only(**{"factor.panel": panel})
        rows = own.select(keep=["series", "factor.x", "factor.family", "factor.query"], metric=QUALITY)
        points = summarise(rows, ["factor.family", "factor.x"]).rename(
            columns={"factor.x": "x", "factor.family": "family"}
        )
        lines(axes, points.sort_values("x", kind="stable"), styles, "x", by="family")
        axes.set(xlabel=label, ylabel="F1")
        log_axis(axes, "x")
        plotted.append(points.assign(panel=panel))
    grid[0, 0].set_title(sample_size(results.frame))
    legend(fig)
    points = pd.concat(plotted, ignore_index=True)
    text = f"The heads are those of the profile; alpha = 1 is no steering. {INTERVALS}"
    return Drawing(fig, points, _used(results, QUALITY), "Strength and size of the steering", text)


@figure("llmsteer", "quality_vs_length", experiment="quality_vs_length")
def quality_vs_length(results: Results) -> Drawing:
    """F1 against the length of the context, one panel per kind of task."""
    _need(results, QUALITY)
    styles = _styles(results)
    families = list(_families(results))
    fig, grid = panels(1, len(families), width_in=3.2)
    plotted = []
    for axes, (family, own) in zip(grid[0], families, strict=True):
        points = _points(own, QUALITY, ["series", "factor.num_chunks"], ["factor.position"])
        points = points.rename(columns={"factor.num_chunks": "num_chunks"})
        lines(axes, points, styles, "num_chunks")
        axes.set(xlabel="chunks in the context", title=TASKS.get(family, family))
        plotted.append(points.assign(family=family))
    grid[0, 0].set_ylabel("F1")
    legend(fig)
    points = pd.concat(plotted, ignore_index=True)
    return Drawing(fig, points, _used(results, QUALITY), "Quality against the length of the context", INTERVALS)


@figure("llmsteer", "head_profile", experiment="head_profile")
def head_profile(results: Results) -> Drawing:
    """Gain on held-out contexts by layer and by head."""
    rows = results.select(
        keep=["factor.step", "factor.layer", "factor.head", "factor.alpha", "factor.chosen"], metric="gain"
    )
    heads = rows[rows["factor.step"] == "head"]
    layers = rows[rows["factor.step"] == "layer"]
    fig, grid = panels(1, 2)
    grid[0, 0].bar(layers["factor.layer"], layers["value"], color="#0072B2")
    grid[0, 0].set(xlabel="layer (all its heads)", ylabel="gain on held-out contexts")
    table = heads.pivot_table(index="factor.layer", columns="factor.head", values="value")
    image = grid[0, 1].imshow(table, aspect="auto", cmap="RdBu")
    limit = max(1e-12, float(abs(table.to_numpy()).max()))
    image.set_clim(-limit, limit)
    grid[0, 1].set_xticks(range(table.shape[1]), [str(int(head)) for head in table.columns])
    grid[0, 1].set_yticks(range(table.shape[0]), [str(int(layer)) for layer in table.index])
    grid[0, 1].set(xlabel="head", ylabel="kept layer")
    grid[0, 1].grid(visible=False)
    fig.colorbar(image, ax=grid[0, 1])
    names = ("step", "layer", "head", "alpha", "chosen")
    points = rows.rename(columns={f"factor.{name}": name for name in names})[[*names, "value", "basis"]]
    text = "Coarse step: all heads of one layer; fine step: one head of the kept layers. Gains are over no steering."
    return Drawing(fig, points, _used(results, "gain"), "Head profile", text)


@figure("llmsteer", "selected_tokens", experiment="selected_tokens")
def selected_tokens(results: Results) -> Drawing:
    """Precision, recall, base rate and agreement of the passes, by layer."""
    names = ["precision", "recall", "base_rate", "jaccard"]
    rows = results.select(keep=["metric", "factor.layer", "factor.family"], metric=names)
    points = summarise(rows, ["metric", "factor.layer"]).rename(columns={"factor.layer": "layer", "metric": "quantity"})
    fig, grid = panels()
    lines(grid[0, 0], points, plain_styles(names), "layer", by="quantity")
    grid[0, 0].set(xlabel="layer", ylabel="share", ylim=(0, 1.03), title=sample_size(results.frame))
    legend(fig)
    text = (
        "Precision and recall of the selected tokens against the gold evidence of all queries; base rate is the precision of a "
        f"random choice; Jaccard is the agreement of the two readings. {INTERVALS}"
    )
    return Drawing(fig, points, _used(results, *names), "Are the selected tokens evidence?", text)


@figure("llmsteer", "online_delay", experiment="online_delay", paper_ref="delay claims")
def online_delay(results: Results) -> Drawing:
    """Request delay against context length."""
    styles = _styles(results)
    rows = results.select(
        keep=["series", "factor.context_tokens", "factor.query", "factor.family"], metric="request_delay"
    )
    points = summarise(rows, ["series", "factor.context_tokens"], "median")
    points = points.rename(columns={"factor.context_tokens": "context_tokens"})
    fig, grid = panels()
    lines(grid[0, 0], points, styles, "context_tokens")
    grid[0, 0].set(xlabel="context tokens", ylabel="request delay [s]")
    log_axis(grid[0, 0], "x", "y")
    grid[0, 0].set_title(sample_size(results.frame))
    legend(fig)
    text = f"Medians; random weights, which take the same time as trained ones. {INTERVALS}"
    return Drawing(fig, points, _used(results, "request_delay"), "Request delay on cached contexts", text)


@figure("llmsteer", "offline_cost", experiment="offline_cost")
def offline_cost(results: Results) -> Drawing:
    """Time of one reading over that of a prefill, and break-even, against context length."""
    fig, grid = panels(1, 2)
    plotted = []
    styles = plain_styles(["reading_over_prefill", "break_even"])
    for axes, metric, label in (
        (grid[0, 0], "reading_over_prefill", "one reading / plain prefill"),
        (grid[0, 1], "break_even", "queries until it has paid"),
    ):
        rows = results.select(keep=["factor.context_tokens"], metric=metric)
        points = summarise(rows, ["factor.context_tokens"]).rename(columns={"factor.context_tokens": "context_tokens"})
        points = points.assign(metric=metric)
        lines(axes, points, styles, "context_tokens", by="metric")
        axes.set(xlabel="context tokens", ylabel=label, ylim=(0, None))
        log_axis(axes, "x")
        plotted.append(points)
    text = (
        "Break-even is the time of preparation (two readings and the steered prefill) divided by the time that each query saves "
        "against AutoPASTA. One reading is of all layers here; the preparation reads those that will be steered."
    )
    used = _used(results, "reading_over_prefill", "break_even")
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Offline cost of steering", text)


@figure("llmsteer", "kernels", experiment="kernels")
def kernels(results: Results) -> Drawing:
    """Time of one attention layer by route of steering, against context length."""
    rows = results.select(keep=["factor.route", "factor.n_tokens"], metric="attention_time")
    points = summarise(rows, ["factor.route", "factor.n_tokens"], "median")
    points = points.rename(columns={"factor.route": "route", "factor.n_tokens": "n_tokens"})
    fig, grid = panels()
    lines(grid[0, 0], points, plain_styles(list(dict.fromkeys(points["route"]))), "n_tokens", by="route")
    grid[0, 0].set(xlabel="tokens", ylabel="time of one layer's attention [s]")
    log_axis(grid[0, 0], "x", "y")
    legend(fig)
    text = (
        "All routes but none and column_sums compute the same output; column_sums is what a reading adds to none. "
        "Channel stored: the channel lies in the cache already."
    )
    return Drawing(fig, points, _used(results, "attention_time"), "Routes of steering", text)
