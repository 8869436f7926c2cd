"""Procedural worlds for the inputs that are no RGB video: a street of boxes seen by three sensors, and spoken-like sounds.

    street(rng) -> Street             boxes that move; content changes in phases
      lidar(street, t)                range image, metres           (rows = beams, columns = azimuth)
      depth_camera(street, t)         inverse depth, 0..255
      thermal_camera(street, t)       temperature, 0..255
    soundtrack(rng, ...)              waveform with ten kinds of sounds, noise and reverberation

The three sensors cast rays into the same boxes, so their labels (class of every ray, visible objects) come from geometry. All
randomness comes from the generator passed in. RGB video is rendered by `common.data.video`.
"""

import dataclasses
import math

import numpy as np
import numpy.typing as npt
from scipy import signal as dsp

# N frames, H rows, W columns, O objects, R rays

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

CLASSES = ("car", "person")
"""Classes of objects that count; everything else (poles, bushes, walls, ground) is background."""
BACKGROUND, CAR, PERSON = 0, 1, 2

LIDAR_SHAPE = (32, 256)
CAMERA_SHAPE = (96, 160)
MAX_RANGE_M = 60.0
_SENSOR_HEIGHT_M = 1.7
_SIZES_M = {CAR: (4.4, 1.8, 1.5), PERSON: (0.55, 0.55, 1.75)}


@dataclasses.dataclass(frozen=True)
class Street:
    """A street of boxes in the sensor's frame: x ahead, y left, z up, ground at z = 0.

    Attributes:
        centre_O3, size_O3: of each box at time 0, metres.
        velocity_O2: along x and y, m/s, relative to the sensor.
        class_O: BACKGROUND, CAR or PERSON.
        warmth_O: temperature of each box, 0..1 (thermal camera).
        ambient: temperature of the ground, 0..1.
        noise: sensor noise, as a share of what each sensor calls strong noise.
        texture_seed: for the textures of this street.
    """

    centre_O3: FloatArray
    size_O3: FloatArray
    velocity_O2: FloatArray
    class_O: IntArray
    warmth_O: FloatArray
    ambient: float
    noise: float
    texture_seed: int

    def at(self, t_s: float) -> FloatArray:
        """Centres at a time, (O, 3). Boxes that leave the scene on one side come in again on the other."""
        centre_O3 = self.centre_O3.copy()
        centre_O3[:, :2] += self.velocity_O2 * np.float32(t_s)
        centre_O3[:, 0] = 4.0 + (centre_O3[:, 0] - 4.0) % 46.0
        centre_O3[:, 1] = -24.0 + (centre_O3[:, 1] + 24.0) % 48.0
        return centre_O3


