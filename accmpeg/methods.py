"""AccMPEG and its baselines, under the names of the paper's legends.

Each is a frozen dataclass whose fields are its knobs; `POINTS` are the knob settings that trace its curve, six for each method.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from accmpeg import assignment, frame_filter
from accmpeg.accgrad import Target, check_target
from accmpeg.api import METHODS, Chunk, Delivery, Frames, Loop, QpMap, Session, Site
from common.errors import ConfigError

Points = tuple[Mapping[str, Any], ...]


def _check_qp(highest: int = 51, **qps: int) -> None:
    for name, qp in qps.items():
        if not 1 <= qp <= highest:
            raise ConfigError(f"{name}={qp} is not a quantiser; choose one in 1..{highest}.")


def _check_share(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"{name}={share} must be between 0 and 1.")


@dataclasses.dataclass(frozen=True)
class MapSession:
    """A policy that is one function, at work: one map per chunk from its first frame."""

    policy: Any
    site: Site

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """See `Session.deliver`."""
        asked = loop.compute("policy", lambda: self.policy.qp_map(chunk.frames[0]))
        qp_map = np.asarray(asked)
        if qp_map.shape != self.site.grid or qp_map.dtype != np.uint8:
            raise ConfigError(
                f"{type(self.policy).__name__}.qp_map returned {qp_map.dtype} of shape {qp_map.shape}; "
                f"must be uint8 of shape {self.site.grid}, a quantiser per macroblock."
            )
        return Delivery.every(loop.upload(chunk.frames, qp_map))


def open_session(policy: Any, site: Site) -> Session:
    """Start any registered method on a clip, whichever kind it is.

    Raises:
        ConfigError: it has neither `open` nor `qp_map`.
    """
    if hasattr(policy, "open"):
        session: Session = policy.open(site)
        return session
    if not hasattr(policy, "qp_map"):
        raise ConfigError(f"{type(policy).__name__} is no quality policy: give it qp_map(frame) or open(site).")
    return MapSession(policy, site)


# --------------------------------------------------------------------------------------------------------- AccMPEG


@METHODS.add("accmpeg", label="AccMPEG", color="#D55E00", marker="o")
@dataclasses.dataclass(frozen=True)
class AccMpeg:
    """AccModel on one frame of each chunk, threshold, dilation, two qualities: the paper's system.

    Attributes:
        alpha: a macroblock gets high quality where AccModel's probability exceeds it (0.2 in the official code, whose AccModel
            and threshold of positives are others).
        qp_hi, qp_lo: the two quantisers.
        sample: frames of a chunk that AccModel sees: "first" (the paper), "ends" (the official code) or "all", averaged.
        dilation: box in macroblocks, odd; 1 is none.
        is_cleaned: opening and closing of the map; off by default, since objects of one block vanish in it.
        padding: at the frame's border when cleaning; "zero" is the official code's.
        target: which accuracy gradient AccModel was trained on, "paper" or "official".
        weights: file of AccModel weights; empty for the ones bundled for the site's DNN.
        codec: "h264" or "h265".
    """

    alpha: float = 0.5
    qp_hi: int = 30
    qp_lo: int = 40
    sample: assignment.Sample = "first"
    dilation: int = 1
    is_cleaned: bool = False
    padding: assignment.Padding = "replicate"
    target: Target = "paper"
    weights: str = ""
    codec: Literal["h264", "h265"] = "h264"

    # The shares and qualities of the oracle `accgrad`: p exceeds these in 10, 20, 10, 30, 20 and 50 % of the macroblocks of
    # AccModel's held-out training images.
    POINTS: ClassVar[Points] = (
        {"alpha": 0.715, "qp_lo": 44},
        {"alpha": 0.553, "qp_lo": 44},
        {"alpha": 0.715, "qp_lo": 40},
        {"alpha": 0.383, "qp_lo": 40},
        {"alpha": 0.553, "qp_lo": 36},
        {"alpha": 0.092, "qp_lo": 36},
    )

    def __post_init__(self) -> None:
        assignment.check_qps((self.qp_hi, self.qp_lo))
        _check_share(alpha=self.alpha)
        check_target(self.target)
        assignment.sampled_frames(1, self.sample)
        assignment.dilate(np.zeros((1, 1), dtype=bool), self.dilation)
        if self.padding not in ("replicate", "zero"):
            raise ConfigError(f"padding={self.padding!r} must be replicate or zero.")
        if self.codec not in ("h264", "h265"):
            raise ConfigError(f"codec={self.codec!r} takes no maps; choose h264 or h265.")

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return AccMpegSession(self, site.camera.acc_model(self.target, self.weights))

    def quality_map(self, p_RC: npt.NDArray[np.floating]) -> QpMap:
        """From AccModel's probabilities to quantisers."""
        mask = assignment.select(
            p_RC, self.alpha, dilation=self.dilation, is_cleaned=self.is_cleaned, padding=self.padding
        )
        return assignment.two_levels(mask, self.qp_hi, self.qp_lo)


