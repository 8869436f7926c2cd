"""The experiments of the sheet's section 5 that need no clock: losses, sizes, subsets, resynchronisation, headers.

Sizes are lengths of real packets. Unless a row says otherwise they count what is on the wire: 40 bytes of IP, UDP and RTP per
packet beside the scheme's own headers. The first frame, which is intra-coded for every scheme, is left out everywhere.

Experiments with a network in time are in `grace.experiments_session`, timings in `grace.experiments_speed`.
"""

import dataclasses
import hashlib
import importlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from common.codecs import decode as decode_video
from common.codecs import encode as encode_video
from common.data.video import Clip
from common.errors import ConfigError
from common.experiment import Run
from common.metrics.image import ssim_db, video_psnr_db, video_ssim
from common.results import ItemRows, Row
from common.rng import for_component
from grace.api import EXPERIMENTS, METHODS, Image, Report, StreamInfo
from grace.codec import NeuralCodec
from grace.harness import (
    LATENESS_FRAMES,
    bd_rate,
    displayed,
    play_clean,
    play_lossy,
    quality_rows,
    send,
    wire_bytes,
)
from grace.packets import breakdown


def clips_of(run: Run) -> list[tuple[str, Clip]]:
    """The clips of the run's workload with their keys; notes their content among the run's inputs."""
    if run.workload is None:
        raise ConfigError(f"experiment {run.experiment!r} needs a workload; give workload=NAME.")
    rng = run.rng("workload")
    draw = getattr(run.workload, "items_from", None)
    clips = list(run.workload.items(rng, run.num_items) if draw is None else draw(run.data, rng, run.num_items))
    for clip in clips:
        run.note_input(f"clip {clip.name}", hashlib.sha256(clip.frames.tobytes()).hexdigest())
    return [(f"{index:03d}-{clip.name}", clip) for index, clip in enumerate(clips)]


def info_of(clip: Clip, payload_bytes: int, min_packets: int) -> StreamInfo:
    """How a clip is sent."""
    return StreamInfo(clip.height, clip.width, clip.fps, payload_bytes, min_packets)


def neural_codec(run: Run, default: str = "grace") -> tuple[str, NeuralCodec]:
    """The first neural method of the run and its codec; notes its weights among the run's inputs."""
    for name, method in run.methods.items():
        if hasattr(method, "codec") and callable(method.codec):
            codec = method.codec()
            run.note_input(f"weights {name}", f"{codec.check:#06x}")
            return name, codec
    raise ConfigError(f"experiment {run.experiment!r} needs a neural method, for example methods=[{default}].")


