"""The load experiment: queueing by hand and by theory, hits against the real store, common random numbers."""

import collections
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cacheblend.engine import ChunkKey
from cacheblend.load_queue import (
    Load,
    Pattern,
    Service,
    SimulatedTiers,
    arrivals_s,
    capacity_rps,
    draw_load,
    hit_patterns,
    queue_ttft_s,
)
from cacheblend.store import DiskTier, MemoryTier, TieredStore
from common.errors import ConfigError
from common.kv import KVCache


def test_queue_by_hand():
    # Prefill 2, decode 1. Arrivals 0, 1, 10: served 0-2(-3), 3-5(-6), 10-12. TTFT 2, 4, 2.
    assert queue_ttft_s(np.array([0, 1, 10.0]), [2, 2, 2], 1).tolist() == [2, 4, 2]
    # Batches of two: 0-2(-3) alone, since nobody else is there at 0; then 1 and 1.5 together: 3-5, 5-7, decoded until 9; then 2.
    arrivals = np.array([0, 1, 1.5, 2.0])
    assert queue_ttft_s(arrivals, [2] * 4, 1, batch=2).tolist() == [2, 4, 5.5, 9]
    # Decoding a batch together in 1 s: the last one starts at 8 and has its token at 10.
    assert queue_ttft_s(arrivals, [2] * 4, batch=2, decode_batch_s=lambda n: 1.0).tolist() == [2, 4, 5.5, 8]
    with pytest.raises(ConfigError, match="2 prefill times for 1"):
        queue_ttft_s(np.array([0.0]), [1, 1])


def test_queue_agrees_with_theory():
    # M/D/1: mean waiting = rho * s / (2 (1 - rho)); M/M/1: twice that.
    rng = np.random.default_rng(0)
    gaps = rng.exponential(size=200_000)
    for rho in (0.3, 0.7):
        load = Load(np.zeros((len(gaps), 1), dtype=np.int64), gaps)
        fixed = queue_ttft_s(arrivals_s(load, rho / 0.5), np.full(len(gaps), 0.5)).mean() - 0.5
        assert fixed == pytest.approx(rho * 0.5 / (2 * (1 - rho)), rel=0.05)
        service = rng.exponential(0.5, len(gaps))
        random = queue_ttft_s(arrivals_s(load, rho / 0.5), service).mean() - service.mean()
        assert random == pytest.approx(rho * 0.5 / (1 - rho), rel=0.07)


@given(
    gaps=st.lists(st.floats(0.01, 5), min_size=1, max_size=20),
    prefill=st.floats(0.1, 3),
    decode=st.floats(0, 2),
    rate=st.floats(0.05, 5),
    batch=st.integers(1, 4),
)
def test_nobody_is_served_before_his_time_and_more_load_never_helps(gaps, prefill, decode, rate, batch):
    load = Load(np.zeros((len(gaps), 1), dtype=np.int64), np.array(gaps))
    service = [prefill] * len(gaps)
    arrival = arrivals_s(load, rate)
    ttft = queue_ttft_s(arrival, service, decode, batch)
    assert (ttft >= prefill - 1e-9).all()
    assert (np.diff(arrival + ttft) >= prefill - 1e-9).all()  # one server
    if batch == 1:
        assert (queue_ttft_s(arrivals_s(load, 2 * rate), service, decode) >= ttft - 1e-9).all()


def test_arrivals_have_the_rate_asked_for():
    load = draw_load(np.random.default_rng(1), 20_000, num_warmup=50)
    times = arrivals_s(load, 4.0)
    assert len(times) == 20_000
    assert len(times) / times[-1] == pytest.approx(4.0, rel=0.03)
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # exponential


def test_popularity_is_zipf_and_chunks_of_a_request_differ():
    load = draw_load(
        np.random.default_rng(2), 3000, corpus_chunks=50, chunks_per_request=1, num_queries=20_000, zipf=1.0
    )
    counts = collections.Counter(load.chunks_RK[:, 0].tolist())
    harmonic = sum(1 / (c + 1) for c in range(50))
    assert counts[0] / 3000 == pytest.approx(1 / harmonic, rel=0.1)
    assert counts[1] / 3000 == pytest.approx(0.5 / harmonic, rel=0.2)
    many = draw_load(np.random.default_rng(2), 200, corpus_chunks=12, chunks_per_request=6)
    assert all(len(set(row)) == 6 for row in many.chunks_RK.tolist())
    again = draw_load(np.random.default_rng(2), 200, corpus_chunks=12, chunks_per_request=6)
    assert (again.chunks_RK == many.chunks_RK).all()
    assert (again.gaps_R == many.gaps_R).all()
    with pytest.raises(ConfigError, match="corpus of as many"):
        draw_load(np.random.default_rng(2), 5, corpus_chunks=3)


