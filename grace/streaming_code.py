"""Tambur's streaming code: parity that spans frames, so that a burst is recovered within tau frames (Rudow et al., NSDI 2023).

Each frame's data packets go alternately into V and U. The parity packets of frame i are Cauchy combinations over GF(256) of

    V[i - tau], ..., V[i],  U[i - tau]  and  U[i].

A receiver keeps the linear system of the last 2 tau + 1 frames and recovers every packet that it determines; this is never weaker
than the recovery rules of the paper, which are one way to solve that system. Parity is as large as half of the data while losses
were seen in the last two reports, and absent otherwise. What is not recovered after tau frames is asked for again.

# DEVIATION grace-10: Tambur's predictor of losses has no public weights; its fall-back of two reports is used
"""

import dataclasses
import functools
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from common.codecs import Decoder, Encoder, Packet
from common.errors import ConfigError, CorruptBitstream
from grace.api import WIRE_HEADER_BYTES, FrameStatus, Image, Rendered, Report, StreamInfo, unwrapped
from grace.classic import FIRST_FRAME_QP, QuantiserModel

KIND = 0x54
_HEAD = struct.Struct("<BHBBBH")
_SIZES = struct.Struct("<BH")
_CRC = struct.Struct("<I")
_LARGEST_FRAME = 0xFFFF
TAU = 3
MAX_PACKETS = 16
"""Data packets of a frame that parity covers, and parity packets: coefficients must differ within the window of 8 frames."""
MOST_DATA = 255 - MAX_PACKETS
"""Data packets of a frame. Those beyond `MAX_PACKETS` are not covered by parity: what is lost of them is sent again."""
_REPORT_FRAMES = 50
_KEPT_FRAMES = 64
_REPORTED_FRAMES = 16

Bytes = NDArray[np.uint8]


@functools.cache
def _field() -> tuple[Bytes, Bytes]:
    """GF(256) modulo x^8 + x^4 + x^3 + x^2 + 1: product table (256, 256) and inverses (256,)."""
    exponent = np.zeros(512, np.int64)
    logarithm = np.zeros(256, np.int64)
    value = 1
    for power in range(255):
        exponent[power] = value
        logarithm[value] = power
        value <<= 1
        if value & 0x100:
            value ^= 0x11D
    exponent[255:510] = exponent[:255]
    product = exponent[logarithm[:, None] + logarithm[None, :]]
    product[0], product[:, 0] = 0, 0
    inverse = np.zeros(256, np.int64)
    inverse[1:] = exponent[255 - logarithm[1:]]
    return product.astype(np.uint8), inverse.astype(np.uint8)


def multiply(a: int, block: Bytes) -> Bytes:
    """A block of bytes times a field element."""
    result: Bytes = _field()[0][a][block]
    return result


def coefficient(parity_frame: int, parity: int, frame: int, index: int) -> int:
    """Of data packet `index` of `frame` in parity packet `parity` of `parity_frame`: 1 / (x + y), a Cauchy matrix."""
    x = (parity_frame % 8) * MAX_PACKETS + parity
    y = 128 + (frame % 8) * MAX_PACKETS + index
    return int(_field()[1][x ^ y])


def covered(parity_frame: int, sizes: dict[int, int]) -> list[tuple[int, int]]:
    """The (frame, index) of all data packets in the parity of a frame.

    Args:
        sizes: number of data packets of each frame in the window; frames before the first have none.
    """
    found = []
    for frame in range(parity_frame - TAU, parity_frame + 1):
        for index in range(min(sizes.get(frame, 0), MAX_PACKETS)):
            is_u = index % 2 == 1
            if not is_u or frame in (parity_frame - TAU, parity_frame):
                found.append((frame, index))
    return found


def make_parity(
    frame: int, num_parity: int, data: dict[tuple[int, int], Bytes], sizes: dict[int, int], block_bytes: int
) -> list[Bytes]:
    """Parity packets of a frame: `num_parity` blocks.

    Args:
        data: blocks of `block_bytes` of all covered packets.
    """
    blocks = []
    for parity in range(num_parity):
        total = np.zeros(block_bytes, np.uint8)
        for key in covered(frame, sizes):
            total ^= multiply(coefficient(frame, parity, *key), data[key])
        blocks.append(total)
    return blocks


