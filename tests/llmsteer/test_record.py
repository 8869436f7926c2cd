"""The steering record: saved, loaded, refused; and `with steer(...)`."""

import dataclasses
import json

import pytest
import torch

from common.errors import ConfigError, CorruptBitstream, DataUnavailable
from llmsteer.attention import LayerSteering, Session, active, gains
from llmsteer.record import SteeringRecord, hash_ids, model_fingerprint
from llmsteer.steering import steer
from tests.llmsteer.tiny_models import build

PREFIX = (1, 10, 11, 12)
CONTEXT = tuple((37 * i + 11) % 190 + 5 for i in range(30))
QUERY = (50, 51, 52)
TOKENS = torch.tensor([2, 9, 20])


def record_for(model, **changes):
    made = SteeringRecord(
        model_fingerprint(model),
        "float32",
        hash_ids(PREFIX),
        hash_ids(CONTEXT),
        len(PREFIX),
        len(CONTEXT),
        {0: TOKENS, 1: torch.zeros(0, dtype=torch.int64), 2: TOKENS},
        {0: (1, 3), 2: (0,)},
        6.0,
        settings={"method": "LLMSteer", "k": 64},
    )
    return dataclasses.replace(made, **changes)


def ids(*parts):
    return torch.tensor([[token for part in parts for token in part]])


def test_save_and_load(models, tmp_path):
    record = record_for(models("llama_gqa"))
    record.save(tmp_path / "here")
    loaded = SteeringRecord.load(tmp_path / "here")
    assert loaded.digest() == record.digest()
    assert {layer: tokens.tolist() for layer, tokens in loaded.layers.items()} == {0: [2, 9, 20], 1: [], 2: [2, 9, 20]}
    assert loaded.heads == {0: (1, 3), 2: (0,)}
    assert loaded.settings == {"method": "LLMSteer", "k": 64}
    other = dataclasses.replace(record, alpha=7.0)
    assert other.digest() != record.digest()


