"""`chat`, `infer` and `top`, as a person and a script meet them, on real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness import CLI, Cluster, clusterctl, environment, free_port, poll
from terminal import Terminal


def _terminal(cluster: Cluster, *args: str, **options: tuple[int, int]) -> Terminal:
    size = options.get("size", (30, 120))
    return Terminal(*args, size=size, CLUSTERCTL_URL=cluster.url)


def _in_flight(cluster: Cluster) -> int:
    return sum(i["in_flight"] for i in cluster.status()["instances"].values())


@contextlib.contextmanager
def _faulty(cluster: Cluster, **fault: object) -> Iterator[None]:
    """Every worker has that fault meanwhile."""
    instances = cluster.status()["instances"]
    for name in instances:
        cluster.fault(name, **fault)
    try:
        yield
    finally:
        for name in instances:
            cluster.ask_worker(name, "DELETE", "/sim/fault")


def test_a_chat_at_a_terminal(paced_sim: Cluster, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    with _terminal(paced_sim, "chat", "--temperature", "0", "--max-tokens", "12") as terminal:
        terminal.expect("demo> ")
        terminal.send("你好 \U0001f600 été\n")
        terminal.expect("demo · first token ")
        assert re.search(r"tokens/s", terminal.expect("demo> "))
        terminal.send("/model pir\t\n")
        terminal.expect("asking pirate from now on")
        terminal.expect("pirate> ")
        terminal.send('"""two\nlines"""\n')
        terminal.expect("pirate · first token ")
        terminal.expect("pirate> ")
        terminal.send(f"/save {saved}\n")
        terminal.expect("2 turns in")
        terminal.expect("pirate> ")
        terminal.send("\x04")
        code, _ = terminal.end()
        assert code == 0
        assert terminal.mode == terminal.before
    talk = json.loads(saved.read_text())
    assert [m["role"] for m in talk["messages"]] == ["user", "assistant"] * 2
    assert talk["messages"][0]["content"] == "你好 \U0001f600 été"
    assert talk["messages"][2]["content"] == "two\nlines"
    assert talk["model"] == "pirate"


def test_ctrl_c_stops_the_answer_alone_and_the_request_with_it(paced_sim: Cluster) -> None:
    with _faulty(paced_sim, kind="slow", factor=20), _terminal(paced_sim, "chat") as terminal:
        terminal.expect("demo> ")
        terminal.send("a long story\n")
        poll(lambda: _in_flight(paced_sim) == 1, 10, "it is asked")
        terminal.expect(" ")  # of the answer
        terminal.send("\x03")
        terminal.expect("stopped")
        terminal.expect("demo> ")
        poll(lambda: _in_flight(paced_sim) == 0, 5, "the worker is told")
        terminal.send("half a line\x03")
        terminal.expect("Ctrl-D leaves")
        terminal.send("/quit\n")
        assert terminal.end()[0] == 0


def test_a_turn_that_fails_leaves_the_chat_usable(paced_sim: Cluster) -> None:
    with _terminal(paced_sim, "chat", "--max-tokens", "4") as terminal:
        terminal.expect("demo> ")
        with _faulty(paced_sim, kind="error500"):
            terminal.send("hello\n")
            terminal.expect("error: ")
            terminal.expect("demo> ")
        terminal.send("/retry\n")
        terminal.expect("first token")
        terminal.expect("demo> ")
        terminal.send("\x04")
        assert terminal.end()[0] == 0


def test_a_chat_in_a_pipe(paced_sim: Cluster) -> None:
    def ask(given: bytes, *args: str) -> subprocess.CompletedProcess[bytes]:
        env = environment(CLUSTERCTL_URL=paced_sim.url)
        return subprocess.run([CLI, "chat", *args], input=given, capture_output=True, timeout=60, env=env, check=False)

    one = ask(b"", "--max-tokens", "5", "--temperature", "0", "one", "question")
    assert (one.returncode, one.stderr) == (0, b"")
    assert one.stdout.endswith(b"\n")
    assert one.stdout.strip()
    turns = ask("first\n/model poet\nsecond é\n".encode(), "--max-tokens", "5", "--stats")
    assert turns.returncode == 0
    assert [line.split()[0] for line in turns.stderr.splitlines()] == [b"demo", b"asking", b"poet"]
    whole = ask(b"a text\nof several lines \xff\n", "--max-tokens", "5", "Summarise:", "-")
    assert (whole.returncode, whole.stderr) == (0, b"")
    wrong = ask(b"/nonsense\nhello\n", "--max-tokens", "5")
    assert wrong.returncode == 1
    assert b"no command /nonsense" in wrong.stderr
    assert wrong.stdout.strip()
    assert ask(b"", "-m", "pirat", "x").stderr.startswith(b"error: no model 'pirat' (did you mean 'pirate'?)")


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def _requests(cluster: Cluster) -> int:
    return sum(i["requests_total"] for i in cluster.status()["instances"].values())


def test_a_batch_that_is_killed_goes_on_where_it_was(paced_sim: Cluster, tmp_path: Path) -> None:
    count = 150
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked = [{"prompt": f"p{n}", "max_tokens": 4 + n % 3, "ignore_eos": True, "temperature": 0} for n in range(count)]
    source.write_text("".join(json.dumps(line) + "\n" for line in asked))
    command = [CLI, "infer", "--in", str(source), "--out", str(target), "--url", paced_sim.url, "--concurrency", "4"]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment())
    try:
        poll(lambda: len(_lines(target)) >= 20, 30, "some lines are there")
    finally:
        first.send_signal(signal.SIGKILL)
        assert first.communicate(timeout=10)[1] == b""  # quiet without a terminal
    poll(lambda: _in_flight(paced_sim) == 0, 10, "its requests are over")
    there = len(_lines(target))
    assert 20 <= there < count
    with target.open("ab") as file:
        file.write(b'{"line": ')  # as a line that was being written
    before = _requests(paced_sim)
    again = clusterctl(*command[1:], "--concurrency", "32")
    assert again.returncode == 0, again.stderr
    assert _requests(paced_sim) - before == count - there
    assert f"{there} of them from before, 0 failed" in again.stderr
    answers = [json.loads(line) for line in _lines(target)]
    assert [answer["line"] for answer in answers] == list(range(1, count + 1))
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [line["max_tokens"] for line in asked]
    straight = paced_sim.complete(prompt=asked[7]["prompt"], max_tokens=5, ignore_eos=True, temperature=0).json()
    assert answers[7]["text"] == straight["choices"][0]["text"]
    source.write_text(source.read_text().replace("p3", "q3"))
    changed = clusterctl(*command[1:])
    assert changed.returncode == 1
    assert "have changed" in changed.stderr
    assert len(changed.stderr.splitlines()) == 1


def test_errors_are_lines_and_can_be_asked_again(paced_sim: Cluster, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    messages = [{"role": "user", "content": "hi"}]
    batch = {"custom_id": "c1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": messages}}
    lines = [{"prompt": "x"}, "a string", {"messages": messages}, batch, {"prompt": "x", "model": "nobody"}]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines) + "no json\n")
    place = ("infer", "--in", str(source), "--out", str(target), "--max-tokens", "2")
    result = paced_sim.run(*place)
    assert result.returncode == 1
    assert "6 lines, 2 failed (--retry-errors asks them again)" in result.stderr
    found = [json.loads(line) for line in _lines(target)]
    assert [bool(answer.get("error")) for answer in found] == [False, False, False, False, True, True]
    assert found[3]["custom_id"] == "c1"
    assert found[3]["response"]["body"]["usage"]["completion_tokens"] == 2
    assert found[4]["error"]["status"] == 404
    adapter = Path(paced_sim.status()["supervisor"]["state_dir"]) / "adapters"
    name = next(path for path in adapter.iterdir() if path.is_dir())
    loaded = paced_sim.run("lora", "load", "nobody", str(name))
    assert loaded.returncode == 0, loaded.stderr
    again = paced_sim.run(*place, "--retry-errors")
    assert again.returncode == 1
    assert "6 lines, 4 of them from before, 1 failed" in again.stderr
    assert [bool(json.loads(line).get("error")) for line in _lines(target)] == [False] * 5 + [True]
    assert paced_sim.run("lora", "unload", "nobody").returncode == 0


def test_a_batch_in_a_pipe(paced_sim: Cluster) -> None:
    env = environment(CLUSTERCTL_URL=paced_sim.url)
    result = subprocess.run(
        [CLI, "infer", "--in", "-", "--out", "-", "--text", "--chat", "--max-tokens", "3", "-m", "poet"],
        input="one\ntwo é\n".encode(), capture_output=True, timeout=60, env=env, check=False,
    )
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(a["line"], a["model"]) for a in answers] == [(1, "poet"), (2, "poet")]
    assert b"2 lines, 0 failed" in result.stderr


def test_without_an_input_no_output_is_made(paced_sim: Cluster, tmp_path: Path) -> None:
    result = paced_sim.run("infer", "--in", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    assert result.returncode == 2
    assert "No such file" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_bar_at_a_terminal_and_ctrl_c_says_how_to_go_on(paced_sim: Cluster, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    line = json.dumps({"prompt": "x", "max_tokens": 20, "ignore_eos": True})
    source.write_text(f"{line}\n" * 500)
    with _terminal(paced_sim, "infer", "--in", str(source), "--out", str(target), "-c", "4") as terminal:
        terminal.expect("tokens/s")
        terminal.expect("%")
        poll(lambda: len(_lines(target)) >= 4, 20, "some lines are there")
        terminal.send("\x03")
        code, shown = terminal.end()
    assert code == 130
    assert "the same command goes on from there" in shown
    assert "Traceback" not in shown


def test_top_at_a_terminal_lives_sorts_and_leaves_it_as_it_was(paced_sim: Cluster) -> None:
    with _terminal(paced_sim, "top", "--interval", "0.2") as terminal:
        terminal.expect("\x1b[?1049h")
        terminal.expect("2 of 2 ready")
        terminal.expect("instance_1")
        terminal.expect("sort: instance")
        assert terminal.mode != terminal.before
        body = {"model": "demo", "prompt": "x", "max_tokens": 400, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{paced_sim.url}/v1/completions", json=body, timeout=30) as stream:
            pieces = stream.iter_bytes()
            next(pieces)
            terminal.expect("1 in flight")
        terminal.send("s")
        terminal.expect("sort: in flight")
        terminal.send("p")
        terminal.expect("paused")
        terminal.send("p")
        terminal.resize(12, 50)
        os.killpg(terminal.process.pid, signal.SIGWINCH)

        def narrow() -> bool:
            """Of a screen that was drawn since: those of before may still be on their way."""
            terminal.seen = b""
            screen = terminal.expect("q quit")
            return "TTFT p50" in screen and "restarts" not in screen

        poll(narrow, 10, "fewer columns")
        terminal.send("q")
        code, shown = terminal.end()
        assert code == 0
        assert "\x1b[?1049l" in shown
        assert "\x1b[?25h" in shown
        assert terminal.mode == terminal.before


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_top_that_is_told_to_end_leaves_the_terminal_as_it_was(how: signal.Signals, paced_sim: Cluster) -> None:
    with _terminal(paced_sim, "top") as terminal:
        terminal.expect("q quit")
        terminal.process.send_signal(how)
        code, shown = terminal.end()
        assert code == 128 + how
        assert "\x1b[?1049l" in shown
        assert "Traceback" not in shown
        assert terminal.mode == terminal.before


def test_top_can_be_put_aside_and_comes_back(paced_sim: Cluster) -> None:
    with _terminal(paced_sim, "top") as terminal:
        terminal.expect("q quit")
        terminal.send("\x1a")
        terminal.expect("\x1b[?1049l")
        stat = Path(f"/proc/{terminal.process.pid}/stat")
        poll(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", 10, "it is stopped")
        assert terminal.mode == terminal.before
        terminal.process.send_signal(signal.SIGCONT)
        terminal.expect("\x1b[?1049h")
        terminal.expect("q quit")
        terminal.send("q")
        assert terminal.end()[0] == 0


def test_top_without_a_terminal_is_one_table(paced_sim: Cluster) -> None:
    result = paced_sim.run("top", "--interval", "0.2", "--sort", "in flight")
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    assert "2 of 2 ready" in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.startswith("instance_0"))
    assert row.split()[:2] == ["instance_0", "ready"]
    assert " ms" in row
    assert "instance_0 ready after" in result.stdout


def test_without_a_cluster_each_is_one_line() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for args in (("chat", "x"), ("infer", "--in", "-", "--out", "-"), ("top", "--once")):
        result = clusterctl(*args, "--url", url)
        assert result.returncode == 1
        assert result.stderr.startswith(f"error: no cluster at {url}")
        assert len(result.stderr.splitlines()) == 1
