import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.net.loss import (
    AnyOf,
    Bernoulli,
    GilbertElliott,
    NoLoss,
    Outages,
    RandomOutages,
    Scripted,
    SlottedLoss,
)


def lost_at(model, times, seed=0):
    process = model.start(np.random.default_rng(seed))
    return [process.is_lost(float(t)) for t in times]


def test_gilbert_elliott_loses_its_share_of_time():
    # mean_bad / (mean_good + mean_bad) = 0.2 / 2.2 = 9.09 %
    model = GilbertElliott(2.0, 0.2)
    assert model.mean_loss == pytest.approx(0.0909, abs=1e-4)
    times = np.arange(0, 40_000, 0.02)
    assert np.mean(lost_at(model, times)) == pytest.approx(model.mean_loss, rel=0.03)


def test_gilbert_elliott_bursts_last_as_long_as_they_should():
    times = np.arange(0, 20_000, 0.01)
    lost = np.array(lost_at(GilbertElliott(1.0, 0.25), times))
    starts = np.flatnonzero(np.diff(lost.astype(int)) == 1).size
    # bursts shorter than the sampling step are missed, which makes those seen look about one step longer
    assert lost.sum() * 0.01 / starts == pytest.approx(0.25, rel=0.07)


@given(st.lists(st.floats(0, 50), min_size=1, max_size=60), st.integers(0, 5))
def test_who_sends_more_does_not_change_when_it_is_bad(times, seed):
    """The property for which the process lives in continuous time: with p in {0, 1} extra packets change nothing."""
    times = sorted(times)
    dense = sorted([*times, *np.linspace(0, 50, 500).tolist()])
    model = GilbertElliott(1.0, 0.3)
    sparse_lost = dict(zip(times, lost_at(model, times, seed), strict=True))
    dense_lost = dict(zip(dense, lost_at(model, dense, seed), strict=True))
    assert all(dense_lost[t] == lost for t, lost in sparse_lost.items())


def test_loss_within_a_bad_state_does_not_move_the_states():
    """Half the packets of a bad state are lost: never one that would survive if all of them were."""
    times = np.arange(0, 200, 0.01)
    half = lost_at(GilbertElliott(1.0, 0.3, p_bad=0.5), times)
    full = lost_at(GilbertElliott(1.0, 0.3), times)
    assert all(lost for half_lost, lost in zip(half, full, strict=True) if half_lost)
    assert sum(half) == pytest.approx(sum(full) / 2, rel=0.1)


def test_bernoulli_share():
    assert np.mean(lost_at(Bernoulli(0.2), range(50_000))) == pytest.approx(0.2, abs=0.006)
    assert not any(lost_at(Bernoulli(0.0), range(100)))
    assert all(lost_at(Bernoulli(1.0), range(100)))


def test_outages_cover_their_intervals_and_nothing_else():
    model = Outages(((1.0, 2.0), (3.0, 3.5)))
    assert lost_at(model, [0.99, 1.0, 1.99, 2.0, 3.2, 3.5]) == [False, True, True, False, True, False]


def test_one_tunnel_in_each_period():
    times = np.arange(0, 1200, 0.1)
    lost = np.array(lost_at(RandomOutages(120.0, 5.0, 10.0), times)).reshape(10, -1)
    assert ((lost.sum(axis=1) >= 49) & (lost.sum(axis=1) <= 101)).all()
    assert (np.abs(np.diff(lost.astype(int), axis=1)).sum(axis=1) <= 2).all()


def test_scripted_counts_packets():
    assert lost_at(Scripted([0, 3]), range(5)) == [True, False, False, True, False]


def test_slotted_loss_follows_the_recording():
    model = SlottedLoss((0.0, 1.0, 1.0), 0.02, random_phase=False)
    assert lost_at(model, [0.0, 0.019, 0.02, 0.059, 0.06, 0.081]) == [False, False, True, True, False, True]


def test_any_of_shows_every_packet_to_every_part():
    model = AnyOf((Scripted([1]), Scripted([0, 2])))
    assert lost_at(model, range(4)) == [True, True, True, False]
    assert not any(lost_at(AnyOf((NoLoss(),)), range(4)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bernoulli(1.1),
        lambda: Bernoulli(-0.1),
        lambda: GilbertElliott(0, 1),
        lambda: GilbertElliott(1, 1, p_bad=2),
        lambda: Outages(((1.0, 1.0),)),
        lambda: Outages(((0.0, 2.0), (1.0, 3.0))),
        lambda: RandomOutages(5, 6, 7),
        lambda: SlottedLoss((), 1.0),
    ],
)
def test_impossible_models_are_refused(make):
    with pytest.raises(ConfigError):
        make()
