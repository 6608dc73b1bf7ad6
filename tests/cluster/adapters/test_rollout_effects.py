"""Adapters that are loaded when they are asked for, and those that change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapterchanges import Content, load, refusal, refuse, settle
from adapterfakes import FakeCluster
from config.settings import load as settings
from worker.probe import NotNumbers, ProbeFailed

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
