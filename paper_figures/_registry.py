"""Which figures there are: functions from stored results to a drawing, registered under a paper and a name."""

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import TypeVar

from common.errors import ConfigError, ResultsError, UnknownName
from common.plotting import Drawing
from common.results import Results


class NothingToDraw(ResultsError):
    """The experiment was run, but not with what this figure shows (no gold answers, say)."""


Function = TypeVar("Function", bound=Callable[[Results], Drawing])


@dataclasses.dataclass(frozen=True)
class FigureSpec:
    """A registered figure.

    Attributes:
        paper, name: where it is found and how its files are called.
        experiments: what it is drawn from. It is drawn if any of them has results.
        paper_ref: the paper's own figure or table, e.g. "Fig. 12"; "" for one of ours.
        draw: the function.
    """

    paper: str
    name: str
    experiments: tuple[str, ...]
    paper_ref: str
    draw: Callable[[Results], Drawing]


_figures: dict[tuple[str, str], FigureSpec] = {}


def figure(
    paper: str, name: str, *, experiment: str | Iterable[str], paper_ref: str = ""
) -> Callable[[Function], Function]:
    """Register the decorated function as a figure of a paper.

    The function gets the newest complete results of its experiments at one scale, and is called only if there are some. It raises
    NothingToDraw if what it shows is not among them, and ResultsError if they cannot be drawn.

        @figure("cacheblend", "ttft_vs_quality", experiment="ttft_vs_quality", paper_ref="Fig. 12")
        def ttft_vs_quality(results: Results) -> Drawing: ...

    Raises:
        ConfigError: the paper has another figure of that name.
    """
    experiments = (experiment,) if isinstance(experiment, str) else tuple(experiment)

    def register(function: Function) -> Function:
        known = _figures.get((paper, name))
        if known is not None and known.draw.__module__ != function.__module__:
            raise ConfigError(f"{paper} figure {name!r} is already registered by {known.draw.__module__}.")
        _figures[paper, name] = FigureSpec(paper, name, experiments, paper_ref, function)
        return function

    return register


def papers() -> list[str]:
    """Papers with figures: every public module of this package is one, named after the paper's package."""
    import paper_figures

    found = pkgutil.iter_modules(paper_figures.__path__)
    return sorted(module.name for module in found if not module.ispkg and not module.name.startswith("_"))


def figures_of(paper: str) -> list[FigureSpec]:
    """All figures of a paper, in the order of their definition.

    Raises:
        UnknownName: no such paper.
    """
    check_paper(paper)
    importlib.import_module(f"paper_figures.{paper}")
    return [spec for (owner, _), spec in _figures.items() if owner == paper]


def check_paper(paper: str) -> None:
    """Raise UnknownName, with a suggestion, unless `paper` has figures."""
    known = papers()
    if paper not in known:
        near = difflib.get_close_matches(paper, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownName(f"unknown paper {paper!r}.{hint} Papers with figures: {', '.join(known) or 'none'}")