@dataclasses.dataclass(frozen=True)
class AccMpegSession:
    """AccMPEG on one clip."""

    policy: AccMpeg
    model: Any

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """See `Session.deliver`."""
        policy = self.policy
        sampled = assignment.sampled_frames(len(chunk.frames), policy.sample)
        p_RC = loop.compute("accmodel", lambda: self.model.probabilities(chunk.frames[sampled]).mean(0))
        qp_map = loop.compute("assignment", lambda: policy.quality_map(p_RC))
        return Delivery.every(loop.upload(chunk.frames, qp_map, codec=policy.codec))


@METHODS.add("accmpeg_levels", label="AccMPEG, 4 levels (ours)", color="#CC79A7", marker="D")
@dataclasses.dataclass(frozen=True)
class AccMpegLevels:
    """AccMPEG with more than two qualities: a falling threshold for each.

    Attributes:
        alphas: falling thresholds, one fewer than there are quantisers.
        qps: rising quantisers.
        target, weights: see `accmpeg`.
    """

    alphas: tuple[float, ...] = (0.5, 0.3, 0.1)
    qps: tuple[int, ...] = (30, 34, 38, 44)
    target: Target = "paper"
    weights: str = ""

    POINTS: ClassVar[Points] = (
        {"alphas": (0.8, 0.6, 0.4), "qps": (32, 36, 40, 46)},
        {"alphas": (0.7, 0.5, 0.3), "qps": (30, 36, 40, 44)},
        {"alphas": (0.6, 0.4, 0.2), "qps": (30, 34, 38, 44)},
        {"alphas": (0.5, 0.3, 0.1), "qps": (30, 34, 38, 42)},
        {"alphas": (0.3, 0.2, 0.1), "qps": (30, 34, 38, 42)},
        {"alphas": (0.2, 0.1, 0.05), "qps": (30, 32, 36, 40)},
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "alphas", tuple(self.alphas))
        object.__setattr__(self, "qps", tuple(self.qps))
        check_target(self.target)
        assignment.levels(np.zeros((1, 1)), self.alphas, self.qps)

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return LevelsSession(self, site.camera.acc_model(self.target, self.weights))


@dataclasses.dataclass(frozen=True)
class LevelsSession:
    """AccMPEG with levels on one clip."""

    policy: AccMpegLevels
    model: Any

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """See `Session.deliver`."""
        p_RC = loop.compute("accmodel", lambda: self.model.probabilities(chunk.frames[:1])[0])
        qp_map = loop.compute("assignment", lambda: assignment.levels(p_RC, self.policy.alphas, self.policy.qps))
        return Delivery.every(loop.upload(chunk.frames, qp_map))


@METHODS.add("accmpeg_h265", label="AccMPEG on H.265", color="#7570B3", marker="d")
@dataclasses.dataclass(frozen=True)
class AccMpegH265(AccMpeg):
    """AccMPEG with x265 as its encoder. Knobs as `accmpeg`."""

    codec: Literal["h264", "h265"] = "h265"


@METHODS.add("accmpeg_official", label="AccMPEG, official target", color="#F0A070", marker="<")
@dataclasses.dataclass(frozen=True)
class AccMpegOfficial(AccMpeg):
    """AccMPEG in the official code's variant: its training target, first and last frame sampled. Knobs as `accmpeg`."""

    sample: assignment.Sample = "ends"
    target: Target = "official"

    # The same shares of blocks, by this AccModel's own probabilities.
    POINTS: ClassVar[Points] = (
        {"alpha": 0.708, "qp_lo": 44},
        {"alpha": 0.514, "qp_lo": 44},
        {"alpha": 0.708, "qp_lo": 40},
        {"alpha": 0.329, "qp_lo": 40},
        {"alpha": 0.514, "qp_lo": 36},
        {"alpha": 0.078, "qp_lo": 36},
    )


