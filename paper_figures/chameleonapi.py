"""The figures of ChameleonAPI, from stored rows. What each metric and factor means: chameleonapi/README.md."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from common.plotting import (
    PAPER_GREY,
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
from paper_figures._panels import need, rows_used, styles_of
from paper_figures._registry import figure

KIND, POINT = "factor.kind", "factor.operating_point"
KINDS = {"true_false": "True-or-False", "multi_choice": "Multi-Choice", "multi_select": "Multi-Select"}
POINTS = {
    "fixed": "threshold 0.5",
    "provider_wide": "one threshold for all apps",
    "tuned": "threshold tuned per app",
}
IDR = "incorrect decision rate"
APPS = "Bars and bands are 95 % bootstrap intervals over applications (all seeds of one together)."
PAPER = {  # Table 3
    "true_false": {"generic": 0.29, "categorized": 0.24, "chameleonapi_basic": 0.19, "chameleonapi": 0.13},
    "multi_choice": {"generic": 0.30, "categorized": 0.27, "chameleonapi_basic": 0.22, "chameleonapi": 0.16},
    "multi_select": {"generic": 0.34, "categorized": 0.31, "chameleonapi_basic": 0.27, "chameleonapi": 0.21},
}


ORDER = (
    "best_of_all", "generic", "categorized", "chameleonapi_basic", "basic_equal_steps", "threshold_only", "one_vs_rest",
    "chameleonapi",
)  # fmt: skip


def _styles(results: Results) -> dict[str, SeriesStyle]:
    """Styles in the order of the paper's legend, plug-ins after them."""
    found = styles_of(results)
    methods = _methods(results)

    def place(series: str) -> int:
        return ORDER.index(methods[series]) if methods.get(series) in ORDER else len(ORDER)

    return {name: found[name] for name in sorted(found, key=place)}


def _methods(results: Results) -> dict[str, str]:
    """The method of each series: a series may carry settings in its name."""
    pairs = results.frame[["series", "method"]].drop_duplicates()
    return dict(zip(pairs["series"], pairs["method"], strict=True))


def _paper_marks(axes: Axes, summary: pd.DataFrame, styles: dict[str, SeriesStyle], methods: dict[str, str]) -> None:
    """The paper's Table 3 as short grey lines over the bars of the same method."""
    groups = list(dict.fromkeys(summary["kind"]))
    shown = [methods[name] for name in styles if name in set(summary["series"])]
    width, label = 0.8 / max(1, len(shown)), "paper: Table 3"
    for kind, name in KINDS.items():
        for method, value in PAPER[kind].items():
            if name in groups and method in shown:
                at = groups.index(name) + (shown.index(method) - (len(shown) - 1) / 2) * width
                axes.plot(
                    [at - width / 2, at + width / 2],
                    [value, value],
                    color=PAPER_GREY,
                    linewidth=3,
                    label=label,
                    zorder=4,
                )
                label = "_nolegend_"


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(kind=rows[KIND].map(KINDS))


def _by_kind(results: Results, title: str) -> Drawing:
    need(results, "idr")
    styles = _styles(results)
    keep = ["series", KIND, "factor.order", POINT]
    rows = _named(results.select(keep=keep, metric="idr"))
    points = [p for p in POINTS if p in set(rows[POINT])]
    fig, grid = panels(len(points), 1, width_in=7.2, height_in=2.2)
    plotted = []
    for axes, point in zip(grid[:, 0], points, strict=True):
        own = rows[rows[POINT] == point]
        summary = summarise(own, ["kind", "series"])
        means = summarise(own.assign(kind="all"), ["kind", "series"])
        summary = pd.concat([summary, means], ignore_index=True)
        order = [*(k for k in KINDS.values() if k in set(summary["kind"])), "all"]
        summary["kind"] = pd.Categorical(summary["kind"], order, ordered=True)
        summary = summary.sort_values("kind", kind="stable").assign(kind=lambda t: t["kind"].astype(str))
        grouped_bars(axes, summary, styles, "kind")
        if point == points[0]:
            _paper_marks(axes, summary, styles, _methods(results))
        axes.set_ylabel(IDR)
        axes.set_title(POINTS[point])
        plotted.append(summary.assign(operating_point=point))
    legend(fig, max_columns=4)
    text = (
        "Share of test inputs on which the application decides otherwise than on the true labels; the mean "
        "over applications. Test "
        "inputs are balanced over an application's lists and none. The lowest panel's thresholds are chosen "
        "on validation, for every "
        "method by the same search. Grey lines: the paper's Table 3, for its own models, data and applications; only differences "
        f"between bars can be compared. {APPS}"
    )
    return Drawing(fig, pd.concat(plotted, ignore_index=True), rows_used(results, ["idr"]), title, text)


