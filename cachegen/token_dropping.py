"""Baselines that keep fewer tokens: H2O (by attention, from the cache) and LLMLingua (by self-information, from the text).

Shape legend: L layers, H kv heads, T tokens, S kept tokens.
"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from common.errors import ConfigError, CorruptBitstream
from common.kv import KVCache


def heavy_hitters(score_LHT: Tensor, num_kept: int, recent_share: float = 0.5) -> Tensor:
    """Which tokens H2O keeps, per layer and kv head.

    Args:
        score_LHT: attention that each token received.
        num_kept: S, 1..T.
        recent_share: part of S that goes to the last tokens; the rest to those of the highest score among the others.

    Returns:
        Sorted indices, (L, H, S) int64; ties go to the earlier token.

    Raises:
        ConfigError: S or the share is out of range.
    """
    num_tokens = score_LHT.shape[-1]
    if not 1 <= num_kept <= num_tokens or not 0 <= recent_share <= 1:
        raise ConfigError(
            f"keep 1 to {num_tokens} tokens and a recent share in [0, 1], not {num_kept}, {recent_share}."
        )
    num_recent = round(num_kept * recent_share)
    order = torch.sort(score_LHT[..., : num_tokens - num_recent], dim=-1, descending=True, stable=True).indices
    heavy = order[..., : num_kept - num_recent]
    recent = torch.arange(num_tokens - num_recent, num_tokens).expand(*heavy.shape[:2], num_recent)
    return torch.cat([heavy, recent], dim=-1).sort(dim=-1).values


def keep(kv: KVCache, kept_LHS: Tensor) -> KVCache:
    """The cache of the kept tokens. Keys keep the rotation of the place where they stood.

    The heads hold different tokens, so the positions of the result only say where the next token stands.
    """
    index = kept_LHS[..., None].expand(*kept_LHS.shape, kv.head_dim).to(kv.device)
    positions = torch.arange(kv.next_position - kept_LHS.shape[-1], kv.next_position)
    return KVCache(kv.keys_LHTD.gather(2, index), kv.values_LHTD.gather(2, index), positions, kv.is_rotated)


def pack_kept(kept_LHS: Tensor, num_tokens: int) -> bytes:
    """Which tokens were kept, as one bit per layer, head and token: a runtime that merges caches needs it, so it is sent."""
    taken = torch.zeros((*kept_LHS.shape[:2], num_tokens), dtype=torch.uint8).scatter_(2, kept_LHS, 1)
    body = struct.pack("<HHI", *taken.shape) + np.packbits(taken.numpy(), bitorder="little").tobytes()
    return body + struct.pack("<I", zlib.crc32(body))


def unpack_kept(data: bytes) -> Tensor:
    """What `pack_kept` wrote: (L, H, T) bool.

    Raises:
        CorruptBitstream: damaged.
    """
    if len(data) < 12 or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise CorruptBitstream("the list of kept tokens is damaged.")
    shape = struct.unpack_from("<HHI", data)
    count = int(np.prod(shape))
    if (count + 7) // 8 != len(data) - 12:
        raise CorruptBitstream(f"the list of kept tokens has {len(data)} bytes for {count} tokens.")
    bits = np.unpackbits(np.frombuffer(data, np.uint8, len(data) - 12, 8), count=count, bitorder="little")
    return torch.from_numpy(bits.astype(bool)).view(shape)


def informative(information_T: Tensor, num_kept: int, protected: Sequence[int] = ()) -> Tensor:
    """Which text tokens to keep: those of the highest self-information, in order (LLMLingua, token-level compression).

    Args:
        information_T: -log p of each token; infinite values are kept first.
        num_kept: how many, 1..T.
        protected: indices that are kept whatever they say (separators).

    Returns:
        Sorted indices, int64.
    """
    if not 1 <= num_kept <= len(information_T):
        raise ConfigError(f"keep 1 to {len(information_T)} tokens, not {num_kept}.")
    score_T = information_T.clone()
    score_T[list(protected)] = torch.inf
    order = torch.sort(score_T, descending=True, stable=True).indices
    return order[:num_kept].sort().values
