"""Chatterbox over real networks: an asyncio server and client over UDP.

    server = await serve(answer, "127.0.0.1", 4433)         # answer(request) is an async iterator of UTF-8 pieces
    async with connect("127.0.0.1", 4433, b"question") as stream:
        async for piece in stream: ...

Datagrams are neither encrypted nor authenticated: loopback and laboratory use. For the open Internet use quic_transport.py. What
this layer does guarantee: an address gets no more than it sends until it has shown, with a cookie, that it receives what is sent
to it; a stream belongs to one address and one number, chosen by the client at random; memory per stream and the number of streams
are bounded.
"""

import asyncio
import codecs
import contextlib
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, cast

from chatterbox import wire
from chatterbox.core import Receiver, Sender, Settings, StreamBroken
from chatterbox.wire import BadDatagram
from common.errors import ConfigError

Address = tuple[Any, ...]
AnswerFunction = Callable[[bytes], AsyncIterator[bytes]]

REAL_SETTINGS = Settings(congestion="budget")
COOKIE_LIFE_S = 30.0
MAX_REQUEST_BYTES = 1000
MAX_UNACKNOWLEDGED_TOKENS = 20_000
HELLO_INTERVAL_S = 0.3
KEEPALIVE_S = 2.0
SERVER_SILENCE_S = 8.0
LINGER_ACKS, LINGER_S = 2, 0.1
UNKNOWN_STREAM, BUSY, CLOSED = 1, 2, 3
REASONS = {
    UNKNOWN_STREAM: "it does not know this stream",
    BUSY: "it has too many streams",
    CLOSED: "it closed the stream",
}


