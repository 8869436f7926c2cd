"""Experiments on the serving side: does the simulator agree with a real engine, and how fast is it.

The real engine is transformers' continuous batching with the run's model. Its clock counts CPU seconds of this process (or the
wall's, by the knob `clock`), so that other work on the machine disturbs neither the calibration nor the comparison. On a shared
core these seconds are of unequal length, which a queue amplifies: replays use a `common.timing.SteadyClock`.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from common.data.synthetic import generate
from common.errors import ConfigError
from common.experiment import Run
from common.models.loading import LoadedModel, ModelSpec, load
from common.models.prompt_format import encode_prompt, eos_id
from common.results import Basis, ItemRows, Row
from common.serving.api import Answer, Call, Completion, Engine, EngineFacts
from common.serving.calibration import MIN_REPEATS, Batch, calibrate, fit, grid, in_service, points_of, time_batches
from common.serving.cost import CostModel, Preset, preset
from common.serving.in_process import Step, TransformersEngine
from common.serving.simulator import SimEngine, SimOptions
from common.timing import SteadyClock, exclusive
from ragserve.api import EXPERIMENTS

_FAMILIES = ("single_fact", "comparison", "multi_hop", "coreference")
_SHAPES = ("stuff", "map_rerank", "map_reduce")
# Table 1 of the paper: tokens of input and of output, from and to.
TABLE_1: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "squad": ((400, 2000), (5, 10)),
    "musique": ((1000, 5000), (5, 20)),
    "finsec": ((4000, 10000), (20, 40)),
    "qmsum": ((4000, 12000), (20, 60)),
}
CLOCKS = ("cpu", "steady", "wall")
PAPER_RATE = 2.0
"""Queries per second ("average rate of 2"; the unit is not printed, read as per second)."""


def _loaded(run: Run) -> LoadedModel:
    loaded = load(ModelSpec.from_settings(run.model))
    run.note_input("model", loaded.fingerprint)
    return loaded


def _clock_of(name: str, loaded: LoadedModel) -> Callable[[], float]:
    """The clock of a knob: "cpu" time, "steady" (CPU time at a constant speed), or the "wall"'s.

    Raises:
        ConfigError: CPU time for a model on a GPU.
    """
    if name == "wall":
        return time.monotonic
    if loaded.device.type != "cpu":
        raise ConfigError(
            f"clock={name!r} counts this process's CPU time, which says nothing of {loaded.device}; use clock=wall."
        )
    return time.process_time if name == "cpu" else SteadyClock(time.process_time, _reference_work())


def _reference_work() -> Callable[[], object]:
    """A millisecond or two of what a small model does: some layers of attention and two matrices each, 8 MB of weights."""
    import torch

    rng = torch.Generator().manual_seed(0)
    x = torch.randn(48, 256, generator=rng)
    layers = [
        (0.05 * torch.randn(1024, 256, generator=rng), 0.05 * torch.randn(256, 1024, generator=rng)) for _ in range(4)
    ]

    def work() -> object:
        y = x
        with torch.inference_mode():
            for up, down in layers:
                seen = (y @ y.T).softmax(-1) @ y
                y = torch.nn.functional.layer_norm(y + torch.nn.functional.silu(seen @ up.T) @ down.T, (256,))
        return y

    return work


def _check_clock(name: str) -> None:
    if name not in CLOCKS:
        raise ConfigError(f"clock={name!r} is not one of {', '.join(CLOCKS)}.")


def _kind(batch: Batch) -> str:
    if batch.new and batch.num_decode:
        return "both"
    return "prefill" if batch.new else "decode"


@EXPERIMENTS.add("engine_calibration")
@dataclasses.dataclass(frozen=True)
class EngineCalibration:
    """Error of the simulator's cost model on batches that its fit did not see (ours; the sheet asks for below 10 %).

    Attributes:
        pool_tokens, max_batch_tokens: of the engine.
        repeats: timed repeats of each batch, of which the fastest counts, >= 7.
        rounds: over how many rounds through the grid they are spread.
        every: keep every so many-th batch of the grid.
        clock: "cpu" counts this process's work; "steady" does at a constant speed; "wall" for a GPU, or a machine that does
            nothing else.
    """

    pool_tokens: int = 16384
    max_batch_tokens: int = 512
    repeats: int = 15
    rounds: int = 5
    every: int = 1
    clock: str = "cpu"

    def __post_init__(self) -> None:
        _check_clock(self.clock)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per batch: iteration_time (measured), held_out_time (modelled), held_out_error; factors say what is in it."""
        loaded = _loaded(run)
        chosen = grid(self.max_batch_tokens, int(loaded.config.max_position_embeddings))[:: self.every]
        with exclusive(threads=1):
            report = calibrate(
                loaded,
                _clock_of(self.clock, loaded),
                {},
                pool_tokens=self.pool_tokens,
                max_batch_tokens=self.max_batch_tokens,
                repeats=self.repeats,
                rounds=self.rounds,
                batches=chosen,
                clock_name=f"wall time on {loaded.device}" if self.clock == "wall" else "CPU time of one thread",
            )
        points = []
        for point in report["points"]:
            batch = Batch(point["new"], point["past"], point["num_decode"], point["context"], point["prompts"])
            name = f"{batch.prompts}x{batch.new}-past{batch.past}-decode{batch.num_decode}-context{batch.context}"
            points.append((name, (batch, point["seconds"], point["held_out_s"])))
        for key, (batch, seconds, held_s) in run.todo(points):
            factors = {"kind": _kind(batch), **dataclasses.asdict(batch)}
            yield ItemRows(
                key,
                [
                    Row("iteration_time", seconds, "s", "measured", factors=factors),
                    Row("held_out_time", held_s, "s", "modelled", factors=factors),
                    Row("held_out_error", abs(held_s / seconds - 1), "1", "measured", factors=factors),
                ],
            )


