"""Paths that people write, made absolute once, where they are read: who uses them later may run in another folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from config.errors import UsageError
from config.models import DEMO, ModelDefinition

#: Settings that are a path, and those that hold some (docs/decisions/0034).
SINGLE = (
    "state_dir", "lora_config", "backend_key_file", "api_keys", "tls_cert", "tls_key", "tls_client_ca", "env_file",
    "manifest", "model_base_path", "worker_log_config",
)  # fmt: skip
SETTINGS = (*SINGLE, "adapter_root", "lora", "model", "models")


def here() -> Path:
    """The folder that relative paths begin in. Raises UsageError where it is gone."""
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(f"the working directory: {error.strerror}; change to one that exists", exit_code=2) from None


def absolute(path: str | Path, base: Path | None = None) -> Path:
    """``path`` with ``~`` resolved; a relative one begins at ``base``, by default where we are. Raises ValueError for
    what is no path, UsageError where we are nowhere."""
    if not str(path) or "\0" in str(path):
        raise ValueError("a path is needed, not " + ("an empty text" if not str(path) else f"{str(path)!r}"))
    try:
        found = Path(path).expanduser()
    except RuntimeError as error:  # ~nobody, or no home at all
        raise ValueError(f"{path}: {error}") from None
    return found if found.is_absolute() else (base or here()) / found


def looks_like_path(model: str, base: Path | None = None) -> bool:
    """Everything else is a hub id and the engine's business."""
    if model.startswith(("/", "./", "../", "~")) or model in (".", ".."):
        return True
    try:
        return bool(model) and ((base or Path()) / model).exists()
    except (OSError, ValueError):
        return False


def under(folder: Path | None, model: str) -> str | None:
    """Where ``model``, a relative path, is below ``folder``, if it is. What begins with a dot is meant from here."""
    if folder is None or model.startswith(("/", ".", "~")) or ".." in model.split("/"):
        return None
    try:
        return str(folder / model) if model and (folder / model).exists() else None
    except (OSError, ValueError):
        return None


def relative(name: str, value: Any) -> str | None:
    """A path in the value of the setting ``name`` that is not absolute, if there is one."""
    paths: list[Any] = [value] if name in SINGLE else []
    if name == "adapter_root":
        paths = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    elif name == "model" and isinstance(value, str) and value.startswith(("./", "../")):
        paths = [value]
    texts = [path.strip() for path in paths if isinstance(path, str)]
    return next((text for text in texts if text and not text.startswith(("/", "~"))), None)


def setting(name: str, value: Any, base: Path | None = None) -> Any:
    """The value of the setting ``name`` with its paths absolute. What is not of its form goes as it is: the settings
    say what is wrong with it. Raises ValueError and UsageError as `absolute`."""
    if name in SINGLE and isinstance(value, str | os.PathLike):
        return absolute(Path(value) if value else "", base)
    if name == "model" and isinstance(value, str) and looks_like_path(value, base):
        return str(absolute(value, base))
    if name == "adapter_root" and isinstance(value, str | list | tuple):
        folders = [v.strip() for v in value.split(",") if v.strip()] if isinstance(value, str) else value
        return tuple(absolute(v, base) if isinstance(v, str | Path) else v for v in folders)
    if name == "lora" and isinstance(value, dict):
        return {key: _of_adapter(key, v, base) for key, v in value.items()}
    if name == "lora" and isinstance(value, list | tuple):
        parts = [str(pair).partition("=") for pair in value]
        return [f"{key}{equals}{_of_adapter(key, path, base)}" for key, equals, path in parts]
    if name == "models" and isinstance(value, dict):
        return {key: of_model(what, base) if isinstance(what, ModelDefinition) else what for key, what in value.items()}
    return value


def of_model(model: ModelDefinition, base: Path | None = None) -> ModelDefinition:
    """With its paths absolute. Raises ValueError and UsageError as `absolute`."""
    adapters = {key: str(_of_adapter(key, path, base)) for key, path in model.adapters.items()}
    path = model.path if model.path == DEMO else str(setting("model", model.path, base))
    return model.model_copy(update={"path": path, "adapters": adapters})


def _of_adapter(name: str, path: Any, base: Path | None) -> Any:
    if not path or not isinstance(path, str):
        return path
    try:
        return str(absolute(path, base))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
