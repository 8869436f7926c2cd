"""Experiments that serve streams of queries; one per figure of the paper (numbering of its third version).

Those that look at configurations, profiles and retrieval one by one are in `ragserve.experiments_study`, those on
real engines in
`ragserve.experiments_engine`. Delays are virtual time (basis "simulated" on the calibrated server of this machine,
"modelled" on the A40);
F1 is that of text which the model generated ("measured").
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from common.errors import ConfigError
from common.experiment import Run
from common.results import ItemRows, Row
from ragserve.api import EXPERIMENTS, METHODS, RagConfig
from ragserve.harness import POOLS, Lab, Served, arrivals, bisect_rate, front, stream_rows, workloads_of
from ragserve.servers import THIS_MACHINE, Server
from ragserve.workloads import FAMILIES

A40 = "a40_7b"
BEST = "best quality"
"""Setting of a fixed method: the grid configuration of highest mean F1 on the queries served."""
ALL = "all families"
"""Workload of rows whose items are families."""
_FIXED = ("fixed", "parrot")


def pool_tokens(name: str) -> int:
    """Tokens of a named KV pool, or of a number given as text.

    Raises:
        ConfigError: neither.
    """
    if name in POOLS:
        return POOLS[name]
    if str(name).isdecimal() and int(name) > 0:
        return int(name)
    raise ConfigError(f"pool {name!r} is not one of {', '.join(POOLS)}, nor a number of tokens.")


@dataclasses.dataclass(frozen=True)
class Condition:
    """Where and how fast queries come.

    Attributes:
        server, pool: names.
        load: arrival rate over the capacity of the best-quality fixed configuration (all at once, ample pool).
    """

    server: str
    pool: str
    load: float

    @property
    def factors(self) -> dict[str, Any]:
        """As factors of a row."""
        return {"server": self.server, "pool": self.pool, "load": self.load}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A method as it is served: with its name, its setting (fixed methods: the configuration), and further factors."""

    method: str
    policy: Any
    setting: str = ""


def fixed_variant(method: str, config: RagConfig, setting: str) -> Variant:
    """A fixed method with one configuration."""
    return Variant(method, METHODS.create(method, **dataclasses.asdict(config)), setting)


def variants(lab: Lab, kind: Server, methods: Mapping[str, Any], num_pareto: int = 0) -> list[Variant]:
    """The methods to serve. Fixed ones stand for a grid: its best-quality configuration, and `num_pareto` others of its front.

    A fixed method whose knobs were set by hand is served with those alone.
    """
    found: list[Variant] = []
    for name, policy in methods.items():
        if name not in _FIXED or policy != METHODS.create(name):
            config = getattr(policy, "num_chunks", None)
            label = RagConfig(policy.synthesis, policy.num_chunks, policy.summary_tokens).label if config else ""
            found.append(Variant(name, policy, label))
            continue
        best = lab.best_fixed(kind)
        found.append(fixed_variant(name, best, BEST))
        # The front is shown once; Parrot* runs the same configurations a little faster.
        if num_pareto and name == "fixed":
            others = [config for config in front(lab.fixed_outcomes(kind)) if config != best]
            places = np.linspace(0, len(others) - 1, min(num_pareto, len(others))).round().astype(int)
            found += [fixed_variant(name, others[place], others[place].label) for place in dict.fromkeys(places)]
    return found


def like_ragserve(results: Sequence[tuple[Variant, Served]]) -> list[tuple[Variant, Served]]:
    """The fixed stream whose mean delay is nearest to RAGServe's, and the one whose F1 is, under settings that say so.

    They are streams that were served anyway: the comparison at similar delay, or at similar quality, of the paper.
    """
    target = next((served for variant, served in results if variant.method == "ragserve"), None)
    fixed = [(variant, served) for variant, served in results if variant.method == "fixed"]
    if target is None or not fixed:
        return []
    by_delay = min(fixed, key=lambda pair: abs(np.log(pair[1].mean_delay_s / target.mean_delay_s)))
    by_quality = min(fixed, key=lambda pair: (abs(pair[1].mean_f1 - target.mean_f1), pair[1].mean_delay_s))
    return [
        (dataclasses.replace(by_delay[0], setting="similar delay"), by_delay[1]),
        (dataclasses.replace(by_quality[0], setting="similar quality"), by_quality[1]),
    ]


