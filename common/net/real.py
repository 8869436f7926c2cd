"""Driver 3a: real UDP sockets on the loopback interface, in real time, with a Link in between, all in one process.

A `Network`: the same protocol code runs here as in the simulators. Each datagram leaves through a socket of its node, arrives at
a relay that asks the link what becomes of it, waits, and is sent on to the other node's socket. For real kernel TCP see
namespaces.py: a relay of datagrams cannot carry it.
"""

import heapq
import itertools
import selectors
import socket
import time
from collections.abc import Callable

from common.errors import ConfigError
from common.net.driver import IP_UDP_HEADER_BYTES, Socket, TcpOptions, check_node
from common.net.link import Link

MAX_DATAGRAM_BYTES = 65_535


class RealNetwork:
    """Two nodes and a link over loopback sockets; close it.

    Args:
        link: asked about each datagram, with real time.
        clock: seconds that never go back.
    """

    def __init__(self, link: Link, clock: Callable[[], float] = time.monotonic) -> None:
        self.link = link
        self._clock = clock
        self._start_s: float | None = None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        self._ports: dict[tuple[int, int], _Port] = {}
        self._is_stopped = False

    def now(self) -> float:
        """See `Network.now`; 0 until `run` is called for the first time."""
        return 0.0 if self._start_s is None else self._clock() - self._start_s

    def at(self, when_s: float, action: Callable[[], None]) -> None:
        """See `Network.at`."""
        heapq.heappush(self._queue, (when_s, next(self._numbers), action))

    def udp(self, node: int, port: int, on_datagram: Callable[[bytes], None]) -> Socket:
        """See `Network.udp`. `port` is a name: the kernel chooses the real one."""
        check_node(node)
        if (node, port) in self._ports:
            raise ConfigError(f"UDP port {port} of node {node} is taken.")
        made = _Port(self, node, port, on_datagram)
        self._ports[node, port] = made
        return made

    def tcp_listen(self, node: int, port: int, on_bytes: Callable[[bytes], None], options: TcpOptions) -> None:
        """Not possible here.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("real TCP needs a link below IP: use common.net.namespaces, or network=ns3.")

    def tcp_connect(self, node: int, port: int, on_bytes: Callable[[bytes], None], options: TcpOptions) -> Socket:
        """Not possible here; see `tcp_listen`."""
        raise ConfigError("real TCP needs a link below IP: use common.net.namespaces, or network=ns3.")

    def open_socket(self, on_readable: Callable[[socket.socket], None]) -> socket.socket:
        """A loopback socket that this network watches and closes."""
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.bind(("127.0.0.1", 0))
        self._sockets.append(made)
        self._selector.register(made, selectors.EVENT_READ, on_readable)
        return made

    def relay(self, to_node: int, port: int, datagram: bytes, send: Callable[[bytes, tuple[str, int]], object]) -> None:
        """Give a datagram to the link and, if it survives, send it on when it is due."""
        arrival_s = self.link.transmit(to_node, self.now(), len(datagram) + IP_UDP_HEADER_BYTES)
        target = self._ports.get((to_node, port))
        if arrival_s is not None and target is not None:
            address = target.address

            def deliver() -> None:
                send(datagram, address)

            self.at(arrival_s, deliver)

    def stop(self) -> None:
        """See `Network.stop`."""
        self._is_stopped = True

    def run(self, until_s: float) -> None:
        """See `Network.run`; takes as long as it says, unless it is stopped."""
        if self._start_s is None:
            self._start_s = self._clock()
        self._is_stopped = False
        while not self._is_stopped and self.now() < until_s:
            while self._queue and self._queue[0][0] <= self.now() and not self._is_stopped:
                heapq.heappop(self._queue)[2]()
            if self._is_stopped:
                break
            due_s = min(self._queue[0][0] if self._queue else until_s, until_s)
            for key, _ in self._selector.select(max(0.0, due_s - self.now())):
                key.data(key.fileobj)
                if self._is_stopped:
                    break

    def close(self) -> None:
        """See `Network.close`."""
        for made in self._sockets:
            self._selector.unregister(made)
            made.close()
        self._sockets.clear()
        self._selector.close()
        self._queue.clear()
        self._ports.clear()

    def __enter__(self) -> "RealNetwork":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Port:
    """A node's socket and the relay's socket that it talks to."""

    def __init__(self, network: RealNetwork, node: int, port: int, on_datagram: Callable[[bytes], None]) -> None:
        self._network, self._node, self._port, self._on_datagram = network, node, port, on_datagram
        self._own = network.open_socket(self._receive)
        self._relay = network.open_socket(self._take)
        self.address: tuple[str, int] = self._own.getsockname()
        self._relay_address: tuple[str, int] = self._relay.getsockname()

    def send(self, data: bytes) -> None:
        self._own.sendto(data, self._relay_address)

    def _receive(self, own: socket.socket) -> None:
        for data in _all_of(own):
            self._on_datagram(data)

    def _take(self, relay: socket.socket) -> None:
        for data in _all_of(relay):
            self._network.relay(1 - self._node, self._port, data, relay.sendto)


def _all_of(source: socket.socket) -> list[bytes]:
    found = []
    for _ in range(64):  # then let timers have their turn
        try:
            found.append(source.recv(MAX_DATAGRAM_BYTES))
        except BlockingIOError:
            break
    return found
