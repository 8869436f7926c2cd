"""Facts stored with every run: which code, which machine, which command."""

import functools
import hashlib
import importlib.metadata
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.experiment import Paper
from common.hardware import machine_facts

_ROOT = Path(__file__).resolve().parent.parent


def version() -> str:
    """Version of the installed distribution, or of the source tree when it is not installed."""
    try:
        return importlib.metadata.version("ninefold")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"


@functools.cache
def source_sha256(packages: tuple[str, ...]) -> str:
    """Hash of the Python sources of top-level packages: the same in a checkout and in an installed wheel."""
    digest = hashlib.sha256()
    for package in sorted(packages):
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit of the tree that this very package lies in, and whether its sources were changed since.

    Both are None in an installed wheel, and where the package merely lies inside somebody else's repository.
    """
    nothing: dict[str, Any] = {"commit": None, "is_dirty": None}
    try:
        top = _git("rev-parse", "--show-toplevel")
        if Path(top).resolve() != _ROOT:
            return nothing
        changed = _git(
            "status", "--porcelain", "--", *sorted(p.name for p in _ROOT.iterdir() if (p / "__init__.py").exists())
        )
        return {"commit": _git("rev-parse", "HEAD"), "is_dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return nothing


def _git(*args: str) -> str:
    done = subprocess.run(["git", "-C", str(_ROOT), *args], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def provenance(paper: Paper, methods: Sequence[str], threads: int) -> dict[str, Any]:
    """Everything that `run.json` holds beside the run's identity and outcome."""
    # An experiment without a list of methods may still name some in its rows.
    styles = {name: paper.methods.style(name) for name in methods or paper.methods.names()}
    return {
        "command": shlex.join(["python", "-m", "experiments.run", *sys.argv[1:]]),
        "version": version(),
        "git": git_state(),
        "source_sha256": source_sha256((paper.name, "common")),
        "machine": machine_facts() | {"threads_used": threads},
        "styles": {name: {"label": s.label, "color": s.color, "marker": s.marker} for name, s in styles.items()},
    }
