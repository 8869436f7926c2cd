"""Every experiment of storage and scheduling runs end to end on a tiny random model and says what it should."""

import collections
import dataclasses
import itertools

import pytest
import torch

from cacheblend import experiments_storage, harness
from cacheblend.api import EXPERIMENTS, METHODS, WORKLOADS
from common.experiment import Run
from common.models.loading import LoadedModel

METHOD_NAMES = ("full_recompute", "prefix_caching", "full_reuse", "cacheblend")


@pytest.fixture
def run_of(models, monkeypatch, tmp_path):
    """`run_of(experiment, **knobs)`: all rows of an experiment on random tokens."""
    loaded: LoadedModel = models("llama", torch.float32)
    monkeypatch.setattr(harness, "loaded_model", lambda spec: loaded)

    def run(name, num_items=1, num_chunks=3, **knobs):
        assert experiments_storage
        context = Run(
            paper="cacheblend",
            experiment=name,
            scale="smoke",
            seed=0,
            num_items=num_items,
            methods={method: METHODS.create(method) for method in METHOD_NAMES},
            workload=WORKLOADS.create(
                "random_tokens", num_chunks=num_chunks, chunk_tokens=30, question_tokens=5, vocabulary=97
            ),
            workload_name="random_tokens",
            model={"name": "tiny", "source": "random", "device": "cpu"},
            cache_dir=tmp_path / "cache",
        )
        items = list(EXPERIMENTS.create(name, **knobs).rows(context))
        assert len({item.item for item in items}) == num_items
        again = dataclasses.replace(context, finished=frozenset(item.item for item in items))
        assert not list(EXPERIMENTS.create(name, **knobs).rows(again))
        assert not list((tmp_path / "cache").glob("*"))  # scratch files are gone
        return [row for item in items for row in item.rows]

    return run


def one(rows, metric, method="cacheblend", **wanted):
    found = [
        row.value
        for row in rows
        if row.metric == metric and row.method == method and all(row.factors[k] == v for k, v in wanted.items())
    ]
    assert len(found) == 1, (metric, method, wanted, found)
    return found[0]


def test_storage_device(run_of):
    few, many = 1.0, 200.0  # the model is so small that overheads are most of its time
    rows = run_of("storage_device", repeats=1, warmup=0, load_over_recompute=(few, many))
    timed = collections.Counter(row.method for row in rows if row.metric == "ttft")
    assert timed == {"full_recompute": 1, "prefix_caching": 1, "full_reuse": 4, "cacheblend": 9}
    assert len({tuple(sorted(row.factors)) for row in rows}) == 1  # every row has every factor
    assert one(rows, "kl_to_full", "full_recompute") == 0
    assert one(rows, "kl_to_full", "prefix_caching") == pytest.approx(0, abs=1e-5)
    fixed = {
        row.value
        for row in rows
        if row.metric == "kl_to_full" and row.factors["ratio_by"] == "fixed" and row.method == "cacheblend"
    }
    assert len(fixed) == 1  # the device changes the time, not the answer
    slow = {"device": "throttled", "load_over_recompute": many, "ratio_by": "fixed"}
    fast = slow | {"load_over_recompute": few}
    # The slow device needs 200 * 0.15 = 30 prefills to load everything.
    assert one(rows, "ttft", pipelined=1, **slow) > one(rows, "ttft", pipelined=1, **fast)
    assert one(rows, "ttft", pipelined=1, **slow) > one(rows, "ttft", "full_recompute")
    picked = {
        row.factors["load_over_recompute"]: row.factors["ratio"]
        for row in rows
        if row.factors["ratio_by"] == "controller"
    }
    assert picked[many] >= picked[few] >= 0.15


def test_pipeline_gantt(run_of):
    rows = run_of("pipeline_gantt", repeats=1, load_over_recompute=(200.0,), depths=(0, 1, -1))
    for depth in ("0", "1", "all"):
        real, predicted = one(rows, "ttft", depth=depth), one(rows, "ttft_recurrence", depth=depth)
        assert predicted == pytest.approx(real, rel=0.25)
        assert one(rows, "ttft_bound", depth=depth) <= real * 1.01
        spans = [row for row in rows if row.metric == "span" and row.factors["depth"] == depth]
        for lane, group in itertools.groupby(
            sorted(spans, key=lambda row: (row.factors["lane"], row.factors["begin_s"])),
            lambda row: row.factors["lane"],
        ):
            ends = 0.0
            for row in group:  # a thread does one thing at a time
                assert row.factors["begin_s"] >= ends - 1e-9, lane
                ends = row.factors["begin_s"] + row.value
        assert ("loader" in {row.factors["lane"] for row in spans}) == (depth != "0")
    assert one(rows, "overlap", depth="0") == 0
    assert 0 < one(rows, "overlap", depth="all") <= 1


