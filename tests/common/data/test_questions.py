"""Generated questions as several papers' workloads draw them."""

import dataclasses

import numpy as np
import pytest

from common.data.questions import GeneratedQuestions
from common.errors import ConfigError


def test_families_come_in_turn_and_streams_repeat():
    source = GeneratedQuestions(("single_fact", "topic_retrieval"), num_chunks=3)
    items = list(source.items(np.random.default_rng(1), 5))
    assert [item.family for item in items] == ["single_fact", "topic_retrieval"] * 2 + ["single_fact"]
    assert {len(item.chunks) for item in items} == {3}
    assert items == list(source.items(np.random.default_rng(1), 5))
    assert items != list(source.items(np.random.default_rng(2), 5))
    assert items == list(source.items_from({"source": "generated"}, np.random.default_rng(1), 5))


def test_bad_arguments_are_refused_when_the_workload_is_made():
    with pytest.raises(ConfigError, match="families"):
        GeneratedQuestions(())
    with pytest.raises(ConfigError, match="'single_facts'"):
        GeneratedQuestions(("single_fact", "single_facts"))
    with pytest.raises(ConfigError, match="split"):
        dataclasses.replace(GeneratedQuestions(("single_fact",)), split="exam")
