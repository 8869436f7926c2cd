"""GRACE as a scheme: optimistic encoding, decoding of any subset, dynamic state resynchronisation, bitrate control over levels.

    sender:    frame --> motion (once) --> residual at the best level that fits --> packets + one I-patch
    receiver:  complete, or a later frame's packet arrives --> decode what is there --> show, and predict the next from it
    reports:   frame s was decoded from part of its packets --> the sender decodes the same from the same, and goes on from there

A patch that would take more than a quarter of a frame's bytes is tried coarser, then held back until there is room.

The sender never waits for a report: it predicts from its own loss-free reconstruction ("optimistic"). When a report shows that
the receiver has another frame, it re-decodes from cached latents what the receiver has, up to the newest frame, and predicts the
next one from that (paper, Sec. 4; sheet, 2.9). Nothing is sent again unless not a single packet of a frame arrived.

# DEVIATION grace-8: four packets a frame, two or three if they would be tiny; with one "any non-empty subset" says nothing
# DEVIATION grace-13: I-patches wait while they would take more than a quarter of a frame's bytes
"""

import dataclasses
import math
import struct

import numpy as np

from common.errors import CorruptBitstream
from grace import packets as wire
from grace.api import WIRE_HEADER_BYTES, FrameStatus, Image, Rendered, Report, StreamInfo, unwrapped
from grace.codec import CodedFrame, Motion, NeuralCodec
from grace.intra import (
    DEFAULT_SIDE,
    MOST_PATCH_QP,
    Patch,
    PatchDecoder,
    PatchEncoder,
    PatchGrid,
    decode_intra_frame,
    encode_intra_frame,
    patch_qp,
)
from grace.intra import KIND as PATCH_KIND
from grace.packet_map import packet_of_elements
from grace.packets import KIND, Latents, key_of_frame

FIRST_FRAME_QP = 24
_START = struct.Struct("<I")
_CACHED_FRAMES = 64
"""Frames whose latents a sender keeps: more than a second, longer than any report takes."""
_REPORTED_FRAMES = 16
_SEARCH_SPAN = 6
_LEAST_STEP = 1.08
_MOST_SPARE = 0.2
_MOST_PATCH_SHARE = 0.25
_COARSER = (0, 6, 12)
_LEVELS_PER_HALVING = 4
_MOTION_LAG = 4
"""Levels by which the residual may be coarser than the motion that it goes with."""


def keep_of_mask(latents: Latents, num_packets: int, mask: int) -> np.ndarray:
    """Which elements of a frame arrived, (N,) bool, if the packets in the bit mask `mask` did."""
    packet = packet_of_elements(latents.motion.size + latents.residual.size, num_packets, key_of_frame(latents.frame))
    arrived = np.array([mask >> index & 1 for index in range(num_packets)], bool)
    result: np.ndarray = arrived[packet]
    return result


@dataclasses.dataclass(eq=False)
class _Sent:
    """What a sender remembers of a frame: latents, packets, patch, and what it itself decoded."""

    latents: Latents
    packets: list[bytes]
    patch_packet: bytes
    patch: Patch
    reconstruction: Image


def _whole(number: int, sent: _Sent) -> FrameStatus:
    num = len(sent.packets)
    return FrameStatus(number, num, (1 << num) - 1, bool(sent.patch_packet), True)


