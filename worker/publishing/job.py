"""The job ``push``: an adapter or a model, with a card, to where a reference says."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config import bounded
from config.model_names import NAME
from config.values.references import SCHEMES, Reference, is_reference, parse
from worker.jobs import output
from worker.jobs.arguments import check_types
from worker.jobs.job import Job, JobFailed
from worker.publishing.card import card
from worker.publishing.destinations import BucketDestination, Destination, HubDestination, ModelScopeDestination
from worker.sources.discreet import discreet
from worker.sources.remote import retried

ADAPTER, MODEL, _REPORT, _PLOT = "adapter_config.json", "config.json", "report.json", "loss.png"

#: Of an adapter; of a model all with these endings. No code, no checkpoints, no reports with paths of this machine.
_OF_AN_ADAPTER = (ADAPTER, "adapter_model.safetensors", _PLOT)
_OF_A_MODEL = (".json", ".safetensors", ".jinja", ".txt", ".model", ".tiktoken")

_MOST_JSON = 1 << 24

_SENT_TO = ("hf", "ms", "s3")


def check(arguments: Mapping[str, Any]) -> None:
    """Raises JobFailed 400."""
    check_types(arguments, {"folder": str, "destination": str, "name": str}, {
        "base": str, "public": bool, "overwrite": bool,
    })  # fmt: skip
    if not NAME.fullmatch(arguments["name"]):
        raise JobFailed(f"name: {arguments['name'][:100]!r} is no name of an adapter", 400)
    if is_reference(arguments["destination"]):
        _parsed(arguments["destination"])


def run(arguments: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
    """``arguments``: ``folder``, ``destination``, ``name``, ``base`` (what the card and the adapter name as its base
    model; by default what it was trained on), ``public``, ``overwrite`` (a folder). Raises JobFailed, OSError."""
    check(arguments)
    source, text = Path(arguments["folder"]), str(arguments["destination"])
    staged = output.empty(job.folder / "staged") / str(arguments["name"])
    staged.mkdir()
    _stage(source, staged, arguments, job)
    total = sum(file.stat().st_size for file in staged.iterdir())
    files = sorted(file.name for file in staged.iterdir())
    if not is_reference(text):
        where = _copied(staged, Path(text), bool(arguments.get("overwrite")), total)
    else:
        where = _sent(staged, text, bool(arguments.get("public")), total, job)
    return {"destination": where, "files": files, "bytes": total}


def _sent(staged: Path, text: str, public: bool, total: int, job: Job) -> str:
    destination = _destination(_parsed(text), public)
    done = 0

    def sent(size: int) -> None:
        nonlocal done
        done = min(total, done + size)
        job.progress("push", done, total, "bytes")

    job.progress("push", 0, total, "bytes")
    try:
        return retried(lambda: destination.send(staged, sent), time.sleep, job.note)
    except JobFailed as error:
        raise JobFailed(discreet(str(error)), error.status) from None


def _parsed(text: str) -> Reference:
    """Raises JobFailed 400."""
    try:
        found = parse(text)
    except ValueError as error:
        raise JobFailed(str(error), 400) from None
    if found.scheme not in _SENT_TO:
        there = ", ".join(SCHEMES[scheme] for scheme in _SENT_TO)
        raise JobFailed(f"nothing can be sent to {found}: {there}, or a folder", 400)
    return found


def _destination(reference: Reference, public: bool) -> Destination:
    """By its scheme. Raises JobFailed 400, which says what to install."""
    match reference.scheme:
        case "hf":
            return HubDestination(reference, public)
        case "ms":
            return ModelScopeDestination(reference, public)
    return BucketDestination(reference)


def _copied(staged: Path, out: Path, overwrite: bool, total: int) -> str:
    output.check(out, overwrite, ADAPTER if (staged / ADAPTER).exists() else MODEL)
    output.need_room(out, total)
    with output.making(out) as made:
        shutil.copytree(staged, made, dirs_exist_ok=True)
    return str(out)


def _stage(source: Path, staged: Path, arguments: Mapping[str, Any], job: Job) -> None:
    """Fills the folder ``staged``. Raises JobFailed."""
    config = _json(source / ADAPTER)
    whole = config is None
    if whole and not (source / MODEL).is_file():
        raise JobFailed(f"{source} is neither an adapter's folder ({ADAPTER}) nor a model's ({MODEL})", 400)
    for file in source.iterdir():
        wanted = file.suffix in _OF_A_MODEL and file.name != _REPORT if whole else file.name in _OF_AN_ADAPTER
        if wanted and file.is_file():
            (staged / file.name).symlink_to(file.resolve())
    base = str(arguments.get("base") or (config or {}).get("base_model_name_or_path") or "")
    if base.startswith("/"):
        job.note(f"the base model is named {Path(base).name}, without the path on this machine; --base-model names it")
        base = Path(base).name
    if config is not None:
        (staged / ADAPTER).unlink()
        (staged / ADAPTER).write_text(json.dumps({**config, "base_model_name_or_path": base}, indent=2))
    text = card(str(arguments["name"]), base, config, _json(source / _REPORT))
    (staged / "README.md").write_text(text)


def _json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is no such file. Raises JobFailed."""
    try:
        return bounded.read_object(path, _MOST_JSON)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise JobFailed(f"{path}: {error}", 400) from None
