"""Motion, intra patches, clips, networks: the parts by themselves."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, CorruptBitstream, DataUnavailable
from grace.api import EXPERIMENTS, METHODS, WORKLOADS
from grace.clips import ClipStyle, bundled_photos, make_clip
from grace.codec import NeuralCodec, load_codec
from grace.contract import check_method, check_workload
from grace.dvc import DvcCodec, untrained_scales
from grace.harness import bd_rate
from grace.intra import PatchDecoder, PatchEncoder, PatchGrid
from grace.motion import MotionEstimator, fit_global, global_flow
from grace.networks import CodecConfig, SmallCodec, warp
from grace.training_data import TEST_CLIPS, TRAINING_CLIPS
from grace.workloads import Procedural


def test_global_motion_of_an_affine_flow_is_found_despite_an_outlier():
    wanted = np.array([[64, -32, 96], [16, 0, -40]], np.int16)  # steps of 1/32 pixel
    flow = global_flow(wanted, 96, 128)
    flow[20:45, 30:60] += 9.0  # something that moves on its own
    assert np.abs(fit_global(flow).astype(int) - wanted).max() <= 2
    # dx at the middle is the constant term: 96 / 32 = 3 pixels.
    assert global_flow(wanted, 96, 128)[48, 64].tolist() == [3.0, -1.25]


def test_flow_points_into_the_reference():
    clip = make_clip(np.random.default_rng(1), bundled_photos(), ClipStyle(96, 96, 1))
    moved = np.roll(clip[0], (0, 3), axis=(0, 1))  # three pixels to the right
    flow = MotionEstimator().flow(moved, clip[0])
    assert np.median(flow[20:-20, 20:-20, 0]) == pytest.approx(-3, abs=0.2)
    with pytest.raises(ConfigError, match="preset 'best'"):
        MotionEstimator("best")


def test_warp_moves_whole_pixels_exactly():
    image = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    flow = torch.zeros(1, 2, 12, 16)
    flow[:, 0] = 2.0
    assert torch.allclose(warp(image, flow)[..., :-4], image[..., 2:-2], atol=1e-5)


def test_patches_cover_the_frame_and_survive():
    grid = PatchGrid(70, 100, 32)
    covered = np.zeros((70, 100), bool)
    for number in range(grid.num_patches):
        top, left = grid.corner(number)
        covered[top : top + 32, left : left + 32] = True
    assert covered.all()
    assert grid.num_patches == 12
    encoder = PatchEncoder()
    patch = make_clip(np.random.default_rng(2), bundled_photos(), ClipStyle(32, 32, 1))[0]
    data = encoder.encode(patch, 7, 3, 24)
    found = PatchDecoder(encoder.parameter_sets).decode(data)
    assert (found.frame, found.number) == (7, 3)
    assert -10 * np.log10(((found.image.astype(float) - patch) ** 2).mean() / 255**2) > 28
    with pytest.raises(ConfigError, match="patch side 80"):
        PatchGrid(70, 100, 80)


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_damaged_patches_are_refused(place, bit):
    encoder = PatchEncoder()
    data = bytearray(encoder.encode(np.zeros((32, 32, 3), np.uint8), 1, 1, 30))
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(CorruptBitstream):
        PatchDecoder(encoder.parameter_sets).decode(bytes(data))


def test_full_size_codec_has_the_papers_parameters():
    network = DvcCodec()
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert counts == {
        "spynet": 960_200,
        "motion_encoder": 1_035_520,
        "motion_decoder": 1_035_394,
        "compensation": 448_387,
        "residual_encoder": 375_968,
        "residual_decoder": 375_875,
        "prior_encoder": 260_288,
        "prior_decoder": 260_320,
    }
    codec = NeuralCodec(network, *untrained_scales(network))
    frames = np.random.default_rng(0).integers(0, 255, (2, 40, 52, 3), dtype=np.uint8)
    coded = codec.encode(frames[1], frames[0], 0, 1)
    assert coded.latents.motion.shape == (128, 3, 4)
    assert coded.latents.residual.shape == (96, 3, 4)
    image = codec.decode(codec.read(codec.packets(coded.latents, 3)).latents, frames[0])
    assert np.array_equal(image, coded.reconstruction)
    assert network.residual_scales(torch.zeros(1, 96, 4, 8)).shape == (1, 96, 4, 8)


def test_block_transform_starts_as_an_orthonormal_dct():
    network = SmallCodec(CodecConfig(luma_channels=64, chroma_channels=64))
    x = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(network.synthesis(network.analysis(x)), x, atol=1e-3)
    with pytest.raises(ConfigError, match="residual='wavelet'"):
        CodecConfig(residual="wavelet")


def test_codec_refuses_what_it_cannot_code(codec, clip):
    with pytest.raises(ConfigError, match="level=17"):
        codec.encode(clip[1], clip[0], 17)
    with pytest.raises(ConfigError, match="same size"):
        codec.encode(clip[1], clip[0][:-1], 3)
    with pytest.raises(ConfigError, match="is not an RGB image"):
        codec.encode(clip[1].astype(np.float32), clip[0], 3)
    with pytest.raises(DataUnavailable, match="no weights 'gracie'"):
        load_codec("gracie")


def test_bd_rate_of_a_curve_shifted_by_half():
    sizes, quality = np.array([100.0, 200, 400, 800]), np.array([30.0, 33, 36, 39])
    assert bd_rate(1.5 * sizes, quality, sizes, quality) == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(ConfigError, match="share no quality"):
        bd_rate(sizes, quality + 20, sizes, quality)


def test_clips_are_of_four_classes_and_never_those_of_training():
    clips = list(Procedural(64, 64, 3).items(np.random.default_rng(0), 5))
    assert [clip.name for clip in clips] == ["action-0", "game-1", "scenery-2", "call-3", "action-4"]
    assert not set(TEST_CLIPS) & set(TRAINING_CLIPS)
    with pytest.raises(ConfigError, match="content='film'"):
        Procedural(content="film")
    with pytest.raises(ConfigError, match="cannot be made"):
        Procedural(height=8)


@pytest.mark.parametrize("name", WORKLOADS.names())
def test_workload_contract(name):
    check_workload(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS.names())
def test_method_contract(name):
    check_method(name)


def test_bundled_weights_load_and_have_names():
    for name in ("grace", "grace_p", "grace_d"):
        assert load_codec(name).num_levels == 17
    assert len(EXPERIMENTS.names()) >= 10


def test_real_clips_that_are_too_small_are_left_out(tmp_path, monkeypatch):
    from common.codecs import encode
    from common.errors import DataUnavailable
    from grace import workloads

    (tmp_path / "video").mkdir()
    for name, side in (("small.mp4", 48), ("large.mp4", 80)):
        encode(np.full((12, side, side, 3), 90, np.uint8), "h264", qp=30, fps=25.0).save(tmp_path / "video" / name)
    monkeypatch.setattr(workloads, "TEST_CLIPS", ("small.mp4", "large.mp4"))
    data = {"root": str(tmp_path)}
    clips = workloads.Clips(height=64, width=64, num_frames=3)
    assert [clip.name for clip in clips.items_from(data, np.random.default_rng(0), 2)] == ["large-5", "large-8"]
    with pytest.raises(DataUnavailable, match="none of the test clips"):
        next(workloads.Clips(height=96, width=96).items_from(data, np.random.default_rng(0), 1))
    named = dataclasses.replace(clips, names=("small.mp4",))
    with pytest.raises(DataUnavailable, match="48x48 is smaller than 64x64"):
        next(named.items_from(data, np.random.default_rng(0), 1))
