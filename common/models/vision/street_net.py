"""The bundled network: one trunk with a detection head (anchor-free, centres of objects) and a segmentation head.

    image --stem /2--> s2 --/4--> s4 --/8--> s8 --/16--> s16
                        |          |          |           |
                        |          + <- up <- + <- up <---+        1x1 laterals, bilinear
                        |          |
                        |          conv --> heat map (K), offsets and log sizes (4)         at stride 4
                        + <- up <- conv --> classes (K + 1)                                 at stride 2

About 0.3 M parameters. Source: the detector of the AccMPEG sheet, section 8.3 (CenterNet-like), with a segmentation head of ours.
"""

# B images, K classes, h and w rows and columns of the heat map (stride 4), N = h w candidates

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.data.video.street import CLASSES
from common.models.vision.interface import Detector, Segmenter, pad_to_multiple

STRIDE = 4
MULTIPLE = 16
_MEAN, _SCALE = 0.45, 0.25
_RARE = -3.5  # bias of the heat map: sigmoid(-3.5) = 0.03, as rare as centres are


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _up(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class StreetNet(nn.Module):
    """Trunk and heads.

    Args:
        width: channels of the stem; the deeper levels have 2, 3 and 4 times as many.
        num_classes: K.
    """

    def __init__(self, width: int = 24, num_classes: int = len(CLASSES)) -> None:
        super().__init__()
        w = width
        self.stem = _block(3, w, 2)
        self.level4 = nn.Sequential(_block(w, 2 * w, 2), _block(2 * w, 2 * w))
        self.level8 = nn.Sequential(_block(2 * w, 3 * w, 2), _block(3 * w, 3 * w))
        self.level16 = nn.Sequential(_block(3 * w, 4 * w, 2), _block(4 * w, 4 * w))
        self.lateral8 = nn.Conv2d(3 * w, 2 * w, 1)
        self.lateral16 = nn.Conv2d(4 * w, 2 * w, 1)
        self.detection = _block(2 * w, 2 * w)
        self.heat = nn.Conv2d(2 * w, num_classes, 1)
        self.box = nn.Conv2d(2 * w, 4, 1)
        self.segmentation = _block(2 * w, w)
        self.fine = _block(w, w)
        self.classes = nn.Conv2d(w, num_classes + 1, 1)
        nn.init.constant_(self.heat.bias, _RARE)  # type: ignore[arg-type]

    def trunk(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """What both heads start from: features at stride 2 and 4; sides are multiples of 16."""
        s2 = self.stem((images_B3HW - _MEAN) / _SCALE)
        s4 = self.level4(s2)
        s8 = self.level8(s4)
        s16 = self.level16(s8)
        return s2, s4 + _up(self.lateral8(s8) + _up(self.lateral16(s16), s8), s4)

    def detection_head(self, s4: Tensor) -> tuple[Tensor, Tensor]:
        """Heat map logits (B, K, h, w) and boxes (B, 4, h, w) from the trunk's features at stride 4."""
        found = self.detection(s4)
        return self.heat(found), self.box(found)

    def segmentation_head(self, s2: Tensor, s4: Tensor) -> Tensor:
        """Class logits (B, K + 1, 2h, 2w) from the trunk's features."""
        classes: Tensor = self.classes(self.fine(s2 + _up(self.segmentation(s4), s2)))
        return classes

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Heat map logits, boxes and class logits, as both heads give them. One head alone takes two thirds of the time."""
        s2, s4 = self.trunk(images_B3HW)
        return *self.detection_head(s4), self.segmentation_head(s2, s4)


def boxes_from(box_B4hw: Tensor) -> Tensor:
    """(B, N, 4) corner boxes in pixels from the head's offsets (cells) and log sizes (cells), row by row."""
    _, _, height, width = box_B4hw.shape
    rows = torch.arange(height, dtype=box_B4hw.dtype, device=box_B4hw.device).view(1, height, 1)
    cols = torch.arange(width, dtype=box_B4hw.dtype, device=box_B4hw.device).view(1, 1, width)
    x, y = (cols + box_B4hw[:, 0]) * STRIDE, (rows + box_B4hw[:, 1]) * STRIDE
    # An untrained or astonished head may say anything; e^6 cells are more than any picture.
    half_w, half_h = (box_B4hw[:, index].clamp(max=6).exp() * (STRIDE / 2) for index in (2, 3))
    return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], -1).flatten(1, 2)


class StreetDetector(Detector):
    """The bundled network's detection head.

    Args:
        network: in evaluation mode, parameters frozen.
        name, threshold: see `Detector`.
    """

    def __init__(self, network: StreetNet, name: str, threshold: float) -> None:
        self.network, self.name, self.threshold = network, name, threshold
        self.class_names = CLASSES

    def candidates(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """See `Detector.candidates`; N = (H / 4) (W / 4), sides rounded up to multiples of 16."""
        _, s4 = self.network.trunk(pad_to_multiple(images_B3HW, MULTIPLE))
        heat_BKhw, box_B4hw = self.network.detection_head(s4)
        return boxes_from(box_B4hw), heat_BKhw.sigmoid().flatten(2).transpose(1, 2)

    def select(self, scores_BNK: Tensor, images_B3HW: Tensor) -> Tensor:
        """Local maxima of the heat map within 3x3 cells."""
        batch, _, num_classes = scores_BNK.shape
        height = -(-images_B3HW.shape[2] // MULTIPLE) * MULTIPLE // STRIDE
        heat_BKhw = scores_BNK.transpose(1, 2).reshape(batch, num_classes, height, -1)
        peaks = functional.max_pool2d(heat_BKhw, 3, 1, 1) == heat_BKhw
        return peaks.flatten(2).transpose(1, 2)


class StreetSegmenter(Segmenter):
    """The bundled network's segmentation head. Arguments as for `StreetDetector`."""

    def __init__(self, network: StreetNet, name: str) -> None:
        self.network, self.name = network, name
        self.class_names = ("background", *CLASSES)

    def logits(self, images_B3HW: Tensor) -> Tensor:
        """See `Segmenter.logits`."""
        padded = pad_to_multiple(images_B3HW, MULTIPLE)
        full = _up(self.network.segmentation_head(*self.network.trunk(padded)), padded)
        return full[..., : images_B3HW.shape[2], : images_B3HW.shape[3]]
