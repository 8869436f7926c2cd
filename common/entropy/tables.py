"""Integer frequency tables.

Shape legend: S tables, A symbols of the alphabet, P bits of precision.
"""

import dataclasses
import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import ConfigError

MAX_ALPHABET = 256
MAX_PRECISION = 12
"""So that a frequency fits 12 bits, and a symbol costs less than a 16-bit word."""


def normalise_counts(counts_SA: ArrayLike, precision: int) -> NDArray[np.uint16]:
    """Integer frequencies >= 1 that sum to 2^precision, proportional to counts + 1/2.

    f = max(1, floor((n + 1/2) * 2^P / sum(n + 1/2))); what is missing goes to the largest f, what is too much is taken one by
    one from the largest f, never below 1; ties go to the lowest symbol. Integer arithmetic only, so the same everywhere.

    Args:
        counts_SA: non-negative integers, (tables, alphabet); alphabet in 1..256. An alphabet of one symbol gets a second
            one that never occurs, because a frequency of 2^P does not fit its field.
        precision: P in 1..12, with 2^P >= alphabet.

    Returns:
        (tables, max(2, alphabet)), uint16.

    Raises:
        ConfigError: an argument is not allowed.
    """
    counts = np.asarray(counts_SA)
    if counts.ndim != 2 or not 1 <= counts.shape[1] <= MAX_ALPHABET or not np.issubdtype(counts.dtype, np.integer):
        raise ConfigError(
            f"counts must be integers (tables, 1..{MAX_ALPHABET} symbols), not {counts.dtype} {counts.shape}."
        )
    if counts.size and (counts.min() < 0 or counts.max() >= 1 << 40):
        raise ConfigError("counts must lie in [0, 2^40).")
    if counts.shape[1] == 1:
        only = np.array([[(1 << precision) - 1, 1]], dtype=np.uint16)
        return np.repeat(only, counts.shape[0], axis=0)
    total = 1 << precision
    if not 1 <= precision <= MAX_PRECISION or total < counts.shape[1]:
        raise ConfigError(
            f"precision {precision} does not fit an alphabet of {counts.shape[1]}; it must be at most {MAX_PRECISION} and "
            "2^precision at least the alphabet."
        )
    doubled = 2 * counts.astype(np.int64) + 1  # 2 * (n + 1/2), to stay with integers
    freq = np.maximum(1, doubled * total // doubled.sum(axis=1, keepdims=True))
    for row in np.flatnonzero(freq.sum(axis=1) != total):
        excess = int(freq[row].sum()) - total
        while excess > 0:
            freq[row, int(freq[row].argmax())] -= 1
            excess -= 1
        while excess < 0:
            freq[row, int(freq[row].argmax())] += 1
            excess += 1
    # Adding one to the largest keeps it the largest; taking one may make another the largest, hence the loop.
    return freq.astype(np.uint16)


@dataclasses.dataclass(frozen=True, eq=False)
class Tables:
    """Distributions that encoder and decoder share.

    Attributes:
        freq_SA: frequencies, uint16, each >= 1, each row summing to 2^precision. Not to be written.
        precision: P.

    Raises:
        ConfigError: the frequencies are not of that kind.
    """

    freq_SA: NDArray[np.uint16]
    precision: int

    def __post_init__(self) -> None:
        freq = self.freq_SA
        if freq.ndim != 2 or freq.dtype != np.uint16 or not 2 <= freq.shape[1] <= MAX_ALPHABET or not freq.shape[0]:
            raise ConfigError(f"frequencies must be uint16 (tables, 2..{MAX_ALPHABET}), not {freq.dtype} {freq.shape}.")
        if not 1 <= self.precision <= MAX_PRECISION:
            raise ConfigError(f"precision {self.precision} is not in 1..{MAX_PRECISION}.")
        if freq.min() < 1 or (freq.sum(axis=1, dtype=np.int64) != 1 << self.precision).any():
            raise ConfigError(f"each row of frequencies must be >= 1 and sum to 2^{self.precision}.")

    @classmethod
    def from_counts(cls, counts_SA: ArrayLike, precision: int = 11) -> "Tables":
        """Tables of `normalise_counts`."""
        return cls(normalise_counts(counts_SA, precision), precision)

    @property
    def num_tables(self) -> int:
        return int(self.freq_SA.shape[0])

    @property
    def alphabet(self) -> int:
        return int(self.freq_SA.shape[1])

    @functools.cached_property
    def cumulative_SA(self) -> NDArray[np.uint16]:
        """Sum of the frequencies of lower symbols."""
        cumulative = np.cumsum(self.freq_SA, axis=1, dtype=np.int64) - self.freq_SA
        return cumulative.astype(np.uint16)

    @functools.cached_property
    def symbol_SP(self) -> NDArray[np.uint8]:
        """The symbol of each slot, (tables, 2^P). Kept once built: 2^P bytes per table."""
        symbols = np.tile(np.arange(self.alphabet, dtype=np.uint8), self.num_tables)
        # One byte a slot, not a packed entry of four: eight interleaved lanes then stay inside a first-level cache.
        return np.repeat(symbols, self.freq_SA.reshape(-1)).reshape(self.num_tables, -1)

    @functools.cached_property
    def packed_SA(self) -> NDArray[np.uint32]:
        """What the decoder needs of each symbol: cumulative << 16 | frequency."""
        packed: NDArray[np.uint32] = (self.cumulative_SA.astype(np.uint32) << np.uint32(16)) | self.freq_SA
        return packed

    @functools.cached_property
    def reciprocal_SA(self) -> NDArray[np.float64]:
        """1 / frequency, for an encoder without integer division."""
        return 1.0 / self.freq_SA

    def cross_entropy_bits(self, counts_SA: ArrayLike) -> float:
        """Bits that an ideal coder with these tables spends on symbols counted in `counts_SA`."""
        counts = np.asarray(counts_SA, dtype=np.float64)
        probability = self.freq_SA[:, : counts.shape[1]] / float(1 << self.precision)
        return float(-(counts * np.log2(probability)).sum())
