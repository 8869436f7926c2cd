"""Experiments that look at configurations, profiles and retrieval one by one; see `ragserve.experiments` for those under load."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from common.errors import ConfigError
from common.experiment import Run
from common.results import ItemRows, Row
from common.retrieval.embedding import EMBEDDERS
from common.retrieval.retriever import recall_at_k
from common.serving.api import Call
from common.timing import measure
from ragserve.api import EXPERIMENTS, METHODS, PlannedQuery, Profile, Query, RagConfig, ServerLoad, TokenCosts
from ragserve.controller import Controller
from ragserve.harness import Lab, front, workloads_of
from ragserve.mapping import SpaceSettings, pruned_space
from ragserve.methods import best_outcome
from ragserve.servers import Server
from ragserve.workloads import FAMILIES

A40 = "a40_7b"


@dataclasses.dataclass(frozen=True)
class _Study:
    """Base: looks at queries one by one.

    Attributes:
        workloads: families, unless the run has a workload of its own.
        server: whose idle delays are shown.
    """

    workloads: tuple[str, ...] = FAMILIES
    server: str = A40

    def __post_init__(self) -> None:
        object.__setattr__(self, "workloads", tuple(self.workloads))

    def labs(self, run: Run, *, is_answered: bool = True) -> Iterator[Lab]:
        """A lab for each workload, with the answers of the whole grid where they are needed."""
        for name, workload in workloads_of(run, self.workloads).items():
            lab = Lab(run, name, workload, run.num_items)
            if is_answered:
                lab.prepare()
            yield lab


def _keyed(lab: Lab) -> list[tuple[str, Query]]:
    """The queries with their keys."""
    return [(f"{lab.name}-{index:04d}", query) for index, query in enumerate(lab.dataset.queries)]


def query_class(query: Query) -> str:
    """ "simple", "joint" or "complex" by the gold profile; "unknown" without one."""
    profile = query.gold_profile
    if profile is None:
        return "unknown"
    if not profile.needs_joint_reasoning:
        return "simple"
    return "complex" if profile.is_complex else "joint"


@EXPERIMENTS.add("knobs")
@dataclasses.dataclass(frozen=True)
class Knobs(_Study):
    """One knob at a time, by class of query: method, number of chunks, summary length (RAGServe, Fig. 4).

    Attributes:
        workloads, server: see `_Study`.
        num_chunks: where another knob is varied.
        summary_tokens: where another knob is varied.
    """

    num_chunks: int = 4
    summary_tokens: int = 24

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per query: f1, delay (idle); factors `query_class`, `varied`, `synthesis`, `num_chunks`, `summary_tokens`."""
        for lab in self.labs(run):
            kind = lab.server(self.server)
            for key, query in run.todo(_keyed(lab)):
                rows: list[Row] = []
                for config in lab.grid(query):
                    for varied in self._varied(config):
                        factors = {
                            "query_class": query_class(query),
                            "varied": varied,
                            "synthesis": config.synthesis,
                            "num_chunks": config.num_chunks,
                            "summary_tokens": config.summary_tokens,
                        }
                        own: dict[str, Any] = {"factors": factors, "workload": lab.name}
                        rows.append(Row("f1", lab.f1(query, config), "1", "measured", **own))
                        rows.append(Row("delay", lab.idle_delay_s(kind, config, query), "s", kind.basis, **own))
                yield ItemRows(key, rows)

    def _varied(self, config: RagConfig) -> list[str]:
        is_usual_s = config.summary_tokens in (0, self.summary_tokens)
        found = []
        if config.num_chunks == self.num_chunks and is_usual_s:
            found.append("synthesis")
        if is_usual_s:
            found.append("num_chunks")
        if config.synthesis == "map_reduce" and config.num_chunks == self.num_chunks:
            found.append("summary_tokens")
        return found


