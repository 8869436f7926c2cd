"""One experiment per figure of the paper, and our own A to F; `llmsteer/README.md` lists metrics and factors."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from common.errors import ConfigError
from common.experiment import Run
from common.results import ItemRows, Row
from common.timing import measure_interleaved
from llmsteer.api import EXPERIMENTS, Context, SteeringPlan, TokenQuery
from llmsteer.attention import LayerSteering, Session, add_key_channel, causal_attention, column_sums, gains
from llmsteer.engine import Engine
from llmsteer.harness import (
    Bench,
    ProfilePlan,
    delay_rows,
    engine_for,
    engines_for,
    items_of,
    quality_rows,
)
from llmsteer.profiling import ProfileSettings
from llmsteer.selection import Selection, as_sets, jaccard, precision_recall


@dataclasses.dataclass(frozen=True)
class _Profiled:
    """What all experiments with a head profile share.

    Attributes:
        profile_contexts: held-out contexts for head profiling.
        keep_layers, keep_heads, profile_alpha, alphas, objective: see `llmsteer.profiling.ProfileSettings`.
        profile_k: tokens selected per reading during the search.
        fixed_heads: (layer, head) pairs instead of a search; for models that cannot answer (random weights).
        fixed_alpha: the gain that goes with them.
    """

    profile_contexts: int = 6
    keep_layers: int = 2
    keep_heads: int = 4
    profile_alpha: float = 5.0
    alphas: tuple[float, ...] = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
    objective: str = "f1"
    profile_k: int = 64
    fixed_heads: tuple[tuple[int, int], ...] = ()
    fixed_alpha: float = 5.0

    def _plan(self) -> ProfilePlan:
        settings = ProfileSettings(
            self.keep_layers, self.keep_heads, self.profile_alpha, tuple(self.alphas), self.objective
        )
        fixed = tuple((int(layer), int(head)) for layer, head in self.fixed_heads)
        return ProfilePlan(self.profile_contexts, settings, Selection(k=self.profile_k), fixed, self.fixed_alpha)

    def _engine(self, run: Run) -> Engine:
        return engine_for(run, self._plan())


@EXPERIMENTS.add("quality_vs_delay")
@dataclasses.dataclass(frozen=True)
class QualityVsDelay(_Profiled):
    """Answer quality against request delay, for every method and three kinds of task (LLMSteer, Fig. 2).

    Attributes:
        timed_queries: how many queries of each context are timed; all are answered.
        repeats, warmup: timed and untimed rounds; every round runs all methods, in rotating order.
    """

    timed_queries: int = 1
    repeats: int = 3
    warmup: int = 1

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per context, method and query: f1, forwarded_tokens, calls; for the timed ones request_delay. Factors family, query."""
        engine = self._engine(run)
        engines = engines_for(run, engine, run.methods)
        for key, item in run.todo(items_of(run)):
            benches = [
                Bench(name, method, engines[name], engines[name].encode(item)) for name, method in run.methods.items()
            ]
            rows = quality_rows(benches)
            if self.timed_queries:
                rows += delay_rows(benches, self.timed_queries, warmup=self.warmup, repeats=self.repeats)
            yield ItemRows(key, rows)


@EXPERIMENTS.add("query_dependence")
@dataclasses.dataclass(frozen=True)
class QueryDependence(QualityVsDelay):
    """Query-independent against query-dependent steering, same pipeline (LLMSteer, its ablation)."""

    timed_queries: int = 0


@EXPERIMENTS.add("ablation")
@dataclasses.dataclass(frozen=True)
class Ablation(QualityVsDelay):
    """Which part of the method does the work: passes, union, random, oracle, TF-IDF, temperature (ours, A)."""

    timed_queries: int = 0


