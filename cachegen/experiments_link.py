"""Experiments over links: bandwidth, length, concurrency, deadlines under changing bandwidth, and a real connection.

Links are simulated with `cachegen.streaming` unless an experiment says otherwise; sizes come from real bitstreams, times of
prefilling and decoding from this machine. Bandwidths are given as the share of a full prefill that sending the 8-bit cache takes
(the paper's 3 Gbit/s is about 0.65), because absolute ones mean nothing across models, and in bit/s.
"""

import dataclasses
import functools
import hashlib
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cachegen.api import EXPERIMENTS, POLICIES, ChunkOffer, Context
from cachegen.baselines import Uniform
from cachegen.codec import Codec
from cachegen.engine import Engine
from cachegen.harness import NUM_PROFILE_CONTEXTS, Judge, engine_for, items_of, random_context, sample_contexts
from cachegen.policies import Adaptive, Fixed, TextOnly
from cachegen.profiling import cut, profile_model
from cachegen.settings import PAPER, TUNED
from cachegen.store import Store, pack_ids
from cachegen.streaming import Costs, Curve, Timeline, best_in_hindsight, offers_of, simulate
from common.errors import ConfigError
from common.experiment import Run
from common.kv import KVCache, concatenate
from common.net.rate import ConstantRate, Rate, SteppedRate
from common.net.traces import read_trace
from common.results import ItemRows, Row
from common.rng import for_component
from common.timing import measure_interleaved

FORMS = {"cachegen": PAPER, "cachegen_tuned": TUNED}
TRANSFER_SHARE = 0.65
"""8-bit transfer time over prefill time at the paper's 3 Gbit/s."""
EIGHT_BIT = "quantisation_8bit"


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """A context, ready to be streamed in several forms.

    Attributes:
        context: what is streamed.
        codecs: by method.
        costs, offers: by method, `quantisation_8bit` included; text is offered by all.
        prefill_to, suffix_s: measured.
        eight_bit_bytes: of the whole context.
    """

    context: Context
    codecs: dict[str, Codec]
    costs: dict[str, Costs]
    offers: dict[str, list[ChunkOffer]]
    prefill_to: Curve
    suffix_s: float
    eight_bit_bytes: int

    @property
    def prefill_s(self) -> float:
        """Time to prefill the whole context."""
        return self.prefill_to(len(self.context.ids))

    def bandwidth_bps(self, transfer_share: float) -> float:
        """The rate at which the 8-bit cache takes that share of a full prefill."""
        return 8 * self.eight_bit_bytes / (transfer_share * self.prefill_s)

    def run(self, method: str, rate: Rate, deadline_s: float = math.inf, **options: Any) -> Timeline:
        """Stream the context with a method of a fixed form: text, 8 bits, or a codec's default level."""
        if method == "text":
            name = next(iter(self.offers))
            return simulate(self.offers[name], TextOnly(), rate, self.costs[name], deadline_s, **options)
        return simulate(self.offers[method], Fixed(), rate, self.costs[method], deadline_s, **options)


def codecs_of(run: Run, engine: Engine, sample: Sequence[Context]) -> dict[str, Codec]:
    """The run's CacheGen forms, profiled."""
    rng = for_component(0, "cachegen sensitivity")
    names = [name for name in run.methods if name in FORMS]
    if not names:
        raise ConfigError(f"experiment {run.experiment!r} needs at least one of the methods {', '.join(FORMS)}.")
    return {name: Codec(profile_model(engine, sample, FORMS[name], rng)) for name in names}


