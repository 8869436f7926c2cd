"""Small clips and an untrained codec: what is tested here holds for any weights."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from grace.clips import ClipStyle, bundled_photos, make_clip
from grace.codec import NeuralCodec
from grace.entropy import pack_usual
from grace.networks import CodecConfig, SmallCodec


def make_codec(seed: int = 0, residual: str = "dct") -> NeuralCodec:
    """Random weights: the block transform starts as the DCT, so that even they code pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        network = SmallCodec(CodecConfig(residual=residual))
    usual = [
        np.tile(pack_usual(np.full(channels, 14), np.full(channels, 0.3)), (network.num_levels, 1))
        for channels in (network.config.motion_channels, network.config.residual_channels)
    ]
    return NeuralCodec(network, usual[0], usual[1])


@pytest.fixture(scope="session")
def codec() -> NeuralCodec:
    torch.set_num_threads(1)
    return make_codec()


@pytest.fixture(scope="session")
def clip() -> np.ndarray:
    """(12, 64, 72, 3): moving, and no multiple of 16."""
    return make_clip(np.random.default_rng(5), bundled_photos(), ClipStyle(64, 72, 12))
