"""Requests that arrive at random and wait for one server: time to first token against the request rate (CacheBlend, Fig. 14).

    popularity -> queries (sets of chunks) -> requests -> memory and disk tiers (LRU) -> hit pattern -> service time -> queue

Arrivals, the tiers' contents and the waiting are simulated. Service times are not: the caller measures one for every hit
pattern that occurs. What is hit depends on the order of the requests alone, not on their rate, so the patterns are determined
first, then measured, and then queued at any rate. All methods see the same queries in the same order with the same gaps.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from common.errors import ConfigError

Reuse = Literal["chunks", "prefix", "none"]


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Where a request's chunks were found.

    Attributes:
        memory, disk, missed: numbers of chunks. With prefix caching only the first chunk counts.
    """

    memory: int = 0
    disk: int = 0
    missed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Load:
    """A sequence of requests, without a rate.

    Attributes:
        chunks_RK: chunk ids of each request, distinct within a request, int64.
        gaps_R: time between a request and the one before it, in units of the mean gap; exponential.
        num_warmup: leading requests that fill the tiers and are not counted. They do not queue.
    """

    chunks_RK: np.ndarray
    gaps_R: np.ndarray
    num_warmup: int = 0


def draw_load(
    rng: np.random.Generator,
    num_requests: int,
    *,
    corpus_chunks: int = 1000,
    chunks_per_request: int = 6,
    num_queries: int = 1500,
    zipf: float = 1.0,
    num_warmup: int = 0,
) -> Load:
    """Poisson arrivals of queries over a corpus whose chunks are retrieved with Zipf popularity.

    Args:
        rng: randomness.
        num_requests: counted requests; `num_warmup` more come before them.
        corpus_chunks: chunks in the corpus; chunk c is drawn with weight (c + 1) ** -zipf.
        chunks_per_request: distinct chunks that a query retrieves.
        num_queries: distinct queries; each request draws one of them, all equally likely.
        zipf: exponent; 0 for equally popular chunks.

    Raises:
        ConfigError: counts below 1, or fewer chunks in the corpus than in a request.
    """
    if min(num_requests, chunks_per_request, num_queries) < 1 or num_warmup < 0 or zipf < 0:
        raise ConfigError(
            f"num_requests={num_requests}, chunks_per_request={chunks_per_request} and num_queries={num_queries} must be at "
            f"least 1, num_warmup={num_warmup} and zipf={zipf} at least 0."
        )
    if corpus_chunks < chunks_per_request:
        raise ConfigError(f"a request of {chunks_per_request} chunks needs a corpus of as many, not {corpus_chunks}.")
    weight = (1.0 + np.arange(corpus_chunks)) ** -zipf
    # The k largest of log-weight + Gumbel noise are a draw without replacement with these weights.
    noise_QC = rng.gumbel(size=(num_queries, corpus_chunks))
    queries_QK = np.argsort(-(np.log(weight) + noise_QC), axis=1)[:, :chunks_per_request]
    total = num_warmup + num_requests
    return Load(queries_QK[rng.integers(num_queries, size=total)], rng.exponential(size=total), num_warmup)


class SimulatedTiers:
    """The hits of a `TieredStore` with room for so many equal chunks, without any data.

    A missing chunk is put into both tiers; one found on disk is copied into memory.

    Args:
        memory_chunks, disk_chunks: room of each tier.
    """

    def __init__(self, memory_chunks: int, disk_chunks: int) -> None:
        if min(memory_chunks, disk_chunks) < 0:
            raise ConfigError(f"memory_chunks={memory_chunks} and disk_chunks={disk_chunks} must be >= 0.")
        self._room = {"memory": memory_chunks, "disk": disk_chunks}
        self._held: dict[str, collections.OrderedDict[int, None]] = {
            "memory": collections.OrderedDict(),
            "disk": collections.OrderedDict(),
        }

    def use(self, chunk: int) -> str:
        """Where a chunk is found ("memory", "disk", "missed"); it is the most recently used afterwards."""
        if chunk in self._held["memory"]:
            self._held["memory"].move_to_end(chunk)
            return "memory"
        if chunk in self._held["disk"]:
            self._held["disk"].move_to_end(chunk)
            self._insert("memory", chunk)
            return "disk"
        self._insert("disk", chunk)
        self._insert("memory", chunk)
        return "missed"

    def _insert(self, tier: str, chunk: int) -> None:
        held = self._held[tier]
        held[chunk] = None
        while len(held) > self._room[tier]:
            held.popitem(last=False)


