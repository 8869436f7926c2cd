"""What a plug-in imports: chunks of video, the protocols of quality policies, and the registries.

    from accmpeg.api import METHODS, WORKLOADS, Chunk, Delivery

A method decides how a camera's video reaches the server's DNN. It hands back pictures, never scores: sizes are the bytes of the
packets that the loop sent and decoded, delays are what its clock and its link said, and accuracy is the DNN's output on the
delivered pictures, all determined by the harness in the same way for every method. Importing this module imports no torch.

    camera                                network                      server
      frames -> policy -> qp map -> encoder --> packets -> link --> decoder -> DNN -> results
                   ^                                                          |
                   +-------------------- reply (DDS, EAAR) <-----------------+

The simplest method is one function, `qp_map(frame_HWC)`; one that drops frames, asks the server back or sends several passes
implements `open(site)` and does its steps through the `Loop`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from common.codecs.maps import grid_shape
from common.data.video.clip import Clip
from common.errors import ConfigError
from common.experiment import Experiment, Paper, check_in
from common.registry import Registry

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = [
    "EXPERIMENTS",
    "METHODS",
    "PAPER",
    "WORKLOADS",
    "Chunk",
    "Clip",
    "Delivery",
    "Frames",
    "Loop",
    "MapPolicy",
    "QpMap",
    "QualityPolicy",
    "Session",
    "Site",
    "Workload",
    "chunks_of",
    "points_of",
]

Frames = npt.NDArray[np.uint8]
"""Pictures, (N, H, W, 3), uint8, RGB."""
QpMap = npt.NDArray[np.uint8]
"""A quantiser for each macroblock, (R, C) for one picture or (N, R, C) for several."""
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """The k frames that are coded together (k = 10 in the paper).

    Attributes:
        index: 0, 1, ... within the clip.
        start: index of its first frame within the clip.
        frames: raw pictures, (k, H, W, 3).
        fps: frames per second.
    """

    index: int
    start: int
    frames: Frames
    fps: float


def chunks_of(clip: Clip, chunk_frames: int) -> Iterator[Chunk]:
    """Cut a clip into chunks of `chunk_frames`; the last one may be shorter.

    Raises:
        ConfigError: frames that are not uint8 RGB of shape (N, H, W, 3) with N >= 1, no frame rate, labels for another number of
            frames, or chunks without frames.
    """
    frames = clip.frames
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ConfigError(
            f"clip {clip.name!r} has frames of shape {frames.shape} and type {frames.dtype}; "
            "give uint8 RGB of shape (N, H, W, 3) with N >= 1."
        )
    if not clip.fps > 0:
        raise ConfigError(f"clip {clip.name!r} has {clip.fps} frames per second; must be > 0.")
    if clip.labels is not None and len(clip.labels) != len(frames):
        raise ConfigError(f"clip {clip.name!r} has {len(frames)} frames but labels for {len(clip.labels)}.")
    if chunk_frames < 1:
        raise ConfigError(f"chunk_frames={chunk_frames} must be at least 1.")
    return (
        Chunk(index, start, frames[start : start + chunk_frames], clip.fps)
        for index, start in enumerate(range(0, len(frames), chunk_frames))
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Delivery:
    """What the server's DNN sees of one chunk.

    Attributes:
        frames: pictures on the server, (M, H, W, 3), of the clip's size, in the order in which they were received.
        shown: for each frame of the chunk, which of them stands for it, (k,); a dropped frame repeats an earlier one.
    """

    frames: Frames
    shown: npt.NDArray[np.intp]

    @classmethod
    def every(cls, frames: Frames) -> "Delivery":
        """Each frame of the chunk was received."""
        return cls(frames, np.arange(len(frames)))


class Loop(Protocol):
    """The way from camera to server. It does the work, keeps the time of each part by name, and counts the bytes."""

    def compute(self, part: str, run: Callable[[], Result]) -> Result:
        """Do something on the camera; its time counts to `part`."""
        ...

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
        """Encode on the camera as one GOP, send the packets, decode on the server.

        Args:
            frames: (N, H, W, 3); another size than the clip's is allowed.
            qp: one quantiser for all, or a map (R, C) for all frames, or one map per frame (N, R, C).
            codec: "h264", "h265" or "vp9"; maps need "h264".
            part: what the time of encoding counts to; the transmission counts to "network".
            preset, options: for the encoder (`common.codecs.encode`), where a method wants other than the loop's.

        Returns:
            The decoded pictures, same shape as `frames`.
        """
        ...

    def serve(self, part: str, run: Callable[[], Result]) -> Result:
        """Do something on the server beyond the final run of the DNN; its time counts to `part`."""
        ...

    def reply(self, num_bytes: int) -> None:
        """Send feedback from the server to the camera, which waits for it: one more trip back, counted to "network"."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """Where a policy is opened: one camera and the DNN that its video is for.

    Attributes:
        dnn: the server's DNN (`accmpeg.dnn.Dnn`). On the server through `Loop.serve`; on the camera only for oracles.
        height, width: size of the camera's pictures.
        fps: frames per second.
        camera: models that the camera may run, by name (`accmpeg.camera_models.CameraModels`).
        seed: for policies that draw at random.
    """

    dnn: Any
    height: int
    width: int
    fps: float
    camera: Any = None
    seed: int = 0

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of macroblocks."""
        return grid_shape(self.height, self.width)


