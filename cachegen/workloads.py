"""Contexts with a question: stand-ins for the paper's datasets, from the seeded generator or any data setting."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cachegen.api import WORKLOADS
from common.data.items import QAItem
from common.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class _Generated:
    families: tuple[str, ...]
    num_chunks: int = 12
    chunk_sentences: int = 5
    reference_rate: float = 0.6
    distractors: str = "mixed"
    split: str = "test"

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
        """n generated items, the families in turn."""
        seed = int(rng.integers(2**31))
        per_family = -(-n // len(self.families))
        streams = [self._generate(seed, family, per_family) for family in self.families]
        for index in range(n):
            yield next(streams[index % len(streams)])

    def items_from(self, data: Mapping[str, Any], rng: np.random.Generator, n: int) -> Iterator[QAItem]:
        """n items of the source that a run's `data` settings name."""
        if data.get("source", "generated") == "generated":
            yield from self.items(rng, n)
            return
        from common.data.sources import DataSpec, load_items, sample_items

        yield from sample_items(load_items(DataSpec.from_settings(data)), n, rng)


@WORKLOADS.add("topic_recall")
@dataclasses.dataclass(frozen=True)
class TopicRecall(_Generated):
    """Which topic came first (second, ...) in a long talk: the stand-in for LongChat.

    Attributes:
        families, num_chunks, chunk_sentences, reference_rate, distractors, split: see `common.data.synthetic.generate`.
    """

    families: tuple[str, ...] = ("topic_retrieval",)


@WORKLOADS.add("fact_recall")
@dataclasses.dataclass(frozen=True)
class FactRecall(_Generated):
    """A fact stated once in a long context: the stand-in for TriviaQA. Knobs as `topic_recall`."""

    families: tuple[str, ...] = ("single_fact", "line_retrieval")


@WORKLOADS.add("story_questions")
@dataclasses.dataclass(frozen=True)
class StoryQuestions(_Generated):
    """Questions whose answer needs several statements: the stand-in for NarrativeQA. Knobs as `topic_recall`."""

    families: tuple[str, ...] = ("coreference", "comparison", "multi_hop")
