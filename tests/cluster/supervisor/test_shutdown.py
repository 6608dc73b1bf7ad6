"""What a shutdown ends while workers still drain."""

from __future__ import annotations

from pathlib import Path

import pytest

from inprocess import running, until


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
