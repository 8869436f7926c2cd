"""The store: what goes in comes out bit for bit or not at all, and bytes never exceed their limits."""

import collections
import gc
import json
import multiprocessing
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cacheblend.blend import BlendPlan
from cacheblend.engine import ChunkKey, Engine
from cacheblend.store import CorruptEntry, DiskTier, MemoryTier, Throttle, TieredStore, UntrustedEntry
from common.errors import ConfigError
from common.hardware import DeviceProfile
from common.kv import KVCache

LAYERS, HEADS, DIM = 3, 2, 4


def key_of(number: int, tokens: int = 5, **changes: object) -> ChunkKey:
    facts = {"model": "m", "tokenizer": "t", "opening": (1,), "tokens": (number, *range(tokens - 1))} | changes
    return ChunkKey(**facts)  # type: ignore[arg-type]


def kv_of(number: int, tokens: int = 5, dtype: torch.dtype = torch.float32, start: int = 1) -> KVCache:
    generator = torch.Generator().manual_seed(number)
    keys, values = torch.randn(2, LAYERS, HEADS, tokens, DIM, generator=generator, dtype=torch.float64).to(dtype)
    return KVCache(keys, values, torch.arange(start, start + tokens))


def read_back(handle) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = handle.kv.dtype if hasattr(handle, "kv") else handle.dtype
    keys = torch.empty(LAYERS, HEADS, handle.num_tokens, DIM, dtype=dtype)
    values = torch.empty_like(keys)
    for layer in range(LAYERS):
        handle.read(layer, keys[layer], values[layer])
    return keys, values


def file_of(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


# ------------------------------------------------------------------------------------------------------------ round trip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reads_layers", [True, False])
def test_disk_gives_back_every_bit(tmp_path, dtype, reads_layers):
    kv = kv_of(1, dtype=dtype, start=7)
    TieredStore(disk=DiskTier(tmp_path)).put(key_of(1), kv)
    handle = TieredStore(disk=DiskTier(tmp_path), reads_layers=reads_layers).open(key_of(1))
    assert (handle.num_tokens, handle.start_position) == (5, 7)
    keys, values = read_back(handle)
    assert torch.equal(keys, kv.keys_LHTD)
    assert torch.equal(values, kv.values_LHTD)


def test_the_file_is_ordinary_safetensors_in_layer_order(tmp_path):
    kv = kv_of(1)
    DiskTier(tmp_path).put(key_of(1), kv)
    data = file_of(tmp_path).read_bytes()
    tensors = safetensors.torch.load(data)
    assert torch.equal(tensors["layer_002.v"], kv.values_LHTD[2])
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    by_offset = sorted((e["data_offsets"][0], name) for name, e in header.items() if name != "__metadata__")
    assert [name for _, name in by_offset] == [f"layer_{i:03d}.{part}" for i in range(LAYERS) for part in "kv"]


def test_one_layer_is_read_alone(tmp_path, monkeypatch):
    tier = DiskTier(tmp_path)
    tier.put(key_of(1), kv_of(1))
    handle = tier.open(key_of(1))
    read_bytes = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *args: read_bytes.append(real(*args)) or read_bytes[-1])
    values = torch.empty(HEADS, 5, DIM)
    part = HEADS * 5 * DIM * 4
    assert handle.read(1, None, values) == part == sum(read_bytes)
    assert torch.equal(values, kv_of(1).values_LHTD[1])
    assert handle.read(2, torch.empty_like(values), values) == 2 * part
    assert len(read_bytes) == 2  # keys and values of a layer are one read
    assert handle.read(0, None, None) == 0


def test_reading_into_a_slice_of_a_larger_buffer_leaves_the_rest_alone(tmp_path):
    tier = DiskTier(tmp_path)
    tier.put(key_of(1), kv_of(1))
    buffer = torch.full((HEADS, 9, DIM), -1.0)
    tier.open(key_of(1)).read(0, buffer[:, 2:7], None)
    assert torch.equal(buffer[:, 2:7], kv_of(1).keys_LHTD[0])
    assert (buffer[:, :2] == -1).all()
    assert (buffer[:, 7:] == -1).all()


