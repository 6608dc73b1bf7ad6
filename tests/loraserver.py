"""A cluster that answers `clusterctl lora` what a test has it say."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: No test waits longer (s) for what it waits for.
DEADLINE = 20.0
INSTANCES = ("instance_0", "instance_1", "instance_2")


def an_adapter(name: str, version: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "lora_name": name, "version": version, "state": "loaded", "description": "", "rank": 8, "size": 12_345,
        "base_model": "demo", "auto_load": True, "requests_total": 0, "last_used": None,
        "instances": {i: {"state": "loaded", "version": version, "reason": ""} for i in INSTANCES}, **changes,
    }  # fmt: skip


def _version(number: int, active: bool) -> dict[str, Any]:
    return {
        "version": number, "hash": f"{number}" * 64, "rank": 8, "target_modules": ["q_proj", "v_proj"],
        "base_model": None, "source": f"/adapters/v{number}", "size": 2_000_000, "created": time.time() - 300,
        "active": active,
    }  # fmt: skip


class Cluster:
    """What the cluster would say. ``refusals``: a route's answer instead of its own. ``asked``: method, route, body."""

    def __init__(self) -> None:
        self.adapters: dict[str, dict[str, Any]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.ready = True
        self.unchecked: list[str] = []
        self.asked: list[tuple[str, str, Any]] = []
        self.during_change: Callable[[str], None] = lambda name: None
        self.hold_tokens = threading.Event()
        self.hold_tokens.set()
        self._looks = threading.Condition()
        self._looked = 0

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.asked.append((method, path, body))
        if path in self.refusals:
            status, message = self.refusals[path]
            return status, {"error": {"message": message, "code": status}}
        if method == "POST" and path == "/v1/load_lora_adapter":
            return self._load(body)
        if method == "POST" and path == "/v1/unload_lora_adapter":
            return self._unload(body["lora_name"])
        if path.endswith("/rollback"):
            return self._rollback(path.split("/")[3], body)
        if path == "/v1/lora_adapters":
            return 200, {"adapters": list(self.adapters.values())}
        if path.startswith("/v1/lora_adapters/"):
            return self._one(path.rsplit("/", 1)[1])
        if path == "/v1/models":
            listed = [{"id": "demo", "parent": None}, *({"id": name, "parent": "demo"} for name in self.adapters)]
            return 200, {"object": "list", "data": listed}
        if path == "/v1/chat/completions":
            text = f"{body['model']} says [bold]\x1b[2J{body['messages'][0]['content']}"
            return 200, {"choices": [{"message": {"content": text}}]}
        return 200, {"choices": [{"text": f"{body['model']} completes"}]}

    def wait_for_looks(self, more: int = 2) -> None:
        """Until the adapter was looked at ``more`` times; the first of them may have begun before."""
        with self._looks:
            wanted = self._looked + more
            assert self._looks.wait_for(lambda: self._looked >= wanted, DEADLINE)

    def routes(self) -> list[str]:
        return [path for _, path, _ in self.asked]

    def changes(self) -> list[Any]:
        """The bodies of the requests about adapters that change something."""
        return [body for method, path, body in self.asked if method == "POST" and "lora" in path]

    def _load(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["lora_name"]
        known = self.adapters.get(name)
        version = known["version"] + 1 if known else 1
        self.during_change(name)
        if not self.ready:
            self.adapters[name] = an_adapter(name, version, state="registered", instances={})
            return 202, {"lora_name": name, "version": version, "state": "registered", "instances": {}}
        self.adapters[name] = an_adapter(name, version)
        return 200, {**self._changed(name), "unchecked": self.unchecked}

    def _unload(self, name: str) -> tuple[int, Any]:
        if self.adapters.pop(name, None) is None:
            return self._unknown(name)
        return 200, {"lora_name": name, "state": "unloaded"}

    def _rollback(self, name: str, body: dict[str, Any]) -> tuple[int, Any]:
        if name not in self.adapters:
            return self._unknown(name)
        self.adapters[name] = an_adapter(name, body.get("version") or self.adapters[name]["version"] - 1)
        return 200, self._changed(name)

    def _changed(self, name: str) -> dict[str, Any]:
        found = self.adapters[name]
        instances = {i: seen["state"] for i, seen in found["instances"].items()}
        return {"lora_name": name, "version": found["version"], "state": "loaded", "instances": instances}

    def _one(self, name: str) -> tuple[int, Any]:
        found = self.adapters.get(name)
        with self._looks:
            self._looked += 1
            self._looks.notify_all()
        if found is None:
            return self._unknown(name)
        return 200, {**found, "versions": [_version(n, n == found["version"]) for n in (1, 2)]}

    def _unknown(self, name: str) -> tuple[int, Any]:
        return 404, {"error": {"message": f"no adapter {name!r}"}}


def handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # a body is written after its head

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, answer = cluster.answer(self.command, self.path, body)
            if status == 200 and body and body.get("stream"):
                cluster.hold_tokens.wait(DEADLINE)
                self._send(status, "text/event-stream", f"data: {json.dumps(answer)}\n\ndata: [DONE]\n\n")
            else:
                self._send(status, "application/json", json.dumps(answer))

        do_POST = do_GET

        def _send(self, status: int, kind: str, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is part of the tests."""


Run = Callable[..., tuple[int, str, str]]
