"""H.264 and H.265 as schemes: one slice of packets per frame, with or without parity, with or without sending again.

    frame --> encoder at the quantiser that should fit --> k data packets + m parity packets (any k of k + m suffice)

    offset  bytes
    0       1      kind and version: 0x48
    1       2      frame number, modulo 65536
    3       1      packet index; k and above are parity
    4       1      k
    5       1      m
    6       4      length of the coded frame
    10      4      CRC-32 of everything but these four bytes
    14      ..     a share of the frame, or parity; all of equal length

A frame is decoded once k of its packets are there and its predecessor was decoded. Parity is a systematic Vandermonde code over
GF(256) (zfec): any k packets suffice, so a frame is lost exactly when more than m packets are.

The quantiser of each frame is chosen by a model of bytes against quantiser that follows the last frames: the encoder has one try,
as in a real-time call. All classic schemes share it.

# DEVIATION grace-9: x264 and x265 with our own frame-by-frame rate control instead of their built-in one, which cannot follow a
# congestion controller through FFmpeg; adaptive quantisation is off
"""

import dataclasses
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import zfec

from common.codecs import Decoder, Encoder, Packet
from common.errors import CorruptBitstream
from grace.api import WIRE_HEADER_BYTES, FrameStatus, Image, Rendered, Report, StreamInfo, unwrapped

KIND = 0x48
_HEAD = struct.Struct("<BHBBBII")
_CRC_AT = 10
HEAD_BYTES = _HEAD.size
FIRST_FRAME_QP = 24
LEAST_QP, MOST_QP = 10, 50
_MAX_SHARES = 200
_KEPT_FRAMES = 64
_REPORTED_FRAMES = 16


class QuantiserModel:
    """Chooses quantisers for byte targets: ln bytes = level - slope * quantiser, with a level that follows the last frames.

    The slope is that of a quantiser step that doubles every 6. A quantiser moves down by at most one a frame and up by at most
    three: after a fine frame the next one is cheap, and a controller that believes it would swing.

    Args:
        first_qp: of the first frame that it chooses for.
    """

    SLOPE = math.log(2) / 6
    _MEMORY = 0.75
    _STEP_DOWN, _STEP_UP = 1.4, 3.4

    def __init__(self, first_qp: int = 30) -> None:
        self._level: float | None = None
        self._balance = 0.0
        self._qp = first_qp

    def choose(self, target_bytes: float) -> int:
        """The quantiser for a frame that may take so many bytes."""
        if self._level is not None:
            # What earlier frames took too much is saved over the next few, as a buffer would enforce.
            wanted = max(0.35 * target_bytes, target_bytes - 0.25 * self._balance)
            qp = (self._level - math.log(wanted)) / self.SLOPE
            qp = min(max(qp, self._qp - self._STEP_DOWN), self._qp + self._STEP_UP)
            self._qp = min(max(round(qp), LEAST_QP), MOST_QP)
        return self._qp

    def update(self, qp: int, num_bytes: int, target_bytes: float) -> None:
        """Learn from what a frame took."""
        level = math.log(max(num_bytes, 8)) + self.SLOPE * qp
        self._level = level if self._level is None else self._MEMORY * self._level + (1 - self._MEMORY) * level
        self._balance = min(max(self._balance + num_bytes - target_bytes, -target_bytes), 3 * target_bytes)


class Redundancy(Protocol):
    """How much parity a sender adds."""

    def share(self, number: int) -> float:
        """Parity's share of a frame's bytes, in [0, 1)."""
        ...

    def on_report(self, report: Report) -> None:
        """Take note of losses."""
        ...


@dataclasses.dataclass
class FixedRedundancy:
    """The same share always."""

    value: float

    def share(self, number: int) -> float:
        """See `Redundancy`."""
        return self.value

    def on_report(self, report: Report) -> None:
        """See `Redundancy`."""


class AdaptiveRedundancy:
    """0, 25 or 50 % by what was lost lately: none, up to 12 %, more; seen through reports, hence a round trip late."""

    STEPS = ((0.005, 0.0), (0.12, 0.25), (1.01, 0.5))

    def __init__(self, window_frames: int = 50) -> None:
        self._window = window_frames
        self._lost: dict[int, tuple[int, int]] = {}
        self._newest = 0

    def on_report(self, report: Report) -> None:
        """See `Redundancy`."""
        for status in report.frames:
            if status.num_packets:
                number = unwrapped(status.frame, self._newest)
                # What came after a frame was done is not in its mask, so a loss counts as such for good.
                self._lost.setdefault(number, (status.num_packets - status.mask.bit_count(), status.num_packets))
                self._newest = max(self._newest, number)
        for number in [n for n in self._lost if n <= self._newest - self._window]:
            del self._lost[number]

    def share(self, number: int) -> float:
        """See `Redundancy`."""
        total = sum(num for _, num in self._lost.values())
        lost = sum(lost for lost, _ in self._lost.values()) / total if total else 0.0
        return next(share for limit, share in self.STEPS if lost <= limit)


