"""Experiments about the estimate: is accuracy concave, does the proxy follow it, what do adaptation and its settings cost?"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from common.errors import ConfigError
from common.experiment import Run
from common.results import ItemRows, Row
from common.timing import measure_interleaved
from oneadapt.api import EXPERIMENTS, METHODS, WORKLOADS
from oneadapt.gradient import Gradient
from oneadapt.harness import ready, session_rows, summarise_records, test_clip
from oneadapt.profiles import one_step_moves
from oneadapt.session import Application, Interval, run_clip


def _loaded(run: Run, name: str, pipeline: str = "encoding") -> tuple[Any, Application]:
    workload = WORKLOADS.create(name)
    application = workload.application(pipeline, run.data)
    run.note_input(f"{name} network", application.task.sha256)
    return workload, application


def _names(value: Sequence[str] | str) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value)
    for name in names:
        WORKLOADS.get(name)
    return names


@EXPERIMENTS.add("concavity")
@dataclasses.dataclass(frozen=True)
class Concavity:
    """Accuracy over two knobs: is the surface concave, as gradient ascent wants it? (OneAdapt, section 5)

    Attributes:
        workloads: names.
        num_intervals: per clip.
    """

    workloads: Sequence[str] = ("rgb_detection", "thermal_detection", "sound_recognition")
    num_intervals: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "workloads", _names(self.workloads))

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip and setting: accuracy and resource (factors `place_0`, `place_1`: index of each knob's value, and `values`);
        per clip: `monotone_share` of one-step-cheaper moves that do not raise accuracy, `concave_share` of triples along a knob.
        """
        items = [
            (f"s{run.seed}-{name}-{index}", (name, index)) for name in self.workloads for index in range(run.num_items)
        ]
        for key, (name, index) in run.todo(items):
            workload, application = _loaded(run, name)
            clip = test_clip(run, workload, name, index, self.num_intervals)
            first, second = application.knobs[:2]
            surface = np.zeros((len(first.values), len(second.values)))
            share = np.zeros_like(surface)
            for data in clip:
                interval = Interval(application, data)
                best, truth = interval.deliver(application.best), interval.truth
                for i, j in itertools.product(range(len(first.values)), range(len(second.values))):
                    setting = {**application.best, first.name: first.values[i], second.name: second.values[j]}
                    sent = interval.deliver(setting)
                    surface[i, j] += application.task.accuracy(interval.infer(sent), truth) / len(clip)
                    share[i, j] += application.share(sent, best) / len(clip)
            rows = []
            for i, j in itertools.product(range(len(first.values)), range(len(second.values))):
                factors = {
                    "place_0": i,
                    "place_1": j,
                    "knob_0": first.name,
                    "knob_1": second.name,
                    "value_0": str(first.values[i]),
                    "value_1": str(second.values[j]),
                }
                rows.append(Row("accuracy", surface[i, j], "1", "measured", "", factors, name))
                rows.append(Row("resource", share[i, j], "1", "measured", "", factors, name))
            monotone, concave = shape_shares(surface)
            rows.append(Row("monotone_share", monotone, "1", "measured", "", {}, name))
            rows.append(Row("concave_share", concave, "1", "measured", "", {}, name))
            yield ItemRows(key, rows)


def shape_shares(surface: npt.NDArray[np.float64], tolerance: float = 0.02) -> tuple[float, float]:
    """Shares of a surface's one-step moves that do not raise it, and of its triples in a row that are concave, within a
    tolerance.

    Args:
        surface: accuracy over two knobs, each from expensive to cheap.
        tolerance: of accuracy, for noise.
    """
    moves = np.concatenate([np.diff(surface, axis=axis).ravel() for axis in (0, 1)])
    bends = np.concatenate([np.diff(surface, 2, axis=axis).ravel() for axis in (0, 1)])
    concave = float((bends <= tolerance).mean()) if bends.size else 1.0
    return float((moves <= tolerance).mean()), concave


