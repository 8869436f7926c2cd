"""The datagrams of the protocol (inferred: the paper gives no format). Integers are big-endian.

    DATA   type u8 = 0x11 | stream u32 | base u32 | first u32 | count u16 | flags u8 | packet u32 | {length varint, bytes} * count
    ACK    type u8 = 0x12 | stream u32 | next u32 | echo u32 | rx_bytes u32 | flags u8

The upper half of the type is the version. `base`: the oldest token that the sender believes missing. `first`: index of the first
token in this packet. FIN in a DATA: the stream ends after token `first + count - 1`. `next`: the first token that the client does
not have contiguously. `echo`: number of the packet that caused this ACK. `rx_bytes`: bytes of datagrams received so far, modulo
2**32. A token is the UTF-8 piece shown to the user; pieces may split a code point. Lengths are LEB128 varints of at most 2 bytes.

Handshake of the UDP transport (address validation; QUIC brings its own):

    HELLO  0x13 | version u8 | cookie 16 (zeros at first) | stream u32 | request bytes       client -> server
    COOKIE 0x14 | cookie 16                                                                 server -> client, smaller than a HELLO
    RESET  0x15 | stream u32 | reason u8                                                     either way
"""

import dataclasses
import struct

from common.errors import CorruptBitstream

VERSION = 1
DATA, ACK, HELLO, COOKIE, RESET = (VERSION << 4 | kind for kind in range(1, 6))
FIN, PROBE = 1, 2
MAX_INDEX = 2**32 - 1
MAX_COUNT = 2**16 - 1
MAX_TOKEN_BYTES = 2**14 - 1  # what a varint of two bytes holds
COOKIE_BYTES = 16
MIN_HELLO_BYTES = 64  # a client pads its HELLO, so that no answer to a stranger is larger than the question

_DATA = struct.Struct("!BIIIHBI")
_ACK = struct.Struct("!BIIIIB")
_HELLO = struct.Struct(f"!BB{COOKIE_BYTES}sIH")
_COOKIE = struct.Struct(f"!B{COOKIE_BYTES}s")
_RESET = struct.Struct("!BIB")
DATA_HEADER_BYTES = _DATA.size
ACK_BYTES = _ACK.size


class BadDatagram(CorruptBitstream):
    """A datagram that is truncated, of another version, or not of this protocol."""


@dataclasses.dataclass(frozen=True, slots=True)
class Data:
    """A DATA datagram."""

    stream: int
    base: int
    first: int
    packet: int
    tokens: tuple[bytes, ...]
    is_fin: bool = False
    is_probe: bool = False

    @property
    def end(self) -> int:
        """Index after the last token in it."""
        return self.first + len(self.tokens)


@dataclasses.dataclass(frozen=True, slots=True)
class Ack:
    """An ACK datagram."""

    stream: int
    next: int
    echo: int
    rx_bytes: int
    has_fin: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Hello:
    """A HELLO datagram."""

    stream: int
    cookie: bytes
    request: bytes


def token_size(token: bytes) -> int:
    """Bytes that a token takes in a DATA datagram."""
    return len(token) + (1 if len(token) < 128 else 2)


def encode_data(data: Data) -> bytes:
    """Bytes of a DATA datagram. Its values are the sender's own, so they are asserted, not checked."""
    assert len(data.tokens) <= MAX_COUNT
    flags = (FIN if data.is_fin else 0) | (PROBE if data.is_probe else 0)
    parts = [_DATA.pack(DATA, data.stream, data.base, data.first, len(data.tokens), flags, data.packet)]
    for token in data.tokens:
        size = len(token)
        parts.append(bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7]))
        parts.append(token)
    return b"".join(parts)


def encode_ack(ack: Ack) -> bytes:
    """Bytes of an ACK datagram."""
    flags = FIN if ack.has_fin else 0
    return _ACK.pack(ACK, ack.stream, ack.next, ack.echo, ack.rx_bytes & MAX_INDEX, flags)


def encode_hello(hello: Hello) -> bytes:
    """Bytes of a HELLO datagram, padded to MIN_HELLO_BYTES."""
    assert len(hello.cookie) == COOKIE_BYTES
    head = _HELLO.pack(HELLO, VERSION, hello.cookie, hello.stream, len(hello.request))
    return (head + hello.request).ljust(MIN_HELLO_BYTES, b"\0")


def encode_cookie(cookie: bytes) -> bytes:
    """Bytes of a COOKIE datagram."""
    return _COOKIE.pack(COOKIE, cookie)


def encode_reset(stream: int, reason: int) -> bytes:
    """Bytes of a RESET datagram."""
    return _RESET.pack(RESET, stream, reason)


