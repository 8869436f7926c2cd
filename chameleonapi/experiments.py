"""One experiment per table or figure of the paper; `chameleonapi/README.md` lists metrics and factors.

What is trained or timed beside the main table is in `chameleonapi.experiments_more`, serving in `experiments_serving`.
"""

import dataclasses
import importlib
from collections.abc import Iterator

import torch
from torch import Tensor

from chameleonapi.api import EXPERIMENTS
from chameleonapi.harness import (
    OPERATING_POINTS,
    Bench,
    Case,
    Judged,
    Sizes,
    at_operating_points,
    confusion,
    critical_share,
    decisions_of_code,
    error_kinds,
    row,
)
from chameleonapi.pretrain import mean_average_precision
from chameleonapi.semantics import decide, is_correct
from chameleonapi.training import Choice, Schedule, wrong_decisions
from common.experiment import Run
from common.results import ItemRows, Row

SWEPT_THETAS = tuple(round(0.05 * step, 2) for step in range(1, 20))
SWEPT_TOP_K = (1, 2, 3, 5, 10)
SWEPT_PREVALENCES = (0.1, 0.25, 0.5, 0.75, 0.9)
NATURAL_TEST = 1000  # examples at natural prevalence for label metrics


@EXPERIMENTS.add("incorrect_decisions")
@dataclasses.dataclass(frozen=True)
class IncorrectDecisions:
    """Incorrect decision rate per application and method at three operating points (ChameleonAPI, Table 3 and the 43 % claim).

    Attributes:
        train, validation, test: examples per application, balanced over its lists and "none".
        pool_scale: validation and test pools are 6,000 and 10,000 examples times this.
        stage1_epochs, stage2_epochs: of training.
        is_run_by_code: also let the application's own code decide, through the drop-in client, and compare.
    """

    train: int = 2000
    validation: int = 1000
    test: int = 1000
    pool_scale: float = 1.0
    stage1_epochs: int = 3
    stage2_epochs: int = 3
    is_run_by_code: bool = True

    def sizes(self) -> Sizes:
        """How many examples."""
        return Sizes(self.train, self.validation, self.test, int(6000 * self.pool_scale), int(10_000 * self.pool_scale))

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per application and method: idr (factors kind, order, operating_point); at the fixed threshold also idr_by_code,
        agreement, error_share (factor error), idr_by_size (multi_select by the number of choices), label_map, app_label_map,
        label_error_rate, critical_share, confusion (factors true, taken); idr_at_theta, _at_top_k, _at_prevalence."""
        schedule = Schedule(stage1_epochs=self.stage1_epochs, stage2_epochs=self.stage2_epochs)
        bench = Bench.of(run, self.sizes(), schedule)
        natural = run.workload.task.examples("test", run.seed + 500, NATURAL_TEST)
        for key, app in run.todo(bench.applications()):
            case = bench.case(app)
            rows = [
                row("provider_theta", bench.provider_theta, "", case.factors),
                row("num_lists", case.process.num_lists, "", case.factors),
                row("train_examples", len(case.data.train), "", case.factors, "examples"),
                row("test_examples", len(case.test), "", case.factors, "examples"),
            ]
            for name, method in run.methods.items():
                at = at_operating_points(case, method)
                for point, (judged, choice) in at.items():
                    factors = {**case.factors, "operating_point": point}
                    rows.append(row("idr", float(judged.wrong(choice).double().mean()), name, factors))
                    rows.append(row("theta", choice.theta, name, factors))
                rows += self._fixed(case, name, *at["fixed"])
                rows += _collateral(case, name, *at["fixed"], natural.inputs, natural.labels_NC)
                rows += _sweeps(case, name, at)
            yield ItemRows(key, rows)

    def _fixed(self, case: Case, name: str, judged: Judged, choice: Choice) -> list[Row]:
        scores_NC, labels_NC, factors = judged.test_scores(choice), case.test.labels_NC, case.factors
        taken_NL = decide(case.process, scores_NC, choice.theta, case.data.top_k)
        rows = []
        if self.is_run_by_code and case.app.entry:
            by_code_NL, agreement = decisions_of_code(case, scores_NC, choice.theta, case.data.top_k)
            wrong_N = ~is_correct(case.process, by_code_NL, labels_NC)
            rows.append(row("idr_by_code", float(wrong_N.double().mean()), name, factors))
            rows.append(row("agreement", agreement, name, factors))
        for error, mask_N in error_kinds(case.process, taken_NL, labels_NC).items():
            rows.append(row("error_share", float(mask_N.double().mean()), name, {**factors, "error": error}))
        error_rate, critical = critical_share(case, scores_NC, choice.theta)
        rows.append(row("label_error_rate", error_rate, name, factors))
        rows.append(row("critical_share", critical, name, factors))
        if case.process.kind == "multi_select":
            # As the released script counts: {A} against {B} passes. Shown once so that the difference is seen.
            by_size_N = taken_NL.sum(1) != case.process.present(labels_NC).sum(1)
            rows.append(row("idr_by_size", float(by_size_N.double().mean()), name, factors))
        else:
            for true, taken, share in confusion(case.process, taken_NL, labels_NC):
                rows.append(row("confusion", share, name, {**factors, "true": true, "taken": taken}))
        return rows


def _collateral(case: Case, name: str, judged: Judged, choice: Choice, inputs: Tensor, labels_NC: Tensor) -> list[Row]:
    """mAP over all labels, and over the application's, at natural prevalence."""
    scores_NC = case.scores(judged.candidates[choice.candidate], inputs)
    own_C = case.process.members_LC.any(0)
    return [
        row("label_map", mean_average_precision(scores_NC, labels_NC), name, case.factors),
        row("app_label_map", mean_average_precision(scores_NC[:, own_C], labels_NC[:, own_C]), name, case.factors),
    ]


