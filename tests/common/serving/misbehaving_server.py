"""A server that answers each request as a script says; for the client's tests."""

import json
import socket
import threading
import time


def event(data):
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def good_events(tokens=(5, 6), ids=True):
    names = [f"token_id:{t}" if ids else f"w{t}" for t in tokens]
    for index, name in enumerate(names):
        choice = {"index": 0, "text": f" w{tokens[index]}", "finish_reason": None}
        choice["logprobs"] = {"tokens": [name], "token_logprobs": [-0.5]}
        yield event({"choices": [choice]})
    yield event({"choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]})
    yield event({"choices": [], "usage": {"total_tokens": 3}})
    yield event(b"[DONE]")


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def status(code, body=b'{"error": {"message": "no"}}', headers=()):
    lines = [f"HTTP/1.1 {code} X", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class MisbehavingServer:
    """Serves `script[i]` to the i-th POST (the last entry for all further ones); an entry is bytes, a list of bytes, or a
    function of the socket. GETs get `metrics`."""

    def __init__(self, script, metrics=None):
        self.script, self.metrics, self.bodies, self.heads = script, metrics, [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.accept, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        # Closing a listener does not wake its accept everywhere; a last connection does.
        self.is_closing = True
        with socket.create_connection(self.listener.getsockname()):
            pass
        self.thread.join(5)
        self.listener.close()

    is_closing = False

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            if self.is_closing:
                connection.close()
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection, connection.makefile("rb") as stream:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = stream.readline()
                if not line:
                    return
                head += line
            length = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            body = stream.read(length[0]) if length else b""
            if head.startswith(b"GET"):
                connection.sendall(status(404) if self.metrics is None else status(200, self.metrics.encode()))
                return
            self.heads.append(head.decode())
            self.bodies.append(json.loads(body))
            act = self.script[min(len(self.bodies), len(self.script)) - 1]
            try:
                if callable(act):
                    act(connection)
                else:
                    for piece in [act] if isinstance(act, bytes) else act:
                        connection.sendall(piece)
            except OSError:
                pass


def good(**options):
    return [STREAM, *good_events(**options)]


def drop(connection):
    """Close without a byte."""


def stall(connection):
    """Say nothing for longer than any time-out of a test."""
    time.sleep(1.5)
