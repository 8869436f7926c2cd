"""Timing: order, counts and bookkeeping; never absolute times."""

import threading
import time

import pytest

from common.errors import ConfigError
from common.timing import SteadyClock, Stopwatch, Timing, exclusive, measure, measure_interleaved


def test_rounds_are_interleaved_and_rotate() -> None:
    calls: list[str] = []
    timings = measure_interleaved(
        {name: lambda name=name: calls.append(name) or name for name in "abc"}, warmup=1, repeats=3
    )
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert [len(timing.seconds) for timing in timings.values()] == [3, 3, 3]
    assert {name: timing.result for name, timing in timings.items()} == {"a": "a", "b": "b", "c": "c"}
    assert all(seconds >= 0 for timing in timings.values() for seconds in timing.seconds)


def test_longer_work_takes_longer() -> None:
    timings = measure_interleaved({"short": lambda: sum(range(10)), "long": lambda: sum(range(300_000))}, repeats=5)
    assert timings["long"].median_s > timings["short"].median_s


def test_summaries_by_hand() -> None:
    timing = Timing((4.0, 1.0, 2.0, 3.0, 10.0))
    assert timing.median_s == 3.0
    assert timing.iqr_s == 2.0  # quartiles 2 and 4
    assert Timing((1.0,)).iqr_s == 0.0


def test_the_lock_admits_one_at_a_time() -> None:
    order: list[str] = []
    started = threading.Event()

    def other() -> None:
        started.set()
        with exclusive():
            order.append("other")

    with exclusive():
        thread = threading.Thread(target=other)
        thread.start()
        started.wait()
        order.append("first")
    thread.join(timeout=30)
    assert order == ["first", "other"]


def test_who_times_thing_after_thing_lets_others_in() -> None:
    turns: list[bool] = []
    is_waiting, is_over = threading.Event(), threading.Event()

    def again_and_again() -> None:
        for _ in range(300):
            with exclusive():
                turns.append(is_waiting.is_set())
                time.sleep(0.005)
            if is_over.is_set():
                break

    thread = threading.Thread(target=again_and_again)
    thread.start()
    while not turns:
        time.sleep(0.001)
    is_waiting.set()
    with exclusive():
        overtaken = sum(turns)
    is_over.set()
    thread.join()
    assert overtaken <= 20, "the lock went to the same one again and again"


def test_threads_are_set_and_restored() -> None:
    import torch

    before = torch.get_num_threads()
    with exclusive(threads=1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_stopwatch_adds_up_by_phase() -> None:
    watch = Stopwatch()
    for layer in (0, 1):
        watch("load", layer)
        watch("recompute", layer)
    watch("end", 2)
    watch("load", 0)  # a second request
    watch("end", 2)
    assert set(watch.seconds) == {("load", 0), ("recompute", 0), ("load", 1), ("recompute", 1)}
    assert set(watch.by_phase()) == {"load", "recompute"}
    assert [(phase, layer) for phase, layer, _, _ in watch.spans] == [
        ("load", 0),
        ("recompute", 0),
        ("load", 1),
        ("recompute", 1),
        ("load", 0),
    ]
    assert all(begin <= end for _, _, begin, end in watch.spans)
    assert sum(watch.by_phase().values()) == pytest.approx(sum(end - begin for _, _, begin, end in watch.spans))


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match="repeats=0"):
        measure(lambda: None, repeats=0)


class _Machine:
    """CPU seconds that work takes at a speed that changes."""

    def __init__(self):
        self.now_s, self.slowdown = 0.0, 1.0

    def do(self, units):
        self.now_s += units * self.slowdown


def test_a_steady_clock_counts_work_not_slowness():
    machine = _Machine()
    clock = SteadyClock(lambda: machine.now_s, lambda: machine.do(0.1), every_s=0.5, probes=5)

    def section():
        begin_s = clock()
        machine.do(10)
        return clock() - begin_s

    # At the usual speed it is a clock without the probes.
    assert [section() for _ in range(3)] == pytest.approx([10, 10, 10])
    machine.slowdown = 2.0
    # The middle one of three probes knows of the change when two have seen it: 20 s at speed 1, at 1 to 2, then at 2.
    assert [section() for _ in range(4)] == pytest.approx([20, 20 / 1.5, 10, 10])
    assert clock.slowdowns[-1] == pytest.approx(2.0)
    # Shorter stretches are not probed: two looks in a row cost nothing.
    count = len(clock.slowdowns)
    assert clock() == clock()
    assert len(clock.slowdowns) == count
    with pytest.raises(ConfigError, match="probes=2"):
        SteadyClock(lambda: 0.0, lambda: None, probes=2)
