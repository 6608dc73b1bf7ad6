"""The file of `up --lora-config`, and the environment that wins over it; nobody else reads either.

Two forms: YAML with ``base_model``, ``lora_adapters``, ``lora_settings`` and ``auto_load``, and JSON that maps names
to paths. Whether the paths hold adapters is not asked here.
"""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import bounded
from config.disk.absolute import looks_like_path
from config.errors import UsageError, nearest
from config.model_names import NAME
from config.sources.yaml_file import read_document
from config.values.references import is_reference, parse

#: All of them are one thing: a PEFT folder with safetensors in it.
FORMATS = ("safetensors", "peft", "huggingface")

#: Characters of what somebody says of an adapter.
DESCRIPTION = 256

#: What each variable sets; of two that mean the same, the later wins.
ENVIRONMENT = (
    ("VLLM_MAX_LORA_RANK", "max_lora_rank"),
    ("MIM_MAX_GPU_LORAS", "max_loras"),
    ("VLLM_MAX_LORAS", "max_loras"),
    ("MIM_MAX_CPU_LORAS", "max_cpu_loras"),
)

_SECTIONS = ("base_model", "lora_adapters", "lora_settings", "auto_load")
_BASE = ("model_path", "model_name")
_ADAPTER = ("name", "path", "format", "description")
_SETTINGS = ("max_lora_rank", "max_loras", "enable_dynamic_loading", "cache_size")


@dataclass(frozen=True, slots=True)
class LoraEntry:
    """One adapter. ``path`` is absolute, or a reference (`config.values.references`); one that is not ``auto_load`` is
    only registered."""

    name: str
    path: str
    description: str | None = None
    auto_load: bool = True


@dataclass(frozen=True, slots=True)
class LoraFile:
    """What a file asks for; None where it says nothing. ``base_model`` is an absolute path or a hub id."""

    entries: tuple[LoraEntry, ...] = ()
    base_model: str | None = None
    served_name: str | None = None
    max_lora_rank: int | None = None
    max_loras: int | None = None
    max_cpu_loras: int | None = None
    dynamic_loading: bool = True
    cache_size: int | None = None


def read(path: Path) -> LoraFile:
    """Raises UsageError with one line that names the file, the key and what is wrong with it."""
    path = path.expanduser().absolute()
    if path.suffix == ".json":
        return _flat(path, _json(path, bounded.read_given(path)))
    return _sections(path, read_document(path))


def with_environment(file: LoraFile, environ: Mapping[str, str]) -> LoraFile:
    """``file`` with the limits that ``environ`` sets. Raises UsageError for one that is no positive whole number."""
    found: dict[str, Any] = {}
    for variable, field in ENVIRONMENT:
        text = environ.get(variable)
        if not text:
            continue
        if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text.strip()):
            raise UsageError(
                f"environment {variable}: a whole number from 1 is needed, not {_shown(text)}", exit_code=2
            )
        found[field] = int(text)
    return dataclasses.replace(file, **found)


