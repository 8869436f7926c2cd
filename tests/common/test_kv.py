"""The KV-cache type: copies and views as documented, and conversions that lose nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from common.errors import ConfigError
from common.kv import KVCache, concatenate, from_layers, from_transformers, to_transformers


def cache(tokens: int = 5, start: int = 0, dtype: torch.dtype = torch.float32, seed: int = 0) -> KVCache:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(3, 2, tokens, 4, generator=generator).to(dtype) for _ in range(2))
    return KVCache(keys, values, torch.arange(start, start + tokens))


def shares_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def test_sizes() -> None:
    kv = cache(5, start=7)
    assert (kv.num_layers, kv.num_heads, kv.num_tokens, kv.head_dim) == (3, 2, 5, 4)
    assert kv.num_bytes == 2 * 3 * 2 * 5 * 4 * 4
    assert cache(dtype=torch.bfloat16).num_bytes == 2 * 3 * 2 * 5 * 4 * 2
    assert kv.next_position == 12
    assert cache(0).next_position == 0


def test_copies_are_copies_and_views_are_views() -> None:
    kv = cache()
    for copied in (kv.clone(), concatenate([kv]), from_transformers(to_transformers(kv))):
        assert not shares_memory(copied.keys_LHTD, kv.keys_LHTD)
        assert not shares_memory(copied.values_LHTD, kv.values_LHTD)
        assert copied.fingerprint() == kv.fingerprint()
    for view in (kv.slice(1, 3).keys_LHTD, kv.layer(1)[0], kv.to("cpu").keys_LHTD):
        assert shares_memory(view, kv.keys_LHTD)
    library = to_transformers(kv)
    for index, layer in enumerate(library.layers):
        assert not shares_memory(layer.keys, kv.keys_LHTD)
        assert torch.equal(layer.values[0], kv.values_LHTD[index])


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4))
@settings(deadline=None, max_examples=40)
def test_slicing_and_concatenating_are_inverse(lengths: list[int]) -> None:
    kv = cache(sum(lengths), start=3)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    parts = [kv.slice(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    assert concatenate(parts).fingerprint() == kv.fingerprint()


def test_fingerprint_sees_every_bit_and_position() -> None:
    kv = cache(dtype=torch.bfloat16)
    changed = kv.clone()
    changed.values_LHTD[2, 1, 4, 3] += 1
    moved = KVCache(kv.keys_LHTD, kv.values_LHTD, kv.positions_T + 1)
    unrotated = KVCache(kv.keys_LHTD, kv.values_LHTD, kv.positions_T, is_rotated=False)
    prints = {entry.fingerprint() for entry in (kv, changed, moved, unrotated, kv.to(dtype=torch.float32))}
    assert len(prints) == 5
    assert kv.clone().fingerprint() == kv.fingerprint()
    # The layout in memory does not matter, the content does.
    strided = KVCache(kv.keys_LHTD.transpose(1, 2).contiguous().transpose(1, 2), kv.values_LHTD, kv.positions_T)
    assert strided.fingerprint() == kv.fingerprint()


def test_from_layers_stacks_copies() -> None:
    kv = cache()
    layers = [kv.layer(index) for index in range(3)]
    built = from_layers(layers, kv.positions_T)
    assert built.fingerprint() == kv.fingerprint()
    assert not shares_memory(built.keys_LHTD, kv.keys_LHTD)


def test_a_converted_cache_continues_the_librarys_decoding() -> None:
    config = LlamaConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 31, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(ids).logits[0, -1]
        kv = from_transformers(model(ids[:, :6], use_cache=True).past_key_values)
        assert kv.positions_T.tolist() == [0, 1, 2, 3, 4, 5]
        before = kv.fingerprint()
        rest = model(ids[:, 6:], past_key_values=to_transformers(kv)).logits[0, -1]
    assert torch.allclose(whole, rest, atol=1e-5)
    assert kv.fingerprint() == before


def test_sliding_window_caches_that_dropped_tokens_are_refused() -> None:
    config = MistralConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=4,
    )
    model = MistralForCausalLM(config).eval()
    with torch.no_grad():
        out = model(torch.arange(9)[None], use_cache=True, past_key_values=DynamicCache(config=config))
    with pytest.raises(ConfigError, match="sliding-window"):
        from_transformers(out.past_key_values)


def test_parts_that_do_not_fit_are_refused() -> None:
    kv = cache()
    with pytest.raises(ConfigError, match="one shape"):
        KVCache(kv.keys_LHTD, kv.values_LHTD[:, :, :4], kv.positions_T)
    with pytest.raises(ConfigError, match="dtype"):
        KVCache(kv.keys_LHTD, kv.values_LHTD.double(), kv.positions_T)
    with pytest.raises(ConfigError, match="5 int64"):
        KVCache(kv.keys_LHTD, kv.values_LHTD, kv.positions_T[:4])
    with pytest.raises(ConfigError, match="increasing"):
        KVCache(kv.keys_LHTD, kv.values_LHTD, kv.positions_T.flip(0))
    with pytest.raises(ConfigError, match="increasing"):
        concatenate([kv, kv])
    with pytest.raises(ConfigError, match="cannot be concatenated"):
        concatenate([kv, cache(start=9, dtype=torch.float64)])
    with pytest.raises(ConfigError, match="no cache"):
        concatenate([])
    with pytest.raises(ConfigError, match="rotated"):
        to_transformers(KVCache(kv.keys_LHTD, kv.values_LHTD, kv.positions_T, is_rotated=False))
    with pytest.raises(ConfigError, match="no tokens"):
        from_transformers(DynamicCache())
    batch = DynamicCache()
    batch.update(torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 3, 4), 0)
    with pytest.raises(ConfigError, match="batch size 2"):
        from_transformers(batch)
