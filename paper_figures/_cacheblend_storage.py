"""CacheBlend's figures of storage and scheduling: devices, pipeline, controller, requests under load."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from common.plotting import (
    Drawing,
    SeriesStyle,
    basis_suffix,
    grouped_bars,
    legend,
    lines,
    log_axis,
    panels,
    paper_band,
    sample_size,
    scatter,
    stacked_bars,
)
from common.plotting.style import shade
from common.results import Results
from common.stats import summarise
from paper_figures._panels import (
    INTERVALS,
    KL_MEANING,
    LABELS,
    QUALITY,
    draw_lines,
    has,
    kl_axis,
    need,
    panels_of,
    quality_axis,
    rows_used,
    statistic_of,
    styles_of,
    titled_points,
)
from paper_figures._registry import figure

LOAD = "factor.load_over_recompute"
PHASES = {
    "open": SeriesStyle("find chunks", "#7F7F7F", "o"),
    "setup": SeriesStyle("set up", "#B9A6D9", "o"),
    "read": SeriesStyle("read from device", "#56B4E9", "o"),
    "wait": SeriesStyle("wait for the load", "#E6D9B8", "o"),
    "load": SeriesStyle("take KV", "#0072B2", "o"),
    "shift": SeriesStyle("move keys", "#CC79A7", "o"),
    "select": SeriesStyle("choose tokens", "#E69F00", "o"),
    "layer_0": SeriesStyle("layer 0, all tokens", "#8C2D04", "o"),
    "recompute": SeriesStyle("recompute", "#D55E00", "o"),
    "head": SeriesStyle("head", "#444444", "o"),
}


def device_name(device: str, load_over_recompute: float) -> str:
    """A device in two lines: throttled ones are named by how long loading takes."""
    if device != "throttled":
        return {"memory": "memory", "disk": "this disk", "none": "no cache"}.get(device, device)
    return f"slow device,\nload = {load_over_recompute:.2g} x\nrecompute"


def phase_styles(present: pd.Series) -> dict[str, SeriesStyle]:
    """Styles of the phases that occur, known ones in the order in which they happen."""
    others = sorted(set(present) - set(PHASES))
    return {name: style for name, style in PHASES.items() if name in set(present)} | {
        name: SeriesStyle(name.replace("_", " "), "#B0B0B0", "o") for name in others
    }


@figure("cacheblend", "storage_device", experiment="storage_device", paper_ref="Fig. 17")
def storage_device(results: Results) -> Drawing:
    """TTFT and quality with the KV in memory, on this disk and on slower devices."""
    need(results, "ttft")
    styles = styles_of(results)
    columns = list(panels_of(results))
    metrics = [group for group in (("ttft",), QUALITY, ("kl_to_full",)) if any(has(results, m) for m in group)]
    fig, grid = panels(len(metrics), len(columns), width_in=7.0, height_in=2.1)
    plotted = []
    for column, (title, own) in enumerate(columns):
        grid[0, column].set_title(title)
        for axes, group in zip(grid[:, column], metrics, strict=True):
            metric = next((m for m in group if has(own, m)), None)
            if metric is None:
                axes.set_axis_off()
                continue
            keys = ["factor.device", LOAD, "factor.pipelined", "factor.ratio_by"]
            rows = own.select(keep=["series", *keys, "factor.ratio"], metric=metric)
            points = summarise(rows, ["series", "method", *keys], statistic_of(metric))
            points["variant"], looks = _variants(points, styles)
            pairs = zip(points["factor.device"], points[LOAD], strict=True)
            points["place"] = [device_name(device, load) for device, load in pairs]
            points = points.sort_values([LOAD, "factor.device"], key=_memory_first, kind="stable")
            grouped_bars(axes, points, looks, "place", by="variant")
            axes.set_ylabel(LABELS[metric])
            if metric == "kl_to_full":
                kl_axis(axes, points["value"])
            elif metric in QUALITY:
                quality_axis(axes)
            plotted.append(titled_points(points.assign(metric=metric), title))
    legend(fig, max_columns=3)
    text = (
        "The slow devices are real file reads held back to a rate at which loading takes the stated multiple of "
        "recomputing 15 % of "
        "the tokens (the paper's two regimes: 5.3 and 0.57). Pipelined: the next layer is read while one is recomputed. "
        f"TTFT is a median, the rest are means. {INTERVALS} {KL_MEANING}"
    )
    used = rows_used(results, [m for group in metrics for m in group])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "KV on devices of different speed", text)


def _memory_first(column: pd.Series) -> pd.Series:
    order = {"none": 0, "memory": 1, "disk": 2, "throttled": 3}
    return column.map(order) if column.name == "factor.device" else column


def _variants(points: pd.DataFrame, styles: Mapping[str, SeriesStyle]) -> tuple[list[str], dict[str, SeriesStyle]]:
    """A name for each point's way of running, and the styles of those names."""
    names, looks = [], {}
    for point in points.to_dict("records"):
        series, is_disk = point["series"], point["factor.device"] in ("disk", "throttled")
        place = 0
        name = series
        if point["factor.ratio_by"] == "controller":
            name, place = f"{series}, ratio by the controller", 1
        elif is_disk and not point["factor.pipelined"] and point["method"] == "cacheblend":
            name, place = f"{series}, not pipelined", 2
        names.append(name)
        looks[name] = SeriesStyle(name, shade(styles[series].color, place, 3), styles[series].marker)
    ordered = sorted(looks, key=lambda name: (list(styles).index(name.partition(",")[0]), name))
    return names, {name: looks[name] for name in ordered}


