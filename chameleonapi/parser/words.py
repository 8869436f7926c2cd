"""Decision summaries in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chameleonapi.decisions import DecisionSummary, TargetList

if TYPE_CHECKING:
    from chameleonapi.parser.parse import ParseReport
    from chameleonapi.parser.probing import Analysis, Session, _List


@dataclass(frozen=True)
class Predicate:
    """How an application tests for a list, as far as probing with variants of its texts shows."""

    text: str
    contains: tuple[str, ...]
    absorbed: tuple[str, ...]
    texts: tuple[str, ...] = ()


def predicate(one: "_List", session: "Session", analysis: "Analysis") -> Predicate:
    """Describe the test behind a list by probing variants of the source's texts."""
    if one.clauses:
        text = " and ".join("(" + " or ".join(c[:6]) + (" or ..." if len(c) > 6 else "") + ")" for c in one.clauses)
        return Predicate(f"labels {text} together", (), ())
    group = set(one.labels)
    if len(session.vocabulary) > 12 and len(group) > 0.6 * len(session.vocabulary):
        others = [v for v in session.vocabulary if v not in group]
        text = f"any label except {_some(others)}" if others else "any label at all"
        return Predicate(text, (), tuple(x for x in one.labels if x not in set(session.vocabulary)))
    sources = [c for c in session.constants if any(c.casefold() in label.casefold() for label in group) and len(c) > 1]
    if one.echo:
        same = {label.casefold() for label in group}
        sources = [c for c in sources if c.casefold() in same] or sources
    sources.sort(key=len)  # short texts first, so that messages that quote one are recognised
    parts: dict[str, list[str]] = {}
    contains: list[str] = []
    absorbed: list[str] = []
    known = set(session.vocabulary)

    def matches(label: str) -> bool:
        sig = {(c, p) for c, p, _ in analysis.single(label)}
        return sig == {(c, p) for c, p, _ in one.view}

    for text in sources[:25]:
        if not matches(text):
            continue
        if any(other.casefold() in text.casefold() for other in contains):
            continue  # a message that quotes a tested text
        folded = matches(text.swapcase())
        inside = matches(f"zq{text}zq")
        front, back = matches(f"{text}zq"), matches(f"zq{text}")
        word = matches(f"zq {text} zq")
        case = " ignoring case" if folded else ""
        if inside:
            kind = f"contains{case}"
            contains.append(text)
        elif front and not back:
            kind = f"starts with{case}"
        elif back and not front:
            kind = f"ends with{case}"
        elif word:
            kind = f"has the word{case}"
        elif matches(f"{text} zq"):
            kind = f"starts with the word{case}"
        else:
            kind = f"equals{case}"
        parts.setdefault(kind, []).append(text)
        if text not in known:
            if kind.startswith("equals") and not (
                folded and any(v.casefold() == text.casefold() for v in one.labels if v in known)
            ):
                continue
            if any(text.casefold() in v.casefold() for v in one.labels if v in known):
                absorbed.append(text)
    for text in one.labels:
        if (
            text not in known
            and text not in absorbed
            and any(p.casefold() in text.casefold() for p in contains if p != text)
        ):
            absorbed.append(text)
    if not parts:
        shown = ", ".join(map(repr, one.labels[:4])) + (", ..." if len(one.labels) > 4 else "")
        return Predicate(f"label is one of {shown}", (), tuple(absorbed))
    place = {text: i for i, text in enumerate(session.constants)}
    for texts in parts.values():
        texts.sort(key=lambda t: place.get(t, 0))
    words = "; or ".join(f"{kind} {_some(texts)}" for kind, texts in parts.items())
    return Predicate(
        f"label {words}", tuple(contains), tuple(absorbed), tuple(t for texts in parts.values() for t in texts)
    )


def _some(texts: Sequence[str]) -> str:
    shown = ", ".join(map(repr, texts[:8]))
    return shown + (", ..." if len(texts) > 8 else "")


