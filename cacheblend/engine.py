"""A model with a store of chunk KV caches: what methods run on.

engine = Engine(load(ModelSpec("small")))
engine.precompute(request)                      # offline: every chunk's KV, computed alone, goes into the store
computed = engine.blend(request, BlendPlan())   # online: load, move, choose, recompute
engine.decode(computed, max_tokens=16).ids
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cacheblend.api import Computed, Decoded, Request
from cacheblend.attention import RowAttention
from cacheblend.blend import PREFILL, Blended, BlendPlan, OnPhase, ReusedKV, blend
from cacheblend.transformer import Transformer
from common.errors import ConfigError
from common.kv import KVCache
from common.models import prompt_format
from common.models.loading import LoadedModel
from common.rng import for_component
from common.rope import Rope


@dataclasses.dataclass(frozen=True)
class ChunkKey:
    """What a chunk's KV depends on; equal keys mean equal KV.

    Attributes:
        model: fingerprint of the model (weights, configuration with RoPE parameters, dtype).
        tokenizer: fingerprint of the tokenizer that made the ids; "" if unknown.
        opening: token ids that were computed in front of the chunk and dropped again, usually BOS.
        tokens: the chunk's token ids.
    """

    model: str
    tokenizer: str
    opening: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all of it."""
        text = f"{self.model}|{self.tokenizer}|{','.join(map(str, self.opening))}|{','.join(map(str, self.tokens))}"
        return hashlib.sha256(text.encode()).hexdigest()


class StoredKV(Protocol):
    """One stored chunk, readable layer by layer.

    Attributes:
        num_tokens: of the chunk.
        start_position: position at which its first token was computed.
    """

    @property
    def num_tokens(self) -> int: ...
    @property
    def start_position(self) -> int: ...

    def read(self, layer: int, keys_HTD: Tensor | None, values_HTD: Tensor | None) -> int:
        """Write a layer's keys and values into the given tensors; return the bytes read. None: not needed."""
        ...


class KVStore(Protocol):
    """Where chunk KV is kept."""

    def open(self, key: ChunkKey) -> StoredKV | None:
        """The stored chunk, or None if there is none that can be trusted."""
        ...

    def put(self, key: ChunkKey, kv: KVCache) -> None:
        """Keep a chunk. The store takes a copy if it needs one that lives longer than the argument."""
        ...


class InMemory:
    """A `StoredKV` around a cache in memory."""

    def __init__(self, kv: KVCache) -> None:
        self.kv = kv
        self.num_tokens = kv.num_tokens
        self.start_position = int(kv.positions_T[0]) if kv.num_tokens else 0

    def read(self, layer: int, keys_HTD: Tensor | None, values_HTD: Tensor | None) -> int:
        """See `StoredKV.read`; copies, so the stored tensors are never written."""
        copied_bytes = 0
        for target, source_LHTD in ((keys_HTD, self.kv.keys_LHTD), (values_HTD, self.kv.values_LHTD)):
            if target is not None:
                source = source_LHTD[layer, :, : target.shape[1]]
                target.copy_(source)
                copied_bytes += source.numel() * source.element_size()
        return copied_bytes


class MemoryStore:
    """An unbounded `KVStore` in a dictionary."""

    def __init__(self) -> None:
        self._entries: dict[ChunkKey, InMemory] = {}

    def open(self, key: ChunkKey) -> StoredKV | None:
        """See `KVStore.open`."""
        return self._entries.get(key)

    def put(self, key: ChunkKey, kv: KVCache) -> None:
        """See `KVStore.put`; keeps a reference, a `KVCache` never changes."""
        self._entries[key] = InMemory(kv)

    def entries(self) -> Iterator[tuple[ChunkKey, InMemory]]:
        """Everything stored."""
        return iter(self._entries.items())

    def __len__(self) -> int:
        return len(self._entries)


