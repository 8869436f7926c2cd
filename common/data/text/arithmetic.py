"""Grade-school word problems: GSM8K."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from common.data.hub import HubTable
from common.data.items import QAItem
from common.data.records import Record, read_jsonl
from common.data.sources import DATASETS, TextDataset
from common.errors import ConfigError

_MARKER = "####"
_CALCULATION = re.compile(r"<<[^>]*>>")  # the calculator's annotations inside worked answers


@DATASETS.add("gsm8k", label="GSM8K")
@dataclasses.dataclass(frozen=True)
class Gsm8k(TextDataset):
    """GSM8K: word problems of a few steps. Without context, or with worked problems as one that all questions share."""

    num_shots: int = 0  # the first so many problems become the context, one chunk each, and are not asked
    file: str = "gsm8k/gsm8k_test_000_299.jsonl"

    licence: ClassVar[str] = "MIT"
    origin: ClassVar[str] = "https://github.com/openai/grade-school-math (grade_school_math/data/test.jsonl)"
    hub: ClassVar[tuple[HubTable, ...]] = (
        HubTable("openai/gsm8k", "gsm8k", config="main"),
        HubTable("gsm8k", "gsm8k", config="main"),
    )

    def __post_init__(self) -> None:
        if self.num_shots < 0:
            raise ConfigError(f"data.options.num_shots={self.num_shots} must be at least 0.")

    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        return self.from_hub(read_jsonl(folder / self.file), "gsm8k")

    def from_hub(self, rows: Iterable[Record], layout: str) -> Iterator[QAItem]:
        shots: list[str] = []
        for number, row in enumerate(rows):
            solution, found, answer = row["answer"].text().rpartition(_MARKER)
            if not found or not answer.strip():
                raise row["answer"].fail(f"a worked answer with the result behind {_MARKER!r}")
            question = row["question"].filled_text()
            if number < self.num_shots:
                worked = _CALCULATION.sub("", solution).strip()
                shots.append(f"Question: {question}\nAnswer: {worked}\n{_MARKER} {answer.strip()}")
                continue
            yield QAItem(
                item_id=f"gsm8k-{number}",
                family="arithmetic",
                chunks=tuple(shots),
                question=question,
                answers=(answer.strip(),),
                metric="final_answer_f1",
                max_answer_tokens=256,
            )
