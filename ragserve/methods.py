"""RAGServe, its ablations and the baselines, under the names of the paper's legends.

                      profile   chooses                                         admission
    fixed             no        always the same                                 first come, first served (vLLM)
    parrot            no        always the same                                 gangs (Parrot*)
    adaptive_rag      yes       best F1 on other queries of its class           first come, first served
    ragserve          yes       richest of the pruned space that fits           gangs
    delay_aware       yes       richest that fits and is predicted in time      gangs        (ours)
    median, min, max, random in range; oracle profile; oracle configuration: see below

A method that wants results of other queries (`adaptive_rag`) or of these very ones (`oracle_config`) has
`informed_by`, which returns
the method with what it learnt; the harness calls it with a `Knowledge`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Protocol, get_args

from common.errors import ConfigError
from common.rng import for_component
from ragserve.api import METHODS, PlannedQuery, Query, RagConfig, ServerLoad, Synthesis, available_bytes
from ragserve.best_fit import FIT_RULES, FitRule, best_fit, leanest, peak_tokens, richest, room_tokens

ProfileClass = tuple[bool, bool]
"""(needs_joint, is_complex): the classes that AdaptiveRAG* tells apart."""


class Knowledge(Protocol):
    """What an informed method may ask of the harness."""

    def development(self) -> Mapping[ProfileClass, Mapping[RagConfig, float]]:
        """Mean F1 of every grid configuration on queries that are not served, by the class of their profile."""
        ...

    def outcomes(self, query: Query) -> Mapping[RagConfig, tuple[float, float]]:
        """(F1, delay on an idle server) of the configurations within 0.05 of the best F1, for a served query. For oracles
        only."""
        ...


def _planned_space(planned: PlannedQuery) -> Sequence[RagConfig]:
    if not planned.space:
        raise ConfigError(
            f"query {planned.query.query_id!r} came without a pruned space; this method needs a profiler."
        )
    return planned.space


def clipped(config: RagConfig, max_chunks: int) -> RagConfig:
    """The configuration with no more chunks than there are."""
    return dataclasses.replace(config, num_chunks=min(config.num_chunks, max_chunks))


# -------------------------------------------------------------------------------------------------------- fixed baselines


@dataclasses.dataclass(frozen=True)
class _Fixed:
    synthesis: Synthesis = "stuff"
    num_chunks: int = 3
    summary_tokens: int = 0
    needs_profile: ClassVar[bool] = False

    def __post_init__(self) -> None:
        RagConfig(self.synthesis, self.num_chunks, self.summary_tokens)

    def choose(self, planned: PlannedQuery, load: ServerLoad) -> RagConfig:
        """See `RagPolicy.choose`."""
        return clipped(RagConfig(self.synthesis, self.num_chunks, self.summary_tokens), planned.max_chunks)


@METHODS.add("fixed", label="vLLM, fixed", color="#7F7F7F", marker="s")
@dataclasses.dataclass(frozen=True)
class Fixed(_Fixed):
    """Every query the same configuration, first come, first served (the paper's vLLM baseline).

    Attributes:
        synthesis, num_chunks, summary_tokens: the configuration.
    """

    is_gang: ClassVar[bool] = False


# DEVIATION ragserve-7: chunks stand before the question, so that a query's calls share no prompt prefix to keep once.
@METHODS.add("parrot", label="Parrot*, fixed", color="#8C6D31", marker="D")
@dataclasses.dataclass(frozen=True)
class Parrot(_Fixed):
    """Every query the same configuration; calls of a query are admitted together, reducers before new mappers (Parrot*).

    Attributes:
        synthesis, num_chunks, summary_tokens: the configuration.
    """

    is_gang: ClassVar[bool] = True


# ------------------------------------------------------------------------------------------------------ adaptive baselines


@METHODS.add("adaptive_rag", label="AdaptiveRAG*", color="#D55E00", marker="^")
@dataclasses.dataclass(frozen=True)
class AdaptiveRag:
    """Per query, the configuration that maximises F1, whatever the load: best on other queries of the same complexity class.

    Attributes:
        is_gang: admit a query's calls together; the paper runs it on plain vLLM.
        best: (needs_joint, is_complex, configuration) learnt from development queries; filled by `informed_by`.
    """

    is_gang: bool = False
    best: tuple[tuple[bool, bool, RagConfig], ...] = ()

    def informed_by(self, knowledge: Knowledge) -> "AdaptiveRag":
        """Take the best grid configuration of each class; ties go to the cheaper one (fewer chunks, shorter summaries)."""
        best = []
        for (joint, is_complex), scores in sorted(knowledge.development().items()):
            order = sorted(scores, key=lambda c: (-scores[c], c.num_chunks, c.summary_tokens, c.synthesis))
            best.append((joint, is_complex, order[0]))
        return dataclasses.replace(self, best=tuple(best))

    def choose(self, planned: PlannedQuery, load: ServerLoad) -> RagConfig:
        """See `RagPolicy.choose`. A class without development queries gets the richest of the pruned space."""
        space = _planned_space(planned)
        assert planned.profile is not None
        for joint, is_complex, config in self.best:
            if (joint, is_complex) == (planned.profile.needs_joint, planned.profile.is_complex):
                return clipped(config, planned.max_chunks)
        return richest(space, planned.costs)


@METHODS.add("max_in_range", label="AdaptiveRAG* (largest in range)", color="#E69F00", marker="v")
@dataclasses.dataclass(frozen=True)
class MaxInRange:
    """The richest configuration of the pruned space, whatever the load (the other reading of AdaptiveRAG*).

    Attributes:
        is_gang: admit a query's calls together.
    """

    is_gang: bool = False

    def choose(self, planned: PlannedQuery, load: ServerLoad) -> RagConfig:
        """See `RagPolicy.choose`."""
        return richest(_planned_space(planned), planned.costs)


@METHODS.add("min_in_range", label="least in range", color="#56B4E9", marker="<")
@dataclasses.dataclass(frozen=True)
class MinInRange:
    """The configuration of the pruned space that needs the least memory.

    Attributes:
        is_gang: admit a query's calls together.
    """

    is_gang: bool = True

    def choose(self, planned: PlannedQuery, load: ServerLoad) -> RagConfig:
        """See `RagPolicy.choose`."""
        return leanest(_planned_space(planned), planned.costs)


@METHODS.add("random_in_range", label="random in range", color="#66A61E", marker="X")
@dataclasses.dataclass(frozen=True)
class RandomInRange:
    """A configuration of the pruned space at random.

    Attributes:
        is_gang: admit a query's calls together.
    """

    is_gang: bool = True

    def choose(self, planned: PlannedQuery, load: ServerLoad) -> RagConfig:
        """See `RagPolicy.choose`."""
        space = _planned_space(planned)
        return space[int(for_component(planned.seed, "random in range", planned.query.query_id).integers(len(space)))]


@METHODS.add("median", label="profiler, median in range", color="#CC79A7", marker="P")
@dataclasses.dataclass(frozen=True)
class Median:
    """The middle of the pruned space by memory, whatever the load (the paper's "profiler + median").

    Attributes:
        is_gang: admit a query's calls together ("+ batching").
    """

    is_gang: bool = False

    def choose(self, planned: PlannedQuery, load: ServerLoad) -> RagConfig:
        """See `RagPolicy.choose`."""
        ordered = sorted(
            _planned_space(planned),
            key=lambda c: (peak_tokens(c, planned.costs), c.num_chunks, c.synthesis, c.summary_tokens),
        )
        return ordered[(len(ordered) - 1) // 2]


@METHODS.add("median_batched", label="median + batching", color="#5E4FA2", marker="P")
@dataclasses.dataclass(frozen=True)
class MedianBatched(Median):
    """As `median`, with gang admission.

    Attributes:
        is_gang: admit a query's calls together.
    """

    is_gang: bool = True


# ---------------------------------------------------------------------------------------------------------------- RAGServe


@METHODS.add("ragserve", label="RAGServe", color="#0072B2", marker="o")
@dataclasses.dataclass(frozen=True)
class RagServe:
    """The paper's system: pruned space, best fit into the memory that is free and not promised, gang admission.

    Attributes:
        fit_rule: "peak" or "unit"; see `ragserve.best_fit`.
        may_start: a map_reduce whose mappers can start is preferred to leaving the pruned space.
        counts_promises: A is free minus promised memory; False reads plain free memory (ablation).
        is_gang: admit a query's calls together.
        has_feedback: run the golden configuration for every 30th query and learn from it.
    """

    fit_rule: FitRule = "peak"
    may_start: bool = True
    counts_promises: bool = True
    is_gang: bool = True
    has_feedback: bool = False

    def __post_init__(self) -> None:
        if self.fit_rule not in FIT_RULES:
            raise ConfigError(f"fit_rule={self.fit_rule!r} is not one of {', '.join(FIT_RULES)}.")

    def choose(self, planned: PlannedQuery, load: ServerLoad) -> RagConfig:
        """See `RagPolicy.choose`."""
        if not self.counts_promises:
            load = dataclasses.replace(load, promised_tokens=0)
        room = available_bytes(load, planned.costs)
        return best_fit(
            _planned_space(planned), planned.costs, room, fit_rule=self.fit_rule, may_start=self.may_start
        ).config


# DEVIATION ragserve-9: `ragserve` is without feedback, which `ragserve_feedback` adds; Fig. 14 compares the two.
@METHODS.add("ragserve_feedback", label="RAGServe + feedback", color="#004C7A", marker="o")
@dataclasses.dataclass(frozen=True)
class RagServeFeedback(RagServe):
    """As `ragserve`, with the golden configuration every 30th query. Knobs as `ragserve`."""

    has_feedback: bool = True


Adapts = Literal["k", "k+method", "k+method+s"]


@METHODS.add("partial", label="some knobs, median", color="#A6761D", marker=">")
@dataclasses.dataclass(frozen=True)
class Partial:
    """The median of the pruned space in some knobs, a fixed value in the others: the paper's knob-by-knob study (Fig. 16).

    Attributes:
        adapts: which knobs follow the profile: "k" (stuff), "k+method" (summaries of `summary_tokens`), "k+method+s".
        summary_tokens: of map_reduce where s does not adapt.
        is_gang: admit a query's calls together.
    """

    adapts: Adapts = "k"
    summary_tokens: int = 24
    is_gang: bool = True

    def __post_init__(self) -> None:
        if self.adapts not in get_args(Adapts) or self.summary_tokens < 1:
            raise ConfigError(
                f"adapts={self.adapts!r} is not one of {', '.join(get_args(Adapts))}, or "
                f"summary_tokens={self.summary_tokens} is "
                "below 1."
            )

    def choose(self, planned: PlannedQuery, load: ServerLoad) -> RagConfig:
        """See `RagPolicy.choose`."""
        config = Median().choose(planned, load)
        if self.adapts == "k":
            return RagConfig("stuff", config.num_chunks)
        if self.adapts == "k+method" and config.synthesis == "map_reduce":
            return dataclasses.replace(config, summary_tokens=self.summary_tokens)
        return config


@METHODS.add("ragserve_oracle_profile", label="RAGServe, oracle profile", color="#009E73", marker="o")
@dataclasses.dataclass(frozen=True)
class RagServeOracleProfile(RagServe):
    """As `ragserve`, with the gold profile of each query. Knobs as `ragserve`."""

    profiler: ClassVar[str] = "oracle"


def predicted_delay_s(config: RagConfig, planned: PlannedQuery, load: ServerLoad) -> float:
    """Delay that a configuration would have: the prompt tokens queued before it and its own, then its decoding steps.

    Reducers and answers wait for their mappers, so map_reduce decodes twice. The answer's cap stands for its length.
    """
    costs, k, s = planned.costs, config.num_chunks, config.summary_tokens
    per_call = costs.chunk + costs.query
    if config.synthesis == "stuff":
        prompt, steps = k * costs.chunk + costs.query, costs.answer
    elif config.synthesis == "map_rerank":
        prompt, steps = k * per_call, costs.rerank_answer
    else:
        prompt, steps = k * per_call + k * s + costs.query, s + costs.answer
    return (load.prefill_tokens + prompt) / load.prefill_tokens_per_s + steps * load.decode_step_s


@METHODS.add("delay_aware", label="delay-aware fit (ours)", color="#000000", marker="*")
@dataclasses.dataclass(frozen=True)
class DelayAware:
    """Ours: the richest configuration that fits into memory *and* is predicted to finish in time; the fastest if none is.

    Best fit looks at memory only: where memory is ample and computing is scarce it takes the largest configuration
    and queues. Here
    the deadline is `patience` times the delay that the richest configuration of the space would have on an idle server.

    Attributes:
        patience: deadline over that idle delay, > 0.
        deadline_s: absolute deadline instead, if > 0.
        is_gang: admit a query's calls together.
    """

    patience: float = 1.25
    deadline_s: float = 0.0
    is_gang: bool = True

    def __post_init__(self) -> None:
        if not self.patience > 0 or self.deadline_s < 0:
            raise ConfigError(f"patience={self.patience} must be > 0 and deadline_s={self.deadline_s} at least 0.")

    def choose(self, planned: PlannedQuery, load: ServerLoad) -> RagConfig:
        """See `RagPolicy.choose`."""
        space = _planned_space(planned)
        idle = dataclasses.replace(load, prefill_tokens=0)
        deadline_s = self.deadline_s or self.patience * predicted_delay_s(richest(space, planned.costs), planned, idle)
        available = available_bytes(load, planned.costs)
        room = room_tokens(available, planned.costs)
        in_time: list[RagConfig] = []
        fits: list[RagConfig] = []
        both: list[RagConfig] = []
        for config in space:
            is_in_time = predicted_delay_s(config, planned, load) <= deadline_s
            if is_in_time:
                in_time.append(config)
            if peak_tokens(config, planned.costs) <= room:
                fits.append(config)
                if is_in_time:
                    both.append(config)
        if both:
            return richest(both, planned.costs)
        if in_time:
            return best_fit(in_time, planned.costs, available).config
        return min(
            fits or space,
            key=lambda config: (predicted_delay_s(config, planned, load), peak_tokens(config, planned.costs)),
        )


@METHODS.add("oracle_config", label="oracle: best per query", color="#B30000", marker="p")
@dataclasses.dataclass(frozen=True)
class OracleConfig:
    """Per query, the fastest configuration (on an idle server) with F1 within `tolerance` of the best: known in
    hindsight (Fig. 5).

    Attributes:
        tolerance: F1 that may be given up, at most 0.05.
        is_gang: admit a query's calls together.
    """

    tolerance: float = 0.02
    is_gang: bool = True
    needs_profile: ClassVar[bool] = False
    knowledge: Knowledge | None = dataclasses.field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.tolerance <= 0.05:
            raise ConfigError(f"tolerance={self.tolerance} must be within 0..0.05.")

    def informed_by(self, knowledge: Knowledge) -> "OracleConfig":
        """Give it the outcomes of the served queries."""
        own = dataclasses.replace(self)
        object.__setattr__(own, "knowledge", knowledge)
        return own

    def choose(self, planned: PlannedQuery, load: ServerLoad) -> RagConfig:
        """See `RagPolicy.choose`.

        Raises:
            ConfigError: nothing is known about the query.
        """
        outcomes = {} if self.knowledge is None else self.knowledge.outcomes(planned.query)
        if not outcomes:
            raise ConfigError(
                f"oracle_config knows no outcome of query {planned.query.query_id!r}; it runs in the harness only."
            )
        return best_outcome(outcomes, self.tolerance)


def best_outcome(outcomes: Mapping[RagConfig, tuple[float, float]], tolerance: float) -> RagConfig:
    """The fastest configuration whose F1 is within `tolerance` of the best; ties by fewer chunks."""
    best_f1 = max(f1 for f1, _ in outcomes.values())
    good = [config for config, (f1, _) in outcomes.items() if f1 >= best_f1 - tolerance - 1e-12]
    return min(good, key=lambda c: (outcomes[c][1], c.num_chunks, c.summary_tokens, c.synthesis))
