"""Chatterbox's sender and receiver, without clock or socket.

    tokens --on_token--> Sender --packets--> [network] --> Receiver --> tokens in order
                           ^------on_datagram-- [network] <--packets--'

Symbols of the paper's description: U(t), the unacknowledged tokens, is `_tokens` from `base` on; M is `max_packet_bytes`.
When a token is generated, the next packet carries it and all tokens of U, as far as they fit (Chatterbox, the scheme).
"""

import collections
import dataclasses
from typing import Literal

from chatterbox.congestion import make_budget
from chatterbox.timers import RoundTrip
from chatterbox.wire import (
    DATA_HEADER_BYTES,
    MAX_COUNT,
    MAX_INDEX,
    MAX_TOKEN_BYTES,
    Ack,
    BadDatagram,
    Data,
    decode_ack,
    decode_data,
    encode_ack,
    encode_data,
    token_size,
)
from common.errors import ConfigError, ReproError

REPEAT_INTERVAL_S = 0.02  # a burst that cannot hold all that is owed is not repeated sooner than this without feedback
Packing = Literal["oldest_first", "newest_first", "oldest_only"]
PACKINGS = ("oldest_first", "newest_first", "oldest_only")
State = Literal["open", "done", "gave_up"]


class StreamBroken(ReproError):
    """The peer did not answer in time, or has reset the stream."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the protocol leaves open.

    Attributes:
        max_packet_bytes: M, the largest datagram payload.
        packing: what to send if U does not fit into one packet (inferred). "oldest_first": packets from the oldest token on,
            since only that one unblocks rendering; "newest_first": one packet that ends with the newest token, then from the
            oldest on; "oldest_only": one packet from the oldest token on.
        burst_packets: how many packets may leave at once for one reason; then feedback is waited for.
        max_tokens_per_packet: cap for experiments; 0 means as many as fit.
        congestion: "none" (the paper's scheme) or "budget".
        tail_timer: send again when a timeout passes without a new token. Without it a lost last token is lost for ever.
        min_pto_s: lower bound of that timeout.
        give_up_s: the stream is given up after this long without progress.
    """

    max_packet_bytes: int = 1200
    packing: Packing = "oldest_first"
    burst_packets: int = 2
    max_tokens_per_packet: int = 0
    congestion: Literal["none", "budget"] = "none"
    tail_timer: bool = True
    min_pto_s: float = 0.05
    give_up_s: float = 60.0

    def __post_init__(self) -> None:
        if not 64 <= self.max_packet_bytes <= 65_000:
            raise ConfigError(f"max_packet_bytes={self.max_packet_bytes} must be between 64 and 65000.")
        if self.packing not in PACKINGS:
            raise ConfigError(f"packing={self.packing!r} is not known. Choose one of {', '.join(PACKINGS)}.")
        if self.burst_packets < 1 or self.max_tokens_per_packet < 0:
            raise ConfigError("burst_packets must be >= 1 and max_tokens_per_packet >= 0.")
        if self.min_pto_s <= 0 or self.give_up_s <= 0:
            raise ConfigError("min_pto_s and give_up_s must be > 0.")
        make_budget(self.congestion)

    @property
    def max_token_bytes(self) -> int:
        """The largest token that fits into a packet; longer ones must be split by the caller."""
        return min(MAX_TOKEN_BYTES, self.max_packet_bytes - DATA_HEADER_BYTES - 2)


