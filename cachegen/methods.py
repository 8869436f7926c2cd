"""CacheGen in its forms, and the baselines, under the names of the paper's legends."""

import dataclasses
import struct
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch

from cachegen import settings as forms
from cachegen import token_dropping
from cachegen.api import METHODS, Context, KVCodec
from cachegen.baselines import Float8, Kivi, Raw, Uniform
from cachegen.codec import Codec
from cachegen.profiling import cut, profile_model
from common.errors import ConfigError, CorruptBitstream
from common.kv import KVCache, concatenate
from common.rng import for_component

CHUNK_TOKENS = 1500
"""The paper's chunk length."""


@dataclasses.dataclass(frozen=True, eq=False)
class CutCodec:
    """A chunk codec applied to a context cut into chunks."""

    codec: Codec
    chunk_tokens: int

    @property
    def levels(self) -> tuple[str, ...]:
        return self.codec.levels

    def encode(self, context: Context, level: int) -> tuple[bytes, ...]:
        """See `KVCodec.encode`."""
        return tuple(self.codec.encode(chunk, level) for chunk in cut(context.kv, self.chunk_tokens))

    def decode(self, chunks: Sequence[bytes]) -> KVCache:
        """See `KVCodec.decode`."""
        return concatenate([self.codec.decode(chunk) for chunk in chunks])


@dataclasses.dataclass(frozen=True)
class _CacheGenKnobs:
    chunk_tokens: int = CHUNK_TOKENS
    threads: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.chunk_tokens <= 65536 or self.threads < 1:
            raise ConfigError(
                f"chunk_tokens={self.chunk_tokens} must be 1..65536 and threads={self.threads} at least 1."
            )

    def _prepare(self, engine: Any, sample: Sequence[Context], settings: forms.Settings) -> CutCodec:
        rng = for_component(0, "cachegen sensitivity")
        profile = profile_model(engine, sample, settings, rng, chunk_tokens=self.chunk_tokens)
        return CutCodec(Codec(profile, threads=self.threads), self.chunk_tokens)


@METHODS.add("cachegen", label="CacheGen", color="#0072B2", marker="o")
@dataclasses.dataclass(frozen=True)
class CacheGen(_CacheGenKnobs):
    """The paper's codec: anchors and deltas, layer-wise quantisation, arithmetic coding with per-channel-layer tables.

    Attributes:
        chunk_tokens: tokens per chunk.
        threads: blocks coded at once.
        group_tokens: tokens that share an anchor.
        delta: "always" (the paper), "never", or "profiled".
        table_scope: "channel" (the paper), "layer" or "model": for the ablation.
        is_layerwise: False gives every layer the middle group's fineness: for the ablation.
        tables: "profile" (the paper) or "chunk".
    """

    group_tokens: int = 10
    delta: forms.DeltaMode = "always"
    table_scope: forms.TableScope = "channel"
    is_layerwise: bool = True
    tables: forms.TableSource = "profile"

    @property
    def settings(self) -> forms.Settings:
        """The codec settings that the knobs describe."""
        levels = forms.PAPER.levels
        if not self.is_layerwise:
            flat = [(level.name, ((1.0, level.keys[1][1]),)) for level in levels]
            levels = tuple(forms.Level(name, groups, groups) for name, groups in flat)
        return forms.PAPER.ablated(
            levels=levels,
            group_tokens=self.group_tokens,
            delta=self.delta,
            table_scope=self.table_scope,
            tables=self.tables,
        )

    def prepare(self, engine: Any, sample: Sequence[Context]) -> KVCodec:
        """See `KVMethod.prepare`."""
        return self._prepare(engine, sample, self.settings)


@METHODS.add("cachegen_released", label="CacheGen (released code)", color="#56B4E9", marker="v")
@dataclasses.dataclass(frozen=True)
class CacheGenReleased(_CacheGenKnobs):
    """The form of the published code: no deltas, and tables built from and sent with every chunk."""

    def prepare(self, engine: Any, sample: Sequence[Context]) -> KVCodec:
        """See `KVMethod.prepare`."""
        return self._prepare(engine, sample, forms.RELEASED)


