"""Runs methods on requests and turns what they hand back into numbers; the same code for every method.

Time to first token is the wall time of `method.prefill`: loading KV from the store, moving keys, choosing, recomputing, head.
What is done offline (computing chunk caches) is done before the clock starts, for every method alike.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cacheblend.api import Computed, Prefill, Request
from cacheblend.engine import Engine, KVStore
from common.data.items import QAItem
from common.data.sources import DataSpec, input_hashes
from common.errors import ConfigError
from common.experiment import Run
from common.metrics import metric
from common.models import prompt_format
from common.models.loading import LoadedModel, ModelSpec, load
from common.results import Row
from common.timing import Stopwatch, measure_interleaved

KL_TOKENS = 8
"""Distances to full prefill are averaged over at most so many answer tokens."""


@functools.lru_cache(maxsize=1)
def loaded_model(spec: ModelSpec) -> LoadedModel:
    """The model of a run; the last one stays loaded, since a command runs several experiments on it."""
    return load(spec)


def engine_for(run: Run, store: KVStore | None = None, **options: Any) -> Engine:
    """An engine with the run's model; notes the model's fingerprint among the run's inputs.

    Raises:
        ConfigError, DataUnavailable: see `common.models.loading.load`.
    """
    loaded = loaded_model(ModelSpec.from_settings(run.model))
    run.note_input("model", loaded.fingerprint)
    return Engine(loaded, store, seed=run.seed_for("selection"), **options)


def encode(item: QAItem | Request, engine: Engine, chunk_tokens: int | None = None) -> Request:
    """A text item as token ids, every piece tokenised alone; a `Request` is passed on.

    Args:
        chunk_tokens: cut chunks to at most so many tokens; None leaves them.

    Raises:
        ConfigError: text for a model without a tokenizer.
    """
    if isinstance(item, Request):
        return item
    tokenizer = engine.tokenizer
    if tokenizer is None:
        raise ConfigError(
            f"model {engine.loaded.spec.name!r} has no tokenizer; use workload=random_tokens or another model."
        )
    if chunk_tokens is not None:
        from common.data.chunking import rechunk

        item = rechunk(item, lambda text: prompt_format.encode_chunk(tokenizer, text), chunk_tokens)
    instruction = f"Sum up what helps to answer this question: {item.question}"
    return Request(
        tuple(tuple(prompt_format.encode_chunk(tokenizer, chunk)) for chunk in item.chunks),
        tuple(prompt_format.encode_question(tokenizer, item.question)),
        answers=item.answers,
        metric=item.metric,
        max_answer_tokens=item.max_answer_tokens,
        item_id=item.item_id,
        family=item.family,
        instruction=tuple(prompt_format.encode_question(tokenizer, instruction)),
    )


def requests_of(run: Run, engine: Engine, workload: Any = None) -> list[tuple[str, Request]]:
    """The run's requests with their keys, `<index>-<family>`.

    Args:
        workload: instead of the run's own.

    Raises:
        ConfigError: the experiment needs a workload and none was given.
    """
    workload = run.workload if workload is None else workload
    if workload is None:
        raise ConfigError(f"experiment {run.experiment!r} needs a workload; give workload=NAME.")
    rng = run.rng("workload")
    if hasattr(workload, "items_from"):
        for name, sha256 in input_hashes(DataSpec.from_settings(run.data)).items() if run.data else ():
            run.note_input(name, sha256)
        items = workload.items_from(run.data, rng, run.num_items)
    else:
        items = workload.items(rng, run.num_items)
    pairs = []
    for index, item in enumerate(items):
        if hasattr(workload, "to_request"):
            request = workload.to_request(item, engine)
        else:
            request = encode(item, engine)
        pairs.append((f"{index:04d}-{request.family}" if request.family else f"{index:04d}", request))
    return pairs


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What one method did with one request.

    Attributes:
        ttft_s: wall time of each repeat; empty for methods that cannot be timed (`needs_truth`).
        prefill: what the last repeat handed back.
        tokens_computed: tokens run through the model for it (mean over layers), counted by the engine.
    """

    ttft_s: tuple[float, ...]
    prefill: Prefill
    tokens_computed: float


