"""`data generate` against a server of the API: rows, duplicates, bounds, and what a killed run leaves."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.cli import cli
from cluster.client import ClusterError
from config.errors import UsageError
from harness import CLI, environment, poll
from openaiserver import Body, OpenAIServer, serving


def _sentence(seed: str) -> str:
    return " ".join(hashlib.sha256(f"{seed} {place}".encode()).hexdigest()[:6] for place in range(8))


def _answer(body: Body) -> str:
    """Four new rows a request, and one that is always the same."""
    asked = body["messages"][-1]["content"]
    if "topics" in asked:
        return json.dumps({"topics": [f"topic {n}" for n in range(7)]})
    rows = [{"question": _sentence(f"{asked} {body['seed']} {n}"), "answer": f"answer {n}"} for n in range(4)]
    return json.dumps({"rows": [*rows, {"question": "Always the same?", "answer": "yes"}]})


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with serving(OpenAIServer(_answer, ["base"])) as made:
        yield made


def _command(server: OpenAIServer, out: Path, *args: str, count: int = 50) -> list[str]:
    where = ["--url", server.url, "--model", "m", "--out", str(out)]
    return ["data", "generate", "--domain", "tea", "--count", str(count), *where, *args]


def _run(server: OpenAIServer, out: Path, *args: str, count: int = 50) -> Result:
    return CliRunner().invoke(cli, _command(server, out, *args, count=count), standalone_mode=False)


def _rows(out: Path) -> list[Any]:
    return [json.loads(line)["messages"] for line in out.read_text().splitlines()]


def test_so_many_new_rows_are_written_for_training(server: OpenAIServer, tmp_path: Path) -> None:
    out = tmp_path / "d.jsonl"
    result = _run(server, out, "--language", "Chinese", "--system", "Be brief.")
    assert (result.exception, result.return_value) == (None, 0)
    rows = _rows(out)
    assert len(rows) == 50
    assert len({row[1]["content"] for row in rows}) == 50
    assert {tuple(message["role"] for message in row) for row in rows} == {("system", "user", "assistant")}
    assert result.output.startswith(f"50 rows in {out}, 14 answers, 1,400 tokens, 11 repeated")
    assert len(server.seen) <= 14, "no more is asked than is needed"
    for seen in server.seen:
        assert "Chinese" in seen.body["messages"][-1]["content"]
        assert seen.body["response_format"]["type"] == "json_schema"
        assert seen.headers["Authorization"] is None
    asked = {seen.body["messages"][-1]["content"] for seen in server.seen}
    assert len(asked) == len(server.seen), "no two are asked alike"


def test_more_is_gone_on_with_and_nothing_is_asked_twice(server: OpenAIServer, tmp_path: Path) -> None:
    out = tmp_path / "d.jsonl"
    _run(server, out, "--concurrency", "1")
    before, asked = _rows(out), len(server.seen)
    assert _run(server, out, "--concurrency", "1").return_value == 0
    assert len(server.seen) == asked
    assert _run(server, out, "--concurrency", "1", count=70).return_value == 0
    assert _rows(out)[:50] == before
    with serving(OpenAIServer(_answer)) as other:
        assert _run(other, tmp_path / "at once.jsonl", "--concurrency", "1", count=70).return_value == 0
        assert len(other.seen) == len(server.seen)
    assert (tmp_path / "at once.jsonl").read_bytes() == out.read_bytes()


@pytest.mark.processes
def test_a_killed_run_goes_on_and_comes_to_the_same(server: OpenAIServer, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    assert _run(server, whole).return_value == 0
    server.seen.clear()
    server.delay = 0.1
    first = subprocess.Popen([CLI, *_command(server, killed, "--concurrency", "2")], env=environment())
    try:
        poll(lambda: killed.exists() and killed.read_bytes().count(b"\n") >= 8, 60, "some rows are there")
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    journal = tmp_path / "killed.jsonl.answers"
    kept = journal.read_bytes().count(b"\n")
    for file in (killed, journal):
        with file.open("ab") as torn:
            torn.write(b'{"mess')
    server.seen.clear()
    server.delay = 0.0
    assert _run(server, killed).return_value == 0
    assert len(server.seen) <= 14 - kept
    assert killed.read_bytes() == whole.read_bytes()


def test_a_budget_ends_it(server: OpenAIServer, tmp_path: Path) -> None:
    out = tmp_path / "d.jsonl"
    result = _run(server, out, "--budget", "850")
    assert result.return_value == 1
    assert len(server.seen) == 8
    assert "fewer than 50: the budget is used up" in result.output
    assert _run(server, out, "--budget", "5000").return_value == 0


def test_without_usage_tokens_are_estimated_and_it_says_so(server: OpenAIServer, tmp_path: Path) -> None:
    server.usage = False
    assert "about " in _run(server, tmp_path / "d.jsonl").output


def test_a_model_that_repeats_itself_is_not_asked_for_ever(server: OpenAIServer, tmp_path: Path) -> None:
    server.answer = lambda body: json.dumps([{"question": "Always the same?", "answer": "yes"}])
    result = _run(server, tmp_path / "d.jsonl")
    assert result.return_value == 1
    assert "1 rows" in result.output and "answers brought nothing new" in result.output
    assert len(server.seen) < 60


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_that_all_requests_would_get_ends_it(server: OpenAIServer, tmp_path: Path, status: int) -> None:
    server.answer = lambda body: (status, "no such thing")
    result = _run(server, tmp_path / "d.jsonl")
    assert isinstance(result.exception, ClusterError)
    assert "no such thing; " in str(result.exception)
    assert len(server.seen) <= 2
    server.answer = _answer
    assert _run(server, tmp_path / "d.jsonl").return_value == 0


def test_a_failure_now_and_then_is_no_end(server: OpenAIServer, tmp_path: Path) -> None:
    server.answer = lambda body: (500, "poison") if body["seed"] % 3 == 1 else _answer(body)
    result = _run(server, tmp_path / "d.jsonl")
    assert result.return_value == 0
    assert " failed" in result.output


def test_examples_are_shown_and_not_asked_again(server: OpenAIServer, tmp_path: Path) -> None:
    examples = tmp_path / "seeds.jsonl"
    examples.write_text('{"question": "Always the same?", "answer": "yes"}\n{"question": "Old one", "answer": "no"}\n')
    out = tmp_path / "d.jsonl"
    assert _run(server, out, "--seed-file", str(examples)).return_value == 0
    assert "Always the same?" not in out.read_text()
    assert all("Old one" in seen.body["messages"][-1]["content"] for seen in server.seen[1:])


def test_a_key_is_from_a_file_or_the_environment_and_the_clusters_goes_nowhere_else(
    server: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERCTL_API_KEY", "ours")
    monkeypatch.setenv("CLUSTERCTL_ADMIN_KEY", "ours too")
    monkeypatch.setenv("THEIR_KEY", "theirs")
    key = tmp_path / "key"
    key.write_text("in a file\n")
    found = []
    for number, args in enumerate(((), ("--key-env", "THEIR_KEY"), ("--key-file", str(key)))):
        server.seen.clear()
        assert _run(server, tmp_path / f"{number}.jsonl", *args, count=4).return_value == 0
        found.append({seen.headers["Authorization"] for seen in server.seen})
    assert found == [{None}, {"Bearer theirs"}, {"Bearer in a file"}]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--key-env", "NOT_THERE"), "environment NOT_THERE: no key in it"), (("--domain", " "), "--domain is empty"),
        (("--key-file", "/nowhere"), "/nowhere: No such file"), (("--key-file", "/dev/null"), "the key is empty"),
        (("--seed-file", "/dev/null"), "no row in it"), (("--system", "x" * 5000), "--system: longer than 4000"),
        (("--model", ""), "--model NAME is needed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_asked(
    server: OpenAIServer, tmp_path: Path, args: tuple[str, ...], words: str
) -> None:
    result = _run(server, tmp_path / "d.jsonl", *args)
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)
    assert not server.seen


def test_what_another_run_wrote_is_left_alone(server: OpenAIServer, tmp_path: Path) -> None:
    out = tmp_path / "d.jsonl"
    assert _run(server, out, count=8).return_value == 0
    written = out.read_bytes()
    for args in (("--domain", "coffee"), ("--seed", "9")):
        assert "the domain or the options have changed" in str(_run(server, out, *args).exception)
    assert out.read_bytes() == written
    out.write_bytes(written[:-20] + b'dited"}]}\n')
    assert "was changed since" in str(_run(server, out).exception)
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"mine": 1}')
    assert "not written here" in str(_run(server, mine).exception)
    assert mine.read_text() == '{"mine": 1}'
    assert _run(server, out, "--overwrite", "--domain", "coffee", count=8).return_value == 0
