"""The rules that every registered method and workload keeps; run on a stranger's as on our own."""

import itertools
import unittest
from typing import Any

import numpy as np

from chatterbox.api import METHODS, WORKLOADS, Answer, Scenario, StreamTransport, TokenTransport
from chatterbox.playback import play
from common.errors import ConfigError
from common.net.link import Direction, LinkSpec
from common.net.loss import Bernoulli, Scripted
from common.net.ns3_bridge.build import Ns3Unavailable
from common.net.rate import ConstantRate


def check_method(name: str) -> None:
    """A method delivers every token once, in order and complete over a lossy link, the same way each time.

    Raises:
        unittest.SkipTest: it needs ns-3, which cannot be had on this machine.
    """
    method = METHODS.create(name)
    is_known = isinstance(method, TokenTransport | StreamTransport)
    assert is_known, f"{name} is neither a TokenTransport (pair) nor a StreamTransport (tcp_options, network)"
    answer = Answer(tuple(i / 30 for i in range(60)), tuple(f"{i} ö".encode() for i in range(60)))

    def link(loss: Any) -> LinkSpec:
        direction = Direction(ConstantRate(10e6), 0.04, loss=loss)
        return LinkSpec(direction, direction, seed=3)

    # play() itself raises WrongText if something else than the next token is rendered
    try:
        clean = play(Scenario(answer, link(Scripted([]))), method)
    except Ns3Unavailable as error:
        raise unittest.SkipTest(str(error)) from error
    assert np.isfinite(clean.rendered_s).all(), f"{name} does not finish an answer on a lossless link"
    lag_s = (clean.rendered_s - clean.generated_s)[5:]
    assert lag_s.max() < 0.25, f"{name} takes {lag_s.max():.3f} s for a token on a lossless link of 40 ms"
    scenario = Scenario(answer, link(Bernoulli(0.2)))
    lossy = play(scenario, method)
    assert np.isfinite(lossy.rendered_s).all(), f"{name} does not finish an answer at 20 % loss"
    assert (lossy.rendered_s >= lossy.generated_s + 0.04).all(), f"{name} renders a token before it can have arrived"
    assert (np.diff(lossy.rendered_s) >= 0).all(), f"{name} renders out of order"
    again = play(scenario, METHODS.create(name))
    assert np.allclose(again.rendered_s, lossy.rendered_s, atol=1e-9), f"{name} is not deterministic"
    assert again.down == lossy.down, f"{name} does not send the same packets again"


def check_workload(name: str) -> None:
    """A workload gives as many scenarios as asked for, the same for the same stream of randomness, others for another."""
    workload = WORKLOADS.create(name)
    try:
        items = list(workload.items(np.random.default_rng(1), 3))
    except ConfigError as error:
        if "workload_args" in str(error):  # it cannot work without a file, and says how to name one
            return
        raise

    def draw(seed: int, n: int) -> list[Scenario]:
        return list(itertools.islice(workload.items(np.random.default_rng(seed), n), n + 1))

    assert len(items) == 3, f"{name} gave {len(items)} scenarios instead of 3"
    assert all(isinstance(item, Scenario) for item in items), f"{name} gives something else than Scenarios"
    assert draw(1, 3) == items, f"{name} is not deterministic"
    assert draw(1, 5)[:3] == items, f"{name}: its first scenarios depend on how many are asked for"
    assert draw(2, 3) != items, f"{name} ignores its stream of randomness"
    first, second = (items[0].link.build() for _ in range(2))
    times = [(first.transmit(1, t / 50, 100), second.transmit(1, t / 50, 100)) for t in range(200)]
    assert all(a == b for a, b in times), f"{name}: one link spec gives different links"
