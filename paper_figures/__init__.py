"""Figures and claim tables of the papers, redrawn from stored results: no model, no torch, no rerun.

    python -m paper_figures [PAPER ...] [--scale smoke|cpu|gpu] [--results DIR] [--out DIR] [--check]

Every public module in this package is one paper; `claims/<paper>.yaml` holds what the paper claims.
"""

from paper_figures._draw import Report, draw, summary
from paper_figures._registry import FigureSpec, NothingToDraw, figure, figures_of, papers

__all__ = ["FigureSpec", "NothingToDraw", "Report", "draw", "figure", "figures_of", "papers", "summary"]