class Sender:
    """The server's side of one stream.

    After each call of `on_token`, `finish`, `on_datagram`, and when `next_timer()` has come, call `packets(now)` and send what it
    returns. Times are in s and must not decrease.

    Attributes:
        base: the oldest token that is not acknowledged.
        state: "open"; "done" when the receiver has everything and knows the end; "gave_up" after `give_up_s` without progress.
        packets_sent, bytes_sent: datagrams and payload bytes so far.
        timeouts: how often the tail timer has fired.
    """

    def __init__(self, settings: Settings | None = None, stream: int = 0) -> None:
        self.settings = settings or Settings()
        self.stream = stream
        self.base = 0
        self.state: State = "open"
        self.packets_sent = self.bytes_sent = self.timeouts = 0
        self.round_trip = RoundTrip(self.settings.min_pto_s)
        self._budget = make_budget(self.settings.congestion)
        self._tokens: collections.deque[bytes] = collections.deque()  # those from `base` on
        self._generated = 0
        self._offered = 0  # tokens below this index have been in some packet
        self._is_finished = self._fin_offered = False
        self._wants_to_send = False  # something has happened that the next packet should tell
        self._deadline_s: float | None = None
        self._last_burst_s = -1.0
        # First packet of the last burst, if that could not hold all that was owed.
        self._crowded_packet: int | None = None
        self._progress_s: float | None = None  # when the peer last acknowledged something new
        self._packet = 0
        self._sent_s: collections.OrderedDict[int, float] = collections.OrderedDict()

    @property
    def unacknowledged(self) -> int:
        """|U|, in tokens."""
        return self._generated - self.base

    def on_token(self, token: bytes, now: float) -> None:
        """A token was generated.

        Raises:
            ValueError: the stream was finished, or the token is larger than a packet.
        """
        if self._is_finished:
            raise ValueError("a token after the end of the stream.")
        if len(token) > self.settings.max_token_bytes:
            raise ValueError(
                f"a token of {len(token)} bytes does not fit into a packet; split it into pieces of at most "
                f"{self.settings.max_token_bytes}."
            )
        if self._generated >= MAX_INDEX:
            raise ValueError(f"a stream has at most {MAX_INDEX} tokens.")
        if self._progress_s is None or not self._tokens:
            self._progress_s = now  # nothing was owed until now, so the peer was not silent
        self._tokens.append(bytes(token))
        self._generated += 1
        self._wants_to_send = True

    def finish(self, now: float) -> None:
        """No token will follow. The end is sent with the last token, or at once if that has left already."""
        if not self._is_finished and not self._tokens:
            self._progress_s = now
        self._wants_to_send = self._wants_to_send or not self._is_finished
        self._is_finished = True

    @property
    def _owes(self) -> bool:
        return self.state == "open" and (bool(self._tokens) or self._is_finished)

    @property
    def _has_news(self) -> bool:
        return self._offered < self._generated or (self._is_finished and not self._fin_offered)

    def _allowed_at(self, now: float) -> float:
        """The earliest time at which a burst may leave."""
        allowed_s = self._budget.allowed_at(now)
        if self._crowded_packet is not None:
            # Much the same tokens again: a server that hands over a long answer at once must not cause a burst per token.
            allowed_s = max(allowed_s, self._last_burst_s + REPEAT_INTERVAL_S)
        return allowed_s

    def next_timer(self) -> float | None:
        """When `packets` should be called at the latest if nothing else happens; None: no need."""
        if not self._owes:
            return None
        assert self._progress_s is not None
        times = [self._progress_s + self.settings.give_up_s]
        if self._deadline_s is not None and self.settings.tail_timer:
            times.append(max(self._deadline_s, self._allowed_at(self._deadline_s)))
        if self._wants_to_send:
            times.append(self._allowed_at(0.0))
        return min(times)

    def probe(self) -> bytes:
        """An empty packet that shows the peer that we are there; the peer acknowledges it."""
        self._packet += 1
        return encode_data(Data(self.stream, self.base, self.base, self._packet, (), is_probe=True))

    def packets(self, now: float) -> list[bytes]:
        """The datagrams to send now, possibly none."""
        if not self._owes:
            return []
        assert self._progress_s is not None
        if now >= self._progress_s + self.settings.give_up_s:
            self.state = "gave_up"
            return []
        is_due = self.settings.tail_timer and self._deadline_s is not None and now >= self._deadline_s
        if not (self._wants_to_send or is_due) or self._allowed_at(now) > now:
            return []
        is_timeout = is_due and not self._wants_to_send
        if is_timeout:
            self.timeouts += 1
            self.round_trip.on_timeout()
        self._wants_to_send = False
        sent = self._burst(now, is_timeout)
        self._deadline_s = now + self.round_trip.pto_s
        self._last_burst_s = now
        return sent

    def _burst(self, now: float, is_timeout: bool) -> list[bytes]:
        settings = self.settings
        sent: list[bytes] = []
        at = self.base
        num_packets = 1 if settings.packing == "oldest_only" else settings.burst_packets
        # After a timeout the oldest token must go, or with one packet per burst it would never be sent again.
        if settings.packing == "newest_first" and not is_timeout:
            first = self._first_of_newest()
            if first > self.base:
                sent.append(self._packet_from(first, now))
                num_packets -= 1
        while num_packets > 0 and (at < self._generated or not sent) and self._budget.allowed_at(now) <= now:
            datagram, at = self._packet_up_to(at, now)
            sent.append(datagram)
            num_packets -= 1
        self._crowded_packet = self._packet - len(sent) + 1 if at < self._generated else None
        return sent

    def _limit(self) -> int:
        return self.settings.max_tokens_per_packet or MAX_COUNT

    def _first_of_newest(self) -> int:
        room = self.settings.max_packet_bytes - DATA_HEADER_BYTES
        first = self._generated
        for token in reversed(self._tokens):
            room -= token_size(token)
            if room < 0 or self._generated - first >= self._limit():
                break
            first -= 1
        return first

    def _packet_from(self, first: int, now: float) -> bytes:
        return self._packet_up_to(first, now)[0]

    def _packet_up_to(self, first: int, now: float) -> tuple[bytes, int]:
        """One packet of the tokens from `first` on, as many as fit; and the index after its last one."""
        room = self.settings.max_packet_bytes - DATA_HEADER_BYTES
        tokens: list[bytes] = []
        limit = self._limit()
        for place in range(first - self.base, len(self._tokens)):
            token = self._tokens[place]
            room -= token_size(token)
            if room < 0 or len(tokens) >= limit:
                break
            tokens.append(token)
        end = first + len(tokens)
        is_fin = self._is_finished and end == self._generated
        self._packet += 1
        datagram = encode_data(Data(self.stream, self.base, first, self._packet, tuple(tokens), is_fin))
        self._sent_s[self._packet] = now
        if len(self._sent_s) > 4096:  # a peer that never answers must not fill our memory
            self._sent_s.popitem(last=False)
        self._offered = max(self._offered, end)
        self._fin_offered = self._fin_offered or is_fin
        self.packets_sent += 1
        self.bytes_sent += len(datagram)
        self._budget.on_sent(now, self._packet, len(datagram))
        return datagram, end

    def on_datagram(self, datagram: bytes, now: float) -> None:
        """An ACK arrived. Repeated and overtaken ACKs do no harm; one of another stream is ignored.

        Raises:
            BadDatagram: it is no ACK, or acknowledges what was never sent.
        """
        self.on_ack(decode_ack(datagram), now)

    def on_ack(self, ack: Ack, now: float) -> None:
        """As `on_datagram`, for a parsed ACK."""
        if ack.stream != self.stream or self.state != "open":
            return
        if ack.next > self._offered or ack.echo > self._packet:
            raise BadDatagram(
                f"ACK next={ack.next}, echo={ack.echo}: {self._offered} tokens, {self._packet} packets sent."
            )
        sent_s = self._sent_s.pop(ack.echo, None)
        if sent_s is not None:
            self.round_trip.sample(now - sent_s)
        has_end = ack.has_fin and self._is_finished and ack.next == self._generated
        made_progress = ack.next > self.base or has_end
        self._budget.on_ack(now, ack.echo, ack.rx_bytes)
        if made_progress:
            while self.base < ack.next:
                self._tokens.popleft()
                self.base += 1
            while self._sent_s and next(iter(self._sent_s)) <= ack.echo:
                self._sent_s.popitem(last=False)
            self.round_trip.on_progress()
            self._progress_s = now
        if self._crowded_packet is not None and ack.echo >= self._crowded_packet:
            # News of a burst that did not hold everything: time for the next one.
            self._crowded_packet = None
            self._wants_to_send = self._wants_to_send or self._has_news
        if has_end:
            self.state = "done"
        if self.base == self._generated and not self._is_finished:
            self._deadline_s = None


