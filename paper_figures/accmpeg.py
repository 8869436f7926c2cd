"""The figures of AccMPEG, from stored rows. What each metric and factor means: accmpeg/README.md."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.plotting import (
    Drawing,
    SeriesStyle,
    cdf_points,
    grouped_bars,
    legend,
    lines,
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
    need,
    panel_width,
    panels_of,
    rows_used,
    styles_of,
    titled_points,
)
from paper_figures._registry import NothingToDraw, figure

ACCURACY = "accuracy against the DNN's output\non high-quality video"
IN_TABLE = "their 95 % intervals, which overlap much, are in the table beside this figure."
TRUTH = "Accuracy is the DNN's output on what arrived against its output on the same video coded at quantiser 30 everywhere."


def _both(own: Results, x_metric: str, y_metric: str, by: Sequence[str]) -> pd.DataFrame:
    """One point per group that has both metrics: columns `by`, x, value (of y), low, high, basis."""
    keep = list(dict.fromkeys([*by, "series"]))
    x = summarise(own.select(keep=keep, metric=x_metric), list(by))[[*by, "value", "basis"]]
    y = summarise(own.select(keep=keep, metric=y_metric), list(by))
    both = y.merge(x.rename(columns={"value": "x", "basis": "basis_x"}), on=list(by))
    both["basis"] = [
        "+".join(sorted({*a.split("+"), *b.split("+")})) for a, b in zip(both["basis"], both["basis_x"], strict=True)
    ]
    return both.drop(columns="basis_x").assign(x_metric=x_metric, metric=y_metric)


def _curves(
    results: Results, x_metric: str, xlabel: str, y_metrics: Sequence[tuple[str, str]]
) -> tuple[Figure, pd.DataFrame, pd.DataFrame]:
    """Accuracy against a cost: one line per system through its settings, one row of panels per kind of accuracy."""
    metrics = [(metric, label) for metric, label in y_metrics if has(results, metric)]
    need(results, *(metric for metric, _ in y_metrics))
    need(results, x_metric)
    columns: list[Panel] = list(panels_of(results))
    chosen = styles_of(results)
    fig, grid = panels(len(metrics), len(columns), width_in=max(6.0, panel_width(columns)), height_in=3.4)
    plotted = []
    for column, (title, own) in enumerate(columns):
        grid[0, column].set_title(title)
        for axes, (metric, label) in zip(grid[:, column], metrics, strict=True):
            if not has(own, metric):
                axes.set_axis_off()
                continue
            points = _both(own, x_metric, metric, ["series", "factor.point"])
            # Six points of a dozen systems: their intervals would hide them all, so they are in the table only.
            lines(axes, points.assign(low=np.nan, high=np.nan), chosen, "x")
            axes.set_ylabel(label)
            plotted.append(titled_points(points, title))
        grid[-1, column].set_xlabel(xlabel)
    legend(fig, max_columns=3)
    used = rows_used(results, [x_metric, *(metric for metric, _ in metrics)])
    return fig, pd.concat(plotted, ignore_index=True), used


def _links(results: Results) -> str:
    """The bandwidth of the links in these results, for captions."""
    rates: dict[float, str] = {}
    for record in results.records_of(results.frame):
        settings = record.get("settings", {})
        if "bandwidth_kbps" in settings.get("experiment_args", {}):
            rates[float(settings["experiment_args"]["bandwidth_kbps"])] = str(settings.get("workload"))
    if len(rates) == 1:
        return f"{next(iter(rates)):g} kbit/s"
    return " and ".join(f"{rate:g} kbit/s ({workload})" for rate, workload in rates.items()) or "of the run's bandwidth"


BOTH_ACCURACIES = (("accuracy", ACCURACY), ("label_accuracy", "F1 against labels"))


@figure("accmpeg", "delay_vs_accuracy", experiment="delay_vs_accuracy", paper_ref="Fig. 7")
def delay_vs_accuracy(results: Results) -> Drawing:
    """Delay of a chunk against accuracy, each system along its curve."""
    fig, points, used = _curves(results, "delay", "delay of a chunk [s]", BOTH_ACCURACIES)
    text = (
        "Better is up and to the left. Delay: coding and models on the camera, sending, decoding; networks on the server "
        f"are left out, as in the paper. CPU times were measured; the link, {_links(results)} and 0.1 s of round "
        f"trip, is simulated. {TRUTH} Points are means over clips, joined in the order of their delay; {IN_TABLE}"
    )
    return Drawing(fig, points, used, "Delay against accuracy", text)


@figure("accmpeg", "size_vs_accuracy", experiment="delay_vs_accuracy", paper_ref="size trade-off")
def size_vs_accuracy(results: Results) -> Drawing:
    """Bytes relative to the reference encoding against accuracy."""
    fig, points, used = _curves(
        results, "size_ratio", "bytes / bytes at quantiser 30 everywhere", (("accuracy", ACCURACY),)
    )
    text = f"Bytes of packets, all passes counted. {TRUTH} Points are means over clips; {IN_TABLE}"
    return Drawing(fig, points, used, "Bytes against accuracy", text)


@figure("accmpeg", "delay_of_the_paper", experiment="delay_vs_accuracy", paper_ref="Fig. 7")
def delay_of_the_paper(results: Results) -> Drawing:
    """The same with the delay model of the paper: its constants for coding and models, our bytes over 0.5 Mbit/s."""
    fig, points, used = _curves(results, "delay_paper", "delay in the paper's model [s]", (("accuracy", ACCURACY),))
    text = (
        "Modelled: 0.131 s to encode a chunk, 0.08 s for AccModel, 0.17 s for Vigil's detector, 0.29 s for "
        "Reducto's features and "
        f"coding, 0.1 s round trip, one more for EAAR, two more for DDS. Only bytes and accuracy are "
        f"ours. Points are means over clips; {IN_TABLE}"
    )
    return Drawing(fig, points, used, "Delay with the paper's constants", text)


def _bars(
    results: Results,
    metric: str,
    x: str,
    by: str,
    ylabel: str,
    *,
    styles: dict[str, SeriesStyle] | None = None,
    names: dict[str, str] | None = None,
    keep: Sequence[str] = (),
    adjust: Callable[[Axes], None] | None = None,
    width_in: float = 6.0,
) -> tuple[Figure, pd.DataFrame, pd.DataFrame]:
    """Groups of bars: one group per value of `x`, one bar per value of `by`."""
    need(results, metric)
    columns = [(title, own) for title, own in panels_of(results) if has(own, metric)]
    fig, grid = panels(1, len(columns), width_in=width_in, height_in=3.2)
    plotted = []
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        rows = own.select(keep=list(dict.fromkeys(["series", x, by, *keep])), metric=metric)
        rows = rows.assign(**{by: rows[by].astype(str), x: rows[x].astype(str)})
        points = summarise(rows, [x, by])
        if names is not None:
            points = points.assign(**{x: points[x].map(lambda value: names.get(value, value))})
        chosen = plain_styles(list(dict.fromkeys(points[by]))) if styles is None else styles
        grouped_bars(axes, points, chosen, x, by=by)
        axes.set_title(title)
        axes.set_ylabel(ylabel)
        axes.tick_params(axis="x", rotation=30)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
        if adjust is not None:
            adjust(axes)
        plotted.append(titled_points(points.assign(metric=metric), title))
    legend(fig)
    return fig, pd.concat(plotted, ignore_index=True), rows_used(results, [metric])


def _labels(results: Results) -> dict[str, str]:
    """How a legend calls each method, by its registered name."""
    named = results.frame[results.frame["method"] != ""]
    return dict(zip(named["method"], named["series"], strict=True))


@figure("accmpeg", "delay_reduction", experiment="delay_vs_accuracy", paper_ref="Fig. 7; abstract")
def delay_reduction(results: Results) -> Drawing:
    """How much lower AccMPEG's delay is at equal accuracy, against each baseline and the best of them."""

    def adjust(axes: Axes) -> None:
        axes.axhline(0, color="#333333", linewidth=0.8)
        paper_band(axes, 0.10, 0.43, "10 to 43 %")
        axes.set_ylim(-1.05, 1.0)

    fig, points, used = _bars(
        results,
        "delay_reduction",
        "factor.against",
        "series",
        "1 - our delay / its delay",
        styles=styles_of(results),
        names=_labels(results),
        adjust=adjust,
        width_in=7.0,
    )
    text = (
        "Per clip, along the lower envelope of each system's curve, from mean costs over the accuracies that both "
        "reach; above 0 AccMPEG is "
        "faster. Clips on which no accuracy is reached by both are left out, so that a baseline that never gets "
        "as accurate has few "
        f"clips behind its bar. Bars end at -1. {INTERVALS}"
    )
    return Drawing(fig, points, used, "Delay saved at equal accuracy", text)


