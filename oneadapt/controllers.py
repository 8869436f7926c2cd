"""OneAdapt itself: one backward pass per interval, a few more encodes, and a step along the gradient for every knob.

interval t-1 as it arrived --backward of the last element--> G --to the camera-->
camera: x_ref, x(neighbour of each knob) --> err, bytes --> AccGrad_k, dR/ds_k --> s_k --> knobs of interval t
a probe now and then: the last element at another setting --> true against estimated loss --> scale (oneadapt_calibrating)
"""

import dataclasses
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError
from oneadapt import ascent
from oneadapt.api import METHODS, Delivery, Feedback, Knobs
from oneadapt.gradient import Gradient, Reference, accuracy_gradient, reference_of
from oneadapt.inputs import FloatArray
from oneadapt.profiles import Calibration, calibration_of
from oneadapt.session import Application, Camera, key_of

TRADES = (0.05, 0.1, 0.2, 0.3, 0.45, 0.7, 1.0)
"""Prices of all bytes, in accuracy, that experiments sweep: the same for every method that has one."""


@METHODS.add("oneadapt", label="OneAdapt (guarded)", color="#0072B2", marker="o")
@dataclasses.dataclass(frozen=True)
class OneAdapt:
    """Gradient ascent with a guard against the dead zone (ours): probes of one frame at the best setting.

    Attributes:
        trade: lambda, the price of all bytes (or frames) in units of accuracy.
        rate: eta of plain ascent, or Adam's learning rate.
        optimiser: "plain" (the paper's rule) or "adam" (the official code).
        max_step: largest change of a state per interval, plain ascent.
        every: a backward pass every n-th interval; knobs stay in between.
        rounding: see `oneadapt.ascent.cell`.
        has_guard: watch the utility, and probe.
        probe_every: intervals between two probes, with a guard.
        reference: what inputs are compared with, see `oneadapt.gradient`: the sensor's own data ("sensor"), or what arrives at
            the best setting ("best").
        is_calibrating: correct the scale by what probes show, with a guard (method oneadapt_calibrating).
        scale: accuracy lost per share of results at risk; None takes the application's calibration.
    """

    trade: float = 0.3
    rate: float = 0.5
    optimiser: Literal["plain", "adam"] = "plain"
    max_step: float = 0.2
    every: int = 1
    rounding: ascent.Rounding = "nearest"
    has_guard: bool = True
    probe_every: int = 10
    reference: Reference = "sensor"
    is_calibrating: bool = False
    scale: float | None = None

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("trade", TRADES)

    def __post_init__(self) -> None:
        if not self.trade >= 0 or not self.rate > 0 or not 0 < self.max_step <= 1:
            raise ConfigError(
                f"trade={self.trade} must be >= 0, rate={self.rate} > 0 and max_step={self.max_step} in (0, 1]."
            )
        if self.every < 1 or self.probe_every < 1:
            raise ConfigError(f"every={self.every} and probe_every={self.probe_every} must be at least 1.")
        if self.rounding not in ("dear", "nearest"):
            raise ConfigError(f"rounding={self.rounding!r} must be dear or nearest.")
        if self.reference not in ("best", "sensor"):
            raise ConfigError(f"reference={self.reference!r} must be best or sensor.")
        if self.scale is not None and not self.scale > 0:
            raise ConfigError(f"scale={self.scale} must be > 0.")
        ascent.optimiser(self.optimiser, self.rate, self.max_step)

    def controller(self, application: Application) -> "Ascent":
        """See `oneadapt.api.Method.controller`."""
        return Ascent(self, application)


@METHODS.add("oneadapt_calibrating", label="OneAdapt (guarded, calibrating)", color="#117733", marker="D")
@dataclasses.dataclass(frozen=True)
class OneAdaptCalibrating(OneAdapt):
    """The guarded rule that also corrects its scale by what probes show."""

    is_calibrating: bool = True


@METHODS.add("oneadapt_plain", label="OneAdapt (paper's rule)", color="#56B4E9", marker="v")
@dataclasses.dataclass(frozen=True)
class OneAdaptPlain(OneAdapt):
    """The paper's rule as it stands: plain ascent, the dear neighbour is used, no guard, estimates against the best setting."""

    rounding: ascent.Rounding = "dear"
    has_guard: bool = False
    reference: Reference = "best"


@METHODS.add("oneadapt_adam", label="OneAdapt (released code's Adam)", color="#5E4FA2", marker="<")
@dataclasses.dataclass(frozen=True)
class OneAdaptAdam(OneAdaptPlain):
    """The released code's optimiser: Adam with betas 0.5, the dear neighbour is used, no guard."""

    rate: float = 0.15
    optimiser: Literal["plain", "adam"] = "adam"


