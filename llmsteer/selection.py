"""Which tokens are steered: from column sums of two readings to one set per layer (LLMSteer, token selection).

Symbols of the paper: `sums_LN` is a, the cumulative attention score; `k` is k; the sets are T (per reading) and S (combined).

Shape legend: L layers, N context tokens.
"""

import dataclasses
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from common.errors import ConfigError

SCORES = ("mean_corrected", "raw_sum")
SETS = ("per_layer", "pooled")
COMBINES = ("intersection", "union", "pass1", "pass2")


@dataclasses.dataclass(frozen=True)
class Selection:
    """How tokens are chosen. The paper leaves all of this open but the intersection; first values are our defaults (inferred).

    Attributes:
        k: how many tokens of each reading are taken.
        k_fraction: instead of k, a share of the context's tokens; None: k counts.
        score: "mean_corrected" (mean attention over the rows that can see the token) or "raw_sum". In a raw sum early tokens win,
            because more rows add up.
        sets: "per_layer", or "pooled" (one set for all layers, from the layers' normalised scores).
        combine: "intersection" of the two readings' sets, their "union", or one alone ("pass1", "pass2").
        exclude_sink: leave out template tokens, punctuation, and what lies in the first `sink_tokens` of the prompt.
        sink_tokens: how many first positions of the whole prompt count as attention sink.

    Raises:
        ConfigError: a value is not allowed.
    """

    k: int = 64
    k_fraction: float | None = None
    score: str = "mean_corrected"
    sets: str = "per_layer"
    combine: str = "intersection"
    exclude_sink: bool = True
    sink_tokens: int = 4

    def __post_init__(self) -> None:
        for name, allowed in (("score", SCORES), ("sets", SETS), ("combine", COMBINES)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}.")
        if self.k < 1 or self.sink_tokens < 0:
            raise ConfigError(f"k={self.k} must be at least 1 and sink_tokens={self.sink_tokens} at least 0.")
        if self.k_fraction is not None and not 0 < self.k_fraction <= 1:
            raise ConfigError(f"k_fraction={self.k_fraction} must be in (0, 1], or null for k tokens.")

    def num_selected(self, num_tokens: int) -> int:
        """k for a context of so many tokens."""
        wanted = self.k if self.k_fraction is None else max(1, round(self.k_fraction * num_tokens))
        return min(wanted, num_tokens)


def corrected(sums_LN: Tensor, score: str) -> Tensor:
    """Scores from column sums: as they are, or divided by the number of rows that can see each token (N - j)."""
    if score == "raw_sum":
        return sums_LN
    rows_N = torch.arange(sums_LN.shape[-1], 0, -1, device=sums_LN.device, dtype=sums_LN.dtype)
    return sums_LN / rows_N


def top_tokens(score_N: Tensor, k: int, excluded: Collection[int] = ()) -> Tensor:
    """Indices of the k largest scores that are not excluded, sorted, int64; ties go to the earlier token."""
    order = torch.argsort(score_N, descending=True, stable=True).cpu()
    if excluded:
        barred = torch.zeros(len(score_N), dtype=torch.bool)
        barred[list(excluded)] = True
        order = order[~barred[order]]
    return order[:k].sort().values


def combine_sets(first: Tensor, second: Tensor, how: str) -> Tensor:
    """Two sorted index sets as one, sorted: see `Selection.combine`."""
    if how == "pass1":
        return first
    if how == "pass2":
        return second
    if how == "union":
        return torch.cat([first, second]).unique(sorted=True)
    return first[torch.isin(first, second)]


def select(
    first_LN: Tensor, second_LN: Tensor, how: Selection, excluded: Collection[int] = (), prefix_tokens: int = 0
) -> dict[int, Tensor]:
    """The steering set of every layer (LLMSteer: S_l is T of pass 1 intersected with T of pass 2).

    Args:
        first_LN, second_LN: column sums of the context's tokens under the two prompts, relative to the context's start, so that
            prompts of different length do not shift them.
        how: the choices.
        excluded: indices that must not be chosen; counts with `exclude_sink`.
        prefix_tokens: length of the shorter prompt; the sink is counted from its start.

    Returns:
        {layer: sorted indices, int64}; the same for all layers if pooled.

    Raises:
        ConfigError: the readings are of different contexts.
    """
    if first_LN.shape != second_LN.shape:
        raise ConfigError(f"the readings differ in shape: {tuple(first_LN.shape)} and {tuple(second_LN.shape)}.")
    num_layers, num_tokens = first_LN.shape
    barred = set(excluded) | set(range(min(max(0, how.sink_tokens - prefix_tokens), num_tokens)))
    if not how.exclude_sink:
        barred = set()
    k = how.num_selected(num_tokens)
    scores = [corrected(sums.double(), how.score) for sums in (first_LN, second_LN)]
    if how.sets == "pooled":
        # Each layer counts the same, however many rows and heads it adds up.
        pooled = [(score / score.sum(1, keepdim=True)).sum(0) for score in scores]
        first, second = (top_tokens(score_N, k, barred) for score_N in pooled)
        chosen = combine_sets(first, second, how.combine)
        return dict.fromkeys(range(num_layers), chosen)
    chosen_by_layer = {}
    for layer in range(num_layers):
        first, second = (top_tokens(score[layer], k, barred) for score in scores)
        chosen_by_layer[layer] = combine_sets(first, second, how.combine)
    return chosen_by_layer


def jaccard(first: Collection[int], second: Collection[int]) -> float:
    """Size of the intersection over that of the union; 1 for two empty sets."""
    one, other = set(first), set(second)
    return len(one & other) / len(one | other) if one | other else 1.0


def precision_recall(chosen: Collection[int], gold: Collection[int]) -> tuple[float, float]:
    """Shares of the chosen tokens that are gold, and of the gold tokens that are chosen; 0 where there are none."""
    hit = len(set(chosen) & set(gold))
    return hit / len(set(chosen)) if chosen else 0.0, hit / len(set(gold)) if gold else 0.0


def as_sets(layers: Mapping[int, Tensor]) -> dict[int, frozenset[int]]:
    """Index sets by layer, as plain numbers."""
    return {layer: frozenset(tokens.tolist()) for layer, tokens in layers.items()}
