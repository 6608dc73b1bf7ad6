"""What of the settings a balancer process is told."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.balancers.config import balancer_config
from cluster.deployment import plan
from cluster.deployment.limits import memory
from cluster.supervisor.runtime import adopted
from config.errors import UsageError
from config.paths import StateDir
from config.settings import load
from config.topology import CorsConfig


def test_every_setting_of_the_balancer_reaches_it(tmp_path: Path) -> None:
    given = {
        "host": "127.0.0.2", "port": 4711, "queue_timeout": 1.5, "admin_key": "k", "log_level": "debug",
        "max_body": 2048, "allowed_hosts": ("a.example",), "trusted_proxies": ("10.0.0.0/8",),
        "extra_routes": ("/v1/mine",), "max_connections": 7, "head_timeout": 2.5, "body_timeout": 3.5,
        "stream_buffer": 65536, "resume": False, "migration_limit": 1, "stall_timeout": 4.5, "first_byte_timeout": 5.5,
        "log_format": "json", "access_log": "0.5", "log_prompts": True, "otlp_endpoint": "http://127.0.0.1:4318",
        "forward_headers": ("x-tenant",), "max_buffered": 2**30, "send_timeout": 5.5, "min_client_rate": 10.0,
        "max_client_connections": 5, "max_client_uploads": 3, "protect_metrics": True,
        "max_concurrent": 9, "per_adapter_limit": 4, "per_adapter": ("poet=2",), "max_queue": 99,
        "cap_n": 1, "cap_best_of": 2, "cap_tokens": 3, "cap_prompts": 4, "cap_logprobs": 5, "cap_depth": 16,
        "allow_chat_template": True, "allow_chat_template_kwargs": False,
        "max_queue_wait": 12.5, "anonymous_models": ("a", "b"), "insecure": True,
        "response_cache_size": 2**20, "response_cache_ttl": 7.5,
    }  # fmt: skip
    engine_args = ("--allowed-origins", '["https://a"]')
    settings = load({"engine": "sim", "lb_processes": 3, "engine_args": engine_args, "response_cache": True, **given})
    config = balancer_config(plan.make(settings), StateDir(tmp_path))
    cors = asdict(CorsConfig(("https://a",)))
    made = {"listen_fd": -1, "state_dir": str(tmp_path), "processes": 3, "cors": cors, "may_be_joined": False}
    assert config.to_json() == {**made, **given}


def test_answers_are_kept_only_where_they_are_to_be(tmp_path: Path) -> None:
    config = balancer_config(plan.make(load({"engine": "sim", "response_cache_size": "2M"})), StateDir(tmp_path))
    assert config.response_cache_size is None and "response_cache_size" not in config.to_json()


def test_without_a_size_bodies_have_a_share_of_the_memory(tmp_path: Path) -> None:
    config = balancer_config(plan.make(load({"engine": "sim"})), StateDir(tmp_path))
    assert config.max_buffered == max(256 * 1024 * 1024, memory() // 16)


def test_a_cluster_that_runs_keeps_its_settings_but_for_a_port_of_grpc(tmp_path: Path) -> None:
    kept = load({"state_dir": tmp_path, "engine": "sim", "port": 4711, "grpc_port": 4712, "queue_timeout": 3.0})
    plain = load({"state_dir": tmp_path, "engine": "sim", "port": 4799})
    assert adopted(kept, plain) == kept, "none is named"
    moved = adopted(kept, load({"state_dir": tmp_path, "engine": "sim", "port": 4799, "grpc_port": 4713}))
    assert moved.to_json() == kept.to_json().replace("4712", "4713")
    with pytest.raises(UsageError, match="4711 is the port that the cluster speaks HTTP on"):
        adopted(kept, load({"state_dir": tmp_path, "engine": "sim", "port": 4799, "grpc_port": 4711}))