@EXPERIMENTS.add("proxy_quality")
@dataclasses.dataclass(frozen=True)
class ProxyQuality:
    """Estimated against true loss of accuracy for changes of knobs, in each interval and on average (OneAdapt, section 5).

    Attributes:
        workloads: names.
        num_intervals: per clip.
        distance: steps between the two settings of a pair, over all knobs.
    """

    workloads: Sequence[str] = ("rgb_detection", "thermal_detection", "lidar_detection", "sound_recognition")
    num_intervals: int = 10
    distance: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "workloads", _names(self.workloads))
        if self.distance < 1 or self.num_intervals < 1:
            raise ConfigError(f"distance={self.distance} and num_intervals={self.num_intervals} must be at least 1.")

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip: `pearson` and `spearman`, factor `level`: in one interval (mean over intervals), or of losses averaged
        over the clip; with factor `estimate`: the gradient with differences from the best setting (the paper's) or from the
        sensor's data, or the plain difference of inputs. Points of the averaged ones: `estimated_loss`, `true_loss` with factors
        `pair`, `knob`. `first_step_share`: of the loss of all pairs, the share of those that begin at the best setting, by each
        estimate and in truth.
        """
        items = [
            (f"s{run.seed}-{name}-{index}", (name, index)) for name in self.workloads for index in range(run.num_items)
        ]
        for key, (name, index) in run.todo(items):
            workload, application = _loaded(run, name)
            clip = test_clip(run, workload, name, index, self.num_intervals)
            pairs = cheaper_pairs(application, self.distance)
            true, by_gradient, by_sensor, by_pixels = (np.zeros((len(clip), len(pairs))) for _ in range(4))
            for t, data in enumerate(clip):
                interval = Interval(application, data)
                best, truth = interval.deliver(application.best), interval.truth
                sensor_NHWC = application.to_input(data)
                for p, (dear, cheap, _) in enumerate(pairs):
                    a, b = interval.deliver(dear), interval.deliver(cheap)
                    score = application.task.accuracy
                    true[t, p] = score(interval.infer(a), truth) - score(interval.infer(b), truth)
                    gradient = Gradient.of(interval.saliency(a), application.task.block)
                    by_gradient[t, p] = gradient.risk(b.x, best.x) - gradient.risk(a.x, best.x)
                    by_sensor[t, p] = gradient.risk(b.x, sensor_NHWC) - gradient.risk(a.x, sensor_NHWC)
                    by_pixels[t, p] = np.abs(b.x - best.x).mean() - np.abs(a.x - best.x).mean()
            estimates = {"gradient": by_gradient, "gradient, sensor": by_sensor, "plain difference": by_pixels}
            is_first = np.array([dear == application.best for dear, _, _ in pairs])
            yield ItemRows(key, self._rows(name, pairs, true, estimates, is_first))

    def _rows(
        self, name: str, pairs: Sequence[Any], true: Any, estimates: dict[str, Any], is_first: npt.NDArray[np.bool_]
    ) -> list[Row]:
        rows = []
        for estimate, values in {**estimates, "truth": true}.items():
            if values.sum() > 0:
                share = float(values[:, is_first].sum() / values.sum())
                rows.append(Row("first_step_share", share, "1", "measured", "", {"estimate": estimate}, name))
        for estimate, values in estimates.items():
            each = [correlations(values[t], true[t]) for t in range(len(true))]
            known = [pair for pair in each if pair is not None]
            levels: dict[str, list[Any]] = {
                "each interval": known,
                "clip average": [correlations(values.mean(0), true.mean(0))],
            }
            for level, found in levels.items():
                present = [pair for pair in found if pair is not None]
                if present:
                    factors = {"estimate": estimate, "level": level}
                    pearson, spearman = np.mean(present, axis=0)
                    rows.append(Row("pearson", pearson, "1", "measured", "", factors, name))
                    rows.append(Row("spearman", spearman, "1", "measured", "", factors, name))
        scale = max(float(estimates["gradient"].max()), 1e-12)
        for p, (_, _, knob) in enumerate(pairs):
            place: dict[str, Any] = {"pair": p, "knob": knob}
            guess = float(estimates["gradient"][:, p].mean()) / scale
            rows.append(Row("estimated_loss", guess, "1", "measured", "", place, name))
            rows.append(Row("true_loss", float(true[:, p].mean()), "1", "measured", "", place, name))
        return rows


def cheaper_pairs(application: Application, distance: int) -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    """(dear, cheap, knob) for every pair of settings `distance` steps of knobs apart; for distance 1, of one knob."""
    settings = application.grid()
    if distance == 1:
        return [(settings[a], settings[b], knob) for a, b, knob, _ in one_step_moves(application, settings)]
    places = {knob.name: {value: i for i, value in enumerate(knob.values)} for knob in application.knobs}
    found = []
    for dear, cheap in itertools.product(settings, settings):
        steps = {name: places[name][cheap[name]] - places[name][dear[name]] for name in dear}
        if min(steps.values()) >= 0 and sum(steps.values()) == distance:
            moved = [name for name, count in steps.items() if count]
            found.append((dear, cheap, moved[0] if len(moved) == 1 else "several"))
    return found


def correlations(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """Pearson's and Spearman's correlation; None where one side does not vary."""
    if len(a) < 3 or np.ptp(a) < 1e-12 or np.ptp(b) < 1e-12:
        return None
    return float(stats.pearsonr(a, b)[0]), float(stats.spearmanr(a, b)[0])


@EXPERIMENTS.add("overhead")
@dataclasses.dataclass(frozen=True)
class Overhead:
    """What adaptation costs: work of camera and server per interval, the backward pass in forwards, wall time of a decision.

    Attributes:
        workloads: names.
        num_intervals, profile_intervals: as `tradeoff`.
        repeats: timed rounds.
        trade: price for all methods that have one.
    """

    workloads: Sequence[str] = ("rgb_detection", "thermal_detection", "lidar_detection", "sound_recognition")
    num_intervals: int = 12
    profile_intervals: int = 6
    repeats: int = 5
    trade: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "workloads", _names(self.workloads))
        if self.repeats < 1:
            raise ConfigError(f"repeats={self.repeats} must be at least 1.")

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip and method: camera_frames, forwards, backwards per interval; `backward_cost` in forwards of one element
        beyond the forward that is made anyway; `adaptation_share`: extra server work of an interval over its own;
        `decision_time` of the methods in one interval, timed interleaved.
        """
        items = [
            (f"s{run.seed}-{name}-{index}", (name, index)) for name in self.workloads for index in range(run.num_items)
        ]
        known: dict[str, Application] = {}
        for key, (name, index) in run.todo(items):
            workload = WORKLOADS.create(name)
            if name not in known:
                known[name] = ready(run, workload, name, "encoding", self.profile_intervals)
            application = known[name]
            clip = test_clip(run, workload, name, index, self.num_intervals)
            rows = self._timed(run, application, clip, name)
            cost = next(row.value for row in rows if row.metric == "backward_cost")
            methods = {
                m: dataclasses.replace(method, trade=self.trade) if hasattr(method, "trade") else method
                for m, method in run.methods.items()
            }
            records = run_clip(application, {m: method.controller(application) for m, method in methods.items()}, clip)
            for m, own in records.items():
                rows += [
                    row
                    for row in session_rows(application, m, {}, own, name)
                    if row.metric in ("camera_frames", "forwards", "backwards", "search_forwards")
                ]
                extra = sum(r.ledger.search_forwards + cost * r.ledger.backwards for r in own)
                stream = sum(r.ledger.forwards - r.ledger.search_forwards for r in own)
                rows.append(Row("adaptation_share", extra / stream, "1", "measured", m, {}, name))
            yield ItemRows(key, rows)

    def _timed(self, run: Run, application: Application, clip: Sequence[Any], name: str) -> list[Row]:
        interval = Interval(application, clip[0], has_cache=False)
        sent = interval.deliver(application.best)
        task, one = application.task, sent.x[-1:]
        timed = measure_interleaved(
            {
                "forward": lambda: task.infer(one),
                "backward": lambda: task.saliency(one[0]),
                "interval": lambda: task.infer(sent.x),
                "encode": lambda: application.encode(clip[0], application.best),
            },
            warmup=1,
            repeats=self.repeats,
        )
        rows = [Row(f"{part}_time", timing.median_s, "s", "measured", "", {}, name) for part, timing in timed.items()]
        cost = timed["backward"].median_s / timed["forward"].median_s - 1
        rows.append(Row("backward_cost", max(cost, 0.0), "1", "measured", "", {}, name))
        runs = {}
        for m, method in run.methods.items():
            priced = dataclasses.replace(method, trade=self.trade) if hasattr(method, "trade") else method
            runs[m] = _decisions(application, priced, clip[:4])
        decided = measure_interleaved(runs, warmup=0, repeats=max(1, self.repeats // 2))
        baseline = measure_interleaved(
            {"": _decisions(application, METHODS.create("static", place=0), clip[:4])}, warmup=0, repeats=1
        )
        for m, timing in decided.items():
            # Wall time of a whole run over these intervals, less that of the same run without adaptation.
            extra_s = max(timing.median_s - baseline[""].median_s, 0.0) / 4
            rows.append(Row("decision_time", extra_s, "s", "measured", m, {}, name))
        return rows


def _decisions(application: Application, method: Any, clip: Sequence[Any]) -> Any:
    """A run without shared results: everything is computed, as it would be by a system on its own."""
    return lambda: run_clip(application, {"": method.controller(application)}, clip, has_cache=False)


@EXPERIMENTS.add("sensitivity")
@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """How often, how fast, and with how many knobs OneAdapt may adapt (OneAdapt, section 5).

    Attributes:
        workload: name.
        every: intervals between two backward passes.
        rates: of plain ascent.
        trade: price of all bytes.
        num_intervals, profile_intervals: as `tradeoff`.
    """

    workload: str = "thermal_detection"
    every: Sequence[int] = (1, 2, 4, 8)
    rates: Sequence[float] = (0.125, 0.25, 0.5, 1.0)
    trade: float = 0.3
    num_intervals: int = 30
    profile_intervals: int = 16

    def __post_init__(self) -> None:
        for name in ("every", "rates"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        WORKLOADS.get(self.workload)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip: accuracy, resource and `objective` = accuracy - trade * resource; factors `setting` and `value`."""
        workload = WORKLOADS.create(self.workload)
        ready_for: dict[str, Application] = {}
        for key, index in run.todo([(f"s{run.seed}-{index}", index) for index in range(run.num_items)]):
            clip = test_clip(run, workload, self.workload, index, self.num_intervals)
            rows = []
            base = METHODS.create("oneadapt", trade=self.trade)
            variants: list[tuple[str, float, Any, str]] = [
                ("every", value, dataclasses.replace(base, every=value), "encoding") for value in self.every
            ]
            variants += [("rate", value, dataclasses.replace(base, rate=value), "encoding") for value in self.rates]
            variants += [("num_knobs", 2, base, "encoding"), ("num_knobs", 3, base, "encoding_rate")]
            for pipeline in ("encoding", "encoding_rate"):
                if pipeline not in ready_for:
                    ready_for[pipeline] = ready(run, workload, self.workload, pipeline, self.profile_intervals)
                application = ready_for[pipeline]
                own = {(s, v): m.controller(application) for s, v, m, which in variants if which == pipeline}
                for (setting, value), records in run_clip(application, own, clip).items():
                    whole = summarise_records(application, records)
                    factors = {"setting": setting, "value": float(value)}
                    objective = whole.accuracy - self.trade * whole.resource
                    for metric, number in (
                        ("accuracy", whole.accuracy),
                        ("resource", whole.resource),
                        ("objective", objective),
                    ):
                        rows.append(Row(metric, number, "1", "measured", "oneadapt", factors, self.workload))
            yield ItemRows(key, rows)
