"""The life of a query on an engine: profile, prune, choose, retrieve, submit, reduce, answer (sheet 2.6).

    PROFILING --profile latency--> PLANNED --choose, retrieve--> STAGE1 --all mappers done--> STAGE2 --> DONE | FAILED

The controller drives any `common.serving.api.Engine` and cannot tell a simulator from a server. Stage-2 calls go
through the queue like
all others; the profile's latency is part of the delay; the golden runs of the feedback go to the same engine, and
what they cost is
counted.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from common.errors import ConfigError
from common.serving.api import Answer, Call, Completion, Engine
from ragserve.api import Dataset, PlannedQuery, Profile, Profiler, Query, RagConfig, RagPolicy, ServerLoad, TokenCosts
from ragserve.mapping import ProfileWindow, SpaceSettings
from ragserve.prompts import Prompts
from ragserve.synthesis import Synthesised, SynthesisSettings, max_chunks, synthesise, token_costs

Retrieve = Callable[[Query, int], Sequence[str]]
"""The k best chunks of a query's corpus, best first."""


class State(Enum):
    """Where a query is."""

    PROFILING = "profiling"
    PLANNED = "planned"
    STAGE1 = "stage1"
    STAGE2 = "stage2"
    DONE = "done"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class FeedbackSettings:
    """The golden configuration (sheet 2.5).

    Attributes:
        every: run it for every so many-th query.
        config: the golden configuration; its chunks are clipped to what is there.
    """

    every: int = 30
    config: RagConfig = dataclasses.field(default_factory=lambda: RagConfig("map_reduce", 30, 300))

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"every={self.every} must be at least 1.")


@dataclasses.dataclass(frozen=True)
class ControllerSettings:
    """What holds for all queries of a stream.

    Attributes:
        space: which values of k and s exist.
        threshold: profiles below this confidence are not trusted.
        window: how many recent spaces stand in for an untrusted profile.
        synthesis: flavours and the model's context.
        feedback: used by methods with `has_feedback`.
        retrieval_s: time of one retrieval, added to the delay.
        prefill_tokens_per_s, decode_step_s: the server's speed, as told to policies.
    """

    synthesis: SynthesisSettings
    space: SpaceSettings = dataclasses.field(default_factory=SpaceSettings)
    threshold: float = 0.9
    window: int = 10
    feedback: FeedbackSettings = dataclasses.field(default_factory=FeedbackSettings)
    retrieval_s: float = 0.0
    prefill_tokens_per_s: float = float("inf")
    decode_step_s: float = 0.0


@dataclasses.dataclass
class Record:
    """What became of a query.

    Attributes:
        query: the question.
        arrival_s: when it came.
        state: where it is now; DONE or FAILED at the end.
        profile: None for methods without.
        is_trusted: the profile was confident enough.
        space_size: configurations that the policy chose from.
        config: what it chose.
        available_tokens: A at that time, in tokens.
        profiled_s, planned_s, started_s, finished_s: times of the engine's clock; started is the first token of the first prompt.
        answer: the text; None if it failed.
        confidence: of the answer.
        num_calls, prompt_tokens, output_tokens: what its calls took.
        preemptions: of its calls.
        error: why it failed.
    """

    query: Query
    arrival_s: float
    state: State = State.PROFILING
    profile: Profile | None = None
    is_trusted: bool = True
    space_size: int = 0
    config: RagConfig | None = None
    available_tokens: int = 0
    profiled_s: float = 0.0
    planned_s: float = 0.0
    started_s: float = 0.0
    finished_s: float = 0.0
    answer: str | None = None
    confidence: float = 0.0
    num_calls: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0
    error: str | None = None

    @property
    def delay_s(self) -> float:
        """From arrival to the last token, profiling included; endless for a query that failed."""
        return float("inf") if self.state is State.FAILED else self.finished_s - self.arrival_s


@dataclasses.dataclass
class GoldenRun:
    """A feedback run and its cost."""

    query: Query
    started_s: float
    finished_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    profile: Profile | None = None


