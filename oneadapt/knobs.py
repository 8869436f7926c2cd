"""Knobs: what can be set, in which steps, and what a setting does at the sensor and at the server.

A knob is a class with `name`, `values` and two functions, see `oneadapt.api.Knob`; `FrameRate` below is a whole one.

    prepare (sensor) : k1 -> k2 -> ... -> encoder ~~~~ bytes ~~~~ decoder -> ... -> k2 -> k1 : restore (server)
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError
from oneadapt import filtering
from oneadapt.api import Segment, check_values
from oneadapt.worlds import SAMPLE_RATE_HZ


class _Knob:
    """A knob that only changes the sensor's side; also checks its values."""

    name: str
    values: Sequence[Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        check_values(self.name, self.values)

    def restore(self, segment: Segment, value: Any, like: Segment) -> Segment:
        """Nothing to undo."""
        return segment


@dataclasses.dataclass(frozen=True)
class Quantiser(_Knob):
    """H.264's quantiser."""

    values: Sequence[int] = (26, 30, 34, 38, 42, 46)
    name: str = "qp"

    def prepare(self, segment: Segment, value: int) -> Segment:
        """Tell the encoder."""
        return segment.with_(coding={"qp": int(value)})


@dataclasses.dataclass(frozen=True)
class Resolution(_Knob):
    """Width and height of pictures, as a share of the sensor's, rounded to even numbers."""

    values: Sequence[float] = (1.0, 0.8, 0.6)
    name: str = "resolution"

    def prepare(self, segment: Segment, value: float) -> Segment:
        """Shrink by averaging."""
        if value == 1.0:
            return segment
        height, width = segment.data.shape[1:3]
        size = max(16, 2 * round(width * value / 2)), max(16, 2 * round(height * value / 2))
        return segment.with_(data=resize(segment.data, size, is_shrinking=True))

    def restore(self, segment: Segment, value: float, like: Segment) -> Segment:
        """Enlarge bilinearly."""
        height, width = like.data.shape[1:3]
        return segment.with_(data=resize(segment.data, (width, height), is_shrinking=False))


def resize(frames: npt.NDArray[Any], size: tuple[int, int], *, is_shrinking: bool) -> npt.NDArray[Any]:
    """Pictures (N, H, W) or (N, H, W, C) at another (width, height); the same array if that is their size."""
    import cv2

    if frames.shape[2] == size[0] and frames.shape[1] == size[1]:
        return frames
    how = cv2.INTER_AREA if is_shrinking else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, size, interpolation=how) for frame in frames])


@dataclasses.dataclass(frozen=True)
class FrameRate(_Knob):
    """How many of an interval's frames are sent; the server repeats each until the next one comes."""

    values: Sequence[int] = (10, 5, 3, 2)
    name: str = "frames"

    def prepare(self, segment: Segment, value: int) -> Segment:
        """Keep `value` frames, evenly spaced, the first among them."""
        count = min(int(value), len(segment.data))
        kept = np.arange(count) * len(segment.data) // count
        return segment.with_(data=segment.data[kept], kept=tuple(segment.kept[i] for i in kept))


@dataclasses.dataclass(frozen=True)
class FrameFilter(_Knob):
    """Reducto's filter: frames go out when their features stand out; a value is one bias per feature (see `filtering`)."""

    values: Sequence[tuple[float, ...]] = tuple(filtering.bias_grid())
    name: str = "filter"

    def prepare(self, segment: Segment, value: tuple[float, ...]) -> Segment:
        """Drop frames; the first always stays."""
        kept = filtering.kept_frames(segment.data, value)
        return segment.with_(data=segment.data[list(kept)], kept=tuple(segment.kept[i] for i in kept))