def solve(
    known: dict[tuple[int, int], Bytes], parity: dict[tuple[int, int], Bytes], sizes: dict[int, int]
) -> dict[tuple[int, int], Bytes]:
    """Every data packet that received data and parity determine, by elimination over GF(256).

    Args:
        known: received data blocks by (frame, index).
        parity: received parity blocks by (frame, number).
        sizes: data packets of each frame of the window; parity of frames of which a covered size is missing is not used.

    Returns:
        The recovered blocks.
    """
    product, inverse = _field()
    unknown: dict[tuple[int, int], int] = {}
    rows = []
    for (frame, number), block in parity.items():
        if any(other not in sizes for other in range(max(1, frame - TAU), frame + 1)):
            continue
        rest = block.copy()
        terms = []
        for key in covered(frame, sizes):
            factor = coefficient(frame, number, *key)
            if key in known:
                rest ^= multiply(factor, known[key])
            else:
                terms.append((unknown.setdefault(key, len(unknown)), factor))
        if terms:
            rows.append((terms, rest))
    if not rows:
        return {}
    matrix = np.zeros((len(rows), len(unknown)), np.uint8)
    values = np.stack([rest for _, rest in rows])
    for row, (terms, _) in enumerate(rows):
        for column, factor in terms:
            matrix[row, column] = factor
    rank = 0
    for column in range(len(unknown)):
        pivots = np.flatnonzero(matrix[rank:, column])
        if not len(pivots):
            continue
        pivot = rank + int(pivots[0])
        matrix[[rank, pivot]], values[[rank, pivot]] = matrix[[pivot, rank]], values[[pivot, rank]]
        scale = int(inverse[matrix[rank, column]])
        matrix[rank], values[rank] = product[scale][matrix[rank]], product[scale][values[rank]]
        others = np.flatnonzero(matrix[:, column])
        for row in others[others != rank]:
            factor = int(matrix[row, column])
            matrix[row] ^= product[factor][matrix[rank]]
            values[row] ^= product[factor][values[rank]]
        rank += 1
        if rank == len(rows):
            break
    names = {column: key for key, column in unknown.items()}
    recovered = {}
    for row in range(rank):
        columns = np.flatnonzero(matrix[row])
        if len(columns) == 1:  # reduced rows with one entry determine their packet
            recovered[names[int(columns[0])]] = values[row]
    return recovered


@dataclasses.dataclass(frozen=True, eq=False)
class _Unit:
    """A packet as read."""

    frame: int
    index: int
    num_data: int
    num_parity: int
    sizes: dict[int, tuple[int, int]]
    block: Bytes

    @property
    def is_parity(self) -> bool:
        return self.index >= self.num_data


def _write(frame: int, index: int, num_data: int, num_parity: int, sizes: list[tuple[int, int]], block: bytes) -> bytes:
    head = _HEAD.pack(KIND, frame & 0xFFFF, index, num_data, num_parity, len(block))
    # Data packets say their frame's size; parity says those of all frames that it covers, which may have been lost whole.
    listed = sizes if index >= num_data else sizes[-1:]
    body = head + b"".join(_SIZES.pack(*entry) for entry in listed) + block
    return body + _CRC.pack(zlib.crc32(body))


def _read(packet: bytes) -> _Unit:
    if len(packet) < _HEAD.size + _SIZES.size + _CRC.size or packet[0] != KIND:
        raise CorruptBitstream("not a packet of a streaming code.")
    if zlib.crc32(packet[: -_CRC.size]) != _CRC.unpack(packet[-_CRC.size :])[0]:
        raise CorruptBitstream("a packet of a streaming code was damaged on the way.")
    _, frame, index, num_data, num_parity, block_bytes = _HEAD.unpack_from(packet)
    num_sizes = TAU + 1 if index >= num_data else 1
    at = _HEAD.size + num_sizes * _SIZES.size
    block = packet[at : -_CRC.size]
    if len(block) != block_bytes or index >= num_data + num_parity or num_parity > MAX_PACKETS:
        raise CorruptBitstream("a packet of a streaming code contradicts itself.")
    entries = [_SIZES.unpack_from(packet, _HEAD.size + i * _SIZES.size) for i in range(num_sizes)]
    sizes = {-(num_sizes - 1 - i): entry for i, entry in enumerate(entries)}
    return _Unit(frame, index, num_data, num_parity, sizes, np.frombuffer(block, np.uint8).copy())