class Pieces:
    """`ReusedKV` made of stored pieces that follow each other in the prompt from position 0 on.

    Args:
        pieces: in prompt order.
        num_exact: how many leading pieces form an exact prefix.
    """

    def __init__(self, pieces: Sequence[StoredKV], num_exact: int) -> None:
        self.pieces = tuple(pieces)
        ends = np.cumsum([0, *(piece.num_tokens for piece in self.pieces)])
        self.starts = tuple(int(end) for end in ends[:-1])
        self.num_tokens = int(ends[-1])
        self.num_exact = int(ends[num_exact])
        self.chunk_starts = self.starts[num_exact:]
        self.delta_T = torch.cat(
            [torch.zeros(0, dtype=torch.int64)]
            + [
                torch.full((piece.num_tokens,), start - piece.start_position)
                for piece, start in zip(self.pieces, self.starts, strict=True)
            ]
        )

    def read(self, layer: int, keys_HTD: Tensor | None, values_HTD: Tensor | None) -> int:
        """See `ReusedKV.read`."""
        loaded_bytes = 0
        for piece, start in zip(self.pieces, self.starts, strict=True):
            parts = []
            for target in (keys_HTD, values_HTD):
                end = 0 if target is None else min(start + piece.num_tokens, target.shape[1])
                parts.append(target[:, start:end] if target is not None and end > start else None)
            if any(part is not None for part in parts):
                loaded_bytes += piece.read(layer, parts[0], parts[1])
        return loaded_bytes


