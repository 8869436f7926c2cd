"""Loss designs, registered by the name in the paper's legend."""

from dataclasses import dataclass

from torch import Tensor

from chameleonapi.api import LOSSES
from chameleonapi.losses import conventional_loss, decision_loss
from chameleonapi.semantics import DecisionProcess


@LOSSES.add("chameleonapi", label="ChameleonAPI", color="#D55E00", marker="o")
@dataclass(frozen=True)
class ChameleonLoss:
    """The decision loss: only errors that change the application's decision cost anything.

    Knobs as in `chameleonapi.losses.decision_loss`. `smooth_max` = 0 means the plain maximum; `top_k` = 0 no output limit.
    """

    alpha: float = 2.0
    beta: float = 1.0
    margin: float = 0.0
    lam: float = 0.0
    theta: float = 0.5
    top_k: int = 10
    smooth_max: float = 0.0

    def loss(self, app: DecisionProcess, logits_NC: Tensor, labels_NC: Tensor) -> Tensor:
        """Mean decision loss of a batch, a scalar."""
        return decision_loss(
            app, logits_NC, labels_NC, alpha=self.alpha, beta=self.beta, margin=self.margin, lam=self.lam,
            theta=self.theta, top_k=self.top_k or None, smooth_max=self.smooth_max or None,
        )  # fmt: skip


@LOSSES.add("chameleonapi_basic", label="ChameleonAPI_basic", color="#56B4E9", marker="s")
@dataclass(frozen=True)
class ConventionalLoss:
    """The conventional multi-label loss, which does not look at the application."""

    negative_clip: float = 0.05

    def loss(self, app: DecisionProcess, logits_NC: Tensor, labels_NC: Tensor) -> Tensor:
        """Mean binary cross entropy of a batch, a scalar."""
        return conventional_loss(logits_NC, labels_NC, self.negative_clip)
