"""`usage`: what is asked of the cluster, and what is shown."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from click.testing import CliRunner, Result

from cluster.cli import cli
from cluster.cli.running import usage
from cluster.client import ClusterClient

ROWS = [
    {"key": "team-a", "model": "po,et", "requests": 1200, "prompt_tokens": 5, "cached_tokens": 1,
     "completion_tokens": 7},
    {"key": "team-b", "model": "a\x1b[2J", "requests": 1, "prompt_tokens": 2, "cached_tokens": 0,
     "completion_tokens": 3},
]  # fmt: skip


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/cluster/usage"
        asked = dict(request.url.params)
        said = {"from": asked.get("from", "?"), "to": "?", "by": asked["by"].split(","), "usage": ROWS}
        return httpx.Response(200, json=said)

    def client(url: str | None) -> ClusterClient:
        cluster = ClusterClient("http://cluster:1")
        cluster._http.close()
        cluster._http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://cluster:1")
        return cluster

    monkeypatch.setattr(usage, "client", client)
    return lambda *args: CliRunner().invoke(cli, ["usage", *args])


def test_csv(run: Callable[..., Result]) -> None:
    assert run("--csv").output == (
        "key,model,requests,prompt_tokens,cached_tokens,completion_tokens\n"
        'team-a,"po,et",1200,5,1,7\nteam-b,a\\x1b[2J,1,2,0,3\n'
    )  # fmt: skip
    assert run("--by", "key", "--csv").output.splitlines()[0] == (
        "key,requests,prompt_tokens,cached_tokens,completion_tokens"
    )  # fmt: skip


def test_table_and_json(run: Callable[..., Result]) -> None:
    shown = run().output
    assert "team-a" in shown and "1,200" in shown and "\x1b" not in shown
    assert '"from": "2026-01-01"' in run("--json", "--from", "2026-01-01").output
