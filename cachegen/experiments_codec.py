"""Experiments about the codec's inside: what its three insights are worth on this model, what each idea adds, what it costs."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cachegen import bitstream
from cachegen.api import EXPERIMENTS, Context
from cachegen.baselines import Uniform
from cachegen.codec import Codec
from cachegen.engine import Engine
from cachegen.harness import (
    NUM_PROFILE_CONTEXTS,
    Judge,
    engine_for,
    items_of,
    random_context,
    sample_contexts,
    size_rows,
)
from cachegen.methods import CacheGen, CutCodec
from cachegen.profile import build_profile, correlation_at_lags, quantise
from cachegen.profiling import cut, noisy, profile_model
from cachegen.quantisation import entropy_bits, quantise_steps
from cachegen.settings import PAPER, RELEASED, TUNED, Level, Settings
from common.entropy import Tables, encode
from common.errors import ConfigError
from common.experiment import Run
from common.kv import KVCache
from common.results import ItemRows, Row
from common.rng import for_component
from common.rope import Rope
from common.timing import measure_interleaved

SIDES = ("keys", "values")


def _channels(kv: KVCache, layer: int, which: int, rotation: Rope | None = None) -> Tensor:
    x_HTD = kv.layer(layer)[which].float()
    if rotation is not None and which == 0:
        x_HTD = rotation.undo(x_HTD.float(), kv.positions_T)
    return x_HTD.transpose(1, 2).reshape(-1, kv.num_tokens)


# ---------------------------------------------------------------------------------------------------------- the insights


@EXPERIMENTS.add("token_locality")
@dataclasses.dataclass(frozen=True)
class TokenLocality:
    """How alike nearby tokens are: variance of values over variance of deltas, and correlation (CacheGen, Fig. 3; ours, Fig. D).

    Attributes:
        lags: distances in tokens.
        quantiles: shares at which the distributions of absolute values and deltas are stored.
    """

    lags: tuple[int, ...] = (1, 2, 5, 9)
    quantiles: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item: variance_ratio (all values over deltas to the neighbour, pooled as in the paper), within_channel_ratio
        (each channel's own variance over that of its deltas), correlation; factors `layer`, `side`, `rope` (after, before),
        `lag`. abs_value and abs_delta: quantiles over the mean absolute value; factors `side`, `share`."""
        engine = engine_for(run)
        rotation = Rope.of(engine.loaded.model)
        for key, item in run.todo(items_of(run, "workload", run.num_items)):
            kv = engine.context_of(item).kv
            rows = []
            for layer in range(kv.num_layers):
                for which, side in enumerate(SIDES):
                    for rope in ("after", "before") if which == 0 else ("after",):
                        x_CT = _channels(kv, layer, which, rotation if rope == "before" else None).double()
                        factors = {"layer": layer, "side": side, "rope": rope}
                        delta_CT = x_CT[:, 1:] - x_CT[:, :-1]
                        spread = float(delta_CT.var())
                        pooled = float(x_CT.var()) / spread
                        own = float((x_CT.var(dim=1) / delta_CT.var(dim=1).clamp(min=1e-12)).mean())
                        rows.append(Row("variance_ratio", pooled, "1", "measured", factors=factors))
                        rows.append(Row("within_channel_ratio", own, "1", "measured", factors=factors))
                        for lag, rho in correlation_at_lags(x_CT, self.lags).items():
                            rows.append(Row("correlation", rho, "1", "measured", factors={**factors, "lag": lag}))
            for which, side in enumerate(SIDES):
                x = torch.stack([_channels(kv, layer, which) for layer in range(kv.num_layers)])
                size, delta = x.abs().flatten(), (x[..., 1:] - x[..., :-1]).abs().flatten()
                for share in self.quantiles:
                    factors = {"side": side, "share": share}
                    for name, values in (("abs_value", size), ("abs_delta", delta)):
                        value = float(np.quantile(values.numpy(), share) / size.mean())
                        rows.append(Row(name, value, "1", "measured", factors=factors))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("layer_sensitivity")
