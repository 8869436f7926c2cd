"""A call over a network: sender, receiver, reports and congestion control, on any driver of `common.net`.

    every 1/fps: controller says how much --> scheme encodes --> RTP packets, paced --> network --> receiver
    receiver:    every packet to the scheme --> frames as they become decodable --> every 1/fps a report back

The same code runs in virtual time (event loop, ns-3) and over real sockets. A frame's delay is the time from the start of its
encoding to the end of its decoding; encoding and decoding take constant times that were measured, or that the paper reports, and
never make the next frame wait. A frame that is never decoded has an infinite delay.
"""

import collections
import dataclasses
import math
import struct
from collections.abc import Callable, Sequence

import numpy as np

from common.errors import ConfigError, CorruptBitstream
from common.net.driver import IP_UDP_HEADER_BYTES, Network
from grace.api import WIRE_HEADER_BYTES, Image, Receiver, Rendered, Report, Scheme, Sender, StreamInfo
from grace.congestion import Arrival, Controller

PORT = 5004
FEEDBACK_PORT = 5005
LATE_S = 0.4
"""A frame that is decoded later than this after its encoding began does not count as rendered (paper)."""
STALL_S = 0.2
"""A longer gap between rendered frames is a stall (paper)."""
_RTP = struct.Struct("<BBHII")
_RTP_VERSION, _PAYLOAD_TYPE = 0x80, 96
_SSRC = 0x47524143
_ENTRY = struct.Struct("<HI")
_COUNT = struct.Struct("<H")
_TICKS_PER_S = 4000
_PACING = 2.5
_RESEND_AFTER_S = 0.25


@dataclasses.dataclass(frozen=True)
class CodecTimes:
    """How long a frame's encoding and decoding take, seconds."""

    encode_s: float
    decode_s: float


PAPER_TIMES = CodecTimes(1 / 31, 1 / 51)
"""720p on an A40, as the paper reports (paper?)."""
NO_TIMES = CodecTimes(0.0, 0.0)
"""What classic codecs get beside `PAPER_TIMES`: none at all, in their favour; the sheet has no times of theirs."""


@dataclasses.dataclass(frozen=True)
class SessionSettings:
    """Of one call.

    Attributes:
        num_frames: how many frames are sent; the clip is played to and fro.
        times: see `CodecTimes`.
        drain_s: how long to wait for late frames after the last one was sent.
    """

    num_frames: int
    times: CodecTimes
    drain_s: float = 3.0


@dataclasses.dataclass(frozen=True, eq=False)
class FrameRecord:
    """What became of a frame: times in s since the call began; `shown_s` is infinite if it was never decoded, or never sent.

    `number` is that of its frame interval, see `SendingEnd.slots`.
    """

    number: int
    capture_s: float
    shown_s: float
    image: Image | None
    wire_bytes: int
    num_packets: int


@dataclasses.dataclass(frozen=True, eq=False)
class SessionRecord:
    """A finished call.

    Attributes:
        frames: one record per frame sent.
        duration_s: from the first to the last capture, plus one frame.
        sent_packets, received_packets: on the forward path.
        sent_bytes: on the wire, everything sent again included.
        report_bytes: on the way back.
        targets_bps: what the controller allowed, by frame.
    """

    frames: tuple[FrameRecord, ...]
    duration_s: float
    sent_packets: int
    received_packets: int
    sent_bytes: int
    report_bytes: int
    targets_bps: tuple[float, ...]


def source_index(number: int, num_source: int) -> int:
    """Which frame of a clip is frame `number` of a call: forwards, then backwards, and so on, without a cut."""
    if num_source == 1:
        return 0
    place = number % (2 * num_source - 2)
    return place if place < num_source else 2 * num_source - 2 - place


