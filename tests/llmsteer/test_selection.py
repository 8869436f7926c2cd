"""Token selection from column sums."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from llmsteer.selection import (
    Selection,
    combine_sets,
    corrected,
    jaccard,
    precision_recall,
    select,
    top_tokens,
)

FIRST = torch.tensor([[9.0, 1.0, 5.0, 4.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
SECOND = torch.tensor([[8.0, 7.0, 1.0, 6.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
PLAIN = {"score": "raw_sum", "exclude_sink": False}


def sets(**changes):
    return {layer: tokens.tolist() for layer, tokens in select(FIRST, SECOND, Selection(**(PLAIN | changes))).items()}


def test_intersection_union_and_single_passes_by_hand():
    # Layer 0, k = 3: pass 1 takes 0, 2, 3; pass 2 takes 0, 1, 3. Layer 1: 2, 3, 4 and 0, 1, 2.
    assert sets(k=3) == {0: [0, 3], 1: [2]}
    assert sets(k=3, combine="union") == {0: [0, 1, 2, 3], 1: [0, 1, 2, 3, 4]}
    assert sets(k=3, combine="pass1") == {0: [0, 2, 3], 1: [2, 3, 4]}
    assert sets(k=3, combine="pass2") == {0: [0, 1, 3], 1: [0, 1, 2]}


def test_pooled_is_one_set_of_normalised_scores():
    # Pass 1: 9/22 + 1/15, 1/22 + 2/15, 5/22 + 3/15, 4/22 + 4/15, 3/22 + 5/15 = .476, .179, .427, .448, .470: tokens 0 and 4.
    # Pass 2: 8/22 + 5/15, 7/22 + 4/15, 1/22 + 3/15, 6/22 + 2/15, 0 + 1/15 = .697, .585, .245, .406, .067: tokens 0 and 1.
    assert sets(k=2, sets="pooled") == {0: [0], 1: [0]}


def test_the_mean_correction_divides_by_the_rows_that_see_a_token():
    torch.testing.assert_close(
        corrected(torch.tensor([10.0, 4.0, 1.0, 3.0]), "mean_corrected"), torch.tensor([2.5, 4 / 3, 0.5, 3.0])
    )
    # Uniform causal attention: each row i gives 1/(i+1) to all it sees. Raw sums favour early tokens; means hardly.
    uniform = torch.tril(torch.ones(64, 64)) / torch.arange(1, 65)[:, None]
    raw = uniform.sum(0)
    assert top_tokens(raw, 4).tolist() == [0, 1, 2, 3]
    assert float(corrected(raw, "mean_corrected").max() / corrected(raw, "mean_corrected").min()) < float(
        raw.max() / raw.min()
    )


def test_excluded_and_sink_tokens_are_never_chosen():
    assert top_tokens(FIRST[0], 2, {0, 3}).tolist() == [2, 4]
    chosen = select(FIRST, FIRST, Selection(k=5, score="raw_sum"), excluded={3}, prefix_tokens=2)
    assert chosen[0].tolist() == [2, 4]  # the first four positions of the prompt reach two tokens into the context
    assert select(FIRST, FIRST, Selection(k=5, score="raw_sum"), prefix_tokens=10)[0].tolist() == [0, 1, 2, 3, 4]


@given(
    st.lists(st.floats(0, 100), min_size=4, max_size=30),
    st.lists(st.floats(0, 100), min_size=30, max_size=30),
    st.integers(1, 40),
    st.sampled_from(["mean_corrected", "raw_sum"]),
)
@settings(max_examples=60, deadline=None)
def test_set_laws(first, second, k, score):
    one = torch.tensor([first])
    other = torch.tensor([second[: len(first)]])
    made = {
        combine: set(select(one, other, Selection(k=k, score=score, combine=combine, exclude_sink=False))[0].tolist())
        for combine in ("pass1", "pass2", "intersection", "union")
    }
    assert made["intersection"] == made["pass1"] & made["pass2"]
    assert made["union"] == made["pass1"] | made["pass2"]
    assert len(made["pass1"]) == min(k, len(first))
    same = select(one, one, Selection(k=k, score=score, exclude_sink=False))[0]
    assert set(same.tolist()) == made["pass1"]  # two identical readings: the intersection is the top k
    assert same.tolist() == sorted(same.tolist())


def test_ties_go_to_the_earlier_token():
    assert top_tokens(torch.tensor([1.0, 2.0, 2.0, 2.0]), 2).tolist() == [1, 2]


def test_fractions_and_refusals():
    assert Selection(k_fraction=0.05).num_selected(200) == 10
    assert Selection(k=500).num_selected(200) == 200
    for wrong in ({"score": "max"}, {"k": 0}, {"k_fraction": 1.5}, {"combine": "xor"}, {"sets": "each"}):
        with pytest.raises(ConfigError):
            Selection(**wrong)
    with pytest.raises(ConfigError, match="shape"):
        select(FIRST, FIRST[:, :3], Selection())


def test_agreement_measures():
    assert jaccard([1, 2, 3], [2, 3, 4]) == 0.5
    assert jaccard([], []) == 1.0
    assert precision_recall([1, 2, 3, 4], [4, 5]) == (0.25, 0.5)
    assert combine_sets(torch.tensor([1, 5]), torch.tensor([5, 7]), "union").tolist() == [1, 5, 7]
