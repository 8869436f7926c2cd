"""From observed effects to a decision process: exhaustive probing of an application with constructed API outputs.

    single labels --> groups with equal effects --> target lists
    pairs of lists in both orders --> kind and matching order
    pairs of labels that do nothing alone --> conjunctions, labels that suppress a list
    scores --> thresholds          many labels --> how many labels the application looks at
    random outputs --> does the process found predict what the application does? if not, it is refused

Source: ChameleonAPI, extraction of the decision process; probing replaces the paper's symbolic execution.
"""

# DEVIATION chameleonapi-1: enumeration over the finite vocabulary in place of symbolic execution and a constraint solver.

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from chameleonapi.decisions import (
    DecisionSummary,
    Interval,
    NumericVariable,
    TargetList,
    Threshold,
)
from chameleonapi.parser.effects import Atom
from chameleonapi.parser.evaluator import NO_LABEL, NO_TOPIC, Answer, Evaluator, Refusal, Run
from chameleonapi.parser.providers import FIELDS, Field, Site
from chameleonapi.parser.values import NUMBER_MARK, TEXT_MARK
from common.rng import for_component

Output = tuple[tuple[str, float], ...]
View = frozenset[tuple[tuple[str, str, str], str, str]]  # (channel, pattern, text) of every atom that counts

_FILLERS = ("Wkjhv", "Zzyxq", "Bvnmk", "Ghtrw", "Plqzd", "Xcvbt", "Mnhgf", "Tyqwv", "Rfvbg", "Jkxzq", "Hbvcw", "Qpwzx")
_ANY_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_MAX_RUNS = 12_000
_MAX_COUNT = 60
_NUM_CHECKS = 48


class Reject(Exception):
    """The effects looked at do not form a decision process of the kinds known; `reason` says why."""

    def __init__(self, reason: str, line: tuple[str, int] = ("", 0)) -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = line


class NoVariation(Reject):
    """No label changes the effects looked at."""


@dataclass
class Observed:
    """What one probe showed."""

    atoms: dict[Atom, tuple[str, int]]
    run: Run


@dataclass
class Session:
    """One API field at one entry point, ready to be probed.

    Args:
        evaluator: of the application.
        entry: evaluates the entry point under the current run.
        site, field_name: the field whose content is varied.
        choices: decisions on opaque values, by syntax node.
        vocabulary: labels that the API can answer.
        constants: texts that the source mentions.
        numbers: numbers that the source mentions.
        neutral: what the application's other API calls answer.
    """

    evaluator: Evaluator
    entry: Callable[[], None]
    site: Site
    field_name: str
    choices: dict[int, bool]
    vocabulary: tuple[str, ...]
    constants: tuple[str, ...]
    numbers: tuple[float, ...]
    neutral: str | dict[tuple[Site, str], Output] = "empty"
    cache: dict[object, Observed] = field(default_factory=dict)
    num_runs: int = 0
    counts_instances: bool = False
    reverse_sets: bool = False

    @property
    def spec(self) -> Field:
        """The field's description."""
        return FIELDS[self.field_name]

    @property
    def nothing(self) -> str:
        """A label that no application tests."""
        return NO_TOPIC if self.has_paths else NO_LABEL

    @property
    def has_paths(self) -> bool:
        """True if labels are paths ("/News/Politics"), which applications take apart."""
        return self.spec.vocabulary == "topic" and any(v.startswith("/") for v in self.vocabulary)

    @property
    def fillers(self) -> tuple[str, ...]:
        """More labels that no application tests."""
        return tuple(f"/{f}/{f}/{f}" for f in _FILLERS) if self.has_paths else _FILLERS

    @property
    def repeats(self) -> bool:
        """True if the API may answer the same label several times: objects, entities, instances that are counted."""
        is_list = self.field_name in ("localized_object_annotations", "entities.type", "Entities.Type")
        return is_list or (self.counts_instances and self.field_name == "Labels")

    def observe(self, answer: Output | dict[str, float]) -> Observed:
        """Evaluate the application with the API answering `answer`."""
        key: object = answer if isinstance(answer, tuple) else tuple(sorted(answer.items()))
        known = self.cache.get(key)
        if known is not None:
            return known
        self.num_runs += 1
        if self.num_runs > _MAX_RUNS:
            raise Refusal(f"budget: more than {_MAX_RUNS} probes")
        made = Answer(labels=list(answer)) if isinstance(answer, tuple) else Answer(numbers=dict(answer))
        run = Run(
            target=(self.site, self.field_name), answer=made, neutral=self.neutral, choices=self.choices, explain=True,
            reverse_sets=self.reverse_sets,
        )  # fmt: skip
        self.evaluator.execute(run, self.entry)
        atoms = dict(run.atoms)
        for values, where in run.finals.values():
            for atom in values:
                atoms.setdefault(atom, where)
        self.counts_instances |= run.instance_reads > 0
        observed = Observed(atoms, run)
        self.cache[key] = observed
        return observed

    def is_outvoted(self, output: Output, keep: Callable[[Atom], bool]) -> bool:
        """True if two more faces, with an emotion that nothing tests, change what the application does about the first."""
        views = []
        for num_others in (0, 2):
            made = Answer(labels=list(output), num_others=num_others)
            run = Run((self.site, self.field_name), made, self.neutral, self.choices)
            self.evaluator.execute(run, self.entry)
            self.num_runs += 1
            finals = [a for values, _ in run.finals.values() for a in values]
            views.append({(a.channel, a.pattern) for a in (*run.atoms, *finals) if keep(a)})
        return not views[0] <= views[1]

    @property
    def count_limit(self) -> int:
        """How many times a label is repeated where repetitions may count: beyond every number that the source mentions."""
        counts = [int(n) for n in self.numbers if n == int(n) and 0 < n <= _MAX_COUNT]
        return max(12, max(counts, default=0) + 2)

    def needs_several_answers(self, output: Output, keep: Callable[[Atom], bool]) -> bool:
        """True if the application calls this API several times and one such answer among them does nothing."""
        if self.observe(output).run.calls.get(self.site, 0) < 2:
            return False
        views = []
        for answer, only_call in ((output, None), (output, 1), (self.output([self.nothing]), None)):
            made = Answer(labels=list(answer))
            run = Run((self.site, self.field_name), made, "plain", self.choices, only_call=only_call)
            self.evaluator.execute(run, self.entry)
            self.num_runs += 1
            finals = [a for values, _ in run.finals.values() for a in values]
            views.append({(a.channel, a.pattern) for a in (*run.atoms, *finals) if keep(a)})
        every, first, none = views
        return first == none != every

    def output(self, labels: Sequence[str], top: float = 0.99, step: float = 0.004) -> Output:
        """An API output with these labels, best first, all with high scores."""
        scale = self.spec.scale
        step = min(step, 0.048 / max(1, len(labels)))
        return tuple((label, round(scale * (top - step * i), 6)) for i, label in enumerate(labels))


# --- which effects count ----------------------------------------------------------------------------------------------

_WEAK = ("variable", "attribute", "global", "argument")


def _is_main(atom: Atom) -> bool:
    return atom.category not in ("log", "variable")


def _is_no_wait(atom: Atom) -> bool:
    return atom.category not in ("log", "variable", "wait")


def _is_strong(atom: Atom) -> bool:
    return not atom.is_display and atom.category != "variable"


