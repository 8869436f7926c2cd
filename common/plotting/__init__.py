"""One style, one way to save a figure, one table writer: what every figure of every paper is drawn with. No torch, no paper."""

from common.plotting.charts import (
    cdf_points,
    error_range,
    grouped_bars,
    legend,
    lines,
    log_axis,
    panels,
    paper_band,
    plain_styles,
    sample_size,
    scatter,
    stacked_bars,
)
from common.plotting.save import Drawing, caption, compact_range, describe_seeds, provenance, save_figure, signatures
from common.plotting.style import PAPER_GREY, SeriesStyle, basis_suffix, hatch, linestyle, series_styles, use_style
from common.plotting.tables import Column, interval, number, to_csv, to_latex, to_markdown

__all__ = [
    "PAPER_GREY",
    "Column",
    "Drawing",
    "SeriesStyle",
    "basis_suffix",
    "caption",
    "cdf_points",
    "compact_range",
    "describe_seeds",
    "error_range",
    "grouped_bars",
    "hatch",
    "interval",
    "legend",
    "lines",
    "linestyle",
    "log_axis",
    "number",
    "panels",
    "paper_band",
    "plain_styles",
    "provenance",
    "sample_size",
    "save_figure",
    "scatter",
    "series_styles",
    "signatures",
    "stacked_bars",
    "to_csv",
    "to_latex",
    "to_markdown",
    "use_style",
]
