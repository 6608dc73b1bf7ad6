from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.identity.secret import clean
from config.settings import Settings, load
from config.sources.commands import own_admin_key, own_api_key
from config.topology import BackendSpec, BalancerConfig

BAD = ["   ", "\n", "se\ncret", "se\r\ncret", "se\tcret", "se\0cret", "se\x1b[1mcret", "se\u2028cret", "\ufeff",
       "secret\udcff", "se\x7fcret"]  # fmt: skip


@pytest.mark.parametrize("text", ["secret", " secret", "secret\n", "\tsecret \r\n", "\ufeffsecret", "\ufeff secret\n",
                                  "\u00a0secret\u3000"])  # fmt: skip
def test_white_space_around_it_is_no_part_of_it(text: str) -> None:
    assert clean(text) == "secret"


@pytest.mark.parametrize("text", BAD)
def test_what_no_header_can_carry_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        clean(text)
    assert "cret" not in str(refused.value)


@given(st.text())
def test_whatever_comes_out_can_be_sent(text: str) -> None:
    try:
        key = clean(text)
    except ValueError:
        return
    line = f"Authorization: Bearer {key}".encode()
    assert not set(line) & {*range(0x20), 0x7F} and clean(key) == key
    assert line.decode().partition("Bearer ")[2].strip() == key


@pytest.mark.parametrize("read", [own_admin_key, own_api_key])
def test_the_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch, read: object) -> None:
    from config.errors import UsageError

    assert callable(read)
    name = "CLUSTERCTL_ADMIN_KEY" if read is own_admin_key else "CLUSTERCTL_API_KEY"
    monkeypatch.setenv(name, "secret\n")
    assert read() == "secret"
    monkeypatch.setenv(name, "")
    assert read() is None
    for text in ("  ", "se\ncret", "se\x1bcret", "se\udcffcret"):
        monkeypatch.setenv(name, text)
        with pytest.raises(UsageError, match=name) as refused:
            read()
        assert "cret" not in str(refused.value)


def test_the_clusters_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from config.errors import UsageError

    for given_key, kept in (("secret\n", "secret"), ("  secret", "secret"), ("", None), ("schlüssel ", "schlüssel")):
        assert load({"admin_key": given_key}).admin_key == kept
    monkeypatch.setenv("CLUSTERCTL_ADMIN_KEY", "secret \r")
    assert load({}).admin_key == "secret"
    for text in (t for t in BAD if "\0" not in t):
        monkeypatch.setenv("CLUSTERCTL_ADMIN_KEY", text)
        with pytest.raises(UsageError, match="environment CLUSTERCTL_ADMIN_KEY: the key") as refused:
            load({})
        assert "cret" not in str(refused.value)


def test_no_key_is_shown_where_its_owner_is() -> None:
    shown = [
        Settings(admin_key="secret"), BalancerConfig(3, "/", "", 1, 1.0, admin_key="secret"),
        Settings(limits_store="redis://:secret@h"), BalancerConfig(3, "/", "", 1, 1.0, limits_store="redis://:secret@h"),
        BackendSpec("b", 1, "ready", "http", "h", 1, api_key="secret"),
    ]  # fmt: skip
    assert not any("secret" in repr(one) for one in shown)
