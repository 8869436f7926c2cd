"""Fit the simulator's cost model to a real engine on this machine.

    points = measure(engine, grid(512, 2048), time.process_time)   # each batch timed as the minimum of repeats
    fitted = fit(points, "small on my desk")                       # relative least squares, errors on points held out

What is timed is a whole iteration of the engine (scheduling, forward pass, sampling, book-keeping), in CPU time of one thread: on
a busy machine the minimum CPU time of several repeats is stable where wall time is not (RAGServe sheet, 8.3).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.errors import ConfigError
from common.models.loading import LoadedModel
from common.serving.api import Call
from common.serving.cost import FORMAT, CostModel, pairs
from common.serving.in_process import TransformersEngine

MIN_REPEATS = 7
COLUMNS = ("cpu_s", "slope_s", "decode_s", "beta_s", "gamma_s", "packed_s")


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one iteration computes.

    Attributes:
        new, past: prompt tokens of one chunk and the tokens of the same prompt before it; new = 0 for no prompt.
        num_decode, context: decoding sequences, and the KV tokens that each attends to (its new one included).
    """

    new: int = 0
    past: int = 0
    num_decode: int = 0
    context: int = 0

    def features(self) -> np.ndarray:
        """The batch in the terms of the cost model, in the order of `COLUMNS`."""
        tokens = self.new + self.num_decode
        decode_kv = self.num_decode * self.context
        read = decode_kv + (self.past + self.new if self.new else 0)
        return np.array([1.0, tokens, self.num_decode, pairs(self.past, self.new), decode_kv, tokens * read])


@dataclasses.dataclass(frozen=True)
class Point:
    """A batch with its time.

    Attributes:
        batch: what was computed.
        seconds: minimum over the repeats.
        repeats: how many.
    """

    batch: Batch
    seconds: float
    repeats: int


@dataclasses.dataclass(frozen=True)
class Fit:
    """A cost model with what is known about its error.

    Attributes:
        cost: fitted to all points.
        held_out_mean, held_out_max: relative error of points that took no part in the fit that predicts them
            (every fifth point in turn).
        fitted_mean: relative error of `cost` on all points.
    """

    cost: CostModel
    held_out_mean: float
    held_out_max: float
    fitted_mean: float


def grid(max_batch_tokens: int, context_tokens: int, num_decode: Sequence[int] = (1, 2, 4, 8, 16, 32)) -> list[Batch]:
    """The default grid: prompts (new x past), decodes (sequences x context), and both together."""
    news = [n for n in (8, 32, 64, 128, 256, 512, 1024, 2048) if n <= max_batch_tokens]
    pasts = [p for p in (0, 128, 512, 1024) if p < context_tokens]
    contexts = [c for c in (32, 128, 384, 768, 1536) if c < context_tokens]
    prompts = [Batch(n, p) for n in news for p in pasts if n + p < context_tokens]
    decodes = [Batch(0, 0, b, c) for b in num_decode for c in contexts]
    mixed = [
        Batch(n, p, b, c)
        for n, p in ((32, 0), (128, 0), (128, 256))
        for b, c in ((2, 128), (8, 256), (16, 384))
        if n + b <= max_batch_tokens and n + p < context_tokens and c < context_tokens
    ]
    return prompts + decodes + mixed


def measure(
    engine: TransformersEngine,
    batches: Sequence[Batch],
    cpu_clock: Callable[[], float],
    repeats: int = MIN_REPEATS,
    progress: Callable[[int, int], None] | None = None,
) -> list[Point]:
    """Time iterations of an idle engine.

    Args:
        engine: without calls; its pool must hold the largest batch. Batches that do not fit are left out.
        batches: what to time.
        cpu_clock: CPU seconds of this process, `time.process_time`; torch must be at one thread.
        repeats: >= 7.
        progress: called with (done, all).

    Raises:
        ConfigError: too few repeats, or no batch fits.
    """
    if repeats < MIN_REPEATS:
        raise ConfigError(f"repeats={repeats}: the minimum of fewer than {MIN_REPEATS} is not stable.")
    fitting = [batch for batch in batches if _pool_need(batch, repeats) <= engine.facts.pool_tokens]
    if not fitting:
        raise ConfigError(f"no batch of the grid fits into a pool of {engine.facts.pool_tokens} tokens; enlarge it.")
    _time_batch(engine, fitting[0], cpu_clock, repeats)  # warm-up: allocations, kernels' first calls
    points = []
    for index, batch in enumerate(fitting):
        points.append(Point(batch, min(_time_batch(engine, batch, cpu_clock, repeats)), repeats))
        if progress is not None:
            progress(index + 1, len(fitting))
    return points


