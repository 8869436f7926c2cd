"""Clips: streets rendered from a seed, with labels; real videos from a data root, without."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from accmpeg.api import WORKLOADS, Clip
from common.errors import ConfigError


@WORKLOADS.add("street")
@dataclasses.dataclass(frozen=True)
class Street:
    """Rendered streets with moving vehicles and people, camera moving or still: the stand-in for dashcam and drone video.

    Attributes:
        num_frames: of each clip.
        height, width: of the pictures.
        camera: one of `common.data.video.CAMERAS`, or "mixed" for each in turn.
    """

    num_frames: int = 40
    height: int = 192
    width: int = 320
    camera: str = "mixed"

    def __post_init__(self) -> None:
        from common.data.video import CAMERAS

        if self.num_frames < 1 or self.height < 64 or self.width < 64:
            raise ConfigError(
                f"num_frames={self.num_frames} must be at least 1, height={self.height} and width={self.width} at least 64."
            )
        if self.camera not in (*CAMERAS, "mixed"):
            raise ConfigError(f"camera={self.camera!r} is not one of {', '.join((*CAMERAS, 'mixed'))}.")

    def items(self, rng: np.random.Generator, n: int) -> Iterator[Clip]:
        """n clips, each another street."""
        from common.data.video import CAMERAS, render_street

        for index, stream in enumerate(rng.spawn(n)):
            camera = list(CAMERAS)[index % len(CAMERAS)] if self.camera == "mixed" else self.camera
            clip = render_street(
                stream, num_frames=self.num_frames, height=self.height, width=self.width, camera=camera
            )
            yield dataclasses.replace(clip, name=f"street-{camera}", masks=None, instances=None, depth_m=None)


@WORKLOADS.add("clips")
@dataclasses.dataclass(frozen=True)
class Clips:
    """Excerpts of real videos: the files of a data root, or files named here. Set data.root=FOLDER.

    Attributes:
        files: paths, or names of files in the data root; empty for all video files of the root.
        num_frames: of each excerpt.
        height: pictures are brought to it, keeping their proportions; None leaves them.
        step: takes each step-th frame.
    """

    files: tuple[str, ...] = ()
    num_frames: int = 40
    height: int | None = 360
    step: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(self.files))
        if self.num_frames < 1 or self.step < 1 or (self.height is not None and self.height < 64):
            raise ConfigError(
                f"num_frames={self.num_frames} and step={self.step} must be at least 1, height={self.height} at least 64."
            )

    def items(self, rng: np.random.Generator, n: int) -> Iterator[Clip]:
        """n excerpts of the named files; see `items_from`."""
        yield from self.items_from({}, rng, n)

    def items_from(self, data: Mapping[str, Any], rng: np.random.Generator, n: int) -> Iterator[Clip]:
        """n excerpts, the files in turn, each from a place of its own within its file.

        Raises:
            DataUnavailable: no data root, no such file, or nothing in it; the message says what to set.
        """
        from common.data.video import find_clips, load_clip

        root = data.get("root")
        if self.files:
            folder = Path(root) if root else Path()
            video = folder / "video" if (folder / "video").is_dir() else folder
            paths = [Path(name) if Path(name).is_file() else video / name for name in self.files]
        else:
            paths = find_clips(Path(root) if root else None)
        rounds = -(-n // len(paths))
        for index in range(n):
            path = paths[index % len(paths)]
            # Excerpts of one file lie one after the other; a file that is too short gives the same one again.
            start = (index // len(paths)) * self.num_frames * self.step if rounds > 1 else 0
            clip, start = self._excerpt(load_clip, path, start)
            yield dataclasses.replace(clip, name=f"{path.stem}-{start}")

    def _excerpt(self, load_clip: Any, path: Path, start: int) -> tuple[Clip, int]:
        """The frames from `start`, or from the file's beginning if it is too short for that."""
        try:
            clip: Clip = load_clip(path, start, self.num_frames, step=self.step, height=self.height)
            if len(clip.frames) == self.num_frames or start == 0:
                return clip, start
        except ConfigError:
            if start == 0:
                raise
        return self._excerpt(load_clip, path, 0)
