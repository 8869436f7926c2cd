"""A model that reads, caches and answers under steering; what methods and harness call.

    context ids ---+--> read [P1; c], read [P2; c] --> column sums --> selection --> SteeringRecord      offline, once
                   |                                                        |
                   +--> prefill [P1; c] with the bias on  <-----------------+  --> Prepared (KV + record)  offline, once
                                                                            |
    query ids --------> appended to the cached KV, decoded with the bias on +  --> Answer                  online, per query

Shape legend: L layers, N context tokens, V vocabulary.
"""

import contextlib
import dataclasses
import functools
import itertools
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from common.errors import ConfigError
from common.models import prompt_format
from common.models.loading import LoadedModel
from llmsteer.api import Context, ContextItem, SteeringPlan, TokenQuery
from llmsteer.attention import NAME, ColumnSums, LayerSteering, ReadingDone, Session, active
from llmsteer.record import SteeringRecord, hash_ids, model_fingerprint
from llmsteer.selection import Selection, select

# The openings are the paper's two instructions; what follows them is ours, to the same effect (a bare answer).
PROMPTS = (
    "Answer the question based on the given passages. Reply with the answer alone and no further words.",
    "Respond to the query using only the provided texts. Give nothing but the bare response.",
)
_KEPT_READINGS = 8
_SENTENCE = re.compile(r"[^.!?]*[.!?]+\s*|[^.!?]+$")
_NO_TOKENIZER_PREFIX = 16


@dataclasses.dataclass(frozen=True)
class HeadProfile:
    """Which heads are steered, found on held-out contexts; see `llmsteer.profiling`.

    Attributes:
        heads: {layer: heads}.
        alpha: the gain that did best with them.
        base: score without steering.
        layer_scores: {layer: score with all its heads steered}.
        head_scores: {layer: {head: score with it alone steered}}, for the kept layers.
        alpha_scores: {alpha: score of the chosen heads}.
        num_evaluations: how many times the held-out set was answered.
    """

    heads: Mapping[int, tuple[int, ...]]
    alpha: float
    base: float
    layer_scores: Mapping[int, float]
    head_scores: Mapping[int, Mapping[int, float]]
    alpha_scores: Mapping[float, float]
    num_evaluations: int


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A context in the cache: the KV of [prompt; context] and how to read it. Answers leave it as it was.

    Attributes:
        cache: transformers' cache.
        ids: the cached tokens.
        plan: with which it was made.
    """

    cache: Any
    ids: tuple[int, ...]
    plan: SteeringPlan

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values."""
        return sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in self.cache.layers)


@dataclasses.dataclass(frozen=True)
class Answer:
    """A greedily decoded answer.

    Attributes:
        ids: generated tokens, end token excluded.
        text: as text; "" without a tokenizer.
    """

    ids: tuple[int, ...]
    text: str


