"""The models beside the server's DNN that policies may use: AccModel, Vigil's small detector, CloudSeg's upscaler.

Bundled weights lie in `accmpeg/weights`: `<dnn>-<target>.safetensors` and `upscaler.safetensors`.
"""

import dataclasses
import functools
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accmpeg.api import Frames
from common.errors import DataUnavailable


def weights_folder() -> Path:
    """Where bundled weights are."""
    return Path(str(resources.files("accmpeg") / "weights"))


@functools.lru_cache(maxsize=16)
def _acc_model(path: Path) -> Any:
    from accmpeg.accmodel import load

    return load(path).fused()


@functools.lru_cache(maxsize=2)
def _upscaler(path: Path) -> Any:
    from accmpeg.upscaler import load

    return load(path)


@dataclasses.dataclass(frozen=True)
class SmallDetector:
    """A detector that fits on Vigil's camera: a small one, or a larger one at reduced resolution.

    Attributes:
        dnn: the detector that is run.
        scale: of height and width.
    """

    # DEVIATION accmpeg-5: a small detector, or the server's at half resolution, instead of a MobileNet-SSD.
    dnn: Any
    scale: float = 0.5

    def boxes(self, frames: Frames, confidence: float) -> list[npt.NDArray[np.float64]]:
        """Boxes above a confidence, (M, 4) in pixels of the full-size frame, one array per frame."""
        import cv2

        height, width = frames.shape[1:3]
        small = (max(32, round(width * self.scale)), max(32, round(height * self.scale)))
        shrunk = np.stack([cv2.resize(frame, small, interpolation=cv2.INTER_AREA) for frame in frames])
        factor = np.array([width / small[0], height / small[1]] * 2)
        return [proposals * factor for proposals, _ in self.dnn.proposals(shrunk, confidence)]


@dataclasses.dataclass(frozen=True)
class CameraModels:
    """Models by purpose, for one server DNN.

    Attributes:
        dnn_name: names the bundled weights.
        make_detector: gives the DNN that Vigil's camera runs.
        folder: of the weights.
    """

    dnn_name: str
    make_detector: Callable[[], Any]
    folder: Path = dataclasses.field(default_factory=weights_folder)

    def acc_model(self, target: str, weights: str = "") -> Any:
        """AccModel for the server's DNN, ready for inference.

        Args:
            target: "paper" or "official".
            weights: a file of one's own; empty for the bundled one.

        Raises:
            DataUnavailable: there are none; the message says how to train them.
        """
        path = Path(weights) if weights else self.folder / f"{self.dnn_name}-{target}.safetensors"
        if not weights and not path.is_file():
            raise DataUnavailable(
                f"no AccModel is bundled for the DNN {self.dnn_name!r} and target {target!r}. Make one with: "
                "python -m accmpeg "
                f"train --detector {self.dnn_name} --target {target} --out FOLDER; then give weights=FOLDER/{path.name}."
            )
        return _acc_model(path)

    def detector(self) -> SmallDetector:
        """Vigil's camera-side detector: at full size where it is another, smaller one than the server's."""
        found = self.make_detector()
        return SmallDetector(found, 0.5 if found.name == self.dnn_name else 1.0)

    def upscaler(self) -> Any:
        """CloudSeg's super-resolution network."""
        return _upscaler(self.folder / "upscaler.safetensors")
