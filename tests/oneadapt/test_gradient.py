"""DNNGrad, InputGrad and AccGrad: values worked out by hand, and the networks' own gradients."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oneadapt.api import WORKLOADS, Delivery, Saliency
from oneadapt.contract import BrightBlocks
from oneadapt.gradient import Gradient, accuracy_gradient, block_mean, reference_of
from oneadapt.tasks import CentreDetection, centre_f1, centres, peaks, soft_count, sum_of_scores
from oneadapt.upscaling import Enlarger


def delivery(x, num_bytes=100):
    x = np.asarray(x, np.float32)
    return Delivery({}, x, num_bytes, tuple(range(len(x))), x)


def test_linear_network_by_hand():
    # u = w . x with w = (2, -3, 0, 1): G = |w|; x moves by (0.5, 0.5, 9, -1) from the best setting:
    # err = 2 * 0.5 + 3 * 0.5 + 0 * 9 + 1 * 1 = 3.5. Signed, the difference of u would be 1 - 1.5 + 0 - 1 = -1.5.
    w = np.array([[2, -3], [0, 1]], np.float32)
    saliency = Saliency(10.0, 0, np.abs(w))
    gradient = Gradient.of(saliency, (1, 1))
    best = np.zeros((1, 2, 2, 1), np.float32)
    moved = np.array([[0.5, 0.5], [9, -1]], np.float32)[None, ..., None]
    assert gradient.error(moved, best) == pytest.approx(3.5)
    assert gradient.risk(moved, best) == pytest.approx(0.35)
    # One block over everything: mean |w| = 1.5, times the summed difference 11.
    assert Gradient.of(saliency, (2, 2)).error(moved, best) == pytest.approx(16.5)


def test_errors_average_over_elements_and_sum_over_channels():
    gradient = Gradient.of(Saliency(1.0, 0, np.ones((2, 2), np.float32)), (1, 2))
    x = np.zeros((4, 2, 2, 3), np.float32)
    x[1, 0, 1] = 2.0  # three channels of one pixel of one element in four: 3 * 2 / 4
    errors = gradient.block_errors(x, np.zeros_like(x))
    assert errors == pytest.approx(np.array([[1.5], [0.0]]))


def test_accuracy_gradient_is_the_difference_quotient():
    gradient = Gradient.of(Saliency(2.0, 0, np.ones((1, 1), np.float32)), (1, 1))
    best, dear, cheap = (delivery(np.full((1, 1, 1, 1), value)) for value in (0.0, 0.1, 0.5))
    # risks 0.05 and 0.25; a step of 0.25 in the state
    assert accuracy_gradient(gradient, dear, cheap, best.x, 0.25) == pytest.approx((0.25 - 0.05) / 0.25)
    assert accuracy_gradient(gradient, dear, dear, best.x, 0.25) == 0.0


def test_the_first_step_is_not_charged_with_coding_noise():
    # Two quantisers that are nearly as coarse: their noise differs from pixel to pixel, the error against the sensor hardly.
    rng = np.random.default_rng(0)
    sensor = rng.random((1, 256, 256, 1)).astype(np.float32)
    best, cheap = (delivery(np.round(sensor * levels) / np.float32(levels)) for levels in (10, 9))
    gradient = Gradient.of(Saliency(1.0, 0, np.ones((256, 256), np.float32)), (16, 16))
    against = {
        reference: accuracy_gradient(gradient, best, cheap, reference_of(reference, sensor, best), 1.0)
        for reference in ("best", "sensor")
    }
    # Mean |error| of a uniform quantiser is step / 4.
    assert against["sensor"] == pytest.approx(256 * 256 * (1 / 9 - 1 / 10) / 4, rel=0.2)
    assert against["best"] > 5 * against["sensor"]


def test_a_dim_scene_does_not_divide_by_zero():
    gradient = Gradient.of(Saliency(0.0, 0, np.ones((1, 1), np.float32)), (1, 1))
    one = np.ones((1, 1, 1, 1), np.float32)
    assert gradient.risk(one, 0 * one) == 1.0


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20))
def test_block_means_keep_the_sum(rows, columns, height, width):
    map_HW = np.random.default_rng(rows * columns).random((rows, columns)).astype(np.float32)
    mean = block_mean(map_HW, (height, width))
    sizes = np.outer(
        np.diff(np.append(np.arange(0, rows, height), rows)), np.diff(np.append(np.arange(0, columns, width), columns))
    )
    assert mean.shape == sizes.shape
    assert (mean * sizes).sum() == pytest.approx(map_HW.sum(), rel=1e-5)


def test_soft_count_and_sum():
    score = torch.tensor([0.5, 1.0, 0.0])
    # sigmoid(0) + sigmoid(10) + sigmoid(-10) = 0.5 + 1, less three times sigmoid(-10)
    assert float(soft_count(score)) == pytest.approx(1.5 - 3 * 4.5398e-5, abs=1e-6)
    assert float(soft_count(torch.zeros(1000), theta=0.3)) == pytest.approx(0, abs=1e-3)
    assert float(sum_of_scores(torch.tensor([0.4, 0.6, 0.9]))) == pytest.approx(1.5)


def test_saliency_is_the_gradient_of_the_utility():
    torch_rng = torch.Generator().manual_seed(0)
    network = torch.nn.Conv2d(1, 2, 3, 1, 1)
    with torch.no_grad():
        network.weight.copy_(torch.randn(network.weight.shape, generator=torch_rng) * 0.5)
        network.bias.zero_()
    task = CentreDetection(network, "")
    x = np.random.default_rng(0).random((6, 8, 1)).astype(np.float32)
    found = task.saliency(x)

    def utility(pixels):
        logits = network(torch.from_numpy(pixels.transpose(2, 0, 1)[None]))[0]
        return float(soft_count(task.scores(logits)).detach())

    assert found.utility == pytest.approx(utility(x), rel=1e-5)
    for row, column in ((0, 0), (3, 4), (5, 7)):
        up, down = x.copy(), x.copy()
        up[row, column], down[row, column] = up[row, column] + 1e-3, down[row, column] - 1e-3
        numeric = abs(utility(up) - utility(down)) / 2e-3
        assert found.gradient_HW[row, column] == pytest.approx(numeric, rel=0.05, abs=2e-2)


def test_bright_blocks_gradient_matches_difference():
    task = BrightBlocks()
    x = np.random.default_rng(1).random((32, 32, 1)).astype(np.float32) * 0.4 + 0.3
    found = task.saliency(x)
    moved = x.copy()
    moved[:16, :16] += 0.001
    numeric = (task.saliency(moved).utility - found.utility) / 0.001
    assert found.gradient_HW[:16, :16].sum() == pytest.approx(numeric, rel=0.05)


def test_peaks_and_centres():
    map_CHW = torch.zeros(1, 4, 6)
    map_CHW[0, 1, 1], map_CHW[0, 1, 2], map_CHW[0, 3, 5] = 0.9, 0.8, 0.6
    assert int((peaks(map_CHW) > 0).sum()) == 2  # the 0.8 stands beside a higher one
    assert centres(map_CHW, 0.5) == pytest.approx(np.array([[0, 1, 1, 0.9], [0, 3, 5, 0.6]]))


def test_centre_f1_by_hand():
    truth = np.array([[0, 10, 10, 1], [0, 20, 20, 1], [1, 30, 30, 1]], np.float32)
    # The first matches; the second claims the same truth and fails; the third has the wrong class: 2 * 1 / (3 + 3).
    found = np.array([[0, 11, 11, 0.9], [0, 10, 9, 0.8], [0, 30, 30, 0.7]], np.float32)
    assert centre_f1(found, truth) == pytest.approx(1 / 3)
    assert centre_f1(truth, truth) == 1.0
    assert centre_f1(found[:0], truth[:0]) == 1.0
    assert centre_f1(found[:0], truth) == 0.0


def test_linking_objects():
    from common.metrics.detection import Detections
    from oneadapt.vision import BoxTracking

    def frame(*lefts):
        boxes = np.array([[left, 0, left + 10, 10] for left in lefts], np.float32).reshape(-1, 4)
        return Detections(boxes, np.ones(len(lefts)), np.zeros(len(lefts)))

    task = BoxTracking(SimpleNamespace(threshold=0.5), "")
    truth = [frame(0, 50), frame(2, 52), frame(4, 54)]
    assert task.accuracy(truth, truth) == 1.0
    # One object is lost in the middle frame: its two links of four are gone: 2 * 2 / (2 + 4).
    assert task.accuracy([frame(0, 50), frame(2), frame(4, 54)], truth) == pytest.approx(2 / 3)
    assert task.accuracy([frame(), frame(), frame()], [frame(), frame(), frame()]) == 1.0


def test_a_gradient_knows_its_size():
    gradient = Gradient.of(Saliency(1.0, 0, np.ones((96, 160), np.float32)), (16, 16))
    assert gradient.num_bytes == 6 * 10
    assert dataclasses.is_dataclass(gradient)


@pytest.mark.parametrize(
    ("workload", "channels"),
    [
        ("rgb_detection", 3),
        ("rgb_tracking", 3),
        ("rgb_segmentation", 3),
        ("thermal_detection", 1),
        ("depth_segmentation", 1),
    ],
)
def test_a_network_in_front_gets_the_gradient_of_the_same_utility(workload, channels):
    task = WORKLOADS.create(workload).application("upscaling").task
    small = torch.rand(1, channels, 48, 64, generator=torch.Generator().manual_seed(0))
    enlarger = Enlarger(channels)
    x = enlarger(small)
    u = task.differentiable_utility(x)
    stated = task.saliency(x.detach()[0].permute(1, 2, 0).numpy()).utility
    assert float(u.detach()) == pytest.approx(stated, rel=1e-5, abs=1e-6)
    u.backward()
    assert all(torch.isfinite(p.grad).all() for p in enlarger.parameters())
    assert any(p.grad.abs().max() > 0 for p in enlarger.parameters())
