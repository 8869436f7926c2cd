"""Steered attention inside transformers' own forward pass: one registered attention function and what it consults.

Multiplying attention weights by alpha and renormalising is adding log(alpha) to the logits before the softmax (LLMSteer, the
weight matrix M on the attention matrix A). That makes four exact routes:

    bias      (A) an additive bias beside the mask, in blocks of rows           works everywhere; float masks are slow
    (B) a whole additive 4-D mask given by the caller: `additive_mask`          one bias for all layers
    channel   (C) one more channel in queries and keys, no mask                 fused causal kernels; may be stored in the cache
    (D) copies of cached entries: `duplicate_entries`                           whole alpha, online only, any engine
    eager     multiply and renormalise as written, in blocks of rows            the reference; also without renormalising
    auto      whichever copies fewer numbers: bias for few rows on a cached context, channel for many

Shape legend: B batch, H query heads, G key/value heads, R query rows, T keys, D head dimension, S selected tokens, L layers.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from common.errors import ConfigError

NAME = "llmsteer"
"""Under which the attention function is registered in transformers."""
ROUTES = ("auto", "bias", "channel", "eager")
CHANNEL_DIMS = 8
"""Width of the extra channel with its padding: fused kernels want head sizes in steps of 8."""
_SLOT = "_llmsteer_layer"
_BLOCK_ROWS = 256
_SPARE_KEYS = 256
_TILE_NUMBERS = 2**18
"""Logits in hand at once where a pass goes tile by tile: 1 MiB, half of a usual second-level cache."""


@dataclasses.dataclass(eq=False)
class Session:
    """What all steered layers of one model share while steering is on.

    Attributes:
        pads_B: how many padding tokens stand in front of each sequence of the batch, int64; None where there are none.
        num_tokens: tokens up to the end of the present call, padding and cached ones included. A sliding-window cache hands
            over only the last of their keys. None: every call sees the keys of all tokens.
    """

    pads_B: Tensor | None = None
    num_tokens: int | None = None


class ReadingDone(Exception):
    """All that a reading wants is known; what the model would still compute is of no use to it."""


class ColumnSums:
    """Adds up, per layer and key, the attention that the key gets from all rows and heads (LLMSteer, cumulative score).

    Args:
        layers: which layers are read.
        block_rows: query rows handled at once. Memory is O(H * block_rows * T), never T x T.
        stops: end the model's forward pass with `ReadingDone` once the last of the layers is read.

    Attributes:
        sums: {layer: (T,)}, float32, unpadded batch of one.
        num_rows: {layer: rows seen so far}.
    """

    def __init__(self, layers: Iterable[int], block_rows: int = _BLOCK_ROWS, *, stops: bool = False) -> None:
        if block_rows < 1:
            raise ConfigError(f"block_rows={block_rows} must be at least 1.")
        self.layers = tuple(sorted(set(layers)))
        self.block_rows = block_rows
        self._stops = stops
        self.sums: dict[int, Tensor] = {}
        self.num_rows: dict[int, int] = {}

    def add(
        self,
        layer: int,
        query_BHRD: Tensor,
        key_BGTD: Tensor,
        scale: float,
        window: int | None,
        log_sums_HR: Tensor | None = None,
    ) -> None:
        """Count the rows of one call; the rows are the last R of the T positions. See `column_sums`."""
        if query_BHRD.shape[0] != 1:
            raise ConfigError(f"column sums are taken of one sequence at a time, not of {query_BHRD.shape[0]}.")
        sums_T = column_sums(
            query_BHRD[0], key_BGTD[0], scale, block_rows=self.block_rows, window=window, log_sums_HR=log_sums_HR
        )
        before = self.sums.get(layer)
        if before is not None:
            sums_T = sums_T + functional.pad(before, (0, len(sums_T) - len(before)))
        self.sums[layer] = sums_T
        self.num_rows[layer] = self.num_rows.get(layer, 0) + query_BHRD.shape[2]
        if self._stops and layer == self.layers[-1]:
            raise ReadingDone

    def stacked(self) -> Tensor:
        """The layers that are read, in their order, (L, T)."""
        return torch.stack([self.sums[layer] for layer in self.layers])


def column_sums(
    query_HRD: Tensor,
    key_GTD: Tensor,
    scale: float,
    *,
    block_rows: int = _BLOCK_ROWS,
    window: int | None = None,
    log_sums_HR: Tensor | None = None,
) -> Tensor:
    """Sum over heads and rows of the causal attention matrix, without the matrix.

    Args:
        query_HRD: rotated queries of the last R positions.
        key_GTD: rotated keys of all T positions; H is a multiple of G.
        scale: factor of the logits.
        block_rows: rows at once.
        window: how many keys, its own included, a row sees; None: all before it.
        log_sums_HR: log of the sum of exp(logit) of each row, if known (fused kernels have it, see `causal_attention`). Then one
            pass over tiles of the matrix is enough, each small enough to stay in a CPU's cache.

    Returns:
        (T,), float32. Its total is H * R.
    """
    num_heads, num_rows, dim = query_HRD.shape
    num_groups, num_keys, _ = key_GTD.shape
    offset = num_keys - num_rows
    per_group = num_heads // num_groups
    device = query_HRD.device
    sums_T = torch.zeros(num_keys, dtype=torch.float32, device=device)
    # A GPU wants few large products; a CPU one group's at a time.
    groups_at_once = 1 if device.type == "cpu" else num_groups
    tile_keys = num_keys
    if log_sums_HR is not None and device.type == "cpu":
        tile_keys = max(64, _TILE_NUMBERS // (per_group * min(block_rows, num_rows)))
    for group in range(0, num_groups, groups_at_once):
        keys_GDT = key_GTD[group : group + groups_at_once].float().transpose(1, 2)
        own_HRD = query_HRD[group * per_group : (group + groups_at_once) * per_group]
        for start in range(0, num_rows, block_rows):
            stop = min(start + block_rows, num_rows)
            first = 0 if window is None else max(0, offset + start - window + 1)
            end = offset + stop  # later keys are masked for every row of the block
            rows_GXD = (own_HRD[:, start:stop].float() * scale).reshape(groups_at_once, -1, dim)
            log_X1 = None
            if log_sums_HR is not None:
                log_X1 = log_sums_HR[group * per_group : (group + groups_at_once) * per_group, start:stop]
                log_X1 = log_X1.reshape(groups_at_once, -1, 1)
            for left in range(first, end, tile_keys):
                right = min(left + tile_keys, end)
                logits = torch.bmm(rows_GXD, keys_GDT[:, :, left:right])
                position_R = torch.arange(offset + start, offset + stop, device=device)[:, None]
                key_T = torch.arange(left, right, device=device)[None]
                if right - 1 > offset + start or (window is not None and left <= offset + stop - 1 - window):
                    hidden = key_T > position_R
                    if window is not None:
                        hidden |= key_T <= position_R - window
                    logits.view(-1, stop - start, right - left).masked_fill_(hidden, -torch.inf)
                if log_X1 is None:  # the tile is as wide as its rows
                    logits.sub_(logits.logsumexp(-1, keepdim=True))
                else:
                    logits.sub_(log_X1)
                sums_T[left:right] += logits.exp_().sum((0, 1))
    return sums_T


def causal_attention(query_BHTD: Tensor, key_BGTD: Tensor, value_BGTD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Causal attention on the CPU with what its softmax divided by: output (B, H, T, D), log of the sums of exp (B, H, T).

    This is the kernel that SDPA uses there; only the second result is thrown away on that way.
    """
    output, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query_BHTD, key_BGTD, value_BGTD, 0.0, True, scale=scale
    )
    return output, log_sums


