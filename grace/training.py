"""Train the bundled codecs.

    python -m grace.training pretrain out=runs/pretrained data_root=DATA steps=16000
    python -m grace.training refine   out=runs/refined start_from=runs/pretrained data_root=DATA steps=1500 rollout=4
    python -m grace.training joint    out=runs/grace start_from=runs/refined data_root=DATA steps=5000 rollout=4

    python -m grace.training finish   out=grace/bundled/grace.safetensors start_from=runs/grace data_root=DATA

Stages: `pretrain` (no loss simulated), if wanted `refine` (no loss either, longer roll-outs), then for the same number of steps
each `joint` (GRACE: encoder and decoder under simulated loss), `decoder` (GRACE-D: encoder frozen) or `plain` (GRACE-P: no loss
simulated). Options: out=FOLDER, start_from=FOLDER, data_root=FOLDER, steps=N, residual=dct|gdn, masked_share=0.2, rollout=2
(frames predicted in a row, each from the one decoded before it), level_balance=0, seed=0, num_procedural=1400,
num_real=1000, max_seconds=0 (0: no limit), save_every=500.

All levels share one network (the paper trains one per level), so that their losses, R + lambda D, compete: at the best level it
is thirty times that at the smallest, eighty times with a third of the elements lost. A sample counts with (512 / lambda) to the
power `level_balance`: 0 leaves it to the losses, 0.5 makes levels count about alike. Every level's own optimum stays the same.
The bundled weights have 0; 800 steps of each last stage with 0.5 and rollout=3 gave codecs of the same quality (README).

An interrupted run goes on from its last checkpoint when the same command is given again. The folder then holds
`model.safetensors`, `training_log.jsonl` (a line every 100 steps) and `training.json` (settings, data, machine, CPU seconds).
Same seed, same machine, one thread: same weights. `finish` writes what `grace.codec.load_codec` reads: the weights in 16 bits,
and the usual scale of each channel at each level, measured on training clips.

# DEVIATION grace-4: 8 crops of 64x64 a step instead of Vimeo-90K crops of 256x256, minutes instead of days
"""

import dataclasses
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.errors import ConfigError, ReproError
from common.rng import for_component, seed_for
from grace.clips import ClipStyle, make_clip
from grace.entropy import pack_usual, scales_of
from grace.loss_model import PAPER_MASKED_SHARE, draw_loss_rates, draw_mask, training_bits
from grace.motion import global_flow
from grace.networks import (
    LEVELS_PER_ANCHOR,
    NUM_LEVELS,
    CodecConfig,
    SmallCodec,
    lambda_of,
    quantise_motion,
    quantise_residual,
    straight_through,
)
from grace.training_data import CROP, FRAMES, TrainingSet, make_training_set, training_photos

