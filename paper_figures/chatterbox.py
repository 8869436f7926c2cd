"""The figures of Chatterbox, from stored rows. What each metric and factor means: chatterbox/README.md."""

from typing import Any

import pandas as pd

from common.plotting import Drawing, grouped_bars, legend, lines, log_axis, panels, sample_size, scatter, series_styles
from common.results import Results
from common.stats import summarise
from paper_figures._registry import figure

INTERVALS = (
    "Error bars and bands are 95 % bootstrap intervals over paired items (an answer over a realisation of the network)."
)
STALL = (
    "The stall ratio is the share of rendering time spent waiting beyond 200 ms for the next token; answers that were not "
    "finished count, their missing tokens as rendered when the reader's patience of 60 s ends."
)
PERCENT = 100.0
NETWORK_ORDER = ("walk", "bus", "train", "bursty", "independent", "stable")


def styles_of(results: Results) -> dict[str, Any]:
    """Styles of all series of these results."""
    return series_styles(results.frame, results.records_of(results.frame))


def points_of(results: Results, metric: str, *keys: str, scale: float = 1.0) -> pd.DataFrame:
    """Means with intervals of one metric by series and `keys`, multiplied by `scale`."""
    rows = results.select(keep=["series", "basis", *keys], metric=metric)
    points = summarise(rows, ["series", *keys])
    for column in ("value", "low", "high"):
        points[column] *= scale
    return points.assign(metric=metric)


def used(results: Results, *metrics: str) -> pd.DataFrame:
    """The stored rows behind a figure."""
    return results.frame[results.frame["metric"].isin(metrics)]


@figure("chatterbox", "networks", experiment="networks", paper_ref="headline")
def networks(results: Results) -> Drawing:
    """Stall ratio per network, and what it costs in bytes."""
    styles = styles_of(results)
    fig, axes = panels(2, 1, width_in=7.5)
    plotted = []
    for place, (metric, label, scale) in enumerate(
        (("stall_ratio", "stall ratio [%]", PERCENT), ("ip_bytes_per_token_down", "IP bytes per token, down [B]", 1.0))
    ):
        points = points_of(results, metric, "factor.network", scale=scale)
        known = [name for name in NETWORK_ORDER if name in set(points["factor.network"])]
        others = sorted(set(points["factor.network"]) - set(known))
        points = points.assign(rank=points["factor.network"].map([*known, *others].index)).sort_values(
            "rank", kind="stable"
        )
        grouped_bars(axes[place, 0], points, styles, "factor.network")
        axes[place, 0].set_ylabel(label)
        plotted.append(points)
    axes[0, 0].set_title(sample_size(results.frame))
    legend(fig)
    return Drawing(
        fig,
        pd.concat(plotted, ignore_index=True),
        used(results, "stall_ratio", "ip_bytes_per_token_down"),
        "Stall ratio and bytes per token, by network",
        f"Lower is better. {STALL} {INTERVALS} TCP is ns-3's, with its own timers and with those of Linux.",
    )


def log_ticks(axes: Any, values: pd.Series, names: dict[float, str] | None = None) -> None:
    """A logarithmic x axis with a tick at each value that was run."""
    ticks = sorted(float(v) for v in values.unique())
    axes.set_xscale("log")
    axes.set_xticks(ticks, [(names or {}).get(tick, f"{tick:g}") for tick in ticks])
    axes.minorticks_off()


def sweep(results: Results, factor: str, x_label: str, title: str, *, log: bool = False, note: str = "") -> Drawing:
    """Stall ratio, and bytes per token, against one factor."""
    styles = styles_of(results)
    column = f"factor.{factor}"
    fig, axes = panels(1, 2)
    plotted = []
    for place, (metric, label, scale) in enumerate(
        (("stall_ratio", "stall ratio [%]", PERCENT), ("ip_bytes_per_token_down", "IP bytes per token, down [B]", 1.0))
    ):
        points = points_of(results, metric, column, scale=scale)
        lines(axes[0, place], points, styles, column)
        axes[0, place].set_xlabel(x_label)
        axes[0, place].set_ylabel(label)
        axes[0, place].set_ylim(bottom=0)
        if log:
            log_ticks(axes[0, place], points[column])
        plotted.append(points)
    axes[0, 0].set_title(sample_size(results.frame))
    legend(fig, max_columns=3)
    return Drawing(
        fig,
        pd.concat(plotted, ignore_index=True),
        used(results, "stall_ratio", "ip_bytes_per_token_down"),
        title,
        f"Lower is better. {STALL} {INTERVALS} {note}".strip(),
    )