@dataclasses.dataclass(frozen=True)
class LayerSensitivity:
    """What loss in one group of layers costs (CacheGen, Fig. 4): rounding that group alone, keys and values.

    Attributes:
        num_groups: groups of neighbouring layers.
        fineness: M of the rounding; small is coarse.
        noise_shares: Gaussian noise, in standard deviations, as a second kind of loss.
    """

    num_groups: int = 4
    fineness: int = 1
    noise_shares: tuple[float, ...] = (0.5, 1.0)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item and group: kl and quality; factors `group`, `loss` (rounding, noise), `noise_share`. Group -1: no loss."""
        engine = engine_for(run)
        for key, item in run.todo(items_of(run, "workload", run.num_items)):
            judge = Judge.of(engine, item)
            kv = judge.context.kv
            rows = judge.rows("", kv, {"group": -1, "loss": "none"})
            num_groups = min(self.num_groups, kv.num_layers)
            for group, layers in enumerate(np.array_split(np.arange(kv.num_layers), num_groups)):
                rounded = self._rounded(kv, layers.tolist())
                rows += judge.rows("", rounded, {"group": group, "loss": "rounding"})
                for share in self.noise_shares:
                    changed = noisy(kv, layers.tolist(), None, share, run.rng("noise", key, group, str(share)))
                    rows += judge.rows("", changed, {"group": group, "loss": "noise", "noise_share": share})
            yield ItemRows(key, rows)

    def _rounded(self, kv: KVCache, layers: Sequence[int]) -> KVCache:
        level = (Level("x", ((1.0, self.fineness),), ((1.0, self.fineness),)),)
        form = Settings(level, group_tokens=1, delta="never")
        keys, values = kv.keys_LHTD.clone(), kv.values_LHTD.clone()
        for layer in layers:
            for which, target in enumerate((keys, values)):
                quantised = quantise(_channels(kv, layer, which), form, self.fineness, 0.0, False, kv.dtype)
                x_CT = quantised.integers["direct"].float() * (quantised.scales_T / self.fineness)
                target[layer] = x_CT.view(kv.num_heads, kv.head_dim, -1).transpose(1, 2).to(kv.dtype)
        return KVCache(keys, values, kv.positions_T, kv.is_rotated)


@EXPERIMENTS.add("entropy_by_grouping")
@dataclasses.dataclass(frozen=True)
class EntropyByGrouping:
    """Bits per element when values share a table by token position, channel, layer, or layer and channel (CacheGen, Fig. 5).

    Attributes:
        fineness: steps per standard deviation of all values together.
    """

    fineness: float = 2.0

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per run, over all contexts pooled: entropy (bits_estimated: no bytes are made here); factors `grouping`, `side`."""
        engine = engine_for(run)
        items = items_of(run, "workload", run.num_items)
        for key, _ in run.todo([("all", None)]):
            caches = [engine.context_of(item).kv for _, item in items]
            shortest = min(kv.num_tokens for kv in caches)
            rows = []
            for which, side in enumerate(SIDES):
                x_LCTN = torch.stack(
                    [
                        torch.stack([_channels(kv, layer, which)[:, :shortest] for layer in range(kv.num_layers)])
                        for kv in caches
                    ],
                    dim=-1,
                )
                q = quantise_steps(x_LCTN, float(x_LCTN.std()) / self.fineness)
                num_layers, num_channels, num_tokens, _ = q.shape
                grouped = {
                    "none": q.reshape(1, -1),
                    "token": q.permute(2, 0, 1, 3).reshape(num_tokens, -1),
                    "channel": q.permute(1, 0, 2, 3).reshape(num_channels, -1),
                    "layer": q.reshape(num_layers, -1),
                    "layer and channel": q.reshape(num_layers * num_channels, -1),
                }
                for grouping, symbols in grouped.items():
                    bits = entropy_bits(symbols) / q.numel()
                    factors = {"grouping": grouping, "side": side}
                    rows.append(Row("bits_estimated", bits, "bit", "measured", factors=factors))
            yield ItemRows(key, rows)


