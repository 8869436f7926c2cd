"""PSNR, SSIM and MS-SSIM against scikit-image and pytorch-msssim."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from common.metrics.image import (
    ms_ssim,
    psnr_db,
    ssim,
    ssim_db,
    to_frames,
    to_tensor,
    video_ms_ssim,
    video_psnr_db,
    video_ssim,
)


def pair(height: int = 40, width: int = 56, noise: float = 12.0, seed: int = 0, num_frames: int = 2):
    import cv2

    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (num_frames, 8, 8, 3), dtype=np.uint8)
    smooth = np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in small])
    noisy = smooth + rng.normal(0, noise, smooth.shape)
    return smooth, noisy.round().clip(0, 255).astype(np.uint8)


def test_psnr_by_hand():
    # One of four values is off by 0.5: the mean square is 0.25 / 4 = 0.0625, and 10 log10(1 / 0.0625) = 12.04 dB.
    x = torch.zeros(1, 1, 2, 2)
    y = x.clone()
    y[0, 0, 0, 0] = 0.5
    assert psnr_db(x, y).item() == pytest.approx(10 * math.log10(16), abs=1e-5)
    assert psnr_db(x, x).item() == math.inf


def test_decibels_by_hand():
    assert ssim_db(0.9) == pytest.approx(10)
    assert ssim_db(0.99) == pytest.approx(20)
    assert ssim_db(1.0) == math.inf
    with pytest.raises(ConfigError, match="above 1"):
        ssim_db(15)


@pytest.mark.parametrize("noise", [1.0, 10.0, 60.0])
def test_psnr_and_ssim_equal_scikit_image(noise):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    original, decoded = pair(noise=noise)
    for index in range(len(original)):
        a, b = original[index], decoded[index]
        expected = structural_similarity(
            a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        assert video_ssim(original, decoded)[index] == pytest.approx(expected, abs=2e-5)
        assert video_psnr_db(original, decoded)[index] == pytest.approx(peak_signal_noise_ratio(a, b), abs=1e-3)


@pytest.mark.parametrize(("height", "width"), [(176, 192), (177, 201)])
def test_ssim_and_ms_ssim_equal_pytorch_msssim(height, width):
    import pytorch_msssim

    x, y = (to_tensor(frames) for frames in pair(height, width, 25.0))
    torch.testing.assert_close(ssim(x, y), pytorch_msssim.ssim(x, y, data_range=1.0, size_average=False))
    torch.testing.assert_close(ms_ssim(x, y), pytorch_msssim.ms_ssim(x, y, data_range=1.0, size_average=False))
    original, decoded = pair(height, width, 25.0)
    np.testing.assert_allclose(video_ms_ssim(original, decoded), ms_ssim(x, y).numpy(), rtol=1e-6)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    x = torch.rand(1, 2, 13, 12, dtype=torch.float64, requires_grad=True)
    y = torch.rand(1, 2, 13, 12, dtype=torch.float64)
    for score in (ssim, psnr_db):
        assert torch.autograd.gradcheck(lambda value, score=score: score(value, y).sum(), (x,))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.floats(0.5, 80))
def test_ssim_is_symmetric_bounded_and_one_for_equal_pictures(seed, noise):
    original, decoded = pair(24, 24, noise, seed, 1)
    value = video_ssim(original, decoded)[0]
    assert -1 <= value < 1
    assert value == pytest.approx(video_ssim(decoded, original)[0], abs=1e-6)
    assert video_ssim(original, original)[0] == pytest.approx(1)


def test_more_noise_is_worse():
    scores = [video_ssim(*pair(noise=noise)).mean() for noise in (2, 8, 32)]
    assert scores[0] > scores[1] > scores[2]


def test_luma_weighs_the_channels():
    original = np.zeros((1, 16, 16, 3), np.uint8)
    decoded = original.copy()
    decoded[..., 2] = 100  # blue: luma off by 11.4 of 255
    assert video_psnr_db(original, decoded, luma=True)[0] == pytest.approx(20 * math.log10(255 / 11.4), abs=1e-3)


def test_frames_and_tensors_go_back_and_forth():
    original, _ = pair()
    np.testing.assert_array_equal(to_frames(to_tensor(original)), original)
    assert to_frames(torch.full((1, 3, 1, 1), 1.7)).max() == 255


def test_bad_input():
    x = torch.zeros(1, 3, 10, 40)
    with pytest.raises(ConfigError, match="at least 11"):
        ssim(x, x)
    with pytest.raises(ConfigError, match="at least 161"):
        ms_ssim(torch.zeros(1, 3, 160, 300), torch.zeros(1, 3, 160, 300))
    with pytest.raises(ConfigError, match="two equal"):
        ssim(x, torch.zeros(1, 3, 40, 40))
    with pytest.raises(ConfigError, match="uint8"):
        video_ssim(np.zeros((1, 20, 20, 3)), np.zeros((1, 20, 20, 3)))
    with pytest.raises(ConfigError, match="differ in shape"):
        video_ssim(np.zeros((1, 20, 20, 3), np.uint8), np.zeros((2, 20, 20, 3), np.uint8))
