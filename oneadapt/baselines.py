"""What OneAdapt is compared with on knobs of the encoder: fixed settings, profilers, a learned controller, and the oracle.

Profilers run the network on other settings of an interval that is over. What they send and run is charged, and their answer comes
late: at most `extra_frames` frames are analysed per interval beside the stream's own, and the old setting stays meanwhile.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError
from oneadapt.api import METHODS, Delivery, Feedback, Knobs
from oneadapt.controllers import TRADES
from oneadapt.profiles import Profile, content_features
from oneadapt.session import Application, key_of


def _check_trade(trade: float) -> None:
    if not trade >= 0:
        raise ConfigError(f"trade={trade} must be >= 0.")


@dataclasses.dataclass
class Fixed:
    """A controller that never moves."""

    knobs: Knobs

    def next_knobs(self, feedback: Feedback) -> Knobs:
        """See `oneadapt.api.KnobController.next_knobs`."""
        return self.knobs


def _profile(application: Application, who: str) -> Profile:
    profile = application.extra.get("profile")
    if not isinstance(profile, Profile):
        raise ConfigError(f"{who} needs an offline profile; make one with oneadapt.profiles.make_profile.")
    return profile


@METHODS.add("static", label="Static, profiled offline", color="#7F7F7F", marker="s")
@dataclasses.dataclass(frozen=True)
class Static:
    """The fixed setting that is best on the offline profile; or any fixed setting.

    Attributes:
        trade: price of all bytes.
        place: index of a setting in `Application.grid()` to use instead; -1: the profile's best.
    """

    trade: float = 0.3
    place: int = -1

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("trade", TRADES)

    def __post_init__(self) -> None:
        _check_trade(self.trade)

    def controller(self, application: Application) -> Fixed:
        """See `oneadapt.api.Method.controller`."""
        if self.place >= 0:
            grid = application.grid()
            if self.place >= len(grid):
                raise ConfigError(f"place={self.place} is not one of the {len(grid)} settings of {application.name}.")
            return Fixed(grid[self.place])
        return Fixed(_profile(application, "static").best_fixed(self.trade))


@METHODS.add("static_hindsight", label="Static, best in hindsight", color="#B0B0B0", marker="D")
@dataclasses.dataclass(frozen=True)
class StaticHindsight:
    """The fixed setting that is best on the very clip, found afterwards: the static Pareto front, not a system."""

    trade: float = 0.3

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("trade", TRADES)

    def __post_init__(self) -> None:
        _check_trade(self.trade)

    def controller(self, application: Application) -> Fixed:
        """See `oneadapt.api.Method.controller`. Without a clip's own profile, the offline one is used."""
        known = application.extra.get("hindsight") or _profile(application, "static_hindsight")
        return Fixed(known.best_fixed(self.trade))


@METHODS.add("oracle", label="Oracle per interval", color="#333333", marker="*")
@dataclasses.dataclass(frozen=True)
class Oracle:
    """The best setting of each interval, found with knowledge of that interval, for nothing: the head-room, not a system."""

    trade: float = 0.3

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("trade", TRADES)

    def __post_init__(self) -> None:
        _check_trade(self.trade)

    def controller(self, application: Application) -> "OracleController":
        """See `oneadapt.api.Method.controller`."""
        return OracleController(self.trade, application)


@dataclasses.dataclass
class OracleController:
    """Exhaustive search with knowledge of the interval."""

    trade: float
    application: Application

    def next_knobs(self, feedback: Feedback) -> Knobs:
        """Not used: the harness asks `foresee`."""
        return self.application.best

    def foresee(self, now: Feedback) -> Knobs:
        """The best knobs of the interval `now.t`, whose data, and results at the best setting, are given."""
        assert now.delivery is not None
        best, truth = now.delivery, now.results
        chosen, value = self.application.best, -math.inf
        for setting in self.application.grid():
            sent = now.camera.encode(setting)
            accuracy = now.server.score(now.server.infer(sent), truth)
            if (own := accuracy - self.trade * self.application.share(sent, best)) > value:
                chosen, value = setting, own
        return chosen


