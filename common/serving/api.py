"""What drives a language-model server: calls, completions, and the protocol that simulated and real engines share.

    engine = ...                                     # SimEngine, TransformersEngine or HttpEngine: a controller cannot tell
    def answered(completion):
        print(engine.now(), completion.tokens)       # may submit further calls
    engine.call_at(0.5, lambda: engine.submit(Call(prompt, max_tokens=20)).on_done(answered))
    engine.run()                                     # returns when no timer and no call is left

A controller is a set of callbacks. All of them run in the thread that called `run`, one at a time, in the order of time: a
simulator moves its virtual clock from event to event, a real engine waits. So the same controller runs over either, without
locks. `free_tokens() - promised_tokens()` is the memory that a scheduler may still count on.

Importing this module imports neither torch nor transformers.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

from common.errors import ConfigError
from common.results import Basis

__all__ = ["Answer", "Answers", "Call", "Completion", "Engine", "EngineFacts", "Handle", "Load", "pages_for"]

ServiceClass = Literal["latency", "throughput"]


@dataclasses.dataclass(frozen=True)
class Call:
    """One prompt to complete.

    Attributes:
        prompt_ids: token ids of the prompt, at least one.
        max_tokens: most tokens to generate, >= 1.
        tag: free text, handed back with the completion.
        stop_ids: generation ends after one of these, which is then the last token of the completion (the end-of-sequence
            token, as a rule). With none the call generates exactly `max_tokens`.
        group: name of a task group, e.g. all mappers of one query; "" for none. Only gang admission (Parrot*) reads this
            and the three fields below; plain first come, first served ignores them.
        depth: stage of the call in its query: deeper ones go first (a reducer before another query's mappers).
        service: "latency" (somebody waits for this very call) or "throughput" (one of many of a group).
        prefix_tokens: how many first tokens of the prompt are the same in all calls of the group, and can be shared.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    tag: str = ""
    stop_ids: tuple[int, ...] = ()
    group: str = ""
    depth: int = 0
    service: ServiceClass = "latency"
    prefix_tokens: int = 0

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ConfigError(f"call {self.tag!r} has an empty prompt; give at least one token.")
        if self.max_tokens < 1:
            raise ConfigError(f"call {self.tag!r}: max_tokens={self.max_tokens} must be at least 1.")
        if self.service not in ("latency", "throughput"):
            raise ConfigError(f"call {self.tag!r}: service {self.service!r} is not one of latency, throughput.")
        if not 0 <= self.prefix_tokens <= len(self.prompt_ids):
            raise ConfigError(
                f"call {self.tag!r}: prefix_tokens={self.prefix_tokens} is not within its {len(self.prompt_ids)} tokens."
            )


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model generated for a prompt.

    Attributes:
        tokens: generated ids, the stop token included if one ended it.
        logprobs: natural log-probability of each under the model; empty if the engine gives none.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.logprobs and len(self.logprobs) != len(self.tokens):
            raise ConfigError(f"{len(self.tokens)} tokens came with {len(self.logprobs)} log-probabilities.")


Answers = Callable[[Call], Answer]
"""Where a simulator takes generated text from: a replay of what a model really generated for the call. Pure: the same call
gives the same answer. Called once per call, when it is submitted."""


@dataclasses.dataclass(frozen=True)
class Completion:
    """A finished call. Times are those of the engine's clock, in seconds.

    Attributes:
        call: what was asked.
        tokens, logprobs: see `Answer`; both empty if the call failed.
        submitted_s: when the engine was given the call.
        started_s: when its first prompt token was scheduled (of a real engine that does not say: when it was submitted).
        first_token_s: when its first token was there (None if it failed before, or the engine does not stream).
        finished_s: when the last token was there.
        error: why it failed; None if it did not. A failed call is never retried by `run`; the controller decides.
        preemptions: how often its pages were taken from it and its tokens recomputed.
    """

    call: Call
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    submitted_s: float
    started_s: float
    first_token_s: float | None
    finished_s: float
    error: str | None = None
    preemptions: int = 0

    @property
    def delay_s(self) -> float:
        """From submission to the last token."""
        return self.finished_s - self.submitted_s


class Handle:
    """A call under way. `completion` is None until it has finished."""

    __slots__ = ("_callbacks", "call", "completion")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.completion: Completion | None = None
        self._callbacks: list[Callable[[Completion], object]] = []

    @property
    def is_done(self) -> bool:
        """Whether the call has finished, well or badly."""
        return self.completion is not None

    def on_done(self, callback: Callable[[Completion], object]) -> "Handle":
        """Have `callback` called with the completion (at once, if it is there); returns the handle itself."""
        if self.completion is not None:
            callback(self.completion)
        else:
            self._callbacks.append(callback)
        return self

    def finish(self, completion: Completion) -> None:
        """Set the completion and call the callbacks in the order of their registration. For engines only."""
        assert self.completion is None, "a call finished twice"
        self.completion = completion
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(completion)


@dataclasses.dataclass(frozen=True)
class EngineFacts:
    """What a scheduler must know of a model and its server; the same for as long as the engine lives.

    Attributes:
        bytes_per_token: keys and values of one token, 2 * layers * kv heads * head size * bytes per number.
        context_tokens: most tokens of prompt and answer together.
        pool_tokens: tokens that the KV pool holds.
        page_tokens: tokens of a page; memory is handed out in pages.
        max_batch_tokens: most tokens that one iteration computes.
        max_seqs: most sequences that run at once.
        watermark_tokens: part of the pool that admission leaves free.
    """

    bytes_per_token: int
    context_tokens: int
    pool_tokens: int
    page_tokens: int = 16
    max_batch_tokens: int = 2048
    max_seqs: int = 256
    watermark_tokens: int = 0

    def __post_init__(self) -> None:
        for field in (
            "bytes_per_token",
            "context_tokens",
            "pool_tokens",
            "page_tokens",
            "max_batch_tokens",
            "max_seqs",
        ):
            value = getattr(self, field)
            if value < 1:
                raise ConfigError(f"{field}={value} of an engine must be at least 1.")
        if self.pool_tokens < self.page_tokens:
            raise ConfigError(f"a pool of {self.pool_tokens} tokens holds no page of {self.page_tokens}.")
        if self.max_batch_tokens < self.max_seqs:
            raise ConfigError(
                f"max_batch_tokens={self.max_batch_tokens} is less than max_seqs={self.max_seqs}: not every running "
                "sequence could generate; raise the first or lower the second."
            )
        if not 0 <= self.watermark_tokens < self.pool_tokens:
            raise ConfigError(f"watermark_tokens={self.watermark_tokens} is not within the pool of {self.pool_tokens}.")

    def check_fits(self, call: Call) -> None:
        """Whether the engine could ever serve the call.

        Raises:
            ConfigError: prompt and answer exceed the model's context, or the whole pool.
        """
        tokens = len(call.prompt_ids) + call.max_tokens
        if tokens > self.context_tokens:
            raise ConfigError(
                f"call {call.tag!r}: {len(call.prompt_ids)} prompt + {call.max_tokens} answer tokens exceed the model's "
                f"context of {self.context_tokens}; shorten the prompt or lower max_tokens."
            )
        pool_pages = self.pool_tokens // self.page_tokens
        if pages_for(tokens, self.page_tokens) > pool_pages:
            raise ConfigError(
                f"call {call.tag!r}: {tokens} tokens need {pages_for(tokens, self.page_tokens)} pages, the pool has "
                f"{pool_pages}; shorten the prompt or enlarge the pool."
            )


@dataclasses.dataclass(frozen=True)
class Load:
    """How busy an engine is right now.

    Attributes:
        running: sequences that hold memory.
        waiting: sequences that wait to be admitted.
        prefill_tokens: prompt tokens still to be computed, of running and waiting sequences together.
        decode_tokens: most tokens still to be generated, of running and waiting sequences together.
    """

    running: int
    waiting: int
    prefill_tokens: int
    decode_tokens: int


@runtime_checkable
class Engine(Protocol):
    """A server of one model: submit calls, read its memory, run callbacks.

    Not for several threads: everything is called from the thread that calls `run`.
    """

    @property
    def facts(self) -> EngineFacts:
        """Of the model and the server."""
        ...

    @property
    def basis(self) -> Basis:
        """What the times of completions rest on: "measured" (a wall clock), "simulated" (virtual time with calibrated
        costs) or "modelled" (virtual time with costs from a formula or a table of other people's). For result rows;
        policies have no business reading it."""
        ...

    def now(self) -> float:
        """Seconds since the engine's clock started. Within a callback of a simulator: the instant of the event."""
        ...

    def submit(self, call: Call) -> Handle:
        """Queue a call. Returns at once, also where the queue is long.

        Raises:
            ConfigError: the call could never be served (`EngineFacts.check_fits`).
        """
        ...

    def free_tokens(self) -> int:
        """Tokens in pages that nobody occupies, the watermark included."""
        ...

    def promised_tokens(self) -> int:
        """Tokens in pages that calls already submitted will still ask for, at most: what is left of the prompt and of
        `max_tokens` of running sequences, all of both of waiting ones. May exceed what is free.

        Without this all queries of a burst would see the same free memory (RAGServe, 2.4). The sheet counts prompts of
        waiting requests; we add their answers, so that what is promised never exceeds the pool unnoticed.
        """
        ...

    def load(self) -> Load:
        """How much work is under way and queued."""
        ...

    def call_at(self, at_s: float, callback: Callable[[], object]) -> None:
        """Have `callback` called at that time of the engine's clock (as soon as possible if it is past). Callbacks due
        at the same time run in the order of `call_at`. A real engine may be late by an iteration, since callbacks run
        between iterations: count a delay from the time asked for, not from `now()` in the callback."""
        ...

    def run(self) -> None:
        """Serve until no timer and no call is left. An exception of a callback ends it and comes out here."""
        ...

    def close(self) -> None:
        """Free threads, connections and memory. The engine cannot be used afterwards; closing twice is allowed."""
        ...


def pages_for(tokens: int, page_tokens: int) -> int:
    """Pages that so many tokens occupy."""
    return -(-tokens // page_tokens)
