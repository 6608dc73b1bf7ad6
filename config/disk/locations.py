"""The settings that are paths, or hold some, made absolute (`config.disk.absolute`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from config.disk.absolute import absolute, looks_like_path
from config.models import DEMO, ModelDefinition
from config.values.references import is_reference

#: Settings that are a path, and those that hold some (docs/decisions/0034).
SINGLE = (
    "state_dir", "lora_config", "backend_key_file", "api_keys", "tls_cert", "tls_key", "tls_client_ca", "env_file",
    "manifest", "model_base_path", "worker_log_config", "agent_key_file",
)  # fmt: skip
SETTINGS = (*SINGLE, "adapter_root", "backend_discovery", "lora", "model", "models")

#: What begins a path in `backend_discovery`.
_FILE = "file:"


def relative(name: str, value: Any) -> str | None:
    """A path in the value of the setting ``name`` that is not absolute, if there is one."""
    paths: list[Any] = [value] if name in SINGLE else []
    if name == "adapter_root":
        paths = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    elif name == "backend_discovery":
        places = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
        paths = [str(one).strip().removeprefix(_FILE) for one in places if str(one).strip().startswith(_FILE)]
    elif name == "model" and isinstance(value, str) and value.startswith(("./", "../")):
        paths = [value]
    texts = [path.strip() for path in paths if isinstance(path, str)]
    return next((text for text in texts if text and not text.startswith(("/", "~"))), None)


def setting(name: str, value: Any, base: Path | None = None) -> Any:
    """The value of the setting ``name`` with its paths absolute. What is not of its form goes as it is: the settings
    say what is wrong with it. Raises ValueError and UsageError as `absolute`."""
    if name in SINGLE and isinstance(value, str | os.PathLike):
        return absolute(Path(value) if value else "", base)
    if name == "model" and (value == DEMO or is_reference(str(value))):
        return value  # whatever is called so here
    if name == "model" and isinstance(value, str) and looks_like_path(value, base):
        return str(absolute(value, base))
    if name == "adapter_root" and isinstance(value, str | list | tuple):
        folders = [v.strip() for v in value.split(",") if v.strip()] if isinstance(value, str) else value
        return tuple(absolute(v, base) if isinstance(v, str | Path) else v for v in folders)
    if name == "backend_discovery" and isinstance(value, list | tuple):
        return tuple(
            f"{_FILE}{absolute(Path(one.removeprefix(_FILE)), base)}" if one.startswith(_FILE) else one for one in value
        )
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
    path = str(setting("model", model.path, base))
    return model.model_copy(update={"path": path, "adapters": adapters})


def _of_adapter(name: str, path: Any, base: Path | None) -> Any:
    if not path or not isinstance(path, str) or is_reference(path):
        return path
    try:
        return str(absolute(path, base))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
