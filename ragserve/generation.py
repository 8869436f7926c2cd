"""Greedy generation of many calls at once with a transformers model; one call's answer does not depend on the others.

    calls --sorted by length--> batches, right-padded --prefill--> decode step by step; finished rows leave the batch

B rows, T tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

from common.errors import ConfigError
from common.models.loading import LoadedModel
from common.serving.api import Answer, Call


def generate(
    loaded: LoadedModel,
    calls: Sequence[Call],
    batch_tokens: int = 8192,
    on_batch: Callable[[int], None] | None = None,
) -> list[Answer]:
    """The greedy answer to each call, with the log-probability of every token.

    Args:
        loaded: the model.
        calls: prompts; each ends after `max_tokens` or one of its stop tokens, which is kept.
        batch_tokens: rows are batched until rows x longest (prompt and answer) exceeds this.
        on_batch: called with the number of calls done after each batch.

    Raises:
        ConfigError: a call exceeds the model's context.
    """
    limit = int(loaded.config.max_position_embeddings)
    for call in calls:
        if len(call.prompt_ids) + call.max_tokens > limit:
            raise ConfigError(
                f"call {call.tag!r}: {len(call.prompt_ids)} prompt + {call.max_tokens} answer tokens exceed the "
                f"model's context of "
                f"{limit}."
            )
    answers: list[Answer | None] = [None] * len(calls)
    order = sorted(range(len(calls)), key=lambda i: (len(calls[i].prompt_ids), calls[i].max_tokens))
    start = 0
    while start < len(order):
        stop, longest = start, 0
        while stop < len(order):
            call = calls[order[stop]]
            longest = max(longest, len(call.prompt_ids) + call.max_tokens)
            if stop > start and longest * (stop + 1 - start) > batch_tokens:
                break
            stop += 1
        batch = order[start:stop]
        for index, answer in zip(batch, _generate_batch(loaded, [calls[i] for i in batch]), strict=True):
            answers[index] = answer
        start = stop
        if on_batch is not None:
            on_batch(start)
    return [answer for answer in answers if answer is not None]


def _generate_batch(loaded: LoadedModel, calls: Sequence[Call]) -> list[Answer]:
    import torch
    from transformers import DynamicCache

    device = loaded.device
    longest = max(len(call.prompt_ids) for call in calls)
    lengths = torch.tensor([len(call.prompt_ids) for call in calls], device=device)
    is_padded = bool((lengths != longest).any())
    # Padded behind the prompt: no prompt token attends to what follows it, so that prefill needs no mask, which is the faster
    # attention. Decoding masks the gap between a prompt's end and the tokens generated.
    ids_BT = torch.tensor(
        [list(call.prompt_ids) + [0] * (longest - len(call.prompt_ids)) for call in calls], device=device
    )
    mask_BT = (torch.arange(longest, device=device)[None] < lengths[:, None]).long()
    cache: Any = DynamicCache()
    found: list[list[int]] = [[] for _ in calls]
    scores: list[list[float]] = [[] for _ in calls]
    rows = list(range(len(calls)))
    next_B = lengths.clone()
    with torch.no_grad():
        ends, end_B = torch.unique(lengths - 1, return_inverse=True)
        out = loaded.model(
            input_ids=ids_BT,
            position_ids=torch.arange(longest, device=device).expand(len(calls), longest),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=ends,
        )
        logits_BV = out.logits[torch.arange(len(calls), device=device), end_B]
        while True:
            logprob_BV = logits_BV.float().log_softmax(-1)
            best_B = logprob_BV.argmax(-1)
            value_B = logprob_BV.gather(1, best_B[:, None])[:, 0]
            keep = []
            for place, (row, token, value) in enumerate(zip(rows, best_B.tolist(), value_B.tolist(), strict=True)):
                found[row].append(token)
                scores[row].append(value)
                if token not in calls[row].stop_ids and len(found[row]) < calls[row].max_tokens:
                    keep.append(place)
            if not keep:
                break
            if len(keep) < len(rows):
                chosen = torch.tensor(keep, device=device)
                rows = [rows[place] for place in keep]
                best_B, mask_BT, next_B = best_B[chosen], mask_BT[chosen], next_B[chosen]
                cache.batch_select_indices(chosen)
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], 1)
            out = loaded.model(
                input_ids=best_B[:, None],
                attention_mask=mask_BT if is_padded else None,
                position_ids=next_B[:, None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits_BV = out.logits[:, -1]
            next_B = next_B + 1
    return [Answer(tuple(tokens), tuple(values)) for tokens, values in zip(found, scores, strict=True)]
