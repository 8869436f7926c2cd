"""Before anything is timed: does the device compute what the reference says?"""

import torch

from common.errors import ResultsError
from common.kv import KVCache, from_transformers
from common.models.loading import LoadedModel, ModelSpec, load
from common.rng import for_component


def _model(name: str, device: str) -> LoadedModel:
    dtype = "bfloat16" if device.startswith("cuda") else "float32"
    return load(ModelSpec(name, "random", dtype=dtype, device=device))


def _tolerance(loaded: LoadedModel) -> float:
    # Two orders of summation in bfloat16 differ by some units of its 8-bit mantissa; in fp32 by next to nothing.
    return 0.05 if loaded.dtype == torch.bfloat16 else 1e-4


def _compare(what: str, ours: torch.Tensor, reference: torch.Tensor, tolerance: float) -> str:
    error = float((ours.float() - reference.float()).norm() / reference.float().norm())
    if not error <= tolerance:
        raise ResultsError(f"{what}: relative error {error:.3g} is above {tolerance:g}; nothing was timed.")
    return f"{what}: relative error {error:.2g} (at most {tolerance:g})"


def blending_everything_is_a_prefill(model: str, device: str) -> str:
    """CacheBlend at r = 1 gives the logits of transformers' own forward pass. Returns one line; raises ResultsError."""
    from cacheblend.api import Request
    from cacheblend.blend import BlendPlan
    from cacheblend.engine import Engine

    loaded = _model(model, device)
    rng = for_component(0, "gpu check")
    chunks = tuple(tuple(chunk) for chunk in rng.integers(0, 999, (4, 64)).tolist())
    request = Request(chunks, tuple(rng.integers(0, 999, 16).tolist()))
    engine = Engine(loaded)
    engine.precompute(request)
    logits = engine.blend(request, BlendPlan(ratio=1.0)).logits_V
    ids = [*engine.bos, *(token for chunk in chunks for token in chunk), *request.question]
    with torch.no_grad():
        reference = loaded.model(torch.tensor([ids], device=loaded.device)).logits[0, -1]
    return _compare(
        "blend at r = 1 against a plain forward pass", logits.to(reference.device), reference, _tolerance(loaded)
    )


def a_decoded_cache_is_what_was_quantised(model: str, device: str) -> str:
    """CacheGen's bitstream decodes to the same cache here and on the CPU. Returns one line; raises ResultsError."""
    from cachegen.codec import Codec
    from cachegen.profile import build_profile
    from cachegen.settings import PAPER

    loaded = _model(model, device)
    rng = for_component(0, "gpu check")

    def cache(num_tokens: int) -> KVCache:
        ids = torch.tensor([rng.integers(0, 999, num_tokens).tolist()], device=loaded.device)
        with torch.no_grad():
            return from_transformers(loaded.model(ids, use_cache=True).past_key_values).to(
                device="cpu", dtype=torch.float32
            )

    samples = [cache(128) for _ in range(2)]
    profile = build_profile(lambda: samples, PAPER, model=model)
    context = cache(200)
    data = Codec(profile).encode(context, level="1")
    there = Codec(profile, backend="torch", device=device).decode(data)
    here = Codec(profile).decode(data)
    line = _compare("keys decoded on the device against the CPU", there.keys_LHTD.cpu(), here.keys_LHTD, 1e-6)
    return f"{line}; " + _compare("values", there.values_LHTD.cpu(), here.values_LHTD, 1e-6)


def steered_attention_is_the_oracle(model: str, device: str) -> str:
    """LLMSteer's bias route equals multiplying attention weights and normalising again. Returns one line; raises ResultsError."""
    from torch.nn import functional

    generator = torch.Generator().manual_seed(0)
    dtype = torch.float32
    q, k, v = (torch.randn(1, 4, 64, 32, generator=generator).to(device, dtype) for _ in range(3))
    gain = torch.where(torch.rand(64, generator=generator) < 0.2, 5.0, 1.0).to(device, dtype)
    mask = torch.ones(64, 64, dtype=torch.bool, device=device).tril()
    weights = (q @ k.transpose(-1, -2) / 32**0.5).masked_fill(~mask, float("-inf")).softmax(-1) * gain
    reference = (weights / weights.sum(-1, keepdim=True)) @ v
    bias = gain.log()[None].expand(64, 64).masked_fill(~mask, float("-inf"))
    ours = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return _compare("attention steered by a bias against the oracle", ours, reference, 1e-4)
