"""Questions over generated contexts, or over any other source of items: what the workloads of several papers have in common."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from common.data.items import QAItem
from common.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class GeneratedQuestions:
    """Items of the seeded generator, its families in turn; with another `data` setting the items of that dataset.

    Attributes:
        families: task families of the generator.
        num_chunks, chunk_sentences, reference_rate, distractors, split: see `common.data.synthetic.generate`; they count for
            generated items only.

    Raises:
        ConfigError: no families, or an argument that the generator refuses.
    """

    families: tuple[str, ...]
    num_chunks: int = 6
    chunk_sentences: int = 5
    reference_rate: float = 0.6
    distractors: str = "mixed"
    split: str = "test"

    def __post_init__(self) -> None:
        object.__setattr__(self, "families", tuple(self.families))
        if not self.families:
            raise ConfigError("families is empty; name at least one.")
        for family in self.families:
            self._generate(0, family, 1)

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
