"""Settings whose models are named as a manifest has them, with what the chosen profiles say.

What somebody gave wins over a profile, setting by setting; of the engine's own flags, flag by flag. What comes out
names no manifest any more: a running cluster does not change with a file.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.deployment.profiles import automatic, summary
from cluster.deployment.profiles.automatic import AUTO
from cluster.deployment.profiles.choice import choose
from cluster.deployment.profiles.machine import MachineSummary
from config import lora_config
from config import settings as configuration
from config.disk.absolute import under
from config.errors import UsageError
from config.lora_config import LoraFile
from config.manifests import file
from config.manifests.schema import HardwareProfile, ManifestEntry
from config.models import ModelDefinition
from config.settings import Settings
from config.sources.given import Given
from worker.demo import MODEL_NAME as DEMO
from worker.engines import flags

#: Of a profile, what is a setting and a key of a model's definition under the same name.
_SHARED = ("engine", "tensor_parallel_size", "instances_per_gpu", "cpu_kv_gib")


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """``chosen``: the profile of each model that a manifest named, by its name there; ``by_profile``: the settings
    that are as they are because of one, or of the machine. ``automatic``: the engine that was left to the machine, and
    why; empty where none was."""

    settings: Settings
    given: Given
    chosen: Mapping[str, HardwareProfile] = field(default_factory=dict)
    by_profile: Mapping[str, str] = field(default_factory=dict)
    automatic: str = ""

    def source(self, setting: str) -> str:
        """Where the value of ``setting`` comes from."""
        return self.by_profile.get(setting) or self.given.source(setting) or "default"

    @property
    def notes(self) -> list[str]:
        """What was chosen, a line each; what runs code of the model's own repository is said."""
        return [self.automatic] * bool(self.automatic) + [
            f"{name}: profile {profile.name}, engine {profile.engine}"
            + ", which runs code out of the model's repository" * flags.has(profile.args, "--trust-remote-code")
            for name, profile in self.chosen.items()
        ]


def load(
    flags: Mapping[str, Any], config: Path | None = None, look: Callable[[], MachineSummary] = summary.look
) -> ResolvedSettings:
    """`config.settings.load`, and the manifest. Raises UsageError."""
    return resolve(*configuration.load_with_sources(flags, config), look)


def resolve(
    settings: Settings, given: Given, look: Callable[[], MachineSummary] = summary.look
) -> ResolvedSettings:
    """``look`` is asked only where a manifest knows one of the models, or the engine is the machine's to say. Raises
    UsageError."""
    look = functools.cache(look)
    found = _by_manifest(settings, given, look)
    settings = found.settings
    models = {name: model for name, model in settings.models.items() if model.engine == AUTO}
    if settings.engine != AUTO and not models:
        return found
    choice = automatic.choose(look())
    named = {name: model.model_copy(update={"engine": choice.engine}) for name, model in models.items()}
    changed: dict[str, Any] = {"models": {**settings.models, **named}}
    by_profile = dict(found.by_profile)
    if settings.engine == AUTO:
        changed["engine"], by_profile["engine"] = choice.engine, f"auto, as {choice.why}"
    return replace(found, settings=settings.model_copy(update=changed), by_profile=by_profile, automatic=str(choice))


def _by_manifest(settings: Settings, given: Given, look: Callable[[], MachineSummary]) -> ResolvedSettings:
    settings = _below(settings)
    named = {definition.path for definition in settings.models.values()}
    if settings.model is not None and settings.model not in settings.models:
        named.add(settings.model)
    asked_for = settings.manifest is not None or any("/" not in name for name in named)
    known = file.entries(settings.manifest) if asked_for else {}
    found = {name: known[name] for name in named if name in known}
    if settings.profile is not None and settings.model not in found:
        source = given.source("profile") or "profile"
        raise UsageError(f"{source}: the model {settings.model or DEMO!r} is in no manifest", exit_code=2)
    if not found:
        return ResolvedSettings(settings, given)
    machine = look()
    asked = settings.engine if given.source("engine") and settings.engine != AUTO else None
    chosen: dict[str, HardwareProfile] = {}
    changed: dict[str, Any] = {}
    by_profile: dict[str, str] = {}
    if settings.model is not None and settings.model in found:
        profile = choose(settings.model, found[settings.model], machine, asked, settings.profile)
        changed = _of_settings(settings, given, found[settings.model], profile)
        where = f"manifest, {settings.model}"
        if profile is not None:
            chosen[settings.model] = profile
            where += f", profile {profile.name}"
        by_profile = dict.fromkeys(changed, where)
    models = {}
    for name, definition in settings.models.items():
        models[name], profile = define(definition, found, machine, asked)
        if profile is not None:
            chosen[name] = profile
    made = _below(settings.model_copy(update={**changed, "models": models}))
    return ResolvedSettings(made, given, chosen, by_profile)


def _below(settings: Settings) -> Settings:
    """With the models that lie below ``model_base_path`` by their paths."""
    if (base := settings.model_base_path) is None:
        return settings
    found: dict[str, Any] = {"models": {name: _model_below(base, model) for name, model in settings.models.items()}}
    if settings.model is not None and settings.model not in settings.models:
        found["model"] = under(base, settings.model) or settings.model
    return settings.model_copy(update=found)


