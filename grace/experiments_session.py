"""Calls over a network in virtual time: delay, stalls, frames not rendered, quality (sheet, F5 to F7).

Items are traces. Every scheme calls over the same realisation of the same network with the same controller and clip.
"""

import collections
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.data.video import Clip
from common.errors import ConfigError, DataUnavailable
from common.experiment import Run
from common.metrics.image import video_ssim
from common.net.link import Direction, LinkSpec
from common.net.loop import LoopNetwork
from common.net.loss import Bernoulli, GilbertElliott, LossModel, NoLoss
from common.net.rate import ConstantRate, Rate
from common.results import Basis, ItemRows, Row
from common.timing import measure_interleaved
from grace.api import EXPERIMENTS, Scheme
from grace.congestion import make_controller
from grace.experiments import clips_of, info_of
from grace.harness import displayed
from grace.session import (
    NO_TIMES,
    PAPER_TIMES,
    CodecTimes,
    Session,
    SessionRecord,
    SessionSettings,
    frame_delays,
    not_rendered_share,
    percentile,
    source_index,
    stall_ratio,
    with_times,
)
from grace.traces import KINDS, RECORDED, excerpt, generated_rate, recorded_rate, step_drop

DRIVERS = ("loop", "ns3", "real")
_UP_BPS = 10e6


def loss_model(loss_rate: float, burst_s: float) -> LossModel:
    """Random loss on top of the queue's: none, independent packets, or bursts of a mean length."""
    if not loss_rate:
        return NoLoss()
    if not burst_s:
        return Bernoulli(loss_rate)
    return GilbertElliott(burst_s * (1 - loss_rate) / loss_rate, burst_s)


def link_of(rate: Rate, delay_s: float, queue_packets: int, loss: LossModel, seed: int) -> LinkSpec:
    """The path of a call: the trace forwards, plenty backwards."""
    down = Direction(rate, delay_s, queue_packets, loss)
    return LinkSpec(down, Direction(ConstantRate(_UP_BPS), delay_s), seed)


def call(
    driver: str,
    link: LinkSpec,
    scheme: Scheme,
    clip: Clip,
    controller: str,
    payload_bytes: int,
    min_packets: int,
    num_frames: int,
    times: CodecTimes,
) -> SessionRecord:
    """One call, in virtual time unless the driver is "real".

    Raises:
        ConfigError: an unknown driver or controller.
        DataUnavailable: ns-3 is asked for and is not there.
    """
    if driver not in DRIVERS:
        raise ConfigError(f"driver {driver!r} is not known. Choose one of {', '.join(DRIVERS)}.")
    network: Any
    if driver == "loop":
        network = LoopNetwork(link.build())
    elif driver == "real":
        from common.net.real import RealNetwork

        network = RealNetwork(link.build())
    else:
        from common.net.ns3 import Ns3Network

        network = Ns3Network(link.build())
    info = info_of(clip, payload_bytes, min_packets)
    first_bps = max(60e3, 0.8 * link.down.rate.mean_bps)
    try:
        session = Session(
            network,
            scheme,
            clip.frames,
            info,
            make_controller(controller, first_bps, payload_bytes),
            SessionSettings(num_frames, times),
        )
        session.begin()
        network.run(session.end_s)
        return session.record()
    finally:
        network.close()


def measured_times(
    schemes: Mapping[str, Scheme], clip: Clip, payload_bytes: int, min_packets: int, target_bytes: float
) -> dict[str, CodecTimes]:
    """Shortest of eight times of encoding and of decoding a frame on this machine, rate control included, one thread.

    The shortest, because other work on the machine only ever adds.
    """
    info = info_of(clip, payload_bytes, min_packets)
    encoders: dict[str, Callable[[], None]] = {}
    decoders: dict[str, Callable[[], None]] = {}

    def add(name: str, scheme: Scheme) -> None:
        sender, receiver = scheme.sender(info), scheme.receiver(info)
        receiver.start(sender.start(clip.frames[0]))
        numbers = itertools.count(1)
        sent: collections.deque[list[bytes]] = collections.deque()

        def encode() -> None:
            number = next(numbers)
            sent.append(sender.encode(number, clip.frames[source_index(number, len(clip))], target_bytes))

        def decode() -> None:
            for packet in sent.popleft():
                receiver.on_packet(packet)

        encoders[name], decoders[name] = encode, decode

    for name, scheme in schemes.items():
        add(name, scheme)
    encoding = measure_interleaved(encoders, warmup=2, repeats=8, threads=1)
    decoding = measure_interleaved(decoders, warmup=2, repeats=8, threads=1)
    return {name: CodecTimes(min(encoding[name].seconds), min(decoding[name].seconds)) for name in schemes}


