"""Tables for people: one set of columns written as Markdown, CSV and LaTeX, with units and intervals.

columns = [Column("method"), Column("ttft", unit="s", low="ttft_low", high="ttft_high")]
to_markdown(frame, columns)      | method | ttft [s] | ... | CacheBlend | 0.412 (0.398-0.431) |
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: the frame's column.
        title: heading; the key if empty.
        unit: shown in the heading; the unit "1" is not.
        low, high: frame columns with the ends of an interval, shown behind the number.
        digits: significant digits of numbers; None shows text as it is.
    """

    key: str
    title: str = ""
    unit: str = ""
    low: str = ""
    high: str = ""
    digits: int | None = 3

    @property
    def heading(self) -> str:
        """Title with the unit in brackets."""
        title = self.title or self.key
        return f"{title} [{self.unit}]" if self.unit and self.unit != "1" else title


def number(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits and no exponent between 0.0001 and a million."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    exponent = int(f"{value:e}".partition("e")[2])
    if not -4 <= exponent < 6:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits - 1}e}")  # 0.9996 is shown as 1.00, not as 1.000
    places = max(0, digits - 1 - int(f"{rounded:e}".partition("e")[2]))
    return f"{value:,.{places}f}"


def interval(value: float, low: float, high: float, digits: int = 3, suffix: str = "") -> str:
    """A number with its interval, to the same decimal place: `2.61 (2.48 to 2.75)`.

    Without a finite interval: `2.61 (no interval)`. `suffix` is a unit, put behind the number: `2.61x (2.48 to 2.75)`.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{number(value, digits)}{suffix} (no interval)"
    largest = max(abs(x) for x in (value, low, high))
    if largest == 0 or not math.isfinite(largest):
        return f"{number(value, digits)}{suffix} ({number(low, digits)} to {number(high, digits)})"
    size = math.floor(math.log10(largest))
    if not -4 <= size < 6:
        return f"{number(value, digits)}{suffix} ({number(low, digits)} to {number(high, digits)})"
    places = max(0, digits - 1 - size)
    return f"{_fixed(value, places)}{suffix} ({_fixed(low, places)} to {_fixed(high, places)})"


def _fixed(value: float, places: int) -> str:
    text = f"{value:,.{places}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def _cell(row: Mapping[Any, Any], column: Column) -> str:
    value = row[column.key]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if column.digits is None or not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if column.low:
        return interval(float(value), float(row[column.low]), float(row[column.high]), column.digits)
    return f"{value:,}" if isinstance(value, int) else number(float(value), column.digits)


def _is_numeric(frame: pd.DataFrame, column: Column) -> bool:
    return column.digits is not None and pd.api.types.is_numeric_dtype(frame[column.key])


def _cells(frame: pd.DataFrame, columns: Sequence[Column]) -> list[list[str]]:
    return [[_cell(row, column) for column in columns] for row in frame.to_dict("records")]


def to_markdown(frame: pd.DataFrame, columns: Sequence[Column]) -> str:
    """A GitHub-flavoured Markdown table, numbers aligned to the right; ends with a newline."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = ["---:" if _is_numeric(frame, column) else "---" for column in columns]
    rows = [[column.heading for column in columns], *_cells(frame, columns)]
    return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])]) + "\n"


def to_latex(frame: pd.DataFrame, columns: Sequence[Column]) -> str:
    """A LaTeX tabular (booktabs) with escaped text; ends with a newline."""
    spec = "".join("r" if _is_numeric(frame, column) else "l" for column in columns)
    rows = [[column.heading for column in columns], *_cells(frame, columns)]
    lines = [" & ".join(map(latex_escape, row)) + r" \\" for row in rows]
    body = ["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"]
    return f"\\begin{{tabular}}{{{spec}}}\n" + "\n".join(body) + "\n\\end{tabular}\n"


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "∞": r"$\infty$"} | {
    character: "\\" + character for character in "&%$#_{}"
}


def latex_escape(text: str) -> str:
    """Text in which every character that LaTeX would interpret is escaped."""
    return "".join(_LATEX.get(character, character) for character in text)


def to_csv(frame: pd.DataFrame) -> str:
    """All columns of the frame at full precision, one header line, "\\n" line ends."""
    return frame.to_csv(index=False, lineterminator="\n")