def kind_of(datagram: bytes) -> int:
    """DATA, ACK, HELLO, COOKIE or RESET.

    Raises:
        BadDatagram: empty, another version, or an unknown kind.
    """
    if not datagram:
        raise BadDatagram("an empty datagram.")
    kind = datagram[0]
    if kind >> 4 != VERSION:
        raise BadDatagram(f"type {kind:#04x}: version {kind >> 4} instead of {VERSION}.")
    if kind not in (DATA, ACK, HELLO, COOKIE, RESET):
        raise BadDatagram(f"type {kind:#04x} is unknown.")
    return kind


def _expect(datagram: bytes, kind: int, size: int, name: str) -> None:
    if kind_of(datagram) != kind:
        raise BadDatagram(f"type {datagram[0]:#04x} where a {name} was expected.")
    if len(datagram) < size:
        raise BadDatagram(f"a {name} of {len(datagram)} bytes; it has at least {size}. It was cut.")


def decode_data(datagram: bytes) -> Data:
    """Parse a DATA datagram.

    Raises:
        BadDatagram: it is none, is cut, has bytes too many, or its indices overflow.
    """
    _expect(datagram, DATA, _DATA.size, "DATA")
    _, stream, base, first, count, flags, packet = _DATA.unpack_from(datagram)
    if flags & ~(FIN | PROBE):
        raise BadDatagram(f"DATA flags {flags:#04x} are unknown.")
    if first + count > MAX_INDEX or base > first + count:
        raise BadDatagram(f"DATA base={base}, first={first}, count={count}: indices are inconsistent.")
    tokens: list[bytes] = []
    at, size = _DATA.size, len(datagram)
    for _ in range(count):
        if at >= size:
            raise BadDatagram(f"DATA of {size} bytes ends within token {len(tokens)} of {count}.")
        length = datagram[at]
        at += 1
        if length >= 128:
            if at >= size or datagram[at] >= 128 or datagram[at] == 0:
                raise BadDatagram(f"DATA token {len(tokens)}: the length is not a varint of at most 2 bytes.")
            length = length & 127 | datagram[at] << 7
            at += 1
        if at + length > size:
            raise BadDatagram(f"DATA of {size} bytes ends within token {len(tokens)} of {count}.")
        tokens.append(datagram[at : at + length])
        at += length
    if at != size:
        raise BadDatagram(f"DATA has {size - at} bytes after its last token.")
    return Data(stream, base, first, packet, tuple(tokens), bool(flags & FIN), bool(flags & PROBE))


def decode_ack(datagram: bytes) -> Ack:
    """Parse an ACK datagram.

    Raises:
        BadDatagram: it is none, or of another size.
    """
    _expect(datagram, ACK, _ACK.size, "ACK")
    if len(datagram) != _ACK.size:
        raise BadDatagram(f"an ACK of {len(datagram)} bytes; it has {_ACK.size}.")
    _, stream, next_index, echo, rx_bytes, flags = _ACK.unpack(datagram)
    if flags & ~FIN:
        raise BadDatagram(f"ACK flags {flags:#04x} are unknown.")
    return Ack(stream, next_index, echo, rx_bytes, bool(flags & FIN))


def decode_hello(datagram: bytes) -> Hello:
    """Parse a HELLO datagram.

    Raises:
        BadDatagram: it is none, is cut, shorter than MIN_HELLO_BYTES, or of another version.
    """
    _expect(datagram, HELLO, max(_HELLO.size, MIN_HELLO_BYTES), "HELLO")
    _, version, cookie, stream, size = _HELLO.unpack_from(datagram)
    if version != VERSION:
        raise BadDatagram(f"HELLO of version {version}; this is version {VERSION}.")
    if _HELLO.size + size > len(datagram):
        raise BadDatagram(f"HELLO announces a request of {size} bytes and holds {len(datagram) - _HELLO.size}.")
    return Hello(stream, cookie, datagram[_HELLO.size : _HELLO.size + size])


def decode_cookie(datagram: bytes) -> bytes:
    """Parse a COOKIE datagram: the cookie.

    Raises:
        BadDatagram: it is none, or of another size.
    """
    _expect(datagram, COOKIE, _COOKIE.size, "COOKIE")
    if len(datagram) != _COOKIE.size:
        raise BadDatagram(f"a COOKIE of {len(datagram)} bytes; it has {_COOKIE.size}.")
    cookie: bytes = _COOKIE.unpack(datagram)[1]
    return cookie


def decode_reset(datagram: bytes) -> tuple[int, int]:
    """Parse a RESET datagram: (stream, reason).

    Raises:
        BadDatagram: it is none, or of another size.
    """
    _expect(datagram, RESET, _RESET.size, "RESET")
    if len(datagram) != _RESET.size:
        raise BadDatagram(f"a RESET of {len(datagram)} bytes; it has {_RESET.size}.")
    _, stream, reason = _RESET.unpack(datagram)
    return stream, reason
