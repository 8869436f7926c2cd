"""The rules that every registered method and workload keeps; run on a stranger's as on our own."""

import dataclasses
from typing import Any

import numpy as np

from common.data.items import QueryProfile
from common.errors import ConfigError
from ragserve.api import (
    METHODS,
    WORKLOADS,
    Dataset,
    PlannedQuery,
    Profile,
    Query,
    RagConfig,
    ServerLoad,
    TokenCosts,
)
from ragserve.mapping import SpaceSettings, pruned_space
from ragserve.methods import ProfileClass


class _Knowledge:
    """A little made-up knowledge for methods that ask for some."""

    def development(self) -> dict[ProfileClass, dict[RagConfig, float]]:
        scores = {RagConfig("stuff", 2): 0.5, RagConfig("map_reduce", 3, 40): 0.6}
        return {(joint, is_complex): scores for joint in (False, True) for is_complex in (False, True)}

    def outcomes(self, query: Query) -> dict[RagConfig, tuple[float, float]]:
        return {RagConfig("stuff", 2): (0.5, 1.0), RagConfig("map_rerank", 1): (0.5, 0.5)}


def check_method(name: str) -> None:
    """A method returns a usable configuration under any load, the same for the same input, and changes nothing."""
    policy = METHODS.create(name, **_required(METHODS, name))
    if hasattr(policy, "informed_by"):
        policy = policy.informed_by(_Knowledge())
    before = repr(policy)
    costs = TokenCosts(60, 100, 20, 28, 4096)
    gold = QueryProfile(True, True, 2, (30, 60))
    query = Query("contract/0", "Who is older, Anna or Adam?", ("Anna",), gold_profile=gold)
    for joint in (False, True):
        for pieces in (1, 4, 10):
            profile = Profile(True, joint, pieces, (30, 60), 0.95, 0.1, 100)
            for most in (1, 5, 40):
                space = pruned_space(profile, SpaceSettings(), most)
                planned = PlannedQuery(query, profile, space, costs, most, seed=3)
                for free in (0, 150, 700, 10**6):
                    load = ServerLoad(free, 100, 10**6, 1, 1, 500, 8000.0, 0.03)
                    config = policy.choose(planned, load)
                    assert isinstance(config, RagConfig), f"{name} returned a {type(config).__name__}, not a RagConfig"
                    assert config.num_chunks <= most, f"{name} wants {config.num_chunks} chunks of {most}"
                    assert config == policy.choose(planned, load), f"{name} chooses differently for the same input"
    assert repr(policy) == before, f"{name} changes itself while choosing"


def check_workload(name: str) -> None:
    """A workload gives as many queries as asked for, the same for the same stream, each with a corpus and an answer."""
    workload = WORKLOADS.create(name, **_required(WORKLOADS, name))

    def draw(seed: int, n: int) -> Dataset:
        found: Dataset = workload.dataset(np.random.default_rng(seed), n)
        return found

    dataset = draw(1, 3)
    assert isinstance(dataset, Dataset), f"{name} must return a Dataset, not a {type(dataset).__name__}"
    assert len(dataset.queries) == 3, f"{name} gave {len(dataset.queries)} queries when asked for 3"
    assert dataset == draw(1, 3), f"{name} gives other queries for the same random stream"
    assert len({query.query_id for query in dataset.queries}) == 3, f"{name} repeats query ids"
    for query in dataset.queries:
        corpus = dataset.corpora[query.corpus]
        assert corpus.chunks, f"{name}: query {query.query_id} has an empty corpus"
        assert all(0 <= index < len(corpus.chunks) for index in query.evidence), (
            f"{name}: evidence outside of the corpus"
        )
        assert query.answers, f"{name}: query {query.query_id} has no gold answer"


def _required(registry: Any, name: str) -> dict[str, Any]:
    knobs = registry.knobs(name)
    missing = [knob for knob, default in knobs.items() if default is dataclasses.MISSING]
    if missing:
        raise ConfigError(
            f"{registry.kind} {name!r} needs a default for {', '.join(missing)}, so that it can be checked."
        )
    return {}
