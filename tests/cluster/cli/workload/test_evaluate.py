"""`eval` against a server of the API: figures, files, what a killed run leaves, how it is asked."""

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
from config.errors import UsageError
from harness import CLI, environment, poll
from openaiserver import Body, OpenAIServer, serving

WORDS = ["a", "the", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "quickly", "today"]


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def _sentence(seed: str) -> str:
    return " ".join(WORDS[_number(f"{seed} {place}") % len(WORDS)] for place in range(8))


def _answer(body: Body) -> str:
    """What model M says: the right words of a row, more or fewer of them."""
    question, model = body["messages"][-1]["content"], body["model"]
    right = _sentence(question).split()
    wrong = {"base": 5, "a": 2, "b": 0}[model.partition("@")[0]]
    for place in range(wrong):
        right[_number(f"{question} {place}") % len(right)] = "?"
    return " ".join(right)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with serving(OpenAIServer(_answer, ["base", "a", "b"])) as made:
        yield made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    rows = [{"question": f"question {n}", "answer": _sentence(f"question {n}")} for n in range(200)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _run(server: OpenAIServer, data: Path, *args: str, models: str = "base,a,b") -> Result:
    command = ["eval", "--url", server.url, "--data", str(data), "--models", models, "--out", str(data.parent / "out")]
    return CliRunner().invoke(cli, [*command, *args], standalone_mode=False)


ALL = ("--metric", "exact", "--metric", "contains", "--metric", "rouge", "--metric", "bleu")


@pytest.mark.processes
def test_the_figures_are_those_of_the_libraries(server: OpenAIServer, data: Path, tmp_path: Path) -> None:
    """200 rows and three models; the libraries are called by hand, and are what most of its time goes for."""
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    result = _run(server, data, *ALL, "--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "r.png"))
    assert (result.exception, result.return_value) == (None, 0)
    found = json.loads((tmp_path / "r.json").read_text())
    rouge = RougeScorer(["rougeL"])
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    right = [row["answer"] for row in rows]
    for model in ("base", "a", "b"):
        said = [_answer({"model": model, "messages": [{"content": row["question"]}]}) for row in rows]
        figures = {name: each["score"] for name, each in found["models"][model]["metrics"].items()}
        f1 = [rouge.score(r, s)["rougeL"].fmeasure for r, s in zip(right, said, strict=True)]
        assert figures == {
            "exact": sum(r == s for r, s in zip(right, said, strict=True)) / 200,
            "contains": sum(r in s for r, s in zip(right, said, strict=True)) / 200,
            "rouge": pytest.approx(sum(f1) / 200, abs=1e-12),
            "bleu": sacrebleu.corpus_bleu(said, [right], force=True).score,
        }
        sentences = [sacrebleu.sentence_bleu(s, [r]).score for r, s in zip(right, said, strict=True)]
        assert [row[model]["bleu"] for row in found["scores"]] == [round(value, 6) for value in sentences]
    assert found["models"]["b"]["metrics"]["exact"]["score"] == 1.0
    beside = {each["second"]: each["metrics"]["rouge"] for each in found["comparisons"]}
    assert beside["b"]["verdict"] == beside["a"]["verdict"] == "better"
    assert beside["b"]["better"] + beside["b"]["same"] + beside["b"]["worse"] == 200
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert "better" in result.output


def test_it_is_asked_alike_and_in_the_background(server: OpenAIServer, data: Path) -> None:
    assert _run(server, data, "--limit", "3", models="a").return_value == 0
    assert len(server.seen) == 3
    for seen in server.seen:
        assert seen.path == "/v1/chat/completions"
        assert seen.headers["Priority"] == "u=7"
        assert {name: seen.body[name] for name in ("model", "temperature", "seed", "max_tokens")} == {
            "model": "a", "temperature": 0.0, "seed": 0, "max_tokens": 512,
        }  # fmt: skip
    assert _run(server, data, "--limit", "3", "--urgent", "--overwrite", models="a").return_value == 0
    assert [seen.headers["Priority"] for seen in server.seen[3:]] == [None] * 3


@pytest.mark.processes
def test_a_killed_run_goes_on_and_comes_to_the_same(server: OpenAIServer, data: Path, tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        files = ["--out", str(tmp_path / out), "--json", str(tmp_path / f"{out}.json")]
        shown = ["--limit", "60", "--show", "3", "--metric", "rouge"]
        return [CLI, "eval", "--url", server.url, "--data", str(data), "--models", "base,a,b", *shown, *files]

    whole = subprocess.run(command("whole"), capture_output=True, text=True, env=environment(), check=True)
    server.seen.clear()
    server.delay = 0.05
    killed = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, env=environment())
    try:
        poll(lambda: len(server.seen) >= 75, 60, "the second model is asked")
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    kept = sum(file.read_bytes().count(b"\n") for file in (tmp_path / "killed").iterdir())
    assert 40 <= kept < 180
    with (tmp_path / "killed" / "answers-a.jsonl").open("ab") as torn:
        torn.write(b'{"line": 1')
    server.seen.clear()
    server.delay = 0.0
    again = subprocess.run(command("killed"), capture_output=True, text=True, env=environment(), check=True)
    assert len(server.seen) == 180 - kept, "nothing is asked twice"
    assert again.stdout == whole.stdout
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / file.name).read_bytes() == file.read_bytes()


def test_what_failed_counts_apart_and_is_asked_again(server: OpenAIServer, data: Path) -> None:
    right = server.answer
    server.answer = lambda body: (500, "poison") if body["messages"][-1]["content"].endswith("7") else right(body)
    first = _run(server, data, models="b")
    assert first.return_value == 1
    assert "20 requests failed" in first.output and "(poison)" in first.output
    server.answer, before = right, len(server.seen)
    again = _run(server, data, models="b")
    assert again.return_value == 0
    assert len(server.seen) - before == 20
    assert "failed," not in again.output


def test_a_score_that_is_missed_is_exit_code_1_in_one_line(server: OpenAIServer, data: Path) -> None:
    result = _run(server, data, "--min-score", "exact=0.5", "--min-score", "b:exact=1", models="a,b")
    assert result.return_value == 1
    assert [line for line in result.output.splitlines() if "min-score" in line] == [
        "below --min-score: a: exact 0, less than 0.5"
    ]
    assert _run(server, data, "--min-score", "0.5", models="b").return_value == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--metric", "regex"), "no pattern; --pattern"), (("--metric", "judge"), "go together"),
        (("--judge-model", "x"), "go together"), (("--metric", "regex", "--pattern", "("), "--pattern"),
        (("--min-score", "rouge=1"), "not measured"), (("--models", ","), "1 to 32"),
        (("--models", "basee"), "did you mean"), (("--models", "nobody"), "no model 'nobody'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_asked(
    server: OpenAIServer, data: Path, args: tuple[str, ...], words: str
) -> None:
    result = _run(server, data, *args)
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)
    assert result.exception.exit_code == 2
    assert not server.seen


