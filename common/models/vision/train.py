"""Train the bundled detection and segmentation network on rendered streets.

    python -m common.models.vision.train out=runs/street
    python -m common.models.vision.train out=runs/street resume=true max_seconds=600

Options: out=FOLDER, name=street, seed=0, width=24, steps=3000, batch=8, crop_height=128, crop_width=224, samples=4096,
rate=0.002, threads=1, precision=bfloat16 (or float32, three times slower on processors with AMX), resume=false, max_seconds=0
(0: no limit; stops with a checkpoint), save_every=100, data=FOLDER (training frames; default: OUT/data).

Frames are rendered and coded once (some 0.05 s each, kept in `data`). Pieces of them, three in four around an object, mirrored at
random, with random brightness and contrast, train all heads together: focal loss on the heat map (CenterNet's, powers 2 and 4),
L1 on boxes at centres, cross-entropy on classes of pixels. AdamW, learning rate up in 100 steps and down to zero along a cosine.
The folder then holds NAME.safetensors, NAME.json (settings, machine, wall time, losses), training_log.jsonl and
training_curves.png; `evaluate` adds the scores. Checkpoints are safetensors and JSON. Same seed, thread count and machine: same
weights, however often training was interrupted.

Source: AccMPEG sheet, section 8.3.
"""

import dataclasses
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.cache import atomic_file
from common.data.video.street import CLASSES
from common.errors import ConfigError
from common.models.train import parse_options
from common.models.vision.street_net import STRIDE, StreetNet
from common.models.vision.training_data import Samples, load_or_make_shard
from common.rng import for_component, seed_for

SHARD = 256
_WARMUP = 100
_WINDOW = 25
_BOX_WEIGHT, _CLASS_WEIGHT = 0.5, 1.0
# Nine pixels in ten are background: objects weigh more, or the head would learn to call everything background.
_PIXEL_WEIGHTS = (0.25, 1.0, 1.0, 2.0, 2.0)


@dataclasses.dataclass(frozen=True)
class Options:
    """The command's options; see the module's docstring."""

    out: str = ""
    name: str = "street"
    seed: int = 0
    width: int = 24
    steps: int = 3000
    batch: int = 8
    crop_height: int = 128
    crop_width: int = 224
    samples: int = 4096
    rate: float = 0.002
    precision: str = "bfloat16"
    threads: int = 1
    resume: bool = False
    max_seconds: float = 0.0
    save_every: int = 100
    data: str = ""

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out=FOLDER is missing: where the trained network goes.")
        if min(self.width, self.steps, self.batch, self.samples, self.threads, self.save_every) < 1 or self.rate <= 0:
            raise ConfigError("width, steps, batch, samples, threads, save_every and rate must be positive.")
        if min(self.crop_height, self.crop_width) < 32 or self.crop_height % 16 or self.crop_width % 16:
            raise ConfigError(
                f"crops of {self.crop_width}x{self.crop_height}: sides must be multiples of 16, at least 32."
            )
        if self.precision not in ("bfloat16", "float32"):
            raise ConfigError(f"precision={self.precision!r} must be bfloat16 or float32.")


