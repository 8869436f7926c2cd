"""Runs methods on contexts and turns what comes back into numbers; the same code for every method.

Sizes are lengths of the bytes that `decode` has just decoded. Quality is measured by answering with the decoded cache, distance
by the KL divergence of its scores from those with the uncompressed cache.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from cachegen.api import METHODS, Context, KVCodec
from cachegen.engine import Engine
from cachegen.profiling import kl_divergence
from cachegen.streaming import Costs, Curve
from common.data.items import QAItem
from common.errors import ConfigError
from common.experiment import Run
from common.kv import KVCache
from common.metrics import metric
from common.models import prompt_format
from common.models.loading import LoadedModel, ModelSpec, load
from common.results import Row
from common.timing import measure_interleaved

NUM_PROFILE_CONTEXTS = 24
"""Sample contexts that profiles are made from; drawn from another random stream than the contexts that are coded."""


@functools.lru_cache(maxsize=1)
def loaded_model(spec: ModelSpec) -> LoadedModel:
    """The model of a run; the last one stays loaded, since a command runs several experiments on it."""
    return load(spec)


def engine_for(run: Run) -> Engine:
    """An engine with the run's model; notes the model's fingerprint among the run's inputs.

    Caches are stored in 16 bits: bfloat16 for models of that type, float16 for all others.
    """
    loaded = loaded_model(ModelSpec.from_settings(run.model))
    run.note_input("model", loaded.fingerprint)
    return Engine(loaded, "bfloat16" if str(loaded.dtype) == "torch.bfloat16" else "float16")


def items_of(run: Run, stream: str, n: int, workload: Any = None) -> list[tuple[str, QAItem]]:
    """n items of the run's workload with their keys, `<index>-<family>`, from the named random stream.

    Raises:
        ConfigError: the experiment needs a workload and none was given.
    """
    workload = run.workload if workload is None else workload
    if workload is None:
        raise ConfigError(f"experiment {run.experiment!r} needs a workload; give workload=NAME.")
    rng = run.rng(stream)
    items = workload.items_from(run.data, rng, n) if hasattr(workload, "items_from") else workload.items(rng, n)
    return [(f"{index:04d}-{item.family}", item) for index, item in enumerate(items)]


def sample_contexts(run: Run, engine: Engine, n: int, workload: Any = None) -> list[Context]:
    """Contexts for profiles: never among those that are coded."""
    return [engine.context_of(item) for _, item in items_of(run, "profile", n, workload)]


def random_context(engine: Engine, rng: np.random.Generator, num_tokens: int, question_tokens: int = 24) -> Context:
    """A context of random tokens, for speed."""
    ids = rng.integers(0, min(999, engine.loaded.config.vocab_size), num_tokens + question_tokens).tolist()
    return engine.context(ids[:num_tokens], (), ids[num_tokens:])


def prepare(methods: Mapping[str, Any], engine: Engine, sample: Sequence[Context]) -> dict[str, KVCodec]:
    """Every method, made ready."""
    return {name: method.prepare(engine, sample) for name, method in methods.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """Scores caches of one item.

    Attributes:
        engine, item, context: what is asked, and of which cache.
        reference_TV: scores with the uncompressed cache over question and gold answer, from the question's end on.
        forced: question and gold answer as token ids.
    """

    engine: Engine
    item: QAItem
    context: Context
    reference_TV: Tensor
    forced: tuple[int, ...]

    @classmethod
    def of(cls, engine: Engine, item: QAItem) -> "Judge":
        """Prefill the item's context and take the reference."""
        context = engine.context_of(item)
        answer: list[int] = []
        if item.answers:
            answer = list(engine.loaded.tokenizer.encode(" " + item.answers[0], add_special_tokens=False))
        forced = (*context.question, *answer[: item.max_answer_tokens])
        last = len(forced) - len(context.question) + 1
        return cls(engine, item, context, engine.logits_after(context.kv, forced, last), forced)

    def rows(self, method: str, kv: KVCache, factors: Mapping[str, Any] | None = None) -> list[Row]:
        """kl (nat), and the item's metric where there is a gold answer."""
        scores_TV = self.engine.logits_after(kv, self.forced, len(self.reference_TV))
        kl = kl_divergence(self.reference_TV, scores_TV)
        rows = [Row("kl", kl, "nat", "measured", method, factors or {})]
        if self.item.answers:
            ids = self.engine.answer(kv, self.context.question, self.item.max_answer_tokens)
            text = prompt_format.decode_answer(self.engine.loaded.tokenizer, ids)
            quality = metric(self.item.metric)(text, self.item.answers)
            rows.append(Row("quality", float(quality), "1", "measured", method, factors or {}))
        return rows


