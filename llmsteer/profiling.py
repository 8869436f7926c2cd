"""Which heads to steer: coarse-to-fine profiling on held-out contexts (LLMSteer after AutoPASTA).

    coarse   steer all heads of one layer at a time           L evaluations     -> keep the best layers
    fine     steer one head of the kept layers at a time      kept * H          -> keep the best heads
    alpha    steer their union with several gains             a few             -> keep the best gain

instead of L * H evaluations of single heads. The held-out contexts must not be those that are tested on.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from common.errors import ConfigError, CorruptBitstream
from common.metrics import metric
from common.models import prompt_format
from common.results import write_atomically
from llmsteer.api import Context, SteeringPlan
from llmsteer.engine import Engine, HeadProfile
from llmsteer.selection import Selection

OBJECTIVES = ("f1", "log_likelihood")


@dataclasses.dataclass(frozen=True)
class ProfileSettings:
    """How heads are searched.

    Attributes:
        keep_layers, keep_heads: how many layers survive the coarse step and heads the fine one (inferred: AutoPASTA's
            re-implementations keep 6 layers of 32 and 4 heads).
        alpha: gain during the search.
        alphas: gains tried at the end; the smallest of equals is kept.
        objective: "f1", the queries' own metric of the decoded answers (the paper's), or "log_likelihood" of the gold
            answers, which tells more from few contexts.
        apply: when steering acts during the search.

    Raises:
        ConfigError: a value is not allowed.
    """

    keep_layers: int = 2
    keep_heads: int = 4
    alpha: float = 5.0
    alphas: tuple[float, ...] = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
    objective: str = "f1"
    apply: str = "kv_and_live"

    def __post_init__(self) -> None:
        object.__setattr__(self, "alphas", tuple(float(alpha) for alpha in self.alphas))
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective={self.objective!r} is not one of {', '.join(OBJECTIVES)}.")
        if min(self.keep_layers, self.keep_heads) < 1 or not self.alphas or min(*self.alphas, self.alpha) <= 0:
            raise ConfigError("keep_layers and keep_heads must be at least 1, and every alpha positive.")


def best(scores: Mapping[int, float], count: int) -> list[int]:
    """Keys of the largest scores, best first; ties go to the smaller key."""
    return sorted(scores, key=lambda key: (-scores[key], key))[:count]


def profile_heads(
    engine: Engine, contexts: Sequence[Context], how: Selection, settings: ProfileSettings | None = None
) -> HeadProfile:
    """Search the heads.

    Args:
        engine: the model; its own profile is not used.
        contexts: held-out contexts whose queries have gold answers.
        how: how tokens are selected, once per context.

    Raises:
        ConfigError: no held-out queries with answers.
    """
    settings = settings or ProfileSettings()
    if not any(query.answers for context in contexts for query in context.queries):
        raise ConfigError("head profiling needs held-out contexts whose queries have gold answers.")
    sets = [engine.select(context, how) for context in contexts]
    evaluations = 0

    def score(heads: Mapping[int, tuple[int, ...]], alpha: float) -> float:
        nonlocal evaluations
        evaluations += 1
        values = []
        for context, layers in zip(contexts, sets, strict=True):
            record = engine.make_record(context, layers, heads, alpha, apply=settings.apply) if heads else None
            values += _values(engine, context, SteeringPlan(record), settings.objective)
        return fmean(values)

    return search(engine.num_layers, engine.num_heads, score, settings, lambda: evaluations)


def search(
    num_layers: int,
    num_heads: int,
    score: Callable[[Mapping[int, tuple[int, ...]], float], float],
    settings: ProfileSettings,
    count: Callable[[], int] = lambda: 0,
) -> HeadProfile:
    """The search itself, for any score of (heads, alpha)."""
    base = score({}, 1.0)
    every = tuple(range(num_heads))
    layer_scores = {layer: score({layer: every}, settings.alpha) for layer in range(num_layers)}
    kept = sorted(best(layer_scores, settings.keep_layers))
    head_scores = {layer: {head: score({layer: (head,)}, settings.alpha) for head in every} for layer in kept}
    # One number per (layer, head), so that heads of different layers compete.
    flat = {layer * num_heads + head: value for layer, own in head_scores.items() for head, value in own.items()}
    heads: dict[int, tuple[int, ...]] = {}
    for place in sorted(best(flat, settings.keep_heads)):
        layer, head = divmod(place, num_heads)
        heads[layer] = (*heads.get(layer, ()), head)
    alpha_scores = {alpha: score(heads, alpha) for alpha in sorted(settings.alphas)}
    alpha = max(alpha_scores, key=lambda key: (alpha_scores[key], -key))
    return HeadProfile(heads, alpha, base, layer_scores, head_scores, alpha_scores, count())


def _values(engine: Engine, context: Context, plan: SteeringPlan, objective: str) -> list[float]:
    prepared = engine.prepare(context, plan)
    values = []
    for query in context.queries:
        if not query.answers:
            continue
        if objective == "f1":
            values.append(metric(query.metric)(engine.answer(prepared, query).text, query.answers))
        else:
            golds = [prompt_format.encode_answer(engine.tokenizer, gold) for gold in query.answers]
            values.append(max(engine.log_likelihood(prepared, query, gold) for gold in golds))
    return values


def save_profile(profile: HeadProfile, path: Path) -> None:
    """Write a profile as JSON, atomically."""
    plain = {
        "format": "llmsteer-heads-1",
        "heads": {str(layer): list(heads) for layer, heads in profile.heads.items()},
        "alpha": profile.alpha,
        "base": profile.base,
        "layer_scores": {str(layer): value for layer, value in profile.layer_scores.items()},
        "head_scores": {
            str(layer): {str(head): value for head, value in own.items()} for layer, own in profile.head_scores.items()
        },
        "alpha_scores": {str(alpha): value for alpha, value in profile.alpha_scores.items()},
        "num_evaluations": profile.num_evaluations,
    }
    write_atomically(path, json.dumps(plain, indent=1).encode())


def load_profile(path: Path) -> HeadProfile:
    """Read what `save_profile` wrote.

    Raises:
        CorruptBitstream: the file is not such a profile.
    """
    try:
        plain = json.loads(path.read_text())
        if plain["format"] != "llmsteer-heads-1":
            raise CorruptBitstream(f"{path} is a head profile of another version; profile again.")
        return HeadProfile(
            {int(layer): tuple(heads) for layer, heads in plain["heads"].items()},
            float(plain["alpha"]),
            float(plain["base"]),
            {int(layer): value for layer, value in plain["layer_scores"].items()},
            {int(layer): {int(h): v for h, v in own.items()} for layer, own in plain["head_scores"].items()},
            {float(alpha): value for alpha, value in plain["alpha_scores"].items()},
            int(plain["num_evaluations"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptBitstream(f"{path} is no head profile: {error}") from error