def capacity(lab: Lab, kind: Server) -> float:
    """Capacity of the best-quality fixed configuration with an ample pool, in queries per second."""
    best = METHODS.create("fixed", **dataclasses.asdict(lab.best_fixed(kind)))
    return lab.capacity_per_s(kind, best, POOLS["ample"])


def check_loads(loads: Sequence[float]) -> None:
    """Refuse rates that are not positive."""
    if not loads or not all(load > 0 for load in loads):
        raise ConfigError(f"loads={tuple(loads)} must be positive numbers (arrival rate over capacity).")


def item_key(workload: str, index: int) -> str:
    """Key of a query's rows."""
    return f"{workload}-{index:04d}"


def item_rows(run: Run, lab: Lab, by_query: Sequence[list[Row]], whole: Sequence[Row] = ()) -> Iterator[ItemRows]:
    """An item per query of a lab, and one for what holds for whole streams, where there is such; finished ones are left out."""
    pairs = [(item_key(lab.name, index), rows) for index, rows in enumerate(by_query)]
    if whole:
        pairs.append((f"{lab.name}-streams", list(whole)))
    for key, rows in run.todo(pairs):
        yield ItemRows(key, rows)


def add_stream(
    by_query: Sequence[list[Row]], served: Served, variant: Variant, factors: Mapping[str, Any], lab: Lab
) -> None:
    """Add the rows of each query of a stream to its item."""
    for index, rows in enumerate(by_query):
        rows += stream_rows(served, index, variant.method, factors, lab.name)


def run_rows(served: Served, variant: Variant, factors: Mapping[str, Any], workload: str) -> list[Row]:
    """What holds for a whole stream: utilisation, whether it is stable, tokens, failures."""
    own: dict[str, Any] = {"method": variant.method, "factors": factors, "workload": workload}
    num = len(served.records)
    failed = sum(record.answer is None for record in served.records)
    return [
        Row("utilisation", served.utilisation, "1", served.basis, **own),
        Row("is_unstable", float(served.utilisation > 1.0), "1", served.basis, **own),
        Row("prompt_tokens", served.prompt_tokens / num, "tokens", served.basis, **own),
        Row("p95_delay", float(np.quantile([r.delay_s for r in served.records], 0.95)), "s", served.basis, **own),
        Row("failed_share", failed / num, "1", served.basis, **own),
    ]


