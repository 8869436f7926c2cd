"""RAGServe's figures of the serving side: the simulator's cost model, its delays beside a real engine's, its speed."""

import pandas as pd

from common.plotting import Drawing, SeriesStyle, grouped_bars, legend, lines, log_axis, panels
from common.results import Results
from common.stats import summarise
from paper_figures._panels import INTERVALS, has, need, panels_of, rows_used, titled_points
from paper_figures._registry import figure

KINDS = {
    "prefill": SeriesStyle("prompt only", "#0072B2", "o"),
    "decode": SeriesStyle("decoding only", "#D55E00", "s"),
    "both": SeriesStyle("both", "#009E73", "^"),
}
ENGINES = {
    "transformers": SeriesStyle("transformers' engine", "#333333", "o"),
    "simulator": SeriesStyle("simulator", "#D55E00", "s"),
}
PARTS = {
    "repeat_spread": SeriesStyle("repeats on the real engine, largest over smallest, less 1", "#333333", "o"),
    "mean_delay_error": SeriesStyle("simulator's mean delay against the engine's", "#D55E00", "s"),
    "scheduling_error": SeriesStyle("the same, with the engine's time for each iteration", "#0072B2", "^"),
}
"""What errors of a replay consist of."""
PATHS = {
    "sums": SeriesStyle("sums only, where nothing else changes", "#0072B2", "o"),
    "sequences": SeriesStyle("every iteration in full", "#E69F00", "s"),
}
ITERATIONS_WANTED = 50_000


@figure("ragserve", "engine_calibration", experiment="engine_calibration")
def engine_calibration(results: Results) -> Drawing:
    """Time of engine iterations: predicted by a fit that did not see them, against measured."""
    need(results, "iteration_time", "held_out_time")
    columns = list(panels_of(results))
    fig, grid = panels(1, len(columns), width_in=4.2, height_in=3.6)
    plotted = []
    for axes, (title, own) in zip(grid[0], columns, strict=True):
        keep = ["item", "seed", "factor.kind"]
        measured = own.select(keep=[*keep, *_BATCH], metric="iteration_time")
        held = own.select(keep=[*keep, *_BATCH], metric="held_out_time")[["item", "seed", "value"]]
        both = measured.merge(held.rename(columns={"value": "held_out_s"}), on=["item", "seed"])
        for kind, style in KINDS.items():
            part = both[both["factor.kind"] == kind]
            axes.scatter(
                1e3 * part["value"],
                1e3 * part["held_out_s"],
                s=24,
                color=style.color,
                marker=style.marker,
                label=f"{style.label} (n = {len(part)})",
                alpha=0.8,
                zorder=3,
            )
        low, high = (
            float(f(1e3 * both[["value", "held_out_s"]].to_numpy())) for f in ((lambda x: x.min()), (lambda x: x.max()))
        )
        axes.plot([low, high], [low, high], color="#333333", linewidth=1, label="equal")
        axes.plot([low, high], [1.1 * low, 1.1 * high], color="#999999", linewidth=0.8, linestyle=":", label="10 % off")
        axes.plot([low, high], [low / 1.1, high / 1.1], color="#999999", linewidth=0.8, linestyle=":")
        log_axis(axes, "x", "y")
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if 0.8 * low <= tick <= 1.25 * high]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("measured [ms of CPU time]")
        axes.set_ylabel("predicted when held out [ms]")
        error = own.select(keep=[*keep, *_BATCH], metric="held_out_error")["value"]
        axes.set_title(
            f"{title}\nerror: mean {error.mean():.1%}, median {error.median():.1%}, largest {error.max():.0%}"
        )
        shown = both[["item", "seed", "factor.kind", "value", "held_out_s", "basis"]]
        plotted.append(titled_points(shown.rename(columns={"factor.kind": "kind", "value": "measured_s"}), title))
    legend(fig, max_columns=3)
    text = (
        "One point per batch: so many prompt tokens behind so many others, so many sequences decoding over so many tokens. "
        "Measured: the fastest of several repeats of a whole engine iteration, in CPU time of one thread. Predicted: by the cost "
        "model fitted without this batch (every fifth batch is left out in turn). No intervals: each point is one number."
    )
    used = rows_used(results, ["iteration_time", "held_out_time", "held_out_error"])
    return Drawing(
        fig, pd.concat(plotted, ignore_index=True), used, "How well the simulator's cost model predicts", text
    )


_BATCH = [f"factor.{name}" for name in ("new", "past", "num_decode", "context", "prompts")]


