import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.net.link import DOWN, UP, Direction, LinkSpec
from common.net.loop import EventLoop, LoopNetwork
from common.net.loss import Bernoulli, GilbertElliott, Outages, Scripted
from common.net.rate import ConstantRate, DeliveryTrace, SteppedRate

LOSSES = st.one_of(
    st.builds(Bernoulli, st.floats(0, 1)),
    st.builds(GilbertElliott, st.floats(0.05, 3), st.floats(0.05, 3)),
    st.just(Scripted([0, 2])),
)
STEPPED = st.lists(st.tuples(st.floats(0.05, 3), st.sampled_from([0.0, 1e4, 1e5, 3e6])), min_size=1, max_size=6).filter(
    lambda rows: any(rate > 0 for _, rate in rows)
)
RATES = st.one_of(
    st.builds(ConstantRate, st.floats(1e4, 1e8)),
    STEPPED.map(lambda rows: SteppedRate(tuple(itertools.accumulate(t for t, _ in rows)), tuple(r for _, r in rows))),
    st.lists(st.integers(0, 400), min_size=1, max_size=30)
    .map(sorted)
    .filter(lambda times: times[-1] > 0)
    .map(lambda times: DeliveryTrace(tuple(times))),
)
PACKETS = st.lists(st.tuples(st.floats(0, 0.2), st.integers(20, 1500), st.booleans()), max_size=60)


@given(RATES, LOSSES, st.integers(1, 20), st.floats(0, 0.3), PACKETS, st.integers(0, 99), st.floats(0, 0.99))
def test_packets_are_conserved_and_causal(rate, loss, queue_packets, delay_s, packets, seed, phase):
    direction = Direction(rate, delay_s, queue_packets, loss)
    net = LoopNetwork(LinkSpec(direction, direction, seed, phase).build())
    arrived = {0: [], 1: []}
    sockets = [net.udp(node, 1, lambda data, node=node: arrived[node].append((net.now(), data))) for node in (0, 1)]
    sent = {0: [], 1: []}
    when = 0.0
    for number, (gap, size, is_down) in enumerate(packets):
        when += gap
        data = number.to_bytes(4, "big") + b"." * (size - 20)
        source = 0 if is_down else 1

        def send(source=source, data=data):
            sent[1 - source].append((net.now(), data))
            sockets[source].send(data)

        net.at(when, send)
    net.run(1e9)
    for node in (0, 1):
        counters = net.link.counters[node]
        # conservation: every packet offered was dropped, lost or delivered; none was made, copied or changed
        assert counters.offered == len(sent[node]) == counters.dropped + counters.lost + counters.passed
        assert counters.passed == len(arrived[node])
        times = {data: t for t, data in sent[node]}
        for t, data in arrived[node]:
            assert t >= times[data] + delay_s - 1e-9
        # first in, first out
        order = [data for _, data in sent[node]]
        places = [order.index(data) for _, data in arrived[node]]
        assert places == sorted(places)