@EXPERIMENTS.add("quality_vs_loss")
@dataclasses.dataclass(frozen=True)
class QualityVsLoss:
    """Quality against packet loss at equal bytes, after 1, 3, 5 and 10 lossy frames in a row (sheet, F1, F2, F10).

    Attributes:
        target_bytes: bytes on the wire per frame, parity and headers included.
        loss_rates: each packet is lost independently.
        bursts: after how many consecutive lossy frames the picture is scored.
        begin: frames before the first lossy one, in which rate control settles.
        repeats: loss patterns per clip and rate.
        payload_bytes, min_packets: see `grace.api.StreamInfo`.
    """

    target_bytes: int = 3000
    loss_rates: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    bursts: tuple[int, ...] = (1, 3, 5, 10)
    begin: int = 13
    repeats: int = 2
    payload_bytes: int = 600
    min_packets: int = 4

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `common.experiment.Experiment.rows`."""
        last = self.begin + max(self.bursts)
        for key, clip in run.todo(clips_of(run)):
            if len(clip) < last + LATENESS_FRAMES:
                raise ConfigError(
                    f"clip {clip.name} has {len(clip)} frames; begin={self.begin} and bursts={self.bursts} need "
                    f"{last + LATENESS_FRAMES}. Set workload_args.num_frames."
                )
            rows: list[Row] = []
            for name, method in run.methods.items():
                info = info_of(clip, self.payload_bytes, self.min_packets)
                stream, receiver = send(method, clip, info, self.target_bytes)
                sizes = [wire_bytes(found) for found in stream.packets[self.begin : last]]
                counts = [len(found) for found in stream.packets[self.begin : last]]
                rows.append(Row("frame_bytes", float(np.mean(sizes)), "B", "measured", name))
                rows.append(Row("frame_packets", float(np.mean(counts)), "packets", "measured", name))
                clean = play_clean(receiver, stream, self.begin)
                before = displayed(clean, self.begin - 1, stream.first)
                for loss_rate, repeat in itertools.product(self.loss_rates, range(self.repeats)):
                    if not loss_rate and repeat:
                        continue
                    # The same draws at every rate: what is lost at a low rate is lost at every higher one.
                    rng = run.rng("losses", key, repeat)
                    shown = play_lossy(receiver.fork(), stream, self.begin, last + LATENESS_FRAMES, loss_rate, rng)
                    for burst in self.bursts:
                        number = self.begin + burst - 1
                        image = displayed(shown, number, before)
                        factors = {"loss_rate": loss_rate, "burst_frames": burst, "repeat": repeat}
                        rows += quality_rows(clip.frames[number], image, name, factors)
                        is_new = float(number in shown)
                        rows.append(Row("rendered", is_new, "1", "measured", name, factors))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("rate_distortion")
@dataclasses.dataclass(frozen=True)
class RateDistortion:
    """Quality against bytes without loss: GRACE's levels, x264 and x265 (sheet, F3, F4).

    Bytes are the codecs' own: GRACE's packets with their headers and I-patches, the P-frames of x264 and x265; no IP, UDP or RTP.

    Attributes:
        levels: of the neural methods.
        quantisers: of x264 and x265.
        num_packets: of a neural frame.
        codecs: classic ones to compare with.
    """

    levels: tuple[int, ...] = (0, 4, 8, 12, 16)
    quantisers: tuple[int, ...] = (20, 24, 28, 32, 36, 40)
    num_packets: int = 4
    codecs: tuple[str, ...] = ("h264", "h265")

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `common.experiment.Experiment.rows`."""
        for key, clip in run.todo(clips_of(run)):
            spatial, temporal = complexity(clip)
            rows = [
                Row("spatial_information", spatial, "1", "measured"),
                Row("temporal_information", temporal, "1", "measured"),
            ]
            curves: dict[str, list[tuple[float, float, float]]] = {}
            for codec in self.codecs:
                for qp in self.quantisers:
                    encoded = encode_video(clip.frames, codec, qp=qp, fps=clip.fps)
                    decoded = decode_video(encoded)
                    size = float(encoded.bytes_per_frame[1:].mean())
                    rows += self._rows(clip, decoded[1:], size, codec, {"level": f"qp {qp}"}, curves)
            for name, method in run.methods.items():
                for level in self.levels:
                    sender = method.sender(info_of(clip, 1000, self.num_packets))
                    if not hasattr(sender, "encode_at"):
                        raise ConfigError(
                            f"method {name!r} has no quality levels; rate_distortion takes neural methods."
                        )
                    sender.start(clip.frames[0])
                    sizes, images = [], []
                    for number in range(1, len(clip)):
                        packets = sender.encode_at(number, clip.frames[number], level, self.num_packets)
                        sizes.append(sum(map(len, packets)))
                        images.append(sender.reference)
                    rows += self._rows(
                        clip, np.stack(images), float(np.mean(sizes)), name, {"level": f"{level:02d}"}, curves
                    )
                for base, place in itertools.product(self.codecs, (1, 2)):
                    ours, theirs = curves[name], curves[base]
                    try:
                        value = bd_rate(*_columns(ours, place), *_columns(theirs, place))
                    except ConfigError:
                        continue  # the curves do not overlap: the points are in the figure, there is no such number
                    metric = "bd_rate_ssim" if place == 1 else "bd_rate_psnr_y"
                    rows.append(Row(metric, value, "1", "measured", name, {"base": base}))
                    rows += _gap_rows(name, base, place, ours, theirs)
            yield ItemRows(key, rows)

    def _rows(
        self,
        clip: Clip,
        images: np.ndarray,
        size: float,
        name: str,
        factors: dict[str, Any],
        curves: dict[str, list[tuple[float, float, float]]],
    ) -> list[Row]:
        original = clip.frames[1:]
        similarity = float(video_ssim(original, images).mean())
        luma = float(video_psnr_db(original, images, luma=True).mean())
        colour = float(video_psnr_db(original, images).mean())
        curves.setdefault(name, []).append((size, ssim_db(similarity), luma))
        values = {"frame_bytes": (size, "B"), "ssim": (similarity, "1"), "ssim_db": (ssim_db(similarity), "dB")}
        values |= {"psnr_y": (luma, "dB"), "psnr": (colour, "dB")}
        # Classic codecs are no schemes: they stand under their own names in the factor `codec`.
        factors = factors | {"codec": name}
        method = name if name in METHODS else ""
        return [Row(metric, value, unit, "measured", method, factors) for metric, (value, unit) in values.items()]


