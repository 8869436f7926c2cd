"""A paper whose experiment only draws numbers."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common.experiment import Paper, Run
from common.registry import Registry
from common.results import ItemRows, Row

METHODS: Registry = Registry("toy method")
WORKLOADS: Registry = Registry("toy workload")
EXPERIMENTS: Registry = Registry("toy experiment")


@METHODS.add("plain")
@dataclass(frozen=True)
class Plain:
    """Hands the number back."""

    def apply(self, number: float) -> float:
        return number


@METHODS.add("scaled", label="Scaled", color="#123456", marker="s")
@dataclass(frozen=True)
class Scaled:
    """Multiplies it."""

    factor: float = 2.0

    def __post_init__(self) -> None:
        if self.factor <= 0:
            raise ValueError(f"factor={self.factor} must be positive")

    def apply(self, number: float) -> float:
        return number * self.factor


@WORKLOADS.add("uniform")
@dataclass(frozen=True)
class Uniform:
    """Uniform numbers."""

    high: float = 1.0

    def items(self, rng: np.random.Generator, n: int) -> Iterator[float]:
        for _ in range(n):
            yield float(rng.uniform(0, self.high))


@EXPERIMENTS.add("draws")
@dataclass(frozen=True)
class Draws:
    """One number per item and method."""

    pause_s: float = 0.0
    fail_at: int = -1

    def rows(self, run: Run) -> Iterator[ItemRows]:
        for index, number in run.todo(enumerate(run.workload.items(run.rng("workload"), run.num_items))):
            time.sleep(self.pause_s)
            if index == self.fail_at:
                raise ValueError(f"item {index} is broken")
            yield ItemRows(
                index,
                [Row("number", method.apply(number), "1", "simulated", name) for name, method in run.methods.items()],
            )


PAPER = Paper("toy", "A toy paper", METHODS, WORKLOADS, EXPERIMENTS)
