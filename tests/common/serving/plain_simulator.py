"""The simulator's rules once more, written token by token with lists and no book-keeping: the oracle of its tests."""

from collections import deque


class PlainSequence:
    def __init__(self, index, prompt, answer):
        self.index, self.prompt, self.answer = index, prompt, answer
        self.need, self.cached, self.emitted, self.pages = prompt, 0, 0, 0
        self.first_s = self.done_s = self.started_s = None
        self.preemptions = 0

    @property
    def is_prefilling(self):
        return self.cached < self.need


def simulate(facts, cost, arrivals, admission="whole_prompt"):
    """`arrivals`: (time, prompt tokens, answer tokens) in order of time. Returns the sequences, finished."""
    page, watermark = facts.page_tokens, -(-facts.watermark_tokens // facts.page_tokens)
    free = facts.pool_tokens // page
    sequences = [PlainSequence(i, prompt, answer) for i, (_, prompt, answer) in enumerate(arrivals)]
    coming = deque((at_s, sequence) for (at_s, _, _), sequence in zip(arrivals, sequences, strict=True))
    waiting, running = deque(), []
    now = 0.0

    def pages(tokens):
        return -(-tokens // page)

    def preempt():
        nonlocal free
        victim = running.pop()
        free += victim.pages
        victim.pages, victim.cached, victim.need = 0, 0, victim.prompt + victim.emitted
        victim.preemptions += 1
        waiting.appendleft(victim)
        return victim

    while coming or waiting or running:
        if not waiting and not running:
            now = max(now, coming[0][0])
        while coming and coming[0][0] <= now:
            waiting.append(coming.popleft()[1])
        preempted = False
        decodes = []
        for sequence in [s for s in running if not s.is_prefilling]:
            if sequence not in running:
                continue
            while sequence in running and pages(sequence.cached + 1) - sequence.pages > free:
                victim = preempt()
                preempted = True
                if victim in decodes:
                    decodes.remove(victim)
            if sequence in running:
                extra = pages(sequence.cached + 1) - sequence.pages
                free -= extra
                sequence.pages += extra
                decodes.append(sequence)
        decodes = [s for s in decodes if s in running]
        budget = facts.max_batch_tokens - len(decodes)
        chunks = []
        for sequence in [s for s in running if s.is_prefilling]:
            if sequence not in running or budget <= 0:
                continue
            new = min(sequence.need - sequence.cached, budget)
            if admission == "chunk":
                while sequence in running and pages(sequence.cached + new) - sequence.pages > free:
                    victim = preempt()
                    preempted = True
                    chunks = [(s, n) for s, n in chunks if s is not victim]
                if sequence not in running:
                    continue
                extra = pages(sequence.cached + new) - sequence.pages
                free -= extra
                sequence.pages += extra
            chunks.append((sequence, new))
            budget -= new
        while waiting and not preempted and budget > 0 and len(running) < facts.max_seqs:
            sequence = waiting[0]
            new = min(sequence.need, budget)
            extra = pages(sequence.need if admission == "whole_prompt" else new)
            if extra > free - (watermark if running else 0):
                break
            waiting.popleft()
            free -= extra
            sequence.pages = extra
            if sequence.started_s is None:
                sequence.started_s = now
            running.append(sequence)
            chunks.append((sequence, new))
            budget -= new
        end = now + cost.step(
            sum(n for _, n in chunks),
            sum(n * s.cached + n * (n + 1) / 2 for s, n in chunks),
            len(decodes),
            sum(s.cached + 1 for s in decodes),
            sum(s.cached + n for s, n in chunks),
            len(chunks),
        )
        for sequence in decodes:
            sequence.cached += 1
            sequence.need += 1
            sequence.emitted += 1
        for sequence, new in chunks:
            sequence.cached += new
            if not sequence.is_prefilling:
                sequence.emitted += 1
                sequence.first_s = end if sequence.first_s is None else sequence.first_s
        now = end
        for sequence in list(running):
            if sequence.emitted == sequence.answer:
                running.remove(sequence)
                free += sequence.pages
                sequence.done_s = now
    return sequences
