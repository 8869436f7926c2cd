"""How much may be sent while nothing comes back (inferred: the paper says nothing known to us about congestion).

Plain Chatterbox has a positive feedback loop on slow links: unacknowledged tokens make packets larger, larger packets fill the
queue, queueing raises the round trip, and more tokens are unacknowledged. The budget breaks it: once more than `free_bytes` have
been sent since the last acknowledgement that made progress, packets are spaced so that no more is sent than was last delivered.
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

    def on_sent(self, now: float, payload_bytes: int) -> None:
        """A datagram was sent."""
        ...

    def on_ack(self, now: float, rx_bytes: int, made_progress: bool) -> None:
        """An ACK arrived, with the receiver's count of payload bytes (modulo 2**32)."""
        ...


class Unlimited:
    """`congestion=none`: the paper's scheme, as far as it is known."""

    def allowed_at(self, now: float) -> float:
        return now

    def on_sent(self, now: float, payload_bytes: int) -> None:
        pass

    def on_ack(self, now: float, rx_bytes: int, made_progress: bool) -> None:
        pass


@dataclasses.dataclass
class DeliveryBudget:
    """`congestion=budget`: what may be sent without feedback is bounded by what was last delivered.

    Attributes:
        free_bytes: IP bytes that may be sent after progress before the rate is limited.
        floor_bps: the limit never falls below this.
        window_s: how far back the delivery rate looks.
    """

    free_bytes: int = 3000
    floor_bps: float = 12_000.0
    window_s: float = 2.0
    _sent_bytes: int = 0
    _free_at_s: float = 0.0
    _rate_bps: float = 0.0
    _received: "collections.deque[tuple[float, int]]" = dataclasses.field(default_factory=collections.deque)
    _total: int = 0

    @property
    def limit_bps(self) -> float:
        """The rate that is kept once the free bytes are used up."""
        return max(self.floor_bps, self._rate_bps)

    def allowed_at(self, now: float) -> float:
        return now if self._sent_bytes <= self.free_bytes else self._free_at_s

    def on_sent(self, now: float, payload_bytes: int) -> None:
        ip_bytes = payload_bytes + IP_UDP_HEADER_BYTES
        self._sent_bytes += ip_bytes
        if self._sent_bytes > self.free_bytes:
            self._free_at_s = max(now, self._free_at_s) + ip_bytes * 8 / self.limit_bps

    def on_ack(self, now: float, rx_bytes: int, made_progress: bool) -> None:
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
        if made_progress:
            self._sent_bytes = 0


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
