"""Where chunk KV is kept: a tier in memory over a tier on disk, both bounded in bytes and evicting the least recently used.

    put(key, kv) ----> memory tier (copies of tensors)      limit in bytes, least recently used goes first, pinned entries stay
          \\---------> disk tier   (one file per chunk)      the same, shared by any number of processes
    open(key)  <----- memory, else disk, else None (a miss)

An entry on disk is one safetensors file whose tensors stand in the order in which layers are needed,

    header | layer_000.k | layer_000.v | layer_001.k | layer_001.v | ...          each (H, T, D)

so that one layer, or one part of it, is read with a single system call. The header carries what the entry depends on (model,
tokenizer, opening, token ids), its layout and a CRC-32 of every tensor, under a SHA-256 of its own. A file that is truncated,
damaged, or about something else is a miss with a warning; its numbers never reach a caller.

Shape legend: L layers, H key/value heads, T tokens, D head dimension.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import threading
import warnings
import weakref
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor

from cacheblend.engine import ChunkKey, InMemory, StoredKV
from common.cache import atomic_file
from common.errors import ConfigError, CorruptBitstream
from common.hardware import DeviceProfile
from common.kv import KVCache

FORMAT = 1
_SUFFIX = ".safetensors"
_MAX_HEADER_BYTES = 1 << 26
# At most so many buffers go into one scattered read (IOV_MAX on Linux).
_MAX_BUFFERS = 1024
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class UntrustedEntry(UserWarning):
    """A stored entry is damaged or not what its name says; it counts as missing."""


class CorruptEntry(CorruptBitstream):
    """A stored entry turned out to be damaged while one of its layers was read.

    Attributes:
        key: of the entry.
    """

    def __init__(self, key: ChunkKey, problem: str) -> None:
        super().__init__(f"KV of a chunk of {len(key.tokens)} tokens ({key.digest[:12]}): {problem}.")
        self.key = key


class Throttle:
    """A device that serves one read at a time, at a given rate and latency; for experiments.

    Reads are real; after each one the caller is held back until the modelled device would have delivered it. A device that
    was idle saves up nothing (a token bucket without burst).

    Args:
        device: rate and latency.
        clock: current time in seconds, monotonic.
        sleep: waits for so many seconds.
    """

    def __init__(self, device: DeviceProfile, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.device = device
        self._clock, self._sleep = clock, sleep
        self._free_at_s = float("-inf")
        self._lock = threading.Lock()

    def now(self) -> float:
        """Current time, to be handed to `charge`."""
        return self._clock()

    def charge(self, num_bytes: int, began_s: float) -> None:
        """Wait until a read of so many bytes, asked for at `began_s`, is done."""
        with self._lock:
            self._free_at_s = max(self._free_at_s, began_s) + self.device.read_s(num_bytes)
            done_at_s = self._free_at_s
        remaining_s = done_at_s - self._clock()
        if remaining_s > 0:
            self._sleep(remaining_s)


# ------------------------------------------------------------------------------------------------------------ memory tier


class MemoryHandle:
    """A `StoredKV` in memory, pinned until closed. The stored tensors cannot be reached through it, only copied from."""

    tier = "memory"

    def __init__(self, kv: KVCache, unpin: Callable[[], None]) -> None:
        self._entry = InMemory(kv)
        self.num_tokens, self.start_position = self._entry.num_tokens, self._entry.start_position
        self.dtype = kv.dtype
        self._finalizer = weakref.finalize(self, unpin)

    def read(self, layer: int, keys_HTD: Tensor | None, values_HTD: Tensor | None) -> int:
        """See `StoredKV.read`."""
        return self._entry.read(layer, keys_HTD, values_HTD)

    def close(self) -> None:
        """Allow the entry to be evicted. Closing twice does nothing; a handle that is forgotten closes itself."""
        self._finalizer()


class MemoryTier:
    """KV in memory, at most `limit_bytes` of it.

    Args:
        limit_bytes: bytes of keys and values.
        pin_memory: keep tensors in page-locked memory, from which a GPU reads faster.

    Raises:
        ConfigError: a negative limit.
    """

    def __init__(self, limit_bytes: int, pin_memory: bool = False) -> None:
        if limit_bytes < 0:
            raise ConfigError(f"limit_bytes={limit_bytes} of the memory tier must be >= 0.")
        self.limit_bytes = limit_bytes
        self.num_bytes = 0
        self.evictions = 0
        self._pin_memory = pin_memory
        self._entries: collections.OrderedDict[str, KVCache] = collections.OrderedDict()
        self._pins: collections.Counter[str] = collections.Counter()
        # Re-entrant: a forgotten handle may be collected, and unpin its entry, while this very thread holds the lock.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: ChunkKey) -> bool:
        return key.digest in self._entries

    def open(self, key: ChunkKey) -> MemoryHandle | None:
        """The entry, now the most recently used, or None."""
        with self._lock:
            digest = key.digest
            kv = self._entries.get(digest)
            if kv is None:
                return None
            self._entries.move_to_end(digest)
            self._pins[digest] += 1
        return MemoryHandle(kv, lambda: self._unpin(digest))

    def put(self, key: ChunkKey, kv: KVCache) -> bool:
        """Keep a copy; False if it does not fit beside what is pinned (then nothing is evicted for it)."""
        digest = key.digest
        with self._lock:
            if digest in self._entries:
                self._entries.move_to_end(digest)
                return True
            free = self.limit_bytes - self.num_bytes
            victims = []
            for other, kept in self._entries.items():
                if free >= kv.num_bytes:
                    break
                if not self._pins[other]:
                    victims.append(other)
                    free += kept.num_bytes
            if free < kv.num_bytes:
                return False
            for victim in victims:
                self.num_bytes -= self._entries.pop(victim).num_bytes
                self.evictions += 1
            copy = kv.to("cpu").clone()
            if self._pin_memory:
                copy = dataclasses.replace(
                    copy, keys_LHTD=copy.keys_LHTD.pin_memory(), values_LHTD=copy.values_LHTD.pin_memory()
                )
            self._entries[digest] = copy
            self.num_bytes += copy.num_bytes
            return True

    def discard(self, key: ChunkKey) -> None:
        """Forget an entry, pinned or not; open handles stay readable."""
        with self._lock:
            kv = self._entries.pop(key.digest, None)
            if kv is not None:
                self.num_bytes -= kv.num_bytes

    def digests(self) -> list[str]:
        """Digests of the entries' keys, least recently used first."""
        with self._lock:
            return list(self._entries)

    def _unpin(self, digest: str) -> None:
        with self._lock:
            self._pins[digest] -= 1
            if self._pins[digest] <= 0:
                del self._pins[digest]


