"""The paper's full-size base codec, DVC (Lu et al., CVPR 2019): 4.75 M parameters, about 700 kMAC per pixel to encode.

    flow = SpyNet(frame, reference)                                4 pyramid levels, five 7x7 convolutions each
    flow --> motion encoder (stride 16, 128 channels) --> round --> motion decoder
    reference --> warp --> compensation (U-net of residual blocks) --> prediction
    frame - prediction --> residual encoder (GDN, stride 16, 96 channels) --> round --> residual decoder

Layers, channels and parameter counts are those of the sheet (2.2). It has the methods of `grace.networks.SmallCodec`, so that
`grace.codec.NeuralCodec` and everything above it take it; one network is one quality level. It needs a GPU to be of use and comes
without weights: none may be redistributed, and training it takes days.

    network = DvcCodec()
    codec = NeuralCodec(network, *untrained_scales(network))
"""

import itertools
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from grace.entropy import pack_usual
from grace.networks import warp

_MOTION = 128
_RESIDUAL = 96
_PYRAMID = 4


class SquaredGdn(nn.Module):
    """x / sqrt(beta + gamma x^2), or the product for its inverse; both parameters are kept as square roots with an offset."""

    _OFFSET = 2.0**-18
    _LEAST_BETA = 1e-6

    def __init__(self, channels: int, is_inverse: bool = False) -> None:
        super().__init__()
        self.is_inverse = is_inverse
        pedestal = self._OFFSET**2
        self.beta = nn.Parameter(torch.sqrt(torch.ones(channels) + pedestal))
        self.gamma = nn.Parameter(torch.sqrt(0.1 * torch.eye(channels) + pedestal))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        pedestal = self._OFFSET**2
        beta = self.beta.clamp_min((self._LEAST_BETA + pedestal) ** 0.5) ** 2 - pedestal
        gamma = self.gamma.clamp_min(self._OFFSET) ** 2 - pedestal
        norm = torch.sqrt(functional.conv2d(x_BCHW**2, gamma[..., None, None], beta))
        return x_BCHW * norm if self.is_inverse else x_BCHW / norm


class SpyNet(nn.Module):
    """Flow by residual refinement over a pyramid."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (8, 32, 64, 32, 16, 2)

        def level() -> nn.Sequential:
            layers: list[nn.Module] = []
            for inputs, outputs in itertools.pairwise(sizes):
                layers += [nn.Conv2d(inputs, outputs, 7, padding=3), nn.ReLU()]
            return nn.Sequential(*layers[:-1])

        self.levels = nn.ModuleList(level() for _ in range(_PYRAMID))

    def forward(self, frame_B3HW: Tensor, reference_B3HW: Tensor) -> Tensor:
        """Flow from the frame into the reference, (B, 2, H, W), pixels. Height and width must be multiples of 16."""
        frames, references = [frame_B3HW], [reference_B3HW]
        for _ in range(_PYRAMID - 1):
            frames.insert(0, functional.avg_pool2d(frames[0], 2))
            references.insert(0, functional.avg_pool2d(references[0], 2))
        batch, _, height, width = frames[0].shape
        flow = frame_B3HW.new_zeros(batch, 2, height // 2, width // 2)
        for network, frame, reference in zip(self.levels, frames, references, strict=True):
            flow = functional.interpolate(flow, frame.shape[2:], mode="bilinear", align_corners=False) * 2
            flow = flow + network(torch.cat([frame, warp(reference, flow), flow], dim=1))
        return flow


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.second(functional.relu(self.first(functional.relu(x)))))


class Compensation(nn.Module):
    """A small U-net on the warped reference and the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(6, 64, 3, padding=1)
        self.blocks = nn.ModuleList(_Residual() for _ in range(6))
        self.leave = nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, x_B6HW: Tensor) -> Tensor:
        def up(x: Tensor) -> Tensor:
            return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

        top = self.blocks[0](functional.relu(self.enter(x_B6HW)))
        middle = self.blocks[1](functional.avg_pool2d(top, 2))
        bottom = self.blocks[3](self.blocks[2](functional.avg_pool2d(middle, 2)))
        middle = self.blocks[4](middle + up(bottom))
        return cast(Tensor, self.leave(self.blocks[5](top + up(middle))))


