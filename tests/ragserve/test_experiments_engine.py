"""The engine-side experiments: the same trace on a real engine and on the simulator."""

import time

import numpy as np
import pytest

from common.errors import ConfigError
from common.experiment import Run
from common.results import ItemRows, Results, Row, RunIdentity, RunWriter
from common.serving.api import Call, Completion, Handle
from common.serving.cost import CostModel
from common.serving.in_process import TransformersEngine
from common.serving.simulator import SimEngine, SimOptions
from ragserve.experiments_engine import (
    EngineCalibration,
    EngineReplay,
    SimulatorSpeed,
    build_trace,
    random_trace,
    replay,
)


@pytest.fixture(scope="module")
def small():
    import torch

    from common.models.loading import ModelSpec, load

    torch.set_num_threads(1)
    return load(ModelSpec("small", device="cpu"))


def run_of(experiment, n, model=None):
    return Run("ragserve", experiment, "smoke", 0, n, {}, model=model or {})


def rows_of(experiment, run):
    items = list(experiment.rows(run))
    return [row for item in items for row in item.rows]


def test_a_trace_has_the_three_shapes(small):
    trace = build_trace(small, np.random.default_rng(0), 9, 4, 12)
    assert [query.reduces for query in trace] == [False, False, True] * 3
    assert all(len(query.calls) == 1 for query in trace[::3])  # stuff
    assert max(len(query.calls) for query in trace) > 1
    assert {call.max_tokens for query in trace[2::3] for call in query.calls} == {12}
    again = build_trace(small, np.random.default_rng(0), 9, 4, 12)
    assert again == trace
    assert all(call.prompt_ids[0] == small.tokenizer.bos_token_id for query in trace for call in query.calls)


def test_a_replay_says_and_does_the_same_on_both_engines(small):
    trace = build_trace(small, np.random.default_rng(1), 6, 3, 8)
    arrivals = [0.01 * index for index in range(6)]
    with TransformersEngine(small, time.process_time, None, pool_tokens=2048, max_batch_tokens=128) as engine:
        delays, answers = replay(engine, trace, arrivals)
        facts = engine.facts
    # Two of the six reduce: every query's first calls, and a second one for those two.
    assert len(answers) == sum(len(query.calls) for query in trace) + 2
    assert all(delay > 0 for delay in delays)
    simulator = SimEngine(facts, CostModel(cpu_s=0.01), answers.__getitem__, SimOptions(admission="chunk"))
    simulated, replayed = replay(simulator, trace, arrivals)
    assert replayed == answers
    # 0.01 s per iteration and nothing else: every delay is a whole number of iterations, less the wait for one to end.
    longest = max(len(answers[call].tokens) for query in trace for call in query.calls)
    assert max(simulated) >= 0.01 * longest


def test_the_simulator_schedules_as_the_real_engine_does_iteration_by_iteration(small):
    trace = build_trace(small, np.random.default_rng(2), 9, 4, 8)
    # All at once and little memory: prompts are cut, calls wait, and some pass others.
    sizes = {"pool_tokens": 384, "max_batch_tokens": 256, "max_seqs": 64}
    with TransformersEngine(small, time.process_time, None, keep_trace=True, **sizes) as engine:
        _, answers = replay(engine, trace, [0.0] * 9)
        facts, steps = engine.facts, engine.trace
    real = [(step.prefill_tokens, step.num_decode) for step in steps]
    for passes in (True, False):
        options = SimOptions(admission="chunk", passes=passes, keep_trace=True)
        steps_s = [step.seconds for step in steps]
        simulator = SimEngine(facts, CostModel(), answers.__getitem__, options, steps_s)
        replay(simulator, trace, [0.0] * 9)
        assert ([(row.prefill_tokens, row.num_decode) for row in simulator.trace] == real) is passes


def test_a_trace_of_random_tokens_has_the_papers_shape():
    trace = random_trace(500, np.random.default_rng(0), 9, 4, 12, 100)
    assert [query.reduces for query in trace] == [False, False, True] * 3
    # stuff: all chunks in one call of k * 100 + 24 tokens; the others: a call per chunk.
    assert all(len(query.calls) == 1 and (len(query.calls[0].prompt_ids) - 24) % 100 == 0 for query in trace[::3])
    assert {len(call.prompt_ids) for query in trace[1::3] + trace[2::3] for call in query.calls} == {124}
    assert {call.max_tokens for query in trace[2::3] for call in query.calls} == {12}
    assert max(max(call.prompt_ids) for query in trace for call in query.calls) < 500
    assert random_trace(500, np.random.default_rng(0), 9, 4, 12, 100) == trace


def test_cpu_time_says_nothing_of_a_gpu():
    class OnGpu:
        class device:
            type = "cuda"

    from ragserve.experiments_engine import _clock_of

    with pytest.raises(ConfigError, match="use clock=wall"):
        _clock_of("cpu", OnGpu)
    assert _clock_of("wall", OnGpu) is time.monotonic


