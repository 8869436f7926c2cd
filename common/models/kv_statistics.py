"""Statistics of a bundled model's KV that the papers rely on, measured on held-out texts.

    python -m common.models.kv_statistics size=small             print them
    python -m common.models.kv_statistics size=small write=true  also write kv_statistics.json and .png beside the weights

Options: size=small|base, path=FOLDER (instead of size), num_items=40, num_chunks=6, seed=2000, threads=1, write=false.

- Token-wise locality (CacheGen): variance of a value over the variance of its change to the next token, per layer, for K and V.
  Uncorrelated tokens give 0.5; above 1 coding differences pays.
- Spread between channels (CacheGen): largest over median standard deviation of a layer's channels.
- Heavy tail of the KV deviation under full reuse (CacheBlend): share of a layer's total deviation that its top 15 % of tokens
  carry.
- Agreement of neighbouring layers (CacheBlend): Spearman rank correlation of the tokens' deviations at layer i and i + 1.
"""

import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from common.data.synthetic import generate
from common.errors import ConfigError, DataUnavailable
from common.models.gates import BUNDLED, load_bundled

# L layers, T tokens, C channels (kv heads x head dimension)

TOP_SHARE = 0.15


@dataclasses.dataclass(frozen=True)
class Options:
    """The command's options; see the module's docstring."""

    size: str = "small"
    path: str = ""
    num_items: int = 40
    num_chunks: int = 6
    seed: int = 2000
    threads: int = 1
    write: bool = False


def locality(values_LTC: np.ndarray) -> np.ndarray:
    """Variance of a channel over the variance of its change from token to token; mean over channels, (L,).

    Channels that never change are left out.
    """
    variance_LC = values_LTC.var(axis=1)
    change_LC = np.diff(values_LTC, axis=1).var(axis=1)
    ratio_LC = np.divide(variance_LC, change_LC, out=np.full_like(variance_LC, np.nan), where=change_LC > 0)
    return np.asarray(np.nanmean(ratio_LC, axis=1))


def channel_spread(values_LTC: np.ndarray) -> np.ndarray:
    """Largest over median standard deviation among a layer's channels, (L,)."""
    deviation_LC = values_LTC.std(axis=1)
    return np.asarray(deviation_LC.max(axis=1) / np.median(deviation_LC, axis=1))


def top_share(deviation_LT: np.ndarray, share: float = TOP_SHARE) -> np.ndarray:
    """Part of each layer's total deviation that its `share` most deviating tokens carry, (L,); 0 where there is none."""
    count = max(1, round(share * deviation_LT.shape[1]))
    total_L = deviation_LT.sum(axis=1)
    top_L = np.sort(deviation_LT, axis=1)[:, -count:].sum(axis=1)
    return np.divide(top_L, total_L, out=np.zeros_like(total_L), where=total_L > 0)


def rank_agreement(deviation_LT: np.ndarray) -> np.ndarray:
    """Spearman correlation of neighbouring layers' deviations, (L-1,); 0 where a layer's deviations are all equal."""
    ranks_LT = np.argsort(np.argsort(deviation_LT, axis=1), axis=1).astype(float)
    agreement = []
    for one, other in itertools.pairwise(ranks_LT):
        agreement.append(float(np.corrcoef(one, other)[0, 1]))
    flat = np.ptp(deviation_LT, axis=1) == 0
    return np.where(flat[:-1] | flat[1:], 0.0, np.array(agreement))


def measure(model: Any, tokenizer: Any, num_items: int, num_chunks: int, seed: int) -> dict[str, Any]:
    """All statistics, averaged over items of cross-chunk references in held-out wordings."""
    from common.models.gates_scoring import full_kv, prompt_of, reused_kv

    found: dict[str, list[np.ndarray]] = {}
    for item in generate("coreference", "test", seed, num_items, num_chunks=num_chunks):
        prompt = prompt_of(tokenizer, item)
        full, reused = full_kv(model, prompt), reused_kv(model, prompt, with_bos=True)
        first = prompt.starts[1]  # the first chunk's reused KV is exact
        parts: dict[str, Any] = {}
        for i, name in enumerate(("k", "v")):
            stacked = np.stack([layer[i][0].permute(1, 0, 2).flatten(1).numpy() for layer in full])
            again = np.stack([layer[i][0].permute(1, 0, 2).flatten(1).numpy() for layer in reused])
            parts[name] = np.linalg.norm(stacked - again, axis=2)[:, first:]
            # BOS is a token like no other and would dominate the variance.
            found.setdefault(f"locality_{name}", []).append(locality(stacked[:, 1:]))
            found.setdefault(f"channel_spread_{name}", []).append(channel_spread(stacked[:, 1:]))
        found.setdefault("top_share_v", []).append(top_share(parts["v"]))
        found.setdefault("top_share_k", []).append(top_share(parts["k"]))
        # Layer 0 has no deviation: its keys and values depend on the token alone.
        found.setdefault("rank_agreement_v", []).append(rank_agreement(parts["v"][1:]))
        found.setdefault("mean_deviation_v", []).append(parts["v"].mean(axis=1))
    means = {name: [round(float(x), 3) for x in np.mean(values, axis=0)] for name, values in found.items()}
    return {
        "num_items": num_items,
        "num_chunks": num_chunks,
        "seed": seed,
        "split": "test",
        "top_share_of_tokens": TOP_SHARE,
        "per_layer": means,
    }


def draw(statistics: dict[str, Any], path: Path) -> None:
    """The four statistics by layer, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    layers = statistics["per_layer"]
    figure, axes = plt.subplots(1, 4, figsize=(13, 3), layout="constrained")
    for name, style in (("k", "o-"), ("v", "s-")):
        axes[0].plot(layers[f"locality_{name}"], style, label=name.upper())
        axes[1].plot(layers[f"channel_spread_{name}"], style, label=name.upper())
        axes[2].plot(
            range(1, len(layers[f"top_share_{name}"])), layers[f"top_share_{name}"][1:], style, label=name.upper()
        )
    axes[0].axhline(0.5, color="grey", linestyle=":", label="uncorrelated tokens")
    axes[2].axhline(TOP_SHARE, color="grey", linestyle=":", label="all tokens alike")
    axes[3].plot(range(1, len(layers["rank_agreement_v"]) + 1), layers["rank_agreement_v"], "s-", label="V")
    titles = (
        "variance / variance of change",
        "channel spread (max / median std)",
        f"share of deviation in top {TOP_SHARE:.0%} of tokens",
        "rank correlation of layers i, i+1",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("layer")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """Command line; returns the exit status."""
    import torch

    from common.models.train import parse_options

    options: Options = parse_options(arguments, Options)
    torch.set_num_threads(options.threads)
    model, tokenizer = load_bundled(options.size, options.path)
    statistics = measure(model, tokenizer, options.num_items, options.num_chunks, options.seed)
    print(json.dumps(statistics, indent=1))
    if options.write:
        folder = Path(options.path) if options.path else BUNDLED / options.size
        (folder / "kv_statistics.json").write_text(json.dumps(statistics, indent=1) + "\n")
        draw(statistics, folder / "kv_statistics.png")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ConfigError, DataUnavailable) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
