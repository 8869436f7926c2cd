"""Bitstreams and knobs: what goes in comes out, damage is found, sizes are lengths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import ConfigError, CorruptBitstream
from oneadapt import knobs
from oneadapt.api import Segment
from oneadapt.coding import ScanCoder, SoundCoder, VideoCoder, num_bytes
from oneadapt.contract import small_application, small_clip
from oneadapt.worlds import SAMPLE_RATE_HZ


@given(hnp.arrays(np.float32, (2, 37), elements=st.floats(-1, 1, width=32)), st.integers(2, 16))
def test_sound_round_trip(pieces, bits):
    segment = Segment(pieces, {"bits": bits})
    stream = SoundCoder().encode(segment)
    assert num_bytes(stream) == 18 + -(-2 * 37 * bits // 8)
    assert np.abs(SoundCoder().decode(stream) - pieces).max() <= 1 / (2**bits - 1) + 1e-6


@given(hnp.arrays(np.float32, (2, 4, 5), elements=st.floats(0, 60, width=32)), st.sampled_from([0.02, 0.1, 1.6]))
def test_scan_round_trip(ranges, step):
    stream = ScanCoder().encode(Segment(ranges, {"step_m": step}))
    back = ScanCoder().decode(stream)
    assert ((back > 0) == (ranges > 0)).all()
    inside = ranges > step
    assert np.abs(back - ranges)[inside].max(initial=0) <= step / 2 + 1e-3


@settings(max_examples=30)
@given(st.data())
def test_damage_is_found(data):
    rng = np.random.default_rng(0)
    coder, segment = data.draw(
        st.sampled_from(
            [
                (SoundCoder(), Segment(rng.uniform(-1, 1, (2, 50)).astype(np.float32), {"bits": 7})),
                (ScanCoder(), Segment(rng.uniform(0, 50, (2, 4, 16)).astype(np.float32), {"step_m": 0.1})),
            ]
        )
    )
    stream = coder.encode(segment)
    if data.draw(st.booleans()):
        damaged = stream[: data.draw(st.integers(0, len(stream) - 1))]
    else:
        at = data.draw(st.sampled_from([0, *range(18, len(stream))]))
        damaged = stream[:at] + bytes([stream[at] ^ data.draw(st.integers(1, 255))]) + stream[at + 1 :]
    with pytest.raises(CorruptBitstream):
        coder.decode(damaged)


def test_header_sizes_that_lie_are_found():
    stream = bytearray(ScanCoder().encode(Segment(np.ones((1, 2, 4), np.float32), {"step_m": 0.1})))
    stream[4] = 9  # nine scans instead of one
    with pytest.raises(CorruptBitstream, match="differences"):
        ScanCoder().decode(bytes(stream))


def test_coders_refuse_bad_settings():
    with pytest.raises(ConfigError, match="bits=1"):
        SoundCoder().encode(Segment(np.zeros((1, 8), np.float32), {"bits": 1}))
    with pytest.raises(ConfigError, match="step_m"):
        ScanCoder().encode(Segment(np.full((1, 1, 1), 1000.0, np.float32), {"step_m": 0.01}))
    with pytest.raises(ConfigError, match="quantiser"):
        VideoCoder(is_grey=True).encode(Segment(np.zeros((1, 32, 32), np.uint8)))


def test_video_knobs_change_size_and_keep_shape():
    application = small_application("encoding")
    data = small_clip(np.random.default_rng(0), 1)[0]
    best = application.encode(data, application.best)
    assert best.x.shape == (*data.shape, 1)
    for name in ("qp", "resolution"):
        cheaper = application.encode(data, {**application.best, name: application.knob(name).values[-1]})
        assert cheaper.num_bytes < best.num_bytes
        assert cheaper.x.shape == best.x.shape
        assert np.abs(cheaper.x - best.x).mean() > 1e-3


def test_dropped_frames_repeat_the_last_one_kept():
    application = small_application("encoding_rate")
    frames = np.concatenate(small_clip(np.random.default_rng(0), 4))[:10]
    sent = application.encode(frames, {**application.best, "frames": 3})
    assert sent.kept == (0, 3, 6)
    for index, shown in enumerate((0, 0, 0, 3, 3, 3, 6, 6, 6, 6)):
        assert np.array_equal(sent.x[index], sent.x[shown])
    assert sent.num_bytes < application.encode(frames, application.best).num_bytes


def test_block_maps_reach_the_encoder():
    application = small_application("blocks")
    data = small_clip(np.random.default_rng(0), 1)[0]
    quality = np.full((3, 4), 40, np.uint8)
    quality[:, :2] = 30
    mixed = application.encode(data, {"blocks": quality}).x[0, ..., 0]
    high, low = (application.encode(data, {"blocks": qp}).x[0, ..., 0] for qp in (30, 40))
    original = data[0] / 255
    error = np.abs(mixed - original)
    assert error[:, :30].mean() == pytest.approx(np.abs(high - original)[:, :30].mean(), rel=0.15)
    assert error[:, 34:].mean() == pytest.approx(np.abs(low - original)[:, 34:].mean(), rel=0.15)


def test_sound_knobs():
    rng = np.random.default_rng(0)
    pieces = rng.normal(0, 0.1, (3, 8000)).astype(np.float32)
    segment = Segment(pieces, {}, (0, 1, 2))
    for rate in knobs.SamplingRate().values:
        knob = knobs.SamplingRate()
        sent = knob.prepare(segment, rate)
        assert sent.data.shape == (3, 8000 * rate // SAMPLE_RATE_HZ)
        back = knob.restore(sent, rate, segment)
        assert back.data.shape == pieces.shape
    low = np.sin(2 * np.pi * 500 * np.arange(24000) / SAMPLE_RATE_HZ).astype(np.float32).reshape(3, 8000)
    knob = knobs.SamplingRate()
    back = knob.restore(knob.prepare(segment.with_(data=low), 4000), 4000, segment)
    assert np.abs(back.data - low)[1].max() < 0.01  # 500 Hz passes at 4000 samples per second


@pytest.mark.parametrize("knob", [knobs.Beams(), knobs.AzimuthStep()])
def test_scan_density(knob):
    ranges = np.arange(1, 1 + 2 * 8 * 16, dtype=np.float32).reshape(2, 8, 16)
    for value in knob.values:
        sent = knob.prepare(Segment(ranges), value)
        back = knob.restore(sent, value, Segment(ranges))
        assert back.data.shape == ranges.shape
        assert set(np.unique(back.data)) <= set(np.unique(sent.data))
    assert np.array_equal(knob.restore(knob.prepare(Segment(ranges), 1), 1, Segment(ranges)).data, ranges)


def test_knobs_need_two_values():
    with pytest.raises(ConfigError, match="at least two"):
        knobs.Quantiser((30,))
    with pytest.raises(ConfigError, match="different names"):
        knobs.check_knobs([knobs.Quantiser(), knobs.Quantiser()])


def test_knobs_do_not_change_what_they_are_given():
    data = small_clip(np.random.default_rng(0), 1)[0]
    before = data.copy()
    for knob in (knobs.Resolution(), knobs.FrameRate(), knobs.Quantiser(), knobs.FrameFilter()):
        segment = Segment(data, {}, tuple(range(len(data))))
        for value in (knob.values[0], knob.values[-1]):
            knob.restore(knob.prepare(segment, value), value, segment)
    assert np.array_equal(data, before)
