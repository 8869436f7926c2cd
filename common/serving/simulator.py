"""SimEngine: continuous batching on one replica, in virtual time, one event per engine iteration.

    waiting --admit--> prefilling --last prompt token--> decoding --last token--> done
       ^  (pages for the prompt, token budget, watermark)          |
       +------------------ preempted: pages freed, recomputed ------+

One iteration (RAGServe sheet, 8.3), of at most `max_batch_tokens` tokens:
1. Every decoding sequence computes one token. Where a page is missing, the sequence admitted last is preempted: its pages
   are freed, it goes to the front of the queue, and what it has generated becomes prompt to be recomputed.
2. Prompts that are partly computed get what is left of the budget, in the order of their admission.
3. Waiting calls are admitted first come, first served, while pages, budget and `max_seqs` last. If the first does not fit,
   nobody passes it (head-of-line blocking is intended; `SimOptions.passes` lifts it). No admission in an iteration that
   preempted.
4. The clock moves by the cost model's time. A sequence whose prompt is complete emits its first token in that iteration;
   finished ones free their pages, then callbacks run, then the next iteration is put together.

Which tokens a call "generates" comes from the caller: a replay of what a model really said.

While nothing can be admitted and no prompt is open, iterations differ in three sums only (sequences, KV tokens, page faults), so
they are advanced without looking at sequences: the result is the same number for number (a test compares both ways).
"""

import bisect
import dataclasses
import functools
import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from common.errors import ConfigError
from common.results import Basis
from common.serving.api import Answers, Call, Completion, EngineFacts, Handle, Load, pages_for
from common.serving.cost import CostModel

Admission = Literal["whole_prompt", "chunk"]
Order = Literal["fcfs", "gang"]
GangRule = Literal["whole", "adjacent"]


@dataclasses.dataclass(frozen=True)
class SimOptions:
    """How the simulated server schedules.

    Attributes:
        admission: "whole_prompt" takes pages for the whole prompt when a call is admitted (vLLM's v0 rule), "chunk" takes them
            as the prompt is computed (v1).
        order: "fcfs", or "gang" as Parrot does on one engine: deeper stages first, then calls that somebody waits for
            before those of large groups, groups admitted together, and a group's common prompt prefix kept once.
        gang_rule: "whole" admits a group only when all of its waiting calls fit (one by one if they never would);
            "adjacent" keeps them together in the queue but admits each as it fits. (inferred: Parrot dispatches a group
            as one; what it does about memory on a single engine is not stated.)
        passes: a waiting call that does not fit is passed by later ones that do, as in transformers' engine; with "fcfs" only.
        is_fast: advance iterations in which only sums change without looking at sequences; the result is the same.
        keep_trace: record a row for every iteration.
    """

    admission: Admission = "whole_prompt"
    order: Order = "fcfs"
    gang_rule: GangRule = "whole"
    passes: bool = False
    is_fast: bool = True
    keep_trace: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("admission", ("whole_prompt", "chunk")),
            ("order", ("fcfs", "gang")),
            ("gang_rule", ("whole", "adjacent")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}.")
        if self.passes and self.order != "fcfs":
            raise ConfigError(f"passes=True is an exception to order='fcfs'; order={self.order!r} keeps its own.")


@dataclasses.dataclass(frozen=True, slots=True)
class Iteration:
    """One row of the trace.

    Attributes:
        start_s, step_s: when it began, how long it took.
        prefill_tokens, num_decode: what it computed.
        used_pages: pages in use during it.
        running, waiting: sequences, after admission.
        preempted: sequences that lost their pages.
    """

    start_s: float
    step_s: float
    prefill_tokens: int
    num_decode: int
    used_pages: int
    running: int
    waiting: int
    preempted: int


class _Prefix:
    """Pages of a common prompt prefix: computed once, shared by the sequences that hold a reference."""

    __slots__ = ("key", "pages", "ready", "refs")

    def __init__(self, key: tuple[int, ...], pages: int) -> None:
        self.key, self.pages, self.refs, self.ready = key, pages, 0, False