@EXPERIMENTS.add("per_query_vs_fixed")
@dataclasses.dataclass(frozen=True)
class PerQueryVsFixed(_Study):
    """The best configuration per query (in hindsight) against every fixed one, on an idle server (RAGServe, Fig. 5).

    Attributes:
        workloads, server: see `_Study`.
        tolerance: F1 that the best per query may give up for speed.
    """

    tolerance: float = 0.02

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per query: f1, delay; method `fixed` with factor `setting` = configuration, and `oracle_config`; factor `is_front`."""
        for lab in self.labs(run):
            kind = lab.server(self.server)
            outcomes = lab.fixed_outcomes(kind)
            best, on_front = lab.best_fixed(kind), set(front(outcomes))
            for key, query in run.todo(_keyed(lab)):
                own = {
                    config: (lab.f1(query, config), lab.idle_delay_s(kind, config, query)) for config in lab.grid(query)
                }
                chosen = best_outcome(own, self.tolerance)
                rows: list[Row] = []
                for method, setting, config, is_front in [
                    ("oracle_config", "", chosen, 1),
                    *(("fixed", config.label, config, int(config in on_front)) for config in own),
                    ("fixed", "best quality", best, 1),
                ]:
                    f1, delay_s = own[config]
                    factors = {"setting": setting, "is_front": is_front}
                    rows.append(Row("f1", f1, "1", "measured", method, factors, lab.name))
                    rows.append(Row("delay", delay_s, "s", kind.basis, method, factors, lab.name))
                yield ItemRows(key, rows)


@EXPERIMENTS.add("profiles")
@dataclasses.dataclass(frozen=True)
class Profiles(_Study):
    """Confidence of profiles, and whether they are good (RAGServe, Fig. 9); size of the pruned space (Algorithm 1).

    A profile is good if the median configuration of its space gives, compared with the fixed configuration of best
    quality, at least
    10 % more F1, or at most 1 / 1.5 of the delay without losing more than 2 % F1 (the paper's wording, made precise
    by us); `is_right`
    says whether its fields are those of the gold profile.

    Attributes:
        workloads, server: see `_Study`.
        threshold: of confidence.
    """

    threshold: float = 0.9

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per query: confidence, is_confident, is_good, is_right, reduction (from 1,560), space_size."""
        for lab in self.labs(run):
            kind = lab.server(self.server)
            best = lab.best_fixed(kind)
            profiler = lab.profiler("embedded", kind)
            for key, query in run.todo(_keyed(lab)):
                profile = profiler.profile(query, lab.dataset.corpora[query.corpus])
                is_confident = profile.confidence >= self.threshold
                space = pruned_space(profile, lab.space, lab.most_chunks(query))
                ordered = sorted(space, key=lambda c: (c.num_chunks, c.summary_tokens, c.synthesis))
                config = ordered[(len(ordered) - 1) // 2]
                f1, fixed_f1 = lab.f1(query, config), lab.f1(query, lab.usable(query, best))
                delay_s, fixed_s = (lab.idle_delay_s(kind, c, query) for c in (config, lab.usable(query, best)))
                is_good = f1 >= 1.1 * fixed_f1 + 1e-9 or (fixed_s >= 1.5 * delay_s and f1 >= fixed_f1 - 0.02)
                # In the paper's own units: 30 values of k, 50 of s.
                paper = SpaceSettings(summary_grid=tuple(range(4, 201, 4)))
                full = 30 + 30 + 30 * 50
                paper_profile = dataclasses.replace(
                    profile,
                    summary_range=(min(200, 8 * profile.summary_range[0]), min(200, 8 * profile.summary_range[1])),
                )
                factors = {"is_vague": int(query.is_vague), "is_confident": int(is_confident)}
                own: dict[str, Any] = {"factors": factors, "workload": lab.name}
                rows = [
                    Row("confidence", profile.confidence, "1", "measured", **own),
                    Row("confident", float(is_confident), "1", "measured", **own),
                    Row("good", float(is_good), "1", kind.basis, **own),
                    Row("space_size", len(space), "configurations", "measured", **own),
                    Row("reduction", full / len(pruned_space(paper_profile, paper, 30)), "x", "measured", **own),
                ]
                gold = query.gold_profile
                if gold is not None:
                    said = (profile.is_complex, profile.needs_joint, profile.pieces)
                    true = (gold.is_complex, gold.needs_joint_reasoning, gold.num_pieces)
                    rows.append(Row("right", float(said == true), "1", "measured", **own))
                yield ItemRows(key, rows)


@EXPERIMENTS.add("lengths")
@dataclasses.dataclass(frozen=True)
class Lengths(_Study):
    """Tokens that queries take in and give out (RAGServe, Table 1): stuff with twice the gold number of pieces; gold answers."""

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per query: input_tokens (chunks of the whole pruned range's middle and question), output_tokens, corpus_tokens."""
        for lab in self.labs(run, is_answered=False):
            for key, query in run.todo(_keyed(lab)):
                pieces = 3 if query.gold_profile is None else query.gold_profile.num_pieces
                k = min(2 * pieces, lab.most_chunks(query))
                prompt = lab.prompts.answer(lab.retrieve(query, k), query.text)
                answer = lab.encode(" " + query.answers[0])
                chunks = lab.dataset.corpora[query.corpus].chunks
                own: dict[str, Any] = {"workload": lab.name}
                yield ItemRows(
                    key,
                    [
                        Row("input_tokens", len(prompt), "tokens", "measured", **own),
                        Row("output_tokens", len(answer), "tokens", "measured", **own),
                        Row(
                            "corpus_tokens",
                            sum(len(lab.prompts.chunk_ids(c)) for c in chunks),
                            "tokens",
                            "measured",
                            **own,
                        ),
                        Row("evidence_chunks", len(query.evidence), "chunks", "measured", **own),
                    ],
                )


@EXPERIMENTS.add("embedders")
@dataclasses.dataclass(frozen=True)
class Embedders(_Study):
    """Recall of the gold evidence, and F1, under several embedders (RAGServe, App. A.2).

    Attributes:
        workloads, server: see `_Study`.
        embedders: registered names.
        num_chunks: k at which recall is taken.
        config_chunks: k of the configuration (stuff) whose F1 is compared.
    """

    embedders: tuple[str, ...] = ("tfidf_svd", "words_svd", "ngrams_svd")
    num_chunks: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12)
    config_chunks: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "embedders", tuple(self.embedders))
        object.__setattr__(self, "num_chunks", tuple(self.num_chunks))
        for name in self.embedders:
            EMBEDDERS.get(name)
        if not self.num_chunks or min(self.num_chunks) < 1 or self.config_chunks < 1:
            raise ConfigError(
                f"num_chunks={self.num_chunks} and config_chunks={self.config_chunks} must be at least 1."
            )

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per query: recall (factors `embedder`, `num_chunks`), recall_at_n, recall_at_3n, f1 (factor `embedder`)."""
        for name, workload in workloads_of(run, self.workloads).items():
            by_query: dict[int, list[Row]] = {}
            for embedder in self.embedders:
                lab = Lab(run, name, workload, run.num_items, embedder=embedder)
                config = RagConfig("stuff", self.config_chunks)
                lab.prepare(configs=[config])
                for index, query in enumerate(lab.dataset.queries):
                    rows = by_query.setdefault(index, [])
                    ranked = lab.ranking(query)
                    own: dict[str, Any] = {"workload": name}
                    if query.evidence:
                        for k in self.num_chunks:
                            factors = {"embedder": embedder, "num_chunks": k}
                            value = recall_at_k(ranked, query.evidence, k)
                            rows.append(Row("recall", value, "1", "measured", factors=factors, **own))
                        pieces = 1 if query.gold_profile is None else query.gold_profile.num_pieces
                        for label, k in (("recall_at_n", pieces), ("recall_at_3n", 3 * pieces)):
                            value = recall_at_k(ranked, query.evidence, k)
                            rows.append(Row(label, value, "1", "measured", factors={"embedder": embedder}, **own))
                    f1 = lab.f1(query, lab.usable(query, config))
                    rows.append(Row("f1", f1, "1", "measured", factors={"embedder": embedder}, **own))
            for key, rows in run.todo((f"{name}-{index:04d}", rows) for index, rows in by_query.items()):
                yield ItemRows(key, rows)


@EXPERIMENTS.add("scheduling_example")
@dataclasses.dataclass(frozen=True)
class SchedulingExample(_Study):
    """A query that meets a nearly full pool: stuff waits for room, the mappers of map_reduce start one by one (RAGServe, Fig. 8).

    One running call holds most of the pool while it decodes. The query comes when that call's prompt has been computed, and is
    answered by stuff, or by map_reduce with as many chunks. How long the memory stays held decides which is faster, so that is
    varied: stuff cannot begin before, mappers begin at once, but compute more and decode twice.

    Attributes:
        workloads, server: see `_Study`.
        num_chunks, summary_tokens: of both configurations.
        pool_tokens: of the KV pool.
        free_tokens: of it that are free when the query comes, however long the running call then decodes: room for a few
            mappers and not for stuff.
        held_tokens: lengths of the running call's answer.
    """

    workloads: tuple[str, ...] = ("musique_like",)
    num_chunks: int = 12
    summary_tokens: int = 12
    pool_tokens: int = 1280
    free_tokens: int = 320
    held_tokens: tuple[int, ...] = (16, 32, 64, 128, 256)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "held_tokens", tuple(self.held_tokens))
        if not self.held_tokens or min(self.held_tokens) < 2 or min(self.num_chunks, self.summary_tokens) < 1:
            raise ConfigError(
                f"held_tokens={self.held_tokens} must be at least 2, num_chunks={self.num_chunks} and summary_tokens="
                f"{self.summary_tokens} at least 1."
            )
        if not 0 < self.free_tokens < self.pool_tokens:
            raise ConfigError(
                f"free_tokens={self.free_tokens} must be above 0 and below pool_tokens={self.pool_tokens}, which the running "
                "call fills but for them."
            )

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per query: wait (until its first prompt token is computed), delay; method `fixed`, factors `setting` and `held_s`:
        how long after the query's arrival the running call keeps its memory."""
        configs = (
            RagConfig("stuff", self.num_chunks),
            RagConfig("map_reduce", self.num_chunks, self.summary_tokens),
        )
        for lab in self.labs(run):
            kind = lab.server(self.server)
            running = [self._running(lab, kind, tokens) for tokens in self.held_tokens]
            # The longest answer first: shorter ones are its beginning.
            lab.table.fill([max(running, key=lambda call: call.max_tokens)])
            times = [self._times(lab, kind, call) for call in running]
            for key, query in run.todo(_keyed(lab)):
                rows: list[Row] = []
                for call, (first_s, finished_s) in zip(running, times, strict=True):
                    for config in configs:
                        config = lab.usable(query, config)
                        engine = kind.engine(lab.table, self.pool_tokens)
                        engine.submit(call)
                        policy = METHODS.create("fixed", **dataclasses.asdict(config))
                        controller = Controller(
                            engine, policy, None, lab.dataset, lab.prompts, lab.retrieve, lab.settings(kind)
                        )
                        record = controller.submit(query, first_s + 1e-6)
                        engine.run()
                        factors = {"setting": config.synthesis, "held_s": round(finished_s - first_s, 3)}
                        own: dict[str, Any] = {"factors": factors, "workload": lab.name}
                        rows.append(Row("wait", record.started_s - record.arrival_s, "s", kind.basis, "fixed", **own))
                        rows.append(Row("delay", record.delay_s, "s", kind.basis, "fixed", **own))
                yield ItemRows(key, rows)

    def _running(self, lab: Lab, kind: Server, tokens: int) -> Call:
        """A call whose prompt leaves exactly the free tokens, and whose answer has so many.

        Raises:
            ConfigError: its answer would fill what is left free, or it exceeds the model's context.
        """
        prompt_tokens = self.pool_tokens - self.free_tokens
        # An answer grows into the free tokens; on the modelled A40 each of its tokens is 1/16 of one of ours.
        if tokens // kind.token_factor >= self.free_tokens or prompt_tokens + tokens > lab.synthesis.context_tokens:
            raise ConfigError(
                f"held_tokens={tokens}: the running call's answer must stay below free_tokens={self.free_tokens} and, behind "
                f"its prompt of {prompt_tokens} tokens, within the model's context of {lab.synthesis.context_tokens}; "
                "choose fewer, or a smaller pool_tokens."
            )
        text = [token for chunk in lab.dataset.corpora[0].chunks for token in lab.prompts.chunk_ids(chunk)]
        return Call(tuple(text[place % len(text)] for place in range(prompt_tokens)), tokens, "running")

    def _times(self, lab: Lab, kind: Server, call: Call) -> tuple[float, float]:
        """When its first and its last token are there, alone on the server."""
        engine = kind.engine(lab.table, self.pool_tokens)
        handle = engine.submit(call)
        engine.run()
        assert handle.completion is not None
        assert handle.completion.first_token_s is not None
        return handle.completion.first_token_s, handle.completion.finished_s


