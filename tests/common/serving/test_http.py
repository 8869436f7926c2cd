"""HttpEngine against a real server of a real model, and against one that misbehaves; and that server against bad requests."""

import http.client
import json
import math
import socket
import threading
import time
import urllib.parse

import numpy as np
import pytest

from common.errors import ConfigError, DataUnavailable
from common.serving.api import Call, Engine, EngineFacts
from common.serving.http_engine import HttpEngine, Retry, discover, parse_metrics
from common.serving.server import MAX_BODY_BYTES, CompletionServer
from tests.common.serving.misbehaving_server import (
    STREAM,
    MisbehavingServer,
    drop,
    event,
    good,
    good_events,
    stall,
    status,
)
from tests.common.serving.test_in_process import build, random_calls, serve

FACTS = EngineFacts(1024, 2048, 2048, 16, 128, 16)
QUICK = Retry(attempts=3, first_pause_s=0.01)


@pytest.fixture(scope="module")
def server(small):
    with CompletionServer(small, "small", pool_tokens=2048, max_batch_tokens=128, max_seqs=16) as running:
        yield running


def connect(url, facts=FACTS, **options):
    options = {"timeout_s": 20.0, "retry": QUICK} | options
    return HttpEngine(url, "small", facts, time.monotonic, time.sleep, **options)


def ask(url, call=None, **options):
    """One call over a client of its own."""
    with connect(url, **options) as engine:
        handle = engine.submit(call if call is not None else Call((7, 8, 9), 4))
        engine.run()
        return handle.completion


def post(server, body, path="/v1/completions", method="POST", headers=None):
    parts = urllib.parse.urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    try:
        connection.request(method, path, body if isinstance(body, bytes) else json.dumps(body), headers or {})
        response = connection.getresponse()
        text = response.read().decode()
        return response.status, json.loads(text) if text.startswith("{") else text
    finally:
        connection.close()


# --- against the real server ---


def test_the_same_calls_give_the_same_tokens_over_http(server, small):
    calls = random_calls(small, 3, 10)
    local = build(small)
    expected = serve(local, calls, 0.0)
    local.close()
    with connect(server.url) as engine:
        assert isinstance(engine, Engine)
        assert engine.occupancy_source == "metrics"
        done = serve(engine, calls)
    for ours, theirs in zip(done, expected, strict=True):
        assert ours.error is None
        assert ours.tokens == theirs.tokens
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=2e-4)
        assert ours.submitted_s <= ours.first_token_s <= ours.finished_s


def test_facts_and_occupancy_come_from_the_server(server, small):
    facts = discover(server.url, small.kv_bytes_per_token, max_batch_tokens=128, max_seqs=16)
    assert facts == server.facts
    seen = []
    with connect(server.url, facts) as engine:
        engine.call_at(0.0, lambda: engine.submit(Call((9,) * 500, 400)))
        for at_s in np.linspace(0.05, 1.0, 39):
            engine.call_at(float(at_s), lambda: seen.append((engine.free_tokens(), engine.promised_tokens())))
        engine.run()
        assert engine.promised_tokens() == 0
    busy = [(free, promised) for free, promised in seen if free < 2048]
    assert busy
    for free, promised in busy:
        # 500 + 400 tokens are 57 pages; what is not held yet is promised. The two readings are a moment apart, in which the
        # call may have taken more pages, or ended.
        assert promised <= 57 * 16 - (2048 - free) or promised == 57 * 16
    assert any(promised > 0 for _, promised in busy)


def test_a_text_client_gets_text(server, small):
    reply = post(server, {"model": "small", "prompt": "The garden of Anna is blue.", "max_tokens": 5, "logprobs": 1})
    assert reply[0] == 200
    choice = reply[1]["choices"][0]
    assert choice["finish_reason"] in ("stop", "length")
    assert len(choice["logprobs"]["tokens"]) == reply[1]["usage"]["completion_tokens"] <= 5
    assert reply[1]["usage"]["prompt_tokens"] == len(small.tokenizer.encode("The garden of Anna is blue."))


