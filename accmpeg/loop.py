"""The loop from camera over network to server: does the work, times each part, carries the packets in virtual time.

    compute / encode (clock)  ->  packets over a link of common.net (virtual time)  ->  decode / serve (clock)  ->  reply

`Profile` is the paper's own delay model with its constants, as an alternative to measured times.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from accmpeg.api import Frames, QpMap, Result
from common.errors import ConfigError
from common.net.link import DOWN, UP, Direction, Link, LinkSpec
from common.net.rate import ConstantRate, Rate

if TYPE_CHECKING:
    from common.codecs import EncodedVideo, Encoder

PAYLOAD_BYTES = 1200
HEADER_BYTES = 28  # IPv4 and UDP
_LONG_QUEUE = 10**6  # a chunk is handed over at once; the sender's own buffer is not a router that drops


@dataclasses.dataclass(frozen=True)
class LinkSettings:
    """The camera's uplink.

    Attributes:
        bandwidth_bps: of a constant link; ignored where `rate` is given.
        rtt_s: round-trip propagation delay.
        rate: how fast packets leave, e.g. a recorded trace.
    """

    bandwidth_bps: float = 100e3
    rtt_s: float = 0.1
    rate: Rate | None = None

    def __post_init__(self) -> None:
        if not self.bandwidth_bps > 0 or not self.rtt_s >= 0:
            raise ConfigError(
                f"bandwidth_bps={self.bandwidth_bps} must be > 0 and rtt_s={self.rtt_s} at least 0 (bit/s and s)."
            )

    def build(self) -> Link:
        """A fresh link in virtual time."""
        rate = ConstantRate(self.bandwidth_bps) if self.rate is None else self.rate
        one_way_s = self.rtt_s / 2
        return LinkSpec(
            down=Direction(rate=ConstantRate(100e6), delay_s=one_way_s, queue_packets=_LONG_QUEUE),
            up=Direction(rate=rate, delay_s=one_way_s, queue_packets=_LONG_QUEUE),
        ).build()


def transfer(link: Link, to_node: int, now_s: float, num_bytes: int) -> float:
    """Send bytes as packets of at most 1200 bytes and their headers: when the last one arrives (s)."""
    arrival_s = now_s
    for start in range(0, max(num_bytes, 1), PAYLOAD_BYTES):
        size = min(PAYLOAD_BYTES, max(num_bytes, 1) - start)
        reached = link.transmit(to_node, now_s, size + HEADER_BYTES)
        assert reached is not None, "this link neither drops nor loses"
        arrival_s = max(arrival_s, reached)
    return arrival_s


def encode_chunk(
    frames: Frames,
    qp: int | QpMap,
    *,
    codec: str = "h264",
    fps: float = 30.0,
    preset: str = "veryfast",
    options: Mapping[str, Any] | None = None,
) -> "EncodedVideo":
    """Encode frames as one GOP, with the same exact-quantiser settings for every method.

    Args:
        frames: (N, H, W, 3), uint8 RGB.
        qp: one quantiser, or a map (R, C), or one map per frame (N, R, C).
        options: settings of `common.codecs.encode` that replace `qp`, e.g. {"crf": 30}.
    """
    from common.codecs import encode, encode_with_qp_map

    settings: dict[str, Any] = {"codec": codec, "fps": fps, "preset": preset, "gop": len(frames)}
    if options:
        return encode(frames, **(settings | dict(options)))
    if np.ndim(qp) == 0:
        return encode(frames, qp=int(qp), **settings)
    return encode_with_qp_map(frames, qp, **settings)


class Encoders:
    """A camera's encoders, which live on from chunk to chunk as real ones do: opening one is not part of a chunk's cost.

    The bytes are those of `encode_chunk`, but for maps whose most frequent quantiser is not that of the first map.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[Any, ...], Encoder] = {}

    def encode(
        self,
        frames: Frames,
        qp: int | QpMap,
        *,
        codec: str,
        fps: float,
        preset: str,
        options: Mapping[str, Any] | None = None,
    ) -> "EncodedVideo":
        """See `encode_chunk`. VP9, and encoders with options of their own, are opened anew each time."""
        from common.codecs import EncodedVideo, Encoder

        if options or codec == "vp9":
            return encode_chunk(frames, qp, codec=codec, fps=fps, preset=preset, options=options)
        maps = np.asarray(qp)
        height, width = frames.shape[1:3]
        key = (codec, width, height, fps, preset, "map" if maps.ndim else int(maps))
        if key not in self._open:
            values, counts = np.unique(maps, return_counts=True)
            base = int(values[counts.argmax()])
            self._open[key] = Encoder(width, height, codec=codec, qp=base, fps=fps, preset=preset)
        encoder = self._open[key]
        packets = []
        for index, frame in enumerate(frames):
            qp_map = None if maps.ndim == 0 else maps if maps.ndim == 2 else maps[index if len(maps) > 1 else 0]
            coded = encoder.encode(frame, qp_map=qp_map, keyframe=index == 0)
            packets += [dataclasses.replace(packet, pts=index) for packet in coded]
        return EncodedVideo(tuple(packets), codec, width, height, fps)


