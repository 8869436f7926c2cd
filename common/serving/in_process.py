"""TransformersEngine: the continuous batching of transformers, in this process.

transformers' manager runs its loop in a thread of its own; here the same loop body is stepped from `run`, iteration by
iteration. So callbacks run between iterations, as in the simulator, memory is read without races, and the clock can be any
clock: the wall's, or this process's CPU time, which other programs on the machine do not disturb.

Greedy decoding, so that the same call gives the same tokens on every engine of one model.
"""

import contextlib
import dataclasses
import heapq
import logging
from collections.abc import Callable, Iterator
from typing import Any

from common.errors import ConfigError, ReproError
from common.models.loading import LoadedModel
from common.results import Basis
from common.serving.api import Call, Completion, EngineFacts, Handle, Load, pages_for

_LOGGER = "ContinuousBatchingLogger"


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One iteration of a real engine.

    Attributes:
        seconds: since the end of the one before, or since work came to the idle engine.
        prompts: (new, past) tokens of each prompt, or part of one, that it computed.
        decode_kv: KV tokens that each decoding sequence attended to, its new one included.
    """

    seconds: float
    prompts: tuple[tuple[int, int], ...]
    decode_kv: tuple[int, ...]

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens computed."""
        return sum(new for new, _ in self.prompts)

    @property
    def num_decode(self) -> int:
        """Sequences that decoded."""
        return len(self.decode_kv)


@dataclasses.dataclass
class _Flight:
    """A call that the engine is working on."""

    call: Call
    handle: Handle
    submitted_s: float
    started_s: float | None = None
    first_token_s: float | None = None
    preemptions: int = 0
    is_waiting_again: bool = False