class NeuralSender:
    """See `grace.api.Sender`.

    Args:
        codec: with its weights; not shared with a receiver of the same process unless both run in one thread.
        info: of the stream.
        has_resync: False never takes the receiver's state over (to show what it is for).
        has_patches: send an I-patch with every frame.
        patch_side: of the I-patch, pixels.

    Attributes:
        num_redecoded: frames decoded again for resynchronisation.
        num_coded_levels: residual encodings made for rate control.
    """

    def __init__(
        self,
        codec: NeuralCodec,
        info: StreamInfo,
        *,
        has_resync: bool = True,
        has_patches: bool = True,
        patch_side: int = DEFAULT_SIDE,
    ) -> None:
        self._codec, self._info = codec, info
        self._has_resync, self._has_patches = has_resync, has_patches
        self._grid = PatchGrid(info.height, info.width, patch_side)
        self._patches = PatchEncoder(patch_side)
        self._patch_decoder = PatchDecoder(self._patches.parameter_sets, patch_side)
        self._level = codec.num_levels // 2
        self._next_patch = 1
        self._sent: dict[int, _Sent] = {}
        self._status: dict[int, FrameStatus] = {}
        self._reference: Image | None = None
        self._newest = 0
        # The newest frame up to which the receiver's state is known, and that state.
        self._confirmed = 0
        self._receiver_image: Image | None = None
        self._is_divergent = False
        self._spare = 0.0
        self.num_redecoded = 0
        self.num_coded_levels = 0

    @property
    def reference(self) -> Image:
        """What the next frame is predicted from."""
        assert self._reference is not None, "start() comes first"
        return self._reference

    @property
    def level(self) -> int:
        """Quality level of the last frame."""
        return self._level

    def start(self, frame: Image) -> bytes:
        """See `grace.api.Sender.start`: parameter sets of the patches, then the first frame."""
        data = encode_intra_frame(frame, FIRST_FRAME_QP)
        self._reference = decode_intra_frame(data, self._info.height, self._info.width)
        self._receiver_image = self._reference
        sets = self._patches.parameter_sets
        return _START.pack(len(sets)) + sets + data

    def encode(self, number: int, frame: Image, target_bytes: float) -> list[bytes]:
        """See `grace.api.Sender.encode`. The level is the highest whose packets fit; the lowest if none does.

        Motion is coded at the last frame's level. Where the budget fell far below that, it is coded again, as coarsely.
        """
        reference = self.reference
        # Levels are steps: what the last frame left over helps this one up.
        budget = target_bytes + self._spare
        patch_packet = self._patch(frame, number, self._level, _MOST_PATCH_SHARE * budget)
        if patch_packet:
            budget -= len(patch_packet) + WIRE_HEADER_BYTES
        num_packets = self._info.packets_for(budget)
        motion = self._codec.encode_motion(frame, reference, self._level)
        room = budget - num_packets * WIRE_HEADER_BYTES
        latents, packets = self._fitted(frame, motion, number, num_packets, room, bool(patch_packet))
        if latents.level <= motion.level - _MOTION_LAG:
            motion = self._codec.encode_motion(frame, reference, latents.level, motion.flow)
            self._level = latents.level
            latents, packets = self._fitted(frame, motion, number, num_packets, room, bool(patch_packet))
        coded = self._codec.finish(latents, motion)
        self._level = latents.level
        unused = budget - num_packets * WIRE_HEADER_BYTES - sum(map(len, packets))
        self._spare = min(max(unused, 0.0), _MOST_SPARE * target_bytes)
        return self._remember(number, coded, packets, patch_packet)

    def encode_at(self, number: int, frame: Image, level: int, num_packets: int) -> list[bytes]:
        """Code a frame at a given level instead of a given size."""
        self._level = level
        patch_packet = self._patch(frame, number, level, math.inf)
        coded = self._codec.encode(frame, self.reference, level, number)
        packets = self._codec.packets(coded.latents, num_packets, has_patch=bool(patch_packet))
        return self._remember(number, coded, packets, patch_packet)

    def _patch(self, frame: Image, number: int, level: int, most_bytes: float) -> bytes:
        """The next I-patch of the scan as a packet of at most so many bytes on the wire, or nothing."""
        if not self._has_patches:
            return b""
        place = self._next_patch % self._grid.num_patches
        pixels = self._grid.cut(frame, place)
        for coarser in _COARSER:
            packet = self._patches.encode(pixels, number, place, min(MOST_PATCH_QP, patch_qp(level) + coarser))
            if len(packet) + WIRE_HEADER_BYTES <= most_bytes:
                self._next_patch = place + 1
                return packet
        return b""

    def _remember(self, number: int, coded: CodedFrame, packets: list[bytes], patch_packet: bytes) -> list[bytes]:
        image = coded.reconstruction
        patch = Patch(number, 0, image[:0])
        if patch_packet:
            patch = self._patch_decoder.decode(patch_packet)
            image = self._grid.paste(image, patch.number, patch.image)
        self._sent[number] = _Sent(coded.latents, packets, patch_packet, patch, image)
        self._sent.pop(number - _CACHED_FRAMES, None)
        self._status.pop(number - _CACHED_FRAMES, None)
        self._reference, self._newest = image, number
        return [*packets, patch_packet] if patch_packet else list(packets)

    def _fitted(
        self, frame: Image, motion: Motion, number: int, num_packets: int, budget: float, has_patch: bool
    ) -> tuple[Latents, list[bytes]]:
        """Outwards from the last level: up while the next one fits, or down until one does."""
        tried: dict[int, tuple[Latents, list[bytes]]] = {}

        def size_at(level: int) -> int:
            latents = self._codec.encode_residual(frame, motion, level, number)
            tried[level] = latents, self._codec.packets(latents, num_packets, has_patch=has_patch)
            self.num_coded_levels += 1
            return sum(map(len, tried[level][1]))

        level = self._level
        size = size_at(level)
        while size > budget and level > self._codec.lowest_level:
            steps = max(1, int(_LEVELS_PER_HALVING * math.log2(size / max(budget, 1.0))))
            level = max(self._codec.lowest_level, level - steps)
            size = size_at(level)
        highest = min(self._codec.num_levels - 1, self._level + _SEARCH_SPAN)
        # A level costs at least 8 % more than the one below it: where that does not fit, trying is in vain.
        while level + 1 not in tried and level < highest and size * _LEAST_STEP <= budget:
            above = size_at(level + 1)
            if above > budget:
                break
            level, size = level + 1, above
        return tried[level]

    def on_report(self, report: Report) -> list[bytes]:
        """See `grace.api.Sender.on_report`: takes over the receiver's state; returns frames of which nothing arrived."""
        again: list[bytes] = []
        for status in report.frames:
            number = unwrapped(status.frame, self._newest)
            sent = self._sent.get(number)
            if sent is None:
                continue
            if status.is_done:
                self._status.setdefault(number, status)
            elif status.is_wanted and not status.mask:
                again += [*sent.packets, sent.patch_packet] if sent.patch_packet else sent.packets
        if self._has_resync:
            self._resynchronise()
        return again

    def _resynchronise(self) -> None:
        changed = False
        newest_known = max(self._status, default=0)
        while self._confirmed < newest_known:
            number = self._confirmed + 1
            sent = self._sent.get(number)
            status = self._status.get(number)
            if status is None and number > newest_known - _REPORTED_FRAMES:
                break
            if sent is None:
                # Reports were away for longer than latents are kept: what the receiver has is not known any more.
                self._confirmed = number
                continue
            if status is None:  # no report will mention it again; most frames arrive whole
                status = _whole(number, sent)
            is_complete = status.mask.bit_count() == len(sent.packets) and status.extra == bool(sent.patch_packet)
            if is_complete and not self._is_divergent:
                self._receiver_image = sent.reconstruction
            else:
                assert self._receiver_image is not None
                before = self._receiver_image
                self._receiver_image = self._as_received(sent, status, before)
                self.num_redecoded += 1
                # A patch scan, or a sound frame over a sound reference, makes both ends agree again.
                self._is_divergent = not np.array_equal(self._receiver_image, sent.reconstruction)
                changed = True
            self._confirmed = number
        if not changed:
            return
        image = self._receiver_image
        assert image is not None
        for number in range(self._confirmed + 1, self._newest + 1):
            sent = self._sent[number]
            image = self._as_received(sent, self._status.get(number, _whole(number, sent)), image)
            sent.reconstruction = image
            self.num_redecoded += 1
        self._is_divergent = False
        self._reference = image

    def _as_received(self, sent: _Sent, status: FrameStatus, reference: Image) -> Image:
        """What a receiver with that reference makes of the packets that it used, bit for bit."""
        image = reference
        if status.mask:
            keep = keep_of_mask(sent.latents, len(sent.packets), status.mask)
            image = self._codec.decode(sent.latents.masked(keep), reference)
        if status.extra and sent.patch_packet:
            image = self._grid.paste(image, sent.patch.number, sent.patch.image)
        return image


