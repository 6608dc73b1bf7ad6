"""What `up` says to input with which nothing can be started. Some of it as whole processes: `tests/e2e/test_cli.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cluster.cli import main

BAD = {
    "model path that does not exist": (["--model", "./nowhere"], 1, "no such file"),
    "model path without a model": (["--model", "{tmp}"], 1, "holds no model"),
    "adapter path missing": (["--lora", "a=/nowhere/at/all"], 1, "no folder"),
    "adapter path without an adapter": (["--lora", "a={tmp}"], 1, "no LoRA adapter"),
    "adapter name twice": (["--lora", "a={adapter}", "--lora", "a={adapter}"], 2, "twice"),
    "adapter name with a slash": (["--lora", "a/b={adapter}"], 2, "A-Za-z0-9"),
    "adapter name too long": (["--lora", f"{'x' * 129}={{adapter}}"], 2, "128"),
    "adapter named as the model": (["--lora", "demo={adapter}"], 2, "name of the model"),
    "adapter without a path": (["--lora", "a"], 2, "NAME=PATH"),
    "broken YAML": (["--config", "{broken}"], 2, "line 2"),
    "unknown key in YAML": (["--config", "{unknown}"], 2, "did you mean 'instances'"),
    "a manifest that is not there": (["--manifest", "{tmp}/none.yaml"], 2, "No such file"),
    "unknown key in a manifest": (["--manifest", "{unknown}"], 2, "unknown key 'instancs'"),
    "a profile of no manifest": (["--model", "org/model", "--profile", "x"], 2, "is in no manifest"),
    "unknown profile": (["--model", "qwen2.5-7b", "--profile", "24g"], 2, "did you mean '24gb'"),
    "a file of variables that is not there": (["--env-file", "{tmp}/.env"], 2, "No such file"),
    "a mode without what it needs": (["--inference-mode", "multi_instance"], 2, "CLUSTER_INSTANCES"),
    "no configuration file": (["--config", "{tmp}/none.yaml"], 2, "No such file"),
    "unknown strategy": (["--strategy", "roundrobin"], 2, "round_robin"),
    "unknown engine": (["--engine", "vlm"], 2, "did you mean 'vllm'"),
    "unknown option": (["--instance", "3"], 2, "--instances"),
    "instances that are no number": (["--instances", "three"], 2, "instances"),
    "no instances and no backends": (["--instances", "0"], 2, "--backend"),
    "a backend that is no URL": (["--backend", "ftp://x"], 2, "http://"),
    "an engine flag that the cluster owns": (["--", "--port", "1"], 2, "--port"),
    "an engine flag that is no number": (["--", "--max-lora-rank", "many"], 2, "--max-lora-rank"),
    "GPUs that are not there": (["--engine", "vllm", "--gpus", "7"], 1, "GPU"),
    "seconds that are no number": (["--drain-timeout", "nan"], 2, "no finite number"),
    "a port out of range": (["--port", "70000"], 2, "port"),
    "a share of requests that is none": (["--access-log", "some"], 2, "--access-log"),
    "more than all requests": (["--access-log", "1.5"], 2, "--access-log"),
    "a collector that is no URL": (["--otlp-endpoint", "localhost:4318"], 2, "--otlp-endpoint"),
    "unknown format of logs": (["--log-format", "xml"], 2, "--log-format"),
    "no time to stand still": (["--stall-timeout", "0"], 2, "--stall-timeout"),
    "less than no time to stand still": (["--stall-timeout", "-1"], 2, "--stall-timeout"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_starts_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args, code, words = BAD[case]
    (tmp_path / "broken.yaml").write_text("instances: 3\nport: : 1\n")
    (tmp_path / "unknown.yaml").write_text("instancs: 3\n")
    empty, adapter = tmp_path / "empty", tmp_path / "adapter"
    empty.mkdir()
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 8, "peft_type": "LORA"}))
    names = {
        "tmp": str(empty), "adapter": str(adapter), "broken": str(tmp_path / "broken.yaml"),
        "unknown": str(tmp_path / "unknown.yaml"),
    }  # fmt: skip
    base = ["up", "--engine", "sim", "--port", "1", "--state-dir", str(tmp_path / "state")]
    monkeypatch.setattr(sys, "argv", ["clusterctl", *base, *(a.format(**names) for a in args)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == code, said
    assert words in said
    lines = [line for line in said.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    assert len(lines) == 1, said
    assert not (tmp_path / "state" / "run").exists()
