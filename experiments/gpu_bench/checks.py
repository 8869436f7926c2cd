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


def the_engine_says_what_the_model_says(model: str, device: str) -> str:
    """Prompts batched by the serving engine get the log-probabilities of plain forward passes. Returns one line; raises
    ResultsError."""
    import time

    from common.serving.api import Call
    from common.serving.in_process import TransformersEngine

    loaded = _model(model, device)
    rng = for_component(0, "gpu check")
    prompts = [tuple(rng.integers(0, 999, length).tolist()) for length in (5, 40, 23, 64)]
    ours, reference = [], []
    with TransformersEngine(loaded, time.monotonic, None, pool_tokens=2048, max_batch_tokens=256) as engine:
        handles = [engine.submit(Call(prompt, 1)) for prompt in prompts]
        engine.run()
        said = [handle.completion for handle in handles]
    for prompt, completion in zip(prompts, said, strict=True):
        if completion is None or completion.error is not None:
            raise ResultsError(f"the engine failed a call of {len(prompt)} tokens; nothing was timed.")
        with torch.no_grad():
            logits = loaded.model(torch.tensor([prompt], device=loaded.device)).logits[0, -1]
        ours.append(completion.logprobs[0])
        reference.append(float(logits.float().log_softmax(-1)[completion.tokens[0]]))
    return _compare(
        "log-probabilities of the engine against plain forward passes",
        torch.tensor(ours),
        torch.tensor(reference),
        _tolerance(loaded),
    )


def both_ends_decode_the_same_frame(_model_name: str, device: str) -> str:
    """GRACE's full-size codec: the decoder rebuilds from packets what the encoder has, here and on the CPU. Returns one line;
    raises ResultsError."""
    from experiments.gpu_bench.networks import SMALL, frame_pair
    from grace.codec import NeuralCodec
    from grace.dvc import DvcCodec, untrained_scales

    torch.manual_seed(0)
    network = DvcCodec()
    frame, reference = frame_pair(SMALL)
    here = NeuralCodec(network, *untrained_scales(network), device=device)
    coded = here.encode(frame, reference, 0)
    packets = here.packets(coded.latents, 4)
    decoded = here.decode(here.read(packets).latents, reference)
    first = _compare("decoded frame against the encoder's", _image(decoded), _image(coded.reconstruction), 1e-6)
    twin = DvcCodec()
    twin.load_state_dict({name: value.cpu() for name, value in network.state_dict().items()})
    on_cpu = NeuralCodec(twin, *untrained_scales(twin), device="cpu")
    # Convolutions in TF32 keep ten bits; pixels are whole numbers.
    return (
        first
        + "; "
        + _compare("and a CPU's", _image(decoded), _image(on_cpu.decode(on_cpu.read(packets).latents, reference)), 1e-2)
    )


def _image(frame: object) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.asarray(frame, dtype=np.float32))


def batches_and_fusing_change_nothing(_model_name: str, device: str) -> str:
    """AccModel with its normalisation folded in, and the detector, on a batch here, against the plain networks frame by frame on
    the CPU. Returns one line; raises ResultsError."""
    from accmpeg.accmodel import AccModel, AccModelSettings
    from common.models.vision.sources import load_street_net
    from experiments.gpu_bench.networks import SMALL

    torch.manual_seed(0)
    plain = AccModel(AccModelSettings()).eval()
    for module in plain.modules():  # statistics that are not the identity, so that folding them in does something
        if (
            isinstance(module, torch.nn.BatchNorm2d)
            and module.running_mean is not None
            and module.running_var is not None
        ):
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    images = torch.rand(3, 3, *SMALL)
    detector, _ = load_street_net("street")
    with torch.inference_mode():
        alone = torch.cat([plain(image[None]) for image in images])
        found = torch.cat([detector.detection_head(detector.trunk(image[None])[1])[0] for image in images])
        batch = images.to(device)
        ours = plain.fused().to(device)(batch).cpu()
        moved = detector.to(device)
        ours_found = moved.detection_head(moved.trunk(batch)[1])[0].cpu()
    tolerance = 1e-2 if device.startswith("cuda") else 1e-4  # TF32 keeps ten bits
    return (
        _compare("AccModel, fused and in a batch, against frame by frame", ours, alone, tolerance)
        + "; "
        + _compare("the detector's heat map", ours_found, found, tolerance)
    )
