"""Reducto's frame features on the camera, and which frames are worth sending.

pixel   share of pixels whose grey level differs by more than 21
area    area of the largest changed region over all pixels (blurred 11 x 11, changed by more than 21, dilated 3 x 3)
edge    share of pixels whose edge map (blurred 11 x 11, Canny 101/255) changed
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from accmpeg.api import Frames
from common.errors import ConfigError

Feature = Literal["pixel", "area", "edge"]
FEATURES: tuple[str, ...] = ("pixel", "area", "edge")
_CHANGED = 21
_BLUR = (11, 11)


def check_feature(feature: str) -> None:
    """Raises ConfigError unless it is one of FEATURES."""
    if feature not in FEATURES:
        raise ConfigError(f"feature={feature!r} is not one of {', '.join(FEATURES)}.")


def difference(kept_HWC: npt.NDArray[np.uint8], frame_HWC: npt.NDArray[np.uint8], feature: Feature) -> float:
    """How much a frame differs from the last one kept, in [0, 1]; 0 for the same picture."""
    import cv2

    check_feature(feature)
    kept, frame = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (kept_HWC, frame_HWC))
    if feature == "pixel":
        return float((cv2.absdiff(kept, frame) > _CHANGED).mean())
    kept, frame = (cv2.GaussianBlur(picture, _BLUR, 0) for picture in (kept, frame))
    if feature == "edge":
        return float((cv2.Canny(kept, 101, 255) != cv2.Canny(frame, 101, 255)).mean())
    changed = (cv2.absdiff(kept, frame) > _CHANGED).astype(np.uint8)
    contours, _ = cv2.findContours(
        cv2.dilate(changed, np.ones((3, 3), np.uint8)), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    return max((float(cv2.contourArea(contour)) for contour in contours), default=0.0) / changed.size


def kept_frames(
    frames: Frames, feature: Feature, threshold: float, last_kept_HWC: npt.NDArray[np.uint8] | None
) -> list[int]:
    """Indices of the frames to send: each that differs from the last kept one by more than the threshold.

    Args:
        frames: (N, H, W, 3).
        threshold: in [0, 1]; below 0 every frame is kept.
        last_kept_HWC: the frame kept last before these; None at the start of a clip, whose first frame is always kept.
    """
    kept: list[int] = []
    last = last_kept_HWC
    for index, frame in enumerate(frames):
        if last is None or difference(last, frame, feature) > threshold:
            kept.append(index)
            last = frame
    return kept
