"""The bundled neural P-frame codec: motion autoencoder, motion compensation, residual transform, quality levels.

    flow - global flow --> encode_motion --> round --> y_m --+--> decode_motion + global flow --> predict(reference) = x_bar
    frame - x_bar ------> encode_residual(level) --> round --> y_r --> decode_residual(level), post filter --> x_hat

All of it runs at 12 kMAC per pixel, so that one CPU core codes a 256x256 frame in tens of milliseconds. `grace.dvc` holds the
paper's full-size codec with the same five methods.

The residual transform comes in two forms: "dct", an 8x8 block transform that starts as the DCT of YCbCr, with small networks on
its latents (the better one); and "gdn", a nonlinear transform of strided convolutions and GDN as in DVC.

# DEVIATION grace-1: a 0.2 M-parameter codec with an 8x8 block transform instead of DVC's 4.75 M parameters

Symbols of the paper: `lambda_` weighs distortion, D, against size, S (its alpha is 1 / lambda); x_bar is `predict`'s result.

Shape legend: B batch, C channels, H and W pixels; V motion and M residual channels; h = H / 8, w = W / 8.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ConfigError

STRIDE = 8
"""Pixels per latent position of the bundled codec, in both directions."""
LAMBDAS = (32.0, 128.0, 512.0, 2048.0, 8192.0)
"""Loss = bits per pixel + lambda * MSE on [0, 1]. The gains of these five anchors are trained; levels lie on and between them."""
LEVELS_PER_ANCHOR = 4
NUM_LEVELS = (len(LAMBDAS) - 1) * LEVELS_PER_ANCHOR + 1
"""Quality levels 0 to 16 (best), for which the networks are trained."""
LOWEST_LEVEL = -8
# DEVIATION grace-14: for budgets under level 0 a coarser quantiser of motion and residual, not motion of a lower resolution
"""Levels below 0 continue the gains of the two lowest anchors, for networks that carry less than level 0: a quantiser that is
coarser still, by a factor of about two at every fourth level. No training saw them."""


def lambda_of(level: Tensor) -> Tensor:
    """Lambda of quality levels, by geometric interpolation between the anchors."""
    logs = torch.tensor([math.log(value) for value in LAMBDAS])
    position = level.float() / LEVELS_PER_ANCHOR
    low = position.floor().long().clamp(0, len(LAMBDAS) - 2)
    share = position - low
    return torch.exp(logs[low] * (1 - share) + logs[low + 1] * share)


@dataclasses.dataclass(frozen=True)
class CodecConfig:
    """Shape of a bundled codec.

    Attributes:
        residual: "dct" or "gdn".
        motion_channels: V.
        luma_channels, chroma_channels: coefficients kept of the 64 of a block, for Y and for each of Cb and Cr ("dct").
        gdn_channels: M of the "gdn" form.
        width: channels of motion compensation and post filter at half resolution.
        latent_width: channels of the networks on latents.
    """

    residual: str = "dct"
    motion_channels: int = 8
    luma_channels: int = 40
    chroma_channels: int = 12
    gdn_channels: int = 40
    width: int = 32
    latent_width: int = 48

    def __post_init__(self) -> None:
        if self.residual not in ("dct", "gdn"):
            raise ConfigError(f"residual={self.residual!r} is not a residual transform. Choose dct or gdn.")

    @property
    def residual_channels(self) -> int:
        """M."""
        return self.luma_channels + 2 * self.chroma_channels if self.residual == "dct" else self.gdn_channels


class Gdn(nn.Module):
    """Generalised divisive normalisation: x / (beta + gamma |x|), or the product for its inverse.

    The simplified form without squares, which trains stably from random weights.
    """

    def __init__(self, channels: int, is_inverse: bool = False) -> None:
        super().__init__()
        self.is_inverse = is_inverse
        self.beta = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(0.1 * torch.eye(channels) + 1e-3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        norm = functional.conv2d(x_BCHW.abs(), self.gamma.abs()[..., None, None], self.beta.abs() + 1e-3)
        return x_BCHW * norm if self.is_inverse else x_BCHW / norm


def warp(image_BCHW: Tensor, flow_B2HW: Tensor) -> Tensor:
    """Sample an image at x + flow(x), bicubic, edges repeated.

    Args:
        flow_B2HW: where each pixel of the result comes from, relative to itself, in pixels, (dx, dy).
    """
    height, width = image_BCHW.shape[2:]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=image_BCHW.dtype, device=image_BCHW.device),
        torch.arange(width, dtype=image_BCHW.dtype, device=image_BCHW.device),
        indexing="ij",
    )
    grid = torch.stack(
        [(x + flow_B2HW[:, 0]) * 2 / (width - 1) - 1, (y + flow_B2HW[:, 1]) * 2 / (height - 1) - 1], dim=-1
    )
    return functional.grid_sample(image_BCHW, grid, mode="bicubic", padding_mode="border", align_corners=True)


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)


def _up(inputs: int, outputs: int, kernel: int = 3) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, kernel, 2, kernel // 2, 1)


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.1)


class SmallCodec(nn.Module):
    """The bundled P-frame codec; see the module. Height and width of frames must be multiples of 8.

    Levels are given per sample as an int64 tensor (B,). Latents come out unrounded: quantising is the caller's business.
    """

    stride = STRIDE
    num_levels = NUM_LEVELS
    lowest_level = LOWEST_LEVEL

    def __init__(self, config: CodecConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CodecConfig()
        V, M, K = config.motion_channels, config.residual_channels, config.width
        anchors = len(LAMBDAS)
        self.motion_encoder = nn.Sequential(
            _conv(2, 24, 3, 2), _leaky(), _conv(24, 24, 3, 2), _leaky(), _conv(24, V, 3, 2)
        )
        self.motion_decoder = nn.Sequential(
            _up(V, 24), _leaky(), _up(24, 24), _leaky(), _up(24, 24), _leaky(), _conv(24, 2)
        )
        self.compensation = nn.Sequential(
            nn.PixelUnshuffle(2),
            _conv(24, K),
            _leaky(),
            _conv(K, K),
            _leaky(),
            _conv(K, K),
            _leaky(),
            _conv(K, 12),
            nn.PixelShuffle(2),
        )
        self.motion_gain = nn.Parameter(torch.full((anchors, V), 1.5) + 0.25 * torch.arange(anchors)[:, None])
        self.motion_regain = nn.Parameter(torch.zeros(anchors, V))
        for network in (self.motion_encoder, self.motion_decoder, self.compensation):
            _initialise(network)
        if config.residual == "dct":
            self._make_dct(config)
            # From 1 = (lambda / 3) * 2 ln 2 * step^2 / 12, the step that a high-rate quantiser wants for each lambda.
            start = -0.5 * torch.log(26.0 / torch.tensor(LAMBDAS))
        else:
            self._make_gdn(config)
            start = 0.35 * torch.log(torch.tensor(LAMBDAS)) - 0.5
        self.residual_gain = nn.Parameter(start[:, None] * torch.ones(anchors, M))
        self.residual_regain = nn.Parameter(torch.zeros(anchors, M))
        self.post_filter = nn.Sequential(
            nn.PixelUnshuffle(2), _conv(24, K), _leaky(), _conv(K, K), _leaky(), _conv(K, 12), nn.PixelShuffle(2)
        )
        with torch.no_grad():
            last = cast(nn.Conv2d, self.compensation[-2])
            last.weight.mul_(0.1)
            last = cast(nn.Conv2d, self.post_filter[-2])
            last.weight.mul_(0.05)
            assert last.bias is not None
            last.bias.zero_()

    def _make_dct(self, config: CodecConfig) -> None:
        M, width = config.residual_channels, config.latent_width
        analysis, synthesis = _dct_filters(config.luma_channels, config.chroma_channels)
        self.analysis: nn.Module = nn.Conv2d(3, M, 8, 8, bias=False)
        self.synthesis: nn.Module = nn.ConvTranspose2d(M, 3, 8, 8, bias=False)
        with torch.no_grad():
            self.analysis.weight.copy_(torch.from_numpy(analysis))
            self.synthesis.weight.copy_(torch.from_numpy(synthesis))
        self.latent_encoder: nn.Module | None = nn.Sequential(_conv(M, width), _leaky(), _conv(width, M))
        self.latent_decoder: nn.Module | None = nn.Sequential(
            _conv(M, width), _leaky(), _conv(width, width), _leaky(), _conv(width, M)
        )
        for network in (self.latent_encoder, self.latent_decoder):
            for parameter in network[-1].parameters():
                nn.init.zeros_(parameter)

    def _make_gdn(self, config: CodecConfig) -> None:
        M, N = config.residual_channels, 32
        self.analysis = nn.Sequential(
            _conv(3, N, 5, 2), Gdn(N), _conv(N, N + 16, 5, 2), Gdn(N + 16), _conv(N + 16, M, 5, 2)
        )
        self.synthesis = nn.Sequential(
            _up(M, N + 16, 5), Gdn(N + 16, True), _up(N + 16, N, 5), Gdn(N, True), _up(N, 3, 5)
        )
        with torch.no_grad():
            cast(nn.ConvTranspose2d, self.synthesis[-1]).weight.mul_(0.1)
        self.latent_encoder = None
        self.latent_decoder = None

    def encode_motion(self, flow_B2HW: Tensor, level_B: Tensor) -> Tensor:
        """Latents of the flow that the global motion leaves, (B, V, h, w)."""
        return cast(Tensor, self.motion_encoder(flow_B2HW * 0.5)) * _gain(self.motion_gain, level_B)

    def decode_motion(self, y_BVhw: Tensor, level_B: Tensor) -> Tensor:
        """The flow of rounded (and possibly masked) motion latents, without global motion, (B, 2, H, W), pixels."""
        scaled = y_BVhw * _gain(-(self.motion_gain + self.motion_regain), level_B)
        return cast(Tensor, self.motion_decoder(scaled)) * 2

    def predict(self, reference_B3HW: Tensor, flow_B2HW: Tensor) -> tuple[Tensor, Tensor]:
        """Motion compensation: the prediction, and the warped reference that it starts from."""
        warped = warp(reference_B3HW, flow_B2HW)
        return warped + self.compensation(torch.cat([warped, reference_B3HW], dim=1)), warped

    def encode_residual(self, residual_B3HW: Tensor, level_B: Tensor) -> Tensor:
        """Latents of frame minus prediction, (B, M, h, w)."""
        y = cast(Tensor, self.analysis(residual_B3HW)) * _gain(self.residual_gain, level_B)
        return y if self.latent_encoder is None else y + self.latent_encoder(y)

    def decode_residual(self, y_BMhw: Tensor, level_B: Tensor, prediction_B3HW: Tensor) -> Tensor:
        """The frame from rounded (and possibly masked) residual latents and the prediction, (B, 3, H, W), not clipped."""
        if self.latent_decoder is not None:
            y_BMhw = y_BMhw + self.latent_decoder(y_BMhw)
        scaled = y_BMhw * _gain(-(self.residual_gain + self.residual_regain), level_B)
        x = prediction_B3HW + self.synthesis(scaled)
        if self.config.residual == "gdn":
            return x
        return x + cast(Tensor, self.post_filter(torch.cat([x, prediction_B3HW], dim=1)))

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters that only the sender's encoder uses: what GRACE-D leaves frozen, gains included."""
        modules: list[Any] = [self.motion_encoder, self.analysis, self.latent_encoder]
        found = [parameter for module in modules if module is not None for parameter in module.parameters()]
        return [*found, self.motion_gain, self.residual_gain]