class SendingEnd:
    """The sender's side of a call: node 0 of the network.

    Args:
        network: see `common.net.driver`.
        sender: has coded the first frame already.
        frames: the clip, (T, H, W, 3) uint8.
        info, controller, settings: see `Session`.

    Attributes:
        captures_s: when each frame was taken, by number.
        slots: in whose frame interval each frame was taken, by number. In virtual time that is its number. In real time a
            sender that is a whole interval late leaves a frame out, as a camera would, and the next one gets its number.
        wire: bytes on the wire and number of packets of each frame.
        targets_bps: what the controller allowed, by frame.
        sent_packets, sent_bytes: everything sent again included.
    """

    def __init__(
        self,
        network: Network,
        sender: Sender,
        frames: np.ndarray,
        info: StreamInfo,
        controller: Controller,
        settings: SessionSettings,
    ) -> None:
        if len(frames) < 2 or settings.num_frames < 2:
            raise ConfigError(f"a call of {settings.num_frames} frames from a clip of {len(frames)}: need at least 2.")
        self._network, self._sender, self._frames, self._info = network, sender, frames, info
        self._controller, self._settings = controller, settings
        self._forward = network.udp(0, PORT, _ignore)
        network.udp(0, FEEDBACK_PORT, self._on_feedback)
        self._sequence = 0
        self._pending: collections.OrderedDict[int, tuple[float, int]] = collections.OrderedDict()
        self._next_departure_s = 0.0
        self._resent: dict[bytes, float] = {}
        self.captures_s: dict[int, float] = {}
        self.slots: dict[int, int] = {}
        self.wire: dict[int, tuple[int, int]] = {}
        self.targets_bps: list[float] = []
        self.sent_packets = self.sent_bytes = 0

    def begin(self, at_s: float) -> None:
        """Schedule all frames."""
        for slot in range(1, self._settings.num_frames):
            when = at_s + slot / self._info.fps
            self._network.at(when, lambda slot=slot, when=when: self._send_frame(slot, when))  # type: ignore[misc]

    def _send_frame(self, slot: int, capture_s: float) -> None:
        now, fps = self._network.now(), self._info.fps
        if now > capture_s + 1 / fps:
            return
        number = len(self.slots) + 1
        self.slots[number] = slot
        self.captures_s[number] = capture_s
        target = self._controller.target_bytes(now, 1 / fps, len(self._pending))
        self.targets_bps.append(target * 8 * fps)
        frame = self._frames[source_index(slot, len(self._frames))]
        packets = self._sender.encode(number, frame, target)
        self.wire[number] = sum(len(p) + WIRE_HEADER_BYTES for p in packets), len(packets)
        self._transmit(packets, now + self._settings.times.encode_s, target)

    def _transmit(self, packets: Sequence[bytes], ready_s: float, frame_bytes: float) -> None:
        """Pace packets out at 2.5 times the target rate, or what is sent, where a scheme cannot code as little as it may send.

        Else frames would queue up in the sender, whatever the network can carry.
        """
        num_bytes = sum(len(packet) + WIRE_HEADER_BYTES for packet in packets)
        rate = _PACING * max(frame_bytes, num_bytes) * self._info.fps
        for packet in packets:
            departure = max(ready_s, self._next_departure_s)
            self._next_departure_s = departure + (len(packet) + WIRE_HEADER_BYTES) / rate
            self._network.at(departure, lambda packet=packet: self._send_packet(packet))  # type: ignore[misc]

    def _send_packet(self, packet: bytes) -> None:
        now = self._network.now()
        sequence = self._sequence & 0xFFFF
        self._sequence += 1
        head = _RTP.pack(_RTP_VERSION, _PAYLOAD_TYPE, sequence, int(now * 90000) & 0xFFFFFFFF, _SSRC)
        self._pending[sequence] = now, len(packet) + WIRE_HEADER_BYTES
        self.sent_packets += 1
        self.sent_bytes += len(packet) + WIRE_HEADER_BYTES
        self._forward.send(head + packet)

    def _on_feedback(self, data: bytes) -> None:
        now = self._network.now()
        try:
            arrivals, report = self._read_feedback(data)
        except (CorruptBitstream, struct.error):
            return
        if arrivals:
            self._controller.on_feedback(now, arrivals)
        again = [p for p in self._sender.on_report(report) if now - self._resent.get(p, -math.inf) > _RESEND_AFTER_S]
        for packet in again:
            self._resent[packet] = now
        if len(self._resent) > 4096:
            self._resent = {p: t for p, t in self._resent.items() if now - t < 4 * _RESEND_AFTER_S}
        if again:
            target = self.targets_bps[-1] / 8 / self._info.fps if self.targets_bps else 1000.0
            self._transmit(again, now, target)

    def _read_feedback(self, data: bytes) -> tuple[list[Arrival], Report]:
        (count,) = _COUNT.unpack_from(data)
        arrived: dict[int, float] = {}
        at = _COUNT.size
        for _ in range(count):
            sequence, ticks = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size
            arrived[sequence] = ticks / _TICKS_PER_S
        report = Report.from_bytes(data[at:])
        known = [sequence for sequence in self._pending if sequence in arrived]
        arrivals: list[Arrival] = []
        if known:
            # The network keeps the order: what was sent before an arrived packet and did not arrive is lost.
            last = known[-1]
            while self._pending:
                sequence, (sent_s, size) = self._pending.popitem(last=False)
                arrivals.append(Arrival(sent_s, arrived.get(sequence), size))
                if sequence == last:
                    break
        return arrivals, report


