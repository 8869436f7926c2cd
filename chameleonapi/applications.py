"""Applications: where their source is, what they decide, and how to run their own code against any answer of the API.

An application's code calls the provider's client library. Here that library is the drop-in one (`chameleonapi/dropin`), whose
requests go to a function in place of a socket: an application decides on scores that are already known, thousands of times.
"""

import contextlib
import dataclasses
import io
import json
import logging
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from chameleonapi.decisions import DecisionSummary
from chameleonapi.parser.parse import parse_application
from common.errors import ConfigError

BUNDLED = Path(str(files("chameleonapi"))) / "bundled_apps"
DROPIN = Path(str(files("chameleonapi"))) / "dropin"


@dataclasses.dataclass(frozen=True)
class Application:
    """One application with its source.

    Attributes:
        name: unique among its workload's.
        path: a Python file or a folder.
        task: the task whose labels it gets.
        entry: how its code is started: "function", "module.function", "Class.method" or "script"; "" if it is only parsed.
        gets: what the entry is given: "path", "bytes" or "text".
        decision: which of its decisions on the task's vocabulary, from 0.
    """

    name: str
    path: Path
    task: str = "everyday"
    entry: str = ""
    gets: str = "bytes"
    decision: int = 0

    def summary(self, vocabulary_name: str, labels: Sequence[str]) -> DecisionSummary:
        """The decision, by the parser.

        Raises:
            ConfigError: the parser finds no decision that can be trained for, with its reason.
        """
        return _summary(self.path, self.decision, vocabulary_name, tuple(labels))


@lru_cache(maxsize=256)
def _summary(path: Path, decision: int, vocabulary_name: str, labels: tuple[str, ...]) -> DecisionSummary:
    vocabularies = {"image": labels, "object": labels} if vocabulary_name == "image" else {vocabulary_name: labels}
    report = parse_application(path, vocabularies)
    reasons = [report.reason] if report.reason else [d.reason for d in report.decisions if d.reason]
    usable = [d for d in report.decisions if d.kind in ("true_false", "multi_choice", "multi_select")]
    if decision >= len(usable):
        why = f": {reasons[0]}" if reasons else "."
        raise ConfigError(
            f"{path} has {len(usable)} decisions on lists of labels, so number {decision} does not exist{why} "
            f"`python -m chameleonapi parse {path}` tells what was found."
        )
    return usable[decision]


def bundled() -> tuple[Application, ...]:
    """The applications in `chameleonapi/bundled_apps`."""
    index: dict[str, dict[str, Any]] = yaml.safe_load((BUNDLED / "index.yaml").read_text())
    return tuple(
        Application(name, _source(BUNDLED, name), how.get("task", "everyday"), how["entry"], how["gets"])
        for name, how in index.items()
    )


def in_folder(folder: Path, task: str) -> tuple[Application, ...]:
    """Every Python file and every folder with Python files in a folder, as applications that are parsed and not run.

    Raises:
        ConfigError: there is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is not a folder. Give one that holds applications.")
    found = [
        p for p in sorted(folder.iterdir()) if not p.name.startswith((".", "_"))
        and (p.suffix == ".py" or (p.is_dir() and any(p.rglob("*.py"))))
    ]  # fmt: skip
    if not found:
        raise ConfigError(f"{str(folder)!r} holds no Python file and no folder with one.")
    return tuple(Application(p.stem, p, task) for p in found)


def _source(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder / f"{name}.py"


# ------------------------------------------------------------------------------------------------- running an application

Answerer = Callable[[str, str, dict[str, str], bytes], tuple[int, bytes]]
"""(HTTP method, path, headers, body) to (status, body), as the drop-in client's `transport`."""


