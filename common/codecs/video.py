"""Encoding and decoding of frames with x264, x265 and libvpx-vp9, whole clips or frame by frame.

    frames RGB (N, H, W, 3) --BT.601, 4:2:0--> encoder --packets--> decoder --> frames RGB

Three ways to say how much quality, exactly one of which is given:

    qp            the same quantiser for every macroblock of every frame, whatever its type; what maps refer to (exact, see below)
    crf           the encoder's own constant-quality mode, with its adaptation over the picture
    bitrate_bps   the encoder's own rate control, held by a buffer of `buffer_s` seconds; fixed for the encoder's life (FFmpeg's
                  wrappers ignore later changes): a rate controller of your own gives `qp` with each frame instead

"qp=30" of x264's own interface would give key frames 27 and B-frames 32. Here `qp` is constant rate factor 30 with everything
that moves the quantiser switched off except the adaptive-quantisation module at a strength of 0.0001, without which x264
ignores regions. So a uniform map and a plain encoding of the same `qp` give the same bytes, and comparing them is fair.

Source: AccMPEG sheet section 8.2, points 2, 3, 10 and 11.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from common.codecs import colour
from common.codecs.maps import RegionTemplate, check_qp_map, grid_shape
from common.codecs.stream import FFMPEG_DECODERS, EncodedVideo, Packet, without_info
from common.errors import ConfigError, CorruptBitstream, ReproError

CODECS = tuple(FFMPEG_DECODERS)
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
QP_RANGES = {"h264": (1, 51), "h265": (1, 51), "vp9": (1, 63)}  # 0 is x264's lossless mode, another bitstream
SMALLEST_SIDE, LARGEST_SIDE = 16, 8192

_LIBRARIES = {"h264": "libx264", "h265": "libx265", "vp9": "libvpx-vp9"}
_LARGEST_CTU = 64
_EXACT = {
    "h264": {
        "aq-mode": "1",
        "aq-strength": "0.0001",
        "mbtree": "0",
        "qcomp": "1",
        "ipratio": "1",
        "pbratio": "1",
    },
    "h265": {
        "aq-mode": "1",
        "aq-strength": "0.0001",
        "cutree": "0",
        "qcomp": "1",
        "ipratio": "1",
        "pbratio": "1",
        "qg-size": "16",
    },
}
_VP9_SPEEDS = dict(zip(PRESETS, (8, 7, 6, 5, 4, 3, 2, 1, 0), strict=True))


@dataclasses.dataclass(frozen=True)
class EncoderSettings:
    """How to encode; the keyword arguments of `encode` and `Encoder`.

    Attributes:
        codec: "h264", "h265" or "vp9".
        qp: the same quantiser everywhere, 1..51 (H.264, H.265) or 1..63 (VP9, libvpx's own scale).
        crf: the encoder's constant-quality mode, same ranges; may be fractional for H.264 and H.265.
        bitrate_bps: target of the encoder's rate control.
        buffer_s: the rate control's buffer: within any span the encoder may be ahead of the target by that many seconds' bits.
        fps: frames per second; rate control and players use it.
        gop: frames from one key frame to the next; None: only the first frame is one.
        preset: x264's names; for VP9 they stand for libvpx's speeds 8 (ultrafast) to 0 (veryslow).
        low_delay: each frame's packet comes out with the frame (no lookahead, no B-frames).
        b_frames: consecutive B-frames, 0..16; needs low_delay=False; not for VP9.
        max_slice_bytes: H.264 only: start a new slice before one grows beyond this, so that a loss takes few macroblocks.
        params: further parameters of x264 or x265 under the library's names, or options of libvpx; they win over ours.

    Raises:
        ConfigError: a value outside the above, or not exactly one of qp, crf and bitrate_bps.
    """

    codec: str = "h264"
    qp: int | None = None
    crf: float | None = None
    bitrate_bps: float | None = None
    buffer_s: float = 1.0
    fps: float = 30.0
    gop: int | None = None
    preset: str = "veryfast"
    low_delay: bool = True
    b_frames: int = 0
    max_slice_bytes: int | None = None
    params: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ConfigError(f"codec={self.codec!r} is not a codec. Choose one of {', '.join(CODECS)}.")
        if self.preset not in PRESETS:
            raise ConfigError(f"preset={self.preset!r} is not a preset. Choose one of {', '.join(PRESETS)}.")
        given = [name for name in ("qp", "crf", "bitrate_bps") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(f"give exactly one of qp, crf and bitrate_bps; got {', '.join(given) or 'none'}.")
        low, high = QP_RANGES[self.codec]
        if self.qp is not None and (isinstance(self.qp, bool) or int(self.qp) != self.qp or not low <= self.qp <= high):
            raise ConfigError(f"qp={self.qp}: quantisers of {self.codec} are whole numbers in [{low}, {high}].")
        if self.crf is not None and not low <= self.crf <= high:
            raise ConfigError(f"crf={self.crf} of {self.codec} must lie in [{low}, {high}].")
        if self.bitrate_bps is not None and not 1000 <= self.bitrate_bps <= 1e9:
            raise ConfigError(f"bitrate_bps={self.bitrate_bps} must lie in [1000, 1e9] bits per second.")
        if not 0 < self.buffer_s <= 60:
            raise ConfigError(f"buffer_s={self.buffer_s} must lie in (0, 60] seconds.")
        if not 0.1 <= self.fps <= 1000:
            raise ConfigError(f"fps={self.fps} must lie in [0.1, 1000] frames per second.")
        if self.gop is not None and (isinstance(self.gop, bool) or int(self.gop) != self.gop or self.gop < 1):
            raise ConfigError(
                f"gop={self.gop} must be a whole number of frames, at least 1, or None for one key frame only."
            )
        if not 0 <= self.b_frames <= 16 or (self.b_frames and (self.low_delay or self.codec == "vp9")):
            raise ConfigError(
                f"b_frames={self.b_frames}: 0 to 16, and above 0 only with low_delay=False and H.264 or H.265."
            )
        if self.max_slice_bytes is not None and (self.codec != "h264" or self.max_slice_bytes < 100):
            raise ConfigError(f"max_slice_bytes={self.max_slice_bytes}: at least 100, and H.264 only.")

    @property
    def rate(self) -> Fraction:
        return Fraction(self.fps).limit_denominator(1001)

    def library_options(self) -> dict[str, str]:
        """Options of FFmpeg's wrapper of the encoder library."""
        return self._vp9_options() if self.codec == "vp9" else self._h26x_options()

    def _h26x_options(self) -> dict[str, str]:
        h264 = self.codec == "h264"
        params = {"keyint": str(self.gop or "infinite" if h264 else self.gop or -1)}
        params |= {"min-keyint": str(self.gop or 1), "scenecut": "0", "bframes": str(self.b_frames)}
        if h264:
            params |= {"threads": "1"}
            if self.max_slice_bytes is not None:
                params |= {"slice-max-size": str(self.max_slice_bytes)}
        else:
            params |= {"log-level": "none", "pools": "none", "frame-threads": "1", "repeat-headers": "1", "info": "0"}
        options = {"preset": self.preset, "forced-idr": "1"}
        if self.low_delay:
            options["tune"] = "zerolatency"
        if self.qp is not None:
            options["crf"] = str(self.qp)
            params |= _EXACT[self.codec]
        elif self.crf is not None:
            options["crf"] = str(self.crf)
        elif self.bitrate_bps is not None:
            kbit = max(1, round(self.bitrate_bps / 1000))
            params |= {"vbv-maxrate": str(kbit), "vbv-bufsize": str(max(1, round(kbit * self.buffer_s)))}
        params |= dict(self.params)
        options["x264-params" if h264 else "x265-params"] = ":".join(f"{key}={value}" for key, value in params.items())
        return options

    def _vp9_options(self) -> dict[str, str]:
        speed = _VP9_SPEEDS[self.preset]
        options = {
            "deadline": "realtime" if self.low_delay else "good",
            "cpu-used": str(speed if self.low_delay else min(speed, 5)),
        }
        options |= {"auto-alt-ref": "0", "lag-in-frames": "0" if self.low_delay else "16", "row-mt": "0"}
        gop = self.gop or 1_000_000
        options |= {"g": str(gop), "keyint_min": str(self.gop or 0)}
        if self.qp is not None:
            options |= {"crf": str(self.qp), "b": "0", "qmin": str(self.qp), "qmax": str(self.qp), "aq-mode": "0"}
        elif self.crf is not None:
            options |= {"crf": str(round(self.crf)), "b": "0"}
        elif self.bitrate_bps is not None:
            rate = str(round(self.bitrate_bps))
            options |= {
                "maxrate": rate,
                "minrate": rate,
                "bufsize": str(max(1, round(self.bitrate_bps * self.buffer_s))),
            }
        return options | dict(self.params)


class Encoder:
    """Encodes frame by frame.

    With `low_delay` (the default) each call returns the packet of the frame just given; otherwise packets come later, the last
    ones from `flush`. Two encoders never share state; with equal settings and frames they give equal bytes.

    Args:
        width, height: of the pictures, 16..8192; odd sizes are coded with one replicated column or row more.
        settings: see `EncoderSettings`.

    Raises:
        ConfigError: a size or setting that is not possible.
    """

    def __init__(self, width: int, height: int, **settings: Any) -> None:
        import av

        check_size(height, width)
        self.settings = EncoderSettings(**settings)
        self.width, self.height = int(width), int(height)
        self._coded_width, self._coded_height = self.width + self.width % 2, self.height + self.height % 2
        context: Any = av.CodecContext.create(_LIBRARIES[self.settings.codec], "w")
        context.width, context.height, context.pix_fmt = self._coded_width, self._coded_height, "yuv420p"
        context.time_base, context.framerate = 1 / self.settings.rate, self.settings.rate
        context.thread_count = 1  # more threads give other bytes
        if self.settings.bitrate_bps is not None:
            context.bit_rate = round(self.settings.bitrate_bps)
        context.options = self._library_settings().library_options()
        try:
            context.open()
        except av.error.FFmpegError as error:
            raise ConfigError(
                f"{_LIBRARIES[self.settings.codec]} refuses {self.width}x{self.height} with {context.options}: {error.strerror}."
            ) from error
        self._context = context
        self._template: RegionTemplate | None = None
        self._count = 0
        self._finished = False

    def _library_settings(self) -> EncoderSettings:
        """Our settings, with several coding units a row, else x265's P-frames differ from run to run (16 pixels still do)."""
        if self.settings.codec != "h265" or self._coded_width > _LARGEST_CTU or "ctu" in self.settings.params:
            return self.settings
        # x265 takes its default for any picture, but refuses a unit of 32 that is named and higher than the picture.
        side = "32" if self._coded_width > 32 and self._coded_height >= 32 else "16"
        return dataclasses.replace(self.settings, params={**self.settings.params, "ctu": side})

    def encode(
        self, frame: np.ndarray, *, qp: int | None = None, qp_map: Any = None, keyframe: bool = False
    ) -> tuple[Packet, ...]:
        """Encode the next frame.

        Args:
            frame: (H, W, 3) uint8 RGB.
            qp: quantiser of this frame alone; H.264 and H.265 encoders made with `qp` only.
            qp_map: (rows, cols) quantisers of its macroblocks; the same encoders only. The map holds for this frame alone.
            keyframe: make it a key frame whatever its place.

        Returns:
            The packets that are ready; in low delay exactly one.

        Raises:
            ConfigError: another size or type, a quantiser out of range or where none can be given, or a finished encoder.
        """
        if self._finished:
            raise ConfigError("this encoder was flushed; make a new one for more frames.")
        check_frames(frame[None] if isinstance(frame, np.ndarray) and frame.ndim == 3 else frame, single=True)
        if frame.shape[:2] != (self.height, self.width):
            raise ConfigError(
                f"frame of {frame.shape[1]}x{frame.shape[0]} for an encoder of {self.width}x{self.height}; resize it first."
            )
        picture = self._picture(qp, qp_map)
        colour.fill_picture(picture, frame)
        return self._encode_picture(picture, keyframe)

    def _picture(self, qp: int | None, qp_map: Any) -> Any:
        import av

        base = self.settings.qp
        if qp is None and qp_map is None and self._template is None:
            return av.VideoFrame(self._coded_width, self._coded_height, "yuv420p")
        codec = self.settings.codec
        if base is None or codec not in _EXACT:
            raise ConfigError(
                f"qp or qp_map for one frame needs an H.264 or H.265 encoder made with qp=...; this one is {codec} "
                f"with {'qp' if base is not None else 'another rate control'}."
            )
        if qp is not None and qp_map is not None:
            raise ConfigError("give qp or qp_map for a frame, not both.")
        rows, cols = grid_shape(self.height, self.width)
        wanted = np.full((rows, cols), base if qp is None else qp) if qp_map is None else qp_map
        checked = check_qp_map(wanted, None, self.height, self.width, *QP_RANGES[codec])[0]
        if self._template is None:
            check_regions(codec)
            self._template = RegionTemplate(self._coded_width, self._coded_height)
        self._template.set_map(checked, base)
        return self._template.frame

    def _encode_picture(self, picture: Any, keyframe: bool) -> tuple[Packet, ...]:
        from av.video.frame import PictureType

        picture.pts, picture.time_base = self._count, 1 / self.settings.rate
        picture.pict_type = PictureType.I if keyframe else PictureType.NONE  # the template keeps the last frame's
        self._count += 1
        return self._packets(self._context.encode(picture))

    def _packets(self, packets: Iterable[Any]) -> tuple[Packet, ...]:
        return tuple(
            Packet.of(without_info(bytes(packet), self.settings.codec), int(packet.pts), bool(packet.is_keyframe))
            for packet in packets
        )

    def flush(self) -> tuple[Packet, ...]:
        """The packets still inside; afterwards the encoder takes no more frames."""
        if self._finished:
            return ()
        self._finished = True
        return self._packets(self._context.encode(None))


@dataclasses.dataclass(frozen=True)
class DecodedFrame:
    """One decoded picture.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        pts: index of the frame, as in its packet.
        is_damaged: the decoder says that parts are missing and were concealed. Frames that refer to such a frame are not marked.
        qp_map: (rows, cols) int16, where asked for.
        motion: see `motion_vectors`, where asked for.
    """

    image: np.ndarray
    pts: int
    is_damaged: bool = False
    qp_map: np.ndarray | None = None
    motion: np.ndarray | None = None


class Decoder:
    """Decodes packet by packet.

    Args:
        codec: "h264", "h265" or "vp9".
        width, height: of the pictures; another size in the stream counts as damage.
        extradata: parameter sets, if the packets do not hold them.
        conceal: go on after damage as far as FFmpeg's error concealment goes, instead of raising.
        export: "pixels", "qp" (maps instead of pixels) or "motion" (vectors instead of pixels).
    """

    def __init__(
        self,
        codec: str,
        width: int,
        height: int,
        *,
        extradata: bytes = b"",
        conceal: bool = False,
        export: str = "pixels",
    ) -> None:
        import av

        if codec not in CODECS:
            raise ConfigError(f"codec={codec!r} is not a codec. Choose one of {', '.join(CODECS)}.")
        check_size(height, width)
        self.codec, self.width, self.height, self.conceal = codec, width, height, conceal
        self._export = export
        context: Any = av.CodecContext.create(FFMPEG_DECODERS[codec], "r")
        context.thread_count = 1  # several threads hold frames back
        # A damaged header may announce an enormous picture: do not let the decoder allocate it.
        options = {"max_pixels": str(4 * (width + 64) * (height + 64))}
        if conceal:
            options["flags"] = "+output_corrupt"
        else:
            options["err_detect"] = "crccheck+bitstream+buffer+explode"
        if export == "qp":
            options["export_side_data"] = "venc_params"
        elif export == "motion":
            options["flags2"] = "+export_mvs"
        context.options = options
        if extradata:
            context.extradata = extradata
        self._context = context

    @classmethod
    def for_encoder(cls, encoder: Encoder, *, conceal: bool = False) -> "Decoder":
        """The decoder of an encoder's packets."""
        return cls(encoder.settings.codec, encoder.width, encoder.height, conceal=conceal)

    def decode(self, packet: Packet) -> tuple[DecodedFrame, ...]:
        """The frames that this packet completes: one in low delay; none, or several, with B-frames.

        Raises:
            CorruptBitstream: the packet is damaged, or depends on one that was not given (not with `conceal`).
        """
        import av

        if not self.conceal:
            packet.check()
        if not packet.data:  # to FFmpeg an empty packet means the end of the stream
            if self.conceal:
                return ()
            raise CorruptBitstream(f"packet of frame {packet.pts}: no bytes.")
        coded = av.Packet(packet.data)
        coded.pts = packet.pts
        return self._decode(coded, f"packet of frame {packet.pts}, {len(packet.data)} bytes")

    def flush(self) -> tuple[DecodedFrame, ...]:
        """The frames still inside; afterwards the decoder takes no more packets."""
        return self._decode(None, "end of the stream")

    def _decode(self, coded: Any, what: str) -> tuple[DecodedFrame, ...]:
        import av

        try:
            pictures = self._context.decode(coded)
        except EOFError:
            return ()
        except av.error.FFmpegError as error:
            if self.conceal:
                return ()
            raise CorruptBitstream(
                f"{what}: {self.codec} decoder says {error.strerror!r}. It was damaged, cut, or needs a packet that is missing."
            ) from error
        found = []
        sizes = ((self.width + self.width % 2, self.height + self.height % 2), (self.width, self.height))
        for picture in pictures:
            problem = ""
            if (picture.width, picture.height) not in sizes:
                problem = f"a picture of {picture.width}x{picture.height} in a {self.width}x{self.height} video"
            elif picture.is_corrupt and not self.conceal:
                problem = f"the decoder had to guess parts of frame {picture.pts}"
            if problem and not self.conceal:
                raise CorruptBitstream(f"{what}: {problem}.")
            if not problem:
                found.append(self._frame(picture))
        return tuple(found)

    def _frame(self, picture: Any) -> DecodedFrame:
        pts, damaged = int(picture.pts), bool(picture.is_corrupt)
        if self._export == "pixels":
            return DecodedFrame(colour.read_picture(picture, self.height, self.width), pts, damaged)
        nothing = np.zeros((0, 0, 3), np.uint8)
        for entry in picture.side_data:
            if self._export == "qp" and entry.type.name == "VIDEO_ENC_PARAMS":
                return DecodedFrame(nothing, pts, damaged, qp_map=np.asarray(entry.qp_map()).astype(np.int16))
            if self._export == "motion" and entry.type.name == "MOTION_VECTORS":
                return DecodedFrame(nothing, pts, damaged, motion=_motion(entry.to_ndarray()))
        return DecodedFrame(
            nothing, pts, damaged, motion=np.zeros(0, MOTION_DTYPE) if self._export == "motion" else None
        )


@dataclasses.dataclass(frozen=True)
class DecodedVideo:
    """What could be decoded of a clip.

    Attributes:
        frames: (M, H, W, 3) uint8, in display order.
        pts: (M,) int64, the frames' indices in the clip.
        is_damaged: (M,) bool, see `DecodedFrame`.
        problem: why there is nothing more, or None.
    """

    frames: np.ndarray
    pts: np.ndarray
    is_damaged: np.ndarray
    problem: str | None = None


def encode(frames: np.ndarray, codec: str = "h264", **settings: Any) -> EncodedVideo:
    """Encode a clip.

    Args:
        frames: (N, H, W, 3) uint8 RGB, N >= 1.
        codec: "h264", "h265" or "vp9".
        settings: see `EncoderSettings`; one of qp, crf and bitrate_bps is needed.

    Raises:
        ConfigError: frames or settings that cannot be encoded.
    """
    check_frames(frames)
    encoder = Encoder(frames.shape[2], frames.shape[1], codec=codec, **settings)
    packets = [packet for frame in frames for packet in encoder.encode(frame)]
    packets += encoder.flush()
    return EncodedVideo.of(packets, codec, encoder.width, encoder.height, encoder.settings.fps)


def encode_with_qp_map(frames: np.ndarray, qp_map: Any, codec: str = "h264", **settings: Any) -> EncodedVideo:
    """Encode a clip with a quantiser for each macroblock, in the bitstream that any decoder reads.

    Values may be any mixture of levels. Where a macroblock's quantiser differs by exactly 1 from the one before it, x264 uses the
    latter: choose levels at least 2 apart for an exact map. A constant map gives the same bytes as `encode(qp=...)`.

    Args:
        frames: (N, H, W, 3) uint8 RGB.
        qp_map: (rows, cols) or (1, rows, cols) for all frames, or (N, rows, cols); whole numbers in 1..51; see `grid_shape`.
        codec: "h264", or "h265" (where x265 follows the map but no decoder reports it).
        settings: see `EncoderSettings`, without qp, crf and bitrate_bps.

    Raises:
        ConfigError: a map of the wrong shape or values, another codec, or settings that cannot be used.
        ReproError: this build of FFmpeg ignores regions.
    """
    check_frames(frames)
    if codec not in _EXACT:
        raise ConfigError(f"codec={codec!r}: quantiser maps need {' or '.join(_EXACT)}.")
    for name in ("qp", "crf", "bitrate_bps"):
        if settings.get(name) is not None:
            raise ConfigError(f"{name} cannot be given with a qp_map; the map says the quality everywhere.")
    maps = check_qp_map(qp_map, len(frames), frames.shape[1], frames.shape[2], *QP_RANGES[codec])
    values, counts = np.unique(maps, return_counts=True)
    base = int(values[counts.argmax()])  # regions cost a little, so the most frequent level needs none
    encoder = Encoder(frames.shape[2], frames.shape[1], codec=codec, **(settings | {"qp": base}))
    packets: list[Packet] = []
    for index, frame in enumerate(frames):
        packets += encoder.encode(frame, qp_map=maps[index if len(maps) > 1 else 0])
    packets += encoder.flush()
    return EncodedVideo.of(packets, codec, encoder.width, encoder.height, encoder.settings.fps)


def decode(encoded: EncodedVideo) -> np.ndarray:
    """Decode a clip, or a prefix of one: (N, H, W, 3) uint8 RGB in display order, a frame for each packet.

    Raises:
        CorruptBitstream: a packet is damaged or depends on one that is missing; see `decode_available` for what is left.
    """
    decoded = _decode_all(encoded, conceal=False)
    if decoded.problem is not None:
        raise CorruptBitstream(decoded.problem)
    return decoded.frames


def decode_available(encoded: EncodedVideo, conceal: bool = False) -> DecodedVideo:
    """Decode as much as possible of a damaged or incomplete clip. Never raises for what is in the packets.

    Args:
        encoded: packets may be missing (`EncodedVideo.without`), cut or damaged.
        conceal: False: everything before the first damage. True: go on after it, with FFmpeg's error concealment (missing
            parts of H.264 pictures are guessed from the last frame) and with the errors that spread until the next key frame.
    """
    return _decode_all(encoded, conceal)


def _decode_all(encoded: EncodedVideo, conceal: bool) -> DecodedVideo:
    decoder = Decoder(encoded.codec, encoded.width, encoded.height, extradata=encoded.extradata, conceal=conceal)
    found: list[DecodedFrame] = []
    problem: str | None = None if encoded.packets else "no packets: there is nothing to decode."
    gap = _first_gap(encoded) if not conceal else None
    try:
        for packet in encoded.packets:
            if gap is not None and packet.pts > gap and not packet.is_keyframe:
                raise CorruptBitstream(f"frame {packet.pts} may depend on frame {gap}, whose packet is missing.")
            gap = None if packet.is_keyframe and gap is not None and packet.pts > gap else gap
            if not conceal:
                packet.check(encoded.checksums.get(packet.pts))
            found += decoder.decode(packet)
        found += decoder.flush()
    except CorruptBitstream as error:
        problem = str(error)
    found.sort(key=lambda frame: frame.pts)
    missing = {packet.pts for packet in encoded.packets} - {frame.pts for frame in found}
    if problem is None and missing:
        problem = f"{len(missing)} of {encoded.num_frames} frames did not come out of the decoder, the first is {min(missing)}."
    images = [frame.image for frame in found]
    return DecodedVideo(
        np.stack(images) if images else np.zeros((0, encoded.height, encoded.width, 3), np.uint8),
        np.array([frame.pts for frame in found], np.int64),
        np.array([frame.is_damaged for frame in found], bool),
        problem,
    )


def _first_gap(encoded: EncodedVideo) -> int | None:
    """The first frame that has no packet although later ones do: H.264 and VP9 decoders often do not notice.

    With B-frames, packets of a sound beginning leave gaps in display order as well; there the decoder must find out.
    """
    present = [packet.pts for packet in encoded.packets]
    if present != sorted(present):
        return None
    known = set(present)
    return next((pts for pts in range(max(present, default=-1)) if pts not in known), None)


def read_qp_map(encoded: EncodedVideo) -> np.ndarray:
    """The quantisers that an H.264 decoder finds in the bitstream: (N, rows, cols) int16, in display order.

    A skipped macroblock of a P- or B-frame carries no quantiser; the decoder reports that of the macroblock before it.

    Raises:
        ConfigError: another codec than H.264: FFmpeg's H.265 decoder does not report quantisers.
        CorruptBitstream: see `decode`.
    """
    if encoded.codec != "h264":
        raise ConfigError(f"quantisers can be read back from h264 only, not from {encoded.codec}.")
    maps = [frame.qp_map for frame in _export(encoded, "qp")]
    present = [found for found in maps if found is not None]
    if len(present) != len(maps) or not maps:
        raise CorruptBitstream(
            f"{len(present)} of {encoded.num_frames} frames report quantisers; decode the clip to see why."
        )
    return np.stack(present)


MOTION_DTYPE = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("width", "<f4"), ("height", "<f4"), ("dx", "<f4"), ("dy", "<f4"), ("source", "<i4")]
)
"""Fields of a motion vector; see `motion_vectors`."""


