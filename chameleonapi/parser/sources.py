"""Reading an application: its Python files and the small data files beside them. Nothing is imported or executed."""

import ast
import warnings
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from common.errors import ConfigError

_DATA_SUFFIXES = {
    ".txt",
    ".csv",
    ".tsv",
    ".json",
    ".yaml",
    ".yml",
    ".ini",
    ".cfg",
    ".names",
    ".labels",
    ".toml",
    ".env",
    "",
}
_MAX_DATA_BYTES = 1_000_000
_SKIPPED_FOLDERS = {
    ".git",
    "__pycache__",
    "node_modules",
    "venv",
    ".venv",
    "env",
    "site-packages",
    ".tox",
    "migrations",
}


@dataclass(frozen=True)
class SyntaxProblem:
    """A file that does not parse."""

    path: str
    line: int
    message: str
    text: str


@dataclass
class Application:
    """The source of one application.

    Attributes:
        root: the folder that holds it; paths below are relative to it, with forward slashes.
        trees: parsed modules by path.
        data: text of small data files by path.
        problems: files that do not parse, e.g. because they are Python 2.
    """

    root: Path
    trees: dict[str, ast.Module] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    problems: list[SyntaxProblem] = field(default_factory=list)
    _found: dict[tuple[str, str, int], str | None] = field(default_factory=dict)

    def module_path(self, dotted: str, importer: str, level: int = 0) -> str | None:
        """The file that `import dotted` in the file `importer` would load, or None if it is not part of the application."""
        key = (dotted, importer, level)
        if key not in self._found:
            self._found[key] = self._module_path(dotted, importer, level)
        return self._found[key]

    def _module_path(self, dotted: str, importer: str, level: int) -> str | None:
        here = PurePosixPath(importer).parent
        tail = PurePosixPath(*dotted.split(".")) if dotted else PurePosixPath()
        if level:
            base = here
            for _ in range(level - 1):
                base = base.parent
            bases = [base]
        else:
            # A script's own folder comes first, then any folder above it, as PYTHONPATH usually has it.
            bases = [here, *here.parents, PurePosixPath()]
        for base in bases:
            stem = base / tail
            for candidate in (f"{stem}.py", f"{stem}/__init__.py"):
                candidate = candidate.removeprefix("./")
                if candidate in self.trees:
                    return candidate
        if not level and dotted:
            # "from myproject.vision import x" where the application's folder is the package itself or below src/
            parts = dotted.split(".")
            for start in range(len(parts)):
                end = "/".join(parts[start:])
                hits = [p for p in self.trees if p in (f"{end}.py", f"{end}/__init__.py") or p.endswith(f"/{end}.py")]
                # Only a path that ends in at least two parts, or the package named like the folder, is safe to take.
                if len(hits) == 1 and (start == 0 or parts[start - 1] == self.root.name or len(parts) - start > 1):
                    return hits[0]
        return None

    def data_path(self, given: str, importer: str) -> str | None:
        """The data file that `open(given)` would read, or None."""
        text = given.replace("\\", "/")
        tries = [text.removeprefix("./"), str(PurePosixPath(importer).parent / text)]
        for one in tries:
            normal = _normalise(one)
            if normal in self.data:
                return normal
            if normal in self.trees:
                return None
        # An absolute path of the author's machine: take the file of that name if there is just one.
        if text.startswith("/") or (len(text) > 1 and text[1] == ":"):
            hits = [p for p in self.data if PurePosixPath(p).name == PurePosixPath(text).name]
            if len(hits) == 1:
                return hits[0]
        return None


def _normalise(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def read_application(path: Path) -> Application:
    """Read a folder, or one file together with the files beside it that it may import or open.

    Raises:
        ConfigError: the path does not exist or holds no Python file.
    """
    if not path.exists():
        raise ConfigError(
            f"application {str(path)!r} does not exist. Give a Python file or a folder with Python files."
        )
    if path.is_file():
        if path.suffix != ".py":
            raise ConfigError(f"application {str(path)!r} is not a Python file. Give a .py file or a folder.")
        app = Application(path.parent)
        _add_python(app, path)
        _add_imported(app, path)
    else:
        app = Application(path)
        for found in sorted(path.rglob("*")):
            parts = found.relative_to(path).parts
            if any(p in _SKIPPED_FOLDERS or (p.startswith(".") and p != ".env") for p in parts) or not found.is_file():
                continue
            if found.suffix == ".py":
                _add_python(app, found)
            else:
                _add_data(app, found)
        if not app.trees and not app.problems:
            raise ConfigError(f"application {str(path)!r} holds no Python file. Give a .py file or a folder with some.")
    return app


def _add_imported(app: Application, script: Path) -> None:
    """Add what a single file refers to: sibling modules by import, data files by name."""
    todo = [script]
    while todo:
        current = todo.pop()
        tree = app.trees.get(current.relative_to(app.root).as_posix())
        if tree is None:
            continue
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                names = [base] if base else []
                names += [f"{base}.{alias.name}" if base else alias.name for alias in node.names]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and 2 < len(node.value) < 120:
                named = app.root / node.value
                if "\0" not in node.value and "\n" not in node.value and named.suffix and named.is_file():
                    _add_data(app, named)
            for name in names:
                stem = app.root.joinpath(*name.split("."))
                for candidate in (stem.with_name(stem.name + ".py"), stem / "__init__.py"):
                    if candidate.is_file() and candidate.relative_to(app.root).as_posix() not in app.trees:
                        _add_python(app, candidate)
                        todo.append(candidate)


def _add_python(app: Application, file: Path) -> None:
    name = file.relative_to(app.root).as_posix()
    raw = file.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape such as "\d" in the application is not our concern
            app.trees[name] = ast.parse(text, filename=name)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None) or 1
        app.problems.append(SyntaxProblem(name, line, getattr(error, "msg", None) or str(error), text))


def _add_data(app: Application, file: Path) -> None:
    if file.suffix.lower() not in _DATA_SUFFIXES or file.stat().st_size > _MAX_DATA_BYTES:
        return
    try:
        app.data[file.relative_to(app.root).as_posix()] = file.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, ValueError):
        return
