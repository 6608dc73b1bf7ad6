"""What a machine has, as far as profiles ask for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: A GB as it is sold; of a GPU's a few percent are kept for error correction.
GB = 10**9


@dataclass(frozen=True, slots=True)
class GpuSummary:
    """``memory`` bytes, 0 where the driver does not tell."""

    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class EngineSummary:
    """``missing``: what it lacks here, in words; '' where it is installed. ``on_gpu`` and ``on_cpu``: where what is
    installed of it can run."""

    missing: str = ""
    on_gpu: bool = False
    on_cpu: bool = True


@dataclass(frozen=True, slots=True)
class MachineSummary:
    """``gpus`` that we may use, ``memory`` bytes of main memory, ``platform`` such as linux-x86_64. ``avx2``: whether
    the processor has it."""

    gpus: tuple[GpuSummary, ...] = ()
    cores: int = 1
    memory: int = 0
    platform: str = ""
    engines: Mapping[str, EngineSummary] = field(default_factory=dict)
    avx2: bool = False

    def __str__(self) -> str:
        there = f"{self.cores} core{'s' * (self.cores != 1)}, {self.memory / GB:.0f} GB of main memory"
        counts = {gpu: self.gpus.count(gpu) for gpu in self.gpus}
        named = ", ".join(f"{n} x {gpu.name} {gpu.memory / GB:.0f} GB" for gpu, n in counts.items())
        return f"{named or 'no GPU'}, {there}, {self.platform}"
