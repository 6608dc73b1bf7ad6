"""What somebody looks at: the live stream, the last hour, and the files of the page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from config.identity.api_keys import ApiKey, Digest, digest
from config.identity.principal import Scope
from config.link import encode
from fakes import soon
from lb.telemetry.metrics import Metrics
from lb.telemetry.recorder import Recorder
from lb.telemetry.shared_counters import Counters
from lbfakes import DEADLINE_S, Balanced, Worker, snapshot

#: Seconds between two messages of the live stream.
EVERY_S = 0.1

StartWorker = Callable[..., Awaitable[Worker]]
StartBalancer = Callable[..., Awaitable[Balanced]]


@pytest.fixture(autouse=True)
def tells_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lb.admin.live._EVERY", EVERY_S)


async def message(response: aiohttp.ClientResponse) -> tuple[str, dict[str, Any]]:
    """Kind and data of the next one."""
    kind = ""
    async with asyncio.timeout(10):
        while line := (await response.content.readline()).decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                found = json.loads(value)
                await response.content.readline()
                return kind, found
    raise AssertionError("the stream ended")


async def test_the_live_stream_is_status_numbers_and_events(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    feed = balancer.parts.admin.events
    feed.add([{"id": 7, "at": 1.0, "subject": "a", "kind": "note", "text": "one", "data": {}}])
    async with balancer.request("GET", "/v1/cluster/live") as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        kind, live = await message(response)
        assert kind == "live" and live["status"]["is_running"] is True
        assert live["strategies"][0] == "auto" and "least_connections" in live["strategies"]
        assert await message(response) == ("note", feed.after(0)[0].event)
        await balancer.ask()
        feed.add([{"id": 9, "at": 2.0, "subject": "a", "kind": "note", "text": "two", "data": {}}])
        kinds = [(await message(response))[0] for _ in range(4)]
        assert kinds.count("note") == 1 and kinds.count("live") == 3
        feed.close()
        async with asyncio.timeout(5):
            await response.read()  # it ends with its balancer
    await soon(lambda: balancer.parts.admin._live.listeners == 0)


async def test_whoever_looks_is_told_what_else_they_may(balancer: Balanced) -> None:
    async def may(**headers: str) -> str:
        async with balancer.request("GET", "/v1/cluster/live", headers=headers) as response:
            return str(response.headers["X-Clusterctl-May"])

    key = ApiKey("looks", Scope.READ, (Digest(digest("cck_looks")),)).to_json()
    balancer.parts.keys.apply({"version": [1, 1], "keyed": False, "keys": [key]})
    assert await may() == "read admin owner inference"
    assert await may(**{"x-api-key": "cck_looks"}) == "read"


async def test_gpus_are_told_as_long_as_somebody_looks_at_them(balancer: Balanced) -> None:
    async def told() -> Any:
        async with balancer.request("GET", "/v1/cluster/live") as response:
            return (await message(response))[1]["gpus"]

    link = balancer.parts.link
    _, writer = await asyncio.open_unix_connection(str(balancer.link_path))
    gpus = [{"index": 0, "memory_used": 5}]
    writer.write(encode({"type": "snapshot", "snapshot": snapshot("instance_0", gpus=gpus)}))
    await soon(lambda: link.snapshot)
    assert await told() == gpus
    writer.close()
    await soon(lambda: not link.alive)
    async with asyncio.timeout(DEADLINE_S):
        while await told():  # one message is made for all who ask within half of that time
            await asyncio.sleep(0.02)


async def test_who_comes_back_gets_the_events_since(balancer: Balanced) -> None:
    feed = balancer.parts.admin.events
    feed.add({"id": n, "at": 1.0, "subject": "a", "kind": "note", "text": "x", "data": {}} for n in range(1, 501))
    for last, first in ((None, 301), ("499", 500), ("nonsense", 301)):
        headers = {} if last is None else {"Last-Event-ID": last}
        async with balancer.request("GET", "/v1/cluster/live", headers=headers) as response:
            assert (await message(response))[0] == "live"
            assert (await message(response))[1]["id"] == first


async def test_only_so_many_may_look(balancer: Balanced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lb.admin.live._LISTENERS", 0)
    assert (await balancer.answer("GET", "/v1/cluster/live"))[0] == 503


async def test_the_last_hour_is_told(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    recorder = balancer.parts.admin.recorder
    for _ in range(3):
        recorder.look()
        await balancer.ask()
    recorder.look()
    status, said = await balancer.answer("GET", "/v1/cluster/history?seconds=60")
    assert (status, said["step_s"]) == (200, 10)
    assert sum(sample["requests_per_s"] for sample in said["samples"]) > 0
    assert all(sample["at"] % 10 == 0 for sample in said["samples"])


@pytest.mark.parametrize("seconds", ["x", "0", "-1", "3601", "1.5", "٣"])
async def test_a_number_of_seconds_that_is_none_is_400(balancer: Balanced, seconds: str) -> None:
    status, answer = await balancer.answer("GET", "/v1/cluster/history", params={"seconds": seconds})
    assert (status, answer["error"]["param"]) == (400, "seconds")


async def test_the_hour_outlives_the_balancer_and_counts_for_all_of_them(tmp_path: Path) -> None:
    now, metrics = [1_700_000_000.0], (Metrics(), Metrics())

    def recorder(number: int, counters: Counters) -> Recorder:
        return Recorder(tmp_path, counters, metrics[number], dict, lambda: now[0])

    counters = [Counters(tmp_path / "counters.bin") for _ in range(2)]
    both = [recorder(number, own) for number, own in enumerate(counters)]
    for step in range(2):
        for one, own in zip(both, metrics, strict=True):
            one.look()
            own.models.begin("demo").end(False)
        now[0] += step
    for one in both:
        one.look()
    (sample,) = await both[0].samples(60)
    assert sample["requests_per_s"] == 4.0
    await both[0].close()
    counters[0].close()
    with_another = recorder(0, Counters(tmp_path / "counters.bin"))
    assert await with_another.samples(60) == [sample]
    assert sorted(path.name for path in tmp_path.glob("history*")) == ["history-1.bin", "history.bin"]


async def test_without_room_the_hour_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    counters = Counters(tmp_path / "counters.bin")
    monkeypatch.setattr("lb.telemetry.recorder.allocate", full)
    recorder = Recorder(tmp_path, counters, Metrics(), dict, lambda: 1_700_000_000.0)
    recorder.look()
    recorder.look()
    assert len(await recorder.samples(60)) == 1
    await recorder.close()


# the page


async def test_the_page_is_for_everybody_and_nothing_from_elsewhere(start_balancer: StartBalancer) -> None:
    balancer = await start_balancer(admin_key="secret")
    async with balancer.request("GET", "/ui/", headers={"X-Forwarded-For": "1.2.3.4"}) as response:
        assert response.status == 200 and response.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        text, tag = await response.text(), response.headers["ETag"]
    for given, status in ((tag, 304), (f'"x", W/{tag}', 304), ('"x"', 200)):
        async with balancer.request("GET", "/ui/", headers={"If-None-Match": given}) as response:
            assert response.status == status
    assert "http://" not in text and "https://" not in text
    async with balancer.request("GET", "/v1/cluster/live") as response:
        assert response.status == 401


@pytest.mark.parametrize(
    "path", ["/ui/nothing.js", "/ui/..%2Fadmin.py", "/ui/../admin.py", "/ui/a/b", "/ui/__init__.py"]
)
async def test_there_is_nothing_else_below_it(balancer: Balanced, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert (await balancer.raw(request.encode())).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    ("method", "path", "accept", "status"),
    [("GET", "/", "text/html,*/*;q=0.8", 302), ("GET", "/", "*/*", 404), ("POST", "/", "text/html", 404),
     ("GET", "/ui", "*/*", 302), ("POST", "/ui/", "*/*", 405)],
)  # fmt: skip
async def test_the_root_leads_browsers_there(
    balancer: Balanced, method: str, path: str, accept: str, status: int
) -> None:
    options = {"headers": {"Accept": accept}, "allow_redirects": False}
    async with balancer.request(method, path, **options) as response:
        assert response.status == status
        if status == 302:
            assert response.headers["Location"] == "ui/"
        else:
            assert "message" in json.loads(await response.text())["error"]


async def test_a_key_with_other_letters_than_ascii_opens_it_over_http(start_balancer: StartBalancer) -> None:
    balancer = await start_balancer(admin_key="schlüssel")
    for key, status in (("schlüssel", b"200"), ("schlussel", b"401")):
        head = f"GET /v1/cluster/history HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        answer = await balancer.raw(f"{head}Connection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 " + status)
