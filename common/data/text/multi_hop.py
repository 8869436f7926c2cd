"""Multi-hop questions over several passages: MuSiQue, 2WikiMultihopQA, HotpotQA."""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from common.data.hub import HubTable
from common.data.items import QAItem
from common.data.records import REMEDY, Record, read_json, read_jsonl, read_text
from common.data.sources import DATASETS, TextDataset, distinct
from common.data.text import longbench
from common.errors import DataUnavailable

_FAMILY = "multi_hop"


@DATASETS.add("musique", label="MuSiQue")
@dataclasses.dataclass(frozen=True)
class Musique(TextDataset):
    """MuSiQue: 2-4 hop questions, each with the passages retrieved for it."""

    # A JSON list of {question, answers, ctxs: [{title, text}]}, MuSiQue's own JSON lines, or LongBench's
    file: str = "musique/musique_s.json"

    licence: ClassVar[str] = "CC-BY-4.0"
    origin: ClassVar[str] = (
        "https://github.com/YaoJiayi/CacheBlend (inputs/musique_s.json), or StonyBrookNLP/musique "
        "(musique_ans_v1.0_dev.jsonl, then set data.options.file)"
    )
    hub: ClassVar[tuple[HubTable, ...]] = (
        *longbench.tables("musique"),
        HubTable("dgslibisey/MuSiQue", "musique", split="validation"),
        HubTable("bdsaglam/musique", "musique", config="answerable", split="validation"),
    )

    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        if self.file.endswith(".jsonl"):
            rows = list(read_jsonl(folder / self.file))
            yield from self.from_hub(rows, "longbench" if longbench.are_rows(rows) else "musique")
            return
        for number, entry in enumerate(read_json(folder / self.file).list()):
            yield QAItem(
                item_id=f"musique-{number}",
                family=_FAMILY,
                chunks=tuple(
                    _titled(passage["title"].text(), passage["text"].text()) for passage in entry["ctxs"].list()
                ),
                question=entry["question"].filled_text(),
                answers=distinct(entry["answers"].texts()),
            )

    def from_hub(self, rows: Iterable[Record], layout: str) -> Iterator[QAItem]:
        if layout == "longbench":
            return longbench.items(rows, "musique", longbench.passages, family=_FAMILY)
        return _musique(rows)


@DATASETS.add("2wikimqa", label="2WikiMQA")
@dataclasses.dataclass(frozen=True)
class TwoWiki(TextDataset):
    """2WikiMultihopQA: comparison and bridge questions. Locally a few worked examples, on the hub the LongBench set."""

    # Worked examples as text, the data set's own JSON, or LongBench's JSON lines
    file: str = "multihop_fewshot/2wikimultihopqa_gold_with_3_distractors_cot.txt"

    licence: ClassVar[str] = "Apache-2.0"
    origin: ClassVar[str] = "https://github.com/starsuzi/Adaptive-RAG (prompts/2wikimultihopqa)"
    hub: ClassVar[tuple[HubTable, ...]] = (
        *longbench.tables("2wikimqa"),
        HubTable("framolfese/2WikiMultihopQA", "hotpot", split="validation"),
        HubTable("xanhho/2WikiMultihopQA", "hotpot", split="dev"),
    )

    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        return _file_items(folder / self.file, "2wikimqa")

    def from_hub(self, rows: Iterable[Record], layout: str) -> Iterator[QAItem]:
        if layout == "longbench":
            return longbench.items(rows, "2wikimqa", longbench.passages, family=_FAMILY)
        return _hotpot(rows, "2wikimqa")


@DATASETS.add("hotpotqa", label="HotpotQA")
@dataclasses.dataclass(frozen=True)
class HotpotQa(TextDataset):
    """HotpotQA: two-hop questions. Locally a few worked examples, on the hub the LongBench set."""

    # Worked examples as text, the data set's own JSON, or LongBench's JSON lines
    file: str = "multihop_fewshot/hotpotqa_gold_with_3_distractors_cot.txt"

    licence: ClassVar[str] = "Apache-2.0 (examples), CC-BY-SA-4.0 (HotpotQA)"
    origin: ClassVar[str] = "https://github.com/starsuzi/Adaptive-RAG (prompts/hotpotqa)"
    hub: ClassVar[tuple[HubTable, ...]] = (
        *longbench.tables("hotpotqa"),
        HubTable("hotpotqa/hotpot_qa", "hotpot", config="distractor", split="validation"),
    )

    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        return _file_items(folder / self.file, "hotpotqa")

    def from_hub(self, rows: Iterable[Record], layout: str) -> Iterator[QAItem]:
        if layout == "longbench":
            return longbench.items(rows, "hotpotqa", longbench.passages, family=_FAMILY)
        return _hotpot(rows, "hotpotqa")


def _titled(title: str, text: str) -> str:
    return f"{title.strip()}\n{text.strip()}" if title.strip() else text.strip()


