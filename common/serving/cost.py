"""How long one engine iteration takes, as a formula fitted to a real engine or taken from a table.

    t_step = linear(n_tok) + decode_s * n_decode + chunk_s * n_chunks + beta_s * sum over prefill chunks of (n_new * mean context)
             + gamma_s * sum over decoding sequences of (KV length) + read(n_tok) * (all KV tokens read) + cpu_s

n_tok is the number of tokens computed, of prefill chunks and decoding sequences together. `linear`, `beta_s`, `gamma_s` and
`cpu_s` are the RAGServe sheet's terms (8.3). `decode_s`, `chunk_s` and `read` are ours, for engines that pay for a sequence
beyond its tokens, or whose attention computes the whole block of (all queries) x (all keys) of a batch, as transformers' does on
a CPU.
"""

import bisect
import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import ConfigError, DataUnavailable
from common.results import Basis
from common.serving.api import EngineFacts

FORMAT = "ninefold serving cost model, version 1"


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Seconds per iteration from what is in it.

    Attributes:
        linear_tokens, linear_s: time of the operators that see tokens only (projections, feed-forward), as points; between
            them it is interpolated, beyond them continued with the slope of the nearest two.
        read_tokens, read_s: time per KV token that any sequence of the batch reads, by the number of tokens computed; points too.
        beta_s: per pair of a new prompt token and a token that it attends to.
        gamma_s: per token of KV cache that a decoding sequence attends to.
        decode_s: per decoding sequence, beyond its one token.
        chunk_s: per prompt, or part of one, that is computed, beyond its tokens.
        cpu_s: per iteration, whatever is in it.
        basis: "simulated" if the numbers were fitted to measurements of a real engine, "modelled" otherwise; virtual times
            made with this model carry it.
        source: where the numbers come from, one line.
    """

    linear_tokens: tuple[int, ...] = (0, 1)
    linear_s: tuple[float, ...] = (0.0, 0.0)
    read_tokens: tuple[int, ...] = (0, 1)
    read_s: tuple[float, ...] = (0.0, 0.0)
    beta_s: float = 0.0
    gamma_s: float = 0.0
    decode_s: float = 0.0
    chunk_s: float = 0.0
    cpu_s: float = 0.0
    basis: Basis = "modelled"
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("linear", "read"):
            tokens, seconds = getattr(self, f"{name}_tokens"), getattr(self, f"{name}_s")
            if len(tokens) != len(seconds) or len(tokens) < 2:
                raise ConfigError(
                    f"{name}_tokens has {len(tokens)} points and {name}_s {len(seconds)}; "
                    "give at least two, and as many of one as of the other."
                )
            if any(b <= a for a, b in itertools.pairwise(tokens)):
                raise ConfigError(f"{name}_tokens={tokens} must rise.")
        if self.basis not in ("simulated", "modelled"):
            raise ConfigError(f"basis {self.basis!r} of a cost model is not one of simulated, modelled.")
        numbers = (*self.linear_s, *self.read_s, self.beta_s, self.gamma_s, self.decode_s, self.chunk_s, self.cpu_s)
        if not all(0 <= number < float("inf") for number in numbers):
            raise ConfigError(f"the cost model from {self.source!r} has a negative or endless time in it.")

    def linear(self, tokens: float) -> float:
        """Time of the token-wise operators for so many tokens, in seconds; never below 0."""
        return _interpolate(self.linear_tokens, self.linear_s, tokens)

    def read(self, tokens: float) -> float:
        """Time per KV token read in an iteration that computes so many tokens, in seconds; never below 0."""
        return _interpolate(self.read_tokens, self.read_s, tokens)

    def step(
        self,
        prefill_tokens: int,
        prefill_pairs: float,
        num_decode: int,
        decode_kv_tokens: int,
        prefill_kv_tokens: int,
        num_chunks: int | None = None,
    ) -> float:
        """Time of an iteration in seconds.

        Args:
            prefill_tokens: prompt tokens computed, over all chunks.
            prefill_pairs: sum over chunks of new * mean context; see `pairs`.
            num_decode: decoding sequences, one token each.
            decode_kv_tokens: KV tokens they attend to, their own new ones included.
            prefill_kv_tokens: KV tokens that the chunks attend to, their own new ones included.
            num_chunks: prompts, or parts of prompts, computed; by default one if there are prompt tokens.
        """
        chunks = num_chunks if num_chunks is not None else int(prefill_tokens > 0)
        tokens = prefill_tokens + num_decode
        return (
            self.linear(tokens)
            + self.decode_s * num_decode
            + self.chunk_s * chunks
            + self.beta_s * prefill_pairs
            + self.gamma_s * decode_kv_tokens
            + self.read(tokens) * (decode_kv_tokens + prefill_kv_tokens)
            + self.cpu_s
        )

    def prefill_s(self, tokens: int, max_batch_tokens: int, past: int = 0) -> float:
        """Time to prefill so many tokens alone, in chunks of at most `max_batch_tokens`."""
        total = 0.0
        while tokens > 0:
            new = min(tokens, max_batch_tokens)
            total += self.step(new, pairs(past, new), 0, 0, past + new)
            past, tokens = past + new, tokens - new
        return total

    def single_s(self, prompt_tokens: int, answer_tokens: int, max_batch_tokens: int) -> float:
        """Delay of one call on an idle engine: its prefill, then one iteration for each token after the first."""
        total = self.prefill_s(prompt_tokens, max_batch_tokens)
        for step in range(1, answer_tokens):
            total += self.step(0, 0.0, 1, prompt_tokens + step, 0)
        return total

    def scaled(self, factor: float) -> "CostModel":
        """The same with every time multiplied by `factor`, > 0."""
        if not factor > 0:
            raise ConfigError(f"factor={factor} must be above 0.")
        return dataclasses.replace(
            self,
            linear_s=tuple(value * factor for value in self.linear_s),
            read_s=tuple(value * factor for value in self.read_s),
            beta_s=self.beta_s * factor,
            gamma_s=self.gamma_s * factor,
            decode_s=self.decode_s * factor,
            chunk_s=self.chunk_s * factor,
            cpu_s=self.cpu_s * factor,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "CostModel":
        """What `to_json` gave.

        Raises:
            ConfigError: a key is unknown or a value is not of its type.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ConfigError(f"unknown entry {unknown[0]!r} in a cost model. Known: {', '.join(sorted(known))}.")
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"a cost model's entries are of the wrong kind: {error}") from error


