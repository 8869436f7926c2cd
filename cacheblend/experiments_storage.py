"""Experiments of storage and scheduling: devices, the pipeline, the controller, and requests under load.

Reads are real file reads by a real second thread; a throttle holds them back to the rate of a modelled device, chosen so that
loading and recomputing stand in the paper's proportions whatever the machine.
"""

import dataclasses
import functools
import tempfile
import time  # a throttled device and a two-thread time line need the real clock; results still go through common.timing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cacheblend.api import EXPERIMENTS, METHODS, Prefill, Request
from cacheblend.controller import (
    MIN_RATIO,
    LayerwiseTime,
    ProportionalTime,
    RecomputeTime,
    load_s,
    pick_device,
    pick_ratio,
)
from cacheblend.engine import ChunkKey, Engine, InMemory, MemoryStore
from cacheblend.harness import Judge, Outcome, engine_for, requests_of
from cacheblend.load_queue import (
    Pattern,
    Reuse,
    Service,
    SimulatedTiers,
    arrivals_s,
    capacity_rps,
    draw_load,
    hit_patterns,
    queue_ttft_s,
)
from cacheblend.pipeline import PipelinedEngine, Timeline
from cacheblend.store import DiskTier, MemoryTier, Throttle, TieredStore
from common.errors import ConfigError
from common.experiment import Run
from common.hardware import DEVICES, DeviceProfile
from common.kv import KVCache
from common.results import ItemRows, Row
from common.timing import Timing, measure

# T_load over T_recompute(0.15) in the paper's two examples: 16 ms against 3 ms per layer, and 4 ms against 7 ms.
LOAD_BOUND, COMPUTE_BOUND = 16 / 3, 4 / 7


@dataclasses.dataclass(frozen=True, eq=False)
class _Timed:
    """Something to be timed, and what must be done, untimed, before each time."""

    run: Callable[[], Prefill | None]
    prepare: Callable[[], None] = lambda: None


def _time_all(things: Mapping[str, _Timed], warmup: int, repeats: int, device: str) -> dict[str, Timing]:
    """Like `common.timing.measure_interleaved`, with an untimed preparation before each run."""
    seconds: dict[str, list[float]] = {name: [] for name in things}
    results: dict[str, Any] = {}
    names = list(things)
    for turn in range(warmup + repeats):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            results.pop(name, None)
            things[name].prepare()
            timing = measure(things[name].run, warmup=0, repeats=1, device=device)
            results[name] = timing.result
            if turn >= warmup:
                seconds[name] += timing.seconds
    return {name: Timing(tuple(seconds[name]), results[name]) for name in names}


def _method(run: Run, name: str) -> Any:
    return run.methods.get(name) or METHODS.create(name)


def _fill(tier: DiskTier | MemoryTier, store: MemoryStore) -> None:
    for key, entry in store.entries():
        tier.put(key, entry.kv)


def _base(run: Run, request: Request) -> tuple[Engine, MemoryStore]:
    """An engine whose chunks are all in memory, and that memory."""
    store = MemoryStore()
    engine = engine_for(run, store)
    engine.precompute(request)
    return engine, store


def _engine_on(run: Run, base: Engine, tier: DiskTier, depth: int | None, timeline: Timeline | None) -> PipelinedEngine:
    store = TieredStore(disk=tier, reads_layers=True)
    seed = run.seed_for("selection")
    return PipelinedEngine(base.loaded, store, seed=seed, depth=depth, timeline=timeline)


def _device_for(name: str, load_over_recompute: float, kv_bytes: float, prefill_s: float) -> DeviceProfile:
    """A device slow enough that T_load / T_recompute(r*) is as wanted, T_recompute(r*) = r* * Prefill as in the paper."""
    return DeviceProfile(name, kv_bytes / (load_over_recompute * MIN_RATIO * prefill_s))


def _throttled(folder: Path, device: DeviceProfile | None) -> DiskTier:
    return DiskTier(folder, throttle=None if device is None else Throttle(device, time.perf_counter, time.sleep))


def _scratch(run: Run) -> Any:
    run.cache_dir.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=run.cache_dir, prefix="kv-")


