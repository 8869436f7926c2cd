"""What a device can do, measured: the bounds that results stand beside."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from common.results import Row
from common.timing import measure


def seconds(run: Callable[[], object], device: str, repeats: int = 20) -> float:
    """Median time of a piece of work; on a GPU by device events, so that launching it is not part of it."""
    if not device.startswith("cuda"):
        return measure(run, warmup=1, repeats=repeats).median_s
    times = []
    for index in range(repeats + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        if index >= 3:  # the first ones choose kernels and fill caches
            times.append(start.elapsed_time(end) / 1e3)
    return float(torch.tensor(times).median())


def matmul_rate(device: str, dtype: torch.dtype, *, is_tiny: bool = False) -> float:
    """Operations per second of a large matrix product; float32 on a GPU in TF32, as its convolutions are computed."""
    size = 256 if is_tiny else 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return 2 * size**3 / seconds(lambda: a @ b, device, 5)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def read_rate(device: str, *, is_tiny: bool = False) -> float:
    """Bytes per second that a sum over a large tensor reads: what bounds a decoding step, which reads every weight once."""
    data = torch.ones((1 << 18) if is_tiny else (1 << 30), dtype=torch.float32, device=device)
    return 4 * data.numel() / seconds(lambda: data.sum(), device, 5)


def rows(device: str, *, is_tiny: bool = False) -> Iterator[Row]:
    """Rates of the device: matrix products in bfloat16 [1/s], copies and transfers [B/s], a file read [B/s].

    Args:
        device: "cpu" or a CUDA device.
        is_tiny: small inputs, to see that it runs.
    """
    size = 256 if is_tiny else 8192
    num_bytes = (1 << 20) if is_tiny else (1 << 30)
    factors: dict[str, Any] = {"device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"}
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    flops = 2 * size**3
    yield Row("matmul_bf16_rate", flops / seconds(lambda: a @ b, device), "1/s", "measured", "bounds", factors)
    # As tall as the rows that CacheBlend recomputes at 15 % of 4,096 tokens: small matrices do not reach the rate of large ones.
    thin = torch.randn(64 if is_tiny else 640, size, device=device, dtype=torch.bfloat16)
    thin_flops = 2 * thin.shape[0] * size**2
    yield Row(
        "matmul_bf16_thin_rate", thin_flops / seconds(lambda: thin @ b, device), "1/s", "measured", "bounds", factors
    )
    source = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    # A copy reads and writes.
    yield Row(
        "copy_rate", 2 * num_bytes / seconds(lambda: target.copy_(source), device), "B/s", "measured", "bounds", factors
    )
    if device.startswith("cuda"):
        pinned = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        load_s = seconds(lambda: target.copy_(pinned, non_blocking=True), device)
        yield Row("host_to_device_rate", num_bytes / load_s, "B/s", "measured", "bounds", factors)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(bytes(num_bytes))
        read_s = measure(path.read_bytes, warmup=1, repeats=3).median_s
        yield Row("cached_file_read_rate", num_bytes / read_s, "B/s", "measured", "bounds", factors)
