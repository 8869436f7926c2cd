import math

import numpy as np
import pytest
from channel import Fate, converse
from hypothesis import given, settings
from hypothesis import strategies as st

from chatterbox.core import Receiver, Sender, Settings
from chatterbox.wire import BadDatagram, Data, decode_ack, decode_data, encode_data
from common.errors import ConfigError

OK, LOST = Fate(), Fate(())
TOKENS = st.lists(st.binary(max_size=40), max_size=40)
FATES = st.lists(
    st.sampled_from([OK, OK, LOST, Fate((0.05, 0.05)), Fate((0.4,)), Fate((0.01,)), Fate((0.05, 0.9))]), max_size=60
)
VARIANTS = st.builds(
    Settings,
    max_packet_bytes=st.sampled_from([64, 100, 300, 1200]),
    packing=st.sampled_from(["oldest_first", "newest_first", "oldest_only"]),
    burst_packets=st.integers(1, 3),
    max_tokens_per_packet=st.sampled_from([0, 1, 3]),
    congestion=st.sampled_from(["none", "budget"]),
)


def after(fates, then=OK):
    """The n-th fate, and `then` for all datagrams after the script: the network heals eventually."""
    return lambda n: fates[n] if n < len(fates) else then


def even(num, rate=30.0, size=5, finish=True):
    events = [(i / rate, bytes([i % 256]) * size) for i in range(num)]
    return [*events, ((num - 1) / rate, None)] if finish else events


@settings(max_examples=300, deadline=None)
@given(TOKENS, FATES, FATES, VARIANTS, st.floats(0.001, 0.3), st.integers(1, 4))
def test_the_client_gets_the_servers_tokens_once_and_in_order(tokens, down, up, variant, gap_s, ack_every):
    tokens = [token[: variant.max_token_bytes] for token in tokens]
    sender, receiver = Sender(variant, stream=7), Receiver(ack_every=ack_every)
    sizes, nexts, bases = [], [], []

    def watch(datagram):
        sizes.append(len(datagram))
        data = decode_data(datagram)
        bases.append(data.base)
        assert data.base <= receiver.next  # the sender never believes more than the receiver has
        assert data.first >= data.base
        nexts.append(receiver.next)

    events = [(i * gap_s, token) for i, token in enumerate(tokens)] + [(len(tokens) * gap_s, None)]
    got = converse(sender, receiver, events, after(down), after(up), on_sent=watch)
    assert [token for _, token in got] == tokens
    assert sender.state == "done"
    assert receiver.is_complete
    assert max(sizes, default=0) <= variant.max_packet_bytes
    assert nexts == sorted(nexts)
    assert bases == sorted(bases)
    assert (sender.unacknowledged, receiver.buffered_tokens) == (0, 0)
    assert sender.next_timer() is None


@settings(max_examples=150, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=80), st.lists(st.booleans(), max_size=80), st.booleans())
def test_renders_equal_the_oracle_whatever_happens_to_acks(lost, acks_lost, all_acks_lost):
    """r_i = min{g_j + d : j >= i, packet j not lost}; does not depend on the ACK path (no tail timer)."""
    delay_s, num = 0.05, len(lost)
    sender = Sender(Settings(tail_timer=False, max_packet_bytes=8000))
    up = (lambda n: LOST) if all_acks_lost else after([LOST if is_lost else OK for is_lost in acks_lost])
    events = even(num, finish=False)  # the end would be one more packet
    got = converse(sender, Receiver(), events, after([LOST if x else OK for x in lost]), up, until_s=num / 30 + 30)
    made = [t for t, token in events if token is not None]
    expected = [min((made[j] + delay_s for j in range(i, num) if not lost[j]), default=math.inf) for i in range(num)]
    expected = [t for t in expected if t < math.inf]
    assert [t for t, _ in got] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("num_lost", "gap_s"), [(1, 2 / 30), (2, 3 / 30), (3, 4 / 30)])
