"""Reading, preparing, asking; head search; methods; the harness's accounting."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from common.errors import ConfigError, CorruptBitstream
from common.models.loading import wrap
from llmsteer import contract
from llmsteer.api import METHODS, WORKLOADS, Context, ContextItem, Query, SteeringPlan, TokenQuery
from llmsteer.attention import LayerSteering, Session, active, gains
from llmsteer.engine import Engine, HeadProfile
from llmsteer.harness import Bench, quality_rows
from llmsteer.methods import LLMSteer, Pasta, closest_sentence
from llmsteer.profiling import ProfileSettings, best, load_profile, profile_heads, save_profile, search
from llmsteer.selection import Selection
from llmsteer.store import ContextStore, SteeredContext
from llmsteer.workloads import ReusedContexts
from tests.llmsteer.tiny_models import build

PROFILE = HeadProfile({0: (1, 3), 2: (0,)}, 6.0, 0.0, {}, {}, {}, 0)
CONTEXT = Context(
    tuple((37 * i + 11) % 190 + 5 for i in range(60)),
    (TokenQuery((50, 51, 52), max_answer_tokens=4), TokenQuery((60, 61), max_answer_tokens=4)),
    tuple((start, start + 12) for start in range(0, 60, 12)),
)


@pytest.fixture(scope="module")
def engine():
    return Engine(wrap(build("llama_gqa")), profile=PROFILE)


@pytest.fixture(scope="module")
def text_engine(loaded):
    return Engine(loaded, profile=PROFILE)


def item(engine, seed=0, **knobs):
    workload = ReusedContexts(**({"num_chunks": 6, "num_queries": 2} | knobs))
    return engine.encode(next(iter(workload.items(np.random.default_rng(seed), 1))))


def test_readings_equal_eager_attention_and_ignore_the_block_size():
    model = build("llama_gqa")
    prefix = (1, 7, 9)
    model.set_attn_implementation("eager")
    attention = model(torch.tensor([[*prefix, *CONTEXT.ids]]), output_attentions=True).attentions
    want = torch.stack([layer[0].sum((0, 1))[3:] for layer in attention])
    for block_rows in (5, 256):
        got = Engine(wrap(build("llama_gqa")), block_rows=block_rows).read(prefix, CONTEXT.ids)
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_only_the_wanted_layers_are_read_and_nothing_behind_them_is_computed():
    model = build("llama_gqa")
    engine = Engine(wrap(model))
    whole = engine.read((1, 7, 9), CONTEXT.ids)
    ran = []
    for index, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(lambda *args, index=index: ran.append(index))
    assert torch.equal(engine.read((1, 7, 9), CONTEXT.ids, [1]), whole[1:2])
    assert ran == [0]
    how = Selection(k=8)
    everywhere = Engine(wrap(model)).select(CONTEXT, how)
    chosen = engine.select(CONTEXT, how, layers=[2, 0])
    assert list(chosen) == [0, 2]
    assert all(torch.equal(chosen[layer], everywhere[layer]) for layer in chosen)
    assert engine.select(CONTEXT, how, layers=[]) == {}
    pooled = Selection(k=8, sets="pooled")
    assert torch.equal(engine.select(CONTEXT, pooled, layers=[0])[0], engine.select(CONTEXT, pooled)[0])


def test_indices_are_relative_to_the_context_whatever_the_prefix(engine):
    made = engine.read((1, *[9] * 5), CONTEXT.ids), engine.read((1, *[9] * 30), CONTEXT.ids)
    assert made[0].shape == made[1].shape == (3, 60)
    chosen = engine.select(CONTEXT, Selection(k=8))
    assert all(0 <= int(index) < 60 for tokens in chosen.values() for index in tokens)


def test_permuting_the_heads_of_a_layer_changes_no_set():
    model = build("llama_mha")
    before = Engine(wrap(model)).read((1, 2), CONTEXT.ids)
    order = torch.tensor([2, 0, 3, 1])
    attention = model.model.layers[1].self_attn
    with torch.no_grad():
        for name in ("q_proj", "k_proj", "v_proj"):
            weight = getattr(attention, name).weight
            weight.copy_(weight.view(4, 16, 64)[order].reshape(64, 64))
        weight = attention.o_proj.weight
        weight.copy_(weight.view(64, 4, 16)[:, order].reshape(64, 64))
    torch.testing.assert_close(Engine(wrap(model)).read((1, 2), CONTEXT.ids), before, atol=1e-4, rtol=1e-4)


def test_a_prepared_context_answers_as_one_steered_forward_would(engine):
    plan = LLMSteer(k=16).plan(CONTEXT, engine, None)
    prepared = engine.prepare(CONTEXT, plan)
    query = CONTEXT.queries[0]
    got = engine.answer(prepared, query).ids
    layers = plan.record.layer_steering(4, Session(), "eager")
    ids = [*prepared.ids, *query.ids]
    with active(engine.loaded.model, layers):
        for _ in range(4):
            ids.append(int(engine.loaded.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert list(got) == ids[-4:]
    assert engine.answer(prepared, query).ids == got  # the cache is what it was


def test_the_variants_differ_where_they_should(engine):
    """KV and logits of each variant: who steers the prefill, and who the query."""
    kv, logits = {}, {}
    query = torch.tensor([list(CONTEXT.queries[0].ids)])
    for apply in ("kv_and_live", "live_only", "kv_only"):
        plan = LLMSteer(k=16, apply=apply).plan(CONTEXT, engine, None)
        prepared = engine.prepare(CONTEXT, plan)
        kv[apply] = [layer.keys.clone() for layer in prepared.cache.layers]
        with active(engine.loaded.model, engine._layers(plan, "live")):
            logits[apply] = engine.loaded.model(query, past_key_values=prepared.cache).logits
    plain = engine.prepare(CONTEXT, SteeringPlan())
    base = [layer.keys for layer in plain.cache.layers]
    assert all(torch.equal(a, b) for a, b in zip(kv["live_only"], base, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kv["kv_only"], kv["kv_and_live"], strict=True))
    assert torch.equal(kv["kv_only"][0], base[0])  # keys of the first steered layer come from unsteered states
    assert not torch.allclose(kv["kv_only"][1], base[1], atol=1e-3)
    assert not torch.allclose(logits["kv_only"], logits["kv_and_live"], atol=1e-3)
    assert not torch.allclose(logits["live_only"], logits["kv_and_live"], atol=1e-3)


def test_a_temperature_is_a_factor_of_the_logits(engine):
    plan = SteeringPlan(sharpen={1: 1.7})
    got = engine.answer(engine.prepare(CONTEXT, plan), CONTEXT.queries[0])
    model = build("llama_gqa")
    module = model.model.layers[1].self_attn
    module.scaling *= 1.7
    want = Engine(wrap(model))
    prepared = want.prepare(CONTEXT, SteeringPlan())
    torch.testing.assert_close(
        engine.prepare(CONTEXT, plan).cache.layers[2].keys, prepared.cache.layers[2].keys, atol=1e-5, rtol=1e-4
    )
    assert want.answer(prepared, CONTEXT.queries[0]) == got


def test_plans_for_another_context_are_refused(engine):
    plan = LLMSteer(k=16).plan(CONTEXT, engine, None)
    other = dataclasses.replace(CONTEXT, ids=(*CONTEXT.ids[:-1], 3))
    with pytest.raises(ConfigError, match="another context"):
        engine.prepare(other, plan)
    with pytest.raises(ConfigError, match="instruction"):
        engine.prepare(CONTEXT, dataclasses.replace(plan, cached_prompt=1))


def test_text_is_tokenised_apart_from_the_prompt_with_spans_that_fit(text_engine):
    tokenizer = text_engine.tokenizer
    text = "Norvex sells lamps. It is based in Farnham! Who knows."
    source = ContextItem(
        "x", "f", (text, " Ada is 40."), (Query("Where is Norvex based?", ("Farnham",), evidence=((0, 20, 43),)),)
    )
    context = text_engine.encode(source)
    shown = [tokenizer.decode(context.ids[a:b]).replace("<sep>", "").strip() for a, b in context.sentences]
    assert shown == ["Norvex sells lamps.", "It is based in Farnham!", "Who knows.", "Ada is 40."]
    evidence = [context.ids[i] for i in context.queries[0].evidence]
    assert tokenizer.decode(evidence).strip() == "It is based in Farnham!"
    for index in context.excluded:
        assert not any(letter.isalnum() for letter in tokenizer.decode([context.ids[index]]).replace("<sep>", ""))
    assert context.sentences[0][0] == 0
    assert context.sentences[-1][1] == len(context.ids)
    assert text_engine.prefix(0) != text_engine.prefix(1)
    assert len(text_engine.prefix(0, context.queries[0])) > len(text_engine.prefix(0))


@pytest.mark.parametrize("family", ["single_fact", "quarterly_figures", "arithmetic"])
def test_contexts_have_queries_with_evidence(text_engine, family):
    context = item(text_engine, families=(family,), num_chunks=8, num_queries=8)
    assert len(context.queries) == 8
    for query in context.queries:
        text = text_engine.tokenizer.decode([context.ids[i] for i in query.evidence])
        if family == "single_fact":
            assert query.answers[0] in text
        assert query.evidence


def test_held_out_contexts_are_not_the_tested_ones():
    workload = ReusedContexts(num_chunks=6, num_queries=2)
    tested = {one.chunks for one in workload.items(np.random.default_rng(0), 3)}
    assert not tested & {one.chunks for one in workload.held_out(np.random.default_rng(0), 3)}


def test_selection_never_sees_the_query(text_engine):
    context = item(text_engine)
    other = dataclasses.replace(context, queries=(TokenQuery((9, 9, 9), text="other"),))
    for name in ("llmsteer", "tfidf", "random_tokens"):
        method = METHODS.create(name)
        one, two = (method.plan(c, text_engine, None).record.digest() for c in (context, other))
        assert one == two
    dependent = METHODS.create("llmsteer_query_dependent")
    digests = {dependent.plan(context, text_engine, query).record.digest() for query in context.queries}
    assert len(digests) == len(context.queries)


def test_excluding_is_the_inverse_gain(engine):
    query = dataclasses.replace(CONTEXT.queries[0], evidence=(4, 5))
    record = Pasta().plan(CONTEXT, engine, query).record
    assert record.alpha == pytest.approx(100.0)
    assert all(tokens.tolist() == [4, 5] for tokens in record.layers.values())
    assert Pasta().plan(CONTEXT, engine, CONTEXT.queries[0]).record is None


def test_the_closest_sentence_is_the_copied_one():
    for first, last in CONTEXT.sentences:
        assert closest_sentence(CONTEXT, CONTEXT.ids[first:last]) == (first, last)
        assert closest_sentence(CONTEXT, CONTEXT.ids[first + 2 : last - 2]) == (first, last)


def test_random_tokens_are_as_many_as_selected_ones(engine):
    chosen = LLMSteer(k=16).plan(CONTEXT, engine, None).record.layers
    drawn = METHODS.create("random_tokens", k=16).plan(CONTEXT, engine, None).record.layers
    assert {layer: len(tokens) for layer, tokens in chosen.items()} == {layer: len(drawn[layer]) for layer in chosen}
    assert any(chosen[layer].tolist() != drawn[layer].tolist() for layer in chosen)


def test_what_a_request_costs_is_counted(engine):
    """LLMSteer's online path runs no context token; AutoPASTA decodes twice and prefills the context anew."""
    rows = {}
    for name in ("small", "llmsteer", "autopasta", "llmsteer_query_dependent"):
        bench = Bench(name, METHODS.create(name), engine, CONTEXT)
        answer, tokens, calls = bench.counted(CONTEXT.queries[0])
        rows[name] = (tokens, calls, len(answer.ids))
    prefix = len(engine.prefix(0))
    assert rows["small"] == rows["llmsteer"] == (3 + 3, 1, 4)  # the query, and each answer token but the last
    assert rows["autopasta"][1] == 2
    assert rows["autopasta"][0] == (3 + 99) + (prefix + 60) + (3 + 3)
    in_prompt = prefix + 3 + 60
    assert rows["llmsteer_query_dependent"][0] == 2 * in_prompt + 1 + in_prompt + 6
    uncached = Bench("autopasta", METHODS.create("autopasta", first_call_cached=False), engine, CONTEXT)
    assert uncached.counted(CONTEXT.queries[0])[1] == rows["autopasta"][0] + prefix + 60


