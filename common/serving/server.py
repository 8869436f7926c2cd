"""A small OpenAI-shaped server of a local model: completions over HTTP/1.1, computed by `TransformersEngine`.

    POST /v1/completions    JSON as OpenAI's completions API; greedy only; `stream`, `logprobs`, and vLLM's `stop_token_ids`,
                            `ignore_eos`, `return_tokens_as_token_ids`
    GET  /v1/models         the one model, with vLLM's `max_model_len`
    GET  /metrics           Prometheus text with vLLM's names: occupancy of the KV pool, calls running and waiting
    GET  /health            200 while the engine works

It exists to test clients against a real model over a real socket, and to show how the three engines relate; it is no production
server. Bodies are bounded, wrong requests get a 4xx with one line, a full queue 429 with Retry-After.

Threads: one per connection parses and writes; one owns the engine. They meet in queues only.
"""

import dataclasses
import json
import queue
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from common.errors import ConfigError
from common.models.loading import LoadedModel
from common.models.prompt_format import eos_id
from common.serving.api import Call, Completion
from common.serving.in_process import TransformersEngine

MAX_BODY_BYTES = 8 << 20
MAX_LOGPROBS = 5
_IDLE_TIMEOUT_S = 30.0
# Accepted with their neutral value only: each would change the answer, and pretending to honour it would be worse.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "stop": (None, [], ""),
    "temperature": (None, 0, 0.0),
    "presence_penalty": (None, 0, 0.0),
    "frequency_penalty": (None, 0, 0.0),
    "logit_bias": (None, {}),
}
_IGNORED = ("top_p", "top_k", "seed", "user", "stream_options")
_KNOWN = (
    "model",
    "prompt",
    "max_tokens",
    "stream",
    "logprobs",
    "stop_token_ids",
    "ignore_eos",
    "return_tokens_as_token_ids",
)


