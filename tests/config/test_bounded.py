"""What somebody else wrote is measured before anything is made of it."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from config import bounded

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def _yaml(text: str) -> Any:
    return yaml.load(text, Loader=bounded.BoundedLoader)


@given(value=st.dictionaries(st.text(), _json), indent=st.sampled_from([None, 0, 3]))
def test_members_are_what_json_reads(value: dict[str, Any], indent: int | None) -> None:
    raw = f" \n{json.dumps(value, indent=indent)}\t ".encode()
    assert dict(bounded.members(raw)) == value
    assert bounded.parse_json(raw) == value


@given(st.binary(max_size=40) | st.text('{}[]",:\\ 1ae', max_size=20).map(str.encode))
def test_members_of_anything_else_are_an_error_where_json_has_one(raw: bytes) -> None:
    try:
        value = json.loads(raw.decode(), parse_constant=lambda text: int("no JSON"))
    except ValueError:
        value = None
    if isinstance(value, dict):
        assert dict(bounded.members(raw)) == value
    else:
        with pytest.raises(ValueError):
            list(bounded.members(raw))


@pytest.mark.parametrize(
    "raw", [b"[" + b"[]," * 900_000 + b"1]", b"{" + b'"a":1,' * 900_000 + b'"a":1}', b'{"a":' * 900_000]
)
def test_a_few_megabytes_of_nothing_are_refused_before_they_become_objects(raw: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(bounded.Unfit, match="10000 values"):
            bounded.parse_json(raw, 10_000)
        with pytest.raises(bounded.Unfit, match="10000 values"):
            list(bounded.members(raw, 10_000))
        assert tracemalloc.get_traced_memory()[1] < 2 * len(raw)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("raw", ["NaN", "[Infinity]", '["\\ud800"]', "[" * 50_000, '{"a":' * 50_000])
def test_what_no_answer_could_hold_is_no_json(raw: str) -> None:
    with pytest.raises(ValueError):
        bounded.parse_json(raw.encode())


_BOMBS = {
    "merge keys": "a0: &a0 {k: v}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9)
    ),
    "aliases": "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
    ),
    "many values": "a:\n" + "- x\n" * 60_000,
    "itself": "a: &a [*a]",
    "itself, merged": "a: &a {b: {<<: *a}}",
    "digits": "a: " + "1:" * 300_000 + "1",
    "more digits": "a: " + "1" * 300_000,
}  # fmt: skip


@pytest.mark.parametrize("text", _BOMBS.values(), ids=_BOMBS.keys())
def test_yaml_that_stands_for_more_than_it_says_is_refused(text: str) -> None:
    began = time.process_time()
    with pytest.raises((yaml.MarkedYAMLError, RecursionError)):
        _yaml(text)
    assert time.process_time() - began < 10, "seconds; the first of them took 20 before it was given up"


def test_a_few_aliases_and_numbers_are_as_in_any_yaml() -> None:
    text = "a: &a {b: 1, c: 0x1f, d: 1.5, e: 1:30}\nf: {<<: *a, b: 2}\ng: [*a, *a]\n"
    assert _yaml(text) == yaml.safe_load(text)


def test_only_so_much_of_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "big"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)  # a hole: takes no disk
    with pytest.raises(bounded.Unfit, match="1048576 bytes"):
        bounded.read_text(file)
    with bounded.open_regular(file) as stream, pytest.raises(bounded.Unfit, match="more than the 10 bytes"):
        bounded.read(stream, 10)


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(bounded.Unfit, match="no regular file"):
            bounded.open_regular(path)
