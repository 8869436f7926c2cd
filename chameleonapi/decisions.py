"""Decision processes: what an application does with the answer of an ML API, as data.

A `DecisionSummary` is the only thing that the provider needs to know about an application; the parser makes one from source. Its
`decide` is the reference implementation of the decision semantics: parser, training, evaluation and serving all mean
what it says (`chameleonapi.semantics` is the same, vectorised over a batch of scores).

Source: ChameleonAPI, decision processes (True-or-False, Multi-Choice, Multi-Select) and matching orders.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from common.errors import ConfigError

KINDS = ("true_false", "multi_choice", "multi_select", "numeric", "constant", "unsupported")
ORDERS = ("api_first", "api_last", "app_choice")


@dataclass(frozen=True)
class Span:
    """A place in the source of an application; `text` is the source line."""

    path: str
    line: int
    column: int = 0
    text: str = ""


@dataclass(frozen=True)
class Threshold:
    """Scores that count: `score op value`, on the API's own scale (Google 0 to 1, Rekognition 0 to 100)."""

    op: str
    value: float

    def __post_init__(self) -> None:
        if self.op not in (">", ">="):
            raise ConfigError(f"threshold operator {self.op!r} is not known. Use '>' or '>='.")

    def passes(self, score: float) -> bool:
        """True if a label with this score counts."""
        return score > self.value if self.op == ">" else score >= self.value


@dataclass(frozen=True)
class TargetList:
    """One choice of an application and the labels that lead to it.

    Attributes:
        id: position in the order in which the application tests its lists, from 0.
        labels: members of the API's vocabulary, in vocabulary order: the predicate of the source evaluated over it.
        clauses: the list is matched if every clause has a member in the output. One clause, equal to `labels`, is the
            ordinary case; several are a conjunction ("bottle and plastic").
        unless: labels whose presence keeps the list from matching.
        threshold: what a member's score must reach in the application; None if every label of the output counts.
        label_thresholds: thresholds of single members that differ from `threshold`.
        predicate: the test in words.
        outcome: what the application does, in words.
        unknown_labels: texts that the source tests for and that this API's vocabulary does not have.
        group: lists that come from one test and differ only in the label's text have the same group.
        label_echo: the outcome repeats the label, so each label is a choice of its own.
        source: where in the source the labels are tested and the outcome is produced.
    """

    id: int
    labels: tuple[str, ...]
    clauses: tuple[tuple[str, ...], ...] = ()
    unless: tuple[str, ...] = ()
    threshold: Threshold | None = None
    label_thresholds: dict[str, Threshold] = field(default_factory=dict)
    predicate: str = ""
    outcome: str = ""
    unknown_labels: tuple[str, ...] = ()
    group: int = 0
    label_echo: bool = False
    source: tuple[Span, ...] = ()

    @property
    def combine(self) -> str:
        """ "all" for a conjunction, else "any"."""
        return "all" if len(self.clauses) > 1 else "any"

    def threshold_of(self, label: str) -> Threshold | None:
        """The threshold that applies to one member."""
        return self.label_thresholds.get(label, self.threshold)

    def admits(self, label: str, score: float) -> bool:
        """True if this label with this score is a member that counts."""
        if label not in self.labels and label not in self.unknown_labels:
            return False
        threshold = self.threshold_of(label)
        return threshold is None or threshold.passes(score)

    def position(self, output: Sequence[tuple[str, float]]) -> tuple[int, int] | None:
        """First and last place in the output at which the list is matched, or None if it is not matched."""
        if self.unless and any(label in self.unless for label, _ in output):
            return None
        clauses = self.clauses or ((*self.labels, *self.unknown_labels),)
        first = last = -1
        for clause in clauses:
            places = [i for i, (label, score) in enumerate(output) if label in clause and self.admits(label, score)]
            if not places:
                return None
            first, last = max(first, places[0]), max(last, places[-1])
        return first, last


@dataclass(frozen=True)
class Interval:
    """A region of a number between two breakpoints and what the application does there."""

    low: float
    high: float
    includes_low: bool
    includes_high: bool
    outcome: str


