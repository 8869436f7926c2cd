"""Contexts into chunks of a given number of tokens.

Systems that store one KV cache per chunk need chunks that were tokenised alone: joining texts and tokenising again lets the
tokenizer merge across the seam and moves every id behind it. So each `Chunk` carries the ids of its own text, and those ids
are what is to be concatenated.

    text --sentences--> --words--> --characters-->  units that each fit alone
                                                    |  packed greedily, counted by encoding the chunk itself
                                                    v
                                                 Chunk(text, ids, start, end)

`encode` is everywhere a function from text to token ids that adds no special tokens.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Literal

from common.data.items import QAItem
from common.errors import ConfigError

Encode = Callable[[str], Sequence[int]]
Boundary = Literal["word", "sentence"]

# White space leads the unit that follows it, as in byte-level BPE, where " word" is one token and "word " is two.
_WORD = re.compile(r"\s*\S+|\s+")
# A sentence ends after . ! or ? (with closing quotes or brackets) unless a small letter follows, or at a line's end. Most
# abbreviations end one too; that costs nothing, since the boundary is only preferred.
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s+[^\sa-z])|(?<=\S)(?=[ \t\r]*\n)")


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A piece of a text.

    Attributes:
        text: `source[start:end]`.
        ids: the token ids of `text`, encoded alone.
        start, end: character offsets in the source text.
    """

    text: str
    ids: tuple[int, ...]
    start: int
    end: int


def chunk_ids(ids: Sequence[int], chunk_tokens: int, overlap_tokens: int = 0) -> list[tuple[int, ...]]:
    """Cut a token sequence into windows.

    Args:
        ids: the tokens of a text.
        chunk_tokens: length of every window but the last, >= 1.
        overlap_tokens: how many tokens a window shares with the one before it, 0 <= overlap_tokens < chunk_tokens.

    Returns:
        The windows in order. Dropping the first `overlap_tokens` of all but the first and concatenating gives `ids` back.
        No window lies wholly inside the one before it. Empty for no tokens.

    Raises:
        ConfigError: a length is out of range.
    """
    _check_lengths(chunk_tokens, overlap_tokens)
    step = chunk_tokens - overlap_tokens
    starts = range(0, max(len(ids) - overlap_tokens, min(len(ids), 1)), step)
    return [tuple(ids[start : start + chunk_tokens]) for start in starts]


def chunk_text(
    text: str, encode: Encode, chunk_tokens: int, overlap_tokens: int = 0, boundary: Boundary = "word"
) -> list[Chunk]:
    """Cut a text into chunks of at most `chunk_tokens` tokens, each counted and encoded alone.

    Args:
        text: the text; every character of it comes back.
        encode: text to token ids, without special tokens.
        chunk_tokens: the largest number of tokens of a chunk, >= 1.
        overlap_tokens: a chunk repeats as many of the last units of the one before it as take at most this many tokens,
            0 <= overlap_tokens < chunk_tokens.
        boundary: where to cut: between words, or between sentences. A sentence that is too long is cut between words,
            a word that is too long between characters.

    Returns:
        Chunks in order. Without overlap their texts concatenate to `text`.

    Raises:
        ConfigError: a length or the boundary is not allowed, or one character alone takes more than `chunk_tokens`.
    """
    _check_lengths(chunk_tokens, overlap_tokens)
    if boundary not in ("word", "sentence"):
        raise ConfigError(f"boundary={boundary!r} is not one of word, sentence.")
    counts: dict[str, int] = {}

    def count(unit: str) -> int:
        if unit not in counts:
            counts[unit] = len(encode(unit))
        return counts[unit]

    units = _fitting_units(text, count, chunk_tokens, boundary)
    edges = [0]
    for unit in units:
        edges.append(edges[-1] + len(unit))

    chunks: list[Chunk] = []
    first = fresh = 0  # the chunk's first unit, and the first one not in an earlier chunk
    while fresh < len(units):
        last = fresh + 1
        ids = tuple(encode(text[edges[first] : edges[last]]))
        while len(ids) > chunk_tokens and first < fresh:  # the overlap gives way: every chunk brings something new
            first += 1
            ids = tuple(encode(text[edges[first] : edges[last]]))
        # Jump to where the units' own counts say that the chunk is full, then correct by encoding the chunk itself: the
        # tokenizer may merge across units or split differently, and only the real count is binding.
        guess, total = last, len(ids)
        while guess < len(units) and total + count(units[guess]) <= chunk_tokens:
            total += count(units[guess])
            guess += 1
        while guess > last:
            longer = tuple(encode(text[edges[first] : edges[guess]]))
            if len(longer) <= chunk_tokens:
                last, ids = guess, longer
                break
            guess -= 1
        while last < len(units):
            longer = tuple(encode(text[edges[first] : edges[last + 1]]))
            if len(longer) > chunk_tokens:
                break
            last, ids = last + 1, longer
        chunks.append(Chunk(text[edges[first] : edges[last]], ids, edges[first], edges[last]))
        start = last
        while start - 1 > first and len(encode(text[edges[start - 1] : edges[last]])) <= overlap_tokens:
            start -= 1
        first, fresh = start, last
    return chunks