def paper_times(scheme: Scheme) -> CodecTimes:
    """The paper's times of a neural scheme; none for a classic one."""
    return PAPER_TIMES if callable(getattr(scheme, "codec", None)) else NO_TIMES


def _check_times(name: str) -> None:
    if name not in ("measured", "paper"):
        raise ConfigError(f"codec_times={name!r} is not one of measured, paper.")


@EXPERIMENTS.add("session")
@dataclasses.dataclass(frozen=True)
class Calls:
    """Delay, stalls, frames not rendered and quality of calls over traces (sheet, F5; headline: P95 frame delay).

    Attributes:
        duration_s: of each call.
        rate_scale: factor on the traces' rates; pictures are smaller than the paper's. At 0.3 a frame of 256x256 has about
            eight packets of `payload_bytes`, where the paper's 720p has about twelve of an MTU.
        delays_s: one-way propagation delays.
        queues_packets: lengths of the drop-tail queue.
        controllers: of `grace.congestion`.
        drivers: "loop", "ns3", or "real" (sockets on loopback, real time; the machine must keep up).
        loss_rate, burst_s: random loss on top of the queue's.
        traces: "generated": LTE and broadband in turn; "recorded": those of data.root that `grace.traces.RECORDED` lists, LTE,
            broadband and 5G, an excerpt of each from a random time on; "auto": recorded if data.root is given, else generated.
        trace_files: recorded traces of your own, relative to data.root/traces or absolute, in place of those; from their start.
        payload_bytes, min_packets: see `grace.api.StreamInfo`.
        quality_every: every how many-th frame is scored.
        codec_times: "measured" on this machine, which waits for other timed runs on it; every number that depends on them is then
            given a second time with the paper's, as the factor `codec_times` says. "paper": only those: 720p on an A40 for neural
            codecs, none at all for classic ones. Such numbers are modelled.
    """

    duration_s: float = 10.0
    rate_scale: float = 0.3
    delays_s: tuple[float, ...] = (0.1,)
    queues_packets: tuple[int, ...] = (25,)
    controllers: tuple[str, ...] = ("gcc",)
    drivers: tuple[str, ...] = ("loop",)
    loss_rate: float = 0.0
    burst_s: float = 0.0
    traces: str = "auto"
    trace_files: tuple[str, ...] = ()
    payload_bytes: int = 600
    min_packets: int = 4
    quality_every: int = 3
    codec_times: str = "measured"

    def __post_init__(self) -> None:
        _check_times(self.codec_times)
        if not 0 < self.rate_scale < math.inf:
            raise ConfigError(f"rate_scale={self.rate_scale} must be a number above 0; 0.3 suits pictures of 256x256.")
        if self.traces not in ("auto", "generated", "recorded"):
            raise ConfigError(f"traces={self.traces!r} is not one of auto, generated, recorded.")

    def rates(self, run: Run) -> Iterator[tuple[str, Rate]]:
        """The run's traces with their names."""
        root = run.data.get("root")
        length_s = self.duration_s + 5
        if self.traces == "recorded" and not root and not self.trace_files:
            raise DataUnavailable("traces='recorded' needs the folder that holds traces/: data.root=FOLDER.")
        is_recorded = self.traces == "recorded" or (self.traces == "auto" and bool(root))
        names = self.trace_files or (RECORDED if is_recorded else ())
        for index in range(run.num_items):
            rng = run.rng("trace", index)
            if not names:
                kind = KINDS[index % len(KINDS)]
                yield f"{index:02d}-{kind}", generated_rate(rng, kind, length_s, self.rate_scale)
                continue
            name = names[index % len(names)]
            path = Path(root) / "traces" / name if root and not Path(name).is_absolute() else Path(name)
            rate = recorded_rate(path, self.rate_scale)
            # Cut to the call: a controller begins at a share of the mean rate.
            rate = excerpt(rate, 0.0 if self.trace_files else rng.uniform(0, rate.duration_s), length_s)
            run.note_input(f"trace {name}", hashlib.sha256(path.read_bytes()).hexdigest())
            yield f"{index:02d}-{Path(name).stem}", rate

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `common.experiment.Experiment.rows`."""
        clips = clips_of(run)
        times: dict[str, CodecTimes] = {}
        for index, (key, rate) in enumerate(run.todo(self.rates(run))):
            place = int(key[:2])
            clip = clips[place % len(clips)][1]
            rows: list[Row] = [Row("trace_rate", rate.mean_bps, "bit/s", "simulated")]
            if not times and self.codec_times == "paper":
                times = {name: paper_times(method) for name, method in run.methods.items()}
            if not times:
                mean = rate.mean_bps * 0.8 / clip.fps / 8
                times = measured_times(run.methods, clip, self.payload_bytes, self.min_packets, mean)
            for name, method in run.methods.items():
                if not index and self.codec_times == "measured":
                    rows.append(Row("encode_time", times[name].encode_s, "s", "measured", name))
                    rows.append(Row("decode_time", times[name].decode_s, "s", "measured", name))
                for delay_s in self.delays_s:
                    for queue in self.queues_packets:
                        for controller in self.controllers:
                            for driver in self.drivers:
                                link = link_of(
                                    rate, delay_s, queue, loss_model(self.loss_rate, self.burst_s), run.seed + place
                                )
                                record = call(
                                    driver,
                                    link,
                                    method,
                                    clip,
                                    controller,
                                    self.payload_bytes,
                                    self.min_packets,
                                    round(self.duration_s * clip.fps),
                                    times[name],
                                )
                                factors = {
                                    "delay_s": delay_s,
                                    "queue_packets": queue,
                                    "controller": controller,
                                    "driver": driver,
                                }
                                if self.codec_times == "measured":
                                    rows += timed_rows(record, name, factors | {"codec_times": "measured"}, "simulated")
                                shifted = with_times(record, times[name], paper_times(method))
                                rows += timed_rows(shifted, name, factors | {"codec_times": "paper"}, "modelled")
                                every = self.quality_every if getattr(method, "has_pictures", True) else 0
                                rows += call_rows(record, clip, name, factors, every)
            yield ItemRows(key, rows)


def timed_rows(record: SessionRecord, name: str, factors: dict[str, Any], basis: Basis) -> list[Row]:
    """A call's numbers that depend on how long the codec takes."""
    delays = frame_delays(record)
    rows = [
        Row(f"delay_{label}", percentile(delays, share), "s", basis, name, factors)
        for label, share in (("p50", 0.5), ("p95", 0.95), ("p98", 0.98))
    ]
    rows.append(Row("not_rendered", not_rendered_share(record), "1", basis, name, factors))
    rows.append(Row("stall_ratio", stall_ratio(record), "1", basis, name, factors))
    return rows


