"""The paper's system and every baseline, each as a registered method.

All of them run through `cacheblend.blend`, with the same attention and the same projections; they differ in what they reuse
and in which rows they compute.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import torch

from cacheblend.api import METHODS, SELECTORS, Computed, Prefill, Request
from cacheblend.blend import PREFILL, BlendPlan
from cacheblend.engine import Engine
from cacheblend.selection import FirstOfChunk, GivenScores, LastTokens, RandomTokens, Selector, deviation
from common.errors import ConfigError


def _prefill(computed: Computed) -> Prefill:
    return Prefill(computed, computed.report.recomputed_tokens)


@METHODS.add("full_recompute", label="full recompute", color="#000000", marker="s")
@dataclasses.dataclass(frozen=True)
class FullRecompute:
    """Ordinary prefill of the whole prompt; nothing is reused."""

    def prefill(self, request: Request, engine: Engine) -> Prefill:
        return _prefill(engine.compute(engine.ids(request)[len(engine.bos) :]))


@METHODS.add("prefix_caching", label="prefix caching", color="#0072B2", marker="^")
@dataclasses.dataclass(frozen=True)
class PrefixCaching:
    """Reuse the longest cached prefix (system prompt and first chunk), compute the rest (vLLM, SGLang)."""

    def prefill(self, request: Request, engine: Engine) -> Prefill:
        return _prefill(engine.blend_pieces(request, engine.prefix(request), PREFILL).computed)


@METHODS.add("full_reuse", label="full KV reuse", color="#E69F00", marker="v")
@dataclasses.dataclass(frozen=True)
class FullReuse:
    """Reuse every chunk's KV as it is, positions corrected; compute the question alone (PromptCache)."""

    def prefill(self, request: Request, engine: Engine) -> Prefill:
        # No layer is computed in full: nothing is chosen, so nothing must be compared.
        return _prefill(engine.blend(request, BlendPlan(0.0, FirstOfChunk(), check_layer=0, schedule="constant")))


@METHODS.add("cacheblend", label="CacheBlend", color="#D55E00", marker="o")
@dataclasses.dataclass(frozen=True)
class CacheBlend:
    """Recompute the tokens whose reused KV deviates most, fewer from layer to layer (CacheBlend).

    Attributes:
        ratio: the paper's r.
        selector: registered name of what picks the tokens; the paper's is "hkvd".
        selector_args: its knobs, e.g. {"part": "kv"}.
        check_layer, schedule, keep_fresh, mask: see `cacheblend.blend.BlendPlan`.
    """

    ratio: float = 0.15
    selector: str = "hkvd"
    selector_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    check_layer: int = 1
    schedule: str | tuple[float, ...] = "linear"
    keep_fresh: bool = True
    mask: str = "absolute"

    def __post_init__(self) -> None:
        self.plan()  # a bad knob is refused here, before anything runs

    def plan(self) -> BlendPlan:
        """The knobs as a plan."""
        return BlendPlan(
            self.ratio,
            SELECTORS.create(self.selector, **self.selector_args),
            self.check_layer,
            self.schedule if isinstance(self.schedule, str) else tuple(self.schedule),
            self.keep_fresh,
            mask=self.mask,
        )

    def prefill(self, request: Request, engine: Engine) -> Prefill:
        return _prefill(engine.blend(request, self.plan()))


@METHODS.add("epic_first_k", label="EPIC (first k)", color="#009E73", marker="D")
@dataclasses.dataclass(frozen=True)
class EpicFirstK:
    """Recompute the first k tokens of every chunk on all layers; no layer is computed in full (EPIC, LegoLink).

    Attributes:
        k: tokens per chunk; None: as many as `ratio` of the reused tokens make.
        ratio: used when k is None.
    """

    k: int | None = 16
    ratio: float = 0.15

    def prefill(self, request: Request, engine: Engine) -> Prefill:
        pieces, missed = engine.pieces(request)
        ratio = self.ratio
        if self.k is not None:
            starts = [*pieces.chunk_starts, pieces.num_tokens]
            lengths = [end - start for start, end in itertools.pairwise(starts)]
            ratio = sum(min(self.k, length) for length in lengths) / max(1, sum(lengths))
        plan = BlendPlan(ratio, FirstOfChunk(), check_layer=0, schedule="constant")
        return _prefill(engine.blend_pieces(request, pieces, plan, missed).computed)


