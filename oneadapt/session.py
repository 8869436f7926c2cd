"""One stream: sensor, network and controllers, interval by interval, with everything counted.

    interval t of the clip --encode(knobs_t)--> bytes --decode--> x_t --network--> results_t      harness: accuracy, bytes
                                                                    |
    controller.next_knobs(feedback about interval t) --> knobs_{t+1}
        feedback.camera.encode(knobs)    one more encode of interval t        counted per frame
        feedback.server.infer(...)       one more run of the network          counted per frame
        feedback.server.saliency(...)    one backward pass                    counted

Sessions of several controllers on one clip run in lockstep and share what has been computed for an interval (an encode with the
same knobs gives the same bytes); each is charged as if it had computed all itself, from its own counters.
"""

import dataclasses
import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError
from oneadapt.api import Delivery, Feedback, Knob, KnobController, Knobs, Saliency, Segment, Task
from oneadapt.coding import Coder, num_bytes
from oneadapt.knobs import check_knobs

MAP_BYTE = 1
"""Bytes per block of a gradient map or a quality map on the way from server to camera (8 bits each)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Application:
    """A kind of input with its knobs and its task: what a controller is made for.

    Attributes:
        name: of the workload.
        knobs: in the order in which they act at the sensor.
        coder: makes bytes.
        to_input: sensor data (N, ...) to the network's input (N, H, W, C).
        task: the network.
        interval_s: length of an interval.
        resource: what settings are to save: "bytes" sent, or "frames" analysed.
        extra: what further pipelines need (a super-resolution network, a map predictor), by name.
    """

    name: str
    knobs: tuple[Knob, ...]
    coder: Coder
    to_input: Any
    task: Task
    interval_s: float = 1.0
    resource: Literal["bytes", "frames"] = "bytes"
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_knobs(self.knobs)

    @property
    def best(self) -> dict[str, Any]:
        """c*: every knob at its most expensive value."""
        return {knob.name: knob.values[0] for knob in self.knobs}

    def knob(self, name: str) -> Knob:
        """The knob called `name`."""
        for knob in self.knobs:
            if knob.name == name:
                return knob
        raise ConfigError(f"{self.name} has no knob {name!r}; its knobs: {', '.join(k.name for k in self.knobs)}.")

    def grid(self) -> list[dict[str, Any]]:
        """Every setting, the best one first."""
        names = [knob.name for knob in self.knobs]
        every = itertools.product(*(knob.values for knob in self.knobs))
        return [dict(zip(names, values, strict=True)) for values in every]

    def share(self, delivery: Delivery, best: Delivery) -> float:
        """R(c): resource of a delivery as a share of the best setting's."""
        if self.resource == "frames":
            return len(delivery.kept) / len(best.kept)
        return delivery.num_bytes / best.num_bytes

    def check(self, knobs: Knobs) -> None:
        """Raise ConfigError unless `knobs` sets every knob and no other."""
        names = [knob.name for knob in self.knobs]
        if set(knobs) != set(names):
            raise ConfigError(f"knobs {sorted(knobs)} were set; {self.name} has {sorted(names)}, and all must be set.")

    def encode(self, data: npt.NDArray[Any], knobs: Knobs) -> Delivery:
        """Send one interval's data with these knobs: what arrives, and the bytes that it took.

        Args:
            data: N elements.
            knobs: a value for every knob.
        """
        self.check(knobs)
        segment = Segment(data, {}, tuple(range(len(data))))
        before = []
        for knob in self.knobs:
            before.append(segment)
            segment = knob.prepare(segment, knobs[knob.name])
        stream = self.coder.encode(segment)
        arrived = segment.with_(data=self.coder.decode(stream))
        for knob, like in zip(reversed(self.knobs), reversed(before), strict=True):
            arrived = knob.restore(arrived, knobs[knob.name], like)
        kept = segment.kept
        x = self.to_input(arrived.data)[shown_places(kept, len(data))]
        return Delivery(dict(knobs), x, num_bytes(stream), kept, arrived.data)


def shown_places(kept: Sequence[int], count: int) -> npt.NDArray[np.intp]:
    """What each of `count` elements shows: the place in `kept` of the last kept one at or before it, or else of the first."""
    return np.maximum(np.searchsorted(np.asarray(kept), np.arange(count), side="right") - 1, 0)