def call_rows(record: SessionRecord, clip: Clip, name: str, factors: dict[str, Any], quality_every: int) -> list[Row]:
    """A call's numbers that do not; the quality of every so many-th frame, 0 for a scheme that shows no pictures."""
    lost = 1 - record.received_packets / max(1, record.sent_packets)
    values = {
        "never_decoded": (float(np.isinf(frame_delays(record)).mean()), "1"),
        "bitrate": (record.sent_bytes * 8 / record.duration_s, "bit/s"),
        "packet_loss": (lost, "1"),
    }
    if quality_every:
        values["ssim"] = shown_quality(record, clip, quality_every), "1"
    return [Row(metric, value, unit, "simulated", name, factors) for metric, (value, unit) in values.items()]


def shown_quality(record: SessionRecord, clip: Clip, every: int) -> float:
    """Mean SSIM of the frames that were shown, every so many-th; a call that shows nothing has 0."""
    shown = [frame for frame in record.frames if frame.image is not None][::every]
    if not shown:
        return 0.0
    originals = np.stack([clip.frames[source_index(frame.number, len(clip))] for frame in shown])
    images = np.stack([frame.image for frame in shown if frame.image is not None])
    return float(video_ssim(originals, images).mean())


@EXPERIMENTS.add("network_sweep")
@dataclasses.dataclass(frozen=True)
class NetworkSweep(Calls):
    """The same at other propagation delays and queue lengths (sheet, F5). Knobs as `session`."""

    delays_s: tuple[float, ...] = (0.05, 0.15)
    queues_packets: tuple[int, ...] = (10, 45)


