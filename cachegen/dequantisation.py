"""Symbols back to numbers: the part of decoding behind the entropy coder, one layer's keys or values at a time.

Two implementations with the same results, bit for bit: plain torch (any device), and one compiled pass for the CPU, where the
torch version would read and write the tensor five times.

Shape legend: H heads, T tokens, D head dim, C = H * D channels, n symbols of a class per channel.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from cachegen.profile import Kind


def dequantise(
    symbols: Mapping[Kind, tuple[NDArray[Any], int]],
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
    if device == "cpu":
        return _compiled(symbols, steps, means_C, num_heads, group_tokens, is_exact)
    return with_torch(symbols, steps, means_C, num_heads, group_tokens, is_exact=is_exact, device=device)


def with_torch(
    symbols: Mapping[Kind, tuple[NDArray[Any], int]],
    steps: Mapping[Kind, Tensor],
    means_C: NDArray[np.float32] | None,
    num_heads: int,
    group_tokens: int,
    *,
    is_exact: bool,
    device: str,
) -> Tensor:
    """`dequantise` in plain torch operations."""
    parts = {
        kind: torch.from_numpy(q).to(device).transpose(0, 1).float() - offset for kind, (q, offset) in symbols.items()
    }
    if "direct" in parts:
        x_TC = parts["direct"] * steps["direct"].to(device)[:, None]
    else:
        anchor_AC, member_MC = parts["anchor"], parts["member"]
        token_T = torch.arange(len(anchor_AC) + len(member_MC), device=device)
        is_anchor_T = token_T % group_tokens == 0
        if not is_exact:
            anchor_AC = anchor_AC * steps["anchor"].to(device)[:, None]
            member_MC = member_MC * steps["member"].to(device)[:, None]
        x_TC = torch.empty((len(token_T), anchor_AC.shape[1]), device=device)
        x_TC[is_anchor_T] = anchor_AC
        x_TC[~is_anchor_T] = member_MC + anchor_AC[token_T[~is_anchor_T] // group_tokens]
        if is_exact:
            x_TC *= float(steps["anchor"][0])
    if means_C is not None:
        x_TC = x_TC + torch.from_numpy(means_C).to(device)
    return x_TC.reshape(len(x_TC), num_heads, -1).transpose(0, 1).contiguous()


def _compiled(
    symbols: Mapping[Kind, tuple[NDArray[Any], int]],
    steps: Mapping[Kind, Tensor],
    means_C: NDArray[np.float32] | None,
    num_heads: int,
    group_tokens: int,
    is_exact: bool,
) -> Tensor:
    kinds = list(symbols)
    num_channels = symbols[kinds[0]][0].shape[0]
    num_tokens = sum(q.shape[1] for q, _ in symbols.values())
    out_HTD = np.empty((num_heads, num_tokens, num_channels // num_heads), dtype=np.float32)
    added_C = np.zeros(num_channels, dtype=np.float32) if means_C is None else np.ascontiguousarray(means_C)
    if kinds == ["direct"]:
        q_Cn, offset = symbols["direct"]
        _direct(q_Cn, offset, steps["direct"].numpy(), added_C, means_C is not None, out_HTD)
    else:
        (anchor_CA, anchor_offset), (member_CM, member_offset) = symbols["anchor"], symbols["member"]
        if anchor_CA.dtype != member_CM.dtype:  # outliers made one of them wider
            anchor_CA, member_CM = anchor_CA.astype(np.int32), member_CM.astype(np.int32)
        _anchored(
            anchor_CA,
            anchor_offset,
            steps["anchor"].numpy(),
            member_CM,
            member_offset,
            steps["member"].numpy(),
            group_tokens,
            is_exact,
            added_C,
            means_C is not None,
            out_HTD,
        )
    return torch.from_numpy(out_HTD)


@njit(nogil=True, cache=True)
def _direct(q_Cn, offset, step_T, added_C, has_means, out_HTD):
    num_heads, num_tokens, head_dim = out_HTD.shape
    for head in range(num_heads):
        # A few tokens at a time: the reads run along channels' rows and stay in the cache until the writes have used them.
        for first in range(0, num_tokens, 64):
            last = min(num_tokens, first + 64)
            for d in range(head_dim):
                channel = head * head_dim + d
                added = added_C[channel]
                for t in range(first, last):
                    value = np.float32(np.int32(q_Cn[channel, t]) - offset) * step_T[t]
                    if has_means:
                        value += added
                    out_HTD[head, t, d] = value


@njit(nogil=True, cache=True)
def _anchored(
    anchor_CA,
    anchor_offset,
    anchor_step_A,
    member_CM,
    member_offset,
    member_step_M,
    group,
    is_exact,
    added_C,
    has_means,
    out_HTD,
):
    num_heads, num_tokens, head_dim = out_HTD.shape
    num_anchors = anchor_CA.shape[1]
    exact_step = anchor_step_A[0]
    for head in range(num_heads):
        for a in range(num_anchors):
            start = a * group
            size = min(group, num_tokens - start)
            m = a * (group - 1)
            for d in range(head_dim):
                channel = head * head_dim + d
                added = added_C[channel]
                base = np.float32(np.int32(anchor_CA[channel, a]) - anchor_offset)
                if not is_exact:
                    base *= anchor_step_A[a]
                for k in range(size):
                    value = base
                    if k > 0:
                        delta = np.float32(np.int32(member_CM[channel, m + k - 1]) - member_offset)
                        value = base + (delta if is_exact else delta * member_step_M[m + k - 1])
                    if is_exact:
                        value *= exact_step
                    if has_means:
                        value += added
                    out_HTD[head, start + k, d] = value
