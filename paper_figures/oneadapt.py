"""The figures of OneAdapt, from stored rows. What each metric and factor means: oneadapt/README.md."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.plotting import (
    Drawing,
    SeriesStyle,
    error_range,
    grouped_bars,
    legend,
    lines,
    panels,
    paper_band,
    plain_styles,
    sample_size,
    series_styles,
)
from common.results import Results
from common.stats import summarise
from paper_figures._panels import INTERVALS, has, need, rows_used, styles_of, titled_points
from paper_figures._registry import NothingToDraw, figure

SWEPT = ("trade", "share", "qp", "score", "threshold", "bias")
"""What the methods sweep, each its own."""
NAMES = {
    "rgb_detection": "RGB, detection",
    "rgb_segmentation": "RGB, segmentation",
    "rgb_tracking": "RGB, tracking",
    "thermal_detection": "thermal, detection",
    "depth_segmentation": "depth, segmentation",
    "lidar_detection": "LiDAR, detection",
    "sound_recognition": "sound, recognition",
    "clip_detection": "real clips, detection",
}
CLIPS = "Bars and bands are 95 % bootstrap intervals over clips."


def _by_workload(results: Results) -> list[tuple[str, Results]]:
    found = sorted(
        results.frame["workload"].unique(), key=lambda name: (list(NAMES).index(name) if name in NAMES else 99, name)
    )
    return [
        (f"{NAMES.get(name, name)}\n{sample_size(own.frame)}", own)
        for name in found
        for own in [results.only(workload=name)]
    ]


def _grid(count: int, width_in: float = 3.1, height_in: float = 2.5, most: int = 4) -> tuple[Figure, list[Axes]]:
    columns = min(most, count)
    rows = -(-count // columns)
    fig, grid = panels(rows, columns, width_in=width_in if count > 1 else 4.8, height_in=height_in)
    flat = [axes for line in grid for axes in line]
    for axes in flat[count:]:
        axes.set_axis_off()
    return fig, flat[:count]


def _with_point(results: Results) -> Results:
    """Adds `factor.point`: the swept value, whatever its name."""
    frame = results.frame.copy()
    point = pd.Series(np.nan, index=frame.index)
    for name in SWEPT:
        column = f"factor.{name}"
        if column in frame:
            point = point.fillna(frame[column].astype(float))
    frame["factor.point"] = point
    return Results(
        frame.drop(columns=[f"factor.{name}" for name in SWEPT if f"factor.{name}" in frame]), results.records
    )


def _curve_points(own: Results, x_metric: str, y_metric: str) -> pd.DataFrame:
    by = ["series", "factor.point"]
    extra = [name for name in ("factor.ours",) if name in own.frame]
    x = summarise(own.select(keep=[*by, *extra], metric=x_metric), by)[[*by, "value"]]
    y = summarise(own.select(keep=[*by, *extra], metric=y_metric), by)
    return y.merge(x.rename(columns={"value": "x"}), on=by)


def _tradeoff(results: Results, xlabel: str, title: str, text: str) -> Drawing:
    need(results, "accuracy")
    results = _with_point(results)
    styles, columns = styles_of(results), _by_workload(results)
    fig, axes_list = _grid(len(columns))
    plotted = []
    for axes, (name, own) in zip(axes_list, columns, strict=True):
        points = _curve_points(own, "resource", "accuracy")
        lines(axes, points, styles, "x", band=False)
        axes.set_title(name)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("accuracy")
        plotted.append(titled_points(points, name))
    legend(fig)
    return Drawing(
        fig, pd.concat(plotted, ignore_index=True), rows_used(results, ["accuracy", "resource"]), title, text
    )


def _main_methods(results: Results) -> Results:
    """Without the form of OneAdapt whose curve lies on that of the guarded one."""
    return Results(results.frame[results.frame["method"] != "oneadapt_calibrating"], results.records)


WORST = -1.0
BYTES = "bytes / bytes of the best setting"
GUARD = " The calibrating form of OneAdapt is in the figure guard."
CHARGED = (
    "Accuracy is agreement with the network's own results at the best setting. Bytes are lengths of bitstreams, "
    "with everything that is sent in order to adapt; each method is swept over its own price or threshold, the same "
    "number of points "
    f"each. Better is up and left. {CLIPS}"
)


@figure(
    "oneadapt", "tradeoff", experiment="tradeoff", paper_ref="accuracy-bandwidth, encoding knobs and other modalities"
)
def tradeoff(results: Results) -> Drawing:
    """Accuracy against bytes for every input and task, knobs of the encoder."""
    return _tradeoff(_main_methods(results), BYTES, "Accuracy against bytes, knobs of the encoder", CHARGED + GUARD)


@figure("oneadapt", "blocks", experiment="blocks", paper_ref="accuracy-bandwidth, macroblocks")
def blocks(results: Results) -> Drawing:
    """Accuracy against bytes, quality per macroblock."""
    return _tradeoff(results, BYTES, "Accuracy against bytes, quality per macroblock", f"{CHARGED} DDS sends twice.")


@figure("oneadapt", "frame_filter", experiment="frame_filter", paper_ref="accuracy-compute, frame filter")
def frame_filter(results: Results) -> Drawing:
    """Accuracy against frames analysed, thresholds of a frame filter."""
    text = (
        "Runs of the network over frames of the stream; a backward pass counts as a run, and so does every frame analysed for a "
        f"profile. {CLIPS}"
    )
    return _tradeoff(results, "runs of the network / frames", "Accuracy against computing, frame filter", text)


@figure("oneadapt", "upscaling", experiment="upscaling", paper_ref="accuracy-bandwidth, super-resolution")
def upscaling(results: Results) -> Drawing:
    """Accuracy against bytes, small pictures enlarged at the server."""
    return _tradeoff(results, BYTES, "Accuracy against bytes, super-resolution at the server", CHARGED)


@figure("oneadapt", "tradeoff_others", experiment="tradeoff_others")
def tradeoff_others(results: Results) -> Drawing:
    """Accuracy against bytes on the other inputs and tasks, knobs of the encoder."""
    return _tradeoff(_main_methods(results), BYTES, "Accuracy against bytes, other inputs and tasks", CHARGED + GUARD)


@figure("oneadapt", "real_clips", experiment="real_clips")
def real_clips(results: Results) -> Drawing:
    """Accuracy against bytes on real video files with a real detector, knobs of the encoder."""
    text = f"{CHARGED} The offline profile of each file is made of another file."
    return _tradeoff(results, BYTES, "Accuracy against bytes, real clips", text)


@figure("oneadapt", "frame_rate", experiment="frame_rate")
def frame_rate(results: Results) -> Drawing:
    """The main comparison with frames per interval as a third knob."""
    text = (
        f"{CHARGED} One frame's gradient knows nothing of motion, so the estimate for this knob is poor; this is "
        f"measured here."
    )
    return _tradeoff(results, BYTES, "With a knob that the gradient cannot see", text)


@figure(
    "oneadapt",
    "savings",
    experiment=["tradeoff", "tradeoff_others", "real_clips", "blocks", "frame_filter", "upscaling"],
    paper_ref="headline claims",
)
def savings(results: Results) -> Drawing:
    """Resource saved at equal accuracy, and accuracy gained at equal resource, against each method."""
    need(results, "late_saving", "late_gain")
    rows = results.only(metric=["late_saving", "late_gain"]).frame.copy()
    # The numbers of other forms of OneAdapt are in the claim table.
    rows = rows[~rows["factor.ours"].isin(["oneadapt_plain", "oneadapt_filter_calibrating"])]
    rows["group"] = [NAMES.get(name, name) for name in rows["workload"]]
    is_other = ~rows["experiment"].str.startswith(("tradeoff", "real_clips"))
    rows.loc[is_other, "group"] += ", " + rows["experiment"].str.replace("_", " ")
    points = summarise(rows, ["metric", "group", "series"])
    styles = series_styles(results.frame, results.records_of(results.frame))
    groups = sorted(points["group"].unique(), key=lambda g: (g.count(","), g))
    fig, grid = panels(1, 2, width_in=5.2, height_in=max(2.6, 0.16 * len(points) / 2 + 1.0))
    for axes, metric, band in ((grid[0, 0], "late_saving", (0.15, 0.59)), (grid[0, 1], "late_gain", (0.01, 0.05))):
        own = points[points["metric"] == metric]
        place = 0.0
        ticks, names = [], []
        for group in groups:
            members = own[own["group"] == group]
            order = [series for series in styles if series in set(members["series"])]
            begin = place
            for series in order:
                point = members[members["series"] == series]
                shown, low, high = (point[name].clip(lower=WORST) for name in ("value", "low", "high"))
                axes.errorbar(
                    shown,
                    [place],
                    xerr=error_range(shown, low.where(np.isfinite(point["low"]), shown), high),
                    fmt=styles[series].marker,
                    color=styles[series].color,
                    capsize=2.5,
                    markersize=5,
                    label=styles[series].label,
                    zorder=3,
                )
                place += 1
            if order:
                ticks.append((begin + place - 1) / 2)
                names.append(group)
                place += 1
        axes.axvline(0, color="#333333", linewidth=0.8)
        paper_band(axes, *band, f"{band[0]:.0%} to {band[1]:.0%}", vertical=True)
        axes.set_yticks(ticks, names)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(
            "resource saved at equal accuracy" if metric == "late_saving" else "accuracy gained at equal resource"
        )
    legend(fig)
    text = (
        "OneAdapt (its guarded form for knobs of the encoder) against each method, along the curves of each clip, averaged "
        "over the range that both curves reach, without the first 5 intervals (all adaptive methods begin at the best "
        "setting; the claim table has both). Twice the resource or more is drawn at -1; the CSV has the numbers. Right of 0 is "
        f"better for OneAdapt; the oracle and the static setting in hindsight are no systems. {CLIPS}"
    )
    return Drawing(fig, points, rows, "What OneAdapt saves and gains", text)


@figure("oneadapt", "guard", experiment=["tradeoff", "tradeoff_others", "real_clips"])
def guard(results: Results) -> Drawing:
    """Accuracy at every price of bytes: the guarded rule, calibrating or not, the paper's plain rule, the code's Adam."""
    own = results.only(method=["oneadapt", "oneadapt_calibrating", "oneadapt_plain", "oneadapt_adam"])
    if not len(own) or not has(own, "late_accuracy"):
        raise NothingToDraw("no rows of OneAdapt's variants with clips longer than 5 intervals")
    own = _with_point(own)
    styles = styles_of(own)
    columns = [(name, part) for name, part in _by_workload(own) if has(part, "late_accuracy")]
    fig, grid = panels(2, len(columns), width_in=2.6 if len(columns) > 1 else 4.4, height_in=2.0)
    plotted = []
    for column, (name, part) in enumerate(columns):
        for axes, metric in zip(grid[:, column], ("late_accuracy", "late_resource"), strict=True):
            points = summarise(part.select(keep=["series", "factor.point"], metric=metric), ["series", "factor.point"])
            points = points.rename(columns={"factor.point": "price"})
            lines(axes, points, styles, "price")
            axes.set_ylabel(metric.replace("late_", ""))
            plotted.append(titled_points(points.assign(metric=metric), name))
        grid[0, column].set_title(name)
        grid[1, column].set_xlabel("price of all bytes")
    legend(fig)
    text = (
        f"Without the first 5 intervals of each clip. A rule without guard may walk into settings from which nothing "
        f"pulls it back. {CLIPS}"
    )
    used = rows_used(own, ["late_accuracy", "late_resource"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Plain ascent and the guard", text)


@figure("oneadapt", "time_series", experiment="time_series", paper_ref="time series")
def time_series(results: Results) -> Drawing:
    """Accuracy, bytes and knobs over the intervals of single clips whose content changes."""
    need(results, "accuracy")
    styles = styles_of(results)
    frame = results.frame[results.frame["seed"] == results.frame["seed"].min()]
    items = sorted(frame["item"].unique())[:3]
    knob_names = list(frame.loc[frame["metric"] == "knob_place", "factor.knob"].dropna().unique())
    rows_of = [("accuracy", None), ("resource", None), *(("knob_place", knob) for knob in knob_names)]
    fig, grid = panels(len(rows_of), len(items), width_in=3.6 if len(items) > 1 else 5.5, height_in=1.5)
    plotted = []
    for column, item in enumerate(items):
        for axes, (metric, knob) in zip(grid[:, column], rows_of, strict=True):
            own = frame[(frame["item"] == item) & (frame["metric"] == metric)]
            own = own if knob is None else own[own["factor.knob"] == knob]
            points = own.rename(columns={"factor.t": "t"})[["series", "t", "value", "unit", "basis"]]
            for series in [name for name in styles if name in set(points["series"])]:
                line = points[points["series"] == series].sort_values("t")
                axes.plot(
                    line["t"], line["value"], color=styles[series].color, linewidth=1.2, label=styles[series].label
                )
            axes.set_ylabel(metric if knob is None else f"{knob}\n(1 = best)")
            plotted.append(titled_points(points.assign(metric=metric, knob=knob or ""), f"clip {item}"))
        workload = str(frame["workload"].iloc[0])
        grid[0, column].set_title(f"{NAMES.get(workload, workload)}, clip {item}")
        for axes in grid[:, column]:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        grid[-1, column].set_xlabel("interval")
    legend(fig)
    text = (
        "Single clips, no averages. The knobs' values are shown by their place in the list, 1 for the most expensive."
    )
    return Drawing(fig, pd.concat(plotted, ignore_index=True), frame, "Knobs that follow the content", text)


@figure("oneadapt", "concavity", experiment="concavity", paper_ref="concavity")
def concavity(results: Results) -> Drawing:
    """Accuracy over two knobs."""
    need(results, "accuracy")
    columns = _by_workload(results)
    fig, axes_list = _grid(len(columns), width_in=3.6, height_in=2.7)
    plotted = []
    for axes, (name, own) in zip(axes_list, columns, strict=True):
        by = [f"factor.{part}" for part in ("place_0", "place_1", "value_0", "value_1", "knob_0", "knob_1")]
        points = summarise(own.select(keep=by, metric="accuracy"), by)
        table = points.pivot(index="factor.place_0", columns="factor.place_1", values="value")
        image = axes.imshow(table, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(table.to_numpy()):
            axes.text(
                j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if value < 0.65 else "black"
            )
        axes.set_xticks(range(table.shape[1]), _labels(points, 1))
        axes.set_yticks(range(table.shape[0]), _labels(points, 0))
        axes.set_xlabel(str(points["factor.knob_1"].iloc[0]))
        axes.set_ylabel(str(points["factor.knob_0"].iloc[0]))
        axes.grid(visible=False)
        shape = summarise(own.select(metric="monotone_share"), [])["value"].iloc[0]
        bend = summarise(own.select(metric="concave_share"), [])["value"].iloc[0]
        axes.set_title(f"{name}\nmonotone {shape:.0%}, concave {bend:.0%}")
        fig.colorbar(image, ax=axes, label="accuracy")
        plotted.append(titled_points(points, name))
    text = (
        "Mean over clips. In the titles: the share of one-step-cheaper moves that do not raise accuracy, and of "
        "triples of neighbouring "
        "settings along a knob that are concave, within 0.02, in single clips."
    )
    used = rows_used(results, ["accuracy", "monotone_share", "concave_share"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Accuracy over two knobs", text)


def _labels(points: pd.DataFrame, axis: int) -> Sequence[str]:
    pairs = points[[f"factor.place_{axis}", f"factor.value_{axis}"]].drop_duplicates()
    return [str(value) for value in pairs.sort_values(f"factor.place_{axis}")[f"factor.value_{axis}"]]


def _short_estimates(points: pd.DataFrame) -> pd.DataFrame:
    short = {
        "gradient": "gradient\n(paper)",
        "gradient, sensor": "gradient,\nsensor",
        "plain difference": "plain\ndifference",
    }
    return points.assign(**{"factor.estimate": points["factor.estimate"].replace(short)})


@figure("oneadapt", "proxy_quality", experiment="proxy_quality", paper_ref="proxy quality")
def proxy_quality(results: Results) -> Drawing:
    """Estimated against true loss of accuracy for one-step moves, and their correlation by interval and on average."""
    need(results, "true_loss")
    columns = _by_workload(results)
    knob_names = list(results.frame["factor.knob"].dropna().unique())
    styles = plain_styles([str(name) for name in knob_names])
    is_shared = has(results, "first_step_share")
    fig, grid = panels(2 + is_shared, len(columns), width_in=3.0 if len(columns) > 1 else 4.6, height_in=2.3)
    plotted = []
    level_styles = plain_styles(["each interval", "clip average"])
    for column, (name, own) in enumerate(columns):
        by = ["factor.pair", "factor.knob"]
        x = summarise(own.select(keep=by, metric="estimated_loss"), by)[[*by, "value"]].rename(columns={"value": "x"})
        points = summarise(own.select(keep=by, metric="true_loss"), by).merge(x, on=by)
        for knob in [k for k in styles if k in set(points["factor.knob"])]:
            some = points[points["factor.knob"] == knob]
            look = styles[knob]
            grid[0, column].plot(
                some["x"], some["value"], look.marker, color=look.color, alpha=0.7, markersize=4, label=f"knob {knob}"
            )
        grid[0, column].set_title(name)
        grid[0, column].set_xlabel("estimated loss (scaled)")
        grid[0, column].set_ylabel("true loss of accuracy")
        bars_by = ["factor.estimate", "factor.level"]
        bars = _short_estimates(summarise(own.select(keep=bars_by, metric="pearson"), bars_by))
        grouped_bars(grid[1, column], bars, level_styles, "factor.estimate", by="factor.level")
        paper_band(grid[1, column], 0.46, 0.84, "0.65 ± 0.19")
        grid[1, column].set_ylabel("Pearson correlation")
        plotted += [titled_points(points, name), titled_points(bars, name)]
        if is_shared:
            shares = summarise(own.select(keep=["factor.estimate"], metric="first_step_share"), ["factor.estimate"])
            shares = _short_estimates(shares).assign(series="share")
            grouped_bars(
                grid[2, column], shares, {"share": SeriesStyle("first steps", "#6F6F6F", "o")}, "factor.estimate"
            )
            grid[2, column].set_ylabel("share of loss on the\nfirst steps from the best")
            plotted.append(titled_points(shares, name))
    legend(fig, max_columns=4 if len(columns) > 1 else 2)
    text = (
        "Above: one-step-cheaper moves, losses averaged over clips. Below: in single intervals a few results decide, "
        "so the estimate is "
        f"weak there; averaged over a clip it is better. {CLIPS}"
    )
    if is_shared:
        text += (
            " Last row: how much of the loss of all moves falls on those that begin at the best setting. Where inputs are "
            "compared with that setting's (the paper), they look too dear."
        )
    used = rows_used(results, ["true_loss", "estimated_loss", "pearson", "first_step_share"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Does the proxy follow accuracy?", text)


@figure("oneadapt", "num_blocks", experiment="num_blocks", paper_ref="finer knobs")
def num_blocks(results: Results) -> Drawing:
    """Bytes saved at equal accuracy against the number of blocks that have a quality of their own."""
    need(results, "saving")
    fig, grid = panels(1, 1, width_in=4.6, height_in=2.6)
    rows = results.select(
        keep=["factor.num_blocks", "factor.ours"] if "factor.ours" in results.frame else ["factor.num_blocks"],
        metric="saving",
    )
    points = summarise(rows, ["factor.num_blocks"]).rename(columns={"factor.num_blocks": "num_blocks"})
    styles = {"all": SeriesStyle("OneAdapt", "#0072B2", "o")}
    lines(grid[0, 0], points.assign(series="all"), styles, "num_blocks")
    grid[0, 0].set_xscale("log", base=2)
    grid[0, 0].axhline(0, color="#333333", linewidth=0.8)
    for place, value in ((4, 1 - 1 / 1.45), (16, 1 - 1 / 1.59), (64, 1 - 1 / 2.0)):
        grid[0, 0].plot([place], [value], "x", color="#8A8A8A", label="paper: 1.45x, 1.59x, 2.00x")
    grid[0, 0].set_xticks([4, 16, 64, *points["num_blocks"]], [f"{n:g}" for n in (4, 16, 64, *points["num_blocks"])])
    grid[0, 0].set_xlabel("blocks")
    grid[0, 0].set_ylabel("bytes saved at equal accuracy,\nagainst a uniform quantiser")
    legend(fig)
    return Drawing(fig, points, rows, "Finer quality maps", f"Along the curves of each clip. {CLIPS}")


@figure("oneadapt", "overhead", experiment="overhead", paper_ref="overhead bars")
def overhead(results: Results) -> Drawing:
    """Work of camera and server for each interval of 10 elements, and wall time of adapting."""
    need(results, "forwards")
    styles, columns = styles_of(results), _by_workload(results)
    metrics = (
        ("camera_frames", "frames encoded\nper interval"),
        ("forwards", "forward passes\nper interval"),
        ("adaptation_share", "adaptation / stream,\nserver"),
        ("decision_time", "wall time of adapting\n[s per interval]"),
    )
    fig, grid = panels(len(metrics), 1, width_in=1.7 * max(2, len(columns)) + 1.5, height_in=1.7)
    plotted = []
    for axes, (metric, label) in zip(grid[:, 0], metrics, strict=True):
        parts = []
        for name, own in columns:
            points = summarise(own.select(keep=["series"], metric=metric), ["series"])
            parts.append(points.assign(workload=name.partition("\n")[0], metric=metric))
        points = pd.concat(parts, ignore_index=True)
        grouped_bars(axes, points, styles, "workload")
        axes.set_ylabel(label)
        if metric == "adaptation_share":
            paper_band(axes, 0.073, 0.073, "0.73 forwards per 10 frames")
        plotted.append(points)
    legend(fig)
    used = rows_used(results, [metric for metric, _ in metrics])
    text = (
        "Counts are those of the runs; the share counts a backward pass as many forwards as it was timed to take. Wall "
        "time is that of a run "
        f"with adaptation less that of one without. {CLIPS}"
    )
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "What adaptation costs", text)


@figure("oneadapt", "sensitivity", experiment="sensitivity", paper_ref="sensitivity")
def sensitivity(results: Results) -> Drawing:
    """The objective, accuracy and bytes for other intervals between backward passes, step sizes and numbers of knobs."""
    need(results, "objective")
    settings = list(dict.fromkeys(results.frame["factor.setting"].dropna()))
    fig, grid = panels(1, len(settings), width_in=3.0, height_in=2.4)
    styles = plain_styles(["objective", "accuracy", "resource"])
    plotted = []
    for axes, setting in zip(grid[0], settings, strict=True):
        own = results.only(**{"factor.setting": setting})
        points = pd.concat(
            [
                summarise(own.select(keep=["factor.value"], metric=metric), ["factor.value"]).assign(metric=metric)
                for metric in styles
            ]
        ).rename(columns={"factor.value": "x"})
        lines(axes, points, styles, "x", by="metric")
        axes.set_xlabel(
            {"every": "intervals per backward pass", "rate": "step size", "num_knobs": "knobs"}.get(setting, setting)
        )
        if setting in ("every", "rate"):
            axes.set_xscale("log", base=2)
        plotted.append(titled_points(points, setting))
    legend(fig)
    text = f"Objective: accuracy minus price times bytes. {INTERVALS.replace('items', 'clips')}"
    used = rows_used(results, ["objective", "accuracy", "resource"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "How often, how fast, how many", text)
