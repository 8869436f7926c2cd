"""The paper's method, its baselines and ours, by the names in the paper's legend.

Loss designs are trained by the harness: stage 1 with the conventional loss, stage 2 with theirs. The others return models.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from chameleonapi.api import METHODS, Scorer
from chameleonapi.losses import conventional_loss, decision_loss
from chameleonapi.networks import Network
from chameleonapi.semantics import DecisionCurve, DecisionProcess, agrees
from chameleonapi.training import AppData, Provider, stage_one
from common.errors import ConfigError


@METHODS.add("best_of_all", label="best of all APIs", color="#7F7F7F", marker="v")
@dataclass(frozen=True)
class BestOfAll:
    """The best of several providers' generic models for each application, chosen on validation.

    # DEVIATION chameleonapi-6: generic models of our own in place of commercial APIs, chosen on validation, not on the test set.
    """

    def customize(self, app: AppData, provider: Provider, rng: np.random.Generator) -> Sequence[Scorer]:
        """All generic models; the harness chooses."""
        return [provider.generic, *provider.others]


@METHODS.add("generic", label="generic", color="#000000", marker="s")
@dataclass(frozen=True)
class Generic:
    """The provider's model for everybody."""

    def customize(self, app: AppData, provider: Provider, rng: np.random.Generator) -> Sequence[Scorer]:
        """The generic model."""
        return [provider.generic]


@METHODS.add("categorized", label="categorized", color="#8C6D31", marker="^")
@dataclass(frozen=True)
class Categorized:
    """One specialised model per category of labels; an application gets those that hold its labels, merged by score.

    Attributes:
        most: an application whose labels lie in more categories than this gets the generic model.
    """

    most: int = 2

    def customize(self, app: AppData, provider: Provider, rng: np.random.Generator) -> Sequence[Scorer]:
        """The merged models, or the generic one."""
        wanted = {provider.task.labels[i] for i in torch.nonzero(app.process.members_LC.any(0)).flatten().tolist()}
        needed = [name for name, own in provider.task.categories.items() if wanted & set(own)]
        covered = {label for name in needed for label in provider.task.categories[name]}
        if not wanted <= covered or len(needed) > self.most or any(name not in provider.categorized for name in needed):
            return [provider.generic]
        return [Merged([provider.categorized[name] for name in needed], provider.task.labels)]


@dataclass(frozen=True)
class Merged:
    """Several models' outputs side by side; a label that none of them has scores 0."""

    networks: Sequence[Network]
    labels: tuple[str, ...]

    def scores(self, inputs: Tensor) -> Tensor:
        """Scores (N, C); the best of the models that have a label."""
        out_NC = torch.zeros(inputs.shape[0], len(self.labels))
        for network in self.networks:
            columns = [self.labels.index(label) for label in network.labels]
            out_NC[:, columns] = torch.maximum(out_NC[:, columns], network.scores(inputs))
        return out_NC


@METHODS.add("chameleonapi_basic", label="ChameleonAPI_basic", color="#56B4E9", marker="D")
@dataclass(frozen=True)
class Basic:
    """The generic model fine-tuned on the application's examples with the conventional loss: stage 1 alone."""

    def customize(self, app: AppData, provider: Provider, rng: np.random.Generator) -> Sequence[Scorer]:
        """The network after each epoch of stage 1."""
        return stage_one(app, provider, rng) or [provider.generic]


@METHODS.add("basic_equal_steps", label="basic, equal steps", color="#0072B2", marker="P")
@dataclass(frozen=True)
class ConventionalLoss:
    """The conventional multi-label loss in both stages: as many steps as ChameleonAPI, without looking at the application."""

    negative_clip: float = 0.05

    def loss(self, app: DecisionProcess, logits_NC: Tensor, labels_NC: Tensor) -> Tensor:
        """Mean binary cross entropy of a batch, a scalar."""
        return conventional_loss(logits_NC, labels_NC, self.negative_clip)


@METHODS.add("threshold_only", label="generic, thresholds per list", color="#CC79A7", marker="X")
@dataclass(frozen=True)
class ThresholdOnly:
    """The generic model with a threshold for each list, tuned on validation; nothing is trained (a control of ours).

    Scores of a list's labels are shifted so that its threshold lies at the API's.

    Attributes:
        rounds: passes over the lists.
    """

    rounds: int = 3
    uses_theta: ClassVar[bool] = True

    def customize(self, app: AppData, provider: Provider, rng: np.random.Generator) -> Sequence[Scorer]:
        """The generic model with shifted scores."""
        scores_NC = provider.generic.scores(app.validation.inputs)
        shifts_L = np.zeros(app.process.num_lists)
        grid = np.linspace(-4.5, 4.5, 37)
        present_NL = app.process.present(app.validation.labels_NC)

        def idr(shifts: np.ndarray) -> float:
            shifted = shift_scores(scores_NC, app.process, shifts)
            taken_NL = DecisionCurve(app.process, shifted, app.top_k).decide(app.theta)
            return float((~agrees(app.process, taken_NL, present_NL)).double().mean())

        for _ in range(self.rounds):
            before = shifts_L.copy()
            for row in range(len(shifts_L)):
                tried = []
                for value in grid:
                    shifts_L[row] = value
                    tried.append(idr(shifts_L))
                tied = grid[np.array(tried) <= min(tried) + 1e-12]
                shifts_L[row] = tied[np.abs(tied).argmin()]
            if (shifts_L == before).all():
                break
        return [Shifted(provider.generic, app.process, tuple(shifts_L.tolist()))]


