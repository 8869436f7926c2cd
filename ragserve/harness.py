"""What experiments share: a dataset with its retrieved chunks, the model's answers to it, and streams of queries
served by a method.

    Lab.of(run, workload)
       dataset --retrieve--> best chunks of every query --answer table--> text of every (query, configuration),
       scored by token F1
    lab.serve(method, server, pool, rate, seed) --> Served: records, delays (virtual time), F1 (of generated text)

F1 never comes from anything but text that the model generated for that very query and configuration. Configurations
that are not in the
table are answered when a policy first asks for them.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.cache import ArtefactCache
from common.data.items import QueryProfile
from common.errors import ConfigError
from common.experiment import Run
from common.hardware import machine_facts
from common.metrics.text import token_f1
from common.models.loading import LoadedModel, ModelSpec, load
from common.results import Row, sha256_of
from common.retrieval.retriever import Retriever
from common.rng import for_component
from ragserve.answers import AnswerTable, Job
from ragserve.api import METHODS, PROFILERS, WORKLOADS, Dataset, Profiler, Query, RagConfig
from ragserve.controller import Controller, ControllerSettings, FeedbackSettings, GoldenRun, Record, State
from ragserve.mapping import SpaceSettings
from ragserve.methods import ProfileClass
from ragserve.prompts import Prompts
from ragserve.servers import THIS_MACHINE, Server, server
from ragserve.synthesis import Synthesised, SynthesisSettings, max_chunks, token_costs

CHUNK_GRID = (1, 2, 3, 4, 6, 8, 12)
SUMMARY_GRID = (6, 12, 24, 48)
# DEVIATION ragserve-1: k and s on a coarse grid, s at a quarter of the paper's lengths: our chunks and notes are
# short, and every
# (query, configuration) is really answered.
SMALL_SPACE = SpaceSettings(SUMMARY_GRID, CHUNK_GRID)
POOLS: dict[str, int] = {"scarce": 1280, "medium": 2560, "ample": 16384}
"""KV pools in our tokens: 20 K, 41 K and 262 K of the A40's."""
NUM_DEV = 40
"""Development queries of AdaptiveRAG*, from other corpora of the same family."""
PROFILER_SHARE = 0.06
"""Latency of a profile over the idle delay of the best-quality fixed configuration (sheet 8.2)."""
NUM_IDLE = 20
"""Queries over which the idle delay of a configuration is averaged."""
_FAR_APART_S = 1e5
_NEAR_BEST_F1 = 0.05
_WEIGHTS = "rag_small"


@functools.lru_cache(maxsize=2)
def loaded_model(spec: ModelSpec) -> LoadedModel:
    """The model of a run; the last ones stay loaded."""
    return load(spec)


@functools.lru_cache(maxsize=2)
def answer_table(loaded: LoadedModel) -> AnswerTable:
    """The answers of a model, shared by all runs of a process: what one seed's policies asked for is there for the next."""
    return AnswerTable(loaded)


def serving_model(run: Run) -> LoadedModel:
    """The model that a run's settings name; "rag_small" is the one trained in this package.

    Raises:
        ConfigError, DataUnavailable: see `common.models.loading`; or the model has no tokenizer.
    """
    settings = dict(run.model)
    if settings.get("name") == _WEIGHTS and settings.get("source") == "bundled":
        import importlib.resources

        path = str(importlib.resources.files("ragserve") / "weights" / _WEIGHTS)
        settings |= {"source": "local", "path": path}
    loaded = loaded_model(ModelSpec.from_settings(settings))
    if loaded.tokenizer is None:
        raise ConfigError(
            "this model has no tokenizer, so it cannot read text; use model=small or another trained one."
        )
    run.note_input("model", loaded.fingerprint)
    return loaded


@functools.lru_cache(maxsize=8)
def _retrievers(dataset: Dataset, embedder: str, knobs: tuple[tuple[str, Any], ...]) -> tuple[Retriever, ...]:
    from common.retrieval.embedding import EMBEDDERS

    return tuple(Retriever(EMBEDDERS.create(embedder, **dict(knobs))).fit(corpus.chunks) for corpus in dataset.corpora)


