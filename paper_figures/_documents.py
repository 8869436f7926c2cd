"""What the repository's own pages say about results, written by a command from the published runs: the claim ledger in README.md
and the index of tables and figures in docs/INDEX.md. A test checks that both are current.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.errors import ConfigError
from common.results import PUBLISHED, Results, write_atomically
from paper_figures._index import PAPERS, IndexRow, load_index, rows_of
from paper_figures._registry import papers
from paper_figures.claims import load_claims
from paper_figures.claims.table import ClaimRow, count_verdicts, evaluate_claims, format_estimate, show_setting

SCALE = "cpu"
_BEGIN, _END = "<!-- claims:begin -->", "<!-- claims:end -->"


def ledger(results_root: Path, scale: str = SCALE) -> dict[str, list[ClaimRow]]:
    """Every claim of every paper that is built, judged from stored runs.

    Args:
        results_root: a results folder; `results/published` for the committed ones alone.
        scale: rows of this scale only.
    """
    built = papers()
    return {
        paper: evaluate_claims(paper, load_claims(paper), Results.load(results_root, paper), scale)
        for paper in PAPERS
        if paper in built
    }


def ledger_markdown(rows_by_paper: dict[str, list[ClaimRow]]) -> str:
    """The ledger as one Markdown table, with a line of counts above it."""
    everything = [row for rows in rows_by_paper.values() for row in rows]
    lines = [
        f"{count_verdicts(everything)}.",
        "",
        "| paper | claim | paper's number | ours (95 % CI) | n | basis | verdict |",
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for paper, rows in rows_by_paper.items():
        for row in rows:
            setting = show_setting(row.setting)
            claim = f"{row.claim.statement}" + (f" ({setting})" if setting else "")
            count = "" if row.estimate is None else str(row.num_items)
            cells = [paper, claim, str(row.claim.paper), format_estimate(row), count, row.basis, row.verdict]
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def index_markdown(results_root: Path, scale: str = SCALE) -> str:
    """docs/INDEX.md: one table per paper, from the stored runs."""
    lines = [
        "# From every table and figure to one command",
        "",
        "Made by `python -m paper_figures --update-docs` from the committed runs; do not edit. Minutes are the wall time of",
        "those runs on the machine named in each run's `run.json` (two cores). What measured, simulated and modelled mean:",
        "[results.md](results.md). Numbering is that of the papers where it is known to us, else a description.",
    ]
    for paper in PAPERS:
        index = load_index(paper)
        lines += ["", f"## {paper}: {index.title}", "", f"{index.venue}, {index.link}.", ""]
        lines += ["| paper | shows | command | minutes | output | basis |", "| --- | --- | --- | --- | --- | --- |"]
        lines += [_index_line(row) for row in rows_of(index, Results.load(results_root, paper), scale)]
    return "\n".join(lines) + "\n"


def _index_line(row: IndexRow) -> str:
    if not row.command:
        return f"| {_cell(row.ref)} | {_cell(row.shows)} | not reproduced: {_cell(row.note)} | | | |"
    minutes = row.note if row.minutes is None else format_minutes(row.minutes)
    cells = [row.ref, row.shows, f"`{row.command}`", minutes, f"`{row.output}`", row.basis]
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def format_minutes(minutes: float) -> str:
    """0.4, 3.2, 15: enough digits to plan with."""
    return f"{minutes:.1f}" if minutes < 10 else f"{minutes:.0f}"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def update_documents(root: Path, *, check: bool = False) -> list[Path]:
    """Write the ledger into README.md and docs/INDEX.md.

    Args:
        root: the repository.
        check: write nothing.

    Returns:
        The files that were, or with `check` would be, changed.

    Raises:
        ConfigError: README.md is missing or has lost its two markers.
    """
    readme, index = root / "README.md", root / "docs" / "INDEX.md"
    published = root / "results" / PUBLISHED
    if not readme.is_file():
        raise ConfigError(f"{readme} does not exist; --update-docs works in a checkout of the repository.")
    text = readme.read_text(encoding="utf-8")
    if text.count(_BEGIN) != 1 or text.count(_END) != 1 or text.index(_BEGIN) > text.index(_END):
        raise ConfigError(f"{readme} needs the lines {_BEGIN} and {_END}, once each and in this order.")
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    new = {
        readme: f"{before}{_BEGIN}\n{ledger_markdown(ledger(published))}\n{_END}{after}",
        index: index_markdown(published),
    }
    return list(_write_changed(new.items(), check))


def _write_changed(files: Iterable[tuple[Path, str]], check: bool) -> Sequence[Path]:
    changed = []
    for path, text in files:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            changed.append(path)
            if not check:
                write_atomically(path, text.encode())
    return changed
