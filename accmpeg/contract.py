"""The rules that every registered method and workload keeps; run on a stranger's as on our own.

Methods are tried on a DNN made by hand, which finds red and green squares, so that no weights are needed.
"""

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from accmpeg.accmodel import AccModel, AccModelSettings
from accmpeg.api import METHODS, WORKLOADS, Clip, Site, chunks_of, points_of
from accmpeg.camera_models import SmallDetector
from accmpeg.dnn import DetectionDnn, SegmentationDnn
from accmpeg.harness import Settings
from accmpeg.loop import MeteredLoop
from accmpeg.methods import open_session
from accmpeg.upscaler import Upscaler
from common.errors import DataUnavailable
from common.metrics.detection import Detections
from common.models.vision.interface import Detector, Segmenter

SIDE, STRIDE = 16, 4


class SquareDetector(Detector):
    """Scores every place by how red (class 0) or green (class 1) a square of 16 pixels is; differentiable."""

    name, class_names, threshold, suppression_iou = "squares", ("red", "green"), 0.5, 0.1

    def candidates(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4) and scores (B, N, 2) of all places."""
        red, green, blue = images_B3HW.unbind(1)
        colour_B2HW = torch.stack([red - (green + blue) / 2, green - (red + blue) / 2], 1)
        mean = functional.avg_pool2d(colour_B2HW, SIDE, STRIDE)
        scores = torch.sigmoid(20 * (mean - 0.25)).flatten(2).transpose(1, 2)
        rows, columns = mean.shape[-2:]
        y, x = torch.meshgrid(torch.arange(rows) * STRIDE, torch.arange(columns) * STRIDE, indexing="ij")
        boxes = torch.stack([x, y, x + SIDE, y + SIDE], -1).reshape(-1, 4).float()
        return boxes.expand(len(images_B3HW), -1, -1), scores


class SquareSegmenter(Segmenter):
    """Background, red and green."""

    name, class_names = "squares", ("background", "red", "green")

    def logits(self, images_B3HW: Tensor) -> Tensor:
        """(B, 3, H, W)."""
        red, green, blue = functional.avg_pool2d(images_B3HW, 3, 1, 1).unbind(1)
        return 20 * torch.stack([torch.full_like(red, 0.2), red - (green + blue) / 2, green - (red + blue) / 2], 1)


def square_detection(threshold: float = 0.5) -> DetectionDnn:
    """The hand-made detector as a server's DNN."""
    return DetectionDnn(SquareDetector(), "squares", threshold)


def square_segmentation() -> SegmentationDnn:
    """The hand-made segmenter as a server's DNN."""
    return SegmentationDnn(SquareSegmenter(), "square_pixels")


def square_clip(seed: int = 0, num_frames: int = 8, height: int = 96, width: int = 128, speed: float = 2.0) -> Clip:
    """Faint squares of two colours that move over noise; with labels."""
    rng = np.random.default_rng(seed)
    texture = rng.normal(110, 12, (height, width, 1)).repeat(3, 2)
    places = rng.uniform([0, 0], [width - SIDE, height - SIDE], (4, 2))
    velocity = rng.choice([-speed, speed], (4, 2))
    kinds = rng.integers(0, 2, 4)
    frames, labels = [], []
    for _ in range(num_frames):
        picture = texture + rng.normal(0, 3, texture.shape)
        for (x, y), kind in zip(places.astype(int), kinds, strict=True):
            picture[y : y + SIDE, x : x + SIDE, kind] += 90
        frames.append(np.clip(picture, 0, 255).astype(np.uint8))
        corners = places.astype(int).astype(np.float32)
        labels.append(Detections.labels(np.concatenate([corners, corners + SIDE], 1), kinds))
        moved = places + velocity
        velocity = np.where((moved < 0) | (moved > [width - SIDE, height - SIDE]), -velocity, velocity)
        places = places + velocity
    return Clip(np.stack(frames), 30.0, f"squares-{seed}", tuple(labels))


@functools.cache
def _random_accmodel() -> AccModel:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(5)
        return AccModel(AccModelSettings(width=8, depth=1)).fused()


