"""States, the update rule, and whole sessions on an application that needs no trained network."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from oneadapt import ascent
from oneadapt.api import METHODS, Feedback, Saliency
from oneadapt.baselines import every_nth
from oneadapt.contract import BrightBlocks, prepared, small_application, small_clip
from oneadapt.controllers import Ascent, Calibrator, OneAdapt
from oneadapt.gradient import Gradient
from oneadapt.profiles import Calibration, Profile, content_features, make_profile, one_step_moves
from oneadapt.session import Application, Camera, Interval, Ledger, Server, key_of, run_clip

KNOB = SimpleNamespace(name="k", values=("a", "b", "c"))


@pytest.mark.parametrize(("state", "value"), [(1.0, "a"), (0.75, "a"), (0.5, "b"), (0.49, "b"), (1e-7, "b")])
def test_states_to_settings_as_the_released_code(state, value):
    # n = 3, Delta = 0.5; the last value is only ever the lower neighbour.
    assert ascent.cell(KNOB, state).value == value


@pytest.mark.parametrize(("state", "value"), [(1.0, "a"), (0.76, "a"), (0.7, "b"), (0.3, "b"), (0.2, "c"), (1e-7, "c")])
def test_nearest_uses_every_value(state, value):
    found = ascent.cell(KNOB, state, "nearest")
    assert found.value == value
    assert found.delta == 0.5


@given(st.floats(0, 1), st.integers(2, 9), st.sampled_from(["dear", "nearest"]))
def test_a_cell_is_two_neighbours(state, count, rounding):
    knob = SimpleNamespace(name="k", values=tuple(range(count)))
    found = ascent.cell(knob, state, rounding)
    assert found.cheap == found.dear + 1
    assert found.value in (found.dear, found.cheap)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5))
def test_states_stay_in_range(gradient):
    rule = ascent.optimiser("plain", 0.5, 0.2)
    states = ascent.move(np.full(len(gradient), 0.5), rule.step(np.array(gradient)))
    assert ((states >= ascent.LOWEST) & (states <= 1)).all()
    assert (np.abs(states - 0.5) <= 0.2 + 1e-12).all()


def test_adam_moves_all_knobs_alike():
    # After the first step Adam moves by its rate, whatever the gradient: here 0.15 both for 0.001 and for 1000.
    step = ascent.optimiser("adam", 0.15, 0.2).step(np.array([1e-3, -1e3]))
    assert step == pytest.approx([0.15, -0.15], rel=1e-4)
    with pytest.raises(ConfigError, match="plain or adam"):
        ascent.optimiser("sgd", 0.1, 0.1)


def surface(application_values, optimum):
    """A concave objective over two knobs, and its derivative in each cell."""
    steps = len(application_values) - 1

    def accuracy(i, j):
        return 1 - 0.02 * (max(0, i - optimum[0]) ** 2 + max(0, j - optimum[1]) ** 2)

    def resource(i, j):
        return 1 - 0.05 * (i + j) / steps * 4

    return accuracy, resource


@pytest.mark.parametrize("start", [(1.0, 1.0), (0.3, 1.0), (0.1, 0.1), (1.0, 0.2)])
def test_ascent_reaches_the_optimum_of_a_concave_surface_and_follows_it(start):
    knob = SimpleNamespace(name="k", values=tuple(range(6)))
    rule = ascent.Plain(0.5, 0.2)
    trade, states = 0.3, np.array(start)

    def run(optimum, count, states):
        accuracy, resource = surface(knob.values, optimum)
        for _ in range(count):
            cells = [ascent.cell(knob, float(state)) for state in states]
            at = [c.value for c in cells]
            gradient = []
            for k, c in enumerate(cells):
                dear, cheap = list(at), list(at)
                dear[k], cheap[k] = c.dear, c.cheap
                gain = accuracy(*dear) - accuracy(*cheap)
                price = resource(*dear) - resource(*cheap)
                gradient.append((gain - trade * price) / c.delta)
            states = ascent.move(states, rule.step(np.array(gradient)))
        return states

    def best(optimum):
        accuracy, resource = surface(knob.values, optimum)
        grid = [(i, j) for i in knob.values for j in knob.values]
        return max(grid, key=lambda p: accuracy(*p) - trade * resource(*p))

    def place(states):
        return np.array([ascent.cell(knob, float(s)).value for s in states])

    states = run((1, 2), 60, states)
    assert np.abs(place(states) - best((1, 2))).max() <= 2
    # The optimum jumps: after 8 more steps ascent is there again.
    states = run((3, 0), 8, states)
    assert np.abs(place(states) - best((3, 0))).max() <= 2


def test_the_network_runs_ten_times_plus_one_backward():
    application = prepared("encoding")
    clip = small_clip(np.random.default_rng(1), 6)
    num_frames = len(clip[0])
    method = METHODS.create("oneadapt_plain")
    records = run_clip(application, {"": method.controller(application)}, clip)[""]
    assert records[0].ledger.backwards == 0  # nothing has been seen yet
    for record in records[1:]:
        ledger = record.ledger
        assert (ledger.forwards, ledger.backwards, ledger.search_forwards) == (num_frames, 1, 0)
        # Own data, the best setting, and at most one more encode per knob.
        assert ledger.camera_frames <= num_frames * (2 + len(application.knobs))
        assert ledger.probe_bytes == 0
        assert ledger.down_bytes == 3 * 4  # blocks of 48 x 64 pixels, one byte each


@dataclasses.dataclass(frozen=True, eq=False)
class Counting(BrightBlocks):
    """Counts what is really computed."""

    calls: dict = dataclasses.field(default_factory=lambda: {"infer": 0, "saliency": 0})

    def infer(self, x_NHWC):
        self.calls["infer"] += len(x_NHWC)
        return super().infer(x_NHWC)

    def saliency(self, x_HWC):
        self.calls["saliency"] += 1
        return super().saliency(x_HWC)


@pytest.mark.parametrize("name", ["oneadapt_calibrating", "oneadapt_plain", "awstream", "chameleon"])
def test_reported_work_is_the_work_that_was_done(name):
    task = Counting()
    application = dataclasses.replace(small_application("encoding"), task=task)
    clip = small_clip(np.random.default_rng(1), 5)
    records = run_clip(application, {"": METHODS.create(name).controller(application)}, clip, has_cache=False)[""]
    truth = sum(len(data) for data in clip)  # the harness's own runs at the best setting
    assert task.calls["infer"] - truth == sum(r.ledger.forwards for r in records)
    assert task.calls["saliency"] == sum(r.ledger.backwards for r in records)
    assert sum(r.note.get("probed", 0) + r.note.get("tried", 0) for r in records) == (
        sum(r.ledger.search_forwards for r in records) if name == "oneadapt_calibrating" else 0
    )


def test_cached_sessions_are_the_same():
    application = prepared("encoding")
    clip = small_clip(np.random.default_rng(1), 5)
    for name in ("oneadapt", "chameleon"):
        outcome = [
            run_clip(application, {"": METHODS.create(name).controller(application)}, clip, has_cache=has_cache)[""]
            for has_cache in (True, False)
        ]
        for a, b in zip(*outcome, strict=True):
            assert (a.accuracy, a.knobs, a.ledger) == (b.accuracy, b.knobs, b.ledger)


def test_an_encode_is_made_once():
    application = small_application("encoding")
    interval = Interval(application, small_clip(np.random.default_rng(1), 1)[0])
    assert interval.deliver(application.best) is interval.deliver(dict(application.best))
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


@dataclasses.dataclass(frozen=True, eq=False)
class Blind(BrightBlocks):
    """A network that sees results only in what was sent nearly untouched: a dead zone everywhere else."""

    least: float = 0.0

    def saliency(self, x_HWC):
        is_clear = np.abs(np.diff(x_HWC[..., 0], axis=1)).mean() > self.least
        return Saliency(5.0 if is_clear else 0.0, 0, np.zeros(x_HWC.shape[:2], np.float32))


def test_dead_zone_raises_the_knobs():
    clip = [small_clip(np.random.default_rng(1), 1)[0]] * 25
    plain = small_application("encoding")
    detail = {
        qp: np.abs(np.diff(plain.encode(clip[0], {**plain.best, "qp": qp}).x[-1][..., 0], axis=1)).mean()
        for qp in plain.knob("qp").values
    }
    values = list(detail.values())
    application = dataclasses.replace(plain, task=Blind(least=(values[1] + values[2]) / 2))

    def last_qps(name):
        method = METHODS.create(name, trade=1.0, **({"probe_every": 3} if name == "oneadapt" else {}))
        records = run_clip(application, {"": method.controller(application)}, clip)[""]
        return [record.knobs["qp"] for record in records[5:]], records

    guarded, records = last_qps("oneadapt")
    collapsed, _ = last_qps("oneadapt_plain")
    # Without a gradient only the price acts: the plain rule ends at its cheapest setting and stays there.
    assert set(collapsed[-10:]) == {plain.knob("qp").values[-2]}
    assert min(guarded) < collapsed[-1]
    assert np.mean(guarded) < np.mean(collapsed)
    assert any(record.note.get("guarded") for record in records)
    assert sum(record.ledger.probe_bytes for record in records) > 0


@dataclasses.dataclass(frozen=True, eq=False)
class Indifferent(BrightBlocks):
    """A network whose results never change, with a gradient that says they would."""

    def infer(self, x_NHWC):
        return [np.ones((3, 4), bool) for _ in x_NHWC]

    def saliency(self, x_HWC):
        return Saliency(4.0, 0, np.ones(x_HWC.shape[:2], np.float32))


def test_a_scale_that_is_too_high_is_found_out():
    application = dataclasses.replace(small_application("encoding"), task=Indifferent())
    clip = [small_clip(np.random.default_rng(1), 1)[0]] * 30
    interval, sensor = Interval(application, clip[0]), application.to_input(clip[0])
    best = interval.deliver(application.best)
    camera, gradient = Camera(interval, Ledger()), Gradient.of(interval.saliency(best), application.task.block)
    accuracy, resource = Ascent(OneAdapt(), application).gradients(gradient, best, best, camera, sensor)
    # Twice the scale at which the first step of a knob is worth its price.
    scale = 2 * float((0.5 * resource / accuracy).max())

    def run(**knobs):
        controller = METHODS.create("oneadapt", trade=0.5, scale=scale, **knobs).controller(application)
        return run_clip(application, {"": controller}, clip)[""]

    stuck, found_out = run(), run(is_calibrating=True)
    assert all(key_of(record.knobs) == key_of(application.best) for record in stuck)
    assert found_out[-1].ledger.data_bytes < 0.8 * found_out[0].ledger.data_bytes
    tried = [record for record in found_out if record.note.get("tried")]
    assert tried[0].t == 1
    # 3 frames of its own, 3 at the best setting, 3 for each of two knobs, and the one that the server encodes.
    ledger = tried[0].ledger
    assert (ledger.search_forwards, ledger.camera_frames, ledger.probe_bytes) == (1, 13, 0)


def test_probes_hold_as_many_elements_as_the_task_can_score():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Pairs(Indifferent):
        least_elements: int = 2

    application = dataclasses.replace(small_application("encoding"), task=Pairs())
    clip = [small_clip(np.random.default_rng(1), 1)[0]] * 4
    controller = METHODS.create("oneadapt_calibrating", trade=0.5, scale=0.1).controller(application)
    records = run_clip(application, {"": controller}, clip)[""]
    assert {record.ledger.search_forwards for record in records} == {0, 2}


def test_no_look_before_the_first_interval():
    application = prepared("encoding")

    class Eager:
        def next_knobs(self, feedback):
            feedback.camera.encode(application.best)

    with pytest.raises(ConfigError, match="nothing was recorded"):
        run_clip(application, {"": Eager()}, small_clip(np.random.default_rng(1), 1))


def test_knobs_must_all_be_set():
    application = prepared("encoding")
    with pytest.raises(ConfigError, match="all must be set"):
        application.encode(small_clip(np.random.default_rng(1), 1)[0], {"qp": 30})
    with pytest.raises(ConfigError, match="no knob 'gain'"):
        application.knob("gain")


# ------------------------------------------------------------------------------------------------------------ profilers


def test_awstream_is_late():
    # 10 frames per interval; 3 x 2 settings profiled: 60 frames, less the 10 that were analysed anyway; 5 extra per interval.
    application = small_application("encoding")
    frames = np.concatenate(small_clip(np.random.default_rng(1), 4))[:10]
    clip = [frames] * 16
    method = METHODS.create("awstream", trade=0.9, thinning=3)
    thinned = [every_nth(knob.values, 3) for knob in application.knobs]
    profiled = math.prod(map(len, thinned)) * 10 - 10
    delay = math.ceil(profiled / 5)
    records = run_clip(application, {"": method.controller(application)}, clip)[""]
    assert [record.ledger.search_forwards for record in records[:3]] == [0, profiled, 0]
    changed = [record.t for record in records if key_of(record.knobs) != key_of(application.best)]
    assert changed[0] == 1 + delay
    # The next profile starts when the old one has been used: from another setting the best one's data has to be sent.
    assert records[1 + delay].ledger.search_forwards > 0


def test_chameleon_finds_the_optimum_of_a_separable_objective_and_pays():
    application = prepared("encoding")
    clip = [small_clip(np.random.default_rng(1), 1)[0]] * 40
    method = METHODS.create("chameleon", trade=0.5, thinning=1)
    records = run_clip(application, {"": method.controller(application)}, clip)[""]
    profile = make_profile(application, [clip[:1]])
    best = profile.best_fixed(0.5)
    value = {
        key_of(s): a - 0.5 * r
        for s, a, r in zip(profile.settings, profile.accuracy_TS[0], profile.share_TS[0], strict=True)
    }
    assert value[key_of(records[-1].knobs)] >= value[key_of(best)] - 0.1
    assert sum(record.ledger.search_forwards for record in records) > 0
    assert sum(record.ledger.probe_bytes for record in records) > 0


def test_oracle_is_at_least_as_good_as_any_fixed_setting():
    application = prepared("encoding")
    clip = small_clip(np.random.default_rng(1), 3)
    controllers = {"oracle": METHODS.create("oracle", trade=0.4).controller(application)}
    controllers |= {
        p: METHODS.create("static", place=p).controller(application) for p in range(len(application.grid()))
    }
    records = run_clip(application, controllers, clip)

    def value(own):
        return np.mean([r.accuracy - 0.4 * r.ledger.data_bytes / r.best_bytes for r in own])

    assert all(value(records["oracle"]) >= value(own) - 1e-9 for own in records.values())


def profile_of(features, accuracy, share, estimated=(1.0,), true=(0.1,), before=(1.0,)):
    settings = ({"k": 0}, {"k": 1})
    estimates = {name: np.array(estimated, float) for name in ("best", "sensor")}
    return Profile(
        settings, np.array(accuracy, float), np.array(share, float), np.array(features, float),
        estimates, np.array(true, float), np.array(before, float), ("k",) * len(estimated), 0, 0,
    )  # fmt: skip


def test_scale_is_true_over_estimated():
    # (0.1 + 0.3) / (2 + 6)
    found = profile_of([[0]], [[1, 1]], [[1, 0]], (2, 6), (0.1, 0.3), (1, 1)).calibration("best")
    assert (found.scale, found.step) == (pytest.approx(0.05), 4)
    assert profile_of([[0]], [[1, 1]], [[1, 0]], (0, 0), (0, 0), (1, 1)).calibration("best") == Calibration(1.0, 1.0)
    # By the accuracy before each move: (0.1 * 1 + 0.3 * 0.5) / (2 * 1 + 6 * 0.5), and 5 at risk in moves that weigh 1.5.
    found = profile_of([[0]], [[1, 1]], [[1, 0]], (2, 6), (0.1, 0.3), (1, 0.5)).calibration("sensor")
    assert (found.scale, found.step) == (pytest.approx(0.05), pytest.approx(5 / 1.5))


def test_calibrator_by_hand():
    # Eight probes' worth of prior: 8 x 4 at risk, 8 x 4 x 0.05 = 1.6 lost.
    found = Calibrator(Calibration(scale=0.05, step=4))
    found.learn(0.2, 2)
    assert found.scale == pytest.approx((1.6 + 0.2) / (32 + 2))
    found.learn(0.0, 4)  # what was seen before counts for 0.9 of itself
    assert found.scale == pytest.approx((1.6 + 0.18) / (32 + 1.8 + 4))
    far = Calibrator(Calibration(scale=0.05, step=4))
    far.learn(100.0, 0.001)
    assert far.scale == pytest.approx(4 * 0.05)
    found.learn(0.5, -1)  # no estimate to compare with
    assert found.scale == pytest.approx((1.6 + 0.18) / (32 + 1.8 + 4))


def test_casva_follows_features():
    # Where the first feature is high, the cheap setting loses accuracy; else it does not.
    features = [[0, 1, 0, 0], [0, 1, 0, 0], [10, 1, 0, 0], [10, 1, 0, 0]]
    accuracy = [[1, 1], [1, 1], [1, 0.2], [1, 0.2]]
    profile = profile_of(features, accuracy, [[1, 0.5]] * 4)
    application = SimpleNamespace(extra={"profile": profile})
    controller = METHODS.create("casva", trade=0.4, ridge=0.01).controller(application)

    def chosen(level):
        data = np.full((2, 2, 2), level, np.uint8)
        camera = SimpleNamespace(data=data)
        return controller.next_knobs(Feedback(1, SimpleNamespace(), [], camera, None))

    assert content_features(np.full((2, 2, 2), 10, np.uint8))[0] == 10
    assert chosen(0) == {"k": 1}
    assert chosen(10) == {"k": 0}


def test_methods_that_need_a_profile_say_so():
    application = small_application("encoding")
    for name in ("casva", "static"):
        with pytest.raises(ConfigError, match="offline profile"):
            METHODS.create(name).controller(application)


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("oneadapt", {"trade": -1}),
        ("oneadapt", {"trade": float("nan")}),
        ("static", {"trade": float("nan")}),
        ("reducto_profiled", {"trade": float("nan")}),
        ("oneadapt", {"rate": 0}),
        ("oneadapt", {"optimiser": "lbfgs"}),
        ("oneadapt", {"rounding": "up"}),
        ("oneadapt", {"reference": "raw"}),
        ("oneadapt", {"every": 0}),
        ("oneadapt", {"scale": 0}),
        ("awstream", {"extra_frames": 0}),
        ("chameleon", {"top": 0}),
        ("casva", {"ridge": 0}),
        ("oneadapt_blocks", {"share": 0}),
        ("oneadapt_blocks", {"num_blocks": -1}),
        ("dds", {"score": 2}),
        ("reducto_profiled", {"every": 0}),
        ("oneadapt_upscaling", {"rate": 0}),
    ],
)
def test_bad_knobs_are_refused(name, knobs):
    with pytest.raises(ConfigError, match=next(iter(knobs))):
        METHODS.create(name, **knobs)


def test_every_n_intervals_saves_backward_passes():
    application = prepared("encoding")
    clip = small_clip(np.random.default_rng(1), 7)
    method = OneAdapt(every=3, has_guard=False)
    records = run_clip(application, {"": method.controller(application)}, clip)[""]
    assert [record.ledger.backwards for record in records] == [0, 1, 0, 0, 1, 0, 0]


def test_gradients_cost_one_encode_per_knob():
    application = prepared("encoding")
    data = small_clip(np.random.default_rng(1), 1)[0]
    interval, ledger = Interval(application, data), Ledger()
    controller = Ascent(OneAdapt(), application)
    sent = interval.deliver(application.best)
    gradient = Gradient.of(Server(interval, ledger).saliency(sent), application.task.block)
    accuracy, resource = controller.gradients(
        gradient, sent, sent, Camera(interval, ledger), application.to_input(data)
    )
    assert ledger.camera_frames == len(application.knobs) * len(data)
    assert (accuracy >= 0).all()  # at the best setting, cheaper is never better
    assert (resource > 0).all()


def test_moves_are_one_step_of_one_knob():
    application = small_application("encoding")
    moves = one_step_moves(application, application.grid())
    rows, columns = (len(knob.values) for knob in application.knobs)
    assert len(moves) == rows * (columns - 1) + columns * (rows - 1)
    assert isinstance(application, Application)
