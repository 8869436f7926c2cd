"""A content-addressed cache of derived artefacts: trained weights, encoded clips, measured profiles.

    cache = ArtefactCache(Path("cache"))
    folder = cache.get_or_make("profile", {"model": fingerprint, "tokens": 4096}, make)   # make(folder) writes files

    <root>/<kind>/<key>/          key = SHA-256 of the kind and the description, as canonical JSON
        ...                       what `make` wrote
        manifest.json             written last: description, and size and SHA-256 of every file

An artefact is made in a temporary folder beside its place and renamed when complete, under a lock file that the kernel
releases even after kill -9: any number of processes may ask for the same one, and one of them makes it. A folder without a
manifest, or whose files are not those that the manifest names, does not count: it is thrown away with a warning and made anew.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from common.errors import ConfigError

MANIFEST = "manifest.json"


class DamagedArtefact(UserWarning):
    """A cached artefact could not be trusted and is made again."""


class ArtefactCache:
    """Derived artefacts under one root folder, which is created when needed."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, kind: str, description: Mapping[str, Any]) -> Path:
        """The folder that an artefact has or would have.

        Args:
            kind: a name for this sort of artefact, usable as a folder name.
            description: everything that the artefact depends on, in JSON types.

        Raises:
            ConfigError: the description holds what JSON cannot, or the kind is no plain name.
        """
        if not kind or kind != Path(kind).name or kind.startswith("."):
            raise ConfigError(f"artefact kind {kind!r} must be a plain name, not a path.")
        return self.root / kind / _key(kind, description)

    def get(self, kind: str, description: Mapping[str, Any]) -> Path | None:
        """The complete, checked artefact's folder, or None. Every file is hashed; treat the folder as read-only."""
        folder = self.path(kind, description)
        if not folder.is_dir():
            return None
        problem = _problem(folder)
        if problem is None:
            return folder
        warnings.warn(f"{folder}: {problem}; this artefact does not count.", DamagedArtefact, stacklevel=2)
        return None

    def get_or_make(self, kind: str, description: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The artefact's folder; `make(folder)` writes its files if it is not there yet or is damaged.

        Raises:
            ConfigError: see `path`; or `make` wrote no file, or a file with the manifest's name.
            Exception: what `make` raises; nothing is left behind then.
        """
        folder = self.path(kind, description)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock", mode=0o666):
            found = self.get(kind, description)
            if found is not None:
                return found
            staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:12]}-"))
            try:
                make(staging)
                files = _files(staging)
                if not files or (staging / MANIFEST).exists():
                    raise ConfigError(
                        f"making a {kind!r} artefact must write at least one file, and none called {MANIFEST}."
                    )
                manifest = {
                    "kind": kind,
                    "description": description,
                    "files": {path.relative_to(staging).as_posix(): _facts(path) for path in files},
                }
                for path in files:
                    sync(path)
                with atomic_file(staging / MANIFEST) as temporary:
                    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
                staging.chmod(0o755)
                if folder.exists():
                    shutil.rmtree(folder)
                os.replace(staging, folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        return folder


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; on success it replaces `path`, on failure it vanishes.

    A reader sees `path` with its former content or with all of the new, also after a crash.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        sync(temporary)
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file's content to the device."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sha256_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _key(kind: str, description: Mapping[str, Any]) -> str:
    try:
        text = json.dumps([kind, description], sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the description of a {kind!r} artefact must be made of JSON types: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}


def _problem(folder: Path) -> str | None:
    """Why an artefact cannot be trusted, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        listed = manifest["files"]
        if _key(manifest["kind"], manifest["description"]) != folder.name:
            return "its manifest describes another artefact"
    except FileNotFoundError:
        return "it has no manifest, so it was never finished"
    except (ValueError, KeyError, TypeError):
        return "its manifest cannot be read"
    for name, facts in listed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, not {facts['bytes']}"
        if sha256_of_file(path) != facts["sha256"]:
            return f"{name} is not what was written (checksum differs)"
    return None
