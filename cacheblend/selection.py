"""Which tokens to recompute, and how many of them at which layer (CacheBlend, HKVD tokens and gradual filtering).

A selector looks at one layer and picks `count` of the candidate tokens; a schedule turns the paper's recompute ratio r into a
ratio r_i for each layer i.

Shape legend: C candidates (reused tokens still being recomputed), H key/value heads, D head dimension, Q query heads,
S suffix rows.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cacheblend.api import SELECTORS
from cacheblend.attention import probabilities
from common.errors import ConfigError


@dataclasses.dataclass(frozen=True, eq=False)
class SelectionContext:
    """What a selector sees of one layer.

    Attributes:
        layer: index of the layer that is about to be computed.
        count: how many candidates to pick, 0 <= count <= C.
        positions_C: absolute positions of the candidates, increasing, int64 on the CPU.
        chunk_C: index of the chunk that each candidate belongs to.
        offset_C: place of each candidate in its chunk, 0 for a chunk's first token.
        from_end_C: its place counted from the end of its chunk, 0 for a chunk's last token.
        fresh_k_HCD, fresh_v_HCD: keys and values as computed now, at this layer, from the whole context below it.
        reused_k_HCD, reused_v_HCD: the cached ones, positions recovered. All four are None unless the selector's `parts` ask.
        question_queries: returns (queries (Q, S, D) of the suffix rows at this layer, scale of the scores).
        rng: a random stream that belongs to this request.
    """

    layer: int
    count: int
    positions_C: Tensor
    chunk_C: Tensor
    offset_C: Tensor
    from_end_C: Tensor
    fresh_k_HCD: Tensor | None
    fresh_v_HCD: Tensor | None
    reused_k_HCD: Tensor | None
    reused_v_HCD: Tensor | None
    question_queries: Callable[[], tuple[Tensor, float]]
    rng: np.random.Generator


class Selector(Protocol):
    """Picks tokens. `parts` says which of "k" and "v" it must see fresh and reused; "" for choices made in advance."""

    @property
    def parts(self) -> str:
        """Any of "", "k", "v", "kv"."""
        ...

    def select(self, context: SelectionContext) -> Tensor:
        """Indices into the candidates, `context.count` of them, increasing and unique, int64 on the CPU."""
        ...


def top(score_C: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest scores, in increasing order; ties go to the earlier token."""
    order = torch.sort(score_C, descending=True, stable=True).indices[:count]
    return order.cpu().sort().values


def deviation(fresh_HCD: Tensor, reused_HCD: Tensor) -> Tensor:
    """Size of the difference of each token, (C,): the L2 norm over heads and channels, in at least float32."""
    difference = fresh_HCD - reused_HCD
    if difference.dtype not in (torch.float32, torch.float64):
        difference = difference.float()
    return difference.square_().sum(dim=(0, 2)).sqrt_()


@SELECTORS.add("hkvd", label="KV deviation")
@dataclasses.dataclass(frozen=True)
class HighKVDeviation:
    """The tokens whose reused KV differs most from the fresh one (the paper's HKVD tokens).

    Attributes:
        part: which difference counts: "v" of values, "k" of keys, "kv" of both, each divided by the mean size of the fresh
            keys or values, since the two live on different scales.
    """

    # DEVIATION cacheblend-1: the paper speaks of the deviation of KV; like its released code we rank by V unless told otherwise.
    part: str = "v"

    def __post_init__(self) -> None:
        if self.part not in ("v", "k", "kv"):
            raise ConfigError(f"part={self.part!r} is not one of v, k, kv.")

    @property
    def parts(self) -> str:
        return self.part

    def select(self, context: SelectionContext) -> Tensor:
        return top(self.score(context), context.count)

    def score(self, context: SelectionContext) -> Tensor:
        """Deviation of each candidate, (C,)."""
        if self.part == "v":
            return deviation(_given(context.fresh_v_HCD), _given(context.reused_v_HCD))
        if self.part == "k":
            return deviation(_given(context.fresh_k_HCD), _given(context.reused_k_HCD))
        relative = []
        for fresh, reused in (
            (context.fresh_k_HCD, context.reused_k_HCD),
            (context.fresh_v_HCD, context.reused_v_HCD),
        ):
            size = deviation(_given(fresh), torch.zeros_like(_given(fresh))).mean()
            relative.append(deviation(_given(fresh), _given(reused)) / size.clamp_min(torch.finfo(size.dtype).tiny))
        return torch.hypot(*relative)


@SELECTORS.add("random", label="random")
@dataclasses.dataclass(frozen=True)
class RandomTokens:
    """Tokens drawn at random, the same share from early and late ones."""

    parts = ""

    def select(self, context: SelectionContext) -> Tensor:
        chosen = context.rng.choice(len(context.positions_C), size=context.count, replace=False)
        return torch.from_numpy(np.sort(chosen)).to(torch.int64)


@SELECTORS.add("first_of_chunk", label="first of each chunk")
@dataclasses.dataclass(frozen=True)
class FirstOfChunk:
    """The first tokens of every chunk, the same number of each as far as the count allows (EPIC)."""

    parts = ""

    def select(self, context: SelectionContext) -> Tensor:
        return top(-context.offset_C.double(), context.count)