def test_a_failed_call_ends_the_replay():
    class Failing:
        facts = None

        def call_at(self, at_s, callback):
            self.callback = callback

        def submit(self, call):
            handle = Handle(call)
            handle.finish(Completion(call, (), (), 0.0, 0.0, None, 1.0, "no luck"))
            return handle

        def run(self):
            self.callback()

    from ragserve.experiments_engine import TracedQuery

    with pytest.raises(ConfigError, match="call a of the trace failed: no luck"):
        replay(Failing(), [TracedQuery((Call((1,), 1, "a"),), False)], [0.0])


def test_speed_reaches_its_aims_by_far():
    rows = rows_of(SimulatorSpeed(num_queries=50, repeats=1), run_of("simulator_speed", 1))
    assert {row.factors["dataset"] for row in rows} == {"squad", "musique", "finsec", "qmsum"}
    times = [row for row in rows if row.metric == "times_real_time"]
    assert len(times) == 8
    assert all(row.basis == "measured" and row.value > 0 for row in times)
    loads = {row.factors["dataset"]: row.value for row in rows if row.metric == "offered_load"}
    # Two queries of 4 to 12 thousand tokens per second are far more than 7.7 thousand tokens per second.
    assert loads["squad"] < 1 < loads["qmsum"]


def draw(tmp_path, name, rows):
    """The figure of an experiment from given rows."""
    import paper_figures._ragserve_engine as figures
    from common.plotting import use_style

    identity = RunIdentity("ragserve", name, 0, "smoke", {"model": {"name": "small"}})
    with RunWriter(tmp_path, identity, {"styles": {}}) as run:
        run.commit(ItemRows("one", rows))
        run.commit(ItemRows("two", rows))
        run.complete(1.0)
    results = Results.load(tmp_path, "ragserve").only(experiment=[name], scale="smoke").newest()
    with use_style():
        return getattr(figures, name)(results).points


def test_figures_plot_what_was_stored(tmp_path):
    batch = {"kind": "decode", "new": 0, "past": 0, "num_decode": 2, "context": 9, "prompts": 1}
    rows = [
        Row("iteration_time", 0.01, "s", "measured", factors=batch),
        Row("held_out_time", 0.011, "s", "modelled", factors=batch),
        Row("held_out_error", 0.1, "1", "measured", factors=batch),
    ]
    points = draw(tmp_path, "engine_calibration", rows)
    assert points["measured_s"].tolist() == [0.01, 0.01]
    assert points["held_out_s"].tolist() == [0.011, 0.011]
    rows = [
        Row(metric, value, "s", basis, factors={"pool_tokens": 512, "load": 0.5, "engine": engine})
        for metric in ("mean_delay", "p95_delay")
        for engine, basis, value in (("transformers", "measured", 0.2), ("simulator", "simulated", 0.3))
    ]
    at = {"pool_tokens": 512, "load": 0.5}
    rows += [
        Row("mean_delay_error", 0.5, "1", "simulated", factors=at),
        Row("scheduling_error", 0.01, "1", "simulated", factors=at),
        Row("repeat_spread", 0.1, "1", "measured", factors=at),
    ]
    points = draw(tmp_path, "engine_replay", rows)
    assert sorted(points["value"]) == [0.01, 0.1, 0.2, 0.2, 0.3, 0.3, 0.5]
    assert set(points["basis"]) == {"measured", "simulated"}
    rows = [
        Row(metric, value, "1/s", "measured", factors={"dataset": "squad", "path": path})
        for metric in ("iterations_per_s", "times_real_time")
        for path, value in (("sums", 2e5), ("sequences", 1e5))
    ]
    assert sorted(draw(tmp_path, "simulator_speed", rows)["value"]) == [1e5, 1e5, 2e5, 2e5]


@pytest.mark.slow
def test_calibration_and_replay_run():
    model = {"name": "small", "source": "bundled"}
    rows = rows_of(EngineCalibration(every=3), run_of("engine_calibration", 1, model))
    assert {row.metric for row in rows} == {"iteration_time", "held_out_time", "held_out_error"}
    knobs = {"num_queries": 6, "loads": (0.5,), "pools": (2048,), "max_chunks": 3, "calibration_every": 3}
    rows = rows_of(EngineReplay(**knobs), run_of("engine_replay", 1, model))
    engines = {row.factors.get("engine"): row.basis for row in rows if row.metric == "mean_delay"}
    assert engines == {"transformers": "measured", "simulator": "simulated"}
    (apart,) = [row.value for row in rows if row.metric == "scheduling_error"]
    assert apart < 0.1
    (same,) = [row.value for row in rows if row.metric == "same_answers"]
    assert same == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EngineReplay(clock="sun"), "clock='sun'"),
        (lambda: EngineCalibration(clock="sun"), "is not one of cpu, steady, wall"),
        (lambda: EngineReplay(repeats=0), "repeats=0"),
        (lambda: EngineReplay(loads=()), "at least one value"),
        (lambda: SimulatorSpeed(rate=0), "rate=0 above 0"),
    ],
)
def test_knobs_that_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
