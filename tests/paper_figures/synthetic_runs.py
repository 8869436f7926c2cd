"""Synthetic runs, written through the real RunWriter, for tests of drawing and judging. Never stored as results."""

from collections.abc import Iterable, Iterator, Mapping
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


def write_all_cacheblend(root: Path, scale: str = "cpu") -> None:
    """One small run of every experiment of CacheBlend, with the metrics and factors that the real ones have."""
    rng = np.random.default_rng(1)
    families = ("coreference", "single_fact", "comparison")

    def item_name(item: int) -> str:
        return f"{item:04d}-{families[item % 3]}"

    def measured(metric: str, value: float, method: str = "", unit: str = "1", **factors: Any) -> Row:
        return Row(metric, value * rng.lognormal(0, 0.05), unit, "measured", method, factors)

    def judged(method: str, kl: float, f1: float, **factors: Any) -> list[Row]:
        return [
            measured("kl_to_full", kl, method, "nat", **factors),
            Row("f1", float(rng.random() < f1), "1", "measured", method, factors),
        ]

    def write(experiment: str, rows_of: Any, num_items: int = 6, **settings: Any) -> None:
        items = {item_name(item): rows_of() for item in range(num_items)}
        write_run(root, experiment, items, scale=scale, **settings)

    ratios = (0.0, 0.05, 0.15, 0.5, 1.0)
    typical = {"full_recompute": (1.4, 0.0, 0.97), "full_reuse": (0.1, 0.9, 0.4), "cacheblend": (0.35, 0.1, 0.9)}

    def planes(methods: Mapping[str, tuple[float, float, float]]) -> list[Row]:
        return [
            row
            for name, (ttft, kl, f1) in methods.items()
            for row in (measured("ttft", ttft, name, "s"), *judged(name, kl, f1))
        ]

    write("ttft_vs_quality", lambda: planes(typical | {"prefix_caching": (1.2, 0.0, 0.97)}), 12)
    write(
        "mapreduce_baselines", lambda: planes(typical | {"map_reduce": (4.0, 2.0, 0.1), "map_rerank": (2.0, 1.5, 0.5)})
    )
    write(
        "quality_vs_ratio",
        lambda: (
            [
                row
                for name in ("cacheblend", "random")
                for ratio in ratios
                for row in judged(
                    name, 0.5 * (1 - ratio) ** (3 if name == "cacheblend" else 1), 0.5 + ratio / 2, ratio=ratio
                )
            ]
            + judged("full_recompute", 0.0, 0.97)
            + judged("full_reuse", 0.9, 0.4)
        ),
    )
    write(
        "selectors_at_equal_work",
        lambda: [
            row for n in ("cacheblend", "random") for s in (0.3, 0.45) for row in judged(n, 0.3 - s / 2, s, share=s)
        ],
    )
    write(
        "quality_vs_chunks",
        lambda: [
            row
            for name in ("full_recompute", "full_reuse")
            for chunks in (2, 6, 12)
            for row in judged(name, 0.1 * chunks * (name == "full_reuse"), 0.9, num_chunks=chunks)
        ],
    )
    write(
        "mask_effect",
        lambda: [
            row
            for mask in ("absolute", "bottom_right")
            for ratio in (0.05, 0.5)
            for row in judged("cacheblend", (1 - ratio) * (1 + (mask != "absolute")), 0.9, ratio=ratio, mask=mask)
        ],
    )
    write(
        "check_layer_effect",
        lambda: (
            [
                row
                for layer in (1, 2)
                for ratio in (0.05, 0.15)
                for name in ("cacheblend", "random")
                for row in judged(name, (1 - ratio) / layer, 0.9, ratio=ratio, check_layer=layer)
            ]
            + judged("full_recompute", 0.0, 0.97)
            + judged("full_reuse", 0.9, 0.4)
        ),
    )
    write(
        "attention_deviation",
        lambda: [
            measured("attention_deviation", (1 - ratio) ** (4 if name == "cacheblend" else 1), name, ratio=ratio)
            for name in ("cacheblend", "random")
            for ratio in ratios
        ],
    )
    write("rank_correlation", lambda: [measured("rank_correlation", 0.8, layer=layer) for layer in range(1, 7)])
    write(
        "kv_deviation",
        lambda: (
            [
                measured("kv_deviation", 4 * share**6, layer=layer, token_share=share)
                for layer in range(1, 12)
                for share in (0.0, 0.5, 0.9, 1.0)
            ]
            + [measured("top_share", 0.6, layer=layer) for layer in range(1, 12)]
        ),
    )
    write(
        "deviation_by_offset",
        lambda: [
            measured("kv_deviation", 1 + (2 if sink else 3) / (1 + offset), offset_tokens=offset, sink=sink)
            for sink in (True, False)
            for offset in range(12)
        ],
    )
    write(
        "attention_map",
        lambda: (
            [
                measured("attention", 1 / (1 + i - j), variant=variant, query_bin=i, key_bin=j)
                for variant in ("full_recompute", "full_reuse", "cacheblend")
                for i in range(8)
                for j in range(i + 1)
                if variant != "full_reuse" or i // 4 == j // 4
            ]
            + [
                Row("cross_chunk_mass", mass, "1", "measured", factors={"variant": variant})
                for variant, mass in (("full_recompute", 0.5), ("full_reuse", 0.0), ("cacheblend", 0.3))
            ]
        ),
        3,
    )
    long = {"workload": "random_tokens", "model": {"name": "random_8x1024"}}

    def speed() -> list[Row]:
        rows = [measured("ttft", 8.0, "full_recompute", "s"), measured("ttft", 0.4, "full_reuse", "s")]
        rows.append(measured("speedup", 20.0, "full_reuse"))
        for ratio in (0.05, 0.15, 0.5):
            factors = {"ratio": ratio}
            rows.append(measured("ttft", 2 + 7 * ratio, "cacheblend", "s", **factors))
            rows.append(measured("speedup", 8 / (2 + 7 * ratio), "cacheblend", **factors))
            rows.append(Row("speedup_bound", 8 / (1.5 + 7 * ratio), "1", "modelled", "cacheblend", factors))
            rows.append(Row("speedup_formula", 8 / (1 + 7 * ratio), "1", "modelled", "cacheblend", factors))
        return rows

    write("speed_vs_ratio", speed, 5, **long)
    points = [("chunks", count, 600, 1) for count in (3, 6, 9)]
    points += [("length", 6, tokens, 1) for tokens in (300, 600, 900)]
    points += [("batch", 3, 600, batch) for batch in (2, 6, 10)]

    def sized(panel: str, count: int, tokens: int, batch: int) -> Iterator[Row]:
        factors = {"panel": panel, "num_chunks": count, "chunk_tokens": tokens, "batch": batch}
        for name, base in (("full_recompute", 1.0), ("cacheblend", 0.3)):
            seconds = base * count * tokens / 1000
            yield measured("ttft", seconds * (batch + 1) / 2, name, "s", **factors)
            if panel == "batch":
                yield Row("throughput", batch / (seconds * batch), "req/s", "measured", name, factors)

    items = {f"{point[0]}-{point[1:]}-{item:04d}": list(sized(*point)) for point in points for item in range(5)}
    write_run(root, "sensitivity", items, scale=scale, **long | {"workload": ""})