class TransformersEngine:
    """A real engine in this process; implements `common.serving.api.Engine`.

    Args:
        loaded: the model, loaded with attention "sdpa" or "eager".
        clock: seconds, e.g. `time.monotonic`, or `time.process_time` to count this process's work alone.
        sleep: waits for so many seconds, e.g. `time.sleep`. None if the clock stands still while nothing is done (CPU
            time): idle time until the next timer is then added to the engine's clock instead of being waited for.
        pool_tokens, page_tokens, max_batch_tokens, max_seqs: as in `EngineFacts`.
        shares_prefixes: let calls with a common prefix share pages (off: the paper compares without).
        safety_margin: part of the pool below which no further prompt is begun (transformers' default is 0.15).
        keep_trace: record a `Step` for every iteration.

    Raises:
        ConfigError: a size is not allowed, or this version of transformers has another engine inside.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        clock: Callable[[], float],
        sleep: Callable[[float], None] | None,
        *,
        pool_tokens: int = 8192,
        page_tokens: int = 16,
        max_batch_tokens: int = 512,
        max_seqs: int = 64,
        shares_prefixes: bool = False,
        safety_margin: float = 0.0,
        keep_trace: bool = False,
    ) -> None:
        if not 1 <= page_tokens <= pool_tokens:
            raise ConfigError(f"a pool of {pool_tokens} tokens holds no page of {page_tokens}; enlarge pool_tokens.")
        self._loaded = loaded
        self._facts = EngineFacts(
            bytes_per_token=loaded.kv_bytes_per_token,
            context_tokens=int(loaded.config.max_position_embeddings),
            pool_tokens=pool_tokens // page_tokens * page_tokens,
            page_tokens=page_tokens,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
            watermark_tokens=int(safety_margin * pool_tokens),
        )
        self._sleep = sleep
        self._clock = clock
        self._attention = loaded.config._attn_implementation
        self._manager, self._processor = _build(
            loaded, self._facts, shares_prefixes=shares_prefixes, safety_margin=safety_margin
        )
        self._flights: dict[str, _Flight] = {}
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._counter = 0
        self._iterations = 0
        self._skipped_s = 0.0
        self._is_running = False
        self._trace: list[Step] | None = [] if keep_trace else None
        self._ended_s: float | None = None  # end of the last iteration, if the engine was not idle since
        self._origin_s = clock()

    # --- Engine ---

    @property
    def facts(self) -> EngineFacts:
        """See `Engine.facts`."""
        return self._facts

    @property
    def basis(self) -> Basis:
        """Always "measured"."""
        return "measured"

    def now(self) -> float:
        """Seconds of the clock since construction, with the idle time that was skipped."""
        return self._clock() - self._origin_s + self._skipped_s

    def submit(self, call: Call) -> Handle:
        """See `Engine.submit`; group fields are ignored."""
        self._check_open()
        self._facts.check_fits(call)
        for token in (min(call.prompt_ids), max(call.prompt_ids)):
            if not 0 <= token < self.vocabulary:
                raise ConfigError(f"call {call.tag!r}: token {token} is not one of the model's {self.vocabulary}.")
        self._counter += 1
        name = f"call-{self._counter}"
        handle = Handle(call)
        self._flights[name] = _Flight(call, handle, self.now())
        self._manager.add_request(
            list(call.prompt_ids),
            request_id=name,
            max_new_tokens=call.max_tokens,
            eos_token_id=list(call.stop_ids) or -1,
        )
        return handle

    def free_tokens(self) -> int:
        """See `Engine.free_tokens`."""
        pages = self._facts.pool_tokens // self._facts.page_tokens
        return round(self._processor.cache.compute_free_capacity() * pages) * self._facts.page_tokens

    def promised_tokens(self) -> int:
        """See `Engine.promised_tokens`."""
        page = self._facts.page_tokens
        most = sum(
            pages_for(len(flight.call.prompt_ids) + flight.call.max_tokens, page) * page
            for flight in self._flights.values()
        )
        return max(0, most - (self._facts.pool_tokens - self.free_tokens()))

    def load(self) -> Load:
        """See `Engine.load`."""
        active = self._processor.scheduler.active_requests
        prefill, decode, running = 0, 0, 0
        for name, flight in self._flights.items():
            state = active.get(name)
            generated = 0 if state is None else state.generated_len()
            prefill += len(flight.call.prompt_ids) if state is None else len(state.remaining_prefill_tokens)
            decode += flight.call.max_tokens - generated
            running += state is not None
        return Load(running, len(self._flights) - running, prefill, decode)

    def call_at(self, at_s: float, callback: Callable[[], object]) -> None:
        """See `Engine.call_at`."""
        self._counter += 1
        heapq.heappush(self._timers, (at_s, self._counter, callback))

    def run(self) -> None:
        """See `Engine.run`."""
        self._check_open()
        if self._is_running:
            raise ConfigError("run was called by a callback of run; callbacks return and the engine goes on.")
        self._is_running = True
        try:
            while True:
                self._call_due(self.now())
                if self._flights:
                    self.step()
                elif self._timers:
                    self._wait(self._timers[0][0] - self.now())
                else:
                    return
        finally:
            self._is_running = False

    def close(self) -> None:
        """Free the pool and give the model its attention implementation back."""
        if self._manager is None:
            return
        self._manager.destroy()
        if self._loaded.config._attn_implementation != self._attention:
            self._loaded.model.set_attn_implementation(self._attention)
        self._manager = self._processor = None

    def __enter__(self) -> "TransformersEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- below the protocol ---

    @property
    def iterations(self) -> int:
        """Engine iterations done."""
        return self._iterations

    @property
    def trace(self) -> tuple[Step, ...]:
        """One entry per iteration, if `keep_trace` was set."""
        return tuple(self._trace or ())

    @property
    def vocabulary(self) -> int:
        """Tokens that the model knows."""
        return int(self._loaded.config.vocab_size)

    def partial_answers(self) -> Iterator[tuple[Handle, tuple[int, ...], tuple[float, ...]]]:
        """Tokens and log-probabilities so far of each call that is being computed; for streaming."""
        active = self._processor.scheduler.active_requests
        for name, flight in self._flights.items():
            state = active.get(name)
            if state is not None:
                output = state.to_generation_output()  # knows the tokens from before a recomputation too
                yield flight.handle, tuple(map(int, output.generated_tokens)), tuple(map(float, output.logprobs))

    def limit_batch(self, max_batch_tokens: int) -> None:
        """Compute at most so many tokens per iteration from now on; for calibration, which wants prompts cut at will."""
        if not 1 <= max_batch_tokens <= self._facts.max_batch_tokens:
            raise ConfigError(f"max_batch_tokens={max_batch_tokens} is not within 1 to {self._facts.max_batch_tokens}.")
        self._processor.max_batch_tokens = max_batch_tokens

    def step(self) -> bool:
        """One engine iteration, with the callbacks of what it finished; False if there was nothing to compute."""
        import torch

        scheduler = self._processor.scheduler
        begin_s = self.now()
        with torch.no_grad():
            if not self._processor.prepare_next_batch():
                return False
            batch = [
                (one.query_length, one.state.position_offset, one.state.generated_len() > 0) for one in self._batch()
            ]
            self._manager._generation_step()
            self._processor.update_batch()
        self._iterations += 1
        now_s = self.now()
        if self._trace is not None:
            seconds = now_s - (begin_s if self._ended_s is None else self._ended_s)
            prompts = tuple((new, kv - new) for new, kv, decodes in batch if not decodes)
            self._trace.append(Step(seconds, prompts, tuple(kv for _, kv, decodes in batch if decodes)))
        self._ended_s = now_s
        for name, flight in self._flights.items():
            state = scheduler.active_requests.get(name)
            if state is None:
                if name in scheduler.waiting_requests and flight.started_s is not None and not flight.is_waiting_again:
                    flight.preemptions += 1
                    flight.is_waiting_again = True
                continue
            flight.is_waiting_again = False
            if flight.started_s is None:
                flight.started_s = begin_s
            if flight.first_token_s is None and state.generated_len():
                flight.first_token_s = now_s
        self._deliver(begin_s, now_s)
        return True

    def _batch(self) -> list[Any]:
        """The requests of the iteration that was prepared; nothing unless a trace is kept."""
        return [] if self._trace is None else list(self._processor.inputs_and_outputs.requests_in_batch)

    def _call_due(self, now_s: float) -> None:
        while self._timers and self._timers[0][0] <= now_s:
            heapq.heappop(self._timers)[2]()

    def _deliver(self, begin_s: float, now_s: float) -> None:
        outputs = self._manager.output_router.output_queue
        done: list[Completion] = []
        handles: list[Handle] = []
        while not outputs.empty():
            output = outputs.get_nowait()
            flight = self._flights.pop(output.request_id)
            is_failed = output.error is not None
            started_s = flight.started_s if flight.started_s is not None else begin_s
            first_s = flight.first_token_s if flight.first_token_s is not None else now_s
            done.append(
                Completion(
                    flight.call,
                    () if is_failed else tuple(int(token) for token in output.generated_tokens),
                    () if is_failed else tuple(float(value) for value in output.logprobs),
                    flight.submitted_s,
                    started_s,
                    None if is_failed else first_s,
                    now_s,
                    output.error,
                    flight.preemptions,
                )
            )
            handles.append(flight.handle)
        # What was due during the iteration came before its end, and so before what its completions lead to.
        if self._is_running:
            self._call_due(now_s)
        for handle, completion in zip(handles, done, strict=True):
            handle.finish(completion)

    def _wait(self, seconds: float) -> None:
        if seconds <= 0:
            return
        self._ended_s = None
        if self._sleep is None:
            self._skipped_s += seconds
        else:
            self._sleep(seconds)

    def _check_open(self) -> None:
        if self._manager is None:
            raise ConfigError("this engine was closed; make a new one.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers logs an error when psutil, which it does not need with all sizes given, is not installed."""
    logger = logging.getLogger(_LOGGER)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _build(loaded: LoadedModel, facts: EngineFacts, *, shares_prefixes: bool, safety_margin: float) -> tuple[Any, Any]:
    import transformers
    from transformers import ContinuousBatchingConfig, GenerationConfig

    # Every size is given: sizing by free memory needs psutil on a CPU, and would make runs depend on the machine.
    settings = ContinuousBatchingConfig(
        page_size=facts.page_tokens,
        num_blocks=facts.pool_tokens // facts.page_tokens,
        max_batch_tokens=facts.max_batch_tokens,
        max_requests_per_batch=facts.max_seqs,
        max_blocks_per_request=0,
        allow_block_sharing=shares_prefixes,
        use_cuda_graph=False,
        use_async_batching=False,
        return_logprobs=True,
        auto_switch_to_flash=False,
        safety_margin=safety_margin,
        seed=0,
    )
    with _quiet():
        manager: Any = loaded.model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1), continuous_batching_config=settings
        )
        try:
            processor = manager._create_batch_processor()
            manager.batch_processor = processor
            manager.current_batch = 0
            needed = (processor.prepare_next_batch, processor.update_batch, manager._generation_step)
            assert all(map(callable, needed))
        except (AttributeError, TypeError) as error:
            raise ReproError(
                f"transformers {transformers.__version__} has another continuous-batching loop inside ({error}); "
                "this engine was written for 5.23: pip install -c constraints.txt transformers."
            ) from error
    return manager, processor
