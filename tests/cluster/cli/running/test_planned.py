"""`drain`, `apply` and `restart --rolling`: what they ask, what they say, their exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cluster.cli import cli, common
from cluster.cli.common import RollingNews
from cluster.cli.running import operate, planned
from cluster.client import ClusterError

Run = Callable[..., Result]

APPLIED: dict[str, Any] = {"changes": [], "refused": None, "dry_run": False, "spare": None, "restarting": []}
DRAIN_TIMEOUT = {"setting": "drain_timeout", "old": 30.0, "new": 5.0, "effect": "at once"}
FLAGS = {"setting": "engine_args", "old": [], "new": ["--seed", "1"], "effect": "rolling restart of the workers"}
PORT = {"setting": "port", "old": 8000, "new": 1, "effect": "not on a running cluster"}


class Cluster:
    """What a client of the cluster would answer. ``asked``: each call."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.applied = dict(APPLIED)
        self.ready = 2
        self.states = ["draining", "drained"]
        self.failed: str | None = None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def drain(self, name: str, grace: float | None) -> dict[str, Any]:
        self.asked.append(("drain", (name, grace)))
        return {"grace": 30.0 if grace is None else grace, "ready": self.ready}

    def undrain(self, name: str) -> dict[str, Any]:
        self.asked.append(("undrain", name))
        return {}

    def restart_rolling(self, spare: bool | None = None, model: str | None = None) -> dict[str, Any]:
        self.asked.append(("rolling", spare) if model is None else ("rolling", spare, model))
        return {"restarting": ["instance_0", "instance_1"], "spare": None if spare is False else "instance_2"}

    def apply(self, settings: dict[str, Any], **how: Any) -> dict[str, Any]:
        json.dumps(settings)
        self.asked.append(("apply", (settings, how)))
        return {**self.applied, "dry_run": how["dry_run"]}

    def status(self) -> dict[str, Any]:
        state = self.states.pop(0)
        return {"supervisor": {"pid": 1}, "instances": {"instance_1": {"state": state}}}

    def wait_settled(self, timeout: float, look: Callable[[Any], None]) -> dict[str, Any]:
        if self.failed:
            raise ClusterError(self.failed)
        return {"instances": {}, "running_instances": 2, "total_instances": 2}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    for module in (operate, planned, common):
        monkeypatch.setattr(module, "client", lambda url, key=None: made)
    monkeypatch.setattr(planned, "_LOOK_EVERY", 0.0)
    return made


@pytest.fixture
def run() -> Run:
    """As `cluster.cli.main` runs it: what a command returns is its exit code."""

    def invoke(*args: str) -> Result:
        result = CliRunner().invoke(cli, args, standalone_mode=False)
        result.exit_code = result.return_value or getattr(result.exception, "exit_code", 0)
        return result

    return invoke


def test_a_drain_is_waited_for(cluster: Cluster, run: Run) -> None:
    result = run("drain", "instance_1", "--grace", "2")
    assert result.exit_code == 0 and cluster.asked == [("drain", ("instance_1", 2.0))]
    assert result.stdout == "draining instance_1: 2 s for what runs\ninstance_1 is drained\n"


def test_a_drain_of_the_last_one_says_what_that_means(cluster: Cluster, run: Run) -> None:
    cluster.ready = 0
    result = run("drain", "instance_1", "--no-wait")
    assert result.exit_code == 0 and "nobody else is ready" in result.stderr and len(cluster.states) == 2


def test_a_drain_is_taken_back(cluster: Cluster, run: Run) -> None:
    assert run("drain", "instance_1", "--undo").stdout == "instance_1 is back in rotation\n"
    assert cluster.asked == [("undrain", "instance_1")]
    assert run("drain", "instance_1", "--undo", "--grace", "1").exit_code == 2


@pytest.mark.parametrize(("flags", "spare", "said"), [
    ([], None, "restarting instance_0, instance_1, one at a time; instance_2 stands in meanwhile\n"),
    (["--no-spare"], False, "restarting instance_0, instance_1, one at a time\n"),
])  # fmt: skip
def test_a_rolling_restart_says_who_stands_in(
    cluster: Cluster, run: Run, flags: list[str], spare: bool | None, said: str
) -> None:
    result = run("restart", "--rolling", *flags)
    assert result.exit_code == 0 and cluster.asked == [("rolling", spare)]
    assert result.stdout == said + "done: 2 of 2 ready\n"
    assert run("restart", "instance_0", "--no-spare").exit_code == 2