@dataclasses.dataclass(frozen=True)
class TracedQuery:
    """A RAG-shaped piece of work: calls that start together, and perhaps one over what they said.

    Attributes:
        calls: of the first stage.
        reduces: a second call follows, over the tokens of the first.
        question: ids that end the second call's prompt.
    """

    calls: tuple[Call, ...]
    reduces: bool
    question: tuple[int, ...] = ()


def build_trace(
    loaded: LoadedModel, rng: np.random.Generator, n: int, max_chunks: int, summary: int
) -> list[TracedQuery]:
    """n queries of the three shapes in turn, with generated chunks and questions.

    Args:
        loaded: the model, with its tokenizer.
        rng: draws how many chunks each query has, 1 to `max_chunks`.
        n: how many.
        max_chunks: most chunks of a query.
        summary: most tokens of a mapper's answer.
    """
    if loaded.tokenizer is None:
        raise ConfigError(f"model {loaded.spec.name!r} has no tokenizer; choose one that has, e.g. model=small.")
    stop = (eos_id(loaded.tokenizer),)
    seed = int(rng.integers(2**31))
    per_family = -(-n // len(_FAMILIES))
    items = [list(generate(family, "test", seed, per_family, num_chunks=max(2, max_chunks))) for family in _FAMILIES]
    queries = []
    for index in range(n):
        item = items[index % len(_FAMILIES)][index // len(_FAMILIES)]
        chunks = item.chunks[: int(rng.integers(1, max_chunks + 1))]
        shape = _SHAPES[index % len(_SHAPES)]
        parts: Sequence[Sequence[str]] = [chunks] if shape == "stuff" else [(chunk,) for chunk in chunks]
        most = summary if shape == "map_reduce" else item.max_answer_tokens
        calls = tuple(
            Call(tuple(encode_prompt(loaded.tokenizer, part, item.question)), most, f"{index}/{number}", stop)
            for number, part in enumerate(parts)
        )
        question = tuple(encode_prompt(loaded.tokenizer, (), item.question))
        queries.append(TracedQuery(calls, shape == "map_reduce", question))
    return queries


def random_trace(
    vocabulary: int, rng: np.random.Generator, n: int, max_chunks: int, summary: int, chunk_tokens: int
) -> list[TracedQuery]:
    """As `build_trace`, of random tokens, for models whose weights are random: time does not depend on what is said.

    Args:
        vocabulary: token ids are below this.
        rng: draws tokens, and how many chunks each query has.
        n, max_chunks, summary: see `build_trace`.
        chunk_tokens: of each chunk; questions have 24 tokens and answers up to 40 (the paper's Table 1: 5 to 60).
    """

    def draw(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in rng.integers(0, vocabulary, count))

    queries = []
    for index in range(n):
        shape, question = _SHAPES[index % len(_SHAPES)], draw(24)
        chunks = [draw(chunk_tokens) for _ in range(int(rng.integers(1, max_chunks + 1)))]
        parts = [tuple(token for chunk in chunks for token in chunk)] if shape == "stuff" else chunks
        # Nothing ends an answer but its cap, so the caps are drawn as answers' lengths are.
        most = summary if shape == "map_reduce" else int(rng.integers(5, 41))
        calls = tuple(Call((*part, *question), most, f"{index}/{number}") for number, part in enumerate(parts))
        queries.append(TracedQuery(calls, shape == "map_reduce", question))
    return queries


def replay(
    engine: Engine, trace: Sequence[TracedQuery], arrivals_s: Sequence[float]
) -> tuple[list[float], dict[Call, Answer]]:
    """Serve a trace on any engine.

    Returns:
        The delay of each query, from its arrival to its last token; and what each call was answered.

    Raises:
        ConfigError: a call failed.
    """
    ends_s = [0.0] * len(trace)
    answers: dict[Call, Answer] = {}

    def start(index: int) -> None:
        query = trace[index]
        done: list[Completion] = []

        def mapped(completion: Completion) -> None:
            keep(completion)
            done.append(completion)
            if len(done) < len(query.calls):
                return
            if not query.reduces:
                ends_s[index] = completion.finished_s
                return
            # In the order of the chunks, whatever the order of their ends: the same prompt on every engine.
            said = sorted(done, key=lambda one: int(one.call.tag.rpartition("/")[2]))
            stop = query.calls[0].stop_ids
            text = [token for one in said for token in one.tokens if token not in stop]
            ids = (*query.question[:1], *text, *query.question[1:])
            engine.submit(Call(ids, query.calls[0].max_tokens, f"{index}/reduce", stop)).on_done(reduced)

        def reduced(completion: Completion) -> None:
            keep(completion)
            ends_s[index] = completion.finished_s

        for call in query.calls:
            engine.submit(call).on_done(mapped)

    def keep(completion: Completion) -> None:
        if completion.error is not None:
            raise ConfigError(f"call {completion.call.tag} of the trace failed: {completion.error}")
        answers[completion.call] = Answer(completion.tokens, completion.logprobs)

    for index, at_s in enumerate(arrivals_s):
        engine.call_at(at_s, functools.partial(start, index))
    engine.run()
    return [end_s - at_s for end_s, at_s in zip(ends_s, arrivals_s, strict=True)], answers


@EXPERIMENTS.add("engine_replay")
@dataclasses.dataclass(frozen=True)
class EngineReplay:
    """Delay of the same trace on the real engine and on the simulator (ours; the sheet asks for within 15 %).

    Attributes:
        num_queries: of a trace; an item is a trace.
        loads: arrival rates in units of what the real engine serves when all queries come at once.
        pools: KV pools in tokens, ample and scarce.
        max_batch_tokens: of both engines.
        max_chunks, summary_tokens: of the queries; see `build_trace`.
        chunk_tokens: of a chunk, where the model has no tokenizer (random weights of a paper's shape); see `random_trace`.
        repeats: replays of each trace at each load; of a query's delays the mean counts.
        clock: "steady" counts this process's work at the machine's usual speed, "cpu" as it comes, "wall" is for a machine that
            does nothing else.
        calibration_every: keep every so many-th batch of the calibration grid.
    """

    num_queries: int = 50
    loads: tuple[float, ...] = (0.3, 0.6, 0.9)
    pools: tuple[int, ...] = (8192, 1024)
    max_batch_tokens: int = 512
    max_chunks: int = 6
    summary_tokens: int = 12
    chunk_tokens: int = 64
    repeats: int = 3
    clock: str = "steady"
    calibration_every: int = 1

    def __post_init__(self) -> None:
        _check_clock(self.clock)
        if not self.loads or not self.pools or min(self.loads) <= 0:
            raise ConfigError(f"loads={self.loads} and pools={self.pools} need at least one value each, loads above 0.")
        if min(self.repeats, self.chunk_tokens, self.num_queries, self.max_chunks, self.summary_tokens) < 1:
            raise ConfigError(
                f"repeats={self.repeats}, chunk_tokens={self.chunk_tokens}, num_queries={self.num_queries}, max_chunks="
                f"{self.max_chunks} and summary_tokens={self.summary_tokens} must be at least 1."
            )

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per trace, pool and load: mean_delay and p95_delay of both engines, mean_delay_error, repeat_spread, same_answers, and
        scheduling_error (of the simulator that takes the real engine's time for each iteration); per pool: capacity; per
        trace: held_out_error, in_service (time of iterations in service over that of batches timed one by one, from another
        trace), slowdown (of the machine meanwhile; factor `quantile`)."""
        loaded = _loaded(run)
        for key, _ in run.todo([(f"trace{index:02d}", None) for index in range(run.num_items)]):
            with exclusive(threads=1):
                yield ItemRows(key, self._item(run, key, loaded))

    def _item(self, run: Run, key: str, loaded: LoadedModel) -> list[Row]:
        # Batches are timed before, between and after the replays, and their mean counts: a delay is a sum of iterations, slow
        # ones among them, on the machine as it is in these minutes. For the same reason a trace is replayed several times.
        clock = _clock_of(self.clock, loaded)
        timings = [self._round(loaded, clock)]
        replays = [self._prepare(run, key, loaded, clock, pool) for pool in self.pools]
        # Iterations in service take longer than batches timed one by one. By how much, another trace says.
        other, other_arrivals = self._trace(run, f"{key}, to calibrate", loaded)
        served: list[Step] = []
        middle = sorted(self.loads)[len(self.loads) // 2]
        for _ in range(self.repeats):
            with self._real(loaded, clock, self.pools[0]) as engine:
                replay(engine, other, [at_s / (middle * replays[0].capacity) for at_s in other_arrivals])
                served += engine.trace
            for one in replays:
                for load_factor in self.loads:
                    with self._real(loaded, clock, one.facts.pool_tokens) as engine:
                        delays, answers = replay(engine, one.trace, one.arrivals(load_factor))
                        steps_s = [step.seconds for step in engine.trace]
                    one.runs.setdefault(load_factor, []).append((delays, answers, steps_s))
            timings.append(self._round(loaded, clock))
        fitted = fit(points_of(timings, "mean"), loaded.spec.name)
        factor = in_service(fitted.cost, served)
        rows = [
            Row("held_out_error", fitted.held_out_mean, "1", "measured"),
            Row("in_service", factor, "1", "measured"),
        ]
        if isinstance(clock, SteadyClock):
            rows += [
                Row("slowdown", float(np.quantile(clock.slowdowns, q)), "1", "measured", factors={"quantile": q})
                for q in (0.05, 0.5, 0.95)
            ]
        for one in replays:
            rows += one.rows(fitted.cost.scaled(factor))
        return rows

    def _round(self, loaded: LoadedModel, clock: Callable[[], float]) -> dict[Batch, list[float]]:
        batches = grid(self.max_batch_tokens, int(loaded.config.max_position_embeddings))[:: self.calibration_every]
        each = -(-MIN_REPEATS // (self.repeats + 1))
        with self._real(loaded, clock, 24576) as engine:
            return time_batches(engine, batches, clock, each)

    def _real(self, loaded: LoadedModel, clock: Callable[[], float], pool: int) -> TransformersEngine:
        return TransformersEngine(
            loaded,
            clock,
            time.sleep if self.clock == "wall" else None,
            pool_tokens=pool,
            max_batch_tokens=self.max_batch_tokens,
            max_seqs=64,
            keep_trace=True,
        )

    def _prepare(self, run: Run, key: str, loaded: LoadedModel, clock: Callable[[], float], pool: int) -> "_Replays":
        trace, arrivals_s = self._trace(run, key, loaded)
        with self._real(loaded, clock, pool) as engine:
            delays, first = replay(engine, trace, [0.0] * len(trace))
            facts = engine.facts
        return _Replays(trace, facts, arrivals_s, len(trace) / max(delays), first, {})

    def _trace(self, run: Run, key: str, loaded: LoadedModel) -> tuple[list[TracedQuery], np.ndarray]:
        """Queries, and when they come at one per second."""
        rng = run.rng("trace", key)
        if loaded.tokenizer is None:
            vocabulary = int(loaded.config.vocab_size)
            trace = random_trace(
                vocabulary, rng, self.num_queries, self.max_chunks, self.summary_tokens, self.chunk_tokens
            )
        else:
            trace = build_trace(loaded, rng, self.num_queries, self.max_chunks, self.summary_tokens)
        return trace, np.cumsum(run.rng("arrivals", key).exponential(1.0, len(trace)))


@dataclasses.dataclass(frozen=True)
class _Replays:
    """What the real engine did with a trace.

    Attributes:
        trace: the queries.
        facts: of the engine.
        arrivals_s: at one query per second.
        capacity: queries per second when all come at once.
        first: answers of that run.
        runs: by load, of each repeat: delays, answers, seconds of each iteration.
    """

    trace: list[TracedQuery]
    facts: EngineFacts
    arrivals_s: np.ndarray
    capacity: float
    first: dict[Call, Answer]
    runs: dict[float, list[tuple[list[float], dict[Call, Answer], list[float]]]]

    def arrivals(self, load_factor: float) -> list[float]:
        """Times at which the queries come, the same in every repeat and on both engines."""
        return [float(at_s) for at_s in self.arrivals_s / (load_factor * self.capacity)]

    def rows(self, cost: CostModel) -> Iterator[Row]:
        """Beside what the simulator makes of the same calls."""
        pool = self.facts.pool_tokens
        yield Row("capacity", self.capacity, "1/s", "measured", factors={"pool_tokens": pool})
        for load_factor, repeats in self.runs.items():
            arrivals = self.arrivals(load_factor)
            real = [float(value) for value in np.mean([delays for delays, _, _ in repeats], axis=0)]
            answers = repeats[0][1]
            # transformers takes pages as a prompt is computed, as vLLM's v1 does; unlike it, it lets calls pass that fit.
            options = SimOptions(admission="chunk", passes=True)
            simulated, _ = replay(SimEngine(self.facts, cost, answers.__getitem__, options), self.trace, arrivals)
            timed = [
                replay(SimEngine(self.facts, cost, said.__getitem__, options, steps_s), self.trace, arrivals)[0]
                for _, said, steps_s in repeats
            ]
            factors = {"pool_tokens": pool, "load": load_factor}
            yield from _delay_rows(real, "measured", factors | {"engine": "transformers"})
            yield from _delay_rows(simulated, "simulated", factors | {"engine": "simulator"})
            error = abs(float(np.mean(simulated)) / float(np.mean(real)) - 1)
            yield Row("mean_delay_error", error, "1", "simulated", factors=factors)
            means = [float(np.mean(delays)) for delays, _, _ in repeats]
            apart = [abs(float(np.mean(own)) / mean - 1) for own, mean in zip(timed, means, strict=True)]
            yield Row("scheduling_error", float(np.mean(apart)), "1", "simulated", factors=factors)
            # How far two repeats of the real engine are apart: no simulator can be nearer than that.
            yield Row("repeat_spread", max(means) / min(means) - 1, "1", "measured", factors=factors)
            same = [
                self.first[call].tokens == said.tokens
                for _, found, _ in repeats
                for call, said in found.items()
                if call in self.first
            ]
            yield Row("same_answers", float(np.mean(same)), "1", "measured", factors=factors)


def _delay_rows(delays: Sequence[float], basis: Basis, factors: dict[str, Any]) -> Iterator[Row]:
    yield Row("mean_delay", float(np.mean(delays)), "s", basis, factors=factors)
    yield Row("p95_delay", float(np.quantile(delays, 0.95)), "s", basis, factors=factors)


@EXPERIMENTS.add("simulator_speed")
@dataclasses.dataclass(frozen=True)
class SimulatorSpeed:
    """Iterations per second of the simulator, and how much faster than real time it is at the paper's load (ours).

    Attributes:
        num_queries: arrivals per stream; an item is a stream.
        rate: queries per second.
        hardware: preset of the simulated server.
        repeats: how often each simulation runs; the fastest counts, as other work on the machine only slows it down.
    """

    num_queries: int = 2000
    rate: float = PAPER_RATE
    hardware: str = "a40_7b"
    repeats: int = 3

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.num_queries < 1 or self.rate <= 0:
            raise ConfigError(
                f"repeats={self.repeats} and num_queries={self.num_queries} must be at least 1, rate={self.rate} above 0."
            )

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per stream, dataset of Table 1 and way of advancing: iterations_per_s, times_real_time; offered_load."""
        server = preset(self.hardware)
        for key, _ in run.todo([(f"stream{index:02d}", None) for index in range(run.num_items)]):
            rows = []
            for dataset, (inputs, outputs) in TABLE_1.items():
                rng = run.rng("stream", key, dataset)
                times = [float(at_s) for at_s in np.cumsum(rng.exponential(1 / self.rate, self.num_queries))]
                prompts, answers = (rng.integers(low, high + 1, self.num_queries) for low, high in (inputs, outputs))
                calls = [Call((0,) * int(p), int(a)) for p, a in zip(prompts, answers, strict=True)]
                paths = {"sums": True, "sequences": False}
                seconds: dict[str, float] = {}
                for _ in range(self.repeats):
                    for path, is_fast in paths.items():
                        engine, cpu_s = _timed(server, calls, times, is_fast)
                        seconds[path] = min(cpu_s, seconds.get(path, cpu_s))
                for path in paths:
                    factors = {"dataset": dataset, "path": path}
                    rows += [
                        Row("iterations_per_s", engine.iterations / seconds[path], "1/s", "measured", factors=factors),
                        Row("times_real_time", engine.now() / seconds[path], "x", "measured", factors=factors),
                    ]
                own = {"dataset": dataset}
                lone_s = [server.cost.prefill_s(len(c.prompt_ids), server.facts.max_batch_tokens) for c in calls]
                rows.append(Row("offered_load", self.rate * float(np.mean(lone_s)), "1", "modelled", factors=own))
            yield ItemRows(key, rows)


def _timed(server: Preset, calls: Sequence[Call], times: Sequence[float], is_fast: bool) -> tuple[SimEngine, float]:
    """Serve calls on a simulated server; returns it, and the CPU seconds that took."""
    # Nothing is read from these answers but their length: the question is how fast, not what.
    options = SimOptions(is_fast=is_fast)
    engine = SimEngine(server.facts, server.cost, lambda call: Answer((0,) * call.max_tokens), options)
    for call, at_s in zip(calls, times, strict=True):
        engine.call_at(at_s, functools.partial(engine.submit, call))
    begin_s = time.process_time()
    engine.run()
    return engine, time.process_time() - begin_s
