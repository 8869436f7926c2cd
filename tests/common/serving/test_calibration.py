"""The cost model, its fit and its file."""

import json
import time

import numpy as np
import pytest

from common.errors import ConfigError, DataUnavailable
from common.serving.__main__ import main
from common.serving.calibration import Batch, Point, calibrate, fit, grid, in_service, points_of, time_batches
from common.serving.cost import FORMAT, CostModel, load_calibration, pairs
from common.serving.in_process import Step
from tests.common.serving.test_in_process import build


def test_batches_count_their_tokens():
    # 3 new tokens behind 10 attend to 11 + 12 + 13 = 36 tokens; 2 sequences of 5 KV tokens; 13 + 10 KV tokens are read.
    assert pairs(10, 3) == 36
    assert (Batch(3, 10, 2, 5).tokens, Batch(3, 10, 2, 5).kv_tokens) == (5, 23)
    assert (Batch(0, 0, 2, 5).tokens, Batch(0, 0, 2, 5).kv_tokens) == (2, 10)
    # Four prompts of 3 tokens beside them.
    assert (Batch(3, 0, 2, 5, 4).tokens, Batch(3, 0, 2, 5, 4).kv_tokens, Batch(3, 0, 2, 5, 4).chunks) == (14, 22, 4)
    with pytest.raises(ConfigError, match="prompts=2 with past=5"):
        Batch(3, 5, prompts=2)


def test_step_is_the_formula():
    # Two pieces: 10 + 0.5 n below 100, slope 1 beyond; 0.001 n per KV token read.
    cost = CostModel((0, 100, 200), (10.0, 60.0, 160.0), (0, 10), (0.0, 0.01), 0.1, 0.01, 1.0, 0.25, 5.0)
    assert cost.linear(50) == 35
    assert cost.linear(250) == 210
    assert cost.step(3, 36, 2, 10, 13) == pytest.approx(
        12.5 + 2 * 1.0 + 36 * 0.1 + 10 * 0.01 + 5 * 23 * 0.001 + 0.25 + 5
    )
    assert cost.step(3, 36, 2, 10, 13, 3) - cost.step(3, 36, 2, 10, 13) == pytest.approx(0.5)
    # 5 tokens in chunks of 2: (0, 2), (2, 2), (4, 1).
    chunks = [(2, 3, 2), (2, 2 * 2 + 3, 4), (1, 5, 5)]
    assert cost.prefill_s(5, 2) == pytest.approx(sum(cost.step(n, p, 0, 0, kv) for n, p, kv in chunks))


def times_of(cost, batches):
    return np.array(
        [
            cost.step(
                b.new * b.chunks,
                b.chunks * pairs(b.past, b.new),
                b.num_decode,
                b.num_decode * b.context,
                b.chunks * (b.past + b.new),
                b.chunks,
            )
            for b in batches
        ]
    )


def test_the_fit_finds_what_made_the_points():
    batches = grid(512, 2048)
    true = CostModel(
        (1, 16, 64, 256, 512),
        (2e-3, 3e-3, 3e-3, 9e-3, 2e-2),
        (1, 512),
        (1e-7, 1e-7 + 511e-9),
        3e-9,
        4e-8,
        1e-4,
        2e-4,
        basis="simulated",
    )
    seconds = times_of(true, batches)
    found = fit([Point(b, float(s), 7) for b, s in zip(batches, seconds, strict=True)], "x")
    assert found.held_out_max < 1e-3
    assert set(true.linear_tokens) <= set(found.cost.linear_tokens)
    np.testing.assert_allclose([found.cost.linear(n) for n in true.linear_tokens], true.linear_s, rtol=1e-3)
    others = [Batch(40, 300, 3, 700), Batch(200, 900, 12, 50), Batch(0, 0, 10, 222), Batch(30, 0, 2, 99, 7)]
    np.testing.assert_allclose(times_of(found.cost, others), times_of(true, others), rtol=1e-3)
    noisy = seconds * np.random.default_rng(0).uniform(0.8, 1.2, len(seconds))
    worse = fit([Point(b, float(s), 7) for b, s in zip(batches, noisy, strict=True)], "x")
    assert 0.05 < worse.held_out_mean < 0.2
    assert worse.held_out_mean > worse.fitted_mean  # held-out points took no part
    assert worse.cost.basis == "simulated"


