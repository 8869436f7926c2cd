"""The figures of CacheBlend, from stored rows. What each metric and factor means: cacheblend/README.md."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from common.plotting import (
    Drawing,
    SeriesStyle,
    grouped_bars,
    legend,
    lines,
    linestyle,
    panels,
    paper_band,
    plain_styles,
    sample_size,
)
from common.results import Results
from common.stats import summarise
from paper_figures._panels import (
    INTERVALS,
    KL_MEANING,
    LABELS,
    QUALITY,
    draw_lines,
    draw_planes,
    has,
    level_line,
    need,
    panel_width,
    panels_of,
    quality_axis,
    rows_used,
    sample_per_point,
    styles_of,
    titled_points,
)
from paper_figures._registry import figure

# ---------------------------------------------------------------------------------------------------- quality against time


@figure("cacheblend", "ttft_vs_quality", experiment="ttft_vs_quality", paper_ref="Fig. 12")
def ttft_vs_quality(results: Results) -> Drawing:
    """Quality and KL to full prefill against time to first token, one point per method."""
    fig, points, used = draw_planes(results)
    text = f"Better is to the left, up (quality) and down (KL). TTFT is a median, the rest are means. {INTERVALS} {KL_MEANING}"
    return Drawing(fig, points, used, "Time to first token against answer quality", text)


@figure("cacheblend", "quality_by_family", experiment="ttft_vs_quality")
def quality_by_family(results: Results) -> Drawing:
    """Quality by kind of question: which ones need more than one chunk."""
    metric = need(results, *QUALITY)[0]
    columns = [(title, own) for title, own in panels_of(results) if has(own, metric)]
    styles = styles_of(results)
    fig, grid = panels(1, len(columns), width_in=4.6)
    plotted = []
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        rows = own.select(keep=["series"], metric=metric)
        # Items are called <index>-<family>; see `cacheblend.harness.requests_of`.
        rows = rows.assign(family=rows["item"].str.partition("-")[2].str.replace("_", " ").replace("", "all"))
        points = summarise(rows, ["family", "series"]).sort_values("family", kind="stable")
        grouped_bars(axes, points, styles, "family")
        axes.set_title(title)
        axes.set_ylabel(LABELS[metric])
        quality_axis(axes)
        plotted.append(titled_points(points.assign(metric=metric), title))
    legend(fig)
    text = (
        "Answers to questions of the families coreference and comparison need what another chunk says; single fact questions are "
        f"answered by one chunk, and there reuse should do no harm. {INTERVALS}"
    )
    points = pd.concat(plotted, ignore_index=True)
    return Drawing(fig, points, rows_used(results, [metric]), "Answer quality by kind of question", text)


@figure("cacheblend", "mapreduce_baselines", experiment="mapreduce_baselines", paper_ref="Fig. 13")
def mapreduce_baselines(results: Results) -> Drawing:
    """Quality against time to first token beside MapReduce and MapRerank."""
    fig, points, used = draw_planes(results, log_time=True)
    text = (
        f"TTFT (logarithmic) is a median, the rest are means. {INTERVALS} A model of this size cannot write summaries, so the "
        f"quality of MapReduce says little here. {KL_MEANING}"
    )
    return Drawing(fig, points, used, "CacheBlend beside answering chunk by chunk", text)


# -------------------------------------------------------------------------------------------------- lines over one variable


@figure("cacheblend", "quality_vs_ratio", experiment="quality_vs_ratio", paper_ref="Fig. 16")
def quality_vs_ratio(results: Results) -> Drawing:
    """Quality, KL and, where it was timed, TTFT against the recompute ratio, for every way to choose tokens."""

    def mark_default(axes: Axes, _metric: str) -> None:
        paper_band(axes, 0.05, 0.18, "no loss from r = 5 to 18 %", vertical=True)

    fig, points, used = draw_lines(
        results, "ratio", [QUALITY, ("kl_to_full",), ("ttft",)], xlabel=LABELS["ratio"], adjust=mark_default
    )
    text = (
        "Each line is one way to choose which tokens are computed anew; long-dashed level lines are methods without a ratio. "
        f"The oracle knows the true deviation and cannot be built. {INTERVALS} {KL_MEANING}"
    )
    return Drawing(fig, points, used, "Quality against the share of tokens recomputed", text)


@figure("cacheblend", "selectors_at_equal_work", experiment="selectors_at_equal_work")
def selectors_at_equal_work(results: Results) -> Drawing:
    """All ways to choose tokens at the same number of computed rows."""
    xlabel = "rows computed per layer / reused tokens"
    fig, points, used = draw_lines(results, "share", [QUALITY, ("kl_to_full",)], xlabel=xlabel)
    text = (
        "At the same place on the x axis all methods compute equally many rows. CacheBlend pays for one layer computed in full; "
        f"choices made in advance spend that on more tokens. {INTERVALS} {KL_MEANING}"
    )
    return Drawing(fig, points, used, "Ways to choose tokens, at equal work", text)


@figure("cacheblend", "quality_vs_chunks", experiment="quality_vs_chunks", paper_ref="Figs. 2 and 3")
def quality_vs_chunks(results: Results) -> Drawing:
    """Quality against the number of chunks in the context."""
    fig, points, used = draw_lines(results, "num_chunks", [QUALITY, ("kl_to_full",)], xlabel="chunks in the context")
    text = f"The gap between full recompute and full reuse is what lost attention between chunks costs. {INTERVALS} {KL_MEANING}"
    return Drawing(fig, points, used, "Quality against the number of chunks", text)


@figure("cacheblend", "mask_effect", experiment="mask_effect")
def mask_effect(results: Results) -> Drawing:
    """The correct causal mask against the bottom-right one, over ratios."""
    styles = {
        "absolute": SeriesStyle("correct mask (by position)", "#0072B2", "o"),
        "bottom_right": SeriesStyle("bottom-right mask (released code)", "#D55E00", "s"),
    }
    fig, points, used = draw_lines(
        results, "ratio", [("kl_to_full",), QUALITY], xlabel=LABELS["ratio"], by="factor.mask", styles=styles
    )
    text = (
        "The mask of the authors' released code lines recomputed rows up with the end of the prompt, so early ones see tokens "
        f"that come after them. {INTERVALS} {KL_MEANING}"
    )
    return Drawing(fig, points, used, "What a wrong causal mask costs", text)


@figure("cacheblend", "check_layer_effect", experiment="check_layer_effect")
def check_layer_effect(results: Results) -> Drawing:
    """Quality against the share recomputed, by the layer at which tokens are chosen."""
    frame = results.frame[results.frame["factor.check_layer"].notna()]
    named = frame.assign(choice=frame["label"] + ", layer " + frame["factor.check_layer"].map("{:g}".format))
    own = Results(named, results.records)
    styles = plain_styles(sorted(named["choice"].unique()))
    fig, points, used = draw_lines(
        own,
        "ratio",
        [("kl_to_full",), QUALITY],
        xlabel=LABELS["ratio"],
        by="choice",
        styles=styles,
        varying=["factor.check_layer"],
    )
    text = (
        "All layers up to the one at which tokens are chosen are computed for every token; the paper chooses at layer 1. "
        f"Random tokens show what that alone is worth. {INTERVALS} {KL_MEANING}"
    )
    return Drawing(fig, points, used, "Where the tokens are chosen", text)


@figure("cacheblend", "attention_deviation", experiment="attention_deviation", paper_ref="Fig. 6")
def attention_deviation(results: Results) -> Drawing:
    """Distance of the question's attention from that of full prefill, against the recompute ratio."""

    def frame(axes: Axes, _metric: str) -> None:
        axes.set_ylim(bottom=-0.03)
        paper_band(axes, 0.10, 0.15, "steep up to 10 to 15 %, then flat", vertical=True)

    fig, points, used = draw_lines(results, "ratio", [("attention_deviation",)], xlabel=LABELS["ratio"], adjust=frame)
    text = (
        "Frobenius norm of the difference of the attention probabilities of the last prompt tokens, averaged over heads and "
        f"layers, divided by that of full KV reuse. {INTERVALS}"
    )
    return Drawing(fig, points, used, "Attention deviation against the share of tokens recomputed", text)


