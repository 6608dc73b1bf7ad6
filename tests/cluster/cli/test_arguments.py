"""What no command takes: for a number, or at all. What a cluster refuses is in `tests/e2e/test_cli.py`."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from cluster.cli import cli, main


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize(
    "command",
    [
        ["drain", "instance_0", "--grace"], ["top", "--interval"], ["chat", "hello", "--temperature"],
        ["infer", "--in", "-", "--out", "-", "--timeout"], ["bench", "--rate"], ["bench", "--duration"],
        ["doctor", "--import-timeout"], ["plan", "--gpu-memory"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_neither_nan_nor_infinity_is_a_number_of_a_command(command: list[str], value: str) -> None:
    result = CliRunner().invoke(cli, [*command, value])
    assert result.exit_code == 2
    assert f"'{value}' is no finite number" in result.output or "is not in the range" in result.output


@pytest.mark.parametrize("count", ["²", "+²", "1.5", "+-1"])
def test_a_count_of_workers_is_made_of_plain_digits(count: str) -> None:
    result = CliRunner().invoke(cli, ["scale", count])
    assert result.exit_code == 2 and "COUNT is a number such as" in result.output


@pytest.mark.parametrize(
    "args",
    [
        ["scale", "many"], ["strategy", "fastest"], ["restart"], ["restart", "instance_0", "--rolling"],
        ["weight", "instance_0", "-3"], ["nonsense"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_use_is_2_and_no_cluster_is_asked(
    args: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLUSTERCTL_URL", "http://127.0.0.1:1")  # nobody is there, which would be 1
    monkeypatch.setattr(sys, "argv", ["clusterctl", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err.strip() != "") == (2, True)