def fit(points: Sequence[Point], source: str, folds: int = 5) -> Fit:
    """Non-negative relative least squares, with every `folds`-th point held out in turn for the error.

    Raises:
        ConfigError: fewer points than two per unknown.
    """
    if len(points) < 2 * len(COLUMNS):
        raise ConfigError(f"{len(points)} points are too few for {len(COLUMNS)} unknowns; use a larger grid or pool.")
    x = np.array([point.batch.features() for point in points])
    seconds = np.array([point.seconds for point in points])
    errors = np.empty(len(points))
    for fold in range(folds):
        held = np.arange(len(points)) % folds == fold
        coefficients = _solve(x[~held], seconds[~held])
        errors[held] = np.abs(x[held] @ coefficients / seconds[held] - 1)
    coefficients = _solve(x, seconds)
    named = dict(zip(COLUMNS, map(float, coefficients), strict=True))
    slope_s = named.pop("slope_s")
    cost = CostModel((0, 1), (0.0, slope_s), basis="simulated", source=source, **named)
    fitted = np.abs(x @ coefficients / seconds - 1)
    return Fit(cost, float(errors.mean()), float(errors.max()), float(fitted.mean()))


def _solve(x: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    from scipy.optimize import nnls

    weighted = x / seconds[:, None]
    scale = np.linalg.norm(weighted, axis=0)
    scale[scale == 0] = 1.0
    # Unknowns differ by six orders of magnitude; the solver's tolerance is absolute.
    solution, _ = nnls(weighted / scale, np.ones(len(seconds)))
    result: np.ndarray = solution / scale
    return result


def _pool_need(batch: Batch, repeats: int) -> int:
    return batch.num_decode * (batch.context + repeats + 32) + batch.past + batch.new + 32


def _time_batch(engine: TransformersEngine, batch: Batch, cpu_clock: Callable[[], float], repeats: int) -> list[float]:
    """CPU seconds of the iteration that computes the batch, once per repeat."""
    full = engine.facts.max_batch_tokens
    times: list[float] = []
    rng = np.random.default_rng(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(0, engine.vocabulary, count))

    # Decoding sequences have `context` KV tokens in the middle of the repeats.
    start = max(1, batch.context - (repeats + 1) // 2 - 1)
    for _ in range(batch.num_decode):
        engine.submit(Call(tokens(start), 10 * repeats if batch.new else repeats + 4))
    if batch.num_decode:
        while engine.load().prefill_tokens:
            engine.step()
    if not batch.new:
        for _ in range(repeats):
            begin_s = cpu_clock()
            engine.step()
            times.append(cpu_clock() - begin_s)
    else:
        for _ in range(repeats):
            engine.submit(Call(tokens(batch.past + batch.new), 1))
            left = batch.past
            while left:
                piece = min(left, full - batch.num_decode)
                engine.limit_batch(piece + batch.num_decode)
                engine.step()
                left -= piece
            engine.limit_batch(batch.new + batch.num_decode)
            begin_s = cpu_clock()
            engine.step()
            times.append(cpu_clock() - begin_s)
            engine.limit_batch(full)
    while engine.load().running + engine.load().waiting:
        engine.step()
    return times


def calibrate(
    loaded: LoadedModel,
    cpu_clock: Callable[[], float],
    machine: dict[str, Any],
    *,
    pool_tokens: int = 16384,
    max_batch_tokens: int = 512,
    repeats: int = MIN_REPEATS,
    batches: Sequence[Batch] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure and fit: all that a calibration file holds, as JSON types (see `common.serving.cost.load_calibration`).

    Args:
        loaded: the model.
        cpu_clock: see `measure`.
        machine: facts to store beside the numbers.
        pool_tokens, max_batch_tokens: of the engine that is timed.
        repeats, progress: see `measure`.
        batches: what to time; default `grid`.
    """
    with TransformersEngine(
        loaded, cpu_clock, None, pool_tokens=pool_tokens, max_batch_tokens=max_batch_tokens
    ) as engine:
        facts = engine.facts
        chosen = grid(max_batch_tokens, facts.context_tokens) if batches is None else batches
        points = measure(engine, chosen, cpu_clock, repeats, progress)
    source = f"{loaded.spec.name} ({loaded.spec.dtype}) in transformers' engine, CPU time of one thread"
    result = fit(points, source)
    return {
        "format": FORMAT,
        "cost": result.cost.to_json(),
        "facts": dataclasses.asdict(facts),
        "held_out_mean_relative_error": result.held_out_mean,
        "held_out_max_relative_error": result.held_out_max,
        "fitted_mean_relative_error": result.fitted_mean,
        "model": loaded.fingerprint,
        "machine": machine,
        "points": [
            dataclasses.asdict(point.batch) | {"seconds": point.seconds, "repeats": point.repeats} for point in points
        ],
    }
