"""The command line: `python -m cachegen profile|encode|decode|inspect|serve|fetch`. `--help` says what each does.

Exit codes: 0 done; 1 it failed; 2 an argument was refused; 130 interrupted.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.cli import exit_status, port, positive, read_text
from common.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    return exit_status(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cachegen", description="KV caches as bitstreams: make, read, serve, fetch."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    profile = commands.add_parser("profile", help="make a model's profile from text files, one context per file")
    _add_model(profile)
    profile.add_argument("output", type=Path, help="profile file to write")
    profile.add_argument("texts", type=Path, nargs="+", help="sample contexts; 20 or more make good tables")
    profile.add_argument("--form", default="paper", choices=("paper", "released", "tuned"), help="variant of the codec")
    profile.set_defaults(run=_profile)

    encode = commands.add_parser("encode", help="prefill a text file and keep its cache in a store, at every level")
    _add_model(encode)
    encode.add_argument("profile", type=Path, help="profile file")
    encode.add_argument("text", type=Path, help="the context")
    encode.add_argument("store", type=Path, help="folder of the store")
    encode.add_argument("--chunk-tokens", type=positive, default=1500)
    encode.set_defaults(run=_encode)

    decode = commands.add_parser("decode", help="decode one chunk and write it as safetensors")
    decode.add_argument("profile", type=Path)
    decode.add_argument("chunk", type=Path)
    decode.add_argument("output", type=Path)
    decode.set_defaults(run=_decode)

    inspect = commands.add_parser("inspect", help="say what a chunk's bytes are")
    inspect.add_argument("chunk", type=Path)
    inspect.set_defaults(run=_inspect)

    serve = commands.add_parser("serve", help="serve a store over HTTP")
    serve.add_argument("store", type=Path)
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=port, default=8095)
    serve.add_argument("--rate-mbps", type=float, default=None, help="limit the link; default: no limit")
    serve.add_argument("--trace", type=Path, default=None, help="limit the link by a recorded trace")
    serve.set_defaults(run=_serve)

    fetch = commands.add_parser("fetch", help="stream a context from a server and answer a question with it")
    _add_model(fetch)
    fetch.add_argument("context", help="context id, or 'list'")
    fetch.add_argument("--host", default="127.0.0.1")
    fetch.add_argument("--port", type=port, default=8095)
    fetch.add_argument("--deadline-s", type=float, default=float("inf"))
    fetch.add_argument("--policy", default="adaptive")
    fetch.add_argument("--question", default=None)
    fetch.set_defaults(run=_fetch)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="small", help="bundled name, folder, or hub id")
    parser.add_argument("--source", default="bundled", choices=("bundled", "local", "hf"))


def _engine(options: argparse.Namespace) -> Any:
    from cachegen.engine import Engine
    from common.models.loading import ModelSpec, load

    path = None if options.source == "bundled" else options.model
    return Engine(load(ModelSpec(options.model, options.source, path)))


def _context(engine: Any, path: Path) -> Any:
    passages = [part for part in read_text(path).split("\n\n") if part.strip()]
    if not passages:
        raise ConfigError(f"{path} holds no text.")
    return engine.context(engine.ids_of(passages), passages)


def _profile(options: argparse.Namespace) -> None:
    from cachegen.profile import save
    from cachegen.profiling import profile_model
    from cachegen.settings import PAPER, RELEASED, TUNED
    from common.rng import for_component

    engine = _engine(options)
    sample = [_context(engine, path) for path in options.texts]
    form = {"paper": PAPER, "released": RELEASED, "tuned": TUNED}[options.form]
    profile = profile_model(engine, sample, form, for_component(0, "cachegen sensitivity"))
    save(profile, options.output)
    print(f"profile {profile.digest[:8].hex()}: {profile.num_contexts} chunks, {profile.num_tokens} tokens")


def _encode(options: argparse.Namespace) -> None:
    from cachegen.codec import Codec
    from cachegen.profile import load
    from cachegen.store import Store

    engine = _engine(options)
    context = _context(engine, options.text)
    codec = Codec(load(options.profile))
    if codec.profile.model != engine.loaded.fingerprint:
        raise ConfigError(f"profile {options.profile} was made from another model than {options.model!r}.")
    manifest = Store(options.store).store_kv(codec, context.ids, context.kv, options.chunk_tokens)
    print(json.dumps(manifest.to_json(), indent=1))


def _decode(options: argparse.Namespace) -> None:
    from safetensors.torch import save_file

    from cachegen.codec import Codec
    from cachegen.profile import load

    kv = Codec(load(options.profile)).decode(options.chunk.read_bytes())
    save_file({"keys": kv.keys_LHTD, "values": kv.values_LHTD, "positions": kv.positions_T}, options.output)
    print(f"{kv.num_tokens} tokens of {kv.num_layers} layers, {kv.num_bytes} bytes")


def _inspect(options: argparse.Namespace) -> None:
    import dataclasses

    from cachegen import bitstream

    data = options.chunk.read_bytes()
    header, _ = bitstream.parse(data)
    parts = bitstream.breakdown(data)
    shown = {**dataclasses.asdict(header), "profile_id": header.profile_id.hex()}
    elements = 2 * header.num_layers * header.num_heads * header.head_dim * header.num_tokens
    print(json.dumps({"header": shown, "bytes": parts, "bits_per_element": 8 * len(data) / elements}, indent=1))


def _serve(options: argparse.Namespace) -> None:
    from cachegen.server import ShapedLink, StorageServer
    from cachegen.store import Store
    from common.net.rate import ConstantRate, Rate
    from common.net.traces import read_trace

    if not options.store.is_dir():
        raise ConfigError(f"there is no folder {options.store}.")
    rate: Rate | None = None
    if options.trace is not None:
        rate = read_trace(options.trace).down
    elif options.rate_mbps is not None:
        rate = ConstantRate(options.rate_mbps * 1e6)
    server = StorageServer.listen(
        Store(options.store), ShapedLink(rate, time.monotonic, time.sleep), options.host, options.port
    )
    print(f"serving {options.store} on http://{server.address[0]}:{server.address[1]}", flush=True)
    try:
        server.run()
    finally:
        server.http.server_close()


def _fetch(options: argparse.Namespace) -> None:
    from cachegen.api import POLICIES
    from cachegen.client import Client
    from cachegen.codec import Codec
    from cachegen.profile import from_bytes
    from cachegen.streaming import Costs, Curve
    from common.models import prompt_format

    if not options.deadline_s >= 0:
        raise ConfigError(f"--deadline-s {options.deadline_s} must be 0 or more seconds from now.")
    with Client(options.host, options.port, time.monotonic) as client:
        if options.context == "list":
            print("\n".join(client.contexts()))
            return
        manifest = client.manifest(options.context)
        codec = Codec(from_bytes(client.get(f"/profiles/{manifest.profile_id}")))
        engine = _engine(options)
        if codec.profile.model != engine.loaded.fingerprint:
            raise ConfigError(f"context {options.context} was made by another model than {options.model!r}.")
        # One prefill is timed for the policy's estimate; at the lengths of one context time is nearly linear.
        probe = min(256, sum(manifest.chunk_tokens))
        begin_s = time.monotonic()
        engine.prefill([0] * probe)
        costs = Costs(
            Curve((float(probe),), (time.monotonic() - begin_s,)), (Curve((1.0,), (0.0,)),) * len(codec.levels), 0.0
        )
        fetched = client.fetch(
            manifest,
            codec,
            POLICIES.create(options.policy),
            costs,
            lambda ids, past: engine.stored(engine.prefill(ids, past)),
            options.deadline_s,
        )
    names = ["text" if level is None else manifest.level_names[level] for level in fetched.levels]
    num_bytes = sum(chunk.num_bytes for chunk in fetched.chunks)
    print(
        f"{fetched.kv.num_tokens} tokens, {num_bytes} bytes, ready after {fetched.ready_s:.3f} s, chunks: {', '.join(names)}"
    )
    if options.question is not None:
        question = prompt_format.encode_question(engine.loaded.tokenizer, options.question)
        ids = engine.answer(fetched.kv, question, 32)
        print(prompt_format.decode_answer(engine.loaded.tokenizer, ids))


if __name__ == "__main__":
    sys.exit(main())