def street(
    rng: np.random.Generator,
    *,
    num_objects: tuple[int, int] = (2, 9),
    near: float = 0.5,
    noise: tuple[float, float] = (0.1, 1.0),
) -> Street:
    """A random street.

    Args:
        rng: all randomness.
        num_objects: least and most cars and persons together.
        near: 0 puts objects far away (small in the picture), 1 near.
        noise: range of the sensor noise.
    """
    count = int(rng.integers(num_objects[0], num_objects[1] + 1))
    boxes: list[tuple[int, tuple[float, ...], tuple[float, ...], tuple[float, float], float]] = []
    reach_m = 46.0 - 26.0 * near
    for _ in range(count):
        kind = CAR if rng.random() < 0.5 else PERSON
        base = _SIZES_M[kind]
        scale = float(rng.uniform(0.85, 1.15))
        size = tuple(edge * scale for edge in base)
        if kind == CAR and rng.random() < 0.4:
            size = (size[1], size[0], size[2])  # crossing: seen from its side
        x = float(rng.uniform(6.0 + 6.0 * (1 - near), 6.0 + reach_m * (0.55 if kind == PERSON else 0.8)))
        y = float(rng.uniform(-0.75, 0.75)) * x
        along = size[0] >= size[1]
        speed = float(rng.uniform(-8, 8)) if kind == CAR else float(rng.uniform(-1.5, 1.5))
        velocity = (speed, 0.0) if kind == CAR and along else (0.0, speed)
        warmth = float(rng.uniform(0.35, 0.75)) if kind == CAR else float(rng.uniform(0.6, 0.9))
        boxes.append((kind, (x, y, size[2] / 2), size, velocity, warmth))
    for _ in range(int(rng.integers(6, 16))):
        thin = rng.random() < 0.5
        size = (0.25, 0.25, float(rng.uniform(2.0, 5.0))) if thin else tuple(rng.uniform(0.5, 2.4, 3).tolist())
        x = float(rng.uniform(7.0, 45.0))
        y = float(rng.uniform(-0.9, 0.9)) * x
        boxes.append((BACKGROUND, (x, y, size[2] / 2), size, (0.0, 0.0), float(rng.uniform(0.1, 0.6))))
    for side in (-1.0, 1.0):
        if rng.random() < 0.7:  # a house front along the road
            y = side * float(rng.uniform(9.0, 22.0))
            boxes.append((BACKGROUND, (27.0, y, 3.0), (44.0, 1.0, 6.0), (0.0, 0.0), float(rng.uniform(0.15, 0.45))))
    ego = float(rng.uniform(-4.0, 0.0)) if rng.random() < 0.5 else 0.0
    moves = [(velocity[0] + (ego if size[0] < 40 else 0.0), velocity[1]) for _, _, size, velocity, _ in boxes]
    return Street(
        np.array([box[1] for box in boxes], np.float32),
        np.array([box[2] for box in boxes], np.float32),
        np.array(moves, np.float32),
        np.array([box[0] for box in boxes], np.int64),
        np.array([box[4] for box in boxes], np.float32),
        ambient=float(rng.uniform(0.15, 0.4)),
        noise=float(rng.uniform(*noise)),
        texture_seed=int(rng.integers(2**31)),
    )


@dataclasses.dataclass(frozen=True)
class Hits:
    """What each ray of a sensor hits.

    Attributes:
        range_R: metres along the ray; infinite for the sky.
        object_R: index of the box, -1 for ground or sky.
        normal_R: cosine between the ray and the face that it hits, 0..1.
        point_R3: where.
    """

    range_R: FloatArray
    object_R: IntArray
    normal_R: FloatArray
    point_R3: FloatArray


def cast(world: Street, t_s: float, direction_R3: FloatArray) -> Hits:
    """First hit of each ray from the sensor, by the slab method against every box and the ground."""
    origin = np.array([0, 0, _SENSOR_HEIGHT_M], np.float32)
    centre_O3 = world.at(t_s)
    half_O3 = world.size_O3 / 2
    inverse_R3 = 1 / np.where(np.abs(direction_R3) < 1e-6, np.float32(1e-6), direction_R3)
    down_R = direction_R3[:, 2]
    best_R = np.where(down_R < -1e-4, -_SENSOR_HEIGHT_M * inverse_R3[:, 2], np.float32(np.inf)).astype(np.float32)
    object_R = np.full(len(best_R), -1, np.int64)
    normal_R = np.where(np.isfinite(best_R), -down_R, 0).astype(np.float32)
    # Only rays whose bearing (y / x) lies within a box's can hit it; sorted by bearing, these are a slice.
    bearing_R = direction_R3[:, 1] * inverse_R3[:, 0]
    order_R = np.argsort(bearing_R, kind="stable")
    sorted_R = bearing_R[order_R]
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    for index, (centre, half) in enumerate(zip(centre_O3, half_O3, strict=True)):
        ground = centre[:2] + half[:2] * corners
        if (ground[:, 0] > 0.2).all():
            ratios = ground[:, 1] / ground[:, 0]
            first, last = np.searchsorted(sorted_R, [ratios.min() - 1e-3, ratios.max() + 1e-3])
            rays = order_R[first:last]
        else:
            rays = order_R
        low_R3 = (centre - half - origin) * inverse_R3[rays]
        high_R3 = (centre + half - origin) * inverse_R3[rays]
        enter_R3 = np.minimum(low_R3, high_R3)
        enter_R = enter_R3.max(axis=1)
        leave_R = np.maximum(low_R3, high_R3).min(axis=1)
        is_hit = (enter_R < leave_R) & (enter_R > 0.5) & (enter_R < best_R[rays])
        hit = rays[is_hit]
        best_R[hit] = enter_R[is_hit]
        object_R[hit] = index
        axis_R = enter_R3[is_hit].argmax(axis=1)
        normal_R[hit] = np.abs(direction_R3[hit, axis_R])
    reach_R = np.where(np.isfinite(best_R), best_R, 0)
    return Hits(best_R, object_R, normal_R, origin + direction_R3 * reach_R[:, None])


