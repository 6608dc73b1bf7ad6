"""What a shutdown ends while workers still drain, and what it no longer starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakedriver import FakeHandle
from inprocess import running, until
from worker.spec import WorkerSpec


async def test_jobs_are_asked_to_end_while_the_cluster_still_answers_who_follows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path / "state", monkeypatch, instances=1) as cluster:
        await cluster.settled(1)
        parts = cluster.parts
        serving: list[list[str]] = []
        monkeypatch.setattr(parts.jobs, "end_all", lambda: serving.append(list(parts.fleet.instances)))

        async def ended() -> bool:
            return bool(serving)

        parts.supervisor.shut_down()
        parts.supervisor.shut_down(now=True)
        await until(ended)
        assert serving == [["instance_0"]]


async def test_one_that_only_ends_what_another_left_starts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path / "state", monkeypatch, instances=3) as cluster:
        cluster.parts.supervisor.shut_down()  # before its first round

        async def ended() -> bool:
            return cluster.parts.fleet.intent.desired.shutting_down and not cluster.parts.fleet.instances

        await until(ended)
        assert cluster.engines.started == []


async def test_what_comes_while_many_are_started_does_not_wait_for_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path / "state", monkeypatch, instances=12) as cluster:
        engines, supervisor = cluster.engines, cluster.parts.supervisor

        def starting(spec: WorkerSpec, handle: FakeHandle) -> None:
            cluster.clock.advance(0.2)
            if len(engines.started) == 4:  # in the second round: what the first had no time for
                supervisor.shut_down(now=True)

        engines.on_start = starting

        async def ended() -> bool:
            return cluster.parts.fleet.intent.desired.shutting_down and not cluster.parts.fleet.instances

        await until(ended)
        assert 4 <= len(engines.started) <= 6
