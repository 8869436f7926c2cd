"""From an application's source to a served model, in one call."""

from dataclasses import dataclass
from pathlib import Path

from chameleonapi.api import METHODS
from chameleonapi.applications import Application
from chameleonapi.networks import Network
from chameleonapi.provider import bundled_provider
from chameleonapi.registry import ModelRegistry, Version
from chameleonapi.semantics import DecisionProcess
from chameleonapi.training import (
    AppData,
    Provider,
    Schedule,
    choose,
    customize,
    request_limits,
    select,
    wrong_decisions,
)
from common.errors import ConfigError
from common.results import sha256_of
from common.rng import for_component


@dataclass(frozen=True)
class Customized:
    """What came out.

    Attributes:
        version: as registered.
        kind, num_lists: of the decision.
        idr, generic_idr: incorrect decision rates of the new model and of the generic one on the same test inputs.
        num_test: how many.
    """

    version: Version
    kind: str
    num_lists: int
    idr: float
    generic_idr: float
    num_test: int


def customize_and_publish(
    app: Application,
    models: Path,
    method: str = "chameleonapi",
    *,
    examples: int = 2000,
    epochs: int = 3,
    seed: int = 0,
    provider: Provider | None = None,
) -> Customized:
    """Parse an application, train for it, choose on validation, register the model.

    Args:
        app: its source; nothing of it runs.
        models: folder of the registry.
        method: name of a method whose models are networks.
        examples: training examples, balanced over the application's lists; half as many for validation and test each.
        epochs: of each stage.
        seed: of selection and training.
        provider: instead of the bundled one of the application's task.

    Raises:
        ConfigError: the application has no decision that can be trained for, or the method gives no network.
    """
    provider = provider or bundled_provider(app.task)
    task = provider.task
    summary = app.summary(task.vocabulary, task.labels)
    process = DecisionProcess.from_summary(summary, task.labels)
    theta, top_k = request_limits(summary)
    rng = for_component(seed, "chameleonapi", "customize", app.name)
    held_out = {}
    for split in ("validation", "test"):
        pool = task.examples(split, seed, 3 * examples)
        held_out[split] = pool.take(select(process, pool, examples // 2, rng))
    train = provider.pool.take(select(process, provider.pool, examples, rng))
    schedule = Schedule(stage1_epochs=epochs, stage2_epochs=epochs)
    data = AppData(app.name, summary, process, train, held_out["validation"], theta, top_k, schedule)
    candidates = customize(METHODS.create(method), data, provider, rng)
    if not all(isinstance(c, Network) for c in candidates):
        raise ConfigError(
            f"method {method!r} gives no network that could be served. Use chameleonapi or basic_equal_steps."
        )
    validation, test = held_out["validation"], held_out["test"]
    scores = [c.scores(validation.inputs) for c in candidates]
    best: Network = candidates[choose(process, scores, validation.labels_NC, [theta], top_k).candidate]

    def idr(network: Network) -> float:
        wrong_N = wrong_decisions(process, network.scores(test.inputs), test.labels_NC, theta, top_k)
        return float(wrong_N.double().mean())

    rates = idr(best), idr(provider.generic)
    facts = {
        "summary_sha256": sha256_of(summary.to_json()),
        "method": method,
        "seed": seed,
        "train_examples": len(train),
        "test_idr": rates[0],
        "generic_test_idr": rates[1],
    }
    version = ModelRegistry(models).publish(app.name, best, theta=theta, top_k=top_k, facts=facts)
    return Customized(version, process.kind, process.num_lists, *rates, len(test))
