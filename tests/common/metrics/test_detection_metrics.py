"""Matching, F1, suppression, and average precision against pycocotools."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from common.metrics.detection import (
    Detections,
    average_precision,
    clip_f1,
    frame_f1,
    iou_matrix,
    match,
    mean_average_precision,
    non_maximum_suppression,
    pooled_f1,
)


def box(x: float, y: float, size: float = 10) -> list[float]:
    return [x, y, x + size, y + size]


def nothing() -> Detections:
    return Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0))


def test_iou_by_hand():
    # Shifted by half its side: intersection 50, union 150. Apart: 0. Inside with half the side: 25 / 100.
    values = iou_matrix(np.array([box(0, 0)]), np.array([box(5, 0), box(20, 0), box(2, 2, 5), box(0, 0)]))
    np.testing.assert_allclose(values, [[1 / 3, 0, 0.25, 1]])
    assert iou_matrix(np.array([box(0, 0, 0)]), np.array([box(0, 0, 0)])) == 0


def test_f1_by_hand():
    """Sheet section 10: three truths, three predictions, two right, one of the wrong class: tp 2, fp 1, fn 1, F1 = 4/6."""
    truth = Detections.labels(np.array([box(0, 0), box(30, 0), box(60, 0)]), np.array([0, 1, 0]))
    predicted = Detections([box(1, 0), box(30, 1), box(60, 0)], [0.9, 0.8, 0.7], [0, 1, 1])
    result = match(truth, predicted)
    assert (result.tp, result.fp, result.fn) == (2, 1, 1)
    assert result.f1 == pytest.approx(4 / 6)
    assert match(truth, predicted, same_class=False).f1 == 1


def test_empty_frames_count_once():
    something = Detections([box(0, 0)], [0.9], [0])
    assert frame_f1([nothing(), something, nothing()], [nothing(), nothing(), something]).tolist() == [1, 0, 0]
    assert clip_f1([nothing(), something], [nothing(), something]) == 1


def test_one_prediction_cannot_hit_two_truths_nor_two_predictions_one_truth():
    close = Detections.labels(np.array([box(0, 0), box(1, 0)]), np.array([0, 0]))
    one = Detections([box(0, 0)], [0.9], [0])
    assert match(close, one).tp == 1
    assert (
        match(
            Detections.labels(np.array([box(0, 0)]), np.array([0])),
            Detections([box(0, 0), box(1, 0)], [0.5, 0.9], [0, 0]),
        ).fp
        == 1
    )


def test_pooled_and_mean_differ():
    a = Detections([box(0, 0)], [1], [0])
    three = Detections([box(0, 0), box(20, 0), box(40, 0)], [1, 1, 1], [0, 0, 0])
    # Frame 1: 3 of 3. Frame 2: 0 of 1. Mean 0.5; pooled 2*3 / (3+3+1) = 6/7.
    assert clip_f1([three, a], [three, nothing()]) == 0.5
    assert pooled_f1([three, a], [three, nothing()]) == pytest.approx(6 / 7)


def test_suppression_by_hand():
    boxes = np.array([box(0, 0), box(1, 0), box(30, 0), box(0, 0)])
    scores = np.array([0.8, 0.9, 0.5, 0.7])
    assert non_maximum_suppression(boxes, scores, 0.5).tolist() == [1, 2]
    assert non_maximum_suppression(boxes, scores, 0.5, np.array([0, 0, 0, 1])).tolist() == [1, 3, 2]
    assert non_maximum_suppression(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []


boxes_strategy = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.integers(0, 60),
        st.integers(4, 40),
        st.integers(4, 40),
        st.integers(0, 2),
        st.integers(1, 99),
    ),
    max_size=9,
)


def build(rows, is_truth: bool) -> Detections:
    boxes = [[x, y, x + w, y + h] for x, y, w, h, _, _ in rows]
    scores = [1.0 if is_truth else s / 100 for *_, s in rows]
    return Detections(np.array(boxes).reshape(-1, 4), scores, [c for *_, c, _ in rows])


@settings(max_examples=60, deadline=None)
@given(rows=boxes_strategy)
def test_suppression_keeps_the_best_and_leaves_no_overlap(rows):
    found = build(rows, is_truth=False)
    kept = non_maximum_suppression(found.boxes, found.scores, 0.4, found.classes)
    left = found.where(kept)
    overlaps = iou_matrix(left.boxes, left.boxes)
    same = left.classes[:, None] == left.classes[None]
    assert not (overlaps > 0.4)[same & ~np.eye(len(left), dtype=bool)].any()
    # Every dropped box overlaps a kept one of its class with at least its score.
    for index in set(range(len(found))) - set(kept.tolist()):
        other = (left.classes == found.classes[index]) & (left.scores >= found.scores[index])
        assert (iou_matrix(found.boxes[index : index + 1], left.boxes[other]) > 0.4).any()


@settings(max_examples=60, deadline=None)
@given(truth=boxes_strategy, predicted=boxes_strategy)
def test_matches_are_one_to_one_and_bounded(truth, predicted):
    a, b = build(truth, is_truth=True), build(predicted, is_truth=False)
    result = match(a, b)
    assert len(set(result.pairs[:, 0])) == len(set(result.pairs[:, 1])) == result.tp <= min(len(a), len(b))
    assert 0 <= result.f1 <= 1
    assert match(a, a).f1 == 1 or len(a) > 1  # equal boxes of one class may match crosswise, never less than all
    assert match(a, a).tp == len(a)


def coco_ap(truth, predicted, area: str) -> tuple[float, float]:
    """AP and AP50 of pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def row(found, image, index):
        x0, y0, x1, y1 = map(float, found.boxes[index])
        return {"image_id": image, "category_id": int(found.classes[index]) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}

    annotations = [
        row(found, image, i) | {"iscrowd": 0} for image, found in enumerate(truth) for i in range(len(found))
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation |= {"id": number, "area": annotation["bbox"][2] * annotation["bbox"][3]}
    results = [
        row(found, image, i) | {"score": float(found.scores[i])}
        for image, found in enumerate(predicted)
        for i in range(len(found))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(truth))],
            "annotations": annotations,
            "categories": [{"id": i} for i in (1, 2, 3)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, {"all": 0, "small": 1, "medium": 2}[area], 2]
    present = precision > -1
    return float(precision[present].mean()), float(precision[0][present[0]].mean())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("area", "limits"), [("all", (0, 1e10)), ("small", (0, 32**2)), ("medium", (32**2, 96**2))])