# ---------------------------------------------------------------------------------------------------------- the ablation

_SINGLE = {"table_scope": "model", "delta": "never", "is_layerwise": False}
ABLATION: dict[str, dict[str, Any]] = {
    "+ coding, one table": _SINGLE,
    "+ tables per channel and layer": {**_SINGLE, "table_scope": "channel"},
    "+ layer-wise levels": {"table_scope": "channel", "delta": "never"},
    "+ anchors and deltas (the paper)": {},
    "deltas, one table": {"table_scope": "model", "is_layerwise": False},
}


@EXPERIMENTS.add("ablation")
@dataclasses.dataclass(frozen=True)
class Ablation:
    """What each idea of the codec adds: packed quantisation, then coding, tables, layer-wise levels, deltas (CacheGen, Fig. 15).

    Attributes:
        bits: of the packed quantisation.
        num_profile_contexts: sample contexts that profiles are made from.
    """

    bits: tuple[int, ...] = (3, 4, 5, 6, 8)
    num_profile_contexts: int = NUM_PROFILE_CONTEXTS

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item, step and level: size, bits_per_element, kl, quality; factors `step`, `level`."""
        engine = engine_for(run)
        sample = sample_contexts(run, engine, self.num_profile_contexts)
        codecs = {step: CacheGen(**knobs).prepare(engine, sample) for step, knobs in ABLATION.items()}
        codecs |= {f"ours: {name}": codec for name, codec in self._ours(engine, sample).items()}
        for key, item in run.todo(items_of(run, "workload", run.num_items)):
            judge = Judge.of(engine, item)
            rows = []
            for bits in self.bits:
                data, factors = (
                    Uniform(bits).encode(judge.context.kv),
                    {"step": "quantisation, packed", "level": f"{bits} bit"},
                )
                rows += size_rows((data,), judge.context, "cachegen", factors)
                rows += judge.rows("cachegen", Uniform(bits).decode(data), factors)
            for step, codec in codecs.items():
                for index, level in enumerate(codec.levels):
                    chunks, factors = codec.encode(judge.context, index), {"step": step, "level": level}
                    rows += size_rows(chunks, judge.context, "cachegen", factors)
                    rows += judge.rows("cachegen", codec.decode(chunks), factors)
            yield ItemRows(key, rows)

    def _ours(self, engine: Engine, sample: Sequence[Context]) -> dict[str, CutCodec]:
        steps: dict[str, dict[str, Any]] = {
            "fixed steps": {"has_means": False, "unrotates": False, "is_sensitive": False, "delta": "never"},
            "+ means removed": {"unrotates": False, "is_sensitive": False, "delta": "never"},
            "+ before RoPE": {"is_sensitive": False, "delta": "never"},
            "+ by sensitivity": {"delta": "never"},
            "+ deltas where they pay": {},
        }
        found = {}
        for name, changes in steps.items():
            rng = for_component(0, "cachegen sensitivity")
            found[name] = CutCodec(Codec(profile_model(engine, sample, TUNED.ablated(**changes), rng)), 1500)
        return found


@EXPERIMENTS.add("delta_or_not")
@dataclasses.dataclass(frozen=True)
class DeltaOrNot:
    """Where deltas pay: bits at the same step with and without anchors, per layer, keys and values (ours).

    Attributes:
        fineness: steps per standard deviation.
        group_tokens: tokens that share an anchor.
    """

    fineness: float = 2.0
    group_tokens: int = 10

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item: bits_estimated (empirical, per channel), factors `layer`, `side`, `rope`, `coding` (direct, anchored)."""
        engine = engine_for(run)
        rotation = Rope.of(engine.loaded.model)
        form = PAPER.ablated(scaling="profiled", group_tokens=self.group_tokens)
        for key, item in run.todo(items_of(run, "workload", run.num_items)):
            kv = engine.context_of(item).kv
            rows = []
            for layer in range(kv.num_layers):
                for which, side in enumerate(SIDES):
                    for rope in ("after", "before") if which == 0 else ("after",):
                        x_CT = _channels(kv, layer, which, rotation if rope == "before" else None)
                        rows += _direct_and_anchored(
                            x_CT, form, self.fineness, {"layer": layer, "side": side, "rope": rope}
                        )
            yield ItemRows(key, rows)


