"""Contexts with a question: stand-ins for the paper's datasets, from the seeded generator or any data setting."""

import dataclasses

from cachegen.api import WORKLOADS
from common.data.questions import GeneratedQuestions


@dataclasses.dataclass(frozen=True)
class _Generated(GeneratedQuestions):
    num_chunks: int = 12


@WORKLOADS.add("topic_recall")
@dataclasses.dataclass(frozen=True)
class TopicRecall(_Generated):
    """Which topic came first (second, ...) in a long talk: the stand-in for LongChat.

    Attributes:
        families, num_chunks, chunk_sentences, reference_rate, distractors, split: see `common.data.synthetic.generate`.
    """

    families: tuple[str, ...] = ("topic_retrieval",)


@WORKLOADS.add("fact_recall")
@dataclasses.dataclass(frozen=True)
class FactRecall(_Generated):
    """A fact stated once in a long context: the stand-in for TriviaQA. Knobs as `topic_recall`."""

    families: tuple[str, ...] = ("single_fact", "line_retrieval")


@WORKLOADS.add("story_questions")
@dataclasses.dataclass(frozen=True)
class StoryQuestions(_Generated):
    """Questions whose answer needs several statements: the stand-in for NarrativeQA. Knobs as `topic_recall`."""

    families: tuple[str, ...] = ("coreference", "comparison", "multi_hop")
