"""The command line: `python -m common.serving calibrate|serve|simulate`. `--help` says what each does.

Exit codes: 0 done; 1 it failed; 2 an argument was refused; 130 interrupted.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.cli import exit_status, port, positive
from common.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    return exit_status(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m common.serving", description="Serve a language model, really or in virtual time."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    calibrate = commands.add_parser("calibrate", help="fit the simulator's cost model to a model on this machine")
    _add_model(calibrate)
    calibrate.add_argument("--out", type=Path, required=True, help="file to write, JSON")
    calibrate.add_argument("--repeats", type=positive, default=9, help="timed repeats of each batch, at least 7")
    calibrate.add_argument("--rounds", type=positive, default=3, help="over how many rounds they are spread")
    calibrate.add_argument("--pool-tokens", type=int, default=16384, help="KV pool; larger batches are left out")
    calibrate.add_argument("--max-batch-tokens", type=int, default=512)
    calibrate.set_defaults(run=_calibrate)

    serve = commands.add_parser("serve", help="serve a model over HTTP, OpenAI-shaped (greedy completions, /metrics)")
    _add_model(serve)
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=port, default=8096)
    serve.add_argument("--pool-tokens", type=int, default=16384)
    serve.add_argument("--max-batch-tokens", type=int, default=512)
    serve.add_argument("--max-waiting", type=positive, default=256, help="further calls get 429")
    serve.set_defaults(run=_serve)

    simulate = commands.add_parser("simulate", help="Poisson arrivals of equal calls on a simulated server")
    simulate.add_argument("cost", help="preset (a40_7b, a40x2_70b) or a file that calibrate wrote")
    simulate.add_argument("--rate", type=float, default=0.5, help="calls per second")
    simulate.add_argument("--calls", type=positive, default=1000)
    simulate.add_argument("--prompt-tokens", type=positive, default=6000)
    simulate.add_argument("--answer-tokens", type=positive, default=40)
    simulate.add_argument("--pool-tokens", type=int, default=None, help="default: the preset's")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.set_defaults(run=_simulate)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="small", help="bundled name, folder, hub id, or random shape")
    parser.add_argument("--source", default="bundled", choices=("bundled", "local", "hf", "random"))


def _load(options: argparse.Namespace) -> Any:
    import torch

    from common.models.loading import ModelSpec, load

    torch.set_num_threads(1)  # CPU seconds of one thread are what calibration compares
    path = options.model if options.source in ("local", "hf") else None
    return load(ModelSpec(options.model, options.source, path))


def _calibrate(options: argparse.Namespace) -> None:
    from common.hardware import machine_facts
    from common.results import write_atomically
    from common.serving.calibration import calibrate

    if options.out.is_dir():
        raise ConfigError(f"--out {options.out} is a folder; name a file.")
    options.out.parent.mkdir(parents=True, exist_ok=True)  # before minutes of measuring, not after them

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done}/{total} batches", end="" if done < total else "\n", file=sys.stderr, flush=True)

    report = calibrate(
        _load(options),
        time.process_time,
        machine_facts(),
        pool_tokens=options.pool_tokens,
        max_batch_tokens=options.max_batch_tokens,
        repeats=options.repeats,
        rounds=options.rounds,
        progress=show,
    )
    write_atomically(options.out, (json.dumps(report, indent=1) + "\n").encode())
    cost = report["cost"]
    print(
        f"{len(report['points'])} batches, each the minimum of {report['points'][0]['repeats']} CPU times of one thread"
    )
    for tokens, seconds in zip(cost["linear_tokens"], cost["linear_s"], strict=True):
        print(f"  {tokens:>5} tokens: {1e3 * seconds:8.3f} ms")
    for tokens, seconds in zip(cost["read_tokens"], cost["read_s"], strict=True):
        print(f"  {tokens:>5} tokens: {1e6 * seconds:8.3f} us per KV token read")
    print(f"  {1e6 * cost['decode_s']:.1f} us per decoding sequence, {1e6 * cost['chunk_s']:.1f} us per prompt")
    print(f"  {1e9 * cost['beta_s']:.2f} ns per pair, {1e9 * cost['gamma_s']:.1f} ns per decoded KV token")
    held = report["held_out_mean_relative_error"], report["held_out_max_relative_error"]
    print(f"held-out error: mean {held[0]:.1%}, largest {held[1]:.1%}")
    print(f"written to {options.out}")


def _serve(options: argparse.Namespace) -> None:
    from common.serving.server import CompletionServer

    sizes = {"pool_tokens": options.pool_tokens, "max_batch_tokens": options.max_batch_tokens}
    server = CompletionServer(_load(options), options.model, options.host, options.port, options.max_waiting, **sizes)
    print(f"serving {options.model} on {server.url}", flush=True)
    server.run()


def _simulate(options: argparse.Namespace) -> None:
    import dataclasses

    import numpy as np

    from common.rng import for_component
    from common.serving.api import Answer, Call
    from common.serving.cost import load_calibration, preset, preset_names
    from common.serving.simulator import SimEngine

    if not 0 < options.rate < math.inf:
        raise ConfigError(f"--rate {options.rate} must be above 0 and finite.")
    if options.cost in preset_names():
        server = preset(options.cost)
        cost, facts = server.cost, server.facts
    elif not Path(options.cost).exists():
        raise ConfigError(
            f"{options.cost!r} is neither a preset ({', '.join(preset_names())}) nor a file that calibrate wrote."
        )
    else:
        cost, report = load_calibration(Path(options.cost))
        facts = _facts_of(report)
    if options.pool_tokens is not None:
        facts = dataclasses.replace(facts, pool_tokens=options.pool_tokens, watermark_tokens=options.pool_tokens // 100)
    # Nothing is read from these answers but their length: this command asks how long, not what.
    engine = SimEngine(facts, cost, lambda call: Answer((0,) * call.max_tokens))
    call = Call((0,) * options.prompt_tokens, options.answer_tokens)
    done: list[Any] = []
    gaps_s = for_component(options.seed, "arrivals").exponential(1 / options.rate, options.calls)
    for at_s in np.cumsum(gaps_s):
        engine.call_at(float(at_s), lambda: engine.submit(call).on_done(done.append))
    begin_s = time.process_time()
    engine.run()
    cpu_s = time.process_time() - begin_s
    delays = np.array([completion.delay_s for completion in done])
    busy = options.rate * cost.single_s(options.prompt_tokens, options.answer_tokens, facts.max_batch_tokens)
    print(f"{cost.source} ({cost.basis})")
    print(f"mean delay {delays.mean():.3f} s, 95th percentile {np.quantile(delays, 0.95):.3f} s, {len(done)} calls")
    print(
        f"load: {busy:.2f} calls' worth of lone service at a time; preempted {sum(c.preemptions for c in done)} times"
    )
    per_s, speed = engine.iterations / cpu_s, engine.now() / cpu_s
    print(f"{engine.iterations} iterations, {per_s:,.0f} per CPU second, {speed:,.0f} times faster than real time")


def _facts_of(report: dict[str, Any]) -> Any:
    from common.serving.api import EngineFacts

    try:
        return EngineFacts(**report["facts"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"the calibration does not say what it was made on: {error}. Make it anew.") from error


if __name__ == "__main__":
    sys.exit(main())
