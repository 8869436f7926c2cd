"""Making CloudSeg's super-resolution network: half-size frames, coded and decoded, back to their full-size originals."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from accmpeg.api import Frames
from accmpeg.dnn import decoded_at, images_of
from accmpeg.upscaler import Upscaler, downscale, save
from common.errors import ConfigError
from common.rng import for_component, seed_for


@dataclasses.dataclass(frozen=True)
class UpscalerSettings:
    """How the upscaler is made.

    Attributes:
        channels, depth: of the network.
        qps: quantisers at which small frames are coded, each image at one of them.
        steps, batch_size, patch: of the training; patches are of the small picture.
        learning_rate: of Adam, falling to zero.
        validation_share: of the images.
        seed: of everything random.
    """

    channels: int = 24
    depth: int = 3
    qps: tuple[int, ...] = (20, 24, 28, 32, 36)
    steps: int = 700
    batch_size: int = 6
    patch: int = 32
    learning_rate: float = 2e-3
    validation_share: float = 0.1
    seed: int = 100


def make(
    frames: Frames, settings: UpscalerSettings, out: Path, clock: Callable[[], float], say: Callable[[str], None]
) -> dict[str, Any]:
    """Train on frames (N, H, W, 3) and write `upscaler.safetensors` and its log to a folder; returns the log.

    Raises:
        ConfigError: fewer than ten frames.
    """
    if len(frames) < 10:
        raise ConfigError(f"{len(frames)} images are too few to train an upscaler; give at least 10.")
    begin_s = clock()
    rng = for_component(settings.seed, "accmpeg upscaler")
    small = np.concatenate([decoded_at(downscale(frame[None]), int(rng.choice(settings.qps))) for frame in frames])
    num_validation = max(1, round(len(frames) * settings.validation_share))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed_for(settings.seed, "upscaler weights"))
        model = Upscaler(settings.channels, settings.depth)
    optimiser = torch.optim.Adam(model.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    height, width = small.shape[1:3]
    side = min(settings.patch, height, width)
    losses = []
    for step in range(1, settings.steps + 1):
        pairs = []
        for index in rng.integers(num_validation, len(frames), settings.batch_size):
            y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
            coarse = small[index, y : y + side, x : x + side]
            fine = frames[index, 2 * y : 2 * (y + side), 2 * x : 2 * (x + side)]
            pairs.append((coarse, fine) if rng.random() < 0.5 else (coarse[:, ::-1], fine[:, ::-1]))
        coarse_B3HW, fine_B3HW = (images_of(np.stack(part)) for part in zip(*pairs, strict=True))
        loss = functional.l1_loss(model(coarse_B3HW), fine_B3HW)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 250 == 0:
            say(f"step {step}: loss {np.mean(losses[-250:]):.5f}")
    model.eval()
    held_small, held = small[:num_validation], frames[:num_validation]
    size = held.shape[1:3]
    log = {
        "settings": dataclasses.asdict(settings),
        "num_images": len(frames),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(clock() - begin_s, 1),
        "psnr_db": round(_psnr_db(model.upscale(held_small, *size), held), 2),
        "bilinear_psnr_db": round(_psnr_db(Upscaler(4, 1).eval().upscale(held_small, *size), held), 2),
        "losses": [round(float(np.mean(losses[at : at + 250])), 5) for at in range(0, len(losses), 250)],
    }
    save(model, out / "upscaler.safetensors")
    (out / "upscaler.json").write_text(json.dumps(log, indent=1) + "\n")
    return log


def _psnr_db(found: Frames, wanted: Frames) -> float:
    from common.metrics.image import video_psnr_db

    return float(np.mean(video_psnr_db(wanted, found)))
