"""The command line: `python -m accmpeg encode|demo|train|train-upscaler`. `--help` says what each does.

Exit codes: 0 done; 1 it failed; 2 an argument was refused; 130 interrupted.
"""

import argparse
import ast
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.cli import exit_status, positive
from common.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    return exit_status(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m accmpeg", description="Video coded for the DNN that will look at it: encode, demo, train."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    encode = commands.add_parser("encode", help="encode a video with a quality policy; writes it and a record of maps")
    encode.add_argument("clip", type=Path, help="video file")
    encode.add_argument("out", type=Path, help="video to write (.mp4, .mkv); the record goes to OUT.json")
    _add_policy(encode)
    encode.set_defaults(run=_encode)

    demo = commands.add_parser(
        "demo", help="write a video: uniform H.264 and a policy side by side, with maps and boxes"
    )
    demo.add_argument("out", type=Path, help="video to write (.mp4)")
    demo.add_argument("--clip", type=Path, default=None, help="video file; default: a rendered street")
    demo.add_argument("--scale", type=positive, default=2, help="enlargement")
    _add_policy(demo)
    demo.set_defaults(run=_demo)

    train = commands.add_parser("train", help="make AccModel for a DNN")
    train.add_argument("--out", type=Path, required=True, help="folder for weights, log and stored gradients")
    train.add_argument("--target", default="paper", choices=("paper", "official"), help="which accuracy gradient")
    train.add_argument(
        "--images", type=Path, nargs="+", default=None, help="folders of pictures or videos; default: rendered streets"
    )
    train.add_argument(
        "--skip", nargs="+", default=[], metavar="PATTERN", help="file names to leave out, e.g. 'test_*'"
    )
    train.add_argument("--height", type=positive, default=192, help="of the images, in pixels")
    train.add_argument("--picture-width", type=positive, default=320, help="of the images, in pixels")
    train.add_argument("--num-images", type=int, default=1800)
    train.add_argument("--width", type=int, default=24, help="channels of AccModel")
    train.add_argument("--max-epochs", type=positive, default=14, help="of the training")
    train.add_argument("--patience", type=positive, default=4, help="epochs without a better held-out loss that end it")
    train.add_argument("--qp-hi", type=int, default=30)
    train.add_argument("--qp-lo", type=int, default=40)
    train.add_argument("--seed", type=int, default=100)
    _add_dnn(train)
    train.set_defaults(run=_train)

    upscaler = commands.add_parser("train-upscaler", help="make CloudSeg's super-resolution network")
    upscaler.add_argument("--out", type=Path, required=True, help="folder for weights and log")
    upscaler.add_argument("--num-images", type=int, default=100)
    upscaler.add_argument("--steps", type=int, default=700)
    upscaler.add_argument("--seed", type=int, default=100)
    upscaler.set_defaults(run=_train_upscaler)
    return parser


def _add_dnn(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--detector", default="street", help="the server's DNN: street, street_segmentation, yolox_nano ..."
    )
    parser.add_argument("--data-root", type=Path, default=None, help="folder with downloaded models")


def _add_policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", default="accmpeg", help="any registered method; python -m experiments.list accmpeg")
    parser.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="a knob of the policy")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="module that registers policies"
    )
    parser.add_argument("--chunk-frames", type=int, default=10, help="k: frames that share a map")
    parser.add_argument("--start", type=int, default=0, help="first frame")
    parser.add_argument("--count", type=int, default=None, help="how many frames")
    parser.add_argument("--height", type=int, default=None, help="scale to this height first")
    parser.add_argument("--preset", default="veryfast", help="of the encoder")
    _add_dnn(parser)