@dataclasses.dataclass
class _Profiler:
    """What profilers share: an answer that comes late, and the price of looking."""

    trade: float
    extra_frames: float
    application: Application
    current: dict[str, Any] = dataclasses.field(default_factory=dict)
    pending: dict[str, Any] | None = None
    ready_at: int = 0

    def __post_init__(self) -> None:
        self.current = dict(self.application.best)

    def next_knobs(self, feedback: Feedback) -> Knobs:
        """See `oneadapt.api.KnobController.next_knobs`."""
        if self.pending is not None and feedback.t >= self.ready_at:
            self.current, self.pending = self.pending, None
        if self.pending is None and feedback.delivery is not None:
            found, num_frames = self.search(feedback)
            delay = math.ceil(num_frames / self.extra_frames)
            if delay <= 0:
                self.current = found
            else:
                self.pending, self.ready_at = found, feedback.t + delay
        return self.current

    def search(self, feedback: Feedback) -> tuple[dict[str, Any], int]:
        """A new setting from the finished interval, and how many frames were analysed for it."""
        raise TypeError(f"{type(self).__name__} has no search")

    def open(self, feedback: Feedback) -> "_Look":
        """Begin a search: the best setting's data goes up, unless it was what was sent."""
        assert feedback.delivery is not None
        best = feedback.camera.encode(self.application.best)
        look = _Look(self.trade, self.application, feedback, best, [])
        if key_of(feedback.delivery.knobs) == key_of(self.application.best):
            look.truth = list(feedback.results)
        else:
            feedback.camera.send(best)  # the server makes all other settings from it
            look.truth = feedback.server.infer(best)
            look.num_frames = len(best.kept)
        return look


@dataclasses.dataclass
class _Look:
    """One search on a finished interval: settings tried, and frames analysed for it."""

    trade: float
    application: Application
    feedback: Feedback
    best: Delivery
    truth: list[Any]
    num_frames: int = 0
    tried: dict[Any, tuple[float, dict[str, Any]]] = dataclasses.field(default_factory=dict)

    def value(self, setting: dict[str, Any]) -> float:
        """The objective of a setting; what was sent, or tried before, costs nothing."""
        key = key_of(setting)
        if key not in self.tried:
            used = self.feedback.delivery
            assert used is not None
            if key == key_of(self.application.best):
                sent, results = self.best, self.truth
            elif key == key_of(used.knobs):
                sent, results = used, list(self.feedback.results)
            else:
                sent = self.feedback.camera.encode(setting)
                results = self.feedback.server.infer(sent)
                self.num_frames += len(sent.kept)
            accuracy = self.feedback.server.score(results, self.truth)
            self.tried[key] = accuracy - self.trade * self.application.share(sent, self.best), setting
        return self.tried[key][0]


def every_nth(values: Sequence[Any], step: int) -> list[Any]:
    """Every step-th value, and the last one."""
    chosen = list(values[::step])
    return chosen if chosen[-1] == values[-1] else [*chosen, values[-1]]


@METHODS.add("awstream", label="AWStream", color="#D55E00", marker="s")
@dataclasses.dataclass(frozen=True)
class AWStream:
    """Profiles the full grid of a thinned knob space, online, over and over.

    Attributes:
        trade: price of all bytes.
        thinning: every n-th value of each knob is profiled (and the last).
        extra_frames: frames that the server can analyse per interval, beside the stream's own (5 per second in the paper's code).
    """

    trade: float = 0.3
    thinning: int = 3
    extra_frames: float = 5.0

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("trade", TRADES)

    def __post_init__(self) -> None:
        _check_profiler(self.trade, self.thinning, self.extra_frames)

    def controller(self, application: Application) -> "AWStreamController":
        """See `oneadapt.api.Method.controller`."""
        return AWStreamController(self.trade, self.extra_frames, application, thinning=self.thinning)


def _check_profiler(trade: float, thinning: int, extra_frames: float) -> None:
    _check_trade(trade)
    if thinning < 1 or not extra_frames > 0:
        raise ConfigError(f"thinning={thinning} must be at least 1 and extra_frames={extra_frames} > 0.")


@dataclasses.dataclass
class AWStreamController(_Profiler):
    """Full grid of thinned knobs."""

    thinning: int = 3

    def search(self, feedback: Feedback) -> tuple[dict[str, Any], int]:
        """See `_Profiler.search`."""
        thinned = {knob.name: every_nth(knob.values, self.thinning) for knob in self.application.knobs}
        settings = [
            setting
            for setting in self.application.grid()
            if all(setting[name] in values for name, values in thinned.items())
        ]
        look = self.open(feedback)
        return max(settings, key=look.value), look.num_frames


