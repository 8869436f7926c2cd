"""What a codec does, as data: quantisation levels by layer depth, and the switches between the variants of the codec.

Three forms are given: `PAPER` (the paper's text), `RELEASED` (its published code, which has no deltas and ships its tables with
every chunk) and `TUNED` (ours). `Settings.ablated` takes ideas away one by one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from common.errors import ConfigError

Groups = tuple[tuple[float, float], ...]
"""((share, fineness), ...): layers up to `share` of the depth have that fineness; the last share is 1."""

DeltaMode = Literal["always", "never", "profiled"]
Scaling = Literal["token", "profiled"]
TableSource = Literal["profile", "chunk"]
TableScope = Literal["channel", "layer", "model"]

MAX_FINENESS = 127


@dataclasses.dataclass(frozen=True)
class Level:
    """One point between small and good.

    Fineness is, where each token has its own scale, the largest symbol M: values are rounded to multiples of scale / M, as
    2 M + 1 possible symbols. Where steps are profiled it is the number of steps in one standard deviation.

    Attributes:
        name: unique within its settings.
        keys, values: fineness by layer group.

    Raises:
        ConfigError: shares do not rise to 1, or a fineness is out of range.
    """

    name: str
    keys: Groups
    values: Groups

    def __post_init__(self) -> None:
        for name in ("keys", "values"):  # floats throughout: 15 and 15.0 must give one JSON text, and so one profile id
            groups = tuple((float(share), float(fineness)) for share, fineness in getattr(self, name))
            object.__setattr__(self, name, groups)
        for groups in (self.keys, self.values):
            shares = [share for share, _ in groups]
            if not shares or shares != sorted(set(shares)) or shares[0] <= 0 or shares[-1] != 1:
                raise ConfigError(f"level {self.name!r}: layer shares {shares} must rise from above 0 to 1.")
            if any(not 0 < fineness <= MAX_FINENESS for _, fineness in groups):
                raise ConfigError(f"level {self.name!r}: each fineness must lie in (0, {MAX_FINENESS}].")

    def fineness(self, num_layers: int) -> list[tuple[float, float]]:
        """(keys, values) for each layer. Every group gets at least one layer while there are layers left."""
        return list(zip(_by_layer(self.keys, num_layers), _by_layer(self.values, num_layers), strict=True))


def _by_layer(groups: Groups, num_layers: int) -> list[float]:
    found: list[float] = []
    for share, fineness in groups:
        end = max(len(found) + 1, round(share * num_layers)) if share < 1 else num_layers
        found += [fineness] * (min(end, num_layers) - len(found))
    return found


@dataclasses.dataclass(frozen=True)
class Settings:
    """A variant of the codec.

    Attributes:
        levels: from smallest to best; a level's index is what the bitstream names.
        group_tokens: tokens that share an anchor (the paper's 10). 1: every token is an anchor.
        delta: code non-anchor tokens as differences to their group's decoded anchor: always, never, or for each layer and K/V
            whichever took fewer bits when the profile was made.
        anchor_fineness: M of anchors where tokens have scales of their own (127 is 8 bits).
        scaling: "token": one scale per token, layer and K/V, sent as 16 bits; "profiled": fixed
            steps from the profile, nothing sent.
        tables: where symbol tables come from: the profile (made once per model), or the chunk itself, which then carries them.
        table_scope: one table per (layer, K/V, channel), per (layer, K/V), or one for everything.
        has_means: subtract each channel's profiled mean.
        unrotates: take keys back to before RoPE.
        is_sensitive: with profiled scaling, give each layer a step that fits its measured sensitivity.
        precision: of the tables, in bits. Tables of anchors use 12.

    Raises:
        ConfigError: the values do not fit together.
    """

    levels: tuple[Level, ...]
    group_tokens: int = 10
    delta: DeltaMode = "always"
    anchor_fineness: int = 127
    scaling: Scaling = "token"
    tables: TableSource = "profile"
    table_scope: TableScope = "channel"
    has_means: bool = False
    unrotates: bool = False
    is_sensitive: bool = False
    precision: int = 11

    def __post_init__(self) -> None:
        names = [level.name for level in self.levels]
        if not names or len(set(names)) != len(names) or len(names) > 64:
            raise ConfigError(f"settings need 1 to 64 levels of different names, not {names}.")
        if not 1 <= self.group_tokens <= 255:
            raise ConfigError(f"group_tokens={self.group_tokens} must lie in 1..255.")
        if not 1 <= self.anchor_fineness <= MAX_FINENESS:
            raise ConfigError(f"anchor_fineness={self.anchor_fineness} must lie in 1..{MAX_FINENESS}.")
        if not 9 <= self.precision <= 12:
            raise ConfigError(f"precision={self.precision} must lie in 9..12.")
        choices: tuple[tuple[str, str, tuple[str, ...]], ...] = (
            ("delta", self.delta, ("always", "never", "profiled")),
            ("scaling", self.scaling, ("token", "profiled")),
            ("tables", self.tables, ("profile", "chunk")),
            ("table_scope", self.table_scope, ("channel", "layer", "model")),
        )
        for name, value, allowed in choices:
            if value not in allowed:
                raise ConfigError(f"{name}={value!r} is not one of {', '.join(allowed)}.")
        if self.is_sensitive and self.scaling != "profiled":
            raise ConfigError("is_sensitive needs scaling='profiled': a scale per token leaves no step to choose.")

    def level_index(self, name: str) -> int:
        """Index of a level.

        Raises:
            ConfigError: no such level.
        """
        for index, level in enumerate(self.levels):
            if level.name == name:
                return index
        raise ConfigError(f"there is no level {name!r}. Levels: {', '.join(level.name for level in self.levels)}.")

    def ablated(self, **changes: Any) -> "Settings":
        """These settings with some of them replaced."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """As JSON types; `from_json` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Settings":
        """The settings that `to_json` wrote.

        Raises:
            ConfigError: something is missing, unknown or not allowed.
        """
        try:
            levels = tuple(
                Level(str(level["name"]), _groups(level["keys"]), _groups(level["values"])) for level in data["levels"]
            )
            return cls(**{**data, "levels": levels})
        except (TypeError, KeyError, ValueError) as error:
            raise ConfigError(f"these are not codec settings: {error}") from error


def _groups(data: Sequence[Sequence[float]]) -> Groups:
    return tuple((float(share), float(fineness)) for share, fineness in data)


def _thirds(first: float, second: float, third: float) -> Groups:
    return ((1 / 3, first), (2 / 3, second), (1.0, third))


# The paper: bin widths of 0.5, 1 and 1.5 in the three thirds at the default level. Published bin counts of 32, 16 and 12 are
# those ratios in terms of the largest symbol: 15 : 7 : 5. (inferred)
# DEVIATION cachegen-1: the widths of the other levels are not published; ours scale the default's by 0.5, 0.75, 1.5 and 2.5.
PAPER = Settings(
    levels=tuple(
        Level(name, _thirds(*finenesses), _thirds(*finenesses))
        for name, finenesses in (
            ("2.5", (6, 3, 2)),
            ("1.5", (10, 5, 3)),
            ("1", (15, 7, 5)),
            ("0.75", (20, 10, 7)),
            ("0.5", (30, 15, 10)),
        )
    )
)
"""Anchors at 8 bits, deltas by layer thirds, a 16-bit scale per token, static tables per (layer, K/V, channel)."""

# Published bin counts b of the 32-layer model, as M = b // 2 - 1 and shares of the depth.
RELEASED = Settings(
    levels=(
        Level("1", ((10 / 32, 7), (20 / 32, 7), (1.0, 5)), ((2 / 32, 7), (1.0, 5))),
        Level("2", ((10 / 32, 15), (20 / 32, 7), (1.0, 7)), ((2 / 32, 15), (1.0, 7))),
        Level("3", ((1.0, 15),), ((1.0, 15),)),
    ),
    group_tokens=1,
    delta="never",
    tables="chunk",
)
"""No deltas, and each chunk carries its own tables."""

TUNED = Settings(
    levels=tuple(
        Level(f"{fineness:g}", ((1.0, fineness),), ((1.0, fineness),)) for fineness in (0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
    ),
    delta="profiled",
    scaling="profiled",
    has_means=True,
    unrotates=True,
    is_sensitive=True,
)
"""Fixed steps per layer from measured sensitivity, channel means and rotation removed, deltas where they pay."""

FINEST = Settings(levels=(Level("8bit", ((1.0, 127),), ((1.0, 127),)),), group_tokens=1, delta="never", precision=12)
"""8 bits for every token, entropy coded: as good as lossless. For tests and as the best level of a store."""