STAGES = ("pretrain", "refine", "joint", "decoder", "plain")
WINDOW = 64
BATCH = 8
_MOTION_STEPS = 1200


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of one training run; see the module."""

    stage: str
    out: Path
    start_from: Path | None = None
    data_root: Path | None = None
    steps: int = 16000
    residual: str = "dct"
    masked_share: float = PAPER_MASKED_SHARE
    rollout: int = 2
    level_balance: float = 0.0
    seed: int = 0
    num_procedural: int = 1400
    num_real: int = 1000
    max_seconds: float = 0.0
    save_every: int = 500

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ConfigError(f"stage {self.stage!r} is not one of {', '.join(STAGES)}.")
        if (self.stage == "pretrain") != (self.start_from is None):
            raise ConfigError(
                f"stage {self.stage} with start_from={self.start_from}: only pretrain starts from nothing."
            )
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps} must be at least 1.")
        if not 1 <= self.rollout < FRAMES:
            raise ConfigError(
                f"rollout={self.rollout} must lie in 1..{FRAMES - 1}: training crops have {FRAMES} frames."
            )
        if not 0 <= self.level_balance <= 1:
            raise ConfigError(f"level_balance={self.level_balance} must lie in [0, 1].")


@dataclasses.dataclass(frozen=True)
class Batch:
    """Crops as tensors: `frames` (T + 1 of (B, 3, H, W) in [0, 1]), `flows` and `globals` (T of (B, 2, H, W))."""

    frames: list[Tensor]
    flows: list[Tensor]
    globals_: list[Tensor]


def draw_batch(rng: Generator, data: TrainingSet, num_frames: int) -> Batch:
    """A random batch of `num_frames` predicted frames per sample, cut and mirrored at random."""
    index = rng.integers(0, len(data), BATCH)
    top, left = rng.integers(0, CROP - WINDOW + 1, BATCH), rng.integers(0, CROP - WINDOW + 1, BATCH)
    start = rng.integers(0, FRAMES - num_frames, BATCH)
    fields = {
        (i, t): global_flow(data.motions[i, t], CROP, CROP)
        for i, s in zip(index, start, strict=True)
        for t in range(s, s + num_frames)
    }

    def cut(get: Any, offset: int) -> Tensor:
        parts = [
            get(i, s + offset)[y : y + WINDOW, x : x + WINDOW]
            for i, s, y, x in zip(index, start, top, left, strict=True)
        ]
        return torch.from_numpy(np.stack(parts).astype(np.float32)).permute(0, 3, 1, 2).contiguous()

    frames = [cut(lambda i, t: data.frames[i, t], k) / 255 for k in range(num_frames + 1)]
    flows = [cut(lambda i, t: data.flows[i, t], k) for k in range(num_frames)]
    globals_ = [cut(lambda i, t: fields[i, t], k) for k in range(num_frames)]
    for axis, sign in ((3, (-1.0, 1.0)), (2, (1.0, -1.0))):
        if rng.random() < 0.5:
            turn = torch.tensor(sign)[None, :, None, None]
            frames = [frame.flip(axis) for frame in frames]
            flows = [flow.flip(axis) * turn for flow in flows]
            globals_ = [flow.flip(axis) * turn for flow in globals_]
    return Batch(frames, flows, globals_)


@dataclasses.dataclass(frozen=True)
class FrameLoss:
    """What one coded frame of a batch costs, each (B,): bits per pixel, MSE, MSE of the warped reference; and the frame."""

    bits_per_pixel: Tensor
    mse: Tensor
    warp_mse: Tensor
    flow_error: Tensor
    decoded: Tensor


def code_frame(
    model: SmallCodec,
    frame: Tensor,
    reference: Tensor,
    flow: Tensor,
    global_: Tensor,
    level: Tensor,
    loss_rate: Tensor | None,
    generator: torch.Generator,
) -> FrameLoss:
    """One P-frame through the codec with straight-through rounding, and the receiver's masked latents if it loses any."""
    y_motion = model.encode_motion(flow - global_, level).float()
    # The size is that of the rounded latents: with peaked distributions most of what rounds to one lies below it, and an
    # estimate from unrounded values would come out too low.
    q_motion = straight_through(y_motion, quantise_motion)
    motion_bits = training_bits(q_motion)
    # The sender does not know the losses: it forms the residual with its own, unmasked motion.
    sent_flow = model.decode_motion(q_motion, level).float() + global_
    sent_prediction, warped = model.predict(reference, sent_flow)
    y_residual = model.encode_residual(frame - sent_prediction, level).float()
    q_residual = straight_through(y_residual, quantise_residual)
    residual_bits = training_bits(q_residual)
    if loss_rate is None:
        prediction = sent_prediction
    else:
        q_motion = q_motion * draw_mask(q_motion.shape, loss_rate, generator)
        q_residual = q_residual * draw_mask(q_residual.shape, loss_rate, generator)
        prediction, _ = model.predict(reference, model.decode_motion(q_motion, level).float() + global_)
    decoded = model.decode_residual(q_residual, level, prediction).float()
    pixels = frame.shape[2] * frame.shape[3]
    return FrameLoss(
        (motion_bits + residual_bits) / pixels,
        ((decoded - frame) ** 2).mean(dim=(1, 2, 3)),
        ((warped.float() - frame) ** 2).mean(dim=(1, 2, 3)),
        (sent_flow - flow).abs().mean(dim=(1, 2, 3)),
        decoded,
    )


