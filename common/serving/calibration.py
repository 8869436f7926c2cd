"""Fit the simulator's cost model to a real engine on this machine.

    timings = [time_batches(engine, grid(512, 2048), time.process_time, 3) for _ in range(3)]
    fitted = fit(points_of(timings), "small on my desk")          # relative least squares, errors on points held out

What is timed is a whole iteration of the engine (scheduling, forward pass, sampling, book-keeping), in CPU time of one thread:
on a busy machine the minimum CPU time of several repeats is stabler than wall time (RAGServe sheet, 8.3). The repeats are
spread over rounds, so that a busy spell of the machine does not spoil all repeats of a batch.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from common.errors import ConfigError
from common.models.loading import LoadedModel
from common.serving.api import Call
from common.serving.cost import FORMAT, CostModel, pairs
from common.serving.in_process import Step, TransformersEngine

MIN_REPEATS = 7
Statistic = Literal["minimum", "median", "mean"]
_OTHER_TOKENS = 40
"""Length of the prompt that is computed before each timed one, so that no batch is timed right after its like."""
# Where the two curves of the cost model may bend, in tokens; the last point is the largest batch timed.
_KNOTS = (((1, 2, 4, 16, 64, 256), (1, 2, 8, 32, 128)), ((1, 64), (1, 64)), ((1,), (1,)))


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one iteration computes.

    Attributes:
        new, past: prompt tokens of one chunk and the tokens of the same prompt before it; new = 0 for no prompt.
        prompts: how many such chunks; more than one only with past = 0.
        num_decode, context: decoding sequences, and the KV tokens that each attends to (its new one included).
    """

    new: int = 0
    past: int = 0
    num_decode: int = 0
    context: int = 0
    prompts: int = 1

    def __post_init__(self) -> None:
        if self.prompts < 1 or (self.prompts > 1 and self.past):
            raise ConfigError(f"prompts={self.prompts} with past={self.past}: several prompts begin together, from 0.")

    @property
    def chunks(self) -> int:
        """Prompts that are computed."""
        return self.prompts if self.new else 0

    @property
    def tokens(self) -> int:
        """Tokens computed."""
        return self.new * self.prompts + self.num_decode

    @property
    def kv_tokens(self) -> int:
        """KV tokens read by its sequences together."""
        return self.num_decode * self.context + self.chunks * (self.past + self.new)


@dataclasses.dataclass(frozen=True)
class Point:
    """A batch with its time.

    Attributes:
        batch: what was computed.
        seconds: of the iteration, the chosen statistic over the repeats.
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
        held_out: what was predicted for each point when it was held out, in seconds.
        fitted_mean: relative error of `cost` on all points.
    """

    cost: CostModel
    held_out_mean: float
    held_out_max: float
    held_out: tuple[float, ...]
    fitted_mean: float


def grid(max_batch_tokens: int, context_tokens: int, num_decode: Sequence[int] = (1, 2, 4, 8, 16)) -> list[Batch]:
    """The default grid: prompts (new x past), decodes (sequences x context), both together, and several prompts at once.

    Engines of large models (budgets of 2,048 tokens and more) are also timed at 4,096 tokens of context.
    """
    far = (4096,) if max_batch_tokens >= 2048 else ()
    news = [n for n in (8, 32, 64, 128, 256, 512, 1024, 2048) if n <= max_batch_tokens]
    pasts = [p for p in (0, 256, 1024, *far) if p < context_tokens]
    contexts = [c for c in (32, 128, 512, *far) if c < context_tokens]
    prompts = [Batch(n, p) for n in news for p in pasts if n + p < context_tokens]
    decodes = [Batch(0, 0, b, c) for b in num_decode for c in contexts]
    mixed = [
        Batch(n, p, b, c)
        for n, p in ((32, 0), (128, 0), (128, 256))
        for b, c in ((2, 128), (8, 256))
        if n + b <= max_batch_tokens and n + p < context_tokens and c < context_tokens
    ]
    several = [
        Batch(n, 0, b, c, k)
        for n, k in ((24, 4), (24, 8), (64, 3), (64, 6))
        for b, c in ((0, 0), (6, 192))
        if n * k + b <= max_batch_tokens and c < context_tokens
    ]
    return prompts + decodes + mixed + several


