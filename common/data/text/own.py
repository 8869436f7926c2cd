"""Your own items: JSON lines, one item each. The field names id, question and golden_answers are those of FlashRAG."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from common.data.items import QAItem
from common.data.records import Record, read_jsonl
from common.data.sources import DATASETS, TextDataset, distinct
from common.errors import ConfigError, UnknownName
from common.metrics import versioned


@DATASETS.add("jsonl", label="own items")
@dataclasses.dataclass(frozen=True)
class JsonLines(TextDataset):
    """Items of your own, from a JSON lines file.

    A line: {"question": "...", "golden_answers": ["..."], "chunks": ["...", ...]}, and if you like "id", "family",
    "evidence" (indices of chunks), "metric", "max_answer_tokens". Other fields are ignored.
    """

    file: str = ""  # absolute, or relative to the folder `text` of the data root

    licence: ClassVar[str] = "yours"
    origin: ClassVar[str] = "you"

    def __post_init__(self) -> None:
        if not self.file:
            raise ConfigError("dataset 'jsonl' needs data.options.file=PATH.jsonl.")

    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        plain = QAItem("", "", (), "", ())
        seen: dict[str, str] = {}
        for number, row in enumerate(read_jsonl(folder / self.file)):
            identity = row.get("id")
            name = str(number) if identity.value is None else str(identity.value)
            if name in seen:
                raise identity.fail(f"an id of its own ({seen[name]} has it)")
            seen[name] = row.place
            chunks = row["chunks"].texts()
            evidence = sorted({self._index(entry, len(chunks)) for entry in self._optional(row, "evidence")})
            metric, most = row.get("metric"), row.get("max_answer_tokens")
            if metric.value is not None:
                try:
                    versioned(metric.text())
                except UnknownName as error:
                    raise metric.fail(f"a metric ({error})") from error
            if most.value is not None and most.integer() < 1:
                raise most.fail("a whole number of at least 1")
            yield QAItem(
                item_id=name,
                family="own" if row.get("family").value is None else row["family"].filled_text(),
                chunks=chunks,
                question=row["question"].text().strip(),
                answers=distinct(row["golden_answers"].texts()),
                evidence=tuple(evidence),
                metric=plain.metric if metric.value is None else metric.text(),
                max_answer_tokens=plain.max_answer_tokens if most.value is None else most.integer(),
            )

    def _optional(self, row: Record, key: str) -> list[Record]:
        found = row.get(key)
        return [] if found.value is None else found.list()

    def _index(self, entry: Record, num_chunks: int) -> int:
        if not 0 <= entry.integer() < num_chunks:
            raise entry.fail(f"the index of one of {num_chunks} chunks")
        return entry.integer()


def write_items(items: Iterable[QAItem], path: Path) -> None:
    """Write items as JSON lines that the dataset "jsonl" reads back; query profiles are not written.

    Atomic: `path` is replaced when everything is written.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for item in items:
            row = {
                "id": item.item_id,
                "family": item.family,
                "question": item.question,
                "golden_answers": item.answers,
                "chunks": item.chunks,
                "evidence": item.evidence,
                "metric": item.metric,
                "max_answer_tokens": item.max_answer_tokens,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(temporary, path)