@figure("chatterbox", "loss", experiment="loss", paper_ref="stall ratio against loss")
def loss(results: Results) -> Drawing:
    """Stall ratio against the share of time in which packets are lost."""
    return sweep(
        results,
        "loss_share",
        "share of time lost",
        "Stall ratio against bursty loss",
        note="Bursts last 0.2 s on average.",
    )


@figure("chatterbox", "independent_loss", experiment="independent_loss", paper_ref="stall ratio against loss")
def independent_loss(results: Results) -> Drawing:
    """Stall ratio against the probability of independent loss."""
    return sweep(results, "loss_probability", "loss probability", "Stall ratio against independent loss")


@figure("chatterbox", "rtt", experiment="rtt")
def rtt(results: Results) -> Drawing:
    """Stall ratio against the round-trip time."""
    note = "Chatterbox does not depend on the round trip; its packets grow with it."
    return sweep(results, "rtt_ms", "round-trip time [ms]", "Stall ratio against round-trip time", note=note)


@figure("chatterbox", "burst_length", experiment="burst_length")
def burst_length(results: Results) -> Drawing:
    """Stall ratio against the mean burst length."""
    note = "The share of time lost is 1/11 throughout."
    return sweep(results, "burst_ms", "mean burst length [ms]", "Stall ratio against burst length", log=True, note=note)


@figure("chatterbox", "token_rate", experiment="token_rate")
def token_rate(results: Results) -> Drawing:
    """Stall ratio against the token rate."""
    note = "At 5 tokens/s the mean gap equals the threshold, so ordinary jitter counts as stalling."
    return sweep(results, "tokens_per_s", "tokens per second", "Stall ratio against token rate", log=True, note=note)


@figure("chatterbox", "ack_loss", experiment="ack_loss")
def ack_loss(results: Results) -> Drawing:
    """Stall ratio with and without loss of acknowledgements."""
    styles = styles_of(results)
    fig, axes = panels()
    points = points_of(results, "stall_ratio", "factor.ack_loss", scale=PERCENT)
    grouped_bars(axes[0, 0], points, styles, "factor.ack_loss")
    axes[0, 0].set(
        xlabel="direction of the acknowledgements", ylabel="stall ratio [%]", title=sample_size(results.frame)
    )
    legend(fig, max_columns=2)
    return Drawing(fig, points, used(results, "stall_ratio"), "Does the loss of ACKs matter?", f"{STALL} {INTERVALS}")


@figure("chatterbox", "token_size", experiment="token_size")
def token_size(results: Results) -> Drawing:
    """Stall ratio and bytes against the size of a token."""
    return sweep(results, "token_bytes", "bytes per token", "Stall ratio and bytes against token size", log=True)


@figure("chatterbox", "threshold", experiment="threshold")
def threshold(results: Results) -> Drawing:
    """Stall ratio against the stall threshold."""
    styles = styles_of(results)
    fig, axes = panels()
    points = points_of(results, "stall_ratio", "factor.threshold_ms", scale=PERCENT)
    lines(axes[0, 0], points, styles, "factor.threshold_ms")
    axes[0, 0].set(xlabel="stall threshold [ms]", ylabel="stall ratio [%]", ylim=(0, None))
    log_ticks(axes[0, 0], points["factor.threshold_ms"])
    axes[0, 0].set_title(sample_size(results.frame))
    legend(fig, max_columns=2)
    rows = used(results, "stall_ratio")
    return Drawing(fig, points, rows, "Stall ratio against the stall threshold", f"{STALL} {INTERVALS}")


