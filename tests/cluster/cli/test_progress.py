"""How far a job is, on a terminal and in a file; a job that a command has done itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from cluster.cli import progress
from cluster.cli.job_display import JobDisplay, sentence
from cluster.cli.progress import JobPlace, run_job
from cluster.client import ClusterClient, ClusterError
from config.errors import UsageError
from config.jobs.folder import JobSpec
from config.jobs.said import JobNote, JobProgress
from harness import free_port

KINDS = str(Path(__file__).parents[2] / "jobkinds")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (JobProgress("fetch", 1536, 3072, "bytes"), "fetch: 1.5 KiB of 3.0 KiB, 50 %"),
        (JobProgress("fetch", 5 << 30, None, "B"), "fetch: 5.00 GiB"),
        (JobProgress("train", 3, 12, "steps", {"loss": 0.123456, "left": "2 min"}),
         "train: 3 of 12 steps, 25 %, loss 0.1235, left 2 min"),
        (JobProgress("check", 0, 0), "check: 0 of 0"),
        (JobProgress("check", 1), "check: 1"),
    ],
)  # fmt: skip
def test_a_sentence_says_how_far_it_is(said: JobProgress, words: str) -> None:
    assert sentence(said) == words


def shown(*said: JobProgress | JobNote, terminal: bool, step: float = 0.0) -> str:
    out, now = io.StringIO(), 0.0
    with JobDisplay(Console(file=out, width=200, force_terminal=terminal), lambda: now) as display:
        for each in said:
            now += step
            display.show(each)
    return out.getvalue()


def test_a_file_gets_the_first_and_the_last_of_a_stage_and_a_line_now_and_then() -> None:
    said = [*(JobProgress("a", done, 100) for done in range(101)), JobProgress("b", 0, 1), JobNote("well")]
    lines = shown(*said, terminal=False, step=0.3).splitlines()
    assert lines[0] == "a: 0 of 100, 0 %" and lines[-3] == "a: 100 of 100, 100 %"
    assert lines[1] == "a: 17 of 100, 17 %, 25 s left"
    assert lines[-2:] == ["b: 0 of 1, 0 %", "well"] and 5 < len(lines) < 12


def test_a_terminal_gets_a_bar_a_stage_of_the_latest() -> None:
    said = [JobProgress(f"stage {n}", 5, 10, "steps", {"loss": "low"}) for n in range(30)]
    out = shown(*said, terminal=True)
    last = out.rpartition("\x1b[2K")[2]
    assert "stage 29" in last and "5 of 10 steps, loss low" in last and "stage 17 " not in last and "of 100" not in out


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_job_says_moves_no_cursor(terminal: bool) -> None:
    evil = "a\x1b]0;title\x07[red]b"
    out = shown(JobProgress(evil, 1, 2, evil, {evil: evil}), JobNote(evil), terminal=terminal)
    assert "\x1b]0" not in out and "[red]b" in out and "\\x1b]0;title" in out


@pytest.mark.processes
def test_a_command_has_a_job_done_and_gets_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", KINDS)
    monkeypatch.setenv("CLUSTERCTL_ADMIN_KEY", "a secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    wanted = ["CLUSTERCTL_ADMIN_KEY", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"]
    out = io.StringIO()
    result = run_job(JobSpec("count", {"environment": wanted}), gpus=[1, 3], shown=Console(file=out, width=200))
    assert result == {
        "counted": 3,
        "sees": {"CLUSTERCTL_ADMIN_KEY": None, "CUDA_VISIBLE_DEVICES": "1,3", "OMP_NUM_THREADS": "1"},
    }
    assert "count: 3 of 3 steps, 100 %, loss 0.25" in out.getvalue()


@pytest.mark.processes
@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        (JobSpec("count", {"end": "fail"}), 1, "it counts no further"),
        (JobSpec("count", {"end": "kill"}), 1, "its process ended without a word"),
        (JobSpec("dance", {}), 2, "there are no jobs of the kind 'dance'"),
    ],
)
def test_a_job_that_fails_is_one_line(
    spec: JobSpec, code: int, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", KINDS)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UsageError, match=words) as error:
        run_job(spec, shown=Console(file=io.StringIO()))
    assert error.value.exit_code == code and not list(tmp_path.iterdir())


@pytest.fixture
def done_here(monkeypatch: pytest.MonkeyPatch) -> list[JobSpec]:
    """What was done without a cluster."""
    done: list[JobSpec] = []
    monkeypatch.setattr(progress, "_run_here", lambda spec, gpus, shown: done.append(spec) or {})
    monkeypatch.setenv("CLUSTERCTL_PORT", str(free_port()))
    return done


@pytest.mark.parametrize("place", [JobPlace(), JobPlace(here=True), JobPlace("http://192.0.2.7:8000")])
def test_where_no_cluster_of_this_machine_runs_a_command_does_it_itself(
    done_here: list[JobSpec], place: JobPlace
) -> None:
    assert run_job(JobSpec("count", {}), place) == {} and done_here == [JobSpec("count", {})]


def test_a_cluster_that_was_named_is_not_done_without(
    done_here: list[JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ClusterError, match="no cluster at"):
        run_job(JobSpec("count", {}), JobPlace(url))
    monkeypatch.setenv("CLUSTERCTL_URL", url)
    with pytest.raises(ClusterError, match="no cluster at"):
        run_job(JobSpec("count", {}), JobPlace())
    assert not done_here


@pytest.mark.parametrize("place", [JobPlace(detach=True), JobPlace("http://192.0.2.7:8000", detach=True)])
def test_nothing_is_left_to_a_cluster_that_there_is_not(done_here: list[JobSpec], place: JobPlace) -> None:
    with pytest.raises(UsageError, match="leave --detach away"):
        run_job(JobSpec("count", {}), place)
    assert not done_here


class Silent:
    """A cluster that answers no question about a job: with ``status``, or not at all."""

    def __init__(self, status: int | None) -> None:
        self.status, self.asked = status, 0

    def job_events(self, name: str, since: int) -> dict[str, Any]:
        self.asked += 1
        if self.asked > 100:
            return {"events": [], "next": 0, "over": True, "job": {"state": "done"}}
        raise ClusterError("no cluster", self.status)

    def job(self, name: str) -> dict[str, Any]:
        return {"result": {"found": True}}


def test_a_job_is_not_followed_for_long_where_nobody_listens_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that was brought down has ended its jobs; one without a supervisor gets another."""
    monkeypatch.setattr(progress, "_ASK_EVERY", 0.001)
    monkeypatch.setattr(progress, "_GONE", 0.0)
    with pytest.raises(ClusterError, match="no cluster"):
        progress.follow_job(cast(ClusterClient, ended := Silent(None)), "count-1")
    assert ended.asked == progress._QUESTIONS
    assert progress.follow_job(cast(ClusterClient, Silent(503)), "count-1") == {"found": True}
