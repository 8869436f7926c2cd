"""The fusor: turn the reused KV of text chunks into the KV of the whole prompt (CacheBlend, selective KV recompute).

    tokens     | exact prefix |   reused chunks            | suffix |      E exact, C reused (prefix included), N all
    layer 0    |    cached    |   computed for all         |  comp. |
    layer 1    |    cached    |   K, V of all: deviation -> pick    |      the check layer
      ...      |    cached    |  picked rows computed, others cached| comp.
    layer i    |    cached    |  fewer and fewer rows (gradual)     | comp.
    head       |                                              last  |

From the check layer on only the picked rows and the suffix are carried: their hidden states go through norms, projections,
attention (queries of these rows over all N keys, masked by absolute position) and MLP; nothing is computed for other rows.
With everything reused empty this is an ordinary prefill, and the baselines are special cases too, so that all methods share one
implementation.

Shape legend: N prompt tokens, R rows in flight, E hidden size, L layers, H key/value heads, D head dimension, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cacheblend.api import Computed, Report
from cacheblend.attention import RowAttention
from cacheblend.selection import HighKVDeviation, SelectionContext, Selector, layer_counts, layer_ratios
from cacheblend.transformer import Transformer
from common.errors import ConfigError
from common.kv import KVCache
from common.rope import Rope, turn_

OnPhase = Callable[[str, int], None]
"""Called when a phase of a layer begins; what was running before has ended. Phases: load, shift, select, recompute, head."""


class ReusedKV(Protocol):
    """Cached KV of the first tokens of a prompt, readable layer by layer.

    Attributes:
        num_tokens: how many of the prompt's tokens it covers, from position 0 on.
        num_exact: how many of them form a true prefix: their KV is what a full prefill would compute.
        delta_T: int64 (num_tokens,), CPU: by how many positions each cached key must be moved.
        chunk_starts: index of the first token of each chunk that is not part of the exact prefix, increasing.
    """

    @property
    def num_tokens(self) -> int: ...
    @property
    def num_exact(self) -> int: ...
    @property
    def delta_T(self) -> Tensor: ...
    @property
    def chunk_starts(self) -> Sequence[int]: ...

    def read(self, layer: int, keys_HTD: Tensor | None, values_HTD: Tensor | None) -> int:
        """Write the layer's first T cached keys and values, as stored, into the given tensors; return the bytes read.

        T is the tensors' own length; None: that part is not needed. Layers are asked for in increasing order, a layer possibly
        twice (for different parts). Blocks until the data is there.
        """
        ...


@dataclasses.dataclass(frozen=True)
class BlendPlan:
    """How to blend.

    Attributes:
        ratio: the paper's r: share of the reused, non-prefix tokens to recompute, in [0, 1].
        selector: picks them.
        check_layer: layer at which the choice is made; the layers below it compute every token. 0: chosen in advance,
            without computing anything in full (needs a selector with no `parts`).
        schedule: see `layer_ratios`.
        keep_fresh: at a layer where rows are dropped, keep the fresh K and V that were computed for them there (it costs
            nothing); False: write only the picked ones.
        recover_positions: move cached keys to their new positions; False shows what happens without.
        mask: "absolute" (right), or "bottom_right": the lower-triangular mask aligned to the last key that lets early rows see
            the future, as in the authors' released code; only to show its effect.
    """

    ratio: float = 0.15
    selector: Selector = dataclasses.field(default_factory=HighKVDeviation)
    check_layer: int = 1
    schedule: str | tuple[float, ...] = "linear"
    keep_fresh: bool = True
    recover_positions: bool = True
    mask: str = "absolute"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ConfigError(f"recompute ratio {self.ratio} is not in [0, 1].")
        if self.mask not in ("absolute", "bottom_right"):
            raise ConfigError(f"mask={self.mask!r} is not one of absolute, bottom_right.")
        if self.check_layer < 0:
            raise ConfigError(f"check_layer={self.check_layer} must be >= 0.")
        if self.check_layer == 0 and self.selector.parts:
            raise ConfigError(
                f"{type(self.selector).__name__} compares fresh with reused KV, which are equal at layer 0: use check_layer >= 1."
            )


PREFILL = BlendPlan(ratio=0, selector=HighKVDeviation(), check_layer=1, schedule="constant")
"""For prompts of which nothing or only an exact prefix is reused: there is nothing to choose."""


@dataclasses.dataclass(frozen=True, eq=False)
class Blended:
    """Result of `blend`.

    Attributes:
        computed: first-token logits, KV of the whole prompt, report.
        rows: for each layer, the positions of the rows that went through its attention and MLP, increasing.
    """

    computed: Computed
    rows: tuple[Tensor, ...]


@torch.no_grad()
def blend(
    transformer: Transformer,
    rope: Rope,
    ids_N: Tensor,
    reused: ReusedKV,
    plan: BlendPlan,
    rng: np.random.Generator,
    on_phase: OnPhase | None = None,
) -> Blended:
    """Compute a prompt's KV and its first-token logits from partly reused KV.

    Args:
        transformer: the model.
        rope: its rotation.
        ids_N: int64 token ids of the whole prompt, BOS included; token i stands at position i.
        reused: cached KV of the first tokens; at least the last token must not be covered. Not modified.
        plan: how.
        rng: for selectors that draw.
        on_phase: told which phase of which layer begins, for time-keeping.

    Raises:
        ConfigError: nothing is left to compute, or the check layer does not exist.

    Source: CacheBlend, sections on selective KV recompute and gradual filtering.
    """
    return _Fusion(transformer, rope, ids_N, reused, plan, rng, on_phase or _ignore).run()


def _ignore(phase: str, layer: int) -> None:
    pass


class _Fusion:
    """One call of `blend`: the state that its layers share."""

    def __init__(
        self,
        transformer: Transformer,
        rope: Rope,
        ids_N: Tensor,
        reused: ReusedKV,
        plan: BlendPlan,
        rng: np.random.Generator,
        on_phase: OnPhase,
    ) -> None:
        self.net, self.reused, self.plan, self.rng, self.on_phase = transformer, reused, plan, rng, on_phase
        self.ids_N = ids_N
        self.n, self.c, self.e = len(ids_N), reused.num_tokens, reused.num_exact
        num_layers = transformer.num_layers
        if not 0 <= self.e <= self.c < self.n:
            raise ConfigError(
                f"{self.c} reused tokens ({self.e} exact) of a prompt of {self.n}: at least one token must be left to compute."
            )
        # DEVIATION cacheblend-3: r counts the reused tokens behind the exact prefix, whose deviation is 0; the prefix is not
        # computed at layer 0 either, since nothing needs its hidden states.
        self.num_candidates = self.c - self.e
        # Without candidates there is no choice to make, hence no layer to compute in full.
        self.check_layer = plan.check_layer if self.num_candidates else 0
        if self.check_layer >= num_layers:
            raise ConfigError(f"check_layer={plan.check_layer}, but the model has {num_layers} layers.")
        ratios = layer_ratios(plan.ratio, num_layers - self.check_layer, plan.schedule)
        self.counts = [self.num_candidates] * self.check_layer + list(layer_counts(ratios, self.num_candidates))
        shape = (num_layers, transformer.num_kv_heads, self.n, transformer.head_dim)
        self.keys_LHND = torch.empty(shape, dtype=transformer.dtype, device=transformer.device)
        self.values_LHND = torch.empty(shape, dtype=transformer.dtype, device=transformer.device)
        self.loaded_bytes = 0
        self.turns: tuple[int, Tensor, Tensor] | None = None  # first moved token, cos, sin
        moved = reused.delta_T.nonzero() if plan.recover_positions else torch.empty(0)
        if len(moved):
            first = int(moved[0])
            cos, sin = rope.angles(reused.delta_T[first:])
            dtype = transformer.dtype if transformer.dtype == torch.float64 else torch.float32
            self.turns = first, cos.to(transformer.device, dtype), sin.to(transformer.device, dtype)
        self.cos_ND, self.sin_ND = transformer.rotary(torch.arange(self.n))
        self.attentions: dict[tuple[int, int | None], RowAttention] = {}

    def run(self) -> Blended:
        net = self.net
        rows_R = torch.arange(self.e, self.n)
        if self.check_layer == 0 and self.num_candidates:
            rows_R = self._choose(0, rows_R, None, None, None)
        hidden_RE = net.embed(self.ids_N[rows_R])
        rows_per_layer: list[Tensor] = []
        for layer in range(net.num_layers):
            rows_R, hidden_RE = self._layer(layer, rows_R, hidden_RE)
            rows_per_layer.append(rows_R)
        self.on_phase("head", net.num_layers)
        logits_V = net.logits(hidden_RE[-1:])[0]
        self.on_phase("end", net.num_layers)
        report = Report(self.n, self.c, self.e, tuple(map(len, rows_per_layer)), self.loaded_bytes)
        kv = KVCache(self.keys_LHND, self.values_LHND, torch.arange(self.n))
        return Blended(Computed(logits_V, kv, report), tuple(rows_per_layer))

    def _layer(self, layer: int, rows_R: Tensor, hidden_RE: Tensor) -> tuple[Tensor, Tensor]:
        net, plan = self.net, self.plan
        keys_HND, values_HND = self.keys_LHND[layer], self.values_LHND[layer]
        num_picked = len(rows_R) - (self.n - self.c)
        is_filtering = layer >= self.check_layer and num_picked > self.counts[layer]
        # Below the check layer every token but the exact prefix is computed; at it, keys that will all be replaced by fresh
        # ones are not even read.
        values_until = self.c if layer >= self.check_layer else self.e
        replaces_all = is_filtering and plan.keep_fresh and num_picked == self.num_candidates
        keys_until = self.e if replaces_all and "k" not in plan.selector.parts else values_until
        if replaces_all and not plan.selector.parts:
            values_until = self.e
        self._load(layer, keys_until, values_until)

        self.on_phase("select" if is_filtering else "recompute", layer)
        rotary = self._rotary(rows_R)
        normed_RE = net.enter(layer, hidden_RE)
        if is_filtering:
            wants = "kv" if plan.keep_fresh else plan.selector.parts
            fresh_k = net.key(layer, normed_RE, rotary) if "k" in wants else None
            fresh_v = net.value(layer, normed_RE) if "v" in wants else None
            kept_R = self._choose(layer, rows_R, fresh_k, fresh_v, normed_RE)
            # DEVIATION cacheblend-4: the paper recomputes the KV of the picked tokens only; the fresh KV of the others is there
            # already, so keeping it costs nothing.
            if plan.keep_fresh:
                assert fresh_k is not None
                assert fresh_v is not None
                self._write(layer, rows_R, fresh_k, fresh_v)
            index_S = torch.searchsorted(rows_R, kept_R).to(net.device)
            hidden_RE, normed_RE, rows_R = hidden_RE[index_S], normed_RE[index_S], kept_R
            rotary = self._rotary(rows_R)
            self.on_phase("recompute", layer)
        if not (is_filtering and plan.keep_fresh):
            self._write(layer, rows_R, net.key(layer, normed_RE, rotary), net.value(layer, normed_RE))
        query_QRD = net.query(layer, normed_RE, rotary)
        attended_RA = self._attention(layer, rows_R)(query_QRD, keys_HND, values_HND, net.scale(layer))
        return rows_R, net.leave(layer, hidden_RE, attended_RA)

    def _load(self, layer: int, keys_until: int, values_until: int) -> None:
        if not max(keys_until, values_until):
            return
        self.on_phase("load", layer)
        keys_HTD, values_HTD = self.keys_LHND[layer, :, :keys_until], self.values_LHND[layer, :, :values_until]
        if keys_until == values_until:
            self.loaded_bytes += self.reused.read(layer, keys_HTD, values_HTD)
        else:
            if values_until:
                self.loaded_bytes += self.reused.read(layer, None, values_HTD)
            if keys_until:
                self.loaded_bytes += self.reused.read(layer, keys_HTD, None)
        # Either all reused keys were read or the exact prefix alone, which stands where it was computed.
        if self.turns is not None and keys_until == self.c:
            self.on_phase("shift", layer)
            first, cos, sin = self.turns
            turn_(keys_HTD[:, first:], cos, sin)

    def _choose(
        self, layer: int, rows_R: Tensor, fresh_k: Tensor | None, fresh_v: Tensor | None, normed_RE: Tensor | None
    ) -> Tensor:
        """The rows that go on: picked candidates, then the suffix."""
        parts = self.plan.selector.parts
        num = len(rows_R) - (self.n - self.c)
        candidates_C = rows_R[:num]
        starts = torch.tensor([*self.reused.chunk_starts, self.c])
        chunk_C = torch.searchsorted(starts, candidates_C, right=True) - 1
        where = candidates_C.to(self.net.device)

        def question_queries() -> tuple[Tensor, float]:
            assert normed_RE is not None
            suffix_rotary = self._rotary(rows_R[num:])
            return self.net.query(layer, normed_RE[num:], suffix_rotary), self.net.scale(layer)

        wants_k, wants_v = "k" in parts, "v" in parts
        is_contiguous = num == self.num_candidates
        pick = slice(self.e, self.c) if is_contiguous else where
        context = SelectionContext(
            layer,
            self.counts[layer],
            candidates_C,
            chunk_C,
            candidates_C - starts[chunk_C],
            starts[chunk_C + 1] - 1 - candidates_C,
            fresh_k[:, :num] if wants_k and fresh_k is not None else None,
            fresh_v[:, :num] if wants_v and fresh_v is not None else None,
            self.keys_LHND[layer][:, pick] if wants_k else None,
            self.values_LHND[layer][:, pick] if wants_v else None,
            question_queries,
            self.rng,
        )
        picked = self.plan.selector.select(context)
        assert len(picked) == context.count
        return torch.cat((candidates_C[picked], rows_R[num:]))

    def _rotary(self, rows_R: Tensor) -> tuple[Tensor, Tensor]:
        if len(rows_R) == self.n - int(rows_R[0]):
            first = int(rows_R[0])
            return self.cos_ND[first:], self.sin_ND[first:]
        index = rows_R.to(self.net.device)
        return self.cos_ND[index], self.sin_ND[index]

    def _write(self, layer: int, rows_R: Tensor, key_HRD: Tensor, value_HRD: Tensor) -> None:
        keys_HND, values_HND = self.keys_LHND[layer], self.values_LHND[layer]
        if len(rows_R) == self.n - int(rows_R[0]):
            first = int(rows_R[0])
            keys_HND[:, first:], values_HND[:, first:] = key_HRD, value_HRD
        else:
            index = rows_R.to(self.net.device)
            keys_HND.index_copy_(1, index, key_HRD)
            values_HND.index_copy_(1, index, value_HRD)

    def _attention(self, layer: int, rows_R: Tensor) -> RowAttention:
        # Rows only ever drop out, so their number identifies them.
        window = self.net.window(layer)
        key = (len(rows_R), window)
        if key not in self.attentions:
            last_key_R = rows_R
            if self.plan.mask == "bottom_right" and layer >= self.check_layer:
                last_key_R = torch.arange(self.n - len(rows_R), self.n)
            self.attentions[key] = RowAttention(last_key_R, rows_R, self.net.dtype, self.net.device, window)
        return self.attentions[key]
