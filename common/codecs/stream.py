"""A coded video as packets in memory: what a network carries, without a container."""

import dataclasses
import io
import struct
import zlib
from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import ConfigError, CorruptBitstream, DataUnavailable

# How FFmpeg calls the decoders of our codec names, and the other way round.
FFMPEG_DECODERS = {"h264": "h264", "h265": "hevc", "vp9": "vp9"}
CONTAINERS = (".mp4", ".mkv", ".mov", ".webm")  # .webm: VP9 only
CODEC_NAMES = {decoder: codec for codec, decoder in FFMPEG_DECODERS.items()}


@dataclasses.dataclass(frozen=True)
class Packet:
    """One coded frame.

    Attributes:
        data: the bytes; for H.264 and H.265 in Annex B form, with the parameter sets in front of each key frame.
        pts: index of the frame in display order, counted from the first frame given to the encoder.
        is_keyframe: decodable without earlier packets.
        crc32: checksum of `data` as the encoder made it (as a transport would carry it); None: not checked when decoding.
    """

    data: bytes
    pts: int
    is_keyframe: bool
    crc32: int | None = None

    @classmethod
    def of(cls, data: bytes, pts: int, is_keyframe: bool) -> "Packet":
        """A packet with its checksum."""
        return cls(data, pts, is_keyframe, zlib.crc32(data))

    def check(self, crc32: int | None = None) -> None:
        """Raise `CorruptBitstream` if the bytes do not have the given checksum, or the packet's own; without one, nothing."""
        expected = self.crc32 if crc32 is None else crc32
        if expected is not None and zlib.crc32(self.data) != expected:
            raise CorruptBitstream(
                f"packet of frame {self.pts}: the checksum of its {len(self.data)} bytes differs from the encoder's. "
                "It was damaged or cut on the way."
            )


def prepare_output(path: Path, source: Path | None = None) -> None:
    """Look whether a video can be written, before the work that makes it; creates the folder.

    Args:
        path: the video to write.
        source: the video that is read.

    Raises:
        ConfigError: a suffix that no container has, a folder, or the source itself, which would be lost.
    """
    if path.suffix.lower() not in CONTAINERS:
        raise ConfigError(f"{path}: no container for this suffix; use {', '.join(CONTAINERS)}.")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file.")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise ConfigError(f"{path} is the video that is read; name another file to write.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: its folder cannot be made: {error.strerror}.") from error


