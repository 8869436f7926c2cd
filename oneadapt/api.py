"""What a plug-in imports: signals, knobs, the protocols of knobs, tasks and controllers, and the registries.

    from oneadapt.api import METHODS, WORKLOADS, Feedback, Knobs

A sensor records one interval after another (10 frames, say). Knobs decide how it is sent; a network at the server analyses what
arrives. A controller sees what happened in intervals that are over and sets the knobs of the next one. Accuracy and bytes are
computed by the harness, in the same way for every controller. Importing this module imports neither torch nor OpenCV.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError
from common.experiment import Experiment, Paper, check_in
from common.registry import Registry

if TYPE_CHECKING:
    from numpy.random import Generator

    from oneadapt.session import Application, Camera, Server

__all__ = [
    "EXPERIMENTS",
    "METHODS",
    "PAPER",
    "WORKLOADS",
    "Delivery",
    "Feedback",
    "Knob",
    "KnobController",
    "Knobs",
    "Method",
    "Saliency",
    "Segment",
    "Task",
    "Workload",
]

Knobs = Mapping[str, Any]
"""A setting: the value of each knob, by its name."""


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """The data of one interval on its way from sensor to network.

    Attributes:
        data: N elements (frames, scans, pieces of sound) along the first axis, in the sensor's own form.
        coding: what the encoder needs to know; knobs write into it.
        kept: which of the sensor's elements are still there, increasing; the others repeat the last kept one at the server.
    """

    data: npt.NDArray[Any]
    coding: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kept: tuple[int, ...] = ()

    def with_(self, **changes: Any) -> "Segment":
        """A copy with some fields changed; `coding` is merged."""
        if "coding" in changes:
            changes["coding"] = {**self.coding, **changes["coding"]}
        return dataclasses.replace(self, **changes)


class Knob(Protocol):
    """One thing that can be set: an ordered list of values, and what a value does on its way there and back.

    Attributes:
        name: key in `Knobs`.
        values: from most to least expensive, at least two.
    """

    @property
    def name(self) -> str: ...

    @property
    def values(self) -> Sequence[Any]: ...

    def prepare(self, segment: Segment, value: Any) -> Segment:
        """At the sensor, before encoding: change the data, or what the encoder is told. Must not modify its argument."""
        ...

    def restore(self, segment: Segment, value: Any, like: Segment) -> Segment:
        """At the server, after decoding: bring the data back to the form of `like` (what `prepare` was given)."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Delivery:
    """What one encode of one interval gave.

    Attributes:
        knobs: the setting.
        x: the network's input, all N elements at full size, (N, H, W, C) float32; dropped elements repeat the last kept one.
        num_bytes: length of the bitstream that x was decoded from.
        kept: elements that were sent; the network runs on these.
        data: what was decoded, in the sensor's form, kept elements only.
    """

    knobs: Knobs
    x: npt.NDArray[np.float32]
    num_bytes: int
    kept: tuple[int, ...]
    data: npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Saliency:
    """One backward pass (the paper's DNNGrad).

    Attributes:
        utility: u, the soft count of confident results.
        num_near: results whose score is near the threshold.
        gradient_HW: sum over channels of |du/dx|.
    """

    utility: float
    num_near: int
    gradient_HW: npt.NDArray[np.float32]


class Task(Protocol):
    """A network with a way to compare its results.

    Attributes:
        block: rows and columns over which the gradient is averaged.
        sha256: of the weights.

    A task whose accuracy needs more than one element (links between frames) has an attribute `least_elements`; 1 if it has none.
    """

    @property
    def block(self) -> tuple[int, int]: ...

    @property
    def sha256(self) -> str: ...

    def infer(self, x_NHWC: npt.NDArray[np.float32]) -> list[Any]:
        """The result of each element."""
        ...

    def saliency(self, x_HWC: npt.NDArray[np.float32]) -> Saliency:
        """One forward and one backward of one element."""
        ...

    def differentiable_utility(self, x_1CHW: Any) -> Any:
        """The utility of one element in 0..1 (torch), differentiable: for knobs that are a network in front of it."""
        ...

    def accuracy(self, results: Sequence[Any], truth: Sequence[Any]) -> float:
        """Agreement of an interval's results with those at the best setting, 0..1."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Feedback:
    """What is known when the knobs of interval `t` are set: the interval before, and nothing of interval t itself.

    Attributes:
        t: index of the interval whose knobs are wanted; 0 at the start, when `delivery` is None.
        delivery: what was sent last, as the server decoded it.
        results: the network's results on it, one per element.
        camera: encodes the finished interval again with other knobs; every encode is counted.
        server: runs the network; every forward and backward pass is counted.
    """

    t: int
    delivery: Delivery | None
    results: Sequence[Any]
    camera: "Camera"
    server: "Server"


class KnobController(Protocol):
    """Chooses the knobs of one stream, interval by interval; made anew for every clip.

    A controller may also have

    - `prepare(camera) -> Knobs`: asked after `next_knobs`, with the camera's view of the interval that is about to be sent; for
      controllers that sit in the camera (AccMPEG);
    - `refine(now) -> Knobs | None`: asked after the first delivery of an interval (`now.t` is that interval): knobs other than
      None
      send it a second time, as DDS does; both rounds are charged;
    - `foresee(now) -> Knobs`: for the oracle, which is given the interval itself, for nothing.
    """

    def next_knobs(self, feedback: Feedback) -> Knobs:
        """The knobs of interval `feedback.t`."""
        ...


class Method(Protocol):
    """One way to set knobs: an entry of `METHODS`, a frozen dataclass with knobs of its own.

    A method that trades accuracy against resources has a field `trade`: the price of all of the best setting's bytes (or
    frames), in units of accuracy; experiments sweep it. Methods for another pipeline than encoding knobs have an attribute
    `pipeline`.
    """

    def controller(self, application: "Application") -> KnobController:
        """A controller for a new stream."""
        ...


class Workload(Protocol):
    """An application: a kind of input, its knobs and its task, with a source of clips."""

    def application(self, pipeline: str = "encoding", data: Mapping[str, Any] | None = None) -> "Application":
        """The knobs of a pipeline, and the task. `data` are a run's data settings."""
        ...

    def clips(
        self, rng: "Generator", n: int, num_intervals: int, data: Mapping[str, Any] | None = None
    ) -> "Iterator[Sequence[npt.NDArray[Any]]]":
        """n clips of `num_intervals` intervals of sensor data; the same stream gives the same clips.

        Args:
            rng: all randomness.
            n: clips.
            num_intervals: of each clip.
            data: a run's data settings, for workloads that read files.
        """
        ...


METHODS: Registry[Any] = Registry("oneadapt method", ["oneadapt.methods"])
WORKLOADS: Registry[Any] = Registry("oneadapt workload", ["oneadapt.workloads"])
EXPERIMENTS: Registry[type[Experiment]] = Registry("oneadapt experiment", ["oneadapt.experiments"])


def check_values(name: str, values: Sequence[Any]) -> None:
    """Raise ConfigError unless a knob's values are at least two different ones."""
    if len(values) < 2 or len(set(values)) != len(values):
        raise ConfigError(f"knob {name!r} has values {list(values)}; it needs at least two different ones.")


PAPER = Paper(
    name="oneadapt",
    title="OneAdapt: Fast Adaptation for Deep Learning Applications via Backpropagation (SoCC 2023)",
    methods=METHODS,
    workloads=WORKLOADS,
    experiments=EXPERIMENTS,
    method_contract=(check_in("oneadapt.contract", "check_method"),),
    workload_contract=(check_in("oneadapt.contract", "check_workload"),),
)
