"""Prompts, the settings file and which models are asked."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cluster.tools.bench import file, targets
from cluster.tools.bench.mix import Mix
from cluster.tools.bench.prompts import BenchPrompt, made_up, read_prompts
from config.errors import UsageError

# Prompts.


def test_made_up_prompts_are_the_same_for_the_same_seed_and_none_begins_another() -> None:
    prompts = made_up(50, 12, Random(1))
    assert prompts == made_up(50, 12, Random(1)) != made_up(50, 12, Random(2))
    texts = [str(prompt.content) for prompt in prompts]
    assert all(len(text.split()) == 12 for text in texts) and len({text[:6] for text in texts}) == 50
    assert str(made_up(1, 1, Random(1))[0].content) == "000000"


def test_a_prompt_is_a_chat_or_a_text_to_complete() -> None:
    assert BenchPrompt("hi").body(chat=True) == {"messages": [{"role": "user", "content": "hi"}]}
    assert BenchPrompt("hi").body(chat=False) == {"prompt": "hi"}
    chat = BenchPrompt([{"role": "system", "content": "x"}])
    assert chat.body(chat=True) == {"messages": [{"role": "system", "content": "x"}]}
    with pytest.raises(UsageError, match="--endpoint chat"):
        chat.body(chat=False)


def test_prompts_are_read_a_line_each(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"prompt": "one", "output_tokens": 5}\n\n{"messages": [{"role": "user", "content": "two"}]}\n')
    assert read_prompts(lines) == [BenchPrompt("one", 5), BenchPrompt([{"role": "user", "content": "two"}])]
    plain = tmp_path / "a.txt"
    plain.write_text('one\r\n\n{"prompt": "x"}\n', newline="")
    assert read_prompts(plain) == [BenchPrompt("one"), BenchPrompt('{"prompt": "x"}')]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no prompt"), ("{]\n", "line 1: no JSON"), ('{"promt": "x"}', "did you mean 'prompt'"), ("7", "an object"),
        ('{"prompt": "x", "output_tokens": 0}', "output_tokens"), ('{"prompt": 7}', "has to be a text"),
        ('{"prompt": "x", "messages": []}', "either"), ("{}", "either"), ('{"messages": ["x"]}', "list of objects"),
        ('{"prompt": "x", "output_tokens": true}', "output_tokens"),
    ],
)  # fmt: skip
def test_what_is_no_prompt_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=words) as error:
        read_prompts(path)
    assert str(path) in str(error.value) and error.value.exit_code == 2


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_prompts(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        read_prompts(tmp_path / "binary")


# The settings file.


def _file(folder: Path, text: str) -> file.BenchFile:
    path = folder / "bench.yaml"
    path.write_text(text)
    return file.read(path)


def test_the_sections_are_options(tmp_path: Path) -> None:
    found = _file(tmp_path, """
