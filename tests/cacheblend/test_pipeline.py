"""The pipeline: the recurrence by hand, the real threads against it, and the same numbers as without."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cacheblend.blend import PREFILL, BlendPlan
from cacheblend.engine import Engine
from cacheblend.methods import CacheBlend, EpicFirstK, FullReuse, LastK, PrefixCaching, RandomChoice
from cacheblend.pipeline import LayerReads, PipelinedEngine, PipelinedReader, Timeline, pipeline_times, read_plan
from cacheblend.selection import FirstOfChunk, HighKVDeviation
from cacheblend.store import DiskTier, MemoryTier, TieredStore, UntrustedEntry
from common.errors import ConfigError

# -------------------------------------------------------------------------------------------------------- the recurrence


@pytest.mark.parametrize(
    ("load", "compute", "depth", "ttft"),
    [
        # Compute-bound: the first load, then all computing. 1 + 6.
        ([1, 1, 1], [2, 2, 2], None, 7),
        # Load-bound: all loading, then the last computing. 6 + 1.
        ([2, 2, 2], [1, 1, 1], None, 7),
        # A long first layer hides the loads behind it: they end at 1, 6, 11, 16; computing at 11, 12, 13, 17.
        ([1, 5, 5, 5], [10, 1, 1, 1], None, 17),
        # With one slot, layer 2 is fetched when layer 1 was taken (11 -> 16), layer 3 when layer 2 was (16 -> 21).
        ([1, 5, 5, 5], [10, 1, 1, 1], 1, 22),
        # With two slots, layer 2 is fetched from 6 on, layer 3 when layer 1 was taken at 11: 16, as without a bound.
        ([1, 5, 5, 5], [10, 1, 1, 1], 2, 17),
        # No pipeline: one after the other.
        ([1, 5, 5, 5], [10, 1, 1, 1], 0, 29),
        # Nothing to load at layer 0: it starts at once and hides the load of layer 1.
        ([0, 3, 3], [4, 1, 1], None, 7),
        ([0, 3, 3], [4, 1, 1], 0, 12),
        ([], [], None, 0),
    ],
)
def test_recurrence_by_hand(load, compute, depth, ttft):
    assert pipeline_times(load, compute, depth=depth).ttft_s == ttft
    assert pipeline_times(load, compute, head_s=2.5, depth=depth).ttft_s == ttft + 2.5


def test_setup_hides_loading_but_not_computing():
    # Loads end at 2 and 4; the first layer starts at 3, the second at 4.
    assert pipeline_times([2, 2], [1, 1], setup_s=3).ttft_s == 5
    assert pipeline_times([2, 2], [1, 1], setup_s=3, depth=0).ttft_s == 9


SECONDS = st.floats(0, 10)


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=12))
def test_recurrence_lies_between_its_bounds_and_gains_from_depth(pairs):
    load, compute = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    by_depth = [pipeline_times(load, compute, depth=depth).ttft_s for depth in (0, 1, 2, 3, None)]
    assert by_depth == sorted(by_depth, reverse=True)
    assert by_depth[0] == pytest.approx(sum(load) + sum(compute))
    assert by_depth[-1] >= max(sum(load), sum(compute)) - 1e-9


def test_recurrence_refuses_what_does_not_fit():
    with pytest.raises(ConfigError, match="2 loading and 1 computing"):
        pipeline_times([1, 2], [1])
    with pytest.raises(ConfigError, match="depth -1"):
        pipeline_times([1], [1], depth=-1)


# ------------------------------------------------------------------------------------------------------------- read plan


class Recorder:
    """Passes reads on and writes down what was asked for."""

    def __init__(self, source) -> None:
        self.source = source
        self.num_tokens, self.num_exact = source.num_tokens, source.num_exact
        self.delta_T, self.chunk_starts = source.delta_T, source.chunk_starts
        self.asked: dict[int, list[int]] = {}

    def read(self, layer, keys, values):
        until = self.asked.setdefault(layer, [0, 0])
        for part, target in enumerate((keys, values)):
            if target is not None:
                until[part] = max(until[part], target.shape[1])
        return self.source.read(layer, keys, values)


PLANS = [
    BlendPlan(0.15),
    BlendPlan(0.0),
    BlendPlan(1.0),
    BlendPlan(0.5, keep_fresh=False),
    BlendPlan(0.4, HighKVDeviation("k")),
    BlendPlan(0.4, HighKVDeviation("kv"), keep_fresh=False),
    BlendPlan(0.3, check_layer=2, schedule="constant"),
    BlendPlan(0.3, FirstOfChunk(), check_layer=0, schedule="constant"),
    BlendPlan(0.3, FirstOfChunk(), check_layer=1, schedule=(3.0, 1.0)),
    BlendPlan(0.0, FirstOfChunk(), check_layer=0, schedule="constant"),
    BlendPlan(1.0, FirstOfChunk(), check_layer=0, schedule="constant"),
    PREFILL,
]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("lengths", [(11, 7, 12), (9,), (1, 1), ()])
def test_the_read_plan_is_what_a_blend_reads(models, request_of, plan, lengths):
    engine = Engine(models("llama"))
    request = request_of(lengths=lengths)
    pieces, _ = engine.pieces(request)
    recorder = Recorder(pieces)
    engine.blend_pieces(request, recorder, plan)
    expected = {
        layer: [reads.keys_until, reads.values_until]
        for layer, reads in enumerate(read_plan(plan, 4, pieces.num_tokens, pieces.num_exact))
        if reads.keys_until or reads.values_until
    }
    assert recorder.asked == expected


# ------------------------------------------------------------------------------------------------------------ the reader


class Source:
    """A `ReusedKV` of known numbers: keys are 100 * layer + token, values the negative of that."""

    num_tokens, num_exact, chunk_starts = 6, 1, (1,)
    delta_T = torch.zeros(6, dtype=torch.int64)

    def __init__(self, delays_s: Sequence[float] = (), fail_at: int | None = None) -> None:
        self.delays_s, self.fail_at = delays_s, fail_at
        self.threads: list[str] = []
        self.started: list[int] = []

    def read(self, layer, keys, values):
        self.threads.append(threading.current_thread().name)
        self.started.append(layer)
        if self.delays_s:
            time.sleep(self.delays_s[layer])
        if layer == self.fail_at:
            raise OSError("the disk is on fire")
        total = 0
        for sign, target in ((1, keys), (-1, values)):
            if target is not None:
                target.copy_(sign * (100.0 * layer + torch.arange(target.shape[1]))[None, :, None].expand_as(target))
                total += target.numel() * 4
        return total


def targets(tokens: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((2, tokens, 4), 7.0), torch.full((2, tokens, 4), 7.0)


def reader_of(source: Source, num_layers: int = 5, **options) -> PipelinedReader:
    return PipelinedReader(source, [LayerReads(6, 6)] * num_layers, 2, 4, torch.float32, **options)


@pytest.mark.parametrize("depth", [1, 2, 3, None])
def test_layers_arrive_in_order_from_another_thread(depth):
    source = Source()
    with reader_of(source, depth=depth) as reader:
        for layer in range(5):
            keys, values = targets()
            assert reader.read(layer, keys, values) == 2 * 2 * 6 * 4 * 4
            assert (keys[0, :, 0] == 100 * layer + torch.arange(6)).all()
            assert (values == -keys).all()
    assert source.started == [0, 1, 2, 3, 4]
    assert set(source.threads) == {"kv-loader"}
    assert reader.late_reads == 0


@pytest.mark.parametrize(("depth", "ahead"), [(1, 1), (2, 2), (3, 3), (None, 5)])
def test_the_loader_stays_within_its_depth(depth, ahead):
    source = Source()
    with reader_of(source, depth=depth) as reader:
        for taken in range(5):
            deadline = time.monotonic() + 10
            while len(source.started) < min(5, taken + ahead) and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.02)
            assert len(source.started) == min(5, taken + ahead)
            reader.read(taken, *targets())


def test_parts_may_be_taken_one_by_one_and_layers_skipped():
    source = Source()
    with reader_of(source, depth=1) as reader:
        keys, values = targets()
        first = reader.read(0, None, values)
        assert (first, reader.read(0, keys, None)) == (2 * 2 * 6 * 4 * 4, 0)
        assert (values == -keys).all()
        reader.read(1, None, targets()[1])  # the keys of layer 1 are never asked for, nor layers 2 and 3
        keys, values = targets(4)
        reader.read(4, keys, values)
        assert (keys[1, :, 2] == 400 + torch.arange(4)).all()
    assert reader.late_reads == 0


def test_what_was_not_planned_is_read_late_but_right():
    source = Source()
    reads = [LayerReads(0, 0), LayerReads(0, 6), LayerReads(3, 3)]
    with PipelinedReader(source, reads, 2, 4, torch.float32) as reader:
        for layer in range(3):
            keys, values = targets()
            reader.read(layer, keys, values)
            assert (keys[0, :, 0] == 100 * layer + torch.arange(6)).all()
            assert (values == -keys).all()
    assert reader.late_reads == 3


def test_an_error_of_the_loader_reaches_the_reader_and_the_thread_ends():
    source = Source(fail_at=2)
    reader = reader_of(source, depth=1)

    def read_all() -> None:
        with reader:
            for layer in range(5):
                reader.read(layer, *targets())

    with pytest.raises(OSError, match="on fire"):
        read_all()
    assert not reader._thread.is_alive()
    with pytest.raises(ConfigError, match="depth=0"):
        reader_of(source, depth=0)


def test_leaving_early_stops_the_loader():
    source = Source()
    with reader_of(source, depth=1) as reader:
        reader.read(0, *targets())
    assert not reader._thread.is_alive()
    assert len(source.started) < 5


@pytest.mark.parametrize("depth", [1, 2, None])
@pytest.mark.parametrize(("load_s", "compute_s"), [(0.04, 0.02), (0.02, 0.04)])
def test_real_threads_keep_the_recurrence(depth, load_s, compute_s):
    timeline = Timeline(time.monotonic)
    first_s = 0.1  # layer 0 is the longest, as in a blend
    timeline.start()
    with reader_of(Source([load_s] * 6), 6, depth=depth, timeline=timeline) as reader:
        for layer in range(6):
            timeline.on_phase("load", layer)
            reader.read(layer, *targets())
            timeline.on_phase("recompute", layer)
            time.sleep(first_s if layer == 0 else compute_s)
        timeline.on_phase("head", 6)
        timeline.on_phase("end", 6)
        real_s = timeline.now()
    times = timeline.layer_times(6)
    assert min(times.load_s) >= 0.99 * load_s
    assert times.predicted_ttft_s(depth) == pytest.approx(real_s, rel=0.15)
    # Nothing is lost or counted twice: waiting and working make up the compute thread's time.
    assert sum(timeline.by_phase().values()) == pytest.approx(real_s, rel=0.15)
    assert "read" in timeline.by_phase("loader")


# ------------------------------------------------------------------------------------------------------------ the engine


def disk_store(folder: Path, **options) -> TieredStore:
    return TieredStore(disk=DiskTier(folder), reads_layers=True, **options)


METHODS = [
    CacheBlend(0.3),
    CacheBlend(0.0),
    CacheBlend(1.0),
    FullReuse(),
    EpicFirstK(2),
    PrefixCaching(),
    RandomChoice(),
    LastK(),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{type(m).__name__}")
@pytest.mark.parametrize("depth", [0, 1, 2, None])
def test_every_method_gives_the_same_bits_with_and_without_pipeline(tmp_path, models, request_of, method, depth):
    loaded, request = models("llama"), request_of(prefix=3)
    expected = method.prefill(request, Engine(loaded)).computed
    engine = PipelinedEngine(loaded, disk_store(tmp_path), depth=depth)
    engine.precompute(request)
    computed = method.prefill(request, engine).computed
    assert torch.equal(computed.logits_V, expected.logits_V)
    assert computed.kv.fingerprint() == expected.kv.fingerprint()
    assert computed.report.missed_chunks == 0
    assert computed.report.loaded_bytes == expected.report.loaded_bytes
    assert engine.late_reads == 0


@pytest.mark.parametrize("family_name", ["mistral_window", "qwen3"])
def test_other_families_too(tmp_path, models, request_of, family_name):
    loaded, request = models(family_name), request_of()
    expected = Engine(loaded).blend(request, BlendPlan(0.3))
    engine = PipelinedEngine(loaded, disk_store(tmp_path))
    engine.precompute(request)
    assert engine.blend(request, BlendPlan(0.3)).kv.fingerprint() == expected.kv.fingerprint()


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4  # the last layer's values: found out when all other layers are done
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("method", [CacheBlend(0.3), EpicFirstK(2), PrefixCaching()], ids=lambda m: type(m).__name__)
def test_damage_found_in_the_middle_of_a_request_is_a_miss(tmp_path, models, request_of, method, depth):
    loaded, request = models("llama"), request_of()
    expected = method.prefill(request, Engine(loaded)).computed
    engine = PipelinedEngine(loaded, disk_store(tmp_path), depth=depth)
    engine.precompute(request)
    files = sorted(tmp_path.glob("*.safetensors"))
    for path in files:
        damage(path)
    with pytest.warns(UntrustedEntry, match="fail their checksum"):
        computed = method.prefill(request, engine).computed
    assert torch.equal(computed.logits_V, expected.logits_V)
    assert computed.kv.fingerprint() == expected.kv.fingerprint()
    assert computed.report.missed_chunks == engine.store.counts.corrupt > 0
    # What was computed anew is stored again, and sound.
    again = method.prefill(request, PipelinedEngine(loaded, engine.store, depth=depth)).computed
    assert torch.equal(again.logits_V, expected.logits_V)
    assert again.report.missed_chunks == 0


def test_entries_are_let_go_of_and_promoted_after_the_request(tmp_path, models, request_of):
    loaded, request = models("llama"), request_of()
    store = TieredStore(MemoryTier(10**8), DiskTier(tmp_path), reads_layers=True)
    PipelinedEngine(loaded, disk_store(tmp_path)).precompute(request)
    engine = PipelinedEngine(loaded, store)
    first = engine.blend(request, BlendPlan(0.3))
    assert len(store.memory) == 5  # the opening and four chunks
    assert not store.disk._pins
    assert not store.memory._pins
    second = engine.blend(request, BlendPlan(0.3))
    assert (store.counts.disk_hits, store.counts.memory_hits) == (5, 5)
    assert second.kv.fingerprint() == first.kv.fingerprint()


def test_the_timeline_of_a_real_request_keeps_the_recurrence(tmp_path, models, request_of):
    from cacheblend.store import Throttle
    from common.hardware import DeviceProfile

    loaded, request = models("llama", torch.float32), request_of(lengths=(60, 50, 70))
    Engine(loaded, disk_store(tmp_path)).precompute(request)
    # 10 ms per read, four reads (opening and chunks) per layer.
    throttle = Throttle(DeviceProfile("slow", 1e12, 0.01), time.monotonic, time.sleep)
    timeline = Timeline(time.monotonic)
    store = TieredStore(disk=DiskTier(tmp_path, throttle=throttle), reads_layers=True)
    engine = PipelinedEngine(loaded, store, timeline=timeline, depth=2)
    timeline.start()
    computed = engine.blend(request, BlendPlan(0.3))
    real_s = timeline.now()
    times = timeline.layer_times(4)
    assert min(times.load_s) >= 0.0199
    assert computed.report.loaded_bytes > 0
    assert times.predicted_ttft_s(2) == pytest.approx(real_s, rel=0.15)
    assert {"open", "setup", "wait", "load", "shift", "select", "recompute", "head"} <= set(timeline.by_phase())


@settings(max_examples=20, deadline=None)
@given(depth=st.sampled_from([1, 2, 3, None]), skips=st.lists(st.booleans(), min_size=5, max_size=5))
def test_any_pattern_of_reads_ends(depth, skips):
    with reader_of(Source(), depth=depth) as reader:
        for layer, is_skipped in enumerate(skips):
            if not is_skipped:
                keys, values = targets()
                reader.read(layer, keys, values)
                assert (keys[0, :, 0] == 100 * layer + torch.arange(6)).all()
    assert not reader._thread.is_alive()
