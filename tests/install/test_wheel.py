"""A wheel, installed where nothing else is, run from an empty folder: configs, weights and styles must be inside it."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)], check=True, capture_output=True
    )
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_everything_that_a_run_needs_is_inside(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("experiments/conf", "common/models/bundled", "paper_figures/claims"):
        sources = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert sources, package
        assert sources <= names, sorted(sources - names)


@pytest.mark.slow
def test_it_runs_from_an_empty_folder_with_an_empty_home(wheel, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "torch"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel], check=True)
    empty, home = tmp_path / "empty", tmp_path / "home"
    empty.mkdir()
    home.mkdir()
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    command = [python, "-m", "experiments.run", "+paper=cacheblend", "scale=smoke"]
    done = subprocess.run(command, cwd=empty, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(empty.glob("results/cacheblend/*/rows.parquet"))
    assert list(empty.glob("figures/smoke/cacheblend/*.png"))
