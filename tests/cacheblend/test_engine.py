"""The engine: what is stored stays as it was, and decoding continues rightly."""

import subprocess
import sys

import pytest
import torch

from cacheblend.api import Request
from cacheblend.blend import BlendPlan
from cacheblend.engine import ChunkKey, Engine, MemoryStore
from common.errors import ConfigError


def test_importing_the_api_imports_no_torch() -> None:
    code = "import sys, cacheblend, cacheblend.api; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_requests_leave_the_store_unchanged_and_repeat_exactly(models, request_of) -> None:
    store = MemoryStore()
    engine, request = Engine(models("llama"), store), request_of()
    assert engine.precompute(request) == 4
    assert engine.precompute(request) == 0
    before = {key: entry.kv.fingerprint() for key, entry in store.entries()}
    first = engine.blend(request, BlendPlan(0.3))
    second = engine.blend(request, BlendPlan(0.3))
    assert torch.equal(first.logits_V, second.logits_V)
    assert first.kv.fingerprint() == second.kv.fingerprint()
    engine.decode(first, 4)
    assert first.kv.fingerprint() == second.kv.fingerprint()
    assert {key: entry.kv.fingerprint() for key, entry in store.entries()} == before


def test_a_chunk_is_stored_once_wherever_it_stands(models, request_of) -> None:
    store = MemoryStore()
    engine, request = Engine(models("llama"), store), request_of()
    swapped = Request(request.chunks[::-1], request.question)
    engine.precompute(request)
    size = len(store)
    assert engine.precompute(swapped) == 0
    assert len(store) == size
    assert torch.allclose(engine.blend(swapped, BlendPlan(1.0)).logits_V, engine.truth(swapped).logits_V, atol=1e-12)


def test_the_report_counts_what_was_done(models, request_of) -> None:
    loaded = models("llama")
    engine, request = Engine(loaded), request_of()
    report = engine.blend(request, BlendPlan(0.25, schedule="constant")).report
    assert (report.prompt_tokens, report.reused_tokens, report.exact_tokens, report.missed_chunks) == (45, 40, 12, 4)
    assert report.rows_per_layer == (33, 12, 12, 12)
    assert report.recomputed_tokens == pytest.approx((33 + 3 * 12) / 4)
    assert report.recomputed_share == pytest.approx((33 + 3 * 12) / 4 / 45)
    # Layer 0 reads the exact prefix alone; layer 1 (V deviation) no keys beyond it; layers 2 and 3 everything.
    per_token = loaded.kv_bytes_per_token // 4 // 2
    assert report.loaded_bytes == per_token * ((12 + 12) + (12 + 40) + 2 * (40 + 40))
    assert engine.blend(request, BlendPlan(0.25)).report.missed_chunks == 0


@pytest.mark.parametrize("name", ["llama", "mistral_window", "qwen2", "qwen3"])
def test_greedy_decoding_equals_the_librarys(models, request_of, name) -> None:
    loaded = models(name)
    engine, request = Engine(loaded), request_of()
    ids = list(engine.ids(request))
    expected = list(ids)
    for _ in range(8):  # without a cache: nothing to get wrong
        expected.append(int(loaded.model(torch.tensor([expected]), use_cache=False).logits[0, -1].argmax()))
    computed = engine.blend(request, BlendPlan(1.0))
    decoded = engine.decode(computed, 8)
    assert list(decoded.ids) == expected[len(ids) :]
    assert decoded.mean_logprob < 0
    logprobs = engine.forced_logprobs(computed, decoded.ids)
    assert logprobs.argmax(-1).tolist() == list(decoded.ids)
    assert float(logprobs.max(-1).values.mean()) == pytest.approx(decoded.mean_logprob)


def test_generate_of_transformers_agrees(models, request_of) -> None:
    loaded = models("llama")
    engine, request = Engine(loaded), request_of()
    ids = torch.tensor([engine.ids(request)])
    out = loaded.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    decoded = engine.decode(engine.blend(request, BlendPlan(1.0)), 8)
    assert list(decoded.ids) == out[0, ids.shape[1] :].tolist()


def test_keys_of_chunks_separate_what_differs() -> None:
    base = ChunkKey("m", "t", (1,), (2, 3))
    others = [ChunkKey("n", "t", (1,), (2, 3)), ChunkKey("m", "u", (1,), (2, 3)), ChunkKey("m", "t", (), (2, 3))]
    others += [ChunkKey("m", "t", (1, 2), (3,)), ChunkKey("m", "t", (1,), (23,)), ChunkKey("m", "t", (1,), (2,))]
    assert len({key.digest for key in (base, *others)}) == 7
    assert ChunkKey("m", "t", (1,), (2, 3)).digest == base.digest


def test_requests_are_checked() -> None:
    with pytest.raises(ConfigError, match="question"):
        Request(((1, 2),), ())
    with pytest.raises(ConfigError, match=">= 0"):
        Request(((1, -2),), (3,))
    assert Request(((1, 2), (3,)), (4, 5), prefix=(6,)).num_tokens == 6


def test_a_request_without_chunks_is_an_ordinary_prefill(models) -> None:
    engine = Engine(models("llama"))
    request = Request((), (5, 6, 7))
    computed = engine.blend(request, BlendPlan(0.15))
    assert torch.allclose(computed.logits_V, engine.truth(request).logits_V, atol=1e-12)
