"""How each kind of sensor data becomes bytes, and data again. Sizes in every figure are lengths of these bytes.

    VideoCoder   pictures, colour (N, H, W, 3) or grey (N, H, W), with H.264       coding: qp, or qp_map
    SoundCoder   pieces of sound (N, S) as packed samples of a number of bits        coding: bits
    ScanCoder    range images (N, H, W), quantised, differences along a row, deflate  coding: step_m

Each interval is coded on its own (its first picture is a key frame). Damaged bytes raise CorruptBitstream.
"""

import dataclasses
import struct
import zlib
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError, CorruptBitstream
from oneadapt.api import Segment

_HEADER = struct.Struct("<4sHHHfI")
"""Magic, three sizes, a step, CRC-32 of the payload."""
_MAX_VALUES = 2**26


class Coder(Protocol):
    """Makes bytes of a segment's data."""

    def encode(self, segment: Segment) -> Any:
        """The bitstream: bytes, or an object with `num_bytes`."""
        ...

    def decode(self, stream: Any) -> npt.NDArray[Any]:
        """The data, in the form that `encode` was given.

        Raises:
            CorruptBitstream: the stream is damaged.
        """
        ...


def num_bytes(stream: Any) -> int:
    """Length of a bitstream."""
    return len(stream) if isinstance(stream, bytes) else int(stream.num_bytes)


@dataclasses.dataclass(frozen=True)
class VideoCoder:
    """H.264 with an exact quantiser, one group of pictures per interval.

    Attributes:
        fps: frames per second of the sensor.
        preset: x264's.
        is_grey: pictures of one channel, (N, H, W).
    """

    fps: float = 10.0
    preset: str = "veryfast"
    is_grey: bool = False

    def encode(self, segment: Segment) -> Any:
        """An `EncodedVideo`; `segment.coding` holds `qp` or `qp_map`."""
        from common.codecs.video import encode, encode_with_qp_map

        frames = np.repeat(segment.data[..., None], 3, axis=-1) if self.is_grey else segment.data
        coding = segment.coding
        if "qp_map" in coding:
            return encode_with_qp_map(frames, coding["qp_map"], fps=self.fps, preset=self.preset)
        if "qp" not in coding:
            raise ConfigError("no knob has set the quantiser; an application for video needs a knob that sets 'qp'.")
        return encode(frames, qp=coding["qp"], fps=self.fps, preset=self.preset)

    def decode(self, stream: Any) -> npt.NDArray[np.uint8]:
        """See `Coder.decode`."""
        from common.codecs.video import decode

        frames: npt.NDArray[np.uint8] = decode(stream)
        # The three channels of a grey picture differ by rounding of the colour conversion alone.
        return np.rint(frames.mean(-1)).astype(np.uint8) if self.is_grey else frames


def _pack(magic: bytes, sizes: tuple[int, int, int], step: float, payload: bytes) -> bytes:
    return _HEADER.pack(magic, *sizes, step, zlib.crc32(payload)) + payload


def _unpack(stream: bytes, magic: bytes, what: str) -> tuple[tuple[int, int, int], float, bytes]:
    if len(stream) < _HEADER.size:
        raise CorruptBitstream(f"{what}: {len(stream)} bytes are too few for its header of {_HEADER.size}.")
    found, a, b, c, step, checksum = _HEADER.unpack_from(stream)
    payload = stream[_HEADER.size :]
    if found != magic:
        raise CorruptBitstream(f"{what}: it begins with {found!r}, not {magic!r}; it is another kind of stream.")
    if zlib.crc32(payload) != checksum or a * b * c > _MAX_VALUES:
        raise CorruptBitstream(
            f"{what}: the checksum of its {len(payload)} bytes differs. It was damaged or cut on the way."
        )
    return (a, b, c), step, payload


@dataclasses.dataclass(frozen=True)
class SoundCoder:
    """Samples in [-1, 1], uniformly quantised to `coding["bits"]` bits (2..16) and packed without gaps."""

    def encode(self, segment: Segment) -> bytes:
        """See `Coder.encode`."""
        bits = int(segment.coding.get("bits", 16))
        if not 2 <= bits <= 16:
            raise ConfigError(f"bits={bits} of a sample must lie in [2, 16].")
        levels = 2**bits - 1
        codes = np.rint((np.clip(segment.data, -1, 1) + 1) / 2 * levels).astype(np.uint32).reshape(-1)
        planes = (codes[:, None] >> np.arange(bits - 1, -1, -1)) & 1
        pieces, samples = segment.data.shape
        return _pack(b"1SND", (pieces, samples, bits), 0.0, np.packbits(planes.astype(np.uint8)).tobytes())

    def decode(self, stream: bytes) -> npt.NDArray[np.float32]:
        """See `Coder.decode`."""
        (pieces, samples, bits), _, payload = _unpack(stream, b"1SND", "sound stream")
        count = pieces * samples
        if not 2 <= bits <= 16 or len(payload) != -(-count * bits // 8):
            raise CorruptBitstream(f"sound stream: {len(payload)} bytes do not hold {count} samples of {bits} bits.")
        planes = np.unpackbits(np.frombuffer(payload, np.uint8), count=count * bits).reshape(count, bits)
        codes = planes.astype(np.float64) @ (2.0 ** np.arange(bits - 1, -1, -1))
        return (codes / (2**bits - 1) * 2 - 1).astype(np.float32).reshape(pieces, samples)


@dataclasses.dataclass(frozen=True)
class ScanCoder:
    """Ranges in metres as multiples of `coding["step_m"]`; lossless from there on. 0 (nothing came back) stays 0."""

    def encode(self, segment: Segment) -> bytes:
        """See `Coder.encode`."""
        step = float(segment.coding.get("step_m", 0.02))
        if not 0.002 <= step <= 100:
            raise ConfigError(f"step_m={step} of a range must lie in [0.002, 100] metres.")
        # A return must not become "nothing" by rounding: the smallest code of a return is 1.
        codes = np.where(segment.data > 0, np.maximum(1, np.rint(segment.data / step)), 0).astype(np.int32)
        if codes.max(initial=0) > 32767:
            raise ConfigError(f"step_m={step} is too fine for ranges up to {segment.data.max():.1f} m.")
        difference = np.diff(codes, axis=-1, prepend=0)
        payload = zlib.compress(difference.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :2].T.tobytes(), 6)
        return _pack(b"1SCN", segment.data.shape, step, payload)

    def decode(self, stream: bytes) -> npt.NDArray[np.float32]:
        """See `Coder.decode`."""
        shape, step, payload = _unpack(stream, b"1SCN", "scan stream")
        count = shape[0] * shape[1] * shape[2]
        inflate = zlib.decompressobj()
        try:
            raw = inflate.decompress(payload, 2 * count + 1)
        except zlib.error as error:
            raise CorruptBitstream(f"scan stream: {error}") from error
        if len(raw) != 2 * count:
            raise CorruptBitstream(f"scan stream: {len(raw)} bytes of differences, {2 * count} expected.")
        low, high = np.frombuffer(raw, np.uint8).reshape(2, count)
        # Differences of 15-bit codes fit 16 bits with a sign.
        difference = (low.astype(np.uint16) | (high.astype(np.uint16) << 8)).astype(np.int16).reshape(shape)
        codes = np.cumsum(difference, axis=-1, dtype=np.int32)
        return (codes * np.float32(step)).astype(np.float32)
