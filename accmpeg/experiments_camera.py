"""Experiments about the camera's time, the training of AccModel, and links whose bandwidth changes."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from accmpeg import assignment
from accmpeg.accmodel import AccModel, AccModelSettings
from accmpeg.api import EXPERIMENTS, Clip, Frames, chunks_of
from accmpeg.harness import Reference, Settings, score
from accmpeg.loop import Encoders, LinkSettings, MeteredLoop
from accmpeg.setting import clips_of, cpu_clock, dnn_for, site_for
from common.codecs import Encoder
from common.errors import ConfigError
from common.experiment import Run
from common.net.rate import SteppedRate
from common.results import ItemRows, Row


@EXPERIMENTS.add("camera_cost")
@dataclasses.dataclass(frozen=True)
class CameraCost:
    """Time on camera and server by part, for every system at its defaults (AccMPEG, encoding delay; encode against decode).

    Attributes:
        chunk_frames: k.
    """

    chunk_frames: int = 10

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip and method: time_<part>, camera_time, server_time in s per chunk; factor `sample` for AccMPEG."""
        settings, dnn = Settings(self.chunk_frames), dnn_for(run)
        on_server = ("decode", "super_resolution", "proposals")
        for key, clip in run.todo(clips_of(run)):
            site, reference = site_for(run, clip, dnn), Reference.of(clip, dnn, settings)
            rows: list[Row] = []
            for name, method in run.methods.items():
                samples = ("first", "ends", "all") if name == "accmpeg" else ("",)
                for sample in samples:
                    policy = dataclasses.replace(method, sample=sample) if sample else method
                    found = score(policy, clip, site, settings, reference, cpu_clock)
                    parts = {part.removeprefix("time_"): s for part, s in found.items() if part.startswith("time_")}
                    factors = {"sample": sample} if sample else {}
                    server_s = sum(parts.get(part, 0.0) for part in on_server)
                    camera_s = sum(s for part, s in parts.items() if part not in (*on_server, "network"))
                    rows += [
                        Row(f"time_{part}", s, "s", "measured", name, factors)
                        for part, s in parts.items()
                        if part != "network"
                    ]
                    rows += [
                        Row("camera_time", camera_s, "s", "measured", name, factors),
                        Row("server_time", server_s, "s", "measured", name, factors),
                        Row("accuracy", found["accuracy"], "1", "measured", name, factors),
                    ]
            yield ItemRows(key, rows)


def enlarged(frames: Frames, height: int, width: int, noise: float, rng: np.random.Generator) -> Frames:
    """Frames at another size, with sensor noise of that size: enlarging alone would leave an encoder little to do."""
    import cv2

    large = np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in frames])
    return np.clip(large + rng.normal(0, noise, large.shape), 0, 255).astype(np.uint8)


def interleaved(
    runs: dict[str, Callable[[], Any]], repeats: int, warmup: int = 1
) -> Iterator[dict[str, tuple[float, Any]]]:
    """CPU time of several things, run in turn, round after round; what slows the machine hits all alike."""
    from common.timing import exclusive

    with exclusive(1):
        for number in range(warmup + repeats):
            done: dict[str, tuple[float, Any]] = {}
            names = list(runs)
            start = number % len(names)
            for name in names[start:] + names[:start]:
                begin_s = cpu_clock()
                result = runs[name]()
                done[name] = (cpu_clock() - begin_s, result)
            if number >= warmup:
                yield done


