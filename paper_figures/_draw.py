"""Redraw a paper's figures and claim table from stored results."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from common.errors import ConfigError, ResultsError
from common.plotting import save_figure, use_style
from common.plotting.save import SUFFIXES
from common.results import Results, write_atomically
from paper_figures._registry import FigureSpec, NothingToDraw, check_paper, figures_of
from paper_figures.claims import load_claims
from paper_figures.claims.table import (
    ClaimRow,
    count_verdicts,
    evaluate_claims,
    format_estimate,
    render,
    run_command,
    show_setting,
)

SCALES = ("smoke", "cpu", "gpu")


@dataclasses.dataclass(frozen=True)
class FigureOutcome:
    """What became of one figure: drawn, with its files; not run, with the command; or failed, with the reason."""

    spec: FigureSpec
    status: Literal["drawn", "not run", "failed"]
    paths: Sequence[Path] = ()
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `draw` did. `str()` is a summary for the console.

    Attributes:
        paper, scale, folder: what was drawn, and where the files are.
        figures: one outcome per registered figure.
        claims: one row per claim and setting.
    """

    paper: str
    scale: str
    folder: Path
    figures: Sequence[FigureOutcome]
    claims: Sequence[ClaimRow]

    @property
    def is_complete(self) -> bool:
        """Whether every figure was drawn and every claim that can be tested here has a verdict."""
        drawn = all(outcome.status == "drawn" for outcome in self.figures)
        return drawn and not any(row.verdict in ("not run", "cannot be computed") for row in self.claims)

    @property
    def has_failures(self) -> bool:
        """Whether stored results could not be drawn or judged."""
        failed = any(outcome.status == "failed" for outcome in self.figures)
        return failed or any(row.verdict == "cannot be computed" for row in self.claims)

    def __str__(self) -> str:
        drawn = [outcome for outcome in self.figures if outcome.status == "drawn"]
        lines = [
            f"{self.paper} (scale {self.scale}): {len(drawn)} of {len(self.figures)} figures drawn in {self.folder}"
        ]
        lines += [f"  {outcome.spec.name}: {outcome.message}" for outcome in self.figures if outcome.message]
        if self.claims:
            lines.append(f"  claims: {count_verdicts(self.claims)}; table in {self.folder / 'claims.md'}")
            lines += [f"    {summary(row)}" for row in self.claims]
        if self.scale == "smoke":
            lines.append("  smoke scale: this shows that it runs; it is not a result")
        return "\n".join(lines)


def summary(row: ClaimRow) -> str:
    """One line for the console: verdict, claim, the paper's number, ours."""
    text = f"{row.verdict:<18} {row.claim.statement}: paper {row.claim.paper}"
    if row.estimate is not None:
        text += f"; ours {format_estimate(row)} ({row.basis}; {show_setting(row.setting)})"
    return text


def draw(paper: str, results_root: Path, out_dir: Path, scale: str = "cpu") -> Report:
    """Redraw every figure and the claim table of a paper.

    Args:
        paper: the paper's name.
        results_root: where runs are stored (`results`); a missing folder reads as empty.
        out_dir: files go to `out_dir/<scale>/<paper>/`. Files of a figure that has no results any more are removed.
        scale: results of this scale only: smoke, cpu or gpu.

    Raises:
        UnknownName: no such paper.
        ConfigError: no such scale, or a faulty claims file.
        ResultsError: stored results are damaged.
    """
    if scale not in SCALES:
        raise ConfigError(f"scale={scale!r} is not a scale. Choose one of {', '.join(SCALES)}.")
    check_paper(paper)
    specs, claims = figures_of(paper), load_claims(paper)
    results = Results.load(results_root, paper)
    folder = out_dir / scale / paper
    outcomes = [_draw_figure(spec, results, folder, scale) for spec in specs]
    rows = evaluate_claims(paper, claims, results, scale)
    for name, text in render(paper, rows, scale).items():
        write_atomically(folder / name, text.encode())
    return Report(paper, scale, folder, outcomes, rows)


def _draw_figure(spec: FigureSpec, results: Results, folder: Path, scale: str) -> FigureOutcome:
    own = results.only(experiment=list(spec.experiments), scale=scale).newest() if len(results) else results
    command = f"not run: {run_command(spec.paper, spec.experiments[0], scale)}"
    try:
        if len(own):
            with use_style():
                drawing = spec.draw(own)
                records = results.records_of(drawing.rows)
                paths = save_figure(drawing, folder, spec.name, records, paper_ref=spec.paper_ref)
            return FigureOutcome(spec, "drawn", paths)
    except NothingToDraw as error:
        command = f"{command} ({error})"
    except ResultsError as error:
        _remove(folder, spec.name)
        return FigureOutcome(spec, "failed", message=f"FAILED: {error}")
    _remove(folder, spec.name)
    return FigureOutcome(spec, "not run", message=command)


def _remove(folder: Path, name: str) -> None:
    for suffix in SUFFIXES:
        (folder / f"{name}{suffix}").unlink(missing_ok=True)