@dataclasses.dataclass(frozen=True)
class UntrainedModels:
    """`accmpeg.camera_models.CameraModels` without weights."""

    dnn: Any

    def acc_model(self, target: str, weights: str = "") -> AccModel:
        """A random one."""
        return _random_accmodel()

    def detector(self) -> SmallDetector:
        """The server's at half resolution."""
        return SmallDetector(self.dnn)

    def upscaler(self) -> Upscaler:
        """One that enlarges bilinearly, as before training."""
        return Upscaler(8, 1).eval()


def square_site(clip: Clip, dnn: Any = None) -> Site:
    """Where policies are tried."""
    chosen = square_detection() if dnn is None else dnn
    height, width = clip.frames.shape[1:3]
    return Site(chosen, height, width, clip.fps, UntrainedModels(chosen))


def check_method(name: str) -> None:
    """A method delivers every frame of every chunk, deterministically, sends what it shows, and leaves its input alone.

    It does so for both tasks, for sizes that are no multiple of 16, and with every setting along its curve.
    """
    method = METHODS.create(name, **_required(METHODS, name))
    assert points_of(method), f"{name} has an empty curve"
    for dnn, size in ((square_detection(), (96, 128)), (square_segmentation(), (88, 120))):
        clip = square_clip(1, 8, *size)
        before = clip.frames.copy()
        first, second = (_bytes_and_pictures(method, clip, dnn) for _ in range(2))
        assert first[0] == second[0], f"{name} sends other bytes the second time"
        assert all(np.array_equal(a, b) for a, b in zip(first[1], second[1], strict=True)), (
            f"{name} delivers other pictures the second time"
        )
        assert sum(first[0]) > 0, f"{name} delivered pictures without sending a byte"
        assert np.array_equal(clip.frames, before), f"{name} changed the frames that it was given"
    short = square_clip(2, 4)
    for label, _, point in points_of(method):
        assert _bytes_and_pictures(point, short, square_detection())[1], f"{name} with {label} delivered nothing"


def _bytes_and_pictures(method: Any, clip: Clip, dnn: Any) -> tuple[list[int], list[Any]]:
    settings = Settings(4, 0)
    session = open_session(method, square_site(clip, dnn))
    sizes, pictures = [], []
    for chunk in chunks_of(clip, settings.chunk_frames):
        loop = MeteredLoop(settings.link.build(), clip.fps, lambda: 0.0)
        delivery = session.deliver(chunk, loop)
        ledger = loop.finish()
        kind = type(method).__name__
        assert delivery.frames.dtype == np.uint8, f"{kind} delivers {delivery.frames.dtype} pictures"
        assert delivery.frames.shape[1:] == chunk.frames.shape[1:], f"{kind} delivers pictures of another size"
        assert len(delivery.shown) == len(chunk.frames), f"{kind} must say for each frame which picture stands for it"
        assert set(delivery.shown.tolist()) <= set(range(len(delivery.frames))), f"{kind} shows missing pictures"
        sizes.append(ledger.num_bytes)
        pictures.append(delivery.frames[delivery.shown])
    return sizes, pictures


def check_workload(name: str) -> None:
    """A workload gives as many clips as asked for, the same for the same stream, others for another.

    One whose clips come from a data root that is not set has nothing to check.
    """
    small = {"num_frames": 2} if "num_frames" in WORKLOADS.knobs(name) else {}
    workload = WORKLOADS.create(name, **(_required(WORKLOADS, name) | small))

    def draw(seed: int) -> list[Clip]:
        return list(itertools.islice(workload.items(np.random.default_rng(seed), 2), 3))

    try:
        clips = draw(1)
    except DataUnavailable:
        return
    assert len(clips) == 2, f"{name} gave {len(clips)} clips when asked for 2"
    for clip in clips:
        assert list(chunks_of(clip, 1)), f"{name} gave a clip without frames"
    again, other = draw(1), draw(2)
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(clips, again, strict=True)), (
        f"{name} gives other clips for the same random stream"
    )
    assert any(
        a.frames.shape != b.frames.shape or not np.array_equal(a.frames, b.frames)
        for a, b in zip(clips, other, strict=True)
    ), f"{name} ignores its random stream"


def _required(registry: Any, name: str) -> dict[str, Any]:
    missing = [knob for knob, default in registry.knobs(name).items() if default is dataclasses.MISSING]
    assert not missing, f"{registry.kind} {name!r} needs a default for {', '.join(missing)}, so that it can be checked"
    return {}
