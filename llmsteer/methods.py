"""The paper's system, its baselines and the controls, by the name used in legends.

PASTA multiplies everything outside the marked span by 0.01; as rows are renormalised, that is the same as multiplying the span by
100. So all methods become plans of one kind and run on one engine.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from common.errors import ConfigError
from common.rng import for_component
from llmsteer.api import APPLY, METHODS, Context, SteeringPlan, TokenQuery
from llmsteer.engine import Engine
from llmsteer.record import hash_ids
from llmsteer.selection import Selection

# Asks for the sentence that AutoPASTA highlights; the wording is ours.
KEY_SENTENCE_REQUEST = (
    "Copy the one sentence of the passages, word for word, that supports the answer to this question: "
)


@METHODS.add("small", label="small model", color="#444444", marker="s")
@dataclasses.dataclass(frozen=True)
class Small:
    """The model as it is, on a cached context."""

    per_query: ClassVar[bool] = False

    def plan(self, context: Context, engine: Engine, query: TokenQuery | None) -> SteeringPlan:
        return SteeringPlan()


@METHODS.add("large", label="large model", color="#0072B2", marker="D")
@dataclasses.dataclass(frozen=True)
class Large:
    """A larger model as it is, on a context cached for it.

    Attributes:
        model: its settings, as in the `model` config group.
    """

    model: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "base", "source": "bundled"})
    per_query: ClassVar[bool] = False

    @property
    def model_settings(self) -> Mapping[str, Any]:
        """What the harness loads for this method."""
        return self.model

    def plan(self, context: Context, engine: Engine, query: TokenQuery | None) -> SteeringPlan:
        return SteeringPlan()


@dataclasses.dataclass(frozen=True)
class _Steered:
    """What all methods that multiply attention have in common.

    Attributes:
        alpha: scaling factor; None: the one that head profiling found best.
        heads: "profiled" (from the engine's head profile) or "all".
        apply: "kv_and_live", "live_only" or "kv_only".
        renormalise: whether rows sum to one after the multiplication.
        cached_prompt: "P1" or "P2", which stands before the cached context.
    """

    alpha: float | None = None
    heads: str = "profiled"
    apply: str = "kv_and_live"
    renormalise: bool = True
    cached_prompt: str = "P1"

    per_query: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.heads not in ("profiled", "all"):
            raise ConfigError(f"heads={self.heads!r} is not one of profiled, all.")
        if self.apply not in APPLY:
            raise ConfigError(f"apply={self.apply!r} is not one of {', '.join(APPLY)}.")
        if self.cached_prompt not in ("P1", "P2"):
            raise ConfigError(f"cached_prompt={self.cached_prompt!r} is not one of P1, P2.")
        if self.alpha is not None and not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise ConfigError(f"alpha={self.alpha} must be positive, or null for the profile's.")
        if self.alpha is None and self.heads == "all":
            raise ConfigError("heads=all needs alpha=NUMBER: only a head profile brings an alpha of its own.")

    @property
    def _prompt(self) -> int:
        return int(self.cached_prompt == "P2")

    def _chosen_heads(self, engine: Engine) -> dict[int, tuple[int, ...]]:
        """{layer: heads} to steer."""
        if self.heads == "all":
            return engine.all_heads()
        if engine.profile is None:
            raise ConfigError("heads=profiled needs a head profile; profile the model first or use heads=all.")
        return {layer: heads for layer, heads in engine.profile.heads.items() if heads}

    def _steered(
        self,
        engine: Engine,
        context: Context,
        layers: Mapping[int, Tensor],
        query: TokenQuery | None = None,
        calls: int = 0,
    ) -> SteeringPlan:
        heads = self._chosen_heads(engine)
        alpha = self.alpha if self.alpha is not None or engine.profile is None else engine.profile.alpha
        assert alpha is not None
        record = engine.make_record(
            context,
            layers,
            heads,
            alpha,
            apply=self.apply,
            renormalise=self.renormalise,
            cached_prompt=self._prompt,
            query=query,
            settings={"method": type(self).__name__}
            | {k: v for k, v in dataclasses.asdict(self).items() if v is not None},
        )
        return SteeringPlan(record, cached_prompt=self._prompt, calls=calls, query_in_prompt=query is not None)


def _same_for_all(engine: Engine, tokens: Sequence[int] | set[int]) -> dict[int, Tensor]:
    chosen = torch.tensor(sorted(set(tokens)), dtype=torch.int64)
    return dict.fromkeys(range(engine.num_layers), chosen)


@METHODS.add("llmsteer", label="LLMSteer", color="#D55E00", marker="o")
@dataclasses.dataclass(frozen=True)
class LLMSteer(_Steered):
    """Query-independent steering: tokens that are attended to under both of two prompts.

    Attributes:
        k, k_fraction, score, sets, combine, exclude_sink: see `llmsteer.selection.Selection`.
        alpha, heads, apply, renormalise, cached_prompt: as for every steered method; alpha=null takes the head profile's.
    """

    k: int = 64
    k_fraction: float | None = None
    score: str = "mean_corrected"
    sets: str = "per_layer"
    combine: str = "intersection"
    exclude_sink: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.selection  # noqa: B018 - refuses wrong values

    @property
    def selection(self) -> Selection:
        """How tokens are chosen."""
        return Selection(self.k, self.k_fraction, self.score, self.sets, self.combine, self.exclude_sink)

    def plan(self, context: Context, engine: Engine, query: TokenQuery | None) -> SteeringPlan:
        return self._steered(engine, context, engine.select(context, self.selection, layers=self._chosen_heads(engine)))


@METHODS.add("llmsteer_union", label="union of the passes")
@dataclasses.dataclass(frozen=True)
class LLMSteerUnion(LLMSteer):
    """LLMSteer with the tokens that either reading selects (control)."""

    combine: str = "union"


@METHODS.add("llmsteer_pass1", label="first pass alone")
@dataclasses.dataclass(frozen=True)
class LLMSteerPass1(LLMSteer):
    """LLMSteer with the tokens of the first reading (control)."""

    combine: str = "pass1"


@METHODS.add("llmsteer_pass2", label="second pass alone")
@dataclasses.dataclass(frozen=True)
class LLMSteerPass2(LLMSteer):
    """LLMSteer with the tokens of the second reading (control)."""

    combine: str = "pass2"


@METHODS.add("llmsteer_query_dependent", label="LLMSteer, query-dependent", color="#CC79A7", marker="v")
@dataclasses.dataclass(frozen=True)
class LLMSteerQueryDependent(LLMSteer):
    """The same pipeline with the query inside both prompts; selection and steered prefill are done for every query."""

    per_query: ClassVar[bool] = True

    def plan(self, context: Context, engine: Engine, query: TokenQuery | None) -> SteeringPlan:
        assert query is not None
        return self._steered(
            engine, context, engine.select(context, self.selection, query, self._chosen_heads(engine)), query
        )


@METHODS.add("pasta", label="PASTA, gold sentence marked", color="#56B4E9", marker="X")
@dataclasses.dataclass(frozen=True)
class Pasta(_Steered):
    """PASTA: a span that the user marks (here the gold evidence) is kept, all else multiplied by 0.01; per query, uncached."""

    # DEVIATION llmsteer-4: PASTA's heads come from the same coarse-to-fine profile as LLMSteer's, not a multi-task ranking.
    alpha: float | None = 0.01
    per_query: ClassVar[bool] = True

    def plan(self, context: Context, engine: Engine, query: TokenQuery | None) -> SteeringPlan:
        assert query is not None
        if not query.evidence:
            return SteeringPlan(cached_prompt=self._prompt)  # nothing is marked, so nothing is steered
        return _excluding(self)._steered(engine, context, _same_for_all(engine, query.evidence))


def _excluding(method: Any) -> Any:
    """The method with the gain of the span that equals its factor outside the span: 1 / alpha."""
    return dataclasses.replace(method, alpha=None if method.alpha is None else 1.0 / method.alpha)


@METHODS.add("autopasta", label="AutoPASTA", color="#009E73", marker="^")
@dataclasses.dataclass(frozen=True)
class AutoPasta(_Steered):
    """AutoPASTA: a first call names the key sentence, the answer is steered on it with PASTA; two calls, per query.

    Attributes:
        alpha: factor of everything outside the key sentence.
        sentence_tokens: how long the first call's sentence may be.
        first_call_cached: whether the first call may use the cached context; its prompt is the same up to the query. The second
            cannot: its KV depends on the highlighted sentence.
    """

    alpha: float | None = 0.01
    sentence_tokens: int = 100
    first_call_cached: bool = True
    per_query: ClassVar[bool] = True

    def plan(self, context: Context, engine: Engine, query: TokenQuery | None) -> SteeringPlan:
        assert query is not None
        if engine.tokenizer is None:
            request = query.ids
        else:
            request = engine.question(KEY_SENTENCE_REQUEST + query.text)
        prepared = engine.plain(context) if self.first_call_cached else engine.prepare(context, SteeringPlan())
        copied = engine.generate(prepared, request, self.sentence_tokens)
        span = closest_sentence(context, copied.ids)
        return _excluding(self)._steered(engine, context, _same_for_all(engine, range(*span)), calls=1)


def closest_sentence(context: Context, ids: Sequence[int]) -> tuple[int, int]:
    """Token span of the context's sentence that is most like the given tokens; the first of equals.

    Likeness is the cosine of TF-IDF vectors of token ids, every sentence a document.
    """
    # DEVIATION llmsteer-3: TF-IDF cosine instead of a sentence encoder, none is bundled; verbatim copies are found anyway.
    sentences = context.sentences or ((0, len(context.ids)),)
    documents = [Counter(context.ids[first:last]) for first, last in sentences]
    weight = _idf(documents)
    wanted = {token: count * weight.get(token, 0.0) for token, count in Counter(ids).items()}
    scores = []
    for document in documents:
        vector = {token: count * weight[token] for token, count in document.items()}
        norm = math.sqrt(sum(value**2 for value in vector.values()))
        dot = sum(value * wanted.get(token, 0.0) for token, value in vector.items())
        scores.append(dot / norm if norm else 0.0)
    return sentences[int(np.argmax(scores))]


def _idf(documents: Sequence[Mapping[int, int]]) -> dict[int, float]:
    count = Counter(token for document in documents for token in document)
    return {token: math.log((1 + len(documents)) / (1 + holding)) + 1 for token, holding in count.items()}


# --------------------------------------------------------------------------------------------------------------- controls


@METHODS.add("random_tokens", label="random tokens")
@dataclasses.dataclass(frozen=True)
class RandomTokens(LLMSteer):
    """As many tokens per layer as LLMSteer selects, at random (control).

    Attributes:
        seed: of the choice, which also depends on the context.
    """

    seed: int = 0

    def plan(self, context: Context, engine: Engine, query: TokenQuery | None) -> SteeringPlan:
        rng = for_component(self.seed, "random_tokens", hash_ids(context.ids))
        free = np.array([index for index in range(len(context.ids)) if index not in context.excluded], dtype=np.int64)
        layers = {}
        for layer, tokens in engine.select(context, self.selection).items():
            drawn = rng.choice(free, size=min(len(tokens), len(free)), replace=False)
            layers[layer] = torch.from_numpy(np.sort(drawn))
        return self._steered(engine, context, layers)


@METHODS.add("oracle_evidence", label="gold evidence of all queries")
@dataclasses.dataclass(frozen=True)
class OracleEvidence(_Steered):
    """The gold evidence sentences of all the context's queries (control: what perfect query-independent selection would give)."""

    def plan(self, context: Context, engine: Engine, query: TokenQuery | None) -> SteeringPlan:
        tokens = {token for one in context.queries for token in one.evidence}
        return self._steered(engine, context, _same_for_all(engine, tokens))


@METHODS.add("tfidf", label="TF-IDF tokens")
@dataclasses.dataclass(frozen=True)
class TfIdf(_Steered):
    """The k tokens of largest TF-IDF weight, sentences as documents (control: selection without a model).

    Attributes:
        k: how many tokens.
    """

    k: int = 64

    def plan(self, context: Context, engine: Engine, query: TokenQuery | None) -> SteeringPlan:
        documents = [Counter(context.ids[first:last]) for first, last in context.sentences or ((0, len(context.ids)),)]
        weight = _idf(documents)
        count = Counter(context.ids)
        free = (index for index in range(len(context.ids)) if index not in context.excluded)
        ranked = sorted(
            free, key=lambda index: (-count[context.ids[index]] * weight.get(context.ids[index], 0.0), index)
        )
        return self._steered(engine, context, _same_for_all(engine, ranked[: self.k]))


@METHODS.add("temperature", label="temperature", color="#8C6D31", marker="P")
@dataclasses.dataclass(frozen=True)
class Temperature:
    """All attention logits multiplied by tau: sharper attention without any selection (control).

    Attributes:
        tau: factor of the logits; 1 changes nothing.
        layers: "all" or "profiled" (those in which the head profile steers).
    """

    tau: float = 1.25
    layers: str = "all"
    per_query: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.tau > 0 or self.layers not in ("all", "profiled"):
            raise ConfigError(f"tau={self.tau} must be positive and layers={self.layers!r} one of all, profiled.")

    def plan(self, context: Context, engine: Engine, query: TokenQuery | None) -> SteeringPlan:
        if self.layers == "all":
            layers = range(engine.num_layers)
        elif engine.profile is None:
            raise ConfigError("layers=profiled needs a head profile; profile the model first or use layers=all.")
        else:
            return SteeringPlan(sharpen=dict.fromkeys(engine.profile.heads, self.tau))
        return SteeringPlan(sharpen=dict.fromkeys(layers, self.tau))
