"""The byte format, and the choice of a backend.

A block holds R rows of N symbols each; row r is coded with table `table_of_row_R[r]`. Consecutive rows share a *lane*, an
independent rANS stream, so that each lane holds 512 to 4096 symbols: lanes decode in parallel and their overhead stays small.

    u16 words[lanes]       how many 16-bit words each lane takes
    u16 stream[...]        the lanes' words, one lane after another; everything little-endian

A lane: its first two words are the decoder's initial state (high half first). For each symbol, row by row,

    slot = x mod 2^P;  symbol = the one whose slots hold it;  x = f * (x >> P) + slot - c;  if x < 2^16: x = x * 2^16 + next word

After the last symbol x must be 2^16 and every word used; otherwise the block is corrupt. R, N and the tables are the
container's business.

Shape legend: R rows, N symbols per row.
"""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.entropy.tables import Tables
from common.errors import ConfigError, CorruptBitstream

BACKENDS = ("numba", "numpy", "torch")
_LANE_SYMBOLS, _LEAST_LANE_SYMBOLS = 4096, 512
MAX_ROW_SYMBOLS = 65536
"""At 12 bits a symbol a lane of one row then takes at most 49154 words, which its u16 length holds."""


def lane_layout(num_rows: int, num_symbols: int) -> tuple[int, int]:
    """Rows per lane and number of lanes of a block; part of the byte format."""
    if num_rows == 0 or num_symbols == 0:
        return 1, 0
    # Eight lanes where that leaves each enough symbols to carry its six bytes: fewer would leave the decoder waiting for itself.
    wanted = min(_LANE_SYMBOLS // num_symbols, num_rows // 8)
    rows_per_lane = max(1, min(num_rows, max(wanted, -(-_LEAST_LANE_SYMBOLS // num_symbols))))
    return rows_per_lane, -(-num_rows // rows_per_lane)


def encode(
    symbols_RN: NDArray[np.uint8], table_of_row_R: NDArray[np.integer[Any]], tables: Tables, *, backend: str = "numba"
) -> bytes:
    """Code a block of symbols.

    Args:
        symbols_RN: uint8, each below the alphabet.
        table_of_row_R: index of each row's table.
        tables: the distributions.
        backend: "numba", "numpy" or "torch" (which encodes with numpy); all give the same bytes.

    Raises:
        ConfigError: shapes, a symbol outside the alphabet, a table index out of range, more than 65536 symbols in a row.
    """
    rows = _check_rows(symbols_RN.shape, table_of_row_R, tables)
    if symbols_RN.dtype != np.uint8:
        raise ConfigError(f"symbols must be uint8, not {symbols_RN.dtype}.")
    if symbols_RN.size and int(symbols_RN.max()) >= tables.alphabet:
        raise ConfigError(f"symbol {int(symbols_RN.max())} is outside the alphabet of {tables.alphabet}.")
    rows_per_lane, num_lanes = lane_layout(*symbols_RN.shape)
    if num_lanes == 0:
        return b""
    module = _backend("numpy" if backend == "torch" else backend)
    words, words_of_lane = module.encode_lanes(np.ascontiguousarray(symbols_RN), rows, tables, rows_per_lane, num_lanes)
    return words_of_lane.astype("<u2").tobytes() + words.astype("<u2", copy=False).tobytes()


def decode(
    data: bytes | memoryview,
    shape: tuple[int, int],
    table_of_row_R: NDArray[np.integer[Any]],
    tables: Tables,
    *,
    backend: str = "numba",
    device: str = "cpu",
) -> NDArray[np.uint8]:
    """The symbols of a block; `data` must be the block and nothing else.

    Args:
        data: from `encode`.
        shape: (R, N). Allocates R * N bytes: check it before when it comes from a stranger.
        table_of_row_R, tables: as given to `encode`.
        backend: as in `encode`.
        device: of the torch backend.

    Raises:
        CorruptBitstream: the bytes do not end where the symbols do, or the final state is wrong.
        ConfigError: an argument is not allowed.
    """
    rows = _check_rows(shape, table_of_row_R, tables)
    rows_per_lane, num_lanes = lane_layout(*shape)
    if num_lanes == 0:
        if len(data):
            raise CorruptBitstream(f"an empty block is followed by {len(data)} bytes.")
        return np.zeros(shape, dtype=np.uint8)
    if len(data) < 2 * num_lanes or len(data) % 2:
        raise CorruptBitstream(f"{len(data)} bytes cannot hold a block of {num_lanes} lanes. The stream was cut.")
    everything = np.frombuffer(data, dtype="<u2")
    words_of_lane = everything[:num_lanes].astype(np.int64)
    num_words = len(everything) - num_lanes
    if int(words_of_lane.sum()) != num_words or int(words_of_lane.min()) < 2:
        raise CorruptBitstream(
            f"lanes of {int(words_of_lane.sum())} words were announced, {num_words} are there. The stream was cut or damaged."
        )
    # A lane can use at most one word per symbol. With that many zeros behind, a decoder led astray by damaged words stays
    # inside the buffer without a check per symbol; that it left its lane is noticed at the end.
    padded = np.zeros(num_words + rows_per_lane * shape[1] + 1, dtype=np.uint16)
    padded[:num_words] = everything[num_lanes:]
    starts = np.zeros(num_lanes + 1, dtype=np.int64)
    np.cumsum(words_of_lane, out=starts[1:])
    module = _backend(backend)
    options = {"device": device} if backend == "torch" else {}
    symbols, is_intact = module.decode_lanes(padded, starts, shape, rows, tables, rows_per_lane, **options)
    if not is_intact:
        raise CorruptBitstream(
            "a lane does not end in the coder's initial state. The stream was damaged or coded with other tables."
        )
    result: NDArray[np.uint8] = symbols
    return result


def _check_rows(shape: tuple[int, ...], table_of_row_R: NDArray[np.integer[Any]], tables: Tables) -> NDArray[np.int64]:
    if len(shape) != 2 or shape[1] > MAX_ROW_SYMBOLS:
        raise ConfigError(f"a block is (rows, at most {MAX_ROW_SYMBOLS} symbols), not {tuple(shape)}.")
    rows = np.ascontiguousarray(table_of_row_R, dtype=np.int64)
    if rows.shape != (shape[0],):
        raise ConfigError(f"{shape[0]} rows need as many table indices, not {rows.shape}.")
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= tables.num_tables):
        raise ConfigError(f"table indices must lie in 0..{tables.num_tables - 1}.")
    return rows


def _backend(name: str) -> Any:
    if name not in BACKENDS:
        raise ConfigError(f"entropy backend {name!r} is not one of {', '.join(BACKENDS)}.")
    return importlib.import_module(f"common.entropy._{name}")
