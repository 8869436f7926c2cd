"""Applications: inputs, their knobs, their task, and where clips come from.

    rgb_detection       colour video, H.264         qp, resolution            objects of four classes by their boxes
    rgb_tracking        the same                    the same                  the same objects, linked from frame to frame
    rgb_segmentation    the same                    the same                  class of every pixel
    clip_detection      real clips, H.264           qp, resolution            objects, by a real detector of the data root
    thermal_detection   thermal camera, H.264       qp, resolution            cars and persons by their centres
    depth_segmentation  depth camera, H.264         qp, resolution            class of every pixel
    lidar_detection     scanner, 32 x 256           beams, azimuth, step      cars and persons by their centres
    sound_recognition   microphone, 16 kHz          sampling rate, bits       which of ten sounds

Each clip changes its content in phases (other objects, distances, noise), so that no fixed setting is right throughout.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError
from oneadapt import inputs, knobs, worlds
from oneadapt.api import WORKLOADS
from oneadapt.coding import ScanCoder, SoundCoder, VideoCoder
from oneadapt.session import Application

PIPELINES = ("encoding", "encoding_rate", "blocks", "filter", "upscaling")
Clip = Sequence[npt.NDArray[Any]]


def phases(rng: np.random.Generator, num_intervals: int, shortest: int, longest: int) -> list[int]:
    """Which phase each interval belongs to, (T,); phases last `shortest` to `longest` intervals."""
    found: list[int] = []
    phase = 0
    while len(found) < num_intervals:
        found += [phase] * int(rng.integers(shortest, longest + 1))
        phase += 1
    return found[:num_intervals]


@dataclasses.dataclass(frozen=True)
class _Phased:
    interval_frames: int = 10
    shortest_phase: int = 8
    longest_phase: int = 14

    def __post_init__(self) -> None:
        if self.interval_frames < 1 or not 1 <= self.shortest_phase <= self.longest_phase:
            raise ConfigError(
                f"interval_frames={self.interval_frames} must be at least 1, and 1 <= shortest_phase={self.shortest_phase} "
                f"<= longest_phase={self.longest_phase}."
            )

    def _phases(self, rng: np.random.Generator, num_intervals: int) -> list[int]:
        return phases(rng, num_intervals, self.shortest_phase, self.longest_phase)


QPS = (30, 34, 38, 42, 46)
"""The best quantiser is the knee of "visually clean": below it bytes go to sensor noise, and every method seems to save a lot."""


def video_knobs(pipeline: str) -> tuple[Any, ...]:
    """Knobs of a pipeline for pictures."""
    if pipeline == "encoding":
        return (knobs.Resolution(), knobs.Quantiser(QPS))
    if pipeline == "encoding_rate":
        return (knobs.FrameRate(), knobs.Resolution(), knobs.Quantiser(QPS))
    if pipeline == "blocks":
        return (knobs.BlockQuality(),)
    if pipeline == "filter":
        return (knobs.FrameFilter(), knobs.Quantiser((30, 36)))
    if pipeline == "upscaling":
        from oneadapt.upscaling import QPS as UPSCALING_QPS
        from oneadapt.upscaling import Upscaler

        return (Upscaler(), knobs.Quantiser(UPSCALING_QPS))
    raise ConfigError(f"pipeline={pipeline!r} must be one of {', '.join(PIPELINES)}.")


def _resource(pipeline: str) -> Literal["bytes", "frames"]:
    return "frames" if pipeline == "filter" else "bytes"


def _only_encoding(name: str, pipeline: str) -> None:
    if pipeline != "encoding":
        raise ConfigError(f"{name} has no pipeline {pipeline!r}, which is for pictures; it has encoding.")


@functools.cache
def _network(name: str) -> Any:
    from oneadapt.networks import load

    return load(name)


def _streets(rng: np.random.Generator, labels: Sequence[int]) -> Iterator[tuple[worlds.Street, float]]:
    """The street of each interval, and the time in it at which the interval begins; neighbouring phases differ much."""
    streets: dict[int, worlds.Street] = {}
    begin: dict[int, int] = {}
    is_busy = bool(rng.random() < 0.5)
    for t, phase in enumerate(labels):
        if phase not in streets:
            is_busy = not is_busy
            near = float(rng.uniform(0.0, 0.4) if is_busy else rng.uniform(0.5, 1.0))
            count = (5, 10) if is_busy else (1, 4)
            noise = (0.5, 1.0) if rng.random() < 0.5 else (0.05, 0.4)
            streets[phase] = worlds.street(rng, num_objects=count, near=near, noise=noise)
            begin[phase] = t
        yield streets[phase], float(t - begin[phase])


def _filmed(workload: _Phased, sensor: Callable[..., Any], rng: np.random.Generator, num_intervals: int) -> Clip:
    clip = []
    for world, begin_s in _streets(rng, workload._phases(rng, num_intervals)):
        times = begin_s + np.arange(workload.interval_frames) / workload.interval_frames
        clip.append(np.stack([sensor(world, float(t_s), rng)[0] for t_s in times]))
    return clip


_STYLES: tuple[dict[str, Any], ...] = (
    {"num_objects": (10, 18), "distance_m": (20.0, 50.0), "noise": (4.0, 6.0), "camera": "static"},
    {"num_objects": (3, 7), "distance_m": (13.0, 26.0), "noise": (2.0, 3.0), "camera": "static"},
    {"num_objects": (8, 16), "distance_m": (15.0, 40.0), "noise": (2.0, 4.0), "camera": "drive"},
    {"num_objects": (4, 9), "distance_m": (13.0, 30.0), "noise": (3.0, 6.0), "camera": "slide"},
)


@dataclasses.dataclass(frozen=True)
class _Rgb(_Phased):
    height: int = 192
    width: int = 320
    detector: str = "street"

    def _application(self, name: str, task: Any, pipeline: str) -> Application:
        knob_list = video_knobs(pipeline)
        return Application(name, knob_list, VideoCoder(), inputs.rgb_input, task, 1.0, _resource(pipeline))

    def clips(
        self, rng: np.random.Generator, n: int, num_intervals: int, data: Mapping[str, Any] | None = None
    ) -> Iterator[Clip]:
        """See `oneadapt.api.Workload.clips`: rendered streets, another one in each phase."""
        from common.data.video import StreetScene, StreetStyle

        for _ in range(n):
            clip: list[npt.NDArray[Any]] = []
            order = rng.permutation(len(_STYLES))
            scene, before = None, -1
            for phase in self._phases(rng, num_intervals):
                if scene is None or phase != before:
                    style = _STYLES[int(order[phase % len(_STYLES)])]
                    scene = StreetScene(rng, StreetStyle(height=self.height, width=self.width, fps=10.0, **style))
                    before = phase
                clip.append(np.stack([scene.frame()[0] for _ in range(self.interval_frames)]))
            yield clip


@functools.cache
def _detector(name: str, root: str | None) -> Any:
    from pathlib import Path

    from common.models.vision import load_detector

    return load_detector(name, Path(root) if root else None)


def _weights_id(network: Any) -> str:
    """A hash of a torch module's weights, or of a detector that holds one."""
    import hashlib

    module = getattr(network, "network", network)
    digest = hashlib.sha256()
    tensors = module.state_dict() if hasattr(module, "state_dict") else {}
    for key, tensor in sorted(tensors.items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    if not tensors:
        digest.update(str(getattr(network, "name", type(network).__name__)).encode())
    return digest.hexdigest()


@WORKLOADS.add("rgb_detection", label="RGB video, detection")
@dataclasses.dataclass(frozen=True)
class RgbDetection(_Rgb):
    """Rendered street video, H.264; cars, trucks, persons and cyclists are detected by the bundled detector.

    Attributes:
        interval_frames: frames of an interval.
        shortest_phase, longest_phase: intervals until the content changes.
        height, width: of the frames.
        detector: a name that `common.models.vision.load_detector` knows.
    """

    def application(self, pipeline: str = "encoding", data: Mapping[str, Any] | None = None) -> Application:
        """See `oneadapt.api.Workload.application`."""
        from oneadapt.vision import BoxDetection

        detector = _detector(self.detector, (data or {}).get("root"))
        return self._application("rgb_detection", BoxDetection(detector, _weights_id(detector)), pipeline)


@WORKLOADS.add("rgb_tracking", label="RGB video, tracking")
@dataclasses.dataclass(frozen=True)
class RgbTracking(_Rgb):
    """The same video; objects are followed from frame to frame. Knobs as `rgb_detection`."""

    def application(self, pipeline: str = "encoding", data: Mapping[str, Any] | None = None) -> Application:
        """See `oneadapt.api.Workload.application`."""
        from oneadapt.vision import BoxTracking

        detector = _detector(self.detector, (data or {}).get("root"))
        return self._application("rgb_tracking", BoxTracking(detector, _weights_id(detector)), pipeline)


@WORKLOADS.add("rgb_segmentation", label="RGB video, segmentation")
@dataclasses.dataclass(frozen=True)
class RgbSegmentation(_Rgb):
    """The same video; every pixel gets a class, by the bundled segmentation head. Knobs as `rgb_detection`."""

    def application(self, pipeline: str = "encoding", data: Mapping[str, Any] | None = None) -> Application:
        """See `oneadapt.api.Workload.application`."""
        from pathlib import Path

        from common.models.vision import load_segmenter
        from oneadapt.vision import VideoSegmentation

        root = (data or {}).get("root")
        segmenter = load_segmenter(self.detector, Path(root) if root else None)
        task = VideoSegmentation(segmenter, _weights_id(segmenter))
        return self._application("rgb_segmentation", task, pipeline)


@WORKLOADS.add("clip_detection", label="real clips, detection")
@dataclasses.dataclass(frozen=True)
class ClipDetection(RgbDetection):
    """Real video files of the data root (`data.root`), cut into intervals at 10 frames per second, and a real detector.

    Attributes:
        files: names of files (without folder); empty: all of the data root, in turn. A clip shorter than asked for is repeated.
        interval_frames, shortest_phase, longest_phase: as `rgb_detection`; the phases are not used.
        height, width: frames are scaled to this size.
        detector: "yolox_nano" or "fastestdet" of the data root, or another name.
    """

    needs_data: ClassVar[bool] = True

    files: tuple[str, ...] = ()
    height: int = 320
    width: int = 416
    detector: str = "yolox_nano"

    def clips(
        self, rng: np.random.Generator, n: int, num_intervals: int, data: Mapping[str, Any] | None = None
    ) -> Iterator[Clip]:
        """See `oneadapt.api.Workload.clips`. Files are taken in an order drawn from `rng`, from a start drawn from it."""
        from pathlib import Path

        from common.data.video import find_clips, load_clip

        root = (data or {}).get("root")
        paths = find_clips(Path(root) if root else None)
        if self.files:
            known = {path.name: path for path in paths}
            missing = [name for name in self.files if name not in known]
            if missing:
                raise ConfigError(f"files={missing} are not among {', '.join(known)}.")
            paths = [known[name] for name in self.files]
        order = rng.permutation(len(paths))
        for index in range(n):
            path = paths[int(order[index % len(paths)])]
            rate = load_clip(path, count=1).fps
            step = max(1, round(rate / 10))
            frames = load_clip(path, step=step, height=self.height, width=self.width).frames
            wanted = num_intervals * self.interval_frames
            if len(frames) < self.interval_frames:
                raise ConfigError(
                    f"{path.name} has {len(frames)} frames at 10 per second; an interval needs {self.interval_frames}."
                )
            start = int(rng.integers(0, max(1, len(frames) - wanted + 1)))
            frames = frames[start : start + wanted]
            frames = np.concatenate([frames] * -(-wanted // len(frames)))[:wanted]
            yield list(frames.reshape(num_intervals, self.interval_frames, *frames.shape[1:]))


@WORKLOADS.add("thermal_detection", label="thermal camera, detection")
@dataclasses.dataclass(frozen=True)
class ThermalDetection(_Phased):
    """A thermal camera's video, H.264; cars and persons are detected by their centres.

    Attributes:
        interval_frames: frames of an interval.
        shortest_phase, longest_phase: intervals until the content changes.
    """

    def application(self, pipeline: str = "encoding", data: Mapping[str, Any] | None = None) -> Application:
        """See `oneadapt.api.Workload.application`."""
        from oneadapt.tasks import CentreDetection

        loaded = _network("thermal_detection")
        task = CentreDetection(loaded.network, loaded.sha256)
        coder = VideoCoder(is_grey=True)
        return Application(
            "thermal_detection", video_knobs(pipeline), coder, inputs.thermal_input, task, 1.0, _resource(pipeline)
        )

    def clips(
        self, rng: np.random.Generator, n: int, num_intervals: int, data: Mapping[str, Any] | None = None
    ) -> Iterator[Clip]:
        """See `oneadapt.api.Workload.clips`."""
        for _ in range(n):
            yield _filmed(self, worlds.thermal_camera, rng, num_intervals)


@WORKLOADS.add("depth_segmentation", label="depth camera, segmentation")
@dataclasses.dataclass(frozen=True)
class DepthSegmentation(_Phased):
    """A depth camera's video, H.264; every pixel is a car, a person or background. Knobs as `thermal_detection`."""

    def application(self, pipeline: str = "encoding", data: Mapping[str, Any] | None = None) -> Application:
        """See `oneadapt.api.Workload.application`."""
        from oneadapt.tasks import PixelClasses

        loaded = _network("depth_segmentation")
        task = PixelClasses(loaded.network, loaded.sha256)
        coder = VideoCoder(is_grey=True)
        return Application(
            "depth_segmentation", video_knobs(pipeline), coder, inputs.depth_input, task, 1.0, _resource(pipeline)
        )

    def clips(
        self, rng: np.random.Generator, n: int, num_intervals: int, data: Mapping[str, Any] | None = None
    ) -> Iterator[Clip]:
        """See `oneadapt.api.Workload.clips`."""
        for _ in range(n):
            yield _filmed(self, worlds.depth_camera, rng, num_intervals)


@WORKLOADS.add("lidar_detection", label="LiDAR, detection")
@dataclasses.dataclass(frozen=True)
class LidarDetection(_Phased):
    """Range images of a scanner; cars and persons are detected by their centres. Knobs as `thermal_detection`."""

    def application(self, pipeline: str = "encoding", data: Mapping[str, Any] | None = None) -> Application:
        """See `oneadapt.api.Workload.application`."""
        from oneadapt.tasks import CentreDetection

        _only_encoding("lidar_detection", pipeline)
        loaded = _network("lidar_detection")
        task = CentreDetection(loaded.network, loaded.sha256, block=(4, 16))
        knob_list = (knobs.Beams((1, 2, 4)), knobs.AzimuthStep((1, 2, 4)), knobs.RangeStep((0.02, 0.1, 0.4)))
        return Application("lidar_detection", knob_list, ScanCoder(), inputs.lidar_input, task)

    def clips(
        self, rng: np.random.Generator, n: int, num_intervals: int, data: Mapping[str, Any] | None = None
    ) -> Iterator[Clip]:
        """See `oneadapt.api.Workload.clips`."""
        for _ in range(n):
            yield _filmed(self, worlds.lidar, rng, num_intervals)


@WORKLOADS.add("sound_recognition", label="microphone, recognition")
@dataclasses.dataclass(frozen=True)
class SoundRecognitionWorkload(_Phased):
    """Sounds in noise and reverberation; each half second is one of ten sounds or silence.

    Phases differ in which sounds there are (low or high ones), in noise and in the room. Knobs as `thermal_detection`.
    """

    def application(self, pipeline: str = "encoding", data: Mapping[str, Any] | None = None) -> Application:
        """See `oneadapt.api.Workload.application`."""
        from oneadapt.tasks import SoundRecognition

        _only_encoding("sound_recognition", pipeline)
        loaded = _network("sound_recognition")
        # A block is one mel band over all time: pieces of sound share bands, not moments, with the last one.
        task = SoundRecognition(loaded.network, loaded.sha256, block=(1, 64))
        knob_list = (knobs.SamplingRate(), knobs.BitDepth())
        return Application("sound_recognition", knob_list, SoundCoder(), _sound_input, task, interval_s=5.0)

    def clips(
        self, rng: np.random.Generator, n: int, num_intervals: int, data: Mapping[str, Any] | None = None
    ) -> Iterator[Clip]:
        """See `oneadapt.api.Workload.clips`."""
        low = [worlds.SOUNDS.index(name) for name in ("a", "i", "u", "trill", "rise", "fall")]
        high = [worlds.SOUNDS.index(name) for name in ("s", "sh", "whistle", "clicks")]
        for _ in range(n):
            clip, rooms = [], {}
            for phase in self._phases(rng, num_intervals):
                if phase not in rooms:
                    kinds = (low, high, low + high)[int(rng.integers(3))]
                    rooms[phase] = kinds, rng.uniform(4, 28), rng.uniform(0.05, 0.5), bool(rng.random() < 0.5)
                kinds, snr_db, reverb_s, is_low = rooms[phase]
                said = [int(kind) for kind in rng.choice([*kinds, worlds.SILENCE], self.interval_frames)]
                wave = worlds.soundtrack(said, rng, snr_db=snr_db, reverb_s=reverb_s, low_noise=is_low)
                clip.append(wave.reshape(self.interval_frames, worlds.WORD_SAMPLES))
            yield clip


def _sound_input(pieces_NS: npt.NDArray[np.float32]) -> inputs.FloatArray:
    from oneadapt.networks import log_mel

    spectrogram: inputs.FloatArray = log_mel(pieces_NS.reshape(-1))[..., None]
    return spectrogram
