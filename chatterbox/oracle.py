"""The lower bound for any scheme that sends once per token: a packet that arrives shows all that was generated before it left.

Not a transport: the client looks tokens up in the server's memory, so it works in one process only. If no packet is lost any more
after the last token, a timer repeats the last packet, as in Chatterbox.
"""

import struct

from chatterbox.core import State
from chatterbox.timers import RoundTrip

_MARK = struct.Struct("!BIIQ")


class OracleSender:
    """Sends one small packet per token: the number of tokens so far."""

    def __init__(self) -> None:
        self.state: State = "open"
        self.tokens: list[bytes] = []
        self._is_finished = self._wants_to_send = False
        self._round_trip = RoundTrip()
        self._sent: dict[int, float] = {}
        self._packet = 0
        self._acked = 0
        self._deadline_s: float | None = None

    def on_token(self, token: bytes, now: float) -> None:
        """See `TokenSender`."""
        self.tokens.append(token)
        self._wants_to_send = True

    def finish(self, now: float) -> None:
        """See `TokenSender`."""
        self._is_finished = True

    def next_timer(self) -> float | None:
        """See `TokenSender`."""
        return self._deadline_s if self.state == "open" else None

    def packets(self, now: float) -> list[bytes]:
        """See `TokenSender`."""
        is_due = self._deadline_s is not None and now >= self._deadline_s
        if self.state != "open" or not (self._wants_to_send or is_due):
            return []
        if not self._wants_to_send:
            self._round_trip.on_timeout()
        self._wants_to_send = False
        self._packet += 1
        self._sent[self._packet] = now
        self._deadline_s = now + self._round_trip.pto_s
        return [_MARK.pack(1, self._packet, len(self.tokens), 0)]

    def on_datagram(self, datagram: bytes, now: float) -> None:
        """See `TokenSender`."""
        _, packet, count, _ = _MARK.unpack(datagram)
        sent_s = self._sent.pop(packet, None)
        if sent_s is not None:
            self._round_trip.sample(now - sent_s)
        if count > self._acked:
            self._acked = count
            self._round_trip.on_progress()
        if self._acked == len(self.tokens):
            self._deadline_s = None
            if self._is_finished:
                self.state = "done"


class OracleReceiver:
    """Shows what the sender had generated."""

    def __init__(self, sender: OracleSender) -> None:
        self._sender = sender
        self._shown = 0
        self._acks: list[bytes] = []

    def on_datagram(self, datagram: bytes, now: float) -> list[bytes]:
        """See `TokenReceiver`."""
        _, packet, count, _ = _MARK.unpack(datagram)
        ready = self._sender.tokens[self._shown : count]
        self._shown = max(self._shown, count)
        self._acks.append(_MARK.pack(2, packet, self._shown, 0))
        return ready

    def packets(self, now: float) -> list[bytes]:
        """See `TokenReceiver`."""
        acks, self._acks = self._acks, []
        return acks

    def next_timer(self) -> float | None:
        """See `TokenReceiver`."""
        return None
