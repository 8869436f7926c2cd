"""One function for every source of question-answering and summarisation text: `load_items`.

    DataSpec(source="generated", dataset="multi_hop")                       the seeded generator; nothing is downloaded
    DataSpec(source="local", dataset="squad", root="/data")                 files under /data/text
    DataSpec(source="hf", dataset="musique")                                the Hugging Face hub, through `datasets`

A dataset is a frozen dataclass in `DATASETS`: its fields are its knobs, its methods turn files or hub rows into items. An
outside module registers one of its own in the same way. There is no silent fall-back from one source to another.
"""

import dataclasses
import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from common.data.hub import HubTable, open_table
from common.data.items import QAItem
from common.data.records import Record
from common.errors import ConfigError, DataUnavailable
from common.metrics import versioned
from common.registry import Registry

SOURCES = ("generated", "local", "hf")
# Settings that every dataset understands, beside its own knobs.
_FOR_ALL = ("metric", "max_answer_tokens")


class TextDataset:
    """Base of the datasets: where the text comes from, and how it becomes items.

    Subclasses are frozen dataclasses. One that has files overrides `paths` and `from_files`; one that is on the hub sets
    `hub` and overrides `from_hub`.

    Attributes:
        licence: of the data.
        origin: where the files can be had.
        hub: tables of the hub, best first.
    """

    licence: ClassVar[str] = "unknown"
    origin: ClassVar[str] = ""
    hub: ClassVar[tuple[HubTable, ...]] = ()

    def paths(self) -> tuple[str, ...]:
        """The files it reads, relative to the folder `text` of a data root (or absolute); empty if it has no local form."""
        return ()

    def inputs(self, folder: Path) -> tuple[str, ...]:
        """Every file that its items depend on, relative to `folder`: `paths`, unless it finds more of them by itself."""
        return self.paths()

    def from_files(self, folder: Path) -> Iterator[QAItem]:
        """Items of the files in `folder`, the folder `text` of a data root, in their order.

        Raises:
            DataUnavailable: a file or a line of it is not what it should be.
        """
        raise DataUnavailable(f"{type(self).__name__} has no local form; use source=hf.")

    def from_hub(self, rows: Iterable[Record], layout: str) -> Iterator[QAItem]:
        """Items of a hub table, in its order.

        Raises:
            DataUnavailable: a row is not what it should be.
        """
        raise DataUnavailable(f"{type(self).__name__} is not on the hub; use source=local.")


DATASETS: Registry[type[TextDataset]] = Registry(
    "dataset",
    modules=[
        f"common.data.text.{module}"
        for module in (
            "squad",
            "multi_hop",
            "summaries",
            "finance",
            "retrieval",
            "open_questions",
            "arithmetic",
            "prose",
            "own",
        )
    ],
)


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Which items to load; the `data` config group.

    Attributes:
        source: "generated", "local" or "hf".
        dataset: a name in `DATASETS`; for generated items a task family.
        root: data root of local files; they lie in its folder `text`.
        options: knobs of the dataset (of the generator: split, seed and sizes). For every dataset: `metric` and
            `max_answer_tokens` take the place of what the items come with.
        name: what the user calls this choice; used nowhere but in messages.
    """

    source: str = "generated"
    dataset: str | None = None
    root: str | Path | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name: str = ""

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "DataSpec":
        """The spec that the `data` settings of a run describe.

        Raises:
            ConfigError: a setting that does not exist.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in settings:
            if key not in known:
                raise ConfigError(f"unknown setting 'data.{key}'. Known: {', '.join(known)}")
        return cls(**settings)


def load_items(spec: DataSpec, num_items: int | None = None) -> Iterator[QAItem]:
    """Items of a source, in its own stable order.

    Args:
        spec: which.
        num_items: how many at most; None for all there are (of the generator: its default number).

    Returns:
        An iterator; files are opened and the hub is asked before it is returned, so most errors come at once.

    Raises:
        ConfigError: source, dataset or an option is not one of those that exist.
        DataUnavailable: data root, file or hub table is missing or not what it should be; the line says what to do.
    """
    if spec.source not in SOURCES:
        raise ConfigError(f"data.source={spec.source!r} is not a source. Choose one of {', '.join(SOURCES)}.")
    if num_items is not None and num_items < 0:
        raise ConfigError(f"num_items={num_items} must be at least 0.")
    common_options = {key: value for key, value in spec.options.items() if key in _FOR_ALL and value is not None}
    knobs = {key: value for key, value in spec.options.items() if key not in _FOR_ALL}
    _check_common(common_options)
    if spec.source == "generated":
        items = _generated(spec, knobs, num_items)
    else:
        dataset = _dataset(spec, knobs)
        if spec.source == "local":
            folder = _folder(spec, dataset)
            items = dataset.from_files(folder)
        else:
            rows, table = open_table(str(spec.dataset), dataset.hub, _otherwise(str(spec.dataset), dataset))
            items = dataset.from_hub(rows, table.layout)
    items = islice(items, num_items)
    first = list(islice(items, 1))  # so that a bad file is reported here and not at the first use
    return _with_options(chain(first, items), common_options)