def lidar_rays() -> FloatArray:
    """Unit directions of the scanner: 32 beams from +2 to -20 degrees, 256 columns over 120 degrees, (32 * 256, 3)."""
    elevation = np.deg2rad(np.linspace(2, -20, LIDAR_SHAPE[0]))[:, None]
    azimuth = np.deg2rad(np.linspace(60, -60, LIDAR_SHAPE[1]))[None, :]
    x = np.cos(elevation) * np.cos(azimuth)
    y = np.cos(elevation) * np.sin(azimuth)
    z = np.broadcast_to(np.sin(elevation), x.shape)
    return np.stack([x, y, z], -1).reshape(-1, 3).astype(np.float32)


def camera_rays() -> FloatArray:
    """Unit directions of a pinhole camera of 96 x 160 pixels and 70 degrees, tilted down a little, (96 * 160, 3)."""
    height, width = CAMERA_SHAPE
    focal = width / 2 / math.tan(math.radians(35))
    rows = (np.arange(height) - height * 0.38)[:, None] / focal
    columns = (np.arange(width) - (width - 1) / 2)[None, :] / focal
    rays = np.stack(np.broadcast_arrays(np.ones((1, 1)), -columns, -rows), -1).reshape(-1, 3)
    return (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)


_LIDAR_RAYS, _CAMERA_RAYS = lidar_rays(), camera_rays()


@dataclasses.dataclass(frozen=True)
class Labels:
    """Truth of one frame.

    Attributes:
        class_HW: class of what each ray hits.
        boxes: (class, row, column, height, width) of every object with enough visible rays; centre and extent in rays.
    """

    class_HW: IntArray
    boxes: tuple[tuple[int, float, float, float, float], ...]


def _labels(world: Street, hits: Hits, shape: tuple[int, int], min_rays: int) -> Labels:
    object_HW = hits.object_R.reshape(shape)
    class_HW = np.where(object_HW >= 0, world.class_O[object_HW], BACKGROUND)
    boxes = []
    for index in np.flatnonzero(world.class_O != BACKGROUND):
        rows, columns = np.nonzero(object_HW == index)
        if len(rows) >= min_rays:
            centre = float(rows.min() + rows.max()) / 2, float(columns.min() + columns.max()) / 2
            boxes.append((int(world.class_O[index]), *centre, float(np.ptp(rows) + 1), float(np.ptp(columns) + 1)))
    return Labels(class_HW, tuple(boxes))


def lidar(world: Street, t_s: float, rng: np.random.Generator) -> tuple[FloatArray, Labels]:
    """One scan: ranges in metres, 0 where nothing comes back, (32, 256); and its labels."""
    hits = cast(world, t_s, _LIDAR_RAYS)
    range_R = hits.range_R + rng.normal(0, 0.01 + 0.05 * world.noise, len(hits.range_R))
    is_lost_R = rng.random(len(range_R)) < 0.01 + 0.04 * world.noise * (1 - hits.normal_R)
    range_R = np.where((hits.range_R > MAX_RANGE_M) | is_lost_R, 0, range_R)
    return range_R.astype(np.float32).reshape(LIDAR_SHAPE), _labels(world, hits, LIDAR_SHAPE, 5)