class _Sequence:
    """A call in the engine. What decoding changes is derived from the number of iterations since it began to decode."""

    __slots__ = (
        "admitted_as",
        "answer_len",
        "call",
        "computed",
        "decode_from",
        "emitted",
        "first_token_s",
        "handle",
        "is_leader",
        "logprobs",
        "max_pages",
        "need",
        "order",
        "preemptions",
        "prefix",
        "prefix_key",
        "started_s",
        "submitted_s",
        "tokens",
    )

    def __init__(self, call: Call, handle: Handle, tokens: tuple[int, ...], logprobs: tuple[float, ...], order: int):
        self.call, self.handle, self.tokens, self.logprobs, self.order = call, handle, tokens, logprobs, order
        self.answer_len = len(tokens)
        self.need = len(call.prompt_ids)  # tokens to compute before the next one can be emitted
        self.computed = 0  # of them
        self.emitted = 0  # tokens of the answer that were there when it was last admitted
        self.decode_from = -1  # iterations done when it began to decode; -1 while it does not
        self.submitted_s = 0.0
        self.started_s = -1.0
        self.first_token_s = -1.0
        self.preemptions = 0
        self.admitted_as = -1
        self.max_pages = 0
        self.prefix: _Prefix | None = None
        self.prefix_key: tuple[int, ...] = ()
        self.is_leader = False