@dataclasses.dataclass(frozen=True)
class Served:
    """A stream of queries after it was served.

    Attributes:
        records: in order of the queries.
        golden: feedback runs.
        f1: of each record's answer.
        utilisation: time in which the engine had work over the span of the arrivals; above 1 the queue grows.
        busy_s: time in which the engine had work.
        basis: of the delays.
    """

    records: tuple[Record, ...]
    golden: tuple[GoldenRun, ...]
    f1: tuple[float, ...]
    utilisation: float
    busy_s: float
    basis: Any

    @property
    def mean_delay_s(self) -> float:
        return float(np.mean([record.delay_s for record in self.records]))

    @property
    def mean_f1(self) -> float:
        return float(np.mean(self.f1))

    @property
    def prompt_tokens(self) -> int:
        """Of all calls, golden runs included."""
        return sum(r.prompt_tokens for r in self.records) + sum(g.prompt_tokens for g in self.golden)

    @property
    def output_tokens(self) -> int:
        """Of all calls, golden runs included."""
        return sum(r.output_tokens for r in self.records) + sum(g.output_tokens for g in self.golden)


class Lab:
    """One workload with one model: retrieval, answers, and streams served by methods.

    Args:
        run: the run; its model, data, seed and cache are used.
        name: of the workload, for results.
        workload: the workload.
        num_queries: how many.
        embedder, embedder_knobs: of retrieval.
        space: which configurations exist.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        workload: Any,
        num_queries: int,
        *,
        embedder: str = "tfidf_svd",
        embedder_knobs: Mapping[str, Any] | None = None,
        space: SpaceSettings = SMALL_SPACE,
        table: AnswerTable | None = None,
        stream: str = "workload",
    ) -> None:
        self.run, self.name, self.workload, self.space = run, name, workload, space
        self.loaded = serving_model(run)
        self.prompts = Prompts(self.loaded.tokenizer)
        self.dataset = self._dataset(num_queries, stream)
        self.synthesis = SynthesisSettings(int(self.loaded.config.max_position_embeddings))
        self.cache = ArtefactCache(run.cache_dir)
        self.table = answer_table(self.loaded) if table is None else table
        self._embedder = (embedder, tuple(sorted((embedder_knobs or {}).items())))
        self._ranked = self._rank()
        self._servers: dict[str, Server] = {}
        self._idle: dict[tuple[str, str, RagConfig], float] = {}
        self._f1: dict[tuple[str, str], float] = {}
        self._results: dict[tuple[str, RagConfig], Synthesised] = {}
        self._dev: dict[str, Mapping[ProfileClass, Mapping[RagConfig, float]]] = {}

    def _dataset(self, num_queries: int, stream: str) -> Dataset:
        rng = self.run.rng(stream)
        is_generated = self.run.data.get("source", "generated") == "generated"
        if hasattr(self.workload, "dataset_from") and not is_generated:
            return self.workload.dataset_from(self.run.data, rng, num_queries, self.encode)
        if not is_generated:
            raise ConfigError(
                f"workload {self.name!r} is generated and ignores data={self.run.data.get('name')!r}; use "
                f"workload=items with it."
            )
        found: Dataset = self.workload.dataset(rng, num_queries)
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of text, without special tokens."""
        return list(self.loaded.tokenizer.encode(text, add_special_tokens=False))

    def _rank(self) -> dict[str, tuple[int, ...]]:
        retrievers = _retrievers(self.dataset, *self._embedder)
        ranked: dict[str, tuple[int, ...]] = {}
        for number, retriever in enumerate(retrievers):
            own = [query for query in self.dataset.queries if query.corpus == number]
            ids, _ = retriever.search([query.text for query in own], retriever.num_chunks)
            ranked |= {query.query_id: tuple(row.tolist()) for query, row in zip(own, ids, strict=True)}
        return ranked

    # -------------------------------------------------------------------------------------------------------- answering

    def ranking(self, query: Query) -> tuple[int, ...]:
        """All chunks of the query's corpus, best first."""
        return self._ranked[query.query_id]

    def retrieve(self, query: Query, k: int) -> tuple[str, ...]:
        """The k best chunks."""
        chunks = self.dataset.corpora[query.corpus].chunks
        return tuple(chunks[index] for index in self._ranked[query.query_id][:k])

    def most_chunks(self, query: Query) -> int:
        """Largest usable k of a query."""
        corpus = self.dataset.corpora[query.corpus]
        costs = token_costs(self.prompts, query, corpus.chunk_tokens, self.loaded.kv_bytes_per_token, self.synthesis)
        return max_chunks(costs, len(corpus.chunks), self.synthesis.context_tokens)

    def grid(self, query: Query) -> tuple[RagConfig, ...]:
        """All configurations of the grid that the query can use."""
        most = self.most_chunks(query)
        counts = [k for k in self.space.chunk_grid or range(1, most + 1) if k <= most]
        return tuple(
            [RagConfig(synthesis, k) for synthesis in ("map_rerank", "stuff") for k in counts]
            + [RagConfig("map_reduce", k, s) for k in counts for s in self.space.summary_grid]
        )

    def prepare(self, queries: Sequence[Query] | None = None, configs: Sequence[RagConfig] = ()) -> None:
        """Answer every query with every configuration of the grid (or those given), or read what was answered before."""
        chosen = sorted(self.dataset.queries if queries is None else queries, key=lambda query: query.query_id)
        jobs = [
            Job(query, self.retrieve(query, config.num_chunks), config)
            for query in chosen
            for config in sorted(configs or self.grid(query), key=lambda c: c.label)
            if config.num_chunks <= self.most_chunks(query)
        ]
        description = {"model": self.loaded.fingerprint, "tokenizer": self.loaded.tokenizer_fingerprint}
        self.table.fill_cached(self.cache, description, self.prompts, jobs, self.synthesis)

    def result(self, query: Query, config: RagConfig) -> Synthesised:
        """What the model answers to a query with a configuration."""
        key = (query.query_id, config)
        if key not in self._results:
            job = Job(query, self.retrieve(query, config.num_chunks), config)
            (self._results[key],) = self.table.answer_all(self.prompts, [job], self.synthesis)
        return self._results[key]

    def score(self, query: Query, text: str | None) -> float:
        """Token F1 of an answer; a query that failed scores 0."""
        if not query.answers:
            raise ConfigError(f"query {query.query_id!r} has no gold answer, so its answer cannot be scored.")
        key = (query.query_id, text or "")
        if key not in self._f1:
            self._f1[key] = token_f1(text or "", query.answers)
        return self._f1[key]

    def f1(self, query: Query, config: RagConfig) -> float:
        """Token F1 of a configuration's answer."""
        return self.score(query, self.result(query, config).text)

    def mean_f1(self, config: RagConfig) -> float:
        """Mean F1 of a fixed configuration."""
        return float(np.mean([self.f1(query, self.usable(query, config)) for query in self.dataset.queries]))

    def usable(self, query: Query, config: RagConfig) -> RagConfig:
        """The configuration with no more chunks than the query can use."""
        return dataclasses.replace(config, num_chunks=min(config.num_chunks, self.most_chunks(query)))

    # ----------------------------------------------------------------------------------------------------------- serving

    def server(self, name: str = THIS_MACHINE) -> Server:
        """A simulated server; that of this machine is calibrated once and kept."""
        if name not in self._servers:
            facts = machine_facts()
            machine = {key: facts.get(key) for key in ("cpu", "cpu_threads", "torch")} | {"node": os.uname().machine}
            found = server(name, self.loaded, self.cache, time.process_time, _plain(machine))
            self.run.note_input(f"server {name}", sha256_of(found.cost.to_json()))
            self._servers[name] = found
        return self._servers[name]

    def settings(self, kind: Server, **changes: Any) -> ControllerSettings:
        """Controller settings on a server."""
        most = min(30, max(len(corpus.chunks) for corpus in self.dataset.corpora))
        # DEVIATION ragserve-2: the golden configuration is the largest there is here: k = 30 or all chunks, longest summaries.
        golden = FeedbackSettings(30, RagConfig("map_reduce", most, self.space.summary_grid[-1]))
        base = ControllerSettings(
            self.synthesis,
            self.space,
            feedback=golden,
            prefill_tokens_per_s=kind.prefill_tokens_per_s,
            decode_step_s=kind.decode_step_s,
        )
        return dataclasses.replace(base, **changes)

    def profiler_latency_s(self, kind: Server) -> float:
        """`PROFILER_SHARE` of the idle delay of stuff with 6 chunks: the same for every method."""
        config = RagConfig("stuff", min(6, max(self.space.chunk_grid or (6,))))
        return PROFILER_SHARE * self.idle_delay_s(kind, config)

    def profiler(self, name: str, kind: Server, **knobs: Any) -> Profiler:
        """A fresh profiler of that name; the embedded and oracle ones take the latency of an API call."""
        if "latency_s" in PROFILERS.knobs(name):
            knobs = {"latency_s": self.profiler_latency_s(kind)} | knobs
        found: Profiler = PROFILERS.create(name, **knobs)
        return found

    def serve(
        self,
        method: Any,
        kind: Server,
        pool_tokens: int,
        arrivals_s: Sequence[float],
        *,
        profiler: Profiler | str = "embedded",
        queries: Sequence[Query] | None = None,
        **settings: Any,
    ) -> Served:
        """Serve queries that arrive at these times with one method on a simulated server.

        Args:
            method: a policy; those with `informed_by` are told what they may know.
            kind: server.
            pool_tokens: of the KV pool, in our tokens.
            arrivals_s: one time per query, rising.
            profiler: for methods that profile; a method's own class attribute `profiler` takes its place.
            queries: default: those of the dataset, in order.
            settings: changes to `ControllerSettings`.
        """
        chosen = self.dataset.queries if queries is None else tuple(queries)
        if hasattr(method, "informed_by"):
            method = method.informed_by(_Known(self, kind))
        engine = kind.engine(self.table, pool_tokens, is_gang=bool(getattr(method, "is_gang", False)))
        own = getattr(method, "profiler", profiler)
        made = self.profiler(own, kind) if isinstance(own, str) else own
        controller = Controller(
            engine,
            method,
            made if getattr(method, "needs_profile", True) else None,
            self.dataset,
            self.prompts,
            self.retrieve,
            self.settings(kind, **settings),
            self.run.seed,
        )
        records = controller.serve(chosen, arrivals_s)
        engine.close()
        f1 = tuple(self.score(r.query, r.answer if r.state is State.DONE else None) for r in records)
        busy_s = busy_time(records, controller.golden)
        span_s = arrivals_s[-1] - arrivals_s[0] if len(arrivals_s) > 1 else 0.0
        utilisation = busy_s / span_s if span_s > 0 else float("inf")
        return Served(tuple(records), tuple(controller.golden), f1, utilisation, busy_s, kind.basis)

    def idle_delay_s(self, kind: Server, config: RagConfig, query: Query | None = None) -> float:
        """Delay of a configuration on an idle server with an ample pool: of a query, or the mean over the first 20."""
        if query is None:
            first = self.dataset.queries[:NUM_IDLE]
            self._time_idle(kind, config, first)
            return float(np.mean([self._idle[kind.name, one.query_id, self.usable(one, config)] for one in first]))
        self._time_idle(kind, config, [query])
        return self._idle[kind.name, query.query_id, self.usable(query, config)]

    def _time_idle(self, kind: Server, config: RagConfig, queries: Sequence[Query]) -> None:
        """Serve queries one by one, so far apart that none meets another."""
        missing = [q for q in queries if (kind.name, q.query_id, self.usable(q, config)) not in self._idle]
        if not missing:
            return
        method = METHODS.create("fixed", **dataclasses.asdict(config))
        engine = kind.engine(self.table, POOLS["ample"])
        controller = Controller(engine, method, None, self.dataset, self.prompts, self.retrieve, self.settings(kind))
        records = controller.serve(missing, [_FAR_APART_S * index for index in range(len(missing))])
        for record in records:
            assert record.config is not None
            self._idle[kind.name, record.query.query_id, record.config] = record.delay_s

    def capacity_per_s(self, kind: Server, method: Any, pool_tokens: int) -> float:
        """Queries per second that a method completes when all arrive at once."""
        num = len(self.dataset.queries)
        served = self.serve(method, kind, pool_tokens, [0.0] * num)
        return num / max(record.finished_s for record in served.records)

    # ----------------------------------------------------------------------------------------------- fixed configurations

    def fixed_outcomes(self, kind: Server) -> dict[RagConfig, tuple[float, float]]:
        """(mean F1, mean idle delay) of every grid configuration."""
        configs = list(dict.fromkeys(config for query in self.dataset.queries for config in self.grid(query)))
        return {config: (self.mean_f1(config), self.idle_delay_s(kind, config)) for config in configs}

    def best_fixed(self, kind: Server) -> RagConfig:
        """The fixed configuration of highest mean F1 on the very queries served (hindsight, in its favour); ties: faster."""
        outcomes = self.fixed_outcomes(kind)
        return min(outcomes, key=lambda c: (-round(outcomes[c][0], 6), outcomes[c][1], c.label))

    def development(self, kind: Server) -> Mapping[ProfileClass, Mapping[RagConfig, float]]:
        """Mean F1 of the grid on development queries, by class of their profile (for AdaptiveRAG*)."""
        if kind.name not in self._dev:
            self._dev[kind.name] = self._develop(kind)
        return self._dev[kind.name]

    def _develop(self, kind: Server) -> Mapping[ProfileClass, Mapping[RagConfig, float]]:
        num = min(NUM_DEV, len(self.dataset.queries))
        other = self.workload
        if hasattr(other, "corpus_seed"):
            other = dataclasses.replace(other, corpus_seed=other.corpus_seed + 1)
        lab = Lab(
            self.run,
            self.name,
            other,
            num,
            embedder=self._embedder[0],
            embedder_knobs=dict(self._embedder[1]),
            space=self.space,
            table=self.table,
            stream="development",
        )
        lab.prepare()
        profiler = self.profiler("embedded", kind)
        by_class: dict[ProfileClass, dict[RagConfig, list[float]]] = {}
        for query in lab.dataset.queries:
            profile = profiler.profile(query, lab.dataset.corpora[query.corpus])
            own = by_class.setdefault((profile.needs_joint, profile.is_complex), {})
            for config in lab.grid(query):
                own.setdefault(config, []).append(lab.f1(query, config))
        return {
            key: {config: float(np.mean(values)) for config, values in scores.items()}
            for key, scores in by_class.items()
        }