def _is_result(atom: Atom) -> bool:
    return atom.category in ("return", "raise")


def _is_print(atom: Atom) -> bool:
    return atom.category in ("print", "raise")


def _is_display(atom: Atom) -> bool:
    return atom.is_display or atom.category == "raise"


def _is_variable(atom: Atom) -> bool:
    return atom.category in _WEAK or atom.category == "raise"


_STRATA: tuple[tuple[str, Callable[[Atom], bool]], ...] = (
    ("all effects", _is_main),
    ("effects but pauses", _is_no_wait),
    ("effects other than display", _is_strong),
    ("returned values", _is_result),
    ("prints", _is_print),
    ("prints and logs", _is_display),
    ("variables", _is_variable),
)


def _marked(pattern: str) -> bool:
    return TEXT_MARK in pattern or NUMBER_MARK in pattern


@dataclass
class _List:
    """A target list while it is being found."""

    labels: list[str]
    view: View
    witness: Output
    group: int
    echo: bool
    clauses: list[list[str]] = field(default_factory=list)
    unless: list[str] = field(default_factory=list)
    threshold: Threshold | None = None
    label_thresholds: dict[str, Threshold] = field(default_factory=dict)


class Analysis:
    """Finds the decision process behind one choice of effects.

    Args:
        session: the probe.
        keep: which atoms count.
        base: "other" if the no-match case is a label that nothing tests, "empty" if it is an output without labels.
        padding: labels that nothing tests, added behind every output (for applications that read fixed positions).
    """

    def __init__(
        self, session: Session, keep: Callable[[Atom], bool], base: str = "other", padding: int = 0, top: float = 0.99
    ) -> None:
        self.session = session
        self.keep = keep
        self.padding = padding
        self.top = top
        self.fillers: tuple[str, ...] = session.fillers
        nothing = session.observe(self.pad(session.output([session.nothing], top)))
        self.ungated = {(a.channel, a.pattern) for a in nothing.atoms if keep(a) and _marked(a.pattern)}
        # "0 free" against "{number} free": the same report with another number in it decides nothing.
        self.reports: dict[tuple[tuple[str, str, str], str], Atom] = {}
        for a in nothing.atoms:
            if any(c.isdigit() for c in a.pattern) and not _marked(a.pattern):
                self.reports.setdefault((a.channel, _ANY_NUMBER.sub(NUMBER_MARK, a.pattern)), a)
        # Prints that repeat the label are commentary when something else already tells the groups apart.
        self.drop_display_echo = False
        self.drop_message_echo = False
        self.base_output: Output = session.output([self.session.nothing], top) if base == "other" else ()
        self.base = base
        self.active: set[str] = set()  # labels that do something alone

    def pad(self, output: Output) -> Output:
        """The output with padding behind it."""
        if len(output) >= self.padding:
            return output
        low = min((s for _, s in output), default=self.session.spec.scale * 0.97)
        extra = tuple(
            (self.fillers[i % len(self.fillers)], round(low - self.session.spec.scale * 0.003 * (i + 1), 6))
            for i in range(self.padding - len(output))
        )
        return output + extra

    def view(self, output: Output) -> View:
        """The effects that count after this output."""
        atoms = self.session.observe(self.pad(output)).atoms
        return frozenset(
            (a.channel, a.pattern, a.text)
            for a in map(self._as_report, atoms)
            if self.keep(a) and (a.channel, a.pattern) not in self.ungated and not self.is_commentary(a)
        )

    def is_commentary(self, atom: Atom) -> bool:
        """True for effects that only tell which label it was, where something else tells the groups of labels apart."""
        return (self.drop_display_echo and atom.is_commentary) or (self.drop_message_echo and atom.is_message)

    def _as_report(self, atom: Atom) -> Atom:
        if NUMBER_MARK not in atom.pattern or TEXT_MARK in atom.pattern:
            return atom
        return self.reports.get((atom.channel, _ANY_NUMBER.sub(NUMBER_MARK, atom.pattern)), atom)

    def changed_by_set_order(self, lists: Sequence["_List"]) -> tuple[str, ...]:
        """Labels of two lists whose decision changes when sets are iterated the other way round; empty if there are none.

        The order of a set of texts differs between two runs of Python. Words that only change places ("a, b" and "b, a")
        are the same decision.
        """
        session = self.session
        if not any(observed.run.set_reads for observed in session.cache.values()):
            return ()
        other = replace(session, reverse_sets=True, cache={}, num_runs=0)
        mirrored = replace_session(self, other)
        outputs = [[x for x, _ in one.witness] for one in lists[:12]]
        outputs += [list(dict.fromkeys([*a, *b])) for a, b in itertools.combinations(outputs[:6], 2)]
        outputs += [list(one.labels[:3]) for one in lists[:6]]
        for labels in outputs:
            output = session.output(labels, self.top)
            one, two = self.view(output), mirrored.view(output)
            if one != two and _words_of(one) != _words_of(two):
                return tuple(labels)
        session.num_runs += other.num_runs
        return ()

    def single(self, label: str) -> View:
        """The effects of one label alone."""
        return self.view(self.session.output([label], self.top))

    def find(self) -> tuple[list[_List], str, str | None, int | None, list[str]]:
        """Target lists in the application's order, kind, order, window and warnings.

        Raises:
            Reject: the effects do not form a known decision process.
        """
        base_view = self.view(self.base_output)
        lists = self._groups(base_view)
        if self.session.spec.kind == "single" and self.session.observe(self.base_output).run.raised is not None:
            # Every member of an enumeration is looked up (`counts[sentiment] += 1`), and another text cannot come: the case
            # without a decision is the one in which nothing happens.
            idle = [one for one in lists if not any(p not in ("None", "") for _, p, _ in one.view)]
            if idle:
                self.base_output = idle[0].witness
                base_view = idle[0].view
                lists = [one for one in lists if one is not idle[0]]
        extra, silent = self._joint(lists, base_view)
        lists = _merge_equal(extra + lists)
        if not lists:
            raise NoVariation("no label of the vocabulary changes what the application does")
        warnings: list[str] = []
        window = self._window(lists, base_view)
        candidates: list[tuple[list[_List], str, str | None]]
        if len(lists) == 1:
            candidates = [(lists, "true_false", None)]
        else:
            candidates = self._orders(lists, base_view)
        problems: list[str] = []
        for ordered, kind, order in candidates:
            trial = [replace(one, label_thresholds={}) for one in ordered]
            try:
                try:
                    self._thresholds(trial, base_view, kind)
                except _Graded:
                    trial = self._by_score(ordered, base_view)
                    if kind == "true_false":
                        kind, order = "multi_choice", "app_choice"
                self._verify(trial, kind, order, window, base_view, silent)
            except Reject as problem:
                problems.append(problem.reason)
                continue
            return trial, kind, order, window, warnings
        raise Reject(problems[0] if problems else "mixed: the matching order differs between pairs of lists")

    # --- steps ------------------------------------------------------------------------------------------------------

    def _probe_labels(self) -> list[str]:
        return list(dict.fromkeys((*self.session.vocabulary, *self.session.constants)))

    def _groups(self, base_view: View) -> list[_List]:
        base_sig = frozenset((c, p) for c, p, _ in base_view)
        by_sig: dict[frozenset[tuple[tuple[str, str, str], str]], list[str]] = {}
        views: dict[str, View] = {}
        for label in self._probe_labels():
            view = self.single(label)
            sig = frozenset((c, p) for c, p, _ in view)
            if sig != base_sig:
                self.active.add(label)
                by_sig.setdefault(sig, []).append(label)
                views[label] = view
        lists: list[_List] = []
        known = set(self.session.vocabulary)
        for number, (sig, labels) in enumerate(by_sig.items()):
            echo = any(TEXT_MARK in pattern for _, pattern in sig - base_sig)
            by_view: dict[View, list[str]] = {}
            for label in labels:
                by_view.setdefault(views[label] if echo else frozenset(), []).append(label)
            members = [m for m in labels if m in known]
            for same in by_view.values():
                if echo and not any(x in known for x in same):
                    if members and all(_absorbed(x, members) for x in same):
                        continue  # a search text ("eye") that is no label itself: its matches are listed
                    if all(self._is_quote(x, labels, sig) for x in same):
                        continue  # a message that happens to hold a search text
                first = next((s for s in same if s in known), same[0])
                witness = self.session.output([first], self.top)
                lists.append(_List(same, views[first], witness, number, echo))
        if len(lists) > 1500:
            raise Reject("more than 1500 different outcomes")
        return lists

    def _is_quote(self, text: str, labels: Sequence[str], sig: frozenset[tuple[tuple[str, str, str], str]]) -> bool:
        """True if a text of the source only matches because a shorter text that is searched for occurs in it."""
        for part in labels:
            if part.casefold() != text.casefold() and part.casefold() in text.casefold():
                inside = frozenset((c, p) for c, p, _ in self.single(f"zq {part} zq"))
                if inside == sig:
                    return True
        return False

    def _outcomes(self, label: str) -> frozenset[tuple[int, frozenset[bool]]]:
        observed = self.session.observe(self.pad(self.session.output([label], self.top)))
        return frozenset((key, frozenset(value[2])) for key, value in observed.run.outcomes.items())

    def _joint(self, lists: list[_List], base_view: View) -> tuple[list[_List], list[str]]:
        """Conjunctions, refinements and suppressing labels: what pairs of labels do that neither does alone."""
        session = self.session
        labels = self._probe_labels()
        if not self.padding and self.view(session.output([session.nothing, *self.fillers[:9]], self.top)) != self.view(
            session.output([session.nothing], self.top)
        ):
            return [], []  # more labels alone change the effects: positions are read, which padded outputs will show
        matched = {label for one in lists for label in one.labels} | self.active
        plain = self._outcomes(session.nothing)
        classes: dict[frozenset[tuple[int, frozenset[bool]]], list[str]] = {}
        for label in labels:
            if label not in matched:
                tested = self._outcomes(label)
                if tested != plain:
                    classes.setdefault(tested, []).append(label)
        members_of = {m[0]: m for m in classes.values()}
        silent = list(members_of)
        folded = {c.casefold() for c in session.constants}
        pool = list(dict.fromkeys([*silent, *(x for x in labels if x.casefold() in folded)]))[:250]
        conjunctions: list[_List] = []
        group = max((one.group for one in lists), default=-1) + 1

        def pair(a: str, b: str) -> View:
            return self.view(session.output([a, b], self.top))

        # A label that takes a list's effect away, or turns it into another effect.
        shown = {one.view for one in lists} | {base_view}
        for one in lists[:6]:
            first = one.witness[0][0]
            turned: dict[View, list[str]] = {}

            def effect_with(other: str, first: str = first, one: _List = one) -> View | None:
                both = pair(first, other)
                if both == one.view or (both in shown and both != base_view) or pair(other, first) != both:
                    return None
                if both != base_view and all(_includes(both, v, base_view) for v in (one.view, self.single(other))):
                    return None
                return both

            for other in pool:
                if other not in one.labels:
                    both = effect_with(other)
                    if both is not None:
                        turned.setdefault(both, []).append(other)
            if len(turned) > 6:
                # Points are added up: every further label makes another effect.
                raise Reject(
                    f"the effects do not follow from single labels: {first!r} with other labels is treated differently"
                )
            if turned:
                turned = {}
                for other in self._worth_pairing(first, labels, {*pool, *matched}, one.view):
                    both = effect_with(other) if other not in one.labels else None
                    if both is not None:
                        turned.setdefault(both, []).append(other)
            for both, others in turned.items():
                if both == base_view:
                    one.unless = others
                elif all(o not in matched for o in others):
                    same = [x for x in lists if not x.echo and pair(x.witness[0][0], others[0]) == both]
                    left = [x for s in same for x in s.labels]
                    if not any(both == c.view for c in conjunctions):
                        conjunctions.append(self._conjunction(both, [left, others], (first, others[0]), group))
                        group += 1
        # Conjunctions of labels that do nothing alone.
        sides: dict[View, list[tuple[list[str], list[str]]]] = {}
        for rep in silent[:12]:
            if session.repeats or len(members_of[rep]) > 1:
                # Two helmets that do something are counted; a helmet and a glove that do are a conjunction.
                counts = session.repeats and any(
                    self.view(session.output([x] * session.count_limit, self.top)) != base_view
                    for x in members_of[rep][:8]
                )
                many = (
                    members_of[rep] * session.count_limit
                    if counts
                    else _one_spelling(members_of[rep], set(session.vocabulary))
                )
                for count in range(2, min(session.count_limit, len(many)) + 1):
                    both_view = self.view(session.output(many[:count], self.top))
                    if both_view != base_view:
                        if count == len(many) and not counts:
                            # all(x in labels for x in ("bottle", "plastic"))
                            each = [[m for m in members_of[rep] if m.casefold() == x.casefold()] for x in many]
                            conjunctions.append(self._conjunction(both_view, each, tuple(many), group))
                            group += 1
                            break
                        counted = [x for m in silent if len(members_of[m]) for x in members_of[m]]
                        raise _Counted("several labels of one list are needed", counted)
            hits: dict[View, list[str]] = {}
            others = [
                x for x in (labels if len(silent) <= 4 else pool) if x not in matched and x not in members_of[rep]
            ]
            for other in self._worth_pairing(rep, others, set(pool), base_view):
                both = pair(rep, other)
                if both != base_view and pair(other, rep) == both:
                    hits.setdefault(both, []).append(other)
            for both, found in hits.items():
                sides.setdefault(both, []).append((members_of[rep], found))
        for both, found_sides in sides.items():
            left = list(dict.fromkeys(x for a, b in found_sides if set(b) == set(found_sides[0][1]) for x in a))
            right = found_sides[0][1]
            rest = [(a, b) for a, b in found_sides if set(b) != set(right)]
            if any(not set(a) <= set(right) or not set(b) <= set(left) for a, b in rest):
                raise Reject("a conjunction that is not 'one of these and one of those'")
            conjunctions.append(self._conjunction(both, [left, right], (left[0], right[0]), group))
            group += 1
        everything = [x for x in dict.fromkeys([*silent, *pool]) if x not in matched][:30]
        if not sides and not conjunctions and len(silent) <= 16 and len(everything) > 1:
            # Three and more labels together: find the smallest set that works.
            all_view = self.view(session.output(everything, self.top, 0.002))
            if all_view != base_view and all_view not in shown:
                needed = list(everything)
                for label in everything:
                    fewer = [x for x in needed if x != label]
                    if fewer and self.view(session.output(fewer, self.top)) == all_view:
                        needed = fewer
                clauses = []
                for i, label in enumerate(needed):
                    others = [*needed[:i], *needed[i + 1 :]]
                    clause = [
                        x
                        for x in pool
                        if x not in others and self.view(session.output([*others, x], self.top)) == all_view
                    ]
                    clauses.append(clause or [label])
                conjunctions.append(self._conjunction(all_view, clauses, tuple(needed), group))
        for one in conjunctions[:6]:
            together = [x for x, _ in one.witness]
            fills = [
                x
                for x in pool
                if x not in one.labels and self.view(session.output([*together, x], self.top)) == base_view
            ]
            if fills:
                one.unless = [
                    x
                    for x in labels
                    if x not in one.labels and self.view(session.output([*together, x], self.top)) == base_view
                ]
        return conjunctions, list(dict.fromkeys([*silent, *pool]))

    def _worth_pairing(
        self, first: str, labels: Sequence[str], apart: set[str], idle: View, size: int = 8
    ) -> list[str]:
        """Labels that may do something together with `first`: those in `apart`, and batches that do not leave it `idle`.

        The source mentions none of the others, so that hardly one of them does anything; probing them in batches is as good
        as one by one and saves most of the probes.
        """
        rest = [x for x in labels if x not in apart]
        kept: set[str] = set()
        for i in range(0, len(rest), size):
            batch = rest[i : i + size]
            if self.view(self.session.output([first, *batch], self.top)) != idle:
                kept.update(batch)
        return [x for x in labels if x in apart or x in kept]

    def pair_members(self) -> list[str]:
        """Labels of the source that do nothing alone and something with each other ("at least two of these")."""
        known = set(self.session.vocabulary)
        named = [c for c in self.session.constants if c in known][:40]
        base_view = self.view(self.base_output)
        for a, b in itertools.combinations(named[:20], 2):
            if self.view(self.session.output([a, b], self.top)) != base_view:
                return [x for x in named if x == a or self.view(self.session.output([a, x], self.top)) != base_view]
        return []

    def _conjunction(self, view: View, clauses: list[list[str]], witness: tuple[str, ...], group: int) -> _List:
        labels = list(dict.fromkeys(x for clause in clauses for x in clause))
        echo = False
        return _List(labels, view, self.session.output(list(witness), self.top), group, echo, clauses)

    def _window(self, lists: list[_List], base_view: View) -> int | None:
        """How many labels the application looks at, if it is not all of them."""
        if self.session.spec.kind == "single":
            return None
        known = set(self.session.vocabulary)
        one = next((x for x in lists if any(label in known for label in x.labels)), lists[0])
        if len(one.witness) != 1:
            return None
        label = one.witness[0][0]
        fillers = list(self.fillers)
        for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12):
            output = self.session.output([*fillers[:count], label], self.top)
            view = self.view(output)
            if view != one.view:
                if view == base_view or view == self.view(self.session.output(fillers[:count], self.top)):
                    return count
                return None
        return None

    def _relation(self, a: _List, b: _List, base_view: View) -> set[str]:
        labels_a, labels_b = [x for x, _ in a.witness], [x for x, _ in b.witness]
        ab = self.view(self.session.output(list(dict.fromkeys([*labels_a, *labels_b])), self.top))
        ba = self.view(self.session.output(list(dict.fromkeys([*labels_b, *labels_a])), self.top))
        found = set()
        if ab == a.view and ba == b.view:
            found.add("first")
        if ab == b.view and ba == a.view:
            found.add("last")
        if ab == ba == a.view:
            found.add("a")
        if ab == ba == b.view:
            found.add("b")
        if all(_includes(view, one.view, base_view, (a.view, b.view)) for view in (ab, ba) for one in (a, b)):
            found.add("both")
        return found

    def _pairs_with_effect(self, lists: list[_List], base_view: View) -> tuple[list[_List], list[tuple[int, int]]]:
        """Conjunctions of two lists that have an effect of their own ("if a and b .. elif a .. elif b"), and which lists."""
        found: list[_List] = []
        covered: list[tuple[int, int]] = []
        group = max((one.group for one in lists), default=-1) + 1
        if len(lists) > 6:
            return [], []
        known = {one.view for one in lists} | {base_view}
        for i, j in _pairs(len(lists)):
            a, b = lists[i], lists[j]
            if len(a.clauses) > 1 or len(b.clauses) > 1 or self._relation(a, b, base_view):
                continue
            first, second = a.witness[0][0], b.witness[0][0]
            both = self.view(self.session.output([first, second], self.top))
            if both in known or both != self.view(self.session.output([second, first], self.top)):
                continue
            found.append(self._conjunction(both, [list(a.labels), list(b.labels)], (first, second), group + len(found)))
            covered.append((i, j))
            known.add(both)
        return found, covered

    def _orders(self, lists: list[_List], base_view: View) -> list[tuple[list[_List], str, str | None]]:
        """Orders that fit every pair probed, most specific first."""
        joint, covered = self._pairs_with_effect(lists, base_view)
        lists = joint + lists
        pairs = _pairs(len(lists))
        relations = {(i, j): self._relation(lists[i], lists[j], base_view) for i, j in pairs}
        for i, j in covered:
            # A conjunction of the two goes before both, so it does not matter which of them would win.
            relations[(i + len(joint), j + len(joint))] = {"a", "b"}
        if any(not r for r in relations.values()):
            i, j = next(k for k, r in relations.items() if not r)
            raise Reject(
                f"mixed: {_name(lists[i])} together with {_name(lists[j])} does what neither does alone, and not both things"
            )
        out: list[tuple[list[_List], str, str | None]] = []
        singles_only = self.session.spec.kind == "single"
        nested = any(
            a.view - base_view < b.view - base_view and any("[]" in c[2] for c, _, _ in a.view - base_view)
            for a in lists for b in lists
        )  # fmt: skip
        choices: list[tuple[list[_List], str, str | None]] = []
        if all("first" in r for r in relations.values()):
            choices.append((lists, "multi_choice", "api_first"))
        if all("last" in r for r in relations.values()):
            choices.append((lists, "multi_choice", "api_last"))
        if all(r & {"a", "b"} for r in relations.values()):
            wins = [0] * len(lists)
            for (i, j), r in relations.items():
                wins[i if "a" in r else j] += 1
            ordered = [lists[i] for i in sorted(range(len(lists)), key=lambda i: -wins[i])]
            if len(pairs) < len(lists) * (len(lists) - 1) // 2:
                ordered = self._sort_by_choice(lists)
            choices.append((ordered, "multi_choice", "app_choice"))
        if all("both" in r for r in relations.values()) and all(one.view - base_view for one in lists):
            made = (_decompose(lists, base_view), "multi_select", None)
            choices = [made, *choices] if nested or not choices else [*choices, made]
        out += choices
        if singles_only and out:
            return [(out[0][0], "multi_choice", None)]
        if not out:
            kinds = sorted({k for r in relations.values() for k in r})
            raise Reject(f"mixed: the matching order differs between pairs of lists ({', '.join(kinds)})")
        return out

    def _sort_by_choice(self, lists: list[_List]) -> list[_List]:
        import functools

        def before(a: _List, b: _List) -> int:
            ab = self.view(self.session.output([x for x, _ in (*a.witness, *b.witness)], self.top))
            return -1 if ab == a.view else 1

        return sorted(lists, key=functools.cmp_to_key(before))

    # --- thresholds -------------------------------------------------------------------------------------------------

    def _at_score(self, labels: Sequence[str], score: float) -> View:
        return self.view(tuple((label, score) for label in labels))

    def _thresholds(self, lists: list[_List], base_view: View, kind: str) -> None:
        of_group: dict[int, Threshold | None] = {}
        for one in lists:
            labels = [x for x, _ in one.witness]
            known = of_group.get(one.group)
            if (
                one.group in of_group
                and len(labels) == 1
                and not one.clauses
                and self._same_threshold(labels[0], known)
            ):
                one.threshold = known  # labels that one test lets through, each with an outcome of its own
            else:
                one.threshold = self._threshold(labels, one.view, base_view)
                of_group.setdefault(one.group, one.threshold)
            for label in one.labels:
                if label not in labels and not one.clauses and not self._same_threshold(label, one.threshold):
                    found = self._threshold([label], self.single(label), base_view)
                    if found != one.threshold:
                        one.label_thresholds[label] = found or Threshold(">=", 0.0)

    def _same_threshold(self, label: str, threshold: Threshold | None) -> bool:
        """True if two probes around the threshold of a list's first member show the same for another member."""
        scale = self.session.spec.scale
        high = self.single(label)
        if threshold is None:
            return all(self._at_score([label], s * scale) == high for s in (0.0001, 0.5))
        below, above = max(threshold.value - 1e-3 * scale, 1e-5 * scale), threshold.value + 1e-3 * scale
        return self._at_score([label], below) != high and self._at_score([label], above) == high

    def _threshold(self, labels: Sequence[str], high: View, base_view: View) -> Threshold | None:
        scale = self.session.spec.scale
        top = self.top * scale
        grid = [round(scale * x, 6) for x in (0.0001, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)]
        grid = [g for g in grid if g < top]
        views = [self._at_score(labels, g) for g in grid]
        states = [v == high for v in views]
        if all(states):
            return None
        if any(
            not s and v != base_view and v != self._weak(labels, g) for s, v, g in zip(states, views, grid, strict=True)
        ):
            raise _Graded("the outcome of one label changes with its score", labels)
        flips = sum(a != b for a, b in zip(states, [*states[1:], True], strict=True))
        if flips != 1:
            raise Reject("a label counts only within a band of scores")
        low = max(g for g, s in zip(grid, states, strict=True) if not s)
        up = min((g for g, s in zip(grid, states, strict=True) if s), default=top)
        for _ in range(14):
            middle = (low + up) / 2
            if self._at_score(labels, middle) == high:
                up = middle
            else:
                low = middle
        value = self._snap(low, up)
        return Threshold(">=" if self._at_score(labels, value) == high else ">", value)

    def _by_score(self, lists: list[_List], base_view: View) -> list[_List]:
        """Split lists whose outcome is graded by the score into one list per grade, the highest first."""
        scale = self.session.spec.scale
        marks = {scale * i / 25 for i in range(1, 25)}
        for number in self.session.numbers:
            marks.update(
                v
                for n in (number, number / 100, number * 100)
                for v in (n, n - 1e-4 * scale, n + 1e-4 * scale)
                if 0 < v < scale * self.top
            )
        ordered = sorted({round(m, 9) for m in marks} | {scale * self.top})
        out: list[_List] = []
        for one in lists:
            labels = [x for x, _ in one.witness]
            points = _breakpoints(partial(self._at_score, labels), ordered[0], ordered[-1], ordered)
            edges = [0.0, *points, scale * self.top]
            grades = []
            for low, high in itertools.pairwise(edges):
                middle = (low + high) / 2
                view = self._at_score(labels, middle)
                if view != base_view and view != self._weak(labels, middle):
                    threshold = None
                    if low > 0:
                        threshold = Threshold(">=" if self._at_score(labels, low) == view else ">", low)
                    witness = tuple((x, round(middle, 6)) for x in labels)
                    grades.append(replace(one, view=view, witness=witness, threshold=threshold, label_thresholds={}))
                elif grades:
                    raise Reject("a label counts only within a band of scores")
            for label in one.labels:
                if any(self._at_score([label], g.witness[0][1]) != g.view for g in grades) and not one.echo:
                    raise Reject("the outcome of one label changes with its score, differently for different labels")
            out += reversed(grades)
        return out

    def _weak(self, labels: Sequence[str], score: float) -> View:
        """What the application does with a label that nothing tests, at the same score."""
        return self.view(((self.session.nothing, score),)) if self.base == "other" else self.view(())

    def _snap(self, low: float, up: float) -> float:
        """The number of the source, or the shortest decimal, within an interval found by bisection."""
        slack = self.session.spec.scale * 1e-6
        for number in self.session.numbers:
            for value in (number, number / 100, number * 100):
                if low - slack <= value <= up + slack:
                    return value
        for digits in range(1, 9):
            value = round((low + up) / 2, digits)
            if low - slack <= value <= up + slack:
                return value
        return (low + up) / 2

    # --- verification -----------------------------------------------------------------------------------------------

    def _verify(
        self, lists: list[_List], kind: str, order: str | None, window: int | None, base_view: View, silent: list[str]
    ) -> None:
        """Compare the process found with the application on random outputs; refuse it if they differ anywhere."""
        session = self.session
        if session.spec.kind == "single":
            return
        summary = _as_summary(session, lists, kind, order, window, known_only=False)
        rng = for_component(0, "chameleonapi.parser.verify")
        members = [one.labels for one in lists]
        neutral = [v for v in _sample(session.vocabulary, 40) if not any(v in m for m in members)]
        neutral = [v for v in neutral if not any(v in one.unless for one in lists)] + list(self.fillers[:3])
        in_source = [c for c in (*silent, *session.constants) if c in set(session.vocabulary) or c in silent]
        known = set(session.vocabulary)
        quiet = [c for c in in_source if c not in self.active and not any(c in m for m in members)]
        quiet = sorted(dict.fromkeys(quiet), key=lambda c: c not in known)[:12]
        repeats = session.repeats
        outputs: list[list[str]] = []
        for i, one in enumerate(lists[:6]):
            other = lists[(i + 1) % len(lists)]
            outputs.append([one.labels[0], *(other.labels[:3] if other is not one else []), *one.labels[1:2]])
            outputs.append([*one.labels[:3]])
            if one.echo is False and repeats:
                outputs.append([one.labels[0]] * 3)
                outputs.append([one.labels[0]] * session.count_limit)
                outputs.append([one.labels[0], *[other.labels[-1]] * 2])
        while len(outputs) < _NUM_CHECKS:
            size = int(rng.integers(1, 7))
            chosen: list[str] = []
            for _ in range(size):
                draw = rng.random()
                if draw < 0.65:
                    pool = members[int(rng.integers(len(members)))]
                elif draw < 0.8 and quiet:
                    pool = quiet
                else:
                    pool = neutral
                chosen.append(pool[int(rng.integers(len(pool)))])
            outputs.append(chosen)
        scale = session.spec.scale
        for label in (*quiet, *(one.labels[0] for one in lists[:6])):
            # A label that leads the next one by far ("only if it is clearly a cat").
            output: Output = ((label, round(scale * 0.97, 6)), (self.fillers[0], round(scale * 0.3, 6)))
            if not _near_threshold(lists, output, scale):
                self._check(summary, lists, kind, base_view, output)
        for one in lists[:6]:
            if one.threshold is not None and not one.clauses:
                # Several labels below the threshold: their sum would be above it.
                several = one.labels[:1] * 4 if repeats else _one_spelling(one.labels[:4], known)
                self._check(summary, lists, kind, base_view, tuple((x, 0.9 * one.threshold.value) for x in several))
        for number, labels in enumerate(outputs):
            unique = labels if repeats else _one_spelling(labels, known)
            if number % 2:
                scores = sorted((float(s) for s in rng.uniform(0.02, 0.985, len(unique))), reverse=True)
                output = tuple((x, round(scale * s, 4)) for x, s in zip(unique, scores, strict=True))
            else:
                output = session.output(unique, self.top)
            if _near_threshold(lists, output, scale):
                continue
            self._check(summary, lists, kind, base_view, output)
        if self.base == "other":
            empty = self.view(())
            if empty != base_view and not self.padding:
                self.empty_differs = True

    empty_differs = False

    def _check(self, summary: DecisionSummary, lists: list[_List], kind: str, base_view: View, output: Output) -> None:
        chosen = [lists[c] for c in summary.decide(output)]
        if not self._agrees(self.view(output), chosen, lists, kind, base_view, output):
            shown = ", ".join(f"{x} {s:g}" for x, s in output)
            raise Reject(f"the effects do not follow from single labels: the output [{shown}] is treated differently")

    def _agrees(
        self, view: View, chosen: list[_List], lists: list[_List], kind: str, base_view: View, output: Output
    ) -> bool:
        if not chosen:
            return view == base_view or view == self.view(tuple((self.session.nothing, s) for _, s in output[:1]))
        if kind != "multi_select":
            return view == chosen[0].view
        removed = {a for one in chosen for a in base_view - one.view}
        added = {a for one in chosen for a in one.view - base_view}
        if view == (base_view - removed) | added:
            return True
        known = [one.view for one in [*chosen, *lists[:3]]]
        return all(_includes(view, one.view, base_view, known) for one in chosen) and not any(
            _includes(view, one.view, base_view, known)
            for one in lists
            if one not in chosen and not _covered(one, chosen, base_view)
        )


