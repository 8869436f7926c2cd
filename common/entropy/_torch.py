"""Decoding with plain torch operations on any device: one thread of work per lane, all lanes advance together.

For a GPU without a compiled kernel: it needs many lanes (a chunk of a 7B model has tens of thousands) to be worth it.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from common.entropy.tables import Tables

_BOTTOM = 1 << 16


def decode_lanes(
    padded: NDArray[np.uint16],
    starts: NDArray[np.int64],
    shape: tuple[int, int],
    rows: NDArray[np.int64],
    tables: Tables,
    rows_per_lane: int,
    device: str = "cpu",
) -> tuple[NDArray[np.uint8], bool]:
    """Symbols, and whether every lane ended as it must."""
    num_rows, n = shape
    num_lanes = len(starts) - 1
    # torch has no unsigned shifts; 64-bit integers hold everything.
    words = torch.from_numpy(padded.astype(np.int32)).to(device)
    symbol_of = torch.from_numpy(tables.symbol_SP).to(device)
    freq = torch.from_numpy(tables.freq_SA.astype(np.int64)).to(device)
    cumulative = torch.from_numpy(tables.cumulative_SA.astype(np.int64)).to(device)
    table_of = torch.zeros(num_lanes * rows_per_lane, dtype=torch.int64)
    table_of[:num_rows] = torch.from_numpy(rows)
    table_LR = table_of.view(num_lanes, rows_per_lane).to(device)
    begin, end = torch.from_numpy(starts[:-1]).to(device), torch.from_numpy(starts[1:]).to(device)
    symbols = torch.zeros((num_lanes, rows_per_lane, n), dtype=torch.uint8, device=device)
    x = (words[begin].long() << 16) | words[begin + 1].long()
    at = begin + 2
    mask, precision = (1 << tables.precision) - 1, tables.precision
    num_whole = num_rows // rows_per_lane
    for row in range(rows_per_lane):
        # The last lane may be shorter than the others: it is left out when its rows are over.
        lanes = num_lanes if num_whole == num_lanes or row < num_rows - num_whole * rows_per_lane else num_whole
        y, p, table = x[:lanes], at[:lanes], table_LR[:lanes, row]
        for i in range(n):
            s = symbol_of[table, y & mask]
            symbols[:lanes, row, i] = s
            s = s.long()
            y = freq[table, s] * (y >> precision) + (y & mask) - cumulative[table, s]
            needs = y < _BOTTOM
            y = torch.where(needs, (y << 16) | words[p], y)
            p = p + needs
        x = torch.cat([y, x[lanes:]])
        at = torch.cat([p, at[lanes:]])
    is_intact = bool((x == _BOTTOM).all() and (at == end).all())
    return symbols.view(num_lanes * rows_per_lane, n)[:num_rows].cpu().numpy(), is_intact
