"""The rotation of a model's keys (RoPE), to move cached keys to other positions, or to take them back to before it.

RoPE turns the channel pair (d, d + R/2) of a key at position p by the angle p * theta_d. Angles add up, so a key that was
cached at position p and is needed at p + delta is turned by delta * theta_d more (CacheBlend, position recovery). Before the
rotation a channel's distribution does not move with the position (a codec may prefer such keys). Values carry no position.

Shape legend: H heads, T tokens, D head dimension, R rotated channels (R <= D), F = R / 2 frequencies.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from common.errors import ConfigError
from common.kv import KVCache

FIXED_TYPES = ("default", "linear", "llama3", "yarn")


@dataclasses.dataclass(frozen=True, eq=False)
class Rope:
    """A model's rotation.

    Attributes:
        inv_freq_F: theta, radians per position, float64.
        scaling: factor that the model multiplies into cos and sin (yarn); keys already carry it after their first rotation,
            so shifting leaves it alone.
    """

    inv_freq_F: Tensor
    scaling: float = 1.0

    @classmethod
    def of(cls, model: Any) -> "Rope":
        """The rotation of a transformers causal LM.

        Raises:
            ConfigError: the model's frequencies change with the length of the sequence ("dynamic", "longrope"), so that no
                shift can make a cached key right.
        """
        rotary = model.model.rotary_emb
        kind = rotary.rope_type
        if kind not in FIXED_TYPES:
            raise ConfigError(
                f"RoPE type {kind!r} changes its frequencies with the sequence length, so cached keys cannot be moved to "
                f"another position or taken back to before the rotation. Supported: {', '.join(FIXED_TYPES)}."
            )
        return cls(rotary.inv_freq.detach().double(), float(rotary.attention_scaling))

    def angles(self, delta_T: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of delta * theta, (T, F) each, float32 on the frequencies' device; delta_T: int64 (T,)."""
        # float64: at position 30,000 a float32 angle of the fastest pair is already off by 1e-3 radians.
        angle_TF = delta_T.to(self.inv_freq_F.device).double()[:, None] * self.inv_freq_F[None, :]
        return angle_TF.cos(), angle_TF.sin()

    def shift(self, keys_HTD: Tensor, delta_T: Tensor) -> Tensor:
        """Keys moved by delta_T positions each; a new tensor of the same dtype.

        Args:
            keys_HTD: rotated keys, heads first.
            delta_T: int64 (T,), may be negative.
        """
        moved_HTD = keys_HTD.clone()
        turn_(moved_HTD, *self.angles(delta_T))
        return moved_HTD

    def move(self, kv: KVCache, start_position: int) -> KVCache:
        """A copy of a cache whose first token stands at `start_position`; gaps between its tokens are kept."""
        if not kv.num_tokens:
            return kv.clone()
        delta = start_position - int(kv.positions_T[0])
        keys_LHTD = kv.keys_LHTD.clone()
        if kv.is_rotated and delta:
            turn_(keys_LHTD, *self.angles(torch.full_like(kv.positions_T, delta)))
        return KVCache(keys_LHTD, kv.values_LHTD.clone(), kv.positions_T + delta, kv.is_rotated)

    def rotate(self, kv: KVCache) -> KVCache:
        """A copy of a cache of unrotated keys, rotated to its positions as the model itself would have."""
        if kv.is_rotated:
            return kv.clone()
        return KVCache(self.apply(kv.keys_LHTD, kv.positions_T), kv.values_LHTD.clone(), kv.positions_T, True)

    def unrotate(self, kv: KVCache) -> KVCache:
        """The inverse of `rotate`: a copy with the keys as they were before RoPE."""
        if not kv.is_rotated:
            return kv.clone()
        return KVCache(self.undo(kv.keys_LHTD, kv.positions_T), kv.values_LHTD.clone(), kv.positions_T, False)

    def apply(self, keys: Tensor, positions_T: Tensor) -> Tensor:
        """Unrotated keys (..., T, D) as the model rotates them at these positions (int64); a new tensor of the same dtype."""
        rotated = keys.clone()
        turn_(rotated, *self.angles(positions_T))
        rotated[..., : 2 * len(self.inv_freq_F)] *= self.scaling
        return rotated

    def undo(self, keys: Tensor, positions_T: Tensor) -> Tensor:
        """The inverse of `apply`."""
        plain = keys.clone()
        turn_(plain, *self.angles(-positions_T))
        plain[..., : 2 * len(self.inv_freq_F)] /= self.scaling
        return plain


def turn_(keys: Tensor, cos_TF: Tensor, sin_TF: Tensor) -> None:
    """Rotate the first 2F channels of keys (..., T, D) in place; the rest (partial rotary) stays."""
    half = cos_TF.shape[-1]
    # Half precision is rotated in float32 and rounded once.
    dtype = keys.dtype if keys.dtype in (torch.float32, torch.float64) else torch.float32
    cos, sin = (table.to(device=keys.device, dtype=dtype) for table in (cos_TF, sin_TF))
    first, second = keys[..., :half], keys[..., half : 2 * half]
    a, b = first.to(dtype), second.to(dtype)
    turned = torch.addcmul(a * cos, b, sin, value=-1)
    second.copy_(torch.addcmul(b * cos, a, sin))
    first.copy_(turned)
