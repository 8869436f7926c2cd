"""The decision losses: how far a batch of scores is from the decisions that an application should take.

The indicator "this error changes the decision" is replaced by a sigmoid of a score difference; thresholding and ranking become
differences with the best score of a list (ChameleonAPI, loss function).

Symbols: alpha is the paper's sharpness, beta the weight of a violated condition, delta the margin (`margin`), lambda the
share taken off inputs without any list (`lam`), theta the API's score threshold, K its output limit (`top_k`).
"""

# Shape legend: N inputs, C labels of the vocabulary, L target lists.

import torch
from torch import Tensor

from chameleonapi.semantics import DecisionProcess, effective_thresholds, list_scores
from common.errors import ConfigError


def violation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """rho(x) = w(x) / (1 + exp(-alpha x)) with w = beta where x > 0 ("the condition is violated"), else 1. Same shape as x.

    With beta != 1 it jumps at x = 0.
    """
    rho = torch.sigmoid(alpha * x)
    return rho if beta == 1 else torch.where(x > 0, beta * rho, rho)


def decision_loss(
    app: DecisionProcess,
    logits_NC: Tensor,
    labels_NC: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 1.0,
    margin: float = 0.0,
    lam: float = 0.0,
    theta: float = 0.5,
    top_k: int | None = None,
    smooth_max: float | None = None,
) -> Tensor:
    """Mean decision loss of a batch.

    Args:
        app: the application's decision process over the C labels.
        logits_NC: scores before the sigmoid.
        labels_NC: 1 (or True) where a label is true; unknown labels count as false.
        alpha: sharpness of the sigmoid, > 0.
        beta: weight of violated conditions, > 0.
        margin: delta, added to every difference.
        lam: lambda in [0, 1): takes weight off inputs with no list present (multi-choice in API order).
        theta: score threshold of the API; an application's own threshold of a list replaces it.
        top_k: labels that the API returns at most; None for no limit. The application's window lowers it.
        smooth_max: temperature of a log-sum-exp in place of the maximum over a list; None for the maximum.
    Returns:
        A scalar tensor; its gradient reaches the best label of each list (all of them with `smooth_max`), and never the labels
        outside all lists nor the (K+1)-th score.
    Raises:
        ConfigError: a parameter is out of range, shapes differ, or the kind of decision has no loss.

    Source: ChameleonAPI, loss for each kind of decision. In the smooth-indicator form of the paper alpha = beta = 1 and
    margin = lam = 0.
    """
    if not alpha > 0 or not beta > 0 or not 0 <= lam < 1:
        raise ConfigError(
            f"alpha={alpha}, beta={beta}, lam={lam} are not allowed. Use alpha > 0, beta > 0, 0 <= lam < 1."
        )
    if smooth_max is not None and not smooth_max > 0:
        raise ConfigError(f"smooth_max={smooth_max} is not a temperature. Use a value > 0, or None for the maximum.")
    if logits_NC.shape != labels_NC.shape or logits_NC.shape[-1] != app.num_labels:
        raise ConfigError(
            f"logits {tuple(logits_NC.shape)} and labels {tuple(labels_NC.shape)} do not fit "
            f"a process over {app.num_labels} labels. Give both as (N, {app.num_labels})."
        )
    if logits_NC.shape[0] == 0:
        raise ConfigError("the batch is empty. Give at least one input.")
    if app.order == "api_last":
        # DEVIATION chameleonapi-3: no loss for last-match-wins; its true order is not defined by labels without scores.
        raise ConfigError(
            "a multi_choice decision in api_last order has no loss. Train it as multi_select, and say so."
        )
    scores_NC = torch.sigmoid(logits_NC)
    tau_NL = effective_thresholds(app, scores_NC, theta, top_k)
    best_NL = list_scores(app, scores_NC, smooth_max)
    present_NL = app.present(labels_NC)

    def rho(x: Tensor) -> Tensor:
        return violation(x + margin, alpha, beta)

    if app.kind == "multi_select" or app.kind == "true_false":
        terms_NL = torch.where(present_NL, rho(tau_NL - best_NL), rho(best_NL - tau_NL))
        return terms_NL.sum(1).mean()
    any_N = present_NL.any(1)
    if app.order == "app_choice":
        # c* is the first list present; the lists before it must stay silent, those after it do not matter.
        first_NL = present_NL & (present_NL.cumsum(1) == 1)
        before_NL = present_NL.cumsum(1) == 0
        terms_NL = torch.where(first_NL, rho(tau_NL - best_NL), torch.where(before_NL, rho(best_NL - tau_NL), 0.0))
        return terms_NL.sum(1).mean()
    # API-output order: the best list that is present must beat the threshold and every list that is not.
    # Condition of each present list c: its best label beats tau_c and the best label of every absent list w. An absent list
    # below a threshold of its own cannot be matched: it counts up to tau_c only (without own thresholds that changes nothing).
    best_NcL, best_NLw = best_NL[:, :, None], best_NL[:, None, :]
    tau_NcL, tau_NLw = tau_NL[:, :, None], tau_NL[:, None, :]
    rival_NLL = torch.where(
        best_NLw > tau_NLw, best_NLw.expand(-1, app.num_lists, -1), torch.minimum(best_NLw, tau_NcL)
    )
    rival_NLL = rival_NLL.masked_fill(present_NL[:, None, :], float("-inf"))
    shortfall_NL = (torch.maximum(tau_NcL, rival_NLL.amax(2, keepdim=True)) - best_NcL)[..., 0]
    # Any list that is present may win: the one nearest to it stands for all.
    shortfall_N = shortfall_NL.masked_fill(~present_NL, float("inf")).amin(1)
    surplus_N = (best_NL - tau_NL).amax(1)
    with_N = rho(torch.where(any_N, shortfall_N, torch.zeros_like(shortfall_N)))
    without_N = (1 - lam) * rho(surplus_N)
    return torch.where(any_N, with_N, without_N).mean()


