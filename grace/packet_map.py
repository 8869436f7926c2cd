"""The reversible pseudo-random map from latent elements to packets (paper, Sec. 3; sheet, 2.6).

Elements 0 .. N-1 (motion first, then residual, each channel by channel) are put into an order that both ends derive from a key;
position p of that order is slot p // n of packet p mod n. Losing a share of the packets is then the same, for the decoder, as
losing a random share of the elements of every channel and every neighbourhood, which is what training simulated.

# DEVIATION grace-5: a keyed random order instead of a prime stride, whose packets take whole columns when n divides the width

The order sorts the elements by SplitMix64(key, element), in integer arithmetic: the same on every machine and numpy version.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError

MAX_PACKETS = 255
NUM_KEYS = 32
"""Frames use keys in turn: neighbouring frames get unlike maps, and a sender needs to build only so many."""


def split_mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The SplitMix64 finaliser, element by element, modulo 2^64."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


@functools.lru_cache(maxsize=2 * NUM_KEYS)
def element_order(num_elements: int, key: int) -> NDArray[np.int64]:
    """The elements in the order in which they are dealt to packets, (N,). Read-only.

    Raises:
        ConfigError: no elements, or a key outside 0 .. 2^32 - 1.
    """
    if num_elements < 1 or not 0 <= key < 1 << 32:
        raise ConfigError(f"no packet map of {num_elements} elements with key {key}; need >= 1 and a key below 2^32.")
    start = split_mix(np.array([key], dtype=np.uint64))
    with np.errstate(over="ignore"):
        hashes = split_mix(np.arange(num_elements, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95) + start)
    order = np.argsort(hashes, kind="stable")
    order.setflags(write=False)
    return order


def elements_of_packet(num_elements: int, num_packets: int, index: int, key: int) -> NDArray[np.int64]:
    """The elements that packet `index` of `num_packets` carries, in ascending order.

    Sizes of the packets of a frame differ by at most one.

    Raises:
        ConfigError: numbers that do not fit each other.
    """
    if not 1 <= num_packets <= MAX_PACKETS or not 0 <= index < num_packets:
        raise ConfigError(f"packet {index} of {num_packets}: need 1..{MAX_PACKETS} packets and an index below that.")
    return np.sort(element_order(num_elements, key)[index::num_packets])


def packet_of_elements(num_elements: int, num_packets: int, key: int) -> NDArray[np.int64]:
    """For each element the packet that carries it, (N,)."""
    packet = np.empty(num_elements, np.int64)
    packet[element_order(num_elements, key)] = np.arange(num_elements) % num_packets
    return packet
