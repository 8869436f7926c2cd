"""What the repository's own pages say about results, written by a command from the published runs: the claim ledger in README.md,
the same in full in docs/LEDGER.md, and the index of tables and figures in docs/INDEX.md. A test checks that they are current.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from common.errors import ConfigError
from common.results import PUBLISHED, Results, write_atomically
from paper_figures._index import PAPERS, IndexRow, load_index, rows_of
from paper_figures._registry import papers
from paper_figures.claims import VERDICTS, load_claims
from paper_figures.claims.table import (
    ClaimRow,
    count_verdicts,
    evaluate_claims,
    format_estimate,
    format_range,
    format_sample,
    note_lines,
    show_setting,
)

SCALE = "cpu"
_BEGIN, _END = "<!-- claims:begin -->", "<!-- claims:end -->"


def ledger(results: Mapping[str, Results], scale: str = SCALE) -> dict[str, list[ClaimRow]]:
    """Every claim of every paper that is built, judged from stored runs.

    Args:
        results: of each paper.
        scale: rows of this scale only.
    """
    built = papers()
    return {
        paper: evaluate_claims(paper, load_claims(paper), own, scale)
        for paper, own in results.items()
        if paper in built
    }


def ledger_markdown(rows_by_paper: dict[str, list[ClaimRow]]) -> str:
    """The ledger for a reader in a hurry: a line of counts, then one table row per claim.

    A claim that was judged in several settings (workloads, models, servers) is one row with the range of its numbers and the
    count of each verdict; every setting by itself stands in docs/LEDGER.md.
    """
    everything = [row for rows in rows_by_paper.values() for row in rows]
    claims = [group for rows in rows_by_paper.values() for group in _by_claim(rows)]
    lines = [
        f"{len(claims)} claims, judged in {len(everything)} settings: {count_verdicts(everything)}.",
        "",
        "| paper | claim | paper's number | ours (95 % CI) | n | basis | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for paper, rows in rows_by_paper.items():
        for group in _by_claim(rows):
            claim = group[0].claim
            cells = [paper, claim.statement, str(claim.paper), *_condensed(group)]
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _by_claim(rows: Sequence[ClaimRow]) -> list[list[ClaimRow]]:
    return [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.claim.id)]


def _condensed(group: Sequence[ClaimRow]) -> tuple[str, str, str, str]:
    """Our number, n, basis and verdict of one claim over its settings."""
    judged = [row for row in group if row.estimate is not None]
    basis = "+".join(sorted({part for row in judged for part in row.basis.split("+")}))
    counts = sorted({row.num_items for row in judged})
    n = "" if not counts else f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if len(group) == 1:
        return format_estimate(group[0]), n, basis, group[0].verdict
    ours = f"{format_range(judged)} in {len(judged)} settings" if judged else ""
    verdicts = {verdict: sum(row.verdict == verdict for row in group) for verdict in VERDICTS}
    if len(group) in verdicts.values():
        return ours, n, basis, group[0].verdict
    return ours, n, basis, ", ".join(f"{verdict} in {count}" for verdict, count in verdicts.items() if count)


def full_ledger_markdown(rows_by_paper: dict[str, list[ClaimRow]], scale: str = SCALE) -> str:
    """docs/LEDGER.md: every claim in every setting, with what it rests on and why it does not hold."""
    lines = [
        "# The claim ledger, in full",
        "",
        "Made by `python -m paper_figures --update-docs` from the committed runs; do not edit. One row per claim and setting,",
        f"all at scale `{scale}`. Verdicts: [claims.md](claims.md); how numbers are labelled: [results.md](results.md).",
    ]
    for paper, rows in rows_by_paper.items():
        index = load_index(paper)
        lines += ["", f"## {paper}: {index.title}", "", f"{count_verdicts(rows)}.", ""]
        lines += ["| claim | paper's number | setting | ours (95 % CI) | n | basis | verdict |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        for row in rows:
            claim, setting = row.claim, show_setting(row.setting)
            shown = format_estimate(row), format_sample(row), row.basis, row.verdict
            cells = [claim.statement, str(claim.paper), setting, *shown]
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        notes = note_lines(rows)
        if notes:
            lines += [
                "",
                "Reasons (explanations of ours; one that names no figure was not tested) and missing results:",
                "",
                *notes,
            ]
    return "\n".join(lines) + "\n"


def index_markdown(results: Mapping[str, Results], scale: str = SCALE) -> str:
    """docs/INDEX.md: one table per paper, from the stored runs."""
    lines = [
        "# From every table and figure to one command",
        "",
        "Made by `python -m paper_figures --update-docs` from the committed runs; do not edit. Minutes are the wall time of",
        "those runs on the machine named in each run's `run.json` (two cores). What measured, simulated and modelled mean:",
        "[results.md](results.md). Numbering is that of the papers where it is known to us, else a description.",
    ]
    for paper, own in results.items():
        index = load_index(paper)
        lines += ["", f"## {paper}: {index.title}", "", f"{index.venue}, {index.link}.", ""]
        lines += ["| paper | shows | command | minutes | output | basis |", "| --- | --- | --- | --- | --- | --- |"]
        lines += [_index_line(row) for row in rows_of(index, own, scale)]
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
    """Write the ledger into README.md and docs/LEDGER.md, and docs/INDEX.md.

    Args:
        root: the repository.
        check: write nothing.

    Returns:
        The files that were, or with `check` would be, changed.

    Raises:
        ConfigError: README.md is missing or has lost its two markers.
    """
    readme = root / "README.md"
    published = root / "results" / PUBLISHED
    if not readme.is_file():
        raise ConfigError(f"{readme} does not exist; --update-docs works in a checkout of the repository.")
    text = readme.read_text(encoding="utf-8")
    if text.count(_BEGIN) != 1 or text.count(_END) != 1 or text.index(_BEGIN) > text.index(_END):
        raise ConfigError(f"{readme} needs the lines {_BEGIN} and {_END}, once each and in this order.")
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    results = {paper: Results.load(published, paper) for paper in PAPERS}
    rows = ledger(results)
    new = {
        readme: f"{before}{_BEGIN}\n{ledger_markdown(rows)}\n{_END}{after}",
        root / "docs" / "LEDGER.md": full_ledger_markdown(rows),
        root / "docs" / "INDEX.md": index_markdown(results),
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
