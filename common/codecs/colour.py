"""RGB to planar 4:2:0 and back: BT.601, limited range, chroma averaged over 2x2 pixels and interpolated linearly.

The same two functions serve every codec, so no method's pictures gain or lose by the conversion. A natural picture comes back
with a PSNR of about 50 dB (measured), one with colourful fine detail with less.
"""

from typing import Any

import numpy as np

_KR, _KB = 0.299, 0.114


def _matrices() -> tuple[np.ndarray, np.ndarray]:
    kg = 1 - _KR - _KB
    luma = np.array([_KR, kg, _KB])
    blue = (np.array([0, 0, 1]) - luma) / (2 * (1 - _KB))
    red = (np.array([1, 0, 0]) - luma) / (2 * (1 - _KR))
    linear = np.stack([luma * 219, blue * 224, red * 224]) / 255
    offset = np.array([[16.0], [128.0], [128.0]])
    inverse = np.linalg.inv(linear)
    return np.hstack([linear, offset]).astype(np.float32), np.hstack([inverse, -inverse @ offset]).astype(np.float32)


_TO_YUV, _TO_RGB = _matrices()


def rgb_to_yuv420(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Planes Y (H, W), Cb and Cr (H/2, W/2) of an (H, W, 3) uint8 picture; odd sides are first padded by replication."""
    import cv2

    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    yuv = cv2.transform(image, _TO_YUV)
    small = cv2.resize(yuv, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return yuv[..., 0], small[..., 1], small[..., 2]


def yuv420_to_rgb(luma: np.ndarray, blue: np.ndarray, red: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of planes (H, W), (H/2, W/2), (H/2, W/2)."""
    import cv2

    size = (luma.shape[1], luma.shape[0])
    chroma = cv2.resize(cv2.merge([blue, red]), size, interpolation=cv2.INTER_LINEAR)
    return cv2.transform(cv2.merge([luma, *cv2.split(chroma)]), _TO_RGB)


def fill_picture(picture: Any, image: np.ndarray) -> None:
    """Write an RGB picture into the planes of a yuv420p `av.VideoFrame` of the same (even) size."""
    for plane, values in zip(picture.planes, rgb_to_yuv420(image), strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        rows[: values.shape[0], : values.shape[1]] = values


def read_picture(picture: Any, height: int, width: int) -> np.ndarray:
    """The RGB picture in a decoded `av.VideoFrame`, without the padding of odd sizes.

    Other pixel formats than 8-bit limited-range 4:2:0 (from foreign files) go through FFmpeg's converter.
    """
    if picture.format.name != "yuv420p":
        return np.ascontiguousarray(picture.to_ndarray(format="rgb24")[:height, :width])
    planes = []
    for plane in picture.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        planes.append(np.ascontiguousarray(rows[: plane.height, : plane.width]))
    return np.ascontiguousarray(yuv420_to_rgb(*planes)[:height, :width])
