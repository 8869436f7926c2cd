"""Loaders on small files; and, where a data root is there, the real photographs and the real SqueezeNet."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chameleonapi.api import EXPERIMENTS, METHODS
from chameleonapi.squeezenet import SqueezeNet, load_squeezenet
from chameleonapi.tasks.real import grocery_task, read_coco, read_grocery, read_open_images, read_tweet_topic
from common.errors import ConfigError, CorruptBitstream, DataUnavailable
from common.experiment import Run

ROOT = Path(os.environ.get("NINEFOLD_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def root():
    if (
        not (ROOT / "images" / "grocery").is_dir()
        or not (ROOT / "models" / "squeezenet1_1_imagenet.safetensors").is_file()
    ):
        pytest.skip(
            f"no photographs at {ROOT}; set NINEFOLD_DATA to a data root with images/grocery, images/coco and models/"
        )
    return ROOT


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (200, 10, 10)).save(path, "JPEG")


def test_open_images_labels(tmp_path):
    for name in ("a", "b"):
        photo(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "classes.csv").write_text('/m/1,Cat\n/m/2,"""Dog"""\n')
    (tmp_path / "train.csv").write_text(
        "ImageID,Source,LabelName,Confidence\na,v,/m/1,1\na,v,/m/2,0\na,v,/m/1,1\nb,v,/m/2,0\nnowhere,v,/m/1,1\n"
    )
    (tmp_path / "more.csv").write_text("ImageID,Source,LabelName,Confidence\na,v,/m/2,1\n")
    found = list(
        read_open_images(tmp_path / "images", [tmp_path / "train.csv", tmp_path / "more.csv"], tmp_path / "classes.csv")
    )
    assert [(x.id, x.positive, x.negative) for x in found] == [("a", ("Cat",), ("Dog",)), ("b", (), ("Dog",))]
    (tmp_path / "bad.csv").write_text("Image,Label\na,b\n")
    with pytest.raises(ConfigError, match="ImageID"):
        list(read_open_images(tmp_path / "images", [tmp_path / "bad.csv"], tmp_path / "classes.csv"))
    with pytest.raises(DataUnavailable, match="class descriptions"):
        list(read_open_images(tmp_path, [], tmp_path / "none.csv"))
    with pytest.raises(DataUnavailable, match="none of the labelled images"):
        list(read_open_images(tmp_path / "images", [], tmp_path / "classes.csv"))


def test_tweet_topic_file(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps({"id": "7", "text": "goal!", "label_name": ["sports", "news"]}) + "\n\n")
    (one,) = read_tweet_topic(file)
    assert (one.id, one.text, one.positive) == ("7", "goal!", ("sports", "news"))
    file.write_text('{"text": 3}')
    with pytest.raises(ConfigError, match="label_name"):
        read_tweet_topic(file)
    file.write_text("{nonsense")
    with pytest.raises(ConfigError, match="JSON lines"):
        read_tweet_topic(file)
    with pytest.raises(DataUnavailable, match="TweetTopic"):
        read_tweet_topic(tmp_path / "none.jsonl")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataUnavailable, match="GroceryStoreDataset"):
        read_grocery(tmp_path)
    with pytest.raises(DataUnavailable, match="COCO"):
        read_coco(tmp_path)
    with pytest.raises(DataUnavailable, match="weights"):
        load_squeezenet(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CorruptBitstream):
        load_squeezenet(tmp_path / "x.safetensors")
    run = Run("chameleonapi", "real_images", "smoke", 0, 1, {"generic": METHODS.create("generic")})
    with pytest.raises(DataUnavailable, match=r"data\.root"):
        next(EXPERIMENTS.create("real_images").rows(run))


def test_squeezenet_has_its_published_size():
    assert sum(p.numel() for p in SqueezeNet().parameters()) == 1_235_496  # torchvision's squeezenet1_1


def test_squeezenet_reproduces_its_published_check_vector(root):
    network = load_squeezenet(root / "models" / "squeezenet1_1_imagenet.safetensors")
    given = torch.from_numpy(np.load(root / "models" / "squeezenet1_1_check_input_0.npy"))
    expected = np.load(root / "models" / "squeezenet1_1_check_output_0.npy").reshape(-1)
    with torch.inference_mode():
        found = network(given)[0].numpy()
    assert np.abs(found - expected).max() < 1e-3  # of values near 280


def test_grocery_and_coco(root):
    photos = read_grocery(root)
    assert len(photos) == 162
    assert all(2 <= len(p.positive) <= 3 for p in photos)
    coco = read_coco(root)
    assert len(coco) == 26
    assert any("person" in p.positive for p in coco)


def test_photographs_as_a_task(root):
    task = grocery_task(root)
    assert {"Fruit", "Vegetables", "Juice", "Milk", "Yoghurt", "Apple"} <= set(task.labels)
    object.__setattr__(task, "photos", task.photos[:12])  # a dozen are enough here
    parts = [task.examples(split, 0, 1000) for split in ("train", "validation", "test")]
    ids = [set(p.ids) for p in parts]
    assert [len(p) for p in parts] == [18, 9, 3]
    assert len(set().union(*ids)) == sum(map(len, ids))  # no photograph is in two splits
    path = root / "images" / "grocery" / parts[2].ids[0]
    assert torch.allclose(task.read(path.read_bytes())[0], parts[2].inputs[0], atol=1e-4)


@pytest.mark.slow
def test_real_images_experiment(root):
    methods = {name: METHODS.create(name) for name in ("generic", "threshold_only", "chameleonapi")}
    run = Run("chameleonapi", "real_images", "smoke", 0, 3, methods, data={"root": str(root)})
    items = list(EXPERIMENTS.create("real_images", generic_epochs=20, stage1_epochs=2, stage2_epochs=2).rows(run))
    assert [item.item for item in items] == ["grocery_checkout", "apple_stand", "shelf_audit"]
    assert all(0 <= row.value <= 1 for item in items for row in item.rows if row.metric == "idr")