def test_a_shorter_or_wider_target_is_converted(tmp_path):
    tier = DiskTier(tmp_path)
    tier.put(key_of(1), kv_of(1))
    short = torch.empty(HEADS, 3, DIM, dtype=torch.float64)
    tier.open(key_of(1)).read(0, short, None)
    assert torch.equal(short, kv_of(1).keys_LHTD[0][:, :3].double())
    with pytest.raises(ConfigError, match="cannot take"):
        tier.open(key_of(1)).read(0, torch.empty(HEADS, 6, DIM), None)
    with pytest.raises(ConfigError, match="layer 3"):
        tier.open(key_of(1)).read(3, None, None)


def test_a_short_read_is_continued(tmp_path, monkeypatch):
    tier = DiskTier(tmp_path)
    tier.put(key_of(1), kv_of(1))
    real = os.preadv

    def stingy(file: int, buffers: list, offset: int) -> int:
        return real(file, [buffers[0][:7]], offset)

    monkeypatch.setattr(os, "preadv", stingy)
    keys, values = read_back(tier.open(key_of(1)))
    assert torch.equal(keys, kv_of(1).keys_LHTD)
    assert torch.equal(values, kv_of(1).values_LHTD)


def test_handles_do_not_show_the_stored_tensors():
    tier = MemoryTier(10**6)
    tier.put(key_of(1), kv_of(1))
    handle = tier.open(key_of(1))
    public = {name: getattr(handle, name) for name in dir(handle) if not name.startswith("_")}
    assert not [name for name, value in public.items() if isinstance(value, torch.Tensor | KVCache)]


@pytest.mark.parametrize("make", [lambda p: {"memory": MemoryTier(10**6)}, lambda p: {"disk": DiskTier(p)}])
def test_stored_tensors_cannot_be_written_through_what_goes_in_or_comes_out(tmp_path, make):
    store = TieredStore(**make(tmp_path))
    kv = kv_of(1)
    before = kv.clone()
    store.put(key_of(1), kv)
    kv.keys_LHTD.fill_(9)
    handle = store.open(key_of(1))
    keys, values = read_back(handle)
    keys.fill_(3)
    values.fill_(3)
    again = read_back(store.open(key_of(1)))
    assert torch.equal(again[0], before.keys_LHTD)
    assert torch.equal(again[1], before.values_LHTD)


@pytest.mark.parametrize(
    "other",
    [
        key_of(2),
        key_of(1, model="m2"),
        key_of(1, tokenizer="t2"),
        key_of(1, opening=()),
        key_of(1, opening=(1, 1)),
        ChunkKey("m", "t", (1, 1), (0, 1, 2, 3)),
    ],
)
def test_every_part_of_the_key_counts(tmp_path, other):
    store = TieredStore(MemoryTier(10**6), DiskTier(tmp_path))
    store.put(key_of(1), kv_of(1))
    assert store.open(other) is None
    assert store.open(key_of(1)) is not None


@pytest.mark.parametrize(
    ("kv", "why"),
    [
        (kv_of(1, tokens=4), "4 tokens"),
        (KVCache(kv_of(1).keys_LHTD, kv_of(1).values_LHTD, torch.arange(5), False), "rotate"),
        (KVCache(kv_of(1).keys_LHTD, kv_of(1).values_LHTD, torch.tensor([0, 1, 2, 3, 5])), "gaps"),
    ],
)
def test_what_could_not_be_read_back_rightly_is_refused(tmp_path, kv, why):
    with pytest.raises(ConfigError, match=why):
        DiskTier(tmp_path).put(key_of(1), kv)


# --------------------------------------------------------------------------------------------------------------- mistrust


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def truncate_in_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def foreign_text(path: Path) -> None:
    path.write_text("this is a letter to my aunt, and it is longer than eight bytes")


def foreign_safetensors(path: Path) -> None:
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(3)}))


def foreign_metadata(path: Path) -> None:
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(3)}, {"cacheblend": "{}"}))


