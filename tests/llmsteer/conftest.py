"""Tiny random models, one of them with the bundled tokenizer."""

import importlib.resources

import pytest
import torch
from transformers import AutoTokenizer

from common.models.loading import wrap
from tests.llmsteer.tiny_models import build


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
