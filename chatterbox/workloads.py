"""Scenarios: generated answers over named networks. Every knob has its unit in its name."""

import dataclasses
import functools
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.random import Generator

from chatterbox.api import WORKLOADS, Answer, Scenario
from common.data.synthetic import FAMILIES, generate
from common.errors import ConfigError
from common.net.link import Direction, LinkSpec
from common.net.loss import Bernoulli, GilbertElliott, LossModel
from common.net.presets import link_from_traces, preset
from common.net.rate import ConstantRate

INTERVAL_VARIATION = 0.3  # coefficient of variation of the times between tokens


@functools.cache
def text_pieces() -> tuple[bytes, ...]:
    """Tokens of running text: the bundled tokenizer's pieces of the generators' texts, about 5 bytes on average."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(
        (resources.files("common.models") / "bundled" / "small" / "tokenizer.json").read_text(encoding="utf-8")
    )
    text = "".join(
        f" {chunk}" for family in FAMILIES for item in generate(family, "train", seed=7, n=4) for chunk in item.chunks
    )
    return tuple(text[start:end].encode() for start, end in tokenizer.encode(text).offsets if end > start)


def make_answer(
    rng: Generator,
    num_tokens: int,
    tokens_per_s: float,
    pause_probability: float = 0.0,
    token_bytes: int | None = None,
) -> Answer:
    """A synthetic answer: Gamma intervals with mean 1 / `tokens_per_s`, optional server pauses of 300 to 800 ms.

    Args:
        rng: randomness.
        num_tokens: how many tokens.
        tokens_per_s: mean rate without pauses.
        pause_probability: chance per token that the server pauses before it.
        token_bytes: size of every token; None: pieces of real text.
    """
    shape = 1 / INTERVAL_VARIATION**2
    gaps_s = rng.gamma(shape, 1 / (shape * tokens_per_s), num_tokens)
    if pause_probability:
        gaps_s += (rng.random(num_tokens) < pause_probability) * rng.uniform(0.3, 0.8, num_tokens)
    times_s = np.cumsum(gaps_s)
    if token_bytes is None:
        pieces = text_pieces()
        start = int(rng.integers(len(pieces)))
        tokens = tuple(pieces[(start + place) % len(pieces)] for place in range(num_tokens))
    else:
        tokens = (b"x" * token_bytes,) * num_tokens
    return Answer(tuple(times_s.tolist()), tokens)


@dataclasses.dataclass(frozen=True)
class _Generated:
    num_tokens: int = 500
    tokens_per_s: float = 30.0
    pause_probability: float = 0.0
    token_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.num_tokens < 1 or self.tokens_per_s <= 0 or not 0 <= self.pause_probability <= 1:
            raise ConfigError("need num_tokens >= 1, tokens_per_s > 0 and a pause_probability between 0 and 1.")
        if self.token_bytes is not None and not 0 <= self.token_bytes <= 1000:
            raise ConfigError(f"token_bytes={self.token_bytes} must be between 0 and 1000.")
        self._link(0, 0.0)

    def _link(self, seed: int, phase: float) -> LinkSpec:
        raise AssertionError("defined by each workload")

    def items(self, rng: Generator, n: int) -> Iterator[Scenario]:
        """See `Workload`."""
        for item_rng in rng.spawn(n):  # one stream each: item 7 is the same whether 10 or 100 are asked for
            seed, phase = int(item_rng.integers(2**31)), float(item_rng.random())
            answer = make_answer(item_rng, self.num_tokens, self.tokens_per_s, self.pause_probability, self.token_bytes)
            yield Scenario(answer, self._link(seed, phase))


# DEVIATION chatterbox-4: the networks are ours; those of the paper are not known to us.
@WORKLOADS.add("bursty")
@dataclasses.dataclass(frozen=True)
class Bursty(_Generated):
    """Loss in bursts (continuous-time Gilbert-Elliott) in both directions; the base of every sweep."""

    rtt_s: float = 0.1
    mean_good_s: float = 2.0
    mean_bad_s: float = 0.2
    ack_loss: bool = True

    def _link(self, seed: int, phase: float) -> LinkSpec:
        return _both_ways(self.rtt_s, GilbertElliott(self.mean_good_s, self.mean_bad_s), seed, self.ack_loss)


@WORKLOADS.add("independent")
@dataclasses.dataclass(frozen=True)
class Independent(_Generated):
    """Each packet is lost with the same probability, in both directions."""

    rtt_s: float = 0.1
    loss: float = 0.05

    def _link(self, seed: int, phase: float) -> LinkSpec:
        return _both_ways(self.rtt_s, Bernoulli(self.loss), seed, True)


def _both_ways(rtt_s: float, loss: LossModel, seed: int, ack_loss: bool) -> LinkSpec:
    down = Direction(ConstantRate(10e6), rtt_s / 2, loss=loss)
    return LinkSpec(down, down if ack_loss else Direction(ConstantRate(10e6), rtt_s / 2), seed)


@dataclasses.dataclass(frozen=True)
class _Preset(_Generated):
    def _link(self, seed: int, phase: float) -> LinkSpec:
        return preset(type(self).__name__.lower()).link(seed)


@WORKLOADS.add("stable")
@dataclasses.dataclass(frozen=True)
class Stable(_Preset):
    """A good network: 0.1 % independent loss, round trip 50 ms."""


@WORKLOADS.add("walk")
@dataclasses.dataclass(frozen=True)
class Walk(_Preset):
    """Walking with LTE: bursts of 0.25 s every 1.5 s (14 % loss), round trip 60 ms."""


@WORKLOADS.add("bus")
@dataclasses.dataclass(frozen=True)
class Bus(_Preset):
    """On a bus: bursts of 0.5 s every 5 s (9 % loss), round trip 80 ms."""


@WORKLOADS.add("train")
@dataclasses.dataclass(frozen=True)
class Train(_Preset):
    """On a train: bursts of 1 s every 10 s and a tunnel of 5 to 10 s in two minutes, round trip 100 ms."""


@WORKLOADS.add("trace")
@dataclasses.dataclass(frozen=True)
class TraceDriven(_Generated):
    """A recorded network from a file, each item from another place in it."""

    path: str = ""
    up_path: str = ""
    rtt_s: float = 0.1
    queue_packets: int = 1000
    burst_loss: bool = False

    def __post_init__(self) -> None:
        if self.path:
            super().__post_init__()

    def _link(self, seed: int, phase: float) -> LinkSpec:
        if not self.path:
            raise ConfigError("workload trace needs +workload_args.path=FILE (formats: common/net/traces.py).")
        extra = GilbertElliott(2.0, 0.2) if self.burst_loss else None
        up = Path(self.up_path) if self.up_path else None
        return link_from_traces(
            Path(self.path),
            up,
            seed=seed,
            phase=phase,
            rtt_s=self.rtt_s,
            queue_packets=self.queue_packets,
            extra_loss=extra,
        )
