"""Rendered street video with exact labels: boxes, classes, semantic and instance masks, depth.

    clip = render_street(rng, num_frames=60, height=192, width=320, camera="drive")

A street is a textured ground plane, a sky, buildings, and upright pictures of things (`sprites`) that stand on the ground at a
place (x, z) in metres, seen by a pinhole camera at some height:

    u = W/2 + f (x - camera_x) / z - pan        v = horizon + f * camera_height / z        size in pixels = f / z per metre

so that distance, occlusion, perspective and parallax follow from geometry. Things wrap round at the sides and at the far end, so
that a street never ends. Light, haze, shadows, blur and sensor noise differ from scene to scene, and light also within one.

Objects of four classes count (`CLASSES`), most of them small (5 to 40 pixels high at 320x192); posts, signs, hoardings, trees and
kiosks with similar shapes and colours stand around and do not. What stands in for what: AccMPEG sheet, section 8.1.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from common.data.video import sprites
from common.data.video.clip import Clip
from common.data.video.sprites import Sprite
from common.errors import ConfigError
from common.metrics.detection import Detections

CLASSES = ("car", "truck", "person", "cyclist")
"""Names of classes 0 to 3; in semantic masks they are 1 to 4."""
CAMERAS = ("static", "handheld", "pan", "slide", "drive")
SKY_DEPTH_M = 200.0

_Maker = Callable[[np.random.Generator, bool], Sprite]
_MAKERS: tuple[_Maker, ...] = (sprites.car, sprites.truck, sprites.person, sprites.cyclist)
_SPEEDS_MPS = ((4.0, 14.0), (3.0, 11.0), (0.6, 1.8), (2.5, 6.0))
_GROUND_CELLS, _GROUND_PIXELS_PER_M = 512, 12
_NEAREST_M, _FARTHEST_M = 5.0, 75.0  # of anything
_MIN_INSIDE, _MIN_VISIBLE, _MIN_SIDE = (
    0.5,
    0.4,
    3.5,
)  # below these an object has no label; the side is for a height of 192


@dataclasses.dataclass(frozen=True)
class StreetStyle:
    """What a street looks like. Pairs are ranges from which each scene draws its own value.

    Attributes:
        height, width: of the frames in pixels.
        fps: frames per second; speeds are in metres per second.
        camera: one of `CAMERAS`, or "random".
        num_objects: how many objects move about; some six tenths of them are in view.
        distance_m: distances at which they move: nearer means larger.
        class_weights: relative frequency of car, truck, person, cyclist.
        clutter: number of things that are none of the classes.
        noise: standard deviation of the sensor noise, in steps of 1/255.
        light: brightness; 1 is an ordinary day.
        speed: multiplies all motion of objects and camera.

    Raises:
        ConfigError: a size below 48 pixels, an unknown camera, or an empty range.
    """

    height: int = 192
    width: int = 320
    fps: float = 30.0
    camera: str = "random"
    num_objects: tuple[int, int] = (5, 18)
    distance_m: tuple[float, float] = (10.0, 42.0)
    class_weights: tuple[float, float, float, float] = (0.35, 0.12, 0.31, 0.22)
    clutter: tuple[int, int] = (15, 40)
    noise: tuple[float, float] = (2.0, 6.0)
    light: tuple[float, float] = (0.65, 1.15)
    speed: float = 1.0

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 48 or max(self.height, self.width) > 4096:
            raise ConfigError(
                f"a street of {self.width}x{self.height} cannot be drawn; sides lie in [48, 4096] pixels."
            )
        if self.camera not in (*CAMERAS, "random"):
            raise ConfigError(f"camera={self.camera!r} is not a camera. Choose one of {', '.join(CAMERAS)}, random.")
        for name in ("num_objects", "distance_m", "clutter", "noise", "light"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ConfigError(f"{name}={low, high} is no range; give (low, high) with 0 <= low <= high.")
        if self.distance_m[0] < _NEAREST_M or self.distance_m[1] > _FARTHEST_M - 5:
            raise ConfigError(f"distance_m={self.distance_m} must lie in [{_NEAREST_M}, {_FARTHEST_M - 5}] metres.")
        if len(self.class_weights) != len(CLASSES) or min(self.class_weights) < 0 or sum(self.class_weights) <= 0:
            raise ConfigError(f"class_weights={self.class_weights}: four weights of at least 0, not all of them 0.")
        if not 0.1 <= self.fps <= 1000 or self.speed < 0:
            raise ConfigError(f"fps={self.fps}, speed={self.speed}: fps in [0.1, 1000], speed at least 0.")


@dataclasses.dataclass
class _Thing:
    """Something that stands on the ground: its picture, place at time 0, velocity, and number (0: not an object)."""

    sprite: Sprite
    x_m: float
    z_m: float
    speed_x_mps: float = 0.0
    speed_z_mps: float = 0.0
    faces_left: bool = False
    light: float = 1.0
    shadow: float = 0.0
    phase: float = 0.0
    label: int = -1  # class, or -1
    number: int = 0


class StreetScene:
    """One street, from which frames are drawn in order of time.

    Args:
        rng: all randomness; the same generator state and style give the same frames.
        style: what it looks like.
    """

    def __init__(self, rng: np.random.Generator, style: StreetStyle | None = None) -> None:
        self.style = style or StreetStyle()
        self._rng = rng
        self._time_s = 0.0
        self._set_up_camera()
        self._set_up_surfaces()
        self._things = self._set_up_things()
        style = self.style
        noise = rng.uniform(*style.noise)
        # A pool of noise, cut at a random place for each frame: new normal numbers for each pixel would take half of the time.
        self._noise_pool = (noise * rng.standard_normal((style.height + 61, style.width + 67, 3))).astype(np.float32)

    # -- the scene ------------------------------------------------------------------------------------------------------------

    def _set_up_camera(self) -> None:
        rng, style = self._rng, self.style
        kind = style.camera if style.camera != "random" else str(rng.choice(CAMERAS, p=(0.25, 0.15, 0.25, 0.15, 0.2)))
        self.camera = kind
        self._focal = style.width * rng.uniform(0.68, 0.85)
        low = kind == "drive"
        self._camera_height_m = rng.uniform(1.8, 3.5) if low else rng.uniform(3.0, 6.5)
        self._horizon = style.height * (rng.uniform(0.38, 0.5) if low else rng.uniform(0.18, 0.36))
        sign = float(rng.choice((-1.0, 1.0)))
        self._pan_rate = (
            sign * rng.uniform(0.05, 0.4) * style.width * style.speed if kind == "pan" else 0.0
        )  # pixels per second
        self._slide_rate = sign * rng.uniform(0.5, 4.0) * style.speed if kind == "slide" else 0.0  # m/s
        self._drive_rate = rng.uniform(2.0, 9.0) * style.speed if kind == "drive" else 0.0  # m/s
        shake = {"handheld": 2.5, "drive": 0.8, "pan": 0.3, "slide": 0.5}.get(kind, 0.0)
        self._shake = shake * style.height / 192
        self._shake_phases = rng.uniform(0, 2 * np.pi, (2, 3))
        self._sun_side = float(rng.uniform(-1, 1))

    def _set_up_surfaces(self) -> None:
        import cv2

        rng, style = self._rng, self.style
        lanes = tuple(float(v) for v in rng.uniform(0, _GROUND_CELLS / _GROUND_PIXELS_PER_M, int(rng.integers(2, 6))))
        levels = [sprites.ground(rng, _GROUND_CELLS, _GROUND_PIXELS_PER_M, lanes)]
        while len(levels[-1]) > 32:
            half = len(levels[-1]) // 2
            levels.append(cv2.resize(levels[-1], (half, half), interpolation=cv2.INTER_AREA))
        self._ground = levels
        self._haze = np.array([1.0, 1.0, 1.0]) * rng.uniform(120, 215) + rng.uniform(-9, 9, 3)
        self._haze_m = rng.uniform(100, 350)
        # Drawn at one size, so that the same generator gives the same street at every resolution.
        clouds = sprites.noise_texture(rng, 96, 640, (8, 24, 64), (3, 5, 9)) * rng.uniform(0.2, 1.5)
        slope = np.linspace(rng.uniform(-40, 30), 0, 96)[:, None]
        sky = np.clip(self._haze + (clouds + slope)[..., None] * rng.uniform(0.85, 1.15, 3), 0, 255).astype(np.float32)
        self._sky = cv2.resize(
            sky, (style.width * 2, max(8, round(self._horizon)) + 12), interpolation=cv2.INTER_LINEAR
        )
        self._gain = rng.uniform(*style.light)
        self._tint = rng.uniform(0.93, 1.07, 3)
        self._light_wave = (rng.uniform(0.0, 0.08), rng.uniform(0.1, 0.7), rng.uniform(0, 2 * np.pi))
        self._blur = rng.uniform(0.3, 0.75)

    def _set_up_things(self) -> list[_Thing]:
        rng, style = self._rng, self.style
        things: list[_Thing] = []
        wide = 2.2 * style.width / self._focal  # metres across at distance 1 that things are spread over
        drives = self.camera == "drive"
        for _ in range(int(rng.integers(5, 11))):
            z = rng.uniform(12, _FARTHEST_M) if drives else rng.uniform(40, 70)
            x = float(rng.choice((-1, 1))) * rng.uniform(13, 26) if drives else rng.uniform(-0.5, 0.5) * wide * z
            things.append(_Thing(sprites.building(rng), x, z, light=rng.uniform(0.7, 1.1)))
        low, high = style.clutter
        for _ in range(int(rng.integers(low, high + 1))):
            z = rng.uniform(9, 65)
            x = rng.uniform(-0.5, 0.5) * wide * z
            if drives:
                x = float(np.sign(x) or 1.0) * max(abs(x), 4.5)
            maker = sprites.tree if rng.random() < 0.35 else sprites.furniture
            things.append(_Thing(maker(rng), x, z, light=rng.uniform(0.55, 1.1), shadow=rng.uniform(0, 0.4)))
        weights = np.array(style.class_weights) / sum(style.class_weights)
        count = int(rng.integers(style.num_objects[0], style.num_objects[1] + 1))
        for number in range(1, count + 1):
            things.append(self._new_object(int(rng.choice(len(CLASSES), p=weights)), number, wide))
        return things

    def _new_object(self, label: int, number: int, wide: float) -> _Thing:
        rng, style = self._rng, self.style
        z = style.distance_m[0] + (style.distance_m[1] - style.distance_m[0]) * rng.beta(1.1, 1.4)
        x = rng.uniform(-0.4, 0.4) * wide * z
        speed = rng.uniform(*_SPEEDS_MPS[label]) * float(rng.choice((-1.0, 1.0))) * style.speed
        rests = rng.random() < (0.25 if label in (0, 1) else 0.15)
        across = rng.random() < (0.35 if self.camera == "drive" else 0.75)
        is_walking = label >= 2
        sprite = _MAKERS[label](rng, across or is_walking)
        thing = _Thing(
            sprite,
            x,
            z,
            faces_left=bool(speed < 0),
            light=rng.uniform(0.55, 1.15),
            shadow=rng.uniform(0.15, 0.55),
            phase=rng.uniform(0, 4),
            label=label,
            number=number,
        )
        if not rests and (across or is_walking):
            thing.speed_x_mps = speed
        elif not rests:
            thing.speed_z_mps = speed * 0.6
        elif rng.random() < 0.5:
            thing.faces_left = not thing.faces_left
        return thing

    # -- a frame --------------------------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass without drawing."""
        self._time_s += seconds

    def frame(self) -> tuple[np.ndarray, Detections, np.ndarray, np.ndarray]:
        """Draw the scene as it is now, then advance by one frame.

        Returns:
            Image (H, W, 3) uint8, labels, instances (H, W) uint16, depth (H, W) float32 in metres.
        """
        import cv2

        style, t = self.style, self._time_s
        pan, tilt = self._shaken(t)
        pan += self._pan_rate * t
        horizon = self._horizon + tilt
        image, depth = self._backdrop(pan, horizon, t)
        instances = np.zeros((style.height, style.width), np.uint16)
        candidates: list[tuple[_Thing, np.ndarray, int]] = []
        for z, thing in sorted(
            ((self._depth_of(thing, t), thing) for thing in self._things), key=lambda pair: -pair[0]
        ):
            box = self._box_of(thing, z, pan, horizon, t)
            if thing.shadow > 0:
                self._draw_shadow(image, box, z, thing.shadow)
            picture = thing.sprite.picture(self._phase_of(thing, t), self._focal / z)
            seen = self._draw(image, depth, instances, picture, box, z, thing)
            if thing.label >= 0 and seen:
                candidates.append((thing, box, seen))
        labels = self._label(candidates, instances)
        wave, pace, phase = self._light_wave
        gain = self._gain * (1 + wave * np.sin(pace * t + phase))
        image = cv2.GaussianBlur(image, (0, 0), self._blur * max(0.6, style.height / 192 * 0.8))
        row, col = (int(v) for v in self._rng.integers(0, (61, 67)))
        image = (
            image * (gain * self._tint).astype(np.float32)
            + self._noise_pool[row : row + style.height, col : col + style.width]
        )
        self._time_s += 1 / style.fps
        return np.clip(image, 0, 255).astype(np.uint8), labels, instances, depth

    def _shaken(self, t: float) -> tuple[float, float]:
        rates = np.array([1.1, 2.3, 4.7])
        waves = (
            np.sin(2 * np.pi * rates * t * min(self.style.speed, 3.0) + self._shake_phases) * (0.6, 0.3, 0.15)
        ).sum(1)
        return float(self._shake * waves[0]), float(self._shake * 0.6 * waves[1])

    def _depth_of(self, thing: _Thing, t: float) -> float:
        span = _FARTHEST_M - _NEAREST_M
        moved = thing.z_m + (thing.speed_z_mps - self._drive_rate) * t
        return float(_NEAREST_M + (moved - _NEAREST_M) % span)

    def _phase_of(self, thing: _Thing, t: float) -> int:
        return int(thing.phase + abs(thing.speed_x_mps) * t * 3.0) % 4 if thing.speed_x_mps else int(thing.phase)

    def _box_of(self, thing: _Thing, z: float, pan: float, horizon: float, t: float) -> np.ndarray:
        """(x0, y0, x1, y1) in pixels, unclipped. Wraps round at the sides, out of sight."""
        scale = self._focal / z
        width, height = thing.sprite.width_m * scale, thing.sprite.height_m * scale
        x = thing.x_m + thing.speed_x_mps * t - self._slide_rate * t
        offset = self._focal * x / z - pan
        if thing.speed_x_mps or self._pan_rate or self._slide_rate:
            span = (1.7 if thing.label >= 0 else 2.2) * self.style.width + width
            offset = (offset + span / 2) % span - span / 2
        centre, bottom = self.style.width / 2 + offset, horizon + self._focal * self._camera_height_m / z
        return np.array([centre - width / 2, bottom - height, centre + width / 2, bottom])

    def _backdrop(self, pan: float, horizon: float, t: float) -> tuple[np.ndarray, np.ndarray]:
        import cv2

        style = self.style
        height, width = style.height, style.width
        image = np.empty((height, width, 3), np.float32)
        depth = np.full((height, width), SKY_DEPTH_M, np.float32)
        top = int(np.clip(np.ceil(horizon) + 1, 1, height - 1))
        shift = np.float32([[1, 0, -(pan % self._sky.shape[1])], [0, 1, horizon - len(self._sky) + 8]])  # type: ignore[arg-type]
        image[:top] = cv2.warpAffine(self._sky, np.asarray(shift), (width, top), borderMode=cv2.BORDER_REFLECT)
        rows = np.arange(top, height)
        reach = self._focal * self._camera_height_m
        z = reach / (rows + 0.5 - horizon)
        depth[top:] = np.minimum(z, SKY_DEPTH_M)[:, None].astype(np.float32)
        # Image to texture: x = (u - W/2 + pan) z / f + slide and z = reach / (v - horizon) + drive, times pixels per metre.
        per_m = _GROUND_PIXELS_PER_M
        slide, drive = self._slide_rate * t, self._drive_rate * t
        h, u0 = self._camera_height_m, width / 2 - pan
        matrix = np.array(
            [
                [per_m * h, per_m * slide, per_m * (-h * u0 - slide * horizon)],
                [0, per_m * drive, per_m * (reach - drive * horizon)],
                [0, 1, -horizon],
            ]
        )
        # Far rows take a coarser texture, else it flickers.
        fine = np.sqrt((per_m * z * z / reach) * (per_m * z / self._focal))
        level = np.clip(np.log2(np.maximum(fine, 1)).round(), 0, len(self._ground) - 1).astype(int)
        for value in np.unique(level):
            band = np.flatnonzero(level == value)
            first, count = int(rows[band[0]]), len(band)
            down = (
                np.diag([0.5**value, 0.5**value, 1.0])
                @ matrix
                @ np.array([[1, 0, 0.5], [0, 1, first + 0.5], [0, 0, 1]])
            )
            image[first : first + count] = cv2.warpPerspective(
                self._ground[value],
                down,
                (width, count),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_WRAP,
            )
        clear = np.exp(-np.minimum(z, SKY_DEPTH_M) / self._haze_m)[:, None, None].astype(np.float32)
        image[top:] = image[top:] * clear + (1 - clear) * self._haze.astype(np.float32)
        return image, depth

    def _draw_shadow(self, image: np.ndarray, box: np.ndarray, z: float, strength: float) -> None:
        """Darken a soft ellipse of ground under a thing, longer on the side away from the sun."""
        width = (box[2] - box[0]) * 1.1
        half = max(0.8, 0.22 * width * min(1.0, self._camera_height_m / z * 3))
        centre_x = (box[0] + box[2]) / 2 + self._sun_side * 0.3 * width
        x0, x1 = int(max(0, centre_x - width * 0.6)), int(min(image.shape[1], centre_x + width * 0.6 + 1))
        y0, y1 = int(max(0, box[3] - half)), int(min(image.shape[0], box[3] + half + 1))
        if x1 <= x0 or y1 <= y0:
            return
        dx = (np.arange(x0, x1) - centre_x) / (width * 0.6)
        dy = (np.arange(y0, y1) - box[3]) / half
        soft = np.clip(1.2 * (1 - dx[None] ** 2 - dy[:, None] ** 2), 0, 1) * strength
        image[y0:y1, x0:x1] *= (1 - soft[..., None]).astype(np.float32)

    def _draw(
        self,
        image: np.ndarray,
        depth: np.ndarray,
        instances: np.ndarray,
        picture: np.ndarray,
        box: np.ndarray,
        z: float,
        thing: _Thing,
    ) -> int:
        """Draw a thing; the number of pixels that it covers."""
        import cv2

        x0, y0 = (int(max(0, np.floor(v))) for v in box[:2])
        x1, y1 = int(min(image.shape[1], np.ceil(box[2]))), int(min(image.shape[0], np.ceil(box[3])))
        if x1 <= x0 or y1 <= y0:
            return 0
        scale_x, scale_y = picture.shape[1] / (box[2] - box[0]), picture.shape[0] / (box[3] - box[1])
        # Pixel (i, j) of the window has its centre at (x0 + i + .5): the matching centre in the picture, less its own half.
        matrix = np.array(
            [[scale_x, 0, (x0 + 0.5 - box[0]) * scale_x - 0.5], [0, scale_y, (y0 + 0.5 - box[1]) * scale_y - 0.5]]
        )
        if thing.faces_left:
            matrix[0] = [-scale_x, 0, picture.shape[1] - 1 - matrix[0, 2]]
        drawn = cv2.warpAffine(picture, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        alpha = drawn[..., 3:]
        clear = float(np.exp(-z / self._haze_m))
        colour = drawn[..., :3] * np.float32(thing.light * clear) + alpha * ((1 - clear) * self._haze).astype(
            np.float32
        )
        window = image[y0:y1, x0:x1]
        window *= 1 - alpha
        window += colour
        solid = alpha[..., 0] > 0.5
        depth[y0:y1, x0:x1][solid] = z
        instances[y0:y1, x0:x1][solid] = thing.number
        return int(solid.sum())

    def _label(self, candidates: list[tuple[_Thing, np.ndarray, int]], instances: np.ndarray) -> Detections:
        height, width = instances.shape
        left = np.bincount(
            instances.ravel(), minlength=1 + max((thing.number for thing, _, _ in candidates), default=0)
        )
        boxes, classes = [], []
        smallest = _MIN_SIDE * height / 192
        for thing, box, drawn in candidates:
            clipped = np.array([max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)])
            inside = (clipped[2] - clipped[0]) * (clipped[3] - clipped[1]) / ((box[2] - box[0]) * (box[3] - box[1]))
            visible = left[thing.number] / drawn
            if inside >= _MIN_INSIDE and visible >= _MIN_VISIBLE and min(clipped[2:] - clipped[:2]) >= smallest:
                boxes.append(clipped)
                classes.append(thing.label)
        return Detections.labels(np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64))

    def class_of_instance(self) -> np.ndarray:
        """(highest number + 1,) uint8: value in the semantic mask for each instance number."""
        table = np.zeros(1 + max((thing.number for thing in self._things), default=0), np.uint8)
        for thing in self._things:
            if thing.number:
                table[thing.number] = thing.label + 1
        return table


def render_street(
    rng: np.random.Generator,
    num_frames: int,
    height: int = 192,
    width: int = 320,
    camera: str = "random",
    *,
    name: str | None = None,
    **style: Any,
) -> Clip:
    """Render a clip of one street with all labels.

    Args:
        rng: all randomness.
        num_frames: at least 1.
        height, width, camera: see `StreetStyle`.
        name: of the clip; by default the camera's kind.
        style: further fields of `StreetStyle`.

    Raises:
        ConfigError: see `StreetStyle`, or no frames.
    """
    if num_frames < 1:
        raise ConfigError(f"num_frames={num_frames} must be at least 1.")
    scene = StreetScene(rng, StreetStyle(height=height, width=width, camera=camera, **style))
    drawn = [scene.frame() for _ in range(num_frames)]
    instances = np.stack([instance for _, _, instance, _ in drawn])
    return Clip(
        np.stack([image for image, _, _, _ in drawn]),
        scene.style.fps,
        name or f"street_{scene.camera}",
        tuple(labels for _, labels, _, _ in drawn),
        scene.class_of_instance()[instances],
        instances,
        np.stack([depth for _, _, _, depth in drawn]),
    )