server: {url: "http://there:1", model: demo}
test_params: {concurrent_requests: 4, max_tokens: 16, temperature: 0.5, stream: false, num_requests: 9}
prompts: [one, {prompt: two, output_tokens: 3}]
output: {log_dir: logs, save_individual_metrics: false, console_output: true}
""")  # fmt: skip
    assert {name: value for name, (_, value) in found.given.items()} == {
        "url": "http://there:1", "model": "demo", "concurrency": 4, "max_tokens": 16, "temperature": 0.5,
        "stream": False, "requests": 9, "out": str(tmp_path / "logs"), "save_requests": False, "table": True,
    }  # fmt: skip
    assert found.prompts == [BenchPrompt("one"), BenchPrompt("two", 3)]


def test_nothing_is_nothing(tmp_path: Path) -> None:
    for text in ("", "server:\n", "server: {url: }\n"):
        assert _file(tmp_path, text) == file.BenchFile(tmp_path / "bench.yaml", {}, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("servers: {}", "unknown key 'servers' .did you mean 'server'"), ("server: [a]", "server: 'key: value' lines"),
        ("test_params: {concurency: 3}", "test_params: unknown key 'concurency' .did you mean 'concurrency'"),
        ("output: {logdir: x}", "did you mean 'log_dir'"), ("prompts: hello", "prompts: a list"),
        ("prompts: []", "no prompt"), ("prompts: [7]", r"prompts\[0\]"), ("test_params: {rate: [1]}", "one value"),
        ("test_params: {rate: 1, request_rate: 2}", "are the same"), ("server: {url: a, url: b}", "given twice"),
        ("- a", "'key: value' lines"), ("a: [", "line 1"), ("a: 2001-99-99", "month must be"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        _file(tmp_path, text)
    assert "bench.yaml" in str(error.value) and error.value.exit_code == 2 and "\n" not in str(error.value)


# Which models.

LISTED: list[dict[str, Any]] = [
    {"id": "demo", "parent": None}, {"id": "sql", "parent": "demo"}, {"id": "poet", "parent": "demo"},
    {"id": "other", "parent": None}, {"id": "odd", "parent": "other"},
]  # fmt: skip


def test_one_model_each_model_or_all_adapters_of_one() -> None:
    assert targets.runs(LISTED, None, None) == [("demo",)] and targets.runs(LISTED, "sql", None) == [("sql",)]
    assert targets.runs(LISTED, "all", None) == [("demo",), ("sql",), ("poet",), ("other",), ("odd",)]
    for wanted, adapters in ((None, "sql poet odd"), ("all", "sql poet odd"), ("demo", "sql poet"), ("other", "odd")):
        assert targets.runs(LISTED, wanted, Mix(1.0)) == [tuple(adapters.split())]
    assert targets.runs([], "unlisted", None) == [("unlisted",)]
    listed = [*LISTED, {"id": "name", "root": "/m", "parent": None}, {"id": "/m", "root": "/m", "parent": None},
              {"id": "mine", "root": "/a", "parent": "name"}]  # fmt: skip
    assert targets.runs(listed, "/m", Mix(1.0)) == targets.runs(listed, "name", Mix(1.0)) == [("mine",)]


@pytest.mark.parametrize(
    ("listed", "wanted", "mix", "words"),
    [
        (LISTED, "sqll", None, "did you mean 'sql'"), (LISTED[:1], "demo", Mix(1.0), "no adapters"),
        ([], None, None, "lists no models"), ([], "all", None, "lists no models"),
        (LISTED, "nope", Mix(1.0), "no model"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_there(listed: Any, wanted: str | None, mix: Mix | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        targets.runs(listed, wanted, mix)


def test_json_of_a_prompt_is_what_vllm_bench_reads_too(tmp_path: Path) -> None:
    """Its custom dataset: `prompt`, and `output_tokens` where no length is given."""
    path = tmp_path / "a.jsonl"
    made = made_up(3, 5, Random(0))
    path.write_text("".join(json.dumps({"prompt": prompt.content, "output_tokens": 4}) + "\n" for prompt in made))
    assert [prompt.output_tokens for prompt in read_prompts(path)] == [4, 4, 4]


def _written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def test_a_json_list_is_many_prompts(tmp_path: Path) -> None:
    shared = [
        {"id": "a", "conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "x"}]},
        {"id": "b", "conversations": [{"from": "gpt", "value": "x"}]}, {"id": "c", "conversations": []},
        {"id": "d", "conversations": [{"from": "user", "value": "two\nlines"}]},
    ]  # fmt: skip
    mark = b"\xef\xbb\xbf"
    found = read_prompts(_written(tmp_path, "s.json", mark + json.dumps(shared, indent=1).encode()))
    assert [prompt.content for prompt in found] == ["one", "two\nlines"]
    found = read_prompts(_written(tmp_path, "p.json", b'["a", {"prompt": "b", "output_tokens": 3}]'))
    assert [(prompt.content, prompt.output_tokens) for prompt in found] == [("a", None), ("b", 3)]


@pytest.mark.parametrize("text", ["{}", '{"prompt": "q"}', "[]", "7", "[", "[[]]", '[{"conversations": 1}]', "[" * 999])
def test_json_that_is_no_list_of_prompts_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"p\.json"):
        read_prompts(_written(tmp_path, "p.json", text.encode()))


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl"])
def test_marks_and_line_ends_of_other_systems_are_no_part_of_a_prompt(tmp_path: Path, name: str) -> None:
    lines = ["one", "two"] if name == "p.txt" else ['{"prompt": "one"}', '{"prompt": "two"}']
    file = _written(tmp_path, name, b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    assert [prompt.content for prompt in read_prompts(file)] == ["one", "two"]
