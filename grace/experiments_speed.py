"""How fast the codec is on this machine, and what bounds it (sheet, T2 and T3)."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from common.errors import ConfigError
from common.experiment import Run
from common.results import ItemRows, Row
from common.timing import measure_interleaved
from grace import entropy
from grace.api import EXPERIMENTS
from grace.clips import ClipStyle, bundled_photos, make_clip
from grace.experiments import neural_codec
from grace.packets import write_packets


@EXPERIMENTS.add("speed")
@dataclasses.dataclass(frozen=True)
class Speed:
    """Frames per second of encoding and decoding by size, and where the time goes.

    Attributes:
        sizes: (height, width) pairs.
        level: quality level.
        num_packets: of a frame.
        repeats: timed repeats.
        threads: compute threads.
    """

    sizes: tuple[tuple[int, int], ...] = ((128, 128), (192, 192), (192, 320))
    level: int = 8
    num_packets: int = 4
    repeats: int = 10
    threads: int = 1

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """See `common.experiment.Experiment.rows`."""
        name, codec = neural_codec(run)
        photos = bundled_photos()
        for key, (height, width) in run.todo([(f"{height}x{width}", (height, width)) for height, width in self.sizes]):
            if min(height, width) < 32:
                raise ConfigError(f"a frame of {width}x{height} is too small to time; use at least 32 a side.")
            clip = make_clip(run.rng("clip", key), photos, ClipStyle(height, width, 3))
            frame, reference = clip[2], clip[1]
            motion = codec.encode_motion(frame, reference, self.level)
            latents = codec.encode_residual(frame, motion, self.level)
            packets = codec.packets(latents, self.num_packets)

            def encode(frame: Any = frame, reference: Any = reference) -> None:
                coded = codec.encode(frame, reference, self.level)
                codec.packets(coded.latents, self.num_packets)

            def decode(packets: Any = packets, reference: Any = reference) -> None:
                codec.decode(codec.read(packets).latents, reference)

            steps: dict[str, Callable[[], Any]] = {
                "encode": encode,
                "decode": decode,
                "motion search": functools.partial(codec.estimator.flow, frame, reference),
                "motion and prediction": functools.partial(codec.encode_motion, frame, reference, self.level),
                "residual encoder": functools.partial(codec.encode_residual, frame, motion, self.level),
                "decoding of latents": functools.partial(codec.decode, latents, reference),
                "reconstruction": functools.partial(codec.finish, latents, motion),
                "entropy encoder": functools.partial(write_packets, latents, self.num_packets, codec),
                "entropy decoder": functools.partial(codec.read, packets),
            }
            timings = measure_interleaved(steps, warmup=2, repeats=self.repeats, threads=self.threads)
            factors = {"height": height, "width": width, "pixels": height * width, "threads": self.threads}
            rows = []
            for step, timing in timings.items():
                for seconds in timing.seconds:
                    rows.append(Row("step_time", seconds, "s", "measured", name, factors | {"step": step}))
            for step in ("encode", "decode"):
                rate = 1 / timings[step].median_s
                rows.append(Row(f"{step}_rate", rate, "frames/s", "measured", name, factors))
            num_symbols = latents.motion.size + latents.residual.size
            for step, metric in (("entropy encoder", "coder_rate"), ("entropy decoder", "decoder_rate")):
                rows.append(Row(metric, num_symbols / timings[step].median_s, "symbols/s", "measured", name, factors))
            scales = entropy.scales_of(latents.residual)
            rows.append(Row("live_channels", float(np.count_nonzero(scales)), "1", "measured", name, factors))
            yield ItemRows(key, rows)