def set_up(
    engine: Engine, context: Context, codecs: dict[str, Codec], chunk_tokens: int, repeats: int, points: int = 3
) -> Setup:
    """Encode a context in every form and level, and time what the receiver does with it."""
    chunks = cut(context.kv, chunk_tokens)
    counts = [chunk.num_tokens for chunk in chunks]
    texts = [
        len(pack_ids(context.ids[start : start + chunk_tokens])) for start in range(0, len(context.ids), chunk_tokens)
    ]
    eight_bit = Uniform(8)
    coded: dict[str, list[list[bytes]]] = {
        name: [[codec.encode(chunk, level) for level in range(len(codec.levels))] for chunk in chunks]
        for name, codec in codecs.items()
    }
    coded[EIGHT_BIT] = [[eight_bit.encode(chunk)] for chunk in chunks]
    lengths = sorted({max(1, round(len(context.ids) * (i + 1) / points)) for i in range(points)})
    runs: dict[str, Any] = {
        f"prefill|{length}": functools.partial(engine.prefill, context.ids[:length]) for length in lengths
    }
    question = context.question or context.ids[-16:]
    runs["suffix|"] = functools.partial(engine.logits_after, context.kv, question, 1)
    for name, of_chunk in coded.items():
        decode = eight_bit.decode if name == EIGHT_BIT else codecs[name].decode
        for level, data in enumerate(of_chunk[0]):
            runs[f"{name}|{level}"] = functools.partial(decode, data)
    timings = measure_interleaved(runs, warmup=1, repeats=repeats, device=str(engine.loaded.device))
    rising = np.maximum.accumulate([timings[f"prefill|{length}"].median_s for length in lengths])
    prefill_to = Curve(tuple(map(float, lengths)), tuple(map(float, rising)))
    suffix_s = timings["suffix|"].median_s
    costs, offers = {}, {}
    for name, of_chunk in coded.items():
        curves = tuple(
            Curve((float(counts[0]),), (timings[f"{name}|{level}"].median_s,)) for level in range(len(of_chunk[0]))
        )
        costs[name] = Costs(prefill_to, curves, suffix_s)
        offers[name] = offers_of([[len(data) for data in levels] for levels in of_chunk], texts, counts, costs[name])
    total = sum(offer.level_bytes[0] for offer in offers[EIGHT_BIT])
    return Setup(context, codecs, costs, offers, prefill_to, suffix_s, total)


def timeline_rows(timeline: Timeline, method: str, factors: dict[str, Any], suffix_s: float) -> list[Row]:
    """ttft and its parts (s)."""
    return [
        Row("ttft", timeline.ttft_s, "s", "simulated", method, factors),
        Row("network_time", timeline.network_s, "s", "simulated", method, factors),
        Row("after_network_time", timeline.ttft_s - suffix_s - timeline.network_s, "s", "simulated", method, factors),
    ]


def _random_setups(run: Run, num_tokens: int, chunk_tokens: int, repeats: int) -> Iterator[tuple[str, Engine, Setup]]:
    """One set-up of random tokens per item: for speed, which depends on lengths alone."""
    engine = engine_for(run)
    codecs: dict[str, Codec] = {}
    for key, _ in run.todo([(f"{index:03d}", None) for index in range(run.num_items)]):
        rng = run.rng("speed", key)
        if not codecs:
            sample_rng = run.rng("profile")
            codecs = codecs_of(run, engine, [random_context(engine, sample_rng, num_tokens) for _ in range(3)])
        context = random_context(engine, rng, num_tokens)
        yield key, engine, set_up(engine, context, codecs, chunk_tokens, repeats)


