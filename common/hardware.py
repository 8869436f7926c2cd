"""Facts about the machine that a run's numbers depend on, and profiles of storage devices. Imports no torch."""

import dataclasses
import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.registry import Registry

_PACKAGES = ("torch", "transformers", "numpy", "scipy", "pyarrow")


@functools.cache
def machine_facts() -> dict[str, Any]:
    """CPU model, cores, memory, GPU and versions, as plain JSON types.

    `cpu_cores` counts the cores that this process may use, which on a shared machine is what matters; `cpu_threads` counts all
    hardware threads of the machine.
    """
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "cpu_model": _cpu_model(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_threads": os.cpu_count(),
        "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    """Name and driver of the first GPU, asked of the driver's own tool, because importing torch takes seconds."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


@dataclasses.dataclass(frozen=True)
class DeviceProfile:
    """A storage device as a loading model sees it.

    Attributes:
        name: for messages and figures.
        read_bytes_per_s: sustained sequential read rate; may be infinite.
        latency_s: time before the first byte of each read.
        usd_per_gb_month: price of keeping 1e9 bytes there for 30 days.

    Raises:
        ConfigError: a rate that is not positive, or a negative latency or price.
    """

    name: str
    read_bytes_per_s: float
    latency_s: float = 0.0
    usd_per_gb_month: float = 0.0

    def __post_init__(self) -> None:
        if not self.read_bytes_per_s > 0:
            raise ConfigError(f"device {self.name!r}: read_bytes_per_s={self.read_bytes_per_s} must be > 0.")
        if not (self.latency_s >= 0 and self.usd_per_gb_month >= 0):
            raise ConfigError(
                f"device {self.name!r}: latency_s={self.latency_s} and usd_per_gb_month={self.usd_per_gb_month} must be >= 0."
            )

    def read_s(self, num_bytes: float, reads: int = 1) -> float:
        """Time to read so many bytes in so many requests, one after another."""
        return reads * self.latency_s + num_bytes / self.read_bytes_per_s

    def keep_usd(self, num_bytes: float, duration_s: float) -> float:
        """Price of keeping so many bytes for so long."""
        return num_bytes / 1e9 * self.usd_per_gb_month * duration_s / (30 * 86400)


DEVICES: Registry[DeviceProfile] = Registry("storage device")
"""Profiles to plan with. Rates are nominal; prices are our assumptions, right in order and magnitude only: set your own."""

for _device in (
    DeviceProfile("cpu_ram", 20e9, 0.0, 3.0),
    DeviceProfile("nvme_ssd", 4.8e9, 100e-6, 0.12),  # the rate that CacheBlend's authors measured on theirs
    DeviceProfile("sata_ssd", 0.5e9, 150e-6, 0.08),  # 4 Gbit/s, the slower disk of CacheBlend's Fig. 17
    DeviceProfile("hard_disk", 0.2e9, 8e-3, 0.03),
    DeviceProfile("object_store", 0.1e9, 30e-3, 0.023),
):
    DEVICES.add(_device.name)(_device)
