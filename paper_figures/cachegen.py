"""The figures of CacheGen, from stored rows. What each metric and factor means: cachegen/README.md."""

from collections.abc import Callable, Sequence

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
    stacked_bars,
)
from common.results import Results
from common.stats import summarise
from paper_figures._panels import (
    INTERVALS,
    Panel,
    draw_lines,
    has,
    kl_axis,
    need,
    panel_width,
    panels_of,
    quality_axis,
    rows_used,
    styles_of,
    titled_points,
)
from paper_figures._registry import figure

BITS = "bits per element of the cache"
KL = "KL to the uncompressed cache [nat]"
SHARE = "8-bit transfer time / prefill time"
KL_MEANING = (
    "KL is that of the next-token distribution to the one with the uncompressed cache, averaged over the answer; its axis is "
    "logarithmic above the lowest tick over 0."
)


def _both(own: Results, x_metric: str, y_metric: str, by: Sequence[str]) -> pd.DataFrame:
    """One point per group that has both metrics: columns `by`, x, value (of y), low, high, basis."""
    keep = [*by, "series"]
    x = summarise(own.select(keep=keep, metric=x_metric), list(by))[[*by, "value", "basis"]]
    y = summarise(own.select(keep=keep, metric=y_metric), list(by))
    both = y.merge(x.rename(columns={"value": "x", "basis": "basis_x"}), on=list(by))
    both["basis"] = [
        "+".join(sorted({*a.split("+"), *b.split("+")})) for a, b in zip(both["basis"], both["basis_x"], strict=True)
    ]
    return both.drop(columns="basis_x").assign(x_metric=x_metric, metric=y_metric)


def _curves(
    results: Results,
    x_metric: str,
    xlabel: str,
    *,
    series: str = "series",
    styles: dict[str, SeriesStyle] | None = None,
    is_log: bool = True,
) -> tuple[Figure, pd.DataFrame, pd.DataFrame]:
    """Quality, and below it KL, against a cost: one line per series through its levels, one column per panel."""
    chosen = styles_of(results) if styles is None else styles
    columns: list[Panel] = list(panels_of(results))
    metrics = [metric for metric in ("quality", "kl") if has(results, metric)]
    need(results, "quality", "kl")
    fig, grid = panels(len(metrics), len(columns), width_in=panel_width(columns), height_in=2.5)
    plotted = []
    for column, (title, own) in enumerate(columns):
        grid[0, column].set_title(title)
        for axes, metric in zip(grid[:, column], metrics, strict=True):
            if not has(own, metric):
                axes.set_axis_off()
                continue
            points = _both(own, x_metric, metric, [series, "factor.level"])
            lines(axes, points, chosen, "x", by=series, band=False)
            if is_log:
                log_axis(axes, "x")
            axes.set_ylabel("answer quality" if metric == "quality" else KL)
            if metric == "kl":
                kl_axis(axes, points["value"])
            else:
                quality_axis(axes)
            plotted.append(titled_points(points, title))
        grid[-1, column].set_xlabel(xlabel)
    legend(fig)
    return fig, pd.concat(plotted, ignore_index=True), rows_used(results, [x_metric, *metrics])


# ------------------------------------------------------------------------------------------------------- size and delay


@figure("cachegen", "size_vs_quality", experiment="size_vs_quality", paper_ref="Figs. 9 and 10, Table 1")
def size_vs_quality(results: Results) -> Drawing:
    """Quality and KL against the bits that each element of the cache costs, all bytes counted."""
    fig, points, used = _curves(results, "bits_per_element", BITS)
    text = (
        "Sizes are lengths of the bytes that were decoded for the answer: payload, scales, tables that travel with a chunk, "
        f"headers; profiles, made once per model, are not among them. Better is to the left. {INTERVALS} {KL_MEANING}"
    )
    return Drawing(fig, points, used, "Size of the stored context against answer quality", text)


@figure("cachegen", "ttft_vs_quality", experiment="ttft_vs_quality", paper_ref="Fig. 8")
def ttft_vs_quality(results: Results) -> Drawing:
    """Quality and KL against time to first token at the default bandwidth."""
    fig, points, used = _curves(results, "ttft", "time to first token [s]")
    text = (
        "The link is simulated, with a bandwidth at which the 8-bit cache takes 0.65 of a full prefill; decoding and prefilling "
        f"were timed. {INTERVALS} {KL_MEANING}"
    )
    return Drawing(fig, points, used, "Time to first token against answer quality", text)


