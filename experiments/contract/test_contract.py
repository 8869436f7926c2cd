"""Contract checks of registered methods and workloads, as defined by each paper's `PAPER.method_contract` etc."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from common.errors import ConfigError
from experiments import schema

Check = Callable[[str], None]


def _built_in() -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for name in schema.paper_names():
        paper = schema.load_paper(name)
        found[name, "method"] = paper.methods.names()
        found[name, "workload"] = paper.workloads.names()
    return found


def _of_strangers() -> dict[tuple[str, str], list[str]]:
    """What modules outside the papers' own packages registered. Built-in entries are not loaded for it: that takes seconds."""
    own = set(schema.paper_names())
    found: dict[tuple[str, str], list[str]] = {}
    for name in own:
        paper = schema.load_paper(name)
        for kind, registry in (("method", paper.methods), ("workload", paper.workloads)):
            entries = registry.registered().items()
            names = [entry for entry, registered in entries if registered.__module__.split(".")[0] not in own]
            if names:
                registry.names()  # refuses a name that a built-in entry has
                found[name, kind] = names
    return found


def _cases(entries: dict[tuple[str, str], list[str]]) -> list[Any]:
    cases: list[Any] = []
    for (name, kind), names in entries.items():
        paper = schema.load_paper(name)
        checks: tuple[Check, ...] = paper.method_contract if kind == "method" else paper.workload_contract
        cases += [
            pytest.param(check, entry, id=f"{name}-{kind}-{entry}-{check.__name__}")
            for entry in names
            for check in checks
        ]
    return cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per (entry, rule): of the modules named with --contract, else of everything registered."""
    modules: list[str] = metafunc.config.getoption("--contract")
    if not modules:
        metafunc.parametrize(("check", "entry"), _cases(_built_in()))
        return
    known = _of_strangers()
    for module in modules:
        try:
            importlib.import_module(module)
            found = _of_strangers()
        except ModuleNotFoundError as error:
            raise pytest.UsageError(
                f"--contract {module}: {error}; name a module in this folder or an installed one"
            ) from error
        except ConfigError as error:
            raise pytest.UsageError(f"--contract {module}: {error}") from error
    added = {key: [entry for entry in names if entry not in known.get(key, ())] for key, names in found.items()}
    if not any(added.values()):
        raise pytest.UsageError(f"--contract {', '.join(modules)}: registers no method and no workload of any paper")
    metafunc.parametrize(("check", "entry"), _cases(added))


def test_contract(check: Check, entry: str) -> None:
    """The rule's own docstring says what it demands; its AssertionError says what was found."""
    check(entry)