@figure("accmpeg", "size_reduction", experiment="delay_vs_accuracy")
def size_reduction(results: Results) -> Drawing:
    """How many bytes AccMPEG saves at equal accuracy, against each baseline."""

    def adjust(axes: Axes) -> None:
        axes.axhline(0, color="#333333", linewidth=0.8)
        axes.set_ylim(-1.05, 1.0)

    fig, points, used = _bars(
        results,
        "size_reduction",
        "factor.against",
        "series",
        "1 - our bytes / its bytes",
        styles=styles_of(results),
        names=_labels(results),
        adjust=adjust,
        width_in=7.0,
    )
    return Drawing(
        fig, points, used, "Bytes saved at equal accuracy", f"As for the delay, with bytes as the cost. {INTERVALS}"
    )


# ------------------------------------------------------------------------------------------------------------- maps

_RANKINGS = {
    "paper": SeriesStyle("AccGrad, the paper's formula", "#000000", "o"),
    "official": SeriesStyle("gradient of the official code", "#CC79A7", "s"),
    "accmodel": SeriesStyle("AccModel's prediction", "#D55E00", "^"),
    "random": SeriesStyle("random", "#AAAAAA", "x"),
    "boxes": SeriesStyle("object boxes", "#882255", "h"),
}


def _ranked(results: Results, metric: str) -> tuple[Figure, pd.DataFrame, pd.DataFrame]:
    need(results, metric)
    columns = [
        (f"{title}\nrest at quantiser {qp_lo:g}", own.only(**{"factor.qp_lo": qp_lo}))
        for title, own in panels_of(results)
        for qp_lo in sorted(own.frame["factor.qp_lo"].dropna().unique())
    ]
    fig, grid = panels(1, len(columns), width_in=3.6, height_in=3.0, sharey=True)
    plotted = []
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        rows = own.select(keep=["series", "factor.ranking", "factor.share"], metric=metric)
        ends = rows[rows["factor.ranking"] == "all"]
        both = [rows[rows["factor.ranking"] != "all"]]
        both += [ends.assign(**{"factor.ranking": ranking}) for ranking in _RANKINGS if ranking != "boxes"]
        together = pd.concat(both)
        # The boxes' share differs from clip to clip; they are one point at its mean.
        boxes = together["factor.ranking"] == "boxes"
        if boxes.any():
            together.loc[boxes, "factor.share"] = together.loc[boxes, "factor.share"].mean()
        points = summarise(together, ["factor.ranking", "factor.share"]).rename(columns={"factor.share": "share"})
        shown = points[points["share"] <= 0.5]
        lines(axes, shown, _RANKINGS, "share", by="factor.ranking", band=False)
        axes.set_title(title)
        axes.set_xlabel("share of blocks at quantiser 30")
        plotted.append(titled_points(points, title))
    grid[0, 0].set_ylabel(ACCURACY)
    legend(fig, max_columns=3)
    return fig, pd.concat(plotted, ignore_index=True), rows_used(results, [metric])


