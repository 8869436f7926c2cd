"""Which tokens are picked, and how many at which layer."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cacheblend.api import SELECTORS
from cacheblend.selection import SelectionContext, deviation, layer_counts, layer_ratios, top
from common.errors import ConfigError


def context(count: int, num: int = 12, seed: int = 0, **changes) -> SelectionContext:
    """Three chunks of four candidates; values differ from the reused ones by the candidate's index."""
    rng = np.random.default_rng(seed)
    fresh = torch.from_numpy(rng.standard_normal((2, num, 4)))
    step = torch.arange(num, dtype=torch.float64)[None, :, None].expand_as(fresh)
    where = torch.arange(num)
    given = {
        "layer": 1,
        "count": count,
        "positions_C": where + 5,
        "chunk_C": where // 4,
        "offset_C": where % 4,
        "from_end_C": 3 - where % 4,
        "fresh_k_HCD": fresh,
        "fresh_v_HCD": fresh,
        "reused_k_HCD": fresh - step.flip(1),
        "reused_v_HCD": fresh - step,
        "question_queries": lambda: (torch.ones(4, 2, 4, dtype=torch.float64), 0.5),
        "rng": np.random.default_rng(seed),
    }
    return SelectionContext(**(given | changes))


def test_deviation_by_hand() -> None:
    # One token, two heads of two channels: differences (1, 2), (2, 4): sqrt(1 + 4 + 4 + 16) = 5.
    fresh = torch.tensor([[[1.0, 2.0]], [[2.0, 4.0]]])
    assert deviation(fresh, torch.zeros(2, 1, 2)).tolist() == [5.0]


def test_ties_go_to_the_earlier_token() -> None:
    assert top(torch.tensor([1.0, 3.0, 1.0, 3.0, 1.0]), 3).tolist() == [0, 1, 3]
    assert top(torch.zeros(6), 2).tolist() == [0, 1]


def test_each_selector_picks_what_it_says() -> None:
    create = SELECTORS.create
    assert create("hkvd").select(context(3)).tolist() == [9, 10, 11]
    assert create("hkvd", part="k").select(context(3)).tolist() == [0, 1, 2]
    # Both parts, equally large: the ends beat the middle.
    assert create("hkvd", part="kv").select(context(4)).tolist() == [0, 1, 10, 11]
    assert create("first_of_chunk").select(context(4)).tolist() == [0, 1, 4, 8]
    assert create("last").select(context(3)).tolist() == [9, 10, 11]
    assert create("last", of="chunk").select(context(3)).tolist() == [3, 7, 11]
    keys = torch.zeros(2, 12, 4, dtype=torch.float64)
    keys[:, 5] = 2.0
    assert create("question_attention").select(context(1, fresh_k_HCD=keys)).tolist() == [5]
    # Attention is the same for all: the deviation decides.
    flat = torch.zeros(2, 12, 4, dtype=torch.float64)
    assert create("attended_deviation").select(context(2, fresh_k_HCD=flat)).tolist() == [10, 11]


@pytest.mark.parametrize("name", SELECTORS.names())
@pytest.mark.parametrize("count", [0, 1, 7, 12])
def test_every_selector_keeps_the_contract(name: str, count: int) -> None:
    selector = SELECTORS.create(name)
    picked = selector.select(context(count))
    assert picked.dtype == torch.int64
    assert len(picked) == count
    assert picked.tolist() == sorted(set(picked.tolist()))
    assert all(0 <= index < 12 for index in picked.tolist())
    assert torch.equal(picked, selector.select(context(count)))  # deterministic for a stream


def test_random_tokens_depend_on_the_stream_only() -> None:
    selector = SELECTORS.create("random")
    assert selector.select(context(5, seed=1)).tolist() != selector.select(context(5, seed=2)).tolist()


@given(
    st.floats(0, 1),
    st.integers(1, 40),
    st.one_of(
        st.sampled_from(["constant", "linear"]),
        st.lists(st.floats(0.1, 5), min_size=1, max_size=6).map(lambda values: sorted(values, reverse=True)),
    ),
    st.integers(0, 500),
)
@settings(deadline=None, max_examples=200)
def test_schedules_have_the_asked_mean_and_never_rise(ratio, steps, schedule, tokens) -> None:
    ratios = layer_ratios(ratio, steps, schedule)
    assert len(ratios) == steps
    assert all(0 <= value <= 1 for value in ratios)
    assert all(a >= b for a, b in itertools.pairwise(ratios))
    assert np.mean(ratios) == pytest.approx(ratio, abs=1e-9)
    counts = layer_counts(ratios, tokens)
    assert all(0 <= value <= tokens for value in counts)
    assert all(a >= b for a, b in itertools.pairwise(counts))
    assert abs(np.mean(counts) - ratio * tokens) <= 1


def test_schedules_by_hand() -> None:
    assert layer_ratios(0.15, 3, "constant") == pytest.approx([0.15] * 3)
    # Weights 2, 1, 1 with mean 4/3: 0.2 * (2, 1, 1) * 3/4.
    assert layer_ratios(0.2, 3, [2, 1]) == pytest.approx([0.3, 0.15, 0.15])
    # A weight that would pass 1 stops there: (1, 0.7, 0.7) has the mean 0.8.
    assert layer_ratios(0.8, 3, [2, 1]) == pytest.approx([1, 0.7, 0.7])
    linear = layer_ratios(0.15, 9, "linear")
    assert linear[0] / linear[-1] == pytest.approx(1.3 / 0.85)
    assert linear[3:] == pytest.approx([linear[-1]] * 6)
    assert layer_ratios(1, 4, "linear") == (1, 1, 1, 1)
    assert layer_counts((0.5, 0.5), 3) == (2, 1)


@pytest.mark.parametrize("bad", ["cubic", [], [1, 2], [1, -1], [float("nan")]])
def test_bad_schedules_are_refused(bad) -> None:
    with pytest.raises(ConfigError):
        layer_ratios(0.2, 4, bad)
