"""Where machines join: who is let in, what they are told, what they may ask for. The real listener and the real
uplink, with a group that only listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cluster.errors import Refused
from cluster.joining import uplink as uplinks
from cluster.joining.calls import limited
from cluster.joining.roster import JoinToken
from config.errors import UsageError
from config.identity.principal import Principal, Scope
from fakes import soon
from joinfakes import Process, Supervisor

_REPORT = {
    "type": "report", "version": [1, 1], "in_flight": {"a": 2}, "waiting": {}, "queued": 0, "unread": 0.0, "models": {},
    "used": {}, "work": {},
}  # fmt: skip


async def test_a_machine_with_a_token_is_told_what_balancers_are_told(supervisor: Supervisor) -> None:
    supervisor.group.feed.publish({"epoch": 1, "revision": 1, "backends": []}, {"sequence": [1, 1]}, {"type": "keys"})
    link, heard, task = supervisor.machine(await supervisor.token())
    await soon(lambda: len(heard) >= 5)
    assert [message["type"] for message in heard[:5]] == ["welcome", "keys", "set", "snapshot", "events"]
    assert heard[0]["name"] == "lb" and len(heard[0]["secret"]) == 43 and heard[0]["config"]["host"] == "127.0.0.1"
    assert not supervisor.group.feed.connected, "it has confirmed nothing"
    link.say(_REPORT)
    await soon(lambda: supervisor.group.feed.connected)
    assert supervisor.group.feed.joined[0].in_flight == {"a": 2} and supervisor.group.heard
    supervisor.group.feed.publish(snapshot={"sequence": [1, 2]})
    await soon(lambda: heard[-1].get("snapshot") == {"sequence": [1, 2]} or heard[-1]["type"] == "loads")
    task.cancel()
    await soon(lambda: not supervisor.group.feed.joined)
    assert supervisor.group.partings == 1 and "balancer.away" in supervisor.events


async def test_a_machine_that_hears_changes_is_told_what_is_new_of_a_set(supervisor: Supervisor) -> None:
    feed, token = supervisor.group.feed, await supervisor.token()
    rows = [{"id": name, "host": "10.0.0.1"} for name in "ab"]
    feed.publish({"epoch": 1, "revision": 1, "backends": rows}, {"sequence": [1, 1]})
    (_, new, first), (_, old, second) = supervisor.machine(token, changes=True), supervisor.machine(token)
    await soon(lambda: len(feed.joined) == 2 and len(new) >= 4 and len(old) >= 4)
    feed.publish({"epoch": 1, "revision": 2, "backends": [{**rows[0], "weight": 2}]})

    def sets(heard: list[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
        told = [message for message in heard if message["type"] in ("set", "change")]
        return [(message["type"], [each["id"] for each in message["set"]["backends"]]) for message in told]

    await soon(lambda: sets(new) == [("set", ["a", "b"]), ("change", ["a"])])
    await soon(lambda: sets(old) == [("set", ["a", "b"]), ("set", ["a"])])
    for task in (first, second):
        task.cancel()


async def test_each_is_told_what_all_others_have_in_flight(supervisor: Supervisor) -> None:
    token = await supervisor.token()
    (one, told_one, first), (two, told_two, second) = supervisor.machine(token), supervisor.machine(token)
    await soon(lambda: told_one and told_two)
    one.say(_REPORT)
    two.say({**_REPORT, "in_flight": {"a": 3, "b": 1}})
    await soon(lambda: told_one[-1] == {"type": "loads", "loads": {"a": 3, "b": 1}})
    await soon(lambda: told_two[-1] == {"type": "loads", "loads": {"a": 2}})
    for task in (first, second):
        task.cancel()


async def test_what_balancers_have_under_way_is_told_to_all_others_and_to_no_others(supervisor: Supervisor) -> None:
    token, here = await supervisor.token(), Process()
    supervisor.group.feed.processes.append(here)  # type: ignore[arg-type]
    (one, told_one, first), (_, told_two, second) = supervisor.machine(token), supervisor.machine(token)
    await soon(lambda: told_one and told_two)
    said = {"type": "attempts", "who": 7, "anew": True, "records": "AAAA"}
    one.say({**said, "more": "of it"})
    await soon(lambda: said in told_two and said in here.heard)
    of_ours = {**said, "who": 8}
    supervisor.group.feed.pass_on(of_ours)
    await soon(lambda: of_ours in told_one and of_ours in told_two)
    assert said not in told_one and of_ours not in here.heard
    one.say({"type": "attempts", "who": "?"})
    await soon(lambda: "balancer.away" in supervisor.events)
    for task in (first, second):
        task.cancel()


async def test_who_has_no_token_that_holds_is_told_so_and_nothing_else(supervisor: Supervisor) -> None:
    token = await supervisor.token()
    for hello in ({"secret": "x" * 43}, {"type": "member", "name": "lb"}, {"token": 5}, {"type": "?"}):
        _, heard, task = supervisor.machine(token, **hello)
        with pytest.raises(UsageError, match="does not let this machine in"):
            await task
        assert not heard
    supervisor.wall += 3601
    _, _, task = supervisor.machine(token)
    with pytest.raises(UsageError, match="expired"):
        await task


async def test_a_machine_that_is_evicted_is_not_let_in_again(supervisor: Supervisor) -> None:
    link, heard, task = supervisor.machine(await supervisor.token())
    await soon(lambda: heard)
    secret = heard[0]["secret"]
    link._hello = lambda: {"type": "member", "name": "lb", "secret": secret}
    await supervisor.members.evict("lb")
    with pytest.raises(UsageError, match="evicted"):
        await task
    assert not supervisor.group.feed.joined and supervisor.members.machines == {}
    with pytest.raises(Refused):
        await supervisor.members.evict("lb")


async def test_a_secret_is_told_to_nobody_but_who_has_the_certificate_of_the_token(supervisor: Supervisor) -> None:
    token = await supervisor.token()
    other = JoinToken(token.id, token.secret, "0" * 64)
    _, _, task = supervisor.machine(other)
    with pytest.raises(UsageError, match="certificate is another"):
        await task
    link, _, task = supervisor.machine(other)
    link._was_let_in = True  # as of a member: who answers in the supervisor's place puts nobody out
    await soon(lambda: link._failures > 1)
    task.cancel()
    assert supervisor.members.machines == {}, "nothing was said"


async def test_one_that_falls_silent_is_away(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplinks, "HEARTBEAT_S", 60.0)
    monkeypatch.setattr("cluster.joining.listener.SILENCE_S", 0.2)
    _, heard, task = supervisor.machine(await supervisor.token())
    await soon(lambda: heard)
    await soon(lambda: supervisor.group.partings)
    task.cancel()


async def test_what_is_no_message_ends_the_connection(supervisor: Supervisor) -> None:
    link, heard, task = supervisor.machine(await supervisor.token())
    await soon(lambda: heard)
    link.say({"type": "report", "version": "soon"})
    await soon(lambda: supervisor.group.partings)
    assert not supervisor.group.heard
    task.cancel()


@pytest.mark.parametrize(
    ("line", "scopes"),
    [("mary;owner", {Scope.ADMIN}), ("key a;read", {Scope.READ}), ("", set()), ("x;admin,owner", {Scope.ADMIN})],
)
def test_nobody_is_the_owner_through_another_machine(line: str, scopes: set[Scope]) -> None:
    assert Principal.from_line(limited(line)).scopes == scopes