# -------------------------------------------------------------------------------------------------------------- disk tier


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What an entry's header says, once it has been checked."""

    shape_LHTD: tuple[int, int, int, int]
    dtype: torch.dtype
    start_position: int
    crc_parts: tuple[int, ...]
    data_offset: int

    @property
    def part_bytes(self) -> int:
        """Bytes of the keys, or of the values, of one layer."""
        _, heads, tokens, dim = self.shape_LHTD
        return heads * tokens * dim * self.dtype.itemsize


class DiskHandle:
    """A `StoredKV` in a file, read layer by layer and checked as it is read; pinned until closed.

    The file stays readable through its descriptor even when another process evicts the entry meanwhile.
    """

    tier = "disk"

    def __init__(
        self, key: ChunkKey, file: int, layout: _Layout, throttle: Throttle | None, unpin: Callable[[], None]
    ) -> None:
        self.key = key
        self.num_tokens = layout.shape_LHTD[2]
        self.start_position = layout.start_position
        self.dtype = layout.dtype
        self._file, self._layout, self._throttle = file, layout, throttle
        self._on_close: Callable[[], None] | None = None
        self._finalizer = weakref.finalize(self, _close_and_unpin, file, unpin)

    @property
    def num_layers(self) -> int:
        return self._layout.shape_LHTD[0]

    def read(self, layer: int, keys_HTD: Tensor | None, values_HTD: Tensor | None) -> int:
        """See `StoredKV.read`. A target may be shorter than the chunk; the whole part is read and checked all the same.

        Raises:
            CorruptEntry: the data is not what was stored. The targets then hold garbage.
            ConfigError: no such layer, a target of other heads or dimension, or the handle was closed.
        """
        layout = self._layout
        num_layers, heads, tokens, dim = layout.shape_LHTD
        if not 0 <= layer < num_layers:
            raise ConfigError(f"layer {layer} was asked of a stored chunk of {num_layers} layers.")
        if not self._finalizer.alive:
            raise ConfigError("this stored chunk was closed; open it again.")
        began_s = self._throttle.now() if self._throttle is not None else 0.0
        wanted = [(part, target) for part, target in enumerate((keys_HTD, values_HTD)) if target is not None]
        landings: list[Tensor] = []
        for _, target in wanted:
            if target.shape[0] != heads or target.shape[1] > tokens or target.shape[2] != dim:
                raise ConfigError(f"a target of shape {tuple(target.shape)} cannot take {(heads, tokens, dim)}.")
            is_direct = (
                target.device.type == "cpu"
                and target.dtype == layout.dtype
                and target.shape[1] == tokens
                and target.stride()[1:] == (dim, 1)
            )
            landings.append(target if is_direct else torch.empty((heads, tokens, dim), dtype=layout.dtype))
        num_bytes = len(wanted) * layout.part_bytes
        # Keys and values of a layer are neighbours in the file: both are one read.
        parts = [part for part, _ in wanted]
        rows = [row for landing in landings for row in _rows(landing)]
        if parts:
            offset = layout.data_offset + (2 * layer + parts[0]) * layout.part_bytes
            self._read_scattered(rows, offset)
        if self._throttle is not None and parts:
            self._throttle.charge(num_bytes, began_s)
        for (part, target), landing in zip(wanted, landings, strict=True):
            crc = 0
            for row in _rows(landing):
                crc = zlib.crc32(row, crc)
            if crc != layout.crc_parts[2 * layer + part]:
                raise CorruptEntry(
                    self.key, f"{'keys' if part == 0 else 'values'} of layer {layer} fail their checksum"
                )
            if landing is not target:
                target.copy_(landing[:, : target.shape[1]])
        return num_bytes

    def read_all(self) -> KVCache:
        """The whole entry as a `KVCache` of its own.

        Raises:
            CorruptEntry: see `read`.
        """
        keys_LHTD = torch.empty(self._layout.shape_LHTD, dtype=self._layout.dtype)
        values_LHTD = torch.empty_like(keys_LHTD)
        for layer in range(self.num_layers):
            self.read(layer, keys_LHTD[layer], values_LHTD[layer])
        start = self.start_position
        return KVCache(keys_LHTD, values_LHTD, torch.arange(start, start + self.num_tokens))

    def close(self) -> None:
        """Allow the entry to be evicted. Closing twice does nothing; a handle that is forgotten closes itself."""
        if self._finalizer.alive and self._on_close is not None:
            self._on_close()
        self._finalizer()

    def when_closed(self, act: Callable[[], None]) -> None:
        """Do something when `close` is called; not when the handle is merely forgotten."""
        self._on_close = act

    def _read_scattered(self, rows: list[memoryview], offset: int) -> None:
        while rows:
            batch = rows[:_MAX_BUFFERS]
            try:
                got = os.preadv(self._file, batch, offset)
            except OSError as problem:
                raise CorruptEntry(self.key, f"its file cannot be read ({problem})") from problem
            if got <= 0:
                raise CorruptEntry(self.key, "its file ends early")
            offset += got
            done = 0
            while done < len(batch) and got >= len(batch[done]):
                got -= len(batch[done])
                done += 1
            rows = rows[done:]
            if got:  # a short read stopped inside a row
                rows[0] = rows[0][got:]