def _sweeps(case: Case, name: str, at: dict[str, tuple[Judged, Choice]]) -> list[Row]:
    """Over the threshold, the output limit and the prevalence of "none"; the model is the one served at 0.5."""
    judged, choice = at["fixed"]
    scores_NC, labels_NC, process, limit = (
        judged.test_scores(choice),
        case.test.labels_NC,
        case.process,
        case.data.top_k,
    )
    rows = []
    for theta in SWEPT_THETAS:
        value = float(wrong_decisions(process, scores_NC, labels_NC, theta, limit).double().mean())
        rows.append(row("idr_at_theta", value, name, {**case.factors, "theta": theta}))
    for top_k in SWEPT_TOP_K:
        # At a fixed threshold hardly any output is long; the limit shows where thresholds are tuned for it.
        own = judged.choose("tuned", top_k=top_k)
        value = float(judged.wrong(own, top_k).double().mean())
        rows.append(row("idr_at_top_k", value, name, {**case.factors, "top_k": top_k}))
    wrong = {"fixed": judged.wrong(choice)}
    none_N = ~process.present(labels_NC).any(1)
    none_validation_N = ~process.present(case.data.validation.labels_NC).any(1)
    for prevalence in SWEPT_PREVALENCES:
        tuned = judged.choose("tuned", prevalence_weights(none_validation_N, prevalence))
        wrong["tuned"] = judged.wrong(tuned)
        weights_N = prevalence_weights(none_N, prevalence)
        for point, wrong_N in wrong.items():
            value = float((wrong_N.double() * weights_N).sum() / weights_N.sum())
            factors = {**case.factors, "prevalence": prevalence, "operating_point": point}
            rows.append(row("idr_at_prevalence", value, name, factors))
    return rows


def prevalence_weights(none_N: Tensor, prevalence: float) -> Tensor:
    """Weights under which the given share of the examples has no list, (N,) float64 with sum 1."""
    num_none, num_some = int(none_N.sum()), int((~none_N).sum())
    return torch.where(none_N, prevalence / max(1, num_none), (1 - prevalence) / max(1, num_some)).double()


@EXPERIMENTS.add("text_decisions")
@dataclasses.dataclass(frozen=True)
class TextDecisions(IncorrectDecisions):
    """The main table for the text API: topics in place of image labels (ChameleonAPI, Table 3, text applications)."""


__all__ = ["OPERATING_POINTS", "IncorrectDecisions", "TextDecisions"]

importlib.import_module("chameleonapi.experiments_more")
