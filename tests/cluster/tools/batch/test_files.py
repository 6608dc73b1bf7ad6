from __future__ import annotations

import functools
import io
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.batch import files as batch_files
from cluster.tools.batch import lines as batch_lines
from cluster.tools.batch.files import BatchStep, Output, lines, steps
from cluster.tools.batch.lines import BatchRequest, Defaults, ask_of, failed, line_of
from config.errors import UsageError

PARSE = functools.partial(ask_of, defaults=Defaults("m"))


def _good(ask: BatchRequest) -> bytes:
    return line_of({"line": ask.number, "text": "t", "request_hash": ask.hash})


def _run(source: bytes, out: Output, stop: int | None = None, fails: tuple[int, ...] = ()) -> list[BatchStep]:
    """A run, that is killed after ``stop`` lines."""
    seen = []
    for step in steps(lines(io.BytesIO(source)), PARSE, out.name, out.kept(), out.earlier()):
        if step.ask is not None:
            if stop == 0:
                out.close()
                return seen
            stop = None if stop is None else stop - 1
            out.write(line_of(failed(step.ask, "no")) if step.ask.number in fails else _good(step.ask))
        elif step.copied:
            out.write(step.copied)
        seen.append(step)
    out.complete()
    out.close()
    return seen


SOURCE = b"".join(json.dumps({"prompt": f"p{n}"}).encode() + b"\n" for n in range(1, 8))


