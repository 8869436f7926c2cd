"""What an experiment is, and what it is given to run with.

Each paper has a registry of experiments (`<paper>.api.EXPERIMENTS`): frozen dataclasses whose fields are the experiment's
knobs and whose `rows` yields one `ItemRows` per finished item.

    @EXPERIMENTS.add("ttft_vs_quality")
    @dataclass(frozen=True)
    class TtftVsQuality:
        "Quality against time to first token (CacheBlend, Fig. 12)."

        repeats: int = 3

        def rows(self, run: Run) -> Iterator[ItemRows]:
            items = enumerate(run.workload.items(run.rng("workload"), run.num_items))
            for index, request in run.todo(items):
                yield ItemRows(index, [Row("ttft", 0.41, "s", "measured", method="full_recompute")])

The runner commits each yielded `ItemRows` before it asks for the next one. After an interruption the same generator is
started anew; `run.todo` leaves out what was committed, so draw items (cheap) before `todo` and do the work after it.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from common.registry import Registry
from common.results import ItemRows
from common.rng import for_component, seed_for

Key = TypeVar("Key")
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything an experiment may use. Built by the runner, or by hand in tests and notebooks.

    Attributes:
        paper, experiment, scale: names as in the configuration.
        seed: the run's seed; use `rng` rather than this.
        num_items: how many items the workload is asked for.
        methods: instances by registered name, knobs set, in the order given.
        workload: the workload instance, or None for an experiment that makes its own input.
        workload_name: its registered name, or "".
        model: settings of the `model` config group (name, source, path, dtype, device ...), for the paper's own loader.
        data: settings of the `data` config group (name, source, root ...).
        cache_dir: where derived artefacts may be kept between runs.
        finished: items committed by an earlier, interrupted attempt.
        inputs: filled by `note_input`.
        progress: called with the number of items expected, then with each finished one; see `todo`.
    """

    paper: str
    experiment: str
    scale: str
    seed: int
    num_items: int
    methods: Mapping[str, Any]
    workload: Any = None
    workload_name: str = ""
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cache_dir: Path = Path(".cache")
    finished: frozenset[str] = frozenset()
    inputs: dict[str, str] = dataclasses.field(default_factory=dict)
    progress: Callable[[int], None] | None = None

    def rng(self, *component: str | int) -> np.random.Generator:
        """The random stream of one component of this run; the same name gives the same stream from its start."""
        return for_component(self.seed, *component)

    def seed_for(self, *component: str | int) -> int:
        """An integer seed of one component of this run, for libraries that want a number."""
        return seed_for(self.seed, *component)

    def note_input(self, name: str, sha256: str) -> None:
        """Record the content hash of a file that this run's numbers depend on (weights, a trace, a clip)."""
        self.inputs[name] = sha256

    def todo(self, items: Iterable[tuple[Key, Item]]) -> Iterator[tuple[Key, Item]]:
        """Pass on the (key, item) pairs whose key was not committed by an earlier attempt.

        Reads all of `items` first, so that the number of items is known to the progress display.
        """
        pairs = list(items)
        if self.progress is not None:
            self.progress(len(pairs))
        for key, item in pairs:
            if str(key) not in self.finished:
                yield key, item


class Experiment(Protocol):
    """One table or figure of a paper: knobs as dataclass fields, and `rows`."""

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Yield the rows of one item after another. The same run and knobs give the same items in the same order."""
        ...


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper package, as the runner and the listing see it: `<package>.api.PAPER`.

    Attributes:
        name: the package's name.
        title: the paper's title and venue.
        methods, workloads, experiments: its registries.
        method_contract, workload_contract: checks that every registered method or workload must pass, run by
            `pytest --contract MODULE` on a stranger's as on our own; each is called with the entry's name and raises
            AssertionError where a rule is broken.
    """

    name: str
    title: str
    methods: Registry[Any]
    workloads: Registry[Any]
    experiments: Registry[Any]
    method_contract: tuple[Callable[[str], None], ...] = ()
    workload_contract: tuple[Callable[[str], None], ...] = ()


def check_in(module: str, function: str) -> Callable[[str], None]:
    """A contract check that lives in a module which is imported only when the check runs (it may need torch)."""

    def check(name: str) -> None:
        getattr(importlib.import_module(module), function)(name)

    check.__doc__ = f"See `{module}.{function}`."
    check.__name__ = function
    return check
