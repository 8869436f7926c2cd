"""Entropy coding of one packet's latent elements; nothing crosses packets.

Each channel has one *scale*: its mean magnitude over the frame, as an index into a table of 48 Laplace distributions. Scales
travel in every packet, coded as differences to the usual scale of that channel at that level, which is part of the weights.

An element is coded with its channel's scale, moved by the *activity* around it: how much larger the magnitudes were that this
packet already holds near that position than their scales say. Channels go in groups from low to high frequency, so that most
elements have something to go by, and a receiver of this packet alone can always follow.

# DEVIATION grace-6: activity from the packet's own elements, besides the paper's one scale per channel

Everything that selects a distribution is integer arithmetic on received integers; it never sees an output of a network, which
may differ in the last bit between machines. Distributions are integers too, with a checksum that is verified when they are built.

Shape legend: C channels, h and w positions, P elements of a packet.
"""

import dataclasses
import functools
import hashlib
import math
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from common.errors import CorruptBitstream, ReproError

NUM_SCALES = 48
"""Scale 0 means that the channel is zero everywhere: nothing is coded for it."""
_SCALE_RATIO = 1.25
_LEAST_MEAN = 0.0015
LIMIT = 60
"""Magnitudes up to this have symbols of their own; larger ones, up to `MAX_MAGNITUDE`, follow an escape symbol."""
MAX_MAGNITUDE = LIMIT + (1 << 12)
_ESCAPE = 2 * LIMIT + 1
_TABLE_BITS = 20
_TABLES_SHA256 = "22cf64d11d42e294"

_ROUNDING = 0.55
"""Where the tables put the border between 0 and 1: between that of motion (0.5) and of residual latents (0.6)."""
_PRIOR_COUNT = 0.4
_MAX_SHIFT = 14

Coder = Any


@dataclasses.dataclass(frozen=True)
class Plane:
    """A tensor of latents and how it is coded.

    Attributes:
        channels, height, width: its shape (C, h, w).
        groups: channel numbers of each group, in coding order; each channel in exactly one group.
    """

    channels: int
    height: int
    width: int
    groups: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """C h w."""
        return self.channels * self.height * self.width


@functools.cache
def mean_magnitudes() -> NDArray[np.float64]:
    """Mean magnitude that each scale stands for, (NUM_SCALES,); 0 for scale 0."""
    return np.array([0.0] + [_LEAST_MEAN * _SCALE_RATIO**k for k in range(NUM_SCALES - 1)])


@functools.cache
def frequencies() -> NDArray[np.int64]:
    """Integer frequencies of the symbols -LIMIT .. LIMIT and the escape, (NUM_SCALES, 2 LIMIT + 2), rows summing to 2^20.

    Raises:
        ReproError: this machine's arithmetic gives other tables than every other's: nothing could be exchanged.
    """
    table = np.zeros((NUM_SCALES, 2 * LIMIT + 2), np.int64)
    for index, mean in enumerate(mean_magnitudes()):
        table[index] = _quantised_laplace(max(mean, _LEAST_MEAN / 4))
    digest = hashlib.sha256(table.astype("<i4").tobytes()).hexdigest()[:16]
    if digest != _TABLES_SHA256:
        raise ReproError(
            f"entropy tables have checksum {digest}, not {_TABLES_SHA256}: this build cannot exchange packets."
        )
    table.setflags(write=False)
    return table


def _quantised_laplace(mean: float) -> NDArray[np.int64]:
    """A Laplace whose rounded magnitudes have this mean, as integers: P(0) = 1 - t^r, P(|k| >= j) = t^(r + j - 1)."""
    low, high = 1e-12, 1 - 1e-9  # of t = exp(-1 / b); the mean magnitude t^r / (1 - t) rises with it
    for _ in range(80):
        t = (low + high) / 2
        low, high = (low, t) if t**_ROUNDING / (1 - t) > mean else (t, high)
    total = 1 << _TABLE_BITS
    tail = [t ** (_ROUNDING + j) for j in range(LIMIT + 1)]
    side = [(tail[j] - tail[j + 1]) / 2 for j in range(LIMIT)]
    weights = [*reversed(side), 1 - tail[0], *side, tail[LIMIT]]
    # A grain of 2^-12 of the remaining mass keeps libraries that differ in the last bit of `**` at the same integers.
    counts = np.array([math.floor(weight * (total - len(weights)) + 2**-12) + 1 for weight in weights], np.int64)
    counts[LIMIT] += total - counts.sum()
    return counts


