"""Is this folder an adapter that every worker will load and that does what it says? Asked before a worker sees it.

Blocking file work: call it through `asyncio.to_thread`. The rules are in `rules` (config), `pairs` (tensors) and
`values` (weights), the base model's shapes in `shapes`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from worker import demo
from worker.adapters.content import FILES, MAX_BYTES, content_hash, hash_streams
from worker.adapters.heads import ClassifierHead, check_head, take_head
from worker.adapters.pairs import Pair, check_targets, pair_up
from worker.adapters.rules import CONFIG, WEIGHTS, AdapterConfig, read_config
from worker.adapters.shapes import BaseShapes, Comparison, compare, read_base
from worker.adapters.targets import EngineSide, check_used
from worker.adapters.tensors import AdapterRejected, Tensor, open_regular, read_header, read_object, shown
from worker.adapters.values import check_values, no_effect

__all__ = [
    "ALLOW_IT", "AdapterFacts", "AdapterRejected", "BaseShapes",
    "content_hash", "inspect", "read_base", "recheck",
]  # fmt: skip

_MAX_CONFIG, _MAX_CONFIG_VALUES = 1 << 20, 50_000  # bytes; some name each module
ALLOW_IT = '--allow-no-effect, or "allow_no_effect": true, loads it all the same'
"""How an adapter without effect is loaded."""

_PICKLES = frozenset({".bin", ".pt", ".pth"})
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+", re.ASCII)
# The same model as far as an adapter's shapes go: QLoRA names the quantised one it was trained on.
_QUANTISED = re.compile(r"(-unsloth)?-(bnb-[48]bit|awq|gptq(-int[48])?|fp8(-dynamic)?|int[48])$")
_NOT_COMPARED = "tensor shapes were not compared: the base model's weights cannot be read here"


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What an adapter is. ``rank``: the highest in it; ``size`` in bytes; ``unchecked``: sentences; ``converted``: what
    was done to what somebody named to make this of it."""

    content_hash: str
    rank: int
    target_modules: tuple[str, ...]
    base_model: str | None
    size: int
    unchecked: tuple[str, ...]
    converted: tuple[str, ...] = ()


def inspect(
    path: Path,
    *,
    base: BaseShapes | None,
    served_names: tuple[str, ...],
    max_rank: int,
    roots: tuple[Path, ...] = (),
    max_bytes: int = MAX_BYTES,
    allow_no_effect: bool = False,
    side: EngineSide | None = None,
) -> AdapterFacts:
    """The facts of the adapter in the folder ``path``, which must lie in one of ``roots`` where there are any.

    ``base``: the served model's shapes, None where they cannot be read; ``served_names``: its names; ``max_rank``:
    the workers' max_lora_rank; ``allow_no_effect``: its matrices may be zero; ``side``: what the engine does with its
    names. Raises AdapterRejected: 404 for what is
    missing, 409 for another base model or files that change meanwhile, 400 for all else that is wrong. OSError where
    reading an open file fails.
    """
    folder = real_folder(path, roots)
    with ExitStack() as stack:
        streams = {name: stack.enter_context(_open(folder, name, roots)) for name in FILES}
        before = _stamps(streams)
        size = sum(os.fstat(stream.fileno()).st_size for stream in streams.values())
        if size > max_bytes:
            raise AdapterRejected(400, f"{path} has {size} bytes, more than the {max_bytes} that are allowed")
        facts, why_no_effect = _facts(streams, size, _Served(base, served_names, max_rank, side or EngineSide()))
        # All was read through the same open files, so what was checked is what was hashed, unless they were written to.
        if _stamps(streams) != before:
            raise AdapterRejected(409, f"the adapter in {path} changed while it was read: try again")
        if why_no_effect and not allow_no_effect:
            raise AdapterRejected(400, f"the adapter in {path} has no effect: {why_no_effect}; {ALLOW_IT}")
        return facts


def recheck(path: Path, base: BaseShapes | None, max_rank: int, side: EngineSide) -> None:
    """Whether workers with other flags would take the adapter in ``path``, which was inspected before, and use all of
    it. Reads no weights. Raises as `inspect`."""
    with ExitStack() as stack:
        streams = {name: stack.enter_context(_open(path, name, ())) for name in FILES}
        _header_facts(streams, _Served(base, (), max_rank, side))


def check_numbers(path: Path) -> None:
    """Raises AdapterRejected 400 where the weights of the adapter in ``path`` are not sound, or not all numbers."""
    with _open(path, WEIGHTS, ()) as stream:
        check_values(stream, read_header(stream, WEIGHTS), WEIGHTS)


@dataclass(frozen=True, slots=True)
class _Served:
    base: BaseShapes | None
    names: tuple[str, ...]
    max_rank: int
    side: EngineSide


@dataclass(frozen=True, slots=True)
class _Header:
    """What an adapter says of itself, checked. ``compared``: modules whose shapes were."""

    config: AdapterConfig
    tensors: Mapping[str, Tensor]
    pairs: list[Pair]
    head: ClassifierHead | None
    compared: int
    unchecked: tuple[str, ...]