def shift_scores(scores_NC: Tensor, process: DecisionProcess, shifts_L: Sequence[float] | np.ndarray) -> Tensor:
    """Scores whose logits are raised by their list's shift (the first of a label's lists); other labels stay."""
    shifts = torch.as_tensor(np.asarray(shifts_L), dtype=scores_NC.dtype)
    first_C = process.members_LC.to(torch.int8).argmax(0)
    raise_C = torch.where(process.members_LC.any(0), shifts[first_C], torch.zeros(()))
    return torch.sigmoid(torch.logit(scores_NC.clamp(1e-7, 1 - 1e-7)) + raise_C)


@dataclass(frozen=True)
class Shifted:
    """A model with shifted scores."""

    network: Network
    process: DecisionProcess
    shifts_L: tuple[float, ...]

    def scores(self, inputs: Tensor) -> Tensor:
        """Scores (N, C)."""
        return shift_scores(self.network.scores(inputs), self.process, self.shifts_L)


@METHODS.add("one_vs_rest", label="one-vs-rest heads", color="#009E73", marker="<")
@dataclass(frozen=True)
class OneVsRest:
    """A logistic head for each list and one for "none" on the generic model's frozen features (a control of ours).

    Each list answers under the name of one of its labels, so the application's code runs unchanged.

    Attributes:
        strengths: inverse regularisation strengths; the harness chooses on validation.
    """

    strengths: tuple[float, ...] = (0.01, 0.1, 1.0)
    uses_theta: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.strengths or min(self.strengths) <= 0:
            raise ConfigError(f"strengths={self.strengths} must be at least one number > 0.")

    def customize(self, app: AppData, provider: Provider, rng: np.random.Generator) -> Sequence[Scorer]:
        """Heads at each strength."""
        from sklearn.linear_model import LogisticRegression

        with torch.inference_mode():
            features_NF = torch.cat([provider.generic.features(part) for part in app.train.inputs.split(500)]).double()
        mean_F, std_F = features_NF.mean(0), features_NF.std(0).clamp_min(1e-6)
        x = ((features_NF - mean_F) / std_F).numpy()
        present_NL = app.process.present(app.train.labels_NC)
        targets = torch.cat([present_NL, ~present_NL.any(1, keepdim=True)], 1).numpy()
        out: list[Scorer] = []
        for strength in self.strengths:
            weights, biases = [], []
            for target in targets.T:
                head = LogisticRegression(C=strength, max_iter=300).fit(x, target)
                weights.append(torch.from_numpy(head.coef_[0]))
                biases.append(float(head.intercept_[0]))
            weights_LF = torch.stack(weights) / std_F
            biases_L = torch.tensor(biases, dtype=torch.float64) - weights_LF @ mean_F
            out.append(ListHeads(provider.generic, app.process, weights_LF, biases_L, app.theta))
        return out


@dataclass(frozen=True, eq=False)
class ListHeads:
    """Lists scored by linear heads: p(list) / (p(list) + p(none)), under the name of a label of the list.

    Scores are shifted so that a list as likely as "none" lies at the API's threshold.
    """

    network: Network
    process: DecisionProcess
    weights_LF: Tensor
    biases_L: Tensor
    theta: float = 0.5

    def scores(self, inputs: Tensor) -> Tensor:
        """Scores (N, C); 0 for all labels but one of each list."""
        with torch.inference_mode():
            features_NF = torch.cat([self.network.features(part) for part in inputs.split(500)]).double()
            p = torch.sigmoid(features_NF @ self.weights_LF.T + self.biases_L)
        share_NL = p[:, :-1] / (p[:, :-1] + p[:, -1:]).clamp_min(1e-12)
        at_theta = torch.logit(torch.tensor(min(max(self.theta, 1e-6), 1 - 1e-6), dtype=torch.float64))
        share_NL = torch.sigmoid(torch.logit(share_NL.clamp(1e-9, 1 - 1e-9)) + at_theta).float()
        out_NC = torch.zeros(len(inputs), self.process.num_labels)
        members_LC = self.process.members_LC
        for row in range(self.process.num_lists):
            own_C = members_LC[row] & (members_LC.sum(0) == 1)
            label = int((own_C if bool(own_C.any()) else members_LC[row]).to(torch.int8).argmax())
            out_NC[:, label] = torch.maximum(out_NC[:, label], share_NL[:, row])
        return out_NC


@METHODS.add("chameleonapi", label="ChameleonAPI", color="#D55E00", marker="o")
@dataclass(frozen=True)
class ChameleonLoss:
    """The paper's method: only errors that change the application's decision cost anything.

    Knobs as in `chameleonapi.losses.decision_loss`. `smooth_max` = 0 means the plain maximum; `top_k` = 0 no output limit. The
    harness sets `theta` and `top_k` to those at which the application will be served.
    """

    alpha: float = 2.0
    beta: float = 1.0
    margin: float = 0.0
    lam: float = 0.0
    theta: float = 0.5
    top_k: int = 10
    smooth_max: float = 0.0

    def at_theta(self, theta: float, top_k: int) -> "ChameleonLoss":
        """The same for another threshold and output limit of the API."""
        return dataclasses.replace(self, theta=theta, top_k=top_k)

    def loss(self, app: DecisionProcess, logits_NC: Tensor, labels_NC: Tensor) -> Tensor:
        """Mean decision loss of a batch, a scalar."""
        return decision_loss(
            app, logits_NC, labels_NC, alpha=self.alpha, beta=self.beta, margin=self.margin, lam=self.lam,
            theta=self.theta, top_k=self.top_k or None, smooth_max=self.smooth_max or None,
        )  # fmt: skip
