"""Salsify: a video codec whose state is explicit, so that a frame can be predicted from any frame that the receiver has.

    encode(state, frame, quantiser) --> bytes, new state          decode(state, bytes) --> new state

The encoder predicts from the newest frame that the receiver acknowledged when there is a loss to repair, and from its own newest
frame otherwise; a frame with a missing packet, and every frame that refers to it, is skipped; nothing is sent again (Fouladi et
al., NSDI 2018). Having several candidates of a frame is free of charge, so the size target is met by trying.

A P-frame from an explicit state is made by x264 itself: a fresh encoder is given the state as a first, nearly lossless picture,
and then the frame. Only the second packet travels; a receiver with the same state makes the same first picture.

# DEVIATION grace-12: Salsify's functional VP8 codec is x264 restarted from an explicit picture
"""

import dataclasses
import struct
import zlib
from collections.abc import Mapping

from common.codecs import Decoder, Encoder, Packet
from common.errors import CorruptBitstream
from grace.api import WIRE_HEADER_BYTES, FrameStatus, Image, Rendered, Report, StreamInfo, unwrapped
from grace.classic import FIRST_FRAME_QP, LEAST_QP, MOST_QP, QuantiserModel

KIND = 0x53
_HEAD = struct.Struct("<BHHBBI")
_CRC_AT = 7
HEAD_BYTES = _HEAD.size
_STATE_QP = 1
_KEPT_FRAMES = 64
_REPORTED_FRAMES = 16


class ExplicitCodec:
    """x264 with the state in the caller's hands."""

    def __init__(self, info: StreamInfo) -> None:
        self._info = info

    def encode(self, state: Image, frame: Image, qp: int) -> tuple[bytes, Image]:
        """A frame predicted from `state`: its bytes, and the picture that `decode` gives for them."""
        encoder = Encoder(self._info.width, self._info.height, codec="h264", qp=_STATE_QP, fps=self._info.fps)
        first = encoder.encode(state, qp=_STATE_QP)[0]
        second = encoder.encode(frame, qp=qp)[0]
        return second.data, self._decoded(first, second.data)

    def decode(self, state: Image, data: bytes) -> Image:
        """The picture of bytes that were coded from the same state.

        Raises:
            CorruptBitstream: they were not.
        """
        encoder = Encoder(self._info.width, self._info.height, codec="h264", qp=_STATE_QP, fps=self._info.fps)
        return self._decoded(encoder.encode(state, qp=_STATE_QP)[0], data)

    def _decoded(self, first: Packet, data: bytes) -> Image:
        decoder = Decoder("h264", self._info.width, self._info.height)
        decoder.decode(first)
        found = decoder.decode(Packet(data, 1, False))
        if not found:
            raise CorruptBitstream(f"{len(data)} bytes decode to no picture.")
        return found[0].image


@dataclasses.dataclass(frozen=True)
class _Share:
    frame: int
    reference: int
    index: int
    num: int
    body: bytes