@figure("chameleonapi", "table3", experiment="incorrect_decisions", paper_ref="Table 3")
def table3(results: Results) -> Drawing:
    """Incorrect decision rate by kind of decision and method, at three operating points."""
    return _by_kind(results, "Incorrect decisions by kind of decision")


@figure("chameleonapi", "text_table3", experiment="text_decisions", paper_ref="Table 3")
def text_table3(results: Results) -> Drawing:
    """The same for applications of the text API."""
    return _by_kind(results, "Incorrect decisions of text applications")


@figure("chameleonapi", "per_application", experiment="incorrect_decisions")
def per_application(results: Results) -> Drawing:
    """Incorrect decision rate of each application, best provider, generic, basic and ChameleonAPI."""
    need(results, "idr")
    shown = ["best_of_all", "generic", "basic_equal_steps", "chameleonapi"]
    rows = results.select(keep=["series", KIND, "factor.order", POINT, "item"], metric="idr", method=shown)
    points = [p for p in ("fixed", "tuned") if p in set(rows[POINT])]
    styles = _styles(results)
    fig, grid = panels(len(points), 1, width_in=8.4, height_in=2.6)
    plotted = []
    for axes, point in zip(grid[:, 0], points, strict=True):
        own = summarise(rows[rows[POINT] == point], ["item", "series"])
        first = own[own["series"] == own["series"].iloc[0]].set_index("item")["value"]
        order = own.groupby("item")["value"].max().reindex(first.index).sort_values().index.tolist()
        own["item"] = pd.Categorical(own["item"], order, ordered=True)
        own = own.sort_values("item", kind="stable").assign(item=lambda t: t["item"].astype(str))
        grouped_bars(axes, own, styles, "item")
        axes.set_xticks(range(len(order)), [name.replace("_", " ") for name in order], rotation=40, ha="right")
        axes.set_ylabel(IDR)
        axes.set_title(POINTS[point])
        plotted.append(own.assign(operating_point=point))
    legend(fig)
    text = "Means over seeds, with 95 % bootstrap intervals over seeds where there are several."
    return Drawing(fig, pd.concat(plotted, ignore_index=True), rows_used(results, ["idr"]), "Each application", text)


@figure("chameleonapi", "remaining_errors", experiment="incorrect_decisions")
def remaining_errors(results: Results) -> Drawing:
    """What goes wrong at threshold 0.5: a list missed, the wrong list, a list where there is none."""
    need(results, "error_share")
    rows = results.select(keep=["series", KIND, "factor.order", "factor.error"], metric="error_share")
    parts = summarise(rows, ["series", "factor.error"])
    labels = {name: style.label for name, style in _styles(results).items()}
    parts = parts.assign(method=parts["series"].map(labels))
    styles = {
        "missed": SeriesStyle("list missed", "#0072B2", "o"),
        "wrong": SeriesStyle("wrong list", "#D55E00", "s"),
        "false": SeriesStyle("list without cause", "#E69F00", "^"),
    }
    fig, grid = panels(1, 1, width_in=6.4, height_in=2.8)
    stacked_bars(grid[0, 0], parts, styles, "method", by="factor.error")
    grid[0, 0].set_xlabel(f"{IDR}, mean over applications")
    legend(fig)
    return Drawing(fig, parts, rows_used(results, ["error_share"]), "What kind of error remains", "At threshold 0.5.")


