"""Decision semantics over a batch of scores: what an application decides, what it should decide, and whether they agree.

The vectorised twin of `DecisionSummary.decide` and `is_correct`; tests hold the two together.
"""

# Shape legend: N inputs, C labels of the vocabulary, L target lists.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chameleonapi.decisions import DecisionSummary
from common.errors import ConfigError


@dataclass(frozen=True)
class DecisionProcess:
    """A decision summary compiled over a label vocabulary.

    Attributes:
        kind: "true_false", "multi_choice" or "multi_select".
        order: matching order for multi_choice: "api_first", "api_last" or "app_choice".
        members_LC: bool; which labels belong to which list, in the order in which the application tests the lists.
        thresholds_LC: the application's own score thresholds on the scale 0 to 1; -inf where it has none.
        strict_LC: bool; True where a score must be above the threshold, False where equal is enough.
        window: the application looks at the first `window` labels only; None if at all.
    """

    kind: str
    order: str | None
    members_LC: Tensor
    thresholds_LC: Tensor
    strict_LC: Tensor
    window: int | None = None

    @property
    def num_lists(self) -> int:
        """L."""
        return int(self.members_LC.shape[0])

    @property
    def num_labels(self) -> int:
        """C."""
        return int(self.members_LC.shape[1])

    def present(self, labels_NC: Tensor) -> Tensor:
        """T: which lists are truly present, (N, L) bool."""
        return (labels_NC.to(torch.bool)[:, None, :] & self.members_LC[None]).any(2)

    @staticmethod
    def from_lists(
        kind: str, lists: Sequence[Sequence[int]], num_labels: int, order: str | None = None, window: int | None = None
    ) -> "DecisionProcess":
        """A process from lists of label indices, without thresholds of its own.

        Raises:
            ConfigError: no list, a list without labels, an index out of range, or a kind or order that is not known.
        """
        if kind not in ("true_false", "multi_choice", "multi_select"):
            raise ConfigError(
                f"decision kind {kind!r} has no target lists. Use true_false, multi_choice or multi_select."
            )
        if kind == "multi_choice" and order not in ("api_first", "api_last", "app_choice"):
            raise ConfigError(f"matching order {order!r} is not known. Use api_first, api_last or app_choice.")
        if not lists or (kind == "true_false" and len(lists) != 1):
            raise ConfigError(f"a {kind} decision cannot have {len(lists)} lists.")
        members_LC = torch.zeros(len(lists), num_labels, dtype=torch.bool)
        for row, indices in enumerate(lists):
            for index in indices:
                if not 0 <= index < num_labels:
                    raise ConfigError(f"label index {index} is out of range. Use 0 to {num_labels - 1}.")
                members_LC[row, index] = True
        if not members_LC.any(1).all():
            raise ConfigError("a target list has no label of the vocabulary. Drop it before training.")
        none_LC = torch.full((len(lists), num_labels), float("-inf"), dtype=torch.float64)
        return DecisionProcess(
            kind, order if kind == "multi_choice" else None, members_LC, none_LC, torch.ones_like(members_LC), window
        )

    @staticmethod
    def from_summary(summary: DecisionSummary, vocabulary: Sequence[str]) -> "DecisionProcess":
        """Compile a summary over a vocabulary.

        Lists without a label of the vocabulary are dropped: they can never be matched.

        Raises:
            ConfigError: the kind has no target lists, a list is a conjunction or has suppressing labels (which have no loss), or
                no list has a label of the vocabulary.
        """
        place = {label: i for i, label in enumerate(vocabulary)}
        if summary.kind not in ("true_false", "multi_choice", "multi_select"):
            raise ConfigError(f"a decision of kind {summary.kind} has no target lists to compile.")
        kept = [one for one in summary.lists if any(label in place for label in one.labels)]
        for one in kept:
            if one.combine == "all" or one.unless:
                # DEVIATION chameleonapi-4: conjunctions and suppressing labels are parsed and decided, not trained for.
                raise ConfigError(
                    f"list {one.id} ({one.predicate}) is a conjunction or has suppressing labels: it has no loss."
                )
        if not kept:
            raise ConfigError("no list of this decision has a label of the vocabulary: there is nothing to customize.")
        indices = [[place[label] for label in one.labels if label in place] for one in kept]
        order = summary.order or ("app_choice" if summary.kind == "multi_choice" else None)
        made = DecisionProcess.from_lists(summary.kind, indices, len(vocabulary), order, summary.window)
        thresholds_LC, strict_LC = made.thresholds_LC.clone(), made.strict_LC.clone()
        for row, one in enumerate(kept):
            for label in one.labels:
                threshold = one.threshold_of(label)
                if label in place and threshold is not None:
                    thresholds_LC[row, place[label]] = threshold.value / summary.scale
                    strict_LC[row, place[label]] = threshold.op == ">"
        return DecisionProcess(made.kind, made.order, made.members_LC, thresholds_LC, strict_LC, made.window)


