"""The rules that every registered method and workload keeps; run on a stranger's as on our own."""

import itertools
from typing import Any

import numpy as np
import torch

from cacheblend.api import METHODS, WORKLOADS, Prefill, Request
from cacheblend.engine import Engine, MemoryStore
from common.data.items import QAItem
from common.models.loading import ModelSpec, load


def check_method(name: str) -> None:
    """A method is deterministic, leaves request and store as they were, and says truthfully how much it computed."""
    loaded = load(ModelSpec("random_tiny", "random", device="cpu"))
    rng = np.random.default_rng(7)
    chunks = tuple(tuple(rng.integers(0, 999, length).tolist()) for length in (20, 40, 30))
    request = Request(chunks, tuple(rng.integers(0, 999, 6).tolist()))
    store = MemoryStore()
    engine = Engine(loaded, store)
    engine.precompute(request)
    before = _fingerprints(store)
    method = METHODS.create(name, **_required(METHODS, name))
    results = []
    for _ in range(2):
        work = engine.tokens_computed
        if getattr(method, "needs_truth", False):
            engine.truth(request)
            work = engine.tokens_computed
        prefill = method.prefill(request, engine)
        assert isinstance(prefill, Prefill), f"{name}.prefill returned a {type(prefill).__name__}, not a Prefill"
        done = engine.tokens_computed - work
        claimed = prefill.recomputed_tokens
        # The oracle's look at the reused KV and BOS are allowed for.
        slack = max(2.0, 0.02 * done) if not getattr(method, "needs_truth", False) else done
        assert abs(claimed - done) <= slack, f"{name} says {claimed} tokens computed; the engine counted {done}"
        results.append(prefill.computed)
    first, second = results
    assert first.logits_V.shape == (engine.transformer.vocab_size,), f"{name}: logits of shape {first.logits_V.shape}"
    assert torch.isfinite(first.logits_V).all(), f"{name}: logits are not finite"
    assert torch.equal(first.logits_V, second.logits_V), f"{name} is not deterministic"
    fingerprint = first.kv.fingerprint()
    assert fingerprint == second.kv.fingerprint(), f"{name} is not deterministic in its KV"
    assert request == Request(chunks, request.question), f"{name} changed the request"
    engine.decode(first, 3)
    assert first.kv.fingerprint() == fingerprint, f"{name}: decoding changed its state"
    after = _fingerprints(store)
    assert all(after.get(key) == value for key, value in before.items()), f"{name} changed what is in the store"


def check_workload(name: str) -> None:
    """A workload gives as many items as asked for, the same for the same stream, others for another."""
    workload = WORKLOADS.create(name, **_required(WORKLOADS, name))

    def draw(seed: int, n: int) -> list[Any]:
        return list(itertools.islice(workload.items(np.random.default_rng(seed), n), n + 1))

    items = draw(1, 3)
    assert len(items) == 3, f"{name} gave {len(items)} items when asked for 3"
    assert all(isinstance(item, Request | QAItem) for item in items), f"{name} gives neither Request nor QAItem"
    assert items == draw(1, 3), f"{name} gives other items for the same random stream"
    assert items != draw(2, 3), f"{name} ignores its random stream"


def _fingerprints(store: MemoryStore) -> dict[str, str]:
    return {key.digest: entry.kv.fingerprint() for key, entry in store.entries()}


def _required(registry: Any, name: str) -> dict[str, Any]:
    """Entries with knobs that have no default cannot be built without the user's help."""
    import dataclasses

    missing = [knob for knob, default in registry.knobs(name).items() if default is dataclasses.MISSING]
    assert not missing, f"{registry.kind} {name!r} needs a default for {', '.join(missing)}, so that it can be checked"
    return {}
