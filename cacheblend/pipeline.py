"""Loading and recomputing at the same time, layer by layer, on two threads (CacheBlend, section 5).

    loader thread    | load 1 | load 2 | load 3 | ...             reads files into staging buffers, at most `depth` layers ahead
    compute thread   |   layer 0 (all tokens)   | 1 | 2 | 3 | ... takes a layer's KV when its event is set, recomputes rows

`PipelinedEngine` is an `Engine` whose methods all load this way; `pipeline_times` is the model of it.

Shape legend: H key/value heads, T tokens, D head dimension.
"""

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cacheblend.api import Request
from cacheblend.blend import Blended, BlendPlan, OnPhase, ReusedKV
from cacheblend.engine import ChunkKey, Engine, InMemory, KVStore, Pieces, StoredKV
from cacheblend.selection import layer_counts, layer_ratios
from cacheblend.store import CorruptEntry, DiskHandle, MemoryHandle, TieredStore
from common.errors import ConfigError
from common.models.loading import LoadedModel

# ----------------------------------------------------------------------------------------------------------- the model


@dataclasses.dataclass(frozen=True)
class PipelineTimes:
    """When each layer is loaded and computed, in seconds since the start.

    Attributes:
        load_end_s, compute_start_s, compute_end_s: one per layer.
        ttft_s: when the first token is there.
    """

    load_end_s: tuple[float, ...]
    compute_start_s: tuple[float, ...]
    compute_end_s: tuple[float, ...]
    ttft_s: float


def pipeline_times(
    load_s: Sequence[float],
    compute_s: Sequence[float],
    head_s: float = 0.0,
    depth: int | None = None,
    setup_s: float = 0.0,
) -> PipelineTimes:
    """The pipeline's recurrence.

        load_end_i    = max(load_end_{i-1}, [when layer i - depth was taken]) + load_i
        compute_end_i = max(compute_end_{i-1}, load_end_i) + compute_i

    Args:
        load_s: loading time of each layer; 0 for a layer of which nothing is loaded.
        compute_s: its computing time.
        head_s: time from the last layer to the first token.
        depth: loaded layers that may wait to be taken, the one being loaded included; None: any number. 0: no pipeline, each
            layer is loaded when it is needed.
        setup_s: time before the first layer is computed, during which loading may go on.

    Raises:
        ConfigError: not one time per layer, or a negative depth.
    """
    if len(load_s) != len(compute_s) or (depth is not None and depth < 0):
        raise ConfigError(
            f"{len(load_s)} loading and {len(compute_s)} computing times with depth {depth} do not fit together."
        )
    loader_free_s, computer_free_s = 0.0, setup_s
    load_end, compute_start, compute_end = [], [], []
    taken_s: list[float] = []  # of the layers that are loaded at all
    for this_load_s, this_compute_s in zip(load_s, compute_s, strict=True):
        if this_load_s > 0:
            start_s = loader_free_s
            if depth == 0:
                start_s = computer_free_s
            elif depth is not None and len(taken_s) >= depth:
                start_s = max(start_s, taken_s[-depth])
            loader_free_s = start_s + this_load_s
        start_s = max(computer_free_s, loader_free_s) if this_load_s > 0 else computer_free_s
        if this_load_s > 0:
            taken_s.append(start_s)
        computer_free_s = start_s + this_compute_s
        load_end.append(loader_free_s)
        compute_start.append(start_s)
        compute_end.append(computer_free_s)
    return PipelineTimes(tuple(load_end), tuple(compute_start), tuple(compute_end), computer_free_s + head_s)


# ------------------------------------------------------------------------------------------------------- the real thing


@dataclasses.dataclass(frozen=True)
class Span:
    """Something that a thread did.

    Attributes:
        lane: "loader" or "compute".
        phase: "read" of the loader. Of the compute thread: "open" (finding the request's chunks in the store), "setup", "wait",
            "load" (taking the loaded KV, waiting not included), "shift", "select", "recompute", "head".
        layer: which layer.
        begin_s, end_s: since the request's start.
    """

    lane: str
    phase: str
    layer: int
    begin_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        return self.end_s - self.begin_s


