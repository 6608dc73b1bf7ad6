"""Which state directory a URL stands for: never one of another cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.lifecycle import down
from cluster.client import ClusterError
from cluster.storage import lock
from config.errors import UsageError
from config.paths import StateDir, default_state_dir
from worker.drivers import run_file

HERE, ELSEWHERE = "http://127.0.0.1:8000", "http://192.0.2.1:8000"  # the second is nobody's (RFC 5737)


class Cluster:
    """What a client of the cluster would be answered."""

    def __init__(self, status: dict[str, Any] | None) -> None:
        self._status = status

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def status(self) -> dict[str, Any]:
        if self._status is None:
            raise ClusterError("no cluster")
        return self._status


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(down, "_LOOK_EVERY", 0.005)


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    made = StateDir(tmp_path / "state")
    made.create()
    made.lock.write_text("4711")
    run_file.prepare(made.runs / "load_balancer", {})
    me = (Path("/proc") / str(os.getpid()) / "stat").read_text()
    with (made.runs / "load_balancer").open("r+") as file:
        file.write(me)
    return made


def _answer(monkeypatch: pytest.MonkeyPatch, state: StateDir, supervisor: int | None, balancer: int) -> None:
    status = {"supervisor": {"pid": supervisor, "state_dir": str(state.root)}, "load_balancer": {"pid": balancer}}
    monkeypatch.setattr(down, "client", lambda url: Cluster(status))


@pytest.mark.parametrize(("supervisor", "balancer"), [(4711, 1), (None, os.getpid())], ids=["supervisor", "balancer"])
def test_a_cluster_whose_processes_run_on_the_folder_is_found_there(
    state: StateDir, monkeypatch: pytest.MonkeyPatch, supervisor: int | None, balancer: int
) -> None:
    _answer(monkeypatch, state, supervisor, balancer)
    assert down.find(HERE) == state.root


@pytest.mark.parametrize(("supervisor", "balancer"), [(4712, 1), (None, 1), (None, 4711)])
def test_behind_a_forwarded_port_a_folder_of_the_same_name_is_another_clusters(
    state: StateDir, monkeypatch: pytest.MonkeyPatch, supervisor: int | None, balancer: int
) -> None:
    _answer(monkeypatch, state, supervisor, balancer)
    assert down.find(HERE) is None


def test_a_folder_of_this_machine_is_not_that_of_a_cluster_on_another(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answer(monkeypatch, state, 4711, os.getpid())
    assert down.find(ELSEWHERE) is None


@pytest.mark.parametrize("same", [False, True], ids=["elsewhere", "of the same name"])
def test_balancers_that_joined_from_here_are_not_taken_for_the_cluster(
    state: StateDir, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    """`down` without a word of where would end the cluster of another machine, where these were meant."""
    state.joined.write_text("{}")
    theirs = {"pid": 4711, "state_dir": str(state.root if same else "/elsewhere")}
    answered = {"pid": os.getpid(), "state_dir": str(state.root)}
    monkeypatch.setattr(down, "client", lambda url: Cluster({"supervisor": theirs, "load_balancer": answered}))
    for variable in ("CLUSTERCTL_URL", "CLUSTERCTL_STATE_DIR"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UsageError, match="`clusterctl balancer down` ends them"):
        down.find(None)
    assert down.find(HERE) is None, "it was named"
    assert down.find(ELSEWHERE) is None


def test_a_cluster_that_does_not_answer_is_looked_for_on_this_machine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    default_state_dir(8000).mkdir(parents=True)
    monkeypatch.setattr(down, "client", lambda url: Cluster(None))
    assert down.find(HERE) == default_state_dir(8000)
    with pytest.raises(ClusterError):
        down.find(ELSEWHERE)


def test_a_url_without_a_proper_port_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(down, "client", lambda url: Cluster(None))
    with pytest.raises(UsageError, match="Port out of range"):
        down.find("http://127.0.0.1:99999")


class Elsewhere(Cluster):
    """On another machine, and it ends: it answers with each of these supervisors once, then not at all."""

    def __init__(self, *supervisors: int | None, then: int | None = None) -> None:
        self._supervisors, self._then, self.asked = list(supervisors), then, 0

    def shutdown(self, now: bool) -> None:
        self.asked += 1

    def status(self) -> dict[str, Any]:
        if not self._supervisors:
            raise ClusterError("none", self._then)
        return {"supervisor": {"pid": self._supervisors.pop(0)}}


@pytest.mark.parametrize(("given", "said", "left"), [((), "down", 0), (("--no-wait",), "shutting down", 3)])
def test_from_another_machine_it_waits_until_all_has_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], said: str, left: int
) -> None:
    cluster = Elsewhere(4711, 4711, None)
    monkeypatch.setattr(down, "client", lambda url: cluster)
    monkeypatch.setattr(down, "find", lambda url: None)
    assert down.down_command.main(["--url", ELSEWHERE, *given], standalone_mode=False) == 0
    assert capsys.readouterr().out == f"{said}\n"
    assert (cluster.asked, len(cluster._supervisors)) == (1, left)


@pytest.mark.parametrize("cluster", [Elsewhere(*[None] * 100), Elsewhere(4711, then=502)], ids=["alone", "nobody"])
def test_from_another_machine_it_says_where_the_supervisor_ends_first(
    monkeypatch: pytest.MonkeyPatch, cluster: Elsewhere
) -> None:
    monkeypatch.setattr(down, "client", lambda url: cluster)
    monkeypatch.setattr(down, "find", lambda url: None)
    monkeypatch.setattr(down, "GONE_S", 0.05)
    with pytest.raises(UsageError, match="before all else had"):
        down.down_command.main(["--url", ELSEWHERE], standalone_mode=False)


class Asked:
    """A supervisor that holds its lock; ``answers`` as often as it is asked, then never again; ``end`` is called with
    the last of them."""

    def __init__(self, answers: int, end: Callable[[], None] = lambda: None) -> None:
        self._left, self._end = answers, end

    def __call__(self, **_: object) -> Asked:
        return self

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def snapshot(self) -> dict[str, Any]:
        self._left -= 1
        if self._left == 0:
            self._end()
        if self._left < 0:
            raise ClusterError("no answer")
        return {}


def test_a_supervisor_that_drains_is_waited_for_and_one_that_hangs_is_not(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(down, "_ASK_EVERY", 0.01)
    monkeypatch.setattr(down, "_SILENT_S", 0.05)
    supervisor = lock.lock(state)
    monkeypatch.setattr(down, "ClusterClient", Asked(3))
    with pytest.raises(UsageError, match="has not said a word"):
        down._wait_for_end(state, None)
    monkeypatch.setattr(down, "ClusterClient", Asked(12, supervisor.close))
    down._wait_for_end(state, None)


def test_the_state_directory_of_the_environment_is_the_clusters_unless_a_url_is_given(
    state: StateDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERCTL_STATE_DIR", str(tmp_path / "mine"))
    monkeypatch.delenv("CLUSTERCTL_URL", raising=False)
    _answer(monkeypatch, state, 4711, 1)
    assert down.find(None) == tmp_path / "mine"
    assert down.find(HERE) == state.root
    monkeypatch.setenv("CLUSTERCTL_URL", HERE)
    assert down.find(None) == state.root
