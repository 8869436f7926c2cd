"""Experiments about quality maps: how much high quality is needed, how long a map lasts, whose map it is, which knob matters."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from accmpeg import assignment
from accmpeg.api import EXPERIMENTS, Chunk, Clip, Delivery, Loop, Session, Site, chunks_of
from accmpeg.harness import Reference, Settings, curve_rows, rows_of, score
from accmpeg.loop import LinkSettings
from accmpeg.setting import clips_of, cpu_clock, dnn_for, site_for
from common.errors import ConfigError
from common.experiment import Run
from common.results import ItemRows, Row

Scores = npt.NDArray[np.floating]


@dataclasses.dataclass(frozen=True)
class GivenMaps:
    """A policy whose maps were made beforehand, one per chunk."""

    masks: tuple[assignment.Mask, ...]
    qp_hi: int
    qp_lo: int

    def open(self, site: Site) -> Session:
        """See `QualityPolicy.open`."""
        return self

    def deliver(self, chunk: Chunk, loop: Loop) -> Delivery:
        """See `Session.deliver`."""
        return Delivery.every(
            loop.upload(chunk.frames, assignment.two_levels(self.masks[chunk.index], self.qp_hi, self.qp_lo))
        )


def chunk_gradients(dnn: Any, clip: Clip, settings: Settings, target: Any, qp_hi: int, qp_lo: int) -> list[Scores]:
    """Accuracy gradients of each chunk's first frame."""
    firsts = np.stack([chunk.frames[0] for chunk in chunks_of(clip, settings.chunk_frames)])
    return list(dnn.accuracy_gradient(firsts, target, qp_hi, qp_lo))


@EXPERIMENTS.add("targets")
@dataclasses.dataclass(frozen=True)
class Targets:
    """Accuracy and bytes by the share of blocks at high quality, for each way to rank them (AccMPEG, share of high quality).

    Attributes:
        shares: of macroblocks at high quality.
        qp_hi: their quantiser.
        qp_los: quantisers of the others.
        chunk_frames: k.
    """

    shares: tuple[float, ...] = (0.0, 0.03, 0.06, 0.1, 0.2, 0.35, 1.0)
    qp_hi: int = 30
    qp_los: tuple[int, ...] = (40, 44, 48)
    chunk_frames: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(self.shares))
        object.__setattr__(self, "qp_los", tuple(self.qp_los))
        for qp_lo in self.qp_los:
            assignment.check_qps((self.qp_hi, qp_lo))

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip: accuracy, size_ratio; factors `ranking` (paper, official, accmodel, boxes, random), `share`, `qp_lo`."""
        settings, dnn = Settings(self.chunk_frames), dnn_for(run)
        for key, clip in run.todo(clips_of(run)):
            site, reference = site_for(run, clip, dnn), Reference.of(clip, dnn, settings)
            model = site.camera.acc_model("paper")
            firsts = np.stack([chunk.frames[0] for chunk in chunks_of(clip, settings.chunk_frames)])
            drawn = run.rng("random blocks", key)
            fixed: dict[str, list[Scores]] = {
                "official": chunk_gradients(dnn, clip, settings, "official", self.qp_hi, self.qp_los[0]),
                "accmodel": list(model.probabilities(firsts)),
                "random": [drawn.random(site.grid) for _ in firsts],
            }
            rows: list[Row] = []
            for qp_lo in self.qp_los:
                rankings = fixed | {"paper": chunk_gradients(dnn, clip, settings, "paper", self.qp_hi, qp_lo)}
                for share in self.shares:
                    # Without or with nothing but high quality every ranking is the same.
                    for ranking, gradients in rankings.items() if 0 < share < 1 else [("all", fixed["random"])]:
                        masks = tuple(assignment.top_share(each, share) for each in gradients)
                        rows += _map_rows(
                            masks,
                            self.qp_hi,
                            qp_lo,
                            clip,
                            site,
                            settings,
                            reference,
                            {"ranking": ranking, "share": share, "qp_lo": qp_lo},
                        )
                boxes = tuple(_box_masks(dnn, clip, site, settings, reference))
                factors = {"ranking": "boxes", "share": round(float(np.mean(boxes)), 3), "qp_lo": qp_lo}
                rows += _map_rows(boxes, self.qp_hi, qp_lo, clip, site, settings, reference, factors)
            yield ItemRows(key, rows)


def _map_rows(
    masks: tuple[assignment.Mask, ...],
    qp_hi: int,
    qp_lo: int,
    clip: Clip,
    site: Site,
    settings: Settings,
    reference: Reference,
    factors: dict[str, Any],
) -> list[Row]:
    found = score(GivenMaps(masks, qp_hi, qp_lo), clip, site, settings, reference, cpu_clock)
    return rows_of({name: found[name] for name in ("accuracy", "size_ratio", "high_share")}, "", factors)


def _box_masks(dnn: Any, clip: Clip, site: Site, settings: Settings, reference: Reference) -> Iterator[assignment.Mask]:
    """Macroblocks of the DNN's own objects in any frame of each chunk."""
    for chunk in chunks_of(clip, settings.chunk_frames):
        mask = np.zeros(site.grid, dtype=bool)
        for output in reference.outputs[chunk.start : chunk.start + len(chunk.frames)]:
            mask |= dnn.object_mask(output, site.grid)
        yield mask