class SimEngine:
    """A simulated server of one model; implements `common.serving.api.Engine`.

    Args:
        facts: pool, pages, budget of the server. `watermark_tokens` is kept free by admission (vLLM: 1 % of the pool).
        cost: time of an iteration.
        answers: what each call generates. At least one token, at most `max_tokens`.
        options: how it schedules.
        steps_s: seconds of the first iterations, in turn, instead of the cost model's: those of a real engine, to see the
            scheduling alone. Every iteration is then looked at in full.
    """

    def __init__(
        self,
        facts: EngineFacts,
        cost: CostModel,
        answers: Answers,
        options: SimOptions | None = None,
        steps_s: Sequence[float] = (),
    ) -> None:
        self.facts = facts
        self.cost = cost
        self.options = options if options is not None else SimOptions()
        self._answers = answers
        self._steps_s = steps_s
        self._page = facts.page_tokens
        self.num_pages = facts.pool_tokens // facts.page_tokens
        self._watermark = pages_for(facts.watermark_tokens, facts.page_tokens)
        self._linear, self._read = _tables(cost, facts.max_batch_tokens)
        self._now_s = 0.0
        self._ends_s: float | None = None  # end of the iteration under way
        self._chunks: list[tuple[_Sequence, int]] = []  # and what it prefills
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._counter = 0
        self._submitted = 0
        self._admitted = 0
        # Sequences that hold memory, in the order of admission: dictionaries keep order and forget in O(1).
        self._running: dict[_Sequence, None] = {}
        self._prefilling: dict[_Sequence, None] = {}
        self._num_decode = 0
        self._kv_sum = 0  # tokens in the cache of decoding sequences
        self._faults = [0] * self._page  # decoding sequences by the iteration (mod page) in which they need a page
        self._finish_at: dict[int, list[_Sequence]] = {}
        self._iterations = 0
        self._free = self.num_pages
        self._prefixes: dict[tuple[int, ...], _Prefix] = {}
        self._shared_pages = 0
        self._owed_pages = 0  # sum over all calls of the pages they may hold at most, without shared ones they have
        self._fifo: deque[_Sequence] = deque()
        self._gang: list[tuple[tuple[int, int, int, int], _Sequence]] = []
        self._is_blocked = False  # the head of the queue did not fit, and nothing was freed since
        self._trace: list[Iteration] = []
        self._is_running = False

    # --- what controllers use ---

    @property
    def basis(self) -> Basis:
        """That of the cost model."""
        return self.cost.basis

    def now(self) -> float:
        """Virtual time."""
        return self._now_s

    def submit(self, call: Call) -> Handle:
        """Queue a call; see `Engine.submit`. Raises ConfigError also if `answers` gives no or too many tokens."""
        self.facts.check_fits(call)
        answer = self._answers(call)
        if not 1 <= len(answer.tokens) <= call.max_tokens:
            raise ConfigError(
                f"call {call.tag!r}: the replayed answer has {len(answer.tokens)} tokens; 1 to {call.max_tokens} "
                "(max_tokens) can be generated. Record the answer with the same max_tokens."
            )
        handle = Handle(call)
        self._submitted += 1
        sequence = _Sequence(call, handle, answer.tokens, answer.logprobs, self._submitted)
        sequence.submitted_s = self._now_s
        sequence.max_pages = pages_for(len(call.prompt_ids) + call.max_tokens, self._page)
        if self.options.order == "gang" and call.group and call.prefix_tokens:
            # The last prompt token is always computed: its logits give the first token of the answer.
            whole_pages = min(call.prefix_tokens, len(call.prompt_ids) - 1) // self._page
            sequence.prefix_key = call.prompt_ids[: whole_pages * self._page]
        self._owed_pages += sequence.max_pages
        self._enqueue(sequence)
        self._is_blocked = False
        return handle

    def free_tokens(self) -> int:
        """See `Engine.free_tokens`."""
        return self._free * self._page

    def promised_tokens(self) -> int:
        """See `Engine.promised_tokens`."""
        # DEVIATION ragserve-20: waiting calls promise their answers too, not only their prompts.
        private = self.num_pages - self._free - self._shared_pages
        return (self._owed_pages - private) * self._page

    def load(self) -> Load:
        """See `Engine.load`."""
        waiting = list(self._waiting())
        prefill = sum(s.need - s.computed for s in self._prefilling) + sum(s.need for s in waiting)
        decode = sum(s.call.max_tokens - self._emitted(s) for s in self._running)
        decode += sum(s.call.max_tokens - s.emitted for s in waiting)
        return Load(len(self._running), len(waiting), prefill, decode)

    def call_at(self, at_s: float, callback: Callable[[], object]) -> None:
        """See `Engine.call_at`."""
        self._counter += 1
        heapq.heappush(self._timers, (max(at_s, self._now_s), self._counter, callback))

    def run(self) -> None:
        """See `Engine.run`."""
        if self._is_running:
            raise ConfigError("run was called by a callback of run; callbacks return and the engine goes on.")
        self._is_running = True
        try:
            while True:
                timers = self._timers
                if self._ends_s is None:
                    if timers and timers[0][0] <= self._now_s:
                        heapq.heappop(timers)[2]()
                    elif self._running or self._fifo or self._gang:
                        self._begin()
                    elif timers:
                        self._now_s = timers[0][0]
                    else:
                        return
                elif timers and timers[0][0] <= self._ends_s:
                    at_s, _, callback = heapq.heappop(timers)
                    self._now_s = at_s
                    callback()
                else:
                    self._end()
        finally:
            self._is_running = False

    def close(self) -> None:
        """Nothing to free."""

    # --- what experiments and tests read ---

    @property
    def iterations(self) -> int:
        """Engine iterations done."""
        return self._iterations

    @property
    def trace(self) -> tuple[Iteration, ...]:
        """One row per iteration, if `keep_trace` was set."""
        return tuple(self._trace)

    def check(self) -> None:
        """Assert that the books are in order: pages, sums and promises, each counted anew. O(sequences); for tests."""
        private = sum(self._private_pages(sequence) for sequence in self._running)
        assert private + self._shared_pages + self._free == self.num_pages, "pages were lost or made"
        assert 0 <= self._free <= self.num_pages
        assert self._shared_pages == sum(prefix.pages for prefix in self._prefixes.values())
        for prefix in self._prefixes.values():
            assert prefix.refs == sum(s.prefix is prefix for s in self._running) > 0
        decoding = [s for s in self._running if s.decode_from >= 0]
        assert len(decoding) == self._num_decode
        assert self._kv_sum == sum(self._cached(s) for s in decoding)
        assert sum(self._faults) == len(decoding)
        assert set(self._prefilling) | set(decoding) == set(self._running)
        held = {s: s.prefix.pages if s.prefix is not None else 0 for s in self._running}
        owed = sum(s.max_pages for s in self._waiting()) + sum(s.max_pages - held[s] for s in self._running)
        assert owed == self._owed_pages
        assert len(self._running) <= self.facts.max_seqs

    # --- one iteration ---

    def _begin(self) -> None:
        is_fast = self.options.is_fast and self._iterations >= len(self._steps_s)
        if is_fast and not self._prefilling and (self._is_blocked or not (self._fifo or self._gang)):
            self._stretch()
            due = self._finish_at.pop(self._iterations, None)
            if due:
                self._finish(due)
                return
        preempted = self._make_room_for_decodes()
        page_faults = self._faults[-self._iterations % self._page]
        self._free -= page_faults
        budget = self.facts.max_batch_tokens - self._num_decode
        chunks: list[tuple[_Sequence, int]] = []
        for sequence in list(self._prefilling):
            if budget <= 0:
                break
            if sequence not in self._running:  # preempted by one before it
                continue
            budget, lost = self._continue_prefill(sequence, budget, chunks)
            preempted += lost
        if not preempted:
            budget = self._admit(budget, chunks)
        pairs, prefill_tokens, prefill_kv = 0.0, 0, 0
        for sequence, new in chunks:
            pairs += new * sequence.computed + new * (new + 1) / 2
            prefill_tokens += new
            prefill_kv += sequence.computed + new
        num_decode = self._num_decode
        tokens = prefill_tokens + num_decode
        if tokens == 0:
            raise AssertionError("an iteration computes nothing although calls are there")
        decode_kv = self._kv_sum + num_decode
        cost = self.cost
        step_s = (
            self._linear[tokens]
            + cost.decode_s * num_decode
            + cost.chunk_s * len(chunks)
            + cost.beta_s * pairs
            + cost.gamma_s * decode_kv
            + self._read[tokens] * (decode_kv + prefill_kv)
        )
        if self._iterations < len(self._steps_s):
            step_s = self._steps_s[self._iterations]
        self._chunks = chunks
        self._ends_s = self._now_s + step_s
        if self.options.keep_trace:
            self._note(step_s, prefill_tokens, preempted)

    def _end(self) -> None:
        assert self._ends_s is not None
        self._now_s, self._ends_s = self._ends_s, None
        self._iterations += 1
        self._kv_sum += self._num_decode
        for sequence, new in self._chunks:
            sequence.computed += new
            if sequence.is_leader and sequence.prefix is not None and not sequence.prefix.ready:
                sequence.prefix.ready = sequence.computed >= len(sequence.prefix.key)
            if sequence.computed == sequence.need:
                del self._prefilling[sequence]
                if sequence.first_token_s < 0:
                    sequence.first_token_s = self._now_s
                self._start_decoding(sequence)
        self._chunks = []
        done = self._finish_at.pop(self._iterations, [])
        if done:
            self._finish(done)

    def _stretch(self) -> None:
        """Iterations in which only sums change, until one of: a sequence finishes, a page is missing, a timer is due."""
        num_decode = self._num_decode
        if not num_decode:
            return
        faults, page, gamma_s = self._faults, self._page, self.cost.gamma_s
        base_s = self._linear[num_decode] + self.cost.decode_s * num_decode
        read_s = self._read[num_decode]
        kv_sum, free, now_s, done = self._kv_sum, self._free, self._now_s, self._iterations
        due_s = self._timers[0][0] if self._timers else float("inf")
        finish_at, keep_trace = self._finish_at, self.options.keep_trace
        while True:
            need = faults[-done % page]
            if need > free:
                break
            kv_read = kv_sum + num_decode
            step_s = base_s + gamma_s * kv_read + read_s * kv_read
            end_s = now_s + step_s
            if due_s <= end_s:
                break
            free -= need
            if keep_trace:
                self._free, self._now_s = free, now_s
                self._note(step_s, 0, 0)
            kv_sum, now_s, done = kv_read, end_s, done + 1
            if done in finish_at:
                break
        self._kv_sum, self._free, self._now_s, self._iterations = kv_sum, free, now_s, done

    def _note(self, step_s: float, prefill_tokens: int, preempted: int) -> None:
        used = self.num_pages - self._free
        waiting = len(self._fifo) + len(self._gang)
        row = (self._now_s, step_s, prefill_tokens, self._num_decode, used, len(self._running), waiting, preempted)
        self._trace.append(Iteration(*row))

    def _make_room_for_decodes(self) -> int:
        preempted = 0
        while self._faults[-self._iterations % self._page] > self._free:
            self._preempt(next(reversed(self._running)))
            preempted += 1
        return preempted

    def _continue_prefill(
        self, sequence: _Sequence, budget: int, chunks: list[tuple[_Sequence, int]]
    ) -> tuple[int, int]:
        """Give an open prompt what it can get of the budget; returns what is left of it and how many were preempted."""
        prefix = sequence.prefix
        if prefix is not None and not prefix.ready and not sequence.is_leader:
            return budget, 0  # its leader still computes the prefix
        new = min(sequence.need - sequence.computed, budget)
        preempted = 0
        if self.options.admission == "chunk":
            extra = self._private_for(sequence, sequence.computed + new) - self._private_pages(sequence)
            while extra > self._free:
                victim = next(reversed(self._running))
                self._preempt(victim)
                preempted += 1
                chunks[:] = [(other, n) for other, n in chunks if other is not victim]
                if victim is sequence:
                    return budget, preempted
            self._free -= extra
        chunks.append((sequence, new))
        return budget - new, preempted

    # --- admission ---

    def _admit(self, budget: int, chunks: list[tuple[_Sequence, int]]) -> int:
        gang = self.options.order == "gang"
        while budget > 0 and (self._fifo or self._gang):
            if len(self._running) >= self.facts.max_seqs:
                self._is_blocked = True
                break
            head = self._fifo[0] if self._fifo else self._gang[0][1]
            group = [head]
            if gang and not self._fifo and head.call.group and self.options.gang_rule == "whole":
                group = self._waiting_group(head)
                if not self._could_ever_fit(group):
                    group = [head]
            if not self._fits(group, budget):
                if self.options.passes:
                    budget = self._admit_passing(budget, chunks)
                self._is_blocked = budget > 0
                break
            for sequence in group:
                budget = self._place(sequence, budget, chunks)
        return budget

    def _admit_passing(self, budget: int, chunks: list[tuple[_Sequence, int]]) -> int:
        """Take in those that fit of the calls behind the first, which does not; returns what is left of the budget."""
        for sequence in list(self._fifo)[1:]:
            if budget <= 0:
                break
            if self._fits([sequence], budget):
                budget = self._place(sequence, budget, chunks)
        return budget

    def _place(self, sequence: _Sequence, budget: int, chunks: list[tuple[_Sequence, int]]) -> int:
        """Take a waiting sequence in: pages, and as much of the prompt as the budget allows."""
        self._dequeue(sequence)
        if sequence.prefix_key:
            prefix = self._prefixes.get(sequence.prefix_key)
            if prefix is None:
                prefix = _Prefix(sequence.prefix_key, len(sequence.prefix_key) // self._page)
                self._prefixes[sequence.prefix_key] = prefix
                self._free -= prefix.pages
                self._shared_pages += prefix.pages
                sequence.is_leader = True
            prefix.refs += 1
            sequence.prefix = prefix
            self._owed_pages -= prefix.pages
            if not sequence.is_leader:
                sequence.computed = len(prefix.key)
        self._admitted += 1
        sequence.admitted_as = self._admitted
        self._running[sequence] = None
        self._prefilling[sequence] = None
        if sequence.started_s < 0:
            sequence.started_s = self._now_s
        if self.options.admission == "whole_prompt":
            self._free -= self._private_for(sequence, sequence.need)
            if budget <= 0:
                return budget
            new_budget, _ = self._continue_prefill(sequence, budget, chunks)
            return new_budget
        waits = sequence.prefix is not None and not sequence.prefix.ready and not sequence.is_leader
        new = 0 if waits else min(sequence.need - sequence.computed, max(budget, 0))
        self._free -= self._private_for(sequence, sequence.computed + new)
        if new:
            chunks.append((sequence, new))
        return budget - new

    def _pages_to_admit(self, group: list[_Sequence], budget: int) -> int:
        """Pages that the group takes the moment it is admitted; a prefix that is not there yet counts once."""
        total, fresh = 0, set()
        for sequence in group:
            key = sequence.prefix_key
            shared = len(key) // self._page
            is_known = key in self._prefixes or key in fresh
            if shared and not is_known:
                fresh.add(key)
                total += shared
            if self.options.admission == "whole_prompt":
                total += pages_for(sequence.need, self._page) - shared
            else:
                start = len(key) if is_known else 0
                new = min(sequence.need - start, max(budget, 0))
                budget -= new
                total += max(0, pages_for(start + new, self._page) - shared)
        return total

    def _fits(self, group: list[_Sequence], budget: int) -> bool:
        if len(self._running) + len(group) > self.facts.max_seqs:
            return False
        # With nothing running, what is kept free would serve nobody; a recomputed prompt may need all of it.
        watermark = self._watermark if self._running else 0
        return self._pages_to_admit(group, budget) <= self._free - watermark

    def _could_ever_fit(self, group: list[_Sequence]) -> bool:
        pages = sum(pages_for(s.need, self._page) - len(s.prefix_key) // self._page for s in group)
        pages += sum(len(key) // self._page for key in {s.prefix_key for s in group})
        return pages <= self.num_pages - self._watermark and len(group) <= self.facts.max_seqs

    # --- queue ---

    def _enqueue(self, sequence: _Sequence) -> None:
        if self.options.order == "fcfs":
            self._fifo.append(sequence)
        else:
            call = sequence.call
            first = sequence.order
            if call.group:  # a group stands where its first waiting call stands
                same = [s.order for key, s in self._gang if s.call.group == call.group and key[:2] == _rank(call)]
                first = min([*same, first])
            bisect.insort(self._gang, ((*_rank(call), first, sequence.order), sequence), key=lambda entry: entry[0])

    def _dequeue(self, sequence: _Sequence) -> None:
        if self._fifo:
            if self._fifo[0] is sequence:
                self._fifo.popleft()
                return
            if self.options.passes:
                self._fifo.remove(sequence)
                return
        for index, (_, other) in enumerate(self._gang):
            if other is sequence:
                del self._gang[index]
                return
        raise AssertionError("a sequence left the queue without being in it")

    def _waiting(self) -> Iterator[_Sequence]:
        yield from self._fifo
        for _, sequence in self._gang:
            yield sequence

    def _waiting_group(self, head: _Sequence) -> list[_Sequence]:
        rank = _rank(head.call)
        return [s for key, s in self._gang if key[:2] == rank and s.call.group == head.call.group]

    # --- life of a sequence ---

    def _start_decoding(self, sequence: _Sequence) -> None:
        """Its prompt is complete and one token emitted: from the next iteration on it decodes."""
        sequence.decode_from = self._iterations
        self._num_decode += 1
        self._kv_sum += sequence.need
        self._faults[(sequence.need - sequence.decode_from) % self._page] += 1
        last = self._iterations + sequence.answer_len - sequence.emitted - 1
        self._finish_at.setdefault(last, []).append(sequence)

    def _stop_decoding(self, sequence: _Sequence) -> None:
        self._num_decode -= 1
        self._kv_sum -= self._cached(sequence)
        self._faults[(sequence.need - sequence.decode_from) % self._page] -= 1

    def _cached(self, sequence: _Sequence) -> int:
        """Tokens in its cache."""
        if sequence.decode_from < 0:
            return sequence.computed
        return sequence.need + self._iterations - sequence.decode_from

    def _emitted(self, sequence: _Sequence) -> int:
        if sequence.decode_from < 0:
            return sequence.emitted
        return sequence.emitted + 1 + self._iterations - sequence.decode_from

    def _private_for(self, sequence: _Sequence, tokens: int) -> int:
        shared = sequence.prefix.pages if sequence.prefix is not None else 0
        return max(0, pages_for(tokens, self._page) - shared)

    def _private_pages(self, sequence: _Sequence) -> int:
        """Pages that are its own. During an iteration those that the iteration fills are among them."""
        if sequence.decode_from >= 0:
            in_flight = 1 if self._ends_s is not None else 0
            return self._private_for(sequence, self._cached(sequence) + in_flight)
        if self.options.admission == "whole_prompt":
            return self._private_for(sequence, sequence.need)
        new = sum(n for other, n in self._chunks if other is sequence) if self._ends_s is not None else 0
        return self._private_for(sequence, sequence.computed + new)

    def _release(self, sequence: _Sequence) -> None:
        self._free += self._private_pages(sequence)
        prefix = sequence.prefix
        if prefix is not None:
            prefix.refs -= 1
            self._owed_pages += prefix.pages
            if prefix.refs == 0:
                del self._prefixes[prefix.key]
                self._free += prefix.pages
                self._shared_pages -= prefix.pages
            sequence.prefix = None
            sequence.is_leader = False
        self._is_blocked = False

    def _preempt(self, sequence: _Sequence) -> None:
        self._release(sequence)
        del self._running[sequence]
        if sequence.decode_from >= 0:
            last = sequence.decode_from + sequence.answer_len - sequence.emitted - 1
            waiting_end = self._finish_at[last]
            waiting_end.remove(sequence)
            if not waiting_end:
                del self._finish_at[last]
            sequence.emitted = self._emitted(sequence)
            self._stop_decoding(sequence)
            sequence.decode_from = -1
        else:
            del self._prefilling[sequence]
        sequence.need = len(sequence.call.prompt_ids) + sequence.emitted
        sequence.computed = 0
        sequence.preemptions += 1
        self._fifo.appendleft(sequence)

    def _finish(self, sequences: list[_Sequence]) -> None:
        sequences.sort(key=lambda sequence: sequence.admitted_as)
        for sequence in sequences:
            self._release(sequence)
            del self._running[sequence]
            self._stop_decoding(sequence)
            self._owed_pages -= sequence.max_pages
        # Callbacks run when all of them have left: each sees the same, true state of the engine.
        for sequence in sequences:
            sequence.handle.finish(
                Completion(
                    sequence.call,
                    sequence.tokens,
                    sequence.logprobs,
                    sequence.submitted_s,
                    sequence.started_s,
                    sequence.first_token_s,
                    self._now_s,
                    None,
                    sequence.preemptions,
                )
            )


@functools.lru_cache(maxsize=32)
def _tables(cost: CostModel, max_batch_tokens: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Both curves of a cost model by tokens, with what every iteration costs; kept, as a study makes thousands of engines."""
    tokens = range(max_batch_tokens + 1)
    return tuple(cost.linear(n) + cost.cpu_s for n in tokens), tuple(cost.read(n) for n in tokens)


def _rank(call: Call) -> tuple[int, int]:
    """Gang order: deeper stages first, then calls that somebody waits for."""
    return (-call.depth, 0 if call.service == "latency" else 1)
