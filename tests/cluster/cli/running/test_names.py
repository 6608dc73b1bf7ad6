"""`alias` and `route`: what is asked of the cluster, and what is shown."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster.cli import cli
from inprocess import MODEL, InProcess, running

ROUTES = {
    "finance": {"rules": [{"keywords": ["账单"], "model": "expert-a"}, {"pattern": "^x+$", "model": "b"}],
                "default": MODEL},
}  # fmt: skip


async def _run(cluster: InProcess, *args: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, cli, [*args, "--url", cluster.balancer.url])


async def test_aliases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path / "state", monkeypatch, instances=1) as cluster:
        await cluster.settled(1)
        assert (await _run(cluster, "alias", "list")).output == "no aliases\n"
        assert (await _run(cluster, "alias", "set", "best", MODEL)).output == f"best: {MODEL} 1\n"
        assert (await _run(cluster, "alias", "list")).output == f"best: {MODEL} 1\n"
        assert f'"{MODEL}": 1.0' in (await _run(cluster, "alias", "list", "--json")).output
        assert await cluster.complete("best") == 200
        for wrong in ("none=1", "a=1,b=x", ""):
            assert (await _run(cluster, "alias", "set", "best", wrong)).exit_code != 0
        assert (await _run(cluster, "alias", "set", "best", MODEL, "--shadow")).exit_code != 0
        assert (await _run(cluster, "alias", "undo", "best")).output == "best is no alias any more\n"
        assert (await _run(cluster, "alias", "undo", "best")).output == f"best: {MODEL} 1\n"
        assert (await _run(cluster, "alias", "delete", "best")).output == "best is no alias any more\n"
        assert await cluster.complete("best") == 404


async def test_routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path / "state", monkeypatch, instances=1, routes=ROUTES) as cluster:
        await cluster.settled(1)
        for name, text, said in [
            ("finance", "我的账单", "expert-a: rule 1, keyword '账单'"), ("auto", "xx", "b: rule 2, pattern '^x+$'"),
            ("finance", "hello", f"{MODEL}: no rule fits"),
        ]:  # fmt: skip
            assert (await _run(cluster, "route", "test", name, text)).output == f"{said}\n"
        assert (await _run(cluster, "route", "test", "finanse", "x")).exit_code != 0
        shown = (await _run(cluster, "route", "list")).output
        assert shown == f"finance: 账单 -> expert-a; ^x+$ -> b; else {MODEL}\n"