def test_quality_rows_are_complete(text_engine):
    context = item(text_engine)
    rows = quality_rows([Bench("small", METHODS.create("small"), text_engine, context)])
    assert {row.metric for row in rows} == {"f1", "calls", "forwarded_tokens"}
    assert [row.factors["query"] for row in rows if row.metric == "f1"] == [0, 1]
    assert [row.value for row in rows if row.metric == "calls"] == [1, 1]
    rows = quality_rows([Bench("autopasta", METHODS.create("autopasta"), text_engine, context)])
    assert [row.value for row in rows if row.metric == "calls"] == [2, 2]


def test_methods_without_what_they_need_are_refused():
    bare = Engine(wrap(build("llama_gqa")))
    with pytest.raises(ConfigError, match="profile"):
        LLMSteer().plan(CONTEXT, bare, None)
    with pytest.raises(ConfigError, match="alpha"):
        LLMSteer(heads="all")
    assert LLMSteer(heads="all", alpha=2.0).plan(CONTEXT, bare, None).record.heads == bare.all_heads()
    with pytest.raises(ConfigError, match="tokenizer"):
        bare.encode(ContextItem("x", "f", ("text",), (Query("?"),)))


# ------------------------------------------------------------------------------------------------------------ head search


def test_the_search_finds_planted_heads_with_few_evaluations():
    planted = {(1, 2): 0.3, (4, 0): 0.2, (4, 3): 0.1}
    calls = []

    def score(heads, alpha):
        calls.append(heads)
        value = sum(planted.get((layer, head), -0.01) for layer, own in heads.items() for head in own)
        return 0.5 + value * (1 - abs(alpha - 5) / 100)

    profile = search(6, 4, score, ProfileSettings(keep_layers=2, keep_heads=3), lambda: len(calls))
    assert profile.heads == {1: (2,), 4: (0, 3)}
    assert profile.alpha == 5.0
    assert profile.num_evaluations == 1 + 6 + 2 * 4 + 6
    assert set(profile.head_scores) == {1, 4}


