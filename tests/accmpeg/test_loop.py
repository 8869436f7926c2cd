"""The loop: delays by hand, bytes from real packets, curves and their interpolation."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accmpeg.contract import square_clip
from accmpeg.curves import cost_at, envelope, reduction
from accmpeg.loop import PAPER_PROFILE, Ledger, LinkSettings, MeteredLoop, encode_chunk, transfer
from common.errors import ConfigError
from common.net.link import UP

# A busy machine is no failure.
STEADY = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def loop(**settings) -> MeteredLoop:
    ticks = itertools.count()
    return MeteredLoop(LinkSettings(**settings).build(), 30.0, lambda: 0.25 * next(ticks))


def test_paper_delay_by_hand():
    # 31 250 B at 0.5 Mbit/s is 0.5 s; RTT 0.1, encode 0.131, AccModel 0.08: 0.811 s.
    ledger = Ledger({"encode": 9.0, "accmodel": 9.0, "network": 9.0}, 31250, 1)
    assert sum(PAPER_PROFILE.parts(ledger).values()) == pytest.approx(0.811)
    # DDS: two passes, two round trips more.
    ledger = Ledger({"encode": 9.0, "encode_again": 9.0, "network": 9.0}, 31250, 2)
    assert sum(PAPER_PROFILE.parts(ledger, 2).values()) == pytest.approx(0.5 + 0.3 + 0.262)
    ledger = Ledger({"frame_features": 9.0, "encode": 9.0}, 0, 1)
    assert sum(PAPER_PROFILE.parts(ledger).values()) == pytest.approx(0.1 + 0.0435 + 0.247)


def test_transfer_by_hand():
    # 3000 B are packets of 1200, 1200 and 600 B with 28 B each: 3084 B = 24 672 bit at 100 kbit/s, and half a round trip.
    link = LinkSettings(100e3, 0.1).build()
    assert transfer(link, UP, 0.0, 3000) == pytest.approx(0.24672 + 0.05)
    # The next one waits for the link.
    assert transfer(link, UP, 0.0, 972) == pytest.approx(0.24672 + 0.08 + 0.05)


def test_parts_add_up():
    clip = square_clip()
    metered = loop(bandwidth_bps=1e6, rtt_s=0.2)
    assert metered.compute("accmodel", lambda: 7) == 7
    received = metered.upload(clip.frames, 34)
    ledger = metered.finish()
    assert received.shape == clip.frames.shape
    assert {part: s for part, s in ledger.seconds.items() if part != "network"} == {
        "accmodel": 0.25,
        "encode": 0.25,
        "decode": 0.25,
    }
    num_bytes = encode_chunk(clip.frames, 34).num_bytes
    assert ledger.num_bytes == num_bytes
    packets = -(-num_bytes // 1200)
    wire_s = 8 * (num_bytes + 28 * packets) / 1e6
    assert ledger.seconds["network"] == pytest.approx(wire_s + 0.2, abs=1e-4)
    assert ledger.delay_s == pytest.approx(0.75 + wire_s + 0.2, abs=1e-4)


def test_a_uniform_map_is_the_plain_encoding_and_maps_cost_between():
    frames = square_clip().frames
    grid = (6, 8)
    uniform = encode_chunk(frames, np.full(grid, 34, np.uint8))
    assert [packet.data for packet in uniform.packets] == [packet.data for packet in encode_chunk(frames, 34).packets]
    sizes = []
    for count in (0, 8, 20, 48):
        qp_map = np.full(grid, 44, np.uint8)
        qp_map.flat[:count] = 30
        sizes.append(encode_chunk(frames, qp_map).num_bytes)
    assert all(b > 0.98 * a for a, b in itertools.pairwise(sizes))
    assert sizes[-1] > 2 * sizes[0]


def test_bad_link_is_refused():
    with pytest.raises(ConfigError, match="bandwidth_bps=0"):
        LinkSettings(0)


def test_envelope_and_interpolation_by_hand():
    curve = [(0.8, 1.0), (0.9, 2.0), (0.85, 3.0), (0.95, 4.0)]
    assert [list(side) for side in envelope(curve)] == [[0.8, 0.9, 0.95], [1.0, 2.0, 4.0]]
    assert cost_at(curve, np.array([0.79, 0.85, 0.925, 0.96])).tolist() == pytest.approx([np.inf, 1.5, 3.0, np.inf])
    half = [(accuracy, cost / 2) for accuracy, cost in curve]
    assert reduction(half, {"a": curve}) == pytest.approx(0.5)
    assert reduction(curve, {"a": half}) == pytest.approx(-1.0)
    # Of several rivals the cheapest counts.
    assert reduction(half, {"a": curve, "b": half}) == pytest.approx(0.0)
    assert reduction([(0.5, 1.0)], {"a": [(0.6, 1.0), (0.7, 2.0)]}) is None


@STEADY
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 10)), min_size=1, max_size=8))
def test_a_system_saves_nothing_against_itself(curve):
    assert reduction(curve, {"same": curve}) == pytest.approx(0.0)
    accuracies, costs = envelope(curve)
    assert (np.diff(accuracies) > 0).all()
    assert (np.diff(costs) >= 0).all()
