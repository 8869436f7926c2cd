"""GRACE in its forms, and the baselines, under the names of the paper's legends."""

import dataclasses
import functools

from common.errors import ConfigError
from grace.api import METHODS, Receiver, Sender, StreamInfo
from grace.classic import AdaptiveRedundancy, ClassicReceiver, ClassicSender, FixedRedundancy
from grace.codec import NeuralCodec, load_codec
from grace.concealment import SliceReceiver, SliceSender
from grace.floor import FillerReceiver, FillerSender
from grace.functional import SalsifyReceiver, SalsifySender
from grace.intra import DEFAULT_SIDE
from grace.layered import LayeredReceiver, LayeredSender, LayerPictures
from grace.neural import NeuralReceiver, NeuralSender
from grace.streaming_code import TamburReceiver, TamburSender


@functools.lru_cache(maxsize=16)
def _codec(weights: str, motion_preset: str, device: str, precision: str) -> NeuralCodec:
    return load_codec(weights, motion_preset, device, precision)


@dataclasses.dataclass(frozen=True)
class _Neural:
    """A neural codec with GRACE's transport.

    Attributes:
        weights: name of bundled weights, or a .safetensors file.
        has_resync: take the receiver's state over when a report says that it differs.
        has_patches: an I-patch with every frame.
        patch_side: of the I-patch, pixels.
        motion_preset: "medium" or "fast".
        device: of torch.
        precision: "float32" or "bfloat16", the same at both ends.
    """

    weights: str = "grace"
    has_resync: bool = True
    has_patches: bool = True
    patch_side: int = DEFAULT_SIDE
    motion_preset: str = "medium"
    device: str = "cpu"
    precision: str = "float32"

    def codec(self) -> NeuralCodec:
        """The codec, loaded once a process."""
        return _codec(self.weights, self.motion_preset, self.device, self.precision)

    def sender(self, info: StreamInfo) -> Sender:
        """See `grace.api.Scheme`."""
        return NeuralSender(
            self.codec(),
            info,
            has_resync=self.has_resync,
            has_patches=self.has_patches,
            patch_side=self.patch_side,
        )

    def receiver(self, info: StreamInfo) -> Receiver:
        """See `grace.api.Scheme`."""
        return NeuralReceiver(self.codec(), info, has_patches=self.has_patches, patch_side=self.patch_side)


@METHODS.add("grace", label="GRACE", color="#0072B2", marker="o")
@dataclasses.dataclass(frozen=True)
class Grace(_Neural):
    """Encoder and decoder trained jointly under simulated loss."""


@METHODS.add("grace_d", label="GRACE-D", color="#56B4E9", marker="v")
@dataclasses.dataclass(frozen=True)
class GraceD(_Neural):
    """Ablation: only the decoder saw losses in training."""

    weights: str = "grace_d"


@METHODS.add("grace_p", label="GRACE-P", color="#5E4FA2", marker="^")
@dataclasses.dataclass(frozen=True)
class GraceP(_Neural):
    """Ablation: no losses in training, which took as long."""

    weights: str = "grace_p"


@METHODS.add("grace_lite", label="GRACE-Lite", color="#8C6D31", marker="<")
@dataclasses.dataclass(frozen=True)
class GraceLite(_Neural):
    """For slow machines: motion is searched at half resolution."""

    motion_preset: str = "fast"


@dataclasses.dataclass(frozen=True)
class _Classic:
    """An ordinary codec.

    Attributes:
        codec: "h264" or "h265".
    """

    codec: str = "h265"

    def __post_init__(self) -> None:
        if self.codec not in ("h264", "h265"):
            raise ConfigError(f"codec={self.codec!r} is not a codec of this scheme. Choose h264 or h265.")

    def receiver(self, info: StreamInfo) -> Receiver:
        """See `grace.api.Scheme`."""
        return ClassicReceiver(info, self.codec)


@METHODS.add("h265_nack", label="H.265 + retransmission", color="#7F7F7F", marker="P")
@dataclasses.dataclass(frozen=True)
class Nack(_Classic):
    """No protection: lost packets are sent again."""

    def sender(self, info: StreamInfo) -> Sender:
        """See `grace.api.Scheme`."""
        return ClassicSender(info, self.codec, FixedRedundancy(0.0))


