"""Offline profiles: what every setting costs and gives on a few clips that are not those of the test.

All methods that need numbers from before the stream starts (OneAdapt's scale, the static setting, the learned controller) take
them from the same profile, so that none is tuned with more data than another.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from oneadapt.api import Delivery, Knobs
from oneadapt.gradient import Gradient, Reference, accuracy_gradient, reference_of
from oneadapt.session import Application, Interval, key_of

# T intervals, S settings, F features


REFERENCES: tuple[Reference, ...] = ("best", "sensor")


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What brings an estimate to units of accuracy.

    Attributes:
        scale: accuracy lost per share of results at risk.
        step: mean estimated loss of one step of a knob, in shares of results at risk.
    """

    scale: float = 1.0
    step: float = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
    """Every setting on every interval of some clips.

    Attributes:
        settings: the grid.
        accuracy_TS, share_TS: accuracy and resource of each.
        features_TF: content features of each interval, from the sensor alone.
        true_M: loss of accuracy of every one-step-cheaper move on the grid.
        estimated_M: the estimate of each, by what the input is compared with.
        from_M: accuracy before each move.
        move_knob_M: which knob moved.
        forwards, backwards: what making it has cost.
    """

    settings: tuple[dict[str, Any], ...]
    accuracy_TS: npt.NDArray[np.float64]
    share_TS: npt.NDArray[np.float64]
    features_TF: npt.NDArray[np.float64]
    estimated_M: Mapping[Reference, npt.NDArray[np.float64]]
    true_M: npt.NDArray[np.float64]
    from_M: npt.NDArray[np.float64]
    move_knob_M: tuple[str, ...]
    forwards: int
    backwards: int

    def calibration(self, reference: Reference) -> Calibration:
        """Mean true loss over mean estimated loss of one-step moves, for one way to estimate.

        The mean of the losses, not the median of their ratios: most single moves change nothing in F1. For "sensor", moves
        count by the accuracy that they begin with: where nothing is recognised any more, large changes of the input lose nothing,
        which says nothing about settings that are worth using. (For "best" all count alike, as the first steps are overrated.)
        """
        # DEVIATION oneadapt-2: lambda in units of accuracy through one measured scale, instead of the code's constant 1e7.
        estimated_M = self.estimated_M[reference]
        weight_M = self.from_M if reference == "sensor" else np.ones(len(estimated_M))
        total = float(weight_M @ estimated_M)
        if not total > 0:
            return Calibration()
        return Calibration(max(float(weight_M @ self.true_M), 1e-6) / total, total / float(weight_M.sum()))

    def best_fixed(self, trade: float) -> dict[str, Any]:
        """The setting with the best mean of accuracy - trade * resource."""
        value_S = self.accuracy_TS.mean(0) - trade * self.share_TS.mean(0)
        return self.settings[int(value_S.argmax())]


def content_features(data: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Four numbers about an interval from the sensor alone: level, spread, detail within an element, change between elements."""
    x = data.astype(np.float64)
    x = x if x.ndim > 2 else x[:, None]
    detail = np.abs(np.diff(x, axis=2)).mean()
    change = np.abs(np.diff(x, axis=0)).mean() if len(x) > 1 else 0.0
    return np.array([x.mean(), x.std(), detail, change])


def one_step_moves(application: Application, settings: Sequence[Knobs]) -> list[tuple[int, int, str, float]]:
    """(dear, cheap, knob, delta) for every pair of settings that differ by one step of one knob."""
    index = {key_of(setting): place for place, setting in enumerate(settings)}
    moves = []
    for place, setting in enumerate(settings):
        for knob in application.knobs:
            at = list(knob.values).index(setting[knob.name])
            if at + 1 < len(knob.values):
                cheaper = key_of({**setting, knob.name: knob.values[at + 1]})
                if cheaper in index:
                    moves.append((place, index[cheaper], knob.name, 1 / (len(knob.values) - 1)))
    return moves


def make_profile(
    application: Application,
    clips: Sequence[Sequence[npt.NDArray[Any]]],
    settings: Sequence[dict[str, Any]] | None = None,
) -> Profile:
    """Run every setting (or those given) on every interval of the clips, with one backward pass each."""
    settings = application.grid() if settings is None else list(settings)
    moves = one_step_moves(application, settings)
    accuracy, share, features, true, before = [], [], [], [], []
    estimated: dict[Reference, list[float]] = {reference: [] for reference in REFERENCES}
    forwards = backwards = 0
    for clip in clips:
        for data in clip:
            interval = Interval(application, data)
            best = interval.deliver(application.best)
            truth = interval.truth
            sent: list[Delivery] = [interval.deliver(setting) for setting in settings]
            scores = [application.task.accuracy(interval.infer(one), truth) for one in sent]
            forwards += sum(len(one.kept) for one in sent)
            backwards += len(sent)
            gradients = [Gradient.of(interval.saliency(one), application.task.block) for one in sent]
            sensor_NHWC = application.to_input(data)
            for dear, cheap, _, delta in moves:
                for reference, losses in estimated.items():
                    x_ref = reference_of(reference, sensor_NHWC, best)
                    losses.append(accuracy_gradient(gradients[dear], sent[dear], sent[cheap], x_ref, delta) * delta)
                true.append(scores[dear] - scores[cheap])
                before.append(scores[dear])
            accuracy.append(scores)
            share.append([application.share(one, best) for one in sent])
            features.append(content_features(data))
    return Profile(
        tuple(settings),
        np.array(accuracy),
        np.array(share),
        np.array(features),
        {reference: np.array(losses) for reference, losses in estimated.items()},
        np.array(true),
        np.array(before),
        tuple(knob for _ in range(len(accuracy)) for _, _, knob, _ in moves),
        forwards,
        backwards,
    )


def with_profile(application: Application, profile: Profile) -> Application:
    """The application with a profile for its methods to use."""
    calibrations = {reference: profile.calibration(reference) for reference in REFERENCES}
    extra = {**application.extra, "profile": profile, "calibrations": calibrations}
    return dataclasses.replace(application, extra=extra)


def calibration_of(application: Application, reference: Reference) -> Calibration:
    """The application's calibration; scale 1 if it has no profile."""
    calibrations: Mapping[Reference, Calibration] = application.extra.get("calibrations", {})
    return calibrations.get(reference, Calibration())
