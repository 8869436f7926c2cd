"""What CacheGen is compared with, each as real bytes: raw, uniform n bits, FP8, KIVI-like, zstd over quantised bytes.

All use one small container: magic, tag, dtype, shape, positions, payload, CRC-32; no pickle.

Shape legend: L layers, H kv heads, D head dim, C channels (H * D), T tokens, G groups.
"""

import dataclasses
import struct
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cachegen import bitstream, quantisation
from common.errors import ConfigError, CorruptBitstream
from common.kv import KVCache

_HEADER = struct.Struct("<4s8sBBHHHIII")
_MAGIC = b"NFKB"


def _pack(tag: str, kv: KVCache, payload: bytes) -> bytes:
    dtype = str(kv.dtype).removeprefix("torch.")
    if dtype not in bitstream.DTYPES or not kv.num_tokens:
        raise ConfigError(f"a cache of {kv.num_tokens} tokens of {dtype} cannot be coded.")
    first, last = int(kv.positions_T[0]), int(kv.positions_T[-1])
    gaps = b""
    if last - first + 1 != kv.num_tokens:
        taken = np.zeros(last - first + 1, dtype=np.uint8)
        taken[(kv.positions_T - first).numpy()] = 1
        gaps = np.packbits(taken, bitorder="little").tobytes()
    head = _HEADER.pack(
        _MAGIC,
        tag.encode(),
        bitstream.DTYPES.index(dtype),
        int(kv.is_rotated),
        kv.num_layers,
        kv.num_heads,
        kv.head_dim,
        kv.num_tokens,
        first,
        len(gaps),
    )
    body = head + gaps + payload
    return body + struct.pack("<I", zlib.crc32(body))