def targets(
    boxes: np.ndarray, classes: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the detection head should say about one image.

    Args:
        boxes: (M, 4) in pixels. classes: (M,); rows with -1 do not count.
        height, width: of the heat map.

    Returns:
        Heat map (K, h, w): 1 at the cell of each centre, falling off as a Gaussian a fifth of the object's size wide; offsets and
        log sizes (4, h, w) in cells; and (h, w) 1.0 at centres.
    """
    heat = np.zeros((len(CLASSES), height, width), np.float32)
    box = np.zeros((4, height, width), np.float32)
    centre = np.zeros((height, width), np.float32)
    rows, cols = np.arange(height)[:, None], np.arange(width)[None]
    for (x0, y0, x1, y1), label in zip(boxes / STRIDE, classes, strict=True):
        if label < 0:
            continue
        x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
        col, row = min(int(x), width - 1), min(int(y), height - 1)
        sigma_x, sigma_y = max(w / 5, 0.55), max(h / 5, 0.55)
        bump = np.exp(-((cols - col) ** 2 / (2 * sigma_x**2) + (rows - row) ** 2 / (2 * sigma_y**2)))
        heat[label] = np.maximum(heat[label], bump)
        heat[label, row, col] = 1
        box[:, row, col] = (x - col, y - row, math.log(max(w, 0.3)), math.log(max(h, 0.3)))
        centre[row, col] = 1
    return heat, box, centre


def losses(
    outputs: tuple[Tensor, Tensor, Tensor], wanted: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Focal loss of the heat map, L1 of boxes at centres, weighted cross-entropy of pixels."""
    heat, box, classes = outputs
    heat_wanted, box_wanted, centre, pixels = wanted
    p = heat.sigmoid().clamp(1e-4, 1 - 1e-4)
    is_centre = heat_wanted.eq(1).float()
    hit = is_centre * (1 - p) ** 2 * p.log()
    miss = (1 - is_centre) * (1 - heat_wanted) ** 4 * p**2 * (1 - p).log()
    focal = -(hit + miss).sum() / is_centre.sum().clamp(min=1)
    distance = ((box - box_wanted).abs() * centre[:, None]).sum() / centre.sum().clamp(min=1)
    weights = torch.tensor(_PIXEL_WEIGHTS, dtype=classes.dtype)
    return focal, distance, functional.cross_entropy(classes, pixels, weight=weights)


def learning_rate(step: int, options: Options) -> float:
    """Linear warm-up, then a cosine to zero."""
    up = min(1.0, (step + 1) / min(_WARMUP, options.steps))
    return options.rate * up * 0.5 * (1 + math.cos(math.pi * step / options.steps))


class Batches:
    """Random batches; batch `step` depends on the seed and its number alone."""

    def __init__(self, shards: list[Samples], options: Options) -> None:
        self._shards, self._options = shards, options

    def __call__(self, step: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        rng = for_component(self._options.seed, "vision_batch", step)
        images, heats, boxes, centres, pixels = [], [], [], [], []
        for _ in range(self._options.batch):
            shard = self._shards[int(rng.integers(len(self._shards)))]
            index = int(rng.integers(len(shard)))
            frame, mask, box = shard.frames[index], shard.masks[index], shard.boxes[index].copy()
            label = shard.classes[index]
            if rng.random() < 0.5:
                frame, mask = frame[:, ::-1], mask[:, ::-1]
                box[:, 0::2] = frame.shape[1] - box[:, 2::-2]
            frame, mask, box, label = self._piece(rng, frame, mask, box, label)
            height, width = frame.shape[:2]
            gain, lift = rng.uniform(0.8, 1.2), rng.uniform(-0.06, 0.06)
            images.append((frame.astype(np.float32) / 255 * gain + lift).clip(0, 1))
            heat, where, centre = targets(box, label, height // STRIDE, width // STRIDE)
            heats.append(heat)
            boxes.append(where)
            centres.append(centre)
            pixels.append(mask[::2, ::2].astype(np.int64))
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        heat_, box_, centre_, pixel_ = (
            torch.from_numpy(np.stack(arrays)) for arrays in (heats, boxes, centres, pixels)
        )
        return x, (heat_, box_, centre_, pixel_)

    def _piece(
        self, rng: np.random.Generator, frame: np.ndarray, mask: np.ndarray, boxes: np.ndarray, classes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Cut out a piece: three times in four around a random object. Objects of which less than half is left do not count."""
        sides = (min(self._options.crop_height, frame.shape[0]), min(self._options.crop_width, frame.shape[1]))
        spare = [frame.shape[axis] - sides[axis] for axis in (0, 1)]
        corner = [int(rng.integers(room + 1)) for room in spare]
        objects = np.flatnonzero(classes >= 0)
        if len(objects) and rng.random() < 0.75:
            x0, y0, x1, y1 = boxes[objects[int(rng.integers(len(objects)))]]
            for axis, middle in enumerate(((y0 + y1) / 2, (x0 + x1) / 2)):
                shift = rng.uniform(-0.4, 0.4) * sides[axis]
                corner[axis] = int(np.clip(middle - sides[axis] / 2 + shift, 0, spare[axis]))
        row, col = (value // 2 * 2 for value in corner)  # the mask is used at half resolution
        inside = np.clip(boxes - [col, row, col, row], 0, [sides[1], sides[0]] * 2).astype(np.float32)
        left = (inside[:, 2:] - inside[:, :2]).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1).clip(min=1e-6)
        window = np.s_[row : row + sides[0], col : col + sides[1]]
        return frame[window], mask[window], inside, np.where(left >= 0.5, classes, -1)


def train(options: Options) -> Path:
    """Train, or go on training; see the module's docstring.

    Returns:
        The path of the weights, or of the checkpoint if the time ran out before the last step.

    Raises:
        ConfigError: the folder holds a run already (without resume) or one with other settings (with it).
    """
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    weights = out / f"{options.name}.safetensors"
    if weights.exists() and not options.resume:
        raise ConfigError(f"{weights} exists already; choose another out=, or resume=true.")
    torch.set_num_threads(options.threads)
    begin_s = time.monotonic()  # a limit on the command, not a measurement
    torch.manual_seed(seed_for(options.seed, "vision_weights"))
    network: StreetNet = StreetNet(options.width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.rate, weight_decay=1e-4)
    step, spent_s = _resume(out, options, network, optimizer) if options.resume else (0, 0.0)
    data = Path(options.data) if options.data else out / "data"
    shards = []
    for number in range(-(-options.samples // SHARD)):
        shards.append(load_or_make_shard(data, options.seed, number, min(SHARD, options.samples)))
        print(f"data {sum(map(len, shards))} of {options.samples}, {time.monotonic() - begin_s:.0f} s", flush=True)
        if _is_over(begin_s, options):
            _save(out, options, network, optimizer, step, spent_s)
            return out / "checkpoint.json"
    batches, window = Batches(shards, options), []
    network.train()
    while step < options.steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options)
        images, wanted = batches(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
            heat, box, classes = network(images.to(memory_format=torch.channels_last))
        parts = losses((heat.float(), box.float(), classes.float()), wanted)
        (parts[0] + _BOX_WEIGHT * parts[1] + _CLASS_WEIGHT * parts[2]).backward()
        optimizer.step()
        optimizer.zero_grad()
        window.append([part.item() for part in parts])
        step += 1
        if step % _WINDOW == 0:
            line = {
                "step": step,
                **dict(zip(("heat", "box", "pixels"), np.mean(window, 0).round(4).tolist(), strict=True)),
            }
            window = []
            with open(out / "training_log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            print(line, f"{time.monotonic() - begin_s:.0f} s", flush=True)
        is_over = _is_over(begin_s, options) and step < options.steps
        if step % options.save_every == 0 or step == options.steps or is_over:
            _save(out, options, network, optimizer, step, spent_s + time.monotonic() - begin_s)
            if is_over:
                return out / "checkpoint.json"
    _finish(out, options, network, spent_s + time.monotonic() - begin_s)
    return weights


def _is_over(begin_s: float, options: Options) -> bool:
    return bool(options.max_seconds) and time.monotonic() - begin_s > options.max_seconds


def _settings(options: Options) -> dict[str, Any]:
    free = ("out", "resume", "max_seconds", "save_every", "data", "threads")
    return {key: value for key, value in dataclasses.asdict(options).items() if key not in free}


def _save(out: Path, options: Options, network: StreetNet, optimizer: Any, step: int, spent_s: float) -> None:
    """A checkpoint: tensors first, then the JSON that names them, so that a crash leaves the former one."""
    from safetensors.torch import save_file

    tensors = {f"network.{key}": value.contiguous() for key, value in network.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer.{number}.{key}"] = torch.as_tensor(value).clone(memory_format=torch.contiguous_format)
    path = out / f"checkpoint_{step}.safetensors"
    with atomic_file(path) as temporary:
        save_file(tensors, temporary)
    with atomic_file(out / "checkpoint.json") as temporary:
        record = {"step": step, "seconds": round(spent_s, 1), "file": path.name, "settings": _settings(options)}
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    for old in out.glob("checkpoint_*.safetensors"):
        if old != path:
            old.unlink()


def _resume(out: Path, options: Options, network: StreetNet, optimizer: Any) -> tuple[int, float]:
    from safetensors.torch import load_file

    path = out / "checkpoint.json"
    if not path.exists():
        return 0, 0.0
    record = json.loads(path.read_text())
    if record["settings"] != _settings(options):
        changed = [key for key, value in _settings(options).items() if record["settings"].get(key) != value]
        raise ConfigError(
            f"{path} was made with other settings ({', '.join(changed)}); resume with those, or choose another out=."
        )
    tensors = load_file(out / record["file"])
    network.load_state_dict({key[8:]: value for key, value in tensors.items() if key.startswith("network.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    log = out / "training_log.jsonl"
    if log.exists():  # lines after the checkpoint will be written again
        kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= record["step"]]
        log.write_text("".join(line + "\n" for line in kept))
    return int(record["step"]), float(record["seconds"])


def _finish(out: Path, options: Options, network: StreetNet, seconds: float) -> None:
    from safetensors.torch import save_file

    path = out / f"{options.name}.safetensors"
    with atomic_file(path) as temporary:
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, temporary)
    path = out / "training_log.jsonl"
    log = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    card = {
        "name": options.name,
        "width": options.width,
        "threshold": 0.35,
        "parameters": sum(p.numel() for p in network.parameters()),
        "training": _settings(options)
        | {"seconds": round(seconds, 1), "machine": platform.processor() or platform.machine()},
        "final_losses": log[-1] if log else {},
        "torch": torch.__version__,
    }
    with atomic_file(out / f"{options.name}.json") as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n")
    _draw(out / "training_curves.png", log)


def _draw(path: Path, log: list[dict[str, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for key, label in (
        ("heat", "heat map (focal)"),
        ("box", "boxes (L1 of offsets and log sizes)"),
        ("pixels", "pixels (cross-entropy)"),
    ):
        axes.plot([line["step"] for line in log], [line[key] for line in log], label=label)
    axes.set(xlabel="step", ylabel="loss, mean over 25 steps", yscale="log")
    axes.legend()
    fig.savefig(path, dpi=120)
    plt.close(fig)


if __name__ == "__main__":
    try:
        print(train(parse_options(sys.argv[1:], Options)))
    except ConfigError as error:
        sys.exit(f"ConfigError: {error}")
