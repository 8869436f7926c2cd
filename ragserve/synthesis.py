"""map_rerank, stuff and map_reduce as generators of calls: no engine, no clock (sheet 2.7).

    steps = synthesise(prompts, query, chunks, config, settings)
    calls = next(steps)                        # stage 1: calls that may run at once
    calls = steps.send(answers)                # stage 2, once all answers of stage 1 are there
    ...                                        # StopIteration.value is the Synthesised answer

    map_rerank   chunk + question --k calls--> answer, confidence --> the most confident that is not "unknown"
    stuff        all chunks + question --1 call--> answer
    map_reduce   chunk + question --k calls--> notes, NONE dropped --(collapse while too long)--> notes + question
    --1 call--> answer

Who drives the generator decides where the calls run: `ragserve.controller` on an engine, `ragserve.answers` in batches offline.
"""

import dataclasses
from collections.abc import Generator, Sequence
from typing import Literal

from common.data.synthetic.templates import UNKNOWN
from common.errors import ConfigError
from common.serving.api import Answer, Call
from ragserve.api import Query, RagConfig, TokenCosts
from ragserve.prompts import NONE, Prompts, is_nothing, parse_scored

RerankFlavour = Literal["engine", "langchain"]
Steps = Generator[list[Call], Sequence[Answer], "Synthesised"]
NO_ANSWER = UNKNOWN
"""What is returned where no chunk holds an answer."""


@dataclasses.dataclass(frozen=True)
class SynthesisSettings:
    """Choices that hold for all queries.

    Attributes:
        rerank: confidence of a map_rerank answer: "engine" (mean log-probability of its tokens; for models that cannot score
            themselves) or "langchain" (the model writes `Score: <int>`).
        best_last: stuff puts the best chunk next to the question instead of first.
        score_tokens: further tokens that a scored answer may take.
        context_tokens: of the model: prompt and answer together.
    """

    context_tokens: int
    rerank: RerankFlavour = "engine"
    best_last: bool = False
    score_tokens: int = 8

    def __post_init__(self) -> None:
        if self.rerank not in ("engine", "langchain"):
            raise ConfigError(f"rerank={self.rerank!r} is not one of engine, langchain.")
        if self.context_tokens < 1 or self.score_tokens < 0:
            raise ConfigError(
                f"context_tokens={self.context_tokens} must be at least 1 and score_tokens={self.score_tokens} at least 0."
            )


@dataclasses.dataclass(frozen=True)
class Synthesised:
    """The answer to a query.

    Attributes:
        text: the answer; `NO_ANSWER` where nothing was found.
        confidence: mean log-probability of the answer's tokens, or its score; -inf for `NO_ANSWER`.
        num_notes: chunks of which a mapper or reranker found something (stuff: all).
        num_calls: calls made.
    """

    text: str
    confidence: float
    num_notes: int
    num_calls: int


def token_costs(
    prompts: Prompts, query: Query, chunk_tokens: int, bytes_per_token: int, settings: SynthesisSettings
) -> TokenCosts:
    """The token counts of a query in the memory formulas; q is the longer of the answer's and the mapper's template."""
    overhead = max(prompts.overhead_tokens(query.text), prompts.mapper_overhead_tokens(query.text, 100))
    a_r = query.max_answer_tokens + (settings.score_tokens if settings.rerank == "langchain" else 0)
    return TokenCosts(overhead, chunk_tokens, query.max_answer_tokens, a_r, bytes_per_token)


