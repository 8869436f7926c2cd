"""Whole answers over whole networks: baselines, drivers, and the effects that must be visible."""

import dataclasses
import os

import numpy as np
import pytest
from channel import Fate, converse
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox.api import METHODS, WORKLOADS, Answer, Scenario
from chatterbox.core import Sender, Settings
from chatterbox.erasure import ErasureReceiver, ErasureSender, make_repairs, recover
from chatterbox.methods import Chatterbox, FixedRedundancy
from chatterbox.metrics import score
from chatterbox.playback import WARM_UP_S, WrongText, play, play_on
from chatterbox.selective_repeat import SelectiveRepeatReceiver, SelectiveRepeatSender
from chatterbox.workloads import make_answer, text_pieces
from common.errors import ConfigError
from common.net.link import Direction, LinkSpec
from common.net.loss import GilbertElliott, Outages
from common.net.ns3_bridge.build import Ns3Unavailable
from common.net.rate import ConstantRate


@pytest.fixture(scope="module")
def ns3():
    from common.net.ns3 import bridge

    try:
        return bridge()
    except Ns3Unavailable as error:
        pytest.skip(str(error))


def even(num=120, rate=30.0):
    return Answer(tuple(i / rate for i in range(num)), tuple(b"tok%d" % i for i in range(num)))


def outage(start, length, rtt_s=0.1, bps=10e6, queue_packets=1000):
    loss = Outages(((WARM_UP_S + start, WARM_UP_S + start + length),))
    direction = Direction(ConstantRate(bps), rtt_s / 2, queue_packets, loss)
    return LinkSpec(direction, direction)


def scenarios(num, seed=0, **knobs):
    return list(WORKLOADS.create("bursty", num_tokens=300, **knobs).items(np.random.default_rng(seed), num))


def mean_ratio(method, items):
    played = [play(item, method) for item in items]
    return np.mean([score(p.generated_s, p.rendered_s, 60).stall_ratio for p in played])


FATES = st.lists(st.sampled_from([Fate(), Fate(), Fate(()), Fate((0.05, 0.06)), Fate((0.3,))]), max_size=50)
ARQ = st.sampled_from(
    [
        lambda: (SelectiveRepeatSender(), SelectiveRepeatReceiver()),
        lambda: (SelectiveRepeatSender(2), SelectiveRepeatReceiver()),
        lambda: (SelectiveRepeatSender(2, 0.02), SelectiveRepeatReceiver()),
        lambda: (SelectiveRepeatSender(history=3), SelectiveRepeatReceiver()),
        lambda: (ErasureSender(3, 2), ErasureReceiver()),
    ]
)


@settings(max_examples=120, deadline=None)
@given(ARQ, st.lists(st.binary(max_size=20), max_size=30), FATES, FATES, st.floats(0.001, 0.2))
def test_every_arq_baseline_delivers_everything_once_and_in_order(make, tokens, down, up, gap_s):
    sender, receiver = make()
    events = [(i * gap_s, token) for i, token in enumerate(tokens)] + [(len(tokens) * gap_s, None)]
    healed = lambda fates: lambda n: fates[n] if n < len(fates) else Fate()  # noqa: E731
    got = converse(sender, receiver, events, healed(down), healed(up))
    assert [token for _, token in got] == tokens
    assert sender.state == "done"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=8), st.integers(1, 4), st.data())
def test_repair_packets_stand_in_for_any_tokens(tokens, repairs, data):
    """Every way to lose as many tokens as there are repair packets, against what was there."""
    blocks = dict(enumerate(make_repairs(tokens, repairs)))
    lost = data.draw(st.sets(st.integers(0, len(tokens) - 1), max_size=repairs))
    kept = {i: token for i, token in enumerate(tokens) if i not in lost}
    used = dict(list(blocks.items())[-len(lost) :]) if lost else blocks
    assert recover(len(tokens), repairs, kept, used) == tokens


