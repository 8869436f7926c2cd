"""Clips: four procedural content classes that every installation can make, and real clips of a data root."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from common.data.video import Clip
from common.data.video.files import load_clip
from common.errors import ConfigError, DataUnavailable
from grace.api import WORKLOADS
from grace.clips import ClipStyle, bundled_photos, make_clip
from grace.training_data import TEST_CLIPS

FPS = 25.0

_CLASSES: dict[str, ClipStyle] = {
    "action": ClipStyle(speed=1.0, max_sprites=3),
    "game": ClipStyle(speed=1.7, max_sprites=4, noise=0.0, calm_share=0.0),
    "scenery": ClipStyle(speed=0.6, max_sprites=1, noise=0.6),
    "call": ClipStyle(speed=0.5, max_sprites=1, noise=1.2, calm_share=1.0),
}
"""Stand-ins for Kinetics (hand-held), gaming (fast, no sensor noise), UVG (slow pans over detail) and FVC (still camera)."""


@WORKLOADS.add("procedural")
@dataclasses.dataclass(frozen=True)
class Procedural:
    """Photographs in motion: the four content classes in turn, from photographs that no weights were trained on.

    Attributes:
        height, width: pixels.
        num_frames: of each clip.
        content: one class for all clips, or "" for all four in turn: action, game, scenery, call.
    """

    height: int = 256
    width: int = 256
    num_frames: int = 28
    content: str = ""

    def __post_init__(self) -> None:
        if self.content and self.content not in _CLASSES:
            raise ConfigError(f"content={self.content!r} is not a content class. Choose one of {', '.join(_CLASSES)}.")
        dataclasses.replace(_CLASSES["action"], height=self.height, width=self.width, num_frames=self.num_frames)

    def items(self, rng: Generator, n: int) -> Iterator[Clip]:
        """See `grace.api.Workload`."""
        photos = bundled_photos()
        names = [self.content] if self.content else list(_CLASSES)
        for index in range(n):
            name = names[index % len(names)]
            style = dataclasses.replace(
                _CLASSES[name], height=self.height, width=self.width, num_frames=self.num_frames
            )
            own = np.random.default_rng(rng.integers(2**63))
            yield Clip(make_clip(own, photos, style), FPS, f"{name}-{index}")


@WORKLOADS.add("clips")
@dataclasses.dataclass(frozen=True)
class Clips:
    """Real clips of a data root, scaled down and cut to a square around the middle; none of them was trained on.

    Set data.root=FOLDER.

    Attributes:
        names: files in FOLDER/video; empty: the test clips whose pictures are large enough, in turn.
        height, width: pixels.
        num_frames: of each clip; parts of a file do not overlap until it is used up.
    """

    names: tuple[str, ...] = ()
    height: int = 256
    width: int = 256
    num_frames: int = 28

    def items(self, rng: Generator, n: int) -> Iterator[Clip]:
        """Always raises: real clips need a data root, see `items_from`."""
        yield from self.items_from({}, rng, n)

    def items_from(self, data: Mapping[str, Any], rng: Generator, n: int) -> Iterator[Clip]:
        """n excerpts.

        Args:
            data: the run's data settings; `root` is the folder that holds video/.
            rng: decides the order of the files.
            n: how many.

        Raises:
            DataUnavailable: no root was given, or a clip is missing or too short.
        """
        root = data.get("root")
        if not root:
            raise DataUnavailable(
                "workload 'clips' needs the folder that holds video/: data=local_video data.root=FOLDER. "
                "Use workload=procedural without one."
            )
        folder = Path(root) / "video"
        names = tuple(self.names) or tuple(name for name in TEST_CLIPS if self._covers(folder / name))
        if not names:
            raise DataUnavailable(
                f"none of the test clips {', '.join(TEST_CLIPS)} in {folder} has {self.width}x{self.height} pixels; "
                "ask for smaller pictures (workload_args.height, .width) or name clips of your own (workload_args.names)."
            )
        order = rng.permutation(len(names))
        for index in range(n):
            name = names[int(order[index % len(names)])]
            path = folder / name
            start = 5 + (index // len(names)) * self.num_frames
            clip = load_clip(path, start, self.num_frames)
            if len(clip) < self.num_frames:
                raise DataUnavailable(
                    f"{path} has no {self.num_frames} frames after frame {start}; ask for fewer items."
                )
            frames = np.stack([fitted(frame, self.height, self.width) for frame in clip.frames])
            yield Clip(frames, FPS, f"{path.stem}-{start}")

    def _covers(self, path: Path) -> bool:
        frame = load_clip(path, 0, 1).frames[0]
        return bool(frame.shape[0] >= self.height and frame.shape[1] >= self.width)


def fitted(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture scaled down so that it just covers the size, and cut to it around its middle.

    Raises:
        DataUnavailable: it is smaller.
    """
    import cv2

    factor = max(height / frame.shape[0], width / frame.shape[1])
    if factor < 1:
        size = max(width, round(frame.shape[1] * factor)), max(height, round(frame.shape[0] * factor))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    if frame.shape[0] < height or frame.shape[1] < width:
        raise DataUnavailable(
            f"a clip of {frame.shape[1]}x{frame.shape[0]} is smaller than {width}x{height}; ask for smaller pictures."
        )
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return np.ascontiguousarray(frame[top : top + height, left : left + width])
