"""The codec: a chunk of KV cache to bytes and back.

    codec = Codec(profile)
    data = codec.encode(kv, level=2)
    kv2 = codec.decode(data)              # in another process, on another machine: the same symbols

    KV -> (rotation, means removed) -> quantise by layer, K/V, token -> anchors | members -> rANS with the profile's tables

A chunk is a slice of the prefill of its whole context, so positions and attention to earlier chunks are right; chunks decode
independently of each other, at any mix of levels.

Shape legend: L layers, H kv heads, D head dim, C channels (head-major), T tokens, n symbols of a class per channel.
"""

import dataclasses
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cachegen import bitstream, dequantisation
from cachegen.profile import BlockSpec, Kind, Profile, Quantised, quantise
from common.entropy import MAX_PRECISION, Tables, decode, encode, lane_layout
from common.errors import ConfigError, CorruptBitstream
from common.kv import KVCache

T = TypeVar("T")

_OUTLIER = struct.Struct("<HIi")
_PRECISION_OF_SHIPPED_TABLES = MAX_PRECISION


@dataclasses.dataclass(frozen=True, eq=False)
class Codec:
    """Encoder and decoder of one model's caches.

    Attributes:
        profile: shared by both sides.
        backend: of the entropy coder: "numba", "numpy" or "torch". The bytes are the same.
        threads: blocks coded at once.
        device: where decoded caches go.
    """

    profile: Profile
    backend: str = "numba"
    threads: int = 1
    device: str = "cpu"

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels, from smallest to best."""
        return tuple(level.name for level in self.profile.settings.levels)

    # --------------------------------------------------------------------------------------------------------- encoding

    def encode(self, kv: KVCache, level: int | str) -> bytes:
        """Code a chunk.

        Args:
            kv: 1 to 65536 tokens, float16, bfloat16 or float32, of the profile's shape.
            level: index or name.

        Raises:
            ConfigError: another shape or dtype, no tokens, an unknown level, infinite or NaN numbers.
        """
        profile, settings = self.profile, self.profile.settings
        index = settings.level_index(level) if isinstance(level, str) else level
        if not isinstance(index, int) or isinstance(index, bool):
            raise ConfigError(f"level {level!r} is neither the name nor the index of a level.")
        if not 0 <= index < len(settings.levels):
            raise ConfigError(f"level {index} is not one of 0..{len(settings.levels) - 1}.")
        profile.check_fits(kv)
        dtype = str(kv.dtype).removeprefix("torch.")
        if dtype not in bitstream.DTYPES:
            raise ConfigError(
                f"a cache of {dtype} cannot be coded; convert it to one of {', '.join(bitstream.DTYPES)}."
            )
        if not 1 <= kv.num_tokens <= bitstream.MAX_TOKENS:
            raise ConfigError(f"a chunk has 1 to {bitstream.MAX_TOKENS} tokens, not {kv.num_tokens}.")
        if not bool(torch.isfinite(kv.keys_LHTD).all()) or not bool(torch.isfinite(kv.values_LHTD).all()):
            raise ConfigError("the cache holds infinite or NaN numbers; it cannot be coded.")

        def one_block(layer_and_kv: tuple[int, int]) -> _Block:
            layer, which = layer_and_kv
            quantised = self._quantise(kv, index, layer, which)
            return self._code(quantised, index, layer, which, kv.dtype)

        pairs = [(layer, which) for layer in range(profile.num_layers) for which in (0, 1)]
        blocks = self._map(one_block, pairs)
        outliers = b"".join(block.outliers for block in blocks)
        payloads = [payload for block in blocks for payload in block.payloads]
        positions, flags = _pack_positions(kv.positions_T)
        header = bitstream.Header(
            profile.digest[:8],
            index,
            dtype,
            flags | (bitstream.IS_ROTATED if kv.is_rotated else 0),
            profile.num_layers,
            profile.num_heads,
            profile.head_dim,
            settings.group_tokens,
            kv.num_tokens,
            int(kv.positions_T[0]),
        )
        return bitstream.pack(
            header,
            {
                "positions": positions,
                "scales": b"".join(block.scales for block in blocks),
                "outliers": outliers,
                "tables": b"".join(block.tables for block in blocks),
                "lengths": np.array([len(payload) for payload in payloads], dtype="<u4").tobytes(),
                "payload": b"".join(payloads),
            },
        )

    def _quantise(self, kv: KVCache, level: int, layer: int, which: int) -> Quantised:
        profile = self.profile
        if profile.rotation is not None and not kv.is_rotated:
            raise ConfigError("this profile takes rotated keys back itself; give it the cache as the model made it.")
        return quantise(
            profile.channels(kv, layer, which),
            profile.settings,
            profile.settings.levels[level].fineness(profile.num_layers)[layer][which],
            float(profile.steps_NLK[level, layer, which]),
            bool(profile.has_delta_LK[layer, which]),
            kv.dtype,
        )

    def _code(self, quantised: Quantised, level: int, layer: int, which: int, dtype: torch.dtype) -> "_Block":
        payloads, outliers, shipped = [], [], []
        for number, kind in enumerate(self.profile.kinds(layer, which)):
            spec = self.profile.blocks[level, layer, which, kind]
            q_Cn = quantised.integers[kind].numpy()
            kept_Cn = np.clip(q_Cn, -spec.offset, spec.offset)
            for at in np.flatnonzero((kept_Cn != q_Cn).reshape(-1)):
                block = (layer * 2 + which) * 2 + number
                outliers.append(_OUTLIER.pack(block, int(at), int(q_Cn.reshape(-1)[at])))
            symbols_Cn = (kept_Cn + spec.offset).astype(np.uint8)
            tables = spec.tables
            if tables is None:
                tables = _fit_tables(symbols_Cn, spec)
                shipped.append(tables.freq_SA.astype("<u2").tobytes())
            payloads.append(encode(symbols_Cn, _rows(tables, len(symbols_Cn)), tables, backend=self.backend))
        return _Block(payloads, _scale_bits(quantised.scales_T, dtype), b"".join(outliers), b"".join(shipped))

    # --------------------------------------------------------------------------------------------------------- decoding

    def decode(self, data: bytes | memoryview) -> KVCache:
        """The cache that a chunk's bytes stand for.

        Raises:
            CorruptBitstream: damaged, cut, foreign, or made with another profile.
        """
        header, sections = bitstream.parse(data)
        profile = self.profile
        self._check(header)
        plan = self._plan(header, sections)
        dtype: torch.dtype = getattr(torch, header.dtype)
        shape = (profile.num_layers, profile.num_heads, header.num_tokens, profile.head_dim)
        positions_T = _unpack_positions(header, sections["positions"])
        keys_LHTD = torch.empty(shape, dtype=dtype, device=self.device)
        values_LHTD = torch.empty(shape, dtype=dtype, device=self.device)
        targets = (keys_LHTD, values_LHTD)

        def one_block(layer_and_kv: tuple[int, int]) -> None:
            layer, which = layer_and_kv
            symbols = self._symbols(header, plan, layer, which)
            targets[which][layer].copy_(self._values(header, plan, symbols, positions_T, layer, which))

        pairs = [(layer, which) for layer in range(profile.num_layers) for which in (0, 1)]
        self._map(one_block, pairs)
        return KVCache(keys_LHTD, values_LHTD, positions_T, bool(header.flags & bitstream.IS_ROTATED))

    def decode_integers(self, data: bytes | memoryview) -> dict[tuple[int, int, Kind], NDArray[np.int32]]:
        """The quantised integers of a chunk by (layer, K/V, class), (C, n): what must be the same on every machine.

        Raises:
            CorruptBitstream: as `decode`.
        """
        header, sections = bitstream.parse(data)
        self._check(header)
        plan = self._plan(header, sections)
        found: dict[tuple[int, int, Kind], NDArray[np.int32]] = {}
        for layer in range(self.profile.num_layers):
            for which in (0, 1):
                for kind, (symbols, offset) in self._symbols(header, plan, layer, which).items():
                    found[layer, which, kind] = symbols.astype(np.int32) - offset
        return found

    def _check(self, header: bitstream.Header) -> None:
        profile, settings = self.profile, self.profile.settings
        if header.profile_id != profile.digest[:8]:
            raise CorruptBitstream(
                f"the chunk was coded with profile {header.profile_id.hex()}, this is {profile.digest[:8].hex()}."
            )
        shape = (header.num_layers, header.num_heads, header.head_dim, header.group_tokens)
        if shape != (profile.num_layers, profile.num_heads, profile.head_dim, settings.group_tokens):
            raise CorruptBitstream(f"the chunk's shape {shape} is not the profile's; its header was forged.")
        if header.level >= len(settings.levels):
            raise CorruptBitstream(
                f"the chunk has level {header.level}; the profile has {len(settings.levels)} levels."
            )

    def _plan(self, header: bitstream.Header, sections: Mapping[str, memoryview]) -> "_Plan":
        """Where each block's bytes lie; refuses sections whose lengths do not fit the header."""
        profile, settings = self.profile, self.profile.settings
        kinds = [
            (layer, which, number, kind)
            for layer in range(profile.num_layers)
            for which in (0, 1)
            for number, kind in enumerate(profile.kinds(layer, which))
        ]
        lengths = np.frombuffer(sections["lengths"], dtype=np.uint8)
        if len(lengths) != 4 * len(kinds):
            raise CorruptBitstream(f"lengths of {len(kinds)} blocks expected, {len(lengths)} bytes are there.")
        num_bytes = lengths.view("<u4").astype(np.int64)
        if int(num_bytes.sum()) != len(sections["payload"]):
            raise CorruptBitstream(
                f"blocks of {int(num_bytes.sum())} bytes announced, {len(sections['payload'])} are there."
            )
        scale_count = header.num_tokens * 2 * profile.num_layers if settings.scaling == "token" else 0
        if len(sections["scales"]) != 2 * scale_count:
            raise CorruptBitstream(f"{scale_count} scales expected, {len(sections['scales'])} bytes are there.")
        payloads: dict[tuple[int, int, Kind], memoryview] = {}
        tables: dict[tuple[int, int, Kind], Tables] = {}
        at = table_at = 0
        for (layer, which, _, kind), length in zip(kinds, num_bytes.tolist(), strict=True):
            payloads[layer, which, kind] = sections["payload"][at : at + length]
            at += length
            _, num_lanes = lane_layout(profile.num_channels, _count_of(kind, header))
            if length < 6 * num_lanes:
                raise CorruptBitstream(f"layer {layer}: {length} bytes cannot hold {num_lanes} lanes.")
            spec = profile.blocks[header.level, layer, which, kind]
            if spec.tables is None:
                num_rows = profile.num_channels if settings.table_scope == "channel" else 1
                size = 2 * num_rows * spec.alphabet
                raw = np.frombuffer(sections["tables"][table_at : table_at + size], dtype=np.uint8)
                table_at += size
                if len(raw) != size:
                    raise CorruptBitstream(f"layer {layer}: tables of {size} bytes expected, {len(raw)} are there.")
                try:
                    freq = raw.view("<u2").astype(np.uint16).reshape(num_rows, spec.alphabet)
                    tables[layer, which, kind] = Tables(freq, _PRECISION_OF_SHIPPED_TABLES)
                except ConfigError as error:
                    raise CorruptBitstream(f"layer {layer}: the chunk's tables are damaged: {error}") from error
            else:
                tables[layer, which, kind] = spec.tables
        if table_at != len(sections["tables"]):
            raise CorruptBitstream(f"{table_at} bytes of tables expected, {len(sections['tables'])} are there.")
        scales = np.frombuffer(sections["scales"], dtype="<i2").reshape(profile.num_layers, 2, -1)
        dtype = torch.float16 if header.dtype == "float16" else torch.bfloat16
        scale_LKT = torch.from_numpy(scales.astype(np.int16)).view(dtype).float()
        if not bool(torch.isfinite(scale_LKT).all()) or bool((scale_LKT < 0).any()):
            raise CorruptBitstream("a scale is negative or not finite; the stream is damaged.")
        return _Plan(payloads, tables, scale_LKT, self._outliers(header, sections["outliers"]))

    def _outliers(
        self, header: bitstream.Header, section: memoryview
    ) -> dict[tuple[int, int, Kind], list[tuple[int, int]]]:
        if len(section) % _OUTLIER.size:
            raise CorruptBitstream(f"{len(section)} bytes are no list of outliers.")
        found: dict[tuple[int, int, Kind], list[tuple[int, int]]] = {}
        for block, at, value in _OUTLIER.iter_unpack(section):
            layer, which, number = block // 4, block // 2 % 2, block % 2
            if layer >= self.profile.num_layers or number >= len(self.profile.kinds(layer, which)):
                raise CorruptBitstream(f"an outlier names block {block}, which does not exist.")
            kind = self.profile.kinds(layer, which)[number]
            if at >= self.profile.num_channels * _count_of(kind, header) or abs(value) > 1 << 25:
                raise CorruptBitstream(f"an outlier of layer {layer} lies outside its block or range.")
            found.setdefault((layer, which, kind), []).append((at, value))
        return found

    def _symbols(
        self, header: bitstream.Header, plan: "_Plan", layer: int, which: int
    ) -> dict[Kind, tuple[NDArray[np.integer], int]]:
        """(symbols, offset) by class; uint8, or int32 where outliers had to be put in."""
        found: dict[Kind, tuple[NDArray[np.integer], int]] = {}
        for kind in self.profile.kinds(layer, which):
            key = (layer, which, kind)
            tables, offset = plan.tables[key], self.profile.blocks[header.level, layer, which, kind].offset
            shape = (self.profile.num_channels, _count_of(kind, header))
            symbols: NDArray[np.integer] = decode(
                plan.payloads[key],
                shape,
                _rows(tables, shape[0]),
                tables,
                backend=self.backend,
                **self._backend_options,
            )
            if int(symbols.max(initial=0)) > 2 * offset:
                raise CorruptBitstream(f"layer {layer}: a symbol lies outside its alphabet.")
            if key in plan.outliers:
                symbols = symbols.astype(np.int32)
                for at, value in plan.outliers[key]:
                    symbols.reshape(-1)[at] = value + offset
            found[kind] = (symbols, offset)
        return found

    @property
    def _backend_options(self) -> dict[str, str]:
        return {"device": self.device} if self.backend == "torch" else {}

    def _values(
        self,
        header: bitstream.Header,
        plan: "_Plan",
        symbols: Mapping[Kind, tuple[NDArray[np.integer], int]],
        positions_T: Tensor,
        layer: int,
        which: int,
    ) -> Tensor:
        """Keys or values of a layer, float32 (H, T, D)."""
        profile, settings = self.profile, self.profile.settings
        specs = {kind: profile.blocks[header.level, layer, which, kind] for kind in symbols}
        num_anchors = _count_of("anchor", header)
        scales_T = plan.scale_LKT[layer, which]
        step = float(profile.steps_NLK[header.level, layer, which])
        x_HTD = dequantisation.dequantise(
            symbols,
            {kind: _steps(spec, scales_T, num_anchors, step, _count_of(kind, header)) for kind, spec in specs.items()},
            profile.means_LKC[layer, which] if settings.has_means else None,
            profile.num_heads,
            settings.group_tokens,
            is_exact=settings.scaling == "profiled",
            device=self.device,
        )
        if which == 0 and profile.rotation is not None:
            x_HTD = profile.rotation.apply(x_HTD.float(), positions_T)
        return x_HTD

    def _map(self, function: Callable[[tuple[int, int]], T], pairs: Sequence[tuple[int, int]]) -> list[T]:
        if self.threads <= 1:
            return [function(pair) for pair in pairs]

        def share(number: int) -> list[T]:
            return [function(pair) for pair in pairs[number :: self.threads]]

        # One task per thread, not per block: a block takes less time than handing it over.
        with ThreadPoolExecutor(self.threads) as pool:
            shares = list(pool.map(share, range(self.threads)))
        return [shares[index % self.threads][index // self.threads] for index in range(len(pairs))]


@dataclasses.dataclass(frozen=True)
class _Block:
    """One layer's coded keys or values."""

    payloads: list[bytes]
    scales: bytes
    outliers: bytes
    tables: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
    """A parsed chunk, ready to decode block by block."""

    payloads: Mapping[tuple[int, int, Kind], memoryview]
    tables: Mapping[tuple[int, int, Kind], Tables]
    scale_LKT: Tensor
    outliers: Mapping[tuple[int, int, Kind], list[tuple[int, int]]]


def _count_of(kind: Kind, header: bitstream.Header) -> int:
    """Symbols per channel of a class."""
    num_anchors = -(-header.num_tokens // header.group_tokens)
    return {"direct": header.num_tokens, "anchor": num_anchors, "member": header.num_tokens - num_anchors}[kind]


def _steps(spec: BlockSpec, scales_T: Tensor, num_anchors: int, step: float, count: int) -> Tensor:
    """Quantiser step of each token of a class, float32."""
    if not spec.fineness:
        return torch.full((count,), step, dtype=torch.float32)
    own = {"direct": scales_T, "anchor": scales_T[:num_anchors], "member": scales_T[num_anchors:]}[spec.kind]
    return own / spec.fineness


def _rows(tables: Tables, num_channels: int) -> NDArray[np.int64]:
    return np.arange(num_channels) if tables.num_tables > 1 else np.zeros(num_channels, dtype=np.int64)


def _fit_tables(symbols_Cn: NDArray[np.uint8], spec: BlockSpec) -> Tables:
    counts = np.stack([np.bincount(row, minlength=spec.alphabet) for row in symbols_Cn])
    return Tables.from_counts(counts, _PRECISION_OF_SHIPPED_TABLES)


def _scale_bits(scales_T: Tensor, dtype: torch.dtype) -> bytes:
    kept = torch.float16 if dtype == torch.float16 else torch.bfloat16
    return scales_T.to(kept).view(torch.int16).numpy().astype("<i2").tobytes()


def _pack_positions(positions_T: Tensor) -> tuple[bytes, int]:
    first, last = int(positions_T[0]), int(positions_T[-1])
    if last - first + 1 == len(positions_T):
        return b"", 0
    taken = np.zeros(last - first + 1, dtype=np.uint8)
    taken[(positions_T - first).numpy()] = 1
    return np.packbits(taken, bitorder="little").tobytes(), bitstream.HAS_GAPS


def _unpack_positions(header: bitstream.Header, section: memoryview) -> Tensor:
    if not header.flags & bitstream.HAS_GAPS:
        if len(section):
            raise CorruptBitstream("positions were sent although none are missing; the stream is damaged.")
        return torch.arange(header.first_position, header.first_position + header.num_tokens)
    taken = np.unpackbits(np.frombuffer(section, dtype=np.uint8), bitorder="little")
    positions = np.flatnonzero(taken)
    if len(positions) != header.num_tokens or positions[0] != 0:
        raise CorruptBitstream(
            f"positions of {len(positions)} tokens were sent for {header.num_tokens}; the stream is damaged."
        )
    return torch.from_numpy(positions + header.first_position)


def quantised_integers(codec: Codec, kv: KVCache, level: int) -> dict[tuple[int, int, Kind], NDArray[np.int32]]:
    """The integers that `encode` codes, without coding them: the oracle of `decode_integers`."""
    found: dict[tuple[int, int, Kind], NDArray[np.int32]] = {}
    for layer in range(codec.profile.num_layers):
        for which in (0, 1):
            for kind, q_Cn in codec._quantise(kv, level, layer, which).integers.items():
                found[layer, which, kind] = q_Cn.numpy()
    return found