# ------------------------------------------------------------------------------------------- one quality for all


@dataclasses.dataclass(frozen=True)
class UniformSession:
    """The same quality everywhere."""

    qp: int
    codec: str
    options: Mapping[str, Any] | None = None

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """See `Session.deliver`."""
        return Delivery.every(loop.upload(chunk.frames, self.qp, codec=self.codec, options=self.options))


@METHODS.add("awstream", label="AWStream (uniform H.264)", color="#7F7F7F", marker="s")
@dataclasses.dataclass(frozen=True)
class AwStream:
    """One quantiser for the whole frame, H.264: AWStream as the paper evaluates it ("MPEG").

    Attributes:
        qp: the quantiser of every macroblock of every frame.
    """

    # DEVIATION accmpeg-3: AWStream adapts the quantiser alone, as in the paper's artifact; resolution and frame rate stay.
    qp: int = 30

    POINTS: ClassVar[Points] = ({"qp": 44}, {"qp": 40}, {"qp": 37}, {"qp": 34}, {"qp": 32}, {"qp": 30})

    def __post_init__(self) -> None:
        _check_qp(qp=self.qp)

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return UniformSession(self.qp, "h264")


@METHODS.add("h264_crf", label="H.264, x264's own rate control", color="#A6761D", marker="P")
@dataclasses.dataclass(frozen=True)
class H264Crf:
    """x264 as it comes: constant rate factor, adaptive quantisation and macroblock tree on.

    Attributes:
        crf: the rate factor.
    """

    crf: int = 30

    POINTS: ClassVar[Points] = ({"crf": 44}, {"crf": 40}, {"crf": 37}, {"crf": 34}, {"crf": 31}, {"crf": 28})

    def __post_init__(self) -> None:
        _check_qp(crf=self.crf)

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return UniformSession(self.crf, "h264", {"crf": self.crf})


@METHODS.add("h265", label="H.265", color="#1B9E77", marker="v")
@dataclasses.dataclass(frozen=True)
class H265:
    """One quantiser for the whole frame, H.265 (x265).

    Attributes:
        qp: the quantiser.
    """

    qp: int = 30

    POINTS: ClassVar[Points] = ({"qp": 44}, {"qp": 40}, {"qp": 37}, {"qp": 34}, {"qp": 32}, {"qp": 29})

    def __post_init__(self) -> None:
        _check_qp(qp=self.qp)

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return UniformSession(self.qp, "h265")


@METHODS.add("vp9", label="VP9", color="#66A61E", marker="^")
@dataclasses.dataclass(frozen=True)
class Vp9:
    """One quality for the whole frame, VP9 (libvpx).

    Attributes:
        qp: libvpx's quantiser level, 1..63.
    """

    qp: int = 36

    POINTS: ClassVar[Points] = ({"qp": 60}, {"qp": 56}, {"qp": 51}, {"qp": 46}, {"qp": 40}, {"qp": 34})

    def __post_init__(self) -> None:
        _check_qp(63, qp=self.qp)

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return UniformSession(self.qp, "vp9")


# ------------------------------------------------------------------------------------- regions from server or camera

_REGION_BYTES = 10  # four 16-bit coordinates, class and score of a region in a reply


