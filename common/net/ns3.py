"""Driver 2: ns-3's own UDP and TCP, over the same Link. Optional; see ns3_bridge/ and its NOTICE.

ns-3's clock ticks in nanoseconds, so times agree with the event loop's to that, not exactly.
"""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from common.errors import ConfigError
from common.net.driver import Socket, TcpOptions, check_node
from common.net.link import Link
from common.net.ns3_bridge import build

_CONGESTION = {"cubic": "ns3::TcpCubic", "newreno": "ns3::TcpNewReno", "bbr": "ns3::TcpBbr"}


@functools.cache
def bridge(cache_dir: Path = build.DEFAULT_CACHE) -> ModuleType:
    """The loaded bridge, built on first use.

    Raises:
        Ns3Unavailable: it cannot be had on this machine; the message says what is missing.
    """
    return build.load(cache_dir)


class Ns3Network:
    """Two nodes and a link in ns-3: a `Network`. One per process at a time; close it.

    Args:
        link: carries the packets of both directions; see `PointToPoint` for ns-3's own link.
        on_packet: called for each packet offered, with (to_node, time, IP bytes, arrival time or None).
    """

    def __init__(
        self,
        link: "Link | PointToPoint",
        on_packet: Callable[[int, float, int, float | None], None] | None = None,
    ) -> None:
        self._bridge = bridge()
        self._options: TcpOptions | None = None
        self.link = link
        # ns-3 gives up a connection after 6 lost SYNs; a failed run must not be mistaken for a short one.
        self._bridge.set_default("ns3::TcpSocket::ConnCount", "60")
        self._bridge.set_default("ns3::TcpSocket::DataRetries", "1000")
        self._bridge.set_default("ns3::TcpSocket::TcpNoDelay", "true")
        if isinstance(link, PointToPoint):
            self._world = self._bridge.World(link.bps, link.delay_s, link.queue_packets, sorted(link.lost))
        elif on_packet is None:
            self._world = self._bridge.World(link.transmit)
        else:
            report = on_packet

            def carry(to_node: int, now: float, ip_bytes: int) -> float | None:
                arrival_s = link.transmit(to_node, now, ip_bytes)
                report(to_node, now, ip_bytes, arrival_s)
                return arrival_s

            self._world = self._bridge.World(carry)

    @property
    def ns3_version(self) -> str:
        """Release of ns-3, e.g. "3.44": its TCP differs a little between releases."""
        return str(self._bridge.ns3_version)

    def now(self) -> float:
        """See `Network.now`."""
        return float(self._world.now())

    def at(self, when_s: float, action: Callable[[], None]) -> None:
        """See `Network.at`."""
        self._world.at(when_s, action)

    def udp(self, node: int, port: int, on_datagram: Callable[[bytes], None]) -> Socket:
        """See `Network.udp`."""
        return _Ns3Socket(self._world.udp(check_node(node), port, on_datagram))

    def tcp_listen(self, node: int, port: int, on_bytes: Callable[[bytes], None], options: TcpOptions) -> None:
        """See `Network.tcp_listen`. All streams of a network have the same options."""
        self._use(options)
        self._world.tcp_listen(check_node(node), port, on_bytes)

    def tcp_connect(self, node: int, port: int, on_bytes: Callable[[bytes], None], options: TcpOptions) -> Socket:
        """See `Network.tcp_connect`. All streams of a network have the same options."""
        self._use(options)
        return _Ns3Socket(self._world.tcp_connect(check_node(node), port, on_bytes))

    def _use(self, options: TcpOptions) -> None:
        if self._options not in (None, options):
            raise ConfigError(f"the TCP streams of one ns-3 network share their options; {options} != {self._options}.")
        if options.congestion not in _CONGESTION:
            raise ConfigError(f"ns-3 has no congestion={options.congestion!r}. Choose {', '.join(_CONGESTION)}.")
        self._options = options
        values = {
            "ns3::TcpSocketBase::MinRto": f"{options.min_rto_s}s",
            "ns3::TcpSocket::DelAckTimeout": f"{options.delayed_ack_s}s",
            "ns3::TcpSocket::SegmentSize": str(options.segment_bytes),
            "ns3::TcpL4Protocol::SocketType": _CONGESTION[options.congestion],
        }
        for attribute, value in values.items():
            self._bridge.set_default(attribute, value)

    def stop(self) -> None:
        """See `Network.stop`."""
        self._world.stop()

    def run(self, until_s: float) -> None:
        """See `Network.run`. After an exception the network is closed."""
        self._world.run(until_s)

    def write_pcap(self, prefix: Path) -> None:
        """Write what each node's device sees to `<prefix>-<node>-<device>.pcap`."""
        self._world.pcap(str(prefix))

    def close(self) -> None:
        """See `Network.close`."""
        self._world.close()

    def __enter__(self) -> "Ns3Network":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class PointToPoint:
    """ns-3's own link, for comparison with ours. Its PPP header makes each packet 2 bytes longer.

    Args:
        bps: rate of both directions; delay_s: one-way delay; queue_packets: drop-tail queue of each device.
        lost: numbers of the packets towards node 1 that are lost, counted as they arrive.
    """

    def __init__(self, bps: float, delay_s: float, queue_packets: int, lost: Iterable[int] = ()) -> None:
        self.bps, self.delay_s, self.queue_packets, self.lost = bps, delay_s, queue_packets, frozenset(lost)


class _Ns3Socket:
    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint

    def send(self, data: bytes) -> None:
        sent = self._endpoint.send(data)
        if sent != len(data):
            raise ConfigError(f"ns-3 took {sent} of {len(data)} bytes: its send buffer of 128 KiB is full.")
