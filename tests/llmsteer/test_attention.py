"""Every route of steering equals multiply-and-renormalise, wherever it is used."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from common.errors import ConfigError
from llmsteer import attention
from llmsteer.attention import (
    ColumnSums,
    LayerSteering,
    Session,
    active,
    additive_mask,
    channel_cache,
    column_sums,
    duplicate_entries,
    gains,
    multiply_attention,
)
from tests.llmsteer.tiny_models import MODELS, build

TOKENS = torch.tensor([3, 7, 8, 19])
IDS = torch.tensor([[1, *[(37 * i + 11) % 190 + 5 for i in range(39)]]])
HEADS = {0: (0, 3), 2: (1,)}
ALPHA = 5.0


def same(got, want):
    """Equal to 1e-5 of the largest number in single precision, to 1e-11 in double precision."""
    size = float(want.abs().max())
    torch.testing.assert_close(got / size, want / size, atol=1e-5 if want.dtype == torch.float32 else 1e-11, rtol=0)


def steering(route="auto", *, pads=None, alpha=ALPHA, heads=HEADS, tokens=TOKENS, renormalise=True):
    session = Session(pads)
    return {
        layer: LayerSteering(tokens, gains(own, 4, alpha), session, route=route, renormalise=renormalise)
        for layer, own in heads.items()
    }


def oracle(model, ids, *, mask=None, tokens=TOKENS, alpha=ALPHA, heads=HEADS, monkeypatch):
    """Logits of the model with the matrix M multiplied onto eager attention's full matrix; none of our attention code."""

    def multiplied(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
        per_group = query.shape[1] // key.shape[1]
        logits = query @ key.repeat_interleave(per_group, 1).transpose(2, 3) * scaling + attention_mask
        steered = logits.softmax(-1)  # transformers' eager softmax is in float32, whatever the model's dtype
        for row in range(len(ids)):
            offset = 0 if mask is None else int(mask[row].argmax())
            for head in heads.get(module.layer_idx, ()):
                steered[row, head, :, tokens + offset] *= alpha
        steered = steered / steered.sum(-1, keepdim=True)
        return (steered @ value.repeat_interleave(per_group, 1)).transpose(1, 2).contiguous(), steered

    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[type(model).__module__], "eager_attention_forward", multiplied)
            return model(ids, attention_mask=mask, use_cache=False).logits
    finally:
        model.set_attn_implementation(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("route", ["auto", "bias", "channel", "eager"])
def test_routes_equal_the_oracle_in_prefill_chunks_and_decoding(models, name, route, dtype, monkeypatch):
    model = models(name, dtype)
    want = oracle(model, IDS, monkeypatch=monkeypatch)
    assert not torch.allclose(want, model(IDS).logits, atol=1e-2)  # steering does something here
    with active(model, steering(route)):
        whole = model(IDS, use_cache=False).logits
        cache = DynamicCache()
        parts = [
            model(IDS[:, a:b], past_key_values=cache).logits
            for a, b in ((0, 15), (15, 30), *((i, i + 1) for i in range(30, 40)))
        ]
    same(whole, want)
    same(torch.cat(parts, 1), want)


@pytest.mark.parametrize("name", ["llama_gqa", "llama_mha", "qwen3"])
@pytest.mark.parametrize("route", ["auto", "bias", "channel", "eager"])
def test_left_padding(models, name, route, monkeypatch):
    model = models(name)
    pad = 6
    rows = torch.stack([IDS[0], torch.cat([torch.zeros(pad, dtype=torch.int64), IDS[0, :-pad]])])
    mask = torch.ones_like(rows)
    mask[1, :pad] = 0
    want = oracle(model, rows, mask=mask, monkeypatch=monkeypatch)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with active(model, steering(route, pads=torch.tensor([0, pad]))):
        got = model(rows, attention_mask=mask, position_ids=positions, use_cache=False).logits
    want_alone = oracle(model, rows[1:, pad:], monkeypatch=monkeypatch)
    same(got[0], want[0])
    same(got[1, pad:], want_alone[0])


@pytest.mark.parametrize("name", ["llama_gqa", "llama_mha"])
def test_route_b_a_whole_mask(models, name, monkeypatch):
    model = models(name)
    heads = dict.fromkeys(range(3), (0, 1, 2, 3))
    want = oracle(model, IDS, heads=heads, monkeypatch=monkeypatch)
    mask = additive_mask(TOKENS, math.log(ALPHA), 40, 40)
    same(model(IDS, attention_mask=mask, use_cache=False).logits, want)
    some = dict.fromkeys(range(3), (1, 2))
    mask = additive_mask(TOKENS, gains((1, 2), 4, ALPHA), 40, 40)
    want = oracle(model, IDS, heads=some, monkeypatch=monkeypatch)
    same(model(IDS, attention_mask=mask, use_cache=False).logits, want)


@pytest.mark.parametrize("name", ["llama_gqa", "llama_mha", "qwen2"])
def test_route_c_with_the_channel_in_the_cache(models, name, monkeypatch):
    model = models(name)
    all_layers = {layer: LayerSteering(TOKENS, None, Session()) for layer in range(3)} | steering("auto")
    cache = channel_cache(model, dict.fromkeys(range(3), TOKENS))
    with active(model, all_layers):
        parts = [model(IDS[:, a:b], past_key_values=cache).logits for a, b in ((0, 25), (25, 39), (39, 40))]
    want = oracle(model, IDS, monkeypatch=monkeypatch)
    same(torch.cat(parts, 1), want)


def test_route_c_alpha_and_heads_are_chosen_per_request(models, monkeypatch):
    model = models("llama_gqa")
    neutral = {layer: LayerSteering(TOKENS, None, Session()) for layer in range(3)}
    cache = channel_cache(model, dict.fromkeys(range(3), TOKENS))
    with active(model, neutral):
        model(IDS[:, :30], past_key_values=cache)
    for heads, alpha in (({0: (2,)}, 3.0), ({1: (0, 1)}, 30.0)):
        plain = DynamicCache()
        model(IDS[:, :30], past_key_values=plain)
        with active(model, steering("bias", heads=heads, alpha=alpha)):
            want = model(IDS[:, 30:], past_key_values=plain).logits
        with active(model, neutral | steering(heads=heads, alpha=alpha)):
            got = model(IDS[:, 30:], past_key_values=cache).logits
        cache.crop(-10)
        same(got, want)


@pytest.mark.parametrize("name", ["llama_gqa", "llama_mha"])
def test_route_d_repeated_entries(models, name):
    model = models(name)
    cache = DynamicCache()
    model(IDS[:, :30], past_key_values=cache)
    repeated = duplicate_entries(cache, TOKENS, 4)
    heads = dict.fromkeys(range(3), (0, 1, 2, 3))
    with active(model, steering("bias", heads=heads, alpha=4.0)):
        want = model(IDS[:, 30:], past_key_values=cache).logits
    got = model(IDS[:, 30:], past_key_values=repeated, position_ids=torch.arange(30, 40)[None]).logits
    same(got, want)


def test_route_d_refuses_what_it_cannot_do(models):
    cache = DynamicCache()
    models("llama_gqa")(IDS[:, :5], past_key_values=cache)
    with pytest.raises(ConfigError, match="whole number"):
        duplicate_entries(cache, [1], 1.5)
    with pytest.raises(ConfigError, match="position 9 is not"):
        duplicate_entries(cache, [9], 2)


@pytest.mark.parametrize("route", ["auto", "bias", "channel", "eager"])
def test_alpha_one_and_no_tokens_change_nothing(models, route):
    model = models("llama_gqa")
    base = model(IDS).logits
    for layers in (steering(route, alpha=1.0), steering(route, tokens=TOKENS[:0])):
        with active(model, layers):
            same(model(IDS).logits, base)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(IDS).logits, base)


