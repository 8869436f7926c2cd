"""Algorithm 1, the window, memory formulas and best fit: golden values of the paper sheet, and invariants."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from ragserve.api import Profile, RagConfig, ServerLoad, TokenCosts, available_bytes
from ragserve.best_fit import best_fit, leanest, memory_bytes, peak_tokens, richest, unit_tokens
from ragserve.mapping import (
    ProfileWindow,
    SpaceSettings,
    chunk_counts,
    default_space,
    pruned_space,
    summary_lengths,
    synthesis_methods,
)

PAPER = SpaceSettings()
COSTS = TokenCosts(query=60, chunk=1024, answer=40, rerank_answer=48, bytes_per_token=131072)


def profile(joint=True, is_complex=True, pieces=3, lengths=(60, 80), confidence=1.0):
    return Profile(is_complex, joint, pieces, lengths, confidence)


@pytest.mark.parametrize(
    ("joint", "is_complex", "methods"),
    [
        (False, False, ("map_rerank",)),
        (False, True, ("map_rerank",)),
        (True, False, ("stuff",)),
        (True, True, ("stuff", "map_reduce")),
    ],
)
def test_methods_of_algorithm_1(joint, is_complex, methods):
    assert synthesis_methods(profile(joint, is_complex)) == methods


def test_golden_space():
    # n = 3: k = 3..9, seven values; stuff 7; map_reduce 7 x {60, 80} on a grid of {60, 80}: 14; together 21
    space = pruned_space(profile(), SpaceSettings(summary_grid=(30, 60, 80, 200)), 40)
    assert len(space) == 21
    assert sum(config.synthesis == "stuff" for config in space) == 7
    assert {config.summary_tokens for config in space} == {0, 60, 80}


@pytest.mark.parametrize("pieces", range(1, 11))
def test_chunks_are_n_to_3n_clipped(pieces):
    assert chunk_counts(pieces, PAPER, 100) == list(range(pieces, 3 * pieces + 1))
    assert chunk_counts(pieces, PAPER, 4) == list(range(min(pieces, 4), min(3 * pieces, 4) + 1))


def test_a_grid_always_leaves_a_value():
    grid = SpaceSettings(chunk_grid=(1, 2, 8))
    assert chunk_counts(1, grid, 40) == [1, 2]
    assert chunk_counts(4, grid, 40) == [8]
    assert chunk_counts(4, grid, 3) == [2]  # clipped to 3 chunks, which the grid lacks; 2 is the nearest


@pytest.mark.parametrize(
    ("given_range", "expected"),
    [
        ((60, 80), [60, 70, 80]),
        ((100, 100), [80, 90, 100, 110, 120]),  # one value: 75 to 125
        ((30, 30), [30]),  # 30 to 37.5
        ((200, 200), [150, 160, 170, 180, 190, 200]),  # 150 to 200
        ((1, 5), [30]),  # below the shortest
        ((62, 68), [60]),  # nothing between: the nearest to 65, the smaller on a tie
    ],
)
def test_summary_lengths(given_range, expected):
    assert summary_lengths(given_range, PAPER) == expected


@given(st.booleans(), st.booleans(), st.integers(1, 10), st.integers(1, 200), st.integers(0, 199), st.integers(1, 50))
def test_spaces_are_small_and_within_bounds(joint, is_complex, pieces, low, width, most):
    own = profile(joint, is_complex, pieces, (low, min(200, low + width)))
    space = pruned_space(own, PAPER, most)
    assert space
    assert len(space) == len(set(space)) <= (2 * pieces + 1) * (1 + len(PAPER.summary_grid))
    for config in space:
        assert min(pieces, most) <= config.num_chunks <= min(3 * pieces, most)
        assert config.summary_tokens == 0 or 30 <= config.summary_tokens <= 200


def test_an_empty_corpus_is_one_line():
    with pytest.raises(ConfigError, match="max_chunks=0"):
        pruned_space(profile(), PAPER, 0)


# ------------------------------------------------------------------------------------------------------------ the window


def test_the_window_holds_exactly_the_last_ten_confident_profiles():
    window = ProfileWindow(PAPER)
    assert window.space_for(profile(confidence=0.2), 40) == (default_space(PAPER, 40), False)
    for pieces in [1] + [2] * 10:
        _, is_trusted = window.space_for(profile(joint=False, pieces=pieces), 40)
        assert is_trusted
    window.space_for(profile(pieces=9, confidence=0.89), 40)  # doubtful ones do not enter
    space, is_trusted = window.space_for(profile(pieces=9, confidence=0.0), 40)
    assert not is_trusted
    # the first profile (n = 1) has left: what remains is n = 2
    assert set(space) == {RagConfig("map_rerank", k) for k in range(2, 7)}


def test_the_union_of_the_window():
    window = ProfileWindow(PAPER)
    window.space_for(profile(joint=False, pieces=1), 40)
    window.space_for(profile(is_complex=False, pieces=2), 40)
    space, _ = window.space_for(profile(confidence=0.5), 40)
    expected = {RagConfig("map_rerank", k) for k in (1, 2, 3)} | {RagConfig("stuff", k) for k in range(2, 7)}
    assert set(space) == expected


# ---------------------------------------------------------------------------------------------------- memory and best fit


def test_golden_memory_of_stuff():
    # 10 x 1024 + 60 + 40 = 10340 tokens; x 131072 B x 1.02 = 1 382 390 169.6 B, rounded up
    config = RagConfig("stuff", 10)
    assert peak_tokens(config, COSTS) == unit_tokens(config, COSTS) == 10340
    assert memory_bytes(config, COSTS) == 1_382_390_170


def test_golden_memory_of_map_reduce():
    # max(10 x (1024 + 60 + 100), 10 x 100 + 60 + 40) = max(11840, 1100)
    config = RagConfig("map_reduce", 10, 100)
    assert peak_tokens(config, COSTS) == 11840
    assert unit_tokens(config, COSTS) == 1184


def test_the_reducer_can_be_the_larger_part():
    # tiny chunks: max(4 x (10 + 5 + 50), 4 x 50 + 5 + 200) = max(260, 405)
    costs = TokenCosts(5, 10, 200, 200, 1)
    assert peak_tokens(RagConfig("map_reduce", 4, 50), costs) == 405


def test_golden_memory_of_map_rerank():
    # 7 x (1024 + 60 + 48) = 7924
    config = RagConfig("map_rerank", 7)
    assert peak_tokens(config, COSTS) == 7924
    assert unit_tokens(config, COSTS) == 1132


def room(tokens):
    """Bytes in which exactly so many tokens fit with the buffer."""
    return -(-tokens * COSTS.bytes_per_token * 102 // 100)


def test_the_papers_example_takes_six_chunks():
    space = [RagConfig("stuff", k) for k in range(5, 11)]
    available = room(6 * 1024 + 100)
    assert best_fit(space, COSTS, available).config == RagConfig("stuff", 6)
    assert best_fit(space, COSTS, available - 1).config == RagConfig("stuff", 5)


def test_nothing_fits_leaves_the_range_by_the_kind_of_query():
    single = [RagConfig("map_rerank", k) for k in range(4, 13)]
    choice = best_fit(single, COSTS, room(2 * 1132))
    assert (choice.config, choice.why) == (RagConfig("map_rerank", 2), "out_of_range")
    joint = [RagConfig("stuff", k) for k in range(4, 13)]
    choice = best_fit(joint, COSTS, room(3 * 1024 + 100))
    assert (choice.config, choice.why) == (RagConfig("stuff", 3), "out_of_range")
    assert best_fit(joint, COSTS, 0).config == RagConfig("stuff", 1)  # at least one


def test_mappers_that_can_start_are_preferred_to_leaving_the_range():
    # the paper's Fig. 8: k = 20, s = 100; neither stuff nor map_reduce fits, one mapper (1184 tokens) does
    space = [RagConfig("stuff", 20), RagConfig("map_reduce", 20, 100), RagConfig("map_reduce", 20, 110)]
    choice = best_fit(space, COSTS, room(3000))
    assert (choice.config, choice.why) == (RagConfig("map_reduce", 20, 100), "starts")
    assert best_fit(space, COSTS, room(3000), may_start=False).why == "out_of_range"
    assert best_fit(space, COSTS, room(1183)).why == "out_of_range"
    # by the rule "unit" it fits outright, and the longest summary is the richest
    assert best_fit(space, COSTS, room(3000), fit_rule="unit").config == RagConfig("map_reduce", 20, 110)


def test_ties():
    # chunk + query + s = 100, and stuff: 3 x 80 + 20 + 40 = 300 = 3 x 100
    costs = TokenCosts(20, 80, 40, 40, 1)
    same = [RagConfig("map_reduce", 3, 0 + 1), RagConfig("stuff", 3)]
    assert peak_tokens(RagConfig("stuff", 3), costs) == 300
    assert peak_tokens(RagConfig("map_reduce", 3, 1), costs) == 303
    assert richest(same, costs).synthesis == "map_reduce"
    costs = dataclasses.replace(costs, answer=43)
    assert richest(same, costs).synthesis == "stuff"  # 303 = 303: stuff before map_reduce
    assert leanest(same, costs).synthesis == "map_reduce"


configs = st.one_of(
    st.builds(RagConfig, st.sampled_from(["stuff", "map_rerank"]), st.integers(1, 40)),
    st.builds(RagConfig, st.just("map_reduce"), st.integers(1, 40), st.integers(1, 200)),
)


@given(st.lists(configs, min_size=1, max_size=30), st.integers(0, 60_000), st.sampled_from(["peak", "unit"]))
def test_what_fits_never_exceeds_what_is_there(space, tokens, rule):
    available = tokens * COSTS.bytes_per_token
    choice = best_fit(space, COSTS, available, fit_rule=rule)
    if choice.why == "fits" and rule == "peak":
        assert memory_bytes(choice.config, COSTS) <= available
        better = [
            c
            for c in space
            if memory_bytes(c, COSTS) <= available and peak_tokens(c, COSTS) > peak_tokens(choice.config, COSTS)
        ]
        assert not better
    if choice.why == "out_of_range":
        assert all(memory_bytes(config, COSTS) > available for config in space) or rule == "unit"
        # one chunk is the least there is; beyond it the choice fits
        assert choice.config.num_chunks == 1 or memory_bytes(choice.config, COSTS) <= available


@given(st.lists(configs, min_size=1, max_size=20), st.integers(0, 60_000), st.integers(0, 20_000))
def test_more_memory_never_means_a_smaller_configuration(space, tokens, more):
    less, plenty = (
        best_fit(space, COSTS, amount * COSTS.bytes_per_token, may_start=False).config
        for amount in (tokens, tokens + more)
    )
    # One chunk is taken even where it does not fit; with more memory something smaller may then fit.
    if memory_bytes(less, COSTS) <= tokens * COSTS.bytes_per_token:
        assert peak_tokens(less, COSTS) <= peak_tokens(plenty, COSTS)


def test_a_space_of_one():
    only = [RagConfig("stuff", 4)]
    assert best_fit(only, COSTS, 10**12).config == only[0]
    with pytest.raises(ConfigError, match="pruned space is empty"):
        best_fit([], COSTS, 1)
    with pytest.raises(ConfigError, match="fit_rule='sum'"):
        best_fit(only, COSTS, 1, fit_rule="sum")


def test_promises_are_subtracted():
    assert available_bytes(ServerLoad(1000, 300, 5000), COSTS) == 700 * 131072
    assert available_bytes(ServerLoad(1000, 3000, 5000), COSTS) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stuf", 3), "synthesis='stuf'"),
        (("stuff", 0), "num_chunks=0"),
        (("stuff", 3, 10), "summary_tokens=10"),
        (("map_reduce", 3), "summary_tokens=0"),
    ],
)
def test_impossible_configurations(arguments, message):
    with pytest.raises(ConfigError, match=message):
        RagConfig(*arguments)
