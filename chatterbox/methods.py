"""The transports: Chatterbox and every baseline, under the names of the figures' legends."""

from dataclasses import dataclass
from typing import Literal

from chatterbox.api import METHODS, TokenReceiver, TokenSender
from chatterbox.core import Packing, Receiver, Sender, Settings
from chatterbox.oracle import OracleReceiver, OracleSender
from chatterbox.selective_repeat import SelectiveRepeatReceiver, SelectiveRepeatSender
from chatterbox.state_sync import StateSyncSender
from common.errors import ConfigError
from common.net.driver import TcpOptions

Pair = tuple[TokenSender, TokenReceiver]


# DEVIATION chatterbox-1: wire format, ACK per packet, tail timer and overflow policy are ours; the paper's are not known to us.
@METHODS.add("chatterbox", label="Chatterbox", color="#D55E00", marker="*")
@dataclass(frozen=True)
class Chatterbox:
    """Each packet carries the new token and all unacknowledged ones, as far as they fit (Chatterbox)."""

    max_packet_bytes: int = 1200
    packing: Packing = "oldest_first"
    burst_packets: int = 2
    max_tokens_per_packet: int = 0
    congestion: Literal["none", "budget"] = "none"
    tail_timer: bool = True
    ack_every: int = 1

    def __post_init__(self) -> None:
        self.pair()  # refuses wrong knobs

    def pair(self) -> Pair:
        """See `TokenTransport`."""
        settings = Settings(
            self.max_packet_bytes,
            self.packing,
            self.burst_packets,
            self.max_tokens_per_packet,
            self.congestion,
            self.tail_timer,
        )
        return Sender(settings), Receiver(ack_every=self.ack_every)


@METHODS.add("chatterbox_budget", label="Chatterbox, budget", color="#E69F00", marker="P")
@dataclass(frozen=True)
class ChatterboxBudget:
    """Chatterbox that sends no more than was last delivered while feedback is missing (ours)."""

    max_packet_bytes: int = 1200

    def pair(self) -> Pair:
        """See `TokenTransport`."""
        return Sender(Settings(self.max_packet_bytes, congestion="budget")), Receiver()


@dataclass(frozen=True)
class _Ns3Tcp:
    """TCP of ns-3; Nagle off."""

    min_rto_s: float = 1.0
    delayed_ack_s: float = 0.2
    congestion: Literal["cubic", "newreno", "bbr"] = "cubic"

    network: Literal["ns3", "loop"] = "ns3"

    def __post_init__(self) -> None:
        _check_stream(self.network, "ns3")
        self.tcp_options()

    def tcp_options(self) -> TcpOptions:
        """See `StreamTransport`."""
        return TcpOptions(self.min_rto_s, self.delayed_ack_s, congestion=self.congestion)


# DEVIATION chatterbox-2: TCP is ns-3 3.44's; the paper's simulator and its TCP parameters are not known to us.
@METHODS.add("tcp_ns3", label="TCP (ns-3 defaults)", color="#0072B2", marker="o")
@dataclass(frozen=True)
class TcpNs3(_Ns3Tcp):
    """TCP of ns-3 with its defaults: Cubic, SACK, minimum RTO 1 s, delayed ACK 200 ms; Nagle off."""


@METHODS.add("tcp_linux_timers", label="TCP (ns-3, Linux timers)", color="#56B4E9", marker="s")
@dataclass(frozen=True)
class TcpLinuxTimers(_Ns3Tcp):
    """TCP of ns-3 with Linux' timers: minimum RTO 200 ms, delayed ACK 40 ms; Nagle off."""

    min_rto_s: float = 0.2
    delayed_ack_s: float = 0.04


@METHODS.add("tcp_model", label="TCP (our model)", color="#8C6D31", marker="v")
@dataclass(frozen=True)
class TcpModel:
    """Our model of TCP in the event loop, for machines without ns-3; approximate, see common/net/tcp_model.py."""

    min_rto_s: float = 1.0
    delayed_ack_s: float = 0.2

    network: Literal["ns3", "loop"] = "loop"

    def __post_init__(self) -> None:
        _check_stream(self.network, "loop")
        self.tcp_options()

    def tcp_options(self) -> TcpOptions:
        """See `StreamTransport`."""
        return TcpOptions(self.min_rto_s, self.delayed_ack_s, congestion="newreno")


def _check_stream(network: str, expected: str) -> None:
    if network != expected:
        raise ConfigError(f"network={network!r} cannot be changed for this method; it is {expected}.")


