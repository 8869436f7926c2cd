"""Exact nearest neighbours by squared L2 distance: faiss's IndexFlatL2 as the paper uses it, and a numpy oracle."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError
from common.retrieval.embedding import Vectors

Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


class Index(Protocol):
    """Vectors, and which of them are nearest to a query."""

    @property
    def size(self) -> int: ...

    def search(self, queries: Vectors, k: int) -> Found:
        """Ids (n, k) int64 and squared distances (n, k) float32, nearest first, equal distances by id."""
        ...


def _check(queries: Vectors, k: int, size: int, dims: int) -> None:
    if queries.ndim != 2 or queries.shape[1] != dims:
        raise ConfigError(f"queries of shape {queries.shape} do not fit an index of {dims} dimensions.")
    if not 1 <= k <= size:
        raise ConfigError(f"k={k} neighbours were asked of an index that holds {size}; k must be 1..{size}.")


class FlatIndex:
    """faiss `IndexFlatL2` over fixed vectors, (n, d) float32."""

    def __init__(self, vectors: Vectors) -> None:
        import faiss

        if vectors.ndim != 2 or not len(vectors):
            raise ConfigError(f"an index needs a matrix of at least one vector, not shape {vectors.shape}.")
        self.dims = int(vectors.shape[1])
        self._index: Any = faiss.IndexFlatL2(self.dims)
        self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))

    @property
    def size(self) -> int:
        return int(self._index.ntotal)

    def search(self, queries: Vectors, k: int) -> Found:
        """See `Index.search`.

        Raises:
            ConfigError: k or the dimension does not fit.
        """
        _check(queries, k, self.size, self.dims)
        d2, ids = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
        # faiss computes |q|^2 - 2qv + |v|^2, which rounds below zero for equal vectors, and leaves the order of ties open.
        d2 = np.maximum(d2, 0.0)
        order = np.lexsort((ids, d2), axis=1)
        return np.take_along_axis(ids, order, 1), np.take_along_axis(d2, order, 1)


class ExactIndex:
    """The same in numpy, in double precision: what tests compare with."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = np.asarray(vectors, dtype=np.float64)

    @property
    def size(self) -> int:
        return len(self._vectors)

    def search(self, queries: Vectors, k: int) -> Found:
        """See `Index.search`."""
        _check(queries, k, self.size, self._vectors.shape[1])
        d2 = ((np.asarray(queries, dtype=np.float64)[:, None, :] - self._vectors[None]) ** 2).sum(-1)
        ids = np.argsort(d2, axis=1, kind="stable")[:, :k].astype(np.int64)
        return ids, np.take_along_axis(d2, ids, 1).astype(np.float32)
