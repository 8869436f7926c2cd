"""Runs methods on applications and scores the decisions; the same code for every method.

    application ─► parser ─► decision process ─► method ─► candidates
    validation scores of the candidates ─► candidate and threshold      (one search for all methods)
    test scores ─► decisions: by the summary, and by the application's own code through the drop-in client

An incorrect decision rate (IDR) is the share of test examples on which the decision is not the one on the true labels.
"""

# Shape legend: N examples, C labels, L lists.

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chameleonapi.applications import Application, AppRunner, behaviours, quiet_logging
from chameleonapi.decisions import DecisionSummary
from chameleonapi.endpoints import Answer, handle
from chameleonapi.networks import Network
from chameleonapi.provider import bundled_provider, model_hashes
from chameleonapi.semantics import DecisionCurve, DecisionProcess, decide, is_correct
from chameleonapi.tasks.task import Examples, Task
from chameleonapi.training import (
    THETA,
    THETA_GRID,
    AppData,
    Choice,
    Provider,
    Schedule,
    choose,
    customize,
    micro_f1_threshold,
    request_limits,
    select,
    stage_one,
    wrong_decisions,
)
from common.errors import ConfigError
from common.experiment import Run
from common.results import Row

OPERATING_POINTS = ("fixed", "provider_wide", "tuned")
"""fixed: threshold 0.5; provider_wide: one for everybody, by F1 over all labels; tuned: per application and method."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many examples an application gets, balanced over its lists and "none"; and how many there are to draw from."""

    train: int = 2000
    validation: int = 1000
    test: int = 1000
    validation_pool: int = 6000
    test_pool: int = 10_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 2:
                raise ConfigError(f"{field.name}={getattr(self, field.name)} is too few examples; use at least 2.")


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """What one run shares between its applications.

    Attributes:
        run: the run.
        provider: its models and training pool.
        validation_pool, test_pool: examples of this run's seed at natural prevalence; no model was trained on them.
        provider_theta: threshold of the operating point "provider_wide".
        sizes, schedule: what applications get.
    """

    run: Run
    provider: Provider
    validation_pool: Examples
    test_pool: Examples
    provider_theta: float
    sizes: Sizes
    schedule: Schedule

    @property
    def task(self) -> Task:
        """The provider's."""
        return self.provider.task

    @staticmethod
    def of(run: Run, sizes: Sizes, schedule: Schedule) -> "Bench":
        """The bench of a run; notes the models' hashes among the run's inputs."""
        if run.workload is None:
            raise ConfigError(f"experiment {run.experiment!r} needs a workload; give workload=NAME.")
        task = run.workload.task
        provider = bundled_provider(task.name)
        for name, sha in model_hashes(task.name).items():
            run.note_input(f"model:{name}", sha)
        # Seeds of pools are spread so that no run's examples are those of a shipped model's training.
        validation = task.examples("validation", run.seed, sizes.validation_pool)
        test = task.examples("test", run.seed, sizes.test_pool)
        theta = micro_f1_threshold(provider.generic.scores(validation.inputs), validation.labels_NC)
        return Bench(run, provider, validation, test, theta, sizes, schedule)

    def with_provider(self, provider: Provider) -> "Bench":
        """The same with other models behind the API."""
        theta = micro_f1_threshold(provider.generic.scores(self.validation_pool.inputs), self.validation_pool.labels_NC)
        return dataclasses.replace(self, provider=provider, provider_theta=theta)

    def applications(self) -> list[tuple[str, Application]]:
        """The run's applications with their keys."""
        rng = self.run.rng("workload")
        return [(app.name, app) for app in self.run.workload.items(rng, self.run.num_items)]

    def case(self, app: Application, train_size: int | None = None) -> "Case":
        """One application with its examples."""
        summary = app.summary(self.task.vocabulary, self.task.labels)
        process = DecisionProcess.from_summary(summary, self.task.labels)
        theta, top_k = request_limits(summary)
        rng = self.run.rng("selection", app.name)
        train = self.provider.pool.take(select(process, self.provider.pool, train_size or self.sizes.train, rng))
        validation = self.validation_pool.take(select(process, self.validation_pool, self.sizes.validation, rng))
        test = self.test_pool.take(select(process, self.test_pool, self.sizes.test, rng))
        data = AppData(app.name, summary, process, train, validation, theta, top_k, self.schedule)
        return Case(self, app, summary, process, data, test)

    def case_of_all(self, app: Application) -> "Case":
        """One application with every example there is, unbalanced: for data sets of a few hundred photographs."""
        summary = app.summary(self.task.vocabulary, self.task.labels)
        process = DecisionProcess.from_summary(summary, self.task.labels)
        theta, top_k = request_limits(summary)
        data = AppData(
            app.name, summary, process, self.provider.pool, self.validation_pool, theta, top_k, self.schedule
        )
        return Case(self, app, summary, process, data, self.test_pool)