def _model_below(base: Path | None, model: ModelDefinition) -> ModelDefinition:
    return model.model_copy(update={"path": under(base, model.path) or model.path})


def applied(given: Mapping[str, Any], look: Callable[[], MachineSummary] = summary.look) -> dict[str, Any]:
    """Settings as they are sent to a running cluster, which was started with what came out of the same names. What is
    not of its form stays, and is refused there. Raises UsageError."""
    usual = {name: field.get_default() for name, field in Settings.model_fields.items()}
    try:
        settings = Settings(**{**usual, **given})
    except ValidationError:
        return dict(given)
    found = resolve(settings, Given(given, environment=False), look)
    values = json.loads(found.settings.to_json())
    changed = [name for name in ("model", "models") if getattr(found.settings, name) != getattr(settings, name)]
    return {**given, **{name: values[name] for name in (*found.by_profile, *changed)}}


def named(
    definition: ModelDefinition, settings: Settings, look: Callable[[], MachineSummary] = summary.look
) -> ModelDefinition:
    """A model as a cluster with ``settings`` serves it, whose path may be a name that a manifest has, or lie below
    ``model_base_path``. Raises UsageError."""
    base = settings.model_base_path
    definition = _model_below(base, definition)
    known = {} if "/" in definition.path else file.entries(settings.manifest)
    if definition.path not in known and definition.profile is None and definition.engine != AUTO:
        return definition
    return _model_below(base, define(definition, known, look(), settings.engine)[0])


def define(
    definition: ModelDefinition, known: Mapping[str, ManifestEntry], machine: MachineSummary, engine: str | None = None
) -> tuple[ModelDefinition, HardwareProfile | None]:
    """A model whose path may be a name in ``known``, with what its profile says, and that profile. ``engine``: what
    the cluster was told to use. An engine that is left to the machine is named. Raises UsageError."""
    found, profile = _with_profile(definition, known, machine, engine)
    if found.engine == AUTO:
        found = found.model_copy(update={"engine": automatic.choose(machine).engine})
    return found, profile


def _with_profile(
    definition: ModelDefinition, known: Mapping[str, ManifestEntry], machine: MachineSummary, engine: str | None
) -> tuple[ModelDefinition, HardwareProfile | None]:
    entry = known.get(definition.path)
    if entry is None:
        if definition.profile is not None:
            raise UsageError(f"profile {definition.profile}: {definition.path!r} is in no manifest", exit_code=2)
        return definition, None
    asked = engine if definition.engine in (None, AUTO) else definition.engine
    profile = choose(definition.path, entry, machine, asked, definition.profile)
    if profile is None:
        return definition.model_copy(update={"path": entry.path}), None
    given = {name: value for name in _SHARED if (value := getattr(definition, name)) not in (None, AUTO)}
    args = with_flags(definition.args, profile)
    return definition.model_copy(update={
        **_shared(profile), **given, "path": profile.path or entry.path, "args": args, "profile": None,
    }), profile  # fmt: skip


def with_flags(given: Sequence[str], profile: HardwareProfile, without: Collection[str] = ()) -> tuple[str, ...]:
    """The engine's flags: those of the profile that were not ``given``, nor are in ``without``, and then those."""
    wanted = {**profile.flags, **_by_flag(profile.args)}
    own = flags.unless_given(given, {flag: values for flag, values in wanted.items() if flag not in without})
    return (*own, *given)


def _limited(settings: Settings) -> set[str]:
    """Flags whose values the file of adapters, or the environment, gives. Raises UsageError."""
    listed = lora_config.read(settings.lora_config) if settings.lora_config else LoraFile()
    listed = lora_config.with_environment(listed, configuration.environment())
    limits = {
        "--max-loras": listed.max_loras, "--max-lora-rank": listed.max_lora_rank,
        "--max-cpu-loras": listed.max_cpu_loras or listed.cache_size,
    }  # fmt: skip
    return {flag for flag, value in limits.items() if value is not None}


def _of_settings(
    settings: Settings, given: Given, entry: ManifestEntry, profile: HardwareProfile | None
) -> dict[str, Any]:
    path = profile.path or entry.path if profile is not None else entry.path
    found: dict[str, Any] = {"model": None if path == DEMO else path}
    if path != DEMO and not settings.served_names:
        found["served_names"] = tuple(dict.fromkeys((str(settings.model), path)))
    if profile is None:
        return found
    found |= {
        name: value for name, value in _shared(profile).items()
        if not given.source(name) or getattr(settings, name) == AUTO
    }  # fmt: skip
    found["profile"] = profile.name
    if (args := with_flags(settings.engine_args, profile, _limited(settings))) != settings.engine_args:
        found["engine_args"] = args
    return found


def _shared(profile: HardwareProfile) -> dict[str, Any]:
    return {name: value for name in _SHARED if (value := getattr(profile, name)) is not None}


def _by_flag(args: Sequence[str]) -> dict[str, list[str]]:
    """Flags with their values, as they were written one after the other."""
    found: dict[str, list[str]] = {}
    flag = ""
    for word in args:
        name, equals, value = word.partition("=")
        if word.startswith("-") and not word[1:].replace(".", "", 1).isdigit():
            flag = name
            found[flag] = [value] if equals else []
        elif flag:
            found[flag].append(word)
    return found