def write_all_cacheblend_storage(root: Path, scale: str = "cpu") -> None:
    """One small run of every experiment of storage and scheduling, with the metrics and factors that the real ones have."""
    rng = np.random.default_rng(2)
    slow, slower = 4 / 7, 16 / 3

    def row(metric: str, value: float, method: str, unit: str = "s", basis: Any = "measured", **factors: Any) -> Row:
        return Row(metric, value * rng.lognormal(0, 0.05), unit, basis, method, factors)

    def write(experiment: str, rows_of: Any, num_items: int = 5) -> None:
        write_run(root, experiment, {f"{item:04d}": rows_of() for item in range(num_items)}, scale=scale)

    def devices() -> list[Row]:
        found = []
        plans = [("full_recompute", "none", 0.0, 0, "fixed", 1.0), ("prefix_caching", "memory", 0.0, 0, "fixed", 0.9)]
        plans += [(name, "memory", 0.0, 0, "fixed", ttft) for name, ttft in (("full_reuse", 0.1), ("cacheblend", 0.3))]
        for device, load, wait in (("disk", 0.0, 0.02), ("throttled", slow, 0.05), ("throttled", slower, 0.6)):
            plans.append(("full_reuse", device, load, 1, "fixed", 0.1 + wait))
            plans.append(("cacheblend", device, load, 1, "fixed", max(0.3, 0.1 + wait)))
            plans.append(("cacheblend", device, load, 0, "fixed", 0.3 + wait))
            if load:
                plans.append(("cacheblend", device, load, 1, "controller", max(0.3, 0.1 + wait)))
        for method, device, load, pipelined, ratio_by, ttft in plans:
            ratio = 0.0 if method != "cacheblend" else 0.15 if ratio_by == "fixed" else rng.uniform(0.2, 0.9)
            factors = {"device": device, "load_over_recompute": load, "pipelined": pipelined, "ratio_by": ratio_by}
            kl = {"full_reuse": 0.9, "cacheblend": 0.1}.get(method, 0.0)
            found.append(row("ttft", ttft, method, ratio=ratio, **factors))
            found.append(row("kl_to_full", kl, method, "nat", ratio=ratio, **factors))
        return found

    write("storage_device", devices)

    def gantt() -> list[Row]:
        found = []
        for load, read_s in ((slow, 0.02), (slower, 0.15)):
            for depth in ("0", "2", "all"):
                factors = {"load_over_recompute": load, "depth": depth}
                now = 0.0
                for layer in range(4):
                    compute_s = 0.1 if layer == 0 else 0.04
                    loader = {"lane": "loader", "phase": "read", "layer": layer, "begin_s": layer * read_s}
                    begin = max(now, (layer + 1) * read_s)
                    if begin > now:
                        waiting = {"lane": "compute", "phase": "wait", "layer": layer, "begin_s": now}
                        found.append(row("span", begin - now, "cacheblend", **factors, **waiting))
                    where = {"lane": "compute", "phase": "recompute", "layer": layer, "begin_s": begin}
                    found.append(row("span", compute_s, "cacheblend", **factors, **where))
                    if depth != "0":
                        found.append(row("span", read_s, "cacheblend", **factors, **loader))
                    now = begin + compute_s
                found.append(row("ttft", now * 1.03, "cacheblend", **factors))
                found.append(row("ttft_recurrence", now, "cacheblend", basis="modelled", **factors))
                found.append(row("ttft_bound", 0.9 * now, "cacheblend", basis="modelled", **factors))
        return found

    write("pipeline_gantt", gantt)
    write(
        "ttft_breakdown",
        lambda: [
            row("phase_time", seconds, method, load_over_recompute=load, phase=phase)
            for method, phases in (
                ("full_recompute", {"layer_0": 0.2, "recompute": 0.8, "head": 0.02}),
                (
                    "cacheblend",
                    {"open": 0.01, "load": 0.03, "shift": 0.01, "layer_0": 0.2, "select": 0.02, "recompute": 0.1},
                ),
            )
            for load in (0.0, slow, slower)
            for phase, seconds in (phases | ({"wait": 0.1 * load} if load and method == "cacheblend" else {})).items()
        ],
    )

    def controller() -> list[Row]:
        found = [row("prefill_time", 1.0, "full_recompute")]
        for ratio in (0.05, 0.15, 0.5, 1.0):
            found.append(row("recompute_time", 0.2 + 0.85 * ratio, "cacheblend", ratio=ratio, form="none"))
            for form, value in (("paper", ratio), ("layerwise", 0.18 + 0.85 * ratio)):
                found.append(row("recompute_time", value, "cacheblend", basis="modelled", ratio=ratio, form=form))
        for load in (0.25, slow, 1.0, 2.0, slower):
            found.append(row("load_time", 0.15 * load, "", basis="modelled", load_over_recompute=load))
            for form, picked in (("paper", max(0.15, 0.15 * load)), ("layerwise", max(0.15, 0.15 * load - 0.2))):
                factors = {"load_over_recompute": load, "form": form}
                found.append(Row("picked_ratio", picked, "1", "modelled", "cacheblend", factors))
        for form in ("paper", "layerwise"):
            for device, load_s, cost, picked in (
                ("ram", 0.001, 3.0, 0),
                ("nvme_ssd", 0.02, 0.1, 0),
                ("disk", 0.2, 0.01, 1),
            ):
                factors = {"device": device, "form": form}
                found.append(Row("device_load_time", load_s, "s", "modelled", "", factors))
                found.append(Row("device_cost", cost, "USD", "modelled", "", factors))
                found.append(Row("is_picked", float(picked), "1", "modelled", "", factors))
        return found

    write("loading_controller", controller)

    def load() -> list[Row]:
        found = []
        rate = rng.uniform(0.9, 1.1)
        for method, service_s in (("full_recompute", 1.0), ("prefix_caching", 0.9), ("cacheblend", 0.35)):
            for relative in (0.2, 0.6, 1.0, 2.0, 4.0):
                factors = {"relative_rate": relative, "rate_rps": relative * rate}
                busy = relative * service_s
                wait = service_s * busy / (1 - busy) / 2 if busy < 0.97 else 200 * busy
                found.append(row("mean_ttft", service_s + wait, method, basis="simulated", **factors))
                found.append(row("p99_ttft", service_s + 4 * wait, method, basis="simulated", **factors))
            found.append(row("capacity", 0.7 / service_s, method, "req/s", "simulated"))
            found.append(row("service_time", service_s, method, memory=3, disk=2, missed=1))
        return found

    write("ttft_vs_rate", load)
