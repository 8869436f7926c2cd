"""Load a causal language model of the Llama, Mistral, Qwen2 or Qwen3 family, whatever its source.

    spec = ModelSpec(name="small", source="bundled")
    loaded = load(spec)
    loaded.model, loaded.tokenizer, loaded.fingerprint

A model that cannot be had raises one clear line; nothing falls back to another model.
"""

import dataclasses
import hashlib
import importlib.resources
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import ConfigError, DataUnavailable

SOURCES = ("bundled", "local", "hf", "random")
DTYPES = ("float32", "float64", "bfloat16", "float16")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

# Weights up to this size are hashed whole; above it, file names, sizes, times and their first and last MiB.
_HASH_WHOLE_BYTES = 4 << 30

_RANDOM_SHAPES: dict[str, dict[str, Any]] = {
    # For speed measurements: compute dominates overheads, and the shape has the proportions of a 7B model.
    "random_8x1024": {
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
    },
    "random_12x512": {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
    # The shapes that the papers serve, for a data-centre GPU: 14.5, 16 and 69 GB in bfloat16.
    "random_mistral_7b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    },
    "random_llama31_8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "rope_theta": 500000.0,
    },
    "random_yi_34b": {
        "hidden_size": 7168,
        "intermediate_size": 20480,
        "num_hidden_layers": 60,
        "num_attention_heads": 56,
        "num_key_value_heads": 8,
        "vocab_size": 64000,
    },
    # For tests and smoke runs.
    "random_tiny": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        # With the usual 0.02 so small a model computes almost the same for every token, and tests would see nothing.
        "initializer_range": 0.25,
    },
}