def _close_and_unpin(file: int, unpin: Callable[[], None]) -> None:
    os.close(file)
    unpin()


class DiskTier:
    """KV in files of one folder, at most `limit_bytes` of them, shared by any number of processes.

    Additions and evictions hold the folder's lock file. Recency is the files' modification time, set anew whenever an entry is
    opened; entries that this process has open are never evicted by it.

    Args:
        folder: created if it does not exist.
        limit_bytes: sum of the file sizes; None: no limit.
        throttle: makes reads as slow as a modelled device.

    Raises:
        ConfigError: a negative limit.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None, throttle: Throttle | None = None) -> None:
        if limit_bytes is not None and limit_bytes < 0:
            raise ConfigError(f"limit_bytes={limit_bytes} of the disk tier must be >= 0.")
        self.folder = Path(folder)
        self.limit_bytes = limit_bytes
        self.throttle = throttle
        self.evictions = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        self._pins: collections.Counter[str] = collections.Counter()
        self._uses: dict[str, int] = {}
        self._num_uses = 0
        self._lock = threading.RLock()  # re-entrant for the same reason as in `MemoryTier`

    @property
    def num_bytes(self) -> int:
        """Bytes of all entries, other processes' included."""
        return sum(size for _, _, size in self._scan())

    def __len__(self) -> int:
        return len(self._scan())

    def __contains__(self, key: ChunkKey) -> bool:
        return self._path(key.digest).exists()

    def digests(self) -> list[str]:
        """Digests of the entries' keys, least recently used first."""
        return [digest for digest, _, _ in self._scan()]

    def open(self, key: ChunkKey) -> DiskHandle | None:
        """The entry, now the most recently used, or None. Its header has been checked; its layers are when they are read.

        Warns:
            UntrustedEntry: there is a file, but it cannot be trusted.
        """
        digest = key.digest
        path = self._path(digest)
        with self._lock:
            try:
                file = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return None
            try:
                layout = _check(file, key)
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as problem:
                os.close(file)
                warnings.warn(
                    f"{path}: {problem}. It counts as missing and is computed again.", UntrustedEntry, stacklevel=2
                )
                return None
            self._touch(digest)
            self._pins[digest] += 1
        return DiskHandle(key, file, layout, self.throttle, lambda: self._unpin(digest))

    def put(self, key: ChunkKey, kv: KVCache) -> bool:
        """Write an entry, replacing one of the same key; False if it does not fit beside what is pinned.

        Raises:
            ConfigError: keys that are not rotated, positions with gaps, or not one token per id of the key.
        """
        data = _serialise(key, kv)
        digest = key.digest
        with self._lock, FileLock(self.folder / ".lock", mode=0o666):
            for stale in self.folder.glob(".*.tmp"):  # only a process that died while holding the lock leaves one
                stale.unlink(missing_ok=True)
            entries = [entry for entry in self._scan() if entry[0] != digest]
            total = sum(size for _, _, size in entries) + len(data)
            victims = []
            for other, _, size in entries:
                if self.limit_bytes is None or total <= self.limit_bytes:
                    break
                if not self._pins[other]:
                    victims.append(other)
                    total -= size
            if self.limit_bytes is not None and total > self.limit_bytes:
                return False
            # The old version, if any, goes first: the sum of the files never exceeds the limit, not even for a moment.
            self._path(digest).unlink(missing_ok=True)
            for victim in victims:
                self._path(victim).unlink(missing_ok=True)
                self._uses.pop(victim, None)
                self.evictions += 1
            with atomic_file(self._path(digest)) as temporary:
                temporary.write_bytes(data)
            self._touch(digest)
        return True

    def discard(self, key: ChunkKey) -> None:
        """Delete an entry, pinned or not; open handles stay readable."""
        with self._lock, FileLock(self.folder / ".lock", mode=0o666):
            self._path(key.digest).unlink(missing_ok=True)
            self._uses.pop(key.digest, None)

    def drop_page_cache(self) -> None:
        """Ask the kernel to forget the files' contents, so that the next reads come from the device. Does nothing where that
        cannot be asked for."""
        if not hasattr(os, "posix_fadvise"):
            return
        for digest in self.digests():
            with contextlib.suppress(FileNotFoundError), open(self._path(digest), "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def facts(self) -> Iterator[dict[str, Any]]:
        """The headers of all entries that can be read: format, model, tokenizer, opening, tokens, shape, dtype, ..."""
        for digest, _, _ in self._scan():
            with (
                contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OSError),
                open(self._path(digest), "rb") as file,
            ):
                yield _facts(_header(file.fileno())[0])

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}{_SUFFIX}"

    def _scan(self) -> list[tuple[str, int, int]]:
        """(digest, time of last use, bytes) of every entry, least recently used first."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX) and not entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):  # evicted by another process in this moment
                        stat = entry.stat()
                        found.append((entry.name.removesuffix(_SUFFIX), stat.st_mtime_ns, stat.st_size))
        # File times tick a few milliseconds at a time; within a tick this process's own order decides.
        return sorted(found, key=lambda entry: (entry[1], self._uses.get(entry[0], 0)))

    def _touch(self, digest: str) -> None:
        self._num_uses += 1
        self._uses[digest] = self._num_uses
        with contextlib.suppress(FileNotFoundError, PermissionError):  # a read-only store can still be used
            os.utime(self._path(digest))

    def _unpin(self, digest: str) -> None:
        with self._lock:
            self._pins[digest] -= 1
            if self._pins[digest] <= 0:
                del self._pins[digest]


def _serialise(key: ChunkKey, kv: KVCache) -> bytes:
    """An entry's file content."""
    if not kv.is_rotated:
        raise ConfigError("the store takes rotated keys; rotate this cache to its positions first.")
    if kv.num_tokens != len(key.tokens) or kv.num_tokens == 0:
        raise ConfigError(f"{kv.num_tokens} tokens of KV were given for a chunk of {len(key.tokens)} token ids.")
    if bool((kv.positions_T.diff() != 1).any()):
        raise ConfigError("the store takes chunks whose positions follow each other without gaps.")
    tensors: dict[str, Tensor] = {}
    checksums = []
    for layer in range(kv.num_layers):
        for name, tensor in zip("kv", kv.layer(layer), strict=True):
            part = tensor.detach().cpu().contiguous()
            tensors[_part_name(layer, name)] = part
            checksums.append(zlib.crc32(_rows(part[None])[0]))
    facts = {
        "format": FORMAT,
        **_identity(key),
        "shape": list(kv.keys_LHTD.shape),
        "dtype": _DTYPE_NAMES[kv.dtype],
        "start_position": int(kv.positions_T[0]),
        "crc32": checksums,
    }
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    metadata = {"cacheblend": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    data: bytes = safetensors.torch.save(tensors, metadata)
    return data


def _identity(key: ChunkKey) -> dict[str, Any]:
    """What an entry depends on. Weights, RoPE parameters and dtype are in the model's fingerprint; BOS is in the opening."""
    return {
        "model": key.model,
        "tokenizer": key.tokenizer,
        "opening": list(key.opening),
        "tokens": list(key.tokens),
    }


def _part_name(layer: int, part: str) -> str:
    return f"layer_{layer:03d}.{part}"


def _header(file: int) -> tuple[dict[str, Any], int]:
    """A safetensors file's header and the offset of its data. Raises ValueError where it cannot be one."""
    prefix = os.pread(file, 8, 0)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= length <= _MAX_HEADER_BYTES:
        raise ValueError("it is no safetensors file")
    text = os.pread(file, length, 8)
    if len(text) < length:
        raise ValueError("its header is cut off")
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("it is no safetensors file")
    return header, 8 + length


def _facts(header: dict[str, Any]) -> dict[str, Any]:
    """The header's facts, checked against their SHA-256. Raises ValueError or KeyError."""
    metadata = header["__metadata__"]
    text = metadata["cacheblend"]
    if hashlib.sha256(text.encode()).hexdigest() != metadata["sha256"]:
        raise ValueError("its header is damaged")
    facts: dict[str, Any] = json.loads(text)
    if facts["format"] != FORMAT:
        raise ValueError(f"it has format {facts['format']}, and only {FORMAT} can be read")
    return facts


def _check(file: int, key: ChunkKey) -> _Layout:
    """An open entry's layout, if it is the entry of this key and complete. Raises ValueError and the like."""
    header, data_offset = _header(file)
    try:
        facts = _facts(header)
    except KeyError as error:
        raise ValueError("it was not written by this store") from error
    for name, value in _identity(key).items():
        if facts[name] != value:
            raise ValueError(f"it is about something else (its {name} differs)")
    num_layers, heads, tokens, dim = facts["shape"]
    layout = _Layout(
        (num_layers, heads, tokens, dim),
        _DTYPES[facts["dtype"]],
        facts["start_position"],
        tuple(facts["crc32"]),
        data_offset,
    )
    # Reading goes by the layout alone; a header that tells another one was tampered with or written by another library.
    expected = {
        _part_name(layer, part): {
            "dtype": facts["dtype"],
            "shape": [heads, tokens, dim],
            "data_offsets": [(2 * layer + i) * layout.part_bytes, (2 * layer + i + 1) * layout.part_bytes],
        }
        for layer in range(num_layers)
        for i, part in enumerate("kv")
    }
    if {name: entry for name, entry in header.items() if name != "__metadata__"} != expected:
        raise ValueError("its tensors are not laid out as its header says")
    size = os.fstat(file).st_size
    complete = data_offset + 2 * num_layers * layout.part_bytes
    if size != complete:
        raise ValueError(f"it has {size} bytes and should have {complete}")
    return layout


def _rows(tensor_HTD: Tensor) -> list[memoryview]:
    """The bytes of each head's block, sharing memory. Viewed as bytes, because numpy has no bfloat16."""
    return [memoryview(head.reshape(-1).view(torch.uint8).numpy()) for head in tensor_HTD.detach()]


# ------------------------------------------------------------------------------------------------------------- both tiers


@dataclasses.dataclass
class Counts:
    """What became of the requests to a store.

    Attributes:
        memory_hits, disk_hits, misses: of `open`.
        corrupt: entries found damaged (also counted as misses where `open` found it out).
        refused: chunks that neither tier had room for.
    """

    memory_hits: int = 0
    disk_hits: int = 0
    misses: int = 0
    corrupt: int = 0
    refused: int = 0


class TieredStore:
    """A `KVStore` (see `cacheblend.engine`) of a memory tier, a disk tier, or both.

    Args:
        memory, disk: the tiers; at least one.
        reads_layers: True: `open` gives a handle on the file and layers are read when they are asked for, so that loading can
            overlap with computing (`cacheblend.pipeline`). Damage is then found in the middle of a request and raises
            `CorruptEntry`, which `PipelinedEngine` turns into a miss. False: `open` reads and checks the whole entry, and
            damage is a miss at once.
        promote_after: copy an entry into memory when it is found on disk for the n-th time; 0: never. With `reads_layers` that
            happens when its handle is closed, after the request.
        defers_writes: new chunks are written to disk by `flush`, not while a request waits. Until then they are held in memory
            beyond the memory tier's limit.

    Raises:
        ConfigError: no tier, or a negative `promote_after`.
    """

    def __init__(
        self,
        memory: MemoryTier | None = None,
        disk: DiskTier | None = None,
        *,
        reads_layers: bool = False,
        promote_after: int = 1,
        defers_writes: bool = False,
    ) -> None:
        if memory is None and disk is None:
            raise ConfigError("a store needs a memory tier, a disk tier, or both.")
        if promote_after < 0:
            raise ConfigError(f"promote_after={promote_after} must be >= 0.")
        self.memory, self.disk = memory, disk
        self.reads_layers = reads_layers
        self.promote_after = promote_after
        self.defers_writes = defers_writes
        self._unwritten: dict[ChunkKey, KVCache] = {}
        self.counts = Counts()
        self._disk_uses: collections.Counter[str] = collections.Counter()

    def open(self, key: ChunkKey) -> StoredKV | None:
        """The chunk, or None. Stored tensors are never handed out; a handle copies into the caller's."""
        found: StoredKV | None = self.memory.open(key) if self.memory is not None else None
        if found is not None:
            self.counts.memory_hits += 1
            return found
        if key in self._unwritten:
            self.counts.memory_hits += 1
            return MemoryHandle(self._unwritten[key], lambda: None)
        handle = self.disk.open(key) if self.disk is not None else None
        if handle is None:
            self.counts.misses += 1
            return None
        self._disk_uses[key.digest] += 1
        is_due = self.memory is not None and 0 < self.promote_after <= self._disk_uses[key.digest]
        if self.reads_layers:
            self.counts.disk_hits += 1
            if is_due:
                handle.when_closed(lambda: self._promote(key, handle))
            return handle
        try:
            kv = handle.read_all()
        except CorruptEntry as problem:
            self.report_corrupt(problem)
            self.counts.misses += 1
            return None
        finally:
            handle.close()
        self.counts.disk_hits += 1
        if is_due and self.memory is not None and self.memory.put(key, kv):
            self._disk_uses.pop(key.digest, None)
        return InMemory(kv)

    def put(self, key: ChunkKey, kv: KVCache) -> None:
        """Keep a copy of a chunk in every tier that has room for it.

        Raises:
            ConfigError: see `DiskTier.put`.
        """
        kept = False
        if self.disk is not None and self.defers_writes:
            self._unwritten[key] = kv.clone()
            kept = True
        elif self.disk is not None:
            kept |= self.disk.put(key, kv)
        if self.memory is not None:
            kept |= self.memory.put(key, kv)
        self.counts.refused += not kept

    def flush(self) -> None:
        """Write to disk what `put` has deferred."""
        while self._unwritten:
            key = next(iter(self._unwritten))
            assert self.disk is not None
            self.counts.refused += not self.disk.put(key, self._unwritten.pop(key))

    def discard(self, key: ChunkKey) -> None:
        """Remove a chunk from both tiers."""
        self._unwritten.pop(key, None)
        for tier in (self.memory, self.disk):
            if tier is not None:
                tier.discard(key)

    def report_corrupt(self, problem: CorruptEntry) -> None:
        """Remove an entry that turned out to be damaged, with a warning."""
        self.counts.corrupt += 1
        self.discard(problem.key)
        warnings.warn(f"{problem} It counts as missing and is computed again.", UntrustedEntry, stacklevel=2)

    def why_missing(self, key: ChunkKey) -> str:
        """One sentence for the user on why a chunk is not here, from what else is on disk. Reads all headers."""
        if self.disk is None:
            return "the store has no disk tier, so only this process's own chunks can be in it"
        wanted = _identity(key)
        num_entries = 0
        for facts in self.disk.facts():
            num_entries += 1
            if facts["tokens"] == wanted["tokens"]:
                differing = [name for name in ("model", "tokenizer", "opening") if facts[name] != wanted[name]]
                if differing:
                    return f"these tokens are stored, but for another {' and '.join(differing)}"
        if not num_entries:
            return f"{self.disk.folder} is empty; run precompute first"
        return f"none of the {num_entries} stored chunks has these tokens; was the text or the chunk length changed?"

    def _promote(self, key: ChunkKey, handle: DiskHandle) -> None:
        assert self.memory is not None
        try:
            kv = handle.read_all()
        except CorruptEntry as problem:
            self.report_corrupt(problem)
            return
        if self.memory.put(key, kv):
            self._disk_uses.pop(key.digest, None)
