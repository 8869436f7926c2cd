"""What each baseline reuses, computes and chooses."""

import pytest
import torch

from cacheblend.api import METHODS, Request
from cacheblend.blend import BlendPlan
from cacheblend.engine import Engine
from cacheblend.selection import FirstOfChunk
from common.errors import ConfigError


@pytest.fixture
def engine(models):
    return Engine(models("llama"))


def rows_of(engine: Engine, request: Request, name: str, **knobs) -> tuple[int, ...]:
    return METHODS.create(name, **knobs).prefill(request, engine).computed.report.rows_per_layer


def test_rows_that_each_method_computes(engine, request_of) -> None:
    # BOS, chunks of 11, 7, 12, 9 tokens, a question of 5: 45 tokens, 12 of them an exact prefix, 28 behind it.
    request = request_of()
    assert rows_of(engine, request, "full_recompute") == (45,) * 4
    assert rows_of(engine, request, "prefix_caching") == (33,) * 4
    assert rows_of(engine, request, "full_reuse") == (5,) * 4
    assert rows_of(engine, request, "no_position_recovery") == (5,) * 4
    assert rows_of(engine, request, "cacheblend", ratio=0.25, schedule="constant") == (33, 12, 12, 12)
    assert rows_of(engine, request, "random", ratio=0.25) == (33, 12, 12, 12)
    assert rows_of(engine, request, "last_k", ratio=0.25, check_layer=0) == (12,) * 4
    assert rows_of(engine, request, "oracle", ratio=0.25) == (33, 12, 12, 12)
    assert rows_of(engine, request, "epic_first_k", k=3) == (3 * 3 + 5,) * 4
    assert rows_of(engine, request, "epic_first_k", k=8) == (7 + 8 + 8 + 5,) * 4  # a chunk of 7 has no more
    assert rows_of(engine, request, "epic_first_k", k=None, ratio=0.5) == (14 + 5,) * 4


def test_prefix_caching_is_exact_also_behind_a_system_prompt(engine, request_of) -> None:
    request = request_of(prefix=6)
    prefill = METHODS.create("prefix_caching").prefill(request, engine)
    assert prefill.computed.report.exact_tokens == 1 + 6 + 11
    assert torch.allclose(prefill.computed.logits_V, engine.truth(request).logits_V, atol=1e-12)


def test_epic_recomputes_the_chunks_first_tokens(engine, request_of) -> None:
    plan = BlendPlan(9 / 28, FirstOfChunk(), check_layer=0, schedule="constant")
    blended = engine.blend_rows(request_of(), plan)
    assert blended.rows[0].tolist() == [12, 13, 14, 19, 20, 21, 31, 32, 33, 40, 41, 42, 43, 44]


def test_the_oracle_ranks_by_true_deviation_over_all_layers(engine, request_of) -> None:
    request = request_of()
    seen = {}

    class Watching(Engine):
        def blend(self, request, plan):
            seen["selector"] = plan.selector
            return super().blend(request, plan)

    watching = Watching(engine.loaded)
    METHODS.create("oracle").prefill(request, watching)
    truth = engine.truth(request).kv.values_LHTD
    reused = METHODS.create("full_reuse").prefill(request, engine).computed.kv.values_LHTD
    size_LT = (truth - reused).square().sum(dim=(1, 3)).sqrt()[1:]
    expected = (size_LT / size_LT.sum(dim=1, keepdim=True)).sum(0)
    assert torch.allclose(seen["selector"].score_N, expected, atol=1e-12)
    assert expected[:12].max() < 1e-9  # nothing to gain in the exact prefix


def test_map_rerank_keeps_the_surest_answer(engine, request_of) -> None:
    found = []
    for seed in range(6):
        request = request_of(seed)
        alone = [engine.compute((*chunk, *request.question)) for chunk in request.chunks]
        sureness = [engine.decode(state, request.max_answer_tokens).mean_logprob for state in alone]
        best = max(range(4), key=sureness.__getitem__)
        kept = METHODS.create("map_rerank").prefill(request, engine).computed
        assert torch.equal(kept.logits_V, alone[best].logits_V)
        found.append(best)
    assert len(set(found)) > 1  # not always the same chunk


def test_map_reduce_answers_from_summaries(engine, request_of) -> None:
    request = request_of()
    prefill = METHODS.create("map_reduce", summary_tokens=3).prefill(request, engine)
    summaries = []
    for chunk in request.chunks:
        summaries += engine.decode(engine.compute((*chunk, *request.question)), 3).ids
    expected = engine.compute((*summaries, *request.question))
    assert torch.equal(prefill.computed.logits_V, expected.logits_V)
    # Four prompts of chunk and question with BOS, three decoding steps less one each, and the last prompt.
    prompts = sum(1 + length + 5 for length in (11, 7, 12, 9)) + 4 * 2 + 1 + len(summaries) + 5
    assert prefill.recomputed_tokens == pytest.approx(prompts)


def test_knobs_are_checked_when_a_method_is_made() -> None:
    for knobs in ({"ratio": 2.0}, {"selector": "hkdv"}, {"mask": "none"}, {"check_layer": 0}, {"ratios": 1}):
        with pytest.raises(ConfigError):
            METHODS.create("cacheblend", **knobs)
    with pytest.raises(ConfigError):
        METHODS.create("map_reduce", summary_tokens=0)
    assert METHODS.create("cacheblend", selector_args={"part": "kv"}).plan().selector.part == "kv"
