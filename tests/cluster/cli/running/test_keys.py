"""`key`: what is asked of the cluster, and what is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.cli import cli

KEY = {
    "name": "team", "scope": "inference", "models": ["a", "b"], "rpm": 5, "tpm": None, "max_concurrent": None,
    "priority": "normal", "weight": 1.0, "expires": 4e9, "budget": None, "created": 1.0, "expired": False,
    "source": "state", "secrets": [{"until": None}, {"until": 4e9}],
}  # fmt: skip
SECRET = "cck_secret"


class Cluster:
    def __init__(self, url: str, asked: list[tuple[str, str, Any]]) -> None:
        self.url, self.asked = url, asked

    def run(self, *args: str) -> Result:
        return CliRunner().invoke(cli, ["key", *args, "--url", self.url])


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    asked: list[tuple[str, str, Any]] = []

    class Answer(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True  # a body is written after its head

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.command, self.path, json.loads(body) if body else None))
            secret = {"secret": SECRET} if self.command == "POST" else {}
            said = {"keys": [KEY]} if self.path.endswith("/keys") and self.command == "GET" else {**KEY, **secret}
            text = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = _answer

        def log_message(self, *_: object) -> None:
            """Nobody wants it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Cluster(f"http://127.0.0.1:{server.server_port}", asked)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        (("create", "team"), ("POST", "/v1/cluster/keys", {"name": "team"})),
        (("create", "team", "--models", "a, b", "--rpm", "5", "--tpm", "9", "--max-concurrent", "2",
          "--priority", "low", "--weight", "2", "--expires", "30d", "--scope", "inference", "--budget-tokens", "7/day"),
         ("POST", "/v1/cluster/keys",
          {"name": "team", "models": ["a", "b"], "rpm": 5, "tpm": 9, "max_concurrent": 2, "priority": "low",
           "weight": 2.0, "expires": "30d", "scope": "inference", "budget": "7/day"})),
        (("list",), ("GET", "/v1/cluster/keys", None)),
        (("show", "team"), ("GET", "/v1/cluster/keys/team", None)),
        (("update", "team", "--models", "none", "--rpm", "none", "--expires", "none", "--budget-tokens", "none"),
         ("PATCH", "/v1/cluster/keys/team", {"models": None, "rpm": None, "expires": None, "budget": None})),
        (("revoke", "team"), ("DELETE", "/v1/cluster/keys/team", None)),
        (("rotate", "team", "--grace", "1h"), ("POST", "/v1/cluster/keys/team/rotate", {"grace": "1h"})),
        (("rotate", "team"), ("POST", "/v1/cluster/keys/team/rotate", {})),
    ],
    ids=lambda v: v[0],
)  # fmt: skip
def test_what_is_asked(cluster: Cluster, args: tuple[str, ...], asked: tuple[str, str, Any]) -> None:
    result = cluster.run(*args)
    assert result.exit_code == 0, result.output
    assert cluster.asked[0] == asked


def test_the_first_key_for_models_says_what_it_means_for_everybody(cluster: Cluster) -> None:
    assert "from now on every request for a model needs a key" in cluster.run("create", "team").stderr


@pytest.mark.parametrize("args", [("create", "team"), ("rotate", "team")])
def test_a_secret_stands_alone_on_standard_output(cluster: Cluster, args: tuple[str, ...]) -> None:
    result = cluster.run(*args)
    assert result.stdout == f"{SECRET}\n" and "shown once" in result.stderr
    assert json.loads(cluster.run(*args, "--json").stdout)["secret"] == SECRET


def test_what_is_shown(cluster: Cluster) -> None:
    shown = cluster.run("show", "team").stdout
    assert "a, b" in shown and "holds" in shown and "state" in shown
    assert json.loads(cluster.run("show", "team", "--json").stdout) == KEY
    table = cluster.run("list").stdout
    assert "team" in table and "a, b" in table
    assert json.loads(cluster.run("list", "--json").stdout) == [KEY]


@pytest.mark.parametrize("args", [
    ("update", "team"), ("create", "team", "--rpm", "0"), ("create", "team", "--scope", "owner"), ("create",),
    ("create", "team", "--weight", "0"), ("create", "team", "--priority", "urgent"),
])  # fmt: skip
def test_wrong_usage_asks_nothing(cluster: Cluster, args: tuple[str, ...]) -> None:
    assert cluster.run(*args).exit_code != 0 and cluster.asked == []
