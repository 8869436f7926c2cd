"""The packets of a P-frame: real bytes, each decodable on its own.

    offset  bytes
    0       1      kind and version: 0x47
    1       2      frame number, modulo 65536
    3       1      packet index
    4       1      number of packets of the frame
    5       1      quality level of the residual, signed
    6       1      quality level of the motion, signed
    7       1      key of the packet map; the highest bit says that an I-patch travels with the frame
    8       1      height in units of 8 pixels
    9       1      width in units of 8 pixels
    10      2      check of the weights that coded it
    12      4      CRC-32 of everything but these four bytes
    16      6-18   global motion: six signed integers, variable length
    ..      ..     range-coded words (32 bit): scales of motion and residual channels, then this packet's elements

All integers are little-endian. A packet whose checksum differs is not read any further.
"""

import dataclasses
import struct
import zlib
from collections.abc import Iterable
from typing import Any, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, CorruptBitstream
from grace import entropy
from grace.entropy import Plane
from grace.packet_map import MAX_PACKETS, NUM_KEYS, elements_of_packet

KIND = 0x47
_HEAD = struct.Struct("<BHBBbbBBBHI")
_CRC = struct.Struct("<I")
_CRC_AT = 12
HEAD_BYTES = _HEAD.size
LARGEST_SIDE = 255 * 8
_PATCH_FLAG = 0x80


class Tables(Protocol):
    """What coding needs of a codec's weights."""

    num_levels: int
    lowest_level: int
    stride: int
    check: int
    usual_motion_scales: NDArray[np.int64]
    usual_residual_scales: NDArray[np.int64]

    def planes(self, height: int, width: int) -> tuple[Plane, Plane]:
        """Planes of motion and residual latents of frames of this (padded) size."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Latents:
    """Everything that is sent of one P-frame, or the part of it that was received with zeros for the rest.

    Attributes:
        frame: frame number.
        level, motion_level: quality levels of residual and motion.
        global_motion: (2, 3) int16, see `grace.motion`.
        motion: (V, h, w) int16.
        residual: (M, h, w) int16.
    """

    frame: int
    level: int
    motion_level: int
    global_motion: NDArray[np.int16]
    motion: NDArray[np.int16]
    residual: NDArray[np.int16]

    def flat(self) -> NDArray[np.int64]:
        """All elements in packet-map order: motion, then residual, channel by channel."""
        return np.concatenate([self.motion.reshape(-1), self.residual.reshape(-1)]).astype(np.int64)

    def masked(self, keep: NDArray[np.bool_]) -> "Latents":
        """These latents with the elements set to zero where `keep`, (N,), is False."""
        flat = np.where(keep, self.flat(), 0).astype(np.int16)
        num = self.motion.size
        return dataclasses.replace(
            self, motion=flat[:num].reshape(self.motion.shape), residual=flat[num:].reshape(self.residual.shape)
        )


@dataclasses.dataclass(frozen=True)
class PacketHead:
    """The header of a packet that passed its checksum."""

    frame: int
    index: int
    num_packets: int
    level: int
    motion_level: int
    key: int
    has_patch: bool
    height: int
    width: int
    weights_check: int


@dataclasses.dataclass(frozen=True, eq=False)
class ReceivedFrame:
    """What the packets of one frame that arrived hold.

    Attributes:
        latents: with zeros for what was lost.
        received: packet numbers that were read.
        num_packets: how many there were.
        rejected: number of packets that were dropped as damaged.
    """

    latents: Latents
    received: frozenset[int]
    num_packets: int
    rejected: int = 0

    @property
    def is_complete(self) -> bool:
        return len(self.received) == self.num_packets


def key_of_frame(frame: int) -> int:
    """The packet map's key for a frame number."""
    return frame % NUM_KEYS


