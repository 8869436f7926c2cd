"""Attention of some rows of a prompt over all of its keys, with the mask that their absolute positions demand.

Row at position p may see keys 0 .. p. The rows are cut into blocks, and each block's keys end at the last one that any of its
rows may see; so the part of the score matrix that the mask would throw away is not computed. Every method of this package
attends through here.

Shape legend: Q query heads, H key/value heads, R rows, N keys, D head dimension.
"""

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

BLOCK_ROWS = 128
LONG_BLOCK_ROWS, LONG_KEYS = 64, 1024
"""Rows per block on a CPU from so many keys on: what a block computes in vain grows with the keys between its rows."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Block:
    first_row: int
    end_row: int
    first_key: int
    end_key: int
    mask: Tensor | None  # (rows, keys) to be added to the scores; None: all may be seen
    is_causal: bool
    padding: int = 0  # empty rows put in front, so that rows and keys are equally many and the causal kernel applies


class RowAttention:
    """A plan for one set of rows; made once, used at every layer that computes these rows.

    Args:
        last_key_R: index of the last key that each row may see, int64 on the CPU, non-decreasing. For a correct mask this is
            the row's own position.
        position_R: absolute position of each row, for sliding windows.
        dtype, device: of the queries.
        window: a row at position p sees keys p - window + 1 .. p only; None: no limit.
        block_rows: rows per block; None: as suits the device and the number of keys.
    """

    def __init__(
        self,
        last_key_R: Tensor,
        position_R: Tensor,
        dtype: torch.dtype,
        device: torch.device,
        window: int | None = None,
        block_rows: int | None = None,
    ) -> None:
        rows = len(last_key_R)
        first, keys = (int(last_key_R[0]), int(last_key_R[-1]) + 1) if rows else (0, 0)
        is_contiguous = rows > 1 and bool((last_key_R == torch.arange(first, first + rows)).all())
        # Empty rows in front cost first^2 / 2 scores, a fifth at most here; blocks under a mask cost about as much more.
        if is_contiguous and (window is None or keys <= window) and 6 * first * first <= keys * keys:
            self._blocks = [_Block(0, rows, 0, keys, None, True, first)]
            return
        if block_rows is None:
            block_rows = LONG_BLOCK_ROWS if device.type == "cpu" and keys >= LONG_KEYS else BLOCK_ROWS
        self._blocks = []
        for first in range(0, rows, block_rows):
            end = min(first + block_rows, rows)
            last_key, position = last_key_R[first:end], position_R[first:end]
            first_key = 0 if window is None else max(0, int(position[0]) - window + 1)
            end_key = int(last_key[-1]) + 1
            key = torch.arange(first_key, end_key)
            allowed = key[None, :] <= last_key[:, None]
            if window is not None:
                allowed &= position[:, None] - key[None, :] < window
            mask = None
            if not bool(allowed.all()):
                # Additive, because a boolean mask would be converted at every layer.
                mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, float("-inf")).to(device)
            self._blocks.append(_Block(first, end, first_key, end_key, mask, False))

    def __call__(self, query_QRD: Tensor, key_HND: Tensor, value_HND: Tensor, scale: float) -> Tensor:
        """Attend; returns (R, Q * D), ready for the output projection."""
        rows = query_QRD.shape[1]
        if len(self._blocks) == 1:
            return self._attend(self._blocks[0], query_QRD, key_HND, value_HND, scale)
        out = query_QRD.new_empty(rows, query_QRD.shape[0] * value_HND.shape[2])
        for block in self._blocks:
            out[block.first_row : block.end_row] = self._attend(block, query_QRD, key_HND, value_HND, scale)
        return out

    @staticmethod
    def _attend(block: _Block, query_QRD: Tensor, key_HND: Tensor, value_HND: Tensor, scale: float) -> Tensor:
        query = query_QRD[None, :, block.first_row : block.end_row]
        if block.padding:
            query = pad(query, (0, 0, block.padding, 0))
        key, value = (tensor[None, :, block.first_key : block.end_key] for tensor in (key_HND, value_HND))
        groups = query.shape[1] // key.shape[1]
        if groups > 1 and block.mask is not None and query.is_cuda:
            # On a GPU a masked call with enable_gqa falls to the slowest kernel; copied heads reach the memory-efficient one.
            key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
            groups = 1
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=block.mask, is_causal=block.is_causal, scale=scale, enable_gqa=groups > 1
        )
        return out[0, :, block.padding :].transpose(0, 1).reshape(block.end_row - block.first_row, -1)


def probabilities(
    query_QRD: Tensor, key_HND: Tensor, last_key_R: Tensor, scale: float, window: int | None = None
) -> Tensor:
    """Softmax attention of a few rows over all keys, (Q, R, N), computed the plain way; for analysis, not for speed.

    A row sees the keys up to `last_key_R`, of these only the last `window` if there is one.
    """
    groups = query_QRD.shape[0] // key_HND.shape[0]
    keys_QND = key_HND.repeat_interleave(groups, dim=0)
    scores_QRN = query_QRD @ keys_QND.transpose(1, 2) * scale
    key_N = torch.arange(key_HND.shape[1])
    visible_RN = key_N[None, :] <= last_key_R[:, None]
    if window is not None:
        visible_RN &= last_key_R[:, None] - key_N[None, :] < window
    return scores_QRN.masked_fill(~visible_RN.to(scores_QRN.device), float("-inf")).softmax(-1)
