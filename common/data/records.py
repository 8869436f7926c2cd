"""Reading JSON, JSON lines, CSV and text so that a bad file is one clear line: path, line, place, what was expected."""

import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import DataUnavailable

REMEDY = "docs/data.md says what the file must look like and how to get it."


@dataclasses.dataclass(frozen=True)
class Record:
    """A value read from a file or table, together with where it stands.

    Attributes:
        value: what was parsed: mappings, lists, strings, numbers.
        file: path of the file, or name of the table.
        place: "line 12", "row 3", or "" for a file that is one value.
        trail: the way from there to the value, e.g. "ctxs[2].text".
    """

    value: Any
    file: str
    place: str = ""
    trail: str = ""

    def fail(self, expected: str) -> DataUnavailable:
        """The exception that says what was expected here instead of the value."""
        found = "nothing" if self.value is None else f"{type(self.value).__name__} {_shorten(repr(self.value))}"
        where = ", ".join(part for part in (self.file, self.place, self.trail) if part)
        return DataUnavailable(f"{where}: expected {expected}, found {found}. {REMEDY}")

    def __getitem__(self, key: str) -> "Record":
        """The value under `key`. Raises DataUnavailable where this is no mapping or lacks the key."""
        found = self.get(key)
        if found.value is None:
            raise found.fail(f"a value for {key!r}")
        return found

    def get(self, key: str) -> "Record":
        """The value under `key`, or a record of None. Raises DataUnavailable where this is no mapping."""
        if not isinstance(self.value, Mapping):
            raise self.fail(f"an object with {key!r}")
        return self._child(self.value.get(key), f".{key}" if self.trail else key)

    def list(self) -> "list[Record]":
        """The elements. Raises DataUnavailable where this is no list."""
        if not isinstance(self.value, Sequence) or isinstance(self.value, (str, bytes)):
            raise self.fail("a list")
        return [self._child(element, f"[{index}]") for index, element in enumerate(self.value)]

    def text(self) -> str:
        """The string. Raises DataUnavailable where this is none."""
        if not isinstance(self.value, str):
            raise self.fail("a string")
        return self.value

    def filled_text(self) -> str:
        """The string without white space around it. Raises DataUnavailable where this is none or it is blank."""
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.fail("a string that is not blank")
        return self.value.strip()

    def texts(self) -> tuple[str, ...]:
        """The strings of a list. Raises DataUnavailable where this is no list of strings."""
        return tuple(element.text() for element in self.list())

    def integer(self) -> int:
        """A whole number, also one written as a string of digits. Raises DataUnavailable where this is none."""
        if isinstance(self.value, str) and self.value.strip().isdecimal():
            return int(self.value)
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.fail("a whole number")
        return self.value

    def choice(self, allowed: Sequence[str]) -> str:
        """One of the allowed strings. Raises DataUnavailable where this is another value."""
        if self.value not in allowed:
            raise self.fail("one of " + ", ".join(allowed))
        return str(self.value)

    def _child(self, value: Any, step: str) -> "Record":
        return Record(value, self.file, self.place, self.trail + step)


def read_text(path: Path, remedy: str = REMEDY) -> str:
    """The text of a UTF-8 file, a byte-order mark left out, line ends as "\\n".

    Args:
        path: the file.
        remedy: what the reader of an error can do; the last sentence of its line.

    Raises:
        DataUnavailable: the file is missing, unreadable, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataUnavailable(f"{path} does not exist. {remedy}") from None
    except UnicodeDecodeError as error:
        raise DataUnavailable(f"{path}: byte {error.start} is not UTF-8 text. {remedy}") from error
    except OSError as error:
        raise DataUnavailable(f"{path} cannot be read: {error.strerror}. {remedy}") from error


def read_json(path: Path) -> Record:
    """The one JSON value of a file.

    Raises:
        DataUnavailable: as `read_text`, or the text is not JSON.
    """
    return _parsed(read_text(path), path, first_line=1, as_line=False)


def read_jsonl(path: Path) -> Iterator[Record]:
    """The JSON values of a file's lines; blank lines are passed over.

    Raises:
        DataUnavailable: as `read_text` (at once), or a line is not JSON (when it is reached).
    """
    return _lines(read_text(path), path)


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    """The rows of a CSV file with a header; fields may be quoted and span lines. A row's place is its first line.

    Raises:
        DataUnavailable: as `read_text` or a column is missing (at once), or a row has another number of fields.
    """
    # The csv module splits the lines itself, since it must know which breaks stand inside quotes.
    reader = csv.reader(read_text(path).splitlines(keepends=True), strict=True)
    header = next(reader, [])
    for column in columns:
        if column not in header:
            raise DataUnavailable(f"{path}, line 1: no column {column!r} among {', '.join(header) or 'none'}. {REMEDY}")
    return _rows(reader, header, path)


def _rows(reader: Any, header: list[str], path: Path) -> Iterator[Record]:
    while True:
        place = f"line {reader.line_num + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataUnavailable(f"{path}, {place}: {error}. {REMEDY}") from error
        if fields is None:
            return
        if fields:
            if len(fields) != len(header):
                raise Record(fields, str(path), place).fail(f"{len(header)} fields")
            yield Record(dict(zip(header, fields, strict=True)), str(path), place)


def _lines(text: str, path: Path) -> Iterator[Record]:
    # Not splitlines(): JSON strings may hold U+2028 and its like, at which that would cut.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _parsed(line, path, first_line=number, as_line=True)


def _parsed(text: str, path: Path, first_line: int, as_line: bool) -> Record:
    try:
        return Record(json.loads(text), str(path), f"line {first_line}" if as_line else "")
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise DataUnavailable(f"{path}, line {line}, column {error.colno}: not JSON ({error.msg}). {REMEDY}") from error


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