# DEVIATION chatterbox-3: copies, their spacing and the recovery behind duplication are ours; the paper's are not known to us.
@METHODS.add("duplication", label="Duplication (back to back)", color="#009E73", marker="^")
@dataclass(frozen=True)
class Duplication:
    """Every packet is sent twice, one right after the other; selective repeat recovers the rest."""

    copies: int = 2

    def __post_init__(self) -> None:
        self.pair()

    def pair(self) -> Pair:
        """See `TokenTransport`."""
        return SelectiveRepeatSender(self.copies), SelectiveRepeatReceiver()


@METHODS.add("duplication_spaced", label="Duplication (20 ms apart)", color="#66A61E", marker="D")
@dataclass(frozen=True)
class DuplicationSpaced:
    """Every packet is sent twice, some time apart; selective repeat recovers the rest."""

    copies: int = 2
    spacing_s: float = 0.02

    def __post_init__(self) -> None:
        self.pair()

    def pair(self) -> Pair:
        """See `TokenTransport`."""
        return SelectiveRepeatSender(self.copies, self.spacing_s), SelectiveRepeatReceiver()


@METHODS.add("selective_repeat", label="Selective repeat (UDP)", color="#CC79A7", marker="X")
@dataclass(frozen=True)
class SelectiveRepeat:
    """One packet per token over UDP, lost ones sent again: separates redundancy from "not TCP"."""

    def pair(self) -> Pair:
        """See `TokenTransport`."""
        return SelectiveRepeatSender(), SelectiveRepeatReceiver()


@METHODS.add("fixed_redundancy", label="Previous k tokens", color="#5E4FA2", marker="<")
@dataclass(frozen=True)
class FixedRedundancy:
    """Each packet repeats the previous k tokens whatever was acknowledged, as RFC 2198 and RFC 4103 do."""

    k: int = 2

    def __post_init__(self) -> None:
        self.pair()

    def pair(self) -> Pair:
        """See `TokenTransport`."""
        return SelectiveRepeatSender(history=self.k), SelectiveRepeatReceiver()


@METHODS.add("state_sync", label="State sync (Mosh-like)", color="#7F7F7F", marker=">")
@dataclass(frozen=True)
class StateSync:
    """Differences since the last acknowledged state, paced by half a round trip, as Mosh does."""

    def pair(self) -> Pair:
        """See `TokenTransport`."""
        return StateSyncSender(), Receiver()


@METHODS.add("fec", label="FEC", color="#B2182B", marker="p")
@dataclass(frozen=True)
class Fec:
    """Repair packets (Reed-Solomon) after every group of tokens; selective repeat recovers the rest."""

    group: int = 4
    repairs: int = 1

    def __post_init__(self) -> None:
        self.pair()

    def pair(self) -> Pair:
        """See `TokenTransport`."""
        from chatterbox.erasure import ErasureReceiver, ErasureSender

        return ErasureSender(self.group, self.repairs), ErasureReceiver()


@METHODS.add("quic_stream", label="QUIC stream", color="#4D4D4D", marker="h")
@dataclass(frozen=True)
class QuicStream:
    """One QUIC stream (aioquic), as HTTP/3 would carry server-sent events."""

    congestion: Literal["reno", "cubic"] = "cubic"

    def pair(self) -> Pair:
        """See `TokenTransport`."""
        from chatterbox.quic import QuicReceiver, QuicSender

        return QuicSender("stream", self.congestion, Settings()), QuicReceiver("stream", self.congestion)


@METHODS.add("chatterbox_quic", label="Chatterbox in QUIC datagrams", color="#F4A582", marker="d")
@dataclass(frozen=True)
class ChatterboxQuic:
    """Chatterbox in unreliable QUIC datagrams (RFC 9221): encrypted, with QUIC's congestion control underneath."""

    congestion: Literal["reno", "cubic"] = "cubic"

    def pair(self) -> Pair:
        """See `TokenTransport`."""
        from chatterbox.quic import DATAGRAM_BYTES, QuicReceiver, QuicSender

        settings = Settings(DATAGRAM_BYTES, congestion="budget")
        return QuicSender("datagrams", self.congestion, settings), QuicReceiver("datagrams", self.congestion)


@METHODS.add("oracle", label="Oracle (lower bound)", color="#000000", marker="1")
@dataclass(frozen=True)
class Oracle:
    """Lower bound for schemes that send once per token: each arriving packet shows all that was generated before it."""

    def pair(self) -> Pair:
        """See `TokenTransport`."""
        sender = OracleSender()
        return sender, OracleReceiver(sender)