@figure("cacheblend", "pipeline_gantt", experiment="pipeline_gantt")
def pipeline_gantt(results: Results) -> Drawing:
    """What the loading and the computing thread do while one request is served."""
    need(results, "span")
    title, own = next(panels_of(results))
    spans = own.select(
        keep=["factor.depth", LOAD, "factor.lane", "factor.phase", "factor.layer", "factor.begin_s"], metric="span"
    )
    first = spans.sort_values(["seed", "item"], kind="stable").iloc[0]
    one = spans[(spans["item"] == first["item"]) & (spans["seed"] == first["seed"])]
    # A round begins with its first span; what is before (waiting for other measurements on this machine) is not in its time.
    began_s = one.groupby([LOAD, "factor.depth"])["factor.begin_s"].transform("min")
    one = one.assign(**{"factor.begin_s": one["factor.begin_s"] - began_s})
    loads = sorted(one[LOAD].unique())
    depths = sorted(one["factor.depth"].unique(), key=lambda depth: (depth == "all", depth))
    styles = phase_styles(one["factor.phase"])
    fig, grid = panels(len(depths), len(loads), width_in=4.4, height_in=1.15, sharex="col")
    lanes = {"loader": 1, "compute": 0}
    for column, load in enumerate(loads):
        for row, depth in enumerate(depths):
            axes = grid[row, column]
            part = one[(one[LOAD] == load) & (one["factor.depth"] == depth)]
            for phase, style in styles.items():
                for lane, height in lanes.items():
                    bars = part[(part["factor.phase"] == phase) & (part["factor.lane"] == lane)]
                    if len(bars):
                        axes.broken_barh(
                            list(zip(bars["factor.begin_s"], bars["value"], strict=True)),
                            (height - 0.38, 0.76),
                            facecolors=style.color,
                            label=style.label,
                        )
            _mark_prediction(axes, own, first, load, depth)
            axes.set_yticks(list(lanes.values()), list(lanes))
            axes.set_ylim(-0.6, 1.6)
            axes.grid(axis="y", visible=False)
            ahead = {"0": "no pipeline", "all": "any number of layers ahead"}.get(depth, f"{depth} layers ahead")
            heading = f"load = {load:.2g} x recompute\n{ahead}" if row == 0 else ahead
            axes.set_title(heading)
        grid[-1, column].set_xlabel("time [s]")
    legend(fig, max_columns=5)
    points = one[[LOAD, "factor.depth", "factor.lane", "factor.phase", "factor.layer", "factor.begin_s", "value"]]
    points = points.rename(columns=lambda name: str(name).removeprefix("factor.")).rename(
        columns={"value": "duration_s"}
    )
    text = (
        f"One request ({first['item']}, seed {first['seed']}; {title.partition(chr(10))[0]}): the round with the "
        "median time. The dotted "
        "line is where the recurrence of loading and computing times, layer by layer, puts the end (modelled). "
        "Intervals do not apply "
        "to one request; the bands of other figures are 95 % bootstrap intervals."
    )
    used = rows_used(own, ["span", "ttft", "ttft_recurrence"])
    return Drawing(fig, points, used, "Loading and recomputing, layer by layer", text)