def accidental(labels: Sequence[str], contains: Sequence[str]) -> list[str]:
    """Labels that a substring test catches inside another word."""
    out = []
    for label in labels:
        words = label.casefold().replace("-", " ").split()
        hits = [
            c.casefold().strip() for c in contains if c.casefold().strip() and c.casefold().strip() in label.casefold()
        ]
        if hits and not any(w.startswith(h) or h in words or " " in h for h in hits for w in words):
            out.append(label)
    return out


_KINDS = {
    "true_false": "True-or-False",
    "multi_choice": "Multi-Choice",
    "multi_select": "Multi-Select",
    "numeric": "numeric",
    "constant": "constant",
    "unsupported": "not supported",
}
_ORDERS = {
    "api_first": "the first label of the API's output that is in any list decides",
    "api_last": "the last label of the API's output that is in any list decides",
    "app_choice": "the lists are tested in the order shown; the first one with a match decides",
}


def describe_report(report: "ParseReport") -> str:
    """The report as text for a terminal."""
    lines = [f"Application {report.application}: {len(report.decisions)} decision(s), {report.num_probes} probes."]
    if report.reason:
        lines.append(f"  {report.reason}")
    for number, decision in enumerate(report.decisions, 1):
        lines += ["", f"Decision {number}: {_KINDS[decision.kind]} on {decision.api} ({decision.field or 'no field'})"]
        lines += [f"  {line}" for line in _decision(decision)]
    if report.other_apis:
        lines += ["", "Other ML calls:", *(f"  {x}" for x in report.other_apis)]
    if report.notes:
        lines += ["", "Notes:", *(f"  {x}" for x in report.notes)]
    return "\n".join(lines)


def _decision(decision: DecisionSummary) -> list[str]:
    out: list[str] = []
    if decision.kind == "unsupported":
        out.append(f"Reason: {decision.reason}")
    for span in decision.source[:1]:
        out.append(f"API call at {span.path}:{span.line}: {span.text}")
    if decision.order:
        out.append(f"Order: {_ORDERS[decision.order]} ({decision.order}).")
    if decision.kind == "multi_select":
        out.append("Every list with a match takes effect.")
    if decision.window is not None:
        out.append(f"Only the first {decision.window} label(s) are looked at.")
    for key, value in decision.request.items():
        out.append(f"Request: {key} = {value}")
    for one in decision.lists:
        out += _target(one)
    for variable in decision.variables:
        held = ", ".join(f"{k} = {v:g}" for k, v in variable.held.items())
        out.append(
            f"{variable.name}{f' (with {held})' if held else ''}: breakpoints {', '.join(f'{b:g}' for b in variable.breakpoints)}"
        )
        for interval in variable.intervals:
            low, high = "[" if interval.includes_low else "(", "]" if interval.includes_high else ")"
            out.append(f"  {low}{interval.low:g}, {interval.high:g}{high}: {interval.outcome}")
    if decision.lists and decision.kind != "numeric":
        out.append(f"Otherwise: {decision.none_outcome}")
    out += [f"Warning: {w}" for w in decision.warnings]
    return out


def _target(one: TargetList) -> list[str]:
    threshold = f", score {one.threshold.op} {one.threshold.value:g}" if one.threshold else ""
    echo = " (the outcome repeats the label)" if one.label_echo else ""
    out = [f"List {one.id}: {one.predicate}{threshold}{echo}"]
    shown = ", ".join(one.labels[:12]) + (f", ... ({len(one.labels)} in all)" if len(one.labels) > 12 else "")
    if one.combine == "all":
        out.append(
            "  all of: "
            + " and ".join("(" + " or ".join(c[:6]) + (" or ..." if len(c) > 6 else "") + ")" for c in one.clauses)
        )
    else:
        out.append(f"  labels: {shown or 'none of this vocabulary'}")
    if one.unless:
        out.append(f"  unless: {', '.join(one.unless[:12])}")
    if one.label_thresholds:
        out.append(
            "  thresholds: " + ", ".join(f"{k} {t.op} {t.value:g}" for k, t in list(one.label_thresholds.items())[:8])
        )
    out.append(f"  outcome: {one.outcome}")
    out += [f"  {s.path}:{s.line}: {s.text}" for s in one.source[:6]]
    return out
