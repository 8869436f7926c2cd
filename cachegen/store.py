"""Coded contexts in a folder: what the storage server serves.

    DIR/profiles/<profile id>.safetensors
    DIR/contexts/<context id>/manifest.json      sizes, token counts, levels; written last
    DIR/contexts/<context id>/<chunk>.<level>    one chunk at one level, a bitstream
    DIR/contexts/<context id>/<chunk>.text       token ids of the chunk, with a checksum

A context id is the SHA-256 of model and token ids, so the same context is stored once.
"""

import dataclasses
import hashlib
import json
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cachegen.codec import Codec
from cachegen.profile import Profile, from_bytes, to_bytes
from cachegen.profiling import cut
from common.errors import ConfigError, CorruptBitstream, DataUnavailable
from common.kv import KVCache
from common.results import canonical_json, write_atomically

ID = re.compile(r"[0-9a-f]{64}")
_PROFILE_ID = re.compile(r"[0-9a-f]{16}")
_OBJECT = re.compile(r"manifest\.json|[0-9]{1,6}\.(?:[0-9]{1,2}|text)")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is stored of a context.

    Attributes:
        context_id, profile_id: hex.
        level_names: from smallest to best.
        chunk_tokens: tokens of each chunk.
        level_bytes: per chunk its size at each level.
        text_bytes: per chunk its size as token ids.
    """

    context_id: str
    profile_id: str
    level_names: tuple[str, ...]
    chunk_tokens: tuple[int, ...]
    level_bytes: tuple[tuple[int, ...], ...]
    text_bytes: tuple[int, ...]

    @property
    def num_chunks(self) -> int:
        return len(self.chunk_tokens)

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {"version": 1, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Manifest":
        """What `to_json` wrote.

        Raises:
            CorruptBitstream: something is missing or does not fit together.
        """
        try:
            if data["version"] != 1:
                raise CorruptBitstream(f"manifest of version {data['version']}; this program reads 1.")
            manifest = cls(
                str(data["context_id"]),
                str(data["profile_id"]),
                tuple(str(name) for name in data["level_names"]),
                tuple(int(count) for count in data["chunk_tokens"]),
                tuple(tuple(int(size) for size in sizes) for sizes in data["level_bytes"]),
                tuple(int(size) for size in data["text_bytes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptBitstream(f"this is no manifest: {error}") from error
        if not manifest.chunk_tokens or min(manifest.chunk_tokens) < 1:
            raise CorruptBitstream("the manifest lists no chunks, or chunks without tokens.")
        counts = {len(manifest.chunk_tokens), len(manifest.level_bytes), len(manifest.text_bytes)}
        if len(counts) != 1 or {len(sizes) for sizes in manifest.level_bytes} != {len(manifest.level_names)}:
            raise CorruptBitstream("the manifest lists different numbers of chunks or levels.")
        return manifest


def context_id(model: str, ids: Sequence[int]) -> str:
    """Name of a context: SHA-256 (hex) of the model's fingerprint and the token ids."""
    return hashlib.sha256(f"{model}|{','.join(map(str, ids))}".encode()).hexdigest()


def pack_ids(ids: Sequence[int]) -> bytes:
    """Token ids as little-endian base-128 numbers, with a checksum: what a chunk costs as text, tokenised."""
    body = bytearray()
    for token in ids:
        while token >= 0x80:
            body.append(token & 0x7F | 0x80)
            token >>= 7
        body.append(token)
    return bytes(body) + struct.pack("<I", zlib.crc32(body))


def unpack_ids(data: bytes) -> tuple[int, ...]:
    """What `pack_ids` wrote.

    Raises:
        CorruptBitstream: damaged.
    """
    if len(data) < 4 or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise CorruptBitstream("a chunk's token ids do not match their checksum.")
    ids, value, shift = [], 0, 0
    for byte in data[:-4]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            ids.append(value)
            value = shift = 0
    return tuple(ids)


@dataclasses.dataclass(frozen=True)
class Store:
    """Coded contexts in a folder.

    Attributes:
        folder: created on the first write.
    """

    folder: Path

    def put_profile(self, profile: Profile) -> str:
        """Keep a profile; returns its id."""
        name = profile.digest[:8].hex()
        write_atomically(self.folder / "profiles" / f"{name}.safetensors", to_bytes(profile))
        return name

    def store_kv(self, codec: Codec, ids: Sequence[int], kv: KVCache, chunk_tokens: int = 1500) -> Manifest:
        """Cut a context's cache into chunks and keep each at every level, and as text (the paper's `store_kv`).

        Args:
            codec: its profile is kept too.
            ids: token ids of the context, one per token of `kv`.
            kv: the cache of one prefill of the whole context.
        """
        if len(ids) != kv.num_tokens:
            raise ConfigError(f"{len(ids)} token ids were given for a cache of {kv.num_tokens} tokens.")
        if not ids:
            raise ConfigError("a context without tokens cannot be stored.")
        name = context_id(codec.profile.model, ids)
        folder = self.folder / "contexts" / name
        chunks = cut(kv, chunk_tokens)
        # Stored anew with other chunks: the old manifest would describe a mixture if this were interrupted.
        (folder / "manifest.json").unlink(missing_ok=True)
        level_bytes, text_bytes, counts = [], [], []
        for index, chunk in enumerate(chunks):
            sizes = []
            for level in range(len(codec.levels)):
                data = codec.encode(chunk, level)
                write_atomically(folder / f"{index}.{level}", data)
                sizes.append(len(data))
            start = index * chunk_tokens
            text = pack_ids(ids[start : start + chunk.num_tokens])
            write_atomically(folder / f"{index}.text", text)
            level_bytes.append(tuple(sizes))
            text_bytes.append(len(text))
            counts.append(chunk.num_tokens)
        manifest = Manifest(
            name,
            self.put_profile(codec.profile),
            codec.levels,
            tuple(counts),
            tuple(level_bytes),
            tuple(text_bytes),
        )
        write_atomically(folder / "manifest.json", canonical_json(manifest.to_json()).encode())
        return manifest

    def contexts(self) -> list[str]:
        """Ids of all complete contexts, sorted."""
        return sorted(path.parent.name for path in (self.folder / "contexts").glob("*/manifest.json"))

    def manifest(self, context: str) -> Manifest:
        """What is stored of a context. Raises as `read`."""
        return Manifest.from_json(json.loads(self.read("contexts", context, "manifest.json")))

    def profile(self, name: str) -> Profile:
        """A kept profile. Raises as `read`."""
        return from_bytes(self.read("profiles", name))

    def read(self, *parts: str) -> bytes:
        """A stored object: ("profiles", id), ("contexts", id, "manifest.json") or ("contexts", id, "<chunk>.<level or text>").

        Nothing else can be named, so no path leads out of the folder.

        Raises:
            DataUnavailable: there is no such object.
        """
        path = None
        if len(parts) == 2 and parts[0] == "profiles" and _PROFILE_ID.fullmatch(parts[1]):
            path = self.folder / "profiles" / f"{parts[1]}.safetensors"
        elif len(parts) == 3 and parts[0] == "contexts" and ID.fullmatch(parts[1]) and _OBJECT.fullmatch(parts[2]):
            path = self.folder / "contexts" / parts[1] / parts[2]
        if path is None or not path.is_file():
            raise DataUnavailable(f"there is no stored object {'/'.join(parts)!r}.")
        return path.read_bytes()
