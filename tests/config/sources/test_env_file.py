"""How files of environment variables are read, and that their values win over nothing that is set."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.errors import UsageError
from config.sources import env_file


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        ("A=1", ("A", "1")), ("  export A_b1 = x y  ", ("A_b1", "x y")), ("A=", ("A", "")), ("A=a=b", ("A", "a=b")),
        ("A=a#b # said", ("A", "a#b")), ("A=#b", ("A", "")), ("A='a # \"b\\n' # said", ("A", 'a # "b\\n')),
        ('A="a # \\"b\\"\\n\\\\"', ("A", 'a # "b"\n\\')), ("A=$HOME/${X}", ("A", "$HOME/${X}")),
        ("", None), ("   # A=1", None), ("A=é", ("A", "é")),
    ],
)  # fmt: skip
def test_a_line(line: str, pair: tuple[str, str] | None) -> None:
    assert env_file.parse(line) == pair


@pytest.mark.parametrize("line", ["A", "1A=x", "A B=x", "=x", "A-B=s3cret", "A='s3cret", 'A="s3cret\\"', "A='s3cret'x"])
def test_what_is_no_line_is_refused_and_its_value_not_shown(line: str) -> None:
    with pytest.raises(ValueError) as error:
        env_file.parse(line)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "PYTHONPATH", "CLUSTERCTL_CONFIG"])
def test_what_decides_over_programs_and_files_is_not_taken(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        env_file.parse(f"{name}=/tmp")


def test_a_file_is_named_with_the_line_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    for content, said in (
        (b"A=1\n\nB\n", f"{path}, line 3: NAME=value is needed"), (b"A=1\nA=2\n", f"{path}, line 2: A is given twice"),
        (b"\xff", f"{path}: not a UTF-8"), (b"#" * (1 << 20) + b"#", f"{path}: has more than"),
        (b"".join(b"A%d=1\n" % n for n in range(1001)), f"{path}, line 1001: more than 1000"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(UsageError) as error:
            env_file.read(path)
        assert str(error.value).startswith(said) and error.value.exit_code == 2
    with pytest.raises(UsageError, match="No such file"):
        env_file.read(tmp_path / "none")


def test_a_file_may_have_a_byte_order_mark_and_any_line_ends(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfA=1\r\nB=2\r\n")
    assert env_file.read(tmp_path / ".env") == {"A": "1", "B": "2"}


def test_what_is_set_stays_and_what_is_empty_counts_as_unset() -> None:
    environ = {"A": "set", "B": ""}
    env_file.complete(environ, {"A": "file", "B": "file", "C": "file", "D": ""})
    assert environ == {"A": "set", "B": "file", "C": "file"}