def _mark_prediction(axes: Axes, own: Results, first: Any, load: float, depth: str) -> None:
    if not has(own, "ttft_recurrence"):
        return
    fixed = {"item": first["item"], "seed": first["seed"], LOAD: load, "factor.depth": depth}
    predicted = own.select(metric="ttft_recurrence", **fixed)["value"]
    if len(predicted):
        axes.axvline(float(predicted.iloc[0]), color="#333333", linestyle=":", label="predicted end (modelled)")


@figure("cacheblend", "pipeline_overlap", experiment="pipeline_gantt")
def pipeline_overlap(results: Results) -> Drawing:
    """TTFT with and without a pipeline, beside what the recurrence predicts."""
    need(results, "ttft")
    names = {
        "ttft": SeriesStyle("measured", "#D55E00", "o"),
        "ttft_recurrence": SeriesStyle("recurrence", "#0072B2", "s"),
        "ttft_bound": SeriesStyle("larger of loading and computing", "#009E73", "^"),
    }
    columns = list(panels_of(results))
    fig, grid = panels(1, len(columns), width_in=6.4)
    plotted = []
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        parts = [
            summarise(
                own.select(keep=[LOAD, "factor.depth", "series"], metric=metric), [LOAD, "factor.depth"], "median"
            ).assign(metric=metric)
            for metric in names
            if has(own, metric)
        ]
        points = pd.concat(parts, ignore_index=True)
        rank = points["factor.depth"].map(lambda depth: 99 if depth == "all" else int(depth))
        points = points.assign(rank=rank).sort_values([LOAD, "rank"], kind="stable").drop(columns="rank")
        pairs = zip(points[LOAD], points["factor.depth"], strict=True)
        ahead = {"0": "none", "all": "all"}
        points["place"] = [f"{ahead.get(depth, depth)} ahead\n{load:.2g} x" for load, depth in pairs]
        grouped_bars(axes, points, names, "place", by="metric")
        axes.set_title(title)
        axes.set_ylabel(LABELS["ttft"])
        axes.set_xlabel("layers loaded ahead; loading time / recomputing time")
        plotted.append(titled_points(points, title))
    legend(fig)
    text = (
        "Medians. The recurrence takes the measured loading and computing time of each layer and adds nothing "
        "else, so what lies "
        f"above it is the cost of two threads. {INTERVALS}"
    )
    used = rows_used(results, names)
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "What loading ahead saves", text)


@figure("cacheblend", "ttft_breakdown", experiment="ttft_breakdown")
def ttft_breakdown(results: Results) -> Drawing:
    """Where the time to first token goes, for each method and device."""
    need(results, "phase_time")
    method_styles = styles_of(results)
    columns = list(panels_of(results))
    used = rows_used(results, ["phase_time", "ttft"])
    styles = phase_styles(used.loc[used["metric"] == "phase_time", "factor.phase"])
    num_bars = used.groupby(["series", LOAD]).ngroups
    fig, grid = panels(1, len(columns), width_in=6.4, height_in=0.6 + 0.3 * num_bars)
    plotted = []
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        rows = own.select(keep=["series", LOAD, "factor.phase"], metric="phase_time")
        # A request in which a phase did not occur spent no time in it.
        sums = rows.groupby(["series", LOAD, "factor.phase"], sort=False)["value"].sum().reset_index()
        requests = rows.drop_duplicates(["series", LOAD, "item", "seed"]).groupby(["series", LOAD]).size()
        counts = requests.rename("requests").reset_index()
        points = sums.merge(counts, on=["series", LOAD]).rename(
            columns={LOAD: "load_over_recompute", "factor.phase": "phase"}
        )
        points = points.assign(
            value=points["value"] / points["requests"], basis="+".join(sorted(rows["basis"].unique()))
        )
        order = {name: place for place, name in enumerate(method_styles)}
        points = points.assign(rank=points["series"].map(order)).sort_values(
            ["load_over_recompute", "rank"], kind="stable"
        )
        places = zip(points["series"], points["load_over_recompute"], strict=True)
        points["bar"] = [
            f"{series}, " + ("memory" if load == 0 else f"load = {load:.2g} x recompute") for series, load in places
        ]
        stacked_bars(axes, points.drop(columns="rank"), styles, "bar", by="phase")
        axes.set_title(title)
        axes.set_xlabel(LABELS["ttft"])
        plotted.append(titled_points(points.drop(columns=["rank"]), title))
    legend(fig)
    text = (
        "Mean time of each phase on the computing thread; the parts of a bar add up to its time to first token "
        "but for what lies "
        "between phases. Reading by the loading thread shows only as waiting. No intervals: a 95 % bootstrap "
        "interval of the total is "
        "in the figure of storage devices."
    )
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Where the time to first token goes", text)


