"""The steering record: which tokens, layers, heads and gain, and for what it was made.

Shape legend: S selected tokens.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from common.errors import ConfigError, CorruptBitstream, DataUnavailable
from common.results import write_atomically
from llmsteer.api import APPLY
from llmsteer.attention import LayerSteering, Session, gains

FORMAT = "llmsteer-record-1"
_SAMPLES = 4096


def hash_ids(ids: Sequence[int]) -> str:
    """SHA-256 (hex) of token ids."""
    return hashlib.sha256(",".join(str(int(i)) for i in ids).encode()).hexdigest()


def model_fingerprint(model: Any) -> str:
    """SHA-256 (hex) over dtype, the configuration's numbers, and name, shape and some 4096 evenly spaced values of each weight.

    Takes milliseconds also for large models, and does not depend on where the weights were loaded from. Weights that differ only
    in values that are not among the samples are not told apart.
    """
    config = {
        key: value
        for key, value in sorted(model.config.to_dict().items())
        if isinstance(value, int | float) and key not in ("use_cache", "output_attentions", "output_hidden_states")
    }
    digest = hashlib.sha256(json.dumps([str(model.dtype), config], sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        step = max(1, flat.numel() // _SAMPLES)
        digest.update(f"{name}|{tuple(tensor.shape)}".encode())
        digest.update(flat[::step].contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class SteeringRecord:
    """What to steer in one context, for one model and one prompt.

    Attributes:
        model: `model_fingerprint` of the model.
        dtype: of the model, e.g. "float32".
        prefix_hash, context_hash: `hash_ids` of the prompt in front of the context (BOS included) and of the context.
        prefix_tokens, context_tokens: their lengths, the paper's p and n.
        layers: {layer: sorted indices of the selected tokens, relative to the context's start, (S,) int64}.
        heads: {layer: query heads that are steered}; a layer without an entry is not steered.
        alpha: the scaling factor, > 0; 1 changes nothing.
        apply: "kv_and_live", "live_only" or "kv_only".
        renormalise: whether attention rows sum to one after the multiplication.
        settings: how it came about, for display; numbers and text only.

    Raises:
        ConfigError: a token lies outside the context, or a value is not allowed.
    """

    model: str
    dtype: str
    prefix_hash: str
    context_hash: str
    prefix_tokens: int
    context_tokens: int
    layers: Mapping[int, Tensor]
    heads: Mapping[int, tuple[int, ...]]
    alpha: float
    # DEVIATION llmsteer-2: the paper does not say when its weights are edited; all three readings exist, this is the default.
    apply: str = "kv_and_live"
    renormalise: bool = True
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.apply not in APPLY:
            raise ConfigError(f"apply={self.apply!r} is not one of {', '.join(APPLY)}.")
        if not self.alpha > 0:
            raise ConfigError(f"alpha={self.alpha} must be positive; 1 changes nothing.")
        for layer, tokens_S in self.layers.items():
            if tokens_S.dtype != torch.int64 or tokens_S.ndim != 1 or bool((tokens_S.diff() <= 0).any()):
                raise ConfigError(f"layer {layer}: selected tokens must be sorted, different int64 numbers.")
            if len(tokens_S) and not (int(tokens_S[0]) >= 0 and int(tokens_S[-1]) < self.context_tokens):
                raise ConfigError(
                    f"layer {layer}: a selected token lies outside the {self.context_tokens} of the context."
                )

    @property
    def num_bytes(self) -> int:
        """Bytes of the token sets, beside which the rest is nothing."""
        return sum(tokens.numel() * tokens.element_size() for tokens in self.layers.values())

    def layer_steering(self, num_heads: int, session: Session, route: str = "auto") -> dict[int, LayerSteering]:
        """What each steered layer does; see `llmsteer.attention`."""
        return {
            layer: LayerSteering(
                self.layers[layer] + self.prefix_tokens,
                gains(heads, num_heads, self.alpha),
                session,
                renormalise=self.renormalise,
                route=route,
            )
            for layer, heads in self.heads.items()
            if heads and layer in self.layers
        }

    def bias(self, layer: int, num_keys: int, num_heads: int, dtype: torch.dtype) -> Tensor:
        """The additive bias of one layer, (1, H, 1, T); zeros where it is not steered."""
        steering = self.layer_steering(num_heads, Session()).get(layer)
        if steering is None:
            return torch.zeros(1, num_heads, 1, num_keys, dtype=dtype)
        return steering.bias(num_keys, dtype, torch.device("cpu"))

    def check_model(self, fingerprint: str, dtype: str) -> None:
        """Refuse a model that the record was not made for.

        Raises:
            ConfigError: another dtype or other weights.
        """
        if dtype != self.dtype:
            raise ConfigError(
                f"this steering record was made for {self.dtype}, the model has {dtype}. Prepare the context again with it."
            )
        if fingerprint != self.model:
            raise ConfigError(
                f"this steering record was made for model {self.model[:12]}, not {fingerprint[:12]}. "
                "Prepare the context again with this model."
            )

    def check_prompt(self, ids: Sequence[int]) -> None:
        """Refuse a prompt that does not begin with the record's prefix and context.

        Raises:
            ConfigError: it is too short, or its prefix or context differ.
        """
        end = self.prefix_tokens + self.context_tokens
        if len(ids) < end:
            raise ConfigError(
                f"the prompt has {len(ids)} tokens; this steering record is for a prefix and context of {end}."
            )
        if hash_ids(ids[: self.prefix_tokens]) != self.prefix_hash:
            raise ConfigError(
                "the prompt does not begin with the instruction that this steering record was made with (other text, template "
                "or tokenizer). Use the same one, or prepare the context again."
            )
        if hash_ids(ids[self.prefix_tokens : end]) != self.context_hash:
            raise ConfigError(
                "the prompt holds another context than this steering record was made for (other text or tokenizer). "
                "Prepare this context first."
            )

    def digest(self) -> str:
        """SHA-256 (hex) of everything in the record."""
        text = json.dumps(self._plain(), sort_keys=True)
        return hashlib.sha256(text.encode() + save_tensors(self._tensors())).hexdigest()

    def _tensors(self) -> dict[str, Tensor]:
        return {f"layer.{layer}": tokens.clone() for layer, tokens in sorted(self.layers.items())}

    def _plain(self) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(self) if field.name not in ("layers", "heads", "settings")]
        return {name: getattr(self, name) for name in names} | {
            "format": FORMAT,
            "heads": {str(layer): list(heads) for layer, heads in sorted(self.heads.items())},
            "settings": dict(self.settings),
        }

    def save(self, folder: Path) -> None:
        """Write record.safetensors and then record.json, whose presence means that both are complete."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = save_tensors(self._tensors())
        plain = self._plain() | {"tensors_sha256": hashlib.sha256(tensors).hexdigest()}
        write_atomically(folder / "record.safetensors", tensors)
        write_atomically(folder / "record.json", json.dumps(plain, indent=1, sort_keys=True).encode())

    @classmethod
    def load(cls, folder: Path) -> "SteeringRecord":
        """Read what `save` wrote.

        Raises:
            DataUnavailable: there is no record.
            CorruptBitstream: it is damaged or of another format.
        """
        try:
            plain = json.loads((folder / "record.json").read_text())
            tensors = (folder / "record.safetensors").read_bytes()
        except FileNotFoundError as error:
            raise DataUnavailable(f"{folder} holds no steering record; make one with `prepare`.") from error
        except ValueError as error:
            raise CorruptBitstream(f"{folder}/record.json is not JSON; prepare the context again.") from error
        if not isinstance(plain, dict) or plain.pop("format", None) != FORMAT:
            raise CorruptBitstream(f"{folder}/record.json is not of format {FORMAT}; prepare the context again.")
        if hashlib.sha256(tensors).hexdigest() != plain.pop("tensors_sha256", None):
            raise CorruptBitstream(
                f"{folder}/record.safetensors does not belong to record.json; prepare the context again."
            )
        try:
            layers = {int(name.rpartition(".")[2]): tokens for name, tokens in load_tensors(tensors).items()}
            heads = {int(layer): tuple(map(int, heads)) for layer, heads in plain.pop("heads").items()}
            return cls(layers=layers, heads=heads, **plain)
        except (KeyError, TypeError, AttributeError) as error:
            raise CorruptBitstream(f"{folder}/record.json lacks or misnames a field: {error}") from error
