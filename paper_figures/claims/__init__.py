"""What the papers claim, as data, and what our stored results say about it.

Each `<paper>.yaml` here is a list of claims. A claim names the paper's number, and an evaluator that computes ours from stored
rows (`paper_figures.claims.evaluators`); it never holds a number of ours. The verdict is computed by one rule, see `judge`.

    - id: cacheblend-ttft-full-recompute     # unique, starts with the paper's name
      statement: TTFT is lower than with full KV recompute
      paper: {low: 2.2, high: 3.3, unit: x, where: "abstract; 3 models, 4 datasets"}
      expect: at_least                       # at_least: paper.low is the bound; at_most: paper.high is
      experiment: ttft_vs_quality
      where: {workload: multi_chunk_qa}      # optional; column: value, or column: [values] to pool them
      per: [factor.num_chunks]               # optional; one verdict per value, as always for workload, model and data
      pool: [factor.layer]                   # optional; all values of these columns together
      ours: {ratio_of_medians: {metric: ttft, of: full_recompute, over: cacheblend}}
      no_effect: 1                           # optional; the evaluator knows: 1 for ratios, 0 for differences
      reason: why it fails here              # shown where the verdict is not "holds"
      not_testable: why not at this scale    # instead of, or beside `ours` (then `ours` counts at gpu scale only)
"""

import dataclasses
import difflib
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml

from common.errors import ConfigError
from common.stats import Estimate
from paper_figures.claims.evaluators import EVALUATORS, Evaluator

Verdict = Literal["holds", "same direction", "does not hold", "not testable here", "not run", "cannot be computed"]
VERDICTS: tuple[Verdict, ...] = (
    "holds",
    "same direction",
    "does not hold",
    "not testable here",
    "not run",
    "cannot be computed",
)

_REQUIRED = ("id", "statement", "paper")
_OPTIONAL = ("expect", "experiment", "ours", "where", "per", "pool", "no_effect", "reason", "not_testable")
_PAPER_KEYS = ("low", "high", "unit", "where")


def unit_of(unit: str) -> tuple[int, str]:
    """What a value is multiplied by to be shown in a unit, and what stands behind it."""
    return (100 if unit == "%" else 1), {"1": "", "x": "x", "%": " %"}.get(unit, f" {unit}")


@dataclasses.dataclass(frozen=True)
class PaperNumber:
    """The paper's own number: a range (either end may be open), its unit, and where the paper says it."""

    low: float | None
    high: float | None
    unit: str
    where: str

    def __str__(self) -> str:
        factor, unit = unit_of(self.unit)
        low, high = (None if end is None else f"{round(end * factor, 6):g}" for end in (self.low, self.high))
        if low is None and high is None:
            return "no number given"
        if low is None:
            return f"at most {high}{unit}"
        if high is None:
            return f"at least {low}{unit}"
        return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of a paper. See the module docstring for what the fields mean."""

    id: str
    statement: str
    paper: PaperNumber
    experiment: str | None = None
    ours: Evaluator | None = None
    expect: Literal["at_least", "at_most"] | None = None
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    per: tuple[str, ...] = ()
    pool: tuple[str, ...] = ()
    no_effect: float | None = None
    reason: str | None = None
    not_testable: str | None = None

    @property
    def bound(self) -> float:
        """The end of the paper's range that our interval must reach."""
        end = self.paper.low if self.expect == "at_least" else self.paper.high
        assert end is not None, "checked when loading"
        return end


def judge(estimate: Estimate, claim: Claim) -> Verdict:
    """The verdict on a claim, from our number's confidence interval.

    - "holds": the whole interval is on the claimed side of the paper's bound: for `at_least` its low end is >= paper.low,
      for `at_most` its high end is <= paper.high. A number beyond the paper's range in the claimed direction holds too.
    - "same direction": not that, but the whole interval is on the claimed side of "no effect" (1 for ratios, 0 for
      differences). Claims without a point of no effect (levels, losses) have no such verdict.
    - "does not hold": everything else, which includes intervals too wide to tell.
    """
    at_least = claim.expect == "at_least"
    sign = 1.0 if at_least else -1.0
    worst = sign * (estimate.low if at_least else estimate.high)
    if worst >= sign * claim.bound:
        return "holds"
    if claim.no_effect is not None and worst > sign * claim.no_effect:
        return "same direction"
    return "does not hold"