def _log_x(axes: Axes, _metric: str) -> None:
    log_axis(axes, "x", "y")


@figure("cachegen", "ttft_vs_bandwidth", experiment="ttft_vs_bandwidth", paper_ref="Fig. 11")
def ttft_vs_bandwidth(results: Results) -> Drawing:
    """Time to first token against bandwidth."""

    def adjust(axes: Axes, metric: str) -> None:
        _log_x(axes, metric)
        axes.invert_xaxis()
        paper_band(axes, 0.65, 0.65, "3 Gbit/s", vertical=True)

    fig, points, used = draw_lines(
        results, "transfer_share", [("ttft",)], xlabel=f"{SHARE}  (faster link to the right)", adjust=adjust
    )
    text = (
        f"Both axes are logarithmic. Simulated link, measured decoding and prefill times, default levels. {INTERVALS}"
    )
    return Drawing(fig, points, used, "Time to first token against bandwidth", text)


@figure("cachegen", "ttft_vs_length", experiment="ttft_vs_length", paper_ref="Fig. 12")
def ttft_vs_length(results: Results) -> Drawing:
    """Time to first token against context length."""
    fig, points, used = draw_lines(
        results, "context_tokens", [("ttft",)], xlabel="tokens of the context", adjust=_log_x
    )
    text = f"The bandwidth is that at which the longest context's 8-bit cache takes 0.65 of its prefill. {INTERVALS}"
    return Drawing(fig, points, used, "Time to first token against context length", text)


@figure("cachegen", "ttft_vs_concurrency", experiment="ttft_vs_concurrency", paper_ref="Fig. 12")
def ttft_vs_concurrency(results: Results) -> Drawing:
    """Time to first token against the number of concurrent requests."""
    fig, points, used = draw_lines(results, "num_requests", [("ttft",)], xlabel="requests at once")
    text = f"Requests share the link, the decoder and the model. {INTERVALS}"
    return Drawing(fig, points, used, "Time to first token against concurrent requests", text)


