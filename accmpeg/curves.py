"""Cost at equal accuracy, by interpolation along each system's curve.

A curve is a set of settings, each with an accuracy and a cost (delay or bytes). Only its lower envelope counts: the settings
for which no other one is at least as accurate at lower cost. Between neighbours on it cost is interpolated linearly.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Curve = Sequence[tuple[float, float]]
"""(accuracy, cost) of each setting."""


def envelope(curve: Curve) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Accuracies, rising, and costs, rising, of the settings that no other one beats."""
    kept: list[tuple[float, float]] = []
    for accuracy, cost in sorted(curve, key=lambda point: (point[1], -point[0])):
        if not kept or accuracy > kept[-1][0]:
            kept.append((accuracy, cost))
    accuracies, costs = zip(*kept, strict=True) if kept else ((), ())
    return np.array(accuracies, dtype=float), np.array(costs, dtype=float)


def cost_at(curve: Curve, accuracies: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What each accuracy costs along a curve; infinite outside the accuracies that the curve spans."""
    known, costs = envelope(curve)
    if not len(known):
        return np.full(len(accuracies), np.inf)
    return np.interp(accuracies, known, costs, left=np.inf, right=np.inf)


def reduction(ours: Curve, others: Mapping[str, Curve], num_steps: int = 21) -> float | None:
    """How much lower our cost is at equal accuracy: 1 - mean of ours / mean of theirs over the accuracies that both span.

    Args:
        ours: our curve.
        others: one or several; of several the cheapest counts at each accuracy.
        num_steps: accuracies compared, evenly spaced over the shared range.

    Returns:
        Negative where ours costs more; None if no accuracy is reached by both, or theirs costs nothing at all there.
    """
    known = envelope(ours)[0]
    theirs = [envelope(curve)[0] for curve in others.values()]
    theirs = [accuracies for accuracies in theirs if len(accuracies)]
    if not len(known) or not theirs:
        return None
    low = max(known[0], min(accuracies[0] for accuracies in theirs))
    high = min(known[-1], max(accuracies[-1] for accuracies in theirs))
    if high < low:
        return None
    wanted = np.linspace(low, high, num_steps) if high > low else np.array([low])
    cheapest = np.min([cost_at(curve, wanted) for curve in others.values()], axis=0)
    own = cost_at(ours, wanted)
    both = np.isfinite(own) & np.isfinite(cheapest)
    # Means before the ratio: a filter that sends next to nothing for some low accuracy would decide a mean of ratios alone.
    theirs_mean = float(cheapest[both].mean()) if both.any() else 0.0
    return 1 - float(own[both].mean()) / theirs_mean if theirs_mean > 0 else None
