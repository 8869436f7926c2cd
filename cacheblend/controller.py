"""The loading controller: how much to recompute given a device, which device given how much (CacheBlend, section 5).

Symbols: `ratio` is the paper's r, `min_ratio` its r* (0.15: below it quality suffers), `prefill_s` its Prefill(LLM, N),
`kv_bytes_per_token` its PerTokenKVSize(LLM), `device.read_bytes_per_s` its Throughput(dev).

Both questions rest on one fact: while the KV of one layer is recomputed, that of the next is loaded, so recomputing is free as
long as it takes no longer than loading, and a device is fast enough as long as loading takes no longer than recomputing.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from common.errors import ConfigError
from common.hardware import DeviceProfile

MIN_RATIO = 0.15
"""The paper's r*: the least ratio at which the loss of quality is negligible."""


class RecomputeTime(Protocol):
    """Time to recompute a share of the reused tokens, as a function of the share."""

    def seconds(self, ratio: float) -> float:
        """Time at a ratio in [0, 1]; grows with it."""
        ...

    def ratio(self, seconds: float) -> float:
        """The largest ratio in [0, 1] that takes no longer; 0 if none does."""
        ...


@dataclasses.dataclass(frozen=True)
class ProportionalTime:
    """The paper's form: T(r) = r * Prefill.

    Attributes:
        prefill_s: time of a full prefill of the same length.
    """

    prefill_s: float

    def seconds(self, ratio: float) -> float:
        return ratio * self.prefill_s

    def ratio(self, seconds: float) -> float:
        return min(1.0, max(0.0, seconds / self.prefill_s))


@dataclasses.dataclass(frozen=True)
class LayerwiseTime:
    """Our form: layer 0 computes every token, and the question is computed at every layer (inferred).

        T(r) = offset + scale * Prefill * (1 + (L - 1) * min(1, r * (1 - q) + q)) / L

    Attributes:
        prefill_s: time of a full prefill of the same length.
        num_layers: L.
        question_share: q, the share of the prompt that is never reused.
        scale, offset_s: what `fit` finds; 1 and 0 count operations alone.
    """

    prefill_s: float
    num_layers: int
    question_share: float = 0.0
    scale: float = 1.0
    offset_s: float = 0.0

    def seconds(self, ratio: float) -> float:
        return self.offset_s + self.scale * self.prefill_s * self._share(ratio)

    def ratio(self, seconds: float) -> float:
        low, high = self.seconds(0.0), self.seconds(1.0)
        if high <= low:
            return 1.0 if seconds >= low else 0.0
        return min(1.0, max(0.0, (seconds - low) / (high - low)))

    def _share(self, ratio: float) -> float:
        per_layer = ratio * (1 - self.question_share) + self.question_share
        return (1 + (self.num_layers - 1) * per_layer) / self.num_layers

    def fit(self, ratios: Sequence[float], seconds: Sequence[float]) -> "LayerwiseTime":
        """The same form with `scale` and `offset_s` fitted to measured times by least squares of relative errors.

        One measurement fits the scale alone; so does a fit whose slope would not be positive.

        Raises:
            ConfigError: no measurements, as many ratios as times are needed, or a time that is not positive.
        """
        if not len(ratios) or len(ratios) != len(seconds) or min(seconds) <= 0:
            raise ConfigError(
                f"{len(ratios)} ratios and {len(seconds)} times > 0 cannot be fitted; give one time per ratio."
            )
        measured = np.array(seconds, dtype=float)
        share = self.prefill_s * np.array([self._share(ratio) for ratio in ratios])
        if np.ptp(share) > 0:
            columns = np.stack([share / measured, 1 / measured], axis=1)
            scale, offset_s = np.linalg.lstsq(columns, np.ones_like(measured), rcond=None)[0]
            if scale > 0:
                return dataclasses.replace(self, scale=float(scale), offset_s=float(offset_s))
        relative = share / measured
        scale = float(relative.sum() / (relative**2).sum())
        return dataclasses.replace(self, scale=scale, offset_s=0.0)


def kv_bytes_per_token(num_layers: int, num_kv_heads: int, head_dim: int, bytes_per_number: int = 2) -> int:
    """PerTokenKVSize(LLM): keys and values of one token at all layers."""
    return 2 * num_layers * num_kv_heads * head_dim * bytes_per_number


def load_s(num_bytes: float, device: DeviceProfile, reads: int = 0) -> float:
    """T_load = PerTokenKVSize * N / Throughput(dev), plus the device's latency for each of `reads` (the paper has none)."""
    return device.read_s(num_bytes, reads)


def pick_ratio(recompute: RecomputeTime, loading_s: float, min_ratio: float = MIN_RATIO) -> float:
    """The recompute ratio for a device that needs `loading_s`: as much as loading hides, but at least r*.

    Source: CacheBlend, section 5: the r at which T_recompute(r) = T_load, then max(r, r*).
    """
    return max(min_ratio, recompute.ratio(loading_s))


@dataclasses.dataclass(frozen=True)
class Choice:
    """A device that was picked.

    Attributes:
        device: it.
        loading_s, recompute_s: T_load on it, T_recompute(r*).
        cost_usd: C_store of the KV for the duration.
        is_hidden: loading takes no longer than recomputing.
    """

    device: DeviceProfile
    loading_s: float
    recompute_s: float
    cost_usd: float

    @property
    def is_hidden(self) -> bool:
        return self.loading_s <= self.recompute_s


def pick_device(
    recompute: RecomputeTime,
    num_bytes: float,
    devices: Iterable[DeviceProfile],
    duration_s: float = 30 * 86400,
    min_ratio: float = MIN_RATIO,
) -> Choice:
    """The cheapest device whose loading is hidden behind recomputing at r*; if there is none, the fastest (inferred).

    Args:
        recompute: T_recompute.
        num_bytes: KV of the request: PerTokenKVSize * N.
        devices: what there is to choose from.
        duration_s: how long the KV is kept: T of C_store = PerTokenKVSize * N * T * unit_cost(dev).
        min_ratio: r*.

    Raises:
        ConfigError: no devices.

    Source: CacheBlend, section 5.
    """
    recompute_s = recompute.seconds(min_ratio)
    choices = [
        Choice(device, load_s(num_bytes, device), recompute_s, device.keep_usd(num_bytes, duration_s))
        for device in devices
    ]
    if not choices:
        raise ConfigError("there is no device to choose from.")
    hidden = [choice for choice in choices if choice.is_hidden]
    if hidden:
        return min(hidden, key=lambda choice: (choice.cost_usd, choice.loading_s, choice.device.name))
    return min(choices, key=lambda choice: (choice.loading_s, choice.cost_usd, choice.device.name))
