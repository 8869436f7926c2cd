"""Documents into passages of at most so many tokens, counted by the tokenizer that will read them."""

import dataclasses
from collections.abc import Sequence

from common.data.chunking import Boundary, Encode, chunk_text
from common.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Passage:
    """A piece of a document.

    Attributes:
        text: without the white space around it.
        document: index of the document.
        start, end: character offsets in the document, white space included; they tile it where there is no overlap.
    """

    text: str
    document: int
    start: int
    end: int


def passages_of(
    documents: Sequence[str],
    encode: Encode,
    chunk_tokens: int,
    overlap_tokens: int = 0,
    boundary: Boundary = "sentence",
) -> list[Passage]:
    """Cut documents into passages; blank pieces are left out.

    Args:
        documents: plain text.
        encode: text to token ids, without special tokens.
        chunk_tokens: the largest number of tokens of a passage, >= 1.
        overlap_tokens: how much of a passage the next one repeats at most, 0 <= overlap_tokens < chunk_tokens.
        boundary: cut between "word"s or, where they fit, between "sentence"s.

    Returns:
        Passages of all documents in order. `encode` of each untrimmed piece gives at most `chunk_tokens` ids.

    Raises:
        ConfigError: a length is not allowed, or there is no document.
    """
    if not documents:
        raise ConfigError("there are no documents to cut into passages.")
    return [
        Passage(chunk.text.strip(), number, chunk.start, chunk.end)
        for number, document in enumerate(documents)
        for chunk in chunk_text(document, encode, chunk_tokens, overlap_tokens, boundary)
        if chunk.text.strip()
    ]
