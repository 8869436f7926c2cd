"""The claim table: every claim of a paper against what is stored, with a computed verdict."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from common.errors import ResultsError, UndefinedStatistic
from common.plotting import Column, interval, number, to_csv, to_latex, to_markdown
from common.plotting.save import SCALE_NOTES, describe_code, describe_machine, describe_seeds
from common.results import Results
from common.stats import Estimate
from paper_figures.claims import VERDICTS, Claim, Verdict, judge, unit_of
from paper_figures.claims.evaluators import NoRows, samples_of

PANEL_KEYS = ("workload", "model", "data")
"""A claim gets one verdict for each combination of these: numbers of two models are never averaged."""


@dataclasses.dataclass(frozen=True)
class ClaimRow:
    """A claim in one setting.

    Attributes:
        claim: the claim.
        setting: workload, model, data and the claim's `per` keys; empty where there is no number.
        estimate: our number; None where there is none.
        num_items, seeds: what it rests on, e.g. 40 and "seeds 0-4".
        basis: "measured", "simulated", "modelled", or several joined with "+".
        verdict: computed.
        note: the command that makes a missing result, or why there is no verdict, or the claim's reason.
        records: the run records behind the number.
    """

    claim: Claim
    verdict: Verdict
    setting: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    estimate: Estimate | None = None
    num_items: int = 0
    seeds: str = ""
    basis: str = ""
    note: str = ""
    records: Sequence[Mapping[str, Any]] = ()


def run_command(paper: str, experiment: str, scale: str) -> str:
    """The command that makes the results of an experiment."""
    return f"python -m experiments.run +paper={paper} experiment={experiment}" + (
        "" if scale == "cpu" else f" scale={scale}"
    )


def evaluate_claims(paper: str, claims: Sequence[Claim], results: Results, scale: str) -> list[ClaimRow]:
    """One row per claim and setting.

    Args:
        paper: the paper's name.
        claims: its claims.
        results: all results of the paper.
        scale: use rows of this scale only.
    """
    of_experiment = functools.cache(lambda experiment: _stored(results, experiment, scale))
    return [row for claim in claims for row in _evaluate(paper, claim, of_experiment, scale)]


def _stored(results: Results, experiment: str, scale: str) -> Results:
    """The rows of one experiment, without the factors of the others: claims go through them many times."""
    if not len(results):
        return results
    own = results.only(experiment=experiment, scale=scale)
    unused = [name for name in own.frame.columns if name.startswith("factor.") and own.frame[name].isna().all()]
    return Results(own.frame.drop(columns=unused), own.records, own.skipped)


def _evaluate(paper: str, claim: Claim, of_experiment: Callable[[str], Results], scale: str) -> list[ClaimRow]:
    if claim.ours is None or (claim.not_testable and scale != "gpu"):
        return [ClaimRow(claim, "not testable here", note=claim.not_testable or "")]
    assert claim.experiment is not None
    command = run_command(paper, claim.experiment, scale)
    not_run = ClaimRow(claim, "not run", note=f"not run: `{command}`")
    stored = of_experiment(claim.experiment)
    if not len(stored):
        return [not_run]
    known = {column: value for column, value in claim.where.items() if column in stored.frame.columns}
    if len(known) < len(claim.where):
        return [dataclasses.replace(not_run, note=f"{not_run.note} (no rows with {set(claim.where) - set(known)})")]
    panels = stored.only(**known).newest(whole_runs=True)
    pooled = [column for column, value in claim.where.items() if isinstance(value, list) and column not in PANEL_KEYS]
    pooled += claim.pool
    keys = [*PANEL_KEYS, *claim.per]
    missing = [column for column in (*claim.per, *claim.pool) if column not in panels.frame.columns]
    if missing or not len(panels):
        return [not_run]
    rows = []
    for values, _ in panels.frame.groupby(keys, sort=True):
        setting = dict(zip(keys, values if isinstance(values, tuple) else (values,), strict=True))
        try:
            samples, units, used = samples_of(panels.only(**setting), claim.ours.sides, pooled)
            estimate = claim.ours.evaluate(samples, units)
        except NoRows as error:
            # A workload without this metric is no missing result, as long as another panel has it.
            rows.append(dataclasses.replace(not_run, setting=setting, note=f"{not_run.note} ({error})"))
            continue
        except UndefinedStatistic as error:
            rows.append(ClaimRow(claim, "not testable here", setting=setting, note=str(error)))
            continue
        except ResultsError as error:
            rows.append(ClaimRow(claim, "cannot be computed", setting=setting, note=str(error)))
            continue
        if estimate.num_units > 1:
            verdict, note = judge(estimate, claim), claim.reason or ""
        else:
            verdict = "not testable here"
            note = f"one item gives no interval; run it with num_items=5 or more: `{command} num_items=5`"
        rows.append(
            ClaimRow(
                claim,
                verdict,
                setting,
                estimate,
                int(used["item"].nunique()),
                describe_seeds(used["seed"].unique()),
                "+".join(sorted(used["basis"].unique())),
                "" if verdict == "holds" else note,
                stored.records_of(used),
            )
        )
    found = [row for row in rows if row.verdict != "not run"]
    return found or rows[:1] or [not_run]


def format_sample(row: ClaimRow) -> str:
    """What a number rests on, "40 items, seed 0"; "" where there is none."""
    estimate = row.estimate
    if estimate is None:
        return ""
    text = f"{row.num_items} items, {row.seeds}"
    return f"{text}; too few: the interval is too narrow" if estimate.has_few_units else text


def format_estimate(row: ClaimRow) -> str:
    """Our number with its interval in the paper's unit; "" where there is none."""
    estimate = row.estimate
    if estimate is None:
        return ""
    factor, suffix = unit_of(row.claim.paper.unit)
    return interval(estimate.value * factor, estimate.low * factor, estimate.high * factor, suffix=suffix)


