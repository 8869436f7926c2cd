"""Growing a model leaves its function unchanged."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.models.growth import grow, placement


def _model(hidden, layers, heads, mlp, seed, kv_heads=2):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=60,
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=mlp,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=8,
        tie_word_embeddings=True,
        initializer_range=0.2,
        rms_norm_eps=1e-14,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).double()
        # Fresh norms are all ones, which would hide a missing rescaling.
        for name, p in model.named_parameters():
            if "norm" in name:
                p.data.uniform_(0.5, 2.0)
    return model


@pytest.mark.parametrize(
    ("hidden", "layers", "heads", "mlp"), [(16, 5, 4, 24), (24, 2, 4, 24), (16, 2, 8, 40), (40, 7, 8, 64)]
)
def test_a_grown_model_computes_the_same(hidden, layers, heads, mlp):
    old = _model(16, 2, 4, 24, 0)
    ids = torch.randint(0, 60, (2, 19), generator=torch.Generator().manual_seed(1))
    grown = grow(old, _model(hidden, layers, heads, mlp, 2))
    torch.testing.assert_close(grown(ids).logits, old(ids).logits, rtol=1e-4, atol=1e-4)  # norms compute in fp32
    # ... and gradients reach what was added, so that training can use it.
    torch.nn.functional.cross_entropy(grown(ids).logits[0], ids[0]).backward()
    assert all(float(layer.self_attn.o_proj.weight.grad.abs().max()) > 0 for layer in grown.model.layers)


def test_shrinking_and_other_vocabularies_are_refused():
    with pytest.raises(ConfigError, match="smaller"):
        grow(_model(16, 2, 4, 24, 0), _model(8, 2, 4, 24, 0))
    with pytest.raises(ConfigError, match="num_key_value_heads"):
        grow(_model(16, 2, 4, 24, 0), _model(16, 2, 4, 24, 0, kv_heads=4))


@given(old=st.integers(1, 12), added=st.integers(0, 12))
def test_layers_keep_their_order_and_do_not_collide(old, added):
    places = placement(old, old + added)
    assert places[0] == 0
    assert sorted(set(places)) == places
    assert places[-1] < old + added
