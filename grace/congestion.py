"""Congestion control: GCC as in draft-ietf-rmcat-gcc-02, and Salsify's.

A controller is told what was sent and which packets arrived when, and says how many bytes the next frame may take. It reads no
clock.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

from common.errors import ConfigError

LEAST_BPS, MOST_BPS = 30e3, 20e6


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A packet of which the sender knows what became of it.

    Attributes:
        sent_s, arrival_s: by the sender's and the receiver's clock; arrival None: lost.
        num_bytes: on the wire.
    """

    sent_s: float
    arrival_s: float | None
    num_bytes: int


class Controller(Protocol):
    """How fast to send."""

    def target_bytes(self, now: float, frame_s: float, in_flight_packets: int) -> float:
        """Bytes on the wire that the frame of the next `frame_s` seconds may take."""
        ...

    def on_feedback(self, now: float, arrivals: Sequence[Arrival]) -> None:
        """Take note of packets in the order in which they were sent."""
        ...


class Gcc:
    """Google congestion control: the lower of a delay-based and a loss-based rate.

    Delay part: packets sent within 5 ms form a group; the trend of the accumulated delay variation of the last 20 groups against
    an adaptive threshold says overuse (rate to 0.85 of what arrives), underuse (hold) or normal (multiplicative increase of 8 %
    a second; near the rate of the last decrease additive, half a packet a response time and at least 1000 bit/s a report, as the
    draft says in its section 5.5). Loss part: every second, above 10 % loss p the rate is cut by p / 2,
    below 2 % it grows by 5 %.

    Args:
        first_bps: rate at the start.
        uses_loss: False leaves the loss part out, for schemes that tolerate losses.
    """

    _GROUP_S = 0.005
    _WINDOW = 20
    _GAIN = 4.0
    _SMOOTHING = 0.9
    _OVERUSE_S = 0.01
    _K_UP, _K_DOWN = 0.01, 0.00018
    _BETA = 0.85

    def __init__(self, first_bps: float = 300e3, uses_loss: bool = True) -> None:
        if not LEAST_BPS <= first_bps <= MOST_BPS:
            raise ConfigError(f"first_bps={first_bps} must lie in [{LEAST_BPS:g}, {MOST_BPS:g}].")
        self.delay_bps = self.loss_bps = first_bps
        self._uses_loss = uses_loss
        self._group: list[tuple[float, float]] | None = None
        self._before: tuple[float, float] | None = None
        self._accumulated = self._smoothed = 0.0
        self._trend: collections.deque[tuple[float, float]] = collections.deque(maxlen=self._WINDOW)
        self._num_deltas = 0
        self.threshold_ms = 12.5
        self._overuse_since: float | None = None
        self._last_modified_trend = 0.0
        self._last_arrival: float | None = None
        self._received: collections.deque[tuple[float, int]] = collections.deque()
        self._last_update: float | None = None
        self._converged_bps: float | None = None
        self._rtt_s = 0.2
        self._losses = [0, 0]
        self._loss_since: float | None = None
        self.state = "normal"

    @property
    def target_bps(self) -> float:
        """The rate to send at."""
        rate = min(self.delay_bps, self.loss_bps) if self._uses_loss else self.delay_bps
        return min(max(rate, LEAST_BPS), MOST_BPS)

    def target_bytes(self, now: float, frame_s: float, in_flight_packets: int) -> float:
        """See `Controller`."""
        return self.target_bps * frame_s / 8

    def on_feedback(self, now: float, arrivals: Sequence[Arrival]) -> None:
        """See `Controller`."""
        for arrival in arrivals:
            self._losses[1] += 1
            if arrival.arrival_s is None:
                self._losses[0] += 1
                continue
            self._received.append((arrival.arrival_s, arrival.num_bytes))
            self._rtt_s = max(0.0, now - arrival.sent_s)
            self._add(arrival.sent_s, arrival.arrival_s)
        newest = self._received[-1][0] if self._received else now
        while self._received and self._received[0][0] < newest - 0.5:
            self._received.popleft()
        self._update_delay(now)
        self._update_loss(now)

    def received_bps(self) -> float:
        """Rate at which packets arrived over the last half second."""
        if len(self._received) < 2:
            return self.target_bps
        span = max(self._received[-1][0] - self._received[0][0], 0.05)
        return sum(size for _, size in list(self._received)[1:]) * 8 / span

    def _add(self, sent_s: float, arrival_s: float) -> None:
        if self._group is None:
            self._group = [(sent_s, arrival_s)]
            return
        if sent_s - self._group[0][0] <= self._GROUP_S:
            self._group.append((sent_s, arrival_s))
            return
        ended = self._group[-1][0], max(arrival for _, arrival in self._group)
        self._group = [(sent_s, arrival_s)]
        if self._before is not None:
            variation_ms = 1000 * ((ended[1] - self._before[1]) - (ended[0] - self._before[0]))
            self._accumulated += variation_ms
            self._smoothed = self._SMOOTHING * self._smoothed + (1 - self._SMOOTHING) * self._accumulated
            self._trend.append((1000 * ended[1], self._smoothed))
            self._num_deltas += 1
            self._detect(ended[1])
        self._before = ended

    def _detect(self, arrival_s: float) -> None:
        if len(self._trend) < 4:
            return
        modified = min(self._num_deltas, 60) * _slope(self._trend) * self._GAIN
        elapsed_ms = min(100.0, 1000 * (arrival_s - (self._last_arrival or arrival_s)))
        self._last_arrival = arrival_s
        if modified > self.threshold_ms:
            self._overuse_since = arrival_s if self._overuse_since is None else self._overuse_since
            is_long = arrival_s - self._overuse_since > self._OVERUSE_S
            if is_long and modified >= self._last_modified_trend:
                self.state = "overuse"
        else:
            self._overuse_since = None
            self.state = "underuse" if modified < -self.threshold_ms else "normal"
        self._last_modified_trend = modified
        if abs(modified) < self.threshold_ms + 15:  # a spike must not open the threshold
            k = self._K_UP if abs(modified) > self.threshold_ms else self._K_DOWN
            self.threshold_ms += elapsed_ms * k * (abs(modified) - self.threshold_ms)
            self.threshold_ms = min(max(self.threshold_ms, 6.0), 600.0)

    def _update_delay(self, now: float) -> None:
        elapsed = min(1.0, now - self._last_update) if self._last_update is not None else 0.0
        self._last_update = now
        arriving = self.received_bps()
        if self.state == "overuse":
            self.delay_bps = min(self.delay_bps, self._BETA * arriving)
            self._converged_bps = arriving
            self.state = "hold"
            self._overuse_since = None
        elif self.state == "normal":
            near = self._converged_bps is not None and abs(arriving - self._converged_bps) < 0.15 * self._converged_bps
            grown = self.delay_bps * 1.08**elapsed
            if near:
                frame_bits = self.delay_bps / 30
                packet_bits = frame_bits / math.ceil(frame_bits / (1200 * 8))
                share = 0.5 * min(1.0, elapsed / (0.1 + self._rtt_s))
                grown = self.delay_bps + max(1000.0, share * packet_bits)
            # No growth beyond half as much again as what arrives: an idle sender learns nothing about the network. A sender whose
            # frames fell short is not cut for it.
            self.delay_bps = min(grown, max(self.delay_bps, 1.5 * arriving + 10e3))
        self.delay_bps = min(max(self.delay_bps, LEAST_BPS), MOST_BPS)

    def _update_loss(self, now: float) -> None:
        self._loss_since = now if self._loss_since is None else self._loss_since
        if now - self._loss_since < 1.0 or not self._losses[1]:
            return
        share = self._losses[0] / self._losses[1]
        base = min(self.loss_bps, self.delay_bps) if share > 0.1 else self.loss_bps
        if share > 0.1:
            self.loss_bps = base * (1 - 0.5 * share)
        elif share < 0.02:
            self.loss_bps = min(base * 1.05, 2 * self.delay_bps)
        self.loss_bps = min(max(self.loss_bps, LEAST_BPS), MOST_BPS)
        self._losses, self._loss_since = [0, 0], now


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    above = sum((x - mean_x) * (y - mean_y) for x, y in points)
    below = sum((x - mean_x) ** 2 for x, _ in points)
    return above / below if below > 0 else 0.0


