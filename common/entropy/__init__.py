"""Entropy coding with static integer tables: interleaved rANS over bytes, one byte format, several backends.

    tables = Tables.from_counts(counts_SA)                     # one distribution per row of counts
    data = encode(symbols_RN, table_of_row_R, tables)          # bytes
    symbols_RN = decode(data, (R, N), table_of_row_R, tables)  # the same symbols, or CorruptBitstream

The state machine is range asymmetric numeral systems with a 32-bit state and 16-bit words. All arithmetic is on integers, so
that every machine and backend decodes the same symbols; the byte format is described in `common.entropy.coder`.
"""

from common.entropy.coder import BACKENDS, decode, encode, lane_layout
from common.entropy.tables import MAX_ALPHABET, MAX_PRECISION, Tables, normalise_counts

__all__ = [
    "BACKENDS",
    "MAX_ALPHABET",
    "MAX_PRECISION",
    "Tables",
    "decode",
    "encode",
    "lane_layout",
    "normalise_counts",
]
