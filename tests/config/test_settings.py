"""Where settings come from, and which source wins."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from config import settings
from config.disk import locations
from config.models import definition
from config.settings import Settings, from_json, load
from config.sources import commands
from config.sources.names import ALL_PLAIN
from config.topology import BalancerConfig
from settingsfiles import yaml_file


def test_without_anything_the_defaults_hold() -> None:
    got = load({})
    assert (got.instances, got.engine, got.host, got.port) == (1, "vllm", "127.0.0.1", 8000)
    assert (got.strategy, got.health_interval, got.health_failures) == ("auto", 2.0, 3)
    assert (got.drain_timeout, got.queue_timeout, got.startup_timeout) == (30.0, 30.0, 600.0)


@pytest.mark.parametrize(("host", "url"), [
    ("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1"), ("::", "http://[::1]:1"),
    ("[::]", "http://[::1]:1"), ("fe80::1", "http://[fe80::1]:1"), ("example.org", "http://example.org:1"),
])  # fmt: skip
def test_the_url_that_is_shown_is_one_that_can_be_asked(host: str, url: str) -> None:
    assert load({"host": host, "port": 1}).url() == url


def test_without_anything_a_balancer_is_told_what_it_would_do_anyway() -> None:
    got = load({})
    untold = BalancerConfig(-1, "", "", 0, 0)
    for name in ("max_body", "max_connections", "head_timeout", "body_timeout", "stream_buffer", "trusted_proxies",
                 "extra_routes", "forward_headers", "send_timeout", "min_client_rate", "max_client_connections",
                 "max_client_uploads"):  # fmt: skip
        assert getattr(got, name) == getattr(untold, name)
    assert got.lb_processes == untold.processes == 1


def test_each_source_wins_over_those_below(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = yaml_file(tmp_path, "port: 1001\n")
    assert load({}, config).port == 1001
    environment.setenv("PORT", "1002")
    assert load({}, config).port == 1002
    environment.setenv("CLUSTERCTL_PORT", "1003")
    assert load({}, config).port == 1003
    assert load({"port": 1004}, config).port == 1004


@pytest.mark.parametrize(
    ("variable", "value", "setting", "expected"),
    [
        ("CLUSTER_INSTANCES", "2", "instances", 2),
        ("LOAD_BALANCE_STRATEGY", "random", "strategy", "random"),
        ("MIN_INSTANCES", "0", "min_instances", 0),
        ("MAX_INSTANCES", "9", "max_instances", 9),
        ("MAX_CONCURRENT_MODELS", "2", "max_concurrent_models", 2),
        ("CLUSTERCTL_MODELS", '{"a": "org/a"}', "models", {"a": definition("org/a")}),
        ("HEALTH_CHECK_INTERVAL", "0.5", "health_interval", 0.5),
        ("DEFAULT_MODEL", "org/m", "model", "org/m"),
        ("MIM_MODEL_NAME", "org/m", "model", "org/m"),
        ("INFERENCE_ENGINE", "sim", "engine", "sim"),
        ("INFERENCE_ENGINE", "llama_cpp", "engine", "llamacpp"),
        ("MODEL_BASE_PATH", "/models", "model_base_path", Path("/models")),
        ("MAX_GPU_MEMORY", "0.8", "max_gpu_memory", 0.8),
        ("MAX_GPU_MEMORY", "75%", "max_gpu_memory", 0.75),
        ("MAX_CPU_THREADS", "8", "max_cpu_threads", 8),
        ("ENABLE_CACHING", "true", "response_cache", True),
        ("MIM_MODEL_PROFILE", "p", "profile", "p"),
        ("VLLM_MXEXT_CONFIGURE_LOGGING", "0", "worker_logging", False),
        ("VLLM_MXEXT_LOGGING_CONFIG_PATH", "/l.json", "worker_log_config", Path("/l.json")),
        ("VLLM_MXEXT_LOG_LEVEL", "INFO", "worker_log_level", "info"),
        ("VLLM_MXEXT_JSONL_LOGGING", "1", "worker_log_format", "json"),
        ("VLLM_MXEXT_JSONL_LOGGING", "0", "worker_log_format", "text"),
        ("CLUSTERCTL_WORKER_LOG_FORMAT", "JSON", "worker_log_format", "json"),
        ("HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("PORT", "9", "port", 9),
        ("LOG_LEVEL", "debug", "log_level", "debug"),
        ("CLUSTERCTL_LORA", "a=/x,b=/y", "lora", {"a": "/x", "b": "/y"}),
        ("CLUSTERCTL_BACKEND", "http://a, http://b", "backend", ("http://a", "http://b")),
        ("CLUSTERCTL_GPUS", "1,0", "gpus", (1, 0)),
        ("CLUSTERCTL_ENGINE_ARGS", "--max-loras 2", "engine_args", ("--max-loras", "2")),
        ("CLUSTERCTL_ADMIN_KEY", "k", "admin_key", "k"),
        ("CLUSTERCTL_LB_PROCESSES", "4", "lb_processes", 4),
        ("CLUSTERCTL_MAX_CONNECTIONS", "5", "max_connections", 5),
        ("CLUSTERCTL_HEAD_TIMEOUT", "0.5", "head_timeout", 0.5),
        ("CLUSTERCTL_BODY_TIMEOUT", "5", "body_timeout", 5.0),
        ("CLUSTERCTL_STREAM_BUFFER", "65536", "stream_buffer", 65536),
        ("CLUSTERCTL_TRUSTED_PROXIES", "10.0.0.0/8, ::1", "trusted_proxies", ("10.0.0.0/8", "::1")),
        ("CLUSTERCTL_MAX_BUFFERED", "2097152", "max_buffered", 2 * 1024**2),
        ("CLUSTERCTL_MAX_BUFFERED", "1.5 GiB", "max_buffered", 3 * 1024**3 // 2),
        ("CLUSTERCTL_MAX_BUFFERED", "512M", "max_buffered", 512 * 1024**2),
        ("CLUSTERCTL_MAX_BODY", "16M", "max_body", 16 * 1024**2),
        ("CLUSTERCTL_MAX_BUFFERED", "2048kb", "max_buffered", 2 * 1024**2),
        ("CLUSTERCTL_FORWARD_HEADERS", "X-Tenant, x-b", "forward_headers", ("x-tenant", "x-b")),
        (
            "CLUSTERCTL_CORS_ORIGIN", "https://App.example,http://localhost:3000,http://[::1]:81,*", "cors_origin",
            ("https://app.example", "http://localhost:3000", "http://[::1]:81", "*"),
        ),
        ("CLUSTERCTL_EXTRA_ROUTES", "/v1/mine,/v2/mine", "extra_routes", ("/v1/mine", "/v2/mine")),
    ],
)
def test_the_environment_is_read(
    environment: pytest.MonkeyPatch, variable: str, value: str, setting: str, expected: object
) -> None:
    environment.setenv(variable, value)
    assert getattr(load({}), setting) == expected


@pytest.mark.parametrize("setting", ["port", "host", "model", "engine"])
def test_a_variable_that_is_named_like_a_setting_is_none(environment: pytest.MonkeyPatch, setting: str) -> None:
    environment.setenv(setting, "9001")
    assert getattr(load({}), setting) == Settings.model_fields[setting].default


def test_the_configuration_file_can_be_named_in_the_environment(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("CLUSTERCTL_CONFIG", str(yaml_file(tmp_path, "instances: 3")))
    assert load({}).instances == 3


def test_a_file_may_write_dashes_and_lists(tmp_path: Path) -> None:
    text = "drain-timeout: 5\nlora: {a: /x}\nbackend: [http://a]\ngpus: 1\nengine_args: [--max-loras, '2']\n"
    got = load({}, yaml_file(tmp_path, text))
    assert (got.drain_timeout, got.lora, got.backend) == (5.0, {"a": "/x"}, ("http://a",))
    assert (got.gpus, got.engine_args) == ((1,), ("--max-loras", "2"))


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert load({}, yaml_file(tmp_path, "# nothing\n")) == load({})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load({}).port = 1


def test_a_later_supervisor_reads_exactly_what_was_written(environment: pytest.MonkeyPatch) -> None:
    flags = {
        "lora": ["a=x"], "gpus": "0,1", "backend": ["http://a"], "admin_key": "k", "state_dir": "s",
        "engine_args": ["--max-loras", "2"], "strategy": "random", "backend_key_file": "f", "max_instances": 4,
    }
    first = load(flags)
    environment.setenv("CLUSTERCTL_PORT", "9")
    environment.setenv("PORT", "10")
    assert settings.from_json(first.to_json()) == first


def test_several_models_are_read_with_their_paths_absolute(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "demo").mkdir()
    text = "model: a\nmodels:\n  a: {path: here, adapters: {l: adapters/l}, idle-timeout: 5}\n  b: org/b\n  c: demo\n"
    found = load({}, yaml_file(tmp_path, text))
    assert found.models["a"] == definition(
        {"path": str(tmp_path / "here"), "adapters": {"l": str(tmp_path / "adapters/l")}, "idle_timeout": 5}
    )
    assert (found.models["b"].path, found.models["c"].path) == ("org/b", "demo")
    assert (found.model, found.default_model) == ("a", "a")
    assert settings.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("flags", "own", "default"),
    [
        ({}, 2, None), ({"models": {"a": "x", "b": "y"}}, 0, "a"),
        ({"models": {"a": "x", "b": "y"}, "model": "b"}, 0, "b"), ({"models": {"a": "x"}, "model": "org/m"}, 2, None),
    ],
)  # fmt: skip
def test_models_stand_in_place_of_the_one_or_beside_it(flags: dict[str, Any], own: int, default: str | None) -> None:
    found = load({"instances": 2, **flags})
    assert (found.own_instances, found.default_model) == (own, default)


def test_the_state_directory_is_absolute(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HOME", str(tmp_path))
    environment.setenv("XDG_STATE_HOME", str(tmp_path / "x"))
    assert load({"state_dir": "s"}).state_directory() == Path.cwd() / "s"
    assert load({"state_dir": "~/s"}).state_directory() == tmp_path / "s"
    assert load({"port": 9}).state_directory() == tmp_path / "x" / "clusterctl" / "port-9"


def test_a_child_does_not_inherit_our_settings(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CLUSTERCTL_ADMIN_KEY", "secret")
    environment.setenv("OTHER", "kept")
    child = settings.inherited_environment()
    assert child["OTHER"] == "kept" and child["PATH"] == os.environ["PATH"]
    assert not any(name.startswith("CLUSTERCTL_") for name in child)


def test_the_commands_find_the_cluster_and_its_key(environment: pytest.MonkeyPatch) -> None:
    assert (commands.cluster_url(), commands.own_admin_key()) == ("http://127.0.0.1:8000", None)
    environment.setenv("CLUSTERCTL_PORT", "8123")
    assert commands.cluster_url() == "http://127.0.0.1:8123"
    environment.setenv("CLUSTERCTL_URL", "http://h:1")
    environment.setenv("CLUSTERCTL_ADMIN_KEY", "k")
    assert (commands.cluster_url(), commands.own_admin_key()) == ("http://h:1", "k")
    environment.setenv("CLUSTERCTL_JOIN_TOKEN", "t")
    assert load({}).admin_key == "k"  # the others are no unknown settings


def test_empty_variables_are_unset_ones(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As compose files make them: ``CLUSTERCTL_STATE_DIR: ${STATE_DIR:-}``."""
    config = yaml_file(tmp_path, "port: 1001\nmin_instances: 0\n")
    for name in (*Settings.model_fields, "url", "config", "api_key", "no_such_setting"):
        environment.setenv(f"CLUSTERCTL_{name.upper()}", "")
    for name in ALL_PLAIN:
        environment.setenv(name, "")
    got = load({}, config)
    assert got == load({}).model_copy(update={"port": 1001, "min_instances": 0})
    assert got.state_dir is None and got.host == "127.0.0.1"
    environment.setenv("MIN_INSTANCES", "1")
    assert load({}, config).min_instances == 1


