"""The shipped models: loadable as plain transformers folders, and as good as their recorded scores say."""

import json

import pytest

from common.data.synthetic import generate
from common.models import prompt_format
from common.models.gates import BUNDLED, load_bundled
from common.models.gates_scoring import answer_from, answered_right, full_kv, prompt_of, reused_kv

SIZES = sorted(folder.name for folder in BUNDLED.iterdir() if (folder / "model.safetensors").exists())


@pytest.fixture(scope="module", params=SIZES)
def bundled(request):
    return request.param, *load_bundled(request.param)


def test_a_model_is_shipped():
    assert "small" in SIZES


def test_it_is_a_plain_llama_with_a_long_context(bundled):
    size, model, tokenizer = bundled
    assert model.config.model_type == "llama"
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert model.config.max_position_embeddings >= 2048
    assert len(tokenizer) <= model.config.vocab_size
    assert (BUNDLED / size / "model.safetensors").stat().st_size < 30e6


def test_shipped_scores_on_fifty_items(bundled):
    size, model, tokenizer = bundled
    recorded = json.loads((BUNDLED / size / "gates.json").read_text())["scores"]["families"]
    for family in ("single_fact", "coreference", "line_retrieval"):
        prompts = [
            prompt_of(tokenizer, item) for item in generate(family, "test", 77, 50, num_chunks=6, chunk_sentences=5)
        ]
        right = sum(answered_right(model, prompts)) / 50
        # Three standard errors of the difference between fifty draws and those recorded, and a floor for rates near 1.
        cell = recorded[family]["test_6_chunks"]
        rate = cell["accuracy"]
        error = (rate * (1 - rate) * (1 / 50 + 1 / cell["items"])) ** 0.5
        assert abs(right - rate) <= max(0.1, 3 * error), (family, right, rate)


def test_greedy_generation_agrees_with_the_teacher_forced_score(bundled):
    import torch

    _, model, tokenizer = bundled
    for item in generate("single_fact", "test", 5, 8):
        prompt = prompt_of(tokenizer, item)
        ids = torch.tensor([[*prompt.context, *prompt.question]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12)[0, ids.shape[1] :].tolist()
        said = prompt_format.decode_answer(tokenizer, out)
        assert (said == item.answers[0]) == answered_right(model, [prompt])[0]


def test_the_first_chunk_and_full_kv_are_exact(bundled):
    """Reuse of a one-chunk context is no reuse at all: the same answers as full prefill."""
    _, model, tokenizer = bundled
    for item in generate("single_fact", "test", 6, 4, num_chunks=1, chunk_sentences=5):
        prompt = prompt_of(tokenizer, item)
        full, reused = full_kv(model, prompt), reused_kv(model, prompt, with_bos=True)
        for (k, v), (k2, v2) in zip(full, reused, strict=True):
            assert (k - k2).abs().max() < 1e-4
            assert (v - v2).abs().max() < 1e-4
        assert answer_from(model, prompt, full)[0] == answered_right(model, [prompt])[0]


def test_layer_zero_is_reused_exactly(bundled):
    """Keys and values of layer 0 depend on the token and its position alone: a check of `reused_kv`'s positions."""
    _, model, tokenizer = bundled
    item = next(generate("coreference", "test", 8, 1))
    prompt = prompt_of(tokenizer, item)
    full, reused = full_kv(model, prompt), reused_kv(model, prompt, with_bos=False)
    assert (full[0][0] - reused[0][0]).abs().max() < 1e-4
    assert (full[0][1] - reused[0][1]).abs().max() < 1e-4
    assert (full[-1][1] - reused[-1][1]).abs().max() > 1e-2