def format_range(rows: Sequence[ClaimRow]) -> str:
    """The smallest and the largest of our numbers for one claim, in the paper's unit: "0.46x to 19.1x"; "" without a number."""
    numbers = sorted(row.estimate.value for row in rows if row.estimate is not None)
    if not numbers:
        return ""
    unit = rows[0].claim.paper.unit
    factor, suffix = unit_of(unit)
    low, high = (f"{number(value * factor)}{suffix}" for value in (numbers[0], numbers[-1]))
    return low if low == high else f"{low} to {high}"


def _frame(rows: Sequence[ClaimRow]) -> pd.DataFrame:
    def line(row: ClaimRow) -> dict[str, Any]:
        estimate, number = row.estimate, row.claim.paper
        return {
            "id": row.claim.id,
            "claim": row.claim.statement,
            "paper": str(number),
            "setting": show_setting(row.setting),
            "ours": format_estimate(row),
            "n": format_sample(row),
            "basis": row.basis,
            "verdict": row.verdict,
            "value": None if estimate is None else estimate.value,
            "low": None if estimate is None else estimate.low,
            "high": None if estimate is None else estimate.high,
            "num_units": None if estimate is None else estimate.num_units,
            "unit": number.unit,
            "bound": None if row.claim.expect is None else f"{row.claim.expect} {row.claim.bound:g}",
            "where": number.where,
            "note": row.note,
        }

    return pd.DataFrame([line(row) for row in rows])


def show_setting(setting: Mapping[str, Any]) -> str:
    """A setting in words: "multi_chunk_qa, model small, data bundled"."""
    parts = [
        str(value) if key == "workload" else f"{key.removeprefix('factor.').replace('_', ' ')} {_plain(value)}"
        for key, value in setting.items()
        if value not in ("", "none")
    ]
    return ", ".join(parts)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


_COLUMNS = [
    Column("claim", "Claim", digits=None),
    Column("paper", "Paper", digits=None),
    Column("setting", "Setting", digits=None),
    Column("ours", "Ours (95 % CI)", digits=None),
    Column("n", "n", digits=None),
    Column("basis", "Basis", digits=None),
    Column("verdict", "Verdict", digits=None),
]


_LEGEND = (
    "- Paper: the paper's own number, copied from it.",
    "- Ours: computed from stored rows when this table was made, with a 95 % bootstrap interval over items.",
    "- Basis: measured (on the machine named below), simulated (in virtual time), modelled (by a formula).",
    "- Verdict: *holds* if the whole interval reaches the paper's bound; *same direction* if it only excludes no effect; "
    "*does not hold* otherwise, also where the interval is too wide to tell.",
    "- Reasons are explanations of ours; one that names no figure was not tested.",
)


def count_verdicts(rows: Sequence[ClaimRow]) -> str:
    """How many rows have each verdict, e.g. "3 holds, 1 not run"."""
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in VERDICTS}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "no claims"


def note_lines(rows: Sequence[ClaimRow]) -> list[str]:
    """The reasons and missing results of these rows as list items, each once."""
    notes = dict.fromkeys((row.claim.id, row.claim.statement, row.verdict, row.note) for row in rows if row.note)
    return [f"- **{statement}** ({verdict}): {' '.join(note.split())}" for _, statement, verdict, note in notes]


def render(paper: str, rows: Sequence[ClaimRow], scale: str) -> dict[str, str]:
    """The claim table as `claims.md`, `claims.csv` and `claims.tex`: file name -> text."""
    frame = _frame(rows)
    lines = [f"# Claims of {paper}, scale {scale}", "", f"{count_verdicts(rows)}.", ""]
    if scale in SCALE_NOTES:
        lines += [f"**{SCALE_NOTES[scale]}**", ""]
    if not len(frame):
        return {"claims.md": "\n".join(lines)}
    lines.append(to_markdown(frame, _COLUMNS))
    notes = note_lines(rows)
    if notes:
        lines += ["## Reasons and missing results", "", *notes, ""]
    lines += ["## What the columns mean", "", *_LEGEND, ""]
    records = [record for row in rows for record in row.records]
    machines = dict.fromkeys(describe_machine(record.get("machine") or {}) for record in records)
    codes = dict.fromkeys(describe_code(record) for record in records)
    if records:
        lines += [f"Machine: {'; '.join(machines)}. Code: {'; '.join(codes)}.", ""]
    lines += ["Where the paper says it:", ""]
    lines += dict.fromkeys(f"- {row.claim.statement}: {row.claim.paper.where}" for row in rows)
    return {
        "claims.md": "\n".join(lines) + "\n",
        "claims.csv": to_csv(frame),
        "claims.tex": to_latex(frame, _COLUMNS),
    }
