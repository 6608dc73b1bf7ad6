"""What a configuration names by references, fetched before anything is planned with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.cli.progress import run_job
from config.errors import UsageError
from config.jobs.folder import JobSpec
from config.paths import StateDir
from config.settings import Settings, load
from config.values.references import parse
from worker import fetched

#: By whom those are kept that stand on a command line.
BY_HAND = "lora pull"


def fetch_missing(settings: Settings) -> None:
    """Models and adapters that are not in the state directory; asks nobody for those that are. Raises UsageError."""
    missing = fetched.missing(settings, fetched.named_by(settings))
    for kind in dict.fromkeys(missing.values()):
        failed = fetch(settings, [text for text, what in missing.items() if what == kind], kind)["failed"]
        for text, why in failed.items():
            raise UsageError(why if str(parse(text)) in why else f"{parse(text)}: {why}")


def folder_of(text: str, what: str) -> str:
    """Where it is in the state directory of the settings, fetched if it is not there yet. Raises UsageError."""
    settings = load({})
    try:
        found = fetched.store(settings).find(parse(text), what)
    except ValueError as error:
        raise UsageError(str(error), exit_code=2) from None
    if found is not None:
        return found.folder
    done = fetch(settings, [text], what, kept=BY_HAND)
    for why in done["failed"].values():
        raise UsageError(why)
    return str(done["fetched"][text]["folder"])


def fetch(
    settings: Settings, references: Iterable[str], what: str, *, refresh: bool = False, kept: str = ""
) -> Mapping[str, Any]:
    """The values of the job's result (`worker.sources.job`). Raises UsageError where nothing could be fetched."""
    state = StateDir(settings.state_directory())
    try:
        state.create()
    except OSError as error:
        raise UsageError(f"{state.root}: {error.strerror}") from None
    return run_job(JobSpec("pull", {
        "references": list(references), "store": str(state.sources), "what": what, "refresh": refresh, "kept": kept,
        "hosts": list(settings.source_hosts), "private": settings.source_private,
    }))  # fmt: skip