def _columns(curve: Sequence[tuple[float, float, float]], place: int) -> tuple[list[float], list[float]]:
    return [point[0] for point in curve], [point[place] for point in curve]


def _gap_rows(
    name: str,
    base: str,
    place: int,
    ours: Sequence[tuple[float, float, float]],
    theirs: Sequence[tuple[float, float, float]],
) -> list[Row]:
    """Quality lost against a codec at equal bytes, where its curve says how good it would be, averaged over our levels."""
    order = sorted(theirs)
    sizes, qualities = np.log([point[0] for point in order]), [point[place] for point in order]
    inside = [point for point in ours if sizes[0] <= np.log(point[0]) <= sizes[-1]]
    if not inside:
        return []
    gaps = [float(np.interp(np.log(point[0]), sizes, qualities)) - point[place] for point in inside]
    metric = "gap_ssim_db" if place == 1 else "gap_psnr_y"
    return [Row(metric, float(np.mean(gaps)), "dB", "measured", name, {"base": base})]


def complexity(clip: Clip) -> tuple[float, float]:
    """Spatial and temporal information of ITU-T P.910: the largest deviation of the Sobel image and of frame differences."""
    import cv2

    luma = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in clip.frames]
    edges = [np.hypot(cv2.Sobel(y, cv2.CV_32F, 1, 0), cv2.Sobel(y, cv2.CV_32F, 0, 1)).std() for y in luma]
    motion = [(b - a).std() for a, b in itertools.pairwise(luma)]
    return float(max(edges)), float(max(motion, default=0.0))