def swap_tensors(path: Path) -> None:
    """A valid file in which another program has stored keys as values."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + size].replace(b"layer_000.k", b"layer_zzz.k").replace(b"layer_000.v", b"layer_000.k")
    path.write_bytes(data[:8] + text.replace(b"layer_zzz.k", b"layer_000.v") + data[8 + size :])


def move_start(path: Path) -> None:
    data = path.read_bytes()
    assert b'start_position\\":1' in data
    path.write_bytes(data.replace(b'start_position\\":1', b'start_position\\":2'))


def flip_data(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


HEADER_DAMAGE = [
    truncate,
    truncate_in_header,
    empty,
    append,
    foreign_text,
    foreign_safetensors,
    foreign_metadata,
    swap_tensors,
    move_start,
]


@pytest.mark.parametrize("reads_layers", [True, False])
@pytest.mark.parametrize("damage", HEADER_DAMAGE)
def test_a_damaged_entry_is_a_miss_with_a_warning_and_can_be_replaced(tmp_path, damage, reads_layers):
    store = TieredStore(disk=DiskTier(tmp_path), reads_layers=reads_layers)
    store.put(key_of(1), kv_of(1))
    damage(file_of(tmp_path))
    with pytest.warns(UntrustedEntry, match="counts as missing"):
        assert store.open(key_of(1)) is None
    assert store.counts.misses == 1
    store.put(key_of(1), kv_of(1))
    assert torch.equal(read_back(store.open(key_of(1)))[0], kv_of(1).keys_LHTD)


def test_damaged_numbers_are_a_miss_or_raise_before_they_are_used(tmp_path):
    eager = TieredStore(disk=DiskTier(tmp_path))
    eager.put(key_of(1), kv_of(1))
    flip_data(file_of(tmp_path))
    handle = DiskTier(tmp_path).open(key_of(1))
    handle.read(0, torch.empty(HEADS, 5, DIM), None)  # the damage is elsewhere
    with pytest.raises(CorruptEntry, match="values of layer 2") as caught:
        handle.read(2, None, torch.empty(HEADS, 5, DIM))
    assert caught.value.key == key_of(1)
    with pytest.warns(UntrustedEntry):
        assert eager.open(key_of(1)) is None
    assert (eager.counts.corrupt, eager.counts.misses, eager.counts.disk_hits) == (1, 1, 0)
    assert len(eager.disk) == 0


def test_an_entry_under_another_entrys_name_is_a_miss(tmp_path):
    tier = DiskTier(tmp_path)
    tier.put(key_of(1), kv_of(1))
    os.replace(file_of(tmp_path), tier._path(key_of(2).digest))
    with pytest.warns(UntrustedEntry, match="its tokens differs"):
        assert tier.open(key_of(2)) is None


def test_a_file_cut_while_it_is_open_is_noticed(tmp_path):
    tier = DiskTier(tmp_path)
    tier.put(key_of(1), kv_of(1))
    handle = tier.open(key_of(1))
    os.truncate(file_of(tmp_path), file_of(tmp_path).stat().st_size - 100)
    with pytest.raises(CorruptEntry, match="ends early"):
        read_back(handle)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_single_damaged_byte_ever_yields_other_numbers(tmp_path, where, flip):
    tier = DiskTier(tmp_path)
    tier.put(key_of(1), kv_of(1))
    path = file_of(tmp_path)
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= flip
    path.write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrustedEntry)
        handle = tier.open(key_of(1))
    if handle is not None:
        try:
            keys, values = read_back(handle)
        except CorruptEntry:
            return
        assert handle.start_position == 1
        assert torch.equal(keys, kv_of(1).keys_LHTD)
        assert torch.equal(values, kv_of(1).values_LHTD)


# ---------------------------------------------------------------------------------------------------------- limits, pins

ONE = kv_of(1).num_bytes


def disk_bytes_of_one(tmp_path: Path) -> int:
    tier = DiskTier(tmp_path / "probe")
    tier.put(key_of(1), kv_of(1))
    return tier.num_bytes


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_least_recently_used_goes_first_and_pinned_entries_stay(tmp_path, kind):
    if kind == "memory":
        tier = MemoryTier(3 * ONE)
    else:
        tier = DiskTier(tmp_path / "store", 3 * disk_bytes_of_one(tmp_path) + 8)
    for number in (1, 2, 3):
        assert tier.put(key_of(number), kv_of(number))
    tier.open(key_of(1)).close()
    assert tier.put(key_of(4), kv_of(4))  # 2 was used longest ago
    assert [key_of(n) in tier for n in (1, 2, 3, 4)] == [True, False, True, True]
    pins = [tier.open(key_of(n)) for n in (3, 1)]
    assert tier.put(key_of(5), kv_of(5))
    assert [key_of(n) in tier for n in (1, 3, 4, 5)] == [True, True, False, True]
    pins.append(tier.open(key_of(5)))
    assert not tier.put(key_of(6), kv_of(6))  # everything is in use
    assert [key_of(n) in tier for n in (1, 3, 5, 6)] == [True, True, True, False]
    pins[0].close()
    pins[0].close()
    assert tier.put(key_of(6), kv_of(6))
    assert key_of(3) not in tier
    assert tier.evictions == 3


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_forgotten_handle_unpins_itself(tmp_path, kind):
    tier = MemoryTier(ONE) if kind == "memory" else DiskTier(tmp_path / "store", disk_bytes_of_one(tmp_path))
    tier.put(key_of(1), kv_of(1))
    handle = tier.open(key_of(1))
    assert not tier.put(key_of(2), kv_of(2))
    del handle
    gc.collect()
    assert tier.put(key_of(2), kv_of(2))


def test_a_chunk_larger_than_the_tier_evicts_nothing():
    tier = MemoryTier(2 * ONE)
    tier.put(key_of(1), kv_of(1))
    assert not tier.put(key_of(2, tokens=50), kv_of(2, tokens=50))
    assert key_of(1) in tier


def test_an_open_handle_survives_eviction_by_another_process(tmp_path):
    mine, other = DiskTier(tmp_path), DiskTier(tmp_path)
    mine.put(key_of(1), kv_of(1))
    handle = mine.open(key_of(1))
    other.discard(key_of(1))
    assert torch.equal(read_back(handle)[1], kv_of(1).values_LHTD)


class Tiers(RuleBasedStateMachine):
    """Random use of both tiers beside a plain model of them: lists of numbers, least recently used first."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.sizes = {n: 2 + n % 3 for n in range(6)}
        probe = DiskTier(Path(self.folder.name) / "probe")
        self.file_bytes = {}
        for n, tokens in self.sizes.items():
            probe.put(key_of(n, tokens), kv_of(n, tokens))
            self.file_bytes[n] = probe._path(key_of(n, tokens).digest).stat().st_size
            probe.discard(key_of(n, tokens))
        self.memory = MemoryTier(3 * kv_of(0, 3).num_bytes)
        self.disk = DiskTier(Path(self.folder.name) / "store", int(3.3 * self.file_bytes[1]))
        self.model = {"memory": [], "disk": []}
        self.open_handles = {"memory": [], "disk": []}

    def teardown(self) -> None:
        for handles in self.open_handles.values():
            for _, handle in handles:
                handle.close()
        self.folder.cleanup()

    def tier(self, kind: str):
        return self.memory if kind == "memory" else self.disk

    def size(self, kind: str, n: int) -> int:
        return kv_of(n, self.sizes[n]).num_bytes if kind == "memory" else self.file_bytes[n]

    @rule(kind=st.sampled_from(["memory", "disk"]), n=st.integers(0, 5))
    def put(self, kind: str, n: int) -> None:
        kept = self.tier(kind).put(key_of(n, self.sizes[n]), kv_of(n, self.sizes[n]))
        order = [other for other in self.model[kind] if other != n]
        pinned = {number for number, _ in self.open_handles[kind]}
        total = sum(self.size(kind, other) for other in order) + self.size(kind, n)
        for victim in [other for other in order if other not in pinned]:
            if total <= self.tier(kind).limit_bytes:
                break
            order.remove(victim)
            total -= self.size(kind, victim)
        fits = total <= self.tier(kind).limit_bytes
        assert kept == fits
        if fits:
            self.model[kind] = [*order, n]

    @rule(kind=st.sampled_from(["memory", "disk"]), n=st.integers(0, 5))
    def open(self, kind: str, n: int) -> None:
        handle = self.tier(kind).open(key_of(n, self.sizes[n]))
        assert (handle is not None) == (n in self.model[kind])
        if handle is not None:
            self.model[kind].remove(n)
            self.model[kind].append(n)
            self.open_handles[kind].append((n, handle))

    @precondition(lambda self: any(self.open_handles.values()))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        kind = data.draw(st.sampled_from([kind for kind, handles in self.open_handles.items() if handles]))
        index = data.draw(st.integers(0, len(self.open_handles[kind]) - 1))
        n, handle = self.open_handles[kind].pop(index)
        keys, values = read_back(handle)
        assert torch.equal(keys, kv_of(n, self.sizes[n]).keys_LHTD)
        assert torch.equal(values, kv_of(n, self.sizes[n]).values_LHTD)
        handle.close()

    @rule(kind=st.sampled_from(["memory", "disk"]), n=st.integers(0, 5))
    def discard(self, kind: str, n: int) -> None:
        self.tier(kind).discard(key_of(n, self.sizes[n]))
        self.model[kind] = [other for other in self.model[kind] if other != n]

    @invariant()
    def bytes_stay_within_limits_and_the_order_is_that_of_use(self) -> None:
        for kind in ("memory", "disk"):
            tier = self.tier(kind)
            held = sum(self.size(kind, n) for n in self.model[kind])
            assert tier.num_bytes == held <= tier.limit_bytes
            assert tier.digests() == [key_of(n, self.sizes[n]).digest for n in self.model[kind]]


