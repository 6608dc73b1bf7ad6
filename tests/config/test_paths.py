"""What lies where in a state directory, and sockets below paths of any length."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

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


def test_a_state_directory_is_private_to_its_user(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "a" / "s")
    state.root.mkdir(parents=True, mode=0o755)
    state.create()
    for folder in (state.root, state.logs, state.runs, state.work):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    state.create()  # a second time is no error


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
