"""How long it takes until a package is there: `python -m experiments.import_times` prints a table.

Each import runs in a fresh process; the time is that of the import alone, without Python's own start. Wall time of this machine.
"""

import argparse
import statistics
import subprocess
import sys
import time

from common.plotting.tables import number
from experiments import schema

_IMPORT = "import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"


def modules() -> list[str]:
    """What is timed: every package's front door, and what the papers' own modules cost when they compute."""
    papers = schema.paper_names()
    return [
        "common",
        "experiments.run",
        "paper_figures",
        *(f"{name}.api" for name in papers),
        *(f"{name}.methods" for name in papers),
    ]


def import_s(module: str, repeats: int) -> float:
    """Median seconds of importing a module."""
    command = [sys.executable, "-c", _IMPORT.format(module=module)]
    return statistics.median(
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(repeats)
    )


def help_s(repeats: int) -> float:
    """Median seconds of `python -m experiments.run --help`, start to end."""
    seconds = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        subprocess.run([sys.executable, "-m", "experiments.run", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.import_times", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="processes per module; the median is shown (default: 3)")
    repeats = max(1, parser.parse_args().repeats)
    print("| what | seconds |\n| --- | --- |")
    for module in modules():
        print(f"| import {module} | {number(import_s(module, repeats), 2)} |", flush=True)
    print(f"| python -m experiments.run --help | {number(help_s(repeats), 2)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
