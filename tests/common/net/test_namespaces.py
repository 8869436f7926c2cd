"""Two network namespaces and a user-space link between them; skips with the reason where that is not permitted."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from common.net.link import DOWN, UP, Direction, LinkSpec
from common.net.loss import Scripted
from common.net.namespaces import ADDRESSES, NamespacesUnavailable, run_pair
from common.net.rate import ConstantRate


def link(lost=(), delay_s=0.02):
    down = Direction(ConstantRate(10e6), delay_s, loss=Scripted(lost))
    return LinkSpec(down, Direction(ConstantRate(10e6), delay_s)).build()


def nothing():
    pass


@pytest.fixture(scope="module", autouse=True)
def permitted():
    try:
        run_pair(nothing, nothing, link(), limit_s=10)
    except NamespacesUnavailable as error:
        pytest.skip(str(error))


def children():
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def test_datagrams_cross_with_the_delay_of_the_link_and_lost_ones_do_not(tmp_path):
    import socket

    def server():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind((ADDRESSES[0], 9))
            while True:
                data, peer = own.recvfrom(100)
                own.sendto(data, peer)

    def client():
        got = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.settimeout(0.5)
            time.sleep(0.2)
            for number in range(6):
                start = time.monotonic()
                own.sendto(bytes([number]), (ADDRESSES[0], 9))
                try:
                    got.append((own.recv(10)[0], time.monotonic() - start))
                except TimeoutError:
                    continue
        (tmp_path / "got").write_text(repr(got))

    carried = link(lost=[1, 4], delay_s=0.05)
    assert run_pair(server, client, carried, limit_s=20) == (-signal.SIGKILL, 0)
    got = eval((tmp_path / "got").read_text())
    assert [number for number, _ in got] == [0, 2, 3, 5]
    assert all(rtt >= 0.1 for _, rtt in got)
    assert carried.counters[UP].passed == 6
    assert carried.counters[DOWN].lost == 2


def test_a_client_that_fails_is_told_by_its_code(capfd):
    before = children()  # other tests may have left a resource tracker

    def fail():
        raise RuntimeError("the client has failed")

    assert run_pair(lambda: time.sleep(60), fail, link(), limit_s=10)[1] == 1
    assert "the client has failed" in capfd.readouterr().err
    assert children() == before


def test_a_pair_that_hangs_is_killed():
    before = children()
    start = time.monotonic()
    codes = run_pair(lambda: time.sleep(60), lambda: time.sleep(60), link(), limit_s=0.5)
    assert codes == (-signal.SIGKILL, -signal.SIGKILL)
    assert time.monotonic() - start < 10
    assert children() == before


def _interrupted(pipe):
    def watch():
        pipe.send("running")
        time.sleep(60)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
    try:
        run_pair(lambda: time.sleep(60), watch, link(), limit_s=30)
    except KeyboardInterrupt:
        pipe.send(children())  # a fresh process has none of its own


def test_ctrl_c_leaves_nothing_behind():
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=_interrupted, args=(theirs,))
    process.start()
    assert ours.recv() == "running"
    os.kill(process.pid, signal.SIGINT)
    assert ours.poll(10)
    assert ours.recv() == []
    process.join(10)
    assert process.exitcode == 0