def _musique(rows: Iterable[Record]) -> Iterator[QAItem]:
    """MuSiQue's own rows; questions marked as unanswerable are left out."""
    for row in rows:
        if row.get("answerable").value is False:
            continue
        passages = row["paragraphs"].list()
        aliases = row.get("answer_aliases")
        golds = (row["answer"].text(), *(aliases.texts() if aliases.value is not None else ()))
        yield QAItem(
            item_id=f"musique-{row['id'].text()}",
            family=_FAMILY,
            chunks=tuple(_titled(entry["title"].text(), entry["paragraph_text"].text()) for entry in passages),
            question=row["question"].filled_text(),
            answers=distinct(golds),
            evidence=tuple(i for i, entry in enumerate(passages) if entry.get("is_supporting").value is True),
        )


def _hotpot(rows: Iterable[Record], name: str) -> Iterator[QAItem]:
    """Rows with `context` and `supporting_facts`, as columns ({title: [...], sentences: [...]}) or as pairs ([[title,
    sentences], ...]); either may be written as a JSON string."""
    for row in rows:
        passages = _pairs(row["context"], ("sentences", "content"))
        titles = [title.text() for title, _ in passages]
        supporting = {title.text() for title, _ in _pairs(row["supporting_facts"], ("sent_id",))}
        identity = row.get("id").value or row.get("_id").value
        if not identity:
            raise row.fail("an object with 'id' or '_id'")
        yield QAItem(
            item_id=f"{name}-{identity}",
            family=_FAMILY,
            chunks=tuple(_titled(title.text(), "".join(_spaced(sentences.texts()))) for title, sentences in passages),
            question=row["question"].filled_text(),
            answers=distinct([row["answer"].text()]),
            evidence=tuple(index for index, title in enumerate(titles) if title in supporting),
        )


def _pairs(record: Record, second: tuple[str, ...]) -> list[tuple[Record, Record]]:
    if isinstance(record.value, str):
        try:
            record = dataclasses.replace(record, value=json.loads(record.value))
        except json.JSONDecodeError:
            raise record.fail("a list, an object, or either as JSON") from None
    if isinstance(record.value, dict):
        columns = [record[name] for name in second if name in record.value]
        if not columns:
            raise record.fail(f"an object with {' or '.join(map(repr, second))}")
        return list(zip(record["title"].list(), columns[0].list(), strict=True))
    pairs = [entry.list() for entry in record.list()]
    for entry, pair in zip(record.list(), pairs, strict=True):
        if len(pair) != 2:
            raise entry.fail("a pair")
    return [(pair[0], pair[1]) for pair in pairs]


def _spaced(sentences: Iterable[str]) -> Iterator[str]:
    for index, sentence in enumerate(sentences):
        yield sentence if index == 0 or sentence.startswith(" ") else " " + sentence


def _file_items(path: Path, name: str) -> Iterator[QAItem]:
    if path.suffix == ".json":
        return _hotpot(read_json(path).list(), name)
    if path.suffix == ".jsonl":
        return longbench.items(read_jsonl(path), name, longbench.passages, family=_FAMILY)
    return _worked_examples(path, name)


_EXAMPLE = re.compile(r"(?P<passages>.*?)^Q: (?P<question>.*?)^A: (?P<solution>.*)", re.DOTALL | re.MULTILINE)
_METADATA = re.compile(r"^# METADATA: (?P<data>.*)\n", re.MULTILINE)
_TITLE = re.compile(r"^Wikipedia Title: (.*)\n", re.MULTILINE)
_LEAD_IN = "So the answer is:"


def _worked_examples(path: Path, name: str) -> Iterator[QAItem]:
    """Examples separated by "# METADATA: {"qid": ...}" lines: titled passages, "Q: ...", "A: ... So the answer is: X."

    The passages are two or more gold ones among distractors in random order; which are gold is not marked.
    """
    text = read_text(path)
    starts = list(_METADATA.finditer(text))
    if not starts:
        raise DataUnavailable(f"{path}: expected lines '# METADATA: {{...}}', found none. {REMEDY}")
    ends = [*(start.start() for start in starts[1:]), len(text)]
    for start, end in zip(starts, ends, strict=True):
        line = text.count("\n", 0, start.start()) + 1
        record = Record(text[start.end() : end], str(path), f"line {line}")
        example = _EXAMPLE.fullmatch(record.value)
        if example is None or _LEAD_IN not in example["solution"]:
            raise record.fail(f"passages, 'Q: ...' and 'A: ... {_LEAD_IN} ...'")
        try:
            identity = json.loads(start["data"])["qid"]
        except (ValueError, KeyError, TypeError):
            raise dataclasses.replace(record, value=start["data"]).fail('{"qid": ...}') from None
        before, *titled = _TITLE.split(example["passages"])
        if before.strip() or not titled:
            raise record.fail("passages that start with 'Wikipedia Title: '")
        answer = example["solution"].rpartition(_LEAD_IN)[2].strip().removesuffix(".")
        yield QAItem(
            item_id=f"{name}-{identity}",
            family=_FAMILY,
            chunks=tuple(_titled(titled[i], titled[i + 1]) for i in range(0, len(titled), 2)),
            question=example["question"].strip(),
            answers=distinct([answer]),
        )
