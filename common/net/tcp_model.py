"""A model of TCP for the event loop, for machines on which ns-3 cannot be had. It is not ns-3's TCP nor a kernel's.

What it has: a three-way handshake, one segment per write (Nagle off), cumulative ACKs, a SACK scoreboard (a segment is lost
when three segments sent later and lying above it were received), retransmissions limited by the congestion window, initial
window 10, NewReno growth, halving in recovery, one segment after a timeout, the timer of RFC 6298 with a minimum and
doubling, delayed ACKs (at once when a hole exists or closes). What it lacks: tail-loss probes, RACK, Cubic, window scaling,
closing. How near it comes to ns-3 is measured in tests/common/net/test_ns3.py: gaps after 1, 2, 3 losses are the same; stall
ratios under random loss lie below ns-3's, within 35 %.
"""

import bisect
import dataclasses
from collections.abc import Callable
from typing import Protocol

from common.net.driver import IP_TCP_HEADER_BYTES, TcpOptions

INITIAL_WINDOW_SEGMENTS = 10
DUPLICATE_THRESHOLD = 3
MAX_RTO_S = 60.0
HANDSHAKE_RTO_S = 1.0


class Timers(Protocol):
    """The part of an event loop that TCP needs."""

    def now(self) -> float: ...

    def at(self, when_s: float, action: Callable[[], None]) -> None: ...


@dataclasses.dataclass(frozen=True)
class Segment:
    """What travels. `ack` is the next byte expected; `sacked` the received ranges above it; `echo_s` a timestamp echo."""

    start: int
    data: bytes
    ack: int
    sacked: tuple[tuple[int, int], ...]
    sent_s: float
    echo_s: float | None
    syn: bool = False
    has_ack: bool = True