def interval_loss(
    value_N: Tensor, low_N: Tensor, high_N: Tensor, *, alpha: float = 2.0, beta: float = 1.0, margin: float = 0.0
) -> Tensor:
    """Mean loss of a numeric decision: the predicted number shall lie in the true interval (low, high].

    Args:
        value_N: predicted numbers, e.g. sentiment scores.
        low_N, high_N: breakpoints around the true value; -inf or inf where there is none, which adds nothing.
    Returns:
        A scalar tensor: rho(low - value + margin) + rho(value - high + margin), averaged.

    (inferred): the paper's applications of this kind are decided by intervals of the sentiment score.
    """
    zero = torch.zeros_like(value_N)
    below_N = torch.where(
        torch.isinf(low_N),
        zero,
        violation(torch.where(torch.isinf(low_N), zero, low_N) - value_N + margin, alpha, beta),
    )
    above_N = torch.where(
        torch.isinf(high_N),
        zero,
        violation(value_N - torch.where(torch.isinf(high_N), zero, high_N) + margin, alpha, beta),
    )
    return (below_N + above_N).mean()


def region_loss(
    logits_RC: Tensor,
    members_C: Tensor,
    matched_R: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 1.0,
    theta: float = 0.5,
) -> Tensor:
    """Mean loss of a detector's region proposals (R regions, C classes with the background): object detection applications.

    Args:
        logits_RC: class scores of each region before the sigmoid.
        members_C: bool; classes of the target list.
        matched_R: bool; regions that lie on an object of a target class.
    Returns:
        A scalar tensor: rho(max(theta, o) - t) for matched regions and rho(max(theta, t) - o) for the others, where t is the best
        score of a target class and o the best of the other classes.

    Source: ChameleonAPI, object detection.
    """
    scores_RC = torch.sigmoid(logits_RC)
    target_R = scores_RC.masked_fill(~members_C, float("-inf")).amax(1)
    other_R = scores_RC.masked_fill(members_C, float("-inf")).amax(1)
    wanted_R = violation(other_R.clamp_min(theta) - target_R, alpha, beta)
    unwanted_R = violation(target_R.clamp_min(theta) - other_R, alpha, beta)
    return torch.where(matched_R, wanted_R, unwanted_R).mean()


def conventional_loss(logits_NC: Tensor, labels_NC: Tensor, negative_clip: float = 0.05) -> Tensor:
    """Binary cross entropy summed over labels and averaged over inputs, with easy negatives clipped.

    The conventional loss of stage 1: the asymmetric loss with both focusing parameters 0, in which a negative whose score
    is below `negative_clip` costs nothing. ChameleonAPI's "basic" model is trained with it alone.
    """
    scores_NC = torch.sigmoid(logits_NC)
    labels_NC = labels_NC.to(scores_NC)
    positive_NC = labels_NC * torch.nn.functional.logsigmoid(logits_NC)
    negative_NC = (1 - labels_NC) * torch.log((1 - scores_NC + negative_clip).clamp(1e-8, 1.0))
    return -(positive_NC + negative_NC).sum(1).mean()
