"""Picture quality: PSNR, SSIM and MS-SSIM, differentiable in torch, with entries for uint8 video.

    ssim(x_BCHW, y_BCHW)                       # (B,), values in [0, 1], for training and for tensors
    video_ssim(original, decoded)              # (N,), from (N, H, W, 3) uint8
    ssim_db(video_ssim(original, decoded).mean())

SSIM is that of Wang et al. 2004 as GRACE reports it: Gaussian window 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, each channel
by itself and then their mean, over the windows that lie inside the picture. In decibels it is -10 log10(1 - SSIM); average SSIM
first, then convert, as the GRACE sheet (section 4) says.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import ConfigError

# B pictures, C channels, H rows, W columns

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
# Wang, Simoncelli, Bovik 2003: weights of the five scales.
MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_LUMA = (0.299, 0.587, 0.114)
_CHUNK_PIXELS = 4_000_000  # of video handled at a time


def psnr_db(x_BCHW: Tensor, y_BCHW: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each picture over all channels, (B,) in dB; infinite for equal pictures.

    Raises:
        ConfigError: shapes differ or are not (B, C, H, W).
    """
    _check(x_BCHW, y_BCHW, 1)
    mse_B = ((x_BCHW - y_BCHW) ** 2).flatten(1).mean(1)
    return 10 * torch.log10(data_range**2 / mse_B)