@figure("accmpeg", "share_of_high_quality", experiment="targets", paper_ref="HQ share")
def share_of_high_quality(results: Results) -> Drawing:
    """Accuracy by the share of macroblocks at high quality, for each way to choose them."""
    fig, points, used = _ranked(results, "accuracy")
    text = (
        "Maps come from the first frame of each chunk of ten. The official code's gradient has no difference "
        "factor, so that it does "
        f"not know how bad the low quality is. Shares above 0.5 are in the table only. {TRUTH} {INTERVALS}"
    )
    return Drawing(fig, points, used, "How much high quality is needed, and where", text)


def _cdf(results: Results, metric: str, by: str, xlabel: str) -> tuple[Figure, pd.DataFrame, pd.DataFrame]:
    need(results, metric)
    columns = list(panels_of(results))
    fig, grid = panels(1, len(columns), width_in=max(4.6, panel_width(columns)), height_in=3.0)
    plotted = []
    names = list(dict.fromkeys(results.frame[by].dropna()))
    styles = plain_styles(names)
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        rows = own.frame[own.frame["metric"] == metric]
        for name in names:
            values = rows.loc[rows[by] == name, "value"]
            if values.empty:
                continue
            points = cdf_points(values)
            x, y = [0.0, *points["x"]], [0.0, *points["share"]]
            axes.step(x, y, where="post", color=styles[name].color, label=str(name))
            plotted.append(titled_points(points.assign(series=str(name), metric=metric), title))
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("share of values at most x")
        axes.set_ylim(0, 1.02)
        axes.set_xlim(left=0)
    legend(fig)
    return fig, pd.concat(plotted, ignore_index=True), rows_used(results, [metric])


