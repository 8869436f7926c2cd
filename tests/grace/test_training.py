"""The objective: the law of simulated losses, gradients through masks, and one resumable step of training."""

import itertools

import numpy as np
import pytest
import torch

from common.errors import ConfigError
from grace.loss_model import draw_loss_rates, draw_mask, laplace_bits, masked_expectation, training_bits
from grace.networks import NUM_LEVELS, lambda_of, quantise_residual


def test_law_of_the_loss_rates():
    rates = draw_loss_rates(100_000, 0.2, torch.Generator().manual_seed(0)).numpy()
    assert (rates == 0).mean() == pytest.approx(0.8, abs=0.005)
    values, counts = np.unique(np.round(rates[rates > 0], 3), return_counts=True)
    assert values.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert np.abs(counts / counts.sum() - 1 / 6).max() < 0.012


def test_masks_keep_the_right_share():
    mask = draw_mask(torch.Size((2, 40, 50, 50)), torch.tensor([0.0, 0.3]), torch.Generator().manual_seed(1))
    assert mask[0].all()
    assert mask[1].mean().item() == pytest.approx(0.7, abs=0.01)


# D(y) = (sum_i a_i m_i y_i - t)^2, whose expected gradient over the eight masks of three elements is computed exactly.
_A, _T, _P = torch.tensor([1.0, -2.0, 0.5]), 0.7, 0.4


def _exact_gradient(y: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(3)
    for mask in itertools.product((0.0, 1.0), repeat=3):
        m = torch.tensor(mask)
        weight = float(np.prod([1 - _P if kept else _P for kept in mask]))
        total += weight * 2 * ((_A * m * y).sum() - _T) * _A * m
    return total


@pytest.mark.parametrize(("estimator", "samples", "tolerance"), [("pathwise", 4000, 0.12), ("reinforce", 60_000, 0.35)])
def test_both_estimators_have_the_exact_gradient_as_mean(estimator, samples, tolerance):
    y = torch.tensor([0.8, 0.3, -1.2], requires_grad=True)
    value = masked_expectation(
        lambda received: ((_A * received).sum() - _T) ** 2,
        y,
        _P,
        samples,
        torch.Generator().manual_seed(3),
        estimator,
        spread=0.5,
    )
    value.backward()
    assert y.grad is not None
    assert (y.grad - _exact_gradient(y.detach())).abs().max().item() < tolerance


def test_unknown_estimator():
    with pytest.raises(ConfigError, match="estimator='score'"):
        masked_expectation(torch.sum, torch.ones(2), 0.1, 4, torch.Generator(), "score")  # type: ignore[arg-type]


def test_laplace_bits_by_hand():
    # b = 1: P(0) = 1 - e^-1/2 = 0.393469 (1.3457 bits), P(+-1) = e^-1/2 (1 - e^-1) / 2 = 0.191700 (2.3831 bits).
    bits = laplace_bits(torch.tensor([0.0, 1.0, -1.0]), torch.tensor(1.0))
    assert bits.tolist() == pytest.approx([1.3457, 2.3831, 2.3831], abs=1e-4)


def test_training_bits_fall_where_latents_cluster():
    y = torch.zeros(1, 8, 16, 16)
    y[:, :, :4, :4] = torch.sign(torch.randn(8, 4, 4, generator=torch.Generator().manual_seed(0)))
    spread = y.reshape(1, 8, -1)[:, :, torch.randperm(256, generator=torch.Generator().manual_seed(1))].view_as(y)
    assert training_bits(y).item() < 0.8 * training_bits(spread).item()


def test_levels_and_dead_zone():
    lambdas = lambda_of(torch.arange(NUM_LEVELS))
    assert lambdas[[0, 4, 16]].tolist() == pytest.approx([32, 128, 8192])
    assert (lambdas[1:] > lambdas[:-1]).all()
    assert quantise_residual(torch.tensor([0.59, 0.61, -0.61, 1.7])).tolist() == [0, 1, -1, 2]


@pytest.mark.slow
def test_training_resumes_where_it_stopped(tmp_path):
    from safetensors.torch import load_file

    from grace.training import Settings, train

    def weights(name, *stops):
        for stop in stops:
            # steps is part of the schedule, so it stays; the run is cut short by its clock and by the checkpoints.
            train(Settings("pretrain", tmp_path / name, steps=6, num_procedural=6, save_every=stop))
        return load_file(tmp_path / name / "model.safetensors")

    whole = weights("whole", 6)
    again = weights("again", 3)
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_levels_count_about_alike():
    from grace.training import level_weights

    # R + lambda D of the bundled codec at the anchors, without loss: 0.06 to 1.9 (thirtyfold), here within a factor of three.
    losses = torch.tensor([0.061, 0.149, 0.346, 0.794, 1.882])
    lambdas = lambda_of(torch.tensor([0, 4, 8, 12, 16]))
    weighted = level_weights(lambdas, 0.5) * losses
    assert weighted.max() / weighted.min() < 3
    assert level_weights(lambdas, 0.0).tolist() == [1.0] * 5
    assert level_weights(torch.tensor([32.0, 512.0]), 0.5).tolist() == pytest.approx([4.0, 1.0])


def test_commands_refuse_nonsense(capsys):
    from grace.training import main

    nonsense = (
        ["joint", "out=/tmp/x"],
        ["pretrain", "steps"],
        ["dream", "out=/tmp/x"],
        ["pretrain", "out=/tmp/x", "rollout=6"],
        ["pretrain", "out=/tmp/x", "level_balance=2"],
        [],
    )
    for arguments in nonsense:
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