def test_the_best_are_chosen_by_score_not_by_place():
    assert best({0: 0.1, 1: 0.9, 2: 0.5, 3: 0.9}, 3) == [1, 3, 2]


@pytest.mark.parametrize("objective", ["f1", "log_likelihood"])
def test_profiling_runs_on_text_and_is_kept(text_engine, objective, tmp_path):
    settings = ProfileSettings(keep_layers=1, keep_heads=2, alphas=(2.0, 5.0), objective=objective)
    profile = profile_heads(text_engine, [item(text_engine, num_chunks=5)], Selection(k=8), settings)
    assert sum(len(heads) for heads in profile.heads.values()) == 2
    assert profile.num_evaluations == 1 + 3 + 4 + 2
    save_profile(profile, tmp_path / "heads.json")
    assert load_profile(tmp_path / "heads.json") == profile
    (tmp_path / "heads.json").write_text("{}")
    with pytest.raises(CorruptBitstream):
        load_profile(tmp_path / "heads.json")


def test_log_likelihood_is_that_of_a_whole_forward(engine):
    prepared = engine.prepare(CONTEXT, SteeringPlan())
    query, gold = CONTEXT.queries[0], (7, 8, 9)
    got = engine.log_likelihood(prepared, query, gold)
    logits = engine.loaded.model(torch.tensor([[*prepared.ids, *query.ids, *gold]])).logits[0].log_softmax(-1)
    start = len(prepared.ids) + len(query.ids) - 1
    want = np.mean([float(logits[start + i, token]) for i, token in enumerate(gold)])
    assert got == pytest.approx(want, abs=1e-4)