@dataclasses.dataclass
class _Outstanding:
    start: int
    data: bytes
    order: int  # transmissions are numbered; a segment sent later has a larger number
    is_sacked: bool = False
    is_lost: bool = False
    in_flight: bool = True

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class TcpEndpoint:
    """One end of a connection: a `Socket`."""

    def __init__(
        self,
        timers: Timers,
        transmit: Callable[[Segment, int], None],
        on_bytes: Callable[[bytes], None],
        options: TcpOptions,
    ) -> None:
        self._timers, self._transmit, self._on_bytes, self._options = timers, transmit, on_bytes, options
        self.retransmissions = 0
        self._is_open = self._is_active = False
        # sending
        self._unsent: list[bytes] = []
        self._outstanding: list[_Outstanding] = []  # in the order of their bytes
        self._next_byte = 0
        self._order = 0
        self._mss = options.segment_bytes
        self._window = float(INITIAL_WINDOW_SEGMENTS * self._mss)
        self._threshold = float("inf")
        self._recover_until = -1
        self._srtt_s: float | None = None
        self._rttvar_s = 0.0
        self._backoff = 1
        # A timer that was re-armed or stopped leaves a stale event behind. It is recognised by this number, which is
        # never used twice.
        self._timer_number = 0
        self._timer_armed = False
        # receiving
        self._expected = 0
        self._ranges: list[tuple[int, bytes]] = []  # out of order, sorted by start
        self._echo_s: float | None = None
        self._unacked_segments = 0
        self._ack_number = 0

    # ------------------------------------------------------------------------------------------------------- opening

    def connect(self) -> None:
        """Begin the handshake; the SYN is repeated until it is answered."""
        self._is_active = True
        self._send_syn(HANDSHAKE_RTO_S)

    def _send_syn(self, wait_s: float) -> None:
        if not self._is_open:
            self._emit(b"", 0, syn=True)
            self._timers.at(self._timers.now() + wait_s, lambda: self._send_syn(min(2 * wait_s, MAX_RTO_S)))

    # ------------------------------------------------------------------------------------------------------- sending

    def send(self, data: bytes) -> None:
        """Write bytes; each write leaves at once in segments of its own if the window allows."""
        for start in range(0, len(data), self._mss):
            self._unsent.append(data[start : start + self._mss])
        self._pump()

    @property
    def rto_s(self) -> float:
        """The current retransmission timeout, RFC 6298 with our minimum and backoff."""
        base_s = HANDSHAKE_RTO_S if self._srtt_s is None else self._srtt_s + 4 * self._rttvar_s
        return min(MAX_RTO_S, max(base_s, self._options.min_rto_s) * self._backoff)

    def _pipe(self) -> int:
        return sum(len(s.data) for s in self._outstanding if s.in_flight and not s.is_sacked)

    def _pump(self) -> None:
        if not self._is_open:
            return
        pipe = self._pipe()
        place = 0
        while place < len(self._outstanding):
            segment = self._outstanding[place]
            if segment.is_lost and not segment.in_flight and not segment.is_sacked:
                if pipe + len(segment.data) > self._window and pipe > 0:
                    return
                # Adjacent lost segments travel together when they are sent again, as a stack with a byte queue sends them.
                while place + 1 < len(self._outstanding):
                    after = self._outstanding[place + 1]
                    is_due = after.is_lost and not after.in_flight and not after.is_sacked
                    if not is_due or len(segment.data) + len(after.data) > self._mss:
                        break
                    segment.data += after.data
                    del self._outstanding[place + 1]
                segment.in_flight, segment.is_lost = True, False
                pipe += len(segment.data)
                self.retransmissions += 1
                self._send_segment(segment)
            place += 1
        while self._unsent and (pipe + len(self._unsent[0]) <= self._window or pipe == 0):
            data = self._unsent.pop(0)
            segment = _Outstanding(self._next_byte, data, 0)
            self._next_byte += len(data)
            self._outstanding.append(segment)
            pipe += len(data)
            self._send_segment(segment)

    def _send_segment(self, segment: _Outstanding) -> None:
        self._order += 1
        segment.order = self._order
        if not self._timer_armed:
            self._arm_timer()
        self._emit(segment.data, segment.start)

    def _arm_timer(self) -> None:
        self._timer_number += 1
        self._timer_armed = True
        number = self._timer_number
        self._timers.at(self._timers.now() + self.rto_s, lambda: self._on_timeout(number))

    def _stop_timer(self) -> None:
        self._timer_number += 1
        self._timer_armed = False

    def _on_timeout(self, number: int) -> None:
        if number != self._timer_number or not self._timer_armed or not self._outstanding:
            return
        self._threshold = max(self._pipe() / 2, 2 * self._mss)
        self._window = float(self._mss)
        self._backoff = min(2 * self._backoff, 64)
        self._recover_until = self._next_byte
        for segment in self._outstanding:
            if not segment.is_sacked:
                segment.is_lost, segment.in_flight = True, False
        self._timer_armed = False
        self._pump()

    def _emit(self, data: bytes, start: int, syn: bool = False) -> None:
        self._ack_number += 1  # whatever leaves carries the ACK, so a delayed one need not be sent
        self._unacked_segments = 0
        segment = Segment(
            start,
            data,
            self._expected,
            self._sack_ranges(),
            self._timers.now(),
            self._echo_s,
            syn,
            has_ack=not (syn and self._is_active),
        )
        self._echo_s = None
        self._transmit(segment, len(data) + IP_TCP_HEADER_BYTES)

    # ----------------------------------------------------------------------------------------------------- receiving

    def on_segment(self, segment: Segment) -> None:
        """Take in a segment from the other end."""
        if self._echo_s is None:
            self._echo_s = segment.sent_s
        if segment.syn:
            was_open, self._is_open = self._is_open, True
            if not self._is_active:
                self._emit(b"", 0, syn=True)
            elif not was_open:
                self._sample(segment)
                self._emit(b"", self._next_byte)
                self._pump()
            return
        if not self._is_open:
            return
        if segment.data:
            self._take(segment)
        if segment.has_ack:
            self._on_ack(segment)

    def _take(self, segment: Segment) -> None:
        had_hole = bool(self._ranges)
        if segment.start + len(segment.data) <= self._expected:
            self._send_ack()  # a repetition: the sender has missed our ACK
            return
        if all(start != segment.start for start, _ in self._ranges):
            bisect.insort(self._ranges, (segment.start, segment.data))
        ready = bytearray()
        while self._ranges and self._ranges[0][0] <= self._expected:
            start, data = self._ranges.pop(0)
            fresh = data[self._expected - start :]
            ready += fresh
            self._expected += len(fresh)
        self._unacked_segments += 1
        if had_hole or self._ranges or self._unacked_segments >= 2 or self._options.delayed_ack_s == 0:
            self._send_ack()
        else:
            number = self._ack_number
            self._timers.at(
                self._timers.now() + self._options.delayed_ack_s,
                lambda: self._send_ack() if number == self._ack_number else None,
            )
        if ready:
            self._on_bytes(bytes(ready))

    def _send_ack(self) -> None:
        self._emit(b"", self._next_byte)

    def _sack_ranges(self) -> tuple[tuple[int, int], ...]:
        merged: list[tuple[int, int]] = []
        for start, data in self._ranges:
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], start + len(data)))
            else:
                merged.append((start, start + len(data)))
        return tuple(merged)

    def _sample(self, segment: Segment) -> None:
        if segment.echo_s is None:
            return
        rtt_s = self._timers.now() - segment.echo_s
        if self._srtt_s is None:
            self._srtt_s, self._rttvar_s = rtt_s, rtt_s / 2
        else:
            self._rttvar_s = 0.75 * self._rttvar_s + 0.25 * abs(self._srtt_s - rtt_s)
            self._srtt_s = 0.875 * self._srtt_s + 0.125 * rtt_s

    def _on_ack(self, ack: Segment) -> None:
        una = self._outstanding[0].start if self._outstanding else self._next_byte
        advanced = ack.ack > una
        if advanced:
            acked_bytes = ack.ack - una
            while self._outstanding and self._outstanding[0].end <= ack.ack:
                self._outstanding.pop(0)
            if self._outstanding and self._outstanding[0].start < ack.ack:
                first = self._outstanding[0]
                first.data = first.data[ack.ack - first.start :]
                first.start = ack.ack
            self._sample(ack)
            self._backoff = 1
            if ack.ack > self._recover_until:
                grow = acked_bytes if self._window < self._threshold else self._mss * acked_bytes / self._window
                self._window += min(grow, self._mss)
            elif self._window < self._threshold:  # slow start after a timeout
                self._window += min(acked_bytes, self._mss)
        for segment in self._outstanding:
            if not segment.is_sacked and any(a <= segment.start and segment.end <= b for a, b in ack.sacked):
                segment.is_sacked = True
        self._mark_losses()
        if advanced:
            self._stop_timer()
            if self._outstanding:
                self._arm_timer()
        self._pump()

    def _mark_losses(self) -> None:
        found = False
        for place, segment in enumerate(self._outstanding):
            if segment.is_sacked or segment.is_lost or not segment.in_flight:
                continue
            above = sum(s.is_sacked and s.order > segment.order for s in self._outstanding[place + 1 :])
            if above >= DUPLICATE_THRESHOLD:
                segment.is_lost, segment.in_flight = True, False
                found = True
        if found and self._outstanding[0].start >= self._recover_until:
            self._threshold = max(self._window / 2, 2 * self._mss)
            self._window = self._threshold
            self._recover_until = self._next_byte