@METHODS.add("dds", label="DDS", color="#0072B2", marker="D")
@dataclasses.dataclass(frozen=True)
class Dds:
    """DDS: a low-quality pass, the server asks for regions that it is unsure of, a second pass with these at high quality.

    Attributes:
        qp_hi, qp_lo: quantisers of the regions and of everything else.
        objectness: proposals above it are candidates.
        max_area: candidates of at least this share of the frame are dropped.
        max_overlap: candidates whose IoU with a confident detection exceeds it are dropped.
        dilation: box in macroblocks by which regions grow.
    """

    qp_hi: int = 30
    qp_lo: int = 40
    objectness: float = 0.1
    max_area: float = 0.02
    max_overlap: float = 0.3
    dilation: int = 3

    POINTS: ClassVar[Points] = (
        {"qp_lo": 46, "objectness": 0.1},
        {"qp_lo": 44, "objectness": 0.1},
        {"qp_lo": 42, "objectness": 0.1},
        {"qp_lo": 40, "objectness": 0.1},
        {"qp_lo": 38, "objectness": 0.1},
        {"qp_lo": 36, "objectness": 0.05},
    )
    PAPER_EXTRA_RTTS: ClassVar[int] = 2

    def __post_init__(self) -> None:
        assignment.check_qps((self.qp_hi, self.qp_lo))
        _check_share(objectness=self.objectness, max_area=self.max_area, max_overlap=self.max_overlap)

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return DdsSession(self, site)

    def regions(self, dnn: Any, frames: Frames) -> list[npt.NDArray[np.float64]]:
        """Boxes that the server asks for, one (M, 4) array per frame."""
        from common.metrics.detection import iou_matrix

        asked = []
        area = frames.shape[1] * frames.shape[2]
        for proposals, sure in dnn.proposals(frames, self.objectness):
            sizes = (proposals[:, 2] - proposals[:, 0]) * (proposals[:, 3] - proposals[:, 1])
            is_asked = sizes < self.max_area * area
            if len(sure) and len(proposals):
                is_asked &= iou_matrix(proposals, sure).max(1) <= self.max_overlap
            asked.append(proposals[is_asked])
        return asked


@dataclasses.dataclass(frozen=True)
class DdsSession:
    """DDS on one clip."""

    policy: Dds
    site: Site

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """See `Session.deliver`."""
        policy = self.policy
        coarse = loop.upload(chunk.frames, policy.qp_lo)
        asked = loop.serve("proposals", lambda: policy.regions(self.site.dnn, coarse))
        loop.reply(_REGION_BYTES * sum(map(len, asked)))
        masks = [assignment.boxes_to_mask(boxes, self.site.grid, policy.dilation) for boxes in asked]
        masks = [mask if len(boxes) else np.zeros_like(mask) for mask, boxes in zip(masks, asked, strict=True)]
        if not any(mask.any() for mask in masks):
            return Delivery.every(coarse)  # nothing asked for: the first pass stands
        maps = np.stack([assignment.two_levels(mask, policy.qp_hi, policy.qp_lo) for mask in masks])
        return Delivery.every(loop.upload(chunk.frames, maps, part="encode_again"))


@METHODS.add("eaar", label="EAAR", color="#009E73", marker="v")
@dataclasses.dataclass(frozen=True)
class Eaar:
    """EAAR: regions of interest are the server's proposals on an earlier frame, moved along by motion vectors.

    Attributes:
        qp_hi, qp_lo: quantisers of the regions and of everything else.
        objectness: proposals above it become regions.
        max_area: regions of at least this share of the frame are dropped.
        regions: "moved" (the system), or "same_frame" (the paper's script: proposals of the same, high-quality frame, as
            no system could have them).
        dilation: box in macroblocks by which regions grow.
    """

    qp_hi: int = 30
    qp_lo: int = 36
    objectness: float = 0.3
    max_area: float = 0.1
    regions: Literal["moved", "same_frame"] = "moved"
    dilation: int = 1

    POINTS: ClassVar[Points] = (
        {"qp_lo": 44, "objectness": 0.3},
        {"qp_lo": 42, "objectness": 0.2},
        {"qp_lo": 40, "objectness": 0.2},
        {"qp_lo": 38, "objectness": 0.2},
        {"qp_lo": 36, "objectness": 0.2},
        {"qp_lo": 34, "objectness": 0.1},
    )
    PAPER_EXTRA_RTTS: ClassVar[int] = 1

    def __post_init__(self) -> None:
        assignment.check_qps((self.qp_hi, self.qp_lo))
        _check_share(objectness=self.objectness, max_area=self.max_area)
        if self.regions not in ("moved", "same_frame"):
            raise ConfigError(f"regions={self.regions!r} must be moved or same_frame.")

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return EaarSession(self, site)

    def boxes(self, dnn: Any, frame_1HWC: Frames) -> npt.NDArray[np.float64]:
        """Regions of one frame, (M, 4)."""
        ((proposals, _),) = dnn.proposals(frame_1HWC, self.objectness)
        area = frame_1HWC.shape[1] * frame_1HWC.shape[2]
        sizes = (proposals[:, 2] - proposals[:, 0]) * (proposals[:, 3] - proposals[:, 1])
        kept: npt.NDArray[np.float64] = proposals[sizes < self.max_area * area]
        return kept


