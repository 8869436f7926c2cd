"""The engine on trained and random models: continuing from a cache, attention, self-information, and a nearly lossless codec."""

import os
from pathlib import Path

import pytest
import torch

from cachegen.codec import Codec
from cachegen.engine import Engine
from cachegen.methods import METHODS, pack_text, unpack_text
from cachegen.profile import build_profile
from cachegen.profiling import cut, kl_divergence, layer_sensitivity, noisy, profile_model
from cachegen.settings import FINEST
from common.data.items import QAItem
from common.errors import ConfigError, CorruptBitstream
from common.models.loading import ModelSpec, load
from common.rng import for_component
from tests.cachegen.tiny_kv import FORMS


@pytest.fixture(scope="module")
def engine():
    return Engine(load(ModelSpec("random_tiny", "random", device="cpu")), "float32")


def tokens(count, seed=0):
    return for_component(seed, "tokens").integers(0, 999, count).tolist()


def test_prefill_behind_a_cache_is_a_prefill_of_everything(engine):
    ids = tokens(60)
    whole = engine.prefill(ids)
    continued = engine.prefill(ids[35:], engine.prefill(ids[:35]))
    assert torch.allclose(whole.keys_LHTD, continued.keys_LHTD, atol=1e-4)
    assert continued.positions_T.tolist() == list(range(60))


def test_logits_and_answers_follow_from_the_cache(engine):
    ids, question = tokens(50), tokens(6, 1)
    kv = engine.prefill(ids)
    before = kv.fingerprint()
    with torch.no_grad():
        expected = engine.loaded.model(torch.tensor([ids + question])).logits[0, -3:]
    assert torch.allclose(engine.logits_after(kv, question, 3), expected, atol=1e-3)
    answer = engine.answer(kv, question, 4)
    assert answer[0] == int(expected[-1].argmax())
    assert len(answer) == 4
    assert kv.fingerprint() == before


def test_attention_sums_to_what_the_context_gets(engine):
    kv = engine.prefill(tokens(40))
    score_LHT = engine.attention_to_context(kv, tokens(5, 2))
    assert score_LHT.shape == (4, 2, 40)
    # Five question tokens and two query heads per kv head: at most ten units of probability, some of it on the question.
    assert float(score_LHT.sum(-1).max()) <= 10 + 1e-4
    assert engine.loaded.model.config._attn_implementation == "sdpa"


def test_self_information_is_the_cross_entropy(engine):
    ids = tokens(30)
    with torch.no_grad():
        loss = engine.loaded.model(torch.tensor([ids]), labels=torch.tensor([ids])).loss
    own = engine.self_information(ids)
    assert torch.isinf(own[0])
    assert float(own[1:].mean()) == pytest.approx(float(loss), rel=1e-4)


def test_bad_input_is_refused(engine):
    with pytest.raises(ConfigError, match="no tokens"):
        engine.prefill([])
    with pytest.raises(ConfigError, match="kv_dtype"):
        Engine(engine.loaded, "int8")
    with pytest.raises(ConfigError, match="tokenizer"):
        engine.context_of(QAItem("a", "b", ("c",), "d", ("e",)))


def test_text_round_trip(engine):
    context = engine.context(tokens(9))
    assert unpack_text(pack_text(context), engine) == context.ids
    with pytest.raises(CorruptBitstream):
        unpack_text(pack_text(context)[:-1], engine)


def test_sensitivity_finds_the_layer_that_matters(engine):
    contexts = [engine.context(tokens(40, seed), (), tokens(5, seed + 50)) for seed in range(3)]
    weight = layer_sensitivity(engine, contexts, for_component(0, "noise"))
    assert weight.shape == (4, 2)
    assert (weight > 0).all()
    question = contexts[0].question
    clean = engine.logits_after(contexts[0].kv, question, 1)
    changed = noisy(contexts[0].kv, [0], 1, 0.0, for_component(0, "x"))
    assert kl_divergence(clean, engine.logits_after(changed, question, 1)) == pytest.approx(0, abs=1e-9)


