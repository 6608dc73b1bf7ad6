"""`clusterctl bench`: what is measured for which flags and files, what it says, its exit codes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.cli import cli
from cluster.cli.workload import bench, bench_run
from cluster.client import ClusterError
from cluster.tools.bench.mix import Mix
from cluster.tools.bench.prompts import BenchPrompt
from cluster.tools.bench.run import BenchPlan
from cluster.tools.bench.samples import BenchRun, Sample
from config.errors import UsageError

LISTED = [{"id": "demo", "parent": None}, {"id": "sql", "parent": "demo"}, {"id": "poet", "parent": "demo"}]

GOOD = Sample("demo", 0.0, ttft=0.1, latency=0.3, gaps=[0.1, 0.1], prompt_tokens=5, output_tokens=3)
BAD = Sample("demo", 0.0, error="HTTP 503", detail="all workers are busy")


class Measured:
    """Stands for the measuring. ``plans``: what it was asked; ``samples``, ``signal``: what comes of it."""

    def __init__(self) -> None:
        self.plans: list[BenchPlan] = []
        self.samples = [GOOD]
        self.signal: int | None = None
        self.url: str | None = None

    def measure(self, plans: list[BenchPlan]) -> tuple[list[BenchRun], int | None]:
        self.plans = plans
        return [BenchRun(list(self.samples), 1.0) for _ in plans], self.signal

    def listed(self, url: str, key: str | None, model: str | None) -> list[dict[str, Any]]:
        self.url = url
        return LISTED


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    found = Measured()
    for name in ("CLUSTERCTL_URL", "CLUSTERCTL_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(bench, "_listed", found.listed)
    monkeypatch.setattr(bench_run, "measure", found.measure)
    return found


@pytest.fixture
def run(measured: Measured) -> Callable[..., Result]:
    return lambda *args: CliRunner().invoke(cli, ["bench", *args], standalone_mode=False)


@pytest.fixture
def plan(run: Callable[..., Result], measured: Measured) -> Callable[..., BenchPlan]:
    """The plan of the first run."""

    def ask(*args: str) -> BenchPlan:
        result = run(*args)
        assert result.exception is None, result.exception
        return measured.plans[0]

    return ask


# What is measured.


def test_told_nothing_it_asks_the_first_model_a_hundred_times(
    plan: Callable[..., BenchPlan], measured: Measured
) -> None:
    found = plan()
    assert (found.models, found.requests, found.concurrency, found.rate) == (("demo",), 100, 8, None)
    assert len(found.prompts) == 100 and found.form.stream and found.form.endpoint == "chat"
    assert found.form.url == measured.url == "http://127.0.0.1:8000" and found.form.api_key is None


def test_flags(plan: Callable[..., BenchPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERCTL_API_KEY", "secret")
    found = plan("--url", "http://there:1/v1/", "--rate", "2.5", "--duration", "3", "--no-stream", "--seed", "4")
    assert found.form.url == "http://there:1" and found.form.api_key == "secret" and not found.form.stream
    assert (found.rate, found.concurrency, found.requests, found.duration, found.seed) == (2.5, None, None, 3.0, 4)
    assert len(found.prompts) == 1000
    assert len(plan("--num-prompts", "3", "--requests", "9").prompts) == 3
    assert plan("--adapters", "zipf:1.5").mix == Mix(1.5) and plan("--adapters", "uniform").models == ("sql", "poet")


def test_all_models_are_a_run_each(plan: Callable[..., BenchPlan], measured: Measured) -> None:
    plan("--model", "all")
    assert [p.models for p in measured.plans] == [("demo",), ("sql",), ("poet",)]


def test_each_made_up_prompt_is_asked_once(plan: Callable[..., BenchPlan]) -> None:
    asked = plan("--num-prompts", "8")
    assert (asked.requests, len(asked.prompts)) == (8, 8)


def test_each_prompt_of_a_file_is_asked_once(plan: Callable[..., BenchPlan], tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\n")
    found = plan("--prompts-file", str(path))
    assert found.prompts == (BenchPrompt("one"), BenchPrompt("two")) and found.requests == 2
    assert plan("--prompts-file", str(path), "--requests", "7").requests == 7


# The settings file.

FILE = """
server: {url: "http://there:1", model: sql}
test_params: {concurrent_requests: 4, max_tokens: 16, temperature: 0.5, stream: false}
prompts: [one, two, three]
output: {log_dir: logs, save_individual_metrics: false, console_output: false}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bench.yaml"
    path.write_text(FILE)
    return path


def test_the_file_is_what_flags_would_be(
    plan: Callable[..., BenchPlan], file: Path, run: Callable[..., Result]
) -> None:
    found = plan("--config", str(file), "--plot", "none")
    assert (found.form.url, found.models, found.concurrency, found.requests) == ("http://there:1", ("sql",), 4, 3)
    assert (found.form.max_tokens, found.form.temperature, found.form.stream) == (16, 0.5, False)
    assert [prompt.content for prompt in found.prompts] == ["one", "two", "three"]
    (written,) = (file.parent / "logs").glob("*.json")
    body = json.loads(written.read_text())
    assert "requests" not in body and body["settings"]["temperature"] == 0.5
    assert "answered" not in run("--config", str(file), "--plot", "none").output


