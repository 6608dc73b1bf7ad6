"""Keys over a whole cluster: made through the balancer, kept by the supervisor, effective at once."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import Refused
from cluster.keys import file as key_file
from cluster.storage.store import NotSaved, Store
from config.errors import UsageError
from config.identity import api_keys
from inprocess import MODEL, InProcess, running, until

Start = Callable[..., AbstractAsyncContextManager[InProcess]]
KEYS = "/v1/cluster/keys"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setattr(key_file, "_EVERY_S", 0.02)
    return lambda **settings: running(tmp_path / "state", monkeypatch, instances=1, **settings)


async def _ask(cluster: InProcess, secret: str | None = None, model: str = MODEL) -> int:
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    status, _ = await cluster.balancer.answer(
        "POST", "/v1/completions", json={"model": model, "prompt": "x"}, headers=headers
    )
    return status


async def _change(cluster: InProcess, method: str, path: str, body: Any, secret: str | None = None) -> tuple[int, Any]:
    headers = {} if secret is None else {"x-api-key": secret}
    return await cluster.balancer.answer(method, path, json=body, headers=headers)


async def _make(cluster: InProcess, name: str, **fields: Any) -> str:
    status, made = await cluster.post(KEYS, {"name": name, **fields})
    assert status == 201, made
    return str(made["secret"])


async def test_from_the_first_key_on_every_request_needs_one_until_there_is_none(start: Start) -> None:
    async with start() as cluster:
        await cluster.settled(1)
        assert await _ask(cluster) == 200
        secret = await _make(cluster, "team")
        assert (await _ask(cluster), await _ask(cluster, secret), await _ask(cluster, "cck_x")) == (401, 200, 401)
        status, revoked = await _change(cluster, "DELETE", f"{KEYS}/team", None)
        assert (status, revoked) == (200, {"name": "team", "revoked": True})
        assert await _ask(cluster) == 200, "this is loopback, and there is none any more"
        assert (await _change(cluster, "DELETE", f"{KEYS}/team", None))[0] == 404


async def test_a_key_has_a_life(start: Start) -> None:
    async with start() as cluster:
        await cluster.settled(1)
        secret = await _make(cluster, "team", models=["else"], rpm=5, expires="30d")
        assert await _ask(cluster, secret) == 404
        status, seen = await _change(cluster, "PATCH", f"{KEYS}/team", {"models": None, "weight": 2})
        assert (status, seen["models"], seen["rpm"], seen["weight"]) == (200, None, 5, 2.0)
        assert await _ask(cluster, secret) == 200
        status, turned = await _change(cluster, "POST", f"{KEYS}/team/rotate", {"grace": "1h"})
        assert status == 200 and turned["secret"] != secret
        assert (await _ask(cluster, secret), await _ask(cluster, turned["secret"])) == (200, 200)
        status, last = await _change(cluster, "POST", f"{KEYS}/team/rotate", {"grace": 0})
        assert [await _ask(cluster, s) for s in (secret, turned["secret"], last["secret"])] == [401, 401, 200]
        status, seen = await cluster.balancer.answer("GET", f"{KEYS}/team")
        assert status == 200 and seen["source"] == "state" and len(seen["secrets"]) == 1 and "secret" not in seen
        assert (await cluster.balancer.answer("GET", KEYS))[1]["keys"] == [seen]
        await _change(cluster, "PATCH", f"{KEYS}/team", {"expires": 1.0})
        assert await _ask(cluster, last["secret"]) == 401 and await _ask(cluster) == 401, "an expired one is one, too"
        assert (await cluster.post(KEYS, {"name": "team"}))[0] == 409
        events = await cluster.balancer.answer("GET", "/v1/cluster/events")
        kinds = [event["kind"] for event in events[1]["events"] if event["kind"].startswith("key.")]
        assert kinds == ["key.created", "key.updated", "key.rotated", "key.rotated", "key.updated"]


async def test_an_administrator_makes_no_key_that_may_more(start: Start) -> None:
    async with start() as cluster:
        await cluster.settled(1)
        boss = await _make(cluster, "boss", scope="admin", models=[MODEL], rpm=10)
        wide = await _make(cluster, "wide", scope="admin")
        assert (await _change(cluster, "POST", KEYS, {"name": "a"}, boss))[0] == 403
        status, made = await _change(cluster, "POST", KEYS, {"name": "a", "models": [MODEL], "rpm": 5}, boss)
        assert status == 201 and await _ask(cluster, made["secret"]) == 200
        for method, path, body in (
            ("PATCH", f"{KEYS}/boss", {"rpm": 11}), ("PATCH", f"{KEYS}/boss", {"models": None}),
            ("PATCH", f"{KEYS}/a", {"rpm": None}), ("POST", f"{KEYS}/wide/rotate", {}),
            ("DELETE", f"{KEYS}/wide", None), ("PATCH", f"{KEYS}/wide", {"rpm": 1}),
        ):  # fmt: skip
            assert (await _change(cluster, method, path, body, boss))[0] == 403, (method, path)
        assert (await _change(cluster, "PATCH", f"{KEYS}/boss", {"rpm": 9}, boss))[0] == 200
        assert (await _change(cluster, "POST", f"{KEYS}/boss/rotate", {"grace": 0}, wide))[0] == 200
        assert (await _change(cluster, "GET", KEYS, None, boss))[0] == 401
        apply = {"settings": {"admin_key": "x"}}
        assert (await _change(cluster, "POST", "/v1/cluster/apply", apply, wide))[0] == 403, "that is the owner's"
        assert (await _change(cluster, "POST", "/v1/cluster/ui/link", {}, wide))[0] == 403


@pytest.mark.parametrize("body", [
    {}, {"name": ""}, {"name": "owner"}, {"name": "a", "more": 1}, {"name": "a", "rpm": "5"},
    {"name": "a", "models": "b"},
    {"name": "a", "digests": []}, {"name": "a", "scope": None}, {"name": "a", "weight": True},
])  # fmt: skip
async def test_what_is_no_key_is_refused_and_makes_none(start: Start, body: Any) -> None:
    async with start() as cluster:
        assert (await cluster.post(KEYS, body))[0] == 400
        assert (await cluster.balancer.answer("GET", KEYS))[1] == {"keys": []}


async def test_a_key_that_cannot_be_kept_is_none(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async with start() as cluster:
        await cluster.settled(1)

        async def full(*args: Any) -> None:
            raise NotSaved("the disk is full")

        monkeypatch.setattr(cluster.parts.store, "save_keys", full)
        status, said = await cluster.post(KEYS, {"name": "team"})
        assert status == 507 and "disk is full" in said["error"]["message"]
        assert await _ask(cluster) == 200


async def test_many_changes_at_once_are_one_after_the_other(start: Start) -> None:
    async with start() as cluster:
        await cluster.settled(1)
        made = await asyncio.gather(*(cluster.post(KEYS, {"name": "one"}) for _ in range(10)))
        assert sorted(status for status, _ in made) == [201] + [409] * 9
        secrets = await asyncio.gather(*(_make(cluster, f"k{n}") for n in range(20)))
        assert await asyncio.gather(*(_ask(cluster, secret) for secret in secrets)) == [200] * 20


async def test_what_is_kept_are_hashes(start: Start, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG)
    async with start() as cluster:
        await cluster.settled(1)
        secret = await _make(cluster, "team")
        assert await _ask(cluster, secret) == 200
        await cluster.post(f"{KEYS}/team/rotate", {})
        await _ask(cluster, secret)
    files = b"".join(file.read_bytes() for file in (tmp_path / "state").rglob("*") if file.is_file())
    assert secret.encode() not in files and secret not in caplog.text
    store = await Store.open(tmp_path / "state" / "state.db")
    (key,) = await store.keys()
    await store.close()
    assert (key.name, len(key.digests), key.digests[1].sha256 == api_keys.digest(secret)) == ("team", 2, True)


async def test_the_next_supervisor_knows_them(start: Start) -> None:
    async with start() as cluster:
        secret = await _make(cluster, "team")
    async with start() as cluster:
        await cluster.settled(1)
        assert (await _ask(cluster), await _ask(cluster, secret)) == (401, 200)
        await _change(cluster, "DELETE", f"{KEYS}/team", None)
    async with start() as cluster:
        await until(lambda: _is_told(cluster))
        assert cluster.balancer.parts.keys.keyed, "it is remembered that there has been one"


async def _is_told(cluster: InProcess) -> bool:
    return cluster.balancer.parts.keys.generation > 0


async def test_a_file_of_keys_is_read_again_when_it_changes(start: Start, tmp_path: Path) -> None:
    path, (secret, sha256), (second, other) = tmp_path / "keys.yaml", api_keys.mint(), api_keys.mint()
    path.write_text(f"git: {sha256}\n")
    async with start(api_keys=str(path)) as cluster:
        await cluster.settled(1)
        assert (await _ask(cluster), await _ask(cluster, secret)) == (401, 200)
        for method, where in (("DELETE", f"{KEYS}/git"), ("PATCH", f"{KEYS}/git"), ("POST", f"{KEYS}/git/rotate")):
            status, said = await _change(cluster, method, where, {} if method != "DELETE" else None)
            assert status == 409 and "--api-keys" in said["error"]["message"]
        assert (await cluster.post(KEYS, {"name": "git"}))[0] == 409
        path.write_text(f"git: [{sha256}\n")
        await until(lambda: _event(cluster, "key.unread"))
        assert await _ask(cluster, secret) == 200, "what it said before holds"
        path.unlink()
        await asyncio.sleep(0.1)
        assert await _ask(cluster, secret) == 200
        path.write_text(f"git: {other}\n")

        async def changed() -> bool:
            return await _ask(cluster, second) == 200

        await until(changed)
        assert await _ask(cluster, secret) == 401


async def _event(cluster: InProcess, kind: str) -> bool:
    _, found = await cluster.balancer.answer("GET", "/v1/cluster/events")
    return any(event["kind"] == kind for event in found["events"])


async def test_a_name_is_in_the_file_or_in_the_state(start: Start, tmp_path: Path) -> None:
    path, (_, sha256) = tmp_path / "keys.yaml", api_keys.mint()
    path.write_text("")
    async with start(api_keys=str(path)) as cluster:
        await _make(cluster, "team")
        with pytest.raises(UsageError, match="team"):
            cluster.parts.keys.check_file({"team": api_keys.ApiKey("team")})
    path.write_text(f"team: {sha256}\n")
    with pytest.raises(UsageError, match="team"):
        async with start(api_keys=str(path)):
            pass


async def test_a_start_without_a_file_that_can_be_read_is_none(start: Start, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"keys\.yaml"):
        async with start(api_keys=str(tmp_path / "keys.yaml")):
            pass


async def test_a_supervisor_that_takes_over_goes_by_what_a_broken_file_said(start: Start, tmp_path: Path) -> None:
    path, (secret, sha256) = tmp_path / "keys.yaml", api_keys.mint()
    path.write_text(f"git: {sha256}\n")
    async with start(api_keys=str(path)) as cluster:
        await cluster.settled(1)
        await cluster.parts.write_behind.flush()
        path.write_text("git: [")
        keys = cluster.parts.keys
        before = dict(keys.keys)
        keys.load([], [], False)
        await cluster.parts.bootstrap._load_keys(adopt=True)
        assert dict(keys.keys) == before and await _ask(cluster, secret) == 200


@pytest.mark.parametrize(("settings", "starts"), [
    ({"host": "0.0.0.0"}, False), ({"host": "0.0.0.0", "insecure": True}, True), ({"host": "::1"}, True),
    ({"host": "0.0.0.0", "admin_key": "k"}, True), ({"host": "my.machine"}, False), ({"host": "127.9.9.9"}, True),
])  # fmt: skip
async def test_a_cluster_that_is_open_to_the_world_has_to_be_meant_to(
    start: Start, settings: dict[str, Any], starts: bool
) -> None:
    try:
        async with start(**settings):
            assert starts
    except UsageError as error:
        assert not starts
        for remedy in ("CLUSTERCTL_ADMIN_KEY", "--api-keys", "key create", "--insecure"):
            assert remedy in str(error)


async def test_a_key_is_enough_to_listen_to_the_world(start: Start) -> None:
    async with start() as cluster:
        await _make(cluster, "team")
    async with start(host="0.0.0.0"):
        pass


async def test_there_is_an_end_to_how_many(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.keys.registry.MOST_KEYS", 2)
    async with start() as cluster:
        for name, status in (("a", 201), ("b", 201), ("c", 409)):
            assert (await cluster.post(KEYS, {"name": name}))[0] == status
        with pytest.raises(Refused):
            cluster.parts.keys.find("c")
        assert json.dumps(cluster.parts.keys.every())