def test_profiles_depend_on_the_sample_and_not_on_chance(engine):
    contexts = [engine.context(tokens(60, seed), (), tokens(5, seed + 50)) for seed in range(3)]
    made = [profile_model(engine, contexts, FORMS["tuned"], for_component(0, "s")) for _ in range(2)]
    assert made[0].digest == made[1].digest
    assert profile_model(engine, contexts[:2], FORMS["tuned"], for_component(0, "s")).digest != made[0].digest


def test_chunks_are_slices_of_one_prefill(engine):
    kv = engine.prefill(tokens(70))
    chunks = cut(kv, 32)
    assert [chunk.num_tokens for chunk in chunks] == [32, 32, 6]
    assert torch.equal(chunks[1].keys_LHTD, kv.keys_LHTD[:, :, 32:64])


def test_h2o_with_all_tokens_is_its_inner_codec(engine):
    contexts = [engine.context(tokens(60, seed), (), tokens(5, seed + 50)) for seed in range(2)]
    every = METHODS.create("h2o", budget=1.0).prepare(engine, [])
    plain = METHODS.create("quantisation_8bit").prepare(engine, [])
    kept = every.decode(every.encode(contexts[0], 0))
    assert torch.equal(kept.keys_LHTD, plain.decode(plain.encode(contexts[0], 0)).keys_LHTD)


@pytest.fixture(scope="module")
def trained():
    root = Path(os.environ.get("NINEFOLD_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    folder = root / "models" / "stories260k"
    if not (folder / "config.json").is_file():
        pytest.skip(f"no trained model at {folder}; set NINEFOLD_DATA to a data root that has models/stories260k")
    return Engine(load(ModelSpec("stories", "local", str(folder), device="cpu")), "float32")


def test_finest_level_keeps_a_trained_models_choices(trained):
    story = list(trained.answer(trained.prefill([1]), [400], 220))
    caches = [trained.prefill([1, *story[:120]])]
    codec = Codec(build_profile(lambda: caches, FINEST))
    decoded = codec.decode(codec.encode(caches[0], 0))
    rest = story[120:]
    clean, coded = (trained.logits_after(kv, rest, len(rest)) for kv in (caches[0], decoded))
    assert (clean.argmax(-1) == coded.argmax(-1)).float().mean() >= 0.99


def test_codec_on_a_trained_model(trained):
    story = list(trained.answer(trained.prefill([1]), [400], 200))
    context = trained.context([1, *story[:150]], (), story[150:])
    sample = [trained.context([1, *trained.answer(trained.prefill([1]), [first], 100)]) for first in (300, 350, 420)]
    eight_bit = METHODS.create("quantisation_8bit").prepare(trained, [])
    reference = sum(map(len, eight_bit.encode(context, 0)))
    for name in ("cachegen", "cachegen_tuned"):
        codec = METHODS.create(name).prepare(trained, sample)
        best = len(codec.levels) - 1
        chunks = codec.encode(context, best)
        assert sum(map(len, chunks)) < reference
        scores = [trained.logits_after(kv, context.question, 20) for kv in (context.kv, codec.decode(chunks))]
        assert kl_divergence(*scores) < 0.1


def test_attention_within_adds_up_by_hand(engine):
    ids = tokens(12)
    score_LHT = engine.attention_within(ids)
    assert score_LHT.shape == (4, 2, 12)
    assert torch.isinf(score_LHT[..., -1]).all()
    # Every query but the first gives one unit to itself and those before it; what tokens get from others is below that.
    received = (score_LHT[..., :-1] * torch.arange(11, 0, -1)).sum(-1)
    assert float(received.max()) <= 2 * 11 + 1e-4
    assert float(received.min()) > 0
    # The last but one token is seen by one later token only, as one probability per query head.
    assert float(score_LHT[..., -2].max()) <= 2
