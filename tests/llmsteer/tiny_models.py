"""Tiny random models of several families and head layouts."""

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

_CLASSES = {
    "llama_gqa": (LlamaConfig, LlamaForCausalLM, 2, {}),
    "llama_mha": (LlamaConfig, LlamaForCausalLM, 4, {}),
    "mistral_window": (MistralConfig, MistralForCausalLM, 2, {"sliding_window": 16}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, 2, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, 2, {"head_dim": 16}),
}
MODELS = tuple(_CLASSES)


def build(name, dtype=torch.float32, seed=0, vocab_size=200, num_layers=3):
    config_class, model_class, num_kv, more = _CLASSES[name]
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        config = config_class(
            vocab_size=vocab_size,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            num_key_value_heads=num_kv,
            max_position_embeddings=4096,
            initializer_range=0.3,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            attn_implementation="sdpa",
            **more,
        )
        return model_class(config).to(dtype).eval().requires_grad_(False)