@dataclasses.dataclass(frozen=True)
class _Streams:
    """Base: every method serves the same queries with the same arrivals in every condition.

    Attributes:
        workloads: families, unless the run has a workload of its own.
        servers: "this_machine", "a40_7b", "a40x2_70b", or calibration files.
        pools: names of KV pools ("scarce", "medium", "ample") or numbers of tokens.
        loads: arrival rates over the capacity of the best-quality fixed configuration.
        num_pareto: how many other configurations of the fixed grid's Pareto front are served as well.
    """

    workloads: tuple[str, ...] = FAMILIES
    servers: tuple[str, ...] = (THIS_MACHINE, A40)
    pools: tuple[str, ...] = ("scarce", "ample")
    loads: tuple[float, ...] = (0.9,)
    num_pareto: int = 0

    def __post_init__(self) -> None:
        for name in ("workloads", "servers", "pools", "loads"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_loads(self.loads)
        for pool in self.pools:
            pool_tokens(pool)

    def conditions(self, server: str) -> list[Condition]:
        """All conditions on one server."""
        return [Condition(server, pool, load) for pool in self.pools for load in self.loads]

    def labs(self, run: Run) -> Iterator[Lab]:
        """A prepared lab for each workload."""
        for name, workload in workloads_of(run, self.workloads).items():
            lab = Lab(run, name, workload, run.num_items)
            lab.prepare()
            yield lab

    def variants(self, run: Run, lab: Lab, kind: Server) -> list[Variant]:
        """What is served."""
        return variants(lab, kind, run.methods, self.num_pareto)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per query: delay, f1, num_chunks; per stream: utilisation, is_unstable, prompt_tokens, p95_delay; factors `server`,
        `pool`, `load`, `setting`."""
        for lab in self.labs(run):
            yield from self.served_rows(run, lab)

    def served_rows(self, run: Run, lab: Lab) -> Iterator[ItemRows]:
        """Rows of all streams of one workload: an item per query, and one for what holds for whole streams."""
        num = len(lab.dataset.queries)
        by_query: list[list[Row]] = [[] for _ in range(num)]
        whole: list[Row] = []
        for server_name in self.servers:
            kind = lab.server(server_name)
            rate = capacity(lab, kind)
            whole.append(Row("capacity", rate, "1/s", kind.basis, factors={"server": server_name}, workload=lab.name))
            chosen = self.variants(run, lab, kind)
            for condition in self.conditions(server_name):
                times = arrivals(run, num, condition.load * rate, lab.name)
                pool = pool_tokens(condition.pool)
                results = [(variant, lab.serve(variant.policy, kind, pool, times)) for variant in chosen]
                for variant, served in [*results, *like_ragserve(results)]:
                    factors = condition.factors | {"setting": variant.setting}
                    add_stream(by_query, served, variant, factors, lab)
                    whole += run_rows(served, variant, factors, lab.name)
        yield from item_rows(run, lab, by_query, whole)


@EXPERIMENTS.add("delay_vs_f1")
@dataclasses.dataclass(frozen=True)
class DelayVsF1(_Streams):
    """Mean delay against F1 for every method, on four families (RAGServe, Figs. 1 and 10). Knobs: see `_Streams`."""

    num_pareto: int = 3


@EXPERIMENTS.add("breakdown")
@dataclasses.dataclass(frozen=True)
class Breakdown(_Streams):
    """Delay as the parts of the system are added: fixed, + profiler (median), + batching, + best fit (RAGServe, Fig. 12)."""

    servers: tuple[str, ...] = (A40,)
    pools: tuple[str, ...] = ("scarce",)


@EXPERIMENTS.add("bigger_model")
@dataclasses.dataclass(frozen=True)
class BiggerModel(_Streams):
    """Delay on two A40s with a 70B model (RAGServe, Fig. 15); F1 stays that of the small model, which really answered."""

    workloads: tuple[str, ...] = ("musique_like", "qmsum_like")
    servers: tuple[str, ...] = ("a40x2_70b",)
    pools: tuple[str, ...] = ("scarce",)


@EXPERIMENTS.add("rules")
@dataclasses.dataclass(frozen=True)
class Rules(_Streams):
    """Ours: the open readings of best fit side by side: what must fit, promised memory, ranges' ends, oracles.

    Attributes:
        workloads, servers, pools, loads, num_pareto: see `_Streams`.
    """

    workloads: tuple[str, ...] = ("musique_like", "qmsum_like")
    servers: tuple[str, ...] = (A40,)
    pools: tuple[str, ...] = ("scarce", "ample")
    loads: tuple[float, ...] = (0.9, 1.2)

    def variants(self, run: Run, lab: Lab, kind: Server) -> list[Variant]:
        """RAGServe once for each rule, which `setting` names; the other methods as they are."""
        base = run.methods.get("ragserve", METHODS.create("ragserve"))
        rules = {
            "peak": base,
            "unit": dataclasses.replace(base, fit_rule="unit"),
            "peak, never starts": dataclasses.replace(base, may_start=False),
            "peak, plain free memory": dataclasses.replace(base, counts_promises=False),
            "peak, first come": dataclasses.replace(base, is_gang=False),
        }
        return [
            *(Variant("ragserve", policy, name) for name, policy in rules.items()),
            *(Variant(name, policy) for name, policy in run.methods.items() if name != "ragserve"),
        ]


# DEVIATION ragserve-8: the limit is three times the idle delay of the best-quality fixed configuration, not 1.8 s.
@EXPERIMENTS.add("throughput")
@dataclasses.dataclass(frozen=True)
class Throughput(_Streams):
    """Highest arrival rate at which the mean delay stays within a limit, by bisection (RAGServe, Fig. 11); at most the capacity.

    The paper's limit of 1.8 s is that of its models; ours is `limit` times the idle delay of the best-quality fixed
    configuration, the
    same for every method. Fixed methods run the configuration whose F1 is closest to that of RAGServe, as in the paper, and the
    best-quality one.

    Attributes:
        workloads, servers, pools, loads, num_pareto: see `_Streams`; loads and num_pareto are not used.
        limit: allowed mean delay over that idle delay.
        tolerance: of the bisection, relative.
    """

    servers: tuple[str, ...] = (A40,)
    pools: tuple[str, ...] = ("scarce", "ample")
    limit: float = 3.0
    tolerance: float = 0.05

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per workload: throughput (1/s), limit (s), f1 at that rate; factors `server`, `pool`, `setting`."""
        for lab in self.labs(run):
            if lab.name in run.finished:
                continue
            rows: list[Row] = []
            num = len(lab.dataset.queries)
            for server_name in self.servers:
                kind = lab.server(server_name)
                limit_s = self.limit * lab.idle_delay_s(kind, lab.best_fixed(kind))
                start = capacity(lab, kind)
                rows.append(Row("limit", limit_s, "s", kind.basis, factors={"server": server_name}, workload=ALL))
                for pool in self.pools:
                    for variant in self._variants(run, lab, kind, pool, start):
                        served_at: dict[float, Served] = {}

                        def is_met(
                            rate: float,
                            variant: Variant = variant,
                            kind: Server = kind,
                            pool: str = pool,
                            limit_s: float = limit_s,
                            served_at: dict[float, Served] = served_at,
                            lab: Lab = lab,
                            num: int = num,
                        ) -> bool:
                            times = arrivals(run, num, rate, lab.name)
                            served_at[rate] = lab.serve(variant.policy, kind, pool_tokens(pool), times)
                            return served_at[rate].mean_delay_s <= limit_s

                        best = bisect_rate(is_met, 0.5 * start, start, self.tolerance)
                        factors = {"server": server_name, "pool": pool, "setting": variant.setting}
                        own: dict[str, Any] = {"method": variant.method, "factors": factors, "workload": ALL}
                        # A short stream may be over before its queue has grown; no rate beyond the capacity can be sustained.
                        most = lab.capacity_per_s(kind, variant.policy, pool_tokens(pool))
                        rows.append(Row("throughput", min(best, most), "1/s", kind.basis, **own))
                        if best > 0:
                            rows.append(Row("f1", served_at[best].mean_f1, "1", "measured", **own))
            yield ItemRows(lab.name, rows)

    def _variants(self, run: Run, lab: Lab, kind: Server, pool: str, rate: float) -> list[Variant]:
        outcomes = lab.fixed_outcomes(kind)
        found: list[Variant] = []
        ragserve = run.methods.get("ragserve", METHODS.create("ragserve"))
        times = arrivals(run, len(lab.dataset.queries), 0.5 * rate, lab.name)
        target = lab.serve(ragserve, kind, pool_tokens(pool), times).mean_f1
        for variant in variants(lab, kind, run.methods):
            found.append(variant)
            if variant.method in _FIXED and variant.setting == BEST:
                closest = min(outcomes, key=lambda c: (abs(outcomes[c][0] - target), outcomes[c][1], c.label))
                found.append(fixed_variant(variant.method, closest, "closest quality"))
        return found


@EXPERIMENTS.add("low_load")
@dataclasses.dataclass(frozen=True)
class LowLoad(_Streams):
    """Queries one after another: each arrives when the one before has been answered (RAGServe, Fig. 19)."""

    servers: tuple[str, ...] = (THIS_MACHINE, A40)
    pools: tuple[str, ...] = ("ample",)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per query: delay, f1; factors `server`, `pool`, `setting`."""
        for lab in self.labs(run):
            num = len(lab.dataset.queries)
            by_query: list[list[Row]] = [[] for _ in range(num)]
            for server_name in self.servers:
                kind = lab.server(server_name)
                # Gaps of twenty times the longest idle delay of the grid: no two queries ever meet.
                gap_s = 20 * max(delay for _, delay in lab.fixed_outcomes(kind).values())
                times = [gap_s * index for index in range(num)]
                for pool in self.pools:
                    for variant in variants(lab, kind, run.methods):
                        served = lab.serve(variant.policy, kind, pool_tokens(pool), times)
                        factors = {"server": server_name, "pool": pool, "setting": variant.setting}
                        add_stream(by_query, served, variant, factors, lab)
            yield from item_rows(run, lab, by_query)


@EXPERIMENTS.add("regime_map")
@dataclasses.dataclass(frozen=True)
class RegimeMap(_Streams):
    """Ours: mean delay over KV pool and arrival rate: where best fit helps, and where it queues (sheet 8.3)."""

    workloads: tuple[str, ...] = ("musique_like",)
    servers: tuple[str, ...] = (A40,)
    pools: tuple[str, ...] = ("1280", "2560", "5120", "16384")
    loads: tuple[float, ...] = (0.3, 0.6, 0.9, 1.2, 1.8)


@EXPERIMENTS.add("feedback")
@dataclasses.dataclass(frozen=True)
class Feedback(_Streams):
    """F1 over a stream of 350 queries with and without feedback from the golden configuration (RAGServe, Fig. 14).

    The profiler is the embedded one after very few questions (a profiler that knows the workload well has nothing to
    learn), so that
    there is something to correct.

    Attributes:
        workloads, servers, pools, loads, num_pareto: see `_Streams`.
        num_questions: training questions of the profiler.
        window: queries per point of the curve.
    """

    workloads: tuple[str, ...] = ("qmsum_like", "finsec_like")
    servers: tuple[str, ...] = (A40,)
    pools: tuple[str, ...] = ("ample",)
    loads: tuple[float, ...] = (0.6,)
    num_questions: int = 40
    window: int = 50

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per query: f1, delay, factor `position` (the window it lies in); per stream: golden_tokens (cost of the
        golden runs over
        all tokens)."""
        for lab in self.labs(run):
            kind = lab.server(self.servers[0])
            num = len(lab.dataset.queries)
            rate = self.loads[0] * capacity(lab, kind)
            times = arrivals(run, num, rate, lab.name)
            by_query: list[list[Row]] = [[] for _ in range(num)]
            whole: list[Row] = []
            for name, policy in run.methods.items():
                profiler = lab.profiler("embedded", kind, num_questions=self.num_questions, seed=run.seed)
                served = lab.serve(policy, kind, pool_tokens(self.pools[0]), times, profiler=profiler)
                for index in range(num):
                    factors = {"position": index // self.window * self.window}
                    by_query[index] += stream_rows(served, index, name, factors, lab.name)
                golden = sum(run_.prompt_tokens + run_.output_tokens for run_ in served.golden)
                share = golden / (served.prompt_tokens + served.output_tokens)
                whole.append(Row("golden_tokens", share, "1", served.basis, name, {}, lab.name))
            yield from item_rows(run, lab, by_query, whole)


@EXPERIMENTS.add("profiler_quality")
@dataclasses.dataclass(frozen=True)
class ProfilerQuality(_Streams):
    """Delay and F1 with profilers of rising error (for RAGServe, Fig. 17, which swaps GPT-4o for Llama-3.1-70B).

    Attributes:
        workloads, servers, pools, loads, num_pareto: see `_Streams`.
        error_rates: probability of an error per field of the profile.
        awareness: how often an error shows in the confidence.
    """

    workloads: tuple[str, ...] = ("musique_like", "qmsum_like")
    servers: tuple[str, ...] = (A40,)
    pools: tuple[str, ...] = ("scarce",)
    error_rates: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5)
    awareness: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "error_rates", tuple(self.error_rates))

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per query: delay, f1; factors `error_rate`, `profiler`."""
        for lab in self.labs(run):
            kind = lab.server(self.servers[0])
            num = len(lab.dataset.queries)
            times = arrivals(run, num, self.loads[0] * capacity(lab, kind), lab.name)
            by_query: list[list[Row]] = [[] for _ in range(num)]
            for variant in variants(lab, kind, run.methods):
                is_fixed = variant.method in _FIXED
                for error_rate in self.error_rates[:1] if is_fixed else self.error_rates:
                    profiler = lab.profiler(
                        "noisy", kind, error_rate=error_rate, awareness=self.awareness, seed=run.seed
                    )
                    served = lab.serve(variant.policy, kind, pool_tokens(self.pools[0]), times, profiler=profiler)
                    factors = {"setting": variant.setting} | ({} if is_fixed else {"error_rate": error_rate})
                    add_stream(by_query, served, variant, factors, lab)
            yield from item_rows(run, lab, by_query)


@EXPERIMENTS.add("profiler_share")
@dataclasses.dataclass(frozen=True)
class ProfilerShare(_Streams):
    """Share of a query's delay that profiling takes (RAGServe, Fig. 18). Its latency is an assumption: 6 % of the
    idle delay of stuff
    with 6 chunks; the embedded profiler itself takes under a millisecond."""

    servers: tuple[str, ...] = (A40,)
    pools: tuple[str, ...] = ("scarce",)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per query: profiler_share."""
        for lab in self.labs(run):
            kind = lab.server(self.servers[0])
            num = len(lab.dataset.queries)
            times = arrivals(run, num, self.loads[0] * capacity(lab, kind), lab.name)
            by_query: list[list[Row]] = [[] for _ in range(num)]
            for name, policy in run.methods.items():
                served = lab.serve(policy, kind, pool_tokens(self.pools[0]), times)
                for index, record in enumerate(served.records):
                    latency_s = 0.0 if record.profile is None else record.profile.latency_s
                    share = latency_s / record.delay_s if record.delay_s else 0.0
                    by_query[index].append(Row("profiler_share", share, "1", served.basis, name, {}, lab.name))
            yield from item_rows(run, lab, by_query)


