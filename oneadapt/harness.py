"""What the experiments share: applications made ready by one offline profile, sweeps over clips, and curves compared.

profile clips --(every setting, once)--> scale, static setting, learned controller, block network, enlarging network
test clips    --(all methods, all prices, in lockstep)--> records --> rows, and per clip: saving and gain along the curves
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from common.experiment import Run
from common.results import Row
from oneadapt.profiles import Profile, make_profile, with_profile
from oneadapt.session import Application, Record

START_INTERVALS = 5
"""Intervals at a clip's start that `late_*` metrics leave out: all adaptive methods begin at the best setting."""


def pipeline_of(method: Any) -> str:
    """Which knobs a method sets."""
    return str(getattr(method, "pipeline", "encoding"))


def ready(
    run: Run, workload: Any, name: str, pipeline: str, profile_intervals: int, training_steps: int = 400
) -> Application:
    """An application with its offline profile, and what else its pipeline's methods need.

    Args:
        run: for its random streams and data settings. The profile's clips are not those of the test.
        workload: an instance.
        name: its registered name.
        pipeline: which knobs.
        profile_intervals: intervals of the profile's clip.
        training_steps: of the block network or the enlarging network, where the pipeline has one.
    """
    application = workload.application(pipeline, run.data)
    clips = list(workload.clips(run.rng("profile", name), 1, profile_intervals, run.data))
    run.note_input(f"{name} network", application.task.sha256)
    if pipeline in ("encoding", "encoding_rate"):
        return with_profile(application, make_profile(application, clips))
    if pipeline == "filter":
        settings = [setting for setting in application.grid() if setting["qp"] == application.best["qp"]]
        return with_profile(application, make_profile(application, clips, settings))
    if pipeline == "blocks":
        from oneadapt.blocks import train_block_network

        network = train_block_network(application, clips, run.rng("block network", name), steps=training_steps)
        return dataclasses.replace(application, extra={**application.extra, "block_network": network})
    from oneadapt.upscaling import train_enlarger

    weights = train_enlarger(application, clips, run.rng("enlarger", name), steps=training_steps)
    return dataclasses.replace(application, extra={**application.extra, "enlarger": weights})


def sweep(methods: Mapping[str, Any], limit: int = 0) -> Iterator[tuple[str, str, float, Any]]:
    """Every method at every value of what it sweeps: (name, field, value, instance).

    Args:
        methods: instances by name.
        limit: at most this many values per method, evenly spread; 0: all. The same number for every method.
    """
    for name, method in methods.items():
        field, values = getattr(method, "sweep", ("", ()))
        if not field:
            yield name, "", 0.0, method
            continue
        chosen = list(values)
        if limit and limit < len(chosen):
            chosen = [values[int(i)] for i in np.linspace(0, len(values) - 1, limit).round()]
        for value in chosen:
            yield name, field, float(value), dataclasses.replace(method, **{field: value})


@dataclasses.dataclass(frozen=True)
class Summary:
    """One session in numbers.

    Attributes:
        accuracy: mean over intervals.
        resource: everything sent (or analysed) over what the best setting takes, adaptation included.
        data_resource: without what was sent or analysed for adaptation alone.
    """

    accuracy: float
    resource: float
    data_resource: float


def summarise_records(application: Application, records: Sequence[Record]) -> Summary:
    """Accuracy and resource of one session."""
    accuracy = float(np.mean([record.accuracy for record in records]))
    best_bytes = sum(record.best_bytes for record in records)
    if application.resource == "frames":
        total = sum(record.num_elements for record in records)
        used = sum(record.ledger.forwards + record.ledger.backwards for record in records)
        own = sum(record.ledger.forwards - record.ledger.search_forwards for record in records)
        return Summary(accuracy, used / total, own / total)
    data_bytes = sum(record.ledger.data_bytes for record in records)
    return Summary(accuracy, sum(record.bytes_up for record in records) / best_bytes, data_bytes / best_bytes)