def test_bad_rows_are_named_by_file_and_line(server: OpenAIServer, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"question": "q", "answer": "a"}\n{"question": ""}\n')
    result = _run(server, file)
    assert str(result.exception) == f"{file}: line 2: question has to be a text that is not empty"
    missing = _run(server, tmp_path / "nowhere.jsonl")
    assert str(missing.exception).endswith("nowhere.jsonl: No such file or directory")


def test_a_judge_gives_scores_from_wherever_it_is(server: OpenAIServer, data: Path, tmp_path: Path) -> None:
    verdicts: dict[str, str] = {"0": "no idea", "1": "Score: 3", "2": '{"reason": "good", "score": 9}'}

    def judge(body: Body) -> str | tuple[int, str]:
        if "response_format" in body:
            return 400, "response_format is not supported"
        return verdicts[json.loads(body["messages"][-1]["content"])["question"][-1]]

    key = tmp_path / "key"
    key.write_text("judges-key\n")
    with serving(OpenAIServer(judge)) as elsewhere:
        where = ("--judge-url", f"{elsewhere.url}/v4", "--judge-key-file", str(key))
        args = ("--metric", "judge", "--judge-model", "j", *where)
        result = _run(server, data, "--limit", "3", *args, "--json", str(tmp_path / "r.json"), models="a")
        assert result.return_value == 0
        found = json.loads((tmp_path / "r.json").read_text())["models"]["a"]
        assert (found["metrics"]["judge"]["score"], found["metrics"]["judge"]["rows"]) == (6.0, 2)
        assert found["unreadable_verdicts"] == 1
        assert "1 verdicts of the judge have no score" in result.output
        assert {seen.path for seen in elsewhere.seen} == {"/v4/chat/completions"}
        assert {seen.headers["Authorization"] for seen in elsewhere.seen} == {"Bearer judges-key"}
        assert all(seen.headers["Authorization"] is None for seen in server.seen)
        before = len(elsewhere.seen)
        assert _run(server, data, "--limit", "3", *args, models="a").return_value == 0
        assert len(elsewhere.seen) == before, "verdicts are kept, too"


