"""One answer over real sockets: kernel TCP between two namespaces, or a datagram method over loopback. Real time passes."""

import json
import os
import socket
import tempfile
import time
from pathlib import Path

import numpy as np

from chatterbox.api import METHODS, Answer, Scenario
from chatterbox.framing import Deframer, frame
from chatterbox.playback import WARM_UP_S, Playback, play_on
from common.errors import ConfigError, DataUnavailable
from common.net.link import DOWN, UP
from common.net.namespaces import ADDRESSES, run_pair
from common.net.real import RealNetwork

TCP_PORT = 5000
KERNEL_PREFIX = "tcp_kernel_"


def play_real(scenario: Scenario, transport: str, *, patience_s: float = 10.0) -> Playback:
    """Stream the scenario's answer over real sockets.

    Args:
        scenario: answer and link.
        transport: a datagram method's name, or "tcp_kernel_cubic", "tcp_kernel_bbr" and so on for the kernel's TCP.
        patience_s: what is not rendered this long after the last token was generated counts as missing.

    Raises:
        NamespacesUnavailable: kernel TCP, and this machine does not permit namespaces.
        DataUnavailable: the kernel has no such congestion control.
    """
    if transport.startswith(KERNEL_PREFIX):
        return _play_kernel_tcp(scenario, transport.removeprefix(KERNEL_PREFIX), patience_s)
    method = METHODS.create(transport)
    if not hasattr(method, "pair"):
        raise ConfigError(f"{transport!r} is not for real sockets; the kernel's TCP is tcp_kernel_cubic.")
    link = scenario.link.build()
    with RealNetwork(link) as net:
        return play_on(net, link, scenario.answer, method, patience_s=patience_s)


def _play_kernel_tcp(scenario: Scenario, congestion: str, patience_s: float) -> Playback:
    available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    if congestion not in available:
        raise DataUnavailable(f"this kernel has no congestion control {congestion!r}; it has {', '.join(available)}.")
    answer = scenario.answer
    link = scenario.link.build()
    with tempfile.TemporaryDirectory() as folder:
        start_path, shown_path = Path(folder) / "start", Path(folder) / "shown"
        limit_s = (answer.times_s[-1] if answer.times_s else 0.0) + WARM_UP_S + patience_s
        codes = run_pair(
            lambda: _serve(answer, congestion, start_path),
            lambda: _watch(answer, shown_path, limit_s),
            link,
            limit_s=limit_s + 5,
        )
        if codes[1] != 0 or not start_path.exists():
            raise ConfigError(f"the kernel TCP run failed with exit codes {codes}.")
        start_s = json.loads(start_path.read_text())
        shown_s = json.loads(shown_path.read_text())
    generated_s = np.asarray(answer.times_s) + WARM_UP_S
    missing = [float("inf")] * (len(answer.times_s) - len(shown_s))
    rendered_s = np.asarray([t - start_s for t in shown_s] + missing)
    return Playback(generated_s, rendered_s, link.counters[DOWN], link.counters[UP])


def _serve(answer: Answer, congestion: str, start_path: Path) -> None:
    with socket.create_server((ADDRESSES[0], TCP_PORT)) as listener:
        # Set explicitly: the machine's default may be something else.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start_s = time.monotonic()
        start_path.write_text(json.dumps(start_s))
        for when_s, token in zip(answer.times_s, answer.tokens, strict=True):
            time.sleep(max(0.0, start_s + WARM_UP_S + when_s - time.monotonic()))
            connection.sendall(frame(token))
        time.sleep(3600)


def _watch(answer: Answer, shown_path: Path, limit_s: float) -> None:
    end_s = time.monotonic() + limit_s
    while True:
        try:
            source = socket.create_connection((ADDRESSES[0], TCP_PORT), timeout=limit_s)
            break
        except OSError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.05)
    deframer = Deframer()
    shown_s: list[float] = []
    tokens: list[bytes] = []
    while len(shown_s) < len(answer.tokens) and time.monotonic() < end_s:
        source.settimeout(max(0.01, end_s - time.monotonic()))
        try:
            data = source.recv(65536)
        except TimeoutError:
            break
        if not data:
            break
        now = time.monotonic()
        for token in deframer.feed(data):
            tokens.append(token)
            shown_s.append(now)
    assert tuple(tokens) == answer.tokens[: len(tokens)], "the kernel's TCP delivered something else"
    temporary = shown_path.with_suffix(".tmp")
    temporary.write_text(json.dumps(shown_s))
    os.replace(temporary, shown_path)