def hit_patterns(load: Load, tiers: SimulatedTiers, reuse: Reuse) -> list[Pattern]:
    """The pattern of every counted request.

    Args:
        load: the requests.
        tiers: empty tiers; they are filled.
        reuse: "chunks": every chunk may be found; "prefix": only the first can; "none": nothing is looked up or kept.

    Raises:
        ConfigError: another kind of reuse.
    """
    if reuse not in ("chunks", "prefix", "none"):
        raise ConfigError(f"reuse={reuse!r} is not one of chunks, prefix, none.")
    patterns = []
    for index, chunks in enumerate(load.chunks_RK.tolist()):
        looked_up = {"chunks": chunks, "prefix": chunks[:1], "none": []}[reuse]
        found = collections.Counter(tiers.use(chunk) for chunk in looked_up)
        if index >= load.num_warmup:
            patterns.append(Pattern(found["memory"], found["disk"], found["missed"]))
    return patterns


def arrivals_s(load: Load, rate_rps: float) -> np.ndarray:
    """Arrival times of the counted requests at a mean rate."""
    if not rate_rps > 0:
        raise ConfigError(f"request rate {rate_rps} must be > 0 per second.")
    times_s: np.ndarray = np.cumsum(load.gaps_R[load.num_warmup :]) / rate_rps
    return times_s


def queue_ttft_s(
    arrival_s: np.ndarray,
    prefill_s: Sequence[float] | np.ndarray,
    decode_s: float = 0.0,
    batch: int = 1,
    decode_batch_s: Callable[[int], float] | None = None,
) -> np.ndarray:
    """Time to first token of every request, waiting included: one server, first come first served.

    Whenever it is free, the server takes up to `batch` of the waiting requests, prefills them one after another (each has its
    first token when its own prefill ends) and then decodes them.

    Args:
        arrival_s: increasing.
        prefill_s: of each request.
        decode_s: time for which decoding one request occupies the server.
        batch: most requests taken at once.
        decode_batch_s: time to decode so many requests together; default: one after another.

    Raises:
        ConfigError: not one prefill time per request, or a batch below 1.
    """
    if len(arrival_s) != len(prefill_s) or batch < 1:
        raise ConfigError(f"{len(prefill_s)} prefill times for {len(arrival_s)} arrivals, or batch={batch} below 1.")
    decode = decode_batch_s or (lambda count: count * decode_s)
    ttft_s = np.empty(len(arrival_s))
    now_s, index = 0.0, 0
    while index < len(arrival_s):
        now_s = max(now_s, float(arrival_s[index]))
        taken = 0
        started_s = now_s
        while taken < batch and index < len(arrival_s) and arrival_s[index] <= started_s:
            now_s += float(prefill_s[index])
            ttft_s[index] = now_s - arrival_s[index]
            index += 1
            taken += 1
        now_s += decode(taken)
    return ttft_s


@dataclasses.dataclass(frozen=True)
class Service:
    """What one method costs under a load.

    Attributes:
        prefill_s: time to first token of each counted request on an idle server, as measured for its pattern.
        decode_s: time for which decoding occupies the server afterwards.
    """

    prefill_s: tuple[float, ...]
    decode_s: float = 0.0

    @property
    def idle_ttft_s(self) -> float:
        """Mean time to first token without any waiting."""
        return float(np.mean(self.prefill_s))


def capacity_rps(
    load: Load, service: Service, factor: float = 2.0, batch: int = 1, limit_s: float | None = None
) -> float:
    """The largest request rate at which the mean time to first token is at most `factor` times the idle one.

    With `limit_s` the limit is that time instead; pass the same one to compare methods at the same time to first token.

    The paper reads the knee off its curves; this is our definition of it. Found by bisection to 0.1 %, on the same gaps for
    every rate, so that the mean grows with the rate.

    Returns:
        The rate in requests per second; 0 if even an idle server is slower than `limit_s`.

    Raises:
        ConfigError: a factor of 1 or less.
    """
    if not factor > 1:
        raise ConfigError(f"factor={factor} must be > 1: nothing waits less than on an idle server.")
    limit_s = factor * service.idle_ttft_s if limit_s is None else limit_s
    if limit_s <= service.idle_ttft_s:
        return 0.0

    def is_within(rate_rps: float) -> bool:
        ttft_s = queue_ttft_s(arrivals_s(load, rate_rps), service.prefill_s, service.decode_s, batch)
        return bool(ttft_s.mean() <= limit_s)

    low = high = 1 / (service.idle_ttft_s + service.decode_s)
    while is_within(high) and high < 1e3 * low:  # so few requests that even all at once wait little
        high *= 2
    while not is_within(low) and low > 1e-9 * high:
        low /= 2
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if is_within(middle) else (low, middle)
    return low
