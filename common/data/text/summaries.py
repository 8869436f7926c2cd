"""Summarisation: of meetings and stories for a query (QMSum, SQuALITY), of dialogues and news (SAMSum, MultiNews)."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from common.data.hub import HubTable
from common.data.items import QAItem
from common.data.records import Record, read_jsonl
from common.data.sources import DATASETS, TextDataset, distinct
from common.data.text import longbench
from common.errors import ConfigError

# Transcribers' marks such as {vocalsound} and {disfmarker}: noises, not words.
_MARK = re.compile(r"\{\w+\}\s*")


@DATASETS.add("qmsum", label="QMSum")
@dataclasses.dataclass(frozen=True)
class QmSum(TextDataset):
    """QMSum: a question about a meeting, answered by a short summary; one chunk per turn, gold turns as evidence.

    A turn is short. For chunks of a given length use `common.data.chunking.rechunk(..., across_passages=True)`.
    """

    file: str = "qmsum/qmsum_val.jsonl"  # QMSum's own JSON lines, or LongBench's
    queries: str = "all"  # "specific", "general" (about the whole meeting; no evidence marked), or "all"
    clean: bool = True  # leave out marks such as {vocalsound}

    licence: ClassVar[str] = "MIT"
    origin: ClassVar[str] = "https://github.com/Yale-LILY/QMSum (data/ALL/jsonl)"
    hub: ClassVar[tuple[HubTable, ...]] = longbench.tables("qmsum")

    def __post_init__(self) -> None:
        if self.queries not in ("all", "specific", "general"):
            raise ConfigError(f"data.options.queries={self.queries!r} is not one of all, specific, general.")

    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        meetings = list(read_jsonl(folder / self.file))
        if longbench.are_rows(meetings):
            yield from self.from_hub(meetings, "longbench")
            return
        for number, meeting in enumerate(meetings):
            turns = meeting["meeting_transcripts"].list()
            chunks = tuple(
                f"{turn['speaker'].text()}: {self._cleaned(turn['content'].text())}".strip() for turn in turns
            )
            if self.queries != "specific":
                for index, entry in enumerate(meeting["general_query_list"].list()):
                    yield self._item(f"{number}-general-{index}", entry, chunks, ())
            if self.queries != "general":
                for index, entry in enumerate(meeting["specific_query_list"].list()):
                    evidence: set[int] = set()
                    for span in entry["relevant_text_span"].list():
                        ends = [end.integer() for end in span.list()]
                        if len(ends) != 2 or not 0 <= ends[0] <= ends[1] < len(turns):
                            raise span.fail(f"the first and last of turns 0 to {len(turns) - 1}")
                        evidence.update(range(ends[0], ends[1] + 1))
                    yield self._item(f"{number}-specific-{index}", entry, chunks, tuple(sorted(evidence)))

    def from_hub(self, rows: Iterable[Record], layout: str) -> Iterator[QAItem]:
        return longbench.items(
            rows, "qmsum", longbench.lines, family="query_summary", metric="rouge_l", max_answer_tokens=256
        )

    def _cleaned(self, content: str) -> str:
        return _MARK.sub("", content).strip() if self.clean else content.strip()

    def _item(self, name: str, entry: Record, chunks: tuple[str, ...], evidence: tuple[int, ...]) -> QAItem:
        return QAItem(
            item_id=f"qmsum-{name}",
            family="query_summary",
            chunks=chunks,
            question=entry["query"].filled_text(),
            answers=distinct([entry["answer"].filled_text()]),
            evidence=evidence,
            metric="rouge_l",
            max_answer_tokens=256,
        )


@DATASETS.add("squality", label="SQuALITY")
@dataclasses.dataclass(frozen=True)
class Squality(TextDataset):
    """SQuALITY: questions about a short story of about 5,000 words, four reference summaries each; one chunk per paragraph."""

    file: str = "squality/squality_dev.jsonl"

    licence: ClassVar[str] = "CC-BY-4.0 (questions, summaries); Project Gutenberg licence (stories)"
    origin: ClassVar[str] = "https://github.com/nyu-mll/SQuALITY (data/v1-3/txt/dev.jsonl)"

    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        for story in read_jsonl(folder / self.file):
            chunks = longbench.paragraphs(story["document"].text())
            name = story["metadata"]["passage_id"].text()
            for entry in story["questions"].list():
                yield QAItem(
                    item_id=f"squality-{name}-{entry['question_number'].integer()}",
                    family="query_summary",
                    chunks=chunks,
                    question=entry["question_text"].filled_text(),
                    answers=distinct(response["response_text"].text() for response in entry["responses"].list()),
                    metric="rouge_l",
                    max_answer_tokens=512,
                )


@DATASETS.add("samsum", label="SAMSum")
@dataclasses.dataclass(frozen=True)
class SamSum(TextDataset):
    """SAMSum: summarise a chat, given worked examples; one chunk per example (LongBench form), or the chat alone."""

    licence: ClassVar[str] = "CC-BY-NC-ND-4.0"
    origin: ClassVar[str] = "LongBench's data.zip (data/samsum.jsonl)"
    hub: ClassVar[tuple[HubTable, ...]] = (
        *longbench.tables("samsum"),
        HubTable("knkarthick/samsum", "samsum"),
        HubTable("Samsung/samsum", "samsum"),
    )

    def paths(self) -> tuple[str, ...]:
        return (longbench.path("samsum"),)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        return self.from_hub(read_jsonl(folder / longbench.path("samsum")), "longbench")

    def from_hub(self, rows: Iterable[Record], layout: str) -> Iterator[QAItem]:
        if layout == "longbench":
            # First line only: after its summary a base model goes on with the next example.
            yield from longbench.items(
                rows,
                "samsum",
                longbench.starting_with("Dialogue:"),
                family="few_shot_summary",
                metric="first_line_rouge_l",
                max_answer_tokens=128,
            )
            return
        for row in rows:
            yield QAItem(
                item_id=f"samsum-{row['id'].text()}",
                family="summary",
                chunks=(row["dialogue"].filled_text(),),
                question="Summarise the dialogue.",
                answers=distinct([row["summary"].text()]),
                evidence=(0,),
                metric="rouge_l",
                max_answer_tokens=128,
            )


@DATASETS.add("multi_news", label="MultiNews")
@dataclasses.dataclass(frozen=True)
class MultiNews(TextDataset):
    """MultiNews: one summary of several news articles; one chunk per article."""

    licence: ClassVar[str] = "research use (the articles belong to their publishers)"
    origin: ClassVar[str] = "LongBench's data.zip (data/multi_news.jsonl)"
    hub: ClassVar[tuple[HubTable, ...]] = (
        *longbench.tables("multi_news"),
        HubTable("alexfabbri/multi_news", "multi_news", revision="refs/convert/parquet"),
    )
    question: ClassVar[str] = "Write a summary of all the news, one page at most."

    def paths(self) -> tuple[str, ...]:
        return (longbench.path("multi_news"),)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        return self.from_hub(read_jsonl(folder / longbench.path("multi_news")), "longbench")

    def from_hub(self, rows: Iterable[Record], layout: str) -> Iterator[QAItem]:
        if layout == "longbench":
            yield from longbench.items(
                rows,
                "multi_news",
                longbench.passages,
                family="summary",
                metric="rouge_l",
                max_answer_tokens=512,
                question=self.question,
            )
            return
        for number, row in enumerate(rows):
            articles = tuple(part.strip() for part in row["document"].text().split("|||||") if part.strip())
            yield QAItem(
                item_id=f"multi_news-{number}",
                family="summary",
                chunks=articles,
                question=self.question,
                answers=distinct([row["summary"].text().strip().removeprefix("–")]),
                evidence=tuple(range(len(articles))),
                metric="rouge_l",
                max_answer_tokens=512,
            )
