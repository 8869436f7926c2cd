"""Every experiment yields rows on tiny clips; the command line answers."""

import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.codecs import encode
from common.errors import CorruptBitstream
from common.experiment import Run
from grace import __main__ as command_line
from grace.__main__ import main
from grace.api import EXPERIMENTS, METHODS, WORKLOADS

ROOT = Path(__file__).resolve().parents[2]
PLAN = yaml.safe_load((ROOT / "experiments" / "conf" / "paper" / "grace.yaml").read_text())["plan"]
TINY = {"height": 64, "width": 64}
# Codec times are not measured here: timed sections hold a lock of the machine.
CASES = {
    "quality_vs_loss": ({"loss_rates": (0.0, 0.5), "bursts": (1, 2), "begin": 2, "repeats": 1}, 7, ["grace", "fec_50"]),
    "rate_distortion": ({"levels": (0, 16), "quantisers": (24, 32, 40)}, 3, ["grace"]),
    "any_subset": ({"num_packets": 3}, 2, ["grace"]),
    "resync": ({"loss_at": 2, "report_frames": 2}, 6, ["grace"]),
    "packet_overhead": ({"levels": (8,), "num_packets": (1, 4), "frame": 1}, 2, ["grace"]),
    "session": ({"duration_s": 0.4, "codec_times": "paper"}, 4, ["grace", "fec_adaptive"]),
    "bandwidth_drop": ({"duration_s": 0.6, "drops_s": ((0.2, 0.2),), "codec_times": "paper"}, 4, ["salsify"]),
}


def run_of(name, num_frames, methods) -> Run:
    return Run(
        paper="grace",
        experiment=name,
        scale="smoke",
        seed=0,
        num_items=1,
        methods={method: METHODS.create(method) for method in methods},
        workload=WORKLOADS.create("procedural", num_frames=num_frames, **TINY),
        workload_name="procedural",
    )


@pytest.mark.parametrize("name", list(CASES))
def test_experiment_yields_rows(name):
    knobs, num_frames, methods = CASES[name]
    (item,) = EXPERIMENTS.create(name, **knobs).rows(run_of(name, num_frames, methods))
    assert {row.method for row in item.rows} >= set(methods)
    values = {row.metric: row.value for row in item.rows}
    if name == "any_subset":
        assert all(row.value == 1 for row in item.rows if row.metric == "decoded")
    if name == "resync":
        agree = [row for row in item.rows if row.metric == "states_agree" and row.factors["resync"] == "with"]
        assert [row.value for row in agree] == [1, 0, 0, 1, 1]
    if name == "packet_overhead":
        assert 0 < values["side_share"] < 1


def test_every_experiment_has_a_plan():
    assert set(PLAN) == set(EXPERIMENTS.names())
    for plan in PLAN.values():
        assert set(plan.get("methods", [])) <= set(METHODS.names())


def test_importing_the_api_is_cheap():
    program = "import sys, grace.api; assert not {'torch', 'av', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_command_line_codes_decodes_and_refuses(tmp_path, clip, capsys):
    video = tmp_path / "clip.mp4"
    encode(clip[:4], "h264", qp=20, fps=25.0).save(video)
    coded, decoded = str(tmp_path / "c.grace"), str(tmp_path / "d.mp4")
    assert main(["encode", str(video), coded, "--height", "64", "--frames", "4"]) == 0
    assert main(["info", coded]) == 0
    assert main(["decode", coded, decoded, "--loss", "0.3"]) == 0
    assert "3 P-frames" in capsys.readouterr().out
    assert Path(decoded).stat().st_size > 500
    Path(coded).write_bytes(Path(coded).read_bytes()[:-3])
    assert main(["decode", coded, decoded]) == 1
    assert main(["decode", str(video), decoded]) == 1
    assert main(["decode", coded, decoded, "--loss", "2"]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_a_damaged_file_of_packets_is_not_taken_for_a_lossy_network(tmp_path, capsys):
    frames = [b"one packet", b"", b"another packet", b""]
    body = b"".join(struct.pack("<I", len(block)) + block for block in (b"start", *frames))
    head = struct.pack("<4sHHfI", b"GRC2", 64, 96, 25.0, command_line._checksum(64, 96, 25.0, body))
    path = tmp_path / "a.grace"
    path.write_bytes(head + body)
    assert command_line._read_file(path) == (64, 96, 25.0, b"start", [[b"one packet"], [b"another packet"]])
    whole = head + body
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(4, len(whole))]
    # Cut at the end of a frame, the rest is a shorter file without a fault of its own.
    for damaged in (*flipped, whole[: -len(b"another packet") - 8], whole[:-1], whole + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(CorruptBitstream, match="cut or damaged"):
            command_line._read_file(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["call", "--out", "c.xyz"], "no container for this suffix"),
        (["call", "--out", "c.mp4", "--seconds", "nan"], "--seconds nan must lie in"),
        (["call", "--out", "c.mp4", "--rate-scale", "-1"], "--rate-scale -1.0 must be a number above 0"),
        (["send", "--seconds", "inf"], "--seconds inf must lie in"),
        (["encode", "here.mp4", "here.mp4"], "is the video that is read"),
        (["encode", "here.mp4", "out", "--level", "17"], "--level 17 must lie in -8 (smallest)..16"),
        (["decode", "here.mp4", "here.mp4"], "is the video that is read"),
    ],
)
def test_values_are_refused_before_the_work(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.mp4").write_bytes(b"precious")
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "here.mp4").read_bytes() == b"precious"


def test_a_clip_that_gives_no_call_is_named(tmp_path, clip, capsys):
    for name, num in (("one", 1), ("small", 2)):
        encode(clip[:num], "h264", qp=20, fps=25.0).save(tmp_path / f"{name}.mp4")
    out = str(tmp_path / "out.mp4")
    assert main(["call", "--video", str(tmp_path / "one.mp4"), "--size", "64", "--out", out]) == 1
    assert "one.mp4 holds 1 frame; a call needs a video of at least 2." in capsys.readouterr().err
    assert main(["call", "--video", str(tmp_path / "small.mp4"), "--out", out]) == 2
    assert "--size 256 is more than" in (said := capsys.readouterr().err)
    assert "(72x64); give at most 64." in said


def test_an_absent_sender_is_named(capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["receive", "--port", str(port)]) == 1
    assert f"no sender answers at 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_call_becomes_a_video(tmp_path, capsys):
    out = tmp_path / "call.mp4"
    arguments = ["call", "--out", str(out), "--seconds", "0.6", "--size", "64", "--methods", "grace", "salsify"]
    assert main(arguments) == 0
    assert "P95 frame delay" in capsys.readouterr().out
    assert out.stat().st_size > 1000