@METHODS.add("fec_20", label="H.265 + 20 % FEC", color="#D55E00", marker="s")
@dataclasses.dataclass(frozen=True)
class Fec20(_Classic):
    """A fifth of all bytes is parity; what that does not recover is sent again.

    Attributes:
        share: parity's share of all bytes.
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share < 0.95:
            raise ConfigError(f"share={self.share} must lie in [0, 0.95).")

    def sender(self, info: StreamInfo) -> Sender:
        """See `grace.api.Scheme`."""
        return ClassicSender(info, self.codec, FixedRedundancy(self.share))


@METHODS.add("fec_50", label="H.265 + 50 % FEC", color="#E69F00", marker="D")
@dataclasses.dataclass(frozen=True)
class Fec50(Fec20):
    """Half of all bytes is parity; what that does not recover is sent again."""

    share: float = 0.5


@METHODS.add("fec_adaptive", label="H.265 + adaptive FEC", color="#F0C05A", marker="d")
@dataclasses.dataclass(frozen=True)
class FecAdaptive(_Classic):
    """0, 25 or 50 % parity by the losses that were reported lately; what that does not recover is sent again."""

    def sender(self, info: StreamInfo) -> Sender:
        """See `grace.api.Scheme`."""
        return ClassicSender(info, self.codec, AdaptiveRedundancy())


@METHODS.add("tambur", label="Tambur", color="#009E73", marker="X")
@dataclasses.dataclass(frozen=True)
class Tambur(_Classic):
    """Streaming code over frames with a delay of three.

    Attributes:
        parity_ratio: parity packets per data packet; below 0: 1/2 while losses are reported, else none.
    """

    parity_ratio: float = -1.0

    def sender(self, info: StreamInfo) -> Sender:
        """See `grace.api.Scheme`."""
        return TamburSender(info, self.codec, None if self.parity_ratio < 0 else self.parity_ratio)

    def receiver(self, info: StreamInfo) -> Receiver:
        """See `grace.api.Scheme`."""
        return TamburReceiver(info, self.codec)


@METHODS.add("concealment", label="Error concealment", color="#CC79A7", marker="h")
@dataclasses.dataclass(frozen=True)
class Concealment:
    """H.264 in slices, and a decoder that guesses what is missing."""

    def sender(self, info: StreamInfo) -> Sender:
        """See `grace.api.Scheme`."""
        return SliceSender(info)

    def receiver(self, info: StreamInfo) -> Receiver:
        """See `grace.api.Scheme`."""
        return SliceReceiver(info)


@METHODS.add("svc_fec", label="SVC + FEC (idealised)", color="#66A61E", marker=">")
@dataclasses.dataclass(frozen=True)
class Svc:
    """Three idealised layers, the base protected with 50 % parity.

    Attributes:
        codec: "h264" or "h265".
    """

    codec: str = "h265"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pictures", LayerPictures())

    def sender(self, info: StreamInfo) -> Sender:
        """See `grace.api.Scheme`."""
        return LayeredSender(info, self.codec, self._pictures)  # type: ignore[attr-defined]

    def receiver(self, info: StreamInfo) -> Receiver:
        """See `grace.api.Scheme`."""
        return LayeredReceiver(info, self.codec, self._pictures)  # type: ignore[attr-defined]


@METHODS.add("salsify", label="Salsify", color="#A6761D", marker="*")
@dataclasses.dataclass(frozen=True)
class Salsify:
    """Skips frames that are not complete; predicts from what the receiver acknowledged."""

    def sender(self, info: StreamInfo) -> Sender:
        """See `grace.api.Scheme`."""
        return SalsifySender(info)

    def receiver(self, info: StreamInfo) -> Receiver:
        """See `grace.api.Scheme`."""
        return SalsifyReceiver(info)


@METHODS.add("delay_floor", label="Filler, no codec", color="#222222", marker="p")
@dataclasses.dataclass(frozen=True)
class DelayFloor:
    """No video: filler of the allowed size, decoded from whatever comes in no time. Only sending less is faster."""

    has_pictures = False

    def sender(self, info: StreamInfo) -> Sender:
        """See `grace.api.Scheme`."""
        return FillerSender(info)

    def receiver(self, info: StreamInfo) -> Receiver:
        """See `grace.api.Scheme`."""
        return FillerReceiver(info)
