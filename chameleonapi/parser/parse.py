"""The parser: from an application's source to its decision summaries.

    files --> entry points --> search over opaque branches --> API fields reached --> probing --> DecisionSummary

Nothing of the application runs. What cannot be decided is refused with a reason, a file and a line.
"""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from chameleonapi.decisions import DecisionSummary, Span, TargetList
from chameleonapi.parser import library, probing, words
from chameleonapi.parser.effects import Atom
from chameleonapi.parser.entries import Entry, find_entries
from chameleonapi.parser.evaluator import Branch, Evaluator, Refusal, Run
from chameleonapi.parser.probing import Analysis, NoVariation, Reject, Session
from chameleonapi.parser.providers import CUSTOMIZED, FIELDS, Site
from chameleonapi.parser.sources import Application, read_application
from chameleonapi.parser.values import NUMBER_MARK, TEXT_MARK, ClassValue, FunctionValue
from chameleonapi.vocabularies import load_vocabulary

_CATEGORICAL = ("true_false", "multi_choice", "multi_select")
_MAX_SEARCH = 40
_MAX_CONSTANTS = 400
_NO_LABEL_TEXT = re.compile(r"[\\|*^$?{}<>\n\t]")  # messages, patterns, markup: never the text of a label
_OTHER_FIELD = {"Labels": "Labels.Parents", "ModerationLabels": "ModerationLabels.ParentName"}
_ACCIDENTS = ("IndexError", "KeyError", "TypeError", "AttributeError", "ZeroDivisionError", "StopIteration")
_REGEX_SIGNS = re.compile(r"\\b|[()^$?]")


@dataclass
class ParseReport:
    """What the parser found in an application.

    Attributes:
        decisions: one summary per decision; an application may have several. Empty only if `reason` says why.
        reason: why there is no decision at all, with file and line; empty otherwise.
        other_apis: calls of ML features that are recognised and not customized, with their places.
        num_probes: evaluations of the application.
    """

    application: str
    decisions: list[DecisionSummary] = field(default_factory=list)
    reason: str = ""
    other_apis: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_probes: int = 0

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "application": self.application,
            "decisions": [d.to_json() for d in self.decisions],
            "reason": self.reason,
            "other_apis": self.other_apis,
            "notes": self.notes,
            "num_probes": self.num_probes,
        }


@dataclass
class _Vector:
    """Decisions on opaque branches under which an API field is reached."""

    choices: dict[int, bool]
    in_handler: bool
    run: Run