@EXPERIMENTS.add("knob_by_knob")
@dataclasses.dataclass(frozen=True)
class KnobByKnob(_Streams):
    """Delay and F1 as knobs are adapted one by one: k, + method, + s, + scheduling (RAGServe, Fig. 16)."""

    workloads: tuple[str, ...] = ("qmsum_like", "finsec_like")
    servers: tuple[str, ...] = (A40,)
    pools: tuple[str, ...] = ("scarce",)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """As `delay_vs_f1`; factor `setting` names the knobs of `partial`."""
        for lab in self.labs(run):
            kind = lab.server(self.servers[0])
            num = len(lab.dataset.queries)
            times = arrivals(run, num, self.loads[0] * capacity(lab, kind), lab.name)
            by_query: list[list[Row]] = [[] for _ in range(num)]
            chosen: list[Variant] = []
            for variant in variants(lab, kind, run.methods):
                if variant.method == "partial":
                    chosen += [
                        Variant("partial", dataclasses.replace(variant.policy, adapts=adapts), adapts)
                        for adapts in ("k", "k+method", "k+method+s")
                    ]
                else:
                    chosen.append(variant)
            for variant in chosen:
                served = lab.serve(variant.policy, kind, pool_tokens(self.pools[0]), times)
                add_stream(by_query, served, variant, {"setting": variant.setting}, lab)
            yield from item_rows(run, lab, by_query)