@dataclasses.dataclass(frozen=True)
class EncodedVideo:
    """A coded clip.

    Attributes:
        packets: in decoding order (which is display order unless B-frames were asked for).
        codec: "h264", "h265" or "vp9".
        width, height: of the pictures, in pixels; an odd size is coded with one replicated column or row more.
        fps: frames per second.
        extradata: parameter sets outside the packets; empty for what this package encodes, which carries them in band.
        checksums: CRC-32 of each frame's packet as the encoder made it, by pts. Video decoders notice little of what a network
            or a disk does to their input (H.265's nearly nothing), so decoding a whole clip compares them first.
    """

    packets: tuple[Packet, ...]
    codec: str
    width: int
    height: int
    fps: float = 30.0
    extradata: bytes = b""
    checksums: Mapping[int, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls, packets: Iterable[Packet], codec: str, width: int, height: int, fps: float = 30.0, extradata: bytes = b""
    ) -> "EncodedVideo":
        """A clip from an encoder's packets, which are sound: keeps their checksums."""
        kept = tuple(packets)
        checksums = {packet.pts: zlib.crc32(packet.data) for packet in kept}
        return cls(kept, codec, width, height, fps, extradata, checksums)

    @property
    def num_frames(self) -> int:
        return len(self.packets)

    @property
    def num_bytes(self) -> int:
        """Bytes of all packets; no container, no network headers."""
        return sum(len(packet.data) for packet in self.packets)

    @property
    def bytes_per_frame(self) -> np.ndarray:
        """(N,) int64 in display order, also where packets come out of the encoder in another order."""
        return np.array([len(packet.data) for packet in sorted(self.packets, key=lambda p: p.pts)], dtype=np.int64)

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps

    @property
    def bitrate_bps(self) -> float:
        """Mean over the clip, in bits per second at its own frame rate."""
        return 8 * self.num_bytes / self.duration_s if self.packets else 0.0

    def prefix(self, num_packets: int) -> "EncodedVideo":
        """The first packets alone, as after a connection that broke."""
        return dataclasses.replace(self, packets=self.packets[: max(0, num_packets)])

    def without(self, lost_pts: Collection[int]) -> "EncodedVideo":
        """The clip as received when the packets of these frames were lost; decode it with `decode_available`."""
        lost = set(lost_pts)
        return dataclasses.replace(self, packets=tuple(p for p in self.packets if p.pts not in lost))

    def save(self, path: Path) -> None:
        """Write the packets, as they are but for their framing, into a container that ordinary players open.

        Args:
            path: .mp4, .mkv or .webm (VP9); the suffix chooses the container.

        Raises:
            ConfigError: no packets, a suffix that no container has, or a container that cannot hold this codec.
        """
        import av

        if not self.packets:
            raise ConfigError("an encoded video without packets cannot be saved; encode at least one frame.")
        if path.suffix.lower() == ".webm" and self.codec != "vp9":
            raise ConfigError(f"path {str(path)!r}: webm cannot hold {self.codec}; use .mp4 or .mkv.")
        rate = Fraction(self.fps).limit_denominator(100_000)
        try:
            container = av.open(str(path), "w")
        except ValueError as error:
            raise ConfigError(f"path {str(path)!r}: no container for this suffix; use .mp4, .mkv or .webm.") from error
        with container:
            # The muxer needs the parameter sets; FFmpeg's own parsers find them in the first key frame.
            with av.open(
                io.BytesIO(self._head()), format="ivf" if self.codec == "vp9" else FFMPEG_DECODERS[self.codec]
            ) as head:
                stream: Any = container.add_stream_from_template(head.streams.video[0])
            stream.time_base = 1 / rate
            is_reordered = any(packet.pts != index for index, packet in enumerate(self.packets))
            for order, packet in enumerate(self.packets):
                out = av.Packet(packet.data)
                out.pts, out.dts, out.duration, out.time_base = packet.pts, order, 1, 1 / rate
                if is_reordered:
                    out.dts -= 2  # B-frames: decoding runs ahead of display
                out.is_keyframe = packet.is_keyframe
                out.stream = stream
                container.mux(out)

    def _head(self) -> bytes:
        """The first packet in the barest container of its codec."""
        first = self.packets[0].data
        if self.codec != "vp9":
            return self.extradata + first
        header = struct.pack("<4sHH4sHHIII4x", b"DKIF", 0, 32, b"VP90", self.width, self.height, 30, 1, 1)
        return header + struct.pack("<IQ", len(first), 0) + first

    @classmethod
    def load(cls, path: Path) -> "EncodedVideo":
        """The video stream of a file, packet by packet, without decoding or changing it.

        Packets of an .mp4 or .mkv file carry lengths instead of start codes: `nal_units` cannot cut them.

        Raises:
            DataUnavailable: there is no such file.
            CorruptBitstream: no container that FFmpeg can read, no video stream, or an empty one.
            ConfigError: a codec that this package does not know.
        """
        import av

        if not Path(path).is_file():
            raise DataUnavailable(f"video {str(path)!r} is not there. Give the path of a video file.")
        try:
            with av.open(str(path), metadata_errors="replace") as container:
                if not container.streams.video:
                    raise CorruptBitstream(f"{path}: no video stream in this file.")
                stream = container.streams.video[0]
                name = stream.codec_context.name
                if name not in CODEC_NAMES:
                    known = ", ".join(FFMPEG_DECODERS)
                    raise ConfigError(
                        f"{path}: codec {name!r} is not one of {known}; load frames with common.data.video."
                    )
                found = [
                    (bytes(p), p.pts if p.pts is not None else i, bool(p.is_keyframe))
                    for i, p in enumerate(container.demux(stream))
                    if p.size
                ]
                extradata = bytes(stream.codec_context.extradata or b"")
                width, height = stream.codec_context.width, stream.codec_context.height
                fps = float(stream.average_rate or 30)
        except av.error.FFmpegError as error:
            raise CorruptBitstream(f"{path}: FFmpeg cannot read this as a video ({error.strerror}).") from error
        if not found:
            raise CorruptBitstream(f"{path}: no packets in the video stream.")
        rank = {pts: index for index, pts in enumerate(sorted(pts for _, pts, _ in found))}
        packets = tuple(Packet.of(data, rank[pts], key) for data, pts, key in found)
        return cls.of(packets, CODEC_NAMES[name], width, height, fps, extradata)


def nal_units(data: bytes) -> list[bytes]:
    """The NAL units of an H.264 or H.265 packet in Annex B form, each with its start code; joined they are the packet.

    With `max_slice_bytes` each coded slice is a unit of its own, which can be lost or received on its own.
    """
    starts: list[int] = []
    at = data.find(b"\x00\x00\x01")
    while at >= 0:
        starts.append(at - 1 if at > 0 and data[at - 1] == 0 else at)
        at = data.find(b"\x00\x00\x01", at + 3)
    if not starts:
        return [data] if data else []
    starts[0] = 0  # bytes before the first start code belong to nobody else
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def nal_type(unit: bytes, codec: str) -> int:
    """nal_unit_type of a unit as `nal_units` gives it: 1 slice, 5 IDR, 6 SEI, 7 SPS, 8 PPS (H.264); 32-34 VPS to PPS (H.265)."""
    header = unit[unit.find(b"\x00\x00\x01") + 3]
    return header & 0x1F if codec == "h264" else header >> 1 & 0x3F


def without_info(data: bytes, codec: str) -> bytes:
    """The packet without the encoder's note about itself (x264 writes some 700 bytes of its settings into each first packet)."""
    if codec != "h264":
        return data
    return b"".join(unit for unit in nal_units(data) if nal_type(unit, codec) != 6)