def test_golden_rows():
    # 0.5, 0.3, 0.2 * 4 = 0.8; total 1.6.
    row = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    want = torch.tensor([0.3125, 0.1875, 0.5], dtype=torch.float64)
    torch.testing.assert_close(multiply_attention(row, torch.tensor([1.0, 1.0, 4.0])), want)
    # PASTA: all but token 0 times 0.01: 0.5, 0.003, 0.002; total 0.505. The same as token 0 times 100.
    want = torch.tensor([0.5 / 0.505, 0.003 / 0.505, 0.002 / 0.505], dtype=torch.float64)
    torch.testing.assert_close(multiply_attention(row, torch.tensor([1.0, 0.01, 0.01])), want)
    torch.testing.assert_close(multiply_attention(row, torch.tensor([100.0, 1.0, 1.0])), want)
    assert float(multiply_attention(row, torch.tensor([1.0, 1.0, 4.0]), False).sum()) == pytest.approx(1.6)


@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=12),
    st.floats(0.01, 100),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_bias_is_a_multiplication(logits, alpha, data):
    chosen = data.draw(st.sets(st.integers(0, len(logits) - 1)))
    z = torch.tensor(logits, dtype=torch.float64)
    gain = torch.ones_like(z)
    gain[list(chosen)] = alpha
    steered = multiply_attention(z, gain)
    torch.testing.assert_close(steered, (z + gain.log()).softmax(-1), atol=1e-12, rtol=0)
    assert float(steered.sum()) == pytest.approx(1.0)


def test_a_large_alpha_makes_rows_one_hot(models):
    module = models("llama_mha").model.layers[0].self_attn
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 4, 6, 16).unbind(0)
    value = torch.randn(1, 4, 6, 16)
    for route in ("bias", "channel", "eager"):
        layer = LayerSteering(torch.tensor([2]), gains(range(4), 4, 1e30), Session(), route=route)
        output, _ = layer.attend(module, query, key, value, None, scaling=0.25)
        torch.testing.assert_close(output[0, 2:], value[0, :, 2].expand(4, 4, 16), atol=1e-4, rtol=1e-4)