@functools.cache
def _models() -> list[Any]:
    rows = frequencies().astype(np.float64)
    return [constriction.stream.model.Categorical(row / row.sum(), perfect=False) for row in rows]


_DEAD_CLASSES = 8
_USUAL_UNIT = 64


def pack_usual(scale_C: NDArray[np.int64], dead_share_C: NDArray[np.float64]) -> NDArray[np.int64]:
    """What scales are coded relative to, one integer a channel: its usual scale (>= 1) and how often it is all zero."""
    classes = np.clip(np.floor(dead_share_C * _DEAD_CLASSES), 0, _DEAD_CLASSES - 1).astype(np.int64)
    return np.clip(scale_C, 1, NUM_SCALES - 1) + _USUAL_UNIT * classes


@functools.cache
def _difference_weights(ratio: float) -> NDArray[np.float64]:
    """Of a difference of scales, -46 .. 46: two-sided geometric."""
    weights = np.array([ratio ** min(abs(d), 12) for d in range(2 - NUM_SCALES, NUM_SCALES - 1)])
    result: NDArray[np.float64] = weights / weights.sum()
    return result


_OFFSET_RATIO, _HALF_RATIO = 0.75, 0.3


@functools.cache
def _difference_model(ratio: float) -> Any:
    return constriction.stream.model.Categorical(_difference_weights(ratio), perfect=False)


def _dead_weights(dead_class: int) -> NDArray[np.float64]:
    share = (2 * dead_class + 1) / (2 * _DEAD_CLASSES)
    return np.array([1 - share, share])


@functools.cache
def _dead_model(dead_class: int) -> Any:
    return constriction.stream.model.Categorical(_dead_weights(dead_class), perfect=False)


@functools.cache
def _uniform(size: int) -> Any:
    return constriction.stream.model.Uniform(size)


def scales_of(latents_Chw: NDArray[np.int16]) -> NDArray[np.int64]:
    """The scale of each channel, (C,): the table nearest to its mean magnitude; 0 exactly for channels without a nonzero."""
    mean = np.abs(latents_Chw.astype(np.int64)).mean(axis=(1, 2))
    borders = mean_magnitudes()[1:-1] * math.sqrt(_SCALE_RATIO)
    return np.where(mean > 0, 1 + np.searchsorted(borders, mean), 0)


def sent_scales(latents_Chw: NDArray[np.int16], usual_C: NDArray[np.int64]) -> NDArray[np.int64]:
    """The scales that packets carry, (C,): those of `scales_of`, moved by at most one so that they cost few bits.

    A channel's scale is its usual one plus an offset that all channels of the frame share, plus an even difference.
    """
    scales = scales_of(latents_Chw)
    is_live = scales > 0
    usual = usual_C % _USUAL_UNIT
    if not is_live.any():
        return scales
    offset = int(np.rint(np.median((scales - usual)[is_live])))
    base = np.clip(usual + offset, 1, NUM_SCALES - 1)
    snapped = base + 2 * np.rint((scales - base) / 2).astype(np.int64)
    snapped = np.where(snapped < 1, snapped + 2, np.where(snapped >= NUM_SCALES, snapped - 2, snapped))
    return np.where(is_live, snapped, 0)


@functools.cache
def _shift_borders() -> NDArray[np.float64]:
    half = _MAX_SHIFT + 0.5
    return _SCALE_RATIO ** np.arange(-half + 1, half, 1.0)


class _Activity:
    """Sums of coded magnitudes and of their expectations around each position, in integers."""

    def __init__(self, height: int, width: int) -> None:
        self._seen = np.zeros((height, width), np.int64)
        self._expected = np.zeros((height, width), np.int64)

    def add(self, position: NDArray[np.int64], magnitude: NDArray[np.int64], scale: NDArray[np.int64]) -> None:
        cells = self._seen.size
        self._seen += np.bincount(position, magnitude, cells).astype(np.int64).reshape(self._seen.shape)
        units = _expected_units()[scale]
        self._expected += np.bincount(position, units, cells).astype(np.int64).reshape(self._seen.shape)

    def shifts(self) -> NDArray[np.int64]:
        """How many scales to move at each position, (h * w,)."""
        prior = round(_PRIOR_COUNT * 16 * _UNIT)
        seen = _blurred(self._seen) * _UNIT + prior
        expected = _blurred(self._expected) + prior
        # One correctly rounded division of integers below 2^53: the same on every machine.
        ratio = seen.astype(np.float64) / expected.astype(np.float64)
        return np.searchsorted(_shift_borders(), ratio.reshape(-1)) - _MAX_SHIFT


