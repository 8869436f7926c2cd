"""Texts with known meaning: sentences, documents cut into chunks, and what a reader can know from the chunks as presented.

    write_*() -> sentences of one document -> cut() -> chunks of several documents -> read() -> facts with their evidence

The meaning of a text is what its words say in the order shown, not what its writer had in mind: `read` walks through the
sentences and binds "she", "the company" or "that quarter" to the most recent fitting mention. So chunks may be dropped, cut or
put in another order and the gold answers stay right: a chunk that opens with "she" and has no woman before it states a fact
about nobody, and a question about that fact has the answer "unknown".
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from common.data.synthetic import words
from common.data.synthetic.templates import FILLERS, OPENERS, STATEMENTS, Paraphrases

T = TypeVar("T")

SPLITS = ("train", "dev", "test")

# How the text refers to an entity of each kind without its name.
_REFERENCE = {
    "woman": "she",
    "man": "he",
    "company": "the company",
    "town": "the town",
    "product": "the product",
    "quarter": "that quarter",
}
_POSSESSIVE = {"woman": "her", "man": "his"}
# Kind of the entity that an attribute's value names; all other values are plain words.
VALUE_KIND = {
    "home": "town",
    "employer": "company",
    "base": "town",
    "product": "product",
    "founder": "person",
    "manager": "person",
}
# Attributes that may hold several times for one subject; any other attribute with two values is contradictory.
_REPEATABLE = ("had", "got", "lost", "topic")

_WOMEN = frozenset(words.WOMEN)


class Draw:
    """Cheap draws from a numpy Generator (one costs microseconds there; this buffers its uniforms)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._buffer: list[float] = []

    def uniform(self) -> float:
        """A float in [0, 1)."""
        if not self._buffer:
            self._buffer = self._rng.random(2048).tolist()
        return self._buffer.pop()

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high), uniform."""
        return low + int(self.uniform() * (high - low))

    def one(self, options: Sequence[T]) -> T:
        """One of the options, uniform."""
        return options[int(self.uniform() * len(options))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different options (all of them if there are no more), in random order."""
        pool = list(options)
        count = min(count, len(pool))
        for i in range(count):
            j = self.integer(i, len(pool))
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:count]


@dataclasses.dataclass(frozen=True)
class Sentence:
    """One sentence and what it states, if anything.

    Attributes:
        text: the words, with capital and full stop.
        kind: kind of the subject ("woman", "man", "company", "town", "product", "line", "chat"), "" for filler.
        subject: the subject's name, or "" where the sentence only refers to it ("she").
        attribute: what is stated, a key of `STATEMENTS` together with the kind; "" for filler.
        value: the stated value.
        detail: quarter, topic or kind of thing, where the attribute has one; "" with `quarter_referred` for "that quarter".
        quarter_referred: the sentence says "that quarter".
    """

    text: str
    kind: str = ""
    subject: str = ""
    attribute: str = ""
    value: str = ""
    detail: str = ""
    quarter_referred: bool = False


@dataclasses.dataclass(frozen=True)
class Fact:
    """What a reader knows after one sentence.

    Attributes:
        kind, subject, attribute, detail, value: the statement, references resolved.
        evidence: chunks that a reader needs to know it, sorted: the sentence's own and those of the antecedents' names.
        chunk, sentence: where it is stated: index of the chunk, and of the sentence in the chunk.
        is_referred: the sentence refers to its subject (or its quarter) instead of naming it.
        is_contradicted: the text also gives the attribute another value, so a question about it has no answer.
    """

    kind: str
    subject: str
    attribute: str
    detail: str
    value: str
    evidence: tuple[int, ...]
    chunk: int
    sentence: int
    is_referred: bool
    is_contradicted: bool = False


Chunk = tuple[Sentence, ...]


def kind_of_person(name: str) -> str:
    """ "woman" or "man"."""
    return "woman" if name in _WOMEN else "man"


def template_kind(kind: str) -> str:
    """The kind under which templates are filed: women and men are persons."""
    return "person" if kind in ("woman", "man") else kind


