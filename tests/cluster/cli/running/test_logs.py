"""`logs`: a connection that breaks off is told in a sentence."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from click.testing import CliRunner

from cluster.cli import cli
from cluster.cli.running import operate
from cluster.client import ClusterClient


def _breaks_off() -> Iterator[bytes]:
    yield b"a line\n"
    raise httpx.ReadError("connection reset")


def _answer(request: httpx.Request) -> httpx.Response:
    if request.url.path.endswith("/status"):
        return httpx.Response(200, json={"instances": {name: {"managed": True} for name in ("one", "two")}})
    if "/two/" in request.url.path:
        return httpx.Response(404, json={"error": {"message": "no log of it"}})
    return httpx.Response(200, content=_breaks_off())


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ClusterClient()
    made._http.close()
    made._http = httpx.Client(transport=httpx.MockTransport(_answer), base_url="http://cluster:1")
    monkeypatch.setattr(operate, "client", lambda url: made)


@pytest.mark.usefixtures("cluster")
def test_a_log_that_breaks_off_is_shown_so_far_and_told() -> None:
    result = CliRunner().invoke(cli, ["logs", "one", "-f"])
    assert result.stdout == "a line\n"
    assert str(result.exception) == "the log of one broke off (connection reset)"


@pytest.mark.usefixtures("cluster")
def test_each_of_several_logs_that_ends_is_told() -> None:
    result = CliRunner().invoke(cli, ["logs", "-f"], standalone_mode=False)
    assert result.return_value == 1 and "one | a line\n" in result.stdout
    assert "two: no log of it\n" in result.stderr and "one: " in result.stderr and "connection reset" in result.stderr


def test_a_log_that_is_followed_goes_on_at_the_next_balancer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what was shown already."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/status"):
            return httpx.Response(200, json={"instances": {"one": {"managed": True}}})
        asked.append(request.url.params["lines"])
        return httpx.Response(200, content=b"a line\n") if len(asked) < 3 else httpx.Response(404, json={})

    made = ClusterClient()
    made._http.close()
    made._http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://cluster:1")
    monkeypatch.setattr(operate, "client", lambda url: made)
    monkeypatch.setattr(operate, "_AGAIN_S", 0.0)
    result = CliRunner().invoke(cli, ["logs", "one", "-f", "-n", "7"])
    assert (result.stdout, asked) == ("a line\n" * 2, ["7", "0", "0"])