_UNIT = 4096


@functools.cache
def _expected_units() -> NDArray[np.int64]:
    return np.rint(mean_magnitudes() * _UNIT).astype(np.int64)


def _blurred(grid: NDArray[np.int64]) -> NDArray[np.int64]:
    """Filtered with 1 2 1 / 2 4 2 / 1 2 1, edges repeated."""
    rows = 2 * grid
    rows[1:] += grid[:-1]
    rows[:-1] += grid[1:]
    rows[0] += grid[0]
    rows[-1] += grid[-1]
    result: NDArray[np.int64] = 2 * rows
    result[:, 1:] += rows[:, :-1]
    result[:, :-1] += rows[:, 1:]
    result[:, 0] += rows[:, 0]
    result[:, -1] += rows[:, -1]
    return result


def _group_elements(plane: Plane, element_P: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """For each group, the places in `element_P` of its elements."""
    group_of_channel = np.empty(plane.channels, np.int64)
    for number, channels in enumerate(plane.groups):
        group_of_channel[list(channels)] = number
    found = dict(_runs(group_of_channel[element_P // (plane.height * plane.width)]))
    return [found.get(number, _NOTHING) for number in range(len(plane.groups))]


_NOTHING: NDArray[np.int64] = np.zeros(0, np.int64)


def _difference_parts(
    scales_C: NDArray[np.int64], usual_C: NDArray[np.int64]
) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """Of the live channels: the shared offset, the halved differences, and which channels they are."""
    live = np.flatnonzero(scales_C)
    if not len(live):
        return 0, np.zeros(0, np.int64), live
    usual = usual_C[live] % _USUAL_UNIT
    scales = scales_C[live]
    # Any offset of the right parity works; the one that leaves most differences at zero costs least.
    candidates = range(int((scales - usual).min()), int((scales - usual).max()) + 1)
    middle = float(np.median(scales - usual))
    for offset in sorted(candidates, key=lambda o: abs(o - middle)):
        difference = scales - np.clip(usual + offset, 1, NUM_SCALES - 1)
        if not (difference % 2).any():
            return offset, difference // 2, live
    raise AssertionError("scales that sent_scales did not make")


def encode_scales(coder: Coder, scales_C: NDArray[np.int64], usual_C: NDArray[np.int64]) -> None:
    """Append the scales of a plane, as `sent_scales` gives them, to a `RangeEncoder`."""
    is_dead = (scales_C == 0).astype(np.int32)
    for dead_class, members in _runs(usual_C // _USUAL_UNIT):
        coder.encode(np.ascontiguousarray(is_dead[members]), _dead_model(dead_class))
    offset, halves, live = _difference_parts(scales_C, usual_C)
    if len(live):
        coder.encode(offset + NUM_SCALES - 2, _difference_model(_OFFSET_RATIO))
        coder.encode((halves + NUM_SCALES - 2).astype(np.int32), _difference_model(_HALF_RATIO))


def decode_scales(coder: Coder, usual_C: NDArray[np.int64]) -> NDArray[np.int64]:
    """The inverse of `encode_scales`.

    Raises:
        CorruptBitstream: a scale outside the table.
    """
    is_dead = np.zeros(len(usual_C), bool)
    for dead_class, members in _runs(usual_C // _USUAL_UNIT):
        is_dead[members] = coder.decode(_dead_model(dead_class), len(members)) == 1
    live = np.flatnonzero(~is_dead)
    scales = np.zeros(len(usual_C), np.int64)
    if len(live):
        offset = int(coder.decode(_difference_model(_OFFSET_RATIO))) - (NUM_SCALES - 2)
        halves = coder.decode(_difference_model(_HALF_RATIO), len(live)).astype(np.int64) - (NUM_SCALES - 2)
        scales[live] = np.clip(usual_C[live] % _USUAL_UNIT + offset, 1, NUM_SCALES - 1) + 2 * halves
        if scales[live].min() < 1 or scales[live].max() >= NUM_SCALES:
            raise CorruptBitstream(
                f"a scale outside 1..{NUM_SCALES - 1}: the packet was damaged or coded with other weights."
            )
    return scales


def encode_plane(
    coder: Coder, plane: Plane, element_P: NDArray[np.int64], value_P: NDArray[np.int64], scales_C: NDArray[np.int64]
) -> None:
    """Append a packet's elements of one plane to a `RangeEncoder`.

    Args:
        element_P: flat positions in (C, h, w), ascending.
        value_P: their values, magnitudes at most `MAX_MAGNITUDE`.
        scales_C: see `scales_of`; values of channels with scale 0 must be 0.
    """
    symbols = np.where(np.abs(value_P) > LIMIT, _ESCAPE, value_P + LIMIT).astype(np.int32)
    for places, table in _plan(plane, element_P, scales_C, lambda places, table: value_P[places]):
        for number, members in _runs(table):
            coder.encode(np.ascontiguousarray(symbols[places[members]]), _models()[number])
        for value in value_P[places[symbols[places] == _ESCAPE]]:
            coder.encode(int(value < 0), _uniform(2))
            coder.encode(int(abs(value) - LIMIT - 1), _uniform(1 << 12))


def decode_plane(
    coder: Coder, plane: Plane, element_P: NDArray[np.int64], scales_C: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The inverse of `encode_plane`: the values, (P,)."""
    value_P = np.zeros(len(element_P), np.int64)

    def read(places: NDArray[np.int64], table: NDArray[np.int64]) -> NDArray[np.int64]:
        symbols = np.empty(len(places), np.int64)
        for number, members in _runs(table):
            symbols[members] = coder.decode(_models()[number], len(members))
        values = symbols - LIMIT
        for place in np.flatnonzero(symbols == _ESCAPE):
            is_negative = bool(coder.decode(_uniform(2)))
            magnitude = int(coder.decode(_uniform(1 << 12))) + LIMIT + 1
            values[place] = -magnitude if is_negative else magnitude
        value_P[places] = values
        return values

    for _ in _plan(plane, element_P, scales_C, read):
        pass
    return value_P


def _plan(plane: Plane, element_P: NDArray[np.int64], scales_C: NDArray[np.int64], values_of: Any) -> Any:
    """Group by group: the places of its elements and the table of each, then the activity moves on with their values."""
    cells = plane.height * plane.width
    activity = _Activity(plane.height, plane.width)
    for places in _group_elements(plane, element_P):
        elements = element_P[places]
        scale = scales_C[elements // cells]
        is_live = scale > 0
        places, elements, scale = places[is_live], elements[is_live], scale[is_live]
        if not len(places):
            continue
        position = elements % cells
        table = np.clip(scale + activity.shifts()[position], 1, NUM_SCALES - 1)
        # In coding order; a caller that encodes does so on `yield`, one that decodes inside `values_of`.
        values = values_of(places, table)
        yield places, table
        activity.add(position, np.abs(values), scale)


def _runs(table: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """Places of each number of 0 .. 255, numbers ascending, places ascending: one call of the coder each."""
    counts = np.bincount(table)
    # Bytes are sorted by counting, four times as fast as 64-bit integers.
    order = np.argsort(table.astype(np.uint8), kind="stable")
    runs, end = [], 0
    for number in np.flatnonzero(counts).tolist():
        start, end = end, end + int(counts[number])
        runs.append((number, order[start:end]))
    return runs


def ideal_bits(
    plane: Plane, element_P: NDArray[np.int64], value_P: NDArray[np.int64], scales_C: NDArray[np.int64]
) -> float:
    """Sum of -log2 P over a packet's elements of one plane: what an ideal coder would need for `encode_plane`."""
    logs = -np.log2(frequencies() / (1 << _TABLE_BITS))
    bits = 0.0
    for places, table in _plan(plane, element_P, scales_C, lambda places, table: value_P[places]):
        values = value_P[places]
        is_escape = np.abs(values) > LIMIT
        bits += float(logs[table, np.where(is_escape, _ESCAPE, values + LIMIT)].sum()) + 13.0 * int(is_escape.sum())
    return bits


def ideal_scale_bits(scales_C: NDArray[np.int64], usual_C: NDArray[np.int64]) -> float:
    """What an ideal coder would need for `encode_scales`."""
    bits = 0.0
    for dead_class, members in _runs(usual_C // _USUAL_UNIT):
        bits -= float(np.log2(_dead_weights(dead_class)[(scales_C[members] == 0).astype(int)]).sum())
    offset, halves, live = _difference_parts(scales_C, usual_C)
    if len(live):
        bits -= float(np.log2(_difference_weights(_OFFSET_RATIO)[offset + NUM_SCALES - 2]))
        bits -= float(np.log2(_difference_weights(_HALF_RATIO)[halves + NUM_SCALES - 2]).sum())
    return bits
