"""`doctor` on the command line."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.cli import cli
from cluster.cli.lifecycle import doctor as command
from cluster.cli.lifecycle.up import up_command
from cluster.tools.doctor import gather
from doctorfacts import facts, no_engine_check, plan
from harness import free_port


@pytest.fixture(autouse=True)
def _usual_place(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("XDG_STATE_HOME", str(tmp_path))


def _run(*args: str) -> Result:
    args = ("doctor", "--import-timeout", "0", *args)
    return CliRunner().invoke(cli, args, catch_exceptions=False, standalone_mode=False)  # as `main` calls it


def _findings(result: Result) -> dict[str, dict[str, Any]]:
    return {found["check"]: found for found in json.loads(result.stdout)["findings"]}


def test_this_machine_and_what_up_would_do(tmp_path: Path) -> None:
    """The disk and the like are as they are: only what does not depend on them is asked for."""
    port = free_port()
    result = _run("--engine", "sim", "--instances", "3", "--port", str(port), "--json")
    found = _findings(result)
    assert {"python", "cpu", "memory", "container", "shared memory", "open files", "disk", "clock", "gpus", "engine",
            "extras", "settings", "port", "state", "leftovers", "up"} <= set(found)  # fmt: skip
    assert found["up"]["text"].startswith("start 3 workers of sim with demo from ")
    assert f"listen on 127.0.0.1:{port}" in found["up"]["text"]
    assert json.loads(result.stdout)["ok"] == (result.return_value == 0)
    assert list(tmp_path.iterdir()) == [], "nothing was made"


def test_a_problem_is_exit_code_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = _run("--engine", "sim", "--port", str(port), "--json")
        assert result.return_value == 1 and _findings(result)["port"]["level"] == "problem"
        assert "--port" in _findings(result)["port"]["remedy"]


def test_a_wrong_file_is_a_finding_and_not_the_end(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("instances: 2\nprot: 80\n")
    result = _run("--config", str(tmp_path / "c.yaml"), "--json")
    assert result.return_value == 1
    assert "unknown setting 'prot' (did you mean 'port'?)" in _findings(result)["settings"]["text"]
    assert _findings(result)["up"]["level"] == "problem"


def test_it_takes_every_flag_of_up() -> None:
    mine = {param.name for param in command.doctor_command.params}
    assert {param.name for param in up_command.params} - mine == {"detached"}
    assert mine - {param.name for param in up_command.params} == {"import_timeout", "as_json"}
    assert "detached" in {param.name for param in up_command.params}


def test_the_engines_own_flags_count_too() -> None:
    found = _findings(_run("--engine", "sim", "--port", str(free_port()), "--json", "--", "--max-loras", "7"))
    assert "up to 7 in use at a time" in found["up"]["text"]


def test_the_table_shows_findings_with_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    no_engine_check(monkeypatch)
    asked: list[Any] = []

    def look(*args: Any) -> Any:
        asked.append(args)
        return facts(plan=plan(instances=2), open_files=(10, 4096))

    monkeypatch.setattr(gather, "look", look)
    result = CliRunner().invoke(cli, ["doctor", "--instances", "2"], standalone_mode=False)
    assert result.return_value == 0 and asked == [({"instances": 2}, None, 120.0)]
    lines = result.stdout.splitlines()
    assert any(line.startswith("open files") and " warning " in line for line in lines)
    assert any("→ ulimit -Hn 20512" in line for line in lines)
    assert "\\n" not in result.stdout, "what `up` would do is one sentence a line"
    assert lines[-1] == "0 problems, 1 warning"


def test_an_unknown_flag_is_wrong_usage_and_a_wrong_value_a_finding() -> None:
    assert CliRunner().invoke(cli, ["doctor", "--no-such-flag"]).exit_code == 2
    assert _findings(_run("--gpus", "x", "--json"))["settings"]["text"].startswith("--gpus: ")
