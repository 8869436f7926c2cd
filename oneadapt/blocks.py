"""Per-macroblock quality: OneAdapt's closed form, and the methods that were made for this one knob.

Two (or more) quantisers; a map says which block gets which. Per level q: E_q = block errors of an encode at q everywhere, b_q its
bytes. With mu from the wanted share p of blocks at the high level, each block takes argmin_q E_q + mu * b_q / b_high; for two
levels these are the p blocks that gain most. All maps are those of the interval before, except for DDS, which sends twice.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from common.errors import ConfigError
from oneadapt.api import METHODS, Feedback, Knobs
from oneadapt.baselines import Fixed
from oneadapt.gradient import Gradient
from oneadapt.session import MAP_BYTE, Application, Interval

MACROBLOCK = 16
SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)

QpMap = npt.NDArray[np.uint8]


def choose_levels(errors_LRC: npt.NDArray[np.float64], bytes_L: Sequence[int], share: float) -> npt.NDArray[np.int64]:
    """Which level each block gets, (R, C) indices into the levels.

    Args:
        errors_LRC: block errors at every level, from highest to lowest quality.
        bytes_L: bytes of an encode with that level everywhere.
        share: of blocks whose gain from the highest level, over the lowest, is to be paid for; in (0, 1].
    """
    gain_RC = errors_LRC[-1] - errors_LRC[0]
    count = max(1, round(share * gain_RC.size))
    delta = float(np.sort(gain_RC, axis=None)[::-1][count - 1])
    saved = 1 - bytes_L[-1] / bytes_L[0]
    price = max(delta, 0.0) / saved if saved > 0 else 0.0
    cost_LRC = errors_LRC + price * (np.asarray(bytes_L, float) / bytes_L[0])[:, None, None]
    # argmin takes the first, that is the higher quality, where two cost the same; but a block that gains nothing gets none.
    slack = 1e-12 * max(price, 1e-300)
    chosen = np.where(cost_LRC <= cost_LRC.min(0) + slack, 0, 1).argmin(0)
    chosen[gain_RC <= 0] = len(bytes_L) - 1
    return chosen


def _levels(application: Application) -> list[int]:
    return [int(value) for value in application.knob("blocks").values]


def _grid(application: Application, data: npt.NDArray[Any]) -> tuple[int, int]:
    return -(-data.shape[1] // MACROBLOCK), -(-data.shape[2] // MACROBLOCK)


def _as_knobs(application: Application, is_high_RC: npt.NDArray[np.bool_]) -> dict[str, Any]:
    levels = _levels(application)
    return {**application.best, "blocks": np.where(is_high_RC, levels[0], levels[-1]).astype(np.uint8)}


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ConfigError(f"{name}={value} must lie in (0, 1].")


@METHODS.add("oneadapt_blocks", label="OneAdapt", color="#0072B2", marker="o")
@dataclasses.dataclass(frozen=True)
class OneAdaptBlocks:
    """OneAdapt's closed form for macroblock quality.

    Attributes:
        share: p, the share of blocks at the high level.
        num_blocks: quality is chosen for groups of blocks so that there are about this many; 0: for every block.
    """

    share: float = 0.1
    num_blocks: int = 0

    pipeline: ClassVar[str] = "blocks"
    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("share", SHARES)

    def __post_init__(self) -> None:
        _check_share("share", self.share)
        if self.num_blocks < 0:
            raise ConfigError(f"num_blocks={self.num_blocks} must be >= 0.")

    def controller(self, application: Application) -> "BlockController":
        """See `oneadapt.api.Method.controller`."""
        return BlockController(self, application)


class BlockController:
    """One backward pass and one encode per level, for the map of the next interval."""

    def __init__(self, method: OneAdaptBlocks, application: Application) -> None:
        self.method = method
        self.application = application

    def next_knobs(self, feedback: Feedback) -> Knobs:
        """See `oneadapt.api.KnobController.next_knobs`."""
        application = self.application
        if feedback.delivery is None:
            return application.best
        gradient = Gradient.of(feedback.server.saliency(feedback.delivery), (MACROBLOCK, MACROBLOCK))
        feedback.camera.receive(gradient.num_bytes)
        sent = [feedback.camera.encode({**application.best, "blocks": level}) for level in _levels(application)]
        errors_LRC = np.stack([gradient.block_errors(one.x, sent[0].x) for one in sent])
        cells, expand = group(errors_LRC, self.method.num_blocks)
        chosen = expand(choose_levels(cells, [one.num_bytes for one in sent], self.method.share))
        levels = np.array(_levels(application), np.uint8)
        return {**application.best, "blocks": levels[chosen]}


def group(
    errors_LRC: npt.NDArray[np.float64], num_blocks: int
) -> tuple[npt.NDArray[np.float64], Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]]:
    """Errors of groups of blocks, and how to bring a choice for groups back to blocks.

    Args:
        errors_LRC: per block.
        num_blocks: about how many groups; 0 leaves blocks alone.
    """
    _, rows, columns = errors_LRC.shape
    if num_blocks == 0 or num_blocks >= rows * columns:
        return errors_LRC, lambda chosen: chosen
    side = int(np.sqrt(num_blocks))
    row_of, column_of = np.arange(rows) * min(side, rows) // rows, np.arange(columns) * min(side, columns) // columns
    sums = np.zeros((len(errors_LRC), row_of[-1] + 1, column_of[-1] + 1))
    for level, errors_RC in zip(sums, errors_LRC, strict=True):
        np.add.at(level, (row_of[:, None], column_of[None, :]), errors_RC)
    return sums, lambda chosen: chosen[row_of[:, None], column_of[None, :]]


@METHODS.add("uniform", label="Uniform quantiser", color="#7F7F7F", marker="s")
@dataclasses.dataclass(frozen=True)
class Uniform:
    """One quantiser for all blocks and intervals.

    Attributes:
        qp: the quantiser.
    """

    qp: int = 34

    pipeline: ClassVar[str] = "blocks"
    sweep: ClassVar[tuple[str, tuple[int, ...]]] = ("qp", (30, 32, 34, 36, 38, 40))

    def controller(self, application: Application) -> Fixed:
        """See `oneadapt.api.Method.controller`."""
        return Fixed({**application.best, "blocks": self.qp})


def region_mask(
    regions: Sequence[tuple[npt.NDArray[np.float32], float]], shape: tuple[int, int], threshold: float
) -> npt.NDArray[np.bool_]:
    """Blocks that regions of at least a score touch, (R, C).

    Args:
        regions: (box as x0, y0, x1, y1 in pixels, score).
        shape: rows and columns of blocks.
        threshold: least score.
    """
    mask = np.zeros(shape, bool)
    for box, score in regions:
        if score >= threshold:
            x0, y0, x1, y1 = (float(edge) / MACROBLOCK for edge in box)
            rows = slice(max(0, int(np.floor(y0))), max(0, int(np.ceil(y1))))
            mask[rows, max(0, int(np.floor(x0))) : max(0, int(np.ceil(x1)))] = True
    return mask


def dilate(mask_RC: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Grow by one block in all directions."""
    padded = np.pad(mask_RC, 1)
    rows, columns = mask_RC.shape
    return np.logical_or.reduce([padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)])


