"""Finds ns-3, compiles the bridge the first time it is asked for, keeps it by content, and loads it.

Looks for the headers and libraries inside the PyPI package `ns3` first (Linux x86-64), then for a system ns-3 (Debian's
libns3-dev). Compiling takes about 15 s of one core. The compiled file lies in the cache folder under a hash of the source,
of ns-3, of pybind11, of Python and of the compiler, so a change of any of them builds a new one.
"""

import contextlib
import ctypes
import dataclasses
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

from filelock import FileLock

from common.errors import DataUnavailable

DEFAULT_CACHE = Path.home() / ".cache" / "ninefold"
HOW_TO_GET = (
    "Install it with `pip install 'ninefold[ns3]'` (Linux x86-64) or `apt-get install libns3-dev`, or choose the event "
    "loop (network=loop, TCP as method tcp_model)."
)
_LINKED = ("core", "network", "internet", "point-to-point", "virtual-net-device")
_LOADED_FIRST = (
    "core",
    "stats",
    "network",
    "bridge",
    "traffic-control",
    "internet",
    "point-to-point",
    "virtual-net-device",
)
_SOURCE = Path(__file__).with_name("bridge.cpp")


class Ns3Unavailable(DataUnavailable):
    """ns-3 or what it takes to build the bridge is not on this machine."""


@dataclasses.dataclass(frozen=True)
class Installation:
    """Where an ns-3 lies and how to compile against it.

    Attributes:
        version: e.g. "3.44".
        include: folder of the headers.
        prefix, suffix: a module's library is `<prefix><module><suffix>`.
        standard: C++ standard that its headers need.
        macros: macros that it was compiled with; class layouts depend on them.
    """

    version: str
    include: str
    prefix: str
    suffix: str
    standard: str
    macros: tuple[str, ...]

    def library(self, module: str) -> str:
        """Path of a module's shared library."""
        return f"{self.prefix}{module}{self.suffix}"


def find() -> Installation:
    """The ns-3 of this machine.

    Raises:
        Ns3Unavailable: there is none.
    """
    spec = importlib.util.find_spec("ns3")  # a namespace package: it has no __file__, but possibly several locations
    for location in (spec.submodule_search_locations or []) if spec else []:
        for core in sorted(Path(location).glob("lib*/libns3.*-core.so")):
            match = re.fullmatch(r"(libns(3\.\d+)-)core\.so", core.name)
            if match:
                return Installation(
                    match[2],
                    str(Path(location) / "include"),
                    f"{core.parent}/{match[1]}",
                    ".so",
                    "c++20",
                    ("NS3_LOG_ENABLE", "NS3_ASSERT_ENABLE"),
                )
    folders = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/local/lib", "/usr/lib64")
    for folder in map(Path, folders):
        for core in sorted(folder.glob("libns3*-core*.so")):
            version = re.search(r"\.so\.(\d+)", str(core.resolve())) or re.search(r"libns3\.(\d+)-", core.name)
            if version and Path("/usr/include/ns3/core-module.h").exists():
                head, tail = core.name.split("-core")
                return Installation(f"3.{version[1]}", "/usr/include", f"{folder}/{head}-", tail, "c++17", ())
    raise Ns3Unavailable(f"ns-3 is not installed. {HOW_TO_GET}")


def load(cache_dir: Path = DEFAULT_CACHE) -> ModuleType:
    """The bridge, built if need be. Safe to call from several processes at once: one builds, the others wait.

    Args:
        cache_dir: where compiled bridges are kept.

    Raises:
        Ns3Unavailable: no ns-3, no pybind11, no compiler, or the compiler failed.
    """
    ns3 = find()
    try:
        import pybind11
    except ModuleNotFoundError as error:
        raise Ns3Unavailable(f"pybind11, with which ns-3 is reached, is not installed. {HOW_TO_GET}") from error
    compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    # "ns3" must not stand in the file's name: the wheel's own loader would take it for one of its libraries.
    name = f"_simulator_bridge_{ns3.version.replace('.', '_')}"
    facts = [ns3, pybind11.__version__, sys.version, sysconfig.get_platform()]
    key = hashlib.sha256(_SOURCE.read_bytes() + repr(facts).encode()).hexdigest()[:16]
    folder = cache_dir / f"bridge-{key}"
    target = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not target.exists():
        if compiler is None:
            raise Ns3Unavailable(
                f"ns-3 {ns3.version} is installed, but there is no C++ compiler to build the bridge to it. Install g++ "
                "(`apt-get install g++`), or choose the event loop (network=loop, TCP as method tcp_model)."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not target.exists():
                _compile(ns3, compiler, name, pybind11.get_include(), target)
    for module in _LOADED_FIRST:  # with their symbols global, so that the extension needs no rpath
        ctypes.CDLL(ns3.library(module), mode=ctypes.RTLD_GLOBAL)
    loader = importlib.machinery.ExtensionFileLoader(name, str(target))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    bridge = importlib.util.module_from_spec(spec)
    loader.exec_module(bridge)
    return bridge


def _compile(ns3: Installation, compiler: str, name: str, pybind11_include: str, target: Path) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
    os.close(handle)
    command = [
        compiler,
        "-O1",
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        f"-std={ns3.standard}",
        f"-DMODULE_NAME={name}",
        f'-DNS3_RELEASE="{ns3.version}"',
        *(f"-D{macro}" for macro in ns3.macros),
        *(f"-I{folder}" for folder in (ns3.include, pybind11_include, sysconfig.get_paths()["include"])),
        str(_SOURCE),
        "-o",
        temporary,
        *(ns3.library(module) for module in _LINKED),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-3:]
            raise Ns3Unavailable(
                f"building the bridge to ns-3 {ns3.version} with {compiler} failed: {' | '.join(lines[:3])}. {HOW_TO_GET}"
            )
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
