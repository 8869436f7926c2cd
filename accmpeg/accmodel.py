"""AccModel: a small network that predicts on the camera which macroblocks need high quality.

    RGB (H, W) -> 4x4 patches -> separable blocks at stride 4, 8 -> separable blocks at stride 16 -> 2 logits per macroblock

`probabilities` is the paper's p. Weights travel as safetensors with their settings in the file's metadata.

Shapes: B batch, H and W pixels, R = ceil(H/16) and C = ceil(W/16) macroblocks.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from accmpeg.api import Frames
from common.codecs.maps import MACROBLOCK
from common.errors import ConfigError, DataUnavailable

FORMAT = "accmpeg accmodel 1"


@dataclasses.dataclass(frozen=True)
class AccModelSettings:
    """What a network is.

    Attributes:
        width: channels at stride 4; the others follow. 16 gives about 10 k parameters.
        depth: separable blocks at stride 16.
        detector: name of the DNN that it was trained for.
        target: "paper" or "official" accuracy gradient, see `accmpeg.accgrad`.
        qp_hi, qp_lo: the two qualities of its training.
        threshold: accuracy gradient above which a macroblock was a positive.
    """

    width: int = 16
    depth: int = 2
    detector: str = ""
    target: str = "paper"
    qp_hi: int = 30
    qp_lo: int = 40
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 4 or self.depth < 1:
            raise ConfigError(f"AccModel of width {self.width} and depth {self.depth}: need >= 4 and >= 1.")


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class AccModel(nn.Module):
    """See the module's docstring.

    Args:
        settings: what to build; weights are random until loaded or trained.
    """

    # DEVIATION accmpeg-1: a separable network of 25 k parameters instead of a MobileNetV2-SSD extractor with a head.
    def __init__(self, settings: AccModelSettings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.width
        blocks = [
            nn.Sequential(nn.Conv2d(3, width, 4, 4, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            _separable(width, 2 * width, 2),
            _separable(2 * width, 3 * width, 2),
            *(_separable(3 * width, 3 * width) for _ in range(settings.depth)),
        ]
        self.body = nn.Sequential(*blocks)
        self.head = nn.Conv2d(3 * width, 2, 1)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Logits, (B, 2, R, C), of images in [0, 1]; sizes that are no multiple of 16 are padded by replication."""
        height, width = images_B3HW.shape[-2:]
        below, right = -height % MACROBLOCK, -width % MACROBLOCK
        if below or right:
            images_B3HW = functional.pad(images_B3HW, (0, right, 0, below), mode="replicate")
        logits: Tensor = self.head(self.body((images_B3HW - 0.45) * 4.0))
        return logits

    @torch.inference_mode()
    def probabilities(self, frames: Frames) -> npt.NDArray[np.float32]:
        """p of frames (N, H, W, 3), uint8 RGB: (N, R, C). The network must be in eval mode (`load`, `fused` see to it)."""
        # The official code leaves batch statistics on at run time, so that a frame's result depends on what ran before it.
        assert not self.training, "call eval() first"
        images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float().div_(255)
        return np.asarray(self.forward(images).softmax(1)[:, 1].numpy())

    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def multiply_adds(self, height: int, width: int) -> int:
        """Multiply-adds of one frame, counted layer by layer."""
        total = 0
        hooks = []

        def count(module: Any, _inputs: Any, output: Tensor) -> None:
            nonlocal total
            total += output[0].numel() * module.weight[0].numel()

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                hooks.append(module.register_forward_hook(count))
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            self.forward(torch.zeros(1, 3, height, width))
        self.train(was_training)
        for hook in hooks:
            hook.remove()
        return total

    def fused(self) -> "AccModel":
        """A copy for inference, in eval mode, with normalisation folded into the convolutions: same outputs, faster."""
        copy = AccModel(self.settings)
        copy.load_state_dict(self.state_dict())
        copy.eval()
        for block in copy.body:
            assert isinstance(block, nn.Sequential)
            for place in range(len(block) - 1):
                convolution, norm = block[place], block[place + 1]
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    block[place] = fuse_conv_bn_eval(convolution, norm)
                    block[place + 1] = nn.Identity()
        return copy


def save(model: AccModel, path: Path) -> None:
    """Write weights and settings as one safetensors file."""
    from safetensors.torch import save_file

    from common.cache import atomic_file

    metadata = {"format": FORMAT, "settings": json.dumps(dataclasses.asdict(model.settings), sort_keys=True)}
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata)


def load(path: Path) -> AccModel:
    """Read what `save` wrote, in eval mode.

    Raises:
        DataUnavailable: there is no such file, or it does not hold an AccModel.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataUnavailable(
            f"there are no AccModel weights at {path}; make them with python -m accmpeg train --out {path.parent}."
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        model = AccModel(AccModelSettings(**json.loads(metadata["settings"])))
        model.load_state_dict(tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DataUnavailable(f"{path} is not a file of AccModel weights: {reason}; train it anew.") from error
    return model.eval()


def fingerprint(model: AccModel) -> str:
    """SHA-256 (hex) of settings and weights."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(model.settings), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
