"""Streams one answer over one network with one method and notes when each token is rendered.

The same code drives every method in the event loop, in ns-3 and over real sockets; only the `Network` differs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from chatterbox.api import Answer, Scenario, StreamTransport, TokenSender, TokenTransport
from chatterbox.framing import Deframer, frame
from common.errors import ConfigError, ReproError
from common.net.driver import Network
from common.net.link import DOWN, UP, Counters, Link
from common.net.loop import LoopNetwork

PORT = 6000
WARM_UP_S = 1.0  # connections open before the answer begins; the handshake is not what is compared
PATIENCE_S = 60.0
_TICK_S = 1e-9  # timers are set a nanosecond late: ns-3 rounds to nanoseconds and must not fire early


class WrongText(ReproError):
    """A transport delivered something else than the server's tokens in their order: a bug in the transport."""


@dataclasses.dataclass(frozen=True)
class Playback:
    """What happened to one answer.

    Attributes:
        generated_s, rendered_s: g and r, (N,), since the network was made; +inf for tokens that were never rendered.
        down, up: what the link did to each direction's packets from the first token on.
        sender: the server's end, for its counters; None for streams.
    """

    generated_s: npt.NDArray[np.float64]
    rendered_s: npt.NDArray[np.float64]
    down: Counters
    up: Counters
    sender: TokenSender | None = None

    @property
    def ip_bytes_per_token(self) -> float:
        """IP bytes of both directions per token."""
        return (self.down.offered_bytes + self.up.offered_bytes) / max(1, len(self.generated_s))


def open_network(kind: str, link: Link) -> Network:
    """A simulated network: "loop" or "ns3".

    Raises:
        ConfigError: another kind.
        Ns3Unavailable: ns-3 cannot be had on this machine.
    """
    if kind == "loop":
        return LoopNetwork(link)
    if kind == "ns3":
        from common.net.ns3 import Ns3Network

        return Ns3Network(link)
    raise ConfigError(f"network={kind!r} is not known. Choose loop or ns3.")


def play(
    scenario: Scenario,
    method: Any,
    network: str = "loop",
    *,
    patience_s: float = PATIENCE_S,
    warm_up_s: float = WARM_UP_S,
) -> Playback:
    """Stream the scenario's answer with a method in simulated time.

    Args:
        scenario: answer and link.
        method: a `TokenTransport` or a `StreamTransport`.
        network: "loop" or "ns3", for datagram methods; a stream method says itself whose TCP it is.
        patience_s: what is not rendered this long after the last token was generated counts as missing.
        warm_up_s: time for handshakes before the first token can be generated.

    Raises:
        WrongText: the method delivered something else than what was sent.
    """
    link = scenario.link.build()
    kind = method.network if isinstance(method, StreamTransport) else network
    net = open_network(kind, link)
    try:
        return play_on(net, link, scenario.answer, method, patience_s=patience_s, warm_up_s=warm_up_s)
    finally:
        net.close()


def play_on(
    net: Network,
    link: Link,
    answer: Answer,
    method: Any,
    *,
    patience_s: float = PATIENCE_S,
    warm_up_s: float = WARM_UP_S,
) -> Playback:
    """As `play`, on a network that is open already; `link` is the one that it uses."""
    generated_s = np.asarray(answer.times_s, dtype=float) + warm_up_s
    screen = _Screen(net, answer)
    before: list[Counters] = []
    net.at(warm_up_s, lambda: before.extend(dataclasses.replace(c) for c in (link.counters[DOWN], link.counters[UP])))
    sender = None
    if isinstance(method, StreamTransport):
        _play_stream(net, answer, generated_s, method, screen)
    elif isinstance(method, TokenTransport):
        sender = _play_datagrams(net, answer, generated_s, method, screen)
    else:
        raise ConfigError(
            f"{method!r} is neither a TokenTransport (pair) nor a StreamTransport (tcp_options, network)."
        )
    net.run((float(generated_s[-1]) if len(generated_s) else warm_up_s) + patience_s)
    down, up = (
        Counters(**{name: value - getattr(start, name) for name, value in dataclasses.asdict(end).items()})
        for end, start in zip((link.counters[DOWN], link.counters[UP]), before, strict=True)
    )
    return Playback(generated_s, np.asarray(screen.rendered_s), down, up, sender)


