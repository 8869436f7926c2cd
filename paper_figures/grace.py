"""The figures of GRACE, from stored rows. What each metric and factor means: grace/README.md."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from common.plotting import (
    Drawing,
    SeriesStyle,
    grouped_bars,
    legend,
    lines,
    log_axis,
    panels,
    plain_styles,
    stacked_bars,
)
from common.results import Results
from common.stats import summarise
from paper_figures._panels import INTERVALS, has, need, panels_of, rows_used, sample_per_point, styles_of, titled_points
from paper_figures._registry import figure

SSIM_MEANING = "SSIM (RGB) is averaged first and then put in decibels, -10 log10(1 - SSIM)."
_CEILING = 1 - 1e-6
_MOST_BANDS = 3
_LABELS = {
    "delay_p95": "95th percentile of\nframe delay [s]",
    "delay_p98": "98th percentile of\nframe delay [s]",
    "not_rendered": "share of frames\nnot rendered",
    "stall_ratio": "stall ratio",
    "ssim": "SSIM of shown frames [dB]",
}


_VARYING = ("factor.codec_times", "factor.delay_s", "factor.queue_packets", "factor.controller", "factor.driver")
_UNITS = {
    "factor.delay_s": "{:g} s",
    "factor.queue_packets": "{:g}",
}
_TIMES = {"measured": "codec times\nof this CPU", "paper": "of the\npaper's GPU"}


def _shown_value(name: str, value: object) -> str:
    if name == "factor.codec_times":
        return _TIMES.get(str(value), str(value))
    return _UNITS.get(name, "{}").format(value)


def _decibels(points: pd.DataFrame) -> pd.DataFrame:
    """Mean SSIM and its interval in decibels."""
    changed = {}
    for column in ("value", "low", "high"):
        decibels = -10 * np.log10(1 - points[column].clip(-1, _CEILING))
        changed[column] = decibels.where(np.isfinite(points[column]), points[column])
    return points.assign(**changed)


def _columns(results: Results, factor: str) -> list[tuple[str, Results]]:
    """One panel per workload and value of a factor."""
    found = []
    for title, own in panels_of(results):
        for value in sorted(own.frame[f"factor.{factor}"].dropna().unique()):
            found.append((f"{title.splitlines()[0]}, {value:g}", own.only(**{f"factor.{factor}": value})))
    return found


def _loss_curves(results: Results, bursts: Sequence[int] | None, methods: Sequence[str] | None = None) -> Drawing:
    if methods is not None:
        results = results.only(method=list(methods))
    need(results, "ssim")
    columns = [
        (title, own)
        for title, own in _columns(results, "burst_frames")
        if bursts is None or int(own.frame["factor.burst_frames"].dropna().iloc[0]) in bursts
    ]
    styles = styles_of(results)
    fig, grid = panels(1, len(columns), width_in=3.4 if len(columns) > 1 else 4.8, height_in=3.0, sharey=True)
    plotted = []
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        rows = own.select(keep=["series", "factor.loss_rate", "factor.repeat"], metric="ssim")
        points = _decibels(summarise(rows, ["series", "factor.loss_rate"]))
        # With many schemes bands would hide everything; the intervals are in the table beside the figure.
        is_crowded = points["series"].nunique() > _MOST_BANDS
        shown = points.assign(low=points["value"], high=points["value"]) if is_crowded else points
        lines(axes, shown, styles, "factor.loss_rate")
        burst = title.rpartition(", ")[2]
        where = "frame" if burst == "1" else "consecutive frames"
        workload = f"{title.partition(',')[0]}, " if results.frame["workload"].nunique() > 1 else ""
        axes.set_title(f"{workload}{burst} lossy {where}\n{sample_per_point(rows, 'loss_rate')}")
        axes.set_xlabel("packet loss rate")
        plotted.append(titled_points(points, title))
    grid[0, 0].set_ylabel("SSIM [dB]")
    legend(fig)
    text = (
        "Every scheme spends the same bytes on the wire per frame, parity and packet headers included; packets are lost "
        "independently and nothing is sent again. Scored is what is on the screen in the last lossy frame, at most three frames "
        f"late. {SSIM_MEANING} Intervals over clips are in the CSV; clips differ more than schemes do, so they are wide."
    )
    return Drawing(fig, pd.concat(plotted, ignore_index=True), rows_used(results, ["ssim"]), "Quality under loss", text)


@figure("grace", "quality_vs_loss", experiment="quality_vs_loss", paper_ref="Figs. of quality against loss (F1)")
def quality_vs_loss(results: Results) -> Drawing:
    """Quality against packet loss at equal bytes, in the first lossy frame."""
    return _loss_curves(results, [1])


@figure("grace", "quality_vs_burst", experiment="quality_vs_loss", paper_ref="consecutive lossy frames (F2)")
def quality_vs_burst(results: Results) -> Drawing:
    """The same after 1, 3, 5 and 10 lossy frames in a row, without state resynchronisation."""
    return _loss_curves(results, None)


@figure("grace", "training_ablation", experiment="quality_vs_loss", paper_ref="joint training ablation (F10)")
def training_ablation(results: Results) -> Drawing:
    """GRACE, GRACE-D (decoder alone trained under loss) and GRACE-P (no loss in training)."""
    return _loss_curves(results, None, ["grace", "grace_d", "grace_p"])


_CODEC_NAMES = {
    "h264": "x264, veryfast, low delay",
    "h265": "x265, veryfast, low delay",
    "grace": "GRACE",
    "grace_p": "GRACE-P",
    "grace_d": "GRACE-D",
    "grace_lite": "GRACE-Lite",
}


@figure("grace", "rate_distortion", experiment="rate_distortion", paper_ref="quality without loss (F3)")
def rate_distortion(results: Results) -> Drawing:
    """Quality against bytes per P-frame without loss."""
    need(results, "ssim", "frame_bytes")
    columns = list(panels_of(results))
    fig, grid = panels(1, 2 * len(columns), width_in=3.6, height_in=3.0)
    plotted = []
    for place, (title, own) in enumerate(columns):
        keep = ["factor.codec", "factor.level", "method", "method_args"]
        by = ["factor.codec", "factor.level"]
        sizes = summarise(own.select(keep=keep, metric="frame_bytes"), by)
        names = [str(name) for name in dict.fromkeys(sizes["factor.codec"])]
        colors = ["#444444", "#999999", "#0072B2", "#5E4FA2", "#56B4E9", "#8C6D31"]
        styles = {
            name: SeriesStyle(_CODEC_NAMES.get(name, name), style.color, style.marker)
            for name, style in plain_styles(names, colors).items()
        }
        for axes, metric in zip(grid[0, 2 * place : 2 * place + 2], ("ssim", "psnr_y"), strict=True):
            points = summarise(own.select(keep=keep, metric=metric), by)
            points = _decibels(points) if metric == "ssim" else points
            points = points.merge(sizes[[*by, "value"]].rename(columns={"value": "x"}), on=by)
            lines(axes, points, styles, "x", by="factor.codec", band=False)
            log_axis(axes, "x")
            axes.set_xlabel("bytes per frame")
            axes.set_ylabel("SSIM [dB]" if metric == "ssim" else "PSNR of luma [dB]")
            axes.set_title(title)
            plotted.append(titled_points(points.assign(metric=metric), title))
    legend(fig)
    text = (
        "P-frames only, for all codecs. GRACE's bytes are its four packets and the I-patch with their own headers; x264 and "
        "x265 have no packets here. The horizontal axis is logarithmic. x264 and x265 code 4:2:0, which bounds their RGB "
        f"quality; luma is on the right. {SSIM_MEANING} {INTERVALS}"
    )
    used = rows_used(results, ["ssim", "psnr_y", "frame_bytes"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Quality without loss", text)


def _session_bars(results: Results, x: str, title: str, text: str) -> Drawing:
    metrics = [metric for metric in _LABELS if has(results, metric)]
    need(results, *metrics)
    columns = list(panels_of(results))
    fig, grid = panels(len(columns), len(metrics), width_in=2.9, height_in=2.9)
    plotted = []
    for row, (panel, own) in zip(grid, columns, strict=True):
        for axes, metric in zip(row, metrics, strict=True):
            of_metric = results.only(metric=metric).frame
            varying = [name for name in _VARYING if name in of_metric and of_metric[name].nunique() > 1]
            points = summarise(own.select(keep=["series", "basis", *varying], metric=metric), ["series", *varying])
            points = _decibels(points) if metric == "ssim" else points
            labels = [
                "\n".join(_shown_value(name, value) for name, value in zip(varying, values, strict=True))
                for values in points[varying].itertuples(index=False)
            ]
            points = points.assign(x=labels)
            finite = points.assign(
                value=points["value"].replace(np.inf, np.nan),
                low=points["low"].replace(np.inf, np.nan),
                high=points["high"].replace(np.inf, np.nan),
            ).dropna(subset=["value"])
            finite = finite.fillna({"low": 0.0, "high": np.inf})
            if len(finite):
                grouped_bars(axes, finite, styles_of(results), "x")
            _note_infinite(axes, points, styles_of(results))
            axes.set_ylabel(_LABELS[metric])
            axes.set_xlabel(x if varying else "")
            plotted.append(titled_points(points.assign(metric=metric), panel))
        row[0].set_title(panel.splitlines()[-1], loc="left")
    legend(fig, max_columns=4)
    return Drawing(fig, pd.concat(plotted, ignore_index=True), rows_used(results, metrics), title, text)


def _note_infinite(axes: Axes, points: pd.DataFrame, styles: dict[str, SeriesStyle]) -> None:
    """Name schemes whose mean is infinite: frames that never came."""
    lost = [
        styles[name].label for name in points.loc[~np.isfinite(points["value"]), "series"].unique() if name in styles
    ]
    if lost:
        axes.text(0.02, 0.97, "infinite: " + ", ".join(lost), transform=axes.transAxes, va="top", fontsize=6, wrap=True)


_SESSION_TEXT = (
    "Calls in virtual time over the same traces, clip and congestion control; bars are means over traces. A frame's delay runs "
    "from the start of its encoding to the end of its decoding. Codec times: measured on this machine; or modelled, the paper's "
    "for 720p on an A40 for GRACE and none at all for classic codecs, in their favour. A frame that is never decoded has an "
    "infinite delay. Not rendered: later than 400 ms or never. Stall: a gap of more than 200 ms between shown "
    "frames. Rates are scaled to the size of the pictures. "
)


@figure("grace", "session", experiment="session", paper_ref="trace-driven calls (F5); P95 of the abstract")
def session(results: Results) -> Drawing:
    """Delay, frames not rendered, stalls and quality of calls over traces."""
    return _session_bars(results, "", "Calls over traces", f"{_SESSION_TEXT}{SSIM_MEANING} {INTERVALS}")


@figure("grace", "network_sweep", experiment="network_sweep", paper_ref="delay and queue (F5)")
def network_sweep(results: Results) -> Drawing:
    """The same at other propagation delays and queue lengths."""
    return _session_bars(
        results, "one-way delay [s], queue [packets]", "Calls over other networks", f"{_SESSION_TEXT}{INTERVALS}"
    )


@figure("grace", "congestion_control", experiment="congestion_control", paper_ref="congestion control (F7)")
def congestion_control(results: Results) -> Drawing:
    """Calls with GCC, with its delay part alone, and with Salsify's control."""
    return _session_bars(results, "controller", "Congestion control", f"{_SESSION_TEXT}{INTERVALS}")


