"""The fusor: exact where it must be, causal always, and really cheaper."""

import itertools

import numpy as np
import pytest
import torch

from cacheblend.api import SELECTORS, Request
from cacheblend.blend import BlendPlan
from cacheblend.engine import Engine
from cacheblend.selection import GivenScores, HighKVDeviation, RandomTokens
from common.errors import ConfigError
from common.kv import from_transformers


def library_prefill(loaded, ids):
    """Logits and KV of transformers' own forward pass."""
    from transformers import DynamicCache

    # Without the config it keeps every token of sliding-window layers.
    out = loaded.model(torch.tensor([ids]), past_key_values=DynamicCache(), use_cache=True)
    return out.logits[0, -1], from_transformers(out.past_key_values)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_recomputing_everything_equals_the_librarys_prefill(family, models, request_of, dtype, tolerance) -> None:
    loaded = models(family, dtype)
    engine, request = Engine(loaded), request_of()
    logits, kv = library_prefill(loaded, engine.ids(request))
    blended = engine.blend(request, BlendPlan(ratio=1.0))
    for computed in (blended, engine.truth(request)):
        assert torch.allclose(computed.logits_V, logits, atol=tolerance, rtol=0)
        assert torch.allclose(computed.kv.keys_LHTD, kv.keys_LHTD, atol=tolerance, rtol=0)
        assert torch.allclose(computed.kv.values_LHTD, kv.values_LHTD, atol=tolerance, rtol=0)
    # The comparison is not empty: reusing everything is far off.
    reused = engine.blend(request, BlendPlan(ratio=0.0))
    assert (reused.logits_V - logits).abs().max() > 1000 * tolerance


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_one_chunk_is_a_prefix_and_exact_at_any_ratio(family, models, request_of, ratio) -> None:
    loaded = models(family)
    engine, request = Engine(loaded), request_of(lengths=(17,))
    logits, kv = library_prefill(loaded, engine.ids(request))
    computed = engine.blend(request, BlendPlan(ratio=ratio))
    assert computed.report.exact_tokens == 18  # BOS and the chunk
    assert computed.report.rows_per_layer == (5,) * 4  # the question alone
    assert torch.allclose(computed.logits_V, logits, atol=1e-12)
    assert torch.allclose(computed.kv.values_LHTD, kv.values_LHTD, atol=1e-12)


def test_layer_0_of_moved_chunks_is_exact_and_the_next_is_not(family, models, request_of) -> None:
    engine, request = Engine(models(family)), request_of()
    plan = BlendPlan(ratio=0.0, selector=RandomTokens(), check_layer=0)
    computed, truth = engine.blend(request, plan), engine.truth(request)
    # Keys to float32 precision: the library computes its angles in float32.
    assert torch.allclose(computed.kv.keys_LHTD[0], truth.kv.keys_LHTD[0], atol=1e-5)
    # Matrix products of different shapes sum in different orders: equal to the last bits, not bit for bit.
    assert torch.allclose(computed.kv.values_LHTD[0], truth.kv.values_LHTD[0], atol=1e-13)
    assert (computed.kv.values_LHTD[1] - truth.kv.values_LHTD[1]).abs().max() > 1e-3
    off = engine.blend(request, BlendPlan(0.0, RandomTokens(), 0, recover_positions=False))
    assert (off.kv.keys_LHTD[0] - truth.kv.keys_LHTD[0]).abs().max() > 0.1


def test_the_first_chunk_does_not_deviate(family, models, request_of) -> None:
    engine, request = Engine(models(family)), request_of()
    pieces, _ = engine.pieces(request)
    assert pieces.num_exact == 12  # BOS and the first chunk of 11
    reused = engine.blend(request, BlendPlan(0.0, RandomTokens(), 0)).kv
    truth = engine.truth(request).kv
    # Computed alone and within the prompt: the same sums, up to their order in the kernels.
    assert (reused.keys_LHTD[:, :, :12] - truth.keys_LHTD[:, :, :12]).abs().max() < 1e-12
    assert (reused.values_LHTD[1:, :, 12:-5] - truth.values_LHTD[1:, :, 12:-5]).abs().max() > 0.01


def with_fixed_choice(engine: Engine, request: Request, mask: str, score_N: torch.Tensor):
    plan = BlendPlan(0.4, GivenScores(score_N), check_layer=1, mask=mask, schedule="constant")
    return engine.blend_rows(request, plan).computed.kv