def test_a_burst_costs_its_length_and_one_token(num_lost, gap_s):
    got = converse(Sender(), Receiver(), even(60), lambda n: LOST if 20 <= n < 20 + num_lost else OK, lambda n: OK)
    gaps = np.diff([t for t, _ in got])
    assert gaps.max() == pytest.approx(gap_s, abs=1e-9)  # (m + 1) token intervals: 67, 100, 133 ms


@pytest.mark.parametrize(("p", "threshold_intervals"), [(0.2, 2), (0.3, 4)])
def test_stall_ratio_under_independent_loss_is_p_to_the_k(p, threshold_intervals):
    """With tau = K token intervals the stall ratio is p**K: 0.04 for p = 0.2, K = 2, and 0.0081 for p = 0.3, K = 4."""
    from chatterbox.metrics import stall_ratio

    rng = np.random.default_rng(3)
    num = 20_000
    lost = rng.random(num + 100) < p
    sender = Sender(Settings(tail_timer=False))
    got = converse(sender, Receiver(), even(num), lambda n: LOST if n < num and lost[n] else OK, lambda n: OK, 1e4)
    ratio = stall_ratio([t for t, _ in got], threshold_intervals / 30)
    assert ratio == pytest.approx(p**threshold_intervals, rel=0.12)


def test_size_without_loss():
    """About 1 + lambda R tokens per packet: at 30 tokens/s and 100 ms, 4."""
    counts = []
    converse(
        Sender(), Receiver(), even(200), lambda n: OK, lambda n: OK,
        on_sent=lambda datagram: counts.append(len(decode_data(datagram).tokens)),
    )  # fmt: skip
    assert np.mean(counts[20:180]) == pytest.approx(1 + 30 * 0.1, abs=0.5)


def test_a_lost_tail_is_sent_again():
    got = converse(Sender(), Receiver(), even(10), lambda n: LOST if n in (9, 10) else OK, lambda n: OK)
    assert len(got) == 10
    stuck = converse(
        Sender(Settings(tail_timer=False)), Receiver(), even(10), lambda n: LOST if n in (9, 10) else OK, lambda n: OK
    )
    assert len(stuck) == 9  # that is what the timer is for


def test_an_empty_answer_a_late_end_and_a_lost_end():
    for lost in ((), (0,), (0, 1)):
        sender, receiver = Sender(), Receiver()
        down = lambda n, lost=lost: LOST if n in lost else OK  # noqa: E731
        assert converse(sender, receiver, [(0.0, None)], down, lambda n: OK) == []
        assert (sender.state, receiver.total, receiver.is_complete) == ("done", 0, True)
    sender, receiver = Sender(), Receiver()
    got = converse(sender, receiver, [(0.0, b"a"), (5.0, None)], lambda n: LOST if n == 1 else OK, lambda n: OK)
    assert ([token for _, token in got], sender.state) == ([b"a"], "done")


def test_twenty_thousand_tokens_at_once():
    sender, receiver = Sender(), Receiver()
    events = [(0.0, i.to_bytes(3, "big")) for i in range(20_000)] + [(0.0, None)]
    rng = np.random.default_rng(0)
    lost = rng.random(100_000) < 0.1
    got = converse(sender, receiver, events, lambda n: LOST if lost[n] else OK, lambda n: OK)
    assert [token for _, token in got] == [token for _, token in events[:-1]]
    assert sender.bytes_sent < 15 * 20_000 * 4


def test_giving_up_is_told_and_takes_its_time():
    sender = Sender(Settings(give_up_s=10.0))
    converse(sender, Receiver(), even(5), lambda n: LOST, lambda n: OK, until_s=100)
    assert sender.state == "gave_up"
    assert sender.packets_sent < 30  # backs off
    idle = Sender(Settings(give_up_s=1.0))
    converse(idle, Receiver(), [(0.0, b"a"), (50.0, b"b"), (50.0, None)], lambda n: OK, lambda n: OK, until_s=100)
    assert idle.state == "done"  # a server that pauses is no peer that vanished


