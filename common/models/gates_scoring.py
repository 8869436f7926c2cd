"""Answers of a model under full prefill, under full reuse of per-chunk KV, and under reuse with some tokens patched.

A plain second implementation, independent of the papers' packages: chunks are prefilled one by one at the positions that they
have in the prompt, which equals caching them anywhere and rotating their keys (RoPE scores depend on distances only).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from common.data.items import QAItem
from common.data.synthetic import Annotated
from common.data.synthetic.scenes import chunk_text
from common.models import prompt_format

# L layers, H kv heads, T tokens, D head dim


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Token ids of one item: BOS, then the chunks, then the question, then the gold answer."""

    bos: int
    chunks: tuple[tuple[int, ...], ...]
    question: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """Position of each chunk's first token; the first is 1, after BOS."""
        starts = [1]
        for chunk in self.chunks:
            starts.append(starts[-1] + len(chunk))
        return tuple(starts[:-1])

    @property
    def context(self) -> list[int]:
        """BOS and all chunks."""
        return [self.bos, *(i for chunk in self.chunks for i in chunk)]


def prompt_of(tokenizer: Any, item: QAItem) -> Prompt:
    """Tokenise an item, every piece alone."""
    bos = prompt_format.bos_id(tokenizer)
    assert bos is not None
    return Prompt(
        bos,
        tuple(tuple(prompt_format.encode_chunk(tokenizer, chunk)) for chunk in item.chunks),
        tuple(prompt_format.encode_question(tokenizer, item.question)),
        tuple(prompt_format.encode_answer(tokenizer, item.answers[0])),
    )