def test_patterns_by_hand():
    # Room for 2 in memory and 3 on disk; requests of two chunks.
    load = Load(np.array([[0, 1], [0, 2], [1, 3], [0, 3], [1, 0]]), np.ones(5))
    patterns = hit_patterns(load, SimulatedTiers(2, 3), "chunks")
    # 0,1 missed: memory 0 1, disk 0 1. 0 in memory, 2 missed: memory 0 2, disk 0 1 2.
    # 1 on disk -> memory 2 1, disk 0 2 1; 3 missed: memory 1 3, disk 2 1 3. 0 missed: memory 3 0, disk 1 3 0; 3 in memory: 0 3.
    # 1 on disk -> memory 3 1, disk 3 0 1; 0 on disk.
    assert patterns == [Pattern(0, 0, 2), Pattern(1, 0, 1), Pattern(0, 1, 1), Pattern(1, 0, 1), Pattern(0, 2, 0)]
    prefix = hit_patterns(load, SimulatedTiers(2, 3), "prefix")
    assert prefix == [Pattern(missed=1), Pattern(memory=1), Pattern(missed=1), Pattern(memory=1), Pattern(memory=1)]
    assert set(hit_patterns(load, SimulatedTiers(2, 3), "none")) == {Pattern()}
    warm = Load(load.chunks_RK, load.gaps_R, num_warmup=2)
    assert hit_patterns(warm, SimulatedTiers(2, 3), "chunks") == patterns[2:]
    with pytest.raises(ConfigError, match="reuse='all'"):
        hit_patterns(load, SimulatedTiers(1, 1), "all")  # type: ignore[arg-type]


def test_simulated_tiers_hit_where_the_real_store_does(tmp_path):
    def kv(chunk: int) -> KVCache:
        return KVCache(torch.full((1, 1, 3, 2), float(chunk)), torch.zeros(1, 1, 3, 2), torch.arange(3))

    def key(chunk: int) -> ChunkKey:
        return ChunkKey("m", "t", (), (chunk % 10, chunk // 10, 0))

    probe = DiskTier(tmp_path / "probe")
    probe.put(key(0), kv(0))
    store = TieredStore(MemoryTier(3 * kv(0).num_bytes), DiskTier(tmp_path / "store", 6 * probe.num_bytes + 6))
    tiers = SimulatedTiers(3, 6)
    seen = collections.Counter()
    for chunk in np.random.default_rng(3).zipf(1.3, 400) % 15:
        before = (store.counts.memory_hits, store.counts.disk_hits)
        handle = store.open(key(int(chunk)))
        if handle is None:
            store.put(key(int(chunk)), kv(int(chunk)))
            found = "missed"
        else:
            found = "memory" if store.counts.memory_hits > before[0] else "disk"
            del handle
        assert tiers.use(int(chunk)) == found
        seen[found] += 1
    assert min(seen[name] for name in ("memory", "disk", "missed")) > 20


def test_capacity_is_the_knee_as_defined():
    # M/D/1 without decoding: mean TTFT = s (1 + rho / (2 (1 - rho))) = 2 s at rho = 2/3.
    load = draw_load(np.random.default_rng(4), 100_000, num_queries=1, corpus_chunks=6)
    capacity = capacity_rps(load, Service((0.25,) * 100_000))
    assert capacity == pytest.approx((2 / 3) / 0.25, rel=0.03)
    slower = capacity_rps(load, Service((0.5,) * 100_000))
    assert slower == pytest.approx(capacity / 2, rel=0.01)  # common random numbers: the ratio is exact
    assert capacity_rps(load, Service((0.25,) * 100_000, decode_s=0.25)) < capacity
    # At the same limit: 1 s is four times 0.25 s, so rho / (2 (1 - rho)) = 3 and rho = 6/7.
    assert capacity_rps(load, Service((0.25,) * 100_000), limit_s=1.0) == pytest.approx((6 / 7) / 0.25, rel=0.03)
    assert capacity_rps(load, Service((0.25,) * 100_000), limit_s=0.2) == 0
    with pytest.raises(ConfigError, match="factor=1"):
        capacity_rps(load, Service((1.0,)), factor=1)


def test_all_methods_meet_the_same_requests():
    load = draw_load(np.random.default_rng(5), 100, corpus_chunks=20)
    first = hit_patterns(load, SimulatedTiers(5, 10), "chunks")
    assert first == hit_patterns(load, SimulatedTiers(5, 10), "chunks")
    assert all(p.memory + p.disk + p.missed == 6 for p in first)
    assert len(set(first)) > 3
    for one, other in itertools.pairwise([arrivals_s(load, rate) * rate for rate in (1.0, 2.0, 7.0)]):
        assert one == pytest.approx(other)