def _policy(options: argparse.Namespace) -> Any:
    import importlib

    from accmpeg.api import METHODS

    sys.path.insert(0, "")
    for module in options.plugin:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(f"plugin {module!r} cannot be imported: {error}.") from error
    knobs = {}
    for item in options.set:
        name, is_given, text = item.partition("=")
        if not is_given:
            raise ConfigError(f"--set {item!r}: write it as KNOB=VALUE.")
        try:
            knobs[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            knobs[name] = text
    return METHODS.create(options.policy, **knobs)


def _root(options: argparse.Namespace) -> str | None:
    return None if options.data_root is None else str(options.data_root)


def _site(options: argparse.Namespace, clip: Any) -> Any:
    from accmpeg.servers import load_dnn
    from accmpeg.setting import site_of

    dnn, _ = load_dnn(options.detector, _root(options))
    return site_of(clip, dnn, _root(options))


def _clip(options: argparse.Namespace) -> Any:
    import numpy as np

    from accmpeg.workloads import Street
    from common.data.video import load_clip

    if options.clip is not None:
        return load_clip(options.clip, options.start, options.count, height=options.height)
    street = Street(num_frames=options.count or 90)
    return next(iter(street.items(np.random.default_rng(7), 1)))


def _streamed(options: argparse.Namespace, policy: Any, clip: Any, site: Any) -> tuple[Any, Any]:
    from accmpeg.harness import Settings
    from accmpeg.tool import stream_clip

    settings = Settings(options.chunk_frames, 0, preset=options.preset)
    return stream_clip(policy, clip, site, settings, time.process_time), settings


def _encode(options: argparse.Namespace) -> None:
    from accmpeg.tool import record_of, write
    from common.codecs import prepare_output

    policy = _policy(options)
    prepare_output(options.out, options.clip)
    clip = _clip(options)
    streamed, settings = _streamed(options, policy, clip, _site(options, clip))
    record = record_of(streamed, clip, options.policy, settings)
    beside = write(streamed, record, options.out)
    seconds = sum(sum(s for part, s in ledger.seconds.items() if part != "network") for ledger in streamed.ledgers)
    rate = 8 * record["bytes"] * clip.fps / len(clip.frames) / 1000
    print(
        f"{options.out}: {len(clip.frames)} frames, {record['bytes']} bytes sent, {rate:.0f} kbit/s, "
        f"{1000 * seconds / len(clip.frames):.1f} ms of CPU per frame; maps in {beside}"
    )


def _demo(options: argparse.Namespace) -> None:
    from accmpeg.methods import AwStream
    from accmpeg.tool import side_by_side
    from common.codecs import encode, prepare_output

    policy = _policy(options)
    prepare_output(options.out, options.clip)
    clip = _clip(options)
    site = _site(options, clip)
    plain, _ = _streamed(options, AwStream(30), clip, site)
    ours, _ = _streamed(options, policy, clip, site)
    titles = ("uniform H.264, quantiser 30", options.policy)
    pictures = side_by_side(clip, plain, ours, site.dnn, titles, scale=options.scale)
    encode(pictures, crf=20, fps=clip.fps, preset="fast", gop=30).save(options.out)
    left, right = int(plain.frame_bytes.sum()), int(ours.frame_bytes.sum())
    print(f"{options.out}: {len(pictures)} frames; {left} bytes at quantiser 30, {right} bytes with {options.policy}")


def _say(line: str) -> None:
    print(line, flush=True)


def _train(options: argparse.Namespace) -> None:
    from accmpeg.servers import load_dnn
    from accmpeg.train import TrainingSettings, customise
    from accmpeg.training_images import images_from_folders, rendered_images

    settings = TrainingSettings(
        target=options.target,
        qp_hi=options.qp_hi,
        qp_lo=options.qp_lo,
        width=options.width,
        max_epochs=options.max_epochs,
        patience=options.patience,
        seed=options.seed,
    )
    dnn, _ = load_dnn(options.detector, _root(options))
    size = {"height": options.height, "width": options.picture_width}
    source = "rendered streets"
    if options.images is None:
        frames = rendered_images(options.num_images, options.seed, **size)
    else:
        frames = images_from_folders(options.images, options.num_images, options.seed, **size, skip=options.skip)
        skipped = f" without {', '.join(options.skip)}" if options.skip else ""
        source = ", ".join("/".join(folder.parts[-2:]) for folder in options.images) + skipped
    _say(f"{len(frames)} images of {frames.shape[2]}x{frames.shape[1]}")
    log = customise(frames, dnn, settings, options.out, time.process_time, _say, source)
    _say(
        f"AccModel for {dnn.name}: gradients {log['gradient_seconds']} s, training {log['training_seconds']} s of CPU, "
        f"{len(log['epochs'])} epochs, recall {log['recall']}, precision {log['precision']}; in {options.out}"
    )


def _train_upscaler(options: argparse.Namespace) -> None:
    from accmpeg.train_upscaler import UpscalerSettings, make
    from accmpeg.training_images import rendered_images

    frames = rendered_images(options.num_images, options.seed + 1)
    settings = dataclasses.replace(UpscalerSettings(), steps=options.steps, seed=options.seed)
    log = make(frames, settings, options.out, time.process_time, _say)
    _say(
        f"upscaler: {log['psnr_db']} dB against {log['bilinear_psnr_db']} dB of bilinear enlargement; in {options.out}"
    )


if __name__ == "__main__":
    sys.exit(main())