@EXPERIMENTS.add("ttft_vs_bandwidth")
@dataclasses.dataclass(frozen=True)
class TtftVsBandwidth:
    """Time to first token against bandwidth (CacheGen, Fig. 11).

    Attributes:
        transfer_shares: 8-bit transfer time over prefill time, from a slow link to a fast one.
        num_tokens, chunk_tokens: of the context.
        repeats: timed rounds.
    """

    transfer_shares: tuple[float, ...] = (65.0, 20.0, 6.5, 2.0, 0.65, 0.2, 0.065, 0.02, 0.0065)
    num_tokens: int = 1500
    chunk_tokens: int = 300
    repeats: int = 5

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item and method: ttft, network_time, after_network_time; factors `transfer_share`, `bandwidth_mbps`."""
        for key, _, setup in _random_setups(run, self.num_tokens, self.chunk_tokens, self.repeats):
            rows = [
                Row("prefill_time", setup.prefill_s, "s", "measured"),
                Row("suffix_time", setup.suffix_s, "s", "measured"),
            ]
            for share in self.transfer_shares:
                bps = setup.bandwidth_bps(share)
                factors = {"transfer_share": share}
                rows.append(Row("bandwidth", bps, "bit/s", "measured", factors=factors))
                for method in ("text", EIGHT_BIT, *setup.codecs):
                    timeline = setup.run(method, ConstantRate(bps))
                    rows += timeline_rows(timeline, method, factors, setup.suffix_s)
            yield ItemRows(key, rows)


@EXPERIMENTS.add("ttft_vs_length")
@dataclasses.dataclass(frozen=True)
class TtftVsLength:
    """Time to first token against context length, with the paper's choice between text and KV (CacheGen, Fig. 12).

    Attributes:
        lengths: tokens.
        transfer_share: of the longest context; the bandwidth is the same for all lengths.
        repeats: timed rounds.
    """

    lengths: tuple[int, ...] = (50, 100, 200, 400, 800, 1500)
    transfer_share: float = TRANSFER_SHARE
    repeats: int = 5

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item, method and length: ttft; factor `context_tokens`."""
        longest = max(self.lengths)
        for key, engine, setup in _random_setups(run, longest, longest, self.repeats):
            bps = setup.bandwidth_bps(self.transfer_share)
            rows = []
            for length in self.lengths:
                ids = setup.context.ids
                part = Context(ids[:length], setup.context.kv.slice(0, length), (), setup.context.question)
                short = set_up(engine, part, setup.codecs, length, self.repeats)
                for method in ("text", EIGHT_BIT, *short.codecs):
                    timeline = short.run(method, ConstantRate(bps))
                    rows += timeline_rows(timeline, method, {"context_tokens": length}, short.suffix_s)
            yield ItemRows(key, rows)


@EXPERIMENTS.add("ttft_vs_concurrency")
@dataclasses.dataclass(frozen=True)
class TtftVsConcurrency:
    """Time to first token against the number of requests that share link and machine (CacheGen, Fig. 12).

    Attributes:
        requests: how many at once; chunks of the same index are batched.
        transfer_share, num_tokens, chunk_tokens, repeats: as `ttft_vs_bandwidth`.
    """

    requests: tuple[int, ...] = (1, 2, 4, 6, 8, 10)
    transfer_share: float = TRANSFER_SHARE
    num_tokens: int = 1000
    chunk_tokens: int = 250
    repeats: int = 5

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item, method and number of requests: ttft; factor `num_requests`."""
        for key, _, setup in _random_setups(run, self.num_tokens, self.chunk_tokens, self.repeats):
            rate = ConstantRate(setup.bandwidth_bps(self.transfer_share))
            rows = []
            for count in self.requests:
                for method in ("text", EIGHT_BIT, *setup.codecs):
                    timeline = setup.run(method, rate, concurrency=count)
                    rows.append(Row("ttft", timeline.ttft_s, "s", "simulated", method, {"num_requests": count}))
            yield ItemRows(key, rows)


def random_rate(rng: np.random.Generator, mean_bps: float, step_s: float, num_steps: int = 10) -> SteppedRate:
    """The paper's random traces: each step uniform between a thirtieth and 3.3 times the default (0.1 to 10 around 3 Gbit/s)."""
    rates = rng.uniform(mean_bps / 30, mean_bps * 10 / 3, num_steps)
    return SteppedRate(tuple(step_s * (i + 1) for i in range(num_steps)), tuple(float(rate) for rate in rates))


def recorded_rate(path: Path, mean_bps: float, speed: float) -> SteppedRate:
    """A recorded trace, scaled to a mean rate and run faster.

    Raises:
        ConfigError: the trace records no rate, or delivery opportunities (mahimahi), which cannot be scaled.
    """
    rate = read_trace(path).down
    if not isinstance(rate, SteppedRate):
        raise ConfigError(f"trace {path} holds no rates over time; use one of the formats seconds_mbps, gnettrack, ...")
    scale = mean_bps / rate.mean_bps
    return SteppedRate(tuple(end / speed for end in rate.ends_s), tuple(bps * scale for bps in rate.bps))


