"""The training objective: distortion under simulated packet loss, plus the size of all that is sent.

    minimise  E_mask [ lambda * MSE(decode(y * mask), x) ] + bits per pixel of y

The size is that of the *unmasked* latents: the sender pays for everything that it sends. A packet loss is, thanks to the random
packet map, a mask that keeps each latent element independently (paper, Sec. 3). Side information is not masked: it travels in
every packet.

Shape legend: B batch, C channels, h and w latent positions.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from common.errors import ConfigError

LOSS_RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Simulated loss rates, equally likely (paper)."""
PAPER_MASKED_SHARE = 0.2
"""Share of the samples that see any loss; the others see none (paper)."""

Estimator = Literal["pathwise", "reinforce"]

_LEAST_SCALE = 0.02
_PRIOR = 0.6


def draw_loss_rates(num: int, masked_share: float, generator: torch.Generator) -> Tensor:
    """A loss rate for each sample: 0, or with probability `masked_share` one of `LOSS_RATES`.

    Raises:
        ConfigError: the share is not in [0, 1].
    """
    if not 0 <= masked_share <= 1:
        raise ConfigError(f"masked_share={masked_share} must lie in [0, 1].")
    rates = torch.tensor(LOSS_RATES)[torch.randint(len(LOSS_RATES), (num,), generator=generator)]
    is_masked = torch.rand(num, generator=generator) < masked_share
    return torch.where(is_masked, rates, torch.zeros(()))


def draw_mask(shape: torch.Size, loss_rate_B: Tensor, generator: torch.Generator) -> Tensor:
    """A 0/1 mask that keeps each element of sample b independently with probability 1 - loss_rate_B[b]."""
    loss_rate = loss_rate_B.view(-1, *[1] * (len(shape) - 1))
    return (torch.rand(shape, generator=generator) >= loss_rate).to(torch.float32)


def masked_expectation(
    distortion: Callable[[Tensor], Tensor],
    y: Tensor,
    loss_rate: float,
    num_samples: int,
    generator: torch.Generator,
    estimator: Estimator = "pathwise",
    spread: float = 0.1,
) -> Tensor:
    """A scalar whose gradient with respect to y estimates that of E_mask[distortion(mask * y)].

    "pathwise" draws masks and differentiates through what they keep. The masks' law does not depend on y, so that

        d/dy E_m[D(m y)] = E_m[d/dy D(m y)],

    without bias and with less variance than any score-function estimator. "reinforce" is the estimator that the paper names:
    the received tensor is a random variable, m (y + spread * noise), whose law depends on y; its gradient is
    E[(D - baseline) * d log P / dy] with d log P / dy = m * noise / spread, and needs no gradient of D. The baseline is the mean
    of the other samples. (inferred: the paper's exact formula is not in our sheet.)

    Args:
        distortion: maps a received tensor to a scalar.
        y: the sent tensor.
        loss_rate: probability that an element is lost.
        num_samples: masks drawn; at least 2 for "reinforce".
        generator: of the masks and the noise.
        estimator: see above.
        spread: standard deviation of the noise of "reinforce".
    """
    if estimator not in ("pathwise", "reinforce"):
        raise ConfigError(f"estimator={estimator!r} is not one of pathwise, reinforce.")
    if num_samples < (1 if estimator == "pathwise" else 2):
        raise ConfigError(f"num_samples={num_samples} is too few for the {estimator} estimator.")
    rates = torch.full((num_samples,), loss_rate)
    masks = draw_mask(torch.Size((num_samples, *y.shape)), rates, generator)
    if estimator == "pathwise":
        return torch.stack([distortion(mask * y) for mask in masks]).mean()
    noise = torch.randn(masks.shape, generator=generator)
    with torch.no_grad():
        costs = torch.stack([distortion(mask * (y + spread * e)) for mask, e in zip(masks, noise, strict=True)])
        baseline = (costs.sum() - costs) / (num_samples - 1)
        advantage = (costs - baseline).view(-1, *[1] * y.dim())
        score = advantage * masks * noise / spread
    return (score.mean(dim=0) * y).sum()


def laplace_bits(y: Tensor, scale: Tensor) -> Tensor:
    """Bits of integers under a zero-mean Laplace, continuous in y: P(k) = F(k + 1/2) - F(k - 1/2)."""
    magnitude = y.abs()
    zero = -torch.expm1(-0.5 / scale)
    other = 0.5 * torch.exp(-(magnitude - 0.5).clamp_min(0) / scale) * (-torch.expm1(-1 / scale))
    return -torch.log2(torch.where(magnitude < 0.5, zero, other).clamp_min(1e-7))


def training_bits(y_BChw: Tensor) -> Tensor:
    """Bits of each sample's latents, (B,): what the entropy coder of `grace.entropy` will need, but differentiable.

    As there, an element's scale is its channel's mean magnitude (sent in the header) times the activity around it, estimated
    from latents that the receiver has. Here all latents of the 3x3 neighbourhood count; a packet knows only its own.
    """
    with torch.no_grad():
        rounded = torch.round(y_BChw).abs()
        energy = rounded.sum(dim=1, keepdim=True)
        kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]).view(1, 1, 3, 3) / 16
        local = functional.conv2d(functional.pad(energy, (1, 1, 1, 1), mode="replicate"), kernel)
        mean = energy.mean(dim=(2, 3), keepdim=True)
        activity = (local + _PRIOR * mean) / (mean + _PRIOR * mean).clamp_min(1e-3)
        activity = activity.clamp(0.02, 16.0)
    level = y_BChw.abs().sum(dim=(2, 3), keepdim=True) / activity.sum(dim=(2, 3), keepdim=True)
    scale = (level * activity).clamp_min(_LEAST_SCALE)
    return laplace_bits(y_BChw, scale).sum(dim=(1, 2, 3))
