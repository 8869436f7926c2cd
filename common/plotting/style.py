"""One look for every figure: fonts and lines, how a method looks, how the basis of a number shows.

A method's colour and marker come from the run record (`record["styles"]`, written from its registration), so drawing needs
no paper package and a stranger's plug-in is drawn like our own methods. What a number rests on is visible too: measured
series have solid lines and full markers, simulated ones dashed lines and hollow markers, modelled ones dotted lines and
hatched bars; numbers copied from a paper are grey and say so.
"""

import colorsys
import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib as mpl
import matplotlib.style
import pandas as pd
from matplotlib.colors import to_hex, to_rgb

PAPER_GREY = "#8A8A8A"
"""Colour of every number that was copied from a paper, and of nothing else."""

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so figures are the same on every machine
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "pdf.fonttype": 42,
    "hatch.linewidth": 0.6,
    "hatch.color": "white",
    "svg.hashsalt": "ninefold",
}

_LINESTYLES = {"measured": "-", "simulated": "--", "modelled": ":"}
_HATCHES = {"measured": "", "simulated": "....", "modelled": "////"}
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#5E4FA2")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")


@dataclasses.dataclass(frozen=True)
class SeriesStyle:
    """How one series is drawn."""

    label: str
    color: str
    marker: str


def use_style() -> Any:
    """A context manager under which figures must be made and saved; settings outside of it are untouched."""
    # "default" first: a matplotlibrc in the user's home must not change our figures.
    return mpl.style.context(["default", STYLE])


def linestyle(basis: str) -> str:
    """The line style of a basis; a mixture ("measured+modelled") looks like its weakest part."""
    return _LINESTYLES[_weakest(basis)]


def hatch(basis: str) -> str:
    """The bar hatch of a basis; a mixture looks like its weakest part."""
    return _HATCHES[_weakest(basis)]


def basis_suffix(basis: str) -> str:
    """What to append to a legend label: nothing for measured numbers, the basis for all others."""
    return "" if basis == "measured" else f" ({basis.replace('+', ', ')})"


def _weakest(basis: str) -> str:
    parts = basis.split("+")
    return max(parts, key=list(_LINESTYLES).index)


def series_styles(rows: pd.DataFrame, records: Iterable[Mapping[str, Any]]) -> dict[str, SeriesStyle]:
    """Label, colour and marker of every series among result rows.

    Variants of one method (other knobs) keep its marker and take lighter and lighter shades of its colour, in the order of
    their knobs' values. Methods that registered the same look are told apart by another marker.

    Args:
        rows: result rows with columns `series`, `method` and `method_args`.
        records: run records that hold `styles`, oldest first; the newest wins.

    Returns:
        Styles by series, in the order in which legends should show them: as in the records, then by variant.
    """
    registered: dict[str, Mapping[str, Any]] = {}
    for record in records:
        registered.update(record.get("styles") or {})
    present = rows[["series", "method", "method_args"]].drop_duplicates(["series"])
    methods = [
        *(m for m in registered if m in set(present["method"])),
        *sorted(set(present["method"]) - set(registered)),
    ]
    styles: dict[str, SeriesStyle] = {}
    taken: set[tuple[str, str]] = set()
    for index, method in enumerate(methods):
        own = registered.get(method, {})
        color = to_hex(own.get("color", PALETTE[index % len(PALETTE)]))
        marker = own.get("marker", MARKERS[index % len(MARKERS)])
        if (color, marker) in taken:
            marker = next((m for m in MARKERS if (color, m) not in taken), marker)
        taken.add((color, marker))
        variants = present[present["method"] == method]
        order = sorted(zip(map(_sort_key, variants["method_args"]), variants["series"], strict=True))
        ordered = [series for _, series in order]
        for place, series in enumerate(ordered):
            styles[series] = SeriesStyle(series, shade(color, place, len(ordered)), marker)
    return styles


def _sort_key(method_args: str) -> list[tuple[str, int, float, str]]:
    args = json.loads(method_args)
    return [
        (name, 0, float(value), "") if isinstance(value, int | float) else (name, 1, 0.0, json.dumps(value))
        for name, value in sorted(args.items())
    ]


def shade(color: str, place: int, num: int) -> str:
    """The `place`-th of `num` shades of a colour, from the colour itself to a light one that still shows on white."""
    if num <= 1:
        return to_hex(color)
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(color))
    target = max(lightness, 0.74)
    return to_hex(colorsys.hls_to_rgb(hue, lightness + (target - lightness) * place / (num - 1), saturation))