@figure("chatterbox", "packet_cap", experiment="packet_cap")
def packet_cap(results: Results) -> Drawing:
    """Chatterbox with a limited number of tokens per packet, by overflow policy."""
    from common.plotting import plain_styles

    rows = results.select(keep=["factor.packing", "factor.cap_tokens"], metric="stall_ratio", **{"factor.ack_every": 1})
    points = summarise(rows, ["factor.packing", "factor.cap_tokens"])
    for column in ("value", "low", "high"):
        points[column] *= PERCENT
    points = points.rename(columns={"factor.packing": "packing"})
    styles = plain_styles(sorted(points["packing"].unique()))
    fig, axes = panels()
    lines(axes[0, 0], points, styles, "factor.cap_tokens", by="packing")
    axes[0, 0].set(xlabel="tokens per packet at most", ylabel="stall ratio [%]", ylim=(0, None))
    log_ticks(axes[0, 0], points["factor.cap_tokens"], {1000.0: "no cap"})
    axes[0, 0].set_title(sample_size(results.frame))
    legend(fig, max_columns=3)
    caption = f"At most two packets leave at once. {STALL} {INTERVALS}"
    return Drawing(fig, points, rows, "What to send when not all unacknowledged tokens fit", caption)


@figure("chatterbox", "timeline", experiment="timeline", paper_ref="timeline of a loss")
def timeline(results: Results) -> Drawing:
    """Rendered tokens over time around an outage."""
    styles = styles_of(results)
    outages = sorted(results.frame["factor.outage_ms"].unique())
    fig, axes = panels(1, len(outages), width_in=2.8)
    plotted = []
    for place, outage_ms in enumerate(outages):
        rows = results.select(
            keep=["series", "factor.token", "item"], metric="rendered", **{"factor.outage_ms": outage_ms}
        )
        own = rows[["series", "factor.token", "value", "basis"]].assign(outage_ms=outage_ms)
        for series, group in own.groupby("series", sort=False):
            style = styles[str(series)]
            group = group.sort_values("value")
            axes[0, place].step(
                group["value"],
                group["factor.token"] + 1,
                where="post",
                color=style.color,
                label=style.label,
            )
        axes[0, place].set(xlim=(0.9, 2.0), ylim=(20, 60), xlabel="time [s]", title=f"outage of {outage_ms:g} ms")
        plotted.append(own)
    axes[0, 0].set_ylabel("tokens rendered")
    legend(fig)
    caption = (
        "One run each. 30 tokens/s, round trip 100 ms; the outage begins between two tokens and loses all packets."
    )
    return Drawing(
        fig,
        pd.concat(plotted, ignore_index=True),
        used(results, "rendered"),
        "What the reader sees of an outage",
        caption,
    )


@figure("chatterbox", "packet_contents", experiment="packet_contents", paper_ref="contents of packets")
def packet_contents(results: Results) -> Drawing:
    """Which tokens consecutive packets carry."""
    keep = ["factor.packet", "factor.fate", "item"]
    first = results.select(keep=keep, metric="first_token")[["factor.packet", "factor.fate", "value"]]
    count = results.select(keep=keep, metric="num_tokens")[["factor.packet", "value"]]
    points = first.merge(count, on="factor.packet", suffixes=("_first", "_count")).sort_values("factor.packet")
    fig, axes = panels(width_in=5.0)
    colors = {"delivered": "#009E73", "lost": "#D55E00"}
    for fate, group in points.groupby("factor.fate", sort=True):
        axes[0, 0].bar(
            group["factor.packet"],
            group["value_count"],
            0.8,
            bottom=group["value_first"],
            color=colors[str(fate)],
            label=f"packet {fate}",
        )
    axes[0, 0].set(xlabel="packet number", ylabel="tokens in the packet (index)")
    legend(fig)
    caption = (
        "From the log of one simulated run: each packet carries the new token and all that were not acknowledged yet."
    )
    return Drawing(
        fig, points, used(results, "first_token", "num_tokens"), "Tokens carried by consecutive packets", caption
    )


