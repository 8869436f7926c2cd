"""Seeded generator of multi-chunk question answering in plain English, for ten task families and unanswerable questions.

    for item in generate("coreference", split="test", seed=0, n=50, num_chunks=8):
        item.chunks, item.question, item.answers, item.evidence

Documents describe people, companies, towns, products, quarterly figures, meetings and lists. They are cut into chunks without
regard to meaning, so that a chunk often opens with "she" or "the company" and cannot be understood without the one before.
Gold answers, evidence and query profiles follow from the text itself (see `scenes.read`), never from a model.

Splits: "train" and "dev" share their wording and differ in the texts; "test" uses held-out sentence and question templates.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from common.data.items import QAItem
from common.data.synthetic.families import FAMILIES, FAMILY_DOCUMENTS, Asker, Question
from common.data.synthetic.scenes import SPLITS, Chunk, Draw, Writer, chunk_text, cut, read
from common.errors import ConfigError
from common.rng import for_component

__all__ = ["FAMILIES", "FAMILY_DOCUMENTS", "SPLITS", "Annotated", "annotate", "compose", "generate", "questions_about"]

_MAX_ANSWER_TOKENS = {"query_summary": 40, "arithmetic": 24, "quarterly_figures": 16, "multi_hop": 16}
_ATTEMPTS = 400


@dataclasses.dataclass(frozen=True)
class Annotated:
    """An item with the analysis behind it.

    Attributes:
        item: what a method may see, and the gold answer.
        chunks: the item's chunks as sentences; `item.chunks` is their text.
        question: the question with the facts that the answer rests on.
    """

    item: QAItem
    chunks: tuple[Chunk, ...]
    question: Question


def compose(
    draw: Draw,
    split: str,
    kinds: Sequence[str],
    num_chunks: int,
    chunk_sentences: int,
    *,
    reference_rate: float = 0.6,
    distractors: str = "mixed",
    num_main: int = 1,
) -> list[Chunk]:
    """Write a context of exactly `num_chunks` chunks.

    Args:
        draw: source of randomness.
        split: whose templates to use.
        kinds: kinds of document that the context must hold; the first `num_main` documents are drawn from these.
        num_chunks: chunks in the context, >= 1.
        chunk_sentences: mean sentences per chunk, >= 1 (about 9 tokens each with the bundled tokenizer).
        reference_rate: how often sentences say "she" or "the company" instead of the name, in [0, 1].
        distractors: what fills the rest: "mixed" documents of all kinds, "same" kinds only (near-duplicates), or "idle"
            sentences.
        num_main: how many documents of `kinds` come first in the budget of chunks.
    """
    writer = Writer(draw, split, reference_rate)
    documents = writer.documents()
    contents: list[list[Chunk]] = []
    left = num_chunks
    while left > 0:
        if len(contents) < num_main or distractors == "same":
            kind = draw.one(kinds)
        else:
            kind = "idle" if distractors == "idle" else draw.one([name for name in documents if name != "idle"])
        wanted = max(4, min(left * chunk_sentences, draw.integer(6, 16)))
        chunks = cut(documents[kind](wanted), chunk_sentences, draw)[:left]
        contents.append(chunks)
        left -= len(chunks)
    return [chunk for document in draw.some(contents, len(contents)) for chunk in document]


def questions_about(chunks: Sequence[Chunk], asker: Asker, family: str) -> list[Question]:
    """Every question of one family that these chunks, read in this order, answer."""
    return [ask() for ask in asker.all(read(chunks))[family]]


def generate(
    family: str,
    split: str = "test",
    seed: int = 0,
    n: int = 100,
    *,
    num_chunks: int = 6,
    chunk_sentences: int = 5,
    reference_rate: float = 0.6,
    distractors: str = "mixed",
    variants: Sequence[str] = (),
) -> Iterator[QAItem]:
    """Items of one family; the same arguments give the same items on every machine.

    Args:
        family: one of `FAMILIES`.
        split: "train", "dev" or "test".
        seed: which stream of items, >= 0.
        n: how many items.
        num_chunks: chunks per item; all but one or two documents are distractors.
        chunk_sentences: mean sentences per chunk.
        reference_rate: how often sentences refer instead of naming, in [0, 1].
        distractors: "mixed", "same" (near-duplicates only) or "idle"; see `compose`.
        variants: keep only these variants of the family's questions (the last part of `item_id` before the number names the
            variant); empty for all, drawn evenly.

    Raises:
        ConfigError: an argument is not allowed, or no such question fits into so small a context.
    """
    annotated = annotate(
        family,
        split,
        seed,
        n,
        num_chunks=num_chunks,
        chunk_sentences=chunk_sentences,
        reference_rate=reference_rate,
        distractors=distractors,
        variants=variants,
    )
    return (one.item for one in annotated)


def annotate(
    family: str,
    split: str = "test",
    seed: int = 0,
    n: int = 100,
    *,
    num_chunks: int = 6,
    chunk_sentences: int = 5,
    reference_rate: float = 0.6,
    distractors: str = "mixed",
    variants: Sequence[str] = (),
) -> Iterator[Annotated]:
    """As `generate`, with the sentences and facts behind each item; for diagnosis, not for methods."""
    if family not in FAMILIES:
        raise ConfigError(f"family={family!r} is not a task family. Choose one of {', '.join(FAMILIES)}.")
    if split not in SPLITS:
        raise ConfigError(f"split={split!r} is not a split. Choose one of {', '.join(SPLITS)}.")
    if distractors not in ("mixed", "same", "idle"):
        raise ConfigError(f"distractors={distractors!r} is not known. Choose one of mixed, same, idle.")
    if num_chunks < 1 or chunk_sentences < 1 or n < 0 or not 0.0 <= reference_rate <= 1.0:
        raise ConfigError(
            f"num_chunks={num_chunks}, chunk_sentences={chunk_sentences}, n={n}, reference_rate={reference_rate}: counts must be "
            "at least 1 (n at least 0) and the rate between 0 and 1."
        )
    return _items(family, split, seed, n, num_chunks, chunk_sentences, reference_rate, distractors, tuple(variants))


def _items(
    family: str,
    split: str,
    seed: int,
    n: int,
    num_chunks: int,
    chunk_sentences: int,
    reference_rate: float,
    distractors: str,
    variants: tuple[str, ...],
) -> Iterator[Annotated]:
    for number in range(n):
        rng: np.random.Generator = for_component(seed, "synthetic", family, split, number)
        draw = Draw(rng)
        asker = Asker(draw, split)
        for _ in range(_ATTEMPTS):
            chunks = compose(
                draw,
                split,
                FAMILY_DOCUMENTS[family],
                num_chunks,
                chunk_sentences,
                reference_rate=reference_rate,
                distractors=distractors,
                num_main=2 if num_chunks >= 4 else 1,
            )
            by_variant: dict[str, list[Question]] = {}
            for question in questions_about(chunks, asker, family):
                if not variants or question.variant in variants:
                    by_variant.setdefault(question.variant, []).append(question)
            if by_variant:
                break
        else:
            raise ConfigError(
                f"no {family} question{f' of {variants}' if variants else ''} fits into {num_chunks} chunks of "
                f"{chunk_sentences} sentences with reference_rate={reference_rate}; use more chunks."
            )
        question = draw.one(by_variant[draw.one(sorted(by_variant))])
        item = QAItem(
            item_id=f"synthetic/{family}/{split}/{seed}/{question.variant}/{number}",
            family=family,
            chunks=tuple(chunk_text(chunk) for chunk in chunks),
            question=question.text,
            answers=(question.answer,),
            evidence=question.evidence,
            metric=question.metric,
            max_answer_tokens=_MAX_ANSWER_TOKENS.get(family, 8),
            profile=question.profile,
        )
        yield Annotated(item, tuple(chunks), question)
