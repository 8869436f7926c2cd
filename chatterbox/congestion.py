"""How much may be sent while nothing comes back (inferred: the paper says nothing known to us about congestion).

Plain Chatterbox has a positive feedback loop on slow links: unacknowledged tokens make packets larger, larger packets fill the
queue, queueing raises the round trip, and more tokens are unacknowledged. The budget breaks it: while more than `free_bytes` are
under way, that is, were sent after the newest packet that is known to have arrived, packets are spaced so that less is sent than
was last delivered. Tokens generated meanwhile share the next packet.
"""

import collections
import dataclasses
from typing import Protocol

from common.errors import ConfigError
from common.net.driver import IP_UDP_HEADER_BYTES


class Budget(Protocol):
    """When the next packet may leave."""

    def allowed_at(self, now: float) -> float:
        """The earliest time at which a packet may be sent; <= now if it may be sent at once."""
        ...

    def on_sent(self, now: float, packet: int, payload_bytes: int) -> None:
        """Datagram number `packet` was sent."""
        ...

    def on_ack(self, now: float, echo: int, rx_bytes: int) -> None:
        """An ACK arrived: caused by datagram `echo`, with the receiver's count of payload bytes (modulo 2**32)."""
        ...


class Unlimited:
    """`congestion=none`: the paper's scheme, as far as it is known."""

    def allowed_at(self, now: float) -> float:
        return now

    def on_sent(self, now: float, packet: int, payload_bytes: int) -> None:
        pass

    def on_ack(self, now: float, echo: int, rx_bytes: int) -> None:
        pass


# DEVIATION chatterbox-5: the paper says nothing known to us about congestion; `none` is its scheme, this is the fix.
@dataclasses.dataclass
class DeliveryBudget:
    """`congestion=budget`: what may be sent without feedback is bounded by what was last delivered.

    Attributes:
        free_bytes: IP bytes that may be under way before the rate is limited.
        floor_bps: the limit never falls below this.
        window_s: how far back the delivery rate looks.
        gain: the limit as a share of the delivery rate; below 1, so that a queue that has built up drains.
    """

    free_bytes: int = 3000
    floor_bps: float = 12_000.0
    window_s: float = 2.0
    gain: float = 0.8
    _under_way: "collections.deque[tuple[int, int]]" = dataclasses.field(default_factory=collections.deque)
    _under_way_bytes: int = 0
    _free_at_s: float = 0.0
    _rate_bps: float = 0.0
    _received: "collections.deque[tuple[float, int]]" = dataclasses.field(default_factory=collections.deque)
    _total: int = 0

    @property
    def limit_bps(self) -> float:
        """The rate that is kept while too much is under way."""
        return max(self.floor_bps, self.gain * self._rate_bps)

    @property
    def under_way_bytes(self) -> int:
        """IP bytes sent after the newest packet that is known to have arrived. Lost ones count until a later packet arrives."""
        return self._under_way_bytes

    def allowed_at(self, now: float) -> float:
        return now if self._under_way_bytes <= self.free_bytes else self._free_at_s

    def on_sent(self, now: float, packet: int, payload_bytes: int) -> None:
        ip_bytes = payload_bytes + IP_UDP_HEADER_BYTES
        self._under_way.append((packet, ip_bytes))
        self._under_way_bytes += ip_bytes
        self._free_at_s = now + ip_bytes * 8 / self.limit_bps

    def on_ack(self, now: float, echo: int, rx_bytes: int) -> None:
        while self._under_way and self._under_way[0][0] <= echo:
            self._under_way_bytes -= self._under_way.popleft()[1]
        step = (rx_bytes - self._total) % 2**32
        if step < 2**31:  # an ACK that was overtaken counts backwards
            self._total += step
        self._received.append((now, self._total))
        while self._received[0][0] < now - self.window_s:
            self._received.popleft()
        since_s, since_bytes = self._received[0]
        if now > since_s:
            # Over the whole window, or over what has passed of it once there is enough to divide by.
            self._rate_bps = (self._total - since_bytes) * 8 / max(now - since_s, self.window_s / 4)


def make_budget(name: str) -> Budget:
    """The budget called "none" or "budget".

    Raises:
        ConfigError: another name.
    """
    if name == "none":
        return Unlimited()
    if name == "budget":
        return DeliveryBudget()
    raise ConfigError(f"congestion={name!r} is not known. Choose none (the paper's scheme) or budget.")