class MapPolicy(Protocol):
    """The simplest kind of entry of `METHODS`: a frozen dataclass whose `qp_map` is asked once per chunk."""

    def qp_map(self, frame_HWC: npt.NDArray[np.uint8]) -> QpMap:
        """The chunk's quantiser map, (ceil(H/16), ceil(W/16)), uint8, from its first raw frame; timed as "policy"."""
        ...


class Session(Protocol):
    """A policy at work on one clip; may keep state from chunk to chunk."""

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """Bring a chunk to the server. Everything that takes time or bytes goes through `loop`."""
        ...


class QualityPolicy(Protocol):
    """The general kind of entry of `METHODS`: a frozen dataclass with knobs.

    Attributes:
        POINTS: knob settings that trace the method's curve of accuracy against cost, cheapest first; none: only itself.
    """

    POINTS: ClassVar[tuple[Mapping[str, Any], ...]]

    def open(self, site: Site) -> Session:
        """Start on a clip."""
        ...


class Workload(Protocol):
    """A source of clips."""

    def items(self, rng: "Generator", n: int) -> Iterator[Clip]:
        """n clips; the same stream gives the same clips."""
        ...


def points_of(method: Any) -> list[tuple[str, dict[str, Any], Any]]:
    """The settings along a method's curve, as (label, knobs, method with these knobs).

    Knobs that the given instance already sets away from their defaults win over the curve's.
    """
    points = getattr(type(method), "POINTS", ())
    if not points or not dataclasses.is_dataclass(method) or isinstance(method, type):
        return [("", {}, method)]
    fields = {field.name: field for field in dataclasses.fields(method)}
    changed = {
        name
        for name, field in fields.items()
        if field.default is not dataclasses.MISSING and getattr(method, name) != field.default
    }
    found: dict[str, tuple[str, dict[str, Any], Any]] = {}
    for point in points:
        knobs = {name: value for name, value in point.items() if name not in changed}
        label = ", ".join(f"{name}={_shown(value)}" for name, value in knobs.items())
        found.setdefault(label, (label, knobs, dataclasses.replace(method, **knobs)))
    return list(found.values())


def _shown(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


METHODS: Registry[Any] = Registry("accmpeg method", ["accmpeg.methods"])
WORKLOADS: Registry[Any] = Registry("accmpeg workload", ["accmpeg.workloads"])
EXPERIMENTS: Registry[type[Experiment]] = Registry("accmpeg experiment", ["accmpeg.experiments"])


PAPER = Paper(
    name="accmpeg",
    title="AccMPEG: Optimizing Video Encoding for Accurate Video Analytics (MLSys 2022)",
    methods=METHODS,
    workloads=WORKLOADS,
    experiments=EXPERIMENTS,
    method_contract=(check_in("accmpeg.contract", "check_method"),),
    workload_contract=(check_in("accmpeg.contract", "check_workload"),),
)
