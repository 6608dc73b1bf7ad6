"""Which models a supervisor begins with: those of the configuration, and those that were loaded later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.storage.store import Store
from cluster.supervisor import runtime
from config.settings import load


@pytest.mark.parametrize(
    ("adopt", "configured", "expected"),
    [
        (False, ("a", "b"), {"a", "b", "later"}), (False, ("b",), {"b", "later"}), (False, (), {"later"}),
        (True, ("b",), {"a", "later", "going"}),
    ],
)  # fmt: skip
async def test_the_file_says_which_at_a_start_and_the_state_when_they_are_adopted(
    tmp_path: Path, adopt: bool, configured: tuple[str, ...], expected: set[str]
) -> None:
    store = await Store.open(tmp_path / "state.db")
    try:
        before = load({"engine": "sim", "models": {"a": "demo"}})
        kept: dict[str, Any] = {name: {"path": "demo"} for name in ("a", "later")}
        await store.put(models=kept, leaving_models={"going": {"path": "demo"}}, settings=before.to_json())
        settings = load({"engine": "sim", "models": dict.fromkeys(configured, "demo")})
        plans = await runtime._models(settings, store, adopt)
    finally:
        await store.close()
    assert {plan.group for plan in plans} == expected
    assert {plan.group for plan in plans if plan.leaving} == expected & {"going"}


@pytest.mark.parametrize("adopt", [False, True])
async def test_one_whose_files_are_gone_keeps_no_cluster_from_starting(tmp_path: Path, adopt: bool) -> None:
    store = await Store.open(tmp_path / "state.db")
    try:
        await store.put(models={"later": {"path": str(tmp_path / "gone")}}, settings=json.dumps({}))
        (plan,) = await runtime._models(load({"engine": "sim"}), store, adopt)
    finally:
        await store.close()
    assert "no such file or folder" in plan.broken


async def test_a_state_of_before_there_were_models_has_none(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "state.db")
    try:
        assert [await runtime._models(load({"engine": "sim"}), store, adopt) for adopt in (False, True)] == [[], []]
    finally:
        await store.close()
