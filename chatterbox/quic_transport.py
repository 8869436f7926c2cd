"""Chatterbox in QUIC datagrams (RFC 9221), for the open Internet: encrypted, authenticated, QUIC's congestion control underneath.

    server = await serve_quic(answer, "0.0.0.0", 4433, certificate=Path("cert.pem"), key=Path("key.pem"))
    async with connect_quic("example.org", 4433, b"question") as stream: ...

The request travels in a QUIC stream; tokens and acknowledgements travel in datagrams and carry that stream's number. Address
validation and the limit on what a stranger is sent are QUIC's.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio import connect as quic_connect
from aioquic.asyncio import serve as quic_serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived, QuicEvent, StreamDataReceived
from cryptography import x509

from chatterbox import wire
from chatterbox.core import Receiver, Sender, Settings, StreamBroken
from chatterbox.quic import ALPN, DATAGRAM_BYTES, make_certificate
from chatterbox.transport import MAX_REQUEST_BYTES, AnswerFunction, OutgoingStream, PieceReader
from chatterbox.wire import BadDatagram
from common.errors import ConfigError

QUIC_SETTINGS = Settings(DATAGRAM_BYTES, congestion="budget")
IDLE_TIMEOUT_S = 8.0
MAX_STREAMS_PER_CONNECTION = 100


def _configuration(is_client: bool) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client, alpn_protocols=[ALPN], max_datagram_frame_size=65536, idle_timeout=IDLE_TIMEOUT_S
    )


class _ServerConnection(QuicConnectionProtocol):
    """One client: its requests and the answers to them."""

    def __init__(self, *args: Any, answer: AnswerFunction, settings: Settings, **options: Any) -> None:
        super().__init__(*args, **options)
        self._answer, self._settings = answer, settings
        self._requests: dict[int, bytes] = {}
        self._streams: dict[int, OutgoingStream] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def quic_event_received(self, event: QuicEvent) -> None:
        """See aioquic."""
        if isinstance(event, StreamDataReceived):
            request = self._requests.get(event.stream_id, b"") + event.data
            self._requests[event.stream_id] = request[: MAX_REQUEST_BYTES + 1]
            is_new = event.stream_id not in self._streams and len(self._streams) < MAX_STREAMS_PER_CONNECTION
            if event.end_stream and is_new and 1 <= len(request) <= MAX_REQUEST_BYTES:
                task = asyncio.get_running_loop().create_task(self._run(event.stream_id, request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        elif isinstance(event, DatagramFrameReceived):
            with contextlib.suppress(BadDatagram):
                stream = self._streams.get(wire.decode_ack(event.data).stream)
                if stream is not None:
                    stream.on_datagram(event.data)
        elif isinstance(event, ConnectionTerminated):
            for stream in list(self._streams.values()):
                stream.abort("the connection has ended")
            for task in list(self._tasks):
                task.cancel()

    def _send(self, datagram: bytes) -> None:
        self._quic.send_datagram_frame(datagram)
        self.transmit()

    async def _run(self, number: int, request: bytes) -> None:
        def end() -> None:
            self._streams.pop(number, None)

        stream = OutgoingStream(Sender(self._settings, number), self._send, end)
        self._streams[number] = stream
        try:
            async with contextlib.aclosing(self._answer(request)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    await stream.send(piece)
            await stream.finish()
        except StreamBroken:
            pass  # the client is gone: nobody is left to tell
        finally:
            if not stream.is_over:
                stream.abort("the answer ended early")
                with contextlib.suppress(AssertionError, ValueError):
                    self._quic.reset_stream(number, 1)
                    self.transmit()


async def serve_quic(
    answer: AnswerFunction,
    host: str,
    port: int,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
    settings: Settings = QUIC_SETTINGS,
) -> Any:
    """Start a QUIC server; `.close()` ends it.

    Args:
        answer: called with the client's request; yields UTF-8 pieces as they are generated.
        host, port: where to listen.
        certificate, key: PEM files. Without them a certificate is made up, which no client can check.
        settings: protocol settings.

    Raises:
        ConfigError: one of certificate and key without the other, or they are not PEM files.
        OSError: a file cannot be read, or that address cannot be had.
    """
    if (certificate is None) != (key is None):
        raise ConfigError("certificate and key belong together: give both or neither.")
    config = _configuration(False)
    if certificate is not None and key is not None:
        try:
            config.load_cert_chain(certificate, key)
        except (
            ValueError,
            TypeError,
        ) as error:  # what the libraries say of a file that is no PEM, or a key with a password
            raise ConfigError(f"{certificate} and {key} are not a certificate and its key in PEM form.") from error
    else:
        config.certificate, config.private_key = make_certificate()

    def make(*args: Any, **options: Any) -> _ServerConnection:
        return _ServerConnection(*args, answer=answer, settings=settings, **options)

    return await quic_serve(host, port, configuration=config, create_protocol=make)


def quic_address(server: Any) -> tuple[str, int]:
    """Host and port of a server that `serve_quic` started; the port is the one it got if 0 was asked for."""
    host, port = server._transport.get_extra_info("sockname")[:2]
    return str(host), int(port)


class QuicStreamReader(PieceReader):
    """The client's side of one answer. Made by `connect_quic`."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__()
        self.receiver = receiver