def load_claims(paper: str) -> list[Claim]:
    """The claims of a paper, in the order of its file; empty if it has none.

    Raises:
        ConfigError: the file has an unknown key, a missing one, an unknown evaluator or knob, or an id twice.
    """
    source = importlib.resources.files("paper_figures") / "claims" / f"{paper}.yaml"
    return parse_claims(source.read_text(encoding="utf-8"), f"claims/{paper}.yaml", paper) if source.is_file() else []


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, but a key given twice is an error, not silently the last one."""


def _mapping_without_repeats(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"line {node.start_mark.line + 1}: key {key!r} is given twice.")
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_repeats)


def parse_claims(text: str, source: str, paper: str) -> list[Claim]:
    """Parse and check a claims file.

    Args:
        text: YAML.
        source: how messages call it.
        paper: claim ids must start with this name.
    """
    try:
        entries = yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    except ConfigError as error:
        raise ConfigError(f"{source}, {error}") from error
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(
            f"{source}: a claims file is a list of mappings, each with the keys {', '.join(_REQUIRED)} ..."
        )
    claims = []
    for number, entry in enumerate(entries, start=1):
        at = f"{source}, claim {entry.get('id') or f'number {number}'}"
        try:
            claims.append(_parse(entry, paper))
        except ConfigError as error:
            raise ConfigError(f"{at}: {error}") from error
    ids = [claim.id for claim in claims]
    for claim_id in ids:
        if ids.count(claim_id) > 1:
            raise ConfigError(f"{source}: claim id {claim_id!r} is used twice.")
    return claims


def _parse(entry: Mapping[str, Any], paper: str) -> Claim:
    _check_keys(entry, (*_REQUIRED, *_OPTIONAL), "claim")
    for key in _REQUIRED:
        if not entry.get(key):
            raise ConfigError(f"{key!r} is missing.")
    for key in ("id", "statement", "experiment", "reason", "not_testable"):
        if key in entry and not isinstance(entry[key], str):
            raise ConfigError(f"{key}={entry[key]!r} must be text.")
    if not entry["id"].startswith(f"{paper}-"):
        raise ConfigError(f"id={entry['id']!r} must start with '{paper}-'.")
    number = _parse_paper(entry["paper"])
    ours = entry.get("ours")
    if ours is None:
        if "not_testable" not in entry:
            raise ConfigError("give 'ours' (how our number is computed) or 'not_testable' (why it cannot be).")
        for key in ("expect", "experiment", "where", "per", "pool", "no_effect"):
            if key in entry:
                raise ConfigError(f"{key!r} has no meaning without 'ours'.")
        return Claim(
            entry["id"], entry["statement"], number, not_testable=entry["not_testable"], reason=entry.get("reason")
        )
    evaluator = _parse_evaluator(ours)
    expect = entry.get("expect")
    if expect not in ("at_least", "at_most"):
        raise ConfigError(f"expect={expect!r} must be at_least or at_most.")
    if (number.low if expect == "at_least" else number.high) is None:
        raise ConfigError(f"expect: {expect} needs paper.{'low' if expect == 'at_least' else 'high'} as its bound.")
    if "experiment" not in entry:
        raise ConfigError("'experiment' is missing: the experiment whose rows 'ours' is computed from.")
    where, per, pool = entry.get("where", {}), entry.get("per", []), entry.get("pool", [])
    if not isinstance(where, dict) or not isinstance(per, list) or not isinstance(pool, list):
        raise ConfigError("'where' must be a mapping, 'per' and 'pool' lists of columns.")
    no_effect = entry.get("no_effect", evaluator.no_effect)
    if no_effect is not None and not _is_number(no_effect):
        raise ConfigError(f"no_effect={no_effect!r} must be a number or null.")
    return Claim(
        entry["id"],
        entry["statement"],
        number,
        entry["experiment"],
        evaluator,
        expect,
        where,
        tuple(per),
        tuple(pool),
        no_effect,
        entry.get("reason"),
        entry.get("not_testable"),
    )


def _parse_paper(entry: Any) -> PaperNumber:
    if not isinstance(entry, dict):
        raise ConfigError("'paper' must be a mapping with low, high, unit, where.")
    _check_keys(entry, _PAPER_KEYS, "paper")
    for key in ("unit", "where"):
        if not isinstance(entry.get(key), str):
            raise ConfigError(f"paper.{key} must be text (unit '1' for ratios and fractions).")
    low, high = entry.get("low"), entry.get("high")
    for key, end in (("low", low), ("high", high)):
        if end is not None and not _is_number(end):
            raise ConfigError(f"paper.{key}={end!r} must be a number.")
    if low is not None and high is not None and low > high:
        raise ConfigError(f"paper.low={low} is above paper.high={high}.")
    return PaperNumber(low, high, entry["unit"], entry["where"])


def _parse_evaluator(entry: Any) -> Evaluator:
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ConfigError(f"'ours' must be one evaluator with its arguments; known: {', '.join(EVALUATORS.names())}.")
    ((name, knobs),) = entry.items()
    if not isinstance(knobs, dict):
        raise ConfigError(f"ours.{name} needs arguments: {', '.join(EVALUATORS.knobs(name))}.")
    evaluator: Evaluator = EVALUATORS.create(name, **knobs)
    return evaluator


def _check_keys(entry: Mapping[Any, Any], allowed: Sequence[str], kind: str) -> None:
    for key in entry:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"unknown {kind} key {key!r}.{hint} Known: {', '.join(allowed)}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