def test_the_openai_dialect_reads_text(server, small):
    call = Call(tuple(small.tokenizer.encode(" Who is there ?")), 6, stop_ids=(small.tokenizer.eos_token_id,))
    encode = lambda text: small.tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    by_text = ask(server.url, call, dialect="openai", encode=encode)
    by_ids = ask(server.url, call)
    assert by_text.error is None
    assert small.tokenizer.decode(by_text.tokens) == small.tokenizer.decode(by_ids.tokens, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b"{not json", 400, "no JSON"),
        (b"[1]", 400, "must be a JSON object"),
        (b"\xff\xfe", 400, "no JSON"),
        ({"model": "gpt", "prompt": [7]}, 404, "no model 'gpt'; this is 'small'"),
        ({"prompt": []}, 400, "not empty"),
        ({}, 400, "prompt=None must be"),
        ({"prompt": [7, 999999]}, 400, "token 999999 of the prompt"),
        ({"prompt": [-1]}, 400, "token -1 of the prompt"),
        ({"prompt": [True]}, 400, "must be text or a list"),
        ({"prompt": [7], "max_tokens": 0}, 400, "max_tokens=0 must be a whole number from 1"),
        ({"prompt": [7], "max_tokens": 2048}, 400, "exceed the model's context"),
        ({"prompt": [7] * 1500, "max_tokens": 600}, 400, "exceed the model's context"),
        ({"prompt": [7], "temperature": 0.7}, 400, "temperature=0.7 is not supported"),
        ({"prompt": [7], "n": 2}, 400, "n=2 is not supported"),
        ({"prompt": [7], "logprobs": 9}, 400, "logprobs=9 must be a whole number from 0 to 5"),
        ({"prompt": [7], "stream": "yes"}, 400, "stream='yes' must be true or false"),
        ({"prompt": [7], "stop_token_ids": "x"}, 400, "must be a list of token ids"),
        ({"prompt": [7], "max_token": 3}, 400, "unknown entry 'max_token'"),
    ],
)
def test_wrong_requests_get_one_clear_line(server, body, code, message):
    status_code, reply = post(server, body)
    assert status_code == code
    assert message in reply["error"]["message"]
    assert "\n" not in reply["error"]["message"]


def test_wrong_paths_methods_and_lengths(server):
    assert post(server, {}, "/v1/chat/completions")[0] == 404
    assert post(server, b"", "/nowhere", "GET")[0] == 404
    assert post(server, b"", "/v1/completions", "GET")[0] == 405
    assert post(server, b"", "/v1/completions", "DELETE")[0] == 405
    assert post(server, b"", "/health", "GET")[0] == 200
    assert post(server, b"x", headers={"Content-Length": str(MAX_BODY_BYTES + 1)})[0] == 413
    parts = urllib.parse.urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port)) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 411")
    with socket.create_connection((parts.hostname, parts.port)) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
    assert post(server, {"prompt": [7], "max_tokens": 1})[0] == 200  # nothing of the above harmed it


def test_a_full_queue_answers_429_and_the_client_comes_back(small):
    sizes = {"pool_tokens": 512, "max_batch_tokens": 64, "max_seqs": 1}
    with (
        CompletionServer(small, "small", max_waiting=1, **sizes) as server,
        connect(
            server.url, server.facts, retry=Retry(attempts=1000, first_pause_s=0.02, longest_pause_s=0.05)
        ) as engine,
    ):
        handles = [engine.submit(Call((9, 8, 7), 30)) for _ in range(6)]
        engine.run()
    assert [handle.completion.error for handle in handles] == [None] * 6


def test_a_stopped_server_refuses(small):
    with CompletionServer(small, "small", pool_tokens=512, max_batch_tokens=64, max_seqs=4) as server:
        url = server.url
    done = ask(url, occupancy="own")
    assert "connection refused) (after 3 attempts)" in done.error
    assert done.tokens == ()
    with pytest.raises(ConfigError, match="gives no occupancy"):
        connect(url, occupancy="metrics")
    with pytest.raises(DataUnavailable, match="does not describe itself"):
        discover(url, 100)


# --- against a server that misbehaves ---

CUT = [STREAM, *list(good_events())[:1]]
HALF = [STREAM, b'data: {"choices": [{"text"']


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (status(429), "answers 429: no"),
        (status(500), "answers 500: no"),
        (status(503, b"<html>oops</html>"), "answers 503: <html>oops</html>"),
        (status(408), "answers 408"),
        (drop, "the connection failed"),
        (CUT, "ended before the answer did"),
        (HALF, "cut off"),
        ([STREAM, event(b"{oops")], "no JSON"),
        ([STREAM, event({"object": "list"})], "another JSON than a completion"),
        ([STREAM, event({"error": {"message": "worker died"}})], "reports: worker died"),
        ([STREAM, b"hello world\n"], "no event stream"),
        (
            [STREAM, event({"choices": [{"text": "", "logprobs": {"tokens": ["a"], "token_logprobs": []}}]})],
            "do not match",
        ),
        (
            [STREAM, event({"choices": [{"text": "", "logprobs": {"tokens": ["a"], "token_logprobs": [math.nan]}}]})],
            "no number",
        ),
        ([STREAM, event(b"[DONE]")], "gave 0 tokens"),
        ([STREAM, *good_events(tokens=(1, 2, 3, 4, 5))], "gave 5 tokens where 1 to 4"),
        (b"HTTP/1.1 banana\r\n\r\n", "the connection failed"),
    ],
)
def test_what_may_pass_is_tried_again_and_then_told(bad, message):
    with MisbehavingServer([bad, good()]) as server:
        assert ask(server.url).tokens == (5, 6)
        assert len(server.bodies) == 2
    with MisbehavingServer([bad]) as server:
        done = ask(server.url)
        assert message in done.error
        assert "(after 3 attempts)" in done.error
        assert done.tokens == ()
        assert len(server.bodies) == 3


def test_an_error_that_is_null_is_none():
    pieces = [STREAM]
    for piece in good_events():
        data = piece.removeprefix(b"data: ").strip()
        pieces.append(piece if data == b"[DONE]" else event(json.loads(data) | {"error": None}))
    with MisbehavingServer([pieces]) as server:
        assert ask(server.url).tokens == (5, 6)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422])
