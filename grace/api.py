"""What a plug-in imports: clips, the protocols of schemes, senders and receivers, and the registries.

    from grace.api import METHODS, WORKLOADS, Rendered, Report, StreamInfo

A method is a *scheme*: how frames become packets and how packets that arrive become frames. It hands back bytes and images;
which packets are lost, what the bytes on the wire are, how late a frame is and how good it looks is the harness's business, with
the same code for every scheme. Importing this module imports neither torch nor PyAV.
"""

import dataclasses
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, CorruptBitstream
from common.experiment import Experiment, Paper, check_in
from common.registry import Registry

if TYPE_CHECKING:
    from numpy.random import Generator

    from common.data.video import Clip

__all__ = [
    "EXPERIMENTS",
    "METHODS",
    "PAPER",
    "WIRE_HEADER_BYTES",
    "WORKLOADS",
    "FrameStatus",
    "Image",
    "Receiver",
    "Rendered",
    "Report",
    "Scheme",
    "Sender",
    "StreamInfo",
    "Workload",
]

Image = NDArray[np.uint8]

WIRE_HEADER_BYTES = 40
"""What every packet costs beyond its own bytes: IPv4 20, UDP 8, RTP 12."""

FEWEST_PACKETS = 2
LEAST_PACKET_BYTES = 160
"""Frames that would have smaller packets than this, on the wire, have fewer of them: half of such a packet is headers."""


