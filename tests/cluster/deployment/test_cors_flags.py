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


@pytest.mark.parametrize("value", ["*", "https://a", '"*"', "[1]", "{}", "null", "[", ""])
def test_what_the_engine_would_not_take_is_refused_before_it_is_started(value: str) -> None:
    with pytest.raises(UsageError, match="--allowed-origins"):
        cors_flags.read(["--allowed-origins", value])
