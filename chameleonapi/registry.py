"""Which application gets which model: files, versions, switching and rolling back.

    <root>/objects/<sha256>.safetensors        model files, by content
    <root>/apps/<app id>/<version>.json        one per version, never changed: model, threshold, output limit, facts
    <root>/apps/<app id>/current               the version that is served; replaced in one step

A reader sees the old version or the new one, never half of one. Two processes may publish at a time; each gets its own version.
"""

import dataclasses
import hashlib
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from chameleonapi.endpoints import Answer, NotServed, check_limits
from chameleonapi.networks import Network, load, save
from chameleonapi.tasks.tasks import task_named
from chameleonapi.training import THETA
from common.cache import atomic_file, sha256_of_file
from common.errors import ConfigError, CorruptBitstream

GENERIC = "generic"
_APP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclasses.dataclass(frozen=True)
class Version:
    """One version of an application's model.

    Attributes:
        app_id, version: which; versions count from 1.
        model: SHA-256 of the model file.
        theta, top_k: threshold and output limit it is served with.
        vocabulary: "image" or "topic".
        facts: anything worth keeping: summary hash, seed, error rates.
    """

    app_id: str
    version: int
    model: str
    theta: float
    top_k: int
    vocabulary: str
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class ModelRegistry:
    """Models of applications in a folder, which is created when needed."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def publish(
        self,
        app_id: str,
        network: Network,
        *,
        theta: float = THETA,
        top_k: int = 10,
        facts: Mapping[str, Any] | None = None,
        activate: bool = True,
    ) -> Version:
        """Add a version of an application's model, and serve it from now on unless `activate` is False.

        Raises:
            ConfigError: the id or a limit is not allowed.
        """
        folder = self._folder(app_id)
        check_limits(theta, top_k)
        objects = self.root / "objects"
        objects.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = objects / f".{os.getpid()}-{threading.get_ident()}.safetensors"
        try:
            save(network, temporary)
            sha = sha256_of_file(temporary)
            os.replace(temporary, objects / f"{sha}.safetensors")
        finally:
            temporary.unlink(missing_ok=True)
        vocabulary = task_named(network.architecture.task).vocabulary
        with FileLock(folder / ".lock"):
            number = max((v.version for v in self.versions(app_id)), default=0) + 1
            version = Version(app_id, number, sha, theta, top_k, vocabulary, dict(facts or {}))
            with atomic_file(folder / f"{number}.json") as path:
                path.write_text(json.dumps(dataclasses.asdict(version), indent=1, sort_keys=True) + "\n")
            if activate:
                self._switch(app_id, number)
        return version

    def versions(self, app_id: str) -> list[Version]:
        """All versions of an application, oldest first; empty if it has none."""
        folder = self._folder(app_id)
        numbers = sorted(int(p.stem) for p in folder.glob("*.json") if p.stem.isdigit())
        return [self._read(app_id, number) for number in numbers]

    def current(self, app_id: str) -> Version | None:
        """The version that is served, or None if the application is not known."""
        try:
            number = int((self._folder(app_id) / "current").read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise CorruptBitstream(f"{self._folder(app_id) / 'current'} does not hold a version number.") from error
        return self._read(app_id, number)

    def activate(self, app_id: str, version: int) -> Version:
        """Serve another version from now on.

        Raises:
            ConfigError: there is no such version.
        """
        known = [v.version for v in self.versions(app_id)]
        if version not in known:
            raise ConfigError(f"application {app_id!r} has no version {version}. It has {known or 'none'}.")
        self._switch(app_id, version)
        return self._read(app_id, version)

    def rollback(self, app_id: str) -> Version:
        """Serve the version before the current one.

        Raises:
            ConfigError: there is none.
        """
        now = self.current(app_id)
        before = [v.version for v in self.versions(app_id) if now is not None and v.version < now.version]
        if not before:
            raise ConfigError(f"application {app_id!r} has no version before {now.version if now else 'any'}.")
        return self.activate(app_id, before[-1])

    def app_ids(self) -> list[str]:
        """Applications with a version that is served, sorted."""
        folder = self.root / "apps"
        return sorted(p.name for p in folder.iterdir() if (p / "current").is_file()) if folder.is_dir() else []

    def network(self, version: Version) -> Network:
        """The model of a version.

        Raises:
            CorruptBitstream: the file is missing, or is not what was published.
        """
        path = self.root / "objects" / f"{version.model}.safetensors"
        if not path.is_file() or sha256_of_file(path) != version.model:
            raise CorruptBitstream(
                f"model file {path.name} of application {version.app_id!r} is missing or damaged; publish it again."
            )
        return load(path)

    def _folder(self, app_id: str) -> Path:
        if not _APP_ID.fullmatch(app_id):
            raise ConfigError(
                f"application id {app_id!r} is not allowed. Use 1 to 100 letters, digits, '.', '_' or '-', "
                "the first a letter or digit."
            )
        return self.root / "apps" / app_id

    def _switch(self, app_id: str, version: int) -> None:
        with atomic_file(self._folder(app_id) / "current") as path:
            path.write_text(f"{version}\n")

    def _read(self, app_id: str, version: int) -> Version:
        path = self._folder(app_id) / f"{version}.json"
        try:
            return Version(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise CorruptBitstream(f"{path} is no version of an application: {error}") from error


def is_app_id(text: str) -> bool:
    """Whether a text may name an application."""
    return _APP_ID.fullmatch(text) is not None


class Router:
    """Answers requests with the model of the application that asks: an `endpoints.Backend`.

    Models are loaded when first asked for and kept, the least recently used ones dropped. Models whose trunk is the
    generic model's,
    bit for bit, share its memory and its features.

    Args:
        registry: which application gets what.
        generic: the models for everybody, by vocabulary ("image", "topic"), served at `theta` and `top_k`.
        max_loaded: application models in memory at most.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        generic: Mapping[str, Network],
        *,
        theta: float = THETA,
        top_k: int = 10,
        max_loaded: int = 64,
    ) -> None:
        check_limits(theta, top_k)
        self.registry, self.generic, self.theta, self.top_k = registry, dict(generic), theta, top_k
        self.max_loaded = max_loaded
        self._loaded: OrderedDict[str, Network] = OrderedDict()
        self._trunks = {_trunk_hash(network): network for network in self.generic.values()}
        self._lock = threading.Lock()

    def classify(self, app_id: str, vocabulary: str, content: bytes) -> Answer:
        """See `endpoints.Backend.classify`."""
        return _answer(self.choose(app_id, vocabulary), content)

    def for_one_request(self) -> "OneVersion":
        """See `endpoints.Backend.for_one_request`."""
        return OneVersion(self)

    def choose(self, app_id: str, vocabulary: str) -> tuple[Network, float, int]:
        """The model that answers an application now, its threshold and its number of labels.

        Raises:
            NotServed: there is no model for this vocabulary.
            CorruptBitstream: the application's model is damaged.
        """
        if vocabulary not in self.generic:
            raise NotServed(
                f"this server has no model for {vocabulary} requests; it has {', '.join(self.generic) or 'none'}."
            )
        version = self.registry.current(app_id) if is_app_id(app_id) else None
        if version is None or version.vocabulary != vocabulary:
            return self.generic[vocabulary], self.theta, self.top_k
        with self._lock:
            network = self._loaded.pop(version.model, None)
            if network is None:
                network = self._with_shared_trunk(self.registry.network(version))
            self._loaded[version.model] = network
            while len(self._loaded) > self.max_loaded:
                self._loaded.popitem(last=False)
        return network, version.theta, version.top_k

    def _with_shared_trunk(self, network: Network) -> Network:
        owner = self._trunks.get(_trunk_hash(network))
        if owner is not None:
            network.trunk = owner.trunk
        return network

    def memory_bytes(self) -> int:
        """Bytes of all weights in memory, shared ones once."""
        tensors = {
            t.data_ptr(): t.numel() * t.element_size()
            for network in (*self.generic.values(), *self._loaded.values())
            for t in network.state_dict().values()
        }
        return sum(tensors.values())


class OneVersion:
    """A router during one request: each application's model is looked up once, so that no answer mixes two versions."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._chosen: dict[tuple[str, str], tuple[Network, float, int]] = {}

    def classify(self, app_id: str, vocabulary: str, content: bytes) -> Answer:
        """See `endpoints.Backend.classify`."""
        key = app_id, vocabulary
        if key not in self._chosen:
            self._chosen[key] = self._router.choose(app_id, vocabulary)
        return _answer(self._chosen[key], content)

    def for_one_request(self) -> "OneVersion":
        """See `endpoints.Backend.for_one_request`."""
        return self


def _answer(model: tuple[Network, float, int], content: bytes) -> Answer:
    network, theta, top_k = model
    inputs = task_named(network.architecture.task).read(content)
    with torch.inference_mode():
        scores_C = torch.sigmoid(network(inputs))[0].numpy().astype(np.float32)
    return Answer(network.labels, scores_C, theta, top_k)


def _trunk_hash(network: Network) -> str:
    digest = hashlib.sha256(network.architecture.kind.encode())
    for name, tensor in sorted(network.trunk.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
