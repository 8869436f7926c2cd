"""Calls in virtual time, congestion control, and the metrics by hand."""

import dataclasses

import numpy as np
import pytest

from common.errors import ConfigError, DataUnavailable
from common.experiment import Run
from common.net.link import Direction, LinkSpec
from common.net.loop import LoopNetwork
from common.net.rate import ConstantRate, SteppedRate
from grace.api import METHODS, WIRE_HEADER_BYTES, StreamInfo
from grace.congestion import Arrival, Gcc, SalsifyControl, make_controller
from grace.experiments_session import Calls, loss_model, paper_times
from grace.methods import DelayFloor, FecAdaptive, Nack, Salsify
from grace.session import (
    PAPER_TIMES,
    CodecTimes,
    FrameRecord,
    SendingEnd,
    Session,
    SessionRecord,
    SessionSettings,
    frame_delays,
    not_rendered_share,
    percentile,
    source_index,
    stall_gaps,
    stall_ratio,
    with_times,
)
from grace.traces import excerpt, generated_rate, step_drop

INFO = StreamInfo(64, 72, payload_bytes=400)
TIMES = CodecTimes(0.01, 0.005)


class Constant:
    """A controller that always allows the same."""

    def target_bytes(self, now, frame_s, in_flight_packets):
        return 900.0

    def on_feedback(self, now, arrivals):
        pass


def call(scheme, clip, rate_bps=2e6, loss=None, num_frames=20, queue=25):
    down = Direction(ConstantRate(rate_bps), 0.05, queue, *([loss] if loss else []))
    network = LoopNetwork(LinkSpec(down, Direction(ConstantRate(10e6), 0.05), 3).build())
    session = Session(network, scheme, clip, INFO, Constant(), SessionSettings(num_frames, TIMES))
    session.begin()
    network.run(session.end_s)
    record = session.record()
    counters = network.link.counters[1]
    assert counters.offered == counters.dropped + counters.lost + counters.passed
    assert counters.passed == record.received_packets
    # The link counts IP bytes: RTP's 12 are in the packet, IP's and UDP's 28 are added by the network.
    assert counters.offered_bytes == record.sent_bytes
    return record


def test_delay_on_a_quiet_link_is_the_sum_of_its_parts(clip):
    record = call(Nack(codec="h264"), clip)
    frame = record.frames[5]
    # Packets leave at 2.5 times the target rate, 900 bytes per 40 ms, or the frame's own; the last one travels 50 ms.
    assert np.isfinite(frame_delays(record)).all()
    pacing = 2.5 * max(900, frame.wire_bytes) * 25
    gaps = (frame.wire_bytes - frame.wire_bytes / frame.num_packets) / pacing
    last = frame.wire_bytes / frame.num_packets * 8 / 2e6
    expected = TIMES.encode_s + gaps + last + 0.05 + TIMES.decode_s
    assert frame.shown_s - frame.capture_s == pytest.approx(expected, abs=2e-4)


def test_frames_larger_than_allowed_do_not_queue_in_the_sender(clip, monkeypatch):
    # Every frame is larger than the 60 bytes that the controller allows; the network carries them easily.
    monkeypatch.setattr(Constant, "target_bytes", lambda self, now, frame_s, in_flight_packets: 60.0)
    delays = frame_delays(call(Salsify(), clip, num_frames=40))
    assert delays[-5:].mean() < delays[:5].mean() + 0.02


class SlowMachine:
    """A clock that work moves on, as in real time: an event that is due late happens late."""

    def __init__(self):
        self.time_s, self.queue, self.sent_s = 0.0, [], []

    def now(self):
        return self.time_s

    def at(self, when_s, action):
        self.queue.append((when_s, len(self.queue), action))

    def udp(self, node, port, on_datagram):
        return self

    def send(self, data):
        self.sent_s.append(self.time_s)

    def run(self):
        while self.queue:
            self.queue.sort(key=lambda event: event[:2])
            when_s, _, action = self.queue.pop(0)
            self.time_s = max(self.time_s, when_s)
            action()


def test_a_slow_sender_leaves_frames_out_instead_of_sending_none(clip):
    machine = SlowMachine()
    sender = Nack(codec="h264").sender(INFO)
    sender.start(clip[0])
    encode = sender.encode

    def slowly(*arguments):
        machine.time_s += 0.15  # nearly four frame intervals
        return encode(*arguments)

    sender.encode = slowly
    end = SendingEnd(machine, sender, clip, INFO, Constant(), SessionSettings(20, TIMES))
    end.begin(0.0)
    machine.run()
    # Frame 1 is taken at 0.04 s and coded until 0.19 s, when frames 2 and 3 (0.12 s) are late and frame 4 (0.16 s) is not.
    assert [end.slots[number] for number in (1, 2)] == [1, 4]
    assert sorted(end.slots) == list(range(1, len(end.slots) + 1))
    assert machine.sent_s[0] < 0.25, "packets must leave while later frames are still to come"


