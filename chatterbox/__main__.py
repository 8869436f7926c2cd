"""Chatterbox from the command line: `python -m chatterbox serve | chat | demo`."""

import argparse
import asyncio
import math
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from common.cli import exit_status, positive, read_text
from common.errors import ConfigError

SAMPLE = (
    "This text was not written by a model. It stands in for one, at the same pace: a few letters at a time, as a reader would "
    "see them. When packets are lost on the way, a reader on TCP waits until they have been sent again; here each packet "
    "brings along what has not been confirmed yet, so the next one that arrives makes up for those that did not. "
)


def _answer_with(text: str, tokens_per_s: float) -> "object":
    # Each word with the white space before it, so that what arrives is the text to the letter.
    words = [word.encode() for word in re.findall(r"\s*\S+|\s+\Z", text)]

    async def answer(request: bytes) -> AsyncIterator[bytes]:
        for word in words:
            yield word
            await asyncio.sleep(1 / tokens_per_s)

    return answer


async def _serve(options: argparse.Namespace) -> None:
    text = read_text(Path(options.text)) if options.text else SAMPLE
    if not text.strip():
        raise ConfigError(f"{options.text} holds no text.")
    answer = _answer_with(text, options.rate)
    if options.quic:
        from chatterbox.quic_transport import quic_address, serve_quic

        certificate = Path(options.certificate) if options.certificate else None
        key = Path(options.key) if options.key else None
        quic = await serve_quic(answer, options.host, options.port, certificate=certificate, key=key)  # type: ignore[arg-type]
        host, port = quic_address(quic)
        print(f"QUIC, {host}:{port}. Stop with Ctrl-C.", flush=True)
        await asyncio.Event().wait()
    from chatterbox.transport import serve

    server = await serve(answer, options.host, options.port)  # type: ignore[arg-type]
    host, port = server.address
    print(f"UDP without encryption, {host}:{port}. Stop with Ctrl-C.", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await server.close()


async def _chat(options: argparse.Namespace) -> None:
    host, _, port = options.server.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"server {options.server!r} is not HOST:PORT with a port from 1 to 65535.")
    request = " ".join(options.question).encode() or b"?"
    if options.quic:
        from chatterbox.quic_transport import connect_quic

        authorities = Path(options.authorities) if options.authorities else None
        async with connect_quic(
            host, int(port), request, authorities=authorities, check_certificate=not options.any_certificate
        ) as stream:
            async for text in stream.text():
                print(text, end="", flush=True)
    else:
        from chatterbox.transport import connect

        async with connect(host, int(port), request) as stream:
            async for text in stream.text():
                print(text, end="", flush=True)
    print()


def _demo(options: argparse.Namespace) -> None:
    from chatterbox.demo import prepare, show

    answer, panes = prepare(options.tokens, options.rate, options.seed, options.real)
    show(answer, panes, options.speed)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m chatterbox", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="stream a text to whoever asks, in place of a model")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=4433)
    serve.add_argument("--text", help="file to stream; default: a few sentences")
    serve.add_argument("--rate", type=float, default=30.0, help="words per second (default: 30)")
    serve.add_argument("--quic", action="store_true", help="encrypted, in QUIC datagrams")
    serve.add_argument("--certificate", help="PEM file; default: one is made up, which clients cannot check")
    serve.add_argument("--key", help="PEM file of its key")
    chat = commands.add_parser("chat", help="ask a server and print its answer as it arrives")
    chat.add_argument("server", metavar="HOST:PORT")
    chat.add_argument("question", nargs="*")
    chat.add_argument("--quic", action="store_true")
    chat.add_argument("--authorities", help="PEM file of certificates to trust, with --quic")
    chat.add_argument("--any-certificate", action="store_true", help="accept any server, with --quic; laboratory only")
    demo = commands.add_parser("demo", help="TCP, duplication and Chatterbox side by side over one bad network")
    demo.add_argument("--tokens", type=positive, default=300)
    demo.add_argument("--rate", type=float, default=30.0, help="tokens per second (default: 30)")
    demo.add_argument("--seed", type=int, default=5, help="which bad network")
    demo.add_argument("--speed", type=float, default=1.0, help="play faster or slower")
    demo.add_argument("--real", action="store_true", help="real sockets; kernel TCP needs root on Linux")
    options = parser.parse_args(arguments)
    for name in ("rate", "speed"):
        if not 0 < getattr(options, name, 1.0) < math.inf:
            parser.error(f"--{name} {getattr(options, name)} must be > 0 and finite")
    if getattr(options, "seed", 0) < 0:
        parser.error(f"--seed {options.seed} must be 0 or more")
    if not 0 <= getattr(options, "port", 0) < 65536:
        parser.error(f"--port {options.port} must be from 0 (any free one) to 65535")

    is_cut_off = False

    def work() -> None:
        nonlocal is_cut_off
        try:
            if options.command == "demo":
                _demo(options)
            else:
                asyncio.run(_serve(options) if options.command == "serve" else _chat(options))
        except BrokenPipeError:  # the reader of our output has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            is_cut_off = True

    return exit_status(work) or int(is_cut_off)


if __name__ == "__main__":
    sys.exit(main())
