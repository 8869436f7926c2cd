"""The detectors and segmentation networks that can be loaded by name, and where each comes from."""

import json
from pathlib import Path
from typing import Any

from common.errors import ConfigError, DataUnavailable
from common.models.vision import hub
from common.models.vision.coco_files import FastestDet, YoloxNano
from common.models.vision.interface import Detector, Segmenter
from common.models.vision.registry import DETECTORS, SEGMENTERS
from common.models.vision.street_net import StreetDetector, StreetNet, StreetSegmenter

BUNDLED = Path(__file__).parent / "bundled"


def load_street_net(name: str = "street", folder: Path = BUNDLED) -> tuple[StreetNet, dict[str, Any]]:
    """A network that `train` made, frozen, with its card.

    Raises:
        DataUnavailable: the folder does not hold it.
        ConfigError: weights and card do not go together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card_path, weights_path = folder / f"{name}.json", folder / f"{name}.safetensors"
    if not card_path.is_file() or not weights_path.is_file():
        raise DataUnavailable(
            f"{str(folder)!r} does not hold {name}.json and {name}.safetensors; train them with common.models.vision.train."
        )
    card = json.loads(card_path.read_text())
    network = StreetNet(card["width"])
    try:
        network.load_state_dict(load_file(weights_path))
    except (SafetensorError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"{weights_path}: not the weights that {card_path.name} describes ({first}).") from error
    hub.frozen(network)
    return network, card


@DETECTORS.add("street")
def street_detector(data_root: Path | None = None, threshold: float | None = None, folder: Path = BUNDLED) -> Detector:
    """Bundled: cars, trucks, persons, cyclists in rendered streets; 0.3 M parameters."""
    return _street("street", threshold, folder)


@DETECTORS.add("street_small")
def street_small_detector(
    data_root: Path | None = None, threshold: float | None = None, folder: Path = BUNDLED
) -> Detector:
    """Bundled: the same with a third of the channels, for a camera; less accurate."""
    return _street("street_small", threshold, folder)


@SEGMENTERS.add("street")
def street_segmenter(data_root: Path | None = None, folder: Path = BUNDLED) -> Segmenter:
    """Bundled: the same classes, pixel by pixel; shares the detector's trunk."""
    network, _ = load_street_net("street", Path(folder))
    return StreetSegmenter(network, "street")


def _street(name: str, threshold: float | None, folder: Path) -> Detector:
    network, card = load_street_net(name, Path(folder))
    return StreetDetector(network, name, _threshold(card["threshold"] if threshold is None else threshold))


@DETECTORS.add("yolox_nano")
def yolox_nano(data_root: Path | None = None, threshold: float = 0.3, long_side: int | None = 416) -> Detector:
    """A data root's models/yolox_nano_416.onnx: 80 COCO classes."""
    return YoloxNano(data_root, threshold, long_side)


@DETECTORS.add("fastestdet")
def fastestdet(data_root: Path | None = None, threshold: float = 0.5, long_side: int | None = 352) -> Detector:
    """A data root's models/FastestDet_352.onnx: 80 COCO classes, the fastest."""
    return FastestDet(data_root, threshold, long_side)


@DETECTORS.add("hub_rtdetr")
def hub_rtdetr(data_root: Path | None = None, threshold: float = 0.5, repo: str = "PekingU/rtdetr_r50vd") -> Detector:
    """RT-DETR from the hub: 80 COCO classes."""
    model = hub.fetch("RTDetrForObjectDetection", repo)
    return hub.HubDetector(model, "hub_rtdetr", threshold, (640, 640), normalise=False, has_no_object=False)


@DETECTORS.add("hub_yolos")
def hub_yolos(data_root: Path | None = None, threshold: float = 0.5, repo: str = "hustvl/yolos-small") -> Detector:
    """YOLOS from the hub: COCO's classes under their original numbers."""
    model = hub.fetch("YolosForObjectDetection", repo)
    return hub.HubDetector(model, "hub_yolos", threshold, None, normalise=True, has_no_object=True)


@SEGMENTERS.add("hub_segformer")
def hub_segformer(
    data_root: Path | None = None, repo: str = "nvidia/segformer-b0-finetuned-cityscapes-1024-1024"
) -> Segmenter:
    """Segformer-B0 from the hub: the 19 Cityscapes classes."""
    return hub.HubSegmenter(hub.fetch("SegformerForSemanticSegmentation", repo), "hub_segformer")


def _threshold(value: float) -> float:
    if not 0 <= value <= 1:
        raise ConfigError(f"threshold={value} must lie in [0, 1].")
    return value