def test_settings_come_from_flags_then_from_the_file_and_paths_are_absolute(
    cluster: Cluster, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLUSTERCTL_STOP_GRACE", "1")
    (tmp_path / "c.yaml").write_text("drain-timeout: 9\nmax_body: 4096\n")
    args = ("--config", "c.yaml", "--drain-timeout", "5", "--adapter-root", "here", "--no-resume")
    assert run("apply", *args, "--default", "stop-grace", "--no-spare", "--", "--seed", "1").exit_code == 0
    ((_, (settings, how)),) = cluster.asked
    assert settings == {
        "drain_timeout": 5.0, "max_body": 4096, "adapter_root": [str(tmp_path / "here")], "resume": False,
        "engine_args": ["--seed", "1"],
    }  # fmt: skip
    assert how == {"defaults": ["stop_grace"], "previous": False, "dry_run": False, "spare": False}


@pytest.mark.parametrize("text", ["lora_config: 5", "adapter_root: [1]", "backend_key_file: [a]"])
def test_what_is_no_path_is_left_for_the_cluster_to_refuse(
    cluster: Cluster, run: Run, tmp_path: Path, text: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert run("apply", "--config", str(tmp_path / "c.yaml")).exit_code == 0
    ((_, (settings, _)),) = cluster.asked
    assert settings == yaml.safe_load(text)


def test_the_folder_of_nobody_is_wrong_usage(cluster: Cluster, run: Run) -> None:
    assert run("apply", "--adapter-root", "~nobody-of-this-name/a").exit_code == 2
    for command in (["down"], ["state", "check"], ["state", "import", "-"]):
        result = CliRunner().invoke(cli, [*command, "--state-dir", "~nobody-of-this-name/a"])
        assert result.exit_code == 2 and "home directory" in result.output


def test_values_that_look_like_markup_are_shown_as_they_are(cluster: Cluster, run: Run) -> None:
    change = {"setting": "engine_args", "old": ["[auto]"], "new": ["a[/b]"], "effect": "at once"}
    cluster.applied["changes"] = [change]
    said = run("apply", "--drain-timeout", "5", "--dry-run").stdout
    assert "[auto]" in said and "a[/b]" in said


def test_what_changes_is_shown_with_what_it_does(cluster: Cluster, run: Run) -> None:
    cluster.applied |= {"changes": [DRAIN_TIMEOUT, FLAGS], "spare": "instance_2", "restarting": ["instance_0"]}
    result = run("apply", "--drain-timeout", "5", "--", "--seed", "1")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines == [
        "setting old new effect", "drain_timeout 30.0 5.0 at once",
        "engine_args - --seed 1 rolling restart of the workers",
        "restarting instance_0, one at a time; instance_2 stands in meanwhile", "done: 2 of 2 ready",
    ]  # fmt: skip


def test_a_dry_run_shows_what_is_refused_and_is_1(cluster: Cluster, run: Run) -> None:
    cluster.applied |= {"changes": [PORT], "refused": "port is not changed"}
    result = run("apply", "--dry-run", "--port", "1")
    assert result.exit_code == 1 and "error: port is not changed" in result.stderr
    assert "not on a running cluster" in result.stdout


def test_a_dry_run_waits_for_nothing(cluster: Cluster, run: Run) -> None:
    cluster.applied |= {"changes": [FLAGS]}
    cluster.failed = "it was waited for"
    result = run("apply", "--dry-run", "--", "--seed", "1")
    assert result.exit_code == 0 and "a dry run: nothing was changed" in result.stdout


@pytest.mark.parametrize("args", [[], ["--previous", "--port", "1"], ["--no-such-flag"], ["--config", "nowhere.yaml"]])
def test_an_apply_of_nothing_or_nonsense_is_2(cluster: Cluster, run: Run, args: list[str]) -> None:
    result = run("apply", *args)
    assert result.exit_code == 2 and not cluster.asked


def test_nothing_to_change_is_said(cluster: Cluster, run: Run) -> None:
    assert run("apply", "--previous").stdout.startswith("nothing to change")


def test_each_step_of_a_rolling_restart_is_said_once() -> None:
    said: list[str] = []
    news = RollingNews(said.append)
    spare = {"instance_3": {"is_running": True, "state": "ready"}}
    for done, instances in ((0, {}), (0, spare), (0, spare), (1, spare), (1, spare), (2, spare)):
        rolling = {"active": True, "done": done, "total": 3, "spare": "instance_3"}
        news.look({"supervisor": {"rolling": rolling}, "instances": instances})
    news.look({"supervisor": {}, "instances": {}})
    assert said == ["instance_3 is ready and stands in", "1 of 3 restarted", "2 of 3 restarted"]
