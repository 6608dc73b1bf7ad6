"""The adapter file: what each form means, and what is said of a wrong one."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.errors import UsageError
from config.lora_config import FORMATS, LoraEntry, LoraFile, read, with_environment

FULL = """
base_model:
  model_path: ./llama
  model_name: llama
lora_adapters:
  - name: sql
    path: adapters/sql
    format: safetensors
    description: writes SQL
  - {name: chat.v2, path: /abs/chat, format: peft}
  - {name: rare, path: ../rare, format: huggingface}
lora_settings:
  max_lora_rank: 24
  max_loras: 8
  enable_dynamic_loading: false
  cache_size: 100
auto_load: [sql, chat.v2]
"""


def _file(folder: Path, text: str | bytes, name: str = "lora.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _refusal(path: Path) -> str:
    with pytest.raises(UsageError) as error:
        read(path)
    assert error.value.exit_code == 2
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < len(str(path)) + 250
    return message.removeprefix(str(path))


def test_every_key_of_the_yaml_form_is_read(tmp_path: Path) -> None:
    assert read(_file(tmp_path, FULL)) == LoraFile(
        entries=(
            LoraEntry("sql", str(tmp_path / "adapters/sql"), "writes SQL", auto_load=True),
            LoraEntry("chat.v2", "/abs/chat", None, auto_load=True),
            LoraEntry("rare", str(tmp_path / "../rare"), None, auto_load=False),
        ),
        base_model=str(tmp_path / "llama"),
        served_name="llama",
        max_lora_rank=24,
        max_loras=8,
        max_cpu_loras=None,
        dynamic_loading=False,
        cache_size=100,
    )


def test_the_json_form_maps_names_to_paths(tmp_path: Path) -> None:
    path = _file(tmp_path, '{"expert-a": "/path", "expert-b": "b", "auto_load": "~/c"}', "lora_paths.json")
    assert read(path) == LoraFile(
        (
            LoraEntry("expert-a", "/path"),
            LoraEntry("expert-b", str(tmp_path / "b")),
            LoraEntry("auto_load", str(Path("~/c").expanduser())),
        )
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "lora_adapters:\n", "lora_adapters: []\nauto_load:\n"])
def test_a_file_that_says_nothing_asks_for_nothing(tmp_path: Path, text: str) -> None:
    assert read(_file(tmp_path, text)) == LoraFile()
    assert read(_file(tmp_path, "{}", "paths.json")) == LoraFile()


@pytest.mark.parametrize(
    ("auto_load", "loaded"),
    [("", ["a", "b"]), ("auto_load: []", []), ("auto_load:", []), ("auto_load: [b]", ["b"])],
)
def test_without_auto_load_every_adapter_is_loaded(tmp_path: Path, auto_load: str, loaded: list[str]) -> None:
    text = f"lora_adapters: [{{name: a, path: a}}, {{name: b, path: b}}]\n{auto_load}\n"
    assert [entry.name for entry in read(_file(tmp_path, text)).entries if entry.auto_load] == loaded


def test_a_reference_stays_one_and_is_looked_at(tmp_path: Path) -> None:
    text = "base_model: {model_path: 'hf://org/base@v1'}\nlora_adapters: [{name: a, path: 's3://bucket/a'}]"
    file = read(_file(tmp_path, text))
    assert (file.base_model, [entry.path for entry in file.entries]) == ("hf://org/base@v1", ["s3://bucket/a"])
    with pytest.raises(UsageError, match=r"lora_adapters\[0\].path: gs:// is not known"):
        read(_file(tmp_path, "lora_adapters: [{name: a, path: 'gs://bucket/a'}]"))


def test_relative_paths_begin_at_the_file_wherever_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    _file(tmp_path, "lora_adapters: [{name: a, path: x}]", "sub/lora.yaml")
    monkeypatch.chdir(tmp_path)
    (entry,) = read(Path("sub/lora.yaml")).entries
    assert entry.path == str(tmp_path / "sub" / "x")


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("org/model", "org/model"),
        ("gpt2", "gpt2"),
        ("here", "{folder}/here"),
        ("./absent", "{folder}/absent"),
        ("../absent", "{folder}/../absent"),
        ("/absent", "/absent"),
        ("x" * 5000, "x" * 5000),
    ],
)
def test_a_model_is_a_path_if_it_looks_like_one_or_exists(tmp_path: Path, given_: str, expected: str) -> None:
    (tmp_path / "here").mkdir()
    found = read(_file(tmp_path, f"base_model: {{model_path: {given_}}}")).base_model
    assert found == expected.format(folder=tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lora_adapter: []", ": unknown key 'lora_adapter' (did you mean 'lora_adapters'?)"),
        ("zzz: 1", ": unknown key 'zzz'"),
        ("1: 2", ": unknown key 1"),
        ("- a", ": 'key: value' lines are needed, not a list"),
        ("text", ": 'key: value' lines are needed, not 'text'"),
        ("base_model: llama", ": base_model: 'key: value' lines are needed, not 'llama'"),
        ("base_model: {model_pth: x}", ": base_model: unknown key 'model_pth' (did you mean 'model_path'?)"),
        ("base_model: {model_path: 1}", ": base_model.model_path: text is needed, not 1"),
        ("base_model: {model_name: ''}", ": base_model.model_name: text is needed, not ''"),
        ("lora_settings: {max_rank: 1}", ": lora_settings: unknown key 'max_rank' (did you mean 'max_lora_rank'?)"),
        ("lora_settings: {max_loras: 0}", ": lora_settings.max_loras: a whole number from 1 is needed, not 0"),
        ("lora_settings: {max_loras: true}", ": lora_settings.max_loras: a whole number from 1 is needed, not True"),
        ("lora_settings: {cache_size: '4'}", ": lora_settings.cache_size: a whole number from 1 is needed, not '4'"),
        ("lora_settings: {max_lora_rank: 8.0}", ": lora_settings.max_lora_rank: a whole number from 1 is needed"),
        (
            "lora_settings: {enable_dynamic_loading: maybe}",
            ": lora_settings.enable_dynamic_loading: true or false is needed, not 'maybe'",
        ),
        ("lora_adapters: {a: b}", ": lora_adapters: a list is needed, not a mapping"),
        ("lora_adapters: [sql]", ": lora_adapters[0]: 'key: value' lines are needed, not 'sql'"),
        ("lora_adapters: [{name: a, path: b}, {nam: b}]", ": lora_adapters[1]: unknown key 'nam' (did you mean 'name'"),
        ("lora_adapters: [{path: b}]", ": lora_adapters[0]: name is missing"),
        ("lora_adapters: [{name: b}]", ": lora_adapters[0]: path is missing"),
        ("lora_adapters: [{name: 12, path: b}]", ": lora_adapters[0].name: 12 is no adapter name: [A-Za-z0-9._-]"),
        ("lora_adapters: [{name: a b, path: b}]", ": lora_adapters[0].name: 'a b' is no adapter name"),
        ("lora_adapters: [{name: a/b, path: b}]", ": lora_adapters[0].name: 'a/b' is no adapter name"),
        ('lora_adapters: [{name: "a\\n", path: b}]', ": lora_adapters[0].name: 'a\\n' is no adapter name"),
        (f"lora_adapters: [{{name: {'n' * 129}, path: b}}]", " is no adapter name"),
        ("lora_adapters: [{name: a, path: [b]}]", ": lora_adapters[0].path: text is needed, not a list"),
        ('lora_adapters: [{name: a, path: "a\\0"}]', ": lora_adapters[0].path: a path is needed"),
        ("lora_adapters: [{name: a, path: ~nobody-here/a}]", ": lora_adapters[0].path: Could not determine home"),
        ("lora_adapters: [{name: a, path: b, format: pt}]", ": lora_adapters[0].format: 'pt' is none of safetensors"),
        ("lora_adapters: [{name: a, path: b, format: pefft}]", "(did you mean 'peft'?)"),
        ("lora_adapters: [{name: a, path: b, description: 1}]", ": lora_adapters[0].description: text is needed"),
        ("lora_adapters: [{name: a, path: b}, {name: a, path: c}]", ": lora_adapters: 'a' is given twice"),
        ("auto_load: true", ": auto_load: a list is needed, not True"),
        ("auto_load: [1]", ": auto_load: 1 is no adapter name"),
        ("lora_adapters: [{name: sql, path: b}]\nauto_load: [sq]", ": auto_load: no adapter 'sq' in lora_adapters ("),
        ("lora_adapters: [{name: a, path: b}]\nauto_load: [a, a]", ": auto_load: 'a' is given twice"),
        ("auto_load: []\nauto_load: []", ", line 2: 'auto_load' is given twice"),
        ("lora_adapters:\n  - {name: a\n", ", line 3: "),
        ("a: b: c", ", line 1: mapping values are not allowed here"),
        ("a: *b", ", line 1: found undefined alias 'b'"),
        ("a: !!python/object:os.system b", ", line 1: could not determine a constructor"),
        ("a: 2024-13-45", ": no YAML that can be read: month must be in 1..12"),
        ("? [a]\n: b", ": no YAML that can be read"),
        ("a: \x01", ": "),
        ("[" * 20_000, ": nested too deeply"),
        (b"\xff\xfe\xfa", ": not a UTF-8 text file"),
    ],
)
def test_a_wrong_yaml_file_is_one_line_with_file_and_key(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert expected in _refusal(_file(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ", line 1: Expecting value"),
        ('{\n"a": "b",\n}', ", line 3: "),
        ("[]", ': an object such as {"name": "/path"} is needed'),
        ("null", ": an object such as"),
        ('{"a": "b", "a": "c"}', ": 'a' is given twice"),
        ('{"a b": "c"}', ": adapter: 'a b' is no adapter name"),
        ('{"": "c"}', ": adapter: '' is no adapter name"),
        ('{"a": 1}', ": 'a': text is needed, not 1"),
        ('{"a": null}', ": 'a': a path is needed, not None"),
        ('{"a": " "}', ": 'a': text is needed, not ' '"),
        ('{"a": {"path": "b"}}', ": 'a': text is needed, not a mapping"),
        ('{"a": ' + "1" * 5000 + "}", ": Exceeds the limit"),
        ("[" * 20_000, ": is nested too deeply"),
    ],
)
def test_a_wrong_json_file_is_one_line_with_file_and_key(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in _refusal(_file(tmp_path, text, "paths.json"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "absent.yaml") == ": No such file or directory"
    assert _refusal(tmp_path) == ": Is a directory"


_letters = string.ascii_letters + string.digits + "._-"
_names = st.text(_letters, min_size=1, max_size=128).filter(lambda name: name.strip("."))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(_names, unique=True, max_size=6),
    numbers=st.lists(st.one_of(st.none(), st.integers(1, 4096)), min_size=3, max_size=3),
    data=st.data(),
)
def test_what_is_written_is_what_is_read(
    tmp_path: Path, names: list[str], numbers: list[int | None], data: st.DataObject
) -> None:
    automatic = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    listed = [{"name": name, "path": f"/{name}", "format": data.draw(st.sampled_from(FORMATS))} for name in names]
    limits = dict(zip(("max_lora_rank", "max_loras", "cache_size"), numbers, strict=True))
    content = {"lora_adapters": listed, "lora_settings": limits, "auto_load": automatic}
    got = read(_file(tmp_path, yaml.safe_dump(content)))
    assert [(e.name, e.path, e.auto_load) for e in got.entries] == [
        (name, f"/{name}", name in automatic) for name in names
    ]
    assert [got.max_lora_rank, got.max_loras, got.cache_size] == numbers
    flat = read(_file(tmp_path, json.dumps({name: f"/{name}" for name in names}), "paths.json"))
    assert [(e.name, e.path, e.auto_load) for e in flat.entries] == [(name, f"/{name}", True) for name in names]


_anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["base_model", "lora_adapters", "lora_settings", "auto_load", "name", "path"]),
                st.integers(),
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(_anything.map(yaml.safe_dump), st.text(max_size=60), st.binary(max_size=60)))
@pytest.mark.parametrize("name", ["lora.yaml", "paths.json"])
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    if isinstance(content, str):
        content = content.encode(errors="surrogatepass")
    path = _file(tmp_path, content, name)
    try:
        read(path)
    except UsageError:
        _refusal(path)


@pytest.mark.parametrize(
    ("environ", "changed"),
    [
        ({}, {}),
        ({"VLLM_MAX_LORA_RANK": "64"}, {"max_lora_rank": 64}),
        ({"VLLM_MAX_LORAS": " 2 "}, {"max_loras": 2}),
        ({"MIM_MAX_GPU_LORAS": "3"}, {"max_loras": 3}),
        ({"MIM_MAX_GPU_LORAS": "3", "VLLM_MAX_LORAS": "2"}, {"max_loras": 2}),
        ({"MIM_MAX_CPU_LORAS": "032"}, {"max_cpu_loras": 32}),
        ({"MAX_LORAS": "9"}, {}),
    ],
)
def test_the_environment_wins_over_the_file(environ: dict[str, str], changed: dict[str, Any]) -> None:
    file = LoraFile((LoraEntry("a", "/a"),), max_lora_rank=8, max_loras=4, max_cpu_loras=None, cache_size=5)
    got = with_environment(file, environ)
    for field in ("entries", "max_lora_rank", "max_loras", "max_cpu_loras", "cache_size"):
        assert getattr(got, field) == changed.get(field, getattr(file, field))


@pytest.mark.parametrize("variable", ["VLLM_MAX_LORA_RANK", "VLLM_MAX_LORAS", "MIM_MAX_GPU_LORAS", "MIM_MAX_CPU_LORAS"])
@pytest.mark.parametrize("text", [" ", "0", "-1", "1.5", "many", "²", "1e3", "9" * 5000, "1\n2"])
def test_a_variable_that_is_no_positive_number_is_named(variable: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"^environment {variable}: a whole number from 1 is needed, not ") as error:
        with_environment(LoraFile(), {"VLLM_MAX_LORAS": "1", variable: text})
    assert "\n" not in str(error.value) and len(str(error.value)) < 150
