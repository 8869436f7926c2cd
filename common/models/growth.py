"""Grow a trained Llama into a deeper or wider one that computes the same function, and train on from there.

A small model finds the copying and binding circuits in a fraction of the time that a large one needs; the large one then starts
with them instead of waiting for them again. New layers, heads, hidden units and channels start with zero output weights, so they
change nothing until training uses them (in the manner of Net2Net; the weights that read from them are random, so gradients flow).
"""

import math
from typing import Any

from common.errors import ConfigError


def placement(old_layers: int, new_layers: int) -> list[int]:
    """Which layer of the new model each old layer becomes: spread evenly, the first stays first.

    4 layers into 8: [0, 2, 4, 6].
    """
    return [i * new_layers // old_layers for i in range(old_layers)]


def grow(old: Any, new: Any) -> Any:
    """Overwrite the freshly initialised model `new` so that it computes what `old` computes; returns `new`.

    Args:
        old: a trained LlamaForCausalLM with tied embeddings; not modified.
        new: a fresh one, at least as large in every respect, with the same vocabulary, head dimension, number of KV heads, and
            RoPE parameters.

    Raises:
        ConfigError: `new` is smaller somewhere, or differs in what cannot grow.
    """
    import torch

    a, b = old.config, new.config
    for name in ("vocab_size", "head_dim", "num_key_value_heads", "rope_parameters"):
        if getattr(a, name) != getattr(b, name):
            raise ConfigError(
                f"a model cannot grow from {name}={getattr(a, name)} to {getattr(b, name)}; they must be equal."
            )
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        if getattr(a, name) > getattr(b, name):
            raise ConfigError(
                f"a model cannot grow from {name}={getattr(a, name)} to {getattr(b, name)}, which is smaller."
            )
    d, f = a.hidden_size, a.intermediate_size
    # RMS norm divides by the root mean square over all channels; the added ones are zero and would dilute it.
    norm_scale = math.sqrt(d / b.hidden_size)
    rows = _query_rows(a, b)

    with torch.no_grad():
        new.model.embed_tokens.weight.zero_()
        new.model.embed_tokens.weight[:, :d] = old.model.embed_tokens.weight
        _grow_norm(new.model.norm, old.model.norm, norm_scale)
        for layer in new.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for source, place in zip(old.model.layers, placement(a.num_hidden_layers, b.num_hidden_layers), strict=True):
            target = new.model.layers[place]
            _grow_norm(target.input_layernorm, source.input_layernorm, norm_scale)
            _grow_norm(target.post_attention_layernorm, source.post_attention_layernorm, norm_scale)
            target.self_attn.q_proj.weight[rows, :d] = source.self_attn.q_proj.weight
            target.self_attn.k_proj.weight[:, :d] = source.self_attn.k_proj.weight
            target.self_attn.v_proj.weight[:, :d] = source.self_attn.v_proj.weight
            target.self_attn.o_proj.weight[:d, rows] = source.self_attn.o_proj.weight
            target.mlp.gate_proj.weight[:f, :d] = source.mlp.gate_proj.weight
            target.mlp.up_proj.weight[:f, :d] = source.mlp.up_proj.weight
            target.mlp.down_proj.weight[:d, :f] = source.mlp.down_proj.weight
    return new


def _grow_norm(target: Any, source: Any, scale: float) -> None:
    target.weight[: source.weight.shape[0]] = source.weight * scale


def _query_rows(a: Any, b: Any) -> Any:
    """Rows of the new query projection that hold the old heads: each stays in the group of its KV head."""
    import torch

    old_group = a.num_attention_heads // a.num_key_value_heads
    new_group = b.num_attention_heads // b.num_key_value_heads
    heads = [(h // old_group) * new_group + h % old_group for h in range(a.num_attention_heads)]
    return torch.cat([torch.arange(h * a.head_dim, (h + 1) * a.head_dim) for h in heads])
