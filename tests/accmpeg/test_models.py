"""AccModel, its training, and the upscaler."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from accmpeg import accmodel, upscaler
from accmpeg.accmodel import AccModel, AccModelSettings
from accmpeg.camera_models import CameraModels
from accmpeg.contract import square_clip, square_detection
from accmpeg.dnn import images_of
from accmpeg.train import TrainingSettings, customise, gradients_of, scale_to_shares, threshold_of, train
from accmpeg.train_upscaler import UpscalerSettings, make
from accmpeg.training_images import images_from_folders
from accmpeg.upscaler import Upscaler, downscale
from common.errors import ConfigError, DataUnavailable


def images(count: int = 8) -> np.ndarray:
    return np.concatenate([square_clip(seed, 1, 64, 96).frames for seed in range(count)])


def fresh(width: int = 8, depth: int = 1) -> AccModel:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(1)
        return AccModel(AccModelSettings(width, depth))


def test_one_pair_of_logits_per_macroblock_also_at_odd_sizes():
    model = fresh().eval()
    for height, width, grid in ((64, 96, (4, 6)), (60, 90, (4, 6)), (65, 97, (5, 7)), (16, 16, (1, 1))):
        p = model.probabilities(np.zeros((2, height, width, 3), np.uint8))
        assert p.shape == (2, *grid)
        assert ((p >= 0) & (p <= 1)).all()


def test_eval_mode_does_not_depend_on_what_ran_before():
    model, frames = fresh().eval(), images(4)
    alone = model.probabilities(frames[:1])
    together = model.probabilities(frames)
    assert together[:1] == pytest.approx(alone, abs=1e-6)
    assert (model.probabilities(frames[:1]) == alone).all()


def test_folded_normalisation_gives_the_same_probabilities():
    model, frames = fresh(), images(4)
    model.train()
    for _ in range(3):
        model(images_of(frames))  # running statistics away from their start
    model.eval()
    assert model.fused().probabilities(frames) == pytest.approx(model.probabilities(frames), abs=1e-5)


def test_multiply_adds_by_hand():
    # Width 4, depth 1, 16x16: patches 4*4 places * 4 channels * 48; then depthwise and pointwise at stride 8 (2*2 places,
    # 4 -> 8), at 16 (1 place, 8 -> 12), again (12 -> 12), and the head 12 -> 2.
    wanted = 16 * 4 * 48 + 4 * (4 * 9 + 4 * 8) + (8 * 9 + 8 * 12) + (12 * 9 + 12 * 12) + 12 * 2
    assert fresh(4, 1).multiply_adds(16, 16) == wanted


def test_overfits_eight_frames():
    frames, model = images(), fresh(16, 2)
    target = torch.from_numpy(np.random.default_rng(0).random((8, 4, 6)) < 0.2).long()
    optimiser = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(70):
        loss = functional.cross_entropy(model(images_of(frames)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.15


def test_weights_travel(tmp_path):
    model = fresh().eval()
    accmodel.save(model, tmp_path / "a.safetensors")
    again = accmodel.load(tmp_path / "a.safetensors")
    assert again.settings == model.settings
    assert accmodel.fingerprint(again) == accmodel.fingerprint(model)
    assert (again.probabilities(images(2)) == model.probabilities(images(2))).all()


def test_bad_weights_are_refused(tmp_path):
    with pytest.raises(DataUnavailable, match="python -m accmpeg train"):
        accmodel.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(DataUnavailable, match="not a file of AccModel weights"):
        accmodel.load(tmp_path / "bad.safetensors")
    upscaler.save(Upscaler(4, 1), tmp_path / "other.safetensors")
    with pytest.raises(DataUnavailable, match="its format is"):
        accmodel.load(tmp_path / "other.safetensors")
    with pytest.raises(DataUnavailable, match="no AccModel is bundled"):
        CameraModels("nobody", square_detection).acc_model("paper")


# ------------------------------------------------------------------------------------------------------------ training


def test_threshold_is_a_quantile():
    gradients = np.arange(1000.0).reshape(10, 10, 10)
    assert (gradients > threshold_of(gradients, 0.15)).mean() == pytest.approx(0.15, abs=0.002)


def test_a_new_dnn_is_customised(tmp_path):
    frames = images(40)
    settings = TrainingSettings(width=8, depth=1, max_epochs=30, patience=30, learning_rate=4e-3, positive_share=0.3)
    ticks = iter(range(10**6))
    lines = []
    log = customise(frames, square_detection(), settings, tmp_path, lambda: float(next(ticks)), lines.append)
    assert log["epochs"][-1]["validation_loss"] < 0.9 * log["epochs"][0]["validation_loss"]
    assert log["recall"] > 0.5
    assert log == json.loads((tmp_path / "squares-paper.json").read_text())
    model = accmodel.load(tmp_path / "squares-paper.safetensors")
    assert model.settings.detector == "squares"
    assert model.settings.threshold == log["threshold"] > 0
    held_out = square_clip(99, 1, 64, 96)
    p = model.probabilities(held_out.frames)[0]
    objects = square_detection().object_mask(held_out.labels[0], p.shape)
    assert p[objects].mean() > p[~objects].mean() + 0.15
    # Gradients are computed once per image and kept.
    (stored,) = tmp_path.glob("gradients-*.safetensors")
    stamp = stored.stat().st_mtime_ns
    assert gradients_of(frames, square_detection(), settings, tmp_path).shape == (40, 4, 6)
    assert stored.stat().st_mtime_ns == stamp


def test_training_is_deterministic():
    frames = images(8)
    gradients = np.random.default_rng(0).random((8, 4, 6)).astype(np.float32)
    settings = TrainingSettings(width=4, depth=1, max_epochs=2)
    first, second = (train(frames, gradients, settings, lambda: 0.0) for _ in range(2))
    assert accmodel.fingerprint(first.model) == accmodel.fingerprint(second.model)
    other = train(frames, gradients, dataclasses.replace(settings, seed=1), lambda: 0.0)
    assert accmodel.fingerprint(first.model) != accmodel.fingerprint(other.model)


def test_p_is_scaled_to_shares_of_blocks():
    model = AccModel(AccModelSettings(width=4, depth=1)).eval()
    frames = np.random.default_rng(0).integers(0, 256, (6, 64, 96, 3), dtype=np.uint8)
    before = model.probabilities(frames).ravel()
    scale_to_shares(model, frames)
    after = model.probabilities(frames).ravel()
    assert np.quantile(after, 0.9) == pytest.approx(0.715, abs=0.02)
    assert np.quantile(after, 0.5) == pytest.approx(0.092, abs=0.005)
    # The order of macroblocks is the network's, up to the rounding of what was nearly equal.
    assert (np.diff(after[np.argsort(before)]) > -1e-3).all()


def test_pictures_of_several_folders_are_taken_and_named_files_left_out(tmp_path):
    import cv2

    for folder, names in (("a", ["one.png", "test_two.png", "tall.png"]), ("b", ["three.png", "four.png", "five.png"])):
        (tmp_path / folder).mkdir()
        for place, name in enumerate(names):
            shape = (40, 20, 3) if name == "tall.png" else (20, 40, 3)
            cv2.imwrite(
                str(tmp_path / folder / name), np.full(shape, 10 * place + (100 if folder == "b" else 0), np.uint8)
            )
    folders = [tmp_path / "a", tmp_path / "b"]
    found = images_from_folders(folders, 10, 0, height=32, width=48, skip=["test_*"])
    # one.png is 0, three 100, four 110, five 120; test_two.png was left out, tall.png is no landscape.
    assert sorted(int(image[0, 0, 0]) for image in found) == [0, 100, 110, 120]
    assert found.shape[1:] == (32, 48, 3)
    with pytest.raises(DataUnavailable, match="at least 4"):
        images_from_folders(folders, 10, 0, skip=["t*"])


def test_bad_training_settings_are_refused():
    with pytest.raises(ConfigError, match="at least four images"):
        train(images(1), np.zeros((1, 4, 6)), TrainingSettings(), lambda: 0.0)
    with pytest.raises(ConfigError, match="positive_share"):
        TrainingSettings(positive_share=0.0)


# ------------------------------------------------------------------------------------------------------------ upscaler


def test_upscaler_starts_as_bilinear_enlargement():
    small = np.random.default_rng(0).integers(0, 255, (1, 24, 32, 3), dtype=np.uint8)
    wanted = functional.interpolate(images_of(small), scale_factor=2, mode="bilinear", align_corners=False)
    found = Upscaler().eval().upscale(small, 48, 64)
    assert np.abs(found / 255 - wanted[0].permute(1, 2, 0).numpy()).max() < 0.003


def test_sizes_that_are_not_halved_evenly_come_back():
    frames = square_clip(1, 2, 90, 118).frames
    small = downscale(frames)
    assert small.shape == (2, 46, 60, 3)
    assert Upscaler(4, 1).eval().upscale(small, 90, 118).shape == frames.shape


def test_upscaler_learns(tmp_path):
    settings = UpscalerSettings(channels=8, depth=1, steps=60, patch=24, learning_rate=5e-3)
    log = make(images(12), settings, tmp_path, lambda: 0.0, lambda _: None)
    assert log["psnr_db"] > log["bilinear_psnr_db"]
    assert upscaler.load(tmp_path / "upscaler.safetensors").channels == 8
    with pytest.raises(DataUnavailable, match="train-upscaler"):
        upscaler.load(tmp_path / "none.safetensors")