@METHODS.add("chameleon", label="Chameleon", color="#009E73", marker="^")
@dataclasses.dataclass(frozen=True)
class Chameleon:
    """Searches greedily, one knob after another; in between re-tests the best settings of the last full search.

    Attributes:
        trade: price of all bytes.
        thinning: every n-th value of each knob is tried (and the last).
        extra_frames: frames that the server can analyse per interval, beside the stream's own (5 per second in the paper's code).
        top: how many settings are kept for cheap re-tests.
        full_every: a full search every n-th time.
    """

    trade: float = 0.3
    thinning: int = 2
    extra_frames: float = 5.0
    top: int = 3
    full_every: int = 4

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("trade", TRADES)

    def __post_init__(self) -> None:
        _check_profiler(self.trade, self.thinning, self.extra_frames)
        if self.top < 1 or self.full_every < 1:
            raise ConfigError(f"top={self.top} and full_every={self.full_every} must be at least 1.")

    def controller(self, application: Application) -> "ChameleonController":
        """See `oneadapt.api.Method.controller`."""
        return ChameleonController(
            self.trade,
            self.extra_frames,
            application,
            thinning=self.thinning,
            top=self.top,
            full_every=self.full_every,
        )


@dataclasses.dataclass
class ChameleonController(_Profiler):
    """Coordinate-wise search, and re-tests of the best few."""

    thinning: int = 2
    top: int = 3
    full_every: int = 4
    searches: int = 0
    leaders: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def search(self, feedback: Feedback) -> tuple[dict[str, Any], int]:
        """See `_Profiler.search`."""
        look = self.open(feedback)
        is_full = self.searches % self.full_every == 0
        self.searches += 1
        if not is_full and self.leaders:
            return max(self.leaders, key=look.value), look.num_frames
        setting = dict(self.application.best)
        for knob in self.application.knobs:
            options = [{**setting, knob.name: value} for value in every_nth(knob.values, self.thinning)]
            setting = max(options, key=look.value)
        ranked = sorted(look.tried.values(), key=lambda pair: -pair[0])
        self.leaders = [option for _, option in ranked[: self.top]]
        return setting, look.num_frames


@METHODS.add("casva", label="CASVA-like (learned offline)", color="#CC79A7", marker="D")
@dataclasses.dataclass(frozen=True)
class Casva:
    """A learned controller: predicts accuracy and bytes of every setting from content features seen at the camera.

    The paper's CASVA is a reinforcement-learning controller that nobody published; this stands in for it with ridge regression
    on the offline profile, which every method may use. It looks at the camera's pixels alone and runs no network to adapt.

    Attributes:
        trade: price of all bytes.
        ridge: regularisation, relative to the number of profiled intervals.
    """

    trade: float = 0.3
    ridge: float = 0.3

    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("trade", TRADES)

    def __post_init__(self) -> None:
        _check_trade(self.trade)
        if not self.ridge > 0:
            raise ConfigError(f"ridge={self.ridge} must be > 0.")

    def controller(self, application: Application) -> "CasvaController":
        """See `oneadapt.api.Method.controller`."""
        return CasvaController(self, application)


class CasvaController:
    """Ridge regression from content features to the objective of every setting."""

    def __init__(self, method: Casva, application: Application) -> None:
        # DEVIATION oneadapt-3: CASVA's reinforcement learning is replaced by regression on the offline profile.
        profile = _profile(application, "casva")
        self.application = application
        self.settings = profile.settings
        features_TF = profile.features_TF
        self.mean_F, self.spread_F = features_TF.mean(0), np.maximum(features_TF.std(0), 1e-9)
        value_TS = profile.accuracy_TS - method.trade * profile.share_TS
        self.offset_S = value_TS.mean(0)
        z_TF = self._normal(features_TF)
        gram = z_TF.T @ z_TF + method.ridge * len(z_TF) * np.eye(z_TF.shape[1])
        self.weight_FS: npt.NDArray[np.float64] = np.linalg.solve(gram, z_TF.T @ (value_TS - self.offset_S))

    def _normal(self, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.clip((features - self.mean_F) / self.spread_F, -2, 2)

    def next_knobs(self, feedback: Feedback) -> Knobs:
        """See `oneadapt.api.KnobController.next_knobs`."""
        if feedback.delivery is None:
            return self.settings[int(self.offset_S.argmax())]
        z_F = self._normal(content_features(feedback.camera.data))
        return self.settings[int((self.offset_S + z_F @ self.weight_FS).argmax())]