@given(cut=st.integers(0, 1000))
def test_wherever_it_was_cut_off_the_next_run_completes_it(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("out") / "out"
    _run(SOURCE, Output(path))
    whole = path.read_bytes()
    cut = cut % (len(whole) + 1)
    os.truncate(path, cut)
    seen = _run(SOURCE, Output(path))
    assert path.read_bytes() == whole
    asked = sum(step.ask is not None for step in seen)
    assert asked == 7 - whole[:cut].count(b"\n")


def test_only_what_is_missing_is_asked_and_errors_are_counted(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _run(SOURCE, Output(out), stop=4, fails=(2,))
    seen = _run(SOURCE, Output(out))
    assert [step.ask.number for step in seen if step.ask] == [5, 6, 7]
    assert [(step.kept, step.failed) for step in seen if step.kept] == [(4, 1)]
    assert seen[-1].offset == len(SOURCE)


def test_failed_lines_are_asked_again_and_stay_in_their_places(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _run(SOURCE, Output(out), fails=(2, 6))
    seen = _run(SOURCE, Output(out, retry=True))
    assert [step.ask.number for step in seen if step.ask] == [2, 6]
    assert [json.loads(line)["line"] for line in out.read_bytes().splitlines()] == [1, 2, 3, 4, 5, 6, 7]
    assert b"error" not in out.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_asking_again_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _run(SOURCE, Output(out), fails=(2, 6))
    before = out.read_bytes()
    _run(SOURCE, Output(out, retry=True), stop=1)
    assert out.read_bytes() == before
    seen = _run(SOURCE, Output(out, retry=True))
    assert [step.ask.number for step in seen if step.ask] == [6]
    assert b"error" not in out.read_bytes()
    assert len(out.read_bytes().splitlines()) == 7


def test_beginning_anew_forgets_an_asking_again_that_was_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _run(SOURCE, Output(out), fails=(2, 6))
    _run(SOURCE, Output(out, retry=True), stop=1)
    _run(SOURCE, Output(out, overwrite=True), fails=(2,))
    seen = _run(SOURCE, Output(out, retry=True))
    assert [step.ask.number for step in seen if step.ask] == [2]
    assert not any(step.kept for step in seen)


def test_asking_again_also_asks_what_was_never_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _run(SOURCE, Output(out), stop=4, fails=(2,))
    seen = _run(SOURCE, Output(out, retry=True))
    assert [step.ask.number for step in seen if step.ask] == [2, 5, 6, 7]


CHANGED = [SOURCE.replace(b"p2", b"q2"), SOURCE[SOURCE.index(b"\n") + 1 :], b'"new"\n' + SOURCE]


@pytest.mark.parametrize("changed", CHANGED)
def test_another_input_is_noticed(changed: bytes, tmp_path: Path) -> None:
    _run(SOURCE, Output(tmp_path / "out"), stop=5)
    before = (tmp_path / "out").read_bytes()
    out = Output(tmp_path / "out")
    with pytest.raises(UsageError, match="have changed"):
        _run(changed, out)
    out.close()
    assert (tmp_path / "out").read_bytes() == before
    _run(changed, Output(tmp_path / "out", overwrite=True))


def test_a_shorter_input_is_noticed_and_a_longer_one_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _run(SOURCE, Output(out))
    shorter = Output(out)
    with pytest.raises(UsageError, match="more lines"):
        _run(b"".join(SOURCE.splitlines(keepends=True)[:5]), shorter)
    shorter.close()
    seen = _run(SOURCE + b'"more"\n', Output(out))
    assert [step.ask.number for step in seen if step.ask] == [8]


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("my notes\n")
    out = Output(tmp_path / "out")
    with pytest.raises(UsageError, match="not the output of a run"):
        _run(SOURCE, out)
    out.close()
    assert (tmp_path / "out").read_text() == "my notes\n"


def test_two_runs_do_not_write_to_one_file(tmp_path: Path) -> None:
    first = Output(tmp_path / "out")
    with pytest.raises(UsageError, match="another run"):
        Output(tmp_path / "out")
    first.close()
    Output(tmp_path / "out").close()


def test_a_pipe_gets_everything(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    _run(SOURCE, Output(tmp_path / "pipe"))
    reader.join(5)
    assert got[0].count(b"\n") == 7


def test_where_nothing_can_be_written_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        Output(tmp_path / "no" / "out")
    with pytest.raises(UsageError, match="directory"):
        Output(tmp_path)


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="File name too long"):
        Output(tmp_path / ("x" * 300))


def test_empty_lines_and_a_mark_of_the_encoding_are_passed_over() -> None:
    found = list(lines(io.BytesIO(b'\xef\xbb\xbf"a"\r\n\n  \n"b"')))
    assert found == [(1, b'"a"', 8), (4, b'"b"', 15)]


def test_a_line_without_end_is_read_in_part_and_the_next_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (batch_files, batch_lines):
        monkeypatch.setattr(module, "LONGEST", 16)
    text = b'"short"\n' + b'"' + b"x" * 100 + b'"\n"next"\n' + b"y" * 20
    found = list(lines(io.BytesIO(text)))
    assert [(number, len(line), offset) for number, line, offset in found] == [
        (1, 7, 8), (2, 17, 111), (3, 6, 118), (4, 17, 138),
    ]  # fmt: skip
    asks = [batch_lines.ask_of(number, line, Defaults("m")) for number, line, _ in found]
    assert [ask.wrong for ask in asks] == ["", "longer than 16 bytes", "", "longer than 16 bytes"]


def test_a_line_of_more_values_than_any_prompt_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "_VALUES", 100)
    ask = batch_lines.ask_of(1, b'{"prompt": [' + b"1," * 200 + b"1]}", Defaults("m"))
    assert "more than the 100 values" in ask.wrong


@pytest.mark.parametrize("text", [b'[\n {"prompt": "q"}\n]', b'[{"prompt": "q"}]', b'\xef\xbb\xbf [ "a", "b" ]\r\n'])
def test_one_json_list_is_no_file_of_lines(text: bytes) -> None:
    with pytest.raises(UsageError, match=r"one JSON list; one request a line is needed: jq -c"):
        next(lines(io.BytesIO(text)))
    assert next(lines(io.BytesIO(text), plain=True))[0] == 1, "as texts they are prompts like others"


def test_marks_and_line_ends_of_other_systems_are_no_part_of_a_line() -> None:
    assert [line for _, line, _ in lines(io.BytesIO(b'\xef\xbb\xbf"a"\r\n\r\n"b"\r\n[1]'))] == [b'"a"', b'"b"', b"[1]"]
