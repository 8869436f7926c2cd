"""Chunks in, the nearest chunks of a query out; and how much of the gold evidence is among them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError
from common.retrieval.embedding import EMBEDDERS, Embedder
from common.retrieval.index import FlatIndex, Found


class Retriever:
    """An embedder and an index over one corpus; corpus and queries go through the same embedder.

    Args:
        embedder: an `Embedder`, or the name of a registered one.
    """

    def __init__(self, embedder: Embedder | str = "tfidf_svd") -> None:
        self.embedder: Embedder = EMBEDDERS.create(embedder) if isinstance(embedder, str) else embedder
        self._index: FlatIndex | None = None

    def fit(self, chunks: Sequence[str]) -> "Retriever":
        """Index the chunks; returns the retriever itself.

        Raises:
            ConfigError: there are no chunks.
        """
        if not chunks:
            raise ConfigError("there are no chunks to index.")
        self.embedder.fit(chunks)
        self._index = FlatIndex(self.embedder.embed(chunks))
        return self

    @property
    def num_chunks(self) -> int:
        """How many chunks are indexed."""
        return 0 if self._index is None else self._index.size

    def search(self, queries: Sequence[str], k: int) -> Found:
        """The k nearest chunks of each query, nearest first: ids (n, k) int64 and squared L2 distances (n, k) float32.

        Raises:
            ConfigError: `fit` was not called, or k is not within 1..number of chunks.
        """
        if self._index is None:
            raise ConfigError("this retriever holds no chunks; call fit(chunks) first.")
        if not queries:
            return np.zeros((0, k), dtype=np.int64), np.zeros((0, k), dtype=np.float32)
        return self._index.search(self.embedder.embed(queries), k)


def recall_at_k(ranked: Sequence[int] | npt.NDArray[np.int64], evidence: Sequence[int], k: int) -> float:
    """Share of the gold evidence among the first k results.

    Raises:
        ConfigError: there is no evidence (recall is undefined; leave such queries out), or k < 1.
    """
    if not evidence:
        raise ConfigError("recall is undefined without gold evidence; leave such queries out.")
    if k < 1:
        raise ConfigError(f"k={k} must be at least 1.")
    first = {int(chunk) for chunk in ranked[:k]}
    return len(first & set(evidence)) / len(set(evidence))
