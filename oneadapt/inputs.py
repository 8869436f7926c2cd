"""What the networks see: sensor data as float32 arrays (N, rows, columns, channels), all of them about 0..1.

One layout for every kind of input, so that gradient and difference of inputs mean the same for all.
"""

import numpy as np
import numpy.typing as npt

# N elements (frames, scans, half-second pieces), H rows, W columns

FloatArray = npt.NDArray[np.float32]


def lidar_input(range_NHW: npt.NDArray[np.float32]) -> FloatArray:
    """Ranges in metres (0: nothing) to (N, H, W, 2): range / 30 m, and whether anything came back."""
    valid = range_NHW > 0
    return np.stack([np.minimum(range_NHW, 60.0) / np.float32(30), valid], -1).astype(np.float32)


def depth_input(picture_NHW: npt.NDArray[np.uint8]) -> FloatArray:
    """Inverse depth 0..255 to (N, H, W, 1) in 0..1."""
    return (picture_NHW[..., None] / np.float32(255)).astype(np.float32)


def thermal_input(picture_NHW: npt.NDArray[np.uint8]) -> FloatArray:
    """Temperature 0..255 to (N, H, W, 1) in 0..1."""
    return depth_input(picture_NHW)


def rgb_input(frames_NHWC: npt.NDArray[np.uint8]) -> FloatArray:
    """RGB 0..255 to (N, H, W, 3) in 0..1."""
    return frames_NHWC.astype(np.float32) / np.float32(255)
