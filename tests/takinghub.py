"""A hub, and a ModelScope, that things can be sent to, for tests: what was sent lies in ``files``."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class TakingHub:
    """``files``: by repository and name, of the last commit. ``token``: who shows another one is not let in; ``fail``:
    statuses of the next answers to commits. ``private``: whether each repository was made so."""

    def __init__(self, token: str) -> None:
        self.token, self.fail = token, list[int]()
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body is written after its head
    hub: TakingHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path).strip("/")
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        hub.asked.append(f"{self.command} /{path}")
        if path.startswith("upload/"):
            hub.blobs[path.removeprefix("upload/")] = body
            return self._json({})
        if self.headers.get("authorization") != f"Bearer {hub.token}":  # cookies outlive the client that has them
            return self._json({"error": "who are you?", "Code": 401, "Message": "who are you?"}, 401)
        parts = path.split("/")
        if parts[:2] == ["api", "v1"]:
            return self._modelscope(parts[2:], body)
        self._hugging_face(path, parts, body)

    do_POST = do_PUT = do_HEAD = do_GET

    def _hugging_face(self, path: str, parts: list[str], body: bytes) -> None:
        hub = self.hub
        if path == "api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            hub.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
            hub.files.setdefault(name, {})
            return self._json({"url": f"{hub.url}/{name}", "id": name})
        if path == "api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if parts[4:5] == ["preupload"]:
            asked = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                      "shouldIgnore": False} for f in asked]  # fmt: skip
            return self._json({"files": modes})
        if path.endswith("info/lfs/objects/batch"):
            return self._lfs(json.loads(body))
        if parts[4:5] == ["commit"]:
            if hub.fail:
                return self._json({"error": "later"}, hub.fail.pop(0))
            repository = "/".join(parts[2:4])
            for line in filter(None, body.splitlines()):
                self._commit_line(repository, json.loads(line))
            return self._json({"commitUrl": f"{hub.url}/{repository}/commit/{'b' * 40}", "commitOid": "b" * 40})
        if parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            return self._json({"id": name, "modelId": name, "sha": "b" * 40, "siblings": [], "tags": []})
        self._json({"error": "no"}, 404)

    def _commit_line(self, repository: str, line: Mapping[str, Any]) -> None:
        value = line["value"]
        if line["key"] == "file":
            self.hub.files[repository][value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            self.hub.files[repository][value["path"]] = self.hub.blobs[value["oid"]]

    def _lfs(self, asked: Mapping[str, Any]) -> None:
        found = [
            {"oid": each["oid"], "size": each["size"],
             "actions": {"upload": {"href": f"{self.hub.url}/upload/{each['oid']}", "header": {}}}}
            for each in asked["objects"]
        ]  # fmt: skip
        self._json({"transfer": "basic", "objects": found})

    def _modelscope(self, parts: list[str], body: bytes) -> None:
        hub = self.hub
        if parts == ["models"] and self.command == "POST":
            asked = json.loads(body)
            name = f"{asked['Path']}/{asked['Name']}"
            if name in hub.files:
                return self._json({"Code": 400, "Message": "it is there already", "Success": False}, 400)
            hub.files[name], hub.private[name] = {}, asked.get("Visibility") == 1
            return self._modelscope_data({"Name": asked["Name"], "Path": asked["Path"]})
        if "batch" in parts:
            objects = [
                {"oid": each["oid"], "size": each["size"],
                 "actions": {"upload": {"href": f"{hub.url}/upload/{each['oid']}", "header": {}}}}
                for each in json.loads(body)["objects"]
            ]  # fmt: skip
            return self._modelscope_data({"objects": objects})
        if "commit" in parts:
            if hub.fail:
                return self._json({"Code": 500, "Message": "later"}, hub.fail.pop(0))
            name = "/".join(parts[2:4])
            for action in json.loads(body)["actions"]:
                content = action.get("content")
                found = hub.blobs[action["sha256"]] if not content else base64.b64decode(content)
                hub.files[name][action["path"]] = found
            return self._modelscope_data({"oid": "b" * 40})
        name = "/".join(parts[1:3])
        if name in hub.files and parts[3:] == ["repo", "files"]:
            return self._modelscope_data({"Files": [
                {"Type": "blob", "Path": path, "Name": path, "Size": len(content), "Mode": "100644",
                 "Revision": "b" * 40, "Sha256": hashlib.sha256(content).hexdigest()}
                for path, content in hub.files[name].items()
            ]})  # fmt: skip
        if name in hub.files:
            return self._modelscope_data({"Name": parts[2], "Path": parts[1]})
        self._json({"Code": 404, "Message": "no such model", "Success": False}, 404)

    def _modelscope_data(self, data: Mapping[str, Any]) -> None:
        self._json({"Code": 200, "Success": True, "Data": data})

    def _json(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
