"""OneAdapt itself: one backward pass per interval, a few more encodes, and a step along the gradient for every knob.

interval t-1 as it arrived --backward of the last element--> G --to the camera-->
camera: x(c*), x(neighbour of each knob) --> err, bytes --> AccGrad_k, dR/ds_k --> s_k --> knobs of interval t
"""

import dataclasses
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError
from oneadapt import ascent
from oneadapt.api import METHODS, Delivery, Feedback, Knobs
from oneadapt.gradient import Gradient, accuracy_gradient
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
        if self.scale is not None and not self.scale > 0:
            raise ConfigError(f"scale={self.scale} must be > 0.")
        ascent.optimiser(self.optimiser, self.rate, self.max_step)

    def controller(self, application: Application) -> "Ascent":
        """See `oneadapt.api.Method.controller`."""
        return Ascent(self, application)


@METHODS.add("oneadapt_plain", label="OneAdapt (paper's rule)", color="#56B4E9", marker="v")
@dataclasses.dataclass(frozen=True)
class OneAdaptPlain(OneAdapt):
    """The paper's rule as it stands: plain ascent, the dear neighbour is used, no guard."""

    rounding: ascent.Rounding = "dear"
    has_guard: bool = False


@METHODS.add("oneadapt_adam", label="OneAdapt (released code's Adam)", color="#5E4FA2", marker="<")
@dataclasses.dataclass(frozen=True)
class OneAdaptAdam(OneAdaptPlain):
    """The released code's optimiser: Adam with betas 0.5, the dear neighbour is used, no guard."""

    rate: float = 0.15
    optimiser: Literal["plain", "adam"] = "adam"


DEAD, DIM = 0.5, 0.8
"""Shares of a probe's utility below which the guard raises all knobs, or takes the gradient from the probe."""


class Ascent:
    """The controller of one stream. `note` says what it saw: utility, states, whether the guard acted."""

    def __init__(self, method: OneAdapt, application: Application) -> None:
        self.method = method
        self.application = application
        self.states_K: npt.NDArray[np.float64] = np.ones(len(application.knobs))
        self.scale = method.scale if method.scale is not None else float(application.extra.get("scale", 1.0))
        self.reference = 0.0
        self._probed_at = 0
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
        raised = 0.0
        if self.method.has_guard:
            gradient, raised = self._guard(feedback, delivery, gradient)
        feedback.camera.receive(gradient.num_bytes)
        best = feedback.camera.encode(self.application.best)
        accuracy_K, resource_K = self.gradients(gradient, delivery, best, feedback.camera)
        ascent_K = self.scale * accuracy_K - self.method.trade * resource_K
        change_K = self._optimiser.step(ascent_K)
        if raised:
            # In the dead zone the gradient says nothing; up is where results are.
            change_K = np.maximum(change_K, raised * self._deltas())
        self.states_K = ascent.move(self.states_K, change_K)

    def gradients(
        self, gradient: Gradient, delivery: Delivery, best: Delivery, camera: Camera
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """AccGrad and dR/ds of every knob, around the setting that was used: one more encode per knob."""
        accuracy, resource = [], []
        for knob, state in zip(self.application.knobs, self.states_K, strict=True):
            at = ascent.cell(knob, float(state), self.method.rounding)
            dear, cheap = (
                delivery if value == delivery.knobs[knob.name] else camera.encode({**delivery.knobs, knob.name: value})
                for value in (at.dear, at.cheap)
            )
            accuracy.append(accuracy_gradient(gradient, dear, cheap, best, at.delta))
            share = self.application.share
            resource.append((share(dear, best) - share(cheap, best)) / at.delta)
        return np.array(accuracy), np.array(resource)

    def _deltas(self) -> npt.NDArray[np.float64]:
        return np.array([1 / (len(knob.values) - 1) for knob in self.application.knobs])

    def _guard(self, feedback: Feedback, delivery: Delivery, gradient: Gradient) -> tuple[Gradient, float]:
        """The gradient to use, and by how many steps to raise all knobs.

        At poor settings no score is near the threshold, so the gradient is near 0 and the price of bytes alone decides: a dead
        zone that plain ascent does not leave. The last frame at the best setting, sent now and then or when the utility has
        fallen, shows how many results there should be.
        """
        # DEVIATION oneadapt-1: a guard; the paper's rule has none (method oneadapt_plain).
        if key_of(delivery.knobs) == key_of(self.application.best):
            self.reference, self._probed_at = gradient.utility, feedback.t  # what was sent is as good as a probe
            return gradient, 0.0
        is_due = feedback.t - self._probed_at >= self.method.probe_every
        has_fallen = gradient.utility < DEAD * self.reference
        if not (is_due or has_fallen):
            return gradient, 0.0
        self._probed_at = feedback.t
        probe = feedback.camera.encode_last(self.application.best)
        feedback.camera.send(probe)
        there = feedback.server.saliency(probe, is_analysed=False)
        self.reference = there.utility
        self.note["probed"] = 1.0
        if there.utility < 0.5 or gradient.utility >= DIM * there.utility:
            return gradient, 0.0
        self.note["guarded"] = 1.0
        return Gradient.of(there, self.application.task.block), 1.0 if gradient.utility < DEAD * there.utility else 0.0