class Reader:
    """The most recent mention of each kind of entity, and the chunk that named it."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[str, int]] = {}

    def latest(self, kind: str) -> str:
        """Name that a reference of this kind would mean now, or ""."""
        return self._latest.get(kind, ("", 0))[0]

    def read(self, sentence: Sentence, chunk: int, index: int) -> Fact | None:
        """Take in one sentence; the fact that it states, or None for filler and for a reference to nobody."""
        if not sentence.attribute:
            return None
        subject, subject_chunk = sentence.subject, chunk
        if not subject:
            subject, subject_chunk = self._latest.get(sentence.kind, ("", chunk))
        detail, detail_chunk = sentence.detail, chunk
        if sentence.quarter_referred:
            detail, detail_chunk = self._latest.get("quarter", ("", chunk))
        if subject and sentence.kind in _REFERENCE:
            self._latest[sentence.kind] = (subject, subject_chunk)
        if detail in words.QUARTERS:
            self._latest["quarter"] = (detail, detail_chunk)
        value_kind = VALUE_KIND.get(sentence.attribute)
        if value_kind == "person":
            value_kind = kind_of_person(sentence.value)
        if value_kind:
            self._latest[value_kind] = (sentence.value, chunk)
        if not subject or (sentence.quarter_referred and not detail):
            return None
        return Fact(
            sentence.kind,
            subject,
            sentence.attribute,
            detail,
            sentence.value,
            tuple(sorted({chunk, subject_chunk, detail_chunk})),
            chunk,
            index,
            not sentence.subject or sentence.quarter_referred,
        )


def read(chunks: Sequence[Chunk]) -> list[Fact]:
    """All facts that the chunks state, shown in this order."""
    reader = Reader()
    facts = []
    for number, chunk in enumerate(chunks):
        for index, sentence in enumerate(chunk):
            fact = reader.read(sentence, number, index)
            if fact is not None:
                facts.append(fact)
    values: dict[tuple[str, str, str], set[str]] = {}
    for fact in facts:
        values.setdefault((fact.subject, fact.attribute, fact.detail), set()).add(fact.value)
    return [
        dataclasses.replace(fact, is_contradicted=True)
        if fact.attribute not in _REPEATABLE and len(values[fact.subject, fact.attribute, fact.detail]) > 1
        else fact
        for fact in facts
    ]


def chunk_text(chunk: Chunk) -> str:
    """The chunk as plain text."""
    return " ".join(sentence.text for sentence in chunk)


class Writer:
    """Writes the documents of one context; no entity is used by two documents.

    Args:
        draw: source of randomness.
        split: "train", "dev" or "test"; the last is worded with the held-out templates.
        reference_rate: how often a subject that was just mentioned is referred to instead of named, in [0, 1].
        opener_rate: how often a sentence has an opener ("In fact, ..."), in [0, 1].
    """

    def __init__(self, draw: Draw, split: str, reference_rate: float, opener_rate: float = 0.15) -> None:
        self.draw = draw
        self.split = split
        self.reference_rate = reference_rate
        self.opener_rate = opener_rate
        self._pools: dict[str, list[str]] = {}
        self._reader = Reader()
        self._sentences: list[Sentence] = []

    # ---- building blocks

    def fresh(self, kind: str) -> str:
        """A name of this kind that the context does not use yet."""
        if kind not in self._pools:
            names: dict[str, Sequence[str]] = {
                "person": (*words.WOMEN, *words.MEN),
                "company": words.COMPANIES,
                "town": words.TOWNS,
                "product": words.PRODUCTS,
                "topic": words.TOPICS,
                "subject": words.SUBJECTS,
                "thing": words.THINGS,
            }
            self._pools[kind] = self.draw.some(names[kind], len(names[kind]))
        pool = self._pools[kind]
        # A very long context may use a pool up; names then come round again and contradictions are dropped by `read`.
        name = pool.pop()
        if not pool:
            del self._pools[kind]
        return name

    def wording(self, templates: Paraphrases) -> str:
        """One of the templates that this split may use."""
        return self.draw.one(templates[self.split == "test"])

    def state(self, kind: str, subject: str, attribute: str, value: str, detail: str = "") -> None:
        """Add the sentence that states a fact, naming its subject or referring to it."""
        named = (
            kind not in _REFERENCE or self._reader.latest(kind) != subject or not self.draw.chance(self.reference_rate)
        )
        quarter_referred = False
        slots = {"S": subject_phrase(kind, subject), "P": subject_phrase(kind, subject) + "'s", "V": value, "T": detail}
        if not named:
            slots["S"] = _REFERENCE[kind]
            slots["P"] = _POSSESSIVE.get(kind, _REFERENCE[kind] + "'s")
        if detail in words.QUARTERS:
            quarter_referred = self._reader.latest("quarter") == detail and self.draw.chance(self.reference_rate)
            slots["Q"] = "that quarter" if quarter_referred else f"the {detail} quarter"
        text = self.wording(STATEMENTS[template_kind(kind), attribute]).format(**slots)
        if self.draw.chance(self.opener_rate):
            text = self.wording(OPENERS) + text
        sentence = Sentence(
            finish(text, "."),
            kind,
            subject if named else "",
            attribute,
            value,
            "" if quarter_referred else detail,
            quarter_referred,
        )
        self._reader.read(sentence, 0, 0)
        self._sentences.append(sentence)

    def filler(self) -> None:
        """Add a sentence that states nothing."""
        self._sentences.append(Sentence(finish(self.wording(FILLERS), ".")))

    def take(self) -> list[Sentence]:
        """The sentences of the document just written; the next document starts empty, with nothing to refer to."""
        done, self._sentences = self._sentences, []
        self._reader = Reader()
        return done

    def value_for(self, attribute: str) -> str:
        """A random value of an attribute."""
        if attribute in VALUE_KIND:
            return self.fresh(VALUE_KIND[attribute])
        plain: dict[str, Sequence[str]] = {
            "job": words.JOBS,
            "hobby": words.HOBBIES,
            "pet": words.PETS,
            "food": words.FOODS,
            "field": words.FIELDS,
            "country": words.COUNTRIES,
            "colour": words.COLOURS,
            "month": words.MONTHS,
            "said": words.OPINIONS,
        }
        if attribute in plain:
            return self.draw.one(plain[attribute])
        return str(self.draw.integer(20, 100) if attribute == "age" else self.draw.integer(10, 100))

    # ---- documents; each takes the number of sentences wanted and returns about as many

    def people(self, num_sentences: int) -> list[Sentence]:
        """Two or more people, a paragraph each, with the companies and towns that come up."""
        while len(self._sentences) < num_sentences:
            person = self.fresh("person")
            kind = kind_of_person(person)
            attributes = self.draw.some(
                ("home", "employer", "job", "hobby", "pet", "food", "age", "manager"), self.draw.integer(3, 6)
            )
            for attribute in attributes:
                value = self.value_for(attribute)
                self.state(kind, person, attribute, value)
                self._follow(attribute, value, 0.35)
        return self.take()

    def _follow(self, attribute: str, value: str, rate: float) -> None:
        """Perhaps go on about the entity just named: the employer's town, the town's country, the manager's employer."""
        onward = {
            "town": ("country",),
            "company": ("base", "product", "field"),
            "product": ("colour", "price", "month"),
            "person": ("employer", "home", "job"),
        }
        kind = VALUE_KIND.get(attribute)
        if kind and self.draw.chance(rate):
            next_attribute = self.draw.one(onward[kind])
            next_value = self.value_for(next_attribute)
            self.state(kind_of_person(value) if kind == "person" else kind, value, next_attribute, next_value)
            self._follow(next_attribute, next_value, rate)

    def chains(self, num_sentences: int) -> list[Sentence]:
        """People whose employers, managers and towns are described in sentences of their own, out of order."""
        paths = (
            ("employer", "base"),
            ("employer", "product"),
            ("home", "country"),
            ("manager", "employer"),
            ("employer", "base", "country"),
            ("manager", "employer", "base", "country"),
        )
        links: list[tuple[str, str, str, str]] = []
        while len(links) < num_sentences:
            path = self.draw.one(paths)
            subject = self.fresh("person")
            kind = kind_of_person(subject)
            for attribute in path:
                value = self.value_for(attribute)
                links.append((kind, subject, attribute, value))
                subject, kind = value, VALUE_KIND.get(attribute, "")
                if kind == "person":
                    kind = kind_of_person(subject)
        ordered = self.draw.some(links, len(links)) if self.draw.chance(0.5) else links
        for link in ordered:
            self.state(*link)
        return self.take()

    def companies(self, num_sentences: int) -> list[Sentence]:
        """Companies, with their founders, towns and products."""
        while len(self._sentences) < num_sentences:
            company = self.fresh("company")
            for attribute in self.draw.some(("base", "product", "founder", "field"), self.draw.integer(2, 5)):
                value = self.value_for(attribute)
                self.state("company", company, attribute, value)
                self._follow(attribute, value, 0.5)
        return self.take()

    def products(self, num_sentences: int) -> list[Sentence]:
        """Products with colour, price and month of release."""
        while len(self._sentences) < num_sentences:
            product = self.fresh("product")
            for attribute in self.draw.some(("colour", "price", "month"), self.draw.integer(2, 4)):
                self.state("product", product, attribute, self.value_for(attribute))
        return self.take()

    def quarters(self, num_sentences: int) -> list[Sentence]:
        """Sales and profits of companies over the quarters of a year."""
        while len(self._sentences) < num_sentences:
            company = self.fresh("company")
            both = self.draw.chance(0.4)
            for quarter in words.QUARTERS:
                metrics = self.draw.some(("sales", "profit"), 2) if both else ["sales"]
                for metric in metrics:
                    self.state("company", company, metric, self.value_for(metric), quarter)
        return self.take()

    def meeting(self, num_sentences: int) -> list[Sentence]:
        """Who said what about which topic; some speakers speak twice."""
        topics = [self.fresh("topic") for _ in range(max(2, num_sentences // 4))]
        while len(self._sentences) < num_sentences:
            speaker = self.fresh("person")
            for topic in self.draw.some(topics, self.draw.integer(1, 4)):
                self.state(kind_of_person(speaker), speaker, "said", self.value_for("said"), topic)
        return self.take()

    def stock(self, num_sentences: int) -> list[Sentence]:
        """People who have, get and give away counted things."""
        while len(self._sentences) < num_sentences:
            owner, thing = self.fresh("person"), self.fresh("thing")
            count = self.draw.integer(2, 10)
            self.state(kind_of_person(owner), owner, "had", str(count), thing)
            for _ in range(self.draw.integer(1, 3)):
                if count > 2 and self.draw.chance(0.4):
                    change = self.draw.integer(1, min(count, 10))
                    count -= change
                    self.state(kind_of_person(owner), owner, "lost", str(change), thing)
                else:
                    change = self.draw.integer(1, 10)
                    count += change
                    self.state(kind_of_person(owner), owner, "got", str(change), thing)
        return self.take()

    def register(self, num_sentences: int) -> list[Sentence]:
        """Numbered lines in the manner of long-line retrieval: a two-word label and a number."""
        labels: set[tuple[str, str]] = set()
        while len(labels) < num_sentences:
            labels.add((self.draw.one(words.ADJECTIVES), self.draw.one(words.NOUNS)))
        for adjective, noun in sorted(sorted(labels), key=lambda _: self.draw.uniform()):
            self.state("line", f"{adjective} {noun}", "value", str(self.draw.integer(10, 100)))
        return self.take()

    def chat(self, num_sentences: int) -> list[Sentence]:
        """A conversation that goes from topic to topic, with small talk between."""
        while len(self._sentences) < num_sentences:
            self.state("chat", "chat", "topic", self.fresh("subject"))
            for _ in range(self.draw.integer(0, 3)):
                self.filler()
        return self.take()

    def idle(self, num_sentences: int) -> list[Sentence]:
        """Filler only."""
        for _ in range(num_sentences):
            self.filler()
        return self.take()

    def documents(self) -> dict[str, Callable[[int], list[Sentence]]]:
        """The kinds of document, by name."""
        return {
            "people": self.people,
            "chains": self.chains,
            "companies": self.companies,
            "products": self.products,
            "quarters": self.quarters,
            "meeting": self.meeting,
            "stock": self.stock,
            "register": self.register,
            "chat": self.chat,
            "idle": self.idle,
        }


def subject_phrase(kind: str, name: str) -> str:
    """How a named subject reads in a sentence: products take an article."""
    return f"the {name}" if kind == "product" else name


def finish(text: str, mark: str) -> str:
    """Close up punctuation, capitalise, add the closing mark (a template's own "?" or "." stays)."""
    for sign in (",", "?", "."):
        text = text.replace(f" {sign}", sign)
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?" else mark)


def cut(sentences: Sequence[Sentence], chunk_sentences: int, draw: Draw) -> list[Chunk]:
    """Cut a document into chunks of about `chunk_sentences` sentences (one more or one fewer at random), blind to meaning."""
    chunks: list[Chunk] = []
    start = 0
    while start < len(sentences):
        length = max(1, chunk_sentences + draw.integer(-1, 2)) if chunk_sentences > 1 else 1
        chunks.append(tuple(sentences[start : start + length]))
        start += length
    return chunks