def replace_session(analysis: Analysis, session: Session) -> Analysis:
    """The same analysis of another session."""
    made = Analysis(session, analysis.keep, analysis.base, analysis.padding, analysis.top)
    made.drop_display_echo = analysis.drop_display_echo
    made.drop_message_echo = analysis.drop_message_echo
    return made


def _words_of(view: View) -> list[tuple[tuple[str, str, str], list[str]]]:
    return sorted((channel, sorted(re.findall(r"\w+", text))) for channel, _, text in view)


class _Counted(Reject):
    """The number of matching labels matters."""

    def __init__(self, reason: str, labels: Sequence[str]) -> None:
        super().__init__(reason)
        self.labels = list(labels)


class _Graded(Reject):
    """The score of a label grades the outcome."""

    def __init__(self, reason: str, labels: Sequence[str]) -> None:
        super().__init__(reason)
        self.labels = list(labels)


def _covered(one: _List, chosen: Iterable[_List], base_view: View) -> bool:
    """True if the effects of a list are among those of the chosen lists anyway."""
    wanted = {t for _, _, t in one.view - base_view}
    given = {t for c in chosen for _, _, t in c.view - base_view}
    return wanted <= given or all(any(w in g for g in given) for w in wanted)


def _name(one: _List) -> str:
    return repr(one.witness[0][0])


