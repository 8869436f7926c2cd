"""Fitting a model to an application: sample selection, two stages, choice on validation.

    pool ─► selection (as many inputs per list as without any) ─► stage 1: conventional loss, all weights
                                                                    └─► stage 2: the method's loss, all weights, from stage 1
                          ─► each epoch's model, and each threshold allowed, by its incorrect decision rate on validation

Source: ChameleonAPI, training of customized models.
"""

# Shape legend: N inputs, C labels, L lists.

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chameleonapi.decisions import DecisionSummary
from chameleonapi.losses import conventional_loss
from chameleonapi.networks import Network
from chameleonapi.semantics import DecisionCurve, DecisionProcess, agrees, decide, is_correct
from chameleonapi.tasks.task import Examples, Task
from common.errors import ConfigError

TOP_K = {"true_false": 10, "multi_choice": 10, "multi_select": 15}
THETA = 0.5
THETA_GRID = tuple(round(float(x), 4) for x in np.linspace(0.02, 0.98, 49))
"""Thresholds among which every method's is chosen."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast applications are trained for; the same for all applications.

    # DEVIATION chameleonapi-5: higher learning rates and smaller batches' share of steps, as networks and data are small.

    Attributes:
        stage1_epochs, stage2_epochs: passes over the application's training examples.
        batch: inputs per step.
        stage1_rate, stage2_rate: Adam's learning rates at the start of a stage; they fall to a tenth along a cosine.
        weight_decay: on weight matrices, not on biases and other vectors.
    """

    stage1_epochs: int = 3
    stage2_epochs: int = 3
    batch: int = 50
    stage1_rate: float = 1e-3
    stage2_rate: float = 2e-3
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        if self.stage1_epochs < 0 or self.stage2_epochs < 1 or self.batch < 1:
            raise ConfigError(
                f"stage1_epochs={self.stage1_epochs}, stage2_epochs={self.stage2_epochs}, batch={self.batch} are not allowed: "
                "use at least 0, 1 and 1."
            )
        if not self.stage1_rate > 0 or not self.stage2_rate > 0 or self.weight_decay < 0:
            raise ConfigError(
                f"stage1_rate={self.stage1_rate}, stage2_rate={self.stage2_rate}, weight_decay={self.weight_decay} are not "
                "allowed: rates are > 0, the decay >= 0."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Provider:
    """What the provider has: models for everybody, and labelled examples.

    Attributes:
        task: labels and examples.
        generic: the model behind the API today.
        others: generic models of other providers.
        categorized: category -> a model of that category's labels.
        pool: the examples that the generic model was trained on; applications' training examples are drawn from it.
    """

    task: Task
    generic: Network
    others: tuple[Network, ...]
    categorized: Mapping[str, Network]
    pool: Examples


@dataclasses.dataclass(frozen=True, eq=False)
class AppData:
    """One application as a method sees it.

    Attributes:
        name: of the application.
        summary: its decision, by the parser; None where the process was given directly.
        process: the same, compiled over the task's labels.
        train, validation: examples, balanced over its lists and "none".
        theta: threshold at which the API will serve it.
        top_k: labels that the API returns at most (the application's request included).
        schedule: how long to train.
        stage1: the networks of stage 1 where they are known already; every trained method starts from the same.
    """

    name: str
    summary: DecisionSummary | None
    process: DecisionProcess
    train: Examples
    validation: Examples
    theta: float = THETA
    top_k: int = 10
    schedule: Schedule = Schedule()
    stage1: tuple[Network, ...] = ()

    def num_stage2_steps(self) -> int:
        """Steps of stage 2: what every trained method gets."""
        return self.schedule.stage2_epochs * math.ceil(len(self.train) / self.schedule.batch)


def request_limits(summary: DecisionSummary, theta: float = THETA, top_k: int | None = None) -> tuple[float, int]:
    """Threshold and output limit that apply to an application: the provider's, narrowed by what it asks for."""
    limit = top_k or TOP_K.get(summary.kind, 10)
    for name in ("max_results", "MaxLabels", "maxResults"):
        asked = summary.request.get(name)
        if isinstance(asked, int) and asked > 0:
            limit = min(limit, asked)
    least = summary.request.get("MinConfidence", 0)
    return max(theta, float(least) / 100 if isinstance(least, int | float) else 0.0), limit


def select(process: DecisionProcess, pool: Examples, size: int, rng: np.random.Generator) -> Tensor:
    """Indices of examples for one application: as many with each list present as without any.

    Args:
        process: the application's.
        pool: examples at natural prevalence.
        size: wanted; each of the L + 1 groups gets size / (L + 1), or all that there are if they are fewer.
        rng: decides which.

    Returns:
        Distinct indices into the pool, in random order. An example on which several lists are present counts for one of them,
        at random.

    Raises:
        ConfigError: a list is present in no example of the pool, or every example has one.

    Source: ChameleonAPI, sample selection (for each list the same number, and as many of none).
    """
    present_NL = process.present(pool.labels_NC).numpy()
    groups = [np.flatnonzero(present_NL[:, c]) for c in range(process.num_lists)]
    groups.append(np.flatnonzero(~present_NL.any(1)))
    empty = [c for c, group in enumerate(groups) if not len(group)]
    if empty:
        which = "no list" if empty[0] == process.num_lists else f"list {empty[0]}"
        raise ConfigError(f"{which} is present in none of the {len(pool)} examples: there is nothing to learn it from.")
    quota = max(1, size // len(groups))
    chosen: set[int] = set()
    # Scarce groups first: otherwise a common list could use up the examples that a rare one shares with it.
    for group in sorted(groups, key=len):
        free = np.array([i for i in rng.permutation(group).tolist() if i not in chosen][:quota], int)
        chosen.update(free.tolist())
    return torch.from_numpy(rng.permutation(np.array(sorted(chosen))))


Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits_NC, labels_NC) to a scalar."""


def fit(
    network: Network,
    examples: Examples,
    loss: Loss,
    epochs: int,
    rate: float,
    schedule: Schedule,
    rng: np.random.Generator,
) -> list[Network]:
    """Train a copy of a network; all weights move.

    Args:
        network: where to start; not changed.
        examples, loss: what to learn.
        epochs, rate: passes and Adam's learning rate at the start, which falls to a tenth along a cosine.
        schedule: batch size and weight decay.
        rng: order of the examples.

    Returns:
        The network after each epoch, in evaluation mode.
    """
    trained = network.copy().train()
    matrices = [p for p in trained.parameters() if p.ndim > 1]
    vectors = [p for p in trained.parameters() if p.ndim <= 1]
    optimiser = torch.optim.Adam(
        [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}], rate
    )
    labels_NC = examples.labels_NC.float()
    total = max(1, epochs * math.ceil(len(examples) / schedule.batch))
    out, step = [], 0
    for _ in range(epochs):
        for rows in torch.from_numpy(rng.permutation(len(examples))).split(schedule.batch):
            for group in optimiser.param_groups:
                group["lr"] = rate * (0.1 + 0.9 * (1 + math.cos(math.pi * step / total)) / 2)
            step += 1
            if len(rows) < 2 and len(examples) > 1:
                continue  # batch normalisation cannot learn from a single input
            value = loss(trained(examples.inputs[rows]), labels_NC[rows])
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        out.append(trained.copy().eval())
    return out


def stage_one(app: AppData, provider: Provider, rng: np.random.Generator) -> list[Network]:
    """The generic model after each epoch of conventional training on the application's examples.

    Source: ChameleonAPI, stage 1 (the "basic" model).
    """
    if app.stage1:
        return list(app.stage1)
    s = app.schedule
    return fit(provider.generic, app.train, conventional_loss, s.stage1_epochs, s.stage1_rate, s, rng)


def stage_two(
    app: AppData, provider: Provider, loss: Loss, rng: np.random.Generator, start: Network | None = None
) -> list[Network]:
    """The network after each epoch of stage 2: the given loss, from the last stage-1 network (or `start`)."""
    s = app.schedule
    if start is None:
        first = stage_one(app, provider, rng)
        start = first[-1] if first else provider.generic
    return fit(start, app.train, loss, s.stage2_epochs, s.stage2_rate, s, rng)


def customize(method: Any, app: AppData, provider: Provider, rng: np.random.Generator) -> list[Any]:
    """Candidates of a method for one application.

    Args:
        method: an entry of METHODS: one with `customize`, or a loss design.
        app, provider: what it works with.
        rng: its randomness.

    Raises:
        ConfigError: the method has neither `customize` nor `loss`, or returns no candidate.
    """
    if hasattr(method, "customize"):
        found = list(method.customize(app, provider, rng))
    elif hasattr(method, "loss"):
        own = method.at_theta(app.theta, app.top_k) if hasattr(method, "at_theta") else method
        found = list(stage_two(app, provider, functools.partial(own.loss, app.process), rng))
    else:
        raise ConfigError(f"method {type(method).__name__} has neither `customize` nor `loss`.")
    if not found:
        raise ConfigError(f"method {type(method).__name__} returned no model for application {app.name!r}.")
    return found


# -------------------------------------------------------------------------------------------------- choice on validation


def wrong_decisions(
    process: DecisionProcess, scores_NC: Tensor, labels_NC: Tensor, theta: float, top_k: int | None
) -> Tensor:
    """Which decisions are wrong, (N,) bool."""
    return ~is_correct(process, decide(process, scores_NC, theta, top_k), labels_NC)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen on validation: which candidate, which threshold, and its error rate there."""

    candidate: int
    theta: float
    validation_idr: float


def choose(
    process: DecisionProcess,
    scores: Sequence[Tensor | DecisionCurve],
    labels_NC: Tensor,
    thetas: Sequence[float],
    top_k: int | None,
    weights_N: Tensor | None = None,
) -> Choice:
    """The candidate and threshold with the lowest incorrect decision rate.

    Args:
        process: the application's.
        scores: of each candidate on the validation examples, (N, C), or its decision curve over them.
        labels_NC: their true labels.
        thetas: thresholds allowed; one for a fixed threshold.
        top_k: output limit.
        weights_N: how much each example counts; None for all alike.

    Returns:
        Ties go to the earlier candidate, then to the threshold in the middle of the tied ones.
    """
    weights = torch.ones(len(labels_NC), dtype=torch.float64) if weights_N is None else weights_N.double()
    present_NL = process.present(labels_NC)
    best: Choice | None = None
    for candidate, own in enumerate(scores):
        curve = own if isinstance(own, DecisionCurve) else DecisionCurve(process, own, top_k)
        rates = [
            float((~agrees(process, curve.decide(theta), present_NL) * weights).sum() / weights.sum())
            for theta in thetas
        ]
        lowest = min(rates)
        if best is None or lowest < best.validation_idr - 1e-12:
            tied = [theta for theta, rate in zip(thetas, rates, strict=True) if rate <= lowest + 1e-12]
            best = Choice(candidate, tied[len(tied) // 2], lowest)
    assert best is not None
    return best


def micro_f1_threshold(scores_NC: Tensor, labels_NC: Tensor, grid: Sequence[float] = THETA_GRID) -> float:
    """The provider-wide threshold: the one at which a model's labels have the best F1 over all labels and inputs.

    This is how a provider that knows no application would set it, on examples at natural prevalence.
    """
    truth = labels_NC.bool()

    def f1(theta: float) -> float:
        said = scores_NC > theta
        hits = float((said & truth).sum())
        return 2 * hits / max(1.0, float(said.sum() + truth.sum()))

    return max(grid, key=f1)
