"""Answer questions over text chunks with blended KV caches.

model = BlendedModel.from_pretrained("mistralai/Mistral-7B-Instruct-v0.2", dtype="bfloat16")
model.precompute(chunks)                                     # once, offline
answer = model.generate(chunks[:6], "Who founded Ardena?")
print(answer.text, answer.report.recomputed_share)
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from cacheblend.api import Report, Request
from cacheblend.blend import BlendPlan, OnPhase
from cacheblend.engine import Engine, KVStore
from common.errors import ConfigError
from common.models import prompt_format
from common.models.loading import LoadedModel, ModelSpec, load

_LOG = logging.getLogger("cacheblend")


@dataclasses.dataclass(frozen=True)
class Answer:
    """A generated answer.

    Attributes:
        text: the answer, end token and surrounding white space removed.
        ids: its token ids.
        report: what was reused, recomputed and loaded for it.
    """

    text: str
    ids: tuple[int, ...]
    report: Report


class BlendedModel:
    """A causal language model that reuses the KV of text chunks wherever they stand.

    Args:
        loaded: the model with its tokenizer.
        plan: how to blend; the paper's defaults unless given.
        store: where chunk KV is kept; in memory unless given.
        system: what is said before the chunks of every prompt.

    Raises:
        ConfigError: the model has no tokenizer, or its RoPE cannot be shifted.
    """

    def __init__(
        self, loaded: LoadedModel, plan: BlendPlan | None = None, store: KVStore | None = None, system: str = ""
    ) -> None:
        if loaded.tokenizer is None:
            raise ConfigError(f"model {loaded.spec.name!r} has no tokenizer, so it cannot read text.")
        self.engine = Engine(loaded, store)
        self.plan = BlendPlan() if plan is None else plan
        self._prefix, self._suffix = _layout(loaded.tokenizer, system)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        dtype: str = "float32",
        device: str = "auto",
        revision: str | None = None,
        plan: BlendPlan | None = None,
        store: KVStore | None = None,
        system: str = "",
    ) -> "BlendedModel":
        """Load a model by name.

        Args:
            name: a bundled model ("small"), a folder, or a hub id.
            dtype, device, revision: see `common.models.loading.ModelSpec`.
            plan, store, system: see the class.

        Raises:
            ConfigError: an unknown model family, device or dtype.
            DataUnavailable: the model cannot be read or fetched.
        """
        spec = ModelSpec.from_name(name, dtype=dtype, device=device, revision=revision)
        return cls(load(spec), plan, store, system)

    def request(self, chunks: Sequence[str], question: str) -> Request:
        """The prompt as token ids: every chunk tokenised alone, the chat template (if any) around them.

        Raises:
            ConfigError: an empty question, or one text where a list of texts is expected.
        """
        if not question.strip():
            raise ConfigError("the question is empty.")
        tokenizer = self.engine.tokenizer
        return Request(
            tuple(tuple(prompt_format.encode_chunk(tokenizer, chunk)) for chunk in _texts(chunks) if chunk.strip()),
            (*prompt_format.encode_question(tokenizer, question), *self._suffix),
            prefix=self._prefix,
        )

    def precompute(self, chunks: Sequence[str]) -> int:
        """Store the KV of every chunk that is not stored yet; returns how many had to be computed."""
        return sum(self.engine.precompute(self.request([chunk], "?")) for chunk in _texts(chunks))

    def generate(
        self, chunks: Sequence[str], question: str, *, max_new_tokens: int = 64, on_phase: OnPhase | None = None
    ) -> Answer:
        """Answer a question over chunks, greedily. Chunks that are not stored yet are computed first and stored.

        Args:
            chunks: passages, in prompt order.
            question: what is asked.
            max_new_tokens: longest answer; it also ends at the model's last position.
            on_phase: told which phase of which layer begins; `common.timing.Stopwatch` keeps the time.

        Raises:
            ConfigError: an empty question, a prompt longer than the model's context, or no tokens to generate.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={max_new_tokens} must be at least 1.")
        request = self.request(chunks, question)
        engine = self.engine
        before, engine.on_phase = engine.on_phase, on_phase
        try:
            computed = engine.blend(request, self.plan)
        finally:
            engine.on_phase = before
        report = computed.report
        if request.chunks and report.missed_chunks == len(request.chunks):
            _LOG.warning(
                "none of the %d chunks was in the store: all were computed before the answer could start. "
                "Chunks are found again only if their text is exactly the same.",
                report.missed_chunks,
            )
        decoded = engine.decode(computed, max_new_tokens)
        return Answer(prompt_format.decode_answer(engine.tokenizer, decoded.ids), decoded.ids, report)


def _texts(chunks: Sequence[str]) -> Sequence[str]:
    """Refuse one text in place of a list of texts: it would be taken for the list of its letters."""
    if isinstance(chunks, str):
        raise ConfigError(f"chunks={chunks[:30]!r} is one text; give a list of texts, as in [text].")
    for chunk in chunks:
        if not isinstance(chunk, str):
            raise ConfigError(f"chunks hold {chunk!r}; give a list of texts.")
    return chunks


def _layout(tokenizer: Any, system: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids before the chunks (without BOS) and after the question."""
    if prompt_format.has_chat_template(tokenizer):
        before, after = prompt_format.encode_template(tokenizer, system.strip())
        return tuple(before), tuple(after)
    return (tuple(prompt_format.encode_chunk(tokenizer, system)) if system.strip() else ()), ()
