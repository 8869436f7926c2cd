"""Procedural natural-like video: a photograph under smooth camera motion, textured sprites that move on their own, sensor noise.

    clip = make_clip(rng, photographs, ClipStyle(size=256, num_frames=40))    # uint8 (T, H, W, 3)

The bundled test clips are made from photographs that come with scikit-learn and matplotlib, which every installation has; the
bundled weights were trained on other photographs (see the card beside the weights).

# DEVIATION grace-3: procedural clips of four content classes stand for Kinetics, gaming, UVG and FVC
"""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from common.errors import ConfigError, DataUnavailable

Photo = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class ClipStyle:
    """What a procedural clip looks like.

    Attributes:
        height, width: pixels.
        num_frames: T.
        speed: of camera and sprites, 1 for a hand-held camera.
        max_sprites: 0 to this many are drawn.
        noise: standard deviation of the sensor noise, in steps of 1/255.
        calm_share: how often the camera nearly stands still.
    """

    height: int = 256
    width: int = 256
    num_frames: int = 40
    speed: float = 1.0
    max_sprites: int = 3
    noise: float = 1.0
    calm_share: float = 0.3

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 32 or self.num_frames < 1:
            raise ConfigError(
                f"a clip of {self.num_frames} frames of {self.height}x{self.width} cannot be made; "
                "use at least 1 frame and 32 pixels on a side."
            )


