"""What a run prints at its end: a table of what was found, the verdicts on the claims, and where the figures are."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.plotting.tables import interval
from common.results import Results
from common.stats import summarise
from experiments.console import say

# A few slow answers are not what a user waits for typically; all else is averaged.
_MEDIANS = ("ttft",)


def report(paper: str, results_dir: Path, figures_dir: Path, scale: str, experiments: Sequence[str]) -> None:
    """Print a table per experiment, redraw the paper's figures, and say what became of its claims; all to stdout."""
    from paper_figures import draw, summary

    stored = Results.load(results_dir, paper)
    if not len(stored):
        say("nothing to draw: no complete run is stored")
        return
    # A log has no width; a terminal narrower than the table gets it wrapped.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for experiment in experiments:
        own = stored.only(experiment=experiment, scale=scale)
        if len(own):
            for table in tables_of(own.newest()):
                console.print(table)
    drawn = draw(paper, results_dir, figures_dir, scale)
    lines = [f"figures (PNG, PDF, CSV of the points, caption) in {drawn.folder}:"]
    for outcome in drawn.figures:
        if outcome.status != "not run":
            lines.append(f"  {outcome.spec.name:<28} {outcome.message or outcome.spec.paper_ref or 'ours'}")
    if left := sum(outcome.status == "not run" for outcome in drawn.figures):
        lines.append(f"  {left} more need experiments that were not run; experiment=all runs them")
    if drawn.claims:
        lines.append(f"claims ({drawn.folder / 'claims.md'}):")
        lines += [f"  {summary(row)}" for row in drawn.claims if row.verdict not in ("not run", "not testable here")]
    if scale == "smoke":
        lines.append("scale=smoke shows that everything runs; its numbers are no result")
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def tables_of(results: Results) -> list[Table]:
    """One table per workload and model of an experiment: methods down, metrics across.

    Numbers that depend on swept factors are left to the figures: here they would be averages over the sweep.
    """
    tables = []
    frame = results.frame
    factors = [column for column in frame.columns if column.startswith("factor.")]
    plain = frame[frame[factors].isna().all(axis=1) & (frame["method"] != "")]
    for (experiment, workload, model), group in plain.groupby(["experiment", "workload", "model"], sort=False):
        title = f"{experiment} ({', '.join(str(part) for part in (workload, model) if part not in ('', 'none'))})"
        table = Table(title=title, title_justify="left", caption="mean or median with 95 % interval over items")
        table.add_column("method")
        metrics = list(dict.fromkeys(zip(group["metric"], group["unit"], group["basis"], strict=True)))
        for metric, unit, basis in metrics:
            average = "median " if metric in _MEDIANS else ""
            shown = "" if unit == "1" else f" / {unit}"
            table.add_column(f"{average}{metric}{shown}\n{basis}", justify="right")
        for series, rows in group.groupby("series", sort=False):
            cells = []
            for metric, unit, basis in metrics:
                own = rows[(rows["metric"] == metric) & (rows["unit"] == unit) & (rows["basis"] == basis)]
                found = summarise(own, [], "median" if metric in _MEDIANS else "mean")
                cells.append(interval(*found.iloc[0][["value", "low", "high"]]) if len(found) else "")
            table.add_row(str(series), *cells)
        tables.append(table)
    return tables
