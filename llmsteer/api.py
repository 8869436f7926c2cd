"""What a plug-in imports: contexts and their queries, what a method hands back, and the registries.

    from llmsteer.api import METHODS, WORKLOADS, Context, SteeringPlan

A method gets a context (and, if it says so, a query) and an engine, and hands back a plan: which tokens of which layers and
heads are steered, by how much. Caching, decoding, timing and scoring are the harness's. Importing this module imports neither
torch nor transformers.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import ConfigError
from common.experiment import Experiment, Paper, check_in
from common.registry import Registry

if TYPE_CHECKING:
    from numpy.random import Generator

    from llmsteer.record import SteeringRecord

APPLY = ("kv_and_live", "live_only", "kv_only")
"""When steering acts: while the context is prefilled for the cache, while queries and answers attend to it, or both."""


@dataclasses.dataclass(frozen=True)
class Query:
    """A question about a context, as text.

    Attributes:
        text: the question.
        answers: gold answers; empty where there are none.
        metric: text metric of the answer.
        max_answer_tokens: how many tokens an answer may take.
        evidence: gold evidence as (chunk, first character, last character + 1); empty where unknown. Only baselines
            that stand for a user's own marks, and the controls, may read it.
    """

    text: str
    answers: tuple[str, ...] = ()
    metric: str = "f1"
    max_answer_tokens: int = 16
    evidence: tuple[tuple[int, int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class ContextItem:
    """A context and the queries that reuse it, as text; what a workload yields.

    Raises:
        ConfigError: no text or no queries.
    """

    item_id: str
    family: str
    chunks: tuple[str, ...]
    queries: tuple[Query, ...]

    def __post_init__(self) -> None:
        if not any(chunk.strip() for chunk in self.chunks) or not self.queries:
            raise ConfigError(f"context {self.item_id!r} needs text and at least one query.")


@dataclasses.dataclass(frozen=True)
class TokenQuery:
    """A query as token ids.

    Attributes:
        ids: what follows the context up to the answer; at least one.
        evidence: indices of gold evidence tokens, relative to the context's start.
        text, answers, metric, max_answer_tokens: as in `Query`.
    """

    ids: tuple[int, ...]
    answers: tuple[str, ...] = ()
    metric: str = "f1"
    max_answer_tokens: int = 16
    evidence: tuple[int, ...] = ()
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Context:
    """A context and its queries as token ids of one model, tokenised apart from every prompt.

    Attributes:
        ids: token ids, n of them.
        queries: what is asked.
        sentences: (first token, last token + 1) of each sentence, in order, covering the context.
        excluded: indices of tokens that must not be steered: template tokens, pure punctuation, white space.
        item_id, family: where it comes from.
        text: the plain text; empty for random tokens.

    Raises:
        ConfigError: no tokens, or sentences or excluded tokens outside the context.
    """

    ids: tuple[int, ...]
    queries: tuple[TokenQuery, ...]
    sentences: tuple[tuple[int, int], ...] = ()
    excluded: frozenset[int] = frozenset()
    item_id: str = ""
    family: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        size = len(self.ids)
        if not size:
            raise ConfigError(f"context {self.item_id!r} has no tokens.")
        if any(not 0 <= first < last <= size for first, last in self.sentences):
            raise ConfigError(f"context {self.item_id!r}: a sentence lies outside its {size} tokens.")
        if any(not 0 <= index < size for index in self.excluded):
            raise ConfigError(f"context {self.item_id!r}: an excluded token lies outside its {size} tokens.")


@dataclasses.dataclass(frozen=True, eq=False)
class SteeringPlan:
    """What a method hands back.

    Attributes:
        record: tokens, layers, heads and gain; None: no steering.
        sharpen: {layer: factor of all its attention logits}; the temperature control. Empty: none.
        cached_prompt: which of the engine's prompts (0 is P1, 1 is P2) stands before the context.
        calls: how many sequences were generated to make the plan.
        query_in_prompt: the prompt holds the query too (query-dependent reading), so the cache serves no other query.
    """

    record: "SteeringRecord | None" = None
    sharpen: Mapping[int, float] = dataclasses.field(default_factory=dict)
    cached_prompt: int = 0
    calls: int = 0
    query_in_prompt: bool = False


class Steering(Protocol):
    """One way to decide what is steered.

    A method whose class has `per_query = True` gets the query and is asked anew for every one; its time and its uncached prefill
    are part of the request's delay. Any other is asked once per context, offline, and gets None for the query. A method with an
    attribute `model_settings` (a mapping as in the `model` config group) runs on that model instead of the run's.
    """

    def plan(self, context: Context, engine: Any, query: TokenQuery | None) -> SteeringPlan:
        """Decide. Must not change the context; may run the engine."""
        ...


class Workload(Protocol):
    """A source of contexts with queries."""

    def items(self, rng: "Generator", n: int) -> Iterator[ContextItem | Context]:
        """n contexts; the same stream gives the same contexts."""
        ...


METHODS: Registry[Any] = Registry("llmsteer method", ["llmsteer.methods"])
WORKLOADS: Registry[Any] = Registry("llmsteer workload", ["llmsteer.workloads"])
EXPERIMENTS: Registry[type[Experiment]] = Registry("llmsteer experiment", ["llmsteer.experiments"])

PAPER = Paper(
    name="llmsteer",
    title="LLMSteer: Improving Long-Context LLM Inference by Steering Attention on Reused Contexts (NeurIPS 2024 MLSys workshop)",
    methods=METHODS,
    workloads=WORKLOADS,
    experiments=EXPERIMENTS,
    method_contract=(check_in("llmsteer.contract", "check_method"),),
    workload_contract=(check_in("llmsteer.contract", "check_workload"),),
)
