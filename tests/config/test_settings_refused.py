"""What is said of wrong settings, by the name under which they were given."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from config.settings import load
from config.topology import TlsFiles
from settingsfiles import refusal_of, yaml_file


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"port": 0}, "--port: "),
        ({"port": 65536}, "--port: "),
        ({"port": "x"}, "--port: "),
        *(({"max_gpu_memory": wrong}, "--max-gpu-memory: ") for wrong in (0, 1.5, "80", "much", "0%", "nan", "x%")),
        ({"max_cpu_threads": 0}, "--max-cpu-threads: "),
        ({"worker_log_level": "loud"}, "--worker-log-level: "),
        ({"worker_log_format": "xml"}, "--worker-log-format: "),
        ({"worker_logging": False, "worker_log_config": "/l.json"}, "worker_log_config says how .* that it does not"),
        ({"instances": -1}, "--instances: "),
        ({"drain_timeout": -1}, "--drain-timeout: "),
        ({"startup_timeout": 0}, "--startup-timeout: "),
        ({"strategy": "round_robbin"}, "'round_robbin'.*did you mean 'round_robin'.*known: .*power_of_two"),
        ({"strategy": "zzz"}, "--strategy: unknown strategy 'zzz'; known: auto, "),
        ({"gpus": "0;1"}, "--gpus: .*such as 0,1"),
        ({"gpus": "0,0"}, "--gpus: .*twice"),
        ({"lora": ["a"]}, "--lora: NAME=PATH is needed, not 'a'"),
        ({"lora": ["a="]}, "--lora: NAME=PATH"),
        ({"lora": ["a=x", "b=y", "a=z"]}, "--lora: .*'a' is given twice"),
        ({"lora": ["a b=x"]}, "--lora: 'a b' is no adapter name"),
        ({"lora": ["=x"]}, "--lora: '' is no adapter name"),
        ({"lora": ["é=x"]}, "--lora: 'é' is no adapter name"),
        ({"lora": [f"{'n' * 129}=x"]}, "--lora: .* 1 to 128 characters"),
        ({"lb_processes": 0}, "--lb-processes: "),
        ({"lb_processes": 65}, "--lb-processes: "),
        ({"max_body": 1023}, "--max-body: "),
        ({"max_connections": 0}, "--max-connections: "),
        ({"head_timeout": 0}, "--head-timeout: "),
        ({"body_timeout": -1}, "--body-timeout: "),
        ({"stream_buffer": 65535}, "--stream-buffer: "),
        ({"trusted_proxies": "10.0.0.0/8,proxy.example"}, "--trusted-proxies: 'proxy.example' is no address"),
        ({"trusted_proxies": ["10.0.0.0/33"]}, "--trusted-proxies: '10.0.0.0/33' is no address or network"),
        ({"max_buffered": "1000"}, "--max-buffered: "),
        ({"max_buffered": "1Q"}, "--max-buffered: bytes such as 1048576, 512M or 1.5G are needed, not '1Q'"),
        ({"max_body": "much"}, "--max-body: bytes such as 1048576, 512M or 1.5G are needed, not 'much'"),
        ({"send_timeout": 0}, "--send-timeout: "),
        ({"min_client_rate": -1}, "--min-client-rate: "),
        ({"forward_headers": "a b"}, "--forward-headers: 'a b' is no name"),
        ({"forward_headers": "x_a"}, "--forward-headers: 'x_a' is no name"),
        ({"forward_headers": "Authorization"}, "--forward-headers: authorization is read or written by the balancer"),
        ({"extra_routes": "/a,b"}, "--extra-routes: 'b' is no path"),
        *(
            ({"cors_origin": ["https://a.example", wrong]}, f"--cors-origin: {re.escape(repr(wrong))} is no origin")
            for wrong in ("a.example", "https://a.example/", "null", "https://", "https://a.example:443", "http://x:80",
                          "https://*.example", "https://u@a.example", "https://a.example:123456")
        ),
        ({"instances": 0}, "instances 0 needs at least one --backend"),
        ({"instances": 1, "min_instances": 2}, "instances 1 is below min_instances 2"),
        ({"models": {"a": {"pth": "x"}}}, "--models: a: unknown key 'pth'"),
        ({"models": {"a": "x"}, "lora": ["l=/l"]}, "lora is of one model: `adapters` below its name in models"),
        ({"models": {"a": "x"}, "engine_args": ["--x"]}, "engine_args is of one model: `args` below its name"),
        ({"models": {"a": "x"}, "aliases": {"a": "b"}}, "'a' is the name of a model, and of a route or an alias"),
        (
            {"models": {n: {"path": "x", "pinned": True} for n in "ab"}, "max_concurrent_models": 1},
            "max_concurrent_models 1: a, b are pinned",
        ),
        (
            {"models": {"a": {"path": "x", "pinned": True}}, "model": "org/m", "max_concurrent_models": 1},
            "max_concurrent_models 1: a are pinned",
        ),
        ({"instances": 3, "max_instances": 2}, "max_instances 2 is below instances 3"),
        ({"instances": 1, "min_instances": 3, "max_instances": 2}, "max_instances 2 is below min_instances 3"),
    ],
)
def test_a_wrong_flag_is_named_with_what_is_wrong(flags: dict[str, Any], said: str) -> None:
    assert re.search(said, refusal_of(flags))


def test_an_adapter_name_of_128_characters_is_allowed() -> None:
    assert load({"lora": [f"{'n' * 128}=/x"]}).lora == {"n" * 128: "/x"}


@pytest.mark.parametrize("flag", ["--host", "--port", "--api-key", "--uds"])
@pytest.mark.parametrize("form", ["{}", "{}=1"])
def test_flags_of_the_engine_that_the_cluster_owns_are_refused(flag: str, form: str) -> None:
    assert flag in refusal_of({"engine_args": ["--max-loras", "2", form.format(flag)]})


@pytest.mark.parametrize("word", ["--api_key", "--api_key=x", "--hos", "--por=9", "--api-k", "--ud"])
def test_owned_flags_are_refused_in_every_spelling_the_engine_takes(word: str) -> None:
    """vLLM's parser takes underscores for dashes, and any unambiguous beginning of a flag."""
    refusal_of({"engine_args": [word, "x"]})


