"""Named networks: generated ones with loss in both directions, and recorded traces.

The generated ones are ours (inferred): burst lengths and loss shares as walking, bus and train rides in LTE studies report.
"""

import dataclasses
from pathlib import Path

from common.errors import ConfigError
from common.net.link import Direction, LinkSpec
from common.net.loss import AnyOf, Bernoulli, GilbertElliott, LossModel, RandomOutages
from common.net.rate import ConstantRate, DeliveryTrace, Rate, SteppedRate
from common.net.traces import read_trace

LAST_MILE_BPS = 10e6


@dataclasses.dataclass(frozen=True)
class Preset:
    """A generated network. `link(seed)` is one realisation of it.

    Attributes:
        rtt_s: round-trip propagation delay, halved between the directions.
        loss: loss of each direction; the directions lose independently.
    """

    rtt_s: float
    loss: LossModel

    def link(self, seed: int) -> LinkSpec:
        """The network with one realisation of its loss."""
        direction = Direction(ConstantRate(LAST_MILE_BPS), self.rtt_s / 2, loss=self.loss)
        return LinkSpec(direction, direction, seed)


PRESETS: dict[str, Preset] = {
    "stable": Preset(0.05, Bernoulli(0.001)),
    "walk": Preset(0.06, GilbertElliott(1.5, 0.25)),
    "bus": Preset(0.08, GilbertElliott(5.0, 0.5)),
    "train": Preset(0.10, AnyOf((GilbertElliott(10.0, 1.0), RandomOutages(120.0, 5.0, 10.0)))),
}


def preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"network {name!r} is not known. Known: {', '.join(PRESETS)}.")
    return PRESETS[name]


def link_from_traces(
    down: Path,
    up: Path | None = None,
    *,
    seed: int = 0,
    phase: float = 0.0,
    rtt_s: float = 0.1,
    queue_packets: int = 1000,
    extra_loss: LossModel | None = None,
) -> LinkSpec:
    """A link that follows recorded traces.

    Args:
        down: trace of the direction to the client. Its delay and loss, where it has them, hold for both directions.
        up: trace of the other direction; else the upstream column of `down` (format `network`), else a tenth of its
            downstream mean.
        seed, phase: see `LinkSpec`.
        rtt_s: round trip where the trace records no delay.
        queue_packets: drop-tail queue of each direction. A deep one holds packets during an outage instead of losing them.
        extra_loss: loss on top of the trace's; most traces record rates only.
    """
    trace = read_trace(down)
    up_trace = read_trace(up) if up is not None else None
    # A G-NetTrack log of a download shows how little upload it used, not how much it could have had.
    own_up = trace.up if trace.format == "network" else None
    up_rate: Rate | None = up_trace.down if up_trace is not None else own_up
    delay_s = rtt_s / 2 if trace.delay_s is None else trace.delay_s
    down_rate = trace.down if trace.down is not None else ConstantRate(LAST_MILE_BPS)
    if up_rate is None:
        up_rate = ConstantRate(down_rate.mean_bps / 10) if trace.down is not None else ConstantRate(LAST_MILE_BPS)
    losses = tuple(part for part in (trace.loss, extra_loss) if part is not None)
    loss = AnyOf(losses)
    return LinkSpec(
        Direction(down_rate, delay_s, queue_packets, loss),
        Direction(up_rate, delay_s, queue_packets, loss),
        seed,
        phase,
    )


def duration_s(rate: Rate) -> float | None:
    """Length of a recorded trace; None for a constant rate."""
    return rate.duration_s if isinstance(rate, DeliveryTrace | SteppedRate) else None
