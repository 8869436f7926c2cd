"""Baselines over UDP that repeat only what was lost: selective repeat, packet duplication, fixed-k redundancy.

One packet per new token, with the `history` tokens before it (0 for most), sent `copies` times, `spacing_s` apart. The receiver
acknowledges every packet with what it has: the first token it lacks and a bitmap of 64 tokens after it, so a lost ACK costs
nothing. A token is sent again when three packets sent later were acknowledged, or when its own timeout passes: max(200 ms,
srtt + 4 rttvar), doubled each time, at most 2 s. (One timer for all tokens, re-armed by each acknowledgement as TCP's is, would
be a weaker baseline.) The paper does not say how its duplication recovers a packet whose copies are all lost (inferred).
"""

import dataclasses
import heapq
import itertools
import struct

from chatterbox.core import Receiver, State
from chatterbox.timers import RoundTrip
from chatterbox.wire import MAX_TOKEN_BYTES, BadDatagram, Data, encode_data
from common.errors import ConfigError

_SACK_ACK = struct.Struct("!BIIIBQ")
_SACK_TYPE = 0x16
_BITMAP_TOKENS = 64
REORDERING_PACKETS = 3
MIN_RTO_S, MAX_RTO_S = 0.2, 2.0


@dataclasses.dataclass
class _Owed:
    """A token that is not acknowledged: the last packet that held it, when it left, how many later ones arrived, its timeouts."""

    token: bytes
    packet: int = 0
    sent_s: float = 0.0
    later: int = 0
    timeouts: int = 0