class CookieJar:
    """Stateless address validation: a cookie is a MAC of the address and of the time.

    Args:
        secret: key; a new one makes all cookies invalid.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, address: Address, now: float) -> bytes:
        """The cookie of an address at a time (s)."""
        return self._mac(address, int(now // COOKIE_LIFE_S))

    def is_valid(self, cookie: bytes, address: Address, now: float) -> bool:
        """Whether the cookie was made for this address in the present or the last period."""
        period = int(now // COOKIE_LIFE_S)
        return any(hmac.compare_digest(cookie, self._mac(address, p)) for p in (period, period - 1))

    def _mac(self, address: Address, period: int) -> bytes:
        text = f"{address[0]}|{address[1]}|{period}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).digest()[: wire.COOKIE_BYTES]


class OutgoingStream:
    """The server's side of one stream, driven by the event loop.

    Args:
        sender: the protocol.
        transmit: puts a datagram on the network.
        on_end: called once, when the stream is done or broken.
    """

    def __init__(self, sender: Sender, transmit: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self.sender = sender
        self._transmit, self._on_end = transmit, on_end
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self.error: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.error is not None or self.sender.state == "done"

    async def send(self, piece: bytes) -> None:
        """Send a piece of text. Waits while too much is unacknowledged; long pieces are split.

        Raises:
            StreamBroken: the client is gone.
        """
        limit = self.sender.settings.max_token_bytes
        for start in range(0, max(1, len(piece)), limit):
            while not self.is_over and self.sender.unacknowledged >= MAX_UNACKNOWLEDGED_TOKENS:
                self._wake.clear()
                await self._wake.wait()
            self._check()
            self.sender.on_token(piece[start : start + limit], self._loop.time())
            self.turn()

    async def finish(self) -> None:
        """Tell the client that this was all, and wait until it knows.

        Raises:
            StreamBroken: the client is gone.
        """
        self.sender.finish(self._loop.time())
        self.turn()
        while not self.is_over:
            self._wake.clear()
            await self._wake.wait()
        self._check()

    def _check(self) -> None:
        if self.error is not None:
            raise StreamBroken(f"the client is gone: {self.error}.")

    def on_datagram(self, datagram: bytes) -> None:
        """An ACK arrived for this stream."""
        self.sender.on_datagram(datagram, self._loop.time())
        self.turn()

    def turn(self) -> None:
        """Send what is due and set the timer."""
        now = self._loop.time()
        for packet in self.sender.packets(now):
            self._transmit(packet)
        if self.sender.state == "gave_up":
            self.abort(f"no acknowledgement for {self.sender.settings.give_up_s:g} s")
        elif self.sender.state == "done":
            self._end()
        self._wake.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self.sender.next_timer()
        if due_s is not None and not self.is_over:
            self._timer = self._loop.call_at(max(due_s, now) + 1e-4, self.turn)

    def abort(self, reason: str) -> None:
        """Break the stream; whoever sends on it gets StreamBroken."""
        if not self.is_over:
            self.error = reason
            self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake.set()
        on_end, self._on_end = self._on_end, lambda: None
        on_end()


class ChatServer(asyncio.DatagramProtocol):
    """Answers requests over UDP. Made by `serve`.

    Attributes:
        num_streams: streams that are open now.
    """

    def __init__(
        self,
        answer: AnswerFunction,
        settings: Settings = REAL_SETTINGS,
        max_streams: int = 2000,
        max_per_host: int = 2000,
    ) -> None:
        self._answer, self._settings = answer, settings
        self._max_streams, self._max_per_host = max_streams, max_per_host
        self._cookies = CookieJar(secrets.token_bytes(32))
        self._streams: dict[tuple[Address, int], OutgoingStream] = {}
        self._tasks: dict[tuple[Address, int], asyncio.Task[None]] = {}
        self._hosts: dict[str, int] = {}
        self._transport: asyncio.DatagramTransport | None = None

    @property
    def num_streams(self) -> int:
        """Streams that are open now."""
        return len(self._streams)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that the server listens on."""
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")[:2]
        return host, port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.DatagramProtocol`."""
        # asyncio's own datagram transports are no subclass of DatagramTransport before Python 3.12
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """See `asyncio.DatagramProtocol`. Whatever is no datagram of ours is dropped without an answer."""
        with contextlib.suppress(BadDatagram):
            kind = wire.kind_of(data)
            if kind == wire.HELLO:
                self._on_hello(wire.decode_hello(data), addr)
            elif kind == wire.ACK:
                stream = self._streams.get((addr, wire.decode_ack(data).stream))
                if stream is not None:
                    stream.on_datagram(data)
            elif kind == wire.RESET:
                stream = self._streams.get((addr, wire.decode_reset(data)[0]))
                if stream is not None:
                    stream.abort("it closed the stream")

    def _on_hello(self, hello: wire.Hello, address: Address) -> None:
        now = asyncio.get_running_loop().time()
        if not self._cookies.is_valid(hello.cookie, address, now):
            # The only answer to a stranger: 17 bytes for at least 64.
            self._send(wire.encode_cookie(self._cookies.make(address, now)), address)
            return
        key = (address, hello.stream)
        if key in self._streams:
            self._send(self._streams[key].sender.probe(), address)  # the client asks whether we are still there
        elif hello.request == b"":
            self._send(wire.encode_reset(hello.stream, UNKNOWN_STREAM), address)
        elif self.num_streams >= self._max_streams or self._hosts.get(address[0], 0) >= self._max_per_host:
            self._send(wire.encode_reset(hello.stream, BUSY), address)
        else:
            self._open(key, hello.request)

    def _open(self, key: tuple[Address, int], request: bytes) -> None:
        address, number = key

        def end() -> None:
            del self._streams[key]
            self._hosts[address[0]] -= 1
            if self._hosts[address[0]] == 0:
                del self._hosts[address[0]]
            task = self._tasks.get(key)
            if stream.error is not None and task is not None:
                task.cancel()

        stream = OutgoingStream(Sender(self._settings, number), lambda packet: self._send(packet, address), end)
        self._streams[key] = stream
        self._hosts[address[0]] = self._hosts.get(address[0], 0) + 1
        task = asyncio.get_running_loop().create_task(self._run(stream, key, request))
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._tasks.pop(key, None))

    async def _run(self, stream: OutgoingStream, key: tuple[Address, int], request: bytes) -> None:
        try:
            async with contextlib.aclosing(self._answer(request)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    await stream.send(piece)
            await stream.finish()
        except StreamBroken:
            pass  # the client is gone: nobody is left to tell
        finally:
            if not stream.is_over:  # the answer raised, or the server closes
                self._send(wire.encode_reset(key[1], CLOSED), key[0])
                stream.abort("the answer ended early")

    def _send(self, datagram: bytes, address: Address) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(datagram, address)

    async def close(self) -> None:
        """Break all streams and release the socket."""
        for (address, number), stream in list(self._streams.items()):
            self._send(wire.encode_reset(number, CLOSED), address)
            stream.abort("the server closes")
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._transport is not None:
            self._transport.close()


async def serve(
    answer: AnswerFunction,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    settings: Settings = REAL_SETTINGS,
    max_streams: int = 2000,
    max_per_host: int = 2000,
) -> ChatServer:
    """Start a server.

    Args:
        answer: called with the client's request; yields UTF-8 pieces as they are generated.
        host, port: where to listen; port 0 lets the kernel choose (`server.address` tells).
        settings: protocol settings; the default keeps to a congestion budget.
        max_streams, max_per_host: more are refused.
    """
    loop = asyncio.get_running_loop()
    _, server = await loop.create_datagram_endpoint(
        lambda: ChatServer(answer, settings, max_streams, max_per_host), local_addr=(host, port)
    )
    return server


class PieceReader:
    """An async iterator of the pieces of one answer."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._error: str | None = None

    def _take(self, pieces: list[bytes], is_complete: bool) -> None:
        for piece in pieces:
            self._pieces.put_nowait(piece)
        if is_complete:
            self._pieces.put_nowait(None)

    def _break(self, reason: str) -> None:
        if self._error is None:
            self._error = reason
            self._pieces.put_nowait(None)

    def __aiter__(self) -> "PieceReader":
        return self

    async def __anext__(self) -> bytes:
        piece = await self._pieces.get()
        if piece is not None:
            return piece
        self._pieces.put_nowait(None)  # whoever asks again gets the same answer
        if self._error is not None:
            raise StreamBroken(f"the server is gone: {self._error}.")
        raise StopAsyncIteration

    async def text(self) -> AsyncIterator[str]:
        """The pieces as text; a character that is split between pieces appears with its last byte.

        Raises:
            StreamBroken: the server is gone.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        async for piece in self:
            if shown := decoder.decode(piece):
                yield shown
        if rest := decoder.decode(b"", final=True):
            yield rest


class IncomingStream(PieceReader, asyncio.DatagramProtocol):
    """The client's side of one stream: an async iterator of pieces. Made by `connect`."""

    def __init__(self, request: bytes, silence_s: float) -> None:
        super().__init__()
        self._request, self._silence_s = request, silence_s
        self._number = secrets.randbits(32)
        self._cookie = bytes(wire.COOKIE_BYTES)
        self._receiver = Receiver(self._number)
        self._transport: asyncio.DatagramTransport | None = None
        self._has_data = False
        self._loop = asyncio.get_running_loop()
        self._heard_s = self._loop.time()
        self._asked_s = -1e9
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.DatagramProtocol`."""
        # asyncio's own datagram transports are no subclass of DatagramTransport before Python 3.12
        self._transport = cast(asyncio.DatagramTransport, transport)
        self._tick()

    def _hello(self) -> None:
        # Once there was data the request is not repeated: a server that forgot us must not answer it a second time.
        request = b"" if self._has_data else self._request
        self._asked_s = self._loop.time()
        self._send(wire.encode_hello(wire.Hello(self._number, self._cookie, request)))

    def _send(self, datagram: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(datagram)

    def _tick(self) -> None:
        now = self._loop.time()
        if self._receiver.is_complete or self._error is not None:
            return
        if now - self._heard_s > self._silence_s:
            self._break(f"nothing heard from it for {self._silence_s:g} s")
            return
        interval_s = KEEPALIVE_S if self._has_data else HELLO_INTERVAL_S
        if now - max(self._asked_s, self._heard_s if self._has_data else -1e9) >= interval_s:
            self._hello()
        for ack in self._receiver.packets(now):
            self._send(ack)
        self._timer = self._loop.call_later(min(interval_s, 0.25), self._tick)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """See `asyncio.DatagramProtocol`. The socket is connected: only the server's datagrams arrive here."""
        with contextlib.suppress(BadDatagram):
            kind, now = wire.kind_of(data), self._loop.time()
            if kind == wire.COOKIE and not self._has_data:
                self._cookie = wire.decode_cookie(data)
                self._heard_s = now
                self._hello()
            elif kind == wire.COOKIE:
                self._cookie = wire.decode_cookie(data)  # the old one has expired; the next keep-alive takes this one
                self._heard_s = now
            elif kind == wire.RESET and wire.decode_reset(data)[0] == self._number:
                if not self._receiver.is_complete:
                    reason = wire.decode_reset(data)[1]
                    self._break(REASONS.get(reason, f"reset with reason {reason}"))
            elif kind == wire.DATA and wire.decode_data(data).stream == self._number:
                was_complete = self._receiver.is_complete
                pieces = self._receiver.on_datagram(data, now)
                self._has_data, self._heard_s = True, now
                for ack in self._receiver.packets(now):
                    self._send(ack)
                self._take(pieces, self._receiver.is_complete and not was_complete)

    def error_received(self, exc: Exception) -> None:
        """See `asyncio.DatagramProtocol`: nobody listens there. It may be starting, so only silence decides."""

    async def close(self) -> None:
        """Leave; tells the server unless the answer is complete."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._receiver.is_complete:
            self._send(wire.encode_reset(self._number, CLOSED))
        else:
            # The last ACK may be lost: answer the server's repetitions a little longer, and repeat it unasked.
            for _ in range(LINGER_ACKS):
                await asyncio.sleep(LINGER_S)
                self._send(self._receiver.acknowledgement())
        if self._transport is not None:
            self._transport.close()


class _Connecting:
    """What `connect` returns: `async with` opens and closes the stream."""

    def __init__(self, host: str, port: int, request: bytes, silence_s: float) -> None:
        self._host, self._port, self._request, self._silence_s = host, port, request, silence_s
        self._stream: IncomingStream | None = None

    async def __aenter__(self) -> IncomingStream:
        loop = asyncio.get_running_loop()
        _, self._stream = await loop.create_datagram_endpoint(
            lambda: IncomingStream(self._request, self._silence_s), remote_addr=(self._host, self._port)
        )
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stream is not None
        await self._stream.close()


def connect(host: str, port: int, request: bytes, *, silence_s: float = SERVER_SILENCE_S) -> _Connecting:
    """Ask a server; use as `async with connect(...) as stream` and iterate over the stream.

    Args:
        host, port: the server.
        request: the question, 1 to 1000 bytes.
        silence_s: the server counts as gone after this long without a datagram.

    Raises:
        ConfigError: the request is empty or too long.
    """
    if not 1 <= len(request) <= MAX_REQUEST_BYTES:
        raise ConfigError(f"a request of {len(request)} bytes; it must have 1 to {MAX_REQUEST_BYTES}.")
    return _Connecting(host, port, request, silence_s)
