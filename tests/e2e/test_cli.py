"""The command line: what it says, its exit codes, and bad input, as a person meets them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from harness import CLI, Cluster, clusterctl, environment, free_port, poll
from worker.demo import adapter_path


def _adapter(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "peft_type": "LORA"}))
    return folder


BAD = {
    "model path that does not exist": (["--model", "./nowhere"], 1, "no such file"),
    "adapter name twice": (["--lora", "a={adapter}", "--lora", "a={adapter}"], 2, "twice"),
    "broken YAML": (["--config", "{broken}"], 2, "line 2"),
    "unwritable state directory": (["--state-dir", "/proc/nowhere"], 1, "state directory"),
    "a backend that is no URL": (["--backend", "ftp://x"], 2, "http://"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_of_a_detached_start_is_one_clear_line_and_leaves_nothing_running(case: str, tmp_path: Path) -> None:
    """As of one in the foreground: `tests/cluster/cli/lifecycle/test_bad_input.py` has them all."""
    args, code, words = BAD[case]
    (tmp_path / "broken.yaml").write_text("instances: 3\nport: : 1\n")
    names = {"adapter": str(_adapter(tmp_path / "adapter")), "broken": str(tmp_path / "broken.yaml")}
    base = ["--engine", "sim", "--port", str(free_port()), "--state-dir", str(tmp_path / "state"), "--detach"]
    result = clusterctl("up", *base, *[a.format(**names) for a in args])
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("Usage:", "Try ", "\n")) and line]
    assert len(lines) == 1, result.stderr
    assert not list((tmp_path / "state" / "run").glob("*"))


@pytest.mark.parametrize("detach", [False, True])
def test_a_taken_port_is_said_before_anything_starts(cluster: Cluster, detach: bool) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", cluster.port))
        other.listen()
        args = ["--engine", "sim", "--port", str(cluster.port), "--state-dir", str(cluster.state_dir)]
        result = clusterctl("up", *args, *(["--detach"] if detach else []))
    assert result.returncode == 1
    assert f"127.0.0.1:{cluster.port}" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (cluster.state_dir / "run" / "instance_0").exists()


def test_a_start_that_fails_is_1_with_the_reason_and_the_last_lines(cluster: Cluster) -> None:
    args = ("--engine", "sim", "--instances", "1", "--", "--no-such-flag")
    result = cluster.up(*args, timeout=90, CLUSTERCTL_RESTART_DELAY="0.1")
    assert result.returncode == 1
    assert "crash loop" in result.stderr
    assert "--no-such-flag" in result.stderr
    assert not cluster.leftovers()


def test_a_start_is_over_when_the_workers_have_given_up_and_the_other_server_does_not_answer(cluster: Cluster) -> None:
    """Long before the startup timeout: nothing can become ready any more."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()  # takes connections and says nothing
        other = f"http://127.0.0.1:{mute.getsockname()[1]}"
        args = ("--engine", "sim", "--instances", "1", "--backend", other, "--", "--no-such-flag")
        result = cluster.up(*args, timeout=90, CLUSTERCTL_RESTART_DELAY="0.1")
    assert result.returncode == 1
    assert result.stderr.startswith("error: every worker has failed, and no other server answers")
    assert "instance_0: failed: exited with code 2; crash loop" in result.stderr
    assert "unrecognized arguments: --no-such-flag" in result.stderr
    assert "backend_0: starting: /v1/models: no answer in 5 s" in result.stderr
    assert not cluster.leftovers()


def test_a_status_says_when_it_is_old_and_changes_are_not_waited_for_without_end(shared_sim: Cluster) -> None:
    """The supervisor is there, and does not get to say a word."""
    assert "as of" not in shared_sim.run("status").stdout
    supervisor = shared_sim.status()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        poll(lambda: "2 of 2 ready" in (text := shared_sim.run("status").stdout) and " s ago" in text, 20, "its age")
        began = time.monotonic()
        result = shared_sim.run("lora", "list")
        assert (result.returncode, "the supervisor has not answered in 5 s" in result.stderr) == (1, True), result
        assert time.monotonic() - began < 15
        assert shared_sim.complete().status_code == 200
    finally:
        os.kill(supervisor, signal.SIGCONT)
    poll(lambda: " ago" not in shared_sim.run("status").stdout, 20, "it is of now again")


@pytest.mark.parametrize("timeout", ["0.01", "1"])
def test_a_start_that_takes_too_long_is_1_and_leaves_nothing(cluster: Cluster, timeout: str) -> None:
    """Neither once it waits for a worker, nor while its supervisor still loads."""
    result = cluster.up("--engine", "sim", "--startup-timeout", timeout, "--", "--startup-s", "30")
    assert result.returncode == 1
    assert f"within {timeout} s" in result.stderr
    assert not cluster.leftovers(), result.stderr


def test_the_commands_do_what_they_say(sim: Cluster) -> None:
    assert "3 of 3 ready" in sim.run("status").stdout
    assert json.loads(sim.run("status", "--json").stdout)["running_instances"] == 3
    assert "2 of 2 ready" in sim.run("scale", "-1").stdout
    assert "3 of 3 ready" in sim.run("scale", "+1").stdout
    assert "2 of 2 ready" in sim.run("scale", "2").stdout
    assert sim.run("strategy", "random").stdout == "strategy random\n"
    before = sim.instance("instance_0")["pid"]
    assert sim.run("restart", "instance_0").returncode == 0
    assert sim.instance("instance_0")["pid"] != before
    assert sim.run("restart", "--rolling").returncode == 0
    assert sim.run("weight", "instance_1", "4").returncode == 0
    assert "instance_1, start" in sim.run("logs", "instance_1").stdout
    assert "instance_0, start" in sim.run("logs").stdout
    assert sim.run("down").stdout == "down\n"
    gone = sim.run("status")
    assert gone.returncode == 1
    assert "no cluster at" in gone.stderr


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["scale", "99"], 1), (["scale", "0"], 1), (["restart", "instance_9"], 1), (["weight", "nobody", "3"], 1),
        (["logs", "nobody"], 1), (["nonsense"], 2),
    ],
)  # fmt: skip
def test_wrong_use_is_2_and_a_refusal_1(shared_sim: Cluster, args: list[str], code: int) -> None:
    """The former: `tests/cluster/cli/test_arguments.py`."""
    result = shared_sim.run(*args)
    assert result.returncode == code, result.stderr
    assert result.stderr.strip()
    assert "Traceback" not in result.stderr


