"""The networks behind the API: small trunks with a bottleneck and a linear head over the vocabulary, and their files.

    inputs ─► trunk ─► features (N, F) ─► bottleneck (N, B) ─► one logit per label (N, C)

The real model has the same shape: its 9,605 labels share 512 numbers. What the network is made of travels with its weights,
in the file's metadata, so that a file is enough to serve it.
"""

# Shape legend: N inputs, F features, B width of the bottleneck, C labels, W words.

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.cache import atomic_file
from common.errors import ConfigError, CorruptBitstream

KINDS = ("convolution", "words", "features")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a network is made of.

    Attributes:
        kind: "convolution" (uint8 images), "words" (padded word ids), "features" (what a fixed trunk saw, `width` numbers).
        labels: the vocabulary, in the order of the outputs.
        bottleneck: B; 0 for a head straight on the features.
        width: channels of the last layers, or numbers per word.
        num_words: words of the vocabulary of a "words" network, padding and the unknown word included.
        task: name of the task whose `read` makes this network's inputs.
    """

    kind: str
    labels: tuple[str, ...]
    bottleneck: int = 10
    width: int = 48
    num_words: int = 0
    task: str = "everyday"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"network kind {self.kind!r} is not known. Use {', '.join(KINDS)}.")
        if self.bottleneck < 0 or self.width < 1 or not self.labels:
            raise ConfigError(
                f"bottleneck={self.bottleneck}, width={self.width} and {len(self.labels)} labels are not a network: "
                "use a bottleneck >= 0, a width >= 1 and at least one label."
            )


class Network(nn.Module):
    """A trunk with a head over a vocabulary. Weights are zero until `initialise` or `load`."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        if architecture.kind == "convolution":
            self.trunk, num_features = _convolutions(architecture.width)
        elif architecture.kind == "words":
            self.trunk, num_features = _Words(architecture.num_words, architecture.width), architecture.width
        else:
            self.trunk, num_features = nn.Flatten(), architecture.width
        self.num_features = num_features
        narrow = architecture.bottleneck or num_features
        self.bottleneck = nn.Linear(num_features, narrow) if architecture.bottleneck else nn.Identity()
        self.head = nn.Linear(narrow, len(architecture.labels))

    @property
    def labels(self) -> tuple[str, ...]:
        """The vocabulary."""
        return self.architecture.labels

    def features(self, inputs: Tensor) -> Tensor:
        """What the trunk sees, (N, F) float32."""
        if self.architecture.kind == "convolution":
            pooled: Tensor = self.trunk(inputs[:, None].float() / 127.5 - 1).amax((2, 3))
            return pooled
        seen: Tensor = self.trunk(inputs)
        return seen

    def classify(self, features_NF: Tensor) -> Tensor:
        """Logits (N, C) from features."""
        logits: Tensor = self.head(self.bottleneck(features_NF))
        return logits

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, C)."""
        return self.classify(self.features(inputs))

    def scores(self, inputs: Tensor, batch: int = 500) -> Tensor:
        """Scores (N, C) in (0, 1), computed in evaluation mode and batches; leaves the mode as it was."""
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                parts = [torch.sigmoid(self(part)) for part in inputs.split(batch)]
        finally:
            self.train(was_training)
        # A clone: tensors made in inference mode cannot take part in a later gradient.
        return torch.cat(parts).clone() if parts else torch.zeros(0, len(self.labels))

    def initialise(self, rng: np.random.Generator, positives_per_input: float = 2.0) -> "Network":
        """Draw weights; the head's bias is the log prior of a label. Returns self."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.EmbeddingBag):
                nn.init.normal_(module.weight, std=0.3, generator=generator)
        nn.init.xavier_uniform_(self.head.weight, generator=generator)
        prior = min(0.5, positives_per_input / len(self.labels))
        nn.init.constant_(self.head.bias, float(np.log(prior / (1 - prior))))
        return self

    def copy(self) -> "Network":
        """An independent network with the same weights."""
        twin = Network(self.architecture)
        twin.load_state_dict(self.state_dict())
        return twin

    def fingerprint(self) -> str:
        """SHA-256 (hex) of architecture and weights."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self.architecture), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def num_parameters(self) -> int:
        """How many numbers are learnt."""
        return sum(p.numel() for p in self.parameters())


def _convolutions(width: int) -> tuple[nn.Module, int]:
    channels = (1, width // 4, width // 2, width, width)
    layers: list[nn.Module] = []
    for place, (kernel, stride) in enumerate(((5, 2), (3, 1), (3, 2), (3, 1))):
        layers += [
            nn.Conv2d(channels[place], channels[place + 1], kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(channels[place + 1]),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers), width


class _Words(nn.Module):
    """Mean of word vectors, one hidden layer; id 0 is padding."""

    def __init__(self, num_words: int, width: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(max(2, num_words), width, mode="mean", padding_idx=0)
        self.hidden = nn.Linear(width, width)

    def forward(self, ids_NW: Tensor) -> Tensor:
        return torch.relu(self.hidden(self.table(ids_NW)))


def save(network: Network, path: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write a network with its architecture; `facts` (JSON values) are kept beside it. Atomic."""
    metadata = {"architecture": json.dumps(dataclasses.asdict(network.architecture)), "facts": json.dumps(facts or {})}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata)


def load(path: Path) -> Network:
    """The network that `save` wrote, in evaluation mode.

    Raises:
        CorruptBitstream: not such a file, or a damaged one.
        ConfigError: there is no such file.
    """
    if not path.is_file():
        raise ConfigError(f"model file {str(path)!r} does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        plain = json.loads(metadata["architecture"])
        network = Network(Architecture(**(plain | {"labels": tuple(plain["labels"])})))
        network.load_state_dict(tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        raise CorruptBitstream(
            f"{path} is not a model file of chameleonapi, or is damaged: {str(error).splitlines()[0]}"
        ) from error
    return network.eval()


def facts_of(path: Path) -> dict[str, Any]:
    """What `save` was given as `facts`. Raises CorruptBitstream where `load` does."""
    try:
        with safe_open(path, framework="pt") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {})["facts"])
            return found
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CorruptBitstream(f"{path} is not a model file of chameleonapi, or is damaged: {error}") from error
