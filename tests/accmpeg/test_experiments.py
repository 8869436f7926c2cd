"""Every experiment yields rows, on the hand-made DNN and untrained camera models; tool and command line."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from accmpeg import setting
from accmpeg.__main__ import main
from accmpeg.api import EXPERIMENTS, METHODS, Site
from accmpeg.contract import (
    UntrainedModels,
    check_workload,
    square_clip,
    square_detection,
    square_segmentation,
    square_site,
)
from accmpeg.harness import Settings
from accmpeg.tool import record_of, side_by_side, stream_clip, write
from accmpeg.workloads import Clips, Street
from common.codecs import EncodedVideo, decode, read_qp_map
from common.errors import ConfigError, DataUnavailable
from common.experiment import Run

ROOT = Path(__file__).resolve().parents[2]
PLAN = yaml.safe_load((ROOT / "experiments" / "conf" / "paper" / "accmpeg.yaml").read_text())["plan"]


class Squares:
    """A workload of the hand-made clips."""

    num_frames = 8

    def items(self, rng, n):
        return (square_clip(int(rng.integers(1000)), self.num_frames, 64, 96) for _ in range(n))


@pytest.fixture(autouse=True)
def squares_instead_of_weights(monkeypatch):
    """DNNs and camera models that need no weights, in place of the bundled ones."""
    known = {"street": square_detection(), "street_segmentation": square_segmentation()}

    def site_of(clip, dnn, data_root=None, seed=0):
        height, width = clip.frames.shape[1:3]
        return Site(dnn, height, width, clip.fps, UntrainedModels(dnn), seed)

    monkeypatch.setattr(setting, "load_dnn", lambda name, root=None: (known[name], "0" * 64))
    monkeypatch.setattr(setting, "site_of", site_of)


def run_of(name, num_frames=8, **changes):
    plan = PLAN[name]
    smoke = plan.get("sizes", {}).get("smoke", {})
    workload = Squares()
    workload.num_frames = smoke.get("workload_args", {}).get("num_frames", num_frames)
    run = Run(
        paper="accmpeg",
        experiment=name,
        scale="smoke",
        seed=0,
        num_items=1,
        methods={method: METHODS.create(method) for method in plan.get("methods", [])},
        workload=workload,
        workload_name="squares",
        model=plan["model"],
        data={"source": "generated"},
    )
    return run, EXPERIMENTS.create(name, **(plan.get("args", {}) | smoke.get("args", {}) | changes))


def rows_of(name, **changes):
    run, experiment = run_of(name, **changes)
    return [row for item in experiment.rows(run) for row in item.rows]


def values(rows, metric, method=None, **factors):
    return [
        row.value
        for row in rows
        if row.metric == metric
        and (method is None or row.method == method)
        and all(row.factors.get(name) == value for name, value in factors.items())
    ]


def test_every_registered_experiment_has_a_plan():
    assert set(EXPERIMENTS.names()) == set(PLAN)


def test_main_experiment():
    rows = rows_of("delay_vs_accuracy")
    assert {row.method for row in rows} == set(PLAN["delay_vs_accuracy"]["methods"])
    assert all(0 <= value <= 1 for value in values(rows, "accuracy"))
    assert values(rows, "accuracy", "awstream", point="qp=30") == [1]
    sizes = [values(rows, "size", "awstream", point=f"qp={qp}")[0] for qp in (44, 40, 37, 34, 32, 30)]
    assert sizes == sorted(sizes)
    for method in ("accmpeg", "vigil", "dds"):
        # A chunk's delay is the sum of its parts, whatever these are.
        label = min(row.factors["point"] for row in rows if row.method == method and row.metric == "size")
        parts = [
            row.value
            for row in rows
            if row.method == method
            and row.factors.get("point") == label
            and row.metric.startswith("time_")
            and row.metric != "time_proposals"
        ]
        assert values(rows, "delay", method, point=label)[0] == pytest.approx(sum(parts))
    against = {row.factors["against"] for row in rows if row.metric == "size_reduction" and row.method == "accmpeg"}
    assert "accgrad" not in against
    assert against <= {"best baseline", *METHODS.names()}
    bases = {row.metric: row.basis for row in rows}
    assert bases["delay"] == bases["delay_reduction"] == "simulated"
    assert bases["delay_paper"] == "modelled"
    assert bases["accuracy"] == bases["size_reduction"] == bases["time_encode"] == "measured"


def test_targets():
    rows = rows_of("targets")
    assert values(rows, "accuracy", ranking="all", share=1.0) == [1]
    assert {row.factors["ranking"] for row in rows} == {"all", "paper", "official", "accmodel", "random", "boxes"}
    low = values(rows, "accuracy", ranking="all", share=0.0)[0]
    assert values(rows, "accuracy", ranking="paper", share=0.1)[0] >= low


def test_persistence_of_a_still_clip_lasts():
    run, experiment = run_of("persistence")
    still = square_clip(1, 8, 64, 96, speed=0.0)
    run.workload.items = lambda rng, n: [type(still)(np.repeat(still.frames[:1], 8, axis=0), 30.0, "still")]
    rows = [row for item in experiment.rows(run) for row in item.rows]
    assert [row.value for row in rows if row.factors["first_frame"] == 0] == [8, 8]


def test_boxes_overlap_in_part():
    found = values(rows_of("boxes_vs_accgrad"), "iou")
    assert found
    assert all(0 <= value <= 1 for value in found)


def test_reuse_has_a_map_of_each_for_each():
    rows = rows_of("reuse")
    pairs = {(row.factors["map_of"], row.factors["evaluated_on"]) for row in rows if row.metric == "accuracy"}
    names = ("street", "street_segmentation")
    assert pairs == {(made, judge) for made in (*names, "random", "none") for judge in names}


def test_codecs_bandwidth_sensitivity_and_cost():
    rows = rows_of("codecs")
    assert {row.method for row in rows} == set(PLAN["codecs"]["methods"])
    rows = rows_of("bandwidth_adaptation")
    assert {row.factors["system"] for row in rows} == {"accmpeg", "cbr"}
    assert len(values(rows, "accuracy", system="cbr")) == 3
    rows = rows_of("sensitivity")
    assert {row.factors["knob"] for row in rows} == {"alpha", "qp_lo", "dilation", "sample", "k"}
    rows = rows_of("camera_cost")
    assert values(rows, "time_accmodel", "accmpeg", sample="first")
    assert {row.method for row in rows} == set(PLAN["camera_cost"]["methods"])


def test_learning_curves_and_speed():
    rows = rows_of("learning_curves", widths=[4, 6], max_epochs=1, num_images=8)
    assert len(values(rows, "validation_loss", epoch=1)) == 2
    assert values(rows, "customisation_time", width=4)[0] > 0
    rows = rows_of("speed", height=96, width=160, model_sizes=[[64, 96]])
    assert {row.factors.get("system") for row in rows if row.metric == "time_per_frame"} == {
        "h264",
        "h264_same_size",
        "h265",
        "accmpeg",
        "accmpeg_unsampled",
    }
    assert all(value > 0 for value in values(rows, "cost_ratio"))


@functools.cache
def tried(name, **knobs):
    clip = square_clip(3, 8, 64, 96)
    return clip, stream_clip(METHODS.create(name, **knobs), clip, square_site(clip), Settings(4, 0), lambda: 0.0)


def test_an_encoded_file_has_the_maps_that_were_asked_for(tmp_path):
    clip, streamed = tried("random_blocks", share=0.3, qp_hi=16, qp_lo=24)
    record = record_of(streamed, clip, "random_blocks", Settings(4, 0))
    beside = write(streamed, record, tmp_path / "out.mp4")
    again = EncodedVideo.load(tmp_path / "out.mp4")
    assert (decode(again) == streamed.frames).all()
    assert record["bytes"] == streamed.video.num_bytes == sum(chunk["bytes"] for chunk in record["chunks"])
    wanted = np.array([chunk["qp_map"] for chunk in json.loads(beside.read_text())["chunks"]])
    assert (read_qp_map(again)[[0, 4]] == wanted).mean() > 0.99
    assert {int(qp) for qp in np.unique(wanted)} == {16, 24}


@pytest.mark.parametrize("name", ["awstream", "dds", "reducto", "cloudseg", "vp9", "accmpeg_h265"])
def test_any_policy_can_be_written_and_shown(name, tmp_path):
    clip, streamed = tried(name)
    assert streamed.frames.shape == clip.frames.shape
    assert streamed.frame_bytes.sum() == sum(ledger.num_bytes for ledger in streamed.ledgers)
    write(streamed, record_of(streamed, clip, name, Settings(4, 0)), tmp_path / "out.mkv")
    assert EncodedVideo.load(tmp_path / "out.mkv").num_frames == streamed.video.num_frames
    _, plain = tried("awstream")
    pictures = side_by_side(clip, plain, streamed, square_detection(), ("plain", name), scale=1)
    assert pictures.shape == (8, 64 + 24, 2 * 96, 3)


def test_workloads():
    check_workload("street")
    check_workload("clips")
    with pytest.raises(DataUnavailable, match=r"data\.root"):
        list(Clips().items_from({}, np.random.default_rng(0), 1))
    with pytest.raises(ConfigError, match="camera='crane'"):
        Street(camera="crane")
    (clip,) = Street(num_frames=2, height=64, width=96, camera="static").items(np.random.default_rng(0), 1)
    assert clip.frames.shape == (2, 64, 96, 3)
    assert len(clip.labels) == 2


def test_excerpts_of_a_file(tmp_path):
    _, streamed = tried("awstream")
    streamed.video.save(tmp_path / "a.mp4")
    found = list(Clips(num_frames=3, height=None).items_from({"root": str(tmp_path)}, np.random.default_rng(0), 2))
    assert [clip.name for clip in found] == ["a-0", "a-3"]
    assert (found[1].frames[0] != found[0].frames[0]).any()


def test_command_line_errors_are_one_line(tmp_path, capsys):
    assert main(["encode", str(tmp_path / "none.mp4"), str(tmp_path / "out.mp4")]) == 1
    assert "none.mp4" in capsys.readouterr().err
    assert main(["encode", "a.mp4", "out.mp4", "--policy", "acmpeg"]) == 2
    assert "Did you mean 'accmpeg'" in capsys.readouterr().err
    assert main(["encode", "a.mp4", "out.mp4", "--set", "alpha=2.0"]) == 2
    assert main(["encode", "a.mp4", "out.mp4", "--set", "alpha"]) == 2
    assert "KNOB=VALUE" in capsys.readouterr().err


@pytest.mark.slow
def test_runner_and_figures_take_every_experiment(tmp_path):
    command = [sys.executable, "-m", "experiments.run", "+paper=accmpeg", "experiment=all", "scale=smoke", "threads=1"]
    command += [f"results_dir={tmp_path / 'results'}", f"figures_dir={tmp_path / 'figures'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "figures" / "smoke" / "accmpeg"
    drawn = {path.stem for path in folder.glob("*.png")}
    assert {"delay_vs_accuracy", "share_of_high_quality", "speed", "learning_curves", "reuse"} <= drawn
    assert "cannot be computed" not in (folder / "claims.md").read_text()


@pytest.mark.parametrize("command", [["encode", "a.mp4", "a.mp4"], ["demo", "a.mp4", "--clip", "a.mp4"]])
def test_the_video_that_is_read_is_not_overwritten(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"precious")
    assert main(command) == 2
    assert "is the video that is read" in capsys.readouterr().err
    assert (tmp_path / "a.mp4").read_bytes() == b"precious"
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "b.mp4", "--scale", "0"])
