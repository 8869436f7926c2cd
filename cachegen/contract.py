"""The rules that every registered method and workload keeps; run on a stranger's as on our own."""

import dataclasses
import itertools
from typing import Any

import numpy as np

from cachegen.api import METHODS, WORKLOADS, Context
from cachegen.engine import Engine
from common.data.items import QAItem
from common.errors import CorruptBitstream
from common.kv import KVCache
from common.models.loading import ModelSpec, load


def check_method(name: str) -> None:
    """A method gives bytes and takes them back, is deterministic, leaves its input alone, and refuses damaged bytes."""
    engine = Engine(load(ModelSpec("random_tiny", "random", device="cpu")))
    rng = np.random.default_rng(3)

    def context(length: int) -> Context:
        return engine.context(rng.integers(0, 999, length).tolist(), (), rng.integers(0, 999, 5).tolist())

    sample, asked = [context(70), context(64)], context(83)
    before = asked.kv.fingerprint()
    codec = METHODS.create(name, **_required(METHODS, name)).prepare(engine, sample)
    assert len(codec.levels) == len(set(codec.levels)) >= 1, f"{name} has levels {codec.levels}"
    sizes = []
    for level in range(len(codec.levels)):
        chunks = codec.encode(asked, level)
        assert chunks, f"{name}.encode returned nothing"
        assert all(isinstance(chunk, bytes) for chunk in chunks), f"{name}.encode must return bytes"
        assert chunks == codec.encode(asked, level), f"{name} is not deterministic"
        sizes.append(sum(map(len, chunks)))
        kv = codec.decode(chunks)
        assert isinstance(kv, KVCache), f"{name}.decode returned a {type(kv).__name__}"
        assert kv.fingerprint() == codec.decode(chunks).fingerprint(), f"{name} decodes differently each time"
        assert (kv.num_layers, kv.num_heads, kv.head_dim) == (
            asked.kv.num_layers,
            asked.kv.num_heads,
            asked.kv.head_dim,
        )
        assert kv.dtype == asked.kv.dtype, f"{name} changes the dtype to {kv.dtype}"
        assert 1 <= kv.num_tokens <= len(asked.ids), f"{name} returned {kv.num_tokens} tokens of {len(asked.ids)}"
        engine.answer(kv, asked.question, 2)
    assert sizes == sorted(sizes), f"{name}: its levels are not ordered by size: {sizes}"
    assert asked.kv.fingerprint() == before, f"{name} changed the cache that it was given"
    whole = codec.encode(asked, 0)
    for damaged in ((*whole[:-1], whole[-1][:-1]), (*whole[:-1], bytes([whole[-1][0] ^ 1]) + whole[-1][1:])):
        try:
            codec.decode(damaged)
        except CorruptBitstream:
            continue
        raise AssertionError(f"{name} decodes damaged bytes without a word")


def check_workload(name: str) -> None:
    """A workload gives as many items as asked for, the same for the same stream, others for another."""
    workload = WORKLOADS.create(name, **_required(WORKLOADS, name))

    def draw(seed: int, n: int) -> list[Any]:
        return list(itertools.islice(workload.items(np.random.default_rng(seed), n), n + 1))

    items = draw(1, 3)
    assert len(items) == 3, f"{name} gave {len(items)} items when asked for 3"
    assert all(isinstance(item, QAItem) and item.chunks for item in items), f"{name} must give QAItems with a context"
    assert items == draw(1, 3), f"{name} gives other items for the same random stream"
    assert items != draw(2, 3), f"{name} ignores its random stream"


def _required(registry: Any, name: str) -> dict[str, Any]:
    missing = [knob for knob, default in registry.knobs(name).items() if default is dataclasses.MISSING]
    assert not missing, f"{registry.kind} {name!r} needs a default for {', '.join(missing)}, so that it can be checked"
    return {}
