"""All that a user or a plug-in author imports.

    report = parse_application(Path("my_app"))                     # what does the application decide? (nothing of it runs)
    process = DecisionProcess.from_summary(report.decisions[0], vocabulary)
    loss = METHODS.create("chameleonapi", alpha=5.0).loss(process, logits_NC, labels_NC)

A method is a (frozen) dataclass with a `loss` method: the harness fine-tunes the provider's model with it, in two stages, for as
many steps as every other one.

    @METHODS.add("hinge")
    @dataclass(frozen=True)
    class Hinge:
        margin: float = 0.1
        def loss(self, app, logits_NC, labels_NC): ...

One that is no loss has `customize` instead and hands back scorers. Either way it returns models, never error rates:
thresholds are
chosen on validation and decisions are scored by the harness, for all methods alike. Importing this module does
not import torch.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from chameleonapi.decisions import DecisionSummary, NumericVariable, Span, TargetList, Threshold
from chameleonapi.parser.parse import ParseReport, parse_application
from common.experiment import Experiment, Paper, check_in
from common.registry import Registry

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor

    from chameleonapi.applications import Application
    from chameleonapi.semantics import DecisionProcess
    from chameleonapi.tasks.task import Examples, Task
    from chameleonapi.training import AppData, Provider

__all__ = [
    "EXPERIMENTS",
    "METHODS",
    "PAPER",
    "WORKLOADS",
    "AppData",
    "Application",
    "Customization",
    "DecisionProcess",
    "DecisionSummary",
    "Examples",
    "LossDesign",
    "NumericVariable",
    "ParseReport",
    "Provider",
    "Scorer",
    "Span",
    "TargetList",
    "Task",
    "Threshold",
    "Workload",
    "parse_application",
]


class LossDesign(Protocol):
    """How an application's decision process becomes a training loss."""

    def loss(self, app: "DecisionProcess", logits_NC: "Tensor", labels_NC: "Tensor") -> "Tensor":
        """Mean loss of a batch.

        Args:
            app: the decision process over the C labels.
            logits_NC: scores before the sigmoid.
            labels_NC: 1 (or True) where a label is true.
        Returns:
            A scalar tensor that can be differentiated with respect to the logits. Deterministic; changes no argument.
        """
        ...


class Scorer(Protocol):
    """A model as the harness sees it."""

    def scores(self, inputs: "Tensor") -> "Tensor":
        """Scores in [0, 1] of the task's C labels, (N, C). Deterministic."""
        ...


class Customization(Protocol):
    """A method that is no loss."""

    def customize(self, app: "AppData", provider: "Provider", rng: "Generator") -> "Sequence[Scorer]":
        """Models for one application: one, or several of which the harness takes the one that is best on validation.

        Args:
            app: the application's decision process, and its training and validation examples. The test examples are not in it.
            provider: the provider's models and training pool. Must not be changed.
            rng: the only source of randomness.
        """
        ...


class Workload(Protocol):
    """Applications, and the task whose API they call."""

    @property
    def task(self) -> "Task":
        """Labels and examples."""
        ...

    def items(self, rng: "Generator", n: int) -> "Iterator[Application]":
        """At most n applications, the same ones for the same stream."""
        ...


METHODS: Registry[Any] = Registry("chameleonapi method", ["chameleonapi.methods"])
WORKLOADS: Registry[Any] = Registry("chameleonapi workload", ["chameleonapi.workloads"])
EXPERIMENTS: Registry[type[Experiment]] = Registry("chameleonapi experiment", ["chameleonapi.experiments"])


PAPER = Paper(
    name="chameleonapi",
    title="ChameleonAPI: Automatic and Efficient Customization of Neural Networks for ML Applications (OSDI 2024)",
    methods=METHODS,
    workloads=WORKLOADS,
    experiments=EXPERIMENTS,
    method_contract=(check_in("chameleonapi.contract", "check_method"),),
    workload_contract=(check_in("chameleonapi.contract", "check_workload"),),
)

_LAZY = {  # these import torch, which reading an application does not need
    "DecisionProcess": "chameleonapi.semantics",
    "Application": "chameleonapi.applications",
    "AppData": "chameleonapi.training",
    "Provider": "chameleonapi.training",
    "Examples": "chameleonapi.tasks.task",
    "Task": "chameleonapi.tasks.task",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