def test_iterations_in_service_scale_the_model():
    cost = CostModel((0, 100), (1.0, 1.0), (0, 1), (0.01, 0.01), beta_s=0.001, gamma_s=0.1, decode_s=0.5, chunk_s=0.25)
    # 4 new tokens behind 6: 34 pairs, 10 KV tokens; one sequence decodes over 20.
    seconds = 1 + 0.5 + 0.25 + 0.001 * 34 + 0.1 * 20 + 0.01 * 30
    steps = [Step(1.1 * seconds, ((4, 6),), (20,)), Step(1.3 * seconds, ((4, 6),), (20,))]
    factor = in_service(cost, steps)
    assert factor == pytest.approx(1.2)
    scaled = cost.scaled(factor)
    assert scaled.step(4, 34, 1, 20, 10) == pytest.approx(1.2 * seconds)
    assert scaled.linear_tokens == cost.linear_tokens
    with pytest.raises(ConfigError, match="empty trace"):
        in_service(cost, [])
    with pytest.raises(ConfigError, match="factor=0"):
        cost.scaled(0)


def test_curves_never_fall_whatever_the_noise():
    batches = grid(512, 2048)
    rng = np.random.default_rng(1)
    for _ in range(5):
        found = fit(
            [Point(b, float(s), 7) for b, s in zip(batches, rng.uniform(1e-3, 1e-1, len(batches)), strict=True)], "x"
        )
        assert list(found.cost.linear_s) == sorted(found.cost.linear_s)
        assert list(found.cost.read_s) == sorted(found.cost.read_s)


def test_points_come_from_all_rounds():
    batch = Batch(4)
    rounds = [{batch: [5.0, 6.0, 7.0, 8.0]}, {batch: [4.0, 9.0, 9.0]}]
    assert points_of(rounds) == [Point(batch, 4.0, 7)]
    assert points_of(rounds, "median") == [Point(batch, 7.0, 7)]
    assert points_of([{batch: [1.0, 1.0, 2.0, 2.0, 3.0, 5.0, 14.0]}], "mean") == [Point(batch, 4.0, 7)]  # 28 / 7
    with pytest.raises(ConfigError, match="fewer than 7"):
        points_of(rounds[:1])