def future_leak(engine: Engine, request: Request, changed: Request, position: int, mask: str) -> float:
    """Largest change of KV before `position` when only tokens from there on change; the choice of rows is held fixed."""
    score_N = torch.from_numpy(np.random.default_rng(5).random(len(engine.ids(request))))
    before = with_fixed_choice(engine, request, mask, score_N)
    after = with_fixed_choice(engine, changed, mask, score_N)
    until = slice(0, position)
    return max(
        float((before.keys_LHTD[:, :, until] - after.keys_LHTD[:, :, until]).abs().max()),
        float((before.values_LHTD[:, :, until] - after.values_LHTD[:, :, until]).abs().max()),
    )


def test_no_token_sees_the_future_and_the_bottom_right_mask_would(family, models, request_of) -> None:
    engine, request = Engine(models(family)), request_of()
    *first, last = request.chunks
    changed = Request((*first, tuple(3 + (token + 1) % 90 for token in last)), request.question)
    position = 1 + sum(map(len, first))
    assert future_leak(engine, request, changed, position, "absolute") == 0.0
    # The same property on the mask of the authors' released code: this is the test that would have caught it.
    if "window" not in family:
        assert future_leak(engine, request, changed, position, "bottom_right") > 1e-3


def test_rows_through_the_mlp_are_the_selected_ones(models, request_of) -> None:
    loaded = models("llama")
    engine, request = Engine(loaded), request_of()
    engine.precompute(request)
    seen: list[int] = []
    hooks = [
        layer.mlp.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[-2]))
        for layer in loaded.model.model.layers
    ]
    try:
        blended = engine.blend_rows(request, BlendPlan(0.25))
    finally:
        for hook in hooks:
            hook.remove()
    # 45 tokens: BOS and 11 of the first chunk exact, 28 candidates, 5 of the question.
    assert seen == [33, *(len(rows) for rows in blended.rows[1:])]
    assert sum(seen[1:]) == 3 * (5 + 28 * 0.25)
    assert blended.computed.report.rows_per_layer == tuple(seen)


def test_flops_of_the_run_equal_the_count(models, request_of) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    loaded = models("llama")
    engine, request = Engine(loaded), request_of()
    engine.precompute(request)
    with FlopCounterMode(display=False) as counter:
        blended = engine.blend_rows(request, BlendPlan(0.25, schedule="constant"))
    by_operation = counter.get_flop_counts()["Global"]
    linear = sum(count for operation, count in by_operation.items() if operation is torch.ops.aten.mm)
    # Per row and layer: 2 (2 d d_q + 2 d d_kv + 3 d d_ff) with d = 32, d_q = 64, d_kv = 32, d_ff = 48. Layer 1 is special: K
    # and V of all 33 rows, the rest for those picked. The head is one row of 97.
    whole, kv = 2 * (2 * 32 * 64 + 2 * 32 * 32 + 3 * 32 * 48), 2 * 2 * 32 * 32
    rows = [len(positions) for positions in blended.rows]
    expected = whole * sum(rows) + kv * (33 - rows[1]) + 2 * 32 * 97
    assert linear == expected


@pytest.mark.parametrize("schedule", ["constant", "linear", (3.0, 2.0, 1.0)])
def test_gradual_filtering_only_ever_drops(models, request_of, schedule) -> None:
    engine, request = Engine(models("qwen3")), request_of(3)
    blended = engine.blend_rows(request, BlendPlan(0.3, schedule=schedule))
    picked = [set(rows.tolist()) for rows in blended.rows]
    assert all(later <= earlier for earlier, later in itertools.pairwise(picked))
    suffix = set(range(40, 45))
    assert all(suffix <= rows for rows in picked)
    candidates = [len(rows - suffix) for rows in picked[1:]]
    assert abs(np.mean(candidates) - 0.3 * 28) <= 1
    if schedule != "constant":
        assert candidates[0] > candidates[-1]


def test_picked_tokens_are_those_with_the_largest_deviation(models, request_of) -> None:
    engine, request = Engine(models("llama")), request_of()
    truth = engine.truth(request).kv
    reused = engine.blend(request, BlendPlan(0.0, RandomTokens(), 0)).kv
    # At layer 1 the inputs are exact, so the fresh values are those of the full prefill.
    difference = (truth.values_LHTD[1] - reused.values_LHTD[1])[:, 12:40].square().sum(dim=(0, 2))
    expected = set((12 + difference.topk(7).indices).tolist())
    blended = engine.blend_rows(request, BlendPlan(0.25, schedule="constant"))
    assert set(blended.rows[1].tolist()) == expected | set(range(40, 45))