class EaarSession:
    """EAAR on one clip: keeps the regions that the server sent back with the last chunk's result."""

    def __init__(self, policy: Eaar, site: Site) -> None:
        self._policy, self._site = policy, site
        self._known: tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]] | None = None

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """See `Session.deliver`."""
        policy, site = self._policy, self._site
        if policy.regions == "same_frame":
            boxes = policy.boxes(site.dnn, site.dnn.high_quality(chunk.frames[:1]))
        elif self._known is None:
            height, width = chunk.frames.shape[1:3]
            boxes = np.array([[0.0, 0.0, width, height]])  # nothing known yet: everything matters
        else:
            known, known_frame = self._known
            boxes = loop.compute("motion", lambda: moved(known, known_frame, chunk.frames[0], chunk.fps))
        mask = assignment.boxes_to_mask(boxes, site.grid, policy.dilation)
        frames = loop.upload(chunk.frames, assignment.two_levels(mask, policy.qp_hi, policy.qp_lo))
        if policy.regions == "moved":
            # With the result of the chunk's last frame the proposals come back too, while the next chunk is captured: no
            # extra wait. They are a by-product of the DNN's run on that frame, so they cost no extra time either.
            self._known = (policy.boxes(site.dnn, frames[-1:]), chunk.frames[-1])
        return Delivery.every(frames)


def moved(
    boxes_M4: npt.NDArray[np.float64],
    before_HWC: npt.NDArray[np.uint8],
    now_HWC: npt.NDArray[np.uint8],
    fps: float,
) -> npt.NDArray[np.float64]:
    """Boxes carried from one frame to the next by the encoder's motion vectors: each by the median vector inside it."""
    from common.codecs import encode, motion_vectors

    if not len(boxes_M4):
        return boxes_M4
    pair = encode(np.stack([before_HWC, now_HWC]), codec="h264", qp=30, fps=fps, gop=2, preset="ultrafast")
    vectors = motion_vectors(pair)[1]
    # A vector points from a block of the later frame to where its content was in the earlier one.
    was_x, was_y = vectors["x"] + vectors["dx"], vectors["y"] + vectors["dy"]
    found = np.array(boxes_M4, dtype=np.float64)
    for box in found:
        inside = (was_x >= box[0]) & (was_x < box[2]) & (was_y >= box[1]) & (was_y < box[3])
        if inside.any():
            shift_x, shift_y = -float(np.median(vectors["dx"][inside])), -float(np.median(vectors["dy"][inside]))
            box += (shift_x, shift_y, shift_x, shift_y)
    return found


@METHODS.add("vigil", label="Vigil", color="#E69F00", marker="X")
@dataclasses.dataclass(frozen=True)
class Vigil:
    """Vigil: a small detector on the camera finds objects; their boxes get high quality.

    Attributes:
        qp_hi, qp_lo: quantisers of the boxes and of everything else.
        confidence: of the camera's detector, above which a box counts.
        sample: frames of a chunk that the detector sees.
        dilation: box in macroblocks by which boxes grow.
    """

    qp_hi: int = 30
    qp_lo: int = 51
    confidence: float = 0.05
    sample: assignment.Sample = "first"
    dilation: int = 1

    POINTS: ClassVar[Points] = (
        {"qp_lo": 51, "confidence": 0.1},
        {"qp_lo": 47, "confidence": 0.1},
        {"qp_lo": 44, "confidence": 0.1},
        {"qp_lo": 41, "confidence": 0.1},
        {"qp_lo": 38, "confidence": 0.1},
        {"qp_lo": 36, "confidence": 0.05},
    )

    def __post_init__(self) -> None:
        assignment.check_qps((self.qp_hi, self.qp_lo))
        _check_share(confidence=self.confidence)
        assignment.sampled_frames(1, self.sample)

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return VigilSession(self, site, site.camera.detector())


