"""Drawing blocks on top of matplotlib's objects, without pyplot: no window, no global state.

All of them take points as `common.stats.summarise` makes them: columns value, low, high, basis, and the keys.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from common.errors import ResultsError
from common.plotting.save import describe_seeds
from common.plotting.style import MARKERS, PALETTE, PAPER_GREY, SeriesStyle, basis_suffix, hatch, linestyle

AxesGrid = npt.NDArray[Any]


def panels(
    num_rows: int = 1, num_columns: int = 1, *, width_in: float = 3.3, height_in: float = 2.6, **options: Any
) -> tuple[Figure, AxesGrid]:
    """A figure with a grid of axes; call under `use_style()`.

    Args:
        num_rows, num_columns: size of the grid.
        width_in, height_in: size of one panel in inches.
        options: for `Figure.subplots`, e.g. sharey=True.

    Returns:
        The figure, and its axes as an array of shape (num_rows, num_columns).
    """
    figure = Figure(figsize=(width_in * num_columns + 0.4, height_in * num_rows + 0.7), layout="constrained")
    return figure, figure.subplots(num_rows, num_columns, squeeze=False, **options)


def sample_size(rows: pd.DataFrame) -> str:
    """What stands behind numbers, for a panel's title: "n = 40, seeds 0-4"."""
    return f"n = {rows['item'].nunique()}, {describe_seeds(rows['seed'].unique())}"


def error_range(values: pd.Series, low: pd.Series, high: pd.Series) -> npt.NDArray[np.float64]:
    """Lengths of error bars, (2, N): below and above. An end that is not known (infinite) gets none."""
    below = (values - low).where(np.isfinite(low), 0.0)
    above = (high - values).where(np.isfinite(high), 0.0)
    return np.clip(np.stack([below.to_numpy(dtype=float), above.to_numpy(dtype=float)]), 0.0, None)


class _FewLogTicks(LogLocator):
    """Ticks of a logarithmic axis whose labels fit beside each other, however few decades are in view."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Several per decade for a narrow view, one per decade (or fewer) for a wide one."""
        decades = math.log10(vmax / vmin) if 0 < vmin < vmax else 1.0
        places = ((0.7, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)), (1.4, (1.0, 2.0, 5.0)), (2.5, (1.0, 3.0)), (math.inf, (1.0,)))
        self.set_params(subs=next(subs for most, subs in places if decades < most))
        return super().tick_values(vmin, vmax)


def log_axis(axes: Axes, *names: Literal["x", "y"]) -> None:
    """Make the named axes logarithmic, with a few plain labels (0.03, 0.1, 0.3) that do not overlap."""
    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(_FewLogTicks(numticks=6 if name == "x" else 9))
        axis.set_major_formatter(FuncFormatter(lambda value, _: _plain_or_power(value)))
        axis.set_minor_locator(NullLocator())


def _plain_or_power(value: float) -> str:
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    power = math.floor(math.log10(value) + 1e-9)
    lead = value / 10.0**power
    return f"$10^{{{power}}}$" if abs(lead - 1) < 1e-6 else f"${lead:g}\\!\\times\\!10^{{{power}}}$"


def scatter(axes: Axes, points: pd.DataFrame, styles: Mapping[str, SeriesStyle], x: str = "x", y: str = "y") -> None:
    """One point per series with intervals on both axes.

    Args:
        points: columns series, basis, and for both axes NAME, NAME_low, NAME_high.
    """
    for series, point in _by_series(points, styles):
        style, basis = styles[series], str(point["basis"].iloc[0])
        axes.errorbar(
            point[x],
            point[y],
            xerr=error_range(point[x], point[f"{x}_low"], point[f"{x}_high"]),
            yerr=error_range(point[y], point[f"{y}_low"], point[f"{y}_high"]),
            fmt=style.marker,
            color=style.color,
            markerfacecolor=style.color if basis == "measured" else "white",
            markersize=7,
            elinewidth=1.2,
            capsize=2.5,
            label=style.label + basis_suffix(basis),
            zorder=3,
        )


def lines(
    axes: Axes,
    points: pd.DataFrame,
    styles: Mapping[str, SeriesStyle],
    x: str,
    *,
    by: str = "series",
    band: bool = True,
) -> None:
    """One line per series, ordered by x, with its interval as a band.

    Args:
        points: columns `by`, `x`, value, low, high, basis.
        styles: by the values of column `by`; only those among them are drawn.
        band: draw the interval as a band; else as error bars.
    """
    for series, group in _by_series(points, styles, by):
        group = group.sort_values(x)
        style, basis = styles[series], "+".join(sorted(group["basis"].unique()))
        face = style.color if basis == "measured" else "white"
        look: dict[str, Any] = {"color": style.color, "linestyle": linestyle(basis), "markerfacecolor": face}
        label = style.label + basis_suffix(basis)
        if band:
            axes.plot(group[x], group["value"], marker=style.marker, label=label, zorder=3, **look)
            known = group[np.isfinite(group["low"]) & np.isfinite(group["high"])]
            axes.fill_between(
                known[x].astype(float),
                known["low"],
                known["high"],
                color=style.color,
                alpha=0.16,
                linewidth=0,
                zorder=2,
            )
        else:
            length = error_range(group["value"], group["low"], group["high"])
            axes.errorbar(
                group[x],
                group["value"],
                yerr=length,
                fmt=style.marker,
                capsize=2.5,
                elinewidth=1.2,
                label=label,
                zorder=3,
                **look,
            )


