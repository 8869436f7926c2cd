"""Accuracy gradients: how much each macroblock's quality matters to the accuracy of the server's DNN.

With a smooth stand-in Acc for the DNN's accuracy, `Hq` and `Lq` the frame at high and at low quality:

    paper      AccGrad_B = sum over pixels i of block B of  || dAcc/dX_i at Lq ||_1 * || Hq_i - Lq_i ||_1
    official   AccGrad_B = sum over pixels i of block B of  || dScore/dX_i at Hq ||_1

The first is the paper's formula (the first-order bound of the accuracy gained by coding B at high quality). The second is what
the official code trains on: the gradient of the summed confident scores, at the high-quality frame, without the difference.
Norms are over the three colour channels; pixels are in [0, 1]. One forward and backward pass gives all blocks of a frame.

Shapes: B batch, H and W pixels, R and C rows and columns of macroblocks.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from common.codecs.maps import MACROBLOCK
from common.errors import ConfigError

Target = Literal["paper", "official"]
TARGETS: tuple[str, ...] = ("paper", "official")
Score = Callable[[Tensor], Tensor]
"""A differentiable score of images (B, 3, H, W) in [0, 1]: (B,), image by image."""


def check_target(target: str) -> None:
    """Raises ConfigError unless it is "paper" or "official"."""
    if target not in TARGETS:
        raise ConfigError(f"target={target!r} is not an accuracy gradient. Choose one of {', '.join(TARGETS)}.")


def block_sums(values_BHW: Tensor) -> Tensor:
    """Sums over macroblocks, (B, ceil(H/16), ceil(W/16)); a partial block at the edge sums what it has."""
    height, width = values_BHW.shape[-2:]
    padded = functional.pad(values_BHW, (0, -width % MACROBLOCK, 0, -height % MACROBLOCK))
    return functional.avg_pool2d(padded[:, None], MACROBLOCK)[:, 0] * MACROBLOCK**2


def pixel_gradient(score: Score, images_B3HW: Tensor) -> Tensor:
    """L1 norm over channels of the score's gradient, per pixel: (B, H, W), >= 0. Leaves parameters' gradients alone."""
    with torch.enable_grad():
        images = images_B3HW.detach().clone().requires_grad_()
        total = score(images).sum()
        if not total.requires_grad:  # nothing scored: the score does not depend on the picture
            return torch.zeros_like(images_B3HW[:, 0])
        (gradient,) = torch.autograd.grad(total, images, allow_unused=True)
    return torch.zeros_like(images_B3HW[:, 0]) if gradient is None else gradient.abs().sum(1)


def accuracy_gradient(score: Score, low_B3HW: Tensor, high_B3HW: Tensor) -> Tensor:
    """The paper's formula: (B, R, C), >= 0, and 0 where both qualities are the same.

    Args:
        score: the differentiable accuracy of images against the DNN's output on `high_B3HW`.
        low_B3HW, high_B3HW: the frames at low and high quality, in [0, 1], same shape.
    """
    if low_B3HW.shape != high_B3HW.shape:
        raise ConfigError(f"frames of shapes {tuple(low_B3HW.shape)} and {tuple(high_B3HW.shape)} must be the same.")
    difference = (high_B3HW - low_B3HW).abs().sum(1)
    return block_sums(pixel_gradient(score, low_B3HW) * difference)


def score_gradient(score: Score, high_B3HW: Tensor) -> Tensor:
    """The official code's variant: (B, R, C), >= 0.

    Args:
        score: the summed confident scores of the DNN's output.
    """
    return block_sums(pixel_gradient(score, high_B3HW))