def time_batches(
    engine: TransformersEngine,
    batches: Sequence[Batch],
    cpu_clock: Callable[[], float],
    repeats: int,
    progress: Callable[[int, int], object] | None = None,
) -> dict[Batch, list[float]]:
    """Time iterations of an idle engine; one round.

    Args:
        engine: without calls; its pool must hold the largest batch. Batches that do not fit are left out.
        batches: what to time.
        cpu_clock: CPU seconds of this process, `time.process_time`; torch must be at one thread.
        repeats: of each batch, >= 1.
        progress: called with (done, all).

    Returns:
        Seconds of each repeat, by batch.

    Raises:
        ConfigError: no repeat, or no batch fits.
    """
    if repeats < 1:
        raise ConfigError(f"repeats={repeats} must be at least 1.")
    fitting = [batch for batch in batches if _pool_need(batch, repeats) <= engine.facts.pool_tokens]
    if not fitting:
        raise ConfigError(f"no batch of the grid fits into a pool of {engine.facts.pool_tokens} tokens; enlarge it.")
    _time_batch(engine, fitting[0], cpu_clock, 1)  # warm-up: allocations, kernels' first calls
    found: dict[Batch, list[float]] = {}
    for index, batch in enumerate(fitting):
        found[batch] = _time_batch(engine, batch, cpu_clock, repeats)
        if progress is not None:
            progress(index + 1, len(fitting))
    return found


_STATISTICS: dict[Statistic, Callable[[Sequence[float]], float]] = {
    "minimum": min,
    "median": statistics.median,
    "mean": statistics.fmean,
}


def points_of(rounds: Sequence[Mapping[Batch, Sequence[float]]], statistic: Statistic = "minimum") -> list[Point]:
    """One point per batch from all rounds.

    Args:
        rounds: what `time_batches` returned.
        statistic: "minimum" is what the work itself takes, "median" what it typically takes on this machine as it is. Delays are
            sums of iterations, slow ones among them, and sums follow the "mean".

    Raises:
        ConfigError: fewer than 7 repeats of a batch.
    """
    points = []
    for batch in rounds[0]:
        times = [seconds for one in rounds for seconds in one.get(batch, ())]
        if len(times) < MIN_REPEATS:
            raise ConfigError(f"{len(times)} repeats of a batch: fewer than {MIN_REPEATS} are not stable.")
        points.append(Point(batch, _STATISTICS[statistic](times), len(times)))
    return points


def fit(points: Sequence[Point], source: str, folds: int = 5) -> Fit:
    """Non-negative relative least squares, with every `folds`-th point held out in turn for the error.

    The two curves of the cost model are piecewise linear and never fall; the more points, the more pieces.

    Raises:
        ConfigError: fewer points than two per unknown of the simplest curves.
    """
    largest = max((point.batch.tokens for point in points), default=0)
    for wanted in _KNOTS:
        linear, read = (_with_end(knots, largest) for knots in wanted)
        unknowns = len(linear) + len(read) + 4
        if 2 * unknowns <= len(points):
            break
    else:
        raise ConfigError(f"{len(points)} points are too few for {unknowns} unknowns; use a larger grid or pool.")
    x = np.array([_features(point.batch, linear, read) for point in points])
    seconds = np.array([point.seconds for point in points])
    predicted = np.empty(len(points))
    for fold in range(folds):
        held = np.arange(len(points)) % folds == fold
        predicted[held] = x[held] @ _solve(x[~held], seconds[~held])
    errors = np.abs(predicted / seconds - 1)
    found = _solve(x, seconds)
    curve_s = [float(value) for value in np.cumsum(found[: len(linear)])]
    read_s = [float(value) for value in np.cumsum(found[len(linear) : len(linear) + len(read)])]
    decode_s, chunk_s, beta_s, gamma_s = (float(value) for value in found[-4:])
    cost = CostModel(
        linear,
        tuple(curve_s),
        read,
        tuple(read_s),
        beta_s,
        gamma_s,
        decode_s,
        chunk_s,
        basis="simulated",
        source=source,
    )
    fitted = np.abs(x @ found / seconds - 1)
    return Fit(cost, float(errors.mean()), float(errors.max()), tuple(map(float, predicted)), float(fitted.mean()))


def in_service(cost: CostModel, steps: Sequence[Step]) -> float:
    """How much longer iterations take in service than a cost model fitted to batches that were timed one by one says: a factor.

    Args:
        cost: see `fit`.
        steps: the trace of an engine that served other calls than those that are to be simulated.

    Raises:
        ConfigError: an empty trace.
    """
    if not steps:
        raise ConfigError(
            "an empty trace says nothing of iterations in service; serve some calls with keep_trace=True."
        )
    predicted = sum(
        cost.step(
            step.prefill_tokens,
            sum(pairs(past, new) for new, past in step.prompts),
            step.num_decode,
            sum(step.decode_kv),
            sum(new + past for new, past in step.prompts),
            len(step.prompts),
        )
        for step in steps
    )
    return sum(step.seconds for step in steps) / predicted


