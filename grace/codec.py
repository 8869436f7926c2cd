"""The neural codec as a sender and a receiver use it: frames in, packets out; any packets in, frame out.

    codec = load_codec("grace")
    coded = codec.encode(frame, reference, level=8, frame_number=17)      # uint8 RGB (H, W, 3) both
    packets = codec.packets(coded.latents, num_packets=4)
    received = codec.read(packets[:2])                                     # any non-empty subset, any order
    image = codec.decode(received.latents, reference)                      # uint8 RGB

References are 8-bit images: sender and receiver that decode the same latents from the same reference hold the same bytes, and
what is shown is what is predicted from. No entropy table depends on a reference (see `grace.entropy`), so a receiver whose
reference differs still reads every packet.
"""

import contextlib
import dataclasses
import functools
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from common.errors import ConfigError, DataUnavailable
from grace import packets as wire
from grace.entropy import MAX_MAGNITUDE, Plane
from grace.motion import MotionEstimator, fit_global, global_flow
from grace.networks import CodecConfig, SmallCodec, quantise_motion, quantise_residual
from grace.packets import Latents, ReceivedFrame

Image = NDArray[np.uint8]

WEIGHTS = Path(__file__).parent / "bundled"
PRECISIONS = ("float32", "bfloat16")
SMALLEST_SIDE = 32
_GROUP_SIZES = (4, 8, 12, 16)


@dataclasses.dataclass(frozen=True, eq=False)
class CodedFrame:
    """A coded P-frame on the sender's side.

    Attributes:
        latents: what is sent.
        reconstruction: what a receiver of all packets shows and predicts from, uint8 (H, W, 3).
    """

    latents: Latents
    reconstruction: Image


@dataclasses.dataclass(frozen=True, eq=False)
class Motion:
    """A frame's motion, coded once and used at every residual level.

    Attributes:
        level: its quality level.
        flow: (H, W, 2), as it was found.
        global_motion: (2, 3) int16.
        latents: (V, h, w) int16.
        prediction: (1, 3, H, W) padded, float.
        shape: (H, W) of the frame.
    """

    level: int
    flow: NDArray[np.float32]
    global_motion: NDArray[np.int16]
    latents: NDArray[np.int16]
    prediction: Tensor
    shape: tuple[int, int]


