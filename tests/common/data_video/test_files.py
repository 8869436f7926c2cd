"""Clips from files: written by our own encoder here, and real ones where a data root is present."""

import numpy as np
import pytest

from common.codecs import decode, encode
from common.data.video import find_clips, load_clip
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
