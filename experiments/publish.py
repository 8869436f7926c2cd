"""Make the newest local results of papers the committed ones: `python -m experiments.publish cacheblend [--scale cpu]`.

Copies complete runs from `results/<paper>` to `results/published/<paper>`, in place of what was there; commit that folder.
"""

import argparse
import sys
from pathlib import Path

from common.cli import exit_status
from common.results import publish
from experiments import schema


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.publish", description=__doc__)
    parser.add_argument("papers", nargs="+", metavar="PAPER")
    parser.add_argument("--scale", default="cpu", choices=schema.SCALES)
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()

    def work() -> None:
        for name in arguments.papers:
            schema.load_paper(name)  # refused before the first of them is replaced
        for name in arguments.papers:
            for directory in publish(arguments.results, name, arguments.scale):
                print(directory)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