@EXPERIMENTS.add("open_choices")
@dataclasses.dataclass(frozen=True)
class OpenChoices(_Profiled):
    """LLMSteer with each choice that the paper leaves open turned the other way, one at a time (ours, A).

    Attributes:
        k_fraction: share of tokens for the choice k = fraction.
    """

    k_fraction: float = 0.05

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per context, choice and query: f1; factors choice, family, query."""
        engine = self._engine(run)
        base = _the_method(run, "llmsteer")
        alpha = base.alpha if base.alpha is not None else engine.profile.alpha if engine.profile else None
        choices: dict[str, dict[str, Any]] = {
            "default": {},
            "renormalise=no": {"renormalise": False},
            "apply=live_only": {"apply": "live_only"},
            "apply=kv_only": {"apply": "kv_only"},
            "heads=all": {"heads": "all", "alpha": alpha},
            "score=raw_sum": {"score": "raw_sum"},
            "sets=pooled": {"sets": "pooled"},
            "k=fraction": {"k_fraction": self.k_fraction},
            "exclude_sink=no": {"exclude_sink": False},
            "cached_prompt=P2": {"cached_prompt": "P2"},
        }
        for key, item in run.todo(items_of(run)):
            context = engine.encode(item)
            benches = [Bench("small", _Plain(), engine, context, {"choice": "none"})]
            for choice, changes in choices.items():
                method = dataclasses.replace(base, **changes)
                benches.append(Bench("llmsteer", method, engine, context, {"choice": choice}))
            yield ItemRows(key, quality_rows(benches))


class _Plain:
    """No steering."""

    per_query = False

    def plan(self, context: Context, engine: Engine, query: TokenQuery | None) -> SteeringPlan:
        return SteeringPlan()


def _the_method(run: Run, name: str) -> Any:
    from llmsteer.api import METHODS

    return run.methods.get(name) or METHODS.create(name)


@EXPERIMENTS.add("sweeps")
@dataclasses.dataclass(frozen=True)
class Sweeps(_Profiled):
    """F1 against alpha and against k (ours, B).

    Attributes:
        sweep_alphas, sweep_k: the values.
    """

    sweep_alphas: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
    sweep_k: tuple[int, ...] = (8, 16, 32, 64, 128, 256)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per context, value and query: f1 of llmsteer; factors panel ("alpha" or "k"), x, family, query."""
        engine = self._engine(run)
        base = _the_method(run, "llmsteer")
        variants = [({"panel": "alpha", "x": float(a)}, {"alpha": float(a)}) for a in self.sweep_alphas]
        variants += [({"panel": "k", "x": float(k)}, {"k": int(k)}) for k in self.sweep_k]
        for key, item in run.todo(items_of(run)):
            context = engine.encode(item)
            benches = [
                Bench("llmsteer", dataclasses.replace(base, **changes), engine, context, factors)
                for factors, changes in variants
            ]
            yield ItemRows(key, quality_rows(benches))


