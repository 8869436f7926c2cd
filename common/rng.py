"""Randomness: one seed per run, one independent stream per component.

A component's stream depends on the run's seed and the component's name alone, so adding a draw in one place does not move
another place's numbers.
"""

import hashlib

import numpy as np

from common.errors import ConfigError


def for_component(seed: int, *component: str | int) -> np.random.Generator:
    """A generator for one component of a run.

    Args:
        seed: the run's seed, >= 0.
        component: the component's name, possibly of several parts: `for_component(0, "workload", 3)`.

    Returns:
        A PCG64 generator; the same arguments give the same stream on every machine.

    Raises:
        ConfigError: a negative seed.
    """
    if seed < 0:
        raise ConfigError(f"seed={seed} must be 0 or more.")
    return np.random.default_rng(np.random.SeedSequence([seed, *_words(component)]))


def seed_for(seed: int, *component: str | int) -> int:
    """A 63-bit integer seed for a component whose library wants one (torch, hypothesis, ns-3)."""
    return int(for_component(seed, *component).integers(2**63 - 1))


def _words(component: tuple[str | int, ...]) -> list[int]:
    digest = hashlib.sha256("\x1f".join(map(str, component)).encode()).digest()
    return [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