@dataclasses.dataclass
class Ledger:
    """What one chunk cost.

    Attributes:
        seconds: by part: "encode", "accmodel", ..., "decode" (clock) and "network" (virtual time).
        num_bytes: of all packets sent.
        num_uploads: encodes that were sent.
        high_share: share of macroblocks below the map's largest quantiser, averaged over uploads; 0 for uniform ones.
    """

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    num_bytes: int = 0
    num_uploads: int = 0
    high_share: float = 0.0

    def add(self, part: str, seconds: float) -> None:
        """Add time to a part."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    @property
    def delay_s(self) -> float:
        """Sum of all parts: from the chunk's last captured frame to the DNN's result, without the DNN's own time."""
        return sum(self.seconds.values())


class MeteredLoop:
    """A `Loop` for one chunk. See `accmpeg.api.Loop` for what a policy calls.

    Args:
        link: carries this chunk; fresh for each chunk in the paper's model, or shared along a clip.
        fps: of the video.
        clock: reads seconds; CPU seconds, where other work on the machine should not count.
        preset: of the encoders.
        start_s: virtual time at which the chunk is complete on the camera.
        result_bytes: size of the DNN's result, which goes back.
        encoders: of the camera, shared by the loops of a clip.

    Attributes:
        ledger: what it cost so far.
        uploads: what was sent, and the quantisers asked for, in order.
    """

    def __init__(
        self,
        link: Link,
        fps: float,
        clock: Callable[[], float],
        *,
        preset: str = "veryfast",
        start_s: float = 0.0,
        result_bytes: int = 100,
        encoders: Encoders | None = None,
    ) -> None:
        self._link, self._fps, self._clock, self._preset = link, fps, clock, preset
        self._now_s = start_s
        self._start_s = start_s
        self._result_bytes = result_bytes
        self._encoders = Encoders() if encoders is None else encoders
        self.ledger = Ledger()
        self.uploads: list[tuple[EncodedVideo, int | QpMap]] = []

    def _timed(self, part: str, run: Callable[[], Result]) -> Result:
        begin_s = self._clock()
        result = run()
        seconds = self._clock() - begin_s
        self.ledger.add(part, seconds)
        self._now_s += seconds
        return result

    def compute(self, part: str, run: Callable[[], Result]) -> Result:
        """See `Loop.compute`."""
        return self._timed(part, run)

    def serve(self, part: str, run: Callable[[], Result]) -> Result:
        """See `Loop.serve`."""
        return self._timed(part, run)

    def upload(
        self,
        frames: Frames,
        qp: int | QpMap,
        *,
        codec: str = "h264",
        part: str = "encode",
        preset: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Frames:
        """See `Loop.upload`."""
        from common.codecs import decode

        encoded = self._timed(
            part,
            lambda: self._encoders.encode(
                frames, qp, codec=codec, fps=self._fps, preset=preset or self._preset, options=options
            ),
        )
        arrival_s = transfer(self._link, UP, self._now_s, encoded.num_bytes)
        self.ledger.add("network", arrival_s - self._now_s)
        self._now_s = arrival_s
        received = self._timed("decode", lambda: decode(encoded))
        self.uploads.append((encoded, qp))
        ledger = self.ledger
        ledger.num_bytes += encoded.num_bytes
        share = 0.0 if np.ndim(qp) == 0 else float(np.mean(np.asarray(qp) < np.max(qp)))
        ledger.high_share = (ledger.high_share * ledger.num_uploads + share) / (ledger.num_uploads + 1)
        ledger.num_uploads += 1
        return received

    def reply(self, num_bytes: int) -> None:
        """See `Loop.reply`."""
        arrival_s = transfer(self._link, DOWN, self._now_s, num_bytes)
        self.ledger.add("network", arrival_s - self._now_s)
        self._now_s = arrival_s

    def finish(self) -> Ledger:
        """Send the DNN's result back; returns the ledger."""
        self.reply(self._result_bytes)
        return self.ledger


@dataclasses.dataclass(frozen=True)
class Profile:
    """The delay model of the paper's plotting script: constants per chunk of ten 720p frames.

        delay = encode + compute on the camera + RTT + 8 * chunk bytes / bandwidth + extra rounds

    Attributes:
        encode_s: one pass of H.264 on a Xeon; reducto_encode_s: of the frames that Reducto keeps.
        accmodel_s, camera_detector_s, frame_features_s: AccModel; Vigil's detector; Reducto's features.
        rtt_s, bandwidth_bps: of the uplink.
    """

    encode_s: float = 0.131
    reducto_encode_s: float = 0.0435
    accmodel_s: float = 0.08
    camera_detector_s: float = 0.17
    frame_features_s: float = 0.247
    rtt_s: float = 0.1
    bandwidth_bps: float = 0.5e6

    def parts(self, ledger: Ledger, extra_rtts: int = 0) -> dict[str, float]:
        """The named parts of a chunk's delay in this model.

        Args:
            ledger: of the chunk as it really went: its bytes, its uploads, which parts it had.
            extra_rtts: round trips beyond the first (DDS 2, EAAR 1 in the script).
        """
        did = ledger.seconds
        one_pass_s = self.reducto_encode_s if "frame_features" in did else self.encode_s
        found = {
            "encode": one_pass_s * ledger.num_uploads,
            "accmodel": self.accmodel_s if "accmodel" in did else 0.0,
            "camera_detector": self.camera_detector_s if "camera_detector" in did else 0.0,
            "frame_features": self.frame_features_s if "frame_features" in did else 0.0,
            "rtt": self.rtt_s * (1 + extra_rtts),
            "network": 8 * ledger.num_bytes / self.bandwidth_bps,
        }
        return {name: seconds for name, seconds in found.items() if seconds}


PAPER_PROFILE = Profile()
