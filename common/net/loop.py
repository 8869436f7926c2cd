"""Driver 1: a discrete-event loop in virtual time. Runs anywhere, and is the reference for the other drivers."""

import heapq
import itertools
from collections.abc import Callable

from common.errors import ConfigError
from common.net.driver import IP_UDP_HEADER_BYTES, Socket, TcpOptions, check_node
from common.net.link import Link
from common.net.tcp_model import TcpEndpoint


class EventLoop:
    """Calls actions in the order of their times; actions of one time in the order in which they were scheduled."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._now = 0.0
        self._is_stopped = False

    def now(self) -> float:
        """Virtual time in s."""
        return self._now

    def at(self, when_s: float, action: Callable[[], None]) -> None:
        """Schedule an action; a time in the past means now."""
        heapq.heappush(self._queue, (max(when_s, self._now), next(self._numbers), action))

    def stop(self) -> None:
        """Make `run` return after the current action."""
        self._is_stopped = True

    def run(self, until_s: float) -> None:
        """Call everything that is due up to and including `until_s`. What an action raises ends the run."""
        self._is_stopped = False
        queue = self._queue
        while queue and queue[0][0] <= until_s and not self._is_stopped:
            self._now, _, action = heapq.heappop(queue)
            action()
        if not self._is_stopped:
            self._now = max(self._now, until_s)


class LoopNetwork(EventLoop):
    """Two nodes and a link in the event loop: a `Network`.

    Args:
        link: carries the packets of both directions.
        on_packet: called for each packet offered, with (to_node, time, IP bytes, arrival time or None).
    """

    def __init__(self, link: Link, on_packet: Callable[[int, float, int, float | None], None] | None = None) -> None:
        super().__init__()
        self.link = link
        self._on_packet = on_packet
        self._udp: dict[tuple[int, int], Callable[[bytes], None]] = {}
        self._tcp: dict[int, dict[int, TcpEndpoint]] = {}

    def carry(self, to_node: int, ip_bytes: int, on_arrival: Callable[[], None]) -> None:
        """Offer one packet to the link and schedule its arrival."""
        arrival_s = self.link.transmit(to_node, self._now, ip_bytes)
        if self._on_packet is not None:
            self._on_packet(to_node, self._now, ip_bytes, arrival_s)
        if arrival_s is not None:
            self.at(arrival_s, on_arrival)

    def udp(self, node: int, port: int, on_datagram: Callable[[bytes], None]) -> Socket:
        """See `Network.udp`."""
        check_node(node)
        if (node, port) in self._udp:
            raise ConfigError(f"UDP port {port} of node {node} is taken.")
        self._udp[node, port] = on_datagram
        return _UdpSocket(self, node, port)

    def deliver(self, node: int, port: int, data: bytes) -> None:
        """Hand an arrived datagram to its socket; without one it is discarded."""
        receive = self._udp.get((node, port))
        if receive is not None:
            receive(data)

    def tcp_listen(self, node: int, port: int, on_bytes: Callable[[bytes], None], options: TcpOptions) -> None:
        """See `Network.tcp_listen`. The TCP is the model of tcp_model.py."""
        self._endpoint(node, port, on_bytes, options)

    def tcp_connect(self, node: int, port: int, on_bytes: Callable[[bytes], None], options: TcpOptions) -> Socket:
        """See `Network.tcp_connect`. The TCP is the model of tcp_model.py."""
        endpoint = self._endpoint(node, port, on_bytes, options)
        endpoint.connect()
        return endpoint

    def _endpoint(self, node: int, port: int, on_bytes: Callable[[bytes], None], options: TcpOptions) -> TcpEndpoint:
        check_node(node)
        ends = self._tcp.setdefault(port, {})
        if node in ends:
            raise ConfigError(f"TCP port {port} of node {node} is taken.")

        def transmit(segment: object, ip_bytes: int) -> None:
            def arrive() -> None:
                if 1 - node in ends:
                    ends[1 - node].on_segment(segment)  # type: ignore[arg-type]

            self.carry(1 - node, ip_bytes, arrive)

        ends[node] = TcpEndpoint(self, transmit, on_bytes, options)
        return ends[node]

    def close(self) -> None:
        """See `Network.close`."""
        self._queue.clear()
        self._udp.clear()
        self._tcp.clear()


class _UdpSocket:
    def __init__(self, network: LoopNetwork, node: int, port: int) -> None:
        self._network, self._node, self._port = network, node, port

    def send(self, data: bytes) -> None:
        network, to_node, port = self._network, 1 - self._node, self._port
        network.carry(to_node, len(data) + IP_UDP_HEADER_BYTES, lambda: network.deliver(to_node, port, data))
