"""Every experiment yields rows on a tiny model; the runner and the figures take them."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from cachegen.api import EXPERIMENTS, METHODS, WORKLOADS
from cachegen.experiments_link import random_rate
from common.experiment import Run
from common.rng import for_component

ROOT = Path(__file__).resolve().parents[2]
PLAN = yaml.safe_load((ROOT / "experiments" / "conf" / "paper" / "cachegen.yaml").read_text())["plan"]
# Timed sections hold a lock of the machine; their sizes are smoke sizes all the same.
FAST = [name for name in PLAN if name not in ("size_vs_quality", "ablation")]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """Random weights with the bundled tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "common" / "models" / "bundled" / "small")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=4096,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(1)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_of(name, folder, num_items=1, **changes):
    plan = PLAN[name]
    smoke = plan.get("sizes", {}).get("smoke", {})
    args = plan.get("args", {}) | smoke.get("args", {}) | changes
    workload = plan.get("workload")
    run = Run(
        paper="cachegen",
        experiment=name,
        scale="smoke",
        seed=0,
        num_items=num_items,
        methods={method: METHODS.create(method) for method in plan.get("methods", [])},
        workload=WORKLOADS.create(workload, num_chunks=4) if workload else None,
        workload_name=workload or "",
        model={"name": "tiny", "source": "local", "path": str(folder), "device": "cpu"},
        data={"source": "generated"},
    )
    return run, EXPERIMENTS.create(name, **args)


@functools.cache
def rows_of(name, folder):
    run, experiment = run_of(name, folder)
    return [row for item in experiment.rows(run) for row in item.rows]


@pytest.mark.parametrize("name", FAST)
def test_experiment_yields_rows(name, model_folder):
    rows = rows_of(name, model_folder)
    assert rows
    methods = {row.method for row in rows if row.method}
    assert methods <= set(METHODS.names())


def test_every_registered_experiment_has_a_plan():
    assert set(EXPERIMENTS.names()) == set(PLAN)


def values(rows, metric, **factors):
    return [
        row.value
        for row in rows
        if row.metric == metric and all(row.factors.get(name) == value for name, value in factors.items())
    ]


def test_sizes_and_qualities(model_folder):
    run, experiment = run_of("size_vs_quality", model_folder, num_profile_contexts=3)
    (item,) = experiment.rows(run)
    rows = [row for row in item.rows if row.method]
    by_method = {row.method: row for row in rows if row.metric == "bits_per_element"}
    assert set(by_method) == set(run.methods)
    assert by_method["fp16"].value == pytest.approx(16, abs=0.01)
    assert 8.0 < by_method["fp8"].value < 8.05
    kl = {row.method: row.value for row in rows if row.metric == "kl"}
    assert kl["fp16"] == 0
    assert kl["text"] == pytest.approx(0, abs=1e-6)
    assert kl["quantisation_8bit"] < kl["quantisation_4bit"] < kl["quantisation_3bit"]
    assert all(0 <= row.value <= 1 for row in rows if row.metric == "quality")
    assert {row.basis for row in rows} == {"measured"}


def test_byte_parts_are_the_whole(model_folder):
    rows = rows_of("byte_breakdown", model_folder)
    released = [row for row in rows if row.method == "cachegen_released"]
    assert sum(values(released, "bits_per_element", part="tables", chunk_tokens=64)) > 0
    assert sum(values(rows, "bits_per_element", part="payload", chunk_tokens=64)) > 0


def test_deltas_pay_only_for_correlated_channels(model_folder):
    rows = rows_of("synthetic_correlation", model_folder)
    bits = functools.partial(values, rows, "bits_per_element", tables="channel")
    assert bits(correlation=0.0, coding="anchored")[0] > bits(correlation=0.0, coding="direct")[0]


def test_adaptation_meets_the_examples_objective(model_folder):
    rows = rows_of("adaptation_example", model_folder)
    assert values(rows, "loading_time", policy="adaptive")[0] <= 4.0
    assert values(rows, "loading_time", policy="fixed")[0] == pytest.approx(7.6)


def test_slo_rows_are_paired(model_folder):
    rows = rows_of("slo_violations", model_folder)
    assert {row.value for row in rows if row.metric == "is_violated"} <= {0.0, 1.0}
    counts = {
        (row.method, row.factors["policy"]): len(
            values([r for r in rows if r.method == row.method], "is_violated", policy=row.factors["policy"])
        )
        for row in rows
        if row.metric == "is_violated"
    }
    assert len(set(counts.values())) == 1


def test_random_traces_cover_the_papers_range():
    rate = random_rate(for_component(0, "t"), 3e9, 1.0, num_steps=4000)
    assert min(rate.bps) >= 0.1e9
    assert max(rate.bps) <= 10e9
    assert rate.mean_bps == pytest.approx(5.05e9, rel=0.05)


def test_rows_are_the_same_for_the_same_seed(model_folder):
    run, experiment = run_of("delta_or_not", model_folder)
    assert [item.rows for item in experiment.rows(run)] == [item.rows for item in experiment.rows(run)]


@pytest.mark.slow
def test_runner_and_figures_take_every_experiment(model_folder, tmp_path):
    command = [sys.executable, "-m", "experiments.run", "+paper=cachegen", "experiment=all", "scale=smoke", "threads=1"]
    command += ["model=local", f"model.path={model_folder}", "model.name=tiny"]
    command += [f"results_dir={tmp_path / 'results'}", f"figures_dir={tmp_path / 'figures'}"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "figures" / "smoke" / "cachegen"
    drawn = {path.stem for path in folder.glob("*.png")}
    assert {"size_vs_quality", "ttft_vs_bandwidth", "slo_violations", "ablation"} <= drawn
    claims = (folder / "claims.md").read_text()
    assert "cannot be computed" not in claims
