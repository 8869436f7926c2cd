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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from chameleonapi.endpoints import Response, handle, refusal
from chameleonapi.registry import Router

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

    def do_GET(self) -> None:
        """Health and what is served."""
        if self.path == "/healthz":
            self._send(Response(200, b"ok", "text/plain"))
        elif self.path == "/v1/applications":
            known = []
            for app_id in self.server.router.registry.app_ids():
                version = self.server.router.registry.current(app_id)
                if version is not None:
                    known.append(
                        {"app": app_id, "version": version.version, "theta": version.theta, "topK": version.top_k}
                    )
            self._send(Response(200, json.dumps({"applications": known}).encode()))
        else:
            self._answer("GET", b"")

    def do_POST(self) -> None:
        """The providers' endpoints."""
        is_aws = "X-Amz-Target" in self.headers
        length_text = self.headers.get("Content-Length")
        try:
            length = int(length_text or "")
            if length < 0:
                raise ValueError
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
            self.close_connection = True
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