def input_hashes(spec: DataSpec) -> dict[str, str]:
    """SHA-256 of every local file that the items of `spec` come from, by path below the data root.

    For a run's record (`Run.note_input`).

    Raises:
        ConfigError, DataUnavailable: as `load_items`.
    """
    if spec.source != "local":
        return {}
    dataset = _dataset(spec, {key: value for key, value in spec.options.items() if key not in _FOR_ALL})
    folder = _folder(spec, dataset)
    return {
        # A file outside the data root by its name alone: where it lies says nothing about its content.
        Path(path).name if Path(path).is_absolute() else f"text/{path}": hashlib.sha256(
            (folder / path).read_bytes()
        ).hexdigest()
        for path in dataset.inputs(folder)
    }


def sample_items(items: Iterable[QAItem], num_items: int, rng: np.random.Generator) -> list[QAItem]:
    """A random subset in the original order, drawn without replacement; all items if there are no more than asked for."""
    pool = list(items)
    if num_items >= len(pool):
        return pool
    return [pool[index] for index in sorted(rng.choice(len(pool), size=num_items, replace=False).tolist())]


def by_context(items: Iterable[QAItem]) -> list[list[QAItem]]:
    """Items grouped by identical context, in order of first appearance: the queries that can share one cached context."""
    groups: dict[tuple[str, ...], list[QAItem]] = {}
    for item in items:
        groups.setdefault(item.chunks, []).append(item)
    return list(groups.values())


def _dataset(spec: DataSpec, knobs: Mapping[str, Any]) -> TextDataset:
    if not spec.dataset:
        raise ConfigError(f"data.source={spec.source} needs data.dataset, one of {', '.join(sorted(DATASETS))}.")
    dataset: TextDataset = DATASETS.create(spec.dataset, **knobs)
    return dataset


def _folder(spec: DataSpec, dataset: TextDataset) -> Path:
    """The folder that a dataset's paths are relative to, after checking that each of them is there."""
    paths = dataset.paths()
    if not paths:
        raise DataUnavailable(
            f"dataset {spec.dataset!r} has no local form; use source=hf. docs/data.md lists what has."
        )
    if spec.root is None and not all(Path(path).is_absolute() for path in paths):
        raise DataUnavailable(
            f"dataset {spec.dataset!r} (source=local) needs a data root: set data.root=FOLDER or NINEFOLD_DATA. "
            "docs/data.md says how to make one."
        )
    root = Path(spec.root or "/")
    if not root.is_dir():
        raise DataUnavailable(
            f"data root {str(root)!r} is not a folder; set data.root or NINEFOLD_DATA to one that is."
        )
    folder = root / "text"
    for path in paths:
        if not (folder / path).is_file():
            raise DataUnavailable(
                f"dataset {spec.dataset!r}: {folder / path} does not exist. "
                f"Get it from {dataset.origin or 'its owner'}; docs/data.md says how."
            )
    return folder


def _otherwise(name: str, dataset: TextDataset) -> str:
    if dataset.paths():
        return f"Or use source=local with the files under DATA_ROOT/text (docs/data.md, {name}), or data=bundled."
    return "Or use data=bundled, which needs no download."


def _generated(spec: DataSpec, knobs: dict[str, Any], num_items: int | None) -> Iterator[QAItem]:
    from common.data import synthetic  # imported late: the generator is a large module that other sources never need

    if not spec.dataset:
        raise ConfigError(f"data.source=generated needs data.dataset, one of {', '.join(synthetic.FAMILIES)}.")
    allowed = [name for name in inspect.signature(synthetic.generate).parameters if name != "family"]
    for knob in knobs:
        if knob not in allowed:
            raise ConfigError(f"the generator has no option {knob!r}. Its options: {', '.join(allowed)}")
    if num_items is not None:
        knobs["n"] = num_items
    return synthetic.generate(spec.dataset, **knobs)


def _check_common(options: Mapping[str, Any]) -> None:
    if "metric" in options:
        versioned(options["metric"])
    most = options.get("max_answer_tokens", 1)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ConfigError(f"data.options.max_answer_tokens={most!r} must be a whole number of at least 1.")


def _with_options(items: Iterator[QAItem], options: Mapping[str, Any]) -> Iterator[QAItem]:
    for item in items:
        yield dataclasses.replace(item, **options) if options else item


def distinct(answers: Iterable[str]) -> tuple[str, ...]:
    """Gold answers without blanks and repetitions, order kept."""
    return tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