@dataclass(frozen=True)
class NumericVariable:
    """A number of an API's answer on which an application decides: breakpoints cut its range into intervals.

    `intervals` are those of the variable while the other variables are held at `held`.
    """

    name: str
    breakpoints: tuple[float, ...]
    intervals: tuple[Interval, ...]
    held: dict[str, float] = field(default_factory=dict)
    of: tuple[str, ...] = ()  # the labels counted, if the number is a count


@dataclass(frozen=True)
class DecisionSummary:
    """One decision of an application.

    Attributes:
        api: provider and method, e.g. "google.vision.label_detection".
        field: the field of the answer that is tested.
        kind: one of `KINDS`.
        order: matching order of a multi-choice decision, else None.
        lists: target lists in the order in which the application tests them.
        window: the application looks at the first `window` labels only; None if at all.
        none_outcome: what it does if no list is matched.
        variables: for kind "numeric".
        request: limits that the application passes to the API (max_results, MinConfidence).
        scale: largest score of the API: 1 or 100.
        source: call sites and the entry point.
        warnings: likely mistakes of the application and assumptions of the parser, each with its place.
        reason: for kind "unsupported", why.
    """

    api: str
    field: str
    kind: str
    order: str | None = None
    lists: tuple[TargetList, ...] = ()
    window: int | None = None
    none_outcome: str = ""
    variables: tuple[NumericVariable, ...] = ()
    request: dict[str, Any] = dataclasses.field(default_factory=dict)
    scale: float = 1.0
    source: tuple[Span, ...] = ()
    warnings: tuple[str, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"decision kind {self.kind!r} is not known. Use one of {', '.join(KINDS)}.")
        if self.order is not None and self.order not in ORDERS:
            raise ConfigError(f"matching order {self.order!r} is not known. Use one of {', '.join(ORDERS)} or None.")
        if self.kind == "true_false" and len(self.lists) != 1:
            raise ConfigError(f"a true_false decision has one list, not {len(self.lists)}.")

    @property
    def combine(self) -> str | None:
        """For true_false: "any" or "all"."""
        return self.lists[0].combine if self.kind == "true_false" else None

    def decide(self, output: Sequence[tuple[str, float]]) -> tuple[int, ...]:
        """The choices taken on an API output.

        Args:
            output: labels with scores on the API's scale, best first, already cut to those that the API returns.
        Returns:
            Ids of the matched lists that take effect, ascending; () if none. At most one unless kind is multi_select.
        Raises:
            ConfigError: the kind has no target lists.
        """
        if self.kind not in ("true_false", "multi_choice", "multi_select"):
            raise ConfigError(f"a decision of kind {self.kind} has no target lists to decide on.")
        seen = output[: self.window] if self.window is not None else output
        places = {one.id: place for one in self.lists if (place := one.position(seen)) is not None}
        if not places:
            return ()
        if self.kind == "multi_select":
            return tuple(sorted(places))
        if self.kind == "true_false" or self.order in ("app_choice", None):
            return (min(places),)
        if self.order == "api_first":
            return (min(places, key=lambda c: (places[c][0], c)),)
        return (min(places, key=lambda c: (-places[c][1], c)),)

    def true_lists(self, true_labels: Sequence[str]) -> tuple[int, ...]:
        """T: ids of the lists that are truly present, given the true labels of an input (in any order, without scores)."""
        output = [(label, float("inf")) for label in true_labels]
        return tuple(one.id for one in self.lists if one.position(output) is not None)

    def is_correct(self, output: Sequence[tuple[str, float]], true_labels: Sequence[str]) -> bool:
        """True if the decision on `output` equals the decision on the true labels.

        Multi-choice in API-output order has no true order: any list that is truly present is correct. In app-choice
        order the first one is; multi-select compares the sets.
        """
        taken, present = self.decide(output), self.true_lists(true_labels)
        if self.kind == "multi_select":
            return taken == present
        if not present:
            return not taken
        if self.kind == "multi_choice" and self.order in ("api_first", "api_last"):
            return bool(taken) and taken[0] in present
        return taken == (min(present),)

    def to_json(self) -> dict[str, Any]:
        """The summary as plain JSON values."""
        out: dict[str, Any] = {
            "api": self.api,
            "field": self.field,
            "kind": self.kind,
            "order": self.order,
            "combine": self.combine,
            "lists": [
                {
                    "id": one.id,
                    "predicate": one.predicate,
                    "labels": list(one.labels),
                    "combine": one.combine,
                    "clauses": [list(c) for c in one.clauses] if one.combine == "all" else None,
                    "unless": list(one.unless),
                    "threshold": None
                    if one.threshold is None
                    else {"op": one.threshold.op, "value": one.threshold.value},
                    "label_thresholds": {k: {"op": t.op, "value": t.value} for k, t in one.label_thresholds.items()},
                    "outcome": one.outcome,
                    "unknown_labels": list(one.unknown_labels),
                    "group": one.group,
                    "label_echo": one.label_echo,
                    "source": [_span_json(s) for s in one.source],
                }
                for one in self.lists
            ],
            "window": self.window,
            "none_outcome": self.none_outcome,
            "request": dict(self.request),
            "scale": self.scale,
            "source": [_span_json(s) for s in self.source],
            "warnings": list(self.warnings),
        }
        if self.kind == "numeric":
            out["variables"] = [
                {
                    "name": v.name,
                    "breakpoints": list(v.breakpoints),
                    "held": dict(v.held),
                    "of": list(v.of),
                    "intervals": [
                        {
                            "low": i.low, "high": i.high, "includes_low": i.includes_low, "includes_high": i.includes_high,
                            "outcome": i.outcome,
                        }
                        for i in v.intervals
                    ],
                }
                for v in self.variables
            ]  # fmt: skip
        if self.kind == "unsupported":
            out["reason"] = self.reason
        return out

    @staticmethod
    def from_json(data: dict[str, Any]) -> "DecisionSummary":
        """The summary that `to_json` wrote.

        Raises:
            ConfigError: a field is missing or has a value that is not allowed.
        """
        try:
            lists = tuple(
                TargetList(
                    id=one["id"],
                    labels=tuple(one["labels"]),
                    clauses=tuple(map(tuple, one.get("clauses") or ())),
                    unless=tuple(one.get("unless", ())),
                    threshold=Threshold(**one["threshold"]) if one.get("threshold") else None,
                    label_thresholds={k: Threshold(**t) for k, t in one.get("label_thresholds", {}).items()},
                    predicate=one.get("predicate", ""),
                    outcome=one.get("outcome", ""),
                    unknown_labels=tuple(one.get("unknown_labels", ())),
                    group=one.get("group", 0),
                    label_echo=one.get("label_echo", False),
                    source=tuple(Span(**s) for s in one.get("source", ())),
                )
                for one in data["lists"]
            )
            variables = tuple(
                NumericVariable(
                    v["name"], tuple(v["breakpoints"]), tuple(Interval(**i) for i in v["intervals"]), v.get("held", {}),
                    tuple(v.get("of", ())),
                )
                for v in data.get("variables", ())
            )  # fmt: skip
            return DecisionSummary(
                api=data["api"],
                field=data["field"],
                kind=data["kind"],
                order=data["order"],
                lists=lists,
                window=data.get("window"),
                none_outcome=data.get("none_outcome", ""),
                variables=variables,
                request=data.get("request", {}),
                scale=data.get("scale", 1.0),
                source=tuple(Span(**s) for s in data.get("source", ())),
                warnings=tuple(data.get("warnings", ())),
                reason=data.get("reason", ""),
            )
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"this is not a decision summary: {error!r}. Write one with DecisionSummary.to_json."
            ) from error

    def dumps(self) -> str:
        """The summary as a JSON text."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False)


def _span_json(span: Span) -> dict[str, Any]:
    return {"path": span.path, "line": span.line, "column": span.column, "text": span.text}
