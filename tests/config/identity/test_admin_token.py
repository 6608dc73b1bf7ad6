from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from config.identity import admin_token


def test_it_is_random_private_and_kept(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        admin_token.ensure(path)
    found = admin_token.read(one)
    assert found is not None and len(found) == 43 and found != admin_token.read(other)
    assert stat.S_IMODE(one.stat().st_mode) == 0o600 and one.stat().st_nlink == 1
    admin_token.ensure(one)
    assert admin_token.read(one) == found


@pytest.mark.parametrize("content", ["", "\n", "short", "x" * 44, "ä" * 43, "x" * 10_000])
def test_what_is_no_token_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(0o600)
    assert admin_token.read(path) is None
    admin_token.ensure(path)
    assert admin_token.read(path) is not None


def test_a_link_is_neither_followed_nor_written_through(tmp_path: Path) -> None:
    """Somebody who may write in the folder could have put it there."""
    real, link = tmp_path / "real", tmp_path / "token"
    admin_token.ensure(real)
    before = real.read_text()
    link.symlink_to(real)
    assert admin_token.read(link) is None
    admin_token.ensure(link)
    assert not link.is_symlink() and admin_token.read(link) not in (None, before.strip())
    assert real.read_text() == before


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o602, 0o610])
def test_one_that_others_know_does_not_count(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    admin_token.ensure(path)
    path.chmod(mode)
    assert admin_token.read(path) is None


def test_what_is_no_file_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert admin_token.read(tmp_path / "pipe") is None, "nor is anybody waited for"
    assert admin_token.read(tmp_path) is None
    assert admin_token.read(tmp_path / "nothing") is None