def max_chunks(costs: TokenCosts, corpus_chunks: int, context_tokens: int) -> int:
    """Most chunks that one stuff call, or one of the other methods' calls, can use; 0 if not even one fits."""
    return max(0, min(corpus_chunks, (context_tokens - costs.query - costs.answer) // costs.chunk))


def synthesise(
    prompts: Prompts,
    query: Query,
    chunks: Sequence[str],
    config: RagConfig,
    settings: SynthesisSettings,
    tag: str = "",
) -> Steps:
    """Answer a query from retrieved chunks.

    Args:
        prompts: of the model's tokenizer.
        query: its text and answer cap are used.
        chunks: the retrieved chunks, best first; the first `config.num_chunks` are used.
        config: how.
        settings: see there.
        tag: name of the calls' task group; also what their tags begin with.

    Yields:
        Lists of calls that may run together; send back their answers in the same order.

    Raises:
        ConfigError: fewer chunks than the configuration wants, or a prompt that exceeds the model's context (nothing is
            truncated silently).
    """
    if len(chunks) < config.num_chunks:
        raise ConfigError(
            f"query {query.query_id!r}: {config.label} wants more than the {len(chunks)} chunks retrieved."
        )
    used = list(chunks[: config.num_chunks])
    if config.synthesis == "stuff":
        return _stuff(prompts, query, used, settings, tag)
    if config.synthesis == "map_rerank":
        return _map_rerank(prompts, query, used, settings, tag)
    return _map_reduce(prompts, query, used, config.summary_tokens, settings, tag)


def confidence(answer: Answer) -> float:
    """Mean log-probability of the generated tokens, the end token included: longer answers are not punished."""
    return sum(answer.logprobs) / len(answer.logprobs) if answer.logprobs else float("-inf")


def _call(
    prompts: Prompts,
    ids: tuple[int, ...],
    max_tokens: int,
    query: Query,
    settings: SynthesisSettings,
    tag: str,
    depth: int,
    *,
    is_mapper: bool = False,
    prefix_tokens: int = 0,
) -> Call:
    if len(ids) + max_tokens > settings.context_tokens:
        raise ConfigError(
            f"query {query.query_id!r}: a prompt of {len(ids)} tokens and {max_tokens} of answer exceed the model's context of "
            f"{settings.context_tokens}; use fewer or smaller chunks."
        )
    return Call(
        ids,
        max_tokens,
        tag=f"{tag}/{depth}",
        stop_ids=prompts.stop_ids,
        group=tag,
        depth=depth,
        service="throughput" if is_mapper else "latency",
        prefix_tokens=prefix_tokens,
    )


def _stuff(prompts: Prompts, query: Query, chunks: list[str], settings: SynthesisSettings, tag: str) -> Steps:
    shown = chunks[::-1] if settings.best_last else chunks
    call = _call(prompts, prompts.answer(shown, query.text), query.max_answer_tokens, query, settings, tag, 1)
    (answer,) = yield [call]
    text = prompts.text(answer.tokens)
    return Synthesised(text or NO_ANSWER, confidence(answer) if text else float("-inf"), len(chunks), 1)


def _map_rerank(prompts: Prompts, query: Query, chunks: list[str], settings: SynthesisSettings, tag: str) -> Steps:
    is_scored = settings.rerank == "langchain"
    build = prompts.scored if is_scored else (lambda chunk, text: prompts.answer([chunk], text))
    cap = query.max_answer_tokens + (settings.score_tokens if is_scored else 0)
    calls = [_call(prompts, build(chunk, query.text), cap, query, settings, tag, 0, is_mapper=True) for chunk in chunks]
    answers = yield calls
    best, best_confidence, num_notes = NO_ANSWER, float("-inf"), 0
    for answer in answers:
        text = prompts.text(answer.tokens)
        if is_scored:
            text, score = parse_scored(text)
            own = float(score)
        else:
            own = confidence(answer)
        # Without an explicit "not in this chunk" every chunk would vote.
        if is_nothing(text):
            continue
        num_notes += 1
        if own > best_confidence:  # ties go to the chunk that was retrieved first
            best, best_confidence = text, own
    return Synthesised(best, best_confidence, num_notes, len(calls))


def _map_reduce(
    prompts: Prompts, query: Query, chunks: list[str], summary_tokens: int, settings: SynthesisSettings, tag: str
) -> Steps:
    texts, depth, num_calls, num_notes = chunks, 0, 0, 0
    room = settings.context_tokens - prompts.overhead_tokens(query.text) - query.max_answer_tokens
    while True:
        calls = [
            _call(
                prompts,
                prompts.summarise(text, query.text, summary_tokens),
                summary_tokens,
                query,
                settings,
                tag,
                depth,
                is_mapper=True,
            )
            for text in texts
        ]
        answers = yield calls
        num_calls += len(calls)
        notes = [text for text in (prompts.text(answer.tokens) for answer in answers) if not is_nothing(text)]
        num_notes = num_notes or len(notes)
        depth += 1
        if sum(len(prompts.chunk_ids(note)) for note in notes) <= room:
            break
        # Too long together: as many notes as fit are joined and summarised again, until the rest fits (LangChain's token_max).
        texts = _collapsed(prompts, query, notes, summary_tokens, settings)
        if len(texts) >= len(notes):
            raise ConfigError(
                f"query {query.query_id!r}: summaries of {summary_tokens} tokens do not fit the model's context of "
                f"{settings.context_tokens} tokens and cannot be joined; use a smaller summary_tokens."
            )
    call = _call(
        prompts,
        prompts.answer(notes or [NONE if not prompts.has_markers else NO_ANSWER], query.text),
        query.max_answer_tokens,
        query,
        settings,
        tag,
        depth,
    )
    (answer,) = yield [call]
    text = prompts.text(answer.tokens)
    return Synthesised(text or NO_ANSWER, confidence(answer) if text else float("-inf"), num_notes, num_calls + 1)


def _collapsed(
    prompts: Prompts, query: Query, notes: list[str], summary_tokens: int, settings: SynthesisSettings
) -> list[str]:
    """Neighbouring notes joined, each group as long as a mapper's prompt allows."""
    room = settings.context_tokens - prompts.mapper_overhead_tokens(query.text, summary_tokens) - summary_tokens
    groups: list[list[str]] = []
    for note in notes:
        if groups and len(prompts.chunk_ids(" ".join([*groups[-1], note]))) <= room:
            groups[-1].append(note)
        else:
            groups.append([note])
    return [" ".join(group) for group in groups]