def _gain(log_gain_AC: Tensor, level_B: Tensor) -> Tensor:
    """exp of the log gains at the levels, interpolated between anchors and continued below the lowest, (B, C, 1, 1)."""
    position = level_B.to(log_gain_AC.dtype) / LEVELS_PER_ANCHOR
    low = position.floor().long().clamp(0, len(LAMBDAS) - 2)
    share = (position - low)[:, None]
    return torch.exp(log_gain_AC[low] * (1 - share) + log_gain_AC[low + 1] * share)[..., None, None]


def _initialise(network: nn.Sequential) -> None:
    # With PyTorch's default the motion latents stay near 0.05, all round to zero, and the autoencoder never starts to learn.
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            fan = layer.weight[0].numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            fan = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1] // 4
        else:
            continue
        nn.init.normal_(layer.weight, 0.0, math.sqrt(1.9 / fan))
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


def zigzag(size: int = 8) -> list[tuple[int, int]]:
    """Index pairs of a block's coefficients from low to high frequency."""
    pairs = [(u, v) for u in range(size) for v in range(size)]
    return sorted(pairs, key=lambda pair: (sum(pair), pair[0] if sum(pair) % 2 else pair[1]))


def _dct_filters(luma: int, chroma: int) -> tuple[np.ndarray, np.ndarray]:
    k = np.arange(8)
    basis = np.cos((2 * k[None] + 1) * k[:, None] * np.pi / 16) * 0.5
    basis[0] /= math.sqrt(2)
    to_ycc = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
    to_rgb = np.linalg.inv(to_ycc)
    analysis, synthesis = [], []
    for plane, count in ((0, luma), (1, chroma), (2, chroma)):
        for u, v in zigzag()[:count]:
            pattern = np.outer(basis[u], basis[v])
            analysis.append(to_ycc[plane][:, None, None] * pattern)
            synthesis.append(to_rgb[:, plane][:, None, None] * pattern)
    return np.array(analysis, dtype=np.float32), np.array(synthesis, dtype=np.float32)


def straight_through(values: Tensor, quantise: Callable[[Tensor], Tensor]) -> Tensor:
    """Quantised values whose gradient is that of the values themselves."""
    return values + (quantise(values) - values).detach()


DEAD_ZONE = 0.1
"""Residual latents are rounded towards zero by this much: with peaked distributions a zero is worth its distortion."""


def quantise_motion(y: Tensor) -> Tensor:
    """Motion latents to integers."""
    return torch.round(y)


def quantise_residual(y: Tensor) -> Tensor:
    """Residual latents to integers, with a dead zone: sign(y) floor(|y| + 1/2 - DEAD_ZONE)."""
    return torch.sign(y) * torch.floor(y.abs() + (0.5 - DEAD_ZONE))