@EXPERIMENTS.add("cost")
@dataclasses.dataclass(frozen=True)
class Cost(_Streams):
    """Dollars per query against F1 (RAGServe, Fig. 13): GPU time of the stream, and the profiler's tokens.

    Prices are assumptions, as of 2026-11; no larger model answers here, so that only the costs of the 70B server are shown.

    Attributes:
        workloads, servers, pools, loads, num_pareto: see `_Streams`.
        gpu_dollars_per_hour: of one A40; the 70B server has two.
        profiler_dollars_per_1k_tokens: of the profiler's API.
    """

    workloads: tuple[str, ...] = ("musique_like", "qmsum_like")
    servers: tuple[str, ...] = (A40, "a40x2_70b")
    pools: tuple[str, ...] = ("ample",)
    gpu_dollars_per_hour: float = 0.40
    profiler_dollars_per_1k_tokens: float = 0.0025

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per workload: dollars per query and how much of them the profiler takes, profiler_dollars (modelled), f1; factors
        `server`, `setting`."""
        for lab in self.labs(run):
            if lab.name in run.finished:
                continue
            rows: list[Row] = []
            num = len(lab.dataset.queries)
            for server_name in self.servers:
                kind = lab.server(server_name)
                times = arrivals(run, num, self.loads[0] * capacity(lab, kind), lab.name)
                cards = 2 if server_name == "a40x2_70b" else 1
                for variant in variants(lab, kind, run.methods):
                    served = lab.serve(variant.policy, kind, pool_tokens(self.pools[0]), times)
                    gpu = served.busy_s / 3600 * self.gpu_dollars_per_hour * cards
                    profiling = sum(r.profile.tokens for r in served.records if r.profile) / 1000
                    profiler_dollars = profiling * self.profiler_dollars_per_1k_tokens / num
                    dollars = gpu / num + profiler_dollars
                    own: dict[str, Any] = {
                        "method": variant.method,
                        "factors": {"server": server_name, "setting": variant.setting},
                        "workload": ALL,
                    }
                    rows.append(Row("dollars", dollars, "USD", "modelled", **own))
                    rows.append(Row("profiler_dollars", profiler_dollars, "USD", "modelled", **own))
                    rows.append(Row("f1", served.mean_f1, "1", "measured", **own))
            yield ItemRows(lab.name, rows)


for _module in ("experiments_study", "experiments_engine"):
    if importlib.util.find_spec(f"ragserve.{_module}") is not None:
        importlib.import_module(f"ragserve.{_module}")
