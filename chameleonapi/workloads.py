"""Applications with their task, registered by name."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from numpy.random import Generator

from chameleonapi.api import WORKLOADS
from chameleonapi.applications import Application, bundled, in_folder
from chameleonapi.tasks.task import Task
from chameleonapi.tasks.tasks import task_named
from common.errors import ConfigError


@WORKLOADS.add("image_apps")
@dataclass(frozen=True)
class ImageApps:
    """The bundled applications that look at pictures: 5 True-or-False, 7 Multi-Choice (both orders), 4 Multi-Select."""

    @property
    def task(self) -> Task:
        """Everyday objects."""
        return task_named("everyday")

    def items(self, rng: Generator, n: int) -> Iterator[Application]:
        """The first n in an order that `rng` draws, all of them if n is larger."""
        yield from _draw([app for app in bundled() if app.task == "everyday"], rng, n)


@WORKLOADS.add("text_apps")
@dataclass(frozen=True)
class TextApps:
    """The bundled applications that read texts: 2 True-or-False, 2 Multi-Choice, 1 Multi-Select."""

    @property
    def task(self) -> Task:
        """Topics."""
        return task_named("topics")

    def items(self, rng: Generator, n: int) -> Iterator[Application]:
        """The first n in an order that `rng` draws, all of them if n is larger."""
        yield from _draw([app for app in bundled() if app.task == "topics"], rng, n)


@WORKLOADS.add("my_apps")
@dataclass(frozen=True)
class MyApps:
    """Applications of your own: every Python file, and every folder with some, in a folder. They are parsed, not run.

    Attributes:
        folder: where they are.
        on: "everyday" or "topics".
    """

    folder: str = ""
    on: str = "everyday"

    @property
    def task(self) -> Task:
        """The bundled task called `on`."""
        return task_named(self.on)

    def items(self, rng: Generator, n: int) -> Iterator[Application]:
        """The first n in an order that `rng` draws, all of them if n is larger."""
        if not self.folder:
            raise ConfigError("workload my_apps needs +workload_args.folder=FOLDER, the folder with your applications.")
        yield from _draw(list(in_folder(Path(self.folder), self.on)), rng, n)


def _draw(apps: list[Application], rng: Generator, n: int) -> Iterator[Application]:
    for index in rng.permutation(len(apps))[:n]:
        yield apps[int(index)]
