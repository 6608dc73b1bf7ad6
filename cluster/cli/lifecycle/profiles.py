"""`model profiles`: how a model that a manifest knows would be served here, and why. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.cli.render import say, say_json
from config.errors import UsageError, nearest

if TYPE_CHECKING:
    from cluster.deployment.profiles.choice import ProfileVerdict
    from config.manifests.schema import ManifestEntry


@click.command("profiles")
@click.argument("name", required=False)
@click.option("--engine", help="As for `up`: profiles of other engines do not fit.")
@click.option("--profile", help="As for `up`: this one is taken.")
@click.option("--manifest", type=click.Path(path_type=Path), metavar="FILE", help="More models known by name.")
@click.option("--config", type=click.Path(path_type=Path), help="A YAML file with settings.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def profiles_command(
    name: str | None, engine: str | None, profile: str | None, manifest: Path | None, config: Path | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Say which profile of the model NAME fits this machine, and of each why or why not; without NAME, list the models
    that are known by name.

    Exit code 1 where none fits."""
    # Not above: the other commands of the group only ask a cluster.
    from cluster.deployment.profiles import summary
    from cluster.deployment.profiles.choice import choose, judge
    from config import settings as configuration
    from config.manifests import file

    flags = {key: value for key, value in (("engine", engine), ("manifest", manifest)) if value is not None}
    settings, given = configuration.load_with_sources(flags, config)
    known = file.entries(settings.manifest)
    if name is None:
        _list(known, as_json)
        return 0
    if name not in known:
        raise UsageError(f"no manifest has a model {name!r}{nearest(name, known)}", exit_code=2)
    machine = summary.look()
    asked = settings.engine if given.source("engine") and settings.engine != "auto" else None
    entry, why = known[name], ""
    try:
        chosen = choose(name, entry, machine, asked, profile)
    except UsageError as error:
        if error.exit_code != 1:
            raise
        chosen, why = None, str(error)
    verdicts = judge(entry, machine, asked)
    taken = chosen.name if chosen is not None else None
    if as_json:
        say_json({
            "model": name, "path": entry.path, "machine": str(machine), "chosen": taken,
            "forced": profile is not None, "profiles": [_shown(verdict) for verdict in verdicts],
        })  # fmt: skip
    else:
        say(f"{name}: {entry.description or entry.path}; this machine: {machine}")
        for verdict in verdicts:
            say(_line(verdict, taken))
        if not why and chosen is None:
            say("no profile is for that engine: the model is served with the cluster's own settings")
    if why:
        say(f"error: {why}", err=True)
    return 1 if why else 0


def _list(known: Mapping[str, ManifestEntry], as_json: bool) -> None:
    if as_json:
        found = {name: {"path": one.path, "description": one.description} for name, one in known.items()}
        say_json(found)
        return
    for name, one in known.items():
        say(f"{name}: {one.description or one.path}")


def _shown(verdict: ProfileVerdict) -> dict[str, Any]:
    profile = verdict.profile.model_dump(mode="json", exclude_defaults=True)
    return {"name": verdict.profile.name, "fits": verdict.fits, "needs": list(verdict.lacking), "profile": profile}


def _line(verdict: ProfileVerdict, taken: str | None) -> str:
    profile = verdict.profile
    mark = "*" if profile.name == taken else " "
    words = [f"engine {profile.engine}"]
    if profile.tensor_parallel_size > 1:
        words.append(f"over {profile.tensor_parallel_size} GPUs")
    words += [" ".join((flag, *values)) for flag, values in profile.flags.items()]
    words += [" ".join(profile.args)] if profile.args else []
    verdict_text = "fits" if verdict.fits else f"would need {' and '.join(verdict.lacking)}"
    return f"{mark} {profile.name}: {verdict_text} ({', '.join(words)})"
