"""The reference: every lane advances by one symbol at a time, all lanes in one vector operation."""

import numpy as np
from numpy.typing import NDArray

from common.entropy.tables import Tables

_BOTTOM = np.uint64(1 << 16)


def encode_lanes(
    symbols_RN: NDArray[np.uint8], rows: NDArray[np.int64], tables: Tables, rows_per_lane: int, num_lanes: int
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """All lanes' words, joined, and how many each has."""
    num_rows, n = symbols_RN.shape
    precision = np.uint64(tables.precision)
    first = np.arange(num_lanes) * rows_per_lane
    worst = (rows_per_lane * n * tables.precision + 15) // 16 + 2
    words = np.zeros((num_lanes, worst), dtype=np.uint16)
    at = np.full(num_lanes, worst)
    x = np.full(num_lanes, _BOTTOM)
    for row in range(rows_per_lane - 1, -1, -1):
        lanes = np.flatnonzero(first + row < num_rows)  # the last lane may be shorter
        own = first[lanes] + row
        for i in range(n - 1, -1, -1):
            s = symbols_RN[own, i]
            f = tables.freq_SA[rows[own], s].astype(np.uint64)
            c = tables.cumulative_SA[rows[own], s].astype(np.uint64)
            y = x[lanes]
            is_full = y >= f << (np.uint64(32) - precision)
            full = lanes[is_full]
            at[full] -= 1
            words[full, at[full]] = (y[is_full] & np.uint64(0xFFFF)).astype(np.uint16)
            y[is_full] >>= np.uint64(16)
            x[lanes] = ((y // f) << precision) + y % f + c
    every = np.arange(num_lanes)
    words[every, at - 1] = (x & np.uint64(0xFFFF)).astype(np.uint16)
    words[every, at - 2] = (x >> np.uint64(16)).astype(np.uint16)
    words_of_lane = worst - at + 2
    is_used = np.arange(worst)[None] >= (at - 2)[:, None]
    return words[is_used], words_of_lane


def decode_lanes(
    padded: NDArray[np.uint16],
    starts: NDArray[np.int64],
    shape: tuple[int, int],
    rows: NDArray[np.int64],
    tables: Tables,
    rows_per_lane: int,
) -> tuple[NDArray[np.uint8], bool]:
    """Symbols, and whether every lane ended as it must."""
    num_rows, n = shape
    precision = np.uint64(tables.precision)
    mask = np.uint64((1 << tables.precision) - 1)
    symbols = np.zeros(shape, dtype=np.uint8)
    first = np.arange(len(starts) - 1) * rows_per_lane
    at = starts[:-1] + 2
    x = (padded[at - 2].astype(np.uint64) << np.uint64(16)) | padded[at - 1]
    for row in range(rows_per_lane):
        lanes = np.flatnonzero(first + row < num_rows)
        own = first[lanes] + row
        for i in range(n):
            y = x[lanes]
            s = tables.symbol_SP[rows[own], y & mask]
            symbols[own, i] = s
            f = tables.freq_SA[rows[own], s].astype(np.uint64)
            y = f * (y >> precision) + (y & mask) - tables.cumulative_SA[rows[own], s]
            needs = y < _BOTTOM
            y[needs] = (y[needs] << np.uint64(16)) | padded[at[lanes[needs]]]
            at[lanes[needs]] += 1
            x[lanes] = y
    return symbols, bool((x == _BOTTOM).all() and (at == starts[1:]).all())