class _ClientConnection(QuicConnectionProtocol):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._readers: dict[int, QuicStreamReader] = {}

    def ask(self, request: bytes) -> QuicStreamReader:
        """Send a request; its answer arrives in the reader."""
        number = self._quic.get_next_available_stream_id()
        reader = self._readers[number] = QuicStreamReader(Receiver(number))
        self._quic.send_stream_data(number, request, end_stream=True)
        self.transmit()
        return reader

    def quic_event_received(self, event: QuicEvent) -> None:
        """See aioquic."""
        if isinstance(event, DatagramFrameReceived):
            with contextlib.suppress(BadDatagram):
                reader = self._readers.get(wire.decode_data(event.data).stream)
                if reader is not None:
                    now = asyncio.get_running_loop().time()
                    was_complete = reader.receiver.is_complete
                    pieces = reader.receiver.on_datagram(event.data, now)
                    reader._take(pieces, reader.receiver.is_complete and not was_complete)
                    for ack in reader.receiver.packets(now):
                        self._quic.send_datagram_frame(ack)
                    self.transmit()
        elif isinstance(event, ConnectionTerminated):
            for reader in self._readers.values():
                if not reader.receiver.is_complete:
                    reader._break(event.reason_phrase or "the connection has ended")


@contextlib.asynccontextmanager
async def connect_quic(
    host: str, port: int, request: bytes, *, authorities: Path | None = None, check_certificate: bool = True
) -> AsyncIterator[QuicStreamReader]:
    """Ask a QUIC server; use as `async with connect_quic(...) as stream` and iterate over the stream.

    Args:
        host, port: the server.
        request: the question, 1 to 1000 bytes.
        authorities: PEM file of certificates to trust, instead of the system's.
        check_certificate: False accepts any server: for a certificate that was made up, in a laboratory.

    Raises:
        ConfigError: the request is empty or too long, or the authorities are no certificates.
        OSError: the authorities cannot be read.
        StreamBroken: no connection.
    """
    if not 1 <= len(request) <= MAX_REQUEST_BYTES:
        raise ConfigError(f"a request of {len(request)} bytes; it must have 1 to {MAX_REQUEST_BYTES}.")
    config = _configuration(True)
    if authorities is not None:
        try:  # read later, they would look like a server that does not answer
            x509.load_pem_x509_certificates(authorities.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{authorities} holds no certificates in PEM form.") from error
        config.load_verify_locations(str(authorities))
    if not check_certificate:
        config.verify_mode = ssl.CERT_NONE
    try:
        connecting = quic_connect(host, port, configuration=config, create_protocol=_ClientConnection)
        connection = await connecting.__aenter__()
    except (ConnectionError, OSError) as error:
        raise StreamBroken(
            f"no QUIC connection to {host}:{port}: {str(error) or 'no answer, or a certificate that is not trusted'}."
        ) from error
    try:
        yield connection.ask(request)  # type: ignore[attr-defined]
    finally:
        await connecting.__aexit__(None, None, None)
