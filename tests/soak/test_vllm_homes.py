"""More adapters than two real vLLM workers have slots and places for: each where it belongs, and the same answers."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adapterfakes import make_adapter
from harness import Cluster, free_port
from worker.demo import model_path

pytestmark = [pytest.mark.soak, pytest.mark.vllm, pytest.mark.timeout(3600)]

COUNT, SLOTS, PLACES = 12, 2, 6
NAMES = [f"a{number}" for number in range(COUNT)]


def _answer(cluster: Cluster, name: str) -> str:
    body: dict[str, Any] = {"model": name, "prompt": "What is clusterctl?", "max_tokens": 8, "temperature": 0}
    answer = cluster.post("/v1/completions", body, timeout=120)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def _swaps(cluster: Cluster) -> int:
    """Adapters that engines brought into slots."""
    logs = (cluster.state_dir / "logs").glob("instance_*")
    return sum(log.read_text(errors="replace").count("Activating LoRA") for log in logs)


def _phase(cluster: Cluster, alone: dict[str, str], strategy: str) -> int:
    assert cluster.post("/v1/cluster/strategy", {"strategy": strategy}).status_code == 200
    order = [name for _ in range(8) for name in NAMES]
    with ThreadPoolExecutor(6) as pool:
        assert dict(zip(NAMES, pool.map(lambda name: _answer(cluster, name), NAMES), strict=True)) == alone
        random.Random(5).shuffle(order)
        before = _swaps(cluster)
        answers = list(pool.map(lambda name: _answer(cluster, name), order))
    assert [(name, text) for name, text in zip(order, answers, strict=True) if text != alone[name]] == []
    return _swaps(cluster) - before


def test_homes_halve_the_swaps_and_change_no_answer(tmp_path: Path) -> None:
    listed = [{"name": name, "path": make_adapter(tmp_path / name, at)} for at, name in enumerate(NAMES)]
    file = tmp_path / "adapters.yaml"
    file.write_text(json.dumps({"lora_adapters": listed, "auto_load": [], "lora_settings": {"cache_size": PLACES}}))
    cluster = Cluster(tmp_path / "state", free_port())
    try:
        given = ("--instances", "2", "--model", str(model_path()), "--lora-config", str(file))
        flags = ("--", "--max-loras", str(SLOTS), "--served-model-name", "demo")
        result = cluster.up(*given, *flags, timeout=400, VLLM_LOGGING_LEVEL="DEBUG")
        assert result.returncode == 0, result.stderr
        cluster.wait_ready(2, 300)
        alone = {name: _answer(cluster, name) for name in NAMES}
        swaps = {strategy: _phase(cluster, alone, strategy) for strategy in ("least_connections", "adaptive")}
        print(swaps)  # for `docs/routing.md`
        assert swaps["adaptive"] <= swaps["least_connections"] / 2
    finally:
        cluster.close()
