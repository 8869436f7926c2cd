"""Score the bundled network on streets that it has not seen, at each quantiser: python -m common.models.vision.evaluate

Options: folder=FOLDER (with NAME.safetensors and NAME.json; default: the bundled one), name=street, clips=10, frames=30, seed=0,
threads=1.

First the threshold is chosen on four streets of its own: the one with the best F1 against labels at QP 26. Then each evaluation
clip is coded at each quantiser (H.264, veryfast, key frame every 10 frames), decoded, and scored: F1 against the network's own
output at QP 26 and at QP 30 (what the papers call accuracy), F1 against labels, and mean IoU of the segmentation against the
masks. Threshold and scores go into the card, the curve into NAME_f1_vs_qp.png.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.cache import atomic_file
from common.codecs import decode, encode
from common.data.video import CAMERAS, Clip, render_street
from common.errors import ConfigError, DataUnavailable
from common.metrics.detection import Detections, clip_f1, mean_average_precision
from common.metrics.segmentation import confusion_matrix, mean_iou, pixel_accuracy
from common.models.train import parse_options
from common.models.vision.sources import BUNDLED, load_street_net
from common.models.vision.street_net import StreetDetector, StreetSegmenter
from common.rng import for_component

QPS = (22, 26, 28, 30, 32, 34, 36, 38, 40, 42, 44, 46, 48, 51)
REFERENCE_QPS = (26, 30)
GOP = 10
_THRESHOLDS = tuple(np.arange(0.15, 0.66, 0.05).round(2).tolist())
_VALIDATION_CLIPS = 4


@dataclasses.dataclass(frozen=True)
class Options:
    """The command's options; see the module's docstring."""

    folder: str = str(BUNDLED)
    name: str = "street"
    clips: int = 10
    frames: int = 30
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.clips, self.frames, self.threads) < 1:
            raise ConfigError("clips, frames and threads must be at least 1.")


def street_clip(seed: int, purpose: str, number: int, num_frames: int) -> Clip:
    """An evaluation clip: the cameras take turns. Purposes and numbers give different streets, none of them a training one."""
    rng = for_component(seed, "vision_evaluation", purpose, number)
    return render_street(rng, num_frames, camera=CAMERAS[number % len(CAMERAS)])


def best_threshold(detector: StreetDetector, clips: list[Clip]) -> float:
    """The threshold with the best F1 against labels."""
    found = [detector.detect(clip.frames, _THRESHOLDS[0]) for clip in clips]
    scores = [
        np.mean(
            [clip_f1(clip.labels or (), [one.above(t) for one in its]) for clip, its in zip(clips, found, strict=True)]
        )
        for t in _THRESHOLDS
    ]
    return float(_THRESHOLDS[int(np.argmax(scores))])


def curve(detector: StreetDetector, segmenter: StreetSegmenter, clips: list[Clip]) -> list[dict[str, float]]:
    """One row per quantiser: rate, F1 against outputs at the reference quantisers and against labels, and segmentation scores."""
    found: dict[int, list[list[Detections]]] = {}
    rows: list[dict[str, float]] = []
    for qp in QPS:
        rates, confusion = [], np.zeros((5, 5), np.int64)
        found[qp] = []
        for clip in clips:
            encoded = encode(clip.frames, qp=qp, gop=GOP, fps=clip.fps)
            frames = decode(encoded)
            found[qp].append(detector.detect(frames))
            assert clip.masks is not None
            confusion += confusion_matrix(clip.masks, segmenter.segment(frames), 5)
            rates.append(encoded.bitrate_bps / 1000)
        labels = [clip.labels or () for clip in clips]
        rows.append(
            {
                "qp": qp,
                "kbps": float(np.mean(rates)),
                "f1_labels": float(np.mean([clip_f1(a, b) for a, b in zip(labels, found[qp], strict=True)])),
                "map50_labels": mean_average_precision(
                    [frame for clip in labels for frame in clip],
                    [frame for clip in found[qp] for frame in clip],
                    ious=[0.5],
                ),
                "mean_iou": mean_iou(confusion),
                "pixel_accuracy": pixel_accuracy(confusion),
            }
        )
    for row in rows:
        for reference in REFERENCE_QPS:
            pairs = zip(found[reference], found[int(row["qp"])], strict=True)
            row[f"f1_qp{reference}"] = float(np.mean([clip_f1(a, b) for a, b in pairs]))
    return [{key: round(value, 4) for key, value in row.items()} for row in rows]


def evaluate(options: Options) -> dict[str, Any]:
    """Score and write the card; see the module's docstring."""
    torch.set_num_threads(options.threads)
    folder = Path(options.folder)
    network, card = load_street_net(options.name, folder)
    validation = [street_clip(options.seed, "validation", n, options.frames) for n in range(_VALIDATION_CLIPS)]
    for index, clip in enumerate(validation):
        validation[index] = dataclasses.replace(clip, frames=decode(encode(clip.frames, qp=REFERENCE_QPS[0], gop=GOP)))
    card["threshold"] = best_threshold(StreetDetector(network, options.name, 0.5), validation)
    clips = [street_clip(options.seed, "test", n, options.frames) for n in range(options.clips)]
    detector = StreetDetector(network, options.name, card["threshold"])
    rows = curve(detector, StreetSegmenter(network, options.name), clips)
    objects = float(np.mean([len(labels) for clip in clips for labels in clip.labels or ()]))
    card["scores"] = {
        "clips": options.clips,
        "frames": options.frames,
        "seed": options.seed,
        "objects_per_frame": objects,
        "by_qp": rows,
    }
    with atomic_file(folder / f"{options.name}.json") as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n")
    _draw(folder / f"{options.name}_f1_vs_qp.png", rows)
    return card


def as_table(rows: list[dict[str, float]]) -> str:
    """The curve as a Markdown table."""
    names = {
        "qp": "QP",
        "kbps": "kbit/s",
        "f1_qp26": "F1 vs QP 26",
        "f1_qp30": "F1 vs QP 30",
        "f1_labels": "F1 vs labels",
        "map50_labels": "AP50 vs labels",
        "mean_iou": "mean IoU",
    }
    lines = ["| " + " | ".join(names.values()) + " |", "|" + " --- |" * len(names)]
    for row in rows:
        cells = [f"{row['qp']:.0f}", f"{row['kbps']:.0f}", *(f"{row[key]:.3f}" for key in list(names)[2:])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _draw(path: Path, rows: list[dict[str, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    series = (
        ("f1_qp26", "F1 against own output at QP 26"),
        ("f1_labels", "F1 against labels"),
        ("mean_iou", "mean IoU of segmentation"),
    )
    for (key, label), marker in zip(series, "os^", strict=True):
        axes.plot([row["qp"] for row in rows], [row[key] for row in rows], marker=marker, label=label)
    axes.set(xlabel="quantiser (QP) of H.264", ylabel="score", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()
    fig.savefig(path, dpi=120)
    plt.close(fig)


if __name__ == "__main__":
    try:
        print(as_table(evaluate(parse_options(sys.argv[1:], Options))["scores"]["by_qp"]))
    except (ConfigError, DataUnavailable) as error:
        sys.exit(f"{type(error).__name__}: {error}")
