"""Runs policies on clips and turns what reaches the server into numbers; the same code for every method.

Accuracy is the DNN's output on the delivered pictures against its output on the reference video (uniform quantiser 30 unless
said otherwise), and, where a clip has labels, against these. Sizes are bytes of packets that were decoded. Delays are sums of
named parts: CPU seconds of what ran here, virtual time of the link.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from accmpeg.api import Clip, Site, chunks_of, points_of
from accmpeg.dnn import MATCH_IOU, Dnn
from accmpeg.loop import PAPER_PROFILE, Encoders, Ledger, LinkSettings, MeteredLoop
from accmpeg.methods import open_session
from common.errors import ConfigError
from common.metrics.detection import match
from common.results import Row

Clock = Callable[[], float]

SERVER_NETWORKS = ("proposals", "super_resolution")
"""Parts that a server's accelerator does; like the paper's, `delay` leaves them out with the DNN's own time: on one CPU core they
would decide the comparison against DDS and CloudSeg alone."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How clips are streamed.

    Attributes:
        chunk_frames: k, frames coded together.
        warmup_chunks: chunks at the start of a clip that are streamed but not scored, so that policies that learn from the
            server's last answer, and caches of the machine, are in their steady state.
        link: the camera's uplink; each chunk finds it idle, as in the paper's delay model.
        preset: of the encoders.
        score_every: accuracy is that of each chunk's first frame and every `score_every`-th after it; 1 scores all.
    """

    chunk_frames: int = 10
    warmup_chunks: int = 1
    link: LinkSettings = dataclasses.field(default_factory=LinkSettings)
    preset: str = "veryfast"
    score_every: int = 1

    def __post_init__(self) -> None:
        if self.chunk_frames < 1 or self.warmup_chunks < 0 or self.score_every < 1:
            raise ConfigError(
                f"chunk_frames={self.chunk_frames} and score_every={self.score_every} must be at least 1, "
                f"warmup_chunks={self.warmup_chunks} at least 0."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """The truth about a clip: the DNN's output on its high-quality encoding, and what that encoding costs.

    Attributes:
        outputs: per frame.
        num_bytes: per chunk.
    """

    outputs: list[Any]
    num_bytes: list[int]

    @classmethod
    def of(cls, clip: Clip, dnn: Dnn, settings: Settings) -> "Reference":
        """Encode chunk by chunk at the DNN's reference quantiser and run the DNN."""
        from accmpeg.loop import encode_chunk
        from common.codecs import decode

        outputs, sizes = [], []
        for chunk in chunks_of(clip, settings.chunk_frames):
            encoded = encode_chunk(chunk.frames, dnn.reference_qp, fps=clip.fps, preset=settings.preset)
            sizes.append(encoded.num_bytes)
            outputs += dnn.run(decode(encoded))
        return cls(outputs, sizes)


@dataclasses.dataclass(frozen=True, eq=False)
class ChunkScore:
    """One chunk's numbers.

    Attributes:
        ledger: time by part and bytes.
        accuracies: per scored frame, against the reference.
        label_accuracies: per scored frame, against labels; empty without labels.
        dnn_s: CPU seconds of the final run of the DNN on all that was delivered.
        num_frames: of the chunk.
    """

    ledger: Ledger
    accuracies: list[float]
    label_accuracies: list[float]
    dnn_s: float
    num_frames: int