@dataclasses.dataclass(frozen=True)
class Preset:
    """A cost model with the engine it belongs to."""

    cost: CostModel
    facts: EngineFacts


def pairs(past: int, new: int) -> float:
    """Pairs of query and key when `new` tokens are computed behind `past`: token i attends to past + i, i = 1 ... new."""
    return new * past + new * (new + 1) / 2


def _interpolate(points: tuple[int, ...], values: tuple[float, ...], x: float) -> float:
    right = min(max(bisect.bisect_right(points, x), 1), len(points) - 1)
    left = right - 1
    slope = (values[right] - values[left]) / (points[right] - points[left])
    return max(0.0, values[left] + slope * (x - points[left]))


# Linear-operator time of a Llama-2-7B-shaped fp16 model on an A40, from Vidur's public profiling tables (RAGServe sheet, 8.3).
_A40_TOKENS = (1, 16, 64, 128, 256, 512, 1024, 2048, 4096)
_A40_MS = (24.0, 24.8, 30.1, 30.4, 44.8, 71.7, 138.0, 262.0, 528.0)
# (assumed) Attention is not in that table. Prefill: 4 * 4096 * 32 operations per pair at half of the A40's 150 Tflop/s.
# Decode: 128 KiB of keys and values per token at 80 % of 696 GB/s. Scheduling and launching: 2 ms per iteration.
_A40_BETA_S = 4 * 4096 * 32 / 75e12
_A40_GAMMA_S = 131072 / (0.8 * 696e9)
_CPU_S = 0.002
# (assumed) 70B over 7B: 10.5 times the operations on two cards of which the second adds 0.8; four-bit weights are read in 32 ms
# (35 GB over two cards at 80 % of 696 GB/s), which bounds small batches in place of the table's 24 ms.
_RATIO_70B = 10.5 / 1.8
_FLOOR_70B_S = 35e9 / 2 / (0.8 * 696e9)


def _a40_7b() -> Preset:
    cost = CostModel(
        _A40_TOKENS,
        tuple(ms / 1000 for ms in _A40_MS),
        beta_s=_A40_BETA_S,
        gamma_s=_A40_GAMMA_S,
        cpu_s=_CPU_S,
        source="A40, Llama-2-7B shape, fp16: Vidur's operator table; attention and CPU terms assumed",
    )
    # (48 GB * 0.9 - 4.2 GB of AWQ weights - 1.5 GB) / 128 KiB per token, about 286 K (sheet, 8.3).
    return Preset(cost, EngineFacts(131072, 32768, 286_000 // 16 * 16, watermark_tokens=2_860))


def _a40_70b() -> Preset:
    compute = [_RATIO_70B * (0.0100 + 0.0001242 * tokens) for tokens in _A40_TOKENS]
    # The table's constant part is the reading of fp16 weights; with four bits the floor takes its place.
    cost = CostModel(
        _A40_TOKENS,
        tuple(
            max(_FLOOR_70B_S, seconds - _RATIO_70B * 0.0100) + 0.003
            for tokens, seconds in zip(_A40_TOKENS, compute, strict=True)
        ),
        beta_s=4 * 8192 * 80 / (1.8 * 75e12),
        gamma_s=327680 / (2 * 0.8 * 696e9),
        cpu_s=_CPU_S,
        source="2 x A40, Llama-3.1-70B shape, AWQ: scaled from the 7B table; every term assumed",
    )
    return Preset(cost, EngineFacts(327680, 131072, 140_000 // 16 * 16, watermark_tokens=1_400))


_PRESETS = {"a40_7b": _a40_7b, "a40x2_70b": _a40_70b}


def preset_names() -> tuple[str, ...]:
    """Names that `preset` knows."""
    return tuple(_PRESETS)


def preset(name: str) -> Preset:
    """A cost model of hardware that is not here; its basis is "modelled".

    Raises:
        ConfigError: no such preset.
    """
    if name not in _PRESETS:
        raise ConfigError(
            f"there is no serving preset {name!r}. Presets: {', '.join(_PRESETS)}; or give a file made by "
            "`python -m common.serving calibrate`."
        )
    return _PRESETS[name]()


def load_calibration(path: Path) -> tuple[CostModel, dict[str, Any]]:
    """The cost model in a file that `python -m common.serving calibrate` wrote, and the whole report beside it.

    Raises:
        DataUnavailable: there is no such file.
        ConfigError: it is not a calibration.
    """
    try:
        report = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataUnavailable(
            f"{path} does not exist; make it with `python -m common.serving calibrate --model small --out {path}`."
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT or not isinstance(report.get("cost"), dict):
        raise ConfigError(f"{path} is no calibration (its format is not {FORMAT!r}).")
    return CostModel.from_json(report["cost"]), report