@dataclasses.dataclass(eq=False)
class LayerSteering:
    """What one attention layer does differently while steering is on.

    Attributes:
        keys_S: positions of the steered tokens in an unpadded sequence, int64, sorted.
        log_gain_H: log(alpha) of each steered head, 0 of the others; float64. None: nothing is steered.
        session: shared by the layers.
        query_scale_H: factor of the logits by head (a temperature); None: 1.
        renormalise: whether rows sum to one again after the multiplication; False only on the eager route (ablation).
        route: see the module.
        collector: if given, column sums of the base attention are added to it.
    """

    keys_S: Tensor
    log_gain_H: Tensor | None
    session: Session
    query_scale_H: Tensor | None = None
    renormalise: bool = True
    route: str = "auto"
    collector: ColumnSums | None = None
    _row_cache: tuple[Any, Tensor] | None = dataclasses.field(default=None, repr=False)
    _bias_cache: tuple[Any, Tensor] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.route not in ROUTES:
            raise ConfigError(f"route={self.route!r} is not one of {', '.join(ROUTES)}.")

    @property
    def is_steered(self) -> bool:
        return self.log_gain_H is not None and len(self.keys_S) > 0

    def indicator(self, num_keys: int, device: torch.device) -> Tensor:
        """1 at the steered keys, 0 elsewhere, (B or 1, T), float32."""
        pads_B = self.session.pads_B
        # Which token the first key belongs to; buffers of a fixed size are longer than what they hold.
        first = max(0, (self.session.num_tokens or 0) - num_keys)
        key = (first, device, None if pads_B is None else tuple(pads_B.tolist()))
        if self._row_cache is None or self._row_cache[0] != key or self._row_cache[1].shape[1] < num_keys:
            offsets = torch.zeros(1, dtype=torch.int64) if pads_B is None else pads_B.cpu()
            # Some more than asked for: while an answer grows, the same rows serve.
            rows_BT = torch.zeros(len(offsets), num_keys + _SPARE_KEYS)
            for row_T, offset in zip(rows_BT, offsets.tolist(), strict=True):
                places = self.keys_S.cpu() + offset - first
                row_T[places[(places >= 0) & (places < len(row_T))]] = 1.0
            self._row_cache = (key, rows_BT.to(device))
            self._bias_cache = None
        return self._row_cache[1][:, :num_keys]

    def bias(self, num_keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """log(alpha) where a head's logit is raised, (B or 1, H, 1, T)."""
        assert self.log_gain_H is not None
        self.indicator(num_keys, device)
        assert self._row_cache is not None
        if self._bias_cache is None or self._bias_cache[0] != dtype:
            rows_BT = self._row_cache[1]
            bias = rows_BT[:, None, None, :] * self.log_gain_H.to(device)[None, :, None, None]
            self._bias_cache = (dtype, bias.to(dtype))
        return self._bias_cache[1][..., :num_keys]

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        """Attention output, (B, R, H, D), as transformers' attention functions give it."""
        scale = options.get("scaling")
        if scale is None:
            scale = options["scaling"] = query.shape[-1] ** -0.5
        if self.query_scale_H is not None:
            query = query * self.query_scale_H.to(query)[None, :, None, None]
        if self.collector is not None:
            window = options.get("sliding_window")
            if self._is_plain_prefill(query, key, value, mask):
                output, log_sums = causal_attention(query, key, value, scale)
                self.collector.add(module.layer_idx, query, key, scale, window, log_sums[0])
                return output.transpose(1, 2).contiguous(), None
            self.collector.add(module.layer_idx, query, key, scale, window)
        if key.shape[-1] != query.shape[-1]:
            return self._through_stored_channel(module, query, key, value, mask, options)
        if not self.is_steered:
            return plain_attention(module, query, key, value, mask, **options)
        if mask is None and query.shape[2] > 1 and key.shape[2] > query.shape[2]:
            # An empty cache of fixed size: the keys behind the rows hold nothing yet.
            key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
        if self.route == "eager" or not self.renormalise:
            return self._multiplied(module, query, key, value, mask, scale)
        copies_less = 2 * key.shape[1] * (key.shape[3] + CHANNEL_DIMS) < query.shape[1] * query.shape[2]
        if self.route == "channel" or (self.route == "auto" and (copies_less or (mask is None and query.shape[2] > 1))):
            return self._through_channel(module, query, key, value, mask, options)
        return self._through_bias(module, query, key, value, mask, options)

    def _is_plain_prefill(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
        """Whether a layer that is read attends as `causal_attention` does."""
        is_square = query.shape[2:] == key.shape[2:] == value.shape[2:]
        return is_square and mask is None and not self.is_steered and query.device.type == "cpu"

    def _through_bias(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]
    ) -> tuple[Tensor, None]:
        num_rows, num_keys = query.shape[2], key.shape[2]
        bias = self.bias(num_keys, query.dtype, query.device)
        if num_rows == 1 and mask is None:
            return plain_attention(module, query, key, value, bias, **options)
        outputs = []
        # In blocks: a float mask of all rows for each head would take H x T x T numbers.
        for start in range(0, num_rows, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, num_rows)
            last = num_keys - num_rows + stop if mask is None else num_keys
            block_mask = (
                _causal(start, stop, last, num_keys - num_rows, query.device)
                if mask is None
                else mask[:, :, start:stop]
            )
            output, _ = plain_attention(
                module,
                query[:, :, start:stop],
                key[:, :, :last],
                value[:, :, :last],
                _added(bias[..., :last], block_mask),
                **options,
            )
            outputs.append(output)
        return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], None

    def _through_channel(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]
    ) -> tuple[Tensor, None]:
        indicator_BT = self.indicator(key.shape[2], query.device)
        key = add_key_channel(key, indicator_BT, options["scaling"])
        value = functional.pad(value, (0, CHANNEL_DIMS))
        return self._through_stored_channel(module, query, key, value, mask, options)

    def _through_stored_channel(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]
    ) -> tuple[Tensor, None]:
        dim = query.shape[-1]
        extra = functional.pad(query, (0, CHANNEL_DIMS))
        if self.log_gain_H is not None:
            extra[..., dim] = self.log_gain_H.to(query)[None, :, None]
        output, _ = plain_attention(module, extra, key, value, mask, **options)
        return output[..., :dim].contiguous(), None

    def _multiplied(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> tuple[Tensor, None]:
        num_rows, num_keys = query.shape[2], key.shape[2]
        gain = self.bias(num_keys, torch.float64, query.device).exp()
        per_group = query.shape[1] // key.shape[1]
        keys, values = key.repeat_interleave(per_group, 1), value.repeat_interleave(per_group, 1)
        outputs = []
        for start in range(0, num_rows, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, num_rows)
            logits = (query[:, :, start:stop] @ keys.transpose(2, 3)).to(_wide(query.dtype)) * scale
            seen = (
                mask[:, :, start:stop]
                if mask is not None
                else _causal(start, stop, num_keys, num_keys - num_rows, query.device)
            )
            weights = multiply_attention(_masked(logits, seen), gain.to(logits.dtype), self.renormalise)
            outputs.append((weights.to(query.dtype) @ values).transpose(1, 2))
        return torch.cat(outputs, dim=1).contiguous(), None


def multiply_attention(logits: Tensor, gain: Tensor, renormalise: bool = True) -> Tensor:
    """softmax(logits), times the gain element by element, and, if wanted, divided so that rows sum to one again.

    The definition that all routes must equal (LLMSteer: M on A; PASTA: T(A)). Broadcasts.
    """
    weights = logits.softmax(-1) * gain
    return weights / weights.sum(-1, keepdim=True) if renormalise else weights


def add_key_channel(key_BGTD: Tensor, indicator_BT: Tensor, scale: float) -> Tensor:
    """Keys with one more channel, 1/scale at the steered tokens and 0 elsewhere, padded to `CHANNEL_DIMS`."""
    wider = functional.pad(key_BGTD, (0, CHANNEL_DIMS))
    wider[..., key_BGTD.shape[-1]] = (indicator_BT.to(key_BGTD.dtype) / scale)[:, None, :]
    return wider


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _causal(start: int, stop: int, num_keys: int, offset: int, device: torch.device) -> Tensor:
    rows = torch.arange(offset + start, offset + stop, device=device)
    return (rows[:, None] >= torch.arange(num_keys, device=device)[None])[None, None]


def _added(bias: Tensor, mask: Tensor) -> Tensor:
    """A bias where a mask (boolean or additive) lets through."""
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, torch.finfo(bias.dtype).min)
    return bias + mask


