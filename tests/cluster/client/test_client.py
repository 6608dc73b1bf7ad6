"""The client of the management API: what it asks, and that every failure is one kind of error."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.client import ClusterClient, ClusterError

Handler = Callable[[httpx.Request], httpx.Response]


def _client(handler: Handler) -> ClusterClient:
    cluster = ClusterClient("http://cluster:1/")
    cluster._http.close()
    cluster._http = httpx.Client(transport=httpx.MockTransport(handler), base_url="http://cluster:1")
    return cluster


def _answers(status: int = 200, **content: Any) -> Handler:
    return lambda request: httpx.Response(status, **content)


@pytest.mark.parametrize(
    ("ask", "method", "path", "body"),
    [
        (lambda c: c.status(), "GET", "/v1/cluster/status", None),
        (lambda c: c.snapshot(), "GET", "/v1/cluster/snapshot", None),
        (lambda c: c.scale(3), "POST", "/v1/cluster/scale", {"instances": 3}),
        (lambda c: c.scale(0), "POST", "/v1/cluster/scale", {"instances": 0}),
        (lambda c: c.scale_by(2), "POST", "/v1/cluster/scale", {"action": "scale_up", "count": 2}),
        (lambda c: c.scale_by(-2), "POST", "/v1/cluster/scale", {"action": "scale_down", "count": 2}),
        (lambda c: c.strategy("random"), "POST", "/v1/cluster/strategy", {"strategy": "random"}),
        (lambda c: c.restart("instance_0"), "POST", "/v1/cluster/restart", {"instance_id": "instance_0"}),
        (lambda c: c.restart_rolling(), "POST", "/v1/cluster/restart", {"rolling": True}),
        (lambda c: c.restart_rolling(spare=False), "POST", "/v1/cluster/restart", {"rolling": True, "spare": False}),
        (lambda c: c.drain("instance_0"), "POST", "/v1/cluster/instances/instance_0/drain", {}),
        (lambda c: c.drain("instance_0", 2.5), "POST", "/v1/cluster/instances/instance_0/drain", {"grace": 2.5}),
        (lambda c: c.undrain("instance_0"), "DELETE", "/v1/cluster/instances/instance_0/drain", None),
        (lambda c: c.apply({"max_body": 9999}, spare=False), "POST", "/v1/cluster/apply",
         {"settings": {"max_body": 9999}, "defaults": [], "previous": False, "dry_run": False, "spare": False}),
        (lambda c: c.apply(previous=True, dry_run=True), "POST", "/v1/cluster/apply",
         {"settings": {}, "defaults": [], "previous": True, "dry_run": True}),
        (lambda c: c.weight("instance_0", 3), "PATCH", "/v1/cluster/instances/instance_0", {"weight": 3}),
        (lambda c: c.shutdown(now=True), "POST", "/v1/cluster/shutdown", {"now": True}),
    ],
)
def test_each_method_is_one_request(
    ask: Callable[[ClusterClient], Any], method: str, path: str, body: dict[str, Any] | None
) -> None:
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(202, json={"answer": 1})

    with _client(handler) as cluster:
        assert ask(cluster) == {"answer": 1}
    (request,) = asked
    assert (request.method, request.url.path) == (method, path)
    assert (json.loads(request.content) if request.content else None) == body


def test_an_error_of_the_cluster_is_told_in_its_own_words() -> None:
    body = {"error": {"message": "17 instances are outside 1..16", "code": 409}}
    with _client(_answers(409, json=body)) as cluster, pytest.raises(ClusterError) as error:
        cluster.scale(17)
    assert (str(error.value), error.value.status) == ("17 instances are outside 1..16", 409)


@pytest.mark.parametrize("content", [{"text": "<html>"}, {"json": []}, {"json": {"error": "x"}}, {"json": None}])
def test_an_error_of_somebody_else_is_told_as_such(content: dict[str, Any]) -> None:
    with _client(_answers(404, **content)) as cluster, pytest.raises(ClusterError, match="no clusterctl") as error:
        cluster.status()
    assert error.value.status == 404


def test_an_answer_that_is_no_json_is_told_as_such() -> None:
    with _client(_answers(200, text="hello")) as cluster, pytest.raises(ClusterError, match="no clusterctl"):
        cluster.status()


@pytest.mark.parametrize("failure", [httpx.ReadTimeout("too slow"), httpx.RemoteProtocolError(""), httpx.ReadError("")])
def test_a_failure_on_the_way_is_a_cluster_error_with_words(failure: httpx.HTTPError) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise failure

    with _client(handler) as cluster:
        with pytest.raises(ClusterError, match=r"^http://cluster:1/: .+") as error:
            cluster.status()
        assert error.value.status is None and cluster.healthy() is False


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (404, False)])
def test_a_cluster_is_healthy_if_it_says_so(status: int, healthy: bool) -> None:
    with _client(_answers(status)) as cluster:
        assert cluster.healthy() is healthy


def test_where_nobody_listens_the_error_says_how_to_name_another_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    with ClusterClient(url) as cluster, pytest.raises(ClusterError, match=f"no cluster at {url} .*CLUSTERCTL_URL") as e:
        cluster.status()
    assert e.value.status is None


def test_a_supervisor_that_is_gone_is_named_by_its_directory(tmp_path: Path) -> None:
    with ClusterClient(state_dir=tmp_path) as cluster, pytest.raises(ClusterError, match=str(tmp_path)):
        cluster.snapshot()


@pytest.mark.parametrize("url", ["localhost:8000", "", "http://", "http://localhost:80a", "http://[::1", "ftp://h"])
def test_a_url_that_is_none_is_a_cluster_error(url: str) -> None:
    with pytest.raises(ClusterError):
        ClusterClient(url).status()


def test_a_name_that_is_not_known_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    said = r"no cluster at http://nobody:8000: \[Errno -2\] Name or service not known \(is it up\?"
    with ClusterClient("http://nobody:8000") as cluster, pytest.raises(ClusterError, match=said):
        cluster.status()


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://h:8000/v1", "http://h:8000"), ("http://h:8000/v1/", "http://h:8000"), ("http://h/a/v1", "http://h/a"),
        ("http://h/v1/v1", "http://h/v1"), ("http://h/", "http://h"), ("http://h/av1", "http://h/av1"),
        ("http://v1", "http://v1"), ("https://v1/v1", "https://v1"),
    ],
)  # fmt: skip
def test_the_base_url_of_openais_clients_names_a_cluster_too(url: str, root: str) -> None:
    with ClusterClient(url) as cluster:
        assert str(cluster._http.base_url).rstrip("/") == root and cluster.where == url


@pytest.mark.parametrize("url", ["localhost:8000", "127.0.0.1:8000", "//127.0.0.1:8000", "http://", "ftp://cluster"])
def test_a_url_without_scheme_or_host_is_told_how_one_looks(url: str) -> None:
    with pytest.raises(ClusterError, match=r"is such as http://127\.0\.0\.1:8000"):
        ClusterClient(url)


def test_the_admin_key_goes_along_as_a_bearer_token() -> None:
    with ClusterClient("http://h", "secret") as cluster:
        assert cluster._http.headers["Authorization"] == "Bearer secret"
    with ClusterClient("http://h") as cluster:
        assert "Authorization" not in cluster._http.headers


def test_waiting_ends_when_nothing_is_on_its_way() -> None:
    answers = [{"supervisor": {"settled": settled}, "n": n} for n, settled in enumerate((False, False, True))]
    with _client(lambda request: httpx.Response(200, json=answers.pop(0))) as cluster:
        assert cluster.wait_settled(10.0, pause=0.0)["n"] == 2


def test_waiting_ends_at_its_timeout() -> None:
    with _client(_answers(200, json={"supervisor": {}})) as cluster:
        with pytest.raises(ClusterError, match=r"not done after 0 s; it goes on"):
            cluster.wait_settled(0.0, pause=0.0)


def test_waiting_for_a_rolling_restart_that_stops_ends_with_its_words() -> None:
    answers: list[dict[str, Any]] = [{"supervisor": {"rolling": {"stopped": text}}} for text in ("", "it stops")]
    seen: list[Any] = []
    with _client(lambda request: httpx.Response(200, json=answers[len(seen)])) as cluster:
        with pytest.raises(ClusterError, match="it stops"):
            cluster.wait_settled(10.0, pause=0.0, look=seen.append)
    assert seen == answers


def test_logs_are_streamed_as_they_come() -> None:
    asked: list[httpx.URL] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return httpx.Response(200, content=iter([b"one\n", b"two\n"]))

    with _client(handler) as cluster:
        response = cluster.logs("balancer", 5, follow=True)
        assert list(response.iter_bytes()) == [b"one\n", b"two\n"]
        response.close()
    assert asked[0].path == "/v1/cluster/instances/balancer/logs" and dict(asked[0].params) == {
        "lines": "5", "follow": "1",
    }


def test_logs_of_nobody_are_an_error_in_the_clusters_words() -> None:
    body = {"error": {"message": "no instance 'x'"}}
    with _client(_answers(404, json=body)) as cluster, pytest.raises(ClusterError, match="no instance 'x'"):
        cluster.logs("x", 5, follow=False)
