"""The rules that every registered method and workload keeps; run on a stranger's as on our own."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from oneadapt.api import METHODS, WORKLOADS, Saliency
from oneadapt.coding import VideoCoder
from oneadapt.inputs import FloatArray, depth_input
from oneadapt.profiles import make_profile, with_profile
from oneadapt.session import Application, key_of, run_clip
from oneadapt.workloads import video_knobs

_FRAMES, _HEIGHT, _WIDTH = 3, 48, 64


@dataclasses.dataclass(frozen=True, eq=False)
class BrightBlocks:
    """A task without a network, for checks: which 16 x 16 blocks are bright. Its score is the mean brightness of a block.

    Attributes:
        network: for methods that go through the network: mean brightness of blocks, as a torch module.
    """

    network: Any = None
    sha256: str = "bright blocks"
    block: tuple[int, int] = (16, 16)

    def _score(self, x_HWC: FloatArray) -> FloatArray:
        height, width, _ = x_HWC.shape
        mean: FloatArray = x_HWC.reshape(height // 16, 16, width // 16, 16, -1).mean((1, 3, 4))
        return mean

    def infer(self, x_NHWC: FloatArray) -> list[Any]:
        """Bright blocks of every element."""
        return [self._score(x) > 0.5 for x in x_NHWC]

    def saliency(self, x_HWC: FloatArray) -> Saliency:
        """The exact gradient of the soft count of bright blocks."""
        soft = 1 / (1 + np.exp(-20 * (self._score(x_HWC) - 0.5)))
        slope = 20 * soft * (1 - soft) / 256
        gradient = np.kron(slope, np.ones((16, 16))).astype(np.float32)
        return Saliency(float(soft.sum()), int((np.abs(self._score(x_HWC) - 0.5) < 0.2).sum()), gradient)

    def regions(self, x_NHWC: FloatArray) -> list[list[tuple[npt.NDArray[np.float32], float]]]:
        """Bright blocks as boxes."""
        found = []
        for x in x_NHWC:
            score = self._score(x)
            boxes = [
                (np.array([16 * c, 16 * r, 16 * c + 16, 16 * r + 16], np.float32), float(score[r, c]))
                for r, c in np.ndindex(*score.shape)
            ]
            found.append(boxes)
        return found

    def differentiable_utility(self, x_1CHW: Any) -> Any:
        """The soft count of bright blocks."""
        return (20 * (self.network(x_1CHW)[0] - 0.5)).sigmoid().sum()

    def accuracy(self, results: Any, truth: Any) -> float:
        """Share of equal blocks."""
        return float(np.mean([np.mean(a == b) for a, b in zip(results, truth, strict=True)]))


def small_application(pipeline: str) -> Application:
    """An application that runs in milliseconds: grey video of 64 x 48 pixels and a task without a network."""
    import torch

    knob_list = video_knobs(pipeline)
    resource: Any = "frames" if pipeline == "filter" else "bytes"
    task = BrightBlocks(torch.nn.AvgPool2d(16))
    return Application("small", knob_list, VideoCoder(is_grey=True), depth_input, task, 1.0, resource)


def small_clip(rng: np.random.Generator, num_intervals: int) -> list[npt.NDArray[np.uint8]]:
    """Moving bright squares on a noisy ground."""
    clip = []
    for t in range(num_intervals):
        frames = rng.integers(60, 140, (_FRAMES, _HEIGHT, _WIDTH)).astype(np.uint8)
        for n in range(_FRAMES):
            left = (6 * t + 4 * n) % (_WIDTH - 20)
            frames[n, 10:34, left : left + 20] = 220
        clip.append(frames)
    return clip


def prepared(pipeline: str) -> Application:
    """`small_application` with everything that a method may ask for."""
    application = small_application(pipeline)
    clips = [small_clip(np.random.default_rng(5), 2)]
    if pipeline == "encoding":
        return with_profile(application, make_profile(application, clips))
    extra: dict[str, Any] = {}
    if pipeline == "blocks":
        from oneadapt.blocks import train_block_network

        extra["block_network"] = train_block_network(application, clips, np.random.default_rng(0), steps=2)
    if pipeline == "upscaling":
        from oneadapt.upscaling import train_enlarger

        extra["enlarger"] = train_enlarger(application, clips, np.random.default_rng(0), steps=2)
    return dataclasses.replace(application, extra=extra)


def check_method(name: str) -> None:
    """A controller sets allowed knobs, is deterministic, changes no input, and looks at no interval early."""
    method = METHODS.create(name, **_required(METHODS, name))
    application = prepared(str(getattr(method, "pipeline", "encoding")))
    clip = small_clip(np.random.default_rng(1), 3)
    before = [data.copy() for data in clip]

    def run(data: list[npt.NDArray[np.uint8]]) -> list[Any]:
        records = run_clip(application, {name: method.controller(application)}, data)[name]
        assert len(records) == len(data), f"{name} gave {len(records)} records for {len(data)} intervals"
        for record in records:
            application.check(record.knobs)
            assert record.ledger.data_bytes > 0, f"{name} sent nothing"
            assert 0 <= record.accuracy <= 1, f"accuracy {record.accuracy}"
        return records

    first, again = run(clip), run(clip)
    for a, b in zip(first, again, strict=True):
        assert (a.accuracy, a.ledger) == (b.accuracy, b.ledger), f"{name} is not deterministic"
    assert all(np.array_equal(a, b) for a, b in zip(clip, before, strict=True)), f"{name} changed the sensor's data"
    # Another last interval must not change what was chosen for it, unless the method sits in the camera, sends twice, or
    # foresees.
    if not any(hasattr(method.controller(application), hook) for hook in ("prepare", "refine", "foresee")):
        other = run([*clip[:-1], 255 - clip[-1]])
        if not any(hasattr(value, "network") for value in first[-1].knobs.values()):
            assert key_of(first[-1].knobs) == key_of(other[-1].knobs), f"{name} looks at the interval it chooses for"


def check_workload(name: str) -> None:
    """A workload gives as many clips and intervals as asked for, the same for the same stream, others for another."""
    workload = WORKLOADS.create(name, **_required(WORKLOADS, name))
    if getattr(workload, "needs_data", False):  # its clips are files of a data root, which a contract cannot have
        return

    def draw(seed: int) -> list[Any]:
        return list(itertools.islice(workload.clips(np.random.default_rng(seed), 2, 2), 3))

    clips = draw(1)
    assert [len(clip) for clip in clips] == [2, 2], f"{name} gave {[len(clip) for clip in clips]} intervals"
    same, other = draw(1), draw(2)
    assert all(np.array_equal(a, b) for x, y in zip(clips, same, strict=True) for a, b in zip(x, y, strict=True))
    assert not all(np.array_equal(a, b) for x, y in zip(clips, other, strict=True) for a, b in zip(x, y, strict=True))


def _required(registry: Any, name: str) -> dict[str, Any]:
    missing = [knob for knob, default in registry.knobs(name).items() if default is dataclasses.MISSING]
    assert not missing, f"{registry.kind} {name!r} needs a default for {', '.join(missing)}, so that it can be checked"
    return {}