@dataclasses.dataclass(frozen=True)
class ShareHead:
    """Header of a packet that passed its checksum."""

    frame: int
    index: int
    num_data: int
    num_parity: int
    num_bytes: int


def split(data: bytes, frame: int, num_data: int, num_parity: int) -> list[bytes]:
    """A coded frame as packets, any `num_data` of which suffice."""
    size = max(1, -(-len(data) // num_data))
    shares = [data[i * size : (i + 1) * size].ljust(size, b"\0") for i in range(num_data)]
    if num_parity:
        shares = list(zfec.Encoder(num_data, num_data + num_parity).encode(shares))
    packets = []
    for index, share in enumerate(shares):
        head = _HEAD.pack(KIND, frame & 0xFFFF, index, num_data, num_parity, len(data), 0)[:_CRC_AT]
        packets.append(head + struct.pack("<I", zlib.crc32(share, zlib.crc32(head))) + bytes(share))
    return packets


def read_share(packet: bytes) -> tuple[ShareHead, bytes]:
    """Header and content of a packet.

    Raises:
        CorruptBitstream: too short, of another kind, or damaged.
    """
    if len(packet) <= HEAD_BYTES or packet[0] != KIND:
        raise CorruptBitstream(
            f"a packet of {len(packet)} bytes is not a share of a frame. It was cut or is of another kind."
        )
    _, frame, index, num_data, num_parity, num_bytes, crc = _HEAD.unpack_from(packet)
    body = packet[HEAD_BYTES:]
    if zlib.crc32(body, zlib.crc32(packet[:_CRC_AT])) != crc:
        raise CorruptBitstream(f"packet {index} of frame {frame}: its checksum differs. It was damaged on the way.")
    if num_data < 1 or index >= num_data + num_parity or len(body) * num_data < num_bytes:
        raise CorruptBitstream(f"packet {index} of frame {frame}: its header contradicts itself.")
    return ShareHead(frame, index, num_data, num_parity, num_bytes), body


def join(shares: Mapping[int, bytes], num_data: int, num_parity: int, num_bytes: int) -> bytes:
    """A coded frame from any `num_data` of its shares, by index.

    Raises:
        CorruptBitstream: too few.
    """
    if len(shares) < num_data:
        raise CorruptBitstream(f"{len(shares)} of the {num_data} packets that a frame needs.")
    # Data shares first: zfec then has nothing to solve where they are all there.
    chosen = sorted(shares)[:num_data]
    if chosen == list(range(num_data)):
        blocks: Sequence[bytes] = [shares[index] for index in chosen]
    else:
        blocks = zfec.Decoder(num_data, num_data + num_parity).decode([shares[index] for index in chosen], chosen)
    return b"".join(blocks)[:num_bytes]


def _num_parity(total: int, share: float) -> int:
    """Parity packets among a frame's packets: the share rounded, at least one if there is any, at least one of data left."""
    return min(total - 1, max(1, round(total * share))) if share else 0


class ClassicSender:
    """See `grace.api.Sender`.

    Args:
        info: of the stream.
        codec: "h264" or "h265".
        redundancy: how much parity.
        retransmits: send again what a report asks for.
    """

    def __init__(self, info: StreamInfo, codec: str, redundancy: Redundancy, *, retransmits: bool = True) -> None:
        self._info, self._redundancy, self._retransmits = info, redundancy, retransmits
        self._encoder = Encoder(info.width, info.height, codec=codec, qp=FIRST_FRAME_QP, fps=info.fps)
        self._model = QuantiserModel()
        self._sent: dict[int, list[bytes]] = {}
        self._newest = 0

    def start(self, frame: Image) -> bytes:
        """See `grace.api.Sender.start`."""
        return self._encoder.encode(frame, qp=FIRST_FRAME_QP)[0].data

    def encode(self, number: int, frame: Image, target_bytes: float) -> list[bytes]:
        """See `grace.api.Sender.encode`."""
        share = self._redundancy.share(number)
        total = min(_MAX_SHARES, self._info.packets_for(target_bytes))
        headers = total * (WIRE_HEADER_BYTES + HEAD_BYTES)
        # With few packets parity's share cannot be met exactly: the more of what is asked and what it will take is left for it.
        budget = max(64.0, (target_bytes - headers) * (1 - max(share, _num_parity(total, share) / total)))
        qp = self._model.choose(budget)
        data = self._encoder.encode(frame, qp=qp)[0].data
        self._model.update(qp, len(data), budget)
        # Packet numbers follow the bytes that came out, so that a frame that fell short does not pay for empty packets.
        content = int(len(data) / (1 - share))
        total = max(self._info.packets_for(content + headers), -(-content // (self._info.payload_bytes - HEAD_BYTES)))
        num_parity = _num_parity(total, share)
        packets = split(data, number, max(1, total - num_parity), num_parity)
        self._sent[number], self._newest = packets, number
        self._sent.pop(number - _KEPT_FRAMES, None)
        return list(packets)

    def on_report(self, report: Report) -> list[bytes]:
        """See `grace.api.Sender.on_report`: of a frame that is wanted, the data packets that are missing."""
        self._redundancy.on_report(report)
        again: list[bytes] = []
        if self._retransmits:
            for status in report.frames:
                sent = self._sent.get(unwrapped(status.frame, self._newest))
                if sent is not None and status.is_wanted:
                    need = read_share(sent[0])[0].num_data - status.mask.bit_count()
                    missing = [packet for index, packet in enumerate(sent) if not status.mask >> index & 1]
                    again += missing[: max(0, need)]
        return again


class ClassicReceiver:
    """See `grace.api.Receiver`. Frames are decoded in order; one that cannot be completed blocks those after it."""

    def __init__(self, info: StreamInfo, codec: str) -> None:
        self._info, self._codec = info, codec
        self._decoder = Decoder(codec, info.width, info.height)
        self._history: list[bytes] = []
        self._last = 0
        self._is_broken = False
        self._shares: dict[int, dict[int, bytes]] = {}
        self._heads: dict[int, ShareHead] = {}
        self._done: dict[int, FrameStatus] = {}
        self.num_rejected = 0

    def fork(self) -> "ClassicReceiver":
        """See `grace.api.Receiver.fork`. Video decoders cannot be copied: this one decodes the stream again."""
        other = ClassicReceiver(self._info, self._codec)
        for data in self._history:
            other._decode_bytes(data)
        other._last, other._is_broken = self._last, self._is_broken
        other._shares = {number: dict(found) for number, found in self._shares.items()}
        other._heads, other._done = dict(self._heads), dict(self._done)
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
            head, body = read_share(data)
        except CorruptBitstream:
            self.num_rejected += 1
            return []
        number = unwrapped(head.frame, self._last)
        if number <= self._last:
            return []
        known = self._heads.setdefault(number, head)
        if (known.num_data, known.num_parity, known.num_bytes) != (head.num_data, head.num_parity, head.num_bytes):
            self.num_rejected += 1
            return []
        self._shares.setdefault(number, {})[head.index] = body
        return self._advance()

    def _advance(self) -> list[Rendered]:
        shown: list[Rendered] = []
        while not self._is_broken:
            number = self._last + 1
            head = self._heads.get(number)
            if head is None or len(self._shares[number]) < head.num_data:
                break
            shares = self._shares.pop(number)
            try:
                image = self._decode_bytes(join(shares, head.num_data, head.num_parity, head.num_bytes))
            except CorruptBitstream:
                self._finish(number, shares)
                self._is_broken = True
                break
            self._finish(number, shares)
            shown.append(Rendered(number, image))
        return shown

    def _finish(self, number: int, shares: Mapping[int, bytes]) -> None:
        head = self._heads.pop(number, None)
        num = head.num_data + head.num_parity if head else 0
        self._done[number] = FrameStatus(number, num, sum(1 << index for index in shares), is_done=True)
        self._done.pop(number - 2 * _KEPT_FRAMES, None)
        self._last = number

    def flush(self, number: int) -> list[Rendered]:
        """See `grace.api.Receiver.flush`. After a frame that was given up nothing can be decoded: all of it refers to it."""
        shown = self._advance()
        while self._last < number:
            self._finish(self._last + 1, self._shares.pop(self._last + 1, {}))
            self._is_broken = True
        return shown

    def report(self) -> Report:
        """See `grace.api.Receiver.report`: asks for what is missing of a frame once packets of a later one are there."""
        first = max(1, self._last - _REPORTED_FRAMES + 1)
        frames = [self._done[n] for n in range(first, self._last + 1) if n in self._done]
        newest = max(self._shares, default=self._last)
        for number in range(self._last + 1, newest + 1):
            head, shares = self._heads.get(number), self._shares.get(number, {})
            is_short = head is None or len(shares) < head.num_data
            num = head.num_data + head.num_parity if head else 0
            mask = sum(1 << index for index in shares)
            frames.append(FrameStatus(number, num, mask, is_wanted=is_short and number < newest))
        return Report(tuple(frames[-4 * _REPORTED_FRAMES :]))