@EXPERIMENTS.add("slo_violations")
@dataclasses.dataclass(frozen=True)
class SloViolations:
    """Share of requests that miss their objective, and their quality, under random bandwidth (CacheGen, Fig. 13).

    Attributes:
        slo_shares: objectives, as shares of the time that the fp16 cache takes at the default bandwidth (0.5 s and 1 s of 3.3 s).
        traces_per_item: random traces for each context; all policies get the same.
        chunk_tokens: of the streamed chunks.
        transfer_share: sets the default bandwidth.
        repeats: timed rounds.
        trace_files: recorded traces (formats of `common.net.traces`) instead of random ones, in turn, each from a random place;
            their rates are scaled so that the mean is the default bandwidth.
        trace_speed: how much faster than recorded they run: a small model's requests are over in tenths of a second.
        has_hindsight: also the best plan that knows the trace (ours, Fig. E); needs few chunks.
        num_profile_contexts: sample contexts that profiles are made from.
    """

    slo_shares: tuple[float, ...] = (0.15, 0.3)
    traces_per_item: int = 4
    chunk_tokens: int = 150
    transfer_share: float = TRANSFER_SHARE
    repeats: int = 3
    trace_files: tuple[str, ...] = ()
    trace_speed: float = 20.0
    has_hindsight: bool = False
    num_profile_contexts: int = NUM_PROFILE_CONTEXTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "trace_files", tuple(self.trace_files))
        if self.traces_per_item < 1 or not self.trace_speed > 0:
            raise ConfigError(
                f"traces_per_item={self.traces_per_item} and trace_speed={self.trace_speed} must be positive."
            )
        for name in self.trace_files:  # a wrong file is refused before anything runs
            recorded_rate(Path(name), 1e6, 1.0)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item, method and policy: loading_time (s: until the whole cache is usable), is_violated, kl, quality; factors
        `policy`, `slo_share`, `trace`. DEVIATION: see `cachegen-3`."""
        for name in self.trace_files:
            run.note_input(Path(name).name, hashlib.sha256(Path(name).read_bytes()).hexdigest())
        engine = engine_for(run)
        codecs = codecs_of(run, engine, sample_contexts(run, engine, self.num_profile_contexts))
        for key, item in run.todo(items_of(run, "workload", run.num_items)):
            judge = Judge.of(engine, item)
            setup = set_up(engine, judge.context, codecs, self.chunk_tokens, self.repeats)
            yield ItemRows(key, self._of_item(run, key, judge, setup))

    def _of_item(self, run: Run, key: str, judge: Judge, setup: Setup) -> list[Row]:
        default_bps = setup.bandwidth_bps(self.transfer_share)
        fp16_s = 8 * setup.context.kv.num_bytes / default_bps
        step_s = self.transfer_share * setup.prefill_s / len(setup.offers[EIGHT_BIT])
        quality = functools.lru_cache(maxsize=None)(functools.partial(self._quality, judge, setup))
        rows = []
        for trace in range(self.traces_per_item):
            rng = run.rng("trace", key, trace)
            if self.trace_files:
                path = Path(self.trace_files[trace % len(self.trace_files)])
                rate, phase = recorded_rate(path, default_bps, self.trace_speed), float(rng.random())
            else:
                rate, phase = random_rate(rng, default_bps, step_s), 0.0
            for share in self.slo_shares:
                # DEVIATION cachegen-3: the objective is on loading the cache, without the question's own prefill, which in a
                # small model is a large part of the whole and the same for every method.
                deadline_s = share * fp16_s
                for method, offers in setup.offers.items():
                    policies: dict[str, Any] = {"fixed": Fixed()}
                    if method != EIGHT_BIT:
                        policies = {name: POLICIES.create(name) for name in ("adaptive", "careful", "fixed")}
                    for name, policy in policies.items():
                        costs = setup.costs[method]
                        timeline = simulate(offers, policy, rate, costs, deadline_s, prior_bps=default_bps, phase=phase)
                        factors = {"policy": name, "slo_share": share, "trace": trace}
                        rows += self._rows(timeline, method, deadline_s, factors, quality(method, timeline.levels))
                    if self.has_hindsight and method != EIGHT_BIT:
                        best, _ = self._hindsight(setup, method, rate, deadline_s, default_bps, phase)
                        factors = {"policy": "hindsight", "slo_share": share, "trace": trace}
                        rows += self._rows(best, method, deadline_s, factors, quality(method, best.levels))
        return rows

    def _hindsight(
        self, setup: Setup, method: str, rate: Rate, deadline_s: float, prior_bps: float, phase: float
    ) -> tuple[Timeline, tuple[int | None, ...]]:
        offers, costs = setup.offers[method], setup.costs[method]
        num_levels = len(offers[0].level_bytes)
        return best_in_hindsight(
            lambda policy: simulate(offers, policy, rate, costs, deadline_s, prior_bps=prior_bps, phase=phase),
            len(offers),
            num_levels,
            deadline_s + setup.suffix_s,
            lambda level: float(num_levels if level is None else level),
        )

    def _rows(
        self, timeline: Timeline, method: str, deadline_s: float, factors: dict[str, Any], quality: dict[str, float]
    ) -> list[Row]:
        rows = [
            Row("loading_time", timeline.kv_ready_s, "s", "simulated", method, factors),
            Row("is_violated", float(timeline.kv_ready_s > deadline_s), "1", "simulated", method, factors),
            Row(
                "text_share",
                sum(level is None for level in timeline.levels) / len(timeline.levels),
                "1",
                "simulated",
                method,
                factors,
            ),
        ]
        for name, value in quality.items():
            rows.append(Row(name, value, "nat" if name == "kl" else "1", "measured", method, factors))
        return rows

    def _quality(self, judge: Judge, setup: Setup, method: str, levels: tuple[int | None, ...]) -> dict[str, float]:
        """kl and quality of the cache that these decisions really give, text chunks prefilled behind decoded ones."""
        kv = assemble(judge.engine, setup, method, levels, self.chunk_tokens)
        return {row.metric: row.value for row in judge.rows(method, kv)}


def assemble(engine: Engine, setup: Setup, method: str, levels: Sequence[int | None], chunk_tokens: int) -> KVCache:
    """The cache that a streamed context has at the receiver."""
    parts: list[KVCache] = []
    for index, (chunk, level) in enumerate(zip(cut(setup.context.kv, chunk_tokens), levels, strict=True)):
        if level is None:
            start = index * chunk_tokens
            past = concatenate(parts) if parts else None
            parts = [engine.stored(engine.prefill(setup.context.ids[start : start + chunk.num_tokens], past))]
        elif method == EIGHT_BIT:
            parts.append(Uniform(8).decode(Uniform(8).encode(chunk)))
        else:
            codec = setup.codecs[method]
            parts.append(codec.decode(codec.encode(chunk, level)))
    return concatenate(parts)


@EXPERIMENTS.add("adaptation_example")
@dataclasses.dataclass(frozen=True)
class AdaptationExample:
    """The paper's worked example: bandwidth falls to a tenth at half the objective and comes back (CacheGen, Fig. 7).

    Sizes, times and the trace are the paper's (1 GB at the default level, 2, 0.2 and 1 Gbit/s, objective 4 s); number of chunks,
    other levels' sizes and recompute time are not published and set here.

    Attributes:
        num_chunks: equal chunks.
        level_shares: sizes of the levels, relative to the default, which is the last.
        recompute_s: prefill time of the whole context.
    """

    num_chunks: int = 80
    level_shares: tuple[float, ...] = (0.07, 0.3, 1.0)
    recompute_s: float = 8.0

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per policy and chunk: arrival (s) and level (-1: text), factor `chunk`; loading_time; all simulated."""
        for key, _ in run.todo([("example", None)]):
            rate = SteppedRate((2.0, 4.0, 1000.0), (2e9, 0.2e9, 1e9))
            chunk_bytes = 10**9 / self.num_chunks
            curves = (Curve((1.0,), (0.0,)),) * len(self.level_shares)
            costs = Costs(Curve((float(self.num_chunks),), (self.recompute_s,)), curves, 0.0)
            sizes = [round(share * chunk_bytes) for share in self.level_shares]
            offers = offers_of([sizes] * self.num_chunks, [1000] * self.num_chunks, [1] * self.num_chunks, costs)
            rows = []
            for name, policy in (("adaptive", Adaptive()), ("fixed", Fixed(-1))):
                timeline = simulate(offers, policy, rate, costs, 4.0, prior_bps=2e9)
                rows.append(Row("loading_time", timeline.kv_ready_s, "s", "simulated", "cachegen", {"policy": name}))
                for index, chunk in enumerate(timeline.chunks):
                    factors = {"policy": name, "chunk": index}
                    rows.append(Row("arrival", chunk.arrived_s, "s", "simulated", "cachegen", factors))
                    level = -1 if chunk.level is None else chunk.level
                    rows.append(Row("level", float(level), "1", "simulated", "cachegen", factors))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("real_link")