def depth_camera(world: Street, t_s: float, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], Labels]:
    """One picture of inverse depth, 255 at 3 m, 0 for nothing, with noise that grows with distance, (96, 160) uint8."""
    hits = cast(world, t_s, _CAMERA_RAYS)
    inverse_R = np.where(np.isfinite(hits.range_R), 3.0 / np.maximum(hits.range_R, 3.0), 0)
    # Stereo and time-of-flight cameras err by a fixed amount of inverse depth, and see little on slanted faces.
    inverse_R = inverse_R + rng.normal(0, 0.002 + 0.005 * world.noise, len(inverse_R))
    is_lost_R = rng.random(len(inverse_R)) < 0.03 * world.noise * (1 - hits.normal_R)
    picture = np.where(is_lost_R, 0, np.clip(inverse_R, 0, 1)) * 255
    return np.rint(picture).astype(np.uint8).reshape(CAMERA_SHAPE), _labels(world, hits, CAMERA_SHAPE, 12)


def thermal_camera(world: Street, t_s: float, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], Labels]:
    """One thermal picture, (96, 160) uint8: warm engines and persons, textured surroundings, blur, sensor noise."""
    hits = cast(world, t_s, _CAMERA_RAYS)
    warmth_R = np.where(hits.object_R >= 0, world.warmth_O[hits.object_R], world.ambient)
    warmth_R = np.where(np.isfinite(hits.range_R), warmth_R, 0.05)
    is_car_R = (hits.object_R >= 0) & (world.class_O[hits.object_R] == CAR)
    # Engines and wheels are warmer than roofs and windows.
    warmth_R = warmth_R + np.where(is_car_R, 0.3 * np.clip(0.9 - hits.point_R3[:, 2], -0.6, 0.6), 0)
    grain = np.sin(hits.point_R3 @ np.array([3.1, 4.3, 5.7]) + world.texture_seed % 97)
    grain = grain * np.sin(hits.point_R3 @ np.array([0.9, -1.3, 2.1]) + world.texture_seed % 89)
    warmth_R = warmth_R * (0.8 + 0.2 * hits.normal_R) + np.where(np.isfinite(hits.range_R), 0.05 * grain, 0)
    picture = warmth_R.reshape(CAMERA_SHAPE)
    picture = dsp.convolve2d(picture, np.outer([1, 2, 1], [1, 2, 1]) / 16, mode="same", boundary="symm")
    picture = picture + rng.normal(0, 0.004 + 0.012 * world.noise, CAMERA_SHAPE)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8), _labels(world, hits, CAMERA_SHAPE, 12)


# ------------------------------------------------------------------------------------------------------------------ sound

SAMPLE_RATE_HZ = 16_000
WORD_SAMPLES = 8_000
"""A sound is half a second long."""
SOUNDS = ("rise", "fall", "a", "i", "u", "s", "sh", "trill", "clicks", "whistle")
SILENCE = len(SOUNDS)


