"""What `state export` takes along that is no row of the database."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.cli.lifecycle.state import state_command
from cluster.storage.store import Store
from config.identity import admin_token
from config.paths import StateDir


def _state(folder: Path) -> StateDir:
    state = StateDir(folder)
    state.create()

    async def make() -> None:
        await (await Store.open(state.database)).close()

    asyncio.run(make())
    return state


def _run(*args: str) -> str:
    result = CliRunner().invoke(state_command, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("there_already", [False, True])
def test_agents_obey_where_a_state_was_brought_to(tmp_path: Path, there_already: bool) -> None:
    here, there, file = _state(tmp_path / "here"), _state(tmp_path / "there"), tmp_path / "export.tar"
    admin_token.ensure(here.agent_key)
    if there_already:
        admin_token.ensure(there.agent_key)
    _run("export", str(file), "--state-dir", str(here.root))
    _run("import", str(file), "--state-dir", str(there.root))
    assert admin_token.read(there.agent_key) == admin_token.read(here.agent_key) is not None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_state_without_agents_has_no_key_of_theirs(tmp_path: Path) -> None:
    here, there, file = _state(tmp_path / "here"), _state(tmp_path / "there"), tmp_path / "export.tar"
    _run("export", str(file), "--state-dir", str(here.root))
    assert b"agent_key" not in file.read_bytes()
    _run("import", str(file), "--state-dir", str(there.root))
    assert not there.agent_key.exists()


def test_what_is_imported_goes_where_the_next_up_will_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, file = _state(tmp_path / "here"), tmp_path / "there", tmp_path / "export.tar"
    _run("export", str(file), "--state-dir", str(here.root))
    monkeypatch.setenv("CLUSTERCTL_STATE_DIR", str(there))
    _run("import", str(file))
    assert StateDir(there).database.exists()
