"""How well an answer was rendered: exact formulas over g (generation) and r (rendering) times.

`g_i` is when token i was generated, `r_i` when it was rendered in order, `gap_i = r_i - r_(i-1)`, `T = r_(N-1) - r_0`, tau the
stall threshold. An answer that was not finished is scored too: its missing tokens count as rendered when the reader's patience
ends.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
STALL_THRESHOLD_S = 0.2  # a wait of more than 200 ms is a stall (the paper, as other work reports it)


def stall_ratio(rendered_s: npt.ArrayLike, threshold_s: float = STALL_THRESHOLD_S) -> float:
    """Share of the rendering time that is waiting beyond the threshold: sum(max(0, gap - tau)) / T.

    The paper's "proportion of token rendering wait time"; that only the excess over tau counts is inferred.
    """
    gaps = np.diff(np.asarray(rendered_s, dtype=float))
    return _over_total(np.maximum(0, gaps - threshold_s).sum(), gaps)


def whole_gap_stall_ratio(rendered_s: npt.ArrayLike, threshold_s: float = STALL_THRESHOLD_S) -> float:
    """The other reading: gaps that exceed the threshold count whole: sum(gap * [gap > tau]) / T."""
    gaps = np.diff(np.asarray(rendered_s, dtype=float))
    return _over_total(gaps[gaps > threshold_s].sum(), gaps)


def net_stall_ratio(generated_s: npt.ArrayLike, rendered_s: npt.ArrayLike) -> float:
    """Without a threshold and without the server's own pauses: sum(max(0, gap_i - (g_i - g_(i-1)))) / T."""
    gaps = np.diff(np.asarray(rendered_s, dtype=float))
    pauses = np.diff(np.asarray(generated_s, dtype=float))
    return _over_total(np.maximum(0, gaps - pauses).sum(), gaps)


def _over_total(stalled_s: float, gaps_s: FloatArray) -> float:
    total_s = float(gaps_s.sum())
    return float(stalled_s) / total_s if total_s > 0 else 0.0


@dataclasses.dataclass(frozen=True)
class Score:
    """All metrics of one answer. Ratios are fractions; times are in s; bytes are IP bytes.

    Attributes:
        stall_ratio, whole_gap_stall_ratio, net_stall_ratio: see the functions.
        stall_s_per_1000_tokens: sum(max(0, gap - tau)) * 1000 / N; comparable although T differs between methods.
        gap_p95_s, gap_p99_s, gap_max_s: of the gaps between renders.
        first_token_s: r_0 - g_0.
        delay_mean_s: mean of r_i - g_i.
        completion_lag_s: r_(N-1) - g_(N-1).
        incomplete: 1 if the answer was not finished within the reader's patience, else 0.
    """

    stall_ratio: float
    whole_gap_stall_ratio: float
    net_stall_ratio: float
    stall_s_per_1000_tokens: float
    gap_p95_s: float
    gap_p99_s: float
    gap_max_s: float
    first_token_s: float
    delay_mean_s: float
    completion_lag_s: float
    incomplete: float


def score(
    generated_s: npt.ArrayLike, rendered_s: npt.ArrayLike, patience_s: float, threshold_s: float = STALL_THRESHOLD_S
) -> Score:
    """Score one answer.

    Args:
        generated_s: g, (N,), N >= 1.
        rendered_s: r, (N,); +inf for tokens that were not rendered.
        patience_s: how long after the last generation the reader waits; missing tokens count as rendered then.
        threshold_s: tau.

    Raises:
        ValueError: no tokens, or arrays of different lengths.
    """
    generated = np.asarray(generated_s, dtype=float)
    rendered = np.asarray(rendered_s, dtype=float)
    if generated.shape != rendered.shape or generated.ndim != 1 or len(generated) == 0:
        raise ValueError(f"g has shape {generated.shape}, r {rendered.shape}; both must be (N,) with N >= 1.")
    is_missing = ~np.isfinite(rendered)
    rendered = np.where(is_missing, generated[-1] + patience_s, rendered)
    gaps = np.diff(rendered) if len(rendered) > 1 else np.zeros(1)
    return Score(
        stall_ratio=stall_ratio(rendered, threshold_s),
        whole_gap_stall_ratio=whole_gap_stall_ratio(rendered, threshold_s),
        net_stall_ratio=net_stall_ratio(generated, rendered),
        stall_s_per_1000_tokens=float(np.maximum(0, gaps - threshold_s).sum()) * 1000 / len(rendered),
        gap_p95_s=float(np.percentile(gaps, 95)),
        gap_p99_s=float(np.percentile(gaps, 99)),
        gap_max_s=float(gaps.max()),
        first_token_s=float(rendered[0] - generated[0]),
        delay_mean_s=float((rendered - generated).mean()),
        completion_lag_s=float(rendered[-1] - generated[-1]),
        incomplete=float(is_missing.any()),
    )


UNITS = {
    "stall_ratio": "1",
    "whole_gap_stall_ratio": "1",
    "net_stall_ratio": "1",
    "stall_s_per_1000_tokens": "s",
    "incomplete": "1",
} | dict.fromkeys(("gap_p95_s", "gap_p99_s", "gap_max_s", "first_token_s", "delay_mean_s", "completion_lag_s"), "s")
