"""The delay that network and controller make by themselves: frames of exactly the size that is allowed, of filler.

A frame is shown once all its packets are there, or as soon as a packet of a later one is, with whatever came; nothing is sent
again, nothing is waited for, nothing is coded. A scheme that spends what it may cannot be faster, one that spends less can. The
picture stands still.
"""

from common.errors import CorruptBitstream
from grace.api import WIRE_HEADER_BYTES, FrameStatus, Image, Rendered, Report, StreamInfo, unwrapped
from grace.classic import FIRST_FRAME_QP, HEAD_BYTES, read_share, split
from grace.intra import decode_intra_frame, encode_intra_frame

_REPORTED_FRAMES = 16


class FillerSender:
    """See `grace.api.Sender`."""

    def __init__(self, info: StreamInfo) -> None:
        self._info = info

    def start(self, frame: Image) -> bytes:
        """See `grace.api.Sender.start`."""
        return encode_intra_frame(frame, FIRST_FRAME_QP)

    def encode(self, number: int, frame: Image, target_bytes: float) -> list[bytes]:
        """See `grace.api.Sender.encode`: the target to the byte, rounded down to whole packets of one size."""
        num = self._info.packets_for(target_bytes)
        size = max(1, int(target_bytes / num) - WIRE_HEADER_BYTES - HEAD_BYTES)
        return split(bytes(size * num), number, num, 0)

    def on_report(self, report: Report) -> list[bytes]:
        """See `grace.api.Sender.on_report`."""
        return []


class FillerReceiver:
    """See `grace.api.Receiver`."""

    def __init__(self, info: StreamInfo) -> None:
        self._info = info
        self._image: Image | None = None
        self._last = 0
        self._masks: dict[int, int] = {}
        self._num_packets: dict[int, int] = {}
        self._done: dict[int, FrameStatus] = {}

    def fork(self) -> "FillerReceiver":
        """See `grace.api.Receiver.fork`."""
        other = FillerReceiver(self._info)
        other._image, other._last = self._image, self._last
        other._masks, other._num_packets, other._done = dict(self._masks), dict(self._num_packets), dict(self._done)
        return other

    def start(self, data: bytes) -> Image:
        """See `grace.api.Receiver.start`."""
        self._image = decode_intra_frame(data, self._info.height, self._info.width)
        return self._image

    def on_packet(self, data: bytes) -> list[Rendered]:
        """See `grace.api.Receiver.on_packet`."""
        try:
            head, _ = read_share(data)
        except CorruptBitstream:
            return []
        number = unwrapped(head.frame, self._last)
        if number <= self._last:
            return []
        self._masks[number] = self._masks.get(number, 0) | 1 << head.index
        self._num_packets[number] = head.num_data
        is_whole = self._masks[number].bit_count() == head.num_data
        return self.flush(number if is_whole else number - 1)

    def flush(self, number: int) -> list[Rendered]:
        """See `grace.api.Receiver.flush`."""
        assert self._image is not None, "start() comes first"
        shown = []
        while self._last < number:
            self._last += 1
            mask = self._masks.pop(self._last, 0)
            if mask:
                shown.append(Rendered(self._last, self._image))
            self._done[self._last] = FrameStatus(self._last, self._num_packets.pop(self._last, 0), mask, is_done=True)
            self._done.pop(self._last - _REPORTED_FRAMES, None)
        return shown

    def report(self) -> Report:
        """See `grace.api.Receiver.report`."""
        return Report(tuple(self._done.values()))