def test_a_repair_packet_spares_the_retransmission():
    """Token 5 of groups of 4 is lost: tokens 5 to 7 appear when the group's repair packet arrives, not a round trip later."""
    sender, receiver = ErasureSender(4, 1), ErasureReceiver()
    events = [(i * 0.03, bytes([i])) for i in range(20)]
    # datagrams: 4 tokens, 1 repair packet, and so on; number 6 is token 5
    played = converse(sender, receiver, events, lambda n: Fate(()) if n == 6 else Fate(), lambda n: Fate())
    got = {token[0]: when_s for when_s, token in played}
    assert sender.retransmissions == 0
    assert got[5] == got[6] == got[7] == pytest.approx(7 * 0.03 + 0.05)


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("tcp_") or name == "tcp_model"])
def test_every_method_keeps_the_contract(name):
    keeps_contract(name)


def keeps_contract(name):
    from chatterbox.contract import check_method

    check_method(name)


@pytest.mark.parametrize("name", ["tcp_ns3", "tcp_linux_timers"])
def test_ns3_methods_keep_the_contract(name, ns3):
    keeps_contract(name)


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_every_workload_keeps_the_contract(name):
    from chatterbox.contract import check_workload

    check_workload(name)


@pytest.mark.parametrize("seed", range(5))
# state_sync is left out: it times itself by its round trips, so a nanosecond can decide which of two events comes first.
@pytest.mark.parametrize("name", ["chatterbox", "chatterbox_budget", "duplication_spaced", "fec"])
def test_ns3_and_the_event_loop_agree_to_a_microsecond(name, seed, ns3):
    (item,) = scenarios(1, seed)
    method = METHODS.create(name)
    loop, packets = play(item, method), play(item, method, "ns3")
    assert np.abs(loop.rendered_s - packets.rendered_s).max() < 1e-6
    assert loop.down == packets.down
    assert loop.up == packets.up
    assert loop.down.lost > 0


@pytest.mark.parametrize(("num_lost", "chatterbox_ms", "tcp_ms"), [(1, 67, 233), (2, 100, 267), (3, 133, 300)])
def test_gaps_after_consecutive_losses(num_lost, chatterbox_ms, tcp_ms):
    """Chatterbox: (m + 1) token intervals. TCP: (m + 3) and a round trip. 30 tokens/s, 100 ms, m tokens lost."""
    scenario = Scenario(even(), outage(30.5 / 30, num_lost / 30))
    ours = np.diff(play(scenario, Chatterbox()).rendered_s).max()
    tcp = np.diff(play(scenario, METHODS.create("tcp_model")).rendered_s).max()
    assert ours * 1000 == pytest.approx(chatterbox_ms, abs=1)
    assert tcp * 1000 == pytest.approx(tcp_ms, abs=2)


def test_chatterbox_equals_the_oracle_and_the_order_of_methods_is_right():
    items = scenarios(12)
    ratio = {
        name: mean_ratio(METHODS.create(name), items)
        for name in ("chatterbox", "oracle", "duplication_spaced", "duplication", "tcp_model")
    }
    assert ratio["chatterbox"] == pytest.approx(ratio["oracle"], rel=0.02)
    assert ratio["chatterbox"] < 0.8 * ratio["duplication_spaced"]
    assert ratio["duplication_spaced"] <= ratio["duplication"] < ratio["tcp_model"]


def test_chatterbox_depends_neither_on_the_round_trip_nor_on_acks():
    near, far = (mean_ratio(Chatterbox(), scenarios(8, rtt_s=rtt_s)) for rtt_s in (0.02, 0.3))
    assert near == pytest.approx(far, rel=0.1)
    lossy, clean = (mean_ratio(Chatterbox(), scenarios(8, ack_loss=ack_loss)) for ack_loss in (True, False))
    assert lossy == pytest.approx(clean, rel=0.02)
    tcp = METHODS.create("tcp_model")
    assert mean_ratio(tcp, scenarios(8, rtt_s=0.3)) > 1.3 * mean_ratio(tcp, scenarios(8, rtt_s=0.02))


