"""Baseline: forward error correction. `repairs` repair packets follow every `group` tokens; each stands in for any lost one.

Reed-Solomon over GF(256) (zfec), which for one repair packet recovers what XOR would. Recovery of what is lost beyond that is by
selective repeat. A repair packet waits for its whole group, so it comes late: that is the scheme's price.
"""

import struct

import zfec

from chatterbox.selective_repeat import SelectiveRepeatReceiver, SelectiveRepeatSender
from chatterbox.wire import BadDatagram, Data, decode_data, encode_data
from common.errors import ConfigError

_REPAIR = struct.Struct("!BIBBBH")
_REPAIR_TYPE = 0x17
_LENGTH = struct.Struct("!H")


def _blocks(tokens: list[bytes], size: int) -> list[bytes]:
    return [(_LENGTH.pack(len(token)) + token).ljust(size, b"\0") for token in tokens]


def make_repairs(tokens: list[bytes], repairs: int) -> list[bytes]:
    """Repair blocks of a group of tokens: any of them stands in for any lost token."""
    size = max(map(len, tokens)) + _LENGTH.size
    encoder = zfec.Encoder(len(tokens), len(tokens) + repairs)
    made: list[bytes] = encoder.encode(_blocks(tokens, size), range(len(tokens), len(tokens) + repairs))
    return made


def recover(num_tokens: int, repairs: int, tokens: dict[int, bytes], blocks: dict[int, bytes]) -> list[bytes]:
    """All tokens of a group from some of its tokens (by place) and repair blocks (by number), `num_tokens` in all.

    Raises:
        BadDatagram: the blocks do not decode to tokens.
    """
    size = len(next(iter(blocks.values())))
    known = {place: _blocks([token], size)[0] for place, token in tokens.items()}
    known |= {num_tokens + number: block for number, block in blocks.items()}
    chosen = sorted(known)[:num_tokens]
    # The decoder wants each block that is there unchanged at its own place.
    order = [place if place in chosen else None for place in range(num_tokens)]
    spare = iter([place for place in chosen if place >= num_tokens])
    numbers = [next(spare) if place is None else place for place in order]
    decoded = zfec.Decoder(num_tokens, num_tokens + repairs).decode([known[n] for n in numbers], numbers)
    found = []
    for block in decoded:
        (length,) = _LENGTH.unpack_from(block)
        if length > len(block) - _LENGTH.size:
            raise BadDatagram("a repair packet that does not fit the tokens of its group.")
        found.append(bytes(block[_LENGTH.size : _LENGTH.size + length]))
    return found


class ErasureSender(SelectiveRepeatSender):
    """Selective repeat with repair packets."""

    def __init__(self, group: int = 4, repairs: int = 1, give_up_s: float = 60.0) -> None:
        if group < 1 or repairs < 1 or group + repairs > 255:
            raise ConfigError(f"group={group}, repairs={repairs}: need both >= 1 and at most 255 together.")
        super().__init__(give_up_s=give_up_s)
        self._group_size, self._repairs = group, repairs
        self._group: list[bytes] = []
        self._group_start = 0
        self._repair_due: list[bytes] = []

    def on_token(self, token: bytes, now: float) -> None:
        """See `TokenSender`."""
        super().on_token(token, now)
        self._group.append(bytes(token))
        if len(self._group) == self._group_size:
            self._close_group()

    def finish(self, now: float) -> None:
        """See `TokenSender`."""
        super().finish(now)
        if self._group:
            self._close_group()

    def _close_group(self) -> None:
        for number, block in enumerate(make_repairs(self._group, self._repairs)):
            head = _REPAIR.pack(_REPAIR_TYPE, self._group_start, len(self._group), self._repairs, number, len(block))
            self._repair_due.append(head + block)
        self._group_start += len(self._group)
        self._group = []

    def packets(self, now: float) -> list[bytes]:
        """See `TokenSender`."""
        sent = super().packets(now)
        if self.state == "open":
            sent += self._repair_due
            self._repair_due = []
        return sent


class ErasureReceiver(SelectiveRepeatReceiver):
    """Takes tokens out of repair packets where it can."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, bytes] = {}
        self._repairs: dict[tuple[int, int, int], dict[int, bytes]] = {}

    def on_datagram(self, datagram: bytes, now: float) -> list[bytes]:
        """See `TokenReceiver`."""
        if datagram[:1] == bytes([_REPAIR_TYPE]):
            self._take_repair(datagram)
            self._rx_bytes += len(datagram)
            self._ack_at_s = now
            ready: list[bytes] = []
        else:
            data = decode_data(datagram)
            ready = super().on_datagram(datagram, now)
            self._seen.update(enumerate(data.tokens, data.first))
        return ready + self._recover(now)

    def _take_repair(self, datagram: bytes) -> None:
        if len(datagram) < _REPAIR.size:
            raise BadDatagram(f"a repair packet of {len(datagram)} bytes. It was cut.")
        _, start, size, repairs, number, length = _REPAIR.unpack_from(datagram)
        block = datagram[_REPAIR.size :]
        if not size or number >= repairs or size + repairs > 255 or len(block) != length or length < _LENGTH.size:
            raise BadDatagram("a repair packet whose header does not fit its length.")
        self._repairs.setdefault((start, size, repairs), {})[number] = block

    def _recover(self, now: float) -> list[bytes]:
        ready: list[bytes] = []
        for (start, size, repairs), blocks in list(self._repairs.items()):
            if start + size <= self.next:
                del self._repairs[start, size, repairs]
                continue
            known = {i - start: self._seen[i] for i in range(start, start + size) if i in self._seen}
            if len(known) < size <= len(known) + len(blocks):
                tokens = recover(size, repairs, known, blocks)
                del self._repairs[start, size, repairs]
                self._seen.update(enumerate(tokens, start))
                # As if a packet with the whole group had arrived, except that nothing was received for it.
                echo, received = self._echo, self._rx_bytes
                whole = encode_data(Data(0, 0, start, echo, tuple(tokens)))
                ready += super().on_datagram(whole, now)
                self._echo, self._rx_bytes = echo, received
        oldest = self.next - 1024
        for index in [i for i in self._seen if i < oldest]:
            del self._seen[index]
        return ready