@figure("accmpeg", "persistence", experiment="persistence", paper_ref="persistence CDF")
def persistence(results: Results) -> Drawing:
    """For how many frames AccModel's map stays the same."""
    fig, points, used = _cdf(results, "lifetime", "factor.measure", "frames until 85 % no longer agree")
    for axes in fig.axes:
        paper_band(axes, 10, 10, "k = 10", vertical=True)
    legend_ = fig.legends[0] if fig.legends else None
    if legend_ is not None:
        legend_.remove()
    legend(fig)
    text = (
        "A map that outlives the clip counts with the frames that were left. Most blocks are of low quality and "
        "stay so, which is why "
        "the overlap of the high-quality blocks is shown as well."
    )
    return Drawing(fig, points, used, "How long a quality map lasts", text)


@figure("accmpeg", "boxes_vs_accgrad", experiment="boxes_vs_accgrad", paper_ref="box vs ideal IoU CDF")
def boxes_vs_accgrad(results: Results) -> Drawing:
    """Overlap of the objects' boxes with as many blocks of the largest accuracy gradient."""
    fig, points, used = _cdf(results, "iou", "factor.target", "IoU of box blocks and top AccGrad blocks")
    return Drawing(
        fig, points, used, "Object boxes are not where quality matters", "One value per frame with an object."
    )


@figure("accmpeg", "reuse", experiment="reuse", paper_ref="cross-DNN and cross-task reuse")
def reuse(results: Results) -> Drawing:
    """Maps made for one DNN, evaluated on others."""
    fig, points, used = _bars(results, "accuracy", "factor.evaluated_on", "factor.map_of", ACCURACY)
    for axes in fig.axes:
        axes.set_xlabel("evaluated on")
    text = (
        "Colours: the DNN whose accuracy gradient made the map; none: low quality everywhere. All other maps "
        "have the same share of "
        f"high-quality blocks. {INTERVALS}"
    )
    return Drawing(fig, points, used, "Maps of one DNN for another", text)


@figure("accmpeg", "codecs", experiment="codecs", paper_ref="codecs")
def codecs(results: Results) -> Drawing:
    """Bytes against accuracy on several codecs."""
    fig, points, used = _curves(results, "size", "bytes per chunk", (("accuracy", ACCURACY),))
    text = f"VP9 takes no map, so it is shown uniform only. {TRUTH} Points are means over clips; {IN_TABLE}"
    return Drawing(fig, points, used, "Other codecs", text)


_KNOBS = {
    "alpha": "alpha",
    "qp_lo": "low quality's quantiser",
    "dilation": "dilation [blocks]",
    "k": "k [frames]",
    "sample": "frames sampled",
}


