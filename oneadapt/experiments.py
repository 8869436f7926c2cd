"""One experiment per table or figure of the paper; `oneadapt/README.md` lists metrics and factors.

Experiments about the estimate itself (concavity, proxy quality, sensitivity, overhead) are in `oneadapt.experiments_estimate`.
"""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.errors import ConfigError
from common.experiment import Run
from common.results import ItemRows, Row
from oneadapt.api import EXPERIMENTS, WORKLOADS
from oneadapt.baselines import Fixed
from oneadapt.harness import (
    START_INTERVALS,
    comparison_rows,
    hindsight,
    pipeline_of,
    ready,
    session_rows,
    summarise_records,
    sweep,
    test_clip,
)
from oneadapt.session import Record, run_clip


@dataclasses.dataclass(frozen=True)
class _Compared:
    """Every method at every price, on clips of several workloads.

    Attributes:
        workloads: names.
        num_intervals: length of a clip.
        profile_intervals: length of the offline profile's clip.
        points: values swept per method; 0: all that it registers.
        training_steps: of the camera's or the enlarging network, in pipelines that have one.
        pipeline: which knobs; methods of another pipeline are refused.
        ours: the methods that savings and gains are computed for.
    """

    workloads: Sequence[str] = ("thermal_detection",)
    num_intervals: int = 20
    profile_intervals: int = 10
    points: int = 0
    training_steps: int = 400
    pipeline: str = "encoding"
    ours: Sequence[str] = ("oneadapt", "oneadapt_plain")

    def __post_init__(self) -> None:
        names = (self.workloads,) if isinstance(self.workloads, str) else tuple(self.workloads)
        object.__setattr__(self, "workloads", names)
        object.__setattr__(self, "ours", (self.ours,) if isinstance(self.ours, str) else tuple(self.ours))
        if not self.workloads or self.num_intervals < 2 or self.profile_intervals < 1 or self.points < 0:
            raise ConfigError(
                f"workloads={list(self.workloads)} must name at least one, num_intervals={self.num_intervals} be at least 2, "
                f"profile_intervals={self.profile_intervals} at least 1, and points={self.points} at least 0."
            )
        for name in self.workloads:
            WORKLOADS.get(name)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip and method: accuracy, resource and work at every price; per clip: `saving` and `gain` along the curves."""
        for name, method in run.methods.items():
            if pipeline_of(method) != self.pipeline.partition("_")[0]:
                raise ConfigError(
                    f"method {name!r} sets knobs of the pipeline {pipeline_of(method)!r}, not {self.pipeline!r}; leave it out."
                )
        names = self.workloads if run.workload is None else (run.workload_name,)
        # Each seed draws clips of its own, so the key names it: clips of several seeds are several items.
        items = [(f"s{run.seed}-{name}-{index}", (name, index)) for name in names for index in range(run.num_items)]
        known: dict[str, Any] = {}
        for key, (name, index) in run.todo(items):
            workload = WORKLOADS.create(name) if run.workload is None else run.workload
            if name not in known:
                known.clear()
                known[name] = ready(run, workload, name, self.pipeline, self.profile_intervals, self.training_steps)
            clip = test_clip(run, workload, name, index, self.num_intervals)
            yield ItemRows(key, self._compare(run, known[name], clip, name))

    def _compare(self, run: Run, application: Any, clip: Sequence[Any], workload: str) -> list[Row]:
        needs_grid = any(name in run.methods for name in ("static_hindsight", "oracle"))
        grid = {place: Fixed(setting) for place, setting in enumerate(application.grid())} if needs_grid else {}
        sessions = list(sweep(run.methods, self.points))
        late = [session for session in sessions if session[0] == "static_hindsight"]
        controllers: dict[Any, Any] = {
            (name, value): method.controller(application)
            for name, _, value, method in sessions
            if name != "static_hindsight"
        }
        records: dict[Any, Sequence[Record]] = dict(
            run_clip(application, controllers | {("grid", p): c for p, c in grid.items()}, clip)
        )
        if late:
            known = hindsight(application, {place: records["grid", place] for place in grid})
            for name, _, value, _ in late:
                records[name, value] = records["grid", known.settings.index(known.best_fixed(value))]
        rows: list[Row] = []
        curves: dict[str, list[tuple[float, float]]] = {}
        late_curves: dict[str, list[tuple[float, float]]] = {}
        for name, field, value, _ in sessions:
            own = records[name, value]
            rows += session_rows(application, name, {field: value} if field else {}, own, workload)
            whole = summarise_records(application, own)
            curves.setdefault(name, []).append((whole.resource, whole.accuracy))
            if len(own) > START_INTERVALS:
                after = summarise_records(application, own[START_INTERVALS:])
                late_curves.setdefault(name, []).append((after.resource, after.accuracy))
        for ours in self.ours:
            rows += comparison_rows(curves, ours, workload)
            rows += comparison_rows(late_curves, ours, workload, "late_")
        return rows


@EXPERIMENTS.add("tradeoff")
@dataclasses.dataclass(frozen=True)
class Tradeoff(_Compared):
    """Accuracy against bytes, knobs of the encoder (OneAdapt, main figure and other modalities)."""

    workloads: Sequence[str] = ("rgb_detection", "lidar_detection", "sound_recognition")


@EXPERIMENTS.add("tradeoff_others")
@dataclasses.dataclass(frozen=True)
class TradeoffOthers(_Compared):
    """The same on the other inputs and tasks: segmentation, tracking, depth and thermal video (OneAdapt, other modalities)."""

    workloads: Sequence[str] = ("rgb_segmentation", "rgb_tracking", "depth_segmentation", "thermal_detection")


@EXPERIMENTS.add("blocks")
@dataclasses.dataclass(frozen=True)
class Blocks(_Compared):
    """Accuracy against bytes, quality per macroblock, against DDS, EAAR and an AccMPEG-like camera (OneAdapt, section 5)."""

    workloads: Sequence[str] = ("rgb_detection", "thermal_detection")
    pipeline: str = "blocks"
    ours: Sequence[str] = ("oneadapt_blocks",)


@EXPERIMENTS.add("frame_filter")
@dataclasses.dataclass(frozen=True)
class FrameFilterTradeoff(_Compared):
    """Accuracy against frames analysed, thresholds of a frame filter, against Reducto (OneAdapt, section 5).

    The resource counts every run of the network, a backward pass as one.
    """

    workloads: Sequence[str] = ("rgb_detection", "thermal_detection")
    pipeline: str = "filter"
    ours: Sequence[str] = ("oneadapt_filter", "oneadapt_filter_calibrating")


@EXPERIMENTS.add("upscaling")
@dataclasses.dataclass(frozen=True)
class UpscalingTradeoff(_Compared):
    """Accuracy against bytes, small pictures enlarged at the server, against CloudSeg (OneAdapt, section 5)."""

    workloads: Sequence[str] = ("rgb_detection", "thermal_detection")
    pipeline: str = "upscaling"
    ours: Sequence[str] = ("oneadapt_upscaling",)


@EXPERIMENTS.add("frame_rate")
@dataclasses.dataclass(frozen=True)
class FrameRateTradeoff(_Compared):
    """The main comparison with a third knob, frames per interval, whose effect a gradient of the last frame cannot see."""

    workloads: Sequence[str] = ("thermal_detection",)
    pipeline: str = "encoding_rate"


@EXPERIMENTS.add("real_clips")
@dataclasses.dataclass(frozen=True)
class RealClips(_Compared):
    """The main comparison on video files of a data root with a real detector (ours). Needs `data.root`.

    An item is a file; its offline profile is made of the next file, so that no method has seen the clip or its scene before.
    """

    workloads: Sequence[str] = ("clip_detection",)
    num_intervals: int = 10
    profile_intervals: int = 3

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """As `tradeoff`, one item per file, in an order drawn from the seed."""
        from pathlib import Path

        from common.data.video import find_clips

        if not run.methods:
            raise ConfigError("experiment real_clips needs methods=[...]; oneadapt/README.md has the whole command.")
        root = (run.data or {}).get("root")
        names = [path.name for path in find_clips(Path(root) if root else None)]
        if len(names) < 2:
            raise ConfigError(
                f"real_clips needs two video files, one to profile and one to test; {root} has {len(names)}."
            )
        (workload_name,) = self.workloads
        workload = WORKLOADS.create(workload_name) if run.workload is None else run.workload
        order = [names[int(place)] for place in run.rng("files").permutation(len(names))]
        items = [(f"s{run.seed}-{name}", place) for place, name in enumerate(order[: run.num_items])]
        for key, place in run.todo(items):
            own, other = (dataclasses.replace(workload, files=(order[at % len(order)],)) for at in (place, place + 1))
            application = ready(run, other, workload_name, self.pipeline, self.profile_intervals)
            clip = test_clip(run, own, workload_name, place, self.num_intervals)
            yield ItemRows(key, self._compare(run, application, clip, workload_name))


@EXPERIMENTS.add("num_blocks")
@dataclasses.dataclass(frozen=True)
class NumBlocks:
    """How much finer quality maps save: groups of 4, 16, 64 or all blocks, against a uniform quantiser (OneAdapt, section 5).

    Attributes:
        workload: name.
        num_blocks: how many groups; 0: every block for itself.
        num_intervals, points: as `tradeoff`.
    """

    workload: str = "rgb_detection"
    num_blocks: Sequence[int] = (4, 16, 64, 0)
    num_intervals: int = 20
    points: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_blocks", tuple(int(number) for number in self.num_blocks))
        WORKLOADS.get(self.workload)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip and number of blocks: accuracy and resource per share, and `saving` against the uniform quantiser."""
        from oneadapt.blocks import OneAdaptBlocks, Uniform

        workload = WORKLOADS.create(self.workload)
        application = workload.application("blocks", run.data)
        run.note_input(f"{self.workload} network", application.task.sha256)
        for key, index in run.todo([(f"s{run.seed}-{index}", index) for index in range(run.num_items)]):
            clip = test_clip(run, workload, self.workload, index, self.num_intervals)
            height, width = clip[0].shape[1:3]
            grid_blocks = -(-height // 16) * -(-width // 16)
            variants: Mapping[str, Any] = {"uniform": Uniform()} | {
                str(number): OneAdaptBlocks(num_blocks=number) for number in self.num_blocks
            }
            sessions = list(sweep(variants, self.points))
            controllers = {(name, value): method.controller(application) for name, _, value, method in sessions}
            records = run_clip(application, controllers, clip)
            curves: dict[str, list[tuple[float, float]]] = {}
            for name, _, value, _ in sessions:
                whole = summarise_records(application, records[name, value])
                curves.setdefault(name, []).append((whole.resource, whole.accuracy))
            rows = []
            for number in self.num_blocks:
                count = min(number, grid_blocks) if number else grid_blocks
                against = {"oneadapt_blocks": curves[str(number)], "uniform": curves["uniform"]}
                for row in comparison_rows(against, "oneadapt_blocks", self.workload):
                    rows.append(
                        Row(
                            row.metric,
                            row.value,
                            "1",
                            "measured",
                            "oneadapt_blocks",
                            {"num_blocks": count},
                            self.workload,
                        )
                    )
            yield ItemRows(key, rows)


@EXPERIMENTS.add("time_series")
@dataclasses.dataclass(frozen=True)
class TimeSeries:
    """Accuracy, bytes and knobs over time while the content changes (OneAdapt, section 5).

    Attributes:
        workload: name.
        num_intervals, profile_intervals: as `tradeoff`.
        trade: the price for all methods that have one.
    """

    workload: str = "thermal_detection"
    num_intervals: int = 40
    profile_intervals: int = 16
    trade: float = 0.3

    def __post_init__(self) -> None:
        WORKLOADS.get(self.workload)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip, method and interval `t`: accuracy, resource, and the place of each knob's value in its list (`knob`)."""
        workload = WORKLOADS.create(self.workload)
        application = None
        for key, index in run.todo([(f"s{run.seed}-{index}", index) for index in range(run.num_items)]):
            if application is None:
                application = ready(run, workload, self.workload, "encoding", self.profile_intervals)
            clip = test_clip(run, workload, self.workload, index, self.num_intervals)
            methods = {
                name: dataclasses.replace(method, trade=self.trade) if hasattr(method, "trade") else method
                for name, method in run.methods.items()
            }
            controllers = {name: method.controller(application) for name, method in methods.items()}
            rows = []
            for name, records in run_clip(application, controllers, clip).items():
                for record in records:
                    at = {"t": record.t}
                    share = record.bytes_up / record.best_bytes
                    rows.append(Row("accuracy", record.accuracy, "1", "measured", name, at, self.workload))
                    rows.append(Row("resource", share, "1", "measured", name, at, self.workload))
                    for knob in application.knobs:
                        place = list(knob.values).index(record.knobs[knob.name]) / (len(knob.values) - 1)
                        factors = {**at, "knob": knob.name}
                        rows.append(Row("knob_place", 1 - place, "1", "measured", name, factors, self.workload))
            yield ItemRows(key, rows)


for _module in ("experiments_estimate",):
    importlib.import_module(f"oneadapt.{_module}")