def _split(data: bytes, frame: int, reference: int, num: int) -> list[bytes]:
    size = max(1, -(-len(data) // num))
    num = max(1, -(-len(data) // size))
    packets = []
    for index in range(num):
        body = data[index * size : (index + 1) * size]
        head = _HEAD.pack(KIND, frame & 0xFFFF, reference & 0xFFFF, index, num, 0)[:_CRC_AT]
        packets.append(head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body)
    return packets


def _read(packet: bytes) -> _Share:
    if len(packet) <= HEAD_BYTES or packet[0] != KIND:
        raise CorruptBitstream("not a packet of an explicit-state stream.")
    _, frame, reference, index, num, crc = _HEAD.unpack_from(packet)
    body = packet[HEAD_BYTES:]
    if zlib.crc32(body, zlib.crc32(packet[:_CRC_AT])) != crc or index >= num:
        raise CorruptBitstream("a packet of an explicit-state stream was damaged on the way.")
    return _Share(frame, reference, index, num, body)


class SalsifySender:
    """See `grace.api.Sender`."""

    def __init__(self, info: StreamInfo) -> None:
        self._info, self._codec = info, ExplicitCodec(info)
        self._model = QuantiserModel()
        self._states: dict[int, Image] = {}
        self._acknowledged = 0
        self._newest = 0
        self._sound: dict[int, int] = {}
        self._repairs_from: int | None = None

    def start(self, frame: Image) -> bytes:
        """See `grace.api.Sender.start`."""
        encoder = Encoder(self._info.width, self._info.height, codec="h264", qp=FIRST_FRAME_QP, fps=self._info.fps)
        first = encoder.encode(frame, qp=FIRST_FRAME_QP)[0]
        self._states[0] = Decoder("h264", self._info.width, self._info.height).decode(first)[0].image
        return first.data

    def encode(self, number: int, frame: Image, target_bytes: float) -> list[bytes]:
        """See `grace.api.Sender.encode`: of a few quantisers tried, the lowest whose packets fit."""
        reference = self._newest
        if self._repairs_from is not None:
            # The first frame after the bad news goes back to what the receiver has; those after it follow that one.
            reference, self._repairs_from = self._acknowledged, None
        state = self._states[reference]
        num = self._info.packets_for(target_bytes)
        budget = max(64.0, target_bytes - num * (WIRE_HEADER_BYTES + HEAD_BYTES))
        qp = self._model.choose(budget)
        data, image = self._codec.encode(state, frame, qp)
        self._model.update(qp, len(data), budget)
        tries = 0
        while len(data) > budget and qp < MOST_QP and tries < 3:
            qp, tries = min(MOST_QP, qp + 2), tries + 1
            data, image = self._codec.encode(state, frame, qp)
        while not tries and len(data) < 0.8 * budget and qp > LEAST_QP:
            finer, picture = self._codec.encode(state, frame, qp - 1)
            if len(finer) > budget:
                break
            qp, data, image = qp - 1, finer, picture
        self._states[number], self._newest = image, number
        for old in [n for n in self._states if n < number - _KEPT_FRAMES and n != self._acknowledged]:
            del self._states[old]
        return _split(data, number, reference, num)

    def on_report(self, report: Report) -> list[bytes]:
        """See `grace.api.Sender.on_report`."""
        for status in report.frames:
            number = unwrapped(status.frame, self._newest)
            if number in self._sound or not status.is_done:
                continue
            self._sound[number] = status.mask
            if status.mask and status.extra:
                if number in self._states:
                    self._acknowledged = max(self._acknowledged, number)
            elif self._repairs_from is None and number >= self._last_repair:
                self._repairs_from = number
                self._last_repair = self._newest + 1
        for old in [n for n in self._sound if n < self._newest - 2 * _KEPT_FRAMES]:
            del self._sound[old]
        return []

    _last_repair = 0


class SalsifyReceiver:
    """See `grace.api.Receiver`. `FrameStatus.extra` says that the frame was decoded, not skipped."""

    def __init__(self, info: StreamInfo) -> None:
        self._info, self._codec = info, ExplicitCodec(info)
        self._states: dict[int, Image] = {}
        self._last = 0
        self._shares: dict[int, dict[int, bytes]] = {}
        self._heads: dict[int, _Share] = {}
        self._done: dict[int, FrameStatus] = {}
        self.num_rejected = 0

    def fork(self) -> "SalsifyReceiver":
        """See `grace.api.Receiver.fork`."""
        other = SalsifyReceiver(self._info)
        other._states, other._last = dict(self._states), self._last
        other._shares = {number: dict(found) for number, found in self._shares.items()}
        other._heads, other._done = dict(self._heads), dict(self._done)
        return other

    def start(self, data: bytes) -> Image:
        """See `grace.api.Receiver.start`."""
        self._states[0] = Decoder("h264", self._info.width, self._info.height).decode(Packet(data, 0, True))[0].image
        return self._states[0]

    def on_packet(self, data: bytes) -> list[Rendered]:
        """See `grace.api.Receiver.on_packet`."""
        try:
            share = _read(data)
        except CorruptBitstream:
            self.num_rejected += 1
            return []
        number = unwrapped(share.frame, self._last)
        if number > self._last:
            self._heads.setdefault(number, share)
            self._shares.setdefault(number, {})[share.index] = share.body
        return self._advance(None)

    def _advance(self, until: int | None) -> list[Rendered]:
        shown: list[Rendered] = []
        while True:
            number = self._last + 1
            head, shares = self._heads.get(number), self._shares.get(number, {})
            is_complete = head is not None and len(shares) == head.num
            is_overtaken = max(self._shares, default=number) > number
            if not (is_complete or is_overtaken or (until is not None and number <= until)):
                return shown
            image = self._decoded(head, shares, number) if is_complete and head is not None else None
            mask = sum(1 << index for index in shares)
            self._done[number] = FrameStatus(number, head.num if head else 0, mask, image is not None, True)
            self._done.pop(number - 2 * _KEPT_FRAMES, None)
            self._shares.pop(number, None)
            self._heads.pop(number, None)
            self._last = number
            if image is not None:
                self._states[number] = image
                self._states.pop(min(self._states), None) if len(self._states) > _KEPT_FRAMES else None
                shown.append(Rendered(number, image))

    def _decoded(self, head: _Share, shares: Mapping[int, bytes], number: int) -> Image | None:
        state = self._states.get(unwrapped(head.reference, number))
        if state is None:
            return None
        try:
            return self._codec.decode(state, b"".join(shares[index] for index in sorted(shares)))
        except CorruptBitstream:
            return None

    def flush(self, number: int) -> list[Rendered]:
        """See `grace.api.Receiver.flush`."""
        return self._advance(number)

    def report(self) -> Report:
        """See `grace.api.Receiver.report`."""
        first = max(1, self._last - _REPORTED_FRAMES + 1)
        return Report(tuple(self._done[n] for n in range(first, self._last + 1) if n in self._done))
