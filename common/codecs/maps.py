"""Per-macroblock quantiser maps: their grid, the rectangles that cover them, and how they reach the encoder.

FFmpeg's x264 and x265 wrappers read an array of regions from each frame's side data. PyAV can read side data but not add it; the
`addroi` filter adds it. So one template frame goes once through a chain of `addroi` filters, which leaves room for that many
regions on it; afterwards each picture is copied into the template and the array is overwritten in place.

    qp_map (rows, cols) --rectangles--> [(row, col, rows, cols, qp)] --overwrite--> side data of the template --> encoder

Source: AccMPEG sheet section 8.2; the layout is that of AVRegionOfInterest in FFmpeg's libavutil/frame.h.
"""

import ctypes
from fractions import Fraction
from typing import Any

import numpy as np

from common.errors import ConfigError, ReproError

MACROBLOCK = 16
"""Side of a macroblock in pixels."""

_REGION = np.dtype(
    [("self_size", "<u4"), *((name, "<i4") for name in ("top", "bottom", "left", "right", "num", "den"))]
)
_QP_RANGE = 51  # of an 8-bit H.264 or H.265 quantiser: a region's offset is given to FFmpeg as a fraction of it


def grid_shape(height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of macroblocks of a picture; those on the right and lower edge may stand out of it."""
    return -(-height // MACROBLOCK), -(-width // MACROBLOCK)


def rectangles(qp_map: np.ndarray, base: int) -> list[tuple[int, int, int, int, int]]:
    """Cover all cells that differ from `base` by disjoint rectangles, greedily: along the row first, then downwards.

    Args:
        qp_map: (rows, cols) integers.
        base: the value that needs no rectangle.

    Returns:
        (row, col, num_rows, num_cols, qp) of each; at most one per cell.
    """
    rows, cols = qp_map.shape
    found: list[tuple[int, int, int, int, int]] = []
    # Runs of equal values in each row; a run joins the rectangle above it when start, end and value are the same.
    open_above: dict[tuple[int, int, int], int] = {}
    for row in range(rows):
        line = qp_map[row]
        cuts = np.flatnonzero(line[1:] != line[:-1]) + 1
        starts = [0, *cuts.tolist()]
        ends = [*cuts.tolist(), cols]
        still_open: dict[tuple[int, int, int], int] = {}
        for start, end in zip(starts, ends, strict=True):
            qp = int(line[start])
            if qp == base:
                continue
            key = (start, end, qp)
            index = open_above.get(key)
            if index is None:
                found.append((row, start, 1, end - start, qp))
                index = len(found) - 1
            else:
                top, left, height, width, _ = found[index]
                found[index] = (top, left, height + 1, width, qp)
            still_open[key] = index
        open_above = still_open
    return found


def check_qp_map(qp_map: Any, num_frames: int | None, height: int, width: int, lowest: int, highest: int) -> np.ndarray:
    """The map as (1 or N, rows, cols) int64, or one line that says what is wrong with it.

    Raises:
        ConfigError: wrong shape or type, or values outside the codec's range.
    """
    array = np.asarray(qp_map)
    rows, cols = grid_shape(height, width)
    if array.ndim == 2:
        array = array[None]
    lengths = {1} if num_frames is None else {1, num_frames}
    if array.ndim != 3 or array.shape[1:] != (rows, cols) or array.shape[0] not in lengths:
        counts = " or ".join(map(str, sorted(lengths)))
        raise ConfigError(
            f"qp_map of shape {np.shape(qp_map)}: a {width}x{height} picture has {rows}x{cols} macroblocks of 16x16; "
            f"give ({counts}, {rows}, {cols})."
        )
    if array.dtype.kind not in "iu":
        raise ConfigError(f"qp_map of type {array.dtype}: quantisers are whole numbers; give uint8.")
    if array.min() < lowest or array.max() > highest:
        raise ConfigError(f"qp_map holds {array.min()} to {array.max()}; quantisers lie in [{lowest}, {highest}].")
    return array.astype(np.int64)


class RegionTemplate:
    """A frame with room for region side data, refilled for every picture.

    Args:
        width, height: of the coded picture, even.
        capacity: number of regions that fit; grows by itself.
    """

    def __init__(self, width: int, height: int, capacity: int = 64) -> None:
        self._width, self._height = width, height
        self._held: tuple[bytes, int] | None = None
        self._build(capacity)

    def _build(self, capacity: int) -> None:
        import av
        import av.filter

        graph = av.filter.Graph()
        last = graph.add_buffer(
            width=self._width, height=self._height, format=av.VideoFormat("yuv420p"), time_base=Fraction(1, 30)
        )
        for _ in range(capacity):
            region = graph.add("addroi", "x=0:y=0:w=16:h=16:qoffset=0")
            last.link_to(region)
            last = region
        sink = graph.add("buffersink")
        last.link_to(sink)
        graph.configure()
        graph.push(av.VideoFrame(self._width, self._height, "yuv420p"))
        frame: Any = graph.pull()
        frame.make_writable()
        self.frame = frame
        side_data = frame.side_data["REGIONS_OF_INTEREST"]
        layout = f"this build of FFmpeg ({av.__version__}) lays out regions in another way; use PyAV 14 to 18"
        if side_data.buffer_size != capacity * _REGION.itemsize:
            raise ReproError(f"{side_data.buffer_size} bytes for {capacity} regions: {layout}.")
        raw = (ctypes.c_char * side_data.buffer_size).from_address(side_data.buffer_ptr)
        self._regions = np.frombuffer(raw, dtype=_REGION)
        if not (self._regions["self_size"] == _REGION.itemsize).all():
            raise ReproError(f"regions of {self._regions['self_size'][0]} bytes: {layout}.")
        self._held = None

    def set_map(self, qp_map: np.ndarray, base: int) -> None:
        """Make the encoder code each macroblock with the map's quantiser; `base` is what it uses elsewhere.

        Args:
            qp_map: (rows, cols), already checked.
        """
        key = (qp_map.tobytes(), base)
        if key == self._held:
            return
        cover = rectangles(qp_map, base)
        if len(cover) > len(self._regions):
            self._build(min(qp_map.size, max(len(cover), 2 * len(self._regions))))
        table = self._regions
        # A region of offset 0 over everything, behind the others: x264 and x265 take the first that covers a macroblock.
        table["top"], table["bottom"], table["left"], table["right"] = 0, self._height, 0, self._width
        table["num"], table["den"] = 0, _QP_RANGE
        if cover:
            row, col, rows, cols, qp = np.array(cover).T
            count = len(cover)
            table["top"][:count], table["left"][:count] = row * MACROBLOCK, col * MACROBLOCK
            table["bottom"][:count] = np.minimum((row + rows) * MACROBLOCK, self._height)
            table["right"][:count] = np.minimum((col + cols) * MACROBLOCK, self._width)
            table["num"][:count] = qp - base
        self._held = key