@EXPERIMENTS.add("persistence")
@dataclasses.dataclass(frozen=True)
class Persistence:
    """For how many frames a quality map stays the same (AccMPEG, CDF that justifies k = 10).

    Attributes:
        alpha: threshold of the map.
        similarity: a map is the same while this share of it agrees.
    """

    alpha: float = 0.3
    similarity: float = 0.85

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip and first frame: lifetime in frames; factors `first_frame`, `measure`.

        Measures: "equal blocks", the share of macroblocks with the same quality (the paper's), and "overlap of high quality",
        intersection over union of the high-quality blocks, which a large low-quality background does not flatter.
        """
        dnn = dnn_for(run)
        for key, clip in run.todo(clips_of(run)):
            model = site_for(run, clip, dnn).camera.acc_model("paper")
            masks = np.concatenate([model.probabilities(frame[None]) for frame in clip.frames]) > self.alpha
            rows = []
            # Maps of the second half have no time left to change in the clip; only the first half starts.
            for first in range(0, max(1, len(masks) // 2), 2):
                later = masks[first:]
                equal = (later == masks[first]).mean((1, 2))
                union = (later | masks[first]).sum((1, 2))
                overlap = np.where(union > 0, (later & masks[first]).sum((1, 2)) / np.maximum(union, 1), 1.0)
                for measure, agreement in (("equal blocks", equal), ("overlap of high quality", overlap)):
                    gone = np.flatnonzero(agreement < self.similarity)
                    lifetime = int(gone[0]) if len(gone) else len(later)
                    factors = {"first_frame": first, "measure": measure}
                    rows.append(Row("lifetime", lifetime, "frames", "measured", "", factors))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("boxes_vs_accgrad")
@dataclasses.dataclass(frozen=True)
class BoxesVsAccGrad:
    """Overlap of object boxes with the blocks that matter most to accuracy (AccMPEG, CDF of IoU).

    Attributes:
        qp_hi, qp_lo: the two qualities of the accuracy gradient.
        every: frames between those looked at.
    """

    qp_hi: int = 30
    qp_lo: int = 40
    every: int = 5

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip and frame with objects: iou of equally many blocks; factors `frame`, `target`."""
        dnn = dnn_for(run)
        for key, clip in run.todo(clips_of(run)):
            grid = site_for(run, clip, dnn).grid
            frames = clip.frames[:: self.every]
            masks = [dnn.object_mask(output, grid) for output in dnn.run(dnn.high_quality(frames))]
            rows = []
            for target in ("paper", "official"):
                gradients = dnn.accuracy_gradient(frames, target, self.qp_hi, self.qp_lo)
                for index, (mask, gradient) in enumerate(zip(masks, gradients, strict=True)):
                    if mask.any():
                        ideal = assignment.top_share(gradient, float(mask.mean()))
                        overlap = float((mask & ideal).sum() / (mask | ideal).sum())
                        factors = {"frame": index * self.every, "target": target}
                        rows.append(Row("iou", overlap, "1", "measured", "", factors))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("reuse")
@dataclasses.dataclass(frozen=True)
class Reuse:
    """Maps made for one DNN, evaluated on another, also across tasks (AccMPEG, cross-DNN and cross-task reuse).

    Attributes:
        dnns: names of server DNNs; maps come from each, accuracy is that of each.
        share: of macroblocks at high quality.
        qp_hi, qp_lo: the two quantisers.
        chunk_frames: k.
    """

    dnns: tuple[str, ...] = ("street", "street_segmentation")
    share: float = 0.12
    qp_hi: int = 30
    qp_lo: int = 44
    chunk_frames: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "dnns", tuple(self.dnns))
        if len(self.dnns) < 2:
            raise ConfigError(f"dnns={list(self.dnns)}: name at least two.")
        assignment.check_qps((self.qp_hi, self.qp_lo))

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip: accuracy, size_ratio; factors `map_of` (a DNN, "none" or "random") and `evaluated_on`."""
        settings = Settings(self.chunk_frames)
        dnns = {name: dnn_for(run, name) for name in self.dnns}
        for key, clip in run.todo(clips_of(run)):
            drawn = run.rng("random blocks", key)
            maps = {
                name: tuple(
                    assignment.top_share(gradient, self.share)
                    for gradient in chunk_gradients(dnn, clip, settings, "paper", self.qp_hi, self.qp_lo)
                )
                for name, dnn in dnns.items()
            }
            shape = next(iter(maps.values()))[0].shape
            count = len(next(iter(maps.values())))
            maps["random"] = tuple(assignment.top_share(drawn.random(shape), self.share) for _ in range(count))
            maps["none"] = tuple(np.zeros(shape, dtype=bool) for _ in range(count))
            rows: list[Row] = []
            for judge, dnn in dnns.items():
                site, reference = site_for(run, clip, dnn), Reference.of(clip, dnn, settings)
                for name, masks in maps.items():
                    factors = {"map_of": name, "evaluated_on": judge}
                    rows += _map_rows(masks, self.qp_hi, self.qp_lo, clip, site, settings, reference, factors)
            yield ItemRows(key, rows)


@EXPERIMENTS.add("codecs")
@dataclasses.dataclass(frozen=True)
class Codecs:
    """Bytes against accuracy on H.264, H.265 and VP9 (AccMPEG, generality over codecs).

    Attributes:
        chunk_frames: k.
    """

    chunk_frames: int = 10

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip, method and setting: see `accmpeg.harness.score`; factor `point`. Per clip: size_reduction, `against`."""
        from accmpeg.curves import reduction

        settings, dnn = Settings(self.chunk_frames), dnn_for(run)
        pairs = (("accmpeg", "awstream"), ("accmpeg_h265", "h265"))
        for key, clip in run.todo(clips_of(run)):
            rows, scores = curve_rows(run.methods, clip, site_for(run, clip, dnn), settings, cpu_clock)
            curves = {name: [(s["accuracy"], s["size"]) for s in found] for name, found in scores.items()}
            for ours, plain in pairs:
                if ours in curves and plain in curves:
                    value = reduction(curves[ours], {plain: curves[plain]})
                    if value is not None:
                        rows.append(Row("size_reduction", value, "1", "measured", ours, {"against": plain}))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("sensitivity")