@given(
    STEPPED, st.lists(st.tuples(st.floats(0, 1), st.integers(20, 1500)), min_size=1, max_size=30), st.floats(0, 0.99)
)
def test_a_stepped_rate_forwards_exactly_its_integral(rows, packets, phase):
    """While the transmitter is busy, bits sent = the integral of the rate, by brute force over the steps."""
    trace = SteppedRate(tuple(itertools.accumulate(t for t, _ in rows)), tuple(r for _, r in rows))
    server = trace.start(phase)
    offset = phase * trace.duration_s

    def integral(a, b):
        edges = [0.0, *trace.ends_s]
        total, lap = 0.0, int(a // trace.duration_s)
        while lap * trace.duration_s < b:
            for start, end, rate in zip(edges, trace.ends_s, trace.bps, strict=False):
                low, high = lap * trace.duration_s + start, lap * trace.duration_s + end
                total += rate * max(0.0, min(b, high) - max(a, low))
            lap += 1
        return total

    when = 0.0
    for gap, size in packets:
        when += gap
        start, end = server.serve(when, size)
        assert when <= start <= end
        assert integral(start + offset, end + offset) == pytest.approx(size * 8, rel=1e-6, abs=1e-2)


def test_delay_by_hand():
    # 94 bytes at 1 Mbit/s = 0.752 ms, plus 20 ms
    link = LinkSpec(Direction(ConstantRate(1e6), 0.02), Direction(ConstantRate(1e6), 0.02)).build()
    assert link.transmit(DOWN, 0.0, 94) == pytest.approx(0.020752, abs=1e-12)
    assert link.transmit(DOWN, 0.0, 94) == pytest.approx(0.021504, abs=1e-12)  # waits for the first
    assert link.transmit(UP, 0.0, 94) == pytest.approx(0.020752, abs=1e-12)  # directions are independent


def test_the_queue_holds_what_it_says():
    link = LinkSpec(Direction(ConstantRate(8000), 0.0, queue_packets=2)).build()  # 1000 bytes take 1 s
    arrivals = [link.transmit(DOWN, 0.0, 1000) for _ in range(4)]
    assert arrivals == [1.0, 2.0, 3.0, None]  # one in transmission, two waiting, one dropped
    assert link.transmit(DOWN, 1.0, 1000) == 4.0
    assert link.counters[DOWN].dropped == 1


def test_an_outage_that_loses_and_one_that_holds():
    losing = LinkSpec(Direction(ConstantRate(1e6), 0.0, loss=Outages(((1.0, 2.0),)))).build()
    holding = LinkSpec(Direction(SteppedRate((1.0, 2.0, 100.0), (1e6, 0.0, 1e6)), 0.0)).build()
    assert losing.transmit(DOWN, 1.5, 125) is None
    assert holding.transmit(DOWN, 1.5, 125) == pytest.approx(2.001)


def test_a_packet_that_spans_an_outage_and_the_end_of_the_trace():
    server = SteppedRate((1.0, 2.0), (1000.0, 0.0)).start()
    assert server.serve(0.5, 125)[1] == pytest.approx(
        2.5
    )  # 500 bits until 1 s, nothing until 2 s, 500 bits in the next lap
    server = SteppedRate((1.0, 2.0), (1000.0, 0.0)).start()
    assert server.serve(0.0, 125)[1] == pytest.approx(1.0)  # finished exactly as the outage begins


def test_mahimahi_opportunities_by_hand():
    server = DeliveryTrace((0, 10, 10, 30)).start()
    assert server.serve(0.001, 1500)[1] == 0.010  # the opportunity at 0 ms has passed unused
    assert server.serve(0.001, 700)[1] == 0.010  # the second one at 10 ms
    assert server.serve(0.002, 800)[1] == 0.010  # shares it: 700 + 800 = 1500
    assert server.serve(0.003, 100) == (0.030, 0.030)  # nothing is left at 10 ms: it starts with the next one
    server = DeliveryTrace((0, 10, 10, 30)).start()
    for size in (1500, 1500):
        server.serve(0.001, size)
    assert server.serve(0.003, 3000)[1] == pytest.approx(0.030)  # 30 ms, and 0 ms of the next lap, which is 30 ms too
    assert server.serve(0.035, 100)[1] == pytest.approx(0.040)


@example([1], [(0.125, 20, False)])  # arrives exactly when a lap ends
@given(st.lists(st.integers(0, 200), min_size=1, max_size=20).map(sorted).filter(lambda t: t[-1] > 0), PACKETS)
def test_mahimahi_against_a_byte_by_byte_model(times, packets):
    """The reference plays every opportunity in turn, as mahimahi's link queue does."""
    arrivals, when = [], 0.0
    for gap, size, _ in packets:
        when += gap
        arrivals.append((when, size))
    server = DeliveryTrace(tuple(times)).start()
    ours = [server.serve(t, size)[1] for t, size in arrivals]
    queue = [[t, size] for t, size in arrivals]
    reference = []
    for lap in itertools.count():
        if not queue:
            break
        for ms in times:
            now, left = (lap * times[-1] + ms) / 1000, 1500
            while left and queue and queue[0][0] <= now:
                taken = min(left, queue[0][1])
                left -= taken
                queue[0][1] -= taken
                if queue[0][1] == 0:
                    reference.append(now)
                    queue.pop(0)
    assert ours == pytest.approx(reference, abs=1e-9)


def test_runs_are_bit_identical():
    spec = LinkSpec(Direction(loss=GilbertElliott(0.5, 0.2)), Direction(loss=Bernoulli(0.3)), seed=4)

    def arrivals():
        link = spec.build()
        return [link.transmit(node, i * 0.01, 100 + i) for i in range(300) for node in (DOWN, UP)]

    first = arrivals()
    assert all(arrivals() == first for _ in range(1000 // 20))
    assert any(t is None for t in first)


def test_event_loop_order_stop_and_errors():
    loop, log = EventLoop(), []
    loop.at(2, lambda: log.append("b"))
    loop.at(1, lambda: (log.append("a"), loop.at(0.5, lambda: log.append("now"))))
    loop.at(2, lambda: log.append("c"))
    loop.at(3, loop.stop)
    loop.at(3, lambda: log.append("after stop"))
    loop.run(10)
    assert (log, loop.now()) == (["a", "now", "b", "c"], 3)
    loop.at(4, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.run(10)
    loop.run(10)
    assert loop.now() == 10


def test_wrong_nodes_ports_and_values_are_refused():
    net = LoopNetwork(LinkSpec().build())
    net.udp(0, 1, lambda data: None)
    for call in (
        lambda: net.udp(2, 1, lambda data: None),
        lambda: net.udp(0, 1, lambda data: None),
        lambda: ConstantRate(0),
        lambda: SteppedRate((1.0,), (0.0,)),
        lambda: SteppedRate((2.0, 1.0), (1.0, 1.0)),
        lambda: DeliveryTrace((3, 2)),
        lambda: Direction(queue_packets=0),
        lambda: LinkSpec(phase=1.0),
    ):
        with pytest.raises(ConfigError):
            call()


def test_mean_rates():
    assert SteppedRate((1.0, 3.0), (3e6, 0.0)).mean_bps == pytest.approx(1e6)
    assert DeliveryTrace((0, 500, 1000)).mean_bps == pytest.approx(36_000)
    assert np.isclose(ConstantRate(5.0).mean_bps, 5)
