"""HttpEngine: any server with OpenAI's completions API, such as vLLM, behind the engine protocol.

A call becomes one streamed POST /v1/completions, sent from a thread of a pool; its end is handed to the thread that calls
`run`, where all callbacks run. What can go wrong on the way (no connection, a time-out, 408, 429, 5xx, a broken connection, an
answer that is no JSON) is tried again, a bounded number of times with growing pauses, and then ends the call with an error in
its completion. Decoding is greedy, so a repetition gives the same answer.

Memory: vLLM reserves its pool at start, so the GPU's free memory says nothing; its /metrics do
(`vllm:kv_cache_usage_perc`). Where a server has no such metric, occupancy is estimated by the tokens of one's own calls
(`occupancy="own"`), which is right only while nobody else uses the server. Which of the two is in use stands in
`occupancy_source`.
"""

import dataclasses
import email.utils
import heapq
import http.client
import json
import math
import queue
import re
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from common.errors import ConfigError, DataUnavailable, ReproError
from common.results import Basis
from common.serving.api import Call, Completion, EngineFacts, Handle, Load, pages_for

Dialect = Literal["vllm", "openai"]
Occupancy = Literal["auto", "metrics", "own"]

_MAX_LINE_BYTES = 4 << 20
_MAX_BODY_BYTES = 64 << 20
_RETRIED = (408, 425, 429)
_TOKEN_ID = re.compile(r"token_id:(\d+)\Z")
_METRIC = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+\d+)?$")
_USAGE_NAMES = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")  # the second until vLLM 0.9


@dataclasses.dataclass(frozen=True)
class Retry:
    """How often and how patiently a call is tried again.

    Attributes:
        attempts: in all, >= 1.
        first_pause_s: before the second attempt; doubled each time.
        longest_pause_s: never wait longer, also where a server asks for more (Retry-After).
    """

    attempts: int = 4
    first_pause_s: float = 0.25
    longest_pause_s: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first_pause_s < 0 or self.longest_pause_s < 0:
            raise ConfigError(f"{self} needs at least one attempt and no negative pause.")

    def pause_s(self, failures: int, asked_s: float | None) -> float:
        """Time to wait after so many failures in a row; `asked_s` is what the server asked for."""
        own_s = self.first_pause_s * 2 ** (failures - 1)
        return min(self.longest_pause_s, own_s if asked_s is None else max(asked_s, 0.0))


class _Failure(ReproError):
    """An attempt that failed. `is_final`: trying again would not help. `asked_s`: Retry-After."""

    def __init__(self, message: str, is_final: bool = False, asked_s: float | None = None) -> None:
        super().__init__(message)
        self.is_final, self.asked_s = is_final, asked_s


@dataclasses.dataclass
class _Flight:
    call: Call
    handle: Handle
    submitted_s: float
    received: int = 0  # tokens, of the current attempt; written by the sending thread
    first_token_s: float | None = None


@dataclasses.dataclass(frozen=True)
class _Ended:
    number: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    error: str | None
    at_s: float


