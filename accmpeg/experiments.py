"""One experiment per table or figure of the paper; `accmpeg/README.md` lists metrics and factors.

Experiments about maps (HQ share, persistence, boxes, reuse, sensitivity, codecs) are in `accmpeg.experiments_maps`, those about
the camera's time, training and changing bandwidth in `accmpeg.experiments_camera`.
"""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from accmpeg.api import EXPERIMENTS
from accmpeg.curves import reduction
from accmpeg.harness import Settings, curve_rows
from accmpeg.loop import LinkSettings
from accmpeg.setting import clips_of, cpu_clock, dnn_for, site_for
from common.errors import ConfigError
from common.experiment import Run
from common.results import ItemRows, Row

BEST = "best baseline"


def is_ours(name: str) -> bool:
    """Whether a method is a form of the paper's system."""
    return name.startswith("accmpeg")


def baselines_of(methods: Mapping[str, Any]) -> list[str]:
    """The methods that the paper's system is compared with: neither its own forms nor oracles and sanity checks."""
    return [
        name for name, method in methods.items() if not is_ours(name) and not getattr(type(method), "IS_ORACLE", False)
    ]


def reduction_rows(scores: Mapping[str, list[dict[str, float]]], baselines: list[str]) -> list[Row]:
    """Delay and bytes at equal accuracy, ours against each baseline and against the best at each accuracy, on one clip."""
    rows = []
    for cost, metric, basis in (("delay", "delay_reduction", "simulated"), ("size", "size_reduction", "measured")):
        curves = {name: [(s["accuracy"], s[cost]) for s in found] for name, found in scores.items()}
        rivals = {name: {name: curves[name]} for name in baselines if name in curves}
        if len(rivals) > 1:
            rivals[BEST] = {name: curves[name] for name in baselines if name in curves}
        for ours in filter(is_ours, curves):
            for against, others in rivals.items():
                value = reduction(curves[ours], others)
                if value is not None:
                    rows.append(Row(metric, value, "1", basis, ours, {"against": against}))  # type: ignore[arg-type]
    return rows


@EXPERIMENTS.add("delay_vs_accuracy")
@dataclasses.dataclass(frozen=True)
class DelayVsAccuracy:
    """Delay and bytes against accuracy, every system along its curve (AccMPEG, Fig. 7 and the size trade-off).

    Attributes:
        bandwidth_kbps: of the uplink; 100 for 320 x 192 pictures stands for the paper's 500 at 1280 x 720.
        rtt_s: round-trip time.
        chunk_frames: k.
        warmup_chunks: chunks per clip that are not scored.
        score_every: frames from one whose accuracy is taken to the next.
    """

    # DEVIATION accmpeg-8: a link of 100 kbit/s instead of 500, so that sending dominates the delay as it does at 720p.
    bandwidth_kbps: float = 100.0
    rtt_s: float = 0.1
    chunk_frames: int = 10
    warmup_chunks: int = 1
    score_every: int = 1

    def __post_init__(self) -> None:
        self._settings()

    def _settings(self) -> Settings:
        link = LinkSettings(1000 * self.bandwidth_kbps, self.rtt_s)
        return Settings(self.chunk_frames, self.warmup_chunks, link, score_every=self.score_every)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per clip, method and setting: see `accmpeg.harness.score`; factor `point`.

        Per clip: delay_reduction and size_reduction of the forms of AccMPEG, factor `against`.
        """
        if not run.methods:
            raise ConfigError("delay_vs_accuracy needs methods; give methods=[accmpeg,awstream].")
        settings, dnn = self._settings(), dnn_for(run)
        for key, clip in run.todo(clips_of(run)):
            rows, scores = curve_rows(run.methods, clip, site_for(run, clip, dnn), settings, cpu_clock)
            yield ItemRows(key, [*rows, *reduction_rows(scores, baselines_of(run.methods))])


for _module in ("experiments_maps", "experiments_camera"):
    importlib.import_module(f"accmpeg.{_module}")
