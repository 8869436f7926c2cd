"""When a packet is lost.

A *model* is a frozen description; `model.start(rng)` gives a *process*, which is asked once per packet. Burst models live in
continuous time (sojourns in seconds): with a per-packet Markov chain a sender that sends more packets would change the loss
process itself, and schemes could not be compared.
"""

import bisect
import dataclasses
from collections.abc import Iterable
from typing import Protocol

from numpy.random import Generator

from common.errors import ConfigError


class LossProcess(Protocol):
    """One realisation. Times must not decrease from call to call."""

    def is_lost(self, now: float) -> bool:
        """Whether a packet that leaves at `now` (s) is lost."""
        ...


class LossModel(Protocol):
    """A description of a loss process."""

    def start(self, rng: Generator) -> LossProcess:
        """A fresh realisation; the same stream gives the same one."""
        ...


def _probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}={value} is not a probability; it must be between 0 and 1.")


@dataclasses.dataclass(frozen=True)
class NoLoss:
    """Every packet arrives."""

    def start(self, rng: Generator) -> LossProcess:
        return _Scripted(frozenset())


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Each packet is lost with probability `p`, independently."""

    p: float

    def __post_init__(self) -> None:
        _probability("p", self.p)

    def start(self, rng: Generator) -> LossProcess:
        return _Bernoulli(self.p, rng)


class _Bernoulli:
    def __init__(self, p: float, rng: Generator) -> None:
        self._p, self._rng = p, rng

    def is_lost(self, now: float) -> bool:
        return self._rng.random() < self._p


@dataclasses.dataclass(frozen=True)
class GilbertElliott:
    """Two states with exponentially distributed sojourns in seconds; starts in the stationary distribution.

    Attributes:
        mean_good_s, mean_bad_s: mean sojourns, > 0.
        p_good, p_bad: probability that a packet is lost in each state.
    """

    mean_good_s: float
    mean_bad_s: float
    p_good: float = 0.0
    p_bad: float = 1.0

    def __post_init__(self) -> None:
        if self.mean_good_s <= 0 or self.mean_bad_s <= 0:
            raise ConfigError(f"mean sojourns of {self.mean_good_s} s and {self.mean_bad_s} s: both must be > 0.")
        _probability("p_good", self.p_good)
        _probability("p_bad", self.p_bad)

    @property
    def mean_loss(self) -> float:
        """Share of lost packets in the long run."""
        share_bad = self.mean_bad_s / (self.mean_good_s + self.mean_bad_s)
        return share_bad * self.p_bad + (1 - share_bad) * self.p_good

    def start(self, rng: Generator) -> LossProcess:
        return _GilbertElliott(self, rng)


class _GilbertElliott:
    def __init__(self, model: GilbertElliott, rng: Generator) -> None:
        # Two streams: the number of packets must not move the times of the state changes.
        self._sojourn_rng, self._packet_rng = rng.spawn(2)
        self._mean_s = (model.mean_good_s, model.mean_bad_s)
        self._p = (model.p_good, model.p_bad)
        self._is_bad = bool(self._sojourn_rng.random() * sum(self._mean_s) < model.mean_bad_s)
        self._until_s = self._sojourn_rng.exponential(self._mean_s[self._is_bad])

    def is_lost(self, now: float) -> bool:
        while self._until_s <= now:
            self._is_bad = not self._is_bad
            self._until_s += self._sojourn_rng.exponential(self._mean_s[self._is_bad])
        p = self._p[self._is_bad]
        return p > 0 and (p >= 1 or bool(self._packet_rng.random() < p))


@dataclasses.dataclass(frozen=True)
class Outages:
    """Everything sent in one of the intervals [start, end) (s) is lost. Intervals are sorted and do not overlap."""

    intervals_s: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        ends = [0.0]
        for start, end in self.intervals_s:
            if not ends[-1] <= start < end:
                raise ConfigError(f"outage ({start}, {end}) is empty, negative or overlaps the one before it.")
            ends.append(end)

    def start(self, rng: Generator) -> LossProcess:
        return _Outages(self.intervals_s)


class _Outages:
    def __init__(self, intervals_s: tuple[tuple[float, float], ...]) -> None:
        self._starts = [start for start, _ in intervals_s]
        self._ends = [end for _, end in intervals_s]

    def is_lost(self, now: float) -> bool:
        place = bisect.bisect_right(self._starts, now) - 1
        return place >= 0 and now < self._ends[place]


@dataclasses.dataclass(frozen=True)
class RandomOutages:
    """One outage per period: starts uniformly at random within each, lasts uniformly between two bounds (tunnels)."""

    period_s: float
    min_s: float
    max_s: float

    def __post_init__(self) -> None:
        if not 0 < self.min_s <= self.max_s < self.period_s:
            raise ConfigError(
                f"outages of {self.min_s} to {self.max_s} s per {self.period_s} s: need 0 < min <= max < period."
            )

    def start(self, rng: Generator) -> LossProcess:
        return _RandomOutages(self, rng)


class _RandomOutages:
    def __init__(self, model: RandomOutages, rng: Generator) -> None:
        self._model, self._rng, self._period = model, rng, -1
        self._start_s = self._end_s = 0.0

    def is_lost(self, now: float) -> bool:
        model = self._model
        while (self._period + 1) * model.period_s <= now:
            self._period += 1
            length_s = self._rng.uniform(model.min_s, model.max_s)
            self._start_s = self._period * model.period_s + self._rng.uniform(0, model.period_s - length_s)
            self._end_s = self._start_s + length_s
        return self._start_s <= now < self._end_s


@dataclasses.dataclass(frozen=True)
class Scripted:
    """The packets with these numbers (0 is the first that leaves) are lost: for tests and worked examples."""

    lost: frozenset[int]

    def __init__(self, lost: Iterable[int]) -> None:
        object.__setattr__(self, "lost", frozenset(lost))

    def start(self, rng: Generator) -> LossProcess:
        return _Scripted(self.lost)


class _Scripted:
    def __init__(self, lost: frozenset[int]) -> None:
        self._lost, self._number = lost, -1

    def is_lost(self, now: float) -> bool:
        self._number += 1
        return self._number in self._lost


@dataclasses.dataclass(frozen=True)
class SlottedLoss:
    """A recorded pattern in time: slot number i covers [i, i+1) * slot_s and loses packets with probability `p[i]`.

    The pattern repeats; `start` draws where in it the run begins if `random_phase` is set.
    """

    p: tuple[float, ...]
    slot_s: float
    random_phase: bool = True

    def __post_init__(self) -> None:
        if not self.p or self.slot_s <= 0:
            raise ConfigError(f"a loss pattern of {len(self.p)} slots of {self.slot_s} s: need >= 1 slot, > 0 s.")
        for value in self.p:
            _probability("p", value)

    def start(self, rng: Generator) -> LossProcess:
        return _SlottedLoss(self, rng)


class _SlottedLoss:
    def __init__(self, model: SlottedLoss, rng: Generator) -> None:
        self._p, self._slot_s, self._rng = model.p, model.slot_s, rng
        self._phase = int(rng.integers(len(model.p))) if model.random_phase else 0

    def is_lost(self, now: float) -> bool:
        p = self._p[(int(now / self._slot_s) + self._phase) % len(self._p)]
        return p > 0 and (p >= 1 or bool(self._rng.random() < p))


@dataclasses.dataclass(frozen=True)
class AnyOf:
    """A packet is lost if any of the parts loses it; every part sees every packet."""

    parts: tuple[LossModel, ...]

    def start(self, rng: Generator) -> LossProcess:
        streams = rng.spawn(len(self.parts))
        return _AnyOf([part.start(stream) for part, stream in zip(self.parts, streams, strict=True)])


class _AnyOf:
    def __init__(self, parts: list[LossProcess]) -> None:
        self._parts = parts

    def is_lost(self, now: float) -> bool:
        verdicts = [part.is_lost(now) for part in self._parts]  # a list: every part must see the packet
        return any(verdicts)