def _absorbed(text: str, members: Sequence[str]) -> bool:
    folded = text.casefold().strip()
    return any(folded in m.casefold() for m in members)


def _pairs(count: int) -> list[tuple[int, int]]:
    """All pairs of a few lists; of many, neighbours and a fixed random sample."""
    if count <= 12:
        return [(i, j) for i in range(count) for j in range(i + 1, count)]
    rng = for_component(0, "chameleonapi.parser.pairs")
    pairs = {(i, i + 1) for i in range(min(count - 1, 40))}
    while len(pairs) < 100:
        i, j = sorted(int(x) for x in rng.choice(count, 2, replace=False))
        pairs.add((i, j))
    return sorted(pairs)


def _includes(view: View, part: View, base_view: View, siblings: Iterable[View] = ()) -> bool:
    """True if the effects `view` contain the effects by which `part` differs from the no-match case.

    A text counts as contained if what is particular to it is: what it has beyond the no-match text at the same place or, if there
    is none, beyond the text of another list ("Found Dog" and "Found Cat" are both contained in "Found Dog, Cat").
    """
    added, removed = part - base_view, base_view - part
    if added <= view and not (removed & view):
        return True
    by_channel: dict[tuple[str, str, str], list[str]] = {}
    for channel, _, text in view:
        by_channel.setdefault(channel, []).append(text)
    before: dict[tuple[str, str, str], list[str]] = {}
    for channel, _, text in base_view:
        before.setdefault(channel, []).append(text)
    own = {(c, t) for c, _, t in added}
    for other in siblings:
        for channel, _, text in other - base_view:
            if (channel, text) not in own:
                before.setdefault(channel, []).append(text)
    missing = added - view
    if not missing and removed & view:
        return False
    for channel, _, text in missing:
        cores = [_core(text, other) for other in before.get(channel, [""])]
        given = by_channel.get(channel, [])
        if not all(cores) or not any(core in other for core in cores for other in given):
            return False
    return True


