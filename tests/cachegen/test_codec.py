"""The codec: exact integers back, bounds on the error, any shape and dtype, honest sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen import bitstream
from cachegen.codec import Codec, quantised_integers
from cachegen.dequantisation import dequantise, with_torch
from cachegen.profile import build_profile
from cachegen.quantisation import anchor_of_members, entropy_bits, member_indices, quantise_steps, quantise_tokens
from cachegen.settings import FINEST, PAPER, RELEASED, TUNED, Level, Settings
from common.errors import ConfigError, CorruptBitstream
from common.kv import KVCache, concatenate, from_transformers, to_transformers
from common.rope import Rope
from tests.cachegen.tiny_kv import FAMILIES, FORMS, cache_of, codec_of, tiny_model


def test_quantiser_by_hand():
    # Scale 1, M = 3: 1 * 3 = 3; -0.5 * 3 = -1.5 rounds to the even -2; 0.26 * 3 = 0.78 rounds to 1.
    q_CT, scale_T = quantise_tokens(torch.tensor([[1.0], [-0.5], [0.26]]), 3, torch.float32)
    assert q_CT.flatten().tolist() == [3, -2, 1]
    assert scale_T.tolist() == [1.0]


def test_tokens_of_zeros_stay_zeros():
    q_CT, scale_T = quantise_tokens(torch.zeros(4, 3), 7, torch.float16)
    assert not q_CT.any()
    assert not scale_T.any()


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.floats(-6e4, 6e4, width=32), min_size=3, max_size=3),
    fineness=st.integers(1, 127),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
)
def test_error_is_at_most_half_a_step(values, fineness, dtype):
    x_CT = torch.tensor(values)[:, None]
    q_CT, scale_T = quantise_tokens(x_CT, fineness, dtype)
    error = (x_CT - q_CT * (scale_T / fineness)).abs().max().item()
    largest = x_CT.abs().max().item()
    if dtype == torch.float16 and largest < 1e-3:
        return  # a float16 scale this small has few digits left
    if largest < 1e-30:
        return  # nor has a bfloat16 one down here
    assert int(q_CT.abs().max()) <= fineness
    assert error <= scale_T.item() / (2 * fineness) * (1 + 1e-5) + largest * 2**-8 * (fineness > 100)


@pytest.mark.parametrize("num_tokens", [1, 2, 9, 10, 11, 43])
@pytest.mark.parametrize("form", list(FORMS))
def test_decoding_gives_the_quantised_integers_back(form, num_tokens):
    codec = codec_of(form)
    kv = cache_of(tiny_model("llama"), num_tokens, 5)
    for level in range(len(codec.levels)):
        data = codec.encode(kv, level)
        decoded, expected = codec.decode_integers(data), quantised_integers(codec, kv, level)
        assert decoded.keys() == expected.keys()
        assert all((decoded[key] == expected[key]).all() for key in expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_family_and_dtype(family, dtype):
    model = tiny_model(family)
    kv = cache_of(model, 31, 3).to(dtype=dtype)
    sample = [cache_of(model, 60, seed).to(dtype=dtype) for seed in (8, 9)]
    for form in (PAPER, TUNED):
        profile = build_profile(lambda: sample, form, rotation=Rope.of(model), sensitivity_LK=np.ones((3, 2)))
        codec = Codec(profile)
        decoded = codec.decode(codec.encode(kv, len(codec.levels) - 1))
        assert decoded.dtype == dtype
        assert decoded.keys_LHTD.shape == kv.keys_LHTD.shape
        assert torch.equal(decoded.positions_T, kv.positions_T)
        for ours, theirs in ((decoded.keys_LHTD, kv.keys_LHTD), (decoded.values_LHTD, kv.values_LHTD)):
            noise = (ours.float() - theirs.float()).square().mean() / theirs.float().square().mean()
            assert noise < 0.02


def test_one_kv_head_and_one_layer_share():
    model = tiny_model("llama", kv_heads=1)
    kv = cache_of(model, 25, 1)
    codec = Codec(build_profile(lambda: [kv], PAPER))
    assert codec.decode(codec.encode(kv, 2)).num_tokens == 25


def test_finest_level_is_nearly_lossless_for_the_model():
    # A random model has no confident tokens, so near-ties may flip; a trained one's test is in test_engine.py.
    model = tiny_model("llama")
    codec = codec_of("finest")
    ids = torch.randint(0, 299, (1, 120), generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        clean = from_transformers(model.model(ids[:, :60]).past_key_values)
        coded = codec.decode(codec.encode(clean, 0))
        logits = [model(ids[:, 60:], past_key_values=to_transformers(past)).logits[0] for past in (clean, coded)]
    log_p, log_q = (scores.double().log_softmax(-1) for scores in logits)
    assert float((log_p.exp() * (log_p - log_q)).sum(-1).mean()) < 0.02
    assert (logits[0].argmax(-1) == logits[1].argmax(-1)).float().mean() >= 0.9


@pytest.mark.parametrize("form", ["paper", "tuned"])
def test_better_levels_cost_more_and_err_less(form):
    codec = codec_of(form)
    kv = cache_of(tiny_model("llama"), 150, 21)
    coded = [codec.encode(kv, level) for level in range(len(codec.levels))]
    sizes = [len(data) for data in coded]
    errors = [float((codec.decode(data).values_LHTD - kv.values_LHTD).square().mean()) for data in coded]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


def test_anchors_are_closed_loop():
    # With coarse anchors the members' error must still be the delta quantiser's own, not the anchor's plus it.
    kv = cache_of(tiny_model("llama"), 60, 2)
    coarse = PAPER.ablated(anchor_fineness=2, levels=(Level("fine", ((1.0, 127),), ((1.0, 127),)),))
    codec = Codec(build_profile(lambda: [kv], coarse))
    decoded = codec.decode(codec.encode(kv, 0))
    is_member = torch.arange(60) % 10 != 0
    error_T = (decoded.values_LHTD - kv.values_LHTD).abs().amax(dim=(0, 1, 3))
    assert error_T[~is_member].min() > 5 * error_T[is_member].max()


def test_every_token_an_anchor_is_coding_without_deltas():
    kv = cache_of(tiny_model("llama"), 30, 4)
    level = (Level("x", ((1.0, 7),), ((1.0, 7),)),)
    alone = Codec(build_profile(lambda: [kv], Settings(level, group_tokens=1, delta="always")))
    never = Codec(build_profile(lambda: [kv], Settings(level, group_tokens=1, delta="never")))
    assert torch.equal(alone.decode(alone.encode(kv, 0)).values_LHTD, never.decode(never.encode(kv, 0)).values_LHTD)
    one_group = Codec(build_profile(lambda: [kv], Settings(level, group_tokens=200, delta="always")))
    integers = one_group.decode_integers(one_group.encode(kv, 0))
    assert integers[0, 0, "anchor"].shape == (32, 1)
    assert integers[0, 0, "member"].shape == (32, 29)


def test_members_and_anchors():
    assert member_indices(12, 5).tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 11]
    assert anchor_of_members(12, 5).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]


def test_chunks_decode_alone_in_any_order_and_at_any_mix_of_levels():
    codec = codec_of("paper")
    whole = cache_of(tiny_model("llama"), 75, 6)
    chunks = [whole.slice(start, min(75, start + 20)) for start in range(0, 75, 20)]
    coded = [codec.encode(chunk, level) for chunk, level in zip(chunks, (0, 4, 2, 1), strict=True)]
    decoded = {index: codec.decode(coded[index]) for index in (2, 0, 3, 1)}
    joined = concatenate([decoded[index] for index in range(4)])
    assert joined.positions_T.tolist() == list(range(75))
    assert torch.equal(joined.values_LHTD[:, :, 20:40], codec.decode(coded[1]).values_LHTD)


def test_backends_and_threads_give_the_same_bytes(codec, kv):
    data = codec.encode(kv, 0)
    for backend in ("numpy", "torch"):
        other = Codec(codec.profile, backend=backend, threads=3)
        assert other.encode(kv, 0) == data
        assert torch.equal(other.decode(data).keys_LHTD, codec.decode(data).keys_LHTD)


def test_positions_with_gaps_survive(codec, kv):
    index = torch.tensor([0, 1, 5, 6, 7, 20, 42])
    kept = KVCache(kv.keys_LHTD[:, :, index], kv.values_LHTD[:, :, index], index + 1000)
    data = codec.encode(kept, 0)
    assert torch.equal(codec.decode(data).positions_T, index + 1000)
    assert bitstream.breakdown(data)["positions"] == 6


def test_size_is_the_sum_of_its_parts(codec, kv):
    data = codec.encode(kv, 0)
    parts = bitstream.breakdown(data)
    assert sum(parts.values()) == len(data)
    assert (parts["tables"] > 0) == (codec.profile.settings.tables == "chunk")
    assert (parts["scales"] > 0) == (codec.profile.settings.scaling == "token")


def test_values_outside_the_profile_are_coded_as_outliers():
    codec = codec_of("tuned")
    kv = cache_of(tiny_model("llama"), 20, 9)
    values = kv.values_LHTD.clone()
    values[1, 0, 7, 3] = 900.0
    wild = KVCache(kv.keys_LHTD, values, kv.positions_T)
    data = codec.encode(wild, 2)
    assert bitstream.breakdown(data)["outliers"] >= 10
    assert abs(float(codec.decode(data).values_LHTD[1, 0, 7, 3]) - 900.0) < 1.0
    # Its neighbours are untouched by it.
    plain = codec.decode(codec.encode(kv, 2)).values_LHTD
    assert torch.equal(codec.decode(data).values_LHTD[0], plain[0])


def test_rotation_is_undone_and_redone():
    kv = cache_of(tiny_model("llama"), 40, 1)
    rotation = Rope.of(tiny_model("llama"))
    flat = rotation.undo(kv.keys_LHTD[0], kv.positions_T)
    assert not torch.allclose(flat, kv.keys_LHTD[0], atol=1e-2)
    assert torch.allclose(rotation.apply(flat, kv.positions_T), kv.keys_LHTD[0], atol=1e-5)


def test_steps_follow_sensitivity():
    steps = codec_of("tuned").profile.steps_NLK[0]
    # Sensitivity falls from 2 to 1 over layers and K/V in the fixture; a layer half as sensitive may have sqrt(2) wider steps.
    assert steps[-1, 1] > steps[0, 0]


def test_levels_spread_over_any_depth():
    assert [k for k, _ in PAPER.levels[2].fineness(6)] == [15, 15, 7, 7, 5, 5]
    assert [k for k, _ in PAPER.levels[2].fineness(3)] == [15, 7, 5]
    assert [v for _, v in RELEASED.levels[1].fineness(32)] == [15, 15] + [7] * 30
    assert [k for k, _ in RELEASED.levels[0].fineness(32)] == [7] * 20 + [5] * 12
    assert len(PAPER.levels[0].fineness(1)) == 1


def test_bad_input_is_refused(codec, kv):
    with pytest.raises(ConfigError, match="level"):
        codec.encode(kv, 99)
    with pytest.raises(ConfigError, match="level"):
        codec.encode(kv, "best")
    with pytest.raises(ConfigError, match="tokens"):
        codec.encode(kv.slice(0, 0), 0)
    with pytest.raises(ConfigError, match="profile"):
        codec.encode(KVCache(kv.keys_LHTD[:2], kv.values_LHTD[:2], kv.positions_T), 0)
    with pytest.raises(ConfigError, match="float64"):
        codec.encode(kv.to(dtype=torch.float64), 0)
    broken = kv.keys_LHTD.clone()
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(ConfigError, match="NaN"):
        codec.encode(KVCache(broken, kv.values_LHTD, kv.positions_T), 0)


def test_settings_are_checked_and_survive_json():
    for form in (PAPER, RELEASED, TUNED, FINEST):
        assert Settings.from_json(form.to_json()) == form
    with pytest.raises(ConfigError, match="rise"):
        Level("x", ((0.5, 3),), ((1.0, 3),))
    with pytest.raises(ConfigError, match="table_scope"):
        PAPER.ablated(table_scope="head")
    with pytest.raises(ConfigError, match="is_sensitive"):
        PAPER.ablated(is_sensitive=True)
    with pytest.raises(ConfigError, match="settings"):
        Settings.from_json({"levels": []} | {"nonsense": 1})


def test_another_profile_is_refused(kv):
    data = codec_of("paper").encode(kv, 0)
    for other in ("tuned", "released"):
        with pytest.raises(CorruptBitstream, match="profile"):
            codec_of(other).decode(data)


def test_fixed_steps_bound_the_error():
    x_CT = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    q_CT = quantise_steps(x_CT, 0.25)
    assert float((x_CT - q_CT * 0.25).abs().max()) <= 0.125 + 1e-6
    with pytest.raises(ConfigError, match="2\\^24"):
        quantise_steps(x_CT * 1e9, 0.25)


def test_table_scopes_cost_what_theory_says(kv):
    sample = [cache_of(tiny_model("llama"), 300, seed) for seed in (1, 2, 3)]
    test = cache_of(tiny_model("llama"), 300, 50)
    payload = {}
    for scope in ("channel", "layer", "model"):
        profile = build_profile(lambda: sample, PAPER.ablated(table_scope=scope))
        codec = Codec(profile)
        data = codec.encode(test, 4)
        assert torch.equal(codec.decode(data).values_LHTD, codec_of_values(codec, test, 4))
        payload[scope] = bitstream.breakdown(data)["payload"]
    assert payload["layer"] < payload["model"] * 1.001


def codec_of_values(codec, kv, level):
    """Dequantised by hand from the integers, anchors first: what decode must give."""
    out = torch.empty_like(kv.values_LHTD)
    settings = codec.profile.settings
    fineness = [value for _, value in settings.levels[level].fineness(kv.num_layers)]
    for layer in range(kv.num_layers):
        x_CT = kv.values_LHTD[layer].transpose(1, 2).reshape(-1, kv.num_tokens)
        decoded = torch.empty_like(x_CT)
        for start in range(0, kv.num_tokens, settings.group_tokens):
            anchor_q, anchor_s = quantise_tokens(x_CT[:, start : start + 1], 127, kv.dtype)
            anchor = anchor_q.float() * (anchor_s / 127)
            rest = x_CT[:, start + 1 : start + settings.group_tokens]
            rest_q, rest_s = quantise_tokens(rest - anchor, round(fineness[layer]), kv.dtype)
            decoded[:, start : start + 1] = anchor
            decoded[:, start + 1 : start + settings.group_tokens] = (
                rest_q.float() * (rest_s / round(fineness[layer])) + anchor
            )
        out[layer] = decoded.reshape(kv.num_heads, -1, kv.num_tokens).transpose(1, 2)
    return out


@pytest.mark.parametrize("num_tokens", [1, 10, 11, 130])
@pytest.mark.parametrize("is_exact", [False, True])
@pytest.mark.parametrize("has_means", [False, True])
def test_compiled_and_torch_dequantisation_agree_to_the_bit(num_tokens, is_exact, has_means):
    rng = np.random.default_rng(num_tokens)
    num_anchors = -(-num_tokens // 10)
    counts = {"anchor": num_anchors, "member": num_tokens - num_anchors}
    means = rng.standard_normal(32).astype(np.float32) if has_means else None
    for kinds in (("direct",), ("anchor", "member")):
        shapes = {kind: (32, counts.get(kind, num_tokens)) for kind in kinds}
        symbols = {kind: (rng.integers(0, 31, shape).astype(np.uint8), 15) for kind, shape in shapes.items()}
        steps = {kind: torch.from_numpy(rng.random(shape[1], dtype=np.float32)) for kind, shape in shapes.items()}
        if is_exact:
            steps = {kind: torch.full((shape[1],), 0.37) for kind, shape in shapes.items()}
        arguments = (symbols, steps, means, 2, 10)
        compiled = dequantise(*arguments, is_exact=is_exact)
        assert torch.equal(compiled, with_torch(*arguments, is_exact=is_exact, device="cpu"))
        assert compiled.shape == (2, num_tokens, 16)


def test_entropy_by_hand():
    # Channel 0: one symbol, 0 bits. Channel 1: four equal shares, 2 bits each. Channel 2: 3 of 4, 4 * 0.8113 bits.
    symbols = torch.tensor([[7, 7, 7, 7], [0, 1, 2, 3], [-5, -5, -5, 9]])
    assert entropy_bits(symbols) == pytest.approx(8 + 4 * (0.75 * np.log2(4 / 3) + 0.25 * 2))
    assert entropy_bits(symbols[:, :0]) == 0.0


@pytest.mark.parametrize("level", [True, None, 1.0])
def test_levels_are_names_or_indices(level):
    with pytest.raises(ConfigError, match="neither the name nor the index"):
        codec_of("paper").encode(cache_of(tiny_model("llama"), 3, 1), level)
