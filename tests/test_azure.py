"""What lies in deploy/azure/, as far as it can be held to something without an Azure."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import modelconfigs
from cluster.tools.sizing import model as models
from config import settings

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "azure"


@pytest.fixture(scope="module")
def skus() -> ModuleType:
    spec = importlib.util.spec_from_file_location("azure_skus", FOLDER / "skus.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cloud_init() -> dict[str, Any]:
    text = (FOLDER / "cloud-init.yaml").read_text()
    assert text.startswith("#cloud-config\n"), "cloud-init takes it for something else"
    return dict(yaml.safe_load(text))


def test_the_table_is_what_the_sizing_says(skus: ModuleType) -> None:
    made = "\n".join(skus.lines()) + "\n"
    assert (FOLDER / "skus.md").read_text() == made, "run: python deploy/azure/skus.py > deploy/azure/skus.md"


def test_models_are_of_the_sizes_that_they_have(skus: ModuleType) -> None:
    known = {
        "Qwen2.5-7B": modelconfigs.QWEN_25_7B, "Qwen2.5-14B": modelconfigs.QWEN_25_14B,
        "Qwen2.5-32B": modelconfigs.QWEN_25_32B, "Llama-3.3-70B": modelconfigs.LLAMA_33_70B,
    }  # fmt: skip
    assert {name: models.parse(config) for name, config in skus.MODELS.items()} == {
        name: models.parse(config) for name, config in known.items()
    }


def test_a_cluster_on_a_machine_is_run_by_our_unit(cloud_init: dict[str, Any]) -> None:
    files = {one["path"]: one["content"] for one in cloud_init["write_files"]}
    assert files["/etc/systemd/system/clusterctl.service"] == (ROOT / "deploy" / "clusterctl.service").read_text()
    assert cloud_init["runcmd"][-1] == "systemctl enable --now clusterctl"
    users = [one["name"] for one in cloud_init["users"] if isinstance(one, dict)]
    assert users == ["clusterctl"] and "User=clusterctl" in files["/etc/systemd/system/clusterctl.service"]


def test_its_settings_are_ones(
    cloud_init: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLUSTERCTL_CONFIG", raising=False)
    for name, text in (
        ("vm", next(one["content"] for one in cloud_init["write_files"] if one["path"] == "/etc/clusterctl.yaml")),
        ("aks", yaml.safe_dump(yaml.safe_load((FOLDER / "aks.yaml").read_text())["config"])),
    ):
        (tmp_path / name).write_text(text)
        assert settings.load({}, tmp_path / name).model == "Qwen/Qwen2.5-7B-Instruct"
