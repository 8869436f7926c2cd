"""What the bundled weights are trained on: short crops of procedural clips and, where a data root is given, of real ones.

Photographs and clips of the tests are never among them: the test clips' names are in `TEST_CLIPS`, the photographs of the
bundled test clips are those of `grace.clips.bundled_photos`.
"""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from common.errors import ConfigError, DataUnavailable
from grace.clips import ClipStyle, Photo, make_clip, read_photo
from grace.motion import MotionEstimator, fit_global

CROP = 96
FRAMES = 6

TRAINING_CLIPS = (
    "intel_car-detection.mp4",
    "intel_one-by-one-person-detection.mp4",
    "udacity_solidWhiteRight.mp4",
    "openh264_street_1080p.264",
    "sam2_dog_720p.mp4",
)
TEST_CLIPS = (
    "foreman_cif.mp4",
    "carphone_qcif.mp4",
    "nasa_13013.mp4",
    "sam2_juggle_720p.mp4",
    "openh264_flower_720p.264",
)
"""Clips of the data root that the experiments may use; nothing is ever trained on them."""

# Colour photographs and textures of scikit-image.
_LIBRARY_PHOTOS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
    "color.png",
    "grass.png",
    "gravel.png",
    "brick.png",
    "coins.png",
    "camera.png",
)


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """Crops with the motion between their frames.

    Attributes:
        frames: (N, FRAMES, CROP, CROP, 3) uint8.
        flows: (N, FRAMES - 1, CROP, CROP, 2) float16: from frame t + 1 to frame t, pixels.
        motions: (N, FRAMES - 1, 2, 3) int16: its global part.
        sources: name and number of crops of everything that was used.
    """

    frames: NDArray[np.uint8]
    flows: NDArray[np.float16]
    motions: NDArray[np.int16]
    sources: dict[str, int]

    def __len__(self) -> int:
        return len(self.frames)


def training_photos(data_root: Path | None) -> tuple[list[Photo], dict[str, int]]:
    """Textures of the procedural clips: scikit-image's, and the Kodak and CID22 photographs of the data root.

    Raises:
        DataUnavailable: neither is there.
    """
    paths: list[Path] = []
    try:
        import skimage
    except ImportError:
        pass
    else:
        folder = Path(skimage.__file__).parent / "data"
        paths += [folder / name for name in _LIBRARY_PHOTOS if (folder / name).is_file()]
    num_library = len(paths)
    if data_root is not None:
        paths += sorted((data_root / "images" / "kodak").glob("*.png"))
        paths += sorted((data_root / "images" / "cid22").glob("*.png"))
    if not paths:
        raise DataUnavailable("no training photographs: install scikit-image, or give a data root with images/kodak.")
    counts = {"photographs of scikit-image": num_library, "photographs of the data root": len(paths) - num_library}
    return [read_photo(path) for path in paths], counts


def make_training_set(rng: Generator, num_procedural: int, num_real: int, data_root: Path | None) -> TrainingSet:
    """Draw crops.

    Args:
        rng: decides everything.
        num_procedural, num_real: numbers of crops; real ones need the data root.
        data_root: folder with images/ and video/, or None.

    Raises:
        ConfigError: real crops are asked for without a data root.
        DataUnavailable: no photographs, or a clip is missing.
    """
    if num_real and data_root is None:
        raise ConfigError(f"num_real={num_real} crops of real clips need a data root.")
    photos, sources = training_photos(data_root)
    crops = []
    for _ in range(num_procedural):
        style = ClipStyle(
            CROP, CROP, FRAMES, speed=float(rng.choice([0.5, 1.0, 1.6])), noise=float(rng.uniform(0, 1.5))
        )
        crops.append(make_clip(rng, photos, style))
    sources["procedural crops"] = num_procedural
    if num_real and data_root is not None:
        per_clip = -(-num_real // len(TRAINING_CLIPS))
        for name in TRAINING_CLIPS:
            found = _real_crops(rng, data_root / "video" / name, per_clip)
            sources[name] = len(found)
            crops += found
    frames = np.stack(crops)
    estimator = MotionEstimator()
    flows = np.empty((len(frames), FRAMES - 1, CROP, CROP, 2), np.float16)
    motions = np.empty((len(frames), FRAMES - 1, 2, 3), np.int16)
    for index, crop in enumerate(frames):
        for t in range(FRAMES - 1):
            flow = estimator.flow(crop[t + 1], crop[t])
            flows[index, t] = flow
            motions[index, t] = fit_global(flow)
    return TrainingSet(frames, flows, motions, sources)


def _real_crops(rng: Generator, path: Path, num: int) -> list[NDArray[np.uint8]]:
    """Crops of a clip, scaled down by at least 2 (the clips were compressed before), evenly over its length."""
    import av

    if not path.is_file():
        raise DataUnavailable(f"{path} is missing. Give the data root that holds video/{path.name}, or num_real=0.")
    clips: list[NDArray[np.uint8]] = []
    with av.open(str(path), metadata_errors="replace") as container:
        recent: list[NDArray[np.uint8]] = []
        frames = container.decode(video=0)
        for index, frame in enumerate(frames):
            if index > 400 or len(clips) >= num:
                break
            image = frame.to_ndarray(format="rgb24")
            recent.append(np.asarray(image, np.uint8))
            if len(recent) < FRAMES:
                continue
            # Four crops from every sixth window of frames, each at a scale of its own.
            for _ in range(8):
                factor = rng.uniform(0.3, 0.5) * min(1.0, 720 / image.shape[0])
                crop = _crop(rng, recent, factor)
                # A crop in which nothing moves and nothing is drawn teaches little; keep one in four of them.
                if (
                    crop.std() > 12 and np.abs(np.diff(crop[:2].astype(np.int16), axis=0)).mean() > 0.8
                ) or rng.random() < 0.25:
                    clips.append(crop)
            recent = []
    return clips[:num]


def _crop(rng: Generator, frames: list[NDArray[np.uint8]], factor: float) -> NDArray[np.uint8]:
    height, width = frames[0].shape[:2]
    source = int(np.ceil(CROP / factor))
    if source >= min(height, width):
        source = min(height, width)
    top, left = int(rng.integers(0, height - source + 1)), int(rng.integers(0, width - source + 1))
    cut = [frame[top : top + source, left : left + source] for frame in frames]
    return np.stack([cv2.resize(part, (CROP, CROP), interpolation=cv2.INTER_AREA) for part in cut]).astype(np.uint8)