@SELECTORS.add("last", label="last tokens")
@dataclasses.dataclass(frozen=True)
class LastTokens:
    """The last tokens of the reused context, those nearest to the question; with `of="chunk"`, the last of every chunk."""

    of: str = "context"
    parts = ""

    def __post_init__(self) -> None:
        if self.of not in ("context", "chunk"):
            raise ConfigError(f"of={self.of!r} is not one of context, chunk.")

    def select(self, context: SelectionContext) -> Tensor:
        if self.of == "chunk":
            return top(-context.from_end_C.double(), context.count)
        total = len(context.positions_C)
        return torch.arange(total - context.count, total)


@SELECTORS.add("question_attention", label="question attention")
@dataclasses.dataclass(frozen=True)
class QuestionAttention:
    """The tokens that the question attends to most at this layer, summed over heads and question tokens."""

    parts = "k"

    def select(self, context: SelectionContext) -> Tensor:
        return top(self.score(context), context.count)

    def score(self, context: SelectionContext) -> Tensor:
        """Attention mass that each candidate gets among the candidates, (C,)."""
        query_QSD, scale = context.question_queries()
        key_HCD = _given(context.fresh_k_HCD)
        sees_all = torch.full((query_QSD.shape[1],), key_HCD.shape[1] - 1)
        return probabilities(query_QSD, key_HCD, sees_all, scale).sum(dim=(0, 1))


@SELECTORS.add("attended_deviation", label="deviation × attention")
@dataclasses.dataclass(frozen=True)
class AttendedDeviation:
    """Deviation of the values times the question's attention: what is wrong and looked at."""

    parts = "kv"

    def select(self, context: SelectionContext) -> Tensor:
        score = HighKVDeviation("v").score(context) * QuestionAttention().score(context)
        return top(score, context.count)


@dataclasses.dataclass(frozen=True, eq=False)
class GivenScores:
    """The tokens with the highest of scores given in advance.

    Attributes:
        score_N: a score for every position of the prompt.
    """

    score_N: Tensor
    parts = ""

    def select(self, context: SelectionContext) -> Tensor:
        return top(self.score_N.cpu()[context.positions_C], context.count)


def _given(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ConfigError(
            "this selector compares fresh with reused KV, which exist from layer 1 on: use check_layer >= 1."
        )
    return tensor


# ------------------------------------------------------------------------------------------------------------- schedules


def layer_ratios(ratio: float, num_steps: int, schedule: str | Sequence[float] = "linear") -> tuple[float, ...]:
    """The recompute ratio of each layer from the check layer on; their mean is `ratio` (CacheBlend, gradual filtering).

    Args:
        ratio: the paper's r, in [0, 1].
        num_steps: number of layers from the check layer to the last, >= 1.
        schedule: "constant": one selection, kept for all layers. "linear" (inferred; the paper gives no schedule): from 1.3 r
            at the check layer falling linearly to 0.85 r over the first third of the layers, then constant. A list: relative
            weights, one per layer, non-increasing; the last one stands for the layers that it does not name.

    Returns:
        num_steps ratios in [0, 1], non-increasing; where a weight would take one above 1, it stops at 1 and the others make up
        for it.

    Raises:
        ConfigError: an unknown schedule, increasing or negative weights, a ratio outside [0, 1].
    """
    return _layer_ratios(ratio, num_steps, schedule if isinstance(schedule, str) else tuple(schedule))


@functools.lru_cache(maxsize=64)  # every request asks for the same
def _layer_ratios(ratio: float, num_steps: int, schedule: str | tuple[float, ...]) -> tuple[float, ...]:
    if not 0 <= ratio <= 1:
        raise ConfigError(f"recompute ratio {ratio} is not in [0, 1].")
    weights = _weights(num_steps, schedule)
    if ratio == 1:
        return (1.0,) * num_steps
    # min(1, scale * w) has a mean that grows with the scale: bisect for the one whose mean is the ratio.
    low, high = 0.0, max(1.0, 1.0 / weights[-1])
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1, middle * weights).mean() < ratio else (low, middle)
    return tuple(float(value) for value in np.minimum(1, high * weights))


def _weights(num_steps: int, schedule: str | Sequence[float]) -> np.ndarray:
    if isinstance(schedule, str):
        if schedule == "constant":
            return np.ones(num_steps)
        if schedule == "linear":
            # DEVIATION cacheblend-2: the paper describes gradual filtering without giving a schedule; this one is ours.
            falling = max(1, round(num_steps / 3))
            return np.interp(np.arange(num_steps), [0, falling], [1.3, 0.85])
        raise ConfigError(f"schedule {schedule!r} is not constant, linear or a list of weights.")
    weights = np.array([*schedule, *([schedule[-1]] * num_steps)][:num_steps], dtype=float) if len(schedule) else None
    if weights is None or not np.isfinite(weights).all() or (weights <= 0).any() or (np.diff(weights) > 0).any():
        raise ConfigError(f"schedule weights {list(schedule)} must be positive and must not increase.")
    return weights


def layer_counts(ratios: Sequence[float], num_candidates: int) -> tuple[int, ...]:
    """How many candidates each layer recomputes: the rounded ratios, kept non-increasing, their mean within 1/2 of exact."""
    counts: list[int] = []
    owed = 0.0
    for ratio in ratios:
        # Carry the rounding error on, so that the mean over the layers stays right also for a handful of tokens.
        exact = ratio * num_candidates + owed
        count = min(max(0, round(exact)), num_candidates, counts[-1] if counts else num_candidates)
        owed = exact - count
        counts.append(count)
    return tuple(counts)
