"""A new adapter, and its next versions, over workers: on all or on none, one at a time, never half in the registry."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from adapterchanges import Content, load, refusal, refuse, settle
from adapterfakes import FakeCluster

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
