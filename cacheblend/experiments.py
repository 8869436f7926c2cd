"""One experiment per table or figure of the paper, and some of our own; `cacheblend/README.md` lists metrics and factors.

Experiments of storage and scheduling (Figs. 10, 14, 17, C, F) are in `cacheblend.experiments_storage`.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from cacheblend.api import EXPERIMENTS, METHODS, WORKLOADS, Request
from cacheblend.attention import RowAttention, probabilities
from cacheblend.blend import BlendPlan
from cacheblend.engine import Engine
from cacheblend.harness import Variant, engine_for, judged_rows, requests_of, run_batch, run_methods, with_ratio
from cacheblend.selection import FirstOfChunk, HighKVDeviation, deviation
from common.errors import ConfigError
from common.experiment import Run
from common.kv import KVCache
from common.results import ItemRows, Row

FULL_REUSE = BlendPlan(0.0, FirstOfChunk(), check_layer=0, schedule="constant")


@EXPERIMENTS.add("ttft_vs_quality")
@dataclasses.dataclass(frozen=True)
class TtftVsQuality:
    """Quality of the answers against time to first token, for every method (CacheBlend, Figs. 12 and 13).

    Attributes:
        repeats: timed rounds per request; every round runs all methods, in rotating order.
        warmup: untimed rounds before them.
    """

    repeats: int = 3
    warmup: int = 1

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request and method: ttft, recomputed_share, kl_to_full, and f1 or rouge_l where there is a gold answer."""
        engine = engine_for(run)
        variants = [Variant(name, method) for name, method in run.methods.items()]
        for key, request in run.todo(requests_of(run, engine)):
            yield ItemRows(key, judged_rows(engine, request, variants, warmup=self.warmup, repeats=self.repeats))


@EXPERIMENTS.add("mapreduce_baselines")
@dataclasses.dataclass(frozen=True)
class MapReduceBaselines(TtftVsQuality):
    """Quality against time to first token beside MapReduce and MapRerank (CacheBlend, Fig. 13).

    Attributes:
        repeats, warmup: fewer than usual: MapReduce decodes a summary of every chunk and takes many times as long.
    """

    repeats: int = 1
    warmup: int = 0


@EXPERIMENTS.add("quality_vs_ratio")
@dataclasses.dataclass(frozen=True)
class QualityVsRatio:
    """Quality and distance to full prefill against the recompute ratio, for every way to choose tokens (Fig. 16; our Fig. A).

    Each of the run's methods that has a `ratio` is run at every ratio; the others once, as lines to compare with.

    Attributes:
        ratios: the paper's r.
        is_timed: also take the time to first token.
        repeats: timed rounds.
    """

    ratios: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)
    is_timed: bool = False
    repeats: int = 1

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request, method and ratio: what `ttft_vs_quality` gives; factor `ratio`, absent for methods without one."""
        engine = engine_for(run)
        variants: list[Variant] = []
        for name, method in run.methods.items():
            if hasattr(method, "ratio"):
                variants += [Variant(name, with_ratio(method, r), {"ratio": float(r)}) for r in self.ratios]
            else:
                variants.append(Variant(name, method))
        for key, request in run.todo(requests_of(run, engine)):
            rows = judged_rows(engine, request, variants, repeats=self.repeats, is_timed=self.is_timed)
            yield ItemRows(key, rows)


@EXPERIMENTS.add("selectors_at_equal_work")
@dataclasses.dataclass(frozen=True)
class SelectorsAtEqualWork:
    """All ways to choose tokens at the same number of computed tokens, not the same ratio (ours).

    A choice that must see a layer computed in full pays for it; one made in advance may spend that on more tokens. Each method's
    ratio is set so that the mean number of rows per layer is the same share of the non-prefix tokens.

    Attributes:
        shares: rows per layer, as shares of the non-prefix reused tokens, that every method gets.
    """

    shares: tuple[float, ...] = (0.2, 0.3, 0.45)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request, method and share: recomputed_share, kl_to_full, quality; factor `share`."""
        engine = engine_for(run)
        num_layers = engine.transformer.num_layers
        variants: list[Variant] = []
        for name, method in run.methods.items():
            if not hasattr(method, "ratio"):
                raise ConfigError(f"method {name!r} has no ratio, so its work cannot be set; leave it out.")
            full_layers = getattr(method, "check_layer", 0)
            for share in self.shares:
                ratio = (share * num_layers - full_layers) / (num_layers - full_layers)
                if 0 <= ratio <= 1:
                    variants.append(Variant(name, with_ratio(method, ratio), {"share": float(share)}))
        if not variants:
            raise ConfigError(f"shares={list(self.shares)}: with {num_layers} layers no method can do so little work.")
        for key, request in run.todo(requests_of(run, engine)):
            yield ItemRows(key, judged_rows(engine, request, variants, is_timed=False))