class ReceivingEnd:
    """The receiver's side of a call: node 1 of the network.

    Args:
        network: see `common.net.driver`.
        receiver: has the first frame already.
        info, settings: see `Session`.
        on_shown: called with each frame and the time at which it is shown.

    Attributes:
        shown: time and picture of each frame that was shown.
        received_packets, report_bytes: counts.
    """

    def __init__(
        self,
        network: Network,
        receiver: Receiver,
        info: StreamInfo,
        settings: SessionSettings,
        on_shown: Callable[[Rendered, float], None] | None = None,
    ) -> None:
        self._network, self._receiver, self._info, self._settings = network, receiver, info, settings
        self._on_shown = on_shown
        network.udp(1, PORT, self._on_media)
        self._back = network.udp(1, FEEDBACK_PORT, _ignore)
        self._since_report: list[tuple[int, float]] = []
        self.shown: dict[int, tuple[float, Image]] = {}
        self.received_packets = self.report_bytes = 0

    def begin(self, at_s: float) -> None:
        """Schedule a report every frame interval."""
        num_reports = int((self._settings.num_frames / self._info.fps + self._settings.drain_s) * self._info.fps)
        for index in range(1, num_reports):
            self._network.at(at_s + (index + 0.5) / self._info.fps, self._send_report)

    def _on_media(self, data: bytes) -> None:
        now = self._network.now()
        if len(data) <= _RTP.size:
            return
        _, _, sequence, _, _ = _RTP.unpack_from(data)
        self.received_packets += 1
        self._since_report.append((sequence, now))
        for found in self._receiver.on_packet(data[_RTP.size :]):
            # In real time decoding has taken its time already, in virtual time none.
            shown_s = max(now + self._settings.times.decode_s, self._network.now())
            self.shown.setdefault(found.frame, (shown_s, found.image))
            if self._on_shown is not None:
                self._on_shown(found, shown_s)

    def _send_report(self) -> None:
        entries = self._since_report[-1000:]
        self._since_report = []
        data = _COUNT.pack(len(entries))
        data += b"".join(_ENTRY.pack(s, int(t * _TICKS_PER_S) & 0xFFFFFFFF) for s, t in entries)
        data += self._receiver.report().to_bytes()
        self.report_bytes += len(data) + IP_UDP_HEADER_BYTES
        self._back.send(data)


def _ignore(data: bytes) -> None:
    """For sockets that only send."""