@figure("cachegen", "slo_violations", experiment="slo_violations", paper_ref="Fig. 13")
def slo_violations(results: Results) -> Drawing:
    """KL of the loaded cache against the share of requests that miss their objective."""
    need(results, "is_violated")
    columns = [
        (f"{title}\nobjective {share:g} of the fp16 transfer", own.only(**{"factor.slo_share": share}))
        for title, own in panels_of(results)
        for share in sorted(own.frame["factor.slo_share"].dropna().unique())
    ]
    methods = styles_of(results)
    fig, grid = panels(1, len(columns), width_in=4.2, height_in=2.9)
    plotted = []
    names = {
        "adaptive": "adaptive",
        "careful": "adaptive with reserve",
        "fixed": "fixed level",
        "hindsight": "best in hindsight",
    }
    markers = {"adaptive": "o", "careful": "D", "fixed": "s", "hindsight": "*"}
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        by, varying = ["series", "factor.policy"], ["factor.trace"]
        rows = {metric: own.select(keep=[*by, *varying], metric=metric) for metric in ("is_violated", "kl")}
        x, y = (summarise(frame, by) for frame in (rows["is_violated"], rows["kl"]))
        both = y.merge(x[[*by, "value"]].rename(columns={"value": "x"}), on=by)
        for _, point in both.iterrows():
            style, policy = methods[point["series"]], point["factor.policy"]
            axes.plot(
                point["x"],
                point["value"],
                markers.get(policy, "D"),
                color=style.color,
                markerfacecolor="white",
                label=f"{style.label}, {names.get(policy, policy)}",
            )
        kl_axis(axes, both["value"])
        axes.set_xlim(-0.03, 1.03)
        axes.set_title(title)
        axes.set_xlabel("share of requests over the objective")
        axes.set_ylabel(KL)
        plotted.append(titled_points(both, title))
    legend(fig, max_columns=3)
    text = (
        "Better is to the left and down. Every policy gets the same random traces; the objective is on loading the whole cache. "
        f"Violations are simulated, KL is measured on the cache that each mix of levels really gives. {KL_MEANING}"
    )
    used = rows_used(results, ["is_violated", "kl"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Missed objectives against quality", text)


@figure("cachegen", "adaptation_example", experiment="adaptation_example", paper_ref="Fig. 7")
def adaptation_example(results: Results) -> Drawing:
    """When each chunk arrives in the paper's example, with and without adaptation."""
    styles = {
        "adaptive": SeriesStyle("adaptive", "#0072B2", "o"),
        "fixed": SeriesStyle("fixed level", "#D55E00", "s"),
    }

    def adjust(axes: Axes, _metric: str) -> None:
        paper_band(axes, 4.0, 4.0, "objective")
        for line in axes.get_lines():
            line.set_markersize(2.5)

    fig, points, used = draw_lines(
        results, "chunk", [("arrival",)], xlabel="chunk", by="factor.policy", styles=styles, adjust=adjust
    )
    text = "2 Gbit/s, from 2 s on 0.2 Gbit/s, from 4 s on 1 Gbit/s; 1 GB at the default level. Chunk and level sizes are ours."
    return Drawing(fig, points, used, "The paper's example of adaptation", text)


@figure("cachegen", "real_link", experiment="real_link")
def real_link(results: Results) -> Drawing:
    """Loading time over a real rate-limited TCP connection, relative to the simulator's prediction."""
    styles = {
        "adaptive": SeriesStyle("adaptive", "#0072B2", "o"),
        "fixed": SeriesStyle("fixed level", "#D55E00", "s"),
    }

    def adjust(axes: Axes, _metric: str) -> None:
        axes.axhline(1.0, color="#333333", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        log_axis(axes, "x")

    fig, points, used = draw_lines(
        results,
        "transfer_share",
        [("real_over_simulated",)],
        xlabel=SHARE,
        by="factor.policy",
        styles=styles,
        adjust=adjust,
    )
    text = f"1 means that the simulator was right. On a busy machine the real one is late. {INTERVALS}"
    return Drawing(fig, points, used, "Real connection against simulation", text)


# ------------------------------------------------------------------------------------------------------------ the codec


@figure("cachegen", "ablation", experiment="ablation", paper_ref="Fig. 15")
def ablation(results: Results) -> Drawing:
    """What each idea adds: bits per element against quality and KL."""
    steps = list(dict.fromkeys(results.frame["factor.step"].dropna()))
    fig, points, used = _curves(results, "bits_per_element", BITS, series="factor.step", styles=plain_styles(steps))
    text = (
        "From packed quantisation over coding with one table, tables per layer and channel, levels by layer, to anchors and "
        f"deltas. Lower left is better. {INTERVALS} {KL_MEANING}"
    )
    return Drawing(fig, points, used, "What each idea of the codec adds", text)


_SIDES = {"keys": SeriesStyle("keys", "#0072B2", "o"), "values": SeriesStyle("values", "#D55E00", "s")}


@figure("cachegen", "token_locality", experiment="token_locality", paper_ref="Fig. 3")
def token_locality(results: Results) -> Drawing:
    """Variance of values over variance of deltas between neighbours, by layer."""
    own = _of_rope(results, "after")
    fig, points, used = draw_lines(
        own,
        "layer",
        [("variance_ratio",), ("within_channel_ratio",)],
        xlabel="layer",
        by="factor.side",
        styles=_SIDES,
        adjust=lambda axes, metric: paper_band(axes, 2.4, 2.9, "2.4 to 2.9") if metric == "variance_ratio" else None,
    )
    text = (
        "variance ratio: all values pooled, as in the paper. within channel: each channel on its own; per-channel tables already "
        f"know a channel's mean, so deltas pay only where this one is above 1. {INTERVALS}"
    )
    return Drawing(fig, points, used, "Are nearby tokens alike?", text)


def _of_rope(results: Results, rope: str) -> Results:
    return Results(
        results.frame[results.frame["factor.rope"].isin([rope]) | results.frame["factor.rope"].isna()], results.records
    )


@figure("cachegen", "delta_or_not", experiment="delta_or_not")
def delta_or_not(results: Results) -> Drawing:
    """Estimated bits at the same step with and without anchors, by layer; keys after RoPE."""
    frame = _of_rope(results, "after").frame
    coding = frame["factor.side"].astype(str) + ", " + frame["factor.coding"].astype(str)
    own = Results(frame.assign(**{"factor.line": coding}), results.records)
    names = list(dict.fromkeys(coding))
    fig, points, used = draw_lines(
        own,
        "layer",
        [("bits_estimated",)],
        xlabel="layer",
        by="factor.line",
        styles=plain_styles(names),
        varying=["factor.side", "factor.coding"],
    )
    text = f"Empirical entropy per channel at the same step, so at the same error. Anchors pay where lower. {INTERVALS}"
    return Drawing(fig, points, used, "Deltas or not: bits at equal error", text)


@figure("cachegen", "layer_sensitivity", experiment="layer_sensitivity", paper_ref="Fig. 4")
def layer_sensitivity(results: Results) -> Drawing:
    """KL and quality when loss is put into one group of layers."""
    frame = results.frame.copy()
    share = frame["factor.noise_share"] if "factor.noise_share" in frame else pd.Series(float("nan"), index=frame.index)
    frame["factor.kind"] = [
        f"noise, {value:g} sigma" if loss == "noise" else str(loss)
        for loss, value in zip(frame["factor.loss"], share, strict=True)
    ]
    own = Results(frame[frame["factor.group"] >= 0], results.records)
    styles = plain_styles(list(dict.fromkeys(own.frame["factor.kind"])))
    fig, points, used = draw_lines(
        own,
        "group",
        [("quality",), ("kl",)],
        xlabel="group of layers, from first to last",
        by="factor.kind",
        styles=styles,
        varying=["factor.loss", *(["factor.noise_share"] if "factor.noise_share" in frame else [])],
    )
    text = f"Rounding to three values a number, or Gaussian noise, in one quarter of the layers. {INTERVALS} KL in nat."
    return Drawing(fig, points, used, "Where loss hurts", text)


def _bars(
    results: Results,
    metric: str,
    x: str,
    by: str,
    styles: dict[str, SeriesStyle],
    ylabel: str,
    keep: Sequence[str] = (),
) -> tuple[Figure, pd.DataFrame, pd.DataFrame]:
    columns = [(title, own) for title, own in panels_of(results) if has(own, metric)]
    need(results, metric)
    fig, grid = panels(1, len(columns), width_in=5.2)
    plotted = []
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        rows = own.select(keep=["series", x, by, *keep], metric=metric)
        points = summarise(rows.assign(**{by: rows[by].astype(str)}), [x, by])
        grouped_bars(axes, points, styles, x, by=by)
        axes.set_title(title)
        axes.set_ylabel(ylabel)
        plotted.append(titled_points(points.assign(metric=metric), title))
    legend(fig)
    return fig, pd.concat(plotted, ignore_index=True), rows_used(results, [metric])


@figure("cachegen", "entropy_by_grouping", experiment="entropy_by_grouping", paper_ref="Fig. 5")
def entropy_by_grouping(results: Results) -> Drawing:
    """Entropy per element when values share a table by token, channel, layer, or layer and channel."""
    fig, points, used = _bars(
        results, "bits_estimated", "factor.grouping", "factor.side", _SIDES, "bits per element (estimated)"
    )
    text = "Empirical entropy at one step for everything; no bytes are made here. Groups of few symbols look too cheap."
    return Drawing(fig, points, used, "What carries the information: entropy by grouping", text)


@figure("cachegen", "byte_breakdown", experiment="byte_breakdown")
def byte_breakdown(results: Results) -> Drawing:
    """Bits per element by part of the stream, for each form and chunk length."""
    need(results, "bits_per_element")
    columns = list(panels_of(results))
    parts = list(dict.fromkeys(results.frame["factor.part"].dropna()))
    labels = {name: style.label for name, style in styles_of(results).items()}
    fig, grid = panels(1, len(columns), width_in=5.6, height_in=4.6)
    plotted = []
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        rows = own.select(keep=["series", "factor.part", "factor.chunk_tokens"], metric="bits_per_element")
        points = summarise(rows, ["series", "factor.chunk_tokens", "factor.part"])
        shown = points["series"].map(labels) + ", " + points["factor.chunk_tokens"].astype(int).astype(str)
        points = points.assign(bar=shown)
        stacked_bars(axes, points, plain_styles(parts), "bar", by="factor.part")
        axes.set_title(title)
        axes.set_xlabel(BITS)
        plotted.append(titled_points(points, title))
    legend(fig)
    text = "One bar per form of the codec and chunk length in tokens, at its default level."
    used = rows_used(results, ["bits_per_element"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "What the bytes are", text)


@figure("cachegen", "synthetic_correlation", experiment="synthetic_correlation")
def synthetic_correlation(results: Results) -> Drawing:
    """Bits per element of synthetic channels against the correlation of neighbouring tokens."""
    frame = results.frame[results.frame["factor.tables"] == "channel"]
    group = frame["factor.group_tokens"].astype(int).astype(str)
    line = group.where(frame["factor.coding"] == "anchored", "direct").map(
        lambda g: g if g == "direct" else f"anchors, g = {g}"
    )
    own = Results(frame.assign(**{"factor.line": line}), results.records)
    fig, points, used = draw_lines(
        own,
        "correlation",
        [("bits_per_element",)],
        xlabel="correlation of neighbouring tokens",
        by="factor.line",
        styles=plain_styles(list(dict.fromkeys(line))),
        varying=["factor.group_tokens", "factor.coding", "factor.tables"],
    )
    text = (
        "Synthetic AR(1) channels with means of their own, coded at the same error with a table per channel; nothing here is a "
        f"language model. {INTERVALS}"
    )
    return Drawing(fig, points, used, "Where deltas begin to pay (synthetic)", text)


@figure("cachegen", "coder_speed", experiment="coder_speed")
def coder_speed(results: Results) -> Drawing:
    """Encoding and decoding rates of our coder, the whole codec, and what they are compared with."""
    own = results.only(**{"factor.threads": 1})
    names = {
        "encode": SeriesStyle("encode", "#E69F00", "s"),
        "decode": SeriesStyle("decode", "#0072B2", "o"),
    }

    need(own, "rate")
    columns = list(panels_of(own))
    fig, grid = panels(1, len(columns), width_in=6.0)
    plotted = []
    for axes, (title, part) in zip(grid[0], columns, strict=True):
        rows = part.select(keep=["series", "factor.what", "factor.direction", "factor.threads"], metric="rate")
        points = summarise(rows, ["factor.what", "factor.direction"], "median")
        grouped_bars(axes, points, names, "factor.what", by="factor.direction")
        log_axis(axes, "y")
        axes.set_title(title)
        axes.set_ylabel("B of fp16 cache per s")
        plotted.append(titled_points(points, title))
    legend(fig)
    text = "One thread. rans, constriction, zstd: the entropy coder alone on the same symbols; cachegen: the codec. Medians."
    return Drawing(fig, pd.concat(plotted, ignore_index=True), rows_used(own, ["rate"]), "Speed of coding", text)


@figure("cachegen", "overheads", experiment="overheads", paper_ref="Fig. 14")
def overheads(results: Results) -> Drawing:
    """Time of each phase, and storage of all levels beside the 8-bit cache."""
    parts: list[tuple[str, str, str, Callable[[Axes], None]]] = [
        ("time", "factor.phase", "s", lambda axes: log_axis(axes, "x")),
        ("storage", "factor.store", "B", lambda axes: None),
    ]
    columns = list(panels_of(results))
    fig, grid = panels(2, len(columns), width_in=5.0, height_in=2.6)
    plotted = []
    for column, (title, own) in enumerate(columns):
        grid[0, column].set_title(title)
        for axes, (metric, factor, unit, adjust) in zip(grid[:, column], parts, strict=True):
            rows = own.select(keep=["series", factor], metric=metric)
            points = summarise(rows, [factor]).assign(part=metric)
            stacked_bars(axes, points, plain_styles([metric]), factor, by="part")
            adjust(axes)
            axes.set_xlabel(f"{metric} [{unit}]")
            plotted.append(titled_points(points.rename(columns={factor: "what"}), title))
    text = f"Encoding makes all levels, once per context, offline. {INTERVALS}"
    used = rows_used(results, ["time", "storage"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "What coding costs", text)
