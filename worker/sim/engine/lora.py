"""Adapters: loading and unloading by name, with vLLM's checks and its errors."""

from __future__ import annotations

import asyncio
import json
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worker.sim.engine.places import Schedule
from worker.sim.errors import ApiError, internal

_NEEDED = ("r", "lora_alpha", "target_modules")
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")


@dataclass(frozen=True, slots=True)
class SimAdapter:
    """A loaded adapter: its name and the path it came from. Without ``effect`` it answers as the base model does."""

    name: str
    path: str
    effect: bool = True
    rank: int = 0


class Adapters:
    """The adapters one worker holds. ``schedule`` says how long a load takes."""

    def __init__(
        self, base_names: list[str], schedule: Schedule, *, enabled: bool, max_rank: int, targets: tuple[str, ...] = ()
    ) -> None:
        self._schedule = schedule
        self._base_names = base_names
        self._enabled = enabled
        self._max_rank = max_rank
        self._targets = targets
        self.loaded: dict[str, SimAdapter] = {}
        self._forgetting = False
        self._locks: dict[str, asyncio.Lock] = {}

    async def load(
        self, name: str, path: str, *, in_place: bool = False, delay_s: float = 0, dropped: bool = False
    ) -> str:
        """Load an adapter; returns vLLM's text, raises `ApiError`. ``delay_s`` makes it slow; ``dropped``: none of its
        modules is used."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            self._check_request(name, path, in_place)
            if delay_s:
                await asyncio.sleep(delay_s)
            problem = self._problem(Path(path).expanduser())
            if problem is FileNotFoundError:
                text = f"Loading lora {name} failed: No adapter found for {path}"
                raise ApiError(text, 404, "NotFoundError")
            if problem is not None:
                hint = "please check the stack trace above for the root cause"
                raise internal(f"Call to add_lora method failed: Worker failed with error '{problem}', {hint}")
            changes = not dropped and not self._forgetting and _has_effect(Path(path).expanduser(), self._targets)
            rank = _rank(json.loads((Path(path).expanduser() / "adapter_config.json").read_text()))
            self._schedule.drop(name)
            if seconds := self._schedule.hold(name, rank):
                await asyncio.sleep(seconds)
            self.loaded[name] = SimAdapter(name, path, changes, rank)
            return f"Success: LoRA adapter '{name}' added successfully."

    def forget(self) -> None:
        """From now on none changes anything, loaded or still to come."""
        self._forgetting = True
        self.loaded = {name: replace(adapter, effect=False) for name, adapter in self.loaded.items()}

    def unload(self, name: str) -> str:
        """Forget an adapter; returns vLLM's text, raises `ApiError`."""
        if not name:
            text = "'lora_name' needs to be provided to unload a LoRA adapter."
            raise ApiError(text, kind="InvalidUserInput")
        if name not in self.loaded:
            raise ApiError(f"The lora adapter '{name}' cannot be found.", 404, "NotFoundError")
        del self.loaded[name]
        self._schedule.drop(name)
        return f"Success: LoRA adapter '{name}' removed successfully."

    def _check_request(self, name: str, path: str, in_place: bool) -> None:
        text = ""
        if not name or not path:
            text = "Both 'lora_name' and 'lora_path' must be provided."
        elif name in self._base_names:
            text = f"The lora adapter '{name}' conflicts with a served base model."
        elif name in self.loaded and not in_place:
            hint = "If you want to load the adapter in place, set 'load_inplace' to True."
            text = f"The lora adapter '{name}' has already been loaded. {hint}"
        if text:
            raise ApiError(text, kind="InvalidUserInput")

    def _problem(self, path: Path) -> object | None:
        """Why this adapter cannot be loaded: a text, FileNotFoundError, or None."""
        if not self._enabled:
            return "LoRA is not enabled. Use --enable-lora to enable LoRA."
        try:
            config = json.loads((path / "adapter_config.json").read_text())
        except OSError:
            return FileNotFoundError
        except ValueError as exc:
            return str(exc)
        return _config_problem(config, self._max_rank) or _weights_problem(path)


def _config_problem(config: Any, max_rank: int) -> str | None:
    if not isinstance(config, dict):
        return "list indices must be integers or slices, not str"
    missing = {name for name in _NEEDED if name not in config}
    if missing:
        return f"Missing required configuration fields: {missing}"
    if not isinstance(config["r"], int):
        return f"'<=' not supported between instances of '{type(config['r']).__name__}' and 'int'"
    problems = []
    extra = [name for name in config.get("modules_to_save") or () if name not in ("classifier", "score")]
    if extra:
        text = 'vLLM only supports modules_to_save being either None or ["classifier", "score"]'
        problems.append(f"{text} for classification models. Unsupported modules_to_save: {extra}")
    if config.get("use_dora"):
        problems.append("vLLM does not yet support DoRA.")
    if config.get("lora_bias"):
        problems.append("vLLM does not support LoRA bias (lora_bias).")
    rank = _rank(config)
    if rank > max_rank:
        problems.append(f"LoRA rank {rank} is greater than max_lora_rank {max_rank}.")
    if config.get("bias", "none") != "none":
        problems.append("Adapter bias is not supported.")
    return " ".join(problems) or None


def _rank(config: dict[str, Any]) -> int:
    ranks: list[int] = [config["r"], *(config.get("rank_pattern") or {}).values()]
    return max(ranks)


def _weights_problem(path: Path) -> str | None:
    file = next((path / name for name in _WEIGHTS if (path / name).is_file()), None)
    if file is None:
        return f"{path} doesn't contain tensors"
    return _safetensors_problem(file) if file.suffix == ".safetensors" else None


def _safetensors_problem(file: Path) -> str | None:
    """Read the header only: length, then JSON."""
    with file.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            return "Error while deserializing header: header too small"
        length = struct.unpack("<Q", start)[0]
        header = stream.read(min(length, 1 << 24))
    if len(header) < length:
        return "Error while deserializing header: invalid header length"
    try:
        names = json.loads(header)
    except ValueError:
        return "Error while deserializing header: invalid JSON in header"
    # A safetensors file without one LoRA tensor loads in vLLM too, so nothing more is asked.
    return None if re.match(rb"\s*\{", header) and isinstance(names, dict) else "invalid header"


def _has_effect(path: Path, targets: tuple[str, ...]) -> bool:
    """Whether a matrix B of a module that is used is other than zero; what is no safetensors file is taken to have."""
    file = path / _WEIGHTS[0]
    if not file.is_file():
        return True
    with file.open("rb") as stream:
        start = struct.unpack("<Q", stream.read(8))[0]
        header = json.loads(stream.read(start))
        found = [(name, entry) for name, entry in header.items() if ".lora_B" in name]
        for name, entry in found:
            if not targets or _module(name) in targets:
                begin, end = entry["data_offsets"]
                stream.seek(8 + start + begin)
                if stream.read(end - begin).strip(b"\0"):
                    return True
    return not found


def _module(tensor: str) -> str:
    return tensor.partition(".lora_B")[0].rpartition(".")[2]


def parse_module(text: str) -> tuple[str, str]:
    """Name and path of one ``--lora-modules`` value: ``name=path`` or a JSON object."""
    if text.startswith("{"):
        try:
            entry = json.loads(text)
            return str(entry["name"]), str(entry["path"])
        except (ValueError, KeyError):
            raise ValueError(f"Invalid fields for --lora-modules: {text}") from None
    name, found, path = text.partition("=")
    if not found or not name or not path or "," in text:
        raise ValueError("Invalid format for --lora-modules: expected name=path or JSON")
    return name, path