@EXPERIMENTS.add("quality_vs_chunks")
@dataclasses.dataclass(frozen=True)
class QualityVsChunks:
    """Quality against the number of chunks in the context (CacheBlend, Figs. 2 and 3).

    The workload must have a knob `num_chunks`.

    Attributes:
        num_chunks: the numbers of chunks.
    """

    num_chunks: tuple[int, ...] = (2, 4, 6, 9, 12)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request, method and number of chunks: recomputed_share, kl_to_full, quality; factor `num_chunks`."""
        engine = engine_for(run)
        _require(run.workload, "num_chunks", run)
        pairs = [
            (f"{count:03d}-{key}", (count, request))
            for count in self.num_chunks
            for key, request in requests_of(run, engine, dataclasses.replace(run.workload, num_chunks=count))
        ]
        for key, (count, request) in run.todo(pairs):
            variants = [Variant(name, method, {"num_chunks": count}) for name, method in run.methods.items()]
            yield ItemRows(key, judged_rows(engine, request, variants, is_timed=False))


def _at_all(name: str, method: Any, **knobs: Sequence[Any]) -> list[Variant]:
    """A method at every combination of values of its knobs, which are the factors."""
    return [
        Variant(name, dataclasses.replace(method, **factors), factors)
        for values in itertools.product(*knobs.values())
        for factors in [dict(zip(knobs, values, strict=True))]
    ]


@EXPERIMENTS.add("mask_effect")
@dataclasses.dataclass(frozen=True)
class MaskEffect:
    """The correct mask against the bottom-right one of the authors' released code, over ratios (ours, Fig. E).

    Attributes:
        ratios: the paper's r.
    """

    ratios: tuple[float, ...] = (0.05, 0.15, 0.3, 0.5, 0.75)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request: kl_to_full and quality of `cacheblend`; factors `ratio` and `mask`."""
        engine = engine_for(run)
        method = run.methods.get("cacheblend") or METHODS.create("cacheblend")
        variants = _at_all("cacheblend", method, mask=("absolute", "bottom_right"), ratio=self.ratios)
        for key, request in run.todo(requests_of(run, engine)):
            yield ItemRows(key, judged_rows(engine, request, variants, is_timed=False))


