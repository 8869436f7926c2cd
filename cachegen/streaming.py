"""Streaming a context under a deadline, in virtual time: three resources, each doing one thing at a time.

    link      chunk 0 | chunk 1 | chunk 2 | ...          a chunk is chosen when the one before it has arrived
    decoder             decode 0 | decode 1 | ...        KV chunks, as they arrive
    model                           prefill t | suffix   text chunks, once everything before them is there

Nothing here reads a clock: times of decoding and prefilling come in as measured tables, the link is a `common.net.rate.Rate`.
"""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from cachegen.api import ChunkOffer, Decision, StreamPolicy, StreamState
from common.errors import ConfigError
from common.net.rate import Rate


@dataclasses.dataclass(frozen=True)
class Curve:
    """A measured dependence of time on a number, interpolated linearly, continued with the last slope; 0 at 0.

    Attributes:
        at: strictly increasing, > 0.
        seconds: as many, >= 0.
    """

    at: tuple[float, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.at or len(self.at) != len(self.seconds) or self.at[0] <= 0:
            raise ConfigError(f"a curve needs as many times as places > 0, not {self.seconds} at {self.at}.")
        if any(b <= a for a, b in itertools.pairwise(self.at)) or min(self.seconds) < 0:
            raise ConfigError("places of a curve must increase, and times be >= 0.")

    def __call__(self, x: float) -> float:
        """Seconds at x >= 0."""
        places, values = (0.0, *self.at), (0.0, *self.seconds)
        right = min(max(1, bisect.bisect_left(places, x)), len(places) - 1)
        a, b = places[right - 1], places[right]
        slope = (values[right] - values[right - 1]) / (b - a)
        return max(0.0, values[right - 1] + slope * (x - a))


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the receiving machine takes, from measurements on it.

    Attributes:
        prefill_to: time to prefill the first n tokens from nothing; prefilling m tokens behind p takes the difference.
        decode: by level: time to decode n tokens.
        suffix_s: time to prefill the question behind the whole context, up to the first token's scores.
    """

    prefill_to: Curve
    decode: tuple[Curve, ...]
    suffix_s: float

    def prefill_s(self, num_tokens: int, past_tokens: int) -> float:
        """Time to prefill tokens behind others."""
        return max(0.0, self.prefill_to(past_tokens + num_tokens) - self.prefill_to(past_tokens))


@dataclasses.dataclass(frozen=True)
class ChunkLog:
    """What happened to one chunk; times in s since the request.

    Attributes:
        level: None for text.
        num_bytes: sent, for all concurrent requests together.
        asked_s, arrived_s: when it was chosen and when its last byte came.
        ready_s: when its KV was usable: decoded or prefilled.
        throughput_bps: what the transfer showed.
    """

    level: int | None
    num_bytes: int
    asked_s: float
    arrived_s: float
    ready_s: float
    throughput_bps: float


@dataclasses.dataclass(frozen=True)
class Timeline:
    """One request's course.

    Attributes:
        chunks: in order.
        ttft_s: from the request to the first token's scores.
        kv_ready_s: when the last chunk was usable: what the deadline is about.
    """

    chunks: tuple[ChunkLog, ...]
    ttft_s: float
    kv_ready_s: float

    @property
    def levels(self) -> tuple[int | None, ...]:
        return tuple(chunk.level for chunk in self.chunks)

    @property
    def network_s(self) -> float:
        """When the last byte arrived."""
        return self.chunks[-1].arrived_s

    @property
    def num_bytes(self) -> int:
        return sum(chunk.num_bytes for chunk in self.chunks)


def offers_of(
    level_bytes: Sequence[Sequence[int]], text_bytes: Sequence[int], num_tokens: Sequence[int], costs: Costs
) -> list[ChunkOffer]:
    """Offers of a context's chunks: per chunk its sizes by level, its size as text, its tokens."""
    starts = [0, *itertools.accumulate(num_tokens)]
    return [
        ChunkOffer(
            tuple(sizes),
            text,
            tokens,
            past,
            costs.prefill_s(tokens, past),
            tuple(curve(tokens) for curve in costs.decode),
        )
        for sizes, text, tokens, past in zip(level_bytes, text_bytes, num_tokens, starts[:-1], strict=True)
    ]


def simulate(
    offers: Sequence[ChunkOffer],
    policy: StreamPolicy,
    rate: Rate,
    costs: Costs,
    deadline_s: float = math.inf,
    *,
    prior_bps: float | None = None,
    concurrency: int = 1,
    rtt_s: float = 0.0,
    phase: float = 0.0,
) -> Timeline:
    """Stream one context, or the same chunk index of `concurrency` contexts at a time (CacheGen, adaptation and batching).

    Args:
        offers: the context's chunks.
        policy: chooses each chunk.
        rate: the link; a transfer of S bytes that starts at t0 ends when the rate has forwarded 8 S bits since.
        costs: of this machine; times of prefilling scale with `concurrency`, decoding too.
        deadline_s: what the policy is told.
        prior_bps: throughput known before the first chunk.
        rtt_s: half of it passes before the first byte can arrive; later requests are pipelined.
        phase: where in a recorded rate the request begins.

    Raises:
        ConfigError: no chunks, or a number is out of range.
    """
    if not offers or concurrency < 1 or rtt_s < 0 or not deadline_s > 0:
        raise ConfigError(
            f"{len(offers)} chunks, concurrency={concurrency}, rtt_s={rtt_s}, deadline_s={deadline_s}: out of range."
        )
    link = rate.start(phase)
    now_s, throughput_bps = rtt_s / 2, prior_bps
    decoder_free_s = model_free_s = ready_s = 0.0
    log: list[ChunkLog] = []
    for index, offer in enumerate(offers):
        # The policy gets the past only: the log so far is all that the link has shown.
        decision = policy.choose(offers[index:], StreamState(now_s, deadline_s, throughput_bps, concurrency))
        num_bytes = _bytes_of(offer, decision) * concurrency
        _, arrived_s = link.serve(now_s, num_bytes)
        throughput_bps = 8 * num_bytes / (arrived_s - now_s) if arrived_s > now_s else math.inf
        if decision.level is None:
            start_s = max(arrived_s, ready_s, model_free_s)
            own_ready_s = model_free_s = start_s + costs.prefill_s(offer.num_tokens, offer.past_tokens) * concurrency
        else:
            start_s = max(arrived_s, decoder_free_s)
            own_ready_s = decoder_free_s = start_s + costs.decode[decision.level](offer.num_tokens) * concurrency
        ready_s = max(ready_s, own_ready_s)
        log.append(ChunkLog(decision.level, num_bytes, now_s, arrived_s, own_ready_s, throughput_bps))
        now_s = arrived_s
    return Timeline(tuple(log), max(ready_s, model_free_s) + costs.suffix_s * concurrency, ready_s)


def _bytes_of(offer: ChunkOffer, decision: Decision) -> int:
    if decision.level is None:
        return offer.text_bytes
    if not 0 <= decision.level < len(offer.level_bytes):
        raise ConfigError(f"the policy chose level {decision.level} of {len(offer.level_bytes)}.")
    return offer.level_bytes[decision.level]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A policy that knows beforehand what it will do: for the best plan in hindsight.

    Attributes:
        levels: one per chunk, None for text.
    """

    levels: tuple[int | None, ...]

    def choose(self, remaining: Sequence[ChunkOffer], state: StreamState) -> Decision:
        """See `StreamPolicy.choose`."""
        return Decision(self.levels[len(self.levels) - len(remaining)])


def best_in_hindsight(
    run: Callable[[StreamPolicy], Timeline],
    num_chunks: int,
    num_levels: int,
    deadline_s: float,
    quality_of: Callable[[int | None], float],
    max_plans: int = 4096,
) -> tuple[Timeline, tuple[int | None, ...]]:
    """The plan of the highest mean quality that meets the deadline, knowing the link's future; the fastest if none does.

    Tries every plan, so it is for short contexts: (levels + 1)^chunks plans.

    Raises:
        ConfigError: more than `max_plans` plans.
    """
    choices: list[int | None] = [None, *range(num_levels)]
    if len(choices) ** num_chunks > max_plans:
        raise ConfigError(f"{len(choices)}^{num_chunks} plans are more than {max_plans}; use fewer chunks or levels.")
    best: tuple[tuple[bool, float, float], Timeline, tuple[int | None, ...]] | None = None
    for levels in itertools.product(choices, repeat=num_chunks):
        timeline = run(Plan(levels))
        is_met = timeline.ttft_s <= deadline_s
        quality = sum(quality_of(level) for level in levels) / num_chunks
        key = (is_met, quality if is_met else 0.0, -timeline.ttft_s)
        if best is None or key > best[0]:
            best = key, timeline, levels
    assert best is not None
    return best[1], best[2]