# transformers builds models under a device setting of the whole process: two threads at it leave weights without data.
_LOADING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Which model, from where, and how to hold it; the `model` config group.

    Attributes:
        name: of a bundled model, of a random shape (`random_shapes()`), or any label for the other sources.
        source: "bundled" (weights in this package), "local" (a folder as `save_pretrained` writes it), "hf" (the hub or its
            local cache), or "random" (a named shape with random weights: right for speed, useless for quality).
        path: the folder of a local model or the hub id, e.g. "mistralai/Mistral-7B-Instruct-v0.2".
        revision: branch, tag or commit on the hub.
        dtype: "float32", "float64", "bfloat16" or "float16".
        device: "auto" (the first GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1" ...
        attention: how transformers' own forward pass attends ("sdpa" or "eager").
        seed: of random weights.
    """

    name: str
    source: str = "bundled"
    path: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    attention: str = "sdpa"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ConfigError(f"model source {self.source!r} is not one of {', '.join(SOURCES)}.")
        if self.dtype not in DTYPES:
            raise ConfigError(f"model dtype {self.dtype!r} is not one of {', '.join(DTYPES)}.")
        if self.source in ("local", "hf") and not self.path:
            wanted = "the model's folder" if self.source == "local" else "the hub id, e.g. mistralai/Mistral-7B-v0.1"
            raise ConfigError(f"model source {self.source!r} needs path={wanted}.")

    @classmethod
    def from_name(
        cls, name: str, *, dtype: str = "float32", device: str = "auto", revision: str | None = None
    ) -> "ModelSpec":
        """The spec of a model named on a command line: a bundled model ("small"), a folder, or else a hub id."""
        if name in bundled_names():
            return cls(name, "bundled", dtype=dtype, device=device)
        if Path(name).is_dir():
            return cls(Path(name).name, "local", path=name, dtype=dtype, device=device)
        return cls(name, "hf", path=name, revision=revision, dtype=dtype, device=device)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "ModelSpec":
        """The spec described by a run's `model` settings; unknown keys are refused.

        Raises:
            ConfigError: no model was chosen (source "none"), or a key or value is not allowed.
        """
        if settings.get("source", "none") == "none":
            raise ConfigError("this experiment needs a language model; choose one with model=NAME, e.g. model=small.")
        known = {field.name for field in dataclasses.fields(cls)}
        for key in settings:
            if key not in known:
                raise ConfigError(f"unknown model setting {key!r}. Known: {', '.join(sorted(known))}")
        return cls(**settings)


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to run, in evaluation mode, with gradients off.

    Attributes:
        spec: what was asked for.
        model: the transformers `...ForCausalLM`.
        tokenizer: its tokenizer; None for random weights.
        fingerprint: SHA-256 (hex) over configuration, weights and dtype; equal fingerprints compute the same numbers.
        tokenizer_fingerprint: SHA-256 (hex) of the tokenizer's serialised form; "" without one.
    """

    spec: ModelSpec
    model: Any
    tokenizer: Any
    fingerprint: str
    tokenizer_fingerprint: str

    @property
    def config(self) -> Any:
        """The transformers configuration."""
        return self.model.config

    @property
    def device(self) -> Any:
        """The torch device of the weights."""
        return self.model.device

    @property
    def dtype(self) -> Any:
        """The torch dtype of the weights."""
        return self.model.dtype

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers: 2 * L * H_kv * D * bytes per number."""
        config = self.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * self.dtype.itemsize)


def random_shapes() -> tuple[str, ...]:
    """Names of the shapes that can be built with random weights."""
    return tuple(_RANDOM_SHAPES)


def bundled_names() -> tuple[str, ...]:
    """Names of the models whose weights lie in this package."""
    folder = importlib.resources.files("common.models") / "bundled"
    if not folder.is_dir():
        return ()
    return tuple(sorted(entry.name for entry in folder.iterdir() if (entry / "config.json").is_file()))


def load(spec: ModelSpec) -> LoadedModel:
    """Load a model and its tokenizer.

    Raises:
        ConfigError: no such bundled model or random shape, an unknown family or device.
        DataUnavailable: the folder or the hub cannot be read, or the hub model is gated.
    """
    if spec.source == "random":
        return _build_random(spec)
    if spec.source == "bundled":
        if spec.name not in bundled_names():
            raise ConfigError(
                f"there is no bundled model {spec.name!r}. Bundled: {', '.join(bundled_names()) or 'none'}."
            )
        path = str(importlib.resources.files("common.models") / "bundled" / spec.name)
    else:
        assert spec.path is not None
        path = spec.path
        if spec.source == "local" and not (Path(path) / "config.json").is_file():
            raise DataUnavailable(
                f"{path} holds no model: config.json is missing. Give the folder that save_pretrained wrote."
            )
    return _load_pretrained(spec, path)


def wrap(model: Any, tokenizer: Any = None, name: str = "in_memory") -> LoadedModel:
    """A `LoadedModel` around a transformers causal LM that is already in memory.

    The model is switched to evaluation mode and its gradients are turned off.
    """
    _check_family(model.config)
    model.eval().requires_grad_(False)
    dtype = str(model.dtype).removeprefix("torch.")
    spec = ModelSpec(name, "random", dtype=dtype, device=str(model.device))
    digest = hashlib.sha256(_config_text(model.config).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(_tensor_bytes(tensor))
    return LoadedModel(spec, model, tokenizer, digest.hexdigest(), _tokenizer_fingerprint(tokenizer))


def resolve_device(name: str) -> str:
    """ "auto" to "cuda" or "cpu"; other names are checked.

    Raises:
        ConfigError: no such device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not one that torch knows; use auto, cpu or cuda.") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported; use auto, cpu or cuda.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was asked for, but torch sees no GPU here; use device=cpu or device=auto.")
    return name


def _load_pretrained(spec: ModelSpec, path: str) -> LoadedModel:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    device = resolve_device(spec.device)
    offline = {"local_files_only": True} if spec.source != "hf" else {"revision": spec.revision or "main"}
    if spec.source == "bundled":
        # A second of reading needs no progress bar; gigabytes do.
        transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(path, **offline)
        _check_family(config)
        with _LOADING:
            model = AutoModelForCausalLM.from_pretrained(
                path, config=config, dtype=getattr(torch, spec.dtype), attn_implementation=spec.attention, **offline
            )
        tokenizer = AutoTokenizer.from_pretrained(path, **offline)
    except OSError as error:
        raise DataUnavailable(_why_unavailable(spec, path, error)) from error
    finally:
        transformers_logging.enable_progress_bar()
    model = _settle(model, device)
    if spec.source == "hf":
        commit = getattr(config, "_commit_hash", None) or spec.revision
        weights = f"hub:{path}@{commit}"
    else:
        weights = _hash_files(Path(path))
    text = f"{_config_text(config)}|{weights}|{spec.dtype}"
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    return LoadedModel(spec, model, tokenizer, fingerprint, _tokenizer_fingerprint(tokenizer))