@dataclasses.dataclass(frozen=True)
class RealLink:
    """The same contexts over a real TCP connection with a rate limit, beside the simulator's prediction (ours).

    Attributes:
        transfer_shares: 8-bit transfer time over prefill time.
        num_tokens, chunk_tokens: of the context.
        repeats: timed rounds of the costs.
    """

    transfer_shares: tuple[float, ...] = (2.0, 0.65)
    num_tokens: int = 1200
    chunk_tokens: int = 300
    repeats: int = 3

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item: loading_time (s), measured and simulated; factors `policy`, `transfer_share`, `link` (real, simulated).
        real_over_simulated: their ratio."""
        for key, engine, setup in _random_setups(run, self.num_tokens, self.chunk_tokens, self.repeats):
            method = next(iter(setup.codecs))
            with tempfile.TemporaryDirectory() as folder:
                rows = self._of(engine, setup, method, Path(folder))
            yield ItemRows(key, rows)

    def _of(self, engine: Engine, setup: Setup, method: str, folder: Path) -> list[Row]:
        from cachegen.client import Client
        from cachegen.server import ShapedLink, StorageServer

        codec, costs = setup.codecs[method], setup.costs[method]
        store = Store(folder)
        manifest = store.store_kv(codec, setup.context.ids, setup.context.kv, self.chunk_tokens)
        rows = []
        for share in self.transfer_shares:
            bps = setup.bandwidth_bps(share)
            for name, policy in (("fixed", Fixed()), ("adaptive", Adaptive())):
                deadline_s = 0.3 * 8 * setup.context.kv.num_bytes / bps
                expected = simulate(setup.offers[method], policy, ConstantRate(bps), costs, deadline_s, prior_bps=bps)
                link = ShapedLink(ConstantRate(bps), time.monotonic, time.sleep)
                with (
                    StorageServer.listen(store, link) as server,
                    Client(*server.address, clock=time.monotonic) as client,
                ):
                    fetched = client.fetch(
                        manifest,
                        codec,
                        policy,
                        costs,
                        lambda ids, past: engine.stored(engine.prefill(ids, past)),
                        deadline_s,
                        prior_bps=bps,
                    )
                factors = {"policy": name, "transfer_share": share}
                rows += [
                    Row("loading_time", fetched.ready_s, "s", "measured", method, {**factors, "link": "real"}),
                    Row(
                        "loading_time", expected.kv_ready_s, "s", "simulated", method, {**factors, "link": "simulated"}
                    ),
                    Row("real_over_simulated", fetched.ready_s / expected.kv_ready_s, "1", "measured", method, factors),
                ]
        return rows
