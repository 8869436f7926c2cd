"""Algorithm 1: from a query's profile to a pruned space of configurations; and the fallback window for doubtful profiles.

    joint == No                 methods = {map_rerank}
    else complexity == Low      methods = {stuff}
    else                        methods = {stuff, map_reduce}
    num_chunks          = [n, 3n]                       leeway for retrieval noise and for the scheduler
    intermediate_length = the profile's summary range

Symbols of the paper: n is `Profile.pieces`, k is `RagConfig.num_chunks`, s is `RagConfig.summary_tokens`.
"""

import collections
import dataclasses
from collections.abc import Sequence

from common.errors import ConfigError
from ragserve.api import Profile, RagConfig, Synthesis


@dataclasses.dataclass(frozen=True)
class SpaceSettings:
    """Which values exist. The defaults are the paper's.

    Attributes:
        summary_grid: allowed summary lengths, rising; its ends are the smallest and largest sensible length.
        chunk_grid: allowed numbers of chunks, rising; None for every integer.
        default_pieces: n of the space that is used when a profile is doubtful and no confident one was seen yet.
    """

    summary_grid: tuple[int, ...] = tuple(range(30, 201, 10))
    chunk_grid: tuple[int, ...] | None = None
    default_pieces: int = 3

    def __post_init__(self) -> None:
        for name, grid in (("summary_grid", self.summary_grid), ("chunk_grid", self.chunk_grid)):
            if grid is not None and (not grid or grid[0] < 1 or list(grid) != sorted(set(grid))):
                raise ConfigError(f"{name}={grid} must be rising numbers of at least 1.")
        if not 1 <= self.default_pieces <= 10:
            raise ConfigError(f"default_pieces={self.default_pieces} must be 1..10.")


def synthesis_methods(profile: Profile) -> tuple[Synthesis, ...]:
    """The first lines of Algorithm 1."""
    if not profile.needs_joint:
        return ("map_rerank",)
    return ("stuff", "map_reduce") if profile.is_complex else ("stuff",)


def summary_lengths(summary_range: tuple[int, int], settings: SpaceSettings) -> list[int]:
    """Grid values within a range; the nearest one where none is.

    A single value v (equal ends) stands for 0.75 v to 1.25 v, as the profiler may return either (inferred; the
    sheet's reading).
    """
    low, high = summary_range
    grid = settings.summary_grid
    if low == high:
        low, high = int(max(grid[0], 0.75 * low)), int(min(grid[-1], 1.25 * high))
    low, high = min(max(low, grid[0]), grid[-1]), max(min(high, grid[-1]), grid[0])
    return [s for s in grid if low <= s <= high] or [min(grid, key=lambda s: (abs(s - (low + high) / 2), s))]


def chunk_counts(pieces: int, settings: SpaceSettings, max_chunks: int) -> list[int]:
    """Numbers of chunks within [n, 3n], clipped to what corpus and model allow; at least one.

    Where the grid has no value in the range the nearest usable one stands in.
    """
    low, high = min(pieces, max_chunks), min(3 * pieces, max_chunks)
    if settings.chunk_grid is None:
        return list(range(low, high + 1))
    usable = [k for k in settings.chunk_grid if k <= max_chunks] or [max_chunks]
    return [k for k in usable if low <= k <= high] or [min(usable, key=lambda k: (abs(k - low), k))]


def pruned_space(profile: Profile, settings: SpaceSettings, max_chunks: int) -> tuple[RagConfig, ...]:
    """The pruned configurations of a profile, stuff and map_rerank first, each by rising k and s.

    Size: at most (2n + 1)(1 + |summary grid|).

    Raises:
        ConfigError: max_chunks < 1.
    """
    if max_chunks < 1:
        raise ConfigError(
            f"max_chunks={max_chunks} must be at least 1: an empty corpus, or chunks longer than the model's context."
        )
    counts = chunk_counts(profile.pieces, settings, max_chunks)
    space: list[RagConfig] = []
    for synthesis in synthesis_methods(profile):
        if synthesis == "map_reduce":
            lengths = summary_lengths(profile.summary_range, settings)
            space += [RagConfig(synthesis, k, s) for k in counts for s in lengths]
        else:
            space += [RagConfig(synthesis, k) for k in counts]
    return tuple(space)


def default_space(settings: SpaceSettings, max_chunks: int) -> tuple[RagConfig, ...]:
    """The space for a doubtful profile before any confident one: all methods, for `default_pieces` (inferred)."""
    joint = Profile(True, True, settings.default_pieces, (settings.summary_grid[0], settings.summary_grid[-1]))
    single = dataclasses.replace(joint, needs_joint=False)
    return pruned_space(single, settings, max_chunks) + pruned_space(joint, settings, max_chunks)


@dataclasses.dataclass
class ProfileWindow:
    """The pruned spaces of the most recent queries, for profiles that cannot be trusted (sheet 2.2).

    The paper says that the spaces of the 10 most recent queries are used; we take the union over those with a confident profile
    (inferred). One window belongs to one stream of queries.

    Attributes:
        settings: of the spaces.
        threshold: profiles below this confidence are not trusted.
        size: how many recent queries count.
    """

    settings: SpaceSettings = dataclasses.field(default_factory=SpaceSettings)
    threshold: float = 0.9
    size: int = 10
    _recent: collections.deque[Profile] = dataclasses.field(default_factory=collections.deque, init=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0 or self.size < 1:
            raise ConfigError(f"threshold={self.threshold} must be within 0..1 and size={self.size} at least 1.")

    def space_for(self, profile: Profile, max_chunks: int) -> tuple[tuple[RagConfig, ...], bool]:
        """The space of a query, and whether its own profile was trusted. Confident profiles enter the window."""
        if profile.confidence >= self.threshold:
            self._recent.append(profile)
            while len(self._recent) > self.size:
                self._recent.popleft()
            return pruned_space(profile, self.settings, max_chunks), True
        return self._union(max_chunks), False

    def _union(self, max_chunks: int) -> tuple[RagConfig, ...]:
        spaces: Sequence[tuple[RagConfig, ...]] = [
            pruned_space(profile, self.settings, max_chunks) for profile in self._recent
        ]
        if not spaces:
            return default_space(self.settings, max_chunks)
        return tuple(dict.fromkeys(config for space in spaces for config in space))
