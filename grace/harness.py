"""What the experiments share: playing packets with losses into a receiver, what is shown meanwhile, and scores."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from common.data.video import Clip
from common.errors import ConfigError
from common.metrics.image import ssim_db, video_psnr_db, video_ssim
from common.results import Row
from grace.api import WIRE_HEADER_BYTES, Image, Receiver, Scheme, StreamInfo

LATENESS_FRAMES = 3
"""How many frames later than its own a frame may come when losses are played without a clock: Tambur's tau, 120 ms."""


def wire_bytes(packets: Sequence[bytes]) -> int:
    """Bytes of packets with IP, UDP and RTP headers."""
    return sum(len(packet) + WIRE_HEADER_BYTES for packet in packets)


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A clip as one scheme sent it, without any report coming back.

    Attributes:
        first: the first frame as the receiver has it.
        start: what `Sender.start` returned.
        packets: of frames 1, 2, ...; packets[0] is empty.
    """

    info: StreamInfo
    first: Image
    start: bytes
    packets: tuple[tuple[bytes, ...], ...]


def send(scheme: Scheme, clip: Clip, info: StreamInfo, target_bytes: float) -> tuple[Stream, Receiver]:
    """Encode a clip at a size per frame. Returns the stream and a receiver that got its start."""
    sender, receiver = scheme.sender(info), scheme.receiver(info)
    start = sender.start(clip.frames[0])
    first = receiver.start(start)
    packets: list[tuple[bytes, ...]] = [()]
    for number in range(1, len(clip)):
        packets.append(tuple(sender.encode(number, clip.frames[number], target_bytes)))
    return Stream(info, first, start, tuple(packets)), receiver


def play_clean(receiver: Receiver, stream: Stream, until: int, begin: int = 1) -> dict[int, Image]:
    """Deliver frames begin .. until - 1 whole. Returns what was shown."""
    shown: dict[int, Image] = {}
    for number in range(begin, until):
        for packet in stream.packets[number]:
            shown |= {found.frame: found.image for found in receiver.on_packet(packet)}
    return shown


def play_lossy(
    receiver: Receiver, stream: Stream, begin: int, until: int, loss_rate: float, rng: Generator
) -> dict[int, Image]:
    """Deliver frames begin .. until - 1 with independent packet losses and nothing sent again; frames may be a little late.

    Each frame's losses come from a stream of its own, so that schemes with more packets do not shift those of later frames.
    """
    shown: dict[int, Image] = {}
    seeds = rng.integers(2**63, size=until - begin)
    for number in range(begin, until):
        lost = np.random.default_rng(seeds[number - begin]).random(len(stream.packets[number])) < loss_rate
        for packet, is_lost in zip(stream.packets[number], lost, strict=True):
            if not is_lost:
                shown |= {found.frame: found.image for found in receiver.on_packet(packet)}
        if number - LATENESS_FRAMES >= begin:
            shown |= {found.frame: found.image for found in receiver.flush(number - LATENESS_FRAMES)}
    return shown


def displayed(shown: dict[int, Image], number: int, before: Image) -> Image:
    """What is on the screen in frame `number`'s time: itself, or the newest one before it, or `before`."""
    known = [frame for frame in shown if frame <= number]
    return shown[max(known)] if known else before


def quality_rows(original: Image, image: Image, method: str, factors: Mapping[str, Any]) -> list[Row]:
    """SSIM (RGB), and PSNR of RGB and of luma, of one picture."""
    one, other = original[None], image[None]
    values = {
        "ssim": float(video_ssim(one, other)[0]),
        "psnr": float(np.minimum(video_psnr_db(one, other)[0], 100.0)),
        "psnr_y": float(np.minimum(video_psnr_db(one, other, luma=True)[0], 100.0)),
    }
    units = {"ssim": "1", "psnr": "dB", "psnr_y": "dB"}
    rows = [Row(name, value, units[name], "measured", method, factors) for name, value in values.items()]
    decibel = ssim_db(min(values["ssim"], 1 - 1e-9))
    return [*rows, Row("ssim_db", decibel, "dB", "measured", method, factors)]


def bd_rate(
    bytes_ours: Sequence[float],
    quality_ours: Sequence[float],
    bytes_base: Sequence[float],
    quality_base: Sequence[float],
) -> float:
    """How many more bytes we need at equal quality, averaged over the qualities that both reach: 0.5 means half as many again.

    Bjontegaard's measure with monotone cubic interpolation of log bytes over quality.

    Raises:
        ConfigError: the curves share no quality.
    """
    curves = []
    for sizes, qualities in ((bytes_ours, quality_ours), (bytes_base, quality_base)):
        order = np.argsort(qualities)
        quality, log = np.asarray(qualities)[order], np.log(np.asarray(sizes))[order]
        keep = np.concatenate([[True], np.diff(quality) > 1e-9])
        curves.append((quality[keep], log[keep]))
    low = max(curve[0][0] for curve in curves)
    high = min(curve[0][-1] for curve in curves)
    if not low < high:
        raise ConfigError(
            f"the two rate-quality curves share no quality: one ends at {high:.2f}, the other begins at {low:.2f}."
        )
    at: NDArray[np.float64] = np.linspace(low, high, 200)
    ours, base = (PchipInterpolator(*curve)(at) for curve in curves)
    return float(np.exp(np.mean(ours - base)) - 1)
