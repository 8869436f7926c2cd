"""The storage server: a store's objects over HTTP/1.1 on TCP, through a link of a given rate.

    GET /contexts                            JSON list of context ids
    GET /contexts/<id>/manifest.json         JSON, see `cachegen.store.Manifest`
    GET /contexts/<id>/<chunk>.<level|text>  bytes
    GET /profiles/<id>                       bytes

Anything else gets an error status and one line of text. The link is shared by all connections: its bytes leave in the order in
which they were offered, at the rate of a `common.net.rate.Rate`, the model that the simulator uses too.
"""

import dataclasses
import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cachegen.store import Store
from common.errors import ConfigError, DataUnavailable
from common.net.rate import Rate

_PIECE_BYTES = 16384
_IDLE_TIMEOUT_S = 30.0


class ShapedLink:
    """Lets bytes pass no faster than a rate allows.

    Args:
        rate: None for no limit.
        clock, sleep: seconds, e.g. `time.monotonic` and `time.sleep`; the rate's time starts with the first byte or `restart`.
    """

    def __init__(self, rate: Rate | None, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._lock = threading.Lock()
        self._origin_s: float | None = None
        self._server = rate.start() if rate is not None else None

    def restart(self, rate: Rate | None = None) -> None:
        """Begin the rate anew, or another one, with the next byte."""
        with self._lock:
            self._rate = rate if rate is not None else self._rate
            self._origin_s = None
            self._server = self._rate.start() if self._rate is not None else None

    def wait(self, num_bytes: int) -> None:
        """Block until so many further bytes have left the link."""
        with self._lock:
            if self._server is None:
                return
            now_s = self._clock()
            if self._origin_s is None:
                self._origin_s = now_s
            _, end_s = self._server.serve(now_s - self._origin_s, num_bytes)
            left_s = end_s - (now_s - self._origin_s)
        # Slept outside the lock: other connections may queue behind these bytes meanwhile.
        if left_s > 0:
            self._sleep(left_s)


@dataclasses.dataclass(frozen=True, eq=False)
class StorageServer:
    """A running server; a context manager that stops it.

    Attributes:
        http: the listening server.
        link: shapes all that it sends.
    """

    http: ThreadingHTTPServer
    link: ShapedLink

    @classmethod
    def listen(cls, store: Store, link: ShapedLink, host: str = "127.0.0.1", port: int = 0) -> "StorageServer":
        """Bind; port 0 takes a free one. Nothing is served before `run`.

        Raises:
            ConfigError: that address cannot be had.
        """
        handler = type("Handler", (_Handler,), {"store": store, "link": link})
        try:
            http = ThreadingHTTPServer((host, port), handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot listen on {host}:{port}: {reason}. Choose another host or port.") from error
        http.daemon_threads = True
        return cls(http, link)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, port = self.http.server_address[:2]
        return str(host), int(port)

    def run(self) -> None:
        """Serve until `stop` is called from another thread."""
        self.http.serve_forever(poll_interval=0.05)

    def stop(self) -> None:
        """Stop serving and free the port."""
        self.http.shutdown()
        self.http.server_close()

    def __enter__(self) -> "StorageServer":
        threading.Thread(target=self.run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Handler(BaseHTTPRequestHandler):
    store: Store
    link: ShapedLink
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_TIMEOUT_S  # a client that sends nothing does not hold a thread for ever
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        parts = [part for part in self.path.split("?")[0].split("/") if part]
        try:
            if parts == ["contexts"]:
                body = json.dumps(self.store.contexts()).encode()
            else:
                body = self.store.read(*parts)
        except DataUnavailable as error:
            self._reply(HTTPStatus.NOT_FOUND, f"{error}\n".encode())
            return
        except OSError as error:
            self._reply(HTTPStatus.INTERNAL_SERVER_ERROR, f"cannot read it: {type(error).__name__}\n".encode())
            return
        self._reply(HTTPStatus.OK, body)

    def _reply(self, status: HTTPStatus, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/octet-stream" if status == HTTPStatus.OK else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for start in range(0, len(body), _PIECE_BYTES):
                piece = body[start : start + _PIECE_BYTES]
                self.link.wait(len(piece))
                self.wfile.write(piece)
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client went away; that is its right

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: a library does not print."""