def _json(path: Path, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise _wrong(path, f"{_shown(key)} is given twice")
            result[key] = value
        return result

    try:
        return bounded.parse_json(text.encode(), bounded.SETTINGS_NODES, once)
    except bounded.Unfit as error:
        raise _wrong(path, str(error)) from None
    except json.JSONDecodeError as error:
        raise _wrong(f"{path}, line {error.lineno}", error.msg) from None
    except ValueError as error:  # such as a number with more digits than Python reads
        raise _wrong(path, _line(error)) from None


def _flat(path: Path, data: Any) -> LoraFile:
    """``{"name": "path"}``."""
    if not isinstance(data, dict):
        raise _wrong(path, 'an object such as {"name": "/path"} is needed')
    entries = tuple(
        LoraEntry(_name(path, "adapter", name), _folder(path, _shown(name), value)) for name, value in data.items()
    )
    return LoraFile(entries)


def _sections(path: Path, data: Any) -> LoraFile:
    data = _mapping(path, "", data, _SECTIONS)
    base = _mapping(path, "base_model", data.get("base_model"), _BASE)
    limits = _mapping(path, "lora_settings", data.get("lora_settings"), _SETTINGS)
    listed = _list(path, "lora_adapters", data.get("lora_adapters"))
    entries = [_entry(path, f"lora_adapters[{number}]", item) for number, item in enumerate(listed)]
    names = [entry.name for entry in entries]
    _once(path, "lora_adapters", names)
    automatic = set(_automatic(path, data["auto_load"], names) if "auto_load" in data else names)
    model = _optional_text(path, "base_model.model_path", base.get("model_path"))
    return LoraFile(
        entries=tuple(dataclasses.replace(entry, auto_load=entry.name in automatic) for entry in entries),
        base_model=model and _model(path, model),
        served_name=_optional_text(path, "base_model.model_name", base.get("model_name")),
        max_lora_rank=_positive(path, "max_lora_rank", limits),
        max_loras=_positive(path, "max_loras", limits),
        dynamic_loading=_switch(path, "enable_dynamic_loading", limits),
        cache_size=_positive(path, "cache_size", limits),
    )


def _entry(path: Path, where: str, item: Any) -> LoraEntry:
    item = _mapping(path, where, item, _ADAPTER)
    for key in ("name", "path"):
        if item.get(key) is None:
            raise _wrong(path, f"{where}: {key} is missing")
    form = item.get("format", FORMATS[0])
    if form not in FORMATS:
        hint = nearest(str(form), FORMATS)
        raise _wrong(path, f"{where}.format: {_shown(form)} is none of {', '.join(FORMATS)}{hint}")
    description = item.get("description")
    if description is not None and not isinstance(description, str):
        raise _wrong(path, f"{where}.description: text is needed, not {_shown(description)}")
    if description is not None and len(description) > DESCRIPTION:
        raise _wrong(path, f"{where}.description: {len(description)} characters, and at most {DESCRIPTION} are kept")
    return LoraEntry(
        _name(path, f"{where}.name", item["name"]), _folder(path, f"{where}.path", item["path"]), description
    )


def _automatic(path: Path, value: Any, listed: list[str]) -> list[str]:
    names = [_name(path, "auto_load", name) for name in _list(path, "auto_load", value)]
    _once(path, "auto_load", names)
    for name in names:
        if name not in listed:
            raise _wrong(path, f"auto_load: no adapter {name!r} in lora_adapters{nearest(name, listed)}")
    return names


def _mapping(path: Path, where: str, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """``value`` as a mapping with ``known`` keys only; nothing is an empty one."""
    prefix = f"{where}: " if where else ""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(path, f"{prefix}'key: value' lines are needed, not {_shown(value)}")
    for key in value:
        if key not in known:
            raise _wrong(path, f"{prefix}unknown key {_shown(key)}{nearest(str(key), known)}")
    return value


def _list(path: Path, where: str, value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong(path, f"{where}: a list is needed, not {_shown(value)}")
    return value


def _once(path: Path, where: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _wrong(path, f"{where}: {name!r} is given twice")
        seen.add(name)


def _name(path: Path, where: str, value: Any) -> str:
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    quotes = "" if isinstance(value, str | dict | list) else " (quotes make it text)"
    shown = _shown(value)
    raise _wrong(path, f"{where}: {shown} is no adapter name: [A-Za-z0-9._-], 1 to 128 characters{quotes}")


def _optional_text(path: Path, where: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    raise _wrong(path, f"{where}: text is needed, not {_shown(value)}")


def _folder(path: Path, where: str, value: Any) -> str:
    """An adapter's path, absolute; a relative one begins where the file is. A reference stays one."""
    text = _optional_text(path, where, value)
    if text is None or "\0" in text:
        raise _wrong(path, f"{where}: a path is needed, not {_shown(value)}")
    try:
        if is_reference(text):
            parse(text)
            return text
        return str(path.parent / Path(text).expanduser())
    except (RuntimeError, ValueError) as error:
        raise _wrong(path, f"{where}: {_line(error)}") from None


def _model(path: Path, text: str) -> str:
    """A path as an absolute one; what neither looks like a path nor exists is a hub id and stays as it is."""
    folder = _folder(path, "base_model.model_path", text)
    return folder if looks_like_path(text, path.parent) else text


def _positive(path: Path, key: str, limits: Mapping[str, Any]) -> int | None:
    value = limits.get(key)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9:
        return value
    raise _wrong(path, f"lora_settings.{key}: a whole number from 1 is needed, not {_shown(value)}")


def _switch(path: Path, key: str, limits: Mapping[str, Any]) -> bool:
    value = limits.get(key, True)
    if isinstance(value, bool):
        return value
    raise _wrong(path, f"lora_settings.{key}: true or false is needed, not {_shown(value)}")


def _shown(value: Any) -> str:
    """``value`` for a message: short, and on one line."""
    if isinstance(value, list | dict | tuple | set):
        return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else "a collection"
    return reprlib.repr(value)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _wrong(where: object, what: str) -> UsageError:
    return UsageError(f"{where}: {what}", exit_code=2)
