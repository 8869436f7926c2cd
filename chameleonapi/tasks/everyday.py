"""Everyday objects, drawn: the bundled multi-label image task.

A grey canvas of 32 x 32 pixels with a flat random background and one to three objects of different classes, at random places
(they may overlap), sizes, angles and contrasts; photon and read-out noise; 8 bits. Forty classes are ten silhouettes in four
variants that differ by a few pixels: silhouettes are easy to tell apart, variants are hard. The variants of one silhouette carry
names from different parts of life, so that an application's lists cut across what the network confuses.
"""

import io
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chameleonapi.tasks.task import Examples, UnreadableContent
from common.errors import ConfigError
from common.rng import for_component

FloatArray = npt.NDArray[np.float32]

SIDE = 32
SPRITE = 14
NUM_SPRITES = 32  # drawings of each class
MAX_OBJECTS = 3
READ_NOISE = 0.06
PHOTON_NOISE = 0.03

VARIANTS = ("plain", "dot", "cut", "stripe")
NAMES = {
    "disc": ("Apple", "Orange", "Tomato", "Ball"),
    "ring": ("Tire", "Bracelet", "Doughnut", "Wheel"),
    "square": ("Paper", "Cardboard", "Carton", "Envelope"),
    "triangle": ("Pizza", "Sandwich", "Tent", "Cheese"),
    "cross": ("Shirt", "Jacket", "T-shirt", "Sweater"),
    "star": ("Flower", "Starfish", "Sunflower", "Leaf"),
    "bar": ("Plastic bottle", "Glass bottle", "Tin can", "Candle"),
    "moon": ("Banana", "Croissant", "Boomerang", "Bean"),
    "diamond": ("Traffic sign", "Kite", "Diamond", "Sign"),
    "frame": ("Chair", "Table", "Bench", "Ladder"),
}
LABELS = tuple(name for names in NAMES.values() for name in names)
CATEGORIES = {
    "food": ("Apple", "Orange", "Tomato", "Doughnut", "Pizza", "Sandwich", "Cheese", "Banana", "Croissant", "Bean"),
    "nature": ("Flower", "Starfish", "Sunflower", "Leaf"),
    "clothing": ("Shirt", "Jacket", "T-shirt", "Sweater", "Bracelet", "Diamond"),
    "packaging": ("Paper", "Cardboard", "Carton", "Envelope", "Plastic bottle", "Glass bottle", "Tin can"),
    "household": ("Chair", "Table", "Bench", "Ladder", "Candle"),
    "outdoors": ("Ball", "Tire", "Wheel", "Tent", "Boomerang", "Traffic sign", "Kite", "Sign"),
}


def _silhouette(name: str, x: FloatArray, y: FloatArray) -> npt.NDArray[np.bool_]:
    """Points (x, y) inside the silhouette of radius 1."""
    radius = np.hypot(x, y)
    if name == "disc":
        return radius < 1
    if name == "ring":
        return (radius < 1) & (radius > 0.55)
    if name == "square":
        return np.maximum(abs(x), abs(y)) < 0.82
    if name == "triangle":
        return (y < 0.75) & (y > 1.75 * abs(x) - 1)
    if name == "cross":
        return (np.maximum(abs(x), abs(y)) < 1) & (np.minimum(abs(x), abs(y)) < 0.36)
    if name == "star":
        return radius < 0.68 + 0.32 * np.cos(5 * np.arctan2(y, x))
    if name == "bar":
        return (abs(x) < 0.42) & (abs(y) < 1)
    if name == "moon":
        return (radius < 1) & (np.hypot(x - 0.5, y) > 0.72)
    if name == "diamond":
        return abs(x) * 1.35 + abs(y) < 1
    return (abs(x) < 0.85) & (abs(y) < 1) & ((abs(abs(x) - 0.65) < 0.22) | (abs(y) < 0.2))


def _variant(name: str, inside: npt.NDArray[np.bool_], x: FloatArray, y: FloatArray) -> npt.NDArray[np.bool_]:
    if name == "dot":
        spot = np.hypot(x, y) < 0.34
        return inside ^ spot  # a hole in a full silhouette, a dot in a hollow one
    if name == "cut":
        return inside & ~((x > 0.12) & (y < -0.25))
    if name == "stripe":
        return inside & ~(abs(y - 0.42) < 0.17)
    return inside


