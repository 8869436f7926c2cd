"""Tiny random models of several families and head layouts."""

import importlib.resources

import pytest
import torch
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from common.models.loading import wrap

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


@pytest.fixture(scope="session")
def models():
    made = {}

    def get(name, dtype=torch.float32, seed=0):
        if (name, dtype, seed) not in made:
            made[name, dtype, seed] = build(name, dtype, seed)
        return made[name, dtype, seed]

    return get


@pytest.fixture(scope="session")
def tokenizer():
    folder = importlib.resources.files("common.models") / "bundled" / "small"
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


@pytest.fixture(scope="session")
def loaded(tokenizer):
    """A random model that can read text, badly."""
    return wrap(build("llama_gqa", vocab_size=len(tokenizer)), tokenizer)
