"""Server DNNs by name.

"street"                  the bundled detector; "street_segmentation": the bundled segmentation network
"yolox_nano", ...         any other detector of `common.models.vision`, from a data root or the hub
"NAME_segmentation"       its segmentation networks
"""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accmpeg.dnn import DetectionDnn, Dnn, SegmentationDnn
from common.errors import ConfigError

SEGMENTATION = "_segmentation"
TRAFFIC = ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck")
"""Classes that the paper counts in COCO detectors."""
CAMERA_DETECTORS: Mapping[str, str] = {"street": "street_small", "yolox_nano": "fastestdet"}
"""Smaller detectors for Vigil's camera, by the server's detector; others run on the camera as they are."""


def model_name(settings: Mapping[str, Any]) -> str:
    """The DNN that a run's `model` settings name.

    Raises:
        ConfigError: none is named.
    """
    name = str(settings.get("name", "none"))
    if name == "none":
        raise ConfigError(
            "accmpeg needs a server DNN: give model.name=street, or another detector of common.models.vision."
        )
    return name


@functools.lru_cache(maxsize=4)
def load_dnn(name: str, data_root: str | None = None) -> tuple[Dnn, str]:
    """A server DNN, ready for inference, and the SHA-256 (hex) of its weights.

    Args:
        name: see the module's docstring.
        data_root: folder with downloaded models, for those that are not bundled.

    Raises:
        UnknownName: no such network.
        DataUnavailable: its weights cannot be had; the message says how to get them.
    """
    from common.models.vision import load_detector, load_segmenter

    root = None if data_root is None else Path(data_root)
    if name.endswith(SEGMENTATION):
        segmenter = load_segmenter(name.removesuffix(SEGMENTATION), root)
        return _known(SegmentationDnn(segmenter, name, segmenter.background), segmenter)
    detector = load_detector(name, root)
    known = detector.class_names
    counted = tuple(known.index(kind) for kind in TRAFFIC if kind in known) if len(known) > len(TRAFFIC) else None
    return _known(DetectionDnn(detector, name, detector.threshold, counted), detector)


def _known(dnn: Dnn, network: Any) -> tuple[Dnn, str]:
    dnn.weights_sha256 = _fingerprint(network)
    return dnn, dnn.weights_sha256


def _fingerprint(network: Any) -> str:
    """SHA-256 of all weights that a network holds, whatever it calls them."""
    from torch import nn

    digest = hashlib.sha256(type(network).__name__.encode())
    modules = [network] if isinstance(network, nn.Module) else vars(network).values()
    for module in modules:
        if isinstance(module, nn.Module):
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
