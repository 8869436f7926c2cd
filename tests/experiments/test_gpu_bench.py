"""The GPU bench, tried on the CPU with tiny shapes: checks that can fail, a plan that exists, rows that are stored."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import ResultsError
from common.results import Results
from experiments import schema
from experiments.gpu_bench import checks
from experiments.gpu_bench.parts import PARTS

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.gpu_bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_part_names_experiments_and_models_that_exist(part):
    assert (ROOT / "experiments" / "conf" / "model" / f"{part.model}.yaml").is_file()
    experiments = schema.load_paper(part.name).experiments
    for overrides in part.commands:
        (experiment,) = (text.removeprefix("experiment=") for text in overrides if text.startswith("experiment="))
        assert experiment in experiments


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_checks_pass_on_a_tiny_model(part):
    assert "relative error" in part.check(part.tiny_model, "cpu")


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
    import torch

    if not torch.cuda.is_available():
        done = bench("run", "bounds")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "no GPU" in done.stderr


@pytest.mark.slow
def test_every_part_runs_tiny(tmp_path):
    done = bench("run", "--tiny", "--device", "cpu", "--limit-s", "1500", "--results", str(tmp_path), timeout=1600)
    assert done.returncode == 0, done.stderr
    assert all(f"| {name} |" in done.stdout for name in PARTS)