@figure("cacheblend", "loading_controller", experiment="loading_controller", paper_ref="Fig. 10")
def loading_controller(results: Results) -> Drawing:
    """Recomputing against loading time, the ratio that the controller picks, and the device."""
    need(results, "recompute_time")
    title, own = next(panels_of(results))
    fig, grid = panels(1, 3, width_in=3.5, height_in=2.8)
    left, middle, right = grid[0]
    forms = {
        "none": SeriesStyle("measured", "#D55E00", "o"),
        "paper": SeriesStyle("paper's form, r x prefill", "#0072B2", "s"),
        "layerwise": SeriesStyle("with layer 0 in full", "#009E73", "^"),
    }
    plotted = []
    rows = own.select(keep=["factor.ratio", "factor.form", "basis", "series"], metric="recompute_time")
    times = summarise(rows, ["factor.form", "factor.ratio"], "median").rename(columns={"factor.ratio": "ratio"})
    for form, style in forms.items():
        part = times[times["factor.form"] == form]
        if len(part):
            lines(left, part, {form: style}, "ratio", by="factor.form")
    plotted.append(times.assign(metric="recompute_time"))
    if has(own, "load_time"):
        loads = summarise(own.select(keep=[LOAD, "series"], metric="load_time"), [LOAD], "median")
        highest = float(times["value"].max())
        for load, value in zip(loads[LOAD], loads["value"], strict=True):
            if value <= 1.3 * highest:
                left.axhline(float(value), color="#56B4E9", linestyle=":", linewidth=1.2, label="loading (modelled)")
                left.annotate(f"{load:.2g} x", (1.0, float(value)), xycoords=("axes fraction", "data"), fontsize=7)
        plotted.append(loads.assign(metric="load_time"))
    left.set_xlabel(LABELS["ratio"])
    left.set_ylabel("time [s]")
    left.set_ylim(bottom=0)
    left.set_title(f"{title.partition(chr(10))[0]}\n{sample_size(own.frame)}")
    if has(own, "picked_ratio"):
        picked = summarise(
            own.select(keep=[LOAD, "factor.form", "series"], metric="picked_ratio"), ["factor.form", LOAD]
        )
        for form in ("paper", "layerwise"):
            part = picked[picked["factor.form"] == form]
            if len(part):
                lines(middle, part, {form: forms[form]}, LOAD, by="factor.form")
        paper_band(middle, 0.15, 0.15, "least ratio, r* = 0.15")
        middle.set_xlabel("loading time / recomputing time at r*")
        middle.set_ylabel("ratio picked")
        quality_axis(middle)
        middle.set_title("which ratio\nfor a given device")
        plotted.append(picked.assign(metric="picked_ratio"))
    plotted.append(_devices(right, own))
    legend(fig, max_columns=3)
    text = (
        "Left: time to recompute a share of the tokens, measured and by two formulas, beside the loading time of "
        "devices (numbers: multiples "
        "of recomputing 15 %). Middle: the controller takes the largest ratio that loading hides, never less "
        "than r*. Right: for r* it "
        f"takes the cheapest device that loads in time (ringed), or the fastest if none does. Medians. {INTERVALS}"
    )
    known = ["recompute_time", "load_time", "picked_ratio", "device_load_time", "device_cost", "is_picked"]
    return Drawing(
        fig, pd.concat(plotted, ignore_index=True), rows_used(own, known), "What the loading controller picks", text
    )


