"""A clip of video with whatever is known about its content."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from common.errors import ConfigError
from common.metrics.detection import Detections


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames and, for rendered video, their labels.

    Attributes:
        frames: (N, H, W, 3) uint8 RGB.
        fps: frames per second.
        name: for results; the file's stem, or what was rendered.
        labels: for each frame the objects that can be seen; None where nobody labelled the clip.
        masks: (N, H, W) uint8, semantic: 0 background, k + 1 for class k of the labels; None if unknown.
        instances: (N, H, W) uint16: 0 background, else the number of the object, the same over the clip.
        depth_m: (N, H, W) float32, distance along the camera's axis in metres.
    """

    frames: np.ndarray
    fps: float
    name: str = "clip"
    labels: tuple[Detections, ...] | None = None
    masks: np.ndarray | None = None
    instances: np.ndarray | None = None
    depth_m: np.ndarray | None = None

    @property
    def boxes(self) -> tuple[np.ndarray, ...] | None:
        """(M, 4) float32 per frame."""
        return None if self.labels is None else tuple(found.boxes for found in self.labels)

    @property
    def classes(self) -> tuple[np.ndarray, ...] | None:
        """(M,) int64 per frame."""
        return None if self.labels is None else tuple(found.classes for found in self.labels)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def height(self) -> int:
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        return int(self.frames.shape[2])

    def part(self, start: int, stop: int, step: int = 1) -> "Clip":
        """The clip's frames start, start + step, ... before stop, with their labels; the frame rate is that of the part."""
        chosen = slice(start, stop, step)

        def cut(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[chosen]

        labels = None if self.labels is None else self.labels[chosen]
        return Clip(
            self.frames[chosen],
            self.fps / step,
            self.name,
            labels,
            cut(self.masks),
            cut(self.instances),
            cut(self.depth_m),
        )

    @staticmethod
    def join(clips: Sequence["Clip"], name: str | None = None) -> "Clip":
        """One clip after the other, with a cut between them; labels only where all have them. Numbers of objects start anew.

        Raises:
            ConfigError: no clips, or different sizes or frame rates.
        """
        if not clips or any(c.frames.shape[1:] != clips[0].frames.shape[1:] or c.fps != clips[0].fps for c in clips):
            raise ConfigError("join needs at least one clip, all of one size and frame rate; resize them when loading.")

        def together(arrays: list[np.ndarray | None]) -> np.ndarray | None:
            present = [array for array in arrays if array is not None]
            return np.concatenate(present) if len(present) == len(arrays) else None

        parts = [c.labels for c in clips]
        labels = None if any(p is None for p in parts) else tuple(found for p in parts if p is not None for found in p)
        return Clip(
            np.concatenate([c.frames for c in clips]),
            clips[0].fps,
            name or clips[0].name,
            labels,
            together([c.masks for c in clips]),
            together([c.instances for c in clips]),
            together([c.depth_m for c in clips]),
        )
