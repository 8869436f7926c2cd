"""Pictures of single things in a street: vehicles, people, trees, signs, buildings; and textures of grounds.

A sprite is a (height, width, 4) float32 picture with anti-aliased edges: premultiplied RGB in 0..255 and opacity in 0..1. It
stands on its lower edge and has a size in metres. Every call draws another individual: shape, colours, pattern and dirt.
"""

import dataclasses
from typing import Any

import numpy as np

Colour = tuple[float, float, float]
PIXELS_PER_M = 40
_OVERSAMPLING = 2
MIN_LEVEL_SIDE = 6


@dataclasses.dataclass(frozen=True)
class Sprite:
    """One thing, seen from the front.

    Attributes:
        levels: for each phase of its movement, pictures of falling resolution (each half the one before).
        width_m, height_m: its size.
    """

    levels: tuple[tuple[np.ndarray, ...], ...]
    width_m: float
    height_m: float

    def picture(self, phase: int, pixels_per_m: float) -> np.ndarray:
        """The picture of a phase whose resolution is nearest above the wanted one."""
        pyramid = self.levels[phase % len(self.levels)]
        finest = pyramid[0].shape[0] / self.height_m
        level = int(np.clip(np.floor(np.log2(max(finest / max(pixels_per_m, 1e-6), 1.0)) + 0.3), 0, len(pyramid) - 1))
        return pyramid[level]