@EXPERIMENTS.add("any_subset")
@dataclasses.dataclass(frozen=True)
class AnySubset:
    """Every non-empty subset of a frame's packets is decoded, from its real bytes (headline property 1).

    Attributes:
        num_packets: of a frame; 2^n - 1 subsets are tried.
        num_frames: frames tried per clip.
        level: quality level.
    """

    num_packets: int = 8
    num_frames: int = 1
    level: int = 8

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `common.experiment.Experiment.rows`."""
        name, codec = neural_codec(run)
        for key, clip in run.todo(clips_of(run)):
            rows = []
            reference: Image = clip.frames[0]
            for number in range(1, self.num_frames + 1):
                frame = clip.frames[number]
                coded = codec.encode(frame, reference, self.level, number)
                packets = codec.packets(coded.latents, self.num_packets)
                for subset in range(1, 1 << self.num_packets):
                    chosen = [packet for index, packet in enumerate(packets) if subset >> index & 1]
                    received = codec.read(chosen)
                    image = codec.decode(received.latents, reference)
                    factors = {"received": len(chosen), "subset": subset, "frame": number}
                    is_right = len(received.received) == len(chosen) and image.shape == frame.shape
                    if len(chosen) == self.num_packets:
                        is_right = is_right and np.array_equal(image, coded.reconstruction)
                    rows.append(Row("decoded", float(is_right), "1", "measured", name, factors))
                    psnr = float(video_psnr_db(frame[None], image[None])[0])
                    rows.append(Row("psnr", psnr, "dB", "measured", name, factors))
                reference = coded.reconstruction
            yield ItemRows(key, rows)


@EXPERIMENTS.add("resync")
@dataclasses.dataclass(frozen=True)
class Resync:
    """Quality around a loss, with state resynchronisation one round trip later and without (sheet, F12).

    Attributes:
        loss_at: the frame of which `loss_rate` of the packets are lost.
        loss_rate: share of its packets.
        report_frames: frame intervals from decoding to the sender's knowledge of it: the round trip.
        target_bytes, payload_bytes, min_packets: as in quality_vs_loss.
    """

    loss_at: int = 8
    loss_rate: float = 0.6
    report_frames: int = 5
    target_bytes: int = 3000
    payload_bytes: int = 600
    min_packets: int = 4

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `common.experiment.Experiment.rows`."""
        name, _ = neural_codec(run)
        method = run.methods[name]
        for key, clip in run.todo(clips_of(run)):
            rows = []
            for has_resync in (True, False):
                scheme = dataclasses.replace(method, has_resync=has_resync)
                info = info_of(clip, self.payload_bytes, self.min_packets)
                sender: Any = scheme.sender(info)
                receiver = scheme.receiver(info)
                receiver.start(sender.start(clip.frames[0]))
                reports: list[Report] = []
                shown: dict[int, Image] = {}
                for number in range(1, len(clip)):
                    if len(reports) >= self.report_frames:
                        before = sender.num_redecoded
                        sender.on_report(Report.from_bytes(reports[-self.report_frames].to_bytes()))
                        again = sender.num_redecoded - before
                        if again:
                            rows.append(Row("redecoded", float(again), "frames", "measured", name))
                    packets = sender.encode(number, clip.frames[number], self.target_bytes)
                    if number == self.loss_at:
                        rng = for_component(run.seed, "resync losses", key)
                        kept = rng.permutation(len(packets))[: max(1, round(len(packets) * (1 - self.loss_rate)))]
                        packets = [packets[index] for index in sorted(kept)]
                    for packet in packets:
                        shown |= {found.frame: found.image for found in receiver.on_packet(packet)}
                    shown |= {found.frame: found.image for found in receiver.flush(number)}
                    reports.append(receiver.report())
                    factors = {"frame": number, "resync": "with" if has_resync else "without"}
                    same = float(np.array_equal(shown[number], sender.reference))
                    rows.append(Row("states_agree", same, "1", "measured", name, factors))
                    rows += quality_rows(clip.frames[number], shown[number], name, factors)
            yield ItemRows(key, rows)


@EXPERIMENTS.add("packet_overhead")
@dataclasses.dataclass(frozen=True)
class PacketOverhead:
    """What a frame's bytes are spent on, by number of packets (sheet, F13).

    "explicit_distributions" is what a packet's header would hold without the Laplace form: a histogram of each live channel, 12
    bits for each symbol that occurs in it (modelled).

    Attributes:
        num_packets: numbers of packets tried.
        levels: quality levels.
        frame: which frame of the clip.
    """

    num_packets: tuple[int, ...] = (1, 2, 4, 8)
    levels: tuple[int, ...] = (4, 8, 12)
    frame: int = 3

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `common.experiment.Experiment.rows`."""
        name, codec = neural_codec(run)
        for key, clip in run.todo(clips_of(run)):
            rows = []
            for level in self.levels:
                reference: Image = clip.frames[0]
                for number in range(1, self.frame + 1):
                    coded = codec.encode(clip.frames[number], reference, level, number)
                    reference = coded.reconstruction
                latents = coded.latents
                for num in self.num_packets:
                    factors = {"num_packets": num, "level": level}
                    parts = breakdown(latents, num, codec)
                    for part, value in parts.items():
                        rows.append(Row("part_bytes", value, "B", "measured", name, factors | {"part": part}))
                    side = parts["scales"] + parts["header"] + parts["global_motion"]
                    rows.append(Row("side_share", side / parts["total"], "1", "measured", name, factors))
                    share = parts["scales"] / parts["total"]
                    rows.append(Row("distribution_share", share, "1", "measured", name, factors))
                    rows.append(Row("scale_bytes", parts["scales"] / num, "B", "measured", name, factors))
                    explicit = sum(
                        1.5 * len(np.unique(channel))
                        for plane in (latents.motion, latents.residual)
                        for channel in plane
                        if channel.any()
                    )
                    total = parts["total"] - parts["scales"] + explicit * num
                    value = explicit * num / total
                    rows.append(Row("explicit_distribution_share", value, "1", "modelled", name, factors))
            yield ItemRows(key, rows)


for _module in ("experiments_session", "experiments_speed"):
    importlib.import_module(f"grace.{_module}")