def motion_vectors(encoded: EncodedVideo) -> list[np.ndarray]:
    """The motion vectors in an H.264 bitstream.

    Returns:
        For each frame in display order an array of `MOTION_DTYPE`, empty for key frames. (x, y) is the centre of a block of
        `width` x `height` pixels; its prediction was taken from (x + dx, y + dy) in the reference frame, so that what is seen
        there moved by (-dx, -dy). `source` is negative for a reference in the past. Intra blocks have no vectors.

    Raises:
        ConfigError: another codec: FFmpeg exports no vectors of H.265 and VP9.
        CorruptBitstream: see `decode`.
    """
    if encoded.codec != "h264":
        raise ConfigError(f"motion vectors can be read from h264 only, not from {encoded.codec}.")
    return [np.zeros(0, MOTION_DTYPE) if frame.motion is None else frame.motion for frame in _export(encoded, "motion")]


def _motion(raw: np.ndarray) -> np.ndarray:
    vectors = np.zeros(len(raw), MOTION_DTYPE)
    scale = np.maximum(raw["motion_scale"].astype(np.float32), 1)
    vectors["x"], vectors["y"] = raw["dst_x"], raw["dst_y"]
    vectors["width"], vectors["height"] = raw["w"], raw["h"]
    vectors["dx"], vectors["dy"] = raw["motion_x"] / scale, raw["motion_y"] / scale
    vectors["source"] = raw["source"]
    return vectors