def session_rows(
    application: Application, name: str, factors: Mapping[str, Any], records: Sequence[Record], workload: str
) -> list[Row]:
    """Rows of one session: accuracy, resource, and the work of camera and server per interval of its elements."""
    rows = []

    def add(metric: str, value: float, unit: str) -> None:
        rows.append(Row(metric, value, unit, "measured", name, factors, workload))

    whole = summarise_records(application, records)
    add("accuracy", whole.accuracy, "1")
    add("resource", whole.resource, "1")
    add("data_resource", whole.data_resource, "1")
    if len(records) > START_INTERVALS:
        late = summarise_records(application, records[START_INTERVALS:])
        add("late_accuracy", late.accuracy, "1")
        add("late_resource", late.resource, "1")
    count = len(records)
    add("bytes_up", sum(record.bytes_up for record in records) / count, "B")
    add("bytes_down", sum(record.ledger.down_bytes for record in records) / count, "B")
    for metric in ("camera_frames", "forwards", "backwards", "search_forwards"):
        add(metric, sum(getattr(record.ledger, metric) for record in records) / count, "frames")
    return rows


# ----------------------------------------------------------------------------------------------------------------- curves


def staircase(points: Sequence[tuple[float, float]]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The upper left hull of (resource, accuracy) points: what a user who may choose among them can have.

    Points that cost more and give less than others are dropped, for every method alike. Returns increasing resource and accuracy.
    """
    kept: list[tuple[float, float]] = []
    for resource, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((resource, accuracy))
    resource_P, accuracy_P = (np.array(column, float) for column in zip(*kept, strict=True))
    return resource_P, accuracy_P


def saving_and_gain(
    ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]], num_points: int = 21
) -> tuple[float | None, float | None]:
    """How much less resource at equal accuracy, and how much more accuracy at equal resource, along two curves.

    Both curves are interpolated linearly between their own points and compared only where both reach; the result is the mean
    over that range. None where they do not overlap.

    Args:
        ours, theirs: (resource, accuracy) points.
        num_points: at which the common range is sampled.
    """
    (r_a, a_a), (r_b, a_b) = staircase(ours), staircase(theirs)
    saving = gain = None
    low, high = max(a_a[0], a_b[0]), min(a_a[-1], a_b[-1])
    if high >= low:
        at = np.linspace(low, high, num_points)
        saving = float(np.mean(1 - np.interp(at, a_a, r_a) / np.interp(at, a_b, r_b)))
    low, high = max(r_a[0], r_b[0]), min(r_a[-1], r_b[-1])
    if high >= low:
        at = np.linspace(low, high, num_points)
        gain = float(np.mean(np.interp(at, r_a, a_a) - np.interp(at, r_b, a_b)))
    return saving, gain


def comparison_rows(
    curves: Mapping[str, Sequence[tuple[float, float]]], ours: str, workload: str, prefix: str = ""
) -> list[Row]:
    """Rows `saving` and `gain` of method `ours` against each other method (which the row names), where the curves overlap.

    Args:
        curves: (resource, accuracy) points by method.
        ours: a method; nothing is compared if it has no curve.
        workload: for the rows.
        prefix: of the metrics' names: "late_" for curves without the clips' first intervals.
    """
    rows = []
    for name, points in curves.items():
        if name == ours or ours not in curves:
            continue
        saving, gain = saving_and_gain(curves[ours], points)
        for metric, value in (("saving", saving), ("gain", gain)):
            if value is not None:
                rows.append(Row(prefix + metric, value, "1", "measured", name, {"ours": ours}, workload))
    return rows


def test_clip(run: Run, workload: Any, name: str, index: int, num_intervals: int) -> Sequence[npt.NDArray[Any]]:
    """Test clip `index` of a workload, on its own."""
    clip: Sequence[npt.NDArray[Any]] = next(
        iter(workload.clips(run.rng("test clip", name, index), 1, num_intervals, run.data))
    )
    return clip


def hindsight(application: Application, grid_records: Mapping[int, Sequence[Record]]) -> Profile:
    """A profile made of a clip's own records at every fixed setting: what hindsight knows."""
    settings = tuple(application.grid())
    accuracy = np.array([[record.accuracy for record in grid_records[place]] for place in range(len(settings))]).T
    if application.resource == "frames":
        used = [[len(record.kept) / record.num_elements for record in grid_records[p]] for p in range(len(settings))]
    else:
        used = [
            [record.ledger.data_bytes / record.best_bytes for record in grid_records[p]] for p in range(len(settings))
        ]
    empty = np.zeros(0)
    return Profile(settings, accuracy, np.array(used).T, np.zeros((len(accuracy), 0)), {}, empty, empty, (), 0, 0)
