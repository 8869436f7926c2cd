"""Running text without questions, for perplexity and cache statistics: WikiText and books."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from common.data.hub import HubTable
from common.data.items import QAItem
from common.data.records import REMEDY, Record, read_text
from common.data.sources import DATASETS, TextDataset
from common.data.text import longbench
from common.errors import ConfigError, DataUnavailable

_FAMILY = "language_model"
_HEADING = re.compile(r" = [^=].* = ")  # of an article; sections have " = = "
_GUTENBERG = re.compile(r"^\*\*\* ?(START|END) OF TH.*\*\*\*\s*$", re.MULTILINE)


@DATASETS.add("wikitext", label="WikiText")
@dataclasses.dataclass(frozen=True)
class WikiText(TextDataset):
    """WikiText: encyclopedia articles; an item per article, a chunk per paragraph, no question and no answer."""

    file: str = "lm/wikitext2_valid.txt"

    licence: ClassVar[str] = "CC-BY-SA-3.0"
    origin: ClassVar[str] = "https://github.com/pytorch/examples (word_language_model/data/wikitext-2/valid.txt)"
    hub: ClassVar[tuple[HubTable, ...]] = (
        HubTable("Salesforce/wikitext", "wikitext", config="wikitext-103-raw-v1"),
        HubTable("wikitext", "wikitext", config="wikitext-103-raw-v1"),
    )

    def paths(self) -> tuple[str, ...]:
        return (self.file,)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        return self._articles(read_text(folder / self.file).split("\n"))

    def from_hub(self, rows: Iterable[Record], layout: str) -> Iterator[QAItem]:
        return self._articles(row["text"].text().removesuffix("\n") for row in rows)

    def _articles(self, lines: Iterable[str]) -> Iterator[QAItem]:
        number, article = 0, list[str]()
        before = ""
        for line in lines:
            # A heading stands between blank lines; elsewhere " = 3 = " may be part of the text.
            if _HEADING.fullmatch(line) and not before.strip() and article:
                yield _item(f"wikitext-{number}", article)
                number, article = number + 1, []
            if line.strip():
                article.append(line.strip())
            before = line
        if article:
            yield _item(f"wikitext-{number}", article)


@DATASETS.add("books", label="Books")
@dataclasses.dataclass(frozen=True)
class Books(TextDataset):
    """Novels out of copyright: an item per stretch of whole paragraphs, a chunk per paragraph, no question and no answer."""

    title: str = "moby_dick"  # the file's name without .txt
    words_per_item: int = (
        4000  # a stretch ends with the paragraph that reaches this many words; a shorter rest is left out
    )

    licence: ClassVar[str] = "public domain in the USA; Project Gutenberg licence"
    origin: ClassVar[str] = "https://github.com/GITenberg, or https://www.gutenberg.org"

    def __post_init__(self) -> None:
        if self.words_per_item < 1:
            raise ConfigError(f"data.options.words_per_item={self.words_per_item} must be at least 1.")

    def paths(self) -> tuple[str, ...]:
        return (f"lm/{self.title}.txt",)

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        path = folder / self.paths()[0]
        text = read_text(path)
        marks = list(_GUTENBERG.finditer(text))
        if len(marks) == 2:  # the licence before and after the book is no part of it; a file without marks is all text
            text = text[marks[0].end() : marks[1].start()]
        elif marks:
            raise DataUnavailable(
                f"{path}: expected a START and an END mark of Project Gutenberg, found {len(marks)}. {REMEDY}"
            )
        number, stretch, num_words = 0, list[str](), 0
        for paragraph in longbench.paragraphs(text):
            joined = " ".join(paragraph.split())  # lines are broken at a fixed width
            stretch.append(joined)
            num_words += joined.count(" ") + 1
            if num_words >= self.words_per_item:
                yield _item(f"books-{self.title}-{number}", stretch)
                number, stretch, num_words = number + 1, [], 0


def _item(item_id: str, paragraphs: Iterable[str]) -> QAItem:
    return QAItem(item_id=item_id, family=_FAMILY, chunks=tuple(paragraphs), question="", answers=())