def _masked(logits: Tensor, mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return logits + mask


def plain_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' own SDPA; but where it would copy every key and value once per query head, on a CPU under a mask, grouped
    heads are handed to the kernel as they are. For steered and unsteered layers alike."""
    if mask is None or query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    output = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=options.get("dropout", 0.0),
        scale=options.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """The registered attention function: `plain_attention`, unless the layer is steered or read."""
    layer: LayerSteering | None = getattr(module, _SLOT, None)
    if layer is None:
        return plain_attention(module, query, key, value, attention_mask, **options)
    return layer.attend(module, query, key, value, attention_mask, **options)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def attention_modules(model: Any) -> list[Any]:
    """The attention modules of a causal LM, layer by layer."""
    return [layer.self_attn for layer in model.model.layers[: model.config.num_hidden_layers]]


@contextlib.contextmanager
def installed(model: Any) -> Iterator[None]:
    """The model attends through `attend` inside the block, and as before after it.

    Raises:
        ConfigError: the model attends with something whose results differ from SDPA's (flex attention, a paged engine).
    """
    before = model.config._attn_implementation
    if before not in (NAME, "sdpa", "eager", None) and "flash" not in before:
        raise ConfigError(
            f"attention {before!r} cannot be steered. Load the model with attn_implementation=sdpa, eager or flash."
        )
    if before == NAME:
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextlib.contextmanager
def active(model: Any, layers: Mapping[int, LayerSteering]) -> Iterator[None]:
    """Steering of the given layers is on inside the block. Not re-entrant for one model; not for several threads at once.

    Raises:
        ConfigError: the model is being steered already, or has no such layer.
    """
    modules = attention_modules(model)
    for index in layers:
        if not 0 <= index < len(modules):
            raise ConfigError(f"layer {index} does not exist; the model has layers 0 to {len(modules) - 1}.")
    if any(getattr(module, _SLOT, None) is not None for module in modules):
        raise ConfigError("this model is being steered already; leave the first block before entering another.")
    with installed(model):
        try:
            for index, layer in layers.items():
                setattr(modules[index], _SLOT, layer)
            yield
        finally:
            for index in layers:
                setattr(modules[index], _SLOT, None)


# ------------------------------------------------------------------------------------------------ routes outside the layers


def additive_mask(
    keys_S: Sequence[int] | Tensor,
    log_gain: float | Tensor,
    num_rows: int,
    num_keys: int,
    *,
    pads_B: Sequence[int] = (0,),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Route B: a causal 4-D mask with the bias in it, to be passed as `attention_mask`; one bias for all layers.

    Args:
        keys_S: steered positions of an unpadded sequence.
        log_gain: log(alpha), one number or one per head, (H,).
        num_rows, num_keys: rows are the last of the keys.
        pads_B: padding in front of each sequence.

    Returns:
        (B, 1 or H, R, T): 0 or log(alpha) where a key is seen, the dtype's smallest number where not.
    """
    places = torch.as_tensor(keys_S, dtype=torch.int64)
    gains = torch.as_tensor(log_gain, dtype=torch.float64).reshape(-1)
    offset = num_keys - num_rows
    masks = []
    for pad in pads_B:
        seen = _causal(0, num_rows, num_keys, offset, torch.device("cpu"))[0, 0].clone()
        seen[:, :pad] = False
        row_T = torch.zeros(num_keys, dtype=torch.float64)
        row_T[places[places + pad < num_keys] + pad] = 1.0
        bias = (gains[:, None, None] * row_T).expand(-1, num_rows, -1)
        masks.append(torch.where(seen, bias, torch.finfo(dtype).min))
    return torch.stack(masks).to(dtype)


def duplicate_entries(cache: Any, keys_S: Sequence[int] | Tensor, alpha: int) -> Any:
    """Route D: a copy of a cache in which the steered entries stand alpha times; steers all heads of all layers.

    The copies are appended, so the next tokens need explicit `position_ids` that go on from the original length. Only for rows
    that come after all of the cache (a query on a cached context), not inside a causal prefill.

    Raises:
        ConfigError: alpha is no whole number >= 1, a position is not in the cache, or layers have a sliding window.
    """
    if alpha != int(alpha) or alpha < 1:
        raise ConfigError(f"alpha={alpha}: entries can be repeated a whole number of times only, at least once.")
    places = torch.as_tensor(keys_S, dtype=torch.int64)
    copied = DynamicCache()
    for index, layer in enumerate(cache.layers):
        if getattr(layer, "is_sliding", False):
            raise ConfigError("a cache with sliding-window layers cannot hold repeated entries; use the bias route.")
        if len(places) and int(places.max()) >= layer.keys.shape[2]:
            raise ConfigError(f"position {int(places.max())} is not among the {layer.keys.shape[2]} cached ones.")
        extra = places.repeat(int(alpha) - 1).to(layer.keys.device)
        copied.update(
            torch.cat([layer.keys, layer.keys[:, :, extra]], 2),
            torch.cat([layer.values, layer.values[:, :, extra]], 2),
            index,
        )
    return copied


class _ChannelLayer(DynamicLayer):
    """A cache layer that stores keys with the steering channel and values padded to the same width."""

    def __init__(self, keys_S: Tensor, scale: float) -> None:
        super().__init__()
        self._keys_S, self._scale = keys_S, scale

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        first, count = self.get_seq_length(), key_states.shape[2]
        row_T = torch.zeros(count, device=key_states.device)
        inside = self._keys_S[(self._keys_S >= first) & (self._keys_S < first + count)].to(key_states.device)
        row_T[inside - first] = 1.0
        wider = add_key_channel(key_states, row_T[None], self._scale)
        keys, values = super().update(wider, functional.pad(value_states, (0, CHANNEL_DIMS)), *args, **kwargs)
        return keys, values


def channel_cache(model: Any, keys_by_layer: Mapping[int, Tensor]) -> Any:
    """Route C with the token sets stored in the cache: alpha and heads may then differ from request to request.

    Use it under `active`, with a `LayerSteering` for every layer; it gives the heads' gains at run time.

    Args:
        keys_by_layer: {layer: positions of the steered tokens, unpadded}; layers without an entry steer nothing.
    """
    cache = DynamicCache()
    cache.layers = [
        _ChannelLayer(keys_by_layer.get(index, torch.zeros(0, dtype=torch.int64)), float(module.scaling))
        for index, module in enumerate(attention_modules(model))
    ]
    return cache


def gains(heads: Sequence[int], num_heads: int, alpha: float) -> Tensor:
    """log(alpha) at the given heads, 0 elsewhere, (H,), float64.

    Raises:
        ConfigError: alpha is not positive, or a head does not exist.
    """
    if not alpha > 0 or not math.isfinite(alpha):
        raise ConfigError(f"alpha={alpha} must be a positive number; 1 changes nothing.")
    for head in heads:
        if not 0 <= head < num_heads:
            raise ConfigError(f"head {head} does not exist; the layer has heads 0 to {num_heads - 1}.")
    log_gain_H = torch.zeros(num_heads, dtype=torch.float64)
    log_gain_H[list(heads)] = math.log(alpha)
    return log_gain_H
