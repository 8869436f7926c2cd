"""SqueezeNet 1.1 in torch, with the tensor names of torchvision: a trained trunk for photographs.

Source: Iandola et al., SqueezeNet (2016), version 1.1; weights come from a file
(`models/squeezenet1_1_imagenet.safetensors` of a data root).
"""

# Shape legend: N images, F features (512).

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from common.errors import CorruptBitstream, DataUnavailable

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224
_FIRES = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128), 9: (256, 48, 192), 10: (384, 48, 192),
          11: (384, 64, 256), 12: (512, 64, 256)}  # fmt: skip


class _Fire(nn.Module):
    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        narrow = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1x1(narrow)), torch.relu(self.expand3x3(narrow))], 1)


class SqueezeNet(nn.Module):
    """The whole classifier, 1000 ImageNet classes."""

    def __init__(self) -> None:
        super().__init__()
        layers: dict[int, nn.Module] = {0: nn.Conv2d(3, 64, 3, 2), 1: nn.ReLU(), 2: nn.MaxPool2d(3, 2, ceil_mode=True)}
        layers |= {5: nn.MaxPool2d(3, 2, ceil_mode=True), 8: nn.MaxPool2d(3, 2, ceil_mode=True)}
        layers |= {place: _Fire(*sizes) for place, sizes in _FIRES.items()}
        self.features = nn.Sequential(*(layers[place] for place in sorted(layers)))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 1000) from normalised images (N, 3, 224, 224)."""
        logits: Tensor = self.classifier(self.features(x)).flatten(1)
        return logits

    def pooled(self, images: Tensor) -> Tensor:
        """Features (N, 512): the last layer before the classifier, averaged over places; from uint8 images (N, 3, 224, 224)."""
        mean, std = (torch.tensor(v)[None, :, None, None] for v in (MEAN, STD))
        features: Tensor = self.features((images.float() / 255 - mean) / std).mean((2, 3))
        return features


def load_squeezenet(path: Path) -> SqueezeNet:
    """The network with weights from a file.

    Raises:
        DataUnavailable: there is no such file.
        CorruptBitstream: it holds something else.
    """
    if not path.is_file():
        raise DataUnavailable(
            f"SqueezeNet's weights are not at {path}. Give data.root=FOLDER with models/squeezenet1_1_imagenet.safetensors, "
            "the weights of torchvision.models.squeezenet1_1 as safetensors."
        )
    network = SqueezeNet()
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CorruptBitstream(f"{path} does not hold SqueezeNet 1.1: {str(error).splitlines()[0]}") from error
    return network.eval()
