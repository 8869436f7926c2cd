"""Questions about companies' figures: quarterly filings (FinSec), and tables with the text around them (TAT-QA)."""

import dataclasses
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

from common.data.items import QAItem
from common.data.records import REMEDY, Record, read_csv, read_json, read_text
from common.data.sources import DATASETS, TextDataset, distinct
from common.errors import ConfigError, DataUnavailable

_FAMILIES = {
    "Single-Doc Single-Chunk RAG": "single_chunk",
    "Single-Doc Multi-Chunk RAG": "multi_chunk",
    "Multi-Doc RAG": "multi_document",
}
_COLUMNS = ("Question", "Source Docs", "Question Type", "Source Chunk Type", "Answer")
# The gold answers cite their filings, on a line "SOURCE(S): 2022 Q3 AAPL.pdf, ..." and in brackets "(SOURCE: ...pdf)". Citations
# are gold evidence, not words that a model has to produce.
_CITATION_LINE = re.compile(r"^\s*SOURCE\(S\):.*$", re.MULTILINE)
_CITATION_INSIDE = re.compile(r"\s*\([^()]*\.pdf[^()]*\)")
_CITED_FILE = re.compile(r"([^\s\",:(][^\",:(\n]*)\.pdf")
# UTF-8 punctuation that was once read as Windows-1252 ("Companyâ€™s").
_MOJIBAKE = re.compile(r"â€[^\s\w]")


@DATASETS.add("finsec", label="FinSec")
@dataclasses.dataclass(frozen=True)
class FinSec(TextDataset):
    """KG-RAG SEC-10-Q: questions over quarterly filings, long free-text answers; one chunk per filing.

    A filing has tens of thousands of tokens; cut it with `common.data.chunking.rechunk`. Gold answers are long (median over 120
    words), so F1 depends on `max_answer_tokens`.
    """

    documents: str = "relevant"  # chunks: the filings that the question is about, or "all" filings of the folder
    folder: str = "kg_rag_finsec"  # holds qna_data.csv and one text file per filing

    licence: ClassVar[str] = "MIT (questions); SEC filings"
    origin: ClassVar[str] = "https://github.com/docugami/KG-RAG-datasets (sec-10-q/data/v1; filings as text)"

    def __post_init__(self) -> None:
        if self.documents not in ("relevant", "all"):
            raise ConfigError(f"data.options.documents={self.documents!r} is not one of relevant, all.")

    def paths(self) -> tuple[str, ...]:
        return (f"{self.folder}/qna_data.csv",)

    def inputs(self, folder: Path) -> tuple[str, ...]:
        return (*self.paths(), *(f"{self.folder}/{path.name}" for path in sorted((folder / self.folder).glob("*.txt"))))

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        place = folder / self.folder
        names = sorted(path.stem for path in place.glob("*.txt"))
        if not names:
            raise DataUnavailable(
                f"{place}: expected filings as text, '2022 Q3 AAPL.txt' and so on, found none. {REMEDY}"
            )
        filings = {name: f"{name}\n{read_text(place / f'{name}.txt').strip()}" for name in names}
        for number, row in enumerate(read_csv(place / "qna_data.csv", _COLUMNS)):
            kind = row["Question Type"].choice(tuple(_FAMILIES))
            matching = [name for name in names if fnmatchcase(name, row["Source Docs"].text())]
            if not matching:
                raise row["Source Docs"].fail(f"a pattern that matches one of the {len(names)} filings in {place}")
            answer = row["Answer"].filled_text()
            cited = {name.strip() for name in _CITED_FILE.findall(answer)} & set(matching)
            needed = matching if len(matching) == 1 else sorted(cited)
            shown = matching if self.documents == "relevant" else names
            yield QAItem(
                item_id=f"finsec-{number}",
                family=_FAMILIES[kind],
                chunks=tuple(filings[name] for name in shown),
                question=_repaired(row["Question"].filled_text()),
                answers=distinct([_repaired(_CITATION_INSIDE.sub("", _CITATION_LINE.sub("", answer)))]),
                evidence=tuple(index for index, name in enumerate(shown) if name in needed),
                max_answer_tokens=256,
            )


@DATASETS.add("tatqa", label="TAT-QA")
@dataclasses.dataclass(frozen=True)
class TatQa(TextDataset):
    """TAT-QA: spans, counts and arithmetic over a table and its paragraphs; chunk 0 is the table, one row per line.

    The gold answer includes its scale ("-12.6 million", "-22.22%"); several spans are joined by commas.
    """

    file: str = "tatqa/tatqa_dev.json"

    licence: ClassVar[str] = "CC-BY-4.0"
    origin: ClassVar[str] = "https://github.com/NExTplusplus/TAT-QA (dataset_raw/tatqa_dataset_dev.json)"

    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        for context in read_json(folder / self.file).list():
            rows = [" | ".join(row.texts()) for row in context["table"]["table"].list()]
            paragraphs = context["paragraphs"].list()
            chunks = ("\n".join(rows), *(paragraph["text"].text() for paragraph in paragraphs))
            places = {paragraph["order"].integer(): index for index, paragraph in enumerate(paragraphs, start=1)}
            for entry in context["questions"].list():
                evidence = {0} if "table" in entry["answer_from"].text() else set()
                for order in entry["rel_paragraphs"].list():
                    if order.integer() not in places:
                        raise order.fail(f"the order of a paragraph ({', '.join(map(str, places))})")
                    evidence.add(places[order.integer()])
                yield QAItem(
                    item_id=f"tatqa-{entry['uid'].text()}",
                    family=entry["answer_type"].choice(("span", "multi-span", "arithmetic", "count")).replace("-", "_"),
                    chunks=chunks,
                    question=entry["question"].filled_text(),
                    answers=(_scaled(entry["answer"], entry["scale"].text()),),
                    evidence=tuple(sorted(evidence)),
                    metric="numeric_f1",
                    max_answer_tokens=64,
                )


def _scaled(answer: Record, scale: str) -> str:
    """The gold answer as text, its scale with it."""
    if isinstance(answer.value, list) and any(span.strip() for span in answer.texts()):
        text = ", ".join(distinct(answer.texts()))
    elif (
        isinstance(answer.value, (int, float, str)) and not isinstance(answer.value, bool) and str(answer.value).strip()
    ):
        text = str(answer.value).strip()
    else:
        raise answer.fail("a number, a string or a list of strings, not blank")
    if scale == "percent":
        return text if text.endswith("%") else f"{text}%"
    return f"{text} {scale}" if scale and not text.endswith(scale) else text


def _repaired(text: str) -> str:
    def repair(match: re.Match[str]) -> str:
        try:
            return match[0].encode("cp1252").decode("utf-8")
        except UnicodeError:
            return match[0]

    return _MOJIBAKE.sub(repair, text).strip()
