"""Wall-clock timing that can be trusted: one timed run at a time on the machine, warmed up, repeated, interleaved.

    timings = measure_interleaved({"full": run_full, "blend": run_blend}, warmup=1, repeats=5)
    timings["full"].median_s / timings["blend"].median_s

This is the only module below `experiments/` that reads a clock.
"""

import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from common.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall times of repeated runs of one thing.

    Attributes:
        seconds: one per repeat, in the order of the repeats; the warm-up is not among them.
        result: what the last repeat returned.
    """

    seconds: tuple[float, ...]
    result: Any = dataclasses.field(default=None, compare=False)

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def iqr_s(self) -> float:
        """Interquartile range; 0 for a single repeat."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return high - low


@contextlib.contextmanager
def exclusive(threads: int | None = None) -> Iterator[None]:
    """Hold the machine's timing lock: no other timed section of any process of this project runs meanwhile.

    Processes take turns: one that times thing after thing does not keep the others waiting for its end.

    Args:
        threads: number of compute threads of torch for the duration, if torch is loaded; None leaves it.
    """
    folder = Path(tempfile.gettempdir())
    lock = FileLock(folder / "ninefold-timing.lock", mode=0o666)
    # Locks are polled, so that who releases one and wants it again at once would always win. Whoever waits for the lock
    # therefore holds the turn meanwhile, and the last holder has to wait for that.
    with FileLock(folder / "ninefold-timing-turn.lock", mode=0o666):
        lock.acquire()
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    try:
        if torch is not None and threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)
        lock.release()


def measure(
    run: Callable[[], Any], *, warmup: int = 3, repeats: int = 10, threads: int | None = None, device: str = "cpu"
) -> Timing:
    """Time one thing; see `measure_interleaved`."""
    return measure_interleaved({"": run}, warmup=warmup, repeats=repeats, threads=threads, device=device)[""]


def measure_interleaved(
    runs: Mapping[str, Callable[[], Any]],
    *,
    warmup: int = 3,
    repeats: int = 10,
    threads: int | None = None,
    device: str = "cpu",
) -> dict[str, Timing]:
    """Time several things so that they can be compared: each repeat runs all of them, in an order that rotates.

    Other work on the machine comes and goes; interleaved, it hits all alike, so that ratios within a repeat stay meaningful.

    Args:
        runs: what to time, by name.
        warmup: untimed rounds before the first repeat, >= 0.
        repeats: timed rounds, >= 1.
        threads: see `exclusive`.
        device: "cuda..." waits for the GPU before each reading of the clock.

    Raises:
        ConfigError: fewer than one repeat.
    """
    if repeats < 1 or warmup < 0:
        raise ConfigError(f"repeats={repeats} must be at least 1 and warmup={warmup} at least 0.")
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    results: dict[str, Any] = {}
    wait = _waiter(device)
    with exclusive(threads):
        for _ in range(warmup):
            for name in names:
                runs[name]()
        for repeat in range(repeats):
            start = repeat % len(names) if names else 0
            for name in names[start:] + names[:start]:
                results.pop(name, None)  # freed before the clock starts, not while it runs
                wait()
                begin_s = time.perf_counter()
                results[name] = runs[name]()
                wait()
                seconds[name].append(time.perf_counter() - begin_s)
    return {name: Timing(tuple(seconds[name]), results[name]) for name in names}


class Stopwatch:
    """Adds up wall time by phase: `watch(phase, layer)` ends the phase before it and begins this one.

    Attributes:
        seconds: {(phase, layer): s}.
        spans: (phase, layer, begin, end) in order, in seconds since the first phase began.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._wait = _waiter(device)
        self._open: tuple[str, int, float] | None = None
        self._origin_s: float | None = None
        self.seconds: dict[tuple[str, int], float] = {}
        self.spans: list[tuple[str, int, float, float]] = []

    def __call__(self, phase: str, layer: int) -> None:
        self._wait()
        now_s = time.perf_counter()
        self._origin_s = now_s if self._origin_s is None else self._origin_s
        if self._open is not None:
            before, its_layer, begin_s = self._open
            key = (before, its_layer)
            self.seconds[key] = self.seconds.get(key, 0.0) + now_s - begin_s
            self.spans.append((before, its_layer, begin_s - self._origin_s, now_s - self._origin_s))
        # "end" closes the last phase: what comes after it belongs to nobody.
        self._open = None if phase == "end" else (phase, layer, now_s)

    def by_phase(self) -> dict[str, float]:
        """Seconds per phase over all layers."""
        totals: dict[str, float] = {}
        for (phase, _), seconds in self.seconds.items():
            totals[phase] = totals.get(phase, 0.0) + seconds
        return totals


def _waiter(device: str) -> Callable[[], None]:
    if not device.startswith("cuda"):
        return lambda: None
    import torch

    return lambda: torch.cuda.synchronize(device)


class SteadyClock:
    """A clock of CPU time that stands for a machine of constant speed.

    CPU seconds of a core that shares its execution units and caches with other work are of unequal length: the same work took
    0.7 to 1.5 times its usual time here. This clock times a fixed piece of work between the sections it is read around, outside
    of itself, and counts each stretch of CPU time in units of what that work took before and after it.

    Args:
        clock: CPU seconds, `time.process_time`.
        work: a fixed piece of work of a millisecond or two, of the kind that is timed.
        every_s: CPU seconds from one probe to the next, at least.
        probes: how many at the start say what the usual speed is.

    Raises:
        ConfigError: `probes` below 3, or a negative `every_s`.
    """

    def __init__(
        self, clock: Callable[[], float], work: Callable[[], object], every_s: float = 0.004, probes: int = 40
    ) -> None:
        if probes < 3 or every_s < 0:
            raise ConfigError(f"probes={probes} must be at least 3 and every_s={every_s} at least 0.")
        self._clock, self._work, self._every_s = clock, work, every_s
        self._recent = [self._probe() for _ in range(probes)]
        self._usual_s = statistics.median(self._recent)
        self._slowdown, self._value_s = 1.0, 0.0
        self.slowdowns: list[float] = []
        """What the fixed work took at each probe, over its usual time."""
        self._read_s = self._probed_s = clock()

    def __call__(self) -> float:
        """Seconds at the usual speed since construction."""
        now_s = self._clock()
        took_s = now_s - self._read_s
        if now_s - self._probed_s < self._every_s:
            self._read_s = now_s
            self._value_s += took_s / self._slowdown
            return self._value_s
        before = self._slowdown
        self._recent = [*self._recent[-2:], self._probe()]
        self.slowdowns.append(self._recent[-1] / self._usual_s)
        # One probe may be interrupted; of three the middle one is not.
        self._slowdown = statistics.median(self._recent) / self._usual_s
        self._value_s += took_s / ((before + self._slowdown) / 2)
        self._read_s = self._probed_s = self._clock()
        return self._value_s

    def _probe(self) -> float:
        begin_s = self._clock()
        self._work()
        return self._clock() - begin_s
