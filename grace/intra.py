"""Intra coding: the first frame, and the small I-patch that travels with every P-frame (paper; sheet, 2.7).

A whole I-frame is many times a P-frame, so only the first frame is one. After it every P-frame is accompanied by one intra-coded
square that scans the picture in raster order: errors and drift vanish after one scan. The patch replaces what the P-frame decoded
there, at the sender and at every receiver that got it. It is a packet of its own and is lost like any other.

# DEVIATION grace-7: x265 intra coding instead of BPG, which is x265 intra coding in a file format of its own

    offset  bytes
    0       1      kind and version: 0x49
    1       2      frame number, modulo 65536
    3       2      patch number
    5       1      quantiser
    6       4      CRC-32 of everything but these four bytes
    10      ..     slice of H.265 without parameter sets, which the session sends once
"""

import dataclasses
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from common.codecs import Decoder, Encoder, Packet, nal_units
from common.codecs.stream import nal_type
from common.errors import ConfigError, CorruptBitstream

KIND = 0x49
_HEAD = struct.Struct("<BHHBI")
_CRC_AT = 6
_FIRST_PARAMETER_SET = 32
DEFAULT_SIDE = 32
_BASE_QP = 30
MOST_PATCH_QP = 48

Image = NDArray[np.uint8]


def encode_intra_frame(frame: Image, qp: int) -> bytes:
    """A whole frame as one H.265 intra picture, parameter sets included.

    Raises:
        ConfigError: an image or quantiser that x265 does not take.
    """
    encoder = Encoder(frame.shape[1], frame.shape[0], codec="h265", qp=qp, gop=1)
    return encoder.encode(frame)[0].data


def decode_intra_frame(data: bytes, height: int, width: int) -> Image:
    """The inverse of `encode_intra_frame`.

    Raises:
        CorruptBitstream: damaged or of another size.
    """
    decoder = Decoder("h265", width, height)
    found = [*decoder.decode(Packet(data, 0, True)), *decoder.flush()]
    if not found:
        raise CorruptBitstream(f"{len(data)} bytes of an intra frame decode to no picture. The stream was cut.")
    return found[0].image


def patch_qp(level: int) -> int:
    """The patch's quantiser that looks like a P-frame of a quality level: 36 at level 0 to 20 at level 16, 44 at level -8."""
    return 36 - level


@dataclasses.dataclass(frozen=True)
class PatchGrid:
    """Where patches lie in frames of one size: in raster order, those at the right and bottom edges moved inside.

    Attributes:
        height, width: of the frame, at least `side`.
        side: of a patch, pixels.
    """

    height: int
    width: int
    side: int = DEFAULT_SIDE

    def __post_init__(self) -> None:
        if not 16 <= self.side <= min(self.height, self.width):
            raise ConfigError(f"patch side {self.side} must lie in 16..{min(self.height, self.width)}.")

    @property
    def num_patches(self) -> int:
        """Frames of one scan."""
        return -(-self.height // self.side) * -(-self.width // self.side)

    def corner(self, number: int) -> tuple[int, int]:
        """Top and left of a patch."""
        columns = -(-self.width // self.side)
        row, column = divmod(number % self.num_patches, columns)
        return min(row * self.side, self.height - self.side), min(column * self.side, self.width - self.side)

    def cut(self, frame: Image, number: int) -> Image:
        """The pixels of a patch."""
        top, left = self.corner(number)
        return np.ascontiguousarray(frame[top : top + self.side, left : left + self.side])

    def paste(self, frame: Image, number: int, patch: Image) -> Image:
        """The frame with the patch in its place; the argument is not modified."""
        top, left = self.corner(number)
        result = frame.copy()
        result[top : top + self.side, left : left + self.side] = patch
        return result


@dataclasses.dataclass(frozen=True, eq=False)
class Patch:
    """A decoded I-patch."""

    frame: int
    number: int
    image: Image


class PatchEncoder:
    """Codes patches of one size; `parameter_sets` must reach the receiver once."""

    def __init__(self, side: int = DEFAULT_SIDE) -> None:
        self.side = side
        self._encoder = Encoder(side, side, codec="h265", qp=_BASE_QP, gop=1)
        first = self._encoder.encode(np.zeros((side, side, 3), np.uint8), qp=_BASE_QP)[0]
        units = nal_units(first.data)
        self.parameter_sets = b"".join(unit for unit in units if nal_type(unit, "h265") >= _FIRST_PARAMETER_SET)

    def encode(self, patch: Image, frame: int, number: int, qp: int) -> bytes:
        """One patch as a packet.

        Args:
            patch: uint8 RGB (side, side, 3).
            frame, number: of the frame and of the patch.
            qp: quantiser, 1..51.
        """
        coded = self._encoder.encode(patch, qp=qp)[0]
        units = nal_units(coded.data)
        slice_ = b"".join(unit for unit in units if nal_type(unit, "h265") < _FIRST_PARAMETER_SET)
        head = _HEAD.pack(KIND, frame & 0xFFFF, number, qp, 0)[:_CRC_AT]
        return head + struct.pack("<I", zlib.crc32(slice_, zlib.crc32(head))) + slice_


class PatchDecoder:
    """Decodes the patches of one sender."""

    def __init__(self, parameter_sets: bytes, side: int = DEFAULT_SIDE) -> None:
        self._decoder = Decoder("h265", side, side, extradata=parameter_sets)

    def decode(self, data: bytes) -> Patch:
        """The inverse of `PatchEncoder.encode`.

        Raises:
            CorruptBitstream: too short, of another kind, or damaged.
        """
        if len(data) <= _HEAD.size or data[0] != KIND:
            raise CorruptBitstream(
                f"a packet of {len(data)} bytes is not an I-patch. It was cut or is of another kind."
            )
        _, frame, number, _, crc = _HEAD.unpack_from(data)
        body = data[_HEAD.size :]
        if zlib.crc32(body, zlib.crc32(data[:_CRC_AT])) != crc:
            raise CorruptBitstream(
                f"I-patch {number} of frame {frame}: its checksum differs. It was damaged on the way."
            )
        found = self._decoder.decode(Packet(body, 0, True))
        if not found:
            raise CorruptBitstream(f"I-patch {number} of frame {frame} decodes to no picture.")
        return Patch(frame, number, found[0].image)
