"""A model that prefills contexts, continues from KV caches, and says what the baselines want to know about it.

Shape legend: L layers, H kv heads, G query heads per kv head, T context tokens, Q question tokens, V vocabulary, n tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cachegen.api import Context
from common.data.items import QAItem
from common.errors import ConfigError
from common.kv import KVCache, from_transformers, to_transformers
from common.models import prompt_format
from common.models.loading import LoadedModel


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """Runs one model on one sequence at a time.

    Attributes:
        loaded: the model.
        kv_dtype: in which caches are stored and handed to codecs: "float16" or "bfloat16". Answers from the uncompressed
            cache are answers from this one.
    """

    loaded: LoadedModel
    kv_dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.kv_dtype not in ("float16", "bfloat16", "float32"):
            raise ConfigError(f"kv_dtype={self.kv_dtype!r} is not one of float16, bfloat16, float32.")

    # -------------------------------------------------------------------------------------------------------- contexts

    def context_of(self, item: QAItem) -> Context:
        """The context of an item: BOS and its chunks, prefilled in one piece."""
        tokenizer = self.loaded.tokenizer
        if tokenizer is None:
            raise ConfigError(
                "this model has no tokenizer, so it cannot read text; use model=small or another trained one."
            )
        question = tuple(prompt_format.encode_question(tokenizer, item.question))
        return self.context(self.ids_of(item.chunks), item.chunks, question)

    def context(self, ids: Sequence[int], passages: Sequence[str] = (), question: Sequence[int] = ()) -> Context:
        """A context of token ids."""
        kv = self.prefill(ids)
        return Context(tuple(ids), self.stored(kv), tuple(passages), tuple(question))

    def ids_of(self, passages: Sequence[str]) -> tuple[int, ...]:
        """Token ids of a context, BOS included."""
        tokenizer = self.loaded.tokenizer
        opening = prompt_format.bos_id(tokenizer)
        ids = [] if opening is None else [opening]
        for passage in passages:
            ids += prompt_format.encode_chunk(tokenizer, passage)
        return tuple(ids)

    def stored(self, kv: KVCache) -> KVCache:
        """A cache in the dtype in which caches are stored."""
        return kv.to(dtype=getattr(torch, self.kv_dtype))

    # ------------------------------------------------------------------------------------------------------- computing

    @torch.no_grad()
    def prefill(self, ids: Sequence[int], past: KVCache | None = None) -> KVCache:
        """The cache of `past` followed by `ids`; attention sees all of it. The past is copied as it is, errors included.

        Raises:
            ConfigError: no tokens, or more than the model has positions.
        """
        _, cache, positions_T = self._forward(ids, past, 1)
        kv = from_transformers(cache)
        return KVCache(kv.keys_LHTD, kv.values_LHTD, positions_T)

    @torch.no_grad()
    def logits_after(self, past: KVCache, ids: Sequence[int], last: int) -> Tensor:
        """Scores over the vocabulary after each of the last `last` tokens of `ids`, (last, V), float32."""
        logits_TV, _, _ = self._forward(ids, past, last)
        return logits_TV

    @torch.no_grad()
    def answer(self, past: KVCache, question: Sequence[int], max_tokens: int) -> tuple[int, ...]:
        """Greedy answer to a question about a context; ends before the end token or after `max_tokens`."""
        end = prompt_format.eos_id(self.loaded.tokenizer) if self.loaded.tokenizer is not None else None
        logits_TV, cache, positions_T = self._forward(question, past, 1)
        position = int(positions_T[-1])
        found: list[int] = []
        while len(found) < max_tokens:
            token = int(logits_TV[-1].argmax())
            if token == end:
                break
            found.append(token)
            if len(found) < max_tokens:
                position += 1
                logits_TV = self._step([token], cache, torch.tensor([position]), 1)
        return tuple(found)

    def _forward(self, ids: Sequence[int], past: KVCache | None, last: int) -> tuple[Tensor, Any, Tensor]:
        from transformers import DynamicCache

        if not ids:
            raise ConfigError("there are no tokens to compute.")
        start = past.next_position if past is not None else 0
        if start + len(ids) > self.loaded.config.max_position_embeddings:
            raise ConfigError(
                f"{start + len(ids)} tokens are more than the model's {self.loaded.config.max_position_embeddings} positions."
            )
        cache = DynamicCache()
        before_T = torch.zeros(0, dtype=torch.int64)
        if past is not None and past.num_tokens:
            cache = to_transformers(past.to(device=self.loaded.device, dtype=self.loaded.dtype))
            before_T = past.positions_T
        new_T = torch.arange(start, start + len(ids))
        return self._step(ids, cache, new_T, last), cache, torch.cat([before_T, new_T])

    def _step(self, ids: Sequence[int], cache: Any, positions_T: Tensor, last: int) -> Tensor:
        device = self.loaded.device
        # Explicit positions: a cache that lost tokens is shorter than the place where the question stands.
        out = self.loaded.model(
            input_ids=torch.tensor([list(ids)], device=device),
            past_key_values=cache,
            position_ids=positions_T[None].to(device),
            use_cache=True,
            logits_to_keep=last,
        )
        logits_TV: Tensor = out.logits[0].float()
        return logits_TV

    # -------------------------------------------------------------------------------------- what the baselines look at

    @torch.no_grad()
    def attention_to_context(self, past: KVCache, question: Sequence[int]) -> Tensor:
        """Attention probability that the question's tokens give to each context token: summed over them and over the query heads
        of a kv head, (L, H, T) float32 (H2O's score, idealised: the query is known)."""
        model = self.loaded.model
        before = model.config._attn_implementation
        cache = to_transformers(past.to(device=self.loaded.device, dtype=self.loaded.dtype))
        start = past.next_position
        try:
            model.set_attn_implementation("eager")  # the fused kernels do not return probabilities
            out = model(
                input_ids=torch.tensor([list(question)], device=self.loaded.device),
                past_key_values=cache,
                position_ids=torch.arange(start, start + len(question), device=self.loaded.device)[None],
                output_attentions=True,
            )
        finally:
            model.set_attn_implementation(before)
        num_heads, num_tokens = past.num_heads, past.num_tokens
        scores = []
        for layer_1HQT in out.attentions:
            given_HT = layer_1HQT[0, :, :, :num_tokens].sum(dim=1)
            scores.append(given_HT.view(num_heads, -1, num_tokens).sum(dim=1).float().cpu())
        return torch.stack(scores)

    @torch.no_grad()
    def attention_within(self, ids: Sequence[int]) -> Tensor:
        """Attention probability that each token of a context receives from the context itself, summed over the tokens after it
        and divided by their number, (L, H, T) float32 (Scissorhands' score); infinite for the last token.
        """
        model = self.loaded.model
        before = model.config._attn_implementation
        try:
            model.set_attn_implementation("eager")
            out = model(input_ids=torch.tensor([list(ids)], device=self.loaded.device), output_attentions=True)
        finally:
            model.set_attn_implementation(before)
        num_heads, num_tokens = int(self.loaded.config.num_key_value_heads), len(ids)
        later_T = torch.arange(num_tokens - 1, -1, -1).float()
        scores = []
        for layer_1HTT in out.attentions:
            probability_HTT = layer_1HTT[0].float().cpu()
            given_HT = probability_HTT.sum(dim=1) - probability_HTT.diagonal(dim1=1, dim2=2)
            scores.append(given_HT.view(num_heads, -1, num_tokens).sum(dim=1) / later_T)
        score_LHT = torch.stack(scores)
        score_LHT[..., -1] = torch.inf
        return score_LHT

    @torch.no_grad()
    def self_information(self, ids: Sequence[int]) -> Tensor:
        """-log p of each token given those before it, (T,) float32 in nat; infinite for the first, which is never dropped."""
        out = self.loaded.model(input_ids=torch.tensor([list(ids)], device=self.loaded.device), use_cache=False)
        logprob_TV = out.logits[0].float().log_softmax(-1).cpu()
        own_T = -logprob_TV[:-1].gather(1, torch.tensor(list(ids[1:]))[:, None])[:, 0]
        return torch.cat([torch.tensor([torch.inf]), own_T])
