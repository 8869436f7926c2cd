"""Gradient ascent on knobs: states, settings, and the update rule.

    s_k in [0, 1], 1 = most expensive; values of a knob are Delta = 1 / (n - 1) apart
    s_k <- clip(s_k + eta * (AccGrad_k - lambda * dR / ds_k), 1e-7, 1)                                     (the paper's rule)

Between two neighbouring values the objective is taken as linear, so that its derivative is the difference quotient.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError
from oneadapt.api import Knob

LOWEST = 1e-7

Rounding = Literal["dear", "nearest"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """Where a state lies between two neighbouring values of a knob.

    Attributes:
        dear, cheap: the two values.
        delta: distance of their states.
        value: the one that is used.
    """

    dear: Any
    cheap: Any
    delta: float
    value: Any


def cell(knob: Knob, state: float, rounding: Rounding = "dear") -> Cell:
    """The cell of a state, and the value to use.

    Args:
        knob: with n values.
        state: in [0, 1].
        rounding: "dear" uses the more expensive neighbour, as the official code does, so the last value is only ever the lower
            neighbour; "nearest" uses the nearer one (the dear one if they are equally near), so every value can be used.
    """
    count = len(knob.values)
    delta = 1 / (count - 1)
    place = (1 - state) / delta
    index = min(math.floor(place + 1e-9), count - 2)
    dear, cheap = knob.values[index], knob.values[index + 1]
    is_cheap = rounding == "nearest" and place - index > 0.5
    return Cell(dear, cheap, delta, cheap if is_cheap else dear)


@dataclasses.dataclass
class Plain:
    """The paper's rule, its step clipped.

    Attributes:
        rate: eta.
        max_step: largest change of a state in one interval.
    """

    rate: float
    max_step: float

    def step(self, gradient_K: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Change of the states."""
        return np.clip(self.rate * gradient_K, -self.max_step, self.max_step)


@dataclasses.dataclass
class Adam:
    """Adam as the official code uses it: betas (0.5, 0.5), so every knob moves at about the same speed whatever its gradient.

    Attributes:
        rate: learning rate.
    """

    rate: float
    beta: float = 0.5
    _first: Any = 0.0
    _second: Any = 0.0
    _count: int = 0

    def step(self, gradient_K: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Change of the states."""
        self._count += 1
        self._first = self.beta * self._first + (1 - self.beta) * gradient_K
        self._second = self.beta * self._second + (1 - self.beta) * gradient_K**2
        correction = 1 - self.beta**self._count
        change: npt.NDArray[np.float64] = (
            self.rate * (self._first / correction) / (np.sqrt(self._second / correction) + 1e-8)
        )
        return change


def optimiser(name: str, rate: float, max_step: float) -> Plain | Adam:
    """An optimiser by name: "plain" or "adam"."""
    if name == "plain":
        return Plain(rate, max_step)
    if name == "adam":
        return Adam(rate)
    raise ConfigError(f"optimiser={name!r} must be plain or adam.")


def move(
    states_K: npt.NDArray[np.float64], change_K: npt.NDArray[np.float64] | Sequence[float]
) -> npt.NDArray[np.float64]:
    """States after a change, within [1e-7, 1]."""
    return np.clip(states_K + np.asarray(change_K), LOWEST, 1.0)
