"""A call between two processes over UDP, through a lossy link in user space.

    process A: sender + link (rate, queue, loss, delay)  <--- UDP, loopback or a network --->  process B: receiver

The first frame and the stream's shape travel over TCP before the call. Both ends run the code of `grace.session`; `UdpNode` is
their network, with one real socket per port. What A sends waits in A for as long as the link says, or is dropped there; what B
sends back is delayed in A as well. No privileges are needed.
"""

import contextlib
import heapq
import itertools
import json
import selectors
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from common.errors import ConfigError, CorruptBitstream, DataUnavailable
from common.net.driver import IP_UDP_HEADER_BYTES, Socket, TcpOptions
from common.net.link import DOWN, UP, Link
from grace.api import Image, Scheme, StreamInfo
from grace.congestion import Controller
from grace.session import FEEDBACK_PORT, PORT, CodecTimes, ReceivingEnd, SendingEnd, SessionSettings

_LENGTH = struct.Struct("<II")
_MAX_DATAGRAM = 65_535
_MAX_START = 1 << 26
_NO_TIMES = CodecTimes(0.0, 0.0)
"""In real time encoding and decoding take what they take."""


class UdpNode:
    """One node of a `common.net.driver.Network` on real sockets, in real time; the other node is another process.

    Args:
        node: 0 (sender) or 1 (receiver).
        host: address to bind to.
        link: on node 0: what becomes of packets in both directions; None: they pass.
    """

    def __init__(self, node: int, host: str, link: Link | None = None) -> None:
        self.node, self._host, self._link = node, host, link
        self._start_s: float | None = None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._selector = selectors.DefaultSelector()
        self._sockets: dict[int, socket.socket] = {}
        self._peers: dict[int, tuple[str, int]] = {}
        self._is_stopped = False

    def ports(self) -> dict[int, int]:
        """The real UDP port of each port of the call."""
        return {port: found.getsockname()[1] for port, found in self._sockets.items()}

    def connect(self, host: str, ports: dict[int, int]) -> None:
        """Where the other node listens."""
        self._peers = {port: (host, real) for port, real in ports.items()}

    def now(self) -> float:
        """See `Network.now`; 0 until `run` is called for the first time."""
        return 0.0 if self._start_s is None else time.monotonic() - self._start_s

    def at(self, when_s: float, action: Callable[[], None]) -> None:
        """See `Network.at`."""
        heapq.heappush(self._queue, (when_s, next(self._numbers), action))

    def udp(self, node: int, port: int, on_datagram: Callable[[bytes], None]) -> Socket:
        """See `Network.udp`; only for this node.

        Raises:
            ConfigError: the other node, or a port that is taken.
        """
        if node != self.node or port in self._sockets:
            raise ConfigError(f"UDP port {port} of node {node} cannot be opened by node {self.node}, or is taken.")
        found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        found.bind((self._host, 0))
        found.setblocking(False)
        self._sockets[port] = found
        self._selector.register(found, selectors.EVENT_READ, on_datagram)
        return _Sending(self, port)

    def send(self, port: int, data: bytes) -> None:
        """Send a datagram to the other node's same port, through the link if there is one."""
        peer = self._peers.get(port)
        if peer is None:
            raise ConfigError("this node is not connected to another one yet.")
        found = self._sockets[port]
        if self._link is None:
            found.sendto(data, peer)
            return
        arrival_s = self._link.transmit(DOWN, self.now(), len(data) + IP_UDP_HEADER_BYTES)
        if arrival_s is not None:
            self.at(arrival_s, lambda: _send_quietly(found, data, peer))

    def _receive(self, found: socket.socket, on_datagram: Callable[[bytes], None]) -> None:
        while True:
            try:
                data = found.recv(_MAX_DATAGRAM)
            except (BlockingIOError, ConnectionRefusedError):
                return
            if self._link is None:
                on_datagram(data)
                continue
            arrival_s = self._link.transmit(UP, self.now(), len(data) + IP_UDP_HEADER_BYTES)
            if arrival_s is not None:
                self.at(arrival_s, lambda data=data: on_datagram(data))  # type: ignore[misc]

    def run(self, until_s: float) -> None:
        """See `Network.run`; takes as long as it says."""
        self._is_stopped = False
        if self._start_s is None:
            self._start_s = time.monotonic()
        while not self._is_stopped and (now := self.now()) < until_s:
            while self._queue and self._queue[0][0] <= now:
                heapq.heappop(self._queue)[2]()
            wait = min(until_s, self._queue[0][0] if self._queue else until_s) - self.now()
            for key, _ in self._selector.select(max(0.0, min(wait, 0.05))):
                self._receive(key.fileobj, key.data)  # type: ignore[arg-type]

    def stop(self) -> None:
        """See `Network.stop`."""
        self._is_stopped = True

    def tcp_listen(self, node: int, port: int, on_bytes: Callable[[bytes], None], options: TcpOptions) -> None:
        """Not possible here."""
        raise ConfigError("a call has no byte streams on this network.")

    def tcp_connect(self, node: int, port: int, on_bytes: Callable[[bytes], None], options: TcpOptions) -> Socket:
        """Not possible here."""
        raise ConfigError("a call has no byte streams on this network.")

    def close(self) -> None:
        """See `Network.close`."""
        self._selector.close()
        for found in self._sockets.values():
            found.close()


class _Sending:
    def __init__(self, node: UdpNode, port: int) -> None:
        self._node, self._port = node, port

    def send(self, data: bytes) -> None:
        self._node.send(self._port, data)