class _Screen:
    """Checks what is rendered against what was sent, and notes when."""

    def __init__(self, net: Network, answer: Answer) -> None:
        self._net, self._tokens = net, answer.tokens
        self.rendered_s = [float("inf")] * len(answer.tokens)
        self.num_shown = 0

    @property
    def is_complete(self) -> bool:
        return self.num_shown == len(self._tokens)

    def show(self, tokens: list[bytes]) -> None:
        now = self._net.now()
        for token in tokens:
            if self.is_complete or token != self._tokens[self.num_shown]:
                raise WrongText(f"token {self.num_shown} was rendered as {token!r}; the server sent something else.")
            self.rendered_s[self.num_shown] = now
            self.num_shown += 1


def _play_stream(
    net: Network, answer: Answer, generated_s: npt.NDArray[np.float64], method: StreamTransport, screen: _Screen
) -> None:
    options = method.tcp_options()
    deframer = Deframer()

    def receive(data: bytes) -> None:
        screen.show(deframer.feed(data))
        if screen.is_complete:
            net.stop()

    net.tcp_listen(1, PORT, receive, options)
    socket = net.tcp_connect(0, PORT, lambda data: None, options)
    for when_s, token in zip(generated_s, answer.tokens, strict=True):
        net.at(float(when_s), lambda token=token: socket.send(frame(token)))  # type: ignore[misc]


class Pump:
    """Keeps one end going: sends its packets and calls it when its timer is due.

    Args:
        net: clock and timers.
        send: puts a datagram on the network.
        packets, next_timer: of a `TokenSender` or a `TokenReceiver`.
    """

    def __init__(
        self,
        net: Network,
        send: Callable[[bytes], None],
        packets: Callable[[float], list[bytes]],
        next_timer: Callable[[], float | None],
    ) -> None:
        self._net, self._send, self._packets, self._next_timer = net, send, packets, next_timer
        self._armed_s: float | None = None

    def turn(self) -> None:
        """Send what is due and set the timer."""
        for packet in self._packets(self._net.now()):
            self._send(packet)
        due_s = self._next_timer()
        # An event that comes too early only looks and sets the timer again, so one pending event is enough.
        if due_s is not None and (self._armed_s is None or due_s < self._armed_s):
            self._armed_s = due_s
            self._net.at(max(due_s, self._net.now()) + _TICK_S, lambda: self._on_timer(due_s))

    def _on_timer(self, due_s: float) -> None:
        if self._armed_s == due_s:
            self._armed_s = None
        self.turn()


def _play_datagrams(
    net: Network, answer: Answer, generated_s: npt.NDArray[np.float64], method: TokenTransport, screen: _Screen
) -> TokenSender:
    sender, receiver = method.pair()

    def at_server(datagram: bytes) -> None:
        sender.on_datagram(datagram, net.now())
        server.turn()
        if screen.is_complete and sender.state != "open":
            net.stop()

    def at_client(datagram: bytes) -> None:
        screen.show(receiver.on_datagram(datagram, net.now()))
        client.turn()

    def generate(token: bytes, is_last: bool) -> None:
        sender.on_token(token, net.now())
        if is_last:
            sender.finish(net.now())
        server.turn()

    def finish() -> None:
        sender.finish(net.now())
        server.turn()

    server = Pump(net, net.udp(0, PORT, at_server).send, sender.packets, sender.next_timer)
    client = Pump(net, net.udp(1, PORT, at_client).send, receiver.packets, receiver.next_timer)
    net.at(0.0, client.turn)
    last = len(answer.tokens) - 1
    for place, (when_s, token) in enumerate(zip(generated_s, answer.tokens, strict=True)):
        net.at(float(when_s), lambda token=token, is_last=place == last: generate(token, is_last))  # type: ignore[misc]
    if last < 0:
        net.at(WARM_UP_S, finish)
    return sender
