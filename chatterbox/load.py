"""Many streams at once: the server's CPU time per token, Chatterbox over UDP against an asyncio TCP server doing the same.

The server is a process of its own, so its CPU time is its own; the clients share this one.
"""

import asyncio
import dataclasses
import multiprocessing
import resource
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from typing import Any, Literal

from chatterbox.framing import Deframer, frame
from chatterbox.transport import connect, serve
from common.errors import DataUnavailable

Kind = Literal["udp", "tcp"]
TOKEN = b"token"


@dataclasses.dataclass(frozen=True)
class Load:
    """What a server did.

    Attributes:
        cpu_s_per_token: CPU time of the server process divided by the tokens that clients received.
        finished: streams whose client received every token.
        wall_s: from the first request to the last answer.
    """

    cpu_s_per_token: float
    finished: int
    wall_s: float


def measure(kind: Kind, num_streams: int, num_tokens: int, tokens_per_s: float) -> Load:
    """Let `num_streams` clients ask at once, each for `num_tokens` tokens at `tokens_per_s`.

    Raises:
        DataUnavailable: this machine does not let a process open that many sockets.
    """
    _allow_sockets(num_streams + 100)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(
        target=_server_process, args=(kind, num_streams, num_tokens, tokens_per_s, theirs), daemon=True
    )
    server.start()
    theirs.close()
    try:
        port = ours.recv()
        start_s = time.monotonic()
        limit_s = num_tokens / tokens_per_s + 60
        received = asyncio.run(asyncio.wait_for(_clients(kind, port, num_streams), limit_s))
        wall_s = time.monotonic() - start_s
        ours.send("stop")
        cpu_s = ours.recv()
    finally:
        server.terminate()
        server.join()
        ours.close()
    return Load(cpu_s / max(1, sum(received)), sum(count == num_tokens for count in received), wall_s)


def _allow_sockets(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        if hard != resource.RLIM_INFINITY and hard < number:
            raise DataUnavailable(
                f"{number} sockets are needed, a process may open {hard} (ulimit -Hn). Use fewer streams."
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


def _server_process(kind: Kind, num_streams: int, num_tokens: int, tokens_per_s: float, pipe: Connection) -> None:
    _allow_sockets(num_streams + 100)
    asyncio.run(_serve(kind, num_tokens, tokens_per_s, pipe))


async def _serve(kind: Kind, num_tokens: int, tokens_per_s: float, pipe: Connection) -> None:
    async def answer(request: bytes) -> AsyncIterator[bytes]:
        for _ in range(num_tokens):
            yield TOKEN
            await asyncio.sleep(1 / tokens_per_s)

    async def answer_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readline()
        async for token in answer(request):
            writer.write(frame(token))
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    closing: Any
    if kind == "udp":
        closing = await serve(answer)
        port = closing.address[1]
    else:
        closing = await asyncio.start_server(answer_tcp, "127.0.0.1", 0, backlog=4096)
        port = closing.sockets[0].getsockname()[1]
    start_s = time.process_time()
    pipe.send(port)
    await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    pipe.send(time.process_time() - start_s)
    finished = closing.close()
    if finished is not None:
        await finished


async def _clients(kind: Kind, port: int, num_streams: int) -> list[int]:
    one = _udp_client if kind == "udp" else _tcp_client
    return await asyncio.gather(*(one(port, number) for number in range(num_streams)))


async def _udp_client(port: int, number: int) -> int:
    await asyncio.sleep(number * 0.0005)  # a thousand first requests in one instant would overflow the socket's buffer
    count = 0
    async with connect("127.0.0.1", port, b"%d" % number, silence_s=30.0) as stream:
        async for _ in stream:
            count += 1
    return count


async def _tcp_client(port: int, number: int) -> int:
    await asyncio.sleep(number * 0.0005)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"%d\n" % number)
    deframer, count = Deframer(), 0
    while data := await reader.read(65536):
        count += len(deframer.feed(data))
    writer.close()
    await writer.wait_closed()
    return count
