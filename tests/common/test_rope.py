"""Moving cached keys: hand-computed golden, group laws, and agreement with the models' own rotation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from cacheblend.transformer import Transformer
from common.errors import ConfigError
from common.kv import KVCache
from common.rope import Rope, turn_


def random_keys(seed: int, tokens: int = 5, dim: int = 8) -> torch.Tensor:
    return torch.randn(2, tokens, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


ROPE = Rope(1.0 / 100.0 ** (torch.arange(0, 8, 2).double() / 8))


def test_quarter_turn_by_hand() -> None:
    # D = 2, theta = pi/2 per position, k = (1, 0), one step: (cos 90°, sin 90°) = (0, 1).
    rope = Rope(torch.tensor([math.pi / 2], dtype=torch.float64))
    moved = rope.shift(torch.tensor([[[1.0, 0.0]]], dtype=torch.float64), torch.tensor([1]))
    assert torch.allclose(moved, torch.tensor([[[0.0, 1.0]]], dtype=torch.float64), atol=1e-15)


@given(st.integers(-3000, 3000), st.integers(-3000, 3000), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_shifts_add_up(a: int, b: int, seed: int) -> None:
    keys = random_keys(seed)
    ones = torch.ones(5, dtype=torch.int64)
    twice = ROPE.shift(ROPE.shift(keys, a * ones), b * ones)
    assert torch.allclose(twice, ROPE.shift(keys, (a + b) * ones), atol=1e-9)
    assert torch.allclose(ROPE.shift(ROPE.shift(keys, a * ones), -a * ones), keys, atol=1e-9)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(-400, 400), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_scores_depend_on_distance_only(p: int, s: int, delta: int, seed: int) -> None:
    q, k = random_keys(seed, 1), random_keys(seed + 1, 1)
    at = ROPE.shift(q, torch.tensor([p])) * ROPE.shift(k, torch.tensor([s]))
    moved = ROPE.shift(q, torch.tensor([p + delta])) * ROPE.shift(k, torch.tensor([s + delta]))
    assert torch.allclose(at.sum(-1), moved.sum(-1), atol=1e-9)


def test_shift_leaves_its_argument_and_the_unrotated_channels_alone() -> None:
    keys = random_keys(0)
    before = keys.clone()
    partial = Rope(ROPE.inv_freq_F[:2])  # 4 of 8 channels are rotated
    moved = partial.shift(keys, torch.full((5,), 7))
    assert torch.equal(keys, before)
    assert torch.equal(moved[..., 4:], keys[..., 4:])
    assert not torch.equal(moved[..., :4], keys[..., :4])


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "default", "rope_theta": 10000.0},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128},
    ],
    ids=lambda parameters: parameters["rope_type"],
)
def test_agrees_with_the_models_own_rotation(parameters: dict) -> None:
    from cacheblend.transformer import _rotate
    from common.models.loading import wrap

    config = LlamaConfig(
        vocab_size=20,
        hidden_size=32,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rope_parameters=parameters,
    )
    loaded = wrap(LlamaForCausalLM(config).double())
    net, rope = Transformer(loaded), Rope.of(loaded.model)
    raw = torch.randn(2, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    at_5 = _rotate(raw, net.rotary(torch.arange(5, 11)))
    at_300 = _rotate(raw, net.rotary(torch.arange(300, 306)))
    # The library computes its angles in float32: 300 radians are known to 3e-5.
    assert torch.allclose(rope.shift(at_5, torch.full((6,), 295)), at_300, atol=2e-4)
    # Keys stored before RoPE and rotated when loaded are the same thing.
    unrotated = KVCache(raw[None], raw[None], torch.arange(300, 306), is_rotated=False)
    assert torch.allclose(rope.rotate(unrotated).keys_LHTD[0], at_300, atol=2e-4)
    kv_at_5 = KVCache(at_5[None], raw[None], torch.arange(5, 11))
    assert torch.allclose(rope.unrotate(kv_at_5).keys_LHTD[0], raw, atol=2e-4)
    moved = rope.move(kv_at_5, 300)
    assert torch.allclose(moved.keys_LHTD[0], at_300, atol=2e-4)
    assert moved.positions_T.tolist() == list(range(300, 306))
    assert torch.equal(moved.values_LHTD, kv_at_5.values_LHTD)


def test_frequencies_that_change_with_length_are_refused() -> None:
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    )
    with pytest.raises(ConfigError, match="dynamic"):
        Rope.of(LlamaForCausalLM(config))


def test_half_precision_is_rotated_in_float32() -> None:
    keys = random_keys(4).to(torch.bfloat16)
    expected = keys.float()
    delta = torch.full((5,), 1234)
    turn_(expected, *ROPE.angles(delta))
    assert torch.equal(ROPE.shift(keys, delta), expected.to(torch.bfloat16))
