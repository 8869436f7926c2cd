"""Every experiment yields sound rows, the same each time, and resumes; without ns-3 and without a network."""

import math

import pytest

from chatterbox.api import EXPERIMENTS, METHODS, WORKLOADS
from common.errors import ConfigError, DataUnavailable
from common.experiment import Run
from common.results import ItemRows

SMALL = {
    "networks": {"networks": ("bursty", "stable")},
    "loss": {"values": (0.0, 0.2)},
    "independent_loss": {"values": (0.1,)},
    "rtt": {"values": (0.05, 0.2)},
    "burst_length": {"values": (0.05, 0.5)},
    "token_rate": {"values": (10.0, 30.0), "answer_s": 3.0},
    "token_size": {"values": (1, 20)},
    "ack_loss": {},
    "threshold": {},
    "packet_cap": {"caps_tokens": (2, 0)},
    "timeline": {"outages_ms": (100.0,)},
    "packet_contents": {},
    "slow_link": {"rates_kbps": (50,), "outages_s": (1.0,), "num_tokens": 700},
    "tcp_variants": {},
    "pareto": {"fixed_k": (1, 2)},
    "recorded_networks": {"num_tokens": 60},
    "drivers": {"network_names": ("loop",), "real_items": 1, "real_tokens": 20},
    "speed": {"network_names": ("loop",)},
    "real_sockets": {"transports": ("chatterbox",), "num_tokens": 20},
    "concurrent_streams": {"num_streams": (5,), "num_tokens": 5, "tokens_per_s": 50.0},
}
MEASURED = ("drivers", "speed", "real_sockets", "concurrent_streams")


@pytest.fixture
def run_of(tmp_path):
    folder = tmp_path / "traces" / "mahimahi"
    folder.mkdir(parents=True)
    # 2 s with an opportunity each 10 ms, 1 s of darkness, 2 s more
    times = [*range(0, 2000, 10), *range(3000, 5000, 10)]
    (folder / "a.down").write_text("\n".join(map(str, times)))

    def make(name, **changes):
        names = ("chatterbox", "tcp_model", "fixed_redundancy") if name == "pareto" else ("chatterbox", "tcp_model")
        names = ("chatterbox",) if name in ("drivers", "packet_cap", "packet_contents") else names
        kind = "independent" if name == "independent_loss" else "bursty"
        values = {
            "paper": "chatterbox", "experiment": name, "scale": "smoke", "seed": 0, "num_items": 2,
            "methods": {method: METHODS.create(method) for method in names},
            "workload": WORKLOADS.create(kind, num_tokens=60), "data": {"root": str(tmp_path)},
        }  # fmt: skip
        return Run(**(values | changes))

    return make


def rows(name, run):
    return list(EXPERIMENTS.create(name, **SMALL[name]).rows(run))


@pytest.mark.parametrize("name", sorted(SMALL))
def test_rows_are_sound_and_the_same_each_time(name, run_of):
    found = rows(name, run_of(name, num_items=1 if name in MEASURED else 2))
    assert found
    for item in found:
        assert isinstance(item, ItemRows)
        for row in item.rows:
            assert math.isfinite(row.value), row
            assert row.basis == "measured" or name not in ("speed", "real_sockets", "concurrent_streams")
    assert len({item.item for item in found}) == len(found)
    if name not in MEASURED:
        assert rows(name, run_of(name)) == found


@pytest.mark.parametrize("name", ["networks", "rtt", "slow_link", "recorded_networks"])
def test_an_interrupted_run_goes_on_with_the_same_items(name, run_of):
    whole = rows(name, run_of(name))
    rest = rows(name, run_of(name, finished=frozenset({whole[0].item})))
    assert rest == whole[1:]


def test_every_registered_experiment_is_tested_here():
    assert set(EXPERIMENTS) == set(SMALL)


def test_methods_are_paired(run_of):
    """The same answer and the same dark times for every method: their first tokens are generated at the same moment."""
    (item, *_) = rows("networks", run_of("networks"))
    lost = {
        row.method: row.value
        for row in item.rows
        if row.metric == "net_stall_ratio" and row.factors["network"] == "stable"
    }
    assert set(lost) == {"chatterbox", "tcp_model"}


def test_a_sweep_says_which_workload_it_needs(run_of):
    with pytest.raises(ConfigError, match="rtt_s"):
        rows("rtt", run_of("rtt", workload=WORKLOADS.create("walk")))


def test_recorded_networks_say_what_is_missing(run_of, tmp_path):
    with pytest.raises(DataUnavailable, match=r"\+data\.root"):
        rows("recorded_networks", run_of("recorded_networks", data={}))
    with pytest.raises(DataUnavailable, match="matches"):
        rows("recorded_networks", run_of("recorded_networks", data={"root": str(tmp_path / "empty")}))


def test_dark_times_of_a_trace_are_found(run_of):
    from chatterbox.experiments import outage_pattern
    from common.net.rate import DeliveryTrace, SteppedRate

    dark = outage_pattern(DeliveryTrace((*range(0, 2000, 10), *range(3000, 5000, 10))))
    assert sum(dark.p) * dark.slot_s == pytest.approx(1.0, abs=0.11)
    stepped = outage_pattern(SteppedRate((1.0, 1.5, 4.0), (1e6, 0.0, 1e6)))
    assert sum(stepped.p) * stepped.slot_s == pytest.approx(0.5, abs=0.06)
    assert outage_pattern(SteppedRate((1.0,), (1e6,))) is None
