"""The element-to-packet map: bijective, even, without structure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from grace.packet_map import element_order, elements_of_packet, packet_of_elements


@pytest.mark.parametrize("num_elements", [1, 7, 256, 49_152])
def test_order_is_a_bijection(num_elements):
    assert np.array_equal(np.sort(element_order(num_elements, 3)), np.arange(num_elements))


@settings(max_examples=60, deadline=None)
@given(num=st.integers(1, 3000), packets=st.integers(1, 64), key=st.integers(0, 31))
def test_packets_partition_the_elements_evenly(num, packets, key):
    parts = [elements_of_packet(num, packets, index, key) for index in range(packets)]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(num))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    owner = packet_of_elements(num, packets, key)
    for index, part in enumerate(parts):
        assert (owner[part] == index).all()


def test_order_never_changes():
    # The map is part of the format: these numbers may only change together with the packet's version byte.
    assert element_order(16, 0).tolist() == [11, 2, 1, 4, 13, 8, 7, 10, 9, 0, 5, 12, 15, 6, 14, 3]
    assert element_order(16, 5).tolist() == [9, 4, 15, 7, 3, 11, 12, 1, 2, 8, 13, 6, 10, 14, 0, 5]


def test_a_lost_packet_looks_like_chance_everywhere():
    channels, height, width, packets = 64, 32, 32, 8
    owner = packet_of_elements(channels * height * width, packets, 9).reshape(channels, height, width)
    p = 1 / packets
    for axes in ((1, 2), (0, 2), (0, 1), (0,)):
        share = (owner == 2).mean(axis=axes)
        count = owner.size / share.size
        assert np.abs(share - p).max() < 5.5 * np.sqrt(p * (1 - p) / count)


def test_keys_are_independent():
    one, other = packet_of_elements(40_000, 8, 1), packet_of_elements(40_000, 8, 2)
    assert abs((one == other).mean() - 1 / 8) < 0.01


def test_impossible_maps_are_refused():
    with pytest.raises(ConfigError, match="packet 4 of 4"):
        elements_of_packet(10, 4, 4, 0)
    with pytest.raises(ConfigError, match="no packet map of 0 elements"):
        element_order(0, 0)