def _export(encoded: EncodedVideo, what: str) -> list[DecodedFrame]:
    decoder = Decoder(encoded.codec, encoded.width, encoded.height, extradata=encoded.extradata, export=what)
    found: list[DecodedFrame] = []
    for packet in encoded.packets:
        packet.check(encoded.checksums.get(packet.pts))
        found += decoder.decode(packet)
    found += decoder.flush()
    return sorted(found, key=lambda frame: frame.pts)


@functools.lru_cache(maxsize=4)
def check_regions(codec: str) -> None:
    """Encode one small noisy picture whose halves have quantisers 20 and 40, and look whether the encoder did so.

    Runs once per process before the first map: builds that ignore regions encode without a word.

    Raises:
        ReproError: the map had no effect.
    """
    # Grey: 4:2:0 alone would spoil coloured noise more than the quantiser does.
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 1), dtype=np.uint8).repeat(3, axis=2)
    qp_map = np.full((4, 4), 20)
    qp_map[:, 2:] = 40
    encoder = Encoder(64, 64, codec=codec, qp=30)
    template = RegionTemplate(64, 64)
    template.set_map(qp_map, 30)
    colour.fill_picture(template.frame, noise)
    packets = encoder._encode_picture(template.frame, keyframe=False) + encoder.flush()
    encoded = EncodedVideo.of(packets, codec, 64, 64)
    error = (decode(encoded)[0, ..., 1].astype(np.float64) - noise[..., 1]) ** 2
    ratio = error[:, 40:].mean() / error[:, :24].mean()
    if ratio < 4 or (codec == "h264" and not np.array_equal(read_qp_map(encoded)[0], qp_map)):
        raise ReproError(
            f"the {codec} encoder of this PyAV ignores quantiser maps (error in the halves differs {ratio:.1f}-fold only). "
            "Install PyAV's own wheel, 14 or newer."
        )


def check_frames(frames: Any, single: bool = False) -> None:
    """Raise `ConfigError` with what is wrong unless `frames` is (N, H, W, 3) uint8 with N >= 1 and sides of 16..8192."""
    wanted = "(H, W, 3)" if single else "(N, H, W, 3)"
    if not isinstance(frames, np.ndarray) or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) == 0:
        raise ConfigError(f"frames of {_shape(frames)}: give an array {wanted} of RGB pictures.")
    if frames.dtype != np.uint8:
        raise ConfigError(f"frames of type {frames.dtype}: give uint8, 0..255.")
    check_size(frames.shape[1], frames.shape[2])


def check_size(height: int, width: int) -> None:
    """Raise `ConfigError` unless both sides lie in 16..8192."""
    if not (SMALLEST_SIDE <= height <= LARGEST_SIDE and SMALLEST_SIDE <= width <= LARGEST_SIDE):
        raise ConfigError(
            f"pictures of {width}x{height}: both sides must lie in [{SMALLEST_SIDE}, {LARGEST_SIDE}] pixels."
        )


def _shape(value: Any) -> str:
    return f"shape {value.shape}" if isinstance(value, np.ndarray) else f"type {type(value).__name__}"
