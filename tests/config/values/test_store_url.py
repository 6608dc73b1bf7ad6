from __future__ import annotations

import pytest

from cluster.cli.lifecycle.up import given_flags
from config.errors import UsageError
from config.settings import load
from config.values.store_url import StoreUrl

SECRET = "pass-word"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://10.0.0.5", "redis://10.0.0.5"),
        ("redis://10.0.0.5:6379/2", "redis://10.0.0.5:6379/2"),
        (f"rediss://user:{SECRET}@redis.example:6380/0?ssl_ca_certs=/etc/ca.pem", "rediss://redis.example:6380/0"),
        (f"redis://:{SECRET}@[::1]:7000", "redis://[::1]:7000"),
        (f"unix:///run/redis.sock?db=1&password={SECRET}", "unix:///run/redis.sock"),
        (f"unix://user:{SECRET}@/run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_what_is_shown_has_no_password(text: str, shown: str) -> None:
    url = StoreUrl.parse(text)
    assert (url.text, url.shown, url.has_password) == (text, shown, SECRET in text)
    assert SECRET not in repr(url) and "user" not in shown


BAD = [
    f"http://:{SECRET}@h", f"redis://:{SECRET}@", f"redis://:{SECRET}@h:port", f"redis://:{SECRET}@h/zero",
    f"unix://{SECRET}", f"redis://h?password={SECRET}&socket_timeout=9", f"redis://h/{SECRET}", f"redis://h\n{SECRET}",
    f"redis://h#{SECRET}", f"redis://[::1:{SECRET}", f"redis://h?{SECRET}", "x" * 3_000, f"redis://h?db={SECRET}",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_url_is_refused_and_not_repeated(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--limits-store: (a URL|its options)") as refused:
        load({"limits_store": text})
    assert SECRET not in str(refused.value)
    monkeypatch.setenv("CLUSTERCTL_LIMITS_STORE", text)
    if text.isprintable():
        with pytest.raises(UsageError, match="environment CLUSTERCTL_LIMITS_STORE") as refused:
            load({})
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize("text", [f"redis://:{SECRET}@h", f"unix:///s?password={SECRET}", f"http://u:{SECRET}@h"])
def test_a_password_has_no_place_in_a_command_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="CLUSTERCTL_LIMITS_STORE") as refused:
        given_flags({"limits_store": text}, ())
    assert SECRET not in str(refused.value)
    assert given_flags({"limits_store": "redis://h"}, ()) == {"limits_store": "redis://h"}
    monkeypatch.setenv("CLUSTERCTL_LIMITS_STORE", f"redis://:{SECRET}@h")
    assert load({}).limits_store == f"redis://:{SECRET}@h"
