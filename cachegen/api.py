"""What a plug-in imports: contexts, the protocols of codecs and stream policies, and the registries.

    from cachegen.api import METHODS, POLICIES, WORKLOADS, Context

A method turns a context into bytes and bytes into a KV cache. Sizes are counted from those bytes, quality is measured by
answering with the cache that came back, both by the harness and in the same way for every method. Importing this module
imports neither torch nor transformers.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import ConfigError
from common.experiment import Experiment, Paper, check_in
from common.registry import Registry

if TYPE_CHECKING:
    from numpy.random import Generator

    from common.data.items import QAItem
    from common.kv import KVCache

__all__ = [
    "EXPERIMENTS",
    "METHODS",
    "PAPER",
    "POLICIES",
    "WORKLOADS",
    "ChunkOffer",
    "Context",
    "Decision",
    "KVCodec",
    "KVMethod",
    "StreamPolicy",
    "StreamState",
    "Workload",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """A long context whose KV cache is stored, and the question that will be asked about it.

    Attributes:
        ids: token ids of the context, BOS included.
        kv: the cache of one prefill of all of `ids`, in the dtype in which caches are stored.
        passages: the context's text, piece by piece; empty for contexts of random tokens.
        question: token ids of what follows. Only methods that the paper idealises (H2O: the query is known when tokens are
            dropped) may look at it.
    """

    ids: tuple[int, ...]
    kv: "KVCache"
    passages: tuple[str, ...] = ()
    question: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.ids) != self.kv.num_tokens or not self.ids:
            raise ConfigError(
                f"a context of {len(self.ids)} tokens has a cache of {self.kv.num_tokens}; both must be >= 1."
            )


class KVCodec(Protocol):
    """A method made ready for one model.

    Attributes:
        levels: names of its quality levels, from smallest to best.
    """

    @property
    def levels(self) -> tuple[str, ...]: ...

    def encode(self, context: Context, level: int) -> tuple[bytes, ...]:
        """The context as chunks of bytes: everything that is stored and sent, and all that `decode` gets."""
        ...

    def decode(self, chunks: Sequence[bytes]) -> "KVCache":
        """The cache to answer from. Chunks come as `encode` returned them; raises CorruptBitstream for any others."""
        ...


class KVMethod(Protocol):
    """One way to store and send a context: an entry of `METHODS`, a frozen dataclass with knobs."""

    def prepare(self, engine: Any, sample: Sequence[Context]) -> KVCodec:
        """Make ready for a model, offline: `sample` are contexts of its use, never those that will be coded.

        Args:
            engine: `cachegen.engine.Engine`; methods that recompute keep it.
            sample: contexts to learn tables and statistics from.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ChunkOffer:
    """One chunk of a stored context, as a stream policy sees it.

    Attributes:
        level_bytes: size at each level, from smallest to best quality.
        text_bytes: size as text.
        num_tokens: of the chunk.
        past_tokens: tokens of the chunks before it.
        recompute_s: expected time to prefill it from text, with all chunks before it present (offline profile).
        decode_s: expected time to decode it at each level (offline profile); empty if that takes no time.
    """

    level_bytes: tuple[int, ...]
    text_bytes: int
    num_tokens: int
    past_tokens: int
    recompute_s: float
    decode_s: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class StreamState:
    """What is known when a chunk has to be chosen. Nothing in it comes from the future.

    Attributes:
        now_s: time since the request began.
        deadline_s: the objective: all chunks there by then; may be infinite.
        throughput_bps: measured on the last chunk; before the first the prior, or None if nothing is known.
        concurrency: requests that share link and model; delays scale with it.
    """

    now_s: float
    deadline_s: float
    throughput_bps: float | None
    concurrency: int = 1


@dataclasses.dataclass(frozen=True)
class Decision:
    """How to send a chunk: a level's index, or None for text."""

    level: int | None


class StreamPolicy(Protocol):
    """Chooses chunk by chunk: an entry of `POLICIES`, a frozen dataclass with knobs."""

    def choose(self, remaining: Sequence[ChunkOffer], state: StreamState) -> Decision:
        """How to send `remaining[0]`, given all chunks that are still to come. Must not keep state between requests."""
        ...


class Workload(Protocol):
    """A source of contexts with questions."""

    def items(self, rng: "Generator", n: int) -> Iterator["QAItem"]:
        """n items; the same stream gives the same items."""
        ...


METHODS: Registry[Any] = Registry("cachegen method", ["cachegen.methods"])
POLICIES: Registry[Any] = Registry("cachegen stream policy", ["cachegen.policies"])
WORKLOADS: Registry[Any] = Registry("cachegen workload", ["cachegen.workloads"])
EXPERIMENTS: Registry[type[Experiment]] = Registry("cachegen experiment", ["cachegen.experiments"])

PAPER = Paper(
    name="cachegen",
    title="CacheGen: KV Cache Compression and Streaming for Fast Large Language Model Serving (SIGCOMM 2024)",
    methods=METHODS,
    workloads=WORKLOADS,
    experiments=EXPERIMENTS,
    method_contract=(check_in("cachegen.contract", "check_method"),),
    workload_contract=(check_in("cachegen.contract", "check_workload"),),
)