@dataclasses.dataclass(eq=False)
class Case:
    """One application on the bench.

    Attributes:
        bench, app: what and where.
        summary, process: its decision.
        data: what methods are given.
        test: examples that no method sees.
    """

    bench: Bench
    app: Application
    summary: DecisionSummary
    process: DecisionProcess
    data: AppData
    test: Examples
    _stage1: list[Network] | None = None
    _known: dict[tuple[int, int], tuple[Any, Tensor, Tensor]] = dataclasses.field(default_factory=dict)

    @property
    def factors(self) -> dict[str, Any]:
        """What kind of decision it is."""
        return {"kind": self.process.kind, "order": self.process.order or "none"}

    def stage_one(self) -> list[Network]:
        """Stage 1, the same for all loss designs."""
        if self._stage1 is None:
            self._stage1 = stage_one(self.data, self.bench.provider, self.bench.run.rng("stage1", self.app.name))
        return self._stage1

    def candidates(self, method: Any, theta: float | None = None, schedule: Schedule | None = None) -> list[Any]:
        """A method's models for this application, to be served at `theta`."""
        data = dataclasses.replace(
            self.data,
            theta=self.data.theta if theta is None else theta,
            schedule=schedule or self.data.schedule,
            stage1=tuple(self.stage_one()),
        )
        # Stage 2 draws the same order of examples for every loss, so that losses are compared and not shuffles.
        rng = self.bench.run.rng("stage2", self.app.name)
        return customize(method, data, self.bench.provider, rng)

    def judge(self, candidates: Sequence[Any]) -> "Judged":
        """Scores of the candidates on validation and test examples."""
        return Judged(self, list(candidates), [self.scores(c, self.data.validation.inputs) for c in candidates])

    def scores(self, candidate: Any, inputs: Tensor) -> Tensor:
        """A candidate's scores; those of the provider's own networks are worked out once per application."""
        key = (id(candidate), id(inputs))
        if key not in self._known:
            # Kept together with what they are of, so that no id is used again meanwhile.
            self._known[key] = (candidate, inputs, _scores(candidate, inputs))
        return self._known[key][2]


def _scores(candidate: Any, inputs: Tensor) -> Tensor:
    scores_NC: Tensor = candidate.scores(inputs)
    if scores_NC.ndim != 2 or len(scores_NC) != len(inputs) or not bool(torch.isfinite(scores_NC).all()):
        raise ConfigError(
            f"a model returned scores of shape {tuple(scores_NC.shape)} for {len(inputs)} inputs, or scores that are not "
            "finite; return one row of finite scores in [0, 1] per input."
        )
    return scores_NC