@dataclasses.dataclass(frozen=True)
class VigilSession:
    """Vigil on one clip."""

    policy: Vigil
    site: Site
    detector: Any

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """See `Session.deliver`."""
        policy = self.policy
        sampled = chunk.frames[assignment.sampled_frames(len(chunk.frames), policy.sample)]
        found = loop.compute("camera_detector", lambda: self.detector.boxes(sampled, policy.confidence))
        boxes = np.concatenate([np.zeros((0, 4)), *found])
        mask = assignment.boxes_to_mask(boxes, self.site.grid, policy.dilation)
        return Delivery.every(loop.upload(chunk.frames, assignment.two_levels(mask, policy.qp_hi, policy.qp_lo)))


# ---------------------------------------------------------------------------------------- fewer frames, smaller frames


@METHODS.add("reducto", label="Reducto", color="#56B4E9", marker="P")
@dataclasses.dataclass(frozen=True)
class Reducto:
    """Reducto: frames that hardly differ from the last one sent are dropped on the camera; the server repeats its result.

    Attributes:
        threshold: of the feature, above which a frame is sent.
        feature: "pixel", "area" or "edge".
        qp: uniform quantiser of what is sent.
    """

    threshold: float = 0.02
    feature: frame_filter.Feature = "area"
    qp: int = 31

    POINTS: ClassVar[Points] = (
        {"threshold": 0.02, "qp": 40},
        {"threshold": 0.02, "qp": 36},
        {"threshold": 0.02, "qp": 31},
        {"threshold": 0.01, "qp": 31},
        {"threshold": 0.003, "qp": 31},
        {"threshold": 0.001, "qp": 31},
    )

    def __post_init__(self) -> None:
        _check_qp(qp=self.qp)
        frame_filter.check_feature(self.feature)
        if not self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold} is never exceeded; features are in [0, 1].")

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return ReductoSession(self)


class ReductoSession:
    """Reducto on one clip: keeps the last frame sent, as camera and as server have it."""

    def __init__(self, policy: Reducto) -> None:
        self._policy = policy
        self._sent: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None = None

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """See `Session.deliver`."""
        policy = self._policy
        last = None if self._sent is None else self._sent[0]
        kept = loop.compute(
            "frame_features",
            lambda: frame_filter.kept_frames(chunk.frames, policy.feature, policy.threshold, last),
        )
        received: list[npt.NDArray[np.uint8]] = [] if self._sent is None else [self._sent[1]]
        before = len(received)
        if kept:
            received += list(loop.upload(chunk.frames[kept], policy.qp))
            self._sent = (chunk.frames[kept[-1]], received[-1])
        shown = before - 1 + np.searchsorted(kept, np.arange(len(chunk.frames)), side="right")
        used, shown = np.unique(shown, return_inverse=True)
        return Delivery(np.stack(received)[used], shown)


@METHODS.add("cloudseg", label="CloudSeg", color="#999933", marker="*")
@dataclasses.dataclass(frozen=True)
class CloudSeg:
    """CloudSeg: the camera sends half the resolution, the server super-resolves it before the DNN.

    Attributes:
        qp: uniform quantiser of the small video.
    """

    qp: int = 30

    POINTS: ClassVar[Points] = ({"qp": 40}, {"qp": 36}, {"qp": 32}, {"qp": 28}, {"qp": 24}, {"qp": 20})

    def __post_init__(self) -> None:
        _check_qp(qp=self.qp)

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return CloudSegSession(self, site.camera.upscaler())


@dataclasses.dataclass(frozen=True)
class CloudSegSession:
    """CloudSeg on one clip."""

    policy: CloudSeg
    upscaler: Any

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """See `Session.deliver`."""
        from accmpeg.upscaler import downscale

        small = loop.compute("downscale", lambda: downscale(chunk.frames))
        received = loop.upload(small, self.policy.qp)
        height, width = chunk.frames.shape[1:3]
        return Delivery.every(loop.serve("super_resolution", lambda: self.upscaler.upscale(received, height, width)))


# ------------------------------------------------------------------------------------------------ oracles and sanity


_SHARES = ((0.1, 44), (0.2, 44), (0.1, 40), (0.3, 40), (0.2, 36), (0.5, 36))
_SHARE_POINTS = tuple({"share": share, "qp_lo": qp_lo} for share, qp_lo in _SHARES)


