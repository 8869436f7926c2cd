"""Rates of whole networks on a device, each beside the bound of its operations or bytes.

    ratio = measured time / bound, >= 1        bound = operations / rate of large matrix products, or bytes / rate of copies

Weights are random (or the bundled small ones): time does not depend on what they are, and no quality is claimed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from common.models.loading import ModelSpec, load
from common.results import Row
from common.rng import for_component
from experiments.gpu_bench.bounds import matmul_rate, read_rate, seconds

HD = (720, 1280)
SMALL = (128, 192)


def operations(run: Callable[[], object]) -> int:
    """Multiplications and additions of the matrix products and convolutions in a piece of work."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def frame_pair(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two frames (H, W, 3), uint8: smooth noise, and the same moved by two pixels."""
    coarse = for_component(0, "gpu bench frames").integers(0, 256, (size[0] // 16 + 2, size[1] // 16 + 2, 3))
    image = np.kron(coarse, np.ones((16, 16, 1)))[: size[0] + 2, : size[1] + 2].astype(np.uint8)
    return np.ascontiguousarray(image[2:, 2:]), np.ascontiguousarray(image[:-2, :-2])


def _timed(
    name: str, run: Callable[[], object], device: str, factors: dict[str, Any], rate: float, frames: int, repeats: int
) -> Iterator[Row]:
    """Time, rate and the ratio to the bound of its operations."""
    took_s = seconds(run, device, repeats)
    bound_s = operations(run) / rate
    own = factors | {"step": name}
    yield Row("step_time", took_s, "s", "measured", "network", own)
    yield Row("rate", frames / took_s, "frames/s", "measured", "network", own)
    yield Row("time_over_bound", took_s / bound_s, "1", "measured", "network", own)


def grace(device: str, *, is_tiny: bool = False) -> Iterator[Row]:
    """DVC, GRACE's full-size codec, at 720p: a whole frame (transfers and entropy coder too), and its networks alone."""
    from grace.codec import NeuralCodec
    from grace.dvc import DvcCodec, untrained_scales

    torch.manual_seed(0)
    network = DvcCodec()
    codec = NeuralCodec(network, *untrained_scales(network), device=device)
    size = SMALL if is_tiny else HD
    frame, reference = frame_pair(size)
    repeats, num_packets = (1, 4) if is_tiny else (5, 8)
    rate = matmul_rate(device, torch.float32, is_tiny=is_tiny)
    factors = {"height": size[0], "width": size[1], "dtype": "float32"}
    coded = codec.encode(frame, reference, 0)
    packets = codec.packets(coded.latents, num_packets)

    def encode() -> None:
        codec.packets(codec.encode(frame, reference, 0).latents, num_packets)

    def decode() -> None:
        codec.decode(codec.read(packets).latents, reference)

    yield from _timed("encode, whole", encode, device, factors, rate, 1, repeats)
    yield from _timed("decode, whole", decode, device, factors, rate, 1, repeats)
    level = torch.zeros(1, dtype=torch.long, device=device)
    padded = [-(-side // 64) * 64 for side in size]
    now, before = (torch.rand(1, 3, *padded, device=device) for _ in range(2))

    @torch.inference_mode()
    def networks(*, is_decoder: bool) -> None:
        if not is_decoder:
            flow = network.estimate_flow(now, before)
            motion = torch.round(network.encode_motion(flow, level))
        else:
            motion = torch.zeros(1, 128, padded[0] // 16, padded[1] // 16, device=device)
        prediction, _ = network.predict(before, network.decode_motion(motion, level))
        if is_decoder:
            residual = torch.zeros(1, 96, padded[0] // 16, padded[1] // 16, device=device)
        else:
            residual = torch.round(network.encode_residual(now - prediction, level))
            network.residual_scales(residual)
        network.decode_residual(residual, level, prediction)

    for step, is_decoder in (("encode, networks", False), ("decode, networks", True)):

        def run(is_decoder: bool = is_decoder) -> None:
            networks(is_decoder=is_decoder)

        yield from _timed(step, run, device, factors, rate, 1, repeats)


def vision(device: str, *, is_tiny: bool = False) -> Iterator[Row]:
    """AccModel (AccMPEG's camera side) and the bundled detector (the server side of AccMPEG and OneAdapt) at 720p, by batch."""
    from accmpeg.accmodel import AccModel, AccModelSettings
    from common.models.vision.sources import load_street_net

    torch.manual_seed(0)
    size = SMALL if is_tiny else HD
    rate = matmul_rate(device, torch.float32, is_tiny=is_tiny)
    accmodel = AccModel(AccModelSettings()).fused().to(device)
    detector, _ = load_street_net("street")
    detector = detector.to(device).eval()

    @torch.inference_mode()
    def detect(images: torch.Tensor) -> None:
        detector.detection_head(detector.trunk(images)[1])

    @torch.inference_mode()
    def predict(images: torch.Tensor) -> None:
        accmodel(images)

    for batch in (1, 2) if is_tiny else (1, 8, 32):
        images = torch.rand(batch, 3, *size, device=device)
        factors = {"height": size[0], "width": size[1], "dtype": "float32", "batch": batch}
        for step, network in (("AccModel", predict), ("detector", detect)):

            def run(network: Callable[[torch.Tensor], None] = network, images: torch.Tensor = images) -> None:
                network(images)

            yield from _timed(step, run, device, factors, rate, batch, 2 if is_tiny else 20)


def ragserve(model: str, device: str, *, is_tiny: bool = False) -> Iterator[Row]:
    """Iterations of the serving engine beside their bounds: a full prompt (operations), one decoding step (weights read)."""
    import time

    from common.serving.calibration import Batch, time_batches
    from common.serving.in_process import TransformersEngine

    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    loaded = load(ModelSpec(model, "random", dtype=str(dtype).removeprefix("torch."), device=device))
    budget, context, pool = (64, 64, 2048) if is_tiny else (2048, 2048, 65536)
    prompt, one, many = Batch(budget), Batch(0, 0, 1, context), Batch(0, 0, 16, context)
    with TransformersEngine(loaded, time.perf_counter, None, pool_tokens=pool, max_batch_tokens=budget) as engine:
        times = time_batches(engine, [prompt, one, many], time.perf_counter, 9)
    embedding = loaded.model.get_input_embeddings().weight.numel()
    numbers = sum(parameter.numel() for parameter in loaded.model.parameters()) - embedding
    flops_rate, bytes_rate = matmul_rate(device, dtype, is_tiny=is_tiny), read_rate(device, is_tiny=is_tiny)
    weights = numbers * loaded.model.get_input_embeddings().weight.element_size()
    for batch, bound in (
        (prompt, "operations"),
        (one, "bytes"),
        (many, "bytes"),
    ):
        took_s = float(np.median(times[batch]))
        kv_bytes = batch.kv_tokens * loaded.kv_bytes_per_token
        bound_s = max(2 * numbers * batch.tokens / flops_rate, (weights + kv_bytes) / bytes_rate)
        factors = {"new": batch.new, "num_decode": batch.num_decode, "context": batch.context, "bound": bound}
        yield Row("iteration_time", took_s, "s", "measured", "engine", factors)
        yield Row("time_over_bound", took_s / bound_s, "1", "measured", "engine", factors)