class DvcCodec(nn.Module):
    """See the module. Height and width of frames must be multiples of 16."""

    stride = 16
    num_levels = 1
    lowest_level = 0

    def __init__(self) -> None:
        super().__init__()
        self.spynet = SpyNet()
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for index in range(8):
            inputs = 2 if index == 0 else _MOTION
            outputs = 2 if index == 7 else _MOTION
            down += [nn.Conv2d(inputs, _MOTION, 3, 2 - index % 2, 1), nn.LeakyReLU(0.1)]
            if index % 2 == 0:
                up += [nn.ConvTranspose2d(_MOTION, outputs, 3, 2, 1, 1), nn.LeakyReLU(0.1)]
            else:
                up += [nn.Conv2d(_MOTION, outputs, 3, 1, 1), nn.LeakyReLU(0.1)]
        self.motion_encoder = nn.Sequential(*down[:-1])
        self.motion_decoder = nn.Sequential(*up[:-1])
        self.compensation = Compensation()
        self.residual_encoder = nn.Sequential(
            nn.Conv2d(3, 64, 5, 2, 2),
            SquaredGdn(64),
            nn.Conv2d(64, 64, 5, 2, 2),
            SquaredGdn(64),
            nn.Conv2d(64, 64, 5, 2, 2),
            SquaredGdn(64),
            nn.Conv2d(64, _RESIDUAL, 5, 2, 2),
        )
        self.residual_decoder = nn.Sequential(
            nn.ConvTranspose2d(_RESIDUAL, 64, 5, 2, 2, 1),
            SquaredGdn(64, True),
            nn.ConvTranspose2d(64, 64, 5, 2, 2, 1),
            SquaredGdn(64, True),
            nn.ConvTranspose2d(64, 64, 5, 2, 2, 1),
            SquaredGdn(64, True),
            nn.ConvTranspose2d(64, 3, 5, 2, 2, 1),
        )
        # The hyper-prior gives element-wise scales in training without packets; packets carry scales of their own instead.
        self.prior_encoder = nn.Sequential(
            nn.Conv2d(_RESIDUAL, 64, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 5, 2, 2),
        )
        self.prior_decoder = nn.Sequential(
            nn.ConvTranspose2d(64, 64, 5, 2, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 64, 5, 2, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, _RESIDUAL, 3, 1, 1),
        )

    def estimate_flow(self, frame_B3HW: Tensor, reference_B3HW: Tensor) -> Tensor:
        """Motion by SpyNet, (B, 2, H, W), pixels."""
        return cast(Tensor, self.spynet(frame_B3HW, reference_B3HW))

    def encode_motion(self, flow_B2HW: Tensor, level_B: Tensor) -> Tensor:
        """Latents of the flow, (B, 128, H / 16, W / 16)."""
        return cast(Tensor, self.motion_encoder(flow_B2HW))

    def decode_motion(self, y: Tensor, level_B: Tensor) -> Tensor:
        """The flow of rounded motion latents, (B, 2, H, W)."""
        return cast(Tensor, self.motion_decoder(y))

    def predict(self, reference_B3HW: Tensor, flow_B2HW: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction, and the warped reference that it starts from."""
        warped = warp(reference_B3HW, flow_B2HW)
        return warped + cast(Tensor, self.compensation(torch.cat([warped, reference_B3HW], dim=1))), warped

    def encode_residual(self, residual_B3HW: Tensor, level_B: Tensor) -> Tensor:
        """Latents of frame minus prediction, (B, 96, H / 16, W / 16)."""
        return cast(Tensor, self.residual_encoder(residual_B3HW))

    def decode_residual(self, y: Tensor, level_B: Tensor, prediction_B3HW: Tensor) -> Tensor:
        """The frame from rounded residual latents and the prediction."""
        return prediction_B3HW + cast(Tensor, self.residual_decoder(y))

    def residual_scales(self, y: Tensor) -> Tensor:
        """The hyper-prior's element-wise Laplace scales, (B, 96, h, w); latent height and width must be multiples of 4."""
        z = torch.round(self.prior_encoder(y.abs()))
        return torch.exp(self.prior_decoder(z))


def untrained_scales(network: DvcCodec) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tables of usual scales for `NeuralCodec` before any were measured."""
    motion, residual = (pack_usual(np.full(c, 14), np.full(c, 0.3)) for c in (_MOTION, _RESIDUAL))
    return np.tile(motion, (network.num_levels, 1)), np.tile(residual, (network.num_levels, 1))