@METHODS.add("cachegen_tuned", label="CacheGen (tuned, ours)", color="#009E73", marker="D")
@dataclasses.dataclass(frozen=True)
class CacheGenTuned(_CacheGenKnobs):
    """Ours: fixed steps by measured layer sensitivity, channel means and rotation removed, deltas only where they pay.

    Attributes:
        unrotates, is_sensitive, has_means: each idea can be switched off.
    """

    unrotates: bool = True
    is_sensitive: bool = True
    has_means: bool = True

    def prepare(self, engine: Any, sample: Sequence[Context]) -> KVCodec:
        """See `KVMethod.prepare`."""
        form = forms.TUNED.ablated(unrotates=self.unrotates, is_sensitive=self.is_sensitive, has_means=self.has_means)
        return self._prepare(engine, sample, form)


@dataclasses.dataclass(frozen=True, eq=False)
class _OneLevel:
    """A stateless chunk codec as a `KVCodec`."""

    codec: Any
    level: str

    @property
    def levels(self) -> tuple[str, ...]:
        return (self.level,)

    def encode(self, context: Context, level: int) -> tuple[bytes, ...]:
        """See `KVCodec.encode`."""
        _check_level(level, self.levels)
        return tuple(self.codec.encode(chunk) for chunk in cut(context.kv, CHUNK_TOKENS))

    def decode(self, chunks: Sequence[bytes]) -> KVCache:
        """See `KVCodec.decode`."""
        return concatenate([self.codec.decode(chunk) for chunk in chunks])


def _check_level(level: int, levels: Sequence[str]) -> None:
    if not 0 <= level < len(levels):
        raise ConfigError(f"level {level} is not one of 0..{len(levels) - 1}.")


@METHODS.add("fp16", label="fp16", color="#7F7F7F", marker="P")
@dataclasses.dataclass(frozen=True)
class Fp16:
    """The cache as it is, 16 bits a number."""

    def prepare(self, engine: Any, sample: Sequence[Context]) -> KVCodec:
        """See `KVMethod.prepare`."""
        return _OneLevel(Raw(), "16 bit")


@dataclasses.dataclass(frozen=True)
class _Quantisation:
    """Default quantisation: a scale per token, packed."""

    _bits: ClassVar[int]

    def prepare(self, engine: Any, sample: Sequence[Context]) -> KVCodec:
        """See `KVMethod.prepare`."""
        return _OneLevel(Uniform(self._bits), f"{self._bits} bit")


@METHODS.add("quantisation_8bit", label="Quantisation, 8 bit", color="#D55E00", marker="s")
@dataclasses.dataclass(frozen=True)
class Quantisation8(_Quantisation):
    """Default quantisation to 8 bits: a scale per token, packed."""

    _bits: ClassVar[int] = 8


@METHODS.add("quantisation_4bit", label="Quantisation, 4 bit", color="#E69F00", marker="s")
@dataclasses.dataclass(frozen=True)
class Quantisation4(_Quantisation):
    """Default quantisation to 4 bits: a scale per token, packed."""

    _bits: ClassVar[int] = 4


@METHODS.add("quantisation_3bit", label="Quantisation, 3 bit", color="#F0C05A", marker="s")
@dataclasses.dataclass(frozen=True)
class Quantisation3(_Quantisation):
    """Default quantisation to 3 bits: a scale per token, packed."""

    _bits: ClassVar[int] = 3


@METHODS.add("zstd", label="4 bit + zstd", color="#8C6D31", marker="<")
@dataclasses.dataclass(frozen=True)
class Zstd:
    """Default quantisation, then zstd over the symbols channel by channel: the general-purpose alternative to our coder.

    Attributes:
        bits: of the quantiser.
    """

    bits: int = 4

    def prepare(self, engine: Any, sample: Sequence[Context]) -> KVCodec:
        """See `KVMethod.prepare`."""
        return _OneLevel(Uniform(self.bits, is_compressed=True), f"{self.bits} bit")


@METHODS.add("fp8", label="FP8 (e4m3)", color="#CC79A7", marker="X")
@dataclasses.dataclass(frozen=True)
class Fp8:
    """FP8 e4m3 with one scale per layer and K/V."""

    def prepare(self, engine: Any, sample: Sequence[Context]) -> KVCodec:
        """See `KVMethod.prepare`."""
        return _OneLevel(Float8(), "8 bit")


