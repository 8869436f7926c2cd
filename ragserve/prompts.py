"""What the model is asked: the three kinds of call of a RAG answer, in the repository's one prompt layout.

    answer     <bos> chunk <sep> chunk <sep> ... <question> question <answer>               stuff, map_rerank, reducer
    summarise  <bos> chunk <sep> <question> note what helps with: question <answer>         mapper

The bundled models know these markers and this wording (`ragserve.training`). Any other model gets instructions in
plain words; for
map_rerank of the LangChain flavour these ask for an answer and a line `Score: <int>`.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

from common.metrics.text import normalise
from common.models import prompt_format

NONE = "NONE"
# DEVIATION ragserve-5: the bundled models cannot read instructions or write scores: a cue word, and confidence by likelihood.
MAPPER_CUE = "note what helps with :"
"""What the bundled models are told before the question when they summarise; words of their vocabulary."""

_NOTHING = frozenset(
    ("unknown", "none", "not in this chunk", "not in chunk", "not found", "no answer", "i dont know", "dont know")
)
# The last one counts: models repeat the instruction, or score several drafts.
_SCORE = re.compile(r"score\s*[:=]\s*(-?\d+)", re.IGNORECASE)


def is_nothing(text: str) -> bool:
    """Whether an answer or a summary says that the chunk holds nothing: empty, "unknown", "NONE", "not in this chunk"."""
    words = normalise(text)
    return not words or words in _NOTHING


def parse_scored(text: str) -> tuple[str, int]:
    """An answer and its score from LangChain's map_rerank format (RAGServe, synthesis; sheet 2.7).

    Returns:
        (answer, score): the text before the *last* `Score: <int>`, and that integer clipped to 0..100. Without a
        score the whole
        text and 0: a model that forgets the score loses the vote, it does not stop the query.
    """
    found = list(_SCORE.finditer(text))
    if not found:
        return text.strip(), 0
    last = found[-1]
    digits = last[1]
    score = 100 if len(digits) > 4 and not digits.startswith("-") else min(100, max(0, int(digits[:6])))
    return text[: last.start()].strip(), score


@dataclasses.dataclass(frozen=True, eq=False)
class Prompts:
    """Builds prompts for one tokenizer; pieces are tokenised once and remembered.

    Attributes:
        tokenizer: a transformers tokenizer with an end token.
    """

    tokenizer: Any
    _chunks: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    _questions: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def has_markers(self) -> bool:
        """Whether this is one of the bundled models' tokenizers."""
        return prompt_format.has_markers(self.tokenizer)

    @functools.cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The end token."""
        return (prompt_format.eos_id(self.tokenizer),)

    @functools.cached_property
    def _opening(self) -> tuple[int, ...]:
        opening = prompt_format.bos_id(self.tokenizer)
        return () if opening is None else (opening,)

    def chunk_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a chunk with its separator; the same wherever it stands."""
        if text not in self._chunks:
            self._chunks[text] = tuple(prompt_format.encode_chunk(self.tokenizer, text))
        return self._chunks[text]

    def _question_ids(self, text: str) -> tuple[int, ...]:
        if text not in self._questions:
            self._questions[text] = tuple(prompt_format.encode_question(self.tokenizer, text))
        return self._questions[text]

    def _prompt(self, chunks: Sequence[str], question: str) -> tuple[int, ...]:
        ids = list(self._opening)
        for chunk in chunks:
            ids += self.chunk_ids(chunk)
        return (*ids, *self._question_ids(question))

    def answer(self, chunks: Sequence[str], question: str) -> tuple[int, ...]:
        """Ids of the prompt that asks for an answer from some chunks or summaries, in this order."""
        return self._prompt(chunks, self.answer_wording(question))

    def summarise(self, chunk: str, question: str, max_words: int) -> tuple[int, ...]:
        """Ids of the mapper's prompt: what in this chunk helps with the question, in at most so many words."""
        return self._prompt([chunk], self.mapper_wording(question, max_words))

    def scored(self, chunk: str, question: str) -> tuple[int, ...]:
        """Ids of the prompt that asks for an answer and a score of 0 to 100 (map_rerank, LangChain flavour)."""
        return self._prompt([chunk], self.scored_wording(question))

    def answer_wording(self, question: str) -> str:
        """The question as the model is asked it."""
        if self.has_markers:
            return question
        return f"Answer from the text above in a few words; say unknown if it does not tell. {question}"

    def mapper_wording(self, question: str, max_words: int) -> str:
        """The mapper's instruction. The bundled models do not read the number of words; the cap on tokens holds for all."""
        if self.has_markers:
            return f"{MAPPER_CUE} {question}"
        return (
            f"Extract from the text above what helps to answer the question below, in at most {max_words} words, or "
            f"reply {NONE} "
            f"if nothing in it helps. {question}"
        )

    def scored_wording(self, question: str) -> str:
        """The instruction of LangChain's map_rerank."""
        return (
            "Answer from the text above, then give a score from 0 to 100 of how fully it answers the question, in exactly this "
            f"form: the answer on one line, then a line 'Score: <int>'. Say unknown if the text does not tell. {question}"
        )

    def overhead_tokens(self, question: str) -> int:
        """Tokens of an answer prompt beside its chunks: q of the memory formulas."""
        return len(self._prompt([], self.answer_wording(question)))

    def mapper_overhead_tokens(self, question: str, max_words: int) -> int:
        """The same for a mapper's prompt."""
        return len(self._prompt([], self.mapper_wording(question, max_words)))

    def text(self, ids: Sequence[int]) -> str:
        """Generated ids as text, up to the end token."""
        return prompt_format.decode_answer(self.tokenizer, ids)
