"""LongBench's one row format for twenty long-context tasks, and how its prompt-ready contexts fall into passages.

A row has `input` (the question), `context` (one string), `answers`, `_id`. The repository publishes a zip file of JSON lines
behind a loading script, which recent versions of `datasets` refuse to run; so the zip file is read directly.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from common.data.hub import HubTable
from common.data.items import QAItem
from common.data.records import Record
from common.data.sources import distinct

_PASSAGE = re.compile(r"^Passage \d+:\n", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n\s*\n")


def tables(config: str) -> tuple[HubTable, ...]:
    """Where a LongBench task may be had, best first."""
    return (
        HubTable("THUDM/LongBench", "longbench", archive="data.zip", member=f"/{config}.jsonl"),
        HubTable("zai-org/LongBench", "longbench", archive="data.zip", member=f"/{config}.jsonl"),
        HubTable("THUDM/LongBench", "longbench", config, revision="refs/convert/parquet"),
    )


def path(config: str) -> str:
    """Where the task's JSON lines lie in a data root, relative to its folder `text`."""
    return f"longbench/{config}.jsonl"


def items(
    rows: Iterable[Record],
    config: str,
    split: Callable[[str], tuple[str, ...]],
    *,
    family: str,
    metric: str = "f1",
    max_answer_tokens: int = 32,
    question: str | None = None,
) -> Iterator[QAItem]:
    """LongBench rows as items.

    Args:
        rows: rows of one task.
        config: the task's name; item ids start with it.
        split: how the task's context falls into chunks.
        family, metric, max_answer_tokens: of every item.
        question: asked in place of the row's `input`, for tasks whose input is empty.

    Raises:
        DataUnavailable: a row lacks a field or has another type in it.
    """
    for number, row in enumerate(rows):
        identity = row.get("_id").value
        yield QAItem(
            item_id=f"{config}-{identity if identity else number}",
            family=family,
            chunks=split(row["context"].text()),
            question=question if question is not None else row["input"].filled_text(),
            answers=distinct(row["answers"].texts()),
            metric=metric,
            max_answer_tokens=max_answer_tokens,
        )


def are_rows(rows: Sequence[Record]) -> bool:
    """Whether rows of unknown origin have LongBench's form."""
    return bool(rows) and rows[0].get("context").value is not None and rows[0].get("input").value is not None


def passages(context: str) -> tuple[str, ...]:
    """Split at the "Passage 1:" lines, which are left out; paragraphs if there are none."""
    if not _PASSAGE.search(context):
        return paragraphs(context)
    return _filled(_PASSAGE.split(context))


def paragraphs(text: str) -> tuple[str, ...]:
    """Split at blank lines; at line ends if there is no blank line."""
    pieces = _filled(_BLANK_LINES.split(text))
    return pieces if len(pieces) > 1 else lines(text)


def lines(text: str) -> tuple[str, ...]:
    """Split at line ends."""
    return _filled(text.split("\n"))


def starting_with(marker: str) -> Callable[[str], tuple[str, ...]]:
    """Split before every line that starts with `marker`, as few-shot examples do."""
    start = re.compile(rf"^(?={re.escape(marker)})", re.MULTILINE)
    return lambda text: _filled(start.split(text))


def _filled(pieces: Iterable[str]) -> tuple[str, ...]:
    return tuple(piece.strip() for piece in pieces if piece.strip())