def test_duplication_back_to_back_is_useless_in_bursts():
    items = scenarios(6)
    assert mean_ratio(METHODS.create("duplication"), items) == pytest.approx(
        mean_ratio(METHODS.create("selective_repeat"), items), rel=0.02
    )


def test_no_method_stalls_without_loss_and_sizes_are_as_computed():
    answer = even(300)
    scenario = Scenario(answer, outage(1e6, 1.0))
    sizes = {}
    for name in ("chatterbox", "duplication", "tcp_model", "quic_stream"):
        played = play(scenario, METHODS.create(name))
        assert score(played.generated_s, played.rendered_s, 60).stall_ratio == 0
        sizes[name] = played.down.offered_bytes / 300
    body = np.mean([len(token) for token in answer.tokens]) + 1
    # H = 28 + 20 bytes of headers; 1 + lambda R = 4 tokens per Chatterbox packet; duplication sends everything twice
    assert sizes["chatterbox"] == pytest.approx(48 + 4 * body, rel=0.03)
    assert sizes["duplication"] == pytest.approx(2 * (48 + body), rel=0.01)


def test_bytes_cross_duplication_at_a_long_round_trip():
    def down(name, rtt_s):
        played = play(Scenario(even(300), outage(1e6, 1.0, rtt_s)), METHODS.create(name))
        return played.down.offered_bytes

    assert down("chatterbox", 0.1) < down("duplication", 0.1)
    assert down("chatterbox", 0.5) > down("duplication", 0.5)


def test_the_budget_keeps_a_slow_link_usable():
    """20 kbit/s, 30 tokens/s, 3 s outage: within 10 s the median delay is below 2 s again. The plain scheme collapses."""
    answer = make_answer(np.random.default_rng(0), 1200, 30.0)

    def settled_delay_s(name):
        played = play(Scenario(answer, outage(10.0, 3.0, bps=20e3)), METHODS.create(name))
        after = played.generated_s > WARM_UP_S + 13.0 + 10.0
        shown = np.where(np.isfinite(played.rendered_s), played.rendered_s, 1e3)
        return np.median((shown - played.generated_s)[after])

    assert settled_delay_s("chatterbox_budget") < 2.0
    assert settled_delay_s("chatterbox") > 10.0


def test_the_budget_changes_nothing_while_acknowledgements_come_back():
    scenario = Scenario(even(600), outage(1e6, 1.0))
    plain, budget = (play(scenario, METHODS.create(name)) for name in ("chatterbox", "chatterbox_budget"))
    assert np.array_equal(plain.rendered_s, budget.rendered_s)
    assert plain.down == budget.down


def test_an_outage_that_holds_packets_helps_nobody():
    from common.net.rate import SteppedRate

    direction = Direction(SteppedRate((2.0, 2.5, 1000.0), (1e6, 0.0, 1e6)), 0.05)
    scenario = Scenario(even(), LinkSpec(direction, direction))
    ratios = [
        score(p.generated_s, p.rendered_s, 60).stall_ratio
        for p in (play(scenario, METHODS.create(name)) for name in ("chatterbox", "duplication", "tcp_model"))
    ]
    assert max(ratios) - min(ratios) < 0.02
    assert min(ratios) > 0.02


def test_unfinished_answers_are_reported_not_dropped():
    played = play(Scenario(even(60), outage(1.0, 1e6)), Chatterbox(), patience_s=5.0)
    assert np.isinf(played.rendered_s).any()
    assert score(played.generated_s, played.rendered_s, 5.0).incomplete == 1


def test_three_hundred_runs_are_identical():
    (item,) = scenarios(1, 3)
    item = dataclasses.replace(item, answer=Answer(item.answer.times_s[:60], item.answer.tokens[:60]))
    first = play(item, Chatterbox()).rendered_s.tobytes()
    assert all(play(item, Chatterbox()).rendered_s.tobytes() == first for _ in range(300))


