"""Decoder-side error concealment: H.264 slices, each a packet, and FFmpeg's concealment of those that are missing.

Every slice is decodable on its own, which costs compression; what is lost is guessed from the last frame with the motion around
it, and errors live on in the frames that refer to it.

# DEVIATION grace-11: slices of consecutive macroblocks and FFmpeg's concealment instead of 64x64 blocks in random order and ECFVI
"""

import struct
import zlib

from common.codecs import Decoder, Encoder, Packet, nal_units
from common.codecs.stream import nal_type
from common.errors import CorruptBitstream
from grace.api import WIRE_HEADER_BYTES, FrameStatus, Image, Rendered, Report, StreamInfo, unwrapped
from grace.classic import FIRST_FRAME_QP, QuantiserModel

KIND = 0x43
_HEAD = struct.Struct("<BHBBI")
_CRC_AT = 5
_KEPT_FRAMES = 64
_REPORTED_FRAMES = 16
_IDR = 5


def _write(frame: int, index: int, num: int, slice_: bytes) -> bytes:
    head = _HEAD.pack(KIND, frame & 0xFFFF, index, num, 0)[:_CRC_AT]
    return head + struct.pack("<I", zlib.crc32(slice_, zlib.crc32(head))) + slice_


def _read(packet: bytes) -> tuple[int, int, int, bytes]:
    if len(packet) <= _HEAD.size or packet[0] != KIND:
        raise CorruptBitstream("not a slice.")
    _, frame, index, num, crc = _HEAD.unpack_from(packet)
    body = packet[_HEAD.size :]
    if zlib.crc32(body, zlib.crc32(packet[:_CRC_AT])) != crc or index >= num:
        raise CorruptBitstream("a slice was damaged on the way.")
    return frame, index, num, body


class SliceSender:
    """See `grace.api.Sender`. Nothing is sent again."""

    def __init__(self, info: StreamInfo) -> None:
        self._info = info
        # As many slices as other schemes have packets: at small frames the packet size alone would make one of them.
        self._encoder = Encoder(
            info.width,
            info.height,
            codec="h264",
            qp=FIRST_FRAME_QP,
            fps=info.fps,
            max_slice_bytes=max(100, info.payload_bytes - _HEAD.size),
            params={"slices": str(info.min_packets)},
        )
        self._model = QuantiserModel()

    def start(self, frame: Image) -> bytes:
        """See `grace.api.Sender.start`."""
        return self._encoder.encode(frame, qp=FIRST_FRAME_QP)[0].data

    def encode(self, number: int, frame: Image, target_bytes: float) -> list[bytes]:
        """See `grace.api.Sender.encode`."""
        # x264 takes the number of slices when it is opened: small frames cannot have fewer.
        num_slices = max(self._info.min_packets, self._info.packets_for(target_bytes))
        overhead = num_slices * (WIRE_HEADER_BYTES + _HEAD.size)
        budget = max(64.0, target_bytes - overhead)
        qp = self._model.choose(budget)
        data = self._encoder.encode(frame, qp=qp)[0].data
        self._model.update(qp, len(data), budget)
        slices = [unit for unit in nal_units(data) if nal_type(unit, "h264") <= _IDR]
        return [_write(number, index, len(slices), unit) for index, unit in enumerate(slices)]

    def on_report(self, report: Report) -> list[bytes]:
        """See `grace.api.Sender.on_report`."""
        return []


class SliceReceiver:
    """See `grace.api.Receiver`: as GRACE's, it decodes a frame when it is complete or a later one's packet arrives."""

    def __init__(self, info: StreamInfo) -> None:
        self._info = info
        self._decoder = Decoder("h264", info.width, info.height, conceal=True)
        self._history: list[bytes] = []
        self._last = 0
        self._slices: dict[int, dict[int, bytes]] = {}
        self._num: dict[int, int] = {}
        self._done: dict[int, FrameStatus] = {}
        self.num_rejected = 0

    def fork(self) -> "SliceReceiver":
        """See `grace.api.Receiver.fork`."""
        other = SliceReceiver(self._info)
        for data in self._history:
            other._decode_bytes(data)
        other._last = self._last
        other._slices = {number: dict(found) for number, found in self._slices.items()}
        other._num, other._done = dict(self._num), dict(self._done)
        return other

    def start(self, data: bytes) -> Image:
        """See `grace.api.Receiver.start`."""
        image = self._decode_bytes(data)
        if image is None:
            raise CorruptBitstream(f"{len(data)} bytes of a first frame decode to no picture.")
        return image

    def _decode_bytes(self, data: bytes) -> Image | None:
        self._history.append(data)
        found = self._decoder.decode(Packet(data, len(self._history) - 1, len(self._history) == 1))
        return found[-1].image if found else None

    def on_packet(self, data: bytes) -> list[Rendered]:
        """See `grace.api.Receiver.on_packet`."""
        try:
            frame, index, num, body = _read(data)
        except CorruptBitstream:
            self.num_rejected += 1
            return []
        number = unwrapped(frame, self._last)
        if number > self._last:
            self._num[number] = num
            self._slices.setdefault(number, {})[index] = body
        return self._advance(None)

    def _advance(self, until: int | None) -> list[Rendered]:
        shown: list[Rendered] = []
        while True:
            number = self._last + 1
            have = self._slices.get(number, {})
            is_complete = bool(have) and len(have) == self._num[number]
            is_overtaken = max(self._slices, default=number) > number
            if not (is_complete or is_overtaken or (until is not None and number <= until)):
                return shown
            self._slices.pop(number, None)
            num = self._num.pop(number, 0)
            mask = sum(1 << index for index in have)
            self._done[number] = FrameStatus(number, num, mask, is_done=True)
            self._done.pop(number - 2 * _KEPT_FRAMES, None)
            self._last = number
            if have:
                image = self._decode_bytes(b"".join(have[index] for index in sorted(have)))
                if image is not None:
                    shown.append(Rendered(number, image))

    def flush(self, number: int) -> list[Rendered]:
        """See `grace.api.Receiver.flush`."""
        return self._advance(number)

    def report(self) -> Report:
        """See `grace.api.Receiver.report`."""
        first = max(1, self._last - _REPORTED_FRAMES + 1)
        return Report(tuple(self._done[n] for n in range(first, self._last + 1) if n in self._done))
