"""Compiled lanes. The kernels release the GIL, so that several blocks can be coded by several threads."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from common.entropy.tables import Tables

_BOTTOM = 1 << 16


def encode_lanes(
    symbols_RN: NDArray[np.uint8], rows: NDArray[np.int64], tables: Tables, rows_per_lane: int, num_lanes: int
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """All lanes' words, joined, and how many each has."""
    # Each symbol costs at most P bits; the state takes two words.
    worst = (rows_per_lane * symbols_RN.shape[1] * tables.precision + 15) // 16 + 2
    scratch = np.empty(worst, dtype=np.uint16)
    words = np.empty(worst * num_lanes, dtype=np.uint16)
    words_of_lane = np.empty(num_lanes, dtype=np.int64)
    total = _encode(
        symbols_RN,
        rows,
        tables.freq_SA,
        tables.cumulative_SA,
        tables.reciprocal_SA,
        tables.precision,
        rows_per_lane,
        scratch,
        words,
        words_of_lane,
    )
    return words[:total], words_of_lane


def decode_lanes(
    padded: NDArray[np.uint16],
    starts: NDArray[np.int64],
    shape: tuple[int, int],
    rows: NDArray[np.int64],
    tables: Tables,
    rows_per_lane: int,
) -> tuple[NDArray[np.uint8], bool]:
    """Symbols, and whether every lane ended as it must."""
    symbols = np.empty(shape, dtype=np.uint8)
    is_intact = _decode(
        padded, starts, rows, tables.symbol_SP, tables.packed_SA, tables.precision, rows_per_lane, symbols
    )
    return symbols, bool(is_intact)


@njit(nogil=True, cache=True)
def _encode(  # type: ignore[no-untyped-def]
    symbols, rows, freq, cumulative, reciprocal, precision, rows_per_lane, scratch, words, words_of_lane
):
    num_rows, num_symbols = symbols.shape
    total = 0
    for lane in range(words_of_lane.shape[0]):
        x = np.int64(_BOTTOM)
        at = scratch.shape[0]
        for row in range(min(num_rows, (lane + 1) * rows_per_lane) - 1, lane * rows_per_lane - 1, -1):
            f_A, c_A, r_A, s_N = freq[rows[row]], cumulative[rows[row]], reciprocal[rows[row]], symbols[row]
            for i in range(num_symbols - 1, -1, -1):
                s = s_N[i]
                f = np.int64(f_A[s])
                if x >= f << (32 - precision):
                    at -= 1
                    scratch[at] = x & 0xFFFF
                    x >>= 16
                # x // f without a division. Exact: (x + 1/2) / f is at least 2^-13 away from an integer, and two roundings of
                # a quotient below 2^32 are off by less than 2^-19.
                quotient = np.int64((x + 0.5) * r_A[s])
                x += quotient * ((1 << precision) - f) + np.int64(c_A[s])
        scratch[at - 1] = x & 0xFFFF
        scratch[at - 2] = x >> 16
        at -= 2
        used = scratch.shape[0] - at
        words[total : total + used] = scratch[at:]
        words_of_lane[lane] = used
        total += used
    return total


@njit(nogil=True, inline="always")
def _renormalise(x, word):  # type: ignore[no-untyped-def]
    # Written as a selection: whether a word is needed is close to random, and a mispredicted branch costs more than a load.
    return ((x << 16) | np.int64(word)) if x < _BOTTOM else x


@njit(nogil=True, cache=True)
def _decode_one(words, start, stop, rows, first, last, symbol_of, packed, precision, symbols):  # type: ignore[no-untyped-def]
    mask = (1 << precision) - 1
    x = (np.int64(words[start]) << 16) | np.int64(words[start + 1])
    at = start + 2
    for row in range(first, last):
        table, entries = symbol_of[rows[row]], packed[rows[row]]
        for i in range(symbols.shape[1]):
            s = table[x & mask]
            symbols[row, i] = s
            e = np.int64(entries[s])
            x = (e & 0xFFFF) * (x >> precision) + (x & mask) - (e >> 16)
            if x < _BOTTOM:
                x = (x << 16) | np.int64(words[at])
                at += 1
    return x == _BOTTOM and at == stop


