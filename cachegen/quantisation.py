"""Uniform mid-tread quantisation of one layer's keys or values, with and without anchors.

Shape legend: C channels (heads * head dim, head-major), T tokens, A anchors.

Symbols are unsigned: symbol = q + M, where |q| <= M and the value is q * step.
"""

import torch
from torch import Tensor

from common.errors import ConfigError


def stored_scale(scale_T: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales as the bitstream holds them: 16 bits, float16 for float16 caches, bfloat16 for the others; returned as float32.

    A float16 scale saturates at the largest finite number (the difference of two float16 values may exceed it).
    """
    if dtype == torch.float16:
        return scale_T.clamp(max=65504.0).to(torch.float16).float()
    return scale_T.to(torch.bfloat16).float()


def quantise_tokens(x_CT: Tensor, fineness: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Quantise every token with a scale of its own.

    Args:
        x_CT: float32.
        fineness: M, the largest symbol, 1..127.
        dtype: of the cache; decides the format of the scale.

    Returns:
        (q_CT, scale_T): int16 in [-M, M] and the stored scales. A token of zeros has scale 0 and quantises to zeros. For finite
        scales |x - q * scale / M| <= scale / (2 M), up to the rounding of the scale for the largest channel.
    """
    scale_T = stored_scale(x_CT.abs().amax(dim=0) if x_CT.shape[0] else x_CT.new_zeros(x_CT.shape[1]), dtype)
    step_T = scale_T / fineness
    # A step of 0 (a token of zeros, or one that underflows) would divide 0 by 0.
    safe_T = torch.where(step_T > 0, step_T, torch.ones_like(step_T))
    q_CT = (x_CT / safe_T).round_().clamp_(-fineness, fineness)
    return torch.where(step_T > 0, q_CT, torch.zeros_like(q_CT)).to(torch.int16), scale_T


def dequantise_tokens(q_CT: Tensor, scale_T: Tensor, fineness: int) -> Tensor:
    """Values of symbols, float32: q * (scale / M)."""
    return q_CT.float() * (scale_T / fineness)


def quantise_steps(x_CT: Tensor, step: float) -> Tensor:
    """Multiples of a fixed step, int32; |x - q * step| <= step / 2 up to float32 rounding.

    Raises:
        ConfigError: a value is more than 2^24 steps away from zero.
    """
    q_CT = (x_CT / step).round_()
    if q_CT.numel() and float(q_CT.abs().max()) >= 1 << 24:
        raise ConfigError("a value is more than 2^24 steps from zero; the cache does not come from the profiled model.")
    return q_CT.to(torch.int32)


def anchor_indices(num_tokens: int, group_tokens: int) -> Tensor:
    """Indices of the anchors: the first token of each group."""
    return torch.arange(0, num_tokens, group_tokens)


def member_indices(num_tokens: int, group_tokens: int) -> Tensor:
    """Indices of all other tokens, in order."""
    tokens = torch.arange(num_tokens)
    return tokens[tokens % group_tokens != 0]


def anchor_of_members(num_tokens: int, group_tokens: int) -> Tensor:
    """For each member, which anchor (0, 1, ...) its group has."""
    return member_indices(num_tokens, group_tokens) // group_tokens


def entropy_bits(symbols_CT: Tensor) -> float:
    """Sum over channels of T times the empirical entropy, in bits: what tables fitted to each channel would spend."""
    if not symbols_CT.numel():
        return 0.0
    num_channels, num_tokens = symbols_CT.shape
    shifted_CT = symbols_CT.long() - int(symbols_CT.min())
    alphabet = int(shifted_CT.max()) + 1
    total = 0.0
    # Some channels at a time: one count per channel and symbol is kept, and outliers make alphabets long.
    rows_at_once = max(1, 10_000_000 // alphabet)
    for first in range(0, num_channels, rows_at_once):
        part_CT = shifted_CT[first : first + rows_at_once]
        flat = (part_CT + torch.arange(len(part_CT))[:, None] * alphabet).reshape(-1)
        count = torch.bincount(flat).double()
        count = count[count > 0]
        total += float((count * (num_tokens / count).log2()).sum())
    return total