@EXPERIMENTS.add("quality_vs_length")
@dataclasses.dataclass(frozen=True)
class QualityVsLength(_Profiled):
    """F1 against context length and place of the answer, per method (ours, B). The workload must have a knob `num_chunks`.

    Attributes:
        num_chunks: lengths, in chunks.
    """

    num_chunks: tuple[int, ...] = (8, 16, 32, 64)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per context, method and query: f1; factors num_chunks, position (quarter of the context that holds the evidence)."""
        if run.workload is None or not hasattr(run.workload, "num_chunks"):
            raise ConfigError(f"experiment {run.experiment!r} needs a workload with a knob num_chunks.")
        engine = self._engine(run)
        engines = engines_for(run, engine, run.methods)
        pairs = []
        for count in self.num_chunks:
            sized = dataclasses.replace(run, workload=dataclasses.replace(run.workload, num_chunks=int(count)))
            pairs += [(f"{count:04d}-{key}", (count, item)) for key, item in items_of(sized)]
        for key, (count, item) in run.todo(pairs):
            rows: list[Row] = []
            for name, method in run.methods.items():
                context = engines[name].encode(item)
                bench = Bench(name, method, engines[name], context, {"num_chunks": int(count)})
                for row in quality_rows([bench]):
                    if row.unit == "1":
                        query = context.queries[int(row.factors["query"])]
                        place = _quarter(query.evidence, len(context.ids))
                        rows.append(dataclasses.replace(row, factors=dict(row.factors) | {"position": place}))
            yield ItemRows(key, rows)


def _quarter(evidence: tuple[int, ...], num_tokens: int) -> str:
    if not evidence:
        return "unknown"
    quarters = {min(3, 4 * token // num_tokens) for token in evidence}
    return f"{quarters.pop() + 1}/4" if len(quarters) == 1 else "several"


@EXPERIMENTS.add("head_profile")
@dataclasses.dataclass(frozen=True)
class HeadProfiles(_Profiled):
    """Gain on held-out contexts of steering one layer, one head, one alpha (ours, C)."""

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """One item: gain over no steering; factors step (layer, head, alpha), layer, head, alpha, and chosen (0 or 1)."""
        if self.fixed_heads:
            raise ConfigError("fixed_heads leaves nothing to profile; run head_profile with a model that can answer.")
        for key, _ in run.todo([("profile", None)]):
            profile = self._engine(run).profile
            assert profile is not None
            rows = []

            def row(step: str, value: float, layer: int, head: int, alpha: float, chosen: bool, base: float) -> Row:
                factors = {"step": step, "layer": layer, "head": head, "alpha": alpha, "chosen": int(chosen)}
                unit = "1" if self.objective == "f1" else "nat"
                return Row("gain", value - base, unit, "measured", "llmsteer", factors)

            for layer, value in profile.layer_scores.items():
                kept = layer in profile.head_scores
                rows.append(row("layer", value, layer, -1, self.profile_alpha, kept, profile.base))
            for layer, own in profile.head_scores.items():
                for head, value in own.items():
                    chosen = head in profile.heads.get(layer, ())
                    rows.append(row("head", value, layer, head, self.profile_alpha, chosen, profile.base))
            for alpha, value in profile.alpha_scores.items():
                rows.append(row("alpha", value, -1, -1, alpha, alpha == profile.alpha, profile.base))
            evaluations = Row("evaluations", profile.num_evaluations, "evaluations", "measured", "llmsteer")
            yield ItemRows(key, [*rows, evaluations])


@EXPERIMENTS.add("selected_tokens")
@dataclasses.dataclass(frozen=True)
class SelectedTokens:
    """Are the selected tokens evidence, and do the two passes agree? (ours, F).

    Attributes:
        k: tokens per reading.
        score: as for the method.
    """

    k: int = 64
    score: str = "mean_corrected"

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per context and layer: precision and recall of the set against the evidence of all queries, base_rate (precision of a
        random set), jaccard of the two passes, num_selected; factors layer, family."""
        engine = engine_for(run)
        how = Selection(k=self.k, score=self.score)
        for key, item in run.todo(items_of(run)):
            context = engine.encode(item)
            gold = {token for query in context.queries for token in query.evidence} - context.excluded
            if not gold:
                raise ConfigError(f"context {context.item_id!r} has no gold evidence; use workload=reused_contexts.")
            rate = len(gold) / max(1, len(context.ids) - len(context.excluded))
            chosen = as_sets(engine.select(context, how))
            first, second = (
                as_sets(engine.select(context, dataclasses.replace(how, combine=which))) for which in ("pass1", "pass2")
            )
            rows = []
            for layer, tokens in chosen.items():
                precision, recall = precision_recall(tokens, gold)
                agreement = jaccard(first[layer], second[layer])
                factors = {"layer": layer, "family": context.family}
                for name, value, unit in (
                    ("precision", precision, "1"),
                    ("recall", recall, "1"),
                    ("base_rate", rate, "1"),
                    ("jaccard", agreement, "1"),
                    ("num_selected", float(len(tokens)), "tokens"),
                ):
                    rows.append(Row(name, value, unit, "measured", "llmsteer", factors))
            yield ItemRows(key, rows)