class Engine:
    """Runs one model on one sequence at a time.

    Args:
        loaded: the model.
        store: keeps chunk KV; default: an unbounded one in memory.
        has_sink: compute chunks behind the model's BOS token, which takes the part of the attention sink, and drop its KV
            (CacheBlend's released code does; the paper does not say).
        seed: of selectors that draw.
        on_phase: told which phase of which layer begins; for time-keeping.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        store: KVStore | None = None,
        *,
        has_sink: bool = True,
        seed: int = 0,
        on_phase: OnPhase | None = None,
    ) -> None:
        self.loaded = loaded
        self.tokenizer = loaded.tokenizer
        self.store: KVStore = MemoryStore() if store is None else store
        self.transformer = Transformer(loaded)
        self.rope = Rope.of(loaded.model)
        self.bos: tuple[int, ...] = _bos(loaded)
        self.eos: int | None = None if self.tokenizer is None else prompt_format.eos_id(self.tokenizer)
        self._stop_ids = _stop_ids(loaded, self.eos)
        self.separator: tuple[int, ...] = _separator(self.tokenizer)
        self.on_phase = on_phase
        self.tokens_computed = 0.0
        """Tokens run through the model so far, as a mean over its layers: prompts, chunks and decoding steps."""
        # DEVIATION cacheblend-5: the paper does not say what stands before a chunk when its KV is computed; we put BOS, as its
        # released code does.
        self._chunk_opening = self.bos if has_sink else ()
        self._seed = seed
        self._truth: tuple[Request, Computed] | None = None

    # ------------------------------------------------------------------------------------------------------- computing

    def ids(self, request: Request) -> tuple[int, ...]:
        """Token ids of a request's whole prompt, BOS included."""
        return (*self.bos, *request.prefix, *(token for chunk in request.chunks for token in chunk), *request.question)

    def compute(self, tokens: Sequence[int]) -> Computed:
        """Ordinary prefill of `[BOS] + tokens`.

        Raises:
            ConfigError: no tokens, ids outside the vocabulary, or more than the model has positions.
        """
        return self._run((*self.bos, *tokens), Pieces((), 0), PREFILL).computed

    def blend(self, request: Request, plan: BlendPlan) -> Computed:
        """A request's state with its chunks' KV reused and partly recomputed as the plan says."""
        return self.blend_rows(request, plan).computed

    def blend_rows(self, request: Request, plan: BlendPlan) -> Blended:
        """As `blend`; also says which rows were computed at each layer."""
        pieces, missed = self.pieces(request)
        return self.blend_pieces(request, pieces, plan, missed)

    def blend_pieces(self, request: Request, reused: ReusedKV, plan: BlendPlan, missed_chunks: int = 0) -> Blended:
        """As `blend_rows`, with reused KV that the caller has arranged (a pipelined reader, for instance)."""
        blended = self._run(self.ids(request), reused, plan)
        report = dataclasses.replace(blended.computed.report, missed_chunks=missed_chunks)
        return dataclasses.replace(blended, computed=dataclasses.replace(blended.computed, report=report))

    def _run(self, ids: Sequence[int], reused: ReusedKV, plan: BlendPlan) -> Blended:
        if not ids:
            raise ConfigError("there are no tokens to compute.")
        if max(ids) >= self.transformer.vocab_size:
            raise ConfigError(f"token id {max(ids)} is outside the vocabulary of {self.transformer.vocab_size}.")
        if len(ids) > self.transformer.max_positions:
            raise ConfigError(
                f"{len(ids)} tokens are more than the model's {self.transformer.max_positions} positions."
            )
        rng = for_component(self._seed, "selection", hashlib.sha256(repr(ids).encode()).hexdigest())
        blended = blend(self.transformer, self.rope, torch.tensor(ids), reused, plan, rng, self.on_phase)
        self.tokens_computed += blended.computed.report.recomputed_tokens
        return blended

    def truth(self, request: Request) -> Computed:
        """The full prefill of a request; the last one asked for is remembered. For references and oracles, not for methods."""
        if self._truth is None or self._truth[0] != request:
            tokens = self.ids(request)[len(self.bos) :]
            quiet, self.on_phase = self.on_phase, None
            self._truth = request, self.compute(tokens)
            self.on_phase = quiet
        return self._truth[1]

    # ----------------------------------------------------------------------------------------------------------- chunks

    def precompute(self, request: Request) -> int:
        """Make sure that everything reusable of a request is stored; returns how many chunks had to be computed."""
        missed = self.pieces(request)[1]
        self.prefix(request)
        return missed

    def prefix(self, request: Request) -> Pieces:
        """The longest prefix that prefix caching can hold: BOS, system prompt and first chunk, computed in this order."""
        opening = (*self.bos, *request.prefix)
        pieces = [self.chunk((), opening)[0]] if opening else []
        pieces += [self.chunk(opening, chunk)[0] for chunk in request.chunks[:1] if chunk]
        return Pieces(pieces, len(pieces))

    def pieces(self, request: Request) -> tuple[Pieces, int]:
        """A request's stored KV and how many of its chunks were missing and had to be computed first."""
        opening = (*self.bos, *request.prefix)
        stored, missed = [], 0
        if opening:
            piece, _ = self.chunk((), opening)
            stored.append(piece)
        for chunk in request.chunks:
            if chunk:
                piece, was_missing = self.chunk(self._chunk_opening, chunk)
                stored.append(piece)
                missed += was_missing
        # The first chunk continues the opening exactly as it was computed, if it was computed behind the same tokens.
        num_exact = bool(opening) + bool(opening == self._chunk_opening and len(stored) > bool(opening))
        return Pieces(stored, num_exact), missed

    def chunk(self, opening: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[StoredKV, bool]:
        """The stored KV of `tokens` computed behind `opening`, and whether it had to be computed now."""
        key = ChunkKey(self.loaded.fingerprint, self.loaded.tokenizer_fingerprint, opening, tokens)
        stored = self.store.open(key)
        if stored is not None:
            return stored, False
        kv = self.chunk_kv(opening, tokens)
        self.store.put(key, kv)
        stored = self.store.open(key)
        # A store too small for this chunk does not keep it; it is used all the same.
        return InMemory(kv) if stored is None else stored, True

    def chunk_kv(self, opening: tuple[int, ...], tokens: tuple[int, ...]) -> KVCache:
        """KV of `tokens` computed alone behind `opening`, whose own KV is dropped; positions count from the opening's start."""
        quiet, self.on_phase = self.on_phase, None
        kv = self._run((*opening, *tokens), Pieces((), 0), PREFILL).computed.kv
        self.on_phase = quiet
        return kv.slice(len(opening), kv.num_tokens).clone() if opening else kv

    # --------------------------------------------------------------------------------------------------------- decoding

    @torch.no_grad()
    def decode(self, computed: Computed, max_tokens: int) -> Decoded:
        """Greedy answer: until the end token, `max_tokens` or the model's last position. The state is left unchanged."""
        # The last token is not fed back, so it needs no position.
        max_tokens = min(max_tokens, self.transformer.max_positions - computed.kv.num_tokens + 1)
        ids: list[int] = []
        total_logprob, steps = 0.0, 0
        stepper = _Stepper(self.transformer, computed, max_tokens)
        logits_V = computed.logits_V
        while steps < max_tokens:
            logprob_V = logits_V.double().log_softmax(-1)
            token = int(logprob_V.argmax())
            total_logprob += float(logprob_V[token])
            steps += 1
            if token in self._stop_ids:
                break
            ids.append(token)
            if steps < max_tokens:
                logits_V = stepper.step(token)
                self.tokens_computed += 1
        return Decoded(tuple(ids), total_logprob / max(1, steps))

    @torch.no_grad()
    def forced_logprobs(self, computed: Computed, tokens: Sequence[int]) -> Tensor:
        """Log-probabilities over the vocabulary before each of `tokens`, given the ones before it: (len(tokens), V), float64."""
        stepper = _Stepper(self.transformer, computed, len(tokens))
        rows = [computed.logits_V]
        rows += [stepper.step(token) for token in tokens[:-1]]
        return torch.stack(rows).double().log_softmax(-1)


class _Stepper:
    """Feeds tokens one by one behind a state, in a buffer of its own."""

    def __init__(self, net: Transformer, computed: Computed, capacity: int) -> None:
        kv = computed.kv
        self._net = net
        self._length = kv.num_tokens
        self._position = kv.next_position
        if self._position != self._length:
            raise ConfigError("decoding needs a cache that holds every position from 0 on.")
        shape = (kv.num_layers, kv.num_heads, kv.num_tokens + capacity, kv.head_dim)
        self._keys_LHND = kv.keys_LHTD.new_empty(shape)
        self._values_LHND = kv.values_LHTD.new_empty(shape)
        self._keys_LHND[:, :, : self._length] = kv.keys_LHTD
        self._values_LHND[:, :, : self._length] = kv.values_LHTD

    def step(self, token: int) -> Tensor:
        """Append a token; returns the scores of the next one, (V,)."""
        net, at = self._net, self._length
        row = torch.tensor([at])
        rotary = net.rotary(row)
        hidden_1E = net.embed(torch.tensor([token]))
        for layer in range(net.num_layers):
            normed_1E = net.enter(layer, hidden_1E)
            self._keys_LHND[layer, :, at : at + 1] = net.key(layer, normed_1E, rotary)
            self._values_LHND[layer, :, at : at + 1] = net.value(layer, normed_1E)
            attend = RowAttention(row, row, net.dtype, net.device, net.window(layer))
            attended_1A = attend(
                net.query(layer, normed_1E, rotary),
                self._keys_LHND[layer],
                self._values_LHND[layer],
                net.scale(layer),
            )
            hidden_1E = net.leave(layer, hidden_1E, attended_1A)
        self._length += 1
        return net.logits(hidden_1E)[0]


def _stop_ids(loaded: LoadedModel, eos: int | None) -> frozenset[int]:
    """Tokens that end an answer; chat models name several in their generation settings. None without a tokenizer."""
    if eos is None:
        return frozenset()
    named = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
    more = named if isinstance(named, list | tuple) else [named]
    return frozenset([eos, *(int(token) for token in more if token is not None)])


def _separator(tokenizer: Any) -> tuple[int, ...]:
    """What ends a chunk, as `prompt_format.encode_chunk` puts it."""
    return () if tokenizer is None else tuple(prompt_format.encode_chunk(tokenizer, ""))


def _bos(loaded: LoadedModel) -> tuple[int, ...]:
    found = loaded.config.bos_token_id if loaded.tokenizer is None else prompt_format.bos_id(loaded.tokenizer)
    return () if found is None else (int(found),)
