"""Questions asked by people, with documents found for them: Natural Questions, TriviaQA, NarrativeQA, PubMedQA."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from common.data.hub import HubTable
from common.data.items import QAItem
from common.data.records import Record, read_json, read_jsonl
from common.data.sources import DATASETS, TextDataset, distinct
from common.data.text import longbench


@DATASETS.add("nq_open", label="NQ-open")
@dataclasses.dataclass(frozen=True)
class NaturalQuestionsOpen(TextDataset):
    """Natural Questions, open: a search query with the passage that answers it (and distractors, where the file has any)."""

    file: str = "nq_open/nq_open_oracle_300.jsonl"

    licence: ClassVar[str] = "MIT (repository); CC-BY-SA-3.0 (Natural Questions)"
    origin: ClassVar[str] = "https://github.com/nelson-liu/lost-in-the-middle (qa_data, unpacked)"

    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        for number, row in enumerate(read_jsonl(folder / self.file)):
            passages = row["ctxs"].list()
            yield QAItem(
                item_id=f"nq_open-{number}",
                family="single_fact",
                chunks=tuple(f"{entry['title'].text()}\n{entry['text'].filled_text()}" for entry in passages),
                question=row["question"].filled_text(),
                answers=distinct(row["answers"].texts()),
                evidence=tuple(index for index, entry in enumerate(passages) if entry.get("isgold").value is True),
            )


@DATASETS.add("triviaqa", label="TriviaQA")
@dataclasses.dataclass(frozen=True)
class TriviaQa(TextDataset):
    """TriviaQA: trivia with aliases as gold answers; LongBench's few-shot form, or the reading-comprehension documents."""

    licence: ClassVar[str] = "Apache-2.0 (questions; the documents belong to their publishers)"
    origin: ClassVar[str] = "LongBench's data.zip (data/triviaqa.jsonl)"
    hub: ClassVar[tuple[HubTable, ...]] = (
        HubTable("mandarjoshi/trivia_qa", "rc", config="rc", split="validation", streaming=True),
        *longbench.tables("triviaqa"),
    )

    def paths(self) -> tuple[str, ...]:
        return (longbench.path("triviaqa"),)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        return self.from_hub(read_jsonl(folder / longbench.path("triviaqa")), "longbench")

    def from_hub(self, rows: Iterable[Record], layout: str) -> Iterator[QAItem]:
        return self._few_shot(rows) if layout == "longbench" else self._reading(rows)

    def _few_shot(self, rows: Iterable[Record]) -> Iterator[QAItem]:
        """The passage about the question stands in `input`, before the question; it becomes the last chunk."""
        examples = longbench.starting_with("Passage:")
        for number, row in enumerate(rows):
            passage, found, question = row["input"].filled_text().rpartition("Question:")
            if not found or not passage.strip():
                raise row["input"].fail("a passage, then 'Question:' and the question")
            chunks = (*examples(row["context"].text()), passage.strip())
            yield QAItem(
                item_id=f"triviaqa-{row.get('_id').value or number}",
                family="few_shot_fact",
                chunks=chunks,
                question=question.strip().removesuffix("Answer:").strip(),
                answers=distinct(row["answers"].texts()),
                evidence=(len(chunks) - 1,),
                metric="first_line_f1",
            )

    def _reading(self, rows: Iterable[Record]) -> Iterator[QAItem]:
        """Wikipedia pages and search results as chunks; rows without any document are left out."""
        for row in rows:
            pages, found = row["entity_pages"], row["search_results"]
            chunks = distinct((*pages["wiki_context"].texts(), *found["search_context"].texts()))
            if not chunks:
                continue
            yield QAItem(
                item_id=f"triviaqa-{row['question_id'].text()}",
                family="single_fact",
                chunks=chunks,
                question=row["question"].filled_text(),
                answers=distinct((row["answer"]["value"].text(), *row["answer"]["aliases"].texts())),
            )


@DATASETS.add("narrativeqa", label="NarrativeQA")
@dataclasses.dataclass(frozen=True)
class NarrativeQa(TextDataset):
    """NarrativeQA: questions about whole books and scripts (LongBench form); one chunk per paragraph."""

    licence: ClassVar[str] = "Apache-2.0"
    origin: ClassVar[str] = "LongBench's data.zip (data/narrativeqa.jsonl)"
    hub: ClassVar[tuple[HubTable, ...]] = longbench.tables("narrativeqa")

    def paths(self) -> tuple[str, ...]:
        return (longbench.path("narrativeqa"),)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        return self.from_hub(read_jsonl(folder / longbench.path("narrativeqa")), "longbench")

    def from_hub(self, rows: Iterable[Record], layout: str) -> Iterator[QAItem]:
        return longbench.items(rows, "narrativeqa", longbench.paragraphs, family="story_question")


@DATASETS.add("pubmedqa", label="PubMedQA")
@dataclasses.dataclass(frozen=True)
class PubMedQa(TextDataset):
    """PubMedQA: a research question answered yes, no or maybe from the abstract; one chunk per section."""

    file: str = "pubmedqa/pqal_300.json"

    licence: ClassVar[str] = "MIT"
    origin: ClassVar[str] = "https://github.com/pubmedqa/pubmedqa (data/ori_pqal.json)"
    hub: ClassVar[tuple[HubTable, ...]] = (
        HubTable("qiaojin/PubMedQA", "pubmedqa", config="pqa_labeled", split="train"),
    )

    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        table = read_json(folder / self.file)
        if not isinstance(table.value, dict):
            raise table.fail("an object of articles by PubMed id")
        for identity in table.value:
            row = table[identity]
            yield self._item(identity, row["QUESTION"], row["LABELS"], row["CONTEXTS"], row["final_decision"])

    def from_hub(self, rows: Iterable[Record], layout: str) -> Iterator[QAItem]:
        for row in rows:
            context = row["context"]
            name = str(row["pubid"].value)
            yield self._item(name, row["question"], context["labels"], context["contexts"], row["final_decision"])

    def _item(self, name: str, question: Record, labels: Record, sections: Record, decision: Record) -> QAItem:
        if len(labels.list()) != len(sections.list()):
            raise labels.fail(f"{len(sections.list())} labels, one per section")
        return QAItem(
            item_id=f"pubmedqa-{name}",
            family="yes_no_maybe",
            chunks=tuple(
                f"{label}: {text.strip()}" for label, text in zip(labels.texts(), sections.texts(), strict=True)
            ),
            question=f"{question.filled_text()} Answer yes, no or maybe.",
            answers=(decision.choice(("yes", "no", "maybe")),),
            metric="exact_match",
            max_answer_tokens=8,
        )