class AppRunner:
    """Runs an application's own code in this process, with the drop-in client in place of the provider's.

        with AppRunner(application, transport) as runner:
            runner.run(path)                # what it returned and printed

    The code runs with this process's rights: use it for applications that you trust.
    """

    def __init__(self, application: Application, transport: Answerer) -> None:
        if not application.entry:
            raise ConfigError(f"application {application.name!r} has no entry, so its own code cannot be run.")
        self.application = application
        self.transport = transport
        self._modules: dict[str, types.ModuleType] = {}
        self._call: Callable[[Any], Any] | None = None
        self._code: types.CodeType | None = None

    def __enter__(self) -> "AppRunner":
        app = self.application
        folder = app.path if app.path.is_dir() else app.path.parent
        self._path_before, self._modules_before = list(sys.path), dict(sys.modules)
        self._argv_before = sys.argv
        sys.path[:0] = [str(folder), str(DROPIN)]
        for name in [
            m for m in sys.modules if m.partition(".")[0] in ("google", "boto3", "botocore", "chameleonapi_client")
        ]:
            del sys.modules[name]
        try:
            import importlib

            client: Any = importlib.import_module("chameleonapi_client")
            client.transport = self.transport
            if app.entry == "script":
                self._code = compile(app.path.read_text(), str(app.path), "exec")
            else:
                self._call = self._find(app.entry)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _find(self, entry: str) -> Callable[[Any], Any]:
        app, parts = self.application, entry.split(".")
        if app.path.is_dir():
            module_name, parts = parts[0], parts[1:]
        else:
            module_name = app.path.stem
        file = (app.path if app.path.is_dir() else app.path.parent) / f"{module_name}.py"
        module = types.ModuleType(module_name)
        module.__file__ = str(file)
        sys.modules[module_name] = module  # dataclasses look their module up
        exec(compile(file.read_text(), str(file), "exec"), module.__dict__)
        found: Any = module
        for place, part in enumerate(parts):
            found = getattr(found, part)
            if place < len(parts) - 1:
                found = found()
        call: Callable[[Any], Any] = found
        return call

    def __exit__(self, *_: object) -> None:
        sys.path[:] = self._path_before
        sys.argv = self._argv_before
        for name in set(sys.modules) - set(self._modules_before):
            if _is_from(sys.modules[name], (DROPIN, self.application.path.parent, self.application.path)):
                del sys.modules[name]
        sys.modules.update(self._modules_before)

    def run(self, given: Any) -> str:
        """What the application does with one input, as text: what it returned and printed."""
        printed = io.StringIO()
        result: Any = None
        with contextlib.redirect_stdout(printed):
            if self._call is not None:
                result = self._call(given)
            else:
                assert self._code is not None
                sys.argv = [str(self.application.path), str(given)]
                with contextlib.suppress(SystemExit):
                    exec(self._code, {"__name__": "__main__", "__file__": str(self.application.path)})
        return json.dumps([_plain(result), printed.getvalue()], sort_keys=True)


def behaviours(
    summary: DecisionSummary, runner: AppRunner, given: Any, answer_with: Callable[[Sequence[tuple[str, float]]], None]
) -> dict[str, tuple[int, ...]]:
    """What the application's code does for each decision that the summary allows: behaviour -> matched lists.

    Each decision is provoked by an output with one label of each of its lists.

    Args:
        summary: what the parser found.
        runner: of the same application.
        given: an input; what is in it does not matter.
        answer_with: makes the transport answer with these labels and scores (0 to 1).

    Raises:
        ConfigError: two decisions cannot be told apart by what the application returns and prints.
    """
    ids = [one.id for one in summary.lists]
    wanted: list[tuple[int, ...]] = [()]
    sizes = range(1, len(ids) + 1) if summary.kind == "multi_select" else (1,)
    wanted += [chosen for size in sizes for chosen in combinations(ids, size)]
    seen: dict[str, tuple[int, ...]] = {}
    own = {one.id: one for one in summary.lists}
    for chosen in wanted:
        others = {label for c in ids if c not in chosen for label in own[c].labels}
        output: list[tuple[str, float]] = []
        for c in chosen:
            label = next((x for x in own[c].labels if x not in others), own[c].labels[0])
            output.append((label, 0.99 - 0.01 * len(output)))
        if summary.decide([(label, score * summary.scale) for label, score in output]) != chosen:
            continue  # overlapping lists: no output of one label each leads to this decision
        answer_with(output)
        did = runner.run(given)
        if seen.get(did, chosen) != chosen:
            raise ConfigError(
                f"application {runner.application.name!r} does the same for lists {seen[did]} and {chosen}: "
                "its decisions cannot be told apart from outside."
            )
        seen[did] = chosen
    return seen


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else repr(value)


def _is_from(module: object, folders: tuple[Path, ...]) -> bool:
    where = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), None)
    return where is not None and any(Path(where).is_relative_to(f) for f in folders)


@contextlib.contextmanager
def quiet_logging() -> Iterator[None]:
    """Applications log each label; thousands of runs of them do not want to."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
