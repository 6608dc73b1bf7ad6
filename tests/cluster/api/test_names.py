"""Routes and aliases over the API: each kind changes its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inprocess import MODEL, InProcess, running

ROUTE = {"rules": [{"keywords": ["bill"], "model": MODEL}], "default": MODEL}
ALIAS = {"sides": {MODEL: 1}}
BODIES: dict[str, dict[str, Any]] = {"routes": ROUTE, "aliases": ALIAS}


async def _change(cluster: InProcess, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    return await cluster.balancer.answer(method, f"/v1/cluster/{path}", json=body or {})


async def test_what_is_deleted_or_put_back_is_of_the_kind_that_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path / "state", monkeypatch, instances=1) as cluster:
        await cluster.settled(1)
        for kind, other in (("routes", "aliases"), ("aliases", "routes")):
            name = f"of-{kind}"
            assert (await _change(cluster, "PUT", f"{kind}/{name}", BODIES[kind]))[0] == 200
            for method, path in (("DELETE", f"{other}/{name}"), ("POST", f"{other}/{name}/undo")):
                status, answer = await _change(cluster, method, path)
                assert (status, answer["error"]["param"]) == (404, "name")
            assert name in (await _change(cluster, "GET", kind))[1][kind]
            assert (await _change(cluster, "DELETE", f"{kind}/{name}"))[1]["now"] is None
            assert (await _change(cluster, "POST", f"{other}/{name}/undo"))[0] == 404
            assert (await _change(cluster, "POST", f"{kind}/{name}/undo"))[1]["now"] is not None


async def test_an_undo_of_either_kind_puts_a_route_back_that_an_alias_took_the_place_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path / "state", monkeypatch, instances=1) as cluster:
        await cluster.settled(1)
        for kind in ("routes", "aliases"):
            assert (await _change(cluster, "PUT", f"{kind}/x", BODIES[kind]))[0] == 200
        status, answer = await _change(cluster, "POST", "aliases/x/undo")
        assert status == 200 and "rules" in answer["now"]
        assert "sides" in (await _change(cluster, "POST", "routes/x/undo"))[1]["now"]
