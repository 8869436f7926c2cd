"""What is known about a model before any context arrives: symbol tables, steps, means, where deltas pay (one file per model).

    profile = build_profile(lambda: caches, PAPER, model="...")     # caches: KV of sample contexts, not of those coded later
    save(profile, path);  profile = load(path)

The paper profiles its distributions offline, once per model, and uses them for all contexts (CacheGen, arithmetic coding). A
bitstream names its profile by the first eight bytes of the profile's digest and cannot be decoded with another.

Shape legend: L layers, K keys or values (0 or 1), C channels (heads * head dim, head-major), T tokens, N levels.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cachegen import quantisation
from cachegen.settings import Settings
from common.entropy import Tables
from common.errors import ConfigError, CorruptBitstream
from common.kv import KVCache
from common.results import canonical_json, write_atomically
from common.rope import Rope

Kind = Literal["anchor", "member", "direct"]
"""Symbol classes: of anchors, of the other tokens of their groups (differences), and of tokens coded on their own."""

FORMAT_VERSION = 1
_HALF = 127
_RESERVE = 2


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """How one class of symbols of one layer's keys or values is coded at one level.

    Attributes:
        kind: the class.
        fineness: M of the quantiser where tokens have scales; 0 where the step is fixed.
        offset: added to a quantised value to get its symbol; the alphabet is 2 * offset + 1.
        tables: None where the chunk carries its own.
    """

    kind: Kind
    fineness: int
    offset: int
    tables: Tables | None

    @property
    def alphabet(self) -> int:
        return 2 * self.offset + 1


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
    """Everything that encoder and decoder must share.

    Attributes:
        settings: the variant of the codec.
        model: fingerprint of the model, hex; "" if unknown.
        num_heads, head_dim, num_layers: shape of its cache.
        means_LKC: subtracted before quantising; zeros where the settings say so. float32.
        steps_NLK: quantiser steps; zeros where tokens have scales. float32.
        has_delta_LK: whether deltas are coded.
        blocks: by (level, layer, K/V, class).
        rotation: needed if keys are coded before RoPE.
        num_contexts, num_tokens: of the sample.
    """

    settings: Settings
    model: str
    num_layers: int
    num_heads: int
    head_dim: int
    means_LKC: NDArray[np.float32]
    steps_NLK: NDArray[np.float32]
    has_delta_LK: NDArray[np.bool_]
    blocks: Mapping[tuple[int, int, int, Kind], BlockSpec]
    rotation: Rope | None = None
    num_contexts: int = 0
    num_tokens: int = 0

    @property
    def num_channels(self) -> int:
        return self.num_heads * self.head_dim

    def kinds(self, layer: int, kv: int) -> tuple[Kind, ...]:
        """Classes of symbols of a layer's keys (kv 0) or values (kv 1)."""
        return ("anchor", "member") if self.has_delta_LK[layer, kv] else ("direct",)

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of the content."""
        metadata, arrays = _content(self)
        digest = hashlib.sha256(metadata.encode())
        for name in sorted(arrays):
            digest.update(f"{name}|{arrays[name].dtype.str}|{arrays[name].shape}".encode())
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
        return digest.digest()

    @property
    def num_bytes(self) -> int:
        """Size of the tables and other arrays, as stored."""
        return sum(array.nbytes for array in _content(self)[1].values())

    def check_fits(self, kv: KVCache) -> None:
        """Raise ConfigError unless a cache has the profile's shape."""
        shape = (kv.num_layers, kv.num_heads, kv.head_dim)
        if shape != (self.num_layers, self.num_heads, self.head_dim):
            raise ConfigError(
                f"a cache of (layers, heads, dim) {shape} was given to a profile for "
                f"{(self.num_layers, self.num_heads, self.head_dim)}; make a profile of this model."
            )

    def channels(self, kv: KVCache, layer: int, which: int) -> Tensor:
        """A layer's keys or values as the quantiser sees them: float32 (C, T), rotation and means removed."""
        x_HTD = kv.layer(layer)[which].float()
        if which == 0 and self.rotation is not None:
            x_HTD = self.rotation.undo(x_HTD.float(), kv.positions_T)
        x_CT = x_HTD.transpose(1, 2).reshape(self.num_channels, kv.num_tokens).cpu()
        if self.settings.has_means:
            x_CT = x_CT - torch.from_numpy(self.means_LKC[layer, which])[:, None]
        return x_CT


