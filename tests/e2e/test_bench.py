"""`clusterctl bench` on a cluster of simulated workers."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness import CLI, Cluster, environment, poll
from worker.demo import adapters


def _result(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("*.json")
    return dict(json.loads(file.read_text()))


def test_a_closed_loop_with_its_files(paced_sim: Cluster, tmp_path: Path) -> None:
    args = ("--requests", "20", "--concurrency", "4", "--max-tokens", "8", "--ignore-eos", "--out", str(tmp_path))
    result = paced_sim.run("bench", "--model", "demo", *args)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("demo: 20 answered, 0 failed") and "time per output token" in result.stdout
    found = _result(tmp_path)
    total = found["total"]
    assert (total["completed"], total["output_tokens"], total["errors"]) == (20, 160, {})
    assert total["ttft_ms"]["min"] >= 20 and total["tpot_ms"]["mean"] >= 18
    assert total["e2el_ms"]["min"] >= 20 + 7 * 18
    assert len(found["requests"]) == 20 and all(r["prompt_tokens"] > 0 for r in found["requests"])
    assert [file.suffix for file in sorted(tmp_path.iterdir())] == [".json", ".png"]


def test_an_open_loop_over_all_adapters(paced_sim: Cluster) -> None:
    load = ("--adapters", "zipf:1.0", "--rate", "60", "--requests", "60")
    result = paced_sim.run("bench", *load, "--max-tokens", "2", "--endpoint", "completions", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    models = found["models"]
    assert set(models) == set(adapters()) and sum(m["completed"] for m in models.values()) == 60
    assert found["total"]["planned_e2el_ms"]["min"] >= 20 and found["settings"]["adapters"] == "zipf:1"
    first, *_, last = [models[name]["completed"] for name in _in_order(paced_sim) if name in models]
    assert first > last


def _in_order(cluster: Cluster) -> list[str]:
    return [model["id"] for model in httpx.get(f"{cluster.url}/v1/models", timeout=5).json()["data"]]


def test_every_model_one_after_the_other_for_a_while(paced_sim: Cluster) -> None:
    load = ("--duration", "0.3", "--concurrency", "2", "--max-tokens", "2")
    result = paced_sim.run("bench", "--model", "all", *load, "--json")
    found = json.loads(result.stdout)
    assert result.returncode == 0 and list(found["models"]) == _in_order(paced_sim)
    assert all(m["completed"] > 0 and m["duration_s"] >= 0.3 for m in found["models"].values())
    assert found["total"]["duration_s"] == pytest.approx(sum(m["duration_s"] for m in found["models"].values()))


def test_a_settings_file_without_streams(paced_sim: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "bench.yaml"
    file.write_text(
        f"server: {{url: '{paced_sim.url}', model: demo}}\n"
        "test_params: {max_tokens: 4, temperature: 0.7, concurrent_requests: 2, stream: false}\n"
        "prompts:\n- What is a worker?\n- prompt: Why is the sky blue?\n  output_tokens: 3\n"
        "output: {log_dir: logs, save_individual_metrics: true, console_output: true}\n"
    )
    result = paced_sim.run("bench", "--url", paced_sim.url, "--config", str(file))
    assert result.returncode == 0 and "demo: 2 answered" in result.stdout, result.stderr
    found = _result(tmp_path / "logs")
    assert found["total"]["ttft_ms"] is None and found["total"]["e2el_ms"]["count"] == len(found["requests"]) == 2


def test_what_fails_is_counted_and_nothing_but_failures_is_a_failure(paced_sim: Cluster) -> None:
    result = paced_sim.run("bench", "--requests", "3", "--max-tokens", "100000")
    assert result.returncode == 1 and "0 answered, 3 failed" in result.stdout and "3 x HTTP 400" in result.stdout
    result = paced_sim.run("bench", "--model", "piratte")
    assert (result.returncode, result.stdout) == (1, "") and "did you mean 'pirate'" in result.stderr
    result = paced_sim.run("bench", "--url", "http://127.0.0.1:1")
    assert (result.returncode, result.stdout) == (1, "") and "no cluster at" in result.stderr


def test_ctrl_c_tells_the_results_so_far(paced_sim: Cluster, tmp_path: Path) -> None:
    before = _asked(paced_sim)
    command = [CLI, "bench", "--url", paced_sim.url, "--requests", "100000", "--max-tokens", "2"]
    command += ["--out", str(tmp_path), "--plot", "none"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        poll(lambda: _asked(paced_sim) > before + 20, 30, "it has begun")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    found = _result(tmp_path)
    assert found["interrupted"] and 0 < found["total"]["completed"] < 100000 and found["total"]["failed"] == 0
    assert "these are the results so far" in out and "Traceback" not in err


def _asked(cluster: Cluster) -> int:
    return sum(i["requests_total"] for i in cluster.status()["instances"].values())


def test_a_terminal_sees_how_far_it_is(paced_sim: Cluster) -> None:
    ours, theirs = pty.openpty()
    command = [CLI, "bench", "--url", paced_sim.url, "--requests", "100000", "--max-tokens", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment(TERM="xterm"))
    os.close(theirs)
    seen = b""
    try:
        def shown() -> bool:
            nonlocal seen
            seen += os.read(ours, 4096)
            return b"of 100000 answered" in seen and b"0 of 100000 answered" not in seen[-200:]

        poll(shown, 30, "a bar")
        process.send_signal(signal.SIGINT)
        while process.poll() is None:
            try:
                os.read(ours, 4096)
            except OSError:  # nobody writes there any more
                break
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode == 130 and b"demo" in seen
