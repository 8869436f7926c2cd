"""Questions about a text: every one that its facts answer, by task family, with gold evidence and gold query profile."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from common.data.items import QueryProfile
from common.data.synthetic import words
from common.data.synthetic.scenes import Draw, Fact, finish, subject_phrase, template_kind
from common.data.synthetic.templates import HOPS, QUESTIONS, UNKNOWN, Paraphrases

# Kind of document in which each family's questions arise.
FAMILY_DOCUMENTS: dict[str, tuple[str, ...]] = {
    "single_fact": ("people", "companies", "products"),
    "coreference": ("people", "companies", "products"),
    "multi_hop": ("chains",),
    "comparison": ("people", "products", "quarters"),
    "quarterly_figures": ("quarters",),
    "who_said_what": ("meeting",),
    "query_summary": ("people", "meeting"),
    "arithmetic": ("stock",),
    "line_retrieval": ("register",),
    "topic_retrieval": ("chat",),
    "unanswerable": ("people", "companies"),
}
FAMILIES = tuple(FAMILY_DOCUMENTS)

_ONE = QueryProfile(False, False, 1, (4, 12))


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about one text.

    Attributes:
        family: task family, one of `FAMILIES`.
        variant: what exactly is asked, e.g. "home", "2_hop_steps", "best_quarter"; for scores in detail.
        text, answer: plain text.
        evidence: chunks that the answer needs, sorted; empty for an unanswerable question.
        profile: the gold query profile.
        facts: the facts that the answer rests on.
        metric: the metric that scores it.
    """

    family: str
    variant: str
    text: str
    answer: str
    evidence: tuple[int, ...]
    profile: QueryProfile
    facts: tuple[Fact, ...] = ()
    metric: str = "f1"


def _evidence(facts: Sequence[Fact]) -> tuple[int, ...]:
    return tuple(sorted({chunk for fact in facts for chunk in fact.evidence}))


def _profile(num_pieces: int, *, is_complex: bool, joint: bool = True) -> QueryProfile:
    return QueryProfile(is_complex, joint, num_pieces, (4 * num_pieces, 12 * num_pieces))