def _direct_and_anchored(x_CT: Tensor, form: Settings, fineness: float, factors: dict[str, Any]) -> list[Row]:
    centred_CT = x_CT - x_CT.mean(dim=1, keepdim=True)
    step = float(centred_CT.std()) / fineness
    rows = []
    for coding, has_delta in (("direct", False), ("anchored", True)):
        parts = quantise(centred_CT, form, 0, step, has_delta, torch.float16).integers
        # Anchors and members are coded by tables of their own, as in the codec.
        bits = sum(entropy_bits(part) for part in parts.values()) / x_CT.numel()
        rows.append(Row("bits_estimated", bits, "bit", "measured", factors={**factors, "coding": coding}))
    return rows


@EXPERIMENTS.add("synthetic_correlation")
@dataclasses.dataclass(frozen=True)
class SyntheticCorrelation:
    """Where deltas begin to pay: synthetic channels with a given correlation between neighbours, really coded (ours).

    The numbers are drawn from an AR(1) process; they say nothing about any language model.

    Attributes:
        correlations: rho of neighbouring tokens.
        group_tokens: tokens that share an anchor.
        num_channels, num_tokens: size of the sample.
        offset: spread of the channels' means, in standard deviations of a channel.
    """

    correlations: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
    group_tokens: tuple[int, ...] = (2, 5, 10, 20)
    num_channels: int = 64
    num_tokens: int = 1500
    offset: float = 2.0

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per draw: bits_per_element of real bytes; factors `correlation`, `group_tokens`, `coding`,
        `tables` (channel, model)."""
        for key, _ in run.todo([(f"{index:03d}", None) for index in range(run.num_items)]):
            rows = []
            for rho in self.correlations:
                draws = [self._draw(rho, run.rng("ar1", key, str(rho), part)) for part in range(3)]
                for scope in ("channel", "model"):
                    for coding, group in [("direct", 1)] + [("anchored", group) for group in self.group_tokens]:
                        form = Settings(
                            (Level("x", ((1.0, 2.0),), ((1.0, 2.0),)),),
                            group_tokens=group,
                            delta="always",
                            scaling="profiled",
                            table_scope=scope,
                        )
                        codec = Codec(build_profile(functools.partial(iter, draws[1:]), form))
                        data = codec.encode(draws[0], 0)
                        factors = {"correlation": rho, "group_tokens": group, "coding": coding, "tables": scope}
                        bits = 8 * len(data) / (2 * draws[0].keys_LHTD.numel())
                        rows.append(Row("bits_per_element", bits, "bit", "measured", "cachegen", factors))
            yield ItemRows(key, rows)

    def _draw(self, rho: float, rng: np.random.Generator) -> KVCache:
        from scipy.signal import lfilter

        means = for_component(0, "ar1 means").standard_normal((2, 1, 1, 1, self.num_channels)) * self.offset
        noise = rng.standard_normal((2, 1, 1, self.num_tokens + 200, self.num_channels))
        x = lfilter([math.sqrt(1 - rho**2)], [1, -rho], noise, axis=3)[:, :, :, 200:] + means
        keys, values = torch.from_numpy(x.astype(np.float32))
        return KVCache(keys, values, torch.arange(self.num_tokens))


# ------------------------------------------------------------------------------------------------------ bytes and seconds


@EXPERIMENTS.add("byte_breakdown")
@dataclasses.dataclass(frozen=True)
class ByteBreakdown:
    """What a context's bytes are, by chunk length: payload, scales, tables, lengths, headers (ours, Fig. B).

    Attributes:
        chunk_tokens: chunk lengths.
        num_profile_contexts: sample contexts that profiles are made from.
    """

    chunk_tokens: tuple[int, ...] = (32, 64, 128, 256, 512, 1500)
    num_profile_contexts: int = NUM_PROFILE_CONTEXTS

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item, form and chunk length at the default level: bits_per_element; factors `part`, `chunk_tokens`. The profile
        itself is counted once: profile_size (B)."""
        engine = engine_for(run)
        sample = sample_contexts(run, engine, self.num_profile_contexts)
        rng = for_component(0, "cachegen sensitivity")
        forms = {"cachegen": (PAPER, 2), "cachegen_released": (RELEASED, 1), "cachegen_tuned": (TUNED, 3)}
        codecs = {
            name: (Codec(profile_model(engine, sample, form, rng)), level) for name, (form, level) in forms.items()
        }
        for key, item in run.todo(items_of(run, "workload", run.num_items)):
            kv = engine.context_of(item).kv
            elements = 2 * kv.keys_LHTD.numel()
            rows = []
            for name, (codec, level) in codecs.items():
                rows.append(Row("profile_size", codec.profile.num_bytes, "B", "measured", name))
                for length in self.chunk_tokens:
                    total: dict[str, int] = {}
                    for chunk in cut(kv, length):
                        for part, size in bitstream.breakdown(codec.encode(chunk, level)).items():
                            total[part] = total.get(part, 0) + size
                    for part, size in total.items():
                        factors = {"part": part, "chunk_tokens": length}
                        rows.append(Row("bits_per_element", 8 * size / elements, "bit", "measured", name, factors))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("coder_speed")