def grouped_bars(
    axes: Axes, points: pd.DataFrame, styles: Mapping[str, SeriesStyle], x: str, *, by: str = "series"
) -> None:
    """Groups of bars with intervals: one group per value of `x` (in order of appearance), one bar per series."""
    groups = list(dict.fromkeys(points[x]))
    shown = [series for series, _ in _by_series(points, styles, by)]
    width = 0.8 / max(1, len(shown))
    for place, series in enumerate(shown):
        own = points[points[by] == series]
        at = np.array([groups.index(value) for value in own[x]]) + (place - (len(shown) - 1) / 2) * width
        basis = "+".join(sorted(own["basis"].unique()))
        axes.bar(
            at,
            own["value"],
            width * 0.92,
            color=styles[series].color,
            hatch=hatch(basis),
            yerr=error_range(own["value"], own["low"], own["high"]),
            error_kw={"elinewidth": 1.0, "capsize": 2.0, "ecolor": "#333333"},
            label=styles[series].label + basis_suffix(basis),
            zorder=3,
        )
    axes.set_xticks(range(len(groups)), [str(group) for group in groups])
    axes.grid(axis="x", visible=False)


def stacked_bars(
    axes: Axes, points: pd.DataFrame, styles: Mapping[str, SeriesStyle], x: str, *, by: str = "series"
) -> None:
    """Horizontal bars, one per value of `x` from top to bottom, made of the parts in `by` in the order of `styles`."""
    bars = list(dict.fromkeys(points[x]))
    left = np.zeros(len(bars))
    for part, own in _by_series(points, styles, by):
        at = [bars.index(value) for value in own[x]]
        basis = "+".join(sorted(own["basis"].unique()))
        axes.barh(
            at,
            own["value"],
            0.62,
            left=left[at],
            color=styles[part].color,
            hatch=hatch(basis),
            label=styles[part].label + basis_suffix(basis),
            zorder=3,
        )
        left[at] += own["value"].to_numpy(dtype=float)
    axes.set_yticks(range(len(bars)), [str(bar) for bar in bars])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def cdf_points(values: npt.ArrayLike) -> pd.DataFrame:
    """The empirical distribution function as points: x, and the share of values <= x."""
    ordered, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
    return pd.DataFrame({"x": ordered, "share": np.cumsum(counts) / counts.sum()})


def paper_band(axes: Axes, low: float, high: float, label: str, *, vertical: bool = False) -> None:
    """A grey band (a grey line if low equals high) for numbers copied from a paper, labelled so.

    Args:
        label: what the numbers are; "paper: " is put in front.
    """
    span, line = (axes.axvspan, axes.axvline) if vertical else (axes.axhspan, axes.axhline)
    text = f"paper: {label}"
    if math.isclose(low, high):
        line(low, color=PAPER_GREY, linestyle=(0, (4, 2)), linewidth=1.2, label=text, zorder=1)
    else:
        span(low, high, color=PAPER_GREY, alpha=0.22, linewidth=0, label=text, zorder=1)


def legend(figure: Figure, *, max_columns: int = 4, title: str | None = None) -> None:
    """One legend under all panels, each label once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            # Of a point with error bars show the point alone.
            found.setdefault(label, handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle)
    if found:
        columns = min(max_columns, len(found))
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns, title=title)


def _by_series(
    points: pd.DataFrame, styles: Mapping[str, SeriesStyle], by: str = "series"
) -> list[tuple[str, pd.DataFrame]]:
    present = set(points[by])
    if present and present.isdisjoint(styles):
        # A panel without a single line looks like a result.
        raise ResultsError(
            f"none of {sorted(map(str, present))} has a style; styles are for {', '.join(map(repr, styles))}."
        )
    return [(series, points[points[by] == series]) for series in styles if series in present]


def plain_styles(names: Sequence[str], colors: Sequence[str] | None = None) -> dict[str, SeriesStyle]:
    """Styles for series that are no methods (layers, phases, devices): the palette in order, or a colour scale if many."""
    if colors is None and len(names) > len(PALETTE):
        colors = [to_hex(mpl.colormaps["viridis"](at)) for at in np.linspace(0, 0.92, len(names))]
    chosen = list(colors or PALETTE)
    return {
        str(name): SeriesStyle(str(name), chosen[place % len(chosen)], MARKERS[place % len(MARKERS)])
        for place, name in enumerate(names)
    }