@figure("accmpeg", "sensitivity", experiment="sensitivity", paper_ref="sensitivity")
def sensitivity(results: Results) -> Drawing:
    """Accuracy and bytes with one knob changed at a time."""
    need(results, "accuracy")
    own_panels = list(panels_of(results))
    knobs = [knob for knob in _KNOBS if knob in set(results.frame["factor.knob"].dropna())]
    fig, grid = panels(2 * len(own_panels), len(knobs), width_in=2.5, height_in=2.2)
    plotted = []
    styles = {
        "accuracy": SeriesStyle("accuracy", "#0072B2", "o"),
        "size_per_frame": SeriesStyle("bytes", "#D55E00", "s"),
    }
    labels = {"accuracy": "accuracy", "size_per_frame": "bytes per frame"}
    for row, (title, own) in enumerate(own_panels):
        for column, knob in enumerate(knobs):
            part = own.only(**{"factor.knob": knob})
            for offset, metric in enumerate(labels):
                axes = grid[2 * row + offset, column]
                rows = part.select(keep=["series", "factor.setting"], metric=metric)
                points = summarise(rows, ["factor.setting"]).assign(series=metric)
                order = list(dict.fromkeys(rows["factor.setting"]))
                if knob != "sample":
                    order = sorted(order, key=float)
                points = points.assign(x=points["factor.setting"].map(order.index)).sort_values("x")
                lines(axes, points, styles, "x", band=False)
                axes.set_xticks(range(len(order)), order)
                axes.set_xlabel(_KNOBS[knob])
                if column == 0:
                    axes.set_ylabel(labels[metric])
                plotted.append(titled_points(points.assign(knob=knob, metric=metric), title))
    fig.suptitle(own_panels[0][0].replace("\n", "; "), fontsize=9)
    text = f"The other knobs stay at the method's defaults. The x axes are ordinal. {TRUTH} {INTERVALS}"
    used = rows_used(results, list(labels))
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Which knob matters", text)


# ------------------------------------------------------------------------------------------------------- the camera

_PARTS = {
    "encode": "encoding",
    "encode_again": "encoding, second pass",
    "accmodel": "AccModel",
    "camera_detector": "detector on the camera",
    "frame_features": "frame features",
    "motion": "motion of regions",
    "downscale": "downscaling",
    "assignment": "quality map",
    "decode": "decoding",
    "proposals": "DNN's first run",
    "super_resolution": "super-resolution",
}


@figure("accmpeg", "camera_cost", experiment="camera_cost", paper_ref="encoding delay bars; encode vs decode delay")
def camera_cost(results: Results) -> Drawing:
    """CPU time per chunk on camera and server, by part."""
    columns = list(panels_of(results))
    fig, grid = panels(1, len(columns), width_in=6.5, height_in=3.8)
    styles = plain_styles(list(_PARTS.values()))
    plotted = []
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        frame = own.frame[own.frame["metric"].str.removeprefix("time_").isin(_PARTS)]
        if frame.empty:
            raise NothingToDraw("no times by part among the rows")
        part = frame["metric"].str.removeprefix("time_").map(_PARTS)
        sample = frame["factor.sample"] if "factor.sample" in frame else pd.Series(float("nan"), index=frame.index)
        bar = frame["series"].astype(str) + sample.map(lambda s: f", {s}" if isinstance(s, str) else "")
        points = summarise(frame.assign(bar=bar, part=part), ["bar", "part"], "median")
        stacked_bars(axes, points, styles, "bar", by="part")
        axes.set_title(title)
        axes.set_xlabel("CPU s per chunk (median over clips)")
        plotted.append(titled_points(points, title))
    legend(fig, max_columns=3)
    used = results.frame[results.frame["metric"].str.removeprefix("time_").isin(_PARTS)]
    text = (
        "AccMPEG with AccModel on the first frame of each chunk, on first and last, and on all. Decoding, the "
        "DNN's first run and "
        "super-resolution are the server's; the DNN's last run, the same for all, is left out."
    )
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Where the time goes", text)


_SYSTEMS = {
    "h264": "x264, quantiser 30",
    "h264_same_size": "x264, as many bytes\nas AccMPEG",
    "accmpeg": "AccMPEG, k = 10",
    "accmpeg_unsampled": "AccMPEG,\nevery frame",
    "h265": "x265, quantiser 30",
}


