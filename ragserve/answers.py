"""What the model really answers to each call: run once, in batches, and replayed by the simulator.

    table = AnswerTable(loaded)
    table.fill(calls)                   # runs what is not known yet
    table(call)                         # `common.serving.api.Answers`: the answer, from the table or from the model now

Quality is always that of these answers. A table belongs to one model; it is keyed by the prompt's tokens, so that the calls
of different configurations that ask the same thing (a mapper of the same chunk) run once. Greedy decoding with a
smaller cap is a
prefix of that with a larger one, so that one run with the largest summary length serves all of them.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.cache import ArtefactCache
from common.errors import ConfigError, CorruptBitstream
from common.models.loading import LoadedModel
from common.serving.api import Answer, Call
from ragserve.api import Query, RagConfig
from ragserve.generation import generate
from ragserve.prompts import Prompts
from ragserve.synthesis import Synthesised, SynthesisSettings, synthesise

VERSION = 2
"""Of the table's content; raised when generation changes."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A query to be answered with a configuration.

    Attributes:
        query: the question.
        chunks: retrieved, best first; at least `config.num_chunks`.
        config: how.
    """

    query: Query
    chunks: tuple[str, ...]
    config: RagConfig


def _key(call: Call) -> bytes:
    digest = hashlib.blake2b(np.asarray(call.prompt_ids, dtype="<i4").tobytes(), digest_size=16)
    digest.update(np.asarray(sorted(call.stop_ids), dtype="<i4").tobytes())
    return digest.digest()


class AnswerTable:
    """Answers of one model, by prompt.

    Args:
        loaded: the model, or a function that loads it when first needed (a full table needs no model).
    """

    def __init__(self, loaded: LoadedModel | Callable[[], LoadedModel]) -> None:
        self._loaded = loaded
        # (answer, max_tokens of the run): an answer that was cut by its cap cannot serve a larger one.
        self._known: dict[bytes, tuple[Answer, int]] = {}
        self.num_run = 0
        """Calls that the model ran for this table since it was made."""

    def __len__(self) -> int:
        return len(self._known)

    def _lookup(self, call: Call) -> Answer | None:
        known = self._known.get(_key(call))
        if known is None:
            return None
        answer, cap = known
        if call.max_tokens < len(answer.tokens):
            return Answer(answer.tokens[: call.max_tokens], answer.logprobs[: call.max_tokens])
        is_ended = len(answer.tokens) < cap or answer.tokens[-1] in call.stop_ids
        return answer if is_ended or call.max_tokens <= cap else None

    def __call__(self, call: Call) -> Answer:
        """The answer to a call; runs the model if it is not known."""
        answer = self._lookup(call)
        if answer is None:
            self.fill([call])
            answer = self._lookup(call)
        assert answer is not None
        return answer

    def fill(self, calls: Iterable[Call], on_batch: Callable[[int], None] | None = None) -> None:
        """Run the calls that are not known, each prompt once with the largest cap asked for."""
        wanted: dict[bytes, Call] = {}
        for call in calls:
            if self._lookup(call) is None:
                key = _key(call)
                if key not in wanted or wanted[key].max_tokens < call.max_tokens:
                    wanted[key] = call
        if not wanted:
            return
        if not isinstance(self._loaded, LoadedModel):
            self._loaded = self._loaded()
        answers = generate(self._loaded, list(wanted.values()), on_batch=on_batch)
        for (key, call), answer in zip(wanted.items(), answers, strict=True):
            self._known[key] = (answer, call.max_tokens)
        self.num_run += len(wanted)

    def answer_all(
        self,
        prompts: Prompts,
        jobs: Sequence[Job],
        settings: SynthesisSettings,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[Synthesised]:
        """The answers to all jobs; the calls of one stage of all jobs run in batches together."""
        active = []
        results: list[Synthesised | None] = [None] * len(jobs)
        for index, job in enumerate(jobs):
            steps = synthesise(prompts, job.query, job.chunks, job.config, settings)
            active.append((index, steps, next(steps)))
        while active:
            self.fill([call for _, _, calls in active for call in calls], on_batch)
            following = []
            for index, steps, calls in active:
                try:
                    following.append((index, steps, steps.send([self(call) for call in calls])))
                except StopIteration as done:
                    results[index] = done.value
            active = following
        return [result for result in results if result is not None]

    # ---------------------------------------------------------------------------------------------------------- on disk

    def save(self, path: Path) -> None:
        """Write the table as a parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        keys = list(self._known)
        rows = [self._known[key] for key in keys]
        table = pa.table(
            {
                "key": pa.array(keys, pa.binary(16)),
                "tokens": pa.array([list(answer.tokens) for answer, _ in rows], pa.list_(pa.int32())),
                "logprobs": pa.array([list(answer.logprobs) for answer, _ in rows], pa.list_(pa.float32())),
                "cap": pa.array([cap for _, cap in rows], pa.int32()),
            }
        )
        pq.write_table(table, path, compression="zstd")

    def load(self, path: Path) -> None:
        """Add what a file holds.

        Raises:
            CorruptBitstream: it is not such a file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
            rows = list(zip(columns["key"], columns["tokens"], columns["logprobs"], columns["cap"], strict=True))
        except (pa.ArrowException, OSError, KeyError) as error:
            raise CorruptBitstream(
                f"{path} is no table of answers ({error}); remove it, it will be made again."
            ) from error
        for key, tokens, logprobs, cap in rows:
            self._known[key] = (Answer(tuple(tokens), tuple(logprobs)), cap)

    def fill_cached(
        self,
        cache: ArtefactCache,
        description: dict[str, Any],
        prompts: Prompts,
        jobs: Sequence[Job],
        settings: SynthesisSettings,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        """Answer all jobs, or read the answers of an earlier run.

        Args:
            cache: where tables are kept.
            description: all that the answers depend on beside the jobs: the model's and tokenizer's fingerprints.
            prompts, jobs, settings: see `answer_all`.
            on_batch: see `generate`.
        """
        jobs_digest = hashlib.sha256(
            repr([(job.query, job.chunks[: job.config.num_chunks], job.config) for job in jobs]).encode()
        ).hexdigest()
        full = description | {"version": VERSION, "jobs": jobs_digest, "settings": dataclasses.asdict(settings)}

        def make(folder: Path) -> None:
            self.answer_all(prompts, jobs, settings, on_batch)
            self.save(folder / "answers.parquet")

        folder = cache.get_or_make("ragserve-answers", full, make)
        self.load(folder / "answers.parquet")


def check_answers(jobs: Sequence[Job]) -> None:
    """Refuse jobs that cannot be scored.

    Raises:
        ConfigError: a query without gold answers.
    """
    for job in jobs:
        if not job.query.answers:
            raise ConfigError(f"query {job.query.query_id!r} has no gold answer, so its answer cannot be scored.")
