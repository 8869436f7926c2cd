"""Symbols back to numbers: the part of decoding behind the entropy coder, one layer's keys or values at a time.

Shape legend: H heads, T tokens, D head dim, C = H * D channels, n symbols of a class per channel.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cachegen.profile import Kind


def dequantise(
    symbols: Mapping[Kind, tuple[Tensor, int]],
    steps: Mapping[Kind, Tensor],
    means_C: NDArray[np.float32] | None,
    num_heads: int,
    group_tokens: int,
    *,
    is_exact: bool,
    device: str = "cpu",
) -> Tensor:
    """Numbers of symbols.

    Args:
        symbols: by class, ((C, n) integers, offset).
        steps: by class, (n,) float32: value of one step for each token.
        means_C: added at the end.
        num_heads: H.
        group_tokens: tokens per anchor.
        is_exact: members are differences of integers with the anchor's own step (fixed steps), not of numbers.
        device: where to compute.

    Returns:
        float32 (H, T, D), contiguous.
    """
    parts = {
        kind: (q.to(device).transpose(0, 1).float() - offset).contiguous() for kind, (q, offset) in symbols.items()
    }
    if "direct" in parts:
        x_TC = parts["direct"] * steps["direct"].to(device)[:, None]
    else:
        anchor_AC, member_MC = parts["anchor"], parts["member"]
        num_tokens = len(anchor_AC) + len(member_MC)
        token_T = torch.arange(num_tokens, device=device)
        is_anchor_T = token_T % group_tokens == 0
        anchor_AC = anchor_AC if is_exact else anchor_AC * steps["anchor"].to(device)[:, None]
        member_MC = member_MC if is_exact else member_MC * steps["member"].to(device)[:, None]
        x_TC = torch.empty((num_tokens, anchor_AC.shape[1]), device=device)
        x_TC[is_anchor_T] = anchor_AC
        x_TC[~is_anchor_T] = member_MC + anchor_AC[token_T[~is_anchor_T] // group_tokens]
        if is_exact:
            x_TC *= float(steps["anchor"][0])
    if means_C is not None:
        x_TC += torch.from_numpy(means_C).to(device)
    return x_TC.view(len(x_TC), num_heads, -1).transpose(0, 1).contiguous()