def read_photo(path: Path, longest_short_side: int = 640) -> Photo:
    """An image file as RGB, scaled down so that its short side has at most so many pixels.

    Raises:
        DataUnavailable: the file is missing or is no image.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataUnavailable(f"{path} cannot be read as an image. Give PNG or JPEG files.")
    short = min(image.shape[:2])
    if short > longest_short_side:
        factor = longest_short_side / short
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def bundled_photos() -> list[Photo]:
    """The photographs of the test clips, never used in training: from scikit-learn (2) and matplotlib (1)."""
    import matplotlib
    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "images"
    paths = [folder / "china.jpg", folder / "flower.jpg"]
    paths.append(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    return [read_photo(path) for path in paths]


def make_clip(rng: Generator, photos: list[Photo], style: ClipStyle) -> NDArray[np.uint8]:
    """One clip; the same stream gives the same clip.

    Args:
        rng: of this clip.
        photos: textures, RGB, at least 32 pixels on a side.
        style: see `ClipStyle`.

    Returns:
        (T, H, W, 3) uint8 RGB.

    Raises:
        ConfigError: no photographs.
    """
    if not photos:
        raise ConfigError("a procedural clip needs at least one photograph as texture.")
    height, width, T, speed = style.height, style.width, style.num_frames, style.speed
    side = max(height, width)
    ground = photos[rng.integers(len(photos))]
    ground_height, ground_width = ground.shape[:2]
    least = max(height * 1.15 / ground_height, width * 1.15 / ground_width, 0.35)
    zoom = np.exp(rng.uniform(np.log(least), np.log(max(1.3 if side < 200 else 1.15, least * 1.05))))
    if rng.random() < 0.5:
        ground = np.ascontiguousarray(ground[:, ::-1])
    pan_x, pan_y = _smooth(rng, T, 1.6 * speed), _smooth(rng, T, 1.2 * speed)
    if rng.random() < style.calm_share:
        pan_x, pan_y = 0.1 * pan_x, 0.1 * pan_y
    centre_x = ground_width / 2 + rng.uniform(-0.15, 0.15) * ground_width
    centre_y = ground_height / 2 + rng.uniform(-0.15, 0.15) * ground_height
    turn = np.cumsum(_smooth(rng, T, 0.004 * speed))
    zooms = zoom * np.exp(np.cumsum(_smooth(rng, T, 0.004 * speed)))
    gain = 1 + np.cumsum(_smooth(rng, T, 0.0015))
    sprites = [_Sprite(rng, photos, style) for _ in range(rng.integers(0, style.max_sprites + 1))]
    clip = np.empty((T, height, width, 3), np.uint8)
    x, y = np.cumsum(pan_x), np.cumsum(pan_y)
    for t in range(T):
        matrix = _similarity(turn[t], zooms[t], (centre_x, centre_y), (width / 2 + x[t], height / 2 + y[t]))
        sampling = cv2.INTER_AREA if zooms[t] < 0.6 else cv2.INTER_CUBIC
        frame = cv2.warpAffine(ground, matrix, (width, height), flags=sampling, borderMode=cv2.BORDER_REFLECT_101)
        canvas = frame.astype(np.float32)
        for sprite in sprites:
            canvas = sprite.draw(canvas, t)
        canvas = canvas * gain[t] + rng.normal(0, style.noise, canvas.shape)
        clip[t] = np.clip(np.rint(canvas), 0, 255)
    return clip


class _Sprite:
    """A textured blob that moves, turns and grows smoothly, and bounces off the frame's edges."""

    def __init__(self, rng: Generator, photos: list[Photo], style: ClipStyle) -> None:
        size, T, speed = max(style.height, style.width), style.num_frames, style.speed
        photo = photos[rng.integers(len(photos))]
        n = max(8, int(rng.uniform(0.18, 0.45) * size))
        height, width = photo.shape[:2]
        cut = int(min(n / rng.uniform(0.4, 1.0), min(height, width) - 1))
        top, left = rng.integers(0, height - cut), rng.integers(0, width - cut)
        patch = photo[top : top + cut, left : left + cut]
        self.texture = cv2.resize(patch, (n, n), interpolation=cv2.INTER_AREA).astype(np.float32)
        self.mask = _blob(rng, n)
        x = rng.uniform(0.1, 0.9) * style.width
        y = rng.uniform(0.1, 0.9) * style.height
        step_x = _smooth(rng, T, 2.2 * speed) + rng.normal() * 1.2 * speed
        step_y = _smooth(rng, T, 1.6 * speed) + rng.normal() * 0.8 * speed
        self.x, self.y = _bounced(x, step_x, style.width), _bounced(y, step_y, style.height)
        self.turn = np.cumsum(_smooth(rng, T, 0.015 * speed))
        self.zoom = np.exp(np.cumsum(_smooth(rng, T, 0.01 * speed)))

    def draw(self, canvas: NDArray[np.float32], t: int) -> NDArray[np.float32]:
        """The canvas with this sprite of frame t over it."""
        height, width = canvas.shape[:2]
        half = self.texture.shape[0] / 2
        matrix = _similarity(self.turn[t], self.zoom[t], (half, half), (self.x[t], self.y[t]))
        texture = cv2.warpAffine(self.texture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        mask = cv2.warpAffine(self.mask, matrix, (width, height))[..., None]
        result: NDArray[np.float32] = canvas * (1 - mask) + texture * mask
        return result


def _similarity(
    turn: float, zoom: float, source: tuple[float, float], target: tuple[float, float]
) -> NDArray[np.float32]:
    """The 2x3 matrix that turns and scales about `source` and moves it to `target`."""
    c, s = np.cos(turn) * zoom, np.sin(turn) * zoom
    return np.array(
        [
            [c, -s, target[0] - c * source[0] + s * source[1]],
            [s, c, target[1] - s * source[0] - c * source[1]],
        ],
        np.float32,
    )


def _bounced(start: float, steps: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Positions that turn back 20 pixels beyond either edge."""
    period = 2 * (size + 40)
    folded = (start + np.cumsum(steps) + 20) % period
    return np.where(folded > size + 40, period - folded, folded) - 20


def _smooth(rng: Generator, num: int, amplitude: float, correlation: float = 0.92) -> NDArray[np.float64]:
    """A stationary first-order autoregressive process that starts at its mean."""
    noise = rng.normal(size=num) * np.sqrt(1 - correlation**2)
    values = np.zeros(num)
    value = 0.0
    for t in range(num):
        value = correlation * value + noise[t]
        values[t] = value
    return values * amplitude


def _blob(rng: Generator, size: int) -> NDArray[np.float32]:
    """A soft-edged random blob mask, (size, size), in [0, 1]."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = [rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) / k for k in (2, 3, 4)]
    radius = np.clip(0.36 + 0.1 * np.sum(waves, axis=0), 0.15, 0.48)
    outline = np.stack([size / 2 + size * radius * np.cos(angle), size / 2 + size * radius * np.sin(angle)], axis=1)
    mask = np.zeros((size, size), np.float32)
    cv2.fillPoly(mask, [outline.astype(np.int32)], (1.0,))
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 1.0), np.float32)
