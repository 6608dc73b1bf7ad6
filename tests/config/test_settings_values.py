"""What values of settings mean, as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.errors import UsageError
from config.settings import Settings, load
from settingsfiles import refusal_of


def test_every_setting_says_what_it_means() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("given", "meant"),
    [(True, "on"), (False, "off"), ("ON", "on"), ("errors", "errors"), (0, "errors"), (1, "on"), ("0.01", "0.01"),
     (0.25, "0.25"), ("1.0", "on")],
)  # fmt: skip
def test_the_share_of_requests_that_are_logged(given: object, meant: str) -> None:
    assert load({"access_log": given}).access_log == meant


@pytest.mark.parametrize("given", ["some", "-0.1", "1.1", "nan", ""])
def test_what_is_no_share_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="--access-log"):
        load({"access_log": given})


def test_yaml_says_on_as_a_boolean(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("access_log: on\nlog_format: json\n")
    found = load({}, tmp_path / "c.yaml")
    assert (found.access_log, found.log_format) == ("on", "json")


@pytest.mark.parametrize("given", ["localhost:4318", "ftp://x", "http://"])
def test_a_collector_is_an_url(given: str) -> None:
    with pytest.raises(UsageError, match="--otlp-endpoint"):
        load({"otlp_endpoint": given})


@pytest.mark.parametrize(
    ("given", "level"),
    [("INFO", "info"), (" Debug ", "debug"), ("warn", "warning"), ("WARNING", "warning"), ("CRITICAL", "error"),
     ("fatal", "error"), ("30", "warning"), (10, "debug"), ("trace", "debug")],
)  # fmt: skip
def test_log_levels_are_understood_as_others_write_them(
    environment: pytest.MonkeyPatch, given: object, level: str
) -> None:
    assert load({"log_level": given}).log_level == level
    environment.setenv("LOG_LEVEL", str(given))
    assert load({}).log_level == level


@pytest.mark.parametrize("given", ["loud", "15", True, None, 3.5])
def test_a_level_that_is_none_is_refused(given: object) -> None:
    assert refusal_of({"log_level": given}).startswith("--log-level: ")


def test_words_are_taken_in_any_case(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("LOAD_BALANCE_STRATEGY", "ROUND_ROBIN")
    environment.setenv("CLUSTERCTL_LOG_FORMAT", "JSON")
    assert (load({}).strategy, load({}).log_format) == ("round_robin", "json")


def test_a_file_may_have_a_byte_order_mark_and_any_line_ends(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_bytes(b"\xef\xbb\xbfport: 1001\r\ninstances: 2\r\n")
    assert (load({}, config).port, load({}, config).instances) == (1001, 2)
