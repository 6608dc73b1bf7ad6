"""How far a change is, as a line or a bar."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.console import RenderableType
from rich.live import Live

from cluster.cli.workload.lora import watch
from loraserver import INSTANCES, Cluster, Run, an_adapter


def _roll(cluster: Cluster) -> Callable[[str], None]:
    """Two instances after each other, each seen before the next is touched."""

    def change(name: str) -> None:
        states = {i: {"state": "loaded", "version": 1, "reason": ""} for i in INSTANCES[:2]}
        cluster.adapters[name] = an_adapter(name, instances=dict(states))
        cluster.wait_for_looks()
        for instance in INSTANCES[:2]:
            for step in ({"state": "loading", "version": 2, "reason": "drains"}, {**states[instance], "version": 2}):
                states[instance] = step
                cluster.adapters[name] = an_adapter(name, instances=dict(states))
                cluster.wait_for_looks()

    return change


def test_progress_is_a_line_a_change_where_there_is_no_terminal(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = an_adapter("sql", instances={i: {"state": "loaded", "version": 1} for i in INSTANCES[:2]})
    cluster.during_change = _roll(cluster)
    code, out, err = run("update", "sql", "/new")
    assert (code, out) == (0, "sql: version 2 on 3 instances\n")
    assert err.splitlines()[:4] == [
        "instance_0: loading version 2 (drains)",
        "instance_0: loaded version 2",
        "instance_1: loading version 2 (drains)",
        "instance_1: loaded version 2",
    ]
    assert len(err.splitlines()) <= 5  # the third instance may be seen before the answer comes


class _DrawnAtOnce(Live):
    """Misses nothing between two of its pictures."""

    def update(self, renderable: RenderableType, *, refresh: bool = False) -> None:
        super().update(renderable, refresh=True)


def test_progress_is_drawn_on_a_terminal(cluster: Cluster, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(watch, "Live", _DrawnAtOnce)
    cluster.during_change = _roll(cluster)
    code, out, err = run("load", "sql", "/new")
    assert (code, out.splitlines()[-1]) == (0, "sql: version 1 on 3 instances")
    assert "\x1b[" in err and "drains" in err and "instance_1" in err


def test_progress_never_fails_a_change(cluster: Cluster, run: Run) -> None:
    cluster.refusals["/v1/lora_adapters/sql"] = (500, "broken")
    assert run("load", "sql", "/a") == (0, "sql: version 1 on 3 instances\n", "")
