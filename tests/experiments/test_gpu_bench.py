"""The GPU bench, tried on the CPU with tiny shapes: checks that can fail, a plan that exists, rows that are stored."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import ResultsError
from common.results import Results
from experiments import schema
from experiments.gpu_bench import checks, networks
from experiments.gpu_bench.parts import PARTS

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.gpu_bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_part_names_experiments_and_models_that_exist(part):
    assert (ROOT / "experiments" / "conf" / "model" / f"{part.model}.yaml").is_file()
    assert part.commands or part.rows
    experiments = schema.load_paper(part.name).experiments if part.commands else {}
    for overrides in part.commands:
        (experiment,) = (text.removeprefix("experiment=") for text in overrides if text.startswith("experiment="))
        assert experiment in experiments


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_checks_pass_on_a_tiny_model(part):
    assert "relative error" in part.check(part.tiny_model, "cpu")


@pytest.mark.parametrize("name", [part.name for part in PARTS.values() if part.rows])
def test_what_a_part_measures_stands_beside_its_bound(name):
    part = PARTS[name]
    assert part.rows is not None
    rows = list(part.rows(part.tiny_model, "cpu", True))
    times = [row for row in rows if row.unit == "s"]
    ratios = [row.value for row in rows if row.metric == "time_over_bound"]
    assert times
    assert len(ratios) == len(times)
    assert all(np.isfinite(value) and value > 0 for value in ratios)
    assert {row.basis for row in rows} == {"measured"}


def test_operations_are_counted():
    # A convolution of 2 x 3 channels, 3 x 3, over 4 x 5 pixels: 2 * (2 * 3 * 9) * 20 operations; then a product 6 x 7 x 8.
    layer = torch.nn.Conv2d(2, 3, 3, padding=1, bias=False)

    def work():
        layer(torch.zeros(1, 2, 4, 5))
        torch.zeros(6, 7) @ torch.zeros(7, 8)

    assert networks.operations(work) == 2 * 2 * 3 * 9 * 20 + 2 * 6 * 7 * 8


def test_a_decoder_that_differs_is_seen(monkeypatch):
    from grace.codec import NeuralCodec

    original = NeuralCodec.decode

    def off(self, latents, reference):
        return np.roll(original(self, latents, reference), 1, axis=1)

    monkeypatch.setattr(NeuralCodec, "decode", off)
    with pytest.raises(ResultsError, match="nothing was timed"):
        checks.both_ends_decode_the_same_frame("none", "cpu")


def test_folding_that_forgets_the_mean_is_seen(monkeypatch):
    from accmpeg import accmodel

    original = accmodel.fuse_conv_bn_eval

    def forgetful(convolution, norm):
        norm.running_mean.zero_()
        return original(convolution, norm)

    monkeypatch.setattr(accmodel, "fuse_conv_bn_eval", forgetful)
    with pytest.raises(ResultsError, match="nothing was timed"):
        checks.batches_and_fusing_change_nothing("none", "cpu")


def test_an_engine_that_mixes_up_its_calls_is_seen(monkeypatch):
    from common.serving.in_process import TransformersEngine

    original = TransformersEngine.submit

    def shifted(self, call):
        return original(self, dataclasses.replace(call, prompt_ids=tuple(reversed(call.prompt_ids))))

    monkeypatch.setattr(TransformersEngine, "submit", shifted)
    with pytest.raises(ResultsError, match="nothing was timed"):
        checks.the_engine_says_what_the_model_says("random_tiny", "cpu")


def test_a_wrong_blend_is_seen(monkeypatch):
    from cacheblend import blend

    def silent(*_args, **_options):
        pass

    monkeypatch.setattr(blend, "turn_", silent)
    monkeypatch.setattr(blend._Fusion, "_write", silent)
    with pytest.raises(ResultsError, match="nothing was timed"):
        checks.blending_everything_is_a_prefill("random_tiny", "cpu")


def test_bounds_are_stored(tmp_path):
    done = bench("run", "bounds", "--tiny", "--device", "cpu", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    frame = Results.load(tmp_path, "gpu_bench").frame
    assert set(frame["metric"]) >= {"matmul_bf16_rate", "copy_rate", "cached_file_read_rate"}
    assert (frame["value"] > 0).all()
    assert set(frame["basis"]) == {"measured"}


def test_a_wrong_part_and_a_missing_gpu_are_one_line():
    done = bench("run", "cachblend", "--device", "cpu")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Known: bounds, cacheblend" in done.stderr
    if not torch.cuda.is_available():
        done = bench("run", "bounds")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "no GPU" in done.stderr


@pytest.mark.slow
def test_every_part_runs_tiny(tmp_path):
    done = bench("run", "--tiny", "--device", "cpu", "--limit-s", "1500", "--results", str(tmp_path), timeout=1600)
    assert done.returncode == 0, done.stderr
    assert all(f"| {name} |" in done.stdout for name in PARTS)
