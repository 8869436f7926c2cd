"""Images to train on: rendered streets, or folders of pictures and videos. They need not come from the camera in use."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from accmpeg.api import Frames
from common.errors import DataUnavailable
from common.rng import for_component

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def rendered_images(
    num_images: int, seed: int, *, height: int = 192, width: int = 320, frames_per_scene: int = 4
) -> Frames:
    """Frames of many rendered streets, `frames_per_scene` of each, some frames apart: (num_images, H, W, 3)."""
    from common.data.video import StreetScene, StreetStyle

    found = []
    streams = for_component(seed, "accmpeg training images").spawn(-(-num_images // frames_per_scene))
    for stream in streams:
        scene = StreetScene(stream, StreetStyle(height=height, width=width))
        for _ in range(frames_per_scene):
            found.append(scene.frame()[0])
            scene.advance(0.4)
    return np.stack(found[:num_images])


def images_from_folders(
    folders: Sequence[Path],
    num_images: int,
    seed: int,
    *,
    height: int = 192,
    width: int = 320,
    skip: Sequence[str] = (),
) -> Frames:
    """A random choice of the landscape pictures and video frames under some folders, brought to one size.

    Args:
        folders: searched with their subfolders; of each video frames evenly spaced over it are taken.
        skip: patterns of file names that are left out, such as videos that AccModel will be judged on.

    Raises:
        DataUnavailable: there is no such folder, or too little in them.
    """
    import cv2

    from common.data.video import load_clip
    from common.data.video.files import SUFFIXES

    for folder in folders:
        if not folder.is_dir():
            raise DataUnavailable(f"there is no folder {str(folder)!r}; give one with pictures or videos to train on.")
    rng = for_component(seed, "accmpeg training images")
    paths = sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix.lower() in (*PICTURES, *SUFFIXES) and not any(fnmatch(path.name, pattern) for pattern in skip)
    )
    pictures = [path for path in paths if path.suffix.lower() in PICTURES]
    videos = [path for path in paths if path.suffix.lower() in SUFFIXES]
    found = []
    for index in rng.permutation(len(pictures))[:num_images]:
        picture = cv2.imread(str(pictures[int(index)]))
        if picture is not None and picture.shape[1] >= picture.shape[0]:
            found.append(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)[..., ::-1])
    if videos and len(found) < num_images:
        per_video = -(-(num_images - len(found)) // len(videos))
        for path in videos:
            clip = load_clip(path, step=5, height=height, width=width)
            chosen = np.unique(
                np.linspace(0, len(clip.frames) - 1, min(per_video, len(clip.frames))).round().astype(int)
            )
            found += list(clip.frames[chosen])
    if len(found) < 4:
        raise DataUnavailable(
            f"{', '.join(map(str, folders))}: {len(found)} landscape pictures or video frames; at least 4 are needed "
            f"({', '.join((*PICTURES, *SUFFIXES))})."
        )
    return np.ascontiguousarray(np.stack(found[:num_images]))
