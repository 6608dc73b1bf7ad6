"""What a job says is there for whoever reads, line by line, whatever happens to its process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.jobs.folder import LINES, JobFollower, JobSpec, read_spec, write_spec
from config.jobs.said import MOST_OF_A_LINE, JobFailure, JobNote, JobProgress, JobResult, decode, encode
from worker.jobs import __main__ as entry
from worker.jobs import kinds
from worker.jobs.job import Cancelled, Job, JobFailed

TEXTS = st.text(st.characters(codec="utf-8"), max_size=50)
NUMBERS = st.floats(0, 1e9)
SAID = st.one_of(
    st.builds(JobProgress, TEXTS, NUMBERS, st.none() | NUMBERS, TEXTS, st.dictionaries(TEXTS, TEXTS)),
    st.builds(JobNote, TEXTS), st.builds(JobResult, st.dictionaries(TEXTS, TEXTS)),
    st.builds(JobFailure, TEXTS, st.sampled_from([400, 500])),
)


@given(SAID)
def test_a_line_says_what_was_said(said: Any) -> None:
    line = encode(said)
    assert line.endswith(b"\n") and b"\n" not in line[:-1]
    assert decode(line) == said


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[1]", b"7", b'{"progress":{}}', b'{"note":{"text":"a"},"x":1}', b'{"no', b"\xff"]
)
def test_what_is_no_line_says_nothing(line: bytes) -> None:
    assert decode(line) is None


@given(st.lists(SAID, max_size=8), st.integers(1, 40))
def test_a_follower_hears_everything_once(tmp_path_factory: Any, said: list[Any], step: int) -> None:
    folder = tmp_path_factory.mktemp("job")
    follower, heard = JobFollower(folder), []
    data = b"".join(map(encode, said))
    with (folder / LINES).open("ab", buffering=0) as file:
        for start in range(0, len(data), step):
            file.write(data[start : start + step])
            heard += follower.read()
    assert heard == said


def test_a_line_too_long_for_anybody_is_skipped_and_the_next_is_heard(tmp_path: Path) -> None:
    follower = JobFollower(tmp_path)
    (tmp_path / LINES).write_bytes(b"x" * (2 * MOST_OF_A_LINE) + b"\n" + encode(JobNote("after")))
    assert list(follower.read()) == [JobNote("after")]


def test_a_specification_is_read_as_it_was_written(tmp_path: Path) -> None:
    spec = JobSpec("pull", {"source": "hf://a/b", "n": 3}, background=True)
    write_spec(tmp_path / "job", spec)
    assert read_spec(tmp_path / "job") == spec
    assert (tmp_path / "job").stat().st_mode & 0o777 == 0o700


def test_progress_in_between_is_left_out_but_never_a_beginning_or_an_end(tmp_path: Path) -> None:
    now = 0.0
    job = Job(tmp_path, lambda: now)
    for done in range(101):
        now += 0.01
        job.progress("download", done, 100, "bytes")
    job.progress("check", 0, 1)
    said = [each for each in JobFollower(tmp_path).read() if isinstance(each, JobProgress)]
    assert said[0].done == 0 and said[-2].done == 100 and said[-1].stage == "check"
    assert 4 < len(said) < 12


class JobWork:
    def __init__(self, act: Any) -> None:
        self.act = act

    def run(self, arguments: Any, job: Job) -> Any:
        return self.act(arguments, job)


def raises(error: BaseException) -> Any:
    def act(arguments: Any, job: Job) -> Any:
        raise error
    return act


@pytest.mark.parametrize(
    ("act", "code", "end"),
    [
        (lambda arguments, job: {"sum": sum(arguments["of"])}, 0, JobResult({"sum": 6})),
        (raises(JobFailed("no such adapter", 404)), 1, JobFailure("no such adapter", 404)),
        (raises(Cancelled()), 1, JobFailure("cancelled", 499)),
        (raises(OSError(28, "No space left on device")), 1, JobFailure("[Errno 28] No space left on device", 507)),
        (raises(KeyError("x")), 1, JobFailure("KeyError: 'x'", 500)),
    ],
)
def test_each_end_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Any, code: int, end: Any
) -> None:
    monkeypatch.setattr(entry, "work", lambda kind: JobWork(act))
    monkeypatch.setattr(entry.signal, "signal", lambda *_: None)
    write_spec(tmp_path, JobSpec("any", {"of": [1, 2, 3]}))
    assert entry.run(tmp_path) == code
    assert list(JobFollower(tmp_path).read()) == [end]


def test_an_unknown_kind_and_a_missing_library_say_what_to_do(tmp_path: Path) -> None:
    write_spec(tmp_path, JobSpec("dance", {}))
    assert entry.run(tmp_path) == 1
    assert list(JobFollower(tmp_path).read()) == [JobFailure("there are no jobs of the kind 'dance'", 400)]
    with pytest.raises(JobFailed, match=r"needs no_such_module: pip install 'clusterctl\[hub\]'"):
        kinds.require("hub", "json", "no_such_module")
