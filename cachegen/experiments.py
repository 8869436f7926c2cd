"""One experiment per table or figure of the paper; `cachegen/README.md` lists metrics and factors.

Experiments about the codec's inside (Figs. 3, 4, 5, 14, 15 and ours) are in `cachegen.experiments_codec`, those over links
(Figs. 7, 11, 12, 13) in `cachegen.experiments_link`.
"""

import dataclasses
import importlib
from collections.abc import Iterator

from cachegen.api import EXPERIMENTS
from cachegen.harness import (
    NUM_PROFILE_CONTEXTS,
    Judge,
    coded,
    engine_for,
    items_of,
    prepare,
    sample_contexts,
    size_rows,
)
from cachegen.streaming import offers_of, simulate
from common.errors import ConfigError
from common.experiment import Run
from common.results import ItemRows, Row


@EXPERIMENTS.add("size_vs_quality")
@dataclasses.dataclass(frozen=True)
class SizeVsQuality:
    """Size of the stored context against quality of the answers, for every method and level (CacheGen, Figs. 9, 10, Table 1).

    Attributes:
        num_profile_contexts: sample contexts that profiles are made from.
    """

    num_profile_contexts: int = NUM_PROFILE_CONTEXTS

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item, method and level: size, bits_per_element, size_per_token, kl, and quality; factor `level`."""
        engine = engine_for(run)
        codecs = prepare(run.methods, engine, sample_contexts(run, engine, self.num_profile_contexts))
        for key, item in run.todo(items_of(run, "workload", run.num_items)):
            judge = Judge.of(engine, item)
            rows = [Row("context_tokens", len(judge.context.ids), "tokens", "measured")]
            for name, level, chunks, kv in coded(codecs, judge.context):
                factors = {"level": level}
                rows += size_rows(chunks, judge.context, name, factors)
                rows += judge.rows(name, kv, factors)
            yield ItemRows(key, rows)


@EXPERIMENTS.add("ttft_vs_quality")
@dataclasses.dataclass(frozen=True)
class TtftVsQuality:
    """Time to first token against quality at one bandwidth, for every method and level (CacheGen, Fig. 8).

    The link is simulated, its bandwidth set so that sending the 8-bit cache takes `transfer_share` of a full prefill, as at
    3 Gbit/s in the paper; decoding and prefilling are timed on this machine.

    Attributes:
        transfer_share: 8-bit transfer time over prefill time.
        repeats: timed rounds.
        num_profile_contexts: sample contexts that profiles are made from.
    """

    transfer_share: float = 0.65
    repeats: int = 3
    num_profile_contexts: int = NUM_PROFILE_CONTEXTS

    def __post_init__(self) -> None:
        if not self.transfer_share > 0 or self.repeats < 1:
            raise ConfigError(
                f"transfer_share={self.transfer_share} must be > 0 and repeats={self.repeats} at least 1."
            )

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per item, method and level: ttft, network_time, decode_time, kl, quality; factor `level`. Per item: bandwidth."""
        from cachegen.harness import costs_of, measured_costs
        from cachegen.methods import METHODS
        from cachegen.policies import Fixed, TextOnly
        from common.net.rate import ConstantRate

        engine = engine_for(run)
        codecs = prepare(run.methods, engine, sample_contexts(run, engine, self.num_profile_contexts))
        eight_bit = METHODS.create("quantisation_8bit").prepare(engine, [])
        for key, item in run.todo(items_of(run, "workload", run.num_items)):
            judge = Judge.of(engine, item)
            context, num_tokens = judge.context, len(judge.context.ids)
            kv_codecs = {name: codec for name, codec in codecs.items() if codec.levels != ("text",)}
            prefill_to, suffix_s, decode_s = measured_costs(
                engine, context, kv_codecs, lengths=(max(1, num_tokens // 2), num_tokens), repeats=self.repeats
            )
            eight_bit_bytes = sum(map(len, eight_bit.encode(context, 0)))
            bandwidth_bps = 8 * eight_bit_bytes / (self.transfer_share * prefill_to(num_tokens))
            rows = [Row("bandwidth", bandwidth_bps, "bit/s", "measured")]
            for name, level, chunks, kv in coded(codecs, context):
                num_bytes, factors = sum(map(len, chunks)), {"level": level}
                is_text = name not in kv_codecs
                index = codecs[name].levels.index(level)
                costs = costs_of(prefill_to, suffix_s, [decode_s.get((name, index), 0.0)], num_tokens)
                offers = offers_of([(num_bytes,)], [num_bytes], [num_tokens], costs)
                timeline = simulate(offers, TextOnly() if is_text else Fixed(0), ConstantRate(bandwidth_bps), costs)
                rows += [
                    Row("ttft", timeline.ttft_s, "s", "simulated", name, factors),
                    Row("network_time", timeline.network_s, "s", "simulated", name, factors),
                    Row("decode_time", decode_s.get((name, index), 0.0), "s", "measured", name, factors),
                    *judge.rows(name, kv, factors),
                ]
            rows += [
                Row("prefill_time", prefill_to(num_tokens), "s", "measured"),
                Row("suffix_time", suffix_s, "s", "measured"),
            ]
            yield ItemRows(key, rows)


for _module in ("experiments_codec", "experiments_link"):
    importlib.import_module(f"cachegen.{_module}")
