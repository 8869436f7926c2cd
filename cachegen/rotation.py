"""Taking keys back to before RoPE, and forth: before the rotation a channel's distribution does not move with the position.

RoPE turns the channel pair (d, d + R/2) of a key at position p by p * theta_d and multiplies it with a constant (1, except
for yarn). Channels from R on are left alone.

Shape legend: H heads, T tokens, D head dimension, F = R / 2 frequencies.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import ConfigError

_FIXED_TYPES = ("default", "linear", "llama3", "yarn")


@dataclasses.dataclass(frozen=True, eq=False)
class Rotation:
    """A model's rotation.

    Attributes:
        inv_freq_F: theta in radians per position, float64.
        scaling: what the model multiplies into cos and sin.
    """

    inv_freq_F: NDArray[np.float64]
    scaling: float = 1.0

    @classmethod
    def of(cls, model: Any) -> "Rotation":
        """The rotation of a transformers causal LM.

        Raises:
            ConfigError: its frequencies change with the length of the sequence, so that a key cannot be taken back.
        """
        rotary = model.model.rotary_emb
        if rotary.rope_type not in _FIXED_TYPES:
            raise ConfigError(
                f"RoPE type {rotary.rope_type!r} changes with the sequence length; use codec settings with unrotates=False. "
                f"Supported: {', '.join(_FIXED_TYPES)}."
            )
        return cls(rotary.inv_freq.detach().double().cpu().numpy(), float(rotary.attention_scaling))

    def undo(self, keys_HTD: Tensor, positions_T: Tensor) -> Tensor:
        """Keys before the rotation, float32."""
        return self._turn(keys_HTD.float(), positions_T, -1.0, 1.0 / self.scaling)

    def apply(self, keys_HTD: Tensor, positions_T: Tensor) -> Tensor:
        """Rotated keys, float32."""
        return self._turn(keys_HTD.float(), positions_T, 1.0, self.scaling)

    def _turn(self, keys_HTD: Tensor, positions_T: Tensor, sign: float, gain: float) -> Tensor:
        half = len(self.inv_freq_F)
        # Angles in float64: at position 30,000 a float32 angle of the fastest pair is already off by 1e-3 radians.
        angle_TF = positions_T.double()[:, None] * torch.from_numpy(self.inv_freq_F)[None]
        cos_TF = (angle_TF.cos() * gain).float().to(keys_HTD.device)
        sin_TF = (angle_TF.sin() * (sign * gain)).float().to(keys_HTD.device)
        first_HTF, second_HTF = keys_HTD[..., :half], keys_HTD[..., half : 2 * half]
        return torch.cat(
            [
                first_HTF * cos_TF - second_HTF * sin_TF,
                second_HTF * cos_TF + first_HTF * sin_TF,
                keys_HTD[..., 2 * half :],
            ],
            dim=-1,
        )
