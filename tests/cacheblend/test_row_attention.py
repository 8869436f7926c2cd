"""Blocked row attention against the plain formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cacheblend.attention import RowAttention, probabilities


def plain(query, key, value, allowed_RN, scale):
    groups = query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(groups, 0), value.repeat_interleave(groups, 0)
    scores = (query @ key.transpose(1, 2) * scale).masked_fill(~allowed_RN, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(0, 1).reshape(query.shape[1], -1)


def tensors(rows: int, keys: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((4, rows, 8), (2, keys, 8), (2, keys, 8))
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


def test_masks_of_the_worked_example() -> None:
    # N = 6, rows 1 and 4: row 1 sees keys 0, 1; row 4 sees keys 0 .. 4.
    query, key, value = tensors(2, 6)
    rows = torch.tensor([1, 4])
    allowed = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]], dtype=torch.bool)
    found = RowAttention(rows, rows, torch.float64, torch.device("cpu"))(query, key, value, 0.3)
    assert torch.allclose(found, plain(query, key, value, allowed, 0.3), atol=1e-12)
    shares = probabilities(query, key, rows, 0.3)
    assert torch.equal(shares > 0, allowed[None].expand(4, -1, -1))


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1), st.integers(1, 9))
    ),
    st.one_of(st.none(), st.integers(1, 45)),
)
@settings(deadline=None, max_examples=150)
def test_any_rows_any_blocks_any_window(case, window) -> None:
    num_keys, chosen, block_rows = case
    rows = torch.tensor(sorted(chosen))
    query, key, value = tensors(len(rows), num_keys)
    keys = torch.arange(num_keys)
    allowed = keys[None] <= rows[:, None]
    if window is not None:
        allowed &= rows[:, None] - keys[None] < window
    attend = RowAttention(rows, rows, torch.float64, torch.device("cpu"), window, block_rows)
    assert torch.allclose(attend(query, key, value, 0.5), plain(query, key, value, allowed, 0.5), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    query, key, value = tensors(30, 64)
    rows = torch.arange(64)[torch.randperm(64, generator=torch.Generator().manual_seed(1))[:30]].sort().values
    allowed = torch.arange(64)[None] <= rows[:, None]
    attend = RowAttention(rows, rows, dtype, torch.device("cpu"), block_rows=8)
    found = attend(query.to(dtype), key.to(dtype), value.to(dtype), 0.5)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    assert torch.allclose(found.double(), plain(query, key, value, allowed, 0.5), atol=tolerance)


@pytest.mark.parametrize(("first", "keys"), [(1, 40), (16, 40), (17, 40), (39, 40), (300, 1100)])
def test_rows_behind_an_exact_prefix(first: int, keys: int) -> None:
    # Up to 16 of 40 keys the causal kernel gets empty rows in front; from 17 on (6 * 17^2 > 40^2) rows go in blocks.
    rows = torch.arange(first, keys)
    query, key, value = tensors(len(rows), keys)
    attend = RowAttention(rows, rows, torch.float64, torch.device("cpu"))
    allowed = torch.arange(keys)[None] <= rows[:, None]
    assert torch.allclose(attend(query, key, value, 0.5), plain(query, key, value, allowed, 0.5), atol=1e-12)
    assert [block.padding for block in attend._blocks] == [first if first != 17 and first != 39 else 0]


def test_many_keys_are_cut_into_smaller_blocks() -> None:
    rows = torch.arange(0, 1200, 15)
    query, key, value = tensors(len(rows), 1200)
    attend = RowAttention(rows, rows, torch.float64, torch.device("cpu"))
    assert len(attend._blocks) == 2  # of 64 rows at most
    allowed = torch.arange(1200)[None] <= rows[:, None]
    assert torch.allclose(attend(query, key, value, 0.5), plain(query, key, value, allowed, 0.5), atol=1e-12)