@dataclasses.dataclass(frozen=True, eq=False)
class Quantised:
    """One layer's keys or values as integers.

    Attributes:
        integers: by class, (C, n), int32.
        scales_T: float32, anchors first; empty where steps are fixed.
    """

    integers: Mapping[Kind, Tensor]
    scales_T: Tensor


def quantise(
    x_CT: Tensor, settings: Settings, fineness: float, step: float, has_delta: bool, dtype: torch.dtype
) -> Quantised:
    """Quantise one layer's keys or values (CacheGen, change-based encoding and layer-wise quantisation).

    Deltas are taken to the *decoded* anchor, so that an anchor's error does not add to its group's.
    """
    num_tokens, group = x_CT.shape[1], settings.group_tokens
    if settings.scaling == "profiled":
        q_CT = quantisation.quantise_steps(x_CT, step)
        if not has_delta:
            return Quantised({"direct": q_CT}, torch.zeros(0))
        anchors_CA = q_CT[:, quantisation.anchor_indices(num_tokens, group)]
        members = q_CT[:, quantisation.member_indices(num_tokens, group)]
        # With one step for both, a difference of integers is the closed loop: nothing more is lost.
        deltas = members - anchors_CA[:, quantisation.anchor_of_members(num_tokens, group)]
        return Quantised({"anchor": anchors_CA, "member": deltas}, torch.zeros(0))
    if not has_delta:
        q_CT, scale_T = quantisation.quantise_tokens(x_CT, round(fineness), dtype)
        return Quantised({"direct": q_CT.int()}, scale_T)
    anchor_CA = x_CT[:, quantisation.anchor_indices(num_tokens, group)]
    anchor_q, anchor_scale = quantisation.quantise_tokens(anchor_CA, settings.anchor_fineness, dtype)
    decoded_CA = quantisation.dequantise_tokens(anchor_q, anchor_scale, settings.anchor_fineness)
    member_CM = x_CT[:, quantisation.member_indices(num_tokens, group)]
    delta_CM = member_CM - decoded_CA[:, quantisation.anchor_of_members(num_tokens, group)]
    delta_q, delta_scale = quantisation.quantise_tokens(delta_CM, round(fineness), dtype)
    return Quantised({"anchor": anchor_q.int(), "member": delta_q.int()}, torch.cat([anchor_scale, delta_scale]))


def build_profile(
    caches: Callable[[], Iterable[KVCache]],
    settings: Settings,
    *,
    model: str = "",
    rotation: Rope | None = None,
    sensitivity_LK: NDArray[np.float64] | None = None,
) -> Profile:
    """Make a profile from sample contexts.

    Args:
        caches: called up to three times; each call goes through the KV of the same sample contexts, cut as they will be coded.
        settings: the variant.
        model: the model's fingerprint.
        rotation: of the model; needed if the settings take keys back to before RoPE.
        sensitivity_LK: loss per unit of noise variance; needed if the settings use it.

    Raises:
        ConfigError: no tokens, caches of different shapes, or something that the settings need is missing.
    """
    if settings.unrotates and rotation is None:
        raise ConfigError("these settings code keys before RoPE; pass rotation=Rope.of(model).")
    if settings.is_sensitive and sensitivity_LK is None:
        raise ConfigError("these settings follow layer sensitivity; pass sensitivity_LK.")
    empty = _empty_profile(caches, settings, model, rotation if settings.unrotates else None)
    moments = _moments(caches, empty)
    profile = dataclasses.replace(
        empty, means_LKC=moments.means_LKC, num_contexts=moments.num_contexts, num_tokens=moments.num_tokens
    )
    if settings.delta == "profiled" and settings.group_tokens > 1:
        profile = dataclasses.replace(profile, has_delta_LK=_where_deltas_pay(caches, profile, moments.sigma_LK))
    if settings.scaling == "profiled":
        base_LK = _base_steps(moments.sigma_LK, sensitivity_LK if settings.is_sensitive else None)
        fineness_NLK = np.array([level.fineness(profile.num_layers) for level in settings.levels])
        profile = dataclasses.replace(profile, steps_NLK=(base_LK[None] / fineness_NLK).astype(np.float32))
    counts = _count(caches, profile) if settings.tables == "profile" else {}
    return dataclasses.replace(profile, blocks=_blocks(profile, counts))


