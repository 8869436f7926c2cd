"""One KV-cache type for the whole project, and its conversions from and to the cache classes of transformers.

Shape legend: L layers, H key/value heads (fewer than query heads under grouped-query attention), T tokens, D head dimension.

A `KVCache` is a value: nobody writes into its tensors after it was made. Functions here that return a `KVCache` say whether
its tensors are copies or share memory with the argument; whoever needs to write takes `clone()` first.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.errors import ConfigError


@dataclasses.dataclass(frozen=True, eq=False)
class KVCache:
    """Keys and values of some tokens at every layer.

    Attributes:
        keys_LHTD, values_LHTD: same shape, dtype and device.
        positions_T: absolute position of each token, int64, strictly increasing, on the CPU.
        is_rotated: whether the keys carry RoPE for `positions_T`; False means they were taken before the rotation.

    Raises:
        ConfigError: the parts do not fit together.
    """

    keys_LHTD: Float[Tensor, "L H T D"]
    values_LHTD: Float[Tensor, "L H T D"]
    positions_T: Int[Tensor, " T"]
    is_rotated: bool = True

    def __post_init__(self) -> None:
        keys, values, positions = self.keys_LHTD, self.values_LHTD, self.positions_T
        if keys.ndim != 4 or keys.shape != values.shape:
            raise ConfigError(
                f"keys {tuple(keys.shape)} and values {tuple(values.shape)} must have one shape (layers, heads, tokens, dim)."
            )
        if keys.dtype != values.dtype or keys.device != values.device:
            raise ConfigError(
                f"keys ({keys.dtype}, {keys.device}) and values ({values.dtype}, {values.device}) differ in dtype or device."
            )
        if positions.shape != keys.shape[2:3] or positions.dtype != torch.int64 or positions.device.type != "cpu":
            raise ConfigError(
                f"positions must be {keys.shape[2]} int64 numbers on the CPU, "
                f"not {tuple(positions.shape)} {positions.dtype} on {positions.device}."
            )
        if len(positions) and (int(positions[0]) < 0 or bool((positions.diff() <= 0).any())):
            raise ConfigError("positions must be >= 0 and strictly increasing.")

    @property
    def num_layers(self) -> int:
        return int(self.keys_LHTD.shape[0])

    @property
    def num_heads(self) -> int:
        """Key/value heads."""
        return int(self.keys_LHTD.shape[1])

    @property
    def num_tokens(self) -> int:
        return int(self.keys_LHTD.shape[2])

    @property
    def head_dim(self) -> int:
        return int(self.keys_LHTD.shape[3])

    @property
    def dtype(self) -> torch.dtype:
        return self.keys_LHTD.dtype

    @property
    def device(self) -> torch.device:
        return self.keys_LHTD.device

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values: 2 * L * H * T * D * bytes per number."""
        return 2 * self.keys_LHTD.numel() * self.keys_LHTD.element_size()

    @property
    def next_position(self) -> int:
        """Position of the token that would follow; 0 for an empty cache."""
        return int(self.positions_T[-1]) + 1 if self.num_tokens else 0

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, (H, T, D) each; views, not to be written."""
        return self.keys_LHTD[index], self.values_LHTD[index]

    def clone(self) -> "KVCache":
        """A copy that shares no memory with this one."""
        return dataclasses.replace(
            self,
            keys_LHTD=self.keys_LHTD.clone(),
            values_LHTD=self.values_LHTD.clone(),
            positions_T=self.positions_T.clone(),
        )

    def slice(self, start: int, stop: int) -> "KVCache":
        """Tokens start .. stop-1 (indices, not positions), sharing memory with this cache."""
        return dataclasses.replace(
            self,
            keys_LHTD=self.keys_LHTD[:, :, start:stop],
            values_LHTD=self.values_LHTD[:, :, start:stop],
            positions_T=self.positions_T[start:stop],
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "KVCache":
        """This cache on another device or in another dtype; shares memory where nothing changes, as `Tensor.to` does."""
        return dataclasses.replace(
            self,
            keys_LHTD=self.keys_LHTD.to(device=device, dtype=dtype),
            values_LHTD=self.values_LHTD.to(device=device, dtype=dtype),
        )

    def fingerprint(self) -> str:
        """SHA-256 (hex) of shape, dtype, positions and every bit of keys and values."""
        digest = hashlib.sha256()
        digest.update(f"{tuple(self.keys_LHTD.shape)}|{self.dtype}|{self.is_rotated}".encode())
        digest.update(self.positions_T.numpy().tobytes())
        for tensor in (self.keys_LHTD, self.values_LHTD):
            # Viewed as bytes, because numpy has no bfloat16.
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def concatenate(caches: Sequence[KVCache]) -> KVCache:
    """Join caches along the tokens; the result is a copy. Positions must keep increasing across the seams.

    Raises:
        ConfigError: nothing to join, or the caches differ in layers, heads, dtype, device or rotation.
    """
    if not caches:
        raise ConfigError("there is no cache to concatenate.")
    if len({(c.num_layers, c.num_heads, c.head_dim, c.dtype, c.device, c.is_rotated) for c in caches}) > 1:
        raise ConfigError(
            "caches of different layers, heads, head_dim, dtype, device or rotation cannot be concatenated."
        )
    return KVCache(
        torch.cat([cache.keys_LHTD for cache in caches], dim=2),
        torch.cat([cache.values_LHTD for cache in caches], dim=2),
        torch.cat([cache.positions_T for cache in caches]),
        caches[0].is_rotated,
    )


def from_transformers(cache: Any, start_position: int = 0) -> KVCache:
    """A copy of a transformers cache of batch size 1 (`DynamicCache`, `StaticCache` filled to its length, ...).

    Args:
        cache: anything with `.layers`, each holding `.keys` and `.values` of shape (1, H, T, D), rotated.
        start_position: absolute position of the first token that it holds.

    Raises:
        ConfigError: another batch size, layers of different lengths (a sliding-window cache has dropped tokens), no tokens.
    """
    layers = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None and layer.keys.ndim == 4]
    if not layers or len(layers) != len(cache.layers):
        raise ConfigError("this cache holds no tokens yet.")
    if layers[0].keys.shape[0] != 1:
        raise ConfigError(f"a cache of batch size {layers[0].keys.shape[0]} was given; convert one sequence at a time.")
    num_tokens = int(layers[0].get_seq_length())
    if any(layer.keys.shape[2] < num_tokens or int(layer.get_seq_length()) != num_tokens for layer in layers):
        raise ConfigError(
            "the layers of this cache hold different numbers of tokens; build it as DynamicCache() without a config, "
            "so that sliding-window layers keep every token."
        )
    return KVCache(
        torch.stack([layer.keys[0, :, :num_tokens] for layer in layers]).detach(),
        torch.stack([layer.values[0, :, :num_tokens] for layer in layers]).detach(),
        torch.arange(start_position, start_position + num_tokens),
    )


def to_transformers(kv: KVCache) -> Any:
    """A `DynamicCache` of batch size 1 holding a copy of `kv`; every layer keeps all tokens, sliding windows included.

    Pass explicit `position_ids` to the model when `kv` does not start at position 0 or has gaps: transformers derives
    positions from the number of tokens.

    Raises:
        ConfigError: the keys are not rotated.
    """
    from transformers import DynamicCache

    if not kv.is_rotated:
        raise ConfigError("transformers expects rotated keys; rotate this cache to its positions first.")
    cache = DynamicCache()
    for index in range(kv.num_layers):
        keys_HTD, values_HTD = kv.layer(index)
        # The cache concatenates to an empty tensor on the first update, which copies.
        cache.update(keys_HTD[None], values_HTD[None], index)
    return cache


def from_layers(layers: Sequence[tuple[Tensor, Tensor]], positions_T: Tensor, is_rotated: bool = True) -> KVCache:
    """A copy of per-layer pairs of keys and values, (H, T, D) each."""
    if not layers:
        raise ConfigError("a cache needs at least one layer.")
    return KVCache(
        torch.stack([keys for keys, _ in layers]),
        torch.stack([values for _, values in layers]),
        positions_T,
        is_rotated,
    )
