from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.identity import admin_token
from config.identity.principal import Principal
from config.paths import StateDir
from lb.admission.access import sessions
from lb.admission.access.credentials import Credentials
from lb.admission.access.keys import KeyRing
from lb.admission.access.links import LINK_S, Links
from lb.admission.access.sessions import SESSION_S

KEY = sessions.secret("token", None)


def test_a_session_is_good_until_it_says() -> None:
    session = sessions.issue(KEY, "nonce", 1000.5)
    assert sessions.is_valid(KEY, session, 1000.5) and sessions.is_valid(KEY, session, 1000.5 + SESSION_S - 1)
    assert not sessions.is_valid(KEY, session, 1000.5 + SESSION_S)


def test_another_token_or_admin_key_ends_it() -> None:
    session = sessions.issue(KEY, "nonce", 0.0)
    for other in (sessions.secret("other", None), sessions.secret("token", "key"), sessions.secret("", None)):
        assert not sessions.is_valid(other, session, 1.0)


@given(st.text(max_size=100))
def test_nothing_that_was_not_issued_is_one(text: str) -> None:
    assert not sessions.is_valid(KEY, text.encode(errors="replace").decode(), 0.0)


@given(st.integers(0, 90), st.characters(codec="ascii"))
def test_a_session_that_was_changed_is_none(place: int, character: str) -> None:
    session = sessions.issue(KEY, "nonce", 0.0)
    changed = session[:place] + character + session[place + 1 :]
    assert sessions.is_valid(KEY, changed, 0.0) == (changed == session)


def test_a_code_works_once(tmp_path: Path) -> None:
    links = Links(tmp_path / "links")
    code = links.new(_now(tmp_path))
    assert oct((tmp_path / "links").stat().st_mode)[-3:] == "700"
    assert [code not in file.name for file in (tmp_path / "links").iterdir()] == [True]
    assert [links.use(code, _now(tmp_path)) for _ in range(2)] == [True, False]
    assert list((tmp_path / "links").iterdir()) == []


def test_one_of_many_at_once_gets_it(tmp_path: Path) -> None:
    code = Links(tmp_path / "links").new(_now(tmp_path))
    with ThreadPoolExecutor(16) as pool:
        used = list(pool.map(lambda _: Links(tmp_path / "links").use(code, _now(tmp_path)), range(64)))
    assert used.count(True) == 1


def test_an_old_code_is_used_up_and_old_files_go(tmp_path: Path) -> None:
    links, now = Links(tmp_path / "links"), _now(tmp_path)
    old, older = links.new(now), links.new(now)
    assert not links.use(old, now + LINK_S + 1) and not links.use(old, now)
    for file in (tmp_path / "links").iterdir():
        os.utime(file, (now - LINK_S - 1,) * 2)
    links.new(now)
    assert len(list((tmp_path / "links").iterdir())) == 1 and not links.use(older, now)


@pytest.mark.parametrize("code", ["", ".", "..", "../admin.token", "/etc/passwd", "\0", "x" * 5000, "\udcff"])
def test_no_other_file_can_be_named(tmp_path: Path, code: str) -> None:
    (tmp_path / "admin.token").touch()
    assert not Links(tmp_path / "links").use(code, 0.0)
    assert (tmp_path / "admin.token").exists()


@pytest.mark.parametrize("key", [None, "key"])
def test_a_link_becomes_a_session_with_and_without_an_admin_key(tmp_path: Path, key: str | None) -> None:
    state = StateDir(tmp_path)
    admin_token.ensure(state.admin_token)
    one, other = Credentials(key, state, KeyRing()), Credentials(key, state, KeyRing())
    session = other.redeem(one.new_link())
    assert session is not None
    assert _name(one.principal(session)) == _name(other.principal(session)) == "session"
    assert Credentials("another", state, KeyRing()).principal(session) is None
    state.admin_token.unlink()
    assert one.principal(session) is None and one.redeem(one.new_link()) is None


@pytest.mark.parametrize("bearer", ["", " ", "schlüssel", "\udcff", "\0", "x" * 100_000])
def test_no_bearer_is_an_error_of_ours(tmp_path: Path, bearer: str) -> None:
    state = StateDir(tmp_path)
    admin_token.ensure(state.admin_token)
    assert Credentials(None, state, KeyRing()).principal(bearer) is None
    assert Credentials("key", state, KeyRing()).principal(bearer) is None


def _name(found: Principal | None) -> str:
    return found.name if found else ""


def _now(folder: Path) -> float:
    """As the file system has it, whose clock ticks a little later."""
    (folder / "clock").touch()
    return (folder / "clock").stat().st_mtime
