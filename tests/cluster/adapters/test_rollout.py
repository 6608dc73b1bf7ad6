"""Changes of adapters over workers: on all or on none, one at a time, and never half in the registry."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapterfakes import FakeCluster, FakeWorker, make_adapter
from cluster.adapters import effect
from cluster.errors import Refused
from cluster.fleet.states import WorkerState
from config.settings import load as settings
from worker.probe import NotNumbers, ProbeFailed

Content = Callable[[int], str]


@pytest.fixture
def content(tmp_path: Path) -> Content:
    """The path of adapters by number; each number is other content."""
    return lambda seed: make_adapter(tmp_path / f"source{seed}", seed)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setattr(effect, "_PAUSE_S", 0.01)
    return FakeCluster(tmp_path)


async def load(cluster: FakeCluster, path: str, name: str = "a", **more: Any) -> tuple[int, dict[str, Any]]:
    given = {"replace_it": True, "description": None, **more}
    return await cluster.rollouts.load(name, path, **given)


async def refusal(doing: Any) -> Refused:
    with pytest.raises(Refused) as error:
        await doing
    assert "\n" not in str(error.value)
    return error.value


def refuse(worker: FakeWorker, *, once: bool = False, words: str = "500 refused") -> None:
    async def on_load(name: str, path: str) -> str | None:
        if once:
            worker.target.on_load = None
        return words

    worker.target.on_load = on_load


async def settle(cluster: FakeCluster) -> None:
    """What the workers' own tasks do when they are told that something changed."""
    for worker in cluster.workers:
        if cluster.agents.get(worker.instance.id) is not None and worker.agent.dirty.is_set():
            await worker.agent.sync()


# a new name


async def test_a_new_one_is_on_every_worker_before_it_is_answered(cluster: FakeCluster, content: Content) -> None:
    status, answer = await load(cluster, content(1), description="mine")
    assert status == 200
    assert answer["instances"] == {f"instance_{n}": "loaded" for n in range(3)}
    assert (answer["lora_name"], answer["version"], answer["state"], answer["unchecked"]) == ("a", 1, "loaded", [])
    assert cluster.numbers("a") == [1, 1, 1]
    assert cluster.saved == [(["a"], [])]
    assert cluster.inventory.registry.adapters["a"].description == "mine"


async def test_workers_load_the_copy_not_the_source(cluster: FakeCluster, content: Content) -> None:
    source = content(1)
    await load(cluster, source)
    shutil.rmtree(source)
    path = Path(cluster.held()[0]["a"])
    assert path.parent == cluster.store
    assert (path / "adapter_model.safetensors").is_file()


async def test_a_new_one_goes_to_all_workers_at_once(cluster: FakeCluster, content: Content) -> None:
    all_began = asyncio.Event()
    began = 0

    async def meet(name: str, path: str) -> str | None:
        nonlocal began
        began += 1
        if began == 3:
            all_began.set()
        await asyncio.wait_for(all_began.wait(), 5)
        return None

    for worker in cluster.workers:
        worker.target.on_load = meet
    assert (await load(cluster, content(1)))[0] == 200


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_one_refusal_and_no_worker_has_it(cluster: FakeCluster, content: Content, number: int) -> None:
    refuse(cluster.workers[number], words="500 too big for me")
    error = await refusal(load(cluster, content(1)))
    assert error.status == 502
    assert f"instance_{number}" in str(error) and "too big for me" in str(error)
    assert cluster.held() == [{}, {}, {}]
    assert cluster.inventory.registry.adapters == {} and cluster.saved == []
    assert all(worker.agent.held.refused == {} for worker in cluster.workers), "nobody is degraded for it"


async def test_with_no_worker_ready_it_is_registered(tmp_path: Path, content: Content) -> None:
    cluster = FakeCluster(tmp_path, workers=0)
    status, answer = await load(cluster, content(1))
    assert (status, answer["state"], answer["instances"]) == (202, "registered", {})
    assert "a" in cluster.inventory.registry.adapters