@figure("chatterbox", "slow_link", experiment="slow_link")
def slow_link(results: Results) -> Drawing:
    """Token delay on slow links after an outage."""
    styles = styles_of(results)
    outages = sorted(results.frame["factor.outage_s"].unique())
    fig, axes = panels(1, len(outages), sharey=True)
    plotted = []
    for place, outage_s in enumerate(outages):
        own = results.only(**{"factor.outage_s": outage_s})
        points = points_of(own, "delay_settled_median", "factor.link_kbps").assign(outage_s=outage_s)
        lines(axes[0, place], points, styles, "factor.link_kbps")
        log_axis(axes[0, place], "y")
        axes[0, place].set(xlabel="link rate [kbit/s]", title=f"outage of {outage_s:g} s")
        log_ticks(axes[0, place], points["factor.link_kbps"])
        plotted.append(points)
    axes[0, 0].set_ylabel("median delay, 10 s later and on [s]")
    legend(fig)
    caption = (
        f"30 tokens/s over a link with a deep drop-tail queue; tokens generated more than 10 s after the outage. {INTERVALS} "
        "Plain Chatterbox feeds back on itself: larger packets, a longer queue, more unacknowledged tokens."
    )
    title = "Collapse on slow links, and the budget rule"
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used(results, "delay_settled_median"), title, caption)


def plane(results: Results, title: str) -> Drawing:
    """Stall ratio against bytes per token, one point per method."""
    styles = styles_of(results)
    sides = []
    for name, metric, scale in (("x", "ip_bytes_per_token", 1.0), ("y", "stall_ratio", PERCENT)):
        renamed = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
        points = points_of(results, metric, scale=scale).rename(columns=renamed)
        sides.append(points[["series", *renamed.values(), "basis"]])
    both = sides[0].merge(sides[1].drop(columns="basis"), on="series")
    fig, axes = panels(width_in=5.0, height_in=3.6)
    scatter(axes[0, 0], both, styles)
    axes[0, 0].set(xlabel="IP bytes per token, both directions [B]", ylabel="stall ratio [%]", ylim=(0, None))
    axes[0, 0].set_title(sample_size(results.frame))
    legend(fig, max_columns=2)
    rows = used(results, "stall_ratio", "ip_bytes_per_token")
    return Drawing(fig, both, rows, title, f"Down and left is better. {STALL} {INTERVALS}")


@figure("chatterbox", "pareto", experiment="pareto")
def pareto(results: Results) -> Drawing:
    """Stall ratio against bytes per token, every redundancy scheme."""
    return plane(results, "Stall ratio against bytes, every redundancy scheme")


@figure("chatterbox", "tcp_variants", experiment="tcp_variants")
def tcp_variants(results: Results) -> Drawing:
    """Stall ratio against bytes per token, TCP and QUIC."""
    return plane(results, "Stall ratio against bytes, TCP and QUIC")


@figure("chatterbox", "real_sockets", experiment="real_sockets")
def real_sockets(results: Results) -> Drawing:
    """Stall ratio against bytes per token over real sockets."""
    return plane(results, "Stall ratio against bytes, real sockets")


@figure("chatterbox", "recorded_networks", experiment="recorded_networks", paper_ref="network traces")
def recorded_networks(results: Results) -> Drawing:
    """Stall ratio on recorded networks, outages that lose and outages that hold packets."""
    styles = styles_of(results)
    kinds = sorted(results.frame["factor.outages"].unique())
    fig, axes = panels(len(kinds), 1, width_in=7.0)
    plotted = []
    for place, kind in enumerate(kinds):
        own = results.only(**{"factor.outages": kind})
        points = points_of(own, "stall_ratio", "factor.family", scale=PERCENT).assign(outages=kind)
        grouped_bars(axes[place, 0], points, styles, "factor.family")
        axes[place, 0].set(ylabel="stall ratio [%]", title=f"outages {kind} packets; {sample_size(own.frame)}")
        plotted.append(points)
    legend(fig)
    caption = f"{STALL} {INTERVALS} Where an outage only holds packets back, no transport can do better than wait."
    return Drawing(
        fig, pd.concat(plotted, ignore_index=True), used(results, "stall_ratio"), "Recorded networks", caption
    )


@figure("chatterbox", "drivers", experiment="drivers")
def drivers(results: Results) -> Drawing:
    """How far the drivers' render times lie apart."""
    styles = styles_of(results)
    fig, axes = panels()
    points = points_of(results, "render_difference_max", "factor.driver", scale=1000.0)
    grouped_bars(axes[0, 0], points, styles, "factor.driver")
    axes[0, 0].set(ylabel="largest difference in a render time [ms]", yscale="symlog")
    legend(fig)
    rows = used(results, "render_difference_max")
    caption = "Against the event loop, same answers and links. The scale is linear below 1 ms."
    return Drawing(fig, points, rows, "Event loop, ns-3 and real sockets", caption)