@METHODS.add("kivi", label="KIVI-like, 2 bit", color="#5E4FA2", marker="^")
@dataclasses.dataclass(frozen=True)
class KiviMethod:
    """KIVI's format: keys per channel, values per token, asymmetric, groups of 32, the last tokens in full precision.

    Attributes:
        bits, group, residual_tokens: see `cachegen.baselines.Kivi`.
    """

    bits: int = 2
    group: int = 32
    residual_tokens: int = 32

    def prepare(self, engine: Any, sample: Sequence[Context]) -> KVCodec:
        """See `KVMethod.prepare`."""
        return _OneLevel(Kivi(self.bits, self.group, self.residual_tokens), f"{self.bits} bit")


# ------------------------------------------------------------------------------------------------------------------- text


@METHODS.add("text", label="Text (recompute)", color="#66A61E", marker="*")
@dataclasses.dataclass(frozen=True)
class Text:
    """Send the text and prefill it: no cache is stored."""

    def prepare(self, engine: Any, sample: Sequence[Context]) -> KVCodec:
        """See `KVMethod.prepare`."""
        return TextCodec(engine)


@dataclasses.dataclass(frozen=True, eq=False)
class TextCodec:
    """The context as text; decoding is prefilling."""

    engine: Any

    levels: tuple[str, ...] = ("text",)

    def encode(self, context: Context, level: int) -> tuple[bytes, ...]:
        """See `KVCodec.encode`."""
        _check_level(level, self.levels)
        return (pack_text(context),)

    def decode(self, chunks: Sequence[bytes]) -> KVCache:
        """See `KVCodec.decode`."""
        if len(chunks) != 1:
            raise CorruptBitstream(f"a text comes in one piece, not in {len(chunks)}.")
        kv: KVCache = self.engine.stored(self.engine.prefill(unpack_text(chunks[0], self.engine)))
        return kv


def pack_text(context: Context) -> bytes:
    """A context's passages as UTF-8; token ids (u32) where there is no text. With a checksum."""
    if context.passages:
        body = b"t" + "\x1e".join(context.passages).encode()
    else:
        body = b"i" + struct.pack(f"<{len(context.ids)}I", *context.ids)
    return body + struct.pack("<I", zlib.crc32(body))


def unpack_text(data: bytes, engine: Any) -> tuple[int, ...]:
    """Token ids of what `pack_text` wrote.

    Raises:
        CorruptBitstream: damaged, or not such a text.
    """
    if len(data) < 6 or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0] or data[:1] not in (b"t", b"i"):
        raise CorruptBitstream("the text does not match its checksum.")
    body = data[1:-4]
    if data[:1] == b"i":
        return struct.unpack(f"<{len(body) // 4}I", body)
    ids: tuple[int, ...] = engine.ids_of(body.decode().split("\x1e"))
    return ids


# --------------------------------------------------------------------------------------------------------- fewer tokens

Inner = Literal["quantisation_8bit", "cachegen"]


def _inner(name: str, engine: Any, sample: Sequence[Context]) -> KVCodec:
    if name not in ("quantisation_8bit", "cachegen"):
        raise ConfigError(f"inner={name!r} is not one of quantisation_8bit, cachegen.")
    codec: KVCodec = METHODS.create(name).prepare(engine, sample)
    return codec


def _budget(share: float, num_tokens: int) -> int:
    return max(1, round(share * num_tokens))


def _check_budget(share: float) -> None:
    if not 0 < share <= 1:
        raise ConfigError(f"budget={share} must lie in (0, 1].")


@METHODS.add("h2o", label="H2O", color="#B15928", marker="p")
@dataclasses.dataclass(frozen=True)
class H2O:
    """H2O, idealised as in the paper: attention of the question decides which tokens stay; the rest goes as 8 bits.

    Attributes:
        budget: share of tokens kept (282 of 622 MB in Table 1).
        recent_share: part of the budget for the last tokens.
        inner: how the kept tokens are coded.
    """

    budget: float = 0.45
    recent_share: float = 0.5
    inner: Inner = "quantisation_8bit"

    def __post_init__(self) -> None:
        _check_budget(self.budget)

    def prepare(self, engine: Any, sample: Sequence[Context]) -> KVCodec:
        """See `KVMethod.prepare`."""
        reduced = [self._reduce(engine, context)[0] for context in sample] if self.inner == "cachegen" else sample
        return H2OCodec(self, engine, _inner(self.inner, engine, reduced))

    def _score(self, engine: Any, context: Context) -> torch.Tensor:
        score_LHT: torch.Tensor = engine.attention_to_context(context.kv, context.question or context.ids[-8:])
        return score_LHT

    def _reduce(self, engine: Any, context: Context) -> tuple[Context, torch.Tensor]:
        score_LHT = self._score(engine, context)
        num_kept = _budget(self.budget, len(context.ids))
        kept_LHS = token_dropping.heavy_hitters(score_LHT, num_kept, self.recent_share)
        # Heads keep different tokens; no list of ids describes that, only their number does.
        reduced = Context(context.ids[:num_kept], token_dropping.keep(context.kv, kept_LHS), (), context.question)
        return reduced, kept_LHS