def _send_quietly(found: socket.socket, data: bytes, peer: tuple[str, int]) -> None:
    with contextlib.suppress(
        ConnectionRefusedError
    ):  # the other process is gone: to a sender of datagrams that is a loss
        found.sendto(data, peer)


def _write_block(stream: socket.socket, head: dict[str, Any], body: bytes) -> None:
    text = json.dumps(head).encode()
    stream.sendall(_LENGTH.pack(len(text), len(body)) + text + body)


def _read_exactly(stream: socket.socket, num: int) -> bytes:
    parts = bytearray()
    while len(parts) < num:
        part = stream.recv(num - len(parts))
        if not part:
            raise CorruptBitstream(f"the other end closed after {len(parts)} of {num} bytes.")
        parts += part
    return bytes(parts)


def _read_block(stream: socket.socket) -> tuple[dict[str, Any], bytes]:
    num_text, num_body = _LENGTH.unpack(_read_exactly(stream, _LENGTH.size))
    if max(num_text, num_body) > _MAX_START:
        raise CorruptBitstream("the other end is no GRACE call: its greeting is too long.")
    try:
        head = json.loads(_read_exactly(stream, num_text))
    except ValueError as error:
        raise CorruptBitstream("the other end is no GRACE call: its greeting cannot be read.") from error
    return head, _read_exactly(stream, num_body)


def send_call(
    scheme: Scheme,
    frames: np.ndarray,
    info: StreamInfo,
    controller: Controller,
    num_frames: int,
    link: Link | None,
    host: str = "127.0.0.1",
    port: int = 0,
    on_listening: Callable[[int], None] = lambda port: None,
    timeout_s: float = 120.0,
    drain_s: float = 1.0,
) -> dict[int, float]:
    """Wait for a receiver, then send a call.

    Args:
        on_listening: called with the TCP port on which a receiver is awaited.

    Returns:
        When each frame was taken, by `time.monotonic`, which all processes of a machine share.

    Raises:
        DataUnavailable: nobody came in time.
    """
    sender = scheme.sender(info)
    start = sender.start(frames[0])
    settings = SessionSettings(num_frames, _NO_TIMES, drain_s)
    node = UdpNode(0, host, link)
    try:
        end = SendingEnd(node, sender, frames, info, controller, settings)
        with socket.create_server((host, port)) as server:
            server.settimeout(timeout_s)
            on_listening(server.getsockname()[1])
            try:
                stream, address = server.accept()
            except TimeoutError as error:
                raise DataUnavailable(
                    f"no receiver came within {timeout_s:g} s; start python -m grace receive."
                ) from error
            with stream:
                stream.settimeout(timeout_s)
                greeting, _ = _read_block(stream)
                node.connect(address[0], {int(key): int(value) for key, value in greeting["ports"].items()})
                shape = {"height": info.height, "width": info.width, "fps": info.fps}
                shape |= {"payload_bytes": info.payload_bytes, "min_packets": info.min_packets}
                _write_block(stream, {"stream": shape, "num_frames": num_frames, "ports": node.ports()}, start)
                _read_block(stream)  # the receiver has decoded the first frame
        began_s = time.monotonic()
        end.begin(0.0)
        node.run(num_frames / info.fps + drain_s)
        return {number: began_s + at for number, at in end.captures_s.items()}
    finally:
        node.close()


def receive_call(
    scheme: Scheme, host: str, port: int, timeout_s: float = 120.0, drain_s: float = 1.0
) -> dict[int, tuple[float, Image]]:
    """Receive a call.

    Returns:
        For each frame shown: when, by `time.monotonic`, and its picture.

    Raises:
        CorruptBitstream: the other end is no sender of a call.
        OSError: it cannot be reached.
    """
    with socket.create_connection((host, port), timeout_s) as stream:
        node = UdpNode(1, stream.getsockname()[0])
        try:
            # Both sockets of this end must be open before the sender learns of them.
            media = _Later()
            node.udp(1, PORT, media)
            node.udp(1, FEEDBACK_PORT, lambda data: None)
            _write_block(stream, {"ports": node.ports()}, b"")
            greeting, start = _read_block(stream)
            node.connect(host, {int(key): int(value) for key, value in greeting["ports"].items()})
            info = StreamInfo(**greeting["stream"])
            receiver = scheme.receiver(info)
            receiver.start(start)
            settings = SessionSettings(int(greeting["num_frames"]), _NO_TIMES, drain_s)
            end = ReceivingEnd(_Opened(node, media), receiver, info, settings)
            _write_block(stream, {}, b"")
            began_s = time.monotonic()
            end.begin(0.0)
            node.run(settings.num_frames / info.fps + drain_s)
            return {number: (began_s + at, image) for number, (at, image) in end.shown.items()}
        finally:
            node.close()


class _Later:
    """A socket's callback that is known only after the socket was opened."""

    def __init__(self) -> None:
        self.target: Callable[[bytes], None] = lambda data: None

    def __call__(self, data: bytes) -> None:
        self.target(data)


class _Opened(UdpNode):
    """A node whose sockets are open already: asking for one only says who gets its datagrams."""

    def __init__(self, node: UdpNode, media: _Later) -> None:
        self._opened, self._media = node, media

    def now(self) -> float:
        return self._opened.now()

    def at(self, when_s: float, action: Callable[[], None]) -> None:
        self._opened.at(when_s, action)

    def udp(self, node: int, port: int, on_datagram: Callable[[bytes], None]) -> Socket:
        if port == PORT:
            self._media.target = on_datagram
        return _Sending(self._opened, port)