def ssim(x_BCHW: Tensor, y_BCHW: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity of each picture, (B,) in [-1, 1]; differentiable.

    Raises:
        ConfigError: shapes differ, or a side is smaller than the window of 11 pixels.
    """
    _check(x_BCHW, y_BCHW, WINDOW)
    full_BC, _ = _ssim_terms(x_BCHW, y_BCHW, data_range)
    return full_BC.mean(1)


def ms_ssim(x_BCHW: Tensor, y_BCHW: Tensor, data_range: float = 1.0) -> Tensor:
    """Multi-scale SSIM over five scales, (B,) in [0, 1]; differentiable. Negative terms count as zero, as is usual.

    Raises:
        ConfigError: shapes differ, or a side is not larger than 160 pixels (16 times the window less one).
    """
    _check(x_BCHW, y_BCHW, (WINDOW - 1) * 2 ** (len(MS_WEIGHTS) - 1) + 1)
    terms = []
    for scale in range(len(MS_WEIGHTS)):
        full_BC, contrast_BC = _ssim_terms(x_BCHW, y_BCHW, data_range)
        terms.append(full_BC if scale == len(MS_WEIGHTS) - 1 else contrast_BC)
        if scale < len(MS_WEIGHTS) - 1:
            padding = [side % 2 for side in x_BCHW.shape[2:]]
            x_BCHW, y_BCHW = (F.avg_pool2d(z, 2, padding=padding) for z in (x_BCHW, y_BCHW))
    weights = x_BCHW.new_tensor(MS_WEIGHTS).view(-1, 1, 1)
    return (torch.stack(terms).clamp(min=0) ** weights).prod(0).mean(1)


def ssim_db(ssim_value: float) -> float:
    """-10 log10(1 - SSIM): 0.9 is 10 dB, 0.99 is 20 dB; infinite at 1.

    Raises:
        ConfigError: a value above 1.
    """
    if ssim_value > 1 + 1e-6:
        raise ConfigError(f"an SSIM of {ssim_value} is above 1; give SSIM itself, not decibels.")
    return math.inf if ssim_value >= 1 else -10 * math.log10(1 - ssim_value)


def video_psnr_db(original: np.ndarray, decoded: np.ndarray, luma: bool = False) -> np.ndarray:
    """PSNR of each frame, (N,) float64 in dB, over the three channels, or over luma (BT.601, unrounded) alone.

    Raises:
        ConfigError: not two equal shapes of (N, H, W, 3) uint8.
    """
    return _by_chunk(psnr_db, original, decoded, luma)


def video_ssim(original: np.ndarray, decoded: np.ndarray, luma: bool = False) -> np.ndarray:
    """SSIM of each frame, (N,) float64. Raises as `video_psnr_db` and `ssim` do."""
    return _by_chunk(ssim, original, decoded, luma)


def video_ms_ssim(original: np.ndarray, decoded: np.ndarray, luma: bool = False) -> np.ndarray:
    """MS-SSIM of each frame, (N,) float64. Raises as `video_psnr_db` and `ms_ssim` do."""
    return _by_chunk(ms_ssim, original, decoded, luma)


def to_tensor(frames: np.ndarray) -> Tensor:
    """(B, 3, H, W) float32 in [0, 1] of (N, H, W, 3) uint8."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def to_frames(x_BCHW: Tensor) -> np.ndarray:
    """(N, H, W, 3) uint8 of (B, 3, H, W) in [0, 1]: clipped and rounded to nearest."""
    clipped = (x_BCHW.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return clipped.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _by_chunk(score, original: np.ndarray, decoded: np.ndarray, luma: bool) -> np.ndarray:  # type: ignore[no-untyped-def]
    for frames in (original, decoded):
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise ConfigError(f"frames of shape {frames.shape} and type {frames.dtype}: give (N, H, W, 3) uint8.")
    if original.shape != decoded.shape:
        raise ConfigError(f"original {original.shape} and decoded {decoded.shape} differ in shape; score equal frames.")
    step = max(1, _CHUNK_PIXELS // max(1, original.shape[1] * original.shape[2]))
    found = [np.zeros(0)]
    with torch.no_grad():
        for start in range(0, len(original), step):
            x_BCHW, y_BCHW = (to_tensor(frames[start : start + step]) for frames in (original, decoded))
            if luma:
                weights = x_BCHW.new_tensor(_LUMA).view(1, 3, 1, 1)
                x_BCHW, y_BCHW = ((z * weights).sum(1, keepdim=True) for z in (x_BCHW, y_BCHW))
            found.append(score(x_BCHW, y_BCHW).double().numpy())
    return np.concatenate(found)


def _ssim_terms(x_BCHW: Tensor, y_BCHW: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure part, (B, C) each."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean_x, mean_y = _blur(x_BCHW), _blur(y_BCHW)
    xx, yy, xy = mean_x * mean_x, mean_y * mean_y, mean_x * mean_y
    var_x, var_y, cov = _blur(x_BCHW * x_BCHW) - xx, _blur(y_BCHW * y_BCHW) - yy, _blur(x_BCHW * y_BCHW) - xy
    contrast = (2 * cov + c2) / (var_x + var_y + c2)
    full = (2 * xy + c1) / (xx + yy + c1) * contrast
    return full.flatten(2).mean(2), contrast.flatten(2).mean(2)


def _blur(x_BCHW: Tensor) -> Tensor:
    """Gaussian window over the positions where it lies wholly inside."""
    steps = torch.arange(WINDOW, dtype=x_BCHW.dtype, device=x_BCHW.device) - WINDOW // 2
    gauss = torch.exp(-(steps**2) / (2 * SIGMA**2))
    gauss = gauss / gauss.sum()
    channels = x_BCHW.shape[1]
    down = F.conv2d(x_BCHW, gauss.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(down, gauss.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def _check(x_BCHW: Tensor, y_BCHW: Tensor, smallest: int) -> None:
    if x_BCHW.ndim != 4 or x_BCHW.shape != y_BCHW.shape:
        raise ConfigError(
            f"pictures of shape {tuple(x_BCHW.shape)} and {tuple(y_BCHW.shape)}: give two equal (B, C, H, W)."
        )
    if min(x_BCHW.shape[2:]) < smallest:
        raise ConfigError(
            f"pictures of {x_BCHW.shape[3]}x{x_BCHW.shape[2]}: this metric needs sides of at least {smallest} pixels."
        )
