"""What lies where in a state directory, and sockets below paths of any length."""

from __future__ import annotations

import os
import pwd
import re
import socket
import stat
from pathlib import Path

import pytest

from config.errors import UsageError
from config.paths import StateDir, default_state_dir, short_socket_path


def _deep(root: Path) -> Path:
    deep = root
    while len(os.fsencode(deep)) < 200:
        deep = deep / ("d" * 40)
    deep.mkdir(parents=True)
    return deep


def test_naming_a_state_directory_touches_nothing(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "s")
    assert state.database.parent == state.log("x").parent.parent == state.root
    assert not state.root.exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_state_directory_is_private_to_its_user(tmp_path: Path, umask: int) -> None:
    state = StateDir(tmp_path / "a" / "s")
    before = os.umask(umask)
    try:
        state.create()
    finally:
        os.umask(before)
    for folder in (state.root, state.logs, state.runs, state.work, state.adapters):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(state.root.parent.stat().st_mode) & 0o022 == 0
    state.create()  # a second time is no error


def test_a_folder_that_somebody_else_made_keeps_its_mode(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / "lost+found").mkdir()
    state.create()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE(state.logs.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["README.md", ".git", "src", "state", "lock.txt"])
def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    tmp_path.chmod(0o755)
    with pytest.raises(UsageError, match=rf"holds files that are not a cluster's \({re.escape(name)}\): name an empty"):
        StateDir(tmp_path).create()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_other_files_beside_a_state_are_nobodys_business(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.create()
    state.database.touch()
    (tmp_path / "notes.txt").touch()
    state.create()


def test_what_a_killed_start_leaves_is_not_foreign(tmp_path: Path) -> None:
    """Each name of ours, without the database."""
    state = StateDir(tmp_path)
    state.create()
    files = [state.lock, state.launch, state.control, state.counters, state.strategy, state.link("lb-1")]
    names = ["counters-1.bin", "attempts-1.bin", "history.bin", "history-2.bin", "lb-1.sock.fd"]
    names += ["balancer.json", "balancer-1.json"]
    for path in (*files, *map(tmp_path.joinpath, names), tmp_path / "state.db.new-x", tmp_path / "state.db.v1"):
        path.touch()
    state.create()


def test_a_state_directory_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        StateDir(tmp_path / "file" / "s").create()


def test_no_two_things_share_a_name(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    names = [state.lock, state.database, state.control, state.launch, state.counters]
    names += [state.logs, state.runs, state.work]
    assert len({*names, state.link("lb-1")}) == 9


def test_a_short_path_is_used_as_it_is() -> None:
    assert short_socket_path(Path("/run/x.sock")) == "/run/x.sock"


@pytest.mark.parametrize(("length", "as_is"), [(107, True), (108, False)])
def test_the_limit_is_107_bytes(tmp_path: Path, length: int, as_is: bool) -> None:
    path = tmp_path / ("n" * (length - len(os.fsencode(tmp_path)) - 1))
    assert len(os.fsencode(path)) == length
    assert (short_socket_path(path) == str(path)) is as_is


def test_the_limit_counts_bytes_and_not_characters(tmp_path: Path) -> None:
    path = tmp_path / ("é" * ((108 - len(os.fsencode(tmp_path))) // 2 + 1))
    assert len(short_socket_path(path)) != len(str(path))


def test_a_socket_in_a_deep_folder_can_be_bound_and_found_there(tmp_path: Path) -> None:
    path = _deep(tmp_path) / "x.sock"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(short_socket_path(path))
        server.listen()
        client.connect(short_socket_path(path))
        assert path.is_socket()


def test_each_port_has_a_state_directory_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_dir(8000) == tmp_path / "clusterctl" / "port-8000"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_dir(8001) == tmp_path / ".local" / "state" / "clusterctl" / "port-8001"
    for relative in ("", "state", "./state"):  # the XDG specification: relative ones are ignored
        monkeypatch.setenv("XDG_STATE_HOME", relative)
        assert default_state_dir(8001) == tmp_path / ".local" / "state" / "clusterctl" / "port-8001"


def test_without_home_the_user_database_is_asked_and_without_that_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    expected = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".local/state/clusterctl/port-1"
    for value in (None, ""):
        monkeypatch.setenv("HOME", value) if value is not None else monkeypatch.delenv("HOME")
        assert default_state_dir(1) == expected
    monkeypatch.setattr(os, "getuid", lambda: 3_000_000_000)
    with pytest.raises(UsageError, match=r"user 3000000000 has no home directory .*--state-dir or CLUSTERCTL"):
        default_state_dir(1)
    monkeypatch.setenv("HOME", "relative")
    with pytest.raises(UsageError, match="no home directory"):
        default_state_dir(1)
