"""ns-3 through our bridge against our own event loop: same link, same packets, same times."""

import resource
import subprocess
import sys

import numpy as np
import pytest

from common.errors import ConfigError
from common.net.driver import LINUX_TIMERS, TcpOptions
from common.net.link import Direction, LinkSpec
from common.net.loop import LoopNetwork
from common.net.loss import Bernoulli, GilbertElliott, Scripted
from common.net.ns3_bridge import build
from common.net.rate import ConstantRate, SteppedRate

pytestmark = pytest.mark.usefixtures("ns3")


def ns3_network(link):
    from common.net.ns3 import Ns3Network

    return Ns3Network(link)


def datagrams(net, n=200, gap_s=0.01):
    got = []
    net.udp(1, 9, lambda data: got.append((net.now(), data)))
    socket = net.udp(0, 9, lambda data: None)
    for i in range(n):
        net.at(i * gap_s, lambda i=i: socket.send(i.to_bytes(4, "big") + b"." * (60 + i % 7)))
    net.run(n * gap_s + 5)
    net.close()
    return got


def stream(net, n=200, options=LINUX_TIMERS, tokens_per_s=30.0, size=5, until_s=120.0):
    got = []
    count = 0

    def receive(data):
        nonlocal count
        count += len(data)
        while len(got) < count // size:
            got.append(net.now())

    net.tcp_listen(1, 80, receive, options)
    socket = net.tcp_connect(0, 80, lambda data: None, options)
    for i in range(n):
        net.at(1 + i / tokens_per_s, lambda: socket.send(b"x" * size))
    net.run(until_s)
    net.close()
    return np.array(got)


def spec(loss=None, seed=0, rate=None, delay_s=0.05, queue_packets=1000):
    down = Direction(rate or ConstantRate(10e6), delay_s, queue_packets, loss or Scripted([]))
    return LinkSpec(down, down, seed)


@pytest.mark.parametrize(
    "link",
    [
        spec(GilbertElliott(0.5, 0.2), seed=1),
        spec(Bernoulli(0.3), seed=2),
        spec(rate=SteppedRate((0.5, 1.0, 1.5), (1e6, 0.0, 2e4))),
        spec(rate=ConstantRate(2e4), queue_packets=3),
    ],
)
def test_datagrams_in_ns3_equal_the_event_loop_to_a_nanosecond(link):
    ours, theirs = datagrams(LoopNetwork(link.build())), datagrams(ns3_network(link.build()))
    assert [data for _, data in ours] == [data for _, data in theirs]
    assert np.allclose([t for t, _ in ours], [t for t, _ in theirs], atol=2e-9, rtol=0)
    assert 0 < len(ours) <= 200


@pytest.mark.parametrize("is_stream", [False, True])
def test_our_link_equals_ns3s_own_packet_by_packet(is_stream):
    from common.net.ns3 import PointToPoint

    class WithPppHeader:  # ns-3's point-to-point link puts 2 bytes in front of each packet
        def __init__(self, link):
            self.link = link

        def transmit(self, to_node, now, ip_bytes):
            return self.link.transmit(to_node, now, ip_bytes + 2)

    lost = list(range(3, 5000, 7))
    down = Direction(ConstantRate(2e5), 0.05, 1000, Scripted(lost))
    own = WithPppHeader(LinkSpec(down, Direction(ConstantRate(2e5), 0.05, 1000)).build())
    theirs = PointToPoint(2e5, 0.05, 1000, lost)
    run = (lambda net: stream(net).tolist()) if is_stream else datagrams
    a, b = run(ns3_network(own)), run(ns3_network(theirs))
    assert a == b
    assert len(a) > 100


@pytest.mark.parametrize("make", [lambda link: LoopNetwork(link), ns3_network], ids=["model", "ns3"])
@pytest.mark.parametrize(("num_lost", "gap_s"), [(0, 1 / 30), (1, 0.2334), (2, 0.2668), (3, 0.3001)])
def test_gap_after_consecutive_losses(make, num_lost, gap_s):
    """TCP with SACK renders again after (m + 3) token intervals and one round trip: three duplicates, then the repetition."""
    link = spec(Scripted(range(30, 30 + num_lost))).build()
    gaps = np.diff(stream(make(link), n=100))
    # (m + 3) / 30 s + 0.1 s, plus transmission times of a few 0.01 ms
    assert gaps.max() == pytest.approx(gap_s, abs=2e-4)