@dataclasses.dataclass(frozen=True)
class _Known:
    """What informed methods are told; implements `ragserve.methods.Knowledge`."""

    lab: Lab
    kind: Server

    def development(self) -> Mapping[ProfileClass, Mapping[RagConfig, float]]:
        """See `Knowledge.development`."""
        return self.lab.development(self.kind)

    def outcomes(self, query: Query) -> Mapping[RagConfig, tuple[float, float]]:
        """See `Knowledge.outcomes`."""
        f1 = {config: self.lab.f1(query, config) for config in self.lab.grid(query)}
        # Only those near the best can be chosen; the delays of the others need not be simulated.
        least = max(f1.values()) - _NEAR_BEST_F1
        return {
            config: (score, self.lab.idle_delay_s(self.kind, config, query))
            for config, score in f1.items()
            if score >= least
        }


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(key): value if isinstance(value, str | int | float | type(None)) else str(value)
        for key, value in facts.items()
    }


def busy_time(records: Sequence[Record], golden: Sequence[GoldenRun]) -> float:
    """Length of the union of the intervals in which some query (or golden run) had calls at the engine."""
    spans = sorted(
        [(r.planned_s, r.finished_s) for r in records if r.num_calls] + [(g.started_s, g.finished_s) for g in golden]
    )
    total, end_s = 0.0, float("-inf")
    for start, stop in spans:
        if stop > end_s:
            total += stop - max(start, end_s)
            end_s = stop
    return total