def sound(kind: int, rng: np.random.Generator) -> FloatArray:
    """One sound of a kind (an index into SOUNDS), half a second, peak 1, varied in pitch, length and place."""
    name = SOUNDS[kind]
    length = int(rng.integers(4000, 7200))
    t = np.arange(length) / SAMPLE_RATE_HZ
    if name in ("rise", "fall"):
        low, high = rng.uniform(500, 900), rng.uniform(1800, 3400)
        ends = (low, high) if name == "rise" else (high, low)
        wave = dsp.chirp(t, ends[0], t[-1], ends[1])
    elif name in ("a", "i", "u"):
        formants = {"a": (730, 1090, 2440), "i": (270, 2290, 3010), "u": (300, 870, 2240)}[name]
        wave = _voiced(t, rng.uniform(95, 230), [f * rng.uniform(0.93, 1.07) for f in formants])
    elif name in ("s", "sh"):
        band = (4800, 7600) if name == "s" else (2200, 4200)
        edges = dsp.butter(4, np.array(band) * rng.uniform(0.95, 1.03), "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
        wave = dsp.sosfilt(edges, rng.normal(size=length))
    elif name == "trill":
        wave = (1 + np.sin(2 * np.pi * rng.uniform(18, 28) * t)) * np.sin(2 * np.pi * rng.uniform(900, 1500) * t)
    elif name == "clicks":
        wave = np.zeros(length)
        wave[:: int(SAMPLE_RATE_HZ / rng.uniform(25, 45))] = 1
        wave = dsp.sosfilt(dsp.butter(2, 2500, "highpass", fs=SAMPLE_RATE_HZ, output="sos"), wave)
    else:
        sweep = rng.uniform(4500, 6200) + rng.uniform(60, 200) * np.sin(2 * np.pi * rng.uniform(4, 8) * t)
        wave = np.sin(2 * np.pi * np.cumsum(sweep) / SAMPLE_RATE_HZ)
    edge = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / 320)
    wave = wave * edge / max(float(np.abs(wave * edge).max()), 1e-9)
    placed = np.zeros(WORD_SAMPLES)
    start = int(rng.integers(0, WORD_SAMPLES - length + 1))
    placed[start : start + length] = wave
    return placed.astype(np.float32)


def _voiced(t: npt.NDArray[np.float64], pitch_hz: float, formants_hz: list[float]) -> npt.NDArray[np.float64]:
    phase = 2 * np.pi * np.cumsum(pitch_hz * (1 + 0.03 * np.sin(2 * np.pi * 5 * t))) / SAMPLE_RATE_HZ
    wave = dsp.sawtooth(phase)
    for centre in formants_hz:
        radius = math.exp(-math.pi * 90 / SAMPLE_RATE_HZ)
        angle = 2 * math.pi * centre / SAMPLE_RATE_HZ
        wave = wave + 0.6 * dsp.lfilter([1 - radius], [1, -2 * radius * math.cos(angle), radius**2], wave)
    return wave


def soundtrack(
    kinds: list[int], rng: np.random.Generator, *, snr_db: float, reverb_s: float, low_noise: bool = False
) -> FloatArray:
    """Half-second sounds one after another, in a room with noise, float32 in [-1, 1].

    Args:
        kinds: indices into SOUNDS, or SILENCE.
        rng: all randomness.
        snr_db: level of the sounds over the noise.
        reverb_s: time in which the room's echo falls by 60 dB.
        low_noise: noise of machines (below 1 kHz) instead of pink noise.
    """
    parts = [
        np.zeros(WORD_SAMPLES, np.float32) if kind == SILENCE else sound(kind, rng) * rng.uniform(0.5, 1.0)
        for kind in kinds
    ]
    dry = np.concatenate(parts).astype(np.float64)
    taps = int(max(reverb_s, 0.01) * SAMPLE_RATE_HZ)
    echo = rng.normal(size=taps) * np.exp(-6.9 * np.arange(taps) / taps) * 0.05
    echo[0] = 1.0
    wet = dsp.fftconvolve(dry, echo)[: len(dry)]
    noise = rng.normal(size=len(wet))
    if low_noise:
        noise = dsp.sosfilt(dsp.butter(3, 1000, "lowpass", fs=SAMPLE_RATE_HZ, output="sos"), noise)
    else:
        noise = dsp.lfilter([0.05, -0.096, 0.05, -0.0044], [1, -2.495, 2.017, -0.522], noise)
    power = np.mean(wet**2) if np.any(wet) else 0.01
    noise *= math.sqrt(max(float(power), 1e-6) / 10 ** (snr_db / 10) / max(float(np.mean(noise**2)), 1e-12))
    mixed = wet + noise
    return (0.9 * mixed / max(float(np.abs(mixed).max()), 1e-6)).astype(np.float32)
