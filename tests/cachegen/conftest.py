"""Codecs and a cache for the tests; see tiny_kv.py."""

import pytest
from tiny_kv import FORMS, cache_of, codec_of, tiny_model

from cachegen.codec import Codec
from common.kv import KVCache


@pytest.fixture(params=list(FORMS))
def codec(request) -> Codec:
    return codec_of(request.param)


@pytest.fixture
def kv() -> KVCache:
    return cache_of(tiny_model("llama"), 43, 77)
