"""Random streams: by seed and component name, independent of each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.rng import for_component, seed_for


def test_golden_values_do_not_change_between_versions_or_machines():
    assert for_component(0, "workload").integers(1000, size=5).tolist() == GOLDEN
    assert for_component(0, "workload").integers(1000, size=5).tolist() == GOLDEN


@given(st.integers(0, 2**32), st.text(max_size=20), st.text(max_size=20))
def test_other_seeds_and_names_give_other_streams(seed, one, other):
    assert seed_for(seed, one) == seed_for(seed, one) < 2**63
    assert seed_for(seed, one) != seed_for(seed + 1, one)
    if one != other:
        assert seed_for(seed, one) != seed_for(seed, other)
        assert not np.array_equal(for_component(seed, one).random(4), for_component(seed, other).random(4))


def test_parts_of_a_name_do_not_run_together():
    assert seed_for(0, "a", "bc") != seed_for(0, "ab", "c")


GOLDEN = [449, 722, 157, 641, 707]


def test_negative_seeds_are_refused():
    with pytest.raises(ConfigError, match="seed=-1 must be 0 or more"):
        for_component(-1, "workload")
