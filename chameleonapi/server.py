"""The API server: `python -m chameleonapi serve`. HTTP/1.1 with keep-alive around `chameleonapi.endpoints`.

    GET /healthz                "ok"
    GET /v1/applications        what is served
    everything else             the providers' endpoints

No request stops the server: what is wrong with one is answered with an error in the provider's form.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from chameleonapi.endpoints import Response, handle, refusal
from chameleonapi.registry import Router
from common.errors import ReproError

MAX_BODY_BYTES = 20 * 1024 * 1024
MAX_DISCARDED_BYTES = 4 * MAX_BODY_BYTES  # of a body that is too large; then the connection is cut
READ_TIMEOUT_S = 30.0


class ApiServer(ThreadingHTTPServer):
    """Serves a router on a socket; a thread for each connection."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], router: Router, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        super().__init__(address, _Connection)
        self.router = router
        self.max_body_bytes = max_body_bytes

    @property
    def url(self) -> str:
        """Where it is."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = READ_TIMEOUT_S
    server: ApiServer

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What HTTP itself refuses (a malformed request line, an unknown method) in the provider's form too."""
        self.close_connection = True
        self.request_version = (
            self.protocol_version
        )  # of a malformed line it is not known, and then no status would be sent
        status = HTTPStatus(code)
        is_aws = "X-Amz-Target" in (getattr(self, "headers", None) or {})
        self._send(refusal(code, status.name, f"{message or status.phrase}.", is_aws))

    def do_GET(self) -> None:
        """Health and what is served."""
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # its body is not read, and must not be taken for the next request
        if self.path == "/healthz":
            self._send(Response(200, b"ok", "text/plain"))
        elif self.path == "/v1/applications":
            try:
                self._send(Response(200, json.dumps({"applications": self._applications()}).encode()))
            except ReproError as error:  # a damaged registry
                self._send(refusal(500, "INTERNAL", str(error)))
        else:
            self._answer("GET", b"")

    def _applications(self) -> list[dict[str, Any]]:
        registry = self.server.router.registry
        versions = [v for v in map(registry.current, registry.app_ids()) if v is not None]
        return [{"app": v.app_id, "version": v.version, "theta": v.theta, "topK": v.top_k} for v in versions]

    def do_POST(self) -> None:
        """The providers' endpoints."""
        is_aws = "X-Amz-Target" in self.headers
        length_text = self.headers.get("Content-Length")
        try:
            if "Transfer-Encoding" in self.headers or not (length_text or "").strip().isdecimal():
                raise ValueError
            length = int(length_text or "")
        except ValueError:
            self.close_connection = True
            self._send(
                refusal(411, "LENGTH_REQUIRED", f"Content-Length is {length_text!r}; send the body's length.", is_aws)
            )
            return
        limit = self.server.max_body_bytes
        if length > limit:
            self.close_connection = True
            self._send(refusal(413, "REQUEST_TOO_LARGE", f"the body has {length} bytes; send at most {limit}.", is_aws))
            self._discard(min(length, MAX_DISCARDED_BYTES))
            return
        body = self.rfile.read(length)
        if len(body) < length:
            # The client may have closed only its own side, and still read.
            self.close_connection = True
            message = f"the body ends after {len(body)} of {length} bytes."
            with contextlib.suppress(OSError):
                self._send(refusal(400, "INVALID_ARGUMENT", message, is_aws))
            return
        self._answer("POST", body)

    def _discard(self, length: int) -> None:
        """Read a body that is too large and keep nothing: a client that is still sending would not see the answer."""
        with contextlib.suppress(OSError):
            while length > 0:
                piece = self.rfile.read(min(length, 1 << 16))
                if not piece:
                    return
                length -= len(piece)

    def _other(self) -> None:
        self.close_connection = True
        self._answer(self.command, b"")

    do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _other

    def _answer(self, method: str, body: bytes) -> None:
        try:
            answer = handle(method, self.path, dict(self.headers.items()), body, self.server.router)
        except Exception as error:  # a bug or a damaged model file must not take the server down
            answer = refusal(500, "INTERNAL", f"{type(error).__name__}: {error}", "X-Amz-Target" in self.headers)
        self._send(answer)

    def _send(self, answer: Response) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def setup(self) -> None:
        """Answers are small: send them at once."""
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a library does not print."""


@contextmanager
def serving(
    router: Router, host: str = "127.0.0.1", port: int = 0, max_body_bytes: int = MAX_BODY_BYTES
) -> Iterator[ApiServer]:
    """A server that runs in a thread of its own while the context lasts; port 0 takes a free one."""
    server = ApiServer((host, port), router, max_body_bytes)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
