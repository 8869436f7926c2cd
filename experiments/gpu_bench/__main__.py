"""`python -m experiments.gpu_bench list | run [PART ...]`. `--help` says more.

Exit codes: 0 all done; 1 a check or a run failed; 2 an argument was refused; 3 the time was over before everything was done.
"""

import argparse
import dataclasses
import functools
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from common.errors import ConfigError, ReproError
from common.results import ItemRows, Results, Row, RunIdentity, RunWriter
from experiments.console import say

BOUNDS = "bounds"


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.gpu_bench", description="The papers' sizes on one GPU, in parts of ten minutes."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="the parts and what they run")
    run = commands.add_parser("run", help="check, then measure; finished runs are skipped, so the same command goes on")
    run.add_argument("parts", nargs="*", metavar="PART", help="default: bounds, then all others")
    run.add_argument("--device", default="cuda", help="cuda, cuda:1 ... or cpu (default: cuda)")
    run.add_argument("--tiny", action="store_true", help="tiny shapes, to see that it runs; works on a CPU")
    run.add_argument(
        "--limit-s", type=float, default=540.0, help="stop before this many seconds are over (default: 540)"
    )
    run.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    try:
        from experiments.gpu_bench.parts import PARTS

        if options.command == "list":
            print(f"{BOUNDS}: what the device can do: matrix products, copies, transfers, file reads")
            for part in PARTS.values():
                print(f"{part.name}: {part.shows} (model={part.model})")
                for overrides in part.commands:
                    print(f"    {shlex.join(overrides)}")
            return 0
        return _run(options)
    except ReproError as error:
        say(f"{type(error).__name__}: {error}", is_error=True)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> int:
    from common.models.loading import resolve_device
    from experiments.gpu_bench import bounds
    from experiments.gpu_bench.parts import PARTS

    known = [BOUNDS, *PARTS]
    names = options.parts or known
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown part {name!r}. Known: {', '.join(known)}")
    device = resolve_device(options.device)
    deadline_s = time.monotonic() + options.limit_s
    failures, left = [], []
    for name in names:
        if name == BOUNDS:
            _measure(options, BOUNDS, device, lambda: bounds.rows(device, is_tiny=options.tiny))
            continue
        part = PARTS[name]
        model = part.tiny_model if options.tiny else part.model
        say(f"{name}: {part.check(model, device)}")
        _free_memory()
        if part.rows is not None:
            _measure(options, name, device, functools.partial(part.rows, model, device, options.tiny))
            _free_memory()
        for overrides in part.commands:
            command = _command(options, name, model, device, overrides, part.tiny)
            remaining_s = deadline_s - time.monotonic()
            if remaining_s < 5:
                left.append(command)
                continue
            say(f"$ {shlex.join(command[1:])}")
            try:
                if subprocess.run(command, timeout=remaining_s, check=False).returncode != 0:
                    failures.append(command)
            except subprocess.TimeoutExpired:
                left.append(command)
    _print_table(options, ["gpu_bench", *(name for name in names if name != BOUNDS and PARTS[name].commands)], names)
    for command in failures:
        say(f"FAILED: {shlex.join(command[1:])}", is_error=True)
    for command in left:
        say(f"not done within {options.limit_s:g} s, the same command goes on: {shlex.join(command[1:])}")
    return 1 if failures else 3 if left else 0


def _command(options: argparse.Namespace, paper: str, model: str, device: str, overrides: Any, tiny: Any) -> list[str]:
    settings = [
        f"+paper={paper}",
        f"model={model}",
        f"model.device={device}",
        f"results_dir={options.results}",
        "draw=false",
    ]
    if not options.tiny:
        return [sys.executable, "-m", "experiments.run", *settings, "scale=gpu", *overrides]
    # What makes it large is left out; the experiment, its model and its device are what is tried.
    chosen = [override for override in overrides if override.startswith(("experiment=", "workload="))]
    return [sys.executable, "-m", "experiments.run", *settings, *tiny, *chosen]


def _measure(options: argparse.Namespace, experiment: str, device: str, rows: Callable[[], Iterable[Row]]) -> None:
    """Store and print what the bench measures itself, as an experiment of "gpu_bench"; finished ones are measured anew."""
    from common.hardware import machine_facts
    from experiments.provenance import git_state, source_sha256, version

    scale = "smoke" if options.tiny else "gpu"
    facts = {
        "command": shlex.join(["python", "-m", "experiments.gpu_bench", *sys.argv[1:]]),
        "version": version(),
        "git": git_state(),
        "source_sha256": source_sha256(("experiments", "common", *(["grace"] if experiment == "grace" else []))),
        "machine": machine_facts(),
        "styles": {},
    }
    identity = RunIdentity("gpu_bench", experiment, 0, scale, {"device": device, "scale": scale})
    start_s = time.monotonic()
    with RunWriter(options.results, identity, facts, force=True) as run:
        measured = list(rows())
        run.commit(ItemRows("0", measured))
        run.complete(time.monotonic() - start_s, {})
    for row in measured:
        factors = ", ".join(f"{name} {value}" for name, value in row.factors.items())
        say(f"{row.metric}: {row.value:.4g} {row.unit} ({factors})")


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclasses.dataclass(frozen=True)
class _Line:
    paper: str
    experiment: str
    series: str
    factors: str
    metric: str
    unit: str
    basis: str
    value: float
    n: int


def _print_table(options: argparse.Namespace, papers: list[str], parts: list[str]) -> None:
    scale = "smoke" if options.tiny else "gpu"
    lines = []
    for paper in papers:
        results = Results.load(options.results, paper)
        own = results.only(scale=scale).newest() if len(results) else results
        if paper == "gpu_bench" and len(own):
            own = own.only(experiment=parts)
        if not len(own):
            continue
        frame = own.frame
        factors = [column for column in frame.columns if column.startswith("factor.")]
        keys = ["experiment", "series", *factors, "metric", "unit", "basis"]
        for values, group in frame.groupby(keys, dropna=False, sort=False):
            found = dict(zip(keys, values, strict=True))
            text = ", ".join(
                f"{column.removeprefix('factor.')} {found[column]}"
                for column in factors
                if found[column] == found[column]
            )
            named = {key: str(found[key]) for key in ("experiment", "series", "metric", "unit", "basis")}
            value, n = float(group["value"].median()), len(group)
            line = _Line(paper=paper, factors=text, value=value, n=n, **named)
            lines.append(line)
    print("| paper | experiment | method | setting | metric | median | unit | basis | n |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for line in lines:
        print(
            f"| {line.paper} | {line.experiment} | {line.series} | {line.factors} | {line.metric} | {line.value:.4g} | "
            f"{line.unit} | {line.basis} | {line.n} |"
        )


if __name__ == "__main__":
    sys.exit(main())