class HttpEngine:
    """An OpenAI-compatible server; implements `common.serving.api.Engine`.

    Args:
        url: of the server, e.g. "http://127.0.0.1:8000" (a path before /v1 is kept).
        model: its name there.
        facts: of the model and the server; `discover` reads what the server tells.
        clock, sleep: seconds, e.g. `time.monotonic` and `time.sleep`.
        timeout_s: how long a connection may take, and an answer to begin or continue.
        max_connections: calls sent at a time; further ones wait here.
        retry: see `Retry`.
        dialect: "vllm" asks for token ids and stops by token id (vLLM, and `python -m common.serving serve`); "openai" uses
            nothing beyond OpenAI's API: tokens are then `encode` of the answer's text, and the server's own end token stops.
        encode: text to token ids, for "openai".
        occupancy: "metrics", "own", or "auto": metrics if the server has them when the engine is made.
        api_key: sent as a bearer token; take it from the environment, never from a file of settings.

    Raises:
        ConfigError: a bad url or setting; "openai" without `encode`; "metrics" of a server that has none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        facts: EngineFacts,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        *,
        timeout_s: float = 60.0,
        max_connections: int = 64,
        retry: Retry | None = None,
        dialect: Dialect = "vllm",
        encode: Callable[[str], Sequence[int]] | None = None,
        occupancy: Occupancy = "auto",
        api_key: str | None = None,
    ) -> None:
        self._web = _Web(url, timeout_s, api_key)
        self._model, self._facts, self._clock, self._sleep = model, facts, clock, sleep
        self._retry = retry if retry is not None else Retry()
        if dialect not in ("vllm", "openai"):
            raise ConfigError(f"dialect {dialect!r} is not one of vllm, openai.")
        if occupancy not in ("auto", "metrics", "own"):
            raise ConfigError(f"occupancy {occupancy!r} is not one of auto, metrics, own.")
        if dialect == "openai" and encode is None:
            raise ConfigError("dialect 'openai' gives text only; pass encode=, the model's tokenizer, to get tokens.")
        self._dialect, self._encode = dialect, encode
        self._occupancy: Literal["metrics", "own"] = "own"
        if occupancy != "own":
            try:
                self._used_share()
                self._occupancy = "metrics"
            except (DataUnavailable, _Failure) as error:
                if occupancy == "metrics":
                    raise ConfigError(f"{url} gives no occupancy ({error}); use occupancy='own'.") from error
        self._pool = ThreadPoolExecutor(max_connections, thread_name_prefix="http-engine")
        self._ended: queue.Queue[_Ended] = queue.Queue()
        self._flights: dict[int, _Flight] = {}
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._counter = 0
        self._is_running = False
        self._is_closed = False
        self._origin_s = clock()

    # --- Engine ---

    @property
    def facts(self) -> EngineFacts:
        """See `Engine.facts`."""
        return self._facts

    @property
    def basis(self) -> Basis:
        """Always "measured"."""
        return "measured"

    @property
    def occupancy_source(self) -> str:
        """ "metrics" or "own"; see the module's docstring."""
        return self._occupancy

    def now(self) -> float:
        """Seconds of the clock since construction."""
        return self._clock() - self._origin_s

    def submit(self, call: Call) -> Handle:
        """See `Engine.submit`; group fields are not sent."""
        if self._is_closed:
            raise ConfigError("this engine was closed; make a new one.")
        self._facts.check_fits(call)
        if self._dialect == "openai" and len(call.stop_ids) > 1:
            raise ConfigError(f"call {call.tag!r}: dialect 'openai' stops at the server's own end token only.")
        self._counter += 1
        flight = _Flight(call, Handle(call), self.now())
        self._flights[self._counter] = flight
        self._pool.submit(self._serve, self._counter, flight)
        return flight.handle

    def free_tokens(self) -> int:
        """See `Engine.free_tokens`. With metrics one request to the server.

        Raises:
            DataUnavailable: the server did not give its metrics.
        """
        pool = self._facts.pool_tokens
        if self._occupancy == "metrics":
            try:
                return max(0, round(pool * (1 - self._used_share())))
            except _Failure as error:
                raise DataUnavailable(f"the server's occupancy cannot be read: {error}") from error
        return max(0, pool - self._own_tokens(lambda flight: len(flight.call.prompt_ids) + flight.received))

    def promised_tokens(self) -> int:
        """See `Engine.promised_tokens`; of this engine's own calls, other clients' promises are unknown."""
        most = self._own_tokens(lambda flight: len(flight.call.prompt_ids) + flight.call.max_tokens)
        return max(0, most - (self._facts.pool_tokens - self.free_tokens()))

    def load(self) -> Load:
        """Of this engine's own calls; one counts as waiting until its first token is there."""
        flights = list(self._flights.values())
        waiting = [flight for flight in flights if not flight.received]
        decode = sum(flight.call.max_tokens - flight.received for flight in flights)
        return Load(len(flights) - len(waiting), len(waiting), sum(len(f.call.prompt_ids) for f in waiting), decode)

    def call_at(self, at_s: float, callback: Callable[[], object]) -> None:
        """See `Engine.call_at`."""
        self._counter += 1
        heapq.heappush(self._timers, (at_s, self._counter, callback))

    def run(self) -> None:
        """See `Engine.run`."""
        if self._is_running:
            raise ConfigError("run was called by a callback of run; callbacks return and the engine goes on.")
        self._is_running = True
        try:
            while True:
                while self._timers and self._timers[0][0] <= self.now():
                    heapq.heappop(self._timers)[2]()
                wait_s = self._timers[0][0] - self.now() if self._timers else None
                if self._flights:
                    if wait_s is not None and wait_s <= 0:
                        continue
                    try:
                        ended = self._ended.get(timeout=wait_s)
                    except queue.Empty:
                        continue
                    self._finish(ended)
                elif wait_s is not None:
                    self._sleep(max(0.0, wait_s))
                else:
                    return
        finally:
            self._is_running = False

    def close(self) -> None:
        """Wait for what is on its way (no longer than time-outs and retries last), and stop the threads."""
        if not self._is_closed:
            self._is_closed = True
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "HttpEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside ---

    def _finish(self, ended: _Ended) -> None:
        flight = self._flights.pop(ended.number)
        flight.handle.finish(
            Completion(
                flight.call,
                ended.tokens,
                ended.logprobs,
                flight.submitted_s,
                flight.submitted_s,
                flight.first_token_s,
                ended.at_s,
                ended.error,
            )
        )

    def _own_tokens(self, of: Callable[[_Flight], int]) -> int:
        page = self._facts.page_tokens
        return sum(pages_for(of(flight), page) * page for flight in list(self._flights.values()))

    def _used_share(self) -> float:
        # DEVIATION ragserve-21: the pool's occupancy from the server's own metrics, not the GPU's free memory from NVML.
        metrics = parse_metrics(self._web.get("/metrics"))
        for name in _USAGE_NAMES:
            if name in metrics:
                return metrics[name][0][1]
        raise DataUnavailable(f"/metrics has none of {', '.join(_USAGE_NAMES)}")

    def _serve(self, number: int, flight: _Flight) -> None:
        """In a thread of the pool: the call with all its attempts."""
        tokens: tuple[int, ...] = ()
        logprobs: tuple[float, ...] = ()
        error: str | None = None
        try:
            for failures in range(1, self._retry.attempts + 1):
                flight.received, flight.first_token_s = 0, None
                try:
                    tokens, logprobs = self._attempt(flight)
                    error = None
                    break
                except _Failure as failure:
                    error = str(failure)
                    if failure.is_final:
                        break
                    if failures == self._retry.attempts:
                        error = f"{error} (after {failures} attempts)"
                        break
                    self._sleep(self._retry.pause_s(failures, failure.asked_s))
        except Exception as unexpected:  # in a thread nobody would see it: the completion carries it out
            error = f"{type(unexpected).__name__}: {unexpected}"
        self._ended.put(_Ended(number, tokens, logprobs, error, self.now()))

    def _attempt(self, flight: _Flight) -> tuple[tuple[int, ...], tuple[float, ...]]:
        call = flight.call
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": list(call.prompt_ids),
            "max_tokens": call.max_tokens,
            "temperature": 0,
            "stream": True,
            "logprobs": 1,
        }
        if self._dialect == "vllm":
            body |= {"stop_token_ids": list(call.stop_ids), "ignore_eos": True, "return_tokens_as_token_ids": True}
        names: list[str] = []
        logprobs: list[float] = []
        text, is_done = "", False
        for event in self._web.events("/v1/completions", body):
            if event == "[DONE]":
                is_done = True
                break
            piece = _choice_of(event)
            text += piece[0]
            names += piece[1]
            logprobs += piece[2]
            if (piece[0] or piece[1]) and flight.first_token_s is None:
                flight.first_token_s = self.now()
            flight.received = max(len(names), 1 if text else 0)
        if not is_done:
            raise _Failure("the connection ended before the answer did")
        tokens = self._tokens(names, text)
        if not 1 <= len(tokens) <= call.max_tokens:
            raise _Failure(f"the server gave {len(tokens)} tokens where 1 to {call.max_tokens} were asked for")
        if len(logprobs) != len(tokens):
            logprobs = []  # of the server's own tokens, which are not ours
        return tokens, tuple(logprobs)

    def _tokens(self, names: list[str], text: str) -> tuple[int, ...]:
        if self._dialect == "openai":
            assert self._encode is not None
            return tuple(int(token) for token in self._encode(text))
        ids = []
        for name in names:
            match = _TOKEN_ID.match(name)
            if match is None:
                raise _Failure(
                    f"the server names a token {name[:40]!r} and not by its id; use dialect='openai' with encode=",
                    is_final=True,
                )
            ids.append(int(match.group(1)))
        return tuple(ids)


