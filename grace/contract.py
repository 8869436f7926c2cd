"""The rules that every registered scheme and workload keeps; run on a stranger's as on our own."""

import dataclasses
import itertools
from typing import Any

import numpy as np

from common.data.video import Clip
from common.errors import DataUnavailable
from grace.api import METHODS, WORKLOADS, Report, StreamInfo
from grace.clips import ClipStyle, bundled_photos, make_clip

_SIDE = 128
_FRAMES = 4
_TARGET_BYTES = 1500.0


def check_method(name: str) -> None:
    """Without loss every frame is shown, the same each time; frames are left alone; bad bytes are dropped; reports travel."""
    method = METHODS.create(name, **_required(METHODS, name))
    info = StreamInfo(_SIDE, _SIDE, payload_bytes=400)
    frames = make_clip(np.random.default_rng(4), bundled_photos(), ClipStyle(_SIDE, _SIDE, _FRAMES))
    before = frames.copy()

    def transmit() -> tuple[list[list[bytes]], dict[int, np.ndarray]]:
        sender, receiver = method.sender(info), method.receiver(info)
        start = sender.start(frames[0])
        assert isinstance(start, bytes), f"{name}.start must return bytes"
        first = receiver.start(start)
        assert first.shape == frames[0].shape, f"{name}: its first frame has another shape"
        assert first.dtype == np.uint8, f"{name}: its first frame is {first.dtype}, not uint8"
        sent, shown = [], {}
        for number in range(1, _FRAMES):
            packets = sender.encode(number, frames[number], _TARGET_BYTES)
            assert packets, f"{name}.encode returned nothing"
            assert all(isinstance(packet, bytes) for packet in packets), f"{name}.encode must return bytes"
            sent.append(packets)
            for packet in packets:
                for bad in (packet[:-1], packet[:6], b"", bytes([packet[0]]) + packet[1:-1] + bytes([packet[-1] ^ 1])):
                    assert not receiver.on_packet(bad), f"{name} shows a frame because of damaged bytes"
                for found in receiver.on_packet(packet):
                    assert found.image.shape == frames[0].shape, f"{name} shows a frame of another shape"
                    shown[found.frame] = found.image
            report = receiver.report()
            assert Report.from_bytes(report.to_bytes()) == report, f"{name}: its report does not survive the wire"
            sender.on_report(report)
        for found in receiver.flush(_FRAMES - 1):
            shown[found.frame] = found.image
        return sent, shown

    sent, shown = transmit()
    assert set(shown) == set(range(1, _FRAMES)), (
        f"{name} shows frames {sorted(shown)} of 1 to {_FRAMES - 1} without a loss"
    )
    again, shown_again = transmit()
    assert sent == again, f"{name} is not deterministic"
    for number, image in shown.items():
        assert np.array_equal(image, shown_again[number]), f"{name} decodes differently each time"
    assert np.array_equal(frames, before), f"{name} changed the frames that it was given"


def check_workload(name: str) -> None:
    """A workload gives as many clips as asked for, the same for the same stream, others for another."""
    workload = WORKLOADS.create(name, **_required(WORKLOADS, name))

    def draw(seed: int, n: int) -> list[Clip]:
        return list(itertools.islice(workload.items(np.random.default_rng(seed), n), n + 1))

    try:
        clips = draw(1, 2)
    except DataUnavailable:
        return  # its clips come from a data root that is not set: nothing to check
    assert len(clips) == 2, f"{name} gave {len(clips)} clips when asked for 2"
    for clip in clips:
        assert clip.frames.dtype == np.uint8, f"{name} must give uint8 frames"
        assert clip.frames.ndim == 4 and clip.frames.shape[3] == 3, f"{name} must give (T, H, W, 3)"  # noqa: PT018
    again, other = draw(1, 2), draw(2, 2)
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(clips, again, strict=True)), (
        f"{name} is not repeatable"
    )
    assert any(not np.array_equal(a.frames, b.frames) for a, b in zip(clips, other, strict=True)), (
        f"{name} ignores its random stream"
    )


def _required(registry: Any, name: str) -> dict[str, Any]:
    missing = [knob for knob, default in registry.knobs(name).items() if default is dataclasses.MISSING]
    assert not missing, f"{registry.kind} {name!r} needs a default for {', '.join(missing)}, so that it can be checked"
    return {}