@dataclasses.dataclass(eq=False)
class Judged:
    """A method's candidates with their scores on one application's validation examples."""

    case: Case
    candidates: list[Any]
    validation: list[Tensor]
    # Not copied by `dataclasses.replace`: the curves of other candidates are others.
    _curves: dict[int, list[DecisionCurve]] = dataclasses.field(default_factory=dict, init=False)

    def curves(self, top_k: int) -> list[DecisionCurve]:
        """Of each candidate over the validation examples; worked out once for each output limit."""
        if top_k not in self._curves:
            self._curves[top_k] = [DecisionCurve(self.case.process, scores_NC, top_k) for scores_NC in self.validation]
        return self._curves[top_k]

    def test_scores(self, choice: Choice) -> Tensor:
        """The chosen candidate's scores on the test examples, (N, C)."""
        return self.case.scores(self.candidates[choice.candidate], self.case.test.inputs)

    def choose(self, operating_point: str, weights_N: Tensor | None = None, top_k: int | None = None) -> Choice:
        """The candidate and threshold of an operating point, on validation."""
        case = self.case
        least = case.data.theta if case.summary.request.get("MinConfidence") else 0.0
        if operating_point == "fixed":
            thetas: Sequence[float] = (case.data.theta,)
        elif operating_point == "provider_wide":
            thetas = (max(least, case.bench.provider_theta),)
        elif operating_point == "tuned":
            thetas = [t for t in THETA_GRID if t >= least] or [least]
        else:
            raise ConfigError(f"operating point {operating_point!r} is not known. Use {', '.join(OPERATING_POINTS)}.")
        limit = case.data.top_k if top_k is None else top_k
        return choose(case.process, self.curves(limit), case.data.validation.labels_NC, thetas, limit, weights_N)

    def wrong(self, choice: Choice, top_k: int | None = None) -> Tensor:
        """Which test decisions are wrong, (N,) bool."""
        limit = self.case.data.top_k if top_k is None else top_k
        return wrong_decisions(
            self.case.process, self.test_scores(choice), self.case.test.labels_NC, choice.theta, limit
        )


def at_operating_points(
    case: Case, method: Any, points: Sequence[str] = OPERATING_POINTS
) -> dict[str, tuple[Judged, Choice]]:
    """A method on an application at each operating point.

    A method that fits itself to the threshold (`at_theta`, or `uses_theta` = True) is customized for the one at which it will be
    served: once for 0.5 (which the tuned point also starts from) and once for the provider-wide one.
    """
    judged = {"": case.judge(case.candidates(method))}
    if "provider_wide" in points and (hasattr(method, "at_theta") or getattr(method, "uses_theta", False)):
        judged["provider_wide"] = case.judge(case.candidates(method, case.bench.provider_theta))
    out = {}
    for point in points:
        own = judged.get(point, judged[""])
        out[point] = (own, own.choose(point))
    return out


# ------------------------------------------------------------------------------------------------------------ what to count


def error_kinds(process: DecisionProcess, taken_NL: Tensor, labels_NC: Tensor) -> dict[str, Tensor]:
    """Wrong decisions by what went wrong, each (N,) bool; together they are all wrong decisions.

    missed: a list is present and nothing (of what is needed) was taken; wrong: a list that is not the right one was taken though
    one is present; false: no list is present and one was taken.
    """
    present_NL = process.present(labels_NC)
    wrong_N = ~is_correct(process, taken_NL, labels_NC)
    none_N = ~present_NL.any(1)
    if process.kind == "multi_select":
        extra_N = (taken_NL & ~present_NL).any(1)
    else:
        extra_N = taken_NL.any(1)
    return {
        "false": wrong_N & none_N,
        "wrong": wrong_N & ~none_N & extra_N,
        "missed": wrong_N & ~none_N & ~extra_N,
    }


def critical_share(case: Case, scores_NC: Tensor, theta: float) -> tuple[float, float]:
    """Share of inputs whose label output has an error, and the share of those in which it changes the decision."""
    from chameleonapi.semantics import output_mask

    said_NC = output_mask(scores_NC, theta, case.data.top_k)
    has_error_N = (said_NC != case.test.labels_NC).any(1)
    wrong_N = wrong_decisions(case.process, scores_NC, case.test.labels_NC, theta, case.data.top_k)
    critical = float((wrong_N & has_error_N).sum()) / max(1.0, float(has_error_N.sum()))
    return float(has_error_N.double().mean()), critical