async def test_a_registry_that_cannot_be_written_leaves_nobody_with_it(
    cluster: FakeCluster, content: Content
) -> None:
    cluster.save_fails = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        await load(cluster, content(1))
    assert cluster.held() == [{}, {}, {}]
    assert cluster.inventory.registry.adapters == {}


@pytest.mark.parametrize(
    ("name", "path", "status"),
    [("a", "relative", 400), ("a", "/nowhere", 404), ("a/b", "/x", 400), ("..", "/x", 400), ("demo", "/x", 409)],
)
async def test_what_is_wrong_touches_no_worker(cluster: FakeCluster, name: str, path: str, status: int) -> None:
    assert (await refusal(load(cluster, path, name))).status == status
    assert cluster.seen == [] and cluster.saved == []


async def test_nothing_is_loaded_where_the_file_says_so(cluster: FakeCluster, content: Content) -> None:
    cluster.plan(dynamic_loading=False)
    assert (await refusal(load(cluster, content(1)))).status == 409
    assert cluster.seen == []


# the next version


async def test_the_same_content_again_is_no_new_version(
    cluster: FakeCluster, content: Content, tmp_path: Path
) -> None:
    await load(cluster, content(1))
    cluster.seen.clear()
    shutil.copytree(content(1), tmp_path / "elsewhere")
    status, answer = await load(cluster, str(tmp_path / "elsewhere"), replace_it=False)
    assert (status, answer["version"], cluster.seen) == (200, 1, [])
    assert len(list(cluster.store.iterdir())) == 1


async def test_other_content_has_to_be_asked_for(cluster: FakeCluster, content: Content) -> None:
    await load(cluster, content(1))
    cluster.seen.clear()
    error = await refusal(load(cluster, content(2), replace_it=False))
    assert (error.status, error.param) == (409, "load_inplace")
    assert "load_inplace" in str(error)
    assert cluster.seen == [] and cluster.numbers("a") == [1, 1, 1]


async def test_a_new_version_goes_worker_by_worker(cluster: FakeCluster, content: Content) -> None:
    await load(cluster, content(1), description="kept")
    cluster.seen.clear()
    assert (await load(cluster, content(2)))[1]["version"] == 2
    path = cluster.held()[0]["a"]
    assert cluster.seen == [
        f"instance_{n} {what}" for n in range(3) for what in ("withhold a", "unload a", f"load a {path}")
    ]
    assert cluster.numbers("a") == [2, 2, 2]
    assert cluster.inventory.registry.adapters["a"].description == "kept"


async def test_no_more_than_one_worker_is_without_it_in_an_update(cluster: FakeCluster, content: Content) -> None:
    await load(cluster, content(1))
    without: list[int] = []

    async def count(name: str, path: str) -> str | None:
        without.append(sum("a" not in held for held in cluster.held()))
        return None

    for worker in cluster.workers:
        worker.target.on_load = count
    await load(cluster, content(2))
    assert without == [1, 1, 1]


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_new_version_that_one_refuses_goes_back_everywhere(
    cluster: FakeCluster, content: Content, number: int
) -> None:
    await load(cluster, content(1))
    before, registry = [dict(held) for held in cluster.held()], cluster.inventory.registry
    refuse(cluster.workers[number], once=True)
    error = await refusal(load(cluster, content(2)))
    assert error.status == 502 and f"instance_{number}" in str(error)
    assert cluster.held() == before
    assert cluster.inventory.registry == registry
    assert all(worker.agent.held.refused == {} for worker in cluster.workers)


