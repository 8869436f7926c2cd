"""Accuracy gradients: the formula against hand-made DNNs, the stand-ins for accuracy against finite differences."""

import numpy as np
import pytest
import torch

from accmpeg import accgrad
from accmpeg.accgrad import accuracy_gradient, block_sums, pixel_gradient, score_gradient
from accmpeg.contract import square_clip
from accmpeg.contract import square_detection as detection_dnn
from accmpeg.contract import square_segmentation as segmentation_dnn
from accmpeg.dnn import decoded_at, images_of
from common.errors import ConfigError


def pair(seed: int = 0, height: int = 40, width: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.random((2, 3, height, width))), torch.from_numpy(rng.random((2, 3, height, width)))


def test_linear_dnn_by_hand():
    # Acc = w . x, so dAcc/dx = w at every place, and AccGrad_B = sum over pixels of |w|_1 * |H - L|_1 over the channels.
    low, high = pair()
    w = torch.from_numpy(np.random.default_rng(9).normal(size=(3, 40, 48)))
    found = accuracy_gradient(lambda x: (w * x).sum((1, 2, 3)), low, high)
    wanted = np.zeros((2, 3, 3))
    product = w.abs().sum(0).numpy() * (high - low).abs().sum(1).numpy()
    for row in range(3):
        for column in range(3):
            wanted[:, row, column] = product[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16].sum((1, 2))
    assert found.numpy() == pytest.approx(wanted)
    # The bound of the paper: no choice of blocks gains more accuracy than the sum of their AccGrad.
    gain = (w * (high - low)).sum((1, 2, 3))
    assert (gain <= found.sum((1, 2))).all()


def test_properties():
    low, high = pair(1)

    def score(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x).square().sum((1, 2, 3))

    found = accuracy_gradient(score, low, high)
    assert (found >= 0).all()
    assert accuracy_gradient(lambda x: 2 * score(x), low, high).numpy() == pytest.approx(2 * found.numpy())
    same = high.clone()
    same[:, :, 16:32, :16] = low[:, :, 16:32, :16]
    assert (accuracy_gradient(score, low, same)[:, 1, 0] == 0).all()
    # Exchanging two blocks of both pictures exchanges their values.
    swapped = [torch.cat([picture[..., 16:32], picture[..., :16], picture[..., 32:]], -1) for picture in (low, high)]
    assert accuracy_gradient(score, *swapped).numpy() == pytest.approx(found[:, :, [1, 0, 2]].numpy())


def test_gradient_at_low_quality_and_not_at_high():
    low, high = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    # Acc = sum x^2 / 2 has gradient x: 0 at L. The official variant takes it at H: |1| over 3 channels and 256 pixels.
    assert accuracy_gradient(lambda x: x.square().sum((1, 2, 3)) / 2, low, high).item() == 0
    assert score_gradient(lambda x: x.square().sum((1, 2, 3)) / 2, high).item() == 3 * 256


def test_a_score_that_ignores_the_picture_has_no_gradient():
    assert not pixel_gradient(lambda x: torch.zeros(len(x)), torch.rand(2, 3, 16, 16)).any()


def test_partial_blocks_sum_what_they_have():
    assert block_sums(torch.ones(1, 20, 16)).flatten().tolist() == [256, 64]


def test_different_sizes_are_refused():
    with pytest.raises(ConfigError, match="must be the same"):
        accuracy_gradient(lambda x: x.sum((1, 2, 3)), torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 32))
    with pytest.raises(ConfigError, match="'papr'"):
        accgrad.check_target("papr")


@pytest.mark.parametrize("dnn", [detection_dnn(), segmentation_dnn()])
def test_stand_ins_agree_with_finite_differences(dnn):
    frames = square_clip(3, 1).frames
    high, low = (images_of(decoded_at(frames, qp)).double() for qp in (26, 44))
    for score, at in ((dnn.soft_accuracy(low, high), low), (dnn.confidence(high), high)):
        image = at.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(score(image).sum(), image)
        step = torch.from_numpy(np.random.default_rng(0).normal(size=at.shape))
        eps = 1e-6
        slope = (score(at + eps * step) - score(at - eps * step)).item() / (2 * eps)
        assert slope == pytest.approx(float((gradient * step).sum()), rel=1e-3, abs=1e-9)


def test_soft_accuracy_is_high_on_the_truth_and_falls_without_objects():
    dnn = detection_dnn()
    high = images_of(square_clip(3, 1).frames)
    grey = torch.full_like(high, 0.43)
    assert dnn.soft_accuracy(high, high)(high).item() > 0.9
    assert dnn.soft_accuracy(grey, high)(grey).item() < 0.3
    # No truth: false alarms lower the score.
    assert dnn.soft_accuracy(grey, grey)(grey).item() == pytest.approx(1.0)
    assert dnn.soft_accuracy(high, grey)(high).item() < 0.5


@pytest.mark.parametrize("target", ["paper", "official"])
def test_gradients_point_at_the_objects(target):
    dnn, clip = detection_dnn(), square_clip(5, 1)
    gradient = dnn.accuracy_gradient(clip.frames, target, 30, 44)[0]
    objects = dnn.object_mask(dnn.run(clip.frames)[0], gradient.shape)
    assert gradient[objects].mean() > 3 * gradient[~objects].mean()