class Session:
    """Both ends of one call; `begin` it, run the network, then take `record`.

    Args:
        network: node 0 sends, node 1 receives.
        scheme: of both ends.
        frames: the clip, (T, H, W, 3) uint8.
        info: of the stream.
        controller: of the sender.
        settings: see `SessionSettings`.
        on_shown: called for each frame when it is shown.
    """

    def __init__(
        self,
        network: Network,
        scheme: Scheme,
        frames: np.ndarray,
        info: StreamInfo,
        controller: Controller,
        settings: SessionSettings,
        on_shown: Callable[[Rendered, float], None] | None = None,
    ) -> None:
        self._info, self._settings, self._first = info, settings, frames[0]
        self._sender, self._receiver = scheme.sender(info), scheme.receiver(info)
        self._sending = SendingEnd(network, self._sender, frames, info, controller, settings)
        self._receiving = ReceivingEnd(network, self._receiver, info, settings, on_shown)
        self._begin_s = 0.0

    @property
    def end_s(self) -> float:
        """When the call is over, waiting for late frames included."""
        return self._begin_s + self._settings.num_frames / self._info.fps + self._settings.drain_s

    def begin(self, at_s: float = 0.0) -> None:
        """Schedule the call. The first frame reaches the receiver before it begins."""
        self._begin_s = at_s
        self._receiver.start(self._sender.start(self._first))
        self._sending.begin(at_s)
        self._receiving.begin(at_s)

    def record(self) -> SessionRecord:
        """What happened; call it after the network ran until `end_s`."""
        frames = []
        numbers = {slot: number for number, slot in self._sending.slots.items()}
        for slot in range(1, self._settings.num_frames):
            number = numbers.get(slot, 0)
            shown_s, image = self._receiving.shown.get(number, (math.inf, None))
            size, count = self._sending.wire.get(number, (0, 0))
            capture_s = self._begin_s + slot / self._info.fps
            frames.append(FrameRecord(slot, capture_s, shown_s, image, size, count))
        return SessionRecord(
            tuple(frames),
            len(frames) / self._info.fps,
            self._sending.sent_packets,
            self._receiving.received_packets,
            self._sending.sent_bytes,
            self._receiving.report_bytes,
            tuple(self._sending.targets_bps),
        )


def with_times(record: SessionRecord, times: CodecTimes, other: CodecTimes) -> SessionRecord:
    """The record of a call with codec times `times` as it were with `other`: constant times shift every frame alike."""
    shift_s = other.encode_s + other.decode_s - times.encode_s - times.decode_s
    frames = tuple(dataclasses.replace(frame, shown_s=frame.shown_s + shift_s) for frame in record.frames)
    return dataclasses.replace(record, frames=frames)


def frame_delays(record: SessionRecord) -> np.ndarray:
    """Delay of each frame, s; infinite where it was never decoded."""
    return np.array([frame.shown_s - frame.capture_s for frame in record.frames])


def percentile(delays: np.ndarray, share: float) -> float:
    """The smallest delay that at least `share` of the frames do not exceed; infinite if fewer were decoded."""
    ordered = np.sort(delays)
    return float(ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))])


def stall_gaps(shown_s: Sequence[float], end_s: float) -> list[float]:
    """Gaps longer than `STALL_S` between consecutive rendered frames, and from the last one to the end.

    Times rendered at 0, 0.04, 0.08, 0.40 and 0.44 have one gap, of 0.32: the stall ratio is 0.32 / 0.44.
    """
    times = sorted(shown_s)
    gaps = [b - a for a, b in zip(times, [*times[1:], end_s], strict=True)] if times else [end_s]
    return [gap for gap in gaps if gap > STALL_S]


def stall_ratio(record: SessionRecord) -> float:
    """Stalled time over the length of the call. A frame that comes after a later one was shown, or too late, is not rendered."""
    begin = record.frames[0].capture_s - record.duration_s / len(record.frames)
    # Waiting for the first frame is its delay, not a stall, unless it never comes.
    times: list[float] = []
    newest = 0
    for frame in sorted(record.frames, key=lambda found: found.shown_s):
        if math.isfinite(frame.shown_s) and frame.number > newest:
            newest = frame.number
            times.append(frame.shown_s)
    if not times:
        return 1.0
    end = max(begin + record.duration_s, times[-1])
    return min(1.0, sum(stall_gaps(times, end)) / max(record.duration_s, 1e-9))


def not_rendered_share(record: SessionRecord) -> float:
    """Share of frames never decoded, or decoded more than 400 ms after their encoding began."""
    return float((frame_delays(record) > LATE_S).mean())
