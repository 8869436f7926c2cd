"""What the command line does: encode a video with a policy, and show what it did.

clip -> chunks -> policy -> uploads -> one stream (OUT) and a record of maps, bytes and times (OUT.json)
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from accmpeg.api import Clip, Frames, Site, chunks_of
from accmpeg.dnn import Dnn
from accmpeg.harness import Clock, Settings
from accmpeg.loop import Encoders, Ledger, MeteredLoop
from accmpeg.methods import open_session
from common.codecs import EncodedVideo, Packet
from common.errors import ConfigError


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed:
    """A clip as a policy sent it.

    Attributes:
        video: the last pass of each chunk as one stream; every chunk begins with a key frame.
        frames: what the server saw, one picture per frame of the clip.
        maps: quantisers of each frame, (N, R, C); uniform where the policy gave one number.
        frame_bytes: all bytes sent, by frame; those of earlier passes and dropped frames count where their chunk begins.
        ledgers: one per chunk.
    """

    video: EncodedVideo
    frames: Frames
    maps: np.ndarray
    frame_bytes: np.ndarray
    ledgers: list[Ledger]


def stream_clip(policy: Any, clip: Clip, site: Site, settings: Settings, clock: Clock) -> Streamed:
    """Send a clip with a policy and keep everything.

    Raises:
        ConfigError: the policy sent nothing at all.
    """
    session, encoders = open_session(policy, site), Encoders()
    packets: list[Packet] = []
    pictures, ledgers = [], []
    maps = np.zeros((len(clip.frames), *site.grid), np.uint8)
    frame_bytes = np.zeros(len(clip.frames), np.int64)
    last: EncodedVideo | None = None
    for chunk in chunks_of(clip, settings.chunk_frames):
        loop = MeteredLoop(settings.link.build(), clip.fps, clock, preset=settings.preset, encoders=encoders)
        delivery = session.deliver(chunk, loop)
        pictures.append(delivery.frames[delivery.shown])
        span = slice(chunk.start, chunk.start + len(chunk.frames))
        for encoded, _ in loop.uploads[:-1]:
            frame_bytes[chunk.start] += encoded.num_bytes
        if loop.uploads:
            last, qp = loop.uploads[-1]
            # Fewer pictures than frames: the first ones shown of each, in order.
            places = _places(delivery.shown, last.num_frames)
            for packet, size in zip(sorted(last.packets, key=lambda p: p.pts), last.bytes_per_frame, strict=True):
                frame_bytes[chunk.start + places[packet.pts]] += size
            packets += [dataclasses.replace(p, pts=chunk.start + int(places[p.pts])) for p in last.packets]
            maps[span] = _as_maps(qp, site.grid)
        ledgers.append(loop.finish())
    if last is None:
        raise ConfigError(f"{type(policy).__name__} sent nothing of this clip.")
    video = EncodedVideo(tuple(packets), last.codec, last.width, last.height, clip.fps)
    return Streamed(video, np.concatenate(pictures), maps, frame_bytes, ledgers)


def _places(shown: np.ndarray, num_sent: int) -> np.ndarray:
    """Where within the chunk each sent picture stands: all of them, or the frames at which another one is shown first."""
    if num_sent == len(shown):
        return np.arange(num_sent)
    firsts = np.flatnonzero(np.diff(shown, prepend=-1))
    return firsts[-num_sent:]  # a picture of an earlier chunk may come first


def _as_maps(qp: Any, grid: tuple[int, int]) -> np.ndarray:
    array = np.asarray(qp)
    return np.full(grid, array, np.uint8) if array.ndim == 0 else array.astype(np.uint8)


def record_of(streamed: Streamed, clip: Clip, policy_name: str, settings: Settings) -> dict[str, Any]:
    """The record that is written beside the video; JSON types."""
    chunks = []
    for index, ledger in enumerate(streamed.ledgers):
        start = index * settings.chunk_frames
        chunks.append(
            {
                "first_frame": start,
                "bytes": ledger.num_bytes,
                "seconds": {part: round(seconds, 6) for part, seconds in ledger.seconds.items()},
                "qp_map": streamed.maps[start].tolist(),
            }
        )
    return {
        "policy": policy_name,
        "frames": len(clip.frames),
        "fps": clip.fps,
        "codec": streamed.video.codec,
        "width": streamed.video.width,
        "height": streamed.video.height,
        "bytes": int(streamed.frame_bytes.sum()),
        "chunks": chunks,
    }


def write(streamed: Streamed, record: dict[str, Any], out: Path) -> Path:
    """The stream as a file that players open, and its record beside it; returns the record's path."""
    out.parent.mkdir(parents=True, exist_ok=True)
    streamed.video.save(out)
    beside = out.with_suffix(out.suffix + ".json")
    beside.write_text(json.dumps(record) + "\n")
    return beside