def test_ttft_breakdown(run_of):
    rows = run_of("ttft_breakdown", repeats=1, load_over_recompute=(0.0, 200.0))
    for method, share in itertools.product(("full_reuse", "cacheblend"), (0.0, 200.0)):
        phases = {
            row.factors["phase"]: row.value
            for row in rows
            if row.metric == "phase_time" and row.method == method and row.factors["load_over_recompute"] == share
        }
        total = one(rows, "ttft", method, load_over_recompute=share)
        assert 0.5 * total < sum(phases.values()) <= total
        assert ("select" in phases) == (method == "cacheblend")
        assert ("wait" in phases) == (share > 0)
    assert one(rows, "ttft", "prefix_caching", load_over_recompute=0.0) > 0  # from memory, and only from there
    slow, none = (
        one(rows, "phase_time", load_over_recompute=200.0, phase="wait"),
        one(rows, "ttft", load_over_recompute=0.0),
    )
    assert slow > 0.5 * none


def test_loading_controller(run_of):
    rows = run_of("loading_controller", repeats=1, ratios=(0.1, 0.5, 1.0))
    prefill = one(rows, "prefill_time", "full_recompute")
    assert one(rows, "recompute_time", ratio=0.5, form="paper") == pytest.approx(0.5 * prefill)
    for row in rows:
        if row.metric == "picked_ratio":
            # T_load = share * 0.15 * prefill, so the paper's form picks share * 0.15, within [0.15, 1].
            expected = min(1.0, max(0.15, row.factors["load_over_recompute"] * 0.15))
            assert row.factors["form"] != "paper" or row.value == pytest.approx(expected)
            assert 0.15 <= row.value <= 1
    for form in ("paper", "layerwise"):
        assert sum(row.value for row in rows if row.metric == "is_picked" and row.factors["form"] == form) == 1
    assert {row.basis for row in rows if row.metric == "recompute_time" and row.factors["form"] == "none"} == {
        "measured"
    }
    assert {row.basis for row in rows if row.metric in ("picked_ratio", "load_time", "device_cost")} == {"modelled"}


def test_ttft_vs_rate(run_of):
    rates = (0.1, 1.0, 3.0)
    rows = run_of(
        "ttft_vs_rate",
        num_chunks=2,
        corpus_chunks=30,
        num_requests=300,
        num_warmup=100,
        disk_share=0.5,
        memory_share=0.2,
        num_queries=100,
        relative_rates=rates,
        repeats=1,
        answer_tokens=1,
    )
    for method in METHOD_NAMES:
        means = [one(rows, "mean_ttft", method, relative_rate=rate) for rate in rates]
        assert means == sorted(means)
        assert means[0] >= one(rows, "idle_ttft", method) * 0.999
        assert one(rows, "p99_ttft", method, relative_rate=1.0) >= one(rows, "mean_ttft", method, relative_rate=1.0)
        assert one(rows, "capacity", method) > 0
    shares = {tier: one(rows, "hit_share", tier=tier) for tier in ("memory", "disk", "missed")}
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) > 0
    assert shares == {tier: one(rows, "hit_share", "full_reuse", tier=tier) for tier in shares}  # the same requests
    measured = {
        (row.factors["memory"], row.factors["disk"], row.factors["missed"])
        for row in rows
        if row.metric == "service_time" and row.method == "cacheblend"
    }
    assert measured <= {(m, d, 2 - m - d) for m in range(3) for d in range(3 - m)}
    assert len(measured) >= 4
    assert {row.basis for row in rows if row.metric in ("mean_ttft", "p99_ttft", "capacity", "hit_share")} == {
        "simulated"
    }
    assert {row.basis for row in rows if row.metric == "service_time"} == {"measured"}


def test_a_bench_places_chunks_where_it_is_told(run_of, models, request_of, tmp_path, monkeypatch):
    import numpy as np

    from cacheblend.engine import Engine, MemoryStore
    from cacheblend.experiments_storage import _Bench
    from cacheblend.load_queue import Pattern
    from cacheblend.store import DiskTier

    loaded, request = models("llama", torch.float32), request_of(prefix=2)
    base = Engine(loaded, MemoryStore())
    base.precompute(request)
    context = Run("cacheblend", "x", "smoke", 0, 1, {})
    bench = _Bench(context, base, request, DiskTier(tmp_path), np.random.default_rng(0))
    for pattern in (Pattern(4), Pattern(0, 4), Pattern(1, 2, 1), Pattern(0, 0, 4)):
        bench._place(pattern)
        counts = bench._store.counts = type(bench._store.counts)()
        report = bench._engine.blend(request, METHODS.create("cacheblend").plan()).report
        # One more in memory: the opening.
        assert (counts.memory_hits - report.missed_chunks - 1, counts.disk_hits) == (pattern.memory, pattern.disk)
        assert report.missed_chunks == pattern.missed