def _limit(app: DecisionProcess, top_k: int | None) -> int | None:
    limits = [k for k in (top_k, app.window) if k is not None]
    if any(k < 1 for k in limits):
        raise ConfigError(f"top_k={top_k} is not allowed. Use at least 1, or None for no limit.")
    return min(limits) if limits else None


def output_mask(scores_NC: Tensor, theta: float, top_k: int | None) -> Tensor:
    """Which labels the API outputs: score above theta and among the top_k best; ties go to the lower index. (N, C) bool."""
    kept_NC = scores_NC > theta
    if top_k is None or top_k >= scores_NC.shape[1]:
        return kept_NC
    ranks_NC = torch.argsort(torch.argsort(scores_NC, dim=1, descending=True, stable=True), dim=1, stable=True)
    return kept_NC & (ranks_NC < top_k)


def decide(app: DecisionProcess, scores_NC: Tensor, theta: float = 0.5, top_k: int | None = None) -> Tensor:
    """The choices that the application takes.

    Args:
        app: the decision process.
        scores_NC: scores in [0, 1].
        theta: the API's threshold; a label is output if its score is above it.
        top_k: labels that the API outputs at most.
    Returns:
        (N, L) bool: the choices taken; at most one per input unless kind is multi_select.
    """
    out_NC = output_mask(scores_NC, theta, _limit(app, top_k))
    s_N1C = scores_NC[:, None, :]
    limits_1LC = app.thresholds_LC.to(scores_NC)[None]  # in the scores' precision: a score of 0.8 is not above 0.8
    passes_NLC = torch.where(app.strict_LC[None], s_N1C > limits_1LC, s_N1C >= limits_1LC)
    hits_NLC = out_NC[:, None, :] & app.members_LC[None] & passes_NLC
    matched_NL = hits_NLC.any(2)
    if app.kind != "multi_choice":
        return matched_NL
    if app.order == "app_choice":
        return matched_NL & (matched_NL.cumsum(1) == 1)
    # Position in the API's output decides; within one label the lowest list.
    order_NC = torch.argsort(torch.argsort(scores_NC, dim=1, descending=True, stable=True), dim=1, stable=True)
    if app.order == "api_first":
        place_NL = torch.where(hits_NLC, order_NC[:, None, :], scores_NC.shape[1]).amin(2)
    else:
        place_NL = -torch.where(hits_NLC, order_NC[:, None, :], -1).amax(2)
    chosen_N = place_NL.argmin(1)  # argmin takes the first of equal places: the lowest list
    return matched_NL & (torch.arange(app.num_lists)[None] == chosen_N[:, None])


class DecisionCurve:
    """The decisions of one batch of scores at any threshold: what does not depend on the threshold is worked out once.

    `DecisionCurve(app, scores_NC, top_k).decide(theta)` equals `decide(app, scores_NC, theta, top_k)`.
    """

    def __init__(self, app: DecisionProcess, scores_NC: Tensor, top_k: int | None = None) -> None:
        self._app, self._scores_NC, self._top_k = app, scores_NC, top_k
        if app.order == "api_last":
            return  # the last output label depends on the threshold
        limit = _limit(app, top_k)
        limits_LC = app.thresholds_LC.to(scores_NC)
        lowest = float("-inf")
        order_NC: Tensor | None = None
        if app.order == "api_first" or (limit is not None and limit < scores_NC.shape[1]):
            order_NC = torch.argsort(torch.argsort(scores_NC, dim=1, descending=True, stable=True), dim=1, stable=True)
        best, places = [], []
        for row in range(app.num_lists):
            counts_NC = app.members_LC[row] & torch.where(
                app.strict_LC[row], scores_NC > limits_LC[row], scores_NC >= limits_LC[row]
            )
            if order_NC is not None and limit is not None:
                counts_NC = counts_NC & (order_NC < limit)
            best.append(scores_NC.masked_fill(~counts_NC, lowest).amax(1))
            if app.order == "api_first":
                assert order_NC is not None
                places.append(torch.where(counts_NC, order_NC, scores_NC.shape[1]).amin(1))
        self._best_NL = torch.stack(best, 1)
        if app.order == "api_first":
            winner_N = torch.stack(places, 1).argmin(1)
            mine_NL = torch.arange(app.num_lists)[None] == winner_N[:, None]
            self._best_NL = self._best_NL.masked_fill(~mine_NL, lowest)

    def decide(self, theta: float) -> Tensor:
        """The choices taken at this threshold, (N, L) bool."""
        app = self._app
        if app.order == "api_last":
            return decide(app, self._scores_NC, theta, self._top_k)
        matched_NL = self._best_NL > theta
        return matched_NL & (matched_NL.cumsum(1) == 1) if app.order == "app_choice" else matched_NL


