"""Labelled frames as a decoder shows them: rendered streets, coded with H.264 at mixed quantisers.

A detector trained on clean frames loses several points of F1 by the conversion to 4:2:0 alone, and one trained on coarse
quantisers no longer shows the fall in accuracy that the papers are about; hence 18 to 36 (AccMPEG sheet, section 8.7).
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.cache import atomic_file
from common.codecs import decode, encode
from common.data.video.street import StreetScene, StreetStyle
from common.rng import for_component

QP_RANGE = (18, 36)
HEIGHT, WIDTH = 192, 320
_PER_SCENE = 8  # samples
_CODED_FRAMES = (1, 2, 3)  # length of the coded piece whose last frame is taken: key frames and predicted ones


@dataclasses.dataclass(frozen=True)
class Samples:
    """Frames with labels.

    Attributes:
        frames: (N, H, W, 3) uint8, decoded.
        masks: (N, H, W) uint8, semantic.
        boxes: (N, M, 4) float32, rows beyond an image's own are zero.
        classes: (N, M) int8, -1 beyond an image's own.
    """

    frames: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)


def make_shard(seed: int, shard: int, num_samples: int) -> Samples:
    """Samples of one shard: depends on nothing but its arguments. Streets of different shards are different streets."""
    rng = for_component(seed, "vision_training", shard)
    rows = []
    for _ in range(-(-num_samples // _PER_SCENE)):
        rows += list(_scene_samples(rng))
    rows = rows[:num_samples]
    most = max(1, max(len(classes) for _, _, _, classes in rows))
    boxes = np.zeros((len(rows), most, 4), np.float32)
    classes = np.full((len(rows), most), -1, np.int8)
    for index, (_, _, its_boxes, its_classes) in enumerate(rows):
        boxes[index, : len(its_boxes)], classes[index, : len(its_classes)] = its_boxes, its_classes
    return Samples(np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows]), boxes, classes)


def _scene_samples(rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    nearest = float(rng.uniform(8, 14))
    farthest = nearest + float(rng.uniform(15, 40))
    style = StreetStyle(height=HEIGHT, width=WIDTH, distance_m=(nearest, farthest), num_objects=(6, 26))
    scene = StreetScene(rng, style)
    table = scene.class_of_instance()
    for _ in range(_PER_SCENE):
        scene.advance(float(rng.uniform(0.3, 2.5)))
        drawn = [scene.frame() for _ in range(int(rng.choice(_CODED_FRAMES)))]
        qp = int(rng.integers(QP_RANGE[0], QP_RANGE[1] + 1))
        frame = decode(encode(np.stack([image for image, *_ in drawn]), qp=qp))[-1]
        _, labels, instances, _ = drawn[-1]
        yield frame, table[instances], labels.boxes, labels.classes.astype(np.int8)


def load_or_make_shard(folder: Path, seed: int, shard: int, num_samples: int) -> Samples:
    """A shard from `folder`, made and stored there first if it is missing. An unfinished file never stays."""
    path = folder / f"shard_{seed}_{shard}_{num_samples}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = make_shard(seed, shard, num_samples)
        with atomic_file(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **{field: getattr(made, field) for field in _FIELDS})
    with np.load(path, allow_pickle=False) as stored:
        return Samples(**{field: stored[field] for field in _FIELDS})


_FIELDS = tuple(field.name for field in dataclasses.fields(Samples))
