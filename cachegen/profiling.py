"""Making profiles from a model and sample contexts: layer sensitivity, then `build_profile`."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cachegen.api import Context
from cachegen.engine import Engine
from cachegen.profile import Profile, build_profile, load, save
from cachegen.settings import Settings
from common.errors import ConfigError
from common.kv import KVCache
from common.results import sha256_of
from common.rope import Rope


def kl_divergence(reference_TV: Tensor, other_TV: Tensor) -> float:
    """Mean over positions of KL(reference || other), in nat, from scores."""
    log_p, log_q = (scores.double().log_softmax(-1) for scores in (reference_TV, other_TV))
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean().clamp(min=0))


def noisy(kv: KVCache, layers: Sequence[int], which: int | None, share: float, rng: np.random.Generator) -> KVCache:
    """The cache with Gaussian noise of `share` standard deviations (of that layer's keys or values) on some layers.

    Args:
        which: 0 for keys, 1 for values, None for both.
    """
    keys, values = kv.keys_LHTD.clone(), kv.values_LHTD.clone()
    for index, tensor in enumerate((keys, values)):
        if which is None or which == index:
            for layer in layers:
                noise = torch.from_numpy(rng.standard_normal(tuple(tensor[layer].shape), dtype=np.float32))
                tensor[layer] += (noise.to(tensor.device) * float(tensor[layer].float().std()) * share).to(tensor.dtype)
    return KVCache(keys, values, kv.positions_T, kv.is_rotated)


def layer_sensitivity(
    engine: Engine, contexts: Sequence[Context], rng: np.random.Generator, share: float = 0.3
) -> NDArray[np.float64]:
    """How much noise in each layer's keys and values moves the answer: KL per unit of noise variance, (L, 2).

    Args:
        contexts: with questions; KL is taken at the question's last token, where the answer begins, and averaged.
        rng: of the noise.
        share: noise in standard deviations; small, so that KL grows with its square.
    """
    first = contexts[0].kv
    total = np.zeros((first.num_layers, 2))
    for context in contexts:
        question = context.question or context.ids[-8:]
        clean = engine.logits_after(context.kv, question, 1)
        for layer in range(first.num_layers):
            for which in (0, 1):
                changed = noisy(context.kv, [layer], which, share, rng)
                sigma = float(context.kv.layer(layer)[which].float().std())
                kl = kl_divergence(clean, engine.logits_after(changed, question, 1))
                total[layer, which] += kl / (share * sigma) ** 2
    return np.maximum(total / len(contexts), 1e-12)


def profile_model(
    engine: Engine,
    sample: Sequence[Context],
    settings: Settings,
    rng: np.random.Generator,
    *,
    chunk_tokens: int = 1500,
    num_sensitivity_contexts: int = 12,
) -> Profile:
    """A profile of the engine's model.

    Args:
        sample: contexts as they will be used, never those that will be coded.
        settings: the variant of the codec.
        rng: of the noise that measures sensitivity.
        chunk_tokens: contexts are cut into chunks of this many tokens, as they will be coded.
        num_sensitivity_contexts: how many of the sample are used for the sensitivity, if the settings need it.
    """
    chunks = [chunk for context in sample for chunk in cut(context.kv, chunk_tokens)]
    sensitivity_LK = None
    if settings.is_sensitive:
        sensitivity_LK = layer_sensitivity(engine, sample[:num_sensitivity_contexts], rng)
    return build_profile(
        lambda: chunks,
        settings,
        model=engine.loaded.fingerprint,
        rotation=Rope.of(engine.loaded.model) if settings.unrotates else None,
        sensitivity_LK=sensitivity_LK,
    )


def cut(kv: KVCache, chunk_tokens: int) -> list[KVCache]:
    """A cache as chunks of at most `chunk_tokens` tokens. Slices of one prefill: positions and attention stay right.

    Raises:
        ConfigError: no tokens per chunk.
    """
    if chunk_tokens < 1:
        raise ConfigError(f"chunk_tokens={chunk_tokens} must be 1 or more.")
    return [kv.slice(start, start + chunk_tokens) for start in range(0, kv.num_tokens, chunk_tokens)]


def cached_profile(
    folder: Path,
    engine: Engine,
    sample: Sequence[Context],
    settings: Settings,
    rng: np.random.Generator,
    chunk_tokens: int,
) -> Profile:
    """`profile_model`, kept in a folder under a name made of everything that it depends on."""
    key = sha256_of(
        {
            "model": engine.loaded.fingerprint,
            "dtype": engine.kv_dtype,
            "settings": json.loads(json.dumps(settings.to_json())),
            "chunk_tokens": chunk_tokens,
            "sample": [[*context.ids, -1, *context.question] for context in sample],
        }
    )
    path = folder / "cachegen" / f"profile-{key[:24]}.safetensors"
    if path.is_file():
        return load(path)
    profile = profile_model(engine, sample, settings, rng, chunk_tokens=chunk_tokens)
    save(profile, path)
    return profile
