"""Twenty lines of a stranger's, outside the repository: they run, are swept, drawn and contract-tested with nothing else."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

MY_METHOD = """\
from dataclasses import dataclass
from cacheblend.api import METHODS, WORKLOADS, Prefill, Request

@METHODS.add("first_k")
@dataclass(frozen=True)
class FirstK:
    k: int = 32                                   # tokens recomputed per chunk
    def prefill(self, request, engine):
        tokens = [t for chunk in request.chunks for t in chunk[: self.k]] + list(request.question)
        return Prefill(engine.compute(tokens), len(tokens))

@WORKLOADS.add("two_long_chunks")
@dataclass(frozen=True)
class TwoLongChunks:
    chunk_tokens: int = 1024
    def items(self, rng, n):
        for _ in range(n):
            yield Request(tuple(map(tuple, rng.integers(0, 999, (2, self.chunk_tokens)).tolist())), question=(1, 2, 3))
"""


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("stranger")
    (path / "my_method.py").write_text(MY_METHOD)
    return path


def test_it_runs_is_swept_and_drawn(folder):
    sweep = run(
        folder,
        *("experiments.run", "-m", "+paper=cacheblend", "scale=smoke", "plugins=[my_method]"),
        *("methods=[full_recompute,cacheblend,first_k]", "workload=two_long_chunks", "+workload_args.chunk_tokens=64"),
        *("+method_args.first_k.k=8,16", "seed=0,1", "num_items=2", "experiment=ttft_vs_quality"),
    )
    assert sweep.returncode == 0, sweep.stderr
    assert len(list(folder.glob("results/cacheblend/*/run.json"))) == 4
    drawn = run(folder, "paper_figures", "cacheblend", "--scale", "smoke")
    assert drawn.returncode == 0, drawn.stderr
    points = next(folder.glob("figures/smoke/cacheblend/ttft_vs_quality*.csv"))
    series = {row["series"] for row in csv.DictReader(points.read_text().splitlines())}
    assert {"first k (k=8)", "first k (k=16)"} <= series, series


def test_the_same_contract_holds_for_it_as_for_ours(folder):
    checked = run(folder, "pytest", "-q", "-p", "no:cacheprovider", "--contract", "my_method")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "passed" in checked.stdout


def test_a_method_that_breaks_the_contract_is_told_so(folder):
    broken = MY_METHOD.replace("first_k", "breaks_it").replace("two_long_chunks", "other_chunks")
    broken = broken.replace(
        "return Prefill(", "tokens.append(next(COUNTER)); return Prefill("
    )  # another result each time
    (folder / "broken_method.py").write_text(f"import itertools\nCOUNTER = itertools.count()\n{broken}")
    checked = run(folder, "pytest", "-q", "-p", "no:cacheprovider", "--contract", "broken_method")
    assert checked.returncode == 1, checked.stdout
    assert "breaks_it" in checked.stdout


@pytest.mark.parametrize(
    ("module", "expected"), [("json", "registers no method and no workload"), ("no_such_module", "No module named")]
)
def test_a_module_without_anything_to_check_is_one_clear_line(folder, module, expected):
    checked = run(folder, "pytest", "-q", "-p", "no:cacheprovider", "--contract", module)
    assert checked.returncode in (2, 4), checked.stdout + checked.stderr  # an error while collecting, or of usage
    assert expected in checked.stdout + checked.stderr


def test_a_name_that_a_built_in_entry_has_is_refused_with_advice_for_the_stranger(folder):
    (folder / "same_name.py").write_text(MY_METHOD.replace('"first_k"', '"full_reuse"'))
    checked = run(folder, "pytest", "-q", "-p", "no:cacheprovider", "--contract", "same_name")
    assert checked.returncode in (2, 4), checked.stdout + checked.stderr
    assert "give the one in same_name.FirstK another name" in checked.stdout + checked.stderr