@dataclasses.dataclass(frozen=True)
class _FixedChoice:
    """A choice that looks at no KV, otherwise run exactly as CacheBlend.

    Attributes:
        ratio: share of the reused tokens.
        check_layer: 1 computes layer 0 in full as CacheBlend must, so that only the choice differs; 0 saves that.
        schedule: as for CacheBlend.
    """

    ratio: float = 0.15
    check_layer: int = 1
    schedule: str | tuple[float, ...] = "constant"

    def _run(self, request: Request, engine: Engine, selector: Selector) -> Prefill:
        schedule = self.schedule if isinstance(self.schedule, str) else tuple(self.schedule)
        return _prefill(engine.blend(request, BlendPlan(self.ratio, selector, self.check_layer, schedule)))


@METHODS.add("random", label="random tokens", color="#7F7F7F", marker="X")
@dataclasses.dataclass(frozen=True)
class RandomChoice(_FixedChoice):
    """Recompute tokens drawn at random."""

    def prefill(self, request: Request, engine: Engine) -> Prefill:
        return self._run(request, engine, RandomTokens())


@METHODS.add("last_k", label="last tokens", color="#8C6D31", marker="<")
@dataclasses.dataclass(frozen=True)
class LastK(_FixedChoice):
    """Recompute the last tokens of the reused context, those nearest to the question (of="chunk": of every chunk)."""

    of: str = "context"

    def prefill(self, request: Request, engine: Engine) -> Prefill:
        return self._run(request, engine, LastTokens(self.of))


@METHODS.add("oracle", label="oracle (true deviation)", color="#CC79A7", marker="*")
@dataclasses.dataclass(frozen=True)
class OracleDeviation(_FixedChoice):
    """Recompute the tokens whose KV truly deviates most, summed over the layers; needs the full prefill, so it has no TTFT."""

    needs_truth = True

    def prefill(self, request: Request, engine: Engine) -> Prefill:
        truth = engine.truth(request).kv
        reused = engine.blend(request, BlendPlan(0.0, FirstOfChunk(), check_layer=0, schedule="constant")).kv
        score_N = torch.zeros(truth.num_tokens, dtype=torch.float64)
        for layer in range(1, truth.num_layers):
            deviation_N = deviation(truth.values_LHTD[layer], reused.values_LHTD[layer]).double().cpu()
            # Each layer counts alike, although values grow in size from layer to layer.
            score_N += deviation_N / deviation_N.sum().clamp_min(1e-300)
        return self._run(request, engine, GivenScores(score_N))


@METHODS.add("no_position_recovery", label="reuse, positions wrong", color="#56B4E9", marker="P")
@dataclasses.dataclass(frozen=True)
class NoPositionRecovery:
    """Full KV reuse with the keys left at the positions where they were cached: shows what re-positioning is worth."""

    def prefill(self, request: Request, engine: Engine) -> Prefill:
        plan = BlendPlan(0.0, FirstOfChunk(), check_layer=0, schedule="constant", recover_positions=False)
        return _prefill(engine.blend(request, plan))


@METHODS.add("map_reduce", label="MapReduce", color="#5E4FA2", marker=">")
@dataclasses.dataclass(frozen=True)
class MapReduce:
    """Summarise each chunk for the question, then answer from the summaries (LangChain).

    Attributes:
        summary_tokens: most tokens per summary.
    """

    summary_tokens: int = 24

    def __post_init__(self) -> None:
        if self.summary_tokens < 1:
            raise ConfigError(f"summary_tokens={self.summary_tokens} must be at least 1.")

    def prefill(self, request: Request, engine: Engine) -> Prefill:
        work = engine.tokens_computed
        instruction = request.instruction or request.question
        summaries: list[int] = []
        for chunk in request.chunks:
            read = engine.compute((*request.prefix, *chunk, *instruction))
            summaries += [*engine.decode(read, self.summary_tokens).ids, *engine.separator]
        computed = engine.compute((*request.prefix, *summaries, *request.question))
        return Prefill(computed, engine.tokens_computed - work)


@METHODS.add("map_rerank", label="MapRerank", color="#66A61E", marker="p")
@dataclasses.dataclass(frozen=True)
class MapRerank:
    """Answer from each chunk alone and keep the answer that the model is surest of (LangChain).

    The score is the mean log-probability of the answer's tokens (inferred): a model can be too small to state a confidence.
    """

    def prefill(self, request: Request, engine: Engine) -> Prefill:
        work = engine.tokens_computed
        best: tuple[float, Computed] | None = None
        for chunk in request.chunks or ((),):
            computed = engine.compute((*request.prefix, *chunk, *request.question))
            # DEVIATION cacheblend-6: LangChain's prompt asks for a score in words, which small models cannot give.
            score = engine.decode(computed, request.max_answer_tokens).mean_logprob
            if best is None or score > best[0]:
                best = score, computed
        assert best is not None
        return Prefill(best[1], engine.tokens_computed - work)
