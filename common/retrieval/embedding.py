"""Text to unit vectors, under registered names.

    embedder = EMBEDDERS.create("tfidf_svd")
    embedder.fit(chunks)
    embedder.embed(["Where does Anna live?"])        # (1, d) float32, rows of length 1

The default counts hashed words and character n-grams, weighs them by TF-IDF, and projects them by a truncated SVD
that is fitted
on the corpus: latent semantic indexing. It needs no download, and the same corpus gives the same vectors.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError, DataUnavailable
from common.registry import Registry

Vectors = npt.NDArray[np.float32]


class Embedder(Protocol):
    """Turns text into vectors whose squared L2 distance says how far apart two texts are."""

    def fit(self, corpus: Sequence[str]) -> None:
        """Learn from the corpus what is to be learnt (word weights, a projection); called once, before `embed`."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One unit vector per text, (n, d) float32. A text without any known word is the zero vector."""
        ...


EMBEDDERS: Registry[Any] = Registry("embedder")


def unit_rows(vectors: npt.NDArray[Any]) -> Vectors:
    """Rows scaled to length 1; zero rows stay zero."""
    array = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    return np.ascontiguousarray(array / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


@EMBEDDERS.add("tfidf_svd")
@dataclasses.dataclass
class TfidfSvd:
    """Hashed words and character n-grams, TF-IDF, truncated SVD fitted on the corpus (the default).

    Attributes:
        dims: most dimensions of a vector; a small corpus has fewer.
        features: hash buckets of the words, and as many of the character n-grams.
        word_weight: weight of the words beside the character n-grams, in [0, 1]: 1 is words alone, 0 n-grams alone.
        seed: of the SVD's random start.
    """

    dims: int = 256
    features: int = 1 << 15
    word_weight: float = 0.5
    seed: int = 0
    _fitted: Any = dataclasses.field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.dims < 1 or self.features < 16 or not 0.0 <= self.word_weight <= 1.0 or self.seed < 0:
            raise ConfigError(
                f"dims={self.dims} must be at least 1, features={self.features} at least 16, word_weight={self.word_weight} "
                f"within 0..1 and seed={self.seed} at least 0."
            )

    def _counts(self, texts: Sequence[str]) -> Any:
        from scipy import sparse
        from sklearn.feature_extraction.text import HashingVectorizer

        common = {"n_features": self.features, "alternate_sign": False, "norm": None, "lowercase": True}
        parts = []
        if self.word_weight > 0:
            parts.append(HashingVectorizer(analyzer="word", token_pattern=r"(?u)\b\w+\b", **common).transform(texts))
        if self.word_weight < 1:
            parts.append(HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **common).transform(texts))
        return sparse.hstack(parts, format="csr")

    def fit(self, corpus: Sequence[str]) -> None:
        """See `Embedder.fit`.

        Raises:
            ConfigError: the corpus is empty.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfTransformer

        if not corpus:
            raise ConfigError("an embedder cannot be fitted on an empty corpus.")
        counts = self._counts(corpus)
        weigh = TfidfTransformer(sublinear_tf=True, norm=None).fit(counts)
        self._fitted = (weigh, None)
        weighted = self._weighted(counts)
        dims = min(self.dims, len(corpus) - 1, weighted.shape[1] - 1)
        # One or two texts span no space worth a projection; their weighted counts are compared as they are.
        svd = TruncatedSVD(dims, random_state=self.seed, n_iter=7).fit(weighted) if dims >= 2 else None
        self._fitted = (weigh, svd)

    def _weighted(self, counts: Any) -> Any:
        from scipy import sparse
        from sklearn.preprocessing import normalize

        weighted = self._fitted[0].transform(counts)
        if 0 < self.word_weight < 1:
            words, grams = weighted[:, : self.features], weighted[:, self.features :]
            share = float(np.sqrt(self.word_weight)), float(np.sqrt(1 - self.word_weight))
            return sparse.hstack([share[0] * normalize(words), share[1] * normalize(grams)], format="csr")
        return normalize(weighted)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`.

        Raises:
            ConfigError: `fit` was not called.
        """
        if self._fitted is None:
            raise ConfigError("this embedder was not fitted; call fit(corpus) first.")
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        weighted = self._weighted(self._counts(texts))
        svd = self._fitted[1]
        return unit_rows(weighted.toarray() if svd is None else svd.transform(weighted))


@EMBEDDERS.add("words_svd")
@dataclasses.dataclass
class WordsSvd(TfidfSvd):
    """As `tfidf_svd`, on whole words alone."""

    word_weight: float = 1.0


@EMBEDDERS.add("ngrams_svd")
@dataclasses.dataclass
class NgramsSvd(TfidfSvd):
    """As `tfidf_svd`, on character n-grams alone, with a quarter of the dimensions."""

    dims: int = 64
    word_weight: float = 0.0


@EMBEDDERS.add("sentence_transformers")
@dataclasses.dataclass
class SentenceTransformers:
    """Any model of the sentence-transformers library, e.g. the paper's all-mpnet-base-v2 (optional dependency).

    Attributes:
        model: hub id or folder.
        device: "cpu", "cuda" ..., or "" for the library's choice.
        batch_size: texts embedded at once.
    """

    model: str = "sentence-transformers/all-mpnet-base-v2"
    device: str = ""
    batch_size: int = 32
    _loaded: Any = dataclasses.field(default=None, init=False, repr=False)

    def fit(self, corpus: Sequence[str]) -> None:
        """Load the model; nothing is learnt from the corpus.

        Raises:
            DataUnavailable: the library is not installed, or the model cannot be had.
        """
        if self._loaded is not None:
            return
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise DataUnavailable(
                "embedder 'sentence_transformers' needs the sentence-transformers library: pip install 'ninefold[hub]'. "
                "The default embedder, tfidf_svd, needs no download."
            ) from error
        try:
            self._loaded = SentenceTransformer(self.model, device=self.device or None)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise DataUnavailable(
                f"embedding model {self.model!r} cannot be loaded ({reason}). Check the id and the network, give a folder, "
                "or use tfidf_svd."
            ) from error

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        if self._loaded is None:
            raise ConfigError("this embedder was not fitted; call fit(corpus) first.")
        found = self._loaded.encode(list(texts), batch_size=self.batch_size, show_progress_bar=False)
        return unit_rows(np.asarray(found))
