"""Three panes, one answer, one bad network: TCP, duplication and Chatterbox side by side, with running stall ratios.

By default the three are simulated (TCP in ns-3, or our model of it where ns-3 cannot be had; the pane says which) and shown at
real speed.
With real=True they run over real sockets: the kernel's TCP between two network namespaces, the others over loopback UDP.
"""

import dataclasses
import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.pool import AsyncResult
from typing import Any

import numpy as np
import numpy.typing as npt

from chatterbox.api import METHODS, Answer, Scenario
from chatterbox.experiments import bursty_link
from chatterbox.metrics import STALL_THRESHOLD_S, score
from chatterbox.playback import PATIENCE_S, WARM_UP_S, Playback, play
from chatterbox.workloads import make_answer
from common.net.ns3_bridge.build import Ns3Unavailable


@dataclasses.dataclass(frozen=True)
class Pane:
    """What one pane shows.

    Attributes:
        title: transport, and whether it is real or simulated.
        shown_s: when each token appears, in s from the beginning of the answer; +inf for those that never do.
        stall_ratio: of the whole answer.
        ip_bytes_per_token: down.
    """

    title: str
    shown_s: npt.NDArray[np.float64]
    stall_ratio: float
    ip_bytes_per_token: float


def prepare(num_tokens: int, tokens_per_s: float, seed: int, real: bool = False) -> tuple[Answer, list[Pane]]:
    """Stream one answer with three transports over the same network, before anything is shown."""
    answer = make_answer(np.random.default_rng(seed), num_tokens, tokens_per_s)
    scenario = Scenario(answer, bursty_link(seed))
    if real:
        names = ("tcp_kernel_cubic", "duplication_spaced", "chatterbox")
        with multiprocessing.get_context("fork").Pool(len(names)) as pool:
            jobs: list[AsyncResult[Playback]] = [pool.apply_async(_play_real, (scenario, name)) for name in names]
            played = [job.get() for job in jobs]
        titles = ["TCP (kernel, cubic)", "Duplication (UDP sockets)", "Chatterbox (UDP sockets)"]
        return answer, [_pane(title, playback) for title, playback in zip(titles, played, strict=True)]
    tcp, title = "tcp_ns3", "TCP (ns-3, simulated)"
    try:
        first = play(scenario, METHODS.create(tcp))
    except Ns3Unavailable as error:
        print(f"{error}\nShowing our model of TCP instead.")
        first, title = play(scenario, METHODS.create("tcp_model")), "TCP (our model, simulated)"
    panes = [_pane(title, first)]
    for name, shown in (("duplication_spaced", "Duplication"), ("chatterbox", "Chatterbox")):
        panes.append(_pane(f"{shown} (simulated)", play(scenario, METHODS.create(name))))
    return answer, panes


def _play_real(scenario: Scenario, name: str) -> Playback:
    from chatterbox.real_runs import play_real

    playback = play_real(scenario, name)
    return dataclasses.replace(playback, sender=None)  # the process that asked has no use for it


def _pane(title: str, playback: Playback) -> Pane:
    found = score(playback.generated_s, playback.rendered_s, PATIENCE_S)
    down = playback.down.offered_bytes / max(1, len(playback.generated_s))
    return Pane(title, playback.rendered_s - WARM_UP_S, found.stall_ratio, down)


def running_stall_ratio(shown_s: npt.NDArray[np.float64], now: float) -> float:
    """Stall ratio of what has been shown until `now`, the present wait included."""
    seen = shown_s[shown_s <= now]
    if len(seen) == 0 or now <= seen[0]:
        return 0.0
    is_over = len(seen) == len(shown_s)
    times = seen if is_over else np.append(seen, now)
    total_s = times[-1] - times[0]
    return float(np.maximum(0, np.diff(times) - STALL_THRESHOLD_S).sum() / total_s) if total_s > 0 else 0.0


def show(answer: Answer, panes: Sequence[Pane], speed: float = 1.0) -> None:
    """Play the panes in the terminal; without one, print the summary alone."""
    from rich.columns import Columns
    from rich.console import Console
    from rich.live import Live
    from rich.panel import Panel
    from rich.table import Table

    console = Console()
    ends = [float(pane.shown_s[np.isfinite(pane.shown_s)].max(initial=0.0)) for pane in panes]

    def draw(now: float) -> Any:
        boxes = []
        width = max(24, console.width // len(panes) - 2)
        for pane in panes:
            count = int((pane.shown_s <= now).sum())
            text = b"".join(answer.tokens[:count]).decode(errors="replace").strip()
            ratio = running_stall_ratio(pane.shown_s, now)
            foot = f"{count} of {len(answer.tokens)} tokens, stalled {100 * ratio:.1f} %"
            boxes.append(Panel(text[-width * 10 :], title=pane.title, subtitle=foot, width=width, height=14))
        return Columns(boxes)

    if console.is_terminal:
        start_s = time.monotonic()
        with Live(draw(0.0), console=console, refresh_per_second=20) as live:
            while (now := (time.monotonic() - start_s) * speed) < max(ends) + 0.2:
                live.update(draw(now))
                time.sleep(0.03)
    table = Table("transport", "stall ratio", "longest wait", "finished after", "IP bytes per token, down")
    for pane, end_s in zip(panes, ends, strict=True):
        longest_s = np.diff(pane.shown_s[np.isfinite(pane.shown_s)]).max(initial=0.0)
        table.add_row(
            pane.title,
            f"{100 * pane.stall_ratio:.1f} %",
            f"{longest_s:.2f} s",
            f"{end_s:.2f} s",
            f"{pane.ip_bytes_per_token:.0f} B",
        )
    console.print(table)