def test_what_will_not_pass_is_not_tried_again(code):
    with MisbehavingServer([status(code), good()]) as server:
        assert f"answers {code}: no" in ask(server.url).error
        assert len(server.bodies) == 1


def test_a_silent_server_times_out():
    with MisbehavingServer([stall, good()]) as server:
        done = ask(server.url, timeout_s=0.2)
        assert done.tokens == (5, 6)
    with MisbehavingServer([stall]) as server:
        assert "did not answer in time" in ask(server.url, timeout_s=0.1, retry=Retry(1)).error


def test_pauses_grow_and_follow_retry_after():
    asked = ("Date: Fri, 27 Nov 2026 10:00:00 GMT", "Retry-After: Fri, 27 Nov 2026 10:00:04 GMT")
    script = [status(429, headers=("Retry-After: 3",)), status(503, headers=asked), status(500), status(500), good()]
    pauses = []
    with MisbehavingServer(script) as server:
        engine = HttpEngine(
            server.url, "m", FACTS, time.monotonic, pauses.append, retry=Retry(5, 0.25, 10.0), timeout_s=5
        )
        with engine:
            handle = engine.submit(Call((1,), 4))
            engine.run()
    assert handle.completion.tokens == (5, 6)
    assert pauses == [3.0, 4.0, 1.0, 2.0]
    assert Retry(9, 1.0, 5.0).pause_s(8, None) == 5.0
    assert Retry(9, 1.0, 5.0).pause_s(1, 3600.0) == 5.0


def test_what_is_sent():
    with MisbehavingServer([good()]) as server:
        ask(server.url + "/v1", Call((1, 2), 4, stop_ids=(3,)), api_key="secret")
        assert server.heads[0].startswith("POST /v1/completions HTTP/1.1")
        assert "Authorization: Bearer secret" in server.heads[0]
        assert server.bodies[0] == {
            "model": "small",
            "prompt": [1, 2],
            "max_tokens": 4,
            "temperature": 0,
            "stream": True,
            "logprobs": 1,
            "stop_token_ids": [3],
            "ignore_eos": True,
            "return_tokens_as_token_ids": True,
        }
        done = ask(server.url, Call((1, 2), 4), dialect="openai", encode=lambda text: [len(text)])
        assert set(server.bodies[1]) == {"model", "prompt", "max_tokens", "temperature", "stream", "logprobs"}
        assert done.tokens == (6,)  # " w5 w6"
        assert done.logprobs == ()


def test_tokens_without_ids_are_not_guessed():
    with MisbehavingServer([good(ids=False)]) as server:
        assert "use dialect='openai'" in ask(server.url).error
        assert len(server.bodies) == 1


def test_occupancy_without_metrics_is_that_of_own_calls():
    release = threading.Event()

    def wait(connection):
        release.wait(10)
        for piece in good():
            connection.sendall(piece)

    with MisbehavingServer([wait]) as server, connect(server.url) as engine:
        assert engine.occupancy_source == "own"
        seen = []
        engine.submit(Call((1,) * 100, 60))

        def look():
            seen.append((engine.free_tokens(), engine.promised_tokens(), engine.load()))
            release.set()

        engine.call_at(0.05, look)
        engine.run()
        # 100 prompt tokens are 7 pages, 160 tokens 10.
        assert seen[0][:2] == (2048 - 7 * 16, 3 * 16)
        assert (seen[0][2].waiting, seen[0][2].prefill_tokens, seen[0][2].decode_tokens) == (1, 100, 60)
        assert engine.free_tokens() == 2048


def test_metrics_of_old_and_new_vllm():
    text = '# HELP x\nvllm:gpu_cache_usage_perc{model_name="a"} 0.25\nnonsense\nx{a="b",c="d"} 1e3 17\ny NaNN\n'
    assert parse_metrics(text) == {
        "vllm:gpu_cache_usage_perc": [({"model_name": "a"}, 0.25)],
        "x": [({"a": "b", "c": "d"}, 1000.0)],
    }
    with MisbehavingServer([good()], metrics=text) as server, connect(server.url) as engine:
        assert engine.free_tokens() == 1536


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("ftp://x", {}, "is no server"),
        ("localhost:80", {}, "is no server"),
        ("http://x:99999", {}, "url 'http://x:99999'"),
        ("http://x", {"timeout_s": 0}, "timeout_s=0"),
        ("http://x", {"dialect": "tgi"}, "dialect 'tgi'"),
        ("http://x", {"dialect": "openai"}, "pass encode="),
        ("http://x", {"occupancy": "nvml"}, "occupancy 'nvml'"),
        ("http://x", {"api_key": "a\nb"}, "api_key"),
    ],
)
def test_bad_settings(url, options, message):
    with pytest.raises(ConfigError, match=message):
        connect(url, **options)


def test_bad_retry():
    with pytest.raises(ConfigError, match="at least one attempt"):
        Retry(attempts=0)
