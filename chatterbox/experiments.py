"""One dataclass per table or figure; each yields the numbers of one item (one answer over one realisation of a network).

Every method gets the same answer and the same random network of an item, so comparisons are paired by item. Metrics: metrics.py.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chatterbox import metrics
from chatterbox.api import EXPERIMENTS, WORKLOADS, Answer, Scenario
from chatterbox.playback import PATIENCE_S, WARM_UP_S, Playback, play, play_on
from chatterbox.wire import decode_data
from common.errors import ConfigError, DataUnavailable
from common.experiment import Run
from common.net.link import Direction, LinkSpec
from common.net.loop import LoopNetwork
from common.net.loss import GilbertElliott, Outages, SlottedLoss
from common.net.presets import link_from_traces
from common.net.rate import ConstantRate, DeliveryTrace, SteppedRate
from common.net.traces import read_trace
from common.results import ItemRows, Row

Factors = Mapping[str, Any]


def rows_of(
    playback: Playback,
    method: str,
    factors: Factors | None = None,
    basis: Any = "simulated",
    threshold_s: float = metrics.STALL_THRESHOLD_S,
    method_args: Mapping[str, Any] | None = None,
) -> list[Row]:
    """All metrics of one answer as result rows."""
    shared: dict[str, Any] = {"factors": dict(factors or {}), "method_args": method_args}
    score = metrics.score(playback.generated_s, playback.rendered_s, PATIENCE_S, threshold_s)
    rows = [
        Row(name, value, metrics.UNITS[name], basis, method, **shared)
        for name, value in dataclasses.asdict(score).items()
    ]
    num = len(playback.generated_s)
    for name, counters in (("down", playback.down), ("up", playback.up)):
        rows.append(Row(f"ip_bytes_per_token_{name}", counters.offered_bytes / num, "B", basis, method, **shared))
    rows.append(Row("ip_bytes_per_token", playback.ip_bytes_per_token, "B", basis, method, **shared))
    return rows


# ------------------------------------------------------------------------------------------------------- main figure


@EXPERIMENTS.add("networks")
@dataclasses.dataclass(frozen=True)
class Networks:
    """Stall ratio of every method on every network (the paper's headline: TCP against duplication against Chatterbox).

    Networks are workloads by name, with their default knobs; a result row names its own in factor `network`.
    """

    networks: Sequence[str] = ("bursty", "walk", "bus", "train", "independent", "stable")
    network: str = "loop"

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`."""
        sources = {name: WORKLOADS.create(name) for name in self.networks}
        drawn = [list(source.items(run.rng("workload", name), run.num_items)) for name, source in sources.items()]
        for index, scenarios in run.todo(enumerate(zip(*drawn, strict=True))):
            rows: list[Row] = []
            for name, scenario in zip(sources, scenarios, strict=True):
                for method_name, method in run.methods.items():
                    rows += rows_of(play(scenario, method, self.network), method_name, {"network": name})
            yield ItemRows(index, rows)


# ------------------------------------------------------------------------------------------------------------ sweeps


class _Sweep:
    """Varies one thing of the run's workload; items are the same for every value, so values are paired too."""

    values: Sequence[float]

    def workload_for(self, workload: Any, value: float) -> Any:
        """The workload at one value."""
        raise AssertionError("defined by each sweep")

    def factors_for(self, value: float) -> dict[str, Any]:
        """How the value is called in result rows."""
        raise AssertionError("defined by each sweep")

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`."""
        drawn = [
            list(self.workload_for(run.workload, value).items(run.rng("workload"), run.num_items))
            for value in self.values
        ]
        for index, scenarios in run.todo(enumerate(zip(*drawn, strict=True))):
            rows: list[Row] = []
            for value, scenario in zip(self.values, scenarios, strict=True):
                for name, method in run.methods.items():
                    rows += rows_of(play(scenario, method), name, self.factors_for(value))
            yield ItemRows(index, rows)


def _replace(workload: Any, **changes: Any) -> Any:
    fields = {field.name for field in dataclasses.fields(workload)} if dataclasses.is_dataclass(workload) else set()
    missing = [name for name in changes if name not in fields]
    if missing:
        raise ConfigError(f"this sweep needs a workload with {', '.join(missing)}, such as bursty; got {workload!r}.")
    return dataclasses.replace(workload, **changes)


@EXPERIMENTS.add("loss")
@dataclasses.dataclass(frozen=True)
class Loss(_Sweep):
    """Stall ratio against the share of time in which packets are lost, in bursts of the workload's length."""

    values: Sequence[float] = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)

    def workload_for(self, workload: Any, value: float) -> Any:
        """See `_Sweep`. No loss is a good state that outlasts any answer."""
        bad_s = getattr(workload, "mean_bad_s", 0.2)
        return _replace(workload, mean_good_s=bad_s * (1 / value - 1) if value > 0 else 1e12)

    def factors_for(self, value: float) -> dict[str, Any]:
        """See `_Sweep`."""
        return {"loss_share": value}


@EXPERIMENTS.add("independent_loss")
@dataclasses.dataclass(frozen=True)
class IndependentLoss(_Sweep):
    """Stall ratio against the probability of independent packet loss; the workload must be `independent`."""

    values: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)

    def workload_for(self, workload: Any, value: float) -> Any:
        """See `_Sweep`."""
        return _replace(workload, loss=value)

    def factors_for(self, value: float) -> dict[str, Any]:
        """See `_Sweep`."""
        return {"loss_probability": value}


@EXPERIMENTS.add("rtt")
@dataclasses.dataclass(frozen=True)
class Rtt(_Sweep):
    """Stall ratio and bytes per token against the round-trip time."""

    values: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.3)

    def workload_for(self, workload: Any, value: float) -> Any:
        """See `_Sweep`."""
        return _replace(workload, rtt_s=value)

    def factors_for(self, value: float) -> dict[str, Any]:
        """See `_Sweep`."""
        return {"rtt_ms": value * 1000}


@EXPERIMENTS.add("burst_length")
@dataclasses.dataclass(frozen=True)
class BurstLength(_Sweep):
    """Stall ratio against the mean length of a loss burst, at a constant share of time lost."""

    values: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    loss_share: float = 1 / 11

    def workload_for(self, workload: Any, value: float) -> Any:
        """See `_Sweep`."""
        return _replace(workload, mean_bad_s=value, mean_good_s=value * (1 / self.loss_share - 1))

    def factors_for(self, value: float) -> dict[str, Any]:
        """See `_Sweep`."""
        return {"burst_ms": value * 1000}


@EXPERIMENTS.add("token_rate")
@dataclasses.dataclass(frozen=True)
class TokenRate(_Sweep):
    """Stall ratio against the server's token rate."""

    values: Sequence[float] = (5.0, 10.0, 20.0, 30.0, 50.0, 100.0)
    answer_s: float = 17.0

    def workload_for(self, workload: Any, value: float) -> Any:
        """See `_Sweep`. The answer lasts equally long at every rate, so it meets equally many bursts."""
        return _replace(workload, tokens_per_s=value, num_tokens=max(2, round(self.answer_s * value)))

    def factors_for(self, value: float) -> dict[str, Any]:
        """See `_Sweep`."""
        return {"tokens_per_s": value}


@EXPERIMENTS.add("token_size")
@dataclasses.dataclass(frozen=True)
class TokenSize(_Sweep):
    """Bytes on the wire and stall ratio against the size of a token."""

    values: Sequence[float] = (1, 5, 20, 80)

    def workload_for(self, workload: Any, value: float) -> Any:
        """See `_Sweep`."""
        return _replace(workload, token_bytes=int(value))

    def factors_for(self, value: float) -> dict[str, Any]:
        """See `_Sweep`."""
        return {"token_bytes": int(value)}


@EXPERIMENTS.add("ack_loss")
@dataclasses.dataclass(frozen=True)
class AckLoss(_Sweep):
    """The same with and without loss of acknowledgements: Chatterbox must not care, TCP does."""

    values: Sequence[float] = (0, 1)

    def workload_for(self, workload: Any, value: float) -> Any:
        """See `_Sweep`."""
        return _replace(workload, ack_loss=bool(value))

    def factors_for(self, value: float) -> dict[str, Any]:
        """See `_Sweep`."""
        return {"ack_loss": "lossy" if value else "lossless"}


@EXPERIMENTS.add("threshold")
@dataclasses.dataclass(frozen=True)
class Threshold:
    """Stall ratio against the stall threshold tau, of one and the same playback."""

    thresholds_s: Sequence[float] = (0.05, 0.1, 0.2, 0.5, 1.0)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`."""
        for index, scenario in run.todo(enumerate(run.workload.items(run.rng("workload"), run.num_items))):
            rows = []
            for name, method in run.methods.items():
                playback = play(scenario, method)
                for tau_s in self.thresholds_s:
                    score = metrics.score(playback.generated_s, playback.rendered_s, PATIENCE_S, tau_s)
                    factors = {"threshold_ms": tau_s * 1000}
                    rows.append(Row("stall_ratio", score.stall_ratio, "1", "simulated", name, factors))
            yield ItemRows(index, rows)


@EXPERIMENTS.add("packet_cap")
@dataclasses.dataclass(frozen=True)
class PacketCap:
    """What happens when not all unacknowledged tokens fit into a packet: caps and overflow policies of Chatterbox.

    The run's methods are ignored, except that `chatterbox` must be registered.
    """

    caps_tokens: Sequence[int] = (1, 2, 5, 10, 0)
    packings: Sequence[str] = ("oldest_first", "newest_first", "oldest_only")
    ack_every: Sequence[int] = (1, 2, 4)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`."""
        from chatterbox.methods import Chatterbox

        variants: list[tuple[dict[str, Any], Chatterbox]] = []
        for packing in self.packings:
            for cap in self.caps_tokens:
                args: dict[str, Any] = {"packing": packing, "max_tokens_per_packet": cap}
                variants.append(({"packing": packing, "cap_tokens": cap or 1000, "ack_every": 1}, Chatterbox(**args)))
        for every in self.ack_every[1:]:
            factors = {"packing": "oldest_first", "cap_tokens": 1000, "ack_every": every}
            variants.append((factors, Chatterbox(ack_every=every)))
        for index, scenario in run.todo(enumerate(run.workload.items(run.rng("workload"), run.num_items))):
            rows: list[Row] = []
            for factors, method in variants:
                rows += rows_of(play(scenario, method), "chatterbox", factors)
            yield ItemRows(index, rows)


@EXPERIMENTS.add("tcp_variants")
@dataclasses.dataclass(frozen=True)
class TcpVariants:
    """Which TCP, and QUIC: the same answers over the run's workload by every stream transport."""

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`."""
        yield from _plain_rows(run)


@EXPERIMENTS.add("pareto")
@dataclasses.dataclass(frozen=True)
class Pareto:
    """Bytes per token against stall ratio for every redundancy scheme, fixed-k with several k."""

    fixed_k: Sequence[int] = (1, 2, 4, 8)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`."""
        from chatterbox.methods import FixedRedundancy

        variants: list[tuple[str, Any, dict[str, Any] | None]] = [
            (name, method, None) for name, method in run.methods.items() if name != "fixed_redundancy"
        ]
        if "fixed_redundancy" in run.methods:
            variants += [("fixed_redundancy", FixedRedundancy(k), {"k": k}) for k in self.fixed_k]
        for index, scenario in run.todo(enumerate(run.workload.items(run.rng("workload"), run.num_items))):
            rows: list[Row] = []
            for name, method, args in variants:
                rows += rows_of(play(scenario, method), name, method_args=args)
            yield ItemRows(index, rows)


def _plain_rows(run: Run) -> Iterator[ItemRows]:
    for index, scenario in run.todo(enumerate(run.workload.items(run.rng("workload"), run.num_items))):
        rows: list[Row] = []
        for name, method in run.methods.items():
            rows += rows_of(play(scenario, method), name)
        yield ItemRows(index, rows)


# -------------------------------------------------------------------------------------------------------- single runs


def _even_answer(num_tokens: int, tokens_per_s: float, token_bytes: int = 5) -> Answer:
    times = tuple(place / tokens_per_s for place in range(num_tokens))
    return Answer(times, (b"x" * token_bytes,) * num_tokens)


@EXPERIMENTS.add("timeline")
@dataclasses.dataclass(frozen=True)
class Timeline:
    """Rendered tokens over time around an outage that takes a few consecutive packets."""

    outages_ms: Sequence[float] = (33.0, 100.0, 200.0)
    num_tokens: int = 90
    tokens_per_s: float = 30.0
    rtt_s: float = 0.1

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`. An item is an outage; there is no randomness."""
        answer = _even_answer(self.num_tokens, self.tokens_per_s)
        for outage_ms, _ in run.todo((f"{outage_ms:g} ms", None) for outage_ms in self.outages_ms):
            # half a token interval before a token, so that the outage covers whole packets
            start_s = WARM_UP_S + 30.5 / self.tokens_per_s
            loss = Outages(((start_s, start_s + float(outage_ms.split()[0]) / 1000),))
            spec = LinkSpec(
                Direction(ConstantRate(10e6), self.rtt_s / 2, loss=loss), Direction(ConstantRate(10e6), self.rtt_s / 2)
            )
            rows = []
            for name, method in run.methods.items():
                playback = play(Scenario(answer, spec), method)
                for token, (made_s, shown_s) in enumerate(zip(playback.generated_s, playback.rendered_s, strict=True)):
                    factors = {"token": token, "outage_ms": float(outage_ms.split()[0])}
                    rows.append(Row("rendered", shown_s - WARM_UP_S, "s", "simulated", name, factors))
                    rows.append(Row("delay", shown_s - made_s, "s", "simulated", name, factors))
            yield ItemRows(outage_ms, rows)


class _Recorded:
    """A method whose sender's datagrams are kept."""

    def __init__(self, method: Any) -> None:
        self._method = method
        self.datagrams: list[tuple[float, bytes]] = []

    def pair(self) -> Any:
        sender, receiver = self._method.pair()
        packets = sender.packets

        def record(now: float) -> list[bytes]:
            made: list[bytes] = packets(now)
            self.datagrams += [(now, datagram) for datagram in made]
            return made

        sender.packets = record
        return sender, receiver


@EXPERIMENTS.add("packet_contents")
@dataclasses.dataclass(frozen=True)
class PacketContents:
    """Which tokens consecutive Chatterbox packets carry while some are lost, from a real run's log."""

    num_tokens: int = 40
    tokens_per_s: float = 30.0
    rtt_s: float = 0.1
    outage_s: float = 0.15

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`."""
        from chatterbox.methods import Chatterbox

        start_s = WARM_UP_S + 12.5 / self.tokens_per_s
        down = Direction(ConstantRate(10e6), self.rtt_s / 2, loss=Outages(((start_s, start_s + self.outage_s),)))
        link = LinkSpec(down, Direction(ConstantRate(10e6), self.rtt_s / 2)).build()
        for key, method in run.todo([("log", _Recorded(Chatterbox()))]):
            arrivals: list[float | None] = []

            def note(to_node: int, now: float, ip_bytes: int, arrival_s: float | None, into: Any = arrivals) -> None:
                if to_node == 1:
                    into.append(arrival_s)

            net = LoopNetwork(link, note)
            play_on(net, link, _even_answer(self.num_tokens, self.tokens_per_s), method)
            rows = []
            for number, ((_, datagram), arrival_s) in enumerate(zip(method.datagrams, arrivals, strict=True)):
                data = decode_data(datagram)
                factors = {"packet": number, "fate": "lost" if arrival_s is None else "delivered"}
                for name, value in (("first_token", data.first), ("num_tokens", len(data.tokens))):
                    rows.append(Row(name, value, "tokens", "simulated", "chatterbox", factors))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("slow_link")
@dataclasses.dataclass(frozen=True)
class SlowLink:
    """A slow link with a deep queue after an outage: the plain scheme collapses, the budget is the fix."""

    rates_kbps: Sequence[float] = (20, 30, 50, 100, 200)
    outages_s: Sequence[float] = (1.0, 3.0)
    tokens_per_s: float = 30.0
    rtt_s: float = 0.1
    queue_packets: int = 1000
    num_tokens: int = 1800
    settle_s: float = 10.0

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`. Items differ in when the outage begins and in the times of the tokens."""
        from chatterbox.workloads import make_answer

        def scenarios() -> Iterator[tuple[int, tuple[Answer, float]]]:
            for index in range(run.num_items):
                rng = run.rng("slow_link", index)
                yield index, (make_answer(rng, self.num_tokens, self.tokens_per_s), float(rng.uniform(9, 11)))

        for index, (answer, start_s) in run.todo(scenarios()):
            rows: list[Row] = []
            for kbps in self.rates_kbps:
                for outage_s in self.outages_s:
                    begin_s = start_s + WARM_UP_S
                    direction = Direction(
                        ConstantRate(kbps * 1000),
                        self.rtt_s / 2,
                        self.queue_packets,
                        Outages(((begin_s, begin_s + outage_s),)),
                    )
                    scenario = Scenario(answer, LinkSpec(direction, direction))
                    for name, method in run.methods.items():
                        playback = play(scenario, method)
                        factors = {"link_kbps": kbps, "outage_s": outage_s}
                        rows += self._rows(playback, name, factors, begin_s + outage_s)
            yield ItemRows(index, rows)

    def _rows(self, playback: Playback, name: str, factors: Factors, end_s: float) -> list[Row]:
        shown_s = np.where(np.isfinite(playback.rendered_s), playback.rendered_s, playback.generated_s[-1] + PATIENCE_S)
        delay_s = shown_s - playback.generated_s
        after = playback.generated_s > end_s
        settled = playback.generated_s > end_s + self.settle_s
        values = (
            ("delay_after_outage_median", float(np.median(delay_s[after])), "s"),
            ("delay_settled_median", float(np.median(delay_s[settled])), "s"),
            ("ip_bytes_per_token_down", playback.down.offered_bytes / len(delay_s), "B"),
            ("incomplete", float(not np.isfinite(playback.rendered_s).all()), "1"),
        )
        return [Row(metric, value, unit, "simulated", name, factors) for metric, value, unit in values]


# ----------------------------------------------------------------------------------------------------- recorded traces


def outage_pattern(rate: Any, slot_s: float = 0.05, floor_bps: float = 10_000.0) -> SlottedLoss | None:
    """The slots of a rate trace in which (next to) nothing could be sent, as loss; None if there are none."""
    num_slots = int(rate.duration_s / slot_s)
    if isinstance(rate, DeliveryTrace):
        counts, _ = np.histogram(np.asarray(rate.opportunities_ms) / 1000, num_slots, (0, num_slots * slot_s))
        # A slot is dark if it lies in a gap of at least 200 ms between two opportunities.
        dark = np.zeros(num_slots, bool)
        times_s = np.unique(rate.opportunities_ms) / 1000
        for start_s, end_s in itertools.pairwise(times_s.tolist()):
            if end_s - start_s >= 0.2:
                dark[int(start_s / slot_s) + 1 : int(end_s / slot_s)] = True
        dark &= counts == 0
    else:
        assert isinstance(rate, SteppedRate)
        places = np.searchsorted(rate.ends_s, (np.arange(num_slots) + 0.5) * slot_s)
        dark = np.asarray(rate.bps)[np.minimum(places, len(rate.bps) - 1)] < floor_bps
    return SlottedLoss(tuple(dark.astype(float).tolist()), slot_s) if dark.any() else None


@EXPERIMENTS.add("recorded_networks")
@dataclasses.dataclass(frozen=True)
class RecordedNetworks:
    """Stall ratio on recorded LTE, 3G, 5G and train traces (needs +data.root=FOLDER with a folder `traces`).

    Each trace is played twice: with outages that *hold* packets in a deep queue, as the recording tool saw them, and with
    outages that *lose* them (the same dark times, at 10 Mbit/s otherwise). Traces that record loss have it in both.
    """

    patterns: Sequence[str] = (
        "mahimahi/*.down",
        "5g_ucc/Download_*.csv",
        "nyu_mets/*.csv",
        "lll_cadvise/belgium*.json",
        "hsdpa_3g_norway/*",
    )
    rtt_s: float = 0.1
    num_tokens: int = 500
    tokens_per_s: float = 30.0
    max_files_per_pattern: int = 8

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`. An item is a place in a trace."""
        from chatterbox.workloads import make_answer

        files = self._files(run)
        for path in files:
            run.note_input(f"{path.parent.name}/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest())
        keys = [(f"{path.parent.name}/{path.name}#{n}", (path, n)) for path in files for n in range(run.num_items)]
        for key, (path, number) in run.todo(keys):
            rng = run.rng("recorded", path.parent.name, path.name, number)
            answer = make_answer(rng, self.num_tokens, self.tokens_per_s)
            seed, phase = int(rng.integers(2**31)), float(rng.random())
            rows: list[Row] = []
            for outages, spec in self._links(path, seed, phase).items():
                for name, method in run.methods.items():
                    factors = {"family": path.parent.name, "outages": outages}
                    rows += rows_of(play(Scenario(answer, spec), method), name, factors)
            yield ItemRows(key, rows)

    def _files(self, run: Run) -> list[Path]:
        root = run.data.get("root")
        if not root:
            raise DataUnavailable(
                "recorded_networks needs recorded traces: give +data.root=FOLDER, with files as FOLDER/traces/mahimahi/*.down "
                "and so on (formats: docs/net.md), or run experiment=networks on generated ones."
            )
        folder = Path(root) / "traces"
        found: list[Path] = []
        for pattern in self.patterns:
            found += sorted(folder.glob(pattern))[: self.max_files_per_pattern]
        if not found:
            raise DataUnavailable(f"no file under {folder} matches {', '.join(self.patterns)}.")
        return found

    def _links(self, path: Path, seed: int, phase: float) -> dict[str, LinkSpec]:
        up = path.with_suffix(".up")
        with_up = up if path.suffix == ".down" and up.exists() else None
        links = {"hold": link_from_traces(path, with_up, seed=seed, phase=phase, rtt_s=self.rtt_s)}
        trace = read_trace(path)
        dark = outage_pattern(trace.down) if trace.down is not None else None
        if dark is not None:
            direction = Direction(ConstantRate(10e6), links["hold"].down.delay_s, loss=dark)
            links["lose"] = LinkSpec(direction, direction, seed)
        return links


# ------------------------------------------------------------------------------------------------------------- drivers


@EXPERIMENTS.add("drivers")
@dataclasses.dataclass(frozen=True)
class Drivers:
    """The same scenarios in the event loop, in ns-3 and over real sockets: render times must agree."""

    network_names: Sequence[str] = ("loop", "ns3")
    real_items: int = 2
    real_tokens: int = 150

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`."""
        for index, scenario in run.todo(enumerate(run.workload.items(run.rng("workload"), run.num_items))):
            rows: list[Row] = []
            for name, method in run.methods.items():
                playbacks = {kind: play(scenario, method, kind) for kind in self.network_names}
                for kind, playback in playbacks.items():
                    rows += rows_of(playback, name, {"driver": kind})
                    difference_s = float(np.abs(playback.rendered_s - playbacks["loop"].rendered_s).max())
                    rows.append(Row("render_difference_max", difference_s, "s", "simulated", name, {"driver": kind}))
                if index < self.real_items:
                    rows += self._real(scenario, name, method)
            yield ItemRows(index, rows)

    def _real(self, scenario: Scenario, name: str, method: Any) -> list[Row]:
        from common.net.real import RealNetwork

        num = self.real_tokens
        answer = Answer(scenario.answer.times_s[:num], scenario.answer.tokens[:num])
        simulated = play(Scenario(answer, scenario.link), method)
        link = scenario.link.build()
        net = RealNetwork(link)
        try:
            playback = play_on(net, link, answer, method, patience_s=5.0)
        finally:
            net.close()
        rows = rows_of(playback, name, {"driver": "real sockets"}, basis="measured")
        difference_s = np.abs(playback.rendered_s - simulated.rendered_s)
        for metric, value in (
            ("render_difference_max", float(difference_s.max())),
            ("render_difference_median", float(np.median(difference_s))),
        ):
            rows.append(Row(metric, value, "s", "measured", name, {"driver": "real sockets"}))
        return rows


def bursty_link(seed: int, rtt_s: float = 0.1, mean_good_s: float = 2.0, mean_bad_s: float = 0.2) -> LinkSpec:
    """The network of the base condition, for demonstrations and real sockets."""
    direction = Direction(ConstantRate(10e6), rtt_s / 2, loss=GilbertElliott(mean_good_s, mean_bad_s))
    return LinkSpec(direction, direction, seed)


@EXPERIMENTS.add("real_sockets")
@dataclasses.dataclass(frozen=True)
class RealSockets:
    """The kernel's TCP, QUIC and Chatterbox over real sockets and one user-space link, in real time."""

    transports: Sequence[str] = (
        "tcp_kernel_cubic",
        "quic_stream",
        "duplication_spaced",
        "chatterbox",
        "chatterbox_quic",
    )
    num_tokens: int = 300
    tokens_per_s: float = 30.0

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`. An item is an answer over one realisation of the base network."""
        from chatterbox.real_runs import play_real
        from chatterbox.workloads import make_answer

        for index, _ in run.todo((index, None) for index in range(run.num_items)):
            rng = run.rng("real_sockets", index)
            answer = make_answer(rng, self.num_tokens, self.tokens_per_s)
            scenario = Scenario(answer, bursty_link(int(rng.integers(2**31))))
            rows: list[Row] = []
            for name in self.transports:
                rows += rows_of(play_real(scenario, name), name, basis="measured")
            yield ItemRows(index, rows)


@EXPERIMENTS.add("speed")
@dataclasses.dataclass(frozen=True)
class Speed:
    """Simulated seconds per CPU second of each driver, for one whole answer at a time."""

    network_names: Sequence[str] = ("loop", "ns3")

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`."""
        import time

        for index, scenario in run.todo(enumerate(run.workload.items(run.rng("workload"), run.num_items))):
            rows: list[Row] = []
            for name, method in run.methods.items():
                for kind in [method.network] if hasattr(method, "network") else self.network_names:
                    play(scenario, method, kind)  # warm up: imports, and the bridge's build
                    start_s = time.process_time()
                    played = play(scenario, method, kind)
                    used_s = time.process_time() - start_s
                    simulated_s = float(np.max(played.rendered_s[np.isfinite(played.rendered_s)]))
                    factors = {"driver": kind}
                    rows.append(Row("simulated_s_per_cpu_s", simulated_s / used_s, "1", "measured", name, factors))
            yield ItemRows(index, rows)


@EXPERIMENTS.add("concurrent_streams")
@dataclasses.dataclass(frozen=True)
class ConcurrentStreams:
    """CPU time of a server per token with many real streams at once: Chatterbox over UDP against asyncio TCP."""

    num_streams: Sequence[int] = (100, 1000)
    num_tokens: int = 20
    tokens_per_s: float = 5.0

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `Experiment`. An item is a repetition, with both servers one after the other."""
        from chatterbox.load import measure

        for index, _ in run.todo((index, None) for index in range(run.num_items)):
            rows: list[Row] = []
            for number in self.num_streams:
                for name, kind in (("chatterbox_budget", "udp"), ("tcp_asyncio", "tcp")):
                    load = measure(kind, number, self.num_tokens, self.tokens_per_s)  # type: ignore[arg-type]
                    factors = {"num_streams": number}
                    rows.append(Row("server_cpu_per_token", load.cpu_s_per_token, "s", "measured", name, factors))
                    rows.append(Row("finished_share", load.finished / number, "1", "measured", name, factors))
            yield ItemRows(index, rows)