def is_correct(app: DecisionProcess, taken_NL: Tensor, labels_NC: Tensor) -> Tensor:
    """Which decisions equal the one on the true labels, (N,) bool.

    Multi-choice in API order: any list that is truly present is correct; in app-choice order the first; multi-select: the set.
    """
    return agrees(app, taken_NL, app.present(labels_NC))


def agrees(app: DecisionProcess, taken_NL: Tensor, present_NL: Tensor) -> Tensor:
    """`is_correct`, given which lists are truly present."""
    if app.kind == "multi_choice":
        if app.order == "app_choice":
            return (taken_NL == (present_NL & (present_NL.cumsum(1) == 1))).all(1)
        none_N = ~present_NL.any(1)
        return torch.where(none_N, ~taken_NL.any(1), (taken_NL & present_NL).any(1))
    return (taken_NL == present_NL).all(1)


def incorrect_decision_rate(
    app: DecisionProcess, scores_NC: Tensor, labels_NC: Tensor, theta: float = 0.5, top_k: int | None = None
) -> float:
    """IDR: the share of inputs with a wrong decision.

    Raises:
        ConfigError: there is no input.
    """
    if scores_NC.shape[0] == 0:
        raise ConfigError("an incorrect decision rate over no input is not defined. Give at least one input.")
    wrong_N = ~is_correct(app, decide(app, scores_NC, theta, top_k), labels_NC)
    return float(wrong_N.double().mean())


def effective_thresholds(app: DecisionProcess, scores_NC: Tensor, theta: float, top_k: int | None) -> Tensor:
    """tau: what the best label of each list must beat to have an effect, (N, L); a constant for the gradient.

    max(theta, s_(K+1)), with a list's own threshold in place of theta where it is higher (inferred). Members of one list with
    different thresholds: the threshold of the member that is best relative to its own.
    """
    # DEVIATION chameleonapi-2: the higher of theta and the list's threshold, as the API itself cuts its output at theta.
    scores_NC = scores_NC.detach()
    limit = _limit(app, top_k)
    floor_N1 = scores_NC.new_full((scores_NC.shape[0], 1), float("-inf"))
    if limit is not None and limit < scores_NC.shape[1]:
        floor_N1 = scores_NC.topk(limit + 1, dim=1).values[:, -1:]
    own_LC = torch.where(torch.isinf(app.thresholds_LC), torch.full_like(app.thresholds_LC, theta), app.thresholds_LC)
    own_LC = own_LC.clamp_min(theta).to(scores_NC)
    lead_NLC = torch.where(app.members_LC[None], scores_NC[:, None, :] - own_LC[None], float("-inf"))
    tau_NL = own_LC[None].expand(lead_NLC.shape).gather(2, lead_NLC.argmax(2, keepdim=True))[..., 0]
    return torch.maximum(tau_NL, floor_N1)


def list_scores(app: DecisionProcess, scores_NC: Tensor, smooth_max: float | None = None) -> Tensor:
    """m: the best score of each list, (N, L); with `smooth_max` a log-sum-exp of that temperature."""
    own_LC = torch.where(torch.isinf(app.thresholds_LC), torch.zeros_like(app.thresholds_LC), app.thresholds_LC)
    spread_L = torch.where(app.members_LC, own_LC, own_LC.new_tensor(float("nan"))).nan_to_num(-1).amax(1)
    same = bool((torch.where(app.members_LC, own_LC, spread_L[:, None]) == spread_L[:, None]).all())
    masked_NLC = torch.where(app.members_LC[None], scores_NC[:, None, :], scores_NC.new_tensor(float("-inf")))
    if smooth_max is not None:
        return smooth_max * torch.logsumexp(masked_NLC / smooth_max, dim=2)
    if same:
        return masked_NLC.amax(2)
    # Members with thresholds of their own: the member that is best relative to its threshold stands for the list.
    lead_NLC = masked_NLC.detach() - own_LC.to(scores_NC)[None]
    return masked_NLC.gather(2, lead_NLC.argmax(2, keepdim=True))[..., 0]
