"""All that a user or a plug-in author imports.

    report = parse_application(Path("my_app"))                     # what does the application decide? (nothing of it runs)
    process = DecisionProcess.from_summary(report.decisions[0], vocabulary)
    loss = LOSSES.create("chameleonapi", alpha=5.0).loss(process, logits_NC, labels_NC)

A plug-in is a (frozen) dataclass with a `loss` method:

    @LOSSES.add("hinge")
    @dataclass(frozen=True)
    class Hinge:
        margin: float = 0.1
        def loss(self, app, logits_NC, labels_NC): ...
"""

from typing import TYPE_CHECKING, Any, Protocol

from chameleonapi.decisions import DecisionSummary, NumericVariable, Span, TargetList, Threshold
from chameleonapi.parser.parse import ParseReport, parse_application
from common.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from chameleonapi.semantics import DecisionProcess


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


LOSSES: Registry[type[LossDesign]] = Registry("chameleonapi loss design", modules=["chameleonapi.methods"])

__all__ = [
    "LOSSES",
    "DecisionProcess",
    "DecisionSummary",
    "LossDesign",
    "NumericVariable",
    "ParseReport",
    "Span",
    "TargetList",
    "Threshold",
    "parse_application",
]


def __getattr__(name: str) -> Any:
    if name == "DecisionProcess":  # imports torch, which reading an application does not need
        from chameleonapi.semantics import DecisionProcess

        return DecisionProcess
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
