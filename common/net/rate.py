"""How fast a link forwards packets: a constant rate, a rate that changes with time, or mahimahi's delivery opportunities."""

import bisect
import dataclasses
import itertools
import math
from typing import Protocol

from common.errors import ConfigError


class Server(Protocol):
    """The state of one direction's transmitter: serves packets one after another, first come first served."""

    def serve(self, arrival_s: float, ip_bytes: int) -> tuple[float, float]:
        """Serve the next packet: when its transmission starts and ends (s). Arrivals must not decrease."""
        ...


class Rate(Protocol):
    """A description of a link's rate."""

    def start(self, phase: float = 0.0) -> Server:
        """A fresh transmitter; `phase` in [0, 1) is where in a recorded trace the run begins."""
        ...

    @property
    def mean_bps(self) -> float:
        """Mean rate in bit/s."""
        ...


@dataclasses.dataclass(frozen=True)
class ConstantRate:
    """`bps` bit/s at any time."""

    bps: float

    def __post_init__(self) -> None:
        if not self.bps > 0:
            raise ConfigError(
                f"a rate of {self.bps} bit/s: must be > 0. For an outage use a loss model or a rate trace."
            )

    @property
    def mean_bps(self) -> float:
        return self.bps

    def start(self, phase: float = 0.0) -> Server:
        return _ConstantServer(self.bps)


class _ConstantServer:
    def __init__(self, bps: float) -> None:
        self._bps, self._free_s = bps, 0.0

    def serve(self, arrival_s: float, ip_bytes: int) -> tuple[float, float]:
        start_s = max(arrival_s, self._free_s)
        self._free_s = start_s + ip_bytes * 8 / self._bps
        return start_s, self._free_s


@dataclasses.dataclass(frozen=True)
class SteppedRate:
    """A rate that changes in steps and repeats after its last one. Rates may be 0: packets then wait (a *holding* outage).

    Attributes:
        ends_s: strictly increasing; rate i holds from ends_s[i-1] (0 for the first) to ends_s[i].
        bps: rates in bit/s, >= 0, not all 0; as many.
    """

    ends_s: tuple[float, ...]
    bps: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.ends_s or len(self.ends_s) != len(self.bps):
            raise ConfigError(f"a rate trace with {len(self.ends_s)} times and {len(self.bps)} rates.")
        if self.ends_s[0] <= 0 or any(b <= a for a, b in itertools.pairwise(self.ends_s)):
            raise ConfigError("times of a rate trace must be > 0 and increase.")
        if min(self.bps) < 0 or max(self.bps) <= 0 or not math.isfinite(max(self.bps)):
            raise ConfigError("rates of a trace must be finite and >= 0, and not all 0.")

    @property
    def duration_s(self) -> float:
        """Length of one repetition."""
        return self.ends_s[-1]

    @property
    def mean_bps(self) -> float:
        starts = (0.0, *self.ends_s[:-1])
        return sum(r * (b - a) for a, b, r in zip(starts, self.ends_s, self.bps, strict=True)) / self.duration_s

    def start(self, phase: float = 0.0) -> Server:
        return _SteppedServer(self, phase)


class _SteppedServer:
    def __init__(self, trace: SteppedRate, phase: float) -> None:
        starts = (0.0, *trace.ends_s[:-1])
        self._times = [0.0, *trace.ends_s]
        self._bps = trace.bps
        sizes = [r * (b - a) for a, b, r in zip(starts, trace.ends_s, trace.bps, strict=True)]
        self._bits = [0.0, *itertools.accumulate(sizes)]  # bits forwarded since the start of a repetition
        self._offset_s = phase * trace.duration_s
        self._free_s = 0.0

    def _bits_until(self, when_s: float) -> float:
        laps, inside = divmod(when_s, self._times[-1])
        place = min(bisect.bisect_right(self._times, inside) - 1, len(self._bps) - 1)
        return laps * self._bits[-1] + self._bits[place] + self._bps[place] * (inside - self._times[place])

    def _time_of(self, bits: float) -> float:
        """The first time at which `bits` have been forwarded."""
        laps, inside = divmod(bits, self._bits[-1])
        if inside == 0 and laps > 0:  # the end of a lap, not the start of the next: there may be an outage in between
            laps, inside = laps - 1, self._bits[-1]
        place = max(bisect.bisect_left(self._bits, inside) - 1, 0)
        return laps * self._times[-1] + self._times[place] + (inside - self._bits[place]) / self._bps[place]

    def serve(self, arrival_s: float, ip_bytes: int) -> tuple[float, float]:
        start_s = max(arrival_s, self._free_s)
        done_bits = self._bits_until(start_s + self._offset_s) + ip_bytes * 8
        self._free_s = max(start_s, self._time_of(done_bits) - self._offset_s)
        return start_s, self._free_s


@dataclasses.dataclass(frozen=True)
class DeliveryTrace:
    """Mahimahi's packet-delivery opportunities: at each of these times up to 1500 bytes leave the queue.

    An opportunity that finds the queue empty is lost; small packets share one, a packet may span several. Repeats.

    Attributes:
        opportunities_ms: non-decreasing integers >= 0, the last > 0, which is also the length of one repetition.
    """

    opportunities_ms: tuple[int, ...]

    OPPORTUNITY_BYTES = 1500

    def __post_init__(self) -> None:
        times = self.opportunities_ms
        if not times or times[0] < 0 or times[-1] <= 0 or any(b < a for a, b in itertools.pairwise(times)):
            raise ConfigError("a delivery trace needs non-decreasing times >= 0 ms, of which the last is > 0.")

    @property
    def duration_s(self) -> float:
        """Length of one repetition."""
        return self.opportunities_ms[-1] / 1000

    @property
    def mean_bps(self) -> float:
        return len(self.opportunities_ms) * self.OPPORTUNITY_BYTES * 8 / self.duration_s

    def start(self, phase: float = 0.0) -> Server:
        return _DeliveryServer(self, phase)


class _DeliveryServer:
    def __init__(self, trace: DeliveryTrace, phase: float) -> None:
        self._times = trace.opportunities_ms
        self._offset_ms = int(phase * trace.opportunities_ms[-1])
        self._place = bisect.bisect_left(self._times, self._offset_ms)
        self._left = DeliveryTrace.OPPORTUNITY_BYTES

    def _time_s(self, place: int) -> float:
        laps, inside = divmod(place, len(self._times))
        return (laps * self._times[-1] + self._times[inside] - self._offset_ms) / 1000

    def serve(self, arrival_s: float, ip_bytes: int) -> tuple[float, float]:
        if self._time_s(self._place) < arrival_s:
            laps, inside_ms = divmod(arrival_s * 1000 + self._offset_ms, self._times[-1])
            self._place = int(laps) * len(self._times) + bisect.bisect_left(self._times, inside_ms)
            # The end of a lap is the start of the next, and products of floats round: look at the neighbours.
            while self._place > 0 and self._time_s(self._place - 1) >= arrival_s:
                self._place -= 1
            while self._time_s(self._place) < arrival_s:
                self._place += 1
            self._left = DeliveryTrace.OPPORTUNITY_BYTES
        elif self._left == 0:
            self._next()
        start_s = self._time_s(self._place)
        needed = ip_bytes
        while needed > self._left:
            needed -= self._left
            self._next()
        self._left -= needed
        return start_s, self._time_s(self._place)

    def _next(self) -> None:
        self._place += 1
        self._left = DeliveryTrace.OPPORTUNITY_BYTES