def write_packets(latents: Latents, num_packets: int, tables: Tables, *, has_patch: bool = False) -> list[bytes]:
    """Code a frame's latents as packets.

    Args:
        num_packets: 1..255; with one packet, a loss is total.
        has_patch: an I-patch travels with the frame; a receiver that has all of it need not wait any longer.

    Raises:
        ConfigError: too many packets, or a frame too large for the header.
    """
    height, width = latents.residual.shape[1] * tables.stride, latents.residual.shape[2] * tables.stride
    if not 1 <= num_packets <= MAX_PACKETS:
        raise ConfigError(f"num_packets={num_packets} must lie in 1..{MAX_PACKETS}.")
    if max(height, width) > LARGEST_SIDE:
        raise ConfigError(
            f"a frame of {width}x{height} is too large for a packet header; at most {LARGEST_SIDE} a side."
        )
    planes = tables.planes(height, width)
    usual = _usual_scales(tables, latents.motion_level, latents.level)
    scales = entropy.sent_scales(latents.motion, usual[0]), entropy.sent_scales(latents.residual, usual[1])
    flat = latents.flat()
    key = key_of_frame(latents.frame)
    packets = []
    for index in range(num_packets):
        elements = elements_of_packet(len(flat), num_packets, index, key)
        coder = constriction.stream.queue.RangeEncoder()
        for plane_scales, plane_usual in zip(scales, usual, strict=True):
            entropy.encode_scales(coder, plane_scales, plane_usual)
        for plane, plane_scales, part, offset in _parts(planes, scales, elements):
            entropy.encode_plane(coder, plane, part - offset, flat[part], plane_scales)
        words = coder.get_compressed().astype("<u4").tobytes()
        head = _HEAD.pack(
            KIND,
            latents.frame & 0xFFFF,
            index,
            num_packets,
            latents.level,
            latents.motion_level,
            key | _PATCH_FLAG * has_patch,
            height // 8,
            width // 8,
            tables.check,
            0,
        )
        body = _write_integers(latents.global_motion.reshape(-1)) + words
        crc = zlib.crc32(body, zlib.crc32(head[:_CRC_AT]))
        packets.append(head[:_CRC_AT] + _CRC.pack(crc) + body)
    return packets


def read_head(data: bytes) -> PacketHead:
    """The header of a packet, after its checksum was verified.

    Raises:
        CorruptBitstream: too short, of another kind, or damaged.
    """
    if len(data) < HEAD_BYTES:
        raise CorruptBitstream(f"a packet of {len(data)} bytes is shorter than its header of {HEAD_BYTES}. It was cut.")
    if data[0] != KIND:
        raise CorruptBitstream(f"a packet of kind {data[0]:#04x} is not one of a P-frame ({KIND:#04x}).")
    (_, frame, index, num, level, motion_level, key, height, width, check, crc) = _HEAD.unpack_from(data)
    if zlib.crc32(data[HEAD_BYTES:], zlib.crc32(data[:_CRC_AT])) != crc:
        raise CorruptBitstream(f"packet {index} of frame {frame}: its checksum differs. It was damaged on the way.")
    has_patch, key = bool(key & _PATCH_FLAG), key & ~_PATCH_FLAG
    if index >= num or not height or not width or key >= NUM_KEYS:
        raise CorruptBitstream(f"packet {index} of {num} of frame {frame}: its header contradicts itself.")
    return PacketHead(frame, index, num, level, motion_level, key, has_patch, height * 8, width * 8, check)


def read_packets(data: Iterable[bytes], tables: Tables, *, frame: int | None = None) -> ReceivedFrame:
    """Decode the packets of one frame that arrived, in any order, duplicates included; damaged ones are dropped.

    Args:
        data: at least one sound packet. The first sound one says which frame it is.
        tables: of the weights that coded them.
        frame: the frame number expected; packets of other frames are dropped.

    Raises:
        CorruptBitstream: no packet could be read.
        ConfigError: the packets were coded with other weights.
    """
    flat: NDArray[np.int64] | None = None
    first: PacketHead | None = None
    planes: tuple[Plane, Plane] | None = None
    motion = np.zeros((2, 3), np.int16)
    received: set[int] = set()
    rejected = 0
    problem = "no packets."
    for packet in data:
        try:
            head = read_head(packet)
            if head.weights_check != tables.check:
                raise ConfigError(
                    f"packets were coded with weights {head.weights_check:#06x}, not {tables.check:#06x}; load the sender's."
                )
            if frame is not None and head.frame != frame & 0xFFFF:
                raise CorruptBitstream(f"a packet of frame {head.frame}, not {frame}.")
            if first is not None and _common(head) != _common(first):
                raise CorruptBitstream(f"packet {head.index} of frame {head.frame} is not of the same frame as others.")
            if head.index in received:
                continue
            levels = head.level, head.motion_level
            if max(levels) >= tables.num_levels or min(levels) < tables.lowest_level:
                raise CorruptBitstream(f"level {head.level} or {head.motion_level} does not exist.")
            if head.height % tables.stride or head.width % tables.stride:
                raise CorruptBitstream(f"a frame of {head.width}x{head.height} does not fit the codec's grid.")
            planes = tables.planes(head.height, head.width)
            found, elements, values = _read_body(packet, head, planes, tables)
        except CorruptBitstream as error:
            rejected += 1
            problem = str(error)
            continue
        if flat is None:
            first, motion = head, found
            flat = np.zeros(planes[0].size + planes[1].size, np.int64)
        flat[elements] = values
        received.add(head.index)
    if first is None or flat is None or planes is None:
        raise CorruptBitstream(f"no packet of the frame can be read: {problem}")
    num = planes[0].size
    latents = Latents(
        first.frame,
        first.level,
        first.motion_level,
        motion,
        flat[:num].reshape(planes[0].channels, planes[0].height, planes[0].width).astype(np.int16),
        flat[num:].reshape(planes[1].channels, planes[1].height, planes[1].width).astype(np.int16),
    )
    return ReceivedFrame(latents, frozenset(received), first.num_packets, rejected)


