"""Real COCO detectors from the ONNX files of a data root: YOLOX-nano and FastestDet.

Both see the picture scaled so that its longer side has `long_side` pixels (None: as it is) and padded to a multiple of 32, and
are differentiable through the scaling. FastestDet's authors stretch pictures to a square instead; keeping the proportions is
ours.
"""

# B images, N candidates, K classes

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from common.errors import ConfigError, DataUnavailable
from common.models.vision.coco import COCO_NAMES
from common.models.vision.interface import Detector
from common.models.vision.onnx_graph import OnnxModule

_MULTIPLE = 32
_SMALLEST = 64


class _FileDetector(Detector):
    """What the two have in common.

    Args:
        data_root: folder with `models/`.
        file: name of the file in it.
        name, threshold: see `Detector`.
        long_side: see the module's docstring.
    """

    class_names = COCO_NAMES

    def __init__(self, data_root: Path | None, file: str, name: str, threshold: float, long_side: int | None) -> None:
        if data_root is None:
            raise DataUnavailable(
                f"detector {name!r} needs a data root that holds models/{file}: set data.root=FOLDER, or use 'street'."
            )
        if not 0 <= threshold <= 1 or (long_side is not None and long_side < _SMALLEST):
            raise ConfigError(
                f"threshold={threshold} must lie in [0, 1] and long_side={long_side} be None or at least {_SMALLEST}."
            )
        self.name, self.threshold, self.long_side = name, threshold, long_side
        self.graph = OnnxModule(Path(data_root) / "models" / file).eval()

    def _scaled(self, images_B3HW: Tensor, fill: float) -> tuple[Tensor, float, float]:
        """Scaled and padded images, and the factors from their pixels to those of the originals."""
        height, width = images_B3HW.shape[2:]
        if self.long_side is None or self.long_side == max(height, width):
            scaled = images_B3HW
        else:
            factor = self.long_side / max(height, width)
            size = [max(1, round(height * factor)), max(1, round(width * factor))]
            scaled = functional.interpolate(
                images_B3HW, size=size, mode="bilinear", align_corners=False, antialias=True
            )
        rows, cols = scaled.shape[2:]
        padded = functional.pad(scaled, (0, -cols % _MULTIPLE, 0, -rows % _MULTIPLE), value=fill)
        return padded, width / cols, height / rows


class YoloxNano(_FileDetector):
    """YOLOX-nano, 0.9 M parameters (Megvii, Apache-2.0)."""

    suppression_iou = 0.45
    _strides = (8, 16, 32)

    def __init__(self, data_root: Path | None, threshold: float = 0.3, long_side: int | None = 416) -> None:
        super().__init__(data_root, "yolox_nano_416.onnx", "yolox_nano", threshold, long_side)

    def candidates(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """See `Detector.candidates`. Input BGR 0..255, padded with 114; score = objectness x class."""
        padded, to_x, to_y = self._scaled(images_B3HW, 114 / 255)
        out = self.graph(padded.flip(1) * 255)
        cells, strides = [], []
        for stride in self._strides:
            rows, cols = padded.shape[2] // stride, padded.shape[3] // stride
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
            cells.append(torch.stack([x, y], -1).reshape(-1, 2).to(out.dtype))
            strides.append(out.new_full((rows * cols, 1), stride))
        cell, stride_N1 = torch.cat(cells), torch.cat(strides)
        centre, half = (out[..., :2] + cell) * stride_N1, out[..., 2:4].exp() * stride_N1 / 2
        scale = out.new_tensor([to_x, to_y])
        return torch.cat([(centre - half) * scale, (centre + half) * scale], -1), out[..., 4:5] * out[..., 5:]


class FastestDet(_FileDetector):
    """FastestDet, 0.24 M parameters (BSD-3-Clause)."""

    suppression_iou = 0.45

    def __init__(self, data_root: Path | None, threshold: float = 0.5, long_side: int | None = 352) -> None:
        super().__init__(data_root, "FastestDet_352.onnx", "fastestdet", threshold, long_side)

    def candidates(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """See `Detector.candidates`. Input BGR 0..1; score = objectness^0.6 x class^0.4."""
        padded, to_x, to_y = self._scaled(images_B3HW, 0.0)
        out = self.graph(padded.flip(1))
        rows, cols = out.shape[2:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
        high, wide = padded.shape[2], padded.shape[3]
        centre_x, centre_y = (x + out[:, 1].tanh()) / cols * wide, (y + out[:, 2].tanh()) / rows * high
        half_w, half_h = out[:, 3].sigmoid() * wide / 2, out[:, 4].sigmoid() * high / 2
        corners = [
            (centre_x - half_w) * to_x,
            (centre_y - half_h) * to_y,
            (centre_x + half_w) * to_x,
            (centre_y + half_h) * to_y,
        ]
        # A power below 1 has an infinite slope at 0.
        scores = out[:, :1].clamp(min=1e-6) ** 0.6 * out[:, 5:].clamp(min=1e-6) ** 0.4
        return torch.stack(corners, -1).flatten(1, 2), scores.flatten(2).transpose(1, 2)