class Timeline:
    """Records what both threads do while a request is served.

    Args:
        clock: current time in seconds, monotonic, readable from several threads.
        wait: called before the clock is read at the end of a computing phase; a GPU's synchronisation.
    """

    def __init__(self, clock: Callable[[], float], wait: Callable[[], None] = lambda: None) -> None:
        self._clock, self._wait = clock, wait
        self._spans: list[Span] = []
        self._origin_s = 0.0
        self._open: tuple[str, int, float] | None = None

    def start(self) -> None:
        """Forget everything; time counts from now."""
        self._spans, self._open = [], None
        self._origin_s = self._clock()

    def now(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._origin_s

    def on_phase(self, phase: str, layer: int) -> None:
        """A phase of computing begins and the one before it has ended; see `cacheblend.blend.OnPhase`."""
        self._wait()
        now_s = self.now()
        if self._open is not None:
            self._spans.append(Span("compute", self._open[0], self._open[1], self._open[2], now_s))
        self._open = None if phase == "end" else (phase, layer, now_s)

    def add(self, lane: str, phase: str, layer: int, begin_s: float) -> None:
        """A span that ends now."""
        now_s = self.now()
        if lane == "compute" and self._open is not None:
            # What was open is interrupted by this span and goes on after it.
            open_phase, open_layer, open_since_s = self._open
            self._spans.append(Span(lane, open_phase, open_layer, open_since_s, begin_s))
            self._open = open_phase, open_layer, now_s
        self._spans.append(Span(lane, phase, layer, begin_s, now_s))

    @property
    def spans(self) -> tuple[Span, ...]:
        """Everything recorded since the start, by time."""
        return tuple(sorted(self._spans, key=lambda span: (span.begin_s, span.end_s)))

    def by_phase(self, lane: str = "compute") -> dict[str, float]:
        """Seconds per phase of one lane, over all layers."""
        totals: dict[str, float] = {}
        for span in self.spans:
            if span.lane == lane:
                totals[span.phase] = totals.get(span.phase, 0.0) + span.duration_s
        return totals

    def layer_times(self, num_layers: int) -> "LayerTimes":
        """What each layer took, waiting left out. Without a loader thread the loads are those of the compute thread."""
        load, compute = [0.0] * num_layers, [0.0] * num_layers
        totals = {"open": 0.0, "setup": 0.0, "head": 0.0}
        has_loader = any(span.lane == "loader" for span in self._spans)
        for span in self._spans:
            if span.phase in totals:
                totals[span.phase] += span.duration_s
            elif span.lane == "loader" or (span.phase == "load" and not has_loader):
                load[span.layer] += span.duration_s
            elif span.phase != "wait":
                compute[span.layer] += span.duration_s
        return LayerTimes(tuple(load), tuple(compute), totals["open"], totals["setup"], totals["head"])


@dataclasses.dataclass(frozen=True)
class LayerTimes:
    """Measured times of one request, in seconds.

    Attributes:
        load_s, compute_s: of each layer.
        open_s: finding the chunks in the store, before anything is loaded.
        setup_s: from there to the first layer, on the compute thread.
        head_s: from the last layer to the first token.
    """

    load_s: tuple[float, ...]
    compute_s: tuple[float, ...]
    open_s: float
    setup_s: float
    head_s: float

    def predicted_ttft_s(self, depth: int | None) -> float:
        """What the recurrence says for these times."""
        return self.open_s + pipeline_times(self.load_s, self.compute_s, self.head_s, depth, self.setup_s).ttft_s


@dataclasses.dataclass(frozen=True)
class LayerReads:
    """How many leading tokens of one layer's cached keys and values a blend reads."""

    keys_until: int
    values_until: int


def read_plan(plan: BlendPlan, num_layers: int, num_reused: int, num_exact: int) -> tuple[LayerReads, ...]:
    """What a blend will read at each layer, so that it can be fetched ahead.

    Args:
        plan: the blend's plan.
        num_layers: of the model.
        num_reused, num_exact: as in `cacheblend.blend.ReusedKV`.
    """
    num_candidates = num_reused - num_exact
    check_layer = plan.check_layer if num_candidates else 0
    ratios = layer_ratios(plan.ratio, max(1, num_layers - check_layer), plan.schedule)
    counts = [num_candidates] * check_layer + list(layer_counts(ratios, num_candidates))
    in_flight = num_candidates if check_layer else counts[0]
    reads = []
    for layer in range(num_layers):
        is_filtering = layer >= check_layer and in_flight > counts[layer]
        values_until = num_reused if layer >= check_layer else num_exact
        # Where fresh keys and values of every candidate are kept, cached ones are only needed to be compared with.
        replaces_all = is_filtering and plan.keep_fresh and in_flight == num_candidates
        keys_until = num_exact if replaces_all and "k" not in plan.selector.parts else values_until
        if replaces_all and not plan.selector.parts:
            values_until = num_exact
        reads.append(LayerReads(keys_until, values_until))
        if is_filtering:
            in_flight = counts[layer]
    return tuple(reads)


class _Slot:
    """Staging room for one layer's keys and values."""

    def __init__(self, num_tokens: int, num_heads: int, head_dim: int, dtype: torch.dtype, is_pinned: bool) -> None:
        self._shape = num_heads, head_dim
        size = num_heads * num_tokens * head_dim
        self._keys = torch.empty(size, dtype=dtype, pin_memory=is_pinned)
        self._values = torch.empty(size, dtype=dtype, pin_memory=is_pinned)

    def views(self, reads: LayerReads) -> tuple[Tensor | None, Tensor | None]:
        """Contiguous (H, T, D) views of the lengths needed; None where nothing is."""
        heads, dim = self._shape
        keys, values = (
            flat[: heads * until * dim].view(heads, until, dim) if until else None
            for flat, until in ((self._keys, reads.keys_until), (self._values, reads.values_until))
        )
        return keys, values


class PipelinedReader:
    """A `ReusedKV` whose layers are read ahead by a second thread. Use it as a context manager; leaving it stops the thread.

    A part that the read plan does not name is read when it is asked for (`late_reads` counts those).

    Args:
        source: where the layers come from; its `read` is called from the loader thread.
        reads: one entry per layer.
        num_heads, head_dim, dtype: of the keys and values.
        depth: layers that may be loaded and not yet taken, the one being loaded included; None: all.
        is_pinned: stage in page-locked memory, for a GPU.
        timeline: told what both threads do.

    Raises:
        ConfigError: a depth below 1.
    """

    def __init__(
        self,
        source: ReusedKV,
        reads: Sequence[LayerReads],
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        *,
        depth: int | None = 2,
        is_pinned: bool = False,
        timeline: Timeline | None = None,
    ) -> None:
        if depth is not None and depth < 1:
            raise ConfigError(f"depth={depth} of a pipeline must be at least 1, or None for any number of layers.")
        self.num_tokens, self.num_exact = source.num_tokens, source.num_exact
        self.delta_T, self.chunk_starts = source.delta_T, source.chunk_starts
        self.late_reads = 0
        self._source, self._reads, self._timeline = source, tuple(reads), timeline
        self._layers = [i for i, r in enumerate(self._reads) if max(r.keys_until, r.values_until)]
        num_slots = len(self._layers) if depth is None else min(depth, len(self._layers))
        longest = max((max(r.keys_until, r.values_until) for r in self._reads), default=0)
        slots = [_Slot(longest, num_heads, head_dim, dtype, is_pinned) for _ in range(num_slots)]
        self._slot_of = dict(zip(self._layers, itertools.cycle(slots), strict=False)) if slots else {}
        self._free = threading.Semaphore(num_slots)
        self._ready = {layer: threading.Event() for layer in self._layers}
        self._bytes: dict[int, int] = {}
        self._error: BaseException | None = None
        self._is_stopped = threading.Event()
        # Parts (0 keys, 1 values) of fetched layers that have not been taken yet.
        self._untaken = {
            layer: {
                part
                for part, until in enumerate((self._reads[layer].keys_until, self._reads[layer].values_until))
                if until
            }
            for layer in self._layers
        }
        self._thread = threading.Thread(target=self._load, name="kv-loader", daemon=True)

    def __enter__(self) -> "PipelinedReader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped.set()
        self._free.release()
        self._thread.join()

    def read(self, layer: int, keys_HTD: Tensor | None, values_HTD: Tensor | None) -> int:
        """See `ReusedKV.read`. Blocks until the loader has fetched the layer; raises what the loader ran into."""
        # Layers come in increasing order: whatever was fetched for earlier ones is not going to be asked for any more.
        for earlier in [other for other in self._untaken if other < layer]:
            self._give_back(earlier)
        staged = self._wait_for(layer) if layer in self._untaken else (None, None)
        num_bytes = self._bytes.pop(layer, 0)
        late: list[Tensor | None] = [None, None]
        for part, (target, source) in enumerate(zip((keys_HTD, values_HTD), staged, strict=True)):
            if target is None or not target.shape[1]:
                continue
            if source is None or source.shape[1] < target.shape[1]:
                late[part] = target
            else:
                target.copy_(source[:, : target.shape[1]])
                self._untaken[layer].discard(part)
        if layer in self._untaken and not self._untaken[layer]:
            self._give_back(layer)
        if late != [None, None]:
            self.late_reads += 1
            num_bytes += self._source.read(layer, late[0], late[1])
        return num_bytes

    def _give_back(self, layer: int) -> None:
        del self._untaken[layer]
        self._free.release()

    def _wait_for(self, layer: int) -> tuple[Tensor | None, Tensor | None]:
        began_s = self._timeline.now() if self._timeline is not None else 0.0
        self._ready[layer].wait()
        if self._timeline is not None:
            self._timeline.add("compute", "wait", layer, began_s)
        if self._error is not None:
            raise self._error
        return self._slot_of[layer].views(self._reads[layer])

    def _load(self) -> None:
        try:
            for layer in self._layers:
                self._free.acquire()
                if self._is_stopped.is_set():
                    return
                began_s = self._timeline.now() if self._timeline is not None else 0.0
                keys_HTD, values_HTD = self._slot_of[layer].views(self._reads[layer])
                self._bytes[layer] = self._source.read(layer, keys_HTD, values_HTD)
                if self._timeline is not None:
                    self._timeline.add("loader", "read", layer, began_s)
                self._ready[layer].set()
        except BaseException as error:  # handed to the compute thread, which raises it
            self._error = error
            for event in self._ready.values():
                event.set()


class PipelinedEngine(Engine):
    """An `Engine` that loads KV on a second thread while it computes, whatever the method, and survives damaged entries.

    Args:
        depth: see `PipelinedReader`; 0: no second thread, each layer is loaded when it is needed.
        timeline: records what both threads do; call its `start` before each request.
        loaded, store, has_sink, seed, on_phase: see `Engine`. Chunks in memory are used directly; there is nothing to wait for.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        store: KVStore | None = None,
        *,
        has_sink: bool = True,
        seed: int = 0,
        on_phase: OnPhase | None = None,
        depth: int | None = 2,
        timeline: Timeline | None = None,
    ) -> None:
        super().__init__(
            loaded, store, has_sink=has_sink, seed=seed, on_phase=timeline.on_phase if timeline else on_phase
        )
        if depth is not None and depth < 0:
            raise ConfigError(f"depth={depth} must be >= 0, or None for any number of layers.")
        self.depth, self.timeline = depth, timeline
        self.late_reads = 0

    def blend_rows(self, request: Request, plan: BlendPlan) -> Blended:
        """See `Engine.blend_rows`; lets go of the request's entries at the end, so that they may be evicted or promoted."""
        began_s = self.timeline.now() if self.timeline is not None else 0.0
        pieces, missed = self.pieces(request)
        if self.timeline is not None:
            self.timeline.add("compute", "open", 0, began_s)
        try:
            return self.blend_pieces(request, pieces, plan, missed)
        finally:
            for piece in pieces.pieces:
                if isinstance(piece, DiskHandle | MemoryHandle):
                    piece.close()

    def blend_pieces(self, request: Request, reused: ReusedKV, plan: BlendPlan, missed_chunks: int = 0) -> Blended:
        """See `Engine.blend_pieces`. An entry that turns out to be damaged is computed anew and the request starts again."""
        while True:
            if self.timeline is not None:
                self.timeline.on_phase("setup", 0)
            try:
                with self._reader(reused, plan) as reader:
                    blended = super().blend_pieces(request, reader, plan, missed_chunks)
                self.late_reads += getattr(reader, "late_reads", 0)
                return blended
            except CorruptEntry as problem:
                if not isinstance(reused, Pieces):
                    raise
                reused = self._replaced(reused, problem)
                missed_chunks += 1

    def _reader(self, reused: ReusedKV, plan: BlendPlan) -> Any:
        net = self.transformer
        is_in_files = isinstance(reused, Pieces) and any(isinstance(piece, DiskHandle) for piece in reused.pieces)
        if not is_in_files or self.depth == 0:
            return contextlib.nullcontext(reused)
        return PipelinedReader(
            reused,
            read_plan(plan, net.num_layers, reused.num_tokens, reused.num_exact),
            net.num_kv_heads,
            net.head_dim,
            net.dtype,
            depth=self.depth,
            is_pinned=net.device.type == "cuda",
            timeline=self.timeline,
        )

    def _replaced(self, reused: Pieces, problem: CorruptEntry) -> Pieces:
        """The same pieces with a damaged one computed anew."""
        if isinstance(self.store, TieredStore):
            self.store.report_corrupt(problem)
        pieces: list[StoredKV] = []
        fresh: dict[ChunkKey, InMemory] = {}
        for piece in reused.pieces:
            if isinstance(piece, DiskHandle) and piece.key == problem.key:
                if piece.key not in fresh:
                    kv = self.chunk_kv(piece.key.opening, piece.key.tokens)
                    self.store.put(piece.key, kv)
                    fresh[piece.key] = InMemory(kv)
                piece.when_closed(lambda: None)
                pieces.append(fresh[piece.key])
            else:
                pieces.append(piece)
        num_exact = [*reused.starts, reused.num_tokens].index(reused.num_exact)
        return Pieces(pieces, num_exact)
