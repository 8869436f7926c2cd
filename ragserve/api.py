"""What a plug-in imports: queries, configurations, profiles, what a policy sees, and the registries.

    from ragserve.api import METHODS, WORKLOADS, PlannedQuery, RagConfig, ServerLoad

A method chooses a configuration for a query in view of the server's load; the harness runs it on an engine, scores
the text that
the model really generated, and takes the delay from the engine's clock. Importing this module imports neither torch
nor transformers.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from common.data.items import QueryProfile
from common.errors import ConfigError
from common.experiment import Experiment, Paper, check_in
from common.registry import Registry

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = [
    "EXPERIMENTS",
    "METHODS",
    "PAPER",
    "PROFILERS",
    "SYNTHESIS",
    "WORKLOADS",
    "Corpus",
    "Dataset",
    "PlannedQuery",
    "Profile",
    "Profiler",
    "Query",
    "RagConfig",
    "RagPolicy",
    "ServerLoad",
    "TokenCosts",
    "Workload",
]

Synthesis = Literal["map_rerank", "stuff", "map_reduce"]
SYNTHESIS: tuple[str, ...] = get_args(Synthesis)


@dataclasses.dataclass(frozen=True)
class RagConfig:
    """How one query is answered.

    Attributes:
        synthesis: "map_rerank" (one call per chunk, the most confident answer wins), "stuff" (all chunks in one
        call) or "map_reduce"
            (a summary per chunk, then one call over the summaries).
        num_chunks: chunks retrieved, the paper's k, >= 1.
        summary_tokens: most tokens of a mapper's summary, the paper's intermediate_length s; 0 unless map_reduce.
    """

    synthesis: Synthesis
    num_chunks: int
    summary_tokens: int = 0

    def __post_init__(self) -> None:
        if self.synthesis not in SYNTHESIS:
            raise ConfigError(f"synthesis={self.synthesis!r} is not one of {', '.join(SYNTHESIS)}.")
        if self.num_chunks < 1:
            raise ConfigError(f"num_chunks={self.num_chunks} must be at least 1.")
        if (self.synthesis == "map_reduce") != (self.summary_tokens > 0) or self.summary_tokens < 0:
            raise ConfigError(
                f"summary_tokens={self.summary_tokens} with synthesis={self.synthesis!r}: map_reduce needs at least "
                f"1, the others "
                "take none (0)."
            )

    @property
    def label(self) -> str:
        """Short text, e.g. "stuff k=6" or "map_reduce k=6 s=24"."""
        end = f" s={self.summary_tokens}" if self.summary_tokens else ""
        return f"{self.synthesis} k={self.num_chunks}{end}"


@dataclasses.dataclass(frozen=True)
class Query:
    """A question to a corpus.

    Attributes:
        query_id: unique within its dataset.
        text: the question.
        answers: gold answers; the best match counts. Empty where there is none.
        corpus: index of the corpus in the dataset.
        evidence: gold evidence, as chunk indices of that corpus, sorted; empty where unknown.
        gold_profile: what the query needs, where the source knows it. Only oracle profilers may look at it.
        max_answer_tokens: cap on the answer.
        family: task family.
        is_vague: the question leaves out what it asks for, so that no profiler can be sure of it.
    """

    query_id: str
    text: str
    answers: tuple[str, ...]
    corpus: int = 0
    evidence: tuple[int, ...] = ()
    gold_profile: QueryProfile | None = None
    max_answer_tokens: int = 16
    family: str = ""
    is_vague: bool = False


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Chunks that are retrieved from, and what a profiler is told about them.

    Attributes:
        chunks: plain text.
        metadata: one line, e.g. "quarterly financial reports of companies".
        chunk_tokens: nominal chunk size, as told to the profiler and used in the memory formulas.
    """

    chunks: tuple[str, ...]
    metadata: str
    chunk_tokens: int


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Corpora with queries.

    Attributes:
        name: for results.
        corpora: what is retrieved from.
        queries: in order of arrival.
    """

    name: str
    corpora: tuple[Corpus, ...]
    queries: tuple[Query, ...]

    def __post_init__(self) -> None:
        for query in self.queries:
            if not 0 <= query.corpus < len(self.corpora):
                raise ConfigError(f"query {query.query_id!r} names corpus {query.corpus} of {len(self.corpora)}.")


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a profiler says about a query.

    Attributes:
        is_complex: complexity High.
        needs_joint: joint reasoning over several chunks is needed.
        pieces: pieces of information needed, the paper's n, 1..10.
        summary_range: shortest and longest sensible summary, in words; equal if a single value came back.
        confidence: in [0, 1]; 0 for an unparsable reply.
        latency_s: time that profiling took; part of the query's delay.
        tokens: tokens of prompt and reply, for the cost.
    """

    is_complex: bool
    needs_joint: bool
    pieces: int
    summary_range: tuple[int, int]
    confidence: float = 1.0
    latency_s: float = 0.0
    tokens: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.pieces <= 10:
            raise ConfigError(f"pieces={self.pieces} must be 1..10.")
        low, high = self.summary_range
        if not 1 <= low <= high:
            raise ConfigError(f"summary_range={self.summary_range} must be two rising numbers of at least 1.")
        if not 0.0 <= self.confidence <= 1.0 or self.latency_s < 0 or self.tokens < 0:
            raise ConfigError(
                f"confidence={self.confidence} must be within 0..1, latency_s={self.latency_s} and "
                f"tokens={self.tokens} at least 0."
            )