@dataclasses.dataclass(frozen=True)
class _ShareKnobs:
    share: float = 0.2
    qp_hi: int = 30
    qp_lo: int = 40

    IS_ORACLE: ClassVar[bool] = True
    POINTS: ClassVar[Points] = _SHARE_POINTS

    def __post_init__(self) -> None:
        assignment.check_qps((self.qp_hi, self.qp_lo))
        _check_share(share=self.share)


@METHODS.add("accgrad", label="AccGrad (oracle)", color="#000000", marker="*")
@dataclasses.dataclass(frozen=True)
class AccGradOracle(_ShareKnobs):
    """Oracle: the accuracy gradient itself, computed with the server's DNN; the largest share of blocks is high quality.

    Attributes:
        share: of macroblocks at high quality.
        qp_hi, qp_lo: the two quantisers.
        target: "paper" or "official" gradient.
        sample: frames of a chunk that it is computed on, averaged.
    """

    target: Target = "paper"
    sample: assignment.Sample = "first"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_target(self.target)
        assignment.sampled_frames(1, self.sample)

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return AccGradSession(self, site)


@dataclasses.dataclass(frozen=True)
class AccGradSession:
    """The oracle on one clip; its time is not counted, no camera could run it."""

    policy: AccGradOracle
    site: Site

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """See `Session.deliver`."""
        policy = self.policy
        sampled = chunk.frames[assignment.sampled_frames(len(chunk.frames), policy.sample)]
        score_RC = self.site.dnn.accuracy_gradient(sampled, policy.target, policy.qp_hi, policy.qp_lo).mean(0)
        mask = assignment.top_share(score_RC, policy.share)
        return Delivery.every(loop.upload(chunk.frames, assignment.two_levels(mask, policy.qp_hi, policy.qp_lo)))


@METHODS.add("object_boxes", label="object boxes (oracle)", color="#882255", marker="h")
@dataclasses.dataclass(frozen=True)
class ObjectBoxes:
    """Oracle: the macroblocks of the DNN's own boxes on high-quality video, in all frames of the chunk.

    Attributes:
        qp_hi, qp_lo: the two quantisers.
        dilation: box in macroblocks by which boxes grow.
    """

    qp_hi: int = 30
    qp_lo: int = 40
    dilation: int = 1

    IS_ORACLE: ClassVar[bool] = True
    POINTS: ClassVar[Points] = (
        {"qp_lo": 48},
        {"qp_lo": 44},
        {"qp_lo": 42},
        {"qp_lo": 40},
        {"qp_lo": 38},
        {"qp_lo": 36},
    )

    def __post_init__(self) -> None:
        assignment.check_qps((self.qp_hi, self.qp_lo))

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return ObjectBoxesSession(self, site)


@dataclasses.dataclass(frozen=True)
class ObjectBoxesSession:
    """The boxes oracle on one clip; its time is not counted."""

    policy: ObjectBoxes
    site: Site

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """See `Session.deliver`."""
        policy, site = self.policy, self.site
        outputs = site.dnn.run(site.dnn.high_quality(chunk.frames))
        mask = np.zeros(site.grid, dtype=bool)
        for output in outputs:
            mask |= site.dnn.object_mask(output, site.grid)
        mask = assignment.dilate(mask, policy.dilation)
        return Delivery.every(loop.upload(chunk.frames, assignment.two_levels(mask, policy.qp_hi, policy.qp_lo)))


@METHODS.add("random_blocks", label="random blocks", color="#BBBBBB", marker="x")
@dataclasses.dataclass(frozen=True)
class RandomBlocks(_ShareKnobs):
    """Sanity check: random macroblocks at high quality.

    Attributes:
        share: of macroblocks at high quality.
        qp_hi, qp_lo: the two quantisers.
    """

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return RandomSession(self, site)


@dataclasses.dataclass(frozen=True)
class RandomSession:
    """Random blocks on one clip, anew for each chunk."""

    policy: RandomBlocks
    site: Site

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """See `Session.deliver`."""
        from common.rng import for_component

        policy = self.policy
        score_RC = for_component(self.site.seed, "accmpeg random blocks", chunk.index).random(self.site.grid)
        mask = assignment.top_share(score_RC, policy.share)
        return Delivery.every(loop.upload(chunk.frames, assignment.two_levels(mask, policy.qp_hi, policy.qp_lo)))