@dataclasses.dataclass(frozen=True)
class _Shape:
    dtype: torch.dtype
    is_rotated: bool
    num_layers: int
    num_heads: int
    head_dim: int
    num_tokens: int
    positions_T: Tensor

    @property
    def num_channels(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def num_elements(self) -> int:
        return 2 * self.num_layers * self.num_channels * self.num_tokens

    def cache(self, x_LKTC: Tensor) -> KVCache:
        """The cache of keys and values, (L, 2, T, C)."""
        x = (
            x_LKTC.view(self.num_layers, 2, self.num_tokens, self.num_heads, self.head_dim)
            .transpose(2, 3)
            .to(self.dtype)
        )
        return KVCache(x[:, 0].contiguous(), x[:, 1].contiguous(), self.positions_T, self.is_rotated)


def _unpack(tag: str, data: bytes) -> tuple[_Shape, bytes]:
    if len(data) < _HEADER.size + 4 or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise CorruptBitstream(f"{len(data)} bytes are no {tag} chunk, or it is damaged: the checksum is wrong.")
    magic, found, dtype, rotated, layers, heads, dim, tokens, first, gap_bytes = _HEADER.unpack_from(data)
    if magic != _MAGIC or found.rstrip(b"\0") != tag.encode() or dtype >= len(bitstream.DTYPES) or not tokens:
        raise CorruptBitstream(f"this is no {tag} chunk.")
    payload = data[_HEADER.size + gap_bytes : -4]
    positions = torch.arange(first, first + tokens)
    if gap_bytes:
        taken = np.unpackbits(np.frombuffer(data, np.uint8, gap_bytes, _HEADER.size), bitorder="little")
        positions = torch.from_numpy(np.flatnonzero(taken) + first)
        if len(positions) != tokens:
            raise CorruptBitstream(f"positions of {len(positions)} tokens were sent for {tokens}.")
    shape = _Shape(getattr(torch, bitstream.DTYPES[dtype]), bool(rotated), layers, heads, dim, tokens, positions)
    return shape, payload


def _flat(kv: KVCache) -> Tensor:
    """(L, 2, T, C) float32 on the CPU."""
    x = torch.stack([kv.keys_LHTD, kv.values_LHTD], dim=1).float().cpu()
    return x.transpose(2, 3).reshape(kv.num_layers, 2, kv.num_tokens, -1)


def _expect(payload: bytes, num_bytes: int, what: str) -> None:
    if len(payload) != num_bytes:
        raise CorruptBitstream(f"{what}: {num_bytes} bytes expected, {len(payload)} are there.")


def pack_bits(symbols: NDArray[np.uint8], bits: int) -> bytes:
    """Symbols below 2^bits, densely packed, lowest bit first; ceil(n * bits / 8) bytes."""
    if bits == 8:
        return symbols.tobytes()
    planes = (symbols.reshape(-1, 1) >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(planes, bitorder="little").tobytes()


def unpack_bits(data: bytes, count: int, bits: int) -> NDArray[np.uint8]:
    """`count` symbols of `pack_bits`."""
    if bits == 8:
        return np.frombuffer(data, np.uint8, count)
    planes = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little").reshape(count, bits)
    symbols: NDArray[np.uint8] = (planes << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    return symbols


@dataclasses.dataclass(frozen=True)
class Raw:
    """The cache as it is: 16 or 32 bits a number."""

    def encode(self, kv: KVCache) -> bytes:
        """The chunk's bytes."""
        both = torch.stack([kv.keys_LHTD, kv.values_LHTD], dim=1).cpu().contiguous()
        return _pack("raw", kv, both.view(torch.uint8).numpy().tobytes())

    def decode(self, data: bytes) -> KVCache:
        """The cache, bit for bit."""
        shape, payload = _unpack("raw", data)
        _expect(payload, shape.num_elements * shape.dtype.itemsize, "raw")
        both = torch.frombuffer(bytearray(payload), dtype=torch.uint8).view(shape.dtype)
        both = both.view(shape.num_layers, 2, shape.num_heads, shape.num_tokens, shape.head_dim)
        return KVCache(both[:, 0].contiguous(), both[:, 1].contiguous(), shape.positions_T, shape.is_rotated)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Default quantisation: one scale per token, layer and K/V, the same n bits everywhere, densely packed.

    Attributes:
        bits: 2 to 8 per number; symbols are 0 .. 2^bits - 2, symmetric around 0.
        is_compressed: zstd (level 1) over the symbols as bytes, channel by channel, instead of packing.
    """

    bits: int = 8
    is_compressed: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"bits={self.bits} must lie in 2..8.")

    @property
    def _tag(self) -> str:
        return f"{'zstd' if self.is_compressed else 'uni'}{self.bits}"

    def encode(self, kv: KVCache) -> bytes:
        """The chunk's bytes."""
        half = 2 ** (self.bits - 1) - 1
        x = _flat(kv)
        columns = x.reshape(-1, x.shape[-1]).T.contiguous()  # (C, L*2*T): every token of every layer is a column
        q, scale = quantisation.quantise_tokens(columns, half, kv.dtype)
        kept = torch.float16 if kv.dtype == torch.float16 else torch.bfloat16
        scales = scale.to(kept).view(torch.int16).numpy().astype("<i2").tobytes()
        symbols = (q + half).to(torch.uint8)
        if not self.is_compressed:
            return _pack(self._tag, kv, scales + pack_bits(symbols.T.contiguous().numpy(), self.bits))
        import zstandard

        by_channel = symbols.view(symbols.shape[0], -1, kv.num_tokens).transpose(0, 1).contiguous()
        return _pack(self._tag, kv, scales + zstandard.ZstdCompressor(level=1).compress(by_channel.numpy().tobytes()))

    def decode(self, data: bytes) -> KVCache:
        """The quantised cache."""
        shape, payload = _unpack(self._tag, data)
        half = 2 ** (self.bits - 1) - 1
        rows = 2 * shape.num_layers * shape.num_tokens
        body = payload[2 * rows :]
        if self.is_compressed:
            import zstandard

            try:
                raw = zstandard.ZstdDecompressor().decompress(body, max_output_size=shape.num_elements)
            except zstandard.ZstdError as error:
                raise CorruptBitstream(f"zstd: {error}") from error
            _expect(raw, shape.num_elements, self._tag)
            blocks = np.frombuffer(raw, np.uint8).reshape(-1, shape.num_channels, shape.num_tokens)
            symbols = blocks.transpose(0, 2, 1).reshape(rows, shape.num_channels)
        else:
            _expect(payload, 2 * rows + (shape.num_elements * self.bits + 7) // 8, self._tag)
            symbols = unpack_bits(body, shape.num_elements, self.bits).reshape(rows, shape.num_channels)
        scale_dtype = torch.float16 if shape.dtype == torch.float16 else torch.bfloat16
        if len(payload) < 2 * rows:
            raise CorruptBitstream(f"{self._tag}: {rows} scales expected.")
        scales = torch.from_numpy(np.frombuffer(payload, "<i2", rows).astype(np.int16)).view(scale_dtype).float()
        x = (torch.from_numpy(symbols.astype(np.int16)) - half).float() * (scales / half)[:, None]
        return shape.cache(x.view(shape.num_layers, 2, shape.num_tokens, -1))


@dataclasses.dataclass(frozen=True)
class Float8:
    """FP8 (e4m3), one scale per layer and K/V, so that the largest number becomes 448."""

    def encode(self, kv: KVCache) -> bytes:
        """The chunk's bytes."""
        x = _flat(kv)
        scale = (x.abs().amax(dim=(2, 3), keepdim=True) / 448.0).clamp(min=1e-30)
        small = (x / scale).to(torch.float8_e4m3fn)
        scales = scale.reshape(-1).numpy().astype("<f4").tobytes()
        return _pack("fp8", kv, scales + small.view(torch.uint8).numpy().tobytes())

    def decode(self, data: bytes) -> KVCache:
        """The rounded cache."""
        shape, payload = _unpack("fp8", data)
        head = 8 * shape.num_layers
        _expect(payload, head + shape.num_elements, "fp8")
        scale = torch.from_numpy(np.frombuffer(payload, "<f4", 2 * shape.num_layers).astype(np.float32))
        small = torch.frombuffer(bytearray(payload[head:]), dtype=torch.uint8).view(torch.float8_e4m3fn)
        x = small.float().view(shape.num_layers, 2, shape.num_tokens, -1) * scale.view(-1, 2, 1, 1)
        return shape.cache(x)


@dataclasses.dataclass(frozen=True)
class Kivi:
    """KIVI: asymmetric n bits, keys per channel in groups of tokens, values per token in groups of channels; last tokens exact.

    Attributes:
        bits: per number.
        group: numbers that share a 16-bit scale and a 16-bit minimum.
        residual_tokens: at least this many last tokens stay as they are; the rest fills whole groups.
    """

    bits: int = 2
    group: int = 32
    residual_tokens: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8 or self.group < 2 or self.residual_tokens < 0:
            raise ConfigError(
                f"bits={self.bits}, group={self.group}, residual_tokens={self.residual_tokens} are out of range."
            )

    def _coded_tokens(self, num_tokens: int) -> int:
        return max(0, num_tokens - self.residual_tokens) // self.group * self.group

    def encode(self, kv: KVCache) -> bytes:
        """The chunk's bytes."""
        coded = self._coded_tokens(kv.num_tokens)
        tail = torch.stack([kv.keys_LHTD, kv.values_LHTD], dim=1)[:, :, :, coded:].cpu().contiguous()
        parts = [tail.view(torch.uint8).numpy().tobytes()]
        x_LKTC = _flat(kv)[:, :, :coded]
        if coded:
            for which in (0, 1):
                parts += self._code(self._grouped(x_LKTC[:, which], which))
        return _pack(f"kivi{self.bits}", kv, b"".join(parts))

    def _channel_group(self, num_channels: int) -> int:
        return self.group if num_channels % self.group == 0 else num_channels

    def _grouped(self, x_LTC: Tensor, which: int) -> Tensor:
        """(L, G, members) of one group each."""
        if which == 0:
            x_LTC = x_LTC.transpose(1, 2)
            return x_LTC.reshape(-1, self.group)
        return x_LTC.reshape(-1, self._channel_group(x_LTC.shape[2]))

    def _code(self, rows: Tensor) -> list[bytes]:
        low, high = rows.amin(dim=1).half().float(), rows.amax(dim=1)
        step = ((high - low) / (2**self.bits - 1)).half().float()
        safe = torch.where(step > 0, step, torch.ones_like(step))
        q = ((rows - low[:, None]) / safe[:, None]).round().clamp(0, 2**self.bits - 1).to(torch.uint8)
        return [
            low.half().numpy().astype("<f2").tobytes(),
            step.half().numpy().astype("<f2").tobytes(),
            pack_bits(q.numpy(), self.bits),
        ]

    def decode(self, data: bytes) -> KVCache:
        """The quantised cache."""
        shape, payload = _unpack(f"kivi{self.bits}", data)
        coded = self._coded_tokens(shape.num_tokens)
        left = shape.num_tokens - coded
        tail_bytes = 2 * shape.num_layers * shape.num_channels * left * shape.dtype.itemsize
        per_side = shape.num_layers * shape.num_channels * coded
        groups = (per_side // self.group, per_side // self._channel_group(shape.num_channels))
        packed = (per_side * self.bits + 7) // 8
        _expect(payload, tail_bytes + 4 * sum(groups) + 2 * packed, "kivi")
        tail = torch.frombuffer(bytearray(payload[:tail_bytes] or b"\0" * 4), dtype=torch.uint8)[:tail_bytes]
        tail_LKHTD = tail.view(shape.dtype).view(shape.num_layers, 2, shape.num_heads, left, shape.head_dim)
        sides = []
        at = tail_bytes
        for which, count in enumerate(groups):
            low = _halves(payload, at, count)
            step = _halves(payload, at + 2 * count, count)
            q = unpack_bits(payload[at + 4 * count : at + 4 * count + packed], per_side, self.bits)
            at += 4 * count + packed
            rows = low[:, None] + torch.from_numpy(q.astype(np.float32)).view(count, -1) * step[:, None]
            if which == 0:
                side = rows.reshape(shape.num_layers, shape.num_channels, coded).transpose(1, 2)
            else:
                side = rows.reshape(shape.num_layers, coded, shape.num_channels)
            sides.append(side.reshape(shape.num_layers, coded, shape.num_heads, -1).transpose(1, 2).to(shape.dtype))
        keys, values = (torch.cat([side, tail_LKHTD[:, which]], dim=2) for which, side in enumerate(sides))
        return KVCache(keys.contiguous(), values.contiguous(), shape.positions_T, shape.is_rotated)


def _halves(payload: bytes, at: int, count: int) -> Tensor:
    values: NDArray[Any] = np.frombuffer(payload, "<f2", count, at).astype(np.float32)
    return torch.from_numpy(values)