class Profiler(Protocol):
    """Estimates what a query needs, from the query and one line about the corpus: an entry of `PROFILERS`."""

    def profile(self, query: Query, corpus: Corpus) -> Profile:
        """The profile; never raises for an odd query (confidence 0 instead)."""
        ...

    def learn(self, query: Query, corpus: Corpus, golden: Profile) -> None:
        """Take in a feedback example: what should have been said. Profilers that cannot learn ignore it."""
        ...


@dataclasses.dataclass(frozen=True)
class TokenCosts:
    """Token counts that the memory formulas need (sheet 2.4).

    Attributes:
        query: q, question and template of an answer call.
        chunk: c.
        answer: a, cap on the answer.
        rerank_answer: a_r, cap on answer (and score) of a map_rerank call.
        bytes_per_token: keys and values of one token.
    """

    query: int
    chunk: int
    answer: int
    rerank_answer: int
    bytes_per_token: int


@dataclasses.dataclass(frozen=True)
class PlannedQuery:
    """A query as a policy sees it.

    Attributes:
        query: the question. Gold fields are for scoring: reading them is cheating, and named so in the oracle methods.
        profile: the profile, or None for methods that want none.
        space: the pruned configurations (Algorithm 1, or the fallback window); empty for methods without a profile.
        costs: token counts of this query.
        max_chunks: largest usable num_chunks: of corpus and model.
        seed: of this query, for methods that draw.
    """

    query: Query
    profile: Profile | None
    space: tuple[RagConfig, ...]
    costs: TokenCosts
    max_chunks: int
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class ServerLoad:
    """The server as a policy sees it at decision time.

    Attributes:
        free_tokens: tokens in unoccupied pages of the KV pool.
        promised_tokens: tokens that calls already submitted will still ask for, at most.
        pool_tokens: size of the pool.
        running, waiting: sequences.
        prefill_tokens: prompt tokens still to be computed for calls already submitted.
        prefill_tokens_per_s, decode_step_s: speed of the server, as known from its calibration: prompt tokens per
        second in a full
            batch, and the time of one decoding step.
    """

    free_tokens: int
    promised_tokens: int
    pool_tokens: int
    running: int = 0
    waiting: int = 0
    prefill_tokens: int = 0
    prefill_tokens_per_s: float = float("inf")
    decode_step_s: float = 0.0

    @property
    def available_tokens(self) -> int:
        """Free and not promised."""
        return max(0, self.free_tokens - self.promised_tokens)


class RagPolicy(Protocol):
    """Chooses a configuration per query: an entry of `METHODS`, a frozen dataclass with knobs.

    Class attributes that the harness reads where they are there: `needs_profile` (True), `is_gang` (False;
    Parrot-style admission),
    `has_feedback` (False; golden configuration every 30th query).
    """

    def choose(self, planned: PlannedQuery, load: ServerLoad) -> RagConfig:
        """The configuration. Must not keep state between queries."""
        ...


class Workload(Protocol):
    """A source of queries with their corpora."""

    def dataset(self, rng: "Generator", n: int) -> Dataset:
        """n queries; the same stream gives the same dataset."""
        ...


METHODS: Registry[Any] = Registry("ragserve method", ["ragserve.methods"])
PROFILERS: Registry[Any] = Registry("ragserve profiler", ["ragserve.profilers"])
WORKLOADS: Registry[Any] = Registry("ragserve workload", ["ragserve.workloads"])
EXPERIMENTS: Registry[type[Experiment]] = Registry("ragserve experiment", ["ragserve.experiments"])


def available_bytes(load: ServerLoad, costs: TokenCosts) -> int:
    """A of the paper: memory that a new query may count on."""
    return load.available_tokens * costs.bytes_per_token


def labels(configs: Sequence[RagConfig]) -> str:
    """Configurations as one line."""
    return ", ".join(config.label for config in configs)


PAPER = Paper(
    name="ragserve",
    title="RAGServe: Fast Quality-Aware RAG Systems with Configuration Adaptation (METIS, SOSP 2025)",
    methods=METHODS,
    workloads=WORKLOADS,
    experiments=EXPERIMENTS,
    method_contract=(check_in("ragserve.contract", "check_method"),),
    workload_contract=(check_in("ragserve.contract", "check_workload"),),
)