def test_fresh_kv_at_the_check_layer_is_kept_unless_told_otherwise(models, request_of) -> None:
    engine, request = Engine(models("llama")), request_of()
    truth = engine.truth(request).kv
    kept = engine.blend(request, BlendPlan(0.25)).kv
    assert torch.allclose(kept.values_LHTD[1], truth.values_LHTD[1], atol=1e-12)
    written = engine.blend_rows(request, BlendPlan(0.25, keep_fresh=False, schedule="constant"))
    error = (written.computed.kv.values_LHTD[1] - truth.values_LHTD[1]).abs().amax(dim=(0, 2))
    wrong = set((error > 1e-9).nonzero().flatten().tolist())
    assert wrong
    assert not wrong & set(written.rows[1].tolist())


def test_without_a_sink_the_first_chunk_is_like_the_others(models, request_of) -> None:
    engine, request = Engine(models("llama"), has_sink=False), request_of()
    pieces, _ = engine.pieces(request)
    assert pieces.num_exact == 1  # BOS
    computed = engine.blend(request, BlendPlan(1.0))
    assert torch.allclose(computed.logits_V, engine.truth(request).logits_V, atol=1e-12)


def test_a_system_prompt_is_an_exact_prefix(models, request_of) -> None:
    engine, request = Engine(models("llama")), request_of(prefix=6)
    pieces, _ = engine.pieces(request)
    assert pieces.num_exact == 7  # BOS and the prefix: the chunks were computed without the prefix
    assert torch.allclose(engine.blend(request, BlendPlan(1.0)).logits_V, engine.truth(request).logits_V, atol=1e-12)


@pytest.mark.parametrize("name", SELECTORS.names())
def test_every_selector_runs_in_the_fusor(models, request_of, name) -> None:
    engine, request = Engine(models("qwen2")), request_of()
    blended = engine.blend_rows(request, BlendPlan(0.3, SELECTORS.create(name), schedule="constant"))
    assert [len(rows) for rows in blended.rows] == [33, 13, 13, 13] or name == "random"
    assert torch.isfinite(blended.computed.logits_V).all()


@pytest.mark.parametrize("check_layer", [1, 2, 3])
def test_later_check_layers_are_exact_below(models, request_of, check_layer) -> None:
    engine, request = Engine(models("llama")), request_of()
    kv, truth = engine.blend(request, BlendPlan(0.2, check_layer=check_layer)).kv, engine.truth(request).kv
    below = slice(0, check_layer + 1)
    assert torch.allclose(kv.values_LHTD[below], truth.values_LHTD[below], atol=1e-12)


def test_more_recompute_means_less_deviation_on_average(models, request_of) -> None:
    engine = Engine(models("llama"))
    errors = []
    for ratio in (0.0, 0.25, 0.5, 1.0):
        total = 0.0
        for seed in range(8):
            request = request_of(seed)
            kv, truth = engine.blend(request, BlendPlan(ratio)).kv, engine.truth(request).kv
            total += float((kv.values_LHTD - truth.values_LHTD).square().sum().sqrt())
        errors.append(total)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-9


def test_bad_plans_are_refused(models, request_of) -> None:
    with pytest.raises(ConfigError, match="recompute ratio"):
        BlendPlan(1.5)
    with pytest.raises(ConfigError, match="check_layer >= 1"):
        BlendPlan(0.5, HighKVDeviation(), check_layer=0)
    with pytest.raises(ConfigError, match="mask"):
        BlendPlan(mask="diagonal")
    engine = Engine(models("llama"))
    with pytest.raises(ConfigError, match="4 layers"):
        engine.blend(request_of(), BlendPlan(check_layer=4))
    with pytest.raises(ConfigError, match="vocabulary"):
        engine.compute([500])
    with pytest.raises(ConfigError, match="512 positions"):
        engine.compute([5] * 600)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(models, request_of, dtype) -> None:
    half, exact = Engine(models("qwen3", dtype)), Engine(models("qwen3"))
    request = request_of()
    # Values, since logits of a random model amplify rounding; the scale of both is about 1.
    for plan in (BlendPlan(1.0), BlendPlan(0.0, RandomTokens(), 0)):
        found, expected = half.blend(request, plan).kv, exact.blend(request, plan).kv
        assert found.dtype == dtype
        error = (found.values_LHTD.double() - expected.values_LHTD).abs().mean() / expected.values_LHTD.abs().mean()
        assert error < 0.05
    reuse, full = exact.blend(request, BlendPlan(0.0, RandomTokens(), 0)).kv, exact.truth(request).kv
    far = (reuse.values_LHTD - full.values_LHTD).abs().mean() / full.values_LHTD.abs().mean()
    assert far > 0.15  # the bound above tells reuse and recompute apart