def _with_end(knots: tuple[int, ...], end: int) -> tuple[int, ...]:
    return (*(knot for knot in knots if knot < end), max(end, 2))


def _steps(tokens: int, knots: tuple[int, ...]) -> list[float]:
    """A curve's value at `tokens` in its rises from knot to knot (the first: its value at the first knot)."""
    rises = [min(max((tokens - a) / (b - a), 0.0), 1.0) for a, b in itertools.pairwise(knots)]
    return [1.0, *rises]


def _features(batch: Batch, linear: tuple[int, ...], read: tuple[int, ...]) -> list[float]:
    """The batch in the terms of the cost model: rises of both curves, decode_s, chunk_s, beta_s, gamma_s."""
    return [
        *_steps(batch.tokens, linear),
        *(batch.kv_tokens * step for step in _steps(batch.tokens, read)),
        float(batch.num_decode),
        float(batch.chunks),
        batch.prompts * pairs(batch.past, batch.new),
        float(batch.num_decode * batch.context),
    ]


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
    return batch.num_decode * (batch.context + repeats + 32) + batch.past + batch.prompts * (batch.new + 48)


def _time_batch(engine: TransformersEngine, batch: Batch, cpu_clock: Callable[[], float], repeats: int) -> list[float]:
    """CPU seconds of the iteration that computes the batch, once per repeat."""
    full = engine.facts.max_batch_tokens
    times: list[float] = []
    rng = np.random.default_rng(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(0, engine.vocabulary, count))

    other = min(_OTHER_TOKENS, full - batch.num_decode)
    # Decoding sequences have `context` KV tokens in the middle of the repeats, two iterations each. Prompts are computed one
    # after another, and those that are complete go on decoding: the first ones start shorter, and may generate for longer.
    length, later, starts = max(1, batch.context - repeats - 1), 0, []
    for place in reversed(range(batch.num_decode)):
        start = max(1, length - later)
        starts.append((start, later))
        later += -(-start // (full - place))
    for start, steps in reversed(starts):
        engine.submit(Call(tokens(start), steps + (10 * repeats if batch.new else 2 * repeats + 4)))
        while engine.load().prefill_tokens:
            engine.step()
    if not batch.new:
        for _ in range(repeats):
            engine.submit(Call(tokens(other), 1))
            engine.step()
            begin_s = cpu_clock()
            engine.step()
            times.append(cpu_clock() - begin_s)
    else:
        for _ in range(repeats):
            # In service an iteration follows another kind of iteration; back to back, a prompt is 10 % faster, a decode 3 %.
            engine.submit(Call(tokens(other), 1))
            engine.step()
            for _ in range(batch.prompts):
                engine.submit(Call(tokens(batch.past + batch.new), 1))
            left = batch.past
            while left:
                piece = min(left, full - batch.num_decode)
                engine.limit_batch(piece + batch.num_decode)
                engine.step()
                left -= piece
            engine.limit_batch(batch.tokens)
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
    repeats: int = 9,
    rounds: int = 3,
    batches: Sequence[Batch] | None = None,
    progress: Callable[[int, int], object] | None = None,
    clock_name: str = "CPU time of one thread",
) -> dict[str, Any]:
    """Measure and fit: all that a calibration file holds, as JSON types (see `common.serving.cost.load_calibration`).

    Args:
        loaded: the model.
        cpu_clock: see `time_batches`.
        machine: facts to store beside the numbers.
        pool_tokens, max_batch_tokens: of the engine that is timed.
        repeats: of each batch, over all rounds, >= 7.
        rounds: how often to go through the grid.
        progress: called with (batches done, all), rounds together.
        batches: what to time; default `grid`.
        clock_name: what the clock counts, for the report. On a GPU give a wall clock: an iteration ends when its tokens are here.
    """
    with TransformersEngine(
        loaded, cpu_clock, None, pool_tokens=pool_tokens, max_batch_tokens=max_batch_tokens
    ) as engine:
        facts = engine.facts
        chosen = grid(max_batch_tokens, facts.context_tokens) if batches is None else batches
        each = -(-repeats // max(rounds, 1))
        timings: list[dict[Batch, list[float]]] = []
        for number in range(rounds):

            def show(done: int, total: int, before: int = number) -> None:
                if progress is not None:
                    progress(before * total + done, rounds * total)

            timings.append(time_batches(engine, chosen, cpu_clock, each, show))
    points = points_of(timings)
    source = f"{loaded.spec.name} ({loaded.spec.dtype}) in transformers' engine, {clock_name}"
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
            dataclasses.asdict(point.batch) | {"seconds": point.seconds, "held_out_s": held_s, "repeats": point.repeats}
            for point, held_s in zip(points, result.held_out, strict=True)
        ],
    }
