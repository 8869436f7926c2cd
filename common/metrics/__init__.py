"""Quality metrics under versioned names.

    METRICS.names()                          # ["exact_match@1", "f1@1", ..., "rouge_l@1"]
    metric("f1")("cat sat", ("The cat sat",))        # 1.0; the current version
    metric("f1@1").higher_is_better                  # True

An entry is a frozen dataclass whose instances are called with a prediction and its gold answers. A change that can move a
score registers a new version (`f1@2`) and leaves the old one in place, so that stored results keep their meaning.
"""

from typing import Any, ClassVar, Protocol

from common.errors import ConfigError
from common.registry import Registry

__all__ = ["METRICS", "TextMetric", "metric"]


class TextMetric(Protocol):
    """Scores one answer against the gold answers of its item.

    Attributes:
        unit: unit of the score as stored with results; "1" for scores between 0 and 1.
        higher_is_better: the direction.
    """

    unit: ClassVar[str]
    higher_is_better: ClassVar[bool]

    def __call__(self, prediction: str, golds: tuple[str, ...]) -> float:
        """The score of `prediction`: that against the gold answer which it meets best.

        Raises:
            ValueError: `golds` is empty; an item without gold answers cannot be scored and must be left out.
        """
        ...


METRICS: Registry[type[TextMetric]] = Registry("metric", modules=["common.metrics.text"])


def metric(name: str, **knobs: Any) -> TextMetric:
    """An instance of the metric called `name`: "f1@1", or "f1" for its newest version.

    Raises:
        UnknownName: there is no metric or no version of that name.
        ConfigError: a knob that it does not have.
    """
    instance: TextMetric = METRICS.create(versioned(name), **knobs)
    return instance


def versioned(name: str) -> str:
    """The registered name behind `name`: itself if it names a version, else its newest version.

    Raises:
        UnknownName: there is no metric or no version of that name.
        ConfigError: it was registered without a version.
    """
    if "@" in name:
        METRICS.get(name)
        return name
    versions = [known for known in METRICS if known.partition("@")[0] == name]
    if not versions:
        METRICS.get(name)  # raises, with the nearest name
    return max(versions, key=_version)


def _version(name: str) -> int:
    number = name.partition("@")[2]
    if not number.isdecimal():
        raise ConfigError(f"metric {name!r} has no whole version number; register it as '{name.partition('@')[0]}@1'.")
    return int(number)