class SalsifyControl:
    """Salsify's: the next frame may have d / tau - (packets in flight) packets, so that the queue drains within d.

    tau is a moving average of the gaps between arrivals, in which the pauses between frames do not count.

    Args:
        delay_s: d, the delay aimed at in the queue.
        packet_bytes: of a packet on the wire, before any was seen.
    """

    _ALPHA = 0.1

    def __init__(self, delay_s: float = 0.1, packet_bytes: float = 600.0, first_bps: float = 300e3) -> None:
        self._delay_s = delay_s
        self._packet_bytes = packet_bytes
        self._gap_s = packet_bytes * 8 / first_bps
        self._last: Arrival | None = None

    def target_bytes(self, now: float, frame_s: float, in_flight_packets: int) -> float:
        """See `Controller`."""
        # What is on its way for propagation alone is not in the queue: the gap model of the paper counts all, so do we.
        packets = max(0.0, self._delay_s / self._gap_s - in_flight_packets)
        return max(LEAST_BPS * frame_s / 8, packets * self._packet_bytes)

    def on_feedback(self, now: float, arrivals: Sequence[Arrival]) -> None:
        """See `Controller`."""
        for arrival in arrivals:
            if arrival.arrival_s is None:
                continue
            self._packet_bytes = 0.9 * self._packet_bytes + 0.1 * arrival.num_bytes
            before, self._last = self._last, arrival
            if before is None or before.arrival_s is None:
                continue
            # Only back-to-back packets tell the link's pace; a pause of the sender is taken off.
            gap = arrival.arrival_s - before.arrival_s - max(0.0, arrival.sent_s - before.sent_s)
            paced = arrival.arrival_s - before.arrival_s
            sample = paced if arrival.sent_s - before.sent_s < 0.005 else max(gap, 0.0)
            if sample > 1e-5 and math.isfinite(sample):
                self._gap_s = (1 - self._ALPHA) * self._gap_s + self._ALPHA * sample


CONTROLLERS = ("gcc", "gcc_delay_only", "salsify")


def make_controller(name: str, first_bps: float, packet_bytes: float) -> Controller:
    """A fresh controller by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name == "gcc":
        return Gcc(first_bps)
    if name == "gcc_delay_only":
        return Gcc(first_bps, uses_loss=False)
    if name == "salsify":
        return SalsifyControl(packet_bytes=packet_bytes, first_bps=first_bps)
    raise ConfigError(f"controller {name!r} is not known. Choose one of {', '.join(CONTROLLERS)}.")