class SelectiveRepeatSender:
    """The server's side. The end of the stream is a token of its own number, which only its FIN packet holds."""

    def __init__(self, copies: int = 1, spacing_s: float = 0.0, history: int = 0, give_up_s: float = 60.0) -> None:
        if copies < 1 or spacing_s < 0 or history < 0:
            raise ConfigError(f"copies={copies}, spacing_s={spacing_s}, history={history}: need >= 1, >= 0, >= 0.")
        self.state: State = "open"
        self.retransmissions = 0
        self._copies, self._spacing_s, self._history, self._give_up_s = copies, spacing_s, history, give_up_s
        self._round_trip = RoundTrip(MIN_RTO_S, MAX_RTO_S)
        self._owed: dict[int, _Owed] = {}  # in the order of the tokens
        self._recent: list[bytes] = []  # the last `history` tokens, acknowledged or not
        self._generated = 0
        self._next = 0
        self._fin: int | None = None  # number of the token with which the end travels
        self._is_finished = False
        self._fresh: list[int] = []
        self._repeat: list[int] = []
        self._copies_due: list[tuple[float, int, bytes]] = []
        self._order = itertools.count()
        self._packet = 0
        self._sent_s: dict[int, float] = {}
        self._progress_s = 0.0

    def on_token(self, token: bytes, now: float) -> None:
        """See `TokenSender`."""
        if self._is_finished or len(token) > MAX_TOKEN_BYTES:
            raise ValueError("a token after the end of the stream, or one that is too long.")
        self._owe(token, now)
        self._generated += 1

    def _owe(self, token: bytes, now: float) -> None:
        if not self._owed:
            self._progress_s = now
        self._owed[self._generated] = _Owed(bytes(token))
        self._fresh.append(self._generated)

    def finish(self, now: float) -> None:
        """See `TokenSender`."""
        if self._is_finished:
            return
        self._is_finished = True
        if self._fresh:
            self._fin = self._fresh[-1]  # rides on the last token
        else:
            self._owe(b"", now)
            self._fin = self._generated

    def next_timer(self) -> float | None:
        """See `TokenSender`."""
        if self.state != "open" or not (self._owed or self._copies_due):
            return None
        times = [self._progress_s + self._give_up_s] if self._owed else []
        pto_s = self._round_trip.pto_s
        times += [self._due_s(owed, pto_s) for owed in self._owed.values() if owed.packet]
        if self._copies_due:
            times.append(self._copies_due[0][0])
        return min(times)

    @staticmethod
    def _due_s(owed: _Owed, pto_s: float) -> float:
        return owed.sent_s + min(MAX_RTO_S, pto_s * 2**owed.timeouts)

    def packets(self, now: float) -> list[bytes]:
        """See `TokenSender`."""
        if self.state != "open":
            return []
        if self._owed and now >= self._progress_s + self._give_up_s:
            self.state = "gave_up"
            return []
        sent: list[bytes] = []
        while self._copies_due and self._copies_due[0][0] <= now:
            sent.append(heapq.heappop(self._copies_due)[2])
        pto_s = self._round_trip.pto_s
        for index, owed in self._owed.items():
            if owed.packet and self._due_s(owed, pto_s) <= now:
                owed.timeouts += 1
                if index not in self._repeat:
                    self._repeat.append(index)
        for index in self._repeat:
            if index in self._owed:
                self.retransmissions += 1
                self._send([index], now, sent)
        for index in self._fresh:
            self._send([index], now, sent)
        self._repeat, self._fresh = [], []
        return sent

    def _send(self, indices: list[int], now: float, sent: list[bytes]) -> None:
        self._packet += 1
        index = indices[-1]
        is_new = self._owed[index].packet == 0
        token = self._owed[index].token
        is_end_alone = self._is_finished and index == self._generated
        tokens = [] if is_end_alone else [token]
        if is_new and not is_end_alone and self._history:
            tokens = [*self._recent, token]
            self._recent = tokens[-self._history :]
        first = index + 1 - len(tokens) if tokens else index
        for included in {*range(first, index + 1), index}:
            owed = self._owed.get(included)
            if owed is not None:
                owed.packet, owed.sent_s, owed.later = self._packet, now, 0
        datagram = encode_data(Data(0, 0, first, self._packet, tuple(tokens), is_fin=index == self._fin))
        self._sent_s[self._packet] = now
        sent.append(datagram)
        for copy in range(1, self._copies):
            if self._spacing_s == 0:
                sent.append(datagram)
            else:
                due = (now + copy * self._spacing_s, next(self._order), datagram)
                heapq.heappush(self._copies_due, due)

    def on_datagram(self, datagram: bytes, now: float) -> None:
        """See `TokenSender`.

        Raises:
            BadDatagram: it is no acknowledgement.
        """
        if len(datagram) != _SACK_ACK.size or datagram[0] != _SACK_TYPE:
            raise BadDatagram(f"{len(datagram)} bytes that are no selective acknowledgement.")
        _, next_index, echo, _, has_fin, bitmap = _SACK_ACK.unpack(datagram)
        sent_s = self._sent_s.pop(echo, None)
        if sent_s is not None:
            self._round_trip.sample(now - sent_s)
        arrived = [i for i in self._owed if i < next_index or _has(bitmap, i - next_index - 1)]
        if has_fin and self._fin is not None and self._fin in self._owed and self._fin not in arrived:
            arrived.append(self._fin)
        if not arrived:
            return
        packets = [self._owed.pop(i).packet for i in arrived]
        for index, owed in self._owed.items():
            if owed.packet:
                owed.later += sum(packet > owed.packet for packet in packets)
                if owed.later >= REORDERING_PACKETS and index not in self._repeat:
                    self._repeat.append(index)
        self._progress_s = now
        oldest = min((owed.packet for owed in self._owed.values() if owed.packet), default=self._packet)
        for packet in [p for p in self._sent_s if p < oldest - 256]:
            del self._sent_s[packet]
        if self._is_finished and not self._owed:
            self.state = "done"


def _has(bitmap: int, place: int) -> bool:
    return 0 <= place < _BITMAP_TOKENS and bool(bitmap >> place & 1)


class SelectiveRepeatReceiver(Receiver):
    """The client's side: Chatterbox's receiver with a selective acknowledgement."""

    def __init__(self) -> None:
        super().__init__(stream=0)

    def packets(self, now: float) -> list[bytes]:
        """See `TokenReceiver`."""
        if self._ack_at_s is None or now < self._ack_at_s:
            return []
        self._ack_at_s = None
        bitmap = 0
        for index in self._waiting:
            place = index - self.next - 1
            if 0 <= place < _BITMAP_TOKENS:
                bitmap |= 1 << place
        ack = _SACK_ACK.pack(_SACK_TYPE, self.next, self._echo, self._rx_bytes % 2**32, self.is_complete, bitmap)
        self.acks_sent += 1
        self.bytes_sent += len(ack)
        return [ack]
