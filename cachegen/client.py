"""Fetching a context from a storage server under a deadline: the streamer over a real connection.

    client = Client("127.0.0.1", 8095, clock=time.monotonic)
    fetched = client.fetch(context, codec, Adaptive(), costs, deadline_s=1.0, recompute=engine.prefill)

The choice of each chunk is made by the same policies as in the simulator. A chunk is decoded in a second thread while the next
one is on its way; a text chunk is prefilled behind everything before it, by the same thread.
"""

import dataclasses
import http.client
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from cachegen.api import StreamPolicy, StreamState
from cachegen.codec import Codec
from cachegen.store import ID, Manifest, unpack_ids
from cachegen.streaming import ChunkLog, Costs, offers_of
from common.errors import ConfigError, CorruptBitstream, DataUnavailable
from common.kv import KVCache, concatenate

Recompute = Callable[[Sequence[int], KVCache | None], KVCache]
"""(token ids, cache of everything before or None) -> cache of everything up to their end."""

_MAX_BODY_BYTES = 1 << 31


@dataclasses.dataclass(frozen=True, eq=False)
class Fetched:
    """A context that has arrived.

    Attributes:
        kv: its cache, ready to answer from.
        chunks: what happened to each chunk, times since the request.
        ready_s: when the whole cache was usable.
    """

    kv: KVCache
    chunks: tuple[ChunkLog, ...]
    ready_s: float

    @property
    def levels(self) -> tuple[int | None, ...]:
        return tuple(chunk.level for chunk in self.chunks)


class Client:
    """A connection to a storage server; a context manager that closes it. For one thread.

    Args:
        host, port: of the server.
        clock: seconds, e.g. `time.monotonic`.
        timeout_s: how long an answer may take to begin or continue.
    """

    def __init__(self, host: str, port: int, clock: Callable[[], float], timeout_s: float = 30.0) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        self._clock = clock
        self._where = f"{host}:{port}"

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, path: str) -> bytes:
        """The body behind a path.

        Raises:
            DataUnavailable: the server is not there, breaks off, or says no.
        """
        try:
            self._connection.request("GET", path)
            response = self._connection.getresponse()
            length = int(response.headers.get("Content-Length", "0"))
            if length > _MAX_BODY_BYTES:
                raise DataUnavailable(f"server {self._where} announces {length} bytes for {path}; that is too much.")
            body = response.read()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise DataUnavailable(
                f"server {self._where} does not answer {path}: {type(error).__name__} {error}"
            ) from error
        if response.status != 200:
            raise DataUnavailable(f"server {self._where} refuses {path}: {body.decode(errors='replace').strip()}")
        return body

    def contexts(self) -> list[str]:
        """Ids of all contexts that the server holds.

        Raises:
            DataUnavailable: the server does not answer.
            CorruptBitstream: what came is no list of ids.
        """
        try:
            found = json.loads(self.get("/contexts"))
        except ValueError as error:  # no JSON, or not even UTF-8
            raise CorruptBitstream(f"{self._where} sends no list of contexts; is it a storage server?") from error
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise CorruptBitstream(f"{self._where} sends no list of contexts; is it a storage server?")
        return found

    def manifest(self, context: str) -> Manifest:
        """What the server holds of a context.

        Raises:
            ConfigError: this cannot be the id of a context.
            DataUnavailable: no such context.
            CorruptBitstream: what came is no manifest, or that of another context.
        """
        if not ID.fullmatch(context):
            raise ConfigError(f"{context!r} is no context id: those are 64 hexadecimal digits. `contexts` lists them.")
        try:
            data = json.loads(self.get(f"/contexts/{context}/manifest.json"))
        except ValueError as error:  # no JSON, or not even UTF-8
            raise CorruptBitstream(f"the manifest of {context} is no JSON: {error}") from error
        manifest = Manifest.from_json(data)
        if manifest.context_id != context:
            raise CorruptBitstream(f"the manifest of {context} is that of {manifest.context_id}.")
        return manifest

    def get_kv(self, manifest: Manifest, chunk: int, level: int | None) -> bytes:
        """One chunk's bytes at a level, or as text (the paper's `get_kv`)."""
        return self.get(f"/contexts/{manifest.context_id}/{chunk}.{'text' if level is None else level}")

    def fetch(
        self,
        manifest: Manifest,
        codec: Codec,
        policy: StreamPolicy,
        costs: Costs,
        recompute: Recompute,
        deadline_s: float = math.inf,
        *,
        prior_bps: float | None = None,
    ) -> Fetched:
        """Stream a context.

        Args:
            manifest: of the context.
            codec: with the profile that the manifest names.
            policy: chooses each chunk.
            costs: what the policy is told about recomputing.
            recompute: prefills text chunks.
            deadline_s: from now.
            prior_bps: throughput known beforehand.

        Raises:
            DataUnavailable: the server fails.
            CorruptBitstream: what came cannot be decoded.
        """
        offers = offers_of(manifest.level_bytes, manifest.text_bytes, manifest.chunk_tokens, costs)
        start_s, throughput_bps = self._clock(), prior_bps
        sent: list[tuple[int | None, int, float, float, float]] = []
        worker = _Worker(codec, recompute, self._clock)
        with ThreadPoolExecutor(1) as pool:
            ready: list[Future[float]] = []
            for index in range(len(offers)):
                asked_s = self._clock() - start_s
                decision = policy.choose(offers[index:], StreamState(asked_s, deadline_s, throughput_bps))
                data = self.get_kv(manifest, index, decision.level)
                arrived_s = self._clock() - start_s
                throughput_bps = 8 * len(data) / max(arrived_s - asked_s, 1e-9)
                sent.append((decision.level, len(data), asked_s, arrived_s, throughput_bps))
                ready.append(pool.submit(worker.take, data, decision.level, manifest.chunk_tokens[index]))
            ready_s = [future.result() - start_s for future in ready]
        log = tuple(
            ChunkLog(level, size, asked, arrived, done, bps)
            for (level, size, asked, arrived, bps), done in zip(sent, ready_s, strict=True)
        )
        return Fetched(worker.cache(), log, max(ready_s))


class _Worker:
    """Decodes and prefills chunks in the order of their arrival."""

    def __init__(self, codec: Codec, recompute: Recompute, clock: Callable[[], float]) -> None:
        self._codec, self._recompute, self._clock = codec, recompute, clock
        self._parts: list[KVCache] = []

    def take(self, data: bytes, level: int | None, num_tokens: int) -> float:
        """Make a chunk of so many tokens usable; returns when it was.

        Raises:
            CorruptBitstream: damaged, or whole but another chunk's: the checksum does not know where it belongs.
        """
        start = self._parts[-1].next_position if self._parts else 0
        if level is not None:
            part = self._codec.decode(data)
            if not torch.equal(part.positions_T, torch.arange(start, start + num_tokens)):
                raise CorruptBitstream(f"tokens {start} to {start + num_tokens - 1} expected, another chunk came.")
            self._parts.append(part)
        else:
            ids = unpack_ids(data)
            if len(ids) != num_tokens:
                raise CorruptBitstream(f"text of {num_tokens} tokens expected at token {start}, {len(ids)} came.")
            past = self.cache() if self._parts else None
            # Everything before is in its decoded, slightly lossy form: that is what a text chunk attends to.
            whole = self._recompute(ids, past)
            self._parts = [whole]
        return self._clock()

    def cache(self) -> KVCache:
        """Everything so far as one cache."""
        if len(self._parts) > 1:
            self._parts = [concatenate(self._parts)]
        return self._parts[0]