def noise_texture(
    rng: np.random.Generator, height: int, width: int, octaves: tuple[int, ...], amplitudes: tuple[float, ...]
) -> np.ndarray:
    """(height, width) float32: smooth noise of several scales (cells of `octaves` pixels), zero mean."""
    import cv2

    total = np.zeros((height, width), np.float32)
    for cell, amplitude in zip(octaves, amplitudes, strict=True):
        coarse = rng.standard_normal((height // cell + 3, width // cell + 3)).astype(np.float32)
        fine = cv2.resize(coarse, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
        total += amplitude * fine[cell : cell + height, cell : cell + width]
    return total


class _Canvas:
    """Draws in metres, y upwards from the ground, x from the middle."""

    def __init__(self, width_m: float, height_m: float) -> None:
        self.scale = PIXELS_PER_M * _OVERSAMPLING
        self.width_m, self.height_m = width_m, height_m
        self.rows, self.cols = round(height_m * self.scale), round(width_m * self.scale)
        self.rgb = np.zeros((self.rows, self.cols, 3), np.float32)
        self.alpha = np.zeros((self.rows, self.cols), np.float32)

    def _points(self, points: Any) -> np.ndarray:
        array = np.asarray(points, np.float64).reshape(-1, 2)
        pixels = np.stack([array[:, 0] * self.scale + self.cols / 2, self.rows - array[:, 1] * self.scale], 1)
        return np.round(pixels).astype(np.int32)

    def polygon(self, points: Any, colour: Colour) -> None:
        import cv2

        corners = self._points(points)
        cv2.fillPoly(self.rgb, [corners], colour)
        cv2.fillPoly(self.alpha, [corners], 1.0)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        import cv2

        centre = tuple(int(value) for value in self._points((x, y))[0])
        axes = (max(1, round(rx * self.scale)), max(1, round(ry * self.scale)))
        cv2.ellipse(self.rgb, centre, axes, 0, 0, 360, colour, -1)
        cv2.ellipse(self.alpha, centre, axes, 0, 0, 360, 1.0, -1)

    def line(self, points: Any, width_m: float, colour: Colour) -> None:
        import cv2

        corners = self._points(points)
        thickness = max(1, round(width_m * self.scale))
        cv2.polylines(self.rgb, [corners], False, colour, thickness)
        cv2.polylines(self.alpha, [corners], False, 1.0, thickness)

    def finish(self, rng: np.random.Generator, dirt: float = 8.0, shade: float = 0.25) -> tuple[np.ndarray, ...]:
        """Texture, light from above, premultiply, and make the smaller levels."""
        import cv2

        grain = noise_texture(rng, self.rows, self.cols, (4, 12, 40), (dirt * 0.5, dirt * 0.7, dirt))
        light = np.linspace(1 + shade / 2, 1 - shade, self.rows, dtype=np.float32)[:, None]
        rgb = np.clip((self.rgb + grain[..., None]) * light[..., None], 0, 255) * self.alpha[..., None]
        picture = np.concatenate([rgb, self.alpha[..., None]], 2)
        size = (max(2, self.cols // _OVERSAMPLING), max(2, self.rows // _OVERSAMPLING))
        levels = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA)]
        while min(levels[-1].shape[:2]) >= 2 * MIN_LEVEL_SIDE:
            rows, cols = levels[-1].shape[:2]
            levels.append(cv2.resize(levels[-1], (cols // 2, rows // 2), interpolation=cv2.INTER_AREA))
        return tuple(levels)


def paint(rng: np.random.Generator, dull: float = 0.5) -> Colour:
    """A random colour; with probability `dull` a grey, as most cars and coats are."""
    if rng.random() < dull:
        grey = rng.uniform(25, 225)
        return tuple(float(v) for v in np.clip(grey + rng.uniform(-10, 10, 3), 0, 255))  # type: ignore[return-value]
    return tuple(float(v) for v in rng.uniform(20, 230, 3))  # type: ignore[return-value]


def darker(colour: Colour, factor: float) -> Colour:
    return tuple(channel * factor for channel in colour)  # type: ignore[return-value]


def _wheel(canvas: _Canvas, x: float, radius: float, rng: np.random.Generator) -> None:
    canvas.ellipse(x, radius, radius, radius, (22, 22, 24))
    rim = rng.uniform(60, 170)
    canvas.ellipse(x, radius, radius * 0.55, radius * 0.55, (rim, rim, rim))


def car(rng: np.random.Generator, side: bool) -> Sprite:
    """A passenger car, from the side (facing right or left) or from front or back."""
    colour, glass = paint(rng, 0.6), (rng.uniform(40, 120), rng.uniform(55, 130), rng.uniform(70, 150))
    if not side:
        width, height = rng.uniform(1.65, 1.9), rng.uniform(1.35, 1.7)
        c = _Canvas(width, height)
        w = width / 2
        for x in (-w * 0.72, w * 0.72):
            c.box(x - 0.11, 0, x + 0.11, 0.4, (20, 20, 22))
        c.box(-w, 0.22, w, height * 0.6, colour)
        c.polygon(
            [(-w * 0.95, height * 0.58), (w * 0.95, height * 0.58), (w * 0.75, height), (-w * 0.75, height)], colour
        )
        c.polygon(
            [
                (-w * 0.82, height * 0.6),
                (w * 0.82, height * 0.6),
                (w * 0.66, height * 0.93),
                (-w * 0.66, height * 0.93),
            ],
            glass,
        )
        lamp = (235, 225, 190) if rng.random() < 0.5 else (190, 30, 30)
        for x in (-w * 0.75, w * 0.75):
            c.ellipse(x, height * 0.46, 0.14, 0.08, lamp)
        c.box(-0.26, 0.34, 0.26, 0.46, (215, 215, 205))
        c.box(-w, 0.22, w, 0.3, darker(colour, 0.5))
        return Sprite((c.finish(rng),), width, height)
    length, height = rng.uniform(3.7, 4.8), rng.uniform(1.3, 1.65)
    c = _Canvas(length, height)
    half, belt = length / 2, height * rng.uniform(0.55, 0.64)
    front, rear = rng.uniform(0.12, 0.3), rng.uniform(0.02, 0.22)
    c.polygon(
        [
            (-half, 0.25),
            (half, 0.25),
            (half, belt * 0.8),
            (half * 0.92, belt),
            (-half * 0.97, belt),
            (-half, belt * 0.85),
        ],
        colour,
    )
    roof = [
        (half * (1 - 2 * front) + 0.25, belt),
        (half * (1 - 2 * front) - 0.45, height),
        (-half * (1 - 2 * rear) + 0.3, height),
    ]
    c.polygon([*roof, (-half * (1 - 2 * rear) - 0.1, belt)], colour)
    inset = 0.09
    top, base = height - inset, belt + 0.03
    x0, x1 = -half * (1 - 2 * rear) + 0.2, half * (1 - 2 * front) - 0.05
    middle = (x0 + x1) / 2
    c.polygon([(x0, base), (middle - 0.05, base), (middle - 0.05, top), (x0 + 0.25, top)], glass)
    c.polygon([(middle + 0.05, base), (x1, base), (x1 - 0.48, top), (middle + 0.05, top)], glass)
    c.line([(middle, 0.3), (middle, belt)], 0.04, darker(colour, 0.6))
    c.box(-half, 0.22, half, 0.32, darker(colour, 0.5))
    c.box(half - 0.16, belt * 0.62, half, belt * 0.78, (235, 225, 190))
    c.box(-half, belt * 0.62, -half + 0.14, belt * 0.8, (180, 30, 30))
    radius = rng.uniform(0.29, 0.36)
    for x in (-half * 0.62, half * 0.6):
        c.ellipse(x, radius, radius * 1.15, radius * 1.15, darker(colour, 0.25))
        _wheel(c, x, radius, rng)
    return Sprite((c.finish(rng),), length, height)


def truck(rng: np.random.Generator, side: bool) -> Sprite:
    """A van, lorry or bus."""
    colour, second = paint(rng, 0.4), paint(rng, 0.3)
    glass = (rng.uniform(40, 110), rng.uniform(55, 120), rng.uniform(70, 140))
    if not side:
        width, height = rng.uniform(2.0, 2.5), rng.uniform(2.1, 3.2)
        c = _Canvas(width, height)
        w = width / 2
        for x in (-w * 0.75, w * 0.75):
            c.box(x - 0.15, 0, x + 0.15, 0.5, (20, 20, 22))
        c.box(-w, 0.3, w, height, colour)
        c.box(-w * 0.86, height * 0.5, w * 0.86, height * 0.82, glass)
        c.box(-w * 0.6, height * 0.86, w * 0.6, height * 0.96, second)
        for x in (-w * 0.78, w * 0.78):
            c.box(x - 0.14, 0.5, x + 0.14, 0.72, (235, 225, 190))
        c.box(-w, 0.3, w, 0.42, darker(colour, 0.45))
        return Sprite((c.finish(rng),), width, height)
    length, height = rng.uniform(4.8, 8.0), rng.uniform(2.0, 3.1)
    c = _Canvas(length, height)
    half = length / 2
    cab = half - rng.uniform(1.2, 1.7)
    if rng.random() < 0.4:  # a bus: windows all along
        c.box(-half, 0.35, half, height, colour)
        step = rng.uniform(0.8, 1.2)
        for x in np.arange(-half + 0.2, half - step * 0.8, step):
            c.box(x, height * 0.52, x + step * 0.82, height * 0.85, glass)
        c.box(-half, height * 0.36, half, height * 0.44, second)
    else:
        c.box(-half, 0.45, cab - 0.08, height, second)
        for x in np.arange(-half + 0.4, cab - 0.4, rng.uniform(0.5, 1.4)):
            c.line([(x, 0.5), (x, height - 0.05)], 0.03, darker(second, 0.75))
        sign = paint(rng, 0.1)
        c.box(-half * 0.7, height * 0.5, cab - 1.0, height * 0.75, sign)
        top = height * rng.uniform(0.75, 1.0)
        c.polygon([(cab, 0.35), (half, 0.35), (half, top * 0.55), (half - 0.35, top), (cab, top)], colour)
        c.polygon(
            [(cab + 0.35, top * 0.55), (half - 0.1, top * 0.55), (half - 0.42, top * 0.92), (cab + 0.35, top * 0.92)],
            glass,
        )
    c.box(-half, 0.35, half, 0.5, (40, 40, 42))
    radius = rng.uniform(0.38, 0.48)
    for x in (-half * 0.7, -half * 0.7 + 2.3 * radius, half * 0.72):
        _wheel(c, x, radius, rng)
    return Sprite((c.finish(rng),), length, height)


def person(rng: np.random.Generator, side: bool = True) -> Sprite:
    """Somebody on foot, with four phases of walking."""
    height, build = rng.uniform(1.5, 1.9), rng.uniform(0.85, 1.2)
    coat, trousers, skin = paint(rng, 0.35), darker(paint(rng, 0.7), 0.7), _skin(rng)
    hair, has_bag = darker(paint(rng, 0.8), 0.5), rng.random() < 0.35
    bag, long_coat = paint(rng, 0.3), rng.uniform(0.4, 0.52)
    phases = []
    grain = int(rng.integers(2**31))
    for phase in range(4):
        c = _Canvas(0.85, height)
        swing = np.sin(phase * np.pi / 2) * height * 0.13
        for sign, tone in ((-1, 0.75), (1, 1.0)):
            c.line(
                [(0, height * 0.48), (sign * swing * 0.5, height * 0.25), (sign * swing, 0.05)],
                0.15 * build,
                darker(trousers, tone),
            )
            c.line([(sign * swing, 0.05), (sign * swing + 0.1, 0.04)], 0.09, (30, 28, 26))
        c.line(
            [(-swing * 0.0 - 0.05, height * 0.78), (-0.08 - swing * 0.9, height * 0.5)], 0.1 * build, darker(coat, 0.7)
        )
        c.polygon(
            [
                (-0.2 * build, height * long_coat),
                (0.2 * build, height * long_coat),
                (0.19 * build, height * 0.82),
                (-0.19 * build, height * 0.82),
            ],
            coat,
        )
        c.line([(0.05, height * 0.78), (0.08 + swing * 0.9, height * 0.5)], 0.1 * build, darker(coat, 0.85))
        if has_bag:
            c.box(-0.32 * build, height * 0.55, -0.14 * build, height * 0.74, bag)
        c.ellipse(0, height * 0.915, 0.095, height * 0.075, skin)
        c.ellipse(-0.02, height * 0.945, 0.1, height * 0.05, hair)
        phases.append(c.finish(np.random.default_rng(grain)))
    return Sprite(tuple(phases), 0.85, height)


def cyclist(rng: np.random.Generator, side: bool = True) -> Sprite:
    """Somebody on a bicycle, with four phases of pedalling."""
    coat, trousers, skin, frame = paint(rng, 0.25), darker(paint(rng, 0.7), 0.7), _skin(rng), paint(rng, 0.3)
    helmet, grain, radius = paint(rng, 0.3), int(rng.integers(2**31)), rng.uniform(0.32, 0.36)
    height, width = rng.uniform(1.6, 1.85), 1.8
    phases = []
    for phase in range(4):
        c = _Canvas(width, height)
        for x in (-0.52, 0.52):
            circle = [(x + radius * np.cos(a), radius + radius * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 24)]
            c.line(circle, 0.055, (25, 25, 28))
            for a in np.linspace(0, np.pi, 4)[:-1] + phase * 0.4:
                c.line(
                    [
                        (x - radius * np.cos(a), radius - radius * np.sin(a)),
                        (x + radius * np.cos(a), radius + radius * np.sin(a)),
                    ],
                    0.02,
                    (110, 110, 112),
                )
        c.line([(-0.52, radius), (-0.08, 0.36), (0.4, 0.86), (-0.2, 0.84), (-0.08, 0.36)], 0.06, frame)
        c.line([(0.52, radius), (0.4, 1.0), (0.55, 1.02)], 0.06, frame)
        a = phase * np.pi / 2
        for sign, tone in ((-1, 0.7), (1, 1.0)):
            pedal = (-0.08 + sign * 0.16 * np.cos(a), 0.36 + sign * 0.16 * np.sin(a))
            knee = (0.16 + sign * 0.05 * np.cos(a), 0.66 + sign * 0.06 * np.sin(a))
            c.line([(-0.24, 0.92), knee, pedal], 0.14, darker(trousers, tone))
        c.polygon([(-0.36, 0.88), (-0.12, 0.84), (0.24, 1.36), (0.06, 1.48), (-0.1, 1.42)], coat)
        c.line([(0.12, 1.38), (0.3, 1.1), (0.48, 1.03)], 0.1, darker(coat, 0.8))
        c.ellipse(0.22, height - 0.17, 0.1, 0.13, skin)
        c.ellipse(0.2, height - 0.1, 0.13, 0.09, helmet)
        phases.append(c.finish(np.random.default_rng(grain)))
    return Sprite(tuple(phases), width, height)


def _skin(rng: np.random.Generator) -> Colour:
    tone = rng.uniform(0.35, 1.0)
    return (225 * tone, 180 * tone, 150 * tone)


def tree(rng: np.random.Generator) -> Sprite:
    """A tree or, smaller, a bush: a textured crown of many blobs."""
    is_bush = rng.random() < 0.4
    height = rng.uniform(0.7, 1.6) if is_bush else rng.uniform(3.0, 6.5)
    width = height * rng.uniform(0.7, 1.3)
    c = _Canvas(width, height)
    green = (rng.uniform(35, 110), rng.uniform(70, 140), rng.uniform(20, 80))
    if not is_bush:
        c.box(-0.12, 0, 0.12, height * 0.55, (75, 60, 45))
    low = 0.3 * height if is_bush else 0.6 * height
    for _ in range(int(rng.integers(25, 60))):
        x, y = rng.normal(0, width * 0.17), low + rng.normal(0, height * 0.13)
        y = float(np.clip(y, 0.1 * height, 0.85 * height))
        size = rng.uniform(0.05, 0.13) * height
        c.ellipse(
            float(np.clip(x, -width * 0.4, width * 0.4)),
            y,
            size,
            size * rng.uniform(0.7, 1.2),
            darker(green, rng.uniform(0.55, 1.35)),
        )
    return Sprite((c.finish(rng, dirt=18),), width, height)


def furniture(rng: np.random.Generator) -> Sprite:
    """Something that stands in a street and is none of the classes: posts, signs, boxes, benches, kiosks, hoardings.

    Some have the proportions and colours of persons or vehicles, so that a blurred picture of them deceives.
    """
    kind = int(rng.integers(7))
    colour, second = paint(rng, 0.4), paint(rng, 0.2)
    if kind == 0:  # lamp post
        height = rng.uniform(3.0, 6.0)
        c = _Canvas(1.2, height)
        c.line([(0, 0), (0, height - 0.1), (0.45, height - 0.15)], 0.12, darker(colour, 0.6))
        c.ellipse(0.45, height - 0.17, 0.14, 0.08, (230, 225, 200))
    elif kind == 1:  # traffic sign
        height = rng.uniform(1.8, 2.6)
        c = _Canvas(0.8, height)
        c.line([(0, 0), (0, height)], 0.07, (130, 130, 132))
        if rng.random() < 0.5:
            c.ellipse(0, height - 0.36, 0.34, 0.34, second)
            c.ellipse(0, height - 0.36, 0.22, 0.22, (230, 230, 225))
        else:
            c.polygon([(-0.38, height - 0.7), (0.38, height - 0.7), (0, height - 0.03)], second)
    elif kind == 2:  # post of a person's height, two colours
        height = rng.uniform(1.1, 1.9)
        c = _Canvas(0.6, height)
        c.box(-0.17, 0, 0.17, height, colour)
        c.box(-0.17, height * 0.5, 0.17, height * 0.8, second)
    elif kind == 3:  # bin or cabinet
        height, width = rng.uniform(0.8, 1.5), rng.uniform(0.6, 1.4)
        c = _Canvas(width, height)
        c.box(-width / 2, 0, width / 2, height, colour)
        c.box(-width / 2, height * 0.85, width / 2, height, darker(colour, 0.6))
    elif kind == 4:  # bench or rack
        c = _Canvas(1.8, 0.95)
        for y in (0.42, 0.62, 0.8):
            c.box(-0.85, y, 0.85, y + 0.1, colour)
        for x in (-0.7, 0.7):
            c.box(x - 0.06, 0, x + 0.06, 0.9, darker(colour, 0.5))
        height, width = 0.95, 1.8
    elif kind == 5:  # hoarding with a pattern
        height, width = rng.uniform(1.4, 2.4), rng.uniform(1.5, 4.0)
        c = _Canvas(width, height)
        c.box(-width / 2, 0.3, width / 2, height, colour)
        for _ in range(int(rng.integers(3, 9))):
            x, y = rng.uniform(-width / 2, width / 2 - 0.3), rng.uniform(0.35, height - 0.3)
            c.box(
                x, y, min(width / 2, x + rng.uniform(0.1, 0.8)), min(height, y + rng.uniform(0.1, 0.5)), paint(rng, 0.2)
            )
        for x in (-width * 0.4, width * 0.4):
            c.box(x - 0.05, 0, x + 0.05, 0.35, (60, 60, 60))
    else:  # kiosk: as big as a van, without wheels
        height, width = rng.uniform(2.0, 2.8), rng.uniform(2.0, 4.0)
        c = _Canvas(width, height)
        c.box(-width / 2, 0, width / 2, height, colour)
        c.box(-width * 0.35, height * 0.4, width * 0.35, height * 0.75, darker(second, 0.6))
        c.box(-width / 2, height * 0.85, width / 2, height, second)
    return Sprite((c.finish(rng, dirt=12),), c.width_m, c.height_m)


def building(rng: np.random.Generator) -> Sprite:
    """A facade with rows of windows, at a quarter of the usual resolution."""
    import cv2

    width, height = rng.uniform(7, 20), rng.uniform(5, 16)
    scale = PIXELS_PER_M // 3
    rows, cols = round(height * scale), round(width * scale)
    wall = np.array(paint(rng, 0.4), np.float32) * 0.6 + 50
    picture = np.empty((rows, cols, 4), np.float32)
    picture[..., :3] = wall + noise_texture(rng, rows, cols, (3, 9, 40), (6, 6, 9))[..., None]
    picture[..., 3] = 1
    step_x, step_y = rng.uniform(1.4, 3.0) * scale, rng.uniform(2.2, 3.2) * scale
    window = (step_x * rng.uniform(0.35, 0.7), step_y * rng.uniform(0.35, 0.65))
    frame = (wall * rng.uniform(0.5, 1.4)).clip(0, 255)
    for top in np.arange(step_y * 0.25, rows - step_y * 0.6, step_y):
        for left in np.arange(step_x * 0.25, cols - window[0], step_x):
            x0, y0, x1, y1 = (int(v) for v in (left, top, left + window[0], top + window[1]))
            picture[y0:y1, x0:x1, :3] = frame
            picture[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1, :3] = rng.uniform(15, 110) + rng.uniform(-8, 8, 3)
    if rng.random() < 0.6:  # shop front
        top = rows - round(rng.uniform(2.2, 3.2) * scale)
        picture[top : top + max(2, scale // 2), :, :3] = paint(rng, 0.1)
        for left in np.arange(2, cols - step_x, step_x * 1.3):
            picture[top + scale // 2 : rows, int(left) : int(left + step_x), :3] = rng.uniform(20, 90)
    picture[..., :3] = picture[..., :3].clip(0, 255)
    levels: list[np.ndarray] = [picture]
    while min(levels[-1].shape[:2]) >= 16:
        levels.append(
            cv2.resize(levels[-1], (levels[-1].shape[1] // 2, levels[-1].shape[0] // 2), interpolation=cv2.INTER_AREA)
        )
    return Sprite((tuple(levels),), width, height)


def ground(rng: np.random.Generator, cells: int, pixels_per_m: float, lanes_m: tuple[float, ...]) -> np.ndarray:
    """(cells, cells, 3) float32 texture of the ground, which repeats; rows run away from the camera.

    Args:
        lanes_m: where lane markings run across the view, in metres from the texture's first row.
    """
    grain = noise_texture(rng, cells, cells, (1, 3, 8, 32, 96), (7, 6, 6, 7, 9))
    tone = rng.uniform(60, 130)
    tint = rng.uniform(0.9, 1.1, 3)
    texture = np.repeat((tone + grain)[..., None], 3, 2) * tint
    for _ in range(int(rng.integers(4, 14))):  # patches, stains, shadows of things outside the view
        x, y, w, h = (int(v) for v in (*rng.integers(0, cells, 2), *rng.integers(cells // 30, cells // 5, 2)))
        texture[y : y + h, x : x + w] *= rng.uniform(0.55, 1.25)
    line = max(1, round(0.16 * pixels_per_m))
    white = rng.uniform(160, 235)
    dash, gap = round(rng.uniform(1.5, 3.0) * pixels_per_m), round(rng.uniform(2.0, 4.0) * pixels_per_m)
    for lane in lanes_m:
        row = int(lane * pixels_per_m) % cells
        for col in range(0, cells, dash + gap):
            texture[row : row + line, col : col + dash] = white
    for _ in range(int(rng.integers(0, 3))):  # lines that run away from the camera
        col = int(rng.integers(0, cells - line))
        texture[:, col : col + line] = white * rng.uniform(0.7, 1)
    if rng.random() < 0.6:  # a pavement of slabs, or grass
        first = int(rng.integers(0, cells // 2))
        depth = int(rng.integers(cells // 8, cells // 3))
        strip = texture[first : first + depth]  # a view
        if rng.random() < 0.5:
            slab = max(4, round(rng.uniform(0.6, 1.2) * pixels_per_m))
            strip += rng.uniform(10, 50)
            strip[::slab] *= 0.7
            strip[:, ::slab] *= 0.7
        else:
            strip[...] = (
                strip * np.array([0.7, 1.0, 0.5]) + noise_texture(rng, depth, cells, (2, 5), (14, 10))[..., None]
            )
    return np.clip(texture, 0, 255).astype(np.float32)
