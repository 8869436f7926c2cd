"""`with steer(model, record): model.generate(...)`: a record applied to any transformers model of a supported family."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from common.errors import ConfigError
from llmsteer.attention import Session, active, attention_modules
from llmsteer.record import SteeringRecord, model_fingerprint


class _Watch:
    """Looks at every call of the model: how far it is padded, and whether it reads what the record was made for."""

    def __init__(self, record: SteeringRecord, session: Session) -> None:
        self._record, self._session = record, session
        self._seen: list[list[int]] | None = None

    def __call__(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(ids, Tensor):
            raise ConfigError("a steered model must be called with input_ids; embeddings cannot be checked.")
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        self._session.num_tokens = past + ids.shape[1]
        mask = kwargs.get("attention_mask")
        pads = torch.zeros(len(ids), dtype=torch.int64)
        if mask is not None and mask.ndim == 2:
            pads = mask.long().argmax(-1).cpu()
            inside = mask.long().cumsum(-1) > 0
            if bool((inside & (mask == 0)).any()):
                raise ConfigError("padding must stand in front of the prompts (padding_side=left) when steering.")
        self._session.pads_B = pads if bool(pads.any()) else None
        if past == 0:
            self._seen = [[] for _ in range(len(ids))]
        if self._seen is None:  # a cache that was filled before: its ids are gone, its length is not
            end = self._record.prefix_tokens + self._record.context_tokens
            if past < end:
                raise ConfigError(f"the cache holds {past} tokens; this steering record needs its {end} first.")
            return
        end = self._record.prefix_tokens + self._record.context_tokens
        if not self._seen or len(self._seen) != len(ids):
            return
        for row, (known, new) in enumerate(zip(self._seen, ids.tolist(), strict=True)):
            before = len(known)
            wanted = end + int(pads[row])
            if before >= wanted:
                continue
            known.extend(new)
            if len(known) >= wanted:
                self._record.check_prompt(known[int(pads[row]) :])

    def check_end(self) -> None:
        """Raise `ConfigError` if the last prompt ended before its context could be checked."""
        end = self._record.prefix_tokens + self._record.context_tokens
        pads_B = self._session.pads_B
        for row, known in enumerate(self._seen or []):
            num_tokens = len(known) - (int(pads_B[row]) if pads_B is not None and row < len(pads_B) else 0)
            if num_tokens < end:
                raise ConfigError(
                    f"the model has read {num_tokens} tokens; this steering record is for a prompt whose first {end} are its "
                    "instruction and context, so what was computed is not steered as it says."
                )


@contextlib.contextmanager
def steer(model: Any, record: SteeringRecord, *, route: str = "auto") -> Iterator[None]:
    """Steer a model inside the block; outside it is as before.

    Every sequence must begin with the record's prefix and context (left padding allowed): their ids are checked as soon as they
    have all been read; a prompt that ends before is refused when the block is left. A
    cache that was filled outside the block is taken on trust, only its length is checked. Under `apply="kv_only"` a prompt whose
    context is read inside the block is steered up to the end of that call, so fill the cache in the block and ask outside.

    Args:
        model: a transformers causal LM of the Llama, Mistral, Qwen2 or Qwen3 family.
        record: made for exactly this model; see `llmsteer.engine.Engine`.
        route: "auto", "bias", "channel" or "eager"; all compute the same.

    Raises:
        ConfigError: the record was made for another model, dtype, prompt or context; or the model is steered already.
    """
    record.check_model(model_fingerprint(model), str(model.dtype).removeprefix("torch."))
    session = Session()
    num_heads = int(model.config.num_attention_heads)
    layers = record.layer_steering(num_heads, session, route)
    assert len(attention_modules(model)) > max(layers, default=0)
    watch = _Watch(record, session)
    hook = model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        with active(model, layers):
            yield
        watch.check_end()
    finally:
        hook.remove()