def _given(base: str) -> dict[str, Any]:
    """Every setting that holds paths, each with a relative one."""
    return {
        "state_dir": f"{base}s", "lora_config": f"{base}l.yaml", "backend_key_file": f"{base}k", "model": f"{base}m",
        "lora": {"a": f"{base}p"}, "adapter_root": [f"{base}r", "/abs"], "tls_cert": f"{base}c", "tls_key": f"{base}ck",
        "tls_client_ca": f"{base}ca", "api_keys": f"{base}a.yaml", "agent_key_file": f"{base}g",
        "backend_discovery": [f"file:{base}f.json", "dns:a:1"],
    }  # fmt: skip


def _absolute(folder: Path) -> dict[str, Any]:
    return {
        "state_dir": folder / "s", "lora_config": folder / "l.yaml", "backend_key_file": folder / "k",
        "api_keys": folder / "a.yaml", "agent_key_file": folder / "g",
        "model": str(folder / "m"), "lora": {"a": str(folder / "p")}, "adapter_root": (folder / "r", Path("/abs")),
        "tls_cert": folder / "c", "tls_key": folder / "ck", "tls_client_ca": folder / "ca",
        "backend_discovery": (f"file:{folder / 'f.json'}", "dns:a:1"),
    }  # fmt: skip


