"""The front end for users: text in, text and report out."""

import logging

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cacheblend.blend import BlendPlan
from cacheblend.generate import BlendedModel
from common.errors import ConfigError, DataUnavailable
from common.models.loading import ModelSpec, load, wrap

WORDS = [
    "[INST]",
    "[/INST]",
    "one",
    "two",
    "three",
    "four",
    "five",
    "Question",
    "Answer",
    ":",
    "who",
    "?",
    ".",
    "be",
    "brief",
]
TEMPLATE = "{{ bos_token }}[INST] {{ messages[0]['content'] }} [/INST]"


def tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<s>", "</s>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["[INST]", "[/INST]"],
    )
    made.chat_template = template
    return made


@pytest.fixture(params=[None, TEMPLATE], ids=["plain", "chat"])
def reader(request):
    made = tokenizer(request.param)
    config = LlamaConfig(
        vocab_size=len(made),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        bos_token_id=0,
        eos_token_id=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(1)
        return wrap(LlamaForCausalLM(config).double(), made)


CHUNKS = ["one two three .", "four five .", "three one ."]


def test_recomputing_everything_answers_as_the_plain_model(reader) -> None:
    blended = BlendedModel(reader, BlendPlan(1.0), system="be brief .")
    answer = blended.generate(CHUNKS, "who ?", max_new_tokens=6)
    chat = reader.tokenizer.chat_template is not None
    head, tail = ("[INST] ", " [/INST]") if chat else ("", "")
    prompt = f"<s> {head}be brief . {' '.join(CHUNKS)} Question: who ? Answer:{tail}"
    ids = reader.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    out = reader.model.generate(**ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
    generated = out[0, ids["input_ids"].shape[1] :].tolist()
    if 1 in generated:
        generated = generated[: generated.index(1)]
    assert list(answer.ids) == generated
    assert answer.text == reader.tokenizer.decode(generated, skip_special_tokens=True).strip()


def test_reuse_is_reported_and_missing_reuse_is_loud(reader, caplog) -> None:
    blended = BlendedModel(reader)
    with caplog.at_level(logging.WARNING, logger="cacheblend"):
        first = blended.generate(CHUNKS, "who ?", max_new_tokens=2)
    assert first.report.missed_chunks == 3
    assert "none of the 3 chunks" in caplog.text
    caplog.clear()
    again = blended.generate(CHUNKS[::-1], "who ?", max_new_tokens=2)
    assert again.report.missed_chunks == 0
    assert not caplog.text
    assert again.report.recomputed_share < 1
    assert blended.precompute([*CHUNKS, "five five ."]) == 1


def test_what_cannot_be_done_is_said(reader) -> None:
    with pytest.raises(ConfigError, match="question is empty"):
        BlendedModel(reader).generate(CHUNKS, "  ")
    for refused in (
        lambda: BlendedModel(reader).generate("one two .", "?"),
        lambda: BlendedModel(reader).precompute("one"),
    ):
        with pytest.raises(ConfigError, match="is one text; give a list"):
            refused()
    with pytest.raises(ConfigError, match="tokenizer"):
        BlendedModel(load(ModelSpec("random_tiny", "random", device="cpu")))


def test_answers_end_at_the_models_last_position(reader) -> None:
    blended = BlendedModel(reader)
    blended.engine._stop_ids = frozenset()
    prompt = blended.generate(["one two three"], "who ?", max_new_tokens=1).report.prompt_tokens
    blended.engine.transformer.max_positions = prompt + 3
    # Three are fed back; the fourth comes from the last position.
    assert len(blended.generate(["one two three"], "who ?", max_new_tokens=5000).ids) == 4
    for wrong in (0, -1):
        with pytest.raises(ConfigError, match=f"max_new_tokens={wrong} must be at least 1"):
            blended.generate(["one"], "who ?", max_new_tokens=wrong)
    with pytest.raises(ConfigError, match="chunks hold 3; give a list of texts"):
        blended.generate([3], "who ?")


def test_a_model_that_is_nowhere_is_one_line(monkeypatch) -> None:
    def no_hub(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", no_hub)
    with pytest.raises(DataUnavailable, match="somebody/nothing"):
        BlendedModel.from_pretrained("somebody/nothing", device="cpu")


def test_a_folder_is_loaded(reader, tmp_path) -> None:
    reader.model.save_pretrained(tmp_path)
    reader.tokenizer.save_pretrained(tmp_path)
    loaded = BlendedModel.from_pretrained(str(tmp_path), dtype="float64", device="cpu")
    expected = BlendedModel(reader).generate(CHUNKS, "who ?", max_new_tokens=4)
    assert loaded.generate(CHUNKS, "who ?", max_new_tokens=4).ids == expected.ids