def _why_unavailable(spec: ModelSpec, path: str, error: OSError) -> str:
    first_line = str(error).strip().partition("\n")[0]
    if spec.source != "hf":
        return f"model {spec.name!r} cannot be read from {path}: {first_line}"
    if "gated" in str(error).lower():
        return f"model {path!r} is gated on the hub: accept its licence there and log in with `hf auth login`, then run again."
    return (
        f"model {path!r} cannot be fetched from the hub ({first_line}). "
        "Check the id and the network, give a folder with model.source=local model.path=DIR, or use model=small."
    )


def _build_random(spec: ModelSpec) -> LoadedModel:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = _RANDOM_SHAPES.get(spec.name)
    if shape is None:
        raise ConfigError(f"there is no random shape {spec.name!r}. Known: {', '.join(random_shapes())}.")
    config = LlamaConfig(
        **({"initializer_range": 0.02, "vocab_size": 1024} | shape),
        max_position_embeddings=32768,
        bos_token_id=1000,
        eos_token_id=1001,
    )
    config._attn_implementation = spec.attention
    device = torch.device(resolve_device(spec.device))
    # transformers draws initial weights from torch's global stream; fork it, so that loading a model disturbs nobody.
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        if device.type == "cpu":
            torch.random.default_generator.manual_seed(spec.seed)
            model = LlamaForCausalLM(config)
        else:
            # Drawn where it will live and as it will live: in fp32 on the CPU a 34B shape takes 140 GB and many minutes.
            torch.cuda.manual_seed(spec.seed)
            with torch.device(device):
                model = LlamaForCausalLM._from_config(config, dtype=getattr(torch, spec.dtype))
    model = _settle(model, str(device), getattr(torch, spec.dtype))
    drawn_on = "" if device.type == "cpu" else f"|{device.type}"  # another device draws other weights
    text = f"random|{spec.name}|{spec.seed}|{spec.dtype}{drawn_on}|{_config_text(config)}"
    return LoadedModel(spec, model, None, hashlib.sha256(text.encode()).hexdigest(), "")


def _settle(model: Any, device: str, dtype: Any = None) -> Any:
    """The model on its device, in evaluation mode, without gradients."""
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)


def _check_family(config: Any) -> None:
    family = getattr(config, "model_type", None)
    if family not in FAMILIES:
        raise ConfigError(f"model family {family!r} is not supported. Supported: {', '.join(FAMILIES)}.")


def _config_text(config: Any) -> str:
    """The part of a configuration that decides what is computed, as text."""
    ignored = {
        "transformers_version",
        "_name_or_path",
        "dtype",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
    }
    plain = {key: value for key, value in config.to_dict().items() if key not in ignored}
    return json.dumps(plain, sort_keys=True, default=str)


def _hash_files(folder: Path) -> str:
    files = sorted(path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    if not files:
        raise DataUnavailable(f"{folder} holds no weights (*.safetensors); the model is incomplete.")
    digest = hashlib.sha256()
    is_large = sum(path.stat().st_size for path in files) > _HASH_WHOLE_BYTES
    for path in files:
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            if is_large:
                stat = path.stat()
                digest.update(f"{stat.st_size}|{stat.st_mtime_ns}".encode())
                digest.update(file.read(1 << 20))
                file.seek(-min(1 << 20, stat.st_size), 2)
                digest.update(file.read())
            else:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def _tensor_bytes(tensor: Any) -> bytes:
    import torch

    data: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return data


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    if tokenizer is None:
        return ""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