def answered_right(model: Any, prompts: Sequence[Prompt], batch_tokens: int = 16384) -> list[bool]:
    """Whether greedy decoding after a full prefill gives exactly the gold answer, for each prompt.

    Greedy decoding gives the gold answer if and only if each of its tokens is the likeliest after the ones before it, so one
    forward pass over prompt and answer decides.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].context))
    right = [False] * len(prompts)
    start = 0
    while start < len(order):
        stop, longest = start, 0
        while stop < len(order):
            prompt = prompts[order[stop]]
            longest = max(longest, len(prompt.context) + len(prompt.question) + len(prompt.answer))
            if stop > start and longest * (stop + 1 - start) > batch_tokens:
                break
            stop += 1
        rows = [prompts[i] for i in order[start:stop]]
        ids = [[*row.context, *row.question, *row.answer] for row in rows]
        width = max(map(len, ids))
        # Padding on the right needs no mask: causal attention never looks there.
        batch = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=model.device)
        with torch.no_grad():
            hidden = model.model(batch, use_cache=False).last_hidden_state
            for i, row, tokens, state in zip(order[start:stop], rows, ids, hidden, strict=True):
                first = len(tokens) - len(row.answer)
                guess = model.lm_head(state[first - 1 : len(tokens) - 1]).argmax(-1).tolist()
                right[i] = guess == list(row.answer)
        start = stop
    return right


def rouge_l(model: Any, tokenizer: Any, items: Sequence[QAItem]) -> float:
    """Mean ROUGE-L of greedily generated answers."""
    import torch

    from common.metrics import metric

    score = metric("rouge_l")
    values = []
    for item in items:
        ids = torch.tensor([prompt_format.encode_prompt(tokenizer, item.chunks, item.question)], device=model.device)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=item.max_answer_tokens)
        values.append(score(prompt_format.decode_answer(tokenizer, out[0, ids.shape[1] :].tolist()), item.answers))
    return sum(values) / len(values)


def full_kv(model: Any, prompt: Prompt) -> list[tuple[Any, Any]]:
    """KV of BOS and all chunks by ordinary prefill: for each layer, keys and values (1, H, T, D)."""
    import torch

    with torch.no_grad():
        cache = model.model(torch.tensor([prompt.context], device=model.device), use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


def reused_kv(model: Any, prompt: Prompt, *, with_bos: bool) -> list[tuple[Any, Any]]:
    """KV of BOS and all chunks, each chunk prefilled alone at its position in the prompt; BOS before it, or nothing."""
    import torch

    rows, positions, kept = [], [], []
    for chunk, start in zip(prompt.chunks, prompt.starts, strict=True):
        first = start == 1
        lead = 1 if with_bos or first else 0
        rows.append([prompt.bos] * lead + list(chunk))
        positions.append(start - lead)
        kept.append((0 if first else lead, lead + len(chunk)))  # the prompt's own BOS comes with the first chunk
    width = max(map(len, rows))
    # All chunks at once, padded on the right, where causal attention never looks.
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
    places = torch.tensor(positions, device=model.device)[:, None] + torch.arange(width, device=model.device)
    with torch.no_grad():
        cache = model.model(ids, position_ids=places, use_cache=True).past_key_values
    pieces = [
        [(layer.keys[i : i + 1, :, low:high], layer.values[i : i + 1, :, low:high]) for layer in cache.layers]
        for i, (low, high) in enumerate(kept)
    ]
    return [
        (torch.cat([piece[i][0] for piece in pieces], 2), torch.cat([piece[i][1] for piece in pieces], 2))
        for i in range(len(pieces[0]))
    ]


def patched(
    reused: Sequence[tuple[Any, Any]], full: Sequence[tuple[Any, Any]], positions: Sequence[int]
) -> list[tuple[Any, Any]]:
    """A copy of `reused` whose tokens at these positions come from `full`, at every layer."""
    result = []
    for (keys, values), (full_keys, full_values) in zip(reused, full, strict=True):
        keys, values = keys.clone(), values.clone()
        keys[:, :, list(positions)] = full_keys[:, :, list(positions)]
        values[:, :, list(positions)] = full_values[:, :, list(positions)]
        result.append((keys, values))
    return result


def answer_from(model: Any, prompt: Prompt, kv: Sequence[tuple[Any, Any]]) -> tuple[bool, list[int]]:
    """Whether the gold answer follows from this KV of the context, and the likeliest token at each of its places."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    for i, (keys, values) in enumerate(kv):
        cache.update(keys, values, i)
    ids = [*prompt.question, *prompt.answer]
    num_context = len(prompt.context)
    positions = torch.arange(num_context, num_context + len(ids), device=model.device)[None]
    with torch.no_grad():
        hidden = model.model(
            torch.tensor([ids], device=model.device), past_key_values=cache, position_ids=positions, use_cache=True
        ).last_hidden_state[0]
        guess = model.lm_head(hidden[len(prompt.question) - 1 : -1]).argmax(-1).tolist()
    return guess == list(prompt.answer), guess


def sentence_positions(tokenizer: Any, one: Annotated, prompt: Prompt, chunk: int, sentence: int) -> list[int]:
    """Positions in the prompt of the tokens of one sentence."""

    def length(count: int) -> int:
        text = chunk_text(one.chunks[chunk][:count])
        # encode_chunk closes with the separator, which is not part of the sentence.
        return len(prompt_format.encode_chunk(tokenizer, text)) - 1 if count else 0

    start = prompt.starts[chunk]
    return list(range(start + length(sentence), start + length(sentence + 1)))


def text_loss(model: Any, prompts: Sequence[Prompt], chunk_of: Sequence[int], *, alone: bool) -> float:
    """Mean language-model loss (nats per token) of one chunk per prompt, read alone after BOS or where it stands."""
    import torch

    total, count = 0.0, 0
    for prompt, index in zip(prompts, chunk_of, strict=True):
        chunk = prompt.chunks[index]
        ids = [prompt.bos, *chunk] if alone else prompt.context[: prompt.starts[index] + len(chunk)]
        with torch.no_grad():
            logits = model(torch.tensor([ids], device=model.device)).logits[0]
        losses = torch.nn.functional.cross_entropy(
            logits[-len(chunk) - 1 : -1].float(), torch.tensor(chunk, device=model.device), reduction="sum"
        )
        total += float(losses)
        count += len(chunk)
    return total / count