def test_a_real_engine_is_calibrated_and_kept(tiny, tmp_path):
    batches = [Batch(n, p) for n in (8, 32, 64, 100) for p in (0, 64)] + [
        Batch(0, 0, b, c) for b in (1, 4) for c in (16, 64)
    ]
    batches += [Batch(16, 0, 2, 32), Batch(50, 20, 4, 32), Batch(30, 0, 1, 100), Batch(10, 0, 0, 0, 3)]
    seen = []
    report = calibrate(
        tiny,
        time.process_time,
        {"cpu_model": "x"},
        pool_tokens=1024,
        max_batch_tokens=128,
        batches=batches,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (3 * len(batches), 3 * len(batches))
    assert all(point["seconds"] > 0 for point in report["points"])
    path = tmp_path / "c.json"
    path.write_text(json.dumps(report))
    cost, again = load_calibration(path)
    assert cost.basis == "simulated"
    assert cost.linear(1) > 0
    assert again["model"] == tiny.fingerprint
    assert again["facts"]["pool_tokens"] == 1024


def test_what_is_timed_is_the_batch_that_was_meant(tiny):
    engine = build(tiny, pool_tokens=1024)
    inputs = engine._processor.inputs_and_outputs
    original = inputs.prepare_batch_tensors
    iterations = []

    def prepare(requests_in_batch, **rest):
        iterations.append(sorted((r.query_length, r.state.position_offset) for r in requests_in_batch))
        return original(requests_in_batch=requests_in_batch, **rest)

    inputs.prepare_batch_tensors = prepare
    readings = []

    def clock():
        readings.append(len(iterations))
        return float(len(readings))

    time_batches(engine, [Batch(20, 40, 3, 30)], clock, 7)
    time_batches(engine, [Batch(0, 0, 2, 30)], clock, 7)
    engine.close()
    timed = [iterations[a:b] for a, b in zip(readings[::2], readings[1::2], strict=True)]
    assert all(len(between) == 1 for between in timed)  # exactly one iteration between two readings of the clock
    assert len(timed) == 2 * (1 + 7)  # each batch once to warm up
    for ((*decodes, prompt),) in timed[1:8]:
        assert prompt == (20, 40)
        assert [new for new, _ in decodes] == [1, 1, 1]
    contexts = [kv + 1 for (batch,) in timed[9:] for _, kv in batch]
    assert np.mean(contexts) == pytest.approx(30, abs=1)


def test_long_decodes_are_all_there_when_they_are_timed(tiny):
    # Eight prompts of about 100 tokens at 128 tokens an iteration: the first has generated seven tokens and more before the last
    # begins. All eight must still decode in every timed iteration, at 100 KV tokens in the middle of them.
    engine = build(tiny, pool_tokens=2048)
    inputs = engine._processor.inputs_and_outputs
    original = inputs.prepare_batch_tensors
    iterations = []

    def prepare(requests_in_batch, **rest):
        iterations.append([(r.query_length, r.state.position_offset) for r in requests_in_batch])
        return original(requests_in_batch=requests_in_batch, **rest)

    inputs.prepare_batch_tensors = prepare
    readings = []

    def clock():
        readings.append(len(iterations))
        return float(len(readings))

    time_batches(engine, [Batch(0, 0, 8, 100)], clock, 3)
    engine.close()
    timed = [iterations[a:b] for a, b in zip(readings[::2], readings[1::2], strict=True)][1:]
    assert [len(batch) for (batch,) in timed] == [8, 8, 8]
    contexts = [kv + new for (batch,) in timed for new, kv in batch]
    assert np.mean(contexts) == pytest.approx(100, abs=1)
    assert max(contexts) - min(contexts) <= 4


def test_too_few_repeats_points_or_pool(tiny):
    engine = build(tiny, pool_tokens=128)
    with pytest.raises(ConfigError, match="repeats=0"):
        time_batches(engine, [Batch(4)], time.process_time, 0)
    with pytest.raises(ConfigError, match="no batch of the grid fits"):
        time_batches(engine, [Batch(400, 400)], time.process_time, 7)
    engine.close()
    with pytest.raises(ConfigError, match="too few for 8 unknowns"):
        fit([Point(Batch(4 + i), 0.1, 7) for i in range(5)], "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{oops", "cannot be read as JSON"),
        ("[]", "is no calibration"),
        ('{"format": "other"}', "is no calibration"),
        (json.dumps({"format": FORMAT, "cost": {"speed": 1}}), "unknown entry 'speed'"),
        (json.dumps({"format": FORMAT, "cost": {"cpu_s": -1}}), "negative or endless"),
        (json.dumps({"format": FORMAT, "cost": {"cpu_s": "x"}}), "wrong kind"),
        (json.dumps({"format": FORMAT, "cost": {"linear_tokens": [5, 1], "linear_s": [0, 0]}}), "must rise"),
        (json.dumps({"format": FORMAT, "cost": {"linear_tokens": [1], "linear_s": [0]}}), "at least two"),
    ],
)
def test_files_that_are_no_calibration(tmp_path, content, message):
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_calibration(path)
    with pytest.raises(DataUnavailable, match=r"python -m common\.serving calibrate"):
        load_calibration(tmp_path / "none.json")


@pytest.mark.parametrize(
    "wrong", ["--rate=nan", "--rate=inf", "--rate=0", "--seed=-1", "--calls=0", "--prompt-tokens=-1"]
)
def test_the_command_refuses_numbers_that_would_never_end(wrong, capsys):
    try:
        status = main(["simulate", "a40_7b", "--calls", "3", wrong])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert wrong.partition("=")[2] in capsys.readouterr().err.splitlines()[-1]


def test_the_command_simulates(capsys):
    assert main(["simulate", "a40_7b", "--calls", "200", "--rate", "0.5"]) == 0
    text = capsys.readouterr().out
    assert "(modelled)" in text
    assert "200 calls" in text
    assert main(["simulate", "a100"]) == 2
    assert "'a100' is neither a preset (a40_7b, a40x2_70b) nor a file" in capsys.readouterr().err
    assert main(["simulate", "a40_7b", "--rate", "0"]) == 2
    assert main(["simulate", "a40_7b", "--prompt-tokens", "40000"]) == 2
    assert "exceed the model's context" in capsys.readouterr().err
