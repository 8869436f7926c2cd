"""Every method keeps the contract; the baselines' sizes are what their formats say."""

import numpy as np
import pytest
import torch

from cachegen import token_dropping
from cachegen.api import METHODS, WORKLOADS
from cachegen.baselines import Float8, Kivi, Raw, Uniform, pack_bits, unpack_bits
from cachegen.contract import check_method, check_workload
from common.errors import ConfigError, CorruptBitstream
from common.kv import KVCache
from tests.cachegen.tiny_kv import cache_of, tiny_model


@pytest.mark.parametrize("name", METHODS.names())
def test_method_contract(name):
    check_method(name)


@pytest.mark.parametrize("name", WORKLOADS.names())
def test_workload_contract(name):
    check_workload(name)


@pytest.mark.parametrize("bits", range(1, 9))
def test_packing_round_trip(bits):
    rng = np.random.default_rng(bits)
    symbols = rng.integers(0, 2**bits, 77).astype(np.uint8)
    data = pack_bits(symbols, bits)
    assert len(data) == (77 * bits + 7) // 8
    assert (unpack_bits(data, 77, bits) == symbols).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "codec", [Raw(), Uniform(8), Uniform(4), Uniform(3), Uniform(4, True), Float8(), Kivi(), Kivi(4)]
)
def test_baselines_round_trip(codec, dtype):
    kv = cache_of(tiny_model("llama"), 100, 4).to(dtype=dtype)
    decoded = codec.decode(codec.encode(kv))
    assert decoded.dtype == dtype
    noise = (
        decoded.values_LHTD.float() - kv.values_LHTD.float()
    ).square().mean() / kv.values_LHTD.float().square().mean()
    limit = {"Raw": 0, "Float8": 1e-3}.get(type(codec).__name__, 0.25 / 2 ** (2 * getattr(codec, "bits", 8) - 4))
    assert float(noise) <= limit
    again = codec.decode(codec.encode(decoded)) if isinstance(codec, Raw) else decoded
    assert torch.equal(again.keys_LHTD, decoded.keys_LHTD)


def test_sizes_are_those_of_the_formats():
    kv = cache_of(tiny_model("llama"), 100, 4).to(dtype=torch.float16)  # 3 layers, 2 x 16 channels
    numbers = 2 * 3 * 32 * 100
    overhead = 32 + 4
    assert len(Raw().encode(kv)) == 2 * numbers + overhead
    assert len(Uniform(8).encode(kv)) == numbers + 2 * 600 + overhead
    assert len(Uniform(3).encode(kv)) == numbers * 3 // 8 + 2 * 600 + overhead
    assert len(Float8().encode(kv)) == numbers + 4 * 6 + overhead
    # 64 of 100 tokens in groups of 32, 36 tokens exact; 4 bytes per group of 32 numbers.
    coded = 2 * 3 * 32 * 64
    assert len(Kivi(2).encode(kv)) == coded // 4 + coded // 32 * 4 + 2 * 2 * 3 * 32 * 36 + overhead


def test_kivi_keys_are_grouped_along_tokens():
    # A channel that is 100 times larger than the others must not cost the others their precision.
    kv = cache_of(tiny_model("llama"), 64, 4)
    keys = kv.keys_LHTD.clone()
    keys[..., 3] *= 100
    wide = KVCache(keys, kv.values_LHTD, kv.positions_T)
    decoded = Kivi(4, 32, 0).decode(Kivi(4, 32, 0).encode(wide))
    plain = Kivi(4, 32, 0).decode(Kivi(4, 32, 0).encode(kv))
    others = [channel for channel in range(16) if channel != 3]
    assert torch.equal(decoded.keys_LHTD[..., others], plain.keys_LHTD[..., others])
    assert torch.allclose(decoded.keys_LHTD[..., 3], plain.keys_LHTD[..., 3] * 100, rtol=0.1, atol=5)


@pytest.mark.parametrize("codec", [Raw(), Uniform(8), Uniform(4, True), Float8(), Kivi()])
def test_damaged_baseline_chunks_are_refused(codec):
    data = codec.encode(cache_of(tiny_model("llama"), 40, 4).to(dtype=torch.float16))
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(data)
        damaged[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(CorruptBitstream):
            codec.decode(bytes(damaged))
    for cut in (b"", data[:20], data[:-1]):
        with pytest.raises(CorruptBitstream):
            codec.decode(cut)


def test_heavy_hitters_by_hand():
    score = torch.tensor([[[5.0, 1, 3, 3, 0, 0]]])
    # Four kept, two of them the last ones; of the first four tokens the best two are 0 and, on a tie, the earlier 2.
    assert token_dropping.heavy_hitters(score, 4).tolist() == [[[0, 2, 4, 5]]]
    assert token_dropping.heavy_hitters(score, 3, 0.0).tolist() == [[[0, 2, 3]]]
    with pytest.raises(ConfigError):
        token_dropping.heavy_hitters(score, 7)


def test_kept_tokens_keep_their_rotation():
    kv = cache_of(tiny_model("llama"), 10, 1)
    kept = torch.tensor([[[0, 3], [1, 9]]] * 3)
    small = token_dropping.keep(kv, kept)
    assert torch.equal(small.keys_LHTD[1, 1], kv.keys_LHTD[1, 1, [1, 9]])
    assert small.next_position == 10
    taken = token_dropping.unpack_kept(token_dropping.pack_kept(kept, 10))
    assert taken[0, 1].nonzero().flatten().tolist() == [1, 9]
    with pytest.raises(CorruptBitstream):
        token_dropping.unpack_kept(token_dropping.pack_kept(kept, 10)[:-1])


def test_informative_tokens_stay_in_order():
    information = torch.tensor([torch.inf, 0.1, 2.0, 0.5, 2.0])
    assert token_dropping.informative(information, 3).tolist() == [0, 2, 4]
    assert token_dropping.informative(information, 3, [1]).tolist() == [0, 1, 2]
