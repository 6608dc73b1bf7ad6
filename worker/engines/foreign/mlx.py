"""``python -m worker.engines.foreign.mlx SERVING [ARGUMENT ...]``: mlx-lm's server as a worker.

Its own (``mlx_lm.server``, 0.32) is `http.server`: it answers everybody, loads whatever model or adapter a request
names, fetches what is behind URLs in it, lists the models of a hub's cache, resets connections when more than five come
at once, ends streams by closing the connection (a worker that dies looks the same), and goes on with a request whose
client has left. What generates is its own; what speaks HTTP is here.
"""

from __future__ import annotations

import io
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any, ClassVar

from worker.engines.foreign.models import rules_of
from worker.engines.foreign.rules import CHAT, RefusedRequest, RequestRules, Serving, adapt
from worker.engines.key_guard import KEY, REFUSAL, admits
from worker.spec import SEATS

#: Bytes of a request; the balancer takes as many by default.
_MOST = 64 * 1024 * 1024

#: Longer than the balancer keeps an idle connection (s).
_IDLE_S = 75

#: What the server calls the model that it was started with.
DEFAULT = "default_model"


class MlxServer(ThreadingHTTPServer):
    """Ends when what generates has ended: the model could not be loaded, or its thread is gone. ``alive()`` tells."""

    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: Callable[..., Any], alive: Callable[[], bool]) -> None:
        self._alive = alive
        super().__init__(address, handler)

    def service_actions(self) -> None:
        """Called again and again by `serve_forever`. Raises SystemExit."""
        if not self._alive():
            raise SystemExit("what generates has ended: see above")


class Cancellable:
    """mlx-lm's ``ResponseGenerator`` for one connection: what is asked there is given up when its client leaves."""

    def __init__(self, generator: Any, connection: socket.socket) -> None:
        self._generator, self._connection = generator, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def generate(self, *args: Any, **kwargs: Any) -> tuple[Any, Iterator[Any]]:
        """As its own. The iterator raises ConnectionError."""
        context, responses = self._generator.generate(*args, **kwargs)
        return context, self._while_there(responses)

    def _while_there(self, responses: Iterator[Any]) -> Iterator[Any]:
        for response in responses:
            if has_left(self._connection):
                raise ConnectionError("the client has left")
            yield response


def has_left(connection: socket.socket) -> bool:
    """Whether the other end of ``connection`` has been closed. Reads nothing."""
    readable, _, _ = select.select([connection], [], [], 0)
    if not readable:
        return False
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


class Chunks:
    """Writes each piece as a chunk of HTTP/1.1, but comments on how far a prompt is: until something is there of the
    answer, it can be made elsewhere."""

    def __init__(self, out: Any) -> None:
        self.out = out

    def write(self, data: bytes) -> int:
        if data and not data.startswith(b":"):
            self.out.write(b"%x\r\n%b\r\n" % (len(data), data))
        return len(data)

    def flush(self) -> None:
        self.out.flush()


