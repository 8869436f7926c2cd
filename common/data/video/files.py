"""Real video from files, through PyAV."""

from pathlib import Path

import numpy as np

from common.data.video.clip import Clip
from common.errors import ConfigError, CorruptBitstream, DataUnavailable

_MOST_BYTES = 8e9
_LARGEST_SIDE = 8192
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".264", ".265", ".gif", ".y4m")


def find_clips(root: Path | None) -> list[Path]:
    """Video files in a data root: in its folder `video` if there is one, else in itself; sorted by name.

    Raises:
        DataUnavailable: no root was given, it is no folder, or holds no video.
    """
    if root is None:
        raise DataUnavailable(
            "real clips need a data root: set data.root=FOLDER to a folder that holds (a folder `video` of) video files."
        )
    folder = Path(root)
    if not folder.is_dir():
        raise DataUnavailable(
            f"data root {str(folder)!r} is not a folder. Set data.root to one that holds video files."
        )
    folder = folder / "video" if (folder / "video").is_dir() else folder
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataUnavailable(f"{str(folder)!r} holds no video ({', '.join(SUFFIXES)}).")
    return found


def load_clip(
    path: Path,
    start: int = 0,
    count: int | None = None,
    *,
    step: int = 1,
    height: int | None = None,
    width: int | None = None,
    fps: float | None = None,
) -> Clip:
    """Read frames of a video file.

    Args:
        path: any container and codec that FFmpeg reads. Rotated videos are turned upright.
        start: first frame.
        count: how many frames, None for all; fewer if the file ends.
        step: take each step-th frame; the clip's frame rate falls accordingly.
        height, width: scale to this size by area averaging; one alone keeps the proportions, rounded to even numbers.
        fps: take this instead of the file's own frame rate (elementary streams have none). Of a file with a variable rate the
            mean rate of the frames read is taken.

    Raises:
        DataUnavailable: there is no such file.
        CorruptBitstream: FFmpeg cannot read it as video, or its pictures change their size on the way.
        ConfigError: a start behind the end, sizes or steps that are not positive, or more pictures than memory should hold.
    """
    import av

    path = Path(path)
    if (
        start < 0
        or step < 1
        or (count is not None and count < 1)
        or any(side is not None and not 2 <= side <= _LARGEST_SIDE for side in (height, width))
    ):
        raise ConfigError(
            f"start={start}, count={count}, step={step}, height={height}, width={width}: start at 0, count and step from 1, "
            f"sides from 2 to {_LARGEST_SIDE}."
        )
    if not path.is_file():
        raise DataUnavailable(
            f"video {str(path)!r} is not there. Give the path of a video file, or set data.root to a folder of them."
        )
    frames: list[np.ndarray] = []
    times: list[tuple[int, float]] = []
    try:
        # Tags in another encoding than UTF-8 say nothing about the pictures.
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise CorruptBitstream(f"{path}: no video stream in this file.")
            stream = container.streams.video[0]
            stream.thread_count = 1
            own_fps = float(stream.average_rate or stream.guessed_rate or 30)
            for index, picture in enumerate(container.decode(stream)):
                if index < start or (index - start) % step:
                    continue
                image = _resized(_upright(picture), height, width)
                if frames and image.shape != frames[0].shape:
                    raise CorruptBitstream(
                        f"{path}: frame {index} is {image.shape[1]}x{image.shape[0]}, those before are "
                        f"{frames[0].shape[1]}x{frames[0].shape[0]}; give a height and a width, or fewer frames."
                    )
                if (len(frames) + 1) * image.nbytes > _MOST_BYTES:
                    raise ConfigError(
                        f"{path}: more than {_MOST_BYTES / 1e9:g} GB of pictures; take fewer frames or a smaller height."
                    )
                frames.append(image)
                if picture.time is not None:
                    times.append((index, picture.time))
                if len(frames) == count:
                    break
    except av.error.FFmpegError as error:
        raise CorruptBitstream(f"{path}: FFmpeg cannot read this as a video ({error.strerror}).") from error
    if not frames:
        raise ConfigError(f"{path}: start={start} lies behind its last frame.")
    return Clip(np.stack(frames), (fps or _measured_fps(times, own_fps)) / step, path.stem)


def _measured_fps(times: list[tuple[int, float]], stated_fps: float) -> float:
    """The rate that a file states, or that of its frames (index, time in s) if the two are more than a tenth apart.

    Files with a variable rate may state that of their clock, 1000 per second for instance.
    """
    if len(times) < 2 or times[-1][1] <= times[0][1]:
        return stated_fps
    fps = (times[-1][0] - times[0][0]) / (times[-1][1] - times[0][1])
    return fps if abs(fps / stated_fps - 1) > 0.1 else stated_fps


def _upright(picture) -> np.ndarray:  # type: ignore[no-untyped-def]
    from av.video.reformatter import Interpolation

    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    rgb = picture.reformat(format="rgb24", interpolation=exact, threads=1).to_ndarray()
    turns = round(getattr(picture, "rotation", 0) / 90) % 4
    return np.rot90(rgb, turns) if turns else rgb


def _resized(image: np.ndarray, height: int | None, width: int | None) -> np.ndarray:
    import cv2

    if height is None and width is None:
        return np.ascontiguousarray(image)
    old_height, old_width = image.shape[:2]
    new_height = height if height is not None else max(2, 2 * round(old_height * (width or 0) / old_width / 2))
    new_width = width if width is not None else max(2, 2 * round(old_width * (height or 0) / old_height / 2))
    shrinks = new_height * new_width < old_height * old_width
    return cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
