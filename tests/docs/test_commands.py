"""Every command that a page of this repository shows is understood as it stands there.

Runs of experiments are planned to the last setting (names, knobs, sizes) but not started; of other commands the module, the
subcommand and every option are looked up in their help. `tests/experiments` and the papers' own tests run them.
"""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from common.errors import DataUnavailable
from experiments import schema
from experiments.run import as_hydra_wants

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    # The index is written from what is registered; tests/paper_figures/test_documents.py checks it.
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "INDEX.md"),
    *sorted(path for path in ROOT.glob("*/README.md") if (path.parent / "__init__.py").exists()),
    *sorted((ROOT / "common").rglob("*.md")),
]
ELSEWHERE = ("plugins=[", "hydra.searchpath=", "--contract")
"""Commands that need files of a reader's own: tests/contract/test_outside_plugin.py makes the files and runs them."""


def commands_of(path: Path) -> list[str]:
    """Commands in code blocks and code spans that start with `python -m` or `make`, without the words that explain them."""
    text = re.sub(r"\\\n\s*", "", path.read_text())
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, flags=re.DOTALL)
    # Four spaces make a code block, too.
    lines = [line.strip() for block in blocks for line in block.splitlines()] + [
        line.strip() for line in text.splitlines() if line.startswith("    ")
    ]
    spans = re.findall(r"`((?:python -m|make) [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = []
    for line in [*lines, *spans]:
        line = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line.removeprefix("$ "))
        if line.startswith(("python -m ", "make ")):
            # Behind two spaces, a # or an & stands what is said about the command.
            found.append(re.split(r"\s{2,}|\s#|\s&|\s\|\s|\s>|;", line)[0].strip())
    return list(dict.fromkeys(found))


COMMANDS = [
    pytest.param(command, id=f"{page.relative_to(ROOT)}: {command}") for page in PAGES for command in commands_of(page)
]
EXPERIMENTS = [case for case in COMMANDS if case.values[0].startswith("python -m experiments.run")]
OTHERS = [case for case in COMMANDS if case not in EXPERIMENTS]


def test_commands_are_found():
    assert len(EXPERIMENTS) > 20
    assert len(OTHERS) > 20


def is_pattern(words: list[str]) -> bool:
    """Whether a command is a pattern to fill in (PAPER, NAME, ...) rather than one to type."""
    return any(re.fullmatch(r"(\+?paper=)?[A-Z]{2,}|\.\.\.|…|\[?PAPER.*", word) for word in words) or "..." in " ".join(
        words
    )


@pytest.mark.parametrize("command", EXPERIMENTS)
def test_an_experiment_command_can_be_planned(command):
    words = shlex.split(command)[3:]
    if any(mark in command for mark in ELSEWHERE) or is_pattern(words):
        pytest.skip("needs a reader's own files or names")
    overrides = [word for word in words if not word.startswith("-") and not word.startswith("hydra")]
    if not overrides:
        return
    overrides = as_hydra_wants(overrides)
    papers = schema.paper_names() if any("paper=glob(" in word for word in overrides) else [None]
    for paper in papers:
        chosen = [f"+paper={paper}" if paper and "paper=glob(" in word else word for word in overrides]
        if "-m" in words:  # the first value of each swept setting
            chosen = [re.sub(r"^([\w.+]+=)([^\[\]{}()'\"]*?),.*$", r"\1\2", word) for word in chosen]
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "experiments" / "conf"), version_base="1.3"):
            config = schema.check(compose("config", chosen))
        given = frozenset(word.lstrip("+~").partition("=")[0] for word in chosen)
        if re.search(r"\bmy_\w+\.", command):
            with pytest.raises(DataUnavailable, match="my_"):  # understood as far as a file of the reader's own
                schema.plan_jobs(config, given)
        else:
            assert schema.plan_jobs(config, given)


@functools.cache
def help_of(*words: str) -> str | None:
    """What a command prints with --help; None if it is refused."""
    done = subprocess.run(
        [sys.executable, "-m", *words, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    return done.stdout if done.returncode == 0 else None


@functools.cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("command", OTHERS)
def test_any_other_command_is_known_with_its_options(command):
    words = shlex.split(command)
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        assert set(targets) <= make_targets()
        return
    module, *rest = words[2:]
    if any(mark in command for mark in ELSEWHERE) or module in ("venv", "pip", "pytest", "build") or module.isupper():
        return
    if "|" in " ".join(rest[:1]):  # all subcommands at once: `serve | chat | demo`
        subcommands = re.split(r"\s*\|\s*", rest[0])
        assert all(help_of(module, name) for name in subcommands)
        return
    subcommand = [rest[0]] if rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]) and help_of(module, rest[0]) else []
    if "=" in " ".join(rest) and not any(word.startswith("--") for word in rest):
        assert help_of(module) is not None  # settings in the style of Hydra; the module's own tests check them
        return
    text = help_of(module, *subcommand)
    assert text is not None, f"{module} {' '.join(subcommand)} is refused"
    for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
        assert option in text, f"{option} is not in the help of {module} {' '.join(subcommand)}"
