"""A workload without a trained network, so that experiments run in a second."""

import dataclasses

from oneadapt.api import WORKLOADS
from oneadapt.contract import small_application, small_clip


@WORKLOADS.add("tiny_video")
@dataclasses.dataclass(frozen=True)
class TinyVideo:
    """Moving bright squares, and a task that counts bright blocks."""

    interval_frames: int = 3

    def application(self, pipeline="encoding", data=None):
        return small_application(pipeline)

    def clips(self, rng, n, num_intervals, data=None):
        for _ in range(n):
            yield small_clip(rng, num_intervals)