def test_logs_follow_what_is_written(shared_sim: Cluster) -> None:
    log = shared_sim.state_dir / "logs" / "instance_0.log"
    follow = [CLI, "logs", "instance_0", "-f", "-n", "1"]
    with subprocess.Popen(follow, stdout=subprocess.PIPE, env=environment(CLUSTERCTL_URL=shared_sim.url)) as process:
        try:
            assert process.stdout is not None
            before = process.stdout.readline()  # from here on it follows
            with log.open("a") as file:
                file.write("a new line\n")
            assert process.stdout.readline() == b"a new line\n" != before
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 130


def test_in_the_foreground_an_interrupt_drains_and_ends_everything(cluster: Cluster) -> None:
    args = ["up", "--engine", "sim", "--instances", "2", "--port", str(cluster.port), "--state-dir"]
    with subprocess.Popen(
        [CLI, *args, str(cluster.state_dir)], stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        poll(lambda: _running(cluster) == 2, 20)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert "instance_0: ready" in said
    assert "shutting down" in said
    assert not cluster.leftovers()


def test_a_second_interrupt_does_not_wait_for_streams(cluster: Cluster) -> None:
    args = ["up", "--engine", "sim", "--port", str(cluster.port), "--state-dir", str(cluster.state_dir)]
    body = {"model": "demo", "prompt": "x", "max_tokens": 1000, "stream": True, "ignore_eos": True}
    with subprocess.Popen(
        [CLI, *args, "--", "--itl-ms", "50"], stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        poll(lambda: _running(cluster) == 1, 20)
        with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body, timeout=30) as response:
            pieces = response.iter_text()
            next(pieces)
            process.send_signal(signal.SIGTERM)
            poll(lambda: cluster.status()["supervisor"]["shutting_down"], 5)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
            assert time.monotonic() - began < 10
    assert not cluster.leftovers()


def _running(cluster: Cluster) -> int:
    try:
        return int(cluster.status()["running_instances"])
    except httpx.HTTPError:
        return -1


def test_settings_come_from_flags_environment_file_and_defaults_in_that_order(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("instances: 5\nstrategy: random\nqueue_timeout: 7\n")
    shown = clusterctl(
        "config", "show", "--config", str(file), CLUSTERCTL_STRATEGY="weighted", CLUSTER_INSTANCES="4"
    ).stdout
    assert "instances: 4 " in shown
    assert 'strategy: "weighted"' in shown
    assert "queue_timeout: 7.0" in shown
    assert "port: 8000" in shown
    result = clusterctl("config", "show", CLUSTERCTL_INSTANCE="3")
    assert (result.returncode, "CLUSTERCTL_INSTANCES" in result.stderr) == (2, True)


def test_config_validate_checks_without_starting(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("engine: sim\ninstances: 2\n")
    assert "ok: 2 x sim" in clusterctl("config", "validate", str(file)).stdout
    file.write_text("engine: sim\nmodel: ./nowhere\n")
    assert clusterctl("config", "validate", str(file)).returncode == 1


def test_the_life_of_an_adapter_by_command(shared_sim: Cluster, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(adapter_path("pirate"), one)
    shutil.copytree(adapter_path("poet"), two)
    assert shared_sim.run("lora", "validate", str(one)).returncode == 0
    assert shared_sim.run("lora", "load", "voice", str(one)).stdout == "voice: version 1 on 2 instances\n"
    assert shared_sim.run("lora", "load", "voice", str(two)).returncode == 1
    assert shared_sim.run("lora", "update", "voice", str(two)).stdout == "voice: version 2 on 2 instances\n"
    assert "voice" in shared_sim.run("lora", "list").stdout
    assert "voice" in shared_sim.run("lora", "show", "voice").stdout
    assert shared_sim.run("lora", "test", "voice", "hello", "--max-tokens", "5").returncode == 0
    assert shared_sim.run("lora", "rollback", "voice").stdout == "voice: version 1 on 2 instances\n"
    assert "p95" in shared_sim.run("lora", "bench", "--cycles", "2").stdout
    assert shared_sim.run("lora", "unload", "voice").returncode == 0
    gone = shared_sim.run("lora", "show", "voice")
    assert (gone.returncode, "voice" in gone.stderr) == (1, True)
    wrong = shared_sim.run("lora", "load", "other", str(tmp_path))
    assert (wrong.returncode, "holds 2 adapters (one, two)" in wrong.stderr) == (1, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_works(shell: str) -> None:
    source = clusterctl(_CLUSTERCTL_COMPLETE=f"{shell}_source").stdout
    assert "clusterctl" in source
    words = {"COMP_WORDS": "clusterctl st", "COMP_CWORD": "1"}
    if shell == "fish":
        words["COMP_CWORD"] = "st"
    offered = clusterctl(_CLUSTERCTL_COMPLETE=f"{shell}_complete", **words).stdout
    assert "status" in offered
    assert "strategy" in offered
