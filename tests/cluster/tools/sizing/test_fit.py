"""What fits where, and what is advised where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.deployment import plan as plans
from cluster.fleet.placement import Machine
from cluster.tools.sizing import remedies
from cluster.tools.sizing.fit import Fit, Hardware, Load, best
from cluster.tools.sizing.memory import GIB, weights
from cluster.tools.sizing.model import parse
from cluster.tools.sizing.remedies import Case
from cluster.tools.sizing.report import Sizing, command, lines, to_json
from config.settings import load
from modelconfigs import DEEPSEEK_V3, GPT_OSS_20B, LLAMA_3_8B, MIXTRAL_8X7B, QWEN_25_7B
from worker.engines.vllm import VllmEngine
from worker.spec import WorkerEndpoint

ASK = Load(adapters=8, rank=32, context=4096, concurrency=64)


def _case(config: dict[str, Any], place: Hardware, ask: Load = ASK, ranks: int | None = None) -> Case:
    model = parse(config)
    return Case(model, weights(model, None), ask, place, ranks)


def _gpus(number: int, gib: float) -> Hardware:
    return Hardware(number, int(gib * GIB))


def _fit(case: Case) -> Fit:
    return best(case.model, case.weights, case.ask, case.place, case.ranks)


def _sizing(case: Case, name: str | None = "m", dtype: str | None = None) -> Sizing:
    return Sizing(name, case, _fit(case), dtype)


def test_a_small_model_gets_an_instance_on_each_gpu() -> None:
    fit = _fit(_case(LLAMA_3_8B, _gpus(4, 80)))
    assert (fit.ranks, fit.instances, fit.enough) == (1, 4, True)
    assert fit.budget == int(0.92 * 80 * GIB) and fit.weights == 16_060_522_496
    assert fit.kv == fit.room == fit.budget - fit.weights - fit.adapters - fit.overhead
    assert fit.holds == 4 * int(fit.blocks / 256)


def test_a_large_one_spans_the_fewest_gpus_that_hold_it() -> None:
    assert _fit(_case(MIXTRAL_8X7B, _gpus(4, 80))).ranks == 2
    assert _fit(_case(MIXTRAL_8X7B, _gpus(4, 80), ranks=4)).ranks == 4
    assert _fit(_case(DEEPSEEK_V3, _gpus(8, 141), replace(ASK, adapters=1, rank=16))).ranks == 8


def test_more_gpus_an_instance_where_one_holds_too_few_requests() -> None:
    few, many = (_fit(_case(LLAMA_3_8B, _gpus(2, 24), replace(ASK, concurrency=n))) for n in (2, 20))
    assert (few.ranks, few.instances) == (1, 2)
    assert (many.ranks, many.instances) == (2, 1) and many.holds > few.holds


def test_the_heads_must_be_divisible() -> None:
    """28 of them: by four and not by eight."""
    case = _case(QWEN_25_7B, _gpus(8, 6), replace(ASK, concurrency=1, adapters=1))
    assert _fit(case).ranks == 4


def test_what_does_not_fit_says_what_would_help_and_it_does() -> None:
    case = _case(MIXTRAL_8X7B, _gpus(1, 80), replace(ASK, concurrency=1))
    fit = _fit(case)
    assert not fit.runs and fit.holds == 0 and command(_sizing(case)) == ""
    text = "\n".join(lines(_sizing(case)))
    assert text.startswith("m does not fit on 1 GPU of 80 GiB: for an instance 97.31 GiB are needed")
    found = remedies.find(case)
    assert "2 GPUs of 80 GiB" in found and "1 GPU of 141 GiB" in found and all(f"- {one}" in text for one in found)
    assert _fit(replace(case, place=_gpus(2, 80))).enough and _fit(replace(case, place=_gpus(1, 141))).enough
    assert not _fit(replace(case, place=_gpus(1, 96))).enough


def test_fewer_requests_than_asked() -> None:
    case = _case(GPT_OSS_20B, _gpus(1, 24), replace(ASK, adapters=4, rank=16))
    sizing = _sizing(case)
    assert sizing.verdict == "fewer" and 0 < sizing.fit.holds < 64
    found = remedies.find(case)
    assert found[0].startswith(f"--concurrency {sizing.fit.holds};")
    assert _fit(replace(case, ask=replace(case.ask, concurrency=sizing.fit.holds))).enough
    assert "--kv-cache-dtype fp8: a cache of half the size, a little less exact" in found
    assert command(sizing) in "\n".join(lines(sizing))


def test_nothing_helps_a_model_that_nobody_can_hold() -> None:
    case = _case({**LLAMA_3_8B, "hidden_size": 1 << 20, "intermediate_size": 1 << 24}, _gpus(1, 1))
    assert remedies.find(case) == []
    assert "Nothing single makes it fit" in "\n".join(lines(_sizing(case)))


def test_without_gpus_instances_share_the_memory() -> None:
    place = Hardware(0, 48 * GIB, cores=4, process=5 * GIB // 2)
    case = _case(LLAMA_3_8B, place, Load(4, 16, 2048, 4))
    fit = _fit(case)
    assert (fit.instances, fit.enough, fit.budget) == (2, True, int(48 * GIB * 0.9) // 2)
    assert fit.kv == fit.cache.request_bytes(2048) * 2 == GIB // 2
    assert command(_sizing(case)).startswith("CLUSTERCTL_CPU_KV_GIB=0.5 clusterctl up --instances 2 --model m -- ")
    given = _fit(replace(case, ask=replace(case.ask, cpu_kv=GIB // 8)))
    assert given.kv == GIB // 8 and not given.runs
    assert any("--cpu-kv-gib" in text for text in remedies.find(replace(case, ask=replace(case.ask, cpu_kv=GIB // 8))))
    small = _case(LLAMA_3_8B, Hardware(0, 8 * GIB, 4, 5 * GIB // 2), Load(4, 16, 2048, 4))
    assert "32 GiB of main memory" in remedies.find(small)


def test_no_adapters_no_room_for_them() -> None:
    case = _case(LLAMA_3_8B, _gpus(1, 80), replace(ASK, adapters=0))
    assert _fit(case).adapters == 0 and command(_sizing(case)).endswith("--no-enable-lora")


@given(
    st.sampled_from([LLAMA_3_8B, QWEN_25_7B, MIXTRAL_8X7B, GPT_OSS_20B]), st.integers(1, 8), st.floats(4, 200),
    st.integers(0, 16), st.sampled_from([16, 64]), st.integers(1, 8192), st.integers(1, 200), st.booleans(),
)  # fmt: skip
def test_what_is_said_to_fit_fits(
    config: dict[str, Any], number: int, gib: float, adapters: int, rank: int, context: int, at_once: int, cpu: bool
) -> None:
    place = Hardware(0, int(gib * GIB), number, 5 * GIB // 2) if cpu else _gpus(number, gib)
    case = _case(config, place, Load(adapters, rank, context, at_once))
    fit, sizing = _fit(case), _sizing(case)
    assert fit.runs == (fit.holds > 0) == bool(command(sizing))
    if fit.runs:
        assert fit.weights + fit.adapters + fit.overhead + fit.kv <= fit.budget
        assert fit.blocks * fit.cache.block_bytes <= fit.kv
        assert fit.instances * fit.ranks <= max(1, number)
    if fit.enough:
        assert fit.needed <= fit.budget and sizing.verdict == "fits" and to_json(sizing)["remedies"] == []
    assert all(isinstance(line, str) for line in lines(sizing))


@pytest.mark.parametrize("ranks", [1, 2])
def test_up_takes_the_suggested_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, ranks: int) -> None:
    import shlex

    from cluster.cli.lifecycle.up import given_flags, up_command

    monkeypatch.setattr(VllmEngine, "check", lambda self: None)
    (tmp_path / "config.json").write_text("{}")
    sizing = _sizing(_case(LLAMA_3_8B, _gpus(2, 80), ranks=ranks), str(tmp_path), "float16")
    words = shlex.split(command(sizing))
    assert words[:2] == ["clusterctl", "up"]
    options = dict(up_command.make_context("up", words[2:]).params)
    flags = given_flags({k: v for k, v in options.items() if k not in ("config", "detached", "engine_args")},
                        options["engine_args"])  # fmt: skip
    made = plans.make(load(flags), Machine(((0, "0"), (1, "1")), (0, 1), 64 * GIB))
    assert (made.spec.max_loras, made.spec.max_lora_rank, made.spec.tensor_parallel_size) == (8, 32, ranks)
    assert made.settings.instances == 2 // ranks
    argv = made.engine.command(made.spec, WorkerEndpoint(1), "", made.placement.slot(0), {}).argv
    assert argv[argv.index("--max-model-len") + 1] == "4096" and argv.count("--max-loras") == 1


def test_the_formula_is_shown_with_its_numbers() -> None:
    text = "\n".join(lines(_sizing(_case(LLAMA_3_8B, _gpus(4, 80)))))
    assert "8,030,261,248 parameters (config.json) × 2 bytes (bfloat16) = 14.96 GiB" in text
    assert "8 × rank 32 × 2,886,144 inputs and outputs × 2 bytes = 1.38 GiB" in text
    assert "2 × 32 layers × 8 KV heads × 128 × 2 bytes × 4,096 tokens a request = 0.50 GiB" in text
    assert "Of 0.92 × 80.00 GiB = 73.60 GiB" in text and "an estimate" in text
    latent = "\n".join(lines(_sizing(_case(DEEPSEEK_V3, _gpus(8, 141)))))
    assert "61 layers × (512 + 64) × 2 bytes × 4,096 tokens" in latent and "as stored (config.json, fp8)" in latent


def test_what_is_guessed_says_so() -> None:
    case = _case({**LLAMA_3_8B, "model_type": "unheard_of"}, _gpus(3, 80), ranks=2)
    found = to_json(_sizing(case))
    assert found["estimated"] == ["overhead", "weights", "adapters"]
    assert any("unheard_of is counted like Llama" in note for note in found["notes"])
    assert "1 of the GPUs stays idle." in found["notes"]
