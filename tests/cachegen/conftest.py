"""Codecs and a cache for the tests; see tiny_kv.py."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tiny_kv stands beside the tests, whatever pytest's import mode

from cachegen.codec import Codec
from common.kv import KVCache
from tests.cachegen.tiny_kv import FORMS, cache_of, codec_of, tiny_model


@pytest.fixture(params=list(FORMS))
def codec(request) -> Codec:
    return codec_of(request.param)


@pytest.fixture
def kv() -> KVCache:
    return cache_of(tiny_model("llama"), 43, 77)