@figure("cacheblend", "rank_correlation", experiment="rank_correlation", paper_ref="Fig. 8")
def rank_correlation(results: Results) -> Drawing:
    """Spearman correlation of the tokens' KV deviation between neighbouring layers."""

    def frame(axes: Axes, _metric: str) -> None:
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.03)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    styles = {"": SeriesStyle("KV deviation of a token", "#0072B2", "o")}
    own = Results(results.frame.assign(series=""), results.records)
    fig, points, used = draw_lines(own, "layer", [("rank_correlation",)], xlabel="layer", styles=styles, adjust=frame)
    text = (
        "Spearman rank correlation, over the reused tokens, of the KV deviation at one layer with that at the next. High values "
        f"mean that the choice made at one layer serves the next. {INTERVALS}"
    )
    return Drawing(fig, points, used, "Tokens that deviate at one layer deviate at the next", text)


@figure("cacheblend", "deviation_by_offset", experiment="deviation_by_offset")
def deviation_by_offset(results: Results) -> Drawing:
    """KV deviation against a token's place in its chunk."""
    styles = {
        "True": SeriesStyle("chunks computed behind BOS", "#0072B2", "o"),
        "False": SeriesStyle("chunks computed without BOS", "#D55E00", "s"),
    }

    def frame(axes: Axes, _metric: str) -> None:
        axes.set_ylim(bottom=0)
        axes.set_ylabel("KV deviation / mean")
        for line in axes.get_lines():
            line.set_markersize(2.5)
        axes.axhline(1.0, color="#333333", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)

    fig, points, used = draw_lines(
        results,
        "offset_tokens",
        [("kv_deviation",)],
        xlabel="place in the chunk [tokens]",
        by="factor.sink",
        styles=styles,
        adjust=frame,
    )
    text = (
        "Deviation of the values' KV from full prefill by the token's place in its chunk, averaged over chunks and layers, "
        "relative to the request's mean (dotted line). A chunk's first tokens became attention sinks when it was computed alone. "
        f"{INTERVALS}"
    )
    return Drawing(fig, points, used, "KV deviation against the place in the chunk", text)


