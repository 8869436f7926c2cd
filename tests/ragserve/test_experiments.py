"""Every experiment yields rows on a tiny model; the runner and the figures take them."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.experiment import Run
from ragserve.api import EXPERIMENTS, METHODS
from ragserve.experiments import pool_tokens

ROOT = Path(__file__).resolve().parents[2]
PLAN = yaml.safe_load((ROOT / "experiments" / "conf" / "paper" / "ragserve.yaml").read_text())["plan"]
ENGINE = ("engine_calibration", "engine_replay", "simulator_speed")
"""Tested with the engines."""
# One of each family runs by default; all of them in the slow test.
DEFAULT = ("delay_vs_f1", "profiles", "scheduling_example", "lengths")
SLOW = [name for name in PLAN if name not in DEFAULT and name not in ENGINE]


def run_of(name, folder, cache, num_items=3):
    plan = PLAN[name]
    smoke = plan.get("sizes", {}).get("smoke", {})
    args = plan.get("args", {}) | smoke.get("args", {})
    known = EXPERIMENTS.knobs(name)
    if "workloads" in known:
        args["workloads"] = ["musique_like"]
    run = Run(
        paper="ragserve",
        experiment=name,
        scale="smoke",
        seed=0,
        num_items=num_items,
        methods={method: METHODS.create(method) for method in plan.get("methods", [])},
        model={"name": "tiny", "source": "local", "path": str(folder), "device": "cpu"},
        data={"source": "generated"},
        cache_dir=cache,
    )
    return run, EXPERIMENTS.create(name, **args)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@functools.cache
def rows_of(name, folder, cache):
    run, experiment = run_of(name, folder, cache)
    return [(item.item, row) for item in experiment.rows(run) for row in item.rows]


def check_rows(rows):
    assert rows
    methods = {row.method for _, row in rows if row.method}
    assert methods <= set(METHODS.names())
    for _, row in rows:
        if row.metric == "f1":
            assert (row.basis, row.unit) == ("measured", "1")
            assert 0 <= row.value <= 1
        if row.metric == "delay":
            assert row.basis in ("simulated", "modelled")
            assert row.value > 0


@pytest.mark.parametrize("name", DEFAULT)
def test_experiment_yields_rows(name, model_folder, cache):
    check_rows(rows_of(name, model_folder, cache))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_other_experiment_yields_rows(name, model_folder, cache):
    if name == "feedback":
        run, experiment = run_of(name, model_folder, cache, num_items=31)
        check_rows([(item.item, row) for item in experiment.rows(run) for row in item.rows])
        return
    check_rows(rows_of(name, model_folder, cache))


def test_every_registered_experiment_has_a_plan():
    assert set(EXPERIMENTS.names()) - set(ENGINE) == set(PLAN) - set(ENGINE)


def test_every_method_serves_the_same_queries(model_folder, cache):
    rows = rows_of("delay_vs_f1", model_folder, cache)
    by_method = {}
    for item, row in rows:
        if row.metric == "delay" and row.factors["setting"] in ("", "best quality"):
            by_method.setdefault((row.method, row.factors["setting"]), []).append(item)
    assert len(by_method) >= 9
    assert len({tuple(items) for items in by_method.values()}) == 1
    streams = [row for item, row in rows if item.endswith("-streams")]
    assert {row.metric for row in streams} >= {
        "capacity",
        "utilisation",
        "is_unstable",
        "prompt_tokens",
        "failed_share",
    }
    # fixed configurations are there at similar delay and similar quality, too
    settings = {row.factors["setting"] for _, row in rows if row.method == "fixed" and row.metric == "f1"}
    assert {"best quality", "similar delay", "similar quality"} <= settings


def test_stuff_waits_for_the_memory_and_mappers_do_not(model_folder, cache):
    waits = {}
    for item, row in rows_of("scheduling_example", model_folder, cache):
        if row.metric == "wait":
            waits[item, row.factors["held_s"], row.factors["setting"]] = row.value
    assert waits
    held = {held_s for _, held_s, _ in waits}
    assert len(held) == 2
    for (item, held_s, setting), wait_s in waits.items():
        if setting == "stuff":
            # It starts in the iteration in which the running call's memory is free, not before.
            assert wait_s == pytest.approx(held_s, abs=0.002)
            assert waits[item, held_s, "map_reduce"] < 0.1


def test_pools_have_names_or_numbers():
    assert pool_tokens("2560") == 2560
    with pytest.raises(Exception, match="pool 'huge'"):
        pool_tokens("huge")


@pytest.mark.slow
def test_the_runner_and_the_figures_take_them(tmp_path, model_folder):
    settings = (
        f"model=local model.path={model_folder} results_dir={tmp_path / 'r'} figures_dir={tmp_path / 'f'} threads=1"
    )
    command = (
        f"-m experiments.run +paper=ragserve scale=smoke experiment=[delay_vs_f1,breakdown] num_items=3 {settings}"
    )
    done = subprocess.run([sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "f" / "smoke" / "ragserve" / "delay_vs_f1.png").exists()
    assert (tmp_path / "f" / "smoke" / "ragserve" / "breakdown.png").exists()
