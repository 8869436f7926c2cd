"""What a run prints at its end: a table of what was found, and where the figures are."""

from pathlib import Path

from common.results import Results
from experiments.console import say


def report(paper: str, results_dir: Path, figures_dir: Path, scale: str) -> None:
    """Redraw the paper's figures from stored results and print a summary of them to stdout."""
    from paper_figures import draw

    if not len(Results.load(results_dir, paper)):
        say("nothing to draw: no complete run is stored")
        return
    print(draw(paper, results_dir, figures_dir, scale))