@dataclasses.dataclass(frozen=True, eq=False)
class _Moments:
    means_LKC: NDArray[np.float32]
    sigma_LK: NDArray[np.float64]
    num_contexts: int
    num_tokens: int


def _empty_profile(
    caches: Callable[[], Iterable[KVCache]], settings: Settings, model: str, rotation: Rope | None
) -> Profile:
    first = next(iter(caches()), None)
    if first is None or not first.num_tokens:
        raise ConfigError("a profile needs at least one sample context with tokens.")
    num_layers, num_channels = first.num_layers, first.num_heads * first.head_dim
    has_delta = settings.delta == "always" and settings.group_tokens > 1
    return Profile(
        settings,
        model,
        num_layers,
        first.num_heads,
        first.head_dim,
        np.zeros((num_layers, 2, num_channels), dtype=np.float32),
        np.zeros((len(settings.levels), num_layers, 2), dtype=np.float32),
        np.full((num_layers, 2), has_delta),
        {},
        rotation,
    )


def _moments(caches: Callable[[], Iterable[KVCache]], profile: Profile) -> _Moments:
    shape = (profile.num_layers, 2, profile.num_channels)
    total, squares = np.zeros(shape), np.zeros(shape)
    num_contexts = num_tokens = 0
    for kv in caches():
        profile.check_fits(kv)
        num_contexts += 1
        num_tokens += kv.num_tokens
        for layer in range(profile.num_layers):
            for which in (0, 1):
                x_CT = profile.channels(kv, layer, which).double()
                total[layer, which] += x_CT.sum(dim=1).numpy()
                squares[layer, which] += x_CT.square().sum(dim=1).numpy()
    means = total / num_tokens
    sigma_LK = np.sqrt(np.maximum(squares / num_tokens - means**2, 0).mean(axis=2))
    if not np.isfinite(sigma_LK).all():
        raise ConfigError("the sample contexts hold infinite or NaN keys or values.")
    kept = means if profile.settings.has_means else np.zeros(shape)
    return _Moments(kept.astype(np.float32), np.maximum(sigma_LK, 1e-6), num_contexts, num_tokens)