@dataclasses.dataclass(frozen=True, eq=False)
class H2OCodec:
    """H2O's tokens, coded by another codec; the first chunk says which were kept."""

    method: H2O
    engine: Any
    inner: KVCodec

    @property
    def levels(self) -> tuple[str, ...]:
        return self.inner.levels

    def encode(self, context: Context, level: int) -> tuple[bytes, ...]:
        """See `KVCodec.encode`."""
        reduced, kept_LHS = self.method._reduce(self.engine, context)
        return (token_dropping.pack_kept(kept_LHS, len(context.ids)), *self.inner.encode(reduced, level))

    def decode(self, chunks: Sequence[bytes]) -> KVCache:
        """See `KVCodec.decode`."""
        if not chunks:
            raise CorruptBitstream("there is no chunk.")
        token_dropping.unpack_kept(chunks[0])
        return self.inner.decode(chunks[1:])


@METHODS.add("cachegen_on_h2o", label="CacheGen on H2O", color="#1F78B4", marker="p")
@dataclasses.dataclass(frozen=True)
class CacheGenOnH2O(H2O):
    """CacheGen over the tokens that H2O keeps; deltas are taken between kept neighbours."""

    inner: Inner = "cachegen"


@METHODS.add("scissorhands", label="Scissorhands*", color="#FB9A99", marker="d")
@dataclasses.dataclass(frozen=True)
class Scissorhands(H2O):
    """Scissorhands, idealised: tokens that the context itself attended to stay, the same share in all layers; 8 bits."""

    recent_share: float = 0.1

    def _score(self, engine: Any, context: Context) -> torch.Tensor:
        score_LHT: torch.Tensor = engine.attention_within(context.ids)
        return score_LHT


@METHODS.add("llmlingua", label="LLMLingua", color="#6A3D9A", marker="h")
@dataclasses.dataclass(frozen=True)
class LLMLingua:
    """LLMLingua-like: text tokens of the least self-information are dropped, the rest is prefilled anew and goes as 8 bits.

    Attributes:
        budget: share of tokens kept (492 of 622 MB in Table 1).
        inner: how the cache of the shorter text is coded.
    """

    budget: float = 0.79
    inner: Inner = "quantisation_8bit"

    def __post_init__(self) -> None:
        _check_budget(self.budget)

    def prepare(self, engine: Any, sample: Sequence[Context]) -> KVCodec:
        """See `KVMethod.prepare`."""
        reduced = [self._reduce(engine, context) for context in sample] if self.inner == "cachegen" else sample
        return LLMLinguaCodec(self, engine, _inner(self.inner, engine, reduced))

    def _reduce(self, engine: Any, context: Context) -> Context:
        # DEVIATION cachegen-2: the model itself scores its tokens; the original scores with another, smaller language model.
        information_T = engine.self_information(context.ids)
        kept = token_dropping.informative(information_T, _budget(self.budget, len(context.ids)))
        ids = [context.ids[int(index)] for index in kept]
        reduced: Context = engine.context(ids, (), context.question)
        return reduced


@dataclasses.dataclass(frozen=True, eq=False)
class LLMLinguaCodec:
    """A shorter text's cache, coded by another codec."""

    method: LLMLingua
    engine: Any
    inner: KVCodec

    @property
    def levels(self) -> tuple[str, ...]:
        return self.inner.levels

    def encode(self, context: Context, level: int) -> tuple[bytes, ...]:
        """See `KVCodec.encode`."""
        return self.inner.encode(self.method._reduce(self.engine, context), level)

    def decode(self, chunks: Sequence[bytes]) -> KVCache:
        """See `KVCodec.decode`."""
        return self.inner.decode(chunks)


@METHODS.add("cachegen_on_llmlingua", label="CacheGen on LLMLingua", color="#A6CEE3", marker="h")
@dataclasses.dataclass(frozen=True)
class CacheGenOnLLMLingua(LLMLingua):
    """CacheGen over the cache of LLMLingua's shorter text."""

    inner: Inner = "cachegen"