def discover(url: str, bytes_per_token: int, *, timeout_s: float = 10.0, **overrides: int) -> EngineFacts:
    """Facts of a running server: the context from /v1/models, pool and page size from /metrics (vLLM's names).

    Args:
        url: of the server.
        bytes_per_token: of the model's KV cache, which no server tells.
        timeout_s: for each of the two requests.
        overrides: fields of `EngineFacts` that are known better, or that the server does not tell.

    Raises:
        DataUnavailable: the server does not answer, or does not tell something that is not among `overrides`.
    """
    web = _Web(url, timeout_s, None)
    found: dict[str, int] = {"bytes_per_token": bytes_per_token}
    try:
        if "context_tokens" not in overrides:
            models = json.loads(web.get("/v1/models"))
            length = models["data"][0].get("max_model_len")
            if isinstance(length, int):
                found["context_tokens"] = length
        if not {"pool_tokens", "page_tokens"} <= set(overrides):
            labels = parse_metrics(web.get("/metrics")).get("vllm:cache_config_info", [({}, 0.0)])[0][0]
            if labels.get("block_size", "").isdecimal() and labels.get("num_gpu_blocks", "").isdecimal():
                found["page_tokens"] = int(labels["block_size"])
                found["pool_tokens"] = int(labels["block_size"]) * int(labels["num_gpu_blocks"])
    except (_Failure, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataUnavailable(
            f"{url} does not describe itself: {error}. Give context_tokens and pool_tokens."
        ) from error
    found |= overrides
    for field in ("context_tokens", "pool_tokens"):
        if field not in found:
            raise DataUnavailable(f"{url} does not tell its {field}; give it yourself.")
    return EngineFacts(**found)


def parse_metrics(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Prometheus text: for each name its (labels, value) pairs. Lines that are none are skipped."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in text.splitlines():
        match = None if line.startswith("#") else _METRIC.match(line.strip())
        if match is None:
            continue
        try:
            value = float(match.group(3))
        except ValueError:
            continue
        labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match.group(2) or ""))
        found.setdefault(match.group(1), []).append((labels, value))
    return found


