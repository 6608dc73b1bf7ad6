"""API keys in the state file, and on their way to another machine."""

from __future__ import annotations

import contextlib
import io
import sqlite3
from pathlib import Path

import pytest

from cluster.storage import schema, transfer
from cluster.storage.store import Store
from cluster.storage.transfer import Contents, Incoming
from config.errors import UsageError
from config.identity.api_keys import ApiKey, Digest
from config.identity.principal import Scope
from config.paths import StateDir

ONE = ApiKey("one", digests=(Digest("a" * 64),), models=("m",), rpm=5)
LOOKS = ApiKey("looks", Scope.READ, (Digest("b" * 64), Digest("c" * 64, 5.0)))


async def test_what_was_saved_is_there_for_who_comes_after(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "s.db")
    await store.save_keys([LOOKS])
    assert await store.get("keyed") is None, "nobody asks models with that one"
    await store.save_keys([ONE])
    await store.close()
    store = await Store.open(tmp_path / "s.db")
    assert {key.name: key for key in await store.keys()} == {"one": ONE, "looks": LOOKS}
    await store.save_keys([], ["one", "nobody"])
    assert (await store.keys(), await store.get("keyed")) == ([LOOKS], True)
    await store.close()


async def test_a_state_of_before_there_were_keys_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await (await Store.open(path)).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE audit; DROP TABLE keys; PRAGMA user_version = 2")
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert transfer.contents(db).keys == ()
    store = await Store.open(path)
    await store.save_keys([ONE])
    assert await store.keys() == [ONE]
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == schema.SCHEMA


def _exported(keys: tuple[ApiKey, ...]) -> io.BytesIO:
    out = io.BytesIO()
    transfer.write(Contents(1, {}, None, (), keys), out)
    out.seek(0)
    return out


async def test_they_go_to_another_machine_and_replace_what_is_there(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.create()
    store = await Store.open(state.database)
    await store.save_keys([ApiKey("old", digests=(Digest("d" * 64),))])
    with contextlib.closing(Incoming(_exported((ONE, LOOKS)), state)) as incoming:
        assert incoming.contents.keys == (ONE, LOOKS)
        await transfer.bring_in(store, incoming.contents)
    assert {key.name for key in await store.keys()} == {"one", "looks"} and await store.get("keyed")
    await store.close()
    assert "API keys: looks, one" in list(transfer.words(Contents(1, {}, None, (), (ONE, LOOKS))))


def test_an_export_without_keys_is_what_a_clusterctl_of_before_reads() -> None:
    assert b"keys" not in _exported(()).getvalue()


@pytest.mark.parametrize("keys", [(ONE, ONE), (ApiKey("bad"),)])
def test_what_is_no_key_is_not_brought_in(tmp_path: Path, keys: tuple[ApiKey, ...]) -> None:
    state = StateDir(tmp_path)
    state.create()
    with pytest.raises(UsageError, match="key"):
        Incoming(_exported(keys), state)