def _core(text: str, before: str) -> str:
    """What `text` has that `before` has not, without the common start and end."""
    start = 0
    while start < min(len(text), len(before)) and text[start] == before[start]:
        start += 1
    end = 0
    while end < min(len(text), len(before)) - start and text[-1 - end] == before[-1 - end]:
        end += 1
    return text[start : len(text) - end].strip(" ,;|/\n[](){}'\"")


def _decompose(lists: list[_List], base_view: View) -> list[_List]:
    """Split effects that contain another list's effects: the label belongs to both lists."""
    deltas = [one.view - base_view for one in lists]
    parts: list[list[int]] = []
    for i, delta in enumerate(deltas):
        inside = [j for j, other in enumerate(deltas) if j != i and other and other < delta]
        parts.append([j for j in inside if not any(j != k and deltas[j] < deltas[k] for k in inside)])
    if not any(parts):
        return lists
    extra: dict[int, list[str]] = {}
    kept: list[_List] = []
    for i, one in enumerate(lists):
        rest = deltas[i] - frozenset(a for j in parts[i] for a in deltas[j])
        for j in parts[i]:
            extra.setdefault(j, []).extend(one.labels)
        if parts[i]:
            if rest:
                kept.append(replace(one, view=base_view - (base_view - one.view) | rest))
        else:
            kept.append(one)
    out = []
    for one in kept:
        i = next(k for k, x in enumerate(lists) if x.labels == one.labels)
        out.append(replace(one, labels=[*one.labels, *extra.get(i, [])]))
    return out


