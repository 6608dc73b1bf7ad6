"""The engine's own flags, read as its parser would."""

from __future__ import annotations

import pytest

from config.errors import UsageError
from worker.engines import flags


@pytest.mark.parametrize(
    ("args", "values"),
    [
        ("", None),
        ("--other 1", None),
        ("--max-loras 4", ["4"]),
        ("--max_loras 4", ["4"]),
        ("--max-loras=4", ["4"]),
        ("--max_loras=4", ["4"]),
        ("--max-loras=", [""]),
        ("--max-loras 4 5 --other 6", ["4", "5"]),
        ("--max-loras", []),
        ("--max-loras --other", []),
        ("--max-loras 1 --max-loras 2", ["2"]),
        ("--max-loras 1 --max-loras=2", ["2"]),
        ("--max-loras=1 --max-loras 2 3", ["2", "3"]),
        ("--max-loras -1 -2.5 -x", ["-1", "-2.5"]),
        ("--max-loras-extra 4", None),
        ("max-loras 4", None),
    ],
)
def test_the_values_of_a_flag_are_read(args: str, values: list[str] | None) -> None:
    assert flags.values(args.split(), "--max-loras") == values
    assert flags.has(args.split(), "--max-loras") is (values is not None)


@pytest.mark.parametrize(
    ("args", "flag"),
    [("-tp 2", "--tensor-parallel-size"), ("-tp=2", "--tensor-parallel-size"), ("-pp 2", "--pipeline-parallel-size")],
)
def test_short_forms_are_known(args: str, flag: str) -> None:
    assert flags.integer(args.split(), flag, 1) == 2


def test_without_the_flag_the_default_holds() -> None:
    assert flags.integer([], "--max-loras", 7) == 7


@pytest.mark.parametrize("value", ["", "0", "-1", "x", "1.5", "²"])
def test_what_is_no_positive_whole_number_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match=r"--max-loras: a positive whole number") as error:
        flags.integer(["--max-loras", value], "--max-loras", 1)
    assert error.value.exit_code == 2


def test_a_flag_without_its_number_is_refused() -> None:
    with pytest.raises(UsageError, match="--max-loras"):
        flags.integer(["--max-loras"], "--max-loras", 1)


@pytest.mark.parametrize(("args", "left"), [
    (["--a", "1", "--name", "x", "y", "--b"], ["--a", "1", "--b"]), (["--name=x", "z", "--b"], ["z", "--b"]),
    (["--name"], []), (["--name", "-1", "--b", "--name", "c"], ["--b"]), (["x", "--a_b"], ["x", "--a_b"]), ([], []),
])  # fmt: skip
def test_a_flag_is_taken_out_with_its_values(args: list[str], left: list[str]) -> None:
    assert flags.without(args, "--name") == left