@figure("chameleonapi", "threshold_sensitivity", experiment="incorrect_decisions")
def threshold_sensitivity(results: Results) -> Drawing:
    """Incorrect decision rate over the API's threshold, and over its output limit with tuned thresholds."""
    need(results, "idr_at_theta")
    shown = ["generic", "basic_equal_steps", "one_vs_rest", "chameleonapi"]
    styles = _styles(results)
    fig, grid = panels(1, 2, width_in=4.0, height_in=2.8)
    plotted = []
    for axes, metric, factor, label in (
        (grid[0, 0], "idr_at_theta", "theta", "threshold of the API"),
        (grid[0, 1], "idr_at_top_k", "top_k", "labels that the API returns at most (K)"),
    ):
        column = f"factor.{factor}"
        rows = results.select(keep=["series", KIND, "factor.order", column], metric=metric, method=shown)
        points = summarise(rows, ["series", column]).rename(columns={column: factor})
        lines(axes, points, styles, factor)
        axes.set_xlabel(label)
        axes.set_ylabel(IDR)
        plotted.append(points.rename(columns={factor: "x"}).assign(metric=metric))
    legend(fig)
    text = (
        f"Left: the model served at 0.5, at other thresholds. Right: threshold tuned on validation for each K. {APPS}"
    )
    used = rows_used(results, ["idr_at_theta", "idr_at_top_k"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "Threshold and output limit", text)


@figure("chameleonapi", "prevalence", experiment="incorrect_decisions")
def prevalence(results: Results) -> Drawing:
    """Incorrect decision rate over the share of test inputs without any list, at a fixed threshold and at tuned ones."""
    need(results, "idr_at_prevalence")
    shown = ["generic", "basic_equal_steps", "threshold_only", "chameleonapi"]
    keep = ["series", KIND, "factor.order", "factor.prevalence", POINT]
    rows = results.select(keep=keep, metric="idr_at_prevalence", method=shown)
    styles = _styles(results)
    points = [p for p in ("fixed", "tuned") if p in set(rows[POINT])]
    fig, grid = panels(1, len(points), width_in=4.0, height_in=2.8)
    plotted = []
    for axes, point in zip(grid[0], points, strict=True):
        own = summarise(rows[rows[POINT] == point], ["series", "factor.prevalence"])
        own = own.rename(columns={"factor.prevalence": "prevalence"})
        lines(axes, own, styles, "prevalence")
        axes.set_title(POINTS[point])
        axes.set_xlabel("share of inputs without any list")
        axes.set_ylabel(IDR)
        plotted.append(own.assign(operating_point=point))
    legend(fig)
    text = (
        f"Test inputs are reweighted; right, thresholds are tuned on validation inputs of the same prevalence. {APPS}"
    )
    used = rows_used(results, ["idr_at_prevalence"])
    return Drawing(fig, pd.concat(plotted, ignore_index=True), used, "How often there is nothing to find", text)


@figure("chameleonapi", "collateral", experiment="incorrect_decisions")
def collateral(results: Results) -> Drawing:
    """Mean average precision over all labels, over the application's labels, and the share of label errors that matter."""
    need(results, "label_map")
    styles = _styles(results)
    shown = ["generic", "chameleonapi_basic", "basic_equal_steps", "chameleonapi"]
    names = {
        "label_map": "mAP, all labels",
        "app_label_map": "mAP, the app's labels",
        "label_error_rate": "outputs with a label error",
        "critical_share": "of these, decision wrong",
    }
    tables = []
    for metric in names:
        rows = results.select(keep=["series", KIND, "factor.order"], metric=metric, method=shown)
        tables.append(summarise(rows, ["series"]).assign(metric=metric, what=names[metric]))
    points = pd.concat(tables, ignore_index=True)
    fig, grid = panels(1, 1, width_in=7.0, height_in=2.8)
    grouped_bars(grid[0, 0], points, styles, "what")
    grid[0, 0].set_ylabel("share")
    legend(fig)
    text = f"A customized model may forget labels that its application does not use. Outputs at threshold 0.5. {APPS}"
    return Drawing(fig, points, rows_used(results, list(names)), "What customization does to the labels", text)


@figure("chameleonapi", "confusion", experiment="incorrect_decisions")
def confusion(results: Results) -> Drawing:
    """True choice against taken choice of the recycling station, generic model and ChameleonAPI."""
    need(results, "confusion")
    own = results.only(metric="confusion")
    items = sorted(set(own.frame["item"]))
    item = "recycling_station" if "recycling_station" in items else items[0]
    rows = own.select(
        keep=["series", KIND, "factor.order", "factor.true", "factor.taken"], metric="confusion", item=item,
        method=["generic", "chameleonapi"],
    )  # fmt: skip
    points = summarise(rows, ["series", "factor.true", "factor.taken"])
    styles = _styles(results)
    series = [name for name in styles if name in set(points["series"])]
    choices = sorted(set(points["factor.true"].astype(str)), key=lambda c: (c == "none", c))
    fig, grid = panels(1, len(series), width_in=3.2, height_in=2.8)
    for axes, name in zip(grid[0], series, strict=True):
        mine = points[points["series"] == name]
        table = np.zeros((len(choices), len(choices)))
        for _, point in mine.iterrows():
            table[choices.index(str(point["factor.true"])), choices.index(str(point["factor.taken"]))] = point["value"]
        axes.imshow(table, cmap="Blues", vmin=0, vmax=max(0.25, float(table.max())))
        for (y, x), value in np.ndenumerate(table):
            axes.text(
                x,
                y,
                f"{100 * value:.0f}",
                ha="center",
                va="center",
                color="white" if value > 0.15 else "black",
                fontsize=8,
            )
        names = [c if c == "none" else f"list {int(c) + 1}" for c in choices]
        axes.set_xticks(range(len(choices)), names)
        axes.set_yticks(range(len(choices)), names)
        axes.grid(visible=False)
        axes.set_xlabel("choice taken")
        axes.set_ylabel("true choice")
        axes.set_title(styles[name].label)
    text = f"Application {item}; numbers are percent of all test inputs, at threshold 0.5; the diagonal is right."
    return Drawing(fig, points, rows, "Which choices are confused", text)


def _over(results: Results, factor: str, xlabel: str, title: str, text: str, *, is_log: bool = False) -> Drawing:
    need(results, "idr")
    column = f"factor.{factor}"
    rows = results.select(keep=["series", KIND, "factor.order", column, POINT], metric="idr")
    styles = _styles(results)
    points = [p for p in ("fixed", "tuned") if p in set(rows[POINT])]
    fig, grid = panels(1, len(points), width_in=4.0, height_in=2.8)
    plotted = []
    for axes, point in zip(grid[0], points, strict=True):
        own = summarise(rows[rows[POINT] == point], ["series", column]).rename(columns={column: factor})
        lines(axes, own, styles, factor)
        if is_log:
            log_axis(axes, "x")
        axes.set_title(POINTS[point])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(IDR)
        plotted.append(own.assign(operating_point=point))
    legend(fig)
    return Drawing(fig, pd.concat(plotted, ignore_index=True), rows_used(results, ["idr"]), title, f"{text} {APPS}")


@figure("chameleonapi", "training_size", experiment="training_size")
def training_size(results: Results) -> Drawing:
    """Incorrect decision rate over the number of training examples."""
    text = "All sizes are trained for the same number of steps."
    return _over(
        results, "train_size", "training examples per application", "Amount of training data", text, is_log=True
    )


@figure("chameleonapi", "capacity", experiment="capacity")
def capacity(results: Results) -> Drawing:
    """Incorrect decision rate over the width of the shared bottleneck."""
    text = "Numbers that all 40 labels share; 48 stands for no bottleneck. The paper's model shares 512 between 9,605 labels."
    return _over(results, "width", "width of the bottleneck", "Capacity of the generic model", text, is_log=True)


@figure("chameleonapi", "loss_ablation", experiment="loss_ablation")
def loss_ablation(results: Results) -> Drawing:
    """Incorrect decision rate for each variant of the loss."""
    need(results, "idr")
    rows = results.select(keep=["series", KIND, "factor.order", "factor.variant", POINT], metric="idr")
    points = summarise(rows, ["factor.variant", POINT]).assign(series=lambda t: t[POINT])
    order = list(dict.fromkeys(rows["factor.variant"]))
    points["factor.variant"] = pd.Categorical(points["factor.variant"], order, ordered=True)
    points = points.sort_values("factor.variant", kind="stable").assign(
        variant=lambda t: t["factor.variant"].astype(str)
    )
    styles = plain_styles(["fixed", "tuned"])
    styles = {k: SeriesStyle(POINTS[k], v.color, v.marker) for k, v in styles.items()}
    fig, grid = panels(1, 1, width_in=7.4, height_in=2.8)
    grouped_bars(grid[0, 0], points, styles, "variant")
    grid[0, 0].set_xticks(range(len(order)), order, rotation=40, ha="right")
    grid[0, 0].set_ylabel(IDR)
    legend(fig)
    text = (
        "One setting changed at a time; alpha 2 is the method's own. 'other order' and 'as true_false' train "
        "for another decision than "
        f"the application's, and exist for applications with several lists only. {APPS}"
    )
    return Drawing(
        fig, points.drop(columns="factor.variant"), rows_used(results, ["idr"]), "What the loss is made of", text
    )


@figure("chameleonapi", "cost", experiment="cost")
def cost(results: Results) -> Drawing:
    """Time to customize one application, and the validation error after each epoch of stage 2."""
    need(results, "training_time")
    styles = _styles(results)
    fig, grid = panels(1, 2, width_in=3.8, height_in=2.8)
    rows = results.select(keep=["series", "factor.stage"], metric="training_time")
    times = summarise(rows, ["series", "factor.stage"], "median").assign(
        stage=lambda t: "stage " + t["factor.stage"].astype(str)
    )
    grouped_bars(grid[0, 0], times, styles, "stage")
    grid[0, 0].set_ylabel("training time [s]")
    curve = summarise(
        results.select(keep=["series", "factor.epoch"], metric="validation_idr"), ["series", "factor.epoch"]
    )
    curve = curve.rename(columns={"factor.epoch": "epoch"})
    lines(grid[0, 1], curve, styles, "epoch")
    grid[0, 1].set_xlabel("epochs of stage 2")
    grid[0, 1].set_ylabel("validation " + IDR)
    grid[0, 1].set_xticks(sorted(set(curve["epoch"])))
    legend(fig)
    plotted = pd.concat(
        [times.assign(metric="training_time"), curve.assign(metric="validation_idr")], ignore_index=True
    )
    text = f"Stage 1 is shared by all trained methods. {APPS}"
    return Drawing(fig, plotted, rows_used(results, ["training_time", "validation_idr"]), "Cost of customization", text)


@figure("chameleonapi", "parsing", experiment="parsing")
def parsing(results: Results) -> Drawing:
    """Time to parse an application over the size of the API's vocabulary."""
    need(results, "parse_time")
    rows = results.select(keep=["factor.vocabulary", "item"], metric="parse_time")
    points = summarise(rows, ["factor.vocabulary"], "median").rename(columns={"factor.vocabulary": "vocabulary"})
    fig, grid = panels(1, 1, width_in=4.4, height_in=2.8)
    lines(grid[0, 0], points.assign(series="parser"), plain_styles(["parser"]), "vocabulary")
    grid[0, 0].set_xlabel("labels of the API")
    grid[0, 0].set_ylabel("time to parse an application [s]")
    grid[0, 0].set_ylim(bottom=0)
    return Drawing(
        fig, points, rows_used(results, ["parse_time"]), "Cost of parsing", f"Median over applications. {APPS}"
    )


@figure("chameleonapi", "serving_load", experiment="serving_load")
def serving_load(results: Results) -> Drawing:
    """Latency, rate and memory of the server, by how the applications' models are kept."""
    need(results, "latency")
    forms = ["generic", "shared_trunk", "separate"]
    names = {"generic": "generic only", "shared_trunk": "shared trunk", "separate": "own models"}
    keep = ["factor.form", "factor.num_apps", "factor.connections", "item"]
    rows = results.select(keep=keep, metric="latency")
    tables = []
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        found = rows.groupby(["factor.form", "seed", "item"])["value"].quantile(share).reset_index()
        own = found.groupby("factor.form")["value"].agg(["median", "min", "max"]).reset_index()
        own = own.rename(columns={"median": "value", "min": "low", "max": "high"})
        tables.append(own.assign(series=name, basis="measured"))
    latency = pd.concat(tables, ignore_index=True).assign(form=lambda t: t["factor.form"].map(names))
    order = [names[f] for f in forms if f in set(latency["factor.form"])]
    latency["form"] = pd.Categorical(latency["form"], order, ordered=True)
    latency = latency.sort_values("form", kind="stable").assign(form=lambda t: t["form"].astype(str))
    latency[["value", "low", "high"]] *= 1000
    fig, grid = panels(1, 3, width_in=3.0, height_in=2.8)
    grouped_bars(grid[0, 0], latency, plain_styles(["p50", "p99"]), "form")
    grid[0, 0].set_ylabel("latency [ms]")
    plotted = [latency.assign(metric="latency_ms")]
    for axes, metric, label, scale in (
        (grid[0, 1], "throughput", "requests per second", 1.0),
        (grid[0, 2], "memory", "weights in memory [MB]", 1e-6),
    ):
        rows = results.select(keep=keep, metric=metric)
        own = summarise(rows, ["factor.form"], "median").assign(
            form=lambda t: t["factor.form"].map(names), series="_all"
        )
        own[["value", "low", "high"]] *= scale
        own["form"] = pd.Categorical(own["form"], order, ordered=True)
        own = own.sort_values("form", kind="stable").assign(form=lambda t: t["form"].astype(str))
        grouped_bars(axes, own, plain_styles(["_all"]), "form")  # an underscore: no entry in the legend
        axes.set_ylabel(label)
        plotted.append(own.assign(metric=metric, series="all"))
    legend(fig)
    apps = int(rows["factor.num_apps"].max())
    text = (
        f"{apps} applications, several clients at a time on the machine of the server; whiskers of the latency: lowest and "
        "highest round."
    )
    return Drawing(
        fig,
        pd.concat(plotted, ignore_index=True),
        rows_used(results, ["latency", "throughput", "memory"]),
        "Serving",
        text,
    )