class _Web:
    """Requests to one server, each on a connection of its own; errors as `_Failure`."""

    def __init__(self, url: str, timeout_s: float, api_key: str | None) -> None:
        parts = urllib.parse.urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"url {url!r}: {error}.") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"url {url!r} is no server; write e.g. http://127.0.0.1:8000.")
        if timeout_s <= 0:
            raise ConfigError(f"timeout_s={timeout_s} must be above 0.")
        self._host, self._port, self._is_tls = parts.hostname, port, parts.scheme == "https"
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json", "Connection": "close"}
        if api_key is not None:
            if not api_key or not api_key.isprintable() or not api_key.isascii():
                raise ConfigError("api_key is empty or has characters that no header may hold.")
            self._headers["Authorization"] = f"Bearer {api_key}"

    def get(self, path: str) -> str:
        """Body of a GET."""
        connection, response = self._request("GET", path, None)
        try:
            body = response.read(_MAX_BODY_BYTES + 1)
            if len(body) > _MAX_BODY_BYTES:
                raise _Failure(f"the answer to {path} has more than {_MAX_BODY_BYTES} bytes", is_final=True)
            return body.decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise _Failure(_why(error)) from error
        finally:
            connection.close()

    def events(self, path: str, body: dict[str, Any]) -> Any:
        """Data of the server-sent events that answer a POST, one after another."""
        connection, response = self._request("POST", path, json.dumps(body).encode())
        try:
            total = 0
            while line := response.readline(_MAX_LINE_BYTES):
                total += len(line)
                if total > _MAX_BODY_BYTES or not line.endswith(b"\n"):
                    raise _Failure("an event of the answer is cut off, or the answer is too long")
                if line.startswith(b"data:"):
                    yield line[5:].strip().decode(errors="replace")
                elif line.strip() and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                    raise _Failure(f"the answer is no event stream: {line[:60]!r}")
        except (OSError, http.client.HTTPException) as error:
            raise _Failure(_why(error)) from error
        finally:
            connection.close()

    def _request(self, method: str, path: str, body: bytes | None) -> tuple[Any, http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout_s)
        try:
            connection.request(method, self._base + path, body, self._headers)
            response = connection.getresponse()
            if response.status != 200:
                detail = response.read(2000).decode(errors="replace")
                raise _refusal(
                    response.status, detail, _seconds(response.headers.get("Retry-After"), response.headers.get("Date"))
                )
            return connection, response
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _Failure(_why(error)) from error
        except BaseException:
            connection.close()
            raise


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there (connection refused)"
    return f"the connection failed: {type(error).__name__} {error}".rstrip()