def _depth_name(depth: int | None) -> str:
    return "all" if depth is None else str(depth)


def _depths(depths: tuple[int, ...]) -> list[int | None]:
    """Configurations have no None in a list of numbers: -1 stands for any number of layers."""
    return [None if depth < 0 else depth for depth in depths]


@dataclasses.dataclass(frozen=True)
class _Costs:
    """What one request costs on this machine.

    Attributes:
        prefill_s: full prefill.
        kv_bytes: KV of what can be reused.
        recompute: fitted time of a blend from memory.
        measured: ratio -> seconds of a blend from memory.
    """

    prefill_s: float
    kv_bytes: float
    recompute: LayerwiseTime
    measured: dict[float, float]


def _costs(run: Run, engine: Engine, request: Request, ratios: tuple[float, ...], repeats: int) -> _Costs:
    cacheblend = _method(run, "cacheblend")
    full = _method(run, "full_recompute")
    things = {"full": _Timed(functools.partial(full.prefill, request, engine))}
    for ratio in ratios:
        method = dataclasses.replace(cacheblend, ratio=float(ratio))
        things[str(float(ratio))] = _Timed(functools.partial(method.prefill, request, engine))
    timings = _time_all(things, 1, repeats, str(engine.transformer.device))
    prefill_s = timings["full"].median_s
    measured = {float(ratio): timings[str(float(ratio))].median_s for ratio in ratios}
    reusable = request.num_tokens + len(engine.bos) - len(request.question)
    question_share = len(request.question) / (request.num_tokens + len(engine.bos))
    form = LayerwiseTime(prefill_s, engine.transformer.num_layers, question_share)
    return _Costs(
        prefill_s,
        reusable * engine.loaded.kv_bytes_per_token,
        form.fit(list(measured), list(measured.values())),
        measured,
    )


def _nothing() -> None:
    pass


@dataclasses.dataclass(frozen=True, eq=False)
class _Point:
    """A method on a device, as one point of a figure."""

    name: str
    method: Any
    engine: Engine
    factors: Mapping[str, Any]
    prepare: Callable[[], None] = _nothing


