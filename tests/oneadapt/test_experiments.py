"""Every experiment yields rows on a tiny workload; the runner and the figures take them; curves are compared by hand."""

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, DataUnavailable
from common.experiment import Run
from oneadapt.api import EXPERIMENTS, METHODS, WORKLOADS
from oneadapt.experiments_estimate import cheaper_pairs, correlations, shape_shares
from oneadapt.harness import comparison_rows, saving_and_gain, staircase, sweep
from tests.oneadapt import tiny_workload  # noqa: F401  (registers the workload)

ROOT = Path(__file__).resolve().parents[2]
PLAN = yaml.safe_load((ROOT / "experiments" / "conf" / "paper" / "oneadapt.yaml").read_text())["plan"]
ARGS = {
    "sensitivity": {"every": [1, 2], "rates": [0.5]},
    "time_series": {},
    "num_blocks": {"num_blocks": [4, 0], "points": 2},
    "overhead": {"repeats": 1},
}


@functools.cache
def rows_of(name):
    plan, knobs = PLAN[name], EXPERIMENTS.knobs(name)
    args = {"num_intervals": 7 if name == "tradeoff" else 4, **ARGS.get(name, {})}
    args |= {"profile_intervals": 1} if "profile_intervals" in knobs else {}
    args |= {"points": 2} if "points" in knobs else {}
    args |= {"workloads": ["tiny_video"]} if "workloads" in knobs else {"workload": "tiny_video"}
    methods = {method: METHODS.create(method) for method in plan.get("methods", [])}
    run = Run(paper="oneadapt", experiment=name, scale="smoke", seed=0, num_items=1, methods=methods)
    experiment = EXPERIMENTS.create(name, **args)
    return [row for item in experiment.rows(run) for row in item.rows]


@pytest.mark.parametrize("name", [name for name in PLAN if name != "tradeoff_others"])
def test_experiment_yields_rows(name):
    rows = rows_of(name)
    assert rows
    assert {row.method for row in rows if row.method} <= set(METHODS.names())
    assert {row.basis for row in rows} == {"measured"}
    assert all(0 <= row.value <= 1 for row in rows if row.metric in ("accuracy", "late_accuracy"))


def test_every_registered_experiment_has_a_plan():
    # Without a data root `real_clips` can only fail: `experiment=all` must not have it.
    assert set(EXPERIMENTS.names()) == set(PLAN) | {"real_clips"}


def test_real_clips_need_files_and_methods(tmp_path):
    run = Run("oneadapt", "real_clips", "smoke", 0, 1, {"oneadapt": METHODS.create("oneadapt")})
    with pytest.raises(DataUnavailable, match=r"data\.root"):
        next(EXPERIMENTS.create("real_clips").rows(run))
    (tmp_path / "one.mp4").write_bytes(b"")
    with pytest.raises(ConfigError, match="two video files"):
        next(EXPERIMENTS.create("real_clips").rows(dataclasses.replace(run, data={"root": str(tmp_path)})))
    with pytest.raises(ConfigError, match="methods"):
        next(EXPERIMENTS.create("real_clips").rows(dataclasses.replace(run, methods={})))


def test_clips_of_two_seeds_are_two_items():
    # Under one key the clips of all seeds would be resampled as one item, and intervals would be those of a clip or two.
    experiment = EXPERIMENTS.create("concavity", workloads=["tiny_video"], num_intervals=1)
    runs = [
        Run(paper="oneadapt", experiment="concavity", scale="smoke", seed=seed, num_items=2, methods={})
        for seed in (0, 1)
    ]
    keys = [item.item for run in runs for item in experiment.rows(run)]
    assert len(set(keys)) == 4


def values(rows, metric, method):
    return [row.value for row in rows if row.metric == metric and row.method == method]


def test_adaptation_is_charged():
    rows = rows_of("tradeoff")
    # The plain rule sends nothing but the data; only profilers run the network to search.
    assert values(rows, "resource", "oneadapt_plain") == values(rows, "data_resource", "oneadapt_plain")
    for method in PLAN["tradeoff"]["methods"]:
        assert sum(values(rows, "resource", method)) >= sum(values(rows, "data_resource", method))
    assert max(values(rows, "search_forwards", "awstream")) > 0
    assert max(values(rows, "search_forwards", "oneadapt_plain")) == 0
    assert max(values(rows, "backwards", "oneadapt_plain")) == pytest.approx(6 / 7)
    assert {len(values(rows, "accuracy", method)) for method in PLAN["tradeoff"]["methods"]} == {2}


def test_oracle_beats_what_it_may_choose():
    rows = rows_of("tradeoff")
    assert values(rows, "late_accuracy", "oracle")
    assert values(rows, "saving", "oracle") or values(rows, "gain", "oracle")


