"""Train the small networks: `python -m oneadapt.train NAME [--seconds S] [--seed N] [--out DIR]`.

NAME is lidar_detection, thermal_detection, depth_segmentation or sound_recognition. Data is drawn from `oneadapt.worlds`, as the
sensor delivers it at its best setting. Training stops after the given seconds of CPU time (drawing the data not counted; one
thread). The log of losses and the scores on unseen worlds go to `<out>/NAME.log.json`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from common.rng import for_component, seed_for
from oneadapt import networks, worlds
from oneadapt.inputs import depth_input, lidar_input, thermal_input

Batch = tuple[Tensor, Tensor]
BATCH = 8
NAMES = ("lidar_detection", "thermal_detection", "depth_segmentation", "sound_recognition")


def centre_map(labels: worlds.Labels, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Target of a detector: a bump at each object's centre, (classes, rows / 2, columns / 2), exactly 1 at the peak."""
    rows, columns = shape[0] // 2, shape[1] // 2
    target = np.zeros((len(worlds.CLASSES), rows, columns), np.float32)
    row_R, column_C = np.arange(rows)[:, None], np.arange(columns)[None, :]
    for kind, row, column, height, width in labels.boxes:
        at = min(int(row / 2), rows - 1), min(int(column / 2), columns - 1)
        sigma = max(height / 14, 0.7), max(width / 14, 0.7)
        bump = np.exp(-(((row_R - at[0]) / sigma[0]) ** 2) / 2 - (((column_C - at[1]) / sigma[1]) ** 2) / 2)
        target[kind - 1] = np.maximum(target[kind - 1], bump)
    return target