@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """AccMPEG with one knob changed at a time (AccMPEG, sensitivity to alpha, k, low quality, dilation, sampling).

    Attributes:
        alphas, qp_los, dilations, chunk_frames: values of each knob; the others stay as the method has them.
        samples: ways to sample a chunk.
    """

    alphas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6)
    qp_los: tuple[int, ...] = (34, 36, 40, 44, 48)
    dilations: tuple[int, ...] = (1, 3, 5)
    chunk_frames: tuple[int, ...] = (2, 5, 10, 15, 30)
    samples: tuple[str, ...] = ("first", "ends", "all")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, tuple(getattr(self, field.name)))

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip: accuracy, size_ratio, delay and more; factors `knob`, `setting` (as text)."""
        dnn = dnn_for(run)
        method = run.methods.get("accmpeg")
        if method is None:
            raise ConfigError("sensitivity is about accmpeg; add it to methods.")
        swept: dict[str, tuple[Any, ...]] = {
            "alpha": self.alphas,
            "qp_lo": self.qp_los,
            "dilation": self.dilations,
            "sample": self.samples,
            "k": self.chunk_frames,
        }
        for key, clip in run.todo(clips_of(run)):
            site = site_for(run, clip, dnn)
            references: dict[int, Reference] = {}
            rows: list[Row] = []
            for knob, values in swept.items():
                for value in values:
                    k = value if knob == "k" else 10
                    # As many frames are left out of the score whatever k is.
                    settings = Settings(k, max(1, 10 // k), LinkSettings())
                    if len(clip.frames) <= k * settings.warmup_chunks:
                        continue
                    if k not in references:
                        references[k] = Reference.of(clip, dnn, settings)
                    policy = method if knob == "k" else dataclasses.replace(method, **{knob: value})
                    found = score(policy, clip, site, settings, references[k], cpu_clock)
                    wanted = ("accuracy", "size_ratio", "size_per_frame", "high_share", "delay")
                    chosen = {name: found[name] for name in wanted}
                    rows += rows_of(chosen, "accmpeg", {"knob": knob, "setting": str(value)})
            yield ItemRows(key, rows)