@dataclasses.dataclass(frozen=True)
class CoderSpeed:
    """Encoding and decoding rates beside constriction called channel by channel, zstd and memcpy, in one run (ours, Fig. C).

    Attributes:
        num_tokens: tokens of the random context.
        threads: threads of the codec.
        repeats: timed rounds; every round runs everything.
    """

    num_tokens: int = 1500
    threads: tuple[int, ...] = (1, 2)
    repeats: int = 5

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item: rate (B of fp16 cache per s) and size_ratio against constriction; factors `what`, `direction`, `threads`;
        stream_rate (bit/s of compressed bytes) for whole-codec decoding."""
        engine = engine_for(run)
        for key, _ in run.todo([(f"{index:03d}", None) for index in range(run.num_items)]):
            rng = run.rng("speed", key)
            sample = [random_context(engine, rng, self.num_tokens) for _ in range(3)]
            context = random_context(engine, rng, self.num_tokens)
            yield ItemRows(key, self._measure(engine, sample, context))

    def _measure(self, engine: Engine, sample: Sequence[Context], context: Context) -> list[Row]:
        import constriction
        import zstandard

        rng = for_component(0, "cachegen sensitivity")
        profile = profile_model(engine, sample, PAPER.ablated(delta="never"), rng)
        level = 2
        whole = Codec(profile_model(engine, sample, PAPER, rng))
        tuned = Codec(profile_model(engine, sample, TUNED, rng))
        # One block of symbols of the whole cache, each channel with its own table, for the coders alone.
        symbols, freq = _symbols_and_tables(profile, context.kv, level)
        tables = Tables(freq, profile.settings.precision)
        rows_R = np.arange(len(symbols))
        models = [
            constriction.stream.model.Categorical(row / row.sum(), perfect=False) for row in freq.astype(np.float64)
        ]
        wide = symbols.astype(np.int32)

        def naive_encode() -> NDArray[np.uint32]:
            coder = constriction.stream.queue.RangeEncoder()
            for row, model in zip(wide, models, strict=True):
                coder.encode(row, model)
            found: NDArray[np.uint32] = coder.get_compressed()
            return found

        ours, theirs = encode(symbols, rows_R, tables), naive_encode()

        def naive_decode() -> None:
            coder = constriction.stream.queue.RangeDecoder(theirs)
            for model in models:
                coder.decode(model, wide.shape[1])

        from common.entropy import decode

        raw = symbols.tobytes()
        packed = zstandard.ZstdCompressor(level=1).compress(raw)
        fp16 = np.ones(symbols.size, dtype=np.float16)
        target = np.empty_like(fp16)
        runs: dict[str, Any] = {
            "rans|encode|1": lambda: encode(symbols, rows_R, tables),
            "rans|decode|1": lambda: decode(ours, symbols.shape, rows_R, tables),
            "constriction|encode|1": naive_encode,
            "constriction|decode|1": naive_decode,
            "zstd|encode|1": lambda: zstandard.ZstdCompressor(level=1).compress(raw),
            "zstd|decode|1": lambda: zstandard.ZstdDecompressor().decompress(packed),
            "memcpy|decode|1": lambda: np.copyto(target, fp16),
        }
        streams = {}
        for name, codec in (("cachegen", whole), ("cachegen_tuned", tuned)):
            data = codec.encode(context.kv, min(level, len(codec.levels) - 1))
            streams[name] = data
            for threads in self.threads:
                threaded = Codec(codec.profile, threads=threads)
                runs[f"{name}|decode|{threads}"] = functools.partial(threaded.decode, data)
                runs[f"{name}|encode|{threads}"] = functools.partial(threaded.encode, context.kv, level)
        timings = measure_interleaved(runs, warmup=1, repeats=self.repeats)
        rows = []
        num_bytes = 2 * symbols.size
        for name, timing in timings.items():
            what, direction, count = name.split("|")
            factors = {"what": what, "direction": direction, "threads": int(count)}
            for seconds in timing.seconds:
                rows.append(Row("rate", num_bytes / seconds, "B/s", "measured", factors=factors))
            if what in streams and direction == "decode":
                bps = 8 * len(streams[what]) / timing.median_s
                rows.append(Row("stream_rate", bps, "bit/s", "measured", factors=factors))
        for direction in ("encode", "decode"):
            # The same round for both, so that other work on the machine hits both alike.
            pairs = zip(
                timings[f"constriction|{direction}|1"].seconds, timings[f"rans|{direction}|1"].seconds, strict=True
            )
            for theirs_s, ours_s in pairs:
                factors = {"direction": direction}
                rows.append(Row("speed_up_over_constriction", theirs_s / ours_s, "1", "measured", factors=factors))
        rows.append(Row("size_ratio_to_constriction", len(ours) / (4 * len(theirs)), "1", "measured"))
        rows.append(Row("size_ratio_to_zstd", len(ours) / len(packed), "1", "measured"))
        return rows


def _symbols_and_tables(profile: Any, kv: KVCache, level: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Symbols of all layers, keys and values, (L * 2 * C, T), and their tables padded to one alphabet."""
    symbols, counts = [], []
    alphabet = max(spec.alphabet for key, spec in profile.blocks.items() if key[0] == level)
    for layer in range(profile.num_layers):
        for which in (0, 1):
            spec = profile.blocks[level, layer, which, "direct"]
            x_CT = profile.channels(kv, layer, which)
            fineness = profile.settings.levels[level].fineness(profile.num_layers)[layer][which]
            q_CT = quantise(x_CT, profile.settings, fineness, 0.0, False, kv.dtype).integers["direct"]
            symbols.append((q_CT + spec.offset).to(torch.uint8).numpy())
            freq = spec.tables.freq_SA.astype(np.int64) * 16
            counts.append(np.pad(freq, ((0, 0), (0, alphabet - spec.alphabet))))
    tables = Tables.from_counts(np.concatenate(counts), profile.settings.precision)
    return np.concatenate(symbols), tables.freq_SA


