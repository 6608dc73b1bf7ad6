"""Balancers on a second host: they balance as one with the first's, and go on when anything else has ended. Only with
networks that are apart it shows who can connect to whom."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator

import pytest

from harness import poll
from manyhosts import namespaces
from manyhosts.joined import JoinedHosts
from manyhosts.namespaces import Host

pytestmark = [pytest.mark.processes, namespaces.NEEDED]

_ITL_S = 0.02


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JoinedHosts]:
    made = JoinedHosts(tmp_path_factory.mktemp("joined"))
    try:
        made.redis()
        made.up(3, "--ttft-ms", "1", "--itl-ms", str(int(_ITL_S * 1000)), "--max-num-seqs", "256")
        made.join()
        made.key = made.admin(made.first, "POST", "/v1/cluster/keys", {"name": "all"}).json()["secret"]
        poll(lambda: made.complete(made.second) == 200, 5, "the key on the second host")
        yield made
    finally:
        made.close()


def test_what_is_in_flight_through_one_counts_for_the_other(hosts: JoinedHosts) -> None:
    """A balancer by itself would spread its three over all workers."""
    hosts.admin(hosts.first, "POST", "/v1/cluster/instances/instance_2/drain", {})
    poll(lambda: hosts.ready(hosts.first) == 2, 10, "drained")
    first = hosts.first.submit(asyncio.run, hosts.streams(hosts.first, [300] * 6))
    poll(lambda: hosts.in_flight(hosts.first) == [3, 3, 0], 5, "the first host's streams")
    hosts.admin(hosts.second, "DELETE", "/v1/cluster/instances/instance_2/drain")
    poll(lambda: hosts.ready(hosts.second) == 3 and hosts.in_flight(hosts.second) == [3, 3, 0], 5, "told of them")
    second = hosts.second.submit(asyncio.run, hosts.streams(hosts.second, [200] * 3))
    poll(lambda: hosts.in_flight(hosts.first) == hosts.in_flight(hosts.second) == [3, 3, 3], 5, "spread over all")
    assert all(one.whole for one in [*first.result(), *second.result()])
    poll(lambda: hosts.in_flight(hosts.first) == hosts.in_flight(hosts.second) == [0, 0, 0], 5, "over")


def test_an_adapter_goes_to_the_worker_where_the_other_has_it(hosts: JoinedHosts) -> None:
    """Not to one at random, as each by itself would."""
    hosts.admin(hosts.first, "POST", "/v1/cluster/strategy", {"strategy": "adaptive"})
    for adapter in ("pirate", "poet"):
        stream = hosts.second.submit(asyncio.run, hosts.stream(hosts.second, 150, model=adapter))
        poll(lambda: hosts.in_flight(hosts.first).count(1) == 1, 5, "told of it")
        there = hosts.in_flight(hosts.first).index(1)
        before = hosts.requests()
        for _ in range(4):
            assert hosts.complete(hosts.first, model=adapter) == 200
        grown = [now - then for now, then in zip(hosts.requests(), before, strict=True)]
        assert grown == [4 * (number == there) for number in range(3)], (adapter, there, grown)
        assert stream.result().whole
        poll(lambda: hosts.in_flight(hosts.first) == [0, 0, 0], 5, "over")
    hosts.admin(hosts.first, "POST", "/v1/cluster/strategy", {"strategy": "least_connections"})


def test_what_is_told_of_loads_is_half_a_second_old_at_most(hosts: JoinedHosts) -> None:
    """By the pauses in between: what asking costs on this machine just now is allowed for, ten times."""

    def age(tokens: int) -> tuple[float, float]:
        """From when the first host counts a stream until the second does, and what asking it took."""
        stream = hosts.first.submit(asyncio.run, hosts.streams(hosts.first, [tokens]))
        poll(lambda: sum(hosts.in_flight(hosts.first)) == 1, 5, "it is under way")
        began = asked = time.monotonic()
        while sum(hosts.in_flight(hosts.second)) != 1:
            assert time.monotonic() - began < 10
            asked = time.monotonic()
        done = time.monotonic()
        assert stream.result()[0].whole
        poll(lambda: sum(hosts.in_flight(hosts.second)) == 0, 5, "over")
        return done - began, done - asked

    ages = sorted(age(60) for _ in range(5))
    median, asking = ages[2][0], max(took for _, took in ages)
    assert median <= 0.5 + 10 * asking, ages


def test_workers_get_the_same_share_within_a_tenth(hosts: JoinedHosts) -> None:
    before, chance = hosts.requests(), random.Random(7)

    async def clients(host: Host, lengths: list[list[int]]) -> bool:
        async def client(each: list[int]) -> bool:
            return all([(await hosts.stream(host, tokens)).whole for tokens in each])

        return all(await asyncio.gather(*map(client, lengths)))

    lengths = [[[chance.randint(2, 10) for _ in range(36)] for _ in range(8)] for _ in range(2)]
    both = [
        host.submit(asyncio.run, clients(host, each))
        for host, each in zip((hosts.first, hosts.second), lengths, strict=True)
    ]
    assert all(one.result() for one in both)
    got = [now - then for now, then in zip(hosts.requests(), before, strict=True)]
    assert sum(got) == 576 and all(abs(each - 192) <= 19 for each in got), got


def test_changes_are_asked_for_on_either_but_what_is_the_owners(hosts: JoinedHosts) -> None:
    answer = hosts.admin(hosts.second, "POST", "/v1/cluster/strategy", {"strategy": "random"})
    assert answer.status_code == 200 and hosts.status(hosts.second)["load_balancer_strategy"] == "random"
    assert hosts.status(hosts.first)["load_balancer_strategy"] == "random"
    hosts.admin(hosts.first, "POST", "/v1/cluster/strategy", {"strategy": "least_connections"})
    refused = hosts.admin(hosts.second, "POST", "/v1/cluster/join_tokens", {})
    assert refused.status_code == 403, refused.text
    shown = hosts.status(hosts.second)["load_balancer"]["joined"]
    assert [machine["name"] for machine in shown] == ["second"]


def test_a_limit_holds_for_both_with_a_store_and_twice_at_most_without(hosts: JoinedHosts) -> None:
    def let_through(name: str) -> tuple[int, float]:
        """Of 70 requests, alternately through both at a pace at which balancers can tell the store of each; and how
        many had come back meanwhile."""
        made = hosts.admin(hosts.first, "POST", "/v1/cluster/keys", {"name": name, "rpm": 30}).json()
        poll(lambda: hosts.complete(hosts.second, made["secret"]) == 200, 5, "the key on the second host")
        began, passed = time.monotonic(), 1
        for number in range(70):
            time.sleep(0.03)
            status = hosts.complete((hosts.first, hosts.second)[number % 2], made["secret"])
            assert status in (200, 429)
            passed += status == 200
        return passed, (time.monotonic() - began) * 30 / 60

    passed, again = let_through("shared")
    assert 30 <= passed <= 30 + again + 4, (passed, again)  # some were let through before a word had gone
    hosts.first.strike("redis-server")
    often = hosts.admin(hosts.first, "POST", "/v1/cluster/keys", {"name": "often", "rpm": 6000}).json()["secret"]
    poll(lambda: _limits_are_local(hosts, often), 10, "noticed")
    passed, again = let_through("apart")
    assert 30 <= passed <= 2 * (30 + again + 1), (passed, again)


def _limits_are_local(hosts: JoinedHosts, key: str) -> bool:
    """Whether both say so; only what is limited is told to the store, so something has to be asked."""
    for host in (hosts.first, hosts.second):
        hosts.complete(host, key)
    logs = [(host.folder / "log").read_text() for host in (hosts.first, hosts.second)]
    return all("limits hold on this machine" in log for log in logs)


def test_a_balancer_that_is_killed_takes_its_own_connections_along(hosts: JoinedHosts) -> None:
    first = hosts.first.submit(asyncio.run, hosts.streams(hosts.first, [150] * 6))
    second = hosts.second.submit(asyncio.run, hosts.streams(hosts.second, [400] * 6))
    poll(lambda: sum(hosts.in_flight(hosts.first)) == 12, 5, "all are under way")
    hosts.second.strike("-m lb")
    assert [one.whole for one in second.result()] == [False] * 6
    assert first.result() == [first.result()[0]] * 6 and first.result()[0].whole
    poll(lambda: hosts.ready(hosts.second) == 3, 10, "another balancer in its place")
    assert hosts.complete(hosts.second) == 200
    poll(lambda: hosts.in_flight(hosts.first) == [0, 0, 0], 5, "nothing of it counts any more")


def test_it_serves_on_while_the_supervisor_is_away(hosts: JoinedHosts) -> None:
    streams = hosts.second.submit(asyncio.run, hosts.streams(hosts.second, [100] * 4))
    hosts.first.strike("clusterctl up")
    poll(lambda: hosts.status(hosts.second)["supervisor"]["pid"] is None, 5, "noticed")
    assert hosts.complete(hosts.second) == 200
    refused = hosts.admin(hosts.second, "POST", "/v1/cluster/strategy", {"strategy": "random"})
    assert refused.status_code == 503
    assert all(one.whole for one in streams.result())
    hosts.second.strike("clusterctl balancer")
    assert hosts.complete(hosts.second) == 200, "nor does it need what talks to the supervisor"
    hosts.second.strike("-m lb")
    assert hosts.ready(hosts.second) == 0
    hosts.balance()  # all are started again, with nobody to ask
    poll(lambda: hosts.ready(hosts.second) == 3, 10, "what it knew last")
    assert hosts.complete(hosts.second) == 200 and hosts.status(hosts.second)["supervisor"]["pid"] is None
    hosts.up(3, "--ttft-ms", "1", "--itl-ms", "20", "--max-num-seqs", "256")
    poll(lambda: hosts.status(hosts.second)["supervisor"]["pid"], 10, "the next supervisor")
    answer = hosts.admin(hosts.second, "POST", "/v1/cluster/scale", {"instances": 4})
    assert answer.status_code == 202
    poll(lambda: hosts.ready(hosts.second) == 4, 10, "a worker of the next supervisor's")


def test_a_host_that_is_cut_off_comes_back(hosts: JoinedHosts) -> None:
    def connected() -> bool:
        found = hosts.admin(hosts.first, "GET", "/v1/cluster/balancers").json()["balancers"]
        return [machine["connected"] for machine in found] == [True]

    assert connected()
    hosts.second.cut()
    poll(lambda: not connected(), 6, "away")
    hosts.second.join()
    poll(connected, 10, "back")
    assert hosts.complete(hosts.second) == 200


def test_a_host_that_is_lost_as_a_whole_takes_its_own_connections_along_and_may_come_again(hosts: JoinedHosts) -> None:
    """Nobody there says anything any more, nor ends a connection."""
    workers = hosts.ready(hosts.first)
    first = hosts.first.submit(asyncio.run, hosts.streams(hosts.first, [400] * 4))
    second = hosts.second.submit(asyncio.run, hosts.streams(hosts.second, [400] * 4, patience=8))
    poll(lambda: sum(hosts.in_flight(hosts.first)) == 8, 5, "all are under way")
    hosts.second.cut()  # no end of a connection comes through either
    hosts.second.kill()
    poll(lambda: sum(hosts.in_flight(hosts.first)) == 4, 6, "what went through it does not count any more")
    assert not any(one.whole for one in second.result()) and all(one.whole for one in first.result())
    assert hosts.complete(hosts.first) == 200
    hosts.second.boot()
    hosts.balance()  # a member, by the secret in its state
    poll(lambda: hosts.ready(hosts.second) == workers, 20, "it serves again")
    assert hosts.complete(hosts.second) == 200


def test_a_machine_that_is_evicted_serves_no_more(hosts: JoinedHosts) -> None:
    assert hosts.admin(hosts.first, "DELETE", "/v1/cluster/balancers/second").status_code == 200
    poll(lambda: not hosts.second.processes("lb"), 15, "its balancers have ended")
    assert hosts.complete(hosts.first) == 200
