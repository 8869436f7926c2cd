"""Corpora with queries: four generated families in the manner of the paper's datasets, and any data setting.

Each generated family is a number of corpora (the paper's databases) of a few dozen chunks, about one eighth of the
paper's sizes, with
several queries each. Documents of other kinds and near-duplicates (other people with the same attributes) are among
the chunks, so that
retrieval errs and more chunks can hurt. About 7 % of the queries leave out what they ask for.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from common.data.items import QAItem, QueryProfile
from common.errors import ConfigError
from common.rng import for_component
from ragserve.api import WORKLOADS, Corpus, Dataset, Query

_ANSWER_TOKENS = {"query_summary": 32, "quarterly_figures": 16, "multi_hop": 16}
_ATTEMPTS = 50
_VAGUE = ("what about {S} ?", "tell me about {S} , please .", "and {S} ?", "any news on {S} ?")


@dataclasses.dataclass(frozen=True)
class _Generated:
    """A generated family.

    Attributes:
        queries_per_corpus: queries asked of each corpus.
        num_chunks: chunks of a corpus.
        chunk_sentences: mean sentences of a chunk (about 9 tokens each).
        vague_rate: share of queries that leave out what they ask for.
        reference_rate: how often sentences say "she" instead of a name; a chunk that is read alone then loses its subject.
        split: wordings: "test" are unseen by model and profiler, "dev" are those of training.
        corpus_seed: which texts; every run's seed sees the same ones, so that the seeds differ in arrivals alone.
    """

    queries_per_corpus: int = 20
    num_chunks: int = 24
    chunk_sentences: int = 5
    vague_rate: float = 0.07
    reference_rate: float = 0.0
    split: str = "test"
    corpus_seed: int = 0

    families: ClassVar[tuple[str, ...]] = ()
    kinds: ClassVar[tuple[str, ...]] = ()
    metadata: ClassVar[str] = ""
    variants: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        from common.data.synthetic import SPLITS

        if min(self.queries_per_corpus, self.num_chunks, self.chunk_sentences) < 1 or self.corpus_seed < 0:
            raise ConfigError(
                f"queries_per_corpus={self.queries_per_corpus}, num_chunks={self.num_chunks}, chunk_sentences="
                f"{self.chunk_sentences} must be at least 1 and corpus_seed={self.corpus_seed} at least 0."
            )
        if not 0.0 <= self.vague_rate <= 1.0 or not 0.0 <= self.reference_rate <= 1.0:
            raise ConfigError(
                f"vague_rate={self.vague_rate} and reference_rate={self.reference_rate} must be within 0..1."
            )
        if self.split not in SPLITS:
            raise ConfigError(f"split={self.split!r} is not one of {', '.join(SPLITS)}.")

    @property
    def chunk_tokens(self) -> int:
        """Nominal chunk size: the longest chunk in tokens of the bundled tokenizer, roughly."""
        return 10 * (self.chunk_sentences + 1)

    def dataset(self, rng: np.random.Generator, n: int) -> Dataset:
        """n queries, corpus by corpus in turn. The stream decides their order only; texts follow from `corpus_seed`."""
        corpora: list[Corpus] = []
        queries: list[Query] = []
        num_corpora = max(1, -(-n // self.queries_per_corpus))
        for number in range(num_corpora):
            count = min(self.queries_per_corpus, n - number * self.queries_per_corpus)
            corpus, asked = self._corpus(number, count)
            corpora.append(corpus)
            queries += asked
        order = rng.permutation(len(queries))
        return Dataset(type(self).__name__, tuple(corpora), tuple(queries[i] for i in order))

    def _corpus(self, number: int, count: int) -> tuple[Corpus, list[Query]]:
        from common.data.synthetic import compose
        from common.data.synthetic.families import Asker, Question
        from common.data.synthetic.scenes import Draw, chunk_text, read

        draw = Draw(for_component(self.corpus_seed, "ragserve corpus", type(self).__name__, self.split, number))
        asker = Asker(draw, self.split)
        for _ in range(_ATTEMPTS):
            chunks = compose(
                draw,
                self.split,
                self.kinds,
                self.num_chunks,
                self.chunk_sentences,
                reference_rate=self.reference_rate,
                num_main=max(2, self.num_chunks // 4),
            )
            offered = asker.all(read(chunks))
            by_variant: dict[str, dict[str, list[Question]]] = {family: {} for family in self.families}
            for family, variants in by_variant.items():
                for question in (ask() for ask in offered[family]):
                    if not self.variants or question.variant in self.variants:
                        variants.setdefault(question.variant, []).append(question)
            if all(by_variant.values()):
                break
        else:
            raise ConfigError(
                f"no questions of {', '.join(self.families)} fit into {self.num_chunks} chunks of {self.chunk_sentences} "
                "sentences; use more chunks."
            )
        queries: list[Query] = []
        seen: set[str] = set()
        attempts = 0
        while len(queries) < count:
            attempts += 1
            variants = by_variant[self.families[len(queries) % len(self.families)]]
            question = draw.one(variants[draw.one(sorted(variants))])
            # A small corpus may not have that many different questions.
            if question.text in seen and attempts < 40 * count:
                continue
            seen.add(question.text)
            text, is_vague = question.text, draw.chance(self.vague_rate)
            if is_vague:
                text = _finish(draw.one(_VAGUE).format(S=question.facts[0].subject))
            queries.append(
                Query(
                    query_id=f"{type(self).__name__}/{self.split}/{self.corpus_seed}/{number}/{len(queries)}",
                    text=text,
                    answers=(question.answer,),
                    corpus=number,
                    evidence=question.evidence,
                    gold_profile=question.profile,
                    max_answer_tokens=_ANSWER_TOKENS.get(question.family, 8),
                    family=question.family,
                    is_vague=is_vague,
                )
            )
        return Corpus(tuple(chunk_text(chunk) for chunk in chunks), self.metadata, self.chunk_tokens), queries


def _finish(text: str) -> str:
    from common.data.synthetic.scenes import finish

    return finish(text, "?")


@WORKLOADS.add("squad_like")
@dataclasses.dataclass(frozen=True)
class SquadLike(_Generated):
    """One fact in one short chunk: the stand-in for Squad. Knobs: see `_Generated`."""

    chunk_sentences: int = 4
    families: ClassVar[tuple[str, ...]] = ("single_fact",)
    kinds: ClassVar[tuple[str, ...]] = ("people", "companies", "products")
    metadata: ClassVar[str] = "short articles about people, companies and products"


@WORKLOADS.add("musique_like")
@dataclasses.dataclass(frozen=True)
class MusiqueLike(_Generated):
    """Chains of two to four facts, and comparisons: the stand-in for Musique. Knobs: see `_Generated`."""

    families: ClassVar[tuple[str, ...]] = ("multi_hop", "multi_hop", "comparison")
    kinds: ClassVar[tuple[str, ...]] = ("chains", "chains", "people", "products")
    metadata: ClassVar[str] = "linked articles about people, their employers and towns"


@WORKLOADS.add("finsec_like")
@dataclasses.dataclass(frozen=True)
class FinsecLike(_Generated):
    """Sales and profits of companies by quarter: the stand-in for KG RAG FinSec. Knobs: see `_Generated`."""

    chunk_sentences: int = 6
    families: ClassVar[tuple[str, ...]] = ("quarterly_figures", "quarterly_figures", "comparison")
    variants: ClassVar[frozenset[str]] = frozenset(("sales", "profit", "all_sales", "best_quarter", "higher_sales"))
    kinds: ClassVar[tuple[str, ...]] = ("quarters",)
    metadata: ClassVar[str] = "quarterly financial reports of companies"


@WORKLOADS.add("qmsum_like")
@dataclasses.dataclass(frozen=True)
class QmsumLike(_Generated):
    """Minutes of meetings: who said what, and summaries of a topic or person: the stand-in for QMSUM. Knobs: `_Generated`."""

    chunk_sentences: int = 6
    families: ClassVar[tuple[str, ...]] = ("query_summary", "query_summary", "who_said_what")
    kinds: ClassVar[tuple[str, ...]] = ("meeting", "meeting", "people")
    metadata: ClassVar[str] = "minutes of meetings and notes about people"


FAMILIES: tuple[str, ...] = ("squad_like", "musique_like", "finsec_like", "qmsum_like")
"""The four families of the default experiments."""
METADATA: tuple[str, ...] = tuple(cls.metadata for cls in (SquadLike, MusiqueLike, FinsecLike, QmsumLike))


@WORKLOADS.add("items")
@dataclasses.dataclass(frozen=True)
class Items:
    """Questions of any data setting (`data=local_squad`, `data=hf_musique`, your own jsonl), their passages pooled
    into one corpus.

    Attributes:
        chunk_tokens: passages are cut to so many tokens of the model's tokenizer; 0 keeps them as they are.
        overlap_tokens: what neighbouring chunks share.
        is_pooled: one corpus of all passages; False gives every context its own.
        metadata: what the profiler is told.
        max_answer_tokens: cap on answers; 0 keeps the items' own.
    """

    chunk_tokens: int = 64
    overlap_tokens: int = 0
    is_pooled: bool = True
    metadata: str = "passages of text"
    max_answer_tokens: int = 0

    def __post_init__(self) -> None:
        if (
            self.chunk_tokens < 0
            or not 0 <= self.overlap_tokens < max(1, self.chunk_tokens)
            or self.max_answer_tokens < 0
        ):
            raise ConfigError(
                f"chunk_tokens={self.chunk_tokens} and max_answer_tokens={self.max_answer_tokens} must be at least 0, and "
                f"overlap_tokens={self.overlap_tokens} at least 0 and smaller than chunk_tokens."
            )

    def dataset(self, rng: np.random.Generator, n: int) -> Dataset:
        """n generated questions, as a stand-in where no data setting was given."""
        from common.data.synthetic import generate

        return self.dataset_of(list(generate("single_fact", seed=int(rng.integers(2**31)), n=n)), None)

    def dataset_from(self, data: Mapping[str, Any], rng: np.random.Generator, n: int, encode: Any) -> Dataset:
        """n sampled items of the source that a run's `data` settings name.

        Raises:
            ConfigError, DataUnavailable: as `common.data.sources.load_items`.
        """
        from common.data.sources import DataSpec, load_items, sample_items

        items = [item for item in sample_items(load_items(DataSpec.from_settings(data)), n, rng) if item.chunks]
        return self.dataset_of(items, encode)

    def dataset_of(self, items: Sequence[QAItem], encode: Any) -> Dataset:
        """Items as a dataset; their contexts are cut by `encode` (text to token ids) unless it is None or chunk_tokens is 0."""
        from common.data.chunking import rechunk

        if not items:
            raise ConfigError("the data setting gave no item with a context; RAG needs passages to retrieve from.")
        if encode is not None and self.chunk_tokens:
            items = [rechunk(item, encode, self.chunk_tokens, self.overlap_tokens, "sentence") for item in items]
        contexts: dict[tuple[str, ...], int] = {}
        pooled: dict[str, int] = {}
        queries = []
        for item in items:
            if self.is_pooled:
                places = [pooled.setdefault(chunk, len(pooled)) for chunk in item.chunks]
                corpus, evidence = 0, tuple(sorted({places[index] for index in item.evidence}))
            else:
                corpus, evidence = contexts.setdefault(item.chunks, len(contexts)), item.evidence
            queries.append(
                Query(
                    query_id=item.item_id,
                    text=item.question,
                    answers=item.answers,
                    corpus=corpus,
                    evidence=evidence,
                    gold_profile=item.profile,
                    max_answer_tokens=self.max_answer_tokens or item.max_answer_tokens,
                    family=item.family,
                )
            )
        size = self.chunk_tokens or max(len(chunk.split()) * 2 for item in items for chunk in item.chunks)
        texts: list[tuple[str, ...]] = [tuple(pooled)] if self.is_pooled else list(contexts)
        return Dataset("items", tuple(Corpus(chunks, self.metadata, size) for chunks in texts), tuple(queries))


def training_questions(num: int, seed: int = 0, split: str = "train") -> Iterator[tuple[str, str, QueryProfile]]:
    """(question, metadata, gold profile) in the wordings of one split, the families in turn: what the profiler learns from."""

    made = [
        WORKLOADS.create(name, split=split, corpus_seed=seed, queries_per_corpus=25, num_chunks=16) for name in FAMILIES
    ]
    per_family = -(-num // len(made))
    for workload in made:
        for query in workload.dataset(for_component(seed, "profiler questions"), per_family).queries:
            assert query.gold_profile is not None
            yield query.text, workload.metadata, query.gold_profile