def _base_steps(sigma_LK: NDArray[np.float64], sensitivity_LK: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Step at fineness 1 for each layer and K/V.

    At high rate noise of variance step^2 / 12 costs log2(1 / step) bits; minimising the summed loss w * step^2 at a given rate
    makes w * step^2 the same everywhere. The geometric mean over layers of step / sigma is kept at 1.
    """
    if sensitivity_LK is None:
        return sigma_LK
    weight = np.maximum(sensitivity_LK, sensitivity_LK.max() * 1e-4)
    step = 1 / np.sqrt(weight)
    step *= np.exp(np.mean(np.log(sigma_LK) - np.log(step)))
    clipped: NDArray[np.float64] = np.clip(step, sigma_LK / 3, sigma_LK * 3)
    return clipped


def _where_deltas_pay(
    caches: Callable[[], Iterable[KVCache]], profile: Profile, sigma_LK: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Where differences to anchors take fewer bits than the tokens themselves, at the same step of sigma / 2."""
    pays = np.zeros((profile.num_layers, 2), dtype=bool)
    fixed = profile.settings.ablated(scaling="profiled", is_sensitive=False)
    for layer in range(profile.num_layers):
        for which in (0, 1):
            direct, anchors, members = [], [], []
            for kv in caches():
                x_CT, step = profile.channels(kv, layer, which), float(sigma_LK[layer, which]) / 2
                direct.append(quantise(x_CT, fixed, 0, step, False, kv.dtype).integers["direct"])
                both = quantise(x_CT, fixed, 0, step, True, kv.dtype).integers
                anchors.append(both["anchor"])
                members.append(both["member"])
            cost = [quantisation.entropy_bits(torch.cat(part, dim=1)) for part in (direct, anchors, members)]
            pays[layer, which] = cost[1] + cost[2] < cost[0]
    return pays


def _count(
    caches: Callable[[], Iterable[KVCache]], profile: Profile
) -> dict[tuple[int, int, int, Kind], NDArray[np.int64]]:
    """How often each value in -127..127 occurs, (C, 255), by block; rarer ones beyond are counted at the ends."""
    settings = profile.settings
    alphabet = 2 * _HALF + 1
    counts: dict[tuple[int, int, int, Kind], NDArray[np.int64]] = {}
    row_CO = torch.arange(profile.num_channels)[:, None] * alphabet
    for kv in caches():
        for layer in range(profile.num_layers):
            for which in (0, 1):
                x_CT = profile.channels(kv, layer, which)
                for level in range(len(settings.levels)):
                    fineness = settings.levels[level].fineness(profile.num_layers)[layer][which]
                    step = float(profile.steps_NLK[level, layer, which])
                    has_delta = bool(profile.has_delta_LK[layer, which])
                    for kind, q_CN in quantise(x_CT, settings, fineness, step, has_delta, kv.dtype).integers.items():
                        flat = (q_CN.clamp(-_HALF, _HALF).long() + _HALF + row_CO).reshape(-1)
                        found = torch.bincount(flat, minlength=profile.num_channels * alphabet).numpy()
                        key = (level, layer, which, kind)
                        counts[key] = counts.get(key, 0) + found.reshape(-1, alphabet)
    return counts


def _blocks(
    profile: Profile, counts: Mapping[tuple[int, int, int, Kind], NDArray[np.int64]]
) -> dict[tuple[int, int, int, Kind], BlockSpec]:
    settings = profile.settings
    offsets: dict[tuple[int, int, int, Kind], tuple[int, int]] = {}
    for level_index, level in enumerate(settings.levels):
        finenesses = level.fineness(profile.num_layers)
        for layer in range(profile.num_layers):
            for which in (0, 1):
                for kind in profile.kinds(layer, which):
                    key = (level_index, layer, which, kind)
                    if settings.scaling == "token":
                        fineness = settings.anchor_fineness if kind == "anchor" else round(finenesses[layer][which])
                        offsets[key] = (max(1, fineness), max(1, fineness))
                    elif settings.tables == "chunk":
                        offsets[key] = (0, _HALF)
                    else:
                        seen = np.flatnonzero(counts[key].sum(axis=0)) - _HALF
                        reach = int(np.abs(seen).max()) if len(seen) else 1
                        offsets[key] = (0, min(_HALF, reach + _RESERVE))
    blocks: dict[tuple[int, int, int, Kind], BlockSpec] = {}
    shared: dict[tuple[int, Kind], Tables] = {}
    for key, (fineness, offset) in offsets.items():
        level_index, _, _, kind = key
        if settings.table_scope == "model":
            offset = max(o for (n, _, _, k), (_, o) in offsets.items() if n == level_index and k == kind)
        tables = None
        if settings.tables == "profile":
            # A wide alphabet at low precision would waste its slots on symbols that never occur.
            precision = 12 if kind == "anchor" or offset > 31 else settings.precision
            window = slice(_HALF - offset, _HALF + offset + 1)
            if settings.table_scope == "channel":
                tables = Tables.from_counts(counts[key][:, window], precision)
            elif settings.table_scope == "layer":
                tables = Tables.from_counts(counts[key].sum(axis=0)[None, window], precision)
            else:
                if (level_index, kind) not in shared:
                    own = [c.sum(axis=0) for (n, _, _, k), c in counts.items() if n == level_index and k == kind]
                    shared[level_index, kind] = Tables.from_counts(np.sum(own, axis=0)[None, window], precision)
                tables = shared[level_index, kind]
        blocks[key] = BlockSpec(kind, fineness, offset, tables)
    return blocks


def _content(profile: Profile) -> tuple[str, dict[str, NDArray[Any]]]:
    """A profile as one JSON text and arrays, in a fixed order."""
    arrays: dict[str, NDArray[Any]] = {
        "means": profile.means_LKC,
        "steps": profile.steps_NLK,
        "has_delta": profile.has_delta_LK.astype(np.uint8),
    }
    if profile.rotation is not None:
        arrays["inv_freq"] = profile.rotation.inv_freq_F.cpu().numpy()
    listed = []
    written: dict[int, str] = {}
    for (level, layer, which, kind), spec in sorted(profile.blocks.items()):
        name = ""
        if spec.tables is not None:
            name = written.setdefault(id(spec.tables), f"freq.{level}.{layer}.{which}.{kind}")
            arrays[name] = spec.tables.freq_SA
        precision = spec.tables.precision if spec.tables is not None else 0
        listed.append([level, layer, which, kind, spec.fineness, spec.offset, precision, name])
    metadata = {
        "format": "ninefold cachegen profile",
        "version": FORMAT_VERSION,
        "settings": profile.settings.to_json(),
        "model": profile.model,
        "shape": [profile.num_layers, profile.num_heads, profile.head_dim],
        "sample": [profile.num_contexts, profile.num_tokens],
        "rotation_scaling": None if profile.rotation is None else profile.rotation.scaling,
        "blocks": listed,
    }
    return canonical_json(metadata), arrays


def to_bytes(profile: Profile) -> bytes:
    """The profile as the bytes of a safetensors file."""
    from safetensors.numpy import save as save_arrays

    metadata, arrays = _content(profile)
    packed: bytes = save_arrays(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        metadata={"profile": metadata, "sha256": profile.digest.hex()},
    )
    return packed


def from_bytes(data: bytes) -> Profile:
    """The profile that `to_bytes` wrote.

    Raises:
        CorruptBitstream: damaged, of another version, or not a profile.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_arrays

    try:
        header_bytes = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + header_bytes])["__metadata__"]
        metadata = json.loads(header["profile"])
        arrays = load_arrays(data)
        if metadata["version"] != FORMAT_VERSION:
            raise CorruptBitstream(f"profile of format {metadata['version']}; this program reads {FORMAT_VERSION}.")
        profile = _assemble(metadata, arrays)
        is_intact = profile.digest.hex() == header["sha256"]
    except CorruptBitstream:
        raise
    except (
        SafetensorError,
        ConfigError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        OverflowError,
    ) as error:
        raise CorruptBitstream(f"this is not a codec profile, or it is damaged: {error}") from error
    if not is_intact:
        raise CorruptBitstream("the profile's content does not match its checksum; it is damaged.")
    return profile


def _assemble(metadata: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Profile:
    num_layers, num_heads, head_dim = (int(number) for number in metadata["shape"])
    tables: dict[str, Tables] = {}
    blocks: dict[tuple[int, int, int, Kind], BlockSpec] = {}
    for level, layer, which, kind, fineness, offset, precision, name in metadata["blocks"]:
        if kind not in ("anchor", "member", "direct"):
            raise CorruptBitstream(f"unknown symbol class {kind!r} in the profile.")
        if name and name not in tables:
            tables[name] = Tables(arrays[name], precision)
        blocks[level, layer, which, kind] = BlockSpec(kind, fineness, offset, tables[name] if name else None)
    rotation = None
    if metadata["rotation_scaling"] is not None:
        rotation = Rope(torch.from_numpy(arrays["inv_freq"]), float(metadata["rotation_scaling"]))
    return Profile(
        Settings.from_json(metadata["settings"]),
        str(metadata["model"]),
        num_layers,
        num_heads,
        head_dim,
        arrays["means"].reshape(num_layers, 2, num_heads * head_dim),
        arrays["steps"].reshape(-1, num_layers, 2),
        arrays["has_delta"].reshape(num_layers, 2).astype(bool),
        blocks,
        rotation,
        int(metadata["sample"][0]),
        int(metadata["sample"][1]),
    )


def save(profile: Profile, path: Path) -> None:
    """Write a profile file; the file holds either its former content or all of the profile, also after a crash."""
    write_atomically(path, to_bytes(profile))


def load(path: Path) -> Profile:
    """Read a profile file.

    Raises:
        ConfigError: there is no such file.
        CorruptBitstream: it is damaged or not a profile.
    """
    if not path.is_file():
        raise ConfigError(f"there is no profile {path}; make one with `python -m cachegen profile`.")
    return from_bytes(path.read_bytes())


def correlation_at_lags(x_CT: Tensor, lags: Iterable[int]) -> dict[int, float]:
    """Mean over channels of the correlation between a token's value and that of the token `lag` places on (Insight 1).

    Channels that do not vary are left out. A delta to a token at that lag has variance 2 (1 - rho) times the value's, so it
    takes fewer bits only where rho > 0.5.
    """
    centred_CT = x_CT.double() - x_CT.double().mean(dim=1, keepdim=True)
    variance_C = centred_CT.square().mean(dim=1)
    varies_C = variance_C > 1e-12
    found = {}
    for lag in lags:
        product_C = (centred_CT[:, lag:] * centred_CT[:, : x_CT.shape[1] - lag]).mean(dim=1)
        value = float((product_C[varies_C] / variance_C[varies_C]).mean()) if varies_C.any() else 0.0
        found[lag] = 0.0 if math.isnan(value) else value
    return found