def test_retransmission_costs_a_round_trip(clip):
    from common.net.loss import Scripted

    clean, lossy = call(Nack(codec="h264"), clip), call(Nack(codec="h264"), clip, loss=Scripted((9,)))
    late = frame_delays(lossy) - frame_delays(clean)
    assert np.isfinite(late).all()
    assert 0.1 < late.max() < 0.3


@pytest.mark.parametrize("scheme", [FecAdaptive(codec="h264"), Salsify()])
def test_calls_survive_heavy_loss(scheme, clip):
    record = call(scheme, clip, loss=loss_model(0.2, 0.05), num_frames=30)
    assert len(record.frames) == 29
    assert record.received_packets < record.sent_packets


def test_calls_repeat_bit_for_bit(clip):
    one, other = (call(Salsify(), clip, loss=loss_model(0.1, 0.0)) for _ in range(2))
    assert np.array_equal(frame_delays(one), frame_delays(other))


def _record(delays) -> SessionRecord:
    frames = tuple(FrameRecord(n, n * 0.04, n * 0.04 + delay, None, 0, 0) for n, delay in enumerate(delays, 1))
    return SessionRecord(frames, len(frames) * 0.04, 0, 0, 0, 0, ())


def test_metrics_by_hand():
    # Shown at 0, .04, .08, .40, .44: one gap of .32 beyond .2, so the stall ratio is .32 / .44.
    assert stall_gaps([0, 0.04, 0.08, 0.40, 0.44], 0.44) == [pytest.approx(0.32)]
    record = _record([0.1, 0.1, 0.5, np.inf])
    assert not_rendered_share(record) == 0.5
    delays = frame_delays(record)
    assert percentile(delays, 0.5) == pytest.approx(0.1)
    assert percentile(delays, 0.75) == pytest.approx(0.5)
    assert percentile(delays, 0.95) == np.inf
    assert stall_ratio(_record([0.1] * 50)) == 0.0
    assert stall_ratio(_record([0.1] * 10 + [np.inf] * 40)) > 0.7


def test_other_codec_times_shift_every_frame():
    record = with_times(_record([0.1, 0.3, np.inf]), CodecTimes(0.02, 0.01), CodecTimes(0.1, 0.05))
    assert frame_delays(record).tolist() == [pytest.approx(0.22), pytest.approx(0.42), np.inf]
    assert not_rendered_share(record) == pytest.approx(2 / 3)
    # The paper gives times of its own codec alone: baselines take none, in their favour.
    assert paper_times(METHODS.create("grace")) == PAPER_TIMES
    assert paper_times(METHODS.create("fec_adaptive")) == paper_times(METHODS.create("svc_fec")) == CodecTimes(0, 0)


def test_clips_are_played_to_and_fro():
    assert [source_index(n, 4) for n in range(8)] == [0, 1, 2, 3, 2, 1, 0, 1]


def arrivals(num, gap_s, extra_s, start_s=0.0, lost_every=0):
    return [
        Arrival(
            start_s + n * gap_s,
            None if lost_every and n % lost_every == 0 else start_s + n * gap_s + 0.1 + n * extra_s,
            1000,
        )
        for n in range(num)
    ]


def test_gcc_grows_on_a_constant_delay():
    gcc = Gcc(200e3)
    for second in range(4):
        for part in range(10):
            gcc.on_feedback(second + part / 10, arrivals(25, 0.004, 0.0, second + part / 10))
    assert 200e3 * 1.08**2.5 < gcc.delay_bps < 200e3 * 1.08**4.5


def test_gcc_does_not_cut_a_sender_that_sent_little():
    gcc = Gcc(500e3)
    for step in range(10):
        gcc.on_feedback(step * 0.1, arrivals(3, 0.004, 0.0, step * 0.1))  # 240 kbit/s where 500 were allowed
    assert gcc.delay_bps == pytest.approx(500e3, rel=0.01)


def test_gcc_backs_off_when_the_delay_ramps_up():
    gcc = Gcc(1e6)
    sent = arrivals(200, 0.01, 0.004)  # every packet comes 4 ms later than the one before it
    for at in range(0, 200, 10):
        gcc.on_feedback(at * 0.014, sent[at : at + 10])
    assert gcc.target_bps < 0.86 * 8000 / 0.014 * 1.05


def test_gcc_grows_by_a_thousand_bits_a_report_near_its_last_decrease():
    gcc = Gcc(80e3)
    gcc._converged_bps = 80e3
    for step in range(25):  # a second; 400 bytes every 40 ms are 80 kbit/s, of which 1 / 30 s is a third of a packet
        gcc.on_feedback(step * 0.04 + 0.2, [Arrival(step * 0.04, step * 0.04 + 0.1, 400)])
    # The draft's increase, max(1000, 0.5 * 0.04 / 0.3 * 2667) = 1000 bits, 24 times; 8 % a second would be 86 kbit/s.
    assert gcc.delay_bps == pytest.approx(80e3 + 24 * 1000, rel=0.03)