def test_masked_keys_get_nothing_however_they_are_steered(models):
    module = models("llama_mha").model.layers[0].self_attn
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 4, 6, 16).unbind(0)
    value = torch.randn(1, 4, 6, 16)
    for route in ("bias", "channel", "eager"):
        layer = LayerSteering(torch.tensor([4]), gains(range(4), 4, 1e6), Session(), route=route)
        before, _ = layer.attend(module, query, key, value, None, scaling=0.25)
        changed = value.clone()
        changed[:, :, 4] += 100.0
        after, _ = layer.attend(module, query, key, changed, None, scaling=0.25)
        assert torch.equal(before[:, :4], after[:, :4])
        assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_without_renormalising_rows_grow_by_the_added_mass(models):
    module = models("llama_mha").model.layers[0].self_attn
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 4, 6, 16).unbind(0)
    ones = torch.ones(1, 4, 6, 16)
    layer = LayerSteering(torch.tensor([0]), gains(range(4), 4, 3.0), Session(), renormalise=False)
    output, _ = layer.attend(module, query, key, ones, None, scaling=0.25)
    assert bool((output > 1.0).all())
    assert float(output[0, 0, 0, 0]) == pytest.approx(3.0)  # the first row sees token 0 alone


@pytest.mark.parametrize("block_rows", [1, 7, 64, 500])
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize(("num_groups", "num_rows"), [(2, 50), (4, 50), (2, 20)])
def test_column_sums_equal_the_whole_matrix(block_rows, window, num_groups, num_rows):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(4, num_rows, 8, generator=generator)
    key = torch.randn(num_groups, 50, 8, generator=generator)
    logits = query @ key.repeat_interleave(4 // num_groups, 0).transpose(1, 2) * 0.35
    row = torch.arange(50 - num_rows, 50)[:, None]
    seen = torch.arange(50)[None] <= row
    if window:
        seen &= torch.arange(50)[None] > row - window
    want = logits.masked_fill(~seen, -torch.inf).softmax(-1).sum((0, 1))
    got = column_sums(query, key, 0.35, block_rows=block_rows, window=window)
    same(got, want)
    assert float(got.sum()) == pytest.approx(4 * num_rows, rel=1e-5)


@pytest.mark.parametrize("block_rows", [7, 64, 500])
@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_column_sums_in_tiles_with_the_kernels_log_sums(block_rows, num_groups, monkeypatch):
    monkeypatch.setattr(attention, "_TILE_NUMBERS", 1)  # tiles of the least width: 64 keys, three of them here
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(1, 4, 150, 8, generator=generator) * 3
    key, value = torch.randn(2, 1, num_groups, 150, 8, generator=generator)
    keys, values = (t.repeat_interleave(4 // num_groups, 1) for t in (key, value))
    seen = torch.ones(150, 150, dtype=torch.bool).tril()
    logits = (query @ keys.transpose(2, 3) * 0.35).masked_fill(~seen, -torch.inf)
    output, log_sums = attention.causal_attention(query, key, value, 0.35)
    same(output, logits.softmax(-1) @ values)
    same(log_sums, logits.logsumexp(-1))
    got = column_sums(query[0], key[0], 0.35, block_rows=block_rows, log_sums_HR=log_sums[0])
    same(got, logits.softmax(-1).sum((0, 1, 2)))


@pytest.mark.parametrize("name", MODELS)
def test_the_collector_sees_the_models_own_attention(name):
    model = build(name)
    model.set_attn_implementation("eager")
    want = torch.stack([a[0].sum((0, 1)) for a in model(IDS, output_attentions=True).attentions])
    model.set_attn_implementation("sdpa")
    for parts in (((0, 40),), ((0, 17), (17, 40))):
        collector = ColumnSums(range(3), block_rows=8)
        empty = torch.zeros(0, dtype=torch.int64)
        with active(model, {i: LayerSteering(empty, None, Session(), collector=collector) for i in range(3)}):
            cache = DynamicCache()
            for a, b in parts:
                logits = model(IDS[:, a:b], past_key_values=cache).logits
        torch.testing.assert_close(collector.stacked(), want, atol=1e-4, rtol=1e-4)
        assert collector.num_rows == {0: 40, 1: 40, 2: 40}
    same(logits[:, -1], model(IDS).logits[:, -1])


def test_active_refuses_nesting_and_unknown_layers(models):
    model = models("llama_gqa")
    with active(model, steering()), pytest.raises(ConfigError, match="already"), active(model, steering()):
        pass
    with pytest.raises(ConfigError, match="layer 7 does not exist"), active(model, {7: steering()[0]}):
        pass
    assert torch.equal(model(IDS).logits, model(IDS).logits)
    with pytest.raises(ConfigError, match="head 9"):
        gains((9,), 4, 2.0)
    with pytest.raises(ConfigError, match="route"):
        LayerSteering(TOKENS, None, Session(), route="magic")