@pytest.mark.parametrize("word", ["--api-server-count", "--hostile", "-p", "host", "--ssl-keyfile=--port"])
def test_other_flags_of_the_engine_are_let_through(word: str) -> None:
    assert load({"engine_args": [word]}).engine_args == (word,)


def test_no_instances_with_a_backend_is_a_cluster() -> None:
    assert load({"instances": 0, "backend": ["http://a"]}).instances == 0


def test_a_wrong_variable_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("PORT", "x")
    assert refusal_of({}).startswith("environment PORT: ")
    environment.setenv("CLUSTERCTL_PORT", "y")
    assert refusal_of({}).startswith("environment CLUSTERCTL_PORT: ")


def test_an_unknown_variable_names_the_nearest(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CLUSTERCTL_PROT", "1")
    assert refusal_of({}) == "environment: unknown setting CLUSTERCTL_PROT (did you mean 'CLUSTERCTL_PORT'?)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("portt: 1", "unknown setting 'portt' (did you mean 'port'?)"),
        ("qqqqqq: 1", "unknown setting 'qqqqqq'"),
        ("instances: 2\nport: [\n", "line 3: "),
        ("a: b: c", "line 1: "),
        ("- a\n- b", "'key: value' lines are needed"),
        ("just words", "'key: value' lines are needed"),
        ("port: x", "port: "),
        ("lora: 3", "lora: "),
        ("1: 2", "unknown setting '1'"),
        ("a\x00: 1", ""),
        ("lora:\n  a: x\n  a: y\n", "a"),
        ("port: 1\nport: 2\n", "port"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = yaml_file(tmp_path, text)
    refusal = refusal_of({}, path)
    assert refusal.startswith(str(path)) and said in refusal


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refusal_of({}, tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'}: No such file or directory"
    assert str(tmp_path) in refusal_of({}, tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"model: \xe9")
    assert "UTF-8" in refusal_of({}, tmp_path / "latin.yaml")


@pytest.mark.parametrize("name", ["state_dir", "lora_config", "backend_key_file", "model", "host", "engine"])
def test_an_empty_text_is_refused_where_it_would_mean_everything_or_here(name: str, tmp_path: Path) -> None:
    assert refusal_of({name: ""}) == f"--{name.replace('_', '-')}: it is empty"
    config = yaml_file(tmp_path, f"{name}: ''\n")
    assert refusal_of({}, config) == f"{config}: {name}: it is empty"


def test_tls_needs_a_certificate_and_its_key() -> None:
    for given in ({"tls_cert": "c"}, {"tls_key": "k"}, {"tls_client_ca": "a"}, {"tls_key": "k", "tls_client_ca": "a"}):
        assert refusal_of(given) == "TLS needs tls_cert and tls_key"
    assert refusal_of({"grpc_port": 8000}) == "grpc_port 8000 is the port that HTTP is spoken on"
    found = load({"tls_cert": "/c", "tls_key": "/k", "port": 1})
    assert found.url() == "https://127.0.0.1:1"
    assert found.tls() == TlsFiles("/c", "/k")
    assert load({}).tls() is None


def test_a_path_that_cannot_be_resolved_is_named(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert re.match(r"--state-dir: ~nobody-of-that-name/s: ", refusal_of({"state_dir": "~nobody-of-that-name/s"}))
    assert "--model: a path is needed" in refusal_of({"model": "./\0"})
    gone = tmp_path / "gone"
    gone.mkdir()
    environment.chdir(gone)
    gone.rmdir()
    assert "the working directory: No such file" in refusal_of({"state_dir": "s"})
    assert load({"state_dir": "/s"}).state_dir == Path("/s")
