"""Which engine `--engine auto` means on a machine. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.deployment.profiles.machine import MachineSummary

#: What stands for an engine in settings and definitions until the machine is known.
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """``why`` in words, which go on after "as "."""

    engine: str
    why: str

    def __str__(self) -> str:
        return f"engine {self.engine}, as {self.why}"


def choose(machine: MachineSummary) -> EngineChoice:
    """What is fastest there. It need not be installed: then it says what to install."""
    if machine.platform.startswith("darwin-arm"):
        return EngineChoice("mlx", "this is Apple Silicon")
    if machine.gpus:
        count = len(machine.gpus)
        return EngineChoice("vllm", f"there {'are' if count > 1 else 'is'} {count} GPU{'s' * (count > 1)} of NVIDIA")
    found = machine.engines.get("vllm")
    if found is None or found.missing:
        return EngineChoice("llamacpp", "there is no GPU, and vLLM is not installed")
    if not found.on_cpu:
        return EngineChoice("llamacpp", "there is no GPU, and the vLLM that is installed needs one")
    if not machine.avx2:
        return EngineChoice("llamacpp", "there is no GPU, and vLLM needs AVX2, which this processor lacks")
    return EngineChoice("vllm", "there is no GPU, its CPU build is installed, and the processor has AVX2")
