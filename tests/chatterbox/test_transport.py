"""The asyncio transport over loopback sockets: whole answers, bad networks, vanished peers, and strangers."""

import asyncio
import contextlib
import random
import socket

import pytest

from chatterbox import wire
from chatterbox.core import Settings, StreamBroken
from chatterbox.transport import CookieJar, connect, serve
from common.errors import ConfigError
from common.net.link import Direction, LinkSpec
from common.net.loss import Bernoulli
from common.net.rate import ConstantRate

TEXT = "Grüße 👩‍🚀 an 世界, " * 12


def run(coroutine, limit_s=30):
    return asyncio.run(asyncio.wait_for(coroutine, limit_s))


def pieces_of(text, size=3):
    """Cut at any byte, also within a character."""
    data = text.encode()
    return [data[i : i + size] for i in range(0, len(data), size)]


async def answer(request):
    for piece in pieces_of(TEXT + request.decode()):
        yield piece
        await asyncio.sleep(0.001)


async def ask(host, port, request=b"?", **options):
    async with connect(host, port, request, **options) as stream:
        return "".join([text async for text in stream.text()])


class LossyRelay(asyncio.DatagramProtocol):
    """A UDP relay in front of a server: one upstream socket per client, a link in between."""

    def __init__(self, server, link):
        self.server, self.link, self.clients = server, link, {}

    def connection_made(self, transport):
        self.transport = transport
        self.start = asyncio.get_running_loop().time()

    def pass_on(self, to_node, data, send):
        loop = asyncio.get_running_loop()
        arrival = self.link.transmit(to_node, loop.time() - self.start, len(data) + 28)
        if arrival is not None:
            loop.call_at(self.start + arrival, send, data)

    def datagram_received(self, data, addr):
        asyncio.get_running_loop().create_task(self.up(data, addr))

    async def up(self, data, addr):
        if addr not in self.clients:
            relay = self

            class Back(asyncio.DatagramProtocol):
                def datagram_received(self, data, _):
                    relay.pass_on(1, data, lambda d: relay.transport.sendto(d, addr))

            future = asyncio.get_running_loop().create_datagram_endpoint(Back, remote_addr=self.server)
            self.clients[addr] = asyncio.ensure_future(future)
        transport, _ = await self.clients[addr]
        self.pass_on(0, data, transport.sendto)

    async def close(self):
        self.transport.close()
        for future in self.clients.values():
            (await future)[0].close()


@contextlib.asynccontextmanager
async def lossy(server, loss=0.2, seed=1):
    direction = Direction(ConstantRate(10e6), 0.01, loss=Bernoulli(loss))
    link = LinkSpec(direction, direction, seed).build()
    _, relay = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: LossyRelay(server, link), local_addr=("127.0.0.1", 0)
    )
    try:
        yield relay.transport.get_extra_info("sockname")[:2]
    finally:
        await relay.close()


@contextlib.asynccontextmanager
async def serving(answer=answer, **options):
    server = await serve(answer, **options)
    try:
        yield server
    finally:
        await server.close()


def test_text_arrives_whole_with_characters_split_between_pieces():
    async def main():
        async with serving() as server:
            assert await ask(*server.address, "ende 🎉".encode()) == TEXT + "ende 🎉"

    run(main())


def test_an_answer_survives_twenty_percent_loss_in_both_directions():
    async def main():
        async with serving() as server, lossy(server.address) as address:
            assert await ask(*address) == TEXT + "?"

    run(main())


def test_many_streams_do_not_mix():
    async def main():
        # A client whose last ACKs are all lost is waited for: briefly here.
        options = {"settings": Settings(congestion="budget", give_up_s=3.0)}
        async with serving(**options) as server, lossy(server.address, 0.1) as address:
            asked = [f"stream {i}".encode() for i in range(40)]
            got = await asyncio.gather(*(ask(*address, request) for request in asked))
            assert got == [TEXT + request.decode() for request in asked]
            for _ in range(300):
                if server.num_streams == 0:
                    break
                await asyncio.sleep(0.05)
            assert server.num_streams == 0

    run(main(), 60)


def test_empty_and_long_answers():
    async def nothing(request):
        return
        yield

    async def long(request):
        for i in range(20_000):
            yield b"%05d" % i

    async def huge(request):
        yield b"x" * 100_000

    async def main():
        async with serving(nothing) as server:
            assert await ask(*server.address) == ""
        async with serving(long) as server:
            assert await ask(*server.address) == "".join(f"{i:05d}" for i in range(20_000))
        async with serving(huge) as server:
            assert await ask(*server.address) == "x" * 100_000

    run(main(), 60)


def test_a_server_that_vanishes_is_an_error_within_ten_seconds():
    async def endless(request):
        while True:
            yield b"tick "
            await asyncio.sleep(0.01)

    async def main():
        server = await serve(endless)
        async with connect(*server.address, b"?", silence_s=1.0) as stream:
            assert await anext(stream) == b"tick "
            server._transport.abort()  # as if the machine had lost its power: no goodbye
            start = asyncio.get_running_loop().time()
            with pytest.raises(StreamBroken, match="nothing heard"):
                async for _ in stream:
                    pass
            assert asyncio.get_running_loop().time() - start < 10
        await server.close()

    run(main())


def test_nobody_there_is_an_error():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(StreamBroken, match="nothing heard"):
            run(ask(*silent.getsockname(), silence_s=0.8))


