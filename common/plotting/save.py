"""Save a figure with everything needed to judge and to cite it: PNG, PDF, the plotted points as CSV, a caption.

Files are written whole or not at all, the caption last. The same points give the same bytes: no date is stored in them.
"""

import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from common.plotting.style import use_style
from common.plotting.tables import to_csv
from common.results import write_atomically

SUFFIXES = (".png", ".pdf", ".csv", ".md")

SCALE_NOTES = {
    "smoke": "Smoke scale: shows that it runs, not a result.",
    "cpu": "CPU scale: a small model and small inputs on a CPU; absolute numbers are those of this machine.",
    "gpu": "GPU scale: the paper's setting, as far as the model and data named below are.",
}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What a figure function hands back.

    Attributes:
        figure: the matplotlib figure (made without pyplot).
        points: exactly the numbers that were plotted, one row each, tidy.
        rows: the result rows that they were computed from; n, seeds, basis and machine are taken from here.
        title: one line: what is shown.
        text: a few sentences: how to read it, what the intervals are. Markdown.
        notes: further remarks, e.g. what could not be drawn and how to get it.
    """

    figure: Figure
    points: pd.DataFrame
    rows: pd.DataFrame
    title: str
    text: str = ""
    notes: Sequence[str] = ()


def save_figure(
    drawing: Drawing, folder: Path, name: str, records: Sequence[Mapping[str, Any]], *, paper_ref: str = ""
) -> list[Path]:
    """Write `folder/name.{png,pdf,csv,md}`.

    Args:
        drawing: what to save.
        folder: created if missing.
        name: file name without suffix.
        records: records of the runs behind `drawing.rows`, oldest first.
        paper_ref: the paper's own figure or table, e.g. "Fig. 12".

    Returns:
        The four paths.
    """
    contents = {
        ".png": _render(drawing.figure, "png", {"Software": None}),
        ".pdf": _render(drawing.figure, "pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
        ".csv": to_csv(drawing.points).encode(),
        ".md": caption(drawing, name, records, paper_ref=paper_ref).encode(),
    }
    paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    for path in paths:
        write_atomically(path, contents[path.suffix])
    return paths


def _render(figure: Figure, kind: str, metadata: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with use_style():
        figure.savefig(buffer, format=kind, metadata=dict(metadata), bbox_inches="tight", pad_inches=0.08)
    return buffer.getvalue()


def caption(drawing: Drawing, name: str, records: Sequence[Mapping[str, Any]], *, paper_ref: str = "") -> str:
    """The caption file: title, text, provenance and signatures, as Markdown."""
    rows = drawing.rows
    scale = _join(rows["scale"])
    heading = drawing.title + (f" ({paper_ref})" if paper_ref else "")
    lines = [f"# {heading}", "", f"![{drawing.title}]({name}.png)", ""]
    if scale in SCALE_NOTES:
        lines += [f"**{SCALE_NOTES[scale]}**", ""]
    if drawing.text:
        lines += [drawing.text.strip(), ""]
    lines += [f"> {note}\n" for note in drawing.notes]
    lines += ["| | |", "| --- | --- |"]
    lines += [f"| {key} | {_one_line(value)} |" for key, value in provenance(rows, records).items()]
    lines += [
        "",
        f"Plotted points: [{name}.csv]({name}.csv). Cite as:",
        "",
        "```",
        *signatures(rows, records),
        "```",
        "",
    ]
    return "\n".join(lines)


def provenance(rows: pd.DataFrame, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What a reader needs in order to judge numbers: n, seeds, basis, machine, code, command; label -> text."""
    machines = dict.fromkeys(describe_machine(record.get("machine") or {}) for record in records)
    commits = dict.fromkeys(describe_code(record) for record in records)
    inputs = {name: digest for record in records for name, digest in (record.get("inputs") or {}).items()}
    facts = {
        "items (n)": _counts(rows.groupby("workload")["item"].nunique()),
        "seeds": compact_range(rows["seed"].unique()),
        "basis": "; ".join(f"{metric}: {_join(group['basis'])}" for metric, group in rows.groupby("metric")),
        "scale": _join(rows["scale"]),
        "model": _join(rows["model"]),
        "data": _join(rows["data"]),
        "machine": "; ".join(machines),
        "code": "; ".join(commits),
        "runs": f"{len(records)}, finished {_period(records)}",
        "command": "; ".join(f"`{c}`" for c in dict.fromkeys(str(r["command"]) for r in records if r.get("command"))),
        "inputs (SHA-256)": "; ".join(f"{name} {digest[:12]}" for name, digest in sorted(inputs.items())),
    }
    return {key: value for key, value in facts.items() if value}


def signatures(rows: pd.DataFrame, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line per metric that says which number this is.

    `cacheblend|ttft@1|multi_chunk_qa|model:small|scale:cpu|n:200|s:0-4|basis:measured|v:0.1.0`
    """
    versions = ",".join(dict.fromkeys(str(record.get("version") or "?") for record in records)) or "?"
    found = []
    for (paper, metric), group in rows.groupby(["paper", "metric"], sort=True):
        version = "" if "@" in str(metric) else "@1"
        workload, basis = _join(group["workload"], ","), _join(group["basis"], ",")
        found.append(
            f"{paper}|{metric}{version}|{workload or '-'}|model:{_join(group['model'], ',')}"
            f"|scale:{_join(group['scale'], ',')}|n:{group['item'].nunique()}|s:{compact_range(group['seed'].unique())}"
            f"|basis:{basis}|v:{versions}"
        )
    return found


def describe_machine(machine: Mapping[str, Any]) -> str:
    """One phrase for the machine facts of a run record."""
    parts = [str(machine.get("cpu_model") or "unknown CPU")]
    if cores := machine.get("cpu_cores") or machine.get("cores"):
        parts.append(f"{cores} cores")
    if threads := machine.get("threads_used"):
        parts.append(f"{threads} compute threads")
    if gpu := machine.get("gpu_name") or machine.get("gpu"):
        parts.append(str(gpu))
    return ", ".join(parts)


def describe_code(record: Mapping[str, Any]) -> str:
    """One phrase for the version, commit and state of the code behind a run record."""
    git = record.get("git") or {}
    commit = str(git.get("commit") or "")[:12]
    changed = " with uncommitted changes" if git.get("is_dirty") else ""
    return f"ninefold {record.get('version') or '?'}" + (f", commit {commit}{changed}" if commit else "")


def compact_range(numbers: Iterable[int]) -> str:
    """Sorted whole numbers in short: 0-4 for 0 1 2 3 4, and 0-1,5 for 0 1 5."""
    runs: list[list[int]] = []
    for value in sorted({int(number) for number in numbers}):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def describe_seeds(seeds: Iterable[int]) -> str:
    """Seeds in words: "seed 3", or "seeds 0-4"."""
    text = compact_range(seeds)
    return f"seed {text}" if text.isdigit() else f"seeds {text}"


def _join(column: pd.Series, separator: str = ", ") -> str:
    return separator.join(sorted(str(value) for value in column.unique()))


def _counts(numbers: pd.Series) -> str:
    return "; ".join(f"{workload}: {count}" if workload else str(count) for workload, count in numbers.items())


def _period(records: Sequence[Mapping[str, Any]]) -> str:
    days = sorted({str(record.get("finished_at", ""))[:10] for record in records})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else ""


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")