@pytest.mark.parametrize("make", [lambda link: LoopNetwork(link), ns3_network], ids=["model", "ns3"])
def test_no_retransmission_without_loss(make):
    """Catches timers that were stopped and fire all the same: the link would carry more packets."""
    link = spec().build()
    times = stream(make(link), n=150, options=LINUX_TIMERS)
    assert len(times) == 150
    assert link.counters[1].offered == pytest.approx(150, abs=4)  # segments, SYN, handshake ACK
    assert np.allclose(np.diff(times), 1 / 30, atol=1e-6)


def excess_gaps(times):
    return np.maximum(0, np.diff(times) - 0.2).sum() / (times[-1] - times[0])


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (GilbertElliott(2.0, 0.2), TcpOptions()),
        (GilbertElliott(2.0, 0.2), LINUX_TIMERS),
        (Bernoulli(0.1), LINUX_TIMERS),
    ],
)
def test_the_tcp_model_stays_near_ns3(loss, options):
    model, real = [], []
    for seed in range(12):
        link = spec(loss, seed)
        model.append(excess_gaps(stream(LoopNetwork(link.build()), 300, options)))
        real.append(excess_gaps(stream(ns3_network(link.build()), 300, options)))
    assert np.mean(model) == pytest.approx(np.mean(real), rel=0.35)
    if isinstance(
        loss, GilbertElliott
    ):  # independent losses fall on other segments as soon as the two differ in one packet
        assert np.corrcoef(model, real)[0, 1] >= 0.65


def test_a_thousand_runs_are_bit_identical_and_keep_no_memory():
    link = spec(GilbertElliott(0.3, 0.1), seed=3)

    def run():
        return stream(ns3_network(link.build()), 30, until_s=8.0).tobytes()

    first = run()
    for _ in range(20):
        run()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert all(run() == first for _ in range(1000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


def test_an_exception_in_a_callback_comes_back_and_the_next_run_works():
    net = ns3_network(spec().build())
    net.at(1.0, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net.run(5)
    net.close()
    assert len(datagrams(ns3_network(spec().build()), 5)) == 5


def test_one_network_at_a_time_and_none_after_close():
    net = ns3_network(spec().build())
    with pytest.raises(RuntimeError, match="one network per process"):
        ns3_network(spec().build())
    with pytest.raises(ConfigError, match="node 2"):
        net.udp(2, 1, lambda data: None)
    net.close()
    with pytest.raises(RuntimeError, match="closed"):
        net.run(1)


def test_a_pool_of_two_processes():
    code = """
import multiprocessing as mp, sys
sys.path.insert(0, 'tests/common/net')
from test_ns3 import datagrams, ns3_network, spec
from common.net.loss import Bernoulli
def run(seed): return len(datagrams(ns3_network(spec(Bernoulli(0.5), seed).build()), 50))
if __name__ == '__main__':
    with mp.get_context('fork').Pool(2) as pool: print(pool.map(run, [1, 1, 2, 2]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    a, b, c, d = eval(done.stdout)
    assert (a, c) == (b, d)


def test_without_a_compiler_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(build.Ns3Unavailable, match=r"no C\+\+ compiler.*g\+\+.*tcp_model"):
        build.load(tmp_path)


def test_without_ns3_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(build, "Path", lambda *parts: _Nothing())
    with pytest.raises(build.Ns3Unavailable, match=r"not installed.*ninefold\[ns3\]"):
        build.find()


class _Nothing:
    def glob(self, pattern):
        return []


def test_a_failing_compiler_is_quoted(tmp_path, monkeypatch):
    source = tmp_path / "broken.cpp"
    source.write_text("int main( {")
    monkeypatch.setattr(build, "_SOURCE", source)
    with pytest.raises(build.Ns3Unavailable, match=r"failed: .*error"):
        build.load(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.tmp"))
