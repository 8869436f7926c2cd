"""Where requests come from: questions over several chunks of text, and random tokens for speed."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cacheblend.api import WORKLOADS, Request
from common.data.items import QAItem
from common.errors import ConfigError


@WORKLOADS.add("multi_chunk_qa")
@dataclasses.dataclass(frozen=True)
class MultiChunkQA:
    """Questions over a context of several chunks; some need one chunk, some what another chunk says.

    With data=bundled the seeded generator writes them, its families in turn. With another `data` setting the items of that
    dataset are taken as they are, and only `chunk_tokens` of the knobs counts.

    Attributes:
        families: task families of the generator, drawn in turn. Answers of "coreference" and "comparison" need several
            chunks, of "single_fact" one.
        num_chunks, chunk_sentences, reference_rate, distractors, split: see `common.data.synthetic.generate`.
        chunk_tokens: cut chunks to at most this many tokens; None leaves them as the dataset has them.
    """

    families: tuple[str, ...] = ("coreference", "single_fact", "comparison")
    num_chunks: int = 6
    chunk_sentences: int = 5
    reference_rate: float = 0.6
    distractors: str = "mixed"
    split: str = "test"
    chunk_tokens: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "families", tuple(self.families))
        if not self.families:
            raise ConfigError("families is empty; name at least one.")
        self._generate(0, self.families[0], 1)

    def _generate(self, seed: int, family: str, n: int) -> Iterator[QAItem]:
        from common.data.synthetic import generate

        return generate(
            family,
            self.split,
            seed,
            n,
            num_chunks=self.num_chunks,
            chunk_sentences=self.chunk_sentences,
            reference_rate=self.reference_rate,
            distractors=self.distractors,
        )

    def items(self, rng: np.random.Generator, n: int) -> Iterator[QAItem]:
        """n generated questions, the families in turn."""
        seed = int(rng.integers(2**31))
        per_family = -(-n // len(self.families))
        streams = [self._generate(seed, family, per_family) for family in self.families]
        for index in range(n):
            yield next(streams[index % len(streams)])

    def items_from(self, data: Mapping[str, Any], rng: np.random.Generator, n: int) -> Iterator[QAItem]:
        """n questions of the source that a run's `data` settings name."""
        if data.get("source", "generated") == "generated":
            yield from self.items(rng, n)
            return
        from common.data.sources import DataSpec, load_items, sample_items

        yield from sample_items(load_items(DataSpec.from_settings(data)), n, rng)


@WORKLOADS.add("random_tokens")
@dataclasses.dataclass(frozen=True)
class RandomTokenChunks:
    """Chunks of random tokens: for speed, which depends on lengths alone. There are no answers.

    Attributes:
        num_chunks, chunk_tokens, question_tokens: lengths.
        vocabulary: ids are drawn from 0 .. vocabulary-1.
    """

    num_chunks: int = 8
    chunk_tokens: int = 508
    question_tokens: int = 31
    vocabulary: int = 999

    def __post_init__(self) -> None:
        if min(self.num_chunks, self.chunk_tokens, self.question_tokens, self.vocabulary) < 1:
            raise ConfigError("num_chunks, chunk_tokens, question_tokens and vocabulary must be at least 1.")

    def items(self, rng: np.random.Generator, n: int) -> Iterator[Request]:
        """n requests."""
        for _ in range(n):
            chunks = rng.integers(0, self.vocabulary, (self.num_chunks, self.chunk_tokens)).tolist()
            question = rng.integers(0, self.vocabulary, self.question_tokens).tolist()
            yield Request(tuple(map(tuple, chunks)), tuple(question))
