"""The audit over a whole cluster: who, when, from where, before and after; and no secret."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.api import audit
from cluster.storage.store import NotSaved, Store
from inprocess import InProcess, running, until
from lb.records import refusals

AUDIT = "/v1/cluster/audit"


async def _entries(cluster: InProcess, query: str = "") -> list[dict[str, Any]]:
    status, found = await cluster.balancer.answer("GET", AUDIT + query)
    assert status == 200, found
    return list(reversed(found["entries"]))


async def test_every_change_is_there_with_who_when_from_where_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_TOGETHER_S", 0.0)
    async with running(tmp_path / "state", monkeypatch, instances=1, max_instances=3) as cluster:
        await cluster.settled(1)
        assert (await cluster.post("/v1/cluster/scale", {"instances": 2}))[0] == 202
        assert (await cluster.post("/v1/cluster/scale", {"instances": 99}))[0] == 409
        _, made = await cluster.post("/v1/cluster/keys", {"name": "boss", "scope": "admin"})
        boss = {"x-api-key": made["secret"]}
        for path, body in (
            ("/v1/cluster/strategy", {"strategy": "random"}),
            ("/v1/cluster/apply", {"settings": {"queue_timeout": 7}}),
            ("/v1/cluster/apply", {"settings": {"admin_key": "of the owner alone"}}),
            ("/v1/cluster/keys/boss/rotate", {"grace": "1h"}),
        ):  # fmt: skip
            await cluster.balancer.answer("POST", path, json=body, headers=boss)
        scaled, refused, key, strategy, applied, guarded, turned = await _entries(cluster)
        assert abs(scaled["at"] - time.time()) < 60 and scaled["from"] == "127.0.0.1"
        assert (scaled["who"], scaled["method"], scaled["path"]) == ("owner", "POST", "/v1/cluster/scale")
        assert scaled["changed"] == [{"what": "instances of default", "before": 1, "after": 2}]
        assert (refused["status"], refused["changed"]) == (409, [])
        (change,) = key["changed"]
        assert (change["what"], change["before"]) == ("key boss", None)
        assert (change["after"]["scope"], change["after"]["digests"]) == ("admin", 1)
        assert (strategy["who"], strategy["changed"][0]["after"]) == ("boss", "random")
        assert applied["changed"] == [{"what": "setting queue_timeout", "before": 30.0, "after": 7.0}]
        assert (guarded["who"], guarded["status"], guarded["changed"]) == ("boss", 403, [])
        assert turned["changed"][0]["after"]["digests"] == 2
        assert made["secret"] not in json.dumps(await _entries(cluster))
        assert "of the owner alone" not in json.dumps(await _entries(cluster))

        _, page = await cluster.balancer.answer("GET", f"{AUDIT}?limit=2&before={turned['id']}&verify=1")
        assert [one["id"] for one in page["entries"]] == [guarded["id"], applied["id"]] and page["broken_at"] is None
        for query in ("?limit=0", "?limit=x", "?limit=1001", "?limit=٣", "?before=-1"):
            assert (await cluster.balancer.answer("GET", AUDIT + query))[0] == 400


async def test_who_is_refused_is_there_and_cannot_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "_TOGETHER_S", 0.0)
    monkeypatch.setattr("lb.control.link._REPORT_EVERY", 0.02)
    async with running(tmp_path / "state", monkeypatch, instances=1) as cluster:
        await cluster.settled(1)
        _, made = await cluster.post("/v1/cluster/keys", {"name": "team"})
        _, looks = await cluster.post("/v1/cluster/keys", {"name": "looks", "scope": "read"})
        for key in (made, looks):
            assert (await cluster.balancer.answer("GET", AUDIT, headers={"x-api-key": key["secret"]}))[0] == 403
        status, _ = await cluster.balancer.answer(
            "POST", "/v1/completions", json={"model": "demo", "prompt": "x"}, headers={"x-api-key": "cck_nobodys"}
        )
        assert status == 401

        async def told() -> list[dict[str, Any]]:
            return [one for one in await _entries(cluster) if one.get("path") == "/v1/completions"]

        (entry, *_) = await until(told)
        assert (entry["status"], entry["from"], entry["count"]) == (401, "127.0.0.1", 1) and "key" in entry["reason"]
        assert "nobodys" not in json.dumps(await _entries(cluster))


async def test_where_it_cannot_be_written_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path / "state", monkeypatch, instances=1) as cluster:
        await cluster.settled(1)

        async def full(self: Store, records: object) -> None:
            raise NotSaved("the disk is full")

        monkeypatch.setattr(Store, "append_audit", full)
        assert (await cluster.post("/v1/cluster/strategy", {"strategy": "random"}))[0] == 200
        _, events = await cluster.balancer.answer("GET", "/v1/cluster/events")
        assert "audit.unsaved" in [event["kind"] for event in events["events"]]


async def test_what_is_changed_below_a_path_is_not_laid_at_anothers_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path / "state", monkeypatch, instances=1) as cluster:
        await cluster.settled(1)
        auditor, fleet = cluster.parts.auditor, cluster.parts.fleet
        before = {path: auditor._values(audit._about(path)) for path in ("/v1/cluster/strategy", "/v1/new")}
        fleet.intent.scale(2)
        fleet.intent.strategy, fleet.intent.weights["instance_0"] = "random", 3
        found = {
            path: [one["what"] for one in audit._differences(values, auditor._values(audit._about(path)))]
            for path, values in before.items()
        }
        assert found == {
            "/v1/cluster/strategy": ["strategy"],
            "/v1/new": ["instances of default", "strategy", "weight of instance_0"],
        }
