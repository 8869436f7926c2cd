"""What every detector does with its candidates, and how they are found by name."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataUnavailable, UnknownName
from common.models.vision import DETECTORS, SEGMENTERS, load_detector, load_segmenter
from common.models.vision import hub as hub_module
from common.models.vision.interface import Detector, pad_to_multiple


class Fixed(Detector):
    """Says the same of every image."""

    name, class_names, threshold = "fixed", ("a", "b"), 0.5

    def __init__(self, boxes, scores):
        self.boxes, self.scores = torch.tensor(boxes), torch.tensor(scores)
        self.batches = []

    def candidates(self, images):
        self.batches.append(len(images))
        count = len(images)
        return self.boxes.expand(count, -1, -1), self.scores.expand(count, -1, -1)


BOXES = [[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [-5, 25, 8, 60]]
SCORES = [[0.6, 0.1], [0.9, 0.55], [0.2, 0.7], [0.0, 0.95]]


def frames(count: int = 1) -> np.ndarray:
    return np.zeros((count, 40, 48, 3), np.uint8)


def test_selection_by_hand():
    """Class 0: 0.9 suppresses 0.6 (IoU 9/11). Class 1: 0.95, 0.7, 0.55 do not overlap; boxes end at the picture's edge."""
    (found,) = Fixed(BOXES, SCORES).detect(frames())
    assert found.scores.tolist() == pytest.approx([0.95, 0.9, 0.7, 0.55])
    assert found.classes.tolist() == [1, 0, 1, 1]
    assert found.boxes[0].tolist() == [0, 25, 8, 40]


def test_threshold_and_batches():
    detector = Fixed(BOXES, SCORES)
    found = detector.detect(frames(11), threshold=0.8)
    assert [len(one) for one in found] == [2] * 11
    assert detector.batches == [8, 3]
    assert detector.detect(frames(0)) == []
    assert len(detector.detect(frames(), threshold=0.0)[0]) > 4


def test_bad_input():
    detector = Fixed(BOXES, SCORES)
    with pytest.raises(ConfigError, match="uint8 RGB"):
        detector.detect(frames().astype(np.float32))
    with pytest.raises(ConfigError, match="uint8 RGB"):
        detector.detect(frames()[0])
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        detector.detect(frames(), threshold=30)


def test_padding_keeps_the_picture_in_place():
    x = torch.arange(5 * 6.0).reshape(1, 1, 5, 6)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 1, 8, 8)
    assert torch.equal(padded[..., :5, :6], x)
    assert (padded[0, 0, 5:, 5] == x[0, 0, 4, 5]).all()
    assert pad_to_multiple(padded, 4) is padded


def test_names():
    assert {"street", "street_small", "yolox_nano", "fastestdet", "hub_rtdetr", "hub_yolos"} <= set(DETECTORS.names())
    assert {"street", "hub_segformer"} <= set(SEGMENTERS.names())
    with pytest.raises(UnknownName, match="Did you mean 'yolox_nano'"):
        load_detector("yolox_nana")
    with pytest.raises(ConfigError, match="has no setting 'size'"):
        load_detector("yolox_nano", size=3)
    with pytest.raises(DataUnavailable, match=r"data\.root"):
        load_detector("yolox_nano")


@pytest.mark.parametrize("load", [lambda: load_detector("hub_rtdetr"), lambda: load_segmenter("hub_segformer")])
def test_an_unreachable_hub_is_one_line(load, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_module, "unreachable", lambda endpoint: "no answer within 5 s")
    with pytest.raises(DataUnavailable, match="cannot be reached") as caught:
        load()
    assert "\n" not in str(caught.value)
    assert "'street'" in str(caught.value)


def test_importing_does_not_load_torch():
    code = "import sys, common.models.vision; print([m for m in ('torch', 'transformers', 'onnx', 'av') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