@EXPERIMENTS.add("decision_latency")
@dataclasses.dataclass(frozen=True)
class DecisionLatency:
    """Time of one decision over spaces of several sizes, on this machine (ours).

    Attributes:
        sizes: configurations in the space.
        repeats: timed rounds of 200 decisions.
    """

    sizes: tuple[int, ...] = (10, 30, 100, 300, 1000)
    repeats: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if not self.sizes or min(self.sizes) < 1 or self.repeats < 1:
            raise ConfigError(f"sizes={self.sizes} and repeats={self.repeats} must be at least 1.")

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """decision_time per method and size; factor `space_size`."""
        costs = TokenCosts(60, 1024, 40, 48, 131072)
        query = Query("q", "Which?", ("a",))
        profile = Profile(True, True, 5, (30, 200))
        for size in self.sizes:
            if str(size) in run.finished:
                continue
            space = tuple(
                RagConfig("map_reduce", 1 + index // 20, 10 + index % 20)
                if index % 3
                else RagConfig("stuff", 1 + index // 3)
                for index in range(size)
            )
            planned = PlannedQuery(query, profile, space, costs, 1000)
            rows: list[Row] = []
            for name, policy in run.methods.items():
                loads = [
                    ServerLoad(tokens, 500, 100_000, 3, 1, 900, 8000.0, 0.03) for tokens in range(600, 100_600, 500)
                ]

                def decide(
                    policy: Any = policy, planned: PlannedQuery = planned, loads: list[ServerLoad] = loads
                ) -> None:
                    for load in loads:
                        policy.choose(planned, load)

                for seconds in measure(decide, warmup=1, repeats=self.repeats).seconds:
                    factors = {"space_size": size}
                    rows.append(Row("decision_time", seconds / len(loads), "s", "measured", name, factors))
            yield ItemRows(str(size), rows)
