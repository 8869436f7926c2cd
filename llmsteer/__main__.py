"""Prepare a context once, ask it many times, see what was steered.

    python -m llmsteer profile small heads.json                         once per model: which heads, which alpha
    python -m llmsteer prepare small manual.txt prepared/ --heads heads.json
    python -m llmsteer ask small prepared/ "Where is the main office?"
    python -m llmsteer explain small prepared/

MODEL is the name of a bundled model, a folder, or an id on the Hugging Face hub.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.cli import exit_status, positive, read_text
from common.errors import ConfigError, DataUnavailable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 data missing or damaged, 2 a value was refused."""
    formatter = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m llmsteer", description=__doc__, formatter_class=formatter)
    commands = parser.add_subparsers(dest="command", required=True)
    profile = commands.add_parser("profile", help="find the heads to steer, on generated held-out contexts")
    profile.add_argument("model")
    profile.add_argument("out", type=Path)
    profile.add_argument("--contexts", type=positive, default=6)
    profile.add_argument("--objective", default="f1", choices=("f1", "log_likelihood"))
    prepare = commands.add_parser("prepare", help="read a context twice, select tokens, store the steered KV cache")
    prepare.add_argument("model")
    prepare.add_argument("context", type=Path, help="a text file; passages are separated by blank lines")
    prepare.add_argument("out", type=Path)
    prepare.add_argument(
        "--heads", type=Path, help="what `profile` wrote; without it all heads are steered with --alpha"
    )
    prepare.add_argument("--alpha", type=float)
    prepare.add_argument("--k", type=int, default=64)
    prepare.add_argument("--apply", default="kv_and_live", choices=("kv_and_live", "live_only", "kv_only"))
    ask = commands.add_parser("ask", help="answer a question from a prepared context")
    ask.add_argument("model")
    ask.add_argument("prepared", type=Path)
    ask.add_argument("question")
    ask.add_argument("--max-tokens", type=positive, default=64)
    explain = commands.add_parser("explain", help="show which tokens are steered, layer by layer")
    explain.add_argument("model")
    explain.add_argument("prepared", type=Path)
    for command in (profile, prepare, ask, explain):
        command.add_argument("--dtype", default="float32")
        command.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    run = {"profile": _profile, "prepare": _prepare, "ask": _ask, "explain": _explain}[options.command]
    return exit_status(lambda: run(options))


def _engine(options: argparse.Namespace) -> Any:
    from common.models.loading import ModelSpec, load
    from llmsteer.engine import Engine

    return Engine(load(ModelSpec.from_name(options.model, dtype=options.dtype, device=options.device)))


def _profile(options: argparse.Namespace) -> None:
    from common.rng import for_component
    from llmsteer.profiling import ProfileSettings, profile_heads, save_profile
    from llmsteer.selection import Selection
    from llmsteer.workloads import ReusedContexts

    engine = _engine(options)
    items = ReusedContexts().held_out(for_component(0, "llmsteer", "held_out"), options.contexts)
    contexts = [engine.encode(item) for item in items]
    profile = profile_heads(engine, contexts, Selection(), ProfileSettings(objective=options.objective))
    save_profile(profile, options.out)
    chosen = "; ".join(f"layer {layer}: {', '.join(map(str, heads))}" for layer, heads in profile.heads.items())
    print(f"heads {chosen}; alpha {profile.alpha:g}")
    print(f"{options.objective}: {profile.alpha_scores[profile.alpha]:.4f} steered, {profile.base:.4f} not")


def _prepare(options: argparse.Namespace) -> None:
    from llmsteer.api import ContextItem, Query
    from llmsteer.methods import LLMSteer
    from llmsteer.profiling import load_profile
    from llmsteer.store import SteeredContext

    chunks = tuple(part.strip() for part in read_text(options.context).split("\n\n") if part.strip())
    method = LLMSteer(
        alpha=options.alpha, heads="profiled" if options.heads else "all", k=options.k, apply=options.apply
    )
    engine = _engine(options)
    if options.heads:
        if not options.heads.is_file():
            raise DataUnavailable(f"{options.heads} is not a file; make one with `profile`.")
        engine.profile = load_profile(options.heads)
    context = engine.encode(ContextItem(options.context.name, "file", chunks, (Query("?"),)))
    prepared = engine.prepare(context, method.plan(context, engine, None))
    stored = SteeredContext.of(prepared)
    stored.save(options.out)
    print(f"{len(context.ids)} tokens, {stored.num_bytes / 1e6:.1f} MB in {options.out}")


def _ask(options: argparse.Namespace) -> None:
    from llmsteer.api import TokenQuery
    from llmsteer.store import SteeredContext

    if not options.question.strip():
        raise ConfigError("the question is empty.")
    engine = _engine(options)
    prepared = SteeredContext.load(options.prepared).prepared(engine)
    query = TokenQuery(engine.question(options.question), max_answer_tokens=options.max_tokens)
    print(engine.answer(prepared, query).text)


def _explain(options: argparse.Namespace) -> None:
    from llmsteer.store import SteeredContext

    engine = _engine(options)
    stored = SteeredContext.load(options.prepared)
    stored.prepared(engine)  # refuses another model
    record, tokenizer = stored.record, engine.tokenizer
    print(f"context of {record.context_tokens} tokens; alpha {record.alpha:g}, {record.apply}")
    context_ids = stored.ids[record.prefix_tokens :]
    for layer, heads in sorted(record.heads.items()):
        tokens = record.layers.get(layer)
        chosen = set() if tokens is None else set(tokens.tolist())
        print(f"layer {layer}, heads {', '.join(map(str, heads))}: {len(chosen)} tokens")
        print(_bracketed(tokenizer, context_ids, chosen))


def _bracketed(tokenizer: Any, ids: Sequence[int], chosen: set[int]) -> str:
    """The text of tokens, the chosen ones in brackets; tokens that share a character stand in one pair."""
    text, waiting, is_chosen = "", [], False
    for index, token in enumerate(ids):
        waiting.append(token)
        is_chosen |= index in chosen
        piece = tokenizer.decode(waiting)
        if piece.endswith("\ufffd") and index + 1 < len(ids) and len(waiting) < 8:
            continue  # the first bytes of a character
        body = piece.lstrip()
        text += f"{piece[: len(piece) - len(body)]}[{body}]" if is_chosen else piece
        waiting, is_chosen = [], False
    return text


if __name__ == "__main__":
    sys.exit(main())
