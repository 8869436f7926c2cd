"""Memory of a configuration, and the best fit: the richest configuration of the pruned space that starts at once (sheet 2.4).

    stuff        k c + q + a                              one sequence, all or nothing
    map_rerank   k (c + q + a_r)                          k calls at once; smallest unit c + q + a_r
    map_reduce   max(k (c + q + s), k s + q + a)          mappers, then the reducer; smallest unit c + q + s
    M = 1.02 x tokens x bytes per token                   the paper's 2 % buffer

A is what is free and not promised (`ServerLoad.available_tokens`). Among the configurations with M <= A the one with
the largest M is
taken: within the pruned space more memory means slightly better quality.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from common.errors import ConfigError
from ragserve.api import RagConfig, TokenCosts

FitRule = Literal["peak", "unit"]
FIT_RULES = ("peak", "unit")
_BUFFER_PERCENT = 2


def peak_tokens(config: RagConfig, costs: TokenCosts) -> int:
    """Tokens of a configuration when all of it runs at once."""
    k, s = config.num_chunks, config.summary_tokens
    if config.synthesis == "stuff":
        return k * costs.chunk + costs.query + costs.answer
    if config.synthesis == "map_rerank":
        return k * (costs.chunk + costs.query + costs.rerank_answer)
    return max(k * (costs.chunk + costs.query + s), k * s + costs.query + costs.answer)


def unit_tokens(config: RagConfig, costs: TokenCosts) -> int:
    """Tokens of the smallest part of a configuration that can start by itself."""
    if config.synthesis == "stuff":
        return peak_tokens(config, costs)
    if config.synthesis == "map_rerank":
        return costs.chunk + costs.query + costs.rerank_answer
    return costs.chunk + costs.query + config.summary_tokens


def buffered_bytes(tokens: int, costs: TokenCosts) -> int:
    """Bytes of so many tokens with the 2 % buffer, rounded up; exact integer arithmetic."""
    return -(-tokens * costs.bytes_per_token * (100 + _BUFFER_PERCENT) // 100)


def memory_bytes(config: RagConfig, costs: TokenCosts) -> int:
    """M: the memory that a configuration needs."""
    return buffered_bytes(peak_tokens(config, costs), costs)


def room_tokens(available: int, costs: TokenCosts) -> int:
    """The most tokens that fit into so many bytes with the buffer: `peak_tokens <= room_tokens` exactly where M <= A."""
    return available * 100 // (costs.bytes_per_token * (100 + _BUFFER_PERCENT))


@dataclasses.dataclass(frozen=True)
class Choice:
    """A configuration and how it was found.

    Attributes:
        config: the configuration.
        why: "fits" (in the pruned space, by the rule), "starts" (a map_reduce that does not fit by peak but whose
        mappers can start), or
            "out_of_range" (nothing of the space fits).
    """

    config: RagConfig
    why: Literal["fits", "starts", "out_of_range"]


_RANK = {"map_reduce": 0, "map_rerank": 1, "stuff": 2}


def _richness(config: RagConfig, costs: TokenCosts) -> tuple[int, int, int, int]:
    """Order of preference: memory, then k, then stuff before map_reduce, then s (ties inferred)."""
    return peak_tokens(config, costs), config.num_chunks, _RANK[config.synthesis], config.summary_tokens


def richest(space: Sequence[RagConfig], costs: TokenCosts) -> RagConfig:
    """The configuration of largest memory, ties by more chunks, stuff before map_reduce, longer summaries."""
    return max(space, key=lambda config: _richness(config, costs))


def leanest(space: Sequence[RagConfig], costs: TokenCosts) -> RagConfig:
    """The configuration of smallest memory."""
    return min(space, key=lambda config: _richness(config, costs))


def best_fit(
    space: Sequence[RagConfig],
    costs: TokenCosts,
    available: int,
    *,
    fit_rule: FitRule = "peak",
    may_start: bool = True,
) -> Choice:
    """Choose from a pruned space by the memory that is available.

    Args:
        space: the pruned configurations, at least one.
        costs: token counts.
        available: A, bytes, >= 0.
        fit_rule: what must fit: the "peak" of a configuration, or its smallest "unit" (of map_rerank and map_reduce).
        may_start: with rule "peak": where nothing fits, take a map_reduce of the space whose mappers can start one
        by one, before
            leaving the space (inferred from the paper's Fig. 8). Of several, the one of smallest peak.

    Raises:
        ConfigError: an empty space, or no such rule.
    """
    if not space:
        raise ConfigError("the pruned space is empty; a space holds at least one configuration.")
    if fit_rule not in FIT_RULES:
        raise ConfigError(f"fit_rule={fit_rule!r} is not one of {', '.join(FIT_RULES)}.")
    # The largest number of tokens that fits: one division instead of a product per configuration.
    room = room_tokens(available, costs)
    needed = peak_tokens if fit_rule == "peak" else unit_tokens
    fitting = [config for config in space if needed(config, costs) <= room]
    if fitting:
        return Choice(richest(fitting, costs), "fits")
    if may_start and fit_rule == "peak":
        starting = [
            config for config in space if config.synthesis == "map_reduce" and unit_tokens(config, costs) <= room
        ]
        if starting:
            return Choice(leanest(starting, costs), "starts")
    return Choice(_out_of_range(space, costs, room), "out_of_range")


def _out_of_range(space: Sequence[RagConfig], costs: TokenCosts, room: int) -> RagConfig:
    """joint == No: map_rerank, else stuff, with as many chunks as fit, at least one; never more than the space has."""
    most = max(config.num_chunks for config in space)
    if all(config.synthesis == "map_rerank" for config in space):
        fitting = room // (costs.chunk + costs.query + costs.rerank_answer)
        return RagConfig("map_rerank", max(1, min(most, fitting)))
    fitting = (room - costs.query - costs.answer) // costs.chunk
    return RagConfig("stuff", max(1, min(most, fitting)))