@EXPERIMENTS.add("overheads")
@dataclasses.dataclass(frozen=True)
class Overheads:
    """What coding costs: encoding and decoding time beside prefill, floating-point work, and storage of all levels (Fig. 14).

    Attributes:
        repeats: timed rounds.
        num_profile_contexts: sample contexts that profiles are made from.
    """

    repeats: int = 3
    num_profile_contexts: int = NUM_PROFILE_CONTEXTS

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item: time (s), factor `phase` (prefill, encode all levels, decode, suffix); operations (floating-point, modelled
        from the formulas in the code), factor `phase`; storage (B), factor `store` (each level, all levels, 8 bit, text)."""
        engine = engine_for(run)
        sample = sample_contexts(run, engine, self.num_profile_contexts)
        codec = Codec(profile_model(engine, sample, PAPER, for_component(0, "cachegen sensitivity")))
        for key, item in run.todo(items_of(run, "workload", run.num_items)):
            context = engine.context_of(item)
            data = _encode_all(codec, context.kv)
            timings = measure_interleaved(
                {
                    "prefill": functools.partial(engine.prefill, context.ids),
                    "encode all levels": functools.partial(_encode_all, codec, context.kv),
                    "decode": functools.partial(codec.decode, data[2]),
                    "suffix": functools.partial(engine.logits_after, context.kv, context.question, 1),
                },
                warmup=1,
                repeats=self.repeats,
                device=str(engine.loaded.device),
            )
            rows = [
                Row("time", timing.median_s, "s", "measured", factors={"phase": phase})
                for phase, timing in timings.items()
            ]
            elements = 2 * context.kv.keys_LHTD.numel()
            parameters = sum(weight.numel() for weight in engine.loaded.model.parameters())
            attention = 2 * 2 * len(context.ids) ** 2 // 2 * engine.loaded.config.hidden_size * context.kv.num_layers
            prefill_work = 2 * parameters * len(context.ids) + attention
            # Per number: one multiplication and one addition for the value, one more addition for the anchor.
            for phase, operations in (("prefill", prefill_work), ("decode", 3 * elements)):
                rows.append(Row("operations", operations, "1", "modelled", factors={"phase": phase}))
            sizes = {f"level {name}": len(part) for name, part in zip(codec.levels, data, strict=True)}
            sizes["all levels"] = sum(map(len, data))
            sizes["8 bit"] = len(Uniform(8).encode(context.kv))
            sizes["fp16"] = context.kv.num_bytes
            for store, size in sizes.items():
                rows.append(Row("storage", size, "B", "measured", factors={"store": store}))
            yield ItemRows(key, rows)


def _encode_all(codec: Codec, kv: KVCache) -> list[bytes]:
    return [codec.encode(kv, level) for level in range(len(codec.levels))]


@EXPERIMENTS.add("storage_cost")
@dataclasses.dataclass(frozen=True)
class StorageCost:
    """From how many reuses a month storing is cheaper than recomputing (CacheGen, appendix): a formula with the prices below.

    Attributes:
        storage_usd_per_gb_month: price of object storage.
        prefill_usd_per_million_tokens: price of input tokens.
        num_tokens: of the context.
        elements_per_token: of the paper's 7B model.
    """

    storage_usd_per_gb_month: float = 0.023
    prefill_usd_per_million_tokens: float = 0.10
    num_tokens: int = 8500
    elements_per_token: int = 65536

    def __post_init__(self) -> None:
        if min(self.storage_usd_per_gb_month, self.prefill_usd_per_million_tokens, self.num_tokens) <= 0:
            raise ConfigError("prices and tokens must be positive.")

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """storage_per_month and recompute (USD), reuses_to_break_even; all modelled; factor `bits_per_element` (all levels)."""
        for key, _ in run.todo([("formula", None)]):
            rows = []
            recompute = self.prefill_usd_per_million_tokens * self.num_tokens / 1e6
            for bits in (8.0, 10.0, 15.0, 20.0):
                size_gb = self.num_tokens * self.elements_per_token * bits / 8 / 1e9
                monthly = size_gb * self.storage_usd_per_gb_month
                factors = {"bits_per_element": bits}
                rows.append(Row("storage_per_month", monthly, "USD", "modelled", factors=factors))
                rows.append(Row("recompute", recompute, "USD", "modelled", factors=factors))
                rows.append(Row("reuses_to_break_even", monthly / recompute, "1", "modelled", factors=factors))
            yield ItemRows(key, rows)
