"""From scores per macroblock to a quantiser map: threshold, dilation, cleaning, levels (AccMPEG, the run time on the camera).

Legend: R rows and C columns of macroblocks; K maps of one chunk. `p` is the paper's probability that a macroblock needs high
quality; `alpha` its threshold.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from accmpeg.api import QpMap
from common.errors import ConfigError

Scores = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
Sample = Literal["first", "ends", "all"]
Padding = Literal["replicate", "zero"]
SAMPLES: tuple[str, ...] = ("first", "ends", "all")


def sampled_frames(num_frames: int, sample: Sample) -> list[int]:
    """The frames of a chunk on which AccModel runs: the first (the paper), first and last (the official code), or all.

    Raises:
        ConfigError: an unknown way to sample, or an empty chunk.
    """
    if num_frames < 1:
        raise ConfigError("a chunk without frames cannot be sampled.")
    if sample == "first":
        return [0]
    if sample == "ends":
        return [0] if num_frames == 1 else [0, num_frames - 1]
    if sample == "all":
        return list(range(num_frames))
    raise ConfigError(f"sample={sample!r} is not one of {', '.join(SAMPLES)}.")


def _window(mask_RC: Mask, cells: int, padding: Padding) -> npt.NDArray[np.bool_]:
    """All shifts of a mask within a box, (cells * cells, R, C)."""
    mode = "edge" if padding == "replicate" else "constant"
    half = cells // 2
    padded = np.pad(mask_RC, half, mode=mode)  # type: ignore[call-overload]
    view = np.lib.stride_tricks.sliding_window_view(padded, (cells, cells))
    return np.moveaxis(view.reshape(*mask_RC.shape, cells * cells), -1, 0)


def _check_box(cells: int) -> None:
    if cells < 1 or cells % 2 == 0:
        raise ConfigError(f"a box of {cells} macroblocks: must be odd and at least 1.")


def dilate(mask_RC: Mask, cells: int, padding: Padding = "replicate") -> Mask:
    """Grow a mask by a box of `cells` x `cells` macroblocks (odd; 1 changes nothing)."""
    _check_box(cells)
    return np.asarray(_window(mask_RC, cells, padding).any(0))


def erode(mask_RC: Mask, cells: int, padding: Padding = "replicate") -> Mask:
    """Shrink a mask by a box. With padding "zero" nothing on the frame's border survives, as in the official code."""
    _check_box(cells)
    return np.asarray(_window(mask_RC, cells, padding).all(0))


def clean(mask_RC: Mask, padding: Padding = "replicate") -> Mask:
    """A 3 x 3 opening (drops isolated macroblocks), then a 3 x 3 closing (fills holes).

    Args:
        padding: "replicate" (ours: objects enter at borders) or "zero" (the official code).
    """
    # DEVIATION accmpeg-2: replicate padding by default; the official code's zeros erase every block on the border.
    # Padded once and for all four steps: padded anew, what the closing grew up to the border would never shrink back.
    margin = 4 if padding == "replicate" else 0
    padded = np.pad(mask_RC, margin, mode="edge") if margin else mask_RC
    opened = dilate(erode(padded, 3, padding), 3, padding)
    closed = erode(dilate(opened, 3, padding), 3, padding)
    rows, columns = mask_RC.shape
    return closed[margin : margin + rows, margin : margin + columns]


def select(
    p_RC: Scores, alpha: float, *, dilation: int = 1, is_cleaned: bool = False, padding: Padding = "replicate"
) -> Mask:
    """Macroblocks that get high quality: p > alpha, then dilation, then cleaning."""
    mask = dilate(np.asarray(p_RC) > alpha, dilation, padding)
    return clean(mask, padding) if is_cleaned else mask


def top_share(score_RC: Scores, share: float) -> Mask:
    """The `share` of macroblocks with the largest scores: the greedy choice, optimal for the linearised problem.

    Takes floor(share * R * C + 0.5) blocks; ties go to the earlier block. Blocks of score 0 are taken last.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share={share} must be between 0 and 1.")
    flat = np.asarray(score_RC, dtype=np.float64).ravel()
    chosen = np.zeros(flat.size, dtype=bool)
    chosen[np.argsort(-flat, kind="stable")[: int(share * flat.size + 0.5)]] = True
    return chosen.reshape(np.shape(score_RC))


def two_levels(mask_RC: Mask, qp_hi: int, qp_lo: int) -> QpMap:
    """`qp_hi` where the mask is set, `qp_lo` elsewhere (a lower quantiser is the higher quality)."""
    check_qps((qp_hi, qp_lo))
    return np.where(mask_RC, qp_hi, qp_lo).astype(np.uint8)


def levels(p_RC: Scores, alphas: Sequence[float], qps: Sequence[int]) -> QpMap:
    """More than two qualities: qps[i] where p exceeds alphas[i] (and no earlier one), qps[-1] elsewhere.

    Args:
        alphas: falling thresholds, one less than there are quantisers.
        qps: rising quantisers, best quality first; at least 2 apart, since x264 merges neighbours that differ by 1.
    """
    check_qps(qps)
    if len(alphas) != len(qps) - 1 or list(alphas) != sorted(alphas, reverse=True):
        raise ConfigError(f"alphas={list(alphas)} must fall and be one fewer than qps={list(qps)}.")
    chosen = np.full(np.shape(p_RC), qps[-1], dtype=np.uint8)
    for alpha, qp in zip(reversed(alphas), reversed(qps[:-1]), strict=True):
        chosen[np.asarray(p_RC) > alpha] = qp
    return chosen


def check_qps(qps: Sequence[int]) -> None:
    """Raises ConfigError unless the quantisers are in 1..51, rise, and are at least 2 apart."""
    if len(qps) < 2 or min(qps) < 1 or max(qps) > 51 or any(b - a < 2 for a, b in itertools.pairwise(qps)):
        raise ConfigError(
            f"quantisers {list(qps)}: give two or more in 1..51, best quality (lowest) first, at least 2 apart."
        )


def boxes_to_mask(boxes_M4: npt.NDArray[np.floating], grid: tuple[int, int], dilation: int = 1) -> Mask:
    """Macroblocks that boxes (x0, y0, x1, y1 in pixels) touch, (R, C)."""
    rows, columns = grid
    mask = np.zeros(grid, dtype=bool)
    for x0, y0, x1, y1 in np.asarray(boxes_M4, dtype=np.float64).reshape(-1, 4):
        top, left = max(0, int(np.floor(y0 / 16))), max(0, int(np.floor(x0 / 16)))
        bottom, right = min(rows, int(np.ceil(y1 / 16))), min(columns, int(np.ceil(x1 / 16)))
        mask[top:bottom, left:right] = True
    return dilate(mask, dilation)
