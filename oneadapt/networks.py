"""The small networks that OneAdapt's own inputs are analysed by, and how their weights are stored.

    MapNet     picture or range image -> class scores for every second pixel (centres of objects, or classes of pixels)
    SoundNet   log-mel spectrogram of half a second -> which of eleven sounds

Weights are safetensors in `oneadapt/weights/`, made by `python -m oneadapt.train`; `MODELS.md` there is the card.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.signal import get_window
from torch import Tensor, nn
from torch.nn import functional as F

from common.cache import sha256_of_file
from common.errors import DataUnavailable
from oneadapt.worlds import SAMPLE_RATE_HZ, WORD_SAMPLES

# B batch, C channels, H rows, W columns

WEIGHTS = Path(__file__).parent / "weights"


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class MapNet(nn.Module):
    """A U-Net of 80 k parameters: input (B, C, H, W), output logits (B, classes, H / 2, W / 2).

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        width: channels of the first stage.
    """

    def __init__(self, inputs: int, outputs: int, width: int = 12) -> None:
        super().__init__()
        self.settings = {"inputs": inputs, "outputs": outputs, "width": width}
        self.stem = _block(inputs, width, 2)
        self.down1 = nn.Sequential(_block(width, 2 * width, 2), _block(2 * width, 2 * width))
        self.down2 = nn.Sequential(_block(2 * width, 3 * width, 2), _block(3 * width, 3 * width))
        self.down3 = nn.Sequential(_block(3 * width, 4 * width, 2), _block(4 * width, 4 * width))
        self.up2 = _block(4 * width + 3 * width, 3 * width)
        self.up1 = _block(3 * width + 2 * width, 2 * width)
        self.up0 = _block(2 * width + width, 2 * width)
        self.head = nn.Conv2d(2 * width, outputs, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits at half the resolution."""
        s0 = self.stem(x_BCHW)
        s1 = self.down1(s0)
        s2 = self.down2(s1)
        s3 = self.down3(s2)
        y = self.up2(torch.cat([_to(s3, s2), s2], 1))
        y = self.up1(torch.cat([_to(y, s1), s1], 1))
        y = self.up0(torch.cat([_to(y, s0), s0], 1))
        logits: Tensor = self.head(y)
        return logits


def _to(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


class SoundNet(nn.Module):
    """A CNN of 50 k parameters over a log-mel spectrogram (B, 1, mels, frames); logits over sounds and silence (B, classes)."""

    def __init__(self, outputs: int, width: int = 16) -> None:
        super().__init__()
        self.settings = {"outputs": outputs, "width": width}
        self.layers = nn.Sequential(
            _block(1, width),
            nn.MaxPool2d(2),
            _block(width, 2 * width),
            nn.MaxPool2d(2),
            _block(2 * width, 3 * width),
            nn.MaxPool2d(2),
            _block(3 * width, 3 * width),
        )
        self.head = nn.Linear(6 * width, outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, classes)."""
        y = self.layers(x_BCHW)
        logits: Tensor = self.head(torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1))
        return logits


NUM_MELS = 40
_HOP, _WINDOW = 160, 400


def _mel_filters() -> npt.NDArray[np.float32]:
    mel = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700), NUM_MELS + 2)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    bins = np.arange(_WINDOW // 2 + 1) * SAMPLE_RATE_HZ / _WINDOW
    rising = (bins - hertz[:-2, None]) / (hertz[1:-1] - hertz[:-2])[:, None]
    falling = (hertz[2:, None] - bins) / (hertz[2:] - hertz[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


_MELS = _mel_filters()
_TAPER = get_window("hann", _WINDOW).astype(np.float32)


def log_mel(wave: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Log-mel spectrogram of half-second pieces: (N * 8000,) samples -> (N, 40 mels, 48 frames), about zero mean, unit spread."""
    words = wave.reshape(-1, WORD_SAMPLES)
    starts = np.arange(0, WORD_SAMPLES - _WINDOW + 1, _HOP)
    frames = words[:, starts[:, None] + np.arange(_WINDOW)] * _TAPER
    power = np.abs(np.fft.rfft(frames, axis=-1)).astype(np.float32) ** 2
    energy = np.log(power @ _MELS.T + 1e-3)
    return np.ascontiguousarray((energy.transpose(0, 2, 1) + 2.0) / 4.0)


_KINDS: dict[str, type[nn.Module]] = {"MapNet": MapNet, "SoundNet": SoundNet}


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A network ready for inference, and the SHA-256 of its file."""

    network: nn.Module
    sha256: str


def save(network: Any, path: Path, notes: dict[str, str]) -> None:
    """Write weights with what is needed to build the network again."""
    kind = type(network).__name__
    settings = json.dumps(network.settings, sort_keys=True)
    tensors = {
        name: tensor.contiguous() for name, tensor in network.state_dict().items() if tensor.dtype.is_floating_point
    }
    save_file(tensors, path, metadata={"kind": kind, "settings": settings, **notes})
    path.chmod(0o644)  # safetensors makes files that only their owner can read


def load(name: str, folder: Path = WEIGHTS) -> Loaded:
    """The network `name` in inference mode.

    Raises:
        DataUnavailable: there is no such file, or it holds something else.
    """
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise DataUnavailable(f"weights {path} are missing; `python -m oneadapt.train {name}` makes them in minutes.")
    with safe_open(path, framework="pt") as file:
        facts = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    if facts.get("kind") not in _KINDS:
        raise DataUnavailable(f"{path} holds {facts.get('kind')!r}, not one of {', '.join(_KINDS)}.")
    network = _KINDS[facts["kind"]](**json.loads(facts["settings"]))
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    # Counters of batches are integers and are not stored.
    if unexpected or any(not key.endswith("num_batches_tracked") for key in missing):
        raise DataUnavailable(f"{path} does not fit its network: missing {missing}, unexpected {unexpected}.")
    return Loaded(network.eval(), sha256_of_file(path))
