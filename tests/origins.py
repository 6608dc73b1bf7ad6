"""Places that things are fetched from, for tests: a hub, ModelScope and plain files behind one server of this process,
with the faults that a test asks for."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
import urllib.parse
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from certificates import Issued
from worker.demo import adapters

COMMIT = "a" * 40


def adapter_files() -> dict[str, bytes]:
    """The demo's adapter, and what else lies in such repositories."""
    folder = adapters()["pirate"]
    return {
        "adapter_config.json": (folder / "adapter_config.json").read_bytes(),
        "adapter_model.safetensors": (folder / "adapter_model.safetensors").read_bytes(),
        "README.md": b"# pirate\n", "evil.py": b"raise SystemExit\n", ".gitattributes": b"*\n",
    }  # fmt: skip


class Origin:
    """``files`` by their path; a repository ``org/name`` is those below that. ``fail``: statuses of the next answers
    with content, ``break_after``: the next such answers break off after so many bytes, ``stall_after``: they
    come so far and no further, ``flowing``: cleared, content waits until it is set, ``corrupt``: names whose content
    comes changed, ``token``: who shows another one is not let in. ``log``: what was asked, with headers."""

    def __init__(self, tls: Issued | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.commit = COMMIT
        self.fail: list[int] = []
        self.fail_listing: list[int] = []
        self.break_after: list[int] = []
        self.stall_after: int | None = None
        self.flowing = threading.Event()
        self.flowing.set()
        self.corrupt: set[str] = set()
        self.redirect: dict[str, str] = {}
        self.token: str | None = None
        self.gated = False
        self.ranges = True
        self.headers: dict[str, str] = {}
        self.log: list[tuple[str, str, Mapping[str, str]]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"origin": self}))
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.cert, tls.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.scheme = "http" if tls is None else "https"
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def put(self, repository: str, files: Mapping[str, bytes]) -> None:
        self.files |= {f"{repository}/{name}": content for name, content in files.items()}

    def below(self, repository: str) -> dict[str, bytes]:
        return {n.removeprefix(f"{repository}/"): c for n, c in self.files.items() if n.startswith(f"{repository}/")}

    def asked(self, part: str) -> list[Mapping[str, str]]:
        """Headers of the GETs whose path has ``part`` in it."""
        return [headers for method, path, headers in self.log if method == "GET" and part in path]

    def close(self) -> None:
        self.flowing.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body is written after its head
    origin: Origin

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        here = self.origin
        here.log.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        url = urllib.parse.urlparse(self.path)
        path = urllib.parse.unquote(url.path).strip("/")
        parts = path.split("/")
        if here.token is not None and here.token not in str(self.headers):
            return self._json({"error": "who are you?"}, 401)
        if parts[:2] == ["api", "models"]:
            return self._hub_listing("/".join(parts[2:4]), parts)
        if parts[:3] == ["api", "v1", "models"]:
            return self._modelscope("/".join(parts[3:5]), parts, dict(urllib.parse.parse_qsl(url.query)))
        if len(parts) >= 5 and parts[2] == "resolve":
            path = "/".join((*parts[:2], *parts[4:]))
        return self._content(path)

    def _hub_listing(self, repository: str, parts: list[str]) -> None:
        here, files = self.origin, self.origin.below(repository)
        if here.fail_listing:
            return self._json({"error": "later"}, here.fail_listing.pop(0))
        if not files:
            return self._json({"error": "Repository not found"}, 404, {"x-error-code": "RepoNotFound"})
        if here.gated:
            return self._json({"error": "gated"}, 403, {"x-error-code": "GatedRepo"})
        if parts[4:5] == ["revision"] and parts[5] not in ("main", here.commit):
            return self._json({"error": "Revision not found"}, 404, {"x-error-code": "RevisionNotFound"})
        siblings = [_sibling(name, content) for name, content in files.items()]
        self._json({"id": repository, "modelId": repository, "sha": here.commit, "private": False, "gated": False,
                    "disabled": False, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})  # fmt: skip

    def _modelscope(self, repository: str, parts: list[str], query: dict[str, str]) -> None:
        here, files = self.origin, self.origin.below(repository)
        if parts[5:] == ["repo", "files"] and files:
            if here.fail_listing:
                return self._json({"Code": 500, "Message": "later"}, here.fail_listing.pop(0))
            listed = [{"Type": "blob", "Path": n, "Name": n, "Size": len(c), "Revision": here.commit, "Mode": "100644",
                       "Sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()]  # fmt: skip
            return self._json({"Code": 200, "Success": True, "Data": {"Files": listed}})
        if parts[5:] == ["repo"] and "FilePath" in query:
            return self._content(f"{repository}/{query['FilePath']}")
        if "resolve" in parts:
            return self._content(f"{repository}/{'/'.join(parts[parts.index('resolve') + 2 :])}")
        self._json({"Code": 404, "Message": "no"}, 404)

    def _content(self, path: str) -> None:
        here = self.origin
        here.flowing.wait(60)
        if path in here.redirect:
            return self._answer(302, b"", {"location": here.redirect[path]})
        if path not in here.files:
            return self._json({"error": "Entry not found"}, 404, {"x-error-code": "EntryNotFound"})
        if here.fail:
            return self._answer(here.fail.pop(0), b"", {"retry-after": "0"})
        content = here.files[path]
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        if any(path.endswith(name) for name in here.corrupt):
            content = bytes(len(content))
        head = {"etag": tag, "x-repo-commit": here.commit, "accept-ranges": "bytes", **here.headers}
        wanted = self.headers.get("range")
        if wanted and here.ranges and self.headers.get("if-range", tag) == tag:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last) if last else len(content) - 1, len(content) - 1)
            head["content-range"] = f"bytes {begin}-{end}/{len(content)}"
            return self._answer(206, content[begin : end + 1], head)
        self._answer(200, content, head)

    def _json(self, value: Any, status: int = 200, head: Mapping[str, str] | None = None) -> None:
        self._answer(status, json.dumps(value).encode(), {"content-type": "application/json", **(head or {})})

    def _answer(self, status: int, body: bytes, head: Mapping[str, str]) -> None:
        here = self.origin
        self.send_response(status)
        for name, value in {**head, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if here.break_after and len(body) > here.break_after[0]:
            self.wfile.write(body[: here.break_after.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        if here.stall_after is not None and len(body) > here.stall_after:
            self.wfile.write(body[: here.stall_after])
            self.connection.recv(1)  # until whoever asked is gone
            return
        self.wfile.write(body)


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    found: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
    if name.endswith((".safetensors", ".bin")):
        sha256 = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 100}
    return found
