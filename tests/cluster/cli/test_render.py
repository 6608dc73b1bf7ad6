"""How a status looks on a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from cluster.cli.render import status_table
from cluster.cli.running.top_view import headlines
from cluster.tools.top.top import Snapshot, SnapshotHistory


def _status(**supervisor: Any) -> dict[str, Any]:
    return {
        "running_instances": 1, "total_instances": 1, "load_balancer_strategy": "random", "instances": {}, "model": "m",
        "load_balancer": {"pid": 2}, "supervisor": {"pid": 1, **supervisor},
    }  # fmt: skip


def _shown(status: dict[str, Any]) -> tuple[str, str]:
    """By `status` and by `top`."""
    out = io.StringIO()
    Console(file=out, width=200).print(status_table(status, 200))
    history = SnapshotHistory()
    history.add(Snapshot(1.0, status, {}))
    return out.getvalue(), headlines(history.view()[0], "http://h", 200)[0].plain


@pytest.mark.parametrize("supervisor", [{}, {"age_s": None}, {"age_s": 0.0}, {"age_s": 1.4}, {"age_s": 5.0}])
def test_what_is_said_every_second_needs_no_date(supervisor: dict[str, Any]) -> None:
    assert not any("as of" in text for text in _shown(_status(**supervisor)))


@pytest.mark.parametrize(
    ("age", "words"), [(5.2, "as of 5 s ago"), (89.0, "as of 89 s ago"), (600.0, "as of 10 min ago")]
)
@pytest.mark.parametrize("pid", [1, None])
def test_what_is_older_says_so(age: float, words: str, pid: int | None) -> None:
    for text in _shown(_status(pid=pid, age_s=age)):
        assert words in text and ("supervisor 1" if pid else "supervisor not running") in text


@pytest.mark.parametrize(("mode", "words"), [("on", "autoscaling wants 3"), ("advise", "autoscaling would want 3")])
def test_what_autoscaling_finds_is_said_by_status(mode: str, words: str) -> None:
    found = {"mode": mode, "target": 3, "needed": 2.25, "reason": ""}
    assert f"{words}, 2.25 needed" in _shown({**_status(), "autoscale": found})[0]
    assert "autoscaling" not in _shown({**_status(), "autoscale": {**found, "target": None, "needed": None}})[0]
    assert "autoscaling" not in _shown(_status())[0]


def test_a_list_of_servers_says_what_is_wrong_with_it() -> None:
    seen = {"source": "file:a", "servers": 3, "missing": 0, "left_out": "", "failure": "", "age_s": 1.0}
    assert "file:a: 3 servers\n" in _lists(seen)
    assert "file:a: 3 servers, 2 of them missing now" in _lists({**seen, "missing": 2})
    assert "not taken: 0.0.0.0:1 (unspecified)" in _lists({**seen, "left_out": "0.0.0.0:1 (unspecified)"})
    assert r"cannot be asked: \x1b[31mno" in _lists({**seen, "failure": "\x1b[31mno"})


def _lists(seen: dict[str, Any]) -> str:
    shown = _shown({**_status(), "discovery": [seen]})[0]
    return "\n".join(line.strip() for line in shown.splitlines()) + "\n"


def test_nodes_are_shown_where_there_are_any() -> None:
    screen = Console(file=io.StringIO(), width=200)
    one: dict[str, Any] = {
        "state": "ready", "degraded": False, "node": "10.0.0.2", "pid": 1, "port": 2, "gpus": [0], "weight": 1,
        "in_flight": 0, "requests_total": 0, "errors_total": 0, "restarts": 0, "uptime_s": 1.0, "cpu_percent": 0.0,
        "memory_mb": 1.0, "reason": "", "phase": "", "last_exit": None,
    }  # fmt: skip
    nodes = [
        {"name": "10.0.0.2", "state": "up", "heard_s": 0.1, "gpus": 2, "free_gpus": 1, "instances": ["instance_0"]},
        {"name": "10.0.0.3", "state": "lost", "heard_s": 9.0, "gpus": None, "free_gpus": None, "instances": []},
    ]
    with screen.capture() as without:
        screen.print(status_table({**_status(), "instances": {"instance_0": one}}, 200))
    with screen.capture() as shown:
        screen.print(status_table({**_status(), "instances": {"instance_0": one}, "nodes": nodes}, 200))
    assert "node" not in without.get() and "10.0.0.2" in shown.get()
    assert "10.0.0.2: up, 1 worker, 1 of 2 GPUs free" in shown.get()
    assert "10.0.0.3: lost, heard 9 s ago, 0 workers" in shown.get()
