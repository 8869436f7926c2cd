"""The fusor against a second implementation: token by token, from the definition, without blocks, buffers or shortcuts."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cacheblend.api import Request
from cacheblend.blend import BlendPlan
from cacheblend.engine import Engine
from cacheblend.selection import FirstOfChunk, HighKVDeviation, LastTokens, RandomTokens
from cacheblend.transformer import Transformer


def turned(key_HD: torch.Tensor, net: Transformer, by: int) -> torch.Tensor:
    """A key moved by some positions, with the library's own cos and sin."""
    cos, sin = net.rotary(torch.tensor([abs(by)]))
    half = key_HD.shape[-1] // 2
    quarter = torch.cat((-key_HD[:, half:], key_HD[:, :half]), dim=-1)
    return key_HD * cos + quarter * (sin if by >= 0 else -sin)


def lone_kv(engine: Engine, tokens: tuple[int, ...]):
    """KV per layer and token of a prompt, by the library."""
    from transformers import DynamicCache

    out = engine.loaded.model(torch.tensor([tokens]), past_key_values=DynamicCache(), use_cache=True)
    return [(layer.keys[0], layer.values[0]) for layer in out.past_key_values.layers]


def reference(engine: Engine, request: Request, plan: BlendPlan, rows_per_layer):
    """KV of the whole prompt and its logits, given which rows are computed at each layer."""
    net, ids = engine.transformer, engine.ids(request)
    n, num_layers = len(ids), engine.transformer.num_layers
    opening = (*engine.bos, *request.prefix)
    # kv[layer][position] = (key, value) as reused.
    kv: list[list] = [[None] * n for _ in range(num_layers)]

    def place(tokens: tuple[int, ...], drop: int, at: int) -> None:
        for layer, (keys, values) in enumerate(lone_kv(engine, tokens)):
            for i in range(drop, len(tokens)):
                to = at + i - drop
                kv[layer][to] = turned(keys[:, i], net, to - i), values[:, i]

    place(opening, 0, 0)
    at = len(opening)
    for chunk in request.chunks:
        if chunk:
            place((*engine.bos, *chunk), len(engine.bos), at)
        at += len(chunk)

    hidden = {p: net.embed(torch.tensor([ids[p]]))[0] for p in rows_per_layer[0].tolist()}
    for layer in range(num_layers):
        kept = rows_per_layer[layer].tolist()
        fresh = {}
        for p in hidden:
            normed = net.enter(layer, hidden[p][None])
            rotary = net.rotary(torch.tensor([p]))
            fresh[p] = (
                net.query(layer, normed, rotary)[:, 0],
                net.key(layer, normed, rotary)[:, 0],
                net.value(layer, normed)[:, 0],
            )
        for p, (_, key, value) in fresh.items():
            if plan.keep_fresh or p in kept:
                kv[layer][p] = key, value
        after = {}
        for p in kept:
            query, window = fresh[p][0], net.window(layer)
            seen = range(0 if window is None else max(0, p - window + 1), p + 1)
            keys = torch.stack([kv[layer][s][0] for s in seen], dim=1)
            values = torch.stack([kv[layer][s][1] for s in seen], dim=1)
            groups = query.shape[0] // keys.shape[0]
            keys, values = keys.repeat_interleave(groups, 0), values.repeat_interleave(groups, 0)
            share = (torch.einsum("qd,qsd->qs", query, keys) * net.scale(layer)).softmax(-1)
            attended = torch.einsum("qs,qsd->qd", share, values).reshape(1, -1)
            after[p] = net.leave(layer, hidden[p][None], attended)[0]
        hidden = after
    keys = torch.stack([torch.stack([kv[layer][p][0] for p in range(n)], dim=1) for layer in range(num_layers)])
    values = torch.stack([torch.stack([kv[layer][p][1] for p in range(n)], dim=1) for layer in range(num_layers)])
    return keys, values, net.logits(hidden[n - 1][None])[0]


SELECTORS = [
    HighKVDeviation("v"),
    HighKVDeviation("k"),
    HighKVDeviation("kv"),
    RandomTokens(),
    LastTokens(),
    FirstOfChunk(),
]


@pytest.mark.parametrize("name", ["llama", "mistral_window", "qwen2", "qwen3"])
@given(
    lengths=st.lists(st.integers(0, 9), max_size=4),
    prefix=st.sampled_from([0, 0, 3]),
    ratio=st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
    schedule=st.sampled_from(["constant", "linear", (3.0, 1.0)]),
    check_layer=st.integers(0, 3),
    keep_fresh=st.booleans(),
    selector=st.sampled_from(SELECTORS),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_request_and_plan(
    models, request_of, name, lengths, prefix, ratio, schedule, check_layer, keep_fresh, selector, seed
) -> None:
    if selector.parts:
        check_layer = max(1, check_layer)
    engine = Engine(models(name))
    request = request_of(seed, tuple(lengths), prefix)
    plan = BlendPlan(ratio, selector, check_layer, schedule, keep_fresh)
    blended = engine.blend_rows(request, plan)
    keys, values, logits = reference(engine, request, plan, blended.rows)
    computed = blended.computed
    # Keys are moved by the library's float32 angles there, by float64 ones here.
    assert torch.allclose(computed.kv.keys_LHTD, keys, atol=2e-5)
    assert torch.allclose(computed.kv.values_LHTD, values, atol=2e-5)
    assert torch.allclose(computed.logits_V, logits, atol=2e-5)
    assert computed.report.rows_per_layer == tuple(map(len, blended.rows))