def size_rows(chunks: Sequence[bytes], context: Context, method: str, factors: Mapping[str, Any]) -> list[Row]:
    """size (B), bits_per_element of the whole context's cache, and size_per_token (B)."""
    num_bytes = sum(map(len, chunks))
    elements = 2 * context.kv.keys_LHTD.numel()
    return [
        Row("size", num_bytes, "B", "measured", method, factors),
        Row("bits_per_element", 8 * num_bytes / elements, "bit", "measured", method, factors),
        Row("size_per_token", num_bytes / len(context.ids), "B", "measured", method, factors),
    ]


def coded(codecs: Mapping[str, KVCodec], context: Context) -> Iterator[tuple[str, str, tuple[bytes, ...], KVCache]]:
    """(method, level, chunks, decoded cache) for every method and level."""
    for name, codec in codecs.items():
        for index, level in enumerate(codec.levels):
            chunks = codec.encode(context, index)
            yield name, level, chunks, codec.decode(chunks)


def measured_costs(
    engine: Engine,
    context: Context,
    codecs: Mapping[str, KVCodec],
    *,
    lengths: Sequence[int],
    warmup: int = 1,
    repeats: int = 5,
) -> tuple[Curve, float, dict[tuple[str, int], float]]:
    """What this machine takes, timed interleaved so that other work on it hits all alike.

    Args:
        context: long enough for every length.
        codecs: decoded once per level, whole context.
        lengths: token counts at which prefilling is timed.

    Returns:
        (prefill time by tokens, time of the question's prefill behind the context, decode time by (method, level index)).
    """
    runs: dict[str, Any] = {}
    for length in lengths:
        runs[f"prefill|{length}"] = functools.partial(engine.prefill, context.ids[:length])
    question = context.question or context.ids[-16:]
    runs["suffix|0"] = functools.partial(engine.logits_after, context.kv, question, 1)
    for name, codec in codecs.items():
        for index in range(len(codec.levels)):
            runs[f"{name}|{index}"] = functools.partial(codec.decode, codec.encode(context, index))
    timings = measure_interleaved(runs, warmup=warmup, repeats=repeats, device=str(engine.loaded.device))
    decode_s = {
        (name, index): timings[f"{name}|{index}"].median_s
        for name, codec in codecs.items()
        for index in range(len(codec.levels))
    }
    prefill_s = [timings[f"prefill|{length}"].median_s for length in lengths]
    # A noisy machine can time a longer prefill as shorter; time cannot fall with length.
    rising = np.maximum.accumulate(prefill_s)
    curve = Curve(tuple(float(length) for length in lengths), tuple(float(value) for value in rising))
    return curve, timings["suffix|0"].median_s, decode_s


def costs_of(prefill_to: Curve, suffix_s: float, decode_s: Sequence[float], num_tokens: int) -> Costs:
    """Costs of one method, from the times of decoding a whole context at each of its levels."""
    return Costs(prefill_to, tuple(Curve((float(num_tokens),), (seconds,)) for seconds in decode_s), suffix_s)


def method_or_default(run: Run, name: str) -> Any:
    """A method of the run, with its knobs, or the registered one with its defaults."""
    return run.methods.get(name) or METHODS.create(name)
