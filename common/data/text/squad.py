"""SQuAD 1.1: questions answered by a span of one paragraph of an encyclopedia article."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import ClassVar, Literal

from common.data.hub import HubTable
from common.data.items import QAItem
from common.data.records import Record, read_json
from common.data.sources import DATASETS, TextDataset, distinct
from common.errors import ConfigError


@DATASETS.add("squad", label="SQuAD")
@dataclasses.dataclass(frozen=True)
class Squad(TextDataset):
    """SQuAD 1.1 (not 2.0: every question has an answer); single facts, many questions per context."""

    context: Literal["article", "paragraph"] = (
        "article"  # all paragraphs of the article as chunks, or the paragraph alone
    )
    file: str = "squad/xquad_en.json"  # any file in SQuAD's JSON schema

    licence: ClassVar[str] = "CC-BY-SA-4.0"
    origin: ClassVar[str] = "https://github.com/deepmind/xquad (xquad.en.json), or SQuAD's dev-v1.1.json"
    hub: ClassVar[tuple[HubTable, ...]] = (
        HubTable("rajpurkar/squad", "squad", split="validation"),
        HubTable("squad", "squad", split="validation"),
    )

    def __post_init__(self) -> None:
        if self.context not in ("article", "paragraph"):
            raise ConfigError(f"data.options.context={self.context!r} is not one of article, paragraph.")

    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        for article in read_json(folder / self.file)["data"].list():
            paragraphs = article["paragraphs"].list()
            chunks = tuple(paragraph["context"].filled_text() for paragraph in paragraphs)
            for index, paragraph in enumerate(paragraphs):
                for entry in paragraph["qas"].list():
                    golds = entry["answers"]
                    answers = distinct(gold["text"].text() for gold in golds.list())
                    if not answers:
                        raise golds.fail("at least one answer (SQuAD 1.1; version 2.0 has questions without any)")
                    yield self._item(entry["id"].text(), entry["question"].filled_text(), answers, chunks, index)

    def from_hub(self, rows: Iterable[Record], layout: str) -> Iterator[QAItem]:
        # Rows of one article, and within it those of one paragraph, stand side by side.
        for _, group in groupby(rows, key=lambda row: row["title"].text()):
            article = list(group)
            chunks = tuple(dict.fromkeys(row["context"].filled_text() for row in article))
            places = {chunk: index for index, chunk in enumerate(chunks)}
            for row in article:
                answers = distinct(row["answers"]["text"].texts())
                if not answers:
                    raise row["answers"].fail("at least one answer (SQuAD 1.1)")
                place = places[row["context"].filled_text()]
                yield self._item(row["id"].text(), row["question"].filled_text(), answers, chunks, place)

    def _item(self, item_id: str, question: str, answers: tuple[str, ...], chunks: Sequence[str], place: int) -> QAItem:
        whole = self.context == "article"
        return QAItem(
            item_id=f"squad-{item_id}",
            family="single_fact",
            chunks=tuple(chunks) if whole else (chunks[place],),
            question=question,
            answers=answers,
            evidence=(place if whole else 0,),
        )