def _devices(axes: Axes, own: Results) -> pd.DataFrame:
    metrics = ("device_load_time", "device_cost", "is_picked")
    if not all(has(own, metric) for metric in metrics):
        axes.set_axis_off()
        return pd.DataFrame()
    keys = ["factor.device", "factor.form"]
    times, costs, picks = (
        summarise(own.select(keep=[*keys, "series"], metric=metric), keys).set_index(keys)["value"]
        for metric in metrics
    )
    points = pd.DataFrame({"load_s": times, "cost_usd": costs, "picked_share": picks}).reset_index()
    points = points.rename(columns={"factor.device": "device", "factor.form": "form"})
    shown = points.drop_duplicates("device")
    unknown = {name: np.full(len(shown), limit) for name, limit in (("low", -np.inf), ("high", np.inf))}
    marks = shown.assign(x=shown["load_s"], y=shown["cost_usd"], series="device", basis="modelled")
    marks = marks.assign(**{f"{axis}_{end}": unknown[end] for axis in "xy" for end in unknown})
    scatter(axes, marks, {"device": SeriesStyle("device", "#444444", "o")})
    for point in shown.to_dict("records"):
        axes.annotate(
            point["device"].replace("_", " "),
            (point["load_s"], point["cost_usd"]),
            (4, 5),
            textcoords="offset points",
            fontsize=7,
        )
    chosen = points[(points["form"] == "layerwise") & (points["picked_share"] >= 0.5)]
    axes.scatter(chosen["load_s"], chosen["cost_usd"], s=160, facecolors="none", edgecolors="#D55E00", label="picked")
    log_axis(axes, "x", "y")
    axes.margins(x=0.25, y=0.2)
    axes.set_xlabel("loading time [s]" + basis_suffix("modelled"))
    axes.set_ylabel("keeping it for a month [USD]")
    axes.set_title("which device\nfor r = r*")
    return points.assign(metric="device", basis="modelled")


@figure("cacheblend", "ttft_vs_rate", experiment="ttft_vs_rate", paper_ref="Fig. 14")
def ttft_vs_rate(results: Results) -> Drawing:
    """Mean and 99th percentile of TTFT against the request rate."""

    def frame(axes: Axes, _metric: str) -> None:
        log_axis(axes, "y")

    fig, points, used = draw_lines(
        results,
        "relative_rate",
        [("mean_ttft",), ("p99_ttft",)],
        xlabel="request rate / rate that full recompute could serve without waiting",
        adjust=frame,
        varying=["factor.rate_rps"],
    )
    text = (
        "Simulated: Poisson arrivals, chunks drawn by Zipf popularity, least recently used ones evicted, one "
        "server; the time of each "
        "hit pattern was measured with the real store. All methods see the same requests. Beyond a method's "
        "capacity the queue grows for "
        f"as long as the simulation lasts, so the height there means nothing. {INTERVALS}"
    )
    return Drawing(fig, points, used, "Time to first token under load", text)


@figure("cacheblend", "capacity", experiment="ttft_vs_rate", paper_ref="Fig. 14")
def capacity(results: Results) -> Drawing:
    """The request rate that each method sustains."""
    need(results, "capacity")
    styles = styles_of(results)
    columns = list(panels_of(results))
    fig, grid = panels(1, len(columns), width_in=4.6)
    plotted = []
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        points = summarise(own.select(keep=["series"], metric="capacity"), ["series"]).assign(place="")
        grouped_bars(axes, points, styles, "place")
        axes.set_title(title)
        axes.set_ylabel("capacity [requests/s]")
        plotted.append(titled_points(points.drop(columns="place").assign(metric="capacity"), title))
    legend(fig)
    text = (
        "The largest request rate at which the mean time to first token is at most twice that of an idle server. "
        "Simulated queue, "
        f"measured service times. {INTERVALS}"
    )
    used = rows_used(results, ["capacity"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Requests per second that can be served", text)
