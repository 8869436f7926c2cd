"""Which form each chunk is sent in: the paper's adaptation, and what it is compared with.

A policy sees sizes, its profile of recompute times, the clock, the deadline and the throughput of the chunk before; nothing of
the future, and it keeps no state.
"""

import dataclasses
import math
from collections.abc import Sequence

from cachegen.api import POLICIES, ChunkOffer, Decision, StreamState
from common.errors import ConfigError


@POLICIES.add("adaptive", label="CacheGen", color="#0072B2", marker="o")
@dataclasses.dataclass(frozen=True)
class Adaptive:
    """The paper's algorithm: text if recomputing all that remains meets the deadline, else the best level that does.

    Each choice assumes that throughput stays as it was on the last chunk and that all remaining chunks go the same way. If
    nothing fits, the smallest level; without any throughput, text, which has the fewest bytes.

    Attributes:
        first_level: level of the first chunk when nothing is known about the link; None for the middle one.
        allows_text: False leaves recomputation out.
        reserve_share: share of the time left that is not planned with. The paper plans with all of it, so that the smallest drop
            in throughput after the last choice misses the deadline.
    """

    first_level: int | None = None
    allows_text: bool = True
    reserve_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.reserve_share < 1:
            raise ConfigError(f"reserve_share={self.reserve_share} must lie in [0, 1).")

    def choose(self, remaining: Sequence[ChunkOffer], state: StreamState) -> Decision:
        """See `StreamPolicy.choose`."""
        num_levels = len(remaining[0].level_bytes)
        if state.throughput_bps is None:
            return Decision(num_levels // 2 if self.first_level is None else min(self.first_level, num_levels - 1))
        left_s = (state.deadline_s - state.now_s) * (1 - self.reserve_share)
        if self.allows_text and text_s(remaining, state) <= left_s:
            return Decision(None)
        for level in range(num_levels - 1, -1, -1):
            if level_s(remaining, level, state) <= left_s:
                return Decision(level)
        return Decision(None if self.allows_text and not state.throughput_bps else 0)


def text_s(remaining: Sequence[ChunkOffer], state: StreamState) -> float:
    """Expected time to fetch all remaining chunks as text and prefill them, for all concurrent requests."""
    recompute_s = sum(offer.recompute_s for offer in remaining) * state.concurrency
    return recompute_s + _transfer_s(sum(offer.text_bytes for offer in remaining), state)


def level_s(remaining: Sequence[ChunkOffer], level: int, state: StreamState) -> float:
    """Expected time to fetch all remaining chunks at one level and decode them, for all concurrent requests.

    Decoding hides behind the transfer of the next chunk: only the last one's counts, unless the decoder is the slower of the two.
    """
    transfer_s = _transfer_s(sum(offer.level_bytes[level] for offer in remaining), state)
    decode_s = [offer.decode_s[level] * state.concurrency for offer in remaining if offer.decode_s] or [0.0]
    return max(transfer_s + decode_s[-1], sum(decode_s))


def _transfer_s(num_bytes: int, state: StreamState) -> float:
    if not state.throughput_bps:
        return math.inf
    return 8 * num_bytes * state.concurrency / state.throughput_bps


@POLICIES.add("careful", label="CacheGen with a reserve (ours)", color="#009E73", marker="D")
@dataclasses.dataclass(frozen=True)
class Careful(Adaptive):
    """The paper's algorithm with a tenth of the time left in reserve (ours). Knobs as `adaptive`."""

    reserve_share: float = 0.1


@POLICIES.add("fixed", label="CacheGen without adaptation", color="#56B4E9", marker="v")
@dataclasses.dataclass(frozen=True)
class Fixed:
    """Every chunk at the same level.

    Attributes:
        level: its index; negative ones count from the best; None for the middle one.
    """

    level: int | None = None

    def choose(self, remaining: Sequence[ChunkOffer], state: StreamState) -> Decision:
        """See `StreamPolicy.choose`."""
        num_levels = len(remaining[0].level_bytes)
        level = num_levels // 2 if self.level is None else self.level
        if not -num_levels <= level < num_levels:
            raise ConfigError(f"level {level} is not one of 0..{num_levels - 1}.")
        return Decision(level % num_levels)


@POLICIES.add("text_only", label="Text (recompute)", color="#66A61E", marker="*")
@dataclasses.dataclass(frozen=True)
class TextOnly:
    """Every chunk as text."""

    def choose(self, remaining: Sequence[ChunkOffer], state: StreamState) -> Decision:
        """See `StreamPolicy.choose`."""
        return Decision(None)


@POLICIES.add("released", label="Released script", color="#8C6D31", marker="<")
@dataclasses.dataclass(frozen=True)
class EqualShares:
    """As in the published script: each chunk gets an equal share of the deadline, whatever time was lost or won before.

    The script also knew each chunk's bandwidth beforehand; this policy gets what all others get.
    """

    total_chunks: int = 0

    def choose(self, remaining: Sequence[ChunkOffer], state: StreamState) -> Decision:
        """See `StreamPolicy.choose`."""
        offer, num_levels = remaining[0], len(remaining[0].level_bytes)
        if state.throughput_bps is None:
            return Decision(num_levels // 2)
        share_s = state.deadline_s / max(self.total_chunks or len(remaining), 1)
        if text_s([offer], state) <= share_s:
            return Decision(None)
        for level in range(num_levels - 1, -1, -1):
            if level_s([offer], level, state) <= share_s:
                return Decision(level)
        return Decision(0)