def key_of(knobs: Knobs) -> Hashable:
    """A setting as a dictionary key; maps count by their content."""
    return tuple(
        (name, (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value)
        for name, value in sorted(knobs.items())
    )


class Interval:
    """One interval's data, and what has been computed from it so far.

    Args:
        application: how it is sent and analysed.
        data: N elements.
        has_cache: False computes everything anew each time.
    """

    def __init__(self, application: Application, data: npt.NDArray[Any], *, has_cache: bool = True) -> None:
        self.application = application
        self.data = data
        self._has_cache = has_cache
        self._deliveries: dict[Hashable, Delivery] = {}
        self._results: dict[Hashable, list[Any]] = {}
        self._saliencies: dict[Hashable, Saliency] = {}
        self._scores: dict[tuple[int, int], tuple[Any, Any, float]] = {}

    def deliver(self, knobs: Knobs, first: int = 0) -> Delivery:
        """This interval from element `first` on, sent with these knobs."""
        key = key_of(knobs), first
        if key not in self._deliveries or not self._has_cache:
            self._deliveries[key] = self.application.encode(self.data[first:], knobs)
        return self._deliveries[key]

    def reencode(self, delivery: Delivery, knobs: Knobs, count: int) -> Delivery:
        """The last `count` elements of a delivery of this interval, sent once more with other knobs."""
        key = key_of(knobs), key_of(delivery.knobs), count
        if key not in self._deliveries or not self._has_cache:
            self._deliveries[key] = self.application.encode(delivery.data[-count:], knobs)
        return self._deliveries[key]

    def infer(self, delivery: Delivery) -> list[Any]:
        """Results of all elements; the network runs on the kept ones."""
        key = id(delivery)
        if key not in self._results or not self._has_cache:
            found = self.application.task.infer(delivery.x[list(delivery.kept)])
            shown = np.searchsorted(np.asarray(delivery.kept), np.arange(len(delivery.x)), side="right") - 1
            results = [found[max(0, int(index))] for index in shown]
            if not self._has_cache:
                return results
            self._results[key] = results
        return self._results[key]

    def saliency(self, delivery: Delivery) -> Saliency:
        """Forward and backward of the last element."""
        key = id(delivery)
        if key not in self._saliencies or not self._has_cache:
            found = self.application.task.saliency(delivery.x[-1])
            if not self._has_cache:
                return found
            self._saliencies[key] = found
        return self._saliencies[key]

    def score(self, results: Sequence[Any], truth: Sequence[Any]) -> float:
        """The task's accuracy of results against others."""
        key = id(results), id(truth)
        if key not in self._scores or not self._has_cache:
            # The lists are kept with their score: an id is theirs only while they live.
            self._scores[key] = results, truth, self.application.task.accuracy(results, truth)
        return self._scores[key][2]

    @property
    def truth(self) -> list[Any]:
        """Results at the best setting: what accuracy is measured against."""
        return self.infer(self.deliver(self.application.best))


@dataclasses.dataclass
class Ledger:
    """What one controller has used in one interval, adaptation included.

    Attributes:
        data_bytes: of the interval's own data, all rounds.
        probe_bytes: data sent in order to adapt (profiles, probes).
        down_bytes: from server to camera.
        camera_frames: frames encoded, the server's own encodes among them.
        forwards: elements that the network ran on.
        backwards: backward passes.
        search_forwards: those of `forwards` that were for adaptation.
        filter_frames: frames whose features a camera computed.
        model_frames: frames on which a camera-side model ran.
    """

    data_bytes: int = 0
    probe_bytes: int = 0
    down_bytes: int = 0
    camera_frames: int = 0
    forwards: int = 0
    backwards: int = 0
    search_forwards: int = 0
    filter_frames: int = 0
    model_frames: int = 0


class Camera:
    """The sensor's side of a finished interval: it can encode it again. Every encode is charged."""

    def __init__(self, interval: Interval, ledger: Ledger) -> None:
        self._interval = interval
        self._ledger = ledger

    @property
    def data(self) -> npt.NDArray[Any]:
        """The sensor's own data of the interval. Treat as read-only."""
        return self._interval.data

    def encode(self, knobs: Knobs) -> Delivery:
        """The interval with other knobs, as the camera itself would decode it. Nothing is sent."""
        delivery = self._interval.deliver(knobs)
        self._ledger.camera_frames += len(delivery.kept)
        return delivery

    def encode_last(self, knobs: Knobs, count: int = 1) -> Delivery:
        """The last `count` elements alone."""
        delivery = self._interval.deliver(knobs, max(0, len(self._interval.data) - count))
        self._ledger.camera_frames += len(delivery.kept)
        return delivery

    def send(self, delivery: Delivery) -> None:
        """Charge a delivery that the server has to have in order to adapt."""
        self._ledger.probe_bytes += delivery.num_bytes

    def receive(self, num_bytes: int) -> None:
        """Charge what the camera gets from the server in order to adapt."""
        self._ledger.down_bytes += num_bytes

    def charge_features(self, num_frames: int) -> None:
        """Charge frames whose filter features were computed."""
        self._ledger.filter_frames += num_frames

    def charge_model(self, num_frames: int) -> None:
        """Charge frames on which a camera-side model ran."""
        self._ledger.model_frames += num_frames


class Server:
    """The network's side of a finished interval. Every run is charged."""

    def __init__(self, interval: Interval, ledger: Ledger) -> None:
        self._interval = interval
        self._ledger = ledger

    @property
    def task(self) -> Task:
        """To compare results that have been paid for."""
        return self._interval.application.task

    def infer(self, delivery: Delivery) -> list[Any]:
        """Results on a delivery that was not analysed yet: one forward per kept element."""
        self._ledger.forwards += len(delivery.kept)
        self._ledger.search_forwards += len(delivery.kept)
        return self._interval.infer(delivery)

    def saliency(self, delivery: Delivery) -> Saliency:
        """Backward pass of the last element of a delivery that was analysed (its activations are kept)."""
        self._ledger.backwards += 1
        return self._interval.saliency(delivery)

    def encode_again(self, delivery: Delivery, knobs: Knobs, count: int = 1) -> Delivery:
        """The last `count` elements of what arrived, encoded by the server itself with other knobs. Nothing is sent."""
        again = self._interval.reencode(delivery, knobs, count)
        self._ledger.camera_frames += len(again.kept)
        return again

    def score(self, results: Sequence[Any], truth: Sequence[Any]) -> float:
        """Accuracy of results that have been paid for against others."""
        return self._interval.score(results, truth)

    def charge_backward(self) -> None:
        """Charge a backward pass that a controller makes itself, through networks of its own too."""
        self._ledger.backwards += 1


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One interval of one session.

    Attributes:
        t: index of the interval.
        knobs: as chosen; of the second round where there were two.
        accuracy: against the results at the best setting.
        best_bytes: of the best setting.
        ledger: everything used, adaptation included.
        kept: elements sent.
        num_elements: of the interval.
        note: what the controller says about itself (numbers by name), for figures.
    """

    t: int
    knobs: Knobs
    accuracy: float
    best_bytes: int
    ledger: Ledger
    kept: tuple[int, ...]
    num_elements: int
    note: Mapping[str, float]

    @property
    def bytes_up(self) -> int:
        """All bytes from camera to server."""
        return self.ledger.data_bytes + self.ledger.probe_bytes


@dataclasses.dataclass(eq=False)
class _Session:
    controller: KnobController
    knobs: Knobs = dataclasses.field(default_factory=dict)
    feedback_of: Interval | None = None
    delivery: Delivery | None = None
    results: Sequence[Any] = ()
    records: list[Record] = dataclasses.field(default_factory=list)


def run_clip(
    application: Application,
    controllers: Mapping[Any, KnobController],
    clip: Sequence[npt.NDArray[Any]],
    *,
    has_cache: bool = True,
) -> dict[Any, list[Record]]:
    """Run controllers over a clip, each for itself.

    Args:
        application: knobs and network.
        controllers: fresh ones, by any key.
        clip: the intervals' data.
        has_cache: share computations between controllers.

    Returns:
        One record per interval, by the same keys.
    """
    sessions = {key: _Session(controller) for key, controller in controllers.items()}
    for t, data in enumerate(clip):
        interval = Interval(application, data, has_cache=has_cache)
        best = interval.deliver(application.best)
        truth = interval.truth
        for session in sessions.values():
            session.records.append(_step(application, session, t, interval, best, truth))
    return {key: session.records for key, session in sessions.items()}


def _step(
    application: Application, session: _Session, t: int, interval: Interval, best: Delivery, truth: list[Any]
) -> Record:
    ledger = Ledger()
    controller = session.controller
    foresee = getattr(controller, "foresee", None)
    if foresee is not None:
        # The oracle alone sees the interval that it chooses for; what it looks at is not charged.
        free = Ledger()
        knobs = foresee(Feedback(t, best, truth, Camera(interval, free), Server(interval, free)))
    else:
        past = session.feedback_of or interval
        camera, server = Camera(past, ledger), Server(past, ledger)
        if session.feedback_of is None:  # nothing has been recorded yet: there is nothing to encode or to analyse
            camera, server = _Nothing(ledger), _Nothing(ledger)  # type: ignore[assignment]
        knobs = controller.next_knobs(Feedback(t, session.delivery, session.results, camera, server))
    prepare = getattr(controller, "prepare", None)
    if prepare is not None:
        knobs = prepare(Camera(interval, ledger))
    delivery = interval.deliver(knobs)
    results = interval.infer(delivery)
    ledger.data_bytes += delivery.num_bytes
    ledger.camera_frames += len(delivery.kept)
    ledger.forwards += len(delivery.kept)
    refine = getattr(controller, "refine", None)
    if refine is not None:
        again = refine(Feedback(t, delivery, results, Camera(interval, ledger), Server(interval, ledger)))
        if again is not None:
            knobs, delivery = again, interval.deliver(again)
            results = interval.infer(delivery)
            ledger.data_bytes += delivery.num_bytes
            ledger.camera_frames += len(delivery.kept)
            ledger.forwards += len(delivery.kept)
            ledger.search_forwards += len(delivery.kept)
    session.feedback_of, session.delivery, session.results = interval, delivery, results
    accuracy = interval.score(results, truth)
    note = dict(getattr(controller, "note", {}) or {})
    return Record(t, knobs, accuracy, best.num_bytes, ledger, delivery.kept, len(interval.data), note)


class _Nothing:
    """Camera and server before the first interval."""

    def __init__(self, ledger: Ledger) -> None:
        del ledger

    def __getattr__(self, name: str) -> Any:
        raise ConfigError(f"{name}: nothing was recorded before the first interval; return knobs without looking.")