@dataclasses.dataclass(frozen=True)
class BlockQuality(_Knob):
    """Quantisers per macroblock: a value is one quantiser for all, or a map (rows, columns) of them."""

    values: Sequence[int] = (30, 40)
    name: str = "blocks"

    def prepare(self, segment: Segment, value: Any) -> Segment:
        """Tell the encoder."""
        if isinstance(value, np.ndarray):
            return segment.with_(coding={"qp_map": value})
        return segment.with_(coding={"qp": int(value)})


@dataclasses.dataclass(frozen=True)
class SamplingRate(_Knob):
    """Samples per second of sound; resampled with an anti-alias filter on both ways."""

    values: Sequence[int] = (16_000, 12_000, 8_000, 6_000, 4_000)
    name: str = "rate_hz"

    def prepare(self, segment: Segment, value: int) -> Segment:
        """Resample downwards."""
        return segment.with_(data=_resample(segment.data, SAMPLE_RATE_HZ, int(value)))

    def restore(self, segment: Segment, value: int, like: Segment) -> Segment:
        """Resample upwards."""
        return segment.with_(data=_resample(segment.data, int(value), SAMPLE_RATE_HZ))


def _resample(pieces: npt.NDArray[np.float32], old_hz: int, new_hz: int) -> npt.NDArray[np.float32]:
    from math import gcd

    from scipy.signal import resample_poly

    if old_hz == new_hz:
        return pieces
    common = gcd(old_hz, new_hz)
    # One stream, not piece by piece: pieces would ring at their ends.
    wave = resample_poly(pieces.reshape(-1), new_hz // common, old_hz // common)
    return wave.astype(np.float32).reshape(len(pieces), -1)


@dataclasses.dataclass(frozen=True)
class BitDepth(_Knob):
    """Bits per sample of sound."""

    values: Sequence[int] = (16, 12, 10, 8, 6, 4)
    name: str = "bits"

    def prepare(self, segment: Segment, value: int) -> Segment:
        """Tell the encoder."""
        return segment.with_(coding={"bits": int(value)})


@dataclasses.dataclass(frozen=True)
class Beams(_Knob):
    """A scanner's beams: every value-th row of a range image is sent, the server repeats it (density)."""

    values: Sequence[int] = (1, 2, 3, 4)
    name: str = "beam_step"

    def prepare(self, segment: Segment, value: int) -> Segment:
        """Leave rows out."""
        return segment.with_(data=segment.data[:, :: int(value)])

    def restore(self, segment: Segment, value: int, like: Segment) -> Segment:
        """Each missing row takes the nearest one sent."""
        return segment.with_(data=segment.data[:, _nearest(like.data.shape[1], int(value))])


@dataclasses.dataclass(frozen=True)
class AzimuthStep(_Knob):
    """A scanner's columns: every value-th is sent, the server repeats it (density)."""

    values: Sequence[int] = (1, 2, 3, 4)
    name: str = "azimuth_step"

    def prepare(self, segment: Segment, value: int) -> Segment:
        """Leave columns out."""
        return segment.with_(data=segment.data[:, :, :: int(value)])

    def restore(self, segment: Segment, value: int, like: Segment) -> Segment:
        """Each missing column takes the nearest one sent."""
        return segment.with_(data=segment.data[:, :, _nearest(like.data.shape[2], int(value))])


def _nearest(length: int, step: int) -> npt.NDArray[np.int64]:
    sent = np.arange(0, length, step)
    return np.minimum((np.arange(length) + step // 2) // step, len(sent) - 1)


@dataclasses.dataclass(frozen=True)
class RangeStep(_Knob):
    """Quantisation of ranges, metres."""

    values: Sequence[float] = (0.02, 0.1, 0.4, 1.6)
    name: str = "step_m"

    def prepare(self, segment: Segment, value: float) -> Segment:
        """Tell the encoder."""
        return segment.with_(coding={"step_m": float(value)})


def check_knobs(knobs: Sequence[Any]) -> None:
    """Raise ConfigError unless knobs have different names."""
    names = [knob.name for knob in knobs]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"an application needs knobs with different names, got {names}.")
