"""The results store: nothing finished is ever lost, nothing damaged is ever read, nothing unlike is ever averaged."""

import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import results as results_module
from common.errors import ConfigError, ResultsError
from common.results import (
    BASES,
    PUBLISHED,
    VOLATILE_SETTINGS,
    ItemRows,
    Results,
    Row,
    RunIdentity,
    RunWriter,
    canonical_json,
    publish,
    sha256_of,
    write_atomically,
)

ROOT = Path(__file__).resolve().parents[2]
FACTS = {"command": "test", "styles": {"ours": {"label": "Ours"}}, "machine": {"cpu_model": "Test CPU"}}


def settings(**changes):
    base = {
        "methods": ["ours", "base"],
        "method_args": {"ours": {}, "base": {}},
        "workload": "w",
        "workload_args": {},
        "num_items": 3,
        "model": {"name": "small"},
        "data": {"name": "bundled"},
        "scale": "cpu",
    }
    return base | changes


def identity(seed=0, experiment="e", paper="p", **changes):
    return RunIdentity(paper, experiment, seed, changes.get("scale", "cpu"), settings(**changes))


def rows(value, methods=("ours", "base"), **more):
    return [Row("ttft", value + place, "s", "measured", method=name, **more) for place, name in enumerate(methods)]


def write(root, values=(1.0, 2.0, 3.0), *, finished_at=None, methods=("ours", "base"), factors=None, **which):
    """A complete run with one item per value; `finished_at` overrides the clock."""
    with RunWriter(root, identity(**which), FACTS, force=True) as run:
        for item, value in enumerate(values):
            run.commit(ItemRows(item, rows(value, methods, factors=factors or {})))
        record = run.complete(wall_s=1.0)
    if finished_at is not None:
        path = run.directory / "run.json"
        path.write_text(json.dumps(record | {"finished_at": finished_at}))
    return run.directory


# ------------------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": math.nan}, "is NaN"),
        ({"value": np.float32("nan")}, "is NaN"),
        ({"unit": ""}, "has no unit"),
        ({"basis": "guessed"}, "not one of measured, simulated, modelled"),
        ({"basis": ""}, "not one of"),
        ({"factors": {"ratios": [0.1, 0.2]}}, "ratios=.*must be a number or text"),
        ({"factors": {"ratio": None}}, "must be a number or text"),
    ],
)
def test_a_row_that_says_too_little_is_refused(changes, message):
    with pytest.raises(ResultsError, match=message):
        Row(**{"metric": "ttft", "value": 1.0, "unit": "s", "basis": "measured"} | changes)


@pytest.mark.parametrize(
    "value", [0.0, -1.5, 1e-300, 1e300, math.inf, 0.1 + 0.2, 3, np.float64(0.25), np.float32(0.25)]
)
def test_every_number_comes_back_exactly(tmp_path, value):
    with RunWriter(tmp_path, identity(), FACTS) as run:
        run.commit(ItemRows("0", [Row("m", value, "1", "measured")]))
    with RunWriter(tmp_path, identity(), FACTS) as run:  # through the journal and the parquet file
        run.complete(1.0)
    (stored,) = Results.load(tmp_path).frame["value"]
    assert stored == float(value)


def test_factors_may_be_numpy_scalars():
    factors = {"num_chunks": np.int64(6), "ratio": np.float32(0.5), "device": np.str_("ssd"), "is_warm": np.bool_(True)}
    row = Row("m", 1.0, "s", "measured", factors=factors)
    assert canonical_json(row.factors) == '{"device":"ssd","is_warm":true,"num_chunks":6,"ratio":0.5}'


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), st.booleans())))
def test_canonical_json_ignores_order_only(value):
    turned = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(turned)
    assert json.loads(canonical_json(value)) == value
    assert sha256_of(value) != sha256_of(value | {"one more": 1})


# ----------------------------------------------------------------------------------------------------------------- run ids


def test_volatile_settings_are_left_to_the_caller_and_everything_else_counts():
    one = identity()
    assert identity() == one
    assert one.run_id == f"e-{one.config_sha256[:12]}-s0"
    for changes in ({"num_items": 4}, {"workload": "v"}, {"model": {"name": "big"}}, {"scale": "smoke"}):
        assert identity(**changes).run_id != one.run_id
        assert identity(**changes).base_sha256 != one.base_sha256
    assert identity(seed=1).config_sha256 == one.config_sha256
    assert identity(paper="q").config_sha256 != one.config_sha256
    assert "results_dir" in VOLATILE_SETTINGS


