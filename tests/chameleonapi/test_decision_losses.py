"""Decision semantics and losses: golden values, oracles, invariants."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chameleonapi.api import METHODS
from chameleonapi.decisions import DecisionSummary, TargetList, Threshold
from chameleonapi.losses import conventional_loss, decision_loss, interval_loss, region_loss
from chameleonapi.semantics import DecisionProcess, decide, incorrect_decision_rate, is_correct, output_mask
from common.errors import ConfigError

KINDS = [("true_false", None), ("multi_choice", "api_first"), ("multi_choice", "app_choice"), ("multi_select", None)]


def logits(scores: list[float] | torch.Tensor) -> torch.Tensor:
    return torch.logit(torch.as_tensor(scores, dtype=torch.float64))


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Worked by hand: theta 0.5, fewer labels than K so tau = 0.5, alpha 2, beta 1, margin 0, lambda 0. Label c is the only
# one of list c, so its score is m_c.
@pytest.mark.parametrize(
    ("kind", "order", "scores", "present", "expected"),
    [
        ("true_false", None, [0.3], [0], 0.598688),  # sigma(2 * (0.5 - 0.3))
        ("true_false", None, [0.3], [], 0.401312),  # sigma(2 * (0.3 - 0.5))
        ("multi_choice", "api_first", [0.7, 0.6], [1], 0.549834),  # sigma(2 * (max(0.5, 0.7) - 0.6))
        ("multi_choice", "api_first", [0.7, 0.6], [0], 0.450166),  # sigma(2 * (max(0.5, 0.6) - 0.7))
        ("multi_choice", "api_first", [0.7, 0.6], [], 0.598688),  # sigma(2 * (0.7 - 0.5))
        ("multi_choice", "app_choice", [0.7, 0.6], [1], 1.048854),  # sigma(-0.2) + sigma(0.4)
        ("multi_choice", "app_choice", [0.7, 0.6], [0], 0.401312),  # sigma(-0.4); the second list does not matter
        ("multi_choice", "app_choice", [0.7, 0.6], [], 1.148522),  # sigma(0.4) + sigma(0.2)
        ("multi_select", None, [0.7, 0.6], [0], 0.951146),  # sigma(-0.4) + sigma(0.2)
        ("multi_select", None, [0.7, 0.6], [], 1.148522),
        ("multi_select", None, [0.7, 0.6], [0, 1], sigma(-0.4) + sigma(-0.2)),
        ("multi_choice", "api_first", [0.7, 0.6], [0, 1], sigma(2 * (0.5 - 0.7))),
    ],
)
def test_loss_golden_values(kind, order, scores, present, expected):
    app = DecisionProcess.from_lists(kind, [[c] for c in range(len(scores))], len(scores), order)
    labels = torch.zeros(1, len(scores))
    labels[0, present] = 1
    value = decision_loss(app, logits([scores]), labels, theta=0.5, top_k=10)
    assert float(value) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
    ("score", "present", "expected"), [(0.3, 1, 4.087872), (0.55, 1, 2.810883), (0.9, 1, 0.182426), (0.3, 0, 0.377541)]
)
def test_loss_golden_values_with_weight_and_margin(score, present, expected):
    # 0.3 present: x = 0.5 - 0.3 + 0.1 = 0.3 > 0, so 5 * sigma(1.5) = 4.087872
    app = DecisionProcess.from_lists("true_false", [[0]], 1)
    value = decision_loss(app, logits([[score]]), torch.tensor([[present]]), alpha=5, beta=5, margin=0.1)
    assert float(value) == pytest.approx(expected, abs=5e-7)


def test_lambda_takes_weight_off_inputs_without_list():
    app = DecisionProcess.from_lists("multi_choice", [[0], [1]], 2, "api_first")
    value = decision_loss(app, logits([[0.7, 0.6]]), torch.zeros(1, 2), lam=0.5)
    assert float(value) == pytest.approx(0.5 * sigma(0.4), abs=1e-9)


def test_output_limit_raises_the_threshold():
    # Scores 0.9 0.8 0.7 0.6, K = 2: a label of the list must beat the third best, 0.7, not theta.
    app = DecisionProcess.from_lists("true_false", [[3]], 4)
    value = decision_loss(app, logits([[0.9, 0.8, 0.7, 0.6]]), torch.tensor([[0, 0, 0, 1]]), top_k=2)
    assert float(value) == pytest.approx(sigma(2 * (0.7 - 0.6)), abs=1e-9)


def test_own_threshold_replaces_theta():
    summary = DecisionSummary(
        "a", "f", "true_false", lists=(TargetList(0, ("x",), threshold=Threshold(">", 80.0)),), scale=100.0
    )
    app = DecisionProcess.from_summary(summary, ["x"])
    value = decision_loss(app, logits([[0.7]]), torch.tensor([[1]]))
    assert float(value) == pytest.approx(sigma(2 * (0.8 - 0.7)), abs=1e-7)
    assert not decide(app, torch.tensor([[0.8]])).any()
    assert decide(app, torch.tensor([[0.81]])).all()


def naive_loss(kind, order, members, scores, present, alpha, beta, margin, lam, theta, top_k):
    """The table of the paper, one input at a time, with plain loops."""
    tau = theta
    if top_k is not None and top_k < len(scores):
        tau = max(theta, sorted(scores, reverse=True)[top_k])
    m = [max(scores[i] for i in one) for one in members]

    def rho(x):
        x += margin
        return (beta if x > 0 else 1) * sigma(alpha * x)

    truly = {c for c, one in enumerate(members) if any(i in present for i in one)}
    if kind in ("true_false", "multi_select"):
        return sum(rho(tau - m[c]) if c in truly else rho(m[c] - tau) for c in range(len(m)))
    if order == "app_choice":
        if not truly:
            return sum(rho(m[c] - tau) for c in range(len(m)))
        star = min(truly)
        return rho(tau - m[star]) + sum(rho(m[c] - tau) for c in range(star))
    if not truly:
        return (1 - lam) * rho(max(m) - tau)
    wrong = max([tau, *(m[c] for c in range(len(m)) if c not in truly)])
    return rho(wrong - max(m[c] for c in truly))


@st.composite
def cases(draw, num_labels=7):
    kind, order = draw(st.sampled_from(KINDS))
    count = 1 if kind == "true_false" else draw(st.integers(1, 3))
    members = [sorted(draw(st.sets(st.integers(0, num_labels - 1), min_size=1, max_size=3))) for _ in range(count)]
    values = draw(st.lists(st.integers(1, 98), min_size=num_labels, max_size=num_labels, unique=True))
    present = draw(st.sets(st.integers(0, num_labels - 1), max_size=4))
    return kind, order, members, [v / 99 for v in values], present


@settings(max_examples=150, deadline=None)
@given(
    cases(),
    st.sampled_from([1.0, 2.0, 5.0]),
    st.sampled_from([1.0, 3.0]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([None, 2, 4]),
)
def test_vectorised_loss_equals_loops(case, alpha, beta, margin, top_k):
    kind, order, members, scores, present = case
    app = DecisionProcess.from_lists(kind, members, len(scores), order)
    labels = torch.tensor([[int(i in present) for i in range(len(scores))]])
    value = decision_loss(app, logits([scores]), labels, alpha=alpha, beta=beta, margin=margin, lam=0.25, top_k=top_k)
    expected = naive_loss(kind, order, members, scores, present, alpha, beta, margin, 0.25, 0.5, top_k)
    assert float(value) == pytest.approx(expected, abs=1e-9)
    bound = len(members) if kind == "multi_select" or order == "app_choice" else 1
    assert 0 < float(value) < beta * bound


@settings(max_examples=60, deadline=None)
@given(st.lists(cases(), min_size=2, max_size=5))
def test_batch_is_the_mean_of_singles(several):
    kind, order, members, _, _ = several[0]
    app = DecisionProcess.from_lists(kind, members, 7, order)
    scores = torch.tensor([c[3] for c in several], dtype=torch.float64)
    labels = torch.tensor([[int(i in c[4]) for i in range(7)] for c in several])
    whole = decision_loss(app, logits(scores), labels, top_k=3)
    singles = [decision_loss(app, logits(scores[i : i + 1]), labels[i : i + 1], top_k=3) for i in range(len(several))]
    assert float(whole) == pytest.approx(float(torch.stack(singles).mean()), abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_scores_that_do_not_matter_change_nothing(case, random):
    """Permuting scores inside a list of its own, or of labels outside all lists below tau, changes neither decision nor loss."""
    kind, order, members, scores, present = case
    app = DecisionProcess.from_lists(kind, members, len(scores), order)
    labels = torch.tensor([[int(i in present) for i in range(len(scores))]])
    outside = [i for i in range(len(scores)) if not any(i in m for m in members) and scores[i] < 0.5]
    changed = list(scores)
    for i in outside:
        changed[i] = random.uniform(0.01, 0.49)
    alone = [i for i in members[0] if sum(i in m for m in members) == 1]
    if len(alone) == len(members[0]):
        shuffled = [changed[i] for i in alone]
        random.shuffle(shuffled)
        for i, value in zip(alone, shuffled, strict=True):
            changed[i] = value
    before, after = torch.tensor([scores]), torch.tensor([changed])
    assert torch.equal(decide(app, before), decide(app, after))
    assert float(decision_loss(app, logits([scores]), labels)) == pytest.approx(
        float(decision_loss(app, logits([changed]), labels)), abs=1e-9
    )


@settings(max_examples=80, deadline=None)
@given(cases(), st.integers(0, 6), st.floats(0.01, 0.3))
def test_loss_is_monotone(case, index, step):
    """A higher score of a list that should win never costs; of a list that should not, it never pays."""
    kind, order, members, scores, present = case
    app = DecisionProcess.from_lists(kind, members, len(scores), order)
    lists = [c for c, m in enumerate(members) if index in m]
    truly = {c for c, m in enumerate(members) if any(i in present for i in m)}
    if not lists or len({c in truly for c in lists}) != 1:
        return
    raised = [*scores]
    raised[index] = min(raised[index] + step, 0.999)
    labels = torch.tensor([[int(i in present) for i in range(len(scores))]])
    before, after = (float(decision_loss(app, logits([s]), labels, beta=3.0)) for s in (scores, raised))
    if lists[0] not in truly:
        assert after >= before - 1e-12
    elif order != "app_choice" or lists == [min(truly)]:
        assert after <= before + 1e-12


@settings(max_examples=40, deadline=None)
@given(cases())
def test_gradient_matches_finite_differences(case):
    kind, order, members, scores, present = case
    app = DecisionProcess.from_lists(kind, members, len(scores), order)
    labels = torch.tensor([[int(i in present) for i in range(len(scores))]])
    z = logits([scores]).requires_grad_()
    decision_loss(app, z, labels).backward()
    step = 1e-6
    for i in range(len(scores)):
        up, down = z.detach().clone(), z.detach().clone()
        up[0, i] += step
        down[0, i] -= step
        slope = (decision_loss(app, up, labels) - decision_loss(app, down, labels)) / (2 * step)
        # No score is a multiple of the others or of tau, so nothing lies on a kink.
        assert float(z.grad[0, i]) == pytest.approx(float(slope), abs=1e-6)
    outside = [i for i in range(len(scores)) if not any(i in m for m in members)]
    assert all(float(z.grad[0, i]) == 0 for i in outside)


def test_the_output_limit_is_constant_for_the_gradient():
    app = DecisionProcess.from_lists("true_false", [[3]], 4)
    z = logits([[0.9, 0.8, 0.7, 0.6]]).requires_grad_()
    decision_loss(app, z, torch.tensor([[0, 0, 0, 1]]), top_k=2).backward()
    assert float(z.grad[0, 2]) == 0
    assert float(z.grad[0, 3]) < 0


@settings(max_examples=60, deadline=None)
@given(cases())
def test_sharp_loss_counts_violations(case):
    """As alpha grows the loss of the API-order and multi-select rows becomes the number of violated conditions."""
    kind, order, members, scores, present = case
    if order == "app_choice":
        return
    app = DecisionProcess.from_lists(kind, members, len(scores), order)
    labels = torch.tensor([[int(i in present) for i in range(len(scores))]])
    value = float(decision_loss(app, logits([scores]), labels, alpha=1e6))
    correct = bool(is_correct(app, decide(app, torch.tensor([scores], dtype=torch.float64)), labels)[0])
    assert value == pytest.approx(round(value), abs=1e-6)
    assert (round(value) == 0) == correct


def test_relations_between_the_kinds():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(50, 6, generator=generator, dtype=torch.float64) * 0.98 + 0.01
    labels = torch.rand(50, 6, generator=generator) < 0.3
    one = [[0, 2]]
    tf = DecisionProcess.from_lists("true_false", one, 6)
    for order in ("api_first", "app_choice"):
        mc = DecisionProcess.from_lists("multi_choice", one, 6, order)
        assert torch.allclose(decision_loss(tf, logits(scores), labels), decision_loss(mc, logits(scores), labels))
    many = [[0, 2], [1], [4, 5]]
    ms = decision_loss(DecisionProcess.from_lists("multi_select", many, 6), logits(scores), labels)
    parts = [decision_loss(DecisionProcess.from_lists("true_false", [m], 6), logits(scores), labels) for m in many]
    assert torch.allclose(ms, torch.stack(parts).sum())
    low, high = (decision_loss(tf, logits(scores).to(d), labels) for d in (torch.float32, torch.float64))
    assert float(low) == pytest.approx(float(high), abs=1e-5)


def test_smooth_maximum_approaches_the_maximum_and_spreads_the_gradient():
    app = DecisionProcess.from_lists("true_false", [[0, 1, 2]], 3)
    z = logits([[0.6, 0.55, 0.2]]).requires_grad_()
    exact = decision_loss(app, z, torch.tensor([[1, 0, 0]]))
    cold = decision_loss(app, z, torch.tensor([[1, 0, 0]]), smooth_max=1e-3)
    assert float(cold.detach()) == pytest.approx(float(exact.detach()), abs=1e-6)
    warm = decision_loss(app, z, torch.tensor([[1, 0, 0]]), smooth_max=0.1)
    warm.backward()
    assert (z.grad[0] < 0).all()


@pytest.mark.parametrize(("kind", "order"), [*KINDS, ("multi_choice", "api_last")])
def test_batch_decisions_equal_the_reference(kind, order):
    """The vectorised decision equals `DecisionSummary.decide` on every order and subset of up to three labels of six."""
    vocabulary = ["a", "b", "c", "d", "e", "f"]
    lists = [("a", "b")] if kind == "true_false" else [("a", "b"), ("c",), ("b", "d")]
    thresholds = [None, Threshold(">", 0.7), Threshold(">=", 0.6)]
    summary = DecisionSummary(
        "api", "field", kind, order, tuple(TargetList(i, one, threshold=thresholds[i]) for i, one in enumerate(lists))
    )  # fmt: skip
    app = DecisionProcess.from_summary(summary, vocabulary)
    for size in range(4):
        for chosen in itertools.permutations(vocabulary, size):
            for top in (0.9, 0.65):
                output = [(label, round(top - 0.05 * i, 4)) for i, label in enumerate(chosen)]
                scores = torch.zeros(1, 6, dtype=torch.float64)
                for label, score in output:
                    scores[0, vocabulary.index(label)] = score
                taken = tuple(decide(app, scores, theta=0.5)[0].nonzero().flatten().tolist())
                expected = summary.decide([(label, s) for label, s in output if s > 0.5])
                assert taken == expected, (output, taken, expected)
                for truth in itertools.combinations(vocabulary, 2):
                    labels = torch.tensor([[int(v in truth) for v in vocabulary]])
                    agreed = summary.is_correct([(label, s) for label, s in output if s > 0.5], truth)
                    assert bool(is_correct(app, decide(app, scores), labels)[0]) == agreed


def test_threshold_is_strict_and_ties_go_to_the_first_label():
    scores = torch.tensor([[0.5, 0.8, 0.8, 0.8]])
    assert output_mask(scores, 0.5, None).tolist() == [[False, True, True, True]]
    assert output_mask(scores, 0.5, 2).tolist() == [[False, True, True, False]]


def test_window_and_limit_cut_the_output():
    app = DecisionProcess.from_lists("true_false", [[1]], 3, window=1)
    assert not decide(app, torch.tensor([[0.9, 0.8, 0.1]])).any()
    app = DecisionProcess.from_lists("true_false", [[1]], 3)
    assert decide(app, torch.tensor([[0.9, 0.8, 0.1]])).all()
    assert not decide(app, torch.tensor([[0.9, 0.8, 0.1]]), top_k=1).any()


def test_constant_predictor_has_the_prior_error():
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.random((400, 3)) < 0.3)
    app = DecisionProcess.from_lists("true_false", [[0, 1]], 3)
    assert incorrect_decision_rate(app, torch.zeros(400, 3), labels) == pytest.approx(
        float((labels[:, 0] | labels[:, 1]).double().mean())
    )
    with pytest.raises(ConfigError, match="no input"):
        incorrect_decision_rate(app, torch.zeros(0, 3), labels[:0])


def test_own_threshold_keeps_a_list_out_of_the_race():
    # List 1 scores higher but does not reach its own threshold: the decision is right, the loss sees no violation.
    lists = (TargetList(0, ("a",)), TargetList(1, ("b",), threshold=Threshold(">", 0.9)))
    app = DecisionProcess.from_summary(DecisionSummary("x", "y", "multi_choice", "api_first", lists), ["a", "b"])
    scores, labels = torch.tensor([[0.6, 0.8]], dtype=torch.float64), torch.tensor([[1, 0]])
    assert bool(is_correct(app, decide(app, scores), labels)[0])
    assert float(decision_loss(app, logits(scores), labels, alpha=1e6)) == pytest.approx(0, abs=1e-6)
    scores = torch.tensor([[0.6, 0.95]], dtype=torch.float64)
    assert not bool(is_correct(app, decide(app, scores), labels)[0])
    assert float(decision_loss(app, logits(scores), labels, alpha=1e6)) == pytest.approx(1, abs=1e-6)


def test_interval_loss():
    inf = float("inf")
    value = torch.tensor([0.3, -0.5, 0.9], dtype=torch.float64)
    low, high = torch.tensor([0.25, -inf, -0.25]), torch.tensor([inf, -0.25, 0.25])
    expected = [sigma(2 * (0.25 - 0.3)), sigma(2 * (-0.5 + 0.25)), sigma(2 * (-0.25 - 0.9)) + sigma(2 * (0.9 - 0.25))]
    assert float(interval_loss(value, low, high)) == pytest.approx(sum(expected) / 3, abs=1e-7)


def test_region_loss():
    scores = torch.tensor([[0.7, 0.2, 0.6], [0.4, 0.9, 0.3]], dtype=torch.float64)
    members = torch.tensor([True, False, False])
    value = region_loss(torch.logit(scores), members, torch.tensor([True, False]))
    # matched: max(0.5, 0.6) - 0.7; other: max(0.5, 0.4) - 0.9
    assert float(value) == pytest.approx((sigma(2 * -0.1) + sigma(2 * -0.4)) / 2, abs=1e-9)


def test_conventional_loss_ignores_easy_negatives():
    z = logits([[0.04, 0.9]])
    # the negative at 0.04 < 0.05 costs nothing; the positive costs -log 0.9
    assert float(conventional_loss(z, torch.tensor([[0, 1]]))) == pytest.approx(-math.log(0.9), abs=1e-6)
    assert float(conventional_loss(z, torch.tensor([[0, 0]]))) == pytest.approx(-math.log(0.15), abs=1e-6)


def test_minimising_the_loss_reaches_zero_wrong_decisions():
    """Free scores for eight inputs: gradient descent on the loss finds scores with the right decisions, for every kind."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.rand(8, 6, generator=generator) < 0.4
    for kind, order in KINDS:
        lists = [[0, 1]] if kind == "true_false" else [[0, 1], [2], [3, 4]]
        app = DecisionProcess.from_lists(kind, lists, 6, order)
        z = torch.randn(8, 6, generator=generator).requires_grad_()
        optimiser = torch.optim.Adam([z], lr=0.2)
        for _ in range(120):
            optimiser.zero_grad()
            METHODS.create("chameleonapi", alpha=5.0, margin=0.1).loss(app, z, labels).backward()
            optimiser.step()
        assert incorrect_decision_rate(app, torch.sigmoid(z.detach()), labels) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decision_loss(_tf(), torch.zeros(2, 3), torch.zeros(2, 3), alpha=0), "alpha"),
        (lambda: decision_loss(_tf(), torch.zeros(2, 3), torch.zeros(2, 3), lam=1), "lam"),
        (lambda: decision_loss(_tf(), torch.zeros(2, 4), torch.zeros(2, 4)), "do not fit"),
        (lambda: decision_loss(_tf(), torch.zeros(0, 3), torch.zeros(0, 3)), "empty"),
        (lambda: decision_loss(_tf(), torch.zeros(1, 3), torch.zeros(1, 3), top_k=0), "top_k"),
        (lambda: decision_loss(_tf(), torch.zeros(1, 3), torch.zeros(1, 3), smooth_max=0), "smooth_max"),
        (lambda: DecisionProcess.from_lists("true_false", [[0], [1]], 3), "lists"),
        (lambda: DecisionProcess.from_lists("multi_choice", [[0], [1]], 3), "order"),
        (lambda: DecisionProcess.from_lists("true_false", [[5]], 3), "out of range"),
        (lambda: DecisionProcess.from_lists("true_false", [[]], 3), "no label"),
        (lambda: DecisionProcess.from_lists("numeric", [[0]], 3), "numeric"),
        (lambda: METHODS.create("chameleonapi", alfa=1.0), "alpha"),
        (lambda: METHODS.get("chamaeleonapi"), "Did you mean"),
    ],
)
def test_errors_say_what_is_allowed(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def _tf() -> DecisionProcess:
    return DecisionProcess.from_lists("true_false", [[0]], 3)


def test_last_match_wins_and_conjunctions_have_no_loss():
    app = DecisionProcess.from_lists("multi_choice", [[0], [1]], 2, "api_last")
    with pytest.raises(ConfigError, match="api_last"):
        decision_loss(app, torch.zeros(1, 2), torch.zeros(1, 2))
    both = TargetList(0, ("a", "b"), clauses=(("a",), ("b",)))
    with pytest.raises(ConfigError, match="conjunction"):
        DecisionProcess.from_summary(DecisionSummary("x", "y", "true_false", lists=(both,)), ["a", "b"])


@pytest.mark.parametrize("name", [name for name in METHODS.names() if hasattr(METHODS.get(name), "loss")])
def test_every_loss_design_keeps_the_contract(name):
    """Deterministic, differentiable, changes no argument."""
    app = DecisionProcess.from_lists("multi_select", [[0], [1, 2]], 4)
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.randint(0, 2, (6, 4), generator=torch.Generator().manual_seed(1))
    z0, labels0, members0 = z.detach().clone(), labels.clone(), app.members_LC.clone()
    design = METHODS.create(name)
    first, second = design.loss(app, z, labels), design.loss(app, z, labels)
    assert first.shape == ()
    assert torch.equal(first, second)
    first.backward()
    assert torch.isfinite(z.grad).all()
    assert torch.equal(z.detach(), z0)
    assert torch.equal(labels, labels0)
    assert torch.equal(app.members_LC, members0)