class NeuralCodec:
    """A codec with its weights. Not thread-safe (motion search keeps buffers); forked or reloaded ones agree bit for bit.

    Args:
        network: see `grace.networks.SmallCodec`; taken over and set to evaluation.
        usual_motion_scales, usual_residual_scales: (levels, C) int64, what scales are coded relative to.
        motion_preset: see `grace.motion`.
        device: where the networks run.
        precision: "float32", or "bfloat16": convolutions in 16 bits, which pays on machines that have them. Both ends agree bit
            for bit if both have the same; otherwise their pictures differ in the last bits. No entropy table depends on it.

    Raises:
        ConfigError: tables that do not fit the network, or an unknown precision.
    """

    def __init__(
        self,
        network: Any,
        usual_motion_scales: NDArray[np.int64],
        usual_residual_scales: NDArray[np.int64],
        motion_preset: str = "medium",
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(f"precision={precision!r} is not one of {', '.join(PRECISIONS)}.")
        # On a CPU convolutions are up to half again as fast with their channels last, transposed ones three to four times.
        self.network = network.to(device, memory_format=torch.channels_last).eval()
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.num_levels, self.lowest_level = int(network.num_levels), int(network.lowest_level)
        self.stride = int(network.stride)
        self.usual_motion_scales = np.asarray(usual_motion_scales, np.int64)
        self.usual_residual_scales = np.asarray(usual_residual_scales, np.int64)
        if len(usual_motion_scales) != self.num_levels or len(usual_residual_scales) != self.num_levels:
            raise ConfigError(f"scale tables of {len(usual_motion_scales)} levels for a codec of {self.num_levels}.")
        self.device, self.precision = device, precision
        self.estimator = MotionEstimator(motion_preset)
        self.check = self._fingerprint()

    def _fingerprint(self) -> int:
        digest = zlib.crc32(self.usual_motion_scales.tobytes() + self.usual_residual_scales.tobytes())
        for name, value in sorted(self.network.state_dict().items()):
            digest = zlib.crc32(name.encode() + value.detach().cpu().float().numpy().tobytes(), digest)
        return digest & 0xFFFF

    @functools.lru_cache(maxsize=8)  # noqa: B019  (codecs live as long as the process)
    def planes(self, height: int, width: int) -> tuple[Plane, Plane]:
        """See `grace.packets.Tables`."""
        stride = self.stride
        return tuple(  # type: ignore[return-value]
            Plane(usual.shape[1], height // stride, width // stride, _groups(usual[self.num_levels // 2] % 64))
            for usual in (self.usual_motion_scales, self.usual_residual_scales)
        )

    def encode_motion(
        self, frame: Image, reference: Image, level: int, flow: NDArray[np.float32] | None = None
    ) -> Motion:
        """Estimate and code motion, and predict the frame from the decoded motion.

        Args:
            frame: uint8 RGB (H, W, 3).
            reference: what is predicted from, the same shape.
            level: lowest_level (smallest) to num_levels - 1.
            flow: of an earlier call for the same two pictures; None searches.

        Raises:
            ConfigError: shapes, types or level.
        """
        self._check(frame, reference, level)
        if flow is None:
            flow = self._searched(frame, reference)
        global_motion = fit_global(flow)
        rest = flow - global_flow(global_motion, *flow.shape[:2])
        with self._running():
            rest_B2HW = self._padded(torch.from_numpy(rest).permute(2, 0, 1)[None])
            y = self.network.encode_motion(rest_B2HW, self._level(level))
            latents = _integers(quantise_motion(y))
            prediction = self._prediction(latents, global_motion, level, reference)
        return Motion(level, flow, global_motion, latents, prediction, (frame.shape[0], frame.shape[1]))

    def _searched(self, frame: Image, reference: Image) -> NDArray[np.float32]:
        if hasattr(self.network, "estimate_flow"):
            with self._running():
                found = self.network.estimate_flow(self._tensor(frame), self._tensor(reference))
            return np.asarray(
                found[0, :, : frame.shape[0], : frame.shape[1]].permute(1, 2, 0).cpu().numpy(), np.float32
            )
        return self.estimator.flow(frame, reference)

    def encode_residual(self, frame: Image, motion: Motion, level: int, frame_number: int = 0) -> Latents:
        """Code what the prediction leaves, at any level: a few per cent of the work of a whole frame."""
        with self._running():
            residual = self._tensor(frame) - motion.prediction
            latents = _integers(quantise_residual(self.network.encode_residual(residual, self._level(level))))
        return Latents(frame_number & 0xFFFF, level, motion.level, motion.global_motion, motion.latents, latents)

    def encode(
        self,
        frame: Image,
        reference: Image,
        level: int,
        frame_number: int = 0,
        motion_level: int | None = None,
    ) -> CodedFrame:
        """Code one P-frame. Arguments as for `encode_motion`; `motion_level` defaults to `level`."""
        motion = self.encode_motion(frame, reference, level if motion_level is None else motion_level)
        return self.finish(self.encode_residual(frame, motion, level, frame_number), motion)

    def finish(self, latents: Latents, motion: Motion) -> CodedFrame:
        """The sender's own decoding of latents that were coded from `motion`."""
        with self._running():
            image = self._decoded(latents, motion.prediction, motion.shape)
        return CodedFrame(latents, image)

    def decode(self, latents: Latents, reference: Image) -> Image:
        """The frame that latents (with zeros where packets were lost) and a reference give, uint8 (H, W, 3).

        Raises:
            ConfigError: the latents are not of a frame of the reference's size.
        """
        self._check(reference, reference, latents.level)
        height, width = reference.shape[:2]
        padded = self._padded_size(height), self._padded_size(width)
        if (latents.residual.shape[1] * self.stride, latents.residual.shape[2] * self.stride) != padded:
            raise ConfigError(
                f"latents of {latents.residual.shape[2]}x{latents.residual.shape[1]} positions of {self.stride} pixels "
                f"for a reference of {width}x{height}."
            )
        with self._running():
            prediction = self._prediction(latents.motion, latents.global_motion, latents.motion_level, reference)
            return self._decoded(latents, prediction, (height, width))

    def packets(self, latents: Latents, num_packets: int, *, has_patch: bool = False) -> list[bytes]:
        """See `grace.packets.write_packets`."""
        return wire.write_packets(latents, num_packets, self, has_patch=has_patch)

    def read(self, data: Iterable[bytes], frame: int | None = None) -> ReceivedFrame:
        """See `grace.packets.read_packets`."""
        return wire.read_packets(data, self, frame=frame)

    def _prediction(
        self, motion: NDArray[np.int16], global_motion: NDArray[np.int16], level: int, reference: Image
    ) -> Tensor:
        pixels = self._tensor(reference)
        flow = self.network.decode_motion(self._latent_tensor(motion), self._level(level))
        # On the grid of the unpadded frame, as the encoder fitted it, then continued into the padding.
        whole = global_flow(global_motion, *reference.shape[:2])
        flow = flow + self._padded(torch.from_numpy(whole).permute(2, 0, 1)[None])
        prediction: Tensor = self.network.predict(pixels, flow)[0]
        return prediction

    def _decoded(self, latents: Latents, prediction: Tensor, shape: tuple[int, int]) -> Image:
        pixels = self.network.decode_residual(
            self._latent_tensor(latents.residual), self._level(latents.level), prediction
        )
        image = (pixels[0, :, : shape[0], : shape[1]].clamp(0, 1) * 255).round().to(torch.uint8)
        return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        is_half = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=is_half):
            yield

    def _level(self, level: int) -> Tensor:
        return torch.tensor([level], device=self.device)

    def _latent_tensor(self, latents: NDArray[np.int16]) -> Tensor:
        return torch.from_numpy(latents.astype(np.float32))[None].to(self.device)

    def _tensor(self, image: Image) -> Tensor:
        return self._padded(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)

    def _padded_size(self, size: int) -> int:
        return -(-size // self.stride) * self.stride

    def _padded(self, tensor_BCHW: Tensor) -> Tensor:
        height, width = tensor_BCHW.shape[2:]
        bottom, right = self._padded_size(height) - height, self._padded_size(width) - width
        if bottom or right:
            tensor_BCHW = torch.nn.functional.pad(tensor_BCHW, (0, right, 0, bottom), mode="replicate")
        return tensor_BCHW.contiguous().to(self.device)

    def _check(self, frame: Image, reference: Image, level: int) -> None:
        for name, image in (("frame", frame), ("reference", reference)):
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
                raise ConfigError(f"{name}={kind} is not an RGB image; give uint8 (height, width, 3).")
        if frame.shape != reference.shape or min(frame.shape[:2]) < SMALLEST_SIDE:
            raise ConfigError(
                f"frame {frame.shape} with reference {reference.shape}: both must have the same size, "
                f"at least {SMALLEST_SIDE} pixels a side."
            )
        if not self.lowest_level <= level < self.num_levels:
            raise ConfigError(
                f"level={level} is not a quality level; choose {self.lowest_level} (smallest) to {self.num_levels - 1}."
            )


def _integers(values_BChw: Tensor) -> NDArray[np.int16]:
    clipped = values_BChw[0].clamp(-MAX_MAGNITUDE, MAX_MAGNITUDE)
    return np.ascontiguousarray(clipped.cpu().numpy().astype(np.int16))


def _groups(usual_C: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """Channels in groups of growing size, the most active ones first: they tell the others where something happens."""
    order = np.argsort(-usual_C, kind="stable").tolist()
    groups, at, sizes = [], 0, iter(_GROUP_SIZES)
    while at < len(order):
        size = next(sizes, _GROUP_SIZES[-1])
        groups.append(tuple(sorted(order[at : at + size])))
        at += size
    return tuple(groups)


def load_codec(
    name: str | Path, motion_preset: str = "medium", device: str = "cpu", precision: str = "float32"
) -> NeuralCodec:
    """A trained codec.

    Args:
        name: of the bundled weights ("grace", "grace_p", "grace_d", ...), or the path of a .safetensors file from
            `python -m grace.training`.
        motion_preset: see `grace.motion`.
        device, precision: see `NeuralCodec`.

    Raises:
        DataUnavailable: no such weights.
        ConfigError: the file holds other weights than its configuration says.
    """
    path = Path(name) if str(name).endswith(".safetensors") else WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in WEIGHTS.glob("*.safetensors"))) or "none"
        raise DataUnavailable(f"there are no weights {str(name)!r}. Bundled: {known}; or give a .safetensors file.")
    with safe_open(path, "pt") as stored:
        facts = stored.metadata() or {}
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    if "config" not in facts or "usual_motion_scales" not in tensors:
        raise ConfigError(f"{path} is not a finished codec; make one with python -m grace.training finish.")
    network = SmallCodec(CodecConfig(**json.loads(facts["config"])))
    usual = [tensors.pop(key).numpy().astype(np.int64) for key in ("usual_motion_scales", "usual_residual_scales")]
    try:
        network.load_state_dict({key: value.float() for key, value in tensors.items()})
    except RuntimeError as error:
        raise ConfigError(f"{path} does not hold the weights of {facts['config']}.") from error
    return NeuralCodec(network, usual[0], usual[1], motion_preset, device, precision)