@EXPERIMENTS.add("check_layer_effect")
@dataclasses.dataclass(frozen=True)
class CheckLayerEffect:
    """The layer at which the tokens to recompute are chosen, over ratios (ours).

    The paper checks at layer 1 of 32 to 80; a layer of a shallow model does the work of several. All layers up to the check
    layer are computed in full, so a later check costs more, and helps by that alone: `random` beside `cacheblend` shows how
    much of the effect is the choice.

    Attributes:
        check_layers: layers, from 1 on.
        ratios: the paper's r.
    """

    check_layers: tuple[int, ...] = (1, 2, 3)
    ratios: tuple[float, ...] = (0.05, 0.1, 0.15, 0.25)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request and method: recomputed_share, kl_to_full, quality; factors `ratio` and `check_layer` where it has them."""
        engine = engine_for(run)
        variants = []
        for name, method in run.methods.items():
            if hasattr(method, "check_layer"):
                variants += _at_all(name, method, check_layer=self.check_layers, ratio=self.ratios)
            else:
                variants.append(Variant(name, method))
        for key, request in run.todo(requests_of(run, engine)):
            yield ItemRows(key, judged_rows(engine, request, variants, is_timed=False))


# ------------------------------------------------------------------------------------------------- what the paper rests on


def _truth_and_reuse(engine: Engine, request: Request) -> tuple[KVCache, KVCache, range, Sequence[int]]:
    """Full-prefill KV, fully reused KV, the reused tokens that are no exact prefix, and where their chunks start."""
    pieces, missed = engine.pieces(request)
    reused = engine.blend_pieces(request, pieces, FULL_REUSE, missed).computed.kv
    return engine.truth(request).kv, reused, range(pieces.num_exact, pieces.num_tokens), pieces.chunk_starts


def _require(workload: Any, knob: str, run: Run) -> None:
    if workload is None or not hasattr(workload, knob):
        raise ConfigError(f"experiment {run.experiment!r} needs a workload with a knob {knob!r}, e.g. multi_chunk_qa.")


@EXPERIMENTS.add("kv_deviation")
@dataclasses.dataclass(frozen=True)
class KVDeviation:
    """How unevenly the KV deviation is spread over the tokens (CacheBlend, Fig. 7).

    Attributes:
        quantiles: shares of tokens at which the distribution is stored.
    """

    quantiles: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 0.85, 0.9, 0.95, 0.98, 1.0)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request and layer >= 1.

        kv_deviation: the quantile of the tokens' deviation (L2 of the value difference over heads and channels) divided by their
        mean; factors `layer`, `token_share`. top_share: what part of the summed squared deviation the 15 % largest hold; factor
        `layer`.
        """
        engine = engine_for(run)
        for key, request in run.todo(requests_of(run, engine)):
            engine.precompute(request)
            truth, reused, tokens, _ = _truth_and_reuse(engine, request)
            rows = []
            for layer in range(1, truth.num_layers):
                size = _deviation_of(truth, reused, layer, tokens)
                if not len(size) or not size.mean() > 0:
                    continue
                for share in self.quantiles:
                    value = float(np.quantile(size, share) / size.mean())
                    rows.append(
                        Row("kv_deviation", value, "1", "measured", factors={"layer": layer, "token_share": share})
                    )
                largest = np.sort(size**2)[::-1][: max(1, round(0.15 * len(size)))]
                rows.append(
                    Row("top_share", float(largest.sum() / (size**2).sum()), "1", "measured", factors={"layer": layer})
                )
            yield ItemRows(key, rows)


def _deviation_of(truth: KVCache, reused: KVCache, layer: int, tokens: range) -> np.ndarray:
    part = slice(tokens.start, tokens.stop)
    size = deviation(truth.values_LHTD[layer][:, part], reused.values_LHTD[layer][:, part])
    return np.asarray(size.double().cpu())


