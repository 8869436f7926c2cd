"""Tiny random models of the four supported families, and requests for them."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from cacheblend.api import Request
from common.models.loading import LoadedModel, wrap

VOCABULARY = 97
# Grouped heads, and a head_dim that is not hidden_size / heads; a large init, so that tokens differ.
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 512,
}
FAMILIES = {
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral_window": MistralConfig(**SHAPE, sliding_window=13),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE),
    "qwen3_window": Qwen3Config(**SHAPE, use_sliding_window=True, sliding_window=9, max_window_layers=2),
}


def build(name: str, dtype: torch.dtype = torch.float64, **changes: object) -> LoadedModel:
    """A random model of a family; the same weights every time."""
    config = type(FAMILIES[name])(**(FAMILIES[name].to_dict() | changes))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(11)
        model = AutoModelForCausalLM.from_config(config)
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):  # zero by default, which would hide a forgotten bias
                torch.nn.init.normal_(parameter, std=0.3)
    return wrap(model.to(dtype), name=name)


@pytest.fixture(scope="session")
def models() -> Callable[..., LoadedModel]:
    """`models(family, dtype)`: built once per session."""
    known: dict[tuple[str, torch.dtype], LoadedModel] = {}

    def get(name: str, dtype: torch.dtype = torch.float64) -> LoadedModel:
        if (name, dtype) not in known:
            known[name, dtype] = build(name, dtype)
        return known[name, dtype]

    return get


@pytest.fixture
def request_of() -> Callable[..., Request]:
    """`request_of(seed, lengths)`: random chunks of the given lengths and a question of five tokens."""

    def make(seed: int = 0, lengths: tuple[int, ...] = (11, 7, 12, 9), prefix: int = 0) -> Request:
        rng = np.random.default_rng(seed)

        def tokens(n: int) -> tuple[int, ...]:
            return tuple(rng.integers(3, VOCABULARY, n).tolist())

        return Request(tuple(tokens(n) for n in lengths), tokens(5), tokens(prefix))

    return make


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every family in turn."""
    return request.param
