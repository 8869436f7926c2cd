"""Reducto's frame filter: cheap features of how much a frame differs from the last one sent, z-scored, against biases.

    features of (frame, last kept) -> z = (feature - mean) / deviation, over all pairs of frames of the interval
    send the frame if min over features of sigmoid(z - bias) > 0.5, that is, if every z exceeds its bias

Features, on grey frames (OneAdapt sheet, section 3): `pixel` share of pixels that changed by more than 21; `area` largest
contour of the blurred, thresholded, dilated difference, as a share of the picture. A bias of -100 sends all frames, +100 only the
first one.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FEATURES = ("pixel", "area")
_CHANGED = 21
_SEND_ALL = -100.0


def bias_grid(steps: Sequence[float] = (-100.0, -1.0, 0.0, 1.0, 100.0)) -> Iterator[tuple[float, ...]]:
    """Every combination of biases, from "send all" to "send the first only", (pixel, area)."""
    pairs = itertools.product(steps, repeat=len(FEATURES))
    yield from sorted(pairs, key=lambda pair: (sum(pair), pair))


def _grey(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    import cv2

    return frames if frames.ndim == 3 else np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


def pair_features(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Features of every pair of frames, (N, N, 2), symmetric, 0 on the diagonal.

    Args:
        frames: (N, H, W) or (N, H, W, 3) uint8.
    """
    import cv2

    grey = _grey(frames)
    blurred = np.stack([cv2.GaussianBlur(frame, (11, 11), 0) for frame in grey])
    count, num_pixels = len(grey), grey[0].size
    found = np.zeros((count, count, len(FEATURES)))
    dilate = np.ones((3, 3), np.uint8)
    for a, b in itertools.combinations(range(count), 2):
        changed = np.count_nonzero(cv2.absdiff(grey[a], grey[b]) > _CHANGED) / num_pixels
        mask = cv2.dilate((cv2.absdiff(blurred[a], blurred[b]) > _CHANGED).astype(np.uint8), dilate)
        contours: Sequence[Any]
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        area = max((cv2.contourArea(contour) for contour in contours), default=0.0) / num_pixels
        found[a, b] = found[b, a] = changed, area
    return found


def z_scores(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Features minus their mean over all pairs, in units of their deviation; 0 where a feature does not vary."""
    upper = features[np.triu_indices(len(features), 1)]
    if not len(upper):
        return np.zeros_like(features)
    mean, deviation = upper.mean(0), upper.std(0)
    return np.where(deviation > 1e-12, (features - mean) / np.where(deviation > 1e-12, deviation, 1), 0.0)


def kept_frames(frames: npt.NDArray[np.uint8], biases: Sequence[float]) -> tuple[int, ...]:
    """Frames that are sent: the first, then each that stands out from the last one sent.

    A feature that does not vary over the interval is ignored; if none varies (identical frames), only the first is sent,
    unless all biases say "send all".
    """
    return choose(pair_features(frames), biases)


def choose(features: npt.NDArray[np.float64], biases: Sequence[float]) -> tuple[int, ...]:
    """As `kept_frames`, from `pair_features`: a grid of biases shares them."""
    z = z_scores(features)
    upper = features[np.triu_indices(len(features), 1)]
    varies = upper.std(0) > 1e-12 if len(upper) else np.zeros(features.shape[-1], bool)
    bias = np.asarray(biases, float)
    kept = [0]
    for index in range(1, len(features)):
        stands_out = z[index, kept[-1]] > bias
        if stands_out[varies].all() if varies.any() else (bias <= _SEND_ALL).all():
            kept.append(index)
    return tuple(kept)
