"""Exact recall from a long context: first topic of a conversation, line of a register (LongChat), value of a key."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from common.data.items import QAItem
from common.data.records import Record, read_jsonl
from common.data.sources import DATASETS, TextDataset

_LONGCHAT = "https://github.com/DachengLi1/LongChat (longeval/evaluation)"


@DATASETS.add("longchat_topics", label="LongChat")
@dataclasses.dataclass(frozen=True)
class LongChatTopics(TextDataset):
    """LongChat topic retrieval: name the first of several topics; chunk 0 is the instruction, then one chunk per topic.

    The chunks joined, a space and the question give the original prompt.
    """

    num_topics: int = 10

    licence: ClassVar[str] = "Apache-2.0"
    origin: ClassVar[str] = f"{_LONGCHAT}/topics/testcases"

    def paths(self) -> tuple[str, ...]:
        return (f"longchat/{self.num_topics}_topics.jsonl",)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        for row in read_jsonl(folder / self.paths()[0]):
            topics = row["topics"].texts()
            context, question = _cut_at(row["prompt"], "Now the record ends.")
            starts = [
                0,
                *(match.start() for match in re.finditer("USER: I would like to discuss the topic of ", context)),
            ]
            if len(starts) != len(topics) + 1:
                raise row["prompt"].fail(f"a conversation on {len(topics)} topics (it starts {len(starts) - 1})")
            yield QAItem(
                item_id=f"longchat_topics-{len(topics)}-{row['test_id'].integer()}",
                family="topic_retrieval",
                chunks=tuple(
                    context[start:end] for start, end in zip(starts, [*starts[1:], len(context)], strict=True)
                ),
                question=question,
                answers=(topics[0],),
                evidence=(1,),
                metric="contains",
                max_answer_tokens=32,
            )


@DATASETS.add("longchat_lines", label="LongChat lines")
@dataclasses.dataclass(frozen=True)
class LongChatLines(TextDataset):
    """LongChat line retrieval: the number in a named line of a register; chunk 0 is the instruction, then one per line.

    The chunks joined, a space and the question give the original prompt. A line is short; for chunks of a given length use
    `common.data.chunking.rechunk(..., across_passages=True, separator="")`.
    """

    num_lines: int = 200

    licence: ClassVar[str] = "Apache-2.0"
    origin: ClassVar[str] = f"{_LONGCHAT}/lines/testcases"

    def paths(self) -> tuple[str, ...]:
        return (f"longchat/{self.num_lines}_lines.jsonl",)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        for number, row in enumerate(read_jsonl(folder / self.paths()[0])):
            context, question = _cut_at(row["prompt"], "Now the record is over.")
            starts = [0, *(match.start() for match in re.finditer(r"^line ", context, re.MULTILINE))]
            chunks = tuple(context[start:end] for start, end in zip(starts, [*starts[1:], len(context)], strict=True))
            wanted = row["correct_line"].filled_text()
            places = [index for index, chunk in enumerate(chunks) if chunk.strip().partition("\n")[0] == wanted]
            if len(places) != 1:
                raise row["correct_line"].fail("a line that occurs once in the prompt")
            yield QAItem(
                item_id=f"longchat_lines-{self.num_lines}-{number}",
                family="line_retrieval",
                chunks=chunks,
                question=question,
                answers=(str(row["expected_number"].integer()),),
                evidence=tuple(places),
                metric="contains",
                max_answer_tokens=16,
            )


@DATASETS.add("kv_retrieval", label="Key-value")
@dataclasses.dataclass(frozen=True)
class KeyValueRetrieval(TextDataset):
    """Key-value retrieval: the value of a random key in a JSON object; one chunk per pair, joined they are the object."""

    file: str = "kv_retrieval/kv_retrieval_75_keys_40.jsonl"

    licence: ClassVar[str] = "MIT"
    origin: ClassVar[str] = "https://github.com/nelson-liu/lost-in-the-middle (kv_retrieval_data, unpacked)"

    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        for number, row in enumerate(read_jsonl(folder / self.file)):
            pairs = [pair.texts() for pair in row["ordered_kv_records"].list()]
            key, value = row["key"].filled_text(), row["value"].filled_text()
            places = [index for index, pair in enumerate(pairs) if pair == (key, value)]
            if len(places) != 1:
                raise row["ordered_kv_records"].fail(f"pairs of which one is {key!r}: {value!r}")
            last = len(pairs) - 1
            yield QAItem(
                item_id=f"kv_retrieval-{number}",
                family="line_retrieval",
                chunks=tuple(
                    f"{'{' if index == 0 else ' '}{json.dumps(pair[0])}: {json.dumps(pair[1])}{'}' if index == last else ','}\n"
                    for index, pair in enumerate(pairs)
                ),
                question=f'Extract the value of the key "{key}" from the JSON object.',
                answers=(value,),
                evidence=tuple(places),
                metric="contains",
                max_answer_tokens=64,
            )


def _cut_at(prompt: Record, marker: str) -> tuple[str, str]:
    """A prompt as the context up to and with the marker, and the question behind it."""
    context, found, question = prompt.text().rpartition(marker)
    if not found or not question.strip():
        raise prompt.fail(f"a prompt with {marker!r} and a question behind it")
    return context + marker, question.strip()
