"""What a plug-in imports: the request, what a method hands back, and the registries.

    from cacheblend.api import METHODS, WORKLOADS, Prefill, Request

A method gets a request and an engine and hands back the state from which an answer can be decoded. Timing, decoding and
scoring are the harness's, the same for every method. Importing this module imports neither torch nor transformers.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import ConfigError
from common.experiment import Experiment, Paper, check_in
from common.registry import Registry

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor

    from common.kv import KVCache


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt made of chunks and a question, as token ids.

    The prompt is `[BOS] prefix chunk_0 chunk_1 ... question`. The engine puts the model's BOS token in front; no field holds it.

    Attributes:
        chunks: token ids of each chunk, tokenised alone; these are what may be reused from a cache.
        question: what follows the chunks; never cached. At least one token.
        prefix: a system prompt, the same for all requests; cached as an exact prefix.
        answers: gold answers; empty where there are none, and then only time and distance to full prefill are reported.
        metric: text metric of the answer: "f1", "exact_match" or "rouge_l".
        max_answer_tokens: how many tokens an answer may take.
        item_id, family: where the request comes from.
        instruction: what a method that reads chunks one by one asks of each, as token ids (MapReduce); empty: the question.

    Raises:
        ConfigError: the question is empty, or a token id is negative.
    """

    chunks: tuple[tuple[int, ...], ...]
    question: tuple[int, ...]
    prefix: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()
    metric: str = "f1"
    max_answer_tokens: int = 16
    item_id: str = ""
    family: str = ""
    instruction: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.question:
            raise ConfigError("a request needs a question of at least one token.")
        if any(token < 0 for piece in (self.prefix, *self.chunks, self.question) for token in piece):
            raise ConfigError("token ids must be >= 0.")

    @property
    def num_tokens(self) -> int:
        """Length of the prompt in tokens, without BOS."""
        return len(self.prefix) + sum(map(len, self.chunks)) + len(self.question)


@dataclasses.dataclass(frozen=True)
class Report:
    """What happened to the tokens of one request.

    Attributes:
        prompt_tokens: length of the prompt, BOS included.
        reused_tokens: tokens whose KV came from a cache, recomputed or not.
        exact_tokens: those among them that form a true prefix, so that their KV is exact.
        rows_per_layer: how many tokens really went through each layer's attention and MLP.
        loaded_bytes: bytes of KV read from the store.
        missed_chunks: chunks that were not in the store and had to be computed first.
    """

    prompt_tokens: int
    reused_tokens: int
    exact_tokens: int
    rows_per_layer: tuple[int, ...]
    loaded_bytes: int
    missed_chunks: int = 0

    @property
    def recomputed_tokens(self) -> float:
        """Tokens computed, as a mean over the layers; a full prefill has `prompt_tokens`."""
        return sum(self.rows_per_layer) / len(self.rows_per_layer)

    @property
    def recomputed_share(self) -> float:
        """`recomputed_tokens / prompt_tokens`."""
        return self.recomputed_tokens / self.prompt_tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Computed:
    """The state after a prompt: where decoding starts.

    Attributes:
        logits_V: scores of the first token of the answer, over the vocabulary.
        kv: keys and values of the whole prompt. Decoding works on a copy.
        report: how it came about.
    """

    logits_V: "Tensor"
    kv: "KVCache"
    report: Report


@dataclasses.dataclass(frozen=True, eq=False)
class Prefill:
    """What a method hands back.

    Attributes:
        computed: the state from which the answer is decoded.
        recomputed_tokens: how many tokens the method had to run through the model for it (mean over layers).
    """

    computed: Computed
    recomputed_tokens: float


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A greedily decoded answer.

    Attributes:
        ids: generated token ids, end token excluded.
        mean_logprob: mean log-probability of the generated tokens, end token included, in nat.
    """

    ids: tuple[int, ...]
    mean_logprob: float


class Engine(Protocol):
    """What a method may ask of the model. The implementation is `cacheblend.engine.Engine`."""

    def compute(self, tokens: Sequence[int]) -> Computed:
        """Ordinary prefill of `[BOS] + tokens`."""
        ...

    def decode(self, computed: Computed, max_tokens: int) -> Decoded:
        """Greedy answer from a state; the state is left unchanged."""
        ...


class PrefillMethod(Protocol):
    """One way to get from a request to its first token."""

    def prefill(self, request: Request, engine: Any) -> Prefill:
        """Do it. The wall time of this call is the time to first token."""
        ...


class Workload(Protocol):
    """A source of requests."""

    def items(self, rng: "Generator", n: int) -> Iterator[Request]:
        """n requests; the same stream gives the same requests."""
        ...


METHODS: Registry[Any] = Registry("cacheblend method", ["cacheblend.methods"])
WORKLOADS: Registry[Any] = Registry("cacheblend workload", ["cacheblend.workloads"])
EXPERIMENTS: Registry[type[Experiment]] = Registry(
    "cacheblend experiment", ["cacheblend.experiments", "cacheblend.experiments_storage"]
)
SELECTORS: Registry[Any] = Registry("cacheblend selector", ["cacheblend.selection"])

PAPER = Paper(
    name="cacheblend",
    title="CacheBlend: Fast Large Language Model Serving for RAG with Cached Knowledge Fusion (EuroSys 2025)",
    methods=METHODS,
    workloads=WORKLOADS,
    experiments=EXPERIMENTS,
    method_contract=(check_in("cacheblend.contract", "check_method"),),
    workload_contract=(check_in("cacheblend.contract", "check_workload"),),
)
