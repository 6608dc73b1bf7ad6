"""`lora load`, `update`, `rollback`, `unload`: what is asked of the cluster, and what is said of its answer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from loraserver import Cluster, Run, an_adapter
from worker.demo import adapter_path


def test_load_sends_an_absolute_path_and_says_what_came_of_it(
    cluster: Cluster, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("load", "sql", "a/b", "--description", "writes SQL")
    assert (code, out) == (0, "sql: version 1 on 3 instances\n")
    assert cluster.changes() == [
        {"lora_name": "sql", "lora_path": str(tmp_path / "a/b"), "description": "writes SQL"}
    ]


def test_update_asks_for_the_next_version(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = an_adapter("sql", 2)
    assert run("update", "sql", "/new")[:2] == (0, "sql: version 3 on 3 instances\n")
    assert cluster.changes() == [{"lora_name": "sql", "lora_path": "/new", "load_inplace": True}]


def test_an_update_of_none_that_there_is_changes_nothing(cluster: Cluster, run: Run) -> None:
    code, out, err = run("update", "nope", "/new")
    assert (code, out) == (1, "") and err.startswith("error: no adapter 'nope'")
    assert cluster.changes() == []


@pytest.mark.parametrize("command", ["load", "update"])
def test_one_that_may_do_nothing_is_asked_for_as_such(cluster: Cluster, run: Run, command: str) -> None:
    cluster.adapters["sql"] = an_adapter("sql")
    assert run(command, "sql", "/new", "--allow-no-effect")[0] == 0
    (asked,) = cluster.changes()
    assert asked["allow_no_effect"] is True


def test_validate_refuses_what_does_nothing(run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter_path("poet"), tmp_path / "zeros"))
    raw = (folder / "adapter_model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    (folder / "adapter_model.safetensors").write_bytes(raw[:start] + bytes(len(raw) - start))
    code, _, err = run("validate", str(folder))
    assert code == 1 and "has no effect" in err
    assert run("validate", str(folder), "--allow-no-effect")[0] == 0


@pytest.mark.parametrize(("args", "version", "body"), [((), 2, {}), (("--to", "1"), 1, {"version": 1})])
def test_rollback_goes_back(cluster: Cluster, run: Run, args: tuple[str, ...], version: int, body: Any) -> None:
    cluster.adapters["sql"] = an_adapter("sql", 3)
    assert run("rollback", "sql", *args)[:2] == (0, f"sql: version {version} on 3 instances\n")
    assert cluster.changes() == [body] and "/v1/lora_adapters/sql/rollback" in cluster.routes()


def test_unload_takes_it_off(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = an_adapter("sql")
    assert run("unload", "sql") == (0, "sql: unloaded\n", "")
    assert run("unload", "sql") == (1, "", "error: no adapter 'sql'\n")


def test_without_a_ready_worker_it_is_registered(cluster: Cluster, run: Run) -> None:
    cluster.ready = False
    assert run("load", "sql", "/a")[:2] == (0, "sql: version 1 registered; it is loaded when a worker is ready\n")


def test_what_could_not_be_checked_is_said(cluster: Cluster, run: Run) -> None:
    cluster.unchecked = ["the shapes: the base model cannot be read"]
    code, out, err = run("load", "sql", "/a")
    assert (code, out) == (0, "sql: version 1 on 3 instances\n")
    assert err.splitlines()[-1] == "not checked: the shapes: the base model cannot be read"


@pytest.mark.parametrize(
    ("instances", "line"),
    [
        ({"a": "loaded"}, "on 1 instance"),
        ({"a": "loaded", "b": "lazy"}, "on 1 of 2 instances"),
        ({"a": "lazy", "b": "lazy"}, "on 0 of 2 instances"),
    ],
)
def test_instances_without_it_are_not_counted(
    cluster: Cluster, run: Run, monkeypatch: pytest.MonkeyPatch, instances: dict[str, str], line: str
) -> None:
    answer = {"lora_name": "sql", "version": 4, "state": "loaded", "instances": instances}
    monkeypatch.setattr(cluster, "_load", lambda body: (200, answer))
    assert run("load", "sql", "/a")[:2] == (0, f"sql: version 4 {line}\n")


@pytest.mark.parametrize(("status", "code"), [(400, 2), (404, 1), (409, 1), (500, 1), (503, 1)])
def test_a_refusal_is_one_line_in_the_clusters_words(cluster: Cluster, run: Run, status: int, code: int) -> None:
    cluster.adapters["sql"], words = an_adapter("sql"), "instance_1: rank 64 is above 16"
    for args in (("load", "sql", "/a"), ("update", "sql", "/a")):
        cluster.refusals["/v1/load_lora_adapter"] = (status, words)
        assert run(*args) == (code, "", f"error: {words}\n")


@pytest.mark.parametrize(
    "args",
    [
        ("load", "a b", "/a"), ("load", "sql"), ("load", "a/b", "/a"), ("show", ""), ("update", "x" * 129, "/a"),
        ("rollback", "sql", "--to", "0"), ("rollback", "sql", "--to", "x"), ("unload",), ("test", "sql"),
        ("test", "sql", "hi", "--max-tokens", "0"), ("bench", "sql"), ("bench", "--cycles", "0"), ("lst",),
        ("load", "sql", "~nobody-here/a"), ("validate", "/a", "--model", "/absent"),
    ],
)  # fmt: skip
def test_wrong_use_asks_the_cluster_nothing(cluster: Cluster, run: Run, args: tuple[str, ...]) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith("Error: ")
    assert cluster.asked == []


def test_url_names_another_cluster(run: Run) -> None:
    for args in (("list",), ("load", "sql", "/a"), ("test", "sql", "hi"), ("bench",)):
        code, _, err = run(*args, "--url", "http://127.0.0.1:1")
        assert code == 1 and err.startswith("error: no cluster at http://127.0.0.1:1 ")