# ------------------------------------------------------------------------------------------------------------------ store


def test_a_context_survives_the_disk(engine, tmp_path):
    prepared = engine.prepare(CONTEXT, LLMSteer(k=16).plan(CONTEXT, engine, None))
    SteeredContext.of(prepared).save(tmp_path / "c")
    back = SteeredContext.load(tmp_path / "c").prepared(engine)
    assert engine.answer(back, CONTEXT.queries[0]) == engine.answer(prepared, CONTEXT.queries[0])
    with pytest.raises(ConfigError, match="made for model"):
        SteeredContext.load(tmp_path / "c").prepared(Engine(wrap(build("llama_gqa", seed=3))))
    data = bytearray((tmp_path / "c" / "kv.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "c" / "kv.safetensors").write_bytes(data)
    with pytest.raises(CorruptBitstream, match="damaged"):
        SteeredContext.load(tmp_path / "c")
    (tmp_path / "c" / "context.json").write_text("[]")
    with pytest.raises(CorruptBitstream, match="describes no context"):
        SteeredContext.load(tmp_path / "c")
    with pytest.raises(ConfigError, match="without steering"):
        SteeredContext.of(engine.prepare(CONTEXT, SteeringPlan()))


def test_nothing_goes_beyond_the_models_last_position():
    model = build("llama_gqa")
    model.config.max_position_embeddings = len(CONTEXT.ids) + 20
    engine = Engine(wrap(model))
    engine.eos  # noqa: B018  (None: random weights never end an answer)
    prepared = engine.prepare(CONTEXT, SteeringPlan())
    room = len(CONTEXT.ids) + 20 - len(prepared.ids)
    # The last token that is generated is not fed back, so it needs no position.
    assert len(engine.generate(prepared, (50,) * (room - 2), 99).ids) == 3
    with pytest.raises(ConfigError, match="more than the model's"):
        engine.generate(prepared, (50,) * (room + 1), 1)
    with pytest.raises(ConfigError, match="more than the model's"):
        engine.read(engine.prefix(0), CONTEXT.ids * 2)


def test_the_store_forgets_the_least_recently_used(engine):
    def made(k):
        return SteeredContext.of(engine.prepare(CONTEXT, LLMSteer(k=k).plan(CONTEXT, engine, None)))

    one, two, three = made(8), made(16), made(32)
    store = ContextStore(one.num_bytes + three.num_bytes + 100)
    store.put(one)
    store.put(two)
    assert store.get(store.key(one.record)) is one
    store.put(three)
    assert store.get(store.key(two.record)) is None
    assert {id(entry) for entry in store.for_context(engine.fingerprint, CONTEXT.ids)} == {id(one), id(three)}
    assert store.num_bytes <= store.max_bytes
    with pytest.raises(ConfigError, match="the store holds"):
        ContextStore(10).put(one)


def test_steering_stays_off_when_it_should(engine):
    empty = LayerSteering(torch.zeros(0, dtype=torch.int64), gains((0,), 4, 9.0), Session())
    ids = torch.tensor([list(CONTEXT.ids)])
    base = engine.loaded.model(ids, past_key_values=DynamicCache()).logits
    with active(engine.loaded.model, {0: empty}):
        assert torch.equal(engine.loaded.model(ids, past_key_values=DynamicCache()).logits, base)


@pytest.mark.parametrize("name", METHODS.names())
def test_methods_keep_the_contract(name):
    contract.check_method(name)


@pytest.mark.parametrize("name", WORKLOADS.names())
def test_workloads_keep_the_contract(name):
    contract.check_workload(name)
