from __future__ import annotations

import pytest

from cluster.deployment import cors_flags
from config.errors import UsageError
from config.topology import CorsConfig


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], None),
        (["--allow-credentials", "--allowed-methods", '["GET"]'], None),
        (["--allowed-origins", "[]"], None),
        (["--allowed-origins", '["*"]'], CorsConfig(("*",))),
        (['--allowed-origins=["https://a", "https://b"]'], CorsConfig(("https://a", "https://b"))),
        (["--allowed_origins", '["https://a"]', "--allow_credentials"], CorsConfig(("https://a",), credentials=True)),
        (["--allowed-origins", '["a"]', "--allow-credentials", "--no-allow-credentials"], CorsConfig(("a",))),
        (
            ["--allowed-origins", '["a"]', "--allowed-methods", '["GET", "POST"]', "--allowed-headers", '["X-A"]'],
            CorsConfig(("a",), ("GET", "POST"), ("X-A",)),
        ),
        (["--allowed-origins", '["a"]', "--seed", "1", "--allowed-origins", '["b"]'], CorsConfig(("b",))),
    ],
)
def test_the_engines_flags_are_read_as_the_engine_reads_them(args: list[str], expected: CorsConfig | None) -> None:
    assert cors_flags.read(args) == expected


def test_origins_of_our_own_flag_go_with_the_engines_other_flags() -> None:
    found = cors_flags.read(["--allowed-headers", '["X-A"]', "--allow-credentials"], ["https://a"])
    assert found is not None
    assert (found.origins, found.headers, found.credentials) == (("https://a",), ("X-A",), True)
    assert "X-Request-Id" in found.expose and "X-RateLimit-Remaining-Tokens" in found.expose
    everybody = cors_flags.read([], ["*"])
    assert everybody is not None and everybody.origins == ("*",) and not everybody.credentials


@pytest.mark.parametrize(("args", "given"), [
    (["--allowed-origins", '["https://b"]'], ["https://a"]), (["--allow-credentials"], ["*"]),
    (["--allow-credentials"], ["https://a", "*"]),
])  # fmt: skip
def test_what_contradicts_itself_is_refused(args: list[str], given: list[str]) -> None:
    with pytest.raises(UsageError, match="--cors-origin"):
        cors_flags.read(args, given)


@pytest.mark.parametrize("value", ["*", "https://a", '"*"', "[1]", "{}", "null", "[", ""])
def test_what_the_engine_would_not_take_is_refused_before_it_is_started(value: str) -> None:
    with pytest.raises(UsageError, match="--allowed-origins"):
        cors_flags.read(["--allowed-origins", value])