@EXPERIMENTS.add("storage_device")
@dataclasses.dataclass(frozen=True)
class StorageDevice:
    """Time to first token and quality with the KV in memory and on devices of different speed (CacheBlend, Fig. 17).

    Attributes:
        load_over_recompute: devices, as T_load / T_recompute(0.15) in the paper's form.
        depth: layers loaded ahead; -1: any number.
        repeats, warmup: timed rounds per request, everything interleaved, and untimed ones before them.
    """

    load_over_recompute: tuple[float, ...] = (COMPUTE_BOUND, LOAD_BOUND)
    depth: int = 2
    repeats: int = 3
    warmup: int = 1

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request, method and device: ttft, recomputed_share, kl_to_full, quality.

        Factors: `device` ("none", "memory", "disk" as it is with a cold page cache, "throttled"), `load_over_recompute` (0 but
        for "throttled"), `pipelined` (0 or 1), `ratio` (0 but for cacheblend), `ratio_by` ("fixed" or "controller").
        prefix_caching loads from memory, which favours it as the paper does.
        """
        first = engine_for(run)
        for key, request in run.todo(requests_of(run, first)):
            base, store = _base(run, request)
            costs = _costs(run, base, request, (0.05, 0.15, 0.5), self.repeats)
            with _scratch(run) as scratch:
                _fill(DiskTier(Path(scratch)), store)
                points = self._points(run, base, costs, Path(scratch))
                things = {
                    str(index): _Timed(functools.partial(point.method.prefill, request, point.engine), point.prepare)
                    for index, point in enumerate(points)
                }
                timings = _time_all(things, self.warmup, self.repeats, str(base.transformer.device))
            judge = Judge(base, request)
            rows: list[Row] = []
            for point, timing in zip(points, timings.values(), strict=True):
                outcome = Outcome(timing.seconds, timing.result, timing.result.recomputed_tokens)
                rows += judge.rows(point.name, outcome, point.factors)
                assert not getattr(point.engine, "late_reads", 0), "a layer was not fetched ahead"
            yield ItemRows(key, rows)

    def _points(self, run: Run, base: Engine, costs: _Costs, folder: Path) -> list[_Point]:
        """Every method and device to compare."""
        in_memory = {"device": "memory", "load_over_recompute": 0.0, "pipelined": 0, "ratio": 0.0, "ratio_by": "fixed"}
        cacheblend, full_reuse = _method(run, "cacheblend"), _method(run, "full_reuse")
        with_ratio = {"ratio": cacheblend.ratio}
        points = [
            _Point("full_recompute", _method(run, "full_recompute"), base, in_memory | {"device": "none"}),
            _Point("prefix_caching", _method(run, "prefix_caching"), base, in_memory),
            _Point("full_reuse", full_reuse, base, in_memory),
            _Point("cacheblend", cacheblend, base, in_memory | with_ratio),
        ]
        devices: list[tuple[float, DeviceProfile | None]] = [(0.0, None)]
        for share in self.load_over_recompute:
            devices.append((float(share), _device_for("throttled", share, costs.kv_bytes, costs.prefill_s)))
        for share, profile in devices:
            tier = _throttled(folder, profile)
            forget = tier.drop_page_cache if profile is None else _nothing
            where = in_memory | {"device": "disk" if profile is None else "throttled", "load_over_recompute": share}
            piped = _engine_on(run, base, tier, _depths((self.depth,))[0], None)
            plain = _engine_on(run, base, tier, 0, None)
            both = where | {"pipelined": 1}
            points.append(_Point("full_reuse", full_reuse, piped, both, forget))
            points.append(_Point("cacheblend", cacheblend, piped, both | with_ratio, forget))
            points.append(_Point("cacheblend", cacheblend, plain, where | with_ratio, forget))
            if profile is not None:
                ratio = pick_ratio(costs.recompute, load_s(costs.kv_bytes, profile), cacheblend.ratio)
                picked = dataclasses.replace(cacheblend, ratio=ratio)
                points.append(
                    _Point("cacheblend", picked, piped, both | {"ratio": ratio, "ratio_by": "controller"}, forget)
                )
        return points


@EXPERIMENTS.add("pipeline_gantt")
@dataclasses.dataclass(frozen=True)
class PipelineGantt:
    """What the two threads do while a request is served, and the recurrence that predicts it (ours, Fig. F).

    Attributes:
        load_over_recompute: devices, as in `storage_device`.
        depths: layers loaded ahead; 0: no pipeline, -1: any number.
        repeats: rounds per request; spans are those of the round with the median time.
    """

    load_over_recompute: tuple[float, ...] = (COMPUTE_BOUND, LOAD_BOUND)
    depths: tuple[int, ...] = (0, 2, -1)
    repeats: int = 3

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request, device and depth, method cacheblend; factors `load_over_recompute` and `depth` ("0", "2", "all").

        span: duration; further factors `lane`, `phase`, `layer`, `begin_s`. ttft: measured. ttft_recurrence: the recurrence with
        the measured loading and computing time of each layer, modelled. ttft_bound: the larger of all loading and all
        computing, modelled. overlap: share of the loading time during which the compute thread did not wait.
        """
        first = engine_for(run)
        num_layers = first.transformer.num_layers
        for key, request in run.todo(requests_of(run, first)):
            base, store = _base(run, request)
            costs = _costs(run, base, request, (0.15,), self.repeats)
            method = _method(run, "cacheblend")
            rows: list[Row] = []
            with _scratch(run) as scratch:
                _fill(DiskTier(Path(scratch)), store)
                for share in self.load_over_recompute:
                    tier = _throttled(Path(scratch), _device_for("throttled", share, costs.kv_bytes, costs.prefill_s))
                    for depth in _depths(self.depths):
                        timeline = Timeline(time.perf_counter, _waiter(base))
                        engine = _engine_on(run, base, tier, depth, timeline)
                        rounds = []
                        for _ in range(1 + self.repeats):
                            timing = _time_all(
                                {"": _Timed(functools.partial(method.prefill, request, engine), timeline.start)},
                                0,
                                1,
                                str(base.transformer.device),
                            )[""]
                            rounds.append((timing.median_s, timeline.spans, timeline.layer_times(num_layers)))
                        rounds = sorted(rounds[1:], key=lambda done: done[0])
                        ttft_s, spans, times = rounds[(len(rounds) - 1) // 2]
                        factors = {"load_over_recompute": float(share), "depth": _depth_name(depth)}
                        predicted_s = times.predicted_ttft_s(depth)
                        bound_s = max(sum(times.load_s), sum(times.compute_s))
                        waited_s = sum(span.duration_s for span in spans if span.phase == "wait")
                        waited_s = sum(times.load_s) if depth == 0 else waited_s
                        overlap = max(0.0, 1 - waited_s / max(sum(times.load_s), 1e-12))
                        for name, value, unit, basis in (
                            ("ttft", ttft_s, "s", "measured"),
                            ("ttft_recurrence", predicted_s, "s", "modelled"),
                            ("ttft_bound", bound_s, "s", "modelled"),
                            ("overlap", overlap, "1", "measured"),
                        ):
                            rows.append(Row(name, value, unit, basis, "cacheblend", factors))  # type: ignore[arg-type]
                        for span in spans:
                            where = {
                                "lane": span.lane,
                                "phase": span.phase,
                                "layer": span.layer,
                                "begin_s": span.begin_s,
                            }
                            rows.append(Row("span", span.duration_s, "s", "measured", "cacheblend", factors | where))
            yield ItemRows(key, rows)


def _waiter(engine: Engine) -> Callable[[], None]:
    device = engine.transformer.device
    if device.type != "cuda":
        return lambda: None
    import torch

    return lambda: torch.cuda.synchronize(device)


@EXPERIMENTS.add("ttft_breakdown")
@dataclasses.dataclass(frozen=True)
class TtftBreakdown:
    """Where the time to first token goes: opening, waiting, taking, shifting, choosing, recomputing (ours, Fig. C).

    Attributes:
        load_over_recompute: devices, as in `storage_device`; 0: in memory.
        depth: layers loaded ahead; -1: any number.
        repeats: rounds per request; the times are those of the round with the median total.
    """

    load_over_recompute: tuple[float, ...] = (0.0, COMPUTE_BOUND, LOAD_BOUND)
    depth: int = 2
    repeats: int = 3

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request, device and method: phase_time (factor `phase`; "layer_0" is the computing of layer 0) and ttft; factor
        `load_over_recompute`, 0 for methods that do not load chunks."""
        first = engine_for(run)
        names = [name for name in run.methods if name != "map_reduce"] or ["full_recompute", "full_reuse", "cacheblend"]
        for key, request in run.todo(requests_of(run, first)):
            base, store = _base(run, request)
            costs = _costs(run, base, request, (0.15,), self.repeats)
            rows: list[Row] = []
            with _scratch(run) as scratch:
                folder = Path(scratch)
                _fill(DiskTier(folder), store)
                memory = MemoryTier(2**62)
                _fill(memory, store)
                # What reads no chunks, or reads them at no cost (prefix caching, as the paper has it), does so from memory, once.
                shares = {name: self.load_over_recompute if _reuse(name) == "chunks" else (0.0,) for name in names}
                for share in dict.fromkeys([0.0, *self.load_over_recompute]):
                    timeline = Timeline(time.perf_counter, _waiter(base))
                    if share > 0:
                        tier = _throttled(folder, _device_for("throttled", share, costs.kv_bytes, costs.prefill_s))
                        engine = _engine_on(run, base, tier, _depths((self.depth,))[0], timeline)
                    else:
                        seed = run.seed_for("selection")
                        engine = PipelinedEngine(base.loaded, TieredStore(memory), seed=seed, timeline=timeline)
                    for name in [name for name in names if share in shares[name]]:
                        rows += self._phases(
                            run, request, engine, timeline, name, {"load_over_recompute": float(share)}
                        )
            yield ItemRows(key, rows)

    def _phases(
        self,
        run: Run,
        request: Request,
        engine: PipelinedEngine,
        timeline: Timeline,
        name: str,
        factors: dict[str, float],
    ) -> Iterator[Row]:
        thing = _Timed(functools.partial(_method(run, name).prefill, request, engine), timeline.start)
        rounds = []
        for _ in range(1 + self.repeats):
            timing = _time_all({"": thing}, 0, 1, str(engine.transformer.device))[""]
            rounds.append((timing.median_s, timeline.spans))
        ttft_s, spans = sorted(rounds[1:], key=lambda done: done[0])[(self.repeats - 1) // 2]
        phases: dict[str, float] = {}
        for span in spans:
            if span.lane == "compute":
                is_first = span.layer == 0 and span.phase == "recompute"
                phase = "layer_0" if is_first else span.phase
                phases[phase] = phases.get(phase, 0.0) + span.duration_s
        yield Row("ttft", ttft_s, "s", "measured", name, factors)
        for phase, seconds in phases.items():
            yield Row("phase_time", seconds, "s", "measured", name, {**factors, "phase": phase})


@EXPERIMENTS.add("loading_controller")
@dataclasses.dataclass(frozen=True)
class LoadingController:
    """The loading controller: time to recompute against time to load, and what it picks (CacheBlend, Fig. 10).

    Attributes:
        ratios: at which recomputing is measured.
        load_over_recompute: devices for the choice of the ratio, as in `storage_device`.
        repeats: timed rounds per request.
    """

    ratios: tuple[float, ...] = (0.05, 0.15, 0.3, 0.5, 0.75, 1.0)
    load_over_recompute: tuple[float, ...] = (0.25, COMPUTE_BOUND, 1.0, 2.0, LOAD_BOUND)
    repeats: int = 3

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request.

        recompute_time: measured (factor `ratio`), and modelled by both forms (factors `ratio`, `form`: "paper" or "layerwise").
        load_time, picked_ratio: modelled (factors `load_over_recompute`; and `form`). device_load_time, device_cost, is_picked:
        modelled, for the registered devices at r* (factors `device`, `form`); cost in USD for a month. The ratio is picked for a
        pipelined load; `storage_device` measures what comes of it.
        """
        first = engine_for(run)
        for key, request in run.todo(requests_of(run, first)):
            base, _ = _base(run, request)
            costs = _costs(run, base, request, self.ratios, self.repeats)
            forms: dict[str, RecomputeTime] = {"paper": ProportionalTime(costs.prefill_s), "layerwise": costs.recompute}
            rows = [Row("prefill_time", costs.prefill_s, "s", "measured", "full_recompute")]
            for ratio, seconds in costs.measured.items():
                rows.append(
                    Row("recompute_time", seconds, "s", "measured", "cacheblend", {"ratio": ratio, "form": "none"})
                )
                for form, model in forms.items():
                    factors = {"ratio": ratio, "form": form}
                    rows.append(Row("recompute_time", model.seconds(ratio), "s", "modelled", "cacheblend", factors))
            for share in self.load_over_recompute:
                loading_s = load_s(costs.kv_bytes, _device_for("device", share, costs.kv_bytes, costs.prefill_s))
                rows.append(Row("load_time", loading_s, "s", "modelled", "", {"load_over_recompute": float(share)}))
                for form, model in forms.items():
                    factors = {"load_over_recompute": float(share), "form": form}
                    picked = pick_ratio(model, loading_s)
                    rows.append(Row("picked_ratio", picked, "1", "modelled", "cacheblend", factors))
            devices = [DEVICES.get(name) for name in DEVICES]
            for form, model in forms.items():
                choice = pick_device(model, costs.kv_bytes, devices)
                for device in devices:
                    factors = {"device": device.name, "form": form}
                    loading_s = load_s(costs.kv_bytes, device)
                    cost = device.keep_usd(costs.kv_bytes, 30 * 86400)
                    rows.append(Row("device_load_time", loading_s, "s", "modelled", "", factors))
                    rows.append(Row("device_cost", cost, "USD", "modelled", "", factors))
                    rows.append(Row("is_picked", float(device is choice.device), "1", "modelled", "", factors))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("ttft_vs_rate")
@dataclasses.dataclass(frozen=True)
class TtftVsRate:
    """Time to first token against the request rate, with chunks in memory and on disk by popularity (CacheBlend, Fig. 14).

    The time of every hit pattern that occurs is measured on this machine with the real store; arrivals, evictions and waiting are
    simulated, the same for all methods.

    Attributes:
        corpus_chunks, zipf, num_queries, num_requests, num_warmup: see `cacheblend.load_queue.draw_load`.
        memory_share, disk_share: room of the tiers, as shares of the corpus.
        load_over_recompute: speed of the disk tier, as in `storage_device`; 0: as the disk is.
        relative_rates: request rates, in units of what full recompute could serve without any waiting.
        answer_tokens: tokens decoded per request.
        batch: requests that the server takes at once.
        repeats: measurements per pattern, the median counts.
    """

    corpus_chunks: int = 1000
    zipf: float = 1.0
    num_queries: int = 1500
    num_requests: int = 1500
    num_warmup: int = 1500
    memory_share: float = 0.1
    disk_share: float = 1.0
    load_over_recompute: float = COMPUTE_BOUND
    relative_rates: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
    answer_tokens: int = 8
    batch: int = 1
    repeats: int = 3

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request drawn from the workload, whose chunks stand for all: one simulated day of requests like it.

        Per method: mean_ttft and p99_ttft (factors `relative_rate`, `rate_rps`), capacity (req/s, see
        `cacheblend.load_queue.capacity_rps`), capacity_same_ttft (req/s at a mean of twice full recompute's idle time, for all
        methods), idle_ttft: simulated, from measured service times. service_time: measured, factors `memory`, `disk`, `missed`
        (numbers of chunks). hit_share: simulated, factor `tier`. decode_time: measured.
        """
        if self.repeats < 1:
            raise ConfigError(f"repeats={self.repeats} must be at least 1.")
        first = engine_for(run)
        names = list(run.methods) or ["full_recompute", "prefix_caching", "full_reuse", "cacheblend"]
        for key, request in run.todo(requests_of(run, first)):
            num_chunks = len(request.chunks)
            load = draw_load(
                run.rng("load", key),
                self.num_requests,
                corpus_chunks=self.corpus_chunks,
                chunks_per_request=num_chunks,
                num_queries=self.num_queries,
                zipf=self.zipf,
                num_warmup=self.num_warmup,
            )
            room = round(self.memory_share * self.corpus_chunks), round(self.disk_share * self.corpus_chunks)
            patterns = {name: hit_patterns(load, SimulatedTiers(*room), _reuse(name)) for name in names}
            base, _ = _base(run, request)
            costs = _costs(run, base, request, (0.15,), self.repeats)
            with _scratch(run) as scratch:
                profile = None
                if self.load_over_recompute > 0:
                    profile = _device_for("throttled", self.load_over_recompute, costs.kv_bytes, costs.prefill_s)
                bench = _Bench(run, base, request, _throttled(Path(scratch), profile), run.rng("pattern", key))
                wanted = {_measured_as(name, pattern) for name in names for pattern in patterns[name]}
                wanted.add(("full_recompute", Pattern()))
                times, decode_s = bench.seconds(wanted, self.answer_tokens, self.repeats)
            rows = [Row("decode_time", decode_s, "s", "measured")]
            for (name, pattern), seconds in times.items():
                rows.append(Row("service_time", seconds, "s", "measured", name, dataclasses.asdict(pattern)))
            full_s = times["full_recompute", Pattern()]
            for name in names:
                service = Service(tuple(times[_measured_as(name, pattern)] for pattern in patterns[name]), decode_s)
                total = sum(sum(dataclasses.astuple(pattern)) for pattern in patterns[name])
                for tier in ("memory", "disk", "missed") if total else ():
                    share = sum(getattr(pattern, tier) for pattern in patterns[name]) / total
                    rows.append(Row("hit_share", share, "1", "simulated", name, {"tier": tier}))
                for relative in self.relative_rates:
                    rate_rps = relative / (full_s + decode_s)
                    ttft_s = queue_ttft_s(arrivals_s(load, rate_rps), service.prefill_s, decode_s, self.batch)
                    factors = {"relative_rate": float(relative), "rate_rps": rate_rps}
                    rows.append(Row("mean_ttft", float(ttft_s.mean()), "s", "simulated", name, factors))
                    rows.append(Row("p99_ttft", float(np.quantile(ttft_s, 0.99)), "s", "simulated", name, factors))
                rows.append(Row("idle_ttft", service.idle_ttft_s, "s", "simulated", name))
                own = capacity_rps(load, service, batch=self.batch)
                same = capacity_rps(load, service, batch=self.batch, limit_s=2 * full_s)
                rows.append(Row("capacity", own, "req/s", "simulated", name))
                rows.append(Row("capacity_same_ttft", same, "req/s", "simulated", name))
            yield ItemRows(key, rows)


def _reuse(name: str) -> Reuse:
    if name == "prefix_caching":
        return "prefix"
    return "none" if name in ("full_recompute", "map_reduce", "map_rerank") else "chunks"


def _measured_as(name: str, pattern: Pattern) -> tuple[str, Pattern]:
    """The measurement that stands for a method's hit pattern.

    A cached prefix is read at no cost, wherever it is, as the paper has it; a missing one is computed with the rest.
    """
    if _reuse(name) != "prefix":
        return name, pattern
    return (name, Pattern(memory=1)) if pattern.memory or pattern.disk else ("full_recompute", Pattern())


def _forgetful(act: Callable[..., Any], *arguments: Any) -> Callable[[], None]:
    """Calls something and drops what it returns: the states of dozens of prompts would not fit into memory together."""

    def run() -> None:
        act(*arguments)

    return run


class _Bench:
    """Measures methods' times to first token with so many chunks in memory, on disk and missing."""

    def __init__(self, run: Run, base: Engine, request: Request, disk: DiskTier, rng: np.random.Generator) -> None:
        self._run, self._base, self._request, self._disk, self._rng = run, base, request, disk, rng
        self._memory = MemoryTier(2**62)
        # A missing chunk would be written to disk after the answer, not before its first token.
        self._store = TieredStore(self._memory, disk, reads_layers=True, promote_after=0, defers_writes=True)
        self._engine = PipelinedEngine(base.loaded, self._store, seed=run.seed_for("selection"))
        self._kept: dict[ChunkKey, KVCache] = {}
        assert isinstance(base.store, MemoryStore)
        for key, entry in base.store.entries():
            assert isinstance(entry, InMemory)
            self._kept[key] = entry.kv

    def seconds(
        self, wanted: Iterable[tuple[str, Pattern]], answer_tokens: int, repeats: int
    ) -> tuple[dict[tuple[str, Pattern], float], float]:
        """Median times of methods and patterns, and of decoding; all interleaved, the chunks' places drawn anew each time."""
        truth = self._base.truth(self._request)
        things: dict[str, _Timed] = {"decode": _Timed(_forgetful(self._base.decode, truth, answer_tokens))}
        order = sorted(wanted, key=lambda pair: (pair[0], dataclasses.astuple(pair[1])))
        for index, (name, pattern) in enumerate(order):
            is_placed = _reuse(name) == "chunks"
            engine = self._engine if is_placed else self._base
            things[str(index)] = _Timed(
                _forgetful(_method(self._run, name).prefill, self._request, engine),
                functools.partial(self._place, pattern) if is_placed else _nothing,
            )
        timings = _time_all(things, 1, repeats, str(self._base.transformer.device))
        return {pair: timings[str(index)].median_s for index, pair in enumerate(order)}, timings["decode"].median_s

    def _place(self, pattern: Pattern) -> None:
        chunks = set(self._request.chunks)
        keys = [key for key in self._kept if key.tokens in chunks and key.opening == self._base.bos]
        for key in self._kept:
            self._store.discard(key)
            if key not in keys:  # the system prompt and BOS are always in memory: every request uses them
                self._memory.put(key, self._kept[key])
        order = self._rng.permutation(len(keys))
        for rank, index in enumerate(order.tolist()):
            key = keys[index]
            if rank < pattern.memory:
                self._memory.put(key, self._kept[key])
            elif rank < pattern.memory + pattern.disk:
                self._disk.put(key, self._kept[key])
        self._disk.drop_page_cache()
