"""Real vLLM, forked and started plainly: the same holds for both."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Cluster, free_port, kill, poll
from worker.demo import adapters
from worker.drivers import proc, scratch
from worker.spec import WorkerEndpoint, WorkerSpec

pytestmark = [pytest.mark.vllm, pytest.mark.processes, pytest.mark.timeout(420)]

_PROMPTS = [f"Number {number} of the tale" for number in range(8)]
_WORKERS = {"auto": 2, "off": 1}


@pytest.fixture(scope="module", params=_WORKERS)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers that are forked, or one that is started plainly, which takes some 20 s of a processor each time."""
    made, count = Cluster(tmp_path_factory.mktemp(f"startup-{request.param}"), free_port()), _WORKERS[request.param]
    try:
        result = made.up("--instances", str(count), "--max-instances", "2", "--zygote", request.param, timeout=400)
        assert result.returncode == 0, result.stderr
        made.wait_ready(count, 300)
        yield made
    finally:
        made.close()


def _forked(cluster: Cluster) -> bool:
    return cluster.status()["zygote"]["mode"] == "auto"


def _answers(cluster: Cluster) -> list[str]:
    found = []
    for number, prompt in enumerate(_PROMPTS):
        model = ("demo", "pirate", "poet")[number % 3]
        answer = cluster.complete(model, prompt=prompt, max_tokens=16, temperature=0)
        assert answer.status_code == 200, answer.text
        found.append(str(answer.json()["choices"][0]["text"]))
    return found


@pytest.fixture(scope="module")
def answers() -> dict[str, list[str]]:
    """Of the first mode, for the other."""
    return {}


def test_they_come_from_where_they_should_and_answer_alike(cluster: Cluster, answers: dict[str, list[str]]) -> None:
    status = cluster.status()
    parents = {proc.stat(one["pid"]).parent for one in status["instances"].values()}  # type: ignore[union-attr]
    zygotes = {one["pid"] for one in status["zygote"]["processes"]}
    assert parents == (zygotes if _forked(cluster) else {status["supervisor"]["pid"]})
    found = _answers(cluster)
    assert answers.setdefault("first", found) == found


def test_no_list_of_processes_and_nothing_below_proc_tells_a_key(cluster: Cluster) -> None:
    """A fork's command line is that of its worker, and its environment in /proc is not its zygote's."""
    for name, seen in cluster.status()["instances"].items():
        words = Path(f"/proc/{seen['pid']}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        assert str(seen["port"]) in words and cluster.worker_key(name) not in words
        if _forked(cluster):
            assert cluster.worker_key(name).encode() not in Path(f"/proc/{seen['pid']}/environ").read_bytes()


def test_an_adapter_is_loaded_while_it_runs_and_a_schema_is_kept_to(cluster: Cluster) -> None:
    path = str(adapters()["poet"])
    assert cluster.run("lora", "load", "bard", path, timeout=120).returncode == 0
    assert cluster.complete("bard").status_code == 200
    assert cluster.run("lora", "unload", "bard", timeout=120).returncode == 0
    number = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    kept = {"type": "json_schema", "json_schema": {"name": "n", "schema": {**number, "additionalProperties": False}}}
    body = {"model": "demo", "max_tokens": 64, "temperature": 0, "response_format": kept}
    answer = cluster.post("/v1/chat/completions", {**body, "messages": [{"role": "user", "content": "A number"}]})
    choice = answer.json()["choices"][0]
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"])["n"], int)
    else:
        assert choice["message"]["content"].lstrip().startswith("{")


def _members(pid: int) -> dict[str, int]:
    """Processes of a worker's session by what they call themselves."""
    found = {}
    for member in proc.sessions([pid])[pid]:
        words = Path(f"/proc/{member.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        found[words.partition(" ")[0]] = member.pid
    return found


@pytest.mark.parametrize("victim", ["api server", "engine core", "asked to end"])
def test_a_worker_that_dies_is_back_and_nothing_is_left_of_the_one_before(cluster: Cluster, victim: str) -> None:
    before = _instance(cluster)
    members = _members(before["pid"])
    core = members.get("VLLM::EngineCore")
    assert core is not None, members
    if victim == "asked to end":
        os.kill(before["pid"], signal.SIGTERM)
    else:
        kill(before["pid"] if victim == "api server" else core)
    poll(lambda: _instance(cluster)["incarnation"] != before["incarnation"], 60, "it is started again")
    cluster.wait_ready(len(cluster.status()["instances"]), 300)
    assert not proc.sessions([before["pid"]])[before["pid"]], "of the session"
    assert not _scratch(cluster, before["incarnation"]).exists()
    assert _scratch(cluster, _instance(cluster)["incarnation"]).is_dir()
    assert cluster.complete("pirate").status_code == 200
    if victim == "api server":
        assert _instance(cluster)["last_exit"]["signal"] == signal.SIGKILL


def _instance(cluster: Cluster) -> dict[str, Any]:
    return cluster.instance("instance_0")


def _scratch(cluster: Cluster, incarnation: int) -> Path:
    """Where that start of the first worker has its temporary files."""
    run = cluster.state_dir / "run" / "instance_0"
    return scratch.place(WorkerSpec("", incarnation, (), {}, run, run, run, WorkerEndpoint(0), ""))
