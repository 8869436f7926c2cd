"""Synthetic runs, written through the real RunWriter, for tests of drawing and judging. Never stored as results."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.results import ItemRows, Row, RunIdentity, RunWriter

STYLES = {
    "full_recompute": {"label": "Full recompute", "color": "#444444", "marker": "s"},
    "prefix_caching": {"label": "Prefix caching", "color": "#E69F00", "marker": "^"},
    "full_reuse": {"label": "Full KV reuse", "color": "#D55E00", "marker": "v"},
    "cacheblend": {"label": "CacheBlend", "color": "#0072B2", "marker": "o"},
    "first_k": {"label": "First k", "color": "#009E73", "marker": "D"},
}
MACHINE = {"cpu_model": "Test CPU @ 2 GHz", "cpu_cores": 2, "threads_used": 1}


def write_run(
    root: Path,
    experiment: str,
    items: Mapping[str, Iterable[Row]],
    *,
    seed: int = 0,
    scale: str = "cpu",
    paper: str = "cacheblend",
    styles: Mapping[str, Any] = STYLES,
    inputs: Mapping[str, str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Write one complete run under `root`, and return its record."""
    resolved = {
        "workload": "multi_chunk_qa",
        "model": {"name": "small"},
        "data": {"name": "bundled"},
        "scale": scale,
        "method_args": {"cacheblend": {"ratio": 0.15}},
    }
    identity = RunIdentity(paper, experiment, seed, scale, resolved | settings)
    facts = {
        "command": f"python -m experiments.run +paper={paper}",
        "version": "0.1.0",
        "git": {"commit": "0123456789abcdef", "is_dirty": False},
        "machine": MACHINE,
        "styles": dict(styles),
    }
    with RunWriter(root, identity, facts, force=True) as run:
        for item, rows in items.items():
            run.commit(ItemRows(item, rows))
        return run.complete(wall_s=1.0, inputs=inputs)


def ttft_items(seed: int, num_items: int = 20, methods: Iterable[str] = tuple(STYLES)) -> dict[str, list[Row]]:
    """Items shaped like those of ttft_vs_quality: full recompute right and slow, full reuse fast and often wrong."""
    rng = np.random.default_rng(seed)
    typical = {
        "full_recompute": (1.4, 0.97, 0.0),
        "prefix_caching": (1.2, 0.97, 0.0),
        "full_reuse": (0.1, 0.45, 0.9),
        "cacheblend": (0.35, 0.88, 0.12),
        "first_k": (0.3, 0.6, 0.5),
    }
    items: dict[str, list[Row]] = {}
    for item in range(num_items):
        length = rng.lognormal(0, 0.2)
        items[str(item)] = rows = []
        for method in methods:
            ttft_s, f1, kl = typical[method]
            rows += [
                Row("ttft", ttft_s * length * rng.lognormal(0, 0.03), "s", "measured", method=method),
                Row("f1", float(rng.random() < f1), "1", "measured", method=method),
                Row("kl_to_full", kl * rng.lognormal(0, 0.5), "nat", "measured", method=method),
                Row("recomputed_share", 0.15, "1", "measured", method=method),
            ]
    return items
