"""Which profile fits which machine, and what is said of those that do not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.deployment.profiles.choice import choose, judge
from cluster.deployment.profiles.machine import GB, EngineSummary, GpuSummary, MachineSummary
from config.errors import UsageError
from config.manifests.schema import ManifestEntry

GPU_ENGINES = {"vllm": EngineSummary(on_gpu=True, on_cpu=False), "sim": EngineSummary()}
CPU_ENGINES = {"vllm": EngineSummary(), "sim": EngineSummary()}


def _machine(*gpus: tuple[str, float], **more: Any) -> MachineSummary:
    engines = GPU_ENGINES if gpus else CPU_ENGINES
    found = tuple(GpuSummary(name, int(size * GB)) for name, size in gpus)
    return MachineSummary(**{
        "gpus": found, "cores": 8, "memory": 64 * GB, "platform": "linux-x86_64", "engines": engines, **more,
    })  # fmt: skip


def _entry(**profiles: dict[str, Any]) -> ManifestEntry:
    """Profiles by name: their conditions, and under ``_`` what else is said."""
    listed = [
        {"name": name, "when": {k: v for k, v in when.items() if k != "_"}, **when.get("_", {})}
        for name, when in profiles.items()
    ]
    return ManifestEntry.model_validate({"path": "org/m", "profiles": listed})


ENTRY = _entry(
    cpu={"cpu": True, "ram_gb": 32}, anything={"_": {"engine": "sim"}}, small={"memory_gb": 24},
    two={"count": 2, "memory_gb": 24}, big={"memory_gb": 80}, h100={"gpu": ["H100", "H200"], "memory_gb": 80},
    l4={"gpu": "L4", "memory_gb": 24},
)  # fmt: skip

H100, A100, L4, L40S, T4 = (
    ("NVIDIA H100 80GB HBM3", 85.5), ("NVIDIA A100-SXM4-80GB", 85.9), ("NVIDIA L4", 24.15), ("NVIDIA L40S", 48.3),
    ("Tesla T4", 15.84),
)  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "chosen"),
    [
        (_machine(), "cpu"), (_machine(memory=16 * GB), "anything"), (_machine(T4), "anything"),
        (_machine(A100), "big"), (_machine(A100, A100), "big"), (_machine(H100), "h100"), (_machine(L4), "l4"),
        (_machine(L4, L4), "l4"), (_machine(L40S), "small"), (_machine(L40S, L40S), "two"),
        (_machine(T4, H100), "h100"), (_machine(("A GPU", 0)), "anything"),
        (_machine(engines={"sim": EngineSummary()}), "anything"),
    ],
)  # fmt: skip
def test_the_profile_that_asks_for_most_of_what_is_there(machine: MachineSummary, chosen: str) -> None:
    found = choose("m", ENTRY, machine)
    assert found is not None and found.name == chosen


@pytest.mark.parametrize(
    ("when", "machine", "lacking"),
    [
        ({"gpu": "H100"}, _machine(), ("1 GPU of the kind H100",)),
        ({"gpu": ["H100", "H200"], "count": 2, "memory_gb": 80}, _machine(H100),
         ("2 GPUs of the kind H100 or H200 with 80 GB each",)),
        ({"memory_gb": 80}, _machine(("A GPU", 0)),
         ("1 GPU with 80 GB (how much memory those here have is not told)",)),
        ({"memory_gb": 16}, _machine(T4), ()),
        ({"cpu": True}, _machine(L4), ("a machine without GPUs (CUDA_VISIBLE_DEVICES= hides them)",
                                       "engine vllm for CPUs (what is installed of it is for GPUs)")),
        ({"cores": 16, "ram_gb": 128}, _machine(), ("16 cores", "128 GB of main memory")),
        ({"platform": ["darwin-arm64"]}, _machine(), ("darwin-arm64",)),
        ({"platform": "linux"}, _machine(), ()),
        ({"count": 1}, _machine(L4, engines=CPU_ENGINES),
         ("engine vllm for GPUs (what is installed of it is for CPUs)",)),
        ({}, _machine(engines={"vllm": EngineSummary("vLLM is not installed")}),
         ("engine vllm (vLLM is not installed)",)),
        ({"_": {"engine": "mlx"}}, _machine(), ("engine mlx (this release has none of that name)",)),
    ],
)  # fmt: skip
def test_what_a_profile_lacks_is_said(when: dict[str, Any], machine: MachineSummary, lacking: tuple[str, ...]) -> None:
    assert judge(_entry(p=when), machine)[0].lacking == lacking


def test_none_fits_is_one_line_that_says_what_the_nearest_would_need() -> None:
    entry = _entry(huge={"gpu": "H100", "count": 8, "ram_gb": 512}, big={"memory_gb": 80})
    with pytest.raises(UsageError) as error:
        choose("m", entry, _machine(L4, L4))
    assert str(error.value) == (
        "model m: no profile fits this machine (2 x NVIDIA L4 24 GB, 8 cores, 64 GB of main memory, linux-x86_64); big "
        "would need 1 GPU with 80 GB; `clusterctl model profiles m` shows all, --profile takes one all the same"
    )
    assert error.value.exit_code == 1


def test_of_an_engine_that_was_asked_for_only_its_profiles_count_and_none_at_all_is_no_mistake() -> None:
    machine = _machine()
    found = choose("m", ENTRY, machine, engine="sim")
    assert found is not None and found.name == "anything"
    assert choose("m", ENTRY, machine, engine="mlx") is None
    assert choose("m", _entry(), machine) is None
    with pytest.raises(UsageError, match="no profile fits"):
        choose("m", _entry(gpu={"memory_gb": 80}), machine, engine="vllm")


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no profile 'smal' .did you mean 'small'.*there are: cpu, anything") as error:
        choose("m", ENTRY, _machine(), forced="smal")
    assert error.value.exit_code == 2
    with pytest.raises(UsageError, match="model m has no profile 'x'; there is none"):
        choose("m", _entry(), _machine(), forced="x")


_MACHINES = st.builds(
    _machine, st.sampled_from([H100, A100, L4, L40S, T4]), cores=st.integers(1, 64), memory=st.integers(1, 10**12)
) | st.builds(_machine, cores=st.integers(1, 64), memory=st.integers(1, 10**12))


@given(_MACHINES, st.sampled_from(ENTRY.profiles), st.sampled_from([None, "vllm", "sim", "mlx"]))
def test_a_forced_profile_wins_whatever_the_machine(machine: MachineSummary, profile: Any, engine: str | None) -> None:
    assert choose("m", ENTRY, machine, engine, profile.name) is profile


@given(_MACHINES)
def test_what_is_chosen_fits_and_nothing_that_fits_asks_for_more_memory(machine: MachineSummary) -> None:
    chosen = choose("m", ENTRY, machine)
    verdicts = judge(ENTRY, machine)
    fitting = [verdict.profile for verdict in verdicts if verdict.fits]
    assert chosen in fitting
    assert chosen.when.gpu or not any(profile.when.gpu for profile in fitting)
