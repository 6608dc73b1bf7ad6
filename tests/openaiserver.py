"""A server of the OpenAI API in this process, which says what a test wants, and the commands that ask it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    path: str
    headers: Message
    body: Body


@dataclass
class OpenAIServer:
    """``answer``: the text, or the status and the error, for a body; ``models``: those that are listed; each answer
    takes ``delay`` s. ``seen``: every question; ``changes``: method and path of what changed something."""

    answer: Callable[[Body], str | tuple[int, str]]
    models: list[str] = field(default_factory=lambda: ["base"])
    usage: bool = True
    delay: float = 0.0
    seen: list[Seen] = field(default_factory=list)
    changes: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def say(self, handler: Any) -> tuple[int, Body]:
        body = json.loads(handler.rfile.read(int(handler.headers.get("Content-Length") or 0)) or b"{}")
        if handler.command == "GET":
            return 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
        if handler.command != "POST":
            self.changes.append((handler.command, handler.path))
            name, sides = handler.path.rpartition("/")[2], list(body.get("sides", ()))
            self.models = [one for one in self.models if one != name and "@" not in one]
            self.models += [name, *sides] if sides else []
            return 200, {"name": name, "now": {"sides": sides} if sides else None, "before": None}
        self.seen.append(Seen(handler.path, handler.headers, body))
        time.sleep(self.delay)
        said = self.answer(body)
        if isinstance(said, tuple):
            return said[0], {"error": {"message": said[1]}}
        choice = {"message": {"role": "assistant", "content": said}, "text": said, "finish_reason": "stop"}
        usage = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100} if self.usage else None
        return 200, {"model": body["model"], "choices": [choice], "usage": usage}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # whoever finds no place knocks again after a second


@contextlib.contextmanager
def serving(server: OpenAIServer) -> Iterator[OpenAIServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # a body is written after its head

        def do_any(self) -> None:
            status, data = server.say(self)
            content = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = do_any

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