def test_a_method_of_another_pipeline_is_refused():
    methods = {"dds": METHODS.create("dds")}
    run = Run("oneadapt", "tradeoff", "smoke", 0, 1, methods)
    with pytest.raises(ConfigError, match="pipeline 'blocks'"):
        list(EXPERIMENTS.create("tradeoff", workloads=["tiny_video"]).rows(run))


def test_curves_by_hand():
    ours, theirs = [(0.2, 0.8), (0.4, 1.0)], [(0.4, 0.8), (0.8, 1.0)]
    saving, gain = saving_and_gain(ours, theirs)
    assert saving == pytest.approx(0.5)  # at every accuracy half of the bytes
    assert gain == pytest.approx(0.2)  # where both reach, at 0.4: 1.0 against 0.8
    assert saving_and_gain([(0.1, 0.2)], [(0.5, 0.9)]) == (None, None)
    # A curve against itself.
    assert saving_and_gain(ours, ours) == (pytest.approx(0), pytest.approx(0))


def test_staircase_drops_what_costs_more_and_gives_less():
    resource, accuracy = staircase([(0.5, 0.7), (0.2, 0.6), (0.3, 0.8), (0.9, 0.9), (0.9, 0.85)])
    assert resource.tolist() == [0.2, 0.3, 0.9]
    assert accuracy.tolist() == [0.6, 0.8, 0.9]


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_savings_are_antisymmetric_in_sign(points):
    worse = [(2 * resource, accuracy) for resource, accuracy in points]
    saving, _ = saving_and_gain(points, worse)
    back, _ = saving_and_gain(worse, points)
    assert saving == pytest.approx(0.5)
    assert back == pytest.approx(-1.0)


def test_comparison_names_both_sides():
    curves = {"oneadapt": [(0.2, 0.9)], "a": [(0.4, 0.9)], "b": [(0.4, 0.5)]}
    rows = comparison_rows(curves, "oneadapt", "w")
    assert [(row.metric, row.method, row.factors["ours"]) for row in rows] == [("saving", "a", "oneadapt")]
    assert comparison_rows(curves, "absent", "w") == []


def test_every_method_gets_as_many_points():
    methods = {name: METHODS.create(name) for name in PLAN["tradeoff"]["methods"]}
    counts = {name: sum(1 for entry in sweep(methods) if entry[0] == name) for name in methods}
    assert len(set(counts.values())) == 1
    for name in ("blocks", "frame_filter"):
        counted = [sum(1 for _ in sweep({m: METHODS.create(m)})) for m in PLAN[name]["methods"]]
        assert len(set(counted)) == 1
    assert len(list(sweep({"oneadapt": METHODS.create("oneadapt")}, 3))) == 3


def test_shape_of_surfaces():
    concave = np.array([[1.0, 0.95, 0.8], [0.9, 0.85, 0.7], [0.7, 0.65, 0.5]])
    assert shape_shares(concave) == (1.0, 1.0)
    rising = concave[::-1]
    assert shape_shares(rising)[0] == 0.5


def test_correlation_of_what_does_not_vary():
    assert correlations(np.zeros(5), np.arange(5.0)) is None
    assert correlations(np.arange(5.0), 2 * np.arange(5.0)) == (pytest.approx(1), pytest.approx(1))


def test_pairs_at_a_distance():
    application = WORKLOADS.create("tiny_video").application()
    places = {knob.name: list(knob.values) for knob in application.knobs}
    for dear, cheap, _ in cheaper_pairs(application, 3):
        assert sum(places[name].index(cheap[name]) - places[name].index(dear[name]) for name in dear) == 3


@pytest.mark.slow
def test_smoke_run_with_figures_and_claims(tmp_path):
    command = [
        sys.executable, "-m", "experiments.run", "+paper=oneadapt", "experiment=all", "scale=smoke",
        f"results_dir={tmp_path / 'results'}", f"figures_dir={tmp_path / 'figures'}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "figures" / "smoke" / "oneadapt"
    assert (folder / "claims.md").exists()
    assert len(list(folder.glob("*.png"))) >= 10


def test_a_sound_run_through_the_runner(tmp_path):
    command = [
        sys.executable, "-m", "experiments.run", "+paper=oneadapt", "experiment=time_series", "scale=smoke", "draw=false",
        "methods=[oneadapt]", "+experiment_args.time_series.workload=sound_recognition",
        "+experiment_args.time_series.num_intervals=3", f"results_dir={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    from common.results import Results

    results = Results.load(tmp_path, "oneadapt")
    assert set(results.frame["metric"]) == {"accuracy", "resource", "knob_place"}