def stream(
    policy: Any, clip: Clip, site: Site, settings: Settings, reference: Reference, clock: Clock
) -> Iterator[ChunkScore]:
    """Stream a clip with one policy; yields the scored chunks.

    Raises:
        ConfigError: the policy delivered something that is not the chunk's frames, or the clip is too short.
    """
    session, encoders = open_session(policy, site), Encoders()
    dnn: Dnn = site.dnn
    chunks = list(chunks_of(clip, settings.chunk_frames))
    if len(chunks) <= settings.warmup_chunks:
        raise ConfigError(
            f"clip {clip.name!r} has {len(clip.frames)} frames, {len(chunks)} chunk(s): too few for "
            f"{settings.warmup_chunks} chunk(s) of warm-up; use a longer clip or a smaller chunk_frames."
        )
    for chunk in chunks:
        loop = MeteredLoop(settings.link.build(), clip.fps, clock, preset=settings.preset, encoders=encoders)
        delivery = session.deliver(chunk, loop)
        ledger = loop.finish()
        shown = np.asarray(delivery.shown)
        wanted = (len(chunk.frames), *chunk.frames.shape[1:])
        if delivery.frames.shape[1:] != wanted[1:] or delivery.frames.dtype != np.uint8 or shown.shape != wanted[:1]:
            raise ConfigError(
                f"{type(policy).__name__} delivered {delivery.frames.dtype} pictures of shape {delivery.frames.shape} for "
                f"{shown.shape[0] if shown.ndim else 0} frames; wanted uint8 pictures of {wanted[1:]} for {wanted[0]} frames."
            )
        if chunk.index < settings.warmup_chunks:
            continue
        scored = np.arange(0, len(chunk.frames), settings.score_every)
        needed, seen_at = np.unique(shown[scored], return_inverse=True)
        begin_s = clock()
        outputs = dnn.run(delivery.frames[needed])
        dnn_s = (clock() - begin_s) * len(delivery.frames) / len(needed)
        seen = [outputs[index] for index in seen_at]
        span = chunk.start + scored
        accuracies = [dnn.accuracy(output, reference.outputs[at]) for output, at in zip(seen, span, strict=True)]
        labels = []
        if clip.labels is not None and dnn.task == "detection":
            labels = [match(clip.labels[at], output, MATCH_IOU).f1 for output, at in zip(seen, span, strict=True)]
        yield ChunkScore(ledger, accuracies, labels, dnn_s, len(chunk.frames))


def score(
    policy: Any, clip: Clip, site: Site, settings: Settings, reference: Reference, clock: Clock
) -> dict[str, float]:
    """Means over a clip's scored chunks.

    Returns:
        accuracy, label_accuracy (with labels), size (B per chunk), size_per_frame, size_ratio (to the reference), high_share,
        delay (without networks on the server), total_delay (with them),
        delay_paper (the paper's constants), time_<part> for each part, dnn_time.
    """
    chunks = list(stream(policy, clip, site, settings, reference, clock))
    extra_rtts = getattr(type(policy), "PAPER_EXTRA_RTTS", 0)
    means: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        means.setdefault(name, []).append(value)

    parts = {part for chunk in chunks for part in chunk.ledger.seconds}
    for chunk, reference_bytes in zip(chunks, reference.num_bytes[settings.warmup_chunks :], strict=True):
        ledger = chunk.ledger
        note("accuracy", float(np.mean(chunk.accuracies)))
        if chunk.label_accuracies:
            note("label_accuracy", float(np.mean(chunk.label_accuracies)))
        note("size", ledger.num_bytes)
        note("size_per_frame", ledger.num_bytes / chunk.num_frames)
        note("size_ratio", ledger.num_bytes / reference_bytes)
        note("high_share", ledger.high_share)
        server_s = sum(ledger.seconds.get(part, 0.0) for part in SERVER_NETWORKS)
        note("delay", ledger.delay_s - server_s)
        note("total_delay", ledger.delay_s + chunk.dnn_s)
        note("delay_paper", sum(PAPER_PROFILE.parts(ledger, extra_rtts).values()))
        note("dnn_time", chunk.dnn_s)
        for part in parts:
            note(f"time_{part}", ledger.seconds.get(part, 0.0))
    return {name: float(np.mean(values)) for name, values in means.items()}


_UNITS = {
    "accuracy": "1",
    "label_accuracy": "1",
    "size": "B",
    "size_per_frame": "B",
    "size_ratio": "1",
    "high_share": "1",
}
_SIMULATED = ("delay", "total_delay", "time_network")


def rows_of(scores: Mapping[str, float], method: str, factors: Mapping[str, Any]) -> list[Row]:
    """Scores as result rows."""
    return [
        Row(
            name,
            value,
            _UNITS.get(name, "s"),
            "simulated" if name in _SIMULATED else "modelled" if name == "delay_paper" else "measured",
            method,
            factors,
        )
        for name, value in scores.items()
    ]


def curve_rows(
    methods: Mapping[str, Any],
    clip: Clip,
    site: Site,
    settings: Settings,
    clock: Clock,
    *,
    points: Callable[[Any], list[tuple[str, dict[str, Any], Any]]] = points_of,
) -> tuple[list[Row], dict[str, list[dict[str, float]]]]:
    """All settings along all methods' curves on one clip.

    Returns:
        The rows, with factor `point`; and the scores by method, setting after setting.
    """
    reference = Reference.of(clip, site.dnn, settings)
    rows: list[Row] = []
    scores: dict[str, list[dict[str, float]]] = {}
    for name, method in methods.items():
        for label, _, policy in points(method):
            found = score(policy, clip, site, settings, reference, clock)
            rows += rows_of(found, name, {"point": label or "as set"})
            scores.setdefault(name, []).append(found)
    return rows, scores