@EXPERIMENTS.add("rank_correlation")
@dataclasses.dataclass(frozen=True)
class RankCorrelation:
    """Spearman correlation of the tokens' KV deviation between neighbouring layers (CacheBlend, Fig. 8)."""

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request and layer >= 1 but the last: rank_correlation with the next layer; factor `layer`."""
        from scipy.stats import spearmanr

        engine = engine_for(run)
        for key, request in run.todo(requests_of(run, engine)):
            engine.precompute(request)
            truth, reused, tokens, _ = _truth_and_reuse(engine, request)
            sizes = [_deviation_of(truth, reused, layer, tokens) for layer in range(1, truth.num_layers)]
            rows = []
            for layer, (here, after) in enumerate(itertools.pairwise(sizes), start=1):
                if len(here) > 2 and np.ptp(here) > 0 and np.ptp(after) > 0:
                    value = float(spearmanr(here, after).statistic)
                    rows.append(Row("rank_correlation", value, "1", "measured", factors={"layer": layer}))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("deviation_by_offset")
@dataclasses.dataclass(frozen=True)
class DeviationByOffset:
    """KV deviation against a token's place in its chunk: do the first tokens, once attention sinks, deviate more? (ours, Fig. B).

    Attributes:
        max_offset: places shown.
    """

    max_offset: int = 48

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request and place: kv_deviation, relative to the request's mean, averaged over chunks and layers >= 1; factors
        `offset_tokens` and `sink` (whether chunks were computed behind BOS)."""
        engines = {has_sink: engine_for(run, has_sink=has_sink) for has_sink in (True, False)}
        for key, request in run.todo(requests_of(run, engines[True])):
            rows = []
            for has_sink, engine in engines.items():
                engine.precompute(request)
                truth, reused, tokens, starts = _truth_and_reuse(engine, request)
                relative = []
                for layer in range(1, truth.num_layers):
                    size = _deviation_of(truth, reused, layer, tokens)
                    relative.append(size / max(float(size.mean()), 1e-300))
                mean_T = np.mean(relative, axis=0)
                where_T = np.array(tokens)
                offset_T = where_T - np.array(starts)[np.searchsorted(starts, where_T, side="right") - 1]
                for offset in range(min(self.max_offset, int(offset_T.max(initial=-1)) + 1)):
                    factors = {"offset_tokens": offset, "sink": has_sink}
                    rows.append(
                        Row("kv_deviation", float(mean_T[offset_T == offset].mean()), "1", "measured", factors=factors)
                    )
            yield ItemRows(key, rows)


