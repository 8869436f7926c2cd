"""QUIC (aioquic) as a sans-IO transport: tokens in one stream, or Chatterbox in unreliable datagrams (RFC 9221).

The stream is what a chat service gets today by moving server-sent events to HTTP/3. aioquic is imported when a pair is made. Keys
and connection ids are random, so runs agree in every size and time, but not in their bytes.
"""

import datetime
import functools
from typing import Any, Literal

from chatterbox.core import Receiver, Sender, Settings, State
from chatterbox.framing import Deframer, frame
from common.errors import DataUnavailable

ALPN = "chatterbox/1"
_SERVER, _CLIENT = ("10.0.0.1", 4433), ("10.0.0.2", 4433)
DATAGRAM_BYTES = 1100  # fits into one QUIC packet of 1200 bytes with its headers
REQUEST = b"go"


@functools.cache
def make_certificate() -> tuple[Any, Any]:
    """A self-signed Ed25519 certificate and its key, for this process. Its signature has a fixed size, as the tests need.

    Raises:
        DataUnavailable: aioquic and cryptography are not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError as error:
        raise DataUnavailable("QUIC needs aioquic, which is not installed: pip install aioquic.") from error
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "chatterbox")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC))
        .sign(key, None)
    )
    return certificate, key


def configuration(is_client: bool, congestion: str) -> Any:
    """aioquic's configuration of one end. The client does not check the certificate: simulation and loopback only."""
    import ssl

    try:
        from aioquic.quic.configuration import QuicConfiguration
    except ModuleNotFoundError as error:
        raise DataUnavailable("QUIC needs aioquic, which is not installed: pip install aioquic.") from error
    config = QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        max_datagram_frame_size=65536,
        congestion_control_algorithm=congestion,
        idle_timeout=120.0,
        verify_mode=ssl.CERT_NONE if is_client else None,
    )
    if not is_client:
        config.certificate, config.private_key = make_certificate()
    return config


class _End:
    """What both ends share: datagrams in, datagrams out, one timer."""

    def __init__(self, is_client: bool, congestion: str) -> None:
        self._config = configuration(is_client, congestion)
        self._quic: Any = None
        self._peer = _SERVER if is_client else _CLIENT
        self._last_s = 0.0

    def next_timer(self) -> float | None:
        """When `packets` must be called although nothing else happens."""
        return None if self._quic is None else self._quic.get_timer()

    def _flush(self, now: float) -> list[bytes]:
        if self._quic is None:
            return []
        due_s = self._quic.get_timer()
        if due_s is not None and due_s <= now:
            # aioquic compares timers with the clock; an equal float would spin, hence a microsecond.
            self._quic.handle_timer(now=now + 1e-6)
        return [data for data, _ in self._quic.datagrams_to_send(now=now)]


class QuicSender(_End):
    """The server's end: tokens into a QUIC stream or, through Chatterbox, into datagrams."""

    def __init__(self, mode: Literal["stream", "datagrams"], congestion: str, settings: Settings) -> None:
        super().__init__(False, congestion)
        self._mode = mode
        self._core = Sender(settings)
        self._stream: int | None = None
        self._backlog: list[bytes] = []
        self._is_finished = self._is_ended = False
        self._num_tokens = 0
        self._ready = False

    @property
    def state(self) -> State:
        """See `TokenSender`. A stream's end is done when all of it was acknowledged."""
        if self._mode == "datagrams":
            return self._core.state
        return "done" if self._is_ended else "open"

    def on_token(self, token: bytes, now: float) -> None:
        """See `TokenSender`."""
        if self._mode == "datagrams":
            self._core.on_token(token, now)
        else:
            self._backlog.append(frame(token))

    def finish(self, now: float) -> None:
        """See `TokenSender`."""
        self._is_finished = True
        if self._mode == "datagrams":
            self._core.finish(now)

    def on_datagram(self, datagram: bytes, now: float) -> None:
        """See `TokenSender`."""
        from aioquic.buffer import Buffer
        from aioquic.quic.connection import QuicConnection
        from aioquic.quic.events import DatagramFrameReceived, StreamDataReceived
        from aioquic.quic.packet import pull_quic_header

        if self._quic is None:
            header = pull_quic_header(Buffer(data=datagram), host_cid_length=8)
            self._quic = QuicConnection(
                configuration=self._config, original_destination_connection_id=header.destination_cid
            )
        self._quic.receive_datagram(datagram, self._peer, now=now)
        while (event := self._quic.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                if event.data == b"end":
                    self._is_ended = True
                else:
                    self._stream = event.stream_id
                    self._ready = True
            elif isinstance(event, DatagramFrameReceived) and self._mode == "datagrams":
                self._core.on_datagram(event.data, now)

    def next_timer(self) -> float | None:
        """See `TokenSender`."""
        times = [super().next_timer()]
        if self._mode == "datagrams" and self._ready:
            times.append(self._core.next_timer())
        return min((t for t in times if t is not None), default=None)

    def packets(self, now: float) -> list[bytes]:
        """See `TokenSender`."""
        if self._ready and self._mode == "datagrams":
            for packet in self._core.packets(now):
                self._quic.send_datagram_frame(packet)
        elif self._ready and (self._backlog or self._is_finished):
            for piece in self._backlog:
                self._quic.send_stream_data(self._stream, piece)
            self._backlog = []
        return self._flush(now)


class QuicReceiver(_End):
    """The client's end: opens the connection, asks, and takes tokens out of the stream or out of datagrams."""

    def __init__(self, mode: Literal["stream", "datagrams"], congestion: str) -> None:
        super().__init__(True, congestion)
        self._mode = mode
        self._core = Receiver()
        self._deframer = Deframer()
        self._stream = 0

    def on_datagram(self, datagram: bytes, now: float) -> list[bytes]:
        """See `TokenReceiver`."""
        from aioquic.quic.events import DatagramFrameReceived, StreamDataReceived

        ready: list[bytes] = []
        self._quic.receive_datagram(datagram, self._peer, now=now)
        while (event := self._quic.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                ready += self._deframer.feed(event.data)
            elif isinstance(event, DatagramFrameReceived) and self._mode == "datagrams":
                ready += self._core.on_datagram(event.data, now)
        return ready

    def next_timer(self) -> float | None:
        """See `TokenReceiver`."""
        times = [super().next_timer(), self._core.next_timer()]
        return min((t for t in times if t is not None), default=None)

    def packets(self, now: float) -> list[bytes]:
        """See `TokenReceiver`."""
        if self._quic is None:
            from aioquic.quic.connection import QuicConnection

            self._quic = QuicConnection(configuration=self._config)
            self._quic.connect(_SERVER, now=now)
            self._stream = self._quic.get_next_available_stream_id()
            self._quic.send_stream_data(self._stream, REQUEST)
        if self._mode == "datagrams":
            for ack in self._core.packets(now):
                self._quic.send_datagram_frame(ack)
        return self._flush(now)
