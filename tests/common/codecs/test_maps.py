"""Per-macroblock quantisers: the encoder follows them, the decoder reads them back."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codecs import (
    Encoder,
    decode,
    encode,
    encode_with_qp_map,
    grid_shape,
    motion_vectors,
    read_qp_map,
    rectangles,
)
from common.codecs import video as video_module
from common.errors import ConfigError, ReproError
from tests.common.codecs.test_codecs import moving, psnr_db


def noisy(num_frames: int = 3, height: int = 96, width: int = 128) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (
        (moving(num_frames, height, width) + rng.integers(-9, 10, (num_frames, height, width, 1)))
        .clip(0, 255)
        .astype(np.uint8)
    )


def test_grid_rounds_up():
    assert grid_shape(180, 320) == (12, 20)  # 180 / 16 = 11.25
    assert grid_shape(720, 1280) == (45, 80)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(1, 9), cols=st.integers(1, 9))
def test_rectangles_cover_exactly_and_do_not_overlap(data, rows, cols):
    values = data.draw(st.lists(st.sampled_from([20, 30, 40]), min_size=rows * cols, max_size=rows * cols))
    qp_map = np.array(values).reshape(rows, cols)
    base = data.draw(st.sampled_from([20, 30, 40]))
    painted = np.full((rows, cols), base)
    times = np.zeros((rows, cols), int)
    cover = rectangles(qp_map, base)
    for row, col, height, width, qp in cover:
        painted[row : row + height, col : col + width] = qp
        times[row : row + height, col : col + width] += 1
    np.testing.assert_array_equal(painted, qp_map)
    assert times.max(initial=0) <= 1
    assert (times > 0).sum() == (qp_map != base).sum()
    assert len(cover) <= rows * cols


def test_a_rectangle_is_one_rectangle():
    qp_map = np.full((6, 8), 40)
    qp_map[1:4, 2:7] = 30
    assert rectangles(qp_map, 40) == [(1, 2, 3, 5, 30)]


@pytest.mark.parametrize(("height", "width"), [(96, 128), (100, 130), (95, 129)])
def test_maps_of_four_levels_that_change_with_each_frame_are_read_back(height, width):
    """Fails when the encoder ignores the map: then every macroblock would report the base quantiser."""
    rng = np.random.default_rng(2)
    frames = noisy(4, height, width)
    qp_map = rng.choice([16, 20, 26, 34], (4, *grid_shape(height, width))).astype(np.uint8)
    coded = encode_with_qp_map(frames, qp_map, gop=1)
    found = read_qp_map(coded)
    assert found.shape == qp_map.shape
    assert (found == qp_map).mean() > 0.99
    assert (found != np.roll(qp_map, 1, axis=0)).mean() > 0.5


def test_a_constant_map_gives_the_bytes_of_the_plain_encoding():
    frames = noisy(5)
    for codec in ("h264", "h265"):
        plain = encode(frames, codec, qp=32, gop=3)
        assert encode_with_qp_map(frames, np.full((6, 8), 32), codec, gop=3).packets == plain.packets
        # The same through regions: base 32 chosen by the encoder's owner, each frame's map says 32 again.
        encoder = Encoder(128, 96, codec=codec, qp=32, gop=3)
        assert tuple(p for f in frames for p in encoder.encode(f, qp_map=np.full((6, 8), 32))) == plain.packets


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_quality_inside_a_region_is_that_of_its_quantiser(codec):
    frames = noisy(1, 192, 256)
    qp_map = np.full((12, 16), 42, np.uint8)
    qp_map[:, 8:] = 24
    mixed = decode(encode_with_qp_map(frames, qp_map, codec, gop=1))
    fine = decode(encode(frames, codec, qp=24, gop=1))
    coarse = decode(encode(frames, codec, qp=42, gop=1))
    inside, outside = np.s_[:, :, 144:], np.s_[:, :, :112]  # a macroblock away from the border, whose filter mixes
    assert psnr_db(mixed[inside], frames[inside]) == pytest.approx(psnr_db(fine[inside], frames[inside]), abs=0.5)
    assert psnr_db(mixed[outside], frames[outside]) == pytest.approx(psnr_db(coarse[outside], frames[outside]), abs=0.5)
    assert psnr_db(mixed[inside], frames[inside]) > psnr_db(mixed[outside], frames[outside]) + 3


def test_more_fine_macroblocks_cost_more_bytes():
    frames = noisy(4)
    order = np.random.default_rng(0).permutation(48)
    sizes = []
    for count in (0, 12, 24, 36, 48):
        qp_map = np.full(48, 40)
        qp_map[order[:count]] = 28
        sizes.append(encode_with_qp_map(frames, qp_map.reshape(6, 8)).num_bytes)
    assert all(later >= 0.98 * earlier for earlier, later in itertools.pairwise(sizes))
    assert sizes[-1] > 1.5 * sizes[0]


def test_thousands_of_regions():
    """More regions than the template starts with: it grows, and the map still arrives."""
    frames = noisy(1, 320, 640)
    qp_map = np.where(np.indices((20, 40)).sum(0) % 2, 20, 28).astype(np.uint8)  # a chessboard: 400 regions
    assert (read_qp_map(encode_with_qp_map(frames, qp_map, gop=1))[0] == qp_map).mean() > 0.99


def test_the_self_check_fails_for_an_encoder_that_ignores_regions(monkeypatch):
    """In x264's constant-quantiser mode regions are ignored without a word; here the settings fall back to it."""
    video_module.check_regions.cache_clear()
    real = video_module.EncoderSettings.library_options

    def ignoring(self):
        options = real(self)
        options.pop("crf")
        return options | {"qp": str(self.qp)}

    monkeypatch.setattr(video_module.EncoderSettings, "library_options", ignoring)
    with pytest.raises(ReproError, match="ignores quantiser maps"):
        encode_with_qp_map(noisy(1), np.full((6, 8), 30))
    video_module.check_regions.cache_clear()


