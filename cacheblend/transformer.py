"""A loaded causal LM, run layer by layer on chosen rows of a prompt.

The modules (norms, projections, MLPs, head) are the model's own; only the order in which they are called is ours. Covers the
Llama, Mistral, Qwen2 and Qwen3 families, whose layers differ in biases and in the norms of queries and keys.

Shape legend: R rows, E hidden size, Q query heads, H key/value heads, D head dimension, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from common.errors import ConfigError
from common.models.loading import FAMILIES, LoadedModel

Rotary = tuple[Tensor, Tensor]


class Transformer:
    """Row-wise execution of a model. Does not change the model."""

    def __init__(self, loaded: LoadedModel) -> None:
        config = loaded.config
        if config.model_type not in FAMILIES:
            raise ConfigError(f"model family {config.model_type!r} is not one of {', '.join(FAMILIES)}.")
        self._model = loaded.model
        self._base = loaded.model.model
        self._layers: list[Any] = list(self._base.layers[: config.num_hidden_layers])
        self.num_layers = len(self._layers)
        self.num_kv_heads = int(config.num_key_value_heads)
        self.head_dim = int(self._layers[0].self_attn.head_dim)
        self.vocab_size = int(config.vocab_size)
        self.max_positions = int(config.max_position_embeddings)
        self.dtype: torch.dtype = loaded.dtype
        self.device: torch.device = loaded.device
        self._windows = _windows(config)

    def window(self, layer: int) -> int | None:
        """How many keys, its own included, a row of this layer sees; None: all before it."""
        return self._windows[layer]

    def scale(self, layer: int) -> float:
        """Factor of the attention scores."""
        return float(self._layers[layer].self_attn.scaling)

    def embed(self, ids_R: Tensor) -> Tensor:
        """Embeddings, (R, E)."""
        hidden_RE: Tensor = self._base.embed_tokens(ids_R.to(self.device))
        return hidden_RE

    def rotary(self, position_R: Tensor) -> Rotary:
        """cos and sin at the given positions, (R, D) each, as the model computes them."""
        probe = torch.empty(0, dtype=self.dtype, device=self.device)
        cos, sin = self._base.rotary_emb(probe, position_R[None].to(self.device))
        return cos[0], sin[0]

    def enter(self, layer: int, hidden_RE: Tensor) -> Tensor:
        """The layer's input norm, (R, E)."""
        normed_RE: Tensor = self._layers[layer].input_layernorm(hidden_RE)
        return normed_RE

    def query(self, layer: int, normed_RE: Tensor, rotary: Rotary) -> Tensor:
        """Rotated queries, (Q, R, D)."""
        attention = self._layers[layer].self_attn
        query_RQD = attention.q_proj(normed_RE).view(len(normed_RE), -1, self.head_dim)
        if hasattr(attention, "q_norm"):
            query_RQD = attention.q_norm(query_RQD)
        return _rotate(query_RQD.transpose(0, 1), rotary)

    def key(self, layer: int, normed_RE: Tensor, rotary: Rotary) -> Tensor:
        """Rotated keys, (H, R, D)."""
        attention = self._layers[layer].self_attn
        key_RHD = attention.k_proj(normed_RE).view(len(normed_RE), -1, self.head_dim)
        if hasattr(attention, "k_norm"):
            key_RHD = attention.k_norm(key_RHD)
        return _rotate(key_RHD.transpose(0, 1), rotary)

    def value(self, layer: int, normed_RE: Tensor) -> Tensor:
        """Values, (H, R, D)."""
        value_RHD: Tensor = self._layers[layer].self_attn.v_proj(normed_RE)
        return value_RHD.view(len(normed_RE), -1, self.head_dim).transpose(0, 1)

    def leave(self, layer: int, hidden_RE: Tensor, attended_RA: Tensor) -> Tensor:
        """The rest of the layer after attention: output projection and MLP with their residuals, (R, E)."""
        block = self._layers[layer]
        hidden_RE = hidden_RE + block.self_attn.o_proj(attended_RA)
        return hidden_RE + block.mlp(block.post_attention_layernorm(hidden_RE))

    def logits(self, hidden_RE: Tensor) -> Tensor:
        """Scores over the vocabulary, (R, V)."""
        scores_RV: Tensor = self._model.lm_head(self._base.norm(hidden_RE))
        return scores_RV


def _rotate(states_HRD: Tensor, rotary: Rotary) -> Tensor:
    cos, sin = rotary
    half = states_HRD.shape[-1] // 2
    turned = torch.cat((-states_HRD[..., half:], states_HRD[..., :half]), dim=-1)
    return states_HRD * cos + turned * sin


def _windows(config: Any) -> tuple[int | None, ...]:
    """The sliding window of each layer.

    Raises:
        ConfigError: a kind of layer that is neither full nor sliding-window attention.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None or config.model_type == "mistral":  # Mistral applies its window to every layer
        return (window,) * config.num_hidden_layers
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise ConfigError(f"layers of kind {kind!r} are not supported; full_attention and sliding_attention are.")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