def poisson_arrivals(rng: np.random.Generator, n: int, rate_per_s: float) -> list[float]:
    """n arrival times of a Poisson process, the first gap included, scaled so that the mean gap is exactly 1 / rate.

    Unscaled, 200 gaps miss their rate by 7 % (one standard deviation): a run labelled 0.9 could be overloaded.
    """
    if n < 1 or not rate_per_s > 0:
        raise ConfigError(f"n={n} must be at least 1 and rate_per_s={rate_per_s} above 0.")
    gaps = rng.exponential(size=n)
    return np.cumsum(gaps * n / gaps.sum() / rate_per_s).tolist()


def arrivals(run: Run, n: int, rate_per_s: float, *stream: str | int) -> list[float]:
    """The arrivals of a run: the same pattern for every method and rate, only faster or slower."""
    return poisson_arrivals(for_component(run.seed, "arrivals", *stream), n, rate_per_s)


def workloads_of(run: Run, names: Sequence[str]) -> dict[str, Any]:
    """The run's own workload, or those that the experiment names."""
    if run.workload is not None:
        return {run.workload_name or "workload": run.workload}
    return {name: WORKLOADS.create(name) for name in names}


def gold(query: Query) -> QueryProfile | None:
    """The gold profile, for experiments about profiles."""
    return query.gold_profile