def test_flags_go_before_the_file(plan: Callable[..., BenchPlan], file: Path, tmp_path: Path) -> None:
    common = ("--config", str(file), "--out", str(tmp_path / "out"), "--plot", "none")
    found = plan(*common, "--model", "demo", "--rate", "3", "--stream", "--num-prompts", "2", "--max-tokens", "1")
    assert (found.models, found.rate, found.concurrency, found.form.stream) == (("demo",), 3.0, None, True)
    assert len(found.prompts) == 2 and str(found.prompts[0].content).startswith("000000") and found.form.max_tokens == 1
    assert not (file.parent / "logs").exists()
    assert "answered" in CliRunner().invoke(cli, ["bench", *common, "--table"], standalone_mode=False).output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("test_params: {concurrency: many}", "test_params.concurrency: 'many' is not a valid integer"),
        ("test_params: {concurrency: 1.5}", "test_params.concurrency: integer range is needed, not 1.5"),
        ("test_params: {concurrency: true}", "test_params.concurrency: integer range is needed, not true"),
        ("test_params: {concurrency: 0}", "test_params.concurrency: 0 is not in the range"),
        ("test_params: {stream: 7}", "test_params.stream: boolean is needed, not 7"),
        ("test_params: {adapters: zip}", "test_params.adapters: 'zip' is neither"),
        ("test_params: {endpoint: chats}", "test_params.endpoint: 'chats' is not one of"),
        ("test_params: {rate: 1, concurrency: 2}", "concurrency and rate exclude each other"),
        ("test_params: {num_prompts: 3}\nprompts: [a]", "num_prompts and prompts exclude each other"),
        ("test_parms: {}", "did you mean 'test_params'"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_in_a_line(
    run: Callable[..., Result], tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(text)
    error = run("--config", str(path)).exception
    assert isinstance(error, UsageError) and words in str(error) and str(path) in str(error)
    assert error.exit_code == 2 and "\n" not in str(error)


@pytest.mark.parametrize(
    "args",
    [
        ("--rate", "1", "--concurrency", "2"), ("--prompts-file", "x", "--num-prompts", "2"), ("--adapters", "zopf"),
        ("--requests", "0"), ("--rate", "0"), ("--config", "absent.yaml"), ("--compare", "a.json"), ("--plot", "gif"),
        ("--prompts-file", "absent.txt"), ("--compare", "a.json", "b.json"),
    ],
)  # fmt: skip
def test_wrong_usage(run: Callable[..., Result], measured: Measured, args: tuple[str, ...]) -> None:
    error = run(*args).exception
    assert getattr(error, "exit_code", None) == 2 and measured.plans == []


# What comes of it.


def test_the_exit_code_tells_whether_anything_was_measured(run: Callable[..., Result], measured: Measured) -> None:
    assert run().return_value == 0
    measured.samples = [GOOD, BAD]
    assert run().return_value == 0
    measured.samples = [BAD, BAD]
    result = run()
    assert result.return_value == 1 and "2 x HTTP 503: all workers are busy" in result.output
    measured.samples = []
    assert run().return_value == 1
    measured.samples, measured.signal = [GOOD], signal.SIGINT
    result = run()
    assert result.return_value == 130 and "interrupted: these are the results so far" in result.output


def test_the_table_and_the_json(run: Callable[..., Result], measured: Measured) -> None:
    lines = run().output.splitlines()
    assert lines[0] == "demo: 1 answered, 0 failed, in 1.00 s"
    assert lines[2].split() == ["mean", "median", "p95", "p99", "min", "max"]
    assert next(line.split()[-6:] for line in lines if line.startswith("end to end")) == ["300.00"] * 6
    body = json.loads(run("--json").output)
    assert body["total"]["e2el_ms"]["p99"] == 300 and body["settings"]["requests"] == 100 and "requests" not in body
    measured.samples = [GOOD, Sample("sql", 0.0, latency=0.1, output_tokens=1)]
    lines = run().output.splitlines()
    assert lines[0].startswith("all models: 2 answered") and lines[-1].split()[:3] == ["sql", "1", "0"]


def test_what_a_server_says_does_not_move_the_cursor(run: Callable[..., Result], measured: Measured) -> None:
    measured.samples = [Sample("\x1b[2Jmodel", 0.0, error="HTTP 500", detail="\x1b]0;title\x07[bold]no")]
    output = run().output
    assert "\x1b" not in output and "\x07" not in output and "[bold]no" in output


def test_results_are_kept_side_by_side(run: Callable[..., Result], tmp_path: Path) -> None:
    for _ in range(3):
        assert run("--out", str(tmp_path / "new" / "out"), "--plot", "svg").return_value == 0
    files = sorted((tmp_path / "new" / "out").glob("*.json"))
    assert len(files) == 3 and all(file.with_suffix(".svg").exists() for file in files)
    assert json.loads(files[0].read_text())["requests"][0]["ttft_ms"] == 100.0
    result = run("--compare", str(files[0]), str(files[1]))
    assert result.return_value == 0 and "1.000" in result.output and "worse" not in result.output


def test_without_matplotlib_the_json_is_written_all_the_same(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.tools.bench import plot

    def missing(*args: object) -> None:
        raise UsageError(plot.MISSING)

    monkeypatch.setattr(plot, "draw", missing)
    result = run("--out", str(tmp_path))
    assert result.return_value == 0 and "clusterctl[plot]" in result.stderr and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_is_told_before_anything_is_measured(
    run: Callable[..., Result], measured: Measured, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    error = run("--out", str(tmp_path / "file")).exception
    assert isinstance(error, UsageError) and "--out" in str(error) and measured.plans == []


def test_a_server_without_a_list_of_models_is_asked_for_the_named_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        def __init__(self, url: str, key: str | None, **trust: object) -> None:
            pass

        __enter__ = lambda self: self  # noqa: E731

        def __exit__(self, *args: object) -> None:
            pass

        def models(self) -> list[dict[str, Any]]:
            raise ClusterError("not found", 404)

    monkeypatch.setattr(bench, "ClusterClient", Server)
    assert bench._listed("x", None, "mine") == []
    with pytest.raises(ClusterError):
        bench._listed("x", None, None)
