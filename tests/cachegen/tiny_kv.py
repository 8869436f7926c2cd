"""Caches of random tiny models, and profiles made from them."""

import functools

import numpy as np
import torch

from cachegen.codec import Codec
from cachegen.profile import build_profile
from cachegen.settings import FINEST, PAPER, RELEASED, TUNED
from common.kv import KVCache, from_transformers
from common.rope import Rope

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
FORMS = {"paper": PAPER, "released": RELEASED, "tuned": TUNED, "finest": FINEST}


@functools.cache
def tiny_model(family: str, dtype: torch.dtype = torch.float32, kv_heads: int = 2):
    import transformers

    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[family]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=16,
        max_position_embeddings=4096,
        initializer_range=0.25,
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    return model.to(dtype).eval().requires_grad_(False)


def cache_of(model, num_tokens: int, seed: int) -> KVCache:
    ids = torch.randint(0, 299, (1, num_tokens), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return from_transformers(model.model(ids).past_key_values)


@functools.cache
def codec_of(form: str, family: str = "llama", dtype: torch.dtype = torch.float32) -> Codec:
    model = tiny_model(family, dtype)
    sample = [cache_of(model, 80, seed) for seed in range(4)]
    profile = build_profile(
        lambda: sample,
        FORMS[form],
        model="ab" * 32,
        rotation=Rope.of(model),
        sensitivity_LK=np.linspace(2.0, 1.0, 6).reshape(3, 2),
    )
    return Codec(profile)