class Asker:
    """Words the questions of one split.

    Args:
        draw: source of randomness.
        split: "train", "dev" or "test"; the last is worded with the held-out templates.
    """

    def __init__(self, draw: Draw, split: str) -> None:
        self.draw = draw
        self.split = split

    def word(self, templates: Paraphrases, **slots: str) -> str:
        """A question from one of the split's templates."""
        return finish(self.draw.one(templates[self.split == "test"]).format(**slots), "?")

    def about(self, kind: str, subject: str, attribute: str, detail: str = "") -> str:
        """The question for one attribute of one subject."""
        phrase = subject_phrase(kind, subject)
        return self.word(
            QUESTIONS[template_kind(kind), attribute], S=phrase, P=phrase + "'s", T=detail, Q=f"the {detail} quarter"
        )

    def all(self, facts: Sequence[Fact]) -> dict[str, list[Callable[[], Question]]]:
        """Every question that the facts answer, by family, as thunks (wording one costs more than listing it)."""
        found: dict[str, list[Callable[[], Question]]] = {family: [] for family in FAMILIES}
        once: dict[tuple[str, str, str], Fact] = {}
        for fact in facts:
            once.setdefault((fact.subject, fact.attribute, fact.detail), fact)
        stated = frozenset(once)
        once = {key: fact for key, fact in once.items() if not fact.is_contradicted}
        facts_once = list(once.values())
        by_subject: dict[str, list[Fact]] = {}
        by_attribute: dict[tuple[str, str], list[Fact]] = {}
        for fact in facts_once:
            by_subject.setdefault(fact.subject, []).append(fact)
            by_attribute.setdefault((fact.attribute, fact.detail), []).append(fact)

        for fact in facts_once:
            if fact.attribute in ("sales", "profit"):
                found["quarterly_figures"].append(self._plain(fact, "quarterly_figures"))
            elif fact.attribute == "said":
                found["who_said_what"].append(self._plain(fact, "who_said_what"))
            elif fact.attribute == "value":
                found["line_retrieval"].append(self._plain(fact, "line_retrieval"))
            elif (template_kind(fact.kind), fact.attribute) in QUESTIONS:
                family = "coreference" if len(fact.evidence) > 1 else "single_fact"
                found[family].append(self._plain(fact, family))
        self._who_said(by_attribute, found)
        self._hops(once, found)
        self._comparisons(by_attribute, found)
        self._quarter_overviews(by_subject, found)
        self._summaries(by_subject, by_attribute, found)
        self._sums(facts, found)
        self._topics(facts, found)
        self._unanswerable(stated, by_subject, found)
        return found

    def _plain(self, fact: Fact, family: str) -> Callable[[], Question]:
        def ask() -> Question:
            text = self.about(fact.kind, fact.subject, fact.attribute, fact.detail)
            profile = _profile(1, is_complex=False) if len(fact.evidence) > 1 else _ONE
            return Question(family, fact.attribute, text, fact.value, fact.evidence, profile, (fact,))

        return ask

    def _who_said(
        self, by_attribute: dict[tuple[str, str], list[Fact]], found: dict[str, list[Callable[[], Question]]]
    ) -> None:
        for (attribute, topic), group in by_attribute.items():
            if attribute == "said":
                for fact in group:
                    if sum(other.value == fact.value for other in group) == 1:
                        found["who_said_what"].append(partial(self._ask_who_said, fact, topic))

    def _ask_who_said(self, fact: Fact, topic: str) -> Question:
        text = self.word(QUESTIONS["person", "who_said"], T=topic, V=fact.value)
        profile = _profile(1, is_complex=False) if len(fact.evidence) > 1 else _ONE
        return Question("who_said_what", "who_said", text, fact.subject, fact.evidence, profile, (fact,))

    def _hops(self, once: dict[tuple[str, str, str], Fact], found: dict[str, list[Callable[[], Question]]]) -> None:
        starts = {fact.subject for fact in once.values() if fact.kind in ("woman", "man")}
        for path, styles in HOPS.items():
            for start in sorted(starts):
                chain: list[Fact] = []
                subject = start
                for attribute in path:
                    link = once.get((subject, attribute, ""))
                    if link is None:
                        break
                    chain.append(link)
                    subject = link.value
                if len(chain) == len(path):
                    for style, templates in styles.items():
                        found["multi_hop"].append(partial(self._ask_hops, tuple(chain), style, templates))

    def _ask_hops(self, chain: tuple[Fact, ...], style: str, templates: Paraphrases) -> Question:
        text = self.word(templates, S=chain[0].subject, P=chain[0].subject + "'s")
        answer = chain[-1].value if style == "direct" else ", ".join(fact.value for fact in chain)
        return Question(
            "multi_hop",
            f"{len(chain)}_hop_{style}",
            text,
            answer,
            _evidence(chain),
            _profile(len(chain), is_complex=True),
            chain,
        )

    def _comparisons(
        self, by_attribute: dict[tuple[str, str], list[Fact]], found: dict[str, list[Callable[[], Question]]]
    ) -> None:
        asked = {"age": ("person", "older"), "price": ("product", "dearer"), "sales": ("company", "higher_sales")}
        for (attribute, detail), group in by_attribute.items():
            if attribute in asked:
                for i, one in enumerate(group):
                    for other in group[i + 1 :]:
                        if one.value != other.value:
                            found["comparison"].append(
                                partial(self._ask_comparison, (one, other), asked[attribute], detail)
                            )

    def _ask_comparison(self, pair: tuple[Fact, Fact], key: tuple[str, str], detail: str) -> Question:
        first, second = self.draw.some(pair, 2)
        text = self.word(
            QUESTIONS[key],
            A=subject_phrase(first.kind, first.subject),
            B=subject_phrase(second.kind, second.subject),
            Q=f"the {detail} quarter",
        )
        answer = max(pair, key=lambda fact: int(fact.value)).subject
        return Question("comparison", key[1], text, answer, _evidence(pair), _profile(2, is_complex=True), pair)

    def _quarter_overviews(
        self, by_subject: dict[str, list[Fact]], found: dict[str, list[Callable[[], Question]]]
    ) -> None:
        for company, group in by_subject.items():
            sales = {fact.detail: fact for fact in group if fact.attribute == "sales"}
            if len(sales) == len(words.QUARTERS):
                ordered = tuple(sales[quarter] for quarter in words.QUARTERS)
                found["quarterly_figures"].append(partial(self._ask_all_sales, company, ordered))
                figures = sorted(int(fact.value) for fact in ordered)
                if figures[-1] > figures[-2]:
                    found["quarterly_figures"].append(partial(self._ask_best, company, ordered))

    def _ask_all_sales(self, company: str, ordered: tuple[Fact, ...]) -> Question:
        text = self.word(QUESTIONS["company", "all_sales"], S=company, P=company + "'s")
        answer = ", ".join(fact.value for fact in ordered)
        return Question(
            "quarterly_figures", "all_sales", text, answer, _evidence(ordered), _profile(4, is_complex=False), ordered
        )

    def _ask_best(self, company: str, ordered: tuple[Fact, ...]) -> Question:
        text = self.word(QUESTIONS["company", "best_quarter"], S=company, P=company + "'s")
        best = max(ordered, key=lambda fact: int(fact.value))
        return Question(
            "quarterly_figures",
            "best_quarter",
            text,
            best.detail,
            _evidence(ordered),
            _profile(4, is_complex=True),
            ordered,
        )

    def _summaries(
        self,
        by_subject: dict[str, list[Fact]],
        by_attribute: dict[tuple[str, str], list[Fact]],
        found: dict[str, list[Callable[[], Question]]],
    ) -> None:
        for subject, group in by_subject.items():
            known = tuple(
                fact for fact in group if fact.kind in ("woman", "man") and ("person", fact.attribute) in QUESTIONS
            )
            known = tuple(fact for fact in known if fact.attribute != "said")
            if 2 <= len(known) <= 6:
                found["query_summary"].append(partial(self._ask_person, subject, known))
        for (attribute, topic), group in by_attribute.items():
            if attribute == "said" and 1 <= len(group) <= 5:
                found["query_summary"].append(partial(self._ask_topic, topic, tuple(group)))

    def _ask_person(self, subject: str, known: tuple[Fact, ...]) -> Question:
        text = self.word(QUESTIONS["person", "summary"], S=subject)
        answer = ", ".join(f"{fact.attribute} {fact.value}" for fact in known)
        profile = _profile(len(known), is_complex=False)
        return Question("query_summary", "person", text, answer, _evidence(known), profile, known, "rouge_l")

    def _ask_topic(self, topic: str, group: tuple[Fact, ...]) -> Question:
        text = self.word(QUESTIONS["topic", "summary"], T=topic)
        answer = ", ".join(f"{fact.subject} {fact.value}" for fact in group)
        profile = _profile(len(group), is_complex=False)
        return Question("query_summary", "topic", text, answer, _evidence(group), profile, group, "rouge_l")

    def _sums(self, facts: Sequence[Fact], found: dict[str, list[Callable[[], Question]]]) -> None:
        ledgers: dict[tuple[str, str], list[Fact]] = {}
        for fact in facts:
            if fact.attribute in ("had", "got", "lost"):
                ledgers.setdefault((fact.subject, fact.detail), []).append(fact)
        for (owner, thing), entries in ledgers.items():
            if entries[0].attribute == "had" and sum(entry.attribute == "had" for entry in entries) == 1:
                found["arithmetic"].append(partial(self._ask_sum, owner, thing, tuple(entries)))

    def _ask_sum(self, owner: str, thing: str, entries: tuple[Fact, ...]) -> Question:
        text = self.word(QUESTIONS["person", "count"], S=owner, T=thing)
        steps, total = entries[0].value, int(entries[0].value)
        for entry in entries[1:]:
            sign = 1 if entry.attribute == "got" else -1
            total += sign * int(entry.value)
            steps += f" {'plus' if sign > 0 else 'minus'} {entry.value} is {total}"
        profile = _profile(len(entries), is_complex=True)
        return Question("arithmetic", f"{len(entries) - 1}_step", text, steps, _evidence(entries), profile, entries)

    def _topics(self, facts: Sequence[Fact], found: dict[str, list[Callable[[], Question]]]) -> None:
        topics = [fact for fact in facts if fact.attribute == "topic"]
        if len(topics) >= 2:
            for place, fact in (("first", topics[0]), ("second", topics[1]), ("last", topics[-1])):
                if place != "second" or len(topics) > 2:
                    found["topic_retrieval"].append(partial(self._ask_topic_place, place, fact))

    def _ask_topic_place(self, place: str, fact: Fact) -> Question:
        text = self.word(QUESTIONS["chat", "nth"], T=place)
        return Question("topic_retrieval", place, text, fact.value, fact.evidence, _ONE, (fact,))

    def _unanswerable(
        self,
        stated: frozenset[tuple[str, str, str]],
        by_subject: dict[str, list[Fact]],
        found: dict[str, list[Callable[[], Question]]],
    ) -> None:
        askable = {
            "person": ("home", "employer", "job", "hobby", "pet", "food", "age", "manager"),
            "company": ("base", "product", "founder", "field"),
            "product": ("colour", "price", "month"),
        }
        for subject, group in by_subject.items():
            kind = template_kind(group[0].kind)
            for attribute in askable.get(kind, ()):
                if (subject, attribute, "") not in stated:
                    found["unanswerable"].append(partial(self._ask_unanswerable, kind, subject, attribute))

    def _ask_unanswerable(self, kind: str, subject: str, attribute: str) -> Question:
        text = self.about(kind, subject, attribute)
        return Question("unanswerable", attribute, text, UNKNOWN, (), _ONE)
