"""Tokens in a byte stream (TCP, a QUIC stream): a length of one or two bytes before each, as in a Chatterbox packet."""


def frame(token: bytes) -> bytes:
    """A token with its length in front. Tokens have at most 16383 bytes."""
    size = len(token)
    if size >= 1 << 14:
        raise ValueError(f"a token of {size} bytes; at most {(1 << 14) - 1} can be framed.")
    return (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + token


class Deframer:
    """Turns pieces of a byte stream, cut anywhere, back into tokens."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The tokens that are complete now, in order."""
        self._buffer += data
        tokens = []
        at = 0
        while at < len(self._buffer):
            size, start = self._buffer[at], at + 1
            if size >= 128:
                if start >= len(self._buffer):
                    break
                size, start = size & 127 | self._buffer[start] << 7, start + 1
            if start + size > len(self._buffer):
                break
            tokens.append(bytes(self._buffer[start : start + size]))
            at = start + size
        del self._buffer[:at]
        return tokens
