"""Both clients ask the same and fail the same way; what they promise is what the API's description promises."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import pytest

from cluster.client import AsyncClusterClient, ClusterClient, ClusterError, results, streams, workflows
from lb.admin.openapi import document

Handler = Callable[[httpx.Request], httpx.Response]


def _sync(handler: Handler) -> ClusterClient:
    cluster = ClusterClient("http://cluster:1")
    cluster._http.close()
    cluster._http = httpx.Client(transport=httpx.MockTransport(handler), base_url="http://cluster:1")
    return cluster


def _async(handler: Handler) -> AsyncClusterClient:
    cluster = AsyncClusterClient("http://cluster:1")
    cluster._http = httpx.AsyncClient(transport=httpx.MockTransport(handler), base_url="http://cluster:1")
    return cluster


def _methods(kind: type) -> dict[str, inspect.Signature]:
    found = inspect.getmembers(kind, inspect.isfunction)
    renamed = {"aclose": "close"}
    return {renamed.get(name, name): inspect.signature(f) for name, f in found if not name.startswith("_")}


def test_both_have_the_same_methods() -> None:
    one, other = _methods(ClusterClient), _methods(AsyncClusterClient)
    assert set(one) == set(other) and len(one) > 30
    for name, signature in one.items():
        mine, its = ([(p.name, p.kind, p.annotation) for p in s.parameters.values()] for s in (signature, other[name]))
        assert mine == its, name
    assert str(one["scale"]) == "(self, instances: 'int', model: 'str | None' = None) -> 'r.Scaled'"
    assert inspect.iscoroutinefunction(AsyncClusterClient("http://cluster:1").scale)
    words = "Wants ``instances`` workers, of that ``model`` where there are several."
    assert ClusterClient.scale.__doc__ == AsyncClusterClient.scale.__doc__ == words


#: Every method that is one request, with what it may be given.
ASKED: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("status", (), {}), ("snapshot", (), {}), ("openapi", (), {}), ("history", (60,), {}), ("why", ("a b&c",), {}),
    ("why", (), {"limit": 3}), ("audit", (5,), {"before": 9, "verify": True}), ("audit", (), {}),
    ("usage", (), {}), ("usage", (["day"], "2026-01-01", "2026-01-31"), {}),
    ("system_health", (), {}), ("system_metrics", (), {}), ("models", (), {}), ("scale", (3,), {}),
    ("scale_by", (-2,), {}), ("strategy", ("random",), {}), ("restart", ("instance_0",), {}),
    ("restart", ("load_balancer",), {}), ("restart_rolling", (), {"spare": True}), ("drain", ("a/b", 2.5), {}),
    ("undrain", ("instance_0",), {}), ("weight", ("instance_0", 3), {}), ("apply", ({"port": 1},), {"dry_run": True}),
    ("shutdown", (), {"now": True}), ("adapters", (), {}), ("placement", (), {}),
    ("adapter", ("x",), {}), ("unload_adapter", ("x",), {}),
    ("load_adapter", ("x", Path("/a")), {"replace": True}), ("rollback_adapter", ("x", 2), {}),
    ("events", (5, 17), {}), ("events", (), {}), ("ui_link", (), {}), ("healthy", (), {}),
    ("ask", ("m", "hello", 3), {}), ("keys", (), {}), ("key", ("x",), {}), ("create_key", ("x",), {"rpm": 3}),
    ("update_key", ("x",), {"models": None}), ("rotate_key", ("x", "24h"), {}), ("revoke_key", ("x",), {}),
    ("aliases", (), {}), ("set_alias", ("x", {"m": 1}), {"shadow": True}), ("delete_alias", ("x",), {}),
    ("undo_alias", ("x",), {}), ("routes", (), {}), ("set_route", ("x", [{"model": "m", "keywords": ["a"]}], "m"), {}),
    ("cluster_models", (), {}), ("model", ("x",), {}), ("load_model", ("x", Path("/a")), {"instances": 2}),
    ("unload_model", ("x",), {}), ("pin_model", ("x",), {}),
    ("unpin_model", ("x",), {}), ("sleep_model", ("x",), {}), ("wake_model", ("x",), {}),
    ("restart_rolling", (), {"model": "x"}), ("scale", (3, "x"), {}), ("scale_by", (1, "x"), {}),
    ("strategy", ("random", "x"), {}), ("delete_route", ("x",), {}), ("undo_route", ("x",), {}),
    ("test_route", ("x", "hello"), {}), ("jobs", (), {}), ("job", ("a-1",), {}), ("cancel_job", ("a-1",), {}),
    ("joined_balancers", (), {}), ("create_join_token", ("1d",), {}), ("revoke_join_token", ("x",), {}),
    ("evict_balancer", ("x",), {}),
    ("start_job", ("train", {"x": 1}), {"gpus": [0], "background": True}), ("job_events", ("a-1", 7), {}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "args", "options"), ASKED, ids=lambda v: v if isinstance(v, str) else "")
async def test_both_ask_the_same(method: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    asked: list[httpx.Request] = []
    lists: dict[str, Any] = {"adapters": [1], "events": [2], "data": [3], "decisions": [5], "keys": [6], "jobs": [8]}
    lists["balancers"] = [9]
    lists |= {"models": [9], "choices": [{"text": "4"}], "aliases": {"a": 7}, "routes": {"r": 8}}

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=lists)

    with _sync(handler) as one:
        first = getattr(one, method)(*args, **options)
    async with _async(handler) as other:
        second = await getattr(other, method)(*args, **options)
    here, there = asked
    assert first == second
    assert (here.method, here.url, here.content) == (there.method, there.url, there.content)
    assert here.extensions["timeout"] == there.extensions["timeout"]


def test_what_is_asked_of_why_and_history() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200, json={"decisions": []})

    with _sync(handler) as cluster:
        cluster.why("a b&c")
        cluster.history()
    assert seen == [
        "http://cluster:1/v1/cluster/why?limit=20&request_id=a+b%26c",
        "http://cluster:1/v1/cluster/history?seconds=3600",
    ]


@pytest.mark.parametrize(
    ("answer", "status", "type_", "param"),
    [
        (httpx.Response(409, json={"error": {"message": "no", "type": "ConflictError", "param": "x"}}), 409,
         "ConflictError", "x"),
        (httpx.Response(502, text="<html>"), 502, None, None), (httpx.Response(200, text="hello"), None, None, None),
        (httpx.Response(200, json=[]), None, None, None), (httpx.ConnectError("x"), None, None, None),
        (httpx.ReadTimeout(""), None, None, None),
    ],
)  # fmt: skip
async def test_both_fail_the_same(answer: Any, status: int | None, type_: str | None, param: str | None) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, content=answer.content)

    with _sync(handler) as one, pytest.raises(ClusterError) as first:
        one.status()
    async with _async(handler) as other:
        with pytest.raises(ClusterError) as second:
            await other.status()
    for error in (first.value, second.value):
        assert (error.status, error.type, error.param) == (status, type_, param)
        assert error.message == str(error) == str(first.value) != ""


def _frame(number: int) -> bytes:
    event = {"id": number, "at": 1.5, "subject": "cluster", "kind": "note", "text": "x", "data": {}}
    return f"id: {number}\nevent: note\ndata: {json.dumps(event)}\n\n".encode()


class _Feed:
    """Answers each time as the next of ``streams`` says: ids, then the end; or an error."""

    def __init__(self, *streams: Any) -> None:
        self._streams = iter(streams)
        self.asked: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if "limit" in request.url.params:
            return httpx.Response(200, json={"events": [{"id": 7}]})
        self.asked.append(request.headers.get("Last-Event-ID"))
        stream = next(self._streams)
        if isinstance(stream, Exception):
            raise stream
        if isinstance(stream, int):
            return httpx.Response(stream, json={"error": {"message": "words"}})
        return httpx.Response(200, content=b"retry: 1000\n: events\n\n" + b"".join(map(_frame, stream)))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "AGAIN", 0.0)


@pytest.mark.usefixtures("at_once")
async def test_events_are_followed_over_the_ends_of_connections_without_a_gap() -> None:
    def feed() -> _Feed:
        return _Feed([8, 9], [], httpx.ReadError(""), httpx.ConnectError("gone"), 503, [12], 401)

    heard: list[int] = []
    told: list[ClusterError] = []
    source = feed()
    with _sync(source) as one, pytest.raises(ClusterError, match="words") as end:
        heard.extend(event["id"] for event in one.follow(trouble=told.append))
    assert (heard, end.value.status) == ([8, 9, 12], 401)
    assert source.asked == ["7", "9", "9", "9", "9", "9", "12"]
    assert len(told) == 1, "a cluster that cannot be reached is told of once"

    heard, told, source = [], [], feed()
    async with _async(source) as other:
        with pytest.raises(ClusterError, match="words"):
            async for event in other.follow(5, trouble=told.append):
                heard.append(event["id"])
    assert (heard, len(told)) == ([8, 9, 12], 1)
    assert source.asked == ["5", "9", "9", "9", "9", "9", "12"]


@pytest.mark.parametrize("line", ["data: 3", 'data: {"text": "no id"}', "data: {half"])
def test_a_stream_of_something_else_is_told_as_such(line: str) -> None:
    with _sync(lambda request: httpx.Response(200, text=f"{line}\n\n")) as cluster, cluster.listen(0) as events:
        with pytest.raises(ClusterError):
            list(events)


@pytest.mark.parametrize("line", [": still here", "id: 3", "event: note", "retry: 1000", ""])
def test_of_an_event_stream_only_the_data_are_events(line: str) -> None:
    assert streams.event(line) is None


def _status(ready: int, settled: bool = False, **failed: str) -> dict[str, Any]:
    instances = {name: {"state": "failed", "reason": why, "managed": True} for name, why in failed.items()}
    return {"running_instances": ready, "supervisor": {"pid": 1, "settled": settled}, "instances": instances}


def _outcome(work: workflows.Workflow[Any], *answers: Any) -> Any:
    """What comes of it where the cluster gives these answers; pauses are passed over."""
    left: Iterator[Any] = iter(answers)
    try:
        step = next(work)
        while True:
            if isinstance(step, float):
                step = work.send(None)
                continue
            answer = next(left)
            step = work.throw(answer) if isinstance(answer, Exception) else work.send(answer)
    except StopIteration as end:
        return end.value


def _clock() -> Callable[[], float]:
    seconds = iter(range(1000))
    return lambda: float(next(seconds))


def test_readiness_is_waited_for_also_while_the_cluster_starts() -> None:
    work = workflows.wait_ready(2, 10.0, 0.1, _clock())
    gone, busy = ClusterError("no cluster"), ClusterError("no supervisor", 503)
    assert _outcome(work, gone, busy, _status(0), _status(1), _status(3))["running_instances"] == 3


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([_status(1)] * 20, "not within 3 s: 1 of 2 ready"),
        ([ClusterError("no cluster")] * 20, "within 3 s: no cluster"),
        ([_status(1, instance_1="it crashed")] * 20, "1 of 2 ready; instance_1 has failed: it crashed"),
        ([_status(1, settled=True, instance_1="it crashed")], "instance_1 has failed: it crashed"),
        ([ClusterError("wrong key", 401)], "wrong key"),
    ],
)  # fmt: skip
def test_waiting_for_readiness_ends_with_the_reason(answers: list[Any], words: str) -> None:
    with pytest.raises(ClusterError, match=words):
        _outcome(workflows.wait_ready(2, 3.0, 0.1, _clock()), *answers)


def _moving() -> dict[str, Any]:
    return {**_status(1), "instances": {"instance_1": {"state": "starting", "reason": "", "managed": True}}}


BUSY = [ClusterError("no answer"), ClusterError("out of time", 500), ClusterError("replaced", 503)]


@pytest.mark.parametrize("error", BUSY, ids=str)
def test_one_answer_that_fails_ends_no_waiting(error: ClusterError) -> None:
    """A balancer that is replaced or short of time says so for a moment; the change goes on meanwhile."""
    moving = _moving()
    answers = [moving, error, error, error, moving, error, _status(2, settled=True)]
    assert _outcome(workflows.wait_settled(99.0, 0.1, lambda _: None, _clock()), *answers)["running_instances"] == 2
    assert _outcome(workflows.wait_ready(2, 99.0, 0.1, _clock()), error, error, _status(2))["running_instances"] == 2


@pytest.mark.parametrize("error", BUSY, ids=str)
def test_where_nobody_answers_any_more_waiting_ends_with_what_was_said(error: ClusterError) -> None:
    moving = _moving()
    with pytest.raises(ClusterError) as raised:
        _outcome(workflows.wait_settled(99.0, 0.1, lambda _: None, _clock()), moving, *[error] * 14)
    assert raised.value is error


def test_a_refusal_ends_waiting_at_once() -> None:
    settled, ready = workflows.wait_settled(9.0, 0.1, lambda _: None, _clock()), workflows.wait_ready(1, 9.0, 0.1)
    for work in (settled, ready):
        with pytest.raises(ClusterError, match="wrong key"):
            _outcome(work, ClusterError("wrong key", 401))


def test_what_a_shutdown_cuts_short_is_not_said_to_be_done() -> None:
    status = _status(0, settled=True)
    status["supervisor"]["shutting_down"] = True
    with pytest.raises(ClusterError, match="the cluster is shutting down"):
        _outcome(workflows.wait_settled(99.0, 0.1, lambda _: None, _clock()), _moving(), status)


def test_a_supervisor_that_says_nothing_any_more_is_not_waited_for() -> None:
    """What it said last looks as if it went on: a worker is starting, for ever."""
    def stale(seconds: float) -> dict[str, Any]:
        status = _moving()
        return {**status, "supervisor": {**status["supervisor"], "pid": 1, "age_s": seconds}}

    with pytest.raises(ClusterError, match=r"it does not go on: the supervisor has not said a word for \d+ s"):
        _outcome(workflows.wait_settled(99.0, 0.1, lambda _: None, _clock()), *[stale(float(n)) for n in range(40)])
    fresh = [stale(1.0)] * 30
    assert _outcome(workflows.wait_settled(99.0, 0.1, lambda _: None, _clock()), *fresh, _status(2, settled=True))


@pytest.mark.parametrize("settle", [False, True])
async def test_both_wait(settle: bool) -> None:
    def handler() -> Handler:
        left = [_status(0), _status(1), _status(2, settled=True)]
        return lambda request: httpx.Response(200, json=left.pop(0))

    with _sync(handler()) as one:
        waited = one.wait_settled(5.0, 0) if settle else one.wait_ready(2, 5.0, 0)
    async with _async(handler()) as other:
        again = await (other.wait_settled(5.0, 0) if settle else other.wait_ready(2, 5.0, 0))
    assert waited == again == _status(2, settled=True)


#: Kinds of results by the name of their schema.
KINDS = {
    name: getattr(results, name)
    for name in (
        "Status", "Supervisor", "LoadBalancer", "Instance", "Scaled", "StrategySet", "Restarting", "Drained",
        "Weighted", "Applied", "ShuttingDown", "UiLink", "Event", "AdapterOnInstance", "Adapter", "AdapterDetail",
        "AdapterVersion", "RouteChoice", "ClusterModel", "ModelChanged", "ModelUnloaded",
        "AdapterChanged", "AdapterUnloaded", "SystemHealth", "SystemMetrics", "Usage", "UsageRow",
    )
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_results_are_typed_as_the_api_is_described(name: str) -> None:
    kind, schema = KINDS[name], document()["components"]["schemas"][name]
    assert set(get_type_hints(kind)) == set(schema["properties"])
    assert kind.__required_keys__ == set(schema["required"])


def test_every_path_of_the_description_has_a_method() -> None:
    """But Prometheus' own, and the page's."""
    asked: set[tuple[str, str]] = set()

    def handler(request: httpx.Request) -> httpx.Response:
        asked.add((request.method.lower(), request.url.path))
        every = ("adapters", "events", "data", "decisions", "keys", "models", "jobs", "balancers")
        lists: dict[str, Any] = {name: [] for name in every}
        return httpx.Response(200, json={**lists, "aliases": {}, "routes": {}, "choices": [{"text": ""}]})

    with _sync(handler) as cluster:
        for method, args, options in ASKED:
            getattr(cluster, method)(*["x" if isinstance(a, str) else a for a in args], **options)
        cluster.logs("x").close()
    described = {
        (method, path.replace("{name}", "x")) for path, methods in document()["paths"].items() for method in methods
    }
    assert described - asked <= {("get", "/metrics"), ("get", "/v1/cluster/live"), ("post", "/v1/cluster/ui/session")}
