"""Where requests come from: questions over several chunks of text, and random tokens for speed."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cacheblend.api import WORKLOADS, Request
from common.data.items import QAItem
from common.data.questions import GeneratedQuestions
from common.errors import ConfigError


@WORKLOADS.add("multi_chunk_qa")
@dataclasses.dataclass(frozen=True)
class MultiChunkQA(GeneratedQuestions):
    """Questions over a context of several chunks; some need one chunk, some what another chunk says.

    With data=bundled the seeded generator writes them, its families in turn. With another `data` setting the items of that
    dataset are taken as they are, and only `chunk_tokens` of the knobs counts.

    Attributes:
        families: task families of the generator, drawn in turn. Answers of "coreference" need what an earlier chunk says, of
            "single_fact" one chunk alone; both are among those that the bundled model was trained to answer. "comparison" and
            "multi_hop" need several chunks too, but the bundled model answers them poorly even after a full prefill.
        num_chunks, chunk_sentences, reference_rate, distractors, split: see `common.data.synthetic.generate`.
        chunk_tokens: cut chunks to at most this many tokens; None leaves them as the dataset has them.
    """

    families: tuple[str, ...] = ("coreference", "single_fact")
    chunk_sentences: int = 4
    chunk_tokens: int | None = None

    def to_request(self, item: QAItem, engine: Any) -> Request:
        """The question and its chunks as token ids."""
        from cacheblend.harness import encode

        return encode(item, engine, self.chunk_tokens)


@WORKLOADS.add("continuation")
@dataclasses.dataclass(frozen=True)
class Continuation:
    """Running text, cut into chunks of equal length; what follows them takes the place of the question.

    There are no answers: methods are compared by how far their continuation of the text is from that of full prefill. Any text
    will do that the model was trained for: data=bundled takes the generator's documents, data=local_books and others real text.

    Attributes:
        num_chunks, chunk_tokens, question_tokens: lengths in tokens. A text that is too short is refused.
    """

    num_chunks: int = 6
    chunk_tokens: int = 36
    question_tokens: int = 24

    def __post_init__(self) -> None:
        if min(self.num_chunks, self.chunk_tokens, self.question_tokens) < 1:
            raise ConfigError("num_chunks, chunk_tokens and question_tokens must be at least 1.")

    @property
    def _num_tokens(self) -> int:
        return self.num_chunks * self.chunk_tokens + self.question_tokens

    def items(self, rng: np.random.Generator, n: int) -> Iterator[QAItem]:
        """n generated texts, long enough for any tokenizer that makes a token of a word or less."""
        from common.data.synthetic import generate

        seed = int(rng.integers(2**31))
        sentences = (
            -(-self._num_tokens // 20) + 2
        )  # a sentence has at least four words; a chunk here has five sentences
        yield from generate("single_fact", "test", seed, n, num_chunks=sentences)

    def items_from(self, data: Mapping[str, Any], rng: np.random.Generator, n: int) -> Iterator[QAItem]:
        """n texts of the source that a run's `data` settings name."""
        if data.get("source", "generated") == "generated":
            yield from self.items(rng, n)
            return
        from common.data.sources import DataSpec, load_items, sample_items

        yield from sample_items(load_items(DataSpec.from_settings(data)), n, rng)

    def to_request(self, item: QAItem, engine: Any) -> Request:
        """The first tokens of the text, cut.

        Raises:
            ConfigError: the text is too short, or the model cannot read text.
        """
        if engine.tokenizer is None:
            raise ConfigError(f"model {engine.loaded.spec.name!r} has no tokenizer; use workload=random_tokens.")
        ids = engine.tokenizer.encode("\n\n".join(item.chunks), add_special_tokens=False)
        if len(ids) < self._num_tokens:
            raise ConfigError(
                f"text {item.item_id!r} has {len(ids)} tokens, {self._num_tokens} are needed; "
                "use shorter chunks (workload_args.chunk_tokens) or longer texts."
            )
        cuts = range(0, self.num_chunks * self.chunk_tokens, self.chunk_tokens)
        question = ids[self.num_chunks * self.chunk_tokens : self._num_tokens]
        return Request(
            tuple(tuple(ids[start : start + self.chunk_tokens]) for start in cuts),
            tuple(question),
            item_id=item.item_id,
            family="continuation",
        )


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