@EXPERIMENTS.add("attention_deviation")
@dataclasses.dataclass(frozen=True)
class AttentionDeviation:
    """How far the question's attention is from that of full prefill, against the recompute ratio (CacheBlend, Fig. 6).

    Attributes:
        ratios: the paper's r.
        last_rows: rows of the forward attention matrix: the last tokens of the prompt (inferred: 16).
    """

    ratios: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
    last_rows: int = 16

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request, method and ratio: attention_deviation, divided by that of full reuse; factor `ratio`.

        Frobenius norm of the difference of the attention probabilities, averaged over heads, of the last rows; averaged over
        the layers >= 1.
        """
        engine = engine_for(run)
        for key, request in run.todo(requests_of(run, engine)):
            engine.precompute(request)
            ids = torch.tensor(engine.ids(request))
            last = torch.arange(len(ids) - min(self.last_rows, len(request.question)), len(ids))
            truth = _attention_of_rows(engine, ids, engine.truth(request).kv, last)
            reuse = _attention_of_rows(engine, ids, engine.blend(request, FULL_REUSE).kv, last)
            base = _distance(truth, reuse)
            if not base > 0:
                raise ConfigError(
                    "full reuse is exact here, so nothing can be divided by its deviation: use more chunks."
                )
            rows = []
            for name, method in run.methods.items():
                for ratio in self.ratios:
                    kv = with_ratio(method, ratio).prefill(request, engine).computed.kv
                    value = _distance(truth, _attention_of_rows(engine, ids, kv, last)) / base
                    rows.append(Row("attention_deviation", value, "1", "measured", name, {"ratio": float(ratio)}))
            yield ItemRows(key, rows)


@torch.no_grad()
def _attention_of_rows(engine: Engine, ids_N: torch.Tensor, kv: KVCache, rows_R: torch.Tensor) -> list[torch.Tensor]:
    """Attention of some rows at each layer >= 1, head-averaged, (R, N) on the CPU: the rows run again over the given KV."""
    net = engine.transformer
    rotary = net.rotary(rows_R)
    hidden_RE = net.embed(ids_N[rows_R])
    found = []
    for layer in range(net.num_layers):
        normed_RE = net.enter(layer, hidden_RE)
        query_QRD = net.query(layer, normed_RE, rotary)
        keys_HND, values_HND = kv.layer(layer)
        window = net.window(layer)
        if layer:
            shares_QRN = probabilities(query_QRD, keys_HND, rows_R, net.scale(layer), window)
            found.append(shares_QRN.mean(0).double().cpu())
        attend = RowAttention(rows_R, rows_R, net.dtype, net.device, window)
        hidden_RE = net.leave(layer, hidden_RE, attend(query_QRD, keys_HND, values_HND, net.scale(layer)))
    return found


def _distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return float(np.mean([float((x - y).norm()) for x, y in zip(a, b, strict=True)]))


@EXPERIMENTS.add("attention_map")
@dataclasses.dataclass(frozen=True)
class AttentionMap:
    """Attention between chunks with full prefill, full reuse and CacheBlend: the cross-chunk block (CacheBlend, Fig. 4).

    With full reuse a chunk's KV was computed without looking at the others: that block is empty by construction. With
    CacheBlend the recomputed rows look across.

    Attributes:
        bins: tokens are averaged into so many bins per side.
        ratio: of CacheBlend.
    """

    bins: int = 32
    ratio: float = 0.15

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request: attention, the mean probability mass from a query bin to a key bin over heads and layers >= 1, over the
        chunks' tokens; factors `variant` (full_recompute, full_reuse, cacheblend), `query_bin`, `key_bin`. cross_chunk_mass: the
        mass that tokens after the first chunk give to other chunks; factor `variant`."""
        engine = engine_for(run)
        for key, request in run.todo(requests_of(run, engine)):
            engine.precompute(request)
            rows = []
            chunk_T = np.repeat(np.arange(len(request.chunks)), [len(chunk) for chunk in request.chunks])
            is_other = chunk_T[:, None] != chunk_T[None, :]
            later = chunk_T > 0
            for variant, map_TT in self._maps(engine, request).items():
                cross = float((map_TT * is_other)[later].sum(1).mean()) if later.any() else 0.0
                rows.append(Row("cross_chunk_mass", cross, "1", "measured", factors={"variant": variant}))
                edges = np.linspace(0, len(map_TT), self.bins + 1).astype(int)
                for i in range(self.bins):
                    for j in range(i + 1):
                        block = map_TT[edges[i] : edges[i + 1], edges[j] : edges[j + 1]]
                        if block.size:
                            factors = {"variant": variant, "query_bin": i, "key_bin": j}
                            rows.append(Row("attention", float(block.sum(1).mean()), "1", "measured", factors=factors))
            yield ItemRows(key, rows)

    def _maps(self, engine: Engine, request: Request) -> dict[str, np.ndarray]:
        """Attention among the tokens of the chunks, mean over heads and layers >= 1, (T, T), for each variant."""
        pieces, missed = engine.pieces(request)
        ids = torch.tensor(engine.ids(request))
        first, end = _first_chunk_token(engine, request), pieces.num_tokens

        def among(kv: KVCache, of: torch.Tensor, rows_R: torch.Tensor) -> torch.Tensor:
            return torch.stack(_attention_of_rows(engine, of, kv, rows_R)).mean(0)

        full_TT = among(engine.truth(request).kv, ids, torch.arange(first, end))[:, first:end]
        # With full reuse a token's KV comes from what it saw when its chunk was computed alone.
        alone_TT = torch.zeros_like(full_TT)
        start = first
        for chunk in request.chunks:
            lone = torch.tensor([*engine.bos, *chunk])
            own = torch.arange(len(engine.bos), len(lone))
            inside = slice(start - first, start - first + len(chunk))
            alone_TT[inside, inside] = among(engine.compute(chunk).kv, lone, own)[:, len(engine.bos) :]
            start += len(chunk)
        plan = BlendPlan(self.ratio, HighKVDeviation(), schedule="constant")
        blended = engine.blend_pieces(request, pieces, plan, missed)
        mixed_TT = alone_TT.clone()
        picked = blended.rows[-1][blended.rows[-1] < end]
        if len(picked):
            mixed_TT[picked - first] = among(blended.computed.kv, ids, picked)[:, first:end]
        return {
            "full_recompute": full_TT.numpy(),
            "full_reuse": alone_TT.numpy(),
            "cacheblend": mixed_TT.numpy(),
        }


