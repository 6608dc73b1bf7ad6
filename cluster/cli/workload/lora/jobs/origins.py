"""Which folder a name or a reference means: of the model that a job reads, and of the adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.cli.common import asking_client
from cluster.cli.workload.models import base_models, distinct
from cluster.client import ClusterError
from cluster.client.results import Model
from cluster.client.status import ClusterModel
from config.disk.absolute import absolute, looks_like_path
from config.errors import UsageError, nearest
from config.values.references import is_reference, parse
from worker.demo import MODEL_NAME as DEMO
from worker.demo import gguf_path, model_path
from worker.sources.selection import ADAPTER, MODEL


@dataclass(frozen=True, slots=True)
class ModelOrigin:
    """``path``: its folder; ``name``: what an adapter says it is for; ``served``: whether a
    cluster serves it by that name."""

    path: str
    name: str
    served: bool = False


def model_of(given: str | None, url: str | None, adapter: str | None = None) -> ModelOrigin:
    """``given``: a folder, a reference (fetched, if it is not here), the name of a model that the cluster serves, or
    ``demo``; None: the one that the cluster serves, or that ``adapter`` belongs to. Raises UsageError, ClusterError."""
    if given is not None and is_reference(given):
        return ModelOrigin(_fetched(given, MODEL), parse(given).name)
    if given is not None and looks_like_path(given):
        path = str(absolute(given))
        return ModelOrigin(path, path)
    cards = _cards(url, needed=given is None)
    bases = base_models(cards)
    parent = next((card.get("parent") for card in cards if card["id"] == adapter), None)
    first = distinct(bases, _managed(url)) if given is None and parent is None and len(bases) > 1 else list(bases)
    name = given or parent or (first[0] if len(first) == 1 else None)
    if name in bases:
        root = str(bases[name].get("root") or name)
        return ModelOrigin(str(model_path()) if root in (DEMO, str(gguf_path())) else root, name, served=True)
    if given is None:
        raise UsageError(f"--model is needed: the cluster serves {', '.join(first) or 'none'}", exit_code=2)
    if given == DEMO:
        return ModelOrigin(str(model_path()), DEMO)
    raise UsageError(f"no model {given!r}{nearest(given, bases)}: a folder, or a name that the cluster serves", 2)


def weights_of(origin: ModelOrigin) -> ModelOrigin:
    """``origin``, for a job that reads its weights. Raises UsageError for what has only rounded ones."""
    if origin.path.endswith(".gguf"):
        raise UsageError(
            f"{origin.name} is served from a GGUF file, whose weights are rounded: --model FOLDER names the model that "
            "it was made of"
        )
    return origin


def adapter_of(given: str, url: str | None) -> Path:
    """The folder ``given``, that of a reference (fetched, if it is not here), or that of the version of the adapter
    ``given`` that the cluster serves. Raises UsageError, ClusterError."""
    if is_reference(given):
        return Path(_fetched(given, ADAPTER))
    if looks_like_path(given):
        if not (folder := absolute(given)).exists():
            raise UsageError(f"{folder}: no such folder")
        return folder
    cards = {card["id"]: card for card in _cards(url, needed=True) if card.get("parent") is not None}
    if given not in cards:
        raise UsageError(f"no adapter {given!r}{nearest(given, cards)}, and no folder of that name", exit_code=2)
    folder = Path(str(cards[given].get("root") or ""))
    if not folder.is_absolute() or not folder.is_dir():
        raise UsageError(f"{given} lies on another machine than this one: name a folder")
    return folder


def title_of(given: str) -> str:
    """What `adapter_of` is called, without where it lies."""
    if is_reference(given):
        return parse(given).name.rpartition("/")[2]
    return Path(given).name if looks_like_path(given) else given


def _fetched(text: str, what: str) -> str:
    from cluster.cli.lifecycle.fetching import folder_of  # it reads settings: not for every start of the command line

    return folder_of(text, what)


def _cards(url: str | None, *, needed: bool) -> list[Model]:
    try:
        with asking_client(url) as cluster:
            return cluster.models()
    except ClusterError:
        if needed:
            raise
        return []


def _managed(url: str | None) -> list[ClusterModel]:
    """None where the key may not see them."""
    try:
        with asking_client(url) as cluster:
            return cluster.cluster_models()
    except ClusterError:
        return []