def test_the_clusters_key_goes_to_the_cluster_alone(
    server: OpenAIServer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERCTL_API_KEY", "ours")
    with serving(OpenAIServer(lambda body: '{"reason": "", "score": 5}')) as elsewhere:
        judged = ("--metric", "judge", "--judge-model", "j", "--judge-url", elsewhere.url)
        assert _run(server, data, "--limit", "2", *judged, models="a").return_value == 0
        assert [seen.headers["Authorization"] for seen in server.seen] == ["Bearer ours"] * 2
        assert [seen.headers["Authorization"] for seen in elsewhere.seen] == [None] * 2


def test_versions_are_loaded_while_they_are_asked(server: OpenAIServer, data: Path) -> None:
    result = _run(server, data, "--limit", "5", "--show", "1", models="a@1,b@2")
    assert (result.exception, result.return_value) == (None, 0)
    (made, alias), (deleted, same) = server.changes
    assert (made, deleted) == ("PUT", "DELETE")
    assert alias == same and alias.startswith("/v1/cluster/aliases/temporary-")
    assert {seen.body["model"] for seen in server.seen} == {"a@1", "b@2"}
    assert "line 1\n" in result.output


def test_an_alias_that_a_killed_run_has_left_goes_in_the_end(server: OpenAIServer, data: Path) -> None:
    assert _run(server, data, "--limit", "1", models="a@1").return_value == 0
    name = server.changes[0][1].rpartition("/")[2]
    server.models += [name, "a@1"]
    server.changes.clear()
    assert _run(server, data, "--limit", "1", models="a@1").return_value == 0
    assert [method for method, _ in server.changes] == ["PUT", "DELETE"]
    server.models.append("a@1")  # somebody else has it served
    server.changes.clear()
    assert _run(server, data, "--limit", "1", models="a@1").return_value == 0
    assert server.changes == []


def test_texts_can_be_gone_on_with(server: OpenAIServer, data: Path) -> None:
    server.answer = lambda body: str(body["prompt"])
    assert _run(server, data, "--limit", "2", "--completions", models="a").return_value == 0
    assert [seen.path for seen in server.seen] == ["/v1/completions"] * 2


def test_other_options_do_not_mix_with_the_answers_of_before(server: OpenAIServer, data: Path) -> None:
    assert _run(server, data, "--limit", "2", models="a").return_value == 0
    other = _run(server, data, "--limit", "2", "--temperature", "1", models="a")
    assert "the options have changed" in str(other.exception)
    more = _run(server, data, "--limit", "4", models="a")
    assert more.return_value == 0
    assert len(server.seen) == 4


def test_what_strangers_write_is_shown_as_text(server: OpenAIServer, data: Path) -> None:
    said: Any = "\x1b[2J\u202e[red]x[/red]"
    server.answer = lambda body: said
    result = _run(server, data, "--limit", "1", "--show", "1", models="a")
    assert "\x1b" not in result.output and "\u202e" not in result.output
    assert r"\x1b[2J\u202e[red]x[/red]" in result.output
