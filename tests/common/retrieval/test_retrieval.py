"""Passages, embedders, the index against its oracle, recall."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, DataUnavailable
from common.retrieval.embedding import EMBEDDERS, TfidfSvd, unit_rows
from common.retrieval.index import ExactIndex, FlatIndex
from common.retrieval.passages import passages_of
from common.retrieval.retriever import Retriever, recall_at_k

TEXTS = [
    "Anna lives in Marlow.",
    "Norvex is based in Kelby and makes the Aero.",
    "The Aero costs 24 dollars.",
    "Carl works as a nurse for Haldane.",
    "In the second quarter, Norvex had sales of 48 million.",
]


def encode(text):
    return text.split()


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.booleans(), st.integers(0, 2**31 - 1))
@settings(max_examples=60, deadline=None)
def test_the_index_agrees_with_exact_search(size, dims, k, has_duplicates, seed):
    rng = np.random.default_rng(seed)
    vectors = unit_rows(rng.standard_normal((size, dims)))
    if has_duplicates:
        vectors[size // 2 :] = vectors[: size - size // 2]
    queries = unit_rows(rng.standard_normal((3, dims)))
    k = min(k, size)
    ids, d2 = FlatIndex(vectors).search(queries, k)
    exact_ids, exact_d2 = ExactIndex(vectors).search(queries, k)
    np.testing.assert_allclose(d2, exact_d2, atol=2e-6)
    # Where distances are as good as equal, faiss's rounding may order them either way; the distances themselves must agree.
    all_d2 = ((queries[:, None].astype(float) - vectors[None].astype(float)) ** 2).sum(-1)
    np.testing.assert_allclose(np.take_along_axis(all_d2, ids, 1), np.take_along_axis(all_d2, exact_ids, 1), atol=2e-6)
    assert all(len(set(row)) == k for row in ids.tolist())


def test_equal_distances_come_in_the_order_of_ids():
    vectors = np.array([[0, 1], [1, 0], [0, 1], [1, 0]], dtype=np.float32)
    ids, d2 = FlatIndex(vectors).search(np.array([[1, 0]], dtype=np.float32), 4)
    assert ids.tolist() == [[1, 3, 0, 2]]
    assert d2.tolist() == [[0.0, 0.0, 2.0, 2.0]]


@pytest.mark.parametrize("k", [0, 6, -1])
def test_k_must_be_within_the_corpus(k):
    with pytest.raises(ConfigError, match=rf"k={k} .* 1\.\.5"):
        Retriever().fit(TEXTS).search(["Anna"], k)


@pytest.mark.parametrize("name", ["tfidf_svd", "words_svd", "ngrams_svd"])
def test_embedders_are_deterministic_and_of_unit_length(name):
    first, second = EMBEDDERS.create(name), EMBEDDERS.create(name)
    first.fit(TEXTS)
    second.fit(TEXTS)
    vectors = first.embed(TEXTS)
    np.testing.assert_array_equal(vectors, second.embed(TEXTS))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors.dtype == np.float32


def test_retrieval_finds_what_is_asked_for():
    retriever = Retriever().fit(TEXTS)
    ids, _ = retriever.search(["Where does Anna live?", "What does the Aero cost?", "Which sales had Norvex?"], 1)
    assert ids[:, 0].tolist() == [0, 2, 4]


def test_a_text_without_known_features_is_the_zero_vector():
    embedder = TfidfSvd()
    embedder.fit(TEXTS)
    assert not embedder.embed([""]).any()


@pytest.mark.parametrize("corpus", [["one text"], ["one", "two"]])
def test_tiny_corpora_work(corpus):
    ids, _ = Retriever().fit(corpus).search(["one"], 1)
    assert ids.tolist() == [[0]]


def test_misuse_is_one_line():
    with pytest.raises(ConfigError, match="no chunks to index"):
        Retriever().fit([])
    with pytest.raises(ConfigError, match="call fit"):
        Retriever().search(["a"], 1)
    with pytest.raises(ConfigError, match="not fitted"):
        TfidfSvd().embed(["a"])
    with pytest.raises(ConfigError, match="word_weight=2"):
        TfidfSvd(word_weight=2.0)
    with pytest.raises(ConfigError, match="undefined without gold evidence"):
        recall_at_k([1, 2], [], 1)


def test_without_the_library_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(DataUnavailable, match=r"ninefold\[hub\]"):
        EMBEDDERS.create("sentence_transformers").fit(TEXTS)


def test_recall_by_hand():
    # evidence {2, 5}: after 1 result none, after 2 one of two, after 4 both
    assert [recall_at_k([7, 5, 0, 2], (2, 5), k) for k in (1, 2, 3, 4)] == [0.0, 0.5, 0.5, 1.0]


@given(st.lists(st.text("ab .\n", max_size=60), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 8))
@settings(max_examples=80, deadline=None)
def test_passages_keep_to_their_length_and_cover_the_document(documents, chunk_tokens, overlap):
    overlap = min(overlap, chunk_tokens - 1)
    found = passages_of(documents, encode, chunk_tokens, overlap)
    for passage in found:
        piece = documents[passage.document][passage.start : passage.end]
        assert piece.strip() == passage.text
        assert 0 < len(encode(piece)) <= chunk_tokens
    for number, document in enumerate(documents):
        words = document.split()
        covered = [word for p in found if p.document == number for word in p.text.split()]
        if overlap == 0:
            assert covered == words
        else:
            assert set(covered) == set(words)


def test_passages_refuse_what_is_not_allowed():
    with pytest.raises(ConfigError, match="no documents"):
        passages_of([], encode, 5)
    with pytest.raises(ConfigError, match="overlap_tokens=5"):
        passages_of(["a b"], encode, 5, 5)