def _first_chunk_token(engine: Engine, request: Request) -> int:
    return len(engine.bos) + len(request.prefix)


# ----------------------------------------------------------------------------------------------------------------- speed


@EXPERIMENTS.add("speed_vs_ratio")
@dataclasses.dataclass(frozen=True)
class SpeedVsRatio:
    """Measured speed-up of CacheBlend over full recompute beside the bound that the operation count allows (ours, Fig. D).

    Attributes:
        ratios: the paper's r.
        repeats, warmup: rounds per request, all ratios and full recompute interleaved.
    """

    ratios: tuple[float, ...] = (0.05, 0.15, 0.3, 0.5)
    repeats: int = 3
    warmup: int = 1

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per request and ratio.

        ttft of every method, of `cacheblend` with factor `ratio`. speedup: ratio of the times of the same round, median over
        rounds, measured. speedup_bound: from the counted operations of both runs, modelled. speedup_formula:
        L / (1 + (L-1)(r + n_q / N)), modelled. flop_efficiency: speedup / speedup_bound.
        """
        engine = engine_for(run)
        method = run.methods.get("cacheblend") or METHODS.create("cacheblend")
        others = {"full_recompute": METHODS.create("full_recompute"), **run.methods}
        variants = {name: Variant(name, other) for name, other in others.items() if name != "cacheblend"}
        for ratio in self.ratios:
            variants[f"cacheblend@{ratio}"] = Variant("cacheblend", with_ratio(method, ratio), {"ratio": float(ratio)})
        methods = {key: variant.method for key, variant in variants.items()}
        num_layers = engine.transformer.num_layers
        for key, request in run.todo(requests_of(run, engine)):
            outcomes = run_methods(engine, request, methods, warmup=self.warmup, repeats=self.repeats)
            full = outcomes["full_recompute"]
            full_flops = prefill_flops(engine, full.prefill.computed.report.rows_per_layer, request)
            rows = []
            for variant, outcome in outcomes.items():
                name, factors = variants[variant].name, variants[variant].factors
                rows.append(Row("ttft", float(np.median(outcome.ttft_s)), "s", "measured", name, factors))
                if name == "full_recompute":
                    continue
                speedup = float(np.median(np.array(full.ttft_s) / np.array(outcome.ttft_s)))
                rows.append(Row("speedup", speedup, "1", "measured", name, factors))
                report = outcome.prefill.computed.report
                bound = full_flops / prefill_flops(engine, report.rows_per_layer, request)
                rows.append(Row("speedup_bound", bound, "1", "modelled", name, factors))
                rows.append(Row("flop_efficiency", speedup / bound, "1", "measured", name, factors))
                if "ratio" in factors:
                    per_layer = factors["ratio"] + len(request.question) / report.prompt_tokens
                    formula = num_layers / (1 + (num_layers - 1) * min(1.0, per_layer))
                    rows.append(Row("speedup_formula", formula, "1", "modelled", name, factors))
            yield ItemRows(key, rows)


def prefill_flops(engine: Engine, rows_per_layer: Sequence[int], request: Request) -> float:
    """Floating-point operations of a prefill that computes so many rows per layer: projections, MLP, attention, head.

    Attention is counted as if the rows were spread evenly over the prompt's uncached part, each seeing half of it and all before
    it. Layers where rows were dropped also projected K and V of the dropped ones.
    """
    config = engine.loaded.config
    net = engine.transformer
    d, d_ff = config.hidden_size, config.intermediate_size
    d_q, d_kv = config.num_attention_heads * net.head_dim, net.num_kv_heads * net.head_dim
    n = request.num_tokens + len(engine.bos)
    total = 2.0 * d * config.vocab_size
    before = rows_per_layer[0]
    first = n - before  # tokens in front of the first computed row
    for layer, rows in enumerate(rows_per_layer):
        total += rows * 2 * (2 * d * d_q + 2 * d * d_kv + 3 * d * d_ff)
        total += max(0, before - rows) * 2 * 2 * d * d_kv
        keys_seen = (first + n) / 2
        window = net.window(layer)
        total += rows * 4 * d_q * (keys_seen if window is None else min(keys_seen, window))
        before = rows
    return total


@EXPERIMENTS.add("sensitivity")
@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Time to first token against the number and the length of the chunks and the size of a batch (CacheBlend, Fig. 15).

    Attributes:
        num_chunks: numbers of chunks, at the middle one of `chunk_tokens`.
        chunk_tokens: lengths of chunks, at the middle one of `num_chunks`.
        batches: numbers of requests that arrive together, each at the middle number and length of chunks.
        repeats, warmup: rounds per request or batch.
    """

    num_chunks: tuple[int, ...] = (3, 6, 9, 12)
    chunk_tokens: tuple[int, ...] = (300, 600, 900)
    batches: tuple[int, ...] = (2, 6, 10)
    repeats: int = 3
    warmup: int = 1

    def __post_init__(self) -> None:
        for name in ("num_chunks", "chunk_tokens", "batches"):
            if any(value < 1 for value in getattr(self, name)):
                raise ConfigError(f"{name}={list(getattr(self, name))}: all must be at least 1.")
        if not self.num_chunks or not self.chunk_tokens:
            raise ConfigError("num_chunks and chunk_tokens of sensitivity need a value each; batches may be empty.")

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per point, request or batch, and method: ttft, recomputed_share; of a batch also throughput (req/s).

        Factors: `num_chunks`, `chunk_tokens`, `batch` (1 outside its panel), and `panel`: "chunks", "length" or "batch". ttft of
        a batch is the mean over its requests, from the arrival of all of them to the first token of each; throughput is their
        number over the time until the last first token.
        """
        engine = engine_for(run)
        middle_chunks = self.num_chunks[len(self.num_chunks) // 2 - 1 if len(self.num_chunks) > 1 else 0]
        middle_tokens = self.chunk_tokens[len(self.chunk_tokens) // 2]
        points = [("chunks", count, middle_tokens, 1) for count in self.num_chunks]
        points += [("length", middle_chunks, tokens, 1) for tokens in self.chunk_tokens]
        points += [("batch", middle_chunks, middle_tokens, batch) for batch in self.batches]
        pairs = []
        for panel, count, tokens, batch in points:
            workload = WORKLOADS.create("random_tokens", num_chunks=count, chunk_tokens=tokens)
            factors = {"panel": panel, "num_chunks": count, "chunk_tokens": tokens, "batch": batch}
            drawn = requests_of(dataclasses.replace(run, num_items=run.num_items * batch), engine, workload)
            where = f"{batch:02d}" if panel == "batch" else f"{count:02d}x{tokens:04d}"
            for index in range(run.num_items):
                requests = tuple(request for _, request in drawn[index * batch : (index + 1) * batch])
                pairs.append((f"{panel}-{where}-{drawn[index][0]}", (factors, requests)))
        for key, (factors, requests) in run.todo(pairs):
            # A store of its own per point: the chunks of all points together would not fit into memory on a small machine.
            own = engine_for(run)
            rows = []
            outcomes = run_batch(own, requests, run.methods, warmup=self.warmup, repeats=self.repeats)
            for name, outcome in outcomes.items():
                rows.append(Row("ttft", outcome.mean_ttft_s, "s", "measured", name, factors))
                rows.append(Row("recomputed_share", outcome.recomputed_share, "1", "measured", name, factors))
                if factors["panel"] == "batch":
                    rows.append(Row("throughput", outcome.throughput_rps, "req/s", "measured", name, factors))
            yield ItemRows(key, rows)
