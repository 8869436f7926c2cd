"""Clips from files: written by our own encoder here, and real ones where a data root is present."""

from fractions import Fraction

import numpy as np
import pytest

from common.codecs import decode, encode
from common.data.video import files, find_clips, load_clip
from common.errors import ConfigError, CorruptBitstream, DataUnavailable
from tests.common.codecs.test_codecs import moving, psnr_db


@pytest.fixture
def file(tmp_path):
    coded = encode(moving(8), qp=12, fps=25)
    coded.save(tmp_path / "clip.mp4")
    return tmp_path / "clip.mp4", decode(coded)


def test_all_frames_come_back(file):
    path, frames = file
    clip = load_clip(path)
    assert clip.fps == 25
    assert clip.name == "clip"
    assert clip.labels is None
    assert clip.frames.shape == frames.shape
    assert min(psnr_db(a, b) for a, b in zip(clip.frames, frames, strict=True)) > 32  # two ways to interpolate chroma


def test_start_count_and_step(file):
    path, _ = file
    whole = load_clip(path)
    part = load_clip(path, start=1, count=3, step=2)
    np.testing.assert_array_equal(part.frames, whole.frames[1:7:2])
    assert part.fps == 12.5
    assert len(load_clip(path, start=6, count=10)) == 2


def test_sizes(file):
    path, _ = file
    assert load_clip(path, count=1, height=48).frames.shape == (1, 48, 64, 3)
    assert load_clip(path, count=1, width=64).frames.shape == (1, 48, 64, 3)
    assert load_clip(path, count=1, height=50, width=70).frames.shape == (1, 50, 70, 3)


def test_errors_name_what_is_wrong(file, tmp_path):
    path, _ = file
    with pytest.raises(DataUnavailable, match="not there"):
        load_clip(tmp_path / "none.mp4")
    with pytest.raises(ConfigError, match="behind its last frame"):
        load_clip(path, start=8)
    with pytest.raises(ConfigError, match="step=0"):
        load_clip(path, step=0)
    (tmp_path / "broken.mp4").write_bytes(b"nothing of the kind")
    with pytest.raises(CorruptBitstream, match="cannot read"):
        load_clip(tmp_path / "broken.mp4")
    with pytest.raises(DataUnavailable, match=r"data\.root"):
        find_clips(None)
    with pytest.raises(DataUnavailable, match="not a folder"):
        find_clips(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataUnavailable, match="holds no video"):
        find_clips(tmp_path / "empty")


def _written(path, frames, metadata=None, times_ms=None, **options):
    import av

    with av.open(str(path), "w", **options) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream("libx264", rate=1000 if times_ms else 10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame)
            if times_ms:
                picture.pts, picture.time_base = times_ms[index], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def test_pictures_that_change_their_size_are_refused_and_can_be_scaled(tmp_path):
    pictures = [np.full((side, 64, 3), side, np.uint8) for side in (32, 64)]
    parts = [_written(tmp_path / f"{p.shape[0]}.h264", [p] * 2, format="h264").read_bytes() for p in pictures]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(parts))
    with pytest.raises(CorruptBitstream, match="frame 2 is 64x64, those before are 64x32; give a height"):
        load_clip(path)
    assert load_clip(path, count=2).frames.shape == (2, 32, 64, 3)
    assert load_clip(path, height=32, width=48).frames.shape == (4, 32, 48, 3)


def test_tags_in_another_encoding_do_not_matter(tmp_path):
    path = _written(tmp_path / "a.mkv", [np.zeros((32, 32, 3), np.uint8)] * 2, {"title": "cafXY"})
    data = path.read_bytes()
    assert b"cafXY" in data
    path.write_bytes(data.replace(b"cafXY", b"caf\xe9\xff"))
    assert len(load_clip(path)) == 2


def test_a_variable_rate_is_that_of_the_frames(tmp_path):
    frames = [np.full((32, 32, 3), 40 * i, np.uint8) for i in range(5)]
    path = _written(tmp_path / "a.mkv", frames, times_ms=[0, 100, 150, 700, 1000])
    assert load_clip(path).fps == pytest.approx(4.0)  # the clock's 1000 per second is what the file states
    assert load_clip(path, step=2).fps == pytest.approx(2.0)
    assert load_clip(path, fps=7.0).fps == 7.0


def test_more_than_memory_should_hold_is_refused(file, monkeypatch):
    monkeypatch.setattr(files, "_MOST_BYTES", 2.5 * 96 * 128 * 3)
    path, _ = file
    with pytest.raises(ConfigError, match="take fewer frames or a smaller height"):
        load_clip(path)
    assert len(load_clip(path, count=2)) == 2
    with pytest.raises(ConfigError, match=r"height=20000.*sides from 2 to 8192"):
        load_clip(path, height=20000)


def test_real_clips_load(data_root):
    clips = find_clips(data_root)
    assert len(clips) >= 5
    sizes = {}
    for path in clips:
        clip = load_clip(path, count=2, height=144)
        assert clip.height == 144
        assert clip.frames.std() > 5
        sizes[path.stem] = len(clip)
    assert sum(sizes.values()) == 2 * len(clips)