def _read_body(
    packet: bytes, head: PacketHead, planes: tuple[Plane, Plane], tables: Tables
) -> tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.int64]]:
    integers, at = _read_integers(packet, HEAD_BYTES, 6)
    if (len(packet) - at) % 4:
        raise CorruptBitstream(f"packet {head.index} of frame {head.frame} does not end on a whole word. It was cut.")
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(packet, "<u4", offset=at).astype(np.uint32))
    usual = _usual_scales(tables, head.motion_level, head.level)
    elements = elements_of_packet(planes[0].size + planes[1].size, head.num_packets, head.index, head.key)
    try:
        scales = entropy.decode_scales(decoder, usual[0]), entropy.decode_scales(decoder, usual[1])
        values = [
            entropy.decode_plane(decoder, plane, part - offset, plane_scales)
            for plane, plane_scales, part, offset in _parts(planes, scales, elements)
        ]
    except AssertionError as error:  # how constriction says that words cannot come from its encoder
        raise CorruptBitstream(f"packet {head.index} of frame {head.frame}: its words decode to nothing.") from error
    global_motion = np.clip(integers, -32768, 32767).astype(np.int16).reshape(2, 3)
    return global_motion, elements, np.concatenate(values)


def _usual_scales(tables: Tables, motion_level: int, level: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What a frame's scales are coded relative to. Below level 0 it is level 0's: an offset that is coded anyway moves all."""
    return tables.usual_motion_scales[max(0, motion_level)], tables.usual_residual_scales[max(0, level)]


def _parts(planes: tuple[Plane, Plane], scales: tuple[Any, Any], elements: NDArray[np.int64]) -> Any:
    """Of each plane: itself, its scales, the packet's elements in it, and the number of its first element."""
    cut = int(np.searchsorted(elements, planes[0].size))
    yield planes[0], scales[0], elements[:cut], 0
    yield planes[1], scales[1], elements[cut:], planes[0].size


def _common(head: PacketHead) -> PacketHead:
    return dataclasses.replace(head, index=0)


def _write_integers(values: NDArray[np.int16]) -> bytes:
    """Signed integers, 7 bits a byte, least first; the sign is the lowest bit."""
    out = bytearray()
    for value in values.tolist():
        rest = (value << 1) ^ (value >> 31)
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def _read_integers(data: bytes, at: int, num: int) -> tuple[NDArray[np.int64], int]:
    values = np.zeros(num, np.int64)
    for index in range(num):
        rest, shift = 0, 0
        while True:
            if at >= len(data) or shift > 21:
                raise CorruptBitstream("the global motion is cut off or too long.")
            byte = data[at]
            at += 1
            rest |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        values[index] = (rest >> 1) ^ -(rest & 1)
    return values, at


def breakdown(latents: Latents, num_packets: int, tables: Tables) -> dict[str, float]:
    """Bytes of a frame's packets by what they hold: fixed header, global motion, scales, motion and residual elements.

    The coded parts are ideal lengths; "coder" is what the real words take beyond them.
    """
    packets = write_packets(latents, num_packets, tables)
    height, width = latents.residual.shape[1] * tables.stride, latents.residual.shape[2] * tables.stride
    planes = tables.planes(height, width)
    usual = _usual_scales(tables, latents.motion_level, latents.level)
    scales = entropy.sent_scales(latents.motion, usual[0]), entropy.sent_scales(latents.residual, usual[1])
    flat = latents.flat()
    bits = {"motion": 0.0, "residual": 0.0}
    for index in range(num_packets):
        elements = elements_of_packet(len(flat), num_packets, index, key_of_frame(latents.frame))
        for name, (plane, plane_scales, part, offset) in zip(bits, _parts(planes, scales, elements), strict=True):
            bits[name] += entropy.ideal_bits(plane, part - offset, flat[part], plane_scales)
    scale_bits = sum(entropy.ideal_scale_bits(s, u) for s, u in zip(scales, usual, strict=True)) * num_packets
    integers = len(_write_integers(latents.global_motion.reshape(-1))) * num_packets
    total = float(sum(map(len, packets)))
    found = {
        "header": float(HEAD_BYTES * num_packets),
        "global_motion": float(integers),
        "scales": scale_bits / 8,
        "motion": bits["motion"] / 8,
        "residual": bits["residual"] / 8,
    }
    return found | {"coder": total - sum(found.values()), "total": total}