def test_real_sockets_follow_the_simulation():
    from common.net.real import RealNetwork

    direction = Direction(ConstantRate(10e6), 0.03, loss=GilbertElliott(0.3, 0.1))
    spec = LinkSpec(direction, direction, seed=5)
    answer = even(45)
    link = spec.build()
    with RealNetwork(link) as net:
        played = play_on(net, link, answer, Chatterbox(), patience_s=5.0, warm_up_s=0.1)
    assert np.isfinite(played.rendered_s).all()
    assert played.down.lost > 0
    simulated = play(Scenario(answer, spec), Chatterbox(), warm_up_s=0.1)
    assert np.median(np.abs(played.rendered_s - simulated.rendered_s)) < 0.05


def test_a_transport_that_cheats_is_caught():
    class Cheat:
        def pair(self):
            sender, receiver = Chatterbox().pair()
            deliver = receiver.on_datagram
            receiver.on_datagram = lambda datagram, now: [token[::-1] for token in deliver(datagram, now)]
            return sender, receiver

    with pytest.raises(WrongText, match="token 0"):
        play(Scenario(even(5), outage(1e6, 1)), Cheat())


def test_what_is_no_method_or_network_is_refused():
    with pytest.raises(ConfigError, match="neither"):
        play(Scenario(even(5), outage(1e6, 1)), object())
    with pytest.raises(ConfigError, match="loop or ns3"):
        play(Scenario(even(5), outage(1e6, 1)), Chatterbox(), "carrier pigeon")
    for make in (
        lambda: FixedRedundancy(-1),
        lambda: METHODS.create("duplication", copies=0),
        lambda: METHODS.create("tcp_ns3", network="loop"),
        lambda: WORKLOADS.create("bursty", tokens_per_s=0),
        lambda: Answer((1.0, 0.5), (b"a", b"b")),
    ):
        with pytest.raises(ConfigError):
            make()


def test_answers_have_the_rate_and_sizes_that_they_claim():
    answer = make_answer(np.random.default_rng(0), 4000, 30.0)
    gaps = np.diff(answer.times_s)
    assert gaps.mean() == pytest.approx(1 / 30, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(0.3, rel=0.05)
    assert 3 < np.mean([len(piece) for piece in text_pieces()]) < 7
    pauses = np.diff(make_answer(np.random.default_rng(0), 4000, 30.0, pause_probability=0.01).times_s)
    assert 15 < (pauses > 0.3).sum() < 70


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kernel_tcp_over_the_same_link_between_namespaces(tmp_path):
    import socket
    import time

    from common.net.namespaces import ADDRESSES, NamespacesUnavailable, run_pair

    out = tmp_path / "received"

    def server():
        with socket.create_server((ADDRESSES[0], 5000)) as listener:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for i in range(40):
                connection.sendall(b"%04d" % i)
                time.sleep(0.01)
            time.sleep(10)

    def client():
        received, deadline = b"", time.monotonic() + 20
        while True:
            try:
                source = socket.create_connection((ADDRESSES[0], 5000), timeout=10)
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        while len(received) < 160:
            received += source.recv(1000)
        out.write_bytes(received)

    direction = Direction(ConstantRate(10e6), 0.02, loss=GilbertElliott(0.3, 0.05))
    link = LinkSpec(direction, direction, seed=1).build()
    try:
        codes = run_pair(server, client, link, limit_s=30)
    except NamespacesUnavailable as error:
        pytest.skip(str(error))
    assert codes == (-9, 0)
    assert out.read_bytes() == b"".join(b"%04d" % i for i in range(40))
    assert link.counters[1].passed >= 20


def test_sender_settings_reach_the_wire():
    sender = Sender(Settings(max_packet_bytes=100))
    for _ in range(50):
        sender.on_token(b"x" * 5, 0.0)
    assert all(len(packet) <= 100 for packet in sender.packets(0.0))
