"""The entropy coder: golden bytes, losslessness, agreement of backends, an oracle, and what damaged bytes do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.entropy import BACKENDS, Tables, decode, encode, lane_layout, normalise_counts
from common.errors import ConfigError, CorruptBitstream


def block(seed, num_rows, n, alphabet, precision=11, skew=1.0):
    """Random symbols and tables fitted to their (other) distribution."""
    rng = np.random.default_rng(seed)
    weights = rng.random((num_rows, alphabet)) ** (4 * skew) + 1e-3
    weights /= weights.sum(axis=1, keepdims=True)
    symbols = np.stack([rng.choice(alphabet, n, p=row) for row in weights]).astype(np.uint8).reshape(num_rows, n)
    tables = Tables.from_counts((weights * 1000).astype(np.int64), precision)
    return symbols, np.arange(num_rows), tables


def test_golden_bytes_by_hand():
    # f = [3, 1], c = [0, 3], P = 2. Encoding backwards from 65536: symbol 1: 65536 // 1 * 4 + 0 + 3 = 262147;
    # symbol 0: 262147 // 3 * 4 + 262147 % 3 + 0 = 87382 * 4 + 1 = 349529 = 5 * 65536 + 0x5559. One lane of two words.
    tables = Tables(np.array([[3, 1]], dtype=np.uint16), 2)
    golden = bytes.fromhex("0200 0500 5955")
    for backend in BACKENDS:
        assert encode(np.array([[0, 1]], dtype=np.uint8), np.zeros(1, int), tables, backend=backend) == golden
        assert decode(golden, (1, 2), np.zeros(1, int), tables, backend=backend).tolist() == [[0, 1]]


@pytest.mark.parametrize("alphabet", [1, 2, 3, 31, 255, 256])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 10), (37, 11), (9, 1500), (1, 0), (0, 5), (700, 13)])
def test_lossless_and_backends_agree(alphabet, shape):
    num_rows, _ = shape
    precision = 12 if alphabet > 32 else 11
    rng = np.random.default_rng(alphabet + num_rows)
    tables = Tables.from_counts(rng.integers(0, 50, (max(1, num_rows), alphabet)), precision)
    symbols = rng.integers(0, alphabet, shape).astype(np.uint8)
    rows = rng.permutation(num_rows)
    data = encode(symbols, rows, tables)
    assert (decode(data, shape, rows, tables) == symbols).all()
    if symbols.size < 5000:
        for backend in BACKENDS:
            assert encode(symbols, rows, tables, backend=backend) == data
            assert (decode(data, shape, rows, tables, backend=backend) == symbols).all()


@settings(max_examples=60, deadline=None)
@given(
    counts=hnp.arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(2, 60)), elements=st.integers(0, 10**9)),
    n=st.integers(0, 70),
    seed=st.integers(0, 2**31),
)
def test_any_symbols_survive_any_tables(counts, n, seed):
    rng = np.random.default_rng(seed)
    tables = Tables.from_counts(counts, 10)
    symbols = rng.integers(0, counts.shape[1], (counts.shape[0], n)).astype(np.uint8)
    rows = rng.integers(0, counts.shape[0], counts.shape[0])
    data = encode(symbols, rows, tables)
    assert (decode(data, symbols.shape, rows, tables) == symbols).all()
    assert encode(symbols, rows, tables, backend="numpy") == data


@pytest.mark.parametrize("rare_symbol", [0, 1])
def test_most_skewed_table(rare_symbol):
    counts = np.array([[0, 0]])
    counts[0, 1 - rare_symbol] = 10**9
    tables = Tables.from_counts(counts, 12)
    assert sorted(tables.freq_SA[0].tolist()) == [1, 4095]
    for symbol in (0, 1):
        symbols = np.full((1, 3000), symbol, dtype=np.uint8)
        data = encode(symbols, np.zeros(1, int), tables)
        assert (decode(data, symbols.shape, np.zeros(1, int), tables) == symbols).all()
        expected_bits = 3000 * (12 if symbol == rare_symbol else np.log2(4096 / 4095))
        assert len(data) * 8 <= expected_bits * 1.001 + 64


def test_encoder_is_exact_over_the_whole_range_of_states():
    # The compiled encoder divides by multiplying; the reference divides. Symbols that keep the state at its largest show it.
    rng = np.random.default_rng(5)
    for frequencies in ([4095, 1], [1, 4095], [2048, 2047, 1], [3, 4091, 2]):
        tables = Tables(np.array([frequencies], dtype=np.uint16), 12)
        symbols = rng.integers(0, len(frequencies), (40, 700)).astype(np.uint8)
        rows = np.zeros(40, int)
        assert encode(symbols, rows, tables) == encode(symbols, rows, tables, backend="numpy")


def test_size_is_cross_entropy_plus_the_stated_overhead():
    symbols, rows, tables = block(1, 64, 1500, 31)
    counts = np.stack([np.bincount(row, minlength=31) for row in symbols])
    bits = 8 * len(encode(symbols, rows, tables))
    _, num_lanes = lane_layout(*symbols.shape)
    ideal = tables.cross_entropy_bits(counts)
    assert ideal <= bits <= ideal * 1.001 + num_lanes * (32 + 16 + 16)


def test_constriction_decodes_the_same_symbols_at_the_same_size():
    constriction = pytest.importorskip("constriction")
    symbols, rows, tables = block(2, 16, 1200, 31)
    encoder = constriction.stream.queue.RangeEncoder()
    models = [
        constriction.stream.model.Categorical(freq / freq.sum(), perfect=False)
        for freq in tables.freq_SA.astype(np.float64)
    ]
    for row, model in zip(symbols, models, strict=True):
        encoder.encode(row.astype(np.int32), model)
    compressed = encoder.get_compressed()
    decoder = constriction.stream.queue.RangeDecoder(compressed)
    for row, model in zip(symbols, models, strict=True):
        assert (decoder.decode(model, symbols.shape[1]) == row).all()
    ours = encode(symbols, rows, tables)
    assert (decode(ours, symbols.shape, rows, tables) == symbols).all()
    assert len(ours) <= 1.02 * 4 * len(compressed)


@settings(max_examples=200, deadline=None)
@given(
    counts=hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 256)), elements=st.integers(0, 2**39)),
    precision=st.integers(8, 12),
)
def test_normalised_frequencies_sum_to_the_power(counts, precision):
    freq = normalise_counts(counts, precision)
    assert freq.dtype == np.uint16
    assert freq.min() >= 1
    assert (freq.sum(axis=1) == 1 << precision).all()
    assert (normalise_counts(counts, precision) == freq).all()


def test_normalisation_golden():
    # Doubled counts + 1: [1, 3, 13], sum 17, P = 4: floor(16/17), floor(48/17), floor(208/17) = 0 -> 1, 2, 12; one short: 13.
    assert normalise_counts([[0, 1, 6]], 4).tolist() == [[1, 2, 13]]
    # All floors lifted to 1 can exceed the sum: [1, 1, 1, 2001] at P = 2 gives [1, 1, 1, 3]; the largest pays two.
    assert normalise_counts([[0, 0, 0, 1000]], 2).tolist() == [[1, 1, 1, 1]]


def test_damage_never_crashes_and_is_mostly_noticed():
    symbols, rows, tables = block(3, 40, 300, 15)
    data = encode(symbols, rows, tables)
    rng = np.random.default_rng(0)
    silent = 0
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            damaged[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        try:
            decoded = decode(bytes(damaged), symbols.shape, rows, tables)
        except CorruptBitstream:
            continue
        assert decoded.max() < tables.alphabet
        silent += bytes(damaged) != data
    # The end state is a check of some 32 bits per lane; the container's checksum covers the rest.
    assert silent <= 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_cut_and_foreign_blocks_are_refused(backend):
    symbols, rows, tables = block(4, 24, 200, 15)
    data = encode(symbols, rows, tables)
    for bad in (b"", data[:1], data[:-1], data[:-2], data + b"\0\0", b"\0" * len(data), b"\xff" * len(data)):
        with pytest.raises(CorruptBitstream):
            decode(bad, symbols.shape, rows, tables, backend=backend)
    other = Tables.from_counts(np.random.default_rng(9).integers(0, 99, (24, 15)))
    with pytest.raises(CorruptBitstream):
        decode(data, symbols.shape, rows, other, backend=backend)


def test_bad_arguments_are_refused():
    symbols, rows, tables = block(6, 3, 20, 15)
    with pytest.raises(ConfigError, match="outside the alphabet"):
        encode(np.full((3, 20), 15, dtype=np.uint8), rows, tables)
    with pytest.raises(ConfigError, match="table indices"):
        encode(symbols, rows + 1, tables)
    with pytest.raises(ConfigError, match="as many table indices"):
        encode(symbols, rows[:2], tables)
    with pytest.raises(ConfigError, match="backend"):
        encode(symbols, rows, tables, backend="zip")
    with pytest.raises(ConfigError, match="sum to"):
        Tables(np.array([[3, 2]], dtype=np.uint16), 2)
    with pytest.raises(ConfigError, match="precision"):
        normalise_counts(np.ones((1, 200), dtype=int), 7)
