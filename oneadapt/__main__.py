"""The command line: `python -m oneadapt run VIDEO` adapts the encoder's knobs to a video and draws them over time.

Exit codes: 0 done; 1 it failed; 2 an argument was refused; 130 interrupted.
"""

import argparse
import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.cli import exit_status
from common.errors import ConfigError

LEAST_OBJECTS = 0.3
"""Objects per frame below which the command says that its accuracy means little."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    return exit_status(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m oneadapt", description="Knobs that follow the gradient of accuracy."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="adapt to a video file, and draw knobs, bytes and accuracy over time")
    run.add_argument("video", type=Path, help="a file that FFmpeg reads")
    run.add_argument("--out", type=Path, default=Path("oneadapt_run"), help="folder for knobs.csv and knobs.png")
    run.add_argument("--method", default="oneadapt", help="a method for knobs of the encoder")
    run.add_argument(
        "--trade",
        type=float,
        default=0.3,
        help="price of all bytes of the best setting, in accuracy: 0 never gives up accuracy, 1 saves most (default 0.3)",
    )
    run.add_argument(
        "--detector",
        default="street",
        help="street (bundled, made for rendered streets), or yolox_nano, fastestdet (real objects; they need --data-root)",
    )
    run.add_argument("--data-root", type=Path, default=None, help="folder with real detectors (see docs/data.md)")
    run.add_argument("--height", type=int, default=192, help="frames are scaled to this many rows, even (default 192)")
    run.add_argument("--width", type=int, default=320, help="and to this many columns, even (default 320)")
    run.add_argument("--intervals", type=int, default=30, help="at most this many seconds of 10 frames (default 30)")
    run.add_argument(
        "--warm-up", type=int, default=3, help="seconds before them, from which the offline profile is made (default 3)"
    )
    run.set_defaults(run=_run)
    return parser


def _run(options: argparse.Namespace) -> None:
    from common.data.video import load_clip
    from oneadapt.api import METHODS, WORKLOADS
    from oneadapt.harness import pipeline_of, summarise_records
    from oneadapt.profiles import make_profile, with_profile
    from oneadapt.session import run_clip

    if options.warm_up < 1 or options.intervals < 2:
        raise ConfigError(
            f"--warm-up={options.warm_up} must be at least 1 and --intervals={options.intervals} at least 2."
        )
    for name, size in (("height", options.height), ("width", options.width)):
        if size < 32 or size % 2:
            raise ConfigError(f"--{name}={size} must be even and at least 32: the video code takes no odd sizes.")
    if options.out.exists() and not options.out.is_dir():
        raise ConfigError(f"--out={options.out} is a file; name a folder for knobs.csv and knobs.png.")
    knobs = {"trade": options.trade} if "trade" in METHODS.knobs(options.method) else {}
    method = METHODS.create(options.method, **knobs)
    if pipeline_of(method) != "encoding":
        raise ConfigError(
            f"method {options.method!r} sets no knobs of the encoder; choose oneadapt, chameleon, awstream, casva, static ..."
        )
    # More than one frame: the rate that a file states need not be that of its frames.
    rate = load_clip(options.video, count=30, height=options.height, width=options.width).fps
    options.out.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    step = max(1, round(rate / 10))
    count = (options.warm_up + options.intervals) * 10
    frames = load_clip(options.video, count=count, step=step, height=options.height, width=options.width).frames
    num_intervals = len(frames) // 10
    if num_intervals < options.warm_up + 2:
        raise ConfigError(
            f"{options.video} has {num_intervals} intervals of 10 frames at 10 per second; "
            f"--warm-up={options.warm_up} and two more are needed. Take a longer file or a smaller --warm-up."
        )
    intervals = list(frames[: 10 * num_intervals].reshape(num_intervals, 10, *frames.shape[1:]))
    workload = WORKLOADS.create("rgb_detection", detector=options.detector)
    root = str(options.data_root) if options.data_root else None
    application = workload.application("encoding", {"root": root})
    found = application.task.infer(application.to_input(intervals[0]))
    objects = sum(len(frame) for frame in found) / len(found)
    print(f"{options.detector} finds {objects:.1f} objects in a frame of the first interval.")
    if objects < LEAST_OBJECTS:
        print("With so few results accuracy says little, and the knobs follow the price alone. Try another --detector.")
    profile = make_profile(application, [intervals[: options.warm_up]])
    application = with_profile(application, profile)
    records = run_clip(application, {"": method.controller(application)}, intervals[options.warm_up :])[""]
    _write(options.out / "knobs.csv", application, records)
    _draw(
        options.out / "knobs.png", application, records, f"{options.video.name}, {METHODS.style(options.method).label}"
    )
    whole = summarise_records(application, records)
    seconds = len(records) * application.interval_s
    up = sum(record.bytes_up for record in records)
    best = sum(record.best_bytes for record in records)
    print(
        f"{len(records)} intervals: accuracy {whole.accuracy:.3f} against the best setting, {whole.resource:.3f} of its bytes"
    )
    print(f"{8 * up / seconds / 1000:.1f} kbit/s sent (best setting {8 * best / seconds / 1000:.1f})")
    work = {
        f.name: sum(getattr(record.ledger, f.name) for record in records) for f in dataclasses.fields(records[0].ledger)
    }
    print(
        f"network: {work['forwards']} forwards, {work['backwards']} backwards; camera: {work['camera_frames']} frames encoded"
    )
    print(
        f"offline profile of the {options.warm_up} intervals before, not in these numbers: {profile.forwards} forwards, "
        f"{profile.backwards} backwards"
    )
    for knob in application.knobs:
        counts = {value: sum(record.knobs[knob.name] == value for record in records) for value in knob.values}
        used = ", ".join(f"{value} in {count}" for value, count in counts.items() if count)
        print(f"{knob.name} (of {', '.join(map(str, knob.values))}): {used}")
    print(f"{options.out / 'knobs.csv'}, {options.out / 'knobs.png'}")


def _write(path: Path, application: Any, records: Sequence[Any]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        names = [knob.name for knob in application.knobs]
        writer.writerow(
            ["interval", *names, "accuracy", "bytes_up", "best_bytes", "forwards", "backwards", "camera_frames"]
        )
        for record in records:
            ledger = record.ledger
            work = (ledger.forwards, ledger.backwards, ledger.camera_frames)
            values = [record.knobs[name] for name in names]
            writer.writerow([record.t, *values, round(record.accuracy, 4), record.bytes_up, record.best_bytes, *work])


def _draw(path: Path, application: Any, records: Sequence[Any], title: str) -> None:
    from common.plotting import panels, use_style

    with use_style():
        fig, grid = panels(2 + len(application.knobs), 1, width_in=7.0, height_in=1.4)
        t = [*(record.t for record in records), records[-1].t + 1]  # the last interval has an end too
        series = [
            ("accuracy", [record.accuracy for record in records]),
            ("bytes / best", [record.bytes_up / record.best_bytes for record in records]),
            *((knob.name, [record.knobs[knob.name] for record in records]) for knob in application.knobs),
        ]
        for axes, (name, values) in zip(grid[:, 0], series, strict=True):
            axes.step(t, [*values, values[-1]], where="post", color="#0072B2")
            axes.set_ylabel(name)
        for axes in grid[:, 0]:
            axes.xaxis.get_major_locator().set_params(integer=True)
        for axes, knob in zip(grid[2:, 0], application.knobs, strict=True):
            axes.set_yticks([float(value) for value in knob.values])
            if knob.values[0] < knob.values[-1]:
                axes.invert_yaxis()  # the most expensive value is always on top
        grid[0, 0].set_title(title)
        grid[-1, 0].set_xlabel("interval")
        fig.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