@njit(nogil=True, cache=True)
def _decode(words, starts, rows, symbol_of, packed, precision, rows_per_lane, symbols):  # type: ignore[no-untyped-def]
    num_rows, n = symbols.shape
    num_lanes = starts.shape[0] - 1
    num_whole = num_rows // rows_per_lane
    mask = (1 << precision) - 1
    lane = 0
    good = True
    # Eight lanes side by side: each is one long dependency chain (load, multiply, load ...), so eight hide the latency.
    while lane + 8 <= num_whole:
        p0, p1, p2, p3 = starts[lane], starts[lane + 1], starts[lane + 2], starts[lane + 3]
        p4, p5, p6, p7 = starts[lane + 4], starts[lane + 5], starts[lane + 6], starts[lane + 7]
        x0 = (np.int64(words[p0]) << 16) | np.int64(words[p0 + 1])
        x1 = (np.int64(words[p1]) << 16) | np.int64(words[p1 + 1])
        x2 = (np.int64(words[p2]) << 16) | np.int64(words[p2 + 1])
        x3 = (np.int64(words[p3]) << 16) | np.int64(words[p3 + 1])
        x4 = (np.int64(words[p4]) << 16) | np.int64(words[p4 + 1])
        x5 = (np.int64(words[p5]) << 16) | np.int64(words[p5 + 1])
        x6 = (np.int64(words[p6]) << 16) | np.int64(words[p6 + 1])
        x7 = (np.int64(words[p7]) << 16) | np.int64(words[p7 + 1])
        p0, p1, p2, p3, p4, p5, p6, p7 = p0 + 2, p1 + 2, p2 + 2, p3 + 2, p4 + 2, p5 + 2, p6 + 2, p7 + 2
        for j in range(rows_per_lane):
            r0 = lane * rows_per_lane + j
            r1, r2, r3 = r0 + rows_per_lane, r0 + 2 * rows_per_lane, r0 + 3 * rows_per_lane
            r4, r5 = r0 + 4 * rows_per_lane, r0 + 5 * rows_per_lane
            r6, r7 = r0 + 6 * rows_per_lane, r0 + 7 * rows_per_lane
            t0, t1, t2, t3 = symbol_of[rows[r0]], symbol_of[rows[r1]], symbol_of[rows[r2]], symbol_of[rows[r3]]
            t4, t5, t6, t7 = symbol_of[rows[r4]], symbol_of[rows[r5]], symbol_of[rows[r6]], symbol_of[rows[r7]]
            f0, f1, f2, f3 = packed[rows[r0]], packed[rows[r1]], packed[rows[r2]], packed[rows[r3]]
            f4, f5, f6, f7 = packed[rows[r4]], packed[rows[r5]], packed[rows[r6]], packed[rows[r7]]
            o0, o1, o2, o3 = symbols[r0], symbols[r1], symbols[r2], symbols[r3]
            o4, o5, o6, o7 = symbols[r4], symbols[r5], symbols[r6], symbols[r7]
            for i in range(n):
                s0 = t0[x0 & mask]
                s1 = t1[x1 & mask]
                s2 = t2[x2 & mask]
                s3 = t3[x3 & mask]
                s4 = t4[x4 & mask]
                s5 = t5[x5 & mask]
                s6 = t6[x6 & mask]
                s7 = t7[x7 & mask]
                o0[i] = s0
                o1[i] = s1
                o2[i] = s2
                o3[i] = s3
                o4[i] = s4
                o5[i] = s5
                o6[i] = s6
                o7[i] = s7
                e0 = np.int64(f0[s0])
                x0 = (e0 & 0xFFFF) * (x0 >> precision) + (x0 & mask) - (e0 >> 16)
                e1 = np.int64(f1[s1])
                x1 = (e1 & 0xFFFF) * (x1 >> precision) + (x1 & mask) - (e1 >> 16)
                e2 = np.int64(f2[s2])
                x2 = (e2 & 0xFFFF) * (x2 >> precision) + (x2 & mask) - (e2 >> 16)
                e3 = np.int64(f3[s3])
                x3 = (e3 & 0xFFFF) * (x3 >> precision) + (x3 & mask) - (e3 >> 16)
                e4 = np.int64(f4[s4])
                x4 = (e4 & 0xFFFF) * (x4 >> precision) + (x4 & mask) - (e4 >> 16)
                e5 = np.int64(f5[s5])
                x5 = (e5 & 0xFFFF) * (x5 >> precision) + (x5 & mask) - (e5 >> 16)
                e6 = np.int64(f6[s6])
                x6 = (e6 & 0xFFFF) * (x6 >> precision) + (x6 & mask) - (e6 >> 16)
                e7 = np.int64(f7[s7])
                x7 = (e7 & 0xFFFF) * (x7 >> precision) + (x7 & mask) - (e7 >> 16)
                y0, p0 = _renormalise(x0, words[p0]), p0 + (x0 < _BOTTOM)
                y1, p1 = _renormalise(x1, words[p1]), p1 + (x1 < _BOTTOM)
                y2, p2 = _renormalise(x2, words[p2]), p2 + (x2 < _BOTTOM)
                y3, p3 = _renormalise(x3, words[p3]), p3 + (x3 < _BOTTOM)
                y4, p4 = _renormalise(x4, words[p4]), p4 + (x4 < _BOTTOM)
                y5, p5 = _renormalise(x5, words[p5]), p5 + (x5 < _BOTTOM)
                y6, p6 = _renormalise(x6, words[p6]), p6 + (x6 < _BOTTOM)
                y7, p7 = _renormalise(x7, words[p7]), p7 + (x7 < _BOTTOM)
                x0, x1, x2, x3, x4, x5, x6, x7 = y0, y1, y2, y3, y4, y5, y6, y7
        all_bottom = (x0 & x1 & x2 & x3 & x4 & x5 & x6 & x7) == _BOTTOM
        all_bottom = all_bottom and (x0 | x1 | x2 | x3 | x4 | x5 | x6 | x7) == _BOTTOM
        ends = p0 == starts[lane + 1] and p1 == starts[lane + 2] and p2 == starts[lane + 3] and p3 == starts[lane + 4]
        ends = ends and p4 == starts[lane + 5] and p5 == starts[lane + 6]
        ends = ends and p6 == starts[lane + 7] and p7 == starts[lane + 8]
        good = good and all_bottom and ends
        lane += 8
    while lane < num_lanes:
        first = lane * rows_per_lane
        last = min(num_rows, first + rows_per_lane)
        good = (
            _decode_one(words, starts[lane], starts[lane + 1], rows, first, last, symbol_of, packed, precision, symbols)
            and good
        )
        lane += 1
    return good