class BadRequest(Exception):
    """A request that is refused, with its status."""

    def __init__(self, message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked completions request.

    Attributes:
        call: for the engine.
        is_streamed: answer as server-sent events.
        wants_logprobs: give the log-probability of each token.
        names_ids: write tokens as "token_id:<id>" instead of text.
    """

    call: Call
    is_streamed: bool
    wants_logprobs: bool
    names_ids: bool


@dataclasses.dataclass(frozen=True)
class _Delta:
    """New tokens of a call; with `completion` the last ones, or an error."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    completion: Completion | None = None


class CompletionServer:
    """A running server; a context manager that stops it.

    Args:
        loaded: the model, with its tokenizer (None is allowed: prompts are then lists of ids, and answers have no text).
        name: of the model, in requests and answers.
        host, port: 0 takes a free port.
        max_waiting: calls that may wait for the engine; further ones get 429.
        engine_sizes: `pool_tokens`, `page_tokens`, `max_batch_tokens`, `max_seqs` of `TransformersEngine`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        name: str,
        host: str = "127.0.0.1",
        port: int = 0,
        max_waiting: int = 256,
        **engine_sizes: Any,
    ) -> None:
        self.loaded, self.name, self.max_waiting = loaded, name, max_waiting
        self.engine = TransformersEngine(loaded, time.monotonic, time.sleep, **engine_sizes)
        self.facts = self.engine.facts
        self._jobs: queue.Queue[tuple[Request, queue.Queue[_Delta]] | None] = queue.Queue()
        self._snapshot = (0, 0, 0.0, 0)
        self._failure: str | None = None
        handler = type("Handler", (_Handler,), {"server_of": self})
        try:
            self.http = ThreadingHTTPServer((host, port), handler)
        except OSError as error:
            self.engine.close()
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}. Choose another --port.") from error
        self.http.daemon_threads = True
        self._engine_thread = threading.Thread(target=self._serve_engine, daemon=True)

    @property
    def url(self) -> str:
        """Where clients find it."""
        host, port = self.http.server_address[:2]
        return f"http://{host!s}:{port}"

    def run(self) -> None:
        """Serve until `stop` is called from another thread."""
        self._engine_thread.start()
        self.http.serve_forever(poll_interval=0.05)

    def stop(self) -> None:
        """Stop serving, finish nothing more, and free the port and the pool."""
        self.http.shutdown()
        self.http.server_close()
        self._jobs.put(None)
        self._engine_thread.join()

    def __enter__(self) -> "CompletionServer":
        threading.Thread(target=self.run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- engine thread ---

    def _serve_engine(self) -> None:
        outboxes: dict[Any, tuple[queue.Queue[_Delta], int]] = {}
        try:
            while True:
                try:
                    job = self._jobs.get(block=not outboxes)
                    while True:
                        if job is None:
                            return
                        self._start(job, outboxes)
                        job = self._jobs.get_nowait()
                except queue.Empty:
                    pass
                if outboxes:
                    self.engine.step()
                    self._send_partial(outboxes)
                self._look()
        except Exception as error:  # the engine is broken: say so to everybody, now and later
            self._failure = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.engine.close()

    def _start(self, job: tuple[Request, "queue.Queue[_Delta]"], outboxes: dict[Any, Any]) -> None:
        request, outbox = job
        handle = self.engine.submit(request.call)
        outboxes[handle] = (outbox, 0)

        def finished(completion: Completion) -> None:
            _, sent = outboxes.pop(handle)
            outbox.put(_Delta(completion.tokens[sent:], completion.logprobs[sent:], completion))

        handle.on_done(finished)

    def _send_partial(self, outboxes: dict[Any, tuple["queue.Queue[_Delta]", int]]) -> None:
        for handle, tokens, logprobs in self.engine.partial_answers():
            outbox, sent = outboxes[handle]
            if len(tokens) > sent:
                outbox.put(_Delta(tokens[sent:], logprobs[sent:]))
                outboxes[handle] = (outbox, len(tokens))

    def _look(self) -> None:
        load = self.engine.load()
        used = 1 - self.engine.free_tokens() / self.facts.pool_tokens
        self._snapshot = (load.running, load.waiting, used, self.engine.iterations)

    # --- connection threads ---

    def enqueue(self, request: Request) -> "queue.Queue[_Delta]":
        """Hand a call to the engine thread; returns where its tokens come out."""
        if self._failure is not None:
            raise BadRequest(f"the engine failed: {self._failure}", HTTPStatus.INTERNAL_SERVER_ERROR)
        if self._jobs.qsize() + self._snapshot[1] >= self.max_waiting:
            raise BadRequest(f"{self.max_waiting} calls are waiting already.", HTTPStatus.TOO_MANY_REQUESTS)
        outbox: queue.Queue[_Delta] = queue.Queue()
        self._jobs.put((request, outbox))
        return outbox

    def next_delta(self, outbox: "queue.Queue[_Delta]") -> _Delta:
        """The next tokens of a call; an empty delta if the engine is gone."""
        while True:
            try:
                return outbox.get(timeout=0.5)
            except queue.Empty:
                if not self._engine_thread.is_alive() and outbox.empty():
                    return _Delta((), ())

    def metrics(self) -> str:
        """Prometheus text with vLLM's names."""
        running, waiting, used, iterations = self._snapshot
        waiting += self._jobs.qsize()
        label = f'{{model_name="{self.name}"}}'
        pages = self.facts.pool_tokens // self.facts.page_tokens
        return (
            f"# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{label} {used:.9f}\n"
            f"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{label} {running}\n"
            f"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{label} {waiting}\n"
            "# TYPE vllm:cache_config_info gauge\n"
            f'vllm:cache_config_info{{block_size="{self.facts.page_tokens}",num_gpu_blocks="{pages}"}} 1\n'
            f"# TYPE ninefold:iterations_total counter\nninefold:iterations_total {iterations}\n"
        )

    def parse(self, body: bytes) -> Request:
        """A completions request from its body.

        Raises:
            BadRequest: it is not one that this server can honour.
        """
        try:
            data = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is no JSON: {error}") from error
        if not isinstance(data, dict):
            raise BadRequest("the body must be a JSON object.")
        for key, value in data.items():
            if key in _NEUTRAL and not any(value == allowed for allowed in _NEUTRAL[key]):
                raise BadRequest(f"{key}={_short(value)} is not supported; decoding is greedy, leave it out.")
            if key not in _NEUTRAL and key not in _KNOWN and key not in _IGNORED:
                raise BadRequest(f"unknown entry {_short(key)}. Known: {', '.join(_KNOWN)}.")
        if data.get("model", self.name) != self.name:
            raise BadRequest(f"there is no model {_short(data['model'])}; this is {self.name!r}.", HTTPStatus.NOT_FOUND)
        max_tokens = _integer(data, "max_tokens", 16, 1, self.facts.context_tokens)
        logprobs = _integer(data, "logprobs", -1, 0, MAX_LOGPROBS)
        stop_ids = data.get("stop_token_ids") or []
        if not _is_ids(stop_ids):
            raise BadRequest(f"stop_token_ids={_short(stop_ids)} must be a list of token ids.")
        if not _flag(data, "ignore_eos") and self.loaded.tokenizer is not None:
            stop_ids = [*stop_ids, eos_id(self.loaded.tokenizer)]
        try:
            call = Call(self._prompt_ids(data.get("prompt")), max_tokens, stop_ids=tuple(stop_ids))
            self.facts.check_fits(call)
        except ConfigError as error:
            raise BadRequest(str(error)) from error
        return Request(call, _flag(data, "stream"), logprobs >= 0, _flag(data, "return_tokens_as_token_ids"))

    def _prompt_ids(self, prompt: Any) -> tuple[int, ...]:
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
            prompt = prompt[0]  # a batch of one
        if isinstance(prompt, str):
            if self.loaded.tokenizer is None:
                raise BadRequest("this model has no tokenizer; give the prompt as a list of token ids.")
            prompt = list(self.loaded.tokenizer.encode(prompt, add_special_tokens=False))
        if not _is_ids(prompt) or not prompt:
            raise BadRequest(f"prompt={_short(prompt)} must be text or a list of token ids, not empty.")
        vocabulary = int(self.loaded.config.vocab_size)
        for token in prompt:
            if not 0 <= token < vocabulary:
                raise BadRequest(f"token {token} of the prompt is not one of the model's {vocabulary}.")
        return tuple(prompt)

    def text(self, tokens: tuple[int, ...]) -> str:
        """Text of generated tokens, without markers."""
        if self.loaded.tokenizer is None or not tokens:
            return ""
        return str(self.loaded.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def token_name(self, token: int, names_ids: bool) -> str:
        """A token as it stands in `logprobs.tokens`."""
        if names_ids or self.loaded.tokenizer is None:
            return f"token_id:{token}"
        return str(self.loaded.tokenizer.decode([token]))


class _Handler(BaseHTTPRequestHandler):
    server_of: CompletionServer
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_TIMEOUT_S
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        server = self.server_of
        if path == "/metrics":
            self._reply(HTTPStatus.OK, server.metrics().encode(), "text/plain; version=0.0.4")
        elif path == "/health":
            is_well = server._failure is None
            self._reply(HTTPStatus.OK if is_well else HTTPStatus.INTERNAL_SERVER_ERROR, b"", "text/plain")
        elif path == "/v1/models":
            model = {"id": server.name, "object": "model", "max_model_len": server.facts.context_tokens}
            self._reply_json(HTTPStatus.OK, {"object": "list", "data": [model]})
        elif path == "/v1/completions":
            self._refuse(BadRequest("use POST for /v1/completions.", HTTPStatus.METHOD_NOT_ALLOWED))
        else:
            self._refuse(BadRequest(f"there is no {_short(path)} here.", HTTPStatus.NOT_FOUND))

    def do_POST(self) -> None:
        try:
            body = self._body()
            if self.path.split("?")[0] != "/v1/completions":
                raise BadRequest(f"there is no {_short(self.path)} here to post to.", HTTPStatus.NOT_FOUND)
            request = self.server_of.parse(body)
            outbox = self.server_of.enqueue(request)
        except BadRequest as error:
            self._refuse(error)
            return
        except (TimeoutError, ConnectionError):
            self.close_connection = True
            return
        if request.is_streamed:
            self._stream(request, outbox)
        else:
            self._answer(request, outbox)

    def _refuse_method(self) -> None:
        self.close_connection = True  # a body, if any, stays unread
        self._refuse(BadRequest(f"{self.command} is not used here.", HTTPStatus.METHOD_NOT_ALLOWED))

    do_PUT = do_DELETE = do_PATCH = _refuse_method

    def _body(self) -> bytes:
        text = self.headers.get("Content-Length")
        if text is None or not text.isdecimal():
            self.close_connection = True  # what follows cannot be told from the next request
            raise BadRequest("give a Content-Length.", HTTPStatus.LENGTH_REQUIRED)
        length = int(text)
        if length > MAX_BODY_BYTES:
            self.close_connection = True
            raise BadRequest(
                f"{length} bytes are more than the {MAX_BODY_BYTES} allowed.", HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            )
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionResetError("the client broke off")
        return body

    def _answer(self, request: Request, outbox: "queue.Queue[_Delta]") -> None:
        while (delta := self.server_of.next_delta(outbox)).completion is None and delta.tokens:
            pass
        completion = delta.completion
        if completion is None or completion.error is not None:
            self._refuse(_failed(completion))
            return
        choice = self._choice(request, completion.tokens, completion.logprobs, _reason(completion), 0)
        prompt_tokens, answer_tokens = len(request.call.prompt_ids), len(completion.tokens)
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": answer_tokens}
        usage["total_tokens"] = prompt_tokens + answer_tokens
        self._reply_json(HTTPStatus.OK, self._frame(choice) | {"usage": usage})

    def _stream(self, request: Request, outbox: "queue.Queue[_Delta]") -> None:
        self.close_connection = True  # the end of the connection ends the stream, whatever happens in between
        try:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            offset = 0
            while True:
                delta = self.server_of.next_delta(outbox)
                completion = delta.completion
                if (completion is None and not delta.tokens) or (completion is not None and completion.error):
                    self._event({"error": {"message": str(_failed(completion)), "type": "server_error"}})
                    return
                reason = None if completion is None else _reason(completion)
                choice = self._choice(request, delta.tokens, delta.logprobs, reason, offset)
                offset += len(choice["text"])
                self._event(self._frame(choice))
                if completion is not None:
                    self.wfile.write(b"data: [DONE]\n\n")
                    return
        except (ConnectionError, TimeoutError):
            pass  # the client went away; the engine finishes its call, nobody reads it

    def _event(self, data: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")

    def _choice(
        self, request: Request, tokens: tuple[int, ...], logprobs: tuple[float, ...], reason: str | None, offset: int
    ) -> dict[str, Any]:
        server = self.server_of
        given: dict[str, Any] | None = None
        if request.wants_logprobs:
            names = [server.token_name(token, request.names_ids) for token in tokens]
            ends = [len(server.text(tokens[:index])) for index in range(len(tokens))]
            given = {
                "tokens": names,
                "token_logprobs": list(logprobs),
                "top_logprobs": [{name: value} for name, value in zip(names, logprobs, strict=True)],
                "text_offset": [offset + end for end in ends],
            }
        return {"index": 0, "text": server.text(tokens), "logprobs": given, "finish_reason": reason}

    def _frame(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": f"cmpl-{id(self):x}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.server_of.name,
            "choices": [choice],
        }

    def _refuse(self, error: BadRequest) -> None:
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        body = {"error": {"message": str(error), "type": kind, "code": int(error.status)}}
        headers = {"Retry-After": "1"} if error.status == HTTPStatus.TOO_MANY_REQUESTS else {}
        self._reply_json(error.status, body, headers)

    def _reply_json(self, status: HTTPStatus, data: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._reply(status, json.dumps(data).encode(), "application/json", headers)

    def _reply(self, status: HTTPStatus, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: a library does not print."""


def _failed(completion: Completion | None) -> BadRequest:
    why = "the engine stopped" if completion is None else f"the call failed: {completion.error}"
    return BadRequest(why, HTTPStatus.INTERNAL_SERVER_ERROR)


def _reason(completion: Completion) -> str:
    return "stop" if completion.tokens and completion.tokens[-1] in completion.call.stop_ids else "length"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(token, int) and not isinstance(token, bool) for token in value)


def _flag(data: dict[str, Any], name: str) -> bool:
    value = data.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{name}={_short(value)} must be true or false.")
    return bool(value)


def _integer(data: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = data.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadRequest(f"{name}={_short(value)} must be a whole number from {low} to {high}.")
    return value