class Controller:
    """Serves a stream of queries with one policy on one engine.

    Args:
        engine: where calls run; `engine.run()` (or `serve`) drives everything.
        policy: chooses configurations.
        profiler: None only for policies with `needs_profile = False`.
        dataset: corpora of the queries.
        prompts: of the engine's model.
        retrieve: see `Retrieve`.
        settings: see there.
        seed: of policies that draw.
    """

    def __init__(
        self,
        engine: Engine,
        policy: RagPolicy,
        profiler: Profiler | None,
        dataset: Dataset,
        prompts: Prompts,
        retrieve: Retrieve,
        settings: ControllerSettings,
        seed: int = 0,
    ) -> None:
        self.engine, self.policy, self.profiler, self.dataset = engine, policy, profiler, dataset
        self.prompts, self.retrieve, self.settings, self.seed = prompts, retrieve, settings, seed
        self.needs_profile = bool(getattr(policy, "needs_profile", True))
        if self.needs_profile and profiler is None:
            raise ConfigError(f"method {type(policy).__name__} needs a profiler; give one of the registered ones.")
        self.window = ProfileWindow(settings.space, settings.threshold, settings.window)
        self.records: list[Record] = []
        self.golden: list[GoldenRun] = []
        self._arrived = 0

    def serve(self, queries: Sequence[Query], arrivals_s: Sequence[float]) -> list[Record]:
        """Serve queries that arrive at these times; returns their records, in order of the queries.

        Raises:
            ConfigError: another number of arrivals than of queries.
        """
        if len(queries) != len(arrivals_s):
            raise ConfigError(f"{len(queries)} queries came with {len(arrivals_s)} arrival times.")
        records = [self.submit(query, at_s) for query, at_s in zip(queries, arrivals_s, strict=True)]
        self.engine.run()
        return records

    def submit(self, query: Query, at_s: float) -> Record:
        """Have a query arrive at a time of the engine's clock.

        Raises:
            ConfigError: a negative time.
        """
        if at_s < 0:
            raise ConfigError(f"query {query.query_id!r} arrives at {at_s} s; the engine's clock starts at 0.")
        record = Record(query, at_s)
        self.records.append(record)
        self.engine.call_at(at_s, lambda: self._arrive(record))
        return record

    # --------------------------------------------------------------------------------------------------------- the stages

    def _arrive(self, record: Record) -> None:
        self._arrived += 1
        feedback = self.settings.feedback
        if getattr(self.policy, "has_feedback", False) and self._arrived % feedback.every == 0:
            self._start_golden(record.query)
        if not self.needs_profile:
            self._plan(record)
            return
        assert self.profiler is not None
        record.profile = self.profiler.profile(record.query, self.dataset.corpora[record.query.corpus])
        # The call to the profiler is asynchronous: others are served meanwhile, this query waits.
        self.engine.call_at(self.engine.now() + record.profile.latency_s, lambda: self._plan(record))

    def planned(self, record: Record) -> PlannedQuery:
        """The query as its policy sees it."""
        query, corpus = record.query, self.dataset.corpora[record.query.corpus]
        costs = token_costs(
            self.prompts, query, corpus.chunk_tokens, self.engine.facts.bytes_per_token, self.settings.synthesis
        )
        most = self._max_chunks(costs, len(corpus.chunks))
        if most < 1:
            raise ConfigError(
                f"query {query.query_id!r}: not one chunk of {corpus.chunk_tokens} tokens fits the model's context "
                f"and the pool of "
                f"{self.engine.facts.pool_tokens} tokens; use smaller chunks."
            )
        space: tuple[RagConfig, ...] = ()
        if record.profile is not None:
            space, record.is_trusted = self.window.space_for(record.profile, most)
        record.space_size = len(space)
        return PlannedQuery(query, record.profile, space, costs, most, self.seed)

    def _max_chunks(self, costs: TokenCosts, corpus_chunks: int) -> int:
        facts = self.engine.facts
        # A single call must fit the pool too: the engine would refuse it for ever.
        pool = facts.pool_tokens // facts.page_tokens * facts.page_tokens - facts.watermark_tokens - facts.page_tokens
        return max_chunks(costs, corpus_chunks, min(self.settings.synthesis.context_tokens, pool))

    def server_load(self) -> ServerLoad:
        """What a policy is told of the engine."""
        engine, busy = self.engine, self.engine.load()
        usable = engine.free_tokens() - engine.facts.watermark_tokens
        return ServerLoad(
            max(0, usable),
            engine.promised_tokens(),
            engine.facts.pool_tokens,
            busy.running,
            busy.waiting,
            busy.prefill_tokens,
            self.settings.prefill_tokens_per_s,
            self.settings.decode_step_s,
        )

    def _plan(self, record: Record) -> None:
        record.state, record.profiled_s = State.PLANNED, self.engine.now()
        try:
            planned, load = self.planned(record), self.server_load()
            record.available_tokens = load.available_tokens
            record.config = self.policy.choose(planned, load)
            chunks = self.retrieve(record.query, record.config.num_chunks)
            steps = synthesise(
                self.prompts, record.query, chunks, record.config, self.settings.synthesis, tag=f"q{id(record)}"
            )
            calls = next(steps)
        except ConfigError as error:
            self._fail(record, str(error))
            return
        record.state = State.STAGE1

        def submit() -> None:
            record.planned_s = self.engine.now()
            self._run_stage(record, steps, calls)

        if self.settings.retrieval_s > 0:
            self.engine.call_at(self.engine.now() + self.settings.retrieval_s, submit)
        else:
            submit()

    def _run_stage(self, record: Record, steps: Any, calls: Sequence[Call]) -> None:
        def done(completions: Sequence[Completion]) -> None:
            if record.state is State.STAGE1:
                record.started_s = min(completion.started_s for completion in completions)
            for completion in completions:
                record.num_calls += 1
                record.prompt_tokens += len(completion.call.prompt_ids)
                record.output_tokens += len(completion.tokens)
                record.preemptions += completion.preemptions
            failed = [completion.error for completion in completions if completion.error]
            if failed:
                self._fail(record, failed[0])
                return
            try:
                following = steps.send([Answer(c.tokens, c.logprobs) for c in completions])
            except StopIteration as finished:
                self._finish(record, finished.value)
                return
            except ConfigError as error:
                self._fail(record, str(error))
                return
            record.state = State.STAGE2
            self._run_stage(record, steps, following)

        try:
            self._submit_all(calls, done)
        except ConfigError as error:
            self._fail(record, str(error))

    def _submit_all(self, calls: Sequence[Call], done: Callable[[Sequence[Completion]], None]) -> None:
        """Submit calls that may run together; `done` gets their completions in order once all are there."""
        for call in calls:
            self.engine.facts.check_fits(call)
        found: list[Completion | None] = [None] * len(calls)
        left = len(calls)

        def finished(place: int, completion: Completion) -> None:
            nonlocal left
            found[place] = completion
            left -= 1
            if left == 0:
                done([one for one in found if one is not None])

        for place, call in enumerate(calls):
            self.engine.submit(call).on_done(functools.partial(finished, place))

    def _finish(self, record: Record, result: Synthesised) -> None:
        record.answer, record.confidence = result.text, result.confidence
        record.state, record.finished_s = State.DONE, self.engine.now()

    def _fail(self, record: Record, reason: str) -> None:
        record.state, record.error, record.finished_s = State.FAILED, reason, self.engine.now()

    # ----------------------------------------------------------------------------------------------------------- feedback

    def _start_golden(self, query: Query) -> None:
        """Run the golden configuration beside the query; nobody waits for it, but the engine is busy with it."""
        corpus = self.dataset.corpora[query.corpus]
        costs = token_costs(
            self.prompts, query, corpus.chunk_tokens, self.engine.facts.bytes_per_token, self.settings.synthesis
        )
        wanted = self.settings.feedback.config
        config = dataclasses.replace(
            wanted, num_chunks=max(1, min(wanted.num_chunks, self._max_chunks(costs, len(corpus.chunks))))
        )
        golden = GoldenRun(query, self.engine.now())
        self.golden.append(golden)
        chunks = self.retrieve(query, config.num_chunks)
        steps = synthesise(self.prompts, query, chunks, config, self.settings.synthesis, tag=f"g{id(golden)}")

        def stage(calls: Sequence[Call]) -> None:
            def done(completions: Sequence[Completion]) -> None:
                for completion in completions:
                    golden.prompt_tokens += len(completion.call.prompt_ids)
                    golden.output_tokens += len(completion.tokens)
                if any(completion.error for completion in completions):
                    return
                try:
                    stage(steps.send([Answer(c.tokens, c.logprobs) for c in completions]))
                except StopIteration as finished:
                    self._learn(golden, finished.value)
                except ConfigError:
                    golden.finished_s = self.engine.now()

            self._submit_all(calls, done)

        try:
            stage(next(steps))
        except ConfigError:  # too large for this server: nothing is learnt from this query, and nobody waits for it
            golden.finished_s = self.engine.now()

    def _learn(self, golden: GoldenRun, result: Synthesised) -> None:
        assert self.profiler is not None
        golden.finished_s = self.engine.now()
        golden.profile = golden_profile(result, self.settings.space)
        self.profiler.learn(golden.query, self.dataset.corpora[golden.query.corpus], golden.profile)


def golden_profile(result: Synthesised, space: SpaceSettings) -> Profile:
    """The profile that would have fitted, read off a golden run.

    # DEVIATION ragserve-6: read off the golden run by rule; the paper asks its profiler LLM for it.

    Pieces are the parts of the golden answer (it lists them) or, if more, the chunks of which a mapper noted
    something down; more than
    one piece needs joint reasoning. Whether that reasoning is complex cannot be seen from an answer: a single-part
    answer from several
    notes is (something was derived), a list is not.
    """
    parts = max(1, len([part for part in result.text.split(",") if part.strip()]))
    pieces = min(10, max(parts, min(result.num_notes, 4), 1))
    grid = space.summary_grid
    low = min(max(4 * pieces, grid[0]), grid[-1])
    return Profile(parts == 1 and pieces > 1, pieces > 1, pieces, (low, max(low, min(12 * pieces, grid[-1]))), 1.0)