_READ_AT_ONCE = ("models", "env_file", "manifest", "model_base_path", "worker_log_config")


def _paths(got: Settings) -> dict[str, Any]:
    """But for those of several models, and files that are read at once, which have tests of their own."""
    return {n: getattr(got, n) for n in locations.SETTINGS if n not in _READ_AT_ONCE}


def test_paths_are_absolute_once_they_are_read(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A detached supervisor runs in another folder, and `down` is called from a third."""
    here, there = tmp_path / "here", tmp_path / "ü x"
    here.mkdir()
    there.mkdir()
    environment.chdir(here)
    environment.setenv("HOME", str(tmp_path / "home"))
    flags = {**_given("./"), "lora": ["a=./p"], "adapter_root": ["./r", "/abs"]}
    assert _paths(load(flags)) == _absolute(here)
    assert _paths(load(_given("~/"))) == _absolute(tmp_path / "home")
    file = there / "c.yaml"
    file.write_text(json.dumps(_given("./")))
    assert _paths(load({}, file)) == _absolute(there), "those of a file begin in its folder"
    assert _paths(load({}, Path("../ü x/c.yaml"))) == _absolute(here / "../ü x")
    environment.setenv("CLUSTERCTL_STATE_DIR", "e")
    environment.setenv("CLUSTERCTL_ADAPTER_ROOT", "r,/abs")
    assert load({}, file).state_dir == here / "e", "the variable is not the file's"
    assert load({"model": "m"}, file).model == "m", "a hub id"
    (here / "m").mkdir()
    assert load({"model": "m"}, file).model == str(here / "m")
    assert Settings(state_dir=Path("e")).state_dir == Path("e"), "what was written down stays as it is"


def test_settings_that_an_earlier_release_wrote_down_with_empty_texts_can_be_read() -> None:
    text = json.dumps({**json.loads(load({}).to_json()), "host": "", "model": "", "state_dir": "."})
    assert (from_json(text).host, from_json(text).model) == ("127.0.0.1", None)