def test_two_streams_do_not_mix():
    a, b, receiver = Sender(stream=1), Sender(stream=2), Receiver()
    a.on_token(b"a", 0.0)
    b.on_token(b"b", 0.0)
    (first,), (other,) = a.packets(0.0), b.packets(0.0)
    assert receiver.on_datagram(first, 0.1) == [b"a"]
    assert receiver.on_datagram(other, 0.1) == []
    (ack,) = receiver.packets(0.1)
    b.on_datagram(ack, 0.2)
    assert (b.base, a.base) == (0, 0)
    a.on_datagram(ack, 0.2)
    assert a.base == 1


def test_acks_that_lie_are_refused_and_old_ones_ignored():
    sender, receiver = Sender(), Receiver()
    sender.on_token(b"a", 0.0)
    (packet,) = sender.packets(0.0)
    receiver.on_datagram(packet, 0.1)
    (ack,) = receiver.packets(0.1)
    ahead = bytearray(ack)
    ahead[8] = 9  # next = 9, of one token sent
    with pytest.raises(BadDatagram, match="1 tokens"):
        sender.on_datagram(bytes(ahead), 0.2)
    sender.on_datagram(ack, 0.2)
    sender.on_token(b"b", 0.3)
    sender.packets(0.3)
    sender.on_datagram(ack, 0.4)
    assert sender.base == 1
    assert decode_ack(ack).next == 1


def test_what_waits_at_the_client_is_bounded():
    receiver = Receiver(max_buffered_tokens=10, max_buffered_bytes=50)
    for index in range(1, 200):
        assert receiver.on_datagram(encode_data(Data(0, 0, index, index, (b"x" * 10,))), 0.0) == []
        receiver.packets(0.0)
    assert receiver.buffered_tokens <= 5
    assert receiver.on_datagram(encode_data(Data(0, 0, 0, 200, (b"x" * 10,))), 0.0) == [b"x" * 10] * 6


def test_what_the_sender_remembers_is_bounded():
    sender = Sender(Settings(give_up_s=1e9))
    for index in range(6000):
        sender.on_token(b"x", index * 0.01)
        sender.packets(index * 0.01)
    assert len(sender._sent_s) <= 4096


def test_an_end_that_moves_is_refused():
    receiver = Receiver()
    receiver.on_datagram(encode_data(Data(0, 0, 0, 1, (b"a", b"b"), is_fin=True)), 0.0)
    with pytest.raises(BadDatagram, match="end"):
        receiver.on_datagram(encode_data(Data(0, 0, 0, 2, (b"a",), is_fin=True)), 0.0)
    with pytest.raises(BadDatagram, match="ends after 2"):
        receiver.on_datagram(encode_data(Data(0, 0, 2, 3, (b"c",))), 0.0)


def test_the_budget_limits_what_is_sent_into_silence():
    def sent_bytes(congestion):
        sender = Sender(Settings(congestion=congestion))
        sizes = []
        converse(
            sender, Receiver(), even(600), lambda n: OK if n < 100 else LOST, lambda n: OK, 20, lambda d: sizes.append(len(d))
        )  # fmt: skip
        return sum(sizes)

    # 10 s of silence: what was last delivered was about 17 kbit/s, so at most 3000 bytes and 10 s * 17 kbit/s more
    assert sent_bytes("budget") < 100 * 80 + 3000 + 1300 + 10 * 20_000 / 8
    assert sent_bytes("none") > 3 * sent_bytes("budget")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Settings(max_packet_bytes=10),
        lambda: Settings(packing="best"),
        lambda: Settings(congestion="bbr"),
        lambda: Settings(burst_packets=0),
        lambda: Settings(give_up_s=0),
        lambda: Receiver(ack_every=0),
    ],
)
def test_wrong_settings_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_misuse_of_the_sender_is_refused():
    sender = Sender(Settings(max_packet_bytes=100))
    with pytest.raises(ValueError, match="split"):
        sender.on_token(b"x" * 100, 0.0)
    sender.finish(0.0)
    with pytest.raises(ValueError, match="end"):
        sender.on_token(b"x", 0.0)