Tiers.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestTiers = Tiers.TestCase


def _use_in_process(folder: str, limit: int, seed: int, failures) -> None:
    try:
        warnings.simplefilter("error")
        torch.set_num_threads(1)
        tier = DiskTier(Path(folder), limit)
        rng = np.random.default_rng(seed)
        for _ in range(60):
            n = int(rng.integers(8))
            if rng.random() < 0.5:
                tier.put(key_of(n), kv_of(n))
            else:
                handle = tier.open(key_of(n))
                if handle is not None:
                    assert torch.equal(read_back(handle)[0], kv_of(n).keys_LHTD)
                    handle.close()
            assert tier.num_bytes <= limit
    except BaseException as error:
        failures.put(repr(error))
        raise


def test_processes_share_a_folder(tmp_path):
    limit = 4 * disk_bytes_of_one(tmp_path) + 50
    context = multiprocessing.get_context("spawn")
    failures = context.Queue()
    folder = str(tmp_path / "store")
    processes = [context.Process(target=_use_in_process, args=(folder, limit, seed, failures)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0, 0], failures.get(timeout=5)
    assert 0 < DiskTier(tmp_path / "store").num_bytes <= limit
    assert not list((tmp_path / "store").glob(".*.tmp"))


# ------------------------------------------------------------------------------------------------------------- both tiers


def test_tiers_promote_count_and_refuse(tmp_path):
    store = TieredStore(MemoryTier(2 * ONE), DiskTier(tmp_path), promote_after=2)
    for n in (1, 2, 3):
        store.put(key_of(n), kv_of(n))
    assert [key_of(n) in store.memory for n in (1, 2, 3)] == [False, True, True]
    store.open(key_of(1))
    assert key_of(1) not in store.memory
    store.open(key_of(1))
    assert key_of(1) in store.memory
    store.open(key_of(1))
    store.open(key_of(9))
    counts = store.counts
    assert (counts.disk_hits, counts.memory_hits, counts.misses, counts.refused) == (2, 1, 1, 0)
    tiny = TieredStore(MemoryTier(10))
    tiny.put(key_of(1), kv_of(1))
    assert tiny.counts.refused == 1


def test_layerwise_handles_promote_when_closed_and_only_then(tmp_path):
    store = TieredStore(MemoryTier(2 * ONE), DiskTier(tmp_path), reads_layers=True)
    store.disk.put(key_of(1), kv_of(1))
    store.disk.put(key_of(2), kv_of(2))
    handle = store.open(key_of(1))
    read_back(handle)
    assert key_of(1) not in store.memory
    handle.close()
    assert key_of(1) in store.memory
    forgotten = store.open(key_of(2))
    del forgotten
    gc.collect()
    assert key_of(2) not in store.memory


def test_deferred_writes_are_found_at_once_and_on_disk_after_the_flush(tmp_path):
    store = TieredStore(disk=DiskTier(tmp_path), defers_writes=True)
    kv = kv_of(1)
    store.put(key_of(1), kv)
    store.put(key_of(2), kv_of(2))
    kv.keys_LHTD.fill_(9)
    assert len(store.disk) == 0
    assert torch.equal(read_back(store.open(key_of(1)))[0], kv_of(1).keys_LHTD)
    store.discard(key_of(2))
    store.flush()
    assert store.disk.digests() == [key_of(1).digest]
    assert torch.equal(read_back(store.open(key_of(1)))[0], kv_of(1).keys_LHTD)
    assert (store.counts.memory_hits, store.counts.disk_hits, store.counts.refused) == (1, 1, 0)


def test_dropping_the_page_cache_changes_nothing_that_is_read(tmp_path):
    tier = DiskTier(tmp_path)
    tier.put(key_of(1), kv_of(1))
    tier.drop_page_cache()
    assert torch.equal(read_back(tier.open(key_of(1)))[0], kv_of(1).keys_LHTD)


def test_why_missing_names_the_reason(tmp_path):
    store = TieredStore(disk=DiskTier(tmp_path))
    assert "run precompute" in store.why_missing(key_of(1))
    store.put(key_of(1), kv_of(1))
    assert "another model and opening" in store.why_missing(key_of(1, model="x", opening=()))
    assert "none of the 1 stored" in store.why_missing(key_of(2))
    with pytest.raises(ConfigError, match="memory tier, a disk tier"):
        TieredStore()


def test_engine_gives_the_same_numbers_from_every_store_and_leaves_entries_alone(tmp_path, models, request_of):
    loaded, request = models("llama"), request_of()
    expected = Engine(loaded).blend(request, BlendPlan(0.3))
    stores = {
        "memory": TieredStore(MemoryTier(10**9)),
        "disk": TieredStore(disk=DiskTier(tmp_path / "a")),
        "layers": TieredStore(disk=DiskTier(tmp_path / "b"), reads_layers=True),
        "both": TieredStore(MemoryTier(4000), DiskTier(tmp_path / "c")),
        "no room": TieredStore(MemoryTier(0)),
    }
    for name, store in stores.items():
        engine = Engine(loaded, store)
        for attempt in range(2):
            computed = engine.blend(request, BlendPlan(0.3))
            assert torch.equal(computed.logits_V, expected.logits_V), name
            assert computed.kv.fingerprint() == expected.kv.fingerprint(), name
            assert (computed.report.missed_chunks == 0) == (attempt == 1 and name != "no room"), name
    before = {path: path.read_bytes() for path in (tmp_path / "b").glob("*.safetensors")}
    Engine(loaded, stores["layers"]).blend(request, BlendPlan(0.8))
    assert before == {path: path.read_bytes() for path in (tmp_path / "b").glob("*.safetensors")}


# --------------------------------------------------------------------------------------------------------------- throttle


class FakeTime:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def test_throttle_by_hand():
    # 1000 B/s and 0.1 s: a read of 200 B takes 0.3 s.
    time = FakeTime()
    throttle = Throttle(DeviceProfile("slow", 1000.0, 0.1), time, time.sleep)
    throttle.charge(200, throttle.now())
    assert time.now_s == pytest.approx(100.3)
    time.now_s += 50  # an idle device saves nothing up
    throttle.charge(200, throttle.now())
    assert time.now_s == pytest.approx(150.6)
    # The real read took 0.2 s of those 0.3 s: only the rest is waited.
    began = throttle.now()
    time.now_s += 0.2
    throttle.charge(200, began)
    assert time.slept[-1] == pytest.approx(0.1)
    # Two reads asked for at the same moment are served one after the other.
    began = throttle.now()
    throttle.charge(900, began)
    throttle.charge(900, began)
    assert time.now_s == pytest.approx(began + 2.0)
    # A read slower than the modelled device is not waited for.
    began = throttle.now()
    time.now_s += 5
    count = len(time.slept)
    throttle.charge(100, began)
    assert len(time.slept) == count


def test_disk_reads_are_charged(tmp_path):
    time = FakeTime()
    part = HEADS * 5 * DIM * 4
    tier = DiskTier(tmp_path, throttle=Throttle(DeviceProfile("slow", part, 0.0), time, time.sleep))
    tier.put(key_of(1), kv_of(1))
    read_back(tier.open(key_of(1)))
    assert time.now_s == pytest.approx(100 + 2 * LAYERS)
    assert collections.Counter(round(s) for s in time.slept) == {2: LAYERS}
