"""What a task is: a label vocabulary, examples of it, and how a request's content becomes a model's input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from common.errors import ConfigError

# Shape legend: N examples, C labels.


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs with their true labels.

    Attributes:
        inputs: what the task's networks take, first axis N: uint8 images (N, H, W) or (N, 3, H, W), or padded word ids (N, W).
        labels_NC: bool; labels that are not known to be true count as false.
        ids: names of the examples where they have some (files), else empty.
    """

    inputs: Tensor
    labels_NC: Tensor
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.inputs.shape[0] != self.labels_NC.shape[0] or self.labels_NC.ndim != 2:
            raise ConfigError(
                f"{self.inputs.shape[0]} inputs have labels of shape {tuple(self.labels_NC.shape)}; give one row of labels each."
            )

    def __len__(self) -> int:
        return int(self.inputs.shape[0])

    def take(self, indices: Sequence[int] | Tensor) -> "Examples":
        """Those examples, in that order."""
        index = torch.as_tensor(indices, dtype=torch.long)
        ids = tuple(self.ids[i] for i in index.tolist()) if self.ids else ()
        return Examples(self.inputs[index], self.labels_NC[index], ids)


class Task(Protocol):
    """Where examples come from.

    Attributes:
        name: the task's name.
        labels: the vocabulary, in the order of the networks' outputs.
        vocabulary: the parser's name of it: "image" or "topic".
        categories: category name -> its labels, for the categorized models; may be empty.
    """

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def vocabulary(self) -> str: ...

    @property
    def categories(self) -> dict[str, tuple[str, ...]]: ...

    def examples(self, split: str, seed: int, n: int) -> Examples:
        """n examples at natural prevalence; split is "train", "validation" or "test". The same arguments give the same ones."""
        ...

    def content(self, inputs: Tensor, index: int) -> bytes:
        """One input as the content of a request: PNG bytes of an image, UTF-8 text."""
        ...

    def read(self, content: bytes) -> Tensor:
        """The input (1, ...) in a request's content. Raises UnreadableContent if it is none."""
        ...


class UnreadableContent(ConfigError):
    """The content of a request is not an image (or a text) that the task can read."""


def index_labels(labels: Sequence[str], names: Sequence[Sequence[str]]) -> Tensor:
    """Lists of label names as a bool matrix (N, C). Raises ConfigError for a name that is not in the vocabulary."""
    place = {label: i for i, label in enumerate(labels)}
    out = torch.zeros(len(names), len(labels), dtype=torch.bool)
    for row, own in enumerate(names):
        for name in own:
            if name not in place:
                raise ConfigError(f"label {name!r} is not in the vocabulary of {len(labels)} labels.")
            out[row, place[name]] = True
    return out
