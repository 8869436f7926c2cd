"""Contexts with several queries each: reuse is the point."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from common.errors import ConfigError
from llmsteer.api import WORKLOADS, Context, ContextItem, Query, TokenQuery

_ATTEMPTS = 50
# Answers that show their reasoning take more tokens.
_MAX_ANSWER_TOKENS = {"arithmetic": 24, "quarterly_figures": 16, "multi_hop": 16}


@WORKLOADS.add("reused_contexts")
@dataclasses.dataclass(frozen=True)
class ReusedContexts:
    """Generated contexts of three kinds, standing in for SQuAD, TriviaQA and GSM8K, with several queries each.

    single_fact asks for facts among documents of other kinds; quarterly_figures for one or several figures among many that look
    the same; arithmetic for sums over stated quantities. With another `data` setting its items are grouped by context instead,
    and only `num_queries` and `max_words` count.

    Attributes:
        families: families of the generator, contexts in turn.
        num_queries: queries per context. A dataset's contexts with fewer are taken as they are.
        num_chunks, chunk_sentences, reference_rate: size and style of a context; see `common.data.synthetic`.
        distractors: what fills the context beside the documents asked about: "mixed", "same" or "idle".
        split: wording of the test contexts. Head profiling draws from "dev".
        max_words: a dataset's contexts are cut to whole chunks of at most so many words together.
    """

    # DEVIATION llmsteer-1: generated documents stand in for SQuAD, TriviaQA and GSM8K.
    families: tuple[str, ...] = ("single_fact", "quarterly_figures", "arithmetic")
    num_queries: int = 8
    num_chunks: int = 16
    chunk_sentences: int = 5
    reference_rate: float = 0.3
    distractors: str = "mixed"
    split: str = "test"
    max_words: int = 7500

    def __post_init__(self) -> None:
        from common.data.synthetic import FAMILIES, SPLITS

        object.__setattr__(self, "families", tuple(self.families))
        if not self.families or any(family not in FAMILIES for family in self.families):
            raise ConfigError(f"families={list(self.families)} must be some of {', '.join(FAMILIES)}.")
        if self.split not in SPLITS:
            raise ConfigError(f"split={self.split!r} is not one of {', '.join(SPLITS)}.")
        if min(self.num_queries, self.num_chunks, self.chunk_sentences, self.max_words) < 1:
            raise ConfigError("num_queries, num_chunks, chunk_sentences and max_words must be at least 1.")

    def items(self, rng: np.random.Generator, n: int) -> Iterator[ContextItem]:
        """n generated contexts, the families in turn."""
        seed = int(rng.integers(2**31))
        for index in range(n):
            yield self._write(seed, self.families[index % len(self.families)], index)

    def held_out(self, rng: np.random.Generator, n: int) -> Iterator[ContextItem]:
        """n contexts of the split "dev", which shares neither texts nor wording with "test"."""
        split = "dev" if self.split != "dev" else "train"
        return dataclasses.replace(self, split=split).items(rng, n)

    def items_from(self, data: Mapping[str, Any], rng: np.random.Generator, n: int) -> Iterator[ContextItem]:
        """n contexts of the source that a run's `data` settings name."""
        if data.get("source", "generated") == "generated":
            yield from self.items(rng, n)
            return
        yield from self._stored(data, rng, n)

    def _stored(self, data: Mapping[str, Any], rng: np.random.Generator, n: int) -> list[ContextItem]:
        from common.data.sources import DataSpec, by_context, load_items

        groups = by_context(load_items(DataSpec.from_settings(data)))
        # A fixed order for the source, so that test and held-out contexts never meet; the stream only picks queries.
        groups = [groups[place] for place in np.random.default_rng(0).permutation(len(groups))]
        found: list[ContextItem] = []
        for number, group in enumerate(groups[:n]):
            if len(group) > self.num_queries:
                chosen = sorted(rng.choice(len(group), size=self.num_queries, replace=False).tolist())
                group = [group[place] for place in chosen]
            words = 0
            kept: list[int] = []
            for index, chunk in enumerate(group[0].chunks):
                words += len(chunk.split())
                if words <= self.max_words or not kept:
                    kept.append(index)
            queries = tuple(
                Query(
                    item.question,
                    item.answers,
                    item.metric,
                    item.max_answer_tokens,
                    tuple((kept.index(c), 0, len(item.chunks[c])) for c in item.evidence if c in kept),
                )
                for item in group
                if all(chunk in kept for chunk in item.evidence)
            )
            if queries:
                chunks = tuple(group[0].chunks[index] for index in kept)
                found.append(ContextItem(f"{group[0].family}/{number}", group[0].family, chunks, queries))
        if not found:
            raise ConfigError(f"data={data.get('name')} holds no context that fits into max_words={self.max_words}.")
        return found

    def _write(self, seed: int, family: str, index: int) -> ContextItem:
        from common.data.synthetic import compose, questions_about
        from common.data.synthetic.families import FAMILY_DOCUMENTS, Asker
        from common.data.synthetic.scenes import Draw, chunk_text
        from common.rng import for_component

        draw = Draw(for_component(seed, "llmsteer", family, self.split, index))
        asker = Asker(draw, self.split)
        for _ in range(_ATTEMPTS):
            chunks = compose(
                draw,
                self.split,
                FAMILY_DOCUMENTS[family],
                self.num_chunks,
                self.chunk_sentences,
                reference_rate=self.reference_rate,
                distractors=self.distractors,
                num_main=max(1, self.num_chunks // 4),
            )
            questions = {question.text: question for question in questions_about(chunks, asker, family)}
            if len(questions) >= self.num_queries:
                break
        else:
            raise ConfigError(
                f"fewer than num_queries={self.num_queries} {family} questions fit into num_chunks={self.num_chunks}; "
                "use more chunks or fewer queries."
            )
        starts = [_sentence_starts([sentence.text for sentence in chunk]) for chunk in chunks]
        queries = tuple(
            Query(
                question.text,
                (question.answer,),
                question.metric,
                _MAX_ANSWER_TOKENS.get(family, 8),
                tuple((fact.chunk, *starts[fact.chunk][fact.sentence]) for fact in question.facts),
            )
            for question in draw.some(list(questions.values()), self.num_queries)
        )
        texts = tuple(chunk_text(chunk) for chunk in chunks)
        return ContextItem(f"{family}/{self.split}/{seed}/{index}", family, texts, queries)


def _sentence_starts(sentences: list[str]) -> list[tuple[int, int]]:
    """First character and last + 1 of each sentence of a chunk, which joins them with one space."""
    spans, place = [], 0
    for sentence in sentences:
        spans.append((place, place + len(sentence)))
        place += len(sentence) + 1
    return spans


@WORKLOADS.add("random_contexts")
@dataclasses.dataclass(frozen=True)
class RandomContexts:
    """Random tokens without answers: for speed, and for models with random weights.

    Attributes:
        context_tokens: length of the context.
        num_queries, query_tokens: how many queries, and how long.
        answer_tokens: how long every answer is.
        sentence_tokens: length of what counts as a sentence.
        vocabulary: ids are drawn below this number.
    """

    context_tokens: int = 1024
    num_queries: int = 2
    query_tokens: int = 16
    answer_tokens: int = 8
    sentence_tokens: int = 16
    vocabulary: int = 999

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1:
            raise ConfigError("all sizes of random_contexts must be at least 1.")

    def items(self, rng: np.random.Generator, n: int) -> Iterator[Context]:
        """n contexts."""
        for index in range(n):
            ids = tuple(rng.integers(0, self.vocabulary, self.context_tokens).tolist())
            starts = range(0, self.context_tokens, self.sentence_tokens)
            spans = tuple((start, min(start + self.sentence_tokens, self.context_tokens)) for start in starts)
            queries = tuple(
                TokenQuery(
                    tuple(rng.integers(0, self.vocabulary, self.query_tokens).tolist()),
                    max_answer_tokens=self.answer_tokens,
                    evidence=tuple(range(*spans[int(rng.integers(len(spans)))])),
                )
                for _ in range(self.num_queries)
            )
            yield Context(ids, queries, spans, item_id=f"random/{index}", family="random")

    def held_out(self, rng: np.random.Generator, n: int) -> Iterator[Context]:
        """n more contexts; they have no answers, so heads cannot be profiled on them."""
        return self.items(rng, n)
