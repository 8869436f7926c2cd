"""Sweeps beyond one process: the same rows as a run at home, and nothing is lost when a worker dies."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from common.results import Results

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SEEDS = (0, 1, 2)


def sweep(
    folder: Path, *settings: str, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "experiments.run", "-m", "+paper=chatterbox", "plugins=[tests.cluster.sweep_plugin]"]
    command += ["experiment=count", "num_items=4", "draw=false", f"results_dir={folder}", *settings]
    if not any(setting.startswith("seed=") for setting in settings):
        command.append("seed=" + ",".join(map(str, SEEDS)))
    surroundings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=300)


def rows(folder: Path) -> pd.DataFrame:
    frame = Results.load(folder, "chatterbox").frame
    return frame[["seed", "item", "metric", "value"]].sort_values(["seed", "item"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def at_home(tmp_path_factory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("home")
    done = sweep(folder)
    assert done.returncode == 0, done.stderr
    found = rows(folder)
    assert len(found) == 4 * len(SEEDS)
    return found


def test_submitit_gives_the_rows_of_a_local_sweep(at_home, tmp_path):
    done = sweep(tmp_path, "hydra/launcher=submitit_local")
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(rows(tmp_path), at_home)


@pytest.mark.slow  # submitit asks for a lost job's state every half minute
def test_a_killed_worker_is_reported_in_a_line_and_the_same_command_completes_it(at_home, tmp_path):
    settings = (
        "hydra/launcher=submitit_local",
        "+experiment_args.count.kill_seed=1",
        f"+experiment_args.count.marker={tmp_path}/m",
    )
    done = sweep(tmp_path / "r", *settings)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "failed or was killed" in done.stderr.splitlines()[-1]
    assert "the same command" in done.stderr.splitlines()[-1]
    again = sweep(tmp_path / "r", *settings)
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(rows(tmp_path / "r"), at_home)


def test_a_failed_job_fails_the_sweep_and_the_others_are_done(tmp_path):
    done = sweep(tmp_path, "hydra/launcher=submitit_local", "+experiment_args.count.fail_seed=0")
    assert done.returncode == 1
    assert "failed" in done.stderr.splitlines()[-1]
    # The launcher waits for the first job only; the others end by themselves, and a second call finds them done.
    again = sweep(tmp_path, "seed=1,2", "+experiment_args.count.fail_seed=0")
    assert again.returncode == 0, again.stderr
    assert sorted(rows(tmp_path)["seed"].unique()) == [1, 2]


@pytest.mark.slow
def test_a_real_slurm_gives_the_rows_of_a_local_sweep(at_home, tmp_path):
    if not (shutil.which("slurmctld") and shutil.which("slurmd") and shutil.which("munged")):
        pytest.skip("no Slurm here (Debian: apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("starting a Slurm of one's own needs root")
    started = subprocess.run(
        [HERE / "one_node_slurm.sh", "start", tmp_path / "s"], capture_output=True, text=True, timeout=60
    )
    assert started.returncode == 0, started.stderr
    try:
        conf = started.stdout.strip().splitlines()[-1]
        done = sweep(tmp_path / "r", "hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=1", SLURM_CONF=conf)
        assert done.returncode == 0, done.stderr
        pd.testing.assert_frame_equal(rows(tmp_path / "r"), at_home)
    finally:
        subprocess.run([HERE / "one_node_slurm.sh", "stop", tmp_path / "s"], check=True, timeout=60)


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_gives_the_rows_of_a_local_sweep(at_home, tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # Unix sockets have short paths, so not under pytest's folder.
    folder = Path("/tmp") / f"ray-{os.getpid()}"
    started = subprocess.run(
        [HERE / "two_node_ray.sh", "start", folder],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PATH": path},
    )
    try:
        if started.returncode != 0:
            pytest.skip(f"no Ray here: {started.stderr.strip().splitlines()[-1:]}")
        address, python = started.stdout.split()[-2:]
        settings = (f"hydra.launcher.ray.init.address={address}", "+hydra.launcher.ray.init.object_store_memory=null")
        done = sweep(tmp_path, "hydra/launcher=ray", *settings, python=python, RAY_USAGE_STATS_ENABLED="0")
        assert done.returncode == 0, done.stderr
        pd.testing.assert_frame_equal(rows(tmp_path), at_home)
    finally:
        subprocess.run([HERE / "two_node_ray.sh", "stop", folder], timeout=60, check=False)
        shutil.rmtree(folder, ignore_errors=True)
