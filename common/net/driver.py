"""What a driver offers, whichever it is: two nodes, a clock, timers, datagram sockets and byte streams.

Protocol code written against `Network` runs unchanged in the event loop, in ns-3 and over real sockets.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

from common.errors import ConfigError

IP_UDP_HEADER_BYTES = 28
IP_TCP_HEADER_BYTES = 52  # IPv4 20 + TCP 20 + timestamps 12, as ns-3 and Linux send by default


@dataclasses.dataclass(frozen=True)
class TcpOptions:
    """The knobs of TCP that decide how long a reader waits after a loss. The defaults are ns-3's.

    Attributes:
        min_rto_s: lower bound of the retransmission timeout. ns-3: 1 s; Linux: 0.2 s.
        delayed_ack_s: longest delay of an acknowledgement. ns-3: 0.2 s; Linux: 0.04 s.
        segment_bytes: maximum segment size.
        congestion: congestion control. ns-3: "cubic" or "newreno"; kernel: any that is loaded; model: "newreno".
    """

    min_rto_s: float = 1.0
    delayed_ack_s: float = 0.2
    segment_bytes: int = 536
    congestion: str = "cubic"

    def __post_init__(self) -> None:
        if self.min_rto_s <= 0 or self.delayed_ack_s < 0 or self.segment_bytes < 1:
            raise ConfigError(f"{self}: need min_rto_s > 0, delayed_ack_s >= 0 and segment_bytes >= 1.")


LINUX_TIMERS = TcpOptions(min_rto_s=0.2, delayed_ack_s=0.04)


class Socket(Protocol):
    """The sending side of a datagram socket or of a byte stream."""

    def send(self, data: bytes) -> None:
        """Send one datagram, or write bytes to the stream. Streams do not coalesce writes that could go out at once."""
        ...


class Network(Protocol):
    """Two nodes joined by a link."""

    def now(self) -> float:
        """Time in s since the network was made."""
        ...

    def at(self, when_s: float, action: Callable[[], None]) -> None:
        """Call `action` at a time, or at once if it is past. What it raises, `run` raises."""
        ...

    def udp(self, node: int, port: int, on_datagram: Callable[[bytes], None]) -> Socket:
        """A datagram socket on `node`, connected to the same port of the other node."""
        ...

    def tcp_listen(self, node: int, port: int, on_bytes: Callable[[bytes], None], options: TcpOptions) -> None:
        """Accept one stream on `node`."""
        ...

    def tcp_connect(self, node: int, port: int, on_bytes: Callable[[bytes], None], options: TcpOptions) -> Socket:
        """Open a stream from `node` to the listener on the other node; bytes written before it is open wait."""
        ...

    def stop(self) -> None:
        """Make `run` return after the current callback."""
        ...

    def run(self, until_s: float) -> None:
        """Let things happen until a time, until `stop`, or until nothing is left to happen."""
        ...

    def close(self) -> None:
        """Release sockets and memory. A network cannot be used afterwards."""
        ...


def check_node(node: int) -> int:
    """`node`, if it is one of the two.

    Raises:
        ConfigError: it is not.
    """
    if node not in (0, 1):
        raise ConfigError(f"node {node} does not exist; a network has node 0 (server) and node 1 (client).")
    return node