# ------------------------------------------------------------------------------------------------ distribution of deviation


@figure("cacheblend", "kv_deviation", experiment="kv_deviation", paper_ref="Fig. 7")
def kv_deviation(results: Results) -> Drawing:
    """Distribution of the KV deviation over tokens at each layer, and what share the largest hold."""
    need(results, "kv_deviation")
    columns = list(panels_of(results))
    fig, grid = panels(2, len(columns), width_in=panel_width(columns), height_in=2.4)
    plotted = []
    for (top, bottom), (title, own) in zip(grid.T, columns, strict=True):
        rows = own.select(keep=["factor.layer", "factor.token_share"], metric="kv_deviation")
        points = summarise(rows, ["factor.layer", "factor.token_share"])
        points = points.rename(columns={"factor.layer": "layer", "factor.token_share": "token_share"})
        layers = sorted(points["layer"].unique())
        styles = plain_styles([str(int(layer)) for layer in layers])
        for layer in layers:
            group = points[points["layer"] == layer].sort_values("token_share")
            style = styles[str(int(layer))]
            basis = "+".join(sorted(group["basis"].unique()))
            top.plot(
                group["value"],
                group["token_share"],
                color=style.color,
                linestyle=linestyle(basis),
                label=f"layer {int(layer)}",
            )
        top.set_title(title)
        top.set_xlabel("KV deviation / mean over tokens")
        top.set_ylabel("share of tokens below")
        top.set_xlim(left=0)
        quality_axis(top)
        plotted.append(titled_points(points.assign(metric="kv_deviation"), title))
        if has(own, "top_share"):
            share = summarise(own.select(keep=["factor.layer"], metric="top_share"), ["factor.layer"])
            share = share.rename(columns={"factor.layer": "layer"})
            one = {"top": SeriesStyle("held by the 15 % of tokens that deviate most", "#0072B2", "o")}
            lines(bottom, share.assign(series="top"), one, "layer")
            bottom.axhline(0.15, color="#333333", linewidth=0.8, linestyle=(0, (1, 2)), label="if all deviated alike")
            bottom.set_xlabel("layer")
            bottom.set_ylabel("share of the squared\ndeviation")
            quality_axis(bottom)
            bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
            plotted.append(titled_points(share.assign(metric="top_share"), title))
        else:
            bottom.set_axis_off()
    legend(fig)
    text = (
        "Top: distribution of the tokens' KV deviation, each layer's divided by its mean, averaged over requests at each "
        f"quantile. A heavy tail to the right means that few tokens hold most of it; the lower panel shows how much. {INTERVALS}"
    )
    used = rows_used(results, ["kv_deviation", "top_share"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "How unevenly KV deviation is spread", text)


VARIANTS = {
    "full_recompute": "full recompute",
    "full_reuse": "full KV reuse",
    "cacheblend": "CacheBlend",
}


@figure("cacheblend", "attention_map", experiment="attention_map", paper_ref="Fig. 4")
def attention_map(results: Results) -> Drawing:
    """Attention between the tokens of the chunks for one request, and the mass across chunks for all of them."""
    need(results, "attention")
    title, own = next(panels_of(results))
    frame = own.select(keep=["factor.variant", "factor.query_bin", "factor.key_bin"], metric="attention")
    first = frame.sort_values(["seed", "item"], kind="stable").iloc[0]
    one = frame[(frame["item"] == first["item"]) & (frame["seed"] == first["seed"])]
    variants = [name for name in VARIANTS if name in set(one["factor.variant"])]
    fig, grid = panels(1, len(variants) + 1, width_in=2.45, height_in=2.3)
    size = int(one["factor.query_bin"].max()) + 1
    largest = one["value"].max()
    image: Any = None
    for axes, variant in zip(grid[0], variants, strict=False):
        values = np.full((size, size), math.nan)
        rows = one[one["factor.variant"] == variant]
        values[rows["factor.query_bin"].astype(int), rows["factor.key_bin"].astype(int)] = rows["value"]
        # Most of a map is small: a square root shows it without hiding the diagonal.
        image = axes.imshow(values, cmap="viridis", norm=PowerNorm(0.5, 0.0, largest), origin="upper")
        axes.set_title(VARIANTS[variant])
        axes.set_xlabel("key tokens")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
    grid[0, 0].set_ylabel("query tokens")
    fig.colorbar(image, ax=list(grid[0, : len(variants)]), shrink=0.75, pad=0.01, label="attention from bin to bin")
    mass = summarise(own.select(keep=["factor.variant"], metric="cross_chunk_mass"), ["factor.variant"])
    mass = mass.rename(columns={"factor.variant": "variant"})
    mass = mass.set_index("variant").loc[variants].reset_index()
    bars = grid[0, -1]
    grouped_bars(
        bars,
        mass.assign(series="mass", shown=[VARIANTS[v].replace("full ", "full\n") for v in variants]),
        {"mass": SeriesStyle("mass", "#0072B2", "o")},
        "shown",
    )
    bars.set_ylabel("attention mass to\nother chunks")
    bars.set_title(sample_size(own.frame))
    map_points = one[["factor.variant", "factor.query_bin", "factor.key_bin", "value"]].assign(metric="attention")
    map_points.columns = pd.Index(["variant", "query_bin", "key_bin", "value", "metric"])
    points = pd.concat([map_points, mass.assign(metric="cross_chunk_mass")], ignore_index=True)
    text = (
        f"Maps: request {first['item']} of seed {first['seed']} ({title.partition(chr(10))[0]}), mean over heads and layers, "
        "tokens averaged into bins. With full reuse a token saw only its own chunk, so the block below the diagonal blocks is "
        f"empty; CacheBlend fills the rows that it recomputes. Bars: mean over all requests. {INTERVALS}"
    )
    used = rows_used(own, ["attention", "cross_chunk_mass"])
    return Drawing(fig, points, used, "Attention between chunks", text)


# ------------------------------------------------------------------------------------------------------------------- speed


@figure("cacheblend", "speed_vs_ratio", experiment="speed_vs_ratio")
def speed_vs_ratio(results: Results) -> Drawing:
    """Measured speed-up over full recompute beside what the operation count allows."""
    metrics = need(results, "speedup", "speedup_bound", "speedup_formula")
    columns = list(panels_of(results))
    known = {
        "speedup": SeriesStyle("CacheBlend", "#D55E00", "o"),
        "speedup_bound": SeriesStyle("bound by counted operations", "#5E4FA2", "s"),
        "speedup_formula": SeriesStyle("L / (1 + (L-1)(r + question/N))", "#66A61E", "^"),
    }
    method_styles = styles_of(results)
    fig, grid = panels(1, len(columns), width_in=4.4, height_in=2.9)
    plotted = []
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        for metric in metrics:
            rows = own.select(keep=["series", "factor.ratio", "basis"], metric=metric)
            swept = rows[rows["factor.ratio"].notna()]
            points = summarise(swept, ["series", "factor.ratio"]).rename(columns={"factor.ratio": "ratio"})
            for series, group in points.groupby("series", sort=False):
                style = known[metric]
                if metric == "speedup":
                    style = SeriesStyle(
                        str(series), method_styles[str(series)].color, method_styles[str(series)].marker
                    )
                lines(axes, group, {str(series): style}, "ratio")
            plotted.append(titled_points(points.assign(metric=metric), title))
            if metric != "speedup":
                continue
            others = summarise(rows[rows["factor.ratio"].isna()], ["series"], "median")
            for _, point in others.iterrows():
                level_line(axes, point, method_styles[str(point["series"])])
            plotted.append(titled_points(others.assign(metric=metric), title))
        axes.set_title(title)
        axes.set_xlabel(LABELS["ratio"])
        axes.set_ylabel("TTFT of full recompute / TTFT")
        axes.set_yscale("log")
        axes.set_yticks([1, 2, 3, 5, 10, 20, 50], ["1", "2", "3", "5", "10", "20", "50"])
        axes.minorticks_off()
        highest = max(line.get_ydata(orig=False).max() for line in axes.get_lines())
        axes.set_ylim(0.8, 1.25 * float(highest))
    legend(fig, max_columns=3)
    text = (
        "Measured: ratio of times taken in the same round. Modelled: from the operations that the run really computed, and "
        "from the share of tokens alone (r and the question's length). Long-dashed level lines are methods without a ratio. "
        f"{INTERVALS}"
    )
    used = rows_used(results, metrics)
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Speed-up, measured and possible", text)


@figure("cacheblend", "sensitivity", experiment="sensitivity", paper_ref="Fig. 15")
def sensitivity(results: Results) -> Drawing:
    """TTFT against the number and the length of the chunks and the size of a batch, and a batch's throughput."""
    metrics = need(results, "ttft", "throughput")
    styles, columns = styles_of(results), list(panels_of(results))
    sweeps = (
        ("chunks", "ttft", "num_chunks", "chunks of {chunk_tokens} tokens"),
        ("length", "ttft", "chunk_tokens", "tokens per chunk, {num_chunks} chunks"),
        ("batch", "ttft", "batch", "requests that arrive together,\n{num_chunks} chunks of {chunk_tokens} tokens"),
        (
            "batch",
            "throughput",
            "batch",
            "requests that arrive together,\n{num_chunks} chunks of {chunk_tokens} tokens",
        ),
    )
    fig, grid = panels(len(columns), len(sweeps))
    plotted = []
    for row, (title, own) in enumerate(columns):
        for axes, (panel, metric, factor, xlabel) in zip(grid[row], sweeps, strict=True):
            varied = [f"factor.{name}" for name in ("num_chunks", "chunk_tokens", "batch")]
            rows = own.select(keep=["series", *varied], metric=metric, **{"factor.panel": panel})
            if rows.empty:
                axes.set_axis_off()
                continue
            held = {
                name: "; ".join(f"{value:g}" for value in sorted(rows[f"factor.{name}"].unique()))
                for name in ("num_chunks", "chunk_tokens")
            }
            points = summarise(rows, ["series", f"factor.{factor}"], "median").rename(
                columns={f"factor.{factor}": factor}
            )
            lines(axes, points, styles, factor)
            axes.set_title(f"{title.partition(chr(10))[0]}\n{sample_per_point(rows, factor)}")
            axes.set_xlabel(xlabel.format(**held))
            axes.set_ylabel(LABELS["ttft"] if metric == "ttft" else "requests per second")
            axes.set_ylim(bottom=0)
            plotted.append(titled_points(points.assign(sweep=panel, metric=metric), title))
    legend(fig)
    text = (
        f"Medians. {INTERVALS} TTFT of a batch: mean over its requests, each from the arrival of all to its own first token; the "
        "engine prefills them one after another. Requests per second: until the last first token."
    )
    used = rows_used(results, metrics)
    return Drawing(
        fig, pd.concat(plotted, ignore_index=True), used, "TTFT against chunks, their length, and batches", text
    )


# Registers the figures of storage and scheduling, after those above: figures are listed in the order of their definition.
from paper_figures import _cacheblend_storage  # noqa: E402, F401
