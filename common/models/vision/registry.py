"""Detectors and segmentation networks by name."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError
from common.registry import Registry

if TYPE_CHECKING:
    from common.models.vision.interface import Detector, Segmenter

DETECTORS: Registry[Callable[..., "Detector"]] = Registry("detector", modules=["common.models.vision.sources"])
SEGMENTERS: Registry[Callable[..., "Segmenter"]] = Registry(
    "segmentation network", modules=["common.models.vision.sources"]
)


def load_detector(name: str = "street", data_root: Path | None = None, **settings: Any) -> "Detector":
    """A detector, frozen and ready.

    Args:
        name: "street" (bundled), "yolox_nano" or "fastestdet" (files of a data root), "hub_rtdetr", "hub_yolos", "hub_detr" (the
            hub); `DETECTORS.names()` lists them, and `DETECTORS.add` takes one of your own: a function
            (data_root, **settings) -> Detector.
        data_root: folder with real data, for those that need it.
        settings: of the detector, such as `threshold`.

    Raises:
        UnknownName: no such detector.
        DataUnavailable: its weights cannot be had here; says how to get them.
        ConfigError: a setting that it does not have.
    """
    return _built(DETECTORS, name, data_root, settings)


def load_segmenter(name: str = "street", data_root: Path | None = None, **settings: Any) -> "Segmenter":
    """A segmentation network, frozen and ready: "street" (bundled) or "hub_segformer". As `load_detector`."""
    return _built(SEGMENTERS, name, data_root, settings)


def _built(registry: Registry[Any], name: str, data_root: Path | None, settings: dict[str, Any]) -> Any:
    make = registry.get(name)
    known = [parameter for parameter in inspect.signature(make).parameters if parameter != "data_root"]
    for setting in settings:
        if setting not in known:
            raise ConfigError(
                f"{registry.kind} {name!r} has no setting {setting!r}. Its settings: {', '.join(known) or 'none'}."
            )
    return make(data_root, **settings)