def level_weights(lambda_B: Tensor, balance: float) -> Tensor:
    """How much a sample counts, (B,): (512 / lambda) to the power `balance`. See the module."""
    return (512.0 / lambda_B) ** balance


def train(settings: Settings) -> None:
    """Run one stage; see the module.

    Raises:
        ConfigError: settings that do not fit each other.
        DataUnavailable: training data is missing.
    """
    torch.set_num_threads(1)
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed_for(settings.seed, "grace weights") % 2**63)
    model = SmallCodec(CodecConfig(residual=settings.residual))
    if settings.start_from is not None:
        model.load_state_dict(load_file(settings.start_from / "model.safetensors"))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = list(model.parameters())
    if settings.stage == "decoder":
        frozen = {id(parameter) for parameter in model.encoder_parameters()}
        parameters = [parameter for parameter in parameters if id(parameter) not in frozen]
        for parameter in model.encoder_parameters():
            parameter.requires_grad_(False)
    optimiser = torch.optim.Adam(parameters, 1e-3)
    step, cpu_seconds = _resume(settings.out, model, optimiser)
    data, sources = _data(settings)
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    sums: list[NDArray[np.float64]] = []
    while step < settings.steps:
        if settings.max_seconds and time.monotonic() - began_s > settings.max_seconds:
            break
        _set_rate(optimiser, settings, step)
        sums.append(_step(model, optimiser, settings, data, step))
        step += 1
        if step % 100 == 0:
            loss, rate, mse, warp_mse = np.mean(sums, axis=0)
            sums = []
            line = {
                "step": step,
                "cpu_s": round(cpu_seconds + time.process_time() - cpu_began_s, 1),
                "loss": round(float(loss), 4),
                "bits_per_pixel": round(float(rate), 4),
                "psnr_db": round(float(-10 * np.log10(mse)), 3),
                "warp_psnr_db": round(float(-10 * np.log10(warp_mse)), 3),
            }
            with open(settings.out / "training_log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
        if step % settings.save_every == 0:
            _save(settings, model, optimiser, step, cpu_seconds + time.process_time() - cpu_began_s, sources)
    _save(settings, model, optimiser, step, cpu_seconds + time.process_time() - cpu_began_s, sources)


def _set_rate(optimiser: torch.optim.Optimizer, settings: Settings, step: int) -> None:
    share = step / settings.steps
    if settings.stage == "pretrain":
        rate = 1e-3 if step < _MOTION_STEPS else 5e-4
        rate *= 1.0 if share < 0.6 else 0.4 if share < 0.85 else 0.1
    else:
        rate = 2e-4 * (1.0 if share < 0.5 else 0.4 if share < 0.8 else 0.1)
    for group in optimiser.param_groups:
        group["lr"] = rate


def _step(
    model: SmallCodec, optimiser: torch.optim.Optimizer, settings: Settings, data: TrainingSet, step: int
) -> NDArray[np.float64]:
    # Every step has streams of its own, so that a resumed run draws what an uninterrupted one would have drawn.
    rng = for_component(settings.seed, "grace training", settings.stage, step)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    share = step / settings.steps
    is_pretraining = settings.stage == "pretrain"
    num_frames = 1 if is_pretraining and share < 0.5 else settings.rollout
    batch = draw_batch(rng, data, num_frames)
    # Half of the samples at the anchors, whose gains are the parameters; the others between them.
    level = rng.integers(0, NUM_LEVELS, BATCH)
    level = np.where(rng.random(BATCH) < 0.5, level // LEVELS_PER_ANCHOR * LEVELS_PER_ANCHOR, level)
    level_B = torch.from_numpy(level)
    lambda_B = lambda_of(level_B)
    weight_B = level_weights(lambda_B, settings.level_balance)
    reference = batch.frames[0] + torch.randn(batch.frames[0].shape, generator=generator) * 0.01
    total = torch.zeros(())
    record = np.zeros(4)
    for k in range(num_frames):
        loss_rate = None
        if settings.stage in ("joint", "decoder"):
            loss_rate = draw_loss_rates(BATCH, settings.masked_share, generator)
        if is_pretraining and step < _MOTION_STEPS:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = model.encode_motion(batch.flows[k] - batch.globals_[k], level_B).float()
                q = straight_through(y, quantise_motion)
                bits = training_bits(q) / WINDOW**2
                flow = model.decode_motion(q, level_B).float() + batch.globals_[k]
                _, warped = model.predict(reference, flow)
            warp_mse = ((warped.float() - batch.frames[k + 1]) ** 2).mean(dim=(1, 2, 3))
            error = (flow - batch.flows[k]).abs().mean(dim=(1, 2, 3))
            guide = max(0.0, 1 - step / (0.6 * _MOTION_STEPS)) * 2
            total = total + (weight_B * (2 * bits + 0.5 * lambda_B * warp_mse) + guide * error).mean()
            record += [total.item(), bits.mean().item(), warp_mse.mean().item(), warp_mse.mean().item()]
            continue
        with torch.autocast("cpu", dtype=torch.bfloat16):
            coded = code_frame(
                model, batch.frames[k + 1], reference, batch.flows[k], batch.globals_[k], level_B, loss_rate, generator
            )
        warp_weight = 0.2 if is_pretraining and share < 0.4 else 0.03
        loss = coded.bits_per_pixel + lambda_B * (coded.mse + warp_weight * coded.warp_mse)
        total = total + (weight_B * loss).mean() / num_frames
        reference = coded.decoded.clamp(0, 1).detach()
        parts = [total, coded.bits_per_pixel.mean(), coded.mse.mean(), coded.warp_mse.mean()]
        record = np.array([part.item() for part in parts])
    optimiser.zero_grad(set_to_none=True)
    total.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimiser.step()
    return record


def _data(settings: Settings) -> tuple[TrainingSet, dict[str, int]]:
    num_real = settings.num_real if settings.data_root is not None else 0
    path = settings.out.parent / f"crops-{settings.seed}-{settings.num_procedural}-{num_real}.safetensors"
    if path.is_file():
        with safe_open(path, "numpy") as stored:
            sources = {name: int(count) for name, count in json.loads(stored.metadata()["sources"]).items()}
            frames, flows, motions = (stored.get_tensor(name) for name in ("frames", "flows", "motions"))
        data = TrainingSet(frames, flows, motions, sources)
        return data, sources
    rng = for_component(settings.seed, "grace training data")
    data = make_training_set(rng, settings.num_procedural, num_real, settings.data_root)
    tensors = {name: torch.from_numpy(getattr(data, name)) for name in ("frames", "flows", "motions")}
    save_file(tensors, path, metadata={"sources": json.dumps(data.sources)})
    return data, data.sources


def _save(
    settings: Settings,
    model: SmallCodec,
    optimiser: torch.optim.Adam,
    step: int,
    cpu_seconds: float,
    sources: dict[str, int],
) -> None:
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    state = optimiser.state_dict()["state"]
    moments = {
        f"{names[index]}.{key}": value[key].contiguous()
        for index, value in state.items()
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    save_file(moments, settings.out / "optimiser.safetensors", metadata={"step": str(step), "cpu_s": str(cpu_seconds)})
    # The networks run with their channels last; files hold them in the usual order.
    save_file(_contiguous(model), settings.out / "model.safetensors")
    record = {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(settings).items()},
        "steps_done": step,
        "cpu_seconds": round(cpu_seconds, 1),
        "data": sources,
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    (settings.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def _contiguous(model: SmallCodec) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def _resume(out: Path, model: SmallCodec, optimiser: torch.optim.Adam) -> tuple[int, float]:
    if not (out / "optimiser.safetensors").is_file():
        return 0, 0.0
    model.load_state_dict(load_file(out / "model.safetensors"))
    moments = load_file(out / "optimiser.safetensors")
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    current = optimiser.state_dict()
    current["state"] = {
        index: {key: moments[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        for index, name in enumerate(names)
        if f"{name}.step" in moments
    }
    optimiser.load_state_dict(current)
    with safe_open(out / "optimiser.safetensors", "pt") as stored:
        facts = stored.metadata()
    return int(facts["step"]), float(facts["cpu_s"])


def finish(out: Path, start_from: Path, data_root: Path | None) -> None:
    """Write trained weights as the file that `grace.codec.load_codec` reads; see the module.

    Raises:
        DataUnavailable: no photographs for the clips on which scales are measured.
    """
    from grace.codec import NeuralCodec

    record = json.loads((start_from / "training.json").read_text())
    config = CodecConfig(residual=record["settings"]["residual"])
    weights = {name: value.half() for name, value in load_file(start_from / "model.safetensors").items()}
    network = SmallCodec(config)
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    shapes = [(NUM_LEVELS, config.motion_channels), (NUM_LEVELS, config.residual_channels)]
    codec = NeuralCodec(network, np.full(shapes[0], 8), np.full(shapes[1], 8))
    scales = [np.zeros((NUM_LEVELS, 0, shape[1]), np.int64) for shape in shapes]
    for frame, reference in _calibration_pairs(data_root):
        found: list[list[NDArray[np.int64]]] = [[], []]
        for level in range(NUM_LEVELS):
            latents = codec.encode(frame, reference, level).latents
            found[0].append(scales_of(latents.motion))
            found[1].append(scales_of(latents.residual))
        scales = [np.concatenate([old, np.array(new)[:, None]], axis=1) for old, new in zip(scales, found, strict=True)]
    usual = {}
    for name, values in zip(("usual_motion_scales", "usual_residual_scales"), scales, strict=True):
        live = np.maximum((values > 0).sum(axis=1), 1)
        mean = np.rint(values.sum(axis=1) / live).astype(np.int64)
        usual[name] = torch.from_numpy(pack_usual(mean, (values == 0).mean(axis=1)).astype(np.int16))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({**weights, **usual}, out, metadata={"config": json.dumps(dataclasses.asdict(config))})


def _calibration_pairs(data_root: Path | None) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Frames of training clips with slightly blurred predecessors, as a decoded reference would be."""
    photos, _ = training_photos(data_root)
    for index in range(16):
        rng = for_component(0, "grace calibration", index)
        style = ClipStyle(192, 192, 6, speed=(0.5, 1.0, 1.6)[index % 3], noise=float(rng.uniform(0, 1.5)))
        clip = make_clip(rng, photos, style)
        yield clip[5], cv2.GaussianBlur(clip[4], (0, 0), 0.6)


def _options(arguments: Sequence[str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in kinds or not value:
            raise ConfigError(f"option {argument!r} is not key=value with a key of {', '.join(kinds)}.")
        options[key] = kinds[key](value)
    return options


def main(arguments: Sequence[str]) -> int:
    """Parse `STAGE key=value ...` and train."""
    try:
        if arguments and arguments[0] == "finish":
            options = _options(arguments[1:], {"out": Path, "start_from": Path, "data_root": Path})
            finish(options["out"], options["start_from"], options.get("data_root"))
            return 0
        if not arguments:
            raise ConfigError(f"say which stage: {', '.join(STAGES)}.")
        kinds = {f.name: Path if "Path" in str(f.type) else f.type for f in dataclasses.fields(Settings)}
        train(Settings(stage=arguments[0], **_options(arguments[1:], kinds)))
    except (ReproError, ValueError, KeyError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