@EXPERIMENTS.add("congestion_control")
@dataclasses.dataclass(frozen=True)
class CongestionControl(Calls):
    """GCC, GCC without its loss part, and Salsify's control (sheet, F7). Knobs as `session`."""

    controllers: tuple[str, ...] = ("gcc", "gcc_delay_only", "salsify")


@EXPERIMENTS.add("random_loss")
@dataclasses.dataclass(frozen=True)
class RandomLoss(Calls):
    """Calls with bursts of random loss, with and without the loss part of GCC (sheet, 8.3). Knobs as `session`."""

    controllers: tuple[str, ...] = ("gcc", "gcc_delay_only")
    loss_rate: float = 0.05
    burst_s: float = 0.1


@EXPERIMENTS.add("ns3_check")
@dataclasses.dataclass(frozen=True)
class Ns3Check(Calls):
    """The same call through the event loop and through ns-3. Knobs as `session`."""

    drivers: tuple[str, ...] = ("loop", "ns3")
    duration_s: float = 6.0


@EXPERIMENTS.add("bandwidth_drop")
@dataclasses.dataclass(frozen=True)
class BandwidthDrop:
    """Delay and quality of every frame around two sudden drops of the bandwidth (sheet, F6).

    Attributes:
        high_bps, low_bps: the paper's 8 and 2 Mbit/s, before scaling.
        drops_s: (start, length) of the drops.
        duration_s, rate_scale, delay_s, queue_packets, controller, payload_bytes, min_packets, codec_times: as in `session`.
    """

    high_bps: float = 8e6
    low_bps: float = 2e6
    drops_s: tuple[tuple[float, float], ...] = ((3.5, 0.8), (6.0, 0.8))
    duration_s: float = 8.0
    rate_scale: float = 0.24
    delay_s: float = 0.1
    queue_packets: int = 25
    controller: str = "gcc"
    payload_bytes: int = 600
    min_packets: int = 4
    codec_times: str = "measured"

    def __post_init__(self) -> None:
        _check_times(self.codec_times)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `common.experiment.Experiment.rows`."""
        rate = step_drop(
            self.high_bps * self.rate_scale, self.low_bps * self.rate_scale, self.drops_s, self.duration_s + 5
        )
        for key, clip in run.todo(clips_of(run)):
            rows = []
            target = self.high_bps * self.rate_scale * 0.6 / clip.fps / 8
            times = {name: paper_times(method) for name, method in run.methods.items()}
            if self.codec_times == "measured":
                times = measured_times(run.methods, clip, self.payload_bytes, self.min_packets, target)
            basis: Basis = "modelled" if self.codec_times == "paper" else "simulated"
            for name, method in run.methods.items():
                link = link_of(rate, self.delay_s, self.queue_packets, NoLoss(), run.seed)
                record = call(
                    "loop",
                    link,
                    method,
                    clip,
                    self.controller,
                    self.payload_bytes,
                    self.min_packets,
                    round(self.duration_s * clip.fps),
                    times[name],
                )
                images = {frame.number: frame.image for frame in record.frames if frame.image is not None}
                for frame in record.frames[::2]:
                    factors = {"time_s": round(frame.capture_s, 3)}
                    delay = frame.shown_s - frame.capture_s
                    rows.append(Row("frame_delay", delay, "s", basis, name, factors))
                    if math.isfinite(delay):
                        original = clip.frames[source_index(frame.number, len(clip))]
                        image = displayed(images, frame.number, clip.frames[0])
                        value = float(video_ssim(original[None], image[None])[0])
                        rows.append(Row("ssim", value, "1", "simulated", name, factors))
                    rows.append(Row("frame_wire_bytes", float(frame.wire_bytes), "B", "simulated", name, factors))
            yield ItemRows(key, rows)
