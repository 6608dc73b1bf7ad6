"""`lora list` and `show`."""

from __future__ import annotations

import json
import time

from loraserver import Cluster, Run, an_adapter


def test_list_shows_each_adapter_on_each_instance(cluster: Cluster, run: Run) -> None:
    mixed = {
        "instance_0": {"state": "loaded", "version": 2, "reason": ""},
        "instance_1": {"state": "loaded", "version": 1, "reason": ""},
        "instance_9": {"state": "refused", "version": None, "reason": "no"},
    }
    cluster.adapters = {
        "sql": an_adapter("sql", 2, instances=mixed, requests_total=41, last_used=time.time() - 240),
        "chat": an_adapter("chat", 1, size=3_400_000_000, rank=None),
    }
    code, out, _ = run("list")
    rows = [line.split("  ") for line in out.splitlines()]
    heading, sql, chat = ([cell.strip() for cell in row if cell.strip()] for row in rows)
    assert code == 0
    assert heading == [
        "name", "version", "rank", "size", "state", "instance_0", "instance_1", "instance_9", "instance_2",
        "requests", "last use",
    ]  # fmt: skip
    assert sql == ["sql", "2", "8", "12.3 kB", "loaded", "loaded", "loaded v1", "refused", "-", "41", "4 min ago"]
    assert chat == ["chat", "1", "-", "3.4 GB", "loaded", "loaded", "loaded", "-", "loaded", "0", "-"]


def test_list_without_adapters_says_so(cluster: Cluster, run: Run) -> None:
    assert run("list") == (0, "no adapters\n", "")


def test_json_is_what_the_api_answers(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = an_adapter("sql", 2)
    assert json.loads(run("list", "--json")[1]) == {"adapters": [an_adapter("sql", 2)]}
    shown = json.loads(run("show", "sql", "--json")[1])
    assert shown["lora_name"] == "sql" and [v["version"] for v in shown["versions"]] == [1, 2]


def test_show_marks_the_active_version_and_says_why_it_is_missing(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = an_adapter(
        "sql", 2, description="writes [SQL]", auto_load=False,
        instances={"instance_0": {"state": "refused", "version": None, "reason": "no [slot] left"}},
    )
    code, out, _ = run("show", "sql")
    lines = [line.rstrip() for line in out.splitlines()]
    assert code == 0 and lines[0] == "sql: writes [SQL]" and "loaded on first use" in lines[1]
    (active,) = (line for line in lines if line.startswith("*"))
    assert active.split()[1:4] == ["2", "2" * 12, "8"] and "q_proj, v_proj" in active and "/adapters/v2" in active
    assert any(line.startswith("instance_0") and line.endswith("no [slot] left") for line in lines)


def test_show_of_nobody_is_the_clusters_to_explain(cluster: Cluster, run: Run) -> None:
    assert run("show", "sql") == (1, "", "error: no adapter 'sql'\n")
