"""Which profile of a model fits a machine best, and why the others do not. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.deployment.profiles.machine import GB, EngineSummary, GpuSummary, MachineSummary
from config.errors import UsageError, nearest
from config.manifests.schema import HardwareProfile, MachineCondition, ManifestEntry

#: Of the memory that is sold, what is there at least: error correction and firmware take the rest.
_THERE = 0.94


@dataclass(frozen=True, slots=True)
class ProfileVerdict:
    """``lacking``: what the machine would need, in words; empty where the profile fits."""

    profile: HardwareProfile
    lacking: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.lacking


def judge(entry: ManifestEntry, machine: MachineSummary, engine: str | None = None) -> list[ProfileVerdict]:
    """Every profile, in the order of the manifest. ``engine``: the one that was asked for; others do not fit."""
    return [ProfileVerdict(profile, _lacking(profile, machine, engine)) for profile in entry.profiles]


def choose(
    name: str, entry: ManifestEntry, machine: MachineSummary, engine: str | None = None, forced: str | None = None
) -> HardwareProfile | None:
    """The profile by which the model ``name`` is served: the one that is ``forced``, else of those that fit the one
    that asks for most. None where the manifest says nothing of it, or nothing of an ``engine`` that was asked for.

    Raises UsageError, one line, for a profile that is not there, and where none fits."""
    if forced is not None:
        known = [profile.name for profile in entry.profiles]
        if forced not in known:
            said = f"{nearest(forced, known)}; there {'are' if known else 'is none'}{': ' * bool(known)}"
            raise UsageError(f"model {name} has no profile {forced!r}{said}{', '.join(known)}", exit_code=2)
        return next(profile for profile in entry.profiles if profile.name == forced)
    verdicts = [v for v in judge(entry, machine, engine) if engine in (None, v.profile.engine)]
    if not verdicts:
        return None
    fitting = [verdict.profile for verdict in verdicts if verdict.fits]
    if fitting:
        return max(fitting, key=lambda profile: _demands(profile.when))
    raise UsageError(_none_fits(name, machine, verdicts))


def _demands(when: MachineCondition) -> tuple[float, ...]:
    """How much is asked for of what machines are chosen for. Of equals the first in the manifest is taken."""
    return (bool(when.gpu), when.memory_gb or 0, when.count or 0, bool(when.platform))


def _none_fits(name: str, machine: MachineSummary, verdicts: Sequence[ProfileVerdict]) -> str:
    best = min(verdicts, key=lambda verdict: len(verdict.lacking))
    return (
        f"model {name}: no profile fits this machine ({machine}); {best.profile.name} would need "
        f"{' and '.join(best.lacking)}; `clusterctl model profiles {name}` shows all, --profile takes one all the same"
    )


def _lacking(profile: HardwareProfile, machine: MachineSummary, engine: str | None) -> tuple[str, ...]:
    when = profile.when
    found = [
        _platform(when, machine), _gpus(when, machine.gpus), _at_least(when.cores, machine.cores, "core"),
        f"{when.ram_gb:g} GB of main memory" if when.ram_gb and machine.memory < when.ram_gb * GB * _THERE else "",
        _engine(profile, machine, engine),
    ]  # fmt: skip
    return tuple(text for text in found if text)


def _platform(when: MachineCondition, machine: MachineSummary) -> str:
    if not when.platform or machine.platform.startswith(when.platform):
        return ""
    return " or ".join(when.platform)


def _gpus(when: MachineCondition, there: Sequence[GpuSummary]) -> str:
    if when.cpu:
        return "a machine without GPUs (CUDA_VISIBLE_DEVICES= hides them)" if there else ""
    if not when.wants_gpu:
        return ""
    named = [gpu for gpu in there if not when.gpu or any(_is_called(gpu.name, text) for text in when.gpu)]
    large = [gpu for gpu in named if gpu.memory >= (when.memory_gb or 0) * GB * _THERE]
    count = when.count or 1
    if len(large) >= count:
        return ""
    what = f"{count} GPU{'s' * (count != 1)}{' of the kind ' * bool(when.gpu)}{' or '.join(when.gpu)}"
    size = f" with {when.memory_gb:g} GB{' each' * (count != 1)}" if when.memory_gb else ""
    untold = " (how much memory those here have is not told)" if len(named) >= count and not named[0].memory else ""
    return f"{what}{size}{untold}"


def _is_called(name: str, text: str) -> bool:
    """Whole words: an L40S is no L4."""
    return re.search(rf"(?<![a-z0-9]){re.escape(text.lower())}(?![a-z0-9])", name.lower()) is not None


def _at_least(wanted: int | None, there: int, what: str) -> str:
    return f"{wanted} {what}{'s' * (wanted != 1)}" if wanted and there < wanted else ""


def _engine(profile: HardwareProfile, machine: MachineSummary, asked: str | None) -> str:
    if asked not in (None, profile.engine):
        return f"engine {profile.engine}, and {asked} is asked for"
    found = machine.engines.get(profile.engine, EngineSummary(missing="this release has none of that name"))
    if found.missing:
        return f"engine {profile.engine} ({found.missing})"
    if profile.when.wants_gpu and machine.gpus and not found.on_gpu:
        return f"engine {profile.engine} for GPUs (what is installed of it is for CPUs)"
    if profile.when.cpu and not found.on_cpu:
        return f"engine {profile.engine} for CPUs (what is installed of it is for GPUs)"
    return ""
