"""The one prompt layout of the repository: chunks, then a question, then the answer.

With the bundled tokenizer:

    <bos>  chunk <sep>  chunk <sep> ...  <question> question <answer>   answer <eos>

With any other tokenizer (a hub model's), plain text takes the place of the markers: chunks end with a blank line, the question
is `Question: ...` and a line `Answer:`. Every piece is tokenised alone and the pieces are joined as ids, so a chunk's ids are
the same wherever it stands; that is what reuse of its KV cache rests on.
"""

from collections.abc import Sequence
from typing import Any

from common.errors import ConfigError

PAD, BOS, EOS, SEP, QUESTION, ANSWER = "<pad>", "<bos>", "<eos>", "<sep>", "<question>", "<answer>"
SPECIAL_TOKENS = (PAD, BOS, EOS, SEP, QUESTION, ANSWER)


def has_markers(tokenizer: Any) -> bool:
    """Whether the tokenizer knows our markers as special tokens (the bundled one does)."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    ids = [tokenizer.convert_tokens_to_ids(marker) for marker in (SEP, QUESTION, ANSWER)]
    return all(i is not None and i != unknown for i in ids)


def bos_id(tokenizer: Any) -> int | None:
    """Id of the token that opens a prompt, or None where the tokenizer has none."""
    return None if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)


def eos_id(tokenizer: Any) -> int:
    """Id of the token that ends an answer.

    Raises:
        ConfigError: the tokenizer has no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "this tokenizer has no end-of-sequence token, so an answer could not end; set tokenizer.eos_token."
        )
    return int(tokenizer.eos_token_id)


def _plain(tokenizer: Any, text: str) -> list[int]:
    # split_special_tokens: a chunk that spells "<sep>" is text, not a marker.
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def _worded(tokenizer: Any, text: str) -> list[int]:
    """Ids of text in the bundled tokenizer. The leading space makes a word the same token at the start as inside."""
    return _plain(tokenizer, " " + text.strip()) if text.strip() else []


def encode_chunk(tokenizer: Any, text: str) -> list[int]:
    """Ids of one chunk with its closing separator, without BOS; the same ids in every prompt."""
    if has_markers(tokenizer):
        return [*_worded(tokenizer, text), int(tokenizer.convert_tokens_to_ids(SEP))]
    return _plain(tokenizer, text.strip() + "\n\n")


def encode_question(tokenizer: Any, text: str) -> list[int]:
    """Ids of the question with its markers; the model's next token is the first of the answer."""
    if has_markers(tokenizer):
        question, answer = (int(tokenizer.convert_tokens_to_ids(marker)) for marker in (QUESTION, ANSWER))
        return [question, *_worded(tokenizer, text), answer]
    return _plain(tokenizer, f"Question: {text.strip()}\nAnswer:")


def encode_answer(tokenizer: Any, text: str) -> list[int]:
    """Ids of an answer with its end token, as a training target or to score a given answer."""
    return [*_worded(tokenizer, text), eos_id(tokenizer)]


_PLACEHOLDER = "\ue000"  # a private-use character: no template and no text contains it


def has_chat_template(tokenizer: Any) -> bool:
    """Whether prompts are wrapped in the tokenizer's chat template; with our markers they never are."""
    return not has_markers(tokenizer) and bool(getattr(tokenizer, "chat_template", None))


def encode_template(tokenizer: Any, opening: str) -> tuple[list[int], list[int]]:
    """Ids of a user turn of the chat template: up to the chunks, without BOS, and what follows the question.

    Args:
        tokenizer: one for which `has_chat_template` is true.
        opening: the turn's first paragraph, an instruction or a system prompt; empty for none.
    """
    content = f"{opening}\n\n{_PLACEHOLDER}" if opening else _PLACEHOLDER
    whole = str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
    )
    before, _, after = whole.partition(_PLACEHOLDER)
    if tokenizer.bos_token is not None:
        before = before.removeprefix(tokenizer.bos_token)  # whoever builds the prompt puts it in front
    return _templated(tokenizer, before), _templated(tokenizer, after)


def _templated(tokenizer: Any, text: str) -> list[int]:
    """Ids of a part of a template: markers like [INST] are special tokens here, unlike in chunks."""
    return list(tokenizer.encode(text, add_special_tokens=False)) if text else []


def encode_prompt(tokenizer: Any, chunks: Sequence[str], question: str) -> list[int]:
    """Ids of the whole prompt: BOS where there is one, every chunk, the question."""
    opening = bos_id(tokenizer)
    ids = [] if opening is None else [opening]
    for chunk in chunks:
        ids += encode_chunk(tokenizer, chunk)
    return ids + encode_question(tokenizer, question)


def decode_answer(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of generated ids up to the end token, stripped."""
    end = eos_id(tokenizer)
    kept = list(ids)
    if end in kept:
        kept = kept[: kept.index(end)]
    return str(tokenizer.decode(kept, skip_special_tokens=True)).strip()