class NeuralReceiver:
    """See `grace.api.Receiver`.

    Attributes:
        num_rejected: packets dropped as damaged.
    """

    def __init__(
        self, codec: NeuralCodec, info: StreamInfo, *, has_patches: bool = True, patch_side: int = DEFAULT_SIDE
    ):
        self._codec, self._info = codec, info
        self._has_patches, self._patch_side = has_patches, patch_side
        self._grid = PatchGrid(info.height, info.width, patch_side)
        self._parameter_sets = b""
        self._patch_decoder: PatchDecoder | None = None
        self._image: Image | None = None
        self._last = 0
        self._packets: dict[int, dict[int, bytes]] = {}
        self._num_packets: dict[int, int] = {}
        self._awaits_patch: dict[int, bool] = {}
        self._patch: dict[int, Patch] = {}
        self._done: dict[int, FrameStatus] = {}
        self._latest = 0
        self.num_rejected = 0

    def fork(self) -> "NeuralReceiver":
        """See `grace.api.Receiver.fork`."""
        other = NeuralReceiver(self._codec, self._info, has_patches=self._has_patches, patch_side=self._patch_side)
        other._parameter_sets, other._image, other._last = self._parameter_sets, self._image, self._last
        other._patch_decoder = PatchDecoder(self._parameter_sets, self._patch_side)
        other._packets = {number: dict(found) for number, found in self._packets.items()}
        other._num_packets, other._awaits_patch = dict(self._num_packets), dict(self._awaits_patch)
        other._patch, other._done = dict(self._patch), dict(self._done)
        other._latest = self._latest
        return other

    def start(self, data: bytes) -> Image:
        """See `grace.api.Receiver.start`."""
        if len(data) < _START.size:
            raise CorruptBitstream(f"a stream start of {len(data)} bytes is too short. It was cut.")
        (num,) = _START.unpack_from(data)
        at = _START.size + num
        self._parameter_sets = data[_START.size : at]
        self._patch_decoder = PatchDecoder(self._parameter_sets, self._patch_side)
        self._image = decode_intra_frame(data[at:], self._info.height, self._info.width)
        return self._image

    def on_packet(self, data: bytes) -> list[Rendered]:
        """See `grace.api.Receiver.on_packet`."""
        try:
            self._store(data)
        except CorruptBitstream:
            self.num_rejected += 1
        return self._advance(None)

    def _store(self, data: bytes) -> None:
        if data[:1] == bytes([PATCH_KIND]):
            if self._patch_decoder is None or not self._has_patches:
                raise CorruptBitstream("an I-patch in a stream without patches.")
            patch = self._patch_decoder.decode(data)
            number = unwrapped(patch.frame, self._last)
            if number > self._last and patch.number < self._grid.num_patches:
                self._patch[number] = patch
                self._latest = number
            return
        if data[:1] != bytes([KIND]):
            raise CorruptBitstream("a packet of another kind.")
        head = wire.read_head(data)
        number = unwrapped(head.frame, self._last)
        stride = self._codec.stride
        size = -(-self._info.height // stride) * stride, -(-self._info.width // stride) * stride
        if (head.height, head.width) != size or head.weights_check != self._codec.check:
            raise CorruptBitstream("a packet of another stream.")
        if self._num_packets.setdefault(number, head.num_packets) != head.num_packets:
            raise CorruptBitstream("a packet whose frame has another number of packets.")
        if number > self._last:
            self._packets.setdefault(number, {}).setdefault(head.index, data)
            self._awaits_patch[number] = head.has_patch
            self._latest = number

    def _is_complete(self, number: int) -> bool:
        have = self._packets.get(number, {})
        if not have or len(have) < self._num_packets[number]:
            return False
        return not self._awaits_patch[number] or number in self._patch

    def _advance(self, until: int | None) -> list[Rendered]:
        shown: list[Rendered] = []
        newest = max([*self._packets, *self._patch, self._last], default=self._last)
        while True:
            number = self._last + 1
            is_forced = until is not None and number <= until
            # A packet of a later frame says that what is missing will not come any more; while the frame's own packets come
            # in, late or sent again, the rest may follow. With nothing of this frame there is nothing to decode: it is asked
            # for again.
            is_overtaken = newest > number and bool(self._packets.get(number)) and self._latest != number
            # The sender does not keep a frame longer than this, so that it cannot come any more.
            is_too_old = newest - number >= _CACHED_FRAMES
            if not (self._is_complete(number) or is_forced or is_overtaken or is_too_old):
                break
            shown += self._decode(number)
        return shown

    def _decode(self, number: int) -> list[Rendered]:
        assert self._image is not None, "start() comes first"
        have = self._packets.pop(number, {})
        patch = self._patch.pop(number, None)
        image, mask = self._image, 0
        if have:
            try:
                received = self._codec.read(have.values(), frame=number)
            except CorruptBitstream:
                self.num_rejected += len(have)
            else:
                image = self._codec.decode(received.latents, self._image)
                mask = sum(1 << index for index in received.received)
        if patch is not None:
            image = self._grid.paste(image, patch.number, patch.image)
        num = self._num_packets.pop(number, 0)
        self._awaits_patch.pop(number, None)
        self._done[number] = FrameStatus(number, num, mask, patch is not None, True)
        self._done.pop(number - 2 * _CACHED_FRAMES, None)
        self._last, self._image = number, image
        return [Rendered(number, image)] if mask or patch is not None else []

    def flush(self, number: int) -> list[Rendered]:
        """See `grace.api.Receiver.flush`."""
        return self._advance(number)

    def report(self) -> Report:
        """See `grace.api.Receiver.report`: asks for every frame of which nothing came, once packets of a later one are there."""
        first = max(1, self._last - _REPORTED_FRAMES + 1)
        frames = [self._done[n] for n in range(first, self._last + 1) if n in self._done]
        newest = max([*self._packets, *self._patch, self._last], default=self._last)
        lost = [number for number in range(self._last + 1, newest) if not self._packets.get(number)]
        frames += [FrameStatus(number, 0, 0, is_wanted=True) for number in lost]
        return Report(tuple(frames))