def test_a_server_that_pauses_is_not_gone():
    async def slow(request):
        yield b"a"
        await asyncio.sleep(3.0)
        yield b"b"

    async def main():
        async with serving(slow) as server:
            assert await ask(*server.address, silence_s=2.5) == "ab"  # keep-alives every 2 s

    run(main())


def test_a_client_that_vanishes_stops_the_answer():
    state = {}

    async def endless(request):
        try:
            while True:
                yield b"tick "
                await asyncio.sleep(0.01)
        finally:
            state["stopped"] = True

    async def main():
        async with serving(endless, settings=Settings(give_up_s=0.6)) as server:
            stream = await connect(*server.address, b"?").__aenter__()
            await anext(stream)
            stream._transport.abort()
            for _ in range(100):
                await asyncio.sleep(0.05)
                if "stopped" in state:
                    break
            assert "stopped" in state
            assert server.num_streams == 0

    run(main())


def test_a_client_that_leaves_says_so():
    state = {}

    async def endless(request):
        try:
            while True:
                yield b"tick "
                await asyncio.sleep(0.01)
        finally:
            state["stopped"] = True

    async def main():
        async with serving(endless) as server:
            async with connect(*server.address, b"?") as stream:
                await anext(stream)
            await asyncio.sleep(0.2)
            assert state == {"stopped": True}

    run(main())


def test_an_answer_that_fails_is_told_to_the_client():
    async def broken(request):
        yield b"so far"
        raise RuntimeError("the model crashed")

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        async with serving(broken) as server:
            with pytest.raises(StreamBroken):
                await ask(*server.address, silence_s=5.0)

    run(main())


def talk(address, datagrams, wait_s=0.2):
    """Send raw datagrams from one socket and collect what comes back."""

    async def main():
        loop = asyncio.get_running_loop()
        got = []

        class Raw(asyncio.DatagramProtocol):
            def datagram_received(self, data, addr):
                got.append(data)

        transport, _ = await loop.create_datagram_endpoint(Raw, remote_addr=address)
        for datagram in datagrams:
            transport.sendto(datagram)
        await asyncio.sleep(wait_s)
        transport.close()
        return got

    return main()


def test_a_stranger_gets_less_than_he_sends_and_no_stream():
    async def main():
        async with serving() as server:
            hellos = [wire.encode_hello(wire.Hello(i, bytes(16), b"question")) for i in range(50)]
            got = await talk(server.address, hellos)
            assert got
            assert {wire.kind_of(datagram) for datagram in got} == {wire.COOKIE}
            # at most three times what was received is the rule; a cookie is smaller than the HELLO itself
            assert sum(map(len, got)) < sum(map(len, hellos))
            assert server.num_streams == 0
            stolen = wire.decode_cookie(got[0])
            again = await talk(server.address, [wire.encode_hello(wire.Hello(1, stolen, b"question"))])
            assert {wire.kind_of(datagram) for datagram in again} == {
                wire.COOKIE
            }  # another port: the cookie is not his
            assert server.num_streams == 0

    run(main())


def test_cookies_belong_to_an_address_and_expire():
    jar = CookieJar(b"secret")
    cookie = jar.make(("10.0.0.1", 5), 100.0)
    assert jar.is_valid(cookie, ("10.0.0.1", 5), 125.0)
    assert not jar.is_valid(cookie, ("10.0.0.1", 6), 100.0)
    assert not jar.is_valid(cookie, ("10.0.0.2", 5), 100.0)
    assert not jar.is_valid(cookie, ("10.0.0.1", 5), 100.0 + 61)
    assert not CookieJar(b"other").is_valid(cookie, ("10.0.0.1", 5), 100.0)


def test_noise_is_dropped_and_the_next_client_is_served():
    rng = random.Random(1)
    noise = [bytes([rng.choice([0x11, 0x12, 0x13, 0x14, 0x15, rng.randrange(256)])]) + rng.randbytes(rng.randrange(90)) for _ in range(500)]  # fmt: skip # noqa: E501

    async def main():
        async with serving() as server:
            got = await talk(server.address, noise)
            assert all(wire.kind_of(datagram) == wire.COOKIE for datagram in got)
            assert server.num_streams == 0
            assert await ask(*server.address) == TEXT + "?"

    run(main())


def test_more_streams_than_allowed_are_refused():
    async def endless(request):
        while True:
            yield b"."
            await asyncio.sleep(0.01)

    async def main():
        async with serving(endless, max_streams=1) as server, connect(*server.address, b"1") as first:
            await anext(first)
            with pytest.raises(StreamBroken, match="too many"):
                await ask(*server.address, b"2")

    run(main())


def test_requests_have_a_size():
    for request in (b"", b"x" * 1001):
        with pytest.raises(ConfigError, match="bytes"):
            connect("127.0.0.1", 1, request)


def test_the_transport_over_a_bad_link_between_two_namespaces(tmp_path):
    from common.net.namespaces import ADDRESSES, NamespacesUnavailable, run_pair

    def server():
        async def go():
            await serve(answer, ADDRESSES[0], 4433)
            await asyncio.sleep(30)

        asyncio.run(go())

    def client():
        (tmp_path / "got").write_text(run(ask(ADDRESSES[0], 4433)))

    direction = Direction(ConstantRate(10e6), 0.02, loss=Bernoulli(0.2))
    link = LinkSpec(direction, direction, seed=2).build()
    try:
        codes = run_pair(server, client, link, limit_s=30)
    except NamespacesUnavailable as error:
        pytest.skip(str(error))
    assert codes[1] == 0
    assert (tmp_path / "got").read_text() == TEXT + "?"
    assert link.counters[1].lost > 0