def _refusal(status: int, detail: str, asked_s: float | None) -> _Failure:
    message = detail.strip().partition("\n")[0]
    try:
        given = json.loads(detail)
        message = str(given["error"]["message"]) if isinstance(given.get("error"), dict) else str(given.get("message"))
    except (ValueError, KeyError, AttributeError):
        pass
    may_retry = status in _RETRIED or status >= 500
    return _Failure(f"the server answers {status}: {message[:300]}", not may_retry, asked_s)


def _seconds(retry_after: str | None, date: str | None) -> float | None:
    """Retry-After, in seconds or as a date, which counts from the answer's own Date; None if it is neither."""
    if retry_after is None:
        return None
    try:
        return float(retry_after)
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(retry_after)
        return (until - email.utils.parsedate_to_datetime(date or "")).total_seconds()
    except (TypeError, ValueError):
        return None


def _choice_of(event: str) -> tuple[str, list[str], list[float]]:
    """Text, token names and log-probabilities of one event."""
    try:
        data = json.loads(event)
    except (ValueError, RecursionError) as error:
        raise _Failure(f"the server sent what is no JSON: {event[:60]!r}") from error
    try:
        if data.get("error"):  # some servers send `"error": null` with every event
            raise _Failure(f"the server reports: {str(data['error'].get('message', data['error']))[:300]}")
        if not data["choices"]:
            return "", [], []  # a usage report
        choice = data["choices"][0]
        given = choice.get("logprobs") or {}
        names, values = list(given.get("tokens") or []), list(given.get("token_logprobs") or [])
        if len(values) != len(names) or not all(isinstance(name, str) for name in names):
            raise _Failure("the server's tokens and log-probabilities do not match")
        logprobs = [float(value) for value in values]
        if any(math.isnan(value) for value in logprobs):
            raise _Failure("the server sent a log-probability that is no number")
        return str(choice.get("text") or ""), names, logprobs
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise _Failure(f"the server sent another JSON than a completion: {event[:80]!r}") from error