def _frames(name: str, rng: np.random.Generator, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    inputs: list[Any] = []
    targets: list[Any] = []
    for _ in range(count):
        world = worlds.street(rng, near=float(rng.random()))
        t_s = float(rng.uniform(0, 5))
        if name == "lidar_detection":
            range_HW, labels = worlds.lidar(world, t_s, rng)
            inputs.append(lidar_input(range_HW[None])[0])
            targets.append(centre_map(labels, worlds.LIDAR_SHAPE))
        else:
            camera = worlds.thermal_camera if name == "thermal_detection" else worlds.depth_camera
            picture, labels = camera(world, t_s, rng)
            to_input = thermal_input if name == "thermal_detection" else depth_input
            inputs.append(to_input(picture[None])[0])
            is_map = name == "thermal_detection"
            targets.append(centre_map(labels, worlds.CAMERA_SHAPE) if is_map else labels.class_HW[::2, ::2])
    return np.stack(inputs), np.stack(targets)


def _sounds(rng: np.random.Generator, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    inputs, targets = [], []
    for _ in range(count // 8):
        kinds = rng.integers(0, worlds.SILENCE + 1, 8).tolist()
        wave = worlds.soundtrack(
            kinds,
            rng,
            snr_db=float(rng.uniform(0, 30)),
            reverb_s=float(rng.uniform(0.05, 0.5)),
            low_noise=bool(rng.random() < 0.5),
        )
        inputs.append(networks.log_mel(wave))
        targets.append(kinds)
    return np.concatenate(inputs)[..., None], np.concatenate(targets)


def data(name: str, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    """`count` examples: inputs (N, C, H, W) float32 and targets."""
    inputs, targets = _sounds(rng, count) if name == "sound_recognition" else _frames(name, rng, count)
    return torch.from_numpy(inputs).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(targets)


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """The focal loss of centre maps, with exponents 2 and 4, per object."""
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    is_peak = target >= 0.999
    at_peak = -((1 - p) ** 2) * p.log() * is_peak
    elsewhere = -((1 - target) ** 4) * p**2 * (1 - p).log() * ~is_peak
    return (at_peak.sum() + elsewhere.sum()) / is_peak.sum().clamp(min=1)


def _build(name: str) -> tuple[Any, Callable[[Tensor, Tensor], Tensor]]:
    if name == "sound_recognition":
        return networks.SoundNet(len(worlds.SOUNDS) + 1), F.cross_entropy
    if name == "depth_segmentation":
        weight = torch.tensor([0.4, 1.0, 3.0])
        return networks.MapNet(1, 3), lambda logits, target: F.cross_entropy(logits, target, weight)
    network = networks.MapNet(2 if name == "lidar_detection" else 1, len(worlds.CLASSES))
    assert network.head.bias is not None
    torch.nn.init.constant_(network.head.bias, -3.5)
    return network, focal


@torch.no_grad()
def score(name: str, network: Any, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Scores against labels: accuracy for sounds, per-class IoU for pixels, F1 of centres for detectors."""
    logits = torch.cat([network(part) for part in inputs.split(32)])
    if name == "sound_recognition":
        return {"accuracy": float((logits.argmax(1) == targets).float().mean())}
    if name == "depth_segmentation":
        guess = logits.argmax(1)
        ious = {}
        for index, kind in enumerate(worlds.CLASSES, start=1):
            both, either = (guess == index) & (targets == index), (guess == index) | (targets == index)
            ious[f"iou_{kind}"] = float(both.sum() / either.sum().clamp(min=1))
        return ious
    from oneadapt.tasks import centre_f1, centres

    truth = [centres(map_CHW, 0.999) for map_CHW in targets]
    found = [centres(map_CHW, 0.4) for map_CHW in logits.sigmoid()]
    return {"f1": float(np.mean([centre_f1(a, b) for a, b in zip(found, truth, strict=True)]))}


def train(name: str, seconds: float, seed: int, out: Path, count: int | None = None) -> dict[str, Any]:
    """Train one network and write its weights and log to `out`; returns the log. `count`: examples drawn."""
    torch.set_num_threads(1)
    torch.manual_seed(seed_for(seed, "oneadapt train", name) % 2**31)
    network, loss_of = _build(name)
    count = count or (6400 if name == "sound_recognition" else 1000)
    inputs, targets = data(name, for_component(seed, "oneadapt train data", name), count)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-4)
    begin_s = time.process_time()
    step = 0
    losses: list[float] = []
    picks = torch.Generator().manual_seed(seed)
    network.train()
    while (used_s := time.process_time() - begin_s) < seconds:
        rate = 3e-3 * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * (1 + np.cos(np.pi * min(1, used_s / seconds))) / 2)
        for group in optimiser.param_groups:
            group["lr"] = rate
        pick = torch.randint(len(inputs), (BATCH,), generator=picks)
        x, y = inputs[pick], targets[pick]
        if name != "sound_recognition" and torch.rand((), generator=picks) < 0.5:
            x, y = x.flip(-1), y.flip(-1)
        loss = loss_of(network(x), y)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        step += 1
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            print(f"{name} step {step}: loss {np.mean(losses[-100:]):.4f} after {used_s:.0f} s", flush=True)
    network.eval()
    held_out = data(name, for_component(seed, "oneadapt train test", name), 160)
    log = {
        "name": name,
        "seed": seed,
        "steps": step,
        "examples": count,
        "parameters": sum(p.numel() for p in network.parameters()),
        "cpu_seconds": round(time.process_time() - begin_s, 1),
        "scores_on_unseen_worlds": score(name, network, *held_out),
        "loss": [round(float(np.mean(losses[i : i + 50])), 5) for i in range(0, len(losses), 50)],
    }
    networks.save(network, out / f"{name}.safetensors", {"seed": str(seed), "steps": str(step)})
    (out / f"{name}.log.json").write_text(json.dumps(log, indent=1) + "\n")
    return log


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m oneadapt.train", description="Train OneAdapt's small networks.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=networks.WEIGHTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    log = train(options.name, options.seconds, options.seed, options.out)
    print(json.dumps({key: value for key, value in log.items() if key != "loss"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
