"""The runner as a user meets it: as a command, with its exit codes, its messages, and what it leaves on disk."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.results import Results

TOY = Path(__file__).parent / "toy_paper"
REPOSITORY = Path(__file__).resolve().parents[2]
ON_TOY = (f"hydra.searchpath=[file://{TOY / 'conf'}]", "+paper=toy", "draw=false")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "experiments.run", *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(TOY), str(REPOSITORY)]), "COLUMNS": "200"}


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120)


def records(root: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(root.glob("results/toy/*/run.json"))]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["num_item=3"], "unknown setting 'num_item'. Did you mean 'num_items'?"),
        (["+num_item=3"], "unknown setting 'num_item'. Did you mean 'num_items'?"),
        (["++num_item=3"], "unknown setting 'num_item'. Did you mean 'num_items'?"),
        (["model.nam=x"], "unknown setting 'model.nam'. Did you mean 'model.name'?"),
        (["+data.rot=x"], "unknown setting 'data.rot'. Did you mean 'data.root'?"),
        (["scale=small"], "scale='small' is not a scale. Choose one of smoke, cpu, gpu."),
        (["num_items=many"], "num_items"),
        (["num_items=0"], "num_items=0 is too small"),
        (["seed=-1"], "seed=-1 is too small"),
        (["methods=[]"], "methods=[] names no method"),
        (["results_dir=/proc/none"], "/proc/none cannot be written: No such file or directory; choose another"),
        (["methods=[plain,scald]"], "Did you mean 'scaled'?"),
        (["workload=unifrm"], "Did you mean 'uniform'?"),
        (["experiment=drws"], "Did you mean 'draws'?"),
        (["experiment=[]"], "neither a name, a list of names, nor 'all'"),
        (["+method_args.scaled.facto=3"], "has no knob 'facto'. Did you mean 'factor'?"),
        (["+method_args.scaled.factor=-1"], "factor=-1 must be positive"),
        (["methods=plain", "+method_args.scaled.factor=3"], "'scaled' is not among those that run"),
        (["+method_args.sclaed.factor=3"], "Did you mean 'scaled'?"),
        (["plugins=[no_such_module]"], "plugin 'no_such_module' cannot be imported"),
        (["num_items"], "cannot read 'num_items' as a setting"),
        (["=3"], "cannot read '=3' as a setting"),
        (["methods=[plain"], "cannot read 'methods=[plain'"),
        (["model=tiny_lama"], "unknown model 'tiny_lama'"),
    ],
)
def test_a_wrong_setting_is_one_clear_line_and_exit_code_2(tmp_path, overrides, expected):
    done = run(tmp_path, *ON_TOY, *overrides)
    lines = done.stderr.strip().splitlines()
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    assert expected in lines[0]
    assert not list(tmp_path.glob("results/toy/*")), "a refused command must leave nothing behind"


def test_an_unknown_paper_is_refused_with_the_nearest_name(tmp_path):
    done = run(tmp_path, "+paper=cacheblnd")
    assert done.returncode == 2
    assert "unknown paper 'cacheblnd'. Did you mean 'cacheblend'?" in done.stderr


def test_without_a_paper_it_lists_what_can_be_run_and_exits_2(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 2
    assert "cacheblend" in done.stderr
    assert "+paper=NAME" in done.stderr


def test_the_plus_before_paper_may_be_left_out(tmp_path):
    done = run(tmp_path, ON_TOY[0], "paper=toy", "draw=false", "scale=smoke")
    assert done.returncode == 0, done.stderr


def test_the_plus_before_knobs_and_model_fields_may_be_left_out(tmp_path):
    done = run(
        tmp_path,
        *ON_TOY,
        "scale=smoke",
        "num_seeds=1",
        "method_args.scaled.factor=3",
        "model.device=cpu",
        "data.root=/x",
    )
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path)
    assert record["settings"]["method_args"]["scaled"] == {"factor": 3}
    assert record["settings"]["model"]["device"] == "cpu"
    assert record["settings"]["data"]["root"] == "/x"


def test_a_finished_run_is_complete_self_describing_and_skipped_the_second_time(tmp_path):
    first = run(tmp_path, *ON_TOY, "+method_args.scaled.factor=3")
    assert first.returncode == 0, first.stderr
    found = records(tmp_path)
    assert [record["seed"] for record in found] == [0, 1]
    for record in found:
        assert record["status"] == "complete"
        assert record["settings"]["method_args"]["scaled"] == {"factor": 3}
        assert record["styles"]["scaled"] == {"label": "Scaled", "color": "#123456", "marker": "s"}
        assert {"command", "git", "source_sha256", "machine", "version", "wall_s", "finished_at"} <= record.keys()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/toy/*/rows.parquet")}
    second = run(tmp_path, *ON_TOY, "+method_args.scaled.factor=3")
    assert second.returncode == 0
    assert second.stderr.count("already complete") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    forced = run(tmp_path, *ON_TOY, "+method_args.scaled.factor=3", "force=true")
    assert "already complete" not in forced.stderr
    assert all(path.stat().st_mtime_ns > then for path, then in before.items())


def test_a_changed_default_or_knob_gives_another_run_and_method_order_does_not(tmp_path):
    for overrides in (
        ["num_items=2"],
        ["num_items=3"],
        ["num_items=2", "methods=[scaled,plain]"],
        ["num_items=2", "threads=1"],
    ):
        assert run(tmp_path, *ON_TOY, "seed=0", *overrides).returncode == 0
    assert len(records(tmp_path)) == 3


def test_a_failed_run_says_so_keeps_its_items_and_is_resumed(tmp_path):
    failing = run(tmp_path, *ON_TOY, "+experiment_args.draws.fail_at=3", "seed=0")
    assert failing.returncode == 1
    assert "ValueError: item 3 is broken" in failing.stderr
    (record,) = records(tmp_path)
    assert record["status"] == "failed"
    assert record["error"] == "ValueError: item 3 is broken"
    assert record["num_items"] == 3
    assert len(Results.load(tmp_path / "results")) == 0, "a failed run is never read as a result"
    again = run(tmp_path, *ON_TOY, "+experiment_args.draws.fail_at=3", "seed=0")
    assert again.returncode == 1
    assert "resuming after 3 finished items" in again.stderr


def test_kill_9_in_the_middle_loses_no_finished_item_and_the_rerun_equals_an_undisturbed_run(tmp_path):
    slow = [*ON_TOY, "seed=0", "num_items=30", "+experiment_args.draws.pause_s=0.1"]
    process = subprocess.Popen(command(*slow), cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
    journal = None
    deadline_s = time.monotonic() + 60
    while journal is None or journal.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < deadline_s
        journal = next(iter(tmp_path.glob("results/toy/*/journal.jsonl")), None)
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = journal.read_bytes().count(b"\n")
    with open(journal, "ab") as file:
        file.write(b"0000")  # the beginning of a line that never got finished
    resumed = run(tmp_path, *slow)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming after {kept} finished items" in resumed.stderr
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    assert run(undisturbed, *ON_TOY, "seed=0", "num_items=30", "+experiment_args.draws.pause_s=0.1").returncode == 0
    columns = ["method", "item", "metric", "value"]
    frames = [Results.load(root / "results").frame[columns] for root in (tmp_path, undisturbed)]
    assert frames[0].equals(frames[1])


def test_interrupt_keeps_finished_items_and_exits_130(tmp_path):
    slow = [*ON_TOY, "seed=0", "num_items=50", "+experiment_args.draws.pause_s=0.1"]
    # A shell's background jobs are started with SIGINT ignored, and so would be their children.
    restore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    process = subprocess.Popen(
        command(*slow), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True, **restore
    )
    while not list(tmp_path.glob("results/toy/*/journal.jsonl")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "finished items are kept" in stderr


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_multirun_does_every_job_and_its_exit_code_tells_of_the_failed_one(tmp_path, launcher):
    sweep = ["-m", *ON_TOY, "scale=smoke", f"hydra/launcher={launcher}", "seed=0,1"]
    good = run(tmp_path, *sweep)
    assert good.returncode == 0, good.stderr
    bad = run(tmp_path, *sweep, "+experiment_args.draws.fail_at=-1,1")
    assert bad.returncode == 1
    assert sorted((r["seed"], r["status"]) for r in records(tmp_path)) == sorted(
        [(0, "complete"), (1, "complete"), (0, "failed"), (1, "failed")]
    )


def test_two_processes_on_the_same_run_do_it_once_and_lose_nothing(tmp_path):
    slow = [*ON_TOY, "seed=0", "num_items=10", "+experiment_args.draws.pause_s=0.1"]
    processes = [
        subprocess.Popen(command(*slow), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("already complete" in text for text in outputs) == 1
    assert Results.load(tmp_path / "results").frame.groupby("item")["value"].count().eq(2).all()