def _regions(application: Application, x_NHWC: npt.NDArray[np.float32]) -> list[Any]:
    find = getattr(application.task, "regions", None)
    if find is None:
        raise ConfigError(
            f"the task of {application.name} proposes no regions, which DDS and EAAR need; use a detection workload."
        )
    found: list[Any] = find(x_NHWC)
    return found


REGION_SCORES = (0.6, 0.4, 0.25, 0.15, 0.1, 0.05)


@METHODS.add("dds", label="DDS", color="#D55E00", marker="^")
@dataclasses.dataclass(frozen=True)
class Dds:
    """Server-driven: low quality first, then the regions that may hold objects once more at high quality.

    Attributes:
        score: least score of a proposed region.
    """

    score: float = 0.1

    pipeline: ClassVar[str] = "blocks"
    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("score", REGION_SCORES)

    def __post_init__(self) -> None:
        _check_share("score", self.score)

    def controller(self, application: Application) -> "DdsController":
        """See `oneadapt.api.Method.controller`."""
        return DdsController(self, application)


class DdsController:
    """Two rounds per interval; both are sent and analysed."""

    def __init__(self, method: Dds, application: Application) -> None:
        self.method = method
        self.application = application

    def next_knobs(self, feedback: Feedback) -> Knobs:
        """Low quality everywhere."""
        return {**self.application.best, "blocks": _levels(self.application)[-1]}

    def refine(self, now: Feedback) -> Knobs | None:
        """The second round: proposed regions of all frames, grown by one block, at high quality; none if there are none."""
        assert now.delivery is not None
        shape = _grid(self.application, now.camera.data)
        # The network ran on these frames already; proposals are part of its output.
        found = _regions(self.application, now.delivery.x)
        mask = np.logical_or.reduce([region_mask(regions, shape, self.method.score) for regions in found])
        if not mask.any():
            return None
        now.camera.receive(mask.size * MAP_BYTE)
        return _as_knobs(self.application, dilate(mask))


@METHODS.add("eaar", label="EAAR", color="#009E73", marker="v")
@dataclasses.dataclass(frozen=True)
class Eaar:
    """Regions that the network proposed on the last frame of the interval before get high quality.

    Attributes:
        score: least score of a proposed region.
    """

    score: float = 0.25

    pipeline: ClassVar[str] = "blocks"
    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("score", REGION_SCORES)

    def __post_init__(self) -> None:
        _check_share("score", self.score)

    def controller(self, application: Application) -> "EaarController":
        """See `oneadapt.api.Method.controller`."""
        return EaarController(self, application)