@pytest.mark.parametrize(
    ("qp_map", "message"),
    [
        (np.full((5, 8), 30), r"6x8 macroblocks"),
        (np.full((2, 6, 8), 30), r"give \(1 or 3, 6, 8\)"),
        (np.full((6, 8), 52), r"\[1, 51\]"),
        (np.full((6, 8), 0), r"\[1, 51\]"),
        (np.full((6, 8), 30.0), "whole numbers"),
    ],
)
def test_bad_maps_are_refused(qp_map, message):
    with pytest.raises(ConfigError, match=message):
        encode_with_qp_map(noisy(3), qp_map)


def test_maps_need_a_codec_and_rate_control_that_take_them():
    with pytest.raises(ConfigError, match="quantiser maps need"):
        encode_with_qp_map(noisy(1), np.full((6, 8), 30), "vp9")
    with pytest.raises(ConfigError, match="cannot be given with a qp_map"):
        encode_with_qp_map(noisy(1), np.full((6, 8), 30), qp=30)
    with pytest.raises(ConfigError, match="h264 only"):
        read_qp_map(encode(noisy(1), "h265", qp=30))


def test_motion_vectors_tell_how_the_picture_moved():
    frames = moving(4)  # what is at (x, y) was at (x + 2, y + 1) one frame earlier
    coded = encode(frames, "h264", qp=18)
    vectors = motion_vectors(coded)
    assert [len(v) > 0 for v in vectors] == [False, True, True, True]
    last = vectors[-1]
    inner = last[(last["x"] < 100) & (last["y"] < 72)]
    assert np.median(inner["dx"]) == pytest.approx(2)
    assert np.median(inner["dy"]) == pytest.approx(1)
    assert (inner["width"] * inner["height"]).sum() >= 0.5 * 100 * 72
    with pytest.raises(ConfigError, match="h264 only"):
        motion_vectors(encode(frames, "vp9", qp=30))