def _header_facts(streams: Mapping[str, BinaryIO], served: _Served) -> _Header:
    config = read_config(read_object(streams[CONFIG], CONFIG, _MAX_CONFIG, _MAX_CONFIG_VALUES), served.max_rank)
    tensors = read_header(streams[WEIGHTS], WEIGHTS)
    matrices, head = take_head(tensors, config)
    pairs = pair_up(matrices, config)
    targets, base = check_targets(pairs, config), served.base
    shapes = Comparison(0, (_NOT_COMPARED,)) if base is None else compare(pairs, base, transposed=config.transposed)
    if head is not None and base is not None:
        check_head(head, base, served.side.most_labels)
    modules = () if base is None else (*base.shapes, *base.opaque)
    unused = check_used([pair.module for pair in pairs], shapes.renamed, modules, served.side)
    told = (*shapes.unchecked, *unused, *(text for text in (targets,) if text))
    return _Header(config, tensors, pairs, head, shapes.compared, told)


def _facts(streams: Mapping[str, BinaryIO], size: int, served: _Served) -> tuple[AdapterFacts, str | None]:
    """Also why it has no effect, where it has none."""
    header = _header_facts(streams, served)
    config, pairs = header.config, header.pairs
    another = _other_base(config.base_model, served.names, compared=header.compared > 0)
    filled = check_values(streams[WEIGHTS], header.tensors, WEIGHTS)
    facts = AdapterFacts(
        content_hash=hash_streams(streams),
        rank=config.top_rank,
        target_modules=tuple(sorted({pair.module.rpartition(".")[2] for pair in pairs})),
        base_model=config.base_model,
        size=size,
        unchecked=(*header.unchecked, *(text for text in (another,) if text)),
    )
    return facts, no_effect(pairs, header.head, filled, config)


def allowed_roots(given: tuple[Path, ...]) -> tuple[Path, ...]:
    """Folders, of which one has to hold an adapter; none: it may lie anywhere. Those of the demo model are ours."""
    return (*given, *demo.adapters().values()) if given else ()


def real_folder(path: Path, roots: tuple[Path, ...]) -> Path:
    """``path`` without links. Raises AdapterRejected; where it may not be is said before whether it is there."""
    try:
        folder = path.resolve()
        _check_inside(folder, roots, str(path))
        if not folder.exists():
            raise AdapterRejected(404, f"{path} does not exist")
        if not folder.is_dir():
            raise AdapterRejected(404, f"{path} is no folder")
    except (OSError, RuntimeError, ValueError) as exc:  # a loop of links, a name too long, a zero byte
        raise AdapterRejected(404, f"{shown(str(path))} cannot be found: {_why(exc)}") from None
    return folder


def _check_inside(real: Path, roots: tuple[Path, ...], what: str) -> None:
    if roots and not any(real.is_relative_to(root.resolve()) for root in roots):
        allowed = ", ".join(map(str, roots))
        raise AdapterRejected(400, f"{what} is really {real}, outside of where adapters may come from: {allowed}")


def _open(folder: Path, name: str, roots: tuple[Path, ...]) -> BinaryIO:
    try:
        real = (folder / name).resolve(strict=True)
        _check_inside(real, roots or (_own(folder),), name)
        return open_regular(real)
    except FileNotFoundError:
        raise _missing(folder, name) from None
    except (OSError, RuntimeError) as exc:
        raise AdapterRejected(400, f"{folder / name} cannot be read: {_why(exc)}") from None


def _why(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)


def _own(folder: Path) -> Path:
    """What belongs to ``folder``: in a Hugging Face cache, where a snapshot is links into ``blobs``, the repository."""
    for parent in folder.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return parent.parent
    return folder


def _missing(folder: Path, name: str) -> AdapterRejected:
    if name == WEIGHTS:
        pickles = sorted(file.name for file in folder.glob("*") if file.suffix in _PICKLES)
        if pickles:
            told = f"pickle files are not loaded: convert {pickles[0]} (clusterctl lora convert)"
            return AdapterRejected(400, told)
    return AdapterRejected(404, f"{folder} holds no {name}")


def _stamps(streams: Mapping[str, BinaryIO]) -> list[tuple[int, int, int]]:
    stats = [os.fstat(stream.fileno()) for stream in streams.values()]
    return [(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats]


def _other_base(trained: str | None, served: tuple[str, ...], *, compared: bool) -> str | None:
    """What to say of an adapter that was trained on a model of another name; raises AdapterRejected 409.

    A name alone is weak: folders are moved and models renamed. It decides only where nothing else can, and both are
    names of the hub.
    """
    if trained is None or _last(trained) in {_last(name) for name in served}:
        return None
    known = [name for name in served if _HUB_ID.fullmatch(name)]
    if not compared and known and _HUB_ID.fullmatch(trained):
        told = f"the adapter was trained on {shown(trained)} and the served model is {shown(known[0])}"
        raise AdapterRejected(409, told)
    rest = "its shapes fit" if compared else "whether it fits was not checked"
    return f"the adapter was trained on {shown(trained)}, no name of the served model: {rest}"


def _last(name: str) -> str:
    return _QUANTISED.sub("", name.rstrip("/").rpartition("/")[2].casefold())