class EaarController:
    """Last frame's regions, one interval late."""

    def __init__(self, method: Eaar, application: Application) -> None:
        self.method = method
        self.application = application

    def next_knobs(self, feedback: Feedback) -> Knobs:
        """See `oneadapt.api.KnobController.next_knobs`."""
        if feedback.delivery is None:
            return self.application.best
        # DEVIATION oneadapt-4: regions are grown by one block for a second of motion; EAAR moves them by motion vectors.
        shape = _grid(self.application, feedback.camera.data)
        (regions,) = _regions(self.application, feedback.delivery.x[-1:])
        mask = dilate(region_mask(regions, shape, self.method.score))
        feedback.camera.receive(mask.size * MAP_BYTE)
        return _as_knobs(self.application, mask)


@METHODS.add("accmpeg", label="AccMPEG-like", color="#CC79A7", marker="D")
@dataclasses.dataclass(frozen=True)
class AccMpeg:
    """A small network on the camera predicts which blocks matter; it was trained on the profile clips' gradients.

    Attributes:
        threshold: least predicted probability of a block at high quality.
    """

    threshold: float = 0.3

    pipeline: ClassVar[str] = "blocks"
    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("threshold", (0.9, 0.75, 0.6, 0.45, 0.3, 0.15))

    def __post_init__(self) -> None:
        _check_share("threshold", self.threshold)

    def controller(self, application: Application) -> "AccMpegController":
        """See `oneadapt.api.Method.controller`."""
        return AccMpegController(self, application)


class AccMpegController:
    """The camera's own prediction on the interval that it is about to send: no server involved."""

    def __init__(self, method: AccMpeg, application: Application) -> None:
        network = application.extra.get("block_network")
        if network is None:
            raise ConfigError(
                "accmpeg needs a trained block network; make one with oneadapt.blocks.train_block_network."
            )
        self.method = method
        self.application = application
        self.network = network

    def next_knobs(self, feedback: Feedback) -> Knobs:
        """High quality everywhere, until `refine` sees the interval's frames."""
        return self.application.best

    def prepare(self, camera: Any) -> Knobs:
        """Knobs from the frames that are about to be sent: the mean prediction over all of them, as in the OneAdapt sheet."""
        x = torch.from_numpy(self.application.to_input(camera.data).transpose(0, 3, 1, 2).copy())
        with torch.inference_mode():
            p_RC = self.network(x).sigmoid()[:, 0].mean(0).numpy()
        camera.charge_model(len(x))
        return _as_knobs(self.application, p_RC >= self.method.threshold)


class BlockNetwork(nn.Module):
    """8 k parameters, stride 16: one logit per macroblock."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, 8, 12, 16, 24)
        self.layers = nn.Sequential(
            *(
                layer
                for a, b in itertools.pairwise(widths)
                for layer in (nn.Conv2d(a, b, 3, 2, 1), nn.ReLU(inplace=True))
            ),
            nn.Conv2d(24, 16, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 1, 1),
        )

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, rows, columns)."""
        logits: torch.Tensor = self.layers(x_BCHW)
        return logits


def train_block_network(
    application: Application,
    clips: Sequence[Sequence[npt.NDArray[Any]]],
    rng: np.random.Generator,
    *,
    steps: int = 400,
    share: float = 0.15,
) -> BlockNetwork:
    """The camera-side network of the AccMPEG-like baseline, trained on blocks whose error is largest (the top `share`).

    Args:
        application: of the blocks pipeline.
        clips: profile clips.
        rng: order of the examples and initial weights.
        steps: of Adam, 8 frames each.
        share: of blocks that count as important.
    """
    inputs, targets = [], []
    for clip in clips:
        for data in clip:
            interval = Interval(application, data[-1:])
            high, low = (
                interval.deliver({**application.best, "blocks": level})
                for level in (_levels(application)[0], _levels(application)[-1])
            )
            gradient = Gradient.of(interval.saliency(high), (MACROBLOCK, MACROBLOCK))
            error_RC = gradient.block_errors(low.x, high.x)
            bound = np.quantile(error_RC, 1 - share)
            inputs.append(application.to_input(data[-1:])[0].transpose(2, 0, 1))
            targets.append((error_RC > max(bound, 1e-9)).astype(np.float32))
    x, y = torch.from_numpy(np.stack(inputs)), torch.from_numpy(np.stack(targets))[:, None]
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(int(rng.integers(2**31)))
        network = BlockNetwork(x.shape[1])
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(steps):
        pick = torch.from_numpy(rng.integers(0, len(x), 8))
        loss = F.binary_cross_entropy_with_logits(network(x[pick]), y[pick], pos_weight=torch.tensor(3.0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()
