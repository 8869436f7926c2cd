"""The link between two nodes: per direction a drop-tail queue, a transmitter, random loss and a propagation delay.

    arrival --> [queue, at most `queue_packets` waiting] --> transmitter (rate) --> loss --> delay --> other node

Nothing here knows sockets or drivers. The same `Link` carries the packets of the event loop, of ns-3 and of real sockets.
"""

import collections
import dataclasses

import numpy as np

from common.errors import ConfigError
from common.net.loss import LossModel, NoLoss
from common.net.rate import ConstantRate, Rate

SERVER, CLIENT = 0, 1
DOWN, UP = CLIENT, SERVER  # a direction is named by the node that it leads to


_LAST_MILE = ConstantRate(10e6)
_LOSSLESS = NoLoss()


@dataclasses.dataclass(frozen=True)
class Direction:
    """One direction of a link.

    Attributes:
        rate: how fast packets leave.
        delay_s: one-way propagation delay, >= 0.
        queue_packets: how many packets may wait behind the one in transmission, >= 1; more are dropped on arrival.
        loss: which packets are lost on the way, judged at the time at which their transmission ends.
    """

    rate: Rate = _LAST_MILE
    delay_s: float = 0.05
    queue_packets: int = 1000
    loss: LossModel = _LOSSLESS

    def __post_init__(self) -> None:
        if self.delay_s < 0 or self.queue_packets < 1:
            raise ConfigError(
                f"delay {self.delay_s} s, queue of {self.queue_packets} packets: need >= 0 s and >= 1 packet."
            )


_PLAIN = Direction()


@dataclasses.dataclass(frozen=True)
class LinkSpec:
    """A link, described. `build` makes one realisation; the same spec always makes the same one.

    Attributes:
        down: from node 0 (server) to node 1 (client).
        up: from node 1 to node 0.
        seed: seed of both directions' loss, >= 0.
        phase: where recorded traces begin, as a share of their length, in [0, 1).
    """

    down: Direction = _PLAIN
    up: Direction = _PLAIN
    seed: int = 0
    phase: float = 0.0

    def __post_init__(self) -> None:
        if self.seed < 0 or not 0 <= self.phase < 1:
            raise ConfigError(f"seed={self.seed}, phase={self.phase}: need seed >= 0 and 0 <= phase < 1.")

    @property
    def rtt_s(self) -> float:
        """Round-trip propagation delay."""
        return self.down.delay_s + self.up.delay_s

    def build(self) -> "Link":
        """A fresh link."""
        return Link(self)


@dataclasses.dataclass
class Counters:
    """What happened to the packets of one direction: offered = dropped + lost + passed, in packets; bytes are IP bytes."""

    offered: int = 0
    dropped: int = 0
    lost: int = 0
    passed: int = 0
    offered_bytes: int = 0
    passed_bytes: int = 0


class _DirectionState:
    def __init__(self, spec: Direction, rng: np.random.Generator, phase: float) -> None:
        self.spec = spec
        self.counters = Counters()
        self._server = spec.rate.start(phase)
        self._loss = spec.loss.start(rng)
        self._starts_s: collections.deque[float] = collections.deque()  # when each waiting packet leaves the queue

    def transmit(self, now: float, ip_bytes: int) -> float | None:
        counters, starts = self.counters, self._starts_s
        counters.offered += 1
        counters.offered_bytes += ip_bytes
        while starts and starts[0] <= now:
            starts.popleft()
        if len(starts) >= self.spec.queue_packets:
            counters.dropped += 1
            return None
        start_s, end_s = self._server.serve(now, ip_bytes)
        if start_s > now:
            starts.append(start_s)
        if self._loss.is_lost(end_s):
            counters.lost += 1
            return None
        counters.passed += 1
        counters.passed_bytes += ip_bytes
        return end_s + self.spec.delay_s


class Link:
    """One realisation of a LinkSpec. Ask it once per packet, in the order of time.

    Attributes:
        spec: its description.
        counters: what happened so far, by direction: `counters[DOWN]`, `counters[UP]`.
    """

    def __init__(self, spec: LinkSpec) -> None:
        self.spec = spec
        up_rng, down_rng = (np.random.default_rng([spec.seed, direction]) for direction in (UP, DOWN))
        self._directions = (
            _DirectionState(spec.up, up_rng, spec.phase),
            _DirectionState(spec.down, down_rng, spec.phase),
        )
        self.counters = tuple(state.counters for state in self._directions)

    def transmit(self, to_node: int, now: float, ip_bytes: int) -> float | None:
        """Offer a packet to the direction that leads to `to_node`.

        Args:
            to_node: DOWN (1) or UP (0).
            now: time in s; must not decrease within a direction.
            ip_bytes: size with IP and transport headers.

        Returns:
            When it arrives at the other node (s), or None if the queue dropped it or the network lost it.
        """
        return self._directions[to_node].transmit(now, ip_bytes)
