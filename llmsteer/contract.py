"""The rules that every registered method and workload keeps; run on a stranger's as on our own."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import torch

from common.models.loading import ModelSpec, load
from llmsteer.api import METHODS, WORKLOADS, Context, ContextItem, SteeringPlan, TokenQuery
from llmsteer.engine import Engine, HeadProfile


def check_method(name: str) -> None:
    """A method is deterministic, leaves the context as it was, fits the model, and only per-query methods read the query."""
    rng = np.random.default_rng(7)
    draw = [tuple(rng.integers(0, 999, size).tolist()) for size in (60, 6, 6)]
    queries = (
        TokenQuery(draw[1], evidence=(3, 4, 5), max_answer_tokens=3),
        TokenQuery(draw[2], evidence=(20, 21), max_answer_tokens=3),
    )
    sentences = tuple((start, start + 10) for start in range(0, 60, 10))
    context = Context(draw[0], queries, sentences, frozenset({0}))
    profile = HeadProfile({1: (0, 2)}, 4.0, 0.0, {}, {}, {}, 0)
    engine = Engine(load(ModelSpec("random_tiny", "random", device="cpu")), profile=profile)
    method = METHODS.create(name, **_required(METHODS, name))
    per_query = getattr(method, "per_query", False)
    answers = []
    for _ in range(2):
        plan = method.plan(context, engine, queries[0] if per_query else None)
        assert isinstance(plan, SteeringPlan), f"{name}.plan returned a {type(plan).__name__}, not a SteeringPlan"
        prepared = engine.prepare(context, plan, queries[0])
        before = [layer.keys.clone() for layer in prepared.cache.layers]
        answers.append((engine.answer(prepared, queries[0]), plan.record.digest() if plan.record else ""))
        after = [layer.keys for layer in prepared.cache.layers]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), (
            f"{name}: answering changed the cache"
        )
    assert answers[0] == answers[1], f"{name} is not deterministic"
    fresh = Context(draw[0], queries, sentences, frozenset({0}))
    assert context == fresh, f"{name} changed the context"


def check_workload(name: str) -> None:
    """A workload gives as many contexts as asked for, the same for the same stream, others for another."""
    workload = WORKLOADS.create(name, **_required(WORKLOADS, name))

    def draw(seed: int, n: int) -> list[Any]:
        return list(itertools.islice(workload.items(np.random.default_rng(seed), n), n + 1))

    items = draw(1, 2)
    assert len(items) == 2, f"{name} gave {len(items)} contexts when asked for 2"
    assert all(isinstance(item, ContextItem | Context) for item in items), (
        f"{name} gives neither ContextItem nor Context"
    )
    assert all(item.queries for item in items), f"{name} gives a context without queries"
    assert items == draw(1, 2), f"{name} gives other contexts for the same random stream"
    assert items != draw(2, 2), f"{name} ignores its random stream"


def _required(registry: Any, name: str) -> dict[str, Any]:
    """Entries with knobs that have no default cannot be built without the user's help."""
    missing = [knob for knob, default in registry.knobs(name).items() if default is dataclasses.MISSING]
    assert not missing, f"{registry.kind} {name!r} needs a default for {', '.join(missing)}, so that it can be checked"
    return {}
