"""Encoding, decoding and what happens to damaged streams."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.codecs import (
    Decoder,
    EncodedVideo,
    Encoder,
    EncoderSettings,
    Packet,
    decode,
    decode_available,
    encode,
    nal_units,
)
from common.codecs.stream import prepare_output
from common.errors import ConfigError, CorruptBitstream, DataUnavailable

CODECS = ("h264", "h265", "vp9")


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))


def moving(num_frames: int = 8, height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """A smooth random texture that moves by (2, 1) pixels per frame: content (x, y) of frame t was at (x + 2, y + 1) in t - 1."""
    import cv2

    rng = np.random.default_rng(seed)
    small = rng.integers(30, 226, (height // 8 + 8, width // 8 + 8, 3), dtype=np.uint8)
    texture = cv2.resize(small, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    return np.stack([texture[t : t + height, 2 * t : 2 * t + width] for t in range(num_frames)])


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return moving()


@pytest.fixture(scope="module", params=CODECS)
def encoded(request, clip) -> EncodedVideo:
    return encode(clip, request.param, qp=28, gop=4)


def test_a_clip_comes_back_in_order_and_close(encoded, clip):
    decoded = decode(encoded)
    assert decoded.shape == clip.shape
    assert decoded.dtype == np.uint8
    errors = [psnr_db(a, b) for a, b in zip(decoded, clip, strict=True)]
    assert min(errors) > 30
    # Order: each frame is nearer to its own original than to its neighbour's.
    assert psnr_db(decoded[1:], clip[1:]) > psnr_db(decoded[1:], clip[:-1]) + 3


def test_bytes_are_those_of_the_packets(encoded):
    assert encoded.num_bytes == sum(len(packet.data) for packet in encoded.packets)
    assert encoded.bytes_per_frame.sum() == encoded.num_bytes
    assert encoded.bitrate_bps == pytest.approx(encoded.num_bytes * 8 / (8 / 30))
    assert [packet.is_keyframe for packet in encoded.packets] == [True, False, False, False] * 2


def test_the_same_input_gives_the_same_bytes_and_coding_does_not_change_it(clip):
    before = clip.copy()
    assert encode(clip, "h264", qp=30).packets == encode(clip, "h264", qp=30).packets
    np.testing.assert_array_equal(clip, before)


@pytest.mark.parametrize("codec", CODECS)
def test_a_coarser_quantiser_costs_fewer_bytes_and_quality(codec, clip):
    runs = [encode(clip, codec, qp=qp) for qp in (20, 32, 44)]
    sizes = [run.num_bytes for run in runs]
    errors = [psnr_db(decode(run), clip) for run in runs]
    assert sizes[0] > sizes[1] > sizes[2]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("codec", CODECS)
def test_rate_control_reaches_its_target(codec):
    frames = np.concatenate([moving(30, seed=seed) for seed in range(2)])
    for target in (200e3, 400e3):
        rate = encode(frames, codec, bitrate_bps=target, buffer_s=0.5).bitrate_bps
        assert 0.5 * target < rate < 1.6 * target


def test_b_frames_come_out_in_display_order(clip):
    coded = encode(clip, "h264", crf=24, low_delay=False, b_frames=2)
    assert [packet.pts for packet in coded.packets] != list(range(len(clip)))
    decoded = decode(coded)
    assert min(psnr_db(a, b) for a, b in zip(decoded, clip, strict=True)) > 27
    assert coded.bytes_per_frame[coded.packets[1].pts] == len(coded.packets[1].data)
    beginning = coded.prefix(5)
    np.testing.assert_array_equal(decode(beginning), decoded[sorted(packet.pts for packet in beginning.packets)])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("height", "width"), [(95, 127), (96, 127), (17, 30), (16, 16)])
def test_odd_and_small_sizes(codec, height, width, clip):
    frames = np.ascontiguousarray(clip[:3, :height, :width])
    decoded = decode(encode(frames, codec, qp=20))
    assert decoded.shape == frames.shape
    assert psnr_db(decoded, frames) > 30


@settings(max_examples=10, deadline=None)
@example(codec="h265", height=16, width=33, seed=0)
@given(codec=st.sampled_from(CODECS), height=st.integers(16, 70), width=st.integers(16, 70), seed=st.integers(0, 99))
def test_any_size_round_trips(codec, height, width, seed):
    frames = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    decoded = decode(encode(frames, codec, qp=40))
    assert decoded.shape == frames.shape


class TestStreaming:
    @pytest.mark.parametrize("codec", CODECS)
    def test_one_frame_in_one_packet_and_one_frame_out(self, codec, clip):
        encoder = Encoder(clip.shape[2], clip.shape[1], codec=codec, qp=26, gop=4)
        decoder = Decoder.for_encoder(encoder)
        packets = []
        for index, frame in enumerate(clip):
            (packet,) = encoder.encode(frame)
            (shown,) = decoder.decode(packet)
            assert packet.pts == shown.pts == index
            assert psnr_db(shown.image, frame) > 30
            packets.append(packet)
        assert encoder.flush() == ()
        assert decoder.flush() == ()
        assert tuple(packets) == encode(clip, codec, qp=26, gop=4).packets

    @pytest.mark.parametrize("codec", CODECS)
    def test_a_key_frame_can_be_asked_for(self, codec, clip):
        encoder = Encoder(clip.shape[2], clip.shape[1], codec=codec, qp=30)
        keys = [encoder.encode(frame, keyframe=index == 3)[0].is_keyframe for index, frame in enumerate(clip[:6])]
        assert keys == [True, False, False, True, False, False]

    @pytest.mark.parametrize("codec", ["h264", "h265"])
    def test_a_quantiser_for_one_frame(self, codec):
        rng = np.random.default_rng(3)
        frames = rng.integers(0, 256, (4, 64, 64, 1), dtype=np.uint8).repeat(3, axis=3)  # nothing can be predicted
        encoder = Encoder(64, 64, codec=codec, qp=30)
        sizes = [len(encoder.encode(frame, qp=qp)[0].data) for frame, qp in zip(frames, (30, 20, 45, 30), strict=True)]
        assert sizes[1] > 1.3 * sizes[0] > 1.3 * 1.5 * sizes[2]
        assert sizes[3] == pytest.approx(sizes[0], rel=0.15)

    def test_misuse_is_one_clear_line(self, clip):
        encoder = Encoder(128, 96, crf=30)
        with pytest.raises(ConfigError, match="resize it first"):
            encoder.encode(clip[0][:64])
        with pytest.raises(ConfigError, match=r"made with qp="):
            encoder.encode(clip[0], qp=20)
        encoder.flush()
        with pytest.raises(ConfigError, match="make a new one"):
            encoder.encode(clip[0])


class TestDamage:
    @pytest.mark.parametrize("kind", ["bits", "cut", "noise", "empty"])
    def test_damage_is_found_and_what_was_before_it_is_kept(self, encoded, kind):
        rng = np.random.default_rng(5)
        good = decode(encoded)
        for index in range(encoded.num_frames):
            damaged = with_packet(encoded, index, spoil(encoded.packets[index].data, kind, rng))
            with pytest.raises(CorruptBitstream, match=f"frame {index}"):
                decode(damaged)
            left = decode_available(damaged)
            np.testing.assert_array_equal(left.frames, good[: len(left.frames)])
            assert len(left.frames) == index
            assert left.problem

    @pytest.mark.parametrize("kind", ["bits", "cut", "noise", "empty"])
    def test_without_checksums_damage_never_hangs_or_crashes(self, encoded, kind):
        rng = np.random.default_rng(6)
        for index in range(encoded.num_frames):
            damaged = with_packet(encoded, index, spoil(encoded.packets[index].data, kind, rng))
            bare = dataclasses.replace(damaged, checksums={})
            for conceal in (False, True):
                left = decode_available(bare, conceal)
                assert left.frames.shape[1:] == (96, 128, 3)
                assert len(left.frames) == len(left.pts) == len(left.is_damaged) <= encoded.num_frames

    def test_a_prefix_decodes_to_its_frames(self, encoded):
        np.testing.assert_array_equal(decode(encoded.prefix(5)), decode(encoded)[:5])
        with pytest.raises(CorruptBitstream, match="no packets"):
            decode(encoded.prefix(0))

    def test_a_lost_packet_spoils_frames_up_to_the_next_key_frame(self, encoded, clip):
        received = encoded.without({1})
        with pytest.raises(CorruptBitstream, match="frame 1, whose packet is missing"):
            decode(received)
        assert decode_available(received).pts.tolist() == [0]
        shown = decode_available(received, conceal=True)
        assert shown.pts.tolist() == [0, 2, 3, 4, 5, 6, 7]
        whole = decode(encoded)
        np.testing.assert_array_equal(
            shown.frames[3:], whole[4:]
        )  # from the second key frame on, as if nothing had happened
        assert psnr_db(shown.frames[1], clip[2]) < psnr_db(whole[2], clip[2]) - 1

    def test_one_lost_slice_is_concealed(self, clip):
        coded = encode(clip, "h264", qp=14, max_slice_bytes=300)
        units = nal_units(coded.packets[2].data)
        assert len(units) >= 3
        assert max(map(len, units)) <= 320
        damaged = with_packet(coded, 2, b"".join(units[:1] + units[2:]))
        shown = decode_available(damaged, conceal=True)
        assert shown.is_damaged.tolist() == [False, False, True, False, False, False, False, False]
        assert psnr_db(shown.frames[2], clip[2]) > 20
        assert decode_available(damaged).pts.tolist() == [0, 1]


def spoil(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    if kind == "empty":
        return b""
    if kind == "cut":
        return data[: int(rng.integers(len(data)))]
    if kind == "noise":
        return rng.bytes(len(data))
    flipped = bytearray(data)
    flipped[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def with_packet(encoded: EncodedVideo, index: int, data: bytes) -> EncodedVideo:
    packets = list(encoded.packets)
    packets[index] = Packet(data, packets[index].pts, packets[index].is_keyframe)
    return dataclasses.replace(encoded, packets=tuple(packets))


class TestFiles:
    def test_saved_packets_come_back_and_decode_the_same(self, encoded, tmp_path):
        path = tmp_path / "clip.mp4"
        encoded.save(path)
        loaded = EncodedVideo.load(path)
        assert (loaded.codec, loaded.width, loaded.height, loaded.fps) == (encoded.codec, 128, 96, 30)
        assert loaded.num_bytes == pytest.approx(encoded.num_bytes, abs=4 * encoded.num_frames)
        np.testing.assert_array_equal(decode(loaded), decode(encoded))

    def test_b_frames_survive_a_file(self, clip, tmp_path):
        coded = encode(clip, "h264", crf=24, low_delay=False, b_frames=2)
        coded.save(tmp_path / "clip.mkv")
        np.testing.assert_array_equal(decode(EncodedVideo.load(tmp_path / "clip.mkv")), decode(coded))

    def test_bad_files(self, tmp_path, encoded):
        with pytest.raises(DataUnavailable, match="not there"):
            EncodedVideo.load(tmp_path / "none.mp4")
        (tmp_path / "text.mp4").write_text("no video")
        with pytest.raises(CorruptBitstream, match="cannot read"):
            EncodedVideo.load(tmp_path / "text.mp4")
        with pytest.raises(ConfigError, match="no container for this suffix"):
            encoded.save(tmp_path / "clip.xyz")
        if encoded.codec != "vp9":
            with pytest.raises(ConfigError, match="webm cannot hold"):
                encoded.save(tmp_path / "clip.webm")

    def test_a_place_for_a_video_is_looked_at_before_the_work(self, tmp_path):
        source = tmp_path / "a.mp4"
        source.write_bytes(b"precious")
        for path, message in (
            (tmp_path / "a.xyz", "no container"),
            (tmp_path / "x" / ".." / "a.mp4", "video that is read"),
            (source / "b.mp4", "folder cannot be made"),
        ):
            (tmp_path / "x").mkdir(exist_ok=True)
            with pytest.raises(ConfigError, match=message):
                prepare_output(path, source)
        (tmp_path / "d.mp4").mkdir()
        with pytest.raises(ConfigError, match="is a folder"):
            prepare_output(tmp_path / "d.mp4")
        prepare_output(tmp_path / "new" / "b.mkv", source)
        assert (tmp_path / "new").is_dir()


def test_units_join_to_the_packet(encoded):
    if encoded.codec != "vp9":
        for packet in encoded.packets:
            assert b"".join(nal_units(packet.data)) == packet.data


def test_the_encoders_note_about_itself_is_not_sent(clip):
    assert b"x264 - core" not in encode(clip, "h264", qp=40).packets[0].data


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"codec": "h266", "qp": 30}, "not a codec"),
        ({}, "exactly one of"),
        ({"qp": 30, "crf": 30}, "exactly one of"),
        ({"qp": 52}, r"\[1, 51\]"),
        ({"qp": 30.5}, "whole numbers"),
        ({"codec": "vp9", "qp": 64}, r"\[1, 63\]"),
        ({"bitrate_bps": 10}, "bits per second"),
        ({"qp": 30, "gop": 0}, "at least 1"),
        ({"qp": 30, "preset": "fastest"}, "not a preset"),
        ({"qp": 30, "b_frames": 2}, "low_delay=False"),
        ({"qp": 30, "fps": 0}, "frames per second"),
        ({"codec": "h265", "qp": 30, "max_slice_bytes": 500}, "H.264 only"),
    ],
)
def test_bad_settings_are_refused(settings_, message):
    with pytest.raises(ConfigError, match=message):
        EncoderSettings(**settings_)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 32, 32), np.uint8), "shape"),
        (np.zeros((0, 32, 32, 3), np.uint8), "shape"),
        (np.zeros((2, 32, 32, 3), np.float32), "uint8"),
        (np.zeros((2, 8, 32, 3), np.uint8), "both sides"),
        ([[1]], "type list"),
    ],
)
def test_bad_frames_are_refused(frames, message):
    with pytest.raises(ConfigError, match=message):
        encode(frames, qp=30)


def test_importing_is_cheap():
    code = "import sys, common.codecs; print([m for m in ('av', 'cv2', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("width", [32, 64])
def test_x265_repeats_itself_in_pictures_one_block_wide(width):
    frames = moving(6, height=64, width=width)
    rng = np.random.default_rng(1)
    frames = np.clip(frames + rng.normal(0, 3, frames.shape), 0, 255).astype(np.uint8)
    streams = {tuple(packet.data for packet in encode(frames, "h265", qp=30).packets) for _ in range(8)}
    assert len(streams) == 1
