"""What is shipped: the wheel holds everything, the deployment files say what they should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from cluster.fleet.placement import Machine, Placement
from worker.engines.llamacpp import INSTALL_SMOLLM2

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_the_packages_the_demo_model_and_the_command(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        check=True, capture_output=True, timeout=110,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("clusterctl-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "cluster/cli/__init__.py", "lb/__main__.py", "config/settings.py", "worker/sim/__main__.py",
        "lb/ui/index.html", "lb/ui/app.js", "lb/ui/style.css", "lb/ui/icon.svg",
        "worker/demo/model/model.safetensors", "worker/demo/adapters/poet/adapter_config.json",
        "worker/demo/gguf/demo.gguf", "cluster/py.typed", "lb/admin/openapi/schemas.py", "lb/rpc/internal_chat.proto",
    ):  # fmt: skip
        assert needed in names
    assert not [name for name in names if name.startswith("tests")]
    sizes = {i.filename: i.file_size for i in zipfile.ZipFile(wheel).infolist()}
    model = sum(size for name, size in sizes.items() if name.startswith("worker/demo/model/"))
    assert model <= 4 * 1024**2
    for adapter in ("pirate", "poet"):
        weights = sum(s for name, s in sizes.items() if name.startswith(f"worker/demo/adapters/{adapter}/"))
        assert 0 < weights <= 1024**2


def test_compose_has_a_cpu_and_a_gpu_profile_with_a_health_check_and_an_init() -> None:
    everything = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    services = {name: service for name, service in everything.items() if "build" in service}
    assert sorted(p for s in services.values() for p in s["profiles"]) == ["cpu", "gpu"]
    for service in services.values():
        assert "/health" in " ".join(service["healthcheck"]["test"])
        assert service["init"] is True
        dockerfile = ROOT / service["build"]["dockerfile"]
        assert dockerfile.is_file()


def test_the_user_in_the_image_may_write_to_what_compose_mounts() -> None:
    (made,) = re.findall(r"install -d -o clusterctl (.+)", (ROOT / "deploy" / "Dockerfile").read_text())
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    mounted = {volume.split(":")[1] for service in services if "build" in service for volume in service["volumes"]}
    assert mounted <= set(made.split())


@pytest.mark.parametrize(("gpus", "shared"), [(0, ""), (1, "--instances-per-gpu 3"), (2, "--instances-per-gpu 2"),
                                              (3, ""), (8, "")])  # fmt: skip
def test_make_up_begins_three_workers_however_many_gpus_there_are(tmp_path: Path, gpus: int, shared: str) -> None:
    lines = "".join(f"echo 'GPU {n}: NVIDIA H100 (UUID: GPU-{n})'\n" for n in range(gpus))
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{lines}" + ("" if gpus else "exit 9\n"))
    tool.chmod(0o755)
    environ, command = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, ["make", "-n", "-B", "up", "ARGS=--port 9000"]
    made = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    assert made.stdout.splitlines()[-1].split() == [
        ".venv/bin/clusterctl", "up", "--instances", "3", *shared.split(), "--port", "9000"
    ]  # fmt: skip
    assert ("'.[cpu" in made.stdout) == (not gpus)
    if gpus:
        made_of = Machine(tuple((n, "a GPU") for n in range(gpus)), (0,), 2**37)
        each = int(shared.split()[1]) if shared else 1
        Placement(made_of, ranks=1, per_gpu=each, on_gpu=True, memory_each=2**30, planned=3).require(3)


def test_make_try_installs_llama_cpp_and_a_model_without_what_that_asks_for() -> None:
    """Which would be built from source."""
    apart = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # from `make test`
    made = subprocess.run(
        ["make", "-n", "-B", "try", "ARGS=--port 9000"], cwd=ROOT, env=apart, capture_output=True, text=True, check=True
    ).stdout.splitlines()  # fmt: skip
    assert made[-1].split() == [
        ".venv/bin/clusterctl", "up", "--engine", "llamacpp", "--model", "smollm2", "--instances", "1", "--port", "9000"
    ]  # fmt: skip
    assert any("'.[llamacpp]'" in line for line in made)
    assert INSTALL_SMOLLM2.split()[-1] in next(line for line in made if "--no-deps" in line)


def test_the_unit_ends_the_supervisor_alone() -> None:
    unit = (ROOT / "deploy" / "clusterctl.service").read_text()
    assert "KillMode=process" in unit
    assert "ExecStart=" in unit