class Parser:
    """Parses one application.

    Args:
        app: its source.
        vocabularies: labels by vocabulary name ("image", "topic", ...); missing ones are the bundled ones.
    """

    def __init__(self, app: Application, vocabularies: Mapping[str, Sequence[str]] | None = None) -> None:
        self.app = app
        self.vocabularies = dict(vocabularies or {})
        self.constants, self.numbers = _constants(app)
        self.num_probes = 0
        self._passed_on: tuple[str, int] | None = None  # where an answer leaves the application
        self._stratum = ""  # the effects on which the last decision found rests

    def parse(self) -> ParseReport:
        """Find every decision that the application takes on the answer of an ML API."""
        app = self.app
        report = ParseReport(app.root.name)
        entries, seen_calls = find_entries(app)
        for problem in app.problems:
            place = f"{problem.path}:{problem.line}: does not parse as Python 3 ({problem.message})"
            report.notes.append(place)
        if not entries:
            if app.problems:
                p = app.problems[0]
                report.reason = f"{p.path}:{p.line}: the file does not parse as Python 3 ({p.message})"
                if any(_mentions_api(x.text) for x in app.problems):
                    report.decisions.append(_unsupported("unknown", "", report.reason, Span(p.path, p.line)))
            else:
                report.reason = (
                    "no call of a known ML API was found" if not seen_calls else "no entry point reaches the API call"
                )
            return report
        self.evaluator = Evaluator(app)
        found: dict[tuple[Site, str], list[tuple[Entry, list[DecisionSummary]]]] = {}
        reached: set[tuple[Site, str]] = set()
        sites: dict[Site, dict[str, Any]] = {}
        failures: list[str] = []
        vectors_of: dict[tuple[Entry, tuple[Site, str]], _Vector] = {}
        weak: set[tuple[Site, str]] = set()  # decisions of a script that only its variables show
        for entry in entries:
            if entry.rank and (found or reached) and not weak and not self._reaches_new(entry, sites):
                continue
            try:
                vectors = self._explore(entry, sites)
            except Refusal as refusal:
                failures.append(_located(refusal, entry))
                continue
            for key, vector in vectors.items():
                if entry.rank and key in reached and key not in weak:
                    continue
                self._stratum = ""
                made = self._decisions(entry, key, vector, sites)
                if key in weak and key in reached:
                    # What a function hands back says more than what a script's last variables happen to hold.
                    if self._stratum in ("variables", "unclear") or any(d.kind not in _CATEGORICAL for d in made):
                        continue
                    found[key] = []
                    weak.discard(key)
                elif not entry.name and self._stratum in ("variables", "unclear"):
                    weak.add(key)
                reached.add(key)
                vectors_of[(entry, key)] = vector
                found.setdefault(key, []).append((entry, made))
        self._retry_together(found, vectors_of, sites)
        self._collect(report, found, sites, failures)
        report.num_probes = self.num_probes
        return report

    def _retry_together(
        self,
        found: dict[tuple[Site, str], list[tuple[Entry, list[DecisionSummary]]]],
        vectors_of: dict[tuple[Entry, tuple[Site, str]], _Vector],
        sites: dict[Site, dict[str, Any]],
    ) -> None:
        """Probe fields that changed nothing again while the other APIs answer a label that the application reacts to.

        "A cat, and nothing violent": the second API only matters once the first one has answered.
        """
        useful: dict[tuple[Site, str], tuple[tuple[str, float], ...]] = {}
        for key, results in found.items():
            for _, made in results:
                for decision in made:
                    if decision.lists and decision.kind in _CATEGORICAL:
                        first = decision.lists[0]
                        labels = (
                            [c[0] for c in first.clauses if c] if len(first.clauses) > 1 else list(first.labels[:1])
                        )
                        useful.setdefault(key, tuple((x, 0.99 * decision.scale) for x in labels))
        if not useful:
            return
        for key, results in found.items():
            for i, (entry, made) in enumerate(results):
                others = {k: v for k, v in useful.items() if k != key and k[0] != key[0]}
                if not others or any(d.kind != "constant" for d in made) or FIELDS[key[1]].kind != "labels":
                    continue
                session = self._session(entry, key, vectors_of[(entry, key)].choices, others)
                try:
                    again = self._analyse(entry, session, sites.get(key[0], {}))
                except Refusal:
                    continue
                finally:
                    self.num_probes += session.num_runs
                if again and all(d.kind in _CATEGORICAL for d in again):
                    shown = "; ".join(f"{FIELDS[k[1]].api}: {', '.join(x for x, _ in v)}" for k, v in others.items())
                    note = f"only matters together with other answers; probed with {shown}"
                    results[i] = (entry, [replace(d, warnings=(note, *d.warnings)) for d in again])

    def _reaches_new(self, entry: Entry, sites: dict[Site, dict[str, Any]]) -> bool:
        """True if the entry's own code holds a call site that no earlier entry reached."""
        lines = {s.line for s in sites if s.path == entry.path}
        tree = self.app.trees[entry.path]
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.lineno == entry.line:
                from chameleonapi.parser.providers import ALL_METHODS

                return any(
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Attribute)
                    and call.func.attr in ALL_METHODS
                    and call.lineno not in lines
                    for call in ast.walk(node)
                )
        return False

    # --- entry points -----------------------------------------------------------------------------------------------

    def _entry_call(self, entry: Entry) -> Callable[[], None]:
        ev = self.evaluator
        if not entry.name:
            return lambda: ev.run_module(entry.path)
        module = ev.module(entry.path)
        outer, is_nested, _ = entry.name.partition(".<locals>.")

        def find() -> FunctionValue | None:
            owner, _, method = outer.rpartition(".")
            holder: Any = module.variables.get(owner) if owner else None
            if isinstance(holder, ClassValue):
                found = holder.attributes.get(method)
                if isinstance(found, FunctionValue) and found.owner is None:
                    found.owner = holder
            else:
                found = module.variables.get(method)
            return found if isinstance(found, FunctionValue) else None

        function = find()
        definition = next(
            (
                node
                for node in ast.walk(self.app.trees[entry.path])
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.lineno == entry.line
            ),
            None,
        )
        if function is None:
            raise Refusal(f"the function {outer} is not defined when the module is loaded", entry.path, entry.line)
        if is_nested:
            return lambda: ev.run_nested(function, entry.line)
        return lambda: ev.run_function(function, definition)

    def _explore(self, entry: Entry, sites: dict[Site, dict[str, Any]]) -> dict[tuple[Site, str], _Vector]:
        """Breadth-first search over opaque branches for runs that reach the API calls."""
        call = self._entry_call(entry)
        queue: list[dict[int, bool]] = [{}]
        tried: set[frozenset[tuple[int, bool]]] = set()
        found: dict[tuple[Site, str], _Vector] = {}
        refusal: Refusal | None = None
        num_runs = 0
        while queue and num_runs < _MAX_SEARCH:
            choices = queue.pop(0)
            key = frozenset(choices.items())
            if key in tried:
                continue
            tried.add(key)
            num_runs += 1
            run = Run(choices=choices)
            try:
                self.evaluator.execute(run, call)
            except Refusal as problem:
                refusal = refusal or problem
            self.num_probes += 1
            for site, request in run.sites.items():
                sites.setdefault(site, {}).update(request)
            finals = {a: where for atoms, where in run.finals.values() for a in atoms}
            for atom, where in {**finals, **run.atoms}.items():
                if atom.echoes and atom.category not in ("log", "print", "variable", "attribute"):
                    self._passed_on = self._passed_on or where
            for target in run.seen:
                vector = _Vector(dict(choices), run.handler_before_api, run)
                known = found.get(target)
                if known is None or (known.in_handler and not vector.in_handler):
                    found[target] = vector
            # Flip what was decided before the API was reached; once it is, also what hides its answer.
            for node_key, branch in run.branches.items():
                if node_key not in choices and (not run.seen or not branch.after_api or num_runs < 12):
                    queue.append({**choices, node_key: not branch.default})
            if found and all(not v.in_handler for v in found.values()) and num_runs >= 12:
                break
        if not found and refusal is not None:
            raise refusal
        return found

    # --- one field at one entry -------------------------------------------------------------------------------------

    def _session(self, entry: Entry, key: tuple[Site, str], choices: dict[int, bool], neutral: Any) -> Session:
        site, field_name = key
        spec = FIELDS[field_name]
        vocabulary = self._vocabulary(spec.vocabulary)
        session = Session(
            self.evaluator,
            self._entry_call(entry),
            site,
            field_name,
            choices,
            vocabulary,
            self.constants,
            self.numbers,
            neutral,
        )
        if spec.vocabulary in ("sentiment", "emotion", "google_entity", "aws_entity"):
            # Complete enumerations: another text can only be a misspelt member.
            folded = {v.casefold() for v in vocabulary}
            session.constants = tuple(c for c in self.constants if c.casefold() in folded)
        if session.has_paths:  # a text that is no path can never be a label, and applications take paths apart
            session.constants = tuple(c for c in self.constants if c.startswith("/"))
        return session

    def _vocabulary(self, name: str) -> tuple[str, ...]:
        if not name:
            return ()
        if name in self.vocabularies:
            return tuple(self.vocabularies[name])
        if name == "object" and "image" in self.vocabularies:
            return tuple(self.vocabularies["image"])
        return load_vocabulary(name)

    def _decisions(
        self, entry: Entry, key: tuple[Site, str], vector: _Vector, sites: dict[Site, dict[str, Any]]
    ) -> list[DecisionSummary]:
        site, field_name = key
        problem: list[DecisionSummary] = []
        for neutral in ("empty", "plain"):
            try:
                session = self._session(entry, key, vector.choices, neutral)
                made = self._analyse(entry, session, sites.get(site, {}))
            except Refusal as refusal:
                made = [_unsupported(*_api_of(key), _located(refusal, entry), _site_span(site, self.app))]
            except RecursionError:
                made = [
                    _unsupported(
                        *_api_of(key), f"{entry.path}:{entry.line}: nested too deeply", _site_span(site, self.app)
                    )
                ]
            finally:
                self.num_probes += session.num_runs
            if made and made[0].kind == "constant" and field_name in _OTHER_FIELD:
                try:
                    session = self._session(entry, (site, _OTHER_FIELD[field_name]), vector.choices, neutral)
                    other = self._analyse(entry, session, sites.get(site, {}))
                    self.num_probes += session.num_runs
                except Refusal:
                    other = []
                if other and other[0].kind not in ("constant", "unsupported"):
                    return other
            if made and made[0].kind != "constant":
                return made
            problem = problem or made
            if len(sites) < 2:
                break
        return problem

    def _analyse(self, entry: Entry, session: Session, request: dict[str, Any]) -> list[DecisionSummary]:
        spec = session.spec
        if spec.kind == "numbers":
            return self._numbers(entry, session, request)
        session = self._settle_branches(session)
        reasons: list[tuple[str, tuple[str, int]]] = []
        varied = False
        # An image has labels; content that needs moderation is the exception, so there no label is the ordinary case.
        bases = ("empty", "other") if "moderation" in spec.vocabulary else ("other", "empty")
        shapes = [(0, 0.99), (10, 0.99), (0, 0.8), (0, 0.6)]
        lengths = self._length_channels(session)
        if self._is_indexed(session):
            shapes.insert(0, shapes.pop(1))
        for number, (padding, top) in enumerate(shapes):
            if number and not self._shows_variation(session, padding, top):
                continue
            for name, stratum in probing._STRATA:
                keep = partial(_is_kept, stratum, lengths) if lengths else stratum
                pauses = any(a.category == "wait" for o in session.cache.values() for a in o.atoms)
                if name == "effects but pauses" and not pauses:
                    continue
                for base in bases:
                    analysis = Analysis(session, keep, base, padding, top)
                    # Displays that repeat the label are commentary when something else already tells the groups apart.
                    analysis.drop_display_echo = True
                    analysis.drop_display_echo = self._tells_apart(session, analysis)
                    if any(a.is_message for o in session.cache.values() for a in o.atoms):
                        spoken = self._grouping(session, analysis, self._sketch(session))
                        analysis.drop_message_echo = True
                        told = self._grouping(session, analysis, self._sketch(session))
                        # One group alone may be told apart by no more than the end of the message (`engine.runAndWait()`).
                        analysis.drop_message_echo = spoken == told and max(told, default=0) > 1
                    try:
                        result = analysis.find()
                    except NoVariation:
                        break  # the other base can show nothing more
                    except probing._Counted as counted:
                        varied = True
                        made = self._counted(entry, session, analysis, counted.labels, request)
                        if made is not None:
                            return [made]
                        reasons.append((counted.reason, counted.where))
                        continue
                    except Reject as reject:
                        varied = True
                        labels = [x for one in analysis_groups(analysis) for x in one] or analysis.pair_members()
                        made = self._counted(entry, session, analysis, labels, request) if labels else None
                        if made is not None:
                            return [made]
                        reasons.append((reject.reason, reject.where))
                        if name == ("effects but pauses" if pauses else "all effects") and base == bases[-1]:
                            split = self._split(entry, session, request, padding, top)
                            if split is not None:
                                return split
                        continue
                    varied = True
                    if name == "variables" and reasons:
                        # What a script's variables hold says nothing once its effects were not understood.
                        self._stratum = "unclear"
                        continue
                    base_view = analysis.view(analysis.base_output)
                    if all(one.view < base_view for one in result[0]) and all(
                        channel[0] == "raise" and channel[1] in _ACCIDENTS for channel, _, _ in base_view
                    ):
                        where = (session.site.path, session.site.line)
                        reasons.append(("labels only decide whether the code fails", where))
                        continue
                    self._stratum = name
                    refusal = self._depends_on_unknown(session, analysis)
                    if session.field_name == "FaceDetails.Emotions" and any(
                        session.is_outvoted(one.witness, analysis.keep) for one in result[0]
                    ):
                        refusal = (
                            f"{session.site.path}:{session.site.line}: faces are counted against each other: the decision does "
                            "not follow from which emotions there are"
                        )
                    arbitrary = analysis.changed_by_set_order(result[0])
                    if refusal is None and arbitrary:
                        refusal = (
                            f"{session.site.path}:{session.site.line}: with the labels {', '.join(arbitrary)} the decision "
                            "depends on the order of a set, which is arbitrary"
                        )
                    refusal = refusal or self._picks_at_random(session)
                    if refusal is None and all(
                        session.needs_several_answers(x.witness, analysis.keep) for x in result[0]
                    ):
                        refusal = (
                            f"{session.site.path}:{session.site.line}: one answer alone decides nothing: the answers of "
                            "several calls are counted together"
                        )
                    if refusal is not None:
                        return [
                            _unsupported(
                                *_api_of((session.site, session.field_name)),
                                refusal,
                                _site_span(session.site, self.app),
                                spec.scale,
                            )
                        ]
                    return [self._summary(entry, session, analysis, result, request)]
                if name == "all effects" and not varied:
                    # Prints and variables may still vary; other subsets of these effects cannot.
                    continue
            first_only = (
                padding == 0 and top == 0.99 and not self._is_indexed(session) and not self._scores_matter(session)
            )
            if varied or first_only:
                break
        if varied:
            unknown = self._unknown_reason(session)
            if unknown is not None:
                return [
                    _unsupported(
                        *_api_of((session.site, session.field_name)), unknown, self._test_span(session), spec.scale
                    )
                ]
            reason, where = reasons[0]
            path, line = where if where[0] else (session.site.path, session.site.line)
            place = f"{path}:{line}: "
            return [
                _unsupported(
                    *_api_of((session.site, session.field_name)), place + reason, self._test_span(session), spec.scale
                )
            ]
        return [self._no_variation(entry, session, request)]

    def _shows_variation(self, session: Session, padding: int, top: float) -> bool:
        """True if outputs of this shape with one label of the source, or one of some others, have different effects."""
        analysis = Analysis(session, lambda atom: True, "other", padding, top)
        plain = {(c, p) for c, p, _ in analysis.single(session.nothing)}
        labels = [*self._sketch(session), *session.vocabulary[:: max(1, len(session.vocabulary) // 40)]]
        return any({(c, p) for c, p, _ in analysis.single(label)} != plain for label in labels)

    def _length_channels(self, session: Session) -> frozenset[tuple[str, str, str]]:
        """Places that only say how long a list beside them is: {"tags": tags, "count": len(tags)}."""
        observed = [session.observe(session.output([x])) for x in (session.nothing, *self._sketch(session)[:60])]
        named = [x for x in self._sketch(session) if x in set(session.vocabulary)]
        observed += [session.observe(session.output(named[i : i + 6])) for i in range(0, min(len(named), 36), 6)]
        channels = dict.fromkeys(a.channel for o in observed for a in o.atoms if a.category in ("return", "call"))
        lists = [c for c in channels if c[2].endswith("[]")]
        out: set[tuple[str, str, str]] = set()
        for number in channels if lists else ():
            texts = [[a.text for a in o.atoms if a.channel == number] for o in observed]
            if len({tuple(t) for t in texts}) < 2 or any(
                len(t) > 1 or not all(x.isdecimal() for x in t) for t in texts
            ):
                continue
            for one in lists:
                sizes = [sum(a.channel == one for a in o.atoms) for o in observed]
                if all(not t or int(t[0]) == size for t, size in zip(texts, sizes, strict=True)):
                    out.add(number)
        return frozenset(out)

    def _is_indexed(self, session: Session) -> bool:
        """True if outputs with one label make the application fail, as reading labels[2] does."""
        run = session.observe(session.output([session.nothing])).run
        # `sys.exit(main())` ends a program that read everything it wanted.
        failed = run.raised is not None and "SystemExit" not in run.raised.names
        return failed or any("Error" in a.text and "index" in a.text for a in run.atoms)

    def _scores_matter(self, session: Session) -> bool:
        """True if the application compares a score with a number."""
        return any(observed.run.number_tests for observed in session.cache.values())

    def _tells_apart(self, session: Session, analysis: Analysis) -> bool:
        """True if something else than displays that repeat the label tells the groups of labels apart.

        A group of which nothing is left but that the no-match text is missing is not told apart if its display stands in for that
        text (`print(found)` shows an empty list otherwise), or if its labels displayed different things.
        """
        plain_atoms = session.observe(analysis.pad(analysis.base_output)).atoms
        plain = {(c, p) for c, p, _ in analysis.view(analysis.base_output)}
        displays: dict[frozenset[Any], set[frozenset[Any]]] = {}
        for label in self._sketch(session):
            left = frozenset((c, p) for c, p, _ in analysis.single(label))
            if left == plain:
                continue
            atoms = session.observe(analysis.pad(session.output([label], analysis.top))).atoms
            shown = {a: where for a, where in atoms.items() if a.is_commentary and analysis.keep(a)}
            displays.setdefault(left, set()).add(frozenset((a.channel, a.pattern) for a in shown))
            if left < plain:
                missing = [w for a, w in plain_atoms.items() if (a.channel, a.pattern) in plain - left]
                if all(where in shown.values() for where in missing):
                    return False
        return bool(displays) and not any(left <= plain and len(shown) > 1 for left, shown in displays.items())

    def _sketch(self, session: Session) -> list[str]:
        known = set(session.vocabulary)
        folded = {c.casefold() for c in session.constants}
        named = [v for v in session.vocabulary if v.casefold() in folded]
        texts = [c for c in session.constants if c not in known]
        return [*named[:150], *texts[:250]]

    # --- values that the source does not determine ------------------------------------------------------------------

    def _partition(self, session: Session, labels: Sequence[str]) -> tuple[tuple[Any, ...], dict[int, Branch]]:
        views = []
        branches: dict[int, Branch] = {}
        nothing = session.observe(session.output([session.nothing]))
        ungated = {(a.channel, a.pattern) for a in nothing.atoms if TEXT_MARK in a.pattern}
        for label in [session.nothing, *labels]:
            observed = session.observe(session.output([label]))
            branches.update(observed.run.branches)
            views.append(
                frozenset(
                    (a.channel, a.pattern)
                    for a in observed.atoms
                    if probing._is_main(a) and (a.channel, a.pattern) not in ungated
                )
            )
        number: dict[Any, int] = {}
        return tuple(number.setdefault(v, len(number)) for v in views), branches

    def _settle_branches(self, session: Session) -> Session:
        """Choose the sides of opaque branches behind the API call under which the labels matter most; note each choice."""
        labels = self._sketch(session)
        partition, branches = self._partition(session, labels)
        best = max(partition)
        flips = 0
        changed = True
        while changed and flips < 16:
            changed = False
            for key, branch in list(branches.items()):
                if not branch.after_api or key in session.choices or flips >= 16:
                    continue
                flips += 1
                other = replace(session, choices={**session.choices, key: not branch.default}, cache={}, num_runs=0)
                try:
                    flipped, more = self._partition(other, labels[:120])
                except Refusal:
                    continue
                finally:
                    session.num_runs += other.num_runs
                if max(flipped) > best:
                    best, session, branches, changed = max(flipped), other, {**branches, **more}, True
                    break
        return session

    def _picks_at_random(self, session: Session) -> str | None:
        """A refusal if one of several matches is picked at random: two labels then offer what each of them does alone."""
        offered: dict[tuple[str, int], set[frozenset[str]]] = {}
        for observed in session.cache.values():
            for place, options in observed.run.picks.items():
                offered.setdefault(place, set()).add(options)
        for (path, line), sets in offered.items():
            if any(one and one < other for one in sets for other in sets):
                return f"{path}:{line}: one of the matches is picked at random"
        return None

    def _depends_on_unknown(self, session: Session, analysis: Analysis) -> str | None:
        """A refusal if the lists depend on something that the source does not determine."""
        branches: dict[int, Branch] = {}
        for observed in list(session.cache.values()):
            for key, branch in observed.run.branches.items():
                known = branches.get(key)
                if known is None or (branch.tainted and not known.tainted):
                    branches[key] = branch
        labels = self._sketch(session)[:60]
        sample = [*labels, *session.vocabulary[:: max(1, len(session.vocabulary) // 20)]]
        base = self._grouping(session, analysis, sample)
        for key, branch in branches.items():
            if not branch.after_api:
                continue
            is_model = library.is_local_model(branch.origin)
            side = session.choices.get(key, branch.default)
            other = replace(session, choices={**session.choices, key: not side}, cache={}, num_runs=0)
            try:
                flipped = self._grouping(
                    other, Analysis(other, analysis.keep, analysis.base, analysis.padding, analysis.top), sample
                )
            except Refusal:
                continue
            session.num_runs += other.num_runs
            if not branch.tainted and not is_model:
                # A side on which fewer labels matter is an assumption; one on which other labels matter is another decision.
                if len(set(zip(base, flipped, strict=True))) > len(set(base)):
                    return (
                        f"{branch.path}:{branch.line}: which labels count depends on a value that is not in the source "
                        f"({branch.origin})"
                    )
            elif flipped != base:
                if is_model:
                    place = f"{branch.path}:{branch.line}"
                    return f"{place}: the decision mixes the API's output with another model ({branch.origin})"
                return (
                    f"{branch.path}:{branch.line}: the API's output is tested against a value that is not in the source "
                    f"({branch.origin})"
                )
        return None

    def _grouping(self, session: Session, analysis: Analysis, labels: Sequence[str]) -> tuple[int, ...]:
        number: dict[Any, int] = {}
        base = analysis.view(analysis.base_output)
        number[frozenset((c, p) for c, p, _ in base)] = 0
        out = []
        for label in labels:
            sig = frozenset((c, p) for c, p, _ in analysis.single(label))
            out.append(number.setdefault(sig, len(number)))
        return tuple(out)

    # --- outcomes ---------------------------------------------------------------------------------------------------

    def _summary(
        self,
        entry: Entry,
        session: Session,
        analysis: Analysis,
        result: tuple[list[Any], str, str | None, int | None, list[str]],
        request: dict[str, Any],
    ) -> DecisionSummary:
        lists, kind, order, window, warnings = result
        found = [(one, words.predicate(one, session, analysis)) for one in lists]
        if order != "app_choice":
            # No order among them: list them as the source mentions them.
            place = {text: i for i, text in enumerate(session.constants)}

            def rank(item: tuple[Any, words.Predicate]) -> tuple[tuple[str, int, int], int]:
                one, tests = item
                where = self._test_place(session, analysis, one)
                return where, min((place[t] for t in tests.texts if t in place), default=len(place))

            found.sort(key=rank)
        lists = [one for one, _ in found]
        made = probing._as_summary(session, lists, kind, order, window)
        known = set(session.vocabulary)
        base_atoms = self._visible(session, analysis, analysis.base_output)
        full: list[TargetList] = []
        for (one, tests), target in zip(found, made.lists, strict=True):
            atoms = self._visible(session, analysis, one.witness)
            delta = [a for a in atoms if a not in base_atoms]
            unknown = [x for x in one.labels if x not in known]
            absorbed = tests.absorbed
            if one.clauses:
                absorbed = tuple(
                    x for x in unknown if any(x.casefold() in v.casefold() for v in one.labels if v in known)
                )
            missing = tuple(x for x in unknown if x not in absorbed)
            full.append(
                replace(
                    target,
                    predicate=tests.text,
                    outcome=probing.describe(delta) or "nothing",
                    unknown_labels=missing,
                    source=self._spans(session, analysis, one, delta),
                )
            )
            for text in missing:
                near = next((v for v in session.vocabulary if v.casefold() == text.casefold()), None)
                if near is not None:
                    warnings.append(
                        f"tests for {text!r}, which differs from the label {near!r} in case: it never matches"
                    )
                elif session.vocabulary and len(missing) <= 8 and not one.echo:
                    warnings.append(f"tests for {text!r}, which is not a label of this API's vocabulary")
            named = {c.casefold() for c in session.constants}
            surprising = [x for x in words.accidental(target.labels, tests.contains) if x.casefold() not in named]
            if surprising:
                shown = ", ".join(repr(s) for s in surprising[:5]) + (", ..." if len(surprising) > 5 else "")
                warnings.append(f"the text test {tests.text} also catches {shown}")
        if session.vocabulary and not any(t.labels for t in full):
            warnings.append("no list has a label of this vocabulary: with it the decision never changes")
        if analysis.empty_differs:
            atoms = self._visible(session, analysis, ())
            delta = [a for a in atoms if a not in base_atoms and a.text.strip() not in ("", "[]", "set()", "{}")]
            if delta:
                warnings.append(f"an output without labels is treated apart: {probing.describe(delta) or 'no effect'}")
        warnings += self._assumptions(session)
        none_delta = probing.describe(base_atoms)
        return replace(
            made,
            lists=tuple(full),
            none_outcome=none_delta or "nothing",
            request=dict(request),
            source=(_site_span(session.site, self.app), self._entry_span(entry)),
            warnings=tuple(dict.fromkeys(warnings)),
        )

    def _visible(self, session: Session, analysis: Analysis, output: Any) -> list[Atom]:
        return [
            a
            for a in session.observe(analysis.pad(output)).atoms
            if analysis.keep(a) and (a.channel, a.pattern) not in analysis.ungated and not analysis.is_commentary(a)
        ]

    def _assumptions(self, session: Session) -> list[str]:
        out = []
        branches: dict[int, Branch] = {}
        for observed in session.cache.values():
            branches.update(observed.run.branches)
            for message, (path, line) in (*observed.run.notes.items(), *observed.run.bugs.items()):
                out.append(f"{path}:{line}: {message}")
        for key, branch in branches.items():
            if branch.after_api:
                side = session.choices.get(key, branch.default)
                out.append(f"{branch.path}:{branch.line}: {branch.origin} is taken to be {'true' if side else 'false'}")
        return list(dict.fromkeys(out))[:20]

    def _test_place(self, session: Session, analysis: Analysis, one: Any) -> tuple[str, int, int]:
        """Where the first test stands that holds for a list's labels and not for others."""
        observed = session.observe(analysis.pad(one.witness))
        plain = session.observe(analysis.pad(session.output([session.nothing], analysis.top))).run.outcomes
        places = [
            (path, getattr(node, "lineno", 0), getattr(node, "col_offset", 0))
            for key, (node, path, outcomes) in observed.run.outcomes.items()
            if True in outcomes and (key not in plain or plain[key][2] != outcomes)
        ]
        return min(places, default=("", 0, 0))

    def _spans(self, session: Session, analysis: Analysis, one: Any, delta: list[Atom]) -> tuple[Span, ...]:
        observed = session.observe(analysis.pad(one.witness))
        plain = session.observe(analysis.pad(session.output([session.nothing], analysis.top))).run.outcomes
        spans: dict[tuple[str, int], Span] = {}
        for key, (node, path, outcomes) in observed.run.outcomes.items():
            if True in outcomes and (key not in plain or plain[key][2] != outcomes):
                line = getattr(node, "lineno", 0)
                spans.setdefault((path, line), self._span(path, line, getattr(node, "col_offset", 0)))
        for atom in delta:
            path, line = observed.atoms[atom]
            if path and line:
                spans.setdefault((path, line), self._span(path, line))
        return tuple(spans.values())[:12]

    def _span(self, path: str, line: int, column: int = 0) -> Span:
        return Span(path, line, column, _source_line(self.app, path, line))

    def _entry_span(self, entry: Entry) -> Span:
        return self._span(entry.path, entry.line)

    def _test_span(self, session: Session) -> Span:
        return _site_span(session.site, self.app)

    def _counted(
        self, entry: Entry, session: Session, analysis: Analysis, labels: Sequence[str], request: dict[str, Any]
    ) -> DecisionSummary | None:
        counted = probing.count_variable(session, analysis, labels)
        if counted is None or self._depends_on_unknown(session, analysis) is not None:
            return None
        variable, threshold = counted
        spec = session.spec
        return DecisionSummary(
            spec.api, spec.name, "numeric", variables=(variable,), request=dict(request), scale=spec.scale,
            lists=(TargetList(0, variable.of, threshold=threshold, predicate="labels counted", outcome="counted"),),
            source=(_site_span(session.site, self.app), self._entry_span(entry)), warnings=tuple(self._assumptions(session)),
        )  # fmt: skip

    def _split(
        self, entry: Entry, session: Session, request: dict[str, Any], padding: int, top: float
    ) -> list[DecisionSummary] | None:
        """Several decisions on one answer: each place where an effect happens is analysed on its own."""
        plain = session.observe(session.output([session.nothing], top))
        base = {(a.channel, a.pattern) for a in plain.atoms}
        channels: dict[tuple[str, str, str], None] = {}
        for label in self._sketch(session):
            for a in session.observe(session.output([label], top)).atoms:
                if probing._is_no_wait(a) and (a.channel, a.pattern) not in base:
                    channels.setdefault(a.channel)
        prints = {c for c in channels if c[0] == "print"}
        if not 1 < len(channels) <= 8:
            return None
        made: list[DecisionSummary] = []
        for channel in channels:
            analysis = Analysis(session, partial(_is_in_channel, channel), "other", padding, top)
            try:
                result = analysis.find()
            except NoVariation:
                continue
            except Reject:
                if channel in prints:
                    continue
                return None
            if self._depends_on_unknown(session, analysis) is not None:
                return None
            made.append(self._summary(entry, session, analysis, result, request))
        return _distinct(made) or None

    def _numbers(self, entry: Entry, session: Session, request: dict[str, Any]) -> list[DecisionSummary]:
        spec = session.spec
        session = self._settle_numbers(session)
        span = _site_span(session.site, self.app)
        for _, keep in (probing._STRATA[0], probing._STRATA[-1]):
            try:
                variables = probing.numeric_variables(session, keep)
            except NoVariation:
                continue
            except Reject as reject:
                return [
                    _unsupported(spec.api, spec.name, f"{span.path}:{span.line}: {reject.reason}", span, spec.scale)
                ]
            runs = [observed.run for observed in session.cache.values()]
            answers = {site for run in runs for site, name in run.seen if FIELDS[name].kind == "numbers"}
            if len(answers) > 1 and any(run.number_pairs for run in runs):
                reason = (
                    f"{span.path}:{span.line}: the numbers of several answers are compared or combined with each other"
                )
                return [_unsupported(spec.api, spec.name, reason, span, spec.scale)]
            for observed in session.cache.values():
                for branch in observed.run.branches.values():
                    if branch.after_api and (branch.tainted or library.is_local_model(branch.origin)):
                        other = replace(
                            session,
                            choices={
                                **session.choices,
                                id(branch.node): not session.choices.get(id(branch.node), branch.default),
                            },
                            cache={},
                            num_runs=0,
                        )
                        try:
                            again = probing.numeric_variables(other, keep)
                        except Reject:
                            again = ()
                        if [v.breakpoints for v in again] != [v.breakpoints for v in variables]:
                            place = f"{branch.path}:{branch.line}"
                            reason = f"{place}: the API's number is combined with a value not in the source ({branch.origin})"
                            return [_unsupported(spec.api, spec.name, reason, span, spec.scale)]
            return [
                DecisionSummary(
                    spec.api, spec.name, "numeric", variables=variables, request=dict(request), scale=spec.scale,
                    source=(span, self._entry_span(entry)), warnings=tuple(self._assumptions(session)),
                )
            ]  # fmt: skip
        hidden = self._unknown_reason(session)
        if hidden is not None:
            return [_unsupported(spec.api, spec.name, hidden, span, spec.scale)]
        nothing = {n: (lo + hi) / 2 for n, lo, hi in spec.variables}
        echo = any(probing._marked(a.pattern) for a in session.observe(nothing).atoms)
        if echo:
            return [
                _unsupported(
                    spec.api,
                    spec.name,
                    f"{span.path}:{span.line}: the application passes the API's number on without deciding anything",
                    span,
                    spec.scale,
                )
            ]
        return [
            DecisionSummary(
                spec.api, spec.name, "constant", source=(span, self._entry_span(entry)), scale=spec.scale,
                warnings=(f"{span.path}:{span.line}: no value of the API's numbers changes what the application does",),
            )
        ]  # fmt: skip

    def _settle_numbers(self, session: Session) -> Session:
        spec = session.spec

        def variety(s: Session) -> tuple[int, dict[int, Branch]]:
            views = set()
            branches: dict[int, Branch] = {}
            for i in range(9):
                observed = s.observe({n: lo + (hi - lo) * (i + 0.41) / 9 for n, lo, hi in spec.variables})
                branches.update(observed.run.branches)
                views.add(frozenset((a.channel, a.pattern) for a in observed.atoms))
            return len(views), branches

        best, branches = variety(session)
        for key, branch in list(branches.items())[:12]:
            if branch.after_api:
                other = replace(
                    session,
                    choices={**session.choices, key: not session.choices.get(key, branch.default)},
                    cache={},
                    num_runs=0,
                )
                score, _ = variety(other)
                if score > best:
                    best, session = score, other
        return session

    def _no_variation(self, entry: Entry, session: Session, request: dict[str, Any]) -> DecisionSummary:
        """No label changes anything: a presence test, a pass-through, a mistake, or an unused answer."""
        spec = session.spec
        site_span = _site_span(session.site, self.app)
        nothing = session.observe(session.output([session.nothing]))
        empty = session.observe(())
        bugs = {**nothing.run.bugs, **empty.run.bugs}
        for observed in session.cache.values():
            bugs.update(observed.run.bugs)
        marked = [a for a in nothing.atoms if TEXT_MARK in a.pattern and a.category != "log"]
        passes_on = [a for a in marked if not a.is_display and a.category not in ("variable", "attribute")]
        tests = any(o.run.text_tests for o in session.cache.values())
        source = (site_span, self._entry_span(entry))
        keep = probing._is_no_wait
        added = {(a.channel, a.pattern) for a in nothing.atoms if keep(a) and not probing._marked(a.pattern)}
        before = {(a.channel, a.pattern) for a in empty.atoms if keep(a)}
        # What stands beside label text in the same call (a language, a table's name) is no reaction to it.
        carriers = {(a.category, a.name) for a in marked if a.category == "call"}
        new = [
            a
            for a in nothing.atoms
            if (a.channel, a.pattern) in added - before
            and session.nothing not in a.text
            and (a.category, a.name) not in carriers
        ]
        unknown = self._unknown_reason(session)
        presence = (
            bool(new)
            and not bugs
            and not tests
            and spec.kind == "labels"
            and session.vocabulary
            and nothing.run.raised is None
        )
        if presence and all(a.is_display for a in new) and passes_on:
            presence = False
        if any(a.category == "global" for a in marked):
            presence = False  # labels are kept, to be compared with those of the next answer
        warnings = [f"{p}:{n}: {m}" for m, (p, n) in bugs.items()]
        if unknown is not None and not bugs:
            return _unsupported(spec.api, spec.name, unknown, site_span, spec.scale)
        pairs = any(o.run.label_pairs for o in session.cache.values())
        compared = f"{site_span.path}:{site_span.line}: the labels of several answers are compared with each other"
        if presence and pairs and not bugs:
            return _unsupported(spec.api, spec.name, compared, site_span, spec.scale)
        if presence and not bugs and self._leads_matter(session, keep):
            reason = f"{site_span.path}:{site_span.line}: how far one label leads the next decides"
            return _unsupported(spec.api, spec.name, reason, site_span, spec.scale)
        if presence and empty.run.raised is None:
            target = TargetList(
                0, session.vocabulary, predicate="any label at all", outcome=probing.describe(new), source=(site_span,)
            )
            analysis = Analysis(session, lambda a: keep(a) and TEXT_MARK not in a.pattern, "empty")
            one = probing._List(
                list(session.vocabulary[:1]),
                analysis.single(session.vocabulary[0]),
                session.output(session.vocabulary[:1]),
                0,
                False,
            )
            try:
                analysis._thresholds([one], analysis.view(()), "true_false")
            except Reject:
                one.threshold = None
            return DecisionSummary(
                spec.api, spec.name, "true_false", lists=(replace(target, threshold=one.threshold),), request=dict(request),
                scale=spec.scale, source=source, none_outcome=probing.describe([a for a in empty.atoms if keep(a)]) or "nothing",
                warnings=("reacts to any label, whatever it is", *self._assumptions(session)),
            )  # fmt: skip
        if nothing.run.raised is not None and not tests and not passes_on:
            ending = nothing.run.raised.names[0]
            reason = f"{site_span.path}:{site_span.line}: the evaluated code ends with {ending} after the API call"
            return _unsupported(spec.api, spec.name, reason, site_span, spec.scale)
        numbers = [
            a for a in nothing.atoms if NUMBER_MARK in a.pattern and a.category not in ("log", "variable", "attribute")
        ]
        if numbers and not marked and not bugs and not tests:
            place = nothing.atoms[numbers[0]]
            where = f"{place[0] or site_span.path}:{place[1] or site_span.line}"
            reason = f"{where}: the application passes a score or a count on without deciding anything on it"
            return _unsupported(spec.api, spec.name, reason, site_span, spec.scale)
        if marked and not bugs and (passes_on or not tests):
            place = nothing.atoms[(passes_on or marked)[0]]
            where = f"{place[0] or site_span.path}:{place[1] or site_span.line}"
            reason = f"{where}: the application passes label text on without deciding anything on it"
            return _unsupported(spec.api, spec.name, reason, site_span, spec.scale)
        shown = {(a.channel, a.pattern) for a in nothing.atoms}
        computed = [
            (a, where)
            for key, o in session.cache.items()
            if isinstance(key, tuple) and len(key) == 1
            for a, where in o.atoms.items()
            if NUMBER_MARK in a.pattern
            and a.category in ("return", "call", "write", "set")
            and (a.channel, a.pattern) not in shown
        ]  # fmt: skip
        if tests and not bugs and computed:
            path, line = computed[0][1]
            where = f"{path or site_span.path}:{line or site_span.line}"
            reason = f"{where}: a number that is computed from the labels is passed on without deciding anything"
            return _unsupported(spec.api, spec.name, reason, site_span, spec.scale)
        if session.field_name == "FaceDetails.Emotions" and not tests and not bugs:
            reason = (
                f"{site_span.path}:{site_span.line}: of {spec.api} only emotions are customized; the application looks at "
                "faces in another way, known and not customized"
            )
            return _unsupported(spec.api, spec.name, reason, site_span, spec.scale)
        if tests and not bugs and self._is_tested_beside(session):
            reason = f"{site_span.path}:{site_span.line}: labels only matter together with another part of the answer"
            return _unsupported(spec.api, spec.name, reason, site_span, spec.scale)
        if pairs and not bugs:
            return _unsupported(spec.api, spec.name, compared, site_span, spec.scale)
        unprobed = {name: where for o in session.cache.values() for name, where in o.run.unprobed.items()}
        if unprobed and not bugs:
            name, (path, line) = next(iter(unprobed.items()))
            reason = f"{path}:{line}: {name} is looked at, a part of the answer that is not customized"
            return _unsupported(spec.api, spec.name, reason, site_span, spec.scale)
        if spec.kind == "labels" and not bugs:
            steps = [session.observe(session.output(session.fillers[:n])) for n in (1, 2, 3, 4, 6, 11)]
            shapes = {frozenset((a.channel, a.pattern) for a in o.atoms if keep(a)) for o in steps}
            if len(shapes) > 1:
                reason = f"{site_span.path}:{site_span.line}: how many labels there are decides, whatever they are"
                return _unsupported(spec.api, spec.name, reason, site_span, spec.scale)
        if tests:
            warnings.append(
                f"{site_span.path}:{site_span.line}: labels are tested, but no label of the vocabulary changes anything"
            )
        elif not warnings:
            warnings.append(f"{site_span.path}:{site_span.line}: the answer of the API changes nothing")
        return DecisionSummary(
            spec.api,
            spec.name,
            "constant",
            source=source,
            scale=spec.scale,
            request=dict(request),
            warnings=tuple(warnings),
        )

    def _leads_matter(self, session: Session, keep: Callable[[Atom], bool]) -> bool:
        """True if a label of the source, far before another label, does what no other label does there."""
        scale = session.spec.scale

        def effects(label: str) -> set[Any]:
            output = ((label, round(scale * 0.97, 6)), (session.fillers[0], round(scale * 0.3, 6)))
            return {
                (a.channel, a.pattern) for a in session.observe(output).atoms if keep(a) and TEXT_MARK not in a.pattern
            }

        plain = effects(session.nothing)
        return any(effects(label) != plain for label in self._sketch(session)[:80])

    def _is_tested_beside(self, session: Session) -> bool:
        """True if some label passes a test and the application then looks at another field of the same answer."""
        runs = [o.run for key, o in session.cache.items() if isinstance(key, tuple) and len(key) == 1]
        outcomes = {frozenset((k, frozenset(v[2])) for k, v in run.outcomes.items()) for run in runs}
        fields = {field for run in runs for site, field in run.seen if site == session.site}
        numbers = any(FIELDS[f].kind == "numbers" for f in fields - {session.field_name})
        return len(outcomes) > 1 and numbers and any(run.number_tests for run in runs)

    def _unknown_reason(self, session: Session) -> str | None:
        """The branch behind the API call that hides the decision, if its value is not in the source."""
        for observed in session.cache.values():
            for branch in observed.run.branches.values():
                if branch.after_api and branch.tainted:
                    return (
                        f"{branch.path}:{branch.line}: the API's output is tested against a value that is not in the source "
                        f"({branch.origin})"
                    )
        return None

    # --- the report -------------------------------------------------------------------------------------------------

    def _collect(
        self,
        report: ParseReport,
        found: dict[tuple[Site, str], list[tuple[Entry, list[DecisionSummary]]]],
        sites: dict[Site, dict[str, Any]],
        failures: list[str],
    ) -> None:
        real: list[DecisionSummary] = []
        refused: list[DecisionSummary] = []
        constant: list[DecisionSummary] = []
        by_site: dict[Site, set[str]] = {}
        for (site, _), results in found.items():
            for _, made in results:
                for decision in made:
                    by_site.setdefault(site, set()).add(decision.kind)
                    {"unsupported": refused, "constant": constant}.get(decision.kind, real).append(decision)
        # A field that is not looked at, at a site where another field is, says nothing; nor does a helper's own echo.
        busy = {d.source[0] for d in real}
        refused = [d for d in refused if not (d.source and d.source[0] in busy and "without deciding" in d.reason)]
        if real:
            # What only hands the answer on (a demo, a helper of its own) is no decision beside real ones.
            aside = ("without deciding", "known and not customized")
            report.notes += [d.reason for d in refused if any(x in d.reason for x in aside)]
            refused = [d for d in refused if not any(x in d.reason for x in aside)]
        constant = [d for d in constant if not (d.source and d.source[0] in busy)]
        stuck = {d.source[0] for d in refused if d.source}
        constant = [d for d in constant if not (d.source and d.source[0] in stuck)]
        if real or refused:
            constant = (
                [d for d in constant if any("tested" in w or "never" in w for w in d.warnings)] if not real else []
            )
        report.decisions = _distinct([*real, *refused, *constant])
        for site in sites:
            if site.method not in CUSTOMIZED:
                report.other_apis.append(
                    f"{site.path}:{site.line}: {site.provider}.{site.method} (known, not customized)"
                )
        report.notes += failures[:10]
        if not report.decisions:
            if report.other_apis:
                report.reason = f"{report.other_apis[0].rsplit(' (', 1)[0]} is known and not customized"
                site = next(s for s in sites if s.method not in CUSTOMIZED)
                report.decisions.append(
                    _unsupported(f"{site.provider}.{site.method}", "", report.reason, _site_span(site, self.app))
                )
            elif failures:
                report.reason = failures[0]
                report.decisions.append(_unsupported("unknown", "", failures[0], Span("", 0)))
            elif sites and self._passed_on is not None:
                site = next(iter(sites))
                path, line = self._passed_on
                where = f"{path or site.path}:{line or site.line}"
                reason = f"{where}: the application passes the answer on without deciding anything on it"
                name = f"{site.provider}.{site.method}"
                report.decisions.append(_unsupported(name, "", reason, _site_span(site, self.app)))
            elif sites:
                site = next(iter(sites))
                report.decisions.append(
                    DecisionSummary(
                        f"{site.provider}.{site.method}", "", "constant", source=(_site_span(site, self.app),),
                        warnings=(f"{site.path}:{site.line}: the answer of the API is not used",),
                    )
                )  # fmt: skip
            else:
                report.reason = "no entry point reaches a call of a known ML API"


def _is_kept(stratum: Callable[[Atom], bool], without: frozenset[tuple[str, str, str]], atom: Atom) -> bool:
    return stratum(atom) and atom.channel not in without


def _is_in_channel(channel: tuple[str, str, str], atom: Atom) -> bool:
    return atom.channel == channel


def analysis_groups(analysis: Analysis) -> list[list[str]]:
    """Labels by outcome under one analysis, without those that do nothing."""
    base = frozenset((c, p) for c, p, _ in analysis.view(analysis.base_output))
    groups: dict[Any, list[str]] = {}
    for label in analysis._probe_labels():
        sig = frozenset((c, p) for c, p, _ in analysis.single(label))
        if sig != base:
            groups.setdefault(sig, []).append(label)
    return list(groups.values())


def _distinct(decisions: Sequence[DecisionSummary]) -> list[DecisionSummary]:
    """Equal decisions once, with all their call sites."""
    out: list[DecisionSummary] = []
    for decision in decisions:
        for i, known in enumerate(out):
            if _essence(known) == _essence(decision):
                spans = tuple(dict.fromkeys((*known.source, *decision.source)))
                out[i] = replace(
                    known, source=spans, warnings=tuple(dict.fromkeys((*known.warnings, *decision.warnings)))
                )
                break
        else:
            out.append(decision)
    return out


def _essence(d: DecisionSummary) -> tuple[Any, ...]:
    return (
        d.api, d.field, d.kind, d.order, d.window, d.reason,
        tuple((one.labels, one.threshold, one.clauses, one.unless) for one in d.lists),
        tuple((v.name, v.breakpoints) for v in d.variables),
    )  # fmt: skip


def _api_of(key: tuple[Site, str]) -> tuple[str, str]:
    spec = FIELDS[key[1]]
    return spec.api, spec.name


def _unsupported(api: str, field_name: str, reason: str, span: Span, scale: float = 1.0) -> DecisionSummary:
    return DecisionSummary(api, field_name, "unsupported", reason=reason, source=(span,), scale=scale)


def _located(refusal: Refusal, entry: Entry) -> str:
    path, line = (refusal.path, refusal.line) if refusal.path else (entry.path, entry.line)
    return f"{path}:{line}: {refusal.reason}"


def _site_span(site: Site, app: Application) -> Span:
    return Span(site.path, site.line, site.column, _source_line(app, site.path, site.line))


def _source_line(app: Application, path: str, line: int) -> str:
    file = app.root / path
    if not path or not line or not file.is_file():
        return ""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[line - 1].strip() if 0 < line <= len(lines) else ""


def _mentions_api(text: str) -> bool:
    return any(word in text for word in ("google.cloud", "boto3", "vision.googleapis", "rekognition", "comprehend"))


def _constants(app: Application) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Texts and numbers of the source that a label or a score could be compared with."""
    texts: dict[str, None] = {}
    numbers: dict[float, None] = {}
    for tree in app.trees.values():
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        in_order = [n for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        in_order.sort(key=lambda n: (n.lineno, n.col_offset))
        for node in in_order:
            if id(node) not in docs:
                value = node.value
                if isinstance(value, str) and 0 < len(value.strip()) <= 60 and not _NO_LABEL_TEXT.search(value):
                    texts.setdefault(value)
                if (
                    isinstance(value, str)
                    and (len(value) > 12 and ("," in value or " " in value or "|" in value or "\n" in value))
                    and len(value) < 3000
                ):
                    for part in _REGEX_SIGNS.sub("", value).replace("|", ",").replace("\n", ",").split(","):
                        if 0 < len(part.strip()) <= 40 and not _NO_LABEL_TEXT.search(part):
                            texts.setdefault(part.strip())
                    if len(value.split()) <= 60:
                        for part in value.split():
                            if not _NO_LABEL_TEXT.search(part):
                                texts.setdefault(part)
                elif isinstance(value, (int, float)) and not isinstance(value, bool):
                    numbers.setdefault(float(value))
    for text in app.data.values():
        for line in text.splitlines()[:200]:
            for part in re.split(r'[",:\[\]{}]|^\s*-\s', line):
                if 0 < len(part.strip()) <= 40:
                    texts.setdefault(part.strip())
    return tuple(texts)[:_MAX_CONSTANTS], tuple(numbers)


def parse_application(path: Path, vocabularies: Mapping[str, Sequence[str]] | None = None) -> ParseReport:
    """Find the decision processes of an application.

    Args:
        path: a Python file or a folder with Python files.
        vocabularies: labels that the API can answer, by vocabulary name: "image" (image labels and objects), "object",
            "topic" (text categories), "moderation", "sentiment", "emotion", "google_entity", "aws_entity",
            "text_moderation". Bundled ones are used for those not given.
    Returns:
        The report. What cannot be decided is in it with kind "unsupported" and a reason.
    Raises:
        ConfigError: the path does not exist or holds no Python file.

    Does not import, execute or change anything of the application.
    """
    return Parser(read_application(path), vocabularies).parse()
