"""What there is: `python -m experiments.list [PAPER ...]` prints papers, experiments, methods with knobs, workloads, claims."""

import argparse
import dataclasses
import importlib
import sys
from typing import Any, TextIO

from common.errors import ConfigError
from common.registry import Registry
from experiments import schema


def print_overview(out: TextIO) -> None:
    """One line per paper, and how to run one."""
    print("Papers that can be run:", file=out)
    for name in schema.paper_names():
        print(f"  {name:<14} {schema.load_paper(name).title}", file=out)
    print("\nRun one with   python -m experiments.run +paper=NAME   (scale=smoke for a quick look)", file=out)
    print("Details with   python -m experiments.list NAME", file=out)


def print_paper(name: str, out: TextIO) -> None:
    """Experiments, methods with their knobs, workloads and claims of one paper."""
    paper = schema.load_paper(name)
    config = schema.paper_config(name)
    default = config.get("default_experiments", [])
    print(f"\n{name}: {paper.title}", file=out)
    print("  experiments (* runs by default; experiment=all runs every one)", file=out)
    _print_registry(paper.experiments, out, marked=default)
    print("  methods", file=out)
    _print_registry(paper.methods, out)
    print("  workloads", file=out)
    _print_registry(paper.workloads, out)
    try:
        claims = importlib.import_module("paper_figures.claims").load_claims(name)
    except ModuleNotFoundError:
        claims = []
    if claims:
        print("  claims", file=out)
        for claim in claims:
            print(f"    {claim.id:<34} {claim.statement}", file=out)


def _print_registry(registry: Registry[Any], out: TextIO, marked: Any = ()) -> None:
    for entry in registry.names():
        star = "*" if entry in marked else " "
        print(f"   {star}{entry:<26} {registry.summary(entry)}", file=out)
        for knob, value in registry.knobs(entry).items():
            shown = "required" if value is dataclasses.MISSING else repr(value)
            print(f"        {knob} = {shown}", file=out)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.list", description=__doc__)
    parser.add_argument("papers", nargs="*", metavar="PAPER", help="only these papers")
    arguments = parser.parse_args()
    try:
        names = arguments.papers or schema.paper_names()
        for name in names:
            schema.load_paper(name)
    except ConfigError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print_overview(sys.stdout)
    for name in names:
        print_paper(name, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