def test_methods_change_the_id_but_not_the_base():
    one, other = identity(), identity(methods=["ours"], method_args={"ours": {"ratio": 0.3}})
    assert one.run_id != other.run_id
    assert one.base_sha256 == other.base_sha256


# ----------------------------------------------------------------------------------------------------------------- writing


def test_a_run_from_start_to_end(tmp_path):
    with RunWriter(tmp_path, identity(), FACTS) as run:
        assert not run.is_complete
        assert run.finished_items == frozenset()
        run.commit(ItemRows(0, rows(1.0)))
        assert run.finished_items == {"0"}
        with pytest.raises(ResultsError, match=r"no run\.json yet"):
            run.read_record()
        assert not len(Results.load(tmp_path)), "an unfinished run must not be read"
        record = run.complete(2.5, {"weights": "ab" * 32})
        assert run.read_record() == record
    assert record["status"] == "complete"
    assert record["num_items"] == 1
    assert record["num_rows"] == 2
    assert record["wall_s"] == 2.5
    assert record["inputs"] == {"weights": "ab" * 32}
    assert record["command"] == "test"
    assert sorted(path.name for path in run.directory.iterdir()) == ["rows.parquet", "run.json"]
    frame = Results.load(tmp_path, "p").frame
    assert list(frame["series"]) == ["Ours", "base"]
    assert set(frame["machine"]) == {"Test CPU"}
    with RunWriter(tmp_path, identity(), FACTS) as run:
        assert run.is_complete


def test_an_item_is_committed_once(tmp_path):
    with RunWriter(tmp_path, identity(), FACTS) as run:
        run.commit(ItemRows(0, rows(1.0)))
        with pytest.raises(ResultsError, match="yielded twice"):
            run.commit(ItemRows("0", rows(1.0)))


def test_a_run_without_rows_is_an_error_not_an_empty_result(tmp_path):
    with RunWriter(tmp_path, identity(), FACTS) as run:
        run.commit(ItemRows("0", []))
        with pytest.raises(ResultsError, match="no rows"):
            run.complete(1.0)
    assert not len(Results.load(tmp_path))