def test_damaged_records_are_refused(models, tmp_path):
    with pytest.raises(DataUnavailable, match="prepare"):
        SteeringRecord.load(tmp_path)
    record_for(models("llama_gqa")).save(tmp_path)
    data = (tmp_path / "record.safetensors").read_bytes()
    (tmp_path / "record.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptBitstream, match="does not belong"):
        SteeringRecord.load(tmp_path)
    (tmp_path / "record.safetensors").write_bytes(data)
    plain = json.loads((tmp_path / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps({**plain, "format": "other"}))
    with pytest.raises(CorruptBitstream, match="format"):
        SteeringRecord.load(tmp_path)
    del plain["alpha"]
    (tmp_path / "record.json").write_text(json.dumps(plain))
    with pytest.raises(CorruptBitstream, match="alpha"):
        SteeringRecord.load(tmp_path)
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(CorruptBitstream, match="JSON"):
        SteeringRecord.load(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [{"alpha": 0.0}, {"apply": "never"}, {"layers": {0: torch.tensor([3, 1])}}, {"layers": {0: torch.tensor([30])}}],
)
def test_impossible_records_are_refused(models, wrong):
    with pytest.raises(ConfigError):
        record_for(models("llama_gqa"), **wrong)


def test_the_fingerprint_sees_weights_dtype_and_shape(models):
    one = build("llama_gqa")
    assert model_fingerprint(one) == model_fingerprint(models("llama_gqa"))
    assert model_fingerprint(one) != model_fingerprint(build("llama_gqa", seed=1))
    assert model_fingerprint(one) != model_fingerprint(build("llama_gqa", torch.float64))
    before = model_fingerprint(one)
    one.set_attn_implementation("eager")
    assert model_fingerprint(one) == before


def test_steer_refuses_another_model_dtype_prompt_and_context(models):
    model = models("llama_gqa")
    record = record_for(model)
    with pytest.raises(ConfigError, match="made for model"), steer(models("llama_mha"), record):
        pass
    with pytest.raises(ConfigError, match="made for float32"), steer(models("llama_gqa", torch.float64), record):
        pass
    swapped = (*CONTEXT[:-1], CONTEXT[-1] + 1)
    for prompt, message in (
        (ids((1, 10, 99, 12), CONTEXT), "instruction"),
        (ids((1, 10, 11, 12, 13), CONTEXT), "instruction|context"),
        (ids(PREFIX, swapped, QUERY), "another context"),
    ):
        with pytest.raises(ConfigError, match=message), steer(model, record):
            model(prompt)
    with pytest.raises(ConfigError, match="input_ids"), steer(model, record):
        model(inputs_embeds=torch.zeros(1, 4, 64))
    too_short = "has read 20 tokens; this steering record is for a prompt whose first 34"
    with pytest.raises(ConfigError, match=too_short), steer(model, record):
        model(ids(PREFIX, CONTEXT[:16]))
    with steer(model, record):
        # In parts, as long as all of them come.
        cache = model(ids(PREFIX, CONTEXT[:16])).past_key_values
        model(ids(CONTEXT[16:], QUERY), past_key_values=cache)
    model(ids(QUERY))  # nothing is left behind


def test_steering_generate_equals_steering_every_step(models):
    model = models("llama_gqa")
    record = record_for(model)
    prompt = ids(PREFIX, CONTEXT, QUERY)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with steer(model, record):
        got = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    session = Session()
    layers = {
        layer: LayerSteering(TOKENS + len(PREFIX), gains(heads, 4, 6.0), session, route="eager")
        for layer, heads in record.heads.items()
    }
    want = prompt
    with active(model, layers):
        for _ in range(8):
            want = torch.cat([want, model(want, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert got.tolist() == want.tolist()
    plain = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    assert got.tolist() != plain.tolist()  # else this test would show nothing


@pytest.mark.parametrize("route", ["bias", "channel", "eager"])
def test_a_sliding_window_cache_is_steered_at_the_right_tokens(models, route):
    # `generate` keeps the last 15 keys of each layer: key 0 of a later step is not token 0. Tokens 26 and 28 stay in sight.
    model = models("mistral_window")
    record = record_for(model, layers={layer: torch.tensor([2, 20, 22, 24]) for layer in range(3)})
    prompt = ids(PREFIX, CONTEXT, QUERY)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = []
    for use_cache in (True, False):
        with steer(model, record, route=route):
            mask = torch.ones_like(prompt)
            found.append(model.generate(prompt, attention_mask=mask, use_cache=use_cache, **options).tolist())
    assert found[0] == found[1]
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), prompt], 1)
    with steer(model, record, route=route):
        got = model.generate(padded, attention_mask=(torch.arange(padded.shape[1]) >= 3).long()[None], **options)
    assert got[0, 3:].tolist() == found[0][0]


def test_a_padded_batch_is_steered_row_by_row(models):
    model = models("qwen2")
    record = record_for(model)
    short, long = [*PREFIX, *CONTEXT, *QUERY], [*PREFIX, *CONTEXT, *QUERY, 60, 61, 62]
    batch = torch.tensor([[0, 0, 0, *short], long])
    mask = (torch.arange(len(long))[None] >= torch.tensor([[3], [0]])).long()
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with steer(model, record):
        got = model.generate(batch, attention_mask=mask, **options)
    for row, own in enumerate((short, long)):
        with steer(model, record):
            alone = model.generate(torch.tensor([own]), attention_mask=torch.ones(1, len(own)).long(), **options)
        assert got[row, -5:].tolist() == alone[0, -5:].tolist()
    right = torch.tensor([[*short, 0, 0, 0], long])
    with pytest.raises(ConfigError, match="left"), steer(model, record):
        model(right, attention_mask=mask.flip(1))


def test_bias_of_a_record_by_hand(models):
    record = record_for(models("llama_gqa"))
    bias = record.bias(0, 40, 4, torch.float64)
    assert bias.shape == (1, 4, 1, 40)
    assert sorted({(int(h), int(t)) for _, h, _, t in bias.nonzero()}) == [(h, t) for h in (1, 3) for t in (6, 13, 24)]
    torch.testing.assert_close(bias.max(), torch.tensor(6.0, dtype=torch.float64).log())
    assert not record.bias(1, 40, 4, torch.float32).any()