@figure("ragserve", "engine_replay", experiment="engine_replay")
def engine_replay(results: Results) -> Drawing:
    """Delay of the same queries on the real engine and on the simulator."""
    need(results, "mean_delay")
    columns = [
        (f"{title.partition(chr(10))[0]}, pool of {int(pool)} tokens\n{title.partition(chr(10))[2]}", own, pool)
        for title, own in panels_of(results)
        for pool in sorted(own.frame["factor.pool_tokens"].dropna().unique(), reverse=True)
    ]
    metrics = {"mean_delay": "mean delay [s]", "p95_delay": "95th percentile [s]"}
    shown = [metric for metric in metrics if has(results, metric)]
    parts = [metric for metric in PARTS if has(results, metric)]
    fig, grid = panels(len(shown) + bool(parts), len(columns), width_in=3.6, height_in=2.3)
    plotted = []
    for column, (title, own, pool) in enumerate(columns):
        grid[0, column].set_title(title)
        for axes, metric in zip(grid[:, column], shown, strict=False):
            fixed = {"metric": metric, "factor.pool_tokens": pool}
            rows = own.select(keep=["factor.engine", "factor.load", "basis"], **fixed)
            points = summarise(rows, ["factor.engine", "factor.load"]).rename(columns={"factor.load": "load"})
            lines(axes, points, ENGINES, "load", by="factor.engine")
            axes.set_ylabel(metrics[metric])
            axes.set_ylim(0, 1.15 * float(points[["value", "high"]].replace(float("inf"), 0.0).to_numpy().max()))
            plotted.append(titled_points(points.assign(metric=metric, pool_tokens=pool), title))
        if parts:
            rows = own.select(keep=["metric", "factor.load", "basis"], **{"metric": parts, "factor.pool_tokens": pool})
            points = summarise(rows, ["metric", "factor.load"]).rename(columns={"factor.load": "load"})
            axes = grid[-1, column]
            lines(axes, points, PARTS, "load", by="metric")
            axes.axhline(0.15, color="#999999", linewidth=0.8, linestyle=":", label="aim: 15 %")
            axes.set_ylabel("relative error or spread")
            axes.set_ylim(bottom=0)
            plotted.append(titled_points(points.assign(pool_tokens=pool), title))
        grid[-1, column].set_xlabel("queries per second / capacity of the real engine")
    legend(fig, max_columns=2)
    text = (
        "Traces of queries that make one call, several at once, or several and then one over their answers. The simulator has "
        "the engine's pages and token budget, a cost model fitted to batches timed just before and after, and the answers "
        "that the engine gave. The engine's clock counts CPU time at the machine's usual speed: a fixed piece of work, timed "
        f"between iterations, says how slow it is. {INTERVALS} Items are traces."
    )
    used = rows_used(results, [*shown, *parts])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "The simulator beside a real engine", text)


@figure("ragserve", "simulator_speed", experiment="simulator_speed")
def simulator_speed(results: Results) -> Drawing:
    """Iterations per CPU second of the simulator, and how much faster than real time it is."""
    need(results, "iterations_per_s")
    columns = list(panels_of(results))
    fig, grid = panels(len(columns), 2, width_in=3.8, height_in=2.6)
    labels = {"iterations_per_s": "iterations per CPU second", "times_real_time": "simulated / CPU time"}
    plotted = []
    for row, (title, own) in zip(grid, columns, strict=True):
        for axes, metric in zip(row, labels, strict=True):
            rows = own.select(keep=["factor.dataset", "factor.path"], metric=metric)
            points = summarise(rows, ["factor.path", "factor.dataset"]).rename(columns={"factor.dataset": "dataset"})
            grouped_bars(axes, points, PATHS, "dataset", by="factor.path")
            axes.set_ylabel(labels[metric])
            log_axis(axes, "y")
            axes.set_title(title if metric == "iterations_per_s" else "queries as in Table 1")
            plotted.append(titled_points(points.assign(metric=metric), title))
        row[0].axhline(ITERATIONS_WANTED, color="#333333", linewidth=1, linestyle="--", label="aim: 50,000 per second")
        row[1].axhline(100, color="#333333", linewidth=1, linestyle=":", label="aim: 100 times real time")
    legend(fig, max_columns=2)
    text = (
        "A simulated A40 with a 7B model at two queries per second, lengths from the paper's Table 1. Both ways of advancing "
        "give the same numbers; the first does not look at sequences while only sums change. Vertical axes are logarithmic. "
        f"{INTERVALS}"
    )
    used = rows_used(results, list(labels))
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Speed of the simulator", text)
