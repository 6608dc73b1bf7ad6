"""The JSON schemas take what the code takes, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from cluster.tools.schemas import cluster_yaml, models_yaml
from config.manifests import file, schema
from config.settings import Settings, load


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("instances: 2\nlora: {a: /x}\nbackend: [http://a]\ngpus: 1,0\nengine_args: --max-loras 2\n", True),
        ("gpus: [0, 1]\nengine_args: [--max-loras, '2']\nmax_buffered: 512M", True),
        ("instances: 5\nmin_instances: 1,4@mon-fri 08:00-19:00", True),
        ("access_log: on\nautoscale: off\nmax_gpu_memory: 80%\ninference_mode: single\nlora: a=/x,b=/y", True),
        ("models: {a: demo, b: {path: org/b, args: --seed 1, gpus: 0, adapters: {x: /x}}}", True),
        ("aliases: {a: m, b: {m: 90, n: 10}}\ntrusted_proxies: 10.0.0.0/8\nadapter_root: [/a]", True),
        ("instancs: 2", False), ("port: 0", False), ("port: x", False), ("models: {b: {pth: x}}", False),
        ("strategy: fastest", False), ("gpus: {a: 1}", False), ("models: {b: {path: x, engin: vllm}}", False),
    ],
)  # fmt: skip
def test_cluster_yaml(tmp_path: Path, text: str, right: bool) -> None:
    assert Draft202012Validator(cluster_yaml()).is_valid(yaml.safe_load(text)) == right
    (tmp_path / "c.yaml").write_text(text)
    if right:
        load({}, tmp_path / "c.yaml")


def test_both_are_schemas() -> None:
    for made in (cluster_yaml(), models_yaml()):
        Draft202012Validator.check_schema(made)


def test_every_setting_and_its_default_are_in_it() -> None:
    made = cluster_yaml()
    assert set(made["properties"]) == set(Settings.model_fields)
    Draft202012Validator(made).validate(json.loads(load({}).to_json()))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("models: {a: org/a, b: {path: x, profiles: [{name: p, when: {gpu: H100, count: 2}, args: --seed 1}]}}", True),
        ("version: 1\nmodels: {b: {path: x, profiles: [{name: p, when: {gpu: [H100], platform: linux}}]}}", True),
        ("models: {b: {path: x, profiles: [{name: p, when: {gpus: H100}}]}}", False), ("model: {}", False),
        ("models: {b: {profiles: []}}", False), ("models: {b: {path: x, profiles: [{when: {}}]}}", False),
        ("version: 2", False), ("models: {b: {path: x, profiles: [{name: p, when: {count: 0}}]}}", False),
    ],
)  # fmt: skip
def test_models_yaml(text: str, right: bool) -> None:
    data: dict[str, Any] = yaml.safe_load(text)
    assert Draft202012Validator(models_yaml()).is_valid(data) == right
    try:
        schema.parse(data)
    except ValueError:
        assert not right
    else:
        assert right


def test_the_shipped_manifest_is_one() -> None:
    Draft202012Validator(models_yaml()).validate(yaml.safe_load(file.SHIPPED.read_text()))