# -------------------------------------------------------------------------------------------------------------------- speed


@EXPERIMENTS.add("online_delay")
@dataclasses.dataclass(frozen=True)
class OnlineDelay(_Profiled):
    """Request delay on contexts of any length, all methods really executed (LLMSteer, its delay claims).

    Attributes:
        timed_queries, repeats, warmup: as for `quality_vs_delay`.
        context_tokens: lengths; the workload must have that knob.
    """

    timed_queries: int = 1
    repeats: int = 5
    warmup: int = 1
    context_tokens: tuple[int, ...] = (512, 2048)

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per context, method and query: request_delay, forwarded_tokens, calls; factors context_tokens, family, query."""
        if run.workload is None or not hasattr(run.workload, "context_tokens"):
            raise ConfigError(f"experiment {run.experiment!r} needs a workload with a knob context_tokens.")
        engine = self._engine(run)
        engines = engines_for(run, engine, run.methods)
        pairs = []
        for count in self.context_tokens:
            sized = dataclasses.replace(run, workload=dataclasses.replace(run.workload, context_tokens=int(count)))
            pairs += [(f"{count:06d}-{key}", (count, item)) for key, item in items_of(sized)]
        for key, (count, item) in run.todo(pairs):
            factors = {"context_tokens": int(count)}
            benches = [
                Bench(name, method, engines[name], engines[name].encode(item), factors)
                for name, method in run.methods.items()
            ]
            rows = quality_rows(benches)
            yield ItemRows(
                key, rows + delay_rows(benches, self.timed_queries, warmup=self.warmup, repeats=self.repeats)
            )


@EXPERIMENTS.add("offline_cost")
@dataclasses.dataclass(frozen=True)
class OfflineCost(_Profiled):
    """Time and memory of one reading against a plain prefill, and after how many queries steering has paid (ours, D).

    Attributes:
        lengths: context lengths in tokens.
        repeats: timed rounds.
        warmup: untimed rounds, before the first length only: longer ones run the same code.
        competitor: the method whose online delay is compared; per query.
    """

    lengths: tuple[int, ...] = (512, 1024, 2048, 4096)
    repeats: int = 3
    warmup: int = 1
    competitor: str = "autopasta"

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per length: prefill, reading of all layers, preparation (two readings of the steered layers, steered prefill; s);
        reading_over_prefill;
        online delay of llmsteer and competitor; break_even (queries).
        Factor context_tokens."""
        from llmsteer.api import METHODS, WORKLOADS

        engine = self._engine(run)
        device = str(engine.loaded.device)
        ours, theirs = _the_method(run, "llmsteer"), METHODS.create(self.competitor)
        for place, (key, count) in enumerate(run.todo((f"{count:06d}", count) for count in self.lengths)):
            warmup = self.warmup if place == 0 else 0
            work = WORKLOADS.create("random_contexts", context_tokens=int(count), num_queries=1)
            context = next(iter(work.items(run.rng("offline", count), 1)))
            prefix = engine.prefix(0)

            def prepare(context: Context = context) -> Any:
                # Anew: readings kept from an earlier round would make the second one free.
                fresh = Engine(engine.loaded, profile=engine.profile)
                return fresh.prepare(context, ours.plan(context, fresh, None))

            steps: dict[str, Any] = {
                "prefill": functools.partial(engine.prepare, context, SteeringPlan()),
                "reading": functools.partial(engine.read, prefix, context.ids),
                "preparation": prepare,
            }
            timings = measure_interleaved(steps, warmup=warmup, repeats=self.repeats, device=device)
            factors = {"context_tokens": int(count)}
            rows = [
                Row(f"{name}_time", timing.median_s, "s", "measured", "llmsteer", factors)
                for name, timing in timings.items()
            ]
            ratio = timings["reading"].median_s / timings["prefill"].median_s
            rows.append(Row("reading_over_prefill", ratio, "1", "measured", "llmsteer", factors))
            benches = [
                Bench("llmsteer", ours, engine, context, factors),
                Bench(self.competitor, theirs, engine, context, factors),
            ]
            delays = delay_rows(benches, 1, warmup=warmup, repeats=self.repeats)
            rows += [dataclasses.replace(row, factors=factors) for row in delays]
            saved_s = delays[1].value - delays[0].value
            broke = timings["preparation"].median_s / saved_s if saved_s > 0 else math.inf
            rows.append(Row("break_even", broke, "queries", "measured", "llmsteer", factors))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("kernels")