def run_methods(
    engine: Engine,
    request: Request,
    methods: Mapping[str, Any],
    *,
    warmup: int = 1,
    repeats: int = 3,
    is_timed: bool = True,
) -> dict[str, Outcome]:
    """Run every method on a request, interleaved and in rotating order; the chunk caches are made first.

    Args:
        warmup, repeats: rounds; with `is_timed=False` each method runs once and no time is kept.
    """
    engine.precompute(request)
    if any(getattr(method, "needs_truth", False) for method in methods.values()):
        engine.truth(request)
    outcomes: dict[str, Outcome] = {}
    timed: dict[str, Callable[[], Prefill]] = {}
    for name, method in methods.items():
        if is_timed and not getattr(method, "needs_truth", False):
            timed[name] = functools.partial(method.prefill, request, engine)
        else:
            before = engine.tokens_computed
            prefill = method.prefill(request, engine)
            outcomes[name] = Outcome((), prefill, engine.tokens_computed - before)
    work: dict[str, float] = {}

    def counted(name: str) -> Prefill:
        before = engine.tokens_computed
        prefill = timed[name]()
        work[name] = engine.tokens_computed - before
        return prefill

    if timed:
        timings = measure_interleaved(
            {name: functools.partial(counted, name) for name in timed},
            warmup=warmup,
            repeats=repeats,
            device=str(engine.transformer.device),
        )
        for name, timing in timings.items():
            outcomes[name] = Outcome(timing.seconds, timing.result, work[name])
    return {name: outcomes[name] for name in methods}


@dataclasses.dataclass(frozen=True)
class BatchOutcome:
    """What one method did with requests that arrived together; medians of the repeats.

    Attributes:
        mean_ttft_s: mean over the requests of the time from their common arrival to the first token of each.
        throughput_rps: requests over the time until the last first token.
        recomputed_share: tokens run through the model over tokens of the prompts.
    """

    mean_ttft_s: float
    throughput_rps: float
    recomputed_share: float


def run_batch(
    engine: Engine, requests: Sequence[Request], methods: Mapping[str, Any], *, warmup: int = 1, repeats: int = 3
) -> dict[str, BatchOutcome]:
    """Run every method on requests that arrive together, interleaved and in rotating order; the chunk caches are made first.

    Args:
        requests: of the batch; one is a batch of its own.
        warmup, repeats: rounds.

    Raises:
        ConfigError: a method that needs the full prefill has no time to first token.
    """
    for name, method in methods.items():
        if getattr(method, "needs_truth", False):
            raise ConfigError(
                f"method {name!r} needs the full prefill, so it has no time to first token; leave it out."
            )
    for request in requests:
        engine.precompute(request)
    prompt_tokens = sum(request.num_tokens + len(engine.bos) for request in requests)
    device = str(engine.transformer.device)
    ends_s: dict[str, list[list[float]]] = {name: [] for name in methods}
    shares: dict[str, float] = {}

    def serve(name: str) -> None:
        before, watch = engine.tokens_computed, Stopwatch(device)
        # DEVIATION cacheblend-7: a batch is prefilled request after request, in order of arrival, not in packed products.
        for index, request in enumerate(requests):
            watch("request", index)
            methods[name].prefill(request, engine)
        watch("end", len(requests))
        ends_s[name].append([end_s for _, _, _, end_s in watch.spans])
        shares[name] = (engine.tokens_computed - before) / prompt_tokens

    runs = {name: functools.partial(serve, name) for name in methods}
    measure_interleaved(runs, warmup=warmup, repeats=repeats, device=device)
    outcomes = {}
    for name, rounds in ends_s.items():
        timed = np.array(rounds[warmup:])  # (repeats, requests)
        rate_rps = float(np.median(len(requests) / timed[:, -1]))
        outcomes[name] = BatchOutcome(float(np.median(timed.mean(1))), rate_rps, shares[name])
    return outcomes