def test_a_failed_run_says_so_keeps_its_items_and_can_be_finished(tmp_path):
    with RunWriter(tmp_path, identity(), FACTS) as run:
        run.commit(ItemRows(0, rows(1.0)))
        run.fail(ValueError("boom"), 1.0)
    record = json.loads((run.directory / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["error"] == "ValueError: boom"
    loaded = Results.load(tmp_path)
    assert not len(loaded)
    assert "boom" in loaded.skipped[0]
    with RunWriter(tmp_path, identity(), FACTS) as run:
        assert run.finished_items == {"0"}
        run.commit(ItemRows(1, rows(2.0)))
        assert run.complete(1.0)["error"] is None
    assert list(Results.load(tmp_path).frame["item"]) == ["0", "0", "1", "1"]


def test_force_starts_from_nothing(tmp_path):
    directory = write(tmp_path)
    with RunWriter(tmp_path, identity(), FACTS, force=True) as run:
        assert not run.is_complete
        assert run.finished_items == frozenset()
    assert not list(directory.iterdir())


def test_published_results_cannot_be_written_to(tmp_path):
    with pytest.raises(ConfigError, match="another folder"):
        RunWriter(tmp_path / PUBLISHED, identity(), FACTS)


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file"
    write_atomically(path, b"old")

    def no_space(*_args):
        raise OSError("no space left")

    monkeypatch.setattr(results_module.os, "fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_stored_files_can_be_read_by_others(tmp_path):
    directory = write(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o644}


# ---------------------------------------------------------------------------------------------------- torn and damaged files


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """A journal of three items, with text that JSON must escape, and the offsets at which its lines end."""
    root = tmp_path_factory.mktemp("journal")
    with RunWriter(root, identity(), FACTS) as run:
        for item in ("first", "zwei\n\r\u2028", "3"):
            run.commit(ItemRows(item, rows(1.0, factors={"text": "a\nb\u00e9", "loss_rate": 0.05})))
        data = (run.directory / "journal.jsonl").read_bytes()
    ends = [offset + 1 for offset, byte in enumerate(data) if byte == ord("\n")]
    assert len(ends) == 3
    return data, ends


def test_a_journal_torn_at_any_byte_keeps_exactly_the_whole_lines(tmp_path, journal):
    data, ends = journal
    items = ("first", "zwei\n\r\u2028", "3")
    path = RunWriter(tmp_path, identity(), FACTS).directory / "journal.jsonl"
    path.parent.mkdir(parents=True)
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        whole = sum(end <= length for end in ends)
        with RunWriter(tmp_path, identity(), FACTS) as run:
            assert run.finished_items == set(items[:whole]), length
        assert path.read_bytes() == data[: ends[whole - 1] if whole else 0]


@pytest.mark.parametrize("length", [0, 1, 40])
def test_a_torn_run_goes_on_and_gives_the_same_rows(tmp_path, journal, length):
    data, ends = journal
    path = RunWriter(tmp_path, identity(), FACTS).directory / "journal.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(data[: ends[1] + length])
    with RunWriter(tmp_path, identity(), FACTS) as run:
        assert "3" not in run.finished_items
        run.commit(ItemRows("3", rows(7.0)))
        run.complete(1.0)
    frame = Results.load(tmp_path).frame
    assert list(frame["item"].unique()) == ["first", "zwei\n\r\u2028", "3"]
    assert set(frame.loc[frame["item"] == "3", "value"]) == {7.0, 8.0}
    assert set(frame["factor.text"].dropna()) == {"a\nb\u00e9"}


@given(st.data())
def test_a_flipped_byte_never_gives_other_rows(tmp_path_factory, journal, data):
    original, ends = journal
    at = data.draw(st.integers(0, len(original) - 1))
    flipped = bytearray(original)
    flipped[at] ^= data.draw(st.integers(1, 255))
    root = tmp_path_factory.mktemp("flip")
    path = RunWriter(root, identity(), FACTS).directory / "journal.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(flipped))
    with RunWriter(root, identity(), FACTS) as run:
        survivors = run.finished_items
    # What stands before the damaged line is kept, that line and what follows are done again.
    assert survivors == set(("first", "zwei\n\r\u2028", "3")[: sum(end <= at for end in ends)])
    shutil.rmtree(root)


def test_a_crash_between_the_two_last_files_is_mended(tmp_path):
    """rows.parquet is there, run.json is not: the journal still is, and the run completes from it."""
    with RunWriter(tmp_path, identity(), FACTS) as run:
        run.commit(ItemRows(0, rows(1.0)))
        journal_bytes = (run.directory / "journal.jsonl").read_bytes()
        run.complete(1.0)
    (run.directory / "run.json").unlink()
    (run.directory / "journal.jsonl").write_bytes(journal_bytes)
    assert not len(Results.load(tmp_path))
    with RunWriter(tmp_path, identity(), FACTS) as run:
        assert run.finished_items == {"0"}
        run.complete(1.0)
    assert len(Results.load(tmp_path)) == 2


def test_damaged_rows_are_never_read(tmp_path):
    path = write(tmp_path) / "rows.parquet"
    data = path.read_bytes()
    for damaged in (data[:-1], data + b"x", bytes([data[0] ^ 1]) + data[1:], b""):
        path.write_bytes(damaged)
        with pytest.raises(ResultsError, match=r"checksum differs.*force=true"):
            Results.load(tmp_path)
    path.unlink()
    with pytest.raises(ResultsError, match=r"rows\.parquet is missing"):
        Results.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 1', "\udcff", "null", "[]", '"x"'])
def test_a_damaged_record_is_one_clear_line_and_force_mends_it(tmp_path, text):
    path = write(tmp_path) / "run.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ResultsError, match=r"run\.json is damaged"):
        Results.load(tmp_path)
    refused = RunWriter(tmp_path, identity(), FACTS)
    with pytest.raises(ResultsError, match=r"run\.json is damaged"):
        refused.__enter__()
    assert not refused._lock.is_locked, "whoever comes next would wait for ever"
    write(tmp_path)
    assert len(Results.load(tmp_path)) == 6


def test_another_schema_version_is_refused_and_force_mends_it(tmp_path):
    path = write(tmp_path) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(ResultsError, match=r"schema version 99.*force=true"):
        Results.load(tmp_path)
    write(tmp_path)
    assert len(Results.load(tmp_path)) == 6


# -------------------------------------------------------------------------------------------------------- several processes


def child(code, *arguments):
    script = "import sys\nfrom pathlib import Path\nfrom common.results import *\n" + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


SLOW_WRITER = """
    import time
    identity = RunIdentity("p", "e", 0, "cpu", {"workload": "w", "scale": "cpu"})
    with RunWriter(Path(sys.argv[1]), identity, {}) as run:
        done = len(run.finished_items)
        for item in range(1000):
            if str(item) not in run.finished_items:
                run.commit(ItemRows(item, [Row("m", item / 3, "s", "measured", factors={"pid": 0})]))
                print(item, flush=True)
                time.sleep(0.002)
"""


def test_kill_9_loses_no_finished_item(tmp_path):
    identity_ = RunIdentity("p", "e", 0, "cpu", {"workload": "w", "scale": "cpu"})
    reported = -1
    for _ in range(3):  # killed three times, each time further on
        process = child(SLOW_WRITER, tmp_path)
        target = reported + 5
        while reported < target:
            reported = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        reported = int(rest[-1]) if rest else reported
        assert not len(Results.load(tmp_path))
        with RunWriter(tmp_path, identity_, {}) as run:  # the kernel released the lock
            finished = len(run.finished_items)
        assert finished >= reported + 1
        assert run.finished_items == {str(item) for item in range(finished)}
    with RunWriter(tmp_path, identity_, {}) as run:
        run.complete(1.0)
    frame = Results.load(tmp_path).frame
    assert list(frame["value"]) == [item / 3 for item in range(finished)]


def _write_same(root, barrier, outcome):
    barrier.wait()
    waited = []
    with RunWriter(root, identity(), FACTS, on_wait=lambda: waited.append(1)) as run:
        if run.is_complete:
            outcome.put("skipped")
            return
        for item in range(10):
            run.commit(ItemRows(item, rows(float(item))))
            time.sleep(0.01)
        run.complete(1.0)
    outcome.put("written")


def _write_own(root, barrier, outcome, seed):
    barrier.wait()
    for experiment in ("e", "f"):
        with RunWriter(root, identity(seed=seed, experiment=experiment), FACTS) as run:
            for item in range(10):
                run.commit(ItemRows(item, rows(100.0 * seed + item)))
            run.complete(1.0)
    outcome.put("written")


def _together(target, arguments):
    context = multiprocessing.get_context("spawn")
    barrier, outcome = context.Barrier(len(arguments)), context.Queue()
    processes = [context.Process(target=target, args=(root, barrier, outcome, *rest)) for root, *rest in arguments]
    for process in processes:
        process.start()
    outcomes = [outcome.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return outcomes


def test_two_processes_at_the_same_run_do_it_once(tmp_path):
    assert sorted(_together(_write_same, [(tmp_path,), (tmp_path,)])) == ["skipped", "written"]
    assert len(Results.load(tmp_path)) == 20


def test_two_processes_at_different_runs_lose_nothing(tmp_path):
    _together(_write_own, [(tmp_path, 1), (tmp_path, 2)])
    frame = Results.load(tmp_path).frame
    assert len(frame) == 2 * 2 * 10 * 2
    assert frame.groupby(["experiment", "seed"])["item"].nunique().tolist() == [10] * 4


# ----------------------------------------------------------------------------------------------------------------- reading


def test_nothing_stored_reads_as_empty(tmp_path):
    for root in (tmp_path, tmp_path / "missing"):
        results = Results.load(root)
        assert len(results) == 0
        assert len(results.newest()) == 0
        assert len(results.newest(whole_runs=True)) == 0
        assert results.select(metric="ttft").empty
        assert results.only(scale="cpu", experiment="e").frame.empty
        assert results.records_of(results.frame) == []
        assert "series" in results.frame


def test_an_unknown_key_is_named(tmp_path):
    write(tmp_path)
    with pytest.raises(ResultsError, match=r"no key 'metrics'; known: .*metric"):
        Results.load(tmp_path).select(metrics="ttft")


@pytest.mark.parametrize(
    ("which", "key"),
    [
        ({"workload": "v"}, "workload"),
        ({"model": {"name": "big"}}, "model"),
        ({"data": {"name": "hf"}}, "data"),
        ({"scale": "smoke"}, "scale"),
        ({"workload_args": {"num_chunks": 3}}, "workload_args"),
        ({"method_args": {"ours": {"ratio": 0.3}}}, "method_args"),
        ({"num_items": 9}, "base"),
        ({"experiment": "f"}, "experiment"),
        ({"paper": "q"}, "paper"),
        ({"factors": {"loss_rate": 0.1}}, "factor.loss_rate"),
    ],
)
def test_select_refuses_to_average_what_differs(tmp_path, which, key):
    write(tmp_path)
    assert len(Results.load(tmp_path).select(method="ours", metric="ttft")) == 3
    write(tmp_path, **{"seed": 1} | which)
    results = Results.load(tmp_path)
    with pytest.raises(ResultsError, match=f"differ in '{key}'"):
        results.select(method="ours", metric="ttft")
    kept = results.select(method="ours", metric="ttft", keep=[key, "base", "workload_args"])
    assert len(kept) == 6


def test_select_refuses_mixed_metrics_units_and_bases(tmp_path):
    with RunWriter(tmp_path, identity(), FACTS) as run:
        run.commit(ItemRows(0, [Row("a", 1.0, "s", "measured"), Row("b", 1.0, "s", "measured")]))
        run.commit(ItemRows(1, [Row("a", 1.0, "ms", "measured"), Row("b", 1.0, "s", "modelled")]))
        run.complete(1.0)
    results = Results.load(tmp_path)
    for fixed, key in (({}, "metric"), ({"metric": "a"}, "unit"), ({"metric": "b"}, "basis")):
        with pytest.raises(ResultsError, match=f"differ in '{key}'"):
            results.select(**fixed)
    assert set(BASES) == {"measured", "simulated", "modelled"}


def test_seeds_and_items_are_samples_and_do_not_need_keeping(tmp_path):
    for seed in range(3):
        write(tmp_path, seed=seed)
    assert len(Results.load(tmp_path).select(method="ours", metric="ttft")) == 9


def test_series_names_tell_variants_apart(tmp_path):
    write(tmp_path, method_args={"ours": {"ratio": 0.15, "check": 1}})
    assert set(Results.load(tmp_path).frame["series"]) == {"Ours", "base"}
    write(tmp_path, method_args={"ours": {"ratio": 0.3, "check": 1}})
    assert set(Results.load(tmp_path).frame["series"]) == {"Ours (ratio=0.15)", "Ours (ratio=0.3)", "base"}
    assert set(Results.load(tmp_path).select(keep=["series"], metric="ttft")["series"]) == set(
        Results.load(tmp_path).frame["series"]
    )


def test_newest_takes_one_configuration_and_its_newest_methods(tmp_path):
    write(tmp_path, (1.0, 2.0), num_items=2, finished_at="2026-01-01T00:00:00+00:00")
    write(tmp_path, (10.0, 20.0, 30.0), seed=0, finished_at="2026-01-02T00:00:00+00:00")
    write(tmp_path, (40.0, 50.0, 60.0), seed=1, finished_at="2026-01-03T00:00:00+00:00")
    # `ours` alone once more, seed 0: replaces it there, keeps `base` and seed 1.
    write(
        tmp_path,
        (5.0, 6.0, 7.0),
        methods=("ours",),
        finished_at="2026-01-04T00:00:00+00:00",
        **{"method_args": {"ours": {}}, "seed": 0, "num_items": 3},
    )
    newest = Results.load(tmp_path).newest()
    values = {key: sorted(group["value"]) for key, group in newest.frame.groupby(["method", "seed"])}
    assert values == {
        ("ours", 0): [5.0, 6.0, 7.0],
        ("ours", 1): [40.0, 50.0, 60.0],
        ("base", 0): [11.0, 21.0, 31.0],
        ("base", 1): [41.0, 51.0, 61.0],
    }
    whole = Results.load(tmp_path).newest(whole_runs=True)
    assert len(whole) == len(newest) + 3
    assert set(whole.frame["value"]) > {10.0, 20.0, 30.0}


def test_newest_does_not_mix_machines(tmp_path):
    write(tmp_path, seed=0)
    write(tmp_path, seed=1)
    publish(tmp_path, "p")
    shutil.rmtree(tmp_path / "p")
    write(tmp_path, (7.0, 8.0, 9.0), seed=0)
    newest = Results.load(tmp_path).newest()
    assert set(newest.frame["origin"]) == {"local"}
    assert set(newest.frame["seed"]) == {0}


def test_runs_of_the_same_second_are_taken_in_a_fixed_order(tmp_path):
    for num_items in range(1, 8):
        write(tmp_path, (1.0,) * num_items, num_items=num_items, finished_at="2026-01-01T00:00:00+00:00")
    directories = sorted(path.name for path in (tmp_path / "p").iterdir() if path.is_dir())
    newest = Results.load(tmp_path).newest()
    assert set(newest.frame["run_id"]) == {directories[-1]}


def test_paired_values_are_those_of_one_run(tmp_path):
    for seed in range(2):
        write(tmp_path, (1.0 + seed, 2.0 + seed), seed=seed)
    pairs = Results.load(tmp_path).paired("ttft", "ours", "base")
    assert len(pairs) == 4
    assert (pairs["baseline_value"] - pairs["method_value"]).tolist() == [1.0] * 4
    write(tmp_path, (1.0,), seed=5, methods=("ours",))
    assert 5 not in set(Results.load(tmp_path).paired("ttft", "ours", "base")["seed"])


def test_factors_become_columns_also_where_only_some_rows_have_them(tmp_path):
    write(tmp_path, factors={"ratio": 0.15})
    write(tmp_path, factors={"device": "ssd"}, experiment="f")
    frame = Results.load(tmp_path).frame
    assert frame.loc[frame["experiment"] == "e", "factor.ratio"].tolist() == [0.15] * 6
    assert frame.loc[frame["experiment"] == "e", "factor.device"].isna().all()
    assert Results.load(tmp_path).only(**{"factor.device": "ssd"}).frame["experiment"].unique().tolist() == ["f"]


# -------------------------------------------------------------------------------------------------------------- publishing


def test_publish_copies_the_newest_local_runs(tmp_path):
    write(tmp_path, num_items=2, finished_at="2026-01-01T00:00:00+00:00")
    newest = write(tmp_path, finished_at="2026-01-02T00:00:00+00:00")
    write(tmp_path, scale="smoke")
    (published,) = publish(tmp_path, "p")
    assert published.name == newest.name
    assert published.parent == tmp_path / PUBLISHED / "p"
    assert sorted(path.name for path in published.iterdir()) == ["rows.parquet", "run.json"]
    shutil.rmtree(tmp_path / "p")
    results = Results.load(tmp_path)
    assert set(results.frame["origin"]) == {"published"}
    with pytest.raises(ResultsError, match="no complete local run"):
        publish(tmp_path, "p")
    assert published.exists()


def test_publishing_leaves_nothing_behind_and_is_not_read_half_done(tmp_path):
    directory = write(tmp_path)
    publish(tmp_path, "p")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", PUBLISHED]
    staging = tmp_path / ".publish-x"
    shutil.copytree(directory, staging / directory.name)
    frame = Results.load(tmp_path).frame
    assert len(frame) == 12, "a publication in progress was read as a third origin"


def test_publishing_that_is_interrupted_loses_nothing(tmp_path, monkeypatch):
    write(tmp_path)
    (published,) = publish(tmp_path, "p")
    replace = os.replace

    def interrupted(source, target):
        if Path(target) == tmp_path / PUBLISHED / "p" and Path(source).name == "new":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(results_module.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, "p")
    assert (published / "run.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", PUBLISHED]


def test_publishing_one_experiment_keeps_the_others(tmp_path):
    write(tmp_path, experiment="e")
    write(tmp_path, experiment="f")
    publish(tmp_path, "p")
    shutil.rmtree(tmp_path / "p")
    write(tmp_path, experiment="f", num_items=9)
    publish(tmp_path, "p")
    frame = Results.load(tmp_path).only(origin="published").frame
    assert sorted(frame["experiment"].unique()) == ["e", "f"]
    assert frame.groupby("experiment")["run_id"].nunique().tolist() == [1, 1]


def test_the_store_imports_no_torch():
    code = "import sys, common.results; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_frames_are_not_shared_between_views(tmp_path):
    write(tmp_path)
    results = Results.load(tmp_path)
    before = results.frame.copy()
    view = results.only(method="ours").frame
    view.loc[:, "value"] = 0.0
    pd.testing.assert_frame_equal(results.frame, before)
