"""One supervisor a state directory, and looking for it changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.storage import lock
from config.errors import UsageError
from config.paths import StateDir


def test_who_holds_it_is_known_without_taking_it(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "s")
    assert not lock.held(state) and lock.pid(state) is None
    assert not state.root.exists()
    with lock.lock(state):
        assert lock.held(state) and lock.pid(state) == os.getpid()
        with pytest.raises(lock.Held, match=f"pid {os.getpid()}"):
            lock.lock(state)
    assert not lock.held(state)


@pytest.mark.parametrize("name", ["lock", "logs", "run", "adapters", "work"])
def test_a_link_in_the_place_of_something_of_ours_is_refused(tmp_path: Path, name: str) -> None:
    """Where it leads stays as it is."""
    state, target = StateDir(tmp_path / "s"), tmp_path / "target"
    if name == "lock":
        target.write_text("mine")
    else:
        target.mkdir(mode=0o777)
        target.chmod(0o777)
    state.root.mkdir(mode=0o700)
    (state.root / name).symlink_to(target)
    with pytest.raises(UsageError, match=r"symbolic link|everybody may write"):
        lock.lock(state)
    assert name != "lock" or target.read_text() == "mine"


def test_a_folder_that_may_not_be_written_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="state directory /proc/self/s: "):
        lock.lock(StateDir(Path("/proc/self/s")))
