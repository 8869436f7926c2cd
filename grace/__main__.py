"""The command line: `python -m grace call|send|receive|encode|decode|info`. `--help` says what each does.

Exit codes: 0 done; 1 it failed; 2 an argument was refused; 130 interrupted.
"""

import argparse
import math
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import exit_status, port
from common.errors import ConfigError, CorruptBitstream, DataUnavailable

_MOST_SECONDS = 3600
_LENGTH = struct.Struct("<I")
_MAGIC = b"GRC2"
_HEADER = struct.Struct("<4sHHfI")  # magic, height, width, frames per second, CRC-32 of the packets


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    return exit_status(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m grace", description="Loss-resilient video: calls, files, packets.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    call = commands.add_parser("call", help="the same call by several schemes; writes a video of them side by side")
    call.add_argument("--video", type=Path, default=None, help="any video file; default: a procedural clip")
    call.add_argument(
        "--trace", type=Path, default=None, help="a recorded network trace; default: a generated LTE trace"
    )
    call.add_argument("--out", type=Path, required=True, help="video to write, .mp4 or .mkv")
    call.add_argument("--methods", nargs="+", default=["grace", "fec_adaptive", "salsify"])
    call.add_argument("--seconds", type=float, default=4.0)
    call.add_argument("--size", type=int, default=256, help="height and width of the pictures")
    call.add_argument("--rate-scale", type=float, default=0.3, help="factor on the trace's rates")
    call.add_argument("--delay-s", type=float, default=0.1, help="one-way propagation delay")
    call.add_argument("--loss", type=float, default=0.0, help="random packet loss on top of the queue's")
    call.add_argument("--controller", default="gcc")
    call.add_argument(
        "--driver", default="loop", help="loop (virtual time), ns3, or real (sockets on loopback, real time)"
    )
    call.add_argument("--seed", type=int, default=0)
    call.set_defaults(run=_call)
    send = commands.add_parser(
        "send", help="send a call to another process over UDP, through a lossy link in user space"
    )
    send.add_argument("--video", type=Path, default=None, help="any video file; default: a procedural clip")
    send.add_argument("--method", default="grace")
    send.add_argument("--seconds", type=float, default=4.0)
    send.add_argument("--size", type=int, default=96)
    send.add_argument("--rate-mbps", type=float, default=1.0)
    send.add_argument("--delay-s", type=float, default=0.05)
    send.add_argument("--loss", type=float, default=0.1)
    send.add_argument("--host", default="127.0.0.1")
    send.add_argument("--port", type=port, default=5006)
    send.add_argument("--json", type=Path, default=None, help="write when each frame was taken")
    send.add_argument("--seed", type=int, default=0)
    send.set_defaults(run=_send)
    receive = commands.add_parser("receive", help="receive such a call")
    receive.add_argument("--method", default="grace")
    receive.add_argument("--host", default="127.0.0.1")
    receive.add_argument("--port", type=port, default=5006)
    receive.add_argument("--json", type=Path, default=None, help="write when each frame was shown")
    receive.set_defaults(run=_receive)
    encode = commands.add_parser("encode", help="code a video file as GRACE packets")
    encode.add_argument("video", type=Path)
    encode.add_argument("output", type=Path)
    encode.add_argument("--level", type=int, default=8)
    encode.add_argument("--packets", type=int, default=4)
    encode.add_argument("--frames", type=int, default=50)
    encode.add_argument("--height", type=int, default=256)
    encode.set_defaults(run=_encode)
    decode = commands.add_parser("decode", help="decode such a file, with packets lost on purpose")
    decode.add_argument("packets", type=Path)
    decode.add_argument("output", type=Path, help="video to write")
    decode.add_argument("--loss", type=float, default=0.0)
    decode.add_argument("--seed", type=int, default=0)
    decode.set_defaults(run=_decode)
    info = commands.add_parser("info", help="say what a file of packets holds")
    info.add_argument("packets", type=Path)
    info.set_defaults(run=_info)
    return parser


def _call(options: argparse.Namespace) -> None:
    from common.codecs import prepare_output
    from common.rng import for_component
    from grace.api import METHODS
    from grace.experiments_session import call, link_of, loss_model, paper_times
    from grace.session import frame_delays, percentile, source_index
    from grace.traces import excerpt, generated_rate, recorded_rate
    from grace.workloads import FPS

    _check_call(options)
    if not 0 < options.rate_scale < math.inf:
        raise ConfigError(f"--rate-scale {options.rate_scale} must be a number above 0; 0.3 suits pictures of 256x256.")
    prepare_output(options.out, options.video)
    num_frames = round(options.seconds * FPS)
    clip = _clip(options, num_frames)
    if options.trace is None:
        rate = generated_rate(for_component(options.seed, "trace"), "lte", options.seconds + 5, options.rate_scale)
    else:
        rate = excerpt(recorded_rate(options.trace, options.rate_scale), 0.0, options.seconds + 5)
    link = link_of(rate, options.delay_s, 25, loss_model(options.loss, 0.0), options.seed)
    columns = []
    for name in options.methods:
        method = METHODS.create(name)
        times = paper_times(method)
        record = call(options.driver, link, method, clip, options.controller, 600, 4, num_frames, times)
        delays = frame_delays(record)
        label = METHODS.style(name).label
        columns.append(_column(record, clip, label))
        missing = int(np.isinf(delays).sum())
        print(
            f"{label}: P95 frame delay {_seconds(percentile(delays, 0.95))}, {missing} of {len(delays)} frames never decoded, "
            f"{record.sent_bytes * 8 / record.duration_s / 1e3:.0f} kbit/s"
        )
    originals = [clip.frames[source_index(number, len(clip))] for number in range(1, num_frames)]
    columns.insert(0, [_labelled(image, ["original"]) for image in originals])
    frames = np.stack([np.concatenate(row, axis=1) for row in zip(*columns, strict=True)])
    _write_video(options.out, frames, FPS)
    print(f"wrote {options.out}: {len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}")


def _check_call(options: argparse.Namespace) -> None:
    if not 0.2 <= options.seconds <= _MOST_SECONDS or options.size < 32:
        raise ConfigError(
            f"--seconds {options.seconds} must lie in 0.2..{_MOST_SECONDS} and --size {options.size} be at least 32."
        )


def _send(options: argparse.Namespace) -> None:
    import json

    from common.net.rate import ConstantRate
    from grace.api import METHODS, StreamInfo
    from grace.congestion import make_controller
    from grace.experiments_session import link_of, loss_model
    from grace.udp import send_call
    from grace.workloads import FPS

    _check_call(options)
    num_frames = round(options.seconds * FPS)
    clip = _clip(options, num_frames)
    rate = ConstantRate(options.rate_mbps * 1e6)
    link = link_of(rate, options.delay_s, 50, loss_model(options.loss, 0.0), options.seed).build()
    info = StreamInfo(clip.height, clip.width, clip.fps, 400, 4)
    controller = make_controller("gcc_delay_only", min(0.5 * rate.bps, 300e3), 400)
    captures = send_call(
        METHODS.create(options.method),
        clip.frames,
        info,
        controller,
        num_frames,
        link,
        options.host,
        options.port,
        lambda port: print(f"waiting for a receiver on {options.host}:{port}", flush=True),
    )
    if options.json is not None:
        options.json.write_text(json.dumps(captures))
    down = link.counters[1]
    left_out = num_frames - 1 - len(captures)
    late = f" ({left_out} left out: this machine codes too slowly)" if left_out else ""
    print(f"{len(captures)} frames sent{late}; of {down.offered} packets {down.lost} were lost, {down.dropped} dropped")


def _receive(options: argparse.Namespace) -> None:
    import json

    from grace.api import METHODS
    from grace.udp import receive_call

    method = METHODS.create(options.method)
    try:
        shown = receive_call(method, options.host, options.port)
    except OSError as error:
        raise DataUnavailable(
            f"no sender answers at {options.host}:{options.port}: {error.strerror or error}."
        ) from error
    if options.json is not None:
        options.json.write_text(json.dumps({number: when for number, (when, _) in shown.items()}))
    print(f"{len(shown)} frames shown")


def _clip(options: argparse.Namespace, num_frames: int) -> Any:
    from common.data.video import Clip
    from common.data.video.files import load_clip
    from common.rng import for_component
    from grace.workloads import FPS, Procedural, fitted

    if options.video is None:
        return next(iter(Procedural(options.size, options.size, 40).items(for_component(options.seed, "clip"), 1)))
    loaded = load_clip(options.video, 0, min(num_frames, 100))
    if len(loaded) < 2:
        raise DataUnavailable(f"{options.video} holds {len(loaded)} frame; a call needs a video of at least 2.")
    most = min(loaded.height, loaded.width)
    if options.size > most:
        raise ConfigError(
            f"--size {options.size} is more than {options.video} has ({loaded.width}x{loaded.height}); give at most {most}."
        )
    frames = np.stack([fitted(frame, options.size, options.size) for frame in loaded.frames])
    return Clip(frames, FPS, options.video.stem)


def _seconds(value: float) -> str:
    return f"{value:.3f} s" if math.isfinite(value) else "infinite"


def _column(record: Any, clip: Any, label: str) -> list[np.ndarray]:
    """What a viewer sees in each frame's time, with the delay and SSIM of the newest frame shown."""
    from common.metrics.image import ssim_db, video_ssim
    from grace.session import source_index

    pictures = []
    for frame in record.frames:
        screen_s = frame.capture_s + 0.2  # what is on the screen when a frame of ordinary delay would be
        done = [other for other in record.frames if other.shown_s <= screen_s and other.number <= frame.number]
        if not done:
            pictures.append(_labelled(np.zeros_like(clip.frames[0]), [label, "nothing yet"]))
            continue
        newest = done[-1]
        original = clip.frames[source_index(frame.number, len(clip))]
        quality = ssim_db(min(float(video_ssim(original[None], newest.image[None])[0]), 1 - 1e-6))
        lines = [label, f"{1000 * (newest.shown_s - newest.capture_s):.0f} ms  {quality:.1f} dB"]
        if newest.number < frame.number:
            lines.append(f"{frame.number - newest.number} behind")
        pictures.append(_labelled(newest.image, lines))
    return pictures


def _labelled(image: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    import cv2

    bar = np.zeros((44, image.shape[1], 3), np.uint8)
    for place, line in enumerate(lines):
        cv2.putText(bar, line, (3, 12 + 14 * place), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([bar, image], axis=0)


def _write_video(path: Path, frames: np.ndarray, fps: float) -> None:
    from common.codecs import encode

    encode(frames, "h264", crf=18, fps=fps).save(path)


def _read_file(path: Path) -> tuple[int, int, float, bytes, list[list[bytes]]]:
    """Height, width, frame rate, stream start, packets by frame."""
    data = path.read_bytes()
    if data[: len(_MAGIC)] != _MAGIC or len(data) < _HEADER.size:
        raise CorruptBitstream(f"{path} is not a file of GRACE packets; make one with python -m grace encode.")
    _, height, width, fps, checksum = _HEADER.unpack_from(data)
    at = _HEADER.size
    # The receiver drops a damaged packet as if it were lost, as it must in a call; a damaged file is said to be one.
    if _checksum(height, width, fps, data[at:]) != checksum:
        raise CorruptBitstream(f"{path} does not match its checksum. It was cut or damaged.")
    blocks = []
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise CorruptBitstream(f"{path} ends within a packet. It was cut.")
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + size > len(data):
            raise CorruptBitstream(f"{path} ends within a packet. It was cut.")
        blocks.append(data[at : at + size])
        at += size
    if not blocks:
        raise CorruptBitstream(f"{path} holds no packets.")
    frames: list[list[bytes]] = [[]]
    for block in blocks[1:]:
        if block:
            frames[-1].append(block)
        else:
            frames.append([])
    return height, width, fps, blocks[0], [frame for frame in frames if frame]


def _checksum(height: int, width: int, fps: float, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack("<HHf", height, width, fps)))


def _encode(options: argparse.Namespace) -> None:
    from common.data.video.files import load_clip
    from common.results import write_atomically
    from grace.api import StreamInfo
    from grace.methods import Grace
    from grace.networks import LOWEST_LEVEL, NUM_LEVELS
    from grace.neural import NeuralSender

    if options.output.exists() and options.video.exists() and options.output.samefile(options.video):
        raise ConfigError(f"{options.output} is the video that is read; name another file to write.")
    if not 1 <= options.packets <= 64 or options.frames < 2:
        raise ConfigError(f"--packets {options.packets} must lie in 1..64 and --frames {options.frames} be at least 2.")
    if not LOWEST_LEVEL <= options.level < NUM_LEVELS:
        raise ConfigError(f"--level {options.level} must lie in {LOWEST_LEVEL} (smallest)..{NUM_LEVELS - 1}.")
    clip = load_clip(options.video, 0, options.frames, height=options.height)
    sender = Grace().sender(StreamInfo(clip.height, clip.width, clip.fps))
    assert isinstance(sender, NeuralSender)
    out = bytearray()

    def add(block: bytes) -> None:
        out.extend(_LENGTH.pack(len(block)) + block)

    add(sender.start(clip.frames[0]))
    for number in range(1, len(clip)):
        for packet in sender.encode_at(number, clip.frames[number], options.level, options.packets):
            add(packet)
        add(b"")
    checksum = _checksum(clip.height, clip.width, clip.fps, bytes(out))
    header = _HEADER.pack(_MAGIC, clip.height, clip.width, clip.fps, checksum)
    write_atomically(options.output, header + bytes(out))
    print(f"{len(clip)} frames of {clip.width}x{clip.height}: {len(header) + len(out)} bytes")


def _decode(options: argparse.Namespace) -> None:
    from common.codecs import prepare_output
    from common.rng import for_component
    from grace.api import StreamInfo
    from grace.methods import Grace

    if not 0 <= options.loss <= 1:
        raise ConfigError(f"--loss {options.loss} must lie in [0, 1].")
    prepare_output(options.output, options.packets)
    height, width, fps, start, frames = _read_file(options.packets)
    receiver = Grace().receiver(StreamInfo(height, width, fps))
    rng = for_component(options.seed, "losses")
    images = [receiver.start(start)]
    lost = total = 0
    for number, packets in enumerate(frames, 1):
        for packet in packets:
            total += 1
            if rng.random() < options.loss:
                lost += 1
            else:
                images += [found.image for found in receiver.on_packet(packet)]
        images += [found.image for found in receiver.flush(number)]
        if len(images) <= number:
            images.append(images[-1])
    _write_video(options.output, np.stack(images), fps)
    print(f"{len(images)} frames, {lost} of {total} packets lost")


def _info(options: argparse.Namespace) -> None:
    from grace.packets import KIND, read_head

    height, width, fps, start, frames = _read_file(options.packets)
    print(f"{width}x{height}, {fps:g} frames/s, first frame {len(start)} bytes, {len(frames)} P-frames")
    for packets in frames[:3]:
        heads = [read_head(packet) for packet in packets if packet[0] == KIND]
        sizes = ", ".join(str(len(packet)) for packet in packets)
        print(f"frame {heads[0].frame}: level {heads[0].level}, packets of {sizes} bytes")


if __name__ == "__main__":
    sys.exit(main())
