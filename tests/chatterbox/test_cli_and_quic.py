import asyncio
import os

import numpy as np
import pytest

from chatterbox.__main__ import main
from chatterbox.core import StreamBroken
from chatterbox.demo import prepare, running_stall_ratio
from common.errors import ConfigError

pytest.importorskip("aioquic", reason="aioquic is not installed")

TEXT = "Grüße 👩‍🚀 an 世界, " * 10


async def answer(request):
    data = (TEXT + request.decode()).encode()
    for i in range(0, len(data), 3):
        yield data[i : i + 3]
        await asyncio.sleep(0.001)


async def ask(port, request, **options):
    from chatterbox.quic_transport import connect_quic

    async with connect_quic("127.0.0.1", port, request, **options) as stream:
        return "".join([text async for text in stream.text()])


def test_answers_over_quic_datagrams_and_a_server_nobody_can_check():
    from chatterbox.quic_transport import quic_address, serve_quic

    async def go():
        server = await serve_quic(answer, "127.0.0.1", 0)
        host, port = quic_address(server)  # what `serve --port 0` prints
        assert host == "127.0.0.1"
        asked = [f"{i}".encode() for i in range(5)]
        got = await asyncio.gather(*(ask(port, request, check_certificate=False) for request in asked))
        assert got == [TEXT + request.decode() for request in asked]
        with pytest.raises(StreamBroken, match="no QUIC connection"):
            await ask(port, b"?")  # the certificate was made up: refused unless told otherwise
        server.close()
        await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(go(), 30))


def test_quic_requests_and_certificates_are_checked(tmp_path):
    from chatterbox.quic_transport import serve_quic

    with pytest.raises(ConfigError, match="1 to 1000"):
        asyncio.run(ask(1, b""))
    with pytest.raises(ConfigError, match="belong together"):
        asyncio.run(serve_quic(answer, "127.0.0.1", 0, certificate=tmp_path / "c.pem"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--text", __file__.replace(".py", ".none")], "does not exist"),
        (["serve", "--text", os.devnull], "holds no text"),
        (["serve", "--quic", "--certificate", __file__, "--key", __file__], "are not a certificate"),
        (["chat", "127.0.0.1:9", "--quic", "--authorities", "/no/authorities"], "/no/authorities"),
        (["chat", "127.0.0.1:9", "--quic", "--authorities", __file__], "no certificates"),
        (["chat", "localhost:70000"], "'localhost:70000' is not HOST:PORT"),
        (["chat", "nowhere.invalid:1"], "gaierror"),
        (["serve", "--text", "/no/such/file"], "/no/such/file"),
        (["serve", "--quic", "--certificate", "/no/cert", "--key", "/no/key"], "/no/cert"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_one_line(capsys, arguments, words):
    assert main(arguments) in (1, 2)
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_ports_are_checked(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--port", "99999"])
    assert "--port 99999" in capsys.readouterr().err


def test_serve_and_chat_from_the_command_line(capsys):
    from chatterbox.__main__ import _answer_with
    from chatterbox.transport import serve

    async def go():
        server = await serve(_answer_with("one  two\n\tthree\n", 1000.0))
        loop = asyncio.get_running_loop()
        host, port = server.address
        code = await loop.run_in_executor(None, main, ["chat", f"{host}:{port}", "hello"])
        await server.close()
        return code

    assert asyncio.run(asyncio.wait_for(go(), 20)) == 0
    assert capsys.readouterr().out == "one  two\n\tthree\n\n"  # and the line end of the terminal


def test_demo_prints_a_summary_without_a_terminal(capsys):
    assert main(["demo", "--tokens", "90"]) == 0
    out = capsys.readouterr().out
    assert "Chatterbox" in out
    assert "TCP" in out


def test_bad_arguments_are_refused(capsys):
    assert main(["chat", "nowhere"]) == 2
    assert "HOST:PORT" in capsys.readouterr().err
    for wrong in ("--rate=0", "--rate=nan", "--tokens=0", "--seed=-1", "--speed=inf"):
        with pytest.raises(SystemExit, match="2"):
            main(["demo", wrong])


def test_panes_show_what_was_played():
    answer, panes = prepare(60, 30.0, seed=5)
    assert len(panes) == 3
    for pane in panes:
        assert len(pane.shown_s) == len(answer.tokens)
        end = float(pane.shown_s.max())
        assert running_stall_ratio(pane.shown_s, end) == pytest.approx(pane.stall_ratio)


def test_the_running_ratio_counts_the_present_wait():
    shown = np.array([0.0, 0.1, 1.1])
    assert running_stall_ratio(shown, 0.1) == 0
    assert running_stall_ratio(shown, 0.6) == pytest.approx(
        0.3 / 0.6
    )  # waiting since 0.1: 0.5 s, 0.3 beyond the threshold
    assert running_stall_ratio(shown, 5.0) == pytest.approx(0.8 / 1.1)
    assert running_stall_ratio(shown, -1.0) == 0
