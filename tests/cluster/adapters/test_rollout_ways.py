"""Changes of adapters while workers come and go, back to an earlier version, off, and several at once."""

from __future__ import annotations

import asyncio

import pytest

from adapterchanges import Content, load, refusal, refuse, settle
from adapterfakes import FakeCluster
from cluster.errors import Refused
from cluster.fleet.states import WorkerState
from worker.probe import ProbeFailed

# workers that come and go


async def test_a_worker_that_dies_in_a_load_is_skipped(cluster: FakeCluster, content: Content) -> None:
    async def die(name: str, path: str) -> str | None:
        cluster.workers[1].die()
        raise ProbeFailed("connection reset")

    cluster.workers[1].target.on_load = die
    status, answer = await load(cluster, content(1))
    assert (status, answer["instances"]) == (200, {"instance_0": "loaded", "instance_2": "loaded"})
    assert cluster.numbers("a") == [1, None, 1]


async def test_a_worker_that_dies_in_an_update_is_skipped(cluster: FakeCluster, content: Content) -> None:
    await load(cluster, content(1))

    async def die(name: str, path: str) -> str | None:
        cluster.workers[0].die()
        raise ProbeFailed("connection reset")

    cluster.workers[0].target.on_unload = die
    assert (await load(cluster, content(2)))[1]["version"] == 2
    assert cluster.numbers("a")[1:] == [2, 2]


async def test_a_worker_whose_death_is_seen_a_moment_later_is_skipped(
    cluster: FakeCluster, content: Content
) -> None:
    async def die(name: str, path: str) -> str | None:
        asyncio.get_running_loop().call_later(0.03, cluster.workers[1].die)
        raise ProbeFailed("connection reset")

    cluster.workers[1].target.on_load = die
    assert (await load(cluster, content(1)))[0] == 200


