"""`lora test`, `validate` and `bench`: what is tried out, and that nothing of it stays."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loraserver import DEADLINE, Cluster, Run, an_adapter
from worker.demo import adapter_path, model_path


def test_both_answers_stand_side_by_side(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = an_adapter("sql")
    code, out, _ = run("test", "sql", "hello", "--max-tokens", "5")
    assert code == 0 and "\x1b" not in out
    said = out.splitlines()[1]
    assert "demo says [bold]\\x1b[2Jhello" in said and "sql says [bold]\\x1b[2Jhello" in said
    bodies = [body for _, path, body in cluster.asked if path == "/v1/chat/completions"]
    assert [(b["model"], b["max_tokens"], b["temperature"]) for b in bodies] == [("demo", 5, 0), ("sql", 5, 0)]


def test_a_model_that_cannot_chat_completes(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = an_adapter("sql")
    cluster.refusals["/v1/chat/completions"] = (400, "no chat template")
    code, out, _ = run("test", "sql", "hello")
    assert code == 0 and "demo completes" in out and "sql completes" in out


@pytest.mark.parametrize("name", ["nobody", "demo"])
def test_what_is_no_adapter_is_not_asked(cluster: Cluster, run: Run, name: str) -> None:
    assert run("test", name, "hello") == (1, "", f"error: no adapter {name!r}\n")
    assert "/v1/chat/completions" not in cluster.routes()


@pytest.mark.parametrize("name", ["pirate", "poet"])
def test_the_demo_adapters_are_valid(run: Run, name: str) -> None:
    for args in ((), ("--model", str(model_path()))):
        code, out, err = run("validate", str(adapter_path(name)), *args)
        assert (code, err) == (0, "") and out.startswith("ok: rank ")


def test_an_adapter_that_would_be_refused_is_told_in_one_line(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(adapter_path("pirate"), broken)
    (broken / "adapter_model.safetensors").unlink()
    for path, args in (
        (tmp_path / "absent", ()), (tmp_path, ()), (broken, ()), (adapter_path("pirate"), ("--max-lora-rank", "1")),
    ):  # fmt: skip
        code, out, err = run("validate", str(path), *args)
        assert (code, out) == (1, "") and err.startswith("error: ") and err.count("\n") == 1


def test_bench_measures_and_leaves_nothing(cluster: Cluster, run: Run) -> None:
    code, out, _ = run("bench", "--cycles", "3")
    lines = out.splitlines()
    assert code == 0 and lines[0].split() == ["mean", "ms", "p50", "ms", "p95", "ms"]
    assert [line[: line.index("  ")] for line in lines[1:]] == ["load", "first token", "unload"]
    assert all(float(number) > 0 for line in lines[1:] for number in line.split()[-3:])
    loads = [body for body in cluster.changes() if body and "lora_path" in body]
    assert loads == [{"lora_name": "bench-lora", "lora_path": str(adapter_path("pirate"))}] * 3
    assert cluster.adapters == {} and cluster.routes().count("/v1/unload_lora_adapter") == 3


def test_bench_never_unloads_what_it_did_not_load(cluster: Cluster, run: Run) -> None:
    cluster.adapters["sql"] = an_adapter("sql")
    code, _, err = run("bench", "sql", "/a")
    assert code == 1 and "bench needs one that it may unload" in err
    assert list(cluster.adapters) == ["sql"] and cluster.routes() == ["/v1/lora_adapters/sql"]


def test_bench_that_fails_leaves_nothing(cluster: Cluster, run: Run) -> None:
    cluster.refusals["/v1/completions"] = (500, "the engine broke")
    assert run("bench", "mine", "/a") == (1, "", "error: the engine broke\n")
    assert cluster.adapters == {}
    cluster.refusals = {"/v1/load_lora_adapter": (400, "no adapter there")}
    assert run("bench", "mine", "/a") == (2, "", "error: no adapter there\n")
    cluster.refusals, cluster.ready = {}, False
    code, _, err = run("bench", "mine", "/a")
    assert code == 1 and "no worker is ready" in err and cluster.adapters == {}


def test_bench_that_cannot_clean_up_says_so(cluster: Cluster, run: Run) -> None:
    cluster.refusals = {"/v1/unload_lora_adapter": (503, "busy"), "/v1/completions": (500, "the engine broke")}
    code, _, err = run("bench", "mine", "/a")
    assert (code, err) == (1, "mine may still be loaded: busy\nerror: the engine broke\n")


@pytest.mark.processes
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_bench_that_is_interrupted_leaves_nothing(cluster: Cluster, number: signal.Signals, code: int) -> None:
    cluster.hold_tokens.clear()
    # A shell that starts tests in the background has them ignore SIGINT, and children inherit that.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from cluster.cli import main; main()"
    )
    process = subprocess.Popen([sys.executable, "-c", program, "lora", "bench"], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + DEADLINE
        while "/v1/completions" not in cluster.routes():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err.strip()) == (code, "") and cluster.adapters == {}
