"""The weights that are shipped: they load, see, and lose sight as quantisers grow; the card says what was measured."""

import hashlib
import json

import numpy as np
import pytest
import torch

from common.codecs import decode, encode
from common.metrics.detection import clip_f1
from common.models.vision import evaluate as evaluate_module
from common.models.vision import load_detector, load_segmenter
from common.models.vision.evaluate import Options, as_table, best_threshold, evaluate, street_clip
from common.models.vision.sources import BUNDLED
from common.models.vision.train import Options as TrainingOptions
from common.models.vision.train import train


@pytest.fixture(scope="module")
def clips():
    # The purpose differs from the evaluation's: neither training nor the threshold saw these streets.
    return [street_clip(1, "test of the bundled network", number, 3) for number in range(5)]


def test_accuracy_falls_with_the_quantiser(clips):
    detector = load_detector("street")
    by_qp = {}
    for qp in (26, 30, 40, 51):
        by_qp[qp] = [detector.detect(decode(encode(clip.frames, qp=qp))) for clip in clips]
    own = {qp: np.mean([clip_f1(a, b) for a, b in zip(by_qp[26], found, strict=True)]) for qp, found in by_qp.items()}
    labels = np.mean([clip_f1(clip.labels, found) for clip, found in zip(clips, by_qp[26], strict=True)])
    assert labels > 0.6
    assert own[30] > 0.65
    assert own[30] > own[40] > own[51] + 0.1
    assert own[51] < 0.5


def test_the_segmentation_agrees_with_the_masks(clips):
    segmenter = load_segmenter("street")
    assert segmenter.class_names[segmenter.background] == "background"
    hits, either = 0, 0
    for clip in clips:
        found = segmenter.segment(decode(encode(clip.frames, qp=24)))
        either += int(((found > 0) | (clip.masks > 0)).sum())
        hits += int(((found > 0) & (clip.masks > 0)).sum())
    assert hits / either > 0.5


def test_outputs_repeat_and_parameters_are_frozen(clips):
    detector = load_detector("street")
    first, second = detector.detect(clips[0].frames), load_detector("street").detect(clips[0].frames)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(detector.candidates(images)[1].sum(), images)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).any()


def test_the_card_holds_what_was_measured():
    card = json.loads((BUNDLED / "street.json").read_text())
    assert (BUNDLED / "street.safetensors").stat().st_size < 3_000_000
    rows = {row["qp"]: row for row in card["scores"]["by_qp"]}
    assert rows[26]["f1_qp26"] == 1
    assert rows[26]["kbps"] > rows[36]["kbps"] > rows[46]["kbps"]
    hashed = hashlib.sha256((BUNDLED / "street.safetensors").read_bytes()).hexdigest()
    assert hashed in (BUNDLED.parent / "MODELS.md").read_text()
    assert (BUNDLED.parent / "MODELS.md").read_text().count(as_table(card["scores"]["by_qp"])) == 1


def test_evaluation_writes_threshold_scores_and_curve(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_module, "QPS", (22, 26, 30))
    monkeypatch.setattr(evaluate_module, "_VALIDATION_CLIPS", 1)
    train(TrainingOptions(out=str(tmp_path), steps=2, width=4, batch=1, samples=1, name="tiny"))
    card = evaluate(Options(folder=str(tmp_path), name="tiny", clips=1, frames=2))
    assert card == json.loads((tmp_path / "tiny.json").read_text())
    rows = card["scores"]["by_qp"]
    assert [row["qp"] for row in rows] == [22, 26, 30]
    assert all(0 <= row[key] <= 1 for row in rows for key in ("f1_qp26", "f1_labels", "mean_iou"))
    assert (tmp_path / "tiny_f1_vs_qp.png").stat().st_size > 1000


def test_the_best_threshold_is_the_one_with_the_best_f1(clips):
    detector = load_detector("street")
    best = best_threshold(detector, clips[:2])
    found = {t: [detector.detect(clip.frames, t) for clip in clips[:2]] for t in (0.15, best, 0.65)}
    scores = {
        t: np.mean([clip_f1(c.labels, f) for c, f in zip(clips[:2], its, strict=True)]) for t, its in found.items()
    }
    assert scores[best] == max(scores.values())
