"""The container of one coded chunk: a header, six sections, checksums. Everything little-endian; no pickle.

    header 56 B   magic "NFKV" | version u8 | dtype u8 | flags u8 | level u8 | profile id 8 B | layers u16 | heads u16
                  | head dim u16 | group u16 | tokens u32 | first position u32 | six section lengths 6 * u32
                  | CRC-32 of the header
    positions     bitmap from the first to the last position, where tokens have gaps (flag 2)
    scales        u16 per token, layer and K/V: the bits of a float16 (float16 caches) or bfloat16
    outliers      u16 block | u32 index | i32 value, for integers outside their table's alphabet
    tables        u16 frequencies, where the chunk carries its own tables
    lengths       u32 per block: bytes of its payload
    payload       the blocks of `common.entropy`, by layer, K/V, class
    CRC-32 of all sections

`parse` checks everything that can be checked without decoding, so that nothing large is allocated for a few damaged bytes.
"""

import dataclasses
import struct
import zlib

from common.errors import ConfigError, CorruptBitstream

MAGIC = b"NFKV"
VERSION = 1
SECTIONS = ("positions", "scales", "outliers", "tables", "lengths", "payload")
_HEADER = struct.Struct("<4sBBBB8sHHHHII6I")
HEADER_BYTES = _HEADER.size + 4
MAX_TOKENS = 65536
DTYPES = ("float16", "bfloat16", "float32")
IS_ROTATED, HAS_GAPS = 1, 2


@dataclasses.dataclass(frozen=True)
class Header:
    """What a chunk's bytes say about themselves.

    Attributes:
        profile_id: first 8 bytes of the profile's digest.
        level: index of the level.
        dtype: of the cache: float16, bfloat16 or float32.
        flags: IS_ROTATED, HAS_GAPS.
        group_tokens: tokens per anchor group.
        first_position: of the first token.
    """

    profile_id: bytes
    level: int
    dtype: str
    flags: int
    num_layers: int
    num_heads: int
    head_dim: int
    group_tokens: int
    num_tokens: int
    first_position: int


def pack(header: Header, sections: dict[str, bytes]) -> bytes:
    """The bytes of a chunk.

    Raises:
        ConfigError: a number does not fit its field.
    """
    if header.num_tokens > MAX_TOKENS:
        raise ConfigError(
            f"a chunk of {header.num_tokens} tokens is too long; cut it into chunks of at most {MAX_TOKENS}."
        )
    parts = [sections.get(name, b"") for name in SECTIONS]
    try:
        fixed = _HEADER.pack(
            MAGIC,
            VERSION,
            DTYPES.index(header.dtype),
            header.flags,
            header.level,
            header.profile_id,
            header.num_layers,
            header.num_heads,
            header.head_dim,
            header.group_tokens,
            header.num_tokens,
            header.first_position,
            *map(len, parts),
        )
    except struct.error as error:
        raise ConfigError(f"this chunk does not fit the format: {error}") from error
    body = b"".join(parts)
    return b"".join((fixed, struct.pack("<I", zlib.crc32(fixed)), body, struct.pack("<I", zlib.crc32(body))))


def parse_header(data: bytes | memoryview) -> tuple[Header, dict[str, int]]:
    """Header and section lengths; the sections themselves need not be there.

    Raises:
        CorruptBitstream: not such a header, damaged, or of another version.
    """
    if len(data) < HEADER_BYTES:
        raise CorruptBitstream(f"{len(data)} bytes cannot hold a header of {HEADER_BYTES}. The stream was cut.")
    if bytes(data[:4]) != MAGIC:
        raise CorruptBitstream(
            f"the stream starts with {bytes(data[:4])!r}, not with {MAGIC!r}; it is no coded KV chunk."
        )
    (checksum,) = struct.unpack_from("<I", data, _HEADER.size)
    if zlib.crc32(data[: _HEADER.size]) != checksum:
        raise CorruptBitstream("the header does not match its checksum; the stream is damaged.")
    _, version, dtype, flags, level, profile_id, layers, heads, dim, group, tokens, first, *lengths = (
        _HEADER.unpack_from(data)
    )
    if version != VERSION:
        raise CorruptBitstream(f"the stream has version {version}; this program reads {VERSION}.")
    if dtype >= len(DTYPES) or flags & ~(IS_ROTATED | HAS_GAPS) or not 0 < tokens <= MAX_TOKENS or not group:
        raise CorruptBitstream("the header holds values that no encoder writes; the stream is damaged or foreign.")
    header = Header(profile_id, level, DTYPES[dtype], flags, layers, heads, dim, group, tokens, first)
    return header, dict(zip(SECTIONS, lengths, strict=True))


def parse(data: bytes | memoryview) -> tuple[Header, dict[str, memoryview]]:
    """Header and sections of a whole chunk, checksums verified.

    Raises:
        CorruptBitstream: anything is missing, too much or damaged.
    """
    header, lengths = parse_header(data)
    expected = HEADER_BYTES + sum(lengths.values()) + 4
    if len(data) != expected:
        raise CorruptBitstream(
            f"{expected} bytes expected, {len(data)} are there. The stream was cut or has a foreign tail."
        )
    view = memoryview(data)
    body = view[HEADER_BYTES:-4]
    if zlib.crc32(body) != struct.unpack("<I", view[-4:])[0]:
        raise CorruptBitstream("the body does not match its checksum; the stream is damaged.")
    sections = {}
    at = 0
    for name, length in lengths.items():
        sections[name] = body[at : at + length]
        at += length
    return header, sections


def breakdown(data: bytes | memoryview) -> dict[str, int]:
    """Bytes of each part of a chunk; they sum to its length.

    Raises:
        CorruptBitstream: the header is damaged or the length is not the announced one.
    """
    _, lengths = parse_header(data)
    parts = {"header": HEADER_BYTES, **lengths, "checksum": 4}
    if sum(parts.values()) != len(data):
        raise CorruptBitstream(f"{sum(parts.values())} bytes announced, {len(data)} are there.")
    return parts