def front(outcomes: Mapping[RagConfig, tuple[float, float]]) -> list[RagConfig]:
    """The Pareto front of (F1 high, delay low), by rising delay."""
    kept: list[RagConfig] = []
    best = float("-inf")
    for config in sorted(outcomes, key=lambda c: (outcomes[c][1], -outcomes[c][0], c.label)):
        if outcomes[config][0] > best:
            kept.append(config)
            best = outcomes[config][0]
    return kept


def stream_rows(
    served: Served,
    index: int,
    method: str,
    factors: Mapping[str, Any],
    workload: str,
    method_args: Mapping[str, Any] | None = None,
) -> list[Row]:
    """delay, f1, num_chunks and prompt_tokens of one query of a stream."""
    record = served.records[index]
    common: dict[str, Any] = {"method": method, "factors": factors, "workload": workload, "method_args": method_args}
    rows = [
        Row("delay", record.delay_s, "s", served.basis, **common),
        Row("f1", served.f1[index], "1", "measured", **common),
    ]
    if record.config is not None:
        rows.append(Row("num_chunks", record.config.num_chunks, "chunks", served.basis, **common))
    return rows


def bisect_rate(is_met: Callable[[float], bool], low: float, high: float, tolerance: float = 0.02) -> float:
    """The largest rate for which `is_met` holds, to a relative tolerance, assuming that it holds up to some rate and
    not beyond.

    Args:
        is_met: whether the target is met at a rate.
        low: a rate to start from; halved (eight times at most) until it is met.
        high: doubled (twelve times at most) until it is not met.

    Returns:
        The rate; 0 where even the smallest tried misses the target.
    """
    for _ in range(8):
        if is_met(low):
            break
        high, low = low, low / 2
    else:
        return 0.0
    for _ in range(12):
        if not is_met(high):
            break
        low, high = high, 2 * high
    while high - low > tolerance * low:
        middle = (low + high) / 2
        if is_met(middle):
            low = middle
        else:
            high = middle
    return low