DEAD, DIM = 0.5, 0.8
"""Shares of a probe's utility below which the guard raises all knobs, or takes the gradient from the probe."""
PRIOR_STEPS, FORGET, FURTHEST = 8.0, 0.9, 4.0
"""Probes of an average step that the offline calibration counts for, since one element's loss is noisy; weight of earlier probes
at each new one, since content changes; how far the scale may move from the offline one, as a factor."""


class Ascent:
    """The controller of one stream. `note` says what it saw: utility, states, whether the guard acted."""

    def __init__(self, method: OneAdapt, application: Application) -> None:
        self.method = method
        self.application = application
        self.states_K: npt.NDArray[np.float64] = np.ones(len(application.knobs))
        known = calibration_of(application, method.reference)
        if method.scale is not None:
            known = dataclasses.replace(known, scale=method.scale)
        self.calibrator = Calibrator(known)
        self.utility_there = 0.0
        self._probed_at = 0
        self._tried_at, self._try_after = 0, 1
        self.note: dict[str, float] = {}
        self._optimiser = ascent.optimiser(method.optimiser, method.rate, method.max_step)

    def next_knobs(self, feedback: Feedback) -> Knobs:
        """See `oneadapt.api.KnobController.next_knobs`."""
        self.note = {}
        if feedback.delivery is not None and (feedback.t - 1) % self.method.every == 0:
            self._learn(feedback, feedback.delivery)
        self.note |= {
            f"state_{knob.name}": float(state)
            for knob, state in zip(self.application.knobs, self.states_K, strict=True)
        }
        return self._setting()

    def _setting(self) -> dict[str, Any]:
        return {
            knob.name: ascent.cell(knob, float(state), self.method.rounding).value
            for knob, state in zip(self.application.knobs, self.states_K, strict=True)
        }

    def _learn(self, feedback: Feedback, delivery: Delivery) -> None:
        saliency = feedback.server.saliency(delivery)
        gradient = Gradient.of(saliency, self.application.task.block)
        self.note["utility"] = saliency.utility
        best = feedback.camera.encode(self.application.best)
        reference_NHWC = reference_of(self.method.reference, self.application.to_input(feedback.camera.data), best)
        raised = 0.0
        if self.method.has_guard:
            gradient, raised = self._guard(feedback, delivery, gradient, best, reference_NHWC)
        feedback.camera.receive(gradient.num_bytes)
        accuracy_K, resource_K = self.gradients(gradient, delivery, best, feedback.camera, reference_NHWC)
        if self.method.has_guard and self.method.is_calibrating:
            self._try_cheaper(feedback, delivery, accuracy_K, resource_K)
        self.note["scale"] = self.calibrator.scale
        ascent_K = self.calibrator.scale * accuracy_K - self.method.trade * resource_K
        change_K = self._optimiser.step(ascent_K)
        if raised:
            # In the dead zone the gradient says nothing; up is where results are.
            change_K = np.maximum(change_K, raised * self._deltas())
        self.states_K = ascent.move(self.states_K, change_K)

    def gradients(
        self, gradient: Gradient, delivery: Delivery, best: Delivery, camera: Camera, reference_NHWC: FloatArray
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """AccGrad and dR/ds of every knob, around the setting that was used: one more encode per knob."""
        accuracy, resource = [], []
        for knob, state in zip(self.application.knobs, self.states_K, strict=True):
            at = ascent.cell(knob, float(state), self.method.rounding)
            dear, cheap = (
                delivery if value == delivery.knobs[knob.name] else camera.encode({**delivery.knobs, knob.name: value})
                for value in (at.dear, at.cheap)
            )
            accuracy.append(accuracy_gradient(gradient, dear, cheap, reference_NHWC, at.delta))
            share = self.application.share
            resource.append((share(dear, best) - share(cheap, best)) / at.delta)
        return np.array(accuracy), np.array(resource)

    def _deltas(self) -> npt.NDArray[np.float64]:
        return np.array([1 / (len(knob.values) - 1) for knob in self.application.knobs])

    def _guard(
        self,
        feedback: Feedback,
        delivery: Delivery,
        gradient: Gradient,
        best: Delivery,
        reference_NHWC: FloatArray,
    ) -> tuple[Gradient, float]:
        """The gradient to use, and by how many steps to raise all knobs.

        At poor settings no score is near the threshold, so the gradient is near 0 and the price of bytes alone decides: a dead
        zone that plain ascent does not leave. The last frame at the best setting, sent now and then or when the utility has
        fallen, shows how many results there should be.
        """
        # DEVIATION oneadapt-1: a guard; the paper's rule has none (method oneadapt_plain).
        if key_of(delivery.knobs) == key_of(self.application.best):
            self.utility_there, self._probed_at = gradient.utility, feedback.t  # what was sent is as good as a probe
            return gradient, 0.0
        is_due = feedback.t - self._probed_at >= self.method.probe_every
        has_fallen = gradient.utility < DEAD * self.utility_there
        if not (is_due or has_fallen):
            return gradient, 0.0
        self._probed_at = feedback.t
        count = self._probe_elements(delivery)
        probe, truth = self._probe(feedback, self.application.best, count)
        there = feedback.server.saliency(probe)
        self.utility_there = there.utility
        if self.method.is_calibrating:
            loss = 1 - feedback.server.score(list(feedback.results)[-count:], truth)
            self.calibrator.learn(
                loss, gradient.risk(delivery.x, reference_NHWC) - gradient.risk(best.x, reference_NHWC)
            )
        if there.utility < 0.5 or gradient.utility >= DIM * there.utility:
            return gradient, 0.0
        self.note["guarded"] = 1.0
        return Gradient.of(there, self.application.task.block), 1.0 if gradient.utility < DEAD * there.utility else 0.0

    def _probe_elements(self, delivery: Delivery) -> int:
        """How many elements a probe holds: as few as the task can score."""
        return min(int(getattr(self.application.task, "least_elements", 1)), len(delivery.x))

    def _probe(self, feedback: Feedback, knobs: Knobs, count: int) -> tuple[Delivery, list[Any]]:
        """The last elements at another setting, sent and analysed: what arrives, and the results."""
        probe = feedback.camera.encode_last(knobs, count)
        feedback.camera.send(probe)
        self.note["probed"] = self.note.get("probed", 0.0) + count
        return probe, feedback.server.infer(probe)

    def _try_cheaper(
        self,
        feedback: Feedback,
        delivery: Delivery,
        accuracy_K: npt.NDArray[np.float64],
        resource_K: npt.NDArray[np.float64],
    ) -> None:
        """A rule that stays at the best setting sees no loss, so a scale that is too high would never be found out.

        Now and then the server encodes the last element of what it has once more, at the cheaper neighbour that is nearest to
        being worth it, and analyses it: the first time after one interval, then after twice as many each time, up to
        `probe_every`. It costs a forward pass and no bytes.
        """
        deltas_K = self._deltas()
        promise_K = (self.method.trade * resource_K - self.calibrator.scale * accuracy_K) * deltas_K
        place = int(promise_K.argmax())
        is_stuck = key_of(delivery.knobs) == key_of(self.application.best) and promise_K[place] < 0
        if not (is_stuck and self.method.trade and feedback.t - self._tried_at >= self._try_after):
            return
        self._tried_at, self._try_after = feedback.t, min(2 * self._try_after, self.method.probe_every)
        knob = self.application.knobs[place]
        count = self._probe_elements(delivery)
        cheaper = feedback.server.encode_again(delivery, {**delivery.knobs, knob.name: knob.values[1]}, count)
        self.note["tried"] = float(count)
        loss = 1 - feedback.server.score(feedback.server.infer(cheaper), list(feedback.results)[-count:])
        self.calibrator.learn(loss, float(accuracy_K[place] * deltas_K[place]))


class Calibrator:
    """The scale of one stream: true over estimated loss, of the offline profile at first, then of probes too.

    Attributes:
        scale: accuracy lost per share of results at risk.
    """

    def __init__(self, prior: Calibration) -> None:
        self._prior = prior
        self._prior_estimated = PRIOR_STEPS * prior.step
        self._prior_true = self._prior_estimated * prior.scale
        self._estimated = self._true = 0.0
        self.scale = prior.scale

    def learn(self, true: float, estimated: float) -> None:
        """Take in one probe: the loss of accuracy that it showed, and the estimate of the same loss (without scale)."""
        if estimated <= 0:
            return
        self._true = FORGET * self._true + true
        self._estimated = FORGET * self._estimated + estimated
        scale = (self._prior_true + self._true) / (self._prior_estimated + self._estimated)
        # One lost result where next to nothing was at risk must not forbid every step from then on.
        self.scale = min(max(scale, self._prior.scale / FURTHEST), self._prior.scale * FURTHEST)