# ---------------------------------------------------------------------------------------------------------------- demo

_COLOURS = ((255, 210, 0), (255, 0, 200), (0, 230, 80), (0, 200, 255), (255, 120, 0), (150, 120, 255), (240, 240, 240))


def side_by_side(
    clip: Clip, plain: Streamed, ours: Streamed, dnn: Dnn, titles: tuple[str, str], *, scale: int = 2
) -> Frames:
    """Two versions of a clip beside each other, with what the DNN finds, the quantiser maps as tint, and the bytes so far.

    Args:
        clip: the original.
        plain, ours: left and right.
        titles: their names.
        scale: enlargement.

    Returns:
        Pictures, (N, scale * H + a strip, 2 * scale * W, 3); heights and widths are even.
    """
    sides = []
    for streamed, title in ((plain, titles[0]), (ours, titles[1])):
        outputs = dnn.run(streamed.frames)
        lowest, highest = int(ours.maps.min()), int(ours.maps.max())
        total = np.cumsum(streamed.frame_bytes)
        sides.append(
            [
                _panel(picture, output, qp_map, (lowest, highest), f"{title}: {num_bytes / 1000:.1f} kB", scale)
                for picture, output, qp_map, num_bytes in zip(
                    streamed.frames, outputs, streamed.maps, total, strict=True
                )
            ]
        )
    return np.stack([np.hstack(pair) for pair in zip(*sides, strict=True)])


def _panel(
    picture: np.ndarray, output: Any, qp_map: np.ndarray, span: tuple[int, int], caption: str, scale: int
) -> np.ndarray:
    import cv2

    height, width = picture.shape[:2]
    shown = cv2.resize(picture, (scale * width, scale * height), interpolation=cv2.INTER_CUBIC)
    if span[1] > span[0] and qp_map.min() < qp_map.max():  # a uniform picture needs no tint
        # Blocks of better quality are tinted, the more the better; the worst stay as they are.
        gain = (span[1] - qp_map.astype(float)) / (span[1] - span[0])
        tint = np.kron(gain, np.ones((16 * scale, 16 * scale)))[: scale * height, : scale * width, None]
        shown = (shown * (1 - 0.35 * tint) + 0.35 * tint * np.array([255.0, 90.0, 0.0])).astype(np.uint8)
    if hasattr(output, "boxes"):
        for box, score, kind in zip(output.boxes, output.scores, output.classes, strict=True):
            x0, y0, x1, y1 = (round(scale * float(side)) for side in box)
            colour = _COLOURS[int(kind) % len(_COLOURS)]
            cv2.rectangle(shown, (x0, y0), (x1, y1), colour, 1, cv2.LINE_AA)
            cv2.putText(
                shown, f"{score:.2f}", (x0, max(8, y0 - 2)), cv2.FONT_HERSHEY_SIMPLEX, 0.3, colour, 1, cv2.LINE_AA
            )
    else:
        edges = cv2.Canny((np.asarray(output) * 40).astype(np.uint8), 10, 20)
        shown[cv2.resize(edges, (scale * width, scale * height), interpolation=cv2.INTER_NEAREST) > 0] = (0, 255, 255)
    strip = np.zeros((24, scale * width, 3), np.uint8)
    cv2.putText(strip, caption, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    joined = np.vstack([strip, shown])
    return joined[: joined.shape[0] // 2 * 2, : joined.shape[1] // 2 * 2]