def rechunk(
    item: QAItem,
    encode: Encode,
    chunk_tokens: int,
    overlap_tokens: int = 0,
    boundary: Boundary = "word",
    across_passages: bool = False,
    separator: str = "\n\n",
) -> QAItem:
    """The same item with its context in chunks of at most `chunk_tokens` tokens.

    Args:
        item: any item; it is not changed.
        encode, chunk_tokens, overlap_tokens, boundary: as in `chunk_text`.
        across_passages: join the passages by `separator` and cut the whole (for turns of a meeting, lines of a list),
            instead of cutting each passage by itself.
        separator: what goes between joined passages; part of the chunks.

    Returns:
        The item with new `chunks` and with `evidence` naming every new chunk that holds a part of an evidence passage.
        White space alone is no part. Chunks without any text are left out.
    """
    wanted = set(item.evidence)
    pieces: list[tuple[str, bool]] = []
    if across_passages:
        spans: list[tuple[int, int]] = []
        end = 0
        for passage in item.chunks:
            spans.append((end, end + len(passage)))
            end += len(passage) + len(separator)
        text = separator.join(item.chunks)
        evidence_spans = [spans[index] for index in sorted(wanted)]
        for chunk in chunk_text(text, encode, chunk_tokens, overlap_tokens, boundary):
            parts = [text[max(start, chunk.start) : min(end, chunk.end)] for start, end in evidence_spans]
            pieces.append((chunk.text, any(part.strip() for part in parts)))
    else:
        for index, passage in enumerate(item.chunks):
            cut = chunk_text(passage, encode, chunk_tokens, overlap_tokens, boundary)
            pieces.extend((chunk.text, index in wanted) for chunk in cut)
    pieces = [(text, holds) for text, holds in pieces if text.strip()]
    return dataclasses.replace(
        item,
        chunks=tuple(text for text, _ in pieces),
        evidence=tuple(index for index, (_, holds) in enumerate(pieces) if holds),
    )


def limit_context(
    item: QAItem, encode: Encode, max_context_tokens: int, drop: Literal["middle", "end"] = "middle"
) -> QAItem:
    """The same item with whole chunks left out until the context takes at most `max_context_tokens` tokens.

    Args:
        item: any item; it is not changed.
        encode: text to token ids, without special tokens.
        max_context_tokens: the largest sum of the chunks' own token counts.
        drop: "middle" keeps the two ends, as few-shot prompts are cut; "end" keeps the beginning, the same for all
            questions about one context.

    Returns:
        The item with fewer chunks. Evidence that was left out is missing from `evidence` too: an item whose evidence has
        become shorter can no longer be answered from its context.

    Raises:
        ConfigError: the last chunk left is itself too long (cut it with `rechunk` first), or an argument is not allowed.
    """
    if drop not in ("middle", "end"):
        raise ConfigError(f"drop={drop!r} is not one of middle, end.")
    kept = list(range(len(item.chunks)))
    sizes = [len(encode(chunk)) for chunk in item.chunks]
    while sum(sizes[index] for index in kept) > max_context_tokens:
        if len(kept) == 1:
            raise ConfigError(
                f"item {item.item_id!r}: a chunk of {sizes[kept[0]]} tokens does not fit max_context_tokens="
                f"{max_context_tokens}; cut the context into smaller chunks first."
            )
        kept.pop(len(kept) // 2 if drop == "middle" else -1)
    places = {old: new for new, old in enumerate(kept)}
    return dataclasses.replace(
        item,
        chunks=tuple(item.chunks[index] for index in kept),
        evidence=tuple(places[index] for index in item.evidence if index in places),
    )


def truncate_middle(ids: Sequence[int], max_tokens: int) -> tuple[int, ...]:
    """The first and last tokens of a sequence that is too long, `max_tokens` in all; the odd one goes to the end.

    Raises:
        ConfigError: `max_tokens` is negative.
    """
    if max_tokens < 0:
        raise ConfigError(f"max_tokens={max_tokens} must be at least 0.")
    if len(ids) <= max_tokens:
        return tuple(ids)
    head = max_tokens // 2
    return (*ids[:head], *ids[len(ids) - (max_tokens - head) :])


def _fitting_units(text: str, count: Callable[[str], int], chunk_tokens: int, boundary: Boundary) -> list[str]:
    """The text cut at the boundary, and further where a unit alone would be longer than a chunk."""
    units: list[str] = []
    for unit in _sentences(text) if boundary == "sentence" else _WORD.findall(text):
        for word in [unit] if count(unit) <= chunk_tokens else _WORD.findall(unit):
            if count(word) <= chunk_tokens:
                units.append(word)
                continue
            for character in word:
                if count(character) > chunk_tokens:
                    raise ConfigError(
                        f"chunk_tokens={chunk_tokens} is too small: the character {character!r} alone takes "
                        f"{count(character)} tokens."
                    )
                units.append(character)
    return units


def _sentences(text: str) -> list[str]:
    ends = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(ends) if end > start]


def _check_lengths(chunk_tokens: int, overlap_tokens: int) -> None:
    if chunk_tokens < 1:
        raise ConfigError(f"chunk_tokens={chunk_tokens} must be at least 1.")
    if not 0 <= overlap_tokens < chunk_tokens:
        raise ConfigError(
            f"overlap_tokens={overlap_tokens} must be at least 0 and less than chunk_tokens={chunk_tokens}."
        )
