"""A call between two processes over real UDP sockets, through the lossy link in user space."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_two_processes_call_over_udp(tmp_path):
    sent, shown = tmp_path / "sent.json", tmp_path / "shown.json"
    common = ["--method", "concealment"]
    options = ["--seconds", "1.0", "--size", "64", "--port", "0", "--loss", "0.2", "--delay-s", "0.02"]
    command = [sys.executable, "-m", "grace", "send", *common, *options, "--json", str(sent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as sender:
        assert sender.stdout is not None
        port = sender.stdout.readline().rpartition(":")[2].strip()
        assert port.isdigit(), sender.stderr.read() if sender.stderr else ""
        receiving = [sys.executable, "-m", "grace", "receive", *common, "--port", port, "--json", str(shown)]
        receiver = subprocess.run(receiving, capture_output=True, text=True, cwd=ROOT, timeout=240, check=False)
        output, problem = sender.communicate(timeout=240)
    assert receiver.returncode == 0, receiver.stderr
    assert sender.returncode == 0, problem
    captures, times = json.loads(sent.read_text()), json.loads(shown.read_text())
    assert 1 <= len(captures) <= 24  # a machine that is busy with other things leaves frames out
    assert f"{len(captures)} frames sent" in output
    assert set(times) <= set(captures)
    assert len(times) >= 1
    # The link alone delays by 20 ms, and both processes read the same clock.
    assert all(times[number] - captures[number] > 0.02 for number in times)


def test_nobody_to_talk_to_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "grace", "receive", "--port", "1"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_grace_itself_calls_over_udp(tmp_path):
    shown = tmp_path / "shown.json"
    options = ["--seconds", "2.0", "--size", "64", "--port", "0", "--loss", "0.2"]
    with subprocess.Popen(
        [sys.executable, "-m", "grace", "send", *options], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as sender:
        assert sender.stdout is not None
        port = sender.stdout.readline().rpartition(":")[2].strip()
        subprocess.run(
            [sys.executable, "-m", "grace", "receive", "--port", port, "--json", str(shown)],
            cwd=ROOT,
            timeout=240,
            check=True,
        )
        sender.communicate(timeout=240)
    assert len(json.loads(shown.read_text())) >= 1
