"""Which frames to analyse: OneAdapt's choice of Reducto's thresholds, and Reducto with fixed and with profiled thresholds.

The resource is frames analysed (computing at the server). Dropped frames repeat the last one that was kept, so their cost in
accuracy is that of stale results.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError
from oneadapt import filtering
from oneadapt.api import METHODS, Delivery, Feedback, Knobs
from oneadapt.baselines import Fixed
from oneadapt.controllers import Calibrator
from oneadapt.gradient import Gradient
from oneadapt.profiles import calibration_of
from oneadapt.session import Application, key_of, shown_places

PRICES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


def _biases(application: Application) -> list[tuple[float, ...]]:
    return [tuple(value) for value in application.knob("filter").values]


@METHODS.add("oneadapt_filter", label="OneAdapt", color="#0072B2", marker="o")
@dataclasses.dataclass(frozen=True)
class OneAdaptFilter:
    """OneAdapt's closed form for the frame filter: every threshold of a grid, judged by one gradient, without the network.

    Attributes:
        trade: price of analysing all frames, in units of accuracy.
        scale: accuracy lost per share of results at risk; None takes the application's calibration.
        is_calibrating: correct the scale by intervals whose frames were all analysed (method oneadapt_filter_calibrating).
        probe_every: intervals after which all frames are analysed, if only some have been since, when calibrating.
    """

    trade: float = 0.2
    scale: float | None = None
    is_calibrating: bool = False
    probe_every: int = 10

    pipeline: ClassVar[str] = "filter"
    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("trade", PRICES)

    def __post_init__(self) -> None:
        if not self.trade >= 0:
            raise ConfigError(f"trade={self.trade} must be >= 0.")
        if self.probe_every < 1:
            raise ConfigError(f"probe_every={self.probe_every} must be at least 1.")

    def controller(self, application: Application) -> "FilterController":
        """See `oneadapt.api.Method.controller`."""
        return FilterController(self, application)


@METHODS.add("oneadapt_filter_calibrating", label="OneAdapt (calibrating)", color="#117733", marker="D")
@dataclasses.dataclass(frozen=True)
class OneAdaptFilterCalibrating(OneAdaptFilter):
    """The same, with a scale that is corrected by intervals whose frames were all analysed (ours)."""

    is_calibrating: bool = True


class FilterController:
    """One backward pass; the camera filters its own frames with every threshold and compares them as it decodes them itself."""

    def __init__(self, method: OneAdaptFilter, application: Application) -> None:
        self.method = method
        self.application = application
        known = calibration_of(application, "best")
        self.calibrator = Calibrator(known if method.scale is None else dataclasses.replace(known, scale=method.scale))
        self._known_at = 0

    def next_knobs(self, feedback: Feedback) -> Knobs:
        """See `oneadapt.api.KnobController.next_knobs`."""
        application = self.application
        if feedback.delivery is None:
            return application.best
        gradient = Gradient.of(feedback.server.saliency(feedback.delivery), application.task.block)
        feedback.camera.receive(gradient.num_bytes)
        data = feedback.camera.data
        feedback.camera.charge_features(len(data))
        features = filtering.pair_features(data)
        # As decoded, not as recorded: sensor noise differs from frame to frame, and the network sees little of it.
        is_whole = key_of(feedback.delivery.knobs) == key_of(application.best)
        x = (feedback.delivery if is_whole else feedback.camera.encode(application.best)).x
        # DEVIATION oneadapt-5: the loss enters linearly, in units of accuracy, not as log10(1e7 * loss): one lambda for all
        # knobs.
        candidates: dict[tuple[int, ...], tuple[float, ...]] = {}
        for biases in _biases(application):
            candidates.setdefault(filtering.choose(features, biases), biases)
        shown = {kept: np.asarray(kept)[shown_places(kept, len(data))] for kept in candidates}
        risk = {kept: gradient.risk(x[places], x) for kept, places in shown.items()}
        if self.method.is_calibrating:
            self._calibrate(feedback, feedback.delivery if is_whole else None, shown, risk)

        def value(kept: tuple[int, ...]) -> float:
            return -self.calibrator.scale * risk[kept] - self.method.trade * len(kept) / len(data)

        return {**application.best, "filter": candidates[max(candidates, key=value)]}

    def _calibrate(
        self,
        feedback: Feedback,
        whole: Delivery | None,
        shown: Mapping[tuple[int, ...], npt.NDArray[np.int64]],
        risk: Mapping[tuple[int, ...], float],
    ) -> None:
        """Where all frames have been analysed, what stale results would have lost is known: for every candidate, for nothing.

        After `probe_every` intervals without such an interval, all frames of one are sent and analysed.
        """
        if whole is not None:
            fresh = list(feedback.results)
        elif feedback.t - self._known_at >= self.method.probe_every:
            everything = feedback.camera.encode(self.application.best)
            feedback.camera.send(everything)
            fresh = feedback.server.infer(everything)
        else:
            return
        self._known_at = feedback.t
        accuracy = feedback.server.task.accuracy
        losses = [1 - accuracy([fresh[i] for i in places], fresh) for places in shown.values()]
        self.calibrator.learn(float(np.mean(losses)), float(np.mean(list(risk.values()))))


@METHODS.add("reducto", label="Reducto", color="#D55E00", marker="s")
@dataclasses.dataclass(frozen=True)
class Reducto:
    """Reducto with a fixed threshold, the same for both features.

    Attributes:
        bias: in deviations of the features; -100 sends all frames.
    """

    bias: float = 0.0

    pipeline: ClassVar[str] = "filter"
    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("bias", (-100.0, -1.5, -1.0, -0.5, 0.0, 1.0))

    def controller(self, application: Application) -> Fixed:
        """See `oneadapt.api.Method.controller`."""
        return Fixed({**application.best, "filter": (self.bias,) * len(filtering.FEATURES)})


@METHODS.add("reducto_profiled", label="Reducto with profiling", color="#E69F00", marker="P")
@dataclasses.dataclass(frozen=True)
class ReductoProfiled:
    """Reducto whose threshold is chosen by true accuracy on the finished interval, every few intervals.

    Attributes:
        trade: price of analysing all frames.
        every: intervals between two searches (4 s in the paper's code).
    """

    trade: float = 0.2
    every: int = 4

    pipeline: ClassVar[str] = "filter"
    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("trade", PRICES)

    def __post_init__(self) -> None:
        if not self.trade >= 0 or self.every < 1:
            raise ConfigError(f"trade={self.trade} must be >= 0 and every={self.every} at least 1.")

    def controller(self, application: Application) -> "ReductoController":
        """See `oneadapt.api.Method.controller`."""
        return ReductoController(self, application)


class ReductoController:
    """All frames of one interval are analysed, then every threshold is judged by stale results against fresh ones."""

    def __init__(self, method: ReductoProfiled, application: Application) -> None:
        self.method = method
        self.application = application
        self.biases: Any = application.best["filter"]

    def next_knobs(self, feedback: Feedback) -> Knobs:
        """See `oneadapt.api.KnobController.next_knobs`."""
        if feedback.delivery is not None and (feedback.t - 1) % self.method.every == 0:
            self._search(feedback)
        return {**self.application.best, "filter": self.biases}

    def _search(self, feedback: Feedback) -> None:
        assert feedback.delivery is not None
        data = feedback.camera.data
        if key_of(feedback.delivery.knobs) == key_of(self.application.best):
            fresh = list(feedback.results)
        else:
            everything = feedback.camera.encode(self.application.best)
            feedback.camera.send(everything)
            fresh = feedback.server.infer(everything)
        feedback.camera.charge_features(len(data))
        features = filtering.pair_features(data)
        best_value = -math.inf
        for biases in _biases(self.application):
            kept = filtering.choose(features, biases)
            shown = np.asarray(kept)[shown_places(kept, len(data))]
            accuracy = feedback.server.task.accuracy([fresh[i] for i in shown], fresh)
            value = accuracy - self.method.trade * len(kept) / len(data)
            if value > best_value:
                self.biases, best_value = biases, value