class Engine:
    """One model. Switches its attention to the function that can be steered; results stay those of SDPA where nothing is steered.

    Args:
        loaded: the model.
        block_rows: rows per block when column sums are taken.
        route: see `llmsteer.attention`.
        profile: which heads methods steer that ask for the profiled ones.

    Attributes:
        tokens_forwarded: tokens run through the model since the start; for accounting.
        generations: sequences decoded since the start.
    """

    def __init__(
        self, loaded: LoadedModel, *, block_rows: int = 256, route: str = "auto", profile: HeadProfile | None = None
    ) -> None:
        self.loaded = loaded
        self.profile = profile
        self.route = route
        self._block_rows = block_rows
        self._model = loaded.model
        if self._model.config._attn_implementation != NAME:
            self._model.set_attn_implementation(NAME)
        self.num_layers = int(loaded.config.num_hidden_layers)
        self.num_heads = int(loaded.config.num_attention_heads)
        self._max_positions = int(loaded.config.max_position_embeddings)
        self.dtype = str(loaded.dtype).removeprefix("torch.")
        self.tokens_forwarded = 0
        self.generations = 0
        self._readings: OrderedDict[tuple[str, str, tuple[int, ...] | None], Tensor] = OrderedDict()
        self._plain: tuple[str, Prepared] | None = None

    @property
    def tokenizer(self) -> Any:
        return self.loaded.tokenizer

    @functools.cached_property
    def fingerprint(self) -> str:
        """`model_fingerprint` of the model."""
        return model_fingerprint(self._model)

    @functools.cached_property
    def eos(self) -> int | None:
        """Id that ends an answer; None: answers take all the tokens they may."""
        return None if self.tokenizer is None else prompt_format.eos_id(self.tokenizer)

    # ------------------------------------------------------------------------------------------------------------ tokens

    def prefix(self, which: int, query: TokenQuery | None = None) -> tuple[int, ...]:
        """Ids in front of the context, BOS and chat template included.

        Args:
            which: 0 for P1, 1 for P2.
            query: put into the prompt as well (query-dependent reading only).
        """
        if self.tokenizer is None:
            # Random weights: any two different prompts of a plausible length will do.
            size = int(self.loaded.config.vocab_size)
            filler = tuple((31 * i + 17 * which + 5) % size for i in range(_NO_TOKENIZER_PREFIX + which))
            return filler + (() if query is None else query.ids)
        text = PROMPTS[which] if query is None else f"{PROMPTS[which]} {query.text}"
        opening = prompt_format.bos_id(self.tokenizer)
        head = () if opening is None else (opening,)
        if prompt_format.has_chat_template(self.tokenizer):
            return (*head, *prompt_format.encode_template(self.tokenizer, text)[0])
        return (*head, *prompt_format.encode_chunk(self.tokenizer, text))

    def question(self, text: str) -> tuple[int, ...]:
        """Ids of a question behind the context, up to the answer."""
        ids = prompt_format.encode_question(self.tokenizer, text)
        after = (
            prompt_format.encode_template(self.tokenizer, "")[1]
            if prompt_format.has_chat_template(self.tokenizer)
            else []
        )
        return (*ids, *after)

    def encode(self, item: ContextItem | Context) -> Context:
        """A context and its queries as token ids, the context tokenised apart from any prompt; a `Context` is passed on.

        Raises:
            ConfigError: text for a model without a tokenizer.
        """
        if isinstance(item, Context):
            return item
        tokenizer = self.tokenizer
        if tokenizer is None:
            raise ConfigError(
                f"model {self.loaded.spec.name!r} has no tokenizer; use workload=random_contexts or another model."
            )
        ids: list[int] = []
        sentences: list[tuple[int, int]] = []
        spans: list[list[tuple[int, int, int]]] = []  # per chunk: (token, first character, last character + 1)
        for chunk in item.chunks:
            chunk_ids, offsets = _encode_with_offsets(tokenizer, chunk)
            base = len(ids)
            ids += chunk_ids
            spans.append([(base + index, *span) for index, span in offsets])
            sentences += _sentence_spans(chunk, offsets, base, len(chunk_ids))
        special = set(tokenizer.all_special_ids)
        texts = {token: tokenizer.decode([token]) for token in set(ids)}
        excluded = frozenset(
            index
            for index, token in enumerate(ids)
            if token in special or not any(letter.isalnum() for letter in texts[token])
        )
        queries = tuple(
            TokenQuery(
                self.question(query.text),
                query.answers,
                query.metric,
                query.max_answer_tokens,
                tuple(
                    sorted(
                        {
                            token
                            for chunk, first, last in query.evidence
                            for token, begin, end in spans[chunk]
                            if begin < last and first < end
                        }
                    )
                ),
                query.text,
            )
            for query in item.queries
        )
        text = "\n\n".join(item.chunks)
        return Context(tuple(ids), queries, tuple(sentences), excluded, item.item_id, item.family, text)

    def decode_text(self, ids: Sequence[int]) -> str:
        """Generated ids as text, "" without a tokenizer."""
        return "" if self.tokenizer is None else prompt_format.decode_answer(self.tokenizer, ids)

    # ----------------------------------------------------------------------------------------------------------- offline

    def read(self, prefix: Sequence[int], context_ids: Sequence[int], layers: Collection[int] | None = None) -> Tensor:
        """One contextual reading: column sums of the context's tokens over all heads and rows, (L, N), float32.

        Rows of the prefix see no context, so the rows counted are those of the context itself. Never builds an N x N matrix. The
        model runs up to the attention of the last layer that is wanted.

        Args:
            layers: which layers, increasing in the result; None: all.
        """
        wanted = range(self.num_layers) if layers is None else layers
        collector = ColumnSums(wanted, self._block_rows, stops=True)
        empty = torch.zeros(0, dtype=torch.int64)
        session = Session()
        reading = {layer: LayerSteering(empty, None, session, collector=collector) for layer in collector.layers}
        with contextlib.suppress(ReadingDone):
            self._run([*prefix, *context_ids], None, reading)
        return collector.stacked()[:, len(prefix) :]

    def readings(
        self, context: Context, query: TokenQuery | None = None, layers: tuple[int, ...] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Readings under P1 and P2, (L, N) each. Without a query they are kept, for the next method that wants them."""
        return self._reading(context, 0, query, layers), self._reading(context, 1, query, layers)

    def _reading(
        self, context: Context, which: int, query: TokenQuery | None, layers: tuple[int, ...] | None
    ) -> Tensor:
        prefix = self.prefix(which, query)
        if query is not None:  # online work: must be done each time, or its time would be a lie
            return self.read(prefix, context.ids, layers)
        key = (hash_ids(prefix), hash_ids(context.ids), layers)
        if key not in self._readings:
            self._readings[key] = self.read(prefix, context.ids, layers)
            while len(self._readings) > _KEPT_READINGS:
                self._readings.popitem(last=False)
        self._readings.move_to_end(key)
        return self._readings[key]

    def select(
        self,
        context: Context,
        how: Selection,
        query: TokenQuery | None = None,
        layers: Collection[int] | None = None,
    ) -> dict[int, Tensor]:
        """The steering set of each layer, relative to the context's start; as many readings as the choice needs.

        Args:
            layers: which layers will be steered, so that no other is read; None: all. A pooled set is made of all layers anyway.
        """
        wanted = tuple(range(self.num_layers)) if layers is None else tuple(sorted(set(layers)))
        if not wanted:
            return {}
        read = None if layers is None or how.sets == "pooled" else wanted
        if how.combine == "pass1":
            first = second = self._reading(context, 0, query, read)
        elif how.combine == "pass2":
            first = second = self._reading(context, 1, query, read)
        else:
            first, second = self.readings(context, query, read)
        shorter = min(len(self.prefix(0, query)), len(self.prefix(1, query)))
        chosen = select(first, second, how, context.excluded, shorter)
        return chosen if read is None else dict(zip(wanted, chosen.values(), strict=True))

    def make_record(
        self,
        context: Context,
        layers: Mapping[int, Tensor],
        heads: Mapping[int, tuple[int, ...]],
        alpha: float,
        *,
        apply: str = "kv_and_live",
        renormalise: bool = True,
        cached_prompt: int = 0,
        query: TokenQuery | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> SteeringRecord:
        """A record for this model and this context behind one of the prompts."""
        prefix = self.prefix(cached_prompt, query)
        return SteeringRecord(
            self.fingerprint,
            self.dtype,
            hash_ids(prefix),
            hash_ids(context.ids),
            len(prefix),
            len(context.ids),
            dict(layers),
            dict(heads),
            float(alpha),
            apply,
            renormalise,
            dict(settings or {}),
        )

    def all_heads(self) -> dict[int, tuple[int, ...]]:
        """Every head of every layer."""
        return {layer: tuple(range(self.num_heads)) for layer in range(self.num_layers)}

    def prepare(self, context: Context, plan: SteeringPlan, query: TokenQuery | None = None) -> Prepared:
        """Prefill [prompt; context] under a plan; the "modified KV cache" of the paper unless the plan applies live only.

        Args:
            query: needed only if the plan's prompt holds the query.

        Raises:
            ConfigError: the plan's record is for another model, prompt or context; or the context is too long for the model.
        """
        ids = (*self.prefix(plan.cached_prompt, query if plan.query_in_prompt else None), *context.ids)
        if plan.record is not None:
            plan.record.check_model(self.fingerprint, self.dtype)
            plan.record.check_prompt(ids)
        cache = DynamicCache()
        self._run(ids, cache, self._layers(plan, "prefill"))
        return Prepared(cache, ids, plan)

    def plain(self, context: Context) -> Prepared:
        """[P1; context] without steering; the last one is kept."""
        key = hash_ids(context.ids)
        if self._plain is None or self._plain[0] != key:
            self._plain = (key, self.prepare(context, SteeringPlan()))
        return self._plain[1]

    # ------------------------------------------------------------------------------------------------------------ online

    def answer(self, prepared: Prepared, query: TokenQuery) -> Answer:
        """Append the query to the cached context and decode greedily. Afterwards the cache is what it was."""
        return self.generate(prepared, query.ids, query.max_answer_tokens)

    def generate(self, prepared: Prepared, ids: Sequence[int], max_tokens: int) -> Answer:
        """Greedy continuation of the cached tokens and `ids`, at most so many tokens long or to the model's last position.

        Raises:
            ConfigError: the cached tokens and `ids` are more than the model has positions.
        """
        layers = self._layers(prepared.plan, "live")
        cache, before = prepared.cache, prepared.cache.get_seq_length()
        self.generations += 1
        found: list[int] = []
        try:
            token = int(self._run(ids, cache, layers).argmax())
            while token != self.eos:
                found.append(token)
                if len(found) >= max_tokens or cache.get_seq_length() >= self._max_positions:
                    break
                token = int(self._run([token], cache, layers).argmax())
        finally:
            added = cache.get_seq_length() - before
            if added:
                cache.crop(-added)
        return Answer(tuple(found), self.decode_text(found))

    def log_likelihood(self, prepared: Prepared, query: TokenQuery, answer_ids: Sequence[int]) -> float:
        """Mean log-probability, in nat, of given answer tokens after the query."""
        layers = self._layers(prepared.plan, "live")
        cache, before = prepared.cache, prepared.cache.get_seq_length()
        ids = [*query.ids, *answer_ids[:-1]]
        try:
            logits = self._run(ids, cache, layers, keep=len(answer_ids))
        finally:
            added = cache.get_seq_length() - before
            if added:
                cache.crop(-added)
        wanted = torch.tensor(list(answer_ids), device=logits.device)
        return float(logits.float().log_softmax(-1).gather(-1, wanted[:, None]).mean())

    def _layers(self, plan: SteeringPlan, phase: str) -> dict[int, LayerSteering]:
        session = Session()
        layers: dict[int, LayerSteering] = {}
        skipped = "live_only" if phase == "prefill" else "kv_only"
        if plan.record is not None and plan.record.apply != skipped:
            layers = plan.record.layer_steering(self.num_heads, session, self.route)
        empty = torch.zeros(0, dtype=torch.int64)
        for layer, factor in plan.sharpen.items():
            one = layers.setdefault(layer, LayerSteering(empty, None, session))
            one.query_scale_H = torch.full((self.num_heads,), float(factor))
        return layers

    @torch.inference_mode()
    def _run(self, ids: Sequence[int], cache: Any, layers: Mapping[int, LayerSteering], keep: int = 1) -> Tensor:
        """Logits of the last token, (V,), or of the last `keep`, (keep, V).

        Raises:
            ConfigError: more tokens than the model has positions.
        """
        num_tokens = len(ids) + (cache.get_seq_length() if cache is not None else 0)
        if num_tokens > self._max_positions:
            raise ConfigError(
                f"{num_tokens} tokens are more than the model's {self._max_positions} positions; "
                "shorten the context or the question."
            )
        self.tokens_forwarded += len(ids)
        tensor = torch.tensor([list(ids)], device=self.loaded.device)
        with active(self._model, layers):
            logits: Tensor = self._model(
                tensor, past_key_values=cache, use_cache=cache is not None, logits_to_keep=keep
            ).logits
        return logits[0, -1] if keep == 1 else logits[0]


def _encode_with_offsets(tokenizer: Any, chunk: str) -> tuple[list[int], list[tuple[int, tuple[int, int]]]]:
    """Ids of a chunk as `prompt_format.encode_chunk` gives them, and (token, (first, last + 1 character of the chunk))."""
    ids = prompt_format.encode_chunk(tokenizer, chunk)
    lead = len(chunk) - len(chunk.lstrip())
    text, shift = (" " + chunk.strip(), lead - 1) if prompt_format.has_markers(tokenizer) else (chunk.strip(), lead)
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    offsets = [
        (index, (max(first + shift, 0), last + shift))
        for index, (first, last) in enumerate(encoded["offset_mapping"])
        if index < len(ids)
    ]
    return ids, offsets


def _sentence_spans(
    chunk: str, offsets: Sequence[tuple[int, tuple[int, int]]], base: int, num_ids: int
) -> list[tuple[int, int]]:
    """Token spans of the sentences of one chunk; together they cover all its tokens."""
    starts = [match.start() for match in _SENTENCE.finditer(chunk) if match.group().strip()]
    firsts: list[int] = []
    for start in starts:
        token = next((index for index, (_, last) in offsets if last > start), None)
        if token is not None and (not firsts or token > firsts[-1]):
            firsts.append(token)
    if not firsts or firsts[0] != 0:
        firsts.insert(0, 0)
    bounds = [*firsts, num_ids]
    return [(base + first, base + last) for first, last in itertools.pairwise(bounds) if first < last]