def _merge_equal(lists: list[_List], most: int = 8) -> list[_List]:
    """Lists with the same effect as one: "a selfie, or a face and a person" needs (selfie or face) and (selfie or person)."""
    out: list[_List] = []
    for one in lists:
        for i, known in enumerate(out):
            if known.view != one.view or known.unless or one.unless or known.echo or one.echo:
                continue
            left, right = known.clauses or [known.labels], one.clauses or [one.labels]
            if len(left) * len(right) > most:
                continue
            clauses = [list(dict.fromkeys([*a, *b])) for a in left for b in right]
            shorter = known if len(known.witness) <= len(one.witness) else one
            labels = list(dict.fromkeys([*known.labels, *one.labels]))
            out[i] = replace(shorter, labels=labels, clauses=clauses if len(clauses) > 1 else [])
            break
        else:
            out.append(one)
    return out


def _one_spelling(labels: Sequence[str], known: set[str]) -> list[str]:
    """Each label once, and in one spelling: an API that answers "Cat" does not answer "cat" beside it."""
    kept: dict[str, str] = {}
    for label in labels:
        folded = label.casefold()
        if folded not in kept or (label in known and kept[folded] not in known):
            kept[folded] = label
    return list(dict.fromkeys(kept.values()))


def _near_threshold(lists: list[_List], output: Output, scale: float) -> bool:
    """True if a score is so close to a threshold found by bisection that it proves nothing."""
    for one in lists:
        limits = [t for t in (one.threshold, *one.label_thresholds.values()) if t is not None]
        if any(abs(t.value - s) < 1e-3 * scale for t in limits for _, s in output):
            return True
    return False