async def test_an_unload_that_fails_in_an_update_leaves_the_old_one_in_rotation(
    cluster: FakeCluster, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker still holds the old version, and is to be sent requests for it again."""
    await load(cluster, content(1))

    async def failing(name: str, path: str) -> str | None:
        return "500 not now"

    async def survives(*_: object) -> bool:
        return True

    monkeypatch.setattr(cluster.rollouts, "_survives", survives)
    cluster.workers[1].target.on_unload = failing
    assert (await refusal(load(cluster, content(2)))).status == 502
    await settle(cluster)
    assert cluster.numbers("a") == [1, 1, 1]
    assert [worker.instance.adapters.withheld for worker in cluster.workers] == [set(), set(), set()]


async def test_a_write_that_fails_after_an_update_brings_the_old_one_back(
    cluster: FakeCluster, content: Content
) -> None:
    await load(cluster, content(1))
    cluster.save_fails = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        await load(cluster, content(2))
    assert cluster.numbers("a") == [1, 1, 1]


async def test_a_cancelled_update_brings_the_old_one_back(cluster: FakeCluster, content: Content) -> None:
    await load(cluster, content(1))
    before, began = [dict(held) for held in cluster.held()], asyncio.Event()

    async def hang(name: str, path: str) -> str | None:
        cluster.workers[1].target.on_load = None
        began.set()
        await asyncio.Event().wait()
        return None

    cluster.workers[1].target.on_load = hang
    updating = asyncio.ensure_future(load(cluster, content(2)))
    await asyncio.wait_for(began.wait(), 5)
    updating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await updating
    assert cluster.held() == before


async def test_only_so_many_versions_are_kept(tmp_path: Path, content: Content) -> None:
    cluster = FakeCluster(tmp_path, keep=2)
    for seed in (1, 2, 3):
        await load(cluster, content(seed))
    assert [v.number for v in cluster.inventory.registry.adapters["a"].versions] == [2, 3]
    cluster.rollouts.sweep()
    assert {f.name for f in cluster.store.iterdir()} == cluster.inventory.registry.hashes()


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


# lazily


async def given_lazily(cluster: FakeCluster, path: str, name: str = "lazy") -> None:
    await cluster.take_in_given({name: Path(path)}, {name})
    await settle(cluster)


async def test_a_lazy_one_is_registered_and_on_no_worker_until_it_is_asked_for(
    cluster: FakeCluster, content: Content
) -> None:
    await given_lazily(cluster, content(1))
    assert cluster.held() == [{}, {}, {}]
    assert cluster.report.find("lazy")["state"] == "lazy"
    cluster.rollouts.want("lazy")
    cluster.rollouts.want("never heard of")
    await settle(cluster)
    assert cluster.numbers("lazy") == [1, 1, 1]
    assert set(cluster.inventory.used) == {"lazy"}


async def test_a_lazy_one_is_loaded_on_command(cluster: FakeCluster, content: Content) -> None:
    """The issue: "registered, loaded on first use or on command"."""
    await given_lazily(cluster, content(1))
    status, answer = await load(cluster, content(1), "lazy")
    await settle(cluster)
    assert (status, answer["version"]) == (200, 1)
    assert cluster.numbers("lazy") == [1, 1, 1]
    assert answer["instances"] == {f"instance_{n}": "loaded" for n in range(3)}


async def test_no_worker_holds_more_than_the_cap_after_a_load(tmp_path: Path, content: Content) -> None:
    cluster = FakeCluster(tmp_path, workers=1, cap=2)
    for seed in range(4):
        cluster.clock.advance(1)
        assert (await load(cluster, content(seed), f"n{seed}"))[0] == 200
        await settle(cluster)
    assert set(cluster.held()[0]) == {"n2", "n3"}


async def test_given_ones_are_one_transaction_and_the_same_again_no_new_version(
    cluster: FakeCluster, content: Content
) -> None:
    given = {"a": Path(content(1)), "b": Path(content(2))}
    for _ in range(2):
        await cluster.take_in_given(given, {"b"}, {"a": "words"})
    assert cluster.saved == [(["a", "b"], [])] * 2
    adapters = cluster.inventory.registry.adapters
    assert [(a.active, a.pinned, a.auto_load) for a in adapters.values()] == [(1, True, True), (1, False, False)]
    assert adapters["a"].description == "words"


async def test_one_that_is_none_among_given_ones_keeps_all_out(
    cluster: FakeCluster, content: Content, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="nowhere"):
        await cluster.take_in_given({"a": Path(content(1)), "b": tmp_path / "nowhere"})
    assert cluster.saved == [] and cluster.inventory.registry.adapters == {}


# whether it does anything


def without_effect(cluster: FakeCluster, *names: str) -> None:
    for worker in cluster.workers:
        worker.target.numbers_of |= dict.fromkeys(names, "base")


async def test_one_worker_is_asked_once_whether_it_does_anything(cluster: FakeCluster, content: Content) -> None:
    await load(cluster, content(1))
    assert sorted(worker.target.asked for worker in cluster.workers) == [[], [], ["base", "a"]]
    await load(cluster, content(1), "b")
    await load(cluster, content(2))
    await cluster.rollouts.rollback("a", None)
    asked = [model for worker in cluster.workers for model in worker.target.asked]
    assert sorted(asked) == ["a", "a", "base", "base"], "the same content by another name, or again, is known"


async def test_one_that_changes_nothing_is_on_no_worker(cluster: FakeCluster, content: Content) -> None:
    without_effect(cluster, "a")
    error = await refusal(load(cluster, content(1)))
    assert (error.status, error.param) == (400, "lora_path")
    assert "has no effect" in str(error) and "allow_no_effect" in str(error)
    assert cluster.held() == [{}, {}, {}] and cluster.saved == []
    assert sum("is not used" in words for words in cluster.told) == 1


async def test_a_version_that_changes_nothing_stops_at_the_first_worker(
    cluster: FakeCluster, content: Content
) -> None:
    await load(cluster, content(1))
    cluster.seen.clear()
    without_effect(cluster, "a")
    assert (await refusal(load(cluster, content(2)))).status == 400
    assert cluster.numbers("a") == [1, 1, 1]
    assert {words.split()[0] for words in cluster.seen} == {"instance_0"}, "the others never let go of the old one"


async def test_one_that_may_change_nothing_is_loaded_and_stays_so(cluster: FakeCluster, content: Content) -> None:
    without_effect(cluster, "a")
    assert (await load(cluster, content(1), allow_no_effect=True))[0] == 200
    assert cluster.numbers("a") == [1, 1, 1]
    worker = cluster.add()
    without_effect(cluster, "a")
    await worker.agent.sync()
    assert cluster.numbers("a") == [1, 1, 1, 1] and worker.target.asked == []
    (version,) = cluster.inventory.registry.adapters["a"].versions
    assert version.allow_no_effect, "stored with it, so that a later supervisor knows"


async def test_a_setting_allows_all(cluster: FakeCluster, content: Content) -> None:
    without_effect(cluster, "a")
    cluster.plan(settings=settings({"engine": "sim", "allow_no_effect": True}))
    assert (await load(cluster, content(1)))[0] == 200
    cluster.plan(settings=settings({"engine": "sim"}))
    assert not cluster.inventory.registry.adapters["a"].current.allow_no_effect


async def test_what_was_refused_can_be_allowed_afterwards(cluster: FakeCluster, content: Content) -> None:
    """A lazy one is found out at its first load; whoever knows better says so."""
    without_effect(cluster, "lazy")
    await given_lazily(cluster, content(1))
    cluster.rollouts.want("lazy")
    await settle(cluster)
    assert cluster.held() == [{}, {}, {}]
    shown = cluster.report.find("lazy")
    assert shown["state"] == "refused"
    assert all("as the base model does" in i["reason"] for i in shown["instances"].values())
    loads = len(cluster.seen)
    cluster.clock.advance(1000)
    for worker in cluster.workers:
        await worker.agent.sync()
    assert len(cluster.seen) == loads, "what is known of it need not be loaded to be seen again"
    status, answer = await load(cluster, content(1), "lazy", allow_no_effect=True)
    assert (status, set(answer["instances"].values())) == (200, {"loaded"})
    assert cluster.inventory.registry.adapters["lazy"].current.allow_no_effect


async def test_other_flags_of_the_engine_are_another_question(cluster: FakeCluster, content: Content) -> None:
    """A spare with new flags is asked anew, and what it says does not hold for those with the old ones."""
    await load(cluster, content(1))
    spare = cluster.add()
    spare.agent._settings = 1
    spare.target.numbers_of["a"] = "base"
    await spare.agent.sync()
    assert list(spare.agent.held.refused) == ["a"] and spare.target.held == {}
    again = cluster.add()
    await again.agent.sync()
    assert again.target.held.keys() == {"a"}


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        (None, "serve nothing that tells"),
        (ProbeFailed("503 no room", 503), "too busy"),
        (ProbeFailed("500 broken without it too", 500), "too busy"),
        (ProbeFailed("no answer in 60 s", slow=True), "too busy"),
    ],
)
async def test_what_could_not_be_asked_is_told(
    cluster: FakeCluster, content: Content, numbers: Any, told: str
) -> None:
    for worker in cluster.workers:
        worker.target.numbers_of["base"] = numbers
    status, answer = await load(cluster, content(1))
    assert status == 200 and [told in text for text in answer["unchecked"]] == [True]
    assert cluster.numbers("a") == [1, 1, 1]


@pytest.mark.parametrize(
    ("numbers", "told"),
    [(NotNumbers("NaN"), "no number"), (ProbeFailed("/v1/completions: 500 boom", 500), "cannot answer with it: /v1")],
)
async def test_one_that_a_worker_cannot_answer_with_is_on_none(
    cluster: FakeCluster, content: Content, numbers: Any, told: str
) -> None:
    for worker in cluster.workers:
        worker.target.numbers_of["a"] = numbers
    error = await refusal(load(cluster, content(1)))
    assert told in str(error) and cluster.held() == [{}, {}, {}]


async def test_a_worker_that_dies_when_it_is_asked_is_skipped(cluster: FakeCluster, content: Content) -> None:
    async def die(name: str, path: str) -> str | None:
        cluster.workers[0].target.on_load = None
        cluster.workers[0].die()
        return None

    cluster.workers[0].target.on_load = die
    assert (await load(cluster, content(1)))[0] == 200
    assert cluster.numbers("a")[1:] == [1, 1]


async def test_one_that_could_not_be_asked_for_is_not_left_on_the_worker(
    cluster: FakeCluster, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def survives(*_: object) -> bool:
        return True

    monkeypatch.setattr(cluster.rollouts, "_survives", survives)
    for worker in cluster.workers:
        worker.target.numbers_of["a"] = ProbeFailed("connection reset")
    assert (await refusal(load(cluster, content(1)))).status == 502
    assert cluster.held() == [{}, {}, {}]


async def test_zeros_are_refused_before_a_worker_sees_them(cluster: FakeCluster, content: Content) -> None:
    weights = Path(content(1)) / "adapter_model.safetensors"
    raw = weights.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    weights.write_bytes(raw[:start] + bytes(len(raw) - start))
    assert "has no effect" in str(await refusal(load(cluster, content(1))))
    assert cluster.seen == []
    assert (await load(cluster, content(1), allow_no_effect=True))[0] == 200


async def test_workers_without_lora_are_given_none(cluster: FakeCluster, content: Content) -> None:
    cluster.plan(spec=replace(cluster.revisions.latest.spec, extra_args=("--no-enable-lora",)))
    assert "--no-enable-lora" in str(await refusal(load(cluster, content(1))))
    assert cluster.seen == []


async def test_flags_that_leave_a_part_of_it_away_are_named(cluster: FakeCluster, content: Content) -> None:
    cluster.plan(spec=replace(cluster.revisions.latest.spec, extra_args=("--lora-target-modules", "q_proj", "o_proj")))
    error = await refusal(load(cluster, content(1)))
    assert error.status == 400 and "model.layers.*.mlp.up_proj (4)" in str(error)
    assert "it would use model.layers.*.self_attn.k_proj (4)" in str(error), "packed with q_proj, it is adapted too"
    assert cluster.seen == []


async def test_what_an_agent_does_is_known_to_who_looks_for_hangs(cluster: FakeCluster, content: Content) -> None:
    seen: list[tuple[bool, int]] = []

    async def look(name: str, path: str) -> str | None:
        seen.append(cluster.agents.activity("instance_0"))
        return None

    cluster.workers[0].target.on_load = look
    await load(cluster, content(1))
    assert seen == [(True, 0)] and cluster.agents.activity("instance_0") == (False, 1)
    refuse(cluster.workers[0])
    await refusal(load(cluster, content(2), "b"))
    assert cluster.agents.activity("instance_0") == (False, 2)
    assert cluster.agents.activity("backend_0") == (False, 0)
