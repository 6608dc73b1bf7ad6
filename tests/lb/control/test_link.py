from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from config.link import descriptor_path, encode, messages, receive_listeners
from config.topology import BackendSpec
from fakes import soon
from lb.admin.event_stream import EventFeed
from lb.control.link import Link
from lb.records.loss_report import LossReport
from lb.routing.pool import Pool
from lbfakes import Balanced, backend_set, listening, snapshot, spec


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    listener = listening()
    made = Link(Pool(), [listener], tmp_path / "lb.sock")
    await made.start()
    yield made
    await made.close()
    listener.close()


class Supervisor:
    """The other end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, **message: Any) -> None:
        self.writer.write(encode(message))

    async def hear(self) -> dict[str, Any]:
        return json.loads(await asyncio.wait_for(self.reader.readline(), 5))

    async def report_of(self, version: tuple[int, int], **in_flight: int) -> None:
        """Listens until such a report comes."""
        async with asyncio.timeout(5):
            while (said := await self.hear())["version"] != list(version) or said["in_flight"] != in_flight:
                pass


@asynccontextmanager
async def connected(link: Link) -> AsyncIterator[Supervisor]:
    reader, writer = await asyncio.open_unix_connection(str(link._path))
    made = Supervisor(reader, writer)
    try:
        assert await made.hear() == {"type": "hello", "pid": os.getpid(), "phase": "starting", "changes": True}
        yield made
    finally:
        writer.close()


async def test_its_last_word_is_heard_whatever_is_said_to_it_meanwhile(tmp_path: Path) -> None:
    """By a supervisor that has other things to do for a while: before, the connection was reset."""
    with listening() as listener:
        link = Link(Pool(), [listener], tmp_path / "lb.sock")
        await link.start()
        reader, writer = await asyncio.open_unix_connection(str(link._path))
        await soon(lambda: link.alive)
        closing = asyncio.ensure_future(link.close())
        for number in range(20):
            writer.write(encode({"type": "snapshot", "snapshot": {"text": "x" * 10_000, "number": number}}))
            await asyncio.sleep(0.005)
        heard = [message["type"] async for message in messages(reader)]
        assert heard[-1] == "report"
        writer.close()
        await closing


@pytest.mark.measured
async def test_whoever_does_not_listen_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lb.control.link._HEARD_S", 0.05)
    with listening() as listener:
        link = Link(Pool(), [listener], tmp_path / "lb.sock")
        await link.start()
        _, writer = await asyncio.open_unix_connection(str(link._path))
        await soon(lambda: link.alive)
        async with asyncio.timeout(1):
            await link.close()
        writer.close()


async def test_it_is_alive_as_long_as_a_supervisor_is_connected(link: Link) -> None:
    assert not link.alive
    async with connected(link):
        assert link.alive
    await soon(lambda: not link.alive)


async def test_a_set_is_applied_and_reported_at_once(link: Link) -> None:
    async with connected(link) as supervisor:
        supervisor.say(type="set", set=backend_set(spec(), revision=7).to_json())
        told = {"type": "report", "version": [1, 7], "in_flight": {"instance_0": 0}, "waiting": {}, "used": {}}
        assert await supervisor.hear() == told
    assert link._pool.version == (1, 7)


async def test_an_older_set_is_answered_with_what_is_in_force(link: Link) -> None:
    async with connected(link) as supervisor:
        supervisor.say(type="set", set=backend_set(revision=7).to_json())
        supervisor.say(type="set", set=backend_set(revision=6).to_json())
        assert [(await supervisor.hear())["version"] for _ in range(2)] == [[1, 7], [1, 7]]


async def test_what_is_new_of_a_set_is_applied_and_the_whole_asked_for_where_the_one_before_is_not_known(
    link: Link,
) -> None:
    def change(base: int, revision: int, *specs: BackendSpec) -> dict[str, Any]:
        return {"base": [1, base], "gone": ["instance_1"], "set": backend_set(*specs, revision=revision).to_json()}

    async with connected(link) as supervisor:
        first = backend_set(spec(), spec("instance_1"), spec("instance_2"), revision=1)
        supervisor.say(type="set", set=first.to_json())
        await supervisor.report_of((1, 1), instance_0=0, instance_1=0, instance_2=0)
        supervisor.say(type="change", **change(1, 2, spec(state="unhealthy"), spec("instance_3")))
        await supervisor.report_of((1, 2), instance_0=0, instance_2=0, instance_3=0)
        states = {name: backend.spec.state for name, backend in link._pool.backends.items()}
        assert states == {"instance_0": "unhealthy", "instance_2": "ready", "instance_3": "ready"}
        supervisor.say(type="change", **change(4, 5))
        async with asyncio.timeout(5):
            while (await supervisor.hear())["type"] != "resend":
                pass
        assert link._pool.version == (1, 2), "and nothing is changed"
        supervisor.say(type="change", **change(1, 2, spec("instance_9")))
        await supervisor.report_of((1, 2), instance_0=0, instance_2=0, instance_3=0)  # heard already


async def test_a_drain_is_reported_as_soon_as_it_is_over(link: Link) -> None:
    async with connected(link) as supervisor:
        supervisor.say(type="set", set=backend_set(spec(), revision=1).to_json())
        await supervisor.report_of((1, 1), instance_0=0)
        lease = link._pool.backends["instance_0"].lease(lambda reason: None)
        supervisor.say(type="set", set=backend_set(spec(state="draining"), revision=2).to_json())
        await supervisor.report_of((1, 2), instance_0=1)
        lease.release()
        await supervisor.report_of((1, 2), instance_0=0)


async def test_what_is_wanted_is_told_but_not_with_each_request(link: Link) -> None:
    async with connected(link) as supervisor:
        await soon(lambda: link.alive)
        for _ in range(3):
            link.want("poet")
            link.want_model("poet")
        link.want_model("other")
        told = [await supervisor.hear() for _ in range(3)]
    wanted = ({"adapter": "poet"}, {"model": "poet"}, {"model": "other"})
    assert told == [{"type": "want", **what} for what in wanted]


async def test_a_snapshot_is_kept_and_outlives_the_supervisor(link: Link) -> None:
    async with connected(link) as supervisor:
        supervisor.say(type="snapshot", snapshot=snapshot("instance_0"))
        await soon(lambda: link.snapshot)
    await soon(lambda: not link.alive)
    assert link.snapshot["total_instances"] == 1


async def test_who_waits_for_a_snapshot_gets_it_when_it_comes(link: Link) -> None:
    async with connected(link) as supervisor:
        supervisor.say(type="snapshot", snapshot=snapshot(sequence=[1, 4]))
        await soon(lambda: link.snapshot)
        await link.has_snapshot((1, 4), timeout=0)
        waiting = asyncio.ensure_future(link.has_snapshot((1, 5), timeout=5))
        await asyncio.sleep(0)
        assert not waiting.done()
        supervisor.say(type="snapshot", snapshot=snapshot(sequence=[2, 1]))
        await asyncio.wait_for(waiting, 5)


async def test_who_waits_for_a_snapshot_that_never_comes_goes_on(link: Link) -> None:
    await asyncio.wait_for(link.has_snapshot((9, 9), timeout=0.01), 5)


async def test_half_a_message_of_a_dying_supervisor_is_dropped(link: Link) -> None:
    async with connected(link) as supervisor:
        supervisor.writer.write(encode({"type": "set", "set": backend_set(spec()).to_json()})[:-5])
        await supervisor.writer.drain()
    await soon(lambda: not link.alive)
    assert link._pool.version == (0, 0)


async def test_a_message_of_a_later_version_is_ignored(link: Link) -> None:
    async with connected(link) as supervisor:
        supervisor.say(type="something new")
        supervisor.say(type="set", set=backend_set(revision=3).to_json())
        assert (await supervisor.hear())["version"] == [1, 3]


async def test_a_big_set_comes_through(link: Link) -> None:
    models = tuple(f"adapter-{number}" for number in range(100))
    specs = [spec(f"instance_{number}", models=models) for number in range(300)]
    async with connected(link) as supervisor:
        supervisor.say(type="set", set=backend_set(*specs).to_json())
        async with asyncio.timeout(10):
            while len((await supervisor.hear())["in_flight"]) != 300:
                pass  # a report from before it, on a machine that is busy


async def test_a_second_supervisor_is_heard_beside_the_first(link: Link) -> None:
    async with connected(link) as first, connected(link) as second:
        second.say(type="set", set=backend_set(epoch=2).to_json())
        assert (await first.hear())["version"] == (await second.hear())["version"] == [2, 1]
    await soon(lambda: not link.alive)


async def test_the_listening_socket_is_handed_over(link: Link) -> None:
    with (await asyncio.to_thread(receive_listeners, link._path))[0] as received:
        assert received.getsockname() == link._listeners[0].getsockname()


async def test_that_of_grpc_is_handed_over_behind_it(tmp_path: Path) -> None:
    with listening() as http, listening() as grpc:
        made = Link(Pool(), [http, grpc], tmp_path / "lb.sock")
        await made.start()
        received = await asyncio.to_thread(receive_listeners, tmp_path / "lb.sock")
        assert [each.getsockname() for each in received] == [http.getsockname(), grpc.getsockname()]
        for each in received:
            each.close()
        await made.close()


async def test_it_is_handed_over_as_often_as_somebody_asks(balancer: Balanced) -> None:
    for _ in range(3):
        with (await asyncio.to_thread(receive_listeners, balancer.link_path))[0] as received:
            assert received.getsockname()[1] == balancer.port


async def test_one_who_asks_and_does_not_listen_harms_nobody(link: Link) -> None:
    for _ in range(20):
        _, writer = await asyncio.open_unix_connection(str(descriptor_path(link._path)))
        writer.transport.abort()
    with (await asyncio.to_thread(receive_listeners, link._path))[0] as received:
        assert received.getsockname() == link._listeners[0].getsockname()


async def test_only_the_user_may_connect(link: Link) -> None:
    for path in (link._path, descriptor_path(link._path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_nothing_is_left_after_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lb.control.link._HEARD_S", 0.05)
    with listening() as listener:
        made = Link(Pool(), [listener], tmp_path / "lb.sock")
        await made.start()
        async with connected(made):
            await made.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_socket_that_a_killed_balancer_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "lb.sock").touch()
    with listening() as listener:
        made = Link(Pool(), [listener], tmp_path / "lb.sock")
        await made.start()
        async with connected(made):
            assert made.alive
        await made.close()


async def test_a_path_longer_than_a_sockets_may_be_works(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 90) / ("y" * 90)
    folder.mkdir(parents=True)
    with listening() as listener:
        made = Link(Pool(), [listener], folder / "lb.sock")
        await made.start()
        with (await asyncio.to_thread(receive_listeners, folder / "lb.sock"))[0] as received:
            assert received.getsockname() == listener.getsockname()
        await made.close()


async def test_events_come_to_the_feed_and_again_to_no_harm(tmp_path: Path) -> None:
    listener, feed = listening(), EventFeed()
    made = Link(Pool(), [listener], tmp_path / "lb.sock", events=feed.add)
    await made.start()
    try:
        event = {"id": 3, "at": 1.0, "subject": "a", "kind": "note", "text": "b", "data": {}}
        for _ in range(2):
            async with connected(made) as supervisor:
                supervisor.say(type="events", events=[event])
                await soon(lambda: feed.after(0))
        assert [kept.event for kept in feed.after(0)] == [event]
    finally:
        await made.close()
        listener.close()


async def test_what_became_of_requests_is_told_once_after_the_set_that_said_it(tmp_path: Path) -> None:
    listener, outcomes, loop = listening(), LossReport(), asyncio.get_running_loop()

    def lost(backend: str, incarnation: int, requests: int) -> None:
        outcomes.lost(backend, incarnation, requests, loop.time())

    pool = Pool(lost=lost)
    made = Link(pool, [listener], tmp_path / "lb.sock", losses=outcomes)
    await made.start()
    try:
        async with connected(made) as supervisor:
            supervisor.say(type="set", set=backend_set(spec("a")).to_json())
            await soon(lambda: "a" in pool.backends)
            incarnation = pool.backends["a"].spec.incarnation
            pool.backends["a"].lease(lambda reason: outcomes.moved("a", incarnation, loop.time()))
            supervisor.say(type="set", set=backend_set(spec("a", state="backoff"), revision=2).to_json())
            async with asyncio.timeout(5):
                while (said := await supervisor.hear())["type"] != "outcome":
                    pass
            assert said == {
                "type": "outcome", "backend": "a", "incarnation": incarnation, "requests": 1, "moved": 1, "retried": 0,
                "failed": 0,
            }  # fmt: skip
            supervisor.say(type="set", set=backend_set(spec("a", state="backoff"), revision=3).to_json())
            async with asyncio.timeout(5):
                while (said := await supervisor.hear()).get("version") != [1, 3]:
                    assert said["type"] == "report"
    finally:
        await made.close()
        listener.close()