class WorkerHandler(BaseHTTPRequestHandler):
    """One connection. A class of it and mlx-lm's ``APIHandler``, with the values below, answers as a worker does."""

    rules: ClassVar[RequestRules]
    serving: ClassVar[Serving]
    key: ClassVar[bytes]
    created: ClassVar[int]
    response_generator: Any
    rfile: Any
    wfile: Any
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _IDLE_S
    _asked_for = ""
    _framed = _streams = False

    def setup(self) -> None:
        super().setup()
        self.response_generator = Cancellable(self.response_generator, self.connection)

    def parse_request(self) -> bool:
        """Whether the request is answered at all: before its method is looked at, and its body read."""
        if not super().parse_request():
            return False
        if admits(self.headers.get("Authorization", "").encode("latin-1"), self.key):
            return True
        self.close_connection = True
        self._reply(401, REFUSAL, ("WWW-Authenticate", "Bearer"))
        return False

    def do_GET(self) -> None:
        match self.path:
            case "/health":
                loaded = self.response_generator.model_provider.model is not None
                self._reply(200 if loaded and self.response_generator.is_healthy else 503, b"{}")
            case "/v1/models":
                self._reply(200, json.dumps(self.serving.cards(self.created)).encode())
            case path if path == SEATS:
                self._reply(200, json.dumps({"seats": self.serving.seats}).encode())
            case _:
                self._refuse(RefusedRequest(404, "this worker has no such route"))

    def do_OPTIONS(self) -> None:
        self._refuse(RefusedRequest(404, "this worker has no such route"))

    def do_POST(self) -> None:
        try:
            if self.path not in (CHAT, "/v1/completions"):
                raise RefusedRequest(404, "this worker has no such route")
            adapted = adapt(self._read(), self.path == CHAT, self.rules, self.serving)
        except RefusedRequest as refused:
            self.close_connection = True  # its body may not have been read
            self._refuse(refused)
            return
        self._asked_for = adapted.model
        self._generate(json.dumps(adapted.body).encode())

    def _generate(self, body: bytes) -> None:
        own: Any = super()
        del self.headers["Content-Length"]
        self.headers["Content-Length"] = str(len(body))
        rest, out = self.rfile, self.wfile
        self.rfile, self._framed = io.BytesIO(body), False
        try:
            own.do_POST()
            if isinstance(self.wfile, Chunks):
                out.write(b"0\r\n\r\n")
        except ConnectionError:
            self.close_connection = True
        except BaseException:
            self.close_connection = True  # it must not look like an end
            raise
        finally:
            self.rfile, self.wfile = rest, out

    def _read(self) -> bytes:
        """Raises RefusedRequest."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 12):
            raise RefusedRequest(411, "Content-Length is needed")
        if int(length) > _MOST:
            raise RefusedRequest(413, f"a request of more than {_MOST} bytes")
        return bytes(self.rfile.read(int(length)))

    def _refuse(self, refused: RefusedRequest) -> None:
        self._reply(refused.status, refused.body())

    def _reply(self, status: int, body: bytes, *more: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *more):
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # how mlx-lm's handler speaks

    def generate_response(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        own: Any = super()
        return {**own.generate_response(*args, **kwargs), "model": self._asked_for}

    def completion_usage_response(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        own: Any = super()
        return {**own.completion_usage_response(*args, **kwargs), "model": self._asked_for}

    def _set_completion_headers(self, status_code: int = 200) -> None:
        own: Any = super()
        if status_code == 404:  # it stands for everything that went wrong before the first token
            status_code = 400 if self.response_generator.is_healthy else 500
        own._set_completion_headers(status_code)

    def _set_stream_headers(self, status_code: int = 200) -> None:
        own: Any = super()
        own._set_stream_headers(status_code)
        self.send_header("Transfer-Encoding", "chunked")
        self._streams = self._framed = True

    def _set_cors_headers(self) -> None:
        """None: the balancer answers browsers."""

    def send_header(self, keyword: str, value: str) -> None:
        self._framed = self._framed or keyword.lower() == "content-length"
        super().send_header(keyword, value)

    def end_headers(self) -> None:
        if not self._framed:
            self.send_header("Connection", "close")
            self.close_connection = True
        super().end_headers()
        if self._streams:
            self.wfile, self._streams = Chunks(self.wfile), False

    def log_request(self, *args: Any) -> None:
        """Probes would fill the log."""


def main(argv: Sequence[str]) -> None:
    """Runs until SIGTERM. Raises SystemExit."""
    serving = Serving.from_json(json.loads(argv[0]))
    if serving.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, serving.cores)
    key = os.environ.get(KEY, "").encode()
    if not key:
        raise SystemExit(f"{KEY} is not set")
    rules = rules_of(serving.engine)
    from mlx_lm import server

    about = {"rules": rules, "serving": serving, "key": key, "created": int(time.time())}
    handler: Any = type("Handler", (WorkerHandler, server.APIHandler), about)

    def serve(host: str, port: int, generator: Any) -> None:
        fingerprint = server.get_system_fingerprint()

        def handle(*args: Any) -> None:
            handler(generator, *args, system_fingerprint=fingerprint)

        with MlxServer((host, port), handle, generator.generation_available) as httpd:
            try:
                httpd.serve_forever(0.1)
            except _Ended:
                generator.stop_and_join()
                sys.stderr.flush()
                os._exit(0)  # threads that wait for their clients are no reason to abort

    signal.signal(signal.SIGTERM, _end)
    server._run_http_server = serve
    sys.argv = ["mlx_lm.server", *argv[1:]]
    server.main()


class _Ended(BaseException):
    """It is asked to end."""


def _end(_number: int, _frame: FrameType | None) -> None:
    raise _Ended


if __name__ == "__main__":
    main(sys.argv[1:])
