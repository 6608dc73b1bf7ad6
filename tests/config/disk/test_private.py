"""Who else could change what lies in a state directory, and what is never followed in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from config.disk import private
from config.errors import UsageError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="files are given to other users")

#: A user that no machine has, and one that every machine has.
OTHER, NOBODY = 54321, 65534


def _tree(tmp_path: Path) -> Path:
    folder = tmp_path / "a" / "b" / "s"
    folder.mkdir(parents=True)
    for part in (folder, *folder.parents[:2]):
        part.chmod(0o755)
    return folder


def _refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as error:
        private.require(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_of_ours_below_roots_and_ours_is_fine(tmp_path: Path) -> None:
    private.require(_tree(tmp_path))
    private.require(tmp_path / "not" / "there" / "yet")


@pytest.mark.parametrize("mode", [0o777, 0o757])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_everybody_may_write_in_is_refused_at_any_height(tmp_path: Path, mode: int, level: int) -> None:
    folder = _tree(tmp_path)
    wide = (folder, *folder.parents)[level]
    wide.chmod(mode)
    assert f"everybody may write in {wide}: chmod go-w {wide}" in _refusal(folder)
    if level:
        assert f"{wide}: chmod" in _refusal(folder / "not" / "there"), "nor is anything made there"
        wide.chmod(mode | stat.S_ISVTX)
        private.require(folder)


def test_a_sticky_folder_is_no_state_directory_itself(tmp_path: Path) -> None:
    """Whoever was there first would have made our files."""
    folder = _tree(tmp_path)
    folder.chmod(0o1777)
    assert "everybody may write" in _refusal(folder)


@needs_root
@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_belongs_to_another_user_is_refused_with_the_way_out(tmp_path: Path, level: int) -> None:
    folder = _tree(tmp_path)
    foreign = (folder, *folder.parents)[level]
    os.chown(foreign, NOBODY, -1)
    said = _refusal(folder)
    assert f"{foreign} belongs to nobody" in said
    assert "sudo -u nobody" in said and "--state-dir" in said


@needs_root
def test_roots_folder_is_no_state_directory_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _tree(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    assert f"{folder} belongs to root; name another --state-dir" in _refusal(folder)
    os.chown(folder, OTHER, -1)
    private.require(folder)


@needs_root
def test_a_group_counts_if_somebody_else_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many systems give each user a group of their own and a umask of 002."""
    folder = _tree(tmp_path)
    folder.parent.chmod(0o775)
    os.chown(folder.parent, 0, OTHER)
    private.require(folder)
    monkeypatch.setattr(private, "_members", lambda group: {0, NOBODY} if group == OTHER else set())
    assert f"group {OTHER} (nobody) may write in {folder.parent}: chmod g-w {folder.parent}" in _refusal(folder)


def test_the_members_of_a_group_are_those_of_both_databases() -> None:
    assert 0 in private._members(0)
    assert private._members(3_000_000_000) == set()


def test_a_link_to_a_folder_of_ours_is_followed(tmp_path: Path) -> None:
    folder = _tree(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "relative").symlink_to("./a/../a/b")
    private.require(tmp_path / "link")
    private.require(tmp_path / "relative" / "s")
    folder.parent.chmod(0o777)
    for path in (tmp_path / "link", tmp_path / "relative" / "s", tmp_path / "relative" / ".." / "b" / "s"):
        assert f"everybody may write in {folder.parent}" in _refusal(path)


@needs_root
def test_a_link_of_somebody_else_is_not(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(_tree(tmp_path))
    os.lchown(tmp_path / "link", NOBODY, -1)
    assert f"{tmp_path / 'link'} belongs to nobody" in _refusal(tmp_path / "link")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(OSError, match="symbolic links"):
        private.require(tmp_path / "one" / "s")


def test_a_user_that_only_exists_outside_our_user_namespace_is_root_or_nobody_we_could_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
    read = Path.read_text

    def mapped(text: str) -> None:
        def fake(path: Path, *args: str) -> str:
            return text if str(path) == "/proc/self/uid_map" else read(path, *args)

        monkeypatch.setattr(Path, "read_text", fake)

    mapped("0 0 4294967295\n")
    assert not private._trusted(overflow)
    mapped("0 100000 65536\n")
    assert private._trusted(overflow)
    assert not private._trusted(OTHER)


def test_no_link_is_followed_and_no_device_is_opened(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    for mode in ("rb", "ab", "r+b", "wb"):
        with pytest.raises(OSError, match="symbolic link"):
            private.open_file(tmp_path / "link", mode)
    for name, why in (("pipe", "not a regular file"), (".", "not a regular file|directory")):
        with pytest.raises(OSError, match=why):
            private.open_file(tmp_path / name)
    assert target.read_bytes() == b"mine"
    with private.open_file(tmp_path / "new", "ab") as file:
        file.write(b"x")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    assert private.read(tmp_path / "new") == b"x"
