"""The tokenizer and the prompt layout."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.synthetic import FAMILIES, generate, words
from common.errors import ConfigError
from common.models import prompt_format
from common.models.gates import BUNDLED


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BUNDLED / "small")


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.convert_tokens_to_ids(t) for t in prompt_format.SPECIAL_TOKENS} & set(ids)


def test_every_name_and_number_is_one_token(tokenizer):
    entries = [w for name, group in vars(words).items() if name.isupper() for w in group]
    entries += [str(number) for number in range(1, 100)]
    assert [w for w in entries if len(tokenizer.encode(" " + w, add_special_tokens=False)) != 1] == []


def test_layout_with_markers(tokenizer):
    t = tokenizer.convert_tokens_to_ids
    chunk = prompt_format.encode_chunk(tokenizer, "Anna likes chess.")
    question = prompt_format.encode_question(tokenizer, "What does Anna like?")
    assert chunk[-1] == t(prompt_format.SEP)
    assert (question[0], question[-1]) == (t(prompt_format.QUESTION), t(prompt_format.ANSWER))
    prompt = prompt_format.encode_prompt(tokenizer, ["Anna likes chess."] * 2, "What does Anna like?")
    assert prompt == [prompt_format.bos_id(tokenizer), *chunk, *chunk, *question]
    # The same word is the same token at the start of a chunk and inside it.
    assert chunk[0] == prompt_format.encode_chunk(tokenizer, "The manager is Anna")[-2]
    assert prompt_format.encode_answer(tokenizer, "chess")[-1] == prompt_format.eos_id(tokenizer)
    assert (
        prompt_format.decode_answer(tokenizer, [*prompt_format.encode_answer(tokenizer, "two words"), 7, 8])
        == "two words"
    )


def test_markers_spelled_in_a_text_stay_text(tokenizer):
    ids = prompt_format.encode_chunk(tokenizer, "He wrote <sep> and <answer> here.")
    special = {tokenizer.convert_tokens_to_ids(t) for t in prompt_format.SPECIAL_TOKENS}
    assert special & set(ids[:-1]) == set()


def test_an_empty_chunk_is_its_separator(tokenizer):
    assert prompt_format.encode_chunk(tokenizer, "  ") == [tokenizer.convert_tokens_to_ids(prompt_format.SEP)]


def _foreign_tokenizer(**special):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate([*alphabet, "</s>", "<s>"])}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def test_a_foreign_tokenizer_gets_plain_text():
    foreign = _foreign_tokenizer(eos_token="</s>")
    assert not prompt_format.has_markers(foreign)
    ids = prompt_format.encode_prompt(foreign, ["One.", "Two."], "What?")
    assert foreign.decode(ids) == "One.\n\nTwo.\n\nQuestion: What?\nAnswer:"
    assert prompt_format.bos_id(foreign) is None
    with pytest.raises(ConfigError, match="end-of-sequence"):
        prompt_format.eos_id(_foreign_tokenizer())


def test_a_chat_template_is_split_around_chunks_and_question():
    foreign = _foreign_tokenizer(eos_token="</s>", bos_token="<s>")
    assert not prompt_format.has_chat_template(foreign)
    foreign.chat_template = "{{ bos_token }}[U]{{ messages[0]['content'] }}[A]"
    assert prompt_format.has_chat_template(foreign)
    before, after = prompt_format.encode_template(foreign, "Be brief.")
    # BOS is left to whoever builds the prompt.
    assert (foreign.decode(before), foreign.decode(after)) == ("[U]Be brief.\n\n", "[A]")
    assert [foreign.decode(ids) for ids in prompt_format.encode_template(foreign, "")] == ["[U]", "[A]"]


def test_the_bundled_tokenizer_has_no_template(tokenizer):
    assert not prompt_format.has_chat_template(tokenizer)


def test_training_encodes_as_prompts_do(tokenizer):
    """Training goes word by word through a cache; it must give the very ids that prompts have."""
    from common.models.training_data import Encoder

    encoder = Encoder(tokenizer)
    for family in FAMILIES:
        for item in generate(family, "test", 0, 5):
            for chunk in item.chunks:
                assert [*encoder.text(chunk), encoder.sep] == prompt_format.encode_chunk(tokenizer, chunk)