@lru_cache(maxsize=1)
def sprites() -> FloatArray:
    """Coverage of the drawings, (40, NUM_SPRITES, SPRITE, SPRITE) in [0, 1]: angle within 0.5 rad, radius 4.2 to 6.3 pixels."""
    rng = for_component(0, "chameleonapi", "sprites")
    fine = 4  # supersampling
    axis = ((np.arange(SPRITE * fine) + 0.5) / fine - SPRITE / 2).astype(np.float32)
    grid_y, grid_x = np.meshgrid(axis, axis, indexing="ij")
    out = np.empty((len(LABELS), NUM_SPRITES, SPRITE, SPRITE), np.float32)
    for row, (silhouette, variant) in enumerate((s, v) for s in NAMES for v in VARIANTS):
        for number in range(NUM_SPRITES):
            angle, size = rng.uniform(-0.5, 0.5), rng.uniform(4.2, 6.3)
            x = (np.cos(angle) * grid_x + np.sin(angle) * grid_y) / size
            y = (np.cos(angle) * grid_y - np.sin(angle) * grid_x) / size
            mask = _variant(variant, _silhouette(silhouette, x, y), x, y)
            out[row, number] = mask.reshape(SPRITE, fine, SPRITE, fine).mean((1, 3))
    return out


def draw(rng: np.random.Generator, n: int) -> Examples:
    """n canvases with their labels."""
    background = rng.uniform(0.15, 0.85, n).astype(np.float32)
    canvas = np.repeat(background[:, None], SIDE * SIDE, 1).reshape(n, SIDE, SIDE)
    labels = np.zeros((n, len(LABELS)), bool)
    classes = rng.permuted(np.tile(np.arange(len(LABELS), dtype=np.int16), (n, 1)), axis=1)[:, :MAX_OBJECTS]
    counts = rng.integers(1, MAX_OBJECTS + 1, n)
    steps = np.arange(SPRITE)
    for place in range(MAX_OBJECTS):
        rows = np.flatnonzero(counts > place)
        drawn = sprites()[classes[rows, place], rng.integers(NUM_SPRITES, size=len(rows))]
        top, left = rng.integers(0, SIDE - SPRITE + 1, (2, len(rows)))
        # Contrast of at least 0.3 to the background, to the side where there is room.
        room_up, room_down = 1 - background[rows], background[rows]
        is_up = rng.random(len(rows)) < np.where(room_down < 0.3, 1.0, np.where(room_up < 0.3, 0.0, 0.5))
        reach = np.where(is_up, room_up, room_down) - 0.3
        offset = (0.3 + rng.random(len(rows)) * np.maximum(reach, 0)) * np.where(is_up, 1, -1)
        shade = (background[rows] + offset).astype(np.float32)
        at = (rows[:, None, None], (top[:, None] + steps)[:, :, None], (left[:, None] + steps)[:, None, :])
        canvas[at] += drawn * (shade[:, None, None] - canvas[at])
        labels[rows, classes[rows, place]] = True
    spread = np.sqrt(READ_NOISE**2 + PHOTON_NOISE**2 * canvas)
    noisy = canvas + spread * rng.standard_normal(canvas.shape, np.float32)
    pixels = np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
    return Examples(torch.from_numpy(pixels), torch.from_numpy(labels))


@dataclass(frozen=True)
class EverydayTask:
    """The task as `chameleonapi.tasks.task.Task`."""

    name: str = "everyday"
    labels: tuple[str, ...] = LABELS
    vocabulary: str = "image"
    categories: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(CATEGORIES))

    def examples(self, split: str, seed: int, n: int) -> Examples:
        """n canvases; splits and seeds never share one."""
        if split not in ("train", "validation", "test"):
            raise ConfigError(f"split {split!r} is not known. Use train, validation or test.")
        return draw(for_component(seed, "chameleonapi", "everyday", split), n)

    def content(self, inputs: Tensor, index: int) -> bytes:
        """A canvas as a PNG file."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(inputs[index].numpy(), "L").save(buffer, "PNG")
        return buffer.getvalue()

    def read(self, content: bytes) -> Tensor:
        """An image file of any size and colour as a canvas, (1, 32, 32) uint8."""
        image = open_image(content).convert("L")
        if image.size != (SIDE, SIDE):
            image = image.resize((SIDE, SIDE))
        return torch.from_numpy(np.array(image, np.uint8))[None]


def open_image(content: bytes, max_pixels: int = 50_000_000) -> "Image.Image":  # type: ignore[name-defined]  # noqa: F821
    """The decoded image.

    Raises:
        UnreadableContent: no image, a damaged one, or one of more than `max_pixels`.
    """
    import warnings

    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
            if image.width * image.height > max_pixels:
                raise UnreadableContent(
                    f"the image has {image.width} x {image.height} pixels; send at most {max_pixels} pixels."
                )
            image.load()
            return image
    except UnreadableContent:
        raise
    except (
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise UnreadableContent(
            f"the content ({len(content)} bytes) is not a readable image. Send PNG or JPEG."
        ) from error