def confusion(process: DecisionProcess, taken_NL: Tensor, labels_NC: Tensor) -> list[tuple[str, str, float]]:
    """(true choice, taken choice, share of all inputs) of a decision that takes one choice at most.

    A correct decision counts as true = taken; otherwise the true choice is the first list present.
    """
    present_NL = process.present(labels_NC)
    right_N = is_correct(process, taken_NL, labels_NC)
    taken_N = torch.where(taken_NL.any(1), taken_NL.to(torch.int8).argmax(1), -1)
    first_N = torch.where(present_NL.any(1), present_NL.to(torch.int8).argmax(1), -1)
    true_N = torch.where(right_N, taken_N, first_N)
    out = []
    for true in range(-1, process.num_lists):
        for taken in range(-1, process.num_lists):
            share = float(((true_N == true) & (taken_N == taken)).double().mean())
            out.append(("none" if true < 0 else str(true), "none" if taken < 0 else str(taken), share))
    return out


class KnownScores:
    """A backend that answers with scores computed beforehand, one input after another."""

    def __init__(self, labels: tuple[str, ...], theta: float, top_k: int) -> None:
        self.labels, self.theta, self.top_k = labels, theta, top_k
        self.scores_C = np.zeros(len(labels), np.float32)

    def classify(self, app_id: str, vocabulary: str, content: bytes) -> Answer:
        """The scores that were set."""
        return Answer(self.labels, self.scores_C, self.theta, self.top_k)

    def for_one_request(self) -> "KnownScores":
        """These scores."""
        return self

    def transport(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """As the drop-in client's."""
        answer = handle(method, path, headers, body, self)
        return answer.status, answer.body


def decisions_of_code(case: Case, scores_NC: Tensor, theta: float, top_k: int) -> tuple[Tensor, float]:
    """What the application's own code decides on these scores.

    Returns:
        Taken lists (N, L), and the share of inputs on which the parser's summary says the same.

    Raises:
        ConfigError: the application has no entry, or does something that no decision of its summary leads to.
    """
    labels = case.bench.task.labels
    backend = KnownScores(labels, theta, top_k)
    kept = [one for one in case.summary.lists if any(label in labels for label in one.labels)]
    place = {one.id: row for row, one in enumerate(kept)}
    taken_NL = torch.zeros(len(scores_NC), case.process.num_lists, dtype=torch.bool)
    content = case.bench.task.content(case.test.inputs, 0)

    def answer_with(output: Sequence[tuple[str, float]]) -> None:
        backend.scores_C = np.zeros(len(labels), np.float32)
        for label, score in output:
            backend.scores_C[labels.index(label)] = score

    with TemporaryDirectory() as folder, quiet_logging(), AppRunner(case.app, backend.transport) as runner:
        file = Path(folder) / "input"
        file.write_bytes(content)
        given: Any = {"path": str(file), "bytes": content, "text": content.decode("utf-8", "replace")}[case.app.gets]
        meaning = behaviours(case.summary, runner, given, answer_with)
        for row, scores_C in enumerate(scores_NC.numpy()):
            backend.scores_C = scores_C
            did = runner.run(given)
            if did not in meaning:
                raise ConfigError(
                    f"application {case.app.name!r} did {did[:200]!r}, which no decision of its summary leads to."
                )
            for chosen in meaning[did]:
                taken_NL[row, place[chosen]] = True
    by_summary_NL = decide(case.process, scores_NC, theta, top_k)
    return taken_NL, float((taken_NL == by_summary_NL).all(1).double().mean())


def row(metric: str, value: float, method: str, factors: Mapping[str, Any], unit: str = "1") -> Row:
    """A row scored from output that was really produced."""
    return Row(metric, value, unit, "measured", method, factors)


__all__ = ["OPERATING_POINTS", "THETA", "Bench", "Case", "Judged", "Sizes", "at_operating_points"]