def test_gcc_halves_the_loss_share_and_can_ignore_it():
    strict, lenient = Gcc(500e3), Gcc(500e3, uses_loss=False)
    for controller in (strict, lenient):
        for step in range(12):
            controller.on_feedback(step * 0.1, arrivals(20, 0.005, 0.0, step * 0.1, lost_every=5))
    # 20 % lost: 500 kbit/s * (1 - 0.1), while the delay part alone grows.
    assert strict.loss_bps == pytest.approx(450e3, rel=0.12)
    assert lenient.target_bps > 450e3


def test_salsify_control_counts_what_is_in_flight():
    control = SalsifyControl(packet_bytes=1000, first_bps=800e3)  # a packet every 10 ms: ten of them in 100 ms
    assert control.target_bytes(0, 0.04, 0) == pytest.approx(10_000)
    assert control.target_bytes(0, 0.04, 7) == pytest.approx(3_000)
    with pytest.raises(ConfigError, match="controller 'bbr'"):
        make_controller("bbr", 1e5, 500)


def test_the_floor_is_the_networks_own_delay(clip):
    record = call(DelayFloor(), clip, num_frames=12)
    assert {(frame.wire_bytes, frame.num_packets) for frame in record.frames} == {(900, 4)}
    # 10 ms of coding; four packets of 225 bytes, 4 ms apart at 2.5 times 900 bytes per 40 ms; 0.9 ms on the link of
    # 2 Mbit/s for the last one; 50 ms on the way; 5 ms of decoding.
    assert frame_delays(record) == pytest.approx(np.full(11, 0.010 + 3 * 0.004 + 0.0009 + 0.050 + 0.005), abs=2e-4)


def test_excerpts_go_on_from_the_beginning():
    rate = SteppedRate((1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    # From 1.5 s: half a second of 20, a second of 30, a second of 10, half a second of 20.
    assert excerpt(rate, 1.5, 3.0) == SteppedRate((0.5, 1.5, 2.5, 3.0), (20.0, 30.0, 10.0, 20.0))
    assert excerpt(rate, 4.5, 0.25) == SteppedRate((0.25,), (20.0,))
    assert excerpt(rate, 3.0, 1.0) == SteppedRate((1.0,), (10.0,))


def test_calls_take_recorded_traces_where_a_data_root_is_given(tmp_path):
    path = tmp_path / "traces" / "one.down"
    path.parent.mkdir()
    path.write_text("".join(f"{ms}\n" for ms in range(4, 1004, 4)))  # 1500 bytes every 4 ms: 3 Mbit/s
    run = Run(paper="grace", experiment="session", scale="smoke", seed=0, num_items=2, methods={})
    rooted = dataclasses.replace(run, data={"root": str(tmp_path)})
    ((name, rate), _) = Calls(trace_files=("one.down",), rate_scale=0.5).rates(rooted)
    assert name == "00-one"
    assert rate.mean_bps == pytest.approx(1.5e6, rel=0.02)
    with pytest.raises(DataUnavailable, match=r"ATT-LTE-driving\.down"):
        list(Calls().rates(rooted))
    assert [name for name, _ in Calls(traces="generated").rates(rooted)] == ["00-lte", "01-broadband"]
    assert [name for name, _ in Calls().rates(run)] == ["00-lte", "01-broadband"]
    with pytest.raises(DataUnavailable, match=r"data\.root"):
        list(Calls(traces="recorded").rates(run))
    with pytest.raises(ConfigError, match="traces='lte'"):
        Calls(traces="lte")


def test_traces_keep_to_the_papers_range():
    for kind in ("lte", "broadband"):
        rate = generated_rate(np.random.default_rng(0), kind, 30, 0.5)
        assert 0.1e6 <= min(rate.bps) <= max(rate.bps) <= 4e6
        assert rate == generated_rate(np.random.default_rng(0), kind, 30, 0.5)
    assert step_drop(8, 2, ((1.0, 0.5),), 3.0).bps == (8, 2, 8)
    with pytest.raises(ConfigError, match="kind 'wifi'"):
        generated_rate(np.random.default_rng(0), "wifi", 30, 1)


@pytest.mark.slow
def test_every_scheme_calls(clip):
    for name in METHODS.names():
        record = call(METHODS.create(name), clip, num_frames=6)
        assert np.isfinite(frame_delays(record)).all(), name
        assert all(frame.wire_bytes >= frame.num_packets * WIRE_HEADER_BYTES for frame in record.frames)
        assert dataclasses.is_dataclass(METHODS.create(name))
