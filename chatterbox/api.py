"""What a plug-in imports: scenarios, the protocol of a token transport, and the registries.

    from chatterbox.api import METHODS, WORKLOADS, Answer, Scenario

A method makes the two ends of a stream. It has neither clock nor socket: the harness hands it tokens, datagrams and the time,
puts its datagrams on a link, and notes when each token comes out. Importing this module imports neither ns-3 nor aioquic.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from common.errors import ConfigError
from common.experiment import Experiment, Paper, check_in
from common.net.driver import TcpOptions
from common.net.link import LinkSpec
from common.registry import Registry

if TYPE_CHECKING:
    from numpy.random import Generator


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer as a model generates it.

    Attributes:
        times_s: when each token is generated, in s after the first one could have been; does not decrease.
        tokens: the UTF-8 piece of each token; pieces may split a code point.
    """

    times_s: tuple[float, ...]
    tokens: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.times_s) != len(self.tokens):
            raise ConfigError(f"an answer of {len(self.tokens)} tokens with {len(self.times_s)} times.")
        if any(b < a for a, b in itertools.pairwise(self.times_s)) or (self.times_s and self.times_s[0] < 0):
            raise ConfigError("generation times must be >= 0 and not decrease.")


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One answer over one realisation of a network. Every method gets the same.

    Attributes:
        answer: what is streamed.
        link: over what; `link.build()` gives each method the same random network.
    """

    answer: Answer
    link: LinkSpec


class TokenSender(Protocol):
    """The server's end. After each call, the harness sends what `packets(now)` returns. Times in s never decrease."""

    def on_token(self, token: bytes, now: float) -> None:
        """A token was generated."""
        ...

    def finish(self, now: float) -> None:
        """No token will follow; called right after the last `on_token`."""
        ...

    def on_datagram(self, datagram: bytes, now: float) -> None:
        """Something came from the client."""
        ...

    def packets(self, now: float) -> list[bytes]:
        """Datagrams to send now."""
        ...

    def next_timer(self) -> float | None:
        """When `packets` must be called although nothing else happens; None: no need."""
        ...

    @property
    def state(self) -> Literal["open", "done", "gave_up"]:
        """Whether there is more to do."""
        ...


class TokenReceiver(Protocol):
    """The client's end. May send first (a handshake): `packets` is called once at the start."""

    def on_datagram(self, datagram: bytes, now: float) -> list[bytes]:
        """Something came from the server: the tokens that can be rendered now, in order, each exactly once."""
        ...

    def packets(self, now: float) -> list[bytes]:
        """Datagrams to send now."""
        ...

    def next_timer(self) -> float | None:
        """When `packets` must be called although nothing else happens; None: no need."""
        ...


@runtime_checkable
class TokenTransport(Protocol):
    """A way to stream tokens in datagrams: makes the two ends of one stream."""

    def pair(self) -> tuple[TokenSender, TokenReceiver]:
        """Fresh ends, for one stream."""
        ...


@runtime_checkable
class StreamTransport(Protocol):
    """A way to stream tokens in TCP: one write per token, Nagle off.

    Attributes:
        network: whose TCP it is: "ns3" or "loop" (our model).
    """

    network: Literal["ns3", "loop"]

    def tcp_options(self) -> TcpOptions:
        """The connection's options."""
        ...


class Workload(Protocol):
    """A source of scenarios: a kind of answer over a kind of network."""

    def items(self, rng: "Generator", n: int) -> Iterator[Scenario]:
        """n scenarios; the same stream of randomness gives the same ones."""
        ...


METHODS: Registry[Any] = Registry("chatterbox method", ["chatterbox.methods"])
WORKLOADS: Registry[Any] = Registry("chatterbox workload", ["chatterbox.workloads"])
EXPERIMENTS: Registry[type[Experiment]] = Registry("chatterbox experiment", ["chatterbox.experiments"])


PAPER = Paper(
    name="chatterbox",
    title="Chatterbox / Eloquent: Robust Transport for LLM Token Streaming (NAIC 2024)",
    methods=METHODS,
    workloads=WORKLOADS,
    experiments=EXPERIMENTS,
    method_contract=(check_in("chatterbox.contract", "check_method"),),
    workload_contract=(check_in("chatterbox.contract", "check_workload"),),
)