def _sample(items: Sequence[str], count: int) -> list[str]:
    step = max(1, len(items) // count)
    return list(items[::step])[:count]


def _as_summary(
    session: Session, lists: list[_List], kind: str, order: str | None, window: int | None, known_only: bool = True
) -> DecisionSummary:
    known = set(session.vocabulary)
    made = []
    for number, one in enumerate(lists):
        labels = [x for x in one.labels if x in known] if known_only else one.labels
        labels = sorted(labels, key=_rank(session)) if known_only else labels
        clauses = one.clauses
        if known_only:
            clauses = [sorted([x for x in c if x in known] or c, key=_rank(session)) for c in clauses]
        made.append(
            TargetList(
                id=number,
                labels=tuple(labels),
                clauses=tuple(tuple(c) for c in clauses),
                unless=tuple(x for x in one.unless if x in known or not known_only),
                threshold=one.threshold,
                label_thresholds={k: v for k, v in one.label_thresholds.items() if k in known or not known_only},
                group=one.group,
                label_echo=one.echo,
            )
        )
    spec = session.spec
    return DecisionSummary(
        spec.api, spec.name, kind, order if kind == "multi_choice" else None, tuple(made), window, scale=spec.scale
    )


def _rank(session: Session) -> Callable[[str], int]:
    places = {label: i for i, label in enumerate(session.vocabulary)}
    return lambda label: places.get(label, len(places))


# --- numbers ----------------------------------------------------------------------------------------------------------


def numeric_variables(session: Session, keep: Callable[[Atom], bool]) -> tuple[NumericVariable, ...]:
    """Breakpoints of the numbers of an answer and what happens between them.

    Raises:
        NoVariation: the numbers change nothing.
        Reject: the numbers are compared or combined with each other.
    """
    spec = session.spec
    middle = {name: (low + high) / 2 if low < 0 else low for name, low, high in spec.variables}
    found: list[NumericVariable] = []
    cuts_of: dict[str, set[float]] = {}
    anchors = _anchors(session)

    def view(numbers: dict[str, float]) -> View:
        atoms = session.observe(numbers).atoms
        return frozenset((a.channel, a.pattern, a.pattern) for a in atoms if keep(a))

    constants = sorted({v for n in session.numbers for v in (n, -n, n / 100, -n / 100)})
    for name, low, high in spec.variables:
        helds: list[dict[str, float]] = [middle]
        for other, other_low, other_high in spec.variables:
            if other != name:
                # One value of the other numbers in every interval that the source's constants cut.
                cuts = [other_low, *(c for c in constants if other_low < c < other_high), other_high]
                values = [other_low, other_high, *((a + b) / 2 for a, b in itertools.pairwise(cuts))]
                helds += [{**middle, other: value} for value in dict.fromkeys(values[:12])]
        best: NumericVariable | None = None
        cuts_of[name] = set()
        for held in helds:
            numbers = partial(_with_number, held, name)
            points = _breakpoints(partial(_view_at, view, numbers), low, high, anchors(low, high))
            cuts_of[name].update(points)
            if points and (best is None or len(points) > len(best.breakpoints)):
                intervals = _intervals(session, keep, numbers, points, low, high)
                best = NumericVariable(name, tuple(points), intervals, {k: v for k, v in held.items() if k != name})
        if best is not None:
            found.append(best)
    if not found:
        raise NoVariation("no value of the API's numbers changes what the application does")
    if len(spec.variables) > 1:
        _check_cells(session, view, {name: sorted(points) for name, points in cuts_of.items()})
    return tuple(found)


def _check_cells(
    session: Session, view: Callable[[dict[str, float]], View], cuts_of: dict[str, list[float]], num_checks: int = 60
) -> None:
    """Reject numbers that are compared with each other: between the breakpoints nothing may change."""
    rng = for_component(0, "chameleonapi.parser.cells")
    for _ in range(num_checks):
        one: dict[str, float] = {}
        two: dict[str, float] = {}
        for name, low, high in session.spec.variables:
            edges = [low, *(c for c in cuts_of[name] if low < c < high), high]
            i = int(rng.integers(len(edges) - 1))
            one[name], two[name] = (edges[i] + (edges[i + 1] - edges[i]) * float(x) for x in rng.uniform(0.02, 0.98, 2))
        if view(one) != view(two):
            shown = "; ".join(", ".join(f"{k} {v:.3g}" for k, v in point.items()) for point in (one, two))
            raise Reject(f"the numbers of the answer are compared or combined with each other ({shown} differ)")


def _with_number(held: dict[str, float], name: str, value: float) -> dict[str, float]:
    return {**held, name: value}


def _view_at(
    view: Callable[[dict[str, float]], View], numbers: Callable[[float], dict[str, float]], value: float
) -> View:
    return view(numbers(value))


def _anchors(session: Session) -> Callable[[float, float], list[float]]:
    def values(low: float, high: float) -> list[float]:
        span = high - low
        marks = {low, high, *(low + span * i / 10 for i in range(11))}
        for number in session.numbers:
            for value in (number, -number, number / 100, -number / 100):
                if low <= value <= high:
                    marks.update((value, max(low, value - span * 1e-4), min(high, value + span * 1e-4)))
        return sorted(round(m, 9) for m in marks)[:200]

    return values


def _breakpoints(view: Callable[[float], View], low: float, high: float, marks: list[float]) -> list[float]:
    points: list[float] = []
    previous = view(marks[0])
    for left, right in itertools.pairwise(marks):
        current = view(right)
        if current != previous:
            a, b = left, right
            for _ in range(30):
                if b - a < 1e-7 * (high - low):
                    break
                middle = (a + b) / 2
                if view(middle) == previous:
                    a = middle
                else:
                    b = middle
            value = next(
                (round((a + b) / 2, d) for d in range(1, 8) if a - 1e-7 <= round((a + b) / 2, d) <= b + 1e-7),
                (a + b) / 2,
            )
            if not points or abs(points[-1] - value) > 1e-6 * (high - low):
                points.append(value + 0.0)  # no negative zero
        previous = current
    return points


def _intervals(
    session: Session,
    keep: Callable[[Atom], bool],
    numbers: Callable[[float], dict[str, float]],
    points: list[float],
    low: float,
    high: float,
) -> tuple[Interval, ...]:
    def shown(x: float) -> tuple[View, str]:
        atoms = [a for a in session.observe(numbers(x)).atoms if keep(a)]
        return frozenset((a.channel, a.pattern, a.pattern) for a in atoms), describe(atoms)

    edges = [low, *[p for p in points if low < p < high], high]
    out: list[Interval] = []
    views: list[View] = []
    for a, b in itertools.pairwise(edges):
        inner, text = shown((a + b) / 2)
        at_low, _ = shown(a)
        at_high, _ = shown(b)
        out.append(Interval(a, b, at_low == inner, at_high == inner, text))
        views.append(inner)
        if at_high != inner and b < high:
            following, _ = shown((b + edges[edges.index(b) + 1]) / 2)
            if at_high != following:
                out.append(Interval(b, b, True, True, shown(b)[1]))
    return tuple(out)


def describe(atoms: Iterable[Atom]) -> str:
    """Effects in words."""
    words = {
        "return": "returns", "print": "prints", "log": "logs", "raise": "raises", "set": "sets", "write": "writes",
        "wait": "waits", "attribute": "sets self.", "global": "sets global ", "variable": "sets ",
        "argument": "changes its argument",
    }  # fmt: skip
    parts = []
    for atom in sorted(atoms, key=lambda a: (a.category, a.name, a.path, a.text)):
        text = atom.pattern.replace(TEXT_MARK, "{label}").replace(NUMBER_MARK, "{number}")
        text = text if len(text) <= 80 else text[:77] + "..."
        if atom.category == "call":
            parts.append(f"calls {atom.name}{atom.path}({text})")
        elif atom.category in ("attribute", "global", "variable"):
            parts.append(f"{words[atom.category]}{atom.name}{atom.path} = {text}")
        elif atom.category == "set":
            parts.append(f"sets {atom.name}{atom.path} = {text}")
        elif atom.category == "raise":
            parts.append(f"raises {atom.name} {text}".strip())
        else:
            parts.append(f"{words.get(atom.category, atom.category)} {atom.path + ' ' if atom.path else ''}{text!r}")
    return "; ".join(parts[:6]) + ("; ..." if len(parts) > 6 else "")


def count_variable(
    session: Session, analysis: Analysis, labels: Sequence[str]
) -> tuple[NumericVariable, Threshold | None] | None:
    """A decision on how many matching labels there are, if that is what the application takes, and the score that counts."""
    in_vocabulary = set(session.vocabulary)
    plain = analysis.view(session.output([session.nothing]))
    known = [x for x in dict.fromkeys(labels) if x in in_vocabulary] or list(dict.fromkeys(labels))
    fillers = session.fillers
    if not session.repeats and len(known) < 2:
        return None
    limit = session.count_limit if session.repeats else min(session.count_limit, len(known))
    if session.repeats:
        # Members: labels whose repetition matters. Those of the first one's kind, that is with the same course of effects.
        def course(label: str) -> tuple[View, ...]:
            return tuple(analysis.view(session.output([label] * n)) for n in (1, 2, 3, 6, limit))

        courses = {x: course(x) for x in known[:60]}
        moving = [x for x in courses if any(v != plain for v in courses[x])]
        if not moving or any(courses[x] != courses[moving[0]] for x in moving):
            return None
        known = moving

    def output(count: int) -> Output:
        return session.output([*(known[i % len(known)] for i in range(count)), fillers[0]])

    views = [analysis.view(output(count)) for count in range(limit + 1)]
    points = [i - 0.5 for i in range(1, len(views)) if views[i] != views[i - 1]]
    if not points or points == [0.5]:
        return None
    rng = for_component(0, "chameleonapi.parser.counts")
    if any(x in in_vocabulary and x not in known for x in analysis.active):
        return None  # other labels do something of their own
    others = [c for c in session.constants if c in in_vocabulary and c not in known] + list(fillers[:4])
    for _ in range(30):
        count = int(rng.integers(0, limit + 1))
        chosen = [
            known[int(i)]
            for i in (rng.integers(0, len(known), count) if session.repeats else rng.permutation(len(known))[:count])
        ]
        chosen += [others[int(i)] for i in rng.permutation(len(others))[: int(rng.integers(0, 3))]]
        mixed = [chosen[int(i)] for i in rng.permutation(len(chosen))]
        if analysis.view(session.output(mixed)) != (views[count] if mixed else analysis.view(())):
            return None
    for other in others[:30]:
        for count in dict.fromkeys((0, 1, 2, limit)):
            chosen = [known[i % len(known)] for i in range(count)]
            if analysis.view(session.output([*chosen, other])) != views[count]:
                return None
    try:
        threshold = _count_threshold(session, analysis, known, views, rng)
    except Reject:
        return None  # a sum or a product of scores: high ones look like a count
    edges = [0, *(int(p + 0.5) for p in points), limit + 1]
    intervals = []
    for a, b in itertools.pairwise(edges):
        atoms = [x for x in session.observe(output(a)).atoms if analysis.keep(x)]
        last = float("inf") if b == limit + 1 else float(b - 1)
        intervals.append(Interval(float(a), last, True, True, describe(atoms)))
    return NumericVariable("count", tuple(points), tuple(intervals), {}, tuple(known)), threshold


def _count_threshold(
    session: Session, analysis: Analysis, known: list[str], views: list[View], rng: np.random.Generator
) -> Threshold | None:
    """The score from which a label is counted, or None if every label is.

    Raises:
        Reject: what is done does not follow from how many labels have such a score.
    """
    scale, limit = session.spec.scale, len(views) - 1
    filler = session.fillers[0]

    def at(scores: Sequence[float]) -> View:
        ordered = sorted(scores, reverse=True)
        lowest = min(ordered, default=0.01)
        matching = [(known[i % len(known)], round(scale * s, 6)) for i, s in enumerate(ordered)]
        return analysis.view((*matching, (filler, round(scale * lowest / 2, 6))))

    threshold: Threshold | None = None
    if at([0.02] * limit) != views[limit]:
        low, up = 0.02, 0.9
        if at([up] * limit) != views[limit] or at([low] * limit) != views[0]:
            raise Reject("the count changes with the scores in another way than by a threshold")
        for _ in range(16):
            middle = (low + up) / 2
            low, up = (low, middle) if at([middle] * limit) == views[limit] else (middle, up)
        value = analysis._snap(scale * low, scale * up)
        threshold = Threshold(">=" if at([value / scale] * limit) == views[limit] else ">", value)
    trials = [[float(s) for s in rng.uniform(0.03, 0.98, int(rng.integers(1, limit + 1)))] for _ in range(12)]
    if threshold is not None:
        # One score below the threshold among high ones: a sum or a product would still be large.
        edge = threshold.value / scale
        trials += [
            [0.97] * (n - 1) + [edge - gap] for n in dict.fromkeys((2, limit)) for gap in (0.02, 0.1) if edge > gap
        ]
    for scores in trials:
        if session.counts_instances:  # the boxes of one label have its score
            scores = scores[:1] * len(scores)
        if threshold is not None and any(abs(s - threshold.value / scale) < 1e-3 for s in scores):
            continue
        counted = sum(threshold is None or threshold.passes(scale * s) for s in scores)
        if at(scores) != views[counted]:
            raise Reject("the count changes with the scores in another way than by a threshold")
    return threshold
