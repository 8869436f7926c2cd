"""CloudSeg's two ends: half the resolution on the camera, super-resolution on the server.

small RGB -> conv -> residual blocks -> conv -> pixel shuffle (x2) -> + bilinear enlargement
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from accmpeg.api import Frames
from common.errors import DataUnavailable

FORMAT = "accmpeg upscaler 1"


def downscale(frames: Frames) -> Frames:
    """Half the height and width (rounded up to even, at least 16), by area averaging."""
    import cv2

    height, width = (max(16, -(-side // 4) * 2) for side in frames.shape[1:3])
    return np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames])


class Upscaler(nn.Module):
    """Doubles height and width.

    Args:
        channels: of the body.
        depth: residual blocks.
    """

    # DEVIATION accmpeg-4: a residual network of 35 k parameters stands in for CARN (1.6 M), in proportion to the small DNN.
    def __init__(self, channels: int = 24, depth: int = 3) -> None:
        super().__init__()
        self.channels, self.depth = channels, depth
        self.head = nn.Conv2d(3, channels, 3, 1, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1), nn.ReLU(), nn.Conv2d(channels, channels, 3, 1, 1))
            for _ in range(depth)
        )
        self.tail = nn.Conv2d(channels, 12, 3, 1, 1)
        nn.init.zeros_(self.tail.weight)  # starts as bilinear enlargement
        assert self.tail.bias is not None
        nn.init.zeros_(self.tail.bias)

    def forward(self, small_B3HW: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 3, 2H, 2W), in [0, 1] (not clipped)."""
        features = self.head(small_B3HW - 0.45)
        for block in self.blocks:
            features = features + block(features)
        enlarged = functional.interpolate(small_B3HW, scale_factor=2, mode="bilinear", align_corners=False)
        return enlarged + functional.pixel_shuffle(self.tail(features), 2)

    @torch.inference_mode()
    def upscale(self, frames: Frames, height: int, width: int) -> Frames:
        """Frames at twice their size, brought to (height, width): (N, height, width, 3), uint8."""
        images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
        large = self.forward(images)
        if large.shape[-2:] != (height, width):
            large = functional.interpolate(large, (height, width), mode="bilinear", align_corners=False)
        rounded = large.clamp(0, 1).mul(255).round().to(torch.uint8)
        return np.ascontiguousarray(rounded.permute(0, 2, 3, 1).numpy())


def save(model: Upscaler, path: Path) -> None:
    """Write as safetensors."""
    from safetensors.torch import save_file

    from common.cache import atomic_file

    metadata = {"format": FORMAT, "settings": json.dumps({"channels": model.channels, "depth": model.depth})}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}, temporary, metadata
        )


def load(path: Path) -> Upscaler:
    """Read what `save` wrote, in eval mode.

    Raises:
        DataUnavailable: there is no such file, or it does not hold an upscaler.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataUnavailable(
            f"there are no upscaler weights at {path}; make them with python -m accmpeg train-upscaler."
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
            model = Upscaler(**json.loads(metadata["settings"]))
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DataUnavailable(f"{path} is not a file of upscaler weights: {reason}; train it anew.") from error
    return model.eval()