async def test_a_worker_that_lives_and_does_not_answer_is_a_refusal(
    cluster: FakeCluster, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def survives(*_: object) -> bool:
        return True

    async def hang(name: str, path: str) -> str | None:
        raise ProbeFailed("no answer in 120 s")

    monkeypatch.setattr(cluster.rollouts, "_survives", survives)
    cluster.workers[2].target.on_load = hang
    error = await refusal(load(cluster, content(1)))
    assert error.status == 502 and "instance_2" in str(error) and "no answer" in str(error)
    assert cluster.held() == [{}, {}, {}]


async def test_a_worker_that_is_not_ready_is_left_alone(cluster: FakeCluster, content: Content) -> None:
    cluster.workers[1].instance.state = WorkerState.UNHEALTHY
    await load(cluster, content(1))
    assert cluster.numbers("a") == [1, None, 1]


@pytest.mark.parametrize("version", [1, 2])
async def test_a_worker_that_becomes_ready_in_the_middle_gets_it(
    cluster: FakeCluster, content: Content, version: int
) -> None:
    if version == 2:
        await load(cluster, content(1))

    async def grow(name: str, path: str) -> str | None:
        cluster.workers[2].target.on_load = None
        await cluster.add().agent.sync()
        return None

    cluster.workers[2].target.on_load = grow
    _, answer = await load(cluster, content(version))
    assert answer["instances"]["instance_3"] == "loaded"
    assert cluster.numbers("a") == [version] * 4


# back


async def test_back_is_to_the_version_before(cluster: FakeCluster, content: Content) -> None:
    for seed in (1, 2, 3):
        await load(cluster, content(seed))
    assert (await cluster.rollouts.rollback("a", None))["version"] == 2
    assert cluster.numbers("a") == [2, 2, 2]
    assert (await cluster.rollouts.rollback("a", None))["version"] == 1
    assert (await cluster.rollouts.rollback("a", 3))["version"] == 3
    assert cluster.numbers("a") == [3, 3, 3]
    assert cluster.inventory.rollbacks == 3


@pytest.mark.parametrize(
    ("name", "number", "status"), [("nobody", None, 404), ("a", None, 409), ("a", 7, 404)]
)
async def test_a_rollback_that_is_none(
    cluster: FakeCluster, content: Content, name: str, number: int | None, status: int
) -> None:
    await load(cluster, content(1))
    assert (await refusal(cluster.rollouts.rollback(name, number))).status == status
    assert cluster.numbers("a") == [1, 1, 1]


async def test_a_rollback_to_the_active_version_changes_nothing(cluster: FakeCluster, content: Content) -> None:
    await load(cluster, content(1))
    cluster.seen.clear()
    assert (await cluster.rollouts.rollback("a", 1))["version"] == 1
    assert cluster.seen == [] and cluster.inventory.rollbacks == 0


async def test_a_rollback_that_one_refuses_leaves_the_newer_version(cluster: FakeCluster, content: Content) -> None:
    await load(cluster, content(1))
    await load(cluster, content(2))
    refuse(cluster.workers[1], once=True)
    assert (await refusal(cluster.rollouts.rollback("a", None))).status == 502
    assert cluster.numbers("a") == [2, 2, 2]
    assert cluster.inventory.registry.adapters["a"].active == 2
    assert cluster.inventory.rollbacks == 0


async def test_after_a_rollback_the_next_number_is_a_new_one(cluster: FakeCluster, content: Content) -> None:
    for seed in (1, 2):
        await load(cluster, content(seed))
    await cluster.rollouts.rollback("a", None)
    assert (await load(cluster, content(3)))[1]["version"] == 3


# off


async def test_an_unloaded_one_is_off_every_worker(cluster: FakeCluster, content: Content) -> None:
    await load(cluster, content(1))
    await load(cluster, content(2), "b")
    assert await cluster.rollouts.unload("a") == {"lora_name": "a", "state": "unloaded"}
    assert [set(held) for held in cluster.held()] == [{"b"}] * 3
    assert list(cluster.inventory.registry.adapters) == ["b"]
    assert (await refusal(cluster.rollouts.unload("a"))).status == 404


async def test_an_unload_is_durable_before_a_worker_is_touched(cluster: FakeCluster, content: Content) -> None:
    await load(cluster, content(1))
    cluster.seen.clear()
    cluster.save_fails = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        await cluster.rollouts.unload("a")
    assert cluster.seen == [] and cluster.numbers("a") == [1, 1, 1]


async def test_a_worker_that_does_not_answer_an_unload_is_made_good_later(
    cluster: FakeCluster, content: Content
) -> None:
    await load(cluster, content(1))
    await settle(cluster)
    cluster.workers[1].target.silent = True
    await cluster.rollouts.unload("a")
    cluster.workers[1].target.silent = False
    assert cluster.workers[1].agent.dirty.is_set()
    await settle(cluster)
    assert cluster.held() == [{}, {}, {}]


# at once


async def test_two_changes_of_one_name_come_one_after_the_other(cluster: FakeCluster, content: Content) -> None:
    await load(cluster, content(1))
    answers = await asyncio.gather(load(cluster, content(2)), load(cluster, content(3)), load(cluster, content(4)))
    assert [answer["version"] for _, answer in answers] == [2, 3, 4]
    assert cluster.numbers("a") == [4, 4, 4]
    assert [v.number for v in cluster.inventory.registry.adapters["a"].versions] == [2, 3, 4]


async def test_a_load_and_an_unload_of_one_name_end_in_agreement(cluster: FakeCluster, content: Content) -> None:
    await load(cluster, content(1))
    await asyncio.gather(load(cluster, content(2)), cluster.rollouts.unload("a"))
    assert cluster.held() == [{}, {}, {}]
    await asyncio.gather(load(cluster, content(2)), load(cluster, content(2), replace_it=False))
    assert cluster.numbers("a") == [1, 1, 1]


async def test_changes_of_different_names_at_once_are_all_kept(cluster: FakeCluster, content: Content) -> None:
    names = [f"n{seed}" for seed in range(6)]
    await asyncio.gather(*(load(cluster, content(seed), name) for seed, name in enumerate(names)))
    assert set(cluster.inventory.registry.adapters) == set(names)
    assert [set(held) for held in cluster.held()] == [set(names)] * 3


async def test_one_that_fails_beside_another_takes_nothing_from_it(cluster: FakeCluster, content: Content) -> None:
    async def only_b(name: str, path: str) -> str | None:
        return "500 no" if name == "b" else None

    cluster.workers[1].target.on_load = only_b
    _, error = await asyncio.gather(load(cluster, content(1)), load(cluster, content(2), "b"), return_exceptions=True)
    assert isinstance(error, Refused)
    assert [set(held) for held in cluster.held()] == [{"a"}] * 3
    assert list(cluster.inventory.registry.adapters) == ["a"]