@dataclasses.dataclass(frozen=True)
class Kernels:
    """Attention of one layer with each route of steering, against context length (ours, E). Needs no model.

    Attributes:
        lengths: numbers of tokens.
        num_heads, num_groups, head_dim: of the layer.
        eager_up_to: longest context for the route that builds the matrix.
        repeats, warmup: timed and untimed rounds.
    """

    lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
    num_heads: int = 8
    num_groups: int = 2
    head_dim: int = 64
    eager_up_to: int = 4096
    repeats: int = 3
    warmup: int = 1

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per length: attention_time (s) of a causal prefill; factors n_tokens and route: none, bias, channel,
        channel_stored, eager, column_sums."""
        from common.models.loading import resolve_device

        device = resolve_device(str(run.model.get("device") or "auto"))
        dtype = getattr(torch, str(run.model.get("dtype") or "float32"))
        for key, count in run.todo((f"{count:06d}", count) for count in self.lengths):
            generator = torch.Generator().manual_seed(run.seed_for("kernels", count) % 2**31)
            query = torch.randn(1, self.num_heads, count, self.head_dim, generator=generator).to(device, dtype)
            key_states, values = (
                torch.randn(1, self.num_groups, count, self.head_dim, generator=generator).to(device, dtype)
                for _ in range(2)
            )
            scale = self.head_dim**-0.5
            tokens = torch.arange(0, count, max(1, count // 64))
            module: Any = _Shape(self.num_heads // self.num_groups)
            layer = functools.partial(
                LayerSteering, tokens, gains(range(self.num_heads), self.num_heads, 5.0), Session()
            )
            plain_attention: Any = sdpa_attention_forward
            arguments: tuple[Any, ...] = (module, query, key_states, values, None)
            # A reading has these from the kernel that attends; column_sums is what it adds to that.
            log_sums = causal_attention(query, key_states, values, scale)[1][0] if device == "cpu" else None
            runs: dict[str, Any] = {
                "none": functools.partial(plain_attention, *arguments, scaling=scale),
                "bias": functools.partial(layer(route="bias").attend, *arguments, scaling=scale),
                "channel": functools.partial(layer(route="channel").attend, *arguments, scaling=scale),
                # As it is when the channel lies in the cache: nothing is copied.
                "channel_stored": functools.partial(
                    layer(route="channel").attend,
                    module,
                    query,
                    add_key_channel(key_states, layer().indicator(count, query.device), scale),
                    functional.pad(values, (0, 8)),
                    None,
                    scaling=scale,
                ),
                "column_sums": functools.partial(column_sums, query[0], key_states[0], scale, log_sums_HR=log_sums),
            }
            if count <= self.eager_up_to:
                runs["eager"] = functools.partial(layer(route="eager").attend, *arguments, scaling=scale)
            timings = measure_interleaved(runs, warmup=self.warmup, repeats=self.repeats, device=device)
            yield ItemRows(
                key,
                [
                    Row(
                        "attention_time",
                        timing.median_s,
                        "s",
                        "measured",
                        factors={"route": name, "n_tokens": int(count)},
                    )
                    for name, timing in timings.items()
                ],
            )


@dataclasses.dataclass(frozen=True)
class _Shape:
    """What transformers' attention function asks of a module."""

    num_key_value_groups: int
    is_causal: bool = True
