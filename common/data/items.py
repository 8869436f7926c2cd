"""The one item type of every question-answering and summarisation source.

A source (the bundled generator, a local file, a hub dataset) turns whatever it reads into `QAItem`s; workloads tokenise
them, methods answer them, `common.metrics.text` scores the answers.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class QueryProfile:
    """What a query needs, by construction of the item: RAGServe's gold profile (RAGServe, query profile).

    Attributes:
        is_complex: the answer needs reasoning over the evidence rather than quoting it ("high" complexity).
        needs_joint_reasoning: several pieces of evidence must be read together.
        num_pieces: number of pieces of information that the answer needs, >= 1.
        summary_tokens: smallest and largest sensible length, in words, of a per-chunk summary for this query.
    """

    is_complex: bool
    needs_joint_reasoning: bool
    num_pieces: int
    summary_tokens: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class QAItem:
    """A context made of chunks, a question about it, and what a right answer is.

    Attributes:
        item_id: unique within its source, stable between runs.
        family: task family, e.g. "single_fact", "multi_hop", "query_summary".
        chunks: the context's passages in reading order, plain text; may be empty for a question without context.
        question: the question or instruction, plain text.
        answers: gold answers; a prediction is scored against each and keeps the best. Empty where there is no gold.
        evidence: indices into `chunks` of those that the answer needs, sorted; empty where unknown.
        metric: name of the text metric by which this item is scored: "f1", "exact_match" or "rouge_l".
        max_answer_tokens: how many tokens an answer may take.
        profile: the gold query profile, where the source knows it.
    """

    item_id: str
    family: str
    chunks: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    evidence: tuple[int, ...] = ()
    metric: str = "f1"
    max_answer_tokens: int = 32
    profile: QueryProfile | None = None
