"""Worlds, networks, workloads, methods' contract, and the command line."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataUnavailable
from oneadapt import contract, networks, worlds
from oneadapt.__main__ import main
from oneadapt.api import METHODS, WORKLOADS
from oneadapt.train import centre_map
from oneadapt.workloads import phases

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


def one_box(kind=worlds.CAR, x=10.0, y=0.0, size=(4.0, 2.0, 1.5)):
    return worlds.Street(
        np.array([[x, y, size[2] / 2]], np.float32), np.array([size], np.float32), np.zeros((1, 2), np.float32),
        np.array([kind]), np.array([0.7], np.float32), 0.2, 0.0, 0,
    )  # fmt: skip


def test_a_ray_ahead_hits_the_near_face():
    # Sensor at 1.7 m; the box's top is at 1.5 m, so look down a little: 0.5 m below at its near face, 8 m ahead.
    direction = np.array([[8.0, 0.0, -0.5], [8.0, 3.0, -0.5], [0.0, 0.0, 1.0]], np.float32)
    length = np.linalg.norm(direction, axis=1, keepdims=True)
    hits = worlds.cast(one_box(), 0.0, direction / length)
    assert hits.range_R[0] == pytest.approx(length[0, 0], rel=1e-4)
    assert hits.object_R.tolist() == [0, -1, -1]
    # The second passes beside it and meets the ground 1.7 m below: 3.4 times as far.
    assert hits.range_R[1] == pytest.approx(3.4 * length[1, 0], rel=1e-4)
    assert np.isinf(hits.range_R[2])


def test_bearing_slices_give_the_same_as_all_rays():
    world = worlds.street(np.random.default_rng(3), near=0.6)
    rays = worlds.camera_rays()
    hits = worlds.cast(world, 1.0, rays)
    one_by_one = np.array([worlds.cast(world, 1.0, rays[i : i + 1]).range_R[0] for i in range(0, len(rays), 997)])
    assert hits.range_R[::997] == pytest.approx(one_by_one)


@pytest.mark.parametrize("sensor", [worlds.lidar, worlds.depth_camera, worlds.thermal_camera])
def test_sensors_are_seeded_and_labelled(sensor):
    world = one_box()
    picture, labels = sensor(world, 0.0, np.random.default_rng(0))
    again, _ = sensor(world, 0.0, np.random.default_rng(0))
    assert np.array_equal(picture, again)
    assert labels.class_HW.shape == picture.shape
    ((kind, row, column, height, width),) = labels.boxes
    assert kind == worlds.CAR
    assert labels.class_HW[round(row), round(column)] == worlds.CAR
    assert (labels.class_HW == worlds.CAR).sum() <= height * width
    target = centre_map(labels, picture.shape)
    assert target[0].max() == 1.0
    assert target[1].max() == 0.0
    assert np.unravel_index(target[0].argmax(), target[0].shape) == (int(row / 2), int(column / 2))


def test_a_nearer_box_is_hotter_in_inverse_depth():
    near, _ = worlds.depth_camera(one_box(x=8.0), 0.0, np.random.default_rng(0))
    far, _ = worlds.depth_camera(one_box(x=30.0), 0.0, np.random.default_rng(0))
    assert np.median(near[48:56, 76:84]) > np.median(far[48:56, 76:84])


def test_sounds():
    for kind in range(len(worlds.SOUNDS)):
        wave = worlds.sound(kind, np.random.default_rng(kind))
        assert wave.shape == (worlds.WORD_SAMPLES,)
        assert np.abs(wave).max() == pytest.approx(1.0, abs=1e-6)
    track = worlds.soundtrack([0, worlds.SILENCE, 5], np.random.default_rng(0), snr_db=20, reverb_s=0.2)
    assert track.shape == (3 * worlds.WORD_SAMPLES,)
    assert np.abs(track).max() == pytest.approx(0.9)
    first, silence, _ = track.reshape(3, -1)
    assert np.mean(first**2) > 5 * np.mean(silence[4000:] ** 2)
    assert networks.log_mel(track).shape == (3, networks.NUM_MELS, 48)


def test_a_tone_lands_in_its_mel_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / worlds.SAMPLE_RATE_HZ).astype(np.float32)
    peak = networks.log_mel(tone)[0].mean(1).argmax()
    low, high = 2595 * np.log10(1 + 1000 / 700), 2595 * np.log10(1 + 8000 / 700)
    assert abs(peak - (low / high * 41 - 1)) <= 1


def test_weights_round_trip_and_damage(tmp_path):
    network = networks.MapNet(1, 2, width=4)
    networks.save(network, tmp_path / "a.safetensors", {"seed": "0"})
    again = networks.load("a", tmp_path).network
    x = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(network.eval()(x), again(x))
        assert again(x).shape == (1, 2, 16, 16)
    with pytest.raises(DataUnavailable, match=r"python -m oneadapt\.train b"):
        networks.load("b", tmp_path)


@pytest.mark.parametrize("name", ["thermal_detection", "depth_segmentation", "lidar_detection", "sound_recognition"])
def test_shipped_networks_work_on_unseen_worlds(name):
    from oneadapt.train import data, score

    found = score(name, networks.load(name).network, *data(name, np.random.default_rng(99), 24))
    least = {"f1": 0.3, "accuracy": 0.75, "iou_car": 0.25, "iou_person": 0.05}
    assert all(value >= least[metric] for metric, value in found.items()), found


def test_training_lowers_the_loss(tmp_path):
    from oneadapt.train import train

    log = train("sound_recognition", 1.5, 1, tmp_path, count=64)
    assert (tmp_path / "sound_recognition.safetensors").exists()
    assert log["steps"] > 0
    assert networks.load("sound_recognition", tmp_path).network is not None


def test_phases():
    found = phases(np.random.default_rng(0), 40, 8, 14)
    lengths = [len(list(group)) for _, group in itertools.groupby(found)]
    assert len(found) == 40
    assert all(8 <= length <= 14 for length in lengths[:-1])
    with pytest.raises(ConfigError, match="shortest_phase"):
        WORKLOADS.create("thermal_detection", shortest_phase=5, longest_phase=4)


@pytest.mark.parametrize("name", ["thermal_detection", "sound_recognition", "rgb_detection", "clip_detection"])
def test_workloads_keep_the_contract(name):
    contract.check_workload(name)


@pytest.mark.parametrize("name", METHODS.names())
def test_methods_keep_the_contract(name):
    contract.check_method(name)


def test_pipelines_that_do_not_exist():
    with pytest.raises(ConfigError, match="for pictures"):
        WORKLOADS.create("sound_recognition").application("blocks")
    with pytest.raises(ConfigError, match="pipeline='zoom'"):
        WORKLOADS.create("thermal_detection").application("zoom")


def test_real_clips_need_a_data_root():
    with pytest.raises(DataUnavailable, match=r"data\.root"):
        next(WORKLOADS.create("clip_detection").clips(np.random.default_rng(0), 1, 2))


@pytest.mark.skipif(not DATA.is_dir(), reason="no data root with real clips beside the repository")
def test_real_clips_of_a_data_root():
    workload = WORKLOADS.create("clip_detection", files=("carphone_qcif.mp4",), height=96, width=128, interval_frames=5)
    clip = next(workload.clips(np.random.default_rng(0), 1, 3, {"root": str(DATA)}))
    assert [data.shape for data in clip] == [(5, 96, 128, 3)] * 3
    unknown = WORKLOADS.create("clip_detection", files=("nothing.mp4",))
    with pytest.raises(ConfigError, match=r"nothing\.mp4"):
        next(unknown.clips(np.random.default_rng(0), 1, 3, {"root": str(DATA)}))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["absent.mp4", "--warm-up", "0"], 2, "--warm-up=0"),
        (["absent.mp4", "--method", "dds"], 2, "'dds' sets no knobs of the encoder"),
        (["absent.mp4", "--method", "oneadapp"], 2, "Did you mean 'oneadapt'"),
        (["/nowhere/absent.mp4"], 1, "absent.mp4"),
    ],
)
def test_command_line_refuses(arguments, code, said, capsys):
    assert main(["run", *arguments]) == code
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1