@figure("accmpeg", "speed", experiment="speed", paper_ref="camera speed")
def speed(results: Results) -> Drawing:
    """CPU time of a full-size frame on the camera, and what it consists of."""
    need(results, "time_per_frame")
    columns = list(panels_of(results))
    fig, grid = panels(2, len(columns), width_in=6.0, height_in=2.4)
    plotted = []
    for column, (title, own) in enumerate(columns):
        for axes, metric, factor, names in (
            (grid[0, column], "time_per_frame", "factor.system", _SYSTEMS),
            (grid[1, column], "part_time", "factor.part", {}),
        ):
            rows = own.select(keep=["series", factor, "factor.repeat"], metric=metric)
            points = summarise(rows, [factor], "median")
            shown: dict[str, Any] = dict(names)
            points = points.assign(
                value=1000 * points["value"], low=1000 * points["low"], high=1000 * points["high"], unit="ms"
            )
            points = points.assign(what=points[factor].map(lambda v, shown=shown: shown.get(v, v)), part=metric)
            stacked_bars(axes, points, plain_styles([metric]), "what", by="part")
            for bar, value in enumerate(points["value"]):
                axes.annotate(f" {value:.1f}", (value, bar), va="center", fontsize=8)
            axes.margins(x=0.12)
            axes.set_xlabel("CPU ms per frame (median)")
            plotted.append(titled_points(points, title))
        grid[0, column].set_title(title)
    text = (
        "1280 x 720, one core, x264 veryfast. Below: the parts of AccMPEG, spread over the frames of a chunk. "
        "Colour conversion in "
        "Python is in all of them."
    )
    used = rows_used(results, ["time_per_frame", "part_time"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "The camera's time", text)


@figure("accmpeg", "learning_curves", experiment="learning_curves", paper_ref="learning curves by compute")
def learning_curves(results: Results) -> Drawing:
    """Validation loss by epoch for AccModels of several sizes."""
    frame = results.frame
    size = frame["factor.multiply_adds_millions"].map(lambda value: f"{value:g} M multiply-adds")
    own = Results(frame.assign(**{"factor.size": size}), results.records)
    names = list(dict.fromkeys(size))
    fig, points, used = draw_lines(
        own,
        "epoch",
        [("validation_loss",)],
        xlabel="epoch",
        by="factor.size",
        styles=plain_styles(names),
        varying=["factor.width", "factor.multiply_adds_millions"],
    )
    # The first epoch is far above the others, and would hide how close the sizes are.
    later = points.loc[points["epoch"] > 1, "value"]
    if len(later):
        margin = 0.1 * float(later.max() - later.min()) + 0.005
        fig.axes[0].set_ylim(float(later.min()) - margin, float(later.max()) + margin)
    text = (
        "Weighted cross-entropy per macroblock, one training each; a run stops after four epochs without a better loss. The "
        "first epoch may lie above the figure."
    )
    return Drawing(fig, points, used, "How large AccModel must be", text)


@figure("accmpeg", "bandwidth_adaptation", experiment="bandwidth_adaptation", paper_ref="bandwidth adaptation")
def bandwidth_adaptation(results: Results) -> Drawing:
    """Accuracy, bitrate and delay while the bandwidth changes."""
    styles = {
        "accmpeg": SeriesStyle("AccMPEG, share of high quality follows the link", "#D55E00", "o"),
        "cbr": SeriesStyle("x264 at the link's rate", "#7F7F7F", "s"),
    }
    fig, points, used = draw_lines(
        results,
        "time_s",
        [("accuracy",), ("bitrate",), ("delay",)],
        xlabel="time [s]",
        by="factor.system",
        styles=styles,
    )
    bandwidth = results.frame[results.frame["metric"] == "bandwidth"]
    steps = bandwidth.groupby("factor.time_s")["value"].first().sort_index()
    for axes in fig.axes:
        if axes.get_ylabel().startswith("bitrate"):
            axes.step(steps.index, steps.to_numpy(), where="post", color="#333333", linewidth=0.9, label="bandwidth")
            axes.set_ylabel("bitrate [bit/s]")
        elif axes.get_ylabel() == "delay":
            axes.set_ylabel("delay [s]")
    for old in list(fig.legends):
        old.remove()
    legend(fig, max_columns=2)
    text = f"One link for the whole clip: what does not fit delays the chunks after it. {INTERVALS}"
    return Drawing(fig, points, used, "Following the bandwidth", text)
