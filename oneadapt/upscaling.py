"""Super-resolution at the server: small pictures are sent, a network enlarges them, the task's network analyses the result.

CloudSeg keeps the enlarging network as it was trained. OneAdapt treats its weights as the knob: after each interval, one step
along the gradient of the task's utility, through the task's network into the enlarging one. The camera does nothing for it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import ConfigError
from oneadapt.api import METHODS, Feedback, Knobs, Segment
from oneadapt.baselines import Fixed
from oneadapt.knobs import resize
from oneadapt.session import Application

QPS = (30, 34, 38, 42, 46)


class Enlarger(nn.Module):
    """Twice the size: bilinear, plus a correction from three convolutions (sub-pixel), 5 k to 6 k parameters."""

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 5, 1, 2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(width, 4 * channels, 3, 1, 1),
            nn.PixelShuffle(2),
        )
        last = self.layers[4]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Pictures in 0..1 to pictures of twice the size."""
        plain = F.interpolate(x_BCHW, scale_factor=2, mode="bilinear", align_corners=False)
        enlarged: Tensor = plain + self.layers(x_BCHW)
        return enlarged.clamp(0, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """An enlarging network at one moment: the value of the knob. Two are equal only if they are the same object."""

    network: Enlarger | None

    def enlarge(self, frames: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Pictures (N, h, w[, C]) at (width, height)."""
        if self.network is None:
            return resize(frames, size, is_shrinking=False)
        x = frames if frames.ndim == 4 else frames[..., None]
        with torch.inference_mode():
            y = self.network(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32) / 255))
        y = np.rint(y.numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        return resize(y if frames.ndim == 4 else y[..., 0], size, is_shrinking=False)


BILINEAR = Weights(None)
FULL_SIZE = "full size"


@dataclasses.dataclass(frozen=True)
class Upscaler:
    """Send pictures whole, or at half size with weights that enlarge them; a value is FULL_SIZE or a `Weights`."""

    values: Sequence[Any] = (FULL_SIZE, BILINEAR)
    name: str = "upscaler"

    def prepare(self, segment: Segment, value: Any) -> Segment:
        """Halve width and height."""
        if value == FULL_SIZE:
            return segment
        height, width = segment.data.shape[1:3]
        return segment.with_(data=resize(segment.data, (width // 4 * 2, height // 4 * 2), is_shrinking=True))

    def restore(self, segment: Segment, value: Any, like: Segment) -> Segment:
        """Enlarge."""
        if value == FULL_SIZE:
            return segment
        height, width = like.data.shape[1:3]
        return segment.with_(data=value.enlarge(segment.data, (width, height)))


def _weights(application: Application, who: str) -> Weights:
    weights = application.extra.get("enlarger")
    if not isinstance(weights, Weights) or weights.network is None:
        raise ConfigError(f"{who} needs an enlarging network; make one with oneadapt.upscaling.train_enlarger.")
    return weights


@METHODS.add("cloudseg", label="CloudSeg", color="#D55E00", marker="s")
@dataclasses.dataclass(frozen=True)
class CloudSeg:
    """Half size, and a fixed network that enlarges.

    Attributes:
        qp: quantiser of the small pictures.
    """

    qp: int = 30

    pipeline: ClassVar[str] = "upscaling"
    sweep: ClassVar[tuple[str, tuple[int, ...]]] = ("qp", QPS)

    def controller(self, application: Application) -> Fixed:
        """See `oneadapt.api.Method.controller`."""
        return Fixed({**application.best, "qp": self.qp, "upscaler": _weights(application, "cloudseg")})


@METHODS.add("bilinear", label="Half size, bilinear", color="#7F7F7F", marker="v")
@dataclasses.dataclass(frozen=True)
class Bilinear:
    """Half size, enlarged without a network.

    Attributes:
        qp: quantiser of the small pictures.
    """

    qp: int = 30

    pipeline: ClassVar[str] = "upscaling"
    sweep: ClassVar[tuple[str, tuple[int, ...]]] = ("qp", QPS)

    def controller(self, application: Application) -> Fixed:
        """See `oneadapt.api.Method.controller`."""
        return Fixed({**application.best, "qp": self.qp, "upscaler": BILINEAR})


@METHODS.add("full_size", label="Full size", color="#333333", marker="P")
@dataclasses.dataclass(frozen=True)
class FullSize:
    """Pictures as they are.

    Attributes:
        qp: quantiser.
    """

    qp: int = 30

    pipeline: ClassVar[str] = "upscaling"
    sweep: ClassVar[tuple[str, tuple[int, ...]]] = ("qp", QPS)

    def controller(self, application: Application) -> Fixed:
        """See `oneadapt.api.Method.controller`."""
        return Fixed({**application.best, "qp": self.qp, "upscaler": FULL_SIZE})


@METHODS.add("oneadapt_upscaling", label="OneAdapt (SR weights)", color="#0072B2", marker="o")
@dataclasses.dataclass(frozen=True)
class OneAdaptUpscaling:
    """Half size, and a network that enlarges and follows the gradient of the task's utility.

    Attributes:
        qp: quantiser of the small pictures.
        rate: learning rate, 7e-4 in the official code.
        max_drift: the weights move at most this far from where they were trained, relative to their norm.
    """

    qp: int = 30
    rate: float = 7e-4
    max_drift: float = 0.1

    pipeline: ClassVar[str] = "upscaling"
    sweep: ClassVar[tuple[str, tuple[int, ...]]] = ("qp", QPS)

    def __post_init__(self) -> None:
        if not self.rate > 0 or not self.max_drift > 0:
            raise ConfigError(f"rate={self.rate} and max_drift={self.max_drift} must be > 0.")

    def controller(self, application: Application) -> "UpscalingController":
        """See `oneadapt.api.Method.controller`."""
        return UpscalingController(self, application)


class UpscalingController:
    """One forward and backward of the last frame per interval, through both networks."""

    def __init__(self, method: OneAdaptUpscaling, application: Application) -> None:
        self.method = method
        self.application = application
        start = _weights(application, "oneadapt_upscaling").network
        assert start is not None
        self.start = [p.detach().clone() for p in start.parameters()]
        self.network = _copy(start)
        self.optimiser = torch.optim.Adam(self.network.parameters(), method.rate)

    def next_knobs(self, feedback: Feedback) -> Knobs:
        """See `oneadapt.api.KnobController.next_knobs`."""
        if feedback.delivery is not None:
            self._learn(feedback)
        value = Weights(_copy(self.network).eval())
        return {**self.application.best, "qp": self.method.qp, "upscaler": value}

    def _learn(self, feedback: Feedback) -> None:
        assert feedback.delivery is not None
        # What the server received: the small picture, as the camera's own decoder sees it too.
        small = feedback.camera.encode_last({**feedback.delivery.knobs, "upscaler": _SMALL})
        x = torch.from_numpy(small.x.transpose(0, 3, 1, 2).copy())
        feedback.server.charge_backward()
        u = self.application.task.differentiable_utility(self.network(x))
        self.optimiser.zero_grad()
        (-u).backward()
        self.optimiser.step()
        with torch.no_grad():
            for p, start in zip(self.network.parameters(), self.start, strict=True):
                drift, bound = (p - start).norm(), self.method.max_drift * start.norm() + 1e-3
                if drift > bound:
                    p.copy_(start + (p - start) * (bound / drift))


class _Small(Weights):
    """Leaves the picture small: what the server received."""

    def enlarge(self, frames: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The pictures as they are."""
        return frames


_SMALL = _Small(None)


def _copy(network: Enlarger) -> Enlarger:
    copy = Enlarger(network.channels)
    copy.load_state_dict(network.state_dict())
    return copy


def train_enlarger(
    application: Application,
    clips: Sequence[Sequence[npt.NDArray[Any]]],
    rng: np.random.Generator,
    *,
    steps: int = 300,
    qp: int = 30,
) -> Weights:
    """Train an enlarging network on profile clips: small pictures as decoded, against the best setting, by mean error."""
    small: list[Any] = []
    large: list[Any] = []
    for clip in clips:
        for data in clip:
            for one, where in ((_SMALL, small), (FULL_SIZE, large)):
                knobs = {**application.best, "upscaler": one} | ({"qp": qp} if one is _SMALL else {})
                where.append(application.encode(data[-2:], knobs).x)
    x = torch.from_numpy(np.concatenate(small).transpose(0, 3, 1, 2).copy())
    y = torch.from_numpy(np.concatenate(large).transpose(0, 3, 1, 2).copy())
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(int(rng.integers(2**31)))
        network = Enlarger(x.shape[1])
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(steps):
        pick = torch.from_numpy(rng.integers(0, len(x), 4))
        loss = (network(x[pick]) - y[pick]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Weights(network.eval())
