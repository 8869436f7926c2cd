"""Simulated servers: the bundled model on this machine (calibrated), and the paper's A40 (modelled).

    this_machine    cost model fitted to the real engine here; prompts as they are
    a40_7b          Vidur's operator table for a 7B model on an A40; every prompt token stands for `token_factor`
    tokens, because our
                    chunks are about one sixteenth of the paper's

The A40's delays are those of a machine that nobody here has: their rows have basis "modelled".
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.cache import ArtefactCache
from common.errors import ConfigError
from common.models.loading import LoadedModel
from common.results import Basis
from common.serving.api import Answers, Call, Completion, Engine, EngineFacts, Handle, Load
from common.serving.cost import CostModel, load_calibration, preset, preset_names
from common.serving.simulator import SimEngine, SimOptions

# DEVIATION ragserve-3: on the modelled A40 one prompt token of ours stands for 16: our chunks are that much shorter.
TOKEN_FACTOR = 16
THIS_MACHINE = "this_machine"


class AsIfLonger:
    """An engine on which every prompt token stands for several; implements `common.serving.api.Engine`.

    The inner engine sees prompts that are `factor` times as long; everything that a controller reads is divided by
    it. Answers keep their
    length.

    Args:
        make: builds the inner engine from the answers that it is to replay.
        answers: of the calls as the controller makes them.
        factor: >= 1.
        context_tokens: of the model whose answers are replayed.
    """

    def __init__(
        self, make: Callable[[Answers], SimEngine], answers: Answers, factor: int, context_tokens: int
    ) -> None:
        self._call: Call | None = None
        self._answers = answers
        self._inner = make(self._replay)
        self._factor = factor
        facts = self._inner.facts
        batch = max(1, facts.max_batch_tokens // factor)
        self.facts = EngineFacts(
            bytes_per_token=facts.bytes_per_token * factor,
            context_tokens=context_tokens,
            pool_tokens=facts.pool_tokens // factor,
            page_tokens=max(1, facts.page_tokens // factor),
            max_batch_tokens=batch,
            max_seqs=min(batch, facts.max_seqs),
            watermark_tokens=facts.watermark_tokens // factor,
        )

    def _replay(self, call: Call) -> Any:
        assert self._call is not None
        return self._answers(self._call)

    @property
    def basis(self) -> Basis:
        """That of the inner engine."""
        return self._inner.basis

    def now(self) -> float:
        """See `Engine.now`."""
        return self._inner.now()

    def submit(self, call: Call) -> Handle:
        """See `Engine.submit`."""
        self._call = call
        ids = tuple(np.repeat(call.prompt_ids, self._factor).tolist())
        longer = dataclasses.replace(call, prompt_ids=ids, prefix_tokens=call.prefix_tokens * self._factor)
        handle = Handle(call)

        def done(completion: Completion) -> None:
            handle.finish(dataclasses.replace(completion, call=call))

        self._inner.submit(longer).on_done(done)
        return handle

    def free_tokens(self) -> int:
        """See `Engine.free_tokens`."""
        return self._inner.free_tokens() // self._factor

    def promised_tokens(self) -> int:
        """See `Engine.promised_tokens`."""
        return -(-self._inner.promised_tokens() // self._factor)

    def load(self) -> Load:
        """See `Engine.load`."""
        busy = self._inner.load()
        return dataclasses.replace(busy, prefill_tokens=busy.prefill_tokens // self._factor)

    def call_at(self, at_s: float, callback: Callable[[], object]) -> None:
        """See `Engine.call_at`."""
        self._inner.call_at(at_s, callback)

    def run(self) -> None:
        """See `Engine.run`."""
        self._inner.run()

    def close(self) -> None:
        """See `Engine.close`."""
        self._inner.close()


@dataclasses.dataclass(frozen=True)
class Server:
    """A kind of server, from which engines with a given KV pool are made.

    Attributes:
        name: of results.
        cost: time of an iteration.
        facts: of an engine with the largest pool, in the server's own tokens.
        token_factor: server tokens that one of our prompt tokens stands for.
        context_tokens: of the model whose answers are replayed.
    """

    name: str
    cost: CostModel
    facts: EngineFacts
    token_factor: int
    context_tokens: int

    @property
    def basis(self) -> Basis:
        """Of delays on it."""
        return self.cost.basis

    @property
    def prefill_tokens_per_s(self) -> float:
        """Our prompt tokens per second in full batches."""
        budget = self.facts.max_batch_tokens
        return budget / self.cost.step(budget, 0.0, 0, 0, budget) / self.token_factor

    @property
    def decode_step_s(self) -> float:
        """Time of an iteration that decodes a few sequences."""
        context = 512 * self.token_factor
        return self.cost.step(0, 0.0, 4, 4 * context, 0)

    def engine(self, answers: Answers, pool_tokens: int, *, is_gang: bool = False) -> Engine:
        """A simulated engine with a KV pool of so many of *our* tokens.

        With gang admission the calls of a query stand together in the queue and each is admitted as it fits ("adjacent"): holding
        a whole group back until all of it fits would starve large groups on a scarce pool.

        Raises:
            ConfigError: a pool of less than a page.
        """
        if pool_tokens * self.token_factor < self.facts.page_tokens:
            raise ConfigError(f"pool_tokens={pool_tokens} is less than a page; a pool needs room for a prompt.")
        pool = pool_tokens * self.token_factor // self.facts.page_tokens * self.facts.page_tokens
        facts = dataclasses.replace(self.facts, pool_tokens=pool, watermark_tokens=pool // 100)
        options = SimOptions(order="gang" if is_gang else "fcfs", gang_rule="adjacent")
        if self.token_factor == 1:
            return SimEngine(facts, self.cost, answers, options)
        return AsIfLonger(
            lambda replay: SimEngine(facts, self.cost, replay, options), answers, self.token_factor, self.context_tokens
        )


def server(
    name: str,
    loaded: LoadedModel,
    cache: ArtefactCache,
    cpu_clock: Callable[[], float],
    machine: dict[str, Any],
) -> Server:
    """A server by name: "this_machine", a preset of `common.serving.cost`, or a calibration file.

    Args:
        name: see above; a path ends in .json.
        loaded: the model whose answers are replayed, and which is calibrated.
        cache: keeps the calibration of this machine and model.
        cpu_clock: `time.process_time`.
        machine: facts that identify the machine, in JSON types.

    Raises:
        ConfigError: no such server.
    """
    context_tokens = int(loaded.config.max_position_embeddings)
    if name in preset_names():
        found = preset(name)
        return Server(name, found.cost, found.facts, TOKEN_FACTOR, context_tokens)
    if name == THIS_MACHINE:
        folder = cache.get_or_make(
            "ragserve-calibration",
            {"model": loaded.fingerprint, "machine": machine, "version": 3},
            lambda path: _calibrate(loaded, cpu_clock, machine, path),
        )
        cost, _ = load_calibration(folder / "calibration.json")
    elif name.endswith(".json"):
        cost, _ = load_calibration(Path(name))
    else:
        raise ConfigError(
            f"there is no server {name!r}. Servers: {THIS_MACHINE}, {', '.join(preset_names())}, or a calibration file (.json)."
        )
    facts = EngineFacts(loaded.kv_bytes_per_token, context_tokens, 1 << 16, max_batch_tokens=512, max_seqs=64)
    return Server(name, cost, facts, 1, context_tokens)


def _calibrate(loaded: LoadedModel, cpu_clock: Callable[[], float], machine: dict[str, Any], folder: Path) -> None:
    import json

    import torch

    from common.serving.calibration import calibrate

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # CPU time is that of one thread only if there is one
    try:
        report = calibrate(loaded, cpu_clock, machine)
    finally:
        torch.set_num_threads(before)
    (folder / "calibration.json").write_text(json.dumps(report, indent=1))
