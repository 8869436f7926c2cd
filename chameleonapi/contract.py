"""The rules that every registered method and workload keeps; run on a stranger's as on our own."""

import dataclasses
from typing import Any

import numpy as np
import torch

from chameleonapi.api import METHODS, WORKLOADS
from chameleonapi.applications import Application
from chameleonapi.networks import Architecture, Network
from chameleonapi.semantics import DecisionProcess
from chameleonapi.tasks.everyday import LABELS, EverydayTask
from chameleonapi.tasks.task import Examples
from chameleonapi.training import AppData, Provider, Schedule, customize


def tiny_provider() -> Provider:
    """A provider with small untrained networks and 60 examples, for checks."""
    task = EverydayTask()
    rng = np.random.default_rng(0)
    networks = [Network(Architecture("convolution", LABELS, 4, 8)).initialise(rng).eval() for _ in range(2)]
    categorized = {
        name: Network(Architecture("convolution", own, 4, 8)).initialise(rng).eval()
        for name, own in task.categories.items()
    }
    return Provider(task, networks[0], (networks[1],), categorized, task.examples("train", 5, 60))


def check_method(name: str) -> None:
    """A method gives models with finite scores in [0, 1], the same for the same seed, and leaves its arguments alone."""
    provider = tiny_provider()
    labels_before = provider.pool.labels_NC.clone()
    weights_before = provider.generic.fingerprint()
    for kind, order in (("multi_choice", "api_first"), ("multi_select", None)):
        process = DecisionProcess.from_lists(kind, [[0, 5, 9], [14, 22, 31]], len(LABELS), order)
        examples = provider.pool.take(range(40))
        validation = provider.pool.take(range(40, 60))
        schedule = Schedule(stage1_epochs=1, stage2_epochs=1, batch=20)
        app = AppData("checked", None, process, examples, validation, 0.5, 10, schedule)
        method = METHODS.create(name, **_required(METHODS, name))

        def scores(method: Any = method, app: AppData = app, inputs: Any = validation.inputs) -> list[torch.Tensor]:
            return [model.scores(inputs) for model in customize(method, app, provider, np.random.default_rng(1))]

        first, second = scores(), scores()
        assert len(first) == len(second) >= 1, f"{name} returned {len(first)} models, then {len(second)}"
        for one, again in zip(first, second, strict=True):
            assert one.shape == (len(validation), len(LABELS)), f"{name} returned scores of shape {tuple(one.shape)}"
            assert bool(torch.isfinite(one).all()), f"{name} returned scores that are not finite"
            assert float(one.min()) >= 0, f"{name} returned scores below 0"
            assert float(one.max()) <= 1, f"{name} returned scores above 1"
            assert torch.equal(one, again), f"{name} gives other models for the same seed"
    assert provider.generic.fingerprint() == weights_before, f"{name} changed the provider's model"
    assert torch.equal(provider.pool.labels_NC, labels_before), f"{name} changed the examples"


def check_workload(name: str) -> None:
    """A workload gives applications of its task, the same for the same stream, whose decisions the parser finds."""
    required = _required(WORKLOADS, name)
    if name == "my_apps":  # has to be told where they are
        from chameleonapi.applications import BUNDLED

        required = {"folder": str(BUNDLED)}
    workload = WORKLOADS.create(name, **required)

    def draw(seed: int, n: int) -> list[Any]:
        return list(workload.items(np.random.default_rng(seed), n))

    apps = draw(1, 3)
    assert 1 <= len(apps) <= 3, f"{name} gave {len(apps)} applications when asked for 3"
    assert all(isinstance(app, Application) for app in apps), f"{name} must give Applications"
    assert len({app.name for app in apps}) == len(apps), f"{name} gave two applications of the same name"
    assert apps == draw(1, 3), f"{name} gives other applications for the same random stream"
    examples = workload.task.examples("test", 0, 4)
    assert isinstance(examples, Examples), f"{name}: its task must give Examples"
    assert examples.labels_NC.shape == (4, len(workload.task.labels))
    if name != "my_apps":
        for app in apps:
            app.summary(workload.task.vocabulary, workload.task.labels)


def _required(registry: Any, name: str) -> dict[str, Any]:
    missing = [knob for knob, default in registry.knobs(name).items() if default is dataclasses.MISSING]
    assert not missing, f"{registry.kind} {name!r} needs a default for {', '.join(missing)}, so that it can be checked"
    return {}
