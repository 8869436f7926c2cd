"""Real data: photographs and texts with labels, from files or from the hub.

read_grocery(root)              GroceryStoreDataset: images/grocery of a data root
read_coco(root)                 COCO photographs with panoptic labels: images/coco of a data root
read_open_images(...)           Open Images V6/V7: human-verified image-level labels, positive and negative
read_tweet_topic(file | None)   TweetTopic (multi-label): a JSONL file, or cardiffnlp/tweet_topic_multi on the hub
PhotoTask                       photographs as a task, seen through a trained SqueezeNet
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chameleonapi.squeezenet import SIDE, SqueezeNet, load_squeezenet
from chameleonapi.tasks.everyday import open_image
from chameleonapi.tasks.task import Examples
from common.errors import ConfigError, DataUnavailable
from common.rng import for_component


@dataclass(frozen=True)
class Labelled:
    """One photograph or text with what is known about it.

    Attributes:
        id: unique in its data set.
        path: of the photograph; None for a text.
        text: of the text; "" for a photograph.
        positive, negative: labels known to be true, and known to be false. All others are unknown.
    """

    id: str
    path: Path | None
    text: str
    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


def _need(path: Path, what: str) -> Path:
    if not path.exists():
        raise DataUnavailable(
            f"{what} is not at {path}. Give data.root=FOLDER with it, or see docs/data.md for where it comes from."
        )
    return path


def read_grocery(root: Path) -> list[Labelled]:
    """GroceryStoreDataset: each photograph with the names of all levels of its path (Fruit, Apple, Granny-Smith).

    Raises:
        DataUnavailable: it is not there.
    """
    folder = _need(root / "images" / "grocery", "GroceryStoreDataset")
    with open(_need(folder / "labels.csv", "its label file"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return [
            Labelled(r["path"], _need(folder / r["path"], "a photograph"), "", tuple(r["levels"].split("|")))
            for r in rows
        ]
    except KeyError as error:
        raise ConfigError(f"{folder / 'labels.csv'} has no column {error}. It needs path and levels.") from error


def read_coco(root: Path) -> list[Labelled]:
    """COCO photographs with the names of their panoptic segments' categories.

    Raises:
        DataUnavailable: it is not there.
    """
    folder = _need(root / "images" / "coco", "COCO")
    data = json.loads(_need(folder / "panoptic_train2017.json", "its annotation").read_text())
    names = {c["id"]: c["name"] for c in data["categories"]}
    files = {image["id"]: image["file_name"] for image in data["images"]}
    return [
        Labelled(
            str(one["image_id"]),
            _need(folder / "images" / files[one["image_id"]], "a photograph"),
            "",
            tuple(dict.fromkeys(names[s["category_id"]] for s in one["segments_info"])),
        )
        for one in data["annotations"]
    ]


def read_open_images(images: Path, labels_csv: Sequence[Path], classes_csv: Path) -> Iterator[Labelled]:
    """Open Images' human-verified image-level labels.

    Args:
        images: folder with `<ImageID>.jpg`; images that are not there are left out.
        labels_csv: files with ImageID, LabelName, Confidence (1 verified true, 0 verified false); an image in several
        counts once,
            as the first has it.
        classes_csv: `/m/...` identifiers with display names, with or without a header; quotes around names are dropped.

    Raises:
        DataUnavailable: a file or the folder is not there, or no image is.
        ConfigError: a column is missing.
    """
    with open(_need(classes_csv, "the class descriptions"), newline="", encoding="utf-8") as file:
        names = {row[0]: row[1].strip().strip('"') for row in csv.reader(file) if len(row) > 1}
    _need(images, "the image folder")
    seen: set[str] = set()
    for path in labels_csv:
        positive: dict[str, dict[str, None]] = {}
        negative: dict[str, dict[str, None]] = {}
        with open(_need(path, "the labels"), newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                try:
                    image, label, confidence = row["ImageID"], row["LabelName"], float(row["Confidence"])
                except (KeyError, ValueError) as error:
                    raise ConfigError(
                        f"{path} is no label file of Open Images: {error}. It needs ImageID, LabelName, Confidence."
                    ) from error
                target = positive if confidence > 0.5 else negative
                target.setdefault(image, {})[names.get(label, label)] = None
                positive.setdefault(image, {})
        for image, own in positive.items():
            file_path = images / f"{image}.jpg"
            if image not in seen and file_path.is_file():
                seen.add(image)
                yield Labelled(image, file_path, "", tuple(own), tuple(negative.get(image, {})))
    if not seen:
        raise DataUnavailable(f"none of the labelled images is in {images}. Put them there as <ImageID>.jpg.")


def read_tweet_topic(file: Path | None = None, split: str = "train_2021") -> list[Labelled]:
    """TweetTopic, multi-label: texts with topic names.

    Args:
        file: JSON lines with `text` and `label_name` (a list); None fetches cardiffnlp/tweet_topic_multi from the hub.
        split: of the hub's data set.

    Raises:
        DataUnavailable: no such file, or the hub cannot be reached.
        ConfigError: a line is not what it should be.
    """
    if file is None:
        from datasets import load_dataset

        try:
            # The data set's own script is refused by today's `datasets`; its data files are JSON lines.
            url = f"hf://datasets/cardiffnlp/tweet_topic_multi/dataset/split_temporal/{split}.single.json"
            table = load_dataset("json", data_files=url, split="train")
        except Exception as error:
            raise DataUnavailable(
                f"TweetTopic cannot be fetched from the hub: {str(error).splitlines()[0]}. Give a JSONL file of it."
            ) from error
        records = [dict(r) for r in table]
    else:
        lines = _need(file, "TweetTopic").read_text(encoding="utf-8").splitlines()
        try:
            records = [json.loads(line) for line in lines if line.strip()]
        except ValueError as error:
            raise ConfigError(f"{file} is not JSON lines: {error}") from error
    out = []
    for number, record in enumerate(records):
        text, labels = record.get("text"), record.get("label_name")
        if not isinstance(text, str) or not isinstance(labels, list | tuple):
            raise ConfigError(
                f"record {number} of TweetTopic needs `text` and a list `label_name`; it has {sorted(record)}."
            )
        out.append(Labelled(str(record.get("id", number)), None, text, tuple(map(str, labels))))
    return out


@dataclass(frozen=True, eq=False)
class PhotoTask:
    """Photographs with their labels, seen through SqueezeNet's trained trunk: inputs are its 512 features.

    The split is by photograph: half for training, a quarter each for validation and test, drawn by the seed. Training
    and validation
    photographs are seen in `views` random crops, test photographs as a whole. Labels with fewer than `min_count`
    photographs are left out.
    """

    name: str
    photos: tuple[Labelled, ...]
    squeezenet: Path
    views: int = 2
    min_count: int = 4
    vocabulary: str = "image"
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels with enough photographs, in order of appearance."""
        counts: dict[str, int] = {}
        for photo in self.photos:
            for label in photo.positive:
                counts[label] = counts.get(label, 0) + 1
        return tuple(label for label, count in counts.items() if count >= self.min_count)

    @cached_property
    def _network(self) -> SqueezeNet:
        return load_squeezenet(self.squeezenet)

    @cached_property
    def _features(self) -> Tensor:
        """(photographs, 1 + views, 512): the whole image, then random crops."""
        rng = for_component(0, "chameleonapi", "crops", self.name)
        out = []
        for photo in self.photos:
            assert photo.path is not None
            image = open_image(photo.path.read_bytes()).convert("RGB")
            seen = [image]
            for _ in range(self.views):
                width, height = (int(side * rng.uniform(0.7, 1.0)) for side in image.size)
                left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
                seen.append(image.crop((left, top, left + width, top + height)))
            arrays = [np.array(view.resize((SIDE, SIDE)), np.uint8).transpose(2, 0, 1) for view in seen]
            with torch.inference_mode():
                out.append(self._network.pooled(torch.from_numpy(np.stack(arrays))))
        return torch.stack(out).clone()

    def examples(self, split: str, seed: int, n: int) -> Examples:
        """At most n examples of a split."""
        order = for_component(seed, "chameleonapi", "photos", self.name).permutation(len(self.photos))
        half, rest = len(order) // 2, 3 * len(order) // 4
        chosen = {"train": order[:half], "validation": order[half:rest], "test": order[rest:]}
        if split not in chosen:
            raise ConfigError(f"split {split!r} is not known. Use train, validation or test.")
        place = {label: i for i, label in enumerate(self.labels)}
        rows, labels, ids = [], [], []
        for index in chosen[split].tolist():
            photo = self.photos[index]
            own = torch.zeros(len(place), dtype=torch.bool)
            own[[place[label] for label in photo.positive if label in place]] = True
            for view in (0,) if split == "test" else range(1 + self.views):
                rows.append(self._features[index, view])
                labels.append(own)
                ids.append(photo.id)
        return Examples(torch.stack(rows), torch.stack(labels), tuple(ids)).take(range(min(n, len(rows))))

    def content(self, inputs: Tensor, index: int) -> bytes:
        """A grey picture: features cannot be turned back into a photograph, and requests of known scores need any image."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), (128, 128, 128)).save(buffer, "PNG")
        return buffer.getvalue()

    def read(self, content: bytes) -> Tensor:
        """An image file as features (1, 512)."""
        image = open_image(content).convert("RGB").resize((SIDE, SIDE))
        with torch.inference_mode():
            pixels = np.array(image, np.uint8).transpose(2, 0, 1)[None]
            return self._network.pooled(torch.from_numpy(pixels)).clone()


def grocery_task(root: Path) -> PhotoTask:
    """The grocery photographs of a data root as a task."""
    return PhotoTask("grocery", tuple(read_grocery(root)), root / "models" / "squeezenet1_1_imagenet.safetensors")