@EXPERIMENTS.add("speed")
@dataclasses.dataclass(frozen=True)
class Speed:
    """The camera's CPU time per frame at full size: AccMPEG over plain x264, and AccModel alone (AccMPEG, camera speed).

    Attributes:
        height, width: of the pictures that are coded; clips of another size are enlarged, with noise.
        model_sizes: (height, width) at which AccModel alone is timed.
        chunk_frames: k.
        repeats: timed rounds per clip.
        alpha: AccMPEG's threshold.
        qp_hi, qp_lo: its quantisers; plain encoders use qp_hi.
        noise: standard deviation of the noise on enlarged clips.
        preset: of the encoders.
    """

    height: int = 720
    width: int = 1280
    model_sizes: tuple[tuple[int, int], ...] = ((360, 640), (720, 1280))
    chunk_frames: int = 10
    repeats: int = 3
    alpha: float = 0.3
    qp_hi: int = 30
    qp_lo: int = 40
    noise: float = 3.0
    preset: str = "veryfast"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model_sizes", tuple((int(h), int(w)) for h, w in self.model_sizes))
        assignment.check_qps((self.qp_hi, self.qp_lo))
        if self.repeats < 1:
            raise ConfigError(f"repeats={self.repeats} must be at least 1.")

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip: cost_ratio, time_per_frame by `system`, part_time by `part`, model_rate by `size`; factor `repeat`.

        cost_ratio is AccMPEG's CPU time over plain x264 in the same round. Systems: h264 (plain, at qp_hi), h264_same_size
        (plain, at the quantiser whose bytes are nearest AccMPEG's), h265, accmpeg (AccModel once per k frames), accmpeg_unsampled
        (AccModel on every frame).
        """
        dnn = dnn_for(run)
        for key, clip in run.todo(clips_of(run)):
            rng = run.rng("noise", key)
            frames = clip.frames[: self.chunk_frames]
            if frames.shape[1:3] != (self.height, self.width):
                frames = enlarged(frames, self.height, self.width, self.noise, rng)
            model = site_for(run, clip, dnn).camera.acc_model("paper")
            yield ItemRows(key, [*self._encoders(frames, model), *self._model(frames, model)])

    def _encoders(self, frames: Frames, model: Any) -> Iterator[Row]:
        # As on a camera, each encoder lives on from chunk to chunk; opening one is not part of a frame's cost.
        encoders: dict[tuple[str, int], Encoder] = {}

        def coded(qp: int, codec: str, qp_map: Any = None) -> int:
            key = (codec, -1 if qp_map is not None else qp)
            if key not in encoders:
                height, width = frames.shape[1:3]
                settings: dict[str, Any] = {"codec": codec, "qp": qp, "gop": len(frames), "preset": self.preset}
                encoders[key] = Encoder(width, height, **settings)
            packets = [packet for frame in frames for packet in encoders[key].encode(frame, qp_map=qp_map)]
            return sum(len(packet.data) for packet in packets)

        def plain(qp: int, codec: str = "h264") -> int:
            return coded(qp, codec)

        def quality_map(p_RC: Any) -> Any:
            return assignment.two_levels(assignment.select(p_RC, self.alpha), self.qp_hi, self.qp_lo)

        def accmpeg() -> int:
            return coded(self.qp_lo, "h264", quality_map(model.probabilities(frames[:1])[0]))

        def unsampled() -> int:
            p_NRC = np.concatenate([model.probabilities(frame[None]) for frame in frames])
            return coded(self.qp_lo, "h264", quality_map(p_NRC.mean(0)))

        qp_map = quality_map(model.probabilities(frames[:1])[0])
        our_bytes = accmpeg()
        sizes = {qp: plain(qp) for qp in range(self.qp_hi, self.qp_lo + 1, 2)}
        same_qp = min(sizes, key=lambda qp: abs(sizes[qp] - our_bytes))
        runs: dict[str, Callable[[], Any]] = {
            "h264": lambda: plain(self.qp_hi),
            "h264_same_size": lambda: plain(same_qp),
            "h265": lambda: plain(self.qp_hi, "h265"),
            "accmpeg": accmpeg,
            "accmpeg_unsampled": unsampled,
            "part accmodel": lambda: model.probabilities(frames[:1]),
            "part assignment": lambda: quality_map(model.probabilities(frames[:1])[0]),
            "part encoding with a map": lambda: coded(self.qp_lo, "h264", qp_map),
        }
        high_share = float((qp_map == self.qp_hi).mean())
        yield Row("high_share", high_share, "1", "measured")
        yield Row("size_ratio", our_bytes / sizes[self.qp_hi], "1", "measured")
        for repeat, done in enumerate(interleaved(runs, self.repeats)):
            seconds = {name: s for name, (s, _) in done.items()}
            seconds["part assignment"] = max(0.0, seconds["part assignment"] - seconds["part accmodel"])
            for name, s in seconds.items():
                per_frame_s = s / len(frames)
                if name.startswith("part "):
                    factors: dict[str, Any] = {"part": name.removeprefix("part "), "repeat": repeat}
                    yield Row("part_time", per_frame_s, "s", "measured", "", factors)
                else:
                    factors = {"system": name, "repeat": repeat}
                    yield Row("time_per_frame", per_frame_s, "s", "measured", "", factors)
            for name, over in (("accmpeg", "h264"), ("accmpeg", "h264_same_size"), ("accmpeg_unsampled", "h264")):
                factors = {"system": name, "over": over, "repeat": repeat}
                yield Row("cost_ratio", seconds[name] / seconds[over], "1", "measured", "", factors)

    def _model(self, frames: Frames, model: Any) -> Iterator[Row]:
        import cv2

        for height, width in self.model_sizes:
            picture = cv2.resize(frames[0], (width, height))[None]
            size = f"{width}x{height}"
            ten_times: Callable[[], Any] = functools.partial(_repeatedly, model, picture, 10)
            for repeat, done in enumerate(interleaved({"": ten_times}, self.repeats)):
                yield Row("model_rate", 10 / done[""][0], "frames/s", "measured", "", {"size": size, "repeat": repeat})
            bare = AccModel(AccModelSettings(model.settings.width, model.settings.depth)).eval()
            yield Row("model_multiply_adds", bare.multiply_adds(height, width), "1", "modelled", "", {"size": size})


def _repeatedly(model: Any, picture_1HWC: Frames, times: int) -> None:
    for _ in range(times):
        model.probabilities(picture_1HWC)


@EXPERIMENTS.add("learning_curves")
@dataclasses.dataclass(frozen=True)
class LearningCurves:
    """Validation loss by epoch for AccModels of several sizes, and what making one for a DNN takes (AccMPEG, learning curves).

    Attributes:
        widths: of AccModel.
        num_images: training images with their validation images, from the workload, `frames_per_clip` of each clip.
        frames_per_clip: evenly spaced.
        max_epochs: at most.
    """

    widths: tuple[int, ...] = (6, 10, 16, 24, 36)
    num_images: int = 300
    frames_per_clip: int = 4
    max_epochs: int = 12

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if self.num_images < 4 or self.frames_per_clip < 1:
            raise ConfigError(
                f"num_images={self.num_images} must be at least 4 and frames_per_clip={self.frames_per_clip} at least 1."
            )

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per width: validation_loss, training_loss by `epoch`; best_loss, multiply_adds, training_time; once: "
        "gradient_time."""
        from accmpeg.train import TrainingSettings, gradients_of, train

        dnn = dnn_for(run)
        if run.workload is None:
            raise ConfigError("learning_curves needs a workload to take images from; give workload=NAME.")
        made: list[tuple[Frames, Any, float]] = []

        def images() -> tuple[Frames, Any, float]:
            if not made:
                frames = sample_images(run.workload, run.rng("images"), self.num_images, self.frames_per_clip)
                begin_s = cpu_clock()
                gradients = gradients_of(frames, dnn, TrainingSettings(seed=run.seed))
                made.append((frames, gradients, (cpu_clock() - begin_s) / len(frames)))
            return made[0]

        for key, width in run.todo([(f"width-{width}", width) for width in self.widths]):
            frames, gradients, gradient_s = images()
            settings = TrainingSettings(width=width, max_epochs=self.max_epochs, seed=run.seed)
            trained = train(frames, gradients, settings, cpu_clock, detector=dnn.name)
            height, picture_width = frames.shape[1:3]
            operations = trained.model.multiply_adds(height, picture_width)
            factors = {"width": width, "multiply_adds_millions": round(operations / 1e6, 2)}
            rows = []
            for epoch in trained.epochs:
                place = factors | {"epoch": epoch.number}
                rows.append(Row("validation_loss", epoch.validation_loss, "nat", "measured", "", place))
                rows.append(Row("training_loss", epoch.training_loss, "nat", "measured", "", place))
            best = min(epoch.validation_loss for epoch in trained.epochs)
            rows += [
                Row("best_loss", best, "nat", "measured", "", factors),
                Row("training_time", trained.epochs[-1].seconds, "s", "measured", "", factors),
                Row("gradient_time", gradient_s * len(frames), "s", "measured", "", factors),
                Row(
                    "customisation_time",
                    trained.epochs[-1].seconds + gradient_s * len(frames),
                    "s",
                    "measured",
                    "",
                    factors,
                ),
                Row("parameters", trained.model.num_parameters(), "1", "measured", "", factors),
            ]
            yield ItemRows(key, rows)


def sample_images(workload: Any, rng: np.random.Generator, num_images: int, frames_per_clip: int) -> Frames:
    """Images from a workload's clips, `frames_per_clip` evenly spaced ones of each."""
    found: list[Frames] = []
    for clip in workload.items(rng, -(-num_images // frames_per_clip)):
        chosen = np.linspace(0, len(clip.frames) - 1, min(frames_per_clip, len(clip.frames))).round().astype(int)
        found.append(clip.frames[np.unique(chosen)])
    return np.concatenate(found)[:num_images]


@EXPERIMENTS.add("bandwidth_adaptation")
@dataclasses.dataclass(frozen=True)
class BandwidthAdaptation:
    """Accuracy while the bandwidth falls and rises again (AccMPEG, bandwidth adaptation).

    AccMPEG keeps the largest share of high-quality blocks that the link carried last time: after each chunk the percentile of
    AccModel's probabilities moves one step. The rival is x264's own rate control at the link's rate.

    Attributes:
        bandwidths_kbps: of the three phases (2.4, 1.3 and 2.4 Mbit/s in the paper, at 720p).
        phase_s: length of each.
        percentiles: of p that are the threshold, from much to little high quality.
        qp_hi, qp_lo: the two quantisers.
        chunk_frames: k.
        rtt_s: round-trip time.
    """

    bandwidths_kbps: tuple[float, ...] = (100.0, 60.0, 100.0)
    phase_s: float = 1.0
    percentiles: tuple[float, ...] = (60.0, 75.0, 85.0, 90.0, 94.0, 97.0, 99.0)
    qp_hi: int = 30
    qp_lo: int = 40
    chunk_frames: int = 10
    rtt_s: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "bandwidths_kbps", tuple(map(float, self.bandwidths_kbps)))
        object.__setattr__(self, "percentiles", tuple(map(float, self.percentiles)))
        if list(self.percentiles) != sorted(self.percentiles) or not self.percentiles:
            raise ConfigError(f"percentiles={list(self.percentiles)} must rise.")
        if min(self.bandwidths_kbps) <= 0 or not self.phase_s > 0:
            raise ConfigError("bandwidths_kbps and phase_s must be positive.")

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip and chunk: accuracy, bitrate, delay, bandwidth; factors `time_s`, `system` (accmpeg, cbr)."""
        dnn = dnn_for(run)
        ends = tuple(self.phase_s * (index + 1) for index in range(len(self.bandwidths_kbps)))
        rate = SteppedRate(ends, tuple(1000 * kbps for kbps in self.bandwidths_kbps))
        for key, clip in run.todo(clips_of(run)):
            reference = Reference.of(clip, dnn, Settings(self.chunk_frames))
            site = site_for(run, clip, dnn)
            rows: list[Row] = []
            for system in ("accmpeg", "cbr"):
                rows += self._stream(system, clip, site, dnn, reference, LinkSettings(rtt_s=self.rtt_s, rate=rate))
            yield ItemRows(key, rows)

    def _kbps_at(self, when_s: float) -> float:
        phase = int(when_s / self.phase_s) % len(self.bandwidths_kbps)
        return self.bandwidths_kbps[phase]

    def _stream(
        self, system: str, clip: Clip, site: Any, dnn: Any, reference: Reference, link_settings: LinkSettings
    ) -> Iterator[Row]:
        link = link_settings.build()  # one for the whole clip: what is not sent yet delays what comes after it
        encoders = Encoders()
        model = site.camera.acc_model("paper")
        level = len(self.percentiles) // 2
        for chunk in chunks_of(clip, self.chunk_frames):
            captured_s = (chunk.start + len(chunk.frames)) / clip.fps
            begin_s = chunk.start / clip.fps
            kbps = self._kbps_at(begin_s)
            loop = MeteredLoop(link, clip.fps, cpu_clock, start_s=captured_s, encoders=encoders)
            if system == "accmpeg":
                p_RC = loop.compute("accmodel", functools.partial(model.probabilities, chunk.frames[:1]))[0]
                mask = p_RC > np.percentile(p_RC, self.percentiles[level])
                received = loop.upload(chunk.frames, assignment.two_levels(mask, self.qp_hi, self.qp_lo))
            else:
                options = {"bitrate_bps": 1000 * kbps, "buffer_s": len(chunk.frames) / clip.fps}
                received = loop.upload(chunk.frames, self.qp_hi, options=options)
            ledger = loop.finish()
            duration_s = len(chunk.frames) / clip.fps
            load = 8 * ledger.num_bytes / (1000 * kbps * duration_s)
            if load > 1:
                level = min(level + 1, len(self.percentiles) - 1)
            elif load < 0.85:
                level = max(level - 1, 0)
            outputs = dnn.run(received)
            truths = reference.outputs[chunk.start : chunk.start + len(chunk.frames)]
            accuracy = float(np.mean([dnn.accuracy(*pair) for pair in zip(outputs, truths, strict=True)]))
            factors = {"time_s": round(begin_s, 3), "system": system}
            yield Row("accuracy", accuracy, "1", "measured", "", factors)
            yield Row("bitrate", 8 * ledger.num_bytes / duration_s, "bit/s", "measured", "", factors)
            yield Row("delay", ledger.delay_s, "s", "simulated", "", factors)
            yield Row("bandwidth", 1000 * kbps, "bit/s", "simulated", "", factors)