class Receiver:
    """The client's side of one stream. Call `on_datagram` for each arrival, then send what `packets(now)` returns.

    Args:
        stream: packets of other streams are ignored; None takes that of the first packet.
        ack_every: acknowledge every n-th packet (inferred: the paper's frequency is not known). Packets that repeat, skip or end
            something are acknowledged at once, others after at most `max_ack_delay_s`.
        max_buffered_tokens, max_buffered_bytes: bound of what may wait for an earlier token; more is dropped, and sent again.

    Attributes:
        next: the first token that is not there contiguously.
        total: number of tokens of the whole stream, once known.
        is_complete: all tokens were delivered.
    """

    def __init__(
        self,
        stream: int | None = None,
        ack_every: int = 1,
        max_ack_delay_s: float = 0.04,
        max_buffered_tokens: int = 4096,
        max_buffered_bytes: int = 1 << 20,
    ) -> None:
        if ack_every < 1:
            raise ConfigError(f"ack_every={ack_every} must be >= 1.")
        self.stream = stream
        self.next = 0
        self.total: int | None = None
        self.acks_sent = self.bytes_sent = 0
        self._ack_every, self._max_ack_delay_s = ack_every, max_ack_delay_s
        self._max_tokens, self._max_bytes = max_buffered_tokens, max_buffered_bytes
        self._waiting: dict[int, bytes] = {}
        self._waiting_bytes = 0
        self._rx_bytes = 0
        self._echo = 0
        self._unacknowledged = 0
        self._ack_at_s: float | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the end is known and everything before it was delivered."""
        return self.total is not None and self.next == self.total

    @property
    def buffered_tokens(self) -> int:
        """Tokens that wait for an earlier one."""
        return len(self._waiting)

    def on_datagram(self, datagram: bytes, now: float) -> list[bytes]:
        """A DATA datagram arrived: the tokens that can be rendered now, in order; each is returned exactly once.

        Raises:
            BadDatagram: it is no DATA, or contradicts where the stream ends.
        """
        data = decode_data(datagram)
        if self.stream is None:
            self.stream = data.stream
        if data.stream != self.stream:
            return []
        if data.is_fin and self.total not in (None, data.end):
            raise BadDatagram(f"FIN after token {data.end}; the stream was said to end after {self.total}.")
        if (self.total is not None and data.end > self.total) or (data.is_fin and data.end < self.next):
            raise BadDatagram(
                f"tokens up to {data.end}; the stream ends after {self.total}, {self.next} were delivered."
            )
        if data.is_fin:
            self.total = data.end
        self._rx_bytes += len(datagram)
        before = self.next
        ready: list[bytes] = []
        for index, token in enumerate(data.tokens, data.first):
            if index == self.next:
                ready.append(token)
                self.next += 1
                self._drop_waiting(index)
            elif index > self.next:
                self._keep(index, token)
        while self.next in self._waiting:
            ready.append(self._waiting[self.next])
            self._drop_waiting(self.next)
            self.next += 1
        self._echo = data.packet
        self._unacknowledged += 1
        is_urgent = data.is_fin or self.next == before or data.first > before
        if is_urgent or self._unacknowledged >= self._ack_every:
            self._ack_at_s = now
        elif self._ack_at_s is None:
            self._ack_at_s = now + self._max_ack_delay_s
        return ready

    def _keep(self, index: int, token: bytes) -> None:
        is_far = index - self.next > self._max_tokens
        if index in self._waiting or is_far or self._waiting_bytes + len(token) > self._max_bytes:
            return
        self._waiting[index] = token
        self._waiting_bytes += len(token)

    def _drop_waiting(self, index: int) -> None:
        token = self._waiting.pop(index, None)
        if token is not None:
            self._waiting_bytes -= len(token)

    def next_timer(self) -> float | None:
        """When `packets` should be called at the latest; None: no need."""
        return self._ack_at_s

    def packets(self, now: float) -> list[bytes]:
        """The ACK to send now, if any."""
        if self._ack_at_s is None or now < self._ack_at_s:
            return []
        self._ack_at_s = None
        self._unacknowledged = 0
        ack = self.acknowledgement()
        self.acks_sent += 1
        self.bytes_sent += len(ack)
        return [ack]

    def acknowledgement(self) -> bytes:
        """An ACK of what is there now; sending one too many does no harm."""
        assert self.stream is not None, "no packet has arrived yet"
        return encode_ack(Ack(self.stream, self.next, self._echo, self._rx_bytes, self.is_complete))
