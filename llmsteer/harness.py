"""Runs methods on contexts and queries and turns what they hand back into numbers; the same code for every method.

The request delay is the wall time from the arrival of a query to its last token, with what may be cached already in memory: the
KV of [prompt; context] and the steering record for query-independent methods, nothing but the unsteered KV for the others. Query
prefill is in it, and so are the calls, the selection and the uncached prefill of methods that need the query.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cache import ArtefactCache
from common.data.sources import DataSpec, input_hashes
from common.errors import ConfigError
from common.experiment import Run
from common.metrics import metric
from common.models.loading import LoadedModel, ModelSpec, load
from common.results import Row
from common.rng import for_component
from common.timing import measure_interleaved
from llmsteer.api import Context, SteeringPlan, TokenQuery
from llmsteer.engine import Answer, Engine, HeadProfile, Prepared
from llmsteer.profiling import ProfileSettings, load_profile, profile_heads, save_profile
from llmsteer.selection import Selection


@functools.lru_cache(maxsize=2)
def loaded_model(spec: ModelSpec) -> LoadedModel:
    """A model of a run; the last two stay loaded, since a command runs several experiments on them."""
    return load(spec)


@dataclasses.dataclass(frozen=True)
class ProfilePlan:
    """How the head profile of a run's model is made. It is kept between runs, for it depends on nothing else.

    Attributes:
        num_contexts: held-out contexts.
        settings: see `llmsteer.profiling`.
        selection: how tokens are chosen during the search.
        heads: instead of a search, fixed heads as (layer, head) pairs; for models without a tokenizer.
        alpha: the gain that goes with fixed heads.
    """

    num_contexts: int = 6
    settings: ProfileSettings = dataclasses.field(default_factory=ProfileSettings)
    selection: Selection = dataclasses.field(default_factory=Selection)
    heads: tuple[tuple[int, int], ...] = ()
    alpha: float = 5.0


def engine_for(run: Run, plan: ProfilePlan | None = None, **options: Any) -> Engine:
    """An engine with the run's model, its heads profiled; notes the fingerprint among the run's inputs.

    Args:
        plan: how to profile; None leaves the engine without a profile.
    """
    loaded = loaded_model(ModelSpec.from_settings(run.model))
    run.note_input("model", loaded.fingerprint)
    engine = Engine(loaded, **options)
    if plan is not None:
        engine.profile = profile_for(run, engine, plan)
    return engine


def profile_for(run: Run, engine: Engine, plan: ProfilePlan) -> HeadProfile:
    """The head profile of the engine's model: from the artefact cache, or searched now on held-out contexts.

    The held-out contexts are the same for every seed of a run: one profile per model, whatever is tested.

    Raises:
        ConfigError: the run's workload has no held-out contexts.
    """
    if plan.heads:
        heads: dict[int, tuple[int, ...]] = {}
        for layer, head in sorted(plan.heads):
            heads[int(layer)] = (*heads.get(int(layer), ()), int(head))
        return HeadProfile(heads, plan.alpha, 0.0, {}, {}, {}, 0)
    if not hasattr(run.workload, "held_out"):
        raise ConfigError(f"workload {run.workload_name!r} has no held-out contexts to profile heads on (`held_out`).")
    description = {
        "model": engine.loaded.fingerprint,
        "num_contexts": plan.num_contexts,
        "settings": dataclasses.asdict(plan.settings) | {"alphas": list(plan.settings.alphas)},
        "selection": dataclasses.asdict(plan.selection),
        "workload": repr(run.workload),
    }

    def make(folder: Path) -> None:
        items = run.workload.held_out(for_component(0, "llmsteer", "held_out"), plan.num_contexts)
        contexts = [engine.encode(item) for item in items]
        save_profile(profile_heads(engine, contexts, plan.selection, plan.settings), folder / "heads.json")

    folder = ArtefactCache(run.cache_dir).get_or_make("llmsteer-heads", description, make)
    return load_profile(folder / "heads.json")


def items_of(run: Run) -> list[tuple[str, Any]]:
    """The run's contexts with their keys, `<index>-<family>`.

    Raises:
        ConfigError: the experiment needs a workload and none was given.
    """
    if run.workload is None:
        raise ConfigError(f"experiment {run.experiment!r} needs a workload; give workload=NAME.")
    rng = run.rng("workload")
    if hasattr(run.workload, "items_from"):
        for name, sha256 in input_hashes(DataSpec.from_settings(run.data)).items() if run.data else ():
            run.note_input(name, sha256)
        items = run.workload.items_from(run.data, rng, run.num_items)
    else:
        items = run.workload.items(rng, run.num_items)
    return [(f"{index:04d}-{item.family}", item) for index, item in enumerate(items)]


class Bench:
    """One method on one context: what is done before any query arrives, and what is done for each.

    Args:
        name: registered name, under which its rows are stored.
        method: the instance.
        engine: the engine of the model that the method runs on.
        context: encoded by that engine.
        factors: what an experiment sweeps.
    """

    def __init__(
        self, name: str, method: Any, engine: Engine, context: Context, factors: Mapping[str, Any] | None = None
    ) -> None:
        self.name, self.method, self.engine, self.context = name, method, engine, context
        self.factors = dict(factors or {})
        self.prepared: Prepared | None = None
        if getattr(method, "per_query", False):
            engine.plain(context)  # the unsteered context is in the cache for whoever can use it
        else:
            self.prepared = engine.prepare(context, method.plan(context, engine, None))

    def request(self, query: TokenQuery) -> Answer:
        """Answer one query: everything that happens between its arrival and its last token."""
        if self.prepared is not None:
            return self.engine.answer(self.prepared, query)
        plan = self.method.plan(self.context, self.engine, query)
        prepared = self.engine.prepare(self.context, plan, query)
        return self.engine.answer(prepared, query)

    def counted(self, query: TokenQuery) -> tuple[Answer, int, int]:
        """The answer, the tokens run through the model for it, and the sequences decoded for it."""
        tokens, calls = self.engine.tokens_forwarded, self.engine.generations
        answer = self.request(query)
        return answer, self.engine.tokens_forwarded - tokens, self.engine.generations - calls


def engines_for(run: Run, engine: Engine, methods: Mapping[str, Any]) -> dict[str, Engine]:
    """The engine of each method: the run's, or one with the model that the method names.

    Raises:
        ConfigError: a method's own model is the run's, so that it would be compared with itself.
    """
    engines = {}
    for name, method in methods.items():
        settings = getattr(method, "model_settings", None)
        if settings is None:
            engines[name] = engine
            continue
        loaded = loaded_model(ModelSpec.from_settings(settings))
        if loaded.fingerprint == engine.loaded.fingerprint:
            raise ConfigError(f"method {name!r} names the run's own model; give it a larger one or leave it out.")
        run.note_input(f"model of {name}", loaded.fingerprint)
        engines[name] = Engine(loaded)
    return engines


def quality_rows(benches: Sequence[Bench]) -> list[Row]:
    """Per method and query: the query's text metric, forwarded_tokens and calls, in factors `family` and `query`."""
    rows = []
    for bench in benches:
        for index, query in enumerate(bench.context.queries):
            factors = bench.factors | {"family": bench.context.family, "query": index}
            answer, tokens, calls = bench.counted(query)
            rows.append(Row("forwarded_tokens", tokens, "tokens", "measured", bench.name, factors))
            rows.append(Row("calls", calls, "calls", "measured", bench.name, factors))
            if query.answers:
                score = metric(query.metric)(answer.text, query.answers)
                rows.append(Row(query.metric.partition("@")[0], score, "1", "measured", bench.name, factors))
    return rows


def delay_rows(benches: Sequence[Bench], num_queries: int, *, warmup: int, repeats: int) -> list[Row]:
    """request_delay of the first queries, all methods interleaved in rotating order; the median of the repeats."""
    rows = []
    for index in range(min(num_queries, *(len(bench.context.queries) for bench in benches))):
        runs: dict[str, Callable[[], Any]] = {
            str(place): functools.partial(bench.request, bench.context.queries[index])
            for place, bench in enumerate(benches)
        }
        device = str(benches[0].engine.loaded.device)
        timings = measure_interleaved(runs, warmup=warmup, repeats=repeats, device=device)
        for bench, timing in zip(benches, timings.values(), strict=True):
            factors = bench.factors | {"family": bench.context.family, "query": index}
            rows.append(Row("request_delay", timing.median_s, "s", "measured", bench.name, factors))
    return rows


def unsteered(engine: Engine, context: Context) -> Prepared:
    """The context in the cache, as it is."""
    return engine.prepare(context, SteeringPlan())