def test_average_precision_equals_pycocotools(seed, area, limits):
    rng = np.random.default_rng(seed)
    truth, predicted = [], []
    for _ in range(12):
        count = int(rng.integers(1, 8))
        corner, side = rng.uniform(0, 100, (count, 2)), rng.uniform(8, 70, (count, 2))
        boxes = np.concatenate([corner, corner + side], 1)
        classes = rng.integers(0, 3, count)
        truth.append(Detections.labels(boxes, classes))
        copies = int(rng.integers(0, 3 * count))
        chosen = rng.integers(0, count, copies)
        jittered = boxes[chosen] + rng.normal(0, 4, (copies, 4))
        jittered[:, 2:] = np.maximum(jittered[:, 2:], jittered[:, :2] + 1)
        labels = np.where(rng.random(copies) < 0.85, classes[chosen], rng.integers(0, 3, copies))
        predicted.append(Detections(jittered, rng.integers(1, 30, copies) / 30, labels))  # with ties among the scores
    expected_ap, expected_ap50 = coco_ap(truth, predicted, area)
    assert mean_average_precision(truth, predicted, area_range=limits) == pytest.approx(expected_ap, abs=1e-9)
    assert mean_average_precision(truth, predicted, ious=[0.5], area_range=limits) == pytest.approx(
        expected_ap50, abs=1e-9
    )


def test_average_precision_by_hand():
    # Two truths of one class; predictions by score: hit, miss. Recall reaches 1/2 with precision 1: 51 of 101 points.
    truth = [Detections.labels(np.array([box(0, 0), box(50, 0)]), np.array([0, 0]))]
    predicted = [Detections([box(0, 0), box(90, 0)], [0.9, 0.8], [0, 0])]
    assert average_precision(truth, predicted, ious=[0.5]) == {0: pytest.approx(51 / 101)}
    assert average_precision(truth, [nothing()], ious=[0.5]) == {0: 0.0}


def test_bad_input():
    with pytest.raises(ConfigError, match="one of each per object"):
        Detections([box(0, 0)], [0.5, 0.6], [0])
    with pytest.raises(ConfigError, match="one of each per frame"):
        frame_f1([nothing()], [])
    with pytest.raises(ConfigError, match="without frames"):
        clip_f1([], [])
    with pytest.raises(ConfigError, match="undefined"):
        mean_average_precision([nothing()], [nothing()])