class TamburSender:
    """See `grace.api.Sender`.

    Args:
        info: of the stream.
        codec: "h264" or "h265".
        parity_ratio: parity packets per data packet, or None to adapt: 0, or 1/2 while losses were seen.
    """

    def __init__(self, info: StreamInfo, codec: str, parity_ratio: float | None) -> None:
        if parity_ratio is not None and not 0 <= parity_ratio <= 1:
            raise ConfigError(f"parity_ratio={parity_ratio} must lie in [0, 1].")
        self._info, self._ratio = info, parity_ratio
        self._encoder = Encoder(info.width, info.height, codec=codec, qp=FIRST_FRAME_QP, fps=info.fps)
        self._model = QuantiserModel()
        self._data: dict[tuple[int, int], Bytes] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._sent: dict[int, list[bytes]] = {}
        self._newest = 0
        self._loss_seen_at = -(10**9)
        # Blocks of one length for the whole stream, so that any of them can be combined.
        self._block_bytes = info.payload_bytes - _HEAD.size - _SIZES.size - _CRC.size

    def start(self, frame: Image) -> bytes:
        """See `grace.api.Sender.start`."""
        return self._encoder.encode(frame, qp=FIRST_FRAME_QP)[0].data

    def _parity_ratio(self, number: int) -> float:
        if self._ratio is not None:
            return self._ratio
        return 0.5 if number - self._loss_seen_at <= 2 * _REPORT_FRAMES else 0.0

    def encode(self, number: int, frame: Image, target_bytes: float) -> list[bytes]:
        """See `grace.api.Sender.encode`."""
        ratio = self._parity_ratio(number)
        overhead = WIRE_HEADER_BYTES + _HEAD.size + _SIZES.size + _CRC.size
        per_packet = self._block_bytes + overhead
        budget = max(64.0, target_bytes / (1 + ratio) * self._block_bytes / per_packet)
        qp = self._model.choose(budget)
        data = self._encoder.encode(frame, qp=qp)[0].data
        self._model.update(qp, len(data), budget)
        num_data = max(1, -(-len(data) // self._block_bytes))
        if num_data > MOST_DATA or len(data) > _LARGEST_FRAME:
            raise ConfigError(
                f"frame {number} takes {len(data)} bytes in {num_data} packets; a streaming code takes at most "
                f"{_LARGEST_FRAME} in {MOST_DATA}. Use a lower rate or a larger payload_bytes."
            )
        num_parity = min(MAX_PACKETS, round(num_data * ratio + 1e-9)) if ratio else 0
        if ratio and not num_parity:
            num_parity = 1
        padded = np.frombuffer(data.ljust(num_data * self._block_bytes, b"\0"), np.uint8).reshape(num_data, -1)
        self._sizes[number] = num_data, len(data)
        for index in range(num_data):
            self._data[number, index] = padded[index]
        counts = {n: self._sizes[n][0] for n in range(number - TAU, number + 1) if n in self._sizes}
        blocks = [*padded, *make_parity(number, num_parity, self._data, counts, self._block_bytes)]
        sizes = [self._sizes.get(n, (0, 0)) for n in range(number - TAU, number + 1)]
        packets = []
        for index, block in enumerate(blocks):
            # The padding of a frame's last packet is not sent.
            used = len(data) - index * self._block_bytes if index == num_data - 1 else self._block_bytes
            packets.append(_write(number, index, num_data, num_parity, sizes, block[:used].tobytes()))
        self._sent[number], self._newest = packets, number
        for old in [n for n in self._sizes if n <= number - _KEPT_FRAMES]:
            for index in range(self._sizes.pop(old)[0]):
                del self._data[old, index]
            self._sent.pop(old, None)
        return list(packets)

    def on_report(self, report: Report) -> list[bytes]:
        """See `grace.api.Sender.on_report`."""
        again: list[bytes] = []
        for status in report.frames:
            number = unwrapped(status.frame, self._newest)
            if number not in self._sent or not (status.is_done or status.is_wanted):
                continue
            num_packets = len(self._sent[number])
            if status.mask.bit_count() < num_packets:
                self._loss_seen_at = max(self._loss_seen_at, number)
            if status.is_wanted:
                num_data = self._sizes[number][0]
                again += [self._sent[number][i] for i in range(num_data) if not status.mask >> i & 1]
        return again


class TamburReceiver:
    """See `grace.api.Receiver`."""

    def __init__(self, info: StreamInfo, codec: str) -> None:
        self._info, self._codec = info, codec
        self._decoder = Decoder(codec, info.width, info.height)
        self._history: list[bytes] = []
        self._block_bytes = info.payload_bytes - _HEAD.size - _SIZES.size - _CRC.size
        self._last = 0
        self._is_broken = False
        self._known: dict[tuple[int, int], Bytes] = {}
        self._parity: dict[tuple[int, int], Bytes] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._masks: dict[int, int] = {}
        self._num_packets: dict[int, int] = {}
        self._done: dict[int, FrameStatus] = {}
        self.num_rejected = 0

    def fork(self) -> "TamburReceiver":
        """See `grace.api.Receiver.fork`."""
        other = TamburReceiver(self._info, self._codec)
        for data in self._history:
            other._decode_bytes(data)
        other._last, other._is_broken = self._last, self._is_broken
        for name in ("_known", "_parity", "_sizes", "_masks", "_num_packets", "_done"):
            setattr(other, name, dict(getattr(self, name)))
        return other

    def start(self, data: bytes) -> Image:
        """See `grace.api.Receiver.start`."""
        return self._decode_bytes(data)

    def _decode_bytes(self, data: bytes) -> Image:
        self._history.append(data)
        found = self._decoder.decode(Packet(data, len(self._history) - 1, len(self._history) == 1))
        if not found:
            raise CorruptBitstream(f"{len(data)} bytes decode to no picture.")
        return found[0].image

    def on_packet(self, data: bytes) -> list[Rendered]:
        """See `grace.api.Receiver.on_packet`."""
        try:
            unit = _read(data)
        except CorruptBitstream:
            self.num_rejected += 1
            return []
        number = unwrapped(unit.frame, self._last)
        if number <= self._last - 2 * TAU - 1:
            return []
        for offset, entry in unit.sizes.items():
            if number + offset >= 1 and entry[0]:
                self._sizes.setdefault(number + offset, entry)
        self._num_packets[number] = unit.num_data + unit.num_parity
        self._masks[number] = self._masks.get(number, 0) | 1 << unit.index
        block = np.zeros(self._block_bytes, np.uint8)
        block[: len(unit.block)] = unit.block[: self._block_bytes]
        if unit.is_parity:
            self._parity[number, unit.index - unit.num_data] = block
        else:
            self._known[number, unit.index] = block
        if self._is_short(self._last + 1) and self._parity:
            counts = {n: size[0] for n, size in self._sizes.items()}
            self._known |= solve(self._known, self._parity, counts)
        return self._advance()

    def _is_short(self, number: int) -> bool:
        size = self._sizes.get(number)
        return size is None or any((number, index) not in self._known for index in range(size[0]))

    def _advance(self) -> list[Rendered]:
        shown: list[Rendered] = []
        while not self._is_broken and not self._is_short(self._last + 1):
            number = self._last + 1
            num_data, num_bytes = self._sizes[number]
            whole = b"".join(self._known[number, index].tobytes() for index in range(num_data))[:num_bytes]
            try:
                image = self._decode_bytes(whole)
            except CorruptBitstream:
                self._is_broken = True
                self._finish(number)
                break
            self._finish(number)
            shown.append(Rendered(number, image))
        return shown

    def _finish(self, number: int) -> None:
        self._done[number] = FrameStatus(
            number, self._num_packets.get(number, 0), self._masks.get(number, 0), is_done=True
        )
        self._last = number
        oldest = number - 2 * TAU - 1
        self._known = {key: block for key, block in self._known.items() if key[0] >= oldest}
        self._parity = {key: block for key, block in self._parity.items() if key[0] >= oldest}
        for kept in (self._sizes, self._masks, self._num_packets, self._done):
            for old in [n for n in kept if n < number - 2 * _KEPT_FRAMES]:
                del kept[old]

    def flush(self, number: int) -> list[Rendered]:
        """See `grace.api.Receiver.flush`."""
        shown = self._advance()
        while self._last < number:
            self._is_broken = True
            self._finish(self._last + 1)
        return shown

    def report(self) -> Report:
        """See `grace.api.Receiver.report`: asks for a frame that tau later frames did not recover."""
        first = max(1, self._last - _REPORTED_FRAMES + 1)
        frames = [self._done[n] for n in range(first, self._last + 1) if n in self._done]
        newest = max(self._masks, default=self._last)
        has_parity = any(frame > self._last for frame, _ in self._parity)
        patience = TAU if has_parity else 0
        for number in range(self._last + 1, newest + 1):
            is_wanted = self._is_short(number) and number + patience < newest
            frames.append(
                FrameStatus(number, self._num_packets.get(number, 0), self._masks.get(number, 0), is_wanted=is_wanted)
            )
        return Report(tuple(frames[-4 * _REPORTED_FRAMES :]))