@dataclasses.dataclass(frozen=True)
class StreamInfo:
    """What sender and receiver know of a stream before it begins.

    Attributes:
        height, width: of the frames, pixels.
        fps: frames per second.
        payload_bytes: most bytes of a packet, without `WIRE_HEADER_BYTES`, that a scheme should make.
        min_packets: least number of packets of a frame that has room for them, see `packets_for`; with one, any loss is total.
    """

    height: int
    width: int
    fps: float = 25.0
    payload_bytes: int = 1000
    min_packets: int = 4

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 32 or self.fps <= 0:
            raise ConfigError(f"a stream of {self.width}x{self.height} at {self.fps} frames/s: need 32 pixels and > 0.")
        if self.payload_bytes < 100 or not 1 <= self.min_packets <= 64:
            raise ConfigError(
                f"payload_bytes={self.payload_bytes} must be at least 100 and min_packets={self.min_packets} in 1..64."
            )

    def packets_for(self, wire_bytes: float) -> int:
        """How many packets so many bytes on the wire make.

        `min_packets` at least, and more where `payload_bytes` ask for it; fewer, down to `FEWEST_PACKETS`, where packets would
        be smaller than `LEAST_PACKET_BYTES`.
        """
        least = min(self.min_packets, max(FEWEST_PACKETS, int(wire_bytes) // LEAST_PACKET_BYTES))
        return max(least, -(-int(wire_bytes) // (self.payload_bytes + WIRE_HEADER_BYTES)))


@dataclasses.dataclass(frozen=True, eq=False)
class Rendered:
    """A frame that a receiver decoded and shows."""

    frame: int
    image: Image


@dataclasses.dataclass(frozen=True)
class FrameStatus:
    """What a receiver says about one frame.

    Attributes:
        frame: its number.
        num_packets: how many it has, 0 if not even that is known.
        mask: bit i: packet i was received (and, if it was decoded, used).
        extra: the packet beside them (an I-patch) was received and used.
        is_done: decoded with what `mask` says, or given up if that is nothing; what comes later is ignored.
        is_wanted: please send again what is missing.
    """

    frame: int
    num_packets: int
    mask: int
    extra: bool = False
    is_done: bool = False
    is_wanted: bool = False


@dataclasses.dataclass(frozen=True)
class Report:
    """What travels back, once per frame interval: the state of the newest frames, oldest first."""

    frames: tuple[FrameStatus, ...]

    _ENTRY = struct.Struct("<HBB")

    def to_bytes(self) -> bytes:
        """6 bytes and more for each frame: number, number of packets, flags, bit mask."""
        out = bytearray()
        for status in self.frames:
            flags = status.extra | status.is_done << 1 | status.is_wanted << 2
            num_bytes = -(-max(status.num_packets, status.mask.bit_length(), 1) // 8)
            out += self._ENTRY.pack(status.frame & 0xFFFF, status.num_packets, flags | num_bytes << 3)
            out += status.mask.to_bytes(num_bytes, "little")
        return bytes(out)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Report":
        """The inverse of `to_bytes`.

        Raises:
            CorruptBitstream: the bytes end within an entry.
        """
        frames, at = [], 0
        while at < len(data):
            if at + cls._ENTRY.size > len(data):
                raise CorruptBitstream(f"a report of {len(data)} bytes ends within an entry. It was cut.")
            frame, num_packets, flags = cls._ENTRY.unpack_from(data, at)
            at += cls._ENTRY.size
            num_bytes = flags >> 3
            if not num_bytes or at + num_bytes > len(data):
                raise CorruptBitstream(f"a report of {len(data)} bytes ends within an entry. It was cut.")
            mask = int.from_bytes(data[at : at + num_bytes], "little")
            at += num_bytes
            frames.append(FrameStatus(frame, num_packets, mask, bool(flags & 1), bool(flags & 2), bool(flags & 4)))
        return cls(tuple(frames))


class Sender(Protocol):
    """The sending end of a scheme."""

    def start(self, frame: Image) -> bytes:
        """Code the first frame (number 0). What it returns is delivered before the stream begins, whatever happens."""
        ...

    def encode(self, number: int, frame: Image, target_bytes: float) -> list[bytes]:
        """Code frame `number` = 1, 2, ... as packets.

        Args:
            target_bytes: how many bytes on the wire the frame may take, parity and `WIRE_HEADER_BYTES` per packet included.
        """
        ...

    def on_report(self, report: Report) -> list[bytes]:
        """Take note of a receiver's report; returns packets to send again."""
        ...


class Receiver(Protocol):
    """The receiving end of a scheme."""

    def start(self, data: bytes) -> Image:
        """Take what `Sender.start` returned; returns the first frame."""
        ...

    def on_packet(self, data: bytes) -> list[Rendered]:
        """Take a packet, whatever its bytes are; returns the frames that can be shown now, in order. Never raises for them."""
        ...

    def flush(self, number: int) -> list[Rendered]:
        """Decode what can be decoded of frames up to `number` and give up the rest: nothing more is waited for."""
        ...

    def report(self) -> Report:
        """The state of the newest frames."""
        ...

    def fork(self) -> "Receiver":
        """A receiver of its own in the same state."""
        ...


class Scheme(Protocol):
    """One way to send video: an entry of `METHODS`, a frozen dataclass with knobs."""

    def sender(self, info: StreamInfo) -> Sender:
        """A fresh sender."""
        ...

    def receiver(self, info: StreamInfo) -> Receiver:
        """A fresh receiver, which knows nothing of the sender but its packets."""
        ...


class Workload(Protocol):
    """A source of clips."""

    def items(self, rng: "Generator", n: int) -> "Iterator[Clip]":
        """n clips; the same stream gives the same clips."""
        ...


METHODS: Registry[Any] = Registry("grace method", ["grace.methods"])
WORKLOADS: Registry[Any] = Registry("grace workload", ["grace.workloads"])
EXPERIMENTS: Registry[type[Experiment]] = Registry("grace experiment", ["grace.experiments"])


PAPER = Paper(
    name="grace",
    title="GRACE: Loss-Resilient Real-Time Video through Neural Codecs (NSDI 2024)",
    methods=METHODS,
    workloads=WORKLOADS,
    experiments=EXPERIMENTS,
    method_contract=(check_in("grace.contract", "check_method"),),
    workload_contract=(check_in("grace.contract", "check_workload"),),
)


def unwrapped(number: int, near: int) -> int:
    """The frame number whose lowest 16 bits are `number` and which lies nearest to `near`."""
    return near + ((number - near + 0x8000) & 0xFFFF) - 0x8000


def popcount(masks: Sequence[int]) -> int:
    """Set bits of all masks."""
    return sum(mask.bit_count() for mask in masks)