@figure("grace", "random_loss", experiment="random_loss", paper_ref="ours")
def random_loss(results: Results) -> Drawing:
    """Calls under bursts of random loss, with and without the loss part of GCC."""
    return _session_bars(results, "controller", "Random loss", f"{_SESSION_TEXT}{INTERVALS}")


@figure("grace", "ns3_check", experiment="ns3_check", paper_ref="ours")
def ns3_check(results: Results) -> Drawing:
    """The same call in the event loop and in ns-3."""
    return _session_bars(results, "driver", "Event loop and ns-3", f"{_SESSION_TEXT}{INTERVALS}")


@figure("grace", "bandwidth_drop", experiment="bandwidth_drop", paper_ref="bandwidth drops (F6)")
def bandwidth_drop(results: Results) -> Drawing:
    """Delay and quality of each frame around sudden drops of the bandwidth."""
    need(results, "frame_delay", "ssim")
    fig, grid = panels(2, 1, width_in=5.5, height_in=2.3, sharex=True)
    plotted = []
    for axes, metric in zip(grid[:, 0], ("frame_delay", "ssim"), strict=True):
        rows = results.select(keep=["series", "factor.time_s"], metric=metric)
        points = summarise(rows[np.isfinite(rows["value"])], ["series", "factor.time_s"])
        points = _decibels(points) if metric == "ssim" else points
        lines(axes, points, styles_of(results), "factor.time_s", band=False)
        plotted.append(titled_points(points.assign(metric=metric), metric))
    grid[0, 0].set_ylabel("frame delay [s]")
    grid[1, 0].set_ylabel("SSIM [dB]")
    grid[1, 0].set_xlabel("time at which the frame was taken [s]")
    legend(fig)
    text = f"Means over clips; frames that never came are missing. Simulated. {SSIM_MEANING}"
    used = rows_used(results, ["frame_delay", "ssim"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Bandwidth drops", text)


@figure("grace", "any_subset", experiment="any_subset", paper_ref="headline property")
def any_subset(results: Results) -> Drawing:
    """Quality of a frame against the number of its packets that arrived; every subset was tried."""
    need(results, "psnr")
    fig, grid = panels(1, 1, width_in=4.4, height_in=2.8)
    rows = results.select(keep=["series", "factor.received", "factor.subset", "factor.frame"], metric="psnr")
    points = summarise(rows, ["series", "factor.received"])
    lines(grid[0, 0], points, styles_of(results), "factor.received")
    grid[0, 0].set_xlabel("packets received")
    grid[0, 0].set_xticks(sorted(points["factor.received"]))
    grid[0, 0].set_ylabel("PSNR [dB]")
    grid[0, 0].set_title(f"{rows['factor.subset'].nunique()} subsets, {rows['item'].nunique()} clips")
    legend(fig)
    text = f"Each point is a mean over all subsets of that size and all clips. {INTERVALS}"
    return Drawing(fig, points, rows_used(results, ["psnr"]), "Every subset of packets decodes", text)


@figure("grace", "resync", experiment="resync", paper_ref="state resynchronisation (F12)")
def resync(results: Results) -> Drawing:
    """Quality of each frame around a loss, with and without state resynchronisation."""
    need(results, "ssim")
    fig, grid = panels(1, 1, width_in=5.0, height_in=2.8)
    rows = results.select(keep=["factor.resync", "factor.frame"], metric="ssim")
    points = _decibels(summarise(rows, ["factor.resync", "factor.frame"]))
    styles = plain_styles(["with", "without"])
    lines(grid[0, 0], points, styles, "factor.frame", by="factor.resync")
    grid[0, 0].set_xlabel("frame")
    grid[0, 0].set_ylabel("SSIM [dB]")
    grid[0, 0].set_title(f"n = {rows['item'].nunique()} clips")
    legend(fig, title="state resynchronisation")
    text = f"Part of one frame's packets is lost; the report reaches the sender a round trip later. {SSIM_MEANING} {INTERVALS}"
    return Drawing(fig, points, rows_used(results, ["ssim"]), "Loss of a frame's packets, and resynchronisation", text)


_PARTS = {
    "header": "fixed header",
    "global_motion": "global motion",
    "scales": "distributions (scales)",
    "motion": "motion elements",
    "residual": "residual elements",
    "coder": "coder",
}


@figure("grace", "packet_overhead", experiment="packet_overhead", paper_ref="header share (F13)")
def packet_overhead(results: Results) -> Drawing:
    """What a frame's bytes are spent on, by number of packets."""
    need(results, "part_bytes")
    own = results.only(metric="part_bytes")
    levels = sorted(own.frame["factor.level"].dropna().unique())
    fig, grid = panels(1, len(levels), width_in=3.6, height_in=2.6)
    styles = {
        name: SeriesStyle(_PARTS[name], style.color, style.marker) for name, style in plain_styles(list(_PARTS)).items()
    }
    plotted = []
    for axes, level in zip(grid[0], levels, strict=True):
        rows = own.only(**{"factor.level": level}).select(
            keep=["factor.part", "factor.num_packets"], metric="part_bytes"
        )
        points = summarise(rows[rows["factor.part"].isin(list(_PARTS))], ["factor.part", "factor.num_packets"])
        points = points.assign(x=[f"{int(n)} packet{'s' if n > 1 else ''}" for n in points["factor.num_packets"]])
        stacked_bars(axes, points.sort_values("factor.num_packets"), styles, "x", by="factor.part")
        axes.set_title(f"level {int(level)}, n = {rows['item'].nunique()} clips")
        axes.set_xlabel("bytes of a frame")
        plotted.append(titled_points(points, f"level {int(level)}"))
    legend(fig, max_columns=3)
    text = "Coded parts are ideal lengths; what the real words take beyond them is 'coder'. IP, UDP and RTP are not included."
    used = rows_used(results, ["part_bytes"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "What packets hold", text)


@figure("grace", "speed", experiment="speed", paper_ref="frame rates, time breakdown (T2, T3)")
def speed(results: Results) -> Drawing:
    """Time of each step of encoding and decoding, by frame size."""
    need(results, "step_time")
    fig, grid = panels(1, 1, width_in=6.0, height_in=3.0)
    rows = results.select(keep=["factor.step", "factor.pixels", "factor.height", "factor.width"], metric="step_time")
    by = ["factor.step", "factor.pixels", "factor.height", "factor.width"]
    points = summarise(rows, by, "median").sort_values("factor.pixels")
    points = points.assign(
        x=[f"{int(w)}x{int(h)}" for w, h in zip(points["factor.width"], points["factor.height"], strict=True)]
    )
    grouped_bars(
        grid[0, 0],
        points,
        plain_styles([str(step) for step in dict.fromkeys(points["factor.step"])]),
        "x",
        by="factor.step",
    )
    grid[0, 0].set_ylabel("time per frame [s]")
    grid[0, 0].set_xlabel("frame size")
    legend(fig, max_columns=3)
    text = "Wall time on this machine; 'encode' and 'decode' are whole, the others are steps of them."
    return Drawing(fig, points, rows_used(results, ["step_time"]), "Where the time goes", text)