@dataclasses.dataclass(frozen=True)
class Variant:
    """A method as one point of an experiment.

    Attributes:
        name: registered name, under which its rows are stored.
        method: the instance, with the swept knobs set.
        factors: what was swept.
    """

    name: str
    method: Any
    factors: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def with_ratio(method: Any, ratio: float) -> Any:
    """The method with another recompute ratio; a fixed number of tokens per chunk, which would overrule it, is lifted."""
    free = {"k": None} if hasattr(method, "k") else {}
    return dataclasses.replace(method, ratio=float(ratio), **free)


def judged_rows(
    engine: Engine,
    request: Request,
    variants: Sequence[Variant],
    *,
    warmup: int = 1,
    repeats: int = 3,
    is_timed: bool = True,
) -> list[Row]:
    """Run every variant on a request and score what it hands back; see `run_methods` and `Judge.rows`."""
    if is_timed:
        methods = {str(index): variant.method for index, variant in enumerate(variants)}
        outcomes = run_methods(engine, request, methods, warmup=warmup, repeats=repeats)
        judge = Judge(engine, request)
        return [
            row
            for variant, outcome in zip(variants, outcomes.values(), strict=True)
            for row in judge.rows(variant.name, outcome, variant.factors)
        ]
    engine.precompute(request)
    judge = Judge(engine, request)
    rows: list[Row] = []
    for variant in variants:  # one at a time: their states together may be more than the memory holds
        outcome = run_methods(engine, request, {"": variant.method}, is_timed=False)[""]
        rows += judge.rows(variant.name, outcome, variant.factors)
    return rows


class Judge:
    """Scores states against a request's gold answers and against its full prefill."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine, self._request = engine, request
        truth = engine.truth(request)
        budget = min(KL_TOKENS, request.max_answer_tokens)
        ids = engine.decode(truth, budget).ids
        end = (engine.eos,) if engine.eos is not None and len(ids) < budget else ()
        self._path = (*ids, *end) or (int(truth.logits_V.argmax()),)
        self._truth_PV = engine.forced_logprobs(truth, self._path)

    def kl_to_full(self, computed: Computed) -> float:
        """Mean KL divergence, in nat, of the next-token distribution from that of full prefill, along its greedy answer."""
        return mean_kl(self._truth_PV, self._engine.forced_logprobs(computed, self._path))

    def quality(self, computed: Computed) -> tuple[str, float] | None:
        """(metric name, score) of the decoded answer, or None without gold answers."""
        request = self._request
        if not request.answers:
            return None
        ids = self._engine.decode(computed, request.max_answer_tokens).ids
        text = prompt_format.decode_answer(self._engine.tokenizer, ids)
        return request.metric.partition("@")[0], metric(request.metric)(text, request.answers)

    def rows(self, name: str, outcome: Outcome, factors: Mapping[str, Any] | None = None) -> Iterator[Row]:
        """The rows of one method: ttft, recomputed_share, kl_to_full and the quality metric, as far as they exist."""
        factors = factors or {}
        computed = outcome.prefill.computed
        if outcome.ttft_s:
            ordered = sorted(outcome.ttft_s)
            middle = len(ordered) // 2
            median_s = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
            yield Row("ttft", median_s, "s", "measured", name, factors)
        prompt_tokens = self._request.num_tokens + len(self._engine.bos)
        yield Row("recomputed_share", outcome.tokens_computed / prompt_tokens, "1", "measured", name, factors)
        yield Row("kl_to_full", self.kl_to_full(computed), "nat", "measured", name, factors)
        scored = self.quality(computed)
        if scored is not None:
            yield Row(scored[0], scored[1], "1", "measured", name, factors)


def mean_kl(log_p_PV: Tensor, log_q_PV: Tensor) -> float:
    """Mean over positions of KL(p || q), in nat; >= 0."""
    # xlogy-like: a token of probability 0 under p adds nothing, whatever q says.
    terms_PV = torch.where(log_p_PV.exp() > 0, log_p_PV.exp() * (log_p_PV - log_q_PV), torch.zeros_like(log_p_PV))
    return max(0.0, float(terms_PV.sum(-1).mean()))
