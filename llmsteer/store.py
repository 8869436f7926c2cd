"""Prepared contexts by what they were made for, in memory up to a number of bytes and on disk."""

import dataclasses
import hashlib
import json
from collections import OrderedDict
from pathlib import Path

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from common.errors import ConfigError, CorruptBitstream, DataUnavailable
from common.kv import KVCache, from_transformers, to_transformers
from common.results import write_atomically
from llmsteer.api import SteeringPlan
from llmsteer.engine import Engine, Prepared
from llmsteer.record import SteeringRecord, hash_ids


@dataclasses.dataclass(frozen=True, eq=False)
class SteeredContext:
    """A context that is ready for queries.

    Attributes:
        kv: keys and values of [prompt; context], as the record's `apply` says.
        ids: those tokens.
        record: how to read it.
        cached_prompt: 0 for P1, 1 for P2.
    """

    kv: KVCache
    ids: tuple[int, ...]
    record: SteeringRecord
    cached_prompt: int = 0

    @classmethod
    def of(cls, prepared: Prepared) -> "SteeredContext":
        """A copy of a prepared context.

        Raises:
            ConfigError: it was prepared without a record.
        """
        if prepared.plan.record is None:
            raise ConfigError("this context was prepared without steering; there is no record to keep.")
        return cls(from_transformers(prepared.cache), prepared.ids, prepared.plan.record, prepared.plan.cached_prompt)

    def prepared(self, engine: Engine) -> Prepared:
        """Ready for `Engine.answer`.

        Raises:
            ConfigError: made for another model, dtype, prompt or context.
        """
        self.record.check_model(engine.fingerprint, engine.dtype)
        self.record.check_prompt(self.ids)
        if self.kv.num_tokens != len(self.ids):
            raise ConfigError(f"the cache holds {self.kv.num_tokens} tokens, its ids are {len(self.ids)}.")
        cache = to_transformers(self.kv.to(device=engine.loaded.device))
        return Prepared(cache, self.ids, SteeringPlan(self.record, cached_prompt=self.cached_prompt))

    @property
    def num_bytes(self) -> int:
        """Bytes of keys, values and token sets."""
        return self.kv.num_bytes + self.record.num_bytes

    def save(self, folder: Path) -> None:
        """Write kv.safetensors and the record; context.json, written last, says that all is there."""
        self.record.save(folder)
        tensors = save_tensors(
            {"keys_LHTD": self.kv.keys_LHTD.contiguous(), "values_LHTD": self.kv.values_LHTD.contiguous()}
        )
        write_atomically(folder / "kv.safetensors", tensors)
        plain = {
            "format": "llmsteer-context-1",
            "ids": list(self.ids),
            "cached_prompt": self.cached_prompt,
            "kv_sha256": hashlib.sha256(tensors).hexdigest(),
            "record": self.record.digest(),
        }
        write_atomically(folder / "context.json", json.dumps(plain).encode())

    @classmethod
    def load(cls, folder: Path) -> "SteeredContext":
        """Read what `save` wrote.

        Raises:
            DataUnavailable: there is none.
            CorruptBitstream: it is damaged or incomplete.
        """
        import torch

        record = SteeringRecord.load(folder)
        try:
            plain = json.loads((folder / "context.json").read_text())
            tensors = (folder / "kv.safetensors").read_bytes()
        except FileNotFoundError as error:
            raise DataUnavailable(f"{folder} holds no prepared context; make one with `prepare`.") from error
        except ValueError as error:
            raise CorruptBitstream(f"{folder}/context.json is not JSON; prepare the context again.") from error
        if not isinstance(plain, dict):
            raise CorruptBitstream(f"{folder}/context.json describes no context; prepare the context again.")
        if plain.get("format") != "llmsteer-context-1" or plain.get("record") != record.digest():
            raise CorruptBitstream(f"{folder}: record and context do not belong together; prepare the context again.")
        if hashlib.sha256(tensors).hexdigest() != plain.get("kv_sha256"):
            raise CorruptBitstream(f"{folder}/kv.safetensors is damaged; prepare the context again.")
        parts = load_tensors(tensors)
        positions = torch.arange(parts["keys_LHTD"].shape[2])
        kv = KVCache(parts["keys_LHTD"], parts["values_LHTD"], positions)
        return cls(kv, tuple(plain["ids"]), record, int(plain["cached_prompt"]))


class ContextStore:
    """Steered contexts by (model, context, record), least recently used first out.

    Args:
        max_bytes: room for keys, values and token sets together.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ConfigError(f"max_bytes={max_bytes} must be positive.")
        self.max_bytes = max_bytes
        self._entries: OrderedDict[tuple[str, str, str], SteeredContext] = OrderedDict()

    @staticmethod
    def key(record: SteeringRecord) -> tuple[str, str, str]:
        """Model fingerprint, context hash, record digest."""
        return (record.model, record.context_hash, record.digest())

    @property
    def num_bytes(self) -> int:
        """Bytes held now; never above `max_bytes`."""
        return sum(entry.num_bytes for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, context: SteeredContext) -> None:
        """Keep a context; others leave until it fits.

        Raises:
            ConfigError: it alone is larger than the store.
        """
        if context.num_bytes > self.max_bytes:
            raise ConfigError(f"this context takes {context.num_bytes} bytes; the store holds {self.max_bytes}.")
        key = self.key(context.record)
        self._entries.pop(key, None)
        while self._entries and self.num_bytes + context.num_bytes > self.max_bytes:
            self._entries.popitem(last=False)
        self._entries[key] = context

    def get(self, key: tuple[str, str, str]) -> SteeredContext | None:
        """The context of a key, which is thereby used; None if it is not here."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def for_context(self, model: str, context_ids: tuple[int, ...]) -> list[SteeredContext]:
        """Everything kept of one context for one model, oldest first."""
        wanted = (model, hash_ids(context_ids))
        return [entry for key, entry in self._entries.items() if key[:2] == wanted]
